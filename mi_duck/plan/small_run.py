"""A run of a few genes that planning makes: what probes and the pilot train on, and what tells how columns are filled."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mi_duck.atomic_files import write_file
from mi_duck.processes import Context
from mi_duck.resources import Budget
from mi_duck.rows.narrow import write_narrow
from mi_duck.rows.partition import partition
from mi_duck.rows.segments import ColumnDensity, SegmentReader, read_density
from mi_duck.run.constraints import monotone_features
from mi_duck.run.costs import BATCH_ROWS, Costs, MemoryModel, Rates
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import GeneTable
from mi_duck.run.plan import Cut, Instance, Plan, PlannedData, Settings, make_segments
from mi_duck.settings import Asked


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
        Instance(
            instance_id=number,
            first_rank=0,
            stop_rank=size,
            n_genes=size,
            n_rows=int(genes.n_rows[:size].sum()),
            n_training_rows=int(genes.n_training_rows[:size].sum()),
            predicted_bytes=0,
            predicted_seconds=0.0,
        )
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
    write_file(small_folder.plan, plan.to_json().encode())
    if wider is not None:
        write_narrow(plan, small_folder.segments, wider.plan, wider.folder.segments)
    else:
        partition(small_folder, plan, context)
    return SmallRun(small_folder, plan)


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
