"""What a reader must know first: whether the ensemble is better than the base model, and the warnings of the run.

Every sentence follows from the records by a rule of this module; a sound run has no warnings.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mi_duck.numbers import gibibytes
from mi_duck.report.overfitting import ADVICE, FitRecord
from mi_duck.report.records import RunRecords, Score, suspects_of, with_interval

FEWEST_GROUPS = 100
FEWEST_SITES = 500
"""With fewer fold groups, or fewer rows of a class, intervals are unreliable."""
LEAST_RATIO = 0.97
"""A predicted peak was too low where predicted over measured memory is below this."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Is the ensemble better than the base model: ``better``, ``worse``, ``unclear`` or ``alone``, and the sentence."""

    verdict: str
    sentence: str


def difference(run: RunRecords, metric: str, class_name: str) -> Score | None:
    """Return the paired difference between ensemble and base model, or None where it was not computed."""
    return next(
        (
            score
            for score in run.scores
            if (score.scope, score.metric, score.class_name) == ("difference", metric, class_name)
            and score.variant == "ensemble - base"
            and score.evaluated_on == "oof"
        ),
        None,
    )


def gain(run: RunRecords, metric: str, class_name: str) -> int:
    """Return 1 where the ensemble is significantly better than the base model, -1 where worse, else 0.

    The 95 % interval of the paired difference decides; where there is none, whether the two intervals do not overlap.
    """
    sign = -1 if metric in ("log_loss", "brier", "ece") else 1
    between = difference(run, metric, class_name)
    if between is not None and between.low is not None and between.high is not None:
        return sign * ((between.low > 0) - (between.high < 0))
    base, ensemble = (run.find(scope, metric, class_name) for scope in ("base", "ensemble"))
    if base is None or ensemble is None or None in (base.low, base.high, ensemble.low, ensemble.high):
        return 0
    above = float(ensemble.low or 0) > float(base.high or 0)
    below = float(ensemble.high or 0) < float(base.low or 0)
    return sign * (above - below)


def answer(run: RunRecords) -> Answer:
    """Return whether the ensemble is better than the base model, by average precision and by log loss."""
    precision, loss = run.find("ensemble", "average_precision", "macro"), run.find("ensemble", "log_loss", "all")
    if run.find("base", "average_precision", "macro") is None:
        return Answer(
            "alone",
            f"The ensemble reaches an average precision of {with_interval(precision)} and a log loss of "
            f"{with_interval(loss)}. The dataset has no base scores, so there is nothing to compare it with.",
        )
    others = run.find("base", "average_precision", "macro"), run.find("base", "log_loss", "all")
    if None in (one.low if one else None for one in (precision, loss, *others)):
        return Answer(
            "unclear",
            f"Average precision is {with_interval(precision)} against {with_interval(others[0])} of the base scores, log loss "
            f"{with_interval(loss)} against {with_interval(others[1])}; without intervals it is not known whether the difference "
            "is more than noise.",
        )
    words = {1: "better than", 0: "not distinguishable from", -1: "worse than"}
    ranking, probabilities = gain(run, "average_precision", "macro"), gain(run, "log_loss", "all")
    if ranking == probabilities:
        text = f"The ensemble is {words[ranking]} the base scores, in average precision and in log loss."
    else:
        in_loss = words[probabilities]
        text = f"The ensemble is {words[ranking]} the base scores in average precision and {in_loss} them in log loss."
    verdict = {2: "better", -2: "worse"}.get(ranking + probabilities, "unclear")
    return Answer(verdict, text)


