"""Which types of columns are texts and which numbers, and their values in one form whatever the type.

Texts are string, large_string, string_view, and dictionaries of these; numbers are bool, integers, floats of any width and
decimals. A gene, a label or a fold group is known by a text: its own, or that of its number without a fraction, so that 1,
1.0 and true are "1". `Database.open_source` makes the same texts in SQL.
"""

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mi_duck.errors import DataError

VIEWS = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}


def value_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values of a column, which for a dictionary is that of its entries."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds texts."""
    values = value_type(kind)
    return values in (pa.string(), pa.large_string(), pa.string_view())


def is_day(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds days, or days with a time."""
    return bool(pa.types.is_date(kind) or pa.types.is_timestamp(kind))


def is_number(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds numbers, true and false among them."""
    return pa.types.is_boolean(value_type(kind)) or pa.types.is_integer(value_type(kind)) or has_fractions(kind)


def has_fractions(kind: pa.DataType) -> bool:
    """Return whether a column of this type may hold numbers that are not whole."""
    return bool(pa.types.is_floating(value_type(kind)) or pa.types.is_decimal(value_type(kind)))


def remedy(kind: pa.DataType) -> str:
    """Return what would make numbers of a column whose type is neither text nor number."""
    values = value_type(kind)
    if is_text(values):
        return "encode it as numbers, such as one column of 0 and 1 per level"
    if pa.types.is_temporal(values):
        return "turn it into a number, such as days since an event"
    if pa.types.is_nested(values):
        return "write each of its elements as a column of its own"
    if pa.types.is_null(values):
        return "it has no value and no type"
    return "cast it to a number"


def plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the same rows without string_view and binary_view, which Arrow cannot take rows of, nor dictionaries of them."""
    if not any(value_type(kind) in VIEWS for kind in batch.schema.types):
        return batch
    columns = [_without_views(column) for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, schema=plain_schema(batch.schema))


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema of the batches that `plain` makes."""
    return pa.schema([field.with_type(VIEWS.get(value_type(field.type), field.type)) for field in schema])


def _without_views(column: pa.Array) -> pa.Array:
    usual = VIEWS.get(value_type(column.type))
    if usual is None:
        return column
    if pa.types.is_dictionary(column.type):
        return column.dictionary.cast(usual).take(column.indices)
    return column.cast(usual)


def numbers(column: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    """Return a column of numbers as NumPy has them; decimals become float64, null becomes NaN.

    Raises
    ------
    TypeError
        The column holds no numbers.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    elif pa.types.is_null(kind) or (pa.types.is_boolean(kind) and column.null_count):
        column = column.cast(pa.float32())
    elif not is_number(kind):
        raise TypeError(f"its values are {kind}; {remedy(kind)}")
    values: NDArray[Any] = (
        column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(zero_copy_only=False)
    )
    return values


def text_of(value: Any) -> str | None:
    """Return the text by which a gene, a label or a fold group is known; None for null and NaN.

    Examples
    --------
    >>> [text_of(value) for value in ("donor", 2, 2.0, True, 2.5, float("nan"))]
    ['donor', '2', '2', '1', '2.5', None]
    """
    if value is None or value != value:
        return None
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    if isinstance(value, float | np.floating | Decimal):
        return str(int(value)) if is_whole(value) else str(value)
    return str(value)


def is_whole(value: Any) -> bool:
    """Return whether a number is finite and has no fraction; null and NaN, which are no values, count as whole."""
    return value is None or value != value or (abs(value) != float("inf") and value == int(value))


def text_counts(column: pa.Array) -> Counter[str | None]:
    """Return how often each text of `text_of` stands in a column."""
    found: Counter[str | None] = Counter()
    for one in _countable(column).value_counts().to_pylist():
        found[text_of(one["values"])] += one["counts"]
    return found


def coded(column: pa.Array) -> tuple[list[str | None], pa.Array]:
    """Return the texts of `text_of` that stand in a column, and the index of each row's, null where the row has no value."""
    column = _countable(column)
    entries = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    return [text_of(value) for value in entries.dictionary.to_pylist()], entries.indices


def _countable(column: pa.Array) -> pa.Array:
    """Return a column in a type whose values Arrow can count: no half floats, no views, no narrow or very wide decimals."""
    column = _without_views(column)
    if pa.types.is_float16(column.type):
        return column.cast(pa.float32())
    if pa.types.is_decimal(column.type):
        kind = column.type
        return column.cast(pa.decimal128(38, kind.scale) if kind.precision <= 38 else pa.float64())
    return column


def label_codes(column: pa.Array, labels: Sequence[str], where: str) -> NDArray[np.int64]:
    """Return for each row the index of its label.

    Parameters
    ----------
    labels
        Texts as `text_of` gives them.
    where
        Column and file, for the message.

    Raises
    ------
    DataError
        A label is unknown, which planning refuses, so the file changed.
    """
    texts, indices = coded(column)
    index: dict[str | None, int] = {text: number for number, text in enumerate(labels)}
    of_entry = np.array([*(index.get(text, -1) for text in texts), -1], dtype=np.int64)
    codes: NDArray[np.int64] = of_entry[indices.cast(pa.int64()).fill_null(len(texts)).to_numpy(zero_copy_only=False)]
    if (codes < 0).any():
        unknown = column[int(np.argmax(codes < 0))].as_py()
        raise DataError(f"unknown label {unknown!r} in {where}; the file changed")
    return codes
