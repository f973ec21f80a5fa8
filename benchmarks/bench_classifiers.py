"""Sets boosted trees, classifiers on the same folds, and their blend side by side, with paired differences.

    python benchmarks/bench_classifiers.py [DATASET] [--out FOLDER] [--classifiers NAME ...] [options of cv]

Every model is made by a command of its own, with the same genes, folds, features and sampled negatives; options such as
--sample-genes, --screen-features, --sample-negatives, --n-folds and --threads go to all of them. The trees are trained
without SHAP values and figures. CPU seconds are those of the whole command, planning and report included; the peak is that
of the training process, beside the predicted one. Without DATASET a small synthetic one is made. FOLDER keeps the runs, and
one that is there is not made again. With --shuffle, last, each classifier on labels that were shuffled within genes: its
average precision over the share of the class, 1 for chance.
"""

import argparse
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from harness import print_machine, workplace

from mi_duck.evaluate.catalogue import query_catalogue
from mi_duck.evaluate.compare import compare_runs
from mi_duck.numbers import interval
from mi_duck.run.folder import RunFolder
from mi_duck.run.instance_folder import measurement

COMMAND = [sys.executable, str(Path(__file__).parents[1] / "cli.py")]
FAST = ["--minimal-diagnostics"]


def cpu_of(*arguments: object) -> float:
    """Run a command and return its CPU seconds, those of its children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*COMMAND, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def made(folder: Path, *arguments: object) -> float:
    """Make a run unless it is there, and return its CPU seconds, which a file beside it keeps."""
    noted = folder.with_suffix(".cpu")
    if not noted.is_file():
        noted.write_text(str(cpu_of(*arguments, "--out", folder)))
    return float(noted.read_text())


def row(name: str, folder: Path, seconds: float) -> str:
    """Return a line of the table: AP per class and log loss with intervals, CPU seconds, peak and predicted peak."""
    _, found = query_catalogue(folder, name="scores")
    scores = {(metric, one): interval(*values) for scope, _, metric, one, *values, _, _ in found if scope == "ensemble"}
    plan = RunFolder(folder).read_plan()
    wanted = [*(("average_precision", one) for one in plan.data.classes[1:]), ("log_loss", "all")]
    peak = max(measurement(RunFolder(folder), one).get("peak_bytes", 0) for one in plan.cut.instances) / 2**20
    predicted = max(one.predicted_bytes for one in plan.cut.instances) / 2**20
    cells = " | ".join(scores[key] for key in wanted)
    return f"| {name} | {cells} | {seconds:.0f} | {peak:.0f} | {predicted:.0f} |"


def differences(runs: dict[str, Path], one: str, other: str) -> None:
    """Print the paired differences of two runs."""
    found = compare_runs(runs[one], runs[other])
    cells = [
        f"{two.metric} {two.class_name} {interval(two.value, two.low, two.high, signed=True)}"
        for two in found.difference
        if two.metric in ("average_precision", "log_loss")
    ]
    print(f"{one} - {other}: {'; '.join(cells)}", flush=True)


def shuffled(dataset: Path, out: Path) -> Path:
    """Write a dataset whose labels are shuffled within each gene."""
    rng = np.random.default_rng(1)
    out.mkdir(parents=True)
    for number, file in enumerate(sorted(dataset.rglob("*.parquet")) if dataset.is_dir() else [dataset]):
        table = pq.read_table(file, partitioning=None)
        gene = table["gene_id"].combine_chunks().dictionary_encode().indices.to_numpy()
        order = np.lexsort((rng.random(len(gene)), gene))  # a random order within each gene
        label = np.empty(len(gene), dtype=object)
        label[np.lexsort((np.arange(len(gene)), gene))] = np.array(table["splice_type"].to_pylist(), dtype=object)[
            order
        ]
        at = table.schema.get_field_index("splice_type")
        pq.write_table(
            table.set_column(at, "splice_type", pa.array(label, pa.string())), out / f"part-{number}.parquet"
        )
    return out


def chance(folder: Path) -> str:
    """Return the average precision of each class over its share of the scored rows."""
    _, found = query_catalogue(folder, name="scores")
    value = {one: v for scope, _, metric, one, v, *_ in found if scope == "ensemble" and metric == "average_precision"}
    classes = RunFolder(folder).read_plan().data.classes
    _, ((*counts,),) = query_catalogue(
        folder, query=f"select {', '.join(f'sum(n_{one})' for one in classes)} from genes where not is_pilot"
    )
    total = float(sum(counts))
    return ", ".join(
        f"{one} {value[one] / (float(n) / total):.2f}" for one, n in zip(classes[1:], counts[1:], strict=True)
    )


def main() -> None:
    """Make all runs and print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset", type=Path, nargs="?")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--classifiers", nargs="+", default=["logistic", "sgd", "mlp", "tabnet"])
    parser.add_argument("--blends", nargs="+", default=["fitted", "greedy"])
    parser.add_argument("--shuffle", action="store_true")
    arguments, options = parser.parse_known_args()
    print_machine()
    with workplace() as scratch:
        out, dataset = arguments.out or scratch, arguments.dataset
        out.mkdir(parents=True, exist_ok=True)
        if dataset is None:
            dataset = scratch / "synthetic"
            cpu_of("synth", "--genes", 60, "--rows-per-gene", 40, "--features", 40, "--out", dataset)
        runs = {"trees": out / "trees"}
        seconds = {"trees": made(runs["trees"], "run", dataset, *options, "--skip-shap", *FAST)}
        for name in arguments.classifiers:
            runs[name] = out / name
            seconds[name] = made(runs[name], "cv", dataset, "--estimator", name, *options)
        for method in arguments.blends:
            folder = out / f"blend_{method}"
            seconds[folder.name] = made(folder, "blend", *runs_of(runs), "--weights", method)
            runs[folder.name] = folder
        classes = RunFolder(runs["trees"]).read_plan().data.classes[1:]
        print(f"| model | {' | '.join(f'AP {one}' for one in classes)} | log loss | CPU s | peak MiB | predicted |")
        print("| --- " * (len(classes) + 5) + "|")
        for name, folder in runs.items():
            print(row(name, folder, seconds[name]), flush=True)
        for name in arguments.classifiers:
            differences(runs, name, "trees")
        for method in arguments.blends:
            for name in ("trees", *arguments.classifiers):
                differences(runs, f"blend_{method}", name)
        if arguments.shuffle:
            of_chance = shuffled(dataset, scratch / "shuffled")
            for name in arguments.classifiers:
                folder = out / f"shuffled_{name}"
                made(folder, "cv", of_chance, "--estimator", name, *options)
                print(
                    f"{name}, shuffled labels, average precision over the share of the class: {chance(folder)}",
                    flush=True,
                )


def runs_of(runs: dict[str, Path]) -> list[Path]:
    """Return the runs that are no blends."""
    return [folder for name, folder in runs.items() if not name.startswith("blend")]


if __name__ == "__main__":
    main()
