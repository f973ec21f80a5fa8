"""Monotone and interaction constraints: named as the dataset names features, kept by boosters, by the refit and by students."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xgboost as xgb
from numpy.typing import NDArray
from runs import call, here
from test_refit import boosted, drawn, leaves_of

import mi_duck
from mi_duck.api.arguments import records_of
from mi_duck.boosting.forest import tree_shapes, with_leaves
from mi_duck.ensemble.model_file import load_unified_model
from mi_duck.ensemble.monotone import monotone_trees
from mi_duck.ensemble.refit import refit_leaves
from mi_duck.errors import PlanError
from mi_duck.run.constraints import INTERACTION, MONOTONE, constraint_in_one_form
from mi_duck.run.folder import RunFolder
from mi_duck.run.xgboost_parameters import checked_parameters
from mi_duck.settings import Asked

COLUMNS = ("--group-column", "patient", "--label-column", "state")
SMALL = (
    "--n-estimators",
    "15",
    "--learning-rate",
    "0.1",
    "--n-folds",
    "2",
    "--threads",
    "1",
    "--max-depth",
    "4",
    "--minimal-diagnostics",
    "--skip-shap",
)
MULTI = ("--strategy", "multi", "--genes-per-instance", "60", "--layout", "zeros")
DOSES = np.arange(0, 9, 0.25)

UNREADABLE = {
    f"{MONOTONE}=dose": "write FEATURE:1 where",
    f"{MONOTONE}=dose:2": "write FEATURE:1 where",
    f"{MONOTONE}=dose:1,age": "write FEATURE:1 where",
    f"{MONOTONE}=dose:1,,age:1": "write FEATURE:1 where",
    f'{MONOTONE}=["dose"]': "write FEATURE:1 where",
    f'{MONOTONE}={{"dose":true}}': "write FEATURE:1 where",
    f"{MONOTONE}=dose:1,dose:-1": "a feature is named twice",
    f"{INTERACTION}=dose+,age": "write groups of features",
    f'{INTERACTION}=["dose"]': "write groups of features",
    f"{INTERACTION}=[[]]": "write groups of features",
    f"{INTERACTION}=[[": "write groups of features",
}


@pytest.mark.parametrize("text", UNREADABLE)
def test_constraint__that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match=f"--xgb {re.escape(text)}: {UNREADABLE[text]}"):
        checked_parameters([text])


def test_constraint__is_kept_in_one_form() -> None:
    """Names may hold colons, equals signs and, in JSON, all else."""
    assert constraint_in_one_form(MONOTONE, "a:days:+1, ward=w1:-1") == '{"a:days":1,"ward=w1":-1}'
    for kind, text in ((MONOTONE, '{"a,b": -1}'), (INTERACTION, '[["a+b", "c"], ["d"]]')):
        once = constraint_in_one_form(kind, text)
        assert constraint_in_one_form(kind, once) == once == text.replace(" ", "")


def written(folder: Path, states: list[str]) -> Path:
    """Write a table whose label rises with the dose, but for a dent, and falls with age; most other doses are 0."""
    rng = np.random.default_rng(3)
    n = 2400
    dose, visits = rng.choice(np.arange(9), (2, n), p=[0.4, *[0.075] * 8]).astype(np.uint8)
    age, weight = rng.normal(size=(2, n))
    odds = 0.5 * dose - 2.5 * np.isin(dose, (3, 4)) - age + 1.5 * weight + 0.5 * age * weight + rng.logistic(size=n)
    number = np.digitize(odds, [1.5] if len(states) == 2 else [0.5, 2.5])
    columns = {"patient": [f"P{one % 150}" for one in range(n)], "state": np.array(states)[number], "dose": dose}
    others = {"visits": visits, "age": age, "weight": weight, "ward": [f"w{one % 5}" for one in range(n)]}
    pq.write_table(pa.table(columns | others), folder / "visits.parquet")
    return folder / "visits.parquet"


def by_dose(model: object, table: Path, column: str = "dose", values: NDArray = DOSES) -> NDArray:
    """Return what a model says of 60 rows at every dose, shape (n_doses, n_rows, n_classes)."""
    rows = pq.read_table(table).slice(0, 60)
    at = rows.column_names.index(column)
    found = [rows.set_column(at, column, pa.array(np.full(60, value))) for value in values]
    return np.array([model.predict_proba(one) for one in found])  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run of two classes in three instances, rising with the dose and falling with age."""
    folder = tmp_path_factory.mktemp("two")
    table = written(folder, ["well", "ill"])
    words = (
        "--classes",
        "well,ill",
        "--xgb",
        f"{MONOTONE}=dose:1,well.age:1",
        "--xgb",
        f"{INTERACTION}=dose+age,weight+ward",
    )
    here("run", table, "--out", folder / "run", *COLUMNS, *SMALL, *MULTI, *words)
    return folder


def test_run__is_monotone_in_the_probability_of_two_classes(two: Path) -> None:
    """The joint refit and the complement keep it, and 0 is a dose although zeros of byte columns count as missing."""
    model, table = load_unified_model(two / "run"), two / "visits.parquet"
    assert model.consolidation_method == "joint_refit"
    of_dose = by_dose(model, table)
    assert (np.diff(of_dose[:, :, 1], axis=0) >= 0).all()
    assert (np.diff(of_dose[:, :, 0], axis=0) <= 0).all()
    assert np.ptp(of_dose[:, :, 1], axis=0).min() > 0.1, "doses are not just ignored"
    assert (np.diff(by_dose(model, table, "age", np.linspace(-3, 3, 40))[:, :, 1], axis=0) <= 0).all()
    assert RunFolder(two / "run").read_plan().settings.zero_is_missing == ("visits",)


