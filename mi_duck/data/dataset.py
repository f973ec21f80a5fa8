"""Opens a folder of Parquet files: checks their schemas, chooses the features, fingerprints all.

Of the columns only labels, texts and dates are read here; of the others the footers of the files tell enough, unless the hash of
every byte is asked for.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from mi_duck.data.columns import (
    DATES,
    LEVELS,
    NOT_A_NUMBER,
    NOT_FEATURES,
    base_score_columns_of,
    check_pattern,
    check_role,
    check_weight_column,
    holdout_column,
    kept_columns,
    lost_columns,
    lost_texts,
    reason_to_exclude,
    some_names,
    unwanted_columns,
)
from mi_duck.data.dates import find_dates
from mi_duck.data.find_files import FoundFiles, find_files, names_below
from mi_duck.data.levels import check_made_names, find_levels
from mi_duck.data.made import date_text
from mi_duck.data.parquet import (
    FAILED,
    UNREADABLE,
    DataFile,
    Stamp,
    check_stamps,
    column_values,
    folder_values,
    footer,
    is_url,
    one_line,
    open_parquet,
    stamp,
    unreachable,
    whole_hash,
)
from mi_duck.data.text_tables import parquet_of, source_of
from mi_duck.data.values import has_fractions, is_number, is_text, numbers, text_counts
from mi_duck.errors import DataError
from mi_duck.run.made import Levels, Made, dates_in, levels_in, made_by_feature
from mi_duck.run.plan import PlannedData
from mi_duck.run.recipe import Recipe, read_record, record_beside
from mi_duck.settings import Columns
from mi_duck.wording import Noun, noun_of

CLASSES = ("neither", "donor", "acceptor")
FOLD_COLUMNS = ("paralog_group", "overlap_cluster")
"""Columns that are the unit of independence where none is named: the first that is there."""
MOST_CLASSES = 100
RESERVED = ("all", "macro", "rows", "instances")
"""What cannot be the name of a class: scores and tables of a run use it for something else."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A feature table as it lies on disk; each row belongs to one gene (group).

    Parameters
    ----------
    location
        What the user named: a file, a folder, or a glob pattern.
    files
        Sorted by name.
    file_names
        What predictions call each file.
    fold_column
        The unit of independence; the gene column if there is no better.
    position_column
        Integer column that orders the rows of a gene, or None.
    weight_column
        Column with the weight of each row, or None.
    features
        In the order that models use; those made of texts and dates last.
    made
        Columns of texts and dates of which features are made.
    classes
        Class names; the index of a name is its label.
    labels
        Texts of the labels in the data, in the order of ``classes``.
    base_scores
        For each class the feature with the base model's score, or empty where one is absent.
    kept
        Columns that out-of-fold predictions keep, beside those that they have anyway.
    excluded
        (column, reason) for every column that is not a feature.
    warnings
        In words, files that are not read and columns that are lost because of their type.
    schema
        Names and types of the columns of the files; of folder names such as ``chrom=4`` it knows nothing.
    fingerprint
        SHA-256 of file names, sizes and Parquet footers, of the tags of an object store, and of ``hashes``.
    pins
        Of each file: SHA-256 of its size and footer, and of its tag.
    hashes
        Of each file: SHA-256 of every byte, where that was asked for; else empty.
    stamps
        Of each file: size and time of change, from before anything of it was read.
    recipe
        How features are made of sequence, from ``build.json`` beside the files; None where there is none.
    """

    location: str
    files: tuple[DataFile, ...]
    file_names: tuple[str, ...]
    gene_column: str
    label_column: str
    fold_column: str
    position_column: str | None
    weight_column: str | None
    features: tuple[str, ...]
    made: tuple[Made, ...]
    classes: tuple[str, ...]
    labels: tuple[str, ...]
    base_scores: tuple[str, ...]
    kept: tuple[str, ...]
    excluded: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    n_rows: int
    schema: pa.Schema
    fingerprint: str
    pins: tuple[str, ...]
    hashes: tuple[str, ...]
    stamps: tuple[Stamp, ...]
    recipe: Recipe | None

    @property
    def full_hash(self) -> bool:
        """Whether every byte was hashed."""
        return bool(self.hashes)

    @property
    def noun(self) -> Noun:
        """What the groups are called."""
        return noun_of(self.gene_column)

    def check_unchanged(self) -> None:
        """Refuse what was read if a file changed since the dataset was opened: see `check_stamps`."""
        check_stamps(self.files, self.stamps)


def open_dataset(
    location: str,
    *,
    gene_column: str = "gene_id",
    label_column: str = "splice_type",
    classes: Sequence[str] | None = None,
    fold_by: str | None = None,
    exclude: str | None = None,
    exclude_features: Path | None = None,
    base_score_columns: Sequence[str] | None = None,
    holdout_genes: str | None = None,
    full_hash: bool = False,
    max_levels: int = 64,
    date_columns: Sequence[str] = (),
    made: Sequence[Made] | None = None,
    keep: Sequence[str] | None = None,
    weight_column: str | None = None,
) -> Dataset:
    """Open a dataset and check all that its footers can tell.

    Parameters
    ----------
    location
        Parquet file, folder (its ``master/`` sub-folder is found by itself), Hive-partitioned folder or glob; or ``s3://`` of
        such; or CSV or TSV, plain or gzip.
    gene_column, label_column
        Names of the columns with the gene and the label.
    classes
        Class names, two or more; the index of a name is its label. By default those of splice sites where the labels are
        these, else the labels that are found, the most frequent one first.
    fold_by
        Column with the unit of independence; by default the first of `FOLD_COLUMNS` that is there, else the gene.
    exclude
        Regular expression; columns that it finds a match in are not features.
    exclude_features
        Text file with one column name per line; these are not features.
    base_score_columns
        Columns with the base model's scores, one for each class; by default ``<class>_score`` where all exist.
    holdout_genes
        What ``--holdout-genes`` names: a column of that name, or whose values it names, is not a feature.
    full_hash
        Whether to hash every byte of every file.
    max_levels
        Most levels of a text column that become features; 0 leaves text columns out.
    date_columns
        Columns of dates whose days and parts become features.
    made
        What is made of texts and dates, where that is known; by default these columns are read to find it.
    keep
        Columns that out-of-fold predictions keep; by default the gene column under its own name, and `PLACES`.
    weight_column
        Column with the weight of each row; it is not a feature.

    Raises
    ------
    DataError
        No Parquet file, a file of another kind, schemas that differ, a missing or doubled column, no feature, no row.
    """
    found = find_files(location)
    if made is not None:
        date_columns = [one.column for one in dates_in(made)]
    files = as_parquet(found, {gene_column, fold_by or gene_column, *date_columns}, label=label_column)
    stamps = tuple(stamp(file) for file in files)
    schema, n_rows, pins, fingerprint = _read_footers(files, stamps)
    hashes = tuple(whole_hash(file) for file in files) if full_hash else ()
    if full_hash:
        fingerprint = hashlib.sha256("".join((fingerprint, *hashes)).encode()).hexdigest()
    if gene_column == label_column:
        raise DataError(f"--gene-column and --label-column both name '{gene_column}'; give the gene and the label")
    if n_rows == 0:
        raise DataError(f"no rows in {location}: {len(files)} file(s), all empty")
    there = (*schema.names, *folder_values(files[0], ()))
    fold_column = fold_by or next((name for name in FOLD_COLUMNS if name in there), gene_column)
    for column, flag in ((gene_column, "--gene-column"), (label_column, "--label-column"), (fold_column, "--fold-by")):
        check_role(column, flag, schema, files)
    position = "position" if "position" in schema.names else None
    if weight_column is not None:
        check_weight_column(weight_column, schema, files, (gene_column, label_column, fold_column, position))
    if position and (not is_number(kind := schema.field(position).type) or pa.types.is_boolean(kind)):
        raise DataError(f"column 'position' in {files[0]} is {kind}, not a whole number; cast it to an integer")
    for column in dict.fromkeys((gene_column, label_column, fold_column, *filter(None, [position]))):
        if column in schema.names and has_fractions(schema.field(column).type):
            _check_whole(column, files)
    known: dict[str | None, str] = {
        **dict.fromkeys(unwanted_columns(exclude_features, schema.names), "--exclude-features"),
        **NOT_FEATURES,
        holdout_column(holdout_genes): "--holdout-genes",
        gene_column: f"the {noun_of(gene_column).one}",
        label_column: "the label",
        fold_by: "--fold-by",
        weight_column: "--weight-column",
    }
    check_pattern(exclude, schema.names)
    reasons = [(field.name, reason_to_exclude(field, known, exclude)) for field in schema]
    features = tuple(name for name, reason in reasons if reason is None)
    excluded = [(name, reason) for name, reason in reasons if reason is not None]
    texts = [name for name, reason in excluded if reason.endswith(NOT_A_NUMBER) and is_text(schema.field(name).type)]
    why_not: dict[str, str] = {}
    if made is None:
        roles = (gene_column, label_column, fold_column, weight_column, position)
        dates = find_dates(files, date_columns, schema, roles)
        texts = [name for name in texts if name not in date_columns]
        levels, why_not = find_levels(files, texts, max_levels) if max_levels else ((), {})
        made = (*levels, *dates)
    check_made_names(made, schema.names)
    features += tuple(made_by_feature(made))
    reason_of = why_not | {one.column: LEVELS if isinstance(one, Levels) else DATES for one in made}
    excluded = [(name, reason_of.get(name, reason)) for name, reason in excluded]
    if not features:
        raise DataError(
            f"no feature column in {source_of(files[0])}: {some_names([f'{name} ({why})' for name, why in excluded])}; "
            "at least one more column is needed, of numbers or text"
        )
    has_numbers = is_number(schema.field(label_column).type)
    if classes is None:
        has_scores = {f"{name}_score" for name in CLASSES} <= set(features)
        classes = _found_classes(files, label_column, has_scores=has_scores)
    _check_class_names(classes)
    is_numbered = has_numbers and not all(re.fullmatch(r"-?\d+", name) for name in classes)
    return Dataset(
        location=location,
        files=files,
        file_names=names_below(found, files),
        gene_column=gene_column,
        label_column=label_column,
        fold_column=fold_column,
        position_column=position,
        weight_column=weight_column,
        features=features,
        made=tuple(made),
        classes=tuple(classes),
        labels=tuple(map(str, range(len(classes)))) if is_numbered else tuple(classes),
        base_scores=base_score_columns_of(base_score_columns, classes, features),
        kept=kept_columns(keep, there, (gene_column, label_column, position), classes),
        excluded=tuple(excluded),
        warnings=found.left_out + lost_columns(schema, excluded) + lost_texts(why_not),
        n_rows=n_rows,
        schema=schema,
        fingerprint=fingerprint,
        pins=pins,
        hashes=hashes,
        stamps=stamps,
        recipe=_recipe(files),
    )


def _recipe(files: Sequence[DataFile]) -> Recipe | None:
    path = record_beside(files)
    record = None if path is None else read_record(path)
    return None if record is None else record.recipe


def as_parquet(found: FoundFiles, as_text: Iterable[str] = (), *, label: str | None = None) -> tuple[DataFile, ...]:
    """Return the Parquet files of a dataset; those of tables in text are made where they are not there."""
    if not found.are_texts:
        return found.files
    files = [file for file in found.files if isinstance(file, Path)]
    if not files:
        raise DataError(
            f"{found.files[0]} is a table in text on an object store; copy it to this machine, or write Parquet"
        )
    return (parquet_of(files, as_text, label=label),)


def _check_class_names(classes: Sequence[str]) -> None:
    names = [name.lower() for name in classes]
    if len(names) < 2 or len(set(names)) < len(names) or "" in names:
        raise DataError(
            f"--classes needs two or more names that differ, not only in upper and lower case; got {', '.join(classes)}"
        )
    if reserved := set(names) & set(RESERVED):
        raise DataError(f"a class cannot be called '{min(reserved)}', which means something else in tables; rename it")


def _found_classes(files: Sequence[DataFile], column: str, *, has_scores: bool) -> tuple[str, ...]:
    """Return the labels in a column, the most frequent first and then sorted; the classes of splice sites where one is there.

    Parameters
    ----------
    has_scores
        Whether there are base scores of all classes of splice sites; then the numbers 0, 1 and 2 are these classes.
    """
    n_rows: Counter[str] = Counter()
    for values in column_values(files, column):
        n_rows.update({text: n for text, n in text_counts(values).items() if text is not None})
        if not n_rows.keys().isdisjoint(CLASSES):
            return CLASSES
        if len(n_rows) > MOST_CLASSES:
            raise DataError(
                f"column '{column}' of {files[0]} has more than {MOST_CLASSES} different labels; choose another --label-column"
            )
    if has_scores and n_rows.keys() <= {"0", "1", "2"}:
        return CLASSES
    if len(n_rows) < 2:
        what = "no label" if not n_rows else f"only the label {next(iter(n_rows))!r}"
        raise DataError(
            f"column '{column}' of {source_of(files[0])} has {what}; two or more are needed (choose another --label-column)"
        )
    spelled: dict[str, str] = {}
    for text in n_rows:
        other = spelled.setdefault(text.strip().lower(), text)
        if other != text:
            raise DataError(
                f"column '{column}' of {source_of(files[0])} has the labels {other!r} and {text!r}, which differ only in case or "
                "in spaces; write them alike"
            )
    is_numbered = all(re.fullmatch(r"-?\d+", text) for text in n_rows)
    first, *rest = sorted(n_rows, key=lambda text: (-n_rows[text], int(text) if is_numbered else 0, text))
    return (first, *sorted(rest, key=lambda text: (int(text) if is_numbered else 0, text)))


def _check_whole(column: str, files: Sequence[DataFile]) -> None:
    """Refuse numbers with a fraction as genes, labels, fold groups or positions."""
    for file in files:
        for values in column_values([file], column):
            found = numbers(values).astype(np.float64)
            is_bad = np.isinf(found) | (~np.isnan(found) & (found != np.trunc(found)))
            if is_bad.any():
                raise DataError(
                    f"column '{column}' of {source_of(file)} has {float(found[is_bad][0])!r}, not a whole number; gene, label, "
                    "fold group and position must be whole numbers or texts, and there is no regression: round it, or choose "
                    "another column"
                )


def resolved(file: DataFile) -> str:
    """Return the name by which a plan knows a file wherever it is read from."""
    return str(file.resolve() if isinstance(file, Path) else file)


def resolved_location(location: str) -> str:
    """Return a location that means the same in another working directory."""
    return location if is_url(location) else str(Path(location).absolute())


def _read_footers(files: Sequence[DataFile], stamps: Sequence[Stamp]) -> tuple[pa.Schema, int, tuple[str, ...], str]:
    """Return the common schema, the number of rows, the pin of each file and the fingerprint of all."""
    digest = hashlib.sha256()
    pins = []
    first: pa.Schema | None = None
    n_rows = 0
    n_common = len(os.path.commonprefix([file.parts[:-1] for file in files]))
    for file, (size, _, tag) in zip(files, stamps, strict=True):
        content = footer(file)
        digest.update(f"{'/'.join(file.parts[n_common:])}\0{size}\0{tag}".encode())
        digest.update(content)
        pins.append(hashlib.sha256(f"{size}\0{tag}".encode() + content).hexdigest())
        try:
            with open_parquet(file) as parquet:
                schema, rows = parquet.schema_arrow.remove_metadata(), parquet.metadata.num_rows
        except UNREADABLE as error:
            if FAILED in str(error):
                raise unreachable(file, error) from error
            raise DataError(f"{file} cannot be read as Parquet ({one_line(error)}); write it again") from error
        n_rows += rows
        if first is None:
            first = schema
            _refuse_column_names(schema, file)
        elif not schema.equals(first):
            _refuse_difference(first, files[0], schema, file)
    if first is None:
        raise DataError("no Parquet file given")
    return first, n_rows, tuple(pins), digest.hexdigest()


def _refuse_column_names(schema: pa.Schema, file: DataFile) -> None:
    """Names that differ in case alone are one column to SQL, and two names are taken by its reader."""
    seen: dict[str, str] = {}
    for name in schema.names:
        if name == "":
            raise DataError(f"a column in {file} has no name; give it one")
        if name.lower() in ("filename", "file_row_number"):
            raise DataError(
                f"column '{name}' in {file} has a name that the Parquet reader of SQL uses itself; rename it"
            )
        if name.lower() in seen:
            raise DataError(f"columns '{seen[name.lower()]}' and '{name}' in {file} are one name to SQL; rename one")
        seen[name.lower()] = name


def _refuse_difference(first: pa.Schema, first_file: DataFile, schema: pa.Schema, file: DataFile) -> None:
    """Accept another order of columns; refuse another set of columns or another type."""
    names, first_names = set(schema.names), set(first.names)
    missing = [name for name in first.names if name not in names]
    surplus = [name for name in schema.names if name not in first_names]
    if missing:
        difference = f"{file} lacks column(s) {some_names(missing)} that {first_file} has"
    elif surplus:
        difference = f"{file} has column(s) {some_names(surplus)} that {first_file} lacks"
    else:
        kinds = ((field.name, schema.field(field.name).type, field.type) for field in first)
        other = next((one for one in kinds if not one[1].equals(one[2])), None)
        if other is None:
            return
        difference = f"column '{other[0]}' is {other[1]} in {file} but {other[2]} in {first_file}"
    raise DataError(f"{difference}; give all files one schema")


def open_planned(data: PlannedData, *, with_hashes: bool = True) -> Dataset:
    """Open the dataset of a plan again; raise DataError where it changed or is gone.

    Names, sizes and footers are compared, and ``with_hashes`` every byte, if the plan was made with ``--full-hash``.
    """
    dataset = open_dataset(
        data.location,
        gene_column=data.gene_column,
        label_column=data.label_column,
        classes=data.classes,
        fold_by=data.fold_column,
        full_hash=data.full_hash and with_hashes,
        made=data.made,
    )
    changed = changed_files(data, dataset)
    if changed:
        raise DataError(
            f"{data.location} changed since plan.json was made: {changed}; restore it or plan anew into another --out"
        )
    return dataset


def changed_files(data: PlannedData, dataset: Dataset) -> str:
    """Return in words which file of a plan's dataset is gone, is new, or has changed; empty if all are the same."""
    if dataset.fingerprint == data.fingerprint:
        return ""
    now = {resolved(file): index for index, file in enumerate(dataset.files)}
    gone, new = [file for file in data.files if file not in now], sorted(set(now) - set(data.files))
    if len(gone) == len(new) == 1:
        return f"{new[0]} is read instead of {gone[0]}"
    if moved := gone or new:
        others = f", with {len(moved) - 1:,} others" if len(moved) > 1 else ""
        return f"{moved[0]} is {'gone' if gone else 'new'}{others}"
    for file, pin, whole in zip(data.files, data.pins, data.hashes or data.pins, strict=False):
        index = now[file]
        if dataset.pins[index] != pin or (data.full_hash and dataset.full_hash and dataset.hashes[index] != whole):
            return f"{file} is another file now"
    return "a file changed" if data.full_hash == dataset.full_hash else ""


