"""Choices that make training smaller or faster: layout, folds by matrix or by weight, sampled negatives, screened features.

What changes the model is chosen only where the user asks for it, where it was measured to change scores by less than .001, or
where memory leaves nothing else, and is said.
"""

from collections.abc import Mapping, Sequence

from mi_duck.data.database import Database
from mi_duck.data.dataset import Dataset
from mi_duck.errors import PlanError
from mi_duck.plan.strategies import LAYOUTS, CutRequest, cell_factor, layout_of, usual_genes, zeros_to_leave_out
from mi_duck.resources import GIB, Budget
from mi_duck.rows.segments import ColumnDensity
from mi_duck.run.costs import REFERENCE_SHARE, MemoryModel
from mi_duck.run.made import levels_in
from mi_duck.settings import Asked, flags_of

PILOT_GENES = 200
GENES_WORTH_SCREENING = 10 * PILOT_GENES  # so that one in ten at most is not scored
FEATURES_WORTH_SCREENING, USUAL_FEATURES = 450, 300
TIME_WORTH_ZEROS = 0.8  # of a round; at .92 on a real genome nothing was saved, at .56 two fifths
ROOM_FOR_ZEROS = 0.9  # of the budget: the memory is not measured yet, and a plan that fits comes first
ROWS_WORTH_SAMPLING = 200_000
USUAL_SHARE_KEPT = 0.25  # to train on: the same scores as with all, by benchmarks/bench_whole_job.py on a real genome
EASY_QUANTILE = 0.9  # of the negatives: those that the base model finds easiest
EASY_GENES = 2000  # genes whose negatives decide what is easy
ROUNDS_WORTH_A_MATRIX = 40
SHALLOW = 3  # depth of trees that need no hint
INSTANCE_OPTIONS = ("genes_per_instance", "max_instances", "instance_overlap", "auto_adjust_instance_size")


def unused_instance_options(asked: Asked, strategy: str) -> str | None:
    """Return that options about instances change nothing where ``auto`` takes one model; None where none is given."""
    given = " ".join(flags_of(asked, names=INSTANCE_OPTIONS))
    if asked.strategy != "auto" or strategy != "single" or not given:
        return None
    return (
        f"warning: one model of all fits and is trained, so {given} changes nothing; --strategy multi makes instances"
    )


def hint_of_levels(dataset: Dataset, max_depth: int) -> str | None:
    """Return what to try where most features are levels of text columns and trees are deep, as by default.

    A deep tree splits off one level after the other (`benchmarks/bench_any_table.py`).
    """
    n_levels = sum(len(one.features) for one in levels_in(dataset.made))
    if max_depth <= SHALLOW or 2 * n_levels <= len(dataset.features):
        return None
    return (
        f"{n_levels:,} of {len(dataset.features):,} features are levels of text columns, of which shallow trees may learn more; "
        "try --preset levels, and compare"
    )


def choose_layout(
    asked: Asked, request: CutRequest, model: MemoryModel, density: ColumnDensity, budget: Budget
) -> tuple[str, str]:
    """Return the layout and why: as asked; else the fastest that fits.

    Zeros count as missing where that surely saves time and fits with room to spare: scores change by less than .001. Missing
    values become a sentinel only where an instance would not fit otherwise.
    The model is not measured yet.
    """
    if asked.layout != "auto":
        return asked.layout, "as --layout says"
    n_genes = usual_genes(asked, request, model, budget)
    rows = int(request.training_rows.mean() * n_genes)
    zeros = zeros_to_leave_out(model.layout, density)
    layouts = {name: layout_of(model.layout, density, name, zeros) for name in LAYOUTS}
    needed = {name: model.with_layout(one).needed_bytes(rows, n_genes) for name, one in layouts.items()}
    costs = {name: cell_factor(one.missing_share) * (1 - one.missing_share) for name, one in layouts.items()}
    takes = {name: f"{request.noun.count(n_genes)} take about {size / GIB:.2f} GiB" for name, size in needed.items()}
    # known to be faster on the cores, in a matrix in memory
    is_faster = costs["zeros"] < TIME_WORTH_ZEROS * costs["missing"]
    in_memory = asked.strategy != "external" and request.settings.device == "cpu"
    if is_faster and in_memory and needed["zeros"] <= ROOM_FOR_ZEROS * budget.budget_bytes:
        share = costs["zeros"] / costs["missing"]
        return "zeros", (
            f"zeros of {len(zeros):,} columns count as missing, so that rounds take about {share:.2f} of the time; "
            f"{takes['zeros']}, and {needed['missing'] / GIB:.2f} GiB with --layout missing"
        )
    if not density.has_missing and not model.layout.missing_share:
        return "missing", "no value is missing, so every cell takes a byte"
    if needed["missing"] <= budget.budget_bytes or needed["sentinel"] > budget.budget_bytes:
        return "missing", f"missing values stay missing; {takes['missing']}"
    return "sentinel", (
        f"{takes['sentinel']} with a number below all others for missing values and "
        f"{needed['missing'] / GIB:.2f} GiB without; set --layout missing to keep them"
    )


