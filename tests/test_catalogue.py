"""The catalogue holds what the run's files hold, opens anywhere, and lets nobody write."""

import csv
import json
import re
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from runs import CONTEXT, SMALL, finished_run, here, planned

from mi_duck.data.dataset import open_planned
from mi_duck.errors import CheckpointError, DataError
from mi_duck.evaluate.catalogue import describe_catalogue, query_catalogue, score_table, write_catalogue
from mi_duck.evaluate.report_tables import table_texts
from mi_duck.run.folder import RunFolder
from mi_duck.run.stage_times import HOLDOUT, JOINING, READING, REFITTING, STEPS, TRAINING, WHOLE_GENES
from mi_duck.workflow.resume import plan_of_request

TABLES = {
    "genes": "gene_id fold_group n_rows n_neither n_donor n_acceptor fold is_holdout n_instances",
    "gene_folds": "gene_id fold_group fold",
    "instances": "instance_id first_rank stop_rank n_genes n_rows predicted_bytes measured_peak_bytes predicted_seconds "
    "wall_seconds status weight",
    "instance_genes": "instance_id gene_id",
    "coverage": "n_genes_dataset n_genes n_genes_trained n_rows n_rows_trained coverage_fraction",
    "memory_per_gene": "gene_id n_rows n_training_rows predicted_bytes",
    "memory_measurements": "phase instance_id n_genes n_rows n_features predicted_bytes peak_bytes",
    "stages": "step instance_id stage wall_seconds cpu_seconds peak_bytes n_rows bytes_read",
    "metrics": "scope instance_id evaluated_on variant is_chosen fold class metric value low high too_narrow n_genes n_rows",
    "predictions": "row_id gene_id position label fold p_neither p_donor p_acceptor",
    "runs": "run_id dataset_fingerprint settings versions started_at finished_at status",
    "gene_deltas": "gene_id is_pilot n_rows n_donor log_loss_base log_loss_meta log_loss_delta top_k_donor_base",
    "curves": "scope class kind x y threshold",
    "thresholds": "class kind threshold precision recall f1",
    "reliability": "scope class bin n_rows mean_probability observed_fraction low high",
    "learning_curves": "instance_id fold class round training_log_loss stopping_log_loss is_kept",
    "leakage": "feature comparison auc low high verdict reason",
    "importance": "feature class importance rank",
}
OF_PLAN = {"coverage", "gene_folds", "genes", "instance_genes", "instances", "leakage", "memory_measurements"}
OF_PLAN |= {"memory_per_gene", "runs", "stages"}
"""Tables that are known once a run is planned."""


