"""From a booster and rows to exact SHAP values of its margin, checked against XGBoost.

Why not XGBoost's own ``pred_contribs`` for every row: it walks every path again for every row, 130,000 to 190,000 rows x
trees a second on one core. But what a leaf contributes depends only on which of the (at most six, at the default depth)
features on its path send the row that way: 64 cases. Their contributions are tabulated once for a leaf, and a row only
looks them up: 550,000 to 800,000 on the same core (`benchmarks/bench_shap.py`). Giving ``pred_contribs`` only the columns
that the trees use, 800 of 1,138, changed nothing: 129,000 against 132,000. XGBoost still checks: all values add up to its
margins, and the first rows equal its own values.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from mi_duck.errors import DataError
from mi_duck.run.explanation import check_background

TOLERANCE = 1e-4
"""Largest gap that is accepted, as a share of the margin where that is above 1."""
AUDITED_ROWS = 4
LONGEST_PATH = 8  # features whose 2^8 cases fit in a byte
SMALLEST_SHARE = 1e-9  # of training weight: the table divides by it
ROWS_AT_ONCE = 512  # so that what a tree needs stays in the processor's cache


@dataclass(frozen=True, slots=True)
class Level:
    """How the nodes of one depth follow from those above: which nodes, their parents' place and split, and the side."""

    nodes: slice
    parents: NDArray[np.intp]
    splits: NDArray[np.intp]
    flip: NDArray[np.uint8]
    first: NDArray[np.uint8]
    again: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Tree:
    """One tree, laid out to find for many rows at once which features of each leaf's path send the row to the leaf.

    Parameters
    ----------
    features, cuts, missing_left
        Of each split: column, threshold, whether a missing value goes left.
    levels
        Nodes below the root, depth by depth.
    n_nodes
        Nodes, numbered by depth.
    leaves, values
        Node and value of each leaf.
    shares
        For each leaf and each of its features (a slot) the share of training weight that the path keeps where the
        feature is unknown; shape (n_leaves, n_slots).
    is_used
        Whether the slot holds a feature; same shape.
    pair_leaves, pair_slots
        Leaf and slot of each used slot, sorted by feature.
    starts, targets
        Where a feature begins in that order, and its column.
    """

    features: NDArray[np.intp]
    cuts: NDArray[np.float32]
    missing_left: NDArray[np.bool_]
    levels: tuple[Level, ...]
    n_nodes: int
    leaves: NDArray[np.intp]
    values: NDArray[np.float64]
    shares: NDArray[np.float64]
    is_used: NDArray[np.bool_]
    pair_leaves: NDArray[np.intp]
    pair_slots: NDArray[np.intp]
    starts: NDArray[np.intp]
    targets: NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Explained:
    """A booster ready to be explained; without ``trees`` XGBoost itself computes the values."""

    booster: xgb.Booster
    n_trees: int
    trees: tuple[Tree, ...] | None


def read_trees(booster: xgb.Booster) -> Explained:
    """Lay out the trees of a booster.

    Notes
    -----
    Trees that a byte cannot index (more than 8 different features on a path), that lack training weight on a path, or
    that split by categories are left to XGBoost, and so is any booster that is not a plain sum of trees. The values are
    the same; only the time differs.
    """
    model = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]
    trees = model["model"]["trees"] if "model" in model else []
    if model["name"] != "gbtree" or any(any(tree["split_type"]) for tree in trees):
        return Explained(booster, len(trees), None)
    found = [_lay_out(tree) for tree in trees]
    whole = tuple(tree for tree in found if tree is not None)
    return Explained(booster, len(trees), whole if len(whole) == len(found) else None)


