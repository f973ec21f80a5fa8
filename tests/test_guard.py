"""Training ends where its memory would pass the budget: before it begins where that is known, else at the limit itself."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from plans import changed
from runs import COMMAND, CONTEXT, call_children, partitioned, planned

from mi_duck.errors import MemoryBudgetError, OverAskedBudgetError
from mi_duck.processes import run_child
from mi_duck.rows.segments import read_density
from mi_duck.run.costs import PHASES
from mi_duck.run.folder import RunFolder
from mi_duck.run.plan import Plan
from mi_duck.workflow.training import recounted_peak, train

MIB = 1 << 20
Report = Callable[[str, int, int], None]


# ---- the guard --------------------------------------------------------------------------------------------------------


def grow(*, megabytes: int, report: Report) -> int:
    """Take memory in steps of 8 MiB; a child runs it."""
    blocks = []
    for taken in range(0, megabytes, 8):
        blocks.append(bytearray(8 * MIB))
        blocks[-1][::4096] = b"x" * len(blocks[-1][::4096])
        report("growing", taken + 8, taken + 8)  # a step that is done is always reported
    time.sleep(0.2)
    return sum(map(len, blocks))


def grown(megabytes: int, limit: int, report: Report = lambda *_: None) -> int:
    arguments = {"megabytes": megabytes}
    child = run_child("test_guard:grow", arguments, threads=1, report=report, limit_bytes=limit * MIB)
    assert isinstance(child.value, int)
    return child.value


def test_run_child__is_stopped_soon_after_its_limit_with_both_numbers() -> None:
    reported = [0]
    with pytest.raises(
        MemoryBudgetError, match=r"grow was stopped: it holds .* GiB, and its limit is 0\.293 GiB"
    ) as stop:
        grown(4000, 300, lambda _, done, __: reported.append(done))
    assert stop.value.exit_code == 137
    held = re.search(r"holds ([\d.]+) GiB", str(stop.value))
    assert held
    assert 300 / 1024 - 0.01 <= float(held[1]) <= 450 / 1024
    assert reported[-1] <= 450


def test_run_child__below_its_limit_is_left_alone() -> None:
    assert grown(200, 400) == 200 * MIB


def test_run_child__is_stopped_where_the_machine_runs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a limit of its own a child must leave something for everything else."""
    monkeypatch.setattr("mi_duck.processes.LEAST_LEFT", 1 << 60)
    with pytest.raises(MemoryBudgetError, match=r"and only [\d,]+ MiB are left on the machine"):
        run_child("test_guard:grow", {"megabytes": 8}, threads=1, report=lambda *_: None)


def change_plan(run: Path, change: Callable[[Plan], Plan]) -> Plan:
    """Rewrite the plan of a run."""
    folder = RunFolder(run)
    plan = change(folder.read_plan())
    folder.plan.write_text(plan.to_json())
    return plan


def test_train__an_instance_that_passes_its_budget_is_lost_and_the_others_go_on(
    small_dataset: Path, tmp_path: Path
) -> None:
    """The plan believes that training takes nothing; one instance was trained before, two pass 60 MiB at once."""
    run = planned(small_dataset, tmp_path / "run")
    assert call_children("train", run, "--instance", "0", "--threads", "1").exit_code == 0

    def lowered(plan: Plan) -> Plan:
        return changed(plan, budget_bytes=60 * MIB, model=replace(plan.costs.model, measured_bytes=(0,) * len(PHASES)))

    plan = change_plan(run, lowered)
    assert len(plan.cut.instances) == 3
    result = call_children("train", run, "--threads", "1")
    assert result.exit_code == 69, result.output
    lines = result.stderr.splitlines()
    assert "[Instance 1/3] reusing instance_00" in lines
    assert [line[: line.index(":")] for line in lines if "split in halves" in line] == [
        "[Instance 2/3] needs more than its budget, so instance_01 is split in halves, instance_05 and instance_06",
        "[Instance 3/5] needs more than its budget, so instance_02 is split in halves, instance_07 and instance_08",
    ]
    assert [line[: line.index(" lost")] for line in lines if " lost: " in line] == [
        f"[Instance {number}/7]" for number in (4, 5, 6, 7)
    ]
    last = lines[-1]
    assert [line for line in lines if line.startswith("error: ")] == [last]
    assert last.startswith("error: 4 of 5 instances lost (instance_05, instance_06, instance_07, instance_08), and")
    assert re.search(r"it holds 0\.\d{3} GiB, and its limit is 0\.059 GiB; predicted were 0\.\d{3} GiB", last)
    assert re.search(
        r"plan anew with --genes-per-instance \d+, a larger --max-memory-per-instance-gb, or --strategy external", last
    )
    instances = run / "multi_instance_training"
    assert [file.parent.name for file in instances.glob("*/manifest.json")] == ["instance_00"]
    assert len(list(instances.glob("*/lost.json"))) == 4
    assert RunFolder(run).segments.is_dir()  # the same command goes on where it stopped
    # a single instance asked for by number says the same
    alone = call_children("train", run, "--instance", "2", "--threads", "1")
    assert alone.exit_code == 137
    assert alone.stderr.splitlines()[-1].startswith("error: train_instance was stopped: it holds")


