"""Do memory and time grow with the genes? Planning, and instances of fixed size: peaks flat, seconds a row the same.

Usage: python benchmarks/bench_growth.py [--features 1167] [--rows-per-gene 390] [--instance-genes 300] [--rounds 5]
                                         [--all] [GENES ...]     (default 1000 5000 20000)

Files hold 100 genes each. Without --all one instance is trained, that with most nearly the usual number of rows; with it
every one, one after the other, and the time is that of ``train`` as a whole, which reads each row of the dataset once for
all instances.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import print_machine, workplace

from mi_duck.genome.synthetic import synthesise
from mi_duck.run.folder import RunFolder
from mi_duck.usage import peak_bytes

GENES_A_FILE = 100
ROOT = Path(__file__).resolve().parent.parent


def command(*words: object) -> tuple[float, float, float]:
    """Run a command of mi_duck; return its wall seconds, its CPU seconds, the peak of its own process in MiB."""
    begun, before = time.monotonic(), os.times()
    child = subprocess.Popen(
        [sys.executable, "-m", "mi_duck", *map(str, words)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    peak = 0
    while child.poll() is None:
        peak = max(peak, peak_bytes(child.pid))
        time.sleep(0.01)
    if child.returncode != 0:
        raise SystemExit((child.stderr.read() if child.stderr else b"").decode())
    after = os.times()
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return time.monotonic() - begun, cpu, peak / 2**20


def main(arguments: list[str]) -> None:
    """Print a line for each number of genes, and how much the figures grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("genes", nargs="*", type=int, default=[1000, 5000, 20000])
    parser.add_argument("--features", type=int, default=1167)
    parser.add_argument("--rows-per-gene", type=float, default=390)
    parser.add_argument("--instance-genes", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--all", action="store_true")
    asked = parser.parse_args(arguments)
    print_machine()
    print(f"{asked.features:,} features, instances of {asked.instance_genes:,} genes, {asked.rounds} rounds")
    print(
        "genes\trows\tplan s\tplan MiB\tinstances\trows of them\tpeak MiB\ttrain s\ttrain CPU s\tCPU s a million rows"
    )
    found = [growth(n_genes, asked) for n_genes in asked.genes]
    # one instance alone would pay for the rows of all that are written for the others
    titles = ["peak of planning", "peak of an instance", *(["CPU seconds a row"] if asked.all else [])]
    for place, title in enumerate(titles):
        values = [one[place] for one in found]
        print(f"{title}: largest over smallest {max(values) / min(values):.3f}")


def growth(n_genes: int, asked: argparse.Namespace) -> tuple[float, float, float]:
    """Draw, plan and train; return peak of planning, peak of an instance (MiB), CPU seconds a row of the instances."""
    with workplace() as folder:
        data, run = folder / "data", folder / "run"
        form = {"n_features": asked.features, "rows_per_gene": asked.rows_per_gene}
        made = synthesise(data, n_genes=n_genes, n_files=max(n_genes // GENES_A_FILE, 1), **form)
        size = ("--strategy", "multi", "--genes-per-instance", asked.instance_genes, "--max-instances", 10_000)
        plan_wall, _, plan_peak = command(
            *("plan", data, "--out", run, *size, "--memory-per-gene-mb", 1, "--sample-negatives", 1),
            *("--n-estimators", asked.rounds, "--early-stopping-patience", 0),
        )
        plan = RunFolder(run).read_plan()
        usual = asked.instance_genes * asked.rows_per_gene
        nearest = min(plan.cut.instances, key=lambda one: abs(one.n_rows - usual))
        trained = plan.cut.instances if asked.all else (nearest,)
        wall, cpu, _ = command("train", run, *(() if asked.all else ("--instance", nearest.instance_id)))
        measured = [
            json.loads((RunFolder(run).instance(one) / "measurement.json").read_bytes())["peak_bytes"]
            for one in trained
        ]
        n_rows, peak = sum(one.n_rows for one in trained), max(measured) / 2**20
        seconds = f"{wall:.0f}", f"{cpu:.0f}", f"{cpu / n_rows * 1e6:.1f}"
        figures = f"{plan_wall:.1f}", f"{plan_peak:.0f}", str(len(trained)), f"{n_rows:,}", f"{peak:.1f}", *seconds
        print("\t".join([f"{n_genes:,}", f"{made.n_rows:,}", *figures]), flush=True)
    return plan_peak, peak, cpu / n_rows


if __name__ == "__main__":
    main(sys.argv[1:])
