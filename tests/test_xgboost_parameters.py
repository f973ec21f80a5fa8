"""What ``--xgb`` hands on reaches XGBoost, is checked before anything is done, and survives a kill to the byte."""

import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shared
import xgboost as xgb
from runs import FAST, call, here, planned

from mi_duck.archive import read_parts
from mi_duck.boosting import boosters
from mi_duck.boosting.boosters import fit_booster
from mi_duck.boosting.write_instance import Fit
from mi_duck.errors import PlanError
from mi_duck.run.folder import RunFolder
from mi_duck.run.xgboost_parameters import PARAMETERS, checked_parameters, is_drawing

ALL = (
    *("min_child_weight=10", "gamma=3", "lambda=2", "alpha=0.5", "max_delta_step=0.2", "subsample=0.7"),
    *("colsample_bytree=0.8", "colsample_bylevel=0.8", "colsample_bynode=0.5", "grow_policy=lossguide", "max_leaves=4"),
)
SETTINGS = replace(shared.SETTINGS, n_estimators=25, max_depth=4, learning_rate=0.3, max_bin=32)

WRONG = {
    "min_child_weight": "a name and a value are needed, such as min_child_weight=10",
    "=3": "'' is not a parameter that is handed on",
    "min_child_weight=": "a name and a value are needed",
    "min_child_weigth=3": r"'min_child_weigth' is not a parameter that is handed on; did you mean min_child_weight\?",
    "booster=dart": "'booster' is not a parameter that is handed on; there are min_child_weight, ",
    "max_depth=3": "this is an option of its own, --max-depth 3",
    "eta=.1": "this is an option of its own, --learning-rate .1",
    "subsample=0": "it must be a number of at least 0.01 and at most 1",
    "subsample=1.5": "it must be a number of at least 0.01 and at most 1",
    "gamma=-1": "it must be a number of at least 0",
    "gamma=nan": "it must be a number of at least 0",
    "gamma=inf": "it must be a number of at least 0",
    "gamma=1e39": "it must be a number of at least 0",
    "gamma=1e-46": "it must be a number of at least 0",
    "gamma=much": "it must be a number of at least 0",
    "max_leaves=2.5": "it must be a whole number of at least 2 and at most 65536",
    "max_leaves=1": "it must be a whole number of at least 2 and at most 65536",
    "grow_policy=deep": "it must be depthwise or lossguide",
}


@pytest.mark.parametrize("text", WRONG)
def test_checked_parameters__refuses(text: str) -> None:
    with pytest.raises(PlanError, match=f"--xgb {re.escape(text)}: {WRONG[text]}"):
        checked_parameters([text])


def test_checked_parameters__are_written_in_one_form() -> None:
    found = checked_parameters(ALL)
    assert found == checked_parameters(found)
    assert found == tuple(sorted(found))
    assert {text.split("=")[0] for text in found} == set(PARAMETERS)
    assert checked_parameters(["reg_lambda= 2"]) == checked_parameters(["lambda=2.0"]) == ("reg_lambda=2.0",)
    with pytest.raises(PlanError, match="reg_lambda is given twice"):
        checked_parameters(["lambda=2", "reg_lambda=2"])
    assert not is_drawing(("colsample_bynode=1.0", "gamma=0.5"))


def test_plan__a_wrong_parameter_is_refused_before_anything_is_written(lean_dataset: Path, tmp_path: Path) -> None:
    result = call("plan", lean_dataset, "--out", tmp_path / "run", "--xgb", "subsample=2")
    assert result.exit_code == PlanError.exit_code
    assert "it must be a number of at least 0.01 and at most 1" in result.stderr
    assert not (tmp_path / "run").exists()


