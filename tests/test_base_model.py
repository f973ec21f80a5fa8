"""The base model is calibrated by one rule wherever it is compared, and not at all where the run calibrates nothing."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from runs import FAST, SMALL, assert_refused, call, here
from sklearn.metrics import average_precision_score, f1_score, log_loss, roc_auc_score

from mi_duck.metrics.calibrate import base_model

CLASSES = ("neither", "donor", "acceptor")


def drawn(n: int = 900) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Return (base scores with some missing, labels, folds)."""
    rng = np.random.default_rng(1)
    labels, folds = rng.choice(3, n, p=(0.6, 0.2, 0.2)), rng.integers(0, 3, n)
    scores = rng.dirichlet((2, 1, 1), n).astype(np.float32) * 0.5 + 0.5 * np.eye(3, dtype=np.float32)[labels] * 0.5
    scores[::50] = np.nan
    return scores, labels, folds


def test_base_model__of_a_fold_does_not_depend_on_its_labels() -> None:
    scores, labels, folds = drawn()
    found = base_model(scores, labels, folds, n_folds=3, is_calibrated=True, dtype=np.float64).probabilities
    assert np.abs(found.sum(axis=1) - 1).max() < 1e-12
    shuffled = labels.copy()
    # two rows alone: the kind of calibrator is chosen over all folds
    shuffled[np.flatnonzero(folds == 1)[:2]] = (shuffled[np.flatnonzero(folds == 1)[:2]] + 1) % 3
    again = base_model(scores, shuffled, folds, n_folds=3, is_calibrated=True, dtype=np.float64).probabilities
    assert np.array_equal(again[folds == 1], found[folds == 1])
    assert not np.array_equal(again[folds == 0], found[folds == 0])


def test_base_model__without_calibration_has_its_scores_normalised() -> None:
    scores, labels, folds = drawn()
    found = base_model(scores, labels, folds, n_folds=3, is_calibrated=False)
    # a missing score is the share of its class in the other folds
    others = np.array([[np.mean(labels[folds != fold] == index) for index in range(3)] for fold in range(3)])
    given = np.where(np.isnan(scores), others[folds], scores)
    assert found.n_missing == np.isnan(scores).any(axis=1).sum() == 18
    np.testing.assert_allclose(found.ranked, given, atol=1e-6)
    np.testing.assert_allclose(found.before, given, atol=1e-6)
    np.testing.assert_allclose(found.probabilities, given / given.sum(axis=1, keepdims=True), atol=1e-6)
    assert {one.method for one in found.calibration.final} == {"none"}
    known = ~np.isnan(scores).any(axis=1)
    ranked, probabilities = found.on_other_rows(scores)
    np.testing.assert_allclose(probabilities[known], found.probabilities[known], atol=1e-6)
    np.testing.assert_allclose(ranked[~known], np.tile(np.bincount(labels) / len(labels), (18, 1)), atol=1e-6)


def test_base_model__is_on_other_rows_what_the_final_calibrators_say() -> None:
    scores, labels, folds = drawn()
    found = base_model(scores, labels, folds, n_folds=3, is_calibrated=True)
    assert {one.method for one in found.calibration.final} != {"none"}
    _, other = found.on_other_rows(scores[::-1])
    assert log_loss(labels, other[::-1]) < log_loss(
        labels, base_model(scores, labels, folds, n_folds=3, is_calibrated=False, dtype=np.float64).probabilities
    )


