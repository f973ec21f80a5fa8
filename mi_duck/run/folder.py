"""The folder of a run: where its files lie, who holds it, what ``provenance.json`` lists, and whether it is explained.

Locks are of the whole run, of the partition of its rows, of each instance, and of each part of a refit.

``provenance.json`` holds the hash of every file that a finished run wrote. The list of files is written last and taken out
before anything in the run changes, so it never vouches for a file that is just being written anew: a run whose provenance has
no list is one that some step has begun to change.
"""

import fcntl
import importlib.util
import json
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mi_duck.atomic_files import file_sha256, remove_leftovers, storage_errors, write_json
from mi_duck.errors import CheckpointError, DataError, RunBusyError
from mi_duck.run.plan import Instance, Plan, read_splits
from mi_duck.run.progress import activity

PAUSES = (0.02, 0.05, 0.1)  # seconds between tries: whoever only looks whether a lock is free holds it for a moment
ASIDE = "stale"
FIGURES = ("pdf", "svg", "png")
"""Formats of figures."""
LEARNING_CURVE = "learning_curve.json"
"""In the folder of a learning curve, which is no run."""
SHAP_SUMMARY = "shap_analysis_summary.json"
SHAP_VERSION = 1  # of the explanation


class _Inside:
    """A path inside a run folder."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, folder: "RunFolder", kind: type) -> Path:
        """Return the path in one run folder."""
        return folder.root / self.name


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of a run; the run folder is its state."""

    root: Path

    plan = _Inside("plan.json")  # the plan, written once
    splits = _Inside("splits.json")  # instances that ran out of memory, and the halves instead of them
    genes = _Inside("genes.parquet")  # ranks, folds and rows of every gene
    memory = _Inside("memory.json")  # measurements of memory that the plan rests on
    stage_times = _Inside("stage_times.json")  # what every step used, training apart
    scratch = _Inside(".scratch")  # what is deleted at the end
    segments = _Inside(".scratch/segments")  # rows in small types, one folder per segment
    members = _Inside(".scratch/members.parquet")  # out-of-fold scores of all instances, their refit and the base
    out_of_fold = _Inside("oof_predictions.parquet")  # out-of-fold predictions of the ensemble
    model = _Inside("consolidated_model.miduck")  # the consolidated model
    fold_ensembles = _Inside("fold_ensembles.miduck")  # the ensemble of each fold, as far as instances do not hold it
    summary = _Inside("consolidation_summary.json")  # members, weights, voting, hashes, coverage
    metrics = _Inside("metrics.csv")  # every score with its interval
    page = _Inside("report.html")  # the report that people read
    overfitting = _Inside("overfitting")  # verdicts on the learning curves
    thresholds = _Inside("thresholds.json")  # the probability from which each class is called
    curves = _Inside("curves.csv")  # points of the ROC and precision-recall curves
    base_vs_meta = _Inside("base_vs_meta.json")  # errors of the base model and of the ensemble
    gene_deltas = _Inside("gene_deltas.csv")  # scores of base model and ensemble, gene by gene
    gene_coverage = _Inside("gene_coverage_report.csv")  # fold and instances of every gene
    blend = _Inside("blend.csv")  # of a blend: weight and scores of every run, and what the blend gains over it
    true_rate = _Inside("true_rate.json")  # scores over every position of some genes
    scan_errors = _Inside("scan_errors.csv")  # what is called there by mistake, by kind
    instance_comparison = _Inside("instance_performance_comparison.csv")  # scores of every instance on the same rows
    calibration_analysis = _Inside("calibration_analysis")  # folder of the calibration report
    neighbours = _Inside("neighbour_diagnostics")  # folder of the scores round sampled sites
    shap = _Inside("comprehensive_shap_analysis")  # what the features contribute: tables, figures, summary
    importance = _Inside("feature_importance_analysis")  # mean SHAP values
    shap_importance = _Inside(  # at the path that other programs read
        "feature_importance_analysis/shap_analysis/importance/shap_importance_incremental.csv"
    )
    leakage = _Inside("leakage_analysis")  # folder of the leakage report
    holdout_predictions = _Inside("holdout_predictions.parquet")  # for the genes that nothing was trained on
    catalogue = _Inside("run.duckdb")  # tables over the run's files
    training_summary = _Inside("unified_training_summary.txt")  # the run as one page of plain text
    provenance = _Inside("provenance.json")  # settings, versions, fingerprints; written last
    memory_plot = _Inside("memory_per_gene")  # memory predicted and measured, drawn: its path without the format
    instances = _Inside("multi_instance_training")  # folders of all instances
    stale = _Inside(ASIDE)  # instances of earlier plans, set aside

    def instance(self, instance: Instance) -> Path:
        """Return the folder of one instance."""
        return self.instances / instance.name

    @property
    def results(self) -> tuple[Path, ...]:
        """Files that are made of the trained instances, there or not; the provenance apart."""
        return (
            *(self.out_of_fold, self.model, self.summary, self.metrics, self.thresholds, self.curves),
            *(self.base_vs_meta, self.gene_deltas, self.gene_coverage, self.instance_comparison, self.catalogue),
            *(self.training_summary, self.page, self.holdout_predictions, self.blend),
            *(self.fold_ensembles, self.true_rate, self.scan_errors),
            *self._drawn("*_base_vs_meta*"),
        )

    @property
    def memory_plots(self) -> tuple[Path, ...]:
        """The files in which the memory is drawn."""
        return self._drawn(self.memory_plot.name)

    def _drawn(self, stem: str) -> tuple[Path, ...]:
        """Return the figures whose name without suffix fits a pattern."""
        return tuple(sorted(path for suffix in FIGURES for path in self.root.glob(f"{stem}.{suffix}")))

    @property
    def result_folders(self) -> tuple[Path, ...]:
        """Folders that are made of them."""
        return (self.overfitting, self.calibration_analysis, self.neighbours, self.shap, self.importance)

    def read_plan(self) -> Plan:
        """Read the plan, with the splits that were made while it was trained."""
        try:
            text = self.plan.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            if now := activity(self.root):
                raise CheckpointError(f"{self.root} has no plan yet, it is being made ({now}); wait for it") from error
            if (self.root / LEARNING_CURVE).is_file():
                raise CheckpointError(f"{self.root} holds a learning curve, not a run; open its report.html") from error
            absent = "" if self.root.is_dir() else ", which is not a folder"
            raise CheckpointError(
                f"no plan in {self.root}{absent}; name the folder of a run, or begin one with "
                f"'mi-duck plan DATASET --out {self.root}'"
            ) from error
        try:
            plan = Plan.from_json(text)
        except CheckpointError as error:
            raise CheckpointError(f"{self.root}: {error}; 'mi-duck run --force-retrain-all' begins anew") from error
        return read_splits(self.splits, plan)


