"""From a dataset to the plan of a run: index genes, assign folds, choose a layout, measure costs, cut instances.

`make_plan` is a line: each step returns a record that is complete, and the next step reads it.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from mi_duck.atomic_files import write_file
from mi_duck.data.dataset import Dataset
from mi_duck.errors import CheckpointError
from mi_duck.numbers import gibibytes
from mi_duck.plan.cut import cut_instances
from mi_duck.plan.formula import by_formula
from mi_duck.plan.indexing import Indexed, plan_data
from mi_duck.plan.layouts import LaidOut, lay_out
from mi_duck.plan.probes import measure, write_memory
from mi_duck.plan.screening import choose_features, screen_features
from mi_duck.plan.strategies import cut_request
from mi_duck.processes import Context
from mi_duck.resources import Budget, memory_budget
from mi_duck.run.constraints import unused_in
from mi_duck.run.costs import Costs, Rates
from mi_duck.run.folder import RunFolder
from mi_duck.run.plan import Plan
from mi_duck.run.stage_times import PLANNING, keep_stages, metered
from mi_duck.run.xgboost_parameters import checked_parameters
from mi_duck.settings import Asked


def make_plan(
    dataset: Dataset,
    out: Path,
    asked: Asked,
    context: Context,
    *,
    is_elsewhere: bool = False,
    n_sizes: int | None = None,
    rest: Callable[[Indexed, Budget], Plan] | None = None,
) -> Plan:
    """Index genes, assign folds, predict memory, cut instances; write ``genes.parquet``, ``stage_times.json`` and ``plan.json``.

    Parameters
    ----------
    out
        Run folder; must not hold a plan.
    context
        Its threads count a little in the memory of training.
    is_elsewhere
        As for `mi_duck.resources.memory_budget`.
    n_sizes
        Plan so many nested instances, each with twice the genes of the one before and the last with all, for a learning
        curve; None: instances as asked.
    rest
        Makes the plan once data and features are known, where it is not boosted trees that are to be trained.

    Raises
    ------
    DataError, PlanError, MemoryBudgetError
        See `mi_duck.data.genes`, `mi_duck.plan.windows`.
    """
    folder = RunFolder(out)
    if folder.plan.exists():
        raise CheckpointError(
            f"{out} holds a plan already; 'mi-duck train {out}' goes on with it, or choose another --out"
        )
    is_new = not out.exists()
    meter, context = metered(context)
    try:
        indexed = plan_data(dataset, folder, asked, context)
        budget = memory_budget(
            max_gb=asked.max_memory_per_instance_gb,
            safety_factor=asked.memory_safety_factor,
            is_elsewhere=is_elsewhere,
        )
        wanted = choose_features(
            asked.screen_features, n_features=len(indexed.data.features), n_genes=indexed.data.n_genes
        )
        if wanted and (asked.screen_features or not rest):  # other classifiers keep all unless asked
            indexed = screen_features(indexed, wanted, folder, asked, context, is_probed=rest is None)
        elif asked.screen_features:
            context.say(
                f"--screen-features {asked.screen_features:,} keeps all {len(indexed.data.features):,} features"
            )
        for name in unused_in(checked_parameters(asked.xgb), dataset, indexed.data):
            context.say(f"--xgb: {name} was left out of the features, so its constraint does nothing")
        plan = rest(indexed, budget) if rest else _of_trees(indexed, folder, asked, budget, context, n_sizes)
        keep_stages(folder, PLANNING, meter.stages())
        write_file(folder.plan, plan.to_json().encode())
    finally:
        if not folder.plan.exists():  # it may be there whole although writing it failed at last
            folder.genes.unlink(missing_ok=True)
            folder.stage_times.unlink(missing_ok=True)
            shutil.rmtree(folder.leakage, ignore_errors=True)
        shutil.rmtree(folder.scratch, ignore_errors=True)
        if is_new and out.exists() and not any(out.iterdir()):
            out.rmdir()
    _say_plan(plan, context)
    return plan


def _of_trees(
    indexed: Indexed, folder: RunFolder, asked: Asked, budget: Budget, context: Context, n_sizes: int | None
) -> Plan:
    start = by_formula(indexed, asked, threads=context.threads)
    request = cut_request(indexed, asked, budget)
    laid_out = lay_out(indexed, start, request, folder, asked, context)
    costs = measure_costs(indexed, laid_out, folder, asked, context)
    cut = cut_instances(indexed, request, laid_out, costs, asked, context, n_sizes=n_sizes)
    if not laid_out.is_probed:  # nothing is written for a plan that is refused
        write_memory(folder, costs.model, costs.rates)
    return Plan(asked, indexed.data, laid_out.settings, costs, cut)


def measure_costs(indexed: Indexed, laid_out: LaidOut, folder: RunFolder, asked: Asked, context: Context) -> Costs:
    """Return memory and time of training: measured on the small run where that is worth it, else by formula."""
    model, rates = laid_out.model, Rates()
    if laid_out.is_probed and laid_out.small_run is not None:
        small_run = laid_out.small_run.with_settings(laid_out.settings)
        model, rates, _ = measure(model, folder, small_run, context)
    data = indexed.data
    # with --memory-per-gene-mb a row adds nothing to the model: what the genes take is spread over their rows
    of_genes = (asked.memory_per_gene_mb or 0) * (1 << 20) * data.n_genes
    return Costs(model, rates, model.bytes_per_row() or of_genes / int(indexed.genes.n_training_rows.sum()))


def _say_plan(plan: Plan, context: Context) -> None:
    data, budget = plan.data, plan.cut.budget
    context.say(
        f"{data.noun.count(data.n_genes)}, {data.n_rows:,} rows, {len(data.features):,} features "
        f"({len(data.small_features):,} as bytes); {plan.settings.n_folds} folds over '{data.fold_column}'"
    )
    context.say(
        f"budget {gibibytes(budget.budget_bytes)} GiB per instance: {budget.won}; predictions are "
        + ("measured" if plan.costs.model.is_measured else "by formula, not yet measured")
    )
    own = next(one for one in plan.cut.alternatives if one["strategy"] == plan.cut.strategy_used)
    context.say(f"disk for the run's scratch: {own['disk_bytes'] / 1e9:.2f} GB")
