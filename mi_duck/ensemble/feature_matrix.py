"""Rows as users hand them over, a table, a data frame, a mapping or an array, as the matrix that models see."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mi_duck.data.text_tables import source_of
from mi_duck.data.values import is_number, is_text, level_columns, numbers, remedy
from mi_duck.errors import DataError
from mi_duck.metrics.ranking import Floats32
from mi_duck.run.levels import Levels, column_of

BLOCK_BYTES = 28 << 20
"""Bytes of one matrix; above 32 MiB the C library maps new memory for every one."""


def feature_matrices(rows: Any, features: Sequence[str], levels: Sequence[Levels] = ()) -> Iterator[Floats32]:
    """Yield `feature_matrix` of the rows block by block, at least one, so that no matrix is as large as the table."""
    if not (hasattr(rows, "iloc") or hasattr(rows, "slice")):
        yield feature_matrix(rows, features, levels)
        return
    at_once = max(256, BLOCK_BYTES // (4 * len(features)))
    for begin in range(0, max(len(rows), 1), at_once):
        # pandas has iloc; Arrow and Polars have slice
        part = rows.iloc[begin : begin + at_once] if hasattr(rows, "iloc") else rows.slice(begin, at_once)
        yield feature_matrix(part, features, levels)


def feature_matrix(rows: Any, features: Sequence[str], levels: Sequence[Levels] = ()) -> Floats32:
    """Return rows as a matrix in the order of features, shape (n_rows, n_features); missing values are NaN.

    Features that are levels of text columns are made of these columns, unless they are there themselves.

    Raises
    ------
    DataError
        A feature is missing or not a number, an array has another width, a value is infinite or too large for float32.
    """
    # what is too large for float32 becomes infinite, which is refused
    with np.errstate(over="ignore"):
        return _of_array(rows, features) if isinstance(rows, np.ndarray) else _of_columns(rows, features, levels)


def check_features(schema: pa.Schema, features: Sequence[str], file: object, levels: Sequence[Levels] = ()) -> None:
    """Refuse a file that lacks a feature of the model, or where one is not a number, or a text column no text."""
    there, made = set(schema.names), column_of(levels)
    sources = dict.fromkeys(made[name].column for name in features if name in made)
    for name in sources:
        if name in there and not is_text(kind := schema.field(name).type) and not pa.types.is_null(kind):
            raise DataError(f"column '{name}' is {kind} in {file}, not text as in training; cast it to text")
    features = [*(name for name in features if name not in made), *sources]
    missing = [name for name in features if name not in there]
    if missing:
        raise DataError(
            f"{source_of(file)} lacks {len(missing):,} of {len(features):,} features of the model: {', '.join(missing[:8])}; "
            "make its columns as those of the training data were made"
        )
    for name in features:
        kind = schema.field(name).type
        if name not in sources and not is_number(kind):
            raise DataError(f"feature '{name}' is {kind} in {file}, not a number as in training; {remedy(kind)}")


def _of_array(rows: NDArray[Any], features: Sequence[str]) -> Floats32:
    if rows.ndim != 2 or rows.shape[1] != len(features):
        raise DataError(f"an array of shape {rows.shape} cannot be {len(features)} features; name the columns instead")
    if rows.dtype.kind not in "biuf":
        raise DataError(f"an array of {rows.dtype} holds no numbers; convert it, with NaN for missing values")
    matrix = np.ascontiguousarray(rows, dtype=np.float32)
    is_infinite = np.isinf(matrix).any(axis=0)
    if is_infinite.any():
        raise _infinite(features[int(np.flatnonzero(is_infinite)[0])])
    return matrix


def _of_columns(rows: Any, features: Sequence[str], levels: Sequence[Levels]) -> Floats32:
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
    made = {name: one for name, one in column_of(levels).items() if name not in names}
    needed = dict.fromkeys(made[name].column if name in made else name for name in features)
    missing = [name for name in needed if name not in names]
    if missing:
        raise DataError(f"feature(s) {', '.join(missing[:8])} missing of {len(features)} that the model was trained on")
    n_rows = len(rows) if not isinstance(rows, Mapping) else np.size(rows[next(iter(needed))])
    matrix = np.empty((n_rows, len(features)), dtype=np.float32)
    of_text: dict[str, Any] = {}
    for index, name in enumerate(features):
        try:
            if name in made and name not in of_text:
                of_text |= level_columns(_texts(_column(rows, made[name].column)), made[name])
            column = of_text[name] if name in made else _numbers(_column(rows, name))
            if column.shape != (n_rows,):
                raise ValueError(f"its shape is {column.shape}")
            matrix[:, index] = column
            if column.dtype.kind == "f" and np.isinf(matrix[:, index]).any():
                raise _infinite(name)
        except (TypeError, ValueError, KeyError, pa.ArrowInvalid) as error:
            raise DataError(f"feature '{name}' is not a column of {n_rows:,} numbers: {error}") from error
    return matrix


def _column(rows: Any, name: str) -> Any:
    """Return a column; one of Polars as Arrow has it."""
    column = rows[name]
    return column.to_arrow() if hasattr(column, "to_arrow") else column


def _texts(column: Any) -> pa.Array:
    """Return a column of texts as Arrow has it."""
    if isinstance(column, pa.ChunkedArray):
        return column.combine_chunks()
    return column if isinstance(column, pa.Array) else pa.array(column, from_pandas=True)


def _infinite(name: str) -> DataError:
    return DataError(f"infinite value, or one too large for float32, in feature '{name}'; replace it by null")


def _numbers(column: Any) -> Any:
    """Return a column as NumPy numbers; nulls become NaN, text and dates are refused even where they look like numbers."""
    if isinstance(column, pa.Array | pa.ChunkedArray):
        return numbers(column)
    if not hasattr(column, "dtype"):
        column = np.asarray(column)
    if column.dtype.kind not in "biuf":
        raise TypeError(f"its values are {column.dtype}")
    return column if isinstance(column, np.ndarray) else column.to_numpy(dtype=np.float64, na_value=np.nan)
