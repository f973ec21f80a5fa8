"""What this process may use: limits read from a made-up root folder, and which of them wins."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mi_duck.resources import GIB, Bound, memory_bounds, memory_budget, usable_cores

MIB = 1 << 20
UNLIMITED_V1 = "9223372036854771712\n"


def system(root: Path, files: dict[str, str | bytes]) -> Path:
    """Write the files of a made-up system; return its root."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def found(root: Path, environment: dict[str, str] | None = None) -> dict[str, int]:
    """Return the bounds beside those of the real machine."""
    bounds = memory_bounds(root=root, environment=environment or {})
    return {
        bound.source: bound.available_bytes
        for bound in bounds
        if bound.source not in ("memory of the machine", "RLIMIT_AS")
    }


def test_memory_bounds__always_know_the_machine(tmp_path: Path) -> None:
    machine, *others = memory_bounds(root=tmp_path, environment={})
    assert machine.source == "memory of the machine"
    assert machine.available_bytes > 0
    assert all(bound.source == "RLIMIT_AS" for bound in others)


def test_control_groups__version_2(tmp_path: Path) -> None:
    root = system(
        tmp_path,
        {
            "proc/self/cgroup": "0::/job\n",
            "sys/fs/cgroup/job/memory.max": f"{100 * MIB}\n",
            "sys/fs/cgroup/job/memory.current": f"{60 * MIB}\n",
            "sys/fs/cgroup/job/memory.stat": f"anon {30 * MIB}\nfile 1\ninactive_file {20 * MIB}\nactive_file 5\n",
        },
    )
    # of 60 used, 20 are file pages that the kernel gives back at once
    assert found(root) == {"control group /job (memory.max)": 60 * MIB}


def test_control_groups__version_1(tmp_path: Path) -> None:
    root = system(
        tmp_path,
        {
            "proc/self/cgroup": "9:cpu,cpuacct:/other\n5:memory:/slurm/job_1\n1:name=systemd:/x\n",
            "sys/fs/cgroup/memory/slurm/job_1/memory.limit_in_bytes": f"{100 * MIB}\n",
            "sys/fs/cgroup/memory/slurm/job_1/memory.usage_in_bytes": f"{60 * MIB}\n",
            "sys/fs/cgroup/memory/slurm/job_1/memory.stat": f"inactive_file 1\ntotal_inactive_file {20 * MIB}\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED_V1,
            "sys/fs/cgroup/cpu,cpuacct/other/memory.limit_in_bytes": "1\n",
        },
    )
    assert found(root) == {"control group /slurm/job_1 (memory.limit_in_bytes)": 60 * MIB}


