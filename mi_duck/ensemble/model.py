"""The models that users predict with: one instance, or all instances joined into one ensemble by a weighted vote.

Rows come as users have them, an Arrow table, a data frame or an array; features are matched by name, always. Nothing here
touches files; `mi_duck.ensemble.model_file` writes and reads models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xgboost as xgb

from mi_duck.boosting.forest import Forest, forest_of
from mi_duck.ensemble.feature_matrix import feature_matrices, feature_matrix
from mi_duck.ensemble.interface import NamedClasses
from mi_duck.ensemble.shap import explain
from mi_duck.errors import CheckpointError
from mi_duck.metrics.calibrate import Calibrator, calibrated, log_odds
from mi_duck.metrics.ranking import Floats, Floats32, Floats64
from mi_duck.resources import usable_cores
from mi_duck.run.encoding import Encoding
from mi_duck.run.made import Made
from mi_duck.run.recipe import Recipe
from mi_duck.run.training_data import TrainingData, joined

MODEL_VOTINGS = ("probability", "margin", "refit", "single", "distilled")
ADDITIVE = ("margin", "refit", "distilled")
"""Votings that join margins, before they are calibrated."""


@dataclass(frozen=True, slots=True, repr=False)
class InstanceModel(NamedClasses):
    """The final model of one instance: one one-vs-rest booster and one calibrator per class.

    Parameters
    ----------
    features, classes
        Names; the order of columns and of probabilities.
    boosters, calibrators
        One per class.
    metadata
        ``instance_id``, ``n_genes``, ``n_rows``, ``n_training_rows``, and ``rounds`` per class.
    encoding
        What counts as missing.
    training
        Which genes it was trained on, and which features had missing values.
    """

    features: tuple[str, ...]
    classes: tuple[str, ...]
    boosters: tuple[xgb.Booster, ...]
    calibrators: tuple[Calibrator, ...]
    metadata: dict[str, Any]
    encoding: Encoding = Encoding()
    training: TrainingData = TrainingData()
    _forest: list[Forest] = field(default_factory=list, init=False, repr=False, compare=False)

    def __repr__(self) -> str:
        """Return what the model was trained on, in one line."""
        facts = self.metadata
        return f"InstanceModel({facts['n_genes']:,} genes, {facts['n_rows']:,} rows, {_shape(self)})"

    @property
    def forest(self) -> Forest:
        """The boosters joined for prediction, once they are needed."""
        if not self._forest:
            self._forest.append(forest_of(self.boosters, self.features, self.encoding))
        return self._forest[0]

    @property
    def recipe(self) -> Recipe | None:
        """None: only the model of a whole run says how its features are made of sequence."""
        return None

    def as_ensemble(self) -> "ConsolidatedMetaModel":
        """Return the ensemble of this one member: the same probabilities, the whole interface."""
        return ConsolidatedMetaModel((self,), (1.0,), "single", {}, self.metadata["n_genes"])

    @property
    def made(self) -> tuple[Made, ...]:
        """Columns of texts and dates of which features are made."""
        return self.encoding.made

    @property
    def total_instances(self) -> int:
        """One."""
        return 1

    @property
    def instance_models(self) -> list["InstanceModel"]:
        """Return the model itself as its only member."""
        return [self]

    @property
    def voting_weights(self) -> list[float]:
        """Weight of this model: all of it."""
        return [1.0]

    instance_weights = voting_weights  # the same under another name

    @property
    def consolidation_method(self) -> str:
        """``single``: nothing is joined."""
        return "single"

    @property
    def instance_metadata(self) -> list[dict[str, Any]]:
        """Instance number, genes, rows and rounds."""
        return [self.metadata]

    @property
    def total_genes_covered(self) -> int:
        """Genes that the model was trained on."""
        return int(self.metadata["n_genes"])

    @property
    def thresholds(self) -> dict[str, dict[str, float | None]]:
        """Empty: thresholds are fitted on the whole run."""
        return {}

    def margins(self, rows: Any, *, threads: int | None = None) -> Floats32:
        """Return log-odds of each class against the rest, shape (n_rows, n_classes)."""
        return _margins(self.forest, rows, self.features, threads, self.made)

    def predict_proba(self, rows: Any, *, threads: int | None = None) -> Floats32:
        """Return calibrated probabilities, as an ensemble does: see `ConsolidatedMetaModel.predict_proba`."""
        return calibrated(self.margins(rows, threads=threads), self.calibrators).astype(np.float32)

    def get_base_models(self) -> list[xgb.Booster]:
        """Return the boosters in the order of classes."""
        return list(self.boosters)

    def get_comprehensive_shap_models(self) -> dict[str, dict[str, Any]]:
        """Return every booster by class, as an ensemble of one instance does."""
        return self.as_ensemble().get_comprehensive_shap_models()

    def compute_ensemble_shap_importance(
        self, rows: Any, background_data: Any | None = None
    ) -> dict[str, dict[str, float]]:
        """Return mean absolute SHAP values, as an ensemble of one instance does."""
        return self.as_ensemble().compute_ensemble_shap_importance(rows, background_data)


@dataclass(frozen=True, slots=True, repr=False)
class ConsolidatedMetaModel(NamedClasses):
    """The ensemble of all instances, with the interface of a single model.

    Parameters
    ----------
    members
        One model per instance, all with the same features and classes.
    weights
        Weight of each member; they sum to 1.
    voting
        ``probability``: the weighted mean of the members' calibrated probabilities, its log-odds calibrated on top where that
        helps. ``margin``: the weighted mean of their log-odds for each class, calibrated once on top and normalised.
        ``refit``: the same with leaves that were fitted together (`mi_duck.ensemble.refit`). ``single``: one member's own.
        ``distilled``: the same of one member that was fitted to an ensemble (`mi_duck.ensemble.distil`), calibrated on top.
    thresholds
        For each class the probability from which it is called: for the best F1, a precision of 0.9, a recall of 0.9, all
        from out-of-fold predictions; None where that is out of reach. See `mi_duck.metrics.ranking`.
    n_genes
        Genes that at least one member was trained on.
    calibrators
        On top, one per class; none for ``probability`` where they did not help, and for ``single``.
    recipe
        How features are made of sequence, where the dataset was built from one.
    """

    members: tuple[InstanceModel, ...]
    weights: tuple[float, ...]
    voting: str
    thresholds: dict[str, dict[str, float | None]]
    n_genes: int
    calibrators: tuple[Calibrator, ...] = ()
    recipe: Recipe | None = None
    _forest: list[Forest] = field(default_factory=list, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse an unknown voting, and one without its calibrators."""
        if self.voting not in MODEL_VOTINGS:
            raise CheckpointError(
                f"a model of voting {self.voting!r:.40}; this program knows {', '.join(MODEL_VOTINGS)}"
            )
        all_classes = (len(self.classes),)
        allowed = dict.fromkeys(ADDITIVE, all_classes) | {"probability": (0, len(self.classes)), "single": (0,)}
        if len(self.calibrators) not in allowed[self.voting]:
            raise CheckpointError(f"a model of {self.voting} voting has {len(self.calibrators)} calibrators on top")

    def __repr__(self) -> str:
        """Return what the model is made of, in one line."""
        several = "instances" if len(self.members) > 1 else "instance"
        made_of = f"{len(self.members)} {several} of {self.n_genes:,} genes, {self.consolidation_method}"
        return f"ConsolidatedMetaModel({made_of}, {_shape(self)})"

    @property
    def features(self) -> tuple[str, ...]:  # type: ignore[override]
        """Feature names in the order of columns."""
        return self.members[0].features

    @property
    def classes(self) -> tuple[str, ...]:  # type: ignore[override]
        """Class names in the order of probabilities."""
        return self.members[0].classes

    @property
    def made(self) -> tuple[Made, ...]:
        """Columns of texts and dates of which features are made."""
        return self.members[0].encoding.made

    @property
    def training(self) -> TrainingData:
        """Which genes any member was trained on, and which features had missing values or are not used."""
        return joined([member.training for member in self.members])

    @property
    def forest(self) -> Forest:
        """The boosters of all members joined for prediction, once they are needed."""
        if not self._forest:
            self._forest.append(forest_of(self.get_base_models(), self.features, self.members[0].encoding))
        return self._forest[0]

    @property
    def total_instances(self) -> int:
        """Number of members."""
        return len(self.members)

    @property
    def instance_models(self) -> list[InstanceModel]:
        """The members."""
        return list(self.members)

    @property
    def voting_weights(self) -> list[float]:
        """Weight of each member."""
        return list(self.weights)

    instance_weights = voting_weights  # the same under another name

    @property
    def consolidation_method(self) -> str:
        """``joint_refit`` where leaves were fitted together, ``weighted_voting``, ``single`` or ``distilled``."""
        return {"refit": "joint_refit", "probability": "weighted_voting", "margin": "weighted_voting"}.get(
            self.voting, self.voting
        )

    @property
    def is_additive(self) -> bool:
        """Whether the ensemble is one sum of trees: the mean of its members' margins, calibrated on top."""
        return self.voting in ADDITIVE

    @property
    def instance_metadata(self) -> list[dict[str, Any]]:
        """Instance number, genes, rows and rounds of each member."""
        return [member.metadata for member in self.members]

    @property
    def total_genes_covered(self) -> int:
        """Genes that at least one member was trained on."""
        return self.n_genes

    def predict_members(self, rows: Any) -> Floats64:
        """Return the probabilities of every member, shape (n_members, n_rows, n_classes)."""
        return self.probabilities_of_members(self.margins_of_members(rows))

    def margins_of_members(self, rows: Any, *, threads: int | None = None) -> Floats32:
        """Return the log-odds of every member, shape (n_members, n_rows, n_classes)."""
        return by_member(_margins(self.forest, rows, self.features, threads, self.made), len(self.members))

    def probabilities_of_members(self, margins: Floats32) -> Floats64:
        """Return every member's calibrated probabilities from its log-odds, shape (n_members, n_rows, n_classes)."""
        return np.stack(
            [calibrated(own, member.calibrators) for own, member in zip(margins, self.members, strict=True)]
        )

    def join(self, margins: Floats32, probabilities: Floats64 | None = None) -> Floats64:
        """Return the ensemble's probabilities from its members' log-odds, shape (n_rows, n_classes).

        ``probabilities`` are those of the members where they are known already; of an additive ensemble nobody needs them.
        """
        if self.is_additive:
            return calibrated(vote(margins, self.weights).astype(np.float32), self.calibrators)
        mean = vote(self.probabilities_of_members(margins) if probabilities is None else probabilities, self.weights)
        return calibrated(log_odds(mean), self.calibrators) if self.calibrators else mean

    def predict_proba(self, rows: Any, *, threads: int | None = None) -> Floats32:
        """Return probabilities, shape (n_rows, n_classes), float32; rows sum to 1.

        Parameters
        ----------
        rows
            An Arrow table or record batch, a pandas data frame, or a mapping of name to values: columns are found by name,
            others are ignored. Or a NumPy array of shape (n_rows, n_features), with exactly the features in their order.
        threads
            Threads; by default as many as this process has cores. The numbers do not depend on them.

        Raises
        ------
        DataError
            A feature is missing or not a number, an array has another width, or a value is infinite.
        """
        return self.join(self.margins_of_members(rows, threads=threads)).astype(np.float32)

    def get_base_models(self) -> list[xgb.Booster]:
        """Return the boosters of all members, member by member, in the order of classes."""
        return [booster for member in self.members for booster in member.boosters]

    def get_comprehensive_shap_models(self) -> dict[str, dict[str, Any]]:
        """Return every booster by instance and class, with the member's weight and number."""
        return {
            f"instance_{number}": {
                f"{name}_model": booster for name, booster in zip(self.classes, member.boosters, strict=True)
            }
            | {"weight": weight, "instance_id": number}
            for number, (member, weight) in enumerate(zip(self.members, self.weights, strict=True))
        }

    def compute_ensemble_shap_importance(
        self, rows: Any, background_data: Any | None = None
    ) -> dict[str, dict[str, float]]:
        """Return mean absolute SHAP values of the margins, over all members and classes.

        Parameters
        ----------
        rows
            As for `predict_proba`.
        background_data
            Rows of the same form; with them the values are interventional, without them path-dependent.

        Returns
        -------
        dict
            For each class, and for ``ensemble`` (the mean over classes), feature to importance: the mean over rows of
            the absolute value, averaged over members by weight.

        Raises
        ------
        DataError
            Values do not add up to the margins within 1e-4, or the shap package is absent and a background is given.
        """
        background = None if background_data is None else feature_matrix(background_data, self.features, self.made)
        found = explain(
            [member.boosters for member in self.members],
            self.weights,
            encoding=self.members[0].encoding,
            features=self.features,
            matrix=feature_matrix(rows, self.features, self.made),
            background=background,
        )
        by_class = {
            name: _by_name(self.features, one.value) for name, one in zip(self.classes, found.by_class, strict=True)
        }
        return by_class | {"ensemble": _by_name(self.features, found.overall.value)}


