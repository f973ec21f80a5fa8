"""Many boosters as few native ones with an output for each, over the features that any of them looks at.

Each output adds up the same leaves in the same order from the same intercept, so its margins are those of its own booster to
the last bit. What is saved is what XGBoost does once per call and row: reading the row's features. Those that no tree looks at
are left out, and features whose zeros count as missing come first, so that they are neighbours.

**Why** not one booster of all: XGBoost takes 64 rows through all trees that it is given before the next 64, so trees that do
not fit the cache come from memory for every 64 rows. On two quiet cores with 1 MiB of second-level cache each, against one bare
call of all boosters merged, at once, in groups of 160,000 nodes, and of 80,000: 21 boosters of 200 rounds 1.01, 1.06, 1.07; of
800 rounds 1.01, .79, .79; two trained ensembles of 2,500 trees 1.02, .84, .96 and 1.08, 1.12, 1.18.
A booster of more nodes stays alone: blocks of trees of one that holds all were slower (``benchmarks/bench_predict.py``).
"""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from mi_duck.boosting.ubjson import KINDS, SIZES, joined_arrays, read_object, write_object
from mi_duck.errors import CheckpointError
from mi_duck.run.encoding import Encoding, zeros_to_nan

MOST_CERTAIN = np.nextafter(np.array([0, 1], np.float32), np.float32(0.5))
"""The smallest and the largest probability of float32 whose log-odds is a number."""

T = TypeVar("T")

