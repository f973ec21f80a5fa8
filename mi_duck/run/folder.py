"""Where the files of a run lie.

What ``provenance.json`` vouches for: the hash of every file that a finished run wrote.

The list of files is written last and taken out before anything in the run changes, so it never vouches for a file that is
just being written anew: a run whose provenance has no list is one that some stage has begun to change.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mi_duck.atomic_files import file_sha256, write_json
from mi_duck.errors import CheckpointError
from mi_duck.run.plan import Instance, Plan, read_splits


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of a run; the run folder is its state."""

    root: Path

    @property
    def plan(self) -> Path:
        """The plan, written once."""
        return self.root / "plan.json"

    @property
    def splits(self) -> Path:
        """Instances that ran out of memory, and the halves in their place."""
        return self.root / "splits.json"

    @property
    def genes(self) -> Path:
        """Ranks, folds and rows of every gene."""
        return self.root / "genes.parquet"

    @property
    def memory(self) -> Path:
        """Measurements of memory that the plan rests on."""
        return self.root / "memory.json"

    @property
    def scratch(self) -> Path:
        """What is deleted at the end."""
        return self.root / ".scratch"

    @property
    def segments(self) -> Path:
        """Rows in small types, one folder a segment."""
        return self.scratch / "segments"

    @property
    def members(self) -> Path:
        """Out-of-fold margins of every instance and base scores, for all rows."""
        return self.scratch / "members.parquet"

    @property
    def out_of_fold(self) -> Path:
        """Out-of-fold predictions of the ensemble."""
        return self.root / "oof_predictions.parquet"

    @property
    def model(self) -> Path:
        """The consolidated model."""
        return self.root / "consolidated_model.miduck"

    @property
    def summary(self) -> Path:
        """Members, weights, voting, hashes, coverage."""
        return self.root / "consolidation_summary.json"

    @property
    def metrics(self) -> Path:
        """Every score with its interval."""
        return self.root / "metrics.csv"

    @property
    def page(self) -> Path:
        """The report that people read."""
        return self.root / "report.html"

    @property
    def overfitting(self) -> Path:
        """Verdicts on the learning curves."""
        return self.root / "overfitting"

    @property
    def thresholds(self) -> Path:
        """The probability from which each class is called."""
        return self.root / "thresholds.json"

    @property
    def curves(self) -> Path:
        """Points of the ROC and precision-recall curves."""
        return self.root / "curves.csv"

    @property
    def base_vs_meta(self) -> Path:
        """Errors of the base model and of the ensemble."""
        return self.root / "base_vs_meta.json"

    @property
    def gene_deltas(self) -> Path:
        """Scores of base model and ensemble, gene by gene."""
        return self.root / "gene_deltas.csv"

    @property
    def gene_coverage(self) -> Path:
        """Fold and instances of every gene."""
        return self.root / "gene_coverage_report.csv"

    @property
    def instance_comparison(self) -> Path:
        """Scores of every instance on the same rows."""
        return self.root / "instance_performance_comparison.csv"

    @property
    def calibration_analysis(self) -> Path:
        """Folder of the calibration report."""
        return self.root / "calibration_analysis"

    @property
    def neighbours(self) -> Path:
        """Folder of the scores round sampled sites."""
        return self.root / "neighbour_diagnostics"

    @property
    def shap(self) -> Path:
        """What the features contribute: tables, figures, summary."""
        return self.root / "comprehensive_shap_analysis"

    @property
    def shap_importance(self) -> Path:
        """The same importances where the seeds look for them."""
        return self.root / "feature_importance_analysis/shap_analysis/importance/shap_importance_incremental.csv"

    @property
    def leakage(self) -> Path:
        """Folder of the leakage report."""
        return self.root / "leakage_analysis"

    @property
    def holdout_predictions(self) -> Path:
        """Predictions of the consolidated model for the genes that nothing was trained on."""
        return self.root / "holdout_predictions.parquet"

    @property
    def catalogue(self) -> Path:
        """Tables over the run's files."""
        return self.root / "run.duckdb"

    @property
    def training_summary(self) -> Path:
        """The run as one page of plain text."""
        return self.root / "unified_training_summary.txt"

    @property
    def provenance(self) -> Path:
        """Settings, versions, fingerprints; written last."""
        return self.root / "provenance.json"

    def instance(self, instance: Instance) -> Path:
        """Return the folder of one instance."""
        return self.instances / instance.name

    @property
    def memory_plot(self) -> Path:
        """Memory predicted and measured, drawn."""
        return self.root / "memory_per_gene.pdf"

    @property
    def results(self) -> tuple[Path, ...]:
        """Files that are made of the trained instances, there or not; the provenance apart."""
        return (
            *(self.out_of_fold, self.model, self.summary, self.metrics, self.thresholds, self.curves),
            *(self.base_vs_meta, self.gene_deltas, self.gene_coverage, self.instance_comparison, self.catalogue),
            *(self.training_summary, self.page, self.holdout_predictions),
            *sorted(self.root.glob("*_base_vs_meta*.pdf")),
        )

    @property
    def result_folders(self) -> tuple[Path, ...]:
        """Folders that are made of them."""
        importance = self.root / "feature_importance_analysis"
        return (self.overfitting, self.calibration_analysis, self.neighbours, self.shap, importance)

    @property
    def instances(self) -> Path:
        """Folders of all instances."""
        return self.root / "multi_instance_training"

    @property
    def stale(self) -> Path:
        """Instances of earlier plans, set aside."""
        return self.root / "stale"

    def read_plan(self) -> Plan:
        """Read the plan, with the splits that were made while it was trained.

        Raises
        ------
        CheckpointError
            There is none, or it is damaged.
        """
        try:
            text = self.plan.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise CheckpointError(
                f"no plan in {self.root}; make one with 'mi-duck plan DATASET --out {self.root}'"
            ) from error
        try:
            plan = Plan.from_json(text)
        except CheckpointError as error:
            raise CheckpointError(f"{self.root}: {error}; 'mi-duck run --force-retrain-all' begins anew") from error
        return read_splits(self.splits, plan)


