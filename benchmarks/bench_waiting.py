"""How should threads wait for each other while XGBoost trains? Wall and CPU seconds of one fit, on quiet and on busy cores.

Usage: python benchmarks/bench_waiting.py [ROWS FEATURES ROUNDS REPEATS]   (default 15000 300 30 3)

Fits the same booster in a process of its own for each way to wait: with one thread, and with as many as there are cores that
sleep at once, spin for so long (``GOMP_SPINCOUNT``), or do what OpenMP does where nothing is said. Busy cores are shared
with as many processes that count.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import psutil
from harness import print_machine

from mi_duck.processes import SPINS

WAYS = {
    "one thread": {},
    "sleep at once": {"OMP_WAIT_POLICY": "passive"},
    **{f"spin {n}": {"GOMP_SPINCOUNT": n} for n in ("1000", SPINS, "100000")},
    "nothing said": {},
}


def fit(rows: int, features: int, rounds: int, threads: int) -> None:
    """Train one booster on counts and print its wall and CPU seconds as JSON."""
    import numpy as np
    import xgboost as xgb

    rng = np.random.default_rng(0)
    counts = rng.integers(0, 30, (rows, features)).astype(np.float32)
    label = counts[:, 0] + counts[:, 1] + rng.normal(size=rows) * 8 > 35
    matrix = xgb.QuantileDMatrix(counts, label=label, nthread=threads)
    wall, cpu = time.monotonic(), time.process_time()
    xgb.train({"objective": "binary:logistic", "nthread": threads, "max_depth": 6}, matrix, rounds)
    print(json.dumps([time.monotonic() - wall, time.process_time() - cpu]))


def measured(way: str, sizes: list[int]) -> list[float]:
    """Return wall and CPU seconds of a fit that waits in this way."""
    threads = 1 if way == "one thread" else psutil.cpu_count()
    unsaid = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    words = [sys.executable, __file__, "fit", *map(str, [*sizes, threads])]
    seconds: list[float] = json.loads(
        subprocess.run(words, env=unsaid | WAYS[way], check=True, capture_output=True).stdout
    )
    return seconds


def main(sizes: list[int], repeats: int) -> None:
    """Print a line for each way to wait, on quiet and on busy cores."""
    print_machine()
    print("cores\tthreads that wait\twall s\tCPU s\t(medians)")
    for name, n_busy in (("quiet", 0), ("busy", psutil.cpu_count() or 1)):
        counting = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n_busy)]
        try:
            found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
            for _ in range(repeats):
                for way in WAYS:
                    found[way].append(measured(way, sizes))
        finally:
            for one in counting:
                one.kill()
                one.wait()
        for way, seconds in found.items():
            wall, cpu = (statistics.median(values) for values in zip(*seconds, strict=True))
            print(f"{name}\t{way}\t{wall:.2f}\t{cpu:.2f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["fit"]:
        fit(*map(int, sys.argv[2:]))
    else:
        numbers = [int(word) for word in sys.argv[1:]] or [15_000, 300, 30, 3]
        main(numbers[:3], numbers[3])
