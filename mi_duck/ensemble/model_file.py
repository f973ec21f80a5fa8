"""Whether bytes are a booster as XGBoost writes it for one binary class: walked and checked before XGBoost parses them.

XGBoost's own parser believes the numbers in a file: a child that lies outside its tree is read from other memory. So the bytes
(UBJSON) are walked by a reader that knows only what XGBoost writes and bounds every size by the bytes that are there; then
every number that XGBoost uses as a place or a size is checked, all trees of a booster at once.

**Why** no child process stands between: what can make XGBoost fail or predict without end (places, sizes, depths, cycles,
counts) is checked here, in .2 s for 21 boosters of 225 rounds; a child would cost each prediction a second interpreter and a
second copy of the model. Of 2,000 model files with flipped bits and a mended hash none ended the process, where 18 % did before.
Keys that are not known are walked and left to XGBoost: newer versions add some, and those that 3.2 reads are known here.

Whether a model file whose hash is right holds a model: nothing in it is believed before it is checked here.

The hash says that a file is whole, not where it comes from. So its parts must be those that a model has, by names that come from
code; its facts (JSON) must be of the right types and within their ranges; its boosters are checked by
`mi_duck.ensemble.model_file` before XGBoost sees them.

The file of a model: writes and reads native boosters and JSON in one hashed ``.miduck`` file, never code.
"""

