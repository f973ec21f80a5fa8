"""What does a cross-validated model of a dataset cost, and how good is it: mi_duck against what else one would do.

Usage: python benchmarks/bench_whole_job.py [DATASET] [--rounds 100] [--folds 3] [--contenders NAME ...] [--toy]

The job: for each class, one booster a fold, scored on the genes of that fold, and one on all rows; everybody gets the same
rows, columns, folds, rounds, depth, learning rate and bins. Each contender is a process of its own; its time is that of
the whole process, its peak that of all its processes together. Average precision and log loss are those of all rows out
of fold, each row's probabilities divided by their sum. Without DATASET the work unit is drawn: 1,500 genes, 587,000 rows,
1,167 features.

    plain      pandas.read_parquet, one numpy matrix, XGBClassifier
    lightgbm   pyarrow table handed to lightgbm.Dataset, as many leaves as depth allows (extra "dev")
    external   one XGBoost ExtMemQuantileDMatrix of everything, folds by weights of zero
    mi_duck    plan, train, consolidate: one instance, all rows, all features, the layout that the plan takes
    all_rows   the same with 300 features, as by default where genes and features are many
    sampled    the same as mi_duck with a quarter of the easy negatives, as by default where rows are many
    screened   the same with 300 features too, as by default where genes and features are many
    reduced    the same with --sample-negatives .1 --screen-features 200
    dense      the same as mi_duck with --layout missing
    fast       mi_duck --preset fast: other trees, early stopping, rows and features as those of reduced
    defaults   mi_duck as it is: other trees, early stopping, rows and features as above

Rows of the genes that chose features are not scored.
"""

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import psutil
import pyarrow.compute as pc
import pyarrow.parquet as pq
from harness import print_machine, workplace

from mi_duck.data.dataset import CLASSES, open_dataset
from mi_duck.genome.synthetic import synthesise
from mi_duck.metrics.metrics import point_scores
from mi_duck.settings import PRESETS

ROOT = Path(__file__).resolve().parent.parent
FAST = PRESETS["fast"]
SAME_TREES = ("--xgb", "min_child_weight=1", "--xgb", "colsample_bynode=1", "--screen-features", "0")
OURS = {
    "mi_duck": (*SAME_TREES, "--sample-negatives", "1"),
    "all_rows": (*SAME_TREES, "--sample-negatives", "1", "--screen-features", "300"),
    "sampled": (*SAME_TREES, "--sample-negatives", ".25"),
    "screened": (*SAME_TREES, "--sample-negatives", ".25", "--screen-features", "300"),
    "dense": (*SAME_TREES, "--sample-negatives", "1", "--layout", "missing"),
    "reduced": (*SAME_TREES, "--sample-negatives", ".1", "--screen-features", "200"),
    "fast": (
        # a preset gives values for options that are not given, and the job gives these
        *("--n-estimators", str(FAST["n_estimators"]), "--learning-rate", str(FAST["learning_rate"])),
        *("--sample-negatives", str(FAST["sample_negatives"]), "--screen-features", str(FAST["screen_features"])),
        *("--early-stopping-patience", "30", "--max-depth", "8"),
    ),
    "defaults": (
        *("--n-estimators", "1600", "--early-stopping-patience", "30", "--max-depth", "8", "--learning-rate", ".05"),
    ),
}
PEERS = ("plain", "lightgbm", "external")
DEPTH, RATE, BINS = 6, 0.1, 256
SECONDS_BETWEEN_LOOKS = 0.05


@dataclass(frozen=True, slots=True)
class Done:
    """Wall and CPU seconds of a contender, and the peak of its processes together in bytes."""

    wall: float
    cpu: float
    peak: int


def watched(*words: object) -> Done:
    """Run a command to its end."""
    before = os.times()
    begun = time.monotonic()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    child = psutil.Popen([sys.executable, *map(str, words)], env=environment, stdout=subprocess.DEVNULL)
    peak = 0
    while child.poll() is None:
        peak = max(peak, _resident(child))
        time.sleep(SECONDS_BETWEEN_LOOKS)
    if child.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, words))} ended with {child.returncode}")
    after = os.times()
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return Done(time.monotonic() - begun, cpu, peak)


def _resident(process: psutil.Process) -> int:
    total = 0
    try:
        for one in (process, *process.children(recursive=True)):
            total += one.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total


