"""The run that is verified, what a check of it finds, and the checks of its files as a whole and of its dataset.

`Subject` holds what can be read of plan, provenance and summary, and the hash of each file once. The checks: every file has the
hash that the provenance lists, the folder holds nothing foreign or half-written, and the dataset is the one that was planned.
"""

import csv
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from mi_duck.atomic_files import file_sha256
from mi_duck.data.dataset import open_planned
from mi_duck.data.parquet import ObjectFile, data_file, verify_pages
from mi_duck.errors import CheckpointError, MiDuckError
from mi_duck.processes import Report
from mi_duck.report.records import read_json
from mi_duck.run.folder import ASIDE, RunFolder, own_files, read_provenance
from mi_duck.run.made import made_by_feature
from mi_duck.run.plan import Instance, Plan, Segment

OK, NOT_APPLICABLE, MISSING, DAMAGED = "ok", "not applicable", "missing", "damaged"
STATUSES = (OK, NOT_APPLICABLE, MISSING, DAMAGED)
"""From good to bad."""
UNREADABLE = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, MemoryError),
    *(StopIteration, csv.Error, pa.ArrowException, msgspec.MsgspecError, MiDuckError),
)
"""What Python, Arrow, msgspec and the readers of this package raise for damaged bytes and values."""
MOST_NAMED = 3

Verdict = tuple[str, str]
"""Status and detail of a check."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check: what was checked, one of `STATUSES`, and what was found."""

    name: str
    status: str
    detail: str


def guarded(name: str, check: Callable[[], Verdict]) -> Finding:
    """Return the finding of a check; a file that is absent is missing, and one that cannot be read is damaged."""
    try:
        status, detail = check()
    except FileNotFoundError as error:
        status, detail = MISSING, f"{Path(str(error.filename)).name} is not there"
    except UNREADABLE as error:
        words = " ".join(str(error).split())
        status, detail = DAMAGED, f"cannot be read: {words[:300] or type(error).__name__}"
    return Finding(name, status, detail)


def verdict(problems: Sequence[str], fine: str) -> Verdict:
    """Return ``damaged`` with the first problems, or ``ok`` with what was checked."""
    return (DAMAGED, listed(problems, "; ")) if problems else (OK, fine)


def listed(names: Sequence[str], joint: str = ", ") -> str:
    """Return the first of some names and how many more there are."""
    more = f"{joint}and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return joint.join(names[:MOST_NAMED]) + more


def skipped(name: str, reason: str) -> Finding:
    """Return the finding of a check that cannot be made."""
    return Finding(name, NOT_APPLICABLE, reason)


@dataclass(frozen=True, slots=True)
class Subject:
    """A run whose plan can be read.

    Parameters
    ----------
    n_planned
        Instances in ``plan.json``; those that come from a split have ids from here on.
    provenance, summary
        ``provenance.json`` and ``consolidation_summary.json``, None where they are absent or cannot be read.
    """

    folder: RunFolder
    plan: Plan
    n_planned: int
    provenance: dict[str, Any] | None
    summary: dict[str, Any] | None
    sha256: Callable[[Path], str]

    @property
    def files(self) -> dict[str, Any] | None:
        """Hash of every file by its name, from the provenance; None where a stage did not end."""
        files = (self.provenance or {}).get("files")
        return files if isinstance(files, dict) else None

    @property
    def is_complete(self) -> bool:
        """Whether every file that the provenance lists is there."""
        return self.files is not None and all((self.folder.root / name).is_file() for name in self.files)

    @property
    def is_evaluated(self) -> bool:
        """Whether the scores are those of the consolidated model in the folder."""
        return (
            self.provenance is None
            or self.summary is None
            or self.provenance.get("model_sha256") == self.summary.get("model_sha256")
        )

    def stated_hash(self, file: Path) -> str | None:
        """Return the hash of a file by provenance or summary, None where neither has one."""
        name, files = file.relative_to(self.folder.root).as_posix(), self.files or {}
        if name in files:
            return str(files[name])
        if self.summary is not None and file in (self.folder.out_of_fold, self.folder.model):
            return str(self.summary["out_of_fold_sha256" if file == self.folder.out_of_fold else "model_sha256"])
        return None

    def is_whole(self, file: Path) -> bool:
        """Return whether a file has the hash that the run states; only such a file is given to a native parser."""
        return file.is_file() and self.stated_hash(file) == self.sha256(file)


def open_subject(folder: RunFolder) -> Subject:
    """Read plan, provenance and summary of a run.

    Raises
    ------
    CheckpointError
        The plan is missing or damaged.
    """
    plan = folder.read_plan()
    check_plan(plan)
    try:
        n_planned = len(json.loads(folder.plan.read_bytes())["cut"]["instances"])
        provenance = read_provenance(folder)
    except UNREADABLE:
        n_planned, provenance = len(plan.cut.instances), None
    return Subject(folder, plan, n_planned, provenance, _summary(folder), functools.cache(file_sha256))


def _summary(folder: RunFolder) -> dict[str, Any] | None:
    try:
        found = read_json(folder.summary)
    except CheckpointError:
        return None
    return found if isinstance(found, dict) and "out_of_fold_sha256" in found and "model_sha256" in found else None


