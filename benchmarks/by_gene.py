"""What benchmarks share that choose or weigh genes: rows in memory, plain boosted trees, honest scores, paired differences.

Rows are scored on groups that no tree saw, and easy negatives are left out of training alone. Members' log-odds become
probabilities by a logistic regression fitted on the other half of the scored groups, so that no way to join them is better
merely because it is calibrated.
"""

import argparse
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xgboost as xgb
from harness import costs
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import stdtrit

from mi_duck.data.dataset import open_dataset
from mi_duck.metrics.calibrate import logistic
from mi_duck.metrics.metrics import differences, draw_groups, drawn_scores, interval
from mi_duck.plan.indexing import EASY_QUANTILE

METRICS = ("average_precision", "log_loss")
DRAWS = 500
PARTS = 5
LEAST = 1e-6
"""Least probability of the background, where those of the sites add up to more than one."""

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Drawn = Mapping[tuple[str, str], Floats]


@dataclass(frozen=True, slots=True)
class Rows:
    """A dataset in memory.

    Parameters
    ----------
    features
        Shape (n_rows, n_features).
    label, gene
        Class and gene of each row as numbers from 0.
    weight
        Of each row in training: 0 left out, 1, or as many as an easy negative stands for.
    group
        Fold group of each gene, shape (n_genes,).
    about
        Features of genes: means over their rows, as ranks from 0 to 1, shape (n_genes, n_of_them).
    """

    features: NDArray[np.float32]
    label: NDArray[np.int8]
    gene: NDArray[np.int32]
    weight: NDArray[np.float32]
    group: NDArray[np.int32]
    about: Floats
    classes: tuple[str, ...]

    def of_genes(self, genes: Indices, *, trained: bool) -> Indices:
        """Return the rows of genes in the order of the dataset, all or those that are trained on."""
        wanted = np.isin(self.gene, genes)
        return np.flatnonzero(wanted & (self.weight > 0) if trained else wanted)

    def by_gene(self, rows: Indices, values: Floats) -> Floats:
        """Return the mean of values of rows by gene, weighted as in training; NaN for genes without any."""
        n, weight = len(self.group), self.weight[rows]
        with np.errstate(invalid="ignore"):
            return np.bincount(self.gene[rows], values * weight, n) / np.bincount(self.gene[rows], weight, n)


def read_rows(location: str, *, exclude: str, by: Sequence[str], share: float, seed: int) -> Rows:
    """Read a dataset with base scores, without the features whose names match `exclude`; draw the easy negatives to train on."""
    dataset = open_dataset(location)
    features = [name for name in dataset.features if not re.search(exclude, name)]
    keys = [dataset.label_column, dataset.gene_column, dataset.fold_column]
    matrix = np.empty((dataset.n_rows, len(features)), dtype=np.float32)
    parts, first = [], 0
    for file in dataset.files:
        table = pq.read_table(file, columns=[*dict.fromkeys([*keys, *features])])
        for index, name in enumerate(features):
            matrix[first : first + len(table), index] = table[name].to_numpy()
        parts.append(table.select([*dict.fromkeys(keys)]))
        first += len(table)
    found = pa.concat_tables(parts)
    label = pc.index_in(found[keys[0]].cast("string"), pa.array(dataset.labels)).to_numpy().astype(np.int8)
    gene, group = (np.unique(found[name].to_numpy(), return_inverse=True)[1].astype(np.int32) for name in keys[1:])
    of_gene = np.zeros(gene.max() + 1, dtype=np.int32)
    of_gene[gene] = group
    weight = np.ones(len(label), dtype=np.float32)
    site_score = matrix[:, [features.index(name) for name in dataset.base_scores[1:]]].max(axis=1)
    is_easy = (label == 0) & (site_score < np.quantile(site_score[label == 0], EASY_QUANTILE))
    is_kept = np.random.default_rng(seed).random(len(label)) < share
    weight[is_easy] = np.where(is_kept[is_easy], 1 / share, 0)
    size = np.bincount(gene)
    means = np.stack([np.bincount(gene, matrix[:, features.index(name)]) / size for name in by], axis=1)
    about = means.argsort(axis=0).argsort(axis=0) / len(means)
    return Rows(matrix, label, gene, weight, of_gene, about, dataset.classes)


def splits(rows: Rows, n_splits: int, seed: int) -> Iterator[tuple[Indices, Indices, np.random.Generator]]:
    """Give genes to learn from, in random order, and genes to score, a fifth of the fold groups; no group is scored twice."""
    is_trained_on = np.bincount(rows.gene[rows.weight > 0], minlength=len(rows.group)) > 0
    part = np.random.default_rng(seed).permutation(rows.group.max() + 1) % PARTS
    for index in range(n_splits):
        rng = np.random.default_rng([seed, index])
        scored = part[rows.group] == index
        yield rng.permutation(np.flatnonzero(~scored & is_trained_on)), np.flatnonzero(scored), rng


