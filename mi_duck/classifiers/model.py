"""The model of a cross-validated classifier, and of a blend of runs: what it predicts, and how it is read from a file.

Both have the interface of an ensemble: ``predict_proba``, ``predict``, names of features and classes. Their files are checked as
those of boosted trees are: hashes, sizes, types and shapes, before anything is used; what could run code is read only if asked.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mi_duck.archive import pack, read_parts, unpack
from mi_duck.atomic_files import strict_json
from mi_duck.classifiers.fitted import Fitted, fitted_of
from mi_duck.classifiers.own_objects import PICKLE
from mi_duck.classifiers.preparation import Preparation
from mi_duck.ensemble.interface import MatrixModel, Scored
from mi_duck.errors import CheckpointError
from mi_duck.metrics.calibrate import Calibrator, calibrated, log_odds
from mi_duck.metrics.ranking import Floats32, Floats64
from mi_duck.run.encoding import Encoding
from mi_duck.run.made import Made
from mi_duck.run.plan import Plan
from mi_duck.run.training_data import TrainingData, joined

CLASSIFIER, BLEND = "classifier", "blend"
VERSION = 1


def model_facts(
    plan: Plan, known: TrainingData, *, form: str, calibrators: Sequence[Calibrator], rounds: int
) -> dict[str, Any]:
    """Return ``model.json`` of a classifier."""
    encoding = plan.encoding
    return {
        "kind": CLASSIFIER,
        "version": VERSION,
        "estimator": plan.settings.estimator,
        "form": form,
        "features": plan.data.features,
        "classes": plan.data.classes,
        "encoding": encoding.to_dict(),
        "calibrators": [one.to_dict() for one in calibrators],
        "gene_column": known.gene_column,
        "incomplete_features": known.incomplete_features,
        **known.unused(),
        "n_genes": plan.data.n_genes,
        "rounds": rounds,
        "thresholds": {},
    }


@dataclass(frozen=True, repr=False)
class ClassifierModel(MatrixModel):
    """A classifier of prepared rows, calibrated.

    Parameters
    ----------
    estimator
        Its name: ``logistic``, or ``package.module:factory``.
    thresholds
        As of `mi_duck.ensemble.model.ConsolidatedMetaModel`.
    sha256
        Of all that its predictions depend on.
    """

    features: tuple[str, ...]
    classes: tuple[str, ...]
    estimator: str
    preparation: Preparation
    fitted: Fitted
    calibrators: tuple[Calibrator, ...]
    encoding: Encoding
    training: TrainingData
    thresholds: dict[str, dict[str, float | None]]
    n_genes: int
    sha256: str

    def __repr__(self) -> str:
        """Return what the model is, in one line."""
        shape = f"{len(self.features):,} features, {len(self.classes)} classes"
        return f"ClassifierModel({self.estimator}, {self.n_genes:,} genes, {shape})"

    @property
    def made(self) -> tuple[Made, ...]:  # type: ignore[override]
        """Columns of texts and dates of which features are made."""
        return self.encoding.made

    def scores(self, matrix: Floats32) -> Scored:
        """Return calibrated probabilities of rows in the order of the features, NaN where a value is missing."""
        margins = log_odds(self.fitted.probabilities(self.preparation.apply(matrix))).astype(np.float32)
        return calibrated(margins, self.calibrators), None


@dataclass(frozen=True, repr=False)
class BlendModel(MatrixModel):
    """The weighted mean of the probabilities of several runs' models, calibrated on top.

    Parameters
    ----------
    names
        Of the runs, in the order of the members.
    members
        Models with ``features``, ``made``, ``training`` and ``predict_proba``.
    """

    classes: tuple[str, ...]
    names: tuple[str, ...]
    members: tuple[Any, ...]
    weights: tuple[float, ...]
    calibrators: tuple[Calibrator, ...]
    thresholds: dict[str, dict[str, float | None]]
    sha256: str

    def __repr__(self) -> str:
        """Return what the model is made of, in one line."""
        made_of = ", ".join(f"{weight:.3f} {name}" for name, weight in zip(self.names, self.weights, strict=True))
        return f"BlendModel({made_of})"

    @cached_property
    def features(self) -> tuple[str, ...]:  # type: ignore[override]
        """Features of any member."""
        return tuple(dict.fromkeys(name for member in self.members for name in member.features))

    @cached_property
    def made(self) -> tuple[Made, ...]:  # type: ignore[override]
        """Columns of texts and dates of which features are made of any member."""
        return tuple(dict.fromkeys(one for member in self.members for one in member.made))

    @cached_property
    def training(self) -> TrainingData:  # type: ignore[override]
        """Which genes any member was trained on, and which features had missing values or are not used."""
        return joined([member.training for member in self.members])

    def scores(self, matrix: Floats32) -> Scored:
        """Return probabilities of rows in the order of the features, and those of the members."""
        position = {name: index for index, name in enumerate(self.features)}
        members = np.stack(
            [one.predict_proba(matrix[:, [position[name] for name in one.features]]) for one in self.members]
        )
        return blended(members, self.weights, self.calibrators), members


def blended(members: Floats32, weights: Sequence[float], calibrators: Sequence[Calibrator]) -> Floats64:
    """Return the calibrated weighted mean of probabilities of shape (n_members, n_rows, n_classes)."""
    return calibrated(joined_margins(members, weights), calibrators)


def joined_margins(members: Floats32, weights: Sequence[float]) -> Floats32:
    """Return the log-odds of the weighted mean of probabilities of shape (n_members, n_rows, n_classes)."""
    mean = np.zeros(members.shape[1:])
    for weight, one in zip(weights, members, strict=True):
        if weight:
            mean += weight * one
    return log_odds(mean).astype(np.float32)


# ---- files ----------------------------------------------------------------------------------------------------------------


class _Facts(msgspec.Struct, frozen=True, kw_only=True):
    """``model.json`` of a classifier or a blend, as far as it is read."""

    kind: str
    version: int
    classes: list[str]
    calibrators: list[dict[str, Any]]
    thresholds: dict[str, dict[str, float | None]]
    estimator: str = ""
    form: str = ""
    features: list[str] = []
    encoding: dict[str, Any] = {}
    gene_column: str | None = None
    incomplete_features: list[str] = []
    unused_features: list[str] = []
    n_genes: int = 0
    names: list[str] = []
    weights: list[float] = []


def load_unified_model(path: str | Path, *, trust_pickle: bool = False) -> Any:
    """Read the model of a run, whatever was trained: boosted trees, a classifier or a blend.

    Parameters
    ----------
    path
        A run folder, an instance folder, or a file of either; see `mi_duck.ensemble.model_file.load_unified_model`.
    trust_pickle
        Whether a classifier of someone's own may be read from a pickle, which can run any code.

    Returns
    -------
    ConsolidatedMetaModel, InstanceModel, ClassifierModel or BlendModel

    Raises
    ------
    CheckpointError
        Nothing is there, the file is damaged, foreign or newer, or holds a pickle that is not trusted.
    """
    from mi_duck.ensemble import model_file

    path = model_file.model_file(Path(path))
    if path.suffix == ".pkl":
        return model_file.load_unified_model(path)
    return model_of_parts(read_parts(path), str(path), trust_pickle=trust_pickle)


def model_of_parts(parts: Mapping[str, bytes], source: str, *, trust_pickle: bool) -> Any:
    """Read a model of any kind from the parts of its file."""
    if "model.json" not in parts:
        raise CheckpointError(
            f"{source} does not hold a model that predicts; name a run, or its consolidated_model.miduck"
        )
    try:
        values = strict_json(parts["model.json"])
        kind = values.get("kind")
        if kind not in (CLASSIFIER, BLEND):
            from mi_duck.ensemble.model_file import model_of_parts as boosted

            return boosted(parts, source)
        facts = msgspec.convert(values | {"thresholds": _numbers_alone(values["thresholds"])}, _Facts)
        if facts.version != VERSION:
            raise CheckpointError(f"{source} is a {kind} of version {facts.version}; update mi_duck")
        digest = hashlib.sha256(b"".join(name.encode() + data for name, data in sorted(parts.items()))).hexdigest()
        made = _classifier if kind == CLASSIFIER else _blend
        return made(facts, parts, source, digest, trust_pickle)
    except (ValueError, KeyError, TypeError, AttributeError, msgspec.ValidationError) as error:
        raise CheckpointError(f"{source} is not a model that mi_duck wrote: {error!s:.200}") from error


def _numbers_alone(thresholds: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return thresholds without what they reach, which the first files of this version have beside each."""
    return {
        name: {kind: one["threshold"] if isinstance(one, dict) else one for kind, one in kinds.items()}
        for name, kinds in thresholds.items()
    }


