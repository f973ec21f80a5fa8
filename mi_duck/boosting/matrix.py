"""Streams the rows of segments into one quantised matrix, without ever holding a float matrix of them.

XGBoost finds the cuts of all columns by sketching them side by side, which takes a megabyte per column for half a million
rows, and a pass over the data. Whole numbers in one byte need no sketch: their distinct values are their cuts. So only the
other columns are sketched, and the cuts of all go into the big matrix by way of a *reference*, a matrix of a few hundred rows
that holds nothing but cut points (``ref=``). The cuts are the same, so the trees are; building the matrix takes 3 passes
instead of 4, and the sketches are those of the few wide columns (``benchmarks/bench_matrix.py``).

Where zeros count as missing, XGBoost gets the other cells alone, row by row: it would look at each cell to see whether it is
missing, which no processor can foresee. The matrix is the same; building that of the 582,222-row benchmark set, of whose cells
.70 are stored, takes 24 seconds instead of 30.
"""

import ctypes
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from mi_duck.rows.segments import SegmentReader
from mi_duck.run.costs import BATCH_ROWS, PAGE_ROWS, WIDE_BATCH_ROWS, is_sketched_whole

PASSES = 3  # of XGBoost over the data with a reference matrix


class GeneBatches(xgb.DataIter):  # type: ignore[misc]
    """Feeds batches to XGBoost, which asks for all of them several times.

    Parameters
    ----------
    batches
        Makes the iterator of one pass; each array it yields may be reused for the next.
    report
        Progress callback, called with the rows handed over so far, over all passes.
    """

    def __init__(
        self,
        batches: Callable[[], Iterator[NDArray[np.float32] | csr_matrix]],
        report: Callable[[int], None],
        cache: Path | None = None,
    ) -> None:
        super().__init__(cache_prefix=None if cache is None else str(cache))
        self._make = batches
        self._report = report
        self._rows = 0
        self._batches: Iterator[NDArray[np.float32] | csr_matrix] = iter(())

    def reset(self) -> None:
        """Begin the next pass."""
        self._batches = self._make()

    def next(self, input_data: Callable[..., None]) -> bool:
        """Hand over the next batch; False when there is none."""
        matrix = next(self._batches, None)
        if matrix is None:
            return False
        self._rows += matrix.shape[0]
        self._report(self._rows)
        # a new view each time: XGBoost takes an object it has seen for data it has seen
        input_data(data=matrix.view() if isinstance(matrix, np.ndarray) else matrix)
        return True


def build_matrix(
    reader: SegmentReader,
    wanted: NDArray[np.bool_],
    reference: xgb.QuantileDMatrix | None,
    *,
    max_bin: int,
    threads: int,
    report: Callable[[int], None],
    cache: Path | None = None,
) -> xgb.QuantileDMatrix | xgb.ExtMemQuantileDMatrix:
    """Return the quantised matrix of the wanted rows of a reader, in their order.

    Parameters
    ----------
    wanted
        Which rows, shape (n_rows,).
    reference
        Holds the cuts, see `cut_reference`; without one XGBoost sketches all columns.
    max_bin
        Most bins per feature; must equal that of the training parameters.
    report
        Progress callback, called with the rows read so far, over all passes.
    cache
        Beginning of the names of files that hold the matrix instead of memory; they go with the matrix.
    """

    def encoded(batch_rows: int) -> Iterator[NDArray[np.float32] | csr_matrix]:
        matrices, features = reader.matrices(batch_rows, wanted), reader.plan.data.features
        if not reader.encoding.zero_is_missing:
            return (reader.encoding.apply(rows, features) for rows in matrices)
        return without_zeros(matrices, ~reader.encoding.loses_zeros(features), batch_rows)

    batch_rows = BATCH_ROWS if cache is None else PAGE_ROWS
    matrix = _quantised(GeneBatches(lambda: encoded(batch_rows), report, cache), max_bin, threads, reference, cache)
    trim_heap()
    return matrix


def _quantised(
    batches: GeneBatches, max_bin: int, threads: int, reference: xgb.QuantileDMatrix | None, cache: Path | None
) -> xgb.QuantileDMatrix | xgb.ExtMemQuantileDMatrix:
    kind = xgb.QuantileDMatrix
    if cache is not None:
        kind = xgb.ExtMemQuantileDMatrix
        cache.parent.mkdir(parents=True, exist_ok=True)
    return kind(batches, max_bin=max_bin, nthread=threads, ref=reference)


