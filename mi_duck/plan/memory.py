"""How much memory training takes, predicted before it is spent.

A training process passes through phases, and its peak is that of the largest: ``cuts`` (sketching the columns that are not
one byte wide), ``matrix`` (building the quantised matrix), ``boost`` (fitting all boosters on it), ``finish`` (calibrating and
writing). What grows with the rows in each of them is arithmetic on XGBoost's data structures, exact to a per cent; what
does not (the interpreter, the libraries, histograms, batches) is measured: short child processes train on a few genes of
the user's data with the user's settings, and each phase's constant is the largest excess of a measured peak over the
arithmetic. The slope of the measured peaks is kept beside, as a check of the arithmetic.

Without measurements, where probes would take longer than they are worth, the constants come from reading XGBoost's
source, with a margin, and the predictions say so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

BATCH_ROWS = 1024
WIDE_BATCH_ROWS = 16_384  # a batch of few columns must be long to be worth XGBoost's work on it: half the time
CARRIER_SHARE = 0.5  # with more wide columns than this, sketching them apart would take as much as the whole
PHASES = ("cuts", "matrix", "boost", "finish")

MARGIN = 1.1  # of predictions that are not measured
MARGIN_MEASURED = 1.015  # for what a hundred rounds add to the two of a probe: boosters, curves, a larger heap
BASE_BYTES = 160 << 20  # interpreter, NumPy, Arrow and XGBoost loaded; not measured


@dataclass(frozen=True, slots=True)
class Layout:
    """What memory depends on beside the number of rows.

    Parameters
    ----------
    n_features
        Columns of the matrix.
    n_wide
        Of these, columns that are not stored as one byte: they are sketched.
    bins
        Histogram bins of all columns together, at most.
    has_missing
        Whether any value is missing: then XGBoost stores four bytes a value instead of one.
    n_classes
        Classes, for the out-of-fold margins.
    max_bin, max_depth, threads
        Settings of the training.
    """

    n_features: int
    n_wide: int
    bins: int
    has_missing: bool
    n_classes: int
    max_bin: int
    max_depth: int
    threads: int


@dataclass(frozen=True, slots=True)
class MemoryPoint:
    """One measurement: the peak resident memory of one phase of a training process, in bytes."""

    phase: str
    n_genes: int
    n_rows: int
    n_features: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """Peak memory of the process that trains one instance.

    Parameters
    ----------
    layout
        Of the data and the training.
    megabytes_per_gene
        The user's own rule, MiB a gene, that replaces the model; None for the model.
    points
        Measurements; none if the constants come from the formula.
    """

    layout: Layout
    megabytes_per_gene: float | None = None
    points: tuple[MemoryPoint, ...] = ()

    @property
    def is_measured(self) -> bool:
        """Whether the constants were measured on this machine, these data and these settings."""
        return bool(self.points) and self.megabytes_per_gene is None

    def base_bytes(self, phase: str) -> int:
        """Return what a phase takes beside what grows with the rows."""
        if not self.points:
            return BASE_BYTES + _fixed_bytes(phase, self.layout)
        return max(
            point.peak_bytes - growing_bytes(phase, point.n_rows, self.layout)
            for point in self.points
            if point.phase == phase
        )

    def predict_bytes(self, n_rows: int, n_genes: int) -> int:
        """Return the peak resident memory in bytes of training ``n_rows`` rows of ``n_genes`` genes."""
        if self.megabytes_per_gene is not None:
            return BASE_BYTES + int(self.megabytes_per_gene * (1 << 20) * n_genes)
        peak = max(self.base_bytes(phase) + growing_bytes(phase, n_rows, self.layout) for phase in PHASES)
        return int((MARGIN_MEASURED if self.points else MARGIN) * peak)

    def bytes_per_row(self) -> float:
        """Return what one more row costs, in bytes: a gene costs its own rows times this."""
        return (self.predict_bytes(20_000_000, 1) - self.predict_bytes(10_000_000, 1)) / 10_000_000

    def rows_within(self, budget_bytes: int) -> int:
        """Return the largest number of rows whose predicted peak is within a budget; 0 if none is."""
        low, high = 0, 1
        while self.predict_bytes(high, 0) <= budget_bytes and high < 1 << 40:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.predict_bytes(middle, 0) <= budget_bytes else (low, middle)
        return low


def growing_bytes(phase: str, n_rows: int, layout: Layout) -> int:
    """Return the part of a phase's memory that grows with the rows.

    Parameters
    ----------
    phase
        One of `PHASES`.
    n_rows
        Rows of the instance.
    layout
        Of data and training.

    Notes
    -----
    From XGBoost 3.2: the row-major index has one byte a cell (two above 256 bins, four where anything is missing), the
    column-major copy the same without the four, and a bit a cell says what is missing; eight bytes a row for row
    pointers. Boosting adds gradients (two copies of 8 bytes), row ids (8, and 16 for partitioning), positions, margin,
    label and weight (4 each); `fit_booster` adds the log losses of the last round (20). `KEYS` take 13 bytes a row.
    """
    keys = 13 * n_rows
    if phase == "cuts":
        wide = Layout(
            **{name: getattr(layout, name) for name in Layout.__slots__} | {"n_features": layout.n_wide, "bins": 0}
        )
        return keys + _matrix_bytes(n_rows, wide) + _sketch_bytes(n_rows, layout)
    margins = 4 * layout.n_classes * n_rows
    if phase == "finish":
        return keys + margins + n_rows * (40 * layout.n_classes + 100)
    sketched_whole = phase == "matrix" and layout.n_wide > CARRIER_SHARE * layout.n_features
    matrix = _matrix_bytes(n_rows, layout) + (_sketch_bytes(n_rows, layout) if sketched_whole else 0)
    return keys + matrix + (0 if phase == "matrix" else margins + n_rows * 68)


def _fixed_bytes(phase: str, layout: Layout) -> int:
    """Return what a phase takes whatever the rows, by formula."""
    if phase == "cuts":
        return 2 * WIDE_BATCH_ROWS * (layout.n_features + 4 * layout.n_wide)
    batch = 2 * BATCH_ROWS * layout.n_features * 4
    cuts = layout.bins * (20 + 8 * layout.threads)
    if phase == "matrix":
        return batch + cuts
    if phase == "finish":
        return 150 << 20  # scikit-learn and SciPy
    nodes = min(2**layout.max_depth - 1, 65_536)
    return cuts + int(16 * layout.bins * (1.2 * nodes + layout.threads))


def _matrix_bytes(n_rows: int, layout: Layout) -> int:
    """Return the bytes that a finished matrix keeps."""
    bin_bytes = 1 if layout.max_bin <= 256 else 2
    cell = bin_bytes + 1 / 8 + (4 if layout.has_missing else bin_bytes)
    return int(n_rows * layout.n_features * cell) + 8 * n_rows


def _sketch_bytes(n_rows: int, layout: Layout) -> int:
    """Return the bytes of the quantile sketches of the columns that need one."""
    per_level = 8 * min(layout.max_bin, max(n_rows, 1))
    level = 1
    while (1 << level) * (ceil(level * per_level) + 1) < n_rows:
        level += 1
    return layout.n_wide * (64 + 16 * level) * min(ceil(level * per_level) + 1, max(n_rows, 1))


def slope_ratio(model: MemoryModel, phase: str) -> float | None:
    """Return measured over computed growth between the smallest and the largest measurement of a phase."""
    points = sorted((point for point in model.points if point.phase == phase), key=lambda point: point.n_rows)
    if len(points) < 2 or points[0].n_rows == points[-1].n_rows:
        return None
    first, last = points[0], points[-1]
    computed = growing_bytes(phase, last.n_rows, model.layout) - growing_bytes(phase, first.n_rows, model.layout)
    return (last.peak_bytes - first.peak_bytes) / computed


def with_points(model: MemoryModel, points: Sequence[MemoryPoint]) -> MemoryModel:
    """Return the model with constants from measurements."""
    return MemoryModel(model.layout, model.megabytes_per_gene, tuple(points))
