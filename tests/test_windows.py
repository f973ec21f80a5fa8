"""The planner: complete coverage, exact overlap, limits that hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_duck.errors import MemoryBudgetError, PlanError
from mi_duck.plan.windows import Windows, cut_windows, instances_needed, overlap_genes
from mi_duck.resources import GIB, Budget

USERS = Budget(4 * GIB, "--max-memory-per-instance-gb 4", True)
MACHINES = Budget(4 * GIB, "0.6 of 6.7 GiB available", False)


def cut(training_rows: np.ndarray, **options: object) -> Windows:
    values = {
        "genes_per_instance": 1500,
        "overlap": 0.1,
        "max_instances": 100,
        "rows_limit": 1 << 60,
        "auto_adjust": True,
        "budget": USERS,
        "needed_bytes": lambda rows: rows * 1000,
    }
    return cut_windows(training_rows, **(values | options))  # type: ignore[arg-type]


def check(windows: Windows, n_genes: int) -> None:
    """Hold what every plan promises."""
    ranges = windows.ranges
    assert ranges[0][0] == 0
    assert ranges[-1][1] == n_genes
    first, stop = np.array(ranges).T
    assert (stop - first > 0).all()
    assert (stop - first <= windows.most_genes).all()
    assert (np.diff(first) > 0).all()  # so what holds of the next but one holds of all that follow
    assert (stop[:-1] - first[1:] == windows.overlap_genes).all()
    assert (first[2:] >= stop[:-2]).all()


@pytest.mark.parametrize(
    ("target", "overlap", "n", "shared", "redundancy"),
    # redundancy: (9280 + (n - 1) x shared) / 9280
    [
        (1500, 0.1, 7, 150, 1.097),
        (1024, 0.1, 10, 102, 1.099),
        (800, 0.2, 15, 160, 1.241),
        (3000, 0.1, 4, 300, 1.097),
    ],
)
def test_windows__examples_of_the_design_documents(
    target: int, overlap: float, n: int, shared: int, redundancy: float
) -> None:
    windows = cut(np.full(9280, 400), genes_per_instance=target, overlap=overlap)
    check(windows, 9280)
    assert len(windows.ranges) == n
    assert windows.overlap_genes == shared
    slots = sum(stop - first for first, stop in windows.ranges)
    assert slots == 9280 + (n - 1) * shared
    assert round(slots / 9280, 3) == redundancy


@settings(max_examples=100, deadline=None)
@given(
    n_genes=st.integers(3, 400),
    target=st.integers(1, 500),
    overlap=st.decimals(0, "0.5", places=3).map(float),
    seed=st.integers(0, 2**32 - 1),
)
def test_windows__any_numbers_give_full_coverage_and_exact_overlap(
    n_genes: int, target: int, overlap: float, seed: int
) -> None:
    rows = np.maximum(1, np.random.default_rng(seed).lognormal(3, 1.5, n_genes)).astype(np.int64)
    windows = cut(rows, genes_per_instance=target, overlap=overlap, max_instances=1000)
    check(windows, n_genes)
    assert len(windows.ranges) >= 3
    assert windows.most_genes <= target or target >= n_genes


@settings(max_examples=200, deadline=None)
@given(
    n_genes=st.integers(3, 300),
    target=st.integers(1, 300),
    overlap=st.sampled_from([0, 0.1, 0.25, 0.5]),
    max_instances=st.integers(3, 40),
    share=st.floats(0.02, 1),
    adjust=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_windows__limits_hold_or_are_refused(
    n_genes: int, target: int, overlap: float, max_instances: int, share: float, adjust: bool, seed: int
) -> None:
    rows = np.maximum(1, np.random.default_rng(seed).lognormal(3, 1.5, n_genes)).astype(np.int64)
    limit = max(1, int(rows.sum() * share))
    try:
        windows = cut(
            rows,
            genes_per_instance=target,
            overlap=overlap,
            max_instances=max_instances,
            rows_limit=limit,
            auto_adjust=adjust,
        )
    except PlanError:
        return
    check(windows, n_genes)
    assert 3 <= len(windows.ranges) <= max_instances
    assert all(rows[first:stop].sum() <= limit for first, stop in windows.ranges)
    if not adjust:
        assert windows.most_genes <= target


def test_windows__windows_are_balanced_by_rows() -> None:
    rows = np.maximum(10, np.random.default_rng(1).lognormal(5.5, 1, 9280)).astype(np.int64)
    windows = cut(rows)
    sizes = np.array([rows[first:stop].sum() for first, stop in windows.ranges])
    # 9,280 genes hardly fill 7 windows of 1,500, so genes bind before rows do; 3 per cent remain
    assert sizes.max() / sizes.mean() < 1.05
    loose = cut(rows, genes_per_instance=2000)
    sizes = np.array([rows[first:stop].sum() for first, stop in loose.ranges])
    assert sizes.max() / sizes.min() < 1.05


def test_windows__at_least_three_instances() -> None:
    # 3 windows of 33 genes that share 3: 99 - 6 = 93
    windows = cut(np.full(93, 10))
    assert (len(windows.ranges), windows.most_genes, windows.overlap_genes) == (3, 33, 3)
    with pytest.raises(PlanError, match="2 genes cannot make 3 instances"):
        cut(np.full(2, 10))
    with pytest.raises(PlanError, match="--max-instances 2 is below 3"):
        cut(np.full(93, 10), max_instances=2)


def test_windows__most_instances_bind_before_genes_an_instance() -> None:
    windows = cut(np.full(9280, 400), genes_per_instance=800, max_instances=10)
    check(windows, 9280)
    assert len(windows.ranges) == 10
    # 10 g - 9 floor(g / 10) >= 9280 first holds at g = 1019: 10,190 - 909 = 9,281
    assert windows.most_genes == 1019
    # hard: 10 x 800 - 9 x 80 = 7,280 genes
    with pytest.raises(
        PlanError, match=r"cover 7,280 of 9,280 genes; set --max-instances 13 or --genes-per-instance 1019"
    ):
        cut(np.full(9280, 400), genes_per_instance=800, max_instances=10, auto_adjust=False)


def test_windows__budget_binds_before_everything() -> None:
    windows = cut(np.full(1000, 10), genes_per_instance=400, rows_limit=1000)
    check(windows, 1000)
    assert all((stop - first) * 10 <= 1000 for first, stop in windows.ranges)
    with pytest.raises(PlanError, match=r"11 instances are needed.*--max-instances is 5; set --max-instances 11"):
        cut(np.full(1000, 10), genes_per_instance=400, rows_limit=1000, max_instances=5)
    with pytest.raises(MemoryBudgetError, match="the largest gene alone has 5,000 rows"):
        cut(np.array([10, 5000, 10]), rows_limit=1000, budget=MACHINES)
    with pytest.raises(PlanError, match="an instance of 400 genes needs up to"):
        cut(np.full(1000, 10), genes_per_instance=400, rows_limit=1000, auto_adjust=False)


def test_windows__overlap_is_free_of_binary_rounding() -> None:
    # 100 x 0.29 is 28.999999999999996 in binary
    assert overlap_genes(100, 0.29) == 29
    assert instances_needed(9280, 1500, 0.1) == 7
