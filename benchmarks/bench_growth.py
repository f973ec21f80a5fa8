"""Does memory stay flat when the genes become many? Peak of planning, and of one instance of fixed size.

Usage: python benchmarks/bench_growth.py [FEATURES ROWS_PER_GENE GENES ...]   (default 1167 60 1000 5000 20000)
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import print_machine, workplace

from mi_duck.children import peak_bytes
from mi_duck.genome.synthetic import synthesise

INSTANCE_GENES = 300
ROOT = Path(__file__).resolve().parent.parent


def command(*words: object) -> tuple[float, float]:
    """Run a command of mi_duck and return its wall seconds and the peak memory of its own process in MiB."""
    begun = time.monotonic()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [sys.executable, "-m", "mi_duck", *map(str, words)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    peak = 0
    while child.poll() is None:
        peak = max(peak, peak_bytes(child.pid))
        time.sleep(0.01)
    if child.returncode != 0:
        raise SystemExit((child.stderr.read() if child.stderr else b"").decode())
    return time.monotonic() - begun, peak / 2**20


def main(features: int, rows_per_gene: float, sizes: list[int]) -> None:
    """Print a line for each number of genes, and how much the peaks grew."""
    print_machine()
    print("genes\trows\tplan s\tplan MiB\tinstance rows\tinstance MiB\tinstance s")
    peaks = []
    for n_genes in sizes:
        with workplace() as folder:
            made = synthesise(folder / "data", n_genes=n_genes, n_features=features, rows_per_gene=rows_per_gene)
            flags = ("--strategy", "multi", "--genes-per-instance", INSTANCE_GENES, "--max-instances", 10_000)
            plan = command(
                *("plan", folder / "data", "--out", folder / "run", *flags),
                *("--memory-per-gene-mb", 1, "--n-estimators", 5, "--early-stopping-patience", 0),
            )
            command("train", folder / "run", "--instance", 0)
            instance = folder / "run" / "multi_instance_training" / "instance_00"
            measured = json.loads((instance / "measurement.json").read_bytes())
            rows = json.loads((instance / "manifest.json").read_bytes())["n_rows"]
            peak = measured["peak_bytes"] / 2**20
            peaks.append((plan[1], peak))
            figures = (f"{plan[0]:.1f}", f"{plan[1]:.0f}", str(rows), f"{peak:.1f}", f"{measured['wall_seconds']:.0f}")
            print("\t".join([str(n_genes), str(made.n_rows), *figures]), flush=True)
    for title, place in (("planning", 0), ("an instance", 1)):
        values = [peak[place] for peak in peaks]
        print(f"peak of {title}: largest over smallest {max(values) / min(values):.3f}")


if __name__ == "__main__":
    arguments = sys.argv[1:] or ["1167", "60", "1000", "5000", "20000"]
    main(int(arguments[0]), float(arguments[1]), [int(size) for size in arguments[2:]])