def _classifier(
    facts: _Facts, parts: Mapping[str, bytes], source: str, digest: str, trust_pickle: bool
) -> ClassifierModel:
    preparation = Preparation.of_parts(parts, len(facts.features))
    n_classes = len(facts.classes)
    if n_classes < 2 or len(facts.calibrators) != n_classes:
        raise ValueError("classes and calibrators do not agree")
    fitted = fitted_of(
        facts.form, parts, n_columns=preparation.n_columns, n_classes=n_classes, trust_pickle=trust_pickle
    )
    return ClassifierModel(
        tuple(facts.features),
        tuple(facts.classes),
        facts.estimator,
        preparation,
        fitted,
        tuple(Calibrator.from_dict(one) for one in facts.calibrators),
        Encoding.from_dict(facts.encoding),
        TrainingData(
            *(facts.gene_column, parts["genes.bin"]), tuple(facts.incomplete_features), tuple(facts.unused_features)
        ),
        facts.thresholds,
        facts.n_genes,
        digest,
    )


def _blend(facts: _Facts, parts: Mapping[str, bytes], source: str, digest: str, trust_pickle: bool) -> BlendModel:
    members = tuple(
        model_of_parts(
            unpack(parts[f"member_{number}.miduck"], f"{source}, {name}"),
            f"{source}, {name}",
            trust_pickle=trust_pickle,
        )
        for number, name in enumerate(facts.names)
    )
    if len(facts.weights) != len(members) or any(tuple(one.classes) != tuple(facts.classes) for one in members):
        raise ValueError("weights, members and classes do not agree")
    return BlendModel(
        tuple(facts.classes),
        tuple(facts.names),
        members,
        tuple(facts.weights),
        tuple(Calibrator.from_dict(one) for one in facts.calibrators),
        facts.thresholds,
        digest,
    )


def checked_model(path: Path) -> tuple[str, TrainingData | None]:
    """Return in words what a classifier's or a blend's file holds, and the genes of its model.

    These are None where a pickle would have to be read to know them, which is not done.

    Raises
    ------
    CheckpointError
        The file is damaged.
    """
    parts = read_parts(path)
    if _has_pickle(parts, str(path)):
        return f"{len(parts)} parts; its classifier is a pickle, which was not read", None
    model = model_of_parts(parts, str(path), trust_pickle=False)
    return repr(model), model.training


def _has_pickle(parts: Mapping[str, bytes], source: str) -> bool:
    members = [data for name, data in parts.items() if name.startswith("member_")]
    return PICKLE in parts or any(_has_pickle(unpack(data, source), source) for data in members)


def with_thresholds(data: bytes, source: str, thresholds: Mapping[str, Mapping[str, float | None]]) -> bytes:
    """Return the file of an instance's model as that of the run: the same model, with its thresholds."""
    parts = unpack(data, source)
    facts = json.loads(parts["model.json"]) | {"thresholds": thresholds}
    return pack(parts | {"model.json": json.dumps(facts, sort_keys=True).encode()})
