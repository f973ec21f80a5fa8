"""Streams the rows of segments into one quantised matrix, without ever holding a float matrix of them.

XGBoost finds the cuts of all columns by sketching them side by side, which takes a megabyte a column for half a million
rows, and a pass over the data. Whole numbers in one byte need no sketch: their distinct values are their cuts. So only the
other columns are sketched, and the cuts of all go into the big matrix by way of a *carrier*, a matrix of a few hundred rows
that holds nothing but cut points (``ref=``). The cuts are the same, so the trees are; building W takes 3 passes
instead of 4, and the sketches are those of the few wide columns (``benchmarks/bench_matrix.py``).
"""

import ctypes
import sys
from collections.abc import Callable, Iterator

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from mi_duck.plan.memory import BATCH_ROWS, CARRIER_SHARE, WIDE_BATCH_ROWS
from mi_duck.train.segments import SegmentReader

PASSES = 3  # of XGBoost over the data with a reference matrix


class GeneBatches(xgb.DataIter):  # type: ignore[misc]
    """Feeds batches to XGBoost, which asks for all of them several times.

    Parameters
    ----------
    batches
        Makes the iterator of one pass; each array it yields may be reused for the next.
    report
        Told the rows handed over so far, over all passes.
    """

    def __init__(self, batches: Callable[[], Iterator[NDArray[np.float32]]], report: Callable[[int], None]) -> None:
        super().__init__()
        self._make = batches
        self._report = report
        self._rows = 0
        self._batches: Iterator[NDArray[np.float32]] = iter(())

    def reset(self) -> None:
        """Begin the next pass."""
        self._batches = self._make()

    def next(self, input_data: Callable[..., None]) -> bool:
        """Hand over the next batch; False when there is none."""
        matrix = next(self._batches, None)
        if matrix is None:
            return False
        self._rows += len(matrix)
        self._report(self._rows)
        # a new view each time: XGBoost takes an object it has seen for data it has seen
        input_data(data=matrix.view())
        return True


def build_matrix(
    reader: SegmentReader,
    carrier: xgb.QuantileDMatrix | None,
    *,
    max_bin: int,
    threads: int,
    report: Callable[[int], None],
) -> xgb.QuantileDMatrix:
    """Return the quantised matrix of all rows of a reader, in their order.

    Parameters
    ----------
    reader
        The rows.
    carrier
        Holds the cuts, see `cut_carrier`; without one XGBoost sketches all columns.
    max_bin
        Most bins a feature; must equal that of the training parameters.
    threads
        Threads.
    report
        Told the rows read so far, over all passes.
    """
    batches = GeneBatches(lambda: reader.matrices(BATCH_ROWS), report)
    matrix = xgb.QuantileDMatrix(batches, max_bin=max_bin, nthread=threads, ref=carrier)
    trim_heap()
    return matrix


def cut_carrier(reader: SegmentReader, *, max_bin: int, threads: int) -> xgb.QuantileDMatrix | None:
    """Return a tiny matrix whose cuts are those of all rows; None where sketching all columns at once is no dearer.

    That is where most columns are wide, or where a byte column has more values than bins.

    XGBoost cuts a column with few distinct values v0 < v1 < ... at v1, v2, ...; so a column whose distinct values are
    the smallest value and all cuts but the last has exactly these cuts. (The last cut only closes the last bin.)
    """
    plan = reader.plan
    n_small = len(plan.small_features)
    if len(plan.wide_features) > CARRIER_SHARE * len(plan.features):
        return None
    is_there = np.zeros((n_small, 256), dtype=bool)
    offsets = np.arange(n_small, dtype=np.int32) * 256
    lowest = np.full(len(plan.wide_features), np.inf, dtype=np.float32)
    for small, wide in reader.records(BATCH_ROWS):
        is_there.ravel()[small + offsets] = True
        if wide.shape[1]:
            lowest = np.fmin(lowest, np.fmin.reduce(wide, axis=0))
    if is_there.sum(axis=1).max(initial=0) > max_bin:
        return None
    values = {
        name: np.flatnonzero(is_there[place]).astype(np.float32) for place, name in enumerate(plan.small_features)
    }
    if plan.wide_features:
        sketched = xgb.QuantileDMatrix(
            GeneBatches(lambda: (wide for _, wide in reader.records(WIDE_BATCH_ROWS)), lambda rows: None),
            max_bin=max_bin,
            nthread=threads,
        )
        starts, cuts = sketched.get_quantile_cut()
        for place, name in enumerate(plan.wide_features):
            # the first number is a bound below the smallest value, the last one a bound above the largest
            inner = cuts[starts[place] + 1 : starts[place + 1] - 1]
            values[name] = np.append(lowest[place], inner) if np.isfinite(lowest[place]) else np.empty(0, np.float32)
    matrix = np.full((max(len(column) for column in values.values()), len(plan.features)), np.nan, dtype=np.float32)
    for place, name in enumerate(plan.features):
        column = values[name]
        if len(column):
            matrix[: len(column), place] = column
            matrix[len(column) :, place] = column[-1]
    carrier = xgb.QuantileDMatrix(matrix, max_bin=max_bin, nthread=threads)
    trim_heap()
    return carrier


def trim_heap() -> None:
    """Give freed memory back to the system; the quantile sketches alone are a gigabyte at a thousand features."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
