"""Row groups of Parquet files: read ahead they are the same rows, and of several damaged files the first is named."""

import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from test_segments import table, write

from mi_duck.data.parquet import row_group_batches, verify_pages
from mi_duck.errors import DataError


def damage(file: Path, group: int) -> None:
    """Change a byte of the column real in one row group."""
    column = pq.read_metadata(file).row_group(group).column(table().column_names.index("real"))
    data = bytearray(file.read_bytes())
    begin = column.dictionary_page_offset or column.data_page_offset
    data[begin + column.total_compressed_size // 2] ^= 4
    file.write_bytes(data)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Three files of row groups of 100 rows."""
    return sorted(
        write(tmp_path / "data", table(), files=3, row_group_rows=100, write_page_checksum=True).glob("*.parquet")
    )


@pytest.mark.parametrize("groups", [None, [2, 0], []])
@pytest.mark.parametrize("batch_rows", [30, 1000])
def test_row_group_batches__read_ahead_are_the_same(
    files: list[Path], groups: list[int] | None, batch_rows: int
) -> None:
    names = ["real", "gene_id", "absent"]
    one, other = (
        list(row_group_batches(files[0], names, groups, batch_rows=batch_rows, is_ahead=is_ahead))
        for is_ahead in (False, True)
    )
    assert bool(one) == (groups != [])
    assert [group for group, _ in one] == [group for group, _ in other]
    assert all(batch.equals(another) for (_, batch), (_, another) in zip(one, other, strict=True))


def test_row_group_batches__read_ahead_leave_no_thread_behind(files: list[Path]) -> None:
    before = threading.active_count()
    batches = row_group_batches(files[0], ["real"], is_ahead=True)
    next(batches)
    batches.close()
    assert threading.active_count() == before


def test_row_group_batches__read_ahead_come_before_what_is_damaged(files: list[Path]) -> None:
    damage(files[0], 2)
    batches = row_group_batches(files[0], ["real"], is_ahead=True)
    assert [next(batches)[0] for _ in range(2)] == [0, 1]
    with pytest.raises(DataError, match="damaged in row group 2"):
        next(batches)


@pytest.mark.parametrize("threads", [1, 4])
def test_verify_pages__names_the_first_damaged_file(files: list[Path], threads: int) -> None:
    verify_pages(files, ["real", "gene_id"], threads=threads)
    verify_pages([], ["real"], threads=threads)
    damage(files[2], 0)
    damage(files[1], 2)
    with pytest.raises(DataError, match=files[1].name):
        verify_pages(files, ["real"], threads=threads)
