"""One file that predicts: members averaged, features by name, nothing run that is not a model."""

import builtins
import json
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xgboost as xgb
from runs import finished_run

from mi_duck.archive import read_parts
from mi_duck.ensemble.feature_matrix import feature_matrices
from mi_duck.ensemble.model import ConsolidatedMetaModel, InstanceModel, join_members
from mi_duck.ensemble.model_file import load_unified_model, save_model
from mi_duck.ensemble.shap import contributions
from mi_duck.errors import CheckpointError, DataError
from mi_duck.metrics.calibrate import Calibrator, calibrated
from mi_duck.run.folder import RunFolder


@pytest.fixture(scope="module")
def run(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(small_dataset, tmp_path_factory)


@pytest.fixture(scope="module")
def model(run: Path) -> ConsolidatedMetaModel:
    loaded = load_unified_model(run)
    assert isinstance(loaded, ConsolidatedMetaModel)
    return loaded


@pytest.fixture(scope="module")
def rows(small_dataset: Path) -> pa.Table:
    return pq.read_table(small_dataset / "master").slice(0, 400)


@pytest.fixture(scope="module")
def matrix(model: ConsolidatedMetaModel, rows: pa.Table) -> np.ndarray:
    return np.column_stack([rows[name].to_numpy().astype(np.float32) for name in model.features])


def member(
    features: tuple[str, ...] = ("a", "b"), classes: tuple[str, ...] = ("x", "y"), seed: int = 0
) -> InstanceModel:
    rng = np.random.default_rng(seed)
    data = xgb.DMatrix(rng.normal(size=(50, len(features))), label=rng.integers(0, 2, 50))
    boosters = tuple(xgb.train({"max_depth": 2, "objective": "binary:logistic"}, data, 3) for _ in classes)
    facts = {"instance_id": seed, "n_genes": 5, "n_rows": 50, "n_training_rows": 50, "rounds": [3] * len(classes)}
    return InstanceModel(features, classes, boosters, tuple(Calibrator("none") for _ in classes), facts)


def test_ensemble__is_the_mean_of_the_members_calibrated_probabilities_calibrated_on_top(
    run: Path, model: ConsolidatedMetaModel, matrix: np.ndarray
) -> None:
    """Worked out from the bytes of the instances' own files."""
    probabilities = []
    for where in sorted(run.glob("multi_instance_training/*")):
        parts = read_parts(where / "model_multiclass.miduck")
        facts = json.loads(parts["model.json"])
        margins = [
            xgb.Booster(model_file=bytearray(parts[f"booster_{index}.ubj"])).inplace_predict(
                matrix, predict_type="margin"
            )
            for index in range(3)
        ]
        calibrators = [Calibrator.from_dict(values) for values in facts["calibrators"]]
        probabilities.append(calibrated(np.column_stack(margins), calibrators))
    assert len(probabilities) == model.total_instances >= 3
    found = model.predict_proba(matrix)
    mean = np.mean(probabilities, axis=0)
    expected = calibrated(np.log(mean / (1 - mean)), model.calibrators) if model.calibrators else mean
    assert np.abs(found - expected).max() < 1e-6
    assert found.shape == (400, 3)
    assert found.dtype == np.float32
    assert found.sum(axis=1) == pytest.approx(1, abs=1e-6)
    assert model.predict(matrix).tolist() == [model.classes[index] for index in found.argmax(axis=1)]
    assert model.classes_.tolist() == list(model.classes)
    assert model.feature_names_in_.tolist() == model.get_feature_names()
    assert model.n_features_in_ == len(model.features)
    method, classes = model.consolidation_method, "neither, donor, acceptor"
    assert repr(model) == f"ConsolidatedMetaModel(3 instances of 60 genes, {method}, 40 features, classes {classes})"


def test_ensemble__has_the_whole_interface(run: Path, model: ConsolidatedMetaModel) -> None:
    plan = RunFolder(run).read_plan()
    n = len(plan.cut.instances)
    assert model.get_feature_names() == list(plan.data.features)
    assert model.classes == plan.data.classes == ("neither", "donor", "acceptor")
    assert model.total_instances == len(model.instance_models) == n
    assert model.voting_weights == model.instance_weights == [1 / n] * n
    assert model.consolidation_method == "weighted_voting"
    assert [facts["instance_id"] for facts in model.instance_metadata] == list(range(n))
    assert model.total_genes_covered == plan.data.n_genes == 60
    assert len(model.get_base_models()) == 3 * n
    shap_models = model.get_comprehensive_shap_models()
    assert list(shap_models) == [f"instance_{number}" for number in range(n)]
    assert set(shap_models["instance_0"]) == {"neither_model", "donor_model", "acceptor_model", "weight", "instance_id"}
    assert set(model.thresholds) == set(model.classes)
    assert all(0 < kinds["best_f1"] < 1 for kinds in model.thresholds.values())


def test_instance_model__has_the_same_interface(run: Path, model: ConsolidatedMetaModel, matrix: np.ndarray) -> None:
    one = load_unified_model(run / "multi_instance_training" / "instance_00")
    assert isinstance(one, InstanceModel)
    public = {name for name in dir(ConsolidatedMetaModel) if not name.startswith("_")}
    of_members = {"predict_members", "margins_of_members", "probabilities_of_members", "join"}
    assert public - set(dir(InstanceModel)) == {"members", "weights", "voting", "n_genes", "is_additive"} | of_members
    assert (one.total_instances, one.voting_weights, one.instance_weights) == (1, [1.0], [1.0])
    assert one.instance_models == [one]
    assert one.instance_metadata == [one.metadata]
    assert one.total_genes_covered == one.metadata["n_genes"] == 24
    assert one.consolidation_method == "single"
    assert one.thresholds == {}
    assert list(one.get_comprehensive_shap_models()) == ["instance_0"]
    assert np.array_equal(one.as_ensemble().predict_proba(matrix), one.predict_proba(matrix))
    assert one.compute_ensemble_shap_importance(matrix) == one.as_ensemble().compute_ensemble_shap_importance(matrix)
    assert one.predict(matrix).tolist() == [one.classes[index] for index in one.predict_proba(matrix).argmax(axis=1)]
    assert repr(one).startswith("InstanceModel(")
    assert len(repr(one)) < 120


def test_predict_proba__finds_features_by_name(
    model: ConsolidatedMetaModel, rows: pa.Table, matrix: np.ndarray
) -> None:
    """Reordered and surplus columns, tables, batches, data frames and mappings all give the same."""
    expected = model.predict_proba(matrix)
    turned = rows.select(rows.column_names[::-1])
    for given in (
        rows,
        turned,
        turned.combine_chunks().to_batches()[0],
        rows.to_pandas(),
        turned.to_pandas().assign(surplus="text"),
        {name: rows[name].to_numpy() for name in turned.column_names},
        {name: rows[name].to_pylist() for name in model.features},
    ):
        assert np.array_equal(model.predict_proba(given), expected)


def test_predict_proba__missing_renamed_and_misshapen_features_are_errors(
    model: ConsolidatedMetaModel, rows: pa.Table, matrix: np.ndarray
) -> None:
    name = model.features[3]
    for given, words in (
        (rows.drop_columns([name]), f"{name} missing"),
        (rows.rename_columns({name: name.upper() + "x"}), f"{name} missing"),
        (rows.to_pandas().drop(columns=name), f"{name} missing"),
        (matrix[:, :-1], r"shape \(400, 39\) cannot be 40 features"),
        (np.column_stack([matrix, matrix[:, :1]]), "cannot be 40 features"),
        (matrix[0], "cannot be 40 features"),
        ([1.0, 2.0], "type list have no named columns"),
        (matrix.astype(str), "holds no numbers"),
        (matrix.astype(object), "holds no numbers"),
        ({column: 1.0 for column in model.features}, "is not a column of"),
    ):
        with pytest.raises(DataError, match=words):
            model.predict_proba(given)


@pytest.mark.parametrize("bad", [["1"] * 400, [None] * 399 + ["x"], pd.date_range("2020", periods=400), [[1.0]] * 400])
def test_predict_proba__a_feature_that_is_no_number_is_named(
    model: ConsolidatedMetaModel, rows: pa.Table, bad: Any
) -> None:
    name = model.features[2]
    table = rows.set_column(rows.column_names.index(name), name, pa.array(bad))
    for given in (table, table.to_pandas()):
        with pytest.raises(DataError, match=f"feature '{name}' is not a column of 400 numbers"):
            model.predict_proba(given)


def test_predict_proba__null_nan_and_a_column_of_no_type_are_missing(
    model: ConsolidatedMetaModel, rows: pa.Table, matrix: np.ndarray
) -> None:
    index = 2
    name = model.features[index]
    matrix = matrix.copy()
    matrix[:, index] = np.nan
    expected = model.predict_proba(matrix)
    at = rows.column_names.index(name)
    for column in (
        pa.nulls(400),
        pa.nulls(400, pa.int16()),
        pa.nulls(400, pa.bool_()),
        pa.array(np.full(400, np.nan)),
    ):
        assert np.array_equal(model.predict_proba(rows.set_column(at, name, column)), expected)
    frame = rows.to_pandas()
    frame[name] = pd.array([None] * 400, dtype="Int64")
    assert np.array_equal(model.predict_proba(frame), expected)


def test_predict_proba__booleans_are_zero_and_one() -> None:
    one = member()
    numbers = one.predict_proba({"a": np.array([0.0, 1.0]), "b": np.array([1.0, np.nan])})
    for given in (
        pa.table({"a": [False, True], "b": [True, None]}),
        pd.DataFrame({"a": [False, True], "b": pd.array([True, None], dtype="boolean")}),
    ):
        assert np.array_equal(one.predict_proba(given), numbers)


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e300])
def test_predict_proba__infinite_and_too_large_values_name_the_feature(value: float) -> None:
    with pytest.raises(DataError, match="feature 'b'; replace it by null"):
        member().predict_proba(np.array([[0.0, value]]))
    with pytest.raises(DataError, match="feature 'b'; replace it by null"):
        member().predict_proba(pa.table({"a": [0.0], "b": [value]}))


