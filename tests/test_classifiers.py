"""Any classifier on the folds of a run, and runs blended: the same rows, no leak, the same bytes, and plain refusals."""

import json
import pickle
import random
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import assert_refused, call, child_of, end, fingerprint, here, plain_run, started
from scipy.special import expit
from sklearn.metrics import roc_auc_score

import mi_duck
from mi_duck.archive import pack, read_parts
from mi_duck.classifiers import planning, train
from mi_duck.classifiers.arrays import array_bytes
from mi_duck.classifiers.blend import greedy_weights, weights_of
from mi_duck.classifiers.blocks import TrainingRows
from mi_duck.classifiers.estimators import NETWORKS, Estimator, named_estimator
from mi_duck.classifiers.fitted import Perceptron, fitted_of
from mi_duck.classifiers.learners import BATCH_ROWS, fit_whole, learner_of
from mi_duck.classifiers.model import load_unified_model
from mi_duck.classifiers.own_objects import PICKLE, object_from_parts
from mi_duck.classifiers.preparation import RARE, moments_of
from mi_duck.classifiers.tabnet import sparsemax
from mi_duck.errors import CheckpointError, DataError, MemoryBudgetError, PlanError
from mi_duck.evaluate.catalogue import query_catalogue
from mi_duck.evaluate.compare import compare_runs
from mi_duck.genome.synthetic import synthesise
from mi_duck.processes import NO_PANDAS, without_pandas
from mi_duck.run.folder import RunFolder
from mi_duck.run.instance_folder import measurement

SLOW = pytest.mark.slow
PLAIN = ("--threads", "1", "--minimal-diagnostics", "--max-memory-per-instance-gb", "2")


