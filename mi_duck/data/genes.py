"""From rows to genes, in SQL: sampled genes, held-out genes, the gene index, global gene-aware folds.

Held-out genes are kept from all training: a share of the fold groups, the genes of a text file, those of a column, or those
that have some values of a column.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mi_duck.atomic_files import published_file, storage_errors
from mi_duck.data.columns import some_names
from mi_duck.data.database import Database
from mi_duck.data.dataset import Dataset
from mi_duck.data.identical import Identical, find_identical, identical_words, open_rows, telling_features
from mi_duck.data.text_tables import source_of
from mi_duck.errors import DataError, PlanError
from mi_duck.wording import noun_of

LARGEST_FRACTION = 0.5
ROWS_PER_CLASS = 10  # of every fold at least
YES, NO = {"true", "1", "1.0"}, {"false", "0", "0.0"}


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A share of the fold groups, or the genes that were named. At most one is given; both are None where nothing is held out."""

    fraction: float | None = None
    genes: tuple[str, ...] | None = None


def read_held_out(db: Database, dataset: Dataset, text: str) -> HeldOut:
    """Read what ``--holdout-genes`` names.

    Parameters
    ----------
    db
        Database; a column replaces its view ``source_rows``.
    text
        A column of the dataset that is 0 or 1 for each gene, a column and values of it (``chrom=1,3,5``), a fraction above 0
        and up to 0.5, or a text file with one gene per line.

    Raises
    ------
    DataError
        It is none of these, the file is not text or names no gene, the column has another value or both for one gene.
    PlanError
        The fraction is out of range.
    """
    if text in _columns(dataset):
        if Path(text).is_file():
            raise DataError(f"--holdout-genes {text} is a column and a file; write ./{text} for the file")
        return HeldOut(genes=_marked_genes(db, dataset, text))
    column, _, values = text.partition("=")
    if values and not Path(text).is_file() and column in _columns(dataset):
        return HeldOut(genes=_genes_with(db, dataset, column, [one.strip() for one in values.split(",")]))
    try:
        fraction = float(text)
    except ValueError:
        return HeldOut(genes=_listed_genes(Path(text)))
    if not 0 < fraction <= LARGEST_FRACTION:
        raise PlanError(f"--holdout-genes {text} is not above 0 and at most {LARGEST_FRACTION}")
    return HeldOut(fraction=fraction)


def _listed_genes(path: Path) -> tuple[str, ...]:
    """Return the genes of a text file, one per line, without empty lines and those that begin with #."""
    if not path.is_file():
        raise DataError(
            f"--holdout-genes {path} is neither a number nor a column of the dataset, nor one with values (chrom=1,3), nor a "
            "file; give one of these"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read --holdout-genes {path} as text: {error}; write one gene per line") from error
    if "\0" in text:
        raise DataError(f"--holdout-genes {path} is not a text file; write one gene per line")
    genes = tuple(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip() and line[0] != "#"))
    if not genes:
        raise DataError(f"--holdout-genes {path} names no gene; write one per line")
    return genes


def _marked_genes(db: Database, dataset: Dataset, column: str) -> tuple[str, ...]:
    """Return the genes for which a column is true or 1, sorted."""
    if column in (dataset.gene_column, dataset.label_column, dataset.fold_column):
        raise DataError(
            f"--holdout-genes names '{column}', which is the gene, the label or the fold group; name another"
        )
    if column in dataset.features:
        raise DataError(f"column '{column}' of --holdout-genes is a feature too; exclude it")
    marks = _values_of_genes(db, dataset, column)
    for gene, mark in marks:
        if mark not in YES | NO:
            shown = "null" if mark is None else repr(mark)
            raise DataError(f"column '{column}' of --holdout-genes is {shown} for gene {gene!r}; it must be 0 or 1")
    yes = {gene for gene, mark in marks if mark in YES}
    both = sorted(yes & {gene for gene, mark in marks if mark in NO})
    if both:
        raise DataError(
            f"column '{column}' of --holdout-genes is both 0 and 1 for gene(s) {some_names(both)}; a gene is held out whole"
        )
    if not yes:
        raise DataError(f"column '{column}' of --holdout-genes is 1 for no gene; mark some or leave the flag out")
    return tuple(sorted(yes))