def margins(rows: Rows, learned: Indices, scored: Indices, rounds: int, threads: int) -> Floats:
    """Train one booster for each site class on rows; return log-odds of other rows, shape (n_scored, n_classes - 1)."""
    matrix = xgb.QuantileDMatrix(
        rows.features[learned], rows.label[learned], weight=rows.weight[learned], nthread=threads
    )
    parameters = {"objective": "binary:logistic", "eta": 0.1, "max_depth": 6, "nthread": threads}
    found = []
    for index in range(1, len(rows.classes)):
        matrix.set_label(rows.label[learned] == index)
        booster = xgb.train(parameters, matrix, rounds)
        found.append(booster.inplace_predict(rows.features[scored], predict_type="margin"))
    return np.stack(found, axis=1).astype(np.float64)


def joined(rows: Rows, scored: Indices, members: Sequence[Floats], strata: Indices, half: Indices) -> Floats:
    """Join log-odds of members by weights of at least 0 and an offset, for each class, stratum of rows and half.

    Those of a half are fitted by log loss on the other one. Returns probabilities, shape (n_scored, n_classes).
    """
    found = np.empty((len(scored), len(rows.classes)))
    for index in range(1, len(rows.classes)):
        x = np.stack([member[:, index - 1] for member in members], axis=1)
        truth = rows.label[scored] == index
        for stratum in np.unique(strata):
            for one in range(2):
                here = strata == stratum
                line = _fitted(x[here & (half != one)], truth[here & (half != one)])
                found[here & (half == one), index] = logistic(line[0] + x[here & (half == one)] @ line[1:])
    found[:, 0] = np.maximum(1 - found[:, 1:].sum(axis=1), LEAST)
    return found / found.sum(axis=1, keepdims=True)


def _fitted(x: Floats, truth: NDArray[np.bool_]) -> Floats:
    """Return offset and weights of least log loss, drawn to the plain mean by as much as one row would."""
    n, k = x.shape
    start = np.array([0.0, *[1 / k] * k])
    sign = np.where(truth, 1.0, -1.0)

    def objective(line: Floats) -> tuple[float, Floats]:
        right = sign * (line[0] + x @ line[1:])
        slope = -sign * logistic(-right)
        away = line - start
        return (
            float((np.logaddexp(0, -right).sum() + away @ away) / (n + 1)),
            (np.array([slope.sum(), *(slope @ x)]) + 2 * away) / (n + 1),
        )

    bounds = [(None, None), *[(0, None)] * k]
    return minimize(objective, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": 500}).x


def read_and_compare(compare: Callable[[Rows, argparse.Namespace], None], asked: argparse.Namespace) -> None:
    """Read the dataset that is asked for, compare on it, and print what that costs."""
    rows = read_rows(asked.dataset, exclude=asked.exclude, by=asked.by, share=0.1, seed=asked.seed)
    _, cost = costs(lambda: compare(rows, asked))
    print(f"{cost.cpu:.0f} CPU s, peak {cost.peak:.0f} MiB")


class Arms:
    """Scores of ways to learn, by split."""

    def __init__(self) -> None:
        self._drawn: dict[str, list[Drawn]] = {}

    def score(self, rows: Rows, scored: Indices, probabilities: Mapping[str, Sequence[Floats]], seed: int) -> None:
        """Score the models of each way of one split under the same draws of fold groups, and keep the mean of the scores."""
        group = np.unique(rows.group[rows.gene[scored]], return_inverse=True)[1].astype(np.int32)
        group_draws = draw_groups(group, seed=seed, draws=DRAWS)
        shown = [*((METRICS[0], name) for name in rows.classes[1:]), (METRICS[1], "all")]
        for arm, several in probabilities.items():
            found = [
                drawn_scores(
                    values,
                    rows.label[scored],
                    group,
                    rows.classes,
                    group_draws=group_draws,
                    metrics=METRICS,
                    sites_only=True,
                )
                for values in several
            ]
            self._drawn.setdefault(arm, []).append({key: np.mean([one[key] for one in found], axis=0) for key in shown})

    def show(self, reference: str) -> None:
        """Print means over splits, and differences from one way.

        The first interval is over fold groups, so of these models; the second, by Student's t over the splits, also has in it
        how models of other genes differ.
        """
        for name, several in self._drawn.items():
            print(f"{name}: " + "; ".join(_words(key, _mean(several, key)) for key in several[0]))
            if name != reference:
                less = [differences(one, other) for one, other in zip(several, self._drawn[reference], strict=True)]
                print("  minus reference: " + "; ".join(_words(key, _mean(less, key), sign="+") for key in less[0]))
                print("  over splits: " + "; ".join(_over_splits([one[key][0] for one in less]) for key in less[0]))


def _mean(several: Sequence[Drawn], key: tuple[str, str]) -> Floats:
    # splits share no scored group, so their draws are independent
    return np.mean([one[key] for one in several], axis=0)


def _words(key: tuple[str, str], values: Floats, *, sign: str = "") -> str:
    found = interval(*key, values)
    return f"{key[0]} {key[1]} {found.value:{sign}.4f} ({found.low:{sign}.4f} to {found.high:{sign}.4f})"


def _over_splits(values: Sequence[float]) -> str:
    half = stdtrit(len(values) - 1, 0.975) * np.std(values, ddof=1) / len(values) ** 0.5
    each = ", ".join(f"{one:+.4f}" for one in values)
    return f"({np.mean(values) - half:+.4f} to {np.mean(values) + half:+.4f}, of {each})"
