"""Streams Parquet through a model to Parquet in bounded memory; every id and the order are kept.

One thread reads batches, the others predict a batch each. What they return is saved part by part, so that a killed ``predict``
continues where it stopped. The parts lie in a folder beside the file that they will become: ``.OUT.parts/``. Each is `ROWS` rows
(the last one fewer) of the whole result, in Arrow's stream format; its name holds its number and the SHA-256 of its bytes, so a
part has its name only once its bytes are whole; its schema carries how many new missing values each feature has in it.
``parts.json`` holds what they were made from and with; where anything differs
they are made anew. The file is always written from the parts, one row group each, so an interrupted run and one that was not
give the same bytes.
"""

import errno
import hashlib
import json
import logging
import os
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mi_duck.atomic_files import publish, read_sealed, sealed, storage_errors, write_file, write_json
from mi_duck.data.columns import SOURCE_COLUMNS
from mi_duck.data.dataset import as_parquet, resolved
from mi_duck.data.find_files import find_files, names_below
from mi_duck.data.made import date_text, n_unseen
from mi_duck.data.parquet import (
    UNREADABLE,
    DataFile,
    Stamp,
    check_stamps,
    folder_values,
    footer,
    metadata_of,
    one_line,
    row_group_batches,
    schema_of,
    stamp,
)
from mi_duck.data.values import coded, is_number, is_text, text_counts
from mi_duck.ensemble.feature_matrix import check_features, feature_matrix
from mi_duck.ensemble.interface import MatrixModel, Scored
from mi_duck.ensemble.model import ConsolidatedMetaModel, InstanceModel, by_member
from mi_duck.ensemble.model_file import model_sha256
from mi_duck.errors import CheckpointError, DataError
from mi_duck.metrics.calibrate import calibrated
from mi_duck.metrics.ranking import Floats32
from mi_duck.processes import Report
from mi_duck.run.folder import run_lock
from mi_duck.run.made import Dates, Made, dates_in, levels_in, made_by_feature
from mi_duck.run.training_data import TrainingData
from mi_duck.wording import noun_of

logger = logging.getLogger(__name__)

ROWS = 1 << 16
BATCH_BYTES = 32 << 20
MOST_BYTES = 512 << 20
"""Bytes of all batches at once, at any number of threads."""
WORST = 5
"""Features with new missing values that a warning names."""
FACTS = "parts.json"
NAME = re.compile(r"(\d{6,})_([0-9a-f]{64})\.arrow")

TRAINED_ON = "trained_on"
UNSEEN = b"unseen"
"""In the schema of a part: for each column of texts or dates, its rows with a level or a day that training has not seen."""
NEW_MISSING = b"new_missing"
"""In the schema of a part: for each feature without missing values in training, the rows of the part without a value."""