def _genes_with(db: Database, dataset: Dataset, column: str, wanted: Sequence[str]) -> tuple[str, ...]:
    """Return the genes that have one of some values of a column, sorted."""
    if column in (dataset.gene_column, dataset.label_column):
        raise DataError(f"--holdout-genes names values of '{column}', which is the gene or the label; name another")
    marks = _values_of_genes(db, dataset, column)
    there = {value for _, value in marks if value is not None}
    if absent := [value for value in wanted if value not in there]:
        raise DataError(
            f"no row has {column} {', '.join(map(repr, absent))} of --holdout-genes; there are {some_names(sorted(there))}"
        )
    yes = {gene for gene, value in marks if value in wanted}
    if both := sorted(yes & {gene for gene, value in marks if value not in wanted}):
        raise DataError(
            f"gene(s) {some_names(both)} have other values of '{column}' too than those of --holdout-genes; a gene is held out "
            "whole, so name a column that has one value for each gene"
        )
    return tuple(sorted(yes))


def _values_of_genes(db: Database, dataset: Dataset, column: str) -> list[tuple[str, str | None]]:
    """Return every gene with each of its values of a column, as text."""
    db.open_source(dataset.files, gene_column=dataset.gene_column, label_column=column, fold_column=dataset.fold_column)
    return [(row["gene_id"], row["mark"]) for row in db.rows("gene_marks")]


def _columns(dataset: Dataset) -> set[str]:
    return {*dataset.features, *(name for name, _ in dataset.excluded)}


@dataclass(frozen=True, slots=True)
class GeneCounts:
    """What the tables ``gene_index`` and ``holdout_genes`` hold.

    Parameters
    ----------
    n_genes, n_rows
        Genes selected and not held out, and their rows.
    n_holdout_genes, n_holdout_rows, n_holdout_groups
        Genes that are kept from all training, their rows and fold groups.
    identical
        Rows that genes of different fold groups share, held-out genes among them.
    content
        Features by which these rows were compared, see `mi_duck.data.identical.telling_features`.
    n_holdout_named
        Held-out genes that the user named; the others share their groups. None where groups were drawn.
    """

    n_genes: int
    n_rows: int
    n_genes_dataset: int
    n_groups: int
    label_counts: tuple[int, ...]
    identical: Identical
    content: tuple[str, ...]
    n_holdout_genes: int = 0
    n_holdout_rows: int = 0
    n_holdout_groups: int = 0
    n_holdout_named: int | None = None
    holdout_label_counts: tuple[int, ...] = ()
    is_sample: bool = False


@dataclass(frozen=True, slots=True)
class Fold:
    """One fold: its number from 0, its fold groups, genes, rows, and rows of each class."""

    fold: int
    n_groups: int
    n_genes: int
    n_rows: int
    label_counts: tuple[int, ...]


def index_genes(
    db: Database,
    dataset: Dataset,
    *,
    seed: int,
    sample_genes: int | None = None,
    holdout: str | None = None,
    group_identical: bool = False,
) -> GeneCounts:
    """Count the rows of every gene in one pass and order the genes by seed: tables ``gene_index``, ``holdout_genes``.

    Parameters
    ----------
    seed
        Seed of the sample and of the order; the result depends on nothing else but the set of genes.
    holdout
        What ``--holdout-genes`` names, see `read_held_out`: whole fold groups of these genes are not indexed.
    group_identical
        Whether fold groups that share rows become one, see `find_identical`.

    Raises
    ------
    DataError
        A row without gene or group, a gene in two groups, an unknown label, a class without rows, one gene alone, a
        held-out gene that is not there.
    PlanError
        More genes to sample than there are, all genes held out, or none.
    """
    held_out = HeldOut() if holdout is None else read_held_out(db, dataset, holdout)
    content = telling_features(dataset, seed=seed)
    open_rows(db, dataset, content)
    db.table("label_counts", labels=list(dataset.labels))
    _check_rows(db, dataset)
    n_dataset = len(db.arrow("sampled_genes", seed=seed, n_genes=None))
    if sample_genes is not None and sample_genes > n_dataset:
        raise PlanError(f"--sample-genes {sample_genes:,} of {n_dataset:,} genes; ask for at most {n_dataset:,}")
    db.table("sampled_genes", seed=seed, n_genes=sample_genes)
    identical = find_identical(db, dataset, content, seed=seed, is_joining=group_identical)
    db.table("gene_groups")
    db.table("holdout_groups", seed=seed, fraction=held_out.fraction, genes=held_out.genes and list(held_out.genes))
    db.table("ranked_genes", seed=seed, n_classes=len(dataset.classes))
    db.table("gene_index")
    db.table("holdout_genes")
    of_held_out = _holdout_summary(db, held_out)
    # several lines per gene that nothing reads again
    for table in ("label_counts", "sampled_genes", "joined_groups", "gene_groups", "holdout_groups", "ranked_genes"):
        db.drop(table)
    (summary,) = db.rows("gene_summary")
    if summary["n_genes"] == 0:
        raise PlanError(f"--holdout-genes {holdout} holds out all genes; hold out fewer")
    index = GeneCounts(
        n_genes=int(summary["n_genes"]),
        n_rows=int(summary["n_rows"]),
        n_genes_dataset=n_dataset,
        n_groups=int(summary["n_groups"]),
        label_counts=tuple(int(count) for count in summary["label_counts"]),
        identical=identical,
        content=content,
        is_sample=sample_genes is not None,
        **of_held_out,
    )
    _check_index(index, dataset, held_out)
    return index