def choose_cv(asked: str, n_estimators: int, *, n_features: int, n_sketched: int) -> str:
    """Return how folds are held out: as asked; else by what is faster.

    A matrix for each fold saves a third of the time of its rounds and costs a build: 12 s against .2 s per round for 580,000
    rows of 1,167 features, so it pays from some 40 rounds of three classes. Without cuts that are known beforehand, folds
    of their own would be cut otherwise. The choice depends on settings and columns alone, so that the same settings give
    the same models on every machine.
    """
    if n_sketched > REFERENCE_SHARE * n_features:
        if asked == "matrices":
            raise PlanError(
                f"--cv matrices needs the cuts of all columns beforehand, which {n_sketched:,} columns of {n_features:,} that "
                "have more values than a byte or than --max-bin make too expensive; leave --cv out"
            )
        return "weights"
    if asked != "auto":
        return asked
    return "matrices" if n_estimators >= ROUNDS_WORTH_A_MATRIX else "weights"


def choose_sample(db: Database, dataset: Dataset, asked: float | None, *, n_rows: int) -> tuple[float, float | None]:
    """Return the share of the easy negatives to train on, and the site score below which a negative is easy.

    As asked; else a quarter where rows are many and have base scores. Where it is all, no negative is easy: None. A share can
    be asked for only where there are base scores.
    """
    if asked == 1 or (asked is None and (not dataset.base_scores or n_rows < ROWS_WORTH_SAMPLING)):
        return 1.0, None
    if not dataset.base_scores:
        raise PlanError("--sample-negatives needs a base score for every class (--base-score-columns)")
    share = USUAL_SHARE_KEPT if asked is None else asked
    (row,) = db.rows("easy_below", background=dataset.labels[0], quantile=EASY_QUANTILE, n_genes=EASY_GENES)
    if row["easy_below"] is None:
        if asked is None:
            return 1.0, None
        raise PlanError(f"--sample-negatives: no row of class {dataset.classes[0]} has a base score for every site")
    return share, float(row["easy_below"])


def choose_features(asked: int | None, *, n_features: int, n_genes: int) -> int | None:
    """Return how many features a pilot is to keep: as asked; else 300 where features and genes are many; None: all.

    With 300 of 1,138 features of a plant scores were those of all within .001, in two fifths of the CPU time
    (`benchmarks/bench_settings.py`).
    """
    if asked is None:
        is_worth = n_features >= FEATURES_WORTH_SCREENING and n_genes >= GENES_WORTH_SCREENING
        return USUAL_FEATURES if is_worth else None
    return asked if 0 < asked < n_features else None


def pilot_size(groups: Sequence[str]) -> int:
    """Return how many genes of lowest rank a pilot looks at: whole fold groups, at most a quarter of all.

    ``groups`` are the fold groups of all genes by rank.
    """
    n_genes = min(PILOT_GENES, len(groups) // 4)
    while 0 < n_genes < len(groups) and groups[n_genes] == groups[n_genes - 1]:
        n_genes += 1  # a group is in the pilot whole or not at all
    if n_genes == 0:
        raise PlanError(f"{len(groups)} genes are too few to spare a pilot for --screen-features; leave it out")
    return n_genes


def best_features(
    gains: Mapping[str, float], features: Sequence[str], wanted: int, *, always: Sequence[str]
) -> frozenset[str]:
    """Return the features with the largest gains, ties by their order, and those that always stay."""
    best = sorted(features, key=lambda name: -gains[name])
    return frozenset(best[:wanted]) | frozenset(always)