# ---- what is known before training ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 12,000 rows of 200 genes; the second hundred by rank have NaN in 20 of 420 columns, and no footer counts NaN."""
    root = tmp_path_factory.mktemp("uneven")
    rng = np.random.default_rng(0)
    n = 12_000
    columns = {
        "gene_id": np.array([f"g{number // 60}" for number in range(n)]),
        "splice_type": rng.choice(["neither", "donor", "acceptor"], n),
    }
    names = {"gene_id": columns["gene_id"], "splice_type": columns["splice_type"], "x": rng.normal(size=n)}
    (root / "names").mkdir()
    pq.write_table(pa.table(names), root / "names" / "a.parquet")
    by_rank = pq.read_table(planned(root / "names", root / "ranks") / "genes.parquet")["gene_id"].to_pylist()
    columns |= {f"count_{number}": rng.integers(0, 9, n).astype(np.uint8) for number in range(400)}
    is_late = np.isin(columns["gene_id"], by_rank[100:])
    for number in range(20):
        columns[f"real_{number}"] = np.where(is_late, np.nan, rng.normal(size=n)).astype(np.float32)
    (root / "data").mkdir()
    pq.write_table(pa.table(columns), root / "data" / "a.parquet")
    return root / "data"


def tighten(plan: Plan, share: float) -> Plan:
    """Give a plan of one instance a budget of what it believes to need, times a share."""
    (instance,) = plan.cut.instances
    needed = plan.costs.model.needed_bytes(instance.n_training_rows, instance.n_genes)
    return changed(plan, budget_bytes=int(share * needed), won="the test")


def measured(plan: Plan) -> Plan:
    """Return the plan as if probes had measured 140 MiB beside what grows with the rows, and had seen nothing missing."""
    return changed(plan, model=replace(plan.costs.model, measured_bytes=(140 * MIB,) * len(PHASES)))


@pytest.mark.parametrize(("is_users_number", "code"), [(True, 78), (False, 137)])
def test_recounted_peak__refuses_rows_that_need_more_than_those_that_were_measured(
    is_users_number: bool, code: int, uneven: Path, tmp_path: Path
) -> None:
    """5,040,000 cells: 10 MiB where none is missing, and 14 more where one is; the exit code says whose number it was."""
    run = partitioned(uneven, tmp_path / "run", "--strategy", "single")
    plan = change_plan(run, lambda plan: changed(tighten(measured(plan), 1.05), is_users_number=is_users_number))
    whole = plan.cut.instances[0]
    recounted_peak(RunFolder(run), tighten(plan, 1.2), whole)  # enough for the rows as they are
    assert plan.costs.model.layout.missing_share == 0
    result = call_children("train", run, "--instance", "0", "--threads", "1")
    assert result.exit_code == code, result.output
    # 20 of 420 columns are missing in half of the rows
    last = next(line for line in result.stderr.splitlines() if "instance_00 needs" in line)
    assert re.search(
        r"instance_00 needs 0\.\d{3} GiB, but the budget is 0\.\d{3} GiB \(the test\): 2\.38% of its cells are missing, 0\.00%",
        last,
    )
    assert "--layout sentinel needs less" in last
    assert re.search(r"plan anew with --genes-per-instance \d+, a larger --max-memory-per-instance-gb", last)
    assert "split in halves" in result.stderr
    assert not list((run / "multi_instance_training").glob("instance_00/manifest.json"))  # a half may fit


def test_train__that_may_not_split_loses_what_needs_more_than_its_budget(uneven: Path, tmp_path: Path) -> None:
    """As a learning curve asks for: its sizes would not be those of halves."""
    folder = RunFolder(partitioned(uneven, tmp_path / "run", "--strategy", "single"))
    plan = change_plan(folder.root, lambda plan: changed(tighten(measured(plan), 1.05), is_users_number=True))
    with pytest.raises(OverAskedBudgetError, match=r"instance_00 needs .* needs less where values are missing$"):
        train(folder, plan, CONTEXT, may_split=False)
    assert not folder.splits.exists()


