"""How missing values and zeros are treated: what each layout takes, and which one is chosen by the rows of a few genes.

A layout says which cells a matrix leaves out; see `mi_duck.run.plan.Settings`. What changes the model is chosen only where it
was measured to change scores by less than .001, or where memory leaves nothing else, and is said.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mi_duck.numbers import gibibytes
from mi_duck.plan.formula import ByFormula
from mi_duck.plan.indexing import Indexed
from mi_duck.plan.probes import sizes_to_look_at
from mi_duck.plan.small_run import SmallRun, density_of, open_small_run
from mi_duck.plan.strategies import CutRequest, usual_genes
from mi_duck.processes import Context
from mi_duck.rows.segments import ColumnDensity
from mi_duck.run.costs import SPARSE, Layout, MemoryModel, growing_bytes
from mi_duck.run.folder import RunFolder
from mi_duck.run.plan import Settings
from mi_duck.settings import Asked

LAYOUTS = ("missing", "zeros", "sentinel")
SURELY_DENSE = 0.25  # of many rows: then also of a fold or an instance, whose share differs by a per cent or two
STANDARD_ERRORS = 6.0  # of few rows: four of a difference between two such samples, for the worst of a thousand columns
SPARSE_FACTOR = 1.25  # a stored cell of a matrix with missing values over a cell of one without
TIME_WORTH_ZEROS = 0.8  # of a round; at .92 on a real genome nothing was saved, at .56 two fifths
ROOM_FOR_ZEROS = 0.9  # of the budget: the memory is not measured yet, and a plan that fits comes first


@dataclass(frozen=True, slots=True)
class LaidOut:
    """How missing values and zeros are treated, and the rows that were looked at to decide it.

    Parameters
    ----------
    model
        Memory by formula, in that layout.
    zeros
        Features whose zeros would count as missing in the layout ``zeros``.
    density, small_run
        How columns are filled, and the rows of a few genes on disk; None where no rows were looked at.
    is_probed
        Whether memory and time are to be measured on them.
    """

    settings: Settings
    model: MemoryModel
    zeros: tuple[str, ...]
    density: ColumnDensity | None
    small_run: SmallRun | None
    is_probed: bool


def lay_out(
    indexed: Indexed,
    start: ByFormula,
    request: CutRequest,
    folder: RunFolder,
    asked: Asked,
    context: Context,
) -> LaidOut:
    """Choose the layout of missing values and zeros, by the rows of a few genes where looking at them is worth it."""
    settings, model = start.settings, start.model
    sizes, is_probed = sizes_to_look_at(asked, settings, request.training_rows, model.layout)
    if not sizes:
        if asked.layout == "sentinel":
            model = model.with_layout(without_missing(model.layout))
            settings = settings_in_layout(settings, "sentinel")
        return LaidOut(settings, model, (), None, None, False)
    small_run = open_small_run(
        folder, asked, indexed.data, settings, indexed.genes, sizes, context, model=model, wider=indexed.pilot
    )
    density = density_of(small_run, max(sizes))
    zeros = zeros_to_leave_out(model.layout, density)
    layout, reason = choose_layout(asked, request, model, density, zeros)
    context.say(f"layout '{layout}': {reason}")
    return LaidOut(
        settings=settings_in_layout(settings, layout, zeros),
        model=model.with_layout(layout_of(model.layout, density, layout, zeros)),
        zeros=zeros,
        density=density,
        small_run=small_run,
        is_probed=is_probed,
    )


def settings_in_layout(settings: Settings, layout: str, zeros: tuple[str, ...] = ()) -> Settings:
    """Return the settings of a training in another layout; ``zeros`` count as missing in the layout ``zeros`` alone."""
    return replace(settings, layout_used=layout, zero_is_missing=zeros if layout == "zeros" else ())


def choose_layout(
    asked: Asked, request: CutRequest, model: MemoryModel, density: ColumnDensity, zeros: Sequence[str]
) -> tuple[str, str]:
    """Return the layout and why: as asked; else the fastest that fits; ``zeros`` would count as missing in ``zeros``.

    Zeros count as missing where that surely saves time and fits with room to spare: scores change by less than .001. Missing
    values become a sentinel only where an instance would not fit otherwise.
    The model is not measured yet.
    """
    if asked.layout != "auto":
        return asked.layout, "as --layout says"
    n_genes, budget = usual_genes(asked, request, model), request.budget
    rows = int(request.training_rows.mean() * n_genes)
    layouts = {name: layout_of(model.layout, density, name, zeros) for name in LAYOUTS}
    needed = {name: model.with_layout(one).needed_bytes(rows, n_genes) for name, one in layouts.items()}
    costs = {name: cell_factor(one.missing_share) * (1 - one.missing_share) for name, one in layouts.items()}
    takes = {name: f"{request.noun.count(n_genes)} take about {gibibytes(size)} GiB" for name, size in needed.items()}
    # known to be faster on the cores, in a matrix in memory
    is_faster = costs["zeros"] < TIME_WORTH_ZEROS * costs["missing"]
    in_memory = asked.strategy != "external" and asked.device == "cpu"
    if is_faster and in_memory and needed["zeros"] <= ROOM_FOR_ZEROS * budget.budget_bytes:
        share = costs["zeros"] / costs["missing"]
        return "zeros", (
            f"zeros of {len(zeros):,} columns count as missing, so that rounds take about {share:.2f} of the time; "
            f"{takes['zeros']}, and {gibibytes(needed['missing'])} GiB with --layout missing"
        )
    if not density.has_missing and not model.layout.missing_share:
        return "missing", "no value is missing, so every cell takes a byte"
    if needed["missing"] <= budget.budget_bytes or needed["sentinel"] > budget.budget_bytes:
        return "missing", f"missing values stay missing; {takes['missing']}"
    return "sentinel", (
        f"{takes['sentinel']} with a number below all others for missing values and "
        f"{gibibytes(needed['missing'])} GiB without; set --layout missing to keep them"
    )


def zeros_to_leave_out(base: Layout, density: ColumnDensity) -> tuple[str, ...]:
    """Return the features whose zeros count as missing in the layout ``zeros``: all of one byte, or the surely dense ones.

    One column below a fifth makes XGBoost store row ids beside all columns, 8 bytes per cell; whichever choice takes less
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


def layout_of(base: Layout, density: ColumnDensity, layout: str, zero_is_missing: Sequence[str]) -> Layout:
    """Return what memory depends on, for one way to treat missing values and zeros.

    ``zero_is_missing`` counts in the layout ``zeros`` alone.
    """
    if layout == "sentinel":
        return without_missing(base)
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


def without_missing(base: Layout) -> Layout:
    """Return what memory depends on where no value is missing."""
    return replace(base, missing_share=0.0, stored_share=1.0, has_sparse_column=False)


def cell_factor(missing_share: float) -> float:
    """Return what a stored cell of a matrix costs in a round, over one of a matrix without a missing value."""
    return SPARSE_FACTOR if missing_share else 1.0
