"""`mi-duck sql`: on a terminal, in a pipe, in files; and its console."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from runs import assert_refused, call, here, plain_run
from typer.testing import CliRunner

from cli import app
from mi_duck.console import Screen
from mi_duck.workflow import sql_console


@pytest.fixture(scope="module")
def run(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_run(small_dataset, tmp_path_factory)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Let results go to a terminal of 80 columns, whose text is returned."""
    screen = io.StringIO()
    console = Screen(file=screen, force_terminal=True, width=80, height=30, highlight=False)
    for module in ("mi_duck.console", "mi_duck.workflow.sql_console"):
        monkeypatch.setattr(f"{module}.output", console)
        monkeypatch.setattr(f"{module}.errors", console)
    monkeypatch.setattr("mi_duck.console.Screen", lambda **options: console)
    return screen


def lines(*texts: str) -> Callable[[str], str]:
    """Return what reads these lines, and then the end of the input; an exception is raised in its place."""
    waiting: Iterator[str] = iter(texts)

    def read(prompt: str) -> str:
        try:
            line = next(waiting)
        except StopIteration:
            raise EOFError from None
        if line == "^C":
            raise KeyboardInterrupt
        return line

    return read


# ---- answers ------------------------------------------------------------------------------------------------------------


def test_sql__reads_the_query_from_a_pipe(run: Path) -> None:
    done = CliRunner().invoke(app, ["sql", str(run)], input="select count(*) as n\nfrom genes;\n")
    assert done.stdout.splitlines() == ["n", "60"]
    listed = CliRunner().invoke(app, ["sql", str(run)], input="")
    assert listed.stdout.startswith("table\trows\tcolumns")


def test_sql__prints_csv_and_json_whole(run: Path) -> None:
    query = "select gene_id, n_rows, n_rows / 3 as third from genes order by gene_id"
    text = here("sql", run, query, "--csv").stdout.splitlines()
    records = json.loads(here("sql", run, query, "--json").stdout)
    assert text[0] == "gene_id,n_rows,third"
    assert len(text) == 61
    assert len(records) == 60
    assert text[1] == ",".join(str(value) for value in records[0].values())
    assert len(here("sql", run, query, "--csv", "--limit", "7").stdout.splitlines()) == 8


def test_sql__writes_parquet_once(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "answer.parquet"
    assert "60" in here("sql", run, "from genes", "--parquet", out).stdout
    assert pq.read_table(out).num_rows == 60
    assert_refused(call("sql", run, "from genes", "--parquet", out), 65, "exists")
    assert_refused(call("sql", run, "from absent", "--parquet", tmp_path / "other.parquet"), 65, "absent")
    assert [file.name for file in tmp_path.iterdir()] == ["answer.parquet"]
    assert_refused(call("sql", run, "from genes", "--parquet", out, "--csv"), 2, "exclude each other")


def test_answer__on_a_terminal_is_short(run: Path, terminal: io.StringIO) -> None:
    """Its first rows and six digits; in a pipe it is whole."""
    rows = [(number, number / 7) for number in range(80)]
    sql_console.print_answer(["n", "seventh"], rows)
    shown = terminal.getvalue()
    assert "0.142857 " in shown.replace("\n", " \n")
    assert "50 of 80 rows; --limit 0 shows all" in shown
    terminal.truncate(0)
    sql_console.print_answer(["n", "seventh"], rows, limit=0)
    assert "11.2857" in terminal.getvalue()
    assert "--limit" not in terminal.getvalue()


# ---- the console --------------------------------------------------------------------------------------------------------


def test_console__answers_until_the_input_ends(run: Path, terminal: io.StringIO) -> None:
    said = ("select count(*) as n_found", "from genes;", ".tables", ".queries", ".columns genes", ".run folds", ".help")
    sql_console.run_console(run, lines(*said))
    text = terminal.getvalue()
    for words in ("n_found", "60", "every gene, with its fold", "rows of each fold", "is_holdout", ".quit"):
        assert words in text, words


def test_console__says_what_is_wrong_and_goes_on(run: Path, terminal: io.StringIO) -> None:
    sql_console.run_console(
        run,
        lines("selec 1;", ".columns absent", ".run absent", "select", "^C", "select 41 + 1;", ".quit", "select 99;"),
    )
    text = terminal.getvalue()
    assert text.count("error: ") == 3
    assert "42" in text
    assert "99" not in text
