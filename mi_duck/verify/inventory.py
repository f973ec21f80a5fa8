"""Checks what lies in a run folder: every file that the provenance vouches for, and nothing foreign or half-written."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mi_duck.provenance import ASIDE, own_files
from mi_duck.verify.findings import DAMAGED, MISSING, OK, Finding, Verdict, guarded, listed, verdict
from mi_duck.verify.subject import Subject


def check_inventory(subject: Subject) -> Iterator[Finding]:
    """Yield what is found about provenance, leftovers and foreign folders."""
    yield guarded("provenance.json", lambda: _provenance(subject))
    yield guarded("hashes of all files", lambda: _hashes(subject))
    yield guarded("no folder of another run", lambda: _foreign(subject))
    yield guarded("no temporary files", lambda: _leftovers(subject))


def _provenance(subject: Subject) -> Verdict:
    folder, plan = subject.folder, subject.plan
    found: dict[str, Any] = json.loads(folder.provenance.read_bytes())
    problems = []
    if found["plan_sha256"] != subject.sha256(folder.plan):
        problems.append("plan.json is not the one of this run: its hash differs")
    if found["dataset_fingerprint"] != plan.dataset_fingerprint:
        problems.append("it is of another dataset than the plan")
    if problems:
        return verdict(problems, "")
    if not subject.is_evaluated:
        return MISSING, "the model was consolidated anew since it was evaluated; 'mi-duck evaluate' goes on"
    if "files" not in found:
        return MISSING, "a stage began to change files and did not end; the same command goes on"
    if found["status"] != "finished" or not isinstance(found["files"], dict):
        return DAMAGED, "it is of no finished run"
    return OK, f"finished {found['finished_at']}, plan, model and data as there"


def _hashes(subject: Subject) -> Verdict:
    if not subject.is_finished or subject.provenance is None:
        return MISSING, "the run is not finished, so nothing vouches for all its files"
    folder = subject.folder
    stated: dict[str, Any] = subject.provenance["files"]
    there = {file.relative_to(folder.root).as_posix(): file for file in own_files(folder)}
    changed = [name for name, file in there.items() if name in stated and subject.sha256(file) != stated[name]]
    gone = sorted(name for name in stated if name not in there)
    new = sorted(name for name in there if name not in stated)
    if changed or new:
        problems = [f"{name} has another hash" for name in changed] + [f"{name} is not listed" for name in new]
        return verdict(problems, "")
    if gone:
        return MISSING, f"{listed(gone)} not there; the same command writes what can be made again"
    return OK, f"{len(stated)} files as when the run was finished"


def _foreign(subject: Subject) -> Verdict:
    home = subject.folder.root / "multi_instance_training"
    plan = subject.plan
    known = {instance.name for instance in (*plan.instances, *plan.split_instances)} | {ASIDE}
    there = sorted(path.name for path in home.iterdir()) if home.is_dir() else []
    foreign = [name for name in there if name not in known and not name.startswith(".")]
    return verdict(
        [f"{name} is no instance of the plan" for name in foreign], f"{len(there)} folders, each of an instance"
    )


def _leftovers(subject: Subject) -> Verdict:
    root = subject.folder.root
    left = sorted(path.relative_to(root).as_posix() for path in root.rglob(".*.tmp*") if _is_outside(path, root))
    if not left:
        return OK, "none outside .scratch"
    words = f"{listed(left)} left by a stage that was interrupted"
    return (
        (DAMAGED, f"{words}; remove them") if subject.is_finished else (MISSING, f"{words}; the same command goes on")
    )


def _is_outside(path: Path, root: Path) -> bool:
    parts = path.relative_to(root).parts
    return parts[0] not in (".scratch", ASIDE) and not any(part.startswith(".") for part in parts[:-1])
