"""Every row is scored by boosters that never saw its fold group, and the scores are worth what they say."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import xgboost as xgb
from runs import finished_run, planned, quiet, trained

from mi_duck.archive import read_parts
from mi_duck.ensemble.consolidate import predict_out_of_fold
from mi_duck.ensemble.model_file import read_fold_models
from mi_duck.errors import CheckpointError
from mi_duck.evaluate.evaluate import evaluate_run
from mi_duck.metrics.calibrate import Calibrator, calibrate, calibrated, cross_fitted
from mi_duck.metrics.ranking import find_thresholds, values_of
from mi_duck.run.encoding import Encoding
from mi_duck.run.folder import RunFolder

CLASSES = ("neither", "donor", "acceptor")
P = [f"p_{name}" for name in CLASSES]


@pytest.fixture(scope="module")
def run(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(small_dataset, tmp_path_factory)


def by_hand(run: Path, dataset: Path) -> dict[tuple[str, int, int], np.ndarray]:
    """Return the members' mean for every (gene, position, label), from raw features and the fold models alone."""
    genes = pq.read_table(run / "genes.parquet")
    fold_of = dict(zip(genes["gene_id"].to_pylist(), genes["fold"].to_pylist(), strict=True))
    rows = pq.read_table(dataset / "master")
    features = RunFolder(run).read_plan().data.features
    matrix = np.column_stack([rows[name].to_numpy().astype(np.float32) for name in features])
    fold = np.array([fold_of[gene] for gene in rows["gene_id"].to_pylist()])
    members = []
    for where in sorted(run.glob("multi_instance_training/*")):
        parts = read_parts(where / "fold_models.miduck")
        facts = json.loads(parts["model.json"])
        encoded = Encoding.from_dict(facts["encoding"]).apply(matrix.copy(), features)
        probabilities = np.empty((len(rows), 3))
        for number in np.unique(fold):
            margins = [
                xgb.Booster(model_file=bytearray(parts[f"booster_{number}_{index}.ubj"])).inplace_predict(
                    encoded[fold == number], predict_type="margin"
                )
                for index in range(3)
            ]
            calibrators = [Calibrator.from_dict(values) for values in facts["calibrators"][number]]
            probabilities[fold == number] = calibrated(np.column_stack(margins), calibrators)
        members.append(probabilities)
    label = [CLASSES.index(text) for text in rows["splice_type"].to_pylist()]
    keys = zip(rows["gene_id"].to_pylist(), rows["position"].to_pylist(), label, strict=True)
    return dict(zip(keys, np.mean(members, axis=0), strict=True))


def found_scores(file: Path) -> dict[tuple[str, int, int], np.ndarray]:
    table = pq.read_table(file)
    probabilities = np.column_stack([table[name].to_numpy() for name in P])
    label = [CLASSES.index(text) for text in table["label"].to_pylist()]
    keys = zip(table["gene_id"].to_pylist(), table["position"].to_pylist(), label, strict=True)
    return dict(zip(keys, probabilities, strict=True))


def test_out_of_fold__ensemble_scores_equal_those_made_by_hand_from_the_fold_models(
    run: Path, small_dataset: Path
) -> None:
    expected, found = by_hand(run, small_dataset), found_scores(run / "oof_predictions.parquet")
    assert expected.keys() == found.keys()
    # the mean is calibrated on top, each fold by what was fitted on the others
    mean = np.stack([expected[key] for key in found])
    label = np.array([label for _, _, label in found])
    fold = pq.read_table(run / "oof_predictions.parquet")["fold"].to_numpy()
    margins = np.log(mean / (1 - mean)).astype(np.float32)
    on_top = calibrate(margins, label, fold, n_folds=int(fold.max()) + 1)
    np.testing.assert_allclose(np.stack(list(found.values())), cross_fitted(margins, on_top, fold), atol=2e-3)


def test_out_of_fold__no_fold_booster_saw_a_gene_of_its_fold(run: Path) -> None:
    """The fold of a row in the predictions is the global fold of its gene."""
    genes = pq.read_table(run / "genes.parquet")
    fold_of = dict(zip(genes["gene_id"].to_pylist(), genes["fold"].to_pylist(), strict=True))
    groups: dict[str, set[int]] = {}
    for group, fold in zip(genes["fold_group"].to_pylist(), genes["fold"].to_pylist(), strict=True):
        groups.setdefault(group, set()).add(fold)
    assert all(len(folds) == 1 for folds in groups.values())
    for file in [run / "oof_predictions.parquet", *run.glob("multi_instance_training/*/oof_predictions.parquet")]:
        table = pq.read_table(file)
        assert table["fold"].to_pylist() == [fold_of[gene] for gene in table["gene_id"].to_pylist()]


