"""One pass over the Parquet files writes every selected row to its position in a segment.

The gene index knows each gene's rows beforehand, so a row is written among the rows of its gene at once, wherever its file
holds it; a second look at each segment sorts the rows inside their genes and hashes its files.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from itertools import accumulate, chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mi_duck.atomic_files import file_sha256, free_bytes, sealed, storage_errors, sync_files, write_json
from mi_duck.data.database import SQL_BYTES, Database
from mi_duck.data.dataset import Dataset, open_planned
from mi_duck.data.parquet import data_file, row_group_batches, row_groups
from mi_duck.data.sampling import make_row_uses
from mi_duck.data.statistics import ROUNDING, no_probabilities
from mi_duck.data.values import label_codes, numbers
from mi_duck.errors import DataError, StorageError
from mi_duck.processes import Context, Report, in_child
from mi_duck.rows.kept import KEPT, SOURCE, write_kept
from mi_duck.rows.segments import KEYS, USED, keys_type, read_at, record_type
from mi_duck.run.encoding import SENTINEL
from mi_duck.run.folder import RunFolder, run_lock
from mi_duck.run.genes import genes_file
from mi_duck.run.plan import Plan, Segment
from mi_duck.run.stage_times import READING, keep_stages

BATCH_ROWS = 8192  # as this package writes row groups of a thousand columns
BATCH_BYTES = 128 << 20  # of a batch whose values take eight bytes each; two are held at once
SORT_BYTES = 32 << 20
SOURCES = "sources.bin"
"""The `SOURCE` of each row of a segment; deleted once `KEPT` is written."""
HASHED_ROWS = 1024  # at once: 8 bytes per feature


class Stretch(NamedTuple):
    """Neighbouring rows of one gene in a row group or a batch: the first, the one after the last, and the rank of the gene."""

    first: int
    stop: int
    rank: int


class RowsOfFile(NamedTuple):
    """Some rows of one file, all of wanted genes: their numbers in the file, records, keys without ranks, and stretches."""

    file: str
    row: NDArray[np.int64]
    records: NDArray[np.void]
    keys: NDArray[np.void]
    stretches: list[Stretch]


def write_segments(
    db: Database,
    plan: Plan,
    folder: Path,
    *,
    dataset: Dataset,
    report: Report,
    wanted: Sequence[Segment] | None = None,
    threads: int = 1,
) -> None:
    """Write the segments that are not there yet.

    Parameters
    ----------
    db
        Database with the tables ``source_rows``, ``run_genes`` and ``row_groups``.
    plan
        Its files are read once, and of them only the row groups that hold a wanted gene.
    dataset
        The plan's; its files must stay as they were when it was opened until all rows are read.
    wanted
        Segments to write, by default all.
    threads
        With more than one, rows are read while those before them are written.

    Raises
    ------
    DataError
        A value is infinite or too large for float32, a file changed since the plan was made.
    StorageError
        The disk is too small or fails; names the bytes needed.
    """
    unwritten = _unwritten(folder, wanted or plan.cut.all_segments)
    if not unwritten:
        return
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        row_bytes = plan.data.record_bytes + KEYS.itemsize + SOURCE.itemsize
        needed = sum(segment.n_rows for segment in unwritten) * row_bytes
        free = free_bytes(folder)
        if needed > free:
            raise StorageError(
                f"the segments need {needed / 1e9:.2f} GB in {folder}, where {free / 1e9:.2f} GB are free; free the rest"
            )
        _write_rows(db, plan, folder, dataset, unwritten, report, threads)
        dataset.check_unchanged()
        done = 0
        manifests = []
        for segment in unwritten:
            report("sorting rows", done, sum(segment.n_rows for segment in unwritten))
            manifests.append(_finish(plan, segment, folder / segment.name))
            done += segment.n_rows
        sources = [folder / segment.name / SOURCES for segment in unwritten]
        write_kept(db, dataset, plan.data, unwritten, folder, sources)
        dataset.check_unchanged()
        for segment, manifest in zip(unwritten, manifests, strict=True):
            sync_files(folder / segment.name)
            manifest["sha256"][KEPT] = file_sha256(folder / segment.name / KEPT)
            write_json(folder / segment.name / "segment.json", sealed(manifest))
            (folder / segment.name / SOURCES).unlink()


def _write_rows(
    db: Database,
    plan: Plan,
    folder: Path,
    dataset: Dataset,
    segments: Sequence[Segment],
    report: Report,
    threads: int,
) -> None:
    """Read each needed row group once and write its rows among those of their genes."""
    genes = db.read("run_genes").sort_by("gene_rank")
    next_row = genes["first_row"].to_numpy().copy()  # in the total order, where the next row of each gene goes
    stop_row = next_row + genes["n_rows"].to_numpy()
    segment_of_gene = np.full(len(genes), -1, dtype=np.int64)
    handles: list[tuple[int, int, int]] = []
    number_of_file = {str(file): number for number, file in enumerate(dataset.files)}
    if plan.data.easy_below is not None:
        make_row_uses(
            db,
            easy_below=plan.data.easy_below,
            share=plan.settings.easy_share,
            seed=plan.settings.seed,
            background=plan.data.labels[0],
        )
    try:
        for number, segment in enumerate(segments):
            segment_of_gene[segment.first_rank : segment.stop_rank] = number
            handles.append(_open(plan, segment, folder / segment.name))
        done, total = 0, sum(segment.n_rows for segment in segments)
        for batch in _batches(db, plan, segment_of_gene >= 0, threads):
            source = np.empty(len(batch.row), dtype=SOURCE)
            source["file"], source["row"] = number_of_file[batch.file], batch.row
            for first, stop, rank in batch.stretches:
                if next_row[rank] + stop - first > stop_row[rank]:
                    raise DataError(f"{batch.file} changed since the plan was made; plan anew")
                batch.keys["gene_rank"][first:stop] = rank
                number = segment_of_gene[rank]
                index = int(next_row[rank]) - segments[number].first_row
                for handle, rows in zip(handles[number], (batch.records, batch.keys, source), strict=True):
                    _write_at(handle, rows[first:stop], index)
                next_row[rank] += stop - first
                done += stop - first
            report("partitioning rows", done, total)
    finally:
        for handle in chain.from_iterable(handles):
            os.close(handle)
    short = np.flatnonzero((next_row != stop_row) & (segment_of_gene >= 0))
    if len(short):
        gene = genes.slice(int(short[0]), 1).to_pylist()[0]
        n_rows = gene["n_rows"] - int(stop_row[short[0]] - next_row[short[0]])
        raise DataError(
            f"gene '{gene['gene_id']}' has {n_rows:,} rows now and had {gene['n_rows']:,} when the plan was made; "
            "the files changed: plan anew"
        )


def _open(plan: Plan, segment: Segment, folder: Path) -> tuple[int, int, int]:
    """Open the files of a segment at their full size, so that a full disk is met here."""
    folder.mkdir(parents=True, exist_ok=True)
    opened = []
    keys_size = keys_type(plan.data).itemsize
    sizes = {"features.bin": record_type(plan).itemsize, "keys.bin": keys_size, SOURCES: SOURCE.itemsize}
    for name, size in sizes.items():
        handle = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        opened.append(handle)
        if segment.n_rows and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle, 0, segment.n_rows * size)
    return opened[0], opened[1], opened[2]


def _write_at(handle: int, records: NDArray[np.void], index: int) -> None:
    """Write records from an index counted in records, whatever the kernel takes at once."""
    data = np.ascontiguousarray(records).view(np.uint8).data.cast("B")
    offset = index * records.dtype.itemsize
    while len(data):
        written = os.pwrite(handle, data, offset)
        data, offset = data[written:], offset + written


def _batches(db: Database, plan: Plan, is_wanted: NDArray[np.bool_], threads: int) -> Iterator[RowsOfFile]:
    """Yield the rows of wanted genes, batch by batch; each row group that holds any is read once."""
    index = db.arrow("row_index")
    index = index.filter(pa.array(is_wanted[index["gene_rank"].to_numpy()]))
    columns = [index[name].to_pylist() for name in ("file", "row_group", "first_row", "n_rows", "gene_rank")]
    others = plan.data.position_column, plan.data.weight_column
    names = [*plan.data.features, plan.data.label_column, *filter(None, others)]
    first_of_group = {(one["file"], one["row_group"]): one["first_row"] for one in db.read("row_groups").to_pylist()}
    for file, of_file in groupby(zip(*columns, strict=True), key=itemgetter(0)):
        stretches = {
            group: deque(Stretch(first, first + n_rows, rank) for _, _, first, n_rows, rank in of_group)
            for group, of_group in groupby(of_file, key=itemgetter(1))
        }
        uses = None if plan.data.easy_below is None else db.arrow("file_row_uses", file=file)["use"].to_numpy()
        last_group, first = None, 0
        batches = row_group_batches(
            *(data_file(file), names, stretches),
            batch_rows=min(BATCH_ROWS, max(512, BATCH_BYTES // (8 * len(names)))),
            made=plan.data.made,
            is_ahead=threads > 1,
        )
        for group, batch in batches:
            first = first if group == last_group else 0  # of the batch, counted in the row group
            last_group, stop = group, first + batch.num_rows
            own = list(_stretches_within(stretches[group], first, stop))
            row = np.arange(first, stop) + first_of_group[file, group]
            first = stop
            # rows of other genes are left out here: turning a row into a record takes longer than reading it
            if sum(one.stop - one.first for one in own) < batch.num_rows:
                if not own:
                    continue
                kept = np.concatenate([np.arange(one.first, one.stop) for one in own])
                batch, row, own = batch.take(pa.array(kept)), row[kept], _side_by_side(own)
            records, keys = _records(batch, file, plan)
            if uses is not None:
                keys["use"] = uses[row]
            yield RowsOfFile(file, row, records, keys, own)


def _stretches_within(stretches: deque[Stretch], first: int, stop: int) -> Iterator[Stretch]:
    """Take the stretches of a batch, rows ``first`` to ``stop`` of its row group, from the front; count from its first row."""
    while stretches and stretches[0].first < stop:
        one = stretches.popleft()
        if one.stop > stop:
            stretches.appendleft(one._replace(first=stop))
        yield Stretch(one.first - first, min(one.stop, stop) - first, one.rank)


def _side_by_side(stretches: Sequence[Stretch]) -> list[Stretch]:
    """Return stretches as they lie when nothing is between them.

    >>> [(one.first, one.stop) for one in _side_by_side([Stretch(3, 5, 70), Stretch(9, 10, 71)])]
    [(0, 2), (2, 3)]
    """
    stops = accumulate(one.stop - one.first for one in stretches)
    return [Stretch(stop - (one.stop - one.first), stop, one.rank) for stop, one in zip(stops, stretches, strict=True)]


def _records(batch: pa.RecordBatch, file: str, plan: Plan) -> tuple[NDArray[np.void], NDArray[np.void]]:
    """Return the rows of a batch as records and keys, without gene ranks."""
    data = plan.data
    records, keys = np.empty(batch.num_rows, dtype=record_type(plan)), np.zeros(batch.num_rows, dtype=keys_type(data))
    keys["use"] = USED
    _fill(records["small"], batch, data.small_features, file)
    _fill(records["wide"], batch, data.wide_features, file)
    for name in data.base_scores:
        if name in data.wide_features:  # bytes are as their footer says, which planning looked at
            scores = records["wide"][:, data.wide_features.index(name)]
            if ((scores < -ROUNDING) | (scores > 1 + ROUNDING)).any():
                raise DataError(no_probabilities(name, np.nanmin(scores), np.nanmax(scores), file))
    if plan.settings.layout_used == "sentinel" and (records["wide"] <= SENTINEL).any():
        raise DataError(
            f"{file} holds values of {SENTINEL:g} or less, which --layout sentinel keeps for missing ones; use another"
        )
    keys["label"] = label_codes(batch[data.label_column], data.labels, f"column '{data.label_column}' of {file}")
    if data.position_column:
        if batch[data.position_column].null_count:
            raise DataError(f"null in column '{data.position_column}' of {file}; fill it or remove the rows")
        keys["position"] = numbers(batch[data.position_column])
    if data.weight_column:
        with np.errstate(over="ignore"):
            keys["weight"] = numbers(batch[data.weight_column])
        if not ((keys["weight"] >= 0) & np.isfinite(keys["weight"])).all():
            raise DataError(
                f"a weight that is negative, missing or not finite in column '{data.weight_column}' of {file}"
            )
    return records, keys


def _fill(target: NDArray[np.generic], batch: pa.RecordBatch, names: Sequence[str], file: str) -> None:
    """Copy columns side by side into row-major records, by way of a column-major block that stays in the cache."""
    block = np.empty((len(names), batch.num_rows), dtype=target.dtype)
    for number, name in enumerate(names):
        column = batch[name]
        if target.dtype == np.uint8:
            if column.null_count:
                raise DataError(f"null in column '{name}' of {file}, though its footer says there is none")
            values = numbers(column)
            block[number] = values
            if values.dtype != np.uint8 and not np.array_equal(block[number], values):
                raise DataError(f"column '{name}' of {file} leaves 0..255, though its footer says it does not")
        else:
            with np.errstate(over="ignore"):
                block[number] = numbers(column)
    if target.dtype != np.uint8 and np.isinf(block).any():
        name = names[int(np.flatnonzero(np.isinf(block).any(axis=1))[0])]
        raise DataError(
            f"an infinite value, or one too large for float32, in column '{name}' of {file}; replace it by null or leave the "
            "column out (--exclude)"
        )
    for begin in range(0, batch.num_rows, 512):
        target[begin : begin + 512] = block[:, begin : begin + 512].T


def _finish(plan: Plan, segment: Segment, folder: Path) -> dict[str, Any]:
    """Sort the rows inside their genes by (position, hash of the row), hash features and keys; return what the manifest says."""
    record = record_type(plan)
    hashes = {"features.bin": sha256(), "keys.bin": sha256()}
    n_zero = np.zeros(len(plan.data.small_features), dtype=np.int64)
    n_missing = np.zeros(len(plan.data.wide_features), dtype=np.int64)
    features = os.open(folder / "features.bin", os.O_RDWR)
    keys_file = os.open(folder / "keys.bin", os.O_RDWR)
    sources = os.open(folder / SOURCES, os.O_RDWR)
    try:
        begin = 0
        rows_at_once = max(1, SORT_BYTES // record.itemsize)
        while begin < segment.n_rows:
            keys = read_at(keys_file, keys_type(plan.data), begin, min(rows_at_once, segment.n_rows - begin))
            # whole genes: stop before the last gene unless it is the last of the segment or fills the chunk alone
            stop = begin + len(keys)
            if stop < segment.n_rows:
                cut = int(np.searchsorted(keys["gene_rank"], keys["gene_rank"][-1]))
                if cut == 0:
                    rows_at_once *= 2
                    continue
                keys = keys[:cut]
            rows = read_at(features, record, begin, len(keys))
            source = read_at(sources, SOURCE, begin, len(keys))
            order = _total_order(plan, keys, rows, source)
            if order is not None:
                keys, rows = keys[order], rows[order]
                _write_at(features, rows, begin)
                _write_at(keys_file, keys, begin)
                _write_at(sources, source[order], begin)
            hashes["features.bin"].update(rows.data)
            hashes["keys.bin"].update(keys.data)
            n_zero += len(rows) - np.count_nonzero(rows["small"], axis=0)
            n_missing += np.count_nonzero(np.isnan(rows["wide"]), axis=0)
            begin += len(keys)
    finally:
        for handle in (features, keys_file, sources):
            os.close(handle)
    return {
        "dataset_fingerprint": plan.data.fingerprint,
        "genes_sha256": plan.data.genes_sha256,
        "first_rank": segment.first_rank,
        "stop_rank": segment.stop_rank,
        "n_zero": n_zero.tolist(),
        "n_missing": n_missing.tolist(),
        "sha256": {name: digest.hexdigest() for name, digest in hashes.items()},
    }


def _total_order(
    plan: Plan, keys: NDArray[np.void], rows: NDArray[np.void], source: NDArray[np.void]
) -> NDArray[np.int64] | None:
    """Return the order of rows by (gene rank, position, hash of the row), or None where they stand in it.

    Rows that are the same in all of this are in the order of files and rows.
    """
    rank, position = keys["gene_rank"], keys["position"]
    same_gene = rank[1:] == rank[:-1]
    if not (same_gene & (position[1:] <= position[:-1])).any():
        return None
    order = np.lexsort((position, rank))
    ties = (rank[order][1:] == rank[order][:-1]) & (position[order][1:] == position[order][:-1])
    tied = np.sort(order[np.append(ties, False) | np.insert(ties, 0, False)])
    digest = np.zeros(len(rows), dtype=np.uint64)
    digest[tied] = _row_hash(plan, keys[tied], rows[tied])
    weight = [keys["weight"]] if plan.data.weight_column else []  # of rows that differ in nothing else
    return np.lexsort((source["row"], source["file"], *weight, digest, position, rank))


def _row_hash(plan: Plan, keys: NDArray[np.void], rows: NDArray[np.void]) -> NDArray[np.uint64]:
    """Return a hash of each row's features and label, which the types that hold the features do not change.

    It is the sum of the features' bits as float32, in their order, and of the label, times fixed odd numbers.
    """
    features = plan.data.features
    rng = np.random.Generator(np.random.PCG64(0))
    factors = rng.integers(0, 1 << 63, len(features) + 1, dtype=np.uint64) * 2 + 1
    column = {name: number for number, name in enumerate(features)}
    small, wide = (
        factors[[column[name] for name in names]] for names in (plan.data.small_features, plan.data.wide_features)
    )
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

    The plan may have splits that are not noted yet; ``is_cancelled`` is as in `mi_duck.processes.run_child`.
    """
    segments = [asdict(segment) for segment in plan.cut.all_segments]
    with run_lock(folder.root, name=".lock_partition", wait=True):
        if is_partitioned(folder, plan):
            open_planned(plan.data, with_hashes=False)  # refuses a dataset that changed meanwhile
            return
        done = in_child(partition_here, context, is_cancelled=is_cancelled)(
            run=str(folder.root), threads=context.threads, segments=segments
        )
        keep_stages(folder, READING, done.stages)


