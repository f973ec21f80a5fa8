"""The overfitting monitor: verdicts on learning curves worked out by hand, and files that say the same."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from plans import changed, made_plan

from mi_duck.errors import CheckpointError
from mi_duck.report.overfitting import ADVICE, FitRecord, classify_fit, read_overfitting, summary, write_overfitting
from mi_duck.report.plots import LearningCurve
from mi_duck.report.records import RunRecords

NAN = float("nan")


def verdict(training: Sequence[float], stopping: Sequence[float], best: int, **settings: Any) -> FitRecord:
    curve = LearningCurve(1, training, stopping, best)
    given: dict[str, Any] = {"n_estimators": 100, "patience": 2} | settings
    return classify_fit(curve, instance_id=3, class_name="donor", **given)


def test_fit__that_stopped_early_is_sound() -> None:
    """Best at round 2 of 4: gap .5 - .3 there, .7 - .1 at the end."""
    record = verdict([0.4, 0.3, 0.2, 0.1], [0.6, 0.5, 0.6, 0.7], 2)
    assert (record.instance_id, record.fold, record.class_name) == (3, 1, "donor")
    assert (record.best_round, record.rounds_trained, record.has_stopped_early) == (2, 4, True)
    assert (record.training_log_loss, record.stopping_log_loss) == (0.3, 0.5)
    assert record.gap == pytest.approx(0.2)
    assert record.final_gap == pytest.approx(0.6)
    assert record.verdict == "best round found"


def test_fit__whose_last_round_was_the_best_ran_out_of_rounds() -> None:
    record = verdict([0.4, 0.3, 0.2], [0.6, 0.5, 0.4], 3, n_estimators=3)
    assert (record.verdict, record.has_stopped_early) == ("ran out of rounds", False)
    assert verdict([0.4, 0.3, 0.2], [0.6, 0.3, 0.4], 2, n_estimators=3, patience=10).verdict == "ran out of rounds"
    # three rounds without gain of a patience of four: it would have stopped soon
    assert (
        verdict([0.4, 0.3, 0.3, 0.3], [0.3, 0.2, 0.4, 0.4], 2, n_estimators=4, patience=4).verdict == "best round found"
    )


def test_fit__gap_is_wide_below_a_third() -> None:
    """.1 against .3 is a third, which is not below; .09 is."""
    assert verdict([0.4, 0.1, 0.1], [0.4, 0.3, 0.3], 2).verdict == "best round found"
    assert verdict([0.4, 0.09, 0.1], [0.4, 0.3, 0.3], 2).verdict == "wide gap"


def test_fit__without_gain_or_watch_says_so() -> None:
    assert verdict([0.4, 0.3, 0.2], [0.5, 0.6, 0.7], 1).verdict == "no gain"
    record = verdict([0.4, 0.3], [NAN, NAN], 2, n_estimators=2, patience=0)
    assert record.verdict == "not watched"
    assert (record.stopping_log_loss, record.gap, record.final_gap) == (None, None, None)


def records(root: Path) -> RunRecords:
    """Return a run of two instances of which the first is trained: two folds of one class."""
    folder = root / "multi_instance_training" / "instance_00"
    folder.mkdir(parents=True)
    lines = ["fold,class,round,training_log_loss,stopping_log_loss,is_kept"]
    lines += ["0,donor,1,0.4,0.5,1", "0,donor,2,0.3,0.4,1", "0,donor,3,0.2,0.6,0"]
    lines += ["1,donor,1,0.5,0.6,1", "1,donor,2,0.04,0.3,1"]
    (folder / "learning_curves.csv").write_text("\n".join(lines) + "\n")
    planned = made_plan(classes=("donor",), n_estimators=9, early_stopping_patience=1)
    (first,) = planned.cut.instances
    plan = changed(planned, instances=(first, replace(first, instance_id=1)))
    return RunRecords(root, plan, (), {}, [], {}, [], [])


def test_files__say_what_the_records_say(tmp_path: Path) -> None:
    run = records(tmp_path)
    found = write_overfitting(run)
    assert [(one.fold, one.best_round, one.verdict) for one in found] == [
        (0, 2, "best round found"),
        (1, 2, "wide gap"),
    ]
    assert read_overfitting(run) == found
    folder = tmp_path / "overfitting"
    assert sorted(file.name for file in folder.iterdir()) == [
        "learning_curves_instance_00.pdf",
        "overfitting.csv",
        "overfitting.json",
    ]
    with (folder / "overfitting.csv").open() as file:
        first = next(csv.DictReader(file))
    assert (first["class"], first["best_round"], first["has_stopped_early"]) == ("donor", "2", "1")
    facts = json.loads((folder / "overfitting.json").read_bytes())
    assert facts == json.loads(json.dumps(summary(found, run.noun)))
    assert facts["verdicts"] == dict.fromkeys(ADVICE, 0) | {"best round found": 1, "wide gap": 1}
    donor = facts["by_class"]["donor"]
    assert donor["best_round"] == [2, 2]
    assert donor["mean_training_log_loss"] == pytest.approx((0.3 + 0.04) / 2)
    assert donor["mean_gap"] == pytest.approx((0.1 + 0.26) / 2)


def test_files__without_plots_are_tables_alone(tmp_path: Path) -> None:
    write_overfitting(records(tmp_path), with_plots=False)
    assert not list(tmp_path.glob("overfitting/*.pdf"))
    assert (tmp_path / "overfitting" / "overfitting.csv").is_file()


def test_damaged__curves_and_records_are_refused(tmp_path: Path) -> None:
    run = records(tmp_path)
    assert read_overfitting(run) is None
    write_overfitting(run, with_plots=False)
    table = tmp_path / "overfitting" / "overfitting.csv"
    table.write_text(table.read_text().replace("0.3", "much"))
    with pytest.raises(CheckpointError, match="overfitting.csv is damaged"):
        read_overfitting(run)
    curves = tmp_path / "multi_instance_training" / "instance_00" / "learning_curves.csv"
    curves.write_text(curves.read_text().replace(",1\n", ",0\n"))
    with pytest.raises(CheckpointError, match="no round is kept"):
        write_overfitting(run)