def _by_name(features: Sequence[str], values: Floats64) -> dict[str, float]:
    return dict(zip(features, (float(value) for value in values), strict=True))


def _margins(forest: Forest, rows: Any, features: Sequence[str], threads: int | None, made: Sequence[Made]) -> Floats32:
    threads = threads or usable_cores()
    parts = [forest.margins(matrix, threads=threads) for matrix in feature_matrices(rows, features, made)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def by_member(margins: Floats32, n_members: int) -> Floats32:
    """Return a forest's margins, shape (n_rows, n_members * n_classes), as (n_members, n_rows, n_classes)."""
    return np.ascontiguousarray(
        margins.reshape(len(margins), n_members, margins.shape[1] // n_members).transpose(1, 0, 2)
    )


def vote(values: Floats, weights: Sequence[float]) -> Floats64:
    """Return the weighted mean over the first axis of values, shape (n_members, n_rows, n_classes)."""
    mean: Floats64 = np.einsum("m,mrc->rc", np.asarray(weights, dtype=np.float64), values)
    return mean


def _shape(model: NamedClasses) -> str:
    return f"{len(model.features):,} features, classes {', '.join(model.classes)}"


def join_members(
    members: Sequence[InstanceModel],
    *,
    n_genes: int,
    thresholds: Mapping[str, Mapping[str, float | None]],
    voting: str = "probability",
    weights: Sequence[float] | None = None,
    calibrators: Sequence[Calibrator] = (),
    recipe: Recipe | None = None,
) -> ConsolidatedMetaModel:
    """Join instances into one model; by default all members have the same weight.

    Raises
    ------
    CheckpointError
        Members differ in features, classes or in what counts as missing.
    """
    first = members[0]
    for member in members[1:]:
        if (member.features, member.classes, member.encoding) != (first.features, first.classes, first.encoding):
            raise CheckpointError("the instances differ in features, classes or encoding; train them in one run")
    return ConsolidatedMetaModel(
        tuple(members),
        tuple(weights) if weights is not None else (1 / len(members),) * len(members),
        voting,
        {name: dict(kinds) for name, kinds in thresholds.items()},
        n_genes,
        tuple(calibrators),
        recipe,
    )
