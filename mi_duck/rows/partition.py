"""One pass over the Parquet files writes every selected row to its place in a segment.

The gene index knows each gene's rows beforehand, so a row is written to its gene's place at once, wherever its file
holds it; a second look at each segment sorts the rows inside their genes and hashes the files.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mi_duck.atomic_files import free_bytes, sealed, storage_errors, write_json
from mi_duck.data.database import SQL_BYTES, Database
from mi_duck.data.dataset import Dataset, open_planned
from mi_duck.data.parquet import UNREADABLE, DataFile, damaged, data_file, open_parquet, row_groups
from mi_duck.errors import DataError, StorageError
from mi_duck.processes import Context, Report, in_child
from mi_duck.rows.segments import KEYS, USED, read_at, record_type
from mi_duck.run.encoding import SENTINEL
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import genes_file
from mi_duck.run.locks import run_lock
from mi_duck.run.plan import Plan, Segment

BATCH_ROWS = 4096
SORT_BYTES = 32 << 20
HASHED_ROWS = 1024  # at once: 8 bytes a feature


def write_segments(
    db: Database,
    plan: Plan,
    folder: Path,
    *,
    dataset: Dataset,
    report: Report,
    wanted: Sequence[Segment] | None = None,
) -> None:
    """Write the segments that are not there yet.

    Parameters
    ----------
    db
        Database with the tables ``source_rows``, ``gene_index`` and ``row_groups``.
    plan
        The plan; its files are read once, and of them only the row groups that hold a wanted gene.
    folder
        Where segments lie.
    dataset
        The plan's; its files must stay as they were when it was opened until all rows are read.
    report
        Told (stage, rows done, rows of all).
    wanted
        Segments to write, by default all.

    Raises
    ------
    DataError
        A value is infinite or too large for float32, a file changed since the plan was made.
    StorageError
        The disk is too small or fails; names the bytes needed.
    """
    missing = [
        segment
        for segment in (wanted or plan.cut.all_segments)
        if not (folder / segment.name / "segment.json").is_file()
    ]
    if not missing:
        return
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        needed = sum(segment.n_rows for segment in missing) * (plan.data.record_bytes + KEYS.itemsize)
        free = free_bytes(folder)
        if needed > free:
            raise StorageError(
                f"the segments need {needed / 1e9:.2f} GB in {folder}, where {free / 1e9:.2f} GB are free; free the rest"
            )
        _place_rows(db, plan, folder, missing, report)
        dataset.check_unchanged()
        done = 0
        for segment in missing:
            report("sorting rows", done, sum(segment.n_rows for segment in missing))
            _finish(plan, segment, folder / segment.name)
            done += segment.n_rows


def _place_rows(db: Database, plan: Plan, folder: Path, missing: Sequence[Segment], report: Report) -> None:
    """Read each needed row group once and write its rows to their genes' places."""
    genes = db.read("gene_index").sort_by("gene_rank")
    first_row = genes["first_row"].to_numpy()
    gene_rows = genes["n_rows"].to_numpy()
    filled = np.zeros(len(genes), dtype=np.int64)
    segment_of_gene = np.full(len(genes), -1, dtype=np.int64)
    handles = []
    for number, segment in enumerate(missing):
        segment_of_gene[segment.first_rank : segment.stop_rank] = number
        handles.append(_open(plan, segment, folder / segment.name))
    total = sum(segment.n_rows for segment in missing)
    done = 0
    if plan.data.easy_below is not None:
        db.table(
            "sampling",
            easy_below=plan.data.easy_below,
            share=plan.settings.easy_share,
            seed=plan.settings.seed,
            background=plan.data.labels[0],
        )
    try:
        runs = db.arrow("row_index")
        keep = segment_of_gene[runs["gene_rank"].to_numpy()] >= 0
        runs = runs.filter(pa.array(keep))
        columns = [runs[name].to_pylist() for name in ("file", "row_group", "first_row", "n_rows", "gene_rank")]
        for file, of_file in groupby(zip(*columns, strict=True), key=lambda run: run[0]):
            uses = None if plan.data.easy_below is None else db.arrow("row_uses", file=file)["use"].to_numpy()
            with _open_parquet(data_file(file)) as parquet:
                for row_group, of_group in groupby(of_file, key=lambda run: run[1]):
                    pieces = [(first, n_rows, rank) for _, _, first, n_rows, rank in of_group]
                    group_begin = sum(parquet.metadata.row_group(other).num_rows for other in range(row_group))
                    for first, records, keys in _batches(parquet, file, row_group, plan):
                        stop = first + len(records)
                        if uses is not None:
                            keys["use"] = uses[group_begin + first : group_begin + stop]
                        # runs are sorted by first row, so those of this batch are at the front
                        while pieces and pieces[0][0] < stop:
                            begin, n_rows, rank = pieces.pop(0)
                            n = min(n_rows, stop - begin)
                            if n < n_rows:
                                pieces.insert(0, (begin + n, n_rows - n, rank))
                            if filled[rank] + n > gene_rows[rank]:
                                raise DataError(f"{file} changed since the plan was made; plan anew")
                            number = segment_of_gene[rank]
                            place = int(first_row[rank] + filled[rank] - missing[number].first_row)
                            part = slice(begin - first, begin - first + n)
                            keys["gene_rank"][part] = rank
                            _write_at(handles[number][0], records[part], place)
                            _write_at(handles[number][1], keys[part], place)
                            filled[rank] += n
                            done += n
                        report("partitioning rows", done, total)
        short = np.flatnonzero((filled != gene_rows) & (segment_of_gene >= 0))
        if len(short):
            gene = genes["gene_id"][int(short[0])].as_py()
            raise DataError(
                f"gene '{gene}' has {filled[short[0]]:,} rows now and had {gene_rows[short[0]]:,} when the plan was made; "
                "the files changed: plan anew"
            )
    finally:
        for pair in handles:
            for handle in pair:
                os.close(handle)


