"""Options written once: a field of a record arrives on the command line, in the help, in a file, in scripts and in the report."""

import re
import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from plans import made_plan
from typer.testing import CliRunner

from mi_duck import settings
from mi_duck.console import Commands
from mi_duck.options import Only, add_command
from mi_duck.report.records import RunRecords
from mi_duck.report.tables import run_command
from mi_duck.run.made import Dates, Levels
from mi_duck.settings import PANELS, Asked, Columns, Diagnostics, flag_of, flags_of, option, option_of

RECORDS = [
    one
    for one in vars(settings).values()
    if isinstance(one, type) and hasattr(one, "__dataclass_fields__") and one is not settings.Option
]


@dataclass(frozen=True, slots=True)
class Extra:
    """Options that no command has."""

    n_ducks: int = option(3, "Ducks to count.", "Training", least=1, most=9)
    is_loud: bool = option(True, "Quack.", "Diagnostics")
    kind: Literal["mallard", "teal"] = option("mallard", "Kind of duck.", "Data")


def asked_with(*words: str, takes: Any = Extra) -> tuple[Any, Any]:
    """Return the result of a command of these options, and the record that it was called with."""
    app, found = typer.Typer(cls=Commands, rich_markup_mode=None), []

    def count(*, extra: Any) -> None:
        """Count ducks.

        Example: count --n-ducks 4
        """
        found.append(extra)

    count.__annotations__["extra"] = takes
    add_command(app, count)
    app.callback()(lambda: None)
    result = CliRunner().invoke(app, ["count", *words])
    return result, found[0] if found else None


def test_new_option__acts_on_the_command_line_in_a_file_and_in_scripts(tmp_path: Path) -> None:
    assert asked_with()[1] == Extra()
    _, asked = asked_with("--n-ducks", "4", "--no-is-loud", "--kind", "teal")
    assert asked == Extra(4, False, "teal")
    assert list(flags_of(asked)) == ["--n-ducks", "4", "--no-is-loud", "--kind", "teal"]
    assert asked_with(*flags_of(asked))[1] == asked
    assert list(flags_of(Extra(), with_defaults=True)) == ["--n-ducks", "3", "--is-loud", "--kind", "mallard"]
    file = tmp_path / "flags.toml"
    file.write_text("n_ducks = 5\n[count]\nis-loud = false\n")
    assert asked_with("--config", str(file))[1] == Extra(5, False)
    assert asked_with("--config", str(file), "--n-ducks", "6")[1] == Extra(6, False)
    file.write_text("n_duck = 5\n")
    result, _ = asked_with("--config", str(file))
    assert (result.exit_code, "did you mean 'n-ducks'?" in result.stderr) == (78, True)


@pytest.mark.parametrize("words", [("--n-ducks", "10"), ("--n-ducks", "x"), ("--kind", "goose")])
def test_new_option__refuses_what_is_out_of_range(words: tuple[str, ...]) -> None:
    result, asked = asked_with(*words)
    assert (result.exit_code, asked) == (2, None)


def test_only__takes_some_options_and_leaves_the_others_at_their_default() -> None:
    assert asked_with("--n-ducks", "4", takes=Annotated[Extra, Only("n_ducks")])[1] == Extra(4)
    assert asked_with("--kind", "teal", takes=Annotated[Extra, Only("n_ducks")])[0].exit_code == 2


def test_help__shows_the_example_first_and_options_in_panels() -> None:
    text = asked_with("--help")[0].stdout
    order = ["Example: count --n-ducks 4", "Count ducks.", "Data:", "Training:", "Diagnostics:", "Rarely needed:"]
    assert [text.index(words) for words in order] == sorted(text.index(words) for words in order)
    assert re.search(r"--n-ducks .*\n? +Ducks to count.  \[default: 3;\s+1<=x<=9\]", text)


@pytest.mark.parametrize("record", RECORDS, ids=lambda one: str(one.__name__))
def test_records__have_a_panel_a_sentence_and_a_default_within_the_range(record: type) -> None:
    for one in fields(record):  # type: ignore[arg-type]
        found = option_of(one)
        assert found.panel in PANELS
        assert found.help[0].isupper()
        assert found.help.endswith(".")
        if isinstance(one.default, int | float) and not isinstance(one.default, bool):
            assert found.least is None or found.least <= one.default
            assert found.most is None or one.default <= found.most


def test_report__names_every_option_that_was_asked_for(tmp_path: Path) -> None:
    asked = {"device": "cuda", "sample_genes": 40, "train_all_genes": False, "auto_adjust_instance_size": False}
    plan = made_plan(**asked, full_hash=True)
    words = shlex.split(run_command(RunRecords(tmp_path, plan, (), {}, [], {}, [], [])))
    has = {word.replace("--no-", "--", 1) for word in words if word.startswith("--")}
    for one in fields(Asked):
        value = getattr(plan.asked, one.name)
        assert (flag_of(one) in has) == (value not in (None, ()) and not (value is False and one.default is False)), (
            one.name
        )
    assert {"--full-hash", "--gene-column", "--fold-by"} <= has
    assert "--no-auto-adjust-instance-size" in words
    # every option of the columns, but for those that say which ones are left out, which the page asks to be added
    levels = (Levels("town", ("a", "b"), "other"), Levels("sex", ("f", "m")))
    plan = made_plan(levels=levels, dates=(Dates("visit", 1, 2, 0),), weight_column="w", full_hash=True)
    words = shlex.split(run_command(RunRecords(tmp_path, plan, (), {}, [], {}, [], [])))
    assert words[words.index("--weight-column") + 1] == "w"
    assert words[words.index("--date-columns") + 1] == "visit"
    assert words[words.index("--max-levels") + 1] == "2"
    not_there = {one.name for one in fields(Columns) if flag_of(one) not in words}
    assert not_there <= {"exclude", "exclude_features", "base_score_columns", "keep"}
    for columns, most in (
        ((), 0),
        ((Levels("sex", ("f", "m")),), 64),
        ((Levels("x", tuple(map(str, range(90)))),), 90),
    ):
        words = shlex.split(run_command(RunRecords(tmp_path, made_plan(levels=columns), (), {}, [], {}, [], [])))
        assert words[words.index("--max-levels") + 1] == str(most)


def test_flags_of__defaults_are_none() -> None:
    assert list(flags_of(Diagnostics())) == []
