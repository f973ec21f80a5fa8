"""Every way to join members is what its formula says, and nothing of a fold depends on the labels of the fold."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from runs import finished_run, quiet
from sklearn.metrics import f1_score

from mi_duck.ensemble.consolidate import join_run, predict_out_of_fold
from mi_duck.ensemble.member_scores import MemberScores, read_member_scores
from mi_duck.ensemble.model import ConsolidatedMetaModel
from mi_duck.ensemble.model_file import load_unified_model, read_fold_models
from mi_duck.ensemble.predict import predict_file
from mi_duck.ensemble.voting import REFIT, Joined, MemberWeights, Variant, all_weights, variants, vote_out_of_fold
from mi_duck.metrics.calibrate import Calibrator, calibrate, calibrated
from mi_duck.metrics.metrics import log_loss_of_rows
from mi_duck.processes import Context
from mi_duck.rows.partition import partition_here
from mi_duck.run.folder import RunFolder
from mi_duck.workflow.pipeline import consolidate_run

METHODS = ("none", "platt", "isotonic")


@pytest.fixture(scope="module")
def run(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run whose segments are there again."""
    out = tmp_path_factory.mktemp("variants") / "run"
    shutil.copytree(finished_run(small_dataset, tmp_path_factory), out)
    partition_here(run=str(out), threads=1, report=quiet)
    return out


@pytest.fixture(scope="module")
def chosen(run: Path) -> Joined:
    """Return what is found when everything is left to the log loss."""
    every = {
        "run": str(run),
        "threads": 1,
        "consolidation": "auto",
        "voting": "auto",
        "weights": "auto",
        "report": quiet,
    }
    join_run(**every)  # which refits leaves
    return predict_out_of_fold(**every)


@pytest.fixture(scope="module")
def scores(run: Path, chosen: Joined) -> MemberScores:
    folder = RunFolder(run)
    return read_member_scores(folder, folder.read_plan())


def test_member_scores__probabilities_are_the_margins_calibrated_without_the_fold(
    run: Path, scores: MemberScores
) -> None:
    for number in scores.instance_ids:
        models = read_fold_models(run / "multi_instance_training" / f"instance_{number:02d}" / "fold_models.miduck")
        margins, probabilities = scores.margins(number), scores.probabilities(number)
        for fold, calibrators in enumerate(models.calibrators):
            rows = scores.fold == fold
            np.testing.assert_allclose(probabilities[rows], calibrated(margins[rows], calibrators), atol=1e-7)


def test_member_scores__rows_are_those_of_the_predictions(run: Path, scores: MemberScores) -> None:
    table = pq.read_table(run / "oof_predictions.parquet")
    assert table["position"].to_pylist() == list(scores.positions())  # type: ignore[arg-type]
    assert table["fold"].to_pylist() == scores.fold.tolist()
    assert [scores.classes.index(text) for text in table["label"].to_pylist()] == scores.label.tolist()
    own = pq.read_table(run / "multi_instance_training" / "instance_01" / "oof_predictions.parquet")
    rows = own["row_id"].to_numpy()
    np.testing.assert_allclose(scores.probabilities(1)[rows, 1], own["p_donor"].to_numpy(), atol=1e-6)
    assert scores.base().shape == (scores.n_rows, 3)


WEIGHTS = MemberWeights((0.5, 0.3, 0.2), ((0.6, 0.4, 0.0), (0.2, 0.3, 0.5), (1.0, 0.0, 0.0)))


def test_vote_out_of_fold__of_probabilities_is_their_mean_by_the_weights_of_the_fold(scores: MemberScores) -> None:
    found = vote_out_of_fold(scores, "probability", WEIGHTS, first_scored=0, methods=("none",))
    np.testing.assert_allclose(found.probabilities, mean_of(scores), atol=1e-6)
    assert found.calibration is None


def mean_of(scores: MemberScores) -> np.ndarray:
    """Return the mean of the members' probabilities by the weights of each row's fold."""
    by_row = np.array(WEIGHTS.by_fold)[scores.fold]
    parts = [by_row[:, [index]] * scores.probabilities(number) for index, number in enumerate(scores.instance_ids)]
    return np.sum(parts, axis=0)


