"""What footers and one pass over gene, label and group tell about a dataset: sizes, kinds of features, warnings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mi_duck.data.dataset import Dataset, some_names
from mi_duck.data.genes import GeneIndex, index_genes
from mi_duck.database import SQL_BYTES, Database

EXACT_IN_FLOAT32 = 1 << 24


@dataclass(frozen=True, slots=True)
class Inspection:
    """What `inspect` found: the dataset, its genes, quantiles of rows per gene, features by kind, warnings."""

    dataset: Dataset
    genes: GeneIndex
    quantiles: dict[str, int]
    kinds: dict[str, int]
    warnings: tuple[str, ...]


def inspect(dataset: Dataset, *, threads: int, seed: int) -> Inspection:
    """Describe a dataset from its footers and one pass over gene, label and group."""
    with Database(threads=threads, memory_bytes=SQL_BYTES) as db:
        genes = index_genes(db, dataset, seed=seed)
        statistics = {row["name"]: row for row in db.rows("column_statistics", files=Database.patterns(dataset.files))}
        rows = db.read("gene_index")["n_rows"].to_numpy()
    small, wide = split_features(dataset, statistics)
    quantiles = {
        f"{share:.0%}": int(np.quantile(rows, share, method="lower")) for share in (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
    }
    kinds = {"whole numbers 0 to 255 (one byte)": len(small), "other numbers (float32)": len(wide)}
    return Inspection(dataset, genes, quantiles, kinds, data_warnings(dataset, statistics))


def split_features(
    dataset: Dataset, statistics: Mapping[str, Mapping[str, Any]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the features that fit one byte, by what the footers say, and the others."""
    kinds = pq.read_schema(dataset.files[0])
    small = []
    for name in dataset.features:
        facts = statistics[name]
        kind = str(kinds.field(name).type)
        if (
            facts["is_known"]
            and facts["n_nulls"] == 0
            and (
                kind == "bool"
                or ("int" in kind and facts["low"] is not None and facts["low"] >= 0 and facts["high"] <= 255)
            )
        ):
            small.append(name)
    return tuple(small), tuple(name for name in dataset.features if name not in set(small))


def data_warnings(dataset: Dataset, statistics: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Return what the user may want to change, from the footers alone."""
    kinds = pq.read_schema(dataset.files[0])
    large, empty, constant = [], [], []
    for name in dataset.features:
        facts = statistics[name]
        if not facts["is_known"]:
            continue
        if facts["low"] is None and facts["n_nulls"] == dataset.n_rows:
            empty.append(name)
        elif facts["low"] is not None and facts["low"] == facts["high"] and facts["n_nulls"] == 0:
            constant.append(name)
        elif "int" in str(kinds.field(name).type) and max(-facts["low"], facts["high"]) > EXACT_IN_FLOAT32:
            large.append(name)
    found = []
    if large:
        found.append(f"whole numbers beyond 2^24 lose their last digits as float32: {some_names(large)}")
    if empty:
        found.append(f"features without any value: {some_names(empty)}")
    if constant:
        found.append(f"features with one value only: {some_names(constant)}")
    return tuple(found)


def feature_bins(dataset: Dataset, statistics: Mapping[str, Mapping[str, Any]], max_bin: int) -> dict[str, int]:
    """Return the histogram bins of every feature, at most: those of whole numbers are bounded by their range."""
    kinds = pq.read_schema(dataset.files[0])
    bins = {}
    for name in dataset.features:
        facts = statistics[name]
        whole = "int" in str(kinds.field(name).type) and facts["is_known"] and facts["low"] is not None
        bins[name] = min(max_bin, int(facts["high"] - facts["low"]) + 1) if whole else max_bin
    return bins