@pytest.mark.parametrize("where", ["memory", "unified"])
def test_control_groups__hybrid(where: str, tmp_path: Path) -> None:
    """Version 1 for memory beside version 2 for the rest, or version 2 mounted below version 1."""
    files = {
        "memory": ("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "control group /job (memory.limit_in_bytes)"),
        "unified": ("sys/fs/cgroup/unified/job/memory.max", "control group /job (memory.max)"),
    }
    root = system(tmp_path, {"proc/self/cgroup": "5:memory:/job\n0::/job\n", files[where][0]: f"{100 * MIB}\n"})
    assert found(root) == {files[where][1]: 100 * MIB}


def test_control_groups__an_ancestor_may_be_tighter(tmp_path: Path) -> None:
    root = system(
        tmp_path,
        {
            "proc/self/cgroup": "0::/user/job/step\n",
            "sys/fs/cgroup/user/job/step/memory.max": "max\n",
            "sys/fs/cgroup/user/job/memory.max": f"{300 * MIB}\n",
            "sys/fs/cgroup/user/memory.max": f"{200 * MIB}\n",
            "sys/fs/cgroup/memory.max": f"{400 * MIB}\n",
        },
    )
    assert found(root) == {
        "control group /user/job (memory.max)": 300 * MIB,
        "control group /user (memory.max)": 200 * MIB,
        "control group / (memory.max)": 400 * MIB,
    }
    budget = memory_budget(max_gb=100.0, safety_factor=0.5, root=root)
    assert budget.budget_bytes == 100 * MIB
    assert "control group /user (memory.max)" in budget.won


def test_control_groups__a_container_sees_its_own_mount(tmp_path: Path) -> None:
    """The path may be that of the host, or lead out of the mount; the limit lies at the mount itself."""
    for number, path in enumerate(("/docker/0123", "/", "/../..", "/kubepods/pod:1/a:b")):
        root = system(
            tmp_path / str(number),
            {"proc/self/cgroup": f"0::{path}\n", "sys/fs/cgroup/memory.max": f"{100 * MIB}\n"},
        )
        assert found(root)["control group / (memory.max)"] == 100 * MIB


@pytest.mark.parametrize(
    "content",
    ["max\n", UNLIMITED_V1, "", "\n", "garbage\n", "-1\n", "1e9\n", "0x10\n", "100 200\n", b"\xff\xfe\n", str(1 << 62)],
)
def test_control_groups__ignore_what_is_no_limit(content: str | bytes, tmp_path: Path) -> None:
    for number, (line, name) in enumerate(
        (
            ("0::/job", "sys/fs/cgroup/job/memory.max"),
            ("5:memory:/job", "sys/fs/cgroup/memory/job/memory.limit_in_bytes"),
        )
    ):
        root = system(tmp_path / str(number), {"proc/self/cgroup": line, name: content})
        assert found(root) == {}


@pytest.mark.parametrize("content", ["", "nonsense\n", "0:\n", "::\n", "0::\n", b"0::/\xff\n", "\0\0\n"])
def test_control_groups__ignore_garbage_in_place_of_a_group(content: str | bytes, tmp_path: Path) -> None:
    assert found(system(tmp_path, {"proc/self/cgroup": content})) == {}


@pytest.mark.parametrize("stat", ["inactive_file\n", "inactive_file x\n", "", "inactive_file 1 2\n", b"\xff"])
def test_control_groups__count_all_use_where_the_cache_is_unknown(stat: str | bytes, tmp_path: Path) -> None:
    root = system(
        tmp_path,
        {
            "proc/self/cgroup": "0::/job\n",
            "sys/fs/cgroup/job/memory.max": f"{100 * MIB}\n",
            "sys/fs/cgroup/job/memory.current": f"{60 * MIB}\n",
            "sys/fs/cgroup/job/memory.stat": stat,
        },
    )
    assert found(root) == {"control group /job (memory.max)": 40 * MIB}


def test_control_groups__over_their_limit_leave_nothing(tmp_path: Path) -> None:
    root = system(
        tmp_path,
        {
            "proc/self/cgroup": "0::/job\n",
            "sys/fs/cgroup/job/memory.max": f"{100 * MIB}\n",
            "sys/fs/cgroup/job/memory.current": f"{160 * MIB}\n",
        },
    )
    assert found(root) == {"control group /job (memory.max)": 0}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"SLURM_MEM_PER_NODE": "4096"}, {"SLURM_MEM_PER_NODE": 4 * GIB}),
        ({"SLURM_MEM_PER_CPU": "2048", "SLURM_CPUS_ON_NODE": "3"}, {"SLURM_MEM_PER_CPU": 6 * GIB}),
        (
            {"SLURM_MEM_PER_NODE": "4096", "SLURM_MEM_PER_CPU": "9999", "SLURM_CPUS_ON_NODE": "9"},
            {"SLURM_MEM_PER_NODE": 4 * GIB},
        ),
        # 0 asks Slurm for all memory of the node
        ({"SLURM_MEM_PER_NODE": "0"}, {}),
        ({"SLURM_MEM_PER_CPU": "2048"}, {}),
        ({"SLURM_MEM_PER_CPU": "2048", "SLURM_CPUS_ON_NODE": "0"}, {}),
        ({"SLURM_MEM_PER_NODE": "lots"}, {}),
        ({"SLURM_MEM_PER_NODE": "-5"}, {}),
        ({"SLURM_MEM_PER_NODE": "²"}, {}),
        ({"SLURM_MEM_PER_NODE": ""}, {}),
    ],
)
def test_scheduler__memory_of_the_job(environment: dict[str, str], expected: dict[str, int], tmp_path: Path) -> None:
    assert found(tmp_path, environment) == expected