def _open(plan: Plan, segment: Segment, folder: Path) -> tuple[int, int]:
    """Open the two files of a segment at their full size, so that a full disk is met here."""
    folder.mkdir(parents=True, exist_ok=True)
    opened = []
    for name, size in (("features.bin", record_type(plan).itemsize), ("keys.bin", KEYS.itemsize)):
        handle = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        opened.append(handle)
        if segment.n_rows and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle, 0, segment.n_rows * size)
    return opened[0], opened[1]


def _write_at(handle: int, records: NDArray[np.void], place: int) -> None:
    """Write records at a place counted in records, whatever the kernel takes at once."""
    data = np.ascontiguousarray(records).view(np.uint8).data.cast("B")
    offset = place * records.dtype.itemsize
    while len(data):
        written = os.pwrite(handle, data, offset)
        data, offset = data[written:], offset + written


def _open_parquet(file: DataFile) -> pq.ParquetFile:
    try:
        return open_parquet(file, buffer_size=1 << 20)
    except UNREADABLE as error:
        raise damaged(file, error) from error


def _batches(
    parquet: pq.ParquetFile, file: str, row_group: int, plan: Plan
) -> Iterator[tuple[int, NDArray[np.void], NDArray[np.void]]]:
    """Yield (first row in the row group, records, keys) for one row group, batch by batch."""
    columns = [*plan.data.features, plan.data.label_column] + (
        [plan.data.position_column] if plan.data.position_column else []
    )
    codes = {text: code for code, text in enumerate(plan.data.labels)}
    first = 0
    try:
        for batch in parquet.iter_batches(
            BATCH_ROWS, row_groups=[row_group], columns=list(dict.fromkeys(columns)), use_threads=False
        ):
            n = batch.num_rows
            records = np.empty(n, dtype=record_type(plan))
            keys = np.zeros(n, dtype=KEYS)
            keys["use"] = USED
            _fill(records["small"], batch, plan.data.small_features, file)
            _fill(records["wide"], batch, plan.data.wide_features, file)
            if plan.settings.layout_used == "sentinel" and (records["wide"] <= SENTINEL).any():
                raise DataError(
                    f"{file} holds values of {SENTINEL:g} or less, which --layout sentinel keeps for missing ones; use another"
                )
            keys["label"] = [codes[str(text)] for text in batch[plan.data.label_column].to_pylist()]
            if plan.data.position_column:
                if batch[plan.data.position_column].null_count:
                    raise DataError(
                        f"null in column '{plan.data.position_column}' of {file}; fill it or remove the rows"
                    )
                keys["position"] = batch[plan.data.position_column].to_numpy()
            yield first, records, keys
            first += n
    except UNREADABLE as error:
        raise damaged(file, error, f" in row group {row_group}") from error
    except KeyError as error:
        raise DataError(
            f"unknown label {error} in column '{plan.data.label_column}' of {file}; the file changed"
        ) from error