def test_predict_proba__no_rows_give_no_rows(model: ConsolidatedMetaModel, rows: pa.Table, matrix: np.ndarray) -> None:
    assert model.predict_proba(rows.slice(0, 0)).shape == model.predict_proba(matrix[:0]).shape == (0, 3)


def test_predict_proba__takes_large_tables_in_blocks(
    model: ConsolidatedMetaModel, rows: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of 3,000 rows in blocks of 256 gives what it gives at once; so do none."""
    table = pa.concat_tables([rows] * (1 + 3000 // len(rows)))
    expected = np.tile(model.predict_proba(rows), (len(table) // len(rows), 1))
    monkeypatch.setattr("mi_duck.ensemble.feature_matrix.BLOCK_BYTES", 1)
    for given in (table, table.combine_chunks().to_batches()[0], table.to_pandas().assign(slice=1)):
        blocks = [len(block) for block in feature_matrices(given, model.features)]
        assert blocks == [256] * (len(table) // 256) + [len(table) % 256] * (len(table) % 256 > 0)
        assert np.array_equal(model.predict_proba(given), expected)
        for single in model.members:
            assert np.array_equal(single.predict_proba(given)[: len(rows)], single.predict_proba(rows))
    for given in (rows.slice(0, 0), rows.slice(0, 0).to_pandas()):
        assert model.predict_proba(given).shape == (0, len(model.classes))


def test_predict_proba__needs_no_pandas(
    model: ConsolidatedMetaModel, rows: pa.Table, matrix: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model file and Arrow are enough."""
    imported = builtins.__import__

    def without_pandas(name: str, *arguments: Any, **options: Any) -> Any:
        if name.split(".")[0] in ("pandas", "sklearn"):
            raise ImportError(name)
        return imported(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_pandas)
    assert np.array_equal(model.predict_proba(rows), model.predict_proba(matrix))


def test_load_unified_model__takes_a_run_an_instance_a_file_and_text(
    run: Path, model: ConsolidatedMetaModel, matrix: np.ndarray
) -> None:
    expected = model.predict_proba(matrix)
    for path in (str(run), run / "consolidated_model.miduck"):
        assert np.array_equal(load_unified_model(path).predict_proba(matrix), expected)
    instance = run / "multi_instance_training" / "instance_01"
    for path in (instance, str(instance / "model_multiclass.miduck")):
        assert np.array_equal(
            load_unified_model(path).predict_proba(matrix), model.instance_models[1].predict_proba(matrix)
        )


def test_load_unified_model__says_what_is_not_there(run: Path, tmp_path: Path) -> None:
    (tmp_path / "text.miduck").write_text("no model")
    for path, words in (
        (tmp_path, "is not a run and holds no model"),
        (tmp_path / "nothing", "cannot read"),
        (tmp_path / "text.miduck", "is not a mi_duck model"),
        (run / "multi_instance_training" / "instance_00" / "fold_models.miduck", "not a model to predict with"),
        (run / "run.duckdb", "is not a mi_duck model"),
    ):
        with pytest.raises(CheckpointError, match=words):
            load_unified_model(path)


def test_load_unified_model__damaged_files_are_refused_never_a_crash(run: Path, tmp_path: Path) -> None:
    """Bit flips at 100 random positions and 30 truncations."""
    whole = (run / "consolidated_model.miduck").read_bytes()
    draw = random.Random(0)
    file = tmp_path / "model.miduck"
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load_unified_model(file)
    for length in range(0, len(whole), len(whole) // 29):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            load_unified_model(file)


def test_load_unified_model__runs_no_pickle(run: Path, matrix: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("pickle was used")

    for name in ("load", "loads", "Unpickler", "dumps", "dump"):
        monkeypatch.setattr(pickle, name, refuse)
    loaded = load_unified_model(run)
    assert loaded.predict_proba(matrix).shape == (400, 3)


def test_save_model__gives_the_same_bytes_and_the_same_model(
    run: Path, model: ConsolidatedMetaModel, matrix: np.ndarray, tmp_path: Path
) -> None:
    save_model(tmp_path / "a.miduck", model)
    assert (tmp_path / "a.miduck").read_bytes() == (run / "consolidated_model.miduck").read_bytes()
    again = load_unified_model(tmp_path / "a.miduck")
    assert np.array_equal(again.predict_proba(matrix), model.predict_proba(matrix))
    assert again.thresholds == model.thresholds


def test_save_model__is_small(run: Path) -> None:
    """Nine boosters of at most 10 rounds of depth 4, and 40 names: about 5 kB a booster."""
    assert (run / "consolidated_model.miduck").stat().st_size < 150_000


def test_join_members__members_with_other_features_or_classes_are_refused() -> None:
    for other in (member(("b", "a")), member(("a", "c")), member(("a", "b", "c")), member(classes=("y", "x"))):
        with pytest.raises(CheckpointError, match="differ in features, classes or encoding"):
            join_members([member(), other], n_genes=5, thresholds={})
    model = join_members([member(), member(seed=1)], n_genes=5, thresholds={"x": {"best_f1": 0.5}})
    assert model.weights == (0.5, 0.5)


STEPS = Calibrator("isotonic", margins=(-1.0, 0.0, 2.0), probabilities=(0.1, 0.25, 0.9))


def test_margin_voting__is_the_mean_of_margins_calibrated_once_and_normalised(tmp_path: Path) -> None:
    """Worked out by hand, and the same after a file."""
    members, weights = [member(), member(seed=1), member(seed=2)], (0.5, 0.3, 0.2)
    calibrators = (Calibrator("platt", 0.7, -0.4), STEPS)
    thresholds = {"x": {"best_f1": 0.5, "precision_0.9": None}, "y": {"best_f1": 0.25, "precision_0.9": 0.5}}
    model = join_members(
        members, n_genes=5, thresholds=thresholds, voting="margin", weights=weights, calibrators=calibrators
    )
    matrix = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    mean = sum(
        weight * one.margins(matrix, threads=1).astype(float) for weight, one in zip(weights, members, strict=True)
    )
    one = 1 / (1 + np.exp(-(0.7 * mean[:, 0] - 0.4)))
    other = np.interp(mean[:, 1], STEPS.margins, STEPS.probabilities)
    found = model.predict_proba(matrix)
    np.testing.assert_allclose(found, np.column_stack([one, other]) / (one + other)[:, None], atol=1e-6)
    assert model.consolidation_method == "weighted_voting"
    save_model(tmp_path / "m.miduck", model)
    again = load_unified_model(tmp_path / "m.miduck")
    assert isinstance(again, ConsolidatedMetaModel)
    assert np.array_equal(again.predict_proba(matrix), found)
    assert (again.voting, again.weights, again.calibrators) == ("margin", weights, calibrators)
    assert again.thresholds == thresholds


def test_probability_voting__weighs_the_members_own_probabilities() -> None:
    members = [member(), member(seed=1)]
    matrix = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    model = join_members(members, n_genes=5, thresholds={}, weights=(0.9, 0.1))
    expected = 0.9 * members[0].predict_proba(matrix) + 0.1 * members[1].predict_proba(matrix)
    np.testing.assert_allclose(model.predict_proba(matrix), expected, atol=1e-6)


def test_consolidated_meta_model__without_what_its_voting_needs_is_refused() -> None:
    with pytest.raises(CheckpointError, match="margin voting has 0 calibrators"):
        join_members([member()], n_genes=5, thresholds={}, voting="margin")
    with pytest.raises(CheckpointError, match="probability voting has 3 calibrators"):
        join_members([member()], n_genes=5, thresholds={}, calibrators=(STEPS, STEPS, STEPS))
    with pytest.raises(CheckpointError, match="voting 'loudest'"):
        join_members([member()], n_genes=5, thresholds={}, voting="loudest")


def test_shap_values__add_up_to_the_margin(model: ConsolidatedMetaModel, matrix: np.ndarray) -> None:
    for booster in model.get_base_models()[:3]:
        margin = booster.inplace_predict(matrix, predict_type="margin")
        base = booster.predict(xgb.DMatrix(matrix[:1]), pred_contribs=True)[0, -1]
        values = contributions(booster, matrix)[0].T
        assert values.shape == matrix.shape
        assert values.sum(axis=1) + base == pytest.approx(margin, abs=1e-4)


def test_shap_values__against_a_background_add_up_too(model: ConsolidatedMetaModel, matrix: np.ndarray) -> None:
    pytest.importorskip("shap")
    booster = model.get_base_models()[1]
    values = contributions(booster, matrix[:20], matrix[100:150])[0].T
    mean = booster.inplace_predict(matrix[100:150], predict_type="margin").mean()
    margin = booster.inplace_predict(matrix[:20], predict_type="margin")
    assert values.sum(axis=1) + mean == pytest.approx(margin, abs=1e-4)


def test_shap_importance__is_named_by_class_and_joins_members_by_weight(
    model: ConsolidatedMetaModel, matrix: np.ndarray
) -> None:
    found = model.compute_ensemble_shap_importance(matrix)
    assert list(found) == ["neither", "donor", "acceptor", "ensemble"]
    assert all(list(values) == list(model.features) for values in found.values())
    donor = np.mean([np.abs(contributions(one.boosters[1], matrix)[0]).mean(axis=1) for one in model.members], axis=0)
    assert list(found["donor"].values()) == pytest.approx(donor, abs=1e-9)
    name = model.features[0]
    assert found["ensemble"][name] == pytest.approx(np.mean([found[one][name] for one in model.classes]))


def test_shap_importance__planted_features_come_first(model: ConsolidatedMetaModel, small_dataset: Path) -> None:
    """Useless columns are below every strong signal of the class."""
    truth = json.loads((small_dataset / "truth.json").read_bytes())
    rows = pq.read_table(small_dataset / "master")
    found = model.compute_ensemble_shap_importance(rows)
    for name in ("donor", "acceptor"):
        strongest = max(truth["informative"][name], key=truth["informative"][name].get)
        assert found[name][strongest] > max(found[name][useless] for useless in truth["useless"])


def test_shap_values__equal_those_of_the_shap_package(model: ConsolidatedMetaModel, matrix: np.ndarray) -> None:
    """Path-dependent without a background, interventional with one; the sum to the margin is checked inside."""
    shap = pytest.importorskip("shap")

    booster = model.get_base_models()[1]
    rows = matrix[:20]
    theirs = shap.TreeExplainer(booster).shap_values(rows)
    np.testing.assert_allclose(contributions(booster, rows)[0].T, theirs, atol=1e-5)
    background = matrix[20:60]
    found = contributions(booster, rows, background)[0].T
    theirs = shap.TreeExplainer(booster, data=background, feature_perturbation="interventional").shap_values(rows)
    np.testing.assert_allclose(found, theirs, atol=1e-5)
    assert not np.allclose(found, contributions(booster, rows)[0].T, atol=1e-3)
    importance = model.compute_ensemble_shap_importance(rows, background_data=background)
    assert set(importance) == {"neither", "donor", "acceptor", "ensemble"}
