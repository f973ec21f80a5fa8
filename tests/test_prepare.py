"""A prepared dataset has the same rows, sorted, in small types, with page checksums, and trains the same model."""

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import CONTEXT, call, partitioned, run_here, trained
from test_segments import segment_hashes, table, write

from mi_duck import load_unified_model
from mi_duck.data import prepare as prepare_module
from mi_duck.data.database import Database
from mi_duck.data.dataset import open_dataset
from mi_duck.data.parquet import verify_pages
from mi_duck.data.prepare import prepare, sample_read
from mi_duck.errors import DataError


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do the work of children here; a benchmark at toy size starts them."""
    monkeypatch.setattr("mi_duck.processes.run_child", run_here)


def sorted_rows(rows: pa.Table) -> list[str]:
    """Return the rows as texts, in which NaN and null differ, by their text."""
    return sorted(repr(row) for row in rows.to_pylist())


def read(folder: Path) -> pa.Table:
    return pq.read_table(folder / "master", partitioning=None)


def read_plain(folder: Path) -> pa.Table:
    return pq.read_table(folder, partitioning=None)


def doubtful() -> pa.Table:
    """Return `table` with further columns that look like counts and are not, or are counts and do not look so."""
    rows = table()
    n = len(rows)
    counts = np.arange(n) % 200
    further = {
        "wide_count": pa.array(counts, pa.int64()),
        "real_count": pa.array(counts, pa.float64()),
        "null_count": pa.array(counts, pa.float32(), mask=counts == 7),
        "nan_count": pa.array(np.where(counts == 7, np.nan, counts)),
        "minus_zero": pa.array(np.where(counts == 0, -0.0, counts)),
        "half": pa.array(np.where(counts == 9, 0.5, counts)),
        "too_large": pa.array(counts + 100, pa.int32()),
        "code": pa.array(np.array(["x", "y"])[counts % 2]).dictionary_encode(),
    }
    for name, values in further.items():
        rows = rows.append_column(name, values)
    return rows


def test_prepare__keeps_every_row_column_and_value(tmp_path: Path) -> None:
    """Genes and positions are in order, counts are bytes, whatever their type was; all else keeps its type."""
    given = doubtful().take(pa.array(np.random.default_rng(3).permutation(len(doubtful()))))
    source = open_dataset(str(write(tmp_path / "in", given, files=3, row_group_rows=100)))
    summary = prepare(source, tmp_path / "out", CONTEXT, genes_per_file=10)
    out = read(tmp_path / "out")
    narrowed = {"short", "wide_count", "real_count", "null_count"}
    assert summary.n_narrowed == len(narrowed)
    for field in given.schema:
        expected = pa.uint8() if field.name in narrowed else field.type
        assert out.schema.field(field.name).type == expected, field.name
    back = out.cast(given.schema)
    assert sorted_rows(back) == sorted_rows(given)
    keys = list(zip(out["gene_id"].to_pylist(), out["position"].to_pylist(), strict=True))
    assert keys == sorted(keys)
    again = open_dataset(str(tmp_path / "out"))
    assert (again.features, again.n_rows, again.labels) == (source.features, source.n_rows, source.labels)


def test_prepare__keeps_columns_of_any_type_that_sql_holds_exactly(tmp_path: Path) -> None:
    """Columns that are not features come back in their own type, with every null, NaN and last digit."""
    rows = table().take(pa.array(np.random.default_rng(1).permutation(len(table()))))
    n = len(rows)
    number = pa.array(np.arange(n), mask=np.arange(n) % 5 == 0)
    texts = [None if at % 7 == 0 else f"{at}" * (at % 5) for at in range(n)]
    further = {
        "nanoseconds": pa.array(np.arange(n) * 1_000_003 + 1).cast(pa.timestamp("ns")),
        "zoned": number.cast(pa.timestamp("ns", tz="Europe/Berlin")),
        "seconds": number.cast(pa.timestamp("s")).cast(pa.timestamp("ms")),
        "day": number.cast(pa.int32()).cast(pa.date32()),
        "time": number.cast(pa.time64("ns")),
        "duration": number.cast(pa.duration("ns")),
        "decimal": number.cast(pa.decimal128(38, 2)),
        "large_text": pa.array(texts, pa.large_string()),
        "coded_text": pa.array(texts).dictionary_encode(),
        "bytes": pa.array([None if text is None else text.encode() for text in texts]),
        "list": pa.array([None if at % 4 == 0 else [at, None][: at % 3] for at in range(n)], pa.list_(pa.int32())),
        "struct": pa.array([{"a": at, "b": None} for at in range(n)]),
        "truth": pa.array(np.arange(n) % 3 == 0, mask=np.arange(n) % 5 == 0),
        "all_null": pa.nulls(n, pa.int16()),
    }
    for name, values in further.items():
        rows = rows.append_column(name, values)
    write(tmp_path / "in", rows, files=2)
    unwanted = tmp_path / "unwanted.txt"
    unwanted.write_text("\n".join(further))
    source = open_dataset(str(tmp_path / "in"), exclude_features=unwanted)
    prepare(source, tmp_path / "out", CONTEXT)
    out = read(tmp_path / "out")
    before = read_plain(tmp_path / "in")
    for name in further:
        assert out.schema.field(name).type == before.schema.field(name).type, name
    assert sorted_rows(out.select(list(further))) == sorted_rows(before.select(list(further)))


def test_prepare__refuses_a_type_that_sql_would_round(tmp_path: Path) -> None:
    exact = pa.array([Decimal(1) / 7] * len(table()), pa.decimal256(60, 28))
    write(tmp_path / "in", table().append_column("exact", exact))
    (tmp_path / "unwanted.txt").write_text("exact")
    source = open_dataset(str(tmp_path / "in"), exclude_features=tmp_path / "unwanted.txt")
    with pytest.raises(DataError, match=r"column 'exact' is decimal256\(60, 28\), which SQL does not keep exactly"):
        prepare(source, tmp_path / "out", CONTEXT)
    assert not (tmp_path / "out").exists()


def test_prepare__sorts_more_rows_than_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """96 MB in a database of 64 MB: there are spilled rows while the first ones are written, and none afterwards."""
    monkeypatch.setattr(prepare_module, "SORT_BYTES", 64 << 20)
    monkeypatch.setattr(prepare_module, "SORT_BYTES_PER_COLUMN", 0)
    monkeypatch.setattr(prepare_module, "SORT_BYTES_PER_ROOT", 0)
    n = 400_000
    order = np.random.default_rng(0).permutation(n)
    columns = {
        "gene_id": pa.array(order % 90).cast(pa.string()),
        "position": pa.array(order),
        "splice_type": pa.array(np.array(["neither", "donor", "acceptor"])[order % 3]),
    }
    columns |= {f"x{number}": pa.array(order % 97 + number + 0.5) for number in range(30)}
    source = open_dataset(str(write(tmp_path / "in", pa.table(columns), row_group_rows=20_000)))
    spilled: set[Path] = set()

    def watch(stage: str, done: int, total: int) -> None:
        if stage == "writing rows":
            spilled.update(tmp_path.glob(".out.*.partial/.scratch/sql/*"))

    prepare(source, tmp_path / "out", replace(CONTEXT, report=watch))
    assert spilled
    assert sorted(path.name for path in tmp_path.rglob("*") if not path.is_dir()) == [
        "b-0.parquet",
        "part-00000.parquet",
        "prepare.json",
    ]
    out = read(tmp_path / "out")
    genes = (np.arange(n) % 90).astype(str)
    expected = np.lexsort((np.arange(n), genes))
    assert np.array_equal(out["position"].to_numpy(), expected)
    for number in (0, 29):
        assert np.array_equal(out[f"x{number}"].to_numpy(), expected % 97 + number + 0.5)


def test_stream__an_error_late_in_a_result_is_one_of_ours(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrow passes it on; the first batches have been read by then."""
    text = "select (case when range = 900000 then 300 else 1 end)::utinyint as small from range(1000000)"
    (tmp_path / "late.sql").write_text(text)
    monkeypatch.setattr("mi_duck.data.database.sql_folder", lambda: tmp_path)
    batches = db.stream("late", batch_rows=2048)
    assert len(next(batches)) == 2048
    with pytest.raises(DataError, match=r"^late \(\): .*Conversion Error"):
        list(batches)


