"""The base model is calibrated by one rule wherever it is compared, and not at all where the run calibrates nothing."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from runs import FAST, here
from sklearn.metrics import f1_score, log_loss, roc_auc_score

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
    given = np.where(np.isnan(scores), 0.5, scores)
    np.testing.assert_allclose(found.before, given, atol=1e-6)
    np.testing.assert_allclose(found.probabilities, given / given.sum(axis=1, keepdims=True), atol=1e-6)
    assert {one.method for one in found.calibration.final} == {"none"}
    np.testing.assert_allclose(found.on_other_rows(scores), found.probabilities, atol=1e-6)


def test_base_model__is_on_other_rows_what_the_final_calibrators_say() -> None:
    scores, labels, folds = drawn()
    found = base_model(scores, labels, folds, n_folds=3, is_calibrated=True)
    assert {one.method for one in found.calibration.final} != {"none"}
    other = found.on_other_rows(scores[::-1])
    assert log_loss(labels, other[::-1]) < log_loss(
        labels, base_model(scores, labels, folds, n_folds=3, is_calibrated=False, dtype=np.float64).probabilities
    )


@pytest.fixture(scope="module")
def run(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that calibrates nothing and holds genes out."""
    out = tmp_path_factory.mktemp("uncalibrated") / "run"
    here("run", small_dataset, "--out", out, *FAST, "--no-calibrate-per-class", "--holdout-genes", "0.25")
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
    run: Path, small_dataset: Path, evaluated_on: str, predictions: str
) -> None:
    base, labels = uncalibrated(run / predictions, small_dataset)
    with (run / "metrics.csv").open(newline="") as file:
        lines = [
            line for line in csv.DictReader(file) if (line["scope"], line["evaluated_on"]) == ("base", evaluated_on)
        ]
    found = {(line["metric"], line["class"]): float(line["value"]) for line in lines if line["value"]}
    assert found["log_loss", "all"] == pytest.approx(log_loss(labels, base), abs=1e-5)
    assert found["f1", "macro"] == pytest.approx(f1_score(labels, base.argmax(axis=1), average="macro"), abs=1e-6)


def test_no_calibration__holds_for_the_base_model_beside_an_instance(run: Path, small_dataset: Path) -> None:
    """Errors at one half depend on calibration, the ROC area hardly."""
    where = run / "multi_instance_training" / "instance_00"
    assert {one["method"] for one in json.loads((where / "calibration.json").read_bytes()).values()} == {"none"}
    base, labels = uncalibrated(where / "oof_predictions.parquet", small_dataset)
    fold = pq.read_table(where / "oof_predictions.parquet", columns=["fold"])["fold"].to_numpy()
    with (where / "gene_cv_metrics.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3
    for line in lines:
        rows = fold == int(line["fold"])
        site, truth = base[rows, 1:].sum(axis=1), labels[rows] > 0
        assert float(line["base_f1"]) == pytest.approx(f1_score(truth, site >= 0.5), abs=1e-6)
        assert float(line["auc_base"]) == pytest.approx(roc_auc_score(truth, site), abs=1e-5)
