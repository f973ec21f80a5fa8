"""Python: `train`, `Run`, and options as keyword arguments."""

import contextlib
import inspect
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import FAST, finished_run, here, plain_run, run_here

import mi_duck
from mi_duck.api.arguments import records_of
from mi_duck.api.showing import showing
from mi_duck.api.tables import location_of
from mi_duck.api.train import RECORDS
from mi_duck.ensemble.feature_matrix import feature_matrix
from mi_duck.errors import CheckpointError, DataError, PlanError
from mi_duck.settings import Asked, Columns, option_of

ROOT = Path(__file__).resolve().parent.parent
QUICK: dict[str, Any] = {
    **{"group_column": "patient", "label_column": "outcome", "n_estimators": 4, "n_folds": 2, "threads": 1},
    **{"minimal_diagnostics": True, "skip_shap": True, "consolidation": "voting"},
}


def visits(n: int = 600) -> pa.Table:
    """Return visits of 60 patients whose outcome depends on one number."""
    rng = np.random.default_rng(3)
    size = rng.normal(size=n)
    outcome = np.where(size + rng.normal(size=n) > 0.7, "yes", "no")
    patient = [f"P{one % 60}" for one in range(n)]
    return pa.table({"patient": patient, "outcome": outcome, "size": size, "count": rng.integers(0, 9, n)})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> mi_duck.Run:
    """Make a run of `visits` from a table in memory."""
    return mi_duck.train(visits(), tmp_path_factory.mktemp("python") / "run", **QUICK)