def test_prepare__files_hold_whole_genes_and_the_gain_is_reported(tmp_path: Path) -> None:
    source = open_dataset(str(write(tmp_path / "in", table().take(pa.array(np.arange(900)[::-1])), row_group_rows=50)))
    summary = prepare(source, tmp_path / "out", CONTEXT, genes_per_file=7)
    files = sorted((tmp_path / "out" / "master").iterdir())
    genes = [set(pq.read_table(file, columns=["gene_id"])["gene_id"].to_pylist()) for file in files]
    assert summary.n_files == len(files) == -(-len(set.union(*genes)) // 7)
    assert sum(map(len, genes)) == len(set.union(*genes)) == summary.n_genes
    assert [len(of_file) for of_file in genes[:-1]] == [7] * (len(genes) - 1)
    # every gene is in one row group, as files are smaller than 8,192 rows
    assert summary.row_groups_per_gene_after == 1 < summary.row_groups_per_gene_before
    assert summary.row_groups_after == len(files)
    record = json.loads((tmp_path / "out" / "prepare.json").read_text())
    assert record["dataset_fingerprint"] == source.fingerprint
    assert record["counts"]["n_rows"] == 900
    assert not list((tmp_path / "out").glob(".*"))


def test_prepare__does_not_depend_on_how_rows_lay(tmp_path: Path) -> None:
    """Files, row groups and the order of rows change no byte where positions of a gene are unique."""
    rows = table()
    rows = rows.set_column(1, "position", pa.array(np.arange(len(rows)), pa.int32()))
    mixed = rows.take(pa.array(np.random.default_rng(0).permutation(len(rows))))
    written = []
    for name, given, options in (("a", rows, {}), ("b", mixed, {"files": 5, "row_group_rows": 37})):
        prepare(open_dataset(str(write(tmp_path / name, given, **options))), tmp_path / f"{name}_out", CONTEXT)
        written.append([file.read_bytes() for file in sorted((tmp_path / f"{name}_out" / "master").iterdir())])
    assert written[0] == written[1]


def test_prepare__names_of_folders_become_columns(tmp_path: Path) -> None:
    """A fold group that only folders name is a column afterwards; the dataset opens as before."""
    rows = table()
    half = len(rows) // 2
    genes = rows["gene_id"].to_pylist()
    while genes[half] == genes[half - 1]:
        half += 1
    write(tmp_path / "in" / "chrom=1%202", rows.slice(0, half))
    write(tmp_path / "in" / "chrom=X", rows.slice(half))
    source = open_dataset(str(tmp_path / "in"), fold_by="chrom")
    prepare(source, tmp_path / "out", CONTEXT)
    out = read(tmp_path / "out")
    assert set(out["chrom"].to_pylist()) == {"1 2", "X"}
    assert out["chrom"].to_pylist().count("1 2") == half
    assert open_dataset(str(tmp_path / "out"), fold_by="chrom").features == source.features


def test_prepare__a_changed_byte_is_noticed_afterwards(tmp_path: Path) -> None:
    prepare(open_dataset(str(write(tmp_path / "in", table()))), tmp_path / "out", CONTEXT)
    (file,) = (tmp_path / "out" / "master").iterdir()
    verify_pages([file], ["real"])
    column = pq.read_metadata(file).row_group(0).column(table().column_names.index("real"))
    data = bytearray(file.read_bytes())
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 4
    file.write_bytes(data)
    with pytest.raises(DataError, match="is damaged"):
        verify_pages([file], ["real"])


def mixed(folder: Path, target: Path, kind: pa.DataType) -> Path:
    """Return the dataset of a folder with its rows mixed over two files and its counts in a wide type."""
    rows = pq.read_table(folder / "master")
    fields = [field.with_type(kind) if "mer_" in field.name else field for field in rows.schema]
    rows = rows.cast(pa.schema(fields)).take(pa.array(np.random.default_rng(5).permutation(len(rows))))
    return write(target, rows, files=2)


def test_prepare__gives_the_same_segments(small_dataset: Path, tmp_path: Path) -> None:
    """So all that is trained is the same: what a run reads of the prepared dataset equals what it reads of the other."""
    source = mixed(small_dataset, tmp_path / "in", pa.int64())
    prepare(open_dataset(str(source)), tmp_path / "out", CONTEXT)
    hashes = [segment_hashes(partitioned(tmp_path / name, tmp_path / f"run_{name}")) for name in ("in", "out")]
    assert hashes[0] == hashes[1]


def test_prepare__trains_the_same_boosters_where_real_numbers_became_bytes(small_dataset: Path, tmp_path: Path) -> None:
    source = mixed(small_dataset, tmp_path / "in", pa.float64())
    counts = [name for name in open_dataset(str(source)).features if "mer_" in name]
    assert prepare(open_dataset(str(source)), tmp_path / "out", CONTEXT).n_narrowed == len(counts) > 5
    raw = []
    for name in ("in", "out"):
        run = trained(tmp_path / name, tmp_path / f"run_{name}", "--strategy", "single", "--n-estimators", "5")
        model = load_unified_model(run / "multi_instance_training" / "instance_00")
        raw.append([bytes(booster.save_raw("ubj")) for booster in model.get_base_models()])
    assert raw[0] == raw[1]


def test_prepare__refuses_and_leaves_nothing(tmp_path: Path) -> None:
    """A folder that is not empty, one inside the dataset, a row without a gene, a damaged page."""
    source = write(tmp_path / "in", table())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for out, words in ((tmp_path / "full", "is not empty"), (source / "out", "would become part of the dataset")):
        result = call("prepare", source, "--out", out)
        assert result.exit_code == 65
        assert words in result.output
    nameless = table().set_column(0, "gene_id", pa.array([None, *table()["gene_id"].to_pylist()[1:]], pa.string()))
    damaged = write(tmp_path / "damaged", table(), write_page_checksum=True, compression="zstd")
    column = pq.read_metadata(damaged / "b-0.parquet").row_group(0).column(table().column_names.index("real"))
    data = bytearray((damaged / "b-0.parquet").read_bytes())
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 4
    (damaged / "b-0.parquet").write_bytes(data)
    before = sorted(tmp_path.iterdir())
    for source, words in ((write(tmp_path / "nameless", nameless), "without a gene"), (damaged, "is damaged")):
        result = call("prepare", source, "--out", tmp_path / "out")
        assert result.exit_code == 65
        assert words in result.output
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "nameless"])


def test_sample_read__is_the_expected_share_of_rows() -> None:
    rows, genes = np.array([10, 30]), np.array([5, 5])
    assert sample_read(rows, genes, 10, sample=1) == pytest.approx(0.5)
    # of 2 genes out of 10 both miss a half of 5 with probability (5 / 10) (4 / 9)
    assert sample_read(rows, genes, 10, sample=2) == pytest.approx(1 - 2 / 9)
    assert sample_read(rows, genes, 10, sample=6) == 1
    assert sample_read(rows, genes, 10, sample=10) == 1
