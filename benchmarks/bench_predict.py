"""What does a row cost to predict, by our ways and by plain ones, and are the numbers the same? CPU microseconds, ratios.

Usage: python benchmarks/bench_predict.py [ROUNDS ROWS | toy] [DATASET MODEL]

Trains three boosters on a synthetic set with the columns of a real one (by default 200 rounds, 4,096 rows to predict), makes
the 21 boosters of seven instances of them (other leaves, the same splits), and predicts the same rows by: a loop with a DMatrix
a booster; a loop of ``inplace_predict``; one ``inplace_predict`` of the merged model; `mi_duck.train.forest`; ``predict_proba``;
and `predict_file`, from Parquet to Parquet. The ways take turns; figures are medians of CPU seconds of one thread, so that they
hold on a machine with other work too. With a dataset and a model of it: the same of these.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xgboost as xgb
from harness import costs, print_machine, workplace
from numpy.typing import NDArray

from mi_duck.data.dataset import CLASSES, open_dataset
from mi_duck.ensemble.ensemble import ConsolidatedMetaModel, InstanceModel, by_member, consolidate
from mi_duck.ensemble.matrix import feature_matrix
from mi_duck.ensemble.merge import join_outputs, merge_boosters
from mi_duck.ensemble.model_files import load_unified_model, save_model
from mi_duck.ensemble.predict import predict_file
from mi_duck.genome.synthetic import synthesise
from mi_duck.train.calibrate import Calibrator
from mi_duck.train.forest import forest_of

INSTANCES = 7
REPEATS = 5
TRAINING_ROWS = 6_000


def quiet(*_: object) -> None:
    """Take progress."""


def main(rounds: int, n_rows: int, n_features: int, repeats: int) -> None:
    """Print the figures of a model of so many rounds."""
    with workplace() as folder:
        n_genes = 1 + (TRAINING_ROWS + n_rows) // 300
        synthesise(folder / "data", n_genes=n_genes, n_features=n_features, missing_fraction=0.0)
        dataset = open_dataset(str(folder / "data"))
        table = pq.read_table(dataset.files[0])
        model, cost = costs(lambda: trained(table.slice(0, TRAINING_ROWS), dataset.features, rounds))
        print(f"3 boosters of {rounds} rounds trained in {cost.cpu:.0f} s of CPU")
        rows = table.slice(TRAINING_ROWS, n_rows) if len(table) > TRAINING_ROWS + n_rows else table.slice(0, n_rows)
        compare(model, rows, folder, repeats)


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
    return consolidate(members, n_genes=1, thresholds={})


def compare(model: ConsolidatedMetaModel, rows: pa.Table, folder: Path, repeats: int) -> None:
    """Print what each way costs a row, and how far its numbers are from those of the loop of DMatrix."""
    boosters = model.get_base_models()
    for booster in boosters:
        booster.set_param({"nthread": 1})
    merged, merging = costs(lambda: join_outputs(boosters))
    merged.set_param({"nthread": 1})
    encoding = model.members[0].encoding
    forest, joining = costs(lambda: forest_of(boosters, model.features, encoding, threads=1))
    model.forest.use_threads(1)
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
        return model.join(margins, model.chances_of_members(margins))

    def loop(margin: Callable[[xgb.Booster], Any]) -> NDArray[np.float64]:
        return of_margins(np.column_stack([margin(booster) for booster in boosters]))

    ways: dict[str, Callable[[], NDArray[Any]]] = {
        "loop, a DMatrix a booster": lambda: loop(
            lambda one: one.predict(xgb.DMatrix(matrix, nthread=1), output_margin=True)
        ),
        "loop of inplace_predict": lambda: loop(lambda one: one.inplace_predict(matrix, predict_type="margin")),
        "merged, one inplace_predict": lambda: of_margins(merged.inplace_predict(matrix, predict_type="margin")),
        "forest": lambda: of_margins(forest.margins(raw)),
        "predict_proba, from Arrow": lambda: model.predict_proba(rows),
        "predict_file, Parquet to Parquet": lambda: from_file(model, folder / "rows.parquet", out),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, NDArray[Any]] = {}
    for _ in range(repeats):
        for name, way in ways.items():
            found[name], cost = costs(way)
            spent[name].append(cost.cpu)
    first, bare = list(ways)[0], list(ways)[2]
    print(f"{'':<34}{'us a row':>9}{'rows a CPU second':>19}{'x DMatrix loop':>16}{'x merged':>10}{'largest gap':>13}")
    for name, seconds in spent.items():
        a_row = median(seconds) / len(rows) * 1e6
        faster, slower = (median(spent[other]) / median(seconds) for other in (first, bare))
        gap = np.abs(found[name] - found[first]).max()
        print(f"{name:<34}{a_row:>9.1f}{1e6 / a_row:>19,.0f}{faster:>16.2f}{1 / slower:>10.2f}{gap:>13.1e}")
    save_model(folder / "model.miduck", model)
    _, loading = costs(lambda: load_unified_model(folder / "model.miduck"))
    print(
        f"model file {(folder / 'model.miduck').stat().st_size / 1e6:.2f} MB, loaded and checked in {loading.cpu:.2f} s of CPU, "
        f"its forest joined in {joining.cpu:.2f} (merged for export in {merging.cpu:.2f})"
    )


def from_file(model: ConsolidatedMetaModel, file: Path, out: Path) -> NDArray[np.float32]:
    """Return the probabilities of a file, by way of another."""
    predict_file(model, str(file), out, threads=1, report=quiet)
    table = pq.read_table(out)
    return np.column_stack([table[f"p_{name}"].to_numpy() for name in model.classes])


def of_real(dataset: str, file: str, n_rows: int) -> None:
    """Print the same of a dataset and a model of it."""
    opened = open_dataset(dataset)
    model = load_unified_model(file)
    if isinstance(model, InstanceModel):
        model = model.as_ensemble()
    with workplace() as folder:
        compare(model, pq.read_table(opened.files[0]).slice(0, n_rows), folder, REPEATS)


if __name__ == "__main__":
    print_machine()
    if sys.argv[1:2] == ["toy"]:
        main(5, 500, 80, 1)
    else:
        sizes = [int(text) for text in sys.argv[1:3]] or [200, 4096]
        if len(sys.argv) > 3:
            of_real(sys.argv[3], sys.argv[4], sizes[1])
        else:
            main(*sizes, 1167, REPEATS)
