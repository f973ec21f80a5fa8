"""Tables are read alike whatever their types and files, what is not read is said, and wrong files are named."""

import bz2
import gzip
import io
import json
import lzma
import sqlite3
import zipfile
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
from runs import assert_refused, call, here, mi_duck

from mi_duck.data.dataset import announcement, open_dataset
from mi_duck.data.find_files import find_files
from mi_duck.data.text_tables import parquet_of
from mi_duck.data.values import label_codes
from mi_duck.errors import DataError
from mi_duck.file_kinds import kind_of
from mi_duck.run.folder import RunFolder
from mi_duck.run.made import levels_in

ROWS, GENES = 600, 20
QUICK = (
    "--threads",
    "1",
    "--n-estimators",
    "4",
    "--max-depth",
    "2",
    "--early-stopping-patience",
    "0",
    "--n-folds",
    "2",
)
DONE = (*QUICK, "--minimal-diagnostics", "--skip-shap", "--strategy", "single", "--memory-per-gene-mb", "1")


def table(**changes: Any) -> pa.Table:
    """Return 600 rows of 20 genes with two features and two labels that the first one tells in part."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=ROWS)
    columns = {
        "gene_id": [number // 30 for number in range(ROWS)],
        "position": [number % 30 for number in range(ROWS)],
        "label": (x + rng.normal(size=ROWS) > 0.5).astype(int).tolist(),
        "x": x,
        "count": rng.integers(0, 99, ROWS).tolist(),
    }
    return pa.table({name: values for name, values in (columns | changes).items() if values is not None})


def write(file: Path, rows: pa.Table) -> Path:
    """Write a file and the folders over it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, file)
    return file


# ---- types ------------------------------------------------------------------------------------------------------------


def _texts(kind: pa.DataType) -> Callable[[list[Any]], pa.Array]:
    return lambda values: pa.array([str(value) for value in values], pa.string()).cast(kind)


