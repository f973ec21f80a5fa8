"""The plan of a cross-validated classifier: data, genes and folds as of any run, one instance of all genes, memory by formula.

A classifier that learns from blocks of rows needs a buffer, its own weights, and some bytes per row; one that
needs all rows at once needs one array of them, and what it makes of that. The constants were measured
(``benchmarks/bench_classifiers.py``) and have a margin.
"""

from bisect import bisect_right
from dataclasses import asdict, replace

from mi_duck.classifiers.blocks import BUFFER_BYTES
from mi_duck.classifiers.estimators import NETWORKS, Estimator, named_estimator
from mi_duck.classifiers.tabnet import ROWS_AT_ONCE
from mi_duck.numbers import gibibytes
from mi_duck.plan.cut import Alternative, check_classes
from mi_duck.plan.formula import by_formula
from mi_duck.plan.indexing import Indexed
from mi_duck.plan.windows import refusal_of
from mi_duck.resources import Budget
from mi_duck.run.costs import PLANNED, Costs, Rates
from mi_duck.run.plan import Cut, Instance, Plan, PlannedData, holdout_segments, make_segments
from mi_duck.settings import Asked, Classifying

BASE_BYTES = 190 << 20
"""Interpreter, NumPy, Arrow, SciPy and scikit-learn."""
TORCH_BYTES = 260 << 20
WEIGHT_COPIES, BATCH_COPIES = 10, 6
"""Of a network: weights, gradients, two moments, what was best, and what predicts in double precision; values and gradients."""
BUFFERS = 5.0
"""Buffers at once: blocks as they are read, joined, shuffled, and prepared batch by batch."""
ROW_BYTES, CLASS_BYTES = 60, 40
"""Of each row of the run, and for each class: keys, folds, margins, and what calibration makes of them."""
BYTES_PER_SECOND = 300e6
"""Prepared bytes that a pass takes in a second; a rough number for the time shown."""
FITS_AT_ONCE = 60
"""Passes that one fit of all rows is worth, for the time shown."""


def predicted_bytes(estimator: Estimator, *, n_rows: int, n_training_rows: int, n_columns: int, n_classes: int) -> int:
    """Return the peak memory of training a classifier.

    Parameters
    ----------
    n_columns
        Of a prepared row: features, and indicators of missing values.
    """
    fixed = BASE_BYTES + network_bytes(estimator, n_columns, n_classes)
    rows = n_rows * (ROW_BYTES + CLASS_BYTES * n_classes)
    if estimator.is_streamed:
        return fixed + rows + int(BUFFERS * BUFFER_BYTES)
    return fixed + rows + BUFFER_BYTES + int(estimator.copies * 4 * n_training_rows * n_columns)


def network_bytes(estimator: Estimator, n_columns: int, n_classes: int) -> int:
    """Return what a network takes beside the rows: PyTorch, its weights in some copies, and a batch as each layer sees it."""
    if estimator.name not in NETWORKS:
        return 0
    options = estimator.values
    if estimator.name == "mlp":
        sizes = (n_columns, *options["hidden"], n_classes)
        n_weights = sum(one * other for one, other in zip(sizes[:-1], sizes[1:], strict=True))
        batch = options["batch_rows"] * sum(sizes)
    else:
        n_weights = n_columns * (n_columns + 4 * options["width"] * (options["steps"] + 2))
        batch = max(options["batch_rows"], 2 * ROWS_AT_ONCE) * n_columns * (options["steps"] + 1)
    return TORCH_BYTES + 4 * int(WEIGHT_COPIES * n_weights + BATCH_COPIES * batch)


