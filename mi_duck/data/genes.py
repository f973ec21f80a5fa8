"""From rows to genes in SQL: the gene index, gene sampling, global gene-aware folds, where each gene's rows lie."""

from dataclasses import dataclass
from decimal import Decimal

from mi_duck.data.dataset import Dataset
from mi_duck.database import Database
from mi_duck.errors import DataError, PlanError

ROWS_PER_CLASS = 10


@dataclass(frozen=True, slots=True)
class GeneIndex:
    """What the table ``gene_index`` holds.

    Parameters
    ----------
    seed
        Seed of the order.
    n_genes, n_rows
        Genes selected and their rows.
    n_genes_dataset
        Genes of the whole dataset.
    n_groups
        Fold groups.
    largest_gene_rows
        Rows of the gene that has most.
    label_counts
        Rows of each class.
    """

    seed: int
    n_genes: int
    n_rows: int
    n_genes_dataset: int
    n_groups: int
    largest_gene_rows: int
    label_counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Fold:
    """One fold: its number from 0, its fold groups, genes, rows, and rows of each class."""

    fold: int
    n_groups: int
    n_genes: int
    n_rows: int
    label_counts: tuple[int, ...]


def index_genes(db: Database, dataset: Dataset, *, seed: int, sample_genes: int | None = None) -> GeneIndex:
    """Count the rows of every gene in one pass and order the genes by seed: table ``gene_index``.

    Parameters
    ----------
    db
        Database in which ``source_rows`` is made.
    dataset
        The dataset.
    seed
        Seed of the sample and of the order; the result depends on nothing else but the set of genes.
    sample_genes
        Number of whole genes to choose from all files, or None for all.

    Raises
    ------
    DataError
        A row without gene or group, a gene in two groups, an unknown label, a class without rows, one gene alone.
    PlanError
        More genes to sample than there are.
    """
    db.open_source(
        dataset.files,
        gene_column=dataset.gene_column,
        label_column=dataset.label_column,
        fold_column=dataset.fold_column,
    )
    db.table("label_counts", labels=list(dataset.labels))
    _check_rows(db, dataset)
    n_dataset = len(db.arrow("sampled_genes", seed=seed, n_genes=None))
    if sample_genes is not None and sample_genes > n_dataset:
        raise PlanError(f"--sample-genes {sample_genes:,} of {n_dataset:,} genes; ask for at most {n_dataset:,}")
    db.table("sampled_genes", seed=seed, n_genes=sample_genes)
    db.table("gene_index", seed=seed, n_classes=len(dataset.classes))
    (summary,) = db.rows("gene_summary")
    counts = tuple(int(count) for count in summary["label_counts"])
    empty = [name for name, count in zip(dataset.classes, counts, strict=True) if count == 0]
    if empty:
        raise DataError(
            f"no row of class {', '.join(empty)} in column '{dataset.label_column}' of {dataset.location}"
            + (f" among the {sample_genes:,} sampled genes; sample more" if sample_genes else " (set --classes)")
        )
    if summary["n_genes"] == 1:
        raise DataError(
            f"only one gene in column '{dataset.gene_column}' of {dataset.location}; two or more are needed"
        )
    return GeneIndex(
        seed=seed,
        n_genes=int(summary["n_genes"]),
        n_rows=int(summary["n_rows"]),
        n_genes_dataset=n_dataset,
        n_groups=int(summary["n_groups"]),
        largest_gene_rows=int(summary["largest_gene_rows"]),
        label_counts=counts,
    )


def _check_rows(db: Database, dataset: Dataset) -> None:
    """Refuse rows that no plan can use, naming a file and the remedy."""
    for row in db.rows("checks/null_gene"):
        raise DataError(
            f"{_count(row['n_rows'])} row(s) without a gene in column '{dataset.gene_column}' of {row['first_file']}; "
            "remove or name them"
        )
    unknown = db.rows("checks/unknown_label")
    if unknown:
        row = unknown[0]
        label = "null" if row["label_text"] is None else repr(row["label_text"])
        raise DataError(
            f"unknown label {label} in {_count(row['n_rows'])} row(s) of column '{dataset.label_column}', "
            f"first in {row['first_file']}; known are {', '.join(dataset.labels)} (set --classes)"
        )
    for row in db.rows("checks/null_group"):
        raise DataError(
            f"gene {row['gene_id']!r} has rows without '{dataset.fold_column}' in {row['first_file']}; "
            "fill it or choose another --fold-by"
        )
    for row in db.rows("checks/split_gene"):
        raise DataError(
            f"gene {row['gene_id']!r} stands in {row['n_groups']} groups of '{dataset.fold_column}'; "
            "a gene must lie in one (choose another --fold-by)"
        )


def _count(number: int | Decimal) -> str:
    return f"{int(number):,}"


def assign_folds(db: Database, dataset: Dataset, *, n_folds: int, seed: int) -> tuple[Fold, ...]:
    """Assign every fold group to one fold for the whole run, balanced by class: table ``gene_folds``.

    Raises
    ------
    PlanError
        Fewer groups than folds, or a fold with fewer than 10 rows of a class; names the largest number that works.
    """
    folds = _folds(db, n_folds, seed)
    if _folds_hold(folds, n_folds):
        return folds
    works = next((n for n in range(n_folds - 1, 1, -1) if _folds_hold(_folds(db, n, seed), n)), None)
    thin = [
        f"fold {fold.fold} would have {count:,} rows of {name}"
        for fold in folds
        for name, count in zip(dataset.classes, fold.label_counts, strict=True)
        if count < ROWS_PER_CLASS
    ]
    found = thin[0] if len(folds) == n_folds else f"there are only {len(folds)} fold groups in '{dataset.fold_column}'"
    raise PlanError(
        f"--n-folds {n_folds} is too many: {found} (at least {ROWS_PER_CLASS} are needed); "
        + (f"the largest number that works is --n-folds {works}" if works else "no number of folds works on these data")
    )


def _folds(db: Database, n_folds: int, seed: int) -> tuple[Fold, ...]:
    db.table("gene_folds", n_folds=n_folds, seed=seed)
    rows = db.rows("fold_summary")
    return tuple(
        Fold(
            fold=int(group[0]["fold"]),
            n_groups=int(group[0]["n_groups"]),
            n_genes=int(group[0]["n_genes"]),
            n_rows=sum(int(row["n_rows"]) for row in group),
            label_counts=tuple(int(row["n_rows"]) for row in group),
        )
        for fold in sorted({row["fold"] for row in rows})
        for group in [[row for row in rows if row["fold"] == fold]]
    )


def _folds_hold(folds: tuple[Fold, ...], n_folds: int) -> bool:
    return len(folds) == n_folds and all(count >= ROWS_PER_CLASS for fold in folds for count in fold.label_counts)
