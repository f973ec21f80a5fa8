"""Every row is scored by boosters that never saw its fold group, and the scores are worth what they say."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xgboost as xgb
from sklearn.metrics import average_precision_score, f1_score
from test_pipeline import finished_run, planned, quiet, trained

from mi_duck.checkpoint import read_parts
from mi_duck.ensemble.out_of_fold import best_threshold, evaluate_run, predict_out_of_fold, read_fold_models
from mi_duck.errors import CheckpointError
from mi_duck.folders import RunFolder
from mi_duck.train.calibrate import Calibrator, probabilities

CLASSES = ("neither", "donor", "acceptor")
P = [f"p_{name}" for name in CLASSES]


@pytest.fixture(scope="module")
def run(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(small_dataset, tmp_path_factory)


def scored(dataset: Path, out: Path, *flags: str) -> Path:
    """Train a run and score it out of fold, in this process."""
    trained(dataset, out, *flags)
    for stage in (predict_out_of_fold, evaluate_run):
        stage(run=str(out), threads=1, report=quiet)
    return out


def by_hand(run: Path, dataset: Path) -> dict[tuple[str, int, int], np.ndarray]:
    """Return the members' mean for every (gene, position, label), from raw features and the fold models alone."""
    genes = pq.read_table(run / "genes.parquet")
    fold_of = dict(zip(genes["gene_id"].to_pylist(), genes["fold"].to_pylist(), strict=True))
    rows = pq.read_table(dataset / "master")
    features = RunFolder(run).read_plan().features
    matrix = np.column_stack([rows[name].to_numpy().astype(np.float32) for name in features])
    fold = np.array([fold_of[gene] for gene in rows["gene_id"].to_pylist()])
    members = []
    for where in sorted(run.glob("multi_instance_training/*")):
        parts = read_parts(where / "fold_models.miduck")
        facts = json.loads(parts["model.json"])
        chances = np.empty((len(rows), 3))
        for number in np.unique(fold):
            margins = [
                xgb.Booster(model_file=bytearray(parts[f"booster_{number}_{index}.ubj"])).inplace_predict(
                    matrix[fold == number], predict_type="margin"
                )
                for index in range(3)
            ]
            calibrators = [Calibrator.from_dict(values) for values in facts["calibrators"][number]]
            chances[fold == number] = probabilities(np.column_stack(margins), calibrators)
        members.append(chances)
    label = [CLASSES.index(text) for text in rows["splice_type"].to_pylist()]
    keys = zip(rows["gene_id"].to_pylist(), rows["position"].to_pylist(), label, strict=True)
    return dict(zip(keys, np.mean(members, axis=0), strict=True))


def found_scores(file: Path) -> dict[tuple[str, int, int], np.ndarray]:
    table = pq.read_table(file)
    chances = np.column_stack([table[name].to_numpy() for name in P])
    label = [CLASSES.index(text) for text in table["label"].to_pylist()]
    keys = zip(table["gene_id"].to_pylist(), table["position"].to_pylist(), label, strict=True)
    return dict(zip(keys, chances, strict=True))


def test_out_of_fold__ensemble_scores_equal_those_made_by_hand_from_the_fold_models(
    run: Path, small_dataset: Path
) -> None:
    expected, found = by_hand(run, small_dataset), found_scores(run / "oof_predictions.parquet")
    assert expected.keys() == found.keys()
    assert max(np.abs(found[key] - expected[key]).max() for key in expected) < 1e-6


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
    assert table.column_names == ["row_id", "gene_id", "position", "label", "fold", *P]
    chances = np.column_stack([table[name].to_numpy() for name in P])
    assert chances.sum(axis=1) == pytest.approx(1, abs=1e-6)


def test_out_of_fold__row_ids_of_instances_name_the_same_rows(run: Path) -> None:
    whole = pq.read_table(run / "oof_predictions.parquet").select(["row_id", "gene_id", "position", "label"])
    genes, places, labels = (whole[name].to_pylist() for name in ("gene_id", "position", "label"))
    for file in run.glob("multi_instance_training/*/oof_predictions.parquet"):
        part = pq.read_table(file)
        for row, gene, place, label in zip(
            *(part[name].to_pylist() for name in ("row_id", "gene_id", "position", "label")), strict=True
        ):
            assert (genes[row], places[row], labels[row]) == (gene, place, label)


