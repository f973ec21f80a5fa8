"""Training rows from the segment on disk: in random blocks that fit in memory, or as one array whose size was planned.

An epoch reads every block of `BLOCK_ROWS` consecutive rows once, in an order drawn from the seed. Some of them together fill a
buffer, whose rows are shuffled and given out in batches; so a batch has rows of many genes, whatever lies side by side on disk.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mi_duck.classifiers.preparation import Preparation
from mi_duck.metrics.ranking import Booleans, Floats32
from mi_duck.rows.segments import SegmentReader

BLOCK_ROWS = 128
BUFFER_BYTES = 48 << 20
READ_BYTES = 16 << 20
FEWEST_BLOCKS = 16


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """The rows of a run on disk.

    Parameters
    ----------
    label, gene, fold, weight
        Of each row, shape (n_rows,): class, gene rank, fold, and weight in training, 0 where it is left out.
    """

    reader: SegmentReader
    label: NDArray[np.int64]
    gene: NDArray[np.int32]
    fold: NDArray[np.int8]
    weight: Floats32

    @property
    def n_features(self) -> int:
        """Features of a row."""
        return len(self.reader.plan.data.features)

    def in_order(self, wanted: Booleans) -> Iterator[tuple[Floats32, NDArray[np.int64]]]:
        """Yield wanted rows in their order, each batch a reused array, with their indices."""
        indices, begin = np.flatnonzero(wanted), 0
        for matrix in self.reader.matrices(max(256, READ_BYTES // (4 * self.n_features)), wanted):
            yield matrix, indices[begin : begin + len(matrix)]
            begin += len(matrix)

    def shuffled(
        self, wanted: Booleans, seed: Sequence[int], batch_rows: int
    ) -> Iterator[tuple[Floats32, NDArray[np.int64]]]:
        """Yield wanted rows in random batches of at most ``batch_rows``, with their indices; each row once."""
        rng = np.random.default_rng(list(seed))
        firsts = rng.permutation(np.arange(0, self.reader.n_rows, BLOCK_ROWS))
        n_blocks = max(FEWEST_BLOCKS, BUFFER_BYTES // (4 * BLOCK_ROWS * self.n_features))
        for begin in range(0, len(firsts), n_blocks):
            some = firsts[begin : begin + n_blocks]
            indices = [np.arange(first, min(first + BLOCK_ROWS, self.reader.n_rows)) for first in some]
            pairs = zip(self.reader.blocks(some.tolist(), BLOCK_ROWS), indices, strict=True)
            kept = [(matrix[wanted[rows]], rows[wanted[rows]]) for matrix, rows in pairs if wanted[rows].any()]
            if not kept:
                continue
            rows = np.concatenate([one for _, one in kept])
            matrix = np.concatenate([one for one, _ in kept])
            del kept
            order = rng.permutation(len(rows))
            for part in np.array_split(order, -(-len(order) // batch_rows)):
                yield matrix[part], rows[part]

    def whole(self, wanted: Booleans, preparation: Preparation) -> Floats32:
        """Return wanted rows, prepared, as one array of shape (n_wanted, n_columns)."""
        found = np.empty((int(wanted.sum()), preparation.n_columns), dtype=np.float32)
        begin = 0
        for matrix, _ in self.in_order(wanted):
            preparation.apply(matrix, out=found[begin : begin + len(matrix)])
            begin += len(matrix)
        return found
