"""The rows of a run in small types: what a segment is, how it is read, and how its columns are filled.

A segment is a range of gene ranks. Its rows lie in the total order (gene rank, position, hash of the row), which does
not depend on the order of files, on batches or on threads, as fixed-size records in two files: ``features.bin`` holds
features of whole numbers from 0 to 255 without missing values as one byte each and then the others as float32, ``keys.bin``
holds `KEYS`, and the weight where the data have one.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_duck.atomic_files import file_sha256, read_sealed
from mi_duck.errors import CheckpointError
from mi_duck.run.plan import Instance, Plan, PlannedData, Segment


@dataclass(frozen=True, slots=True)
class ColumnDensity:
    """Counts over some rows.

    Parameters
    ----------
    zeros
        For each feature of one byte, rows that are zero.
    missing
        For each other feature, rows that are null or NaN.
    errors
        For each feature of one byte, the standard error of its share of zeros between samples of so many genes; rows of a
        gene are alike. Empty where the rows are all there are.
    """

    n_rows: int
    zeros: dict[str, int]
    missing: dict[str, int]
    errors: Mapping[str, float] = field(default_factory=dict)

    @property
    def has_missing(self) -> bool:
        """Whether any value is missing."""
        return any(self.missing.values())


KEYS = np.dtype([("position", "<i8"), ("gene_rank", "<i4"), ("label", "u1"), ("use", "u1")])
WEIGHTED_KEYS = np.dtype([*KEYS.descr, ("weight", "<f4")])
LEFT_OUT, USED, USED_FOR_MANY = 0, 1, 2
"""``use`` of a row in training; the last stands for 1 / share of the easy negatives."""


def keys_type(data: PlannedData) -> np.dtype[np.void]:
    """Return the type of one row in ``keys.bin``: `KEYS`, and the weight where the data have one."""
    return KEYS if data.weight_column is None else WEIGHTED_KEYS


def training_weights(keys: NDArray[np.void], easy_share: float) -> NDArray[np.float32]:
    """Return the weight of each row in training, shape (n_rows,): 0 of a row that is left out.

    An easy negative that was kept stands for those left out; where the data have weights it is multiplied by them.
    """
    weight: NDArray[np.float32] = np.array([0, 1, 1 / easy_share], dtype=np.float32)[keys["use"]]
    return weight * keys["weight"] if has_weights(keys) else weight


def is_trained_on(keys: NDArray[np.void]) -> NDArray[np.bool_]:
    """Return which rows are trained on, shape (n_rows,): all but the easy negatives that were left out."""
    is_used: NDArray[np.bool_] = keys["use"] != LEFT_OUT
    return is_used


def row_weights(keys: NDArray[np.void]) -> NDArray[np.float64] | None:
    """Return the weights that the data have, shape (n_rows,); None where they have none or all are 1."""
    return weights_or_none(keys["weight"]) if has_weights(keys) else None


def weights_or_none(weight: NDArray[np.float32]) -> NDArray[np.float64] | None:
    """Return weights in 64 bits, shape (n_rows,); None where all are 1, which gives the same bytes as rows without weights."""
    return None if (weight == 1).all() else weight.astype(np.float64)


def has_weights(keys: NDArray[np.void]) -> bool:
    """Return whether keys hold the weights of their rows."""
    return "weight" in (keys.dtype.names or ())


def record_type(plan: Plan) -> np.dtype[np.void]:
    """Return the type of one row in ``features.bin``: ``small`` (bytes) then ``wide`` (float32)."""
    return np.dtype(
        [("small", "u1", (len(plan.data.small_features),)), ("wide", "<f4", (len(plan.data.wide_features),))]
    )


def read_at(handle: int, record: np.dtype[np.void], index: int, n: int) -> NDArray[np.void]:
    """Read ``n`` records from an index counted in records."""
    rows = np.empty(n, dtype=record)
    view = rows.view(np.uint8).data.cast("B")
    offset = index * record.itemsize
    while len(view):
        got = os.preadv(handle, [view], offset)
        if got == 0:
            raise CheckpointError("a segment file is cut off; remove the run's scratch folder and start again")
        view, offset = view[got:], offset + got
    return rows


class SegmentReader:
    """Reads the rows of consecutive segments in order.

    Raises
    ------
    CheckpointError
        A segment is missing, foreign, or its bytes are not those that were written.
    """

    def __init__(self, plan: Plan, segments: Sequence[Segment], folder: Path) -> None:
        self.plan = plan
        self.segments = tuple(segments)
        self.folder = folder
        self.n_rows = sum(segment.n_rows for segment in segments)
        self.encoding = plan.encoding
        for segment in segments:
            self._verify(segment)

    def _verify(self, segment: Segment) -> None:
        folder = self.folder / segment.name
        manifest = read_manifest(folder)
        data = self.plan.data
        expected = (data.fingerprint, data.genes_sha256, segment.first_rank, segment.stop_rank)
        found = tuple(manifest.get(key) for key in ("dataset_fingerprint", "genes_sha256", "first_rank", "stop_rank"))
        if found != expected:
            raise CheckpointError(f"{folder} belongs to another plan; remove the run's scratch folder")
        for name, digest in manifest["sha256"].items():
            if not (folder / name).is_file() or file_sha256(folder / name) != digest:
                (folder / "segment.json").unlink()  # so that the next try writes it anew
                raise CheckpointError(f"{folder / name} is damaged; the same command writes it again")

    def keys(self) -> NDArray[np.void]:
        """Return the keys of all rows, shape (n_rows,) of `keys_type`."""
        kind = keys_type(self.plan.data)
        parts = [np.fromfile(self.folder / segment.name / "keys.bin", dtype=kind) for segment in self.segments]
        return np.concatenate(parts)

    def records(
        self, batch_rows: int, wanted: NDArray[np.bool_] | None = None
    ) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
        """Yield the byte columns and the float32 columns of rows, batch by batch, each a contiguous copy; none is empty.

        ``wanted`` has shape (n_rows,); by default all rows are.
        """
        record, first = record_type(self.plan), 0
        for segment in self.segments:
            with (self.folder / segment.name / "features.bin").open("rb", buffering=0) as file:
                for begin in range(0, segment.n_rows, batch_rows):
                    rows = read_at(file.fileno(), record, begin, min(batch_rows, segment.n_rows - begin))
                    chosen = None if wanted is None else wanted[first : first + len(rows)]
                    first += len(rows)
                    if chosen is not None and not chosen.all():
                        rows = rows[chosen]
                    if len(rows):
                        yield np.ascontiguousarray(rows["small"]), np.ascontiguousarray(rows["wide"])

    def matrices(self, batch_rows: int, wanted: NDArray[np.bool_] | None = None) -> Iterator[NDArray[np.float32]]:
        """Yield the features of rows as they are, batch by batch, each a view of one reused array.

        Yields
        ------
        ndarray of float32, shape (at most ``batch_rows``, n_features)
            Columns in the order of ``plan.data.features``, NaN where a value is missing; valid until the next is taken. Never
            empty.
        """
        small, wide = self._positions()
        matrix = np.empty((batch_rows, len(self.plan.data.features)), dtype=np.float32)
        for small_columns, wide_columns in self.records(batch_rows, wanted):
            n = len(small_columns)
            matrix[:n, small] = small_columns
            matrix[:n, wide] = wide_columns
            yield matrix[:n]

    def blocks(self, first_rows: Iterable[int], block_rows: int) -> Iterator[NDArray[np.float32]]:
        """Yield blocks of consecutive rows of the one segment, in any order, features as `matrices` gives them.

        Each begins at one of the first rows and has ``block_rows`` rows, fewer at the end of the segment; each is its own array.
        """
        (segment,) = self.segments
        record, (small, wide) = record_type(self.plan), self._positions()
        with (self.folder / segment.name / "features.bin").open("rb", buffering=0) as file:
            for first in first_rows:
                rows = read_at(file.fileno(), record, first, min(block_rows, segment.n_rows - first))
                matrix = np.empty((len(rows), len(self.plan.data.features)), dtype=np.float32)
                matrix[:, small], matrix[:, wide] = rows["small"], rows["wide"]
                yield matrix

    def _positions(self) -> "tuple[slice | NDArray[np.int64], slice | NDArray[np.int64]]":
        """Return where the byte columns and the float32 columns stand among the features."""
        data = self.plan.data
        return _columns(data.features, data.small_features), _columns(data.features, data.wide_features)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read what was counted and hashed when a segment was written; a `CheckpointError` where it is not finished or whole."""
    try:
        return read_sealed(folder / "segment.json")
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is not a finished segment; run the same command again") from error
    except ValueError as error:
        (folder / "segment.json").unlink(missing_ok=True)  # so that the next try writes the segment anew
        raise CheckpointError(
            f"{folder}/segment.json is damaged ({error}); the same command writes it again"
        ) from error


