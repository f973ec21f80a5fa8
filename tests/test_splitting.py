"""An instance that runs out of memory: where it is cut, what halves are, what a run with them or without them ends with."""

import csv
import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from plans import changed
from runs import FAST, call, call_children, child_of, fingerprint, here, planned, started, wait_for_line
from runs import plain_run as finished_plainly
from test_guard import MIB

from mi_duck.errors import CheckpointError, PlanError
from mi_duck.plan.windows import halves_of
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import GeneTable, read_gene_table
from mi_duck.run.plan import Plan, instances_for, read_splits, with_split, write_splits


@pytest.fixture(scope="module")
def plan(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, GeneTable]:
    """Three instances over 60 genes."""
    folder = RunFolder(planned(small_dataset, tmp_path_factory.mktemp("splits") / "run"))
    found = folder.read_plan()
    return found, read_gene_table(folder, found)


@pytest.fixture(scope="module")
def plain_run(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the finished run without figures and explanations; only to be read."""
    return finished_plainly(small_dataset, tmp_path_factory)


def test_halves_of__cover_the_parent_between_two_groups_with_half_the_rows_each(plan: tuple[Plan, GeneTable]) -> None:
    before, genes = plan
    parent = before.cut.instances[1]
    halves = halves_of(before, parent, genes)
    assert halves is not None
    one, two = halves
    assert (one.first_rank, one.stop_rank, two.stop_rank) == (parent.first_rank, two.first_rank, parent.stop_rank)
    assert (one.instance_id, two.instance_id) == (5, 6)  # 3 planned, and 2 x 1 and one more
    assert genes.group[one.stop_rank - 1] != genes.group[two.first_rank]
    assert one.n_rows + two.n_rows == parent.n_rows == genes.n_rows[parent.first_rank : parent.stop_rank].sum()
    # no other border inside what the instance has alone is nearer to one half
    others = range(before.cut.instances[0].stop_rank, before.cut.instances[2].first_rank)
    rows = [int(genes.n_rows[parent.first_rank : rank].sum()) for rank in others if rank > parent.first_rank]
    assert abs(2 * one.n_rows - parent.n_rows) == min(abs(2 * n - parent.n_rows) for n in rows)
    assert 0 < one.predicted_bytes <= parent.predicted_bytes
    assert one.predicted_seconds + two.predicted_seconds == pytest.approx(parent.predicted_seconds)


def test_halves_of__a_half_or_one_gene_or_a_lack_of_a_class_is_not_split(plan: tuple[Plan, GeneTable]) -> None:
    before, genes = plan
    parent = before.cut.instances[1]
    halves = halves_of(before, parent, genes)
    assert halves
    after = with_split(before, parent, halves, genes.n_rows)
    assert halves_of(after, halves[0], genes) is None
    one_gene = replace(parent, stop_rank=parent.first_rank + 1)
    assert halves_of(before, one_gene, genes) is None
    scarce = genes.label_counts.copy()
    scarce[parent.first_rank + 1 : parent.stop_rank, 2] = 0  # acceptors in the first gene only
    assert halves_of(before, parent, replace(genes, label_counts=scarce)) is None


def test_with_split__segments_tile_the_rows_and_each_instance_is_whole_segments(plan: tuple[Plan, GeneTable]) -> None:
    before, genes = plan
    after = before
    for parent in before.cut.instances:  # in any order the numbers are the same
        halves = halves_of(after, parent, genes)
        assert halves
        after = with_split(after, parent, halves, genes.n_rows)
    assert [one.instance_id for one in after.cut.instances] == [3, 4, 5, 6, 7, 8]
    assert [one.instance_id for one in after.cut.split_instances] == [0, 1, 2]
    assert after.cut.segments[0].first_row == 0
    assert after.cut.segments[-1].stop_row == before.data.n_rows
    borders = {one.first_rank for one in after.cut.segments} | {before.data.n_genes}
    for left, right in zip(after.cut.segments, after.cut.segments[1:], strict=False):
        assert (left.stop_rank, left.stop_row) == (right.first_rank, right.first_row)
    for one in after.cut.instances:
        assert {one.first_rank, one.stop_rank} <= borders
    # what neighbours share is the same segment as before
    assert {one.name for one in before.cut.segments[1::2]} <= {one.name for one in after.cut.segments}
    assert [one.instance_id for one in instances_for(after, 1)] == [5, 6]
    assert instances_for(before, 1) == (before.cut.instances[1],)
    with pytest.raises(PlanError, match="the plan has instances 0 to 2"):
        instances_for(after, 9)


def test_read_splits__is_the_plan_with_the_splits_or_refused(plan: tuple[Plan, GeneTable], tmp_path: Path) -> None:
    before, genes = plan
    parent = before.cut.instances[0]
    halves = halves_of(before, parent, genes)
    assert halves
    after = with_split(before, parent, halves, genes.n_rows)
    path = tmp_path / "splits.json"
    assert read_splits(path, before) == before
    write_splits(path, after)
    assert read_splits(path, before) == after
    assert before.digest == after.digest  # plan.json does not change
    with pytest.raises(CheckpointError, match="another plan"):
        read_splits(path, changed(before, n_rows=1))
    whole = path.read_bytes()
    for damaged in (whole[:-20], b"null", b"", whole.replace(b'"first_rank": 0', b'"first_rank": 1')):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"splits\.json is damaged"):
            read_splits(path, before)


def test_run__an_instance_out_of_memory_is_split_and_its_halves_make_the_model(tmp_path: Path) -> None:
    """60,000 rows of 500 counts: 60 MB of matrix in one piece, 30 MB in halves; the limit lies between."""
    rng = np.random.default_rng(0)
    n = 60_000
    columns = {"gene_id": np.arange(n) * 60 // n, "splice_type": rng.choice(["neither", "donor", "acceptor"], n)}
    columns |= {f"count_{number}": rng.integers(0, 8, n, dtype=np.uint8) for number in range(500)}
    data = tmp_path / "data"
    data.mkdir()
    pq.write_table(pa.table(columns), data / "a.parquet")
    flags = ("--strategy", "single", "--memory-per-gene-mb", "0.01", "--threads", "1", "--n-estimators", "2")
    flags = (*flags, "--n-folds", "2", "--max-depth", "2")
    flags = (*flags, "--no-calibrate-per-class")  # which takes more memory than the matrix of so few rows
    free = tmp_path / "free"
    here("plan", data, "--out", free, *flags)
    assert call_children("train", free, "--threads", "1").exit_code == 0
    measured = json.loads((free / "multi_instance_training/instance_00/measurement.json").read_bytes())
    limit = (measured["peak_bytes"] - 12 * MIB) / (1 << 30)
    flags = (*flags, "--minimal-diagnostics", "--skip-shap")
    out = tmp_path / "run"
    done = call_children("run", data, "--out", out, *flags, "--max-memory-per-instance-gb", str(limit))
    assert done.exit_code == 0, done.output
    assert (
        "[Instance 1/1] needs more than its budget, so instance_00 is split in halves, instance_01 and instance_02"
        in done.stderr
    )
    assert "[Instance 3/3] training on" in done.stderr
    assert "Gene coverage: 60/60 (100.0%)" in done.stderr
    folder = RunFolder(out)
    plan = folder.read_plan()
    assert [one.name for one in plan.cut.instances] == ["instance_01", "instance_02"]
    peaks = [
        json.loads((folder.instance(one) / "measurement.json").read_bytes())["peak_bytes"] for one in plan.cut.instances
    ]
    assert max(peaks) <= plan.cut.budget.budget_bytes
    summary = json.loads(folder.summary.read_bytes())
    assert [one["instance_id"] for one in summary["members"]] == [1, 2]
    assert (summary["coverage_fraction"], summary["instances_lost"]) == (1.0, [])
    shown = call("sql", out, "select instance_id, status from instances order by instance_id", "--json")
    assert [tuple(row.values()) for row in json.loads(shown.stdout)] == [(0, "split"), (1, "done"), (2, "done")]
    assert pq.read_metadata(folder.out_of_fold).num_rows == plan.data.n_rows
    here("verify", out)
    here("report", out)
    assert "2 instances" in (out / "report.html").read_text()
    assert "1 split in halves, which share none" in (out / "report.html").read_text()
    again = here("run", data, "--out", out, *flags, "--max-memory-per-instance-gb", str(limit))
    assert "nothing to do" in again.stderr


def test_run__a_crashed_instance_is_lost_and_named_and_the_same_command_mends_the_run(
    small_dataset: Path, plain_run: Path, tmp_path: Path
) -> None:
    """The second child dies of a memory error of its own (signal 11), which splitting would not help."""
    out = tmp_path / "run"
    process = started("run", small_dataset, "--out", out, *FAST)
    wait_for_line(process, "[Instance 2/3] training on")
    child_of(process).send_signal(signal.SIGSEGV)
    words = process.communicate(timeout=300)[1]
    assert process.returncode == 69, words
    last = words.splitlines()[-1]
    assert last.startswith("error: 1 of 3 instances lost (instance_01), and with them ")
    assert "signal 11" in last
    folder = RunFolder(out)
    plan = folder.read_plan()
    only_there = plan.cut.instances[2].first_rank - plan.cut.instances[0].stop_rank
    assert f"with them {only_there} of 60 genes" in last
    summary = json.loads(folder.summary.read_bytes())
    assert summary["instances_lost"] == [1]
    assert summary["coverage_fraction"] == (60 - only_there) / 60
    with folder.gene_coverage.open(newline="") as file:
        assert sum(row["trained"] == "0" for row in csv.DictReader(file)) == only_there
    assert pq.read_metadata(folder.out_of_fold).num_rows == plan.data.n_rows  # the others score all rows
    page = folder.page.read_text()
    assert f"Only {60 - only_there} of 60 genes were trained on; lost: instance_01" in page
    status = json.loads(call("status", out, "--json").stdout)
    assert [one["status"] for one in status["instances"]] == ["done", "lost", "done"]
    assert "signal 11" in status["causes_of_loss"]["instance_01"]
    assert not status["is_finished"]
    done = here("run", small_dataset, "--out", out, *FAST)
    assert "found 2 existing instances to reuse" in done.stderr
    assert fingerprint(out) == fingerprint(plain_run)
    assert not list(out.rglob("lost.json"))


def test_unfinished_run__after_a_change_keeps_what_matches_and_sets_the_rest_aside(
    small_dataset: Path, plain_run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(plain_run, out)
    before = fingerprint(out)
    (out / "provenance.json").unlink()
    # how members vote is not matter of training: nothing is trained again
    voted = here("run", small_dataset, "--out", out, *FAST, "--voting", "margin")
    assert "was begun otherwise (voting: probability then, margin now); what still matches is kept" in voted.stderr
    assert "found 3 existing instances to reuse" in voted.stderr
    assert json.loads(RunFolder(out).summary.read_bytes())["voting"] == "margin"
    # with more genes per instance the first and the last window are others; without the change those of before come back
    windows = ("--genes-per-instance", "30")
    (out / "provenance.json").unlink()
    other = here("run", small_dataset, "--out", out, *FAST, *windows)
    assert "genes_per_instance: 24 then, 30 now" in other.stderr
    assert f"2 instances match no longer; they are set aside in {out / 'stale'}" in other.stderr
    assert [line for line in other.stderr.splitlines() if "reusing" in line] == ["[Instance 2/3] reusing instance_01"]
    assert len(list((out / "stale").iterdir())) == 2
    (out / "provenance.json").unlink()
    back = here("run", small_dataset, "--out", out, *FAST)
    assert "found 3 existing instances to reuse" in back.stderr
    assert fingerprint(out) == before


def test_train__refuses_what_another_plan_trained_and_trains_again_what_is_damaged(
    small_dataset: Path, plain_run: Path, tmp_path: Path
) -> None:
    out = planned(small_dataset, tmp_path / "run", "--max-depth", "2")
    instances = out / "multi_instance_training"
    shutil.copytree(plain_run / "multi_instance_training" / "instance_00", instances / "instance_00")
    result = here("train", out, "--instance", "0", "--threads", "1", code=65)
    assert "instance_00 was trained by another plan (max_depth: 4 then, 2 now)" in result.stderr
    manifest = instances / "instance_00" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"max_depth": 4', b'"max_depth": 2'))
    result = here("train", out, "--instance", "0", "--threads", "1")
    assert "instance_00 is damaged, so it is trained again: manifest.json is damaged" in result.stderr
