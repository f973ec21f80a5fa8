"""Measures memory: short trainings on a few genes of the user's data, in child processes, before the plan is made.

A probe is an ordinary run folder with one instance of the first genes in rank order and two rounds a booster, so what is
measured is the code that will run. Probes are left out where they would take more than a tenth of the predicted run.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np
from numpy.typing import NDArray

from mi_duck.checkpoint import write_file, write_json
from mi_duck.children import Report, run_child
from mi_duck.errors import CheckpointError
from mi_duck.folders import RunFolder
from mi_duck.plan.memory import PHASES, MemoryModel, MemoryPoint, slope_ratio, with_points
from mi_duck.plan.plan import Instance, Plan, Segment
from mi_duck.stages import partition

PROBE_ROUNDS = 2
LARGEST_SHARE = 8  # the larger probe has an eighth of an instance's rows, the smaller a third of that
LEAST_ROWS, MOST_ROWS = 6_000, 80_000
SECONDS_PER_CELL_AND_ROUND = 1.1e-9  # of one booster on two cores: .7 s for 582,222 rows of 1,167 features
SECONDS_PER_CELL_BUILT = 60e-9
SECONDS_TO_START = 3.0
USUAL_ROUNDS = 100
GROWS_AS_MISSING = 1.5  # measured over computed growth; missing values make it 2.4
WORTH = 0.1  # probes may take this share of the predicted run


def predicted_seconds(n_rows: int, n_features: int, plan: Plan) -> float:
    """Return roughly how long training takes if early stopping ends at the usual number of rounds."""
    rounds = min(plan.settings.n_estimators, USUAL_ROUNDS)
    boosters = len(plan.classes) * (plan.settings.n_folds + 1)
    return n_rows * n_features * (rounds * boosters * SECONDS_PER_CELL_AND_ROUND + SECONDS_PER_CELL_BUILT)


def probe_sizes(gene_rows: NDArray[np.int64], genes_per_instance: int) -> list[int]:
    """Return the numbers of genes to probe, smallest first, or none where the data are too small to be worth it.

    Parameters
    ----------
    gene_rows
        Rows of each gene in rank order, shape (n_genes,).
    genes_per_instance
        Genes that an instance will have at most.
    """
    before = np.cumsum(gene_rows)
    whole = int(before[min(genes_per_instance, len(before)) - 1])
    if whole < 2 * LEAST_ROWS:
        return []
    largest = int(np.clip(whole // LARGEST_SHARE, LEAST_ROWS, MOST_ROWS))
    return sorted({int(np.searchsorted(before, size)) + 1 for size in (largest // 3, largest)})


def is_worth_probing(plan: Plan, gene_rows: NDArray[np.int64], sizes: Sequence[int]) -> bool:
    """Return whether the probes take at most a tenth of the predicted run."""
    if not sizes:
        return False
    probe = replace(plan, settings=replace(plan.settings, n_estimators=PROBE_ROUNDS))
    spent = sum(
        SECONDS_TO_START + predicted_seconds(int(gene_rows[:size].sum()), len(plan.features), probe) for size in sizes
    )
    return spent <= WORTH * predicted_seconds(plan.n_rows, len(plan.features), plan)


def measure(
    model: MemoryModel,
    folder: RunFolder,
    plan: Plan,
    gene_rows: NDArray[np.int64],
    *,
    sizes: Sequence[int],
    threads: int,
    report: Report,
) -> MemoryModel:
    """Train on prefixes of the genes in child processes and return the model with measured constants.

    Parameters
    ----------
    model
        With the layout; its constants are replaced.
    folder
        Of the run: holds ``genes.parquet``; probes work in its scratch, measurements are kept in ``memory.json``.
    plan
        Draft of the plan: data, features and settings; its instances do not matter.
    gene_rows
        Rows of each gene in rank order, shape (n_genes,).
    sizes
        Genes of each probe.
    threads
        Threads of the training.
    report
        Told (stage, done, total).
    """
    key = {"layout": asdict(model.layout), "dataset": plan.dataset_fingerprint, "genes": plan.genes_sha256}
    points = _read(folder, key)
    if points is None:
        points = []
        for done, size in enumerate(sizes):
            report("measuring memory", done, len(sizes))
            points += probe(folder, plan, gene_rows, size, threads=threads, report=report)
        report("measuring memory", len(sizes), len(sizes))
    measured = with_points(model, points)
    growth = slope_ratio(measured, "matrix")
    if growth is not None and growth > GROWS_AS_MISSING and not model.layout.has_missing:
        # footers count nulls, not NaN; the matrix of the probes grew as one with missing values does
        measured = with_points(replace(model, layout=replace(model.layout, has_missing=True)), points)
    write_json(
        folder.memory,
        {
            "key": key,
            "points": [asdict(point) for point in points],
            "slope_ratio": {phase: slope_ratio(measured, phase) for phase in PHASES},
            "base_bytes": {phase: measured.base_bytes(phase) for phase in PHASES},
            "bytes_per_row": measured.bytes_per_row(),
        },
    )
    return measured


def _read(folder: RunFolder, key: Mapping[str, object]) -> list[MemoryPoint] | None:
    """Return the measurements of an earlier plan of the same data and settings, if there are any."""
    try:
        found = json.loads(folder.memory.read_bytes())
        if found["key"] != key:
            return None
        return [MemoryPoint(**point) for point in found["points"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def probe(
    folder: RunFolder, plan: Plan, gene_rows: NDArray[np.int64], n_genes: int, *, threads: int, report: Report
) -> list[MemoryPoint]:
    """Train on the first genes in a child process and return the peak of each phase."""
    n_rows = int(gene_rows[:n_genes].sum())
    small_run = RunFolder(folder.scratch / f"probe_{n_genes}")
    small_run.root.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder.genes, small_run.genes)
    small = replace(
        plan,
        instances=(Instance(0, 0, n_genes, n_genes, n_rows, 0),),
        segments=(Segment(0, 0, n_genes, 0, n_rows),),
        settings=replace(plan.settings, n_estimators=PROBE_ROUNDS, early_stopping_patience=0),
    )
    write_file(small_run.plan, small.to_json().encode())

    def named(stage: str, done: int, total: int) -> None:
        report(f"probe of {n_rows:,} rows: {stage}", done, total)

    partition(small_run, small, threads=threads, report=named)
    result = run_child(
        "mi_duck.train.train:train_instance",
        {"run": str(small_run.root), "instance_id": 0, "threads": threads},
        threads=threads,
        report=named,
    )
    phases: dict[str, int] = result.value["phases"]
    if set(phases) != set(PHASES):
        raise CheckpointError("this system does not tell the memory of each phase; set --memory-per-gene-mb instead")
    shutil.rmtree(small_run.root)
    return [MemoryPoint(phase, n_genes, n_rows, len(plan.features), phases[phase]) for phase in PHASES]