def _fill(target: NDArray[np.generic], batch: pa.RecordBatch, names: Sequence[str], file: str) -> None:
    """Copy columns side by side into row-major records, by way of a column-major block that stays in the cache."""
    block = np.empty((len(names), batch.num_rows), dtype=target.dtype)
    for number, name in enumerate(names):
        column = batch[name]
        if target.dtype == np.uint8:
            if column.null_count:
                raise DataError(f"null in column '{name}' of {file}, though its footer says there is none")
            values = column.to_numpy(zero_copy_only=False)
            block[number] = values
            if values.dtype != np.uint8 and not np.array_equal(block[number], values):
                raise DataError(f"column '{name}' of {file} leaves 0..255, though its footer says it does not")
        else:
            with np.errstate(over="ignore"):
                block[number] = column.to_numpy(zero_copy_only=False)
    if target.dtype != np.uint8 and np.isinf(block).any():
        name = names[int(np.flatnonzero(np.isinf(block).any(axis=1))[0])]
        raise DataError(
            f"an infinite value, or one too large for float32, in column '{name}' of {file}; replace it by null or leave the "
            "column out (--exclude)"
        )
    for begin in range(0, batch.num_rows, 512):
        target[begin : begin + 512] = block[:, begin : begin + 512].T


def _finish(plan: Plan, segment: Segment, folder: Path) -> None:
    """Sort the rows inside their genes by (position, hash of the row), hash both files, write the manifest."""
    record = record_type(plan)
    hashes = {"features.bin": sha256(), "keys.bin": sha256()}
    zeros = np.zeros(len(plan.data.small_features), dtype=np.int64)
    missing = np.zeros(len(plan.data.wide_features), dtype=np.int64)
    features = os.open(folder / "features.bin", os.O_RDWR)
    keys_file = os.open(folder / "keys.bin", os.O_RDWR)
    try:
        begin = 0
        rows_at_once = max(1, SORT_BYTES // record.itemsize)
        while begin < segment.n_rows:
            keys = read_at(keys_file, KEYS, begin, min(rows_at_once, segment.n_rows - begin))
            # whole genes: stop before the last gene unless it is the last of the segment or fills the chunk alone
            stop = begin + len(keys)
            if stop < segment.n_rows:
                cut = int(np.searchsorted(keys["gene_rank"], keys["gene_rank"][-1]))
                if cut == 0:
                    rows_at_once *= 2
                    continue
                keys = keys[:cut]
            rows = read_at(features, record, begin, len(keys))
            order = _total_order(plan, keys, rows)
            if order is not None:
                keys, rows = keys[order], rows[order]
                _write_at(features, rows, begin)
                _write_at(keys_file, keys, begin)
            hashes["features.bin"].update(rows.data)
            hashes["keys.bin"].update(keys.data)
            zeros += len(rows) - np.count_nonzero(rows["small"], axis=0)
            missing += np.count_nonzero(np.isnan(rows["wide"]), axis=0)
            begin += len(keys)
        os.fsync(features)
        os.fsync(keys_file)
    finally:
        os.close(features)
        os.close(keys_file)
    manifest = {
        "dataset_fingerprint": plan.data.fingerprint,
        "genes_sha256": plan.data.genes_sha256,
        "first_rank": segment.first_rank,
        "stop_rank": segment.stop_rank,
        "n_zero": zeros.tolist(),
        "n_missing": missing.tolist(),
        "sha256": {name: digest.hexdigest() for name, digest in hashes.items()},
    }
    write_json(folder / "segment.json", sealed(manifest))


def _total_order(plan: Plan, keys: NDArray[np.void], rows: NDArray[np.void]) -> NDArray[np.int64] | None:
    """Return the order of rows by (gene rank, position, hash of the row), or None where they stand in it."""
    rank, position = keys["gene_rank"], keys["position"]
    same_gene = rank[1:] == rank[:-1]
    if not (same_gene & (position[1:] <= position[:-1])).any():
        return None
    order = np.lexsort((position, rank))
    ties = (rank[order][1:] == rank[order][:-1]) & (position[order][1:] == position[order][:-1])
    tied = np.sort(order[np.append(ties, False) | np.insert(ties, 0, False)])
    digest = np.zeros(len(rows), dtype=np.uint64)
    digest[tied] = _row_hash(plan, keys[tied], rows[tied])
    return np.lexsort((digest, position, rank))


def _row_hash(plan: Plan, keys: NDArray[np.void], rows: NDArray[np.void]) -> NDArray[np.uint64]:
    """Return a hash of each row's features and label, which the types that hold the features do not change.

    It is the sum of the features' bits as float32, in their order, and of the label, times fixed odd numbers.
    """
    factors = (
        np.random.Generator(np.random.PCG64(0)).integers(0, 1 << 63, len(plan.data.features) + 1, dtype=np.uint64) * 2
        + 1
    )
    place = {name: number for number, name in enumerate(plan.data.features)}
    small = factors[[place[name] for name in plan.data.small_features]]
    wide = factors[[place[name] for name in plan.data.wide_features]]
    digest: NDArray[np.uint64] = keys["label"].astype(np.uint64) * factors[-1]
    for begin in range(0, len(rows), HASHED_ROWS):
        part = slice(begin, begin + HASHED_ROWS)
        for values, own in ((rows["small"][part].astype(np.float32), small), (rows["wide"][part], wide)):
            bits = np.ascontiguousarray(values).view(np.uint32)
            digest[part] += (bits * own).sum(axis=1, dtype=np.uint64)
    return digest


def partition(
    folder: RunFolder, plan: Plan, context: Context, *, is_cancelled: Callable[[], bool] | None = None
) -> None:
    """Write the segments that are missing, in a child process; of several jobs one does it and the others wait.

    Parameters
    ----------
    folder, plan
        The run; the plan may have splits that are not noted yet.
    context
        Its threads run the SQL.
    is_cancelled
        As in `mi_duck.processes.run_child`.
    """
    segments = [asdict(segment) for segment in plan.cut.all_segments]
    with run_lock(folder.root, name=".lock_partition", wait=True):
        in_child(partition_here, context, is_cancelled=is_cancelled)(
            run=str(folder.root), threads=context.threads, segments=segments
        )


def partition_here(report: Report, run: str, threads: int, segments: Sequence[Mapping[str, Any]] | None = None) -> None:
    """Write the segments that are missing, in this process; by default all of the plan's."""
    folder = RunFolder(Path(run))
    plan = folder.read_plan()
    wanted = plan.cut.all_segments if segments is None else tuple(Segment(**one) for one in segments)
    is_done = all((folder.segments / segment.name / "segment.json").is_file() for segment in wanted)
    dataset = open_planned(plan.data, with_hashes=not is_done)
    if is_done:
        return
    with Database(threads=threads, memory_bytes=SQL_BYTES, scratch=folder.scratch / "sql") as db:
        db.open_source(
            dataset.files,
            gene_column=plan.data.gene_column,
            label_column=plan.data.label_column,
            fold_column=plan.data.fold_column,
            position_column=plan.data.position_column,
            site_scores=plan.data.base_scores[1:],
        )
        db.load_parquet("gene_index", genes_file(folder, plan))
        db.load("row_groups", row_groups(dataset.files))
        write_segments(db, plan, folder.segments, dataset=dataset, report=report, wanted=wanted)


def is_partitioned(folder: RunFolder, plan: Plan) -> bool:
    """Return whether every segment is written; whether it is whole is checked where it is read."""
    return all((folder.segments / segment.name / "segment.json").is_file() for segment in plan.cut.all_segments)