def cut_reference(
    reader: SegmentReader, wanted: NDArray[np.bool_], *, max_bin: int, threads: int, cache: Path | None = None
) -> xgb.QuantileDMatrix | None:
    """Return a tiny matrix whose cuts are those of the wanted rows; None where sketching all columns at once costs no more.

    That is where most columns are wide, or have more values than bins.

    XGBoost cuts a column with few distinct values v0 < v1 < ... at v1, v2, ...; so a column whose distinct values are
    the smallest value and all cuts but the last has exactly these cuts. (The last cut only closes the last bin.)
    """
    data, encoding = reader.plan.data, reader.encoding
    if is_sketched_whole(len(data.wide_features), len(data.features)):
        return None
    is_there = np.zeros((len(data.small_features), 256), dtype=bool)
    offsets = np.arange(len(data.small_features), dtype=np.int32) * 256
    lowest_wide = np.full(len(data.wide_features), np.inf, dtype=np.float32)
    for small, wide in reader.records(BATCH_ROWS, wanted):
        is_there.ravel()[small + offsets] = True
        if wide.shape[1]:
            # a sentinel is the smallest value of its column
            encoded = encoding.apply(wide, data.wide_features)
            lowest_wide = np.fmin(lowest_wide, np.fmin.reduce(encoded, axis=0))
    is_there[encoding.loses_zeros(data.small_features), 0] = False
    crowded = np.flatnonzero(is_there.sum(axis=1) > max_bin)
    sketched = [*(data.small_features[number] for number in crowded.tolist()), *data.wide_features]
    if is_sketched_whole(len(sketched), len(data.features)):
        return None
    values = {
        name: np.flatnonzero(of_column).astype(np.float32)
        for name, of_column in zip(data.small_features, is_there, strict=True)
    }
    if sketched:

        def columns() -> Iterator[NDArray[np.float32]]:
            for small, wide in reader.records(WIDE_BATCH_ROWS, wanted):
                rows = np.hstack([small[:, crowded].astype(np.float32), wide]) if len(crowded) else wide
                yield encoding.apply(rows, sketched)

        matrix = _quantised(GeneBatches(columns, lambda rows: None, cache), max_bin, threads, None, cache)
        starts, cuts = matrix.get_quantile_cut()
        lowest = [*(values[name][0] for name in sketched[: len(crowded)]), *lowest_wide]
        for index, name in enumerate(sketched):
            # the first number is a bound below the smallest value, the last one a bound above the largest
            inner = cuts[starts[index] + 1 : starts[index + 1] - 1]
            values[name] = np.append(lowest[index], inner) if np.isfinite(lowest[index]) else np.empty(0, np.float32)
        del matrix
    longest = max(len(column) for column in values.values())
    points = np.full((longest, len(data.features)), np.nan, dtype=np.float32)
    for index, name in enumerate(data.features):
        column = values[name]
        if len(column):
            points[: len(column), index] = column
            points[len(column) :, index] = column[-1]
    reference = xgb.QuantileDMatrix(points, max_bin=max_bin, nthread=threads)
    trim_heap()
    return reference


def without_zeros(
    matrices: Iterator[NDArray[np.float32]], keep: NDArray[np.bool_], most_rows: int
) -> Iterator[csr_matrix]:
    """Yield matrices, of ``most_rows`` rows at most, without the cells that are zero.

    ``keep`` are the columns whose zeros are stored, shape (n_features,).
    """
    column_of_cell = np.tile(np.arange(len(keep), dtype=np.int32), most_rows)
    for matrix in matrices:
        is_stored = (matrix != 0) | keep
        cells = np.flatnonzero(is_stored)
        starts = np.zeros(len(matrix) + 1, dtype=np.int32)
        np.cumsum(np.count_nonzero(is_stored, axis=1), out=starts[1:])
        values, columns = (one.take(cells, mode="clip") for one in (matrix.ravel(), column_of_cell))
        yield csr_matrix((values, columns, starts), shape=matrix.shape)


def trim_heap() -> None:
    """Give freed memory back to the system; the quantile sketches alone are a gigabyte at a thousand features."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
