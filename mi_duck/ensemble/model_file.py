"""The file of a model: native boosters and JSON in one hashed ``.miduck`` file, never code; nothing in it is trusted unchecked.

The hash says that a file is whole, not where it comes from. So its parts must have the names that the code gives them, its facts
(JSON) must have the types and ranges of the records below, and its boosters are checked before XGBoost parses them: XGBoost
trusts the numbers in a file, and a child that lies outside its tree is read from other memory. The bytes (UBJSON) are walked by
a reader that knows only what XGBoost writes and bounds every size by the bytes that are there; then every number that XGBoost
uses as an index or a size is checked, all trees of a booster at once.

**Why** no child process loads the model: what can make XGBoost fail or predict without end (indices, sizes, depths, cycles,
counts) is checked here, in 0.2 s for 21 boosters of 225 rounds. A child process would cost each prediction a second interpreter
and a second copy of the model. Of 2,000 model files with flipped bits and a recomputed hash none ended the process; without the
checks 18 % did. Keys that are not known are walked and left to XGBoost: newer versions add some, and those that 3.2 reads are
known here.
"""

import hashlib
import json
import pickletools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import xgboost as xgb
from msgspec import Meta
from numpy.typing import NDArray

from mi_duck.archive import pack, read_model_bytes, read_parts, unpack
from mi_duck.atomic_files import strict_json, write_file
from mi_duck.boosting.ubjson import LONGEST_LIST, SIZES, joined_arrays, read_object
from mi_duck.ensemble.model import ConsolidatedMetaModel, InstanceModel
from mi_duck.errors import CheckpointError
from mi_duck.metrics.calibrate import METHODS, Calibrator
from mi_duck.run.encoding import Encoding
from mi_duck.run.recipe import Recipe
from mi_duck.run.training_data import KEY_BYTES, TrainingData

MODEL_VERSION = 3
OF_OTHERS = ("classifier", "blend")  # kinds of models that `mi_duck.classifiers` reads
LARGEST_FACTS = 256 << 20
"""Bytes of the JSON of a model; isotonic steps are most of it."""
MOST_TREES = LONGEST_LIST - 1
DEEPEST = 64
"""Levels of a tree: SHAP values take memory by the square of the depth, and a stack by the depth."""
LARGEST_LEAF = 1e9
"""No sum of leaves leaves single precision."""
ROOT_PARENT = (1 << 31) - 1
"""What XGBoost writes for the parent of a root."""

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
"""Arrays with a value per node, and their types; 64-bit feature indices are for more than 2^31 features."""
CATEGORIES = {"categories": "l", "categories_nodes": "l", "categories_segments": "L", "categories_sizes": "L"}
"""Arrays of splits by categories, which our trees do not have, and their types."""


# ---- boosters --------------------------------------------------------------------------------------------------------


def check_booster(data: bytes, name: str, *, n_features: int, n_rounds: int) -> None:
    """Refuse bytes that are not a booster of XGBoost 3: trees for one binary class, a tree per round, in UBJSON.

    The ValueError begins with the booster's name and says the first thing that is wrong.
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
    require(end == len(data), "it is not one UBJSON object from its first byte to its last")
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
    require(_numbers(inner["iteration_indptr"]) == list(range(n + 1)), "it has not one tree per round")
    require([tree["id"] for tree in trees] == list(range(n)), "trees are not numbered in their order")
    _check_trees(trees, n_features)


def _check_trees(trees: Sequence[Mapping[str, Any]], n_features: int) -> None:
    """Check that every tree is a tree: one path from its root to every node, and no number that XGBoost cannot use."""
    arrays = {name: [tree[name] for tree in trees] for name in TREE_ARRAYS}
    n_nodes = [len(data) // SIZES[kind] for kind, data in arrays["left_children"]]
    require(min(n_nodes) > 0, "a tree without nodes")
    for name, kinds in TREE_ARRAYS.items():
        for (kind, data), n in zip(arrays[name], n_nodes, strict=True):
            require(
                chr(kind) in kinds and len(data) == n * SIZES[kind],
                f"{name} of a tree does not have one value per node",
            )
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
    """Check the links of all trees at once; nodes are numbered across trees.

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
    require(
        isinstance(values, list) and all(isinstance(value, int) for value in values),
        "something is not a list of whole numbers",
    )
    found: list[int] = values
    return found


