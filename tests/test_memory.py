"""The memory model: its arithmetic by hand, its inverse, and the facts about XGBoost on which it rests, measured."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import product

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared import DENSE

from mi_duck.processes import run_child
from mi_duck.run.costs import (
    BASE_BYTES,
    PHASES,
    PLANNED,
    REFERENCE_SHARE,
    Layout,
    MemoryModel,
    MemoryPoint,
    expected_nodes,
    growing_bytes,
    index_bytes,
    slope_ratio,
)

MIB = 1 << 20
layouts = st.builds(
    Layout,
    n_features=st.integers(1, 50_000),
    n_wide=st.integers(0, 50_000),
    bins=st.integers(1, 10_000_000),
    missing_share=st.floats(0, 1),
    stored_share=st.floats(0, 1),
    has_sparse_column=st.booleans(),
    n_classes=st.integers(2, 10),
    max_bin=st.integers(2, 65_536),
    max_depth=st.integers(1, 16),
    threads=st.integers(1, 128),
    cv=st.sampled_from(["matrices", "weights"]),
    is_external=st.booleans(),
    scored_per_row=st.floats(1, 20),
    leaf_rows=st.sampled_from([0.0, 4.0, 36.0, 200.0]),
)
WORK = replace(DENSE, cv="weights")


# ---- arithmetic -------------------------------------------------------------------------------------------------------


def nodes_of(n_rows: int, max_depth: int, leaf_rows: float) -> float:
    """Return how many nodes above the last level are planned for."""
    deep, single = (replace(WORK, max_depth=depth, leaf_rows=leaf_rows) for depth in (max_depth, 1))
    bytes_per_node = 16 * deep.bins
    return 1 + (growing_bytes("boost", n_rows, deep) - growing_bytes("boost", n_rows, single)) / bytes_per_node


def test_growing_bytes__of_leaves_that_may_be_small_counts_full_trees() -> None:
    """20,000 rows with a twentieth of true ones had up to 641 nodes above the last of 10 levels; 313 with the defaults."""
    assert nodes_of(20_000, 10, 0.0) == pytest.approx(1023)
    assert 313 < nodes_of(20_000, 10, 1 / 0.0475) < 641
    assert nodes_of(20_000, 6, 0.0) == pytest.approx(nodes_of(20_000, 6, 1 / 0.0475)) == pytest.approx(63)
    assert nodes_of(10, 10, 0.0) <= 10


@pytest.mark.parametrize(
    ("n_rows", "weight", "share", "depth", "nodes"),
    [
        (16_200, 1, 0.0501, 8, 117),  # a plant's sites, all rows
        (110_990, 1, 0.0498, 8, 201),
        (110_990, 5, 0.0498, 8, 153),
        (110_990, 10, 0.0498, 8, 121),
        (1_000, 1, 0.5, 8, 119),  # labels that are even
        (2_000, 2, 0.5, 8, 131),
        (5_000, 1, 0.5, 8, 197),
        (5_000, 5, 0.5, 8, 141),
        (20_000, 5, 0.5, 8, 193),
        (20_000, 10, 0.5, 8, 173),
        (3_000, 5, 0.3363, 8, 137),  # a third of them true, at random
        (10_000, 1, 0.3328, 11, 671),
        (10_000, 1, 0.1, 8, 153),  # a tenth
        (40_000, 10, 0.1, 8, 175),
        (40_000, 1, 0.1, 11, 749),
    ],
)
def test_growing_bytes__counts_fewer_nodes_of_heavier_leaves(
    n_rows: int, weight: float, share: float, depth: int, nodes: int
) -> None:
    """The most nodes above the last level in 60 or 100 rounds: a sixth less are planned for at most, and never twice as many."""
    assert 0.83 <= nodes_of(n_rows, depth, weight / (share * (1 - share))) / nodes <= 1.75


@pytest.mark.parametrize(("cv", "by_row"), [("weights", 88), ("matrices", 48)])
def test_growing_bytes__of_a_dense_matrix_by_hand(cv: str, by_row: int) -> None:
    """587,000 x 1,167 = 685,029,000 cells: an index byte, a copied byte and a bit for each, and 8 bytes a row."""
    layout = replace(WORK, cv=cv)
    # 685,029,000 + floor(685,029,000 x 9 / 8) + 8 x 587,000 = 685,029,000 + 770,657,625 + 4,696,000
    matrix = 1_460_382_625
    keys, margins = 12 * 587_000, 3 * 4 * 587_000
    assert growing_bytes("matrix", 587_000, layout) == matrix + keys + margins
    nodes = int(16 * 40_000 * 63)  # histograms of the six levels of a tree
    assert growing_bytes("boost", 587_000, layout) == matrix + keys + margins + by_row * 587_000 + nodes
    # calibrating and writing: the keys as they are on disk, and 26 bytes a class for every row, 27 more for the first
    assert growing_bytes("finish", 587_000, layout) == keys + margins + (14 + 3 * 26) * 587_000 + 3 * 27 * 300_000


def test_growing_bytes__of_the_cuts_counts_the_wide_columns_alone() -> None:
    """Of 10 wide columns in 10,000 rows with 256 bins: a sketch holds 4,097 entries, of 64 + 16 bytes each.

    On l levels it holds 8 x 256 x l + 1 entries, enough for 2^l times as many rows: 4,098 on one, 16,388 on two. It is
    merged once, after 8,194 rows, into its first level. Two batches of bytes lie beside it.
    """
    layout = replace(WORK, n_wide=10)
    sketches = 10 * (64 + 16) * 4_097
    matrix = 10 * 10_000 + int(10 * 10_000 * 1.125) + 8 * 10_000
    assert growing_bytes("cuts", 10_000, layout) == 12 * 10_000 + matrix + sketches + 2 * 10_000 * 1167
    # until then it is a row of values, 8 bytes in each of two buffers
    matrix = 10 * 5_000 + int(10 * 5_000 * 1.125) + 8 * 5_000
    assert growing_bytes("cuts", 5_000, layout) == 12 * 5_000 + matrix + 10 * 16 * 5_000 + 2 * 5_000 * 1167
    # with most columns wide all are sketched while the matrix is built, and the sketches go before it is there
    most = replace(WORK, n_wide=int(1167 * REFERENCE_SHARE) + 1)
    assert growing_bytes("cuts", 10_000, most) == 12 * 10_000
    assert growing_bytes("matrix", 10_000, most) == (12 + 12) * 10_000 + 1167 * (64 + 16) * 4_097
    # of many rows they are more than the matrix
    assert growing_bytes("matrix", 587_000, most) > growing_bytes("matrix", 587_000, WORK)
    assert growing_bytes("boost", 587_000, most) == growing_bytes("boost", 587_000, WORK)


@pytest.mark.parametrize(("n_rows", "mib"), [(60_000, 206.4), (65_000, 214.0), (128_804, 214.5), (139_244, 236.5)])
def test_predict_bytes__of_columns_that_are_sketched_with_others_are_those_that_were_measured(
    n_rows: int, mib: float
) -> None:
    """Of 120 columns, 63 of them wide, all are sketched; the others' sketches are 28 to 45 MiB."""
    layout = replace(WORK, n_features=120, n_wide=63, bins=17_244, max_depth=4, threads=2, leaf_rows=111.3, n_trees=68)
    assert 1.0 <= MemoryModel(layout).predict_bytes(n_rows, 1) / (mib * (1 << 20)) <= 1.07


