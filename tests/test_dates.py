"""Columns of dates as features: days and parts, from planning to prediction, on any kind of table."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import assert_refused, call, here

from mi_duck.data.dataset import announcement, open_dataset
from mi_duck.data.made import date_columns, n_unseen
from mi_duck.ensemble.model_file import load_unified_model
from mi_duck.errors import DataError
from mi_duck.run.folder import RunFolder
from mi_duck.run.made import Dates

QUICK = (
    *("--group-column", "patient", "--label-column", "ill", "--n-estimators", "6", "--n-folds", "2", "--threads", "1"),
    *("--minimal-diagnostics", "--consolidation", "voting", "--date-columns", "visit, born"),
)
FIRST = datetime(2019, 12, 30, 6)
NAMES = tuple(
    f"{column}:{part}" for column in ("visit", "born") for part in ("days", "year", "month", "day", "weekday")
)


def visits(n: int = 900) -> pa.Table:
    """Return visits whose outcome depends on the weekday and on the year; every twentieth has no date of birth."""
    rng = np.random.default_rng(1)
    visit = [FIRST + timedelta(hours=int(one)) for one in rng.integers(0, 24 * 700, n)]
    born = [date(1940, 1, 1) + timedelta(days=int(one)) for one in rng.integers(0, 20_000, n)]
    ill = [rng.random() < (0.9 if one.weekday() >= 5 or one.year == 2021 else 0.1) for one in visit]
    return pa.table(
        {
            "patient": [f"P{one % 60}" for one in range(n)],
            "ill": ["yes" if one else "no" for one in ill],
            "dose": rng.normal(size=n),
            "visit": pa.array(visit, pa.timestamp("us")),
            "born": pa.array(born, pa.date32(), mask=np.arange(n) % 20 == 0),
        }
    )


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("dates") / "visits.parquet"
    pq.write_table(visits(), file, row_group_size=200, write_page_checksum=True)
    return file


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dates") / "run"
    here("run", table, "--out", out, *QUICK)
    return out


def opened(table: Path, *names: str, **options: Any) -> Any:
    return open_dataset(str(table), gene_column="patient", label_column="ill", date_columns=names, **options)


# ---- features -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "days"),
    [
        (pa.array([date(2024, 2, 29), None], pa.date32()), 19_782.0),
        (pa.array([date(2024, 2, 29), None], pa.date64()), 19_782.0),
        (pa.array([datetime(2024, 2, 29, 18), None], pa.timestamp("ns")), 19_782.75),
        (pa.array([datetime(2024, 2, 29, 18), None], pa.timestamp("s")), 19_782.75),
        (pa.array([datetime(2024, 2, 29, 18, tzinfo=UTC), None], pa.timestamp("ms", "Asia/Tokyo")), 19_782.75),
        (pa.array(["2024-02-29", None]), 19_782.0),
        (pa.array(["2024-02-29 18:00", None], pa.large_string()), 19_782.75),
        (pa.array(["2024-02-29T18:00:00.000", None]).dictionary_encode(), 19_782.75),
        (pa.array(["2024-02-29T20:00+02:00", None]), 19_782.75),
    ],
)
def test_features__of_any_type_of_date_are_the_same(values: pa.Array, days: float) -> None:
    """A leap day, a Thursday; times with a zone count in UTC; a missing date has no value anywhere."""
    found = date_columns(values, Dates("x", 0, 20_000, 1))
    assert {name: one[0] for name, one in found.items()} == {
        "x:days": days,
        "x:year": 2024,
        "x:month": 2,
        "x:day": 29,
        "x:weekday": 3,
    }
    assert all(np.isnan(one[1]) and one.dtype == np.float32 for one in found.values())
    assert n_unseen(values, Dates("x", 0, 19_782, 0)) == 0
    assert n_unseen(values, Dates("x", 0, 19_781, 0)) == n_unseen(values, Dates("x", 19_783, 20_000, 0)) == 1


def test_features__of_texts_with_and_without_a_zone_stand_side_by_side() -> None:
    found = date_columns(pa.array(["2024-02-29T23:00-02:00", "2024-03-01 01:00"]), Dates("x", 0, 20_000, 0))
    assert found["x:days"][0] == found["x:days"][1] == np.float32(19_783 + 1 / 24)


def test_date_columns__are_features_of_two_kinds(table: Path) -> None:
    dataset = opened(table, "visit", "born")
    visit, born = dataset.made
    last = int(max(visits()["visit"].to_pylist()).timestamp() // 86_400)
    assert visit == Dates("visit", 18_262, last, 0)
    assert (born.column, born.n_missing) == ("born", 45)
    assert dataset.features == ("dose", *NAMES)
    assert dict(dataset.excluded)["visit"] == "its days and parts are features"
    assert "dates whose days and parts are features: visit (2020-01-01 to 2021-11-28" in "\n".join(
        announcement(dataset)
    )


def test_date_columns__that_nobody_names_are_left_out_with_a_warning(table: Path, tmp_path: Path) -> None:
    left_out = "left out: visit (timestamp[us]), born (date32[day]); to use such a column, name it in --date-columns"
    assert left_out in " ".join(opened(table).warnings)
    texts = visits().set_column(3, "visit", visits()["visit"].cast(pa.date32()).cast(pa.string()))
    pq.write_table(texts, tmp_path / "texts.parquet")
    words = "text column(s) are left out: visit, dates in text, of which --date-columns makes features"
    assert words in " ".join(opened(tmp_path / "texts.parquet").warnings)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["vist"], "--date-columns vist: the dataset has no such column; did you mean 'visit'"),
        (["dose"], "column 'dose' of --date-columns is double in"),
        (["patient"], "--date-columns names 'patient', which is the gene or group"),
        (["odd"], "'31/01/2024' is not a date in ISO form, such as 2024-01-31"),
        (["empty"], "'empty' of --date-columns has no date"),
        (["visit"], "the feature 'visit:year' of a column of texts or dates has the name of another column"),
    ],
)
def test_date_columns__that_cannot_be_used_are_refused(names: list[str], words: str, tmp_path: Path) -> None:
    others = {"odd": ["31/01/2024"] * 900, "empty": pa.nulls(900, pa.date32()), "visit:year": np.zeros(900)}
    table = visits()
    for name, values in others.items():
        table = table.append_column(name, pa.array(values))
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(DataError, match=words.replace("(", r"\(")):
        opened(tmp_path / "x.parquet", *names)


# ---- from plan to prediction ----------------------------------------------------------------------------------------------


def test_run__learns_from_dates(table: Path, run: Path) -> None:
    """Weekday and year carry all that there is to learn; the parts without a gap are bytes."""
    data = RunFolder(run).read_plan().data
    assert data.dates == opened(table, "visit", "born").made
    assert data.small_features == ("visit:month", "visit:day", "visit:weekday")
    areas = json.loads(here("sql", run, "--json", AREA).stdout)
    assert areas[0]["value"] > 0.85
    assert here("verify", run, "--data")
    assert here("explain", run)
    assert "nothing to do" in here("run", table, "--out", run, *QUICK).stderr
    assert_refused(call("run", table, "--out", run, *QUICK[:-1], "visit"), 65, "features differ")


AREA = "select value from metrics where scope = 'ensemble' and evaluated_on = 'oof' and metric = 'roc_auc' and class = 'yes'"


def test_model__predicts_alike_from_files_arrow_and_data_frames(table: Path, run: Path, tmp_path: Path) -> None:
    model = load_unified_model(run)
    here("predict", run, table, "--out", tmp_path / "p.parquet")
    written = pq.read_table(tmp_path / "p.parquet")
    assert written["visit"].type == pa.timestamp("us")
    expected = np.column_stack([written[f"p_{name}"] for name in model.classes])
    rows = visits()
    texts = rows.set_column(3, "visit", rows["visit"].cast(pa.string()))
    for given in (rows, rows.to_pandas(), pl.from_arrow(rows), texts, texts.to_pandas()):
        np.testing.assert_array_equal(model.predict_proba(given), expected)
    texts.to_pandas().to_csv(tmp_path / "visits.csv", index=False)
    here("predict", run, tmp_path / "visits.csv", "--out", tmp_path / "q.parquet")
    again = pq.read_table(tmp_path / "q.parquet")
    np.testing.assert_array_equal(np.column_stack([again[f"p_{name}"] for name in model.classes]), expected)
    csv = opened(tmp_path / "visits.csv", "visit", "born")
    assert (csv.made, csv.features) == (opened(table, "visit", "born").made, ("dose", *NAMES))


def test_predict__counts_dates_outside_those_of_training(run: Path, tmp_path: Path) -> None:
    later = visits()["visit"].to_pylist()
    later[:7] = [datetime(2031, 5, 5)] * 7
    pq.write_table(visits().set_column(3, "visit", pa.array(later, pa.timestamp("us"))), tmp_path / "new.parquet")
    done = here("predict", run, tmp_path / "new.parquet", "--out", tmp_path / "p.parquet")
    assert "dates outside those of training: visit (2020-01-01 to 2021-11-28" in done.stderr
    assert " in 7 of 900 rows" in done.stderr


@pytest.mark.parametrize(
    ("values", "words"),
    [(np.arange(900), "not a date as in training"), (["soon"] * 900, "'soon' is not a date in ISO form")],
)
def test_predict__of_what_is_no_date_is_refused(values: Any, words: str, run: Path, tmp_path: Path) -> None:
    other = visits().set_column(3, "visit", pa.array(values))
    pq.write_table(other, tmp_path / "other.parquet")
    assert_refused(call("predict", run, tmp_path / "other.parquet", "--out", tmp_path / "p.parquet"), 65, words)
    with pytest.raises(DataError, match="date"):
        load_unified_model(run).predict_proba(other)
