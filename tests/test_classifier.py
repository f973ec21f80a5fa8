"""`EnsembleClassifier` keeps the contract of scikit-learn, and never scores a row by what saw its group."""

import inspect
import pickle
import threading
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibrationDisplay  # noqa: F401  as a user would; figures are not drawn here
from sklearn.exceptions import NotFittedError
from sklearn.inspection import permutation_importance
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.utils.estimator_checks import check_estimator

import mi_duck.data.genes
from mi_duck import EnsembleClassifier
from mi_duck.api.classifier import OPTIONS

QUICK: dict[str, Any] = {"n_estimators": 10, "n_folds": 2, "threads": 1}
TOO_FEW = "at least 10 are needed"
"""Of every class in every fold: fewer could be neither calibrated nor scored, so fits of 20 rows are refused."""


def rows(n: int = 600, *, noise: float = 1.0) -> tuple[Any, Any, Any]:
    """Return X, y, groups: three classes, 60 groups, one column that carries the label."""
    rng = np.random.default_rng(0)
    y = np.array(["sick", "healthy", "?"])[rng.integers(0, 3, n)]
    x = np.column_stack([(y == "sick") + noise * rng.normal(size=n), rng.normal(size=n)])
    return x, y, np.arange(n) // (n // 60)


@pytest.fixture(scope="module")
def fitted() -> EnsembleClassifier:
    """Fit a classifier to `rows`."""
    x, y, groups = rows()
    return EnsembleClassifier(**QUICK).fit(x, y, groups=groups)


# ---- the contract ---------------------------------------------------------------------------------------------------------

FEW_ROWS = (
    "fits some twenty rows: every fold needs 10 rows of every class, or it could be neither calibrated nor scored"
)
EXPECTED = {
    **dict.fromkeys(
        (
            "check_classifier_data_not_an_array",
            "check_classifiers_classes",
            "check_dict_unchanged",
            "check_dont_overwrite_parameters",
            "check_dtype_object",
            "check_estimators_dtypes",
            "check_estimators_fit_returns_self",
            "check_estimators_overwrite_params",
            "check_estimators_pickle",
            "check_f_contiguous_array_estimator",
            "check_fit2d_predict1d",
            "check_fit_score_takes_y",
            "check_methods_sample_order_invariance",
            "check_methods_subset_invariance",
            "check_n_features_in_after_fitting",
            "check_pipeline_consistency",
            "check_readonly_memmap_input",
            "check_sample_weights_list",
            "check_sample_weights_not_an_array",
            "check_sample_weights_not_overwritten",
            "check_sample_weights_pandas_series",
            "check_sample_weights_shape",
            "check_supervised_y_2d",
        ),
        FEW_ROWS,
    ),
    "check_sample_weight_equivalence_on_dense_data": "sets cv to lists of rows; here it is how matrices of folds are made",
    "check_fit2d_1feature": "ten rows of one column, of which a fold may have one class alone",
}
"""Checks of scikit-learn that fail, and why that is right."""


