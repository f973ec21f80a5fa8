"""What does a row cost to predict, by our ways and by plain ones, and are the numbers the same? Microseconds, ratios.

Usage: python benchmarks/bench_predict.py [--rounds 200] [--rows 4096] [--features 1167] [--threads 1] [--repeats 5]
                                          [DATASET MODEL]

Trains three boosters on a synthetic set with the columns of a real one, makes the 21 boosters of seven instances of them (other
leaves, the same splits), and predicts the same rows by: a loop with a DMatrix a booster, or of ``inplace_predict``; one
of the merged model; `mi_duck.boosting.forest`; ``predict_proba``; and `predict_file`, from Parquet to Parquet.
The ways take turns; figures are medians, wall and CPU, and the ratios are of wall seconds. With a dataset and a model of it, the
same of these: its first rows, and every booster cut after so many rounds.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import xgboost as xgb
from harness import Cost, costs, print_machine, quiet, workplace
from numpy.typing import NDArray

from mi_duck.boosting.forest import forest_of, leaf_forest_of
from mi_duck.data.dataset import CLASSES, open_dataset
from mi_duck.ensemble.feature_matrix import feature_matrix
from mi_duck.ensemble.model import ConsolidatedMetaModel, InstanceModel, by_member, join_members
from mi_duck.ensemble.model_file import load_unified_model, save_model
from mi_duck.ensemble.predict import predict_file
from mi_duck.export.export import join_outputs, merge_boosters
from mi_duck.genome.synthetic import synthesise
from mi_duck.metrics.calibrate import Calibrator

INSTANCES = 7
TRAINING_ROWS = 6_000


def main(arguments: list[str]) -> None:
    """Print the figures of boosters trained here, or of a model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("real", nargs="*", metavar="DATASET MODEL")
    for name, default in (("rounds", 200), ("rows", 4096), ("features", 1167), ("threads", 1), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args(arguments)
    if len(asked.real) not in (0, 2):
        parser.error("name a dataset and a model of it, or neither")
    print_machine()
    with workplace() as folder:
        if asked.real:
            model, rows = of_real(*asked.real, asked)
        else:
            model, rows = of_synthetic(folder / "data", asked)
        compare(model, rows, folder, asked)


def of_synthetic(data: Path, asked: argparse.Namespace) -> tuple[ConsolidatedMetaModel, pa.Table]:
    """Return a model trained on a synthetic set, and rows that it has not seen."""
    n_genes = 1 + (TRAINING_ROWS + asked.rows) // 300
    synthesise(data, n_genes=n_genes, n_features=asked.features, missing_fraction=0.0)
    dataset = open_dataset(str(data))
    table = pq.read_table(dataset.files[0])
    model, cost = costs(lambda: trained(table.slice(0, TRAINING_ROWS), dataset.features, asked.rounds))
    print(f"3 boosters of {asked.rounds} rounds trained in {cost.cpu:.0f} s of CPU")
    return model, table.slice(min(TRAINING_ROWS, max(len(table) - asked.rows, 0)), asked.rows)


def of_real(dataset: str, file: str, asked: argparse.Namespace) -> tuple[ConsolidatedMetaModel, pa.Table]:
    """Return a model whose boosters are cut after so many rounds, and rows of a dataset."""
    model = load_unified_model(file)
    if isinstance(model, InstanceModel):
        model = model.as_ensemble()
    members = []
    for member in model.members:
        cut = tuple(one[: min(asked.rounds, one.num_boosted_rounds())] for one in member.boosters)
        rounds = [one.num_boosted_rounds() for one in cut]
        members.append(replace(member, boosters=cut, metadata={**member.metadata, "rounds": rounds}))
    first = pads.dataset(open_dataset(dataset).files).head(asked.rows)
    return replace(model, members=tuple(members)), first


def trained(table: pa.Table, features: tuple[str, ...], rounds: int) -> ConsolidatedMetaModel:
    """Return seven members with three boosters each."""
    matrix = xgb.QuantileDMatrix(feature_matrix(table, features), max_bin=64)
    label = np.array([CLASSES.index(text) for text in table["splice_type"].to_pylist()])
    settings = {"objective": "binary:logistic", "max_depth": 6, "eta": 0.1, "max_bin": 64, "nthread": 1}
    boosters = []
    for index in range(len(CLASSES)):
        matrix.set_label((label == index).astype(np.float32))
        raw = xgb.train(settings, matrix, rounds).save_raw("ubj")
        boosters.append(xgb.Booster(model_file=bytearray(raw)))
    calibrators = tuple(Calibrator("platt", 1.1, -0.1) for _ in CLASSES)
    facts = {"n_genes": 1, "n_rows": 1, "n_training_rows": 1, "rounds": [rounds] * len(CLASSES)}
    members = [
        InstanceModel(
            features,
            CLASSES,
            tuple(merge_boosters([booster], [1 - number / 100]) for booster in boosters),
            calibrators,
            facts | {"instance_id": number},
        )
        for number in range(INSTANCES)
    ]
    return join_members(members, n_genes=1, thresholds={})


def compare(model: ConsolidatedMetaModel, rows: pa.Table, folder: Path, asked: argparse.Namespace) -> None:
    """Print what each way costs a row, and how far its numbers are from those of the loop of DMatrix."""
    boosters = model.get_base_models()
    for booster in boosters:
        booster.set_param({"nthread": asked.threads})
    merged, merging = costs(lambda: join_outputs(boosters))
    merged.set_param({"nthread": asked.threads})
    encoding = model.members[0].encoding
    forest, joining = costs(lambda: forest_of(boosters, model.features, encoding))
    whole = forest_of(boosters, model.features, encoding, nodes_at_once=sys.maxsize)
    raw = feature_matrix(rows, model.features)
    matrix = np.ascontiguousarray(encoding.apply(raw, model.features))  # the plain ways get it for nothing
    pq.write_table(rows, folder / "rows.parquet", row_group_size=8192, compression="zstd", write_page_checksum=True)
    out = folder / "out.parquet"
    n_trees = merged.num_boosted_rounds()
    print(
        f"\n{len(boosters)} boosters, {n_trees:,} trees in {len(forest.groups)} groups, {len(rows):,} rows, "
        f"{len(forest.features):,} of {len(model.features):,} features used"
    )

    def of_margins(joined: NDArray[np.float32]) -> NDArray[np.float64]:
        margins = by_member(joined, len(model.members))
        return model.join(margins, model.probabilities_of_members(margins))

    def loop(margin: Callable[[xgb.Booster], Any]) -> NDArray[np.float64]:
        return of_margins(np.column_stack([margin(booster) for booster in boosters]))

    ways: dict[str, Callable[[], NDArray[Any]]] = {
        "loop, a DMatrix a booster": lambda: loop(
            lambda one: one.predict(xgb.DMatrix(matrix, nthread=asked.threads), output_margin=True)
        ),
        "loop of inplace_predict": lambda: loop(lambda one: one.inplace_predict(matrix, predict_type="margin")),
        "merged, one inplace_predict": lambda: of_margins(merged.inplace_predict(matrix, predict_type="margin")),
        "forest": lambda: of_margins(forest.margins(raw, threads=asked.threads)),
        "forest, all trees at once": lambda: of_margins(whole.margins(raw, threads=asked.threads)),
        "predict_proba, from an array": lambda: model.predict_proba(raw, threads=asked.threads),
        "predict_proba, from Arrow": lambda: model.predict_proba(rows, threads=asked.threads),
        "predict_file, Parquet to Parquet": lambda: from_file(model, folder / "rows.parquet", out, asked.threads),
    }
    spent: dict[str, list[Cost]] = {name: [] for name in ways}
    found: dict[str, NDArray[Any]] = {}
    for _ in range(asked.repeats):
        for name, way in ways.items():
            found[name], cost = costs(way)
            spent[name].append(cost)
    first, bare = list(ways)[0], list(ways)[2]
    print("\tus a row, wall\tus a row, CPU\trows a second\tx DMatrix loop\tx merged\tlargest gap")
    wall = {name: median(one.wall for one in several) for name, several in spent.items()}
    for name, several in spent.items():
        figures = (
            f"{wall[name] / len(rows) * 1e6:.1f}",
            f"{median(one.cpu for one in several) / len(rows) * 1e6:.1f}",
            f"{len(rows) / wall[name]:,.0f}",
            f"{wall[first] / wall[name]:.2f}",
            f"{wall[name] / wall[bare]:.2f}",
            f"{np.abs(found[name] - found[first]).max():.1e}",
        )
        print("\t".join([name, *figures]))
    compare_leaves(boosters, model, raw, asked)
    save_model(folder / "model.miduck", model)
    _, loading = costs(lambda: load_unified_model(folder / "model.miduck"))
    print(
        f"model file {(folder / 'model.miduck').stat().st_size / 1e6:.2f} MB, loaded and checked in {loading.cpu:.2f} s of CPU, "
        f"its forest joined in {joining.cpu:.2f} (merged for export in {merging.cpu:.2f})"
    )


def compare_leaves(
    boosters: list[xgb.Booster], model: ConsolidatedMetaModel, raw: NDArray[np.float32], asked: argparse.Namespace
) -> None:
    """Print what the number of the leaf of every tree costs: by XGBoost's own ``pred_leaf``, and as a refit asks for it."""
    encoding = model.members[0].encoding
    matrix = xgb.DMatrix(np.ascontiguousarray(encoding.apply(raw, model.features)), nthread=asked.threads)
    forest = leaf_forest_of(boosters, model.features, encoding)
    ways: dict[str, Callable[[], NDArray[Any]]] = {
        "pred_leaf": lambda: np.column_stack([one.predict(matrix, pred_leaf=True) for one in boosters]),
        "leaf forest": lambda: forest.margins(raw, threads=asked.threads),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, NDArray[Any]] = {}
    for _ in range(asked.repeats):
        for name, way in ways.items():
            found[name], cost = costs(way)
            spent[name].append(cost.cpu / found[name].size * 1e9)
    numbers = ", ".join(f"{name} {median(several):.0f}" for name, several in spent.items())
    # nodes and leaves among nodes have other numbers, in the same order
    is_same = all(
        np.array_equal(*(np.unique(one[:, tree], return_inverse=True)[1] for one in found.values()))
        for tree in range(forest.n_outputs)
    )
    print(f"leaf numbers, CPU ns a row and tree: {numbers}; {'the same leaves' if is_same else 'DIFFERENT LEAVES'}")


def from_file(model: ConsolidatedMetaModel, file: Path, out: Path, threads: int) -> NDArray[np.float32]:
    """Return the probabilities of a file, by way of another."""
    predict_file(model, str(file), out, threads=threads, report=quiet)
    table = pq.read_table(out)
    return np.column_stack([table[f"p_{name}"].to_numpy() for name in model.classes])


if __name__ == "__main__":
    main(sys.argv[1:])
