"""Flags from a TOML file: they act, the command line wins, and what is wrong with a file is said in one line."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import typer
from runs import assert_refused, call, contents, finished_run
from test_cli import BASE
from typer.testing import CliRunner

from mi_duck.api.arguments import records_of
from mi_duck.errors import PlanError
from mi_duck.options import Flag, Setting, add_command, read_settings
from mi_duck.run.folder import RunFolder
from mi_duck.run.plan import Plan
from mi_duck.settings import PRESETS, Asked, Columns

FLAGS = {
    "run": {"seed": Flag("seed", int), "n-folds": Flag("n_folds", int), "skip-shap": Flag("skip_shap", bool)},
    "predict": {"out": Flag("out", str), "out-dir": Flag("out", str), "rate": Flag("rate", float)},
}


def written(folder: Path, text: str | bytes) -> Path:
    file = folder / "flags.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def values(folder: Path, text: str | bytes, command: str = "run") -> dict[str, Any]:
    return {name: one.value for name, one in read_settings(written(folder, text), command, FLAGS).items()}


def planned_with(folder: Path, dataset: Path, text: str, *flags: object) -> Plan:
    result = call("plan", dataset, "--out", folder / "run", "--config", written(folder, text), *BASE, *flags)
    assert result.exit_code == 0, result.output
    return RunFolder(folder / "run").read_plan()


def test_read_settings__takes_the_table_of_the_command_before_the_top(tmp_path: Path) -> None:
    text = "seed = 1\nn_folds = 4\nrate = 2\n[run]\nseed = 7\n[predict]\nout = 'p'\n"
    assert values(tmp_path, text) == {"seed": 7, "n_folds": 4}
    assert values(tmp_path, text, "predict") == {"rate": 2, "out": "p"}
    assert read_settings(tmp_path / "flags.toml", "run", FLAGS)["seed"] == Setting("run.seed", 7)


def test_read_settings__passes_over_a_byte_order_mark_and_takes_nothing_from_nothing(tmp_path: Path) -> None:
    assert values(tmp_path, b"\xef\xbb\xbfseed = 3\r\n") == {"seed": 3}
    assert values(tmp_path, "") == {}
    assert values(tmp_path, "# seed = 3\n[run]\n") == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seeds = 1", "unknown key 'seeds'; did you mean 'seed'"),
        ("[rn]\nseed = 1", "unknown key 'rn'; did you mean 'run'"),
        ("[run]\nrate = 1", r"unknown key 'rate' in \[run\]; 'mi-duck run --help' lists them"),
        ("[predict]\nseed = 1", r"unknown key 'seed' in \[predict\]"),
        ("qqq = 1", "unknown key 'qqq'; 'mi-duck COMMAND --help' lists them"),
        ("run.seed.a = 1", "'run.seed' needs a whole number, not {'a': 1}"),
        ("run = 1", r"'run' is a command; write its flags under \[run\]"),
        ("predict = [1]", r"'predict' is a command; write its flags under \[predict\]"),
        ("[[run]]\nseed = 1", "'run' is a command"),
        ("seed = 1\nseed = 2", "is not TOML: Cannot overwrite a value"),
        ("n-folds = 3\nn_folds = 3", "'n-folds' and 'n_folds' are the same flag; keep one"),
        ("seed = '1'", "'seed' needs a whole number, not '1'"),
        ("seed = true", "'seed' needs a whole number, not True"),
        ("seed = 1.0", "'seed' needs a whole number, not 1.0"),
        ("seed = [1]", "'seed' needs a whole number"),
        ("seed = 2020-01-01", "'seed' needs a whole number"),
        ("skip-shap = 1", "'skip-shap' needs true or false, not 1"),
        ("skip-shap = 'yes'", "'skip-shap' needs true or false, not 'yes'"),
        ("seed = ", "is not TOML"),
        ("seed = " + "1" * 5_000, "is not TOML"),
        (b"seed = 1 # \xff", "is not UTF-8 at byte 11"),
        ("a = " + "[" * 100_000, "is nested deeper"),
        ("seed = 1 #" + " " * (1 << 20), "is larger than 1 MB"),
        (".".join("a" * 100_000) + " = 1", "a line with more than 100 dots"),
    ],
)
def test_read_settings__refuses_in_one_line(text: str | bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=words) as caught:
        values(tmp_path, text)
    assert str(tmp_path / "flags.toml") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rate = nan", "'rate' needs a number, not nan"),
        ("rate = 'a'", "'rate' needs a number, not 'a'"),
        ("rate = false", "'rate' needs a number, not False"),
        ("out = 5", "'out' needs text in quotes, not 5"),
        ('out = "a\\u0000b"', "'out' needs text in quotes"),
        ("out = 'a'\nout-dir = 'a'", "are the same flag"),
    ],
)
def test_read_settings__knows_numbers_and_text(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=words):
        values(tmp_path, text, "predict")


def test_read_settings__of_no_file(tmp_path: Path) -> None:
    for file in (tmp_path, tmp_path / "absent.toml"):
        with pytest.raises(PlanError, match="cannot read --config"):
            read_settings(file, "run", FLAGS)


def test_config__sets_what_the_command_line_does_not(small_dataset: Path, tmp_path: Path) -> None:
    """The file wins over defaults, the command line over the file; keys of other commands at the top do not matter."""
    text = (
        "n-estimators = 7\nmax_depth = 3\nlearning-rate = 1\nshap-sample = 9\ncalibrate-per-class = false\n"
        "[plan]\nmax-bin = 32\nvoting = 'margin'\nexclude = '^5mer'\nn-folds = 4\n[run]\nmax-bin = 64\n"
    )
    plan = planned_with(tmp_path, small_dataset, text, "--n-folds", "2", "--max-depth", "5")
    found = plan.settings
    assert (found.n_estimators, found.max_depth, found.learning_rate, found.max_bin) == (7, 5, 1.0, 32)
    assert (found.n_folds, found.calibrate, found.early_stopping_patience) == (2, False, 30)
    assert plan.asked.voting == "margin"
    assert not [name for name in plan.data.features if name.startswith("5mer")]


def test_preset__fills_in_what_is_not_given(tmp_path: Path) -> None:
    """Command line and file win over the preset; of parameters of XGBoost the user's names alone do, as in Python."""
    seen: list[Asked] = []

    def some(*, asked: Asked) -> None:
        """Take options."""
        seen.append(asked)

    app = typer.Typer()
    add_command(app, some)
    add_command(app, some, name="other")  # of one command Typer makes an app without commands
    file = written(tmp_path, "preset = 'levels'\nmax-depth = 4\nxgb = ['gamma=1', 'min_child_weight=2']\n")
    for words in (["--config", str(file), "--n-estimators", "7", "--seed", "42"], ["--preset", "balanced"], []):
        assert CliRunner().invoke(app, ["some", *words]).exit_code == 0
    expected = dict(PRESETS["levels"]) | {"max_depth": 4, "n_estimators": 7}
    expected["xgb"] = ("colsample_bynode=1", "gamma=1", "min_child_weight=2")
    del expected["max_levels"]  # of another record
    assert seen == [Asked(**expected), Asked(), Asked()]
    given = {"max_depth": 4, "n_estimators": 7, "xgb": {"gamma": 1, "min_child_weight": 2}}
    assert records_of("train", given, [Asked], preset="levels") == seen[:1]
    for name, values in PRESETS.items():
        records = [Columns, Asked]
        assert records_of("train", {}, records, preset=name) == records_of("train", values, records)
    with pytest.raises(PlanError, match="not 'bst'; did you mean 'best'?"):
        records_of("train", {}, [Asked], preset="bst")  # type: ignore[arg-type]


