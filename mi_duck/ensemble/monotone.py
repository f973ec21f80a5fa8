"""Keeps a tree monotone in some features while its leaves move.

A tree is monotone in a feature if at each node that splits it no leaf on the side of smaller values is above any leaf on the
other side (below, for a constraint of -1). XGBoost grows such trees by bounds: each constrained split hands the middle between
its children down, as the upper bound of one and the lower bound of the other. Here leaves that moved get the same bounds, but
only where two sides do overlap, so that leaves that keep the order stay as they are. Sums of monotone trees are monotone, so an
ensemble is where each of its trees is.

References
----------
XGBoost, Monotonic Constraints (tutorial), and ``src/tree/constraints``: bounds by the middle of the children's weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xgboost as xgb

from mi_duck.boosting.forest import TreeShape, tree_shapes
from mi_duck.metrics.ranking import Floats64


@dataclass(frozen=True, slots=True)
class MonotoneTree:
    """A tree with a split that is constrained.

    Parameters
    ----------
    inner
        Nodes that are split, each before its children: the node, the child whose leaves must not be above those of the other,
        that other, and whether the split is constrained; where it is not the order of the children means nothing.
    leaves
        All others, in their order.
    """

    inner: tuple[tuple[int, int, int, bool], ...]
    leaves: tuple[int, ...]

    def kept(self, values: Floats64, weights: Floats64) -> Floats64:
        """Return values of leaves that are monotone, the same ones where they already are.

        Parameters
        ----------
        values, weights
            Of each leaf, shape (n_leaves,); weights are not negative.
        """
        own, n_nodes = list(self.leaves), len(self.inner) + len(self.leaves)
        least, weight = np.zeros(n_nodes), np.zeros(n_nodes)
        least[own], weight[own] = values, weights + 1e-12
        most, total = least.copy(), least * weight
        for node, lower, upper, _ in reversed(self.inner):
            least[node], most[node] = min(least[lower], least[upper]), max(most[lower], most[upper])
            weight[node], total[node] = weight[lower] + weight[upper], total[lower] + total[upper]
        floor, ceiling = np.full(n_nodes, -np.inf), np.full(n_nodes, np.inf)
        for node, lower, upper, is_constrained in self.inner:
            floor[[lower, upper]], ceiling[[lower, upper]] = floor[node], ceiling[node]
            if is_constrained and most[lower] > least[upper]:
                middle = (total[lower] / weight[lower] + total[upper] / weight[upper]) / 2
                middle = min(max(middle, floor[node]), ceiling[node])
                ceiling[lower] = floor[upper] = middle
        return np.clip(values, floor[own], ceiling[own])


def monotone_trees(boosters: Sequence[xgb.Booster], signs: Mapping[int, int]) -> dict[int, MonotoneTree]:
    """Return the trees with a constrained split, by their number among the trees of all boosters.

    ``signs`` has 1 or -1 for each constrained feature, by its number.
    """
    if not signs:
        return {}
    shapes = [shape for booster in boosters for shape in tree_shapes(booster)]
    found = {number: _monotone_tree(shape, signs) for number, shape in enumerate(shapes)}
    return {number: tree for number, tree in found.items() if any(is_constrained for *_, is_constrained in tree.inner)}


def _monotone_tree(shape: TreeShape, signs: Mapping[int, int]) -> MonotoneTree:
    inner, waiting = [], [0]
    left, right, feature = shape.left.tolist(), shape.right.tolist(), shape.feature.tolist()
    leaves = [node for node, child in enumerate(left) if child == -1]
    while waiting:
        node = waiting.pop()
        if left[node] == -1:
            continue
        sign = signs.get(feature[node], 0)
        lower, upper = (right[node], left[node]) if sign < 0 else (left[node], right[node])
        inner.append((node, lower, upper, sign != 0))
        waiting += [lower, upper]
    return MonotoneTree(tuple(inner), tuple(leaves))