def read_density(plan: Plan, segments: Sequence[Segment], folder: Path) -> ColumnDensity:
    """Return how the columns of some segments are filled, as counted when they were written."""
    zeros = np.zeros(len(plan.data.small_features), dtype=np.int64)
    missing = np.zeros(len(plan.data.wide_features), dtype=np.int64)
    for segment in segments:
        manifest = read_manifest(folder / segment.name)
        zeros += np.array(manifest["n_zero"], dtype=np.int64)
        missing += np.array(manifest["n_missing"], dtype=np.int64)
    return ColumnDensity(
        sum(segment.n_rows for segment in segments),
        dict(zip(plan.data.small_features, zeros.tolist(), strict=True)),
        dict(zip(plan.data.wide_features, missing.tolist(), strict=True)),
    )


def _columns(features: Sequence[str], names: Sequence[str]) -> slice | NDArray[np.int64]:
    """Return where columns stand among the features: a slice where they are neighbours, which copies faster."""
    index = {name: number for number, name in enumerate(features)}
    columns = np.array([index[name] for name in names], dtype=np.int64)
    if len(columns) and np.array_equal(columns, np.arange(columns[0], columns[0] + len(columns))):
        return slice(int(columns[0]), int(columns[0]) + len(columns))
    return columns


def segments_of(plan: Plan, instance: Instance) -> tuple[Segment, ...]:
    """Return the segments with the rows of an instance."""
    return tuple(
        segment
        for segment in plan.cut.segments
        if instance.first_rank <= segment.first_rank and segment.stop_rank <= instance.stop_rank
    )
