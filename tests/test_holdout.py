"""Held-out genes: nothing is trained on them, all else covers the rest, and their scores are those of the shipped models."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from runs import CONTEXT, call, quiet, trained
from sklearn.metrics import average_precision_score, log_loss

from mi_duck.ensemble.model_file import load_unified_model
from mi_duck.ensemble.predict import predict_file
from mi_duck.evaluate.catalogue import write_catalogue
from mi_duck.evaluate.evaluate import evaluate_run
from mi_duck.evaluate.holdout import evaluate_holdout
from mi_duck.metrics.metrics import score
from mi_duck.rows.partition import partition_here
from mi_duck.rows.segments import SegmentReader, segments_of
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import read_gene_folds, stopping_groups
from mi_duck.run.plan import Plan
from mi_duck.workflow.pipeline import consolidate

FEW_ROUNDS = ("--n-estimators", "8", "--genes-per-instance", "20", "--holdout-genes", "0.25")


@pytest.fixture(scope="module")
def run(lean_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Return a run with a quarter of the fold groups held out, scored; its scratch is still there."""
    folder = RunFolder(trained(lean_dataset, tmp_path_factory.mktemp("holdout") / "run", *FEW_ROUNDS))
    consolidate(folder, folder.read_plan(), CONTEXT)
    evaluate_run(run=str(folder.root), is_minimal=True, calibration_analysis=False, report=quiet)
    evaluate_holdout(run=str(folder.root), threads=1, report=quiet)
    return folder


@pytest.fixture
def plan(run: RunFolder) -> Plan:
    return run.read_plan()


@pytest.fixture
def genes(run: RunFolder) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(run.genes).to_pylist()
    return found


def held_out_rows(dataset: Path, genes: list[dict[str, Any]]) -> pa.Table:
    """Return the dataset's rows of held-out genes in the order of the run: by rank, then by position."""
    names = [gene["gene_id"] for gene in genes if gene["is_holdout"]]
    rows = pq.read_table(dataset / "master")
    rows = rows.filter(pc.is_in(rows["gene_id"], value_set=pa.array(names)))
    rank = [names.index(gene) for gene in rows["gene_id"].to_pylist()]
    return rows.append_column("rank", pa.array(rank)).sort_by([("rank", "ascending"), ("position", "ascending")])


def lines_of(run: RunFolder, **wanted: str) -> dict[tuple[str, str], Mapping[str, str]]:
    """Return lines of the metrics by (metric, class)."""
    with run.metrics.open(newline="") as file:
        found = [line for line in csv.DictReader(file) if all(line[name] == text for name, text in wanted.items())]
    return {(line["metric"], line["class"]): line for line in found}


def test_plan__counts_the_genes_that_are_not_held_out(plan: Plan, genes: list[dict[str, Any]]) -> None:
    held_out = [gene for gene in genes if gene["is_holdout"]]
    assert plan.data.n_holdout_genes == len(held_out) > 0
    assert plan.data.n_genes + plan.data.n_holdout_genes == len(genes) == 60
    assert plan.data.n_holdout_rows == sum(gene["n_rows"] for gene in held_out)
    assert [gene["gene_rank"] for gene in held_out] == list(range(plan.data.n_genes, 60))
    groups = {gene["fold_group"] for gene in held_out}
    assert not groups & {gene["fold_group"] for gene in genes if not gene["is_holdout"]}
    # a quarter of the groups, rounded
    assert len(groups) == round(len({gene["fold_group"] for gene in genes}) / 4)
    assert Plan.from_json(plan.to_json()) == plan


def test_instances__see_no_held_out_gene(run: RunFolder, plan: Plan, genes: list[dict[str, Any]]) -> None:
    """Neither in their lists of genes, nor in their segments, nor among the genes that stop a fit."""
    names = {gene["gene_id"] for gene in genes if gene["is_holdout"]}
    known = read_gene_folds(run, plan)
    assert set(known.gene_id) == {gene["gene_id"] for gene in genes} - names
    stopping = {
        group
        for fold in range(plan.settings.n_folds)
        for group in stopping_groups(known.group, known.fold, fold, plan.settings.seed)
    }
    assert not stopping & {gene["fold_group"] for gene in genes if gene["is_holdout"]}
    covered: set[int] = set()
    for instance in plan.cut.instances:
        listed = (run.instance(instance) / "genes.txt").read_text().split()
        assert not names & set(listed)
        segments = segments_of(plan, instance)
        keys = SegmentReader(plan, segments, run.segments).keys()
        assert keys["gene_rank"].max() < plan.data.n_genes
        covered |= set(keys["gene_rank"].tolist())
    assert covered == set(range(plan.data.n_genes))
    keys = SegmentReader(plan, plan.cut.holdout_segments, run.segments).keys()
    assert set(keys["gene_rank"].tolist()) == set(range(plan.data.n_genes, 60))
    assert len(keys) == plan.data.n_holdout_rows
    out_of_fold = pq.read_table(run.out_of_fold)
    assert not names & set(out_of_fold["gene_id"].to_pylist())
    assert len(out_of_fold) == plan.data.n_rows


