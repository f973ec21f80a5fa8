"""How well does the memory measured on a few genes predict the peak of training on many? Datasets, sizes, layouts.

Each line that says ``check`` is a whole training process (all folds, all classes, two rounds) on genes that were not probed.

Usage: python benchmarks/bench_memory_per_gene.py [--plot FILE] [NAME=DATASET:SIZE,SIZE...:LAYOUT,LAYOUT... ... | toy]

Without datasets three are drawn: k-mer counts, the same with missing values, few wide columns; for ``toy`` the last, small.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import print_machine, quiet, workplace

from mi_duck.data.dataset import open_dataset
from mi_duck.drawing import save
from mi_duck.genome.synthetic import synthesise
from mi_duck.plan.memory_report import MemoryReport, measure_dataset
from mi_duck.processes import Context
from mi_duck.report.plots import MemoryDot, memory_figure
from mi_duck.settings import Asked
from mi_duck.wording import Noun

DRAWN = {
    "k-mer counts": ({"n_features": 1167}, ("missing", "zeros", "external")),
    "with missing values": ({"n_features": 1167, "missing_fraction": 0.05}, ("missing", "sentinel", "external")),
    "few wide columns": ({"n_features": 60}, ("missing", "external")),
}
TOY = "few wide columns"
SIZES = (100, 500, 1500)
TOY_SIZES = (36,)
MIB = 1 << 20


def measure(name: str, place: str, sizes: Sequence[int], layouts: Sequence[str], scratch: Path) -> list[MemoryReport]:
    """Print predicted and measured peaks of every layout and size of one dataset."""
    found = measure_dataset(
        open_dataset(place),
        scratch,
        Asked(genes_per_instance=max(sizes), sample_negatives=1.0),
        Context(2, quiet, quiet),
        layouts=layouts,
        check_genes=sizes,
    )
    for one in (peak for report in found for peak in report.peaks):
        use = "probe" if one.is_probe else "check"
        figures = (f"{one.predicted_bytes / MIB:.1f}", f"{one.measured_bytes / MIB:.1f}", f"{one.ratio:.3f}")
        print("\t".join([name, one.layout, use, str(one.n_genes), str(one.n_rows), *figures]), flush=True)
    return found


def main(arguments: list[str]) -> None:
    """Measure what is asked for, or the drawn datasets."""
    plot = None
    if arguments[:1] == ["--plot"]:
        plot, arguments = Path(arguments[1]), arguments[2:]
    print_machine()
    print("dataset\tlayout\tuse\tgenes\trows\tpredicted MiB\tmeasured MiB\tratio")
    found = []
    if arguments and "=" in arguments[0]:
        for argument in arguments:
            name, _, rest = argument.partition("=")
            place, sizes, layouts = rest.rsplit(":", 2)
            with workplace() as scratch:
                found += measure(name, place, [int(size) for size in sizes.split(",")], layouts.split(","), scratch)
    else:
        is_toy = arguments == ["toy"]
        wanted = list(TOY_SIZES) if is_toy else [int(size) for size in arguments] or list(SIZES)
        for name, (form, layouts) in ({TOY: DRAWN[TOY]} if is_toy else DRAWN).items():
            with workplace() as scratch:
                synthesise(scratch / "data", n_genes=max(wanted), **form)  # type: ignore[arg-type]
                found += measure(name, str(scratch / "data"), wanted, layouts, scratch / "run")
    ratios = [one.ratio for report in found for one in report.peaks if not one.is_probe]
    inside = sum(0.97 <= ratio <= 1.05 for ratio in ratios)
    print(f"checks: {len(ratios)}, predicted over measured {min(ratios):.3f}-{max(ratios):.3f}, in .97-1.05: {inside}")
    if plot is not None:
        dots = [
            MemoryDot(one.n_rows, float(one.measured_bytes), float(one.predicted_bytes), one.is_probe)
            for report in found
            for one in report.peaks
        ]
        save(memory_figure(dots, gene_bytes=list(found[0].gene_bytes), noun=Noun("gene", "genes")), plot)


if __name__ == "__main__":
    main(sys.argv[1:])
