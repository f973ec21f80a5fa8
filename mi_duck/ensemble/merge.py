"""Merges boosters into one native XGBoost model whose margin is the weighted sum of theirs.

A booster's margin is its intercept plus the values of the leaves that a row falls in. So the weighted sum of margins is a
booster with all trees, leaves scaled by the weights, and the weighted sum of the intercepts; one call predicts it, and its
SHAP values are the weighted sums of theirs. Classes become outputs of one model in the same way.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from mi_duck.errors import CheckpointError

LEAST_ROWS = 10_240
ROWS_AT_ONCE = 2_048
LARGEST_GAP = 1e-5


def merge_boosters(boosters: Sequence[xgb.Booster], weights: Sequence[float]) -> xgb.Booster:
    """Return one booster whose margin is the weighted sum of margins of boosters of one output.

    Parameters
    ----------
    boosters
        Trees (gbtree) with the objective ``binary:logistic`` on the same features.
    weights
        One each.

    Raises
    ------
    CheckpointError
        A booster is of another kind, or their numbers differ.
    """
    if len(boosters) != len(weights) or not boosters:
        raise CheckpointError(
            f"{len(boosters)} boosters and {len(weights)} weights cannot be merged; give one weight each"
        )
    return _joined([(booster, weight, 0) for booster, weight in zip(boosters, weights, strict=True)], 1)


def join_outputs(boosters: Sequence[xgb.Booster]) -> xgb.Booster:
    """Return one booster with an output for each of these, in their order: margins of shape (n_rows, n_boosters).

    Raises
    ------
    CheckpointError
        A booster has more than one output, or is of another kind.
    """
    return _joined([(booster, 1.0, output) for output, booster in enumerate(boosters)], len(boosters))


def _joined(parts: Sequence[tuple[xgb.Booster, float, int]], n_outputs: int) -> xgb.Booster:
    """Return one booster of all trees: ``parts`` are a booster, its weight and the output that it adds to."""
    trees: list[dict[str, Any]] = []
    outputs: list[int] = []
    intercepts = np.zeros(n_outputs)
    models = [json.loads(bytes(booster.save_raw("json"))) for booster, _, _ in parts]
    for model, (_, weight, output) in zip(models, parts, strict=True):
        _check(model, models[0])
        intercepts[output] += weight * _intercept(model)
        for tree in model["learner"]["gradient_booster"]["model"]["trees"]:
            trees.append(_scaled(tree, weight) | {"id": len(trees)})
            outputs.append(output)
    merged = models[0]
    learner, inner = merged["learner"], merged["learner"]["gradient_booster"]["model"]
    inner["trees"] = trees
    inner["tree_info"] = outputs
    # a tree is an iteration, so that iteration_range can walk any block of them
    inner["iteration_indptr"] = list(range(len(trees) + 1))
    inner["gbtree_model_param"]["num_trees"] = str(len(trees))
    chances = 1 / (1 + np.exp(-intercepts))
    learner["learner_model_param"]["base_score"] = f"[{','.join(np.format_float_scientific(p) for p in chances)}]"
    learner["learner_model_param"]["num_target"] = str(n_outputs)
    learner["attributes"] = {}
    return xgb.Booster(model_file=bytearray(json.dumps(merged).encode()))


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


def _intercept(model: dict[str, Any]) -> float:
    """Return the margin that every row begins with."""
    chance = float(model["learner"]["learner_model_param"]["base_score"].strip("[]"))
    return float(np.log(chance / (1 - chance)))


def _scaled(tree: dict[str, Any], weight: float) -> dict[str, Any]:
    """Return a tree with its leaves multiplied; XGBoost keeps a leaf's value where others keep their split."""
    values = [
        value * weight if left == -1 else value
        for value, left in zip(tree["split_conditions"], tree["left_children"], strict=True)
    ]
    return tree | {"split_conditions": values, "base_weights": [weight * value for value in tree["base_weights"]]}


def border_rows(boosters: Sequence[xgb.Booster], n_features: int, n_rows: int, *, seed: int) -> NDArray[np.float32]:
    """Return rows that lie where trees decide: at their thresholds, just below them, at zero, or missing.

    Two models that agree on these are the same model, which rows of a dataset would show less well.

    Parameters
    ----------
    boosters
        Whose thresholds to take.
    n_features, n_rows
        Shape of the result.
    seed
        Of the draw.

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
        With one output, or one a class.
    members
        Boosters of each member, one a class.
    weights
        One a member.
    n_features, seed
        Of the rows that are tried: 10,240 of `border_rows`.

    Returns
    -------
    float
        In units of max(1, |margin|).

    Raises
    ------
    CheckpointError
        It is larger than 1e-5.
    """
    rows = border_rows([booster for member in members for booster in member], n_features, LEAST_ROWS, seed=seed)
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
