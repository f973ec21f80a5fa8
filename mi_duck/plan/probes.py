"""Measures memory and time: short trainings on a few genes of the user's data, in child processes, before the plan is made.

The probes work in a small run folder of their own: one partition of the genes of lowest rank, one instance for each number
of genes, two rounds per booster. So what is measured is the code that will run. Probes are left out where they would take
more than a tenth of the predicted run.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mi_duck.atomic_files import write_file, write_json
from mi_duck.boosting.steps import train_instance
from mi_duck.errors import CheckpointError
from mi_duck.plan.times import (
    builds_of_all_rows,
    fold_fits_of_all_rows,
    round_seconds,
    share_of_fold,
    stored_cells,
    training_seconds,
    usual_rounds,
)
from mi_duck.processes import Context, in_child
from mi_duck.resources import Budget
from mi_duck.rows.narrow import write_narrow
from mi_duck.rows.partition import partition
from mi_duck.rows.segments import ColumnDensity, SegmentReader, read_density
from mi_duck.run.constraints import monotone_features
from mi_duck.run.costs import BATCH_ROWS, PHASES, Costs, Layout, MemoryModel, MemoryPoint, Rates, slope_ratio
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import GeneTable
from mi_duck.run.plan import Cut, Instance, Plan, PlannedData, Settings, fitted_classes, make_segments
from mi_duck.settings import Asked

PROBE_ROUNDS = 2
LARGEST_SHARE = 8  # the larger probe has an eighth of an instance's rows, the smaller a third of that
LEAST_ROWS, MOST_ROWS = 6_000, 80_000
WORTH = 0.1  # probes may take this share of the predicted run


@dataclass(frozen=True, slots=True)
class TimePoint:
    """One measurement.

    Parameters
    ----------
    n_nodes
        Of the largest tree, as of a `MemoryPoint`.
    build_seconds, boost_seconds, later_seconds
        Seconds of all matrices, of all rounds, and of all rounds but the first of each fit.
    start_seconds
        The rest: starting, calibrating, writing.
    rounds
        Rounds of every booster.
    """

    n_rows: int
    n_nodes: int
    build_seconds: float
    boost_seconds: float
    later_seconds: float
    start_seconds: float
    rounds: int


@dataclass(frozen=True, slots=True)
class Measurements:
    """What the probes found: memory of every phase, and time."""

    points: tuple[MemoryPoint, ...]
    times: tuple[TimePoint, ...]


def probe_sizes(training_rows: NDArray[np.int64], genes_per_instance: int) -> list[int]:
    """Return the numbers of genes to probe, smallest first, or none where the data are too small to be worth it.

    ``training_rows`` are the training rows of each gene in rank order.
    """
    before = np.cumsum(training_rows)
    whole = int(before[min(genes_per_instance, len(before)) - 1])
    if whole < 2 * LEAST_ROWS:
        return []
    largest = int(np.clip(whole // LARGEST_SHARE, LEAST_ROWS, MOST_ROWS))
    return sorted({int(np.searchsorted(before, size)) + 1 for size in (largest // 3, largest)})


def least_genes(training_rows: NDArray[np.int64]) -> int:
    """Return how many genes have `LEAST_ROWS` rows together, or all genes, to look at where nothing is probed."""
    return min(int(np.searchsorted(np.cumsum(training_rows), LEAST_ROWS)) + 1, len(training_rows))


def is_worth_probing(
    settings: Settings, training_rows: NDArray[np.int64], sizes: Sequence[int], layout: Layout
) -> bool:
    """Return whether the probes take at most a tenth of the predicted run."""
    if not sizes:
        return False

    def seconds(n_rows: int, rounds: int) -> float:
        return training_seconds(Rates(), n_rows, settings, layout, rounds)

    spent = sum(seconds(int(training_rows[:size].sum()), PROBE_ROUNDS) for size in sizes)
    return spent <= WORTH * seconds(int(training_rows.sum()), usual_rounds(settings))


@dataclass(frozen=True, slots=True)
class SmallRun:
    """A run of a few genes whose rows lie in a folder of their own, and its plan: an instance for each number of genes."""

    folder: RunFolder
    plan: Plan

    def with_settings(self, settings: Settings, *, n_instances: int | None = None) -> "SmallRun":
        """Return the run with other settings of the training, and only its first instances."""
        cut = replace(self.plan.cut, instances=self.plan.cut.instances[:n_instances])
        return SmallRun(self.folder, replace(self.plan, settings=settings, cut=cut))

    def write_plan(self, *, rounds: int) -> None:
        """Write the plan for fits of so many rounds that never stop early."""
        settings = replace(self.plan.settings, n_estimators=rounds, early_stopping_patience=0)
        write_file(self.folder.plan, replace(self.plan, settings=settings).to_json().encode())


def open_small_run(
    folder: RunFolder,
    asked: Asked,
    data: PlannedData,
    settings: Settings,
    genes: GeneTable,
    sizes: Sequence[int],
    context: Context,
    *,
    model: MemoryModel,
    name: str = "probes",
    wider: SmallRun | None = None,
) -> SmallRun:
    """Write the rows of the genes of lowest rank into a small run folder, in the scratch of the run that is being planned.

    The run's ``genes.parquet`` must be there.

    Parameters
    ----------
    sizes
        Genes of its instances, all from rank 0.
    name
        Of the folder in the scratch.
    wider
        A small run of the same genes with all features and maybe more: where it has these instances, rows come from it.
    """
    small_folder = RunFolder(folder.scratch / name)
    shutil.rmtree(small_folder.root, ignore_errors=True)
    small_folder.root.mkdir(parents=True)
    write_file(small_folder.genes, folder.genes.read_bytes())
    instances = tuple(
        Instance(number, 0, size, size, int(genes.n_rows[:size].sum()), int(genes.n_training_rows[:size].sum()), 0, 0.0)
        for number, size in enumerate(sizes)
    )
    n_genes = max(sizes)
    if wider is not None and not set(sizes) <= {instance.n_genes for instance in wider.plan.cut.instances}:
        wider = None
    segments = make_segments(instances, genes.n_rows)
    if wider is not None:
        segments = tuple(segment for segment in wider.plan.cut.segments if segment.stop_rank <= n_genes)
    plan = Plan(
        asked,
        replace(data, n_genes=n_genes, n_rows=int(genes.n_rows[:n_genes].sum()), n_holdout_genes=0, n_holdout_rows=0),
        settings,
        Costs(model, Rates(), model.bytes_per_row()),
        Cut(
            strategy_used="external" if asked.strategy == "external" else "single",
            budget=Budget(0, "probes are not limited", False),
            most_genes=n_genes,
            overlap_genes=0,
            instances=instances,
            segments=segments,
            holdout_segments=(),
            alternatives=(),
        ),
    )
    small_run = SmallRun(small_folder, plan)
    small_run.write_plan(rounds=PROBE_ROUNDS)
    if wider is not None:
        write_narrow(plan, small_folder.segments, wider.plan, wider.folder.segments)
    else:
        partition(small_folder, plan, context)
    return small_run


def density_of(small_run: SmallRun, n_genes: int) -> ColumnDensity:
    """Return how the columns of the first genes of a small run are filled, and how sure that is.

    Zeros of columns with a monotone constraint stay numbers, for it says nothing of missing values; they are not counted.
    """
    small, where = small_run.plan, small_run.folder.segments
    segments = [segment for segment in small.cut.segments if segment.stop_rank <= n_genes]
    errors = zero_errors(SegmentReader(small, segments, where))
    density = read_density(small, segments, where)
    kept = monotone_features(small.settings.xgb_parameters, small.data)
    return replace(
        density,
        zeros={name: count for name, count in density.zeros.items() if name not in kept},
        errors=dict(zip(small.data.small_features, errors.tolist(), strict=True)),
    )


def zero_errors(reader: SegmentReader) -> NDArray[np.float64]:
    """Return the standard error of every byte column's share of zeros, clustered by gene, shape (n_small_features,).

    Notes
    -----
    Of the ratio of sums over genes: sqrt(G / (G - 1) sum_g (z_g - p n_g)^2) / n, with z_g zeros among the n_g rows of gene g.
    Of one gene it is infinite.

    References
    ----------
    Cochran, Sampling Techniques, 3rd edition, section 2.11.
    """
    gene = np.unique(reader.keys()["gene_rank"], return_inverse=True)[1]
    n_genes = int(gene.max()) + 1
    zeros = np.zeros((n_genes, len(reader.plan.data.small_features)))
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
    model: MemoryModel, folder: RunFolder, small_run: SmallRun, context: Context
) -> tuple[MemoryModel, Rates, Measurements]:
    """Train every instance of a small run and return the model with measured constants, and measured rates.

    Measurements are kept in the run's ``memory.json`` and used again for the same data and settings.
    """
    small = small_run.plan
    key = {
        "layout": asdict(model.layout),
        "settings": asdict(small.settings) | {"n_estimators": PROBE_ROUNDS},
        "dataset": small.data.fingerprint,
        "genes": small.data.genes_sha256,
        "sizes": [instance.n_genes for instance in small.cut.instances],
    }
    found = _read(folder, json.loads(json.dumps(key)))
    if found is None:
        probed = []
        for instance in small.cut.instances:
            context.report("measuring memory", instance.instance_id, len(small.cut.instances))
            probed.append(probe(small_run, instance, model, context))
        context.report("measuring memory", len(small.cut.instances), len(small.cut.instances))
        found = Measurements(
            tuple(point for points, _ in probed for point in points), tuple(seconds for _, seconds in probed)
        )
    measured = model.with_points(found.points)
    rates = fit_rates(found.times, small.settings, model.layout)
    write_memory(folder, measured, rates, key=key, found=found)
    return measured, rates, found


def fit_rates(points: Sequence[TimePoint], settings: Settings, layout: Layout) -> Rates:
    """Return the rates that the largest probe measured; the first round of a fit sets up what the others use."""
    last = max(points, key=lambda point: point.n_rows)
    n_folds, n_classes = settings.n_folds, len(fitted_classes(layout.n_classes))
    cells = stored_cells(last.n_rows, layout)
    # one of every fold and one of all rows, if a cell took a second
    of_cell = replace(Rates(), per_cell_and_round=1.0)
    looked = n_folds * round_seconds(of_cell, share_of_fold(settings) * cells, last.n_nodes, layout)
    looked += round_seconds(of_cell, cells, last.n_nodes, layout)
    later = last.later_seconds / (last.rounds - 1)
    begun = max(last.boost_seconds - last.rounds * later, 0.0)
    return Rates(
        start_seconds=min(point.start_seconds for point in points),
        per_cell_built=last.build_seconds / (cells * builds_of_all_rows(settings)),
        per_cell_begun=begun / (n_classes * cells * (fold_fits_of_all_rows(settings) + 1)),
        per_cell_and_round=later / (n_classes * looked),
        is_external=layout.is_external,
    )


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
    small_run: SmallRun, instance: Instance, model: MemoryModel, context: Context
) -> tuple[list[MemoryPoint], TimePoint]:
    """Train one instance of a small run for two rounds per booster and return the peak of every phase, and the time."""
    small_run.write_plan(rounds=PROBE_ROUNDS)

    def named(stage: str, done: int, total: int) -> None:
        context.report(f"probe of {instance.n_rows:,} rows: {stage}", done, total)

    result = in_child(train_instance, replace(context, report=named), frees_at_once=True)(
        run=str(small_run.folder.root), instance_id=instance.instance_id, threads=context.threads
    )
    found = result.value
    if set(found["phases"]) != set(PHASES):
        raise CheckpointError("this system does not say what each phase takes; set --memory-per-gene-mb instead")
    rows, genes, n_features = instance.n_training_rows, instance.n_genes, len(small_run.plan.data.features)
    build, boost = found["build_seconds"], found["boost_seconds"]
    return (
        [MemoryPoint(phase, genes, rows, n_features, found["phases"][phase], found["nodes"]) for phase in PHASES],
        TimePoint(
            n_rows=rows,
            n_nodes=found["nodes"],
            build_seconds=build,
            boost_seconds=boost,
            later_seconds=found["later_seconds"],
            start_seconds=max(result.wall_seconds - build - boost, 0.0),
            rounds=PROBE_ROUNDS,
        ),
    )


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


def looked_at(
    asked: Asked, settings: Settings, training_rows: NDArray[np.int64], layout: Layout
) -> tuple[list[int], bool]:
    """Return how many genes to look at, all from rank 0 and maybe none, and whether they are to be trained on to measure.

    ``training_rows`` are those of each gene in rank order.
    """
    sizes = probe_sizes(training_rows, asked.genes_per_instance) if asked.memory_per_gene_mb is None else []
    if is_worth_probing(settings, training_rows, sizes, layout):
        return sizes, True
    return [least_genes(training_rows)] if asked.layout == "zeros" else [], False
