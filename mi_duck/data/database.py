"""Owns the DuckDB connection: finds the files in ``sql/``, runs them by name, returns or streams their results.

Every step of SQL is one file with one SELECT; the caller decides whether its result becomes a table, rows in memory or a
stream of batches. DuckDB's errors are wrapped here, once, with the name of the file and its parameters.
"""

import glob
import logging
import re
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import duckdb
import pyarrow as pa

from mi_duck.data.parquet import BATCH_ROWS, DataFile, ObjectFile, schema_of, sql_file_system, verify_pages
from mi_duck.data.sql_files import sql_folder
from mi_duck.data.values import has_fractions
from mi_duck.errors import DataError, MemoryBudgetError, StorageError
from mi_duck.file_kinds import odd_line

logger = logging.getLogger(__name__)

Relation = duckdb.DuckDBPyRelation
"""A table that is not computed before it is looked at."""

SQL_BYTES = 1 << 30  # what the buffers of DuckDB may take while a run is planned and partitioned
MOST_ROWS = 2_000_000  # of a query's answer, which is held as Python objects: about 1 GB


def quoted(identifier: str) -> str:
    """Quote a column or table name for SQL.

    Examples
    --------
    >>> print(quoted('odd "name'))
    "odd ""name"
    """
    if "\x00" in identifier:
        raise DataError(f"the name {identifier!r} holds a zero character, which no SQL name can")
    return '"' + identifier.replace('"', '""') + '"'