def failing_checks() -> dict[str, str]:
    """Return the checks of scikit-learn that fail, with what they say; at least 27 pass."""
    found = check_estimator(EnsembleClassifier(**QUICK), on_fail=None, on_skip=None)
    assert sum(one["status"] == "passed" for one in found) >= 27
    return {
        one["check_name"]: f"{one['exception']} {one['exception'].__context__}"
        for one in found
        if one["status"] == "failed"
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_checks_of_scikit_learn__pass_where_rows_are_enough() -> None:
    """Those that fit some twenty rows are refused in these words; nothing else may fail."""
    failed = failing_checks()
    assert failed.keys() <= EXPECTED.keys(), failed.keys() - EXPECTED.keys()
    few = {name: words for name, words in failed.items() if EXPECTED[name] == FEW_ROWS}
    assert [name for name, words in few.items() if TOO_FEW not in words] == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_checks_of_scikit_learn__pass_with_few_rows_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them but one, with the rule taken away."""
    monkeypatch.setattr(mi_duck.data.genes, "ROWS_PER_CLASS", 1)
    assert failing_checks().keys() <= {name for name, words in EXPECTED.items() if words != FEW_ROWS}


def test_parameters__are_the_options_with_their_defaults() -> None:
    names = list(inspect.signature(EnsembleClassifier).parameters)
    assert sorted(names) == sorted(["preset", *OPTIONS])
    one = EnsembleClassifier(n_folds=5, xgb={"gamma": 1})
    assert one.get_params()["n_folds"] == 5
    assert clone(one).get_params() == one.get_params()
    assert "n_folds : a whole number" in (EnsembleClassifier.__doc__ or "")
    assert repr(one) == "EnsembleClassifier(n_folds=5, xgb={'gamma': 1})"
    with pytest.raises(TypeError, match="did you mean 'n_estimators'"):
        EnsembleClassifier(n_estimator=3)


def test_preset__fills_in_what_is_at_its_default() -> None:
    """Trees of depth 2 with the preset `levels`, of depth 1 where that is asked for, too."""
    x, y, groups = rows()
    for options, depth in (({}, 2), ({"max_depth": 1}, 1)):
        model = EnsembleClassifier(preset="levels", n_folds=2, n_estimators=10, threads=1, **options)
        boosters = model.fit(x, y, groups=groups).model_.get_base_models()
        lines = [line for booster in boosters for tree in booster.get_dump() for line in tree.splitlines()]
        assert max(line.count("\t") for line in lines) == depth
    assert clone(model).preset == "levels"


def test_fit__again_gives_the_same(fitted: EnsembleClassifier) -> None:
    """Also in another thread, where steps are processes of their own, and after a pickle."""
    x, y, groups = rows()
    proba = fitted.predict_proba(x)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(clone(fitted).fit(x, y, groups=groups).predict_proba(x)))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0], proba)
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(x), proba)
    np.testing.assert_array_equal(again.predict(x), fitted.predict(x))


def test_predict__gives_labels_of_any_kind(fitted: EnsembleClassifier) -> None:
    x, y, groups = rows()
    assert fitted.classes_.tolist() == ["?", "healthy", "sick"]
    assert set(fitted.predict(x)) <= set(fitted.classes_)
    np.testing.assert_allclose(fitted.predict_proba(x).sum(axis=1), 1, atol=1e-12)
    assert roc_auc_score(y == "sick", fitted.predict_proba(x)[:, 2]) > 0.7
    for labels in (y == "sick", np.where(y == "sick", 7, -2), np.where(y == "sick", "All", "a, b")):
        other = EnsembleClassifier(**QUICK | {"n_estimators": 2}).fit(x, labels, groups=groups)
        assert other.classes_.tolist() == np.unique(labels).tolist()
        assert other.predict(x).dtype == labels.dtype
        assert (
            roc_auc_score(
                labels == labels[y == "sick"][0],
                other.predict_proba(x)[:, list(other.classes_).index(labels[y == "sick"][0])],
            )
            > 0.7
        )


def test_data_frame__of_any_names_keeps_them() -> None:
    """Names that mean something in a table on disk are features here."""
    import pandas as pd

    x, y, groups = rows()
    names = ["position", "sick_score", "gene_id", "group"]
    frame = pd.DataFrame(np.column_stack([x, x]), columns=names)
    frame.loc[::7, "position"] = np.nan
    model = EnsembleClassifier(**QUICK | {"n_estimators": 2}).fit(frame, y, groups=groups)
    assert model.feature_names_in_.tolist() == names
    assert model.feature_importances_.shape == (4,)
    assert model.predict(frame).shape == (len(y),)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame.rename(columns={"group": "other"}))


# ---- honesty --------------------------------------------------------------------------------------------------------------


def test_out_of_fold__never_saw_the_group() -> None:
    """Rows of a group are alike, and its label is drawn: with groups there is nothing to learn, and without them everything."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(60), 20)
    y = rng.permutation(np.arange(60) % 2)[groups]
    x = rng.normal(size=(60, 3))[groups] + 0.01 * rng.normal(size=(1200, 3))
    areas = []
    for given in (groups, None):
        model = EnsembleClassifier(**QUICK | {"n_estimators": 60}).fit(x, y, groups=given)
        areas.append(roc_auc_score(y, model.out_of_fold_proba_[:, 1]))
    assert 0.3 < areas[0] < 0.7
    assert areas[1] > 0.95


def test_out_of_fold__is_in_the_order_of_the_rows(fitted: EnsembleClassifier) -> None:
    x, y, groups = rows(noise=0.01)
    model = EnsembleClassifier(**QUICK).fit(x, y, groups=groups)
    is_sick = model.out_of_fold_proba_[:, model.classes_.tolist().index("sick")] > 0.5
    assert (is_sick == (y == "sick")).mean() > 0.99
    x, y, groups = rows()
    assert log_loss(y, fitted.out_of_fold_proba_, labels=fitted.classes_) < 1.09  # chance is log 3, 1.0986


def test_weights__of_rows_count(fitted: EnsembleClassifier) -> None:
    """Ones change nothing; a class of much weight is predicted more often, and rows of no weight are as good as absent."""
    x, y, groups = rows()
    ones = clone(fitted).fit(x, y, groups=groups, sample_weight=np.ones(len(y)))
    np.testing.assert_array_equal(ones.predict_proba(x), fitted.predict_proba(x))
    heavy = clone(fitted).fit(x, y, groups=groups, sample_weight=np.where(y == "sick", 5.0, 1.0))
    shares = [one.out_of_fold_proba_[:, 2].mean() for one in (fitted, heavy)]
    assert shares[0] < 0.4 < 0.6 < shares[1]
    is_odd = np.arange(len(y)) % 5 == 0
    turned = np.where(is_odd, np.roll(y, 1), y)
    ignored = clone(fitted).fit(x, turned, groups=groups, sample_weight=np.where(is_odd, 0.0, 1.0))
    assert log_loss(y, ignored.out_of_fold_proba_, labels=fitted.classes_) < 1.09
    with pytest.raises(
        ValueError, match=r"sample_weight of row 0 \(from 0\) is -1, .* weights must be finite and not negative"
    ):
        clone(fitted).fit(x, y, groups=groups, sample_weight=np.where(is_odd, -1.0, 1.0))
    with pytest.raises(ValueError, match="weight"):
        clone(fitted).fit(x, y, groups=groups, sample_weight=np.where(y == "sick", 0.0, 1.0))


def test_scikit_learn__uses_it() -> None:
    import sklearn

    x, y, groups = rows()
    with sklearn.config_context(enable_metadata_routing=True):
        model = EnsembleClassifier(**QUICK).set_fit_request(groups=True)
        scores = cross_val_score(model, x, y, params={"groups": groups}, cv=GroupKFold(2))
    assert scores.shape == (2,)
    model = EnsembleClassifier(**QUICK).fit(x, y, groups=groups)
    found = permutation_importance(model, x, y, n_repeats=1, random_state=0)
    assert found.importances_mean[0] > found.importances_mean[1]


# ---- what is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_folds": 1}, "n_folds must be a whole number"),
        ({"strategy": "mutli"}, "did you mean 'multi'"),
        ({"preset": "fats"}, "did you mean 'fast'"),
        ({"xgb": {"eta": 1}}, "option of its own"),
        ({"n_folds": 90}, "--n-folds 90 is too many"),
    ],
)
def test_fit__refuses_wrong_options_as_values(options: dict[str, Any], words: str) -> None:
    x, y, groups = rows()
    with pytest.raises(ValueError, match=words):
        EnsembleClassifier(**QUICK | options).fit(x, y, groups=groups)