# ---- facts -----------------------------------------------------------------------------------------------------------

Count = Annotated[int, Meta(ge=0, le=1 << 62)]
Probability = Annotated[float, Meta(ge=0, le=1)]
Coefficient = Annotated[float, Meta(ge=-1e100, le=1e100)]
Single = Annotated[float, Meta(ge=-3.4e38, le=3.4e38)]
"""A number that fits into single precision."""


@dataclass(frozen=True, slots=True)
class CalibratorFacts:
    """A `mi_duck.metrics.calibrate.Calibrator` in the file."""

    method: str
    slope: Coefficient
    intercept: Coefficient
    margins: tuple[Coefficient, ...]
    probabilities: tuple[Probability, ...]

    def __post_init__(self) -> None:
        """Check what no type says; msgspec adds the path of the record to the message."""
        require(self.method in METHODS, f"calibration {self.method!r:.40}; this program knows {', '.join(METHODS)}")
        for name, values in (("margins", self.margins), ("probabilities", self.probabilities)):
            require(all(one <= two for one, two in pairwise(values)), f"the {name} of a calibrator fall")
        require(len(self.margins) == len(self.probabilities), "a calibrator has steps without a value")
        require(bool(self.margins) == (self.method == "isotonic"), f"steps of calibration '{self.method}'")


@dataclass(frozen=True, slots=True)
class LevelFacts:
    """A `mi_duck.run.made.Levels` in the file."""

    column: str
    levels: Annotated[tuple[str, ...], Meta(min_length=1, max_length=10_000)]
    other: str | None


@dataclass(frozen=True, slots=True)
class DateFacts:
    """A `mi_duck.run.made.Dates` in the file."""

    column: str
    first: Annotated[int, Meta(ge=-(10**8), le=10**8)]
    last: Annotated[int, Meta(ge=-(10**8), le=10**8)]
    n_missing: Count


@dataclass(frozen=True, slots=True)
class EncodingFacts:
    """A `mi_duck.run.encoding.Encoding` in the file."""

    zero_is_missing: tuple[str, ...]
    sentinel: Single | None
    levels: tuple[LevelFacts, ...] = ()
    dates: tuple[DateFacts, ...] = ()