def test_vote_out_of_fold__of_probabilities_is_calibrated_on_top_where_that_lowers_the_log_loss(
    scores: MemberScores,
) -> None:
    found = vote_out_of_fold(scores, "probability", WEIGHTS, first_scored=0, methods=METHODS)
    mean = mean_of(scores)
    assert found.calibration is not None
    assert log_loss_of_rows(found.probabilities, scores.label).mean() < log_loss_of_rows(mean, scores.label).mean()
    for fold in range(3):
        rows = scores.fold == fold
        expected = calibrated(np.log(mean[rows] / (1 - mean[rows])), found.calibration.by_fold[fold])
        np.testing.assert_allclose(found.probabilities[rows], expected, atol=2e-4)  # its steps, at single precision
    # labels drawn from the mean itself: nothing is left to correct, and what would only fit noise is not kept
    rng = np.random.default_rng(5)
    drawn = (rng.random(scores.n_rows)[:, None] > mean.cumsum(axis=1)).sum(axis=1).clip(0, 2)
    honest = vote_out_of_fold(
        dataclasses.replace(scores, label=drawn.astype(scores.label.dtype)),
        "probability",
        WEIGHTS,
        first_scored=0,
        methods=METHODS,
    )
    if honest.calibration is None:
        np.testing.assert_allclose(honest.probabilities, mean, atol=1e-6)
    gap = log_loss_of_rows(honest.probabilities, drawn).mean() - log_loss_of_rows(mean, drawn).mean()
    assert -2e-3 < gap <= 1e-9


def assert_same(one: Calibrator, other: Calibrator, margins: np.ndarray) -> None:
    """Check that two calibrators are the same method and say the same."""
    assert one.method == other.method
    np.testing.assert_allclose(one.apply(margins), other.apply(margins), atol=2e-3)
    assert np.abs(one.apply(margins) - other.apply(margins)).mean() < 1e-5


def test_vote_out_of_fold__of_margins_is_calibrated_without_the_fold(scores: MemberScores) -> None:
    found = vote_out_of_fold(scores, "margin", WEIGHTS, first_scored=0, methods=METHODS)
    by_row = np.array(WEIGHTS.by_fold)[scores.fold]
    margins = sum(by_row[:, [index]] * scores.margins(number) for index, number in enumerate(scores.instance_ids))
    np.testing.assert_allclose(found.margins, margins, atol=1e-5)
    assert found.calibration is not None
    for fold in range(3):
        rows = scores.fold == fold
        methods = [one.method for one in found.calibration.final]
        # fitted anew without the rows of the fold, each class by the method that won, on margins joined by its weights
        of_fold = WEIGHTS.by_fold[fold]
        joined = sum(weight * scores.margins(number) for weight, number in zip(of_fold, (0, 1, 2), strict=True))
        for index, method in enumerate(methods):
            alone = calibrate(
                np.asarray(joined)[~rows][:, [index]].astype(np.float32),
                np.where(scores.label[~rows] == index, 0, 1),
                scores.fold[~rows],
                n_folds=3,
                methods=(method,),
            )
            # class 0 of this call is the class against the rest
            assert_same(found.calibration.by_fold[fold][index], alone.final[0], np.asarray(joined)[rows, index])
        expected = calibrated(np.asarray(found.margins)[rows], found.calibration.by_fold[fold])
        np.testing.assert_allclose(found.probabilities[rows], expected, atol=1e-7)


def test_vote_out_of_fold__of_a_fold_does_not_depend_on_its_labels(scores: MemberScores) -> None:
    other = dataclasses.replace(scores, label=np.where(scores.fold == 1, (scores.label + 1) % 3, scores.label))
    for name, weights in all_weights(scores, 0).items():
        changed = all_weights(other, 0)[name]
        assert changed.by_fold[1] == weights.by_fold[1]
        voting = name.split("/")[0]
        one, two = (
            vote_out_of_fold(given, voting, of, first_scored=0, methods=("platt",)).probabilities[scores.fold == 1]
            for given, of in ((scores, weights), (other, changed))
        )
        assert np.array_equal(one, two)


def test_all_weights__by_f1_are_those_of_scikit_learn(scores: MemberScores) -> None:
    found = all_weights(scores, 0)
    assert set(found) == {one.name for one in variants("auto")}
    assert found["margin/uniform"].final == pytest.approx((1 / 3,) * 3)
    called = [scores.probabilities(number).argmax(axis=1) for number in scores.instance_ids]
    f1 = np.array([f1_score(scores.label, one, average="macro") for one in called])
    assert found["probability/f1"].final == pytest.approx(f1 / f1.sum())


def test_all_weights__rows_before_the_first_are_not_looked_at(scores: MemberScores) -> None:
    label = scores.label.copy()
    label[:500] = (label[:500] + 1) % 3
    other = dataclasses.replace(scores, label=label)
    assert all_weights(scores, 500) == all_weights(other, 500)
    assert all_weights(scores, 0) != all_weights(other, 0)


