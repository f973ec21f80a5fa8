"""What counts as missing is a rule of the model: the same in training and wherever the model predicts."""

import csv
import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xgboost as xgb
from runs import partitioned, quiet, trained
from sklearn.metrics import average_precision_score

from mi_duck.archive import read_parts
from mi_duck.boosting.matrix import GeneBatches, cut_reference, without_zeros
from mi_duck.ensemble.model import ConsolidatedMetaModel, InstanceModel, join_members
from mi_duck.ensemble.model_file import load_unified_model, save_model
from mi_duck.ensemble.predict import predict_file
from mi_duck.errors import CheckpointError
from mi_duck.genome.synthetic import synthesise
from mi_duck.metrics.calibrate import calibrated
from mi_duck.rows.segments import SegmentReader
from mi_duck.run.encoding import SENTINEL, Encoding, encoding_of, zeros_to_nan
from mi_duck.run.folder import RunFolder

MATRIX = np.array([[0, 0, 1.5], [2, np.nan, 0], [-0.0, 3, np.nan]], dtype=np.float32)
FEATURES = ("a", "b", "c")
LAYOUTS = ("missing", "zeros", "sentinel")


def equal(one: np.ndarray, other: list[list[float]]) -> bool:
    return bool(np.array_equal(one, np.array(other, dtype=np.float32), equal_nan=True)) and one.dtype == np.float32


def test_apply__without_a_rule_returns_the_matrix_itself() -> None:
    assert Encoding().apply(MATRIX, FEATURES) is MATRIX


def test_apply__zeros_of_the_chosen_columns_become_missing_in_a_copy() -> None:
    before = MATRIX.copy()
    nan = np.nan
    assert equal(Encoding(("a", "c")).apply(MATRIX, FEATURES), [[nan, 0, 1.5], [2, nan, nan], [nan, 3, nan]])
    assert equal(Encoding(("b",)).apply(MATRIX, FEATURES), [[0, nan, 1.5], [2, nan, 0], [0, 3, nan]])
    # by name: the same columns in another order, or some of them
    assert equal(Encoding(("a",)).apply(MATRIX[:, [2, 0]], ("c", "a")), [[1.5, nan], [0, 2], [nan, nan]])
    assert equal(MATRIX, before.tolist())


def test_apply__a_sentinel_takes_the_place_of_missing_values() -> None:
    low = SENTINEL
    assert equal(Encoding((), low).apply(MATRIX, FEATURES), [[0, 0, 1.5], [2, low, 0], [0, 3, low]])
    assert np.isfinite(np.float32(SENTINEL))


def test_loses_zeros__by_name_and_never_beside_a_sentinel() -> None:
    assert Encoding(("a", "c")).loses_zeros(("c", "b", "a", "d")).tolist() == [True, False, True, False]
    assert (
        Encoding(("a",), SENTINEL).loses_zeros(FEATURES).tolist()
        == Encoding().loses_zeros(FEATURES).tolist()
        == [False] * 3
    )


def test_zeros_to_nan__keeps_every_other_number_to_the_bit() -> None:
    """Of all kinds: denormal ones, the largest, infinite ones, NaN, random bits."""
    special = np.array([0.0, -0.0, 1e-45, -1e-45, 3.4e38, np.inf, -np.inf, np.nan], dtype=np.float32)
    bits = np.random.default_rng(0).integers(0, 1 << 32, 9992, dtype=np.uint32).view(np.float32)
    numbers = np.concatenate([special, bits]).reshape(1000, 10)
    is_zero = numbers == 0
    found = zeros_to_nan(numbers)
    assert np.isnan(found[is_zero]).all()
    assert is_zero.sum() == 2
    is_number = ~is_zero & ~np.isnan(numbers)
    assert np.array_equal(found[is_number].view(np.uint32), numbers[is_number].view(np.uint32))
    keep = np.arange(10) == 0
    assert np.array_equal(zeros_to_nan(numbers, keep=keep)[:, 0], numbers[:, 0], equal_nan=True)
    assert zeros_to_nan(numbers, out=numbers) is numbers
    assert np.array_equal(numbers, found, equal_nan=True)


