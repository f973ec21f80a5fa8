"""Many boosters as few native ones with an output for each, over the features that any of them looks at.

Each output adds up the same leaves in the same order from the same intercept, so its margins are those of its own booster to
the last bit. What is saved is what XGBoost does once a call and row: reading the row's features. Those that no tree looks at are
left out, and features whose zeros count as missing come first, so that they are found in one stretch.

**Why** not one booster of all: XGBoost takes 64 rows through all trees that it is given before the next 64, so trees that do
not fit the cache come from memory for every 64 rows. On two quiet cores with 1 MiB of second-level cache each 21 boosters of
200 rounds (315,000 nodes) took 40 microseconds a row all at once, 26 in groups of 160,000 nodes, 27 in groups of 80,000; of
800 rounds 111, 79 and 82; two trained ensembles of 2,500 trees (349,000 and 264,000 nodes) 33, 35 and 41, and 14, 16 and 15.
A booster of more nodes stays alone: blocks of trees of one that holds all were slower (``benchmarks/bench_predict.py``).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from mi_duck.errors import CheckpointError
from mi_duck.train.encoding import Encoding
from mi_duck.train.ubjson import KINDS, SIZES, joined_arrays, read_object, write_object

NODES_AT_ONCE = 160_000  # of 20 bytes; a row looks at few of them
BLOCK_BYTES = 16 << 20  # of features gathered at once; above 32 MiB every block would be new memory from the system
MOST_ROWS_AT_ONCE = 16_384


@dataclass(frozen=True, slots=True)
class Forest:
    """Boosters of one output each, joined.

    Parameters
    ----------
    groups
        Native boosters, each with the outputs from one to another (half-open); their features are ``features``.
    features
        Names of those that at least one split looks at.
    places
        Where they stand among all features, shape (n_used,).
    n_zero, sentinel
        How many of them, from the first, have zeros that count as missing; the number that stands for a missing value.
    n_outputs
        Number of boosters that were joined.
    """

    groups: tuple[tuple[xgb.Booster, int, int], ...]
    features: tuple[str, ...]
    places: NDArray[np.int64]
    n_zero: int
    sentinel: float | None
    n_outputs: int

    def use_threads(self, threads: int) -> None:
        """Let every call take so many threads."""
        for booster, _, _ in self.groups:
            booster.set_param({"nthread": threads})

    def margins(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return log-odds, shape (n_rows, n_outputs), from all features as they are: NaN where a value is missing."""
        n_used = len(self.places)
        at_once = min(max(1024, BLOCK_BYTES // (4 * n_used)), MOST_ROWS_AT_ONCE)
        gathered = np.empty((min(at_once, len(matrix)), n_used), dtype=np.float32)
        margins = np.empty((len(matrix), self.n_outputs), dtype=np.float32)
        for begin in range(0, len(matrix), at_once):
            rows = matrix[begin : begin + at_once]
            block = np.take(rows, self.places, axis=1, out=gathered[: len(rows)], mode="clip")
            margins[begin : begin + len(rows)] = self.margins_of_used(block)
        return margins

    def margins_of_used(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return log-odds, shape (n_rows, n_outputs), from the features of the forest in its order, which it encodes in place."""
        if self.sentinel is not None:
            np.copyto(matrix, np.float32(self.sentinel), where=np.isnan(matrix))
        if self.n_zero:
            counts = matrix[:, : self.n_zero]
            np.copyto(counts, np.float32(np.nan), where=counts == 0)
        margins = np.empty((len(matrix), self.n_outputs), dtype=np.float32)
        for booster, first, stop in self.groups:
            found = booster.inplace_predict(matrix, predict_type="margin")
            margins[:, first:stop] = found.reshape(len(matrix), stop - first)
        return margins


def forest_of(
    boosters: Sequence[xgb.Booster], features: Sequence[str], encoding: Encoding, *, threads: int | None = None
) -> Forest:
    """Return boosters joined for prediction.

    Parameters
    ----------
    boosters
        Trees (gbtree) with the objective ``binary:logistic`` and one output.
    features
        Names of their features.
    encoding
        What counts as missing.
    threads
        Of each call; by default as many as XGBoost takes.

    Raises
    ------
    CheckpointError
        A booster is of another kind.
    """
    models = [_read(booster) for booster in boosters]
    for model in models:
        _check(model, models[0])
    trees = [_trees(model) for model in models]
    left, split = (
        [joined_arrays([tree[name] for tree in of_one]) for of_one in trees]
        for name in ("left_children", "split_indices")
    )
    is_used = np.zeros(len(features), dtype=bool)
    for of_one, inner in zip(split, left, strict=True):
        is_used[of_one[inner != -1]] = True
    is_used[0] |= not is_used.any()  # XGBoost knows no matrix without a column
    used = np.flatnonzero(is_used)
    zeros = set(encoding.zero_is_missing) if encoding.sentinel is None else set()
    is_zero = np.array([features[place] in zeros for place in used.tolist()])
    used = np.concatenate([used[is_zero], used[~is_zero]])
    number = np.zeros(len(features), dtype=np.int64)
    number[used] = np.arange(len(used))
    groups = []
    for first, stop in _packed([len(one) for one in left], NODES_AT_ONCE):
        joined = _join([(models[output], 1.0, output - first) for output in range(first, stop)], stop - first)
        # a leaf's number of a feature means nothing, and may be any
        of_nodes = [
            np.where(inner != -1, number[np.where(inner != -1, one, 0)], 0)
            for one, inner in zip(split[first:stop], left[first:stop], strict=True)
        ]
        _renumber(joined, np.concatenate(of_nodes), len(used))
        groups.append((load(joined), first, stop))
    forest = Forest(
        tuple(groups),
        tuple(features[place] for place in used.tolist()),
        used,
        int(is_zero.sum()),
        encoding.sentinel,
        len(boosters),
    )
    if threads is not None:
        forest.use_threads(threads)
    return forest


def _packed(sizes: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Return first and last (half-open) of consecutive things that together have the most or less; a larger one is alone.

    >>> _packed([2, 2, 3, 9, 1], 4)
    [(0, 2), (2, 3), (3, 4), (4, 5)]
    """
    edges = [0]
    for place in range(1, len(sizes)):
        if sum(sizes[edges[-1] : place + 1]) > most:
            edges.append(place)
    return list(zip(edges, [*edges[1:], len(sizes)], strict=True))


def _trees(model: dict[str, Any]) -> list[dict[str, Any]]:
    trees: list[dict[str, Any]] = model["learner"]["gradient_booster"]["model"]["trees"]
    return trees


def _renumber(model: dict[str, Any], split: NDArray[np.int64], n_features: int) -> None:
    """Give the splits of all trees other numbers for their features."""
    model["learner"]["learner_model_param"]["num_feature"] = str(n_features)
    begin = 0
    for tree in _trees(model):
        kind, data = tree["split_indices"]
        stop = begin + len(data) // SIZES[kind]
        tree["split_indices"] = kind, split[begin:stop].astype(KINDS[kind]).tobytes()
        tree["tree_param"] = tree["tree_param"] | {"num_feature": str(n_features)}
        begin = stop


def join_boosters(parts: Sequence[tuple[xgb.Booster, float, int]], n_outputs: int) -> dict[str, Any]:
    """Return one booster, as `mi_duck.train.ubjson` reads it, with the trees of several.

    Parameters
    ----------
    parts
        A booster of one output, its weight and the output that it adds to.
    n_outputs
        Number of outputs.

    Raises
    ------
    CheckpointError
        A booster is of another kind, or their numbers of features differ.
    """
    models = [_read(booster) for booster, _, _ in parts]
    for model in models:
        _check(model, models[0])
    return _join([(model, weight, output) for model, (_, weight, output) in zip(models, parts, strict=True)], n_outputs)


def _join(parts: Sequence[tuple[dict[str, Any], float, int]], n_outputs: int) -> dict[str, Any]:
    trees: list[dict[str, Any]] = []
    outputs: list[int] = []
    texts: list[list[tuple[str, float]]] = [[] for _ in range(n_outputs)]
    merged = parts[0][0]
    for model, weight, output in parts:
        texts[output].append((model["learner"]["learner_model_param"]["base_score"].strip("[]"), weight))
        for tree in _trees(model):
            trees.append(_scaled(tree, weight) | {"id": len(trees)})
            outputs.append(output)
    learner, inner = merged["learner"], merged["learner"]["gradient_booster"]["model"]
    inner["trees"] = trees
    inner["tree_info"] = outputs
    # a tree is an iteration, so that iteration_range can walk any block of them
    inner["iteration_indptr"] = list(range(len(trees) + 1))
    inner["gbtree_model_param"]["num_trees"] = str(len(trees))
    learner["learner_model_param"]["base_score"] = f"[{','.join(_base_score(several) for several in texts)}]"
    learner["learner_model_param"]["num_target"] = str(n_outputs)
    learner["attributes"] = {}
    return merged


def load(model: dict[str, Any]) -> xgb.Booster:
    """Return the booster of what `join_boosters` made."""
    return xgb.Booster(model_file=bytearray(write_object(model)))


def _read(booster: xgb.Booster) -> dict[str, Any]:
    try:
        return read_object(bytes(booster.save_raw("ubj")))[0]
    except (ValueError, IndexError) as error:
        kind = json.loads(booster.save_config())["learner"]["gradient_booster"]["name"]
        raise CheckpointError(f"a booster of kind {kind} cannot be merged: {error}") from error


def _check(model: dict[str, Any], first: dict[str, Any]) -> None:
    learner = model["learner"]
    kind = (
        learner["gradient_booster"]["name"],
        learner["objective"]["name"],
        learner["learner_model_param"]["num_target"],
    )
    if kind != ("gbtree", "binary:logistic", "1"):
        raise CheckpointError(
            f"a booster of kind {', '.join(kind)} cannot be merged; only gbtree, binary:logistic, 1 can"
        )
    n_features = [one["learner"]["learner_model_param"]["num_feature"] for one in (model, first)]
    if n_features[0] != n_features[1]:
        raise CheckpointError(f"boosters of {n_features[0]} and of {n_features[1]} features cannot be merged")


def _base_score(several: Sequence[tuple[str, float]]) -> str:
    """Return the probability whose log-odds is the weighted sum of those of some; of one alone its own text."""
    if len(several) == 1 and several[0][1] == 1:
        return several[0][0]
    margin = sum(weight * float(np.log(float(text) / (1 - float(text)))) for text, weight in several)
    return np.format_float_scientific(1 / (1 + np.exp(-margin)))


def _scaled(tree: dict[str, Any], weight: float) -> dict[str, Any]:
    """Return a tree with its leaves multiplied; XGBoost keeps a leaf's value where others keep their split."""
    if weight == 1:
        return tree
    conditions, left, weights = (
        joined_arrays([tree[name]]) for name in ("split_conditions", "left_children", "base_weights")
    )
    values = np.where(left == -1, conditions.astype(np.float64) * weight, conditions)
    kind = tree["split_conditions"][0]
    return tree | {
        "split_conditions": (kind, values.astype(KINDS[kind]).tobytes()),
        "base_weights": (kind, (weights.astype(np.float64) * weight).astype(KINDS[kind]).tobytes()),
    }
