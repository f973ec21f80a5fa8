"""Writes a model in formats that other programs read: pickle, native XGBoost, ONNX.

This is the only module that knows pickle, and it only writes it: loading a pickle runs code, so mi_duck never does. The
pickle names one function of this module and holds the bytes of the ``.miduck`` file, whose hash that function checks.

Native boosters that vote by margin are merged into one. A booster's margin is its intercept plus the values of the leaves that a
row falls in. So the weighted sum of margins is a booster with all trees, leaves scaled by the weights, and the weighted sum of
the intercepts; one call predicts it, and its SHAP values are the weighted sums of theirs. Classes become outputs of one model
in the same way.
"""

import io
import json
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from mi_duck.atomic_files import file_sha256, storage_errors, sync_files, sync_folder, write_file, write_json
from mi_duck.boosting.forest import join_boosters, load, with_intercepts_in_leaves
from mi_duck.boosting.ubjson import write_object
from mi_duck.ensemble.model import ConsolidatedMetaModel, InstanceModel
from mi_duck.ensemble.model_file import load_unified_model, model_from_bytes
from mi_duck.errors import CheckpointError, DataError
from mi_duck.export.onnx_graph import onnx_bytes, onnx_probabilities
from mi_duck.metrics.calibrate import LEAST, Calibrator
from mi_duck.run.folder import RunFolder

ENDS = {"pickle": ".pkl", "xgboost": "_xgboost", "onnx": ".onnx"}
"""What follows the name of the model in that of its export."""
RECIPE = "recipe.json"
N_ROWS = 10_240
"""Rows on which an export is compared with the model."""
ROWS_AT_ONCE = 2_048
LARGEST_GAP = 1e-5
SEED = 0


def export_model(run: Path, kind: str, *, out: Path | None = None) -> Path:
    """Write a model in another format.

    Parameters
    ----------
    run
        Folder of a run, whose consolidated model it is; or the file of a model, such as a distilled one.
    kind
        ``pickle``: one file that ``pickle.load`` turns into the model, where mi_duck is installed. ``xgboost``: a folder
        of native boosters with ``recipe.json``, which says how their margins become probabilities. ``onnx``: one file.
    out
        File or folder to write; by default beside the model, under its name and `ENDS`.

    Returns
    -------
    Path
        The file or folder, written whole or not at all.

    Raises
    ------
    CheckpointError
        There is no model, or the export does not predict what the model predicts.
    DataError
        ``out`` is a folder that is not an export, or a package is missing.
    """
    source = run if run.is_file() else RunFolder(run).model
    if not source.is_file():
        raise CheckpointError(f"no consolidated model in {run}; 'mi-duck consolidate {run}' makes it")
    target = out or source.with_name(source.stem + ENDS[kind])
    if kind == "xgboost":
        _write_native(source, target)
        return target
    if target.is_dir():
        raise DataError(f"{target} is a folder; name a file for --format {kind}")
    if target.exists() and target.suffix != ENDS[kind]:
        raise DataError(
            f"{target} exists and its name is not one of --format {kind} ({ENDS[kind]}); choose another --out"
        )
    write_file(target, _pickled(source) if kind == "pickle" else _onnx(_ensemble(source)))
    return target


def restore_model(data: bytes) -> ConsolidatedMetaModel | InstanceModel:
    """Return the model from the bytes of its file, after checking its hash; exported pickles call this."""
    return model_from_bytes(data, "the pickled model")


def _pickled(source: Path) -> bytes:
    """Return the pickle: a call of `restore_model` with the bytes of the model's file, and nothing else."""
    model, data = _ensemble(source), source.read_bytes()
    target = io.BytesIO()
    pickler = pickle.Pickler(target, protocol=4)
    pickler.dispatch_table = {ConsolidatedMetaModel: lambda _: (restore_model, (data,))}
    pickler.dump(model)
    return target.getvalue()


def _ensemble(source: Path) -> ConsolidatedMetaModel:
    model = load_unified_model(source)
    return model.as_ensemble() if isinstance(model, InstanceModel) else model


