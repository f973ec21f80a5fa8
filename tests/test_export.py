"""Exports: each predicts what the model predicts, runs where mi_duck is not, and is written whole or not at all."""

import json
import pickletools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost as xgb
from numpy.typing import NDArray
from runs import call, finished_run
from test_merge import N_FEATURES, booster

from mi_duck.boosting.ubjson import read_object
from mi_duck.ensemble.model import ConsolidatedMetaModel, InstanceModel
from mi_duck.ensemble.model_file import load_unified_model, save_model
from mi_duck.errors import CheckpointError, DataError
from mi_duck.export.export import border_rows, export_model, restore_model
from mi_duck.metrics.calibrate import Calibrator
from mi_duck.run.encoding import Encoding
from mi_duck.run.folder import RunFolder

CLASSES = ("neither", "donor")
STEPS = Calibrator("isotonic", margins=(-3.0, -1.0, -0.999, 0.5, 2.0), probabilities=(1e-6, 0.1, 0.4, 0.4, 0.9))
PLATT = Calibrator("platt", 0.8, -0.1)
PLAIN = Encoding()
BOOSTERS = {seed: booster(seed) for seed in (0, 1, 2, 10, 11, 12)}


def instance(number: int, encoding: Encoding = PLAIN) -> InstanceModel:
    """Return one member; its calibrators are of all kinds."""
    return InstanceModel(
        features=tuple(f"feature {index}" for index in range(N_FEATURES)),
        classes=CLASSES,
        boosters=(BOOSTERS[number], BOOSTERS[number + 10]),
        calibrators=(STEPS, Calibrator("none")) if number else (PLATT, STEPS),
        metadata={"instance_id": number, "n_genes": 5, "n_rows": 800, "n_training_rows": 800, "rounds": [12, 12]},
        encoding=encoding,
    )


def ensemble(voting: str = "probability", encoding: Encoding = PLAIN) -> ConsolidatedMetaModel:
    return ConsolidatedMetaModel(
        (instance(0, encoding), instance(1, encoding), instance(2, encoding)),
        (0.5, 0.3, 0.2),
        voting,
        {"neither": {"best_f1": 0.5}, "donor": {"best_f1": 0.4}},
        12,
        (STEPS, PLATT) if voting == "margin" else (),
    )


MODELS: dict[str, ConsolidatedMetaModel] = {
    "probability": ensemble(),
    "margin": ensemble("margin"),
    "zeros are missing": ensemble(encoding=Encoding(("feature 1", "feature 2"), None)),
    "sentinel": ensemble("margin", encoding=Encoding((), -1e30)),
    "single": instance(1).as_ensemble(),
}


def saved(folder: Path, model: ConsolidatedMetaModel) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder / "consolidated_model.miduck", model)
    return folder


def sample(model: ConsolidatedMetaModel, n: int = 3000) -> NDArray[np.float32]:
    """Return rows where trees decide, with zeros and missing values."""
    return border_rows(model.get_base_models(), N_FEATURES, n, seed=5)