@dataclass(frozen=True, slots=True)
class CommonFacts:
    """What every kind of model has."""

    features: Annotated[tuple[str, ...], Meta(min_length=1)]
    classes: Annotated[tuple[str, ...], Meta(min_length=2, max_length=1000)]
    encoding: EncodingFacts
    unused_features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check what no type says."""
        for name, values in (("features", self.features + self.unused_features), ("classes", self.classes)):
            "".join(values).encode()  # half of a surrogate pair cannot be written down again
            require(len(set(values)) == len(values), f"one of {name} is there twice")
        require(set(self.encoding.zero_is_missing) <= set(self.features), "zero_is_missing names what is not a feature")


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """The final model of one instance: rounds and calibrators per class."""

    instance_id: Count
    n_genes: Count
    n_rows: Count
    n_training_rows: Count
    rounds: tuple[Count, ...]
    calibrators: tuple[CalibratorFacts, ...]
    gene_column: str | None
    incomplete_features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FoldFacts:
    """The fold models of one instance: rounds and calibrators per fold, then per class."""

    rounds: tuple[tuple[Count, ...], ...]
    calibrators: tuple[tuple[CalibratorFacts, ...], ...]


@dataclass(frozen=True, slots=True)
class EnsembleFacts:
    """A consolidated model; see `mi_duck.ensemble.model.ConsolidatedMetaModel`."""

    members: Annotated[tuple[MemberFacts, ...], Meta(min_length=1)]
    weights: tuple[Probability, ...]
    voting: str
    thresholds: dict[str, dict[str, Probability | None]]
    calibrators: tuple[CalibratorFacts, ...]
    n_genes: Count
    recipe: Recipe | None = None

    def __post_init__(self) -> None:
        """Check what no type says."""
        n, total = len(self.members), sum(self.weights)
        require(len(self.weights) == n, f"it has {n} members and {len(self.weights)} weights")
        require(abs(total - 1) < 1e-6, f"its weights sum to {total:g}, not 1")


def read_facts(data: bytes, source: str) -> dict[str, Any]:
    """Return the JSON of a model; a CheckpointError where it holds doubled keys, NaN or infinity, or is not an object."""
    try:
        require(len(data) <= LARGEST_FACTS, f"its facts take {len(data):,} bytes")
        facts = strict_json(data)
        require(isinstance(facts, dict), "its facts are not a JSON object")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(_refusal(source, error)) from error
    found: dict[str, Any] = facts
    return found


def check_model(facts: Mapping[str, Any], parts: Mapping[str, bytes], source: str) -> None:
    """Check facts and boosters of a model of any kind: ``ensemble``, ``instance`` or ``folds``.

    Raises
    ------
    CheckpointError
        Something is missing, too much, of another type, or out of its range.
    """
    try:
        common = msgspec.convert(facts, CommonFacts)
        rounds = _rounds(facts, common.classes)
        members = _members(facts)
        names = {
            f"booster_{number}_{index}.ubj" if facts["kind"] != "instance" else f"booster_{index}.ubj": n_rounds
            for number, of_classes in enumerate(rounds)
            for index, n_rounds in enumerate(of_classes)
        }
        is_same = set(parts) == {"model.json", *names, *members}
        require(is_same, f"its {len(parts):,} parts are not those of {len(names)} boosters")
        for name, n_rounds in names.items():
            check_booster(parts[name], name, n_features=len(common.features), n_rounds=n_rounds)
        for name, member in members.items():
            _check_training(member, parts[name], common.features)
    except (ValueError, msgspec.ValidationError) as error:
        raise CheckpointError(_refusal(source, error)) from error


def _rounds(facts: Mapping[str, Any], classes: Sequence[str]) -> Sequence[Sequence[int]]:
    """Return the rounds of every booster: per member, or fold, then per class."""
    if facts["kind"] == "folds":
        folds = msgspec.convert(facts, FoldFacts)
        require(len(folds.rounds) == len(folds.calibrators), "rounds and calibrators are of different folds")
        models = list(zip(folds.rounds, folds.calibrators, strict=True))
    elif facts["kind"] == "instance":
        member = msgspec.convert(facts, MemberFacts)
        models = [(member.rounds, member.calibrators)]
    else:
        ensemble = msgspec.convert(facts, EnsembleFacts)
        require(set(ensemble.thresholds) <= set(classes), "thresholds are of other classes")
        models = [(member.rounds, member.calibrators) for member in ensemble.members]
    n = len(classes)
    for rounds, calibrators in models:
        require(len(calibrators) == n, f"it has {len(calibrators)} calibrators for {n} classes")
        require(len(rounds) == n, f"it has rounds of {len(rounds)} boosters for {n} classes")
    return [rounds for rounds, _ in models]


def _members(facts: Mapping[str, Any]) -> dict[str, MemberFacts]:
    """Return the facts of each member by the part with the keys of its genes; fold models have none."""
    if facts["kind"] == "folds":
        return {}
    if facts["kind"] == "instance":
        return {"genes.bin": msgspec.convert(facts, MemberFacts)}
    members = msgspec.convert(facts, EnsembleFacts).members
    return {f"genes_{number}.bin": member for number, member in enumerate(members)}


def _check_training(member: MemberFacts, keys: bytes, features: Sequence[str]) -> None:
    """Check that a model names each of its genes by one key, in order, and only its own features."""
    n_genes = 0 if member.gene_column is None else member.n_genes
    require(len(keys) == KEY_BYTES * n_genes, f"{len(keys):,} bytes for the keys of {n_genes:,} genes")
    values = np.frombuffer(keys, dtype="<u8")
    require(bool((values[1:] >= values[:-1]).all()), "the keys of its genes fall")
    require(set(member.incomplete_features) <= set(features), "incomplete_features names what is not a feature")


def _refusal(source: str, error: Exception) -> str:
    return f"{source} is not a model that mi_duck wrote: {str(error).replace('`', '')}"


# ---- files -----------------------------------------------------------------------------------------------------------


def save_model(path: Path, model: ConsolidatedMetaModel) -> None:
    """Write the consolidated model."""
    write_file(path, model_bytes(model))


def model_bytes(model: ConsolidatedMetaModel) -> bytes:
    """Return the bytes of a ``.miduck`` file; `model_from_bytes` reads them."""
    return pack(_parts_of(model))


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
            member.metadata
            | {
                "calibrators": [one.to_dict() for one in member.calibrators],
                "gene_column": member.training.gene_column,
                "incomplete_features": member.training.incomplete_features,
            }
            for member in model.members
        ],
    }
    facts |= model.training.unused()
    if model.recipe is not None:
        facts["recipe"] = model.recipe.to_dict()
    parts = {"model.json": json.dumps(facts, sort_keys=True).encode()}
    for number, member in enumerate(model.members):
        boosters = enumerate(member.boosters)
        parts |= {f"booster_{number}_{index}.ubj": bytes(booster.save_raw("ubj")) for index, booster in boosters}
        parts[f"genes_{number}.bin"] = member.training.gene_keys
    return parts


@dataclass(frozen=True, slots=True)
class FoldModels:
    """The fold boosters of one instance: ``boosters[fold][class]`` and ``calibrators[fold][class]``."""

    boosters: tuple[tuple[Any, ...], ...]
    calibrators: tuple[tuple[Calibrator, ...], ...]


def read_fold_models(path: Path) -> FoldModels:
    """Read ``fold_models.miduck``; a CheckpointError where it is damaged, or holds another kind of model."""
    parts = read_parts(path)
    facts = checked_facts(parts, str(path), ("folds",), otherwise="no fold models")
    return FoldModels(
        tuple(
            tuple(load_booster(parts[f"booster_{fold}_{index}.ubj"]) for index in range(len(facts["classes"])))
            for fold in range(len(facts["rounds"]))
        ),
        tuple(tuple(Calibrator.from_dict(values) for values in row) for row in facts["calibrators"]),
    )


def read_fold_booster(path: Path, fold: int, index: int) -> xgb.Booster:
    """Read the booster of one fold and class from ``fold_models.miduck``; see `read_fold_models`."""
    parts = read_parts(path)
    checked_facts(parts, str(path), ("folds",), otherwise="no fold models")
    return load_booster(parts[f"booster_{fold}_{index}.ubj"])


def load_unified_model(path: str | Path) -> ConsolidatedMetaModel | InstanceModel:
    """Read a model: a run folder, an instance folder, a ``.miduck`` file of either, or a pickle that mi_duck exported.

    Of a pickle the bytes of the model are taken out; nothing in it is run.

    Raises
    ------
    CheckpointError
        Nothing is there, or the file is damaged, foreign or newer.
    """
    path = model_file(Path(path))
    if path.suffix == ".pkl":
        return model_from_bytes(_bytes_in_pickle(path), str(path))
    return model_of_parts(read_parts(path), str(path))


def model_file(path: Path) -> Path:
    """Return the file of a model: the path itself, or what a run folder or an instance folder has."""
    if not path.is_dir():
        return path
    for name in ("consolidated_model.miduck", "model_multiclass.miduck"):
        if (path / name).is_file():
            return path / name
    if not (path / "plan.json").is_file():
        raise CheckpointError(
            f"{path} is not a run and holds no model; name a run folder or a .miduck file, then the dataset"
        )
    raise CheckpointError(f"no model in {path}; 'mi-duck consolidate' makes it once the instances are trained")


def model_from_bytes(data: bytes, source: str) -> ConsolidatedMetaModel | InstanceModel:
    """Read a model from the bytes of a ``.miduck`` file, named ``source`` in messages; see `load_unified_model`."""
    return model_of_parts(unpack(data, source), source)


def _bytes_in_pickle(path: Path) -> bytes:
    """Return the bytes of a model's file that a pickle of `mi_duck.export.export` holds, by reading its instructions."""
    try:
        found = [value for _, value, _ in pickletools.genops(read_model_bytes(path)) if isinstance(value, bytes)]
    except ValueError as error:
        raise CheckpointError(f"{path} is not a whole pickle: {error}") from error
    if len(found) != 1:
        raise CheckpointError(f"{path} is not a pickle that mi_duck exported; loading any other would run its code")
    return found[0]