@pytest.mark.parametrize(
    ("missing_share", "stored_share", "has_sparse_column", "bins", "mib"),
    [
        (0.0, 1.0, False, 4_800, 37),  # counts of eight values in 600 columns
        (1 / 18e6, 1.0, False, 154_200, 92),  # real numbers, one missing
        (0.9 / 600, 1.0 - 0.9 / 600, True, 154_200, 229),  # real numbers, one column 90 % missing
        # 26 % filled: 60 columns whole, 540 to 17.8 %, which is below a fifth
        (0.74, 0.26, True, 4_800, 60),
    ],
)
def test_growing_bytes__of_what_was_measured_elsewhere(
    missing_share: float, stored_share: float, has_sparse_column: bool, bins: int, mib: int
) -> None:
    """30,000 rows x 600 columns; the figures count the cuts too, 20 bytes and 8 a thread for each bin."""
    layout = replace(WORK, n_features=600, n_wide=0, missing_share=missing_share, stored_share=stored_share)
    layout = replace(layout, has_sparse_column=has_sparse_column)
    matrix = growing_bytes("matrix", 30_000, layout) - 30_000 * (12 + 12)
    assert (matrix + 28 * bins) / MIB == pytest.approx(mib, rel=0.02)


def test_growing_bytes__one_missing_value_takes_three_bytes_a_cell_more() -> None:
    one = replace(WORK, missing_share=1e-12)
    more = growing_bytes("boost", 587_000, one) - growing_bytes("boost", 587_000, WORK)
    assert more == pytest.approx(3 * 685_029_000, rel=1e-6)


