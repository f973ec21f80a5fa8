"""What the columns of a dataset are: which must be there, which are features and why others are not, what predictions keep."""

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from mi_duck.data.parquet import DataFile, folder_values
from mi_duck.data.text_tables import source_of
from mi_duck.data.values import is_day, is_number, is_text, remedy
from mi_duck.errors import DataError

NOT_A_NUMBER = "not a number"
LEVELS, DATES = "its levels are features", "its days and parts are features"
NOT_FEATURES: dict[str | None, str] = {
    **dict.fromkeys(("gene_id", "gene_name", "gene_type", "transcript_id", "chrom", "strand"), "an id or a position"),
    **dict.fromkeys(("position", "absolute_position", "window_start", "window_end"), "an id or a position"),
    **dict.fromkeys(
        ("transcript_count", "overlap_cluster", "paralog_group", "row_id", "source_row"), "an id or a position"
    ),
    **dict.fromkeys(("pred_type", "true_position", "predicted_position", "score"), "leaks the label"),
}
"""Why columns of these names are not features."""
PLACES = ("chrom", "strand", "absolute_position")
"""Columns that say where in a genome a row is."""
SOURCE_COLUMNS = ("source_file", "source_row")
"""Columns of predictions that say where a row of the dataset is."""
PREDICTED = ("row_id", "gene_id", "position", "label", "fold", "is_pilot", *SOURCE_COLUMNS)
"""Columns of out-of-fold predictions, beside p_<class>."""


def holdout_column(text: str | None) -> str | None:
    """Return the column that ``--holdout-genes`` names, if it names one: all of it, or what stands before its values.

    Examples
    --------
    >>> holdout_column("chrom=1,3,5"), holdout_column("is_test")
    ('chrom', 'is_test')
    """
    return None if text is None else text.partition("=")[0]


def kept_columns(
    keep: Sequence[str] | None, there: Sequence[str], roles: tuple[str, str, str | None], classes: Sequence[str]
) -> tuple[str, ...]:
    """Return the columns that predictions keep beside those that they have anyway.

    ``roles`` are the columns of gene, label and position. Of them predictions have what is in ``gene_id``, ``label`` and
    ``position``, whatever its name in the data.
    """
    has_already = {name for name, own in zip(roles, ("gene_id", "label", "position"), strict=True) if name == own}
    taken = {*PREDICTED, *(f"p_{name}" for name in classes)}
    if keep is None:
        offered = [name for name in (roles[0], *PLACES) if name in there]
        return tuple(name for name in dict.fromkeys(offered) if name not in taken)
    if absent := [name for name in keep if name not in there]:
        raise DataError(f"--keep {absent[0]}: the dataset has no such column; it has {some_names(there)}")
    wanted = [name for name in dict.fromkeys(keep) if name not in has_already]
    if doubled := [name for name in wanted if name in taken]:
        raise DataError(
            f"--keep {doubled[0]}: predictions have a column of that name already; rename it in the dataset"
        )
    return tuple(wanted)


