"""What a gene costs in memory on a dataset: probes, the fit, and its check on sizes that were not probed."""

from pathlib import Path
from typing import Any

import numpy as np

from mi_duck.children import Report, Say
from mi_duck.data.dataset import Dataset
from mi_duck.errors import PlanError
from mi_duck.folders import RunFolder
from mi_duck.plan.memory import PHASES, slope_ratio
from mi_duck.plan.plan import Settings
from mi_duck.plan.planning import PlanOptions, draft_plan
from mi_duck.plan.probes import measure, probe, probe_sizes

MIB = 1 << 20


def measure_dataset(
    dataset: Dataset,
    root: Path,
    *,
    options: PlanOptions,
    settings: Settings,
    threads: int,
    report: Report,
    say: Say,
) -> dict[str, Any]:
    """Measure what a gene costs, and check the model on sizes that were not probed.

    Parameters
    ----------
    dataset, options, settings, threads, report, say
        As for `mi_duck.plan.planning.make_plan`.
    root
        Folder in which the probes work; nothing in it is needed afterwards.

    Returns
    -------
    dict
        ``sizes``: a line for each probe and for a third of an instance and a whole one, with genes, rows, predicted and
        measured MiB and their ratio; then the cost of a row, of genes of several sizes, and the fixed cost.

    Raises
    ------
    PlanError
        The dataset is too small to measure anything on.
    """
    folder = RunFolder(root)
    draft = draft_plan(dataset, folder, options, settings, threads, say)
    gene_rows = draft.genes["n_rows"].to_numpy()
    sizes = probe_sizes(gene_rows, options.genes_per_instance)
    if not sizes:
        raise PlanError(f"{draft.index.n_rows:,} rows are too few to measure memory on; a plan uses the formula")
    model = measure(draft.model, folder, draft.plan, gene_rows, sizes=sizes, threads=threads, report=report)
    whole = min(options.genes_per_instance, len(gene_rows))
    checks = [
        point
        for n_genes in (whole // 3, whole)
        for point in probe(folder, draft.plan, gene_rows, n_genes, threads=threads, report=report)
    ]
    lines = []
    for use, points in (("probe", model.points), ("check", checks)):
        for n_genes in sorted({point.n_genes for point in points}):
            measured = max(point.peak_bytes for point in points if point.n_genes == n_genes)
            n_rows = next(point.n_rows for point in points if point.n_genes == n_genes)
            predicted = model.predict_bytes(n_rows, n_genes)
            lines.append(
                {
                    "use": use,
                    "genes": n_genes,
                    "rows": n_rows,
                    "predicted_mib": round(predicted / MIB, 1),
                    "measured_mib": round(measured / MIB, 1),
                    "ratio": round(predicted / measured, 3),
                }
            )
    per_row = model.bytes_per_row()
    return {
        "sizes": lines,
        "bytes_per_row": round(per_row, 1),
        "fixed_mib": {phase: round(model.base_bytes(phase) / MIB, 1) for phase in PHASES},
        "slope_measured_over_computed": {phase: round(slope_ratio(model, phase) or 0, 3) for phase in PHASES},
        "mib_per_gene": {
            name: round(float(rows) * per_row / MIB, 3)
            for name, rows in (
                ("smallest", gene_rows.min()),
                ("median", np.median(gene_rows)),
                ("mean", gene_rows.mean()),
                ("largest", gene_rows.max()),
            )
        },
        "instance_at_8_mib_a_gene": round(8.0 * whole, 1),
    }