def test_run__hands_every_parameter_to_xgboost_and_says_so(lean_dataset: Path, tmp_path: Path) -> None:
    given = ("min_child_weight=10", "lambda=2", "max_leaves=4", "colsample_bynode=0.5")
    words = [word for text in given for word in ("--xgb", text)]
    out = tmp_path / "run"
    here("run", lean_dataset, "--out", out, *FAST, "--strategy", "single", *words)
    plan = RunFolder(out).read_plan()
    assert plan.settings.xgb_parameters == checked_parameters(given)
    parts = read_parts(RunFolder(out).instance(plan.cut.instances[0]) / "fold_models.miduck")
    booster = xgb.Booster(model_file=bytearray(parts["booster_0_1.ubj"]))
    trees = booster.trees_to_dataframe()
    leaves = trees[trees.Feature == "Leaf"]
    assert leaves.groupby("Tree").size().max() == 4  # max_leaves
    assert leaves.Cover.min() >= 10  # min_child_weight
    assert (
        "xgb_parameters = colsample_bynode=0.5, max_leaves=4, min_child_weight=10.0, reg_lambda=2.0"
        in (out / "unified_training_summary.txt").read_text()
    )
    assert "reg_lambda=2.0" in (out / "report.html").read_text()
    assert "damaged" not in here("verify", out).stdout
    changed = call("run", lean_dataset, "--out", out, *FAST, "--strategy", "single", *words[:-2])
    assert changed.exit_code == 65
    assert "xgb" in changed.stderr


def drawn_rows() -> tuple[xgb.QuantileDMatrix, np.ndarray, np.ndarray]:
    """Return a matrix of 600 rows, whether each is true, and weights."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(600, 20)).astype(np.float32)
    truth = values[:, 0] * values[:, 1] + rng.normal(size=600) > 0
    return xgb.QuantileDMatrix(values, max_bin=32, nthread=1), truth, np.ones(600, dtype=np.float32)


def test_fit_booster__every_parameter_changes_the_booster() -> None:
    """Each alone, but that leaves must be few for lossguide to show."""
    matrix, truth, weight = drawn_rows()
    made = {}
    for text in ("", *ALL):
        words = [text] if text else []
        words += ["max_leaves=4"] if text == "grow_policy=lossguide" else []
        settings = replace(SETTINGS, xgb_parameters=checked_parameters(words))
        made[text] = fit_booster(matrix, truth, weight, settings, 1, lambda n_rounds: None, rounds=3).raw
    assert len(set(made.values())) == len(made) == len(ALL) + 1


@pytest.mark.parametrize(("threads", "chunk"), [(1, 2), (1, 10), (2, 10), (1, 50)])
@pytest.mark.parametrize("parameters", [(), ("subsample=0.5",), ("colsample_bynode=0.3", "colsample_bytree=0.5")])
def test_fit_booster__ended_anywhere_goes_on_to_the_same_bytes(
    parameters: tuple[str, ...], threads: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boosters, "CHUNK", chunk)
    matrix, truth, weight = drawn_rows()
    settings = replace(SETTINGS, xgb_parameters=checked_parameters(parameters))

    def fit(begun: Fit | None = None, end_at: int = 0) -> tuple[Fit | None, bool]:
        kept: list[tuple[Fit, bool]] = [] if begun is None else [(begun, False)]

        def on_round(n_rounds: int) -> None:
            if n_rounds == end_at:
                signal.raise_signal(signal.SIGTERM)

        try:
            fit_booster(
                matrix, truth, weight, settings, threads, on_round, begun=begun, save=lambda *one: kept.append(one)
            )
        except SystemExit:
            assert end_at
        return kept[-1] if kept else (None, False)

    whole, is_finished = fit()
    assert whole is not None
    assert is_finished
    assert whole.rounds == 25
    for end_at in (3, 10, 17, 24):
        part, is_finished = fit(end_at=end_at)
        assert not is_finished
        kept = 0
        while parameters and kept + boosters.chunk_after(kept) <= end_at:
            kept += boosters.chunk_after(kept)
        assert (0 if part is None else part.rounds) == (kept if parameters else end_at)
        again, is_finished = fit(begun=part)
        assert is_finished
        assert again is not None
        assert again.raw == whole.raw
        assert np.array_equal(again.curve, whole.curve, equal_nan=True)


def test_plan__of_the_same_parameters_written_otherwise_is_the_same(lean_dataset: Path, tmp_path: Path) -> None:
    one, other = (
        RunFolder(planned(lean_dataset, tmp_path / text, "--xgb", text)).read_plan()
        for text in ("lambda=2", "reg_lambda=2.0")
    )
    assert one.settings == other.settings
