"""How columns are filled decides what a layout takes: four columns by hand, and which zeros are worth leaving out."""

from dataclasses import replace

import pytest
from shared import DENSE

from mi_duck.plan.layouts import layout_of, zeros_to_leave_out
from mi_duck.rows.segments import ColumnDensity
from mi_duck.run.costs import growing_bytes

BASE = replace(
    DENSE, n_features=4, n_wide=2, bins=1000, missing_share=0.5, stored_share=0.5, has_sparse_column=True, threads=1
)
# of 100 rows: a byte column that is half zero, one that is nine tenths zero, a whole real column, one with holes
FILLING = ColumnDensity(100, {"half": 50, "tenth": 90}, {"whole": 0, "holes": 30})


def shares(
    layout: str, zero_is_missing: tuple[str, ...] = (), density: ColumnDensity = FILLING
) -> tuple[float, float, bool]:
    """Return missing share, stored share and whether a column is sparse."""
    found = layout_of(BASE, density, layout, zero_is_missing)
    assert replace(found, missing_share=0.5, stored_share=0.5, has_sparse_column=True) == BASE  # the rest stays
    return found.missing_share, found.stored_share, found.has_sparse_column


def test_layout_of__missing_counts_missing_values_alone() -> None:
    assert shares("missing") == (pytest.approx(0.3 / 4), pytest.approx(1.0), False)
    # the zeros that may be left out are those of another layout
    assert shares("missing", ("half", "tenth")) == shares("missing")


def test_layout_of__sentinel_has_nothing_missing() -> None:
    assert shares("sentinel") == (0.0, 1.0, False)


def test_layout_of__zeros_counts_the_zeros_of_the_columns_that_were_chosen() -> None:
    # .5 of the first and .3 of the last column are missing; each is filled to a fifth or more, so all cells are stored
    assert shares("zeros", ("half",)) == (pytest.approx(0.8 / 4), pytest.approx(1.0), False)
    # the second column is filled to a tenth: sparse, and that tenth is all that is stored of it
    assert shares("zeros", ("half", "tenth")) == (pytest.approx(1.7 / 4), pytest.approx(3.1 / 4), True)


def test_layout_of__a_column_is_sparse_below_a_fifth() -> None:
    for missing, is_sparse in ((80, False), (81, True), (100, True)):
        density = replace(FILLING, missing={"whole": 0, "holes": missing})
        assert shares("missing", (), density)[2] == is_sparse
    assert shares("missing", (), replace(FILLING, missing={"whole": 0, "holes": 100})) == (0.25, 0.75, True)


def test_has_missing__whether_any_value_is() -> None:
    assert FILLING.has_missing
    assert not ColumnDensity(100, {"half": 50}, {"whole": 0}).has_missing


@pytest.mark.parametrize(
    ("n_half", "n_tenth", "expected"),
    [
        (100, 0, "all"),  # every column is filled to a half: 4 x .5 + 1.125 bytes a cell
        (0, 100, "all"),  # every column is filled to a tenth: 4 x .1 + 9.125 x .1 bytes a cell, less than 2.125
        # one sparse column among dense ones has row ids stored beside all cells: it stays as it is
        (100, 1, "dense"),
        # of mostly sparse columns a few dense ones cost less than the zeros: 9.125 bytes for each that is stored
        (5, 100, "all"),
    ],
)
def test_zeros_to_leave_out__is_whatever_takes_less(n_half: int, n_tenth: int, expected: str) -> None:
    dense = {f"half_{number}": 50 for number in range(n_half)}
    everything = dense | {f"tenth_{number}": 90 for number in range(n_tenth)}
    base = replace(BASE, n_features=len(everything), n_wide=0)
    density = ColumnDensity(100, everything, {})
    found = zeros_to_leave_out(base, density)
    assert found == tuple(dense if expected == "dense" else everything)
    taken = growing_bytes("boost", 100_000, layout_of(base, density, "zeros", found))
    for other in ((*everything,), (*dense,)):
        assert taken <= growing_bytes("boost", 100_000, layout_of(base, density, "zeros", other))


def test_zeros_to_leave_out__of_no_byte_column_is_none() -> None:
    assert zeros_to_leave_out(BASE, ColumnDensity(100, {}, {"whole": 0})) == ()


def test_zeros_to_leave_out__spares_columns_near_a_fifth() -> None:
    """A column filled to 22 % here may be filled to 19 % in an instance, and one such column costs 8 bytes a cell of all."""
    zeros = {f"half{number}": 500 for number in range(80)} | {"near": 780, "far": 740}
    base = replace(BASE, n_features=100)
    assert set(zeros_to_leave_out(base, ColumnDensity(1000, zeros, {}))) == set(zeros) - {"near"}


def test_zeros_to_leave_out__spares_columns_that_few_genes_say_too_little_of() -> None:
    """Filled to 26 %: dense if the standard error is .5 %, too near to a fifth if it is 2 %, as of 56 genes."""
    zeros = {f"half{number}": 500 for number in range(80)} | {"near": 740}
    base = replace(BASE, n_features=100)
    sure = ColumnDensity(1000, zeros, {}, dict.fromkeys(zeros, 0.005))
    assert "near" in zeros_to_leave_out(base, sure)
    assert "near" not in zeros_to_leave_out(base, replace(sure, errors=dict.fromkeys(zeros, 0.02)))
