"""How near is the memory that is predicted without probes? Small data, where nothing is measured beforehand.

Each line is a real training process of one instance, with its own depth, bins, threads, layout or matrix on disk; predicted
is what the formula alone says.

Usage: python benchmarks/bench_memory_formula.py [toy]
"""

import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import print_machine, workplace

from mi_duck.genome.synthetic import synthesise
from mi_duck.run.costs import MemoryModel
from mi_duck.run.folder import RunFolder

DRAWN = {  # genes of about 98 rows, features, share of missing values
    "60 columns": (100, 60, 0.0),
    "60 columns, missing values": (100, 60, 0.1),
    "60 columns, more rows": (1_000, 60, 0.0),
    "120 columns, half of them wide, more rows": (1_000, 120, 0.0),
    "300 columns": (100, 300, 0.0),
    "300 columns, more rows": (600, 300, 0.0),
    "1,167 columns": (60, 1_167, 0.0),
    "1,167 columns, missing values": (60, 1_167, 0.05),
    "1,167 columns, more rows": (400, 1_167, 0.0),
    "1,167 columns, more rows, missing values": (400, 1_167, 0.05),
}
VARIED = (
    (),
    ("--layout", "sentinel"),
    ("--layout", "zeros"),
    ("--strategy", "external"),
    ("--threads", "1"),
    ("--max-depth", "3"),
    ("--max-depth", "9"),
    ("--max-bin", "32"),
    ("--cv", "matrices"),
    ("--cv", "weights"),
    ("--sample-negatives", "0.25"),
)
MIB = 1 << 20


def mi_duck(*words: object) -> str:
    """Run a command; return the last line of what it said where it failed, else nothing."""
    done = subprocess.run([sys.executable, "-m", "mi_duck", *map(str, words)], capture_output=True, text=True)
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


def trained(data: Path, run: Path, words: tuple[str, ...]) -> tuple[int, int, int] | str:
    """Return rows, predicted and measured bytes of an instance that is trained; a line where it cannot be."""
    shutil.rmtree(run, ignore_errors=True)
    usual = {"--strategy": "single", "--threads": "2"}
    settings = [word for name, value in usual.items() if name not in words for word in (name, value)]
    rounds = ("--n-estimators", 30, "--early-stopping-patience", 0, "--max-memory-per-instance-gb", 6)
    threads = words[words.index("--threads") + 1] if "--threads" in words else "2"
    failed = mi_duck("plan", data, "--out", run, *rounds, *settings, *words)
    failed = failed or mi_duck("train", run, "--instance", 0, "--threads", threads)
    if failed:
        return failed
    folder = RunFolder(run)
    plan = folder.read_plan()
    instance = plan.cut.instances[0]
    rows = instance.n_training_rows
    peak = json.loads((folder.instance(instance) / "measurement.json").read_bytes())["peak_bytes"]
    return rows, MemoryModel(plan.costs.model.layout).predict_bytes(rows, instance.n_genes), peak


def main() -> None:
    """Print a line per data set and setting, and what all of them say."""
    is_toy = "toy" in sys.argv[1:]
    ratios = []
    print("| data | rows | settings | predicted MiB | measured MiB | ratio |\n| --- | --- | --- | --- | --- | --- |")
    with workplace() as folder:
        for number, (name, (genes, features, missing)) in enumerate(list(DRAWN.items())[: 1 if is_toy else None]):
            data = folder / f"data_{number}"
            synthesise(data, n_genes=genes, rows_per_gene=100, n_features=features, missing_fraction=missing)
            for words in VARIED[: 1 if is_toy else None]:
                found = trained(data, folder / "run", words)
                if isinstance(found, str):
                    print(f"| {name} |  | {' '.join(words)} | {found} |  |  |", flush=True)
                    continue
                rows, predicted, peak = found
                ratios.append(predicted / peak)
                sizes = f"{predicted / MIB:.0f} | {peak / MIB:.0f} | {predicted / peak:.2f}"
                print(f"| {name} | {rows:,} | {' '.join(words)} | {sizes} |", flush=True)
    within = sum(0.95 <= ratio <= 1.15 for ratio in ratios)
    print(f"\n{within} of {len(ratios)} within .95 to 1.15; from {min(ratios):.2f} to {max(ratios):.2f}, ", end="")
    print(f"median {statistics.median(ratios):.2f}")
    print_machine()


if __name__ == "__main__":
    main()
