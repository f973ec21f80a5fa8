"""Rows come out in the order of their places, however little memory they may take."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mi_duck.data import ordering
from mi_duck.data.ordering import in_order
from mi_duck.errors import DataError

N_ROWS = 3000


def rows(places: np.ndarray) -> pa.RecordBatch:
    """Return rows whose values follow from their places, of several types, with nulls and NaN."""
    return pa.record_batch(
        {
            "number": pa.array(places % 251, pa.uint8()),
            "text": pa.array([None if place % 7 == 0 else f"{place}" * (place % 5) for place in places.tolist()]),
            "real": pa.array(np.where(places % 5 == 0, np.nan, places / 3)),
            "list": pa.array([[place] * (place % 3) for place in places.tolist()], pa.list_(pa.int32())),
            "flag": pa.array(places % 2 == 0),
            "place": pa.array(places, pa.int64()),
        }
    )


def batches(places: np.ndarray, size: int = 100) -> Iterator[pa.RecordBatch]:
    return (rows(places[begin : begin + size]) for begin in range(0, len(places), size))


@pytest.mark.parametrize("held_bytes", [1, 200, 3000, 40_000, 1 << 30])
@pytest.mark.parametrize("shuffled", [True, False])
def test_in_order__is_the_same_in_whatever_memory(
    held_bytes: int, shuffled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From one row in memory, with files in several levels, to all of them; no file is left."""
    monkeypatch.setattr(ordering, "MOST_PARTS", 8)
    n = 200 if held_bytes < 1000 else N_ROWS
    places = np.arange(10, 10 + n)
    given = np.random.default_rng(1).permutation(places) if shuffled else places
    out = list(in_order(batches(given), tmp_path / "rows", first=10, stop=10 + n, batch_rows=64, held_bytes=held_bytes))
    assert all(batch.num_rows <= 64 for batch in out)
    expected = rows(places).drop_columns(["place"])
    assert pa.Table.from_batches(out).combine_chunks().to_batches()[0].to_pylist().__repr__() == repr(
        expected.to_pylist()
    )
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("held_bytes", [3000, 1 << 30])
@pytest.mark.parametrize("change", [[0, 1, 1, 3], [0, 1, 3], [0, 1, 2, 3, 4], [-1, 0, 1, 2]])
def test_in_order__refuses_places_that_do_not_come_once(change: list[int], held_bytes: int, tmp_path: Path) -> None:
    places = np.array([*change, *range(4, N_ROWS)])
    with pytest.raises(DataError, match="a file of the dataset changed while it was read"):
        list(in_order(batches(places), tmp_path, first=0, stop=N_ROWS, batch_rows=64, held_bytes=held_bytes))
