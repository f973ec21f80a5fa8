"""Puts rows whose places are known in order, in memory that does not grow with them.

Rows are gathered up to a bound. What fits is sorted there and then; else everything is dealt into files of neighbouring
places, each of which is put in order the same way. One level of files holds 64 times the bound, two levels 4,096 times.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mi_duck.errors import DataError

HELD_BYTES = 96 << 20  # gathered before they are sorted or dealt; about three times as much is in memory then
MOST_PARTS = 64
FULL = 0.7  # of the bound that a part is meant to have, as rows differ in size


def in_order(
    batches: Iterable[pa.RecordBatch],
    folder: Path,
    *,
    first: int,
    stop: int,
    batch_rows: int,
    held_bytes: int = HELD_BYTES,
) -> Iterator[pa.RecordBatch]:
    """Yield rows in the order of their places.

    Parameters
    ----------
    batches
        Rows; the last column is the place of each, int64. Every place from ``first`` to ``stop`` (half-open) must come
        once. No column may be of a dictionary type.
    folder
        For files that hold what memory does not; made here, and empty at the end.
    first, stop
        Places.
    batch_rows
        Most rows of a batch that is yielded.
    held_bytes
        Bytes of rows that are gathered in memory.

    Yields
    ------
    pyarrow.RecordBatch
        Neighbouring rows, without their places.

    Raises
    ------
    DataError
        A place is missing or comes twice, because a file changed since the places were found.
    """
    held: list[pa.RecordBatch] = []
    n_bytes = 0
    parts: list[Path] = []
    edges = np.array([first, stop], dtype=np.int64)
    schema: pa.Schema | None = None
    for batch in batches:
        held.append(batch)
        n_bytes += batch.nbytes
        if n_bytes >= held_bytes and stop - first > 1:
            if schema is None:
                schema = batch.schema
                edges = _edges(first, stop, n_bytes / sum(one.num_rows for one in held), held_bytes)
                parts = [folder / f"part_{number}.arrows" for number in range(len(edges) - 1)]
                folder.mkdir(parents=True, exist_ok=True)
            _deal(held, edges, parts)
            held, n_bytes = [], 0
    if schema is None:
        yield from _sorted(held, first, stop, batch_rows)
        return
    if held:
        _deal(held, edges, parts)
        held = []
    for number, part in enumerate(parts):
        yield from in_order(
            _read(part, schema),
            part.with_suffix(""),
            first=int(edges[number]),
            stop=int(edges[number + 1]),
            batch_rows=batch_rows,
            held_bytes=held_bytes,
        )
        part.unlink(missing_ok=True)
    folder.rmdir()


def _edges(first: int, stop: int, row_bytes: float, held_bytes: int) -> NDArray[np.int64]:
    """Return the places at which parts begin, and the end."""
    n_parts = int(np.ceil((stop - first) * row_bytes / (FULL * held_bytes)))
    n_parts = min(max(n_parts, 2), MOST_PARTS, stop - first)
    return first + (np.arange(n_parts + 1) * (stop - first)) // n_parts


def _deal(held: Sequence[pa.RecordBatch], edges: NDArray[np.int64], parts: Sequence[Path]) -> None:
    """Append the rows to the files of their places."""
    together, places = _joined(held)
    order, places = _ranked(places)
    if places[0] < edges[0] or places[-1] >= edges[-1]:
        raise DataError("a file of the dataset changed while it was read; run the same command again")
    bounds = np.searchsorted(places, edges)
    for part, begin, end in zip(parts, bounds[:-1], bounds[1:], strict=True):
        if begin < end:
            piece = together.slice(begin, end - begin) if order is None else together.take(pa.array(order[begin:end]))
            with part.open("ab") as file:
                file.write(piece.serialize())


def _read(part: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield what was appended to a file."""
    if not part.exists():
        return
    with pa.OSFile(str(part)) as file:
        while file.tell() < file.size():
            yield pa.ipc.read_record_batch(pa.ipc.read_message(file), schema)


def _joined(held: Sequence[pa.RecordBatch]) -> tuple[pa.RecordBatch, NDArray[np.int64]]:
    together = pa.concat_batches(held)
    return together, together.column(together.num_columns - 1).to_numpy()


def _ranked(places: NDArray[np.int64]) -> tuple[NDArray[np.int64] | None, NDArray[np.int64]]:
    """Return the order of places, None where they stand in it, and the places in it."""
    if (places[1:] > places[:-1]).all():
        return None, places
    order = np.argsort(places, kind="stable")
    return order, places[order]


def _sorted(held: list[pa.RecordBatch], first: int, stop: int, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Yield all rows of a range of places; what is held is let go of."""
    if sum(batch.num_rows for batch in held) != stop - first:
        raise DataError("a file of the dataset changed while it was read; run the same command again")
    if not held:
        return
    together, places = _joined(held)
    held.clear()
    order, places = _ranked(places)
    if not np.array_equal(places, np.arange(first, stop)):
        raise DataError("a file of the dataset changed while it was read; run the same command again")
    rows = together.select(range(together.num_columns - 1))
    for begin in range(0, stop - first, batch_rows):
        end = min(begin + batch_rows, stop - first)
        yield rows.slice(begin, end - begin) if order is None else rows.take(pa.array(order[begin:end]))
