"""Are instances trained faster two at a time than one by one, in what memory, and are the models the same? Seconds, MiB.

Usage: python benchmarks/bench_workers.py [GENES FEATURES ROUNDS REPEATS]   (default 400 300 100 3)

Plans four instances of a synthetic set, writes their segments once, and trains copies of this run with 1 and 2 workers
alternately, all cores each time. CPU seconds are those of the command and all its children; memory is that of all of them
together, seen every 50 ms.
"""

import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import psutil
from harness import print_machine, workplace

from mi_duck.atomic_files import file_sha256
from mi_duck.genome.synthetic import synthesise
from mi_duck.rows.partition import partition_here
from mi_duck.run.folder import RunFolder
from mi_duck.run.instance_folder import measurement

ROOT = Path(__file__).resolve().parent.parent
INSTANCES = 4
WORKERS = (1, 2)


@dataclass(frozen=True, slots=True)
class Training:
    """Wall and CPU seconds of a training, MiB of all its processes together, the sum of the instances' own peaks, hashes."""

    wall: float
    cpu: float
    together: float
    peaks: float
    models: tuple[str, ...]


def command(*words: object) -> tuple[float, float, float]:
    """Run a command of mi_duck and return wall seconds, CPU seconds with children, and the peak of all together in MiB."""
    begun = time.monotonic()
    before = os.times()
    process = psutil.Popen(
        [sys.executable, "-m", "mi_duck", *map(str, words)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, resident(process))
        time.sleep(0.05)
    if process.returncode != 0:
        raise SystemExit((process.stderr.read() if process.stderr else b"").decode())
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.monotonic() - begun, cpu, peak / 2**20


def resident(process: psutil.Process) -> int:
    """Return the resident memory of a process and its children in bytes."""
    total = 0
    try:
        for one in (process, *process.children()):
            total += one.memory_info().rss
    except psutil.NoSuchProcess:  # it ended meanwhile
        pass
    return total


def train(planned: Path, out: Path, workers: int) -> Training:
    """Train a copy of a planned run."""
    shutil.copytree(planned, out)
    wall, cpu, together = command("train", out, "--workers", workers)
    folder = RunFolder(out)
    instances = folder.read_plan().cut.instances
    peaks = sum(measurement(folder, one)["peak_bytes"] for one in instances) / 2**20
    names = ("model_multiclass.miduck", "fold_models.miduck", "oof_predictions.parquet", "calibration.json")
    models = tuple(file_sha256(folder.instance(one) / name) for one in instances for name in names)
    shutil.rmtree(out)
    return Training(wall, cpu, together, peaks, models)


def main(n_genes: int, n_features: int, rounds: int, repeats: int) -> None:
    """Print a line for each training, the ratios, and whether all models are the same."""
    print_machine()
    found: dict[int, list[Training]] = {workers: [] for workers in WORKERS}
    with workplace() as folder:
        synthesise(folder / "data", n_genes=n_genes, n_features=n_features)
        flags = ("--strategy", "multi", "--genes-per-instance", -(-n_genes * 11 // 10 // INSTANCES))
        flags = (*flags, "--n-estimators", rounds, "--early-stopping-patience", 0)
        command("plan", folder / "data", "--out", folder / "planned", *flags)
        partition_here(run=str(folder / "planned"), threads=1, report=lambda *_: None)
        plan = RunFolder(folder / "planned").read_plan()
        predicted = ", ".join(f"{one.predicted_bytes / 2**20:.0f}" for one in plan.cut.instances)
        print(
            f"{len(plan.cut.instances)} instances, {plan.data.n_rows:,} rows, {n_features} features; predicted MiB: {predicted}"
        )
        print("workers\twall s\tCPU s\tMiB together\tMiB, sum of the instances' peaks")
        for repeat in range(repeats):
            for workers in WORKERS if repeat % 2 == 0 else WORKERS[::-1]:
                one = train(folder / "planned", folder / "run", workers)
                found[workers].append(one)
                print(f"{workers}\t{one.wall:.1f}\t{one.cpu:.1f}\t{one.together:.0f}\t{one.peaks:.0f}", flush=True)
    alone, beside = found[WORKERS[0]], found[WORKERS[1]]
    for title in ("wall", "cpu", "together", "peaks"):
        ratios = [getattr(new, title) / getattr(old, title) for old, new in zip(alone, beside, strict=True)]
        print(f"{title}, {WORKERS[1]} workers over {WORKERS[0]}: median {statistics.median(ratios):.2f}")
    print(f"models byte-identical: {len({one.models for one in (*alone, *beside)}) == 1}")


if __name__ == "__main__":
    arguments = [int(word) for word in sys.argv[1:]] or [400, 300, 100, 3]
    main(*arguments)