Model = ConsolidatedMetaModel | InstanceModel | MatrixModel
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Parts:
    """The folder of the parts of one file."""

    folder: Path

    def begin(self, facts: Mapping[str, Any]) -> int:
        """Return how many parts can be kept; those made from other facts (JSON), and those after a gap, are deleted."""
        try:
            is_same = read_sealed(self.folder / FACTS) == facts
        except (FileNotFoundError, ValueError):
            is_same = False
        files = self._files()
        n_done = next(number for number in range(len(files) + 1) if number not in files) if is_same else 0
        for number, file in files.items():
            if number >= n_done:
                file.unlink()
        if not is_same:
            write_json(self.folder / FACTS, sealed(facts))
        return n_done

    def save(self, number: int, rows: pa.Table) -> None:
        """Save one part; `ROWS` rows, the last part fewer."""
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_stream(sink, rows.schema, options=options) as stream:
            stream.write_table(rows)
        data = sink.getvalue().to_pybytes()
        write_file(self.folder / f"{number:06d}_{hashlib.sha256(data).hexdigest()}.arrow", data)

    def read(self) -> Iterator[pa.Table]:
        """Yield all parts in their order; one that is not what was written is deleted, and a CheckpointError."""
        for _, file in sorted(self._files().items()):
            data = file.read_bytes()
            if NAME.fullmatch(file.name).group(2) != hashlib.sha256(data).hexdigest():  # type: ignore[union-attr]
                file.unlink()
                raise CheckpointError(f"{file} is damaged; the same command writes it again")
            with pa.ipc.open_stream(data) as stream:
                yield stream.read_all()

    def join(self, out: Path, check: Callable[[], None]) -> Iterator[pa.Table]:
        """Write the file from all parts, call ``check``, then publish it; yield each part once it is written."""
        temporary = self.folder / "joined.parquet"
        parts = self.read()
        first = next(parts)
        schema = first.schema.remove_metadata()
        with pq.ParquetWriter(temporary, schema, compression="zstd", write_page_checksum=True) as writer:
            for part in chain([first], parts):
                writer.write_table(part.replace_schema_metadata(None))
                yield part
        check()
        publish(temporary, out)

    def remove(self) -> None:
        """Delete the parts and their folder; a file that this module did not write stays, and the folder with it."""
        ours = [*self._files().values(), *(self.folder / name for name in (FACTS, "joined.parquet", ".lock"))]
        for file in ours:
            file.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def _files(self) -> dict[int, Path]:
        """Return the file of each part by its number."""
        files = [(NAME.fullmatch(file.name), file) for file in self.folder.iterdir()]
        return {int(match.group(1)): file for match, file in files if match}