@pytest.fixture(scope="module")
def logistic(lean_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cv") / "logistic"
    here("cv", lean_dataset, "--out", out, "--estimator", "logistic", *PLAIN)
    return out


@pytest.fixture(scope="module")
def sgd(lean_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cv") / "sgd"
    here("cv", lean_dataset, "--out", out, "--estimator", "sgd", "--epochs", "4", *PLAIN)
    return out


@pytest.fixture(scope="module")
def trees(lean_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_run(lean_dataset, tmp_path_factory)


@pytest.fixture(scope="module")
def blended(trees: Path, logistic: Path, sgd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cv") / "blend"
    here("blend", trees, logistic, sgd, "--out", out, "--threads", "1")
    return out


def test_blend__of_runs_with_sampled_negatives_has_their_rows(lean_dataset: Path, tmp_path: Path) -> None:
    sampled = ("--sample-negatives", "0.3", "--threads", "1", "--minimal-diagnostics")
    here("run", lean_dataset, "--out", tmp_path / "trees", *sampled, "--n-estimators", "5", "--skip-shap")
    here("cv", lean_dataset, "--out", tmp_path / "linear", *sampled, "--estimator", "logistic")
    here("blend", tmp_path / "trees", tmp_path / "linear", "--out", tmp_path / "blend", "--threads", "1")
    here("verify", tmp_path / "blend")
    plans = [RunFolder(tmp_path / name).read_plan() for name in ("trees", "blend")]
    first, blend = (plan.cut.instances[0] for plan in plans)
    assert first.n_training_rows == blend.n_training_rows < blend.n_rows == first.n_rows


def scores(run: Path) -> dict[tuple[str, str], float]:
    _, rows = query_catalogue(run, name="scores")
    return {(metric, name): value for scope, _, metric, name, value, *_ in rows if scope == "ensemble"}


# ---- a classifier is scored as a run is ----------------------------------------------------------------------------------


def test_cv__scores_all_rows_in_the_folds_of_a_run(trees: Path, logistic: Path) -> None:
    columns = ["row_id", "gene_id", "position", "label", "fold", "is_pilot"]
    one, other = (pq.read_table(RunFolder(run).out_of_fold, columns=columns) for run in (trees, logistic))
    for name in columns:
        assert one[name].cast("string") == other[name].cast("string"), name
    found = compare_runs(logistic, trees)
    assert found.n_rows == len(one)
    assert all(np.isfinite(gap.low) for gap in found.difference)


def test_cv__learns_what_was_planted(logistic: Path, sgd: Path) -> None:
    for run in (logistic, sgd):
        _, ((base,),) = query_catalogue(
            run, query="select value from metrics where scope = 'base' and metric = 'log_loss' and class = 'all'"
        )
        assert scores(run)["log_loss", "all"] < base


@pytest.mark.parametrize("name", ["logistic", "sgd", "blended"])
def test_verify__finds_nothing_wrong(name: str, request: pytest.FixtureRequest) -> None:
    result = here("verify", request.getfixturevalue(name))
    assert "damaged" not in result.stdout


@pytest.mark.parametrize("name", ["logistic", "blended"])
def test_thresholds__of_the_model_are_numbers_as_those_of_an_ensemble(
    name: str, request: pytest.FixtureRequest
) -> None:
    run = request.getfixturevalue(name)
    found = json.loads((run / "thresholds.json").read_bytes())
    model = load_unified_model(run)
    assert {one: kinds["best_f1"] for one, kinds in model.thresholds.items()} == {
        one: kinds["best_f1"]["threshold"] for one, kinds in found.items()
    }


def test_report__says_what_was_trained(logistic: Path, blended: Path) -> None:
    page = RunFolder(logistic).page.read_text(encoding="utf-8")
    assert "the classifier logistic (C=0.1, max_iter=300)" in page
    assert "mi-duck cv" in page
    assert "SHAP values are computed for boosted trees" in page
    assert "What the blend gains over each of its runs" in RunFolder(blended).page.read_text(encoding="utf-8")


def test_measured_peak__stands_beside_the_predicted_one(sgd: Path) -> None:
    (instance,) = RunFolder(sgd).read_plan().cut.instances
    assert measurement(RunFolder(sgd), instance)["peak_bytes"] > 0
    assert instance.predicted_bytes > 0


def test_cv__done_twice_does_nothing_and_another_request_is_refused(lean_dataset: Path, logistic: Path) -> None:
    words = ("cv", lean_dataset, "--out", logistic, "--estimator")
    before = fingerprint(logistic)
    assert "nothing to do" in here(*words, "logistic", *PLAIN).stderr
    assert_refused(
        call(*words, "logistic", "--set", "C=1", *PLAIN), 65, "the classifier was C=0.1, max_iter=300 and is C=1"
    )
    assert_refused(call(*words, "sgd", *PLAIN), 65, "a run of logistic then, of sgd now")
    assert_refused(call("run", lean_dataset, "--out", logistic), 65, "a run of logistic then, of boosted trees now")
    assert fingerprint(logistic) == before


def test_cv__replace_keeps_the_old_results_until_the_new_ones_are_complete(
    lean_dataset: Path, sgd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    shutil.copytree(sgd, out)
    words = ("cv", lean_dataset, "--out", out, "--estimator", "logistic", *PLAIN)
    assert_refused(call(*words), 65, "a run of sgd then, of logistic now); choose another --out, or give --replace")
    with monkeypatch.context() as patched:
        patched.setattr(train._Training, "fit_final", interrupted)
        assert call(*words, "--replace").exit_code == 130
    assert fingerprint(out) == fingerprint(sgd)
    assert_refused(call(*words[:5], "sgd", "--set", "alpha=0.5", *PLAIN), 65, "give --replace")
    result = here(*words, "--replace")
    assert "now has the new results" in result.stderr
    assert "3 of its fits were saved before" in result.stderr
    assert RunFolder(out).read_plan().settings.estimator == "logistic"
    here("verify", out)
    assert not (tmp_path / ".run.replacing").exists()


def interrupted(*arguments: Any) -> None:
    """Be Ctrl-C."""
    raise KeyboardInterrupt


def test_cv__begun_otherwise_goes_on_only_where_it_may_be_replaced(
    lean_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("cv", lean_dataset, "--out", tmp_path / "run", "--estimator")
    with monkeypatch.context() as patched:
        patched.setattr(train._Training, "fit_fold", interrupted)
        assert call(*words, "sgd", *PLAIN).exit_code == 130
        assert_refused(call(*words, "logistic", *PLAIN), 65, "was begun for another request (a run of sgd then")
        assert call(*words, "logistic", "--replace", *PLAIN).exit_code == 130
    assert RunFolder(tmp_path / "run").read_plan().settings.estimator == "logistic"


@pytest.mark.parametrize("command", ["train", "finish", "consolidate", "evaluate", "explain"])
def test_steps_of_boosted_trees__say_that_they_are_not_for_a_classifier(logistic: Path, command: str) -> None:
    assert_refused(call(command, logistic), 65, "is a run of logistic, not of boosted trees; 'mi-duck cv'")


def test_export__says_that_there_are_no_trees(logistic: Path) -> None:
    assert_refused(call("export", logistic, "--format", "onnx"), 65, "is a classifier without trees")


def test_status__shows_a_classifier_as_any_run(logistic: Path) -> None:
    assert "1 of 1 instances done" in here("status", logistic).stdout


def test_predict__of_the_final_model_marks_rows_it_was_trained_on(
    logistic: Path, blended: Path, lean_dataset: Path, tmp_path: Path
) -> None:
    for run, has_spread in ((logistic, False), (blended, True)):
        out = tmp_path / f"{run.name}.parquet"
        here("predict", run, lean_dataset, "--out", out)
        found = pq.read_table(out)
        assert found["trained_on"].to_pylist() == [True] * len(found)
        total = sum(found[f"p_{name}"].to_numpy().astype(float) for name in ("neither", "donor", "acceptor"))
        np.testing.assert_allclose(total, 1, atol=1e-6)
        assert ("spread_donor" in found.column_names) == has_spread


@pytest.mark.slow
def test_holdout_genes__are_scored_by_the_final_classifier(lean_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    here("cv", lean_dataset, "--out", out, "--estimator", "logistic", "--holdout-genes", "0.2", *PLAIN)
    plan = RunFolder(out).read_plan()
    assert len(pq.read_table(RunFolder(out).holdout_predictions)) == plan.data.n_holdout_rows > 0
    here("verify", out)


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dataset of some 14,000 rows whose labels mean nothing."""
    made, data = tmp_path_factory.mktemp("planted") / "data", tmp_path_factory.mktemp("shuffled")
    synthesise(made, n_genes=240, rows_per_gene=60, n_features=20)
    table = pa.concat_tables([pq.read_table(file) for file in sorted(made.rglob("*.parquet"))])
    label = np.random.default_rng(5).permutation(np.array(table["splice_type"].to_pylist(), dtype=object))
    at = table.schema.get_field_index("splice_type")
    pq.write_table(table.set_column(at, "splice_type", pa.array(label, pa.string())), data / "part.parquet")
    return data


@pytest.mark.slow
@pytest.mark.parametrize("name", ["logistic", "sgd", "mlp", "tabnet", "own_classifiers:bayes"])
def test_shuffled_labels__leave_chance(shuffled: Path, tmp_path: Path, name: str) -> None:
    """AUC is near one half, and the log loss not below the entropy of the classes."""
    for package in NETWORKS.get(name, ()):
        pytest.importorskip(package)
    here("cv", shuffled, "--out", tmp_path / "run", "--estimator", name, "--epochs", "4", *PLAIN)
    table = pq.read_table(RunFolder(tmp_path / "run").out_of_fold)
    label = np.array(table["label"].to_pylist(), dtype=object)
    shares = [float((label == one).mean()) for one in ("neither", "donor", "acceptor")]
    assert scores(tmp_path / "run")["log_loss", "all"] > -0.99 * sum(share * np.log(share) for share in shares)
    for one in ("donor", "acceptor"):
        assert roc_auc_score(label == one, table[f"p_{one}"].to_numpy()) == pytest.approx(0.5, abs=0.02)


# ---- killed and continued ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_done", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_cv__killed_after_a_fold_goes_on_to_the_same_bytes(
    lean_dataset: Path, sgd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_done: int
) -> None:
    out, fits = tmp_path / "run", []
    own = train._Training._fit

    def fit(*arguments: Any) -> Any:
        fits.append(arguments)
        if len(fits) == n_done + 1:
            raise KeyboardInterrupt
        return own(*arguments)

    monkeypatch.setattr(train._Training, "_fit", fit)
    words = ("cv", lean_dataset, "--out", out, "--estimator", "sgd", "--epochs", "4", *PLAIN)
    assert call(*words).exit_code == 130
    saved = sorted(file.name for file in (out / ".scratch" / "classifier").glob("*.miduck"))
    assert saved == [f"fold_{number}.miduck" for number in range(n_done)]
    assert "0 of 1 instances done" in here("status", out).stdout
    result = here(*words)
    assert f"{n_done} of its fits were saved before" in result.stderr
    said = "sgd of fold 3/3 still gained in the last of 4 epochs; --epochs 8 allows more"
    assert (said in result.stderr) == (n_done < 3)
    assert len(fits) == 5  # three folds, the final one, and the one that was cut off
    assert fingerprint(out) == fingerprint(sgd)


def killed_inside_a_fold(out: Path, words: tuple[object, ...], n_saved: int, wait: float, *, only_child: bool) -> bool:
    """Start a command, kill it or its child alone some time after so many fits are saved; return whether no other was."""
    saved = out / ".scratch" / "classifier"
    process = started(*words)
    try:
        while process.poll() is None and len(list(saved.glob("*.miduck"))) < n_saved:
            time.sleep(0.02)
        child = child_of(process)
        time.sleep(wait)
        if only_child:
            child.kill()
            assert process.wait(60) == MemoryBudgetError.exit_code
    finally:
        end(process)
    return len(list(saved.glob("*.miduck"))) == n_saved


@pytest.mark.parametrize(
    ("name", "epochs"), [("sgd", 40), pytest.param("logistic", 20, marks=SLOW), pytest.param("mlp", 30, marks=SLOW)]
)
def test_cv__killed_inside_folds_goes_on_to_the_same_bytes(
    lean_dataset: Path, tmp_path: Path, name: str, epochs: int
) -> None:
    """Kill -9 of the child alone in the second fit, of the whole command in the third; each is fitted anew from its start."""
    if name == "mlp":
        pytest.importorskip("torch")
    draw, out, kills = random.Random(11), tmp_path / "run", 0
    words = ("--estimator", name, "--epochs", epochs, "--epoch-patience", 0, *PLAIN)
    here("cv", lean_dataset, "--out", tmp_path / "whole", *words)
    for n_saved, only_child in ((1, True), (2, False)):
        command = ("cv", lean_dataset, "--out", out, *words)
        kills += killed_inside_a_fold(out, command, n_saved, draw.uniform(0, 0.3), only_child=only_child)
    assert kills or name == "logistic"  # whose fits take less than a look at the folder
    here("cv", lean_dataset, "--out", out, *words)
    assert fingerprint(out) == fingerprint(tmp_path / "whole")


def test_saved_fold__that_is_damaged_is_trained_again(tmp_path: Path) -> None:
    saved = train._Saved(tmp_path, "key")
    fit = train.Fit("linear", {"link.txt": b"softmax"}, np.zeros((2, 3), np.float32), ((0.5, 0.6),), 1, 10, 1.0)
    saved.write("fold_0", fit)
    again = saved.read("fold_0", 3)
    assert again is not None
    assert (again.form, again.parts, again.curve, again.epochs) == ("linear", fit.parts, fit.curve, 1)
    assert train._Saved(tmp_path, "other key").read("fold_0", 3) is None
    path = tmp_path / "fold_0.miduck"
    path.write_bytes(path.read_bytes()[:-1])
    assert saved.read("fold_0", 3) is None


# ---- preparation and blocks ----------------------------------------------------------------------------------------------


def test_preparation__is_that_of_the_other_folds_alone() -> None:
    """Means and variances are NumPy's of the rows outside the fold, each as often as its weight says."""
    rng = np.random.default_rng(0)
    x = rng.normal(3, 2, (300, 4)).astype(np.float32)
    x[::7, 1] = np.nan
    x[:, 2] = 5  # does not vary
    x[:, 3] = np.arange(300) < RARE - 1  # a level with too few rows
    odds, x[:, 0] = x[:, 0].copy(), expit(x[:, 0])  # a base score
    fold = rng.integers(0, 3, 300).astype(np.int8)
    weight = np.where(rng.random(300) < 0.5, 4, 1).astype(np.float32)
    parts = [(x[at : at + 100], fold[at : at + 100], weight[at : at + 100]) for at in (0, 100, 200)]
    scores = np.array([0])
    moments = moments_of(parts, n_folds=3, n_features=4, scores=scores)
    found = moments.without(1, np.array([3]))
    others = np.repeat(np.column_stack([odds, x[:, 1:]])[fold != 1], weight[fold != 1].astype(int), axis=0).astype(
        float
    )
    np.testing.assert_allclose(found.mean[:2], np.nanmean(others, axis=0)[:2], rtol=1e-4)
    np.testing.assert_allclose(1 / found.scale[:2], np.nanstd(others, axis=0)[:2], rtol=1e-4)
    assert found.scale[2:].tolist() == [0, 0]
    assert found.incomplete.tolist() == [1]
    prepared = found.apply(x)
    assert prepared.shape == (300, 5)
    assert (prepared[::7, 1] == 0).all()
    np.testing.assert_allclose(prepared[:, 0], (odds - found.mean[0]) * found.scale[0], atol=1e-3)
    np.testing.assert_array_equal(prepared[:, 4], np.isnan(x[:, 1]))
    changed = np.where((fold == 1)[:, None], 0.9, x).astype(np.float32)
    again = moments_of([(changed, fold, weight)], n_folds=3, n_features=4, scores=scores).without(1, np.array([3]))
    np.testing.assert_allclose(again.mean[:2], found.mean[:2], rtol=1e-5)


class _Reader:
    """Rows whose first feature is their number."""

    n_rows = 1000

    class plan:  # noqa: N801
        class data:  # noqa: N801
            features = ("number", "other")

    def blocks(self, firsts: list[int], block_rows: int) -> Any:
        for first in firsts:
            numbers = np.arange(first, min(first + block_rows, self.n_rows), dtype=np.float32)
            yield np.column_stack([numbers, numbers])


def test_blocks__give_every_wanted_row_once_in_an_order_by_seed() -> None:
    zeros = np.zeros(1000)
    rows = TrainingRows(
        _Reader(), zeros.astype(np.int64), zeros.astype(np.int32), zeros.astype(np.int8), zeros.astype(np.float32)
    )  # type: ignore[arg-type]
    wanted = np.arange(1000) % 3 > 0

    def epoch(seed: int) -> Any:
        found = list(rows.shuffled(wanted, [42, seed], 64))
        assert all(len(matrix) <= 64 for matrix, _ in found)
        for matrix, indices in found:
            np.testing.assert_array_equal(matrix[:, 0], indices)
        return np.concatenate([indices for _, indices in found])

    first = epoch(0)
    np.testing.assert_array_equal(np.sort(first), np.flatnonzero(wanted))
    np.testing.assert_array_equal(first, epoch(0))
    assert (first != epoch(1)).any()
    assert np.abs(np.diff(first)).mean() > 100  # neighbours do not stay neighbours


# ---- fitted classifiers are arrays ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3])
def test_logistic__predicts_what_scikit_learn_does(n_classes: int) -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(n_classes)
    y = rng.integers(0, n_classes, 400)
    x = (rng.normal(size=(400, 5)) + y[:, None]).astype(np.float32)
    weight = np.where(y == 0, 2, 1).astype(np.float32)
    fitted = fit_whole(
        named_estimator("logistic", []), x, y, weight, n_classes=n_classes, seed=1, title="", say=lambda words: None
    )
    other = LogisticRegression(C=0.1, max_iter=300).fit(x, y, sample_weight=weight.astype(np.float64))
    np.testing.assert_allclose(fitted.probabilities(x), other.predict_proba(x), atol=1e-6)


def test_mlp__predicts_with_numpy_what_its_network_does_and_the_same_twice() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300)
    x = (rng.normal(size=(300, 5)) + y[:, None]).astype(np.float32)
    made = []
    for _ in range(2):
        learner: Any = learner_of(named_estimator("mlp", ["hidden=16"]), n_columns=5, n_classes=3, seed=7, device="cpu")
        for _ in range(300):
            learner.learn(x, y, np.ones(300, np.float32))
        made.append(learner.fitted())
    assert made[0].parts() == made[1].parts()
    assert isinstance(made[0], Perceptron)
    with torch.no_grad():
        network = learner._network.eval()
        own = torch.softmax(network(torch.from_numpy(x)), 1).numpy()
    np.testing.assert_allclose(made[1].probabilities(x), own, atol=1e-5)
    assert (own.argmax(axis=1) == y).mean() > 0.6


def test_tabnet__predicts_with_numpy_what_its_network_does_and_the_same_twice() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("pytorch_tabnet")
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300)
    x = (rng.normal(size=(300, 5)) + y[:, None]).astype(np.float32)
    made = []
    for _ in range(2):
        learner: Any = learner_of(named_estimator("tabnet", []), n_columns=5, n_classes=3, seed=7, device="cpu")
        for _ in range(60):
            learner.learn(x, y, np.ones(300, np.float32))
        learner.learn(x[:1], y[:1], np.ones(1, np.float32))  # which cannot be normalised
        made.append(learner.fitted())
    assert made[0].parts() == made[1].parts()
    with torch.no_grad():
        own = torch.softmax(learner._network.eval()(torch.from_numpy(x))[0], 1).numpy()
    np.testing.assert_allclose(made[1].probabilities(x), own, atol=1e-4)
    assert (own.argmax(axis=1) == y).mean() > 0.6
    again = fitted_of(made[1].form, made[1].parts(), n_columns=5, n_classes=3)
    np.testing.assert_array_equal(again.probabilities(x), made[1].probabilities(x))
    with pytest.raises(ValueError, match="shape"):
        fitted_of("tabnet", made[1].parts(), n_columns=6, n_classes=3)


def test_sparsemax__is_the_nearest_point_of_the_simplex() -> None:
    scores = np.random.default_rng(0).normal(size=(50, 4))
    found = sparsemax(scores)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert (found >= 0).all()
    others = np.random.default_rng(1).dirichlet(np.ones(4), 500)
    nearest = ((scores[:, None] - others) ** 2).sum(axis=2).min(axis=1)
    assert (((scores - found) ** 2).sum(axis=1) <= nearest + 1e-12).all()


def test_model_file__with_arrays_of_other_shapes_is_refused(logistic: Path, tmp_path: Path) -> None:
    parts = read_parts(RunFolder(logistic).model)
    arrays = {"coefficients": np.zeros((3, 2)), "mean": np.zeros(3, np.float32), "intercepts": np.full(3, np.inf)}
    for name, array in arrays.items():
        path = tmp_path / f"{name}.miduck"
        path.write_bytes(pack(parts | {f"{name}.npy": array_bytes(array)}))
        with pytest.raises(CheckpointError, match="is not a model that mi_duck wrote"):
            load_unified_model(path)


# ---- what is asked for ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--estimator", "logistik"), 78, "did you mean 'logistic'?"),
        (("--estimator", "sgd", "--set", "C=1"), 78, "sgd has no such option; there are alpha, eta0"),
        (("--estimator", "sgd", "--set", "alpha"), 78, "a name and a value are needed"),
        (("--estimator", "sgd", "--set", "alpha=-1"), 78, "of the kind of its default, 0.0001, from 0 to 1000"),
        (("--estimator", "logistic", "--set", "C=0"), 78, "of the kind of its default, 0.1, from 1e-09"),
        (("--estimator", "logistic", "--set", "max_iter=2.5"), 78, "of the kind of its default, 300, from 1 to"),
        ((), 78, "name a classifier"),
        (("--estimator", "no_such_module:make"), 65, "cannot be used: No module named 'no_such_module'"),
        (("--estimator", "own_classifiers:absent"), 65, "has no attribute 'absent'"),
        (("--estimator", "own_classifiers:bayes", "--set", "depth=3"), 65, "unexpected keyword argument 'depth'"),
        (("--estimator", "own_classifiers:regressor"), 65, "makes a LinearRegression without predict_proba"),
        (("--estimator", "own_classifiers:Unsure"), 65, "do not sum to 1"),
        (("--estimator", "own_classifiers:neighbours", "--sample-negatives", "0.5"), 65, "takes no sample_weight"),
    ],
)
def test_estimator__that_cannot_be_used_is_refused_in_a_sentence(
    lean_dataset: Path, tmp_path: Path, words: tuple[str, ...], code: int, message: str
) -> None:
    assert_refused(call("cv", lean_dataset, "--out", tmp_path / "run", *words, *PLAIN), code, message)


def test_own_factory__trains_predicts_and_is_read_only_where_it_is_trusted(
    lean_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mi_duck.classifiers import own_objects

    monkeypatch.setattr(own_objects.importlib.util, "find_spec", lambda name: None)  # as where skops is not installed
    out = tmp_path / "run"
    here("cv", lean_dataset, "--out", out, "--estimator", "own_classifiers:forest", *PLAIN)
    settings = RunFolder(out).read_plan().settings
    assert "random_state=42" in settings.estimator_made
    words = ("predict", out, lean_dataset, "--out", tmp_path / "predictions.parquet")
    assert_refused(call(*words), 65, "--trust-pickle reads it")
    here(*words, "--trust-pickle")
    assert "is a pickle, which was not read" in here("verify", out).stdout
    with pytest.raises(CheckpointError, match="trust_pickle=True"):
        mi_duck.load_unified_model(out)
    assert mi_duck.load_unified_model(out, trust_pickle=True).estimator == "own_classifiers:forest"


def test_own_pickle__may_need_pandas_which_commands_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """CatBoost imports it where its pickle is read."""
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    without_pandas()
    assert object_from_parts({PICKLE: pickle.dumps(5)}, trust_pickle=True) == 5
    assert NO_PANDAS not in sys.meta_path


def test_own_factory__with_partial_fit_learns_from_blocks() -> None:
    estimator = Estimator("own_classifiers:bayes", (), True, 0)
    learner = learner_of(estimator, n_columns=4, n_classes=3, seed=0, device="cpu")
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = (rng.normal(size=(90, 4)) + y[:, None]).astype(np.float32)
    learner.learn(x[:45], y[:45], np.ones(45, np.float32))
    before = learner.fitted()
    kept = before.probabilities(x)
    learner.learn(x[45:], y[45:], np.ones(45, np.float32))
    np.testing.assert_array_equal(before.probabilities(x), kept)  # learning more does not change it
    assert (learner.fitted().probabilities(x).argmax(axis=1) == y).mean() > 0.7
    assert learner.batch_rows == BATCH_ROWS


def test_cross_validate__takes_a_function_of_a_module_and_refuses_others(lean_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be imported by another process"):
        mi_duck.cross_validate(lambda: None, lean_dataset, tmp_path / "run")
    with pytest.raises(TypeError, match="did you mean 'epochs'"):
        mi_duck.cross_validate("sgd", lean_dataset, tmp_path / "run", epoch=3)
    with pytest.raises(PlanError, match="no such classifier"):
        mi_duck.cross_validate("trees", lean_dataset, tmp_path / "run")
    assert "parameters" in (mi_duck.cross_validate.__doc__ or "")


def test_memory__of_all_rows_is_planned_and_refused_with_what_would_fit(
    lean_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A logistic regression of cells that take 32 KiB; one that reads blocks of rows needs no more for more features."""

    def needed(one: Estimator, *, n_training_rows: int, n_columns: int, **_: int) -> int:
        return (1 << 28) + (0 if one.is_streamed else (1 << 15) * n_training_rows * n_columns)

    monkeypatch.setattr(planning, "predicted_bytes", needed)
    result = call("cv", lean_dataset, "--out", tmp_path / "run", "--estimator", "logistic", *PLAIN)
    assert_refused(result, 78, "logistic needs ")
    words = result.stderr.splitlines()[-1]
    n_genes, n_features = (
        int(re.search(rf"{flag} (\d+)", words).group(1))  # type: ignore[union-attr]
        for flag in ("--sample-genes", "--screen-features")
    )
    n_rows, n_columns = 2_634, 43  # 24 features, three of them base scores, which stay
    assert f"for {n_rows:,} rows of {n_columns} columns" in words

    def cells_in_budget(genes: int = 60, features: int = 24) -> bool:
        cells = -(-n_rows * genes // 60) * -(-n_columns * features // 24)
        return (1 << 28) + (1 << 15) * cells <= int(0.97 * (2 << 30))

    assert [cells_in_budget(genes=n) for n in (n_genes, n_genes + 1)] == [True, False]
    assert [cells_in_budget(features=n + 3) for n in (n_features, n_features + 1)] == [True, False]
    for remedy in ("a smaller --sample-negatives", "--estimator sgd"):
        assert remedy in words
    assert not (tmp_path / "run" / "plan.json").exists()
    monkeypatch.setattr(planning, "predicted_bytes", lambda estimator, **sizes: 40 << 30)
    result = call("cv", lean_dataset, "--out", tmp_path / "run", "--estimator", "logistic", *PLAIN)
    assert_refused(result, 78, "what would fit, by estimate: a larger --max-memory-per-instance-gb")


def test_memory__of_blocks_does_not_grow_with_the_features() -> None:
    sizes = {"n_rows": 10**6, "n_training_rows": 10**6, "n_classes": 3}
    few, many = (
        [planning.predicted_bytes(named_estimator(name, []), n_columns=n, **sizes) for n in (100, 2000)]
        for name in ("sgd", "logistic")
    )
    assert few[0] == few[1]
    assert many[1] - many[0] == int(1.4 * 4 * 10**6 * 1900)


# ---- blends --------------------------------------------------------------------------------------------------------------


def test_blend__is_the_weighted_mean_and_states_its_gain_over_each_run(
    blended: Path, trees: Path, logistic: Path, sgd: Path
) -> None:
    model = load_unified_model(blended)
    assert model.names == (trees.name, "logistic", "sgd")
    assert sum(model.weights) == pytest.approx(1)
    _, rows = query_catalogue(
        blended,
        query="select variant, metric, class, value from metrics where scope = 'difference' and variant like 'ensemble - %'",
    )
    gains = {variant: value for variant, metric, name, value in rows if (metric, name) == ("log_loss", "all")}
    for run in (trees, logistic, sgd):
        own = scores(blended)["log_loss", "all"] - scores(run)["log_loss", "all"]
        assert gains[f"ensemble - {run.name}"] == pytest.approx(own, abs=2e-4)


def test_blend__is_cross_fitted() -> None:
    """The weights of a fold do not change with the labels of the fold."""
    rng = np.random.default_rng(0)
    values = rng.dirichlet(np.ones(3), (3, 600)).astype(np.float32)
    label, fold = rng.integers(0, 3, 600), np.arange(600) % 3
    other = np.where(fold == 1, (label + 1) % 3, label)
    for method in ("fitted", "greedy"):
        one, two = (weights_of(values, y, fold, 3, method) for y in (label, other))
        assert one.by_fold[1] == two.by_fold[1]
        assert one.by_fold[0] != two.by_fold[0]
        assert sum(one.final) == pytest.approx(1)


def test_greedy_weights__select_what_lowers_the_log_loss() -> None:
    """Two models that err in different rows are taken half and half, a third that is never better not at all."""
    of_label = np.array([[0.9, 0.1] * 50, [0.1, 0.9] * 50, [0.05, 0.05] * 50])
    assert greedy_weights(of_label) == (0.5, 0.5, 0.0)


def test_blend__refuses_runs_of_other_rows_and_too_few(
    logistic: Path, lean_dataset: Path, tmp_path: Path, blended: Path, sgd: Path
) -> None:
    assert_refused(call("blend", logistic, "--out", tmp_path / "out"), 78, "two runs or more")
    assert_refused(call("blend", logistic, logistic, "--out", tmp_path / "out"), 78, "each named once")
    other = tmp_path / "other"
    here("cv", lean_dataset, "--out", other, "--estimator", "logistic", "--seed", "7", *PLAIN)
    assert_refused(call("blend", logistic, other, "--out", tmp_path / "out"), 65, "differ in seed")
    assert_refused(call("blend", logistic, sgd, "--out", blended), 65, "holds a blend of weights=fitted")
    assert not (tmp_path / "out").exists()
    broken = tmp_path / "broken"
    shutil.copytree(logistic, broken)
    (broken / "metrics.csv").unlink()
    assert_refused(call("blend", sgd, broken, "--out", tmp_path / "out"), 65, "is not finished")


def test_blend__done_twice_does_nothing(blended: Path, trees: Path, logistic: Path, sgd: Path) -> None:
    before = fingerprint(blended)
    result = here("blend", trees, logistic, sgd, "--out", blended, "--threads", "1", "--json")
    assert "nothing to do" in result.stderr
    assert {line["run"] for line in json.loads(result.stdout)} == {trees.name, "logistic", "sgd"}
    assert fingerprint(blended) == before