def own_files(folder: RunFolder) -> list[Path]:
    """Return every file that a run writes and keeps, sorted; not the provenance, what is set aside, and what others put there."""
    singles = (folder.plan, folder.splits, folder.genes, folder.memory, *folder.memory_plots, *folder.results)
    found = {file for file in singles if file.is_file()}
    for root in (*folder.result_folders, folder.leakage, folder.instances):
        found |= {file for file in root.rglob("*") if file.is_file()}
    return sorted(file for file in found if not _is_temporary(file.relative_to(folder.root)))


def _is_temporary(name: Path) -> bool:
    return ASIDE in name.parts or any(part.startswith(".") for part in name.parts)


def file_hashes(folder: RunFolder) -> dict[str, str]:
    """Return the hash of every file of a run by its name relative to the run folder."""
    return {file.relative_to(folder.root).as_posix(): file_sha256(file) for file in own_files(folder)}


def read_provenance(folder: RunFolder) -> dict[str, Any] | None:
    """Return what ``provenance.json`` says, None where the run has none; a `ValueError` where it is not a table in JSON."""
    try:
        found = json.loads(folder.provenance.read_bytes())
    except FileNotFoundError:
        return None
    if not isinstance(found, dict):
        raise ValueError(f"{folder.provenance} does not hold a table")
    return found


def checked(folder: RunFolder, file: Path) -> Path:
    """Return a file of a run; refuse one that is not what it was when the run was finished.

    Raises
    ------
    CheckpointError
        It was changed or replaced since.
    """
    check_files(folder, (file,))
    return file


def check_files(folder: RunFolder, files: Iterable[Path] | None = None, *, remedy: str = "") -> None:
    """Refuse a finished run of which files, by default any, were changed since; those that were deleted can be made again."""
    try:
        found = read_provenance(folder)
        listed = {} if found is None else dict(found.get("files") or {})
    except (ValueError, TypeError):  # damaged: it vouches for nothing, and verify says so
        return
    names = sorted(listed) if files is None else [file.relative_to(folder.root).as_posix() for file in files]
    for name in names:
        file = folder.root / name
        if name in listed and file.is_file() and file_sha256(file) != listed[name]:
            remedy = remedy or (
                f"'mi-duck verify {folder.root}' names all such files, and the command of the run makes them again"
            )
            raise CheckpointError(f"{file} is not what it was when the run was finished; {remedy}")


def write_provenance(folder: RunFolder, provenance: dict[str, Any]) -> None:
    """Write ``provenance.json`` with the hashes of all files."""
    write_json(folder.provenance, provenance | {"files": file_hashes(folder)})


