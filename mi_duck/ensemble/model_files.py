"""The file of a model: writes and reads native boosters and JSON in one hashed ``.miduck`` file, never code."""

import hashlib
import json
import pickletools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xgboost as xgb

from mi_duck.checkpoint import pack, read_model_bytes, read_parts, unpack, write_file
from mi_duck.ensemble.ensemble import ConsolidatedMetaModel, InstanceModel
from mi_duck.ensemble.model_check import check_model, read_facts
from mi_duck.errors import CheckpointError
from mi_duck.train.calibrate import Calibrator
from mi_duck.train.encoding import Encoding

MODEL_VERSION = 2


def save_model(path: Path, model: ConsolidatedMetaModel) -> None:
    """Write the consolidated model."""
    write_file(path, pack(_parts_of(model)))


def model_sha256(model: ConsolidatedMetaModel | InstanceModel) -> str:
    """Return a hash of all that the predictions of a model depend on."""
    digest = hashlib.sha256()
    for name, data in _parts_of(model.as_ensemble() if isinstance(model, InstanceModel) else model).items():
        digest.update(f"{name} {len(data)} ".encode() + data)
    return digest.hexdigest()


def _parts_of(model: ConsolidatedMetaModel) -> dict[str, bytes]:
    facts = {
        "kind": "ensemble",
        "version": MODEL_VERSION,
        "features": model.features,
        "classes": model.classes,
        "encoding": model.members[0].encoding.to_dict(),
        "weights": model.weights,
        "voting": model.voting,
        "thresholds": model.thresholds,
        "calibrators": [one.to_dict() for one in model.calibrators],
        "n_genes": model.n_genes,
        "members": [
            member.metadata | {"calibrators": [one.to_dict() for one in member.calibrators]} for member in model.members
        ],
    }
    return {"model.json": json.dumps(facts, sort_keys=True).encode()} | {
        f"booster_{number}_{index}.ubj": bytes(booster.save_raw("ubj"))
        for number, member in enumerate(model.members)
        for index, booster in enumerate(member.boosters)
    }


def load_unified_model(path: str | Path) -> ConsolidatedMetaModel | InstanceModel:
    """Read a model: a run folder, an instance folder, a ``.miduck`` file of either, or a pickle that mi_duck exported.

    Of a pickle the bytes of the model are taken out; nothing in it is run.

    Raises
    ------
    CheckpointError
        Nothing is there, or the file is damaged, foreign or newer.
    """
    path = Path(path)
    if path.is_dir():
        found = [
            path / name for name in ("consolidated_model.miduck", "model_multiclass.miduck") if (path / name).is_file()
        ]
        if not found:
            raise CheckpointError(f"no model in {path}; 'mi-duck consolidate' makes it once the instances are trained")
        path = found[0]
    if path.suffix == ".pkl":
        return model_from_bytes(_bytes_in_pickle(path), str(path))
    return _from_parts(read_parts(path), str(path))


def model_from_bytes(data: bytes, source: str) -> ConsolidatedMetaModel | InstanceModel:
    """Read a model from the bytes of its file.

    Parameters
    ----------
    data
        All bytes of a ``.miduck`` file.
    source
        Its name, for messages.

    Raises
    ------
    CheckpointError
        The bytes are damaged, foreign or newer.
    """
    return _from_parts(unpack(data, source), source)


def _bytes_in_pickle(path: Path) -> bytes:
    """Return the bytes of a model's file that a pickle of `mi_duck.export` holds, by reading its instructions."""
    try:
        found = [value for _, value, _ in pickletools.genops(read_model_bytes(path)) if isinstance(value, bytes)]
    except ValueError as error:
        raise CheckpointError(f"{path} is no whole pickle: {error}") from error
    if len(found) != 1:
        raise CheckpointError(f"{path} is no pickle that mi_duck exported; loading any other would run its code")
    return found[0]


def _from_parts(parts: Mapping[str, bytes], source: str) -> ConsolidatedMetaModel | InstanceModel:
    facts = checked_facts(parts, source, ("instance", "ensemble"), otherwise="not a model to predict with")
    if facts["kind"] == "instance":
        return _member(facts, facts, [parts[f"booster_{index}.ubj"] for index in range(len(facts["classes"]))])
    members = tuple(
        _member(facts, one, [parts[f"booster_{number}_{index}.ubj"] for index in range(len(facts["classes"]))])
        for number, one in enumerate(facts["members"])
    )
    return ConsolidatedMetaModel(
        members,
        tuple(facts["weights"]),
        facts["voting"],
        facts["thresholds"],
        facts["n_genes"],
        tuple(Calibrator.from_dict(values) for values in facts["calibrators"]),
    )


def checked_facts(parts: Mapping[str, bytes], source: str, kinds: Sequence[str], *, otherwise: str) -> dict[str, Any]:
    """Return the facts of a model of one of some kinds, once facts and boosters are known to be sound.

    Parameters
    ----------
    parts, source
        All parts of the file, and its name.
    kinds, otherwise
        Those that will do, and the words for a model of another kind.

    Raises
    ------
    CheckpointError
        It is of another kind or version, or no model; see `mi_duck.ensemble.model_check`.
    """
    facts = read_facts(parts.get("model.json", b""), source)
    kind, version = facts.get("kind"), facts.get("version")
    if kind not in kinds or (kind == "ensemble" and version != MODEL_VERSION):
        raise CheckpointError(f"{source} holds '{kind!s:.40}', version {version!s:.40}, {otherwise}")
    check_model(facts, parts, source)
    return facts


def _member(facts: dict[str, Any], one: dict[str, Any], boosters: Sequence[bytes]) -> InstanceModel:
    names = ("instance_id", "n_genes", "n_rows", "n_training_rows", "rounds")
    return InstanceModel(
        tuple(facts["features"]),
        tuple(facts["classes"]),
        tuple(load_booster(data) for data in boosters),
        tuple(Calibrator.from_dict(values) for values in one["calibrators"]),
        {name: one[name] for name in names},
        Encoding.from_dict(facts["encoding"]),
    )


def load_booster(data: bytes) -> xgb.Booster:
    """Return a booster from its verified bytes.

    Raises
    ------
    CheckpointError
        XGBoost does not take them.
    """
    try:
        return xgb.Booster(model_file=bytearray(data))
    except xgb.core.XGBoostError as error:
        words = " ".join(str(error).partition("Stack trace")[0].split())
        raise CheckpointError(f"XGBoost {xgb.__version__} cannot load a booster of this model: {words}") from error