def test_config__may_name_dataset_and_run(small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths count from the working directory; a DATASET that is typed wins over the file's."""
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path)
    text = f"dataset = '{os.path.relpath(small_dataset, tmp_path)}'\nout = 'made'\njson = true\n"
    file = written(tmp_path / "deep", text)
    result = call("plan", "--config", file, *BASE)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["data"]["n_genes"] == 60
    assert RunFolder(tmp_path / "made").read_plan().data.n_genes == 60
    file.write_text("dataset = 'nowhere'\nout = 'other'")
    for typed in ((small_dataset,), ("--dataset", small_dataset)):
        assert_refused(call("plan", "--config", file, *BASE), 65, "nothing is at nowhere")
        out = f"typed{len(typed)}"
        assert call("plan", *typed, "--config", file, "--out", out, *BASE).exit_code == 0
        assert RunFolder(tmp_path / out).read_plan().data.n_genes == 60
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("n-estimators = 0", "'n-estimators':"),
        ("[plan]\nstrategy = 'both'", "'plan.strategy':"),
        ("instance-overlap = 0.51", "'instance-overlap':"),
        ("n-estimatrs = 7", "did you mean 'n-estimators'?"),
        ("no-calibrate-per-class = true", "did you mean 'calibrate-per-class'?"),
        ("config = 'other.toml'", "unknown key 'config'"),
        ("help = true", "unknown key 'help'"),
        ("[memory]\nvoting = 'margin'", "unknown key 'voting' in [memory]"),
    ],
)
def test_config__is_checked_as_what_is_typed(text: str, words: str, small_dataset: Path, tmp_path: Path) -> None:
    file = written(tmp_path, text)
    refused = call("plan", small_dataset, "--out", tmp_path / "run", "--config", file)
    assert_refused(refused, 78, words)
    assert str(file) in refused.stderr
    assert contents(tmp_path) == ["flags.toml"]


def test_config__acts_on_every_command(
    small_dataset: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = finished_run(small_dataset, tmp_path_factory)
    file = written(
        tmp_path, f"json = true\nthreads = 1\n[predict]\nout = '{tmp_path / 'p.parquet'}'\n[sql]\nname = 'folds'\n"
    )
    for arguments in (("status", run), ("predict", run, small_dataset), ("sql", run), ("inspect", small_dataset)):
        result = call(*arguments, "--config", file)
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)
    assert (tmp_path / "p.parquet").is_file()
