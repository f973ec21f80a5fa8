"""Rows of genes to Parquet files: whole genes per file, row groups of equal size, page checksums."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mi_duck.data.dataset import CLASSES
from mi_duck.genome.base_scores import BaseScores, SiteMatrices, matrix_scores
from mi_duck.genome.columns import GROUP_COLUMNS, TEXT_COLUMNS, GeneFacts, row_columns
from mi_duck.genome.sequence import Letters
from mi_duck.processes import Report

ROW_GROUP_ROWS = 8_192


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Rows before their columns are computed.

    Attributes
    ----------
    genes
        (n,) int64 index of the gene.
    offsets
        (n,) int64 distance from the first base of the gene, along its strand.
    labels
        (n,) int8 index of the class.
    windows
        (n, window) uint8, along the strand.
    scores
        (n, 7) donor, acceptor, neither and the four neighbours' scores of a file; (n, 0) without a file.
    """

    genes: NDArray[np.int64]
    offsets: NDArray[np.int64]
    labels: NDArray[np.int8]
    windows: Letters
    scores: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.genes)

    def __getitem__(self, rows: slice) -> "Block":
        return Block(self.genes[rows], self.offsets[rows], self.labels[rows], self.windows[rows], self.scores[rows])


@dataclass(frozen=True, slots=True)
class Written:
    """Counts of what was written.

    Attributes
    ----------
    n_genes, n_files
        Genes with rows, files.
    class_rows
        Rows per class, in the order of `CLASSES`.
    n_without_scores
        Rows without a base score.
    """

    n_genes: int
    n_files: int
    class_rows: tuple[int, ...]
    n_without_scores: int


def row_groups(gene_rows: Iterable[Block], genes_per_file: int) -> Iterator[tuple[int, Block]]:
    """Join the rows of genes, across contigs, to row groups.

    Parameters
    ----------
    gene_rows
        Rows of one gene each, in the order in which they are written.
    genes_per_file
        A file has the rows of this many consecutive genes.

    Yields
    ------
    tuple of int and Block
        Index of the file, and 8,192 rows of it; the last ones of a file may be fewer.
    """
    held: list[Block] = []
    file = -1
    for rows in gene_rows:
        if not len(rows):
            continue
        if int(rows.genes[0]) // genes_per_file != file:
            if held:
                yield file, _joined(held)
            held, file = [], int(rows.genes[0]) // genes_per_file
        held.append(rows)
        if sum(map(len, held)) >= ROW_GROUP_ROWS:
            rest = _joined(held)
            while len(rest) >= ROW_GROUP_ROWS:
                yield file, rest[:ROW_GROUP_ROWS]
                rest = rest[ROW_GROUP_ROWS:]
            held = [rest] if len(rest) else []
    if held:
        yield file, _joined(held)


def _joined(blocks: Sequence[Block]) -> Block:
    fields = ("genes", "offsets", "labels", "windows", "scores")
    return Block(*(np.concatenate([getattr(block, name) for block in blocks]) for name in fields))


def write_parts(
    folder: Path,
    groups: Iterable[tuple[int, Block]],
    facts: GeneFacts,
    *,
    matrices: SiteMatrices | None,
    folds: NDArray[np.int64],
    schema: pa.Schema,
    report: Report,
) -> Written:
    """Compute the columns of each row group and write it.

    Parameters
    ----------
    folder
        Made here; files are named ``part-00000.parquet`` and so on.
    groups
        Of `row_groups`.
    facts
        Of the genes that the rows point to.
    matrices
        Base scores come from these, or, if None, from the blocks.
    folds
        (n_genes,) fold of each gene's cluster.
    schema
        Columns to write.
    report
        Called with ("rows", genes done, genes).

    Notes
    -----
    A second thread compresses and writes one row group while the next is computed: 1.6 of 2 cores are busy.
    """
    folder.mkdir()
    text = [name for name in (*TEXT_COLUMNS, *GROUP_COLUMNS) if name in schema.names]
    class_names = pa.array(CLASSES, pa.string())
    labels = np.zeros(len(CLASSES), np.int64)
    genes: set[int] = set()
    n_files = n_without_scores = 0
    current = -1
    # on leaving, the thread is waited for first, then the file is closed
    with ExitStack() as files, ThreadPoolExecutor(1) as pool:
        writing: Future[None] | None = None
        for file, block in groups:
            if matrices is None:
                donor, acceptor, neither = block.scores[:, :3].T
                scores = BaseScores(donor, acceptor, neither, block.scores[:, 3:])
            else:
                scores = matrix_scores(matrices, block.windows, folds[block.genes])
            columns = row_columns(facts, block.genes, block.offsets, block.windows, scores)
            columns["splice_type"] = class_names.take(pa.array(block.labels))
            batch = pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)
            if writing is not None:
                writing.result()
            if file != current:
                files.close()
                current, n_files = file, n_files + 1
                writer = files.enter_context(
                    pq.ParquetWriter(
                        folder / f"part-{file:05d}.parquet",
                        schema,
                        compression="zstd",
                        compression_level=1,
                        use_dictionary=text,
                        write_page_checksum=True,
                    )
                )
            writing = pool.submit(writer.write_batch, batch, ROW_GROUP_ROWS)
            labels += np.bincount(block.labels, minlength=len(CLASSES))
            genes.update(np.unique(block.genes).tolist())
            n_without_scores += int(np.isnan(scores.donor).sum())
            report("rows", int(block.genes[-1]) + 1, len(folds))
        if writing is not None:
            writing.result()
    return Written(len(genes), n_files, tuple(labels.tolist()), n_without_scores)