def test_recounted_peak__a_sentinel_needs_no_more_than_was_planned(uneven: Path, tmp_path: Path) -> None:
    run = partitioned(uneven, tmp_path / "run", "--strategy", "single", "--layout", "sentinel")
    plan = tighten(measured(RunFolder(run).read_plan()), 1.0)
    assert read_density(plan, plan.cut.segments, RunFolder(run).segments).has_missing
    recounted_peak(RunFolder(run), plan, plan.cut.instances[0])


# ---- a real control group ---------------------------------------------------------------------------------------------

GROUPS = Path("/sys/fs/cgroup/memory")


@contextmanager
def control_group(limit_bytes: int) -> Iterator[Path]:
    """Make a memory control group of version 1 for a while."""
    group = GROUPS / f"mi_duck_test_{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit_bytes))
        yield group
    finally:
        group.rmdir()


def inside(group: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command in a control group."""
    enter = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
    return subprocess.run(
        ["sh", "-c", enter, str(group), *COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def oom_kills(group: Path) -> int:
    lines = (group / "memory.oom_control").read_text().split()
    return int(lines[lines.index("oom_kill") + 1]) if "oom_kill" in lines else 0


def gibibytes(words: str, text: str) -> int:
    found = re.search(rf"{words} ([\d.]+) GiB", text)
    assert found, text
    return int(float(found[1]) * (1 << 30))


@pytest.mark.skipif(
    not os.access(GROUPS / "memory.limit_in_bytes", os.F_OK) or not os.access(GROUPS, os.W_OK) or os.getuid() != 0,
    reason="no memory control groups of version 1, or no right to make one",
)
def test_control_group__half_the_need_is_refused_and_a_tenth_more_is_enough(tmp_path: Path) -> None:
    """Deep trees on labels that mean nothing: some 800 MiB of histograms; the kernel kills nobody."""
    rng = np.random.default_rng(0)
    n = 17_000
    columns = {"gene_id": [f"g{number // 85}" for number in range(n)]}
    columns |= {"splice_type": rng.choice(["neither", "donor", "acceptor"], n)}
    columns |= {f"x{number}": rng.normal(size=n).astype(np.float32) for number in range(60)}
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "data" / "a.parquet")
    plan = ("plan", tmp_path / "data", "--strategy", "single", "--memory-safety-factor", "1", "--threads", "1")
    plan += (
        "--n-estimators",
        "1",
        "--early-stopping-patience",
        "0",
        "--n-folds",
        "2",
        "--max-depth",
        "8",
        "--max-bin",
        "4096",
        "--xgb",
        "min_child_weight=1",
    )
    limit = 540 * MIB
    with control_group(limit) as group:
        refused = inside(group, *plan, "--out", tmp_path / "half")
        assert refused.returncode == 137, refused.stderr
        assert oom_kills(group) == 0
    last = refused.stderr.splitlines()[-1]
    assert f"control group /{group.name} (memory.limit_in_bytes)" in last
    assert last.endswith("set --strategy multi")  # on disk it needs more than there is, too
    assert not (tmp_path / "half" / "genes.parquet").exists()
    needed, left = gibibytes("needs", last), gibibytes("the budget is", last)
    assert 1.9 * limit < needed < 2.3 * limit
    planning = limit - left  # what the command itself holds
    with control_group(int(1.1 * (needed + planning))) as group:
        made = inside(group, *plan, "--out", tmp_path / "run")
        assert made.returncode == 0, made.stderr
        done = inside(group, "train", tmp_path / "run", "--threads", "1")
        assert done.returncode == 0, done.stderr
        assert oom_kills(group) == 0
    assert f"control group /{group.name}" in RunFolder(tmp_path / "run").read_plan().cut.budget.won


def test_train__is_not_disturbed_by_a_budget_that_is_enough(small_dataset: Path, tmp_path: Path) -> None:
    """The limit is the whole budget, so what the guard sees of a normal training is below it."""
    run = planned(small_dataset, tmp_path / "run", "--strategy", "single")
    change_plan(run, lambda plan: tighten(plan, 1.0))
    result = call_children("train", run, "--threads", "1")
    assert result.exit_code == 0, result.output
    (instance,) = RunFolder(run).read_plan().cut.instances
    measured = (RunFolder(run).instance(instance) / "measurement.json").read_text()
    peak = re.search(r'"peak_bytes": (\d+)', measured)
    assert peak
    assert int(peak[1]) <= RunFolder(run).read_plan().cut.budget.budget_bytes
