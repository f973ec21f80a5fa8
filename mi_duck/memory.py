"""How much memory training takes, predicted before it is spent.

The structure of the model is that of XGBoost's ``QuantileDMatrix`` on a CPU: the row-major bin index, the column-major
copy, the row ids of sparse columns, the quantile sketch while building, gradients and histograms while training. Its
coefficients come from reading XGBoost 3.2's source and are **not yet measured on this machine**; a margin covers what
they leave out.
"""

from dataclasses import dataclass
from math import ceil

MARGIN = 1.1  # the formula misses the last batch and the slack of the allocator: up to a tenth
BASE_BYTES = 260 << 20  # interpreter, NumPy, Arrow and XGBoost loaded
BATCH_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Layout:
    """What memory depends on beside the number of rows.

    Parameters
    ----------
    n_features
        Columns of the matrix.
    bins
        Histogram bins of all columns together.
    has_missing
        Whether any value is missing: then XGBoost stores four bytes a value instead of one.
    max_bin, max_depth, threads
        Settings of the training.
    """

    n_features: int
    bins: int
    has_missing: bool
    max_bin: int
    max_depth: int
    threads: int


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """Peak memory of the process that trains one instance.

    Parameters
    ----------
    layout
        Of the data and the training.
    megabytes_per_gene
        The user's own rule, MiB a gene, that replaces the formula; None for the formula.
    is_measured
        Whether the coefficients were measured on this machine.
    """

    layout: Layout
    megabytes_per_gene: float | None = None
    is_measured: bool = False

    def predict_bytes(self, n_rows: int, n_genes: int) -> int:
        """Return the peak resident memory in bytes of training ``n_rows`` rows of ``n_genes`` genes."""
        if self.megabytes_per_gene is not None:
            return BASE_BYTES + int(self.megabytes_per_gene * (1 << 20) * n_genes)
        layout = self.layout
        matrix = _matrix_bytes(n_rows, layout)
        sketch = _sketch_bytes(n_rows, layout)
        batch = 2 * BATCH_ROWS * layout.n_features * 4
        train = n_rows * (16 + 44)
        nodes = min(2**layout.max_depth - 1, 65_536)
        histograms = int(16 * layout.bins * (1.2 * nodes + layout.threads))
        return int(MARGIN * max(sketch + batch, matrix + batch, matrix + train + histograms)) + BASE_BYTES

    def bytes_per_row(self) -> float:
        """Return what one more row costs, in bytes."""
        return (self.predict_bytes(2_000_000, 1) - self.predict_bytes(1_000_000, 1)) / 1_000_000

    def rows_within(self, budget_bytes: int) -> int:
        """Return the largest number of rows whose predicted peak is within a budget; 0 if none is."""
        low, high = 0, 1
        while self.predict_bytes(high, 0) <= budget_bytes and high < 1 << 40:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.predict_bytes(middle, 0) <= budget_bytes else (low, middle)
        return low


def _matrix_bytes(n_rows: int, layout: Layout) -> int:
    """Return the bytes that the finished matrix keeps."""
    cells = n_rows * layout.n_features
    if layout.has_missing:
        bin_bytes = 1 if layout.max_bin <= 256 else 2
        index = cells * (4 + bin_bytes + 1 / 8)
    else:
        bin_bytes = 1 if layout.max_bin <= 256 else 2
        index = cells * (2 * bin_bytes + 1 / 8)
    return int(index + 8 * (n_rows + 1) + layout.bins * (20 + 8 * layout.threads))


def _sketch_bytes(n_rows: int, layout: Layout) -> int:
    """Return the bytes of the quantile sketches of all columns while the matrix is built."""
    per_level = 8 * min(layout.max_bin, max(n_rows, 1))
    level = 1
    while (1 << level) * (ceil(level * per_level) + 1) < n_rows:
        level += 1
    return layout.n_features * 80 * min(ceil(level * per_level) + 1, max(n_rows, 1))