def main(arguments: list[str]) -> None:
    """Print a line for each contender, and what it costs relative to the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", nargs="?")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--contenders", nargs="+", default=[*PEERS, *OURS], choices=[*PEERS, *OURS])
    parser.add_argument("--toy", action="store_true")
    asked = parser.parse_args(arguments)
    print_machine()
    with workplace() as folder:
        if asked.dataset is None:
            form = {"n_genes": 40, "n_features": 40, "rows_per_gene": 60} if asked.toy else {"n_genes": 1500}
            synthesise(folder / "data", **form)  # type: ignore[arg-type]
        compare(asked.dataset or str(folder / "data"), folder, asked.rounds, asked.folds, asked.contenders)


def compare(place: str, folder: Path, rounds: int, folds: int, contenders: list[str]) -> None:
    """Let one contender after the other do the job."""
    dataset = open_dataset(place)
    print(f"{dataset.n_rows:,} rows, {len(dataset.features):,} features, {folds} folds, {rounds} rounds, depth {DEPTH}")
    job = ("--strategy", "single", "--n-estimators", rounds, "--early-stopping-patience", 0, "--n-folds", folds)
    job += ("--max-depth", DEPTH, "--learning-rate", RATE, "--max-bin", BINS, "--memory-safety-factor", 1)
    # the folds that everybody gets
    watched("-m", "mi_duck", "plan", place, "--out", folder / "folds", *job, "--memory-per-gene-mb", 1)
    genes = folder / "folds" / "genes.parquet"
    print("contender\twall s\tCPU s\tpeak GiB\tAP donor\tAP acceptor\tlog loss\twall\tpeak")
    first: Done | None = None
    for name in contenders:
        if name in OURS:
            done, probabilities, label = ours(name, place, folder / name, job)
        else:
            answer = folder / f"{name}.npz"
            done = watched(__file__, "--peer", name, place, genes, answer, rounds)
            found = np.load(answer)
            probabilities, label = found["probabilities"], found["label"]
        first = first or done
        scores = point_scores(probabilities / probabilities.sum(axis=1, keepdims=True), label, CLASSES)
        figures = [f"{scores[key]:.4f}" for key in ("donor_ap", "acceptor_ap", "log_loss")]
        costs = [f"{done.wall:.0f}", f"{done.cpu:.0f}", f"{done.peak / 2**30:.2f}"]
        ratios = [f"{done.wall / first.wall:.2f}", f"{done.peak / first.peak:.2f}"]
        print("\t".join([name, *costs, *figures, *ratios]), flush=True)


def ours(name: str, place: str, run: Path, job: tuple[object, ...]) -> tuple[Done, np.ndarray, np.ndarray]:
    """Plan, train and consolidate; return what that cost, and the scores out of fold."""
    stages = [
        watched("-m", "mi_duck", "plan", place, "--out", run, *job, *OURS[name]),
        watched("-m", "mi_duck", "train", run),
        watched("-m", "mi_duck", "consolidate", run),
    ]
    done = Done(sum(one.wall for one in stages), sum(one.cpu for one in stages), max(one.peak for one in stages))
    table = pq.read_table(run / "oof_predictions.parquet")
    table = table.filter(pc.invert(table["is_pilot"]))
    probabilities = np.column_stack([table[f"p_{name}"].to_numpy() for name in CLASSES])
    label = np.array([CLASSES.index(text) for text in table["label"].to_pylist()], dtype=np.uint8)
    print(
        "    "
        + ", ".join(f"{one.wall:.0f} s {at}" for one, at in zip(stages, ("plan", "train", "consolidate"), strict=True))
    )
    return done, probabilities, label


# ---- what else one would do, each in a process of its own -----------------------------------------------------------


def peer(name: str, place: str, genes: str, answer: str, rounds: int) -> None:
    """Do the job in another way and write the scores out of fold."""
    label, probabilities = {"plain": plain, "lightgbm": lightgbm, "external": external}[name](place, genes, rounds)
    np.savez(answer, label=label.astype(np.uint8), probabilities=probabilities)


def columns_of(place: str, genes: str) -> tuple[list[str], list[str], dict[str, int]]:
    """Return files, features, and the fold of each gene."""
    dataset = open_dataset(place)
    table = pq.read_table(genes, columns=["gene_id", "fold"])
    fold_of = dict(zip(table["gene_id"].to_pylist(), table["fold"].to_pylist(), strict=True))
    return [str(file) for file in dataset.files], list(dataset.features), fold_of


def numbers(labels: np.ndarray) -> np.ndarray:
    """Return the class of each row as a number."""
    return np.select([labels == name for name in CLASSES], range(len(CLASSES)))


def plain(place: str, genes: str, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Read everything with pandas and fit XGBClassifier."""
    import pandas as pd
    import xgboost as xgb

    files, features, fold_of = columns_of(place, genes)
    frame = pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)
    fold = frame["gene_id"].map(fold_of).to_numpy()
    label = numbers(frame["splice_type"].to_numpy())
    rows = frame[features].to_numpy(dtype=np.float32)
    del frame
    probabilities = np.zeros((len(rows), len(CLASSES)))
    finals = []
    for index in range(len(CLASSES)):
        truth = label == index
        for number in [*range(max(fold) + 1), None]:
            model = xgb.XGBClassifier(n_estimators=rounds, max_depth=DEPTH, learning_rate=RATE, max_bin=BINS)
            if number is None:
                finals.append(model.fit(rows, truth))
                continue
            model.fit(rows[fold != number], truth[fold != number])
            probabilities[fold == number, index] = model.predict_proba(rows[fold == number])[:, 1]
    return label, probabilities