def test_coverage__is_whole_without_held_out_genes(run: RunFolder, plan: Plan) -> None:
    summary = json.loads(run.summary.read_bytes())
    assert (summary["n_genes"], summary["coverage_fraction"]) == (plan.data.n_genes, 1)


def test_predictions__are_those_of_the_model_file(
    run: RunFolder, plan: Plan, genes: list[dict[str, Any]], lean_dataset: Path
) -> None:
    rows = held_out_rows(lean_dataset, genes)
    found = pq.read_table(run.holdout_predictions)
    assert found["row_id"].to_pylist() == list(range(plan.data.n_rows, plan.data.n_rows + plan.data.n_holdout_rows))
    for name, column in (("gene_id", "gene_id"), ("position", "position"), ("label", "splice_type")):
        assert found[name].to_pylist() == rows[column].to_pylist()
    probabilities = load_unified_model(run.root).predict_proba(rows)
    written = np.column_stack([found[f"p_{name}"].to_numpy() for name in plan.data.classes])
    np.testing.assert_allclose(written, probabilities, atol=1e-6)


def test_metrics__equal_direct_prediction_of_the_held_out_rows(
    run: RunFolder, plan: Plan, genes: list[dict[str, Any]], lean_dataset: Path
) -> None:
    rows = held_out_rows(lean_dataset, genes)
    label = np.array([plan.data.classes.index(text) for text in rows["splice_type"].to_pylist()])
    groups = np.unique(rows["overlap_cluster"].to_pylist(), return_inverse=True)[1]
    models: dict[tuple[str, str], Any] = {("ensemble", ""): load_unified_model(run.root)}
    for instance in plan.cut.instances:
        models["member", str(instance.instance_id)] = load_unified_model(run.instance(instance))
    for (scope, number), model in models.items():
        lines = lines_of(run, scope=scope, instance_id=number, evaluated_on="holdout")
        probabilities = model.predict_proba(rows)
        exact = probabilities.astype(np.float64)
        of_gene = np.array(rows["rank"].to_pylist())
        for one in score(probabilities, label, groups, plan.data.classes, seed=plan.settings.seed, genes=of_gene):
            line = lines[one.metric, one.class_name]
            for name in ("value", "low", "high"):
                if line[name]:
                    assert float(line[name]) == pytest.approx(getattr(one, name), abs=1e-6)
                else:
                    assert np.isnan(getattr(one, name))
            assert (line["n_genes"], line["n_rows"]) == (str(plan.data.n_holdout_genes), str(plan.data.n_holdout_rows))
        expected = average_precision_score(label == 1, probabilities[:, 1])
        assert float(lines["average_precision", "donor"]["value"]) == pytest.approx(expected, abs=1e-6)
        assert float(lines["log_loss", "all"]["value"]) == pytest.approx(
            log_loss(label, exact / exact.sum(axis=1, keepdims=True)), abs=1e-5
        )


def test_metrics__ensemble_minus_base_are_paired(run: RunFolder) -> None:
    """Under the same draws: an interval narrower than those of both together, round the difference of the values."""
    base, ensemble, gap = (
        lines_of(run, scope=scope, evaluated_on="holdout") for scope in ("base", "ensemble", "difference")
    )
    assert set(gap) == set(base) == set(ensemble)
    assert {line["variant"] for line in gap.values()} == {"ensemble - base"}
    for key, line in gap.items():
        both = [float(one[key]["value"]) for one in (ensemble, base)]
        assert float(line["value"]) == pytest.approx(both[0] - both[1], abs=1e-12)
        assert float(line["low"]) <= float(line["value"]) <= float(line["high"])
    width, *widths = (
        float(one["log_loss", "all"]["high"]) - float(one["log_loss", "all"]["low"]) for one in (gap, base, ensemble)
    )
    assert width < sum(widths)