def invalidate_file_list(folder: RunFolder) -> None:
    """Take the list of files out of the provenance, because some of them are about to change."""
    try:
        found = read_provenance(folder)
    except ValueError:  # damaged: then it vouches for nothing either
        return
    if found is not None and "files" in found:
        write_json(folder.provenance, {name: value for name, value in found.items() if name != "files"})


@contextmanager
def listing_files_again(folder: RunFolder) -> Iterator[None]:
    """Let a step change files of a finished run, and list them again when it ended.

    Nothing is listed where nothing was before: an unfinished run, or one that another step left half changed.
    """
    try:
        found = read_provenance(folder)
    except ValueError:
        found = None
    invalidate_file_list(folder)
    yield
    if found is not None and "files" in found:
        write_provenance(folder, found)


@contextmanager
def run_lock(out: Path, *, name: str = ".lock", shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold a lock of the run folder; a folder that it makes and that stays empty is deleted again.

    Parameters
    ----------
    name
        ``.lock`` is the whole run; an instance and the partition of the rows have their own.
    shared
        Hold it together with others that ask for it so: several instances may be trained at once, by array jobs.
    wait
        Wait for it instead of giving up.

    Raises
    ------
    RunBusyError
        Another process holds it.
    """
    is_new = not out.exists()
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        handle = (out / name).open("w")
    with handle:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        with storage_errors(out / name):  # file systems of clusters may be mounted without locks
            if wait:
                fcntl.flock(handle, kind)
            is_ours = wait or any(_lock_now(handle, kind, pause) for pause in PAUSES)
        if not is_ours:
            raise RunBusyError(f"another mi-duck works on {out}; wait for it or choose another --out")
        if name == ".lock" and not shared:  # so nobody else writes here
            with storage_errors(out):
                remove_leftovers(out)
        try:
            yield
        finally:
            if is_new and out.is_dir() and [one.name for one in out.iterdir()] == [name]:  # what was asked was refused
                (out / name).unlink()
                out.rmdir()


def _lock_now(handle: IO[str], kind: int, pause: float) -> bool:
    """Return whether a lock could be taken; after a pause if not."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(pause)
        return False
    return True


def is_locked(out: Path, name: str) -> bool:
    """Return whether another process holds a lock of the run folder; nothing is written."""
    try:
        with (out / name).open() as handle:
            return not _lock_now(handle, fcntl.LOCK_SH, 0)
    except OSError:  # there is none, or it is not ours to look at
        return False


def instance_lock(folder: RunFolder, instance: Instance) -> AbstractContextManager[None]:
    """Return the lock of an instance, to be held while it is trained; see `run_lock`."""
    return run_lock(folder.root, name=f".lock_{instance.name}")


def check_background() -> None:
    """Refuse a background where the shap package, which computes interventional values, is absent."""
    if importlib.util.find_spec("shap") is None:
        raise DataError("a background needs the shap package: pip install 'mi-duck[shap]', or leave the background out")


def read_shap_summary(folder: RunFolder) -> dict[str, Any]:
    """Return the summary of an explained run."""
    return dict(json.loads((folder.shap / SHAP_SUMMARY).read_bytes()))


def is_explained(
    folder: RunFolder, *, sample_size: int, background_size: int, with_figures: bool, figure_format: str | None = None
) -> bool:
    """Return whether a run's model was explained with so many rows, and every file of that is there and unchanged.

    Its figures may be of any format where none is asked for.
    """
    try:
        summary, suspects = read_shap_summary(folder), read_suspects(folder.root)
        return bool(
            summary["version"] == SHAP_VERSION
            and summary["model_sha256"] == file_sha256(folder.model)
            and summary["sampling"]["n_rows_wanted"] == sample_size
            and summary["background"]["n_rows_wanted"] == background_size
            and (not with_figures or _is_drawn(summary["files"], figure_format))
            and summary["suspects"] == (None if suspects is None else sorted(suspects))
            and all(file_sha256(folder.shap / name) == digest for name, digest in summary["files"].items())
            and folder.shap_importance.is_file()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _is_drawn(files: Iterable[str], figure_format: str | None) -> bool:
    suffixes = {Path(name).suffix for name in files if name.startswith("ensemble_shap_analysis.")}
    return f".{figure_format}" in suffixes if figure_format else bool(suffixes)


def read_suspects(run: Path) -> frozenset[str] | None:
    """Return the features that the leakage report of a run names, or None where there is no report."""
    path = RunFolder(run).leakage / "leakage.json"
    if not path.is_file():
        return None
    try:
        suspects = json.loads(path.read_bytes())["suspects"]
        return frozenset(one if isinstance(one, str) else str(one["feature"]) for one in suspects)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} names no suspects: {error}; delete it or make it again") from error
