"""Plans for tests: a small complete one, and plans that differ in a few values."""

from dataclasses import fields, replace
from typing import Any

from mi_duck.resources import Budget
from mi_duck.run.costs import Costs, Layout, MemoryModel, Rates
from mi_duck.run.plan import Cut, Instance, Plan, PlannedData, Settings
from mi_duck.settings import Asked


def changed(plan: Plan, **values: Any) -> Plan:
    """Return a plan with other values, each in the record that holds its name: data, settings, costs, cut, budget, asked."""
    for name, value in values.items():
        if name in _names(plan.cut.budget):
            plan = replace(plan, cut=replace(plan.cut, budget=replace(plan.cut.budget, **{name: value})))
            continue
        part = next(one for one in ("data", "settings", "costs", "cut", "asked") if name in _names(getattr(plan, one)))
        plan = replace(plan, **{part: replace(getattr(plan, part), **{name: value})})
    return plan


def _names(record: Any) -> set[str]:
    return {one.name for one in fields(record)}


def made_plan(**values: Any) -> Plan:
    """Return the plan of one instance of 200 genes of 100 rows each, with other values as in `changed`."""
    layout = Layout(
        n_features=2,
        n_wide=2,
        bins=512,
        missing_share=0.0,
        stored_share=1.0,
        has_sparse_column=False,
        n_classes=3,
        max_bin=256,
        max_depth=6,
        threads=1,
        cv="matrices",
    )
    data = PlannedData(
        location="/somewhere/else/dataset",
        files=("/somewhere/else/dataset/a.parquet",),
        pins=("0" * 64,),
        hashes=(),
        full_hash=False,
        fingerprint="f" * 64,
        gene_column="gene_id",
        label_column="splice_type",
        fold_column="gene_id",
        position_column=None,
        classes=("neither", "donor", "acceptor"),
        labels=("neither", "donor", "acceptor"),
        base_scores=(),
        features=("gc", "length"),
        small_features=(),
        wide_features=("gc", "length"),
        leaky_features=(),
        pilot_genes=0,
        easy_below=None,
        content_columns=(),
        warnings=(),
        identical_rows=0,
        identical_genes=0,
        n_genes_dataset=200,
        n_genes=200,
        n_rows=20_000,
        n_holdout_genes=0,
        n_holdout_rows=0,
        genes_sha256="0" * 64,
    )
    cut = Cut(
        strategy_used="single",
        budget=Budget(1 << 30, "--max-memory-per-instance-gb 1", True),
        most_genes=200,
        overlap_genes=0,
        instances=(Instance(0, 0, 200, 200, 20_000, 20_000, 100 << 20, 10.0),),
        segments=(),
        holdout_segments=(),
        alternatives=(),
    )
    asked = Asked(train_all_genes=True, n_folds=2, n_estimators=10, early_stopping_patience=2)
    plan = Plan(asked, data, Settings(42, 2, 10, 2, 6, 0.1, 256, True), Costs(MemoryModel(layout), Rates(), 10.0), cut)
    return changed(plan, **values)