@pytest.fixture(scope="module")
def run(lean_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that calibrates nothing and holds genes out."""
    out = tmp_path_factory.mktemp("uncalibrated") / "run"
    here("run", lean_dataset, "--out", out, *FAST, "--no-calibrate-per-class", "--holdout-genes", "0.25")
    return out


def uncalibrated(predictions: Path, dataset: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the dataset's base scores, normalised, of the rows in a file of predictions, and their labels."""
    rows = pq.read_table(dataset / "master")
    names = ("gene_id", "position", "neither_score", "donor_score", "acceptor_score")
    scores = {(gene, at): values for gene, at, *values in zip(*(rows[name].to_pylist() for name in names), strict=True)}
    table = pq.read_table(predictions)
    keys = zip(table["gene_id"].to_pylist(), table["position"].to_pylist(), strict=True)
    given = np.clip(np.array([scores[key] for key in keys], dtype=np.float64), 1e-6, 1 - 1e-6)
    labels = np.array([CLASSES.index(text) for text in table["label"].to_pylist()])
    return given / given.sum(axis=1, keepdims=True), labels


@pytest.mark.parametrize(
    ("evaluated_on", "predictions"), [("oof", "oof_predictions.parquet"), ("holdout", "holdout_predictions.parquet")]
)
def test_no_calibration__holds_in_the_metrics_of_the_base_model(
    run: Path, lean_dataset: Path, evaluated_on: str, predictions: str
) -> None:
    base, labels = uncalibrated(run / predictions, lean_dataset)
    found = base_metrics(run, evaluated_on)
    assert found["log_loss", "all"] == pytest.approx(log_loss(labels, base), abs=1e-5)
    assert found["f1", "macro"] == pytest.approx(f1_score(labels, base.argmax(axis=1), average="macro"), abs=1e-6)


def test_no_calibration__holds_for_the_base_model_beside_an_instance(run: Path, lean_dataset: Path) -> None:
    """Errors at one half depend on calibration, the ROC area hardly."""
    where = run / "multi_instance_training" / "instance_00"
    assert {one["method"] for one in json.loads((where / "calibration.json").read_bytes()).values()} == {"none"}
    base, labels = uncalibrated(where / "oof_predictions.parquet", lean_dataset)
    fold = pq.read_table(where / "oof_predictions.parquet", columns=["fold"])["fold"].to_numpy()
    with (where / "gene_cv_metrics.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3
    for line in lines:
        rows = fold == int(line["fold"])
        site, truth = base[rows, 1:].sum(axis=1), labels[rows] > 0
        assert float(line["base_f1"]) == pytest.approx(f1_score(truth, site >= 0.5), abs=1e-6)
        assert float(line["auc_base"]) == pytest.approx(roc_auc_score(truth, site), abs=1e-5)


def test_base_model__missing_scores_cost_what_they_must_and_no_more() -> None:
    """A tenth of the scores is missing by chance: the rows rank as a row of the prior does, not above most of the background.

    The expectation: known rows ranked by their scores, unknown ones in random order at the prior.
    """
    rng = np.random.default_rng(3)
    labels = (rng.random(40_000) < 0.05).astype(np.int64)
    score = 1 / (1 + np.exp(-(2.5 * labels + rng.normal(size=40_000) - 4)))
    whole = np.column_stack([1 - score, score])
    scores = np.where((rng.random(40_000) < 0.1)[:, None], np.nan, whole)
    found = base_model(scores, labels, rng.integers(0, 3, 40_000), n_folds=3, is_calibrated=True)
    known = ~np.isnan(scores[:, 1])
    filled = np.where(known, score, 0.05 + 1e-6 * rng.random(40_000))
    expected = average_precision_score(labels, filled)
    assert average_precision_score(labels, found.ranked[:, 1]) == pytest.approx(expected, abs=0.002)
    as_a_half = average_precision_score(labels, np.where(known, score, 0.5))
    assert as_a_half < expected - 0.02


def test_base_model__is_ranked_as_given_whatever_the_folds(run: Path, lean_dataset: Path) -> None:
    """Calibrators differ by fold; average precision, ROC area and top-k are of the scores in the dataset."""
    rows = pq.read_table(lean_dataset / "master")
    names = ("gene_id", "position", "donor_score")
    of_row = {(gene, at): value for gene, at, value in zip(*(rows[name].to_pylist() for name in names), strict=True)}
    for evaluated_on, file in (("oof", "oof_predictions.parquet"), ("holdout", "holdout_predictions.parquet")):
        table = pq.read_table(run / file)
        keys = zip(table["gene_id"].to_pylist(), table["position"].to_pylist(), strict=True)
        score = np.array([of_row[key] for key in keys], dtype=np.float32)
        truth = np.array(table["label"].to_pylist()) == "donor"
        found = base_metrics(run, evaluated_on)
        assert found["average_precision", "donor"] == pytest.approx(average_precision_score(truth, score), abs=1e-8)
        assert found["roc_auc", "donor"] == pytest.approx(roc_auc_score(truth, score), abs=1e-8)


def base_metrics(run: Path, evaluated_on: str) -> dict[tuple[str, str], float]:
    with (run / "metrics.csv").open(newline="") as file:
        lines = [
            line for line in csv.DictReader(file) if (line["scope"], line["evaluated_on"]) == ("base", evaluated_on)
        ]
    return {(line["metric"], line["class"]): float(line["value"]) for line in lines if line["value"]}


def with_scores(dataset: Path, folder: Path, change: Callable[[pa.Table], pa.Table], **options: bool) -> Path:
    """Write the dataset with other base scores."""
    folder.mkdir()
    pq.write_table(change(pq.read_table(dataset / "master")), folder / "a.parquet", **options)
    return folder


def scaled(rows: pa.Table, factor: float) -> pa.Table:
    at = rows.column_names.index("donor_score")
    return rows.set_column(at, "donor_score", pc.multiply(rows["donor_score"].cast("float64"), factor))


def test_plan__refuses_base_scores_that_are_no_probabilities(lean_dataset: Path, tmp_path: Path) -> None:
    """They were clipped to 1, so the base model seemed far worse than it is."""
    percent = with_scores(lean_dataset, tmp_path / "percent", lambda rows: scaled(rows, 100))
    refused = call("plan", percent, "--out", tmp_path / "run", *SMALL)
    assert_refused(refused, 65, "in column 'donor_score'")
    assert "base scores from" in refused.stderr
    signed = with_scores(lean_dataset, tmp_path / "signed", lambda rows: scaled(rows, -0.5))
    assert_refused(call("plan", signed, "--out", tmp_path / "run", *SMALL), 65, "in column 'donor_score'")
    assert "a plan would be refused: base scores from" in call("inspect", signed).output
    rounding = with_scores(lean_dataset, tmp_path / "rounding", lambda rows: scaled(rows, 1.0000001))
    here("plan", rounding, "--out", tmp_path / "run", *SMALL)


def test_run__refuses_them_where_the_footers_do_not_tell(lean_dataset: Path, tmp_path: Path) -> None:
    data = with_scores(lean_dataset, tmp_path / "data", lambda rows: scaled(rows, 100), write_statistics=False)
    assert_refused(call("run", data, "--out", tmp_path / "run", *FAST), 65, "in column 'donor_score'")


def test_run__says_how_many_rows_have_no_base_score(lean_dataset: Path, tmp_path: Path) -> None:
    def without_some(rows: pa.Table) -> pa.Table:
        at = rows.column_names.index("donor_score")
        is_known = pa.array(np.arange(len(rows)) % 10 > 0)
        return rows.set_column(at, "donor_score", pc.if_else(is_known, rows["donor_score"], None))

    data = with_scores(lean_dataset, tmp_path / "data", without_some)
    here("run", data, "--out", tmp_path / "run", *FAST, "--strategy", "single", "--n-estimators", "4")
    n_rows = pq.ParquetFile(data / "a.parquet").metadata.num_rows
    words = f"{-(-n_rows // 10):,} of {n_rows:,} rows have no base score for every class"
    assert words in (tmp_path / "run" / "unified_training_summary.txt").read_text()
    facts = json.loads((tmp_path / "run" / "base_vs_meta.json").read_bytes())
    assert facts["n_rows_without_base_score"] == -(-n_rows // 10)


def test_no_calibration__changes_no_score_of_the_ensemble(run: Path) -> None:
    """Rows are divided by their sums before and after, so what the report shows as calibration is calibration alone."""
    facts = json.loads((run / "calibration_analysis" / "calibration.json").read_bytes())["ensemble"]
    for name in CLASSES:
        for metric in ("log_loss", "brier"):
            assert facts[name]["difference"][metric]["value"] == pytest.approx(0, abs=1e-6)


def test_summary__has_the_scores_on_held_out_genes(run: Path) -> None:
    text = (run / "unified_training_summary.txt").read_text()
    section = text.partition("Scores on held-out genes\n")[2].partition("\n\nScores of")[0]
    (line,) = [one for one in section.splitlines() if one.startswith("ensemble  ")]
    with (run / "metrics.csv").open(newline="") as lines:
        values = {
            (one["metric"], one["class"]): one["value"]
            for one in csv.DictReader(lines)
            if (one["scope"], one["evaluated_on"]) == ("ensemble", "holdout")
        }
    assert f"{float(values['average_precision', 'donor']):.4f}" in line
    assert f"{float(values['log_loss', 'all']):.4f}" in line
