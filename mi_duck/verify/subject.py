"""The run that is verified: its plan, provenance and summary as far as they can be read, and the hash of each file once.

Checks what lies in a run folder: every file that the provenance vouches for, and nothing foreign or half-written.

Checks the dataset of a run: it is still the one that was planned, and its pages are whole.
"""

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mi_duck.atomic_files import file_sha256
from mi_duck.data.dataset import open_planned
from mi_duck.data.parquet import ObjectFile, data_file, open_parquet
from mi_duck.errors import CheckpointError
from mi_duck.processes import Report
from mi_duck.run.folder import ASIDE, RunFolder, own_files, read_provenance
from mi_duck.run.plan import Instance, Plan, Segment
from mi_duck.verify.findings import DAMAGED, MISSING, OK, UNREADABLE, Finding, Verdict, guarded, listed, verdict


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
        A number is not a number, a name not text, a window or a segment lies outside the genes.
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
                raise CheckpointError(f"plan.json is damaged: {field.name} of {title} holds what is not text")
    n_all = plan.n_genes + plan.n_holdout_genes
    pieces: list[Instance | Segment] = [*plan.instances, *plan.all_segments]
    if not plan.instances or any(not 0 <= one.first_rank < one.stop_rank <= n_all for one in pieces):
        raise CheckpointError("plan.json is damaged: a window or segment is empty or lies outside the genes")
    ids = [instance.instance_id for instance in plan.instances]
    if len(set(ids)) < len(ids) or min(ids) < 0:
        raise CheckpointError("plan.json is damaged: two instances have one id")


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
        [f"{name} is not an instance of the plan" for name in foreign], f"{len(there)} folders, each of an instance"
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


def check_source(subject: Subject, report: Report) -> Iterator[Finding]:
    """Yield what is found about the dataset; reads every page that the run used."""
    yield guarded("dataset: fingerprint", lambda: _fingerprint(subject))
    yield guarded("dataset: page checksums", lambda: _pages(subject, report))


def _fingerprint(subject: Subject) -> Verdict:
    gone = [file for file in subject.plan.files if not _is_there(file)]
    if gone:
        return MISSING, f"{len(gone)} of {len(subject.plan.files)} files are not there, such as {gone[0]}"
    dataset = open_planned(subject.plan)
    return OK, f"{dataset.n_rows:,} rows in {len(dataset.files)} files, as planned"


def _is_there(text: str) -> bool:
    """Return whether a file is there; a store is asked when its files are opened."""
    file = data_file(text)
    return isinstance(file, ObjectFile) or file.is_file()


def _pages(subject: Subject, report: Report) -> Verdict:
    plan = subject.plan
    files = [data_file(file) for file in plan.files if _is_there(file)]
    used = [plan.gene_column, plan.label_column, plan.fold_column, plan.position_column, *plan.features]
    for done, file in enumerate(files):
        report("reading every page of the dataset", done, len(files))
        with open_parquet(file) as parquet:
            columns = [name for name in parquet.schema_arrow.names if name in set(used)]
            for group in range(parquet.num_row_groups):
                parquet.read_row_group(group, columns=columns)
    report("reading every page of the dataset", len(files), len(files))
    if not files:
        return MISSING, "no file of the dataset is there"
    return OK, f"{len(files)} files read; a page without a checksum can change unseen"