def check_plan(plan: Plan) -> None:
    """Refuse a plan with values that no planner writes, so that the other checks can use them.

    Raises
    ------
    CheckpointError
        A value is of another type, or a window or a segment lies outside the genes.
    """
    try:
        msgspec.convert(asdict(plan), Plan)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"plan.json is damaged: {str(error).replace('`', '')}") from error
    n_all = plan.data.n_genes + plan.data.n_holdout_genes
    ranges: list[Instance | Segment] = [*plan.cut.instances, *plan.cut.all_segments]
    if not plan.cut.instances or any(not 0 <= one.first_rank < one.stop_rank <= n_all for one in ranges):
        raise CheckpointError("plan.json is damaged: a window or segment is empty or lies outside the genes")
    ids = [instance.instance_id for instance in plan.cut.instances]
    if len(set(ids)) < len(ids) or min(ids) < 0:
        raise CheckpointError("plan.json is damaged: two instances have one id")


def check_inventory(subject: Subject) -> Iterator[Finding]:
    """Yield the findings about provenance, hashes, foreign folders and leftovers."""
    yield guarded("provenance.json", lambda: _provenance(subject))
    yield guarded("hashes of all files", lambda: _hashes(subject))
    yield guarded("no folder of another run", lambda: _foreign(subject))
    yield guarded("no temporary files", lambda: _leftovers(subject))


def _provenance(subject: Subject) -> Verdict:
    folder = subject.folder
    found: dict[str, Any] = json.loads(folder.provenance.read_bytes())
    if found["plan_sha256"] != subject.sha256(folder.plan):
        return DAMAGED, "plan.json is not the one of this run: its hash differs"
    if not subject.is_evaluated:
        return MISSING, "the model was consolidated again after it was evaluated; 'mi-duck evaluate' goes on"
    if "files" not in found:
        return MISSING, "a stage began to change files and did not end; the same command goes on"
    if found["status"] != "finished" or not isinstance(found["files"], dict):
        return DAMAGED, "it is not of a finished run"
    return OK, f"finished {found['finished_at']}, with this plan and model"


def _hashes(subject: Subject) -> Verdict:
    folder, stated = subject.folder, subject.files
    if stated is None:
        return MISSING, "the run is not finished, so there are no hashes of all its files"
    there = {file.relative_to(folder.root).as_posix(): file for file in own_files(folder)}
    changed = [name for name, file in there.items() if name in stated and subject.sha256(file) != stated[name]]
    gone = sorted(name for name in stated if name not in there)
    new = sorted(name for name in there if name not in stated)
    problems = [f"{name} has another hash" for name in changed] + [f"{name} is not listed" for name in new]
    if gone and not problems:
        return MISSING, f"{listed(gone)} not there; the same command writes what can be made again"
    return verdict(problems, f"{len(stated)} files as when the run was finished")


def _foreign(subject: Subject) -> Verdict:
    home, cut = subject.folder.instances, subject.plan.cut
    known = {instance.name for instance in (*cut.instances, *cut.split_instances)} | {ASIDE}
    there = sorted(path.name for path in home.iterdir()) if home.is_dir() else []
    foreign = [name for name in there if name not in known and not name.startswith(".")]
    problems = [f"{name} is not an instance of the plan" for name in foreign]
    return verdict(problems, f"{len(there)} folders, each of an instance")


def _leftovers(subject: Subject) -> Verdict:
    root = subject.folder.root
    left = sorted(path.relative_to(root).as_posix() for path in root.rglob(".*.tmp*") if _is_outside(path, root))
    if not left:
        return OK, "none outside .scratch"
    words = f"{listed(left)} left by a stage that was interrupted"
    if subject.files is None:
        return MISSING, f"{words}; the same command goes on"
    return DAMAGED, f"{words}; remove them"


def _is_outside(path: Path, root: Path) -> bool:
    parts = path.relative_to(root).parts
    return parts[0] not in (".scratch", ASIDE) and not any(part.startswith(".") for part in parts[:-1])


def check_source(subject: Subject, report: Report) -> Iterator[Finding]:
    """Yield the findings about the dataset; reads every page of the columns that the run used."""
    yield guarded("dataset: fingerprint", lambda: _fingerprint(subject))
    yield guarded("dataset: page checksums", lambda: _pages(subject, report))


def _fingerprint(subject: Subject) -> Verdict:
    gone = [file for file in subject.plan.data.files if not _is_there(file)]
    if gone:
        return MISSING, f"{len(gone)} of {len(subject.plan.data.files)} files are not there, such as {gone[0]}"
    dataset = open_planned(subject.plan.data)
    return OK, f"{dataset.n_rows:,} rows in {len(dataset.files)} files, as planned"


def _is_there(text: str) -> bool:
    """Return whether a local file exists; files of an object store are only looked for when they are opened."""
    file = data_file(text)
    return isinstance(file, ObjectFile) or file.is_file()


def _pages(subject: Subject, report: Report) -> Verdict:
    data = subject.plan.data
    files = [data_file(file) for file in data.files if _is_there(file)]
    made = made_by_feature(data.made)
    features = [made[name].column if name in made else name for name in data.features]
    columns = dict.fromkeys((data.gene_column, data.label_column, data.fold_column, data.position_column, *features))
    for done, file in enumerate(files):
        report("reading every page of the dataset", done, len(files))
        verify_pages([file], [name for name in columns if name])
    report("reading every page of the dataset", len(files), len(files))
    if not files:
        return MISSING, "no file of the dataset is there"
    return OK, f"{len(files)} files read; a changed page without a checksum is not noticed"
