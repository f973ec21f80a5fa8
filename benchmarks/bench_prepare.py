"""What does it cost to sort a dataset by gene, and what does it gain? CPU seconds, rows per CPU second, peak memory, bytes.

Usage: python benchmarks/bench_prepare.py [DATASET | GENES]   (400 genes, 155,000 rows of 1,167 features; 15 CPU seconds)

GENES makes a synthetic dataset whose rows are shuffled over files and row groups, the worst case. The peak is that of the
child process that sorts.
"""

import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import print_machine, workplace

from mi_duck.data.dataset import open_dataset
from mi_duck.data.prepare import prepare
from mi_duck.genome.synthetic import synthesise
from mi_duck.processes import Context


def main() -> None:
    given = sys.argv[1] if len(sys.argv) > 1 else "400"
    with workplace() as folder:
        if given.isdigit():
            synthesise(folder / "mixed", n_genes=int(given), shuffle_rows=True)
        dataset = open_dataset(str(folder / "mixed") if given.isdigit() else given)
        found = prepare(dataset, folder / "prepared", Context(2, lambda *progress: None, lambda words: None))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print_machine()
    seconds = used.ru_utime + used.ru_stime
    print(f"{found.n_rows:,} rows of {found.n_genes:,} genes, {len(dataset.features):,} features")
    print(
        f"{seconds:.1f} CPU s, {found.n_rows / seconds:,.0f} rows per CPU second, peak {used.ru_maxrss / 1024:,.0f} MiB"
    )
    print(f"{'':<36}{'before':>14}{'after':>14}")
    print(f"{'bytes':<36}{found.bytes_before:>14,}{found.bytes_after:>14,}")
    print(f"{'row groups':<36}{found.row_groups_before:>14,}{found.row_groups_after:>14,}")
    print(
        f"{'row groups with rows of a gene':<36}{found.row_groups_per_gene_before:>14.2f}{found.row_groups_per_gene_after:>14.2f}"
    )
    print(f"{'rows read for 100 genes':<36}{found.sample_read_before:>14.1%}{found.sample_read_after:>14.1%}")


if __name__ == "__main__":
    main()