def _lay_out(tree: dict[str, Any]) -> Tree | None:
    left, right = tree["left_children"], tree["right_children"]
    column, cover = tree["split_indices"], tree["sum_hessian"]
    order, levels, splits = [0], [], []
    # of each node in this order: the features of its path, a slot each, and the share that the path keeps of each
    slots: list[list[int]] = [[]]
    kept: list[list[float]] = [[]]
    begin = 0
    while begin < len(order):
        stop = len(order)
        parents, rank, flip, first, again = [], [], [], [], []
        for place in range(begin, stop):
            parent = order[place]
            if left[parent] == -1:
                continue
            splits.append(parent)
            names, shares, feature = slots[place], kept[place], column[parent]
            is_new = feature not in names
            slot = len(names) if is_new else names.index(feature)
            if slot == LONGEST_PATH or cover[parent] <= 0:
                return None
            names = [*names, feature] if is_new else names
            for child, side in ((left[parent], 0), (right[parent], 255)):
                below = [*shares, 1.0] if is_new else shares.copy()
                below[slot] *= cover[child] / cover[parent]
                if below[slot] < SMALLEST_SHARE:
                    return None
                order.append(child)
                slots.append(names)
                kept.append(below)
                parents.append(place)
                rank.append(len(splits) - 1)
                flip.append(side)
                first.append(1 << slot if is_new else 0)
                again.append(0 if is_new else 1 << slot)
        if parents:
            nodes = slice(stop, len(order))
            levels.append(Level(nodes, np.array(parents), np.array(rank), *map(_byte_column, (flip, first, again))))
        begin = stop
    leaves = [place for place, node in enumerate(order) if left[node] == -1]
    n_slots = max(1, *(len(slots[place]) for place in leaves))
    shares_of = np.array([kept[place] + [1.0] * (n_slots - len(kept[place])) for place in leaves])
    features = np.array([slots[place] + [-1] * (n_slots - len(slots[place])) for place in leaves])
    pair_leaves, pair_slots = np.nonzero(features >= 0)
    sorting = np.argsort(features[pair_leaves, pair_slots], kind="stable")
    pair_leaves, pair_slots = pair_leaves[sorting], pair_slots[sorting]
    pair_features = features[pair_leaves, pair_slots]
    starts = np.flatnonzero(np.diff(pair_features, prepend=-1))
    cuts = np.array(tree["split_conditions"], dtype=np.float32)
    return Tree(
        features=np.array([column[node] for node in splits], dtype=np.intp),
        cuts=cuts[splits][:, None],
        missing_left=np.array(tree["default_left"], dtype=bool)[splits][:, None],
        levels=tuple(levels),
        n_nodes=len(order),
        leaves=np.array(leaves),
        values=cuts[[order[place] for place in leaves]].astype(np.float64),
        shares=shares_of,
        is_used=features >= 0,
        pair_leaves=pair_leaves,
        pair_slots=pair_slots,
        starts=starts,
        targets=pair_features[starts],
    )


def _byte_column(values: list[int]) -> NDArray[np.uint8]:
    return np.array(values, dtype=np.uint8)[:, None]


