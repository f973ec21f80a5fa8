"""Are genes that a pilot finds hard worth more than random ones? Scores on unseen genes, at the same number of training rows.

Usage: python benchmarks/bench_select_genes.py DATASET [--share .25] [--pilot .125] [--splits 5] [--rounds 100] [--threads 1]
       python benchmarks/bench_select_genes.py toy

In each split a fifth of the fold groups is scored, another one each time. Of the other genes some are the pilot: three members,
each of a third of its genes, score the rest, the pool. Each way takes genes of the pool until it has the share of the pool's
rows, and one model is trained on these genes and the pilot's. ``random``, what all are compared with: the mean score of three
random draws; ``random again`` is a fourth. ``hard``: highest mean log loss of the members' mean log-odds; ``disagree``: highest
mutual information between member and label, the entropy of the mean probability less the mean entropy (Houlsby et al., Bayesian
active learning for classification and preference learning, 2011); ``... diverse``: the first of these in each of 16 strata of
gene features, as large a share of each stratum, and one gene of a cluster before its second; ``same sizes``: random genes with
as many rows each as those of ``disagree``; ``easy``: lowest log loss; ``all``: all genes. Easy negatives are sampled to a
tenth. ``toy`` makes a small dataset first.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from by_gene import Arms, Floats, Indices, Rows, joined, margins, read_and_compare, splits
from harness import print_machine, workplace

from mi_duck.genome.synthetic import synthesise
from mi_duck.metrics.calibrate import logistic

Chosen = dict[str, list[Indices]]
MEMBERS = 3
STEPS = 4
"""Quantiles of each of two gene features: strata of diverse genes."""


def pilot_scores(rows: Rows, pilot: Indices, pool: Indices, rounds: int, threads: int) -> tuple[Floats, Floats]:
    """Return mean log loss and mean disagreement of members of a pilot by gene, NaN outside the pool."""
    scored = rows.of_genes(pool, trained=True)
    thirds = [rows.of_genes(genes, trained=True) for genes in np.array_split(pilot, MEMBERS)]
    members = np.stack([margins(rows, third, scored, rounds, threads) for third in thirds])
    truth = rows.label[scored][:, None] == np.arange(1, len(rows.classes))
    loss = np.logaddexp(0, np.where(truth, -1, 1) * members.mean(axis=0)).sum(axis=1)
    probability = logistic(members)
    doubt = (_entropy(probability.mean(axis=0)) - _entropy(probability).mean(axis=0)).sum(axis=1)
    return rows.by_gene(scored, loss), rows.by_gene(scored, doubt)


def _entropy(probability: Floats) -> Floats:
    p = np.clip(probability, 1e-12, 1 - 1e-12)
    return -(p * np.log(p) + (1 - p) * np.log(1 - p))


def diverse(rows: Rows, hardest: Indices) -> Indices:
    """Return genes, hardest first, so that any first part has as large a share of each stratum, and few of one cluster."""
    stratum = (
        np.minimum(rows.about[hardest, :2] * STEPS, STEPS - 1).astype(int) @ [1, STEPS][: rows.about[:, :2].shape[1]]
    )
    is_first = np.zeros(len(hardest), dtype=bool)
    is_first[np.unique(rows.group[hardest], return_index=True)[1]] = True
    place = np.empty(len(hardest))
    for one in np.unique(stratum):
        here = np.flatnonzero(stratum == one)
        here = here[np.argsort(~is_first[here], kind="stable")]
        place[here] = np.arange(len(here)) / len(here)
    return hardest[np.argsort(place, kind="stable")]


def taken(rows: Rows, order: Indices, share: float) -> Indices:
    """Return the first genes of an order that have a share of the training rows of all of them."""
    n_rows = _sizes(rows)[order].cumsum()
    return order[: 1 + np.searchsorted(n_rows, share * n_rows[-1])]


def as_large(rows: Rows, pool: Indices, genes: Indices) -> Indices:
    """Return the first genes of a pool, as many of each size as others that were taken of it."""
    tenth = (_sizes(rows)[pool].argsort().argsort() * 10) // len(pool)
    wanted = np.bincount(tenth[np.isin(pool, genes)], minlength=10)
    return np.concatenate([pool[tenth == one][: wanted[one]] for one in range(10)])


def _sizes(rows: Rows) -> Indices:
    return np.bincount(rows.gene[rows.weight > 0], minlength=len(rows.group))


def chosen(rows: Rows, pilot: Indices, pool: Indices, rng: np.random.Generator, asked: argparse.Namespace) -> Chosen:
    """Return the genes of each way, one array for each model."""
    loss, doubt = pilot_scores(rows, pilot, pool, asked.rounds, asked.threads)
    hardest, doubtful = (pool[np.argsort(-one[pool], kind="stable")] for one in (loss, doubt))
    orders = {
        "random": [pool, *(rng.permutation(pool) for _ in range(asked.draws - 1))],
        "random again": [rng.permutation(pool)],
        "hard": [hardest],
        "hard, diverse": [diverse(rows, hardest)],
        "disagree": [doubtful],
        "disagree, diverse": [diverse(rows, doubtful)],
        "easy": [hardest[::-1]],
    }
    found = {name: [taken(rows, order, asked.share) for order in several] for name, several in orders.items()}
    found |= {"same sizes": [as_large(rows, rng.permutation(pool), found["disagree"][0])], "all": [pool]}
    for name, several in found.items():
        genes = np.concatenate(several)
        ranks = ", ".join(f"{one:.2f}" for one in np.median(rows.about[genes], axis=0))
        print(
            f"{name}: {len(genes) / len(several):,.0f} genes, {_sizes(rows)[genes].sum() / len(several):,.0f} rows, ",
            end="",
        )
        print(f"log loss of the pilot {np.mean(loss[genes]):.3f}, median ranks of gene features {ranks}")
    return found


def compare(rows: Rows, asked: argparse.Namespace) -> None:
    """Print the scores of each way to choose genes."""
    arms = Arms()
    for learned, scored_genes, rng in splits(rows, asked.splits, asked.seed):
        groups = rng.permutation(np.unique(rows.group[learned]))
        in_pilot = np.isin(rows.group[learned], groups[: int(len(groups) * asked.pilot)])
        pilot, pool = learned[in_pilot], learned[~in_pilot]
        scored = rows.of_genes(scored_genes, trained=False)
        half, together = rows.group[rows.gene[scored]] % 2, np.zeros(len(scored), dtype=int)
        print(f"{len(pilot):,} genes of the pilot, {len(scored):,} rows of {len(scored_genes):,} genes scored")
        found: dict[str, list[Floats]] = {}
        for name, several in chosen(rows, pilot, pool, rng, asked).items():
            for genes in several:
                used = rows.of_genes(np.concatenate([pilot, genes]), trained=True)
                values = margins(rows, used, scored, asked.rounds, asked.threads)
                found.setdefault(name, []).append(joined(rows, scored, [values], together, half))
        sys.stdout.flush()
        arms.score(rows, scored, found, asked.seed)
    arms.show("random")


def main(arguments: list[str]) -> None:
    """Print what each way gives, and the machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--share", type=float, default=0.25, help="of the pool's rows")
    parser.add_argument("--pilot", type=float, default=0.125, help="of the fold groups that are not scored")
    parser.add_argument("--draws", type=int, default=3, help="random ones in each split")
    parser.add_argument("--splits", type=int, default=5, choices=range(2, 6))
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--by", nargs="+", default=["gene_length", "gc_content"], help="features of genes, for strata")
    parser.add_argument("--exclude", default="^5mer_", help="features that are left out")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args(arguments)
    print_machine()
    with workplace() as folder:
        if asked.dataset == "toy":
            synthesise(folder / "data", n_genes=120, rows_per_gene=20, n_features=30)
            asked.dataset, asked.by, asked.rounds, asked.splits = str(folder / "data"), ["noise_0"], 3, 2
        read_and_compare(compare, asked)


if __name__ == "__main__":
    main(sys.argv[1:])