@dataclass(frozen=True, slots=True)
class PredictSummary:
    """What `predict_file` did, and what is to be known about the predictions.

    Parameters
    ----------
    n_features_read
        Features that no tree uses are not read.
    n_rows_before
        Rows of an earlier, killed call.
    n_rows_trained_on, n_genes_trained_on
        Rows of genes that the model was trained on, and these genes; None where that cannot be told.
    new_missing
        Rows without a value, for each feature that was read, had a value in every row of training, and lacks some now.
    new_levels
        Rows with a level that training has not seen, for each text column whose levels are features; all these features are 0.
    new_dates
        Rows with a date before the first or after the last day of training, for each column of dates with these days.
    why_unknown
        Why it cannot be told which rows the model was trained on; empty where it can.
    group_column
        The column of the groups that the model was trained on; None where it does not say.
    """

    n_rows: int
    n_features_read: int
    n_rows_before: int
    n_rows_trained_on: int | None
    n_genes_trained_on: int | None
    new_missing: dict[str, int]
    new_levels: dict[str, int]
    new_dates: dict[str, int]
    why_unknown: str
    group_column: str | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the predictions must know, one sentence each."""
        found, noun = [], noun_of(self.group_column or "gene")
        if self.why_unknown:
            found.append(
                f"it cannot be told which rows the model was trained on, so {TRAINED_ON} is null: {self.why_unknown}"
            )
        if self.n_rows_trained_on:
            found.append(
                f"{self.n_rows_trained_on:,} of {self.n_rows:,} rows are of {self.n_genes_trained_on:,} {noun.many} that the "
                f"model was trained on ({TRAINED_ON} is true): their probabilities look better than they are on new {noun.many}; "
                "take those of oof_predictions.parquet in the folder of the run"
            )
        if self.new_missing:
            worst = sorted(self.new_missing.items(), key=lambda one: (-one[1], one[0]))
            named = [f"{name} in {n:,} of {self.n_rows:,} rows" for name, n in worst[:WORST]]
            others = f" and {len(worst) - WORST:,} more" if len(worst) > WORST else ""
            found.append(
                f"{len(worst):,} feature(s) had a value in every row of training and lack some now: {', '.join(named)}{others}; "
                "the model never saw that, so check how these columns were made"
            )
        if self.new_levels:
            columns = ", ".join(f"{name} in {n:,} of {self.n_rows:,} rows" for name, n in self.new_levels.items())
            found.append(
                f"text column(s) have levels that training has not seen: {columns}; they count as none of those known"
            )
        if self.new_dates:
            columns = ", ".join(f"{name} in {n:,} of {self.n_rows:,} rows" for name, n in self.new_dates.items())
            found.append(f"dates outside those of training: {columns}; trees take them for the nearest that they know")
        return tuple(found)


def predict_file(model: Model, location: str, out: Path, *, threads: int = 1, report: Report) -> PredictSummary:
    """Predict every row of a dataset into one Parquet file, or continue where a killed call stopped.

    Parameters
    ----------
    location
        Parquet file, folder or glob, or ``s3://`` of such; files in the order of their names.
    out
        Parquet file to write, whole or not at all: every column of the input but the model's features and those that a pilot
        or ``--auto-exclude-leaky`` left out; those of folder names such as ``chrom=4``, as text; ``source_file`` and
        ``source_row`` (its number there, from 0); then ``p_<class>``, ``prediction`` (class name), for an ensemble
        ``spread_<class>``, and ``trained_on``. The spread is the standard deviation of the members' probabilities: how much
        they disagree. It is not the error of ``p_<class>``, and twice the spread is not an interval: what all members share,
        such as too few genes, does not show in it. ``trained_on`` says whether the model was trained on the gene of the row,
        null where it has none.
    threads
        Threads that predict, one batch of rows each; the bytes of the result do not depend on them.

    Raises
    ------
    DataError
        A feature is missing or not a number, there are no rows, or a file is damaged or changes while it is read.
    StorageError
        The disk is full or read-only.
    RunBusyError
        Another process writes the same file.
    """
    found_files = find_files(location)
    for words in found_files.left_out:
        logger.warning("warning: %s", words)
    as_text = [one.column for one in model.made]  # so that nothing is guessed of them
    files = as_parquet(found_files, filter(None, [model.training.gene_column, *as_text]))
    stamps = [stamp(file) for file in files]
    if out.suffix != ".parquet":
        raise DataError(f"--out {out} does not end in .parquet; name one Parquet file")
    if out.resolve() in {file.resolve() for file in files if isinstance(file, Path)}:
        raise DataError(f"--out {out} is one of the input files; choose another")
    if Path(location).is_dir() and out.resolve().is_relative_to(Path(location).resolve()):
        raise DataError(f"--out {out} would become part of the dataset {location}; choose another folder")
    check_replaceable(out, {"source_row", "prediction", "trained_on"})
    task = _task(model, files, names_below(found_files, files))
    total = sum(metadata_of(file).num_rows for file in files)
    if not total:
        raise DataError(f"no rows in {location}")
    parts = Parts(out.with_name(f".{out.name}.parts"))
    with storage_errors(out):
        if out.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(out))
        with run_lock(parts.folder):
            number = parts.begin(_facts(task, files, stamps))
            n_reused = done = min(number * ROWS, total)
            if done:
                logger.info("    %s rows were predicted before; continuing after them", f"{done:,}")
            try:
                for rows in _parts_from(task, files, done, threads):
                    parts.save(number, rows)
                    number, done = number + 1, done + len(rows)
                    report("predicting", done, total)
                found = _Found()
                for part in parts.join(out, lambda: check_stamps(files, stamps)):
                    found.add(part, task.gene_column)
                    report("writing", found.n_rows, total)
            except DataError:  # repairing the input changes it, so the parts could not be used again
                parts.remove()
                raise
            parts.remove()
    is_told = task.gene_column is not None
    return PredictSummary(
        total,
        len(task.features),
        n_reused,
        found.n_rows_trained_on if is_told else None,
        len(found.genes) if is_told else None,
        {name: n for name, n in found.missing.items() if n},
        {one.column: found.unseen[one.column] for one in levels_in(model.made) if found.unseen[one.column]},
        {_spelled(one): found.unseen[one.column] for one in dates_in(model.made) if found.unseen[one.column]},
        task.why_unknown,
        task.training.gene_column,
    )


def _spelled(dates: Dates) -> str:
    return f"{dates.column} ({date_text(dates.first)} to {date_text(dates.last)})"


class _Found:
    """What the parts of a file tell together: rows, rows and genes that were trained on, and new missing values."""

    def __init__(self) -> None:
        self.n_rows = self.n_rows_trained_on = 0
        self.genes: set[Any] = set()
        self.missing: Counter[str] = Counter()
        self.unseen: Counter[str] = Counter()

    def add(self, part: pa.Table, gene_column: str | None) -> None:
        """Add a part."""
        self.n_rows += len(part)
        self.missing.update(json.loads(part.schema.metadata[NEW_MISSING]))
        self.unseen.update(json.loads(part.schema.metadata[UNSEEN]))
        if gene_column is not None:
            genes = part[gene_column].filter(part[TRAINED_ON])
            self.n_rows_trained_on += len(genes)
            for chunk in genes.chunks:
                self.genes.update(text_counts(chunk))


@dataclass(frozen=True, slots=True)
class _Task:
    """What predicting a batch needs.

    Parameters
    ----------
    features
        Those that are read: of boosted trees the ones that a tree uses.
    scores
        From a matrix of these features to probabilities, and those of members where there are several.
    kept, names
        Columns to keep, and all columns of the files.
    training, gene_column, why_unknown
        The genes of the model; the column to find them in, or None and why.
    file_names
        What each file is called in the result.
    complete
        Which of the features had a value in every row of training, shape (n_features_read,).
    """

    model: Model
    features: tuple[str, ...]
    scores: Callable[[Floats32], Scored]
    kept: tuple[str, ...]
    names: tuple[str, ...]
    training: TrainingData
    gene_column: str | None
    why_unknown: str
    file_names: pa.Array
    complete: NDArray[np.bool_]


def check_replaceable(out: Path, columns: Set[str]) -> None:
    """Refuse a Parquet file that is there without some columns, such as a table of the user or a file of a run."""
    if out.is_file():
        try:
            names = pq.read_schema(out).names
        except UNREADABLE:
            names = []
        if not columns <= set(names):
            raise DataError(f"{out} exists and does not hold predictions of this command; choose another --out")


def _task(model: Model, files: Sequence[DataFile], file_names: Sequence[str]) -> _Task:
    """Check that all files have what the model needs, and no column that would be written twice."""
    training = model.training
    not_written = {*model.features, *training.unused_features}
    schema = _checked_schema(files, model, not_written)
    kept = [name for name in schema.names if name not in not_written]
    keys = set(folder_values(files[0], schema.names))
    other = next((file for file in files if set(folder_values(file, schema.names)) != keys), None)
    if other:
        raise DataError(f"{other} lies under other partition folders than {files[0]}; give all files the same keys")
    results = [f"{kind}_{name}" for kind in ("p", "spread") for name in model.classes]
    results += ["prediction", TRAINED_ON, *SOURCE_COLUMNS]
    doubled = sorted({*kept, *keys} & set(results))
    if doubled:
        raise DataError(f"column(s) {', '.join(doubled)} of {files[0]} would be written twice; rename them")
    read, scores = (model.features, model.scores) if isinstance(model, MatrixModel) else _of_trees(model)
    why_unknown = _why_unknown(training, schema, keys, str(files[0]))
    incomplete = set(training.incomplete_features)
    complete = np.array([training.gene_column is not None and name not in incomplete for name in read], dtype=bool)
    gene_column = None if why_unknown else training.gene_column
    return _Task(
        model,
        read,
        scores,
        tuple(kept),
        tuple(schema.names),
        training,
        gene_column,
        why_unknown,
        pa.array(file_names, pa.string()),
        complete,
    )


def _of_trees(
    model: ConsolidatedMetaModel | InstanceModel,
) -> tuple[tuple[str, ...], Callable[[Floats32], Scored]]:
    """Return the features that a tree uses, and what scores a matrix of them."""
    forest = model.forest

    def scores(matrix: Floats32) -> Scored:
        joined = forest.margins_of_used(matrix)
        if isinstance(model, InstanceModel):
            return calibrated(joined, model.calibrators), None
        margins = by_member(joined, len(model.members))
        members = model.probabilities_of_members(margins)
        # a distilled model has no members that could disagree
        return model.join(margins, members), None if model.voting == "distilled" else members

    return tuple(forest.features), scores


def _why_unknown(training: TrainingData, schema: pa.Schema, keys: Collection[str], file: str) -> str:
    """Return why the genes of the data cannot be compared with those of the model, empty where they can."""
    name = training.gene_column
    if name is None:
        return "the model was not made by mi-duck run and does not say on which genes"
    if name in keys:
        return ""
    if name not in schema.names:
        return f"{file} has no column '{name}' with the {noun_of(name).one}; add it"
    kind = schema.field(name).type
    return "" if is_text(kind) or is_number(kind) else f"column '{name}' is {kind} in {file}, not text; cast it"


def _facts(task: _Task, files: Sequence[DataFile], stamps: Sequence[Stamp]) -> dict[str, Any]:
    """Return all that the bytes of the result depend on, as JSON."""
    return {
        "version": 5,
        "rows_of_a_part": ROWS,
        "packages": {"numpy": np.__version__, "pyarrow": pa.__version__, "xgboost": version("xgboost")},
        "kind": type(task.model).__name__,
        "model": task.model.sha256 if isinstance(task.model, MatrixModel) else model_sha256(task.model),
        "files": [
            [resolved(file), *stamp_of_file, hashlib.sha256(footer(file)).hexdigest()]
            for file, stamp_of_file in zip(files, stamps, strict=True)
        ],
    }


def _parts_from(task: _Task, files: Sequence[DataFile], first_row: int, threads: int) -> Iterator[pa.Table]:
    """Yield the results of all rows from ``first_row`` on, `ROWS` at a time and then the rest; see `NEW_MISSING`."""
    columns = [*task.kept, *task.features]
    row_bytes = 2 * 4 * len(task.model.features)  # in Arrow, and in the matrix
    batch_rows = max(256, min(BATCH_BYTES, MOST_BYTES // (threads + 2)) // row_bytes)
    batches = _batches(files, columns, task.model.made, batch_rows, first_row)
    ready: list[pa.Table] = []
    missing = np.zeros(len(task.features), dtype=np.int64)
    unseen: Counter[str] = Counter()
    done, total = first_row, sum(metadata_of(file).num_rows for file in files)
    for table, n_missing, n_unseen_of in in_order(lambda some: _predicted(task, *some), batches, threads):
        ready.append(table)
        missing += n_missing
        unseen.update(n_unseen_of)
        done += len(table)
        if done % ROWS == 0 or done == total:
            counts = {name: int(n) for name, n in zip(task.features, missing, strict=True) if n}
            # copied into one chunk per column, so that the bytes do not depend on how rows were batched
            several = pa.concat_tables(ready).combine_chunks()
            yield several.replace_schema_metadata({NEW_MISSING: json.dumps(counts), UNSEEN: json.dumps(unseen)})
            ready = []
            missing[:] = 0
            unseen.clear()


def in_order(work: Callable[[Item], Result], items: Iterator[Item], threads: int) -> Iterator[Result]:
    """Yield the results of work on items in their order; while threads work, the next items are read here."""
    if threads == 1:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _checked_schema(files: Sequence[DataFile], model: Model, not_written: Collection[str]) -> pa.Schema:
    """Return the first file's schema; every file must have every feature, used or not, as a number."""
    first: pa.Schema | None = None
    for file in files:
        footer(file)  # its message for a file that is not Parquet is clearer than Arrow's
        try:
            schema = schema_of(file)
        except UNREADABLE as error:
            raise DataError(f"{file} cannot be read as Parquet ({one_line(error)}); write it again") from error
        check_features(schema, model.features, file, model.made)
        there = set(schema.names)
        if len(there) < len(schema.names):
            doubled = sorted(name for name in there if schema.names.count(name) > 1)
            raise DataError(f"{file} has two columns named {', '.join(doubled[:8])}; rename one")
        if first is None:
            first = schema
        elif there != set(first.names):
            raise DataError(f"{file} has other columns than {files[0]}; give all files one schema")
        for name in (name for name in first.names if name not in not_written):
            if schema.field(name).type != first.field(name).type:
                raise DataError(
                    f"column '{name}' is {schema.field(name).type} in {file} but {first.field(name).type} in {files[0]}; "
                    "give all files one schema"
                )
    if first is None:
        raise DataError("no Parquet file given")
    return first


