"""Does a reference of cuts make building the matrix cheaper, and are the trees the same? A question of seconds and bytes.

Usage: python benchmarks/bench_matrix.py [GENES [FEATURES]]   (1,500 genes: 582,222 rows, 1,167 features)
"""

import sys
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import xgboost as xgb
from harness import costs, print_machine, quiet, workplace

from mi_duck.boosting.matrix import build_matrix, cut_reference
from mi_duck.data.dataset import open_dataset
from mi_duck.genome.synthetic import synthesise
from mi_duck.plan.make_plan import make_plan
from mi_duck.processes import Context
from mi_duck.rows.partition import partition_here
from mi_duck.rows.segments import SegmentReader
from mi_duck.run.folder import RunFolder
from mi_duck.settings import Asked

THREADS = 2


def main(n_genes: int = 1500, n_features: int = 1167) -> None:
    """Print seconds and peak memory of partition, reference and matrix, with and without the reference, in two layouts."""
    print_machine()
    with workplace() as folder:
        synthesise(folder / "data", n_genes=n_genes, n_features=n_features)
        for layout in ("missing", "zeros"):
            print(f"layout {layout}")
            build(folder / "data", folder / layout, layout)


def build(data: Path, out: Path, layout: Literal["missing", "zeros"]) -> None:
    """Plan one instance of all genes and build its matrix."""
    asked = Asked(
        strategy="single",
        layout=layout,
        memory_per_gene_mb=0.1,
        sample_negatives=1.0,
        n_folds=2,
        n_estimators=5,
        early_stopping_patience=0,
    )
    plan = make_plan(open_dataset(str(data)), out, asked, Context(THREADS, quiet, quiet))
    run = RunFolder(out)
    _, cost = costs(lambda: partition_here(run=str(run.root), threads=THREADS, report=quiet))
    print(f"partition: {cost.wall:.1f} s wall, {cost.cpu:.1f} s CPU")
    reader = SegmentReader(plan, plan.cut.segments, run.segments)
    every = np.ones(reader.n_rows, dtype=bool)
    reference, cost = costs(lambda: cut_reference(reader, every, max_bin=256, threads=THREADS))
    print(f"reference:   {cost.wall:.1f} s wall, {cost.cpu:.1f} s CPU, peak so far {cost.peak:.0f} MiB")
    raw = []
    for name, cuts in (("with", reference), ("without", None)):
        matrix, cost = costs(
            lambda cuts=cuts: build_matrix(reader, every, cuts, max_bin=256, threads=THREADS, report=quiet)  # type: ignore[misc]
        )
        print(f"{name:<8} reference: {cost.wall:.1f} s wall, {cost.cpu:.1f} s CPU, peak so far {cost.peak:.0f} MiB")
        matrix.set_label((reader.keys()["label"] == 1).astype(np.float32))
        booster = xgb.train({"objective": "binary:logistic", "max_bin": 256, "nthread": THREADS}, matrix, 5)
        raw.append(bytes(booster.save_raw("ubj")))
        del matrix, booster
    print(f"trees of 5 rounds are byte-identical: {raw[0] == raw[1]}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
