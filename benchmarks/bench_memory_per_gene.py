"""How well does the memory measured on a few genes predict the peak of a whole instance? Several layouts and sizes.

Usage: python benchmarks/bench_memory_per_gene.py [GENES ...]   (genes of the instance, default 500 1500)
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import print_machine, workplace

from mi_duck.data.dataset import open_dataset
from mi_duck.genome.synthetic import synthesise
from mi_duck.plan.measuring import measure_dataset
from mi_duck.plan.plan import Settings
from mi_duck.plan.planning import PlanOptions

LAYOUTS = {
    "k-mer counts, dense": {"n_features": 1167},
    "with missing values": {"n_features": 1167, "missing_fraction": 0.05},
    "few columns": {"n_features": 60},
}


def quiet(*_: object) -> None:
    """Take messages and progress."""


def main(sizes: list[int]) -> None:
    """Print predicted and measured peaks of every layout and size."""
    print_machine()
    print("layout\tuse\tgenes\trows\tpredicted MiB\tmeasured MiB\tratio")
    settings = Settings(42, 3, 1, 0, 6, 0.1, 256, True)
    for name, layout in LAYOUTS.items():
        for n_genes in sizes:
            with workplace() as folder:
                synthesise(folder / "data", n_genes=n_genes, **layout)  # type: ignore[arg-type]
                facts = measure_dataset(
                    open_dataset(str(folder / "data")),
                    folder / "run",
                    options=PlanOptions(genes_per_instance=n_genes),
                    settings=settings,
                    threads=2,
                    report=quiet,
                    say=quiet,
                )
            for line in facts["sizes"]:
                print("\t".join([name, *(str(value) for value in line.values())]), flush=True)


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [500, 1500])
