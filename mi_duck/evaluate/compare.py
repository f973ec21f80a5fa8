"""Compares the out-of-fold predictions of two runs on the same rows: an ensemble with a single model, one setting with another.

Both runs score every row by boosters that never saw its fold group, and both are scored under the same draws of fold groups.
So a small difference can be separated from noise, which two intervals side by side do not allow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mi_duck.errors import CheckpointError
from mi_duck.metrics.metrics import DRAWS, Metric, differences, draw_weights, headline_scores, summary
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import codes_of, read_genes


@dataclass(frozen=True, slots=True)
class Versus:
    """Scores of two runs on the rows that both have, and the first minus the second.

    Parameters
    ----------
    n_rows, n_groups
        Rows compared, and their fold groups.
    one, other, difference
        The same metrics in the same order, with 95 % intervals over fold groups.
    """

    n_rows: int
    n_groups: int
    one: tuple[Metric, ...]
    other: tuple[Metric, ...]
    difference: tuple[Metric, ...]


def compare_runs(run: Path, other: Path) -> Versus:
    """Compare two runs of the same dataset, folds and seed.

    Parameters
    ----------
    run, other
        Folders of consolidated runs.

    Raises
    ------
    CheckpointError
        A run is not consolidated, or the two are of other data, classes or folds.
    """
    folders = RunFolder(run), RunFolder(other)
    plans = [folder.read_plan() for folder in folders]
    for name in ("fingerprint", "classes", "fold_column"):
        if getattr(plans[0].data, name) != getattr(plans[1].data, name):
            raise CheckpointError(
                f"{run} and {other} differ in {name.replace('_', ' ')}; compare runs of the same data"
            )
    classes, seed = plans[0].data.classes, plans[0].settings.seed
    parts = _shared_rows(folders, classes)
    genes = read_genes(folders[0], plans[0])
    numbers = np.unique(genes.group, return_inverse=True)[1].tolist()
    group_of = dict(zip(genes.gene_id.tolist(), numbers, strict=True))
    groups = np.unique(codes_of(parts[0]["gene_id"].cast("string"), group_of), return_inverse=True)[1]
    labels = codes_of(parts[0]["label"].cast("string"), {name: number for number, name in enumerate(classes)})
    weights = draw_weights(int(groups.max()) + 1, seed=seed, draws=DRAWS)
    one, two = (
        headline_scores(
            np.column_stack([part[f"p_{name}"].to_numpy() for name in classes]),
            labels,
            groups,
            classes,
            weights=weights,
        )
        for part in parts
    )
    return Versus(
        n_rows=len(labels),
        n_groups=int(groups.max()) + 1,
        one=tuple(summary(one)),
        other=tuple(summary(two)),
        difference=tuple(summary(differences(one, two))),
    )


def _shared_rows(folders: Sequence[RunFolder], classes: Sequence[str]) -> list[pa.Table]:
    """Return the out-of-fold predictions of both runs on the rows that both have, in the same order."""
    for folder in folders:
        if not folder.out_of_fold.is_file():
            raise CheckpointError(
                f"{folder.root} has no out-of-fold predictions; run 'mi-duck consolidate {folder.root}'"
            )
    columns = ["row_id", "gene_id", "label", "fold", *(f"p_{name}" for name in classes)]
    tables = [pq.read_table(folder.out_of_fold, columns=columns) for folder in folders]
    ids = [table["row_id"].to_numpy() for table in tables]
    shared = np.intersect1d(ids[0], ids[1], assume_unique=True)
    parts = [table.take(np.searchsorted(rows, shared)) for rows, table in zip(ids, tables, strict=True)]
    if not len(shared) or any(
        parts[0][name].cast("string") != parts[1][name].cast("string") for name in ("gene_id", "label", "fold")
    ):
        raise CheckpointError(
            f"{folders[0].root} and {folders[1].root} have other genes or folds; compare runs of the same seed and genes"
        )
    return parts
