"""The first step of a plan: genes are indexed, folds assigned, rows to train on chosen, and columns looked at.

Its SQL reads a few columns of every row, never the features.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from mi_duck.atomic_files import file_sha256, storage_errors
from mi_duck.data.database import SQL_BYTES, Database
from mi_duck.data.dataset import Dataset, resolved, resolved_location
from mi_duck.data.genes import GeneCounts, assign_folds, check_weights, index_genes, say_selection, write_genes
from mi_duck.data.inspection import id_warnings, warnings_of
from mi_duck.data.sampling import make_row_uses
from mi_duck.data.statistics import column_facts, most_values, split_features, unfit_values
from mi_duck.errors import DataError, PlanError
from mi_duck.leakage.leakage import LEAKY, without_leaks
from mi_duck.plan.small_run import SmallRun
from mi_duck.processes import Context
from mi_duck.resources import check_device
from mi_duck.run.constraints import check_constraints
from mi_duck.run.costs import SPARSE
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import GeneTable
from mi_duck.run.made import dates_in, levels_in
from mi_duck.run.plan import PlannedData
from mi_duck.run.xgboost_parameters import checked_parameters
from mi_duck.settings import Asked

ROWS_WORTH_SAMPLING = 200_000
USUAL_SHARE_KEPT = 0.25  # to train on: the same scores as with all, by benchmarks/bench_whole_job.py on a real genome
EASY_QUANTILE = 0.9  # of the negatives: those that the base model finds easiest
EASY_GENES = 2000  # genes whose negatives decide what is easy
SHALLOW = 3  # depth of trees that need no hint


@dataclass(frozen=True, slots=True)
class Indexed:
    """The data of a plan, and the tables that only planning needs.

    Parameters
    ----------
    genes
        Without those held out.
    bins
        Histogram bins of every feature, at most.
    crowded
        Features of one byte that may have more values than bins, so that they are sketched as wider ones are.
    easy_share
        Share of the easy negatives that is trained on.
    missing_share, has_sparse_column
        Of the cells of all columns, by the footers, and whether a column is filled to less than a fifth.
    weight
        Of all rows together, 1 each where they have no weights.
    pilot
        The rows that features were chosen on, with all features; None where all are kept.
    """

    data: PlannedData
    genes: GeneTable
    bins: dict[str, int]
    crowded: frozenset[str]
    easy_share: float
    missing_share: float
    has_sparse_column: bool
    weight: float
    pilot: SmallRun | None = None

    @property
    def n_sketched(self) -> int:
        """How many features are sketched, at most."""
        return len(self.data.wide_features) + len(self.crowded & set(self.data.small_features))


def plan_data(
    dataset: Dataset, folder: RunFolder, asked: Asked, context: Context, *, with_leakage: bool = True
) -> Indexed:
    """Index the genes, assign folds, check and warn of values, look for leaks, choose the rows to train on.

    Writes ``genes.parquet`` and, if asked, the report of leaky features.

    Raises
    ------
    PlanError
        Numbers that cannot work together: of genes to sample or to hold out, of a device, of sampled negatives.
    DataError
        Rows, genes, labels, weights or values that no plan can use.
    """
    if asked.train_all_genes and asked.sample_genes is not None:
        raise PlanError("--train-all-genes and --sample-genes exclude each other; give one")
    check_device(asked.device, asked.strategy)
    check_constraints(checked_parameters(asked.xgb), dataset)
    with storage_errors(folder.root):
        folder.scratch.mkdir(parents=True, exist_ok=True)  # where DuckDB spills
    with Database(threads=context.threads, memory_bytes=SQL_BYTES, scratch=folder.scratch / "sql") as db:
        index = index_genes(
            db,
            dataset,
            seed=asked.seed,
            sample_genes=asked.sample_genes,
            holdout=asked.holdout_genes,
            group_identical=asked.group_identical,
        )
        say_selection(index, dataset, context.say)
        assign_folds(db, dataset, n_folds=asked.n_folds, seed=asked.seed)
        weight = check_weights(db, dataset, n_rows=index.n_rows)
        columns = column_facts(db, dataset)
        if unfit := unfit_values(dataset, columns, layout=asked.layout):
            raise DataError(unfit)
        ids = id_warnings(dataset, columns)
        for warning in warnings_of(db, dataset, columns, index) + ids:
            context.say(f"warning: {warning}")
        if hint := hint_of_levels(dataset, asked.max_depth):
            context.say(hint)
        table = db.arrow("genes")
        held_out, table = table.slice(index.n_genes), table.slice(0, index.n_genes)
        small, wide = split_features(dataset.features, columns)
        if with_leakage:
            dataset = without_leaks(
                db, dataset, folder, small, seed=asked.seed, is_excluding=asked.auto_exclude_leaky, context=context
            )
            small, wide = split_features(dataset.features, columns)
        share, easy_below = choose_sample(db, dataset, asked.sample_negatives, n_rows=index.n_rows, say=context.say)
        training_rows = table["n_rows"]
        if easy_below is not None:
            make_row_uses(db, easy_below=easy_below, share=share, seed=asked.seed, background=dataset.labels[0])
            training_rows = db.arrow("gene_training_rows")["n_training_rows"]  # by rank, as the genes are
            context.say(
                f"easy negatives: those whose site score is below {easy_below:.4g}; {share:g} of them are trained on, "
                f"{sum(training_rows.to_pylist()):,} of {index.n_rows:,} rows in all; all rows are scored "
                "(--sample-negatives)"
            )
    table = table.append_column("n_training_rows", training_rows.combine_chunks().cast(pa.int64()))
    dataset.check_unchanged()
    write_genes(folder.genes, table, held_out)
    n_values = most_values(dataset.features, columns)
    nulls = {name: columns[name].n_nulls for name in wide}
    return Indexed(
        data=_planned_data(
            replace(dataset, warnings=dataset.warnings + ids),
            *(index, small, wide, easy_below, file_sha256(folder.genes)),
        ),
        genes=GeneTable.of(table),
        bins={name: min(asked.max_bin, n_values.get(name, asked.max_bin)) for name in dataset.features},
        crowded=frozenset(name for name in small if n_values.get(name, 0) > asked.max_bin),
        easy_share=share,
        missing_share=sum(nulls.values()) / (dataset.n_rows * len(dataset.features)),
        has_sparse_column=any(count > (1 - SPARSE) * dataset.n_rows for count in nulls.values()),
        weight=weight,
    )


def choose_sample(
    db: Database, dataset: Dataset, asked: float | None, *, n_rows: int, say: Callable[[str], None]
) -> tuple[float, float | None]:
    """Return the share of the easy negatives to train on, and the site score below which a negative is easy.

    As asked (``--sample-negatives``); else a quarter where rows are many. Without base scores no negative is known to be easy,
    and where all are trained on, none is: None.
    """
    if asked == 1 or (asked is None and n_rows < ROWS_WORTH_SAMPLING):
        return 1.0, None
    if not dataset.base_scores:
        if asked is not None:
            say(
                f"all rows are trained on, not {asked:g} of the easy negatives: these are known by a base score for every class "
                "(--base-score-columns), and there is none"
            )
        return 1.0, None
    share = USUAL_SHARE_KEPT if asked is None else asked
    (row,) = db.rows("easy_below", background=dataset.labels[0], quantile=EASY_QUANTILE, n_genes=EASY_GENES)
    if row["easy_below"] is None:
        if asked is None:
            return 1.0, None
        raise PlanError(f"--sample-negatives: no row of class {dataset.classes[0]} has a base score for every site")
    return share, float(row["easy_below"])


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


def _planned_data(
    dataset: Dataset,
    index: GeneCounts,
    small: tuple[str, ...],
    wide: tuple[str, ...],
    easy_below: float | None,
    genes_sha256: str,
) -> PlannedData:
    return PlannedData(
        location=resolved_location(dataset.location),
        files=tuple(resolved(file) for file in dataset.files),
        **_same(dataset, "pins", "hashes", "full_hash", "fingerprint", "classes", "labels", "base_scores", "features"),
        **_same(dataset, "warnings", "gene_column", "label_column", "fold_column", "position_column", "kept"),
        levels=levels_in(dataset.made),
        dates=dates_in(dataset.made),
        **_same(dataset, "recipe", "weight_column"),
        small_features=small,
        wide_features=wide,
        leaky_features=tuple(name for name, why in dataset.excluded if why == LEAKY),
        pilot_genes=0,
        easy_below=easy_below,
        content_columns=index.content,
        identical_rows=0 if index.identical.n_joined else index.identical.n_rows,
        identical_genes=0 if index.identical.n_joined else index.identical.n_genes,
        **_same(index, "n_genes_dataset", "n_genes", "n_rows", "n_holdout_genes", "n_holdout_rows"),
        genes_sha256=genes_sha256,
    )


def _same(record: object, *names: str) -> dict[str, Any]:
    """Return fields of a record that another record has under the same names."""
    return {name: getattr(record, name) for name in names}
