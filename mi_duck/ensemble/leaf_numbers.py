"""Leaf numbers of all trees of one class on disk, of one fold's rows: what `mi_duck.ensemble.refit` reads pass after pass.

They lie tree by tree, a byte or two for each row, because those of all trees are larger than memory. How many rows are written
is noted from time to time beside them, so a process that was killed goes on there.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mi_duck.atomic_files import read_sealed, sealed, storage_errors, write_json
from mi_duck.errors import CheckpointError
from mi_duck.metrics.ranking import Floats32

SECONDS_BETWEEN = 5  # notes; what a kill costs at most


class LeafNumbers:
    """Leaf numbers of one class, written row by row and read tree by tree.

    Parameters
    ----------
    path
        Of the file; the note lies beside it.
    key
        Hash of what the numbers follow from; those of another one are written anew.
    sizes
        Leaves of each tree of each member.
    """

    def __init__(self, path: Path, key: str, sizes: Sequence[Sequence[int]], n_rows: int) -> None:
        self.path, self.key, self.n_rows = path, key, n_rows
        self.n_leaves = [size for one in sizes for size in one]
        ends = np.cumsum([0, *map(len, sizes)]).tolist()
        self.members = [range(first, stop) for first, stop in pairwise(ends)]
        self.kind = np.min_scalar_type(max(self.n_leaves) - 1)
        self._size = max(self.n_trees * n_rows * self.kind.itemsize, 1)
        self._note, self._noted = note_of(path), time.monotonic()
        self._bytes = np.empty(0, dtype=self.kind)
        self.n_written = self._rows_noted()

    @property
    def n_trees(self) -> int:
        """Trees of all members."""
        return len(self.n_leaves)

    @property
    def is_whole(self) -> bool:
        """Whether the numbers of all rows are there."""
        return self.n_written == self.n_rows

    def begin(self, first_row: int) -> None:
        """Go on writing at a row; at the first the file is made."""
        self.n_written = first_row
        if first_row:
            return
        delete_leaf_numbers(self.path)
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("wb") as file:  # all of it now, so that a full disk is met before any work is done
                os.posix_fallocate(file.fileno(), 0, self._size)

    def append(self, nodes: Floats32) -> None:
        """Write the leaf numbers of the next rows, shape (n_rows, n_trees)."""
        by_tree = np.ascontiguousarray(nodes.T.astype(self.kind))
        is_due = self.n_written + len(nodes) == self.n_rows or time.monotonic() - self._noted > SECONDS_BETWEEN
        with storage_errors(self.path), self.path.open("r+b") as file:
            for tree, own in enumerate(by_tree):
                file.seek((tree * self.n_rows + self.n_written) * self.kind.itemsize)
                file.write(own.data)
            self.n_written += len(nodes)
            if is_due:
                file.flush()
                os.fsync(file.fileno())
                write_json(self._note, sealed({"key": self.key, "n_rows": self.n_written}))
                self._noted = time.monotonic()

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Open the file for `read`."""
        with storage_errors(self.path), self.path.open("rb", buffering=0) as self._file:
            yield

    def read(self, tree: int, first_row: int, own: NDArray[np.intp]) -> None:
        """Write the leaf numbers of rows from a first one on into an array, shape (n,)."""
        if len(self._bytes) < len(own):
            self._bytes = np.empty(len(own), dtype=self.kind)
        part = self._bytes[: len(own)]
        self._file.seek((tree * self.n_rows + first_row) * self.kind.itemsize)
        if self._file.readinto(part.data) != part.nbytes:
            raise CheckpointError(f"{self.path} is cut off; the same command writes it again")
        np.copyto(own, part)

    def _rows_noted(self) -> int:
        """Return how many rows are written, 0 where they are of something else."""
        try:
            note = read_sealed(self._note)
            is_same = note["key"] == self.key and self.path.stat().st_size == self._size
            return int(note["n_rows"]) if is_same else 0
        except (OSError, ValueError, KeyError):
            return 0


def note_of(path: Path) -> Path:
    """Return where it is noted how many rows of a file of leaf numbers are written."""
    return path.with_suffix(".written")


def delete_leaf_numbers(path: Path) -> None:
    """Delete a file of leaf numbers and its note, where they are."""
    with storage_errors(path):
        note_of(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)