def test_metrics__of_the_base_model_order_rows_as_its_scores_do(
    run: RunFolder, plan: Plan, genes: list[dict[str, Any]], lean_dataset: Path
) -> None:
    rows = held_out_rows(lean_dataset, genes)
    is_donor = np.array(rows["splice_type"].to_pylist()) == "donor"
    line = lines_of(run, scope="base", evaluated_on="holdout")["average_precision", "donor"]
    expected = average_precision_score(is_donor, rows["donor_score"].to_numpy())
    assert float(line["value"]) == pytest.approx(expected, abs=1e-8)


def test_metrics__a_second_evaluation_changes_nothing(run: RunFolder) -> None:
    before = run.metrics.read_bytes(), run.holdout_predictions.read_bytes()
    assert lines_of(run, evaluated_on="oof")
    evaluate_holdout(run=str(run.root), threads=2, report=quiet)
    assert (run.metrics.read_bytes(), run.holdout_predictions.read_bytes()) == before


def test_catalogue__marks_held_out_genes_and_leaves_them_out_of_coverage(run: RunFolder, plan: Plan) -> None:
    names = ("settings", "versions", "plan_sha256", "started_at", "finished_at", "status")
    write_catalogue(run, plan, dict.fromkeys(names, ""))
    query = "select count(*) as n, count(fold) as folds, sum(n_instances)::int as used from genes where is_holdout"
    (row,) = json.loads(call("sql", run.root, query, "--json").stdout)
    assert row == {"n": plan.data.n_holdout_genes, "folds": 0, "used": 0}
    (row,) = json.loads(call("sql", run.root, "--name", "coverage", "--json").stdout)
    assert (row["n_genes_dataset"], row["n_genes"], row["n_genes_trained"]) == (
        60,
        plan.data.n_genes,
        plan.data.n_genes,
    )
    assert row["coverage_fraction"] == 1
    rows = json.loads(call("sql", run.root, "--name", "held_out", "--json").stdout)
    with run.metrics.open(newline="") as lines:
        held_out = [line for line in csv.DictReader(lines) if line["evaluated_on"] == "holdout"]
    assert len(rows) == len(held_out) > 0
    for ours, theirs in zip(rows, held_out, strict=True):
        assert (ours["scope"], ours["metric"], ours["class"]) == (theirs["scope"], theirs["metric"], theirs["class"])
        assert ours["value"] == (pytest.approx(float(theirs["value"]), abs=5.1e-5) if theirs["value"] else None)
    (row,) = json.loads(call("sql", run.root, "select count(*) as n from gene_folds", "--json").stdout)
    assert row["n"] == plan.data.n_genes
    query = "select distinct scope from metrics where evaluated_on = 'holdout' order by 1"
    assert [one["scope"] for one in json.loads(call("sql", run.root, query, "--json").stdout)] == [
        "base",
        "difference",
        "ensemble",
        "member",
    ]


def test_predict__held_out_genes_are_not_marked_as_trained_on(
    run: RunFolder, plan: Plan, genes: list[dict[str, Any]], lean_dataset: Path, tmp_path: Path
) -> None:
    found = predict_file(load_unified_model(run.model), str(lean_dataset), tmp_path / "p.parquet", report=quiet)
    table = pq.read_table(tmp_path / "p.parquet", columns=["gene_id", "trained_on"])
    held_out = {gene["gene_id"] for gene in genes if gene["is_holdout"]}
    assert table["trained_on"].to_pylist() == [gene not in held_out for gene in table["gene_id"].to_pylist()]
    assert (found.n_genes_trained_on, found.n_rows_trained_on) == (plan.data.n_genes, plan.data.n_rows)


def test_plan__of_sampled_genes_holds_out_some_of_them(lean_dataset: Path, tmp_path: Path) -> None:
    flags = ("--sample-genes", "40", "--holdout-genes", "0.2", "--strategy", "single", "--threads", "1")
    result = call("plan", lean_dataset, "--out", tmp_path / "run", *flags)
    assert result.exit_code == 0, result.output
    plan = RunFolder(tmp_path / "run").read_plan()
    assert plan.data.n_genes + plan.data.n_holdout_genes == 40
    assert plan.data.n_holdout_genes > 0
    assert "Sampling 40 genes out of 60" in result.stderr
    assert f"Holding out {plan.data.n_holdout_genes} genes of" in result.stderr
    partition_here(run=str(tmp_path / "run"), threads=1, report=quiet)
    keys = SegmentReader(plan, plan.cut.all_segments, RunFolder(tmp_path / "run").segments).keys()
    assert set(keys["gene_rank"].tolist()) == set(range(40))