def test_without_zeros__stores_all_other_cells_and_makes_the_matrix_of_missing_values() -> None:
    """Batches of unequal length, a row and a column without any cell, zeros to keep, missing values among both kinds."""
    rng = np.random.default_rng(1)
    matrix = rng.poisson(0.8, (700, 6)).astype(np.float32)
    matrix[rng.random(matrix.shape) < 0.1] = np.nan
    keep = np.array([False, True, False, False, True, False])
    matrix[5, ~keep], matrix[:, 3] = 0, 0
    matrix[5, keep] = np.nan
    batches = [matrix[:300], matrix[300:301], matrix[301:]]
    found = list(without_zeros(iter(batches), keep, 400))
    expected = zeros_to_nan(matrix, keep=keep)
    for given, sparse in zip(batches, found, strict=True):
        stored = (given != 0) | keep
        assert sparse.nnz == stored.sum()
        assert np.array_equal(sparse.toarray(), np.where(stored, given, 0), equal_nan=True)
        assert all(np.all(np.diff(row.indices) > 0) for row in (sparse[number] for number in range(len(given))))
    label = rng.random(700) < 0.5
    raw = []
    for made in (lambda: iter([expected[:300], expected[300:301], expected[301:]]), lambda: iter(found)):
        whole = xgb.QuantileDMatrix(GeneBatches(made, lambda rows: None), max_bin=16)
        whole.set_label(label)
        assert whole.num_nonmissing() == (~np.isnan(expected)).sum()
        raw.append(xgb.train({"max_bin": 16, "nthread": 1}, whole, 5).save_raw("ubj"))
    assert raw[0] == raw[1]


@pytest.mark.parametrize("rule", [Encoding(), Encoding(("a", "c")), Encoding((), SENTINEL)])
def test_to_dict__and_back_through_json(rule: Encoding) -> None:
    assert Encoding.from_dict(json.loads(json.dumps(rule.to_dict()))) == rule


def test_encoding_of__a_layout() -> None:
    assert encoding_of("missing", ("a",)) == Encoding()
    assert encoding_of("zeros", ["a"]) == Encoding(("a",))
    assert encoding_of("sentinel", ("a",)) == Encoding((), SENTINEL)


def test_missing_as__names_what_is_missing() -> None:
    assert [Encoding(("a",)).missing_as(name) for name in "ab"] == ["missing, and zero", "missing"]
    assert Encoding((), SENTINEL).missing_as("a") == "sentinel -1e+30"


# ---- trained models ---------------------------------------------------------------------------------------------------


@dataclass
class Case:
    """An instance trained in one layout, its model, and the dataset."""

    layout: str
    run: Path
    model: InstanceModel
    rows: pa.Table

    @property
    def folder(self) -> Path:
        """Of the instance."""
        return self.run / "multi_instance_training" / "instance_00"

    def margins(self) -> np.ndarray:
        """Return the margins of the final boosters by hand: rows as float32, then the rule, then XGBoost."""
        matrix = np.column_stack(
            [self.rows[name].to_numpy(zero_copy_only=False).astype(np.float32) for name in self.model.features]
        )
        if self.layout == "sentinel":
            matrix[np.isnan(matrix)] = -1e30
        elif self.layout == "zeros":
            for place, name in enumerate(self.model.features):
                if name in self.model.encoding.zero_is_missing:
                    matrix[matrix[:, place] == 0, place] = np.nan
        parts = read_parts(self.folder / "model_multiclass.miduck")
        return np.column_stack(
            [
                xgb.Booster(model_file=bytearray(parts[f"booster_{index}.ubj"])).inplace_predict(
                    matrix, predict_type="margin"
                )
                for index in range(3)
            ]
        )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 genes with nulls in three columns, and counts that are mostly zero."""
    folder = tmp_path_factory.mktemp("encoding") / "data"
    synthesise(folder, n_genes=60, rows_per_gene=40, n_features=40, missing_fraction=0.3, n_files=1)
    return folder


@pytest.fixture(scope="module")
def cases(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Return one trained instance for each layout."""
    root = tmp_path_factory.mktemp("layouts")
    rows = pq.read_table(next(dataset.rglob("*.parquet")))
    found = {}
    for layout in LAYOUTS:
        run = trained(dataset, root / layout, "--strategy", "single", "--layout", layout)
        model = load_unified_model(run / "multi_instance_training" / "instance_00")
        assert isinstance(model, InstanceModel)
        found[layout] = Case(layout, run, model, rows)
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_model__predicts_alike_from_numpy_arrow_a_data_frame_and_parquet(
    layout: str, cases: dict[str, Case], dataset: Path, tmp_path: Path
) -> None:
    """Each gives the calibrated margins that XGBoost gives on rows to which the rule was applied by hand."""
    case = cases[layout]
    model, rows = case.model, case.rows
    expected = calibrated(case.margins(), model.calibrators).astype(np.float32)
    frame = rows.select(list(model.features)).to_pandas()
    assert isinstance(frame, pd.DataFrame)
    matrix = frame.to_numpy(dtype=np.float32)
    for form in (matrix, rows, rows.to_batches()[0], frame[frame.columns[::-1]]):
        assert np.array_equal(model.predict_proba(form)[: len(form)], expected[: len(form)])
    ensemble = join_members([model], n_genes=60, thresholds={})
    assert np.array_equal(ensemble.predict_proba(rows), expected)
    save_model(tmp_path / "m.miduck", ensemble)
    again = load_unified_model(tmp_path / "m.miduck")
    assert isinstance(again, ConsolidatedMetaModel)
    predict_file(again, str(dataset), tmp_path / "p.parquet", report=quiet)
    written = pq.read_table(tmp_path / "p.parquet")
    assert written["gene_id"].equals(rows["gene_id"])
    for index, name in enumerate(model.classes):
        assert np.array_equal(written[f"p_{name}"].to_numpy(), expected[:, index])