def classifier_plan(
    indexed: Indexed, budget: Budget, asked: Asked, classifying: Classifying, estimator: Estimator, *, threads: int
) -> Plan:
    """Return the plan of a cross-validated classifier; see `mi_duck.plan.make_plan.make_plan`.

    Raises
    ------
    PlanError, MemoryBudgetError
        It needs more than the budget, or a fold would train without a class.
    """
    data, genes = indexed.data, indexed.genes
    start = by_formula(indexed, asked, threads=threads)
    settings = replace(
        start.settings,
        n_estimators=classifying.epochs,
        early_stopping_patience=classifying.epoch_patience,
        estimator=estimator.name,
        estimator_options=estimator.options,
        estimator_made=estimator.made,
    )
    n_training_rows = int(genes.n_training_rows.sum())
    sizes = {"n_rows": data.n_rows, "n_columns": len(data.features) + len(data.wide_features)}
    sizes |= {"n_classes": len(data.classes)}
    peak = predicted_bytes(estimator, n_training_rows=n_training_rows, **sizes)
    if peak > PLANNED * budget.budget_bytes:
        raise refusal_of(budget)(_refusal(estimator, budget, peak, n_training_rows, sizes, data))
    passes = FITS_AT_ONCE if not estimator.is_streamed else classifying.epochs
    seconds = (settings.n_folds + 1) * passes * 4 * n_training_rows * sizes["n_columns"] / BYTES_PER_SECOND
    instance = Instance(0, 0, data.n_genes, data.n_genes, data.n_rows, n_training_rows, peak, seconds)
    check_classes((instance,), indexed, settings)
    one = Alternative(
        strategy="single",
        layout=settings.layout_used,
        n_instances=1,
        genes_per_instance=data.n_genes,
        peak_bytes=peak,
        seconds=seconds,
        disk_bytes=data.n_rows * data.record_bytes,
        is_feasible=True,
        reason="",
    )
    cut = Cut(
        strategy_used="single",
        budget=budget,
        most_genes=data.n_genes,
        overlap_genes=0,
        instances=(instance,),
        segments=make_segments((instance,), genes.n_rows),
        holdout_segments=holdout_segments(data),
        alternatives=(asdict(one),),
    )
    model = replace(start.model, megabytes_per_gene=peak / (1 << 20) / data.n_genes)
    return Plan(asked, data, settings, Costs(model, Rates(), peak / n_training_rows), cut)


def _refusal(
    estimator: Estimator, budget: Budget, peak: int, n_training_rows: int, sizes: dict[str, int], data: PlannedData
) -> str:
    """Return what does not fit, and what would: as many genes or features as the budget has room for."""
    room = int(PLANNED * budget.budget_bytes)

    def of_genes(n_genes: int) -> int:
        n_rows, n_trained = (-(-n * n_genes // data.n_genes) for n in (sizes["n_rows"], n_training_rows))
        return predicted_bytes(estimator, n_training_rows=n_trained, **(sizes | {"n_rows": n_rows}))

    def of_features(n_features: int) -> int:  # base scores stay beside those that a pilot keeps
        n_columns = -(-sizes["n_columns"] * (n_features + len(data.base_scores)) // len(data.features))
        return predicted_bytes(estimator, n_training_rows=n_training_rows, **(sizes | {"n_columns": n_columns}))

    fitting = bisect_right(range(1, data.n_genes), room, key=of_genes)
    remedies = [f"--sample-genes {fitting}"] if fitting >= 2 else []
    if not estimator.is_streamed:
        n_features = bisect_right(range(1, len(data.features)), room, key=of_features)
        remedies += [f"--screen-features {n_features}"] if n_features >= 1 else []
        of_a_tenth = predicted_bytes(estimator, n_training_rows=n_training_rows // 10, **sizes)
        may_sample = data.base_scores and estimator.takes_weights and of_a_tenth <= room
        remedies += ["a smaller --sample-negatives"] if may_sample else []
        of_blocks = predicted_bytes(named_estimator("sgd", []), n_training_rows=n_training_rows, **sizes)
        if of_blocks <= PLANNED * budget.budget_bytes:
            remedies.append("--estimator sgd, which reads blocks of rows")
    return (
        f"{estimator.name} needs {gibibytes(peak)} GiB for {n_training_rows:,} rows of {sizes['n_columns']:,} columns, and the "
        f"budget is {gibibytes(budget.budget_bytes)} GiB ({budget.won}); what would fit, by estimate: "
        f"{', or '.join(remedies) or 'a larger --max-memory-per-instance-gb'}"
    )
