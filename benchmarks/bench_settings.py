"""Which settings of the trees are best on few genes and on many? AP and log loss minus those of the first line, CPU seconds.

Usage: python benchmarks/bench_settings.py GENES SEED [DATASET ...] [--only NAME ...]

Runs one model with a thread for each line of `TRIED`, two at a time, on GENES genes of each dataset drawn by SEED, and
compares its out-of-fold scores with those of the first, with 95 % intervals over fold groups. Without a dataset a synthetic
one of GENES genes is made.
"""

import argparse
import os
import resource
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import print_machine, words_of_metrics, workplace

from mi_duck.evaluate.compare import compare_runs
from mi_duck.genome.synthetic import synthesise

ROOT = Path(__file__).resolve().parent.parent


def of(rate: str, rounds: int, depth: int, leaf: int, columns: str, features: int = 0) -> tuple[str, ...]:
    """Return the flags of a line."""
    trees = ("--learning-rate", rate, "--n-estimators", str(rounds), "--max-depth", str(depth))
    parameters = ("--xgb", f"min_child_weight={leaf}", "--xgb", f"colsample_bynode={columns}")
    return (*trees, *parameters, "--screen-features", str(features))


TRIED: dict[str, tuple[str, ...]] = {
    "rate .1, depth 6, leaves of 1": of(".1", 800, 6, 1, "1"),
    "rate .1, depth 8, leaves of 10, columns": of(".1", 800, 8, 10, ".3"),
    "rate .05, depth 6, leaves of 1, columns": of(".05", 1600, 6, 1, ".3"),
    "rate .05, depth 8, leaves of 1, columns": of(".05", 1600, 8, 1, ".3"),
    "rate .05, depth 8, leaves of 3, columns": of(".05", 1600, 8, 3, ".3"),
    "rate .05, depth 8, leaves of 10, columns": of(".05", 1600, 8, 10, ".3"),
    "rate .05, depth 8, leaves of 10": of(".05", 1600, 8, 10, "1"),
    "300 features": of(".05", 1600, 8, 10, ".3", 300),
    "300 features, rate .02": of(".02", 4000, 8, 10, ".3", 300),
    "300 features, leaves of 30": of(".05", 1600, 8, 30, ".3", 300),
    "300 features, rate .02, depth 10, leaves of 20": of(".02", 4000, 10, 20, ".3", 300),
    "defaults": (),
    "fast": ("--preset", "fast"),
    "best": ("--preset", "best"),
}
"""What each line asks for; the first is what the others are compared with."""


def trained(job: tuple[str, Path], *, dataset: Path, genes: int, seed: int) -> float:
    """Run one line and return the CPU seconds of all its processes."""
    name, out = job
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = ("run", str(dataset), "--out", str(out), "--seed", str(seed), "--threads", "1", "--strategy", "single")
    few = ("--sample-genes", str(genes)) if genes else ()
    lean = ("--skip-shap", "--minimal-diagnostics", "--true-rate-genes", "0", "--quiet")
    done = subprocess.run(
        [sys.executable, "-m", "mi_duck", *words, *few, *lean, *TRIED[name]],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(dataset: Path, genes: int, seed: int, names: list[str], folder: Path) -> None:
    """Print the scores of the first line, and what the others gain."""
    folders = {name: folder / f"run_{number}" for number, name in enumerate(names)}
    work = partial(trained, dataset=dataset, genes=genes, seed=seed)
    with ProcessPoolExecutor(2) as pool:
        seconds = list(pool.map(work, folders.items()))
    for (name, run), spent in zip(folders.items(), seconds, strict=True):
        found = compare_runs(run, folders[names[0]])
        metrics = found.one if name == names[0] else found.difference
        words = words_of_metrics(metrics, is_difference=name != names[0])
        print(f"{dataset.name} {genes} seed {seed} | {name}: {spent:.0f} CPU s; {words}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("genes", type=int)
    parser.add_argument("seed", type=int)
    parser.add_argument("datasets", type=Path, nargs="*")
    parser.add_argument("--only", nargs="+", default=list(TRIED))
    asked = parser.parse_args()
    print_machine()
    with workplace() as place:
        if not asked.datasets:
            synthesise(place / "synthetic", n_genes=asked.genes, n_features=60)
            asked.datasets.append(place / "synthetic")
        for number, one in enumerate(asked.datasets):
            (place / str(number)).mkdir()
            main(one, asked.genes, asked.seed, asked.only, place / str(number))
