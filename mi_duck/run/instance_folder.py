"""What an instance's folder holds: what its models were made of, whether they are whole, whether they are those of the plan."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mi_duck.atomic_files import digest_of, file_sha256, read_sealed, write_json
from mi_duck.errors import CheckpointError
from mi_duck.run.folder import RunFolder
from mi_duck.run.plan import Instance, Plan, Settings
from mi_duck.usage import StageUsage, records

INSTANCE_VERSION = 4
LOST = "lost.json"
MEASUREMENT = "measurement.json"
TRAINED = (
    *("model_multiclass.miduck", "fold_models.miduck", "oof_predictions.parquet", "calibration.json"),
    *("learning_curves.csv", "feature_manifest.csv", "genes.txt"),
)

IN_ENCODING = "zero_is_missing"  # the one setting that the encoding holds


def made_of(plan: Plan, instance: Instance) -> dict[str, Any]:
    """Return all that an instance's models depend on: data, genes, folds, features, settings, format."""
    encoding = plan.encoding
    settings = {name: getattr(plan.settings, name) for name in Settings.__slots__ if name != IN_ENCODING}
    for name in ("xgb_parameters", "estimator_options"):
        settings[name] = list(settings[name])  # as a manifest has them
    if plan.settings.is_boosted:
        settings = {name: value for name, value in settings.items() if not name.startswith("estimator")}
    return {
        "format": INSTANCE_VERSION,
        "dataset": plan.data.fingerprint,
        "genes": plan.data.genes_sha256,
        "ranks": [instance.first_rank, instance.stop_rank],
        "features": digest_of(plan.data.features),
        "classes": list(plan.data.classes),
        "encoding": digest_of(encoding.to_dict()),
        "easy_below": plan.data.easy_below,
        **({} if plan.data.weight_column is None else {"weight_column": plan.data.weight_column}),
    } | settings


def checkpoint_key(plan: Plan, instance: Instance) -> str:
    """Return the hash of all that an instance's models depend on."""
    return digest_of(made_of(plan, instance))


@dataclass(frozen=True, slots=True)
class State:
    """What an instance's folder holds: ``done``, ``absent``, ``lost``, ``damaged`` or ``foreign``; and what that rests on."""

    name: str
    detail: str = ""


def instance_state(folder: RunFolder, plan: Plan, instance: Instance) -> State:
    """Return whether an instance is finished for this plan and all that training wrote is whole.

    What describes it, such as plots, can be made again without training.
    """
    where = folder.instance(instance)
    try:
        manifest = read_manifest(where)
    except FileNotFoundError:
        try:
            return State("lost", str(json.loads((where / LOST).read_bytes())["cause"]))
        except (OSError, ValueError, KeyError, TypeError):
            return State("absent")
    except CheckpointError as error:
        return State("damaged", str(error))
    found, wanted = manifest["made_of"], made_of(plan, instance)
    if found != wanted:
        return State("foreign", differences_of(found, wanted))
    for name in TRAINED:
        try:
            if file_sha256(where / name) != manifest["sha256"][name]:
                return State("damaged", f"{name} is not what was written")
        except OSError as error:
            return State("damaged", f"{name}: {error.strerror}")
    return State("done")


def is_trained(folder: RunFolder, plan: Plan, instance: Instance) -> bool:
    """Return whether an instance is finished for this plan; see `instance_state`."""
    return instance_state(folder, plan, instance).name == "done"


def trained_instances(folder: RunFolder, plan: Plan) -> list[Instance]:
    """Return the instances that are finished for this plan; a `CheckpointError` where none is."""
    trained = [instance for instance in plan.cut.instances if is_trained(folder, plan, instance)]
    if not trained:
        raise CheckpointError(f"no instance of {folder.root} is trained; run 'mi-duck train {folder.root}'")
    return trained


def read_manifest(where: Path) -> dict[str, Any]:
    """Read the manifest of an instance's folder: a `FileNotFoundError` where there is none, a `CheckpointError` if damaged."""
    try:
        values = read_sealed(where / "manifest.json")
        if not isinstance(values["made_of"], dict) or not set(TRAINED) <= set(values["sha256"]):
            raise ValueError("it names other files")
        return values
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"manifest.json is damaged ({error})") from error


def key_of_folder(where: Path) -> str | None:
    """Return the key of an instance's folder, None where it holds no whole manifest."""
    try:
        return str(read_manifest(where)["key"])
    except (FileNotFoundError, CheckpointError):
        return None


def differences_of(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Return in words how what two instances were made of differs."""
    found = []
    for name in sorted({*then, *now}):
        if then.get(name) != now.get(name):
            is_long = name in ("dataset", "genes", "features", "encoding")
            found.append(f"{name} differ" if is_long else f"{name}: {then.get(name)} then, {now.get(name)} now")
    return "; ".join(found[:4]) + ("; ..." if len(found) > 4 else "")


def write_lost(folder: RunFolder, instance: Instance, cause: str) -> None:
    """Note in the folder of an instance that it was lost, and why; training it again removes the note."""
    write_json(folder.instance(instance) / LOST, {"cause": cause, "n_genes": instance.n_genes})


def status_of(state: State) -> str:
    """Return what is shown of an instance: done, lost or to do."""
    return state.name if state.name in ("done", "lost") else "to do"


def write_measurement(
    folder: RunFolder,
    instance: Instance,
    *,
    peak_bytes: int,
    phases: Mapping[str, int],
    wall_seconds: float,
    build_seconds: float,
    boost_seconds: float,
    stages: tuple[StageUsage, ...],
) -> None:
    """Note the peak memory of an instance, by phase where it is known, and what reading and training took, also by stage."""
    seconds = {"wall_seconds": wall_seconds, "build_seconds": build_seconds, "boost_seconds": boost_seconds}
    write_json(
        folder.instance(instance) / MEASUREMENT,
        {"peak_bytes": peak_bytes, "phases": dict(phases)}
        | {name: round(value, 3) for name, value in seconds.items()}
        | {"stages": records(stages)},
    )


def measurement(folder: RunFolder, instance: Instance) -> dict[str, Any]:
    """Return peak memory and time of an instance, empty where it was not trained."""
    path = folder.instance(instance) / MEASUREMENT
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