def test_model__carries_its_rule_and_says_so(cases: dict[str, Case]) -> None:
    for layout, case in cases.items():
        plan = RunFolder(case.run).read_plan()
        assert (plan.settings.layout_used, case.model.encoding) == (
            layout,
            encoding_of(layout, plan.settings.zero_is_missing),
        )
        with (case.folder / "feature_manifest.csv").open() as file:
            said = {row["feature"]: row["missing_as"] for row in csv.DictReader(file)}
        assert said == {name: case.model.encoding.missing_as(name) for name in plan.data.features}
    assert set(cases["zeros"].model.encoding.zero_is_missing) <= set(plan.data.small_features)
    assert cases["zeros"].model.encoding.zero_is_missing
    # a column with nulls is not a byte column: its zeros stay zeros
    assert "5mer_GTGAG" not in cases["zeros"].model.encoding.zero_is_missing


def test_model__a_layout_changes_the_model_and_hardly_what_it_knows(cases: dict[str, Case]) -> None:
    """Zeros as missing keep every split; a sentinel sends missing values left. Average precision stays within .05."""
    found = {}
    for layout, case in cases.items():
        scored = pq.read_table(case.folder / "oof_predictions.parquet")
        label = np.array(scored["label"].to_pylist())
        found[layout] = np.array(
            [average_precision_score(label == name, scored[f"p_{name}"].to_numpy()) for name in ("donor", "acceptor")]
        )
    assert (found["missing"] > 0.5).all()
    for layout in ("zeros", "sentinel"):
        assert found[layout] == pytest.approx(found["missing"], abs=0.05)
    assert not np.array_equal(cases["missing"].margins(), cases["sentinel"].margins())


def test_join_members__refuses_members_of_two_rules(cases: dict[str, Case]) -> None:
    with pytest.raises(CheckpointError, match="train them in one run"):
        join_members([cases["missing"].model, cases["sentinel"].model], n_genes=60, thresholds={})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cut_reference__of_byte_columns_with_more_values_than_bins_has_the_cuts_of_all(
    tmp_path: Path, layout: str
) -> None:
    """Only these columns are sketched beside the wide ones; to sketch all takes a fifth more memory at 1,167 columns."""
    data = tmp_path / "data"
    synthesise(data, n_genes=20, rows_per_gene=60, n_features=300, missing_fraction=0.05)
    out = partitioned(data, tmp_path / "run", "--strategy", "single", "--max-bin", "12", "--layout", layout)
    plan = RunFolder(out).read_plan()
    reader = SegmentReader(plan, plan.cut.segments, RunFolder(out).segments)
    matrix = np.concatenate([rows.copy() for rows in reader.matrices(1000)])
    smalls = matrix[:, [plan.data.features.index(name) for name in plan.data.small_features]]
    assert max(len(np.unique(values)) for values in smalls.T) > 12
    wanted = np.arange(len(matrix)) % 5 > 0
    ours = cut_reference(reader, wanted, max_bin=12, threads=1)
    assert ours is not None
    encoded = reader.encoding.apply(matrix[wanted], plan.data.features)
    whole = xgb.QuantileDMatrix(encoded, max_bin=12, nthread=1)
    # the last number of a column only closes its last bin
    inner = [
        [cuts[first : stop - 1].tolist() for first, stop in pairwise(starts)]
        for starts, cuts in (one.get_quantile_cut() for one in (ours, whole))
    ]
    assert inner[0] == inner[1]
