"""Measures memory and time: short trainings on a few genes of the user's data, in child processes, before the plan is made.

The probes work in a small run of their own (`mi_duck.plan.small_run`): one partition of the genes of lowest rank, one
instance for each number of genes, two rounds per booster. So what is measured is the code that will run. Probes are left out
where they would take more than a tenth of the predicted run.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mi_duck.atomic_files import write_json
from mi_duck.boosting.steps import train_instance
from mi_duck.errors import CheckpointError
from mi_duck.plan.small_run import SmallRun
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
from mi_duck.run.costs import PHASES, Layout, MemoryModel, MemoryPoint, Rates, slope_ratio
from mi_duck.run.folder import RunFolder
from mi_duck.run.plan import Instance, Settings, fitted_classes
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
    seconds_if_one = n_folds * round_seconds(of_cell, share_of_fold(settings) * cells, last.n_nodes, layout)
    seconds_if_one += round_seconds(of_cell, cells, last.n_nodes, layout)
    later = last.later_seconds / (last.rounds - 1)
    begun = max(last.boost_seconds - last.rounds * later, 0.0)
    return Rates(
        start_seconds=min(point.start_seconds for point in points),
        per_cell_built=last.build_seconds / (cells * builds_of_all_rows(settings)),
        per_cell_begun=begun / (n_classes * cells * (fold_fits_of_all_rows(settings) + 1)),
        per_cell_and_round=later / (n_classes * seconds_if_one),
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
            "constant_bytes": {phase: model.constant_bytes(phase) for phase in PHASES},
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
        context.report(f"probe of {instance.n_training_rows:,} rows: {stage}", done, total)

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


def sizes_to_look_at(
    asked: Asked, settings: Settings, training_rows: NDArray[np.int64], layout: Layout
) -> tuple[list[int], bool]:
    """Return how many genes to look at, all from rank 0 and maybe none, and whether they are to be trained on to measure.

    ``training_rows`` are those of each gene in rank order.
    """
    sizes = probe_sizes(training_rows, asked.genes_per_instance) if asked.memory_per_gene_mb is None else []
    if is_worth_probing(settings, training_rows, sizes, layout):
        return sizes, True
    return [least_genes(training_rows)] if asked.layout == "zeros" else [], False