def partition_here(report: Report, run: str, threads: int, segments: Sequence[Mapping[str, Any]] | None = None) -> None:
    """Write the segments that are missing, in this process; by default all of the plan's."""
    folder = RunFolder(Path(run))
    plan = folder.read_plan()
    wanted = plan.cut.all_segments if segments is None else tuple(Segment(**one) for one in segments)
    dataset = open_planned(plan.data)
    with Database(threads=threads, memory_bytes=SQL_BYTES, scratch=folder.scratch / "sql") as db:
        db.open_source(  # by the plan, which knows the base scores; of a file opened again they are not asked for
            dataset.files,
            gene_column=plan.data.gene_column,
            label_column=plan.data.label_column,
            fold_column=plan.data.fold_column,
            position_column=plan.data.position_column,
            site_scores=plan.data.base_scores[1:],
            content=() if plan.data.easy_below is None else plan.data.content_columns,
        )
        db.load_parquet("run_genes", genes_file(folder, plan))
        db.load("row_groups", row_groups(dataset.files))
        write_segments(db, plan, folder.segments, dataset=dataset, report=report, wanted=wanted, threads=threads)


def is_partitioned(folder: RunFolder, plan: Plan) -> bool:
    """Return whether every segment is written; whether it is whole is checked where it is read."""
    return not _unwritten(folder.segments, plan.cut.all_segments)


def _unwritten(folder: Path, segments: Sequence[Segment]) -> list[Segment]:
    return [segment for segment in segments if not (folder / segment.name / "segment.json").is_file()]
