"""How fast are positions of a genome scored? CPU microseconds per position: making features, walking trees, all of it.

Usage: python benchmarks/bench_scan.py RUN FASTA ANNOTATION [POSITIONS]
       python benchmarks/bench_scan.py [ROUNDS]      (the bundled part of thale cress chromosome 1)

One thread scores positions of the annotated genes (by default 200,000 of them), then the same features are made alone. CPU
seconds, because they depend little on who else uses the machine.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from harness import costs, demo_run, print_machine, workplace

from mi_duck.ensemble.model_file import load_unified_model
from mi_duck.genome.like import recipe_of
from mi_duck.genome.predict_sequence import model_scorer
from mi_duck.genome.scan import Scorer, scan
from mi_duck.genome.targets import Targets, gene_targets


def first_positions(targets: Targets, n_positions: int) -> Targets:
    """Return the first targets that have so many positions together."""
    kept: dict[str, list[object]] = {}
    n_kept = 0
    for target in targets:
        if n_kept >= n_positions:
            break
        kept.setdefault(target.chrom, []).append(target)
        n_kept += len(target)
    return replace(targets, by_contig={chrom: tuple(those) for chrom, those in kept.items()})


def cpu_of(fasta: Path, targets: Targets, scorer: Scorer) -> float:
    """Return the CPU microseconds per position of a scan in one thread."""
    _, cost = costs(lambda: [None for _ in scan(fasta, targets, lambda target: scorer)])
    return 1e6 * cost.cpu / targets.n_positions


def main(folder: Path, fasta: Path, annotation: Path, n_positions: int) -> None:
    """Print the cost of a position, and what of it the features are."""
    print_machine()
    model = load_unified_model(folder)
    scorer = model_scorer(model, recipe_of(model.recipe, str(folder)))
    targets = first_positions(gene_targets(fasta, annotation), n_positions)

    class Idle:
        """Trees that give 0 at once."""

        n_outputs = scorer.forest.n_outputs

        def margins_of_used(self, matrix: np.ndarray) -> np.ndarray:
            return np.zeros((len(matrix), self.n_outputs), np.float32)

    n_trees = sum(booster.num_boosted_rounds() for booster in model.get_base_models())
    begun = time.monotonic()
    every = cpu_of(fasta, targets, scorer)
    features = cpu_of(fasta, targets, replace(scorer, forest=Idle()))  # type: ignore[arg-type]
    print(
        f"{model.total_instances} instance(s), {n_trees:,} trees, {len(scorer.plan.features):,} features looked at; "
        f"{targets.n_positions:,} positions, {time.monotonic() - begun:.0f} s"
    )
    print("CPU us per position\tof it features\tpositions per CPU second\ton 2 cores")
    print(f"{every:.1f}\t{features:.1f}\t{1e6 / every:,.0f}\t{2e6 / every:,.0f}")


if __name__ == "__main__":
    if len(sys.argv) >= 4:
        paths = [Path(text) for text in sys.argv[1:4]]
        main(paths[0], paths[1], paths[2], int(sys.argv[4]) if len(sys.argv) > 4 else 200_000)
    else:
        rounds = int(sys.argv[1]) if len(sys.argv) == 2 else 200
        with workplace() as scratch:
            main(*demo_run(scratch, rounds), 20_000 if rounds < 10 else 200_000)
