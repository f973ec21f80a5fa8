"""Weights of rows given by the user: where they act, what they must be, and that weights of 1 change nothing."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import FAST, assert_refused, call, here, run_here
from sklearn.metrics import average_precision_score

import mi_duck
from mi_duck.atomic_files import file_sha256
from mi_duck.ensemble.model_file import load_unified_model
from mi_duck.metrics.calibrate import METHODS, calibrate
from mi_duck.metrics.ranking import find_thresholds
from mi_duck.rows.segments import USED, USED_FOR_MANY, WEIGHTED_KEYS, row_weights, training_weights
from mi_duck.run.folder import RunFolder

MODELS = ("consolidated_model.miduck", "thresholds.json")
OF_INSTANCE = ("model_multiclass.miduck", "fold_models.miduck", "calibration.json", "learning_curves.csv")


def table_of(dataset: Path) -> pa.Table:
    """Return the rows of the small dataset."""
    return pa.concat_tables([pq.read_table(file) for file in sorted(dataset.rglob("*.parquet"))])


def written(folder: Path, table: pa.Table, weight: object) -> Path:
    """Write rows with weights to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.append_column("w", pa.array(weight)), folder / "part.parquet")
    return folder


@pytest.fixture(scope="module")
def weighted(lean_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a dataset in which every row weighs 2, and its run."""
    folder = tmp_path_factory.mktemp("weighted")
    table = table_of(lean_dataset)
    written(folder / "data", table, np.full(len(table), 2.0))
    here("run", folder / "data", "--out", folder / "run", *FAST, "--weight-column", "w")
    return folder


def test_weights__of_1_change_no_byte_of_a_model(lean_dataset: Path, tmp_path: Path) -> None:
    table = table_of(lean_dataset)
    data = written(tmp_path / "data", table, np.ones(len(table), dtype=np.int8))
    here("run", data, "--out", tmp_path / "with", *FAST, "--weight-column", "w")
    here("run", data, "--out", tmp_path / "without", *FAST, "--exclude", "^w$")
    names = [*MODELS, *(f"multi_instance_training/instance_00/{name}" for name in OF_INSTANCE)]
    of_one, of_other = ({name: file_sha256(tmp_path / run / name) for name in names} for run in ("with", "without"))
    assert of_one == of_other
    kept = pq.read_table(tmp_path / "with" / "oof_predictions.parquet")["weight"]
    assert kept.unique().to_pylist() == [1.0]


def test_weights__of_2_give_the_model_of_rows_that_are_there_twice(
    weighted: Path, lean_dataset: Path, tmp_path: Path
) -> None:
    """Nearly: cuts of columns that are sketched may differ."""
    table = table_of(lean_dataset)
    twice = written(tmp_path / "data", pa.concat_tables([table, table]), np.ones(2 * len(table)))
    here("run", twice, "--out", tmp_path / "run", *FAST, "--exclude", "^w$")
    one, other = (load_unified_model(run).predict_proba(table) for run in (weighted / "run", tmp_path / "run"))
    assert np.abs(one - other).mean() < 0.005


def test_weights__of_a_classifier_are_as_rows_that_are_there_twice(
    weighted: Path, lean_dataset: Path, tmp_path: Path
) -> None:
    """The preparation counts them too; a classifier that takes none is refused."""
    words = ("--estimator", "logistic", "--threads", "1", "--minimal-diagnostics")
    table = table_of(lean_dataset)
    more = np.arange(len(table)) % 2 + 1
    data = written(tmp_path / "data", table, more)
    here("cv", data, "--out", tmp_path / "weights", *words, "--weight-column", "w")
    twice = written(tmp_path / "twice", table.take(np.repeat(np.arange(len(table)), more)), np.ones(more.sum()))
    here("cv", twice, "--out", tmp_path / "rows", *words, "--exclude", "^w$")
    one, other = (mi_duck.load_unified_model(tmp_path / run).predict_proba(table) for run in ("weights", "rows"))
    assert np.abs(one - other).max() < 0.01
    here("verify", tmp_path / "weights")
    words = ("--estimator", "own_classifiers:neighbours", *words[2:], "--weight-column", "w")
    assert_refused(
        call("cv", data, "--out", tmp_path / "out", *words), 65, "takes no sample_weight, and rows have weights"
    )
    assert not (tmp_path / "out").exists()


def test_weights__are_no_feature_and_the_run_is_verified(weighted: Path) -> None:
    here("verify", weighted / "run")
    plan = RunFolder(weighted / "run").read_plan()
    assert plan.data.weight_column == "w"
    assert "w" not in plan.data.features
    assert "scores here count every row once" in (weighted / "run" / "report.html").read_text()
    assert pq.read_table(weighted / "run" / "oof_predictions.parquet")["weight"].unique().to_pylist() == [2.0]
    changed = call("run", weighted / "data", "--out", weighted / "run", *FAST, "--exclude", "^w$")
    assert_refused(changed, 65, "columns differ")


def test_weights__of_0_keep_wrong_rows_out_of_the_model(
    lean_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels of two rows in five are drawn anew; a model that gives these no weight is better on all others."""
    table, rng = table_of(lean_dataset), np.random.default_rng(0)
    is_wrong = rng.random(len(table)) < 0.4
    label = np.array(table["splice_type"].to_pylist(), dtype=object)
    truth = label.copy()
    label[is_wrong] = rng.permutation(label[is_wrong])
    at = table.schema.get_field_index("splice_type")
    table = table.set_column(at, "splice_type", pa.array(label.tolist())).append_column("w", pa.array(~is_wrong * 1.0))
    monkeypatch.setattr("mi_duck.processes.run_child", run_here)
    same = {"min_child_weight": 1, "colsample_bynode": 1}  # by default leaves follow the weight of all rows
    fast = {
        "xgb": same,
        "threads": 1,
        "n_estimators": 20,
        "max_depth": 4,
        "learning_rate": 0.3,
        "n_folds": 2,
        "progress": False,
    }
    found = {}
    for name in ("w", None):
        options = {"weight_column": "w"} if name else {"exclude": "^w$"}
        run = mi_duck.train(
            table,
            tmp_path / f"run_{name}",
            skip_shap=True,
            minimal_diagnostics=True,
            strategy="single",
            **fast,
            **options,
        )
        rows = run.out_of_fold().arrow()
        rows = rows.read_all() if hasattr(rows, "read_all") else rows
        # rows are ordered by gene; their own order is found by gene and position
        key = [
            f"{gene}:{at}" for gene, at in zip(rows["gene_id"].to_pylist(), rows["position"].to_pylist(), strict=True)
        ]
        known = {
            f"{gene}:{at}": (of_row, not wrong)
            for gene, at, of_row, wrong in zip(
                table["gene_id"].to_pylist(), table["position"].to_pylist(), truth, is_wrong, strict=True
            )
        }
        right = np.array([known[one][1] for one in key])
        is_donor = np.array([known[one][0] == "donor" for one in key])
        found[name] = average_precision_score(is_donor[right], rows["p_donor"].to_numpy()[right])
    assert found["w"] > found[None] + 0.03


# ---- what they must be ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words"), [(-1.0, "weight -1.0 in row 7"), (float("nan"), "weight nan in row 7"), (None, "weight null")]
)
def test_weights__that_are_none_are_refused_with_their_row(
    value: float | None, words: str, lean_dataset: Path, tmp_path: Path
) -> None:
    table = table_of(lean_dataset)
    weight: list[float | None] = [1.0] * len(table)
    weight[7] = value
    data = written(tmp_path / "data", table, weight)
    result = call("plan", data, "--out", tmp_path / "run", *FAST[:2], "--weight-column", "w")
    assert_refused(result, 65, words)
    assert "part.parquet" in result.stderr
    assert not (tmp_path / "run").exists()


