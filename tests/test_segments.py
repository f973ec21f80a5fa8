"""Every selected row lands in its place, unchanged, whatever the files look like; what changed or broke is refused."""

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import partitioned, planned, quiet

from mi_duck.atomic_files import sealed, unsealed
from mi_duck.data.parquet import row_group_batches
from mi_duck.errors import CheckpointError, DataError
from mi_duck.rows.partition import partition_here
from mi_duck.rows.segments import KEYS, USED, SegmentReader, read_density, record_type, segments_of
from mi_duck.run.folder import RunFolder

N_GENES = 24


def table(seed: int = 0) -> pa.Table:
    """Return rows of every numeric kind; every fifth position of a gene stands there twice."""
    rng = np.random.default_rng(seed)
    genes = np.repeat([f"g{number}" for number in range(N_GENES)], rng.integers(20, 60, N_GENES))
    n = len(genes)
    position = np.concatenate([np.arange((genes == gene).sum()) * 4 // 5 for gene in dict.fromkeys(genes)])
    missing = rng.random(n) < 0.2
    return pa.table(
        {
            "gene_id": genes,
            "position": pa.array(position, pa.int32()),
            "splice_type": np.array(["neither", "donor", "acceptor"])[rng.integers(0, 3, n)],
            "counts": pa.array(rng.integers(0, 256, n), pa.uint8()),
            "real": pa.array(rng.normal(size=n), pa.float64()),
            "short": pa.array(rng.integers(0, 256, n), pa.int16()),
            "large": pa.array(rng.integers(0, 1 << 24, n), pa.int64()),
            "signed": pa.array(rng.integers(-5, 6, n), pa.int8()),
            "flag": pa.array(rng.random(n) < 0.5),
            "holes": pa.array(rng.integers(0, 9, n), pa.uint8(), mask=missing),
            "single": pa.array(rng.normal(size=n), pa.float32(), mask=missing),
            "nans": pa.array(np.where(missing, np.nan, 1.0), pa.float32()),
            "tiny": pa.array(np.where(missing, -0.0, 1e-42), pa.float32()),
        }
    )


FEATURES = tuple(table().column_names[3:])
SMALL = ("counts", "short", "flag")


def write(folder: Path, rows: pa.Table, *, files: int = 1, row_group_rows: int = 10_000, **options: Any) -> Path:
    """Write rows in their order to files ``b-<number>`` of about equal size."""
    folder.mkdir(parents=True)
    for number, part in enumerate(np.array_split(np.arange(len(rows)), files)):
        pq.write_table(
            rows.take(pa.array(part)), folder / f"b-{number}.parquet", row_group_size=row_group_rows, **options
        )
    return folder


def shuffled(rows: pa.Table, seed: int) -> pa.Table:
    return rows.take(pa.array(np.random.default_rng(seed).permutation(len(rows))))


def segment_hashes(run: Path) -> dict[str, str]:
    root = RunFolder(run).segments
    return {
        str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(root.rglob("*.bin"))
    }


def read_rows(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the keys and the feature matrix of the whole run."""
    folder = RunFolder(run)
    plan = folder.read_plan()
    reader = SegmentReader(plan, plan.cut.segments, folder.segments)
    return reader.keys(), np.concatenate([matrix.copy() for matrix in reader.matrices(7)])


def partition_again(run: Path) -> None:
    partition_here(run=str(run), threads=1, report=quiet)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a partitioned run over sorted rows in one file."""
    root = tmp_path_factory.mktemp("segments")
    return partitioned(write(root / "data", table()), root / "run", "--genes-per-instance", "9")


@pytest.fixture
def broken(plain: Path, tmp_path: Path) -> Path:
    """Return a run like it, for tests that break its files."""
    return partitioned(write(tmp_path / "data", table(), files=2, write_page_checksum=True), tmp_path / "run")


def test_write_segments__rows_stand_in_the_total_order(plain: Path) -> None:
    keys, _ = read_rows(plain)
    assert len(keys) == len(table())
    pairs = list(zip(keys["gene_rank"].tolist(), keys["position"].tolist(), strict=True))
    assert pairs == sorted(pairs)
    assert len(set(pairs)) < len(pairs)  # there are doubled positions


def test_write_segments__features_and_labels_come_back_equal_by_name(plain: Path) -> None:
    """Every row of the Parquet file is found once, with float32 values and NaN for null."""
    plan = RunFolder(plain).read_plan()
    assert plan.data.features == FEATURES
    assert set(plan.data.small_features) == set(SMALL)
    keys, matrix = read_rows(plain)
    genes = pq.read_table(RunFolder(plain).genes)
    name_of_rank = dict(zip(genes["gene_rank"].to_pylist(), genes["gene_id"].to_pylist(), strict=True))
    rows = table()
    expected = np.column_stack(
        [rows[name].to_numpy().astype(np.float32) if name != "flag" else rows[name].to_numpy() for name in FEATURES]
    ).astype(np.float32)
    label = [plan.data.classes.index(text) for text in rows["splice_type"].to_pylist()]
    wanted = zip(rows["gene_id"].to_pylist(), rows["position"].to_pylist(), label, expected, strict=True)
    found = zip(
        [name_of_rank[rank] for rank in keys["gene_rank"].tolist()],
        keys["position"].tolist(),
        keys["label"].tolist(),
        matrix,
        strict=True,
    )
    canonical = [
        sorted(
            (gene, position, code, np.where(np.isnan(values), np.float32(7e7), values).tobytes())
            for gene, position, code, values in side
        )
        for side in (wanted, found)
    ]
    assert canonical[0] == canonical[1]


def test_write_segments__byte_columns_take_one_byte_and_the_others_four(plain: Path) -> None:
    folder = RunFolder(plain)
    plan = folder.read_plan()
    assert record_type(plan).itemsize == len(SMALL) + 4 * (len(FEATURES) - len(SMALL)) == plan.data.record_bytes
    for segment in plan.cut.segments:
        where = folder.segments / segment.name
        assert (where / "features.bin").stat().st_size == segment.n_rows * plan.data.record_bytes
        assert (where / "keys.bin").stat().st_size == segment.n_rows * KEYS.itemsize


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("batch_rows", [1, 7, 10_000])
def test_matrices__of_wanted_rows_are_those_rows_in_their_order(plain: Path, share: float, batch_rows: int) -> None:
    _, matrix = read_rows(plain)
    folder = RunFolder(plain)
    plan = folder.read_plan()
    reader = SegmentReader(plan, plan.cut.segments, folder.segments)
    wanted = np.random.default_rng(0).random(reader.n_rows) < share
    batches = [batch.copy() for batch in reader.matrices(batch_rows, wanted)]
    assert all(0 < len(batch) <= batch_rows for batch in batches)
    assert sum(map(len, batches)) == wanted.sum()
    if batches:
        assert np.concatenate(batches).tobytes() == matrix[wanted].tobytes()
    # without sampled negatives every row is used
    assert set(reader.keys()["use"]) == {USED}


def test_read_filling__counts_zeros_of_byte_columns_and_missing_values_of_the_others(plain: Path) -> None:
    _, matrix = read_rows(plain)
    folder = RunFolder(plain)
    plan = folder.read_plan()
    found = read_density(plan, plan.cut.segments, folder.segments)
    assert found.n_rows == len(matrix)
    assert found.zeros == {name: int((matrix[:, FEATURES.index(name)] == 0).sum()) for name in SMALL}
    assert found.missing == {
        name: int(np.isnan(matrix[:, FEATURES.index(name)]).sum()) for name in FEATURES if name not in SMALL
    }
    parts = [read_density(plan, [segment], folder.segments) for segment in plan.cut.segments]
    assert sum(part.missing["holes"] for part in parts) == found.missing["holes"] > 0
    assert sum(part.zeros["counts"] for part in parts) == found.zeros["counts"] > 0


@pytest.mark.parametrize("seed", [1, 2])
def test_write_segments__shuffled_files_give_the_same_bytes(plain: Path, tmp_path: Path, seed: int) -> None:
    """Rows of a gene spread over files and row groups, the doubled positions in any order."""
    data = write(tmp_path / "data", shuffled(table(), seed), files=3, row_group_rows=[17, 400][seed - 1])
    run = partitioned(data, tmp_path / "run", "--genes-per-instance", "9")
    assert segment_hashes(run) == segment_hashes(plain)


def test_write_segments__chunks_and_batches_do_not_matter(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of 13 rows, and sorting in chunks smaller than a gene."""
    monkeypatch.setattr("mi_duck.rows.partition.BATCH_ROWS", 13)
    monkeypatch.setattr("mi_duck.rows.partition.SORT_BYTES", 500)
    data = write(tmp_path / "data", shuffled(table(), 3), files=2, row_group_rows=50)
    run = partitioned(data, tmp_path / "run", "--genes-per-instance", "9")
    assert segment_hashes(run) == segment_hashes(plain)


@pytest.mark.parametrize("kept", [SMALL, ("real", "single")])
def test_write_segments__works_with_byte_columns_alone_or_with_none(tmp_path: Path, kept: tuple[str, ...]) -> None:
    rows = table().select(["gene_id", "position", "splice_type", *kept])
    run = partitioned(write(tmp_path / "data", rows), tmp_path / "run")
    _, matrix = read_rows(run)
    for column, name in enumerate(kept):
        assert np.nansum(matrix[:, column]) == pytest.approx(
            np.nansum(rows[name].to_numpy().astype(np.float32)), rel=1e-4
        )


def test_write_segments__a_boolean_with_nulls_becomes_nan(tmp_path: Path) -> None:
    rows = table()
    flags = [None if number % 3 == 0 else number % 3 == 1 for number in range(len(rows))]
    rows = rows.set_column(rows.column_names.index("flag"), "flag", pa.array(flags))
    run = partitioned(write(tmp_path / "data", rows), tmp_path / "run")
    _, matrix = read_rows(run)
    column = matrix[:, FEATURES.index("flag")]
    assert (np.isnan(column).sum(), (column == 1).sum(), (column == 0).sum()) == tuple(
        flags.count(value) for value in (None, True, False)
    )


def test_write_segments__only_missing_segments_are_written(tmp_path: Path) -> None:
    run = partitioned(write(tmp_path / "data", table()), tmp_path / "run", "--genes-per-instance", "9")
    before = segment_hashes(run)
    folder = RunFolder(run)
    names = [segment.name for segment in folder.read_plan().cut.segments]
    kept = (folder.segments / names[0] / "features.bin").stat().st_mtime_ns
    (folder.segments / names[1] / "segment.json").unlink()
    (folder.segments / names[1] / "features.bin").write_bytes(b"half")
    partition_again(run)
    assert segment_hashes(run) == before
    assert (folder.segments / names[0] / "features.bin").stat().st_mtime_ns == kept


def test_write_segments__every_row_is_decoded_once_however_many_instances_share_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []

    def counted(*arguments: Any, **options: Any) -> Iterator[Any]:
        for found in row_group_batches(*arguments, **options):
            decoded.append(found[1].num_rows)
            yield found

    monkeypatch.setattr("mi_duck.rows.partition.row_group_batches", counted)
    data = write(tmp_path / "data", shuffled(table(), 5), files=3, row_group_rows=100)
    run = planned(data, tmp_path / "run", "--genes-per-instance", "9", "--instance-overlap", "0.4")
    partition_again(run)
    assert sum(decoded) == len(table())
    assert sum(instance.n_rows for instance in RunFolder(run).read_plan().cut.instances) > len(table())


def test_segments_of__an_instance_reads_its_own_ranks_alone(plain: Path) -> None:
    folder = RunFolder(plain)
    plan = folder.read_plan()
    for instance in plan.cut.instances:
        reader = SegmentReader(plan, segments_of(plan, instance), folder.segments)
        ranks = np.unique(reader.keys()["gene_rank"])
        assert ranks.tolist() == list(range(instance.first_rank, instance.stop_rank))
        assert reader.n_rows == instance.n_rows


@pytest.mark.parametrize(("value", "kind"), [(np.inf, pa.float32()), (-np.inf, pa.float64()), (1e39, pa.float64())])
def test_write_segments__infinite_or_too_large_values_name_the_column(
    tmp_path: Path, value: float, kind: pa.DataType
) -> None:
    rows = table()
    values = np.zeros(len(rows))
    values[len(rows) // 2] = value
    rows = rows.append_column("bad one", pa.array(values, kind))
    planned(write(tmp_path / "data", rows, write_statistics=False), tmp_path / "run")
    with pytest.raises(DataError, match=r"infinite value, or one too large for float32, in column 'bad one' of .*b-0"):
        partition_again(tmp_path / "run")


@pytest.mark.parametrize("change", ["row appended", "values rewritten", "file deleted", "file added", "gene renamed"])
def test_write_segments__files_that_changed_since_the_plan_are_refused(tmp_path: Path, change: str) -> None:
    rows = table()
    data = write(tmp_path / "data", rows, files=2)
    planned(data, tmp_path / "run")
    second = data / "b-1.parquet"
    old = pq.read_table(second)
    if change == "row appended":
        pq.write_table(pa.concat_tables([old, old.slice(0, 1)]), second)
    elif change == "values rewritten":
        pq.write_table(old.set_column(4, "real", pa.array(np.zeros(len(old)))), second)
    elif change == "file deleted":
        second.unlink()
    elif change == "file added":
        pq.write_table(old.slice(0, 5), data / "b-2.parquet")
    else:
        pq.write_table(old.set_column(0, "gene_id", pa.array(["g1"] * len(old))), second)
    with pytest.raises(DataError, match="changed"):
        partition_again(tmp_path / "run")


def test_write_segments__any_flipped_bit_in_a_checksummed_page_is_refused(tmp_path: Path) -> None:
    """25 flips in the data pages: an error of ours, or the same segments where the byte is of no page."""
    data = write(tmp_path / "data", table(), files=1, write_page_checksum=True)
    run = partitioned(data, tmp_path / "run")
    before = segment_hashes(run)
    folder = RunFolder(run)
    whole = (data / "b-0.parquet").read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    draw = random.Random(0)
    outcomes = {"refused": 0, "the same": 0}
    for _ in range(25):
        damaged = bytearray(whole)
        damaged[draw.randrange(4, footer)] ^= 1 << draw.randrange(8)
        (data / "b-0.parquet").write_bytes(damaged)
        for file in folder.segments.rglob("segment.json"):
            file.unlink()
        try:
            partition_again(run)
        except DataError:
            outcomes["refused"] += 1
        else:
            assert segment_hashes(run) == before
            outcomes["the same"] += 1
    assert outcomes["refused"] >= 20


def test_segment_reader__a_flipped_bit_or_a_cut_in_a_segment_is_refused(broken: Path) -> None:
    folder = RunFolder(broken)
    plan = folder.read_plan()
    manifest = folder.segments / plan.cut.segments[0].name / "segment.json"
    text = manifest.read_bytes()
    for name in ("features.bin", "keys.bin"):
        file = folder.segments / plan.cut.segments[0].name / name
        whole = file.read_bytes()
        for damaged in (whole[:-1], whole[:100] + bytes([whole[100] ^ 4]) + whole[101:], whole + b"x"):
            file.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=f"{name} is damaged; the same command writes it again"):
                SegmentReader(plan, plan.cut.segments, folder.segments)
            assert not manifest.exists()  # so that it does
            manifest.write_bytes(text)
        file.write_bytes(whole)
    SegmentReader(plan, plan.cut.segments, folder.segments)


def test_segment_reader__an_unfinished_or_foreign_segment_is_refused(broken: Path) -> None:
    folder = RunFolder(broken)
    plan = folder.read_plan()
    manifest = folder.segments / plan.cut.segments[0].name / "segment.json"
    text = manifest.read_text()
    for damaged, words in (
        (json.dumps(sealed(unsealed(json.loads(text)) | {"genes_sha256": "0"})), "belongs to another plan"),
        (text.replace(plan.data.fingerprint, "0" * 64), "is damaged"),
        (text[: len(text) // 2], "is damaged"),
        (None, "is not a finished segment"),
    ):
        if damaged is None:
            manifest.unlink(missing_ok=True)
        else:
            manifest.write_text(damaged)
        with pytest.raises(CheckpointError, match=words):
            SegmentReader(plan, plan.cut.segments, folder.segments)
    assert CheckpointError.exit_code == DataError.exit_code == 65
