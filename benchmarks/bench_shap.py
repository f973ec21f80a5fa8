"""How long does an exact explanation of 21 boosters take, in what memory, and does it find what was planted? Seconds, MiB.

Usage: python benchmarks/bench_shap.py [GENES | toy] [DATASET MODEL]

Trains three boosters on a synthetic set (by default 60 genes with the columns of a real one, 250 rounds), uses them as
the 21 boosters of seven instances, and explains 1,000 rows. Peaks are of the process so far.
With a dataset and a model of it, ranks their features too.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import xgboost as xgb
from harness import costs, print_machine, quiet, workplace

from mi_duck.data.dataset import CLASSES, open_dataset
from mi_duck.ensemble.shap import explain
from mi_duck.explain.analysis import run_comprehensive_ensemble_shap_analysis, sample_rows
from mi_duck.genome.synthetic import synthesise
from mi_duck.run.encoding import Encoding
from mi_duck.run.feature_names import kmer_families
from mi_duck.usage import peak_bytes

THREADS = 2
INSTANCES = 7


def main(n_genes: int, rounds: int, n_features: int) -> None:
    """Print rows x trees per second, the largest gap, seconds and memory, and the ranks of planted features."""
    print_machine()
    with workplace() as folder:
        synthesise(folder / "data", n_genes=n_genes, n_features=n_features)
        truth = json.loads((folder / "data" / "truth.json").read_bytes())
        dataset = open_dataset(str(folder / "data"))
        everything, rows = sample_rows(
            dataset, dataset.features, n_rows=[dataset.n_rows, 1000], seed=42, threads=THREADS, report=quiet
        )
        settings = {"objective": "binary:logistic", "max_depth": 6, "eta": 0.1, "nthread": THREADS}
        matrix = xgb.QuantileDMatrix(everything.matrix)
        boosters = []
        for index in range(len(CLASSES)):
            matrix.set_label((everything.label == index).astype(np.float32))
            boosters.append(xgb.train(settings, matrix, rounds))
        n_leaves = sum(text.count("leaf=") for booster in boosters for text in booster.get_dump()) / (3 * rounds)
        peak = peak_bytes() / 2**20
        print(
            f"3 boosters of {rounds} rounds on {dataset.n_rows:,} rows, {n_leaves:.1f} leaves per tree, {peak:.0f} MiB"
        )
    del everything, matrix
    families, _ = kmer_families(dataset.features)
    found, cost = costs(
        lambda: explain(
            [boosters] * INSTANCES,
            (1 / INSTANCES,) * INSTANCES,
            encoding=Encoding(),
            features=dataset.features,
            matrix=rows.matrix,
            clusters=rows.cluster,
            groups=families,
            threads=THREADS,
        )
    )
    print(
        f"{3 * INSTANCES} boosters, {found.n_rows:,} rows, {len(families):,} k-mer families: {cost.wall:.1f} s wall, "
        f"{cost.cpu:.1f} s CPU, {found.n_row_trees / cost.cpu:,.0f} rows x trees per CPU second, peak {cost.peak:.0f} MiB, "
        f"largest gap to the margin {found.largest_gap:.1e}"
    )
    for index, name in enumerate(CLASSES):
        order = np.argsort(-found.by_class[index].value, kind="stable")
        ranked = [dataset.features[feature] for feature in order]
        print(f"{name}: {', '.join(ranked[:10])}")
        for kind, planted in (("planted", truth["informative"].get(name, [])), ("useless", truth["useless"])):
            ranks = sorted(ranked.index(one) + 1 for one in planted)
            print(f"    ranks of {kind} features of {len(ranked)}: {', '.join(map(str, ranks)) or '-'}")


def rank(dataset: str, model: str) -> None:
    """Print the most important features of a model of real data, and the cost of the whole analysis."""
    with workplace() as folder:
        facts, cost = costs(
            lambda: run_comprehensive_ensemble_shap_analysis(dataset, model, folder / "shap", threads=THREADS)
        )
    print(f"{dataset}: {cost.wall:.1f} s wall, {cost.cpu:.1f} s CPU, peak {cost.peak:.0f} MiB")
    kinds = facts["feature_type_analysis"]
    for name, one in facts["class_summaries"].items():
        print(f"{name}: {', '.join(f'{feature} {value:.3f}' for feature, value in one['top_10_features'].items())}")
    print(f"k-mers: {kinds['kmer_share']:.1%} of all importance; {', '.join(kinds['top_kmer_features'])}")
    print(
        f"largest relative standard error of the first 20: {facts['importance_statistics']['largest_relative_se_of_top_20']}"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["toy"]:
        main(8, 5, 80)
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 60, 250, 1167)
    if len(sys.argv) > 3:
        rank(sys.argv[2], sys.argv[3])