def _onnx(model: ConsolidatedMetaModel) -> bytes:
    """Return the ONNX model, after its predictions were compared with those of the model."""
    data = onnx_bytes(model)
    rows = border_rows(model.get_base_models(), len(model.features), N_ROWS, seed=SEED)
    gap = float(np.abs(onnx_probabilities(data, rows) - model.predict_proba(rows)).max())
    if not gap <= LARGEST_GAP:
        raise CheckpointError(f"the ONNX model misses the model's probabilities by {gap:.1e}, so it is not written")
    return data


def _write_native(source: Path, target: Path) -> None:
    """Write native boosters and their recipe into a temporary folder, then rename it to ``target``."""
    if target.exists() and not (target / RECIPE).is_file():
        raise DataError(f"{target} exists and is not an export of mi_duck; choose another --out")
    model = _ensemble(source)
    temporary = target.with_name(f".{target.name}.tmp")
    with storage_errors(target):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        recipe = _recipe(model, temporary)
        files = {file.name: file_sha256(file) for file in sorted(temporary.iterdir())}
        write_json(temporary / RECIPE, recipe | {"sha256": files, "model_sha256": file_sha256(source)})
        sync_files(temporary)
        if target.exists():
            shutil.rmtree(target)
        temporary.replace(target)
        sync_folder(target.parent)


def _recipe(model: ConsolidatedMetaModel, folder: Path) -> dict[str, Any]:
    """Write the boosters of a model into a folder and return how to predict with them."""
    has_names = all(not set("[]<") & set(name) for name in model.features)  # XGBoost allows no others
    names = model.features if has_names else None
    parts: list[dict[str, Any]] = []
    if model.is_additive:
        members = [member.boosters for member in model.members]
        merged = join_outputs([merge_boosters(of_class, model.weights) for of_class in zip(*members, strict=True)])
        written = _save(merged, folder / "merged.ubj", names)
        check_margins(written, members, model.weights, n_features=len(model.features), seed=SEED)
        parts.append({"files": ["merged.ubj"], "weight": 1.0, "calibrators": _plain(model.calibrators)})
    else:
        for number, (member, weight) in enumerate(zip(model.members, model.weights, strict=True)):
            files = [f"member_{number:02d}_class_{index}.ubj" for index in range(len(model.classes))]
            for booster, file in zip(member.boosters, files, strict=True):
                written = _save(booster, folder / file, names)
                check_margins(written, [[booster]], [1.0], n_features=len(model.features), seed=SEED)
            parts.append({"files": files, "weight": weight, "calibrators": _plain(member.calibrators)})
    return {
        "format": 1,
        "steps": [
            "Order the columns as in features; what counts as missing is NaN. Features of encoding.levels, if there are any, "
            "are COLUMN=LEVEL: 1 where the text column has that level, else 0; the last one, where other is a word, is 1 for "
            "all other levels. Features of encoding.dates are COLUMN:days (since 1970-01-01, the time of day as a fraction), "
            "COLUMN:year, :month, :day (of the month) and :weekday (0 is Monday), in UTC where times have a zone.",
            "Where encoding.sentinel is a number put it for every NaN; put NaN for the zeros of encoding.zero_is_missing.",
            "For each of parts: margins = what its files predict as margin, side by side: one column per class.",
            "Calibrate each: isotonic is linear between the points (margins, probabilities) and constant outside; else "
            "1 / (1 + exp(-(slope x margin + intercept))). Keep it within least and 1 - least.",
            "Divide the row by its sum; the result is the mean over parts by weight.",
            "Where on_top has calibrators: the margins are now log(mean / (1 - mean)), of the mean kept within least and 1 - "
            "least; calibrate each by its calibrator of on_top in the same way, and divide the row by its sum.",
        ],
        "classes": list(model.classes),
        "features": list(model.features),
        "files_know_feature_names": has_names,
        "encoding": model.members[0].encoding.to_dict(),
        "voting": model.voting,
        "least": LEAST,
        "parts": parts,
        "on_top": _plain(model.calibrators) if model.voting == "probability" else [],
        "thresholds": model.thresholds,
    }


