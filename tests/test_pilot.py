"""Genes that chose the features are marked in every table, and no score of the run or of a comparison is of their rows."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from runs import FAST, call, here, plain_run

from mi_duck.evaluate.compare import compare_runs
from mi_duck.metrics.metrics import score
from mi_duck.run.folder import RunFolder
from mi_duck.run.plan import Plan


@pytest.fixture(scope="module")
def screened(lean_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run on the 20 best of 24 features; a quarter of the genes chose them."""
    out = tmp_path_factory.mktemp("pilot") / "run"
    here("run", lean_dataset, "--out", out, *FAST, "--screen-features", "20")
    return out


@pytest.fixture(scope="module")
def plan(screened: Path) -> Plan:
    found = RunFolder(screened).read_plan()
    assert 15 <= found.data.pilot_genes < 30
    return found


@pytest.fixture(scope="module")
def pilots(screened: Path, plan: Plan) -> set[str]:
    return set(pq.read_table(RunFolder(screened).genes)["gene_id"].to_pylist()[: plan.data.pilot_genes])


def lines(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def ask(run: Path, query: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(here("sql", run, query, "--json").stdout)
    return found


def test_pilot__rows_are_marked_in_predictions(screened: Path, pilots: set[str]) -> None:
    for file in [
        screened / "oof_predictions.parquet",
        *screened.glob("multi_instance_training/*/oof_predictions.parquet"),
    ]:
        table = pq.read_table(file)
        assert table["is_pilot"].to_pylist() == [gene in pilots for gene in table["gene_id"].to_pylist()]


def test_pilot__genes_are_marked_in_tables_and_catalogue(screened: Path, pilots: set[str]) -> None:
    coverage, deltas = (lines(screened / name) for name in ("gene_coverage_report.csv", "gene_deltas.csv"))
    for table in (coverage, deltas):
        assert len(table) == 60
        assert {line["gene_id"] for line in table if line["is_pilot"] == "1"} == pilots
    rows = {line["gene_id"]: line["n_rows"] for line in coverage}
    for line in deltas:
        assert line["n_rows"] == rows[line["gene_id"]]
        assert (line["log_loss_meta"] == "") == (line["is_pilot"] == "1")
    for table_name in ("genes", "gene_folds", "predictions"):
        found = ask(screened, f"select distinct gene_id from {table_name} where is_pilot")
        assert {row["gene_id"] for row in found} == pilots


def test_pilot__no_gene_is_one_without_screening(lean_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    run = plain_run(lean_dataset, tmp_path_factory)
    assert ask(run, "select count(*) as n from predictions where is_pilot") == [{"n": 0}]
    assert {line["is_pilot"] for line in lines(run / "gene_deltas.csv")} == {"0"}


def test_pilot__texts_say_how_many_rows_are_scored(
    lean_dataset: Path, screened: Path, plan: Plan, pilots: set[str]
) -> None:
    table = pq.read_table(screened / "oof_predictions.parquet", columns=["is_pilot"])
    n_scored = table["is_pilot"].to_pylist().count(False)
    assert n_scored < plan.data.n_rows
    again = here("run", lean_dataset, "--out", screened, *FAST, "--screen-features", "20")
    assert f"Scores on {n_scored:,} rows, each by models" in again.stdout
    summary = (screened / "unified_training_summary.txt").read_text()
    assert f"Scores out of fold: {n_scored:,} rows by models" in summary
    assert f"pilot        {len(pilots)} genes chose the features and are not scored" in summary
    page = (screened / "report.html").read_text()
    assert f"{n_scored:,} rows are scored, each by models" in page
    assert f"those of the {len(pilots)} genes that chose the features are not" in page
    for gene in pilots:
        assert f"<td>{gene}</td>" not in page  # the genes that gained most are genes that were scored


def test_compare__is_of_the_rows_that_both_runs_scored(
    screened: Path, plan: Plan, lean_dataset: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The run without screening scored the rows of the pilot too: they are left out of both."""
    plain = plain_run(lean_dataset, tmp_path_factory)
    found = compare_runs(plain, screened)
    whole = pq.read_table(plain / "oof_predictions.parquet")
    is_pilot = pq.read_table(screened / "oof_predictions.parquet")["is_pilot"].to_numpy()
    assert (found.n_rows, found.n_pilot_rows) == ((~is_pilot).sum(), is_pilot.sum())
    assert compare_runs(screened, plain).n_rows == compare_runs(screened, screened).n_rows == found.n_rows
    assert compare_runs(plain, plain).n_rows == plan.data.n_rows
    label = np.array([plan.data.classes.index(name) for name in whole["label"].to_pylist()])
    probabilities = np.column_stack([whole[f"p_{name}"].to_numpy() for name in plan.data.classes])
    expected = score(
        probabilities[~is_pilot], label[~is_pilot], np.arange(found.n_rows), plan.data.classes, seed=0, draws=0
    )
    wanted = {(one.metric, one.class_name): one.value for one in expected}
    for one in found.one:
        assert one.value == pytest.approx(wanted[one.metric, one.class_name], abs=1e-6)
    said = here("compare", plain, screened).stdout
    assert f"On the {found.n_rows:,} common rows, each scored by models that never saw its fold group" in " ".join(
        said.split()
    )
    assert f"Left out: {found.n_pilot_rows:,} rows by which a run chose its features" in said


@pytest.mark.parametrize("which", ["run", "instance"])
def test_predict__leaves_out_features_that_the_pilot_left_out_and_keeps_what_else_is_there(
    which: str, screened: Path, plan: Plan, lean_dataset: Path, tmp_path: Path
) -> None:
    dataset = pq.read_table(lean_dataset / "master")
    rows = dataset.append_column("note", [[1.5] * len(dataset)])
    pq.write_table(rows, tmp_path / "rows.parquet")
    model = screened if which == "run" else next(screened.glob("multi_instance_training/instance_*"))
    here("predict", model, tmp_path / "rows.parquet", "--out", tmp_path / "predicted.parquet")
    there = set(pq.read_schema(tmp_path / "predicted.parquet").names)
    features = {*plan.data.features, *plan.data.screened_features}
    assert len(features) == 24 > len(plan.data.features)
    assert set(rows.schema.names) - there == features & set(rows.schema.names)
    assert {"gene_id", "position", "note", "p_donor"} <= there


def test_predict__keeps_a_column_that_the_run_was_asked_to_keep(plan: Plan, lean_dataset: Path, tmp_path: Path) -> None:
    wanted = next(name for name in plan.data.screened_features if name.startswith("5mer"))
    here(
        "run", lean_dataset, "--out", tmp_path / "run", *FAST, "--screen-features", "20", "--keep", f"gene_id,{wanted}"
    )
    file = next((lean_dataset / "master").glob("*.parquet"))
    here("predict", tmp_path / "run", file, "--out", tmp_path / "predicted.parquet")
    there = pq.read_schema(tmp_path / "predicted.parquet").names
    assert [name for name in plan.data.screened_features if name in there] == [wanted]


def test_verify__a_screened_run_holds_and_a_wrong_mark_is_found(screened: Path) -> None:
    assert call("verify", screened).exit_code == 0
