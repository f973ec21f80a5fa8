"""The leakage report of a run: measures every feature alone on sampled genes, flags suspects, writes ``leakage_analysis/``.

`gene_sample` reads the genes, `separation` measures, `suspicion` holds the rule. The report is a table, a summary and a
figure of the features that separate a class best.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_duck.atomic_files import write_csv, write_json
from mi_duck.data.database import Database
from mi_duck.data.dataset import Dataset, some_names
from mi_duck.drawing import BASE, ENSEMBLE, MUTED, SERIES, new_figure, save, short_label, style
from mi_duck.errors import DataError
from mi_duck.leakage.gene_sample import Sample, read_sample, sample_runs
from mi_duck.leakage.separation import (
    Area,
    Copy,
    Side,
    Tally,
    area,
    area_within,
    best_cut,
    copies,
    most_discriminative_value,
    mutual_information,
    rank_correlation,
    selected,
    share,
    tally,
)
from mi_duck.leakage.suspicion import (
    ALWAYS_AREA,
    CORRELATED,
    LEAST_AREA_OF_CODE,
    LEAST_ROWS,
    RULE,
    VALUES_OF_CODE,
    Comparison,
    Evidence,
    reason_to_flag,
)
from mi_duck.processes import Context, Report, in_child
from mi_duck.run.folder import RunFolder

LEAKY = "--auto-exclude-leaky"
TIE = 0.05  # difference of the areas of two columns that equal each other, below which the later one is flagged
FEW_GENES = 20  # only a column that is promising within these is measured within all genes
PROMISING = 0.97
BASE_BINS = 20
LEAST_CORRELATED_ROWS, MOST_CORRELATED_ROWS = 300, 5_000  # per class
MOST_FEATURES = 25  # in the figure


def without_leaks(
    db: Database,
    dataset: Dataset,
    folder: RunFolder,
    small: Sequence[str],
    *,
    seed: int,
    is_excluding: bool,
    context: Context,
) -> Dataset:
    """Make the leakage report of a run and return the dataset without the features to leave out, which are excluded as `LEAKY`.

    Parameters
    ----------
    db
        Database with ``source_rows`` and ``gene_index``; held-out genes are not in it and so not read.
    small
        Features that fit one byte.
    seed
        Chooses the genes.
    is_excluding
        Whether suspects are left out (``--auto-exclude-leaky``); base scores never are.

    Raises
    ------
    DataError
        No feature is left.
    """
    runs = sample_runs(db, dataset, n_wide=len(dataset.features) - len(small), seed=seed)
    found = in_child(report_leaks, context)(
        run=str(folder.root), **request(dataset, runs, small, is_excluding=is_excluding)
    ).value
    excluded = set(found["excluded"])
    for name, reason in found["suspects"]:
        words = "left out because it leaks" if name in excluded else "warning: it may leak"
        context.say(f"feature '{name}' {words} the label: {reason}")
    if excluded:
        context.say(
            f"--auto-exclude-leaky leaves out {len(excluded):,} of {len(dataset.features):,} features: "
            f"{some_names([name for name in dataset.features if name in excluded])}"
        )
    elif found["suspects"]:
        context.say(f"{len(found['suspects']):,} suspect features stay; --auto-exclude-leaky would leave them out")
    features = tuple(name for name in dataset.features if name not in excluded)
    if not features:
        raise DataError(f"--auto-exclude-leaky leaves no feature of {dataset.location}; see {folder.leakage}")
    reasons = tuple((name, LEAKY) for name in dataset.features if name in excluded)
    return replace(dataset, features=features, excluded=dataset.excluded + reasons)


def request(
    dataset: Dataset, runs: Sequence[Mapping[str, Any]], small: Sequence[str], *, is_excluding: bool
) -> dict[str, Any]:
    """Return the arguments of `report_leaks` for a child process: plain values alone."""
    return {
        "runs": [dict(run) for run in runs],
        "small": list(small),
        "is_excluding": is_excluding,
        "features": list(dataset.features),
        "base_scores": list(dataset.base_scores),
        "label_column": dataset.label_column,
        "classes": list(dataset.classes),
        "labels": list(dataset.labels),
    }


def report_leaks(
    report: Report,
    run: str,
    runs: list[dict[str, Any]],
    small: list[str],
    is_excluding: bool,
    features: list[str],
    base_scores: list[str],
    label_column: str,
    classes: list[str],
    labels: list[str],
) -> dict[str, Any]:
    """Measure every feature and write ``leakage_analysis/``; runs in a child process.

    Parameters
    ----------
    run
        Run folder.
    runs
        Of `sample_runs`.
    small
        Features that fit one byte.
    is_excluding
        Whether the suspects will be left out.
    report
        Progress callback, called with (stage, done, total).

    Returns
    -------
    dict
        ``suspects``: (feature, reason) of every suspect; ``excluded``: of these the features to leave out; ``n_genes``,
        ``n_rows`` of the sample.
    """
    sample = read_sample(runs, features, small, label_column, labels, report)
    rows, suspects = probe(sample, classes, base_scores, report)
    excluded = [name for name, _ in suspects if name not in base_scores] if is_excluding else []
    folder = RunFolder(Path(run)).leakage
    write_csv(folder / "leakage.csv", rows)
    facts = {
        "n_genes": len(sample.group),
        "n_groups": int(sample.group.max()) + 1,
        "n_rows": len(sample.label),
        "n_features": len(features),
        "n_rows_of_class": {name: int((sample.label == index).sum()) for index, name in enumerate(classes)},
        "rule": list(RULE),
        "suspects": [{"feature": name, "reason": reason} for name, reason in suspects],
        "excluded": excluded,
        "genes": sorted({one["gene_id"] for one in runs}),
    }
    write_json(folder / "leakage.json", facts)
    plot_leaks(folder, rows, base_scores)
    return {
        "suspects": suspects,
        "excluded": excluded,
        "n_genes": len(sample.group),
        "n_rows": len(sample.label),
    }


def comparisons(sample: Sample, classes: Sequence[str]) -> list[tuple[Comparison, Side]]:
    """Return every class against the rest (one of them for two classes), and every pair of site classes."""
    numbers = range(len(classes))
    sides = [
        (f"{classes[index]} vs rest", Side((index,), tuple(other for other in numbers if other != index)))
        for index in (numbers if len(classes) > 2 else numbers[1:])
    ]
    sides += [
        (f"{classes[first]} vs {classes[second]}", Side((first,), (second,)))
        for first, second in combinations(numbers[1:], 2)
    ]
    found = []
    group = sample.group[sample.gene]
    for name, side in sides:
        one, other = np.isin(sample.label, side.one), np.isin(sample.label, side.other)
        found.append(
            (
                Comparison(
                    name,
                    classes[side.one[0]],
                    classes[side.other[0]] if len(side.other) == 1 else "other",
                    0 not in side.one + side.other,
                    int(one.sum()),
                    int(other.sum()),
                    len(np.unique(group[one])),
                    len(np.unique(group[other])),
                ),
                side,
            )
        )
    return found


def probe(
    sample: Sample, classes: Sequence[str], base_scores: Sequence[str], report: Report
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Return the lines of ``leakage.csv`` and (feature, reason) of the suspects, both in the order of the features."""
    sides = comparisons(sample, classes)
    report("looking for columns that equal others", 0, 1)
    equal = copies(sample.columns, sample.label, sample.gene, sample.group, [side for _, side in sides])
    found: dict[str, list[Evidence]] = {}
    bits: dict[str, list[float]] = {}
    for done, (name, values) in enumerate(sample.columns.items()):
        if done % 50 == 0:
            report("looking for leaks", done, len(sample.columns))
        cells = tally(values, sample.label, sample.gene, sample.group)
        few = selected(cells, cells.stratum < FEW_GENES)
        found[name] = [
            _evidence(cells, few, side, equal.get((name, index)), name in base_scores)
            for index, (_, side) in enumerate(sides)
        ]
        bits[name] = [mutual_information(cells, side) for _, side in sides]
    report("looking for leaks", len(sample.columns), len(sample.columns))
    base = _base_columns(sample, base_scores)
    rows, suspects = [], []
    for name in sample.columns:
        reasons = []
        for index, (comparison, side) in enumerate(sides):
            evidence = _resolved(name, index, found, sample, base)
            # correlations take time: they are computed only for what would be flagged if they were zero
            if base and reason_to_flag(replace(evidence, correlation_with_base=0.0), comparison):
                evidence = _with_correlation(evidence, sample, name, side, base)
            reason = reason_to_flag(evidence, comparison)
            if reason:
                reasons.append(f"{comparison.name}: {reason}")
            rows.append(_row(name, comparison, evidence, bits[name][index], reason))
        if reasons:
            suspects.append((name, reasons[0]))
    return rows, suspects


