"""How many nodes do the largest trees reach, and what do their histograms take? Beside the memory model's answer.

Usage: python benchmarks/bench_tree_nodes.py [toy]

XGBoost alone, on 60 columns of random numbers whose labels are even or rare, easy or meaningless, with leaves of 1 to 10. Then
the memory that boosting adds to a process with a matrix, over 16 bytes for each bin and node.
"""

import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import xgboost as xgb
from harness import print_machine
from numpy.typing import NDArray

from mi_duck.boosting.forest import most_nodes
from mi_duck.boosting.train import PeakMeter
from mi_duck.run.costs import Layout, expected_nodes
from mi_duck.usage import peak_bytes

ROUNDS = 60
LABELS = ("even", "a third, at random", "a tenth", "easy")


def drawn(n_rows: int, n_features: int, kind: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return features and labels of a kind."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(n_rows, n_features)).astype(np.float32)
    signal = rows[:, 0] * rows[:, 1] + rows[:, 2] + rng.normal(size=n_rows)
    labels = {
        "even": signal > 0,
        "a third, at random": rng.random(n_rows) < 1 / 3,
        "a tenth": signal > np.quantile(signal, 0.9),
        "easy": rows[:, 0] + rows[:, 1] > 0,
    }
    return rows, labels[kind]


def boosted(data: xgb.QuantileDMatrix, depth: int, leaf_weight: float, rounds: int, threads: int = 1) -> xgb.Booster:
    """Return a booster as it is trained by default, but for its depth and its leaves."""
    facts = {"objective": "binary:logistic", "eta": 0.05, "colsample_bynode": 0.3, "nthread": threads}
    return xgb.train(facts | {"max_depth": depth, "min_child_weight": leaf_weight}, data, rounds)


LAYOUT = Layout(
    n_features=60,
    n_wide=60,
    bins=60 * 256,
    missing_share=0.0,
    stored_share=1.0,
    has_sparse_column=False,
    n_classes=2,
    max_bin=256,
    max_depth=8,
    threads=1,
    cv="matrices",
)


def count_nodes(sizes: tuple[int, ...], depths: tuple[int, ...], rounds: int) -> None:
    """Print the most nodes above the last level, and over them what the memory model expects."""
    ratios: dict[int, list[float]] = {depth: [] for depth in depths}
    print("| labels | rows | depth | leaves of | nodes | expected |\n| --- | --- | --- | --- | --- | --- |")
    for n_rows, kind in product(sizes, LABELS):
        rows, truth = drawn(n_rows, 60, kind)
        data, share = xgb.QuantileDMatrix(rows, truth, nthread=1), truth.mean()
        for depth, weight in product(depths, (1, 2, 5, 10)):
            nodes = most_nodes(bytes(boosted(data, depth, weight, rounds).save_raw("ubj")), depth)
            leaf_rows = float(weight / (share * (1 - share)))
            expected = expected_nodes(n_rows, replace(LAYOUT, max_depth=depth, leaf_rows=leaf_rows))
            ratios[depth].append(expected / nodes)
            print(f"| {kind} | {n_rows:,} | {depth} | {weight} | {nodes} | {expected:.0f} |", flush=True)
    for depth, several in ratios.items():
        low, median, high = np.quantile(several, (0, 0.5, 1))
        print(f"depth {depth}: expected over counted {low:.2f} to {high:.2f}, median {median:.2f}")


def measure_here(n_rows: int, n_features: int, depth: int, rounds: int, threads: int) -> None:
    """Print the memory that boosting adds to this process, over 16 bytes for each bin and node."""
    rows, truth = drawn(n_rows, n_features, "even")
    data = xgb.QuantileDMatrix(rows, truth, nthread=threads)
    boosted(data, 1, 1, 1, threads)
    meter = PeakMeter()
    before = peak_bytes()
    nodes = most_nodes(bytes(boosted(data, depth, 1, rounds, threads).save_raw("ubj")), depth)
    meter.mark("boosting")
    added = meter.peaks["boosting"] - before
    bins = len(data.get_quantile_cut()[1])
    taken = f"{added / 2**20:.0f} MiB, {added / (16 * bins * nodes):.2f} of 16 bytes each"
    print(
        f"{n_rows:,} rows, {bins:,} bins, depth {depth}, {rounds} rounds, {threads} threads: {nodes} nodes, {taken}",
        flush=True,
    )


def main(arguments: list[str]) -> None:
    """Print both, and the machine."""
    if arguments[:1] == ["here"]:
        measure_here(*map(int, arguments[1:]))
        return
    is_toy = arguments[:1] == ["toy"]
    print_machine()
    count_nodes(
        (1_000,) if is_toy else (1_000, 3_000, 10_000, 40_000), (4,) if is_toy else (6, 8, 11), 5 if is_toy else ROUNDS
    )
    if not Path("/proc/self/clear_refs").exists():
        return
    for (n_rows, n_features), depth, rounds, threads in product(
        ((500, 20),) if is_toy else ((2_000, 500), (20_000, 300)),
        (4,) if is_toy else (6, 8, 10),
        (2,) if is_toy else (1, 20, 60),
        (1,) if is_toy else (1, 2),
    ):  # each in a process of its own
        given = map(str, (n_rows, n_features, depth, rounds, threads))
        subprocess.run([sys.executable, __file__, "here", *given], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
