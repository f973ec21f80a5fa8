"""The run that is verified: its plan, provenance and summary as far as they can be read, and the hash of each file once."""

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mi_duck.checkpoint import file_sha256
from mi_duck.errors import CheckpointError
from mi_duck.folders import RunFolder
from mi_duck.plan.plan import Instance, Plan, Segment
from mi_duck.provenance import read_provenance
from mi_duck.verify.findings import UNREADABLE


@dataclass(frozen=True, slots=True)
class Subject:
    """A run whose plan can be read.

    Parameters
    ----------
    folder, plan
        The run.
    n_planned
        Instances of ``plan.json`` as it was written; those that came of a split have ids from here on.
    provenance, summary
        ``provenance.json`` and ``consolidation_summary.json``, None where they are absent or cannot be read.
    sha256
        Hash of a file, computed once.
    """

    folder: RunFolder
    plan: Plan
    n_planned: int
    provenance: dict[str, Any] | None
    summary: dict[str, Any] | None
    sha256: Callable[[Path], str]

    @property
    def is_finished(self) -> bool:
        """Whether the provenance vouches for all files: every stage ended."""
        return self.provenance is not None and isinstance(self.provenance.get("files"), dict)

    @property
    def is_complete(self) -> bool:
        """Whether every file that the provenance lists is there."""
        return (
            self.provenance is not None
            and self.is_finished
            and all((self.folder.root / name).is_file() for name in self.provenance["files"])
        )

    @property
    def is_evaluated(self) -> bool:
        """Whether the scores are those of the model that is there."""
        return (
            self.provenance is None
            or self.summary is None
            or (self.provenance.get("model_sha256") == self.summary.get("model_sha256"))
        )

    def vouched(self, file: Path) -> str | None:
        """Return the hash that some file of the run states for a file, None where none does."""
        name = file.relative_to(self.folder.root).as_posix()
        if self.is_finished and self.provenance is not None and name in self.provenance["files"]:
            return str(self.provenance["files"][name])
        if self.summary is not None and file in (self.folder.out_of_fold, self.folder.model):
            return str(self.summary["out_of_fold_sha256" if file == self.folder.out_of_fold else "model_sha256"])
        return None

    def is_whole(self, file: Path) -> bool:
        """Return whether a file is there with the hash that the run states; only such a file goes to a native parser."""
        return file.is_file() and self.vouched(file) == self.sha256(file)


def open_subject(folder: RunFolder) -> Subject:
    """Read what the checks of a run start from.

    Raises
    ------
    CheckpointError
        The plan is missing or damaged; without it nothing can be checked.
    """
    plan = folder.read_plan()
    check_types(plan)
    try:
        n_planned = len(json.loads(folder.plan.read_bytes())["instances"])
        provenance = read_provenance(folder)
    except UNREADABLE:
        n_planned, provenance = len(plan.instances), None
    return Subject(folder, plan, n_planned, provenance, _summary(folder), functools.cache(file_sha256))


def _summary(folder: RunFolder) -> dict[str, Any] | None:
    try:
        found = json.loads(folder.summary.read_bytes())
    except UNREADABLE:
        return None
    return found if isinstance(found, dict) and "out_of_fold_sha256" in found and "model_sha256" in found else None


def _is_text(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(one, str) for one in value)


def check_types(plan: Plan) -> None:
    """Refuse a plan with values that no planner writes, so that what reads it need not fear them.

    Raises
    ------
    CheckpointError
        A number is no number, a name no text, a window or a segment lies outside the genes.
    """
    kinds: dict[Any, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,), bool: (bool,)}
    kinds |= {int | None: (int, type(None)), float | None: (int, float, type(None)), str | None: (str, type(None))}
    parts: list[tuple[str, Any]] = [("plan", plan), ("settings", plan.settings)]
    parts += [(f"instance {number}", one) for number, one in enumerate(plan.instances)]
    parts += [(f"segment {number}", one) for number, one in enumerate(plan.all_segments)]
    for title, part in parts:
        for field in fields(part):
            value = getattr(part, field.name)
            allowed = kinds.get(field.type, (object,))
            if not isinstance(value, allowed) or (
                isinstance(value, bool) and bool not in allowed and object not in allowed
            ):
                raise CheckpointError(f"plan.json is damaged: {field.name} of {title} is {str(value)[:40]!r}")
            if field.type == tuple[str, ...] and not _is_text(value):
                raise CheckpointError(f"plan.json is damaged: {field.name} of {title} holds what is no text")
    n_all = plan.n_genes + plan.n_holdout_genes
    pieces: list[Instance | Segment] = [*plan.instances, *plan.all_segments]
    if not plan.instances or any(not 0 <= one.first_rank < one.stop_rank <= n_all for one in pieces):
        raise CheckpointError("plan.json is damaged: a window or segment is empty or lies outside the genes")
    ids = [instance.instance_id for instance in plan.instances]
    if len(set(ids)) < len(ids) or min(ids) < 0:
        raise CheckpointError("plan.json is damaged: two instances have one id")