def _evidence(cells: Tally, few: Tally, side: Side, copy: Copy | None, is_base_score: bool) -> Evidence:
    """Measure one feature for one comparison, except what cannot decide; ``few`` is the tally of a few genes."""
    whole = area(cells, side)
    may_be_code = 0 in side.one + side.other or len(cells.values) <= VALUES_OF_CODE
    rank = most_discriminative_value(cells, side)
    has_value = cells.rank == rank if rank >= 0 else np.zeros(len(cells.rank), dtype=bool)
    is_promising = area_within(few, side).value >= PROMISING
    return Evidence(
        is_base_score,
        whole,
        area_within(cells, side) if is_promising or copy is not None else None,
        best_cut(cells, side) if whole.value >= LEAST_AREA_OF_CODE and may_be_code else None,
        share(cells, side, cells.rank < 0),
        share(cells, side, has_value),
        float(cells.values[rank]) if rank >= 0 else float("nan"),
        None if copy is None else copy.share,
        "" if copy is None else copy.equal_to,
    )


def _resolved(
    name: str,
    index: int,
    found: Mapping[str, Sequence[Evidence]],
    sample: Sample,
    base: Sequence[NDArray[np.float32]],
) -> Evidence:
    """Drop the equality of a feature where not this one of the pair is the copy, but the other.

    The copy is the only one of both that is not correlated with the base score where they differ, or the one that
    separates the classes better by itself.
    """
    evidence = found[name][index]
    if evidence.equality is None or not evidence.equality.area.low >= ALWAYS_AREA:
        return evidence
    other = evidence.equal_to
    difference = _largest_area(found[name]) - _largest_area(found[other])
    order = list(found)
    is_copy = difference > TIE or (difference > -TIE and order.index(name) > order.index(other))
    if base:
        values, others = (sample.columns[one].astype(np.float32) for one in (name, other))
        own, of_other = (_correlation_with_base(one, base, sample.label, values != others) for one in (values, others))
        evidence = replace(evidence, correlation_where_unequal=own)
        if (own < CORRELATED) != (of_other < CORRELATED):
            is_copy = own < CORRELATED
    return evidence if is_copy else replace(evidence, equality=None)


