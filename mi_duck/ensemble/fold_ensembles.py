"""The ensemble of each fold: the boosters of all instances that never saw it, joined by what was fitted without it.

It scores what is not among the rows of the run (every position of a gene, a student's training rows) as the out-of-fold
predictions score its rows. Boosters and their calibrators lie with the instances (``fold_models.miduck``). What joins them lies
in ``fold_ensembles.miduck``: calibrators on top, and of a joint refit the leaves, a value per node; the trees are the same. The
weights are those of ``consolidation_summary.json``.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import xgboost as xgb

from mi_duck.archive import pack, read_parts
from mi_duck.atomic_files import file_sha256, write_file
from mi_duck.boosting.forest import leaves_of, of_all_classes, with_kept_leaves
from mi_duck.ensemble.model import ConsolidatedMetaModel
from mi_duck.ensemble.model_file import load_unified_model, read_fold_models
from mi_duck.ensemble.refit import read_refitted
from mi_duck.ensemble.voting import REFIT, Joined, MemberWeights
from mi_duck.errors import CheckpointError
from mi_duck.metrics.calibrate import Calibrator
from mi_duck.run.folder import RunFolder
from mi_duck.run.plan import Plan, fitted_classes

VERSION = 1
FACTS = "facts.json"


def write_fold_ensembles(folder: RunFolder, plan: Plan, n_members: int, joined: Joined) -> None:
    """Keep what joins the fold boosters of all members, while the scratch of the run still has the refitted ones."""
    facts: dict[str, Any] = {
        "version": VERSION,
        "model_sha256": file_sha256(folder.model),
        "voting": joined.variant.voting,
        "calibrators": [
            [one.to_dict() for one in of_fold] for of_fold in (joined.calibration.by_fold if joined.calibration else ())
        ],
        "base_scores": {},
    }
    parts: dict[str, bytes] = {}
    for fold in range(plan.settings.n_folds if joined.variant == REFIT else 0):
        boosters = read_refitted(folder, fold, n_classes=len(plan.data.classes))
        for member in range(n_members):
            for index in fitted_classes(len(plan.data.classes)):
                values, facts["base_scores"][f"{fold}_{member}_{index}"] = leaves_of(boosters[member][index])
                parts[f"leaves_{fold}_{member}_{index}.f4"] = values.tobytes()
    write_file(folder.fold_ensembles, pack({FACTS: json.dumps(facts, sort_keys=True).encode()} | parts))


def consolidated_model(folder: RunFolder) -> ConsolidatedMetaModel:
    """Return the ensemble of a run, which its summary belongs to; a CheckpointError where it is not of this run."""
    final = load_unified_model(folder.model)
    if not isinstance(final, ConsolidatedMetaModel) or _summary(folder)["model_sha256"] != file_sha256(folder.model):
        raise CheckpointError(
            f"{folder.model} is not the ensemble of this run; run 'mi-duck consolidate {folder.root}'"
        )
    return final


def read_fold_ensembles(folder: RunFolder, plan: Plan) -> list[ConsolidatedMetaModel]:
    """Return the ensemble of each fold.

    Raises
    ------
    CheckpointError
        There is no ensemble, it was made by an earlier version, or an instance is no longer what it was.
    """
    final, summary = consolidated_model(folder), _summary(folder)
    facts, parts = _kept(folder, summary)
    files = [
        folder.instance(plan.cut.instance(one["instance_id"])) / "fold_models.miduck" for one in summary["members"]
    ]
    for file, one in zip(files, summary["members"], strict=True):
        if file_sha256(file) != one["fold_models_sha256"]:
            raise CheckpointError(f"{file} is not that of the ensemble; run 'mi-duck consolidate {folder.root}'")
    models = [read_fold_models(file) for file in files]
    weights = MemberWeights.from_dict(summary["all_weights"][summary["variant"]])
    is_refitted = final.voting == REFIT.voting
    found = []
    for fold in range(plan.settings.n_folds):
        members = tuple(
            replace(
                member,
                boosters=_refitted(model.boosters[fold], fold, number, facts, parts)
                if is_refitted
                else model.boosters[fold],
                calibrators=member.calibrators if is_refitted else model.calibrators[fold],
            )
            for number, (member, model) in enumerate(zip(final.members, models, strict=True))
        )
        calibrators = facts["calibrators"][fold] if facts["calibrators"] else ()
        on_top = tuple(Calibrator.from_dict(values) for values in calibrators)
        found.append(replace(final, members=members, weights=weights.by_fold[fold], calibrators=on_top))
    return found


def _summary(folder: RunFolder) -> dict[str, Any]:
    return dict(json.loads(folder.summary.read_bytes()))


def _kept(folder: RunFolder, summary: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return what joins the boosters of folds, once it is known to belong to the ensemble."""
    remedy = f"'mi-duck consolidate {folder.root}' makes it"
    if not folder.fold_ensembles.is_file():
        raise CheckpointError(f"no {folder.fold_ensembles.name} in {folder.root}; {remedy}")
    parts = read_parts(folder.fold_ensembles)
    try:
        facts = json.loads(parts[FACTS])
        is_ours = facts["version"] == VERSION and facts["model_sha256"] == summary["model_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder.fold_ensembles} is damaged ({error}); {remedy}") from error
    if not is_ours:
        raise CheckpointError(f"{folder.fold_ensembles} is not that of the ensemble; {remedy}")
    return facts, parts


def _refitted(
    boosters: tuple[xgb.Booster, ...], fold: int, member: int, facts: Mapping[str, Any], parts: Mapping[str, bytes]
) -> tuple[xgb.Booster, ...]:
    """Return the boosters of a member with the leaves of the joint refit."""
    raws = []
    for index in fitted_classes(len(boosters)):
        values = np.frombuffer(parts[f"leaves_{fold}_{member}_{index}.f4"], dtype=np.float32)
        raws.append(with_kept_leaves(boosters[index], values, facts["base_scores"][f"{fold}_{member}_{index}"]))
    return tuple(xgb.Booster(model_file=bytearray(raw)) for raw in of_all_classes(raws, len(boosters)))