def test_variants__auto_leaves_all_open_and_begins_with_the_default() -> None:
    votes = [f"{voting}/{method}" for voting in ("probability", "margin") for method in ("uniform", "f1", "fitted")]
    assert [one.name for one in variants("auto")] == [*votes, "refit/uniform"]
    assert [one.name for one in variants("voting")] == votes
    assert variants("voting", "margin", "fitted") == [Variant("margin", "fitted")]
    assert [one.name for one in variants("auto", "auto", "f1")] == ["probability/f1", "margin/f1", "refit/uniform"]
    assert variants("refit") == [REFIT]


def test_auto__takes_the_lowest_cross_fitted_log_loss(scores: MemberScores, chosen: Joined) -> None:
    weights = all_weights(scores, 0)
    losses = {
        one.name: log_loss_of_rows(
            vote_out_of_fold(scores, one.voting, weights[one.name], first_scored=0, methods=METHODS).probabilities,
            scores.label,
        ).mean()
        for one in variants("auto")
    }
    assert chosen.log_loss == losses
    assert losses[chosen.variant.name] == min(losses.values())
    assert chosen.all_weights == weights


@pytest.mark.parametrize(("voting", "method"), [("margin", "fitted"), ("probability", "f1")])
def test_consolidate__the_model_does_what_the_chosen_variant_does(
    run: Path, small_dataset: Path, tmp_path: Path, voting: str, method: str
) -> None:
    """Same voting, weights and calibrators as out of fold, with the final boosters."""
    out = tmp_path / "run"
    shutil.copytree(run, out)
    said: list[str] = []
    consolidate_run(out, Context(1, quiet, said.append), consolidation="voting", voting=voting, weights=method)
    folder = RunFolder(out)
    scores = read_member_scores(folder, folder.read_plan())
    weights = all_weights(scores, 0)[f"{voting}/{method}"]
    summary = json.loads(folder.summary.read_bytes())
    assert (summary["voting"], summary["weights"], summary["variant"]) == (voting, method, f"{voting}/{method}")
    assert [one["weight"] for one in summary["members"]] == list(weights.final)
    model = load_unified_model(out)
    assert isinstance(model, ConsolidatedMetaModel)
    assert (model.voting, model.weights) == (voting, weights.final)
    voted = vote_out_of_fold(scores, voting, weights, first_scored=0, methods=METHODS)
    table = pq.read_table(folder.out_of_fold)
    found = np.column_stack([table[f"p_{name}"].to_numpy() for name in scores.classes])
    assert np.array_equal(found, voted.probabilities)
    rows = pq.read_table(small_dataset / "master").slice(0, 300)
    matrix = np.column_stack([rows[name].to_numpy().astype(np.float32) for name in model.features])
    margins = np.stack([one.margins(matrix.copy(), threads=1) for one in model.members])
    if voting == "margin":
        assert voted.calibration is not None
        assert model.calibrators == voted.calibration.final
        mean = np.einsum("m,mrc->rc", weights.final, margins.astype(float))
        expected = calibrated(mean.astype(np.float32), voted.calibration.final)
    else:
        probabilities = [calibrated(own, one.calibrators) for own, one in zip(margins, model.members, strict=True)]
        mean = np.einsum("m,mrc->rc", weights.final, np.stack(probabilities))
        assert voted.calibration is not None
        assert model.calibrators == voted.calibration.final
        expected = calibrated(np.log(mean / (1 - mean)), voted.calibration.final)
    np.testing.assert_allclose(model.predict_proba(rows), expected, atol=1e-6)
    predict_file(model, str(small_dataset / "master"), tmp_path / "p.parquet", report=quiet)
    written = pq.read_table(tmp_path / "p.parquet").slice(0, 300)
    np.testing.assert_allclose(written["p_donor"].to_numpy(), expected[:, 1], atol=1e-6)
    assert not any("lowest" in line for line in said)


def test_consolidate__auto_says_what_it_chose(run: Path, tmp_path: Path, chosen: Joined) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    said: list[str] = []
    consolidate_run(out, Context(1, quiet, said.append), consolidation="auto", voting="auto", weights="auto")
    name = chosen.variant.name
    line = next(line for line in said if "lowest cross-fitted log loss" in line)
    assert line.startswith(f"Consolidation: {name} has the lowest")
    assert all(one.name in line for one in variants("auto"))
    assert json.loads((out / "consolidation_summary.json").read_bytes())["variant"] == name
