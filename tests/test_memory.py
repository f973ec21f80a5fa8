"""The memory model: more rows never need less, and the rows within a budget are its exact inverse."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mi_duck.plan.memory import (
    BASE_BYTES,
    PHASES,
    Layout,
    MemoryModel,
    MemoryPoint,
    growing_bytes,
    slope_ratio,
    with_points,
)

layouts = st.builds(
    Layout,
    n_features=st.integers(1, 50_000),
    n_wide=st.integers(0, 50_000),
    n_classes=st.integers(2, 10),
    bins=st.integers(1, 10_000_000),
    has_missing=st.booleans(),
    max_bin=st.integers(2, 65_536),
    max_depth=st.integers(1, 16),
    threads=st.integers(1, 128),
)
WORK = Layout(
    n_features=1167, n_wide=76, bins=40_000, has_missing=False, n_classes=3, max_bin=256, max_depth=6, threads=2
)


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


@given(layouts, st.integers(0, 1 << 42))
def test_rows_within__is_the_exact_inverse(layout: Layout, budget: int) -> None:
    model = MemoryModel(layout)
    n_rows = model.rows_within(budget)
    assert n_rows == 0 or model.predict_bytes(n_rows, 0) <= budget
    assert model.predict_bytes(n_rows + 1, 0) > budget


@given(layouts, st.integers(1, 10**8))
def test_rows_within__finds_the_rows_that_a_prediction_came_from(layout: Layout, n_rows: int) -> None:
    model = MemoryModel(layout)
    found = model.rows_within(model.predict_bytes(n_rows, 0))
    assert found >= n_rows
    assert model.predict_bytes(found, 0) == model.predict_bytes(n_rows, 0)


def test_rows_within__is_zero_below_the_base() -> None:
    assert MemoryModel(WORK).rows_within(BASE_BYTES) == 0


def test_predict_bytes__of_a_gene_depends_on_its_rows_alone() -> None:
    model = MemoryModel(WORK)
    assert model.predict_bytes(587_000, 1) == model.predict_bytes(587_000, 1500)


def test_predict_bytes__counts_what_the_matrix_keeps() -> None:
    """Two bytes a cell without missing values, five with them: 587,000 x 1,167 cells differ by three bytes."""
    sparse = Layout(**{name: getattr(WORK, name) for name in WORK.__slots__} | {"has_missing": True})
    more = MemoryModel(sparse).predict_bytes(587_000, 1) - MemoryModel(WORK).predict_bytes(587_000, 1)
    # 587,000 x 1,167 x 3 bytes x 1.1 = 2,260,595,700
    assert more == pytest.approx(2_260_595_700, rel=1e-6)


def test_bytes_per_row__is_the_slope() -> None:
    model = MemoryModel(WORK)
    slope = model.bytes_per_row()
    # two bytes and an eighth a cell; a row: 8 for its pointer, 13 for its keys, 12 for margins, 68 for boosting; a tenth on top
    assert slope == pytest.approx(1.1 * (1167 * 2.125 + 8 + 13 + 12 + 68), rel=1e-3)


def test_predict_bytes__follows_the_users_megabytes_per_gene() -> None:
    model = MemoryModel(WORK, megabytes_per_gene=8.0)
    # 160 MiB and 8 MiB for each of 1,500 genes, whatever their rows
    assert model.predict_bytes(1, 1500) == model.predict_bytes(10**9, 1500) == (160 + 8 * 1500) << 20
    assert model.predict_bytes(10**6, 1501) - model.predict_bytes(10**6, 1500) == 8 << 20


def point(phase: str, n_rows: int, peak_bytes: int) -> MemoryPoint:
    return MemoryPoint(phase, n_genes=1, n_rows=n_rows, n_features=1167, peak_bytes=peak_bytes)


def test_measured_model__gives_back_what_was_measured_and_adds_what_grows() -> None:
    """The constant of a phase is the largest excess of a measured peak over the arithmetic; a small margin covers the rounds."""
    points = [
        point(phase, rows, (100 << 20) + extra + growing_bytes(phase, rows, WORK))
        for phase in PHASES
        for rows, extra in ((10_000, 0), (40_000, 1 << 20))
    ]
    model = with_points(MemoryModel(WORK), points)
    assert model.is_measured
    assert model.base_bytes("boost") == 101 << 20
    assert model.predict_bytes(587_000, 1500) == int(1.015 * ((101 << 20) + growing_bytes("boost", 587_000, WORK)))
    # from 10,000 to 40,000 rows the measured peak grew by the arithmetic and one MiB
    grown = growing_bytes("boost", 40_000, WORK) - growing_bytes("boost", 10_000, WORK)
    assert slope_ratio(model, "boost") == pytest.approx(1 + (1 << 20) / grown)
    assert slope_ratio(MemoryModel(WORK), "boost") is None
