"""Would more genes help? Scores of models of ever more genes on the same rows, and what twice as many would give.

The instances of a learning curve are nested: each has all genes of the one before and as many again. Folds are global, so the
fold-k boosters of every one of them have seen no group of fold k, and all are scored on all rows. Scores by the number of genes
follow a power law,

    score(n) = a + b (n / N)^-c,

which is fitted by least squares, a and b in closed form for each c of a grid, and read at 2 N. All sizes are scored under the
same draws of fold groups, and the law is fitted in each draw, also with one size left out after the other: so differences of
sizes have intervals, and so has what the law says. How well it predicts is shown on the data themselves: it is fitted without
the largest size and compared with what that one scored.

References
----------
Hestness et al., Deep learning scaling is predictable, empirically (arXiv 1712.00409, 2017): power laws of the error by the size
of the data. Viering and Loog, The shape of learning curves: a review, IEEE TPAMI 45 (2023): the law with an offset, its limits.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mi_duck.atomic_files import write_csv, write_json
from mi_duck.ensemble.consolidate import write_member_scores
from mi_duck.ensemble.member_scores import read_member_scores
from mi_duck.errors import CheckpointError
from mi_duck.evaluate.scored_rows import scored_rows
from mi_duck.metrics.metrics import DRAWS, LOWER_IS_BETTER, headline_scores, interval, known, title_of, too_narrow
from mi_duck.metrics.ranking import Floats64
from mi_duck.numbers import decimal
from mi_duck.numbers import interval as written
from mi_duck.plan.windows import LEAST_SIZES
from mi_duck.processes import Report
from mi_duck.run.folder import LEARNING_CURVE, RunFolder
from mi_duck.run.genes import read_gene_folds
from mi_duck.run.instance_folder import is_trained
from mi_duck.wording import GENES, Noun

EXPONENTS = np.geomspace(0.05, 1.0, 40)  # above 1 errors would fall faster than by averaging
MEASURED, AHEAD, CHECK = "measured", "predicted", "predicted without the largest"
ANSWERED = PRECISION, LOSS = ("average_precision", "macro"), ("log_loss", "all")
"""The scores that the answer is about, each with its class; ``macro`` is the mean over the site classes."""

Curves = Mapping[tuple[str, str], Floats64]
"""For each metric and class the scores under each draw by size, shape (1 + n_draws, n_sizes)."""


@dataclass(frozen=True, slots=True)
class Point:
    """One score at one number of genes.

    Parameters
    ----------
    kind
        ``measured``; ``predicted``: by the law, for twice the genes; ``predicted without the largest``: by the law fitted to the
        smaller sizes, for all genes.
    n_genes, n_rows
        Genes of the instance, and its training rows; of ``predicted`` twice those of the largest. Each fold trains on the part
        of them that lies outside it.
    value, low, high
        The score with its 95 % interval over fold groups.
    gain, gain_low, gain_high
        By how much it is better than at half the genes, so that a falling log loss is positive; of ``predicted without the
        largest`` by how much it is better than what was measured. None where there is nothing to compare with.
    """

    kind: str
    n_genes: int
    n_rows: int
    metric: str
    class_name: str
    value: float | None
    low: float | None
    high: float | None
    gain: float | None
    gain_low: float | None
    gain_high: float | None


def write_learning_curve(*, run: str, out: str, threads: int, report: Report) -> dict[str, Any]:
    """Score the nested instances of a run on all rows; write ``learning_curve.csv`` and ``learning_curve.json``.

    Parameters
    ----------
    run
        Folder of the run; all its instances are trained and its rows are in segments.
    out
        Where the files are written.

    Returns
    -------
    dict
        ``sentences``: the answer; ``points``: every `Point` as a record.

    Raises
    ------
    CheckpointError
        An instance is not trained.
    """
    folder = RunFolder(Path(run))
    plan = folder.read_plan()
    genes = read_gene_folds(folder, plan)
    instances = plan.cut.instances
    if not all(is_trained(folder, plan, one) for one in instances):
        raise CheckpointError(f"not all sizes of {folder.root} are trained; the same command goes on")
    write_member_scores(folder, plan, genes, instances, has_refit=False, threads=threads, report=report)
    scores = read_member_scores(folder, plan)
    scored = scored_rows(plan, genes, scores, DRAWS)
    report("scoring every size", 0, len(instances))
    found = []
    for number, one in enumerate(instances, 1):
        probabilities = scores.probabilities(one.instance_id)[scored.first_scored :]
        found.append(
            headline_scores(probabilities, scored.label, scored.group, scored.classes, group_draws=scored.group_draws)
        )
        report("scoring every size", number, len(instances))
    curves = {key: np.stack([one[key] for one in found], axis=1) for key in found[0]}
    points = curve_points(curves, [one.n_genes for one in instances], [one.n_training_rows for one in instances])
    caution = too_narrow(scored.group)
    answer = sentences(points, caution, plan.data.noun)
    write_csv(Path(out) / "learning_curve.csv", [asdict(one) for one in points])
    facts = {
        "dataset": plan.data.location,
        "group_column": plan.data.gene_column,
        "sentences": answer,
        "n_rows_scored": len(scored.label),
        "n_fold_groups": int(scored.group_draws.shape[1]),
        "too_narrow": caution,
        "law": "a + b (n / N)^-c, least squares in each draw",
        "points": [asdict(one) for one in points],
    }
    write_json(Path(out) / LEARNING_CURVE, facts)
    return {name: facts[name] for name in ("group_column", "sentences", "points")}


def curve_points(curves: Curves, n_genes: Sequence[int], n_rows: Sequence[int]) -> list[Point]:
    """Return every score at every size, at twice the largest, and what the smaller sizes say of the largest.

    Parameters
    ----------
    n_genes, n_rows
        Of each size, from the smallest on.
    """
    points = []
    sizes = np.array(n_genes, dtype=np.float64)
    for key, values in curves.items():
        for number, (genes, rows) in enumerate(zip(n_genes, n_rows, strict=True)):
            over = values[:, number - 1] if number else None
            points.append(_point(MEASURED, genes, rows, key, values[:, number], over))
        # where a score is nearly perfect, a law may leave its range
        highest = np.inf if key[0] in LOWER_IS_BETTER else 1.0
        ahead, fitted = np.clip(_pooled_fits(values, sizes, [2 * sizes[-1], sizes[-1]]), 0.0, highest)
        points.append(_point(AHEAD, 2 * n_genes[-1], 2 * n_rows[-1], key, ahead, fitted))
        if len(sizes) > LEAST_SIZES:
            (predicted,) = np.clip(_pooled_fits(values[:, :-1], sizes[:-1], [sizes[-1]]), 0.0, highest)
            own = np.resize(values[1:, -1], len(predicted) - 1)
            points.append(_point(CHECK, n_genes[-1], n_rows[-1], key, predicted, np.concatenate([values[:1, -1], own])))
    return points


def _pooled_fits(values: Floats64, sizes: Floats64, at: Sequence[float]) -> list[Floats64]:
    """Return the law at other sizes: first on the rows as they are, then under all draws, also with one size left out.

    Draws of groups say nothing of how much a score depends on which genes were trained on. Leaving out one size after the other
    shows it, so these fits widen the interval.
    """
    found = [fit_law(values, sizes, at)]
    if len(sizes) > LEAST_SIZES:
        kept = [np.arange(len(sizes)) != number for number in range(len(sizes))]
        found += [fit_law(values[1:, some], sizes[some], at) for some in kept]
    return list(np.concatenate(found).T)


def _point(
    kind: str, n_genes: int, n_rows: int, key: tuple[str, str], values: Floats64, over: Floats64 | None
) -> Point:
    """Return a score with its interval, and its gain over another under the same draws."""
    own = interval(*key, values)
    sign = -1 if key[0] in LOWER_IS_BETTER else 1
    gain = None if over is None else interval("gain", "", sign * (values - over))
    ends = (None, None, None) if gain is None else (known(gain.value), known(gain.low), known(gain.high))
    return Point(kind, n_genes, n_rows, *key, known(own.value), known(own.low), known(own.high), *ends)


def fit_law(values: Floats64, sizes: Floats64, at: Sequence[float]) -> Floats64:
    """Fit a + b n^-c to each line of scores and return it at other sizes; squared errors count by the number of genes.

    Parameters
    ----------
    values
        Shape (n_lines, n_sizes).
    sizes
        Shape (n_sizes,), at least three.
    at
        Sizes to read the curve at.

    Returns
    -------
    ndarray
        Shape (n_lines, len(at)).

    Examples
    --------
    >>> sizes = np.array([1.0, 2.0, 4.0, 8.0])
    >>> fit_law((0.9 - 0.2 * sizes**-0.5)[None], sizes, [16.0]).round(3)
    array([[0.85]])
    """
    largest = sizes[-1]
    weight = np.sqrt(sizes / largest)  # a score of n genes varies by 1 / n with the genes
    best = np.full(len(values), np.inf)
    found = np.empty((len(values), len(at)))
    for exponent in EXPONENTS:
        law, ahead = (
            np.stack([np.ones(len(some)), (np.asarray(some) / largest) ** -exponent], axis=1) for some in (sizes, at)
        )
        parameters = (values * weight) @ np.linalg.pinv(law * weight[:, None]).T
        error = np.square((values - parameters @ law.T) * weight).sum(axis=1)
        is_better = error < best
        best[is_better] = error[is_better]
        found[is_better] = parameters[is_better] @ ahead.T
    return found


def sentences(points: Sequence[Point], caution: str, noun: Noun = GENES) -> list[str]:
    """Return the answer in words: what twice the genes would give, whether that is known, and how well the curve predicted."""
    of_kind = {(one.kind, one.metric, one.class_name): one for one in points}
    own, check = of_kind[MEASURED, *PRECISION], of_kind.get((CHECK, *PRECISION))  # of the sizes the last, the largest
    ahead, loss = of_kind[AHEAD, *PRECISION], of_kind[AHEAD, *LOSS]
    lines = [
        f"By the fitted curve, twice the {noun.many} ({ahead.n_genes:,} instead of {own.n_genes:,}) would {_change(ahead)} "
        f"mean average precision by {_size(ahead)} and {_change(loss, falls=True)} log loss by {_size(loss)}."
    ]
    if not (_is_known(ahead) or _is_known(loss)):
        lines.append("Neither can be distinguished from no change.")
    if check is not None:
        lines.append(
            f"The same curve fitted to at most half of the {noun.many} predicts {decimal(check.value)} for all of them; "
            f"{written(own.value, own.low, own.high)} was measured."
        )
    lines.append(
        f"Intervals are 95 %, over fold groups, for these nested sets of {noun.many}; predictions also cover fits without one "
        "size."
    )
    if caution:
        lines.append(f"They are too narrow: {caution}.")
    return lines


def _is_known(one: Point) -> bool:
    """Return whether the interval of a gain excludes zero."""
    return one.gain_low is not None and one.gain_high is not None and (one.gain_low > 0 or one.gain_high < 0)


def _change(one: Point, *, falls: bool = False) -> str:
    return ("lower", "raise")[((one.gain or 0) >= 0) != falls]


def _size(one: Point) -> str:
    if one.gain is None or one.gain_low is None or one.gain_high is None:
        return decimal(None if one.gain is None else abs(one.gain))
    ends = sorted((one.gain_low, one.gain_high)) if one.gain >= 0 else sorted((-one.gain_low, -one.gain_high))
    return f"{decimal(abs(one.gain))} ({decimal(ends[0], signed=True)} to {decimal(ends[1], signed=True)})"


def read_learning_curve(out: Path) -> dict[str, Any]:
    """Return what ``learning_curve.json`` holds; a `CheckpointError` where it is damaged."""
    path = out / LEARNING_CURVE
    try:
        facts: dict[str, Any] = json.loads(path.read_bytes())
        points_of(facts)
        return facts
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); delete it, and the same command makes it again") from error


def points_of(facts: Mapping[str, Any]) -> list[Point]:
    """Return the scores that ``learning_curve.json`` holds."""
    return [Point(**one) for one in facts["points"]]


def shown(points: Sequence[Point]) -> list[tuple[str, str]]:
    """Return the scores that are drawn: those of the answer, of every class."""
    return list(dict.fromkeys((one.metric, one.class_name) for one in points if one.metric in dict(ANSWERED)))


def size_lines(
    points: Sequence[Point], scores: Sequence[tuple[str, str]], noun: Noun = GENES
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the columns and the rows of a table: each size, and twice the largest, with scores and gains."""
    found = {(one.kind, one.n_genes, one.metric, one.class_name): one for one in points}
    rows = []
    for kind, n_genes, n_rows in dict.fromkeys((one.kind, one.n_genes, one.n_rows) for one in points):
        if kind == CHECK:
            continue
        cells = []
        for key in scores:
            one = found[kind, n_genes, *key]
            cells += [
                written(one.value, one.low, one.high),
                written(one.gain, one.gain_low, one.gain_high, signed=True),
            ]
        rows.append((kind, f"{n_genes:,}", f"{n_rows:,}", *cells))
    titles = [name for key in scores for name in (title_of(*key), "gain")]
    return ("", noun.many, "training rows", *titles), rows