def test_growing_bytes__rows_that_are_scored_and_not_trained_on_cost_their_keys_and_margins() -> None:
    """Ten rows scored for each that is trained on: 9 more of 12 bytes of labels and folds and 12 of margins."""
    sampled = replace(WORK, scored_per_row=10.0)
    more = growing_bytes("boost", 1000, sampled) - growing_bytes("boost", 1000, WORK)
    assert more == 9 * 1000 * (12 + 12)


def test_growing_bytes__of_a_matrix_on_disk_holds_two_pages_and_a_quarter() -> None:
    """A page has 16,384 rows x 1,167 cells of a byte."""
    wide = replace(WORK, is_external=True)
    pages = int(2.25 * 16_384 * 1_167)
    nodes = int(16 * 40_000 * 63)
    assert growing_bytes("boost", 587_000, wide) == 587_000 * (12 + 12 + 88) + pages + nodes
    assert growing_bytes("boost", 8_192, wide) == 8_192 * (12 + 12 + 88) + 8_192 * 1_167 + nodes
    assert index_bytes(587_000, wide) == 685_029_000
    assert index_bytes(587_000, replace(wide, missing_share=0.5)) == 2 * 685_029_000
    assert index_bytes(587_000, replace(wide, max_bin=257)) == 2 * 685_029_000


def test_growing_bytes__histograms_of_deep_trees_by_hand() -> None:
    """9,000 rows: the seventh level has 64 nodes for 141 rows each, of which 141 / (141 + 3 x 50) are there."""
    six = replace(WORK, max_depth=6, leaf_rows=50.0)
    seven = growing_bytes("boost", 9_000, replace(six, max_depth=7)) - growing_bytes("boost", 9_000, six)
    assert seven == pytest.approx(16 * 40_000 * 64 * 9_000 / (9_000 + 150 * 64), abs=1)
    # of a tree without end no more are kept than XGBoost keeps
    endless = growing_bytes("boost", 10**12, replace(six, max_depth=30))
    assert endless - growing_bytes("boost", 10**12, six) == pytest.approx(16 * 40_000 * (65_536 - 63), rel=1e-6)


# ---- the model --------------------------------------------------------------------------------------------------------


@given(layouts, st.integers(0, 10**9), st.integers(0, 10**7))
def test_predict_bytes__never_falls_with_more_rows(layout: Layout, n_rows: int, more: int) -> None:
    model = MemoryModel(layout)
    assert model.predict_bytes(n_rows, 1) <= model.predict_bytes(n_rows + more, 1)


@given(layouts, st.integers(1, 1000))
def test_predict_bytes__never_falls_row_by_row_where_sketches_change_levels(layout: Layout, n_rows: int) -> None:
    model = MemoryModel(layout)
    for start in (n_rows, layout.max_bin, 2 * layout.max_bin, 16 * layout.max_bin):
        steps = [model.predict_bytes(start + step, 1) for step in range(-1, 3)]
        assert steps == sorted(steps)


@given(layouts, st.integers(0, 10**9))
def test_needed_bytes__leave_room_above_the_prediction(layout: Layout, n_rows: int) -> None:
    model = MemoryModel(layout)
    predicted = model.predict_bytes(n_rows, 1)
    assert predicted <= model.needed_bytes(n_rows, 1) == int(predicted / PLANNED)


@given(layouts, st.integers(0, 1 << 42))
def test_rows_within__is_the_exact_inverse(layout: Layout, budget: int) -> None:
    model = MemoryModel(layout)
    n_rows = model.rows_within(budget)
    assert n_rows == 0 or model.needed_bytes(n_rows, 0) <= budget
    assert model.needed_bytes(n_rows + 1, 0) > budget


@given(layouts, st.integers(1, 10**8))
def test_rows_within__finds_the_rows_that_a_need_came_from(layout: Layout, n_rows: int) -> None:
    model = MemoryModel(layout)
    found = model.rows_within(model.needed_bytes(n_rows, 0))
    assert found >= n_rows
    assert model.needed_bytes(found, 0) == model.needed_bytes(n_rows, 0)