class Database:
    """One DuckDB connection with named SQL.

    Parameters
    ----------
    path
        Database file, or None for a database in memory.
    read_only
        Open an existing file without the right to change it, and without access to any other file.
    memory_bytes
        Limit of DuckDB's buffers; its other allocations come on top (about 200 MB).
    scratch
        Folder for what does not fit into the limit, or None: then nothing is spilled.
    storage_version
        The oldest DuckDB that is to open a new file, such as ``v1.2.0``; None: this one.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        read_only: bool = False,
        memory_bytes: int = 1 << 30,
        threads: int | None = None,
        scratch: Path | None = None,
        storage_version: str | None = None,
    ) -> None:
        settings: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": f"{max(memory_bytes, 64 << 20) // 1_000_000}MB",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
            "preserve_insertion_order": "true",
            "temp_directory": str(scratch) if scratch else "",  # DuckDB's own would be beside the file
            # no threads that read ahead: they hold the footers of all files at once, 1 MB per thousand row groups and columns
            "async_threads": 0,
        }
        self._threads = threads or 1
        if threads is not None:
            settings["threads"] = threads
        if storage_version is not None:
            settings["storage_compatibility_version"] = storage_version
        with _wrapped("opening", {"path": str(path)}):
            self._connection = duckdb.connect(str(path) if path else ":memory:", read_only=read_only, config=settings)
            if read_only and not self._is_locked():
                self.lock()

    def lock(self) -> None:
        """Let SQL reach nothing but the tables of this database from now on."""
        # not among the settings of the constructor: they would be applied in any order, and no other can follow these
        self._connection.execute("set enable_external_access = false")
        self._connection.execute("set lock_configuration = true")

    def _is_locked(self) -> bool:
        """Return whether another connection of this process to the same file has locked it already."""
        (is_locked,) = self._connection.execute("select current_setting('lock_configuration')").fetchall()[0]
        return bool(is_locked)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def open_source(
        self,
        files: Sequence[DataFile],
        *,
        gene_column: str,
        label_column: str,
        fold_column: str,
        position_column: str | None = None,
        site_scores: Sequence[str] = (),
        content: Sequence[str] = (),
        weight_column: str | None = None,
    ) -> None:
        """Make the view ``source_rows`` over Parquet files, local or of one bucket of an object store.

        Its columns are gene_id, fold_group, label_text, position (null without such a column), site_score (the largest of
        the given columns, null where one is null or NaN), content (the values of the given columns as one text, by which
        rows are told apart; null without any), digest (a number of 64 bits made of them), weight (1 without such a column),
        file, row_number. Everything after reads the view, so the names of the user's columns appear in SQL here alone, quoted by
        one function.

        Folder names such as ``chrom=4`` count only where the files lack one of the first three columns, and as text: as
        numbers, ``007`` and ``7`` would be one gene.

        DuckDB verifies no checksum, so the pages of all these columns are verified first: see `verify_pages`.
        """
        needed = [
            gene_column,
            fold_column,
            label_column,
            *filter(None, [position_column, weight_column]),
            *site_scores,
            *content,
        ]
        verify_pages(files, list(dict.fromkeys(needed)), threads=self._threads)
        with _wrapped("source_rows", {"files": len(files)}):
            gene, group, label = self._names_of(files[0], gene_column, fold_column, label_column)
            self._parquet(files, [gene_column, label_column, fold_column]).project(
                f"{gene} as gene_id, {group} as fold_group, {label} as label_text, "
                f"{_position(position_column)}, "
                f"{_largest(site_scores)} as site_score, {_content(content)} as content, {_digest(content)} as digest, "
                f"{quoted(weight_column) if weight_column else 1}::double as weight, "
                "filename as file, file_row_number as row_number"
            ).create_view("source_rows")

    def open_all_columns(
        self,
        files: Sequence[DataFile],
        columns: Sequence[str],
        *,
        gene_column: str,
        position_column: str | None = None,
        as_bytes: Collection[str] = (),
    ) -> pa.Schema:
        """Make the view ``source_columns`` over the same files, whose pages the caller has verified; return its schema.

        Its columns are gene_id, position, file and row_number, as in ``source_rows``, then column_0, column_1 and so on, in
        the order given: numbers and not names, because a user's column may be called gene_id too. Those in ``as_bytes`` are
        read as one byte per value; a value beyond 0 to 255 is a `DataError` when the view is read.
        """
        small = set(as_bytes)
        numbered = ", ".join(
            f"{quoted(name)}{'::utinyint' if name in small else ''} as column_{number}"
            for number, name in enumerate(columns)
        )
        with _wrapped("source_columns", {"files": len(files)}):
            (gene,) = self._names_of(files[0], gene_column)
            self._parquet(files, [gene_column, *columns]).project(
                f"{gene} as gene_id, {_position(position_column)}, "
                f"filename as file, file_row_number as row_number, {numbered}"
            ).create_view("source_columns")
            return self._connection.sql("from source_columns limit 0").to_arrow_table().schema

    @staticmethod
    def _names_of(file: DataFile, *columns: str) -> list[str]:
        """Return SQL for the texts of columns by which genes, groups and labels are known."""
        schema = schema_of(file)
        return [_name_of(one, schema.field(one).type if one in schema.names else None) for one in columns]

    def _parquet(self, files: Sequence[DataFile], needed: Sequence[str]) -> duckdb.DuckDBPyRelation:
        """Return the rows of Parquet files; folders name columns only where the files lack one that is needed."""
        if isinstance(files[0], ObjectFile) and not self._connection.filesystem_is_registered("s3"):
            self._connection.register_filesystem(sql_file_system(files[0].parts[0]))
        needs_folders = not set(needed) <= set(schema_of(files[0]).names)
        return self._connection.sql(
            "from read_parquet($files, filename = true, file_row_number = true, "
            "hive_partitioning = $needs_folders, hive_types_autocast = false)",
            params={"files": self.patterns(files), "needs_folders": needs_folders},
        )

    @staticmethod
    def patterns(files: Sequence[DataFile]) -> list[str]:
        """Return paths in which glob characters stand for themselves."""
        return [glob.escape(str(file)) for file in files]

    def table(self, name: str, /, **parameters: Any) -> None:
        """Run ``sql/<name>.sql`` and keep its result as the table of that name."""
        text = self._text(name)
        begun = time.perf_counter()
        with _wrapped(name, parameters):
            made = self._connection.execute(
                f"create or replace table {quoted(name.split('/')[-1])} as {text}", parameters
            )
            _trace(name, made.fetchall()[0][0], begun)

    def view(self, name: str) -> None:
        """Make ``sql/<name>.sql``, which has no parameters, a view of that name: it is run anew whenever it is read."""
        with _wrapped(name, {}):
            self._connection.execute(f"create or replace view {quoted(name)} as {self._text(name)}")

    def rows(self, name: str, /, **parameters: Any) -> list[dict[str, Any]]:
        """Run ``sql/<name>.sql`` and return its rows, each a dictionary by column."""
        return self.arrow(name, **parameters).to_pylist()  # type: ignore[no-any-return]

    def arrow(self, name: str, /, **parameters: Any) -> pa.Table:
        """Run ``sql/<name>.sql`` and return its result as one Arrow table."""
        begun = time.perf_counter()
        with _wrapped(name, parameters):
            result = self._connection.sql(self._text(name), params=parameters or None).to_arrow_table()
            _trace(name, result.num_rows, begun)
            return result

    def load(self, name: str, table: pa.Table) -> None:
        """Copy an Arrow table into a table of the database."""
        with _wrapped(name, {"rows": table.num_rows}):
            cursor = self._connection.cursor()
            cursor.register("arrow_table", table)
            cursor.execute(f"create or replace table {quoted(name)} as select * from arrow_table")
            cursor.unregister("arrow_table")

    def table_from(self, name: str, source: str, batches: pa.RecordBatchReader, /, **parameters: Any) -> None:
        """Run ``sql/<name>.sql``, which reads the batches once as the table ``source``, and keep its result as a table."""
        self._connection.register(source, batches)
        try:
            self.table(name, **parameters)
        finally:
            self._connection.unregister(source)

    def open_text(
        self,
        view: str,
        file: Path,
        columns: Sequence[str],
        needed: Sequence[str],
        *,
        n_before: int = 0,
        delimiter: str = "\t",
    ) -> None:
        """Make a view over a table in text, plain or gzip, all of whose cells are texts; lines that begin with # are no rows.

        Parameters
        ----------
        view
            Its name.
        file
            The table.
        columns
            Names for its columns, in their order.
        needed
            Columns of the view; null where the table lacks one. Cells that are empty, ``.`` or ``NA`` are null.
        n_before
            Lines up to and with a header.
        delimiter
            What stands between two cells.
        """
        with file.open("rb") as stream:
            is_packed = stream.read(2) == b"\x1f\x8b"
        with _wrapped(view, {"file": str(file)}):
            table = self._connection.read_csv(
                glob.escape(str(file)),
                columns=dict.fromkeys(columns, "varchar"),
                header=False,
                skiprows=n_before,
                delimiter=delimiter,
                comment="#",
                na_values=["", ".", "NA", "NaN", "nan", "null"],
                null_padding=True,
                compression="gzip" if is_packed else "none",
                auto_detect=False,
                quotechar='"',
                escapechar='"',
                strict_mode=False,
            )
            absent = [name for name in needed if name not in columns]
            table.project(
                ", ".join(
                    [*(quoted(name) for name in needed if name not in absent)]
                    + [f"null::varchar as {quoted(name)}" for name in absent]
                )
            ).create_view(view)

    def read_texts(
        self,
        files: Sequence[Path],
        as_text: Collection[str],
        *,
        delimiter: str,
        batch_rows: int,
        folder_keys: Sequence[str] = (),
        label: str | None = None,
    ) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """Return the schema and the rows, in their order, of tables in text, plain or gzip, whose first line names the columns.

        The type of a column is the narrowest that holds all its values in all files: every row is looked at. Those in
        ``as_text`` are texts. Cells that are empty, ``.`` or ``NA`` are null. ``folder_keys`` are columns that partition
        folders (``key=value``) over the files name. ``label`` is a text where its type would be that of truth values.
        """
        paths = self.patterns(files)
        # all of them given, so that no odd line is taken for the header and no odd quote for a value
        options = (
            f"""delim = {_literal(delimiter)}, quote = '"', escape = '"', comment = '', skip = 0, header = true, """
            "strict_mode = true, null_padding = false, nullstr = ['', '.', 'NA', 'N/A', 'nan', 'NaN', 'null', 'NULL']"
        )
        with _text_errors(files, delimiter):
            names = self._connection.sql(
                f"from read_csv($paths, {options}, all_varchar = true, hive_partitioning = false)",
                params={"paths": paths},
            )
            texts = ", ".join(f"{_literal(name)}: 'VARCHAR'" for name in names.columns if name in set(as_text))
            types = f", types = {{{texts}}}" if texts else ""
            columns = ", ".join(map(quoted, (*names.columns, *folder_keys)))
            folders = "true, hive_types_autocast = false" if folder_keys else "false"
            found = self._connection.sql(
                f"select {columns} from read_csv($paths, {options}, sample_size = -1, files_to_sniff = -1{types}, "
                f"hive_partitioning = {folders})",
                params={"paths": paths},
            )
            if label in found.columns and str(found.types[found.columns.index(label)]) == "BOOLEAN":
                return self.read_texts(
                    files, {*as_text, label}, delimiter=delimiter, batch_rows=batch_rows, folder_keys=folder_keys
                )
            reader = found.to_arrow_reader(batch_rows)
        return reader.schema, self._batches_of(reader, files, delimiter)

    @staticmethod
    def _batches_of(reader: pa.RecordBatchReader, files: Sequence[Path], delimiter: str) -> Iterator[pa.RecordBatch]:
        with _text_errors(files, delimiter):
            yield from _arrow_errors(reader)

    def load_parquet(self, name: str, file: Path) -> None:
        """Copy a Parquet file that mi_duck wrote into a table of the database."""
        with _wrapped(name, {"file": str(file)}):
            self._connection.read_parquet(self.patterns([file])).create(name)

    def open_parquet(self, name: str, file: Path) -> None:
        """Make a Parquet file that mi_duck wrote a view, which is read anew, as far as needed, by every query."""
        with _wrapped(name, {"file": str(file)}):
            self._connection.read_parquet(self.patterns([file])).create_view(name)

    def comment(self, comments: Mapping[str, tuple[str, Mapping[str, str]]]) -> None:
        """Say in the database what tables hold, and what each of their columns does, by their names."""
        statements = ["begin"]
        for table, (text, columns) in comments.items():
            statements.append(f"comment on table {quoted(table)} is {_literal(text)}")
            statements += [
                f"comment on column {quoted(table)}.{quoted(name)} is {_literal(words)}"
                for name, words in columns.items()
            ]
        with _wrapped("comments", {}):
            self._connection.execute("; ".join((*statements, "commit")))  # at once: alone each takes a millisecond

    def flush(self) -> None:
        """Write all tables into the database's file; closing does it too, but hides that the disk is full."""
        try:
            self._connection.execute("checkpoint")
        except (duckdb.FatalException, duckdb.IOException) as error:  # fatal: the connection cannot be used any more
            raise StorageError(f"{_line(error)}; free some space and run the same command again") from error

    def drop(self, table: str) -> None:
        """Drop a table."""
        with _wrapped(table, {}):
            self._connection.execute(f"drop table {quoted(table)}")

    def read(self, table: str) -> pa.Table:
        """Return a whole table as Arrow, in its order."""
        with _wrapped(table, {}):
            return self._connection.sql(f"select * from {quoted(table)}").to_arrow_table()

    def stream(self, name: str, /, *, batch_rows: int = BATCH_ROWS, **parameters: Any) -> Iterator[pa.RecordBatch]:
        """Run ``sql/<name>.sql`` on a cursor of its own and yield its result as Arrow, so many rows per batch at most."""
        with _wrapped(name, parameters):
            result = self._connection.cursor().sql(self._text(name), params=parameters or None)
            yield from _arrow_errors(result.to_arrow_reader(batch_rows))

    def query(self, text: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Run SQL that the user wrote; return column names and rows.

        Raises
        ------
        DataError
            With DuckDB's own words, where the text is not one valid statement; or its answer has too many rows.
        """
        try:  # where the terminal's language is not UTF-8, Python keeps the bytes of an argument as surrogates
            text = text.encode("utf-8", "surrogateescape").decode("utf-8")
        except UnicodeError as error:
            raise DataError(f"the query is not UTF-8 text: {error}") from error
        with _wrapped("query", {}, user=True):
            result = self._connection.execute(self._only_statement(text))
            names = [column[0] for column in result.description or []]
            rows = result.fetchmany(MOST_ROWS + 1)
        if len(rows) > MOST_ROWS:
            raise DataError(
                f"the query has more than {MOST_ROWS:,} rows; add a limit, or read the file with DuckDB itself"
            )
        return names, rows

    def relation(self, text: str) -> Relation:
        """Return what the user's SQL asks for, to be computed when it is looked at; the connection stays open as long.

        Raises
        ------
        DataError
            With DuckDB's own words, where the text is not one valid statement that gives rows.
        """
        with _wrapped("query", {}, user=True):
            found = self._connection.sql(self._only_statement(text))
        if found is None:
            raise DataError("the query gives no rows; give one SELECT")
        return found

    def _only_statement(self, text: str) -> duckdb.Statement:
        statements = self._connection.extract_statements(text)
        if len(statements) != 1:
            raise DataError(f"the query holds {len(statements)} SQL statements; give exactly one")
        return statements[0]

    def columns(self) -> dict[str, list[str]]:
        """Return the columns of every table and view, by its name."""
        found: dict[str, list[str]] = {}
        query = "select table_name, column_name from information_schema.columns order by table_name, ordinal_position"
        for table, column in self._connection.execute(query).fetchall():
            found.setdefault(table, []).append(column)
        return found

    @staticmethod
    def _text(name: str) -> str:
        return (sql_folder() / f"{name}.sql").read_text(encoding="utf-8")

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return ``n_rows`` and ``columns`` of every table and view, by name."""
        found = {}
        for name, columns in self.columns().items():
            with _wrapped(name, {}, user=True):
                found[name] = {"n_rows": self._connection.table(quoted(name)).shape[0], "columns": columns}
        return found


@contextmanager
def _text_errors(files: Sequence[Path], delimiter: str) -> Iterator[None]:
    """Turn DuckDB's errors at a table in text into one line with its file and line."""
    try:
        with _wrapped("tables in text", {}):
            yield
    except DataError as error:
        line = re.search(r"on Line: (\d+)", str(error))
        counts = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", str(error))
        file = re.search(r"file = (.+?) delimiter = ", str(error))
        where = f"line {line[1]} of {file[1] if file else files[0]}" if line else f"a line of {files[0]}"
        what = f"has {counts[2]} cells, its first line {counts[1]}" if counts else "does not fit its first line"
        if not line and (odd := next(filter(None, (odd_line(one, delimiter) for one in files)), None)):
            where, what = odd
        raise DataError(
            f"{where} {what}; give each line as many cells as the first, quotes in pairs, and save it as UTF-8"
        ) from error


def _arrow_errors(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    """Yield what a query gives; errors of DuckDB, which Arrow passes on as its own, are DuckDB's again."""
    try:
        yield from reader
    except (pa.ArrowException, OSError) as error:
        kinds = {"Out of Memory": duckdb.OutOfMemoryException, "IO Error": duckdb.IOException}
        kind = next((kinds[words] for words in kinds if words in str(error)), duckdb.InvalidInputException)
        raise kind(str(error)) from error


def _trace(name: str, n_rows: int, begun: float) -> None:
    """Log for debugging that a file of SQL was run."""
    logger.debug("sql/%s.sql: %s rows, %.3f s", name, f"{n_rows:,}", time.perf_counter() - begun)


@contextmanager
def _wrapped(name: str, parameters: Mapping[str, Any], *, user: bool = False) -> Iterator[None]:
    """Turn DuckDB's errors into those of mi_duck, with the name of the SQL file and its parameters."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        if "max_temp_directory_size" in str(error):  # memory is short because the disk is
            raise StorageError(
                f"{name} does not fit in memory, nor what is left of it on the disk of the run's .scratch "
                f"({_line(error).split('. ')[0]}); free some space and run the same command again"
            ) from error
        raise MemoryBudgetError(f"{name} needs more memory than DuckDB may use: {_line(error)}") from error
    except duckdb.IOException as error:
        raise StorageError(f"{name}: {_line(error)}") from error
    except duckdb.Error as error:
        if user:
            raise DataError(_line(error)) from error
        if isinstance(error, (duckdb.InvalidInputException, duckdb.ConversionException)):
            raise DataError(f"{name} ({_short(parameters)}): {_line(error)}") from error
        if type(error) is duckdb.Error:  # what the Parquet reader raises at bytes that make no sense
            raise DataError(f"{name}: a Parquet file is damaged ({_line(error)}); write it again") from error
        raise


def _literal(text: str) -> str:
    """Quote a text for SQL."""
    return "'" + text.replace("'", "''") + "'"


def _name_of(column: str, kind: pa.DataType | None) -> str:
    """Return SQL for the text by which a gene, label or group is known: see `mi_duck.data.values`.

    Parameters
    ----------
    kind
        Type of the column, or None where it is the name of a folder.
    """
    name = quoted(column)
    if kind is not None and pa.types.is_boolean(kind):
        return f"{name}::tinyint::varchar"
    if kind is not None and has_fractions(kind):
        return (
            f"case when isnan({name}::double) then null when isfinite({name}::double) and {name} = trunc({name}) "
            f"then {name}::hugeint::varchar else {name}::varchar end"
        )
    return f"{name}::varchar"


def _position(column: str | None) -> str:
    return f"{'null' if column is None else quoted(column)}::bigint as position"


def _largest(columns: Sequence[str]) -> str:
    """Return SQL for the largest of some columns of a row; null, that is unknown, where one is null or NaN."""
    if not columns:
        return "null::double"
    known = " and ".join(f"{quoted(name)} is not null and not isnan({quoted(name)}::double)" for name in columns)
    return f"case when {known} then greatest({', '.join(f'{quoted(name)}::double' for name in columns)}) end"


def _content(columns: Sequence[str]) -> str:
    """Return SQL for the values of a row as one text, as the models see them: float32, null and NaN the same."""
    if not columns:
        return "null::varchar"
    texts = (f"coalesce({one}::varchar, '')" for one in _as_seen(columns))
    return f"concat_ws(',', {', '.join(texts)})"


def _digest(columns: Sequence[str]) -> str:
    """Return SQL for 64 bits of the same values: a tenth of the time of the text, but DuckDB may change them."""
    return f"hash({', '.join(_as_seen(columns))})" if columns else "null::ubigint"


def _as_seen(columns: Sequence[str]) -> list[str]:
    """Return SQL for each column as the models see it: float32, NaN as null."""
    return [f"nullif(try_cast({quoted(name)} as float), 'nan'::float)" for name in columns]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _short(parameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={str(value)[:60]}" for key, value in parameters.items())


def read_parquet(file: Path) -> Relation:
    """Return the rows of a Parquet file, in a database in memory, to be read when they are looked at."""
    with _wrapped("reading", {"file": str(file)}):
        return duckdb.connect(":memory:").read_parquet(Database.patterns([file]))


def relation_of(table: pa.Table) -> Relation:
    """Return the rows of an Arrow table, in a database in memory."""
    return duckdb.connect(":memory:").from_arrow(table)
