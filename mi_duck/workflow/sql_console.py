"""Answers to SQL on a terminal, in a pipe and in a file, and the console of ``mi-duck sql``: history, completion, a pager."""

import csv
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from mi_duck.console import Table, errors, output, print_facts, print_json, print_table, unique
from mi_duck.data.sql_files import named_queries
from mi_duck.errors import DataError, MiDuckError
from mi_duck.evaluate.catalogue import describe_catalogue, named_or, open_catalogue, query_catalogue, write_answer
from mi_duck.run.folder import RunFolder

SHOWN = 50
"""Rows that a terminal shows of an answer, unless more are asked for."""
HISTORY = ".mi_duck_sql_history"
MOST_LINES = 1000  # of the history
HELP = """A statement ends with a semicolon. .tables lists tables, .columns TABLE what its columns hold, .queries the named
queries, .run NAME runs one, .quit (or Ctrl-D) leaves."""


def ask(
    root: Path,
    query: str | None,
    name: str | None,
    *,
    limit: int | None,
    form: Literal["text", "json", "csv"],
    parquet: Path | None,
) -> None:
    """Answer a query or a named one; with neither be a console on a terminal, read the query from a pipe, or list what there is.

    Parameters
    ----------
    limit
        Most rows; None: `SHOWN` on a terminal, and all elsewhere; 0: all.
    parquet
        Where to write the answer instead of printing it; None to print it.
    """
    if query is None and name is None:
        if sys.stdin.isatty() and output.is_terminal and form == "text":
            run_console(root)
            return
        query = None if sys.stdin.isatty() else sys.stdin.read().strip() or None
        if query is None:
            _print_catalogue(root, as_json=form == "json")
            return
    if parquet is not None:
        print_facts({"out": str(parquet), "n_rows": write_answer(root, named_or(query, name), parquet)})
        return
    columns, rows = query_catalogue(root, query=query, name=name)
    if form == "text":
        print_answer(columns, rows, limit=limit)
        return
    rows = rows[: limit or None]
    if form == "json":
        print_json([dict(zip(unique(columns), row, strict=True)) for row in rows])
    else:
        lines = csv.writer(sys.stdout, lineterminator="\n")
        lines.writerow(columns)
        lines.writerows(rows)


def _print_catalogue(root: Path, *, as_json: bool) -> None:
    tables, queries = describe_catalogue(root)
    if as_json:
        print_json({"tables": tables, "queries": queries})
        return
    lines = [[table, f"{facts['n_rows']:,}", ", ".join(facts["columns"])] for table, facts in tables.items()]
    print_table(Table(["table", "rows", "columns"], lines))
    print_table(Table(["--name", "what it shows"], list(queries.items())))


def print_answer(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, limit: int | None = None) -> None:
    """Print an answer: on a terminal its first rows, numbers short; elsewhere all of it, as it is; ``limit`` as for `ask`."""
    most = (SHOWN if output.is_terminal else 0) if limit is None else limit
    shown = rows[:most] if most else rows
    if output.is_terminal:
        shown = [[f"{one:.6g}" if isinstance(one, float) else one for one in row] for row in shown]
    print_table(Table(columns, shown))
    if len(shown) < len(rows):
        errors.print(f"{len(shown):,} of {len(rows):,} rows; --limit 0 shows all")


# ---- the console --------------------------------------------------------------------------------------------------------


def run_console(root: Path, read: Callable[[str], str] = input) -> None:
    """Ask for statements and answer them until the input ends.

    Parameters
    ----------
    read
        Returns the next line, given a prompt; raises EOFError at the end.
    """
    with open_catalogue(RunFolder(root)) as db:
        columns = db.columns()
    errors.print(f"{root}: {', '.join(columns)}", markup=False)
    errors.print(HELP, markup=False)
    with _line_editing([*columns, *{one for names in columns.values() for one in names}, *named_queries()]):
        for statement in _statements(read):
            try:
                if not _answer(root, statement):
                    return
            except MiDuckError as error:
                errors.print(f"error: {error}", markup=False)


def _statements(read: Callable[[str], str]) -> Iterator[str]:
    """Yield statements, which end with a semicolon, and lines that begin with a dot; Ctrl-C drops what was begun."""
    begun: list[str] = []
    while True:
        try:
            line = read("sql> " if not begun else "...> ")
        except KeyboardInterrupt:
            errors.print()
            begun = []
            continue
        except EOFError:
            return
        if not begun and line.strip().startswith("."):
            yield line.strip()
        elif line.strip() or begun:
            begun.append(line)
            if line.rstrip().endswith(";"):
                yield "\n".join(begun)
                begun = []


def _answer(root: Path, statement: str) -> bool:
    """Answer a statement or do what a line with a dot says; return whether to go on."""
    name, _, rest = statement.partition(" ")
    if name in (".quit", ".exit"):
        return False
    if name == ".tables":
        _show(*query_catalogue(root, name="tables"))
    elif name == ".columns":
        columns, rows = query_catalogue(root, name="columns")
        found = [row[1:] for row in rows if row[0] == rest.strip()]
        if not found:
            raise DataError(f"no table '{rest.strip()}'; .tables lists them")
        _show(columns[1:], found)
    elif name == ".queries":
        _show(["name", "what it shows"], list(named_queries().items()))
    elif name == ".run":
        _show(*query_catalogue(root, name=rest.strip()))
    elif name.startswith("."):
        errors.print(HELP, markup=False)
    else:
        _show(*query_catalogue(root, query=statement))
    return True


def _show(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print an answer, through a pager where it is longer than the terminal."""
    if output.is_terminal and len(rows) + 3 > output.height:
        with output.pager():
            print_answer(columns, rows, limit=0)
    else:
        print_answer(columns, rows, limit=0)


@contextmanager
def _line_editing(words: Sequence[str]) -> Iterator[None]:
    """Let lines be edited, completed with these words, and remembered; Ctrl-C interrupts a line and not the program."""
    try:
        import readline
    except ImportError:  # Windows
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    history = Path.home() / HISTORY
    with suppress(OSError):
        readline.read_history_file(history)
    readline.set_history_length(MOST_LINES)
    readline.set_completer(
        lambda text, state: next(islice((one for one in words if one.startswith(text)), state, None), None)
    )
    readline.set_completer_delims(re.sub(r"[\w.]", "", readline.get_completer_delims()))
    readline.parse_and_bind("tab: complete")
    try:
        yield
    finally:
        with suppress(OSError):
            readline.write_history_file(history)
        signal.signal(signal.SIGINT, before)
