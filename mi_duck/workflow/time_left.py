"""How long a run will still take: the plan's costs of what is left, corrected by what was measured so far in this run.

It sees every stage that is reported. A fit takes the planned seconds of a round times the rounds that early stopping left
of earlier fits of its class (a final one more of them), times measured over planned so far. Steps after training have rough
costs of their own, corrected by the same ratio, and by their own speed once they run.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import mul
from statistics import fmean

from mi_duck.plan.times import (
    external_factor,
    round_seconds,
    rounds_of_final_boosters,
    share_of_fold,
    stored_cells,
    training_seconds,
    usual_rounds,
)
from mi_duck.processes import WHOLE_RUN, Context, instance_of
from mi_duck.run.costs import expected_nodes
from mi_duck.run.plan import Instance, Plan, fitted_classes
from mi_duck.run.recipe import is_at_hand
from mi_duck.settings import Diagnostics
from mi_duck.workflow.refit import core_seconds, is_refitted, is_worth_parts, n_parts
from mi_duck.workflow.true_rate import MOST_POSITIONS, n_genes_wanted

SECONDS_BETWEEN = 0.5
SHARE_KNOWN = 0.05  # of a step: from here on its own speed says how long it takes
PRIOR_SECONDS = 2.0  # planned; as if so many had been measured before, at the usual ratio
POSITIONS_OF_GENE = 5_000
ROUNDS = "rounds of "
LAST = "calibrating"
REFITTING = "refitting leaves, pass by pass"
SCORING = ("scoring base, members and ensemble", "scoring every position")
EXPLAINING = ("completing the folders of instances", "explaining rows x boosters", "writing tables and figures")


def with_time_left(
    plan: Plan, to_do: Sequence[Instance], diagnostics: Diagnostics, context: Context, *, workers: int
) -> Context:
    """Return a context that reports, beside each stage, the whole run: seconds passed of seconds expected.

    Parameters
    ----------
    to_do
        The instances that are not trained yet.
    workers
        How many instances are trained at once, at most; how many really are is seen once they have begun.
    """
    is_beside = context.threads > 1 and not context.in_this_process
    left, lock = TimeLeft(plan, to_do, diagnostics, workers, is_beside=is_beside), threading.Lock()
    begun = shown = time.monotonic()

    def report(stage: str, done: int, total: int) -> None:
        nonlocal shown
        context.report(stage, done, total)
        with lock:
            now = time.monotonic()
            left.see(stage, done, total, now)
            if now - shown < SECONDS_BETWEEN:
                return
            shown = now
            passed, seconds = int(now - begun), int(left.seconds(now))
        context.report(WHOLE_RUN, passed, passed + seconds)

    return replace(context, report=report)


@dataclass(frozen=True, slots=True)
class InstanceTimes:
    """What one instance takes by the plan.

    Parameters
    ----------
    fixed_seconds
        Of its start and its matrices.
    round_seconds, classes
        Of each fit, in the order of training (all classes fold by fold, then the final ones): seconds of a round, and its class.
    """

    fixed_seconds: float
    round_seconds: tuple[float, ...]
    classes: tuple[str, ...]


def fitted_names(plan: Plan) -> tuple[str, ...]:
    """Return the classes that boosters are fitted for."""
    return tuple(plan.data.classes[index] for index in fitted_classes(len(plan.data.classes)))


def times_of(plan: Plan, instance: Instance) -> InstanceTimes:
    """Return what an instance takes by the plan."""
    settings, rates, layout, names = plan.settings, plan.costs.rates, plan.costs.model.layout, fitted_names(plan)
    n_rows, factor = instance.n_training_rows, external_factor(plan.cut.strategy_used, rates)
    cells, n_nodes = stored_cells(n_rows, layout), expected_nodes(n_rows, layout)
    shares = (share_of_fold(settings), 1.0)
    of_fold, of_last = (factor * round_seconds(rates, share * cells, n_nodes, layout) for share in shares)
    without_rounds = replace(settings, early_stopping_patience=0)
    return InstanceTimes(
        factor * training_seconds(rates, n_rows, without_rounds, layout, 0),
        (of_fold,) * settings.n_folds * len(names) + (of_last,) * len(names),
        names * (settings.n_folds + 1),
    )


@dataclass(frozen=True, slots=True)
class Fit:
    """The fit that an instance is at: its position (before the first one -1), its rounds so far, and when they were seen."""

    position: int
    rounds: int
    seen: float


@dataclass(slots=True)
class Pace:
    """Seconds measured, and planned for the same work; ``usual`` is their ratio as long as little was measured."""

    measured: float = 0.0
    planned: float = 0.0

    def ratio(self, usual: float = 1.0) -> float:
        """Return how many seconds a planned one takes."""
        return (self.measured + PRIOR_SECONDS * usual) / (self.planned + PRIOR_SECONDS)


class TimeLeft:
    """Keeps what was seen of a run, and says how long the rest takes; times are of one clock, in seconds."""

    def __init__(
        self,
        plan: Plan,
        to_do: Sequence[Instance],
        diagnostics: Diagnostics,
        workers: int,
        *,
        is_beside: bool = False,
    ) -> None:
        self.times = {one.name: times_of(plan, one) for one in to_do}
        self.fits: dict[str, Fit] = {}
        self.rounds: dict[str, list[int]] = {}  # of finished fits of folds, by class
        self.workers, self.settings, self.usual = workers, plan.settings, usual_rounds(plan.settings)
        self.most_at_once = 0  # seen so far
        self.training, self.after = Pace(), Pace()
        self.steps = dict(steps_after(plan, diagnostics, is_beside=is_beside))
        self.stage, self.begun, self.share = "", 0.0, 0.0
        numbers = [f"fold {fold + 1}/{plan.settings.n_folds}" for fold in range(plan.settings.n_folds)]
        titles = [f"{ROUNDS}{part} {name}" for part in [*numbers, "final"] for name in fitted_names(plan)]
        self.first_final = plan.settings.n_folds * len(fitted_names(plan))
        self.positions = {title: position for position, title in enumerate(titles)}

    def see(self, stage: str, done: int, total: int, now: float) -> None:
        """Take note of a stage, as a progress callback gets it."""
        name = instance_of(stage)
        if name in self.times:
            self._see_training(name, stage.removeprefix(f"{name}: "), done, now)
        elif not name:
            if stage != self.stage:
                self._begin(stage, now)
            self.share = done / max(total, 1)

    def _begin(self, stage: str, now: float) -> None:
        if stage in self.steps:
            self.times.clear()  # what is not trained by now is lost
            for before in list(self.steps)[: list(self.steps).index(stage)]:
                seconds = self.steps.pop(before)
                if before == self.stage:
                    self.after.measured += now - self.begun
                    self.after.planned += seconds
        self.stage, self.begun = stage, now

    def _see_training(self, name: str, title: str, done: int, now: float) -> None:
        times, before = self.times[name], self.fits.get(name, Fit(-1, 0, now))
        self.training.measured += now - before.seen
        if title == LAST:
            del self.times[name]
        position = self.positions.get(title, before.position)
        if position == before.position:
            done = done if title in self.positions else before.rounds
            self.training.planned += (done - before.rounds) * times.round_seconds[position]
        else:
            if before.rounds and before.position < self.first_final:
                self.rounds.setdefault(times.classes[before.position], []).append(before.rounds)
            self.training.planned += (position - before.position) * times.fixed_seconds / len(times.classes)
        self.fits[name] = Fit(position, done, now)
        self.most_at_once = max(self.most_at_once, sum(one in self.fits for one in self.times))

    def seconds(self, now: float) -> float:
        """Return how long all that is left takes."""
        training = [self._training_seconds(name) for name in self.times]
        at_once = min(self.most_at_once or self.workers, len(training))
        together = max(sum(training) / at_once, *training) if training else 0.0
        steps = sum(seconds for stage, seconds in self.steps.items() if stage != self.stage)
        pace = self.training.ratio()
        return pace * together + self.after.ratio(pace) * steps + self._stage_seconds(now)

    def _training_seconds(self, name: str) -> float:
        """Return the planned seconds of what is left of an instance."""
        times, fit = self.times[name], self.fits.get(name, Fit(-1, 0, 0.0))
        expected = [self._expected_rounds(one) for one in times.classes]
        of_final = expected[self.first_final :]
        expected[self.first_final :] = [rounds_of_final_boosters(one, self.settings) for one in of_final]
        if fit.position >= 0:
            expected[: fit.position + 1] = [0.0] * fit.position + [max(expected[fit.position] - fit.rounds, 0.0)]
        share = 1 - (fit.position + 1) / len(expected)
        return times.fixed_seconds * share + float(sum(map(mul, expected, times.round_seconds)))

    def _expected_rounds(self, class_name: str) -> float:
        known: list[int] = self.rounds.get(class_name) or [one for of_class in self.rounds.values() for one in of_class]
        return fmean(known) if known else self.usual

    def _stage_seconds(self, now: float) -> float:
        """Return what is left of the step that is running: by its own speed as soon as that is known."""
        passed = now - self.begun
        if self.share > SHARE_KNOWN:
            return passed * (1 - self.share) / self.share
        return max(self.after.ratio(self.training.ratio()) * self.steps.get(self.stage, 0.0) - passed, 0.0)


def steps_after(plan: Plan, diagnostics: Diagnostics, *, is_beside: bool = False) -> list[tuple[str, float]]:
    """Return the stages after training in their order, each with its seconds by rule of thumb.

    ``is_beside``: a run is explained while it is scored, and only what that takes longer is left then.
    """
    n_instances, n_boosters = len(plan.cut.instances), len(plan.cut.instances) * len(fitted_names(plan))
    millions = plan.data.n_rows / 1e6
    n_at_once = min(plan.costs.model.layout.threads, n_parts(plan)[0])
    steps = [
        (
            REFITTING,
            core_seconds(plan) / (n_at_once if is_worth_parts(plan, plan.asked.consolidation) else 1),
            is_refitted(plan, plan.asked.consolidation),
        ),
        ("scoring every row out of fold", 2 + 6 * millions * n_boosters, True),
        (SCORING[0], 4 + 10 * millions * n_instances, True),
        (
            SCORING[1],
            1 + 40e-6 * min(diagnostics.true_rate_genes * POSITIONS_OF_GENE, MOST_POSITIONS) * n_instances,
            n_genes_wanted(plan, diagnostics) > 0 and is_at_hand(plan.data.files),
        ),
        (EXPLAINING[0], 2.0 * n_instances, not diagnostics.minimal_diagnostics),
        (EXPLAINING[1], 0.5 * n_boosters, not diagnostics.skip_shap),
        (EXPLAINING[2], 8.0, not diagnostics.skip_shap),
        ("report", 5.0, True),
    ]
    hidden = sum(seconds for stage, seconds, is_done in steps if is_done and stage in SCORING) if is_beside else 0.0
    found = []
    for stage, seconds, is_done in steps:
        if is_done:
            beside = min(hidden, seconds) if stage in EXPLAINING else 0.0
            hidden -= beside
            found.append((stage, seconds - beside))
    return found
