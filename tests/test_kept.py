"""Predictions say which row of the dataset they are of, and keep its columns."""

import re
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from runs import here
from shared import made_once

from mi_duck.data.dataset import open_dataset
from mi_duck.errors import DataError

N = 2400
CHEAP = ("--n-estimators", "3", "--n-folds", "2", "--minimal-diagnostics", "--skip-shap")
COLUMNS = ("--group-column", "patient", "--label-column", "died")


def table() -> pa.Table:
    """Patients with a marker; every row twice, so that nothing but its file and number tells it from its copy."""
    rng = np.random.default_rng(5)
    patient = rng.integers(0, 60, N // 2)
    marker = rng.normal(size=N // 2).round(2)
    rows = pa.table(
        {
            "patient": pa.array([f"P{one:02d}" for one in patient]),
            "died": pa.array((marker + rng.normal(size=N // 2) > 0.8).astype(int)),
            "marker": pa.array(marker),
            "noise": pa.array(rng.normal(size=N // 2)),
            "visit": pa.array(np.datetime64("2021-01-01") + rng.integers(0, 700, N // 2)),
        }
    )
    return pa.concat_tables([rows, rows])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ``data`` of two files under partition folders, and ``run``, which keeps three columns."""

    def make(target: Path) -> None:
        for name, rows in (("a", table().slice(0, 900)), ("b", table().slice(900))):
            (target / "data" / f"hospital={name}").mkdir(parents=True)
            pq.write_table(rows, target / "data" / f"hospital={name}" / "part.parquet", row_group_size=350)
        command = ("run", target / "data", "--out", target / "run", "--keep", "visit,hospital,patient,marker")
        here(*command, *COLUMNS, *CHEAP, "--holdout-genes", "0.2")

    return made_once(tmp_path_factory, "kept", make)


def source(folder: Path) -> pa.Table:
    """Return the rows of both files with their hospital, file and number."""
    parts = []
    for name in ("a", "b"):
        rows = pq.ParquetFile(folder / "data" / f"hospital={name}" / "part.parquet").read()
        rows = rows.append_column("hospital", pa.array([name] * len(rows)))
        rows = rows.append_column("source_file", pa.array([f"hospital={name}/part.parquet"] * len(rows)))
        parts.append(rows.append_column("source_row", pa.array(np.arange(len(rows)))))
    return pa.concat_tables(parts)


def test_predictions__name_each_row_once_and_keep_its_columns(folder: Path) -> None:
    files = ("oof_predictions.parquet", "holdout_predictions.parquet")
    columns = ["source_file", "source_row", "gene_id", "label", "visit", "hospital", "patient", "marker"]
    assert "damaged" not in here("verify", folder / "run", "--data").stdout
    found = pa.concat_tables(pq.read_table(folder / "run" / file, columns=columns) for file in files)
    found = found.set_column(0, "source_file", pc.cast(found["source_file"], pa.string()))
    order = [("source_file", "ascending"), ("source_row", "ascending")]
    found, expected = found.sort_by(order), source(folder).sort_by(order)
    assert len(found) == N
    for name in ("source_file", "source_row", "visit", "hospital", "patient", "marker"):
        assert found[name].combine_chunks() == expected[name].combine_chunks(), name
    assert found["gene_id"].to_pylist() == expected["patient"].to_pylist()
    assert found["label"].to_pylist() == [str(one) for one in expected["died"].to_pylist()]


def test_predictions__of_rows_that_are_equal_are_in_the_order_of_files_and_rows(folder: Path) -> None:
    found = pq.read_table(folder / "run" / "oof_predictions.parquet").to_pandas()
    found["where"] = [(str(file), row) for file, row in zip(found["source_file"], found["source_row"], strict=True)]
    twins = found.groupby(["patient", "marker", "visit", "label"], observed=True)["where"].agg(list)
    assert all(one == sorted(one) for one in twins)
    assert max(map(len, twins)) >= 2


def test_predict__says_where_each_row_is(folder: Path) -> None:
    here("predict", folder / "run", folder / "data", "--out", folder / "p.parquet", "--threads", "2")
    found = pq.read_table(folder / "p.parquet")
    expected = source(folder)
    assert found["source_row"].combine_chunks() == expected["source_row"].combine_chunks()
    assert found["source_file"].to_pylist() == expected["source_file"].to_pylist()


def test_another_keep__trains_nothing_again(folder: Path, tmp_path: Path) -> None:
    asked = (folder / "data", "--out", tmp_path / "run", *COLUMNS, *CHEAP)
    here("run", *asked)
    run = tmp_path / "run"
    assert pq.read_schema(run / "oof_predictions.parquet").names[-3:] == ["source_file", "source_row", "patient"]
    before = pq.read_table(run / "oof_predictions.parquet")
    here("run", *asked, "--keep", "visit", "--replace")
    after = pq.read_table(run / "oof_predictions.parquet")
    assert after.column_names[-3:] == ["source_file", "source_row", "visit"]
    assert after.select(before.column_names[:-1]) == before.select(before.column_names[:-1])
    assert "reusing instance_00" in (run / "run.log").read_text()


def test_csv__rows_are_those_after_the_first_line(tmp_path: Path) -> None:
    rows = table().slice(0, N // 2).drop_columns("visit")
    lines = [",".join(map(str, row.values())) for row in rows.to_pylist()]
    (tmp_path / "patients.csv").write_text("\n".join([",".join(rows.column_names), *lines]) + "\n")
    here("run", tmp_path / "patients.csv", "--out", tmp_path / "run", "--keep", "marker", *COLUMNS, *CHEAP)
    found = pq.read_table(tmp_path / "run" / "oof_predictions.parquet").sort_by("source_row")
    assert set(found["source_file"].to_pylist()) == {"patients.csv"}
    assert found["source_row"].to_pylist() == list(range(N // 2))
    assert found["marker"].to_pylist() == rows["marker"].to_pylist()


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        (["vist"], "--keep vist: the dataset has no such column; it has patient, died"),
        (["visit", "p_1"], "--keep p_1: predictions have a column of that name already"),
    ],
)
def test_keep__refuses_what_it_cannot_keep(tmp_path: Path, keep: list[str], words: str) -> None:
    pq.write_table(table().append_column("p_1", pa.array([0.5] * N)), tmp_path / "data.parquet")
    with pytest.raises(DataError, match=re.escape(words)):
        open_dataset(str(tmp_path / "data.parquet"), gene_column="patient", label_column="died", keep=keep)


def test_sql_readme__joins_predictions_with_the_dataset(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[1] / "sql" / "README.md").read_text(encoding="utf-8")
    query = next(one for one in re.findall(r"```sql\n(.*?)```", text, re.S) if "read_parquet" in one)
    monkeypatch.chdir(folder)
    query = query.replace("p_donor", "p_1").replace("dataset/master/", "data/")
    *before, last = duckdb.extract_statements(query)
    with duckdb.connect() as connection:
        for statement in before:
            connection.execute(statement)
        found = connection.sql(last).to_arrow_table()
    assert len(found) == pq.read_metadata("run/oof_predictions.parquet").num_rows
    assert {"marker", "noise", "fold", "p_1"} <= set(found.column_names)
