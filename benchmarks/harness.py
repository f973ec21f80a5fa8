"""What every benchmark prints beside its answer: the machine, the versions, wall and CPU seconds, peak memory."""

import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
from numpy.typing import NDArray

from mi_duck.usage import peak_bytes
from mi_duck.workflow.pipeline import versions

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Cost:
    """Wall seconds, CPU seconds of this process, and its peak memory in MiB."""

    wall: float
    cpu: float
    peak: float


def costs(work: Callable[[], T]) -> tuple[T, Cost]:
    """Run something once and return its result and what it cost."""
    wall, cpu = time.monotonic(), time.process_time()
    result = work()
    return result, Cost(time.monotonic() - wall, time.process_time() - cpu, peak_bytes() / 2**20)


def print_machine() -> None:
    """Print cores, memory, load and versions, so that figures can be placed."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{platform.system()} {platform.machine()}, {psutil.cpu_count()} cores, ", end="")
    print(f"{psutil.virtual_memory().total / 2**30:.0f} GiB, load {load}")
    print(", ".join(f"{name} {version}" for name, version in versions().items()))


@contextmanager
def workplace() -> Iterator[Path]:
    """Give a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="mi_duck_bench_") as folder:
        yield Path(folder)


def calibrated_halves(
    margins: NDArray[np.float32], label: NDArray[np.integer[Any]], group: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Return log-odds as probabilities, each half of the groups calibrated by the other, shape (n_rows, n_classes)."""
    from mi_duck.metrics.calibrate import METHODS, calibrate, calibrated

    half = (group % 2).astype(np.int8)
    calibration = calibrate(margins, label, half, n_folds=2, methods=METHODS)
    found = np.empty(margins.shape)
    for one in range(2):
        found[half == one] = calibrated(margins[half == one], calibration.by_fold[one])
    return found


def words_of(drawn: Mapping[tuple[str, str], Any], *, is_difference: bool = False) -> str:
    """Return average precision and log loss as text, differences with their sign and their 95 % interval."""
    from mi_duck.metrics.metrics import summary

    return words_of_metrics(summary(drawn), is_difference=is_difference)


def words_of_metrics(metrics: Iterable[Any], *, is_difference: bool = False) -> str:
    """Return average precision and log loss as `words_of` does, of `mi_duck.metrics.metrics.Metric`."""
    found = [one for one in metrics if one.metric in ("average_precision", "log_loss")]
    if is_difference:
        parts = [f"{one.metric} {one.class_name} {one.value:+.4f} ({one.low:+.4f} to {one.high:+.4f})" for one in found]
    else:
        parts = [f"{one.metric} {one.class_name} {one.value:.4f}" for one in found]
    return "; ".join(parts)


def quiet(*_: object) -> None:
    """Take messages and progress."""


def demo_run(folder: Path, rounds: int) -> tuple[Path, Path, Path]:
    """Make a run of the bundled part of a plant chromosome, one model without figures; return it, genome and annotation."""
    # not at the top: other benchmarks measure memory
    from mi_duck.data.dataset import open_dataset
    from mi_duck.genome.build import build
    from mi_duck.processes import Context
    from mi_duck.settings import Asked, Diagnostics
    from mi_duck.workflow.demo import DATA
    from mi_duck.workflow.pipeline import run

    (fasta,), (annotation,) = DATA.glob("*.fna.gz"), DATA.glob("*.gtf.gz")
    build(fasta, annotation, folder / "data", report=quiet)
    run(
        open_dataset(str(folder / "data")),
        folder / "run",
        Asked(strategy="single", sample_negatives=1.0, n_estimators=rounds, early_stopping_patience=15),
        Context(2, quiet, quiet),
        diagnostics=Diagnostics(minimal_diagnostics=True, skip_shap=True),
    )
    return folder / "run", fasta, annotation