ASIDE = "stale"


def own_files(folder: RunFolder) -> list[Path]:
    """Return every file that a run writes and keeps, sorted; not the provenance, what is aside, and what others put there."""
    singles = (folder.plan, folder.splits, folder.genes, folder.memory, folder.memory_plot, *folder.results)
    found = {file for file in singles if file.is_file()}
    for root in (*folder.result_folders, folder.leakage, folder.instances):
        found |= {file for file in root.rglob("*") if file.is_file()}
    return sorted(file for file in found if not _is_passing(file.relative_to(folder.root)))


def _is_passing(name: Path) -> bool:
    return ASIDE in name.parts or any(part.startswith(".") for part in name.parts)


def file_hashes(folder: RunFolder, sha256: Callable[[Path], str] = file_sha256) -> dict[str, str]:
    """Return the hash of every file of a run by its name relative to the run folder."""
    return {file.relative_to(folder.root).as_posix(): sha256(file) for file in own_files(folder)}


def read_provenance(folder: RunFolder) -> dict[str, Any] | None:
    """Return what ``provenance.json`` says, None where the run has none.

    Raises
    ------
    ValueError
        It is not JSON, or no table.
    """
    try:
        found = json.loads(folder.provenance.read_bytes())
    except FileNotFoundError:
        return None
    if not isinstance(found, dict):
        raise ValueError(f"{folder.provenance} holds no table")
    return found


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
    """Let a stage change files of a finished run, and vouch for them again when it ended.

    Nothing is vouched for anew where nothing was before: an unfinished run, or one that another stage left half changed.
    """
    try:
        found = read_provenance(folder)
    except ValueError:
        found = None
    invalidate_file_list(folder)
    yield
    if found is not None and "files" in found:
        write_provenance(folder, found)
