"""The genes of a run by rank: what is in ``genes.parquet``, and which of them early stopping watches."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mi_duck.atomic_files import file_sha256
from mi_duck.errors import CheckpointError
from mi_duck.run.folder import RunFolder
from mi_duck.run.plan import Plan

STOPPING_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class GeneTable:
    """Genes by rank: rows, rows that are trained on, group and fold of shape (n_genes,), rows per class (n_genes, n_classes)."""

    n_rows: NDArray[np.int64]
    n_training_rows: NDArray[np.int64]
    group: NDArray[np.object_]
    fold: NDArray[np.int64]
    label_counts: NDArray[np.int64]

    @classmethod
    def of(cls, table: pa.Table) -> "GeneTable":
        """Return the columns of a table of genes as arrays."""
        return cls(
            n_rows=table["n_rows"].to_numpy(),
            n_training_rows=table["n_training_rows"].to_numpy(),
            group=np.array(table["fold_group"].to_pylist(), dtype=object),
            fold=table["fold"].to_numpy(),
            label_counts=np.array(table["label_counts"].to_pylist(), dtype=np.int64),
        )


@dataclass(frozen=True, slots=True)
class GeneFolds:
    """Genes by rank, from ``first_rank``: id, fold group and fold, each of shape (n_genes,)."""

    gene_id: NDArray[np.object_]
    group: NDArray[np.object_]
    fold: NDArray[np.int64]
    first_rank: int = 0


def genes_file(folder: RunFolder, plan: Plan) -> Path:
    """Return the file of genes, or a `CheckpointError` where it is not the one that the plan was made with."""
    if not folder.genes.is_file() or file_sha256(folder.genes) != plan.data.genes_sha256:
        raise CheckpointError(
            f"{folder.genes} is not the one that plan.json was made with; plan anew into another folder"
        )
    return folder.genes


def read_gene_folds(folder: RunFolder, plan: Plan, first_rank: int = 0, stop_rank: int | None = None) -> GeneFolds:
    """Read genes of a run by rank, by default all but those that are held out from it; see `genes_file`."""
    # not read_table: it loads Arrow's query engine and starts its threads, 48 MB in the process that trains
    with pq.ParquetFile(genes_file(folder, plan)) as parquet:
        table = parquet.read(columns=["gene_id", "fold_group", "fold"], use_threads=False)
    table = table.slice(first_rank, (plan.data.n_genes if stop_rank is None else stop_rank) - first_rank)
    return GeneFolds(
        gene_id=np.array(table["gene_id"].to_pylist(), dtype=object),
        group=np.array(table["fold_group"].to_pylist(), dtype=object),
        fold=table["fold"].to_numpy().astype(np.int64),
        first_rank=first_rank,
    )


def read_gene_table(folder: RunFolder, plan: Plan) -> GeneTable:
    """Read rows, groups, folds and labels of the genes of a run, by rank; see `genes_file`."""
    names = ["n_rows", "n_training_rows", "fold_group", "fold", "label_counts"]
    table = pq.read_table(genes_file(folder, plan), columns=names).slice(0, plan.data.n_genes)
    return GeneTable.of(table)


def codes_of(column: pa.ChunkedArray, code_of: Mapping[str, int]) -> NDArray[np.int64]:
    """Return the number of each text of a column, by way of its dictionary."""
    encoded = column.combine_chunks().dictionary_encode()
    lookup = np.array([code_of[text] for text in encoded.dictionary.to_pylist()], dtype=np.int64)
    codes: NDArray[np.int64] = lookup[encoded.indices.to_numpy()]
    return codes


def stopping_groups(groups: NDArray[np.object_], folds: NDArray[np.int64], fold: int, seed: int) -> NDArray[np.object_]:
    """Return a tenth of the fold groups outside a fold, at least one, chosen by hash.

    Early stopping looks at these: they are neither trained on nor scored in this fold.
    """
    candidates = sorted(set(groups[folds != fold]))
    candidates.sort(key=lambda group: hashlib.md5(f"{seed}:stopping:{fold}:{group}".encode()).digest())
    # with two groups or fewer none can be spared
    n = max(1, round(STOPPING_SHARE * len(candidates))) if len(candidates) > 2 else 0
    return np.array(candidates[:n], dtype=object)
