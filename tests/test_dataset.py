"""Opening a dataset: which files and features it has, which it refuses and in which words, and its fingerprint."""

import datetime
import os
import random
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mi_duck.data.database import Database
from mi_duck.data.dataset import Dataset, open_dataset
from mi_duck.data.find_files import find_files
from mi_duck.data.genes import index_genes
from mi_duck.data.inspection import data_warnings
from mi_duck.data.parquet import row_groups
from mi_duck.data.statistics import column_facts
from mi_duck.errors import DataError, StorageError

WriteRows = Callable[..., Path]
GOOD: dict[str, Any] = {
    "gene_id": ["A", "A", "B", "B"],
    "splice_type": ["neither", "donor", "acceptor", "neither"],
    "x": [1.0, 2.0, 3.0, 4.0],
}


def write(file: Path, columns: dict[str, Any] | pa.Table | None = None) -> Path:
    """Write one Parquet file, and the folders over it; return its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns or GOOD), file)
    return file.parent


def test_row_groups__stand_one_behind_the_other(write_rows: WriteRows) -> None:
    rows = [{"x": number} for number in range(5)]
    folder = write_rows(rows, rows[:0], rows[:1], row_group_rows=2, schema=pa.schema({"x": pa.int64()}))
    files = sorted(folder.glob("*.parquet"))
    # five rows in row groups of two: 2 + 2 + 1
    assert [tuple(row.values()) for row in row_groups(files).to_pylist()] == [
        (str(files[0]), 0, 0, 2),
        (str(files[0]), 1, 2, 2),
        (str(files[0]), 2, 4, 1),
        (str(files[2]), 0, 0, 1),
    ]


def count_rows(dataset: Dataset) -> int:
    """Return the rows that SQL finds, with the place of every row found again in the row index."""
    with Database(threads=1) as db:
        n_rows = index_genes(db, dataset, seed=1).n_rows
        db.load("run_genes", db.read("gene_index"))
        db.load("row_groups", row_groups(dataset.files))
        assert sum(row["n_rows"] for row in db.rows("row_index")) == n_rows
    return n_rows


def test_open_dataset__tells_what_the_footers_say(tiny: Path) -> None:
    dataset = open_dataset(str(tiny))
    assert dataset.files == (tiny / "part-0.parquet",)
    assert dataset.features == ("donor_score", "5mer_GTAAG")
    assert dataset.classes == dataset.labels == ("neither", "donor", "acceptor")
    assert (dataset.gene_column, dataset.fold_column, dataset.position_column) == ("gene_id", "gene_id", "position")
    assert dict(dataset.excluded) == {
        "gene_id": "the gene",
        "splice_type": "the label",
        "position": "an id or a position",
    }
    assert dataset.base_scores == ()
    assert dataset.n_rows == 6
    assert len(dataset.fingerprint) == 64


# ---- files ------------------------------------------------------------------------------------------------------------


def test_open_dataset__takes_a_file_a_folder_a_glob_and_master(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "data" / "master" / "part-0.parquet")
    write(folder / "part-1.parquet")
    # beside master/ lies what is none of the dataset
    write(tmp_path / "data" / "other.parquet", {"z": [1]})
    assert len(open_dataset(str(tmp_path / "data")).files) == 2
    assert len(open_dataset(str(folder)).files) == 2
    assert len(open_dataset(str(folder / "part-0.parquet")).files) == 1
    assert len(open_dataset(str(folder / "*.parquet")).files) == 2
    assert len(open_dataset(str(folder / "part-[1-9].parquet")).files) == 1
    assert len(open_dataset(str(tmp_path / "**" / "part*.parquet")).files) == 2
    monkeypatch.chdir(folder)
    assert len(open_dataset("part-?.parquet").files) == 2
    assert len(open_dataset(".").files) == 2


@pytest.mark.parametrize(
    "name",
    [
        "it's.parquet",
        "a b.parquet",
        "a%20b.parquet",
        "a*b.parquet",
        "a[b].parquet",
        "a?.parquet",
        "{a,b}.parquet",
        ";DROP TABLE gene_index.parquet",
        "$files.parquet",
        'double".parquet',
        "back\\slash.parquet",
        "~home.parquet",
        "line\nbreak.parquet",
        "größe😀.parquet",
    ],
)
def test_open_dataset__reads_files_of_any_name(name: str, tmp_path: Path) -> None:
    folder = write(tmp_path / name.removesuffix(".parquet") / name)
    # a file that the name would also fit, were it a pattern
    write(tmp_path / "aXb.parquet", {"z": [1]})
    assert count_rows(open_dataset(str(folder))) == 4
    assert count_rows(open_dataset(str(folder / name))) == 4


def test_open_dataset__refuses_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    write(tmp_path / "good.parquet")
    os.rename(tmp_path / "good.parquet", os.fsencode(tmp_path) + b"/\xff.parquet")
    with pytest.raises(DataError, match=r"udcff\.parquet' is not UTF-8, .*; rename it"):
        open_dataset(str(tmp_path))


def test_open_dataset__passes_over_what_other_programs_leave(tmp_path: Path) -> None:
    folder = write(tmp_path / "data" / "part-0.parquet")
    for name in ("_SUCCESS", ".part-0.parquet.crc", ".hidden.parquet", "_temporary/0/part.parquet", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"no Parquet")
    os.mkfifo(folder / "pipe")
    # Spark calls folders *.parquet
    write(folder / "spark.parquet" / "part-0.parquet")
    (folder / "up").symlink_to("..")
    dataset = open_dataset(str(folder))
    assert [str(file.relative_to(folder)) for file in dataset.files] == [
        "part-0.parquet",
        "spark.parquet/part-0.parquet",
    ]
    assert count_rows(dataset) == 8


def test_open_dataset__passes_over_empty_files_among_others(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", pa.table(GOOD).slice(0, 0))
    write(tmp_path / "b.parquet")
    assert count_rows(open_dataset(str(tmp_path))) == 4


def encrypted(content: bytes) -> bytes:
    return b"PARE" + content[4:-4] + b"PARE"


BAD_FILES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "no byte": (lambda good: b"", r"p\.parquet is empty \(0 bytes\), not Parquet; it may not have been written"),
    "magic bytes": (lambda good: b"PAR1", r"\(4 bytes\) is not a complete"),
    "magic bytes twice": (lambda good: b"PAR1PAR1", r"\(8 bytes\) is not a complete"),
    "empty footer": (lambda good: b"PAR1\0\0\0\0PAR1", r"cannot be read as Parquet \(.*\); write it again"),
    "end cut off": (lambda good: good[:-20], "is not a complete Parquet file"),
    "begin cut off": (lambda good: good[len(good) // 2 :], "is cut off: its footer says .* bytes of"),
    "footer of zeros": (lambda good: good[:-100] + b"\0" * 92 + good[-8:], "cannot be read as Parquet"),
    "text": (
        lambda good: b"gene_id,splice_type,x\nA,donor,1\n",
        r"is a table in text \(CSV\), not Parquet; .* ending \.csv",
    ),
    "encrypted": (encrypted, "is encrypted; write it without encryption"),
}


@pytest.mark.parametrize("fault", BAD_FILES)
def test_open_dataset__refuses_files_that_are_no_parquet(fault: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "data" / "p.parquet")
    damage, message = BAD_FILES[fault]
    (folder / "p.parquet").write_bytes(damage((folder / "p.parquet").read_bytes()))
    with pytest.raises(DataError, match=message) as refusal:
        open_dataset(str(folder))
    assert str(folder / "p.parquet") in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert refusal.value.exit_code == 65


@pytest.mark.parametrize("fault", ["broken link", "link to itself", "pipe"])
def test_open_dataset__refuses_what_is_no_file(fault: str, tmp_path: Path) -> None:
    file = tmp_path / "data" / "p.parquet"
    file.parent.mkdir()
    if fault == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("p.parquet" if fault == "link to itself" else "nowhere")
    with pytest.raises(DataError, match=r"p\.parquet is not a regular file .*; remove it"):
        open_dataset(str(file.parent))


def test_open_dataset__refuses_places_without_parquet(tmp_path: Path) -> None:
    for location, message in (
        (tmp_path, r"no \*\.parquet file in"),
        (tmp_path / "absent", "nothing is at .*absent; name a Parquet file, a folder of them, or a glob"),
        (tmp_path / "absent*", "nothing is at"),
        (tmp_path / "a**b", "is not a glob pattern"),
        ("", "the name of the dataset is empty"),
        ("a\0b", "nothing is at"),
    ):
        with pytest.raises(DataError, match=message):
            find_files(str(location))
    with pytest.raises(StorageError, match="cannot read x+: File name too long"):
        find_files("x" * 5000)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_open_dataset__names_a_file_it_may_not_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "p.parquet")
    (folder / "p.parquet").chmod(0)
    with pytest.raises(StorageError, match=r"cannot read .*p\.parquet: Permission denied"):
        open_dataset(str(folder))


def test_open_dataset__meets_damaged_footers_with_its_own_errors(tmp_path: Path) -> None:
    """150 single flipped bits in the footer: read, or refused in one line, never another error."""
    folder = write(tmp_path / "data" / "p.parquet")
    good = (folder / "p.parquet").read_bytes()
    length = int.from_bytes(good[-8:-4], "little")
    rng = random.Random(0)
    refusals = []
    with Database(threads=1) as db:
        for _ in range(150):
            content = bytearray(good)
            content[rng.randrange(len(good) - 8 - length, len(good))] ^= 1 << rng.randrange(8)
            (folder / "p.parquet").write_bytes(content)
            try:
                dataset = open_dataset(str(folder))
                index_genes(db, dataset, seed=1)
                db.load("row_groups", row_groups(dataset.files))
            except DataError as refusal:
                refusals.append(str(refusal))
    # the rest hits statistics, notes of the writer and the like, which no checksum covers
    assert len(refusals) > 75
    assert not any("\n" in message for message in refusals)


# ---- columns ----------------------------------------------------------------------------------------------------------

BAD_COLUMNS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no gene": (
        {"gene_id": None},
        {},
        r"no column 'gene_id' in .*p\.parquet; columns are splice_type, x \(set --gene-column, also called --group-column\)",
    ),
    "no label": ({"splice_type": None}, {}, r"no column 'splice_type' in .*p\.parquet; .* \(set --label-column\)"),
    "no group": ({}, {"fold_by": "cluster"}, r"no column 'cluster' in .*p\.parquet; .* \(set --fold-by\)"),
    "another case": ({}, {"gene_column": "GENE_ID"}, "no column 'GENE_ID'"),
    "one for both": ({}, {"gene_column": "splice_type"}, "--gene-column and --label-column both name 'splice_type'"),
    "gene a fraction": (
        {"gene_id": [1.0, 1.0, 2.5, float("nan")]},
        {},
        r"column 'gene_id' of .*p\.parquet has 2\.5, not a whole number",
    ),
    "gene a date": (
        {"gene_id": [datetime.date(2020, 1, 1)] * 4},
        {},
        r"column 'gene_id' is date32\[day\] in .*p\.parquet, neither text nor number; cast it to text or choose another",
    ),
    "gene a list": (
        {"gene_id": [["A"]] * 4},
        {},
        r"column 'gene_id' is list.*; cast it to text or choose another \(--gene-column\)",
    ),
    "gene bytes": ({"gene_id": [b"A"] * 4}, {}, "column 'gene_id' is binary"),
    "label a fraction": ({"splice_type": [0.0, 1.0, 2.0, 0.5]}, {}, "column 'splice_type' of .* has 0.5, not a whole"),
    "label infinite": ({"splice_type": [0.0, 1.0, 2.0, float("inf")]}, {}, "column 'splice_type' of .* has inf, not a"),
    "one label": ({"splice_type": ["a"] * 4}, {}, "column 'splice_type' of .* has only the label 'a'; two or more"),
    "no label at all": ({"splice_type": [None] * 4}, {}, "column 'splice_type' of .* has no label; two or more"),
    "label of another meaning": ({"splice_type": ["all", "none"] * 2}, {}, "a class cannot be called 'all'"),
    "labels that differ in case": (
        {"splice_type": ["a", "A"] * 2},
        {},
        "column 'splice_type' of .* has the labels 'a' and 'A', which differ only in case",
    ),
    "group a fraction": (
        {"overlap_cluster": [1.5] * 4},
        {},
        "column 'overlap_cluster' of .* has 1.5, not a whole number",
    ),
    "no feature": (
        {"x": None},
        {},
        r"no feature column in .*p\.parquet: gene_id \(the gene\), splice_type \(the label\)",
    ),
    "all excluded": ({}, {"exclude": "^x$"}, r"no feature column in .*x \(--exclude\)"),
    "names of one case": ({"X": [1] * 4}, {}, r"columns 'x' and 'X' in .*p\.parquet are one name to SQL; rename one"),
    "no name": ({"": [1] * 4}, {}, r"a column in .*p\.parquet has no name; give it one"),
    "filename": ({"FileName": [1] * 4}, {}, r"column 'FileName' in .*p\.parquet has a name that .* rename it"),
    "file_row_number": ({"file_row_number": [1] * 4}, {}, "column 'file_row_number' in .* rename it"),
    "position a fraction": (
        {"position": [1.0, 2.0, 2.5, 3.0]},
        {},
        r"column 'position' of .*p\.parquet has 2\.5, not a whole",
    ),
    "position a text": (
        {"position": ["1"] * 4},
        {},
        r"column 'position' in .*p\.parquet is string, not a whole number; cast it to an integer",
    ),
    "no pattern": ({}, {"exclude": "["}, r"--exclude '\[' is not a regular expression"),
    "one class": ({}, {"classes": ("a",)}, "--classes needs two or more names that differ, .*; got a"),
    "class twice": ({}, {"classes": ("a", "b", "a")}, "--classes needs two or more names"),
    "class without name": ({}, {"classes": ("a", "")}, "--classes needs two or more names"),
    "base score": (
        {},
        {"base_score_columns": ("x", "y", "z")},
        "--base-score-columns needs one feature for each of neither, donor, acceptor; .* y, z are not features",
    ),
    "too few base scores": ({}, {"base_score_columns": ("x",)}, "--base-score-columns needs one feature for each"),
}


@pytest.mark.parametrize("fault", BAD_COLUMNS)
def test_open_dataset__refuses_columns_in_one_line(fault: str, tmp_path: Path) -> None:
    columns, options, message = BAD_COLUMNS[fault]
    write(tmp_path / "p.parquet", {name: values for name, values in (GOOD | columns).items() if values is not None})
    with pytest.raises(DataError, match=message) as refusal:
        open_dataset(str(tmp_path), **options)
    assert "\n" not in str(refusal.value)


def test_open_dataset__refuses_the_same_name_twice(tmp_path: Path) -> None:
    columns = [pa.array(values) for values in (*GOOD.values(), GOOD["x"])]
    write(tmp_path / "p.parquet", pa.Table.from_arrays(columns, names=[*GOOD, "x"]))
    with pytest.raises(DataError, match="columns 'x' and 'x' in"):
        open_dataset(str(tmp_path))


def test_open_dataset__refuses_no_rows(tmp_path: Path) -> None:
    write(tmp_path / "p.parquet", pa.table(GOOD).slice(0, 0))
    with pytest.raises(DataError, match=r"no rows in .*: 1 file\(s\), all empty"):
        open_dataset(str(tmp_path))


def test_open_dataset__accepts_another_order_of_columns(tmp_path: Path) -> None:
    table = pa.table(GOOD | {"y": [5.0, 6.0, 7.0, 8.0]})
    write(tmp_path / "a.parquet", table)
    write(tmp_path / "b.parquet", table.select(["y", "splice_type", "x", "gene_id"]))
    dataset = open_dataset(str(tmp_path))
    assert dataset.features == ("x", "y")
    assert count_rows(dataset) == 8


@pytest.mark.parametrize("kind", ["float32", "int8", "string", pa.decimal128(21, 2)], ids=str)
def test_open_dataset__refuses_another_type_in_another_file(kind: str | pa.DataType, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet")
    write(tmp_path / "b.parquet", GOOD | {"x": pa.array([1, 2, 3, 4]).cast(kind)})
    with pytest.raises(
        DataError, match=r"column 'x' is .* in .*b\.parquet but double in .*a\.parquet; give all files one"
    ):
        open_dataset(str(tmp_path))


def test_open_dataset__refuses_missing_and_surplus_columns(tmp_path: Path) -> None:
    short, long = GOOD, GOOD | {f"y{number}": [1.0] * 4 for number in range(10)}
    for first, second, message in (
        (
            long,
            short,
            r"b\.parquet lacks column\(s\) y0, y1, .* y7 and 2 more that .*a\.parquet has; give all files one",
        ),
        (
            short,
            long,
            r"b\.parquet has column\(s\) y0, .* and 2 more that .*a\.parquet lacks; give all files one schema",
        ),
    ):
        write(tmp_path / "a.parquet", first)
        write(tmp_path / "b.parquet", second)
        with pytest.raises(DataError, match=message):
            open_dataset(str(tmp_path))


def test_open_dataset__opens_20_000_columns_in_two_orders(tmp_path: Path) -> None:
    many = {f"f{number}": [1.0] * 4 for number in range(20_000)}
    write(tmp_path / "a.parquet", GOOD | many)
    write(tmp_path / "b.parquet", dict(reversed(many.items())) | GOOD)
    assert open_dataset(str(tmp_path)).features == ("x", *many)


@pytest.mark.parametrize(
    "name",
    [
        "select",
        "label",
        "weight",
        "row_number",
        "file",
        'f"0',
        "it's",
        "[a]<b",
        "a.b",
        "a, b",
        "😀",
        "$seed",
        "x" * 10_000,
    ],
)
def test_open_dataset__takes_columns_of_any_name(name: str, tmp_path: Path) -> None:
    """As a feature, and in place of the gene, the label and the group."""
    write(tmp_path / "feature.parquet", GOOD | {name: [1] * 4})
    assert open_dataset(str(tmp_path / "feature.parquet")).features == ("x", name)
    assert count_rows(open_dataset(str(tmp_path / "feature.parquet"))) == 4
    for role, flag in (("gene_id", "gene_column"), ("splice_type", "label_column"), ("group", "fold_by")):
        columns = GOOD | {"group": ["c1", "c1", "c2", "c2"]}
        renamed = {name if column == role else column: values for column, values in columns.items()}
        write(tmp_path / "role.parquet", renamed)
        assert count_rows(open_dataset(str(tmp_path / "role.parquet"), **{flag: name})) == 4


def test_open_dataset__excludes_what_is_no_number_and_says_why(tmp_path: Path) -> None:
    columns = {
        "flag": [True, False, None, True],
        "count": pa.array([0, 255, 7, 1], pa.uint8()),
        "half": pa.array(np.array([1, 2, 3, 4], np.float16)),
        "big": pa.array([2**60] * 4),
        "missing": pa.array([None] * 4, pa.float32()),
        "word": ["a"] * 4,
        "category": pa.array(["a", "b", "a", "b"]).dictionary_encode(),
        "time": [datetime.datetime(2020, 1, 1)] * 4,
        "list": [[1.0]] * 4,
        "struct": [{"a": 1}] * 4,
        "money": [Decimal("1.50")] * 4,
        "nothing": pa.array([None] * 4, pa.null()),
        "score": [0.5] * 4,
        "chrom": [4] * 4,
        "weight_a": [1.0] * 4,
        "unwanted": [1.0] * 4,
    }
    write(tmp_path / "p.parquet", GOOD | columns)
    (tmp_path / "unwanted.txt").write_text("\ufeffunwanted\n\n# a remark\n", encoding="utf-8")
    dataset = open_dataset(str(tmp_path), exclude="^weight_", exclude_features=tmp_path / "unwanted.txt")
    assert dataset.features == ("x", "flag", "count", "half", "big", "missing", "money", "category=a", "category=b")
    reasons = dict(dataset.excluded)
    assert reasons["word"] == "text that is the same in all rows"
    assert reasons["list"] == "list<element: double>, not a number"
    lost = [words.split(";")[0] for words in dataset.warnings]
    assert lost == [
        "1 column(s) that are not numbers are left out: time (timestamp[us])",
        "2 column(s) that are not numbers are left out: list (list<element: double>), struct (struct<a: int64>)",
        "1 column(s) without any value are left out: nothing (null)",
        "1 text column(s) are left out: word, text that is the same in all rows (--exclude says that it is not wanted)",
    ]
    assert reasons["score"] == "leaks the label"
    assert reasons["chrom"] == "an id or a position"
    assert reasons["weight_a"] == "--exclude"
    assert reasons["unwanted"] == "--exclude-features"
    # every column is either a feature or excluded with a reason
    assert set(dataset.features) | set(reasons) == set(GOOD) | set(columns) | {"category=a", "category=b"}


def test_open_dataset__refuses_an_unfit_list_of_unwanted_features(tmp_path: Path) -> None:
    write(tmp_path / "p.parquet")
    (tmp_path / "list.txt").write_text("x\ny\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"list\.txt names column\(s\) y that the dataset lacks"):
        open_dataset(str(tmp_path), exclude_features=tmp_path / "list.txt")
    with pytest.raises(DataError, match=r"cannot read --exclude-features .*absent\.txt"):
        open_dataset(str(tmp_path), exclude_features=tmp_path / "absent.txt")


def test_open_dataset__finds_the_base_scores_of_the_classes(tmp_path: Path) -> None:
    write(tmp_path / "p.parquet", GOOD | {f"{name}_score": [0.1] * 4 for name in ("donor", "neither", "acceptor")})
    assert open_dataset(str(tmp_path)).base_scores == ("neither_score", "donor_score", "acceptor_score")
    assert open_dataset(str(tmp_path), exclude="donor_score").base_scores == ()


@pytest.mark.parametrize(
    ("columns", "options", "group"),
    [
        ({}, {}, "gene_id"),
        ({"overlap_cluster": ["c1", "c1", "c2", "c2"]}, {}, "overlap_cluster"),
        ({"overlap_cluster": ["c1", "c1", "c2", "c2"], "place": [1, 1, 2, 2]}, {"fold_by": "place"}, "place"),
    ],
)
def test_open_dataset__chooses_the_unit_of_independence(
    columns: dict[str, Any], options: dict[str, str], group: str, tmp_path: Path
) -> None:
    write(tmp_path / "p.parquet", GOOD | columns)
    dataset = open_dataset(str(tmp_path), **options)
    assert dataset.fold_column == group
    assert dataset.features == ("x",)


def test_data_warnings__name_features_worth_a_look(db: Database, tmp_path: Path) -> None:
    columns = {
        "beyond": [2**24 + 1, 0, 0, 0],
        "exact": [2**24, 0, 0, 0],
        "constant": [3.5] * 4,
        "empty": pa.array([None] * 4, pa.float64()),
    }
    write(tmp_path / "p.parquet", GOOD | columns)
    dataset = open_dataset(str(tmp_path))
    assert data_warnings(dataset, column_facts(db, dataset)) == (
        "whole numbers beyond 2^24 lose their last digits as float32: beyond",
        "features without any value: empty",
        "features with one value only: constant",
    )


# ---- folders named key=value ------------------------------------------------------------------------------------------


def without(*names: str) -> dict[str, Any]:
    return {name: values for name, values in GOOD.items() if name not in names}


def test_open_dataset__takes_gene_and_group_from_folder_names(tmp_path: Path) -> None:
    for chrom in ("4", "X"):
        columns = GOOD | {"gene_id": [f"{gene}{chrom}" for gene in GOOD["gene_id"]]}
        write(tmp_path / "genes" / f"chrom={chrom}" / "p.parquet", columns)
        write(tmp_path / "folders" / f"gene_id={chrom}" / "p.parquet", without("gene_id"))
    dataset = open_dataset(str(tmp_path / "genes"), fold_by="chrom")
    assert dataset.features == ("x",)
    with Database(threads=1) as db:
        assert index_genes(db, dataset, seed=1).n_groups == 2
    assert count_rows(open_dataset(str(tmp_path / "folders"))) == 8


def test_open_dataset__ignores_folder_names_it_does_not_need(tmp_path: Path) -> None:
    """Some files lie under a key, some under another, some under none."""
    for folder in ("chrom=4", "strand=+", "."):
        write(tmp_path / folder / "p.parquet")
    assert count_rows(open_dataset(str(tmp_path))) == 12


def test_open_dataset__refuses_folder_names_that_differ(tmp_path: Path) -> None:
    write(tmp_path / "gene_id=A" / "p.parquet", without("gene_id"))
    write(tmp_path / "other" / "p.parquet", without("gene_id"))
    with pytest.raises(
        DataError, match=r"other/p\.parquet lies under other partition folders than .*give all files the same"
    ):
        open_dataset(str(tmp_path))


def test_open_dataset__refuses_a_label_that_is_a_folder_name(tmp_path: Path) -> None:
    write(tmp_path / "splice_type=donor" / "p.parquet", without("splice_type"))
    with pytest.raises(DataError, match="label 'splice_type' is a folder name over .*; write it into the files"):
        open_dataset(str(tmp_path))


# ---- fingerprint ------------------------------------------------------------------------------------------------------


def test_fingerprint__stays_when_the_folder_moves(tmp_path: Path) -> None:
    folder = write(tmp_path / "one" / "a.parquet")
    write(folder / "b.parquet")
    before = open_dataset(str(folder)).fingerprint
    folder.rename(tmp_path / "two")
    assert open_dataset(str(tmp_path / "two")).fingerprint == before
    assert open_dataset(str(tmp_path / "two" / "*.parquet")).fingerprint == before


@pytest.mark.parametrize("change", ["rewrite", "rename", "add", "remove", "swap", "hive"])
def test_fingerprint__changes_with_the_files(change: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "a.parquet")
    write(folder / "b.parquet", GOOD | {"x": [5.0, 6.0, 7.0, 8.0]})
    write(folder / "chrom=4" / "c.parquet")
    before = open_dataset(str(folder)).fingerprint
    if change == "rewrite":
        write(folder / "a.parquet", GOOD | {"x": [1.0, 2.0, 3.0, 4.5]})
    elif change == "rename":
        (folder / "a.parquet").rename(folder / "a2.parquet")
    elif change == "add":
        write(folder / "d.parquet")
    elif change == "remove":
        (folder / "b.parquet").unlink()
    elif change == "swap":
        (folder / "a.parquet").rename(folder / "spare")
        (folder / "b.parquet").rename(folder / "a.parquet")
        (folder / "spare").rename(folder / "b.parquet")
    else:
        (folder / "chrom=4").rename(folder / "chrom=5")
    assert open_dataset(str(folder)).fingerprint != before


def test_fingerprint__does_not_depend_on_the_order_of_writing(tmp_path: Path) -> None:
    for folder, names in (("one", "abc"), ("two", "cba")):
        for name in names:
            write(tmp_path / folder / f"{name}.parquet")
    assert open_dataset(str(tmp_path / "one")).fingerprint == open_dataset(str(tmp_path / "two")).fingerprint