def _largest_area(of_feature: Sequence[Evidence]) -> float:
    """Return the largest area that a feature has by itself in any comparison."""
    areas = [found.value for one in of_feature for found in (one.whole, one.within) if found is not None]
    return max((value for value in areas if not np.isnan(value)), default=0.5)


def _with_correlation(
    evidence: Evidence, sample: Sample, name: str, side: Side, base: Sequence[NDArray[np.float32]]
) -> Evidence:
    """Add how a feature is correlated with the base score within a class, and how it separates rows of similar base score."""
    values = sample.columns[name].astype(np.float32)
    correlation = _correlation_with_base(values, base, sample.label, np.ones(len(values), dtype=bool))
    evidence = replace(evidence, correlation_with_base=correlation)
    score = base[side.one[0]]
    if len(side.other) == 1 and len(base) > 2:  # of two classes one score is the complement of the other
        score = score - base[side.other[0]]
    rows = np.flatnonzero(np.isin(sample.label, side.one + side.other) & ~np.isnan(score) & ~np.isnan(values))
    if not len(rows):
        return evidence
    borders = np.unique(np.quantile(score[rows], np.linspace(0, 1, BASE_BINS + 1)[1:-1]))
    bins = np.searchsorted(borders, score[rows], side="right")
    is_one = np.isin(sample.label[rows], side.one)
    pairs = np.minimum(np.bincount(bins[is_one], minlength=BASE_BINS), np.bincount(bins[~is_one], minlength=BASE_BINS))
    if pairs.sum() < LEAST_ROWS:
        return evidence
    strata = np.arange(BASE_BINS)
    beyond, alone = (area_within(tally(one[rows], sample.label[rows], bins, strata), side) for one in (values, score))
    return replace(evidence, beyond_base=beyond, base_alone=alone)


def _base_columns(sample: Sample, base_scores: Sequence[str]) -> list[NDArray[np.float32]]:
    """Return the base scores by class, and then the differences of those of the site classes; empty without base scores."""
    score = [sample.columns[base].astype(np.float32) for base in base_scores]
    return [*score, *(first - second for first, second in combinations(score[1:], 2))]


def _correlation_with_base(
    values: NDArray[np.float32],
    base: Sequence[NDArray[np.float32]],
    label: NDArray[np.int64],
    chosen: NDArray[np.bool_],
) -> float:
    """Return the largest absolute rank correlation with any of `_base_columns` within a class, over the chosen rows."""
    found = 0.0
    for number in np.unique(label):
        rows = np.flatnonzero((label == number) & chosen)[:MOST_CORRELATED_ROWS]
        if len(rows) >= LEAST_CORRELATED_ROWS:
            found = max(found, *(abs(rank_correlation(values[rows], one[rows])) for one in base))
    return found


