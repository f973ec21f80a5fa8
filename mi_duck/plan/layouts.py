"""How columns are filled, and which layouts of missing values and zeros that allows."""

from collections.abc import Sequence
from dataclasses import replace

from mi_duck.rows.segments import ColumnDensity
from mi_duck.run.costs import Layout, growing_bytes

LAYOUTS = ("missing", "zeros", "sentinel")
SPARSE = 0.2  # XGBoost's column-major copy stores a column that is filled to less as pairs of row and bin
SURELY_DENSE = (
    0.25  # of many rows: then also of those of a fold or an instance, whose share differs by a per cent or two
)
STANDARD_ERRORS = 6.0  # of few rows: four of a difference between two such samples, for the worst of a thousand columns


def layout_of(base: Layout, density: ColumnDensity, layout: str, zero_is_missing: Sequence[str]) -> Layout:
    """Return what memory depends on, for one way to treat missing values and zeros.

    Parameters
    ----------
    base
        The data and the training.
    density
        Of the columns.
    layout
        One of `LAYOUTS`.
    zero_is_missing
        Features whose zeros count as missing in the layout ``zeros``.
    """
    if layout == "sentinel":
        return replace(base, missing_share=0.0, stored_share=1.0, has_sparse_column=False)
    absent = dict(density.missing)
    if layout == "zeros":
        absent |= {name: density.zeros[name] for name in zero_is_missing}
    filled = [(density.n_rows - count) / density.n_rows for count in absent.values()]
    n_features, n_whole = base.n_features, base.n_features - len(absent)
    return replace(
        base,
        missing_share=sum(1 - share for share in filled) / n_features,
        stored_share=(n_whole + sum(share if share < SPARSE else 1.0 for share in filled)) / n_features,
        has_sparse_column=any(share < SPARSE for share in filled),
    )


def zeros_to_leave_out(base: Layout, density: ColumnDensity) -> tuple[str, ...]:
    """Return the features whose zeros count as missing in the layout ``zeros``: all of one byte, or the surely dense ones.

    One column below a fifth makes XGBoost store row ids beside all columns, 8 bytes a cell; whichever choice takes less
    memory is taken. (Taking columns from a fifth on measured 2.02 GiB instead of .85 on real data, and from a quarter on .89
    instead of .39 where only 56 genes were looked at: one of 720 columns fell below a fifth in the rows of one instance.)
    """
    filled = {name: (density.n_rows - zeros) / density.n_rows for name, zeros in density.zeros.items()}
    least = {name: max(SURELY_DENSE, SPARSE + STANDARD_ERRORS * density.errors.get(name, 0.0)) for name in filled}
    dense = tuple(name for name, share in filled.items() if share >= least[name])

    def cost(names: tuple[str, ...]) -> int:
        layout = layout_of(base, density, "zeros", names)
        may_be_sparse = layout.has_sparse_column or any(filled[name] < least[name] for name in names)
        return growing_bytes("boost", 1_000_000, replace(layout, has_sparse_column=may_be_sparse))

    return min(tuple(filled), dense, key=cost)