@pytest.fixture(scope="module")
def run(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(small_dataset, tmp_path_factory)


def ask(run: Path, query: str) -> list[tuple[object, ...]]:
    return query_catalogue(run, query=query)[1]


def test_describe_catalogue__has_the_promised_tables_and_columns(run: Path) -> None:
    tables, queries = describe_catalogue(run)
    assert set(tables) == set(TABLES)
    for name, columns in TABLES.items():
        assert set(columns.split()) <= set(tables[name]["columns"]), name
        assert tables[name]["n_rows"] > 0
    assert {"coverage", "folds", "instances", "overlaps", "scores", "steps"} <= set(queries)
    assert all(queries.values())


def test_catalogue__numbers_equal_those_of_the_files(run: Path) -> None:
    plan = RunFolder(run).read_plan()
    n = len(plan.cut.instances)
    assert ask(run, "select n_genes_dataset, n_genes, n_genes_trained, coverage_fraction from coverage") == [
        (60, 60, 60, 1.0)
    ]
    genes = pq.read_table(run / "genes.parquet")
    assert ask(run, "select gene_id, fold from gene_folds") == list(
        zip(genes["gene_id"].to_pylist(), genes["fold"].to_pylist(), strict=True)
    )
    assert ask(run, "select count(*), sum(n_rows), min(n_instances) from genes") == [(60, plan.data.n_rows, 1)]
    assert ask(run, "select count(*) from genes where n_neither + n_donor + n_acceptor <> n_rows") == [(0,)]
    assert ask(run, "select instance_id, n_genes, status, weight from instances") == [
        (one.instance_id, one.n_genes, "done", 1 / n) for one in plan.cut.instances
    ]
    assert ask(run, "select count(*) from instance_genes") == [(sum(one.n_genes for one in plan.cut.instances),)]
    assert ask(run, "select sum(n_instances) from genes") == ask(run, "select count(*) from instance_genes")
    with (run / "metrics.csv").open() as file:
        values = [(row["scope"], row["class"], row["metric"], float(row["value"])) for row in csv.DictReader(file)]
    assert ask(run, "select scope, class, metric, value from metrics") == values
    predictions = pq.read_table(run / "oof_predictions.parquet")
    assert ask(run, "select row_id, gene_id, p_donor from predictions") == list(
        zip(*(predictions[name].to_pylist() for name in ("row_id", "gene_id", "p_donor")), strict=True)
    )
    settings = json.loads(str(ask(run, "select settings from runs")[0][0]))
    assert settings["n_estimators"] == plan.settings.n_estimators
    assert all(peak > 10 << 20 for (peak,) in ask(run, "select measured_peak_bytes from instances"))


def test_catalogue__says_what_every_table_and_column_holds(run: Path) -> None:
    """In the file, and no line of ``sql/catalogue.toml`` is of something that is not there."""
    tables = dict(ask(run, "select table_name, comment from duckdb_tables()"))
    columns = ask(run, "select table_name, column_name, comment from duckdb_columns() where not internal")
    columns = [line for line in columns if line[0] in tables]
    assert [name for name, comment in tables.items() if not comment] == []
    assert [line for line in columns if not line[2]] == []
    said = {(table, name) for table, texts in table_texts().items() for name in texts}
    said -= {(table, name) for table in tables for name in ("table", "OTHER")}
    found = {(table, name) for table, name, _ in columns}
    found |= {(table, re.sub(r"_(neither|donor|acceptor)(?=_|$)", "_CLASS", str(name))) for table, name in found}
    assert {line for line in said if line[0] != "scan_errors"} <= found  # that is of runs on a genome


def test_catalogue__has_what_the_report_shows(run: Path) -> None:
    with (run / "gene_deltas.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert ask(run, "select gene_id, n_rows, log_loss_delta from gene_deltas") == [
        (line["gene_id"], int(line["n_rows"]), float(line["log_loss_delta"])) for line in lines
    ]
    thresholds = json.loads((run / "thresholds.json").read_bytes())
    query = "select threshold, f1 from thresholds where class = 'donor' and kind = 'best_f1'"
    facts = thresholds["donor"]["best_f1"]
    assert ask(run, query) == [(facts["threshold"], facts["f1"])]
    assert ask(run, "select count(*) from importance where class = 'all'") == [(40,)]
    assert ask(run, "select class, min(rank), max(rank) from importance group by class order by class") == [
        (name, 1, 40) for name in ("acceptor", "all", "donor", "neither")
    ]
    summary = json.loads((run / "comprehensive_shap_analysis" / "shap_analysis_summary.json").read_bytes())
    best = ask(run, "select feature from importance where class = 'all' and rank <= 3 order by rank")
    tops = summary["top_10_features"]  # in alphabetical order
    assert [name for (name,) in best] == sorted(tops, key=lambda name: -tops[name])[:3]
    assert ask(run, "select count(distinct instance_id) from learning_curves") == [(3,)]
    assert ask(run, "select distinct verdict from leakage order by all")[0] == ("base score",)
    assert ask(run, "select sum(n_rows) from reliability where scope = 'ensemble' and class = 'donor'") == [(3506,)]


def test_catalogue__is_written_for_old_readers(run: Path) -> None:
    """In storage version 65, that of DuckDB 1.2; the version stands after the magic bytes."""
    head = (run / "run.duckdb").read_bytes()[:24]
    assert head[8:12] == b"DUCK"
    assert struct.unpack("<Q", head[12:20]) == (65,)


def test_catalogue__of_an_unfinished_run_has_what_is_known(small_dataset: Path, tmp_path: Path) -> None:
    """Nothing is written, and nothing else can be reached."""
    out = tmp_path / "run"
    here("plan", small_dataset, "--out", out, *SMALL)
    before = sorted(out.iterdir())
    assert set(describe_catalogue(out)[0]) == OF_PLAN
    assert ask(out, "select status, started_at from runs") == [("unfinished", None)]
    assert ask(out, "select distinct status from instances") == [("to do",)]
    assert ask(out, "select count(*) from genes") == [(60,)]
    with pytest.raises(DataError):
        ask(out, f"from '{out}/genes.parquet'")
    assert sorted(out.iterdir()) == before


def test_catalogue__neighbours_share_the_planned_genes_and_no_others_any(run: Path) -> None:
    plan = RunFolder(run).read_plan()
    _, rows = query_catalogue(run, name="overlaps")
    assert rows == [(number, number + 1, plan.cut.overlap_genes) for number in range(len(plan.cut.instances) - 1)]


def test_catalogue__every_named_query_runs(run: Path) -> None:
    for name in describe_catalogue(run)[1]:
        columns, rows = query_catalogue(run, name=name)
        assert columns
        assert rows or name == "held_out"  # of genes, which this run has not held out


def test_catalogue__opens_with_plain_duckdb_after_a_move(run: Path, tmp_path: Path) -> None:
    """Nothing in it points to a file."""
    shutil.copy(run / "run.duckdb", tmp_path / "moved.duckdb")
    with duckdb.connect(str(tmp_path / "moved.duckdb"), read_only=True) as connection:
        n = connection.execute("select count(*) from predictions").fetchall()
        kinds = connection.execute("select distinct table_type from information_schema.tables").fetchall()
    assert n == ask(run, "select count(*) from predictions")
    assert kinds == [("BASE TABLE",)]


def test_write_catalogue__can_be_built_again_over_what_a_killed_one_left(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    tables = sorted(TABLES)
    before = {name: ask(run, f"from {name} order by all") for name in tables}
    for name in (".run.duckdb.tmp", ".run.duckdb.tmp.wal", "run.duckdb"):
        (out / name).write_bytes(b"half a file")
    folder = RunFolder(out)
    write_catalogue(folder, folder.read_plan(), json.loads(folder.provenance.read_bytes()))
    assert {name: ask(out, f"from {name} order by all") for name in tables} == before
    assert not [file for file in out.iterdir() if ".tmp" in file.name or file.suffix == ".wal"]


def test_score_table__has_a_line_for_base_each_member_ensemble_and_gain(run: Path) -> None:
    found, plan = score_table(run), RunFolder(run).read_plan()
    columns, rows, n = found.columns, found.lines, len(plan.cut.instances)
    n_groups = len(set(pq.read_table(run / "genes.parquet")["fold_group"].to_pylist()))
    assert (found.too_narrow, found.n_rows) == (f"{n_groups} fold groups, fewer than 100", plan.data.n_rows)
    members = [f"instance_{number:02d}" for number in range(n)]
    assert [row[0] for row in rows] == ["base", *members, "ensemble", "ensemble - base"]
    assert columns[1:] == ["AP neither", "AP donor", "AP acceptor", "AP macro", "F1 macro", "log loss"]
    assert all(len(row) == len(columns) for row in rows)
    at = columns.index("AP macro")
    where = "where metric = 'average_precision' and class = 'macro'"
    value = ask(run, f"select value from metrics {where} and scope = 'ensemble' and is_chosen")
    assert rows[-2][at].startswith(f"{value[0][0]:.4f} (")
    value = ask(run, f"select value from metrics {where} and variant = 'ensemble - base'")
    assert rows[-1][at].startswith(f"{value[0][0]:+.4f} (")


@pytest.mark.parametrize(
    "query",
    [
        "create table stolen (a int)",
        "insert into genes select * from genes",
        "delete from genes",
        "update genes set fold = 0",
        "drop table genes",
        "attach 'other.duckdb'",
        "select * from read_csv('/etc/passwd')",
        "select * from read_text('/etc/passwd')",
        "select * from glob('/*')",
        "select * from '{run}/oof_predictions.parquet'",
        "copy genes to '{run}/stolen.csv'",
        "export database '{run}/stolen'",
        "set enable_external_access = true",
        "reset lock_configuration",
        "install httpfs",
        "load httpfs",
    ],
)
def test_query_catalogue__changes_nothing_and_reads_no_other_file(run: Path, query: str) -> None:
    before = sorted(file.name for file in run.iterdir())
    with pytest.raises(DataError):
        query_catalogue(run, query=query.format(run=run))
    assert sorted(file.name for file in run.iterdir()) == before


@pytest.mark.parametrize(
    "query", ["", ";", "selec 1", "select", "select * from nothing", "select 1; select 2", "select 'a"]
)
def test_query_catalogue__what_is_not_one_statement_is_one_line(run: Path, query: str) -> None:
    with pytest.raises(DataError) as caught:
        query_catalogue(run, query=query)
    assert "\n" not in str(caught.value)


def test_query_catalogue__says_which_names_there_are(run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no query named '\.\./genes'; there are columns, coverage, folds, held_out, instances"
    ):
        query_catalogue(run, name="../genes")
    with pytest.raises(CheckpointError, match="no plan in"):
        query_catalogue(tmp_path, query="select 1")


def test_stages__are_those_of_every_step_and_instance_and_add_up(run: Path) -> None:
    rows = ask(run, "select step, instance_id, stage, wall_seconds, cpu_seconds, peak_bytes, bytes_read from stages")
    assert {row[0] for row in rows} == {*STEPS} - {REFITTING, HOLDOUT, WHOLE_GENES}
    assert {row[1] for row in rows if row[0] == TRAINING} == {0, 1, 2}
    assert len({row[:3] for row in rows}) == len(rows)
    assert "scoring every row out of fold" in {row[2] for row in rows if row[0] == JOINING}
    seconds = {number: sum(float(str(row[3])) for row in rows if row[:2] == (TRAINING, number)) for number in (0, 1, 2)}
    measured = dict(ask(run, "select instance_id, wall_seconds from instances"))
    assert all(0 < seconds[number] <= float(str(measured[number])) for number in seconds)
    n_read = {step: sum(int(str(row[6])) for row in rows if row[0] == step) for step in (READING, TRAINING)}
    assert all(n > 0 for n in n_read.values())
    assert all(int(str(row[5])) > 1 << 20 for row in rows)
    assert ask(run, "select step from stages where wall_seconds < 0 or cpu_seconds < 0 or bytes_read < 0") == []


def test_stages__of_planning_stay_where_a_plan_is_kept_for_another_vote(small_dataset: Path, tmp_path: Path) -> None:
    folder = RunFolder(planned(small_dataset, tmp_path / "run", "--memory-per-gene-mb", "1"))
    before, plan = folder.stage_times.read_bytes(), folder.read_plan()
    assert b"looking for leaks" in before
    asked = replace(plan.asked, voting="margin")
    kept = plan_of_request(open_planned(plan.data), folder, asked, CONTEXT)
    assert kept.asked.voting == folder.read_plan().asked.voting == "margin"
    assert kept.cut == plan.cut
    assert folder.stage_times.read_bytes() == before
