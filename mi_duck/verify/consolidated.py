"""Checks the consolidated model and its summary against the plan and the instances."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from mi_duck.archive import read_parts
from mi_duck.ensemble.model import ConsolidatedMetaModel
from mi_duck.ensemble.model_file import load_unified_model
from mi_duck.verify.findings import DAMAGED, MISSING, OK, Finding, Verdict, guarded, skipped, verdict
from mi_duck.verify.subject import Subject

FILES = {
    "model_sha256": "model_multiclass.miduck",
    "fold_models_sha256": "fold_models.miduck",
    "genes_sha256": "genes.txt",
}
"""Hashes that the summary states of each member."""


def check_consolidated(subject: Subject) -> Iterator[Finding]:
    """Yield the findings about the consolidated model and its summary."""
    folder = subject.folder
    if not folder.summary.is_file() and not folder.model.is_file():
        yield Finding(
            "consolidated model",
            MISSING,
            f"not consolidated; 'mi-duck consolidate {folder.root}' joins the trained instances",
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


def _unread(subject: Subject) -> Verdict:
    found = json.loads(subject.folder.summary.read_bytes())
    if not isinstance(found, dict):
        return DAMAGED, "it is not a JSON object"
    lacks = [name for name in ("model_sha256", "out_of_fold_sha256") if name not in found]
    return MISSING, f"lacks {' and '.join(lacks)}; 'mi-duck consolidate {subject.folder.root}' writes it anew"


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
    """Check the members against the plan, the coverage against their windows, and the hashes of what was consolidated."""
    plan = subject.plan
    of_id = {instance.instance_id: instance for instance in plan.cut.instances}
    members = summary["members"]
    ids = [one["instance_id"] for one in members]
    if not ids or len(set(ids)) < len(ids) or not set(ids) <= set(of_id):
        return DAMAGED, f"its members {ids} are not instances of the plan"
    is_covered = np.zeros(plan.data.n_genes, dtype=bool)
    for number in ids:
        is_covered[of_id[number].first_rank : of_id[number].stop_rank] = True
    n_covered = int(is_covered.sum())
    expected = {"n_genes_trained": n_covered, "coverage_fraction": n_covered / plan.data.n_genes}
    problems = [
        f"{name} is {str(summary[name])[:60]}, by the windows of its members {value}"
        for name, value in expected.items()
        if summary[name] != value
    ]
    for one in members:
        instance = of_id[one["instance_id"]]
        where = subject.folder.instance(instance)
        problems += [
            f"{file} of {instance.name} is not the one that was consolidated"
            for key, file in FILES.items()
            if (where / file).is_file() and subject.sha256(where / file) != one[key]
        ]
    lost = [instance.name for number, instance in of_id.items() if number not in ids]
    if problems or not lost:
        return verdict(problems, f"{len(members)} members, {n_covered:,} of {plan.data.n_genes:,} genes")
    return MISSING, f"{', '.join(lost)} not in it: it covers {n_covered:,} of {plan.data.n_genes:,} genes"


def _members(subject: Subject, summary: dict[str, Any]) -> Verdict:
    """Check that the model can be loaded and has the boosters of its instances, byte for byte."""
    plan, path = subject.plan, subject.folder.model
    if not isinstance(load_unified_model(path), ConsolidatedMetaModel):
        return DAMAGED, "it is not an ensemble"
    parts = read_parts(path)
    of_id = {instance.instance_id: instance for instance in plan.cut.instances}
    members, problems = summary["members"], []
    for number, one in enumerate(members):
        instance = of_id[one["instance_id"]]
        own = subject.folder.instance(instance) / "model_multiclass.miduck"
        if own.is_file() and subject.sha256(own) == one["model_sha256"]:
            boosters = read_parts(own)
            problems += [
                f"booster {index} of {instance.name} is not the instance's"
                for index in range(len(plan.data.classes))
                if parts[f"booster_{number}_{index}.ubj"] != boosters[f"booster_{index}.ubj"]
            ]
    return verdict(problems, f"{len(members)} members with the boosters of their instances")