def cautions(run: RunRecords, fits: Sequence[FitRecord] | None) -> list[str]:
    """Return the warnings of a run, what matters most first."""
    found = _coverage(run) + _comparison(run)
    suspects = suspects_of(run) or []
    if suspects:
        named = ", ".join(suspects[:5]) + (", …" if len(suspects) > 5 else "")
        found.append(
            f"{_count(len(suspects), 'feature')} may leak the label ({named}); if so, every score here is too high. "
            "See Leakage; --auto-exclude-leaky leaves them out."
        )
    found += _data(run) + _memory(run)
    for verdict in ("ran out of rounds", "wide gap", "no gain"):
        n = sum(fit.verdict == verdict for fit in fits or ())
        if n:
            found.append(f"{n} of {_count(len(fits or ()), 'fold fit')} {_verb(verdict, n)}: {ADVICE[verdict]}.")
    if fits and all(fit.verdict == "not watched" for fit in fits):
        found.append(
            "Early stopping was off, so the number of rounds was not chosen by data and overfitting was not measured."
        )
    return found


def _coverage(run: RunRecords) -> list[str]:
    found = []
    coverage = run.coverage
    if coverage["n_genes_trained"] < coverage["n_genes"]:
        lost = [f"instance_{one['instance_id']:02d}" for one in run.instances if one["status"] not in ("done", "split")]
        found.append(
            f"Only {coverage['n_genes_trained']:,} of {coverage['n_genes']:,} genes were trained on; "
            f"lost: {', '.join(lost) or 'none'}. Run the same command again to train what is missing."
        )
    if run.plan.asked.sample_genes:
        found.append(
            f"This run uses a sample of {run.plan.data.n_genes:,} of {run.plan.data.n_genes_dataset:,} genes; more genes "
            "usually give a better model."
        )
    return found


def _comparison(run: RunRecords) -> list[str]:
    if run.find("base", "log_loss", "all") is None:
        return ["The dataset has no base scores, so nothing is known about the gain over a base model."]
    worse = [
        name for name in run.classes[1:] if gain(run, "average_precision", name) < 0
    ]  # the mean over classes hides these
    found = [f"For {name} the ensemble ranks rows worse than the base scores do." for name in worse]
    found += [
        f"Probabilities of {name} are less well calibrated than those of the base scores: see Calibration."
        for name in run.classes[1:]
        if gain(run, "ece", name) < 0
    ]
    if gain(run, "log_loss", "all") < 0:
        found.append(
            "The log loss of the ensemble is higher than that of the calibrated base scores: its probabilities are worse."
        )
    return found


def _data(run: RunRecords) -> list[str]:
    found = []
    genes = [gene for gene in run.genes if not gene["is_holdout"]]
    groups = len({gene["fold_group"] for gene in genes})
    if groups < FEWEST_GROUPS:
        found.append(
            f"There are only {groups} independent groups of genes. Intervals from so few groups are often too narrow, and "
            "the scores may not hold for other genes."
        )
    for name in run.classes:
        rows = sum(gene[f"n_{name}"] for gene in genes)
        if rows < FEWEST_SITES:
            found.append(f"Only {rows:,} rows are {name}; its scores are uncertain.")
    return found


def _memory(run: RunRecords) -> list[str]:
    found = []
    measured = [one for one in run.instances if one["measured_peak_bytes"]]
    over = [one for one in measured if one["predicted_bytes"] < LEAST_RATIO * one["measured_peak_bytes"]]
    if over:
        worst = max(over, key=lambda one: float(one["measured_peak_bytes"] / one["predicted_bytes"]))
        found.append(
            f"{_count(len(over), 'instance')} took more memory than predicted, at most "
            f"{worst['measured_peak_bytes'] / worst['predicted_bytes'] - 1:.0%} more."
        )
    largest = max((one["measured_peak_bytes"] for one in measured), default=0)
    if largest > run.plan.cut.budget.budget_bytes:
        found.append(
            f"The largest peak, {gibibytes(largest)} GiB, was above the budget of "
            f"{gibibytes(run.plan.cut.budget.budget_bytes)} GiB."
        )
    return found


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _verb(verdict: str, n: int) -> str:
    return {
        "ran out of rounds": "ran out of rounds",
        "wide gap": "has a wide gap" if n == 1 else "have a wide gap",
        "no gain": "gained nothing",
    }[verdict]
