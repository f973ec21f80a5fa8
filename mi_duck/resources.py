"""What this process may use: memory, cores and CUDA devices.

The smallest bound counts of those that control groups, the scheduler, limits and the machine set. ``root`` is where ``sys``
and ``proc`` are found: another folder in tests.
"""

import ctypes
import os
import resource
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mi_duck.errors import PlanError

GIB = 1 << 30
NO_LIMIT = 1 << 60


@dataclass(frozen=True, slots=True)
class Bound:
    """Where a limit on memory comes from, and the bytes that this process and its children may still take under it."""

    source: str
    available_bytes: int


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes that one training process may take, and the bound that decided it, in words.

    Where that is a number of the user's, a refusal has exit code 78, else 137.
    """

    budget_bytes: int
    won: str
    is_users_number: bool


def memory_budget(*, max_gb: float, safety_factor: float, is_elsewhere: bool = False, root: Path = Path("/")) -> Budget:
    """Return the smaller of ``max_gb`` GiB and ``safety_factor`` x available memory; on other machines ``max_gb`` alone."""
    machine = machine_budget(safety_factor, root=root)
    user = int(max_gb * GIB)
    if is_elsewhere or user <= machine.budget_bytes:
        return Budget(user, f"--max-memory-per-instance-gb {max_gb:g}", True)
    return machine


def machine_budget(safety_factor: float, *, root: Path = Path("/")) -> Budget:
    """Return ``safety_factor`` x available memory, which all that runs at once shares; see `memory_budget`."""
    machine = min(memory_bounds(root=root, environment=os.environ), key=lambda bound: bound.available_bytes)
    return Budget(
        int(machine.available_bytes * safety_factor),
        f"{safety_factor:g} of {machine.available_bytes / GIB:.1f} GiB available ({machine.source})",
        False,
    )


def memory_bounds(*, root: Path, environment: Mapping[str, str]) -> list[Bound]:
    """Return every bound on memory that can be found; at least that of the machine."""
    import psutil  # not at the top: the command line needs the number of cores only

    bounds = [Bound("memory of the machine", psutil.virtual_memory().available)]
    bounds += _memory_of_control_groups(root)
    bounds += _scheduler(environment)
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        bounds.append(Bound("RLIMIT_AS", max(soft - psutil.Process().memory_info().vms, 0)))
    return bounds


def usable_cores(*, root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> int:
    """Return how many cores this process can keep busy: the fewest that affinity, control groups and ``OMP_NUM_THREADS`` give."""
    cores = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    asked = environment.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # one number per level of nesting
    if asked.isdecimal() and int(asked):
        cores.append(int(asked))
    for _, folder, is_version_2 in _control_groups(root, "cpu"):
        if is_version_2:
            quota, period = (*_text(folder / "cpu.max").split(), "", "")[:2]
        else:
            quota, period = (_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
        if quota.isdecimal() and period.isdecimal() and int(period):
            cores.append(-(-int(quota) // int(period)))
    return max(min(cores), 1)


def _memory_of_control_groups(root: Path) -> list[Bound]:
    bounds = []
    for name, folder, is_version_2 in _control_groups(root, "memory"):
        most, used, cache = (
            ("memory.max", "memory.current", "inactive_file")
            if is_version_2
            else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        )
        limit = _number(folder / most)
        if limit is None or not 0 < limit < NO_LIMIT:
            continue
        kept = max((_number(folder / used) or 0) - _field(folder / "memory.stat", cache), 0)
        bounds.append(Bound(f"control group {name} ({most})", max(limit - kept, 0)))
    return bounds


def _control_groups(root: Path, controller: str) -> Iterator[tuple[str, Path, bool]]:
    """Yield name, folder and whether it is of version 2, for all groups of this process and their ancestors, present or not."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "", "")[:3]
        if not path:
            continue
        if is_version_2 := controllers == "":
            mounts = ["sys/fs/cgroup", "sys/fs/cgroup/unified"]
        elif controller in controllers.split(","):
            mounts = [f"sys/fs/cgroup/{name}" for name in dict.fromkeys((controllers, controller))]
        else:
            continue
        group = Path(path.lstrip("/"))
        for mount in mounts:
            # inside a container the path may be that of the host; then only the mount itself is there
            for one in [group, *group.parents]:
                yield "/" + "/".join(one.parts), root / mount / one, is_version_2


def _text(file: Path) -> str:
    """Return the text of a file, empty where it cannot be read."""
    try:
        return os.fsdecode(file.read_bytes())
    except OSError:
        return ""


def _number(file: Path) -> int | None:
    try:
        return int(_text(file))
    except ValueError:
        return None


def _field(file: Path, name: str) -> int:
    """Return one number of a file of ``name value`` lines, 0 where it is absent."""
    pairs = [line.split() for line in _text(file).splitlines()]
    try:
        return next((int(pair[1]) for pair in pairs if len(pair) == 2 and pair[0] == name), 0)
    except ValueError:
        return 0


def _scheduler(environment: Mapping[str, str]) -> list[Bound]:
    """Return the memory that Slurm gave to this job on this node."""
    node, per_cpu, cpus = (
        environment.get(name, "") for name in ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE")
    )
    if node.isdecimal() and int(node) > 0:
        return [Bound("SLURM_MEM_PER_NODE", int(node) << 20)]
    if per_cpu.isdecimal() and cpus.isdecimal() and int(per_cpu) * int(cpus) > 0:
        return [Bound("SLURM_MEM_PER_CPU", int(per_cpu) * int(cpus) << 20)]
    return []


@dataclass(frozen=True, slots=True)
class Device:
    """A CUDA device and its memory in bytes."""

    name: str
    total_bytes: int


def cuda_devices() -> tuple[Device, ...]:
    """Return the CUDA devices that this process may use, as the driver lists them; empty without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    found = []
    for number in range(count.value):
        device, name, size = ctypes.c_int(), ctypes.create_string_buffer(100), ctypes.c_size_t()
        answers = (
            driver.cuDeviceGet(ctypes.byref(device), number),
            driver.cuDeviceGetName(name, len(name), device),
            driver.cuDeviceTotalMem_v2(ctypes.byref(size), device),
        )
        if not any(answers):
            found.append(Device(name.value.decode(errors="replace"), size.value))
    return tuple(found)


def check_device(device: str, strategy: str) -> None:
    """Refuse a device that does not exist; XGBoost itself would train on the CPU and only warn."""
    if device == "cpu":
        return
    if strategy == "external":
        raise PlanError("--strategy external and --device cuda exclude each other; give one")
    if not cuda_devices():
        raise PlanError("--device cuda: this process sees no CUDA device; leave it out, or ask the scheduler for one")