def _table(tree: Tree) -> NDArray[np.float32]:
    """Return the contribution of every slot of every leaf in every case, shape (n_slots, n_leaves, 2^n_slots).

    Notes
    -----
    With z_k the share of slot k and o_k whether the row follows the path there (1 or 0), feature j of a leaf of value v
    gets v (o_j - z_j) times the sum over subsets S of the other features of |S|! (d - |S| - 1)! / d! times the product
    of o_k over S and z_k over the rest. The factorials are a beta integral, so the sum is the integral over t from 0 to
    1 of the product of (1 - t) z_k + t o_k over k != j: a polynomial of degree d - 1, which Gauss-Legendre quadrature with
    ceil(d / 2) nodes integrates exactly.
    """
    n_leaves, n_slots = tree.shares.shape
    nodes, weights = np.polynomial.legendre.leggauss((n_slots + 1) // 2)
    table = np.zeros((n_slots, n_leaves, 1 << n_slots))
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        away = np.where(tree.is_used, (1 - node) * tree.shares, 1.0)
        there = np.where(tree.is_used, away + node, 1.0)
        products = np.full((n_leaves, 1), weight)
        for slot in range(n_slots):
            products = np.concatenate([products * away[:, [slot]], products * there[:, [slot]]], axis=1)
        for slot in range(n_slots):
            share = tree.shares[:, slot]
            both = np.stack([-share / away[:, slot], (1 - share) / there[:, slot]], axis=1)
            by_case = products.reshape(n_leaves, -1, 2, 1 << slot) * both[:, None, :, None]
            table[slot] += by_case.reshape(n_leaves, -1)
    return (table * tree.values[:, None]).astype(np.float32)


def _cases(tree: Tree, columns: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return for every leaf and row which slots send the row to the leaf, a bit each, shape (n_leaves, n_rows)."""
    values = columns.take(tree.features, axis=0)
    # of a missing value every comparison is false
    goes_left = np.where(tree.missing_left, ~(values >= tree.cuts), values < tree.cuts)
    mask = np.negative(goes_left.view(np.int8)).view(np.uint8)
    cases = np.zeros((tree.n_nodes, columns.shape[1]), dtype=np.uint8)
    for level in tree.levels:
        follows = mask.take(level.splits, axis=0) ^ level.flip
        cases[level.nodes] = cases.take(level.parents, axis=0) & (~level.again | follows) | (follows & level.first)
    return cases.take(tree.leaves, axis=0).astype(np.intp)


def contributions(
    explained: Explained, matrix: NDArray[np.float32], background: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.float64], float]:
    """Return SHAP values of a booster's margin and how far they miss it.

    Parameters
    ----------
    explained
        The booster, from `read_trees`.
    matrix
        Rows, shape (n_rows, n_features); NaN is missing.
    background
        Rows of the same form; with them the values are interventional (by the shap package), without them
        path-dependent.

    Returns
    -------
    tuple
        Values, shape (n_features, n_rows), and the largest gap between value sum plus base value and the margin, as a
        share of max(1, abs(margin)).

    Raises
    ------
    DataError
        The gap is above 1e-4, the values of the first rows are not XGBoost's own, or the shap package is needed and
        absent.

    References
    ----------
    Lundberg et al., From local explanations to global understanding with explainable AI for trees (2020), algorithm 2:
    the values. Yang, Fast TreeSHAP (2021), section 3.2: what a leaf gives depends on the row by its cases alone.
    """
    n_rows, n_features = matrix.shape
    if n_rows == 0:
        return np.zeros((n_features, 0)), 0.0
    margin = explained.booster.inplace_predict(matrix, predict_type="margin").astype(np.float64)
    scale = np.maximum(1, np.abs(margin))
    if background is not None:
        values, base = _interventional(explained.booster, matrix, background)
    elif explained.trees is None:
        theirs = explained.booster.predict(xgb.DMatrix(matrix), pred_contribs=True).astype(np.float64)
        values, base = theirs[:, :-1].T, float(theirs[0, -1])
    else:
        values = _path_dependent(explained.trees, matrix)
        few = slice(0, AUDITED_ROWS)
        theirs = explained.booster.predict(xgb.DMatrix(matrix[few]), pred_contribs=True).astype(np.float64)
        base = float(theirs[0, -1])
        apart = float((np.abs(values[:, few] - theirs[:, :-1].T) / scale[few]).max())
        if not apart <= TOLERANCE:
            raise DataError(
                f"SHAP values differ from those of XGBoost by {apart:.1e}; none are given: please report this"
            )
    gap = float((np.abs(values.sum(axis=0) + base - margin) / scale).max())
    if not gap <= TOLERANCE:
        raise DataError(f"SHAP values miss the margin by {gap:.1e}; they would mislead, so none are given")
    return values, gap


def _path_dependent(trees: tuple[Tree, ...], matrix: NDArray[np.float32]) -> NDArray[np.float64]:
    sums = np.zeros(matrix.shape[::-1])
    places = [slice(first, first + ROWS_AT_ONCE) for first in range(0, len(matrix), ROWS_AT_ONCE)]
    columns = [np.ascontiguousarray(matrix[rows].T) for rows in places]
    for tree in trees:
        if not tree.levels:  # a single leaf depends on no feature
            continue
        table = _table(tree)
        n_leaves, n_cases = table.shape[1:]
        flat = table.ravel()
        offsets = ((tree.pair_slots * n_leaves + tree.pair_leaves) * n_cases)[:, None]
        for rows, part in zip(places, columns, strict=True):
            cells = _cases(tree, part).take(tree.pair_leaves, axis=0)
            cells += offsets
            found = flat.take(cells)
            sums[tree.targets, rows] += np.add.reduceat(found, tree.starts, axis=0)
    return sums


def _interventional(
    booster: xgb.Booster, matrix: NDArray[np.float32], background: NDArray[np.float32]
) -> tuple[NDArray[np.float64], float]:
    check_background()
    import shap

    explainer = shap.TreeExplainer(booster, data=background, feature_perturbation="interventional")
    values = np.asarray(explainer.shap_values(matrix), dtype=np.float64)
    return values.T, float(np.ravel(explainer.expected_value)[0])


def shap_values(
    booster: xgb.Booster, matrix: NDArray[np.float32], background: NDArray[np.float32] | None = None
) -> NDArray[np.float64]:
    """Return SHAP values of a booster's margin, shape (n_rows, n_features), checked as in `contributions`."""
    return contributions(read_trees(booster), matrix, background)[0].T
