"""How precise is the ensemble at the true rate of sites? Every position of some genes, scored by boosters that never saw them.

A training set has nine rows that are not sites for each site; a gene has thousands. So precision on its rows says little of a
scan.

Usage: python benchmarks/bench_true_rate.py RUN DATASET
       python benchmarks/bench_true_rate.py [ROUNDS]      (the bundled fruit fly chromosome, far too small to learn from)

DATASET comes from ``mi-duck build --all-positions 100`` on the genome that RUN was trained on; its complete genes are taken.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from harness import fly_run, print_machine, quiet, workplace
from numpy.typing import NDArray

from mi_duck.ensemble.feature_matrix import feature_matrix
from mi_duck.ensemble.model_file import read_fold_models
from mi_duck.genome.build import build
from mi_duck.metrics.calibrate import calibrated
from mi_duck.metrics.metrics import score
from mi_duck.run.encoding import encoding_of
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import read_genes

ROWS_AT_ONCE = 20_000


def complete_genes(source: ds.Dataset) -> list[str]:
    """Return the genes whose positions have no gap: those of which every position was written."""
    table = source.to_table(columns=["gene_id", "position"])
    by_gene = table.group_by("gene_id").aggregate([("position", "min"), ("position", "max"), ("position", "count")])
    span = pc.add(pc.subtract(by_gene["position_max"], by_gene["position_min"]), 1)
    found: list[str] = by_gene.filter(pc.equal(span, by_gene["position_count"]))["gene_id"].to_pylist()
    return sorted(found)


def unseen_probabilities(folder: RunFolder, rows: pa.Table) -> NDArray[np.float64]:
    """Return the ensemble's probabilities of rows, each by the fold boosters that never saw the row's gene."""
    plan = folder.read_plan()
    genes = read_genes(folder, plan)
    fold_of = dict(zip(genes.gene_id.tolist(), genes.fold.tolist(), strict=True))
    fold = np.array([fold_of[gene] for gene in rows["gene_id"].to_pylist()])
    models = [read_fold_models(folder.instance(instance) / "fold_models.miduck") for instance in plan.cut.instances]
    encoding = encoding_of(plan.settings.layout_used, plan.settings.zero_is_missing)
    probabilities = np.zeros((len(rows), len(plan.data.classes)))
    for begin in range(0, len(rows), ROWS_AT_ONCE):
        part = slice(begin, min(begin + ROWS_AT_ONCE, len(rows)))
        matrix = encoding.apply(
            feature_matrix(rows.slice(begin, part.stop - begin), plan.data.features), plan.data.features
        )
        for number in np.unique(fold[part]):
            own = np.flatnonzero(fold[part] == number)
            for model in models:
                boosters = model.boosters[number]
                margins = np.column_stack([one.inplace_predict(matrix[own], predict_type="margin") for one in boosters])
                probabilities[begin + own] += calibrated(margins, model.calibrators[number]) / len(models)
    return probabilities


def false_positives_per_kb(scores: NDArray[np.float64], truth: NDArray[np.bool_], recall: float) -> float:
    """Return rows called by mistake for each thousand positions, at the threshold that finds a share of the sites."""
    threshold = np.quantile(scores[truth], 1 - recall)
    return float(1000 * (scores[~truth] >= threshold).sum() / len(scores))


def main(folder: RunFolder, place: str) -> None:
    """Print average precision and false positives per kb of base scores and ensemble."""
    print_machine()
    plan = folder.read_plan()
    source = ds.dataset(place, format="parquet", exclude_invalid_files=True)
    names = complete_genes(source)
    rows = source.to_table(filter=pc.field("gene_id").isin(names))
    label = np.array(rows["splice_type"].to_pylist())
    codes = np.array([plan.data.classes.index(name) for name in label])
    groups = np.unique(rows["overlap_cluster"].to_pylist(), return_inverse=True)[1]
    rates = ", ".join(f"{name} {(label == name).mean():.3%}" for name in plan.data.classes[1:])
    print(f"{len(names)} genes, {len(rows):,} positions, {groups.max() + 1} clusters; {rates}")
    ensemble = unseen_probabilities(folder, rows)
    base = np.column_stack([np.nan_to_num(rows[name].to_numpy()) for name in plan.data.base_scores]).astype(np.float64)
    print("model\tclass\taverage precision (95 %)\tfalse positives per kb at recall .5, .8, .9")
    for title, probabilities in (("base", base), ("ensemble", ensemble)):
        found = score(
            probabilities, codes, groups, plan.data.classes, seed=plan.settings.seed, metrics=("average_precision",)
        )
        for index, name in enumerate(plan.data.classes[1:], 1):
            one = next(metric for metric in found if metric.class_name == name)
            wrong = [
                false_positives_per_kb(probabilities[:, index], codes == index, recall) for recall in (0.5, 0.8, 0.9)
            ]
            figures = ", ".join(f"{value:.2f}" for value in wrong)
            print(f"{title}\t{name}\t{one.value:.4f} ({one.low:.4f}-{one.high:.4f})\t{figures}", flush=True)


def fly(rounds: int, folder: Path) -> tuple[RunFolder, str]:
    """Make run and dataset of the bundled fruit fly chromosome, every position of three genes."""
    where, fasta, annotation = fly_run(folder, rounds)
    build(fasta, annotation, folder / "complete", all_positions=3, report=quiet)
    return RunFolder(where), str(folder / "complete")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        main(RunFolder(Path(sys.argv[1])), sys.argv[2])
    else:
        with workplace() as scratch:
            main(*fly(int(sys.argv[1]) if len(sys.argv) == 2 else 200, scratch))
