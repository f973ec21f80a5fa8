"""Whether bytes are a booster as XGBoost writes it for one binary class: walked and checked before XGBoost parses them.

XGBoost's own parser believes the numbers in a file: a child that lies outside its tree is read from other memory. So the bytes
(UBJSON) are walked by a reader that knows only what XGBoost writes and bounds every size by the bytes that are there; then
every number that XGBoost uses as a place or a size is checked, all trees of a booster at once.

**Why** no child process stands between: what can make XGBoost fail or predict without end (places, sizes, depths, cycles,
counts) is checked here, in .2 s for 21 boosters of 225 rounds; a child would cost each prediction a second interpreter and a
second copy of the model. Of 2,000 model files with flipped bits and a mended hash none ended the process, where 18 % did before.
Keys that are not known are walked and left to XGBoost: newer versions add some, and those that 3.2 reads are known here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_duck.train.ubjson import LONGEST_LIST, SIZES, joined_arrays, read_object

MOST_TREES = LONGEST_LIST - 1
DEEPEST = 64  # SHAP values take memory by the square of the depth, and a stack by the depth
LARGEST_LEAF = 1e9  # so that no sum of leaves leaves single precision
ROOT_PARENT = (1 << 31) - 1

TREE_ARRAYS = {
    "left_children": "l",
    "right_children": "l",
    "parents": "l",
    "split_indices": "lL",
    "split_conditions": "d",
    "base_weights": "d",
    "sum_hessian": "d",
    "loss_changes": "d",
    "default_left": "U",
    "split_type": "U",
}
"""Arrays with a value a node, and their types; 64-bit features are for more than 2^31 of them."""
CATEGORIES = {"categories": "l", "categories_nodes": "l", "categories_segments": "L", "categories_sizes": "L"}
"""Arrays of splits by categories, which none of our trees has, and their types."""


def check_booster(data: bytes, name: str, *, n_features: int, n_rounds: int) -> None:
    """Refuse bytes that are no booster of XGBoost 3: trees for one binary class, a tree a round, in UBJSON.

    Parameters
    ----------
    data
        All bytes of the booster.
    name
        Its name, for messages.
    n_features, n_rounds
        What it must have.

    Raises
    ------
    ValueError
        They are not; with the first thing that is wrong.
    """
    try:
        _check_model(data, n_features, n_rounds)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        kinds = {KeyError: f"{error} is not there", IndexError: "it ends too early", ValueError: str(error)}
        words = next((kinds[kind] for kind in kinds if isinstance(error, kind)), "something is of another type")
        raise ValueError(f"{name}: {words}") from error


def require(is_so: bool, words: str) -> None:
    """Raise a ValueError with these words unless something is so."""
    if not is_so:
        raise ValueError(words)


def _check_model(data: bytes, n_features: int, n_rounds: int) -> None:
    model, end = read_object(data)
    require(end == len(data), "no UBJSON object from its first byte to its last")
    version, learner = _numbers(model["version"]), model["learner"]
    require(len(version) == 3 and version[0] >= 3, f"a booster of XGBoost {'.'.join(map(str, version[:3]))}")
    boosting, facts = learner["gradient_booster"], learner["learner_model_param"]
    kind = boosting["name"], learner["objective"]["name"], facts["num_class"], facts["num_target"]
    require(kind == ("gbtree", "binary:logistic", "0", "1"), f"a booster of kind {', '.join(map(str, kind))}")
    weight = learner["objective"]["reg_loss_param"]["scale_pos_weight"]
    require(weight == "1", f"scale_pos_weight {weight!r:.40}")
    require(
        facts["num_feature"] == str(n_features), f"it has {facts['num_feature']!r:.40} features, not {n_features:,}"
    )
    require(facts.get("boost_from_average", "1") in ("0", "1"), "boost_from_average is no switch")
    chance = np.float32(_parameter(facts["base_score"].removeprefix("[").removesuffix("]")))
    require(bool(0 < chance < 1), f"its intercept is the probability {chance:g}")
    require(learner["feature_names"] == learner["feature_types"] == [], "it names its features itself")
    require(all(isinstance(value, str) for value in learner["attributes"].values()), "an attribute is no text")
    inner = boosting["model"]
    for name, values in inner.get("cats", {}).items():
        require(not (values[1] if isinstance(values, tuple) else values), f"categories in {name}")
    trees, parameters = inner["trees"], inner["gbtree_model_param"]
    n = len(trees)
    require(0 < n <= MOST_TREES and n == n_rounds, f"it has {n:,} trees for {n_rounds:,} rounds")
    counts = parameters["num_trees"], parameters["num_parallel_tree"]
    require(counts == (str(n), "1"), f"its {n:,} trees are said to be {' x '.join(map(repr, counts)):.60}")
    require(not any(_numbers(inner["tree_info"])) and len(inner["tree_info"]) == n, "trees of other outputs")
    require(_numbers(inner["iteration_indptr"]) == list(range(n + 1)), "rounds are not a tree each")
    require([tree["id"] for tree in trees] == list(range(n)), "trees are not numbered in their order")
    _check_trees(trees, n_features)


def _check_trees(trees: Sequence[Mapping[str, Any]], n_features: int) -> None:
    """Check that every tree is one: every node is reached from its root by one path, and every number can be used."""
    arrays = {name: [tree[name] for tree in trees] for name in TREE_ARRAYS}
    n_nodes = [len(data) // SIZES[kind] for kind, data in arrays["left_children"]]
    require(min(n_nodes) > 0, "a tree without nodes")
    for name, kinds in TREE_ARRAYS.items():
        for (kind, data), n in zip(arrays[name], n_nodes, strict=True):
            require(chr(kind) in kinds and len(data) == n * SIZES[kind], f"{name} of a tree has not a value a node")
    same = ("num_deleted", "0"), ("num_feature", str(n_features)), ("size_leaf_vector", "1")
    for tree, n in zip(trees, n_nodes, strict=True):
        counts = tree["tree_param"]
        is_so = all(counts[name] == value for name, value in (*same, ("num_nodes", str(n))))
        require(is_so, "the counts of a tree are not those of its nodes")
        is_so = all(tree[name] == (ord(kind), b"") for name, kind in CATEGORIES.items())
        require(is_so, "a tree with categories")
    require(len({kind for kind, _ in arrays["split_indices"]}) == 1, "trees number their features in different types")
    values = {name: joined_arrays(arrays[name]) for name in TREE_ARRAYS}
    _check_links(values, np.array(n_nodes))
    is_leaf = values["left_children"] == -1
    inner = values["split_indices"][~is_leaf]
    require(bool(((inner >= 0) & (inner < n_features)).all()), "a split on a feature that is not there")
    require(not values["split_type"].any(), "a split by categories")
    require(int(values["default_left"].max()) <= 1, "a default direction that is neither left nor right")
    # a threshold may be infinite: all values on one side, the missing ones on the other
    require(not np.isnan(values["split_conditions"]).any(), "a threshold or leaf that is no number")
    require(
        bool((np.abs(values["split_conditions"][is_leaf]) <= LARGEST_LEAF).all()), "a leaf that is infinite or huge"
    )
    for name in ("base_weights", "sum_hessian", "loss_changes"):
        require(bool(np.isfinite(values[name]).all()), f"{name} that are not finite")
    require(bool((values["sum_hessian"] >= 0).all()), "sum_hessian that is negative")


def _check_links(values: Mapping[str, NDArray[Any]], n_nodes: NDArray[np.int64]) -> None:
    """Check the links of all trees at once; nodes are numbered through.

    Notes
    -----
    XGBoost numbers a child after its parent. So where every node but a root is the child of exactly one node, of a smaller
    number, following parents ends at the root: there is no cycle, and no node is out of reach.
    """
    stops = np.cumsum(n_nodes)
    first = np.repeat(stops - n_nodes, n_nodes)
    stop = first + np.repeat(n_nodes, n_nodes)
    left, right, parent = (values[name].astype(np.int64) for name in ("left_children", "right_children", "parents"))
    is_leaf = left == -1
    require(bool((is_leaf == (right == -1)).all()), "a node with one child")
    own = np.arange(len(left))
    inner = own[~is_leaf]
    children = np.concatenate([(side + first)[inner] for side in (left, right)])
    parents = np.concatenate([inner, inner])
    require(
        bool(((children > parents) & (children < stop[parents])).all()), "a child outside its tree, or above its parent"
    )
    is_root = own == first
    n_parents = np.bincount(children, minlength=len(own))
    require(bool((n_parents == ~is_root).all()), "a node that is reached by no path, or by two")
    require(bool((parent[is_root] == ROOT_PARENT).all()), "a root with a parent")
    require(bool((parent[children] + first[children] == parents).all()), "a node that names another parent")
    level, depth = own[is_root], 0
    while len(level):
        level = level[~is_leaf[level]]
        level = np.concatenate([(side + first)[level] for side in (left, right)])
        depth += 1
        require(depth <= DEEPEST + 1, f"a tree of more than {DEEPEST} levels")


def _parameter(text: str) -> float:
    """Return a number that XGBoost keeps as text."""
    require(len(text) <= 40 and set(text) <= set("0123456789.eE+-"), f"{text!r:.40} for a number")
    return float(text)


def _numbers(values: Any) -> list[int]:
    require(isinstance(values, list) and all(isinstance(value, int) for value in values), "no list of whole numbers")
    found: list[int] = values
    return found