@pytest.fixture(autouse=True)
def _logger_of_a_user(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take away what commands in this process have set up for messages."""
    root, ours = logging.getLogger(), logging.getLogger("mi_duck")
    monkeypatch.setattr(root, "handlers", [one for one in root.handlers if type(one).__name__ != "_Messages"])
    before = ours.level
    yield
    ours.setLevel(before)


# ---- options ------------------------------------------------------------------------------------------------------------


def test_train__has_every_option_of_the_command_line() -> None:
    """In its signature, and in what help() shows, with its range and its default."""
    known = [one for record in RECORDS for one in fields(record)]
    given = list(inspect.signature(mi_duck.train).parameters)
    assert given == ["data", "out", "progress", "preset", *(one.name for one in known)]
    text = mi_duck.train.__doc__ or ""
    assert all(option_of(one).help in text for one in known)
    assert "n_folds : a whole number (at least 2 and at most 100), default 3" in text
    assert "strategy : 'auto' or 'single' or 'multi' or 'external', default 'auto'" in text


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("n_folds", np.int64(4), 4),
        ("learning_rate", 1, 1.0),
        ("sample_genes", None, None),
        ("xgb", {"min_child_weight": 10, "gamma": 0.5}, ("min_child_weight=10", "gamma=0.5")),
        ("xgb", "gamma=1", ("gamma=1",)),
        ("xgb", ["gamma=1", "reg_alpha=2"], ("gamma=1", "reg_alpha=2")),
        ("holdout_genes", 0.2, "0.2"),
        ("classes", ["no", "yes"], "no,yes"),
        ("exclude_features", "names.txt", Path("names.txt")),
        ("group_column", "patient", "patient"),
    ],
)
def test_options__take_what_python_has(name: str, value: Any, kept: Any) -> None:
    columns, asked = records_of("train", {name: value}, (Columns, Asked))
    field = "gene_column" if name == "group_column" else name
    found = getattr(columns if hasattr(columns, field) else asked, field)
    assert found == kept
    assert type(found) is type(kept)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"n_fold": 3}, r"train\(\) has no option 'n_fold'; did you mean 'n_folds'\?"),
        ({"gene_column": "a", "group_column": "b"}, "got 'gene_column' and 'group_column', which are one option"),
    ],
)
def test_options__of_wrong_names_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        records_of("train", values, (Columns, Asked))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"n_folds": 1}, r"n_folds must be a whole number \(at least 2 and at most 100\), not 1"),
        ({"n_folds": 2.5}, "n_folds must be a whole number"),
        ({"n_folds": "3"}, "n_folds must be a whole number"),
        ({"n_folds": True}, "n_folds must be a whole number"),
        ({"n_folds": None}, "n_folds must be a whole number"),
        ({"learning_rate": float("nan")}, r"learning_rate must be a number \(at least 0.0001 and at most 1\)"),
        ({"strategy": "mutli"}, r"not 'mutli'; did you mean 'multi'\?"),
        ({"train_all_genes": 1}, "train_all_genes must be True or False, not 1"),
        ({"classes": ["a,b", "c"]}, "the name 'a,b' has a comma"),
        ({"xgb": 3}, "a mapping of names to values is needed"),
    ],
)
def test_options__of_wrong_values_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        records_of("train", values, (Columns, Asked))


# ---- data ---------------------------------------------------------------------------------------------------------------


def test_location__is_the_same_for_the_same_table_however_it_is_given(tmp_path: Path) -> None:
    """As a table, a stream, a data frame with any index, a relation of DuckDB: the same file, written once."""
    table, out = visits(), tmp_path / "run"
    first = location_of(table, out)
    written = Path(first).stat().st_mtime_ns
    frame = table.to_pandas().set_index(np.arange(len(table))[::-1])
    connection = duckdb.connect()
    for other in (table.to_reader(), frame, pl.from_arrow(table), connection.from_arrow(table), table.combine_chunks()):
        assert pq.read_table(location_of(other, out)).to_pydict() == table.to_pydict()
    assert location_of(table, out) == first
    assert location_of(table, tmp_path / "another run") == first  # so that the two can be compared
    assert Path(first).stat().st_mtime_ns == written
    assert [file.name for file in Path(first).parent.iterdir() if file.name.startswith(".")] == []


def test_location__clears_what_a_killed_call_left_and_nothing_of_a_running_one(tmp_path: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    folder = Path(location_of(visits(), tmp_path / "run")).parent
    left, running = (folder / f".table.{pid}.7.tmp" for pid in (int(dead.stdout), os.getppid()))
    for file in (left, running):
        file.write_bytes(b"half of a table")
    location_of(visits(), tmp_path / "run")
    assert (left.exists(), running.exists()) == (False, True)


def test_location__of_categories_of_polars_has_their_texts(tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": ["x", None, "y"]}, schema={"a": pl.Categorical})
    assert pq.read_table(location_of(frame, tmp_path / "run")).to_pydict() == {"a": ["x", None, "y"]}


def test_location__of_paths_is_these_files(tmp_path: Path) -> None:
    for number in range(3):
        pq.write_table(visits().slice(200 * number, 200), tmp_path / f"{number}.parquet")
    assert location_of(tmp_path / "0.parquet", tmp_path / "run") == str(tmp_path / "0.parquet")
    folder = Path(location_of([tmp_path / "2.parquet", tmp_path / "0.parquet"], tmp_path / "run"))
    assert [file.resolve().name for file in sorted(folder.iterdir())] == ["2.parquet", "0.parquet"]
    location_of([tmp_path / "1.parquet"], tmp_path / "run")
    assert [file.resolve().name for file in sorted(folder.iterdir())] == ["1.parquet"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (42, "data of type int are not a table"),
        ([0, 1], "a list must hold paths, not int"),
        (np.zeros((3, 2)), "data of type ndarray are not a table"),
        ([], "the list of files is empty"),
        (["absent.parquet"], "no file absent.parquet"),
        (["chrom=4/a.parquet"], "lies under a partition folder"),
    ],
)
def test_location__of_anything_else_is_refused(data: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        location_of(data, tmp_path / "run")


def test_location__of_mixed_values_is_refused(tmp_path: Path) -> None:
    import pandas as pd

    with pytest.raises(DataError, match="holds values of several types"):
        location_of(pd.DataFrame({"a": [1, "x", 2.5]}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_predict_proba__takes_the_columns_of_pandas_that_train_takes() -> None:
    """Truth values with None, and decimals: objects to NumPy."""
    import pandas as pd

    frame = pd.DataFrame({"flag": [True, None, False], "dose": [Decimal("1.5"), None, Decimal("2.25")], "x": [1, 2, 3]})
    assert [frame[name].dtype.kind for name in ("flag", "dose")] == ["O", "O"]
    found = feature_matrix(frame, ("flag", "dose", "x"))
    np.testing.assert_array_equal(found, [[1, 1.5, 1], [np.nan, np.nan, 2], [0, 2.25, 3]])
    for wrong in (["1", "2", "3"], [1, "x", 2.5], [object()] * 3, [2**70, None, 1], [True, 2.5, None]):
        with pytest.raises(DataError, match="feature 'flag' is not a column of 3 numbers"):
            feature_matrix(frame.assign(flag=pd.Series(wrong, dtype=object)), ("flag",))


# ---- train --------------------------------------------------------------------------------------------------------------


def test_train__gives_what_the_command_gives(run: mi_duck.Run, tmp_path: Path) -> None:
    """The same model and the same predictions, byte for byte but for the name of the file."""
    pq.write_table(visits(), tmp_path / "visits.parquet")
    flags = [word for name, value in QUICK.items() for word in _flag(name, value)]
    here("run", tmp_path / "visits.parquet", "--out", tmp_path / "run", *flags)
    assert (run.folder / "consolidated_model.miduck").read_bytes() == (
        tmp_path / "run" / "consolidated_model.miduck"
    ).read_bytes()
    ours, theirs = (pq.read_table(one / "oof_predictions.parquet") for one in (run.folder, tmp_path / "run"))
    assert ours.drop_columns("source_file") == theirs.drop_columns("source_file")
    assert set(theirs["source_file"].to_pylist()) == {"visits.parquet"}


def _flag(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    return [flag] if value is True else [flag, str(value)]


def test_train__again_goes_on_with_what_is_there(run: mi_duck.Run, caplog: pytest.LogCaptureFixture) -> None:
    before = (run.folder / "provenance.json").stat().st_mtime_ns
    with caplog.at_level(logging.INFO, "mi_duck"):
        again = mi_duck.train(visits(), run.folder, **QUICK)
    assert "nothing to do" in caplog.text
    assert (again.folder / "provenance.json").stat().st_mtime_ns == before
    with pytest.raises(CheckpointError, match="--replace"):
        mi_duck.train(visits(), run.folder, **QUICK | {"n_estimators": 5})


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"xgb": {"eta": 1}}, PlanError, "option of its own"),
        ({"slurm_options": "--partition=long"}, PlanError, "needs --executor slurm"),
        ({"label_column": "absent"}, DataError, "no column 'absent'"),
        ({"n_folds": 99}, PlanError, "is too many"),
    ],
)
def test_train__refused_leaves_nothing(options: dict[str, Any], error: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=words):
        mi_duck.train(visits(), tmp_path / "run", **QUICK | options)
    assert not (tmp_path / "run").exists()


def test_train__says_what_it_decides_to_the_logger_and_prints_nothing(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Warnings are warnings, which Python shows by itself."""
    monkeypatch.setattr("mi_duck.processes.run_child", run_here)  # what children print is seen where a script runs
    table = visits().append_column("when", pa.array([f"day {one}" for one in range(600)]))
    with caplog.at_level(logging.INFO, "mi_duck"):
        mi_duck.train(table, tmp_path / "run", **QUICK | {"n_estimators": 1})
    assert [one.levelname for one in caplog.records if "left out: when" in one.getMessage()] == ["WARNING"]
    assert "INFO" in {one.levelname for one in caplog.records}
    assert "".join(capfd.readouterr()) == ""


def test_train__works_from_a_script_without_a_guard(tmp_path: Path) -> None:
    """Children are processes of their own, so no `if __name__ == "__main__"`, and files beside it are not imported."""
    pq.write_table(visits(), tmp_path / "visits.parquet")
    (tmp_path / "timeit.py").write_text("raise SystemExit('a file of the user was imported')\n")
    options = {name: value for name, value in QUICK.items() if name != "threads"}
    (tmp_path / "script.py").write_text(
        f"import mi_duck\nrun = mi_duck.train('visits.parquet', 'run', threads=1, **{options!r})\nprint(run)\n"
    )
    done = subprocess.run(
        [sys.executable, "script.py"],
        **{"cwd": tmp_path, "capture_output": True, "text": True, "check": False},
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "Run('run', 60 groups of 'patient', 600 rows, finished)"


# ---- runs ---------------------------------------------------------------------------------------------------------------


def test_run__shows_what_it_holds(run: mi_duck.Run) -> None:
    assert repr(run) == f"Run({str(run.folder)!r}, 60 groups of 'patient', 600 rows, finished)"
    assert run.is_finished
    assert run.plan.asked.n_folds == 2
    assert run.report == run.folder / "report.html"
    assert run.verdict.startswith("The model reaches an average precision of")
    scores = run.scores.filter("scope = 'ensemble' and metric = 'roc_auc' and class = 'yes'")
    assert scores.columns[:5] == ["scope", "instance_id", "metric", "class", "value"]
    assert len(scores.fetchall()) == 1
    assert run.sql("select count(*) from genes").fetchall() == [(60,)]
    assert len(run.out_of_fold().df()) == 600
    assert run.model.predict_proba(visits()).shape == (600, 2)


def test_run__is_a_page_in_a_notebook(run: mi_duck.Run) -> None:
    page = run._repr_html_()
    assert run.verdict in page
    assert "<th>ensemble</th>" in page
    assert f'href="{run.folder / "report.html"}"' in page


def test_run__of_another_program_is_the_same(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    run = mi_duck.Run(finished_run(small_dataset, tmp_path_factory))
    importance = run.importance()
    assert "feature" in importance.columns
    assert len(importance.fetchall()) == len(run.plan.data.features)


def test_run__says_what_is_missing(
    small_dataset: Path, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="no plan in"):
        mi_duck.Run(tmp_path)
    plain = mi_duck.Run(plain_run(small_dataset, tmp_path_factory))
    with pytest.raises(CheckpointError, match="'mi-duck explain'"):
        plain.importance()
    here("plan", small_dataset, "--out", tmp_path / "planned", *[word for word in FAST if word not in DIAGNOSTIC])
    planned = mi_duck.Run(tmp_path / "planned")
    assert "not finished" in repr(planned)
    assert "not finished" in planned._repr_html_()
    with pytest.raises(CheckpointError, match="no report"):
        _ = planned.report


DIAGNOSTIC = ("--minimal-diagnostics", "--skip-shap")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("select absent from genes", "absent"),
        ("selec 1", "selec"),
        ("select 1; select 2", "exactly one"),
        ("", "exactly one"),
        ("create table mine as select 1", "read-only"),
        ("from 'oof_predictions.parquet'", "disabled"),
    ],
)
def test_sql__that_is_wrong_is_refused(query: str, words: str, run: mi_duck.Run) -> None:
    with pytest.raises(DataError, match=words):
        run.sql(query).fetchall()


def test_package__names_what_is_public() -> None:
    assert set(dir(mi_duck)) >= {"train", "Run", "EnsembleClassifier", "load_unified_model"}
    assert all(not name.startswith("_") or name == "__version__" for name in dir(mi_duck))
    assert all(inspect.getdoc(getattr(mi_duck, name)) for name in mi_duck.__all__)


# ---- progress -----------------------------------------------------------------------------------------------------------


def test_progress__is_shown_where_it_is_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    for progress in (None, False):
        with showing(2, progress) as context:
            context.report("training", 1, 2)
        assert context.threads == 2
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.skipif(sys.platform != "linux", reason="kernels of notebooks are tried where clusters run")
def test_tour__runs_and_shows_what_it_says(tmp_path: Path) -> None:
    """The notebook, by a real kernel; progress is one output that changes, and takes itself away."""
    import nbclient
    import nbformat

    book = nbformat.read(ROOT / "benchmarks" / "tour.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in book.cells), "outputs are not kept in the repository"
    with contextlib.chdir(tmp_path):
        nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = json.dumps([cell.get("outputs", []) for cell in book.cells])
    assert "The model" in shown
    assert "<th>ensemble</th>" in shown
    assert "Traceback" not in shown
    training = next(cell for cell in book.cells if "mi_duck.train(" in cell.source)
    assert len(training.outputs) <= 3