def model_of_parts(parts: Mapping[str, bytes], source: str) -> ConsolidatedMetaModel | InstanceModel:
    """Read a model of boosted trees from the parts of its file; see `load_unified_model`."""
    facts = checked_facts(parts, source, ("instance", "ensemble"), otherwise="not a model to predict with")
    if facts["kind"] == "instance":
        return _member(facts, facts, parts, "")
    return ConsolidatedMetaModel(
        tuple(_member(facts, one, parts, f"_{number}") for number, one in enumerate(facts["members"])),
        tuple(facts["weights"]),
        facts["voting"],
        facts["thresholds"],
        facts["n_genes"],
        tuple(Calibrator.from_dict(values) for values in facts["calibrators"]),
        msgspec.convert(facts["recipe"], Recipe) if facts.get("recipe") is not None else None,
    )


def checked_facts(parts: Mapping[str, bytes], source: str, kinds: Sequence[str], *, otherwise: str) -> dict[str, Any]:
    """Return the facts of a model of one of some kinds, after facts and boosters were checked.

    A CheckpointError calls a model of another kind, or of another version, ``otherwise``.
    """
    facts = read_facts(parts.get("model.json", b""), source)
    kind, version = facts.get("kind"), facts.get("version")
    if kind in OF_OTHERS:
        raise CheckpointError(
            f"{source} is a {kind} without trees; 'mi-duck predict' uses it, what needs boosted trees cannot"
        )
    if kind not in kinds or (kind == "ensemble" and version != MODEL_VERSION):
        raise CheckpointError(f"{source} holds '{kind!s:.40}', version {version!s:.40}, {otherwise}")
    check_model(facts, parts, source)
    return facts


def _member(facts: dict[str, Any], one: dict[str, Any], parts: Mapping[str, bytes], which: str) -> InstanceModel:
    names = ("instance_id", "n_genes", "n_rows", "n_training_rows", "rounds")
    return InstanceModel(
        tuple(facts["features"]),
        tuple(facts["classes"]),
        tuple(load_booster(parts[f"booster{which}_{index}.ubj"]) for index in range(len(facts["classes"]))),
        tuple(Calibrator.from_dict(values) for values in one["calibrators"]),
        {name: one[name] for name in names},
        Encoding.from_dict(facts["encoding"]),
        TrainingData(
            *(one["gene_column"], parts[f"genes{which}.bin"]),
            tuple(one["incomplete_features"]),
            tuple(facts.get("unused_features", ())),
        ),
    )


def load_booster(data: bytes) -> xgb.Booster:
    """Return a booster from its checked bytes; a CheckpointError where XGBoost does not take them."""
    try:
        return xgb.Booster(model_file=bytearray(data))
    except xgb.core.XGBoostError as error:
        words = " ".join(str(error).partition("Stack trace")[0].split())
        raise CheckpointError(f"XGBoost {xgb.__version__} cannot load a booster of this model: {words}") from error