NAME_TYPES: dict[str, Callable[[list[Any]], pa.Array]] = {
    "string": _texts(pa.string()),
    "large_string": _texts(pa.large_string()),
    "string_view": _texts(pa.string_view()),
    "dictionary": lambda values: pa.array([str(value) for value in values]).dictionary_encode(),
    "uint64": lambda values: pa.array(values, pa.uint64()),
    "half float": lambda values: pa.array(np.array(values, np.float16)),
    "double": lambda values: pa.array(values, pa.float64()),
    "decimal32": lambda values: pa.array([Decimal(value) for value in values], pa.decimal32(6, 2)),
    "decimal128": lambda values: pa.array([Decimal(value) for value in values], pa.decimal128(30, 4)),
    "decimal256": lambda values: pa.array([Decimal(value) for value in values], pa.decimal256(50, 2)),
}


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a dataset of integers, its run, and predictions of it."""
    folder = tmp_path_factory.mktemp("usual")
    write(folder / "data.parquet", table())
    here("run", folder / "data.parquet", "--label-column", "label", "--out", folder / "run", *DONE)
    here("predict", folder / "run", folder / "data.parquet", "--out", folder / "p.parquet", "--threads", "1")
    return folder


def probabilities(folder: Path, name: str) -> Any:
    """Return the probabilities and marks of a file, whatever the types of its other columns."""
    return pq.read_table(folder / name, columns=["p_0", "p_1", "prediction", "trained_on"])


@pytest.mark.parametrize("kind", NAME_TYPES)
def test_names__of_every_type_give_the_same_genes_folds_and_predictions(kind: str, usual: Path, tmp_path: Path) -> None:
    """Gene, label and fold column of a type: the same plan as with integers, and predict knows the genes of the run."""
    cast, rows = NAME_TYPES[kind], table()
    changed = {name: cast(rows[name].to_pylist()) for name in ("gene_id", "label")} | {
        "group": cast(rows["gene_id"].to_pylist())
    }
    file = write(tmp_path / "data.parquet", table(**changed))
    here(
        "plan",
        file,
        "--label-column",
        "label",
        "--fold-by",
        "group",
        "--out",
        tmp_path / "run",
        *QUICK,
        "--strategy",
        "single",
    )
    genes = [pq.read_table(folder / "run" / "genes.parquet") for folder in (usual, tmp_path)]
    for column in ("gene_id", "fold", "label_counts"):
        assert genes[0][column].equals(genes[1][column])
    assert RunFolder(tmp_path / "run").read_plan().data.classes == ("0", "1")
    here("predict", usual / "run", file, "--out", tmp_path / "p.parquet", "--threads", "1")
    assert probabilities(tmp_path, "p.parquet").equals(probabilities(usual, "p.parquet"))


NUMBER_TYPES = {name: NAME_TYPES[name] for name in ("uint64", "half float", "decimal32", "decimal128", "decimal256")}


@pytest.mark.parametrize("kind", NUMBER_TYPES)
def test_numbers__of_every_type_are_features_and_positions(kind: str, usual: Path, tmp_path: Path) -> None:
    """Every command; the same out-of-fold predictions as with integers, whatever the type of a feature and the position."""
    rows = table()
    changed = {name: NUMBER_TYPES[kind](rows[name].to_pylist()) for name in ("count", "position")}
    file = write(tmp_path / "data.parquet", table(**changed))
    here("run", file, "--label-column", "label", "--out", tmp_path / "run", *DONE)
    name = "run/oof_predictions.parquet"
    assert probabilities_out_of_fold(tmp_path / name) == probabilities_out_of_fold(usual / name)
    found = json.loads(here("inspect", file, "--label-column", "label", "--json", "--threads", "1").stdout)
    assert found["features"]["all"] == 2
    if kind != "decimal256":
        here("prepare", file, "--label-column", "label", "--out", tmp_path / "sorted", "--threads", "1")
    else:
        words = "column 'position' is decimal256(50, 2), which SQL does not keep exactly; cast it or leave it out"
        refused = call("prepare", file, "--label-column", "label", "--out", tmp_path / "sorted", "--threads", "1")
        assert_refused(refused, 65, words)


def probabilities_out_of_fold(file: Path) -> list[Any]:
    """Return position and probabilities of every row."""
    rows = pq.read_table(file, columns=["gene_id", "position", "p_0", "p_1"]).to_pylist()
    return sorted(tuple(row.values()) for row in rows)


@pytest.mark.parametrize("values", [["no", "NO", "yes"], ["no", "yes", "no "]])
def test_classes__that_differ_in_case_or_spaces_alone_are_refused(values: list[str], tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", pa.table({"gene_id": ["a"] * 3, "y": values, "x": [1.0] * 3}))
    with pytest.raises(
        DataError, match=r"column 'y' of .*a.parquet has the labels .* which differ only in case or in spaces"
    ):
        open_dataset(str(file), label_column="y")


def test_numbers_with_decimal_commas__are_named_and_not_taken_for_levels(tmp_path: Path) -> None:
    """As a semicolon file of a spreadsheet has them."""
    lines = [f"g{number // 4};{number % 2};{number},5;{'ab'[number % 2]}" for number in range(40)]
    (tmp_path / "a.csv").write_text("\n".join(["gene_id;y;dose;kind", *lines, ""]))
    dataset = open_dataset(str(tmp_path / "a.csv"), label_column="y")
    assert {one.column for one in levels_in(dataset.made)} == {"kind"}
    assert any("dose" in words and "decimal commas" in words for words in dataset.warnings)


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        ([True, False, False], ("0", "1")),
        ([1.0, 0.0, 2.0, 0.0], ("0", "1", "2")),
        ([10, 9, 9, 2], ("9", "2", "10")),
        (["benign", "odd", "benign", "strong", "weak"], ("benign", "odd", "strong", "weak")),
        (["donor", "neither", "acceptor"], ("neither", "donor", "acceptor")),
        ([float("nan"), 3.0, 3.0, 4.0], ("3", "4")),
    ],
)
def test_classes__are_those_found_the_most_frequent_first(
    values: list[Any], classes: tuple[str, ...], tmp_path: Path
) -> None:
    n = len(values)
    file = write(tmp_path / "a.parquet", pa.table({"gene_id": ["a"] * n, "y": values, "x": [1.0] * n}))
    dataset = open_dataset(str(file), label_column="y")
    assert dataset.classes == classes
    assert dataset.labels == classes
    said = [line for line in announcement(dataset) if "classes of column" in line]
    assert said == (
        []
        if classes[0] == "neither"
        else [f"    classes of column 'y': {classes[0]} (the background), {', '.join(classes[1:])} (--classes)"]
    )


def test_classes__by_number_are_those_of_splice_sites_beside_their_scores(tmp_path: Path) -> None:
    scores = {f"{name}_score": [0.1, 0.2, 0.3] for name in ("neither", "donor", "acceptor")}
    file = write(
        tmp_path / "a.parquet", pa.table({"gene_id": ["a"] * 3, "splice_type": [0, 1, 2], "x": [1.0] * 3} | scores)
    )
    dataset = open_dataset(str(file))
    assert (dataset.classes, dataset.labels) == (("neither", "donor", "acceptor"), ("0", "1", "2"))
    assert open_dataset(str(file), classes=("a", "b", "c")).labels == ("0", "1", "2")
    assert open_dataset(str(file), classes=("2", "1", "0")).labels == ("2", "1", "0")


def test_classes__of_too_many_labels_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", table(label=list(range(ROWS))))
    with pytest.raises(DataError, match=r"more than 100 different labels; choose another --label-column"):
        open_dataset(str(file), label_column="label")


def test_run__takes_four_classes_that_it_finds(tmp_path: Path) -> None:
    """From plan to report and prediction."""
    rng = np.random.default_rng(1)
    labels = np.array(["benign", "odd", "strong", "weak"])[np.clip(rng.integers(0, 7, ROWS) - 3, 0, 3)].tolist()
    file = write(tmp_path / "a.parquet", table(label=labels, word=["w"] * ROWS))
    here("run", file, "--label-column", "label", "--out", tmp_path / "run", *DONE[:-2])
    here("predict", tmp_path / "run", file, "--out", tmp_path / "p.parquet", "--threads", "1")
    predicted = pq.read_table(tmp_path / "p.parquet")
    assert {"p_benign", "p_odd", "p_strong", "p_weak"} <= set(predicted.column_names)
    warning = "1 text column(s) are left out: word, text that is the same in all rows"
    assert warning in (tmp_path / "run" / "report.html").read_text()
    assert warning in (tmp_path / "run" / "unified_training_summary.txt").read_text()


def test_label_codes__refuse_a_label_that_planning_did_not_see() -> None:
    assert label_codes(pa.array([1.0, 0.0, 1.0]), ("0", "1"), "there").tolist() == [1, 0, 1]
    for column in (pa.array(["a", "b"]), pa.array(["a", None]), pa.array(["a", "b"]).dictionary_encode()):
        with pytest.raises(DataError, match=r"unknown label .* in column 'y' of f; the file changed"):
            label_codes(column, ("a",), "column 'y' of f")


def test_plan__refuses_positions_beyond_what_is_kept(tmp_path: Path) -> None:
    positions = pa.array([(1 << 63) + number for number in range(ROWS)], pa.uint64())
    file = write(tmp_path / "a.parquet", table(position=positions))
    result = call("plan", file, "--label-column", "label", "--out", tmp_path / "run", *QUICK)
    assert_refused(result, 65, "column 'position' of")


def test_plan__names_features_that_are_ids(tmp_path: Path) -> None:
    """A number per row, also as float with missing values; counts, and real numbers of any width, are not such."""
    rng = np.random.default_rng(2)
    ids = pa.array([None if number % 50 == 0 else 7.0 * number for number in range(ROWS)])
    drawn = rng.integers(0, 10 * ROWS, ROWS).tolist()
    rows = table(row=list(range(ROWS)), sample=ids, drawn=drawn, wide=rng.normal(size=ROWS) * 1e6)
    result = call(
        "plan", write(tmp_path / "a.parquet", rows), "--label-column", "label", "--out", tmp_path / "run", *QUICK
    )
    assert result.exit_code == 0, result.output
    assert "warning: row, sample: a different whole number in each of 600 rows looked at" in result.stderr


# ---- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.PARQUET", "a.pq", "a.parq", "_part=1/a.parquet", "deep/er/a.Parquet"])
def test_find_files__takes_the_usual_names(name: str, tmp_path: Path) -> None:
    file = write(tmp_path / name, table())
    assert find_files(str(tmp_path)).files == (file,)


def test_find_files__says_what_it_leaves_out(tmp_path: Path) -> None:
    used = write(tmp_path / "master" / "a.parquet", table())
    for name in ("b.parquet", ".c.parquet", "_old/d.parquet"):
        write(tmp_path / name, table())
    (tmp_path / ".e.parquet").write_bytes(b"not data")
    (tmp_path / "f.csv").write_text("a,b\n")
    found = find_files(str(tmp_path))
    assert found.files == (used,)
    beside, hidden, texts = found.left_out
    assert beside.startswith(f"Parquet files beside the folder 'master' are not read: {tmp_path / 'b.parquet'};")
    assert hidden.startswith(
        f"files under names that begin with . or _ are not read: {tmp_path / '.c.parquet'}, {tmp_path / '_old' / 'd.parquet'};"
    )
    assert texts.startswith(f"tables in text beside Parquet files are not read: {tmp_path / 'f.csv'};")
    result = call("prepare", tmp_path, "--label-column", "label", "--out", tmp_path.parent / f"{tmp_path.name}_sorted")
    assert result.exit_code == 0, result.output
    assert f"warning: {beside}" in result.stderr


def test_find_files__of_an_empty_master_are_those_beside_it(tmp_path: Path) -> None:
    (tmp_path / "master").mkdir()
    file = write(tmp_path / "a.parquet", table())
    assert find_files(str(tmp_path)).files == (file,)


def test_find_files__names_what_a_folder_holds_instead(tmp_path: Path, usual: Path) -> None:
    (tmp_path / "genome.fa").write_text(">chr1\nACGT\n")
    with pytest.raises(DataError, match=r"which holds genome\.fa, which is FASTA: 'mi-duck build' takes it as --fasta"):
        find_files(str(tmp_path))
    with pytest.raises(DataError, match=r"run is a run of mi-duck, not a dataset"):
        find_files(str(usual / "run"))


# ---- tables in text ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.tsv", "a.csv.gz", "folder"])
def test_run__takes_a_table_in_text_as_its_parquet(name: str, usual: Path, tmp_path: Path) -> None:
    """The same out-of-fold predictions, and predict reads it too."""
    rows = table(gene_id=[f"{number // 30:03d}" for number in range(ROWS)])
    file = tmp_path / name
    for number, part in enumerate((rows.slice(0, 300), rows.slice(300)) if name == "folder" else (rows,)):
        sink = io.BytesIO()
        csv.write_csv(part, sink, csv.WriteOptions(delimiter="\t" if "tsv" in name else ","))
        content = gzip.compress(sink.getvalue()) if name.endswith("gz") else sink.getvalue()
        if name == "folder":
            file.mkdir(exist_ok=True)
            (file / f"{number}.csv").write_bytes(content)
        else:
            file.write_bytes(content)
    result = here("run", file, "--label-column", "label", "--out", tmp_path / "run", *DONE)
    assert "600 rows, 2 features" in result.stderr
    found = probabilities_out_of_fold(tmp_path / "run" / "oof_predictions.parquet")
    assert found[0][0] == "000"
    here("predict", tmp_path / "run", file, "--out", tmp_path / "p.parquet", "--threads", "1")
    assert pq.read_table(tmp_path / "p.parquet")["trained_on"].to_pylist() == [True] * ROWS


def test_tables_in_text__take_genes_from_partition_folders(tmp_path: Path) -> None:
    """As Parquet files do: the key of the folders is the gene, with its zeros; a file elsewhere is refused."""
    rows = table(gene_id=[f"{number // 30:03d}" for number in range(ROWS)])
    genes = rows["gene_id"].unique().to_pylist()
    for gene in genes:
        file = tmp_path / "data" / f"gene_id={gene}" / "a.csv"
        file.parent.mkdir(parents=True)
        csv.write_csv(rows.filter(pa.compute.equal(rows["gene_id"], gene)).drop_columns(["gene_id"]), file)
    dataset = open_dataset(str(tmp_path / "data"), label_column="label")
    found = pq.read_table(dataset.files[0])
    assert found["gene_id"].to_pylist() == rows["gene_id"].to_pylist()
    assert dataset.n_rows == ROWS
    (tmp_path / "data" / "b.csv").write_bytes(file.read_bytes())
    with pytest.raises(DataError, match="b.csv does not lie under folders gene_id="):
        open_dataset(str(tmp_path / "data"), label_column="label")


def test_tables_in_text__are_converted_once_and_again_after_a_change(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("gene_id,y,x\n007,0,1.5\n7,1,NA\n")
    made = parquet_of([file])
    assert pq.read_table(made).to_pylist() == [
        {"gene_id": "007", "y": 0, "x": 1.5},
        {"gene_id": "7", "y": 1, "x": None},
    ]
    first = made.stat().st_ino
    before = made.read_bytes()
    file.touch()
    assert parquet_of([file]).stat().st_ino == first
    file.write_text("gene_id,y,x\n007,0,1.5\n7,1,word\n")
    assert pq.read_table(parquet_of([file]))["x"].to_pylist() == ["1.5", "word"]
    file.write_text("gene_id,y,x\n007,0,1.5\n7,1,NA\n")
    assert parquet_of([file]).read_bytes() == before


def test_tables_in_text__keep_the_words_of_classes(tmp_path: Path) -> None:
    """Yes and no are truth values in a feature, and classes in the label."""
    file = tmp_path / "a.csv"
    file.write_text("patient,died,smoker,x\n" + "a,yes,no,1\nb,no,yes,2\nc,no,no,3\n")
    found = open_dataset(str(file), gene_column="patient", label_column="died")
    assert found.classes == ("no", "yes")
    assert found.features == ("smoker", "x")
    with pytest.raises(
        DataError, match=r"no column 'dead' in .*/a\.csv; did you mean 'died'\?; columns are patient, died"
    ):
        open_dataset(str(file), gene_column="patient", label_column="dead")


def test_tables_in_text__have_the_type_that_all_their_rows_need(tmp_path: Path) -> None:
    """A late value of another kind: more rows than any sample of a reader."""
    lines = [f"g,{number}" for number in range(30_000)]
    (tmp_path / "a.csv").write_text("\n".join(["gene_id,x", *lines, "g,0.5"]))
    column = pq.read_table(parquet_of([tmp_path / "a.csv"]))["x"]
    assert column.type == pa.float64()
    assert column[-1].as_py() == 0.5


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("gene_id,x\ng,1\ng,1,2,3\n", r"line 3 of .*a\.csv has 4 cells, its first line 2"),
        (
            "gene_id,x\n" + "g,1\n" * 5000 + "g,1,2\n" + "g,1\n" * 5000,
            r"line 5002 of .*a\.csv has 3 cells, its first line 2",
        ),
        ("gene_id,x,X\ng,1,2\n", "must name every column once; 'x' is empty or stands there twice"),
        ("gene_id,,x\ng,1,2\n", "must name every column once; '' is empty"),
        ("", r"a\.csv is empty \(0 bytes\), not a table"),
        (">chr1\nACGT\n", r"a\.csv is FASTA, not a table; 'mi-duck build' takes it as --fasta"),
    ],
)
def test_tables_in_text__that_cannot_be_read_name_the_line(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(DataError, match=words) as refusal:
        parquet_of([tmp_path / "a.csv"])
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 400


# ---- files of another kind --------------------------------------------------------------------------------------------


def _zipped() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("a.csv", "a,b\n1,2\n")
    return sink.getvalue()


def _database() -> bytes:
    with sqlite3.connect(":memory:") as connection:
        connection.execute("create table t (a)")
        content: bytes = connection.serialize()
    connection.close()
    return content


FASTA, GTF = b">chr1\nACGT\n", b'chr1\tx\texon\t1\t9\t.\t+\t.\tgene_id "a";\n'
KINDS: dict[str, tuple[bytes, str, str]] = {
    "FASTA": (FASTA, "FASTA", "--fasta"),
    "FASTA, packed": (gzip.compress(FASTA), "FASTA, packed by gzip", "--fasta"),
    "GTF": (GTF, "GTF or GFF3", "--annotation"),
    "GFF3": (b"##gff-version 3\n", "GFF3", "--annotation"),
    "VCF": (b"##fileformat=VCFv4.2\n#CHROM\n", "VCF", "no command"),
    "VCF, packed": (gzip.compress(b"##fileformat=VCFv4.2\n"), "VCF, packed by gzip", "no command"),
    "BED": (b"chr1\t1\t2\tdonor\t0.5\t+\n", "BED or bedGraph", "--base-scores"),
    "bigWig": (b"\x26\xfc\x8f\x88" + bytes(60), "bigWig", "--base-scores"),
    "BAM": (gzip.compress(b"BAM\x01" + bytes(40)), "BAM", "no command"),
    "zip": (_zipped(), "a zip archive", "unzip wrong"),
    "bz2": (bz2.compress(FASTA), "packed by bzip2", "bunzip2 -k wrong"),
    "xz": (lzma.compress(FASTA), "packed by xz", "xz -dk wrong"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(40), "HDF5", "pandas.read_hdf"),
    "SQLite": (_database(), "an SQLite database", "sqlite3"),
    "PDF": (b"%PDF-1.7\n", "a PDF document", "no command"),
    "HTML": (b"<!DOCTYPE html>\n<html>", "a web page", "download the file itself"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS", "git lfs pull"),
    "Excel": (b"PK\x03\x04" + bytes(26) + b"[Content_Types].xml", "a workbook of Excel", "CSV"),
    "empty": (b"", "empty (0 bytes)", "make it again"),
    "CSV": (b"gene_id,x\na,1\n", "a table in text (CSV)", ".csv"),
    "model": (b"MIDUCK01" + bytes(40), "a model of mi-duck", "mi-duck predict"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_commands__name_a_wrong_file_and_what_takes_it(kind: str, usual: Path, tmp_path: Path) -> None:
    content, name, use = KINDS[kind]
    file = tmp_path / "wrong"
    file.write_bytes(content)
    assert kind_of(content)[0].startswith(name)  # type: ignore[index]
    for arguments in (("inspect", file), ("predict", usual / "run", file, "--out", tmp_path / "p.parquet")):
        result = call(*arguments)
        assert_refused(result, 65, f"wrong is {name}")
        assert use in result.stderr
        assert "write it again" not in result.stderr
    (tmp_path / "good.fa").write_bytes(FASTA)
    (tmp_path / "good.gtf").write_bytes(GTF)
    places = {"FASTA": ("--annotation", "--base-scores"), "GTF": ("--fasta", "--base-scores"), "GFF3": ("--fasta",)}
    everywhere = ("--fasta", "--annotation")
    is_text = kind in ("CSV", "BED")
    for option in places.get(kind.removesuffix(", packed"), () if is_text else everywhere):
        files = {"--fasta": tmp_path / "good.fa", "--annotation": tmp_path / "good.gtf", option: file}
        if option == "--base-scores":
            continue  # read only after an annotation with introns
        result = call("build", *(part for pair in files.items() for part in pair), "--out", tmp_path / "built")
        assert_refused(result, 65, f"wrong is {name}")


def test_predict__says_what_a_wrong_model_is(usual: Path, tmp_path: Path) -> None:
    result = call("predict", usual / "data.parquet", usual / "data.parquet", "--out", tmp_path / "p.parquet")
    assert_refused(result, 65, "data.parquet is not a mi_duck model but Parquet")


def test_config__says_what_a_wrong_file_is(usual: Path) -> None:
    result = call("inspect", usual / "data.parquet", "--config", usual / "data.parquet")
    assert_refused(result, 78, "data.parquet is Parquet, not TOML")


def test_kind_of__says_nothing_where_bytes_tell_nothing() -> None:
    for content in (b"\0\1\2\3", b"word", b"\x1f\x8bbroken", gzip.compress(b"")):
        assert kind_of(content) is None


def test_inspect__lists_what_is_lost_under_warnings(tmp_path: Path) -> None:
    """In a process of its own, as a user sees it."""
    file = write(tmp_path / "a.parquet", table(word=["w"] * ROWS))
    done = mi_duck("inspect", file, "--label-column", "label")
    assert "warnings" in done.stdout
    assert "left out: word, text that is the same in all rows" in " ".join(done.stdout.split())