def by_recipe(folder: Path, rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Predict as the steps of the recipe say, with XGBoost and NumPy alone."""
    recipe = json.loads((folder / "recipe.json").read_bytes())
    rows = rows.copy()
    if recipe["encoding"]["sentinel"] is not None:
        rows[np.isnan(rows)] = recipe["encoding"]["sentinel"]
    for name in recipe["encoding"]["zero_is_missing"]:
        column = rows[:, recipe["features"].index(name)]
        column[column == 0] = np.nan
    total = np.zeros((len(rows), len(recipe["classes"])))
    for part in recipe["parts"]:
        boosters = [xgb.Booster(model_file=folder / name) for name in part["files"]]
        margins = np.column_stack([one.inplace_predict(rows, predict_type="margin") for one in boosters])
        scores = np.empty(margins.shape)
        for index, one in enumerate(part["calibrators"]):
            margin = margins[:, index].astype(float)
            if one["method"] == "isotonic":
                scores[:, index] = np.interp(margin, one["margins"], one["probabilities"])
            else:
                scores[:, index] = 1 / (1 + np.exp(-(one["slope"] * margin + one["intercept"])))
        scores = scores.clip(recipe["least"], 1 - recipe["least"])
        total += part["weight"] * scores / scores.sum(axis=1, keepdims=True)
    return total


# ---- pickle -----------------------------------------------------------------------------------------------------------

SNIPPET = """
import pickle
with open("consolidated_model.pkl", "rb") as f:
    model = pickle.load(f)

# Standard interface - no changes needed
predictions = model.predict_proba(X)  # Shape: (n_samples, 3)
classes = model.predict(X)            # Shape: (n_samples,)

# Model provides unified interface regardless of underlying ensemble
print(f"Model type: {type(model).__name__}")  # ConsolidatedMetaModel
print(f"Feature names: {len(model.get_feature_names())}")  # 1143 features
print(f"Instances: {model.total_instances}")  # 7 instances
"""
"""The loading example of the design documents, word for word but for the folder."""


def test_pickle__of_a_run_answers_the_example_of_the_design_documents(
    small_dataset: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = finished_run(small_dataset, tmp_path_factory)
    assert call("export", run, "--format", "pickle", "--out", tmp_path / "consolidated_model.pkl").exit_code == 0
    model = load_unified_model(run)
    rows = np.random.default_rng(0).normal(size=(200, len(model.features))).astype(np.float32)
    np.save(tmp_path / "x.npy", rows)
    code = (
        f"import numpy as np\nX = np.load('x.npy')\n{SNIPPET}\nnp.save('p.npy', predictions)\nnp.save('c.npy', classes)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "Model type: ConsolidatedMetaModel",
        f"Feature names: {len(model.features)}",
        f"Instances: {model.total_instances}",
    ]
    assert np.array_equal(np.load(tmp_path / "p.npy"), model.predict_proba(rows))
    assert np.array_equal(np.load(tmp_path / "c.npy"), model.predict(rows))


def test_pickle__names_one_function_and_holds_bytes_alone(tmp_path: Path) -> None:
    path = export_model(saved(tmp_path, MODELS["probability"]), "pickle")
    assert path == tmp_path / "consolidated_model.pkl"
    operations = [(code.name, value) for code, value, _ in pickletools.genops(path.read_bytes())]
    strings = [value for name, value in operations if name == "SHORT_BINUNICODE"]
    assert strings == ["mi_duck.export.export", "restore_model"]
    assert sum(name == "STACK_GLOBAL" for name, _ in operations) == 1
    assert not {"GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD"} & {name for name, _ in operations}
    (data,) = [value for name, value in operations if name in ("BINBYTES", "SHORT_BINBYTES", "BINBYTES8")]
    assert data == (tmp_path / "consolidated_model.miduck").read_bytes()


def test_load_unified_model__reads_an_exported_pickle_without_running_it(tmp_path: Path) -> None:
    """The other example of the design documents; a foreign pickle is refused, and what it would run does not run."""
    model = MODELS["probability"]
    path = export_model(saved(tmp_path, model), "pickle")
    rows = sample(model, 100)
    assert np.array_equal(load_unified_model(path).predict_proba(rows), model.predict_proba(rows))
    foreign = tmp_path / "foreign.pkl"
    evil = b"cos\nmkdir\n(V" + str(tmp_path / "made").encode() + b"\ntR."
    for data, words in (
        (evil, "is not a pickle that mi_duck exported"),
        (path.read_bytes()[:-40], "is not a whole pickle"),
        (b"\x00\x01", "is not a whole pickle"),
        (b"", "is not a whole pickle"),
        (b"\x80\x04C\x03abc.", "is not a mi_duck model"),
    ):
        foreign.write_bytes(data)
        with pytest.raises(CheckpointError, match=words):
            load_unified_model(foreign)
    assert not (tmp_path / "made").exists()
    with pytest.raises(CheckpointError, match="cannot read"):
        load_unified_model(tmp_path / "absent.pkl")


def test_restore_model__refuses_damaged_bytes(tmp_path: Path) -> None:
    data = bytearray((saved(tmp_path, MODELS["probability"]) / "consolidated_model.miduck").read_bytes())
    assert restore_model(bytes(data)).total_instances == 3
    data[len(data) // 2] ^= 1
    with pytest.raises(CheckpointError, match="the pickled model is damaged"):
        restore_model(bytes(data))


# ---- native XGBoost ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_native__predicts_as_the_model_by_its_recipe_alone(name: str, tmp_path: Path) -> None:
    model = MODELS[name]
    folder = export_model(saved(tmp_path, model), "xgboost")
    rows = sample(model)
    wanted = model.predict_proba(rows)
    # the steep step of the isotonic calibrator is .3 in .001: margins that differ by 1e-6 differ by 3e-4 there
    assert np.abs(by_recipe(folder, rows) - wanted).max() < (1e-3 if model.voting == "margin" else 1e-6)
    assert np.quantile(np.abs(by_recipe(folder, rows) - wanted), 0.99) < 1e-6


@pytest.mark.parametrize("name", MODELS)
def test_native__has_its_intercept_where_every_version_reads_it(name: str, tmp_path: Path) -> None:
    """XGBoost 1.7 to 3.0 read a list of intercepts as one half, and say nothing; one half in one number is read by all."""
    folder = export_model(saved(tmp_path, MODELS[name]), "xgboost")
    for file in folder.glob("*.ubj"):
        model, _ = read_object(file.read_bytes())
        assert model["learner"]["learner_model_param"]["base_score"] == "5E-1"


def test_native__of_margin_voting_is_one_model_with_an_output_a_class(tmp_path: Path) -> None:
    model = MODELS["margin"]
    folder = export_model(saved(tmp_path, model), "xgboost")
    assert {file.name for file in folder.iterdir()} == {"merged.ubj", "recipe.json"}
    merged = xgb.Booster(model_file=folder / "merged.ubj")
    rows = sample(model)
    wanted = sum(
        w * one.margins(rows, threads=1).astype(float) for w, one in zip(model.weights, model.members, strict=True)
    )
    assert np.abs(merged.inplace_predict(rows, predict_type="margin") - wanted).max() < 1e-5


def test_native__files_know_their_features_and_have_hashes(tmp_path: Path) -> None:
    import hashlib

    folder = export_model(saved(tmp_path, MODELS["probability"]), "xgboost")
    recipe = json.loads((folder / "recipe.json").read_bytes())
    assert {file.name for file in folder.iterdir()} == {*recipe["sha256"], "recipe.json"}
    for name, digest in recipe["sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        assert xgb.Booster(model_file=folder / name).feature_names == recipe["features"]
    assert recipe["files_know_feature_names"]
    # XGBoost refuses brackets in names, so files of such features know none, and the recipe says so
    odd = MODELS["probability"]
    names = ("a[0]", *odd.features[1:])
    odd = replace(odd, members=tuple(replace(one, features=names) for one in odd.members))
    folder = export_model(saved(tmp_path / "odd", odd), "xgboost")
    recipe = json.loads((folder / "recipe.json").read_bytes())
    assert not recipe["files_know_feature_names"]
    assert recipe["features"][0] == "a[0]"


def test_native__replaces_an_export_but_no_other_folder(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", MODELS["probability"])
    before = {file.name: file.read_bytes() for file in export_model(run, "xgboost").iterdir()}
    assert {file.name: file.read_bytes() for file in export_model(run, "xgboost").iterdir()} == before
    saved(run, MODELS["margin"])
    assert (export_model(run, "xgboost") / "merged.ubj").is_file()
    other = tmp_path / "mine"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="is not an export of mi_duck"):
        export_model(run, "xgboost", out=other)
    assert [file.name for file in other.iterdir()] == ["notes.txt"]
    with pytest.raises(DataError, match="is a folder; name a file"):
        export_model(run, "pickle", out=other)
    model = RunFolder(run).model.read_bytes()
    for kind in ("pickle", "onnx"):
        for name in (RunFolder(run).model, other / "notes.txt"):
            with pytest.raises(DataError, match="exists and its name is not one of"):
                export_model(run, kind, out=name)
    assert (RunFolder(run).model.read_bytes(), (other / "notes.txt").read_text()) == (model, "mine")


# ---- ONNX -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_onnx__predicts_as_the_model_where_trees_decide(name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = MODELS[name]
    path = export_model(saved(tmp_path, model), "onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    rows = sample(model)
    probabilities, label = session.run(["probabilities", "label"], {"rows": rows})
    wanted = model.predict_proba(rows)
    assert np.abs(probabilities - wanted).max() < 1e-5
    assert (label == wanted.argmax(axis=1)).mean() > 0.999
    known: dict[str, Any] = session.get_modelmeta().custom_metadata_map
    assert json.loads(known["features"]) == list(model.features)
    assert json.loads(known["classes"]) == list(CLASSES)


def test_onnx__that_would_predict_otherwise_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph is made of another model than the one that it is compared with."""
    pytest.importorskip("onnxruntime")
    from mi_duck.export import export

    other = export.onnx_bytes(MODELS["margin"])
    monkeypatch.setattr(export, "onnx_bytes", lambda _: other)
    run = saved(tmp_path, MODELS["probability"])
    with pytest.raises(CheckpointError, match="misses the model's probabilities by"):
        export_model(run, "onnx")
    assert not (run / "consolidated_model.onnx").exists()


def test_onnx__twice_is_the_same_file(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    run = saved(tmp_path, MODELS["probability"])
    first = export_model(run, "onnx").read_bytes()
    assert export_model(run, "onnx").read_bytes() == first


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_onnx__without_its_packages_says_what_to_install(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=r"pip install 'mi-duck\[onnx\]'"):
        export_model(saved(tmp_path, MODELS["probability"]), "onnx")


# ---- command ----------------------------------------------------------------------------------------------------------


def test_export__prints_what_it_wrote_or_why_not(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", MODELS["probability"])
    done = call("export", run, "--format", "xgboost", "--out", tmp_path / "native")
    assert done.exit_code == 0
    assert done.stdout == f"{tmp_path / 'native'}\n"
    absent = call("export", tmp_path, "--format", "pickle")
    assert absent.exit_code == 65
    assert "no consolidated model in" in absent.stderr
    assert call("export", run, "--format", "keras").exit_code == 2
    assert call("export", run).exit_code == 2