def test_rows_within__is_zero_below_the_base() -> None:
    assert MemoryModel(WORK).rows_within(BASE_BYTES) == 0


def test_predict_bytes__of_a_gene_depends_on_its_rows_alone() -> None:
    model = MemoryModel(WORK)
    assert model.predict_bytes(587_000, 1) == model.predict_bytes(587_000, 1500)


def test_bytes_per_row__is_the_slope() -> None:
    # 17 / 8 bytes a cell; a row: 8 for its pointer, 12 for label and fold, 12 for margins, 88 for boosting; 1/20 on top
    assert MemoryModel(WORK).bytes_per_row() == pytest.approx(1.05 * (1167 * 2.125 + 8 + 12 + 12 + 88), rel=1e-3)


def test_predict_bytes__follows_the_users_megabytes_per_gene() -> None:
    model = MemoryModel(WORK, megabytes_per_gene=8.0)
    # 120 MiB and 8 MiB for each of 1,500 genes, whatever their rows
    assert model.predict_bytes(1, 1500) == model.predict_bytes(10**9, 1500) == (120 + 8 * 1500) << 20
    assert model.predict_bytes(10**6, 1501) - model.predict_bytes(10**6, 1500) == 8 << 20
    assert model.needed_bytes(1, 1500) == model.predict_bytes(1, 1500)  # the user's number, as it stands
    assert not replace(model, measured_bytes=(1, 2, 3, 4)).is_measured


def test_memory_model__comes_back_through_json() -> None:
    for model in (
        MemoryModel(WORK),
        MemoryModel(replace(WORK, is_external=True, scored_per_row=3.25), 8.5, (1, 2, 3, 4)),
    ):
        assert msgspec.convert(json.loads(json.dumps(asdict(model))), MemoryModel) == model


def points(*sizes: tuple[int, int]) -> list[MemoryPoint]:
    """Return measurements of every phase: 100 MiB, what grows with the rows, and something extra, for (rows, extra)."""
    return [
        MemoryPoint(phase, 1, rows, 1167, (100 << 20) + extra + growing_bytes(phase, rows, WORK, n_nodes=31), 31)
        for phase, (rows, extra) in product(PHASES, sizes)
    ]


def test_with_points__give_back_what_was_measured_and_add_what_grows() -> None:
    """The constant of a phase is the largest excess of a measured peak over the arithmetic; a small margin covers the rounds."""
    measured = points((10_000, 0), (40_000, 1 << 20))
    model = MemoryModel(WORK).with_points(measured)
    assert model.is_measured
    assert model.measured_bytes == (101 << 20,) * 4
    assert model.predict_bytes(587_000, 1500) == int(1.015 * ((101 << 20) + growing_bytes("boost", 587_000, WORK)))
    # from 10,000 to 40,000 rows the measured peak grew by the arithmetic and one MiB
    grown = growing_bytes("boost", 40_000, WORK) - growing_bytes("boost", 10_000, WORK)
    assert slope_ratio(measured, "boost", WORK) == pytest.approx(1 + (1 << 20) / grown)
    assert slope_ratio(measured[:1], "cuts", WORK) is None
    assert slope_ratio([], "boost", WORK) is None


@pytest.mark.parametrize("n_nodes", [75, 103, 150, 250])
def test_with_points__takes_leaves_as_heavy_as_the_nodes_of_the_largest_probe_say(n_nodes: int) -> None:
    """The trees of a whole training have 1.3 times the nodes of a probe's two rounds, at most all that there can be."""
    layout = replace(WORK, max_depth=8, leaf_rows=100.0)
    own = [33, n_nodes] * len(PHASES)
    measured = [replace(one, n_nodes=n) for one, n in zip(points((5_000, 0), (10_000, 0)), own, strict=True)]
    found = MemoryModel(layout).with_points(measured).layout
    if 1.3 * n_nodes > 255:
        assert found.leaf_rows == 0
        assert expected_nodes(10_000, found) == 255
    else:
        heavier = replace(found, leaf_rows=found.leaf_rows + 0.1)
        assert expected_nodes(10_000, heavier) < 1.3 * n_nodes <= expected_nodes(10_000, found)


