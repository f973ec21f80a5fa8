"""Joins instances into one model: members, weights, voting; features matched by name, always.

Nothing here touches files; `mi_duck.ensemble.model_files` writes and reads models.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import xgboost as xgb
from numpy.typing import NDArray

from mi_duck.errors import CheckpointError, DataError
from mi_duck.train.calibrate import Calibrator, probabilities


@dataclass(frozen=True, slots=True)
class InstanceModel:
    """The final model of one instance: one one-vs-rest booster and one calibrator a class.

    Parameters
    ----------
    features, classes
        Names; the order of columns and of probabilities.
    boosters, calibrators
        One a class.
    metadata
        Instance number, genes, rows, rounds.
    """

    features: tuple[str, ...]
    classes: tuple[str, ...]
    boosters: tuple[xgb.Booster, ...]
    calibrators: tuple[Calibrator, ...]
    metadata: dict[str, Any]

    def as_ensemble(self) -> "ConsolidatedMetaModel":
        """Return the ensemble of this one member: the same probabilities, the whole interface."""
        return ConsolidatedMetaModel((self,), (1.0,), "single", {}, self.metadata["n_genes"])

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

    @property
    def instance_weights(self) -> list[float]:
        """Weight of this model, under its other name."""
        return [1.0]

    @property
    def consolidation_method(self) -> str:
        """``single``: there is nothing to join."""
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
    def thresholds(self) -> dict[str, float]:
        """None: they are fitted on the whole run."""
        return {}

    def margins(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return log-odds of each class against the rest, shape (n_rows, n_classes)."""
        return np.column_stack([booster.inplace_predict(matrix, predict_type="margin") for booster in self.boosters])

    def predict_proba(self, rows: Any) -> NDArray[np.float32]:
        """Return calibrated probabilities, shape (n_rows, n_classes), float32; rows sum to 1."""
        matrix = feature_matrix(rows, self.features)
        return probabilities(self.margins(matrix), self.calibrators).astype(np.float32)

    def predict(self, rows: Any) -> NDArray[np.int64]:
        """Return the index of the most probable class, shape (n_rows,)."""
        return np.asarray(self.predict_proba(rows).argmax(axis=1))

    def get_feature_names(self) -> list[str]:
        """Return the features in the order of columns."""
        return list(self.features)

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


