"""Scores a table with text columns, beside LightGBM with its own categories on the same folds of groups.

    python benchmarks/bench_any_table.py [ROWS]
    python benchmarks/bench_any_table.py --keep FOLDER    # write the tables with their folds, for other peers, and leave

Visits of 300 patients (40,000 rows by default): a number, one with gaps, a switch, and three text columns with 5, 120 and 30
levels, whose effects on a rare outcome are drawn; each patient has an effect that no column shows. Folds are those of mi_duck's
run, so every model is scored on rows of patients that it has not seen. LightGBM stops on a tenth of the training patients.
"""

import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
from harness import print_machine
from sklearn.metrics import average_precision_score, log_loss

import mi_duck

N_ROWS, N_PATIENTS, N_WARDS, N_DRUGS = 40_000, 300, 120, 30
SEEDS = (5, 6, 7)
TEXTS = ("hospital", "ward", "drug")
OPTIONS: dict[str, Any] = {"group_column": "patient", "label_column": "died", "classes": ["no", "yes"], "threads": 1}


def visits(n_rows: int, seed: int) -> pd.DataFrame:
    """Return the table, its effects drawn by a seed."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(N_PATIENTS), -(-n_rows // N_PATIENTS))[:n_rows]
    hospital = rng.integers(0, 5, N_PATIENTS)[patient]
    ward = np.minimum(rng.geometric(0.03, n_rows) - 1, N_WARDS - 1)
    drug = rng.integers(0, N_DRUGS, n_rows)
    age, lab = rng.integers(20, 90, n_rows), rng.normal(size=n_rows)
    score = -3.2 + 0.02 * (age - 55) + 0.6 * lab + rng.normal(0, 0.5, N_PATIENTS)[patient]
    for codes, spread in ((hospital, 0.6), (ward, 1.0), (drug, 1.2)):
        score += rng.normal(0, spread, codes.max() + 1)[codes]
    return pd.DataFrame(
        {
            "patient": [f"P{one:03d}" for one in patient],
            "died": np.where(rng.random(n_rows) < 1 / (1 + np.exp(-score)), "yes", "no"),
            "age": age,
            "lab": np.where(rng.random(n_rows) < 0.1, np.nan, lab),
            "smoker": rng.random(n_rows) < 0.3,
            "hospital": [f"h{one}" for one in hospital],
            "ward": [f"w{one:03d}" for one in ward],
            "drug": [f"d{one:02d}" for one in drug],
        }
    )


def line(name: str, truth: Any, probability: Any, seconds: float) -> None:
    """Print the scores of a model and its CPU seconds."""
    area, loss = average_precision_score(truth, probability), log_loss(truth, probability)
    print(f"{name:<44} {area:.4f} {loss:.4f} {seconds:7.1f}", flush=True)


def of_lightgbm(table: pd.DataFrame, fold: Any, parameters: dict[str, Any]) -> Any:
    """Return the probabilities of LightGBM out of fold."""
    truth, patient = (table["died"] == "yes").to_numpy(), table["patient"]
    columns = table.drop(columns=["patient", "died"]).astype(dict.fromkeys(TEXTS, "category"))
    rng, probability = np.random.default_rng(0), np.zeros(len(table))
    for number in np.unique(fold):
        is_training = fold != number
        others = patient[is_training].unique()
        is_stopping = is_training & patient.isin(rng.choice(others, len(others) // 10, replace=False)).to_numpy()
        used = is_training & ~is_stopping
        model = lightgbm.LGBMClassifier(n_estimators=1600, verbose=-1, n_jobs=1, **parameters)
        stopping = lightgbm.early_stopping(30, verbose=False)
        model.fit(
            columns[used], truth[used], eval_set=[(columns[is_stopping], truth[is_stopping])], callbacks=[stopping]
        )
        probability[fold == number] = model.predict_proba(columns[fold == number])[:, 1]
    return probability


def main() -> None:
    """Print a line for each model of each of three tables."""
    warnings.simplefilter("ignore")
    if sys.argv[1:2] == ["--keep"]:
        keep(Path(sys.argv[2]))
        return
    n_rows = int(sys.argv[1]) if len(sys.argv) > 1 else N_ROWS
    print_machine()
    print(f"{'model':<44} {'AP':>6} {'loss':>6} {'CPU s':>7}")
    if len(sys.argv) > 1:
        of_table(visits(n_rows, SEEDS[0]), SEEDS[0], most=1)
        return
    for seed in SEEDS:
        of_table(visits(n_rows, seed), seed)


def keep(folder: Path) -> None:
    """Write every table as Parquet, each row with its fold: that of mi_duck's plan."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in SEEDS:
        table = visits(N_ROWS, seed)
        with tempfile.TemporaryDirectory() as scratch:
            table.to_parquet(f"{scratch}/table.parquet")
            words = (
                "plan",
                "table.parquet",
                "--out",
                "run",
                "--group-column",
                "patient",
                "--label-column",
                "died",
                "--quiet",
            )
            subprocess.run(
                [sys.executable, "-m", "mi_duck", *words], cwd=scratch, check=True, stdout=subprocess.DEVNULL
            )
            genes = pd.read_parquet(f"{scratch}/run/genes.parquet")
        fold = genes.set_index("gene_id")["fold"]
        table.assign(fold=table["patient"].map(fold)).to_parquet(folder / f"table{seed}.parquet")


def of_table(table: pd.DataFrame, seed: int, *, most: int | None = None) -> None:
    """Print the scores of every model of a table, of mi_duck's the first ones where ``most`` is given."""
    truth = (table["died"] == "yes").to_numpy()
    print(f"table {seed}: {len(table):,} rows, {truth.mean():.1%} yes")
    tried: dict[str, dict[str, Any]] = {
        "mi_duck": {},
        "mi_duck, depth 6, rate .1, leaves of 1": {
            "max_depth": 6,
            "learning_rate": 0.1,
            "xgb": ("min_child_weight=1", "colsample_bynode=1"),
        },
        "mi_duck, depth 3": {"max_depth": 3},
        "mi_duck, --preset levels": {"preset": "levels"},
        "mi_duck without text columns": {"max_levels": 0},
    }
    fold = None
    with tempfile.TemporaryDirectory() as folder:
        for name, options in list(tried.items())[:most]:
            before = resource.getrusage(resource.RUSAGE_CHILDREN), time.process_time()
            run = mi_duck.train(
                table.reset_index(names="position"),
                Path(folder) / name,
                **OPTIONS | {"minimal_diagnostics": True, "skip_shap": True} | options,
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN), time.process_time()
            of_children = after[0].ru_utime + after[0].ru_stime - before[0].ru_utime - before[0].ru_stime
            found = run.out_of_fold().df().sort_values("position")
            line(name, truth, found["p_yes"], of_children + after[1] - before[1])
            fold = found["fold"].to_numpy()
    settings: dict[str, dict[str, Any]] = {
        "LightGBM, its defaults": {},
        "LightGBM, rate .05, 15 leaves": {"learning_rate": 0.05, "num_leaves": 15},
    }
    for name, parameters in settings.items():
        begun = time.process_time()
        line(name, truth, of_lightgbm(table, fold, parameters), time.process_time() - begun)


if __name__ == "__main__":
    main()
