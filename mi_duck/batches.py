"""Streams the rows of segments into one quantised matrix, without ever holding a float matrix of them."""

import ctypes
import sys
from collections.abc import Callable, Iterator

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from mi_duck.memory import BATCH_ROWS
from mi_duck.segments import SegmentReader


class GeneBatches(xgb.DataIter):  # type: ignore[misc]
    """Feeds `SegmentReader` to XGBoost, batch by batch; XGBoost asks for all data four times."""

    def __init__(self, reader: SegmentReader, report: Callable[[int], None]) -> None:
        super().__init__()
        self._reader = reader
        self._report = report
        self._passes = -1
        self._rows = 0
        self._batches: Iterator[NDArray[np.float32]] = iter(())

    def reset(self) -> None:
        """Begin the next pass."""
        self._passes += 1
        self._rows = 0
        self._batches = self._reader.matrices(BATCH_ROWS)

    def next(self, input_data: Callable[..., None]) -> bool:
        """Hand over the next batch; False when there is none."""
        matrix = next(self._batches, None)
        if matrix is None:
            return False
        self._rows += len(matrix)
        self._report(self._passes * self._reader.n_rows + self._rows)
        # a new view each time: XGBoost takes an object it has seen for data it has seen
        input_data(data=matrix.view())
        return True


def build_matrix(
    reader: SegmentReader, *, max_bin: int, threads: int, report: Callable[[int], None]
) -> xgb.QuantileDMatrix:
    """Return the quantised matrix of all rows of a reader, in their order.

    Parameters
    ----------
    reader
        The rows.
    max_bin
        Most bins a feature; must equal that of the training parameters.
    threads
        Threads.
    report
        Told the rows read so far, over all passes.
    """
    matrix = xgb.QuantileDMatrix(GeneBatches(reader, report), max_bin=max_bin, nthread=threads)
    trim_heap()
    return matrix


def trim_heap() -> None:
    """Give freed memory back to the system; the quantile sketches alone are a gigabyte at a thousand features."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
