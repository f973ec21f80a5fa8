"""Do weights of members by kind of gene beat their plain mean? Scores on unseen genes, windows cut at random or by similarity.

Usage: python benchmarks/bench_routing.py DATASET [--by gene_length gc_content] [--members 5] [--splits 3] [--threads 1]
       python benchmarks/bench_routing.py toy

In each split a fifth of the fold groups is scored, another one each time; the others are cut into windows, one member each.
Strata are clusters of genes by their features (k-means of ranks, fitted without the scored genes; no label is looked at), and
similar windows are these strata. ``mean``: the members' mean log-odds; ``weighted``: weights of at least 0, the same for all
genes; ``routed``: weights for each stratum; ``scaled``: the mean, with scale and offset for each stratum, so what routing gives
beside weights; ``own``: the member of the gene's stratum alone. All are fitted by log loss on half of the scored groups, for the
other half; the mean gets a scale and an offset so too. ``one model`` is of all genes. Easy negatives are sampled to a tenth.
``toy`` makes a small dataset first.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from by_gene import Arms, Indices, Rows, joined, margins, read_and_compare, splits
from harness import print_machine, workplace
from sklearn.cluster import KMeans

from mi_duck.genome.synthetic import synthesise


def compare(rows: Rows, asked: argparse.Namespace) -> None:
    """Print the scores of each way to join the members."""
    arms = Arms()
    for learned, scored_genes, _ in splits(rows, asked.splits, asked.seed):
        kinds = KMeans(asked.members, n_init=4, random_state=asked.seed).fit(rows.about[learned])
        stratum_of_gene = kinds.predict(rows.about)
        scored = rows.of_genes(scored_genes, trained=False)
        strata, half = stratum_of_gene[rows.gene[scored]], rows.group[rows.gene[scored]] % 2
        together = np.zeros(len(scored), dtype=int)

        def member(genes: Indices, scored: Indices = scored) -> np.ndarray:
            return margins(rows, rows.of_genes(genes, trained=True), scored, asked.rounds, asked.threads)

        found = {"one model": joined(rows, scored, [member(learned)], together, half)}
        windows = {
            "random": np.array_split(learned, asked.members),
            "similar": [learned[stratum_of_gene[learned] == kind] for kind in range(asked.members)],
        }
        for name, several in windows.items():
            members = [member(genes) for genes in several]
            mean = [np.mean(members, axis=0)]
            found[f"{name}, mean"] = joined(rows, scored, mean, together, half)
            found[f"{name}, scaled"] = joined(rows, scored, mean, strata, half)
            found[f"{name}, weighted"] = joined(rows, scored, members, together, half)
            found[f"{name}, routed"] = joined(rows, scored, members, strata, half)
            if name == "similar":
                own = [np.stack(members)[strata, np.arange(len(scored))]]
                found[f"{name}, own"] = joined(rows, scored, own, together, half)
        print(f"windows of {', '.join(f'{len(genes):,}' for genes in windows['similar'])} similar genes; ", end="")
        print(f"{len(scored):,} rows of {len(scored_genes):,} genes scored", flush=True)
        arms.score(rows, scored, {name: [values] for name, values in found.items()}, asked.seed)
    arms.show("random, mean")


def main(arguments: list[str]) -> None:
    """Print what each way gives, and the machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--by", nargs="+", default=["gene_length", "gc_content"], help="features of genes")
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--splits", type=int, default=3, choices=range(2, 6))
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--exclude", default="^5mer_", help="features that are left out")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args(arguments)
    print_machine()
    with workplace() as folder:
        if asked.dataset == "toy":
            synthesise(folder / "data", n_genes=120, rows_per_gene=20, n_features=30)
            asked.dataset, asked.by, asked.members = str(folder / "data"), ["noise_0", "3mer_AAA"], 3
            asked.rounds, asked.splits = 5, 2
        read_and_compare(compare, asked)


if __name__ == "__main__":
    main(sys.argv[1:])
