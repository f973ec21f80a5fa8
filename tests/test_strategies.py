"""Which way to train: one model, several, or one on disk; what each would take, and why some cannot."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from runs import call
from shared import DENSE, REQUEST, SETTINGS

from mi_duck.errors import MemoryBudgetError, MiDuckError, PlanError
from mi_duck.plan.cut import Alternative, alternatives
from mi_duck.plan.layouts import layout_of
from mi_duck.plan.strategies import CutRequest, choose_strategy, windows_of
from mi_duck.plan.times import instance_seconds
from mi_duck.resources import Budget
from mi_duck.rows.segments import ColumnDensity
from mi_duck.run.costs import MemoryModel, Rates
from mi_duck.run.folder import RunFolder
from mi_duck.settings import Asked

LAYOUT = replace(DENSE, n_features=400, n_wide=10, bins=5000, threads=1)
MODEL = MemoryModel(LAYOUT)
NEEDED = MODEL.needed_bytes(1_200_000, 3000)


def within(n_bytes: int, *, is_users_number: bool = True) -> CutRequest:
    name = "--max-memory-per-instance-gb" if is_users_number else "the machine"
    return replace(REQUEST, budget=Budget(n_bytes, name, is_users_number))


@pytest.mark.parametrize(
    ("asked", "n_genes", "train_all_genes", "budget_bytes", "expected"),
    [
        ("single", 3000, True, 1, "single"),
        ("multi", 3, False, 1 << 60, "multi"),
        ("external", 3, False, 1 << 60, "external"),
        ("auto", 3000, False, NEEDED, "single"),
        ("auto", 3000, False, NEEDED - 1, "multi"),
        ("auto", 3000, True, NEEDED, "single"),
        ("auto", 3, False, 1, "multi"),  # which is refused, with its reason
    ],
)
def test_choose_strategy__takes_the_first_that_fits(
    asked: str, n_genes: int, train_all_genes: bool, budget_bytes: int, expected: str
) -> None:
    request = replace(within(budget_bytes), training_rows=np.full(n_genes, 400))
    found = choose_strategy(Asked(strategy=asked, train_all_genes=train_all_genes), request, MODEL)
    assert found == expected


@pytest.mark.parametrize("is_users_number", [True, False])
def test_windows_of__a_budget_too_small_for_one_model_is_enough_for_several(is_users_number: bool) -> None:
    """A number of the user that cannot work is another error than a machine that is too small."""
    enough, less = (within(n_bytes, is_users_number=is_users_number) for n_bytes in (NEEDED, NEEDED - 1))
    kind: type[MiDuckError] = PlanError if is_users_number else MemoryBudgetError
    assert windows_of("single", enough, MODEL).ranges == ((0, 3000),)
    with pytest.raises(
        kind,
        match=r"of 1,200,000 training rows needs 1\.\d\d GiB, its peak and 3% of room, but the budget is 1\.\d\d GiB",
    ) as one:
        windows_of("single", less, MODEL)
    assert one.value.exit_code == (78 if is_users_number else 137)
    assert "--strategy multi or --strategy external" in str(one.value)
    several = windows_of("multi", less, MODEL)
    assert len(several.ranges) == 3
    assert all(MODEL.needed_bytes((stop - first) * 400, 1) < NEEDED for first, stop in several.ranges)
    with pytest.raises(kind, match="holds no row; training needs .* for the largest gene alone"):
        windows_of("multi", within(1000, is_users_number=is_users_number), MODEL)


def test_windows_of__external_is_one_window_of_all_genes() -> None:
    on_disk = MODEL.with_layout(replace(LAYOUT, is_external=True))
    needed = on_disk.needed_bytes(1_200_000, 3000)
    assert needed < NEEDED
    assert windows_of("external", within(needed), on_disk).ranges == ((0, 3000),)
    with pytest.raises(
        PlanError, match=r"with its matrix on disk of 1,200,000 training rows .*; set --strategy multi$"
    ):
        windows_of("external", within(needed - 1), on_disk)


def test_windows_of__the_users_megabytes_per_gene_bind_by_genes() -> None:
    model = replace(MODEL, megabytes_per_gene=1.0)
    # 120 MiB and one for each gene: 1,120 MiB hold 1,000 genes
    found = windows_of("multi", within(1120 << 20), model)
    assert found.most_genes == 1000
    with pytest.raises(PlanError, match="holds 1,000 genes"):
        windows_of("multi", replace(within(1120 << 20), auto_adjust=False), model)
    with pytest.raises(PlanError, match="holds 0 genes"):
        windows_of("multi", within(120 << 20), model)


def seconds_of(strategy: str, n_rows: int, *, is_external: bool = False) -> float:
    return instance_seconds(strategy, n_rows, SETTINGS, LAYOUT, Rates(is_external=is_external), SETTINGS.n_estimators)


def by_name(found: tuple[Alternative, ...]) -> dict[tuple[str, str], Alternative]:
    return {(one.strategy, one.layout): one for one in found}


def test_alternatives__tell_every_strategy_and_why_one_cannot_be() -> None:
    found = by_name(alternatives(within(NEEDED - 1), SETTINGS, MODEL, Rates(), None, (), strategy="multi"))
    assert list(found) == [("single", "missing"), ("multi", "missing"), ("external", "missing")]
    single, multi, external = found.values()
    assert (single.is_feasible, single.n_instances, single.peak_bytes) == (
        False,
        0,
        MODEL.predict_bytes(1_200_000, 3000),
    )
    assert "needs" in single.reason
    assert (multi.is_feasible, multi.reason, multi.n_instances) == (True, "", 3)
    assert (external.is_feasible, external.n_instances, external.genes_per_instance) == (True, 1, 3000)
    assert external.peak_bytes < single.peak_bytes
    # 130 bytes of features and 14 of keys; the matrix on disk has a byte a cell, a refit one a tree and twice its margins, of
    # one class for each thread
    assert single.disk_bytes == 1_200_000 * 144
    assert multi.disk_bytes == 1_200_000 * (144 + (3 * SETTINGS.n_estimators + 16))
    assert external.disk_bytes == 1_200_000 * (144 + 400)
    # overlap costs: three windows share 100 or more genes in each pair
    whole = seconds_of("single", 1_200_000)
    assert multi.seconds > whole
    assert external.seconds == pytest.approx(1.3 * whole)


def test_alternatives__are_the_same_beside_a_plan_on_disk() -> None:
    """A model that was measured on disk is not slowed down again, and tells the others by the formula."""
    on_disk = MODEL.with_layout(replace(LAYOUT, is_external=True))
    found = by_name(alternatives(REQUEST, SETTINGS, on_disk, Rates(), None, (), strategy="external"))
    other = by_name(alternatives(REQUEST, SETTINGS, MODEL, Rates(), None, (), strategy="single"))
    for name in found:
        assert found[name].peak_bytes == other[name].peak_bytes
        assert found[name].disk_bytes == other[name].disk_bytes


def test_instance_seconds__are_longer_on_disk_unless_they_were_measured_there() -> None:
    in_memory, on_disk = (seconds_of("external", 10_000, is_external=is_external) for is_external in (False, True))
    assert in_memory == pytest.approx(1.3 * on_disk)
    assert seconds_of("single", 10_000) == on_disk
    assert seconds_of("multi", 10_000, is_external=True) == pytest.approx(on_disk / 1.3)


def test_alternatives__tell_other_layouts_of_the_plans_strategy() -> None:
    zeros = {f"count_{number}": 60 for number in range(390)}
    holes = {f"real_{number}": 5 for number in range(10)}
    density = ColumnDensity(100, zeros, holes)
    model = MODEL.with_layout(layout_of(LAYOUT, density, "missing", ()))
    found = by_name(alternatives(REQUEST, SETTINGS, model, Rates(), density, tuple(zeros), strategy="single"))
    assert list(found)[3:] == [("single", "zeros"), ("single", "sentinel")]
    missing, zero, sentinel = (found["single", layout] for layout in ("missing", "zeros", "sentinel"))
    assert sentinel.peak_bytes < zero.peak_bytes < missing.peak_bytes
    # 390 x .4 + 10 x .95 = 165.5 of 400 cells are visited, of missing 399.5; building takes the rest
    assert zero.seconds < missing.seconds * 0.6
    # where nothing is missing a sentinel has nothing to stand for
    whole = ColumnDensity(100, zeros, dict.fromkeys(holes, 0))
    found = by_name(alternatives(REQUEST, SETTINGS, MODEL, Rates(), whole, tuple(zeros), strategy="single"))
    assert list(found)[3:] == [("single", "zeros")]


# ---- plans ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("megabytes", "max_gb", "code"),
    [("150", "100", 137), ("150", "0.11", 137), ("2000", "0.1", 78)],
)
def test_plan__a_refusal_says_whose_number_it_was(
    megabytes: str, max_gb: str, code: int, small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slurm's allocation is the machine's number: .6 of 150 MiB is less than .11 GiB."""
    monkeypatch.setenv("SLURM_MEM_PER_NODE", megabytes)
    flags = ("--strategy", "single", "--max-memory-per-instance-gb", max_gb)
    result = call("plan", small_dataset, "--out", tmp_path / "run", *flags)
    assert result.exit_code == code, result.output
    assert "error: a single model of" in result.stderr
    assert ("SLURM_MEM_PER_NODE" in result.stderr) == (code == 137)
    assert not (tmp_path / "run" / "genes.parquet").exists()


def test_plan__writes_what_every_strategy_would_take(small_dataset: Path, tmp_path: Path) -> None:
    result = call("plan", small_dataset, "--out", tmp_path / "run", "--strategy", "external", "--threads", "1")
    assert result.exit_code == 0, result.output
    plan = RunFolder(tmp_path / "run").read_plan()
    assert plan.cut.strategy_used == "external"
    assert len(plan.cut.instances) == 1
    found = {one["strategy"]: one for one in plan.cut.alternatives}
    assert set(found) == {"single", "multi", "external"}
    assert found["external"]["peak_bytes"] == plan.cut.instances[0].predicted_bytes
    assert all(one["is_feasible"] == (not one["reason"]) for one in found.values())