@dataclass(frozen=True, slots=True)
class ConsolidatedMetaModel:
    """The ensemble of all instances, with the interface of a single model.

    Parameters
    ----------
    members
        One model an instance, all with the same features and classes.
    weights
        Weight of each member; they sum to 1.
    voting
        ``probability``: the weighted mean of the members' calibrated probabilities.
    thresholds
        For each class the probability from which out-of-fold F1 is best.
    n_genes
        Genes that at least one member was trained on.
    """

    members: tuple[InstanceModel, ...]
    weights: tuple[float, ...]
    voting: str
    thresholds: dict[str, float]
    n_genes: int

    @property
    def features(self) -> tuple[str, ...]:
        """Feature names in the order of columns."""
        return self.members[0].features

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of probabilities."""
        return self.members[0].classes

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

    @property
    def instance_weights(self) -> list[float]:
        """Weight of each member, under its other name."""
        return list(self.weights)

    @property
    def consolidation_method(self) -> str:
        """How votes are joined."""
        return self.voting

    @property
    def instance_metadata(self) -> list[dict[str, Any]]:
        """Instance number, genes, rows and rounds of each member."""
        return [member.metadata for member in self.members]

    @property
    def total_genes_covered(self) -> int:
        """Genes that at least one member was trained on."""
        return self.n_genes

    def predict_members(self, rows: Any) -> NDArray[np.float64]:
        """Return the probabilities of every member, shape (n_members, n_rows, n_classes)."""
        matrix = feature_matrix(rows, self.features)
        return np.stack([probabilities(member.margins(matrix), member.calibrators) for member in self.members])

    def predict_proba(self, rows: Any) -> NDArray[np.float32]:
        """Return probabilities, shape (n_rows, n_classes), float32; rows sum to 1.

        Parameters
        ----------
        rows
            An Arrow table or record batch, a pandas data frame, a mapping of name to values: columns are found by name,
            others are ignored. Or a NumPy array with exactly the features, in their order.

        Raises
        ------
        DataError
            A feature is missing, or an array has another width.
        """
        return vote(self.predict_members(rows), self.weights).astype(np.float32)

    def predict(self, rows: Any) -> NDArray[np.int64]:
        """Return the index of the most probable class, shape (n_rows,)."""
        return np.asarray(self.predict_proba(rows).argmax(axis=1))

    def get_feature_names(self) -> list[str]:
        """Return the features in the order of columns."""
        return list(self.features)

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
        matrix = feature_matrix(rows, self.features)
        background = None if background_data is None else feature_matrix(background_data, self.features)
        by_class = np.zeros((len(self.classes), len(self.features)))
        for member, weight in zip(self.members, self.weights, strict=True):
            for index, booster in enumerate(member.boosters):
                by_class[index] += weight * np.abs(shap_values(booster, matrix, background)).mean(axis=0)
        found = {name: _by_name(self.features, by_class[index]) for index, name in enumerate(self.classes)}
        return found | {"ensemble": _by_name(self.features, by_class.mean(axis=0))}


def _by_name(features: Sequence[str], values: NDArray[np.float64]) -> dict[str, float]:
    return dict(zip(features, (float(value) for value in values), strict=True))


def shap_values(
    booster: xgb.Booster, matrix: NDArray[np.float32], background: NDArray[np.float32] | None = None
) -> NDArray[np.float64]:
    """Return SHAP values of a booster's margin, shape (n_rows, n_features), checked to add up to it.

    References
    ----------
    Lundberg et al., From local explanations to global understanding with explainable AI for trees (2020): exact TreeSHAP,
    path-dependent without a background, interventional with one.
    """
    margin = booster.inplace_predict(matrix, predict_type="margin")
    values: NDArray[np.float64]
    if background is None:
        parts = booster.predict(xgb.DMatrix(matrix), pred_contribs=True).astype(np.float64)
        values, base = parts[:, :-1], parts[:, -1]
    else:
        try:
            import shap
        except ImportError as error:
            raise DataError("a background needs the shap package: pip install 'mi-duck[shap]'") from error
        explainer = shap.TreeExplainer(booster, data=background, feature_perturbation="interventional")
        values = np.asarray(explainer.shap_values(matrix), dtype=np.float64)
        base = np.full(len(matrix), float(np.ravel(explainer.expected_value)[0]))
    gap = np.abs(values.sum(axis=1) + base - margin) / np.maximum(1, np.abs(margin))
    if gap.size and gap.max() > 1e-4:
        raise DataError(f"SHAP values miss the margin by {gap.max():.1e}; they would mislead, so none are given")
    return values


def vote(chances: NDArray[np.float64], weights: Sequence[float]) -> NDArray[np.float64]:
    """Return the weighted mean over members of probabilities, shape (n_members, n_rows, n_classes) in."""
    mean: NDArray[np.float64] = np.einsum("m,mrc->rc", np.asarray(weights), chances)
    return mean


def feature_matrix(rows: Any, features: Sequence[str]) -> NDArray[np.float32]:
    """Return rows as a float32 matrix in the order of features; missing values are NaN.

    Raises
    ------
    DataError
        A feature is missing or no number, an array has another width, a value is infinite or too large for float32.
    """
    if isinstance(rows, np.ndarray):
        if rows.ndim != 2 or rows.shape[1] != len(features):
            raise DataError(
                f"an array of shape {rows.shape} cannot be {len(features)} features; name the columns instead"
            )
        if rows.dtype.kind not in "biuf":
            raise DataError(f"an array of {rows.dtype} holds no numbers; convert it, with NaN for missing values")
        with np.errstate(over="ignore"):
            matrix = np.ascontiguousarray(rows, dtype=np.float32)
    else:
        if isinstance(rows, pa.Table | pa.RecordBatch):
            names = set(rows.schema.names)
        elif isinstance(rows, Mapping):
            names = set(rows)
        elif hasattr(rows, "columns"):
            names = set(rows.columns)
        else:
            raise DataError(
                f"rows of type {type(rows).__name__} have no named columns; give an Arrow table or a data frame"
            )
        missing = [name for name in features if name not in names]
        if missing:
            raise DataError(
                f"feature(s) {', '.join(missing[:8])} missing of {len(features)} that the model was trained on"
            )
        n_rows = len(rows) if not isinstance(rows, Mapping) else np.size(rows[features[0]])
        matrix = np.empty((n_rows, len(features)), dtype=np.float32)
        for place, name in enumerate(features):
            try:
                column = _numbers(rows[name])
                if column.shape != (n_rows,):
                    raise ValueError(f"its shape is {column.shape}")
                # what is too large for float32 becomes infinite, which is refused below
                with np.errstate(over="ignore"):
                    matrix[:, place] = column
            except (TypeError, ValueError, KeyError, pa.ArrowInvalid) as error:
                raise DataError(f"feature '{name}' is no column of {n_rows:,} numbers: {error}") from error
    if np.isinf(matrix).any():
        bad = features[int(np.flatnonzero(np.isinf(matrix).any(axis=0))[0])]
        raise DataError(f"infinite value, or one too large for float32, in feature '{bad}'; replace it by null")
    return matrix


def _numbers(column: Any) -> Any:
    """Return a column as NumPy numbers; nulls become NaN, text and dates are refused even where they look like numbers."""
    if isinstance(column, pa.Array | pa.ChunkedArray):
        if pa.types.is_boolean(column.type) or pa.types.is_null(column.type):
            column = column.cast(pa.float32())
        column = column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(zero_copy_only=False)
    elif not hasattr(column, "dtype"):
        column = np.asarray(column)
    if column.dtype.kind not in "biuf":
        raise TypeError(f"its values are {column.dtype}")
    return column if isinstance(column, np.ndarray) else column.to_numpy(dtype=np.float64, na_value=np.nan)


def consolidate(
    members: Sequence[InstanceModel], *, n_genes: int, thresholds: Mapping[str, float]
) -> ConsolidatedMetaModel:
    """Join instances with equal weights.

    Raises
    ------
    CheckpointError
        Members differ in features or classes.
    """
    for member in members[1:]:
        if member.features != members[0].features or member.classes != members[0].classes:
            raise CheckpointError("the instances differ in features or classes; train them in one run")
    weight = 1 / len(members)
    return ConsolidatedMetaModel(tuple(members), (weight,) * len(members), "probability", dict(thresholds), n_genes)