def test_constraints__know_features_by_the_names_of_the_user() -> None:
    """A name that ends as base scores do has another in the table, which the user does not know."""
    pandas = pytest.importorskip("pandas")
    x, y, groups = rows()
    is_sick = y == "sick"
    frame = pandas.DataFrame(x, columns=["dose_score", *(f"x{index}" for index in range(1, x.shape[1]))])
    risen = {}
    for sign in (-1, 1):
        xgb = {"monotone_constraints": {"dose_score": sign} if sign > 0 else f"dose_score:{sign}"}
        model = EnsembleClassifier(**QUICK | {"xgb": xgb}).fit(frame, is_sick, groups=groups)
        grid = pandas.DataFrame(np.repeat(frame.to_numpy()[:1], 50, axis=0), columns=frame.columns)
        grid["dose_score"] = np.linspace(-3, 3, 50)
        risen[sign] = np.sign(np.diff(model.predict_proba(grid)[:, 1]))
    assert (risen[1] >= 0).all()
    assert (risen[-1] <= 0).all()


def test_fit__refuses_data_that_cannot_be_used() -> None:
    x, y, groups = rows()
    with pytest.raises(ValueError, match="has one class"):
        EnsembleClassifier(**QUICK).fit(x, np.zeros(len(y)))
    for lost in (
        np.where(np.arange(len(y)) < 7, np.nan, groups),
        np.where(np.arange(len(y)) < 7, None, groups.astype(str)),
    ):
        with pytest.raises(ValueError, match="groups has 7 missing values"):
            EnsembleClassifier(**QUICK).fit(x, y, groups=lost)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        EnsembleClassifier(**QUICK).fit(x, y, groups=groups[:-1])
    with pytest.raises(ValueError, match="infinity"):
        EnsembleClassifier(**QUICK).fit(np.where(x > 2, np.inf, x), y)
    with pytest.raises(ValueError, match=TOO_FEW):
        EnsembleClassifier(**QUICK).fit(x[:20], y[:20])
    with pytest.raises(NotFittedError):
        EnsembleClassifier(**QUICK).predict(x)