def test_out_of_fold__rows_are_all_there_once_and_in_order(run: Path, small_dataset: Path) -> None:
    table = pq.read_table(run / "oof_predictions.parquet")
    assert table["row_id"].to_pylist() == list(range(len(table)))
    assert len(table) == pq.read_table(small_dataset / "master", columns=["position"]).num_rows
    kept = ["source_file", "source_row", "chrom", "strand", "absolute_position"]
    assert table.column_names == ["row_id", "gene_id", "position", "label", "fold", "is_pilot", *P, *kept]
    probabilities = np.column_stack([table[name].to_numpy() for name in P])
    assert probabilities.sum(axis=1) == pytest.approx(1, abs=1e-6)


def test_out_of_fold__row_ids_of_instances_name_the_same_rows(run: Path) -> None:
    whole = pq.read_table(run / "oof_predictions.parquet").select(["row_id", "gene_id", "position", "label"])
    genes, positions, labels = (whole[name].to_pylist() for name in ("gene_id", "position", "label"))
    for file in run.glob("multi_instance_training/*/oof_predictions.parquet"):
        part = pq.read_table(file)
        for row, gene, position, label in zip(
            *(part[name].to_pylist() for name in ("row_id", "gene_id", "position", "label")), strict=True
        ):
            assert (genes[row], positions[row], labels[row]) == (gene, position, label)


@pytest.fixture(scope="module")
def single(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run with one instance over all genes, scored out of fold."""
    out = trained(small_dataset, tmp_path_factory.mktemp("single") / "run", "--strategy", "single")
    predict_out_of_fold(run=str(out), threads=1, report=quiet)
    return out


def test_out_of_fold__of_a_single_instance_equal_its_own(single: Path) -> None:
    whole = found_scores(single / "oof_predictions.parquet")
    own = found_scores(single / "multi_instance_training" / "instance_00" / "oof_predictions.parquet")
    assert whole.keys() == own.keys()
    assert max(np.abs(whole[key] - own[key]).max() for key in own) < 1e-6


def test_predict_out_of_fold__without_a_trained_instance_is_refused(small_dataset: Path, tmp_path: Path) -> None:
    out = planned(small_dataset, tmp_path / "run")
    with pytest.raises(CheckpointError, match="no instance of .* is trained"):
        predict_out_of_fold(run=str(out), threads=1, report=lambda *step: None)
    with pytest.raises(CheckpointError, match="no out-of-fold scores yet"):
        evaluate_run(run=str(out), report=lambda *step: None)


def test_read_fold_models__a_damaged_file_is_refused(run: Path, tmp_path: Path) -> None:
    file = next(run.glob("multi_instance_training/*/fold_models.miduck"))
    models = read_fold_models(file)
    assert (len(models.boosters), len(models.boosters[0])) == (3, 3)
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "f.miduck").write_bytes(damaged)
    with pytest.raises(CheckpointError, match="damaged"):
        read_fold_models(tmp_path / "f.miduck")
    shutil.copy(run / "consolidated_model.miduck", tmp_path / "g.miduck")
    with pytest.raises(CheckpointError, match="no fold models"):
        read_fold_models(tmp_path / "g.miduck")


def test_consolidation_summary__thresholds_are_those_of_the_predictions(run: Path) -> None:
    table = pq.read_table(run / "oof_predictions.parquet")
    summary: dict[str, Any] = json.loads((run / "consolidation_summary.json").read_bytes())
    labels = np.array([CLASSES.index(text) for text in table["label"].to_pylist()])
    found = find_thresholds(
        np.column_stack([table[name].to_numpy() for name in P]), labels, table["fold"].to_numpy(), CLASSES
    )
    assert json.loads((run / "thresholds.json").read_bytes()) == found
    assert summary["thresholds"] == values_of(found)
    assert summary["coverage_fraction"] == 1
    assert (summary["variant"], summary["voting"], summary["weights"]) == (
        "probability/uniform",
        "probability",
        "uniform",
    )
    assert sum(one["weight"] for one in summary["members"]) == pytest.approx(1)