def test_memory_bounds__know_the_limit_of_the_address_space(tmp_path: Path) -> None:
    """In a process of its own: a limit cannot be lifted again."""
    code = (
        "import resource; from pathlib import Path; from mi_duck.resources import memory_bounds;"
        "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, resource.RLIM_INFINITY));"
        f"print(*(b.available_bytes for b in memory_bounds(root=Path({str(tmp_path)!r}), environment={{}})"
        " if b.source == 'RLIMIT_AS'))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    # 4 GiB less what the interpreter has mapped, well under a gigabyte
    assert 3 * GIB < int(result.stdout) < 4 * GIB


def test_memory_budget__the_users_number_wins_where_it_is_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1000")
    budget = memory_budget(max_gb=0.25, safety_factor=0.5, root=tmp_path)
    assert (budget.budget_bytes, budget.is_users_number) == (GIB // 4, True)
    assert budget.won == "--max-memory-per-instance-gb 0.25"
    assert (
        memory_budget(max_gb=0.6, safety_factor=0.5, root=tmp_path).budget_bytes == 500 * MIB
    )  # the machine's is less


def test_memory_budget__the_allocation_wins_where_it_is_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flag decides the exit code of a refusal: 78 for the user's number, 137 for the machine's."""
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1024")
    budget = memory_budget(max_gb=15.0, safety_factor=0.6, root=tmp_path)
    assert (budget.budget_bytes, budget.is_users_number) == (int(0.6 * GIB), False)
    assert budget.won == "0.6 of 1.0 GiB available (SLURM_MEM_PER_NODE)"


def test_memory_budget__elsewhere_is_the_users_number(tmp_path: Path) -> None:
    budget = memory_budget(max_gb=1e6, safety_factor=0.6, is_elsewhere=True, root=tmp_path)
    assert (budget.budget_bytes, budget.is_users_number) == (10**6 * GIB, True)


def test_memory_budget__the_smallest_of_all_bounds_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "300")
    root = system(tmp_path, {"proc/self/cgroup": "0::/job\n", "sys/fs/cgroup/job/memory.max": f"{200 * MIB}\n"})
    assert memory_budget(max_gb=15.0, safety_factor=1.0, root=root).budget_bytes == 200 * MIB
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "100")
    assert memory_budget(max_gb=15.0, safety_factor=1.0, root=root).budget_bytes == 100 * MIB


def test_memory_budget__on_this_machine_is_no_more_than_it_has() -> None:
    bounds = memory_bounds(root=Path("/"), environment=os.environ)
    assert all(isinstance(bound, Bound) and bound.available_bytes >= 0 for bound in bounds)
    machine = max(bound.available_bytes for bound in bounds)
    assert 0 < memory_budget(max_gb=1e6, safety_factor=1.0).budget_bytes <= machine * 1.1


def cores(tmp_path: Path, files: dict[str, str | bytes], **environment: str) -> int:
    return usable_cores(root=system(tmp_path, files), environment=environment)


def test_usable_cores__are_those_of_the_process_without_a_quota(tmp_path: Path) -> None:
    mine = len(os.sched_getaffinity(0))
    unlimited = {
        "proc/self/cgroup": "5:cpu,cpuacct:/job\n0::/job\n",
        "sys/fs/cgroup/job/cpu.max": "max 100000\n",
        "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
    }
    assert cores(tmp_path, {}) == cores(tmp_path, unlimited) == mine
    many = f"{(mine + 5) * 100000} 100000\n"
    assert cores(tmp_path, {"proc/self/cgroup": "0::/job\n", "sys/fs/cgroup/job/cpu.max": many}) == mine


@pytest.mark.parametrize(("quota", "expected"), [(10_000, 1), (100_000, 1), (100_001, 2)])
def test_usable_cores__are_no_more_than_a_control_groups_quota_in_whole_cores(
    quota: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    for number, (line, files) in enumerate(
        (
            ("0::/pod/box", {"pod/cpu.max": f"{quota} 100000\n", "pod/box/cpu.max": "max 100000\n"}),
            ("0::/host/path", {"cpu.max": f"{quota} 100000\n"}),
            (
                "4:cpu,cpuacct:/a",
                {f"cpu/a/cpu.cfs_{n}_us": f"{v}\n" for n, v in (("quota", quota), ("period", 100000))},
            ),
        )
    ):
        written = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
        assert cores(tmp_path / str(number), {"proc/self/cgroup": f"{line}\n"} | written) == expected


@pytest.mark.parametrize(
    "content", ["", "max\n", "0 0\n", "x 100000\n", "100000\n", b"\xff\n", "-1 100000\n", "1 2 3\n"]
)
def test_usable_cores__ignore_what_is_no_quota_and_are_at_least_one(content: str | bytes, tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": content}
    expected = 1 if content == "1 2 3\n" else len(os.sched_getaffinity(0))
    assert cores(tmp_path, files) == expected


@pytest.mark.parametrize(("asked", "expected"), [("3", 3), ("2,4", 2), ("", 8), ("many", 8), ("0", 8), ("99", 8)])
def test_usable_cores__are_no_more_than_openmp_is_told(
    asked: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert cores(tmp_path, {}, OMP_NUM_THREADS=asked) == expected