def _batches(
    files: Sequence[DataFile], columns: Sequence[str], made: Sequence[Made], batch_rows: int, first_row: int
) -> Iterator[tuple[int, int, DataFile, pa.RecordBatch]]:
    """Yield the rows of all files from ``first_row``, where a part begins; no batch is of two parts.

    Each batch comes with the index of its file, the number of its first row there, and the file.

    Row groups before it are not read.
    """
    skipped, left = first_row, ROWS
    for number, file in enumerate(files):
        facts = metadata_of(file)
        groups: list[int] = []
        passed = 0
        for group in range(facts.num_row_groups):
            n_rows = facts.row_group(group).num_rows
            if not groups and skipped >= n_rows:
                skipped -= n_rows
                passed += n_rows
            else:
                groups.append(group)
        for _, batch in row_group_batches(file, columns, groups, batch_rows=batch_rows, made=made):
            rest, stop = batch.slice(skipped), passed + batch.num_rows
            skipped = max(skipped - batch.num_rows, 0)
            while rest.num_rows:
                passed = stop - rest.num_rows
                some, rest = rest.slice(0, left), rest.slice(left)
                left = left - some.num_rows or ROWS
                yield number, passed, file, some
            passed = stop


def _predicted(
    task: _Task, number: int, first_row: int, file: DataFile, batch: pa.RecordBatch
) -> tuple[pa.Table, NDArray[np.int64], dict[str, int]]:
    """Return ids and predictions of one batch, the new missing values of each feature that is read, and the unseen ones."""
    begun = time.perf_counter()
    model = task.model
    try:
        matrix = feature_matrix(batch, task.features)
    except DataError as error:
        raise DataError(f"{error}, in {file}") from error
    n_missing = np.count_nonzero(np.isnan(matrix), axis=0) * task.complete
    of_folders = folder_values(file, task.names)
    columns = {name: batch[name] for name in task.kept}
    columns |= {name: pa.repeat(pa.scalar(value, pa.string()), len(batch)) for name, value in of_folders.items()}
    of_file = pa.DictionaryArray.from_arrays(pa.array(np.full(len(batch), number, np.int32)), task.file_names)
    columns |= dict(zip(SOURCE_COLUMNS, (of_file, pa.array(np.arange(first_row, first_row + len(batch)))), strict=True))
    probabilities, members = task.scores(matrix)
    singles = probabilities.astype(np.float32)
    columns |= {f"p_{name}": pa.array(singles[:, index]) for index, name in enumerate(model.classes)}
    columns["prediction"] = pa.array(model.classes).take(pa.array(probabilities.argmax(axis=1)))
    if members is not None:
        spread = members.std(axis=0).astype(np.float32)
        columns |= {f"spread_{name}": pa.array(spread[:, index]) for index, name in enumerate(model.classes)}
    genes = None if task.gene_column is None else columns[task.gene_column]
    columns[TRAINED_ON] = pa.nulls(len(batch), pa.bool_()) if genes is None else _is_known(task.training, genes)
    logger.debug("batch of %s: %s rows, %.3f s", file, f"{len(batch):,}", time.perf_counter() - begun)
    used = {one.column: one for one in made_by_feature(model.made, task.features).values() if one.column in columns}
    n_unseen_of = {name: n_unseen(batch[name], one) for name, one in used.items()}
    return pa.table(columns), n_missing, n_unseen_of


def _is_known(training: TrainingData, genes: pa.Array) -> pa.Array:
    """Return whether the model was trained on the gene of each row, null where a row has none."""
    texts, indices = coded(genes)
    known = training.has_gene([text or "" for text in texts])
    return pa.array(
        [None if text is None else bool(one) for text, one in zip(texts, known, strict=True)], pa.bool_()
    ).take(indices)