def check_apart(dataset: Dataset, out: Path) -> None:
    """Refuse a run folder that holds the dataset or lies in its folder, where its files would become data."""
    target = out.resolve()
    if any(file.resolve().is_relative_to(target) for file in dataset.files if isinstance(file, Path)):
        raise DataError(f"--out {out} holds the dataset itself; choose another folder")
    if Path(dataset.location).is_dir() and target.is_relative_to(Path(dataset.location).resolve()):
        raise DataError(f"--out {out} would become part of the dataset {dataset.location}; choose another folder")


def announcement(dataset: Dataset) -> list[str]:
    """Return in lines what a dataset is, which columns are not features and why, and its warnings."""
    n_files, n_rows, n_features = len(dataset.files), dataset.n_rows, len(dataset.features)
    lines = [f"{dataset.location}: {n_files:,} files, {n_rows:,} rows, {n_features:,} features"]
    by_reason: dict[str, list[str]] = {}
    for name, reason in dataset.excluded:
        if not reason.endswith(NOT_A_NUMBER):
            by_reason.setdefault(reason, []).append(name)
    lines += [f"    not a feature ({reason}): {', '.join(names)}" for reason, names in by_reason.items()]
    if dataset.classes != CLASSES:
        background, *others = dataset.classes
        lines.append(
            f"    classes of column '{dataset.label_column}': {background} (the background), {', '.join(others)} (--classes)"
        )
    if levels := levels_in(dataset.made):
        of_text = (
            f"{one.column} ({len(one.levels):,} levels{', and the rarer ones together' if one.other else ''})"
            for one in levels
        )
        lines.append(f"    text columns whose levels are features: {', '.join(of_text)} (--max-levels)")
    if dates := dates_in(dataset.made):
        spans = (f"{one.column} ({date_text(one.first)} to {date_text(one.last)})" for one in dates)
        lines.append(f"    dates whose days and parts are features: {', '.join(spans)} (--date-columns)")
    if not dataset.base_scores:
        lines.append("    no base scores for every class: the comparison with a base model is left out")
    return lines + [f"warning: {words}" for words in dataset.warnings]


def open_columns(location: str, columns: Columns, *, holdout_genes: str | None = None) -> Dataset:
    """Open a dataset as the options of the command line describe it; see `open_dataset`."""
    scores = columns.base_score_columns
    given = asdict(columns) | {
        "classes": [name.strip() for name in columns.classes.split(",")] if columns.classes else None,
        "base_score_columns": [name.strip() for name in scores.split(",")] if scores else None,
        "keep": [name.strip() for name in columns.keep.split(",")] if columns.keep else None,
        "date_columns": [name.strip() for name in (columns.date_columns or "").split(",") if name.strip()],
    }
    return open_dataset(location, **given, holdout_genes=holdout_genes)