def _plain(calibrators: Sequence[Calibrator]) -> list[dict[str, Any]]:
    return [one.to_dict() for one in calibrators]


def _save(booster: xgb.Booster, path: Path, names: Sequence[str] | None) -> xgb.Booster:
    """Write a booster as XGBoost 1.7 to 3.2 read it alike, and return what was written, without names."""
    model = with_intercepts_in_leaves(booster)
    written = load(model)
    if names is not None:
        model["learner"]["feature_names"] = list(names)
    path.write_bytes(write_object(model))
    return written


def merge_boosters(boosters: Sequence[xgb.Booster], weights: Sequence[float]) -> xgb.Booster:
    """Return one booster whose margin is the weighted sum of margins of ``binary:logistic`` boosters of the same features.

    Raises
    ------
    CheckpointError
        A booster is of another kind, or there is not one weight for each.
    """
    if len(boosters) != len(weights) or not boosters:
        there = f"{len(boosters)} boosters and {len(weights)} weights"
        raise CheckpointError(f"{there} cannot be merged; give one weight each")
    return load(join_boosters([(booster, weight, 0) for booster, weight in zip(boosters, weights, strict=True)], 1))


def join_outputs(boosters: Sequence[xgb.Booster]) -> xgb.Booster:
    """Return one booster with an output for each of these, in their order: margins of shape (n_rows, n_boosters).

    Raises
    ------
    CheckpointError
        A booster has more than one output, or is of another kind.
    """
    return load(join_boosters([(booster, 1.0, output) for output, booster in enumerate(boosters)], len(boosters)))


def border_rows(boosters: Sequence[xgb.Booster], n_features: int, n_rows: int, *, seed: int) -> NDArray[np.float32]:
    """Return rows at the borders where trees decide: values at their thresholds, just below them, zero, or missing (NaN).

    Two models that agree on these rows split at the same thresholds, which rows of a dataset would not show.
    """
    thresholds: dict[int, set[float]] = {}
    for booster in boosters:
        for tree in json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]["model"]["trees"]:
            for node, left in enumerate(tree["left_children"]):
                if left != -1:
                    thresholds.setdefault(tree["split_indices"][node], set()).add(tree["split_conditions"][node])
    rng = np.random.default_rng(seed)
    rows = np.zeros((n_rows, n_features), dtype=np.float32)
    for feature, found in sorted(thresholds.items()):
        values = np.array(sorted(found), dtype=np.float32)
        below = np.nextafter(values, np.float32(-np.inf))
        choices = np.concatenate([values, below, np.array([0, np.nan], dtype=np.float32)])
        rows[:, feature] = rng.choice(choices, n_rows)
    return rows


def check_margins(
    merged: xgb.Booster,
    members: Sequence[Sequence[xgb.Booster]],
    weights: Sequence[float],
    *,
    n_features: int,
    seed: int,
) -> float:
    """Return the largest gap between a merged model and the weighted sum of its members' margins, relative to max(1, |margin|).

    Parameters
    ----------
    merged
        With one output, or one per class.
    members
        Boosters of each member, one per class.

    Raises
    ------
    CheckpointError
        The gap is larger than 1e-5 in a row of `border_rows`.
    """
    rows = border_rows([booster for member in members for booster in member], n_features, N_ROWS, seed=seed)
    largest = 0.0
    for begin in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[begin : begin + ROWS_AT_ONCE]
        wanted = np.zeros((len(part), len(members[0])))
        for member, weight in zip(members, weights, strict=True):
            for index, booster in enumerate(member):
                wanted[:, index] += weight * booster.inplace_predict(part, predict_type="margin").astype(np.float64)
        found = merged.inplace_predict(part, predict_type="margin").reshape(wanted.shape)
        largest = max(largest, float((np.abs(found - wanted) / np.maximum(1, np.abs(wanted))).max()))
    if not largest <= LARGEST_GAP:
        raise CheckpointError(f"the merged model misses the members' margins by {largest:.1e}, so it is not written")
    return largest