def test_with_layout__keeps_measured_constants_but_not_those_of_a_matrix_elsewhere() -> None:
    model = MemoryModel(WORK).with_points(points((10_000, 0)))
    zeros = replace(WORK, missing_share=0.5)
    assert model.with_layout(zeros).measured_bytes == model.measured_bytes
    assert model.with_layout(zeros).layout == zeros
    on_disk = model.with_layout(replace(WORK, is_external=True))
    assert on_disk.measured_bytes is None
    assert on_disk.predict_bytes(587_000, 1) == MemoryModel(on_disk.layout).predict_bytes(587_000, 1)


# ---- what XGBoost does, measured --------------------------------------------------------------------------------------

N_FEATURES = 500
ROWS = {
    "dense": 40_000,
    "two bytes a bin": 20_000,
    "one missing": 20_000,
    "zeros missing": 20_000,
    "sparse column": 10_000,
}


def matrix_bytes(*, report: Callable[[str, int, int], None]) -> dict[str, tuple[int, int]]:
    """Return for each kind what a finished matrix keeps in memory, and its cells that are not missing; a child runs it."""
    import numpy as np
    import psutil
    import xgboost as xgb

    from mi_duck.boosting.matrix import GeneBatches, trim_heap

    def build(kind: str) -> tuple[int, int]:
        rng = np.random.default_rng(0)
        rows = rng.integers(0, 8, (1000, N_FEATURES)).astype(np.float32)
        n_values, max_bin = 8, 256
        if kind == "zeros missing":
            rows[rows < 4] = np.nan
        elif kind == "sparse column":
            rows[rng.random(1000) < 0.9, 0] = np.nan
        elif kind == "two bytes a bin":
            n_values, max_bin = 400, 512
            rows[:, 0] = np.arange(1000) % n_values
        values = np.tile(np.arange(n_values, dtype=np.float32)[:, None], (1, N_FEATURES))
        values[:, 1:] %= 8

        def batches() -> Iterator[np.ndarray]:
            for number in range(ROWS[kind] // 1000):
                batch = rows.copy()
                if kind == "one missing" and number == 0:
                    batch[0, 0] = np.nan
                yield batch

        reference = xgb.QuantileDMatrix(values, max_bin=max_bin, nthread=1)  # loads what XGBoost loads once
        trim_heap()
        before = psutil.Process().memory_info().rss
        matrix = xgb.QuantileDMatrix(GeneBatches(batches, lambda _: None), max_bin=max_bin, nthread=1, ref=reference)
        trim_heap()
        return psutil.Process().memory_info().rss - before, matrix.num_nonmissing()

    return {kind: build(kind) for kind in ROWS}


@pytest.fixture(scope="module")
def measured() -> dict[str, tuple[int, int]]:
    child = run_child("test_memory:matrix_bytes", {}, threads=1, report=lambda *_: None)
    found: dict[str, tuple[int, int]] = child.value
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads resident memory from /proc")
@pytest.mark.parametrize(
    ("kind", "by_cell"),
    [
        ("dense", 1 + 1 + 1 / 8),
        ("two bytes a bin", 2 + 2 + 1 / 8),
        ("one missing", 4 + 1 + 1 / 8),
        ("zeros missing", 4 / 2 + 1 + 1 / 8),  # half of the cells are filled
        ("sparse column", 4 + 1 + 1 / 8 + 8),
    ],
)
def test_xgboost__keeps_as_many_bytes_a_cell_as_the_model_says(
    kind: str, by_cell: float, measured: dict[str, tuple[int, int]]
) -> None:
    """Another version of XGBoost may store a matrix otherwise; then `growing_bytes` must follow."""
    n_rows, cells = ROWS[kind], ROWS[kind] * N_FEATURES
    n_bytes, n_filled = measured[kind]
    assert n_bytes / cells == pytest.approx(by_cell, rel=0.03)
    layout = replace(WORK, n_features=N_FEATURES, n_wide=0, max_bin=512 if kind == "two bytes a bin" else 256)
    if n_filled < cells:
        layout = replace(layout, missing_share=1 - n_filled / cells)
    if kind == "sparse column":  # of which only what is there is stored, and row ids beside all
        layout = replace(layout, has_sparse_column=True, stored_share=n_filled / cells)
    assert n_bytes == pytest.approx(growing_bytes("matrix", n_rows, layout) - n_rows * (12 + 12), rel=0.03)
