"""The time left of a run: the plan's costs, early stopping's rounds and the speed of this run."""

from dataclasses import replace

import pytest
from plans import changed, made_plan

from mi_duck.plan.times import round_seconds, stored_cells
from mi_duck.processes import WHOLE_RUN, Context
from mi_duck.run.costs import Rates, expected_nodes
from mi_duck.run.plan import Instance, Plan
from mi_duck.settings import Diagnostics
from mi_duck.workflow.time_left import EXPLAINING, REFITTING, SCORING, TimeLeft, steps_after, times_of, with_time_left

FINAL = (1 / 0.6) ** 0.5  # times the rounds of a fold's boosters final ones have, with three folds
QUICK = Diagnostics(skip_shap=True, minimal_diagnostics=True)


@pytest.fixture
def plan() -> Plan:
    """Return a plan of two instances of 12 fits, 4 folds' three classes less the final ones, each of .1 s per round."""
    made = changed(
        made_plan(), n_folds=3, n_estimators=400, early_stopping_patience=20, learning_rate=0.12, cv_used="weights"
    )
    first, layout = made.cut.instances[0], made.costs.model.layout
    free = Rates(start_seconds=0.0, per_cell_built=0.0, per_cell_begun=0.0, per_cell_and_round=1.0)
    cells, n_nodes = stored_cells(first.n_training_rows, layout), expected_nodes(first.n_training_rows, layout)
    made = changed(made, rates=replace(free, per_cell_and_round=0.1 / round_seconds(free, cells, n_nodes, layout)))
    second = Instance(1, *[getattr(first, name) for name in first.__slots__[1:]])
    return changed(made, instances=(first, second))


def after(plan: Plan) -> float:
    return sum(seconds for _, seconds in steps_after(plan, QUICK))


def test_times__are_those_of_the_plan(plan: Plan) -> None:
    times = times_of(plan, plan.cut.instances[0])
    assert times.fixed_seconds == 0
    assert times.round_seconds == pytest.approx([0.1] * 12)
    assert times.classes == ("neither", "donor", "acceptor") * 4


def test_times__of_two_classes_are_those_of_one_booster(plan: Plan) -> None:
    two = changed(plan, classes=("no", "yes"))
    assert times_of(two, two.cut.instances[0]).classes == ("yes",) * 4


def test_steps_after__count_the_refit_where_leaves_are_fitted_together(plan: Plan) -> None:
    """Two instances of three boosters, 100 rounds each in three folds and at the end, on 20,000 rows."""
    assert dict(steps_after(plan, QUICK))[REFITTING] == pytest.approx(31e-9 * 6 * 100 * 4 * 20_000)
    assert REFITTING not in dict(steps_after(changed(plan, consolidation="voting"), QUICK))
    assert REFITTING not in dict(steps_after(changed(plan, instances=plan.cut.instances[:1]), QUICK))


def test_steps_after__explaining_beside_scoring_takes_only_what_it_takes_longer(plan: Plan) -> None:
    alone, beside = (dict(steps_after(plan, Diagnostics(), is_beside=is_beside)) for is_beside in (False, True))
    scoring = sum(alone[name] for name in SCORING if name in alone)
    explaining = sum(alone[name] for name in EXPLAINING)
    assert sum(beside[name] for name in EXPLAINING) == pytest.approx(max(explaining - scoring, 0))
    assert sum(alone.values()) - sum(beside.values()) == pytest.approx(min(explaining, scoring))


def test_time_left__counts_the_instances_that_are_trained_at_once(plan: Plan) -> None:
    """Two at once were hoped for, and memory lets one: what is left takes twice as long."""
    left = TimeLeft(plan, plan.cut.instances, QUICK, workers=2)
    left.see("instance_00: rounds of fold 1/3 neither", 0, 400, 0)
    assert left.seconds(0) == pytest.approx(180 + 60 * FINAL + after(plan))
    left.see("instance_01: rounds of fold 1/3 neither", 0, 400, 0)
    assert left.seconds(0) == pytest.approx(90 + 30 * FINAL + after(plan))


def test_time_left__follows_rounds_and_speed(plan: Plan) -> None:
    """100 rounds of a fit are usual, 129 of a final one: 2 instances x (9 x 10 s + 3 x 12.9 s) at first.

    Several at once share the time.
    """
    instances = plan.cut.instances
    left = TimeLeft(plan, instances, QUICK, workers=1)
    assert left.seconds(0) == pytest.approx(180 + 60 * FINAL + after(plan))
    assert TimeLeft(plan, instances, QUICK, workers=2).seconds(0) == pytest.approx(90 + 30 * FINAL + after(plan))
    assert TimeLeft(plan, instances[1:], QUICK, workers=1).seconds(0) == pytest.approx(90 + 30 * FINAL + after(plan))
    # the first fit ends after 40 rounds that took twice the planned time: so will the 23 that are left, 6 of them final
    left.see("instance_00: rounds of fold 1/3 neither", 0, 400, 0)
    left.see("instance_00: rounds of fold 1/3 neither", 40, 400, 8)
    left.see("instance_00: rounds of fold 1/3 donor", 0, 400, 8)
    pace = (8 + 2) / (4 + 2)
    assert left.seconds(8) == pytest.approx(pace * (17 + 6 * FINAL) * 4 + (pace * after(plan)))
    # a donor's fit takes longer than any before, so it may end with every round
    left.see("instance_00: rounds of fold 1/3 donor", 60, 400, 14)
    assert left.seconds(14) == pytest.approx((14 + 2) / (10 + 2) * ((16 + 6 * FINAL) * 4 + after(plan)))


def test_time_left__of_a_step_comes_from_its_own_speed(plan: Plan) -> None:
    left = TimeLeft(plan, plan.cut.instances, QUICK, workers=1)
    for name in ("instance_00", "instance_01"):
        left.see(f"{name}: calibrating", 1, 1, 0)
    assert left.seconds(0) == pytest.approx(after(plan))
    left.see("scoring every row out of fold", 0, 100, 0)
    left.see("scoring every row out of fold", 25, 100, 10)
    steps = dict(steps_after(plan, QUICK))
    done = steps[REFITTING] + steps["scoring every row out of fold"]
    assert left.seconds(10) == pytest.approx(after(plan) - done + 30)
    left.see("report", 3, 3, 40)
    assert left.seconds(40) == 0


def test_time_left__is_reported_beside_each_stage(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((0.0, 0.1, 10.0))
    monkeypatch.setattr("mi_duck.workflow.time_left.time.monotonic", lambda: next(clock))
    seen: list[tuple[str, int, int]] = []
    context = Context(1, lambda *stage: seen.append(stage), print)
    shown = with_time_left(plan, plan.cut.instances, QUICK, context, workers=1)
    shown.report("sorting rows", 1, 2)
    shown.report("sorting rows", 2, 2)
    assert [stage for stage, _, _ in seen] == ["sorting rows", "sorting rows", WHOLE_RUN]
    assert seen[-1][1:] == (10, 10 + int(180 + 60 * FINAL + after(plan)))
