"""Merges boosters into one native XGBoost model whose margin is the weighted sum of theirs.

A booster's margin is its intercept plus the values of the leaves that a row falls in. So the weighted sum of margins is a
booster with all trees, leaves scaled by the weights, and the weighted sum of the intercepts; one call predicts it, and its
SHAP values are the weighted sums of theirs. Classes become outputs of one model in the same way.
"""

import json
from collections.abc import Sequence

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from mi_duck.errors import CheckpointError
from mi_duck.train.forest import join_boosters, load

N_ROWS = 10_240
ROWS_AT_ONCE = 2_048
LARGEST_GAP = 1e-5


def merge_boosters(boosters: Sequence[xgb.Booster], weights: Sequence[float]) -> xgb.Booster:
    """Return one booster whose margin is the weighted sum of margins of boosters of one output.

    Parameters
    ----------
    boosters
        Trees (gbtree) with the objective ``binary:logistic`` on the same features.
    weights
        One per booster.

    Raises
    ------
    CheckpointError
        A booster is of another kind, or their numbers differ.
    """
    if len(boosters) != len(weights) or not boosters:
        raise CheckpointError(
            f"{len(boosters)} boosters and {len(weights)} weights cannot be merged; give one weight each"
        )
    return load(join_boosters([(booster, weight, 0) for booster, weight in zip(boosters, weights, strict=True)], 1))


def join_outputs(boosters: Sequence[xgb.Booster]) -> xgb.Booster:
    """Return one booster with an output for each of these, in their order: margins of shape (n_rows, n_boosters).

    Raises
    ------
    CheckpointError
        A booster has more than one output, or is of another kind.
    """
    return load(join_boosters([(booster, 1.0, output) for output, booster in enumerate(boosters)], len(boosters)))


def border_rows(boosters: Sequence[xgb.Booster], n_features: int, n_rows: int, *, seed: int) -> NDArray[np.float32]:
    """Return rows at the borders where trees decide: values at their thresholds, just below them, zero, or missing.

    Two models that agree on these rows split at the same thresholds, which rows of a dataset would not show.

    Parameters
    ----------
    boosters
        Their thresholds are used.
    n_features, n_rows
        Shape of the result.
    seed
        Seed of the draw.

    Returns
    -------
    ndarray of float32, shape (n_rows, n_features)
        NaN is missing.
    """
    thresholds: dict[int, set[float]] = {}
    for booster in boosters:
        for tree in json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]["model"]["trees"]:
            inner = (node for node, left in enumerate(tree["left_children"]) if left != -1)
            for node in inner:
                thresholds.setdefault(tree["split_indices"][node], set()).add(tree["split_conditions"][node])
    rng = np.random.default_rng(seed)
    rows = np.zeros((n_rows, n_features), dtype=np.float32)
    for feature, found in sorted(thresholds.items()):
        values = np.array(sorted(found), dtype=np.float32)
        below = np.nextafter(values, np.float32(-np.inf))
        choices = np.concatenate([values, below, np.array([0, np.nan], dtype=np.float32)])
        rows[:, feature] = rng.choice(choices, n_rows)
    return rows


def check_margins(
    merged: xgb.Booster,
    members: Sequence[Sequence[xgb.Booster]],
    weights: Sequence[float],
    *,
    n_features: int,
    seed: int,
) -> float:
    """Return the largest gap between a merged model and the weighted sum of its members' margins.

    Parameters
    ----------
    merged
        With one output, or one per class.
    members
        Boosters of each member, one per class.
    weights
        One per member.
    n_features, seed
        Of the 10,240 rows of `border_rows` that are compared.

    Returns
    -------
    float
        In units of max(1, |margin|).

    Raises
    ------
    CheckpointError
        It is larger than 1e-5.
    """
    rows = border_rows([booster for member in members for booster in member], n_features, N_ROWS, seed=seed)
    largest = 0.0
    for begin in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[begin : begin + ROWS_AT_ONCE]
        wanted = np.zeros((len(part), len(members[0])))
        for member, weight in zip(members, weights, strict=True):
            for index, booster in enumerate(member):
                wanted[:, index] += weight * booster.inplace_predict(part, predict_type="margin").astype(np.float64)
        found = merged.inplace_predict(part, predict_type="margin").reshape(wanted.shape)
        largest = max(largest, float((np.abs(found - wanted) / np.maximum(1, np.abs(wanted))).max()))
    if not largest <= LARGEST_GAP:
        raise CheckpointError(f"the merged model misses the members' margins by {largest:.1e}, so it is not written")
    return largest
