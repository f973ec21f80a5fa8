"""`EnsembleClassifier`: the ensemble as a classifier of scikit-learn, for arrays and data frames in memory."""

import json
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d, validate_data

from mi_duck.api.arguments import options_of, records_of, with_options, with_text
from mi_duck.api.showing import showing
from mi_duck.api.tables import write_rows
from mi_duck.data.columns import NOT_FEATURES
from mi_duck.data.dataset import RESERVED, open_columns
from mi_duck.ensemble.model_file import load_unified_model, model_bytes, model_from_bytes
from mi_duck.errors import DataError, PlanError
from mi_duck.executors.anywhere import run_request
from mi_duck.metrics.calibrate import summing_to_one
from mi_duck.metrics.ranking import Floats64
from mi_duck.run.constraints import INTERACTION, MONOTONE, as_json
from mi_duck.run.folder import RunFolder
from mi_duck.run.xgboost_parameters import checked_parameters
from mi_duck.settings import DEFAULT_PRESET, Asked, Columns, Diagnostics, Executing, Preset, Resuming

RECORDS = (Asked, Executing)
OPTIONS = (
    *("train_all_genes", "genes_per_instance", "max_instances", "instance_overlap", "strategy", "screen_features"),
    *("max_memory_per_instance_gb", "memory_safety_factor", "layout", "cv", "n_estimators", "n_folds"),
    *("early_stopping_patience", "max_depth", "learning_rate", "max_bin", "xgb", "seed", "calibrate_per_class"),
    *("consolidation", "voting", "weights", "threads", "workers"),
)
DEFAULTS = {one.name: one.default for one in options_of(RECORDS, OPTIONS)}
GROUP, LABEL, ROW, WEIGHT = "group", "label", "position", "weight"
"""Columns of the table that is trained on, besides the features; a column named ``position`` comes back out of fold."""
SMALL = 64 << 20
"""Bytes of a table below which all steps run in this process: children would take most of the time."""


class EnsembleClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Gene-aware ensemble of XGBoost models: groups of rows are never split between folds.

    `fit` does what ``mi-duck run`` does, in a folder that is deleted afterwards. For tables larger than memory, for base scores,
    reports and explanations use `mi_duck.train`.

    Parameters
    ----------
    preset
        ``fast``, ``balanced``, ``best`` or ``levels``: values for options at their default, see `mi_duck.settings.PRESETS`.
    {options}

    Attributes
    ----------
    classes_
        Labels, sorted, shape (n_classes,).
    out_of_fold_proba_
        Probabilities of the rows that were trained on, by boosters that never saw their group, shape (n_rows, n_classes). For
        honest scores and calibration curves without another cross-validation. NaN for groups that chose the features
        (``screen_features``).
    feature_importances_
        Share of each feature in the gain of all splits, shape (n_features,).
    model_
        The model itself, `mi_duck.ConsolidatedMetaModel`.

    Examples
    --------
    >>> import numpy as np
    >>> from mi_duck import EnsembleClassifier
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(0, 2, 400)
    >>> X = np.column_stack([y + rng.normal(size=400), rng.normal(size=400)])
    >>> patient = np.arange(400) // 10
    >>> model = EnsembleClassifier(n_estimators=20, threads=1).fit(X, y, groups=patient)
    >>> model.predict_proba(X).shape, bool(model.feature_importances_[0] > 0.6)
    ((400, 2), True)
    """

    @with_options(RECORDS, OPTIONS)
    def __init__(self, *, preset: Preset = DEFAULT_PRESET, **options: Any) -> None:
        if unknown := next((name for name in options if name not in DEFAULTS), None):
            records_of(type(self).__name__, {unknown: None}, RECORDS, OPTIONS)  # raises with the nearest name
        self.preset = preset
        for name, value in (DEFAULTS | options).items():
            setattr(self, name, value)

    def fit(self, X: Any, y: Any, groups: Any = None, sample_weight: Any = None) -> Self:  # noqa: N803
        """Train on all rows.

        Parameters
        ----------
        X
            Numbers, shape (n_rows, n_features): an array or a data frame; NaN is a missing value.
        y
            Labels of two or more classes, shape (n_rows,).
        groups
            What must not be split between folds, such as the patient of each row, shape (n_rows,); None: every row is a group
            of its own, which is right where rows are independent.
        sample_weight
            Weight of each row, 0 or more, shape (n_rows,), in training, early stopping, refit, calibration and thresholds, as
            ``--weight-column`` is; None: all the same. Each class needs some weight above 0 in each fold.

        Raises
        ------
        ValueError
            The data cannot be used, or are too few: every fold needs at least 10 rows of every class.
        """
        X, y = validate_data(self, X, y, dtype="numeric", ensure_all_finite="allow-nan")
        check_classification_targets(y)
        self.classes_, codes = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y has one class, {self.classes_.tolist()[0]!r}; a classifier needs two or more")
        if groups is not None:
            groups = column_or_1d(groups)
            check_consistent_length(X, groups)
        if sample_weight is not None:
            sample_weight = column_or_1d(sample_weight, dtype=np.float64)
            check_consistent_length(X, sample_weight)
            bad = np.flatnonzero(~(np.isfinite(sample_weight) & (sample_weight >= 0)))
            if len(bad):
                raise ValueError(
                    f"sample_weight of row {bad[0]:,} (from 0) is {sample_weight[bad[0]]:g}, and {len(bad) - 1:,} more like it; "
                    "weights must be finite and not negative"
                )
            if not sample_weight.any():
                raise ValueError("the weight of every row is zero")
            if len(np.unique(codes[sample_weight != 0])) < 2:
                raise ValueError("only one class of y has rows of a weight above 0; a classifier needs two or more")
        with tempfile.TemporaryDirectory(prefix="mi_duck_") as folder:
            try:
                self._train(Path(folder), X, codes, groups, sample_weight)
            except (DataError, PlanError) as error:
                raise ValueError(str(error)) from error
        return self

    def predict_proba(self, X: Any) -> Floats64:  # noqa: N803
        """Return probabilities in the order of ``classes_``, shape (n_rows, n_classes); rows sum to 1."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype="numeric", ensure_all_finite="allow-nan", reset=False)
        try:
            found = self.model_.predict_proba(np.asarray(X), threads=self.threads)
        except DataError as error:
            raise ValueError(str(error)) from error
        return summing_to_one(found[:, self._order].astype(np.float64))

    def predict(self, X: Any) -> NDArray[Any]:  # noqa: N803
        """Return the most probable label of each row, shape (n_rows,)."""
        best = self.predict_proba(X).argmax(axis=1)  # first: it says so where nothing is fitted yet
        found: NDArray[Any] = self.classes_[best]
        return found

    @property
    def feature_importances_(self) -> Floats64:
        """Share of each feature in the gain of all splits of all boosters, shape (n_features,)."""
        check_is_fitted(self)
        gain = np.zeros(self.n_features_in_)
        for booster in self.model_.get_base_models():
            for name, value in booster.get_score(importance_type="total_gain").items():
                gain[int(name[1:])] += value
        return gain / (gain.sum() or 1.0)

    def _train(self, folder: Path, X: Any, codes: NDArray[Any], groups: Any, weight: Any) -> None:  # noqa: N803
        """Write the table, train on it, and keep the model and the probabilities out of fold."""
        given = {name: getattr(self, name) for name, value in DEFAULTS.items() if getattr(self, name) != value}
        users = getattr(self, "feature_names_in_", None)
        names = _feature_names(users, X.shape[1])
        asked, executing = records_of(type(self).__name__, given, RECORDS, OPTIONS, preset=self.preset)
        parameters = checked_parameters(asked.xgb)
        if users is not None:
            parameters = _with_table_names(parameters, dict(zip(users.tolist(), names, strict=True)))
        asked = replace(asked, xgb=parameters)
        order = np.argsort(-np.bincount(codes), kind="stable")  # of the classes: the most frequent is the background
        classes = _class_names(self.classes_[order])
        columns = {name: pa.array(X[:, index]) for index, name in enumerate(names)}
        label = pa.array(classes).take(pa.array(np.argsort(order)[codes]))
        group = np.arange(len(X)) if groups is None else _numbered(groups)
        columns |= {GROUP: pa.array(group), LABEL: label, ROW: pa.array(np.arange(len(X)))}
        table = pa.table(columns if weight is None else columns | {WEIGHT: pa.array(weight)})
        write_rows(table.to_reader(), folder / "data.parquet")
        of_weight = None if weight is None else WEIGHT
        roles = Columns(gene_column=GROUP, label_column=LABEL, classes=",".join(classes), weight_column=of_weight)
        dataset = open_columns(str(folder / "data.parquet"), roles)
        diagnostics = Diagnostics(minimal_diagnostics=True, skip_shap=True, calibration_analysis=False)
        is_here = table.nbytes < SMALL and threading.current_thread() is threading.main_thread()
        with showing(executing.threads, False) as context:
            context = replace(context, in_this_process=is_here)
            run_request(dataset, folder / "run", asked, context, Resuming(), diagnostics, executing)
        self._order = np.argsort(order)
        self.model_ = load_unified_model(folder / "run")
        # in 64 bits, which the metrics of scikit-learn ask for
        self.out_of_fold_proba_ = summing_to_one(
            _out_of_fold(RunFolder(folder / "run"), classes, len(X))[:, self._order]
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return what a pickle holds: of the model the bytes of its file, which are checked when they are read."""
        state = dict(super().__getstate__())
        if "model_" in state:
            state["model_"] = model_bytes(state["model_"])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take back what `__getstate__` returned."""
        if isinstance(state.get("model_"), bytes):
            state = state | {"model_": model_from_bytes(state["model_"], "a pickle")}
        super().__setstate__(state)

    def __sklearn_tags__(self) -> Any:
        """Say that NaN is a missing value."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


EnsembleClassifier.__doc__ = with_text(EnsembleClassifier.__doc__, RECORDS, OPTIONS)


def _feature_names(given: Any, n_features: int) -> list[str]:
    """Return the names of the columns in the table: the user's own, but for those that are not features there."""
    taken = {*NOT_FEATURES, GROUP, LABEL, ROW, WEIGHT}
    names = [f"x{index}" for index in range(n_features)] if given is None else [str(name) for name in given]
    return [f"feature {name}" if name in taken or name.endswith("_score") else name for name in names]


def _with_table_names(parameters: Sequence[str], name_of: Mapping[str, str]) -> tuple[str, ...]:
    """Return parameters of XGBoost in their one form, with constraints that name columns of the table instead of the user's."""

    def renamed(name: str) -> str:
        if name in name_of:
            return name_of[name]
        of_class, dot, feature = name.partition(".")
        return f"{of_class}.{name_of[feature]}" if dot and feature in name_of else name

    found = []
    for text in parameters:
        name, _, value = text.partition("=")
        if name == MONOTONE:
            value = as_json({renamed(feature): sign for feature, sign in json.loads(value).items()})
        elif name == INTERACTION:
            value = as_json([[renamed(feature) for feature in group] for group in json.loads(value)])
        found.append(f"{name}={value}")
    return tuple(found)


def _numbered(groups: Any) -> NDArray[np.int64]:
    """Return the number of each row's group; refuse rows without one."""
    try:
        n_missing = pa.array(groups, from_pandas=True).null_count
    except (pa.ArrowException, OverflowError):  # of a type that Arrow has not
        n_missing = sum(one is None or one != one for one in groups.tolist())
    if n_missing:
        raise ValueError(f"groups has {n_missing:,} missing values; give every row a group, or leave these rows out")
    numbers: NDArray[np.int64] = np.unique(groups, return_inverse=True)[1]
    return numbers


def _class_names(labels: NDArray[Any]) -> list[str]:
    """Return the names of classes: the labels where they can be names, else numbers with a word before them."""
    names = [str(label) for label in labels]
    lower = [name.lower().strip() for name in names]
    can_be = all(lower) and len(set(lower)) == len(lower) and not set(lower) & set(RESERVED)
    if can_be and not any("," in name or name != name.strip() for name in names):
        return names
    return [f"class {number}" for number in range(len(names))]


def _out_of_fold(folder: RunFolder, classes: list[str], n_rows: int) -> Floats64:
    """Return the probabilities out of fold in the order of the rows, NaN where a row is not scored."""
    table = pq.read_table(folder.out_of_fold)
    found = np.full((n_rows, len(classes)), np.nan)
    is_scored = ~table["is_pilot"].to_numpy()
    rows = table[ROW].to_numpy()[is_scored]
    found[rows] = np.column_stack([table[f"p_{name}"].to_numpy()[is_scored] for name in classes])
    return found