def _row(name: str, comparison: Comparison, evidence: Evidence, bits: float, reason: str) -> dict[str, Any]:
    """Return one line of ``leakage.csv``; what was not measured is empty."""
    verdict = (
        "suspect"
        if reason
        else "too few rows"
        if not comparison.is_large_enough
        else "base score"
        if evidence.is_base_score
        else "clear"
    )
    return {
        "feature": name,
        "comparison": comparison.name,
        "auc": _known(evidence.whole.value),
        "low": _known(evidence.whole.low),
        "high": _known(evidence.whole.high),
        "within_gene_auc": _known(_value(evidence.within)),
        "mutual_information": _known(bits),
        "missing_auc": _known(evidence.missing.area.value),
        "constant_auc": _known(evidence.constant.area.value),
        "constant": _known(evidence.constant_value),
        "equality_auc": _known(_value(evidence.equality.area if evidence.equality else None)),
        "equal_to": evidence.equal_to,
        "correlation_with_base": "" if evidence.correlation_with_base is None else evidence.correlation_with_base,
        "verdict": verdict,
        "reason": reason,
    }


def _value(found: Area | None) -> float:
    return float("nan") if found is None else found.value


def _known(value: float) -> float | str:
    return "" if np.isnan(value) else value


def plot_leaks(folder: Path, rows: Sequence[Mapping[str, Any]], base_scores: Sequence[str]) -> None:
    """Write ``leakage.pdf`` and ``leakage.svg``.

    Parameters
    ----------
    folder
        Folder of the report.
    rows
        Lines of ``leakage.csv``.
    base_scores
        Features that are expected to be strong.
    """
    best = _best_lines(rows)
    suspects = {row["feature"] for row in rows if row["verdict"] == "suspect"}
    order = sorted(best, key=lambda name: (name not in suspects, -best[name]["auc"], name))
    shown = sorted(order[:MOST_FEATURES], key=lambda name: (best[name]["auc"], name))
    with style():
        figure, (axes,) = new_figure(6.4, 1.1 + 0.19 * max(len(shown), 1))
        marks = (("feature", "o", ENSEMBLE), ("base score", "D", BASE), ("suspect", "X", SERIES[1]))
        for kind, marker, color in marks:
            heights = [
                height
                for height, name in enumerate(shown)
                if kind == ("suspect" if name in suspects else "base score" if name in base_scores else "feature")
            ]
            lines = [best[shown[height]] for height in heights]
            below = [line["auc"] - (line["auc"] if line["low"] == "" else line["low"]) for line in lines]
            above = [(line["auc"] if line["high"] == "" else line["high"]) - line["auc"] for line in lines]
            axes.errorbar(
                [line["auc"] for line in lines],
                heights,
                xerr=[below, above],
                fmt=marker,
                color=color,
                markersize=4.5,
                elinewidth=1,
                label=kind,
            )
        axes.axvline(0.5, color=MUTED, linewidth=0.8)
        axes.set_yticks(range(len(shown)), [short_label(name) for name in shown])
        for height, name in enumerate(shown):
            axes.annotate(
                _remark(best[name]),
                (1.01, height),
                xycoords=("axes fraction", "data"),
                va="center",
                color=MUTED,
                fontsize=6.5,
            )
        axes.set_xlim(0.48, 1.01)
        axes.set_ylim(-0.7, len(shown) - 0.3)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("area under the ROC curve of the column alone, 95 % interval over fold groups")
        axes.set_title("How well single columns separate the classes" + ("" if suspects else "; none is suspect"))
        axes.legend(loc="lower right")
        for suffix in (".pdf", ".svg"):
            save(figure, folder / f"leakage{suffix}")


def _best_lines(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return the line to draw of each feature: of a suspect the first that flags it, else the one of the largest area."""
    best: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        if row["auc"] == "":  # a side has no row in which the feature is present
            continue
        known = best.get(row["feature"])
        if known is None:
            is_better = True
        elif known["verdict"] == "suspect":
            is_better = False
        else:
            is_better = row["verdict"] == "suspect" or row["auc"] > known["auc"]
        if is_better:
            best[row["feature"]] = row
    return best


def _remark(row: Mapping[str, Any]) -> str:
    """Return the comparison, and for a suspect the kind of its reason."""
    kind, *more = str(row["reason"]).split(" in ")
    return f"{row['comparison']}: {short_label(kind)}" if more else str(row["comparison"])
