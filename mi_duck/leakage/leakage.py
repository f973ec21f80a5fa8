"""The leakage report of a run: measures every feature alone on sampled genes, flags suspects, writes ``leakage_analysis/``.

`separation` measures, `suspicion` holds the rule. The report is a table, a summary and a figure of the features that separate a
class best.

Whole genes are sampled. Row groups are drawn by seed, and of the genes that lie entirely in them those of the lowest ranks are
taken, so that only a part of a table of any size is read. Where rows are so mixed that too few genes are whole, a few genes are
read from all row groups.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import combinations, groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mi_duck.atomic_files import write_csv, write_json
from mi_duck.data.columns import some_names
from mi_duck.data.database import Database
from mi_duck.data.dataset import Dataset
from mi_duck.data.parquet import data_file, row_group_batches, row_groups
from mi_duck.data.values import label_codes, numbers
from mi_duck.errors import DataError
from mi_duck.leakage.separation import (
    Area,
    Column,
    Copy,
    Side,
    Tally,
    area,
    area_within,
    best_cut,
    copies,
    gene_values,
    last_digits,
    most_discriminative_value,
    mutual_information,
    promising_digits,
    rank_correlation,
    selected,
    share,
    tally,
)
from mi_duck.leakage.suspicion import (
    ALWAYS_AREA,
    CORRELATED,
    LEAST_AREA_OF_CODE,
    LEAST_GROUPS,
    LEAST_ROWS,
    LIMITS,
    LIMITS_ALONE,
    RULE,
    RULE_ALONE,
    VALUES_OF_CODE,
    Comparison,
    Evidence,
    reason_to_flag,
)
from mi_duck.processes import Context, Report, in_child
from mi_duck.run.folder import RunFolder
from mi_duck.run.made import Made, read_made
from mi_duck.wording import noun_of

LEAKY = "--auto-exclude-leaky"
MOST_GENES, LEAST_GENES = 200, 60
MOST_ROWS = 60_000
ROWS_READ = 100_000  # of all row groups that are read: 3 s at a thousand features
MOST_CELLS = 20_000_000  # of columns that are not 8-bit, for time and memory: 80 MB
BATCH_ROWS = 4096
TIE = 0.05  # difference of the areas of two columns that equal each other, below which the later one is flagged
FEW_GENES = 20  # only a column that is promising within these is measured within all genes
PROMISING = 0.97
BASE_BINS = 20
BYTES_AT_ONCE = 32  # columns of one byte, whose few values would take less time than the calls that measure them
CELLS_AT_ONCE = 1 << 16  # rows of columns of more than a byte
MOST_CORRELATED_ROWS = 5_000  # per class; at least LEAST_ROWS
LEAST_DIGITS = 0.97  # area in a few rows from which the last digits of a column are measured in all


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows of whole genes.

    Parameters
    ----------
    columns
        Values of each feature, shape (n_rows,): uint8, or float32 with NaN for missing.
    label, gene
        Numbers from 0, shape (n_rows,).
    group
        Fold group of each gene, as a number from 0, shape (n_genes,).
    """

    columns: dict[str, Column]
    label: NDArray[np.int64]
    gene: NDArray[np.int64]
    group: NDArray[np.int64]


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
    """Make the leakage report of a run; return the dataset without the features to leave out, which are excluded as `LEAKY`.

    Parameters
    ----------
    db
        Database with ``source_rows`` and ``gene_index``; held-out genes are not in it and so not read.
    small
        Features that fit one byte.
    is_excluding
        Whether suspects are left out (``--auto-exclude-leaky``); base scores never are.

    Raises
    ------
    DataError
        No feature is left.
    """
    runs = sample_runs(db, dataset, n_wide=len(dataset.features) - len(small), seed=seed)
    found = in_child(report_leaks, context)(
        run=str(folder.root),
        runs=runs,
        small=list(small),
        is_excluding=is_excluding,
        features=list(dataset.features),
        made=[one.to_dict() for one in dataset.made],
        base_scores=list(dataset.base_scores),
        gene_column=dataset.gene_column,
        label_column=dataset.label_column,
        classes=list(dataset.classes),
        labels=list(dataset.labels),
        threads=context.threads,
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


def report_leaks(
    report: Report,
    run: str,
    runs: list[dict[str, Any]],
    small: list[str],
    is_excluding: bool,
    features: list[str],
    made: list[dict[str, Any]],
    base_scores: list[str],
    gene_column: str,
    label_column: str,
    classes: list[str],
    labels: list[str],
    threads: int,
) -> dict[str, Any]:
    """Measure every feature and write ``leakage_analysis/``; runs in a child process.

    Returns
    -------
    dict
        ``suspects``: (feature, reason) of every suspect; ``excluded``: of these the features to leave out; ``n_genes``,
        ``n_rows`` of the sample.
    """
    sample = read_sample(runs, features, small, label_column, labels, report, made=tuple(map(read_made, made)))
    rows, suspects = probe(sample, classes, base_scores, report, threads=threads)
    noun = noun_of(gene_column)
    suspects = [(name, noun.words(reason)) for name, reason in suspects]
    excluded = [name for name, _ in suspects if name not in base_scores] if is_excluding else []
    folder = RunFolder(Path(run)).leakage
    write_csv(folder / "leakage.csv", rows)
    facts = {
        "n_genes": len(sample.group),
        "n_groups": int(sample.group.max()) + 1,
        "n_rows": len(sample.label),
        "n_features": len(features),
        "n_rows_of_class": {name: int((sample.label == index).sum()) for index, name in enumerate(classes)},
        "rule": [noun.words(one) for one in (RULE if base_scores else RULE_ALONE)],
        "limits": list(LIMITS if base_scores else LIMITS_ALONE),
        "suspects": [{"feature": name, "reason": reason} for name, reason in suspects],
        "excluded": excluded,
        "genes": sorted({one["gene_id"] for one in runs}),
    }
    write_json(folder / "leakage.json", facts)
    return {"suspects": suspects, "excluded": excluded, "n_genes": len(sample.group), "n_rows": len(sample.label)}


def sample_runs(db: Database, dataset: Dataset, *, n_wide: int, seed: int) -> list[dict[str, Any]]:
    """Return which rows the sampled genes have: lines of ``sql/leakage_rows.sql``.

    Parameters
    ----------
    db
        Database with ``source_rows`` and ``gene_index``.
    n_wide
        Features that are not 8-bit; the more there are, the fewer rows are taken.
    """
    db.load("row_groups", row_groups(dataset.files))
    runs = db.rows("leakage_rows", seed=seed, rows_read=ROWS_READ, n_first=None)
    n_genes = len(db.read("gene_index"))
    if len({run["gene_rank"] for run in runs}) < min(LEAST_GENES, n_genes):
        runs = db.rows("leakage_rows", seed=seed, rows_read=None, n_first=LEAST_GENES)
    rows_of: Counter[int] = Counter()
    for run in runs:
        rows_of[run["gene_rank"]] += run["n_rows"]
    most_rows = min(MOST_ROWS, MOST_CELLS // max(n_wide, 1))
    chosen: set[int] = set()
    n_rows = 0
    for rank in sorted(rows_of)[:MOST_GENES]:
        if not chosen or n_rows + rows_of[rank] <= most_rows:
            chosen.add(rank)
            n_rows += rows_of[rank]
    return [run for run in runs if run["gene_rank"] in chosen]


def read_sample(
    runs: Sequence[Mapping[str, Any]],
    features: Sequence[str],
    small: Sequence[str],
    label_column: str,
    labels: Sequence[str],
    report: Report,
    *,
    made: Sequence[Made] = (),
) -> Sample:
    """Read the rows of the sampled genes, row group by row group; ``small`` are the features that fit one byte.

    Raises
    ------
    DataError
        A file is damaged or has changed.
    """
    as_bytes = set(small)
    parts: dict[str, list[Any]] = {name: [] for name in features}
    label, rank = [], []
    total, done = sum(run["n_rows"] for run in runs), 0
    for file, batch, ranks in _batches(runs, [*features, label_column], made):
        label.append(label_codes(batch[label_column], labels, f"column '{label_column}' of {file}"))
        rank.append(ranks)
        for name in features:
            values = numbers(batch[name])
            with np.errstate(over="ignore"):
                parts[name].append(values.astype(np.uint8 if name in as_bytes else np.float32))
        done += batch.num_rows
        report("reading genes to look for leaks", done, total)
    gene_rank, gene = np.unique(np.concatenate(rank), return_inverse=True)
    group_of = {run["gene_rank"]: run["fold_group"] for run in runs}
    group = np.unique([group_of[number] for number in gene_rank.tolist()], return_inverse=True)[1]
    columns = {name: np.concatenate(parts.pop(name)) for name in features}  # pop: not every column twice in memory
    return Sample(columns, np.concatenate(label), gene.astype(np.int64), group.astype(np.int64))


def _batches(
    runs: Sequence[Mapping[str, Any]], columns: Sequence[str], made: Sequence[Made]
) -> Iterator[tuple[str, pa.RecordBatch, NDArray[np.int64]]]:
    """Yield the file, the wanted rows of a batch, and their gene ranks, for all batches with a wanted row."""
    for (file, row_group), of_group in groupby(runs, key=lambda run: (run["file"], run["row_group"])):
        pieces = list(of_group)
        n = max(run["first_row"] + run["n_rows"] for run in pieces)
        rank = np.full(n, -1, dtype=np.int64)
        for run in pieces:
            rank[run["first_row"] : run["first_row"] + run["n_rows"]] = run["gene_rank"]
        first = 0
        batches = row_group_batches(data_file(file), columns, [row_group], batch_rows=BATCH_ROWS, made=made)
        for _, batch in batches:
            ranks = rank[first : first + batch.num_rows]
            first += batch.num_rows
            wanted = np.flatnonzero(ranks >= 0)
            if len(wanted):
                yield file, batch.take(pa.array(wanted)), ranks[wanted]
            if first >= n:
                break
        if first < n:
            raise DataError(f"{file} changed while it was read: row group {row_group} has only {first:,} rows")


def comparisons(sample: Sample, classes: Sequence[str]) -> list[tuple[Comparison, Side]]:
    """Return every class against the rest (one of them for two classes), and every pair of site classes."""
    numbers = range(len(classes))
    sides = [
        (f"{classes[index]} vs rest", Side((index,), tuple(other for other in numbers if other != index)))
        for index in (numbers if len(classes) > 2 else numbers[1:])
    ]
    pairs = combinations(numbers[1:], 2)
    sides += [(f"{classes[one]} vs {classes[other]}", Side((one,), (other,))) for one, other in pairs]
    found = []
    group = sample.group[sample.gene]
    for name, side in sides:
        one, other = np.isin(sample.label, side.one), np.isin(sample.label, side.other)
        comparison = Comparison(
            name=name,
            one_name=classes[side.one[0]],
            other_name=classes[side.other[0]] if len(side.other) == 1 else "other",
            is_between_sites=0 not in side.one + side.other,
            n_one=int(one.sum()),
            n_other=int(other.sum()),
            groups_one=len(np.unique(group[one])),
            groups_other=len(np.unique(group[other])),
        )
        found.append((comparison, side))
    return found


def probe(
    sample: Sample, classes: Sequence[str], base_scores: Sequence[str], report: Report, *, threads: int = 1
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Return the lines of ``leakage.csv`` and (feature, reason) of the suspects, in the order of the features."""
    sides = comparisons(sample, classes)
    report("looking for columns that equal others", 0, 1)
    equal = copies(sample.columns, sample.label, sample.gene, sample.group, [side for _, side in sides])
    against_rest = [side for comparison, side in sides if not comparison.is_between_sites]

    def measure(some: list[str]) -> dict[str, tuple[list[float], list[Evidence]]]:
        cells = tally([sample.columns[name] for name in some], sample.label, sample.gene, sample.group)
        is_base_score = [name in base_scores for name in some]
        measured = [
            _evidence(cells, side, [equal.get((name, index)) for name in some], is_base_score)
            for index, (_, side) in enumerate(sides)
        ]
        of_bits = [mutual_information(cells, side) for _, side in sides]
        of_digits = promising_digits([sample.columns[name] for name in some], sample.label, against_rest, LEAST_DIGITS)
        results = {}
        for number, (name, one_value) in enumerate(zip(some, gene_values(cells), strict=True)):
            digits = _digits(sample.columns[name], of_digits[number], sample)
            of_sides = zip(sides, measured, strict=True)
            evidence = [_with_hidden(one[number], digits, one_value, sample, *side) for side, one in of_sides]
            results[name] = ([of_side[number] for of_side in of_bits], evidence)
        return results

    every: dict[str, tuple[list[float], list[Evidence]]] = {}
    pool = ThreadPoolExecutor(threads)
    try:
        for results in pool.map(measure, _measured_together(sample.columns)):
            every |= results
            report("looking for leaks", len(every), len(sample.columns))
    finally:
        pool.shutdown(cancel_futures=True)
    found = {name: of_sides for name, (_, of_sides) in every.items()}
    base, best_base = _base_columns(sample, base_scores), _best_base(found, base_scores)
    rows, suspects = [], []
    for name in sample.columns:
        reasons = []
        for index, (comparison, side) in enumerate(sides):
            evidence = _resolved(name, index, found, sample, base)
            evidence = replace(evidence, best_base=best_base)
            # correlations take time: they are computed only for what would be flagged if they were zero
            if base and reason_to_flag(replace(evidence, correlation_with_base=0.0), comparison):
                evidence = _with_correlation(evidence, sample, name, side, base)
            reason = reason_to_flag(evidence, comparison)
            if reason:
                reasons.append(f"{comparison.name}: {reason}")
            rows.append(_row(name, comparison, evidence, every[name][0][index], reason))
        if reasons:
            suspects.append((name, reasons[0]))
    return rows, suspects


def _measured_together(columns: Mapping[str, Column]) -> Iterator[list[str]]:
    """Yield the names of all columns in order: neighbours of one byte together, and others as far as they fill no cache."""
    for is_byte, names in groupby(columns, key=lambda name: columns[name].dtype == np.uint8):
        several = list(names)
        n_at_once = BYTES_AT_ONCE if is_byte else max(1, CELLS_AT_ONCE // max(len(columns[several[0]]), 1))
        yield from (several[first : first + n_at_once] for first in range(0, len(several), n_at_once))


def _evidence(
    cells: Tally, side: Side, of_equal: Sequence[Copy | None], is_base_score: Sequence[bool]
) -> list[Evidence]:
    """Measure each column for one comparison, except what cannot decide: areas within genes are tried in a few genes."""
    whole = area(cells, side)
    may_be_code = 0 in side.one + side.other
    n_values = np.diff(cells.first).tolist()
    constant = most_discriminative_value(cells, side)
    of_constant = share(cells, side, (cells.value >= 0) & (cells.value == constant[cells.column]))
    of_missing = share(cells, side, cells.value < 0)
    few = area_within(selected(cells, cells.stratum < FEW_GENES), side)
    is_promising = [one.value >= PROMISING or copy is not None for one, copy in zip(few, of_equal, strict=True)]
    within = area_within(selected(cells, np.array(is_promising)[cells.column]), side)
    has_cut = [
        one.value >= LEAST_AREA_OF_CODE and (may_be_code or n <= VALUES_OF_CODE)
        for one, n in zip(whole, n_values, strict=True)
    ]
    cuts = best_cut(selected(cells, np.array(has_cut)[cells.column]), side)
    from_background = None if may_be_code else _from_background(cells, side)
    return [
        Evidence(
            is_base_score=is_base_score[number],
            whole=whole[number],
            within=within[number] if is_promising[number] else None,
            cut=cuts[number] if has_cut[number] else None,
            missing=of_missing[number],
            constant=of_constant[number],
            constant_value=float(cells.values[value]) if value >= 0 else float("nan"),
            equality=None if copy is None else copy.share,
            equal_to="" if copy is None else copy.equal_to,
            from_background=None if from_background is None else from_background[number],
        )
        for number, (value, copy) in enumerate(zip(constant.tolist(), of_equal, strict=True))
    ]


def _with_hidden(
    evidence: Evidence,
    digits: tuple[list[str], Tally] | None,
    one_value: NDArray[np.float32] | None,
    sample: Sample,
    comparison: Comparison,
    side: Side,
) -> Evidence:
    """Add what the last digits of a feature tell of the label, and its one value per gene, where it has such."""
    hidden = _best_digits(digits, side) | _share_correlation(one_value, sample, comparison, side)
    return replace(evidence, **hidden) if hidden else evidence


def _from_background(cells: Tally, side: Side) -> list[float]:
    of_sites = [area(cells, Side((number,), (0,))) for number in side.one + side.other]
    values = [[found.value for found in areas if not np.isnan(found.value)] for areas in zip(*of_sites, strict=True)]
    return [max(known, default=0.5) for known in values]


def _digits(values: Column, names: list[str], sample: Sample) -> tuple[list[str], Tally] | None:
    """Return some last digits of a column, by name and counted; None without any."""
    if not names:
        return None
    digits = last_digits(values)
    return names, tally([digits[name] for name in names], sample.label, sample.gene, sample.group)


def _best_digits(digits: tuple[list[str], Tally] | None, side: Side) -> dict[str, Any]:
    if digits is None:
        return {}
    names, cells = digits
    found = dict(zip(names, area(cells, side), strict=True))
    known = [name for name, one in found.items() if not np.isnan(one.low)]
    if not known:
        return {}
    best = max(known, key=lambda name: found[name].low)
    return {"digits": found[best], "digits_name": best}


def _share_correlation(
    one_value: NDArray[np.float32] | None, sample: Sample, comparison: Comparison, side: Side
) -> dict[str, Any]:
    """Return how the one value per gene of a feature is correlated with the gene's share of rows of the one side.

    The interval is Fisher's, with fold groups for the number of observations.
    """
    if one_value is None or comparison.is_between_sites:
        return {}
    n_genes = len(one_value)
    n_one = np.bincount(sample.gene[np.isin(sample.label, side.one)], minlength=n_genes)
    share_of_one = (n_one / np.bincount(sample.gene, minlength=n_genes)).astype(np.float32)
    n_groups = len(np.unique(sample.group[~np.isnan(one_value)]))
    if n_groups < LEAST_GROUPS:
        return {}
    value = abs(rank_correlation(one_value, share_of_one))
    low = np.tanh(np.arctanh(min(value, 1 - 1e-9)) - 1.96 / np.sqrt(n_groups - 3))
    return {"share_correlation": value, "share_low": float(low)}


def _best_base(found: Mapping[str, Sequence[Evidence]], base_scores: Sequence[str]) -> float | None:
    areas = [one.whole.value for name in base_scores for one in found[name] if one.from_background is None]
    return max((value for value in areas if not np.isnan(value)), default=None)


def _resolved(
    name: str, index: int, found: Mapping[str, Sequence[Evidence]], sample: Sample, base: Sequence[NDArray[np.float32]]
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
    beyond, alone = area_within(tally([values[rows], score[rows]], sample.label[rows], bins, strata), side)
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
    """Return the largest absolute rank correlation with any of `_base_columns` within a class, over the chosen rows.

    A correlation of less than three standard errors, 3 / sqrt(n), counts as none.
    """
    found = 0.0
    for number in np.unique(label):
        rows = np.flatnonzero((label == number) & chosen)[:MOST_CORRELATED_ROWS]
        if len(rows) >= LEAST_ROWS:
            largest = max(abs(rank_correlation(values[rows], one[rows])) for one in base)
            found = max(found, largest if largest >= 3 / len(rows) ** 0.5 else 0.0)
    return found


def _row(name: str, comparison: Comparison, evidence: Evidence, bits: float, reason: str) -> dict[str, Any]:
    """Return one line of ``leakage.csv``; what was not measured is empty."""
    verdict = "base score" if evidence.is_base_score else "clear"
    if not comparison.is_large_enough:
        verdict = "too few rows"
    if reason:
        verdict = "suspect"
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