def _check_index(index: GeneCounts, dataset: Dataset, held_out: HeldOut) -> None:
    """Refuse genes that lack a class, or one gene alone; say what would help."""
    is_held_out = held_out != HeldOut()
    empty = [name for name, count in zip(dataset.classes, index.label_counts, strict=True) if count == 0]
    if empty:
        if is_held_out and all(map(sum, zip(index.label_counts, index.holdout_label_counts, strict=True))):
            remedy = " outside the held-out genes; hold out fewer"
        elif index.is_sample:
            remedy = f" among the {index.n_genes + index.n_holdout_genes:,} sampled genes; sample more"
        else:
            remedy = " (set --classes)"
        where = f"in column '{dataset.label_column}' of {dataset.location}"
        raise DataError(f"no row of class {', '.join(empty)} {where}{remedy}")
    if index.n_genes == 1:
        where = f"in column '{dataset.gene_column}' of {dataset.location}"
        raise DataError(
            f"only one gene {where}{' is not held out' if is_held_out else ''}; two or more are needed "
            f"({'hold out fewer' if is_held_out else 'choose another --gene-column'})"
        )


def _holdout_summary(db: Database, held_out: HeldOut) -> dict[str, Any]:
    """Return what a `GeneCounts` says of held-out genes; refuse names that mean nothing."""
    if held_out == HeldOut():
        return {}
    table = db.read("holdout_genes")
    genes = table["gene_id"].to_pylist()
    named = None
    if held_out.genes is not None:
        known = set(db.read("label_counts")["gene_id"].to_pylist())
        unknown = [gene for gene in held_out.genes if gene not in known]
        if unknown:
            raise DataError(
                f"--holdout-genes names {len(unknown):,} gene(s) that the dataset lacks: {some_names(unknown)}; remove them"
            )
        named = len(set(genes) & set(held_out.genes))
    if not genes and held_out.fraction is not None:
        (groups,) = db.rows("gene_summary")
        raise PlanError(
            f"--holdout-genes {held_out.fraction:g} of {groups['n_groups']:,} fold groups is none; hold out more"
        )
    if not genes:
        raise PlanError("--holdout-genes names no gene among the sampled ones; sample more or name others")
    return {
        "n_holdout_genes": len(genes),
        "n_holdout_rows": sum(table["n_rows"].to_pylist()),
        "n_holdout_groups": len(set(table["fold_group"].to_pylist())),
        "n_holdout_named": named,
        "holdout_label_counts": tuple(map(sum, zip(*table["label_counts"].to_pylist(), strict=True))),
    }


def say_selection(index: GeneCounts, dataset: Dataset, say: Callable[[str], None]) -> None:
    """Say which genes are sampled, which are held out, and what will not be scored on these."""
    n_genes = index.n_genes + index.n_holdout_genes
    if index.is_sample:
        say(f"Sampling {dataset.noun.count(n_genes)} out of {index.n_genes_dataset:,}")
        say(f"Selected {index.n_rows + index.n_holdout_rows:,} rows from {dataset.noun.count(n_genes)}")
    if index.identical.n_joined:
        say(identical_words(index.identical, dataset))
    if not index.n_holdout_genes:
        return
    others = 0 if index.n_holdout_named is None else index.n_holdout_genes - index.n_holdout_named
    say(
        f"Holding out {dataset.noun.count(index.n_holdout_genes)} of {index.n_holdout_groups:,} fold groups, "
        f"{index.n_holdout_rows:,} rows: no instance sees them"
        + (f"; {others:,} of them only share '{dataset.fold_column}' with a named one" if others else "")
    )
    absent = [name for name, n in zip(dataset.classes, index.holdout_label_counts, strict=True) if n == 0]
    if absent:
        say(f"warning: no held-out row of class {', '.join(absent)}; scores of it on these are left out")


