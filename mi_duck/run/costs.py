"""How much memory training takes, predicted before it is spent.

A training process passes through phases, and its peak is that of the largest: ``cuts`` (sketching the columns that are not
one byte wide), ``matrix`` (building the quantised matrix of all rows; with ``--cv matrices`` the fits of the folds lie before
it and belong to this phase), ``boost`` (fitting on it), ``finish`` (calibrating and writing). What grows with the rows in each
of them is arithmetic on XGBoost's data structures, exact to a per cent; what does not (the interpreter, the libraries,
histograms, batches) is measured: short child processes train on a few genes of the user's data with the user's settings, and
each phase's constant is the largest excess of a measured peak over the arithmetic. The slope of the measured peaks is kept
beside, as a check of the arithmetic.

Without measurements, where probes would take longer than they are worth, the constants come from reading XGBoost's
source, with a margin, and the predictions say so.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

BATCH_ROWS = 1024
WIDE_BATCH_ROWS = 16_384  # a batch of few columns must be long to be worth XGBoost's work on it: half the time
PAGE_ROWS = 16_384  # of a matrix on disk: a page is read whole in every pass over the data
PAGES_HELD = 2.25  # of a matrix on disk while boosting: one in use, the next being read (measured from .7 to 12 pages)
PAGES_BUILT = 1.65  # of it while it is built
FULL_LEVELS = 6  # of a tree at most: some tree has all nodes of these where rows are enough
# With rows for so many of the smallest leaves on average half of the nodes of a level are there; of each level below the full
# ones for one more, for what ends above it is missing there too.
LEAVES_PER_NODE = 3
SPARSE = 0.2  # XGBoost's column-major copy stores a column that is filled to less as pairs of row and bin
REFERENCE_SHARE = 0.5  # with more sketched columns than this, sketching them apart would take as much as the whole
PHASES = ("cuts", "matrix", "boost", "finish")

MARGIN = 1.05  # of predictions that are not measured
MARGIN_MEASURED = 1.015  # for what a whole training adds to the two rounds of a probe: curves, a larger heap
# Of a booster's file, for each node that the largest tree has above its last level: the mean tree has half, and as many leaves.
TREE_BYTES = 34
HEAP_BYTES_ON_DISK = (
    12_600  # that each tree adds where the matrix lies on disk: 9, 43 and 62 MiB of 1,020, 3,400 and 4,639 trees
)
COPIES_WHILE_SAVED = 6  # of the booster that grows: XGBoost's trees, its JSON, the bytes; those it began with
NODES_OVER_PROBE = 1.3  # of the largest tree, over that of a probe's two rounds: 1.4 on plants, 1.1 if nearly full
PLANNED = 0.97  # share of a budget that a prediction may take; the process is killed where it passes the whole
BASE_BYTES = 120 << 20  # interpreter, NumPy, Arrow and XGBoost loaded: the same to 3 MiB in all that was measured


@dataclass(frozen=True, slots=True)
class Layout:
    """What memory depends on beside the number of rows; what ``--layout`` chooses is in the three shares of cells.

    Parameters
    ----------
    n_wide
        Columns that are sketched: those that are not stored as one byte (``wide_features`` of the plan), and those of one byte
        that have more values than bins.
    bins
        Histogram bins of all columns together, at most.
    missing_share
        Share of the cells that are missing as XGBoost sees them. If any is, the row-major index has four bytes for each
        that is not, instead of one for each cell.
    stored_share
        Share of the cells that the column-major copy stores: columns filled to less than a fifth store only what is there.
    has_sparse_column
        Whether there is such a column: then row ids are stored beside all entries.
    cv
        As ``cv_used`` of `mi_duck.run.plan.Settings`.
    is_external
        Whether the matrix lies on disk.
    scored_per_row
        Rows that are scored for each that is trained on; above 1 where easy negatives are sampled.
    has_weights
        Whether the data have weights, by which calibrators are fitted.
    leaf_rows
        Rows of the smallest leaf while nothing is learned: ``min_child_weight`` over the largest variance of a class's label;
        0 where trees may be full.
    n_trees
        Of all fits, as many as early stopping usually leaves: they are kept until all are written; and the copies of one.
    """

    n_features: int
    n_wide: int
    bins: int
    missing_share: float
    stored_share: float
    has_sparse_column: bool
    n_classes: int
    max_bin: int
    max_depth: int
    threads: int
    cv: str
    is_external: bool = False
    scored_per_row: float = 1.0
    leaf_rows: float = 0.0
    has_weights: bool = False
    n_trees: int = 0


@dataclass(frozen=True, slots=True)
class MemoryPoint:
    """One measurement: the peak resident memory of one phase of a training process, in bytes.

    ``n_rows`` are trained on. ``n_nodes`` are those of its largest tree that had a histogram: a few rounds have fewer than the
    whole training that is predicted.
    """

    phase: str
    n_genes: int
    n_rows: int
    n_features: int
    peak_bytes: int
    n_nodes: int


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """Peak memory of the process that trains one instance.

    Parameters
    ----------
    megabytes_per_gene
        The user's own rule, MiB per gene, that replaces the model; None for the model.
    measured_bytes
        The measured constants, no peaks: for each of `PHASES` what it takes beside what grows with the rows; None for the
        formula.
    """

    layout: Layout
    megabytes_per_gene: float | None = None
    measured_bytes: tuple[int, ...] | None = None

    @property
    def is_measured(self) -> bool:
        """Whether the constants were measured on this machine, these data and these settings."""
        return self.measured_bytes is not None and self.megabytes_per_gene is None

    def constant_bytes(self, phase: str) -> int:
        """Return what a phase takes beside what grows with the rows."""
        if self.measured_bytes is None:
            return BASE_BYTES + _constant_by_formula(phase, self.layout)
        return self.measured_bytes[PHASES.index(phase)]

    def predict_bytes(self, n_rows: int, n_genes: int, *, n_nodes: int | None = None) -> int:
        """Return the peak resident memory in bytes of training on ``n_rows`` rows of ``n_genes`` genes.

        ``n_nodes`` of its largest tree, where they are known because it was trained; by default what a whole training may reach.
        """
        if self.megabytes_per_gene is not None:
            return BASE_BYTES + int(self.megabytes_per_gene * (1 << 20) * n_genes)
        peak = max(
            self.constant_bytes(phase) + growing_bytes(phase, n_rows, self.layout, n_nodes=n_nodes) for phase in PHASES
        )
        return int((MARGIN if self.measured_bytes is None else MARGIN_MEASURED) * peak)

    def needed_bytes(self, n_rows: int, n_genes: int) -> int:
        """Return the budget that training needs: the predicted peak and room for what a prediction may miss."""
        predicted = self.predict_bytes(n_rows, n_genes)
        return predicted if self.megabytes_per_gene is not None else int(predicted / PLANNED)

    def bytes_per_row(self) -> float:
        """Return what one more row costs, in bytes: a gene costs its own rows times this."""
        return (self.predict_bytes(20_000_000, 1) - self.predict_bytes(10_000_000, 1)) / 10_000_000

    def rows_within(self, budget_bytes: int) -> int:
        """Return the largest number of rows that a budget is enough for; 0 if it is for none."""
        return bisect_right(range(1, 1 << 40), budget_bytes, key=lambda n_rows: self.needed_bytes(n_rows, 0))

    def with_layout(self, layout: Layout) -> "MemoryModel":
        """Return the model for another layout; constants that were measured stay where they do not depend on it.

        A matrix on disk is another program: its constants come from the formula unless they were measured for it.
        """
        keeps = layout.is_external == self.layout.is_external
        return replace(self, layout=layout, measured_bytes=self.measured_bytes if keeps else None)

    def with_points(self, points: Sequence[MemoryPoint]) -> "MemoryModel":
        """Return the model with constants from measurements of every phase, and leaves as heavy as the largest of them says."""
        largest = max(points, key=lambda point: point.n_rows)
        return replace(
            self,
            layout=replace(
                self.layout, leaf_rows=_leaf_rows(largest.n_rows, NODES_OVER_PROBE * largest.n_nodes, self.layout)
            ),
            measured_bytes=tuple(
                max(
                    point.peak_bytes - growing_bytes(phase, point.n_rows, self.layout, n_nodes=point.n_nodes)
                    for point in points
                    if point.phase == phase
                )
                for phase in PHASES
            ),
        )


def growing_bytes(phase: str, n_rows: int, layout: Layout, *, n_nodes: int | None = None) -> int:
    """Return the part of a phase's memory that grows with the rows that are trained on.

    ``n_nodes`` are those of the largest tree, where they are known.

    Notes
    -----
    From XGBoost 3.2: boosting adds gradients (two copies of 8 bytes), row ids (8, and 16 for partitioning), positions,
    margin, label and weight (4 each). Where rows of the test fold get weight zero, all rows are evaluated in the process, which
    adds 40; with one matrix per fold that happens on fewer rows than the last fit has. Labels, folds, genes, uses and
    weights take 12 bytes per row that is scored; calibrating and writing, as measured, 26 per class and 27 more up to
    300,000 rows. Sketches are gone before the matrix is there. A matrix on disk leaves what is counted by row, and the
    pages that are held at once. Histograms take 16 bytes a bin for every node of the largest tree.
    """
    scored = int(n_rows * layout.scored_per_row)
    of_rows = 12 * scored
    sketched_whole = is_sketched_whole(layout.n_wide, layout.n_features)
    if phase == "cuts":
        if sketched_whole:
            return of_rows
        wide = replace(layout, n_features=layout.n_wide, bins=0, missing_share=0.0)
        batches = (2 + (n_rows > WIDE_BATCH_ROWS)) * min(n_rows, WIDE_BATCH_ROWS) * layout.n_features
        return of_rows + _matrix_bytes(n_rows, wide) + _sketch_bytes(n_rows, layout) + batches
    margins = 4 * layout.n_classes * scored
    nodes = n_nodes or expected_nodes(n_rows, layout)
    boosters = 0 if n_nodes else int(TREE_BYTES * layout.n_trees * nodes)
    if layout.is_external and not n_nodes:
        boosters += HEAP_BYTES_ON_DISK * layout.n_trees
    if phase == "finish":
        of_rows += 36 * scored * layout.has_weights
        written = scored * (14 + 26 * layout.n_classes) + 27 * layout.n_classes * min(scored, 300_000)
        return of_rows + margins + boosters + written
    matrix = _matrix_bytes(n_rows, layout)
    if layout.is_external:
        pages = PAGES_HELD if phase == "boost" else PAGES_BUILT
        matrix = int(min(n_rows / PAGE_ROWS, pages) * index_bytes(PAGE_ROWS, layout))
        if phase == "matrix":  # the cells of a page as numbers, twice
            matrix += 2 * min(n_rows, PAGE_ROWS) * layout.n_features * 4
    if phase == "matrix" and sketched_whole:
        matrix = max(matrix, _sketch_bytes(n_rows, layout))
    by_row = n_rows * (88 if layout.cv == "weights" else 48)
    if phase == "boost":
        return of_rows + margins + matrix + boosters + by_row + int(16 * layout.bins * nodes)
    return of_rows + margins + matrix + (by_row if layout.is_external else 0)


def expected_nodes(n_rows: int, layout: Layout) -> float:
    """Return how many nodes the largest tree has a histogram of; levels are sparse where rows are few for their leaves.

    Fitted to counts of trees of 6, 8 and 11 levels: a plant's sites, and labels even or not, learned easily or not at all.
    """
    rows = max(n_rows, 1) * layout.scored_per_row  # a row that stands for several weighs as much

    def of_level(level: int) -> float:
        average = rows / (1 << level)
        rows_per_node = (LEAVES_PER_NODE + max(level - FULL_LEVELS, 0)) * layout.leaf_rows
        is_full = level < FULL_LEVELS and average >= rows_per_node
        return 1 << level if is_full else rows / (average + rows_per_node)

    return min(sum(of_level(level) for level in range(layout.max_depth)), rows, 65_536)


def _leaf_rows(n_rows: int, n_nodes: float, layout: Layout) -> float:
    """Return the rows of the smallest leaf with which so many nodes are expected; 0 where they are all that there can be."""

    def has_fewer(tenths: int) -> bool:
        return expected_nodes(n_rows, replace(layout, leaf_rows=tenths / 10)) < n_nodes

    return bisect_left(range(1, 1 << 30), True, key=has_fewer) / 10


def _constant_by_formula(phase: str, layout: Layout) -> int:
    """Return what a phase takes whatever the rows, by formula."""
    if phase == "cuts":
        return 0
    # where cells are missing, a batch also has the place of each cell that is not
    batch = BATCH_ROWS * layout.n_features * (24 if layout.missing_share else 8)
    cuts = layout.bins * (20 + 8 * layout.threads)
    if phase == "matrix":
        return batch + cuts
    if phase == "finish":
        return 29 << 20  # SciPy
    return cuts + 16 * layout.bins * layout.threads


def refit_bytes(n_rows: int, n_training_rows: int) -> int:
    """Return the memory that refitting the leaves of one class takes.

    A key of 14 bytes a row, twice while they are read, its fold and a mark, and the keys of the training rows; label, weight
    and whether it decides of each training row; batches of features and their leaf numbers; the joint margin and the label.
    """
    return (168 << 20) + 40 * n_rows + 32 * n_training_rows


def index_bytes(n_rows: int, layout: Layout) -> int:
    """Return the bytes of the row-major index: a bin for each cell, or four bytes for each that is not missing."""
    cells = n_rows * layout.n_features
    return int(cells * (4 * (1 - layout.missing_share) if layout.missing_share else 1 if layout.max_bin <= 256 else 2))


def _matrix_bytes(n_rows: int, layout: Layout) -> int:
    """Return the bytes that a finished matrix keeps in memory: none of one on disk.

    The index; the column-major copy, a bin and a bit for each stored cell, and 8 bytes of row id where a column is
    sparse; 8 bytes per row for row pointers.
    """
    if layout.is_external:
        return 0
    stored = n_rows * layout.n_features * (layout.stored_share if layout.missing_share else 1.0)
    per_cell = (1 if layout.max_bin <= 256 else 2) + 1 / 8
    if layout.missing_share and layout.has_sparse_column:
        per_cell += 8
    return index_bytes(n_rows, layout) + int(stored * per_cell) + 8 * n_rows


def _sketch_bytes(n_rows: int, layout: Layout) -> int:
    """Return the bytes of the quantile sketches of the columns that need one, as far as they are filled.

    A sketch collects twice its limit of values, 8 bytes each, before it merges them, with work space of 48 bytes for each
    of its limit, into levels of 16 bytes for each; level after level is used each time that the rows double. Where the whole
    matrix is sketched, columns of few values have a sketch too, of one level.
    """
    n_others = layout.n_features - layout.n_wide if is_sketched_whole(layout.n_wide, layout.n_features) else 0
    per_level = 8 * min(layout.max_bin, max(n_rows, 1))
    level = 1
    while (1 << level) * (ceil(level * per_level) + 1) < n_rows:
        level += 1
    limit = ceil(level * per_level) + 1
    if n_rows <= 2 * limit:
        return (layout.n_wide + n_others) * 16 * n_rows
    return limit * (layout.n_wide * (64 + 16 * (n_rows // (2 * limit)).bit_length()) + n_others * (64 + 16))


def is_sketched_whole(n_sketched: int, n_features: int) -> bool:
    """Return whether so many columns are sketched that all are, from the matrix itself, instead of these apart."""
    return n_sketched > REFERENCE_SHARE * n_features


def slope_ratio(points: Sequence[MemoryPoint], phase: str, layout: Layout) -> float | None:
    """Return measured over computed growth between the smallest and the largest measurement of a phase."""
    found = sorted((point for point in points if point.phase == phase), key=lambda point: point.n_rows)
    if len(found) < 2 or found[0].n_rows == found[-1].n_rows:
        return None
    first, last = found[0], found[-1]
    smaller, larger = (growing_bytes(phase, one.n_rows, layout, n_nodes=one.n_nodes) for one in (first, last))
    return (last.peak_bytes - first.peak_bytes) / (larger - smaller)


@dataclass(frozen=True, slots=True)
class Rates:
    """Seconds of training, measured or, by default, those of two cores at 2.5 GHz (``benchmarks/bench_matrix.py``).

    Parameters
    ----------
    per_cell_built
        Of building one matrix of all rows.
    per_cell_begun
        Of beginning a booster: what its first round takes longer than the others.
    per_cell_and_round
        Of one round of one booster, for each cell that it looks at; see `mi_duck.plan.times.round_seconds`.
    is_external
        Whether they were measured on a matrix on disk.
    """

    start_seconds: float = 3.0
    per_cell_built: float = 30e-9
    per_cell_begun: float = 1e-9
    per_cell_and_round: float = 1.1e-9
    is_external: bool = False


@dataclass(frozen=True, slots=True)
class Costs:
    """What training takes: memory, time, and what one more row adds to the predicted peak."""

    model: MemoryModel
    rates: Rates
    bytes_per_row: float