def lightgbm(place: str, genes: str, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Hand an Arrow table to LightGBM."""
    import lightgbm as lgb
    import pyarrow as pa

    files, features, fold_of = columns_of(place, genes)
    tables = [pq.read_table(file, columns=[*features, "gene_id", "splice_type"]) for file in files]
    table = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    del tables
    fold = np.array([fold_of[gene] for gene in table["gene_id"].to_pylist()])
    label = numbers(np.array(table["splice_type"].to_pylist(), dtype=object))
    table = table.select(features)
    settings = {
        "objective": "binary",
        "num_leaves": 2**DEPTH - 1,
        "max_depth": DEPTH,
        "learning_rate": RATE,
        "max_bin": BINS - 1,
        "verbose": -1,
        "min_data_in_leaf": 1,
    }
    everything = lgb.Dataset(table, label=label, params=settings, free_raw_data=False).construct()
    probabilities = np.zeros((table.num_rows, len(CLASSES)))
    finals = []
    for number in [*range(max(fold) + 1), None]:
        inside = np.flatnonzero(fold != number)
        # constructed first, because that takes the labels of the whole
        part = everything if number is None else everything.subset(inside).construct()
        for index in range(len(CLASSES)):
            part.set_label((label == index)[inside].astype(np.float32))
            model = lgb.train(settings, part, rounds)
            if number is None:
                finals.append(model)
                continue
            probabilities[fold == number, index] = model.predict(table.take(np.flatnonzero(fold == number)))
    return label, probabilities


def external(place: str, genes: str, rounds: int) -> tuple[np.ndarray, np.ndarray]:
    """Let XGBoost keep its matrix on disk, and hold folds out by weight."""
    import xgboost as xgb

    files, features, fold_of = columns_of(place, genes)
    keys = [pq.read_table(file, columns=["gene_id", "splice_type"]) for file in files]
    fold = np.array([fold_of[gene] for table in keys for gene in table["gene_id"].to_pylist()])
    label = numbers(np.array([text for table in keys for text in table["splice_type"].to_pylist()], dtype=object))

    class Batches(xgb.DataIter):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter(())
            super().__init__(cache_prefix=str(Path(genes).parent / "pages"))

        def reset(self) -> None:
            self.batches = (
                batch
                for file in files
                for batch in pq.ParquetFile(file).iter_batches(16_384, columns=features)
                if batch.num_rows
            )

        def next(self, input_data) -> bool:  # type: ignore[no-untyped-def]
            batch = next(self.batches, None)
            if batch is None:
                return False
            input_data(data=np.column_stack([column.to_numpy(zero_copy_only=False) for column in batch.columns]))
            return True

    matrix = xgb.ExtMemQuantileDMatrix(Batches(), max_bin=BINS)
    settings = {"objective": "binary:logistic", "max_depth": DEPTH, "learning_rate": RATE, "max_bin": BINS}
    probabilities = np.zeros((len(label), len(CLASSES)))
    finals = []
    for index in range(len(CLASSES)):
        matrix.set_label((label == index).astype(np.float32))
        for number in [*range(max(fold) + 1), None]:
            matrix.set_weight((fold != number).astype(np.float32))
            model = xgb.train(settings, matrix, rounds)
            if number is None:
                finals.append(model)
                continue
            probabilities[fold == number, index] = model.predict(matrix)[fold == number]
    return label, probabilities


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        peer(*sys.argv[2:6], int(sys.argv[6]))
    else:
        main(sys.argv[1:])
