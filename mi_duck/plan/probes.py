"""Measures memory and time: short trainings on a few genes of the user's data, in child processes, before the plan is made.

The probes work in a small run folder of their own: one partition of the genes of lowest rank, one instance for each number
of genes, two rounds a booster. So what is measured is the code that will run. Probes are left out where they would take
more than a tenth of the predicted run.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_duck.atomic_files import write_file, write_json
from mi_duck.errors import CheckpointError
from mi_duck.plan.timing import TimePoint, fit_rates, training_seconds, usual_rounds
from mi_duck.processes import Report, run_child
from mi_duck.rows.partition import partition
from mi_duck.rows.segments import ColumnDensity, SegmentReader, read_density
from mi_duck.run.costs import BATCH_ROWS, PHASES, MemoryModel, MemoryPoint, Rates, slope_ratio
from mi_duck.run.folder import RunFolder
from mi_duck.run.plan import Instance, Plan, make_segments

PROBE_ROUNDS = 2
PILOT_ROUNDS = 60
LARGEST_SHARE = 8  # the larger probe has an eighth of an instance's rows, the smaller a third of that
LEAST_ROWS, MOST_ROWS = 6_000, 80_000
WORTH = 0.1  # probes may take this share of the predicted run


@dataclass(frozen=True, slots=True)
class Measurements:
    """What the probes found: memory of every phase, and time."""

    points: tuple[MemoryPoint, ...]
    times: tuple[TimePoint, ...]


def probe_sizes(gene_rows: NDArray[np.int64], genes_per_instance: int) -> list[int]:
    """Return the numbers of genes to probe, smallest first, or none where the data are too small to be worth it.

    Parameters
    ----------
    gene_rows
        Training rows of each gene in rank order, shape (n_genes,).
    genes_per_instance
        Genes that an instance will have at most.
    """
    before = np.cumsum(gene_rows)
    whole = int(before[min(genes_per_instance, len(before)) - 1])
    if whole < 2 * LEAST_ROWS:
        return []
    largest = int(np.clip(whole // LARGEST_SHARE, LEAST_ROWS, MOST_ROWS))
    return sorted({int(np.searchsorted(before, size)) + 1 for size in (largest // 3, largest)})


def least_genes(gene_rows: NDArray[np.int64]) -> int:
    """Return how many genes have `LEAST_ROWS` rows together, or all genes, to look at where nothing is probed."""
    return min(int(np.searchsorted(np.cumsum(gene_rows), LEAST_ROWS)) + 1, len(gene_rows))


def is_worth_probing(plan: Plan, gene_rows: NDArray[np.int64], sizes: Sequence[int]) -> bool:
    """Return whether the probes take at most a tenth of the predicted run."""
    if not sizes:
        return False

    def seconds(n_rows: int, rounds: int) -> float:
        return training_seconds(Rates(), n_rows * len(plan.features), plan.settings, len(plan.classes), rounds)

    spent = sum(seconds(int(gene_rows[:size].sum()), PROBE_ROUNDS) for size in sizes)
    return spent <= WORTH * seconds(int(gene_rows.sum()), usual_rounds(plan.settings))


def open_small_run(
    folder: RunFolder,
    plan: Plan,
    gene_rows: NDArray[np.int64],
    training_rows: NDArray[np.int64],
    sizes: Sequence[int],
    *,
    threads: int,
    report: Report,
) -> tuple[RunFolder, Plan]:
    """Write the rows of the genes of lowest rank into a small run folder and return it with its plan.

    Parameters
    ----------
    folder
        Of the run: holds ``genes.parquet``; the small one lies in its scratch.
    plan
        Draft of the plan: data, features and settings; its instances do not matter.
    gene_rows, training_rows
        Rows of each gene in rank order, and those that training uses, shape (n_genes,).
    sizes
        Genes of each instance of the small run, all from rank 0.
    """
    small_run = RunFolder(folder.scratch / "probes")
    shutil.rmtree(small_run.root, ignore_errors=True)
    small_run.root.mkdir(parents=True)
    write_file(small_run.genes, folder.genes.read_bytes())
    instances = tuple(
        Instance(number, 0, size, size, int(gene_rows[:size].sum()), int(training_rows[:size].sum()), 0, 0.0)
        for number, size in enumerate(sizes)
    )
    small = replace(
        plan,
        n_genes=max(sizes),
        n_rows=int(gene_rows[: max(sizes)].sum()),
        instances=instances,
        segments=make_segments(instances, gene_rows),
    )
    _write_plan(small_run, small)
    partition(small_run, small, threads=threads, report=report)
    return small_run, small


def density_of(small_run: RunFolder, small: Plan, n_genes: int) -> ColumnDensity:
    """Return how the columns of the first genes of the small run are filled, and how sure that is."""
    segments = [segment for segment in small.segments if segment.stop_rank <= n_genes]
    errors = zero_errors(SegmentReader(small, segments, small_run.segments))
    density = read_density(small, segments, small_run.segments)
    return replace(density, errors=dict(zip(small.small_features, errors.tolist(), strict=True)))


def zero_errors(reader: SegmentReader) -> NDArray[np.float64]:
    """Return the standard error of every byte column's share of zeros, clustered by gene, shape (n_small_features,).

    Notes
    -----
    Of the ratio of sums over genes: sqrt(G / (G - 1) sum_g (z_g - p n_g)^2) / n, with z_g zeros among the n_g rows of gene g.
    One gene tells nothing: infinite.

    References
    ----------
    Cochran, Sampling Techniques, 3rd edition, section 2.11.
    """
    gene = np.unique(reader.keys()["gene_rank"], return_inverse=True)[1]
    n_genes = int(gene.max()) + 1
    zeros = np.zeros((n_genes, len(reader.plan.small_features)))
    begin = 0
    for small, _ in reader.records(BATCH_ROWS):
        own = gene[begin : begin + len(small)]
        starts = np.flatnonzero(np.diff(own, prepend=-1))  # rows of a gene are neighbours
        zeros[own[starts]] += np.add.reduceat(small == 0, starts, axis=0, dtype=np.int64)
        begin += len(small)
    if n_genes < 2:
        return np.full(zeros.shape[1], np.inf)
    n_rows = np.bincount(gene)[:, None]
    off = zeros - zeros.sum(axis=0) / begin * n_rows
    errors: NDArray[np.float64] = np.sqrt(n_genes / (n_genes - 1) * (off**2).sum(axis=0)) / begin
    return errors


def measure(
    model: MemoryModel,
    folder: RunFolder,
    small_run: RunFolder,
    small: Plan,
    *,
    threads: int,
    report: Report,
) -> tuple[MemoryModel, Rates, Measurements]:
    """Train every instance of a small run and return the model with measured constants, and measured rates.

    Parameters
    ----------
    model
        With the layout; its constants are replaced.
    folder
        Of the run; measurements are kept in its ``memory.json`` and used again for the same data and settings.
    small_run, small
        See `open_small_run`; the plan with the settings to be measured.
    threads
        Threads of the training.
    report
        Progress callback, called with (stage, done, total).
    """
    key = {
        "layout": asdict(model.layout),
        "settings": asdict(small.settings) | {"n_estimators": PROBE_ROUNDS},
        "dataset": small.dataset_fingerprint,
        "genes": small.genes_sha256,
        "sizes": [instance.n_genes for instance in small.instances],
    }
    found = _read(folder, json.loads(json.dumps(key)))
    if found is None:
        probed = []
        for instance in small.instances:
            report("measuring memory", instance.instance_id, len(small.instances))
            probed.append(probe(small_run, small, instance, model, threads=threads, report=report))
        report("measuring memory", len(small.instances), len(small.instances))
        found = Measurements(
            tuple(point for points, _ in probed for point in points), tuple(seconds for _, seconds in probed)
        )
    measured = model.with_points(found.points)
    rates = fit_rates(found.times, small.settings, len(small.classes), is_external=model.layout.is_external)
    write_memory(folder, measured, rates, key=key, found=found)
    return measured, rates, found


def write_memory(
    folder: RunFolder,
    model: MemoryModel,
    rates: Rates,
    *,
    key: Mapping[str, object] | None = None,
    found: Measurements = Measurements((), ()),
) -> None:
    """Write ``memory.json``: what predictions rest on; without measurements they are by formula and usual rates."""
    write_json(
        folder.memory,
        {
            "key": key,
            "points": [asdict(point) for point in found.points],
            "times": [asdict(point) for point in found.times],
            "slope_ratio": {phase: slope_ratio(found.points, phase, model.layout) for phase in PHASES},
            "base_bytes": {phase: model.base_bytes(phase) for phase in PHASES},
            "bytes_per_row": model.bytes_per_row(),
            "rates": asdict(rates),
        },
    )


def probe(
    small_run: RunFolder, small: Plan, instance: Instance, model: MemoryModel, *, threads: int, report: Report
) -> tuple[list[MemoryPoint], TimePoint]:
    """Train one instance of a small run for two rounds a booster and return the peak of every phase, and the time.

    Raises
    ------
    CheckpointError
        The system does not tell the peak of a phase.
    """
    _write_plan(
        small_run,
        replace(small, settings=replace(small.settings, n_estimators=PROBE_ROUNDS, early_stopping_patience=0)),
    )

    def named(stage: str, done: int, total: int) -> None:
        report(f"probe of {instance.n_rows:,} rows: {stage}", done, total)

    result = run_child(
        "mi_duck.train.train:train_instance",
        {"run": str(small_run.root), "instance_id": instance.instance_id, "threads": threads},
        threads=threads,
        report=named,
    )
    found: dict[str, Any] = result.value
    if set(found["phases"]) != set(PHASES):
        raise CheckpointError("this system does not tell the memory of each phase; set --memory-per-gene-mb instead")
    rows, genes = instance.n_training_rows, instance.n_genes
    build, boost = found["build_seconds"], found["boost_seconds"]
    return (
        [MemoryPoint(phase, genes, rows, len(small.features), found["phases"][phase]) for phase in PHASES],
        TimePoint(
            n_rows=rows,
            n_cells=int(rows * len(small.features) * (1 - model.layout.missing_share)),
            build_seconds=build,
            boost_seconds=boost,
            start_seconds=max(result.wall_seconds - build - boost, 0.0),
            rounds=PROBE_ROUNDS,
        ),
    )


def screen(small_run: RunFolder, small: Plan, *, threads: int, report: Report) -> dict[str, float]:
    """Return the total gain of every feature over all classes in a pilot on the genes of a small run."""
    pilot = replace(small, settings=replace(small.settings, n_estimators=PILOT_ROUNDS, early_stopping_patience=0))
    _write_plan(small_run, pilot)
    result = run_child(
        "mi_duck.train.train:feature_gains",
        {"run": str(small_run.root), "instance_id": 0, "threads": threads},
        threads=threads,
        report=report,
    )
    gains: dict[str, float] = result.value
    return gains


def _write_plan(small_run: RunFolder, small: Plan) -> None:
    write_file(small_run.plan, small.to_json().encode())


def _read(folder: RunFolder, key: Mapping[str, object]) -> Measurements | None:
    """Return the measurements of an earlier plan of the same data and settings, if there are any."""
    try:
        found = json.loads(folder.memory.read_bytes())
        if found["key"] != key:
            return None
        return Measurements(
            tuple(MemoryPoint(**point) for point in found["points"]),
            tuple(TimePoint(**point) for point in found["times"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
