"""Rows as users hand them over, a table, a data frame, a mapping or an array, as the matrix that models see."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mi_duck.data.made import is_date, made_columns
from mi_duck.data.text_tables import source_of
from mi_duck.data.values import is_number, is_text, numbers, remedy
from mi_duck.errors import DataError
from mi_duck.metrics.ranking import Floats32
from mi_duck.run.made import Dates, Levels, Made, made_by_feature

BLOCK_BYTES = 28 << 20
"""Bytes of one matrix; above 32 MiB the C library maps new memory for every one."""


def feature_matrices(rows: Any, features: Sequence[str], made: Sequence[Made] = ()) -> Iterator[Floats32]:
    """Yield `feature_matrix` of the rows block by block, at least one, so that no matrix is as large as the table."""
    if not (hasattr(rows, "iloc") or hasattr(rows, "slice")):
        yield feature_matrix(rows, features, made)
        return
    if not hasattr(rows, "__len__"):  # a lazy frame of Polars
        raise DataError(f"rows of type {type(rows).__name__} are not there yet; collect them first")
    at_once = max(256, BLOCK_BYTES // (4 * len(features)))
    for begin in range(0, max(len(rows), 1), at_once):
        # pandas has iloc; Arrow and Polars have slice
        part = rows.iloc[begin : begin + at_once] if hasattr(rows, "iloc") else rows.slice(begin, at_once)
        yield feature_matrix(part, features, made)


def feature_matrix(rows: Any, features: Sequence[str], made: Sequence[Made] = ()) -> Floats32:
    """Return rows as a matrix in the order of features, shape (n_rows, n_features); missing values are NaN.

    Features that are made of texts and dates are made of these columns, unless they are there themselves.

    Raises
    ------
    DataError
        A feature is missing or not a number, an array has another width, a value is infinite or too large for float32.
    """
    # what is too large for float32 becomes infinite, which is refused
    with np.errstate(over="ignore"):
        return _of_array(rows, features) if isinstance(rows, np.ndarray) else _of_columns(rows, features, made)


def check_features(schema: pa.Schema, features: Sequence[str], file: object, made: Sequence[Made] = ()) -> None:
    """Refuse a file that lacks a feature of the model, or where one is not a number, a text column no text, or a date none."""
    there, by_feature = set(schema.names), made_by_feature(made)
    sources = {by_feature[name].column: by_feature[name] for name in features if name in by_feature}
    for name, one in sources.items():
        if name not in there or pa.types.is_null(kind := schema.field(name).type):
            continue
        if isinstance(one, Levels) and not is_text(kind):
            raise DataError(f"column '{name}' is {kind} in {source_of(file)}, not text as in training; cast it to text")
        if isinstance(one, Dates) and not is_date(kind):
            raise DataError(
                f"column '{name}' is {kind} in {source_of(file)}, not a date as in training; cast it to a date"
            )
    features = [*(name for name in features if name not in by_feature), *sources]
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


def _of_columns(rows: Any, features: Sequence[str], made: Sequence[Made]) -> Floats32:
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
    by_feature = {name: one for name, one in made_by_feature(made).items() if name not in names}
    needed = dict.fromkeys(by_feature[name].column if name in by_feature else name for name in features)
    missing = [name for name in needed if name not in names]
    if missing:
        raise DataError(f"feature(s) {', '.join(missing[:8])} missing of {len(features)} that the model was trained on")
    n_rows = len(rows) if not isinstance(rows, Mapping) else np.size(rows[next(iter(needed))])
    matrix = np.empty((n_rows, len(features)), dtype=np.float32)
    found: dict[str, Any] = {}
    for index, name in enumerate(features):
        try:
            if name in by_feature and name not in found:
                found |= made_columns(_as_arrow(_column(rows, by_feature[name].column)), by_feature[name])
            column = found[name] if name in by_feature else _numbers(_column(rows, name))
            if column.shape != (n_rows,):
                raise ValueError(f"its shape is {column.shape}")
            matrix[:, index] = column
            if column.dtype.kind == "f" and np.isinf(matrix[:, index]).any():
                raise _infinite(name)
        except (TypeError, ValueError, KeyError, OverflowError, pa.ArrowException) as error:
            raise DataError(f"feature '{name}' is not a column of {n_rows:,} numbers: {error}") from error
    return matrix


def _column(rows: Any, name: str) -> Any:
    """Return a column; one of Polars as Arrow has it."""
    column = rows[name]
    return column.to_arrow() if hasattr(column, "to_arrow") else column


def _as_arrow(column: Any) -> pa.Array:
    """Return a column of texts or dates as Arrow has it."""
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
    if column.dtype.kind == "O":  # such as truth values with None, or decimals, of pandas
        return numbers(pa.array(column, from_pandas=True))
    if column.dtype.kind not in "biuf":
        raise TypeError(f"its values are {column.dtype}")
    return column if isinstance(column, np.ndarray) else column.to_numpy(dtype=np.float64, na_value=np.nan)