@pytest.fixture(scope="module")
def single(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a scored run with one instance over all genes."""
    return scored(small_dataset, tmp_path_factory.mktemp("single") / "run", "--strategy", "single")


def test_out_of_fold__of_a_single_instance_equal_its_own(single: Path) -> None:
    whole = found_scores(single / "oof_predictions.parquet")
    own = found_scores(single / "multi_instance_training" / "instance_00" / "oof_predictions.parquet")
    assert whole.keys() == own.keys()
    assert max(np.abs(whole[key] - own[key]).max() for key in own) < 1e-6


def metrics(run: Path) -> dict[tuple[str, str, str, str], dict[str, float]]:
    with (run / "metrics.csv").open() as file:
        return {
            (row["scope"], row["instance_id"], row["metric"], row["class"]): {
                name: float(row[name]) for name in ("value", "low", "high", "n_genes", "n_rows")
            }
            for row in csv.DictReader(file)
        }


def test_evaluate_run__scores_equal_scikit_learn_on_the_predictions(run: Path) -> None:
    table = pq.read_table(run / "oof_predictions.parquet")
    chances = np.column_stack([table[name].to_numpy() for name in P])
    label = np.array([CLASSES.index(text) for text in table["label"].to_pylist()])
    found = metrics(run)
    for index, name in enumerate(CLASSES):
        expected = average_precision_score(label == index, chances[:, index])
        assert found["ensemble", "", "average_precision", name]["value"] == pytest.approx(expected, abs=1e-9)
    expected = f1_score(label, chances.argmax(axis=1), average="macro")
    assert found["ensemble", "", "f1", "macro"]["value"] == pytest.approx(expected, abs=1e-9)
    assert {(row["n_genes"], row["n_rows"]) for row in found.values()} == {(60.0, float(len(label)))}
    for row in found.values():
        assert row["low"] < row["value"] < row["high"]


def test_evaluate_run__scores_base_every_member_and_ensemble(run: Path) -> None:
    n = len(RunFolder(run).read_plan().instances)
    assert {(scope, number) for scope, number, _, _ in metrics(run)} == {
        ("base", ""),
        ("ensemble", ""),
        *(("member", str(number)) for number in range(n)),
    }


def test_evaluate_run__planted_features_improve_over_the_base_scores(single: Path) -> None:
    found = metrics(single)
    ensemble, base = (found[scope, "", "average_precision", "macro"]["value"] for scope in ("ensemble", "base"))
    assert ensemble > base + 0.05
    assert found["ensemble", "", "log_loss", "all"]["value"] < found["base", "", "log_loss", "all"]["value"]


def test_out_of_fold__shuffled_labels_give_the_prior(small_dataset: Path, tmp_path: Path) -> None:
    """Labels drawn anew for every row say nothing: average precision is the share of the class, within its interval."""
    rows = pq.read_table(small_dataset / "master")
    label = rows["splice_type"].combine_chunks().take(pa.array(np.random.default_rng(3).permutation(len(rows))))
    (tmp_path / "data").mkdir()
    at = rows.column_names.index("splice_type")
    pq.write_table(rows.set_column(at, "splice_type", label), tmp_path / "data" / "a.parquet")
    found = metrics(scored(tmp_path / "data", tmp_path / "run", "--strategy", "single", "--n-estimators", "5"))
    for name in ("donor", "acceptor"):
        prior = label.to_pylist().count(name) / len(label)
        one = found["ensemble", "", "average_precision", name]
        assert one["value"] < prior + 0.03
        assert one["low"] - 0.01 < prior < one["high"] + 0.01


def test_best_threshold__equals_brute_force() -> None:
    rng = np.random.default_rng(0)
    for trial in range(30):
        n = int(rng.integers(2, 60))
        chance = rng.integers(0, 12, n).astype(np.float32) / 12 if trial % 2 else rng.random(n, dtype=np.float32)
        truth = rng.random(n) < 0.4
        truth[0] = True
        found = best_threshold(chance, truth)
        scores = {float(edge): f1_score(truth, chance >= edge, zero_division=0) for edge in chance}
        assert scores[found] == pytest.approx(max(scores.values()), abs=1e-12)


def test_predict_out_of_fold__without_a_trained_instance_is_refused(small_dataset: Path, tmp_path: Path) -> None:
    out = planned(small_dataset, tmp_path / "run")
    with pytest.raises(CheckpointError, match="no instance of .* is trained"):
        predict_out_of_fold(run=str(out), threads=1, report=lambda *step: None)
    with pytest.raises(CheckpointError, match="no out-of-fold scores yet"):
        evaluate_run(run=str(out), threads=1, report=lambda *step: None)


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


def test_consolidation_summary__thresholds_are_the_best_of_the_predictions(run: Path) -> None:
    table = pq.read_table(run / "oof_predictions.parquet")
    summary: dict[str, Any] = json.loads((run / "consolidation_summary.json").read_bytes())
    for name in CLASSES:
        truth = np.array([text == name for text in table["label"].to_pylist()])
        assert summary["thresholds"][name] == pytest.approx(best_threshold(table[f"p_{name}"].to_numpy(), truth))
    assert summary["coverage_fraction"] == 1
    assert sum(one["weight"] for one in summary["members"]) == pytest.approx(1)
