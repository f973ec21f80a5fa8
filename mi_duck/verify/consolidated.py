"""Checks the consolidated model against its members, and what is written about it."""

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from mi_duck.archive import read_parts
from mi_duck.ensemble.model import ConsolidatedMetaModel
from mi_duck.ensemble.model_file import load_unified_model
from mi_duck.metrics.ranking import values_of
from mi_duck.run.encoding import encoding_of
from mi_duck.verify.findings import DAMAGED, MISSING, OK, Finding, Verdict, guarded, skipped, verdict
from mi_duck.verify.subject import Subject

FILES = {
    "model_sha256": "model_multiclass.miduck",
    "fold_models_sha256": "fold_models.miduck",
    "genes_sha256": "genes.txt",
}
"""Hashes that the summary states of each member."""


def check_consolidated(subject: Subject) -> Iterator[Finding]:
    """Yield what is found about the consolidated model and its summary."""
    folder = subject.folder
    if not folder.summary.is_file() and not folder.model.is_file():
        yield Finding(
            "consolidated model",
            MISSING,
            f"not consolidated; 'mi-duck consolidate {folder.root}' joins what is trained",
        )
        return
    yield guarded("consolidated model: file", lambda: _file(subject))
    if subject.summary is None:
        yield guarded("consolidation_summary.json", lambda: _unread(subject))
        return
    yield guarded("consolidation_summary.json", lambda: _summary(subject, subject.summary or {}))
    if not subject.is_whole(folder.model):
        yield skipped("consolidated model: members", "its hash is not that of the summary, so it is not opened")
        return
    yield guarded("consolidated model: members", lambda: _members(subject, subject.summary or {}))
    yield guarded("thresholds.json", lambda: _thresholds(subject, subject.summary or {}))


def _unread(subject: Subject) -> Verdict:
    found = json.loads(subject.folder.summary.read_bytes())
    if not isinstance(found, dict):
        return DAMAGED, "it holds no table"
    lacks = [name for name in ("model_sha256", "out_of_fold_sha256") if name not in found]
    return MISSING, f"states no {' and no '.join(lacks)}; 'mi-duck consolidate {subject.folder.root}' writes it anew"


def _file(subject: Subject) -> Verdict:
    model = subject.folder.model
    if not model.is_file():
        return MISSING, "consolidated_model.miduck is not there; 'mi-duck consolidate' writes it again"
    if subject.summary is None:
        read_parts(model)
        return OK, "whole by its own hash"
    stated = subject.summary["model_sha256"]
    if subject.sha256(model) != stated:
        return DAMAGED, "its hash is not the one in consolidation_summary.json"
    return OK, f"hash {str(stated)[:12]} as in consolidation_summary.json"


def _summary(subject: Subject, summary: dict[str, Any]) -> Verdict:
    plan = subject.plan
    of_id = {instance.instance_id: instance for instance in plan.instances}
    members = summary["members"]
    ids = [one["instance_id"] for one in members]
    unknown = [number for number in ids if number not in of_id]
    if unknown or len(set(ids)) < len(ids) or not ids:
        return DAMAGED, f"its members {ids} are not instances of the plan"
    is_covered = np.zeros(plan.n_genes, dtype=bool)
    for number in ids:
        is_covered[of_id[number].first_rank : of_id[number].stop_rank] = True
    n_covered = int(is_covered.sum())
    expected = {
        "dataset_fingerprint": plan.dataset_fingerprint,
        "classes": list(plan.classes),
        "n_features": len(plan.features),
        "n_instances": len(plan.instances),
        "instances_lost": [number for number in of_id if number not in ids],
        "n_genes": plan.n_genes,
        "n_genes_trained": n_covered,
        "coverage_fraction": n_covered / plan.n_genes,
    }
    problems = [
        f"{name} is {str(summary[name])[:60]}, by plan and members {str(value)[:60]}"
        for name, value in expected.items()
        if summary[name] != value
    ]
    weights = [one["weight"] for one in members]
    if min(weights) < 0 or not math.isclose(sum(weights), 1, abs_tol=1e-9):
        problems.append(f"weights {weights} do not sum to 1")
    for one in members:
        instance = of_id[one["instance_id"]]
        problems += [
            f"{key} of {instance.name} is {one[key]}, the plan says {getattr(instance, key)}"
            for key in ("n_genes", "n_rows")
            if one[key] != getattr(instance, key)
        ]
        where = subject.folder.instance(instance)
        problems += [
            f"{file} of {instance.name} is not the one that was consolidated"
            for key, file in FILES.items()
            if (where / file).is_file() and subject.sha256(where / file) != one[key]
        ]
    if problems or not expected["instances_lost"]:
        return verdict(problems, f"{len(members)} members, {n_covered:,} of {plan.n_genes:,} genes")
    lost = ", ".join(of_id[number].name for number in of_id if number not in ids)
    return MISSING, f"{lost} not in it: it covers {n_covered:,} of {plan.n_genes:,} genes"


def _members(subject: Subject, summary: dict[str, Any]) -> Verdict:
    plan, path = subject.plan, subject.folder.model
    model = load_unified_model(path)
    if not isinstance(model, ConsolidatedMetaModel):
        return DAMAGED, "it is not an ensemble"
    members = summary["members"]
    pairs: dict[str, tuple[Any, Any]] = {
        "features": (tuple(model.features), plan.features),
        "classes": (tuple(model.classes), plan.classes),
        "encoding": (model.members[0].encoding, encoding_of(plan.settings.layout, plan.zero_is_missing)),
        "weights": (list(model.weights), [one["weight"] for one in members]),
        "voting": (model.voting, summary["voting"]),
        "thresholds": (model.thresholds, summary["thresholds"]),
        "genes": (model.n_genes, summary["n_genes_trained"]),
        "rounds": ([one.metadata["rounds"] for one in model.members], [one["rounds"] for one in members]),
    }
    pairs |= {
        f"{key} of members": ([one.metadata[key] for one in model.members], [one[key] for one in members])
        for key in ("instance_id", "n_genes", "n_rows")
    }
    problems = [f"its {name} are not those of summary and plan" for name, (one, two) in pairs.items() if one != two]
    if problems:
        return verdict(problems, "")
    parts = read_parts(path)
    of_id = {instance.instance_id: instance for instance in plan.instances}
    for number, one in enumerate(members):
        instance = of_id[one["instance_id"]]
        own = subject.folder.instance(instance) / "model_multiclass.miduck"
        if own.is_file() and subject.sha256(own) == one["model_sha256"]:
            boosters = read_parts(own)
            problems += [
                f"booster {index} of {instance.name} is not the instance's"
                for index in range(len(plan.classes))
                if parts[f"booster_{number}_{index}.ubj"] != boosters[f"booster_{index}.ubj"]
            ]
    return verdict(problems, f"{len(members)} members with the boosters of their instances, weights sum to 1")


def _thresholds(subject: Subject, summary: dict[str, Any]) -> Verdict:
    found = values_of(json.loads(subject.folder.thresholds.read_bytes()))
    return verdict([] if found == summary["thresholds"] else ["not those of the model"], "those of the model")
