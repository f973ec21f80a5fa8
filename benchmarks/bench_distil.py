"""What does a distilled model lose and gain, by its number of trees? Scores out of fold, rows a second, CPU seconds.

Usage: python benchmarks/bench_distil.py RUN [--trees 50 100 200 400] [--threads 2]
       python benchmarks/bench_distil.py toy

RUN is a finished run whose dataset is still there; it is copied, and its rows are written once. The first line of the table pays
for asking the ensemble about every row, and for its refit where the run was refitted. ``toy`` makes a small run first.
"""

import argparse
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import costs, print_machine, quiet, workplace

import mi_duck
from mi_duck.evaluate.distilled import write_distilled
from mi_duck.genome.synthetic import synthesise
from mi_duck.numbers import decimal, interval
from mi_duck.rows.partition import partition_here
from mi_duck.run.folder import RunFolder

SCORES = (("average_precision", "donor"), ("average_precision", "acceptor"), ("log_loss", "all"))


def main(arguments: list[str]) -> None:
    """Print a line for each number of trees."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--trees", type=int, nargs="+", default=[50, 100, 200, 400])
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args(arguments)
    print_machine()
    with workplace() as folder:
        run = toy(folder) if asked.run == "toy" else Path(asked.run)
        trees = [5, 10] if asked.run == "toy" else asked.trees
        shutil.copytree(run, folder / "copy")
        partition_here(run=str(folder / "copy"), threads=asked.threads, report=quiet)
        measure(folder / "copy", trees, asked.threads)


def toy(folder: Path) -> Path:
    """Make a small run and return its folder."""
    synthesise(folder / "data", n_genes=40, rows_per_gene=60, n_features=30)
    options = {"n_folds": 2, "n_estimators": 10, "max_depth": 3, "threads": 1, "consolidation": "voting"}
    mi_duck.train(
        str(folder / "data"), folder / "run", skip_shap=True, minimal_diagnostics=True, progress=False, **options
    )
    return folder / "run"


def measure(run: Path, several: list[int], threads: int) -> None:
    """Distil a run once for each number of trees, and print what that gives."""
    before = RunFolder(run).model.stat().st_size
    print("trees\t" + "\t".join(f"{kind} {name}, minus ensemble" for kind, name in SCORES), end="\t")
    print("correlation\trows/s\tof the ensemble\tCPU us a row\tof the ensemble\tMB\tof the ensemble\tpeak MiB\tCPU s")
    for trees in several:
        out = run.parent / f"distilled_{trees}.miduck"
        facts, cost = costs(
            lambda out=out, trees=trees: write_distilled(
                run=str(run), out=str(out), trees=trees, threads=threads, report=quiet
            )
        )
        scores = {(one["metric"], one["class"]): one for one in facts["scores"]}
        cells = [
            f"{decimal(scores[key]['distilled']['value'])}, {interval(*_ends(scores[key]['difference']), signed=True)}"
            for key in SCORES
        ]
        speed, sizes = facts["speed"], [size / 1e6 for size in (out.stat().st_size, before)]
        cells += ["/".join(decimal(one["correlation"], 3) for one in facts["fidelity"])]
        cells += [f"{speed[f'{name}_rows_per_second']:,}" for name in ("distilled", "ensemble")]
        cells += [decimal(speed[f"{name}_cpu_microseconds_per_row"], 1) for name in ("distilled", "ensemble")]
        print(
            "\t".join(
                [str(trees), *cells, *(decimal(size, 2) for size in sizes), f"{cost.peak:.0f}", f"{cost.cpu:.0f}"]
            ),
            flush=True,
        )


def _ends(values: dict[str, float]) -> tuple[float, float, float]:
    return values["value"], values["low"], values["high"]


if __name__ == "__main__":
    main(sys.argv[1:])
