"""What a gene costs in memory on a dataset: probes, the fit, and its check on sizes that were not probed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mi_duck.data.dataset import Dataset
from mi_duck.errors import PlanError
from mi_duck.plan.formula import by_formula
from mi_duck.plan.indexing import plan_data
from mi_duck.plan.layouts import choose_layout, layout_of, settings_in_layout, zeros_to_leave_out
from mi_duck.plan.probes import measure, probe, probe_sizes
from mi_duck.plan.small_run import SmallRun, density_of, open_small_run
from mi_duck.plan.strategies import cut_request
from mi_duck.processes import Context
from mi_duck.resources import memory_budget
from mi_duck.run.costs import PHASES, MemoryModel, MemoryPoint, Rates, slope_ratio
from mi_duck.run.folder import RunFolder
from mi_duck.settings import Asked


@dataclass(frozen=True, slots=True)
class Peak:
    """One training process, predicted and measured.

    Parameters
    ----------
    is_probe
        Whether the model was fitted to it; else it is a check.
    layout
        ``missing``, ``zeros``, ``sentinel`` as in `mi_duck.run.plan.Settings`, or ``external``: the first on disk.
    n_rows
        Rows trained on.
    predicted_bytes, measured_bytes
        Peak resident memory of the process.
    """

    is_probe: bool
    layout: str
    n_genes: int
    n_rows: int
    predicted_bytes: int
    measured_bytes: int

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted_bytes / self.measured_bytes


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """What was measured on one dataset in one layout.

    Parameters
    ----------
    peaks
        Probes, then checks, by size.
    gene_bytes
        What each gene costs: its training rows times the bytes of one, shape (n_genes,).
    constant_bytes
        For each phase what it takes beside what grows with the rows.
    slopes
        For each phase measured over computed growth between the probes.
    """

    peaks: tuple[Peak, ...]
    gene_bytes: NDArray[np.float64]
    bytes_per_row: float
    constant_bytes: dict[str, int]
    slopes: dict[str, float | None]
    rates: Rates


def measure_dataset(
    dataset: Dataset,
    root: Path,
    asked: Asked,
    context: Context,
    *,
    layouts: Sequence[str] = (),
    check_genes: Sequence[int] = (),
) -> list[MemoryReport]:
    """Measure what a gene costs in each layout, and check the model on sizes that were not probed.

    Parameters
    ----------
    root
        Folder in which the probes work; nothing in it is needed afterwards.
    layouts
        See `Peak`; by default the one that a plan would choose.
    check_genes
        Genes of the checks; by default a third of an instance and a whole one.
    """
    folder = RunFolder(root)
    indexed = plan_data(dataset, folder, asked, context, with_leakage=False)
    training_rows = indexed.genes.n_training_rows
    sizes = probe_sizes(training_rows, asked.genes_per_instance)
    if not sizes:
        raise PlanError(f"{indexed.data.n_rows:,} rows are too few to measure memory on; a plan uses the formula")
    whole = min(asked.genes_per_instance, len(training_rows))
    checked = sorted(set(check_genes or (whole // 3, whole)))
    start = by_formula(indexed, asked, threads=context.threads)
    formula, looked_at = start.model, [*sizes, *checked]
    small_run = open_small_run(
        folder, asked, indexed.data, start.settings, indexed.genes, looked_at, context, model=formula
    )
    density = density_of(small_run, max(sizes))
    zeros = zeros_to_leave_out(formula.layout, density)
    if not layouts:
        budget = memory_budget(max_gb=asked.max_memory_per_instance_gb, safety_factor=asked.memory_safety_factor)
        layout, reason = choose_layout(asked, cut_request(indexed, asked, budget), formula, density, zeros)
        context.say(f"layout '{layout}': {reason}")
        layouts = ["external" if asked.strategy == "external" else layout]
    found = []
    for layout in layouts:
        missing_as = "missing" if layout == "external" else layout
        facts = replace(layout_of(formula.layout, density, missing_as, zeros), is_external=layout == "external")
        model = formula.with_layout(facts)
        run = small_run.with_settings(settings_in_layout(start.settings, missing_as, zeros))
        cut = replace(run.plan.cut, strategy_used="external" if layout == "external" else "single")
        run = SmallRun(run.folder, replace(run.plan, cut=cut))
        model, rates, measured = measure(
            model, folder, run.with_settings(run.plan.settings, n_instances=len(sizes)), context
        )
        checks = [
            point for instance in cut.instances[len(sizes) :] for point in probe(run, instance, model, context)[0]
        ]
        found.append(
            MemoryReport(
                peaks=(*_peaks(measured.points, model, layout, True), *_peaks(checks, model, layout, False)),
                gene_bytes=training_rows.astype(np.float64) * model.bytes_per_row(),
                bytes_per_row=model.bytes_per_row(),
                constant_bytes={phase: model.constant_bytes(phase) for phase in PHASES},
                slopes={phase: slope_ratio(measured.points, phase, model.layout) for phase in PHASES},
                rates=rates,
            )
        )
    return found


def _peaks(points: Sequence[MemoryPoint], model: MemoryModel, layout: str, is_probe: bool) -> list[Peak]:
    """Return the peak of each process, that of its largest phase, and what is predicted for trees as large as its own."""
    found = []
    for n_genes in sorted({point.n_genes for point in points}):
        own = [point for point in points if point.n_genes == n_genes]
        n_rows = own[0].n_rows
        largest = max(point.peak_bytes for point in own)
        predicted = model.predict_bytes(n_rows, n_genes, n_nodes=own[0].n_nodes)
        found.append(Peak(is_probe, layout, n_genes, n_rows, predicted, largest))
    return found