def write_genes(file: Path, table: pa.Table, held_out: pa.Table) -> None:
    """Write ``genes.parquet``: the genes in the order of their ranks, then the held-out ones, which train on no row."""
    held_out = held_out.append_column("n_training_rows", pa.array([0] * len(held_out), pa.int64()))
    with storage_errors(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        with published_file(file) as temporary:
            pq.write_table(pa.concat_tables([table, held_out]), temporary, compression="zstd", write_page_checksum=True)


def refuse_unnamed_genes(db: Database, gene_column: str) -> None:
    """Refuse rows without a gene, once the table ``label_counts`` is made."""
    for row in db.rows("checks/null_gene"):
        raise DataError(
            f"{int(row['n_rows']):,} row(s) without a {noun_of(gene_column).one} in column '{gene_column}' of "
            f"{source_of(row['first_file'])}; remove or name them"
        )


def _check_rows(db: Database, dataset: Dataset) -> None:
    """Refuse rows that no plan can use, naming a file and the remedy."""
    refuse_unnamed_genes(db, dataset.gene_column)
    for row in db.rows("checks/unknown_label"):
        label = "null" if row["label_text"] is None else repr(row["label_text"])
        raise DataError(
            f"unknown label {label} in {int(row['n_rows']):,} row(s) of column '{dataset.label_column}', "
            f"first in {source_of(row['first_file'])}; known are {', '.join(dataset.labels)} (set --classes)"
        )
    for row in db.rows("checks/null_group"):
        raise DataError(
            f"gene {row['gene_id']!r} has rows without '{dataset.fold_column}' in {row['first_file']}; "
            "fill it or choose another --fold-by"
        )
    for row in db.rows("checks/split_gene"):
        raise DataError(
            f"gene {row['gene_id']!r} is in {row['n_groups']} groups of '{dataset.fold_column}'; "
            "a gene must be in one (choose another --fold-by)"
        )


def check_weights(db: Database, dataset: Dataset, *, n_rows: int) -> float:
    """Return the sum of all weights, or of as many ones as there are rows; to be called once folds are assigned.

    Refused are weights that are none, and a class that weighs nothing in a fold.

    Raises
    ------
    DataError
        Names the first row, or the class and the fold.
    """
    if dataset.weight_column is None:
        return float(n_rows)
    for row in db.rows("checks/bad_weight"):
        raise DataError(
            f"weight {row['weight']} in row {row['row_number']:,} (from 0) of column '{dataset.weight_column}' of {row['file']}, "
            f"and {row['n_rows'] - 1:,} more like it; weights must be finite and not negative, and none may be missing"
        )
    weights = {
        (row["fold"], row["label"]): row["weight"] for row in db.rows("weight_totals", labels=list(dataset.labels))
    }
    for (fold, label), weight in weights.items():
        if not weight:
            raise DataError(
                f"all rows of class {dataset.classes[label]} in fold {fold} weigh 0 in column '{dataset.weight_column}'; give "
                "some of them weight, or choose fewer --n-folds"
            )
    return float(sum(weights.values()))


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
    # more folds than these have one without a group or with too few rows of a class, however they are cut
    rarest = min(map(sum, zip(*(fold.label_counts for fold in folds), strict=True)))
    most = min(n_folds - 1, sum(fold.n_groups for fold in folds), rarest // ROWS_PER_CLASS)
    works = next((n for n in range(most, 1, -1) if _folds_hold(_folds(db, n, seed), n)), None)
    thin = [
        f"fold {fold.fold} would have {count:,} rows of {name}"
        for fold in folds
        for name, count in zip(dataset.classes, fold.label_counts, strict=True)
        if count < ROWS_PER_CLASS
    ]
    found = f"there are only {len(folds)} fold groups in '{dataset.fold_column}'"
    if len(folds) == n_folds:
        found = f"{thin[0]} (at least {ROWS_PER_CLASS} are needed)"
    remedy = (
        f"the largest number that works is --n-folds {works}" if works else "no number of folds works on these data"
    )
    raise PlanError(f"--n-folds {n_folds} is too many: {found}; {remedy}")


def _folds(db: Database, n_folds: int, seed: int) -> tuple[Fold, ...]:
    db.table("gene_folds", n_folds=n_folds, seed=seed)
    folds = []
    for _, lines in groupby(db.rows("fold_summary"), itemgetter("fold")):
        first, *others = lines
        counts = tuple(int(row["n_rows"]) for row in (first, *others))
        folds.append(Fold(first["fold"], first["n_groups"], first["n_genes"], sum(counts), counts))
    return tuple(folds)


def _folds_hold(folds: tuple[Fold, ...], n_folds: int) -> bool:
    return len(folds) == n_folds and all(count >= ROWS_PER_CLASS for fold in folds for count in fold.label_counts)
