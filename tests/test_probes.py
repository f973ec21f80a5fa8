"""Measured memory: probes run real trainings, and what they measure predicts sizes that were not probed."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli import app
from mi_duck.data.dataset import open_dataset
from mi_duck.errors import PlanError
from mi_duck.folders import RunFolder
from mi_duck.genome.synthetic import synthesise
from mi_duck.plan.memory import PHASES
from mi_duck.plan.plan import Settings
from mi_duck.plan.planning import PlanOptions, draft_plan
from mi_duck.plan.probes import is_worth_probing, measure, probe, probe_sizes

SETTINGS = Settings(
    seed=42,
    n_folds=2,
    n_estimators=800,
    early_stopping_patience=30,
    max_depth=6,
    learning_rate=0.1,
    max_bin=256,
    calibrate=True,
)


def quiet(*_: object) -> None:
    """Take messages and progress."""


@pytest.fixture(scope="module")
def wide_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 genes of 100 rows with 600 features: an instance of some 100 MB above its constant."""
    folder = tmp_path_factory.mktemp("wide") / "data"
    synthesise(folder, n_genes=300, rows_per_gene=100, n_features=600)
    return folder


def test_measure__predicts_a_size_that_was_not_probed(wide_dataset: Path, tmp_path: Path) -> None:
    """Within the goal of 3 per cent below and 5 above, at four times the rows of the largest probe."""
    folder = RunFolder(tmp_path / "run")
    draft = draft_plan(open_dataset(str(wide_dataset)), folder, PlanOptions(), SETTINGS, 2, quiet)
    rows = draft.genes["n_rows"].to_numpy()
    model = measure(draft.model, folder, draft.plan, rows, sizes=[30, 75], threads=2, report=quiet)
    assert {point.phase for point in model.points} == set(PHASES)
    points = probe(folder, draft.plan, rows, 300, threads=2, report=quiet)
    measured = max(point.peak_bytes for point in points)
    assert 0.97 <= model.predict_bytes(int(rows.sum()), 300) / measured <= 1.05
    kept = json.loads(folder.memory.read_bytes())
    assert len(kept["points"]) == 2 * len(PHASES)
    # the same data and settings are not measured again
    again = measure(draft.model, folder, draft.plan, rows, sizes=[10], threads=2, report=quiet)
    assert again.points == model.points
    assert not list(folder.scratch.glob("probe_*"))


def test_measure__sees_nan_that_footers_do_not_count(wide_dataset: Path, tmp_path: Path) -> None:
    """One NaN makes XGBoost store four bytes a value and more; the growth of the probes shows it."""
    (source,) = wide_dataset.rglob("*.parquet")
    table = pq.read_table(source)
    values = table["donor_score"].to_numpy().copy()
    values[::7] = np.nan
    place = table.schema.get_field_index("donor_score")
    (tmp_path / "data").mkdir()
    pq.write_table(table.set_column(place, "donor_score", pa.array(values)), tmp_path / "data" / "a.parquet")
    folder = RunFolder(tmp_path / "run")
    draft = draft_plan(open_dataset(str(tmp_path / "data")), folder, PlanOptions(), SETTINGS, 2, quiet)
    assert not draft.model.layout.has_missing
    rows = draft.genes["n_rows"].to_numpy()
    model = measure(draft.model, folder, draft.plan, rows, sizes=[30, 75], threads=2, report=quiet)
    assert model.layout.has_missing
    measured = max(point.peak_bytes for point in probe(folder, draft.plan, rows, 300, threads=2, report=quiet))
    assert 0.95 <= model.predict_bytes(int(rows.sum()), 300) / measured <= 1.25


def test_probe_sizes__are_parts_of_an_instance_within_bounds() -> None:
    # 1,500 genes of 400 rows: an eighth is 75,000 rows, a third of that 25,000; the first genes that reach them
    assert probe_sizes(np.full(9280, 400), 1500) == [63, 188]
    # an eighth of 4,000,000 rows is above the most rows of a probe: 80,000 / 400, and 26,666 / 400
    assert probe_sizes(np.full(10_000, 400), 10_000) == [67, 200]
    # below 12,000 rows there is nothing to learn from
    assert probe_sizes(np.full(29, 400), 1500) == []


def test_probes__are_left_out_where_they_would_take_too_long(small_dataset: Path, tmp_path: Path) -> None:
    draft = draft_plan(open_dataset(str(small_dataset)), RunFolder(tmp_path), PlanOptions(), SETTINGS, 1, quiet)
    rows = draft.genes["n_rows"].to_numpy()
    assert not is_worth_probing(draft.plan, rows, [10, 20])
    large = replace(draft.plan, n_rows=100_000_000)
    assert is_worth_probing(large, rows, [10, 20])
    assert not is_worth_probing(large, rows, [])


def test_memory__of_a_tiny_dataset_says_that_the_formula_is_used(small_dataset: Path) -> None:
    result = CliRunner().invoke(app, ["memory", str(small_dataset)])
    assert result.exit_code == PlanError.exit_code
    assert "too few to measure memory on" in result.stderr


def test_memory__prints_sizes_with_their_ratio(wide_dataset: Path) -> None:
    result = CliRunner().invoke(
        app, ["memory", str(wide_dataset), "--genes-per-instance", "200", "--n-folds", "2", "--json"]
    )
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert [line["use"] for line in facts["sizes"]] == ["probe", "probe", "check", "check"]
    assert all(0.9 < line["ratio"] < 1.1 for line in facts["sizes"])
    # 600 features of 2.125 bytes and some hundred bytes a row beside
    assert 1275 < facts["bytes_per_row"] < 1475