NODES_AT_ONCE = 160_000  # of 20 bytes; a row looks at few of them
BLOCKS_BYTES = 32 << 20  # of features gathered at once, by all threads
LEAST_ROWS_AT_ONCE = 256
MOST_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Forest:
    """Boosters of one output each, joined.

    Parameters
    ----------
    groups
        Native boosters, each with its first and last output (half-open); their features are ``features``.
    features
        Names of those that at least one split looks at.
    columns
        Their indices among all features, shape (n_used,).
    n_zero
        How many of them, from the first, have zeros that count as missing.
    sentinel
        The number that stands for a missing value; None where missing stays missing.
    n_outputs
        Boosters that were joined; trees of a forest of leaves.
    """

    groups: tuple[tuple[xgb.Booster, int, int], ...]
    features: tuple[str, ...]
    columns: NDArray[np.int64]
    n_zero: int
    sentinel: float | None
    n_outputs: int

    def margins(self, matrix: NDArray[np.float32], *, threads: int) -> NDArray[np.float32]:
        """Return log-odds, shape (n_rows, n_outputs), from all features as they are, NaN where a value is missing.

        Each thread takes blocks of rows through all that is to be done, so threads wait for each other once, at the end.
        """
        margins = np.empty((len(matrix), self.n_outputs), dtype=np.float32)

        def fill(rows: slice) -> None:
            margins[rows] = self.margins_of_used(matrix[rows].take(self.columns, axis=1, mode="clip"))

        self._in_blocks(fill, len(matrix), threads)
        return margins

    def _in_blocks(self, work: Callable[[slice], T], n_rows: int, threads: int) -> list[T]:
        """Return what is found for each block of rows, in their order; of one block without a thread."""
        blocks = _blocks(n_rows, BLOCKS_BYTES // (4 * len(self.columns)), threads)
        if len(blocks) == 1:
            return [work(blocks[0])]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(work, blocks))

    def _encoded(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the features of the forest in its order as its trees were trained on them; they are overwritten."""
        if self.sentinel is not None:
            np.copyto(matrix, np.float32(self.sentinel), where=np.isnan(matrix))
        if self.n_zero:
            counts = matrix[:, : self.n_zero]
            zeros_to_nan(counts, out=counts)
        return matrix

    def margins_of_used(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return log-odds, shape (n_rows, n_outputs), from the features of the forest in its order, which are overwritten."""
        self._encoded(matrix)
        margins = np.empty((len(matrix), self.n_outputs), dtype=np.float32)
        for booster, first, stop in self.groups:
            found = booster.inplace_predict(matrix, predict_type="margin")
            margins[:, first:stop] = found.reshape(len(matrix), stop - first)
        return margins


def _blocks(n_rows: int, rows_at_once: int, threads: int) -> list[slice]:
    """Return blocks of rows, as equal as can be and as many as keep all threads busy; of few rows one.

    >>> _blocks(10_000, 5_000, 2)
    [slice(0, 2500, None), slice(2500, 5000, None), slice(5000, 7500, None), slice(7500, 10000, None)]
    """
    most = min(max(LEAST_ROWS_AT_ONCE, rows_at_once // threads), MOST_ROWS_AT_ONCE)
    n = -(-n_rows // (most * threads)) * threads
    n = max(1, min(n, n_rows // LEAST_ROWS_AT_ONCE))
    edges = np.linspace(0, n_rows, n + 1).astype(int).tolist()
    return [slice(first, stop) for first, stop in pairwise(edges)]


def forest_of(
    boosters: Sequence[xgb.Booster], features: Sequence[str], encoding: Encoding, *, nodes_at_once: int = NODES_AT_ONCE
) -> Forest:
    """Return boosters joined for prediction.

    Parameters
    ----------
    boosters
        Trees (gbtree) with the objective ``binary:logistic`` and one output.
    nodes_at_once
        Most nodes of several boosters that are joined into one native one; the numbers do not depend on it.
    """
    return _forest_of(boosters, features, encoding, nodes_at_once)


def leaf_forest_of(boosters: Sequence[xgb.Booster], features: Sequence[str], encoding: Encoding) -> Forest:
    """Return the trees of boosters as a forest whose margins are the numbers of the leaves that a row falls into.

    Each tree is an output of its own, and the value of each leaf is its number among the leaves of the tree, in the order of
    their nodes: a whole number, exact in float32, and below 256 in trees of eight levels.
    Trees are in the order of the boosters, and in each in that of its rounds.

    **Why** not XGBoost's own ``pred_leaf``: it takes one row after the other through all trees, where margins take 64 rows
    through one tree after the other (``benchmarks/bench_predict.py``).
    """
    return _forest_of(boosters, features, encoding, NODES_AT_ONCE, of_leaves=True)


def _forest_of(
    boosters: Sequence[xgb.Booster],
    features: Sequence[str],
    encoding: Encoding,
    nodes_at_once: int,
    *,
    of_leaves: bool = False,
) -> Forest:
    models = _models(boosters)
    trees = [_trees(model) for model in models]
    left, split = (
        [joined_arrays([tree[name] for tree in of_one]) for of_one in trees]
        for name in ("left_children", "split_indices")
    )
    is_used = np.zeros(len(features), dtype=bool)
    for of_one, inner in zip(split, left, strict=True):
        is_used[of_one[inner != -1]] = True
    is_used[0] |= not is_used.any()  # XGBoost has no matrix without a column
    used = np.flatnonzero(is_used)
    is_zero = encoding.loses_zeros(features)[used]
    used = np.concatenate([used[is_zero], used[~is_zero]])
    number = np.zeros(len(features), dtype=np.int64)
    number[used] = np.arange(len(used))
    groups: list[tuple[xgb.Booster, int, int]] = []
    n_trees = np.cumsum([0, *map(len, trees)]).tolist()
    for first, stop in _packed([len(one) for one in left], nodes_at_once):
        joined = _join([(models[output], 1.0, output - first) for output in range(first, stop)], stop - first)
        # a leaf's number of a feature means nothing, and may be any
        of_nodes = [
            np.where(inner != -1, number[np.where(inner != -1, one, 0)], 0)
            for one, inner in zip(split[first:stop], left[first:stop], strict=True)
        ]
        _renumber(joined, np.concatenate(of_nodes), len(used))
        if of_leaves:
            _number_leaves(joined)
        native = load(joined)
        native.set_param({"nthread": 1})  # threads take whole blocks of rows
        groups.append((native, n_trees[first], n_trees[stop]) if of_leaves else (native, first, stop))
    return Forest(
        tuple(groups),
        tuple(features[column] for column in used.tolist()),
        used,
        int(is_zero.sum()),
        encoding.sentinel,
        n_trees[-1] if of_leaves else len(boosters),
    )


def _number_leaves(model: dict[str, Any]) -> None:
    """Make each tree an output of its own, and its number among the leaves of its tree the value of each leaf."""
    learner = model["learner"]
    inner, facts = learner["gradient_booster"]["model"], learner["learner_model_param"]
    numbers = [np.cumsum(joined_arrays([tree["left_children"]]) == -1) - 1.0 for tree in inner["trees"]]
    inner["trees"] = [
        _with_leaves(tree, partial(_instead, own)) for tree, own in zip(inner["trees"], numbers, strict=True)
    ]
    n = len(inner["trees"])
    inner["tree_info"] = list(range(n))
    facts["num_target"] = str(n)
    facts["base_score"] = f"[{','.join(['5E-1'] * n)}]"  # a margin of 0


def _packed(sizes: Sequence[int], most: int) -> list[tuple[int, int]]:
    """Return first and last (half-open) of consecutive items whose sizes add up to at most ``most``; a larger one is alone.

    >>> _packed([2, 2, 3, 9, 1], 4)
    [(0, 2), (2, 3), (3, 4), (4, 5)]
    """
    edges = [0]
    for index in range(1, len(sizes)):
        if sum(sizes[edges[-1] : index + 1]) > most:
            edges.append(index)
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
    """Return one booster, as `read_object` does, with the trees of several.

    Parameters
    ----------
    parts
        Of each a booster of one output, its weight and the output that it adds to.
    """
    models = _models([booster for booster, _, _ in parts])
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


def with_intercepts_in_leaves(booster: xgb.Booster) -> dict[str, Any]:
    """Return a logistic booster, as `read_object` does, whose intercepts are added to the leaves of each output's first tree.

    Since 3.1 XGBoost writes a list of intercepts. Earlier versions expect one number and read a list as one half, with no
    word; one half, the margin 0, is right in all.
    """
    model, _ = read_object(bytes(booster.save_raw("ubj")))
    facts, inner = model["learner"]["learner_model_param"], model["learner"]["gradient_booster"]["model"]
    trees, outputs = inner["trees"], list(inner["tree_info"])
    for output, text in enumerate(facts["base_score"].strip("[]").split(",")):
        first = outputs.index(output)
        trees[first] = _shifted(trees[first], float(np.log(float(text) / (1 - float(text)))))
    facts["base_score"] = "5E-1"
    return model


def load(model: dict[str, Any]) -> xgb.Booster:
    """Return the booster of what `join_boosters` made."""
    return xgb.Booster(model_file=bytearray(write_object(model)))


def _models(boosters: Sequence[xgb.Booster]) -> list[dict[str, Any]]:
    """Return boosters as `read_object` does, once they are known to go together."""
    models: list[dict[str, Any]] = []
    for booster in boosters:
        try:
            model = read_object(bytes(booster.save_raw("ubj")))[0]
        except (ValueError, IndexError) as error:
            name = json.loads(booster.save_config())["learner"]["gradient_booster"]["name"]
            raise CheckpointError(f"a booster of kind {name} cannot be merged: {error}") from error
        learner, facts = model["learner"], model["learner"]["learner_model_param"]
        kind = (learner["gradient_booster"]["name"], learner["objective"]["name"], facts["num_target"])
        if kind != ("gbtree", "binary:logistic", "1"):
            raise CheckpointError(
                f"a booster of kind {', '.join(kind)} cannot be merged; only gbtree, binary:logistic, 1 can"
            )
        models.append(model)
        n_features, of_first = (one["learner"]["learner_model_param"]["num_feature"] for one in (model, models[0]))
        if n_features != of_first:
            raise CheckpointError(f"boosters of {n_features} and of {of_first} features cannot be merged")
    return models


def _base_score(several: Sequence[tuple[str, float]]) -> str:
    """Return the probability whose log-odds is the weighted sum of those of several; of one alone its own text."""
    if len(several) == 1 and several[0][1] == 1:
        return several[0][0]
    margin = sum(weight * float(np.log(float(text) / (1 - float(text)))) for text, weight in several)
    return np.format_float_scientific(1 / (1 + np.exp(-margin)))


def _scaled(tree: dict[str, Any], weight: float) -> dict[str, Any]:
    """Return a tree with its leaves multiplied."""
    return tree if weight == 1 else _with_leaves(tree, lambda values: values * weight)


def _shifted(tree: dict[str, Any], margin: float) -> dict[str, Any]:
    """Return a tree with something added to its leaves."""
    return _with_leaves(tree, lambda values: values + margin)


def _with_leaves(tree: dict[str, Any], change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> dict[str, Any]:
    """Return a tree with other leaves; XGBoost keeps a leaf's value where other nodes keep their split."""
    conditions, left, weights = (
        joined_arrays([tree[name]]) for name in ("split_conditions", "left_children", "base_weights")
    )
    values = np.where(left == -1, change(conditions.astype(np.float64)), conditions)
    kind = tree["split_conditions"][0]
    return tree | {
        "split_conditions": (kind, values.astype(KINDS[kind]).tobytes()),
        "base_weights": (kind, change(weights.astype(np.float64)).astype(KINDS[kind]).tobytes()),
    }


def _instead(values: NDArray[np.float64], _: NDArray[np.float64]) -> NDArray[np.float64]:
    return values


def with_leaves(booster: xgb.Booster, leaves: Sequence[NDArray[np.float64]], intercept: float) -> bytes:
    """Return a logistic booster with other values of leaves, one array per tree in the order of its nodes, and intercept."""
    of_nodes = []
    for is_leaf, values in zip(_leaves_among_nodes(booster), leaves, strict=True):
        own = np.zeros(len(is_leaf))
        own[is_leaf] = values
        of_nodes.append(own)
    return _with_values(booster, of_nodes, f"[{np.format_float_scientific(1 / (1 + np.exp(-intercept)))}]")


def _with_values(booster: xgb.Booster, leaves: Sequence[NDArray[np.float64]], base_score: str) -> bytes:
    """Return a booster with other values of leaves, one array per tree with a value per node, and the text of its intercept."""
    model = _models([booster])[0]
    model["learner"]["gradient_booster"]["model"]["trees"] = [
        _with_leaves(tree, partial(_instead, values)) for tree, values in zip(_trees(model), leaves, strict=True)
    ]
    model["learner"]["learner_model_param"]["base_score"] = base_score
    return write_object(model)


def leaves_of(booster: xgb.Booster) -> tuple[NDArray[np.float32], str]:
    """Return what `with_leaves` gave a booster: the value of each node, tree by tree, and the text of the intercept."""
    model = _models([booster])[0]
    values = joined_arrays([tree["base_weights"] for tree in _trees(model)]).astype(np.float32)
    return values, model["learner"]["learner_model_param"]["base_score"]


def with_kept_leaves(booster: xgb.Booster, values: NDArray[np.float32], base_score: str) -> bytes:
    """Return a booster with the leaves and the intercept of another one of the same trees, as `leaves_of` returned them.

    Raises
    ------
    CheckpointError
        They are not of these trees, or not numbers.
    """
    sizes = [len(is_leaf) for is_leaf in _leaves_among_nodes(booster)]
    if sum(sizes) != len(values) or not np.isfinite(values).all() or not 0 < float(base_score.strip("[]")) < 1:
        raise CheckpointError("the leaves of a refitted booster do not belong to its trees; consolidate the run again")
    return _with_values(booster, np.split(values.astype(np.float64), np.cumsum(sizes)[:-1]), base_score)


def leaf_counts(boosters: Sequence[xgb.Booster]) -> list[list[int]]:
    """Return how many leaves each tree of each booster has."""
    return [[int(is_leaf.sum()) for is_leaf in _leaves_among_nodes(booster)] for booster in boosters]


def _leaves_among_nodes(booster: xgb.Booster) -> list[NDArray[np.bool_]]:
    """Return of each tree which of its nodes are leaves."""
    return [joined_arrays([tree["left_children"]]) == -1 for tree in _trees(_models([booster])[0])]


def most_nodes(data: bytes, max_depth: int) -> int:
    """Return how many nodes the largest tree of a booster has above its last level: those that had a histogram."""
    most = 0
    for tree in _trees(read_object(data)[0]):
        left, right = (joined_arrays([tree[name]]) for name in ("left_children", "right_children"))
        level, n = np.zeros(1, dtype=np.intp), 0
        for _ in range(max_depth):
            n += len(level)
            level = np.concatenate([side[level[left[level] != -1]] for side in (left, right)])
        most = max(most, n)
    return most


@dataclass(frozen=True, slots=True)
class TreeShape:
    """The splits of a tree, by node: its children, -1 of a leaf, and the number of the feature that it splits."""

    left: NDArray[np.int32]
    right: NDArray[np.int32]
    feature: NDArray[np.int64]


def tree_shapes(booster: xgb.Booster) -> list[TreeShape]:
    """Return the splits of each tree of a booster."""
    return [
        TreeShape(
            joined_arrays([tree["left_children"]]).astype(np.int32),
            joined_arrays([tree["right_children"]]).astype(np.int32),
            joined_arrays([tree["split_indices"]]).astype(np.int64),
        )
        for tree in _trees(_models([booster])[0])
    ]


def complement(data: bytes) -> bytes:
    """Return the bytes of a logistic booster whose margins are those of another with the other sign.

    Its probability is 1 minus the other's, to the last bits of float32: the same trees with the other sign at each leaf, and
    1 minus the intercept, which XGBoost keeps as a probability.
    """
    model, _ = read_object(data)
    model["learner"]["gradient_booster"]["model"]["trees"] = [
        _with_leaves(tree, lambda values: 0.0 - values) for tree in _trees(model)
    ]
    facts = model["learner"]["learner_model_param"]
    other = np.float32(1) - np.float32(facts["base_score"].strip("[]"))
    facts["base_score"] = f"[{np.format_float_scientific(np.clip(other, *MOST_CERTAIN))}]"
    booster = xgb.Booster()
    booster.load_model(bytearray(write_object(model)))
    return bytes(
        booster.save_raw("ubj")
    )  # as XGBoost writes it, so that a file that is read and written again is the same


def of_all_classes(fitted: Sequence[bytes], n_classes: int) -> list[bytes]:
    """Return the booster of each class from those that are fitted: of two classes the second alone is, see `fitted_classes`."""
    return [complement(fitted[0]), *fitted] if len(fitted) < n_classes else list(fitted)


def without_leaves(data: bytes) -> bytes:
    """Return the bytes of a booster whose leaves are 0 and that has no intercept: equal where only these differ."""
    model, _ = read_object(data)
    model["learner"]["gradient_booster"]["model"]["trees"] = [
        _with_leaves(tree, np.zeros_like) for tree in _trees(model)
    ]
    model["learner"]["learner_model_param"]["base_score"] = ""
    return write_object(model)
