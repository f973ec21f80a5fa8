"""Text columns as features: their levels, from planning to prediction, on any kind of table."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import assert_refused, call, here

from mi_duck.data.dataset import announcement, open_dataset
from mi_duck.data.levels import find_levels
from mi_duck.data.made import level_columns, n_new_levels
from mi_duck.data.parquet import row_group_batches
from mi_duck.ensemble.model_file import load_unified_model
from mi_duck.errors import DataError
from mi_duck.run.folder import RunFolder
from mi_duck.run.made import Levels, levels_in

QUICK = (
    *("--group-column", "patient", "--label-column", "ill", "--n-estimators", "6", "--n-folds", "2", "--threads", "1"),
    *("--minimal-diagnostics", "--consolidation", "voting"),
)
HOSPITALS = ("city", "east", "north")


def visits(n: int = 900) -> pa.Table:
    """Return visits whose outcome depends on the hospital, a text, and on the dose."""
    rng = np.random.default_rng(1)
    hospital = rng.integers(0, 3, n)
    dose = rng.normal(size=n)
    ill = rng.random(n) < 1 / (1 + np.exp(-(3.0 * (hospital - 1) + dose)))
    ward = np.array([f"w{one}" for one in range(90)])[np.minimum(rng.geometric(0.08, n) - 1, 89)]
    return pa.table(
        {
            "patient": [f"P{one % 60}" for one in range(n)],
            "ill": np.where(ill, "yes", "no"),
            "dose": dose,
            "hospital": pa.array([HOSPITALS[one] for one in hospital], mask=rng.random(n) < 0.05),
            "ward": pa.array(ward.tolist()).dictionary_encode(),
            "note": [f"note {one}" for one in range(n)],
            "country": ["X"] * n,
        }
    )


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("levels") / "visits.parquet"
    pq.write_table(visits(), file, row_group_size=200, write_page_checksum=True)
    return file


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("levels") / "run"
    here("run", table, "--out", out, *QUICK)
    return out


def opened(table: Path, **options: Any) -> Any:
    return open_dataset(str(table), gene_column="patient", label_column="ill", **options)


# ---- levels -------------------------------------------------------------------------------------------------------------


def test_levels__are_features_of_their_own(table: Path) -> None:
    dataset = opened(table)
    hospital, ward = dataset.made
    assert hospital == Levels("hospital", HOSPITALS)
    assert (ward.column, len(ward.levels), ward.other) == ("ward", len(set(visits()["ward"].to_pylist())), None)
    assert dataset.features[:4] == ("dose", *(f"hospital={name}" for name in HOSPITALS))
    assert dict(dataset.excluded)["hospital"] == "its levels are features"
    text = "\n".join(announcement(dataset))
    assert "text columns whose levels are features: hospital (3 levels), ward" in text
    assert "warning: 1 text column(s) are left out: note, text that differs in most rows" in text
    assert "warning: 1 text column(s) are left out: country, text that is the same in all rows" in text


def test_levels__beyond_the_most_frequent_share_a_feature(table: Path) -> None:
    ward = opened(table, max_levels=5).made[1]
    frequent = pd.Series(visits()["ward"].to_pylist()).value_counts().index[:5]
    assert ward == Levels("ward", tuple(sorted(frequent)), "other")
    assert ward.features[-1] == "ward=other"
    assert opened(table, max_levels=0).features == ("dose",)
    assert "hospital (text)" in " ".join(opened(table, max_levels=0).warnings)


def test_levels__called_other_are_not_taken_for_the_others(tmp_path: Path) -> None:
    texts = ["other"] * 6 + ["a"] * 4 + ["b"] * 3 + ["c"]
    pq.write_table(pa.table({"x": texts}), tmp_path / "x.parquet")
    ((found,), reasons) = find_levels([tmp_path / "x.parquet"], ["x"], 2)
    assert (found, reasons) == (Levels("x", ("a", "other"), "(other)"), {})


def test_levels__with_the_name_of_a_column_are_refused(tmp_path: Path) -> None:
    table = visits().append_column("hospital=city", pa.array(np.zeros(900)))
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(DataError, match="'hospital=city' of a column of texts or dates has the name of another column"):
        opened(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_columns__of_any_type_of_text_are_the_same(kind: pa.DataType) -> None:
    texts = ["a", None, "b", "c", "a"]
    column = pa.array(texts, pa.string())
    column = column.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else column.cast(kind)
    levels = Levels("x", ("a", "b"), "other")
    found = level_columns(column, levels)
    assert {name: one.tolist() for name, one in found.items()} == {
        "x=a": [1, 0, 0, 0, 1],
        "x=b": [0, 0, 1, 0, 0],
        "x=other": [0, 0, 0, 1, 0],
    }
    assert {one.dtype for one in found.values()} == {np.dtype(np.uint8)}
    assert n_new_levels(column, levels) == 0  # the rarer ones are among the others
    assert n_new_levels(column, Levels("x", ("a", "b"))) == 1


def test_reader__makes_levels_beside_other_columns(table: Path) -> None:
    levels = levels_in(opened(table).made)
    expected = visits().to_pandas()
    names = ["hospital=city", "dose", "hospital"]
    batches = [batch for _, batch in row_group_batches(table, names, batch_rows=64, made=levels)]
    found = pa.Table.from_batches(batches).to_pandas()
    assert found.columns.tolist() == names
    assert found["hospital=city"].tolist() == (expected["hospital"] == "city").astype(int).tolist()
    np.testing.assert_array_equal(found["dose"], expected["dose"])


# ---- from plan to prediction ----------------------------------------------------------------------------------------------


def test_run__learns_from_levels(table: Path, run: Path, tmp_path: Path) -> None:
    """They carry most of what there is to learn here; the plan, the model and its folder know them."""
    plan = RunFolder(run).read_plan()
    assert plan.data.levels == levels_in(opened(table).made)
    assert set(plan.data.small_features) == {name for one in plan.data.levels for name in one.features}
    hint = "try --preset levels"
    assert hint in (run / "run.log").read_text()
    other = here("run", table, "--out", tmp_path / "run", *QUICK, "--max-levels", "0")
    assert hint not in other.stderr
    areas = [json.loads(here("sql", one, "--json", AREA).stdout)[0]["value"] for one in (run, tmp_path / "run")]
    assert areas[0] > 0.85
    assert areas[1] < 0.75
    assert "hospital=city" in (run / "multi_instance_training" / "instance_00" / "feature_manifest.csv").read_text()
    assert here("verify", run, "--data")
    assert here("explain", run)


AREA = "select value from metrics where scope = 'ensemble' and evaluated_on = 'oof' and metric = 'roc_auc' and class = 'yes'"


def test_run__again_is_the_same_request_and_with_other_levels_another(table: Path, run: Path) -> None:
    assert "nothing to do" in here("run", table, "--out", run, *QUICK).stderr
    assert_refused(call("run", table, "--out", run, *QUICK, "--max-levels", "2"), 65, "features differ")


def test_model__predicts_alike_from_files_arrow_and_data_frames(table: Path, run: Path, tmp_path: Path) -> None:
    model = load_unified_model(run)
    here("predict", run, table, "--out", tmp_path / "p.parquet")
    written = pq.read_table(tmp_path / "p.parquet")
    assert "hospital" in written.column_names  # what is no feature by itself stays
    assert "hospital=city" not in written.column_names
    rows, frame = visits(), visits().to_pandas()
    expected = np.column_stack([written[f"p_{name}"] for name in model.classes])
    encoded = opened(table)
    columns = {name: frame["dose"] if name == "dose" else None for name in encoded.features}
    for one in encoded.made:
        columns |= {f"{one.column}={level}": (frame[one.column] == level).astype(np.uint8) for level in one.levels}
    polars = pl.from_arrow(rows)
    others = (polars, polars.with_columns(pl.col("hospital").cast(pl.Categorical)), columns)
    for given in (
        rows,
        frame,
        frame.astype({"hospital": "category"}),
        np.column_stack(list(columns.values())),
        *others,
    ):
        np.testing.assert_array_equal(model.predict_proba(given), expected)


def test_predict__counts_levels_that_training_has_not_seen(run: Path, tmp_path: Path) -> None:
    texts = visits()["hospital"].to_pylist()
    texts[:7] = ["moon"] * 7
    new = visits().set_column(3, "hospital", pa.array(texts))
    pq.write_table(new, tmp_path / "new.parquet")
    done = here("predict", run, tmp_path / "new.parquet", "--out", tmp_path / "p.parquet")
    assert "levels that training has not seen: hospital in 7 of 900 rows" in done.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.drop_columns(["hospital"]), "hospital"),
        (lambda table: table.set_column(3, "hospital", pa.array(np.arange(900))), "not text as in training"),
    ],
)
def test_predict__of_a_table_without_the_text_is_refused(change: Any, words: str, run: Path, tmp_path: Path) -> None:
    other = change(visits())
    pq.write_table(other, tmp_path / "other.parquet")
    assert_refused(call("predict", run, tmp_path / "other.parquet", "--out", tmp_path / "p.parquet"), 65, words)
    with pytest.raises(DataError, match=words):
        load_unified_model(run).predict_proba(other)


def test_csv__of_texts_that_look_like_numbers_or_dates_is_predicted(run: Path, tmp_path: Path) -> None:
    """In training they were texts; a table in text does not say so."""
    for name, text in (("numbers", "7"), ("dates", "31/01/2024")):
        frame = visits().to_pandas().assign(hospital=text)
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
        done = here("predict", run, tmp_path / f"{name}.csv", "--out", tmp_path / f"{name}.parquet")
        assert "levels that training has not seen: hospital in 900 of 900 rows" in done.stderr


def test_csv__has_levels_too(tmp_path: Path) -> None:
    visits().to_pandas().to_csv(tmp_path / "visits.csv", index=False)
    assert opened(tmp_path / "visits.csv").made == opened_of_parquet(tmp_path).made


def opened_of_parquet(folder: Path) -> Any:
    pq.write_table(visits(), folder / "visits.parquet")
    return opened(folder / "visits.parquet")


def test_text_columns_alone__are_enough(tmp_path: Path) -> None:
    pq.write_table(visits().select(["patient", "ill", "hospital"]), tmp_path / "texts.parquet")
    here("run", tmp_path / "texts.parquet", "--out", tmp_path / "run", *QUICK)
    assert RunFolder(tmp_path / "run").read_plan().data.features == tuple(f"hospital={name}" for name in HOSPITALS)
