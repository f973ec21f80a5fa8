"""How long does it take to index genes, assign folds and cut instances? Wall and CPU seconds, peak memory of the process.

Usage: python benchmarks/bench_planning.py [ROWS GENES ...]   (default 3727422 9280 100000000 250000)

Only what a plan looks at is drawn: gene, label, fold group, position, and one feature so that there is something to train;
genes are of very different size, as real ones are, and a group holds one to four of them. No probes: the size of a gene is
given. Each plan is a process of its own, so its time holds the start of the program too.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from harness import print_machine, workplace

from mi_duck.data.dataset import CLASSES
from mi_duck.run.plan import Plan

ROOT = Path(__file__).resolve().parent.parent
GENES_A_FILE = 5_000
SITES = 0.1


def draw(folder: Path, n_rows: int, n_genes: int) -> None:
    """Write a dataset of so many genes, with about so many rows."""
    rng = np.random.default_rng(1)
    sizes = rng.lognormal(0, 1, n_genes)
    sizes = np.maximum(1, np.round(sizes * n_rows / sizes.sum())).astype(np.int64)
    group = np.repeat(np.arange(n_genes), rng.integers(1, 5, n_genes))[:n_genes]
    folder.mkdir(parents=True)
    for begin in range(0, n_genes, GENES_A_FILE):
        part = slice(begin, min(begin + GENES_A_FILE, n_genes))
        gene = np.repeat(np.arange(part.stop - begin), sizes[part]).astype(np.int32)
        n = len(gene)
        label = np.where(rng.random(n) < SITES, rng.integers(1, 3, n), 0).astype(np.int8)
        ids = pa.array([f"gene_{number:07d}" for number in range(begin, part.stop)])
        clusters = pa.array([f"cluster_{number:07d}" for number in group[part]])
        table = pa.table(
            {
                "gene_id": pa.DictionaryArray.from_arrays(gene, ids),
                "overlap_cluster": pa.DictionaryArray.from_arrays(gene, clusters),
                "position": np.arange(n, dtype=np.int32),
                "splice_type": pa.DictionaryArray.from_arrays(label, pa.array(CLASSES)),
                "feature": rng.integers(0, 256, n).astype(np.uint8),
            }
        )
        pq.write_table(table, folder / f"part_{begin:07d}.parquet", row_group_size=1 << 17)


def main(sizes: list[int]) -> None:
    """Print a line for each pair of rows and genes."""
    print_machine()
    print("rows\tgenes\tinstances\twall s\tCPU s\tpeak MiB")
    for n_rows, n_genes in zip(sizes[::2], sizes[1::2], strict=True):
        with workplace() as folder:
            draw(folder / "data", n_rows, n_genes)
            flags = ("--strategy", "multi", "--memory-per-gene-mb", "1", "--max-instances", "10000")
            before, begun = os.times(), time.monotonic()
            child = subprocess.Popen(
                [sys.executable, "-m", "mi_duck", "plan", folder / "data", "--out", folder / "run", *flags],
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            _, errors = child.communicate()
            wall, after = time.monotonic() - begun, os.times()
            if child.returncode != 0:
                raise SystemExit(errors.decode())
            plan = Plan.from_json((folder / "run" / "plan.json").read_text(encoding="utf-8"))
            cpu = after.children_user - before.children_user + after.children_system - before.children_system
            peak = max_resident()
            print(
                f"{plan.data.n_rows:,}\t{plan.data.n_genes:,}\t{len(plan.cut.instances)}\t{wall:.1f}\t{cpu:.1f}\t{peak:.0f}",
                flush=True,
            )


def max_resident() -> float:
    """Return the peak of the largest child process so far in MiB; sizes are given in growing order."""
    import resource

    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [3_727_422, 9_280, 100_000_000, 250_000])