def test_run__has_no_tree_in_which_groups_meet(two: Path) -> None:
    """Of a column of texts all features are in the group of the column."""
    model = load_unified_model(two / "run")
    dose_age = {model.features.index(name) for name in ("dose", "age")}
    seen = set()
    for booster in (one.boosters[1] for one in model.members):
        for shape in tree_shapes(booster):
            used = {int(one) for one, child in zip(shape.feature, shape.left, strict=True) if child != -1}
            assert used <= dose_age or not used & dose_age
            seen |= {model.features[one] for one in used}
    assert {"dose", "age", "weight"} < seen
    assert any(name.startswith("ward=") for name in seen)


def test_run__says_which_constraints_it_has(two: Path) -> None:
    plan = RunFolder(two / "run").read_plan()
    wanted = (f'{INTERACTION}=[["dose","age"],["weight","ward"]]', f'{MONOTONE}={{"dose":1,"well.age":1}}')
    assert set(wanted) < set(plan.settings.xgb_parameters)
    manifest = json.loads((RunFolder(two / "run").instance(plan.cut.instances[0]) / "manifest.json").read_bytes())
    assert wanted[1] in json.dumps(manifest, ensure_ascii=False).replace('\\"', '"')
    assert "well.age" in (two / "run" / "report.html").read_text()


def test_distil__keeps_the_constraints(two: Path) -> None:
    here("distil", two / "run", "--trees", "20", "--out", two / "fast.miduck", "--threads", "1")
    of_dose = by_dose(mi_duck.load_unified_model(two / "fast.miduck"), two / "visits.parquet")
    assert (np.diff(of_dose[:, :, 1], axis=0) >= 0).all()
    assert np.ptp(of_dose[:, :, 1], axis=0).min() > 0.1


def test_run__constrains_the_class_that_is_named_and_no_other(tmp_path: Path) -> None:
    """Of three classes what is monotone are the log-odds of the class."""
    table = written(tmp_path, ["well", "ill", "worse"])
    words = ("--classes", "well,ill,worse", "--strategy", "single")
    (asked,) = records_of("train", {"xgb": {MONOTONE: {"worse.dose": 1, "well.age": 1}}}, [Asked])
    here("run", table, "--out", tmp_path / "run", *COLUMNS, *SMALL, *words, "--xgb", *asked.xgb)
    (member,) = load_unified_model(tmp_path / "run").members
    rows = np.tile(np.zeros(len(member.features), dtype=np.float32), (40, 1))
    slopes = {}
    for column, values in (("dose", np.linspace(0, 8, 40)), ("age", np.linspace(-3, 3, 40))):
        rows[:, member.features.index(column)] = values
        for name, booster in zip(("well", "ill", "worse"), member.boosters, strict=True):
            slopes[name, column] = np.diff(booster.predict(xgb.DMatrix(rows), output_margin=True))
        rows[:, member.features.index(column)] = 0
    assert (slopes["worse", "dose"] >= 0).all()
    assert (slopes["well", "age"] >= 0).all()
    for free in (("ill", "dose"), ("well", "dose")):
        assert (slopes[free] > 0).any()
        assert (slopes[free] < 0).any()
    for text, message in {
        f"{MONOTONE}=dose:1": "dose must say of which class, for each has boosters of its own; write ill.dose or worse.dose",
        f"{MONOTONE}=worse.dosis:1": "'dosis' is not a feature; did you mean worse.dose?",
        f"{MONOTONE}=worse.ward:1": "'ward' is not a feature; did you mean worse.ward=w",
        f"{INTERACTION}=dose+wieght": "'wieght' is not a feature; did you mean weight?",
    }.items():
        result = call("plan", table, "--out", tmp_path / "other", *COLUMNS, *words, "--xgb", text)
        assert result.exit_code == PlanError.exit_code
        assert message in result.stderr.replace("\n", " ")
        assert not (tmp_path / "other").exists()


def test_refit__keeps_every_tree_monotone_and_moves_no_leaf_that_is() -> None:
    """Trees that were grown without the constraint are made monotone; where nothing is constrained nothing changes."""
    rows, truth, weight = drawn()
    boosters = [boosted(rows, truth, weight, 0.3), boosted(rows[:1500], truth[:1500], None, 0.3)]
    cut = leaves_of(boosters, rows)
    free, none = (refit_leaves(*cut, truth, weight, monotone=trees) for trees in (None, {}))
    assert all((one == other).all() for one, other in zip(free.leaves, none.leaves, strict=True))
    trees = monotone_trees(boosters, {0: 1, 2: -1})
    kept = refit_leaves(*cut, truth, weight, monotone=trees)
    assert any((one != other).any() for one, other in zip(free.leaves, kept.leaves, strict=True))
    varied = np.repeat(np.nan_to_num(rows[:200])[None], 30, axis=0)
    margins = {}
    for column in (0, 2):
        several = varied.copy()
        several[:, :, column] = np.linspace(-3, 3, 30)[:, None]
        data = xgb.DMatrix(several.reshape(-1, rows.shape[1]))
        for name, found in (("free", free), ("kept", kept)):
            margins[name, column] = sum(
                xgb.Booster(
                    model_file=bytearray(with_leaves(booster, [found.leaves[tree] for tree in own], found.intercept))
                )
                .predict(data, output_margin=True)
                .reshape(30, 200)
                for booster, own in zip(boosters, cut[2], strict=True)
            )
    assert (np.diff(margins["kept", 0], axis=0) >= 0).all()
    assert (np.diff(margins["kept", 2], axis=0) <= 0).all()
    assert (np.diff(margins["free", 0], axis=0) < 0).any()
    for number, tree in trees.items():
        weights = np.ones(len(kept.leaves[number]))
        np.testing.assert_array_equal(tree.kept(kept.leaves[number], weights), kept.leaves[number])