import hashlib
import json
import pickletools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from mi_duck.archive import pack, read_model_bytes, read_parts, unpack
from mi_duck.atomic_files import write_file
from mi_duck.ensemble.model import ConsolidatedMetaModel, InstanceModel
from mi_duck.errors import CheckpointError
from mi_duck.metrics.calibrate import METHODS, Calibrator
from mi_duck.run.encoding import Encoding
from mi_duck.train.forest import LONGEST_LIST, SIZES, joined_arrays, read_object

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
    """Refuse bytes that are not a booster of XGBoost 3: trees for one binary class, a tree a round, in UBJSON.

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
    require(facts.get("boost_from_average", "1") in ("0", "1"), "boost_from_average is not a switch")
    probability = np.float32(_parameter(facts["base_score"].removeprefix("[").removesuffix("]")))
    require(bool(0 < probability < 1), f"its intercept is the probability {probability:g}")
    require(learner["feature_names"] == learner["feature_types"] == [], "it names its features itself")
    require(all(isinstance(value, str) for value in learner["attributes"].values()), "an attribute is not text")
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
    require(not np.isnan(values["split_conditions"]).any(), "a threshold or leaf that is not a number")
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


LARGEST_FACTS = 256 << 20  # bytes of JSON; isotonic steps are most of them
MOST_CLASSES = 1_000
LARGEST_COEFFICIENT = 1e100
LARGEST_COUNT = 1 << 62
LARGEST_SINGLE = 3.4e38  # of numbers in single precision


def read_facts(data: bytes, source: str) -> dict[str, Any]:
    """Return the JSON of a model, without doubled keys, NaN or infinity.

    Raises
    ------
    CheckpointError
        It is not such JSON object.
    """
    try:
        require(len(data) <= LARGEST_FACTS, f"its facts take {len(data):,} bytes")
        facts = json.loads(data, object_pairs_hook=_once, parse_constant=_no_number)
        require(isinstance(facts, dict), "its facts are no JSON object")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(_refusal(source, error)) from error
    found: dict[str, Any] = facts
    return found


def check_model(facts: Mapping[str, Any], parts: Mapping[str, bytes], source: str) -> None:
    """Check facts and boosters of a model of any kind: ``ensemble``, ``instance`` or ``folds``.

    Parameters
    ----------
    facts
        From `read_facts`.
    parts
        All parts of the file.
    source
        Its name, for messages.

    Raises
    ------
    CheckpointError
        Something is missing, too much, of another type, or out of its range.
    """
    try:
        rounds = _check_facts(facts)
        names = {
            f"booster_{number}_{index}.ubj" if facts["kind"] != "instance" else f"booster_{index}.ubj": (number, index)
            for number, of_classes in enumerate(rounds)
            for index in range(len(of_classes))
        }
        require(
            set(parts) == {"model.json", *names}, f"its {len(parts):,} parts are not those of {len(names)} boosters"
        )
        for name, (number, index) in names.items():
            check_booster(parts[name], name, n_features=len(facts["features"]), n_rounds=rounds[number][index])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(_refusal(source, error)) from error


# ---- facts -----------------------------------------------------------------------------------------------------------


def _check_facts(facts: Mapping[str, Any]) -> list[list[int]]:
    """Return the rounds of every booster: one list a member, or fold, with a number a class."""
    kind = facts["kind"]
    features, classes = (_texts(facts[name], name) for name in ("features", "classes"))
    require(bool(features), "it has no feature")
    require(1 < len(classes) <= MOST_CLASSES, f"it has {len(classes):,} classes")
    _check_encoding(facts["encoding"], features)
    if kind == "folds":
        rounds, calibrators = _list(facts["rounds"], "rounds"), _list(facts["calibrators"], "calibrators")
        require(len(rounds) == len(calibrators), "rounds and calibrators are of different folds")
        for row in calibrators:
            _check_calibrators(row, len(classes))
        return [_rounds(row, len(classes)) for row in rounds]
    members = [facts] if kind == "instance" else _list(facts["members"], "members")
    require(bool(members), "it has no member")
    if kind != "instance":
        weights = [_number(weight, "a weight", 0, 1) for weight in _list(facts["weights"], "weights")]
        require(len(weights) == len(members), f"it has {len(members)} members and {len(weights)} weights")
        require(abs(sum(weights) - 1) < 1e-6, f"its weights sum to {sum(weights):g}, not 1")
        require(isinstance(facts["voting"], str), "its voting is not text")
        _check_thresholds(facts["thresholds"], classes)
        _whole(facts["n_genes"], "n_genes")
        _check_calibrators(facts["calibrators"], len(facts["calibrators"]))
    for member in members:
        for name in ("instance_id", "n_genes", "n_rows", "n_training_rows"):
            _whole(member[name], name)
        _check_calibrators(member["calibrators"], len(classes))
    return [_rounds(member["rounds"], len(classes)) for member in members]


def _check_encoding(values: Mapping[str, Any], features: Sequence[str]) -> None:
    chosen = _texts(values["zero_is_missing"], "zero_is_missing")
    require(set(chosen) <= set(features), "zero_is_missing names what is not a feature")
    if values["sentinel"] is not None:
        _number(values["sentinel"], "the sentinel", -LARGEST_SINGLE, LARGEST_SINGLE)


def _check_thresholds(values: Mapping[str, Any], classes: Sequence[str]) -> None:
    require(set(values) <= set(classes), "thresholds are of other classes")
    for name, kinds in values.items():
        for kind, value in kinds.items():
            if value is not None:
                _number(value, f"threshold {kind} of '{name}'", 0, 1)


def _check_calibrators(several: Any, n: int) -> None:
    require(len(_list(several, "calibrators")) == n, f"it has {len(several)} calibrators for {n} classes")
    for one in several:
        require(one["method"] in METHODS, f"calibration '{one['method']}'; this program knows {', '.join(METHODS)}")
        for name in ("slope", "intercept"):
            _number(one[name], f"the {name} of a calibrator", -LARGEST_COEFFICIENT, LARGEST_COEFFICIENT)
        steps = [_list(one[name], name) for name in ("margins", "probabilities")]
        for name, most, values in zip(("margin", "probability"), (LARGEST_COEFFICIENT, 1), steps, strict=True):
            for value in values:
                _number(value, f"a {name} of a calibrator", -most if most > 1 else 0, most)
            require(all(a <= b for a, b in zip(values, values[1:], strict=False)), f"a {name} of a calibrator falls")
        n_steps = {len(values) for values in steps}
        require(len(n_steps) == 1, "a calibrator has steps without a value")
        require((n_steps != {0}) == (one["method"] == "isotonic"), f"steps of calibration '{one['method']}'")


def _rounds(values: Any, n_classes: int) -> list[int]:
    found = [_whole(value, "rounds") for value in _list(values, "rounds")]
    require(len(found) == n_classes, f"it has rounds of {len(found)} boosters for {n_classes} classes")
    return found


def _texts(values: Any, what: str) -> list[str]:
    """Return distinct texts that can be written down; half of a surrogate pair cannot."""
    found: list[str] = _list(values, what)
    for value in found:
        require(isinstance(value, str), f"one of {what} is not text")
        value.encode()
    require(len(set(found)) == len(found), f"one of {what} is there twice")
    return found


def _list(values: Any, what: str) -> list[Any]:
    require(isinstance(values, list), f"{what} is not a list")
    found: list[Any] = values
    return found


def _number(value: Any, what: str, least: float, most: float) -> float:
    require(isinstance(value, int | float) and not isinstance(value, bool), f"{what} is not a number")
    require(least <= value <= most, f"{what} is {value!r:.40}, not within {least:g} to {most:g}")
    return float(value)


def _whole(value: Any, what: str) -> int:
    require(isinstance(value, int) and not isinstance(value, bool), f"{what} is not whole number")
    require(0 <= value <= LARGEST_COUNT, f"{what} is negative or huge")
    return int(value)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    require(len(found) == len(pairs), "a key of its JSON is there twice")
    return found


def _no_number(text: str) -> float:
    raise ValueError(f"its JSON holds {text}")


def _refusal(source: str, error: Exception) -> str:
    if isinstance(error, KeyError):
        words = f"{error} is not there"
    else:
        words = "something is of another type" if isinstance(error, TypeError | AttributeError) else str(error)
    return f"{source} is not a model that mi_duck wrote: {words}"


MODEL_VERSION = 2


def save_model(path: Path, model: ConsolidatedMetaModel) -> None:
    """Write the consolidated model."""
    write_file(path, pack(_parts_of(model)))


def model_sha256(model: ConsolidatedMetaModel | InstanceModel) -> str:
    """Return a hash of all that the predictions of a model depend on."""
    digest = hashlib.sha256()
    for name, data in _parts_of(model.as_ensemble() if isinstance(model, InstanceModel) else model).items():
        digest.update(f"{name} {len(data)} ".encode() + data)
    return digest.hexdigest()


def _parts_of(model: ConsolidatedMetaModel) -> dict[str, bytes]:
    facts = {
        "kind": "ensemble",
        "version": MODEL_VERSION,
        "features": model.features,
        "classes": model.classes,
        "encoding": model.members[0].encoding.to_dict(),
        "weights": model.weights,
        "voting": model.voting,
        "thresholds": model.thresholds,
        "calibrators": [one.to_dict() for one in model.calibrators],
        "n_genes": model.n_genes,
        "members": [
            member.metadata | {"calibrators": [one.to_dict() for one in member.calibrators]} for member in model.members
        ],
    }
    return {"model.json": json.dumps(facts, sort_keys=True).encode()} | {
        f"booster_{number}_{index}.ubj": bytes(booster.save_raw("ubj"))
        for number, member in enumerate(model.members)
        for index, booster in enumerate(member.boosters)
    }


def load_unified_model(path: str | Path) -> ConsolidatedMetaModel | InstanceModel:
    """Read a model: a run folder, an instance folder, a ``.miduck`` file of either, or a pickle that mi_duck exported.

    Of a pickle the bytes of the model are taken out; nothing in it is run.

    Raises
    ------
    CheckpointError
        Nothing is there, or the file is damaged, foreign or newer.
    """
    path = Path(path)
    if path.is_dir():
        found = [
            path / name for name in ("consolidated_model.miduck", "model_multiclass.miduck") if (path / name).is_file()
        ]
        if not found:
            raise CheckpointError(f"no model in {path}; 'mi-duck consolidate' makes it once the instances are trained")
        path = found[0]
    if path.suffix == ".pkl":
        return model_from_bytes(_bytes_in_pickle(path), str(path))
    return _from_parts(read_parts(path), str(path))


def model_from_bytes(data: bytes, source: str) -> ConsolidatedMetaModel | InstanceModel:
    """Read a model from the bytes of its file.

    Parameters
    ----------
    data
        All bytes of a ``.miduck`` file.
    source
        Its name, for messages.

    Raises
    ------
    CheckpointError
        The bytes are damaged, foreign or newer.
    """
    return _from_parts(unpack(data, source), source)


def _bytes_in_pickle(path: Path) -> bytes:
    """Return the bytes of a model's file that a pickle of `mi_duck.export.export` holds, by reading its instructions."""
    try:
        found = [value for _, value, _ in pickletools.genops(read_model_bytes(path)) if isinstance(value, bytes)]
    except ValueError as error:
        raise CheckpointError(f"{path} is not whole pickle: {error}") from error
    if len(found) != 1:
        raise CheckpointError(f"{path} is not a pickle that mi_duck exported; loading any other would run its code")
    return found[0]