def lost_columns(schema: pa.Schema, excluded: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Return in words which columns are lost because of their type, and what would use them."""
    by_remedy: dict[str, list[str]] = {}
    for name, reason in excluded:
        if reason.endswith(NOT_A_NUMBER):
            kind = schema.field(name).type
            shown = "text" if is_text(kind) else str(kind)
            if is_day(kind):
                words = "name it in --date-columns"
            else:
                words = "let --max-levels be above 0" if is_text(kind) else remedy(kind)
            by_remedy.setdefault(words, []).append(f"{name} ({shown})")
    return tuple(
        f"{len(names)} column(s) that are not numbers are left out: {some_names(names)}; to use such a column, {words} "
        "(--exclude says that it is not wanted)"
        if not words.startswith("it has")
        else f"{len(names)} column(s) without any value are left out: {some_names(names)}"
        for words, names in by_remedy.items()
    )


def lost_texts(why_not: Mapping[str, str]) -> tuple[str, ...]:
    """Return in words which text columns have no levels that could be features."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in why_not.items():
        by_reason.setdefault(reason, []).append(name)
    return tuple(
        f"{len(names)} text column(s) are left out: {some_names(names)}, {reason} (--exclude says that it is not wanted)"
        for reason, names in by_reason.items()
    )


def check_role(column: str, flag: str, schema: pa.Schema, files: Sequence[DataFile]) -> None:
    """Refuse a gene, label or fold column that is absent, or whose values are not names."""
    if column in schema.names:
        kind = schema.field(column).type
        if not (is_text(kind) or is_number(kind) or pa.types.is_null(kind)):
            raise DataError(
                f"column '{column}' is {kind} in {files[0]}, neither text nor number; cast it to text or choose another ({flag})"
            )
        return
    keys = tuple(folder_values(files[0], ()))
    if column not in keys:
        near = difflib.get_close_matches(column, [*schema.names, *keys], n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        columns = some_names([*schema.names, *keys])
        also = ", also called --group-column" if flag == "--gene-column" else ""
        raise DataError(
            f"no column '{column}' in {source_of(files[0])}{hint}; columns are {columns} (set {flag}{also})"
        )
    if flag == "--label-column":
        raise DataError(f"label '{column}' is a folder name over {files[0]}, not a column; write it into the files")
    check_folders(files, ())


def check_weight_column(column: str, schema: pa.Schema, files: Sequence[DataFile], taken: Sequence[str | None]) -> None:
    """Refuse a column of weights that is absent, does not hold numbers, or is something else already."""
    if column in taken:
        raise DataError(
            f"--weight-column names '{column}', which is the gene, the label, the fold group or the position; name another"
        )
    if column not in schema.names:
        raise DataError(
            f"no column '{column}' in {files[0]}; columns are {some_names(schema.names)} (set --weight-column)"
        )
    kind = schema.field(column).type
    if not is_number(kind) or pa.types.is_boolean(kind):
        raise DataError(f"column '{column}' of --weight-column is {kind} in {files[0]}, not a number; cast it")


def check_there(names: Sequence[str], schema: pa.Schema, flag: str, taken: Collection[str | None]) -> None:
    """Refuse columns that an option names where they are absent, or are something else already."""
    for name in names:
        if name in taken:
            raise DataError(
                f"{flag} names '{name}', which is the gene or group, the label, the weight or the position already"
            )
        if name not in schema.names:
            near = difflib.get_close_matches(name, schema.names, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else f"; columns are {some_names(schema.names)}"
            raise DataError(f"{flag} {name}: the dataset has no such column{hint}")


def check_folders(files: Sequence[DataFile], names: Sequence[str]) -> None:
    """Refuse files under partition folders of different keys, columns of these names apart."""
    keys = tuple(folder_values(files[0], names))
    other = next((file for file in files if tuple(folder_values(file, names)) != keys), None)
    if other:
        raise DataError(f"{other} lies under other partition folders than {files[0]}; give all files the same keys")


def unwanted_columns(exclude_features: Path | None, names: Sequence[str]) -> set[str]:
    """Return the columns that a text file names, which must be those of the dataset."""
    if exclude_features is None:
        return set()
    try:
        lines = exclude_features.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read --exclude-features {exclude_features}: {error}") from error
    unwanted = {line.strip() for line in lines if line.strip() and not line.startswith("#")}
    unknown = sorted(unwanted - set(names))
    if unknown:
        raise DataError(f"{exclude_features} names column(s) {some_names(unknown)} that the dataset lacks")
    return unwanted


def check_pattern(pattern: str | None, names: Sequence[str]) -> None:
    """Refuse an ``--exclude`` that is not a regular expression, or that matches no column, as a mistyped one does."""
    try:
        if pattern is not None and not any(re.search(pattern, name) for name in names):
            near = difflib.get_close_matches(pattern, names, n=1)
            raise DataError(
                f"--exclude '{pattern}' matches no column"
                + (f"; did you mean '{near[0]}'?" if near else "; leave it out")
            )
    except re.error as error:
        raise DataError(f"--exclude '{pattern}' is not a regular expression: {error}") from error


def reason_to_exclude(field: pa.Field, known: Mapping[str | None, str], pattern: str | None) -> str | None:
    """Return why a column is not a feature, by its name or its type, or None if it is one; see `check_pattern`."""
    if field.name in known:
        return known[field.name]
    if pattern is not None and re.search(pattern, field.name):
        return "--exclude"
    return None if is_number(field.type) else f"{field.type}, {NOT_A_NUMBER}"


def base_score_columns_of(
    given: Sequence[str] | None, classes: Sequence[str], features: Sequence[str]
) -> tuple[str, ...]:
    """Return the base score of each class; nothing where one is absent and none was asked for."""
    names = tuple(given) if given else tuple(f"{name}_score" for name in classes)
    missing = [name for name in names if name not in features]
    if given and (missing or len(names) != len(classes)):
        raise DataError(
            f"--base-score-columns needs one feature for each of {', '.join(classes)}; got {', '.join(names)}"
            + (f", of which {some_names(missing)} are not features" if missing else "")
        )
    return () if missing else names


def some_names(names: Sequence[str], limit: int = 8) -> str:
    """Return the first names, and how many more there are."""
    short = [name if len(name) <= 40 else name[:37] + "..." for name in names[:limit]]
    return ", ".join(short) + (f" and {len(names) - limit:,} more" if len(names) > limit else "")
