"""Rows as users have them to the matrix that boosters read: features by name, missing values NaN, nothing else let through."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mi_duck.errors import DataError

BLOCK_BYTES = 28 << 20  # of a matrix; above 32 MiB every one would be new memory from the system


def feature_matrices(rows: Any, features: Sequence[str]) -> Iterator[NDArray[np.float32]]:
    """Yield `feature_matrix` of some rows after the other, so that a large table never has a matrix of its own; at least one."""
    if not (hasattr(rows, "iloc") or hasattr(rows, "slice")):
        yield feature_matrix(rows, features)
        return
    at_once = max(256, BLOCK_BYTES // (4 * len(features)))
    for begin in range(0, max(len(rows), 1), at_once):
        # of pandas; of Arrow and Polars
        part = rows.iloc[begin : begin + at_once] if hasattr(rows, "iloc") else rows.slice(begin, at_once)
        yield feature_matrix(part, features)


def feature_matrix(rows: Any, features: Sequence[str]) -> NDArray[np.float32]:
    """Return rows as a float32 matrix in the order of features; missing values are NaN.

    Raises
    ------
    DataError
        A feature is missing or no number, an array has another width, a value is infinite or too large for float32.
    """
    if isinstance(rows, np.ndarray):
        if rows.ndim != 2 or rows.shape[1] != len(features):
            raise DataError(
                f"an array of shape {rows.shape} cannot be {len(features)} features; name the columns instead"
            )
        if rows.dtype.kind not in "biuf":
            raise DataError(f"an array of {rows.dtype} holds no numbers; convert it, with NaN for missing values")
        with np.errstate(over="ignore"):
            matrix = np.ascontiguousarray(rows, dtype=np.float32)
        is_infinite = np.isinf(matrix).any(axis=0)
        if is_infinite.any():
            raise _infinite(features[int(np.flatnonzero(is_infinite)[0])])
    else:
        if isinstance(rows, pa.Table | pa.RecordBatch):
            names = set(rows.schema.names)
        elif isinstance(rows, Mapping):
            names = set(rows)
        elif hasattr(rows, "columns"):
            names = set(rows.columns)
        else:
            raise DataError(
                f"rows of type {type(rows).__name__} have no named columns; give an Arrow table or a data frame"
            )
        missing = [name for name in features if name not in names]
        if missing:
            raise DataError(
                f"feature(s) {', '.join(missing[:8])} missing of {len(features)} that the model was trained on"
            )
        n_rows = len(rows) if not isinstance(rows, Mapping) else np.size(rows[features[0]])
        matrix = np.empty((n_rows, len(features)), dtype=np.float32)
        # what is too large for float32 becomes infinite, which is refused
        with np.errstate(over="ignore"):
            for place, name in enumerate(features):
                try:
                    column = _numbers(rows[name])
                    if column.shape != (n_rows,):
                        raise ValueError(f"its shape is {column.shape}")
                    matrix[:, place] = column
                    if column.dtype.kind == "f" and np.isinf(matrix[:, place]).any():
                        raise _infinite(name)
                except (TypeError, ValueError, KeyError, pa.ArrowInvalid) as error:
                    raise DataError(f"feature '{name}' is no column of {n_rows:,} numbers: {error}") from error
    return matrix


def _infinite(name: str) -> DataError:
    return DataError(f"infinite value, or one too large for float32, in feature '{name}'; replace it by null")


def _numbers(column: Any) -> Any:
    """Return a column as NumPy numbers; nulls become NaN, text and dates are refused even where they look like numbers."""
    if isinstance(column, pa.Array | pa.ChunkedArray):
        if pa.types.is_boolean(column.type) or pa.types.is_null(column.type):
            column = column.cast(pa.float32())
        column = column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(zero_copy_only=False)
    elif not hasattr(column, "dtype"):
        column = np.asarray(column)
    if column.dtype.kind not in "biuf":
        raise TypeError(f"its values are {column.dtype}")
    return column if isinstance(column, np.ndarray) else column.to_numpy(dtype=np.float64, na_value=np.nan)
