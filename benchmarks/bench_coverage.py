"""How often do the 95 % intervals of a score hold its true value, by number of fold groups? Shares of trials.

Usage: python benchmarks/bench_coverage.py [TRIALS] [GROUPS ...]   (1500 trials of 100 groups take 3 minutes)

A population of fold groups is made up once: sizes are lognormal, groups differ in the share of sites and in how well two fixed
scorers, a worse and a better one, tell them. Its scores are the true ones. Each trial draws groups from it and makes intervals
as a run does. The share of trials whose interval holds the truth is the coverage. The calibration error is left out: its value
itself lies above the truth in few rows.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from harness import print_machine
from numpy.typing import NDArray

from mi_duck.metrics.metrics import DRAWS, Drawn, differences, draw_groups, drawn_scores, summary, too_narrow

CLASSES = ("neither", "donor", "acceptor")
WANTED = ("average_precision", "roc_auc", "f1", "top_k", "top_2k", "top_k_per_gene", "brier", "log_loss")
N_POPULATION = 20_000
Rows = tuple[list[NDArray[np.float32]], NDArray[np.int64], NDArray[np.int64]]


def population(n_groups: int, seed: int) -> Rows:
    """Return (probabilities of each scorer, labels, groups) of all rows."""
    rng = np.random.default_rng(seed)
    sizes = np.maximum(rng.lognormal(3.5, 0.7, n_groups).astype(np.int64), 3)
    groups = np.repeat(np.arange(n_groups), sizes)
    site_share = rng.beta(4, 16, n_groups)[groups]
    labels = np.where(rng.random(len(groups)) < site_share, rng.integers(1, 3, len(groups)), 0)
    skill = rng.normal(0, 0.5, n_groups)[groups]
    evidence = rng.normal(size=(len(groups), 3))
    scorers = []
    for strength in (2.0, 2.3):
        margins = evidence + rng.normal(0, 0.5, evidence.shape)
        margins[np.arange(len(groups)), labels] += strength + skill
        margins[:, 0] += 1.5
        odds = np.exp(margins)
        scorers.append((odds / odds.sum(axis=1, keepdims=True)).astype(np.float32))
    return scorers, labels, groups


def scores(rows: Rows, draws: int, seed: int) -> list[Drawn]:
    """Return what a run computes of the better scorer, and of the difference."""
    scorers, labels, groups = rows
    group_draws = draw_groups(groups, seed=seed, draws=draws)
    worse, better = (
        drawn_scores(
            one, labels, groups, CLASSES, group_draws=group_draws, genes=groups, metrics=WANTED, sites_only=True
        )
        for one in scorers
    )
    return [better, differences(better, worse)]


def some_groups(rows: Rows, chosen: NDArray[np.int64]) -> Rows:
    """Return the rows of some groups, numbered from 0."""
    scorers, labels, groups = rows
    begin = np.searchsorted(groups, chosen)
    size = np.searchsorted(groups, chosen, side="right") - begin
    index = np.repeat(begin - np.cumsum(size) + size, size) + np.arange(size.sum())
    return [one[index] for one in scorers], labels[index], np.repeat(np.arange(len(chosen)), size)


def main(trials: int, numbers: list[int]) -> None:
    """Print the coverage of every score for each number of groups."""
    print_machine()
    begun = time.monotonic()
    everything = population(N_POPULATION if trials > 10 else 400, seed=0)
    n_all = int(everything[2].max()) + 1
    truth = scores(everything, 0, 0)
    rng = np.random.default_rng(1)
    for n_groups in numbers:
        held: dict[tuple[str, str, str], int] = {}
        for trial in range(trials):
            rows = some_groups(everything, rng.integers(0, n_all, n_groups))
            for kind, found, true in zip(("score", "difference"), scores(rows, DRAWS, trial), truth, strict=True):
                for one in summary(found):
                    key = kind, one.metric, one.class_name
                    is_held = one.low <= true[one.metric, one.class_name][0] <= one.high
                    held[key] = held.get(key, 0) + is_held
        print(
            f"\n{n_groups} groups, {trials} trials, {DRAWS} draws; {too_narrow(rows[2]) or 'not marked as too narrow'}"
        )
        for (kind, metric, name), n in held.items():
            print(f"{kind:<11} {metric:<18} {name:<9} {n / trials:.3f}")
        print(f"lowest {min(held.values()) / trials:.3f}, mean {sum(held.values()) / trials / len(held):.3f}")
    print(f"\n{time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1500, [int(one) for one in sys.argv[2:]] or [100])