def _from_parts(parts: Mapping[str, bytes], source: str) -> ConsolidatedMetaModel | InstanceModel:
    facts = checked_facts(parts, source, ("instance", "ensemble"), otherwise="not a model to predict with")
    if facts["kind"] == "instance":
        return _member(facts, facts, [parts[f"booster_{index}.ubj"] for index in range(len(facts["classes"]))])
    members = tuple(
        _member(facts, one, [parts[f"booster_{number}_{index}.ubj"] for index in range(len(facts["classes"]))])
        for number, one in enumerate(facts["members"])
    )
    return ConsolidatedMetaModel(
        members,
        tuple(facts["weights"]),
        facts["voting"],
        facts["thresholds"],
        facts["n_genes"],
        tuple(Calibrator.from_dict(values) for values in facts["calibrators"]),
    )


def checked_facts(parts: Mapping[str, bytes], source: str, kinds: Sequence[str], *, otherwise: str) -> dict[str, Any]:
    """Return the facts of a model of one of some kinds, once facts and boosters are known to be sound.

    Parameters
    ----------
    parts, source
        All parts of the file, and its name.
    kinds, otherwise
        Those that will do, and the words for a model of another kind.

    Raises
    ------
    CheckpointError
        It is of another kind or version, or no model; see `mi_duck.ensemble.model_file`.
    """
    facts = read_facts(parts.get("model.json", b""), source)
    kind, version = facts.get("kind"), facts.get("version")
    if kind not in kinds or (kind == "ensemble" and version != MODEL_VERSION):
        raise CheckpointError(f"{source} holds '{kind!s:.40}', version {version!s:.40}, {otherwise}")
    check_model(facts, parts, source)
    return facts


def _member(facts: dict[str, Any], one: dict[str, Any], boosters: Sequence[bytes]) -> InstanceModel:
    names = ("instance_id", "n_genes", "n_rows", "n_training_rows", "rounds")
    return InstanceModel(
        tuple(facts["features"]),
        tuple(facts["classes"]),
        tuple(load_booster(data) for data in boosters),
        tuple(Calibrator.from_dict(values) for values in one["calibrators"]),
        {name: one[name] for name in names},
        Encoding.from_dict(facts["encoding"]),
    )


def load_booster(data: bytes) -> xgb.Booster:
    """Return a booster from its verified bytes.

    Raises
    ------
    CheckpointError
        XGBoost does not take them.
    """
    try:
        return xgb.Booster(model_file=bytearray(data))
    except xgb.core.XGBoostError as error:
        words = " ".join(str(error).partition("Stack trace")[0].split())
        raise CheckpointError(f"XGBoost {xgb.__version__} cannot load a booster of this model: {words}") from error
