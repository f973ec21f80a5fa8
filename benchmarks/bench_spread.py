"""Does twice the spread of a prediction hold what an honest prediction says? Shares of rows.

Usage: python benchmarks/bench_spread.py RUN DATASET   (a finished run of several instances and its dataset; or: toy)

Predicts the dataset with the model of the run, as users do, and sets p +- 2 spread beside the out-of-fold probability of the
same row, which is of boosters that never saw its fold group. Hard rows are those whose out-of-fold probability of the class is
between .05 and .95.
"""

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import pyarrow.parquet as pq
from harness import print_machine, workplace

from mi_duck.ensemble.model_file import load_unified_model
from mi_duck.ensemble.predict import predict_file
from mi_duck.genome.synthetic import synthesise

ROOT = Path(__file__).resolve().parent.parent
KEYS = ["gene_id", "position"]
TOY = (*("--strategy", "multi", "--genes-per-instance", "24", "--n-estimators", "5", "--threads", "1"), "--skip-shap")


def toy(folder: Path) -> tuple[Path, Path]:
    """Make a small dataset and a run of it."""
    data, run = folder / "data", folder / "run"
    synthesise(data, n_genes=40, rows_per_gene=30, n_features=30)
    command = [sys.executable, ROOT / "cli.py", "run", data, "--out", run, *TOY, "--minimal-diagnostics"]
    subprocess.run(command, check=True, capture_output=True)
    return run, data


def compare(run: Path, dataset: Path, folder: Path) -> None:
    """Print the shares of rows, for each class, whose out-of-fold probability lies outside."""
    model = load_unified_model(run)
    predict_file(model, str(dataset), folder / "p.parquet", report=lambda *step: None)
    spreads = [f"spread_{name}" for name in model.classes]
    names = [f"p_{name}" for name in model.classes]
    predicted = pq.read_table(folder / "p.parquet", columns=[*KEYS, *names, *spreads, "trained_on"])
    honest = pq.read_table(run / "oof_predictions.parquet", columns=[*KEYS, *names])
    honest = honest.set_column(0, "gene_id", honest["gene_id"].cast("string"))
    once = predicted.group_by(KEYS).aggregate([([], "count_all")])
    once = once.filter(np.equal(once["count_all"].to_numpy(), 1)).select(KEYS)  # a position twice is two rows
    position = predicted["position"].type
    honest = honest.set_column(1, "position", honest["position"].cast(position))
    rows = predicted.join(once, KEYS, join_type="inner").join(honest, KEYS, join_type="inner", right_suffix="_honest")
    print(f"{len(rows):,} rows, of which {np.mean(rows['trained_on'].to_numpy()):.0%} are of genes of the training")
    print(f"{'class':<12}{'hard rows':>12}{'outside':>12}{'of all':>12}{'spread':>12}{'|p - honest|':>14}")
    for name in model.classes:
        own, spread, out_of_fold = (
            rows[column].to_numpy() for column in (f"p_{name}", f"spread_{name}", f"p_{name}_honest")
        )
        gap = np.abs(own - out_of_fold)
        is_outside, is_hard = gap > 2 * spread, (out_of_fold > 0.05) & (out_of_fold < 0.95)
        hard = [f"{np.mean(values[is_hard]):.3f}" if is_hard.any() else "-" for values in (is_outside, spread, gap)]
        print(f"{name:<12}{is_hard.sum():>12,}{hard[0]:>12}{np.mean(is_outside):>12.3f}{hard[1]:>12}{hard[2]:>14}")


def main() -> None:
    """Print the shares, and the machine."""
    print_machine()
    with workplace() as folder:
        run, dataset = toy(folder) if sys.argv[1:] == ["toy"] else (Path(sys.argv[1]), Path(sys.argv[2]))
        compare(run, dataset, folder)


if __name__ == "__main__":
    main()
