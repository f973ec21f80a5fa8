"""Which genes a user keeps from all training: a share of the fold groups, the genes of a text file, or those of a column."""

from dataclasses import dataclass
from pathlib import Path

from mi_duck.data.dataset import Dataset, some_names
from mi_duck.database import Database
from mi_duck.errors import DataError, PlanError

LARGEST_FRACTION = 0.5
YES, NO = {"true", "1", "1.0"}, {"false", "0", "0.0"}


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A share of the fold groups, or the genes that were named; the other one is None."""

    fraction: float | None = None
    genes: tuple[str, ...] | None = None


def read_held_out(db: Database, dataset: Dataset, text: str) -> HeldOut:
    """Read what ``--holdout-genes`` names.

    Parameters
    ----------
    db
        Database; a column replaces its view ``source_rows``.
    dataset
        The dataset.
    text
        A column of the dataset that says yes or no of each gene, a fraction above 0 and up to 0.5, or a text file with one
        gene a line.

    Raises
    ------
    DataError
        It is none of these, the file is no text or names no gene, the column says something else or two things of a gene.
    PlanError
        The fraction is out of range.
    """
    if text in dataset.features or text in (name for name, _ in dataset.excluded):
        if Path(text).is_file():
            raise DataError(f"--holdout-genes {text} is a column and a file; write ./{text} for the file")
        return HeldOut(genes=_marked_genes(db, dataset, text))
    try:
        fraction = float(text)
    except ValueError:
        return HeldOut(genes=_listed_genes(Path(text)))
    if not 0 < fraction <= LARGEST_FRACTION:
        raise PlanError(f"--holdout-genes {text} is not above 0 and at most {LARGEST_FRACTION}")
    return HeldOut(fraction=fraction)


def _listed_genes(path: Path) -> tuple[str, ...]:
    """Return the genes of a text file, one a line; empty lines and those that begin with # do not count."""
    if not path.is_file():
        raise DataError(f"--holdout-genes {path} is no number, no column of the dataset and no file; give one of these")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read --holdout-genes {path} as text: {error}; write one gene a line") from error
    if "\0" in text:
        raise DataError(f"--holdout-genes {path} is no text file; write one gene a line")
    genes = tuple(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip() and line[0] != "#"))
    if not genes:
        raise DataError(f"--holdout-genes {path} names no gene; write one a line")
    return genes


def _marked_genes(db: Database, dataset: Dataset, column: str) -> tuple[str, ...]:
    """Return the genes of which a column says yes, sorted."""
    if column in (dataset.gene_column, dataset.label_column, dataset.fold_column):
        raise DataError(
            f"--holdout-genes names '{column}', which is the gene, the label or the fold group; name another"
        )
    if column in dataset.features:
        raise DataError(f"column '{column}' of --holdout-genes is a feature too; exclude it")
    db.open_source(dataset.files, gene_column=dataset.gene_column, label_column=column, fold_column=dataset.fold_column)
    yes: set[str] = set()
    no: set[str] = set()
    for row in db.rows("gene_marks"):
        gene, mark = row["gene_id"], row["mark"]
        if mark not in YES | NO:
            shown = "null" if mark is None else repr(mark)
            raise DataError(f"column '{column}' of --holdout-genes says {shown} of gene {gene!r}; it must say 0 or 1")
        (yes if mark in YES else no).add(gene)
    both = sorted(yes & no)
    if both:
        raise DataError(
            f"column '{column}' of --holdout-genes says both 0 and 1 of gene(s) {some_names(both)}; a gene is held out whole"
        )
    if not yes:
        raise DataError(f"column '{column}' of --holdout-genes is 1 for no gene; mark some or leave the flag out")
    return tuple(sorted(yes))