def test_weights__must_leave_something_of_each_class_in_each_fold(lean_dataset: Path, tmp_path: Path) -> None:
    table = table_of(lean_dataset)
    is_donor = np.array(table["splice_type"].to_pylist()) == "donor"
    data = written(tmp_path / "data", table, np.where(is_donor, 0.0, 1.0))
    result = call("plan", data, "--out", tmp_path / "run", "--weight-column", "w")
    assert_refused(result, 65, "all rows of class donor in fold 0 weigh 0 in column 'w'")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing", "no column 'nothing'"),
        ("gene_id", "name another"),
        ("chrom", "not a number"),
        ("position", "name another"),
    ],
)
def test_weight_column__must_be_a_column_of_numbers_of_its_own(
    name: str, words: str, lean_dataset: Path, tmp_path: Path
) -> None:
    table = table_of(lean_dataset)
    data = written(tmp_path / "data", table, np.ones(len(table)))
    result = call("plan", data, "--out", tmp_path / "run", "--weight-column", name)
    assert_refused(result, 65, words)


# ---- the parts --------------------------------------------------------------------------------------------------------


def drawn(n: int = 900) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return margins of two classes, labels, folds and weights of 1 to 3."""
    rng = np.random.default_rng(3)
    label = rng.integers(0, 2, n)
    margin = (label * 2 - 1 + rng.normal(size=n) * 2).round(1)
    margins = np.column_stack([-margin, margin]).astype(np.float32)
    return margins, label, np.arange(n) % 3, rng.integers(1, 4, n).astype(np.float64)


@pytest.mark.parametrize("method", METHODS)
def test_calibrate__with_whole_weights_is_that_of_repeated_rows(method: str) -> None:
    margins, label, fold, weight = drawn()
    again = np.repeat(np.arange(len(label)), weight.astype(int))
    one = calibrate(margins, label, fold, n_folds=3, methods=[method], weights=weight)
    other = calibrate(margins[again], label[again], fold[again], n_folds=3, methods=[method])
    values = np.linspace(-5, 5, 41)
    for calibrator, known in zip((*one.final, *one.by_fold[1]), (*other.final, *other.by_fold[1]), strict=True):
        assert calibrator.apply(values) == pytest.approx(known.apply(values), abs=1e-9)
    assert [loss[method] for loss in one.log_loss] == pytest.approx([loss[method] for loss in other.log_loss])


def test_calibrate__with_weights_of_0_is_without_these_rows() -> None:
    margins, label, fold, weight = drawn()
    weight[::2] = 0
    kept = weight > 0
    one = calibrate(margins, label, fold, n_folds=3, methods=["isotonic"], weights=weight)
    other = calibrate(margins[kept], label[kept], fold[kept], n_folds=3, methods=["isotonic"], weights=weight[kept])
    assert one.final == other.final


def test_find_thresholds__with_whole_weights_are_those_of_repeated_rows() -> None:
    margins, label, fold, weight = drawn()
    probability = 1 / (1 + np.exp(-margins))
    again = np.repeat(np.arange(len(label)), weight.astype(int))
    one = find_thresholds(probability, label, fold, ["a", "b"], weights=weight)
    other = find_thresholds(probability[again], label[again], fold[again], ["a", "b"])
    plain = find_thresholds(probability, label, fold, ["a", "b"])
    assert one == other
    assert find_thresholds(probability, label, fold, ["a", "b"], weights=np.ones(len(label))) == plain


def test_training_weights__multiply_what_a_sampled_row_stands_for() -> None:
    keys = np.zeros(3, dtype=WEIGHTED_KEYS)
    keys["use"], keys["weight"] = [USED, USED_FOR_MANY, USED_FOR_MANY], [3, 1, 0.5]
    assert training_weights(keys, 0.25).tolist() == [3, 4, 2]
    assert row_weights(keys).tolist() == [3, 1, 0.5]  # type: ignore[union-attr]
    keys["weight"] = 1
    assert row_weights(keys) is None
