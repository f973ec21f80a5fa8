"""Bad inputs end in one clear line, odd but good ones work: the 70 cases of a list that tries to break the program.

Case 65, files of settings, is tested where these are read.
"""

import base64
import datetime
import json
import os
import random
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as encryption
import pytest
from runs import assert_refused, call, contents, quiet, resealed

from mi_duck.boosting.train import train_instance
from mi_duck.data.database import Database
from mi_duck.data.dataset import open_dataset
from mi_duck.data.parquet import verify_pages
from mi_duck.errors import DataError
from mi_duck.rows.partition import partition_here
from mi_duck.rows.segments import SegmentReader
from mi_duck.run.folder import RunFolder
from mi_duck.workflow.resume import differences_asked

LABELS = ("neither", "donor", "acceptor")
GENES, ROWS = 12, 30
N = GENES * ROWS
FAST = ("--threads", "1", "--strategy", "single", "--memory-per-gene-mb", "1")


def good(**changes: Any) -> dict[str, Any]:
    """Return the columns of a good small dataset with some of them changed, or left out where None."""
    rng = np.random.default_rng(0)
    columns = {
        "gene_id": [f"g{number // ROWS}" for number in range(N)],
        "position": list(range(N)),
        "splice_type": every(LABELS),
        "x": rng.normal(size=N),
        "y": pa.array(rng.integers(0, 256, N), pa.uint8()),
    }
    return {name: column for name, column in (columns | changes).items() if column is not None}


def every(values: Sequence[Any]) -> list[Any]:
    """Return these values over and over for all rows."""
    return [values[number % len(values)] for number in range(N)]


def first(value: Any, others: Sequence[Any]) -> list[Any]:
    """Return one value and then others over and over."""
    return [value, *every(others)[1:]]


def write(file: Path, columns: dict[str, Any] | pa.Table, **options: Any) -> None:
    """Write one Parquet file and the folders over it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), file, **options)


Make = Callable[[Path], None]


def rows(**changes: Any) -> Make:
    """Return what writes the good dataset with some columns changed."""
    return lambda folder: write(folder / "a.parquet", good(**changes))


def two(**changes: Any) -> Make:
    """Return what writes two files of which the second has other columns."""

    def make(folder: Path) -> None:
        write(folder / "a.parquet", good())
        write(folder / "b.parquet", good(**changes))

    return make


def damaged(change: Callable[[bytes], bytes]) -> Make:
    """Return what writes a good file beside one whose bytes are changed."""

    def make(folder: Path) -> None:
        write(folder / "a.parquet", good())
        (folder / "b.parquet").write_bytes(change((folder / "a.parquet").read_bytes()))

    return make


def linked(target: str) -> Make:
    def make(folder: Path) -> None:
        write(folder / "a.parquet", good())
        (folder / "b.parquet").symlink_to(target)

    return make


class Keys(encryption.KmsClient):
    """Keeps keys by writing them down."""

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:
        """Return a key as it is written into the file."""
        return base64.b64encode(key_bytes).decode()

    def unwrap_key(self, wrapped_key: str, master_key_identifier: str) -> bytes:
        """Return a key as it was."""
        return base64.b64decode(wrapped_key)


def encrypted(*, plaintext_footer: bool) -> Make:
    """Return what writes a file with an encrypted feature, with and without an encrypted footer."""

    def make(folder: Path) -> None:
        folder.mkdir()
        table = pa.table(good())
        factory = encryption.CryptoFactory(lambda connection: Keys())
        settings = encryption.EncryptionConfiguration(
            footer_key="k", column_keys={"k": ["x"]}, plaintext_footer=plaintext_footer
        )
        properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), settings)
        with pq.ParquetWriter(folder / "a.parquet", table.schema, encryption_properties=properties) as writer:
            writer.write_table(table)

    return make


def split(names: Sequence[str], columns: dict[str, Any]) -> Make:
    """Return what deals the rows to files of some names in turn."""

    def make(folder: Path) -> None:
        table = pa.table(columns)
        for number, name in enumerate(names):
            write(folder / name, table.take(pa.array(range(number, N, len(names)))))

    return make


def clutter(folder: Path) -> None:
    """Write files of odd names, columns in another order, and what other programs leave beside data."""
    split([f"{name}/{name}.parquet" for name in ODD_FILES], good())(folder)
    write(folder / "z.parquet", dict(reversed(good(gene_id=[f"z{number // ROWS}" for number in range(N)]).items())))
    for name in ("_SUCCESS", ".a.parquet.crc", ".hidden.parquet", "_temporary/0/part.parquet", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"no Parquet")
    os.mkfifo(folder / "pipe")


def under_keys(folder: Path) -> None:
    """Write the gene as a column and, otherwise, as folders; the column counts."""
    write(folder / "gene_id=A" / "a.parquet", good(gene_id=[f"a{number // ROWS}" for number in range(N)]))
    write(folder / "gene_id=B" / "b.parquet", good())


def doubled_name(folder: Path) -> None:
    columns = good()
    arrays = [pa.array(values) for values in (*columns.values(), columns["x"])]
    write(folder / "a.parquet", pa.Table.from_arrays(arrays, names=[*columns, "x"]))


ODD_FILES = ["it's", "a b", "a%20b", "a*b", "a[b]", ";DROP TABLE gene_index", "line\nbreak", "größe😀"]
ODD_COLUMNS = ["label", "weight", "select", 'f"0', "😀", "l" * 10_000, "[a]", "b<c", "a.b", "a, b", "$seed"]


@dataclass(frozen=True)
class Bad:
    """An input that is refused: how it is made, in which words, with which exit code, for which flags of ``plan``."""

    make: Make
    words: str
    code: int = 65
    flags: tuple[str, ...] = ()


REFUSED: dict[str, Bad] = {
    "01 no file": Bad(lambda folder: folder.mkdir(), "no *.parquet file in"),
    "02 no byte": Bad(damaged(lambda good: b""), "b.parquet is empty (0 bytes), not Parquet; it may"),
    "03 magic bytes": Bad(damaged(lambda good: b"PAR1"), "b.parquet (4 bytes) is not a complete Parquet file"),
    "04 end cut off": Bad(damaged(lambda good: good[:-20]), "b.parquet"),
    "04 begin cut off": Bad(damaged(lambda good: good[-500:]), "b.parquet is cut off"),
    "05 text": Bad(
        damaged(lambda good: b"gene_id,splice_type,x\nA,donor,1\n"),
        "is a table in text (CSV), not Parquet; name it with the ending .csv",
    ),
    "06 encrypted": Bad(encrypted(plaintext_footer=False), "a.parquet is encrypted; write it without encryption"),
    "06 encrypted column": Bad(encrypted(plaintext_footer=True), "Cannot decrypt"),
    "08 broken link": Bad(linked("nowhere"), "b.parquet is not a regular file"),
    "09 link to itself": Bad(linked("b.parquet"), "b.parquet is not a regular file"),
    "10 pipe": Bad(
        lambda folder: (write(folder / "a.parquet", good()), os.mkfifo(folder / "b.parquet"))[0],
        "b.parquet is not a regular file",
    ),
    "17 column missing": Bad(two(x=None), "b.parquet lacks column(s) x that"),
    "17 column too many": Bad(two(z=[1] * N), "b.parquet has column(s) z that"),
    "18 int8": Bad(two(x=pa.array([1] * N, pa.int8())), "column 'x' is int8 in"),
    "18 decimal": Bad(two(x=[Decimal("1.5")] * N), "column 'x' is decimal128(2, 1) in"),
    "18 text": Bad(two(x=["1.5"] * N), "column 'x' is string in"),
    "19 names of one case": Bad(rows(X=[1] * N), "columns 'x' and 'X' in"),
    "19 the same name": Bad(doubled_name, "columns 'x' and 'x' in"),
    "20 no name": Bad(rows(**{"": [1] * N}), "has no name; give it one"),
    "23 no feature": Bad(rows(x=None, y=None), "no feature column in"),
    "23 all excluded": Bad(rows(), "no feature column in", flags=("--exclude", ".")),
    "24 no gene column": Bad(rows(gene_id=None), "no column 'gene_id' in"),
    "25 null gene": Bad(rows(gene_id=first(None, ["a", "b", "c"])), "1 row(s) without a gene in column 'gene_id' of"),
    "26 empty gene": Bad(rows(gene_id=first("", ["a", "b", "c"])), "1 row(s) without a gene in column 'gene_id' of"),
    "30 one gene": Bad(rows(gene_id=["g"] * N), "only one gene in"),
    "31 fewer genes than folds": Bad(rows(gene_id=every(["a", "b"])), "--n-folds 2", 78),
    "32 fewer genes than instances": Bad(
        rows(gene_id=every(["a", "b"])),
        "2 genes cannot make 3 instances",
        78,
        ("--strategy", "multi", "--n-folds", "2"),
    ),
    "33 one gene with most rows": Bad(
        rows(gene_id=["g0"] * (N - 30) + [f"g{number // 10}" for number in range(30)]), "fold", 78
    ),
    "34 a gene beyond the memory": Bad(rows(), "0.100 GiB", 78, ("--max-memory-per-instance-gb", "0.1")),
    "39 no label column": Bad(rows(splice_type=None), "no column 'splice_type' in"),
    "40 null label": Bad(rows(splice_type=first(None, LABELS)), "unknown label null in 1 row(s) of column"),
    "41 unknown class": Bad(rows(splice_type=first("5ss", LABELS)), "unknown label '5ss' in 1 row(s) of column"),
    "42 mixed labels": Bad(rows(splice_type=every(["0", *LABELS])), "unknown label '0' in 90 row(s)"),
    "43 a class absent": Bad(rows(splice_type=every(["neither", "donor"])), "no row of class acceptor in column"),
    "44 a class absent from an instance": Bad(
        rows(splice_type=[*LABELS] * 10 + ["neither", "acceptor"] * 165),
        "donor",
        78,
        ("--strategy", "multi", "--genes-per-instance", "4"),
    ),
    "45 a class absent from a fold": Bad(
        rows(splice_type=[*LABELS] * 10 + every(["neither", "acceptor"])[30:]), "rows of donor", 78
    ),
    "46 one site in all": Bad(rows(splice_type=first("donor", ["neither", "acceptor"])), "rows of donor", 78),
    "47 one label": Bad(rows(splice_type=["neither"] * N), "no row of class donor, acceptor in"),
    "48 labels from one": Bad(
        rows(splice_type=every([1, 2, 3])),
        "unknown label '3' in 120 row(s)",
        flags=("--classes", "neither,donor,acceptor"),
    ),
    "52 infinite": Bad(rows(x=first(-np.inf, [0.5])), "infinite value, or one too large for float32, in column 'x' of"),
    "52 infinite float32": Bad(rows(x=pa.array(first(np.inf, [0.5]), pa.float32())), "in column 'x' of"),
    "55 beyond float32": Bad(rows(x=first(1e300, [0.5])), "infinite value, or one too large for float32, in column"),
    "59 sentinel in the data": Bad(rows(x=first(-1e30, [None, 0.5])), "column 'x' of", flags=("--layout", "sentinel")),
    "61 overlap of one": Bad(rows(), "--instance-overlap", 2, ("--instance-overlap", "1")),
    "61 overlap below 0": Bad(rows(), "--instance-overlap", 2, ("--instance-overlap", "-0.1")),
    "61 overlap of nan": Bad(rows(), "--instance-overlap", 2, ("--instance-overlap", "nan")),
    "62 no gene an instance": Bad(rows(), "--genes-per-instance", 2, ("--genes-per-instance", "0")),
    "62 10^9 genes per instance": Bad(rows(), "--genes-per-instance", 2, ("--genes-per-instance", "1000000000")),
    "63 too few instances": Bad(
        rows(),
        "--max-instances 4 of 2 genes",
        78,
        (
            *("--strategy", "multi", "--genes-per-instance", "2", "--max-instances", "4"),
            "--no-auto-adjust-instance-size",
        ),
    ),
    **{
        f"64 memory of {value}": Bad(rows(), "--max-memory-per-instance-gb", 2, ("--max-memory-per-instance-gb", value))
        for value in ("0", "-1", "nan", "inf", "12GB", "1000000000")
    },
    "text as base score": Bad(
        rows(z=["a"] * N),
        "--base-score-columns needs one feature",
        flags=("--base-score-columns", "x,y,z"),
    ),
    "bad expression": Bad(rows(), "is not a regular expression", flags=("--exclude", "[")),
    "absent file of names": Bad(rows(), "absent.txt", flags=("--exclude-features", "absent.txt")),
    "one class name": Bad(rows(), "--classes needs two or more", flags=("--classes", "neither")),
    "doubled class name": Bad(rows(), "--classes needs two or more", flags=("--classes", "a,a,b")),
    "absent fold column": Bad(rows(), "no column 'nothing'", flags=("--fold-by", "nothing")),
    "more genes sampled than there are": Bad(rows(), "1,000", 78, ("--sample-genes", "1000")),
    "null position": Bad(rows(position=first(None, [1, 2])), "null in column 'position' of"),
}


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return for everything under a folder its mode, size and time of change."""
    return {
        str(path.relative_to(folder)): (facts.st_mode, facts.st_size, facts.st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        for facts in [path.lstat()]
    }


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_plan__refuses_a_bad_input_in_one_line_and_writes_nothing(case: str, tmp_path: Path) -> None:
    bad = REFUSED[case]
    bad.make(tmp_path / "data")
    before = snapshot(tmp_path)
    strategy = () if "--strategy" in bad.flags or bad.code == 78 else ("--strategy", "single")
    result = call("plan", tmp_path / "data", "--out", tmp_path / "run", "--threads", "1", *strategy, *bad.flags)
    assert_refused(result, bad.code, bad.words)
    assert {name: facts for name, facts in snapshot(tmp_path).items() if not name.startswith("run")} == before
    assert not (tmp_path / "run").exists() or contents(tmp_path / "run") == []


@pytest.mark.parametrize("value", [np.inf, -1e300])
def test_run__refuses_a_bad_value_before_any_training(value: float, tmp_path: Path) -> None:
    """Cases 52 and 55 once more, by the command that would train."""
    write(tmp_path / "a.parquet", good(bad=first(value, [0.5])))
    result = call("run", tmp_path / "a.parquet", "--out", tmp_path / "run", "--threads", "1")
    assert_refused(result, 65, "column 'bad' of")
    assert not (tmp_path / "run" / "multi_instance_training").exists()


@dataclass(frozen=True)
class Odd:
    """An input that looks wrong and is not: how it is made, rows and genes of the plan, words of its messages."""

    make: Make
    n_genes: int = GENES
    n_rows: int = N
    words: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    features: int = 2


TAKEN: dict[str, Odd] = {
    "11, 12, 16 clutter, odd file names, another order of columns": Odd(clutter, 2 * GENES, 2 * N),
    "13, 35 many files, each gene in several": Odd(split([f"{number}.parquet" for number in range(300)], good())),
    "15 gene as column and folder": Odd(under_keys, 2 * GENES, 2 * N),
    # other genes, but hardly anyone means that; and one label for a position is meant
    "27, 36, 38 genes that differ by case or a space, not together, positions with two labels": Odd(
        rows(gene_id=every(["g", "G", "g ", "h", "H", "i", "j"]), position=[number // 14 for number in range(N)]),
        7,
        words=(
            "warning: 2 gene name(s) are written in several ways, as 'G' and 'g' and 'g '",
            "position(s) have rows of several classes, among 360 rows looked at; one is 0 of gene 'G' in column 'position'",
        ),
    ),
    "28 versioned genes": Odd(rows(gene_id=[f"ENSG{number // 60}.{number // 30 % 2}" for number in range(N)])),
    "29, 37 integer genes, doubled rows": Odd(
        rows(
            gene_id=[number // 60 for number in range(N)],
            position=[number // 3 for number in range(N)],
            splice_type=[LABELS[number // 3 % 3] for number in range(N)],
            x=[float(number // 3) for number in range(N)],
        ),
        6,
    ),
    "32 fewer genes than instances": Odd(
        rows(gene_id=[f"g{number // 120}" for number in range(N)]), 3, flags=("--strategy", "auto")
    ),
    "33 one gene with most rows": Odd(
        rows(gene_id=["g0"] * 200 + [f"g{number // 20}" for number in range(160)]), 8, flags=("--n-folds", "2")
    ),
    "columns": Odd(
        rows(
            **{name: every([1, 2, 3, 5]) for name in ODD_COLUMNS},  # 20, 21
            answer=every([0, 1, 2]),  # 49
            none=pa.nulls(N, pa.float64()),  # 50
            one=[1.0] * N,  # 51
            holes=pa.array(every([None, np.nan, 1.0, 2.0])),  # 53
            zero=every([-0.0, 0.0, 1e-45, 5e-324]),  # 54
            large=every([(1 << 60) + 1, 5, -(1 << 62), 7]),  # 56
            full=pa.array(every([0, 255, 7, 9]), pa.uint8()),  # 57: bytes need no sentinel, for none is missing
            when=[datetime.datetime(2020, 1, 1)] * N,  # 58
            several=[[1, 2]] * N,
            nested=[{"a": 1}] * N,
            coded=pa.array(["a", "b"] * (N // 2)).dictionary_encode(),
            exact=[Decimal("1.50")] * N,
            flag=every([True, False, None, True]),
            half=pa.array(np.zeros(N, np.float16)),
        ),
        words=(
            "feature 'answer' warning: it may leak the label",
            "warning: features without any value: none",
            "warning: features with one value only: one, exact, half",
            "warning: whole numbers beyond 2^24 lose their last digits as float32: large",
            "warning: 1 column(s) that are not numbers are left out: when (timestamp[us]); to use such a column, name it in "
            "--date-columns",
            "left out: several (list<element: int64>), nested (struct<a: int64>); to use such a column, write each of its",
            "text columns whose levels are features: coded (2 levels)",
        ),
        flags=("--layout", "sentinel"),
        features=25,
    ),
}


@pytest.mark.parametrize("case", sorted(TAKEN))
def test_plan__takes_an_odd_input_and_every_row_of_it(case: str, tmp_path: Path) -> None:
    """Planned, and every row partitioned with its own label and position; odd columns are trained on and predicted too."""
    odd = TAKEN[case]
    odd.make(tmp_path / "data")
    before = snapshot(tmp_path)
    flags = ("--n-estimators", "2", "--max-depth", "2", "--early-stopping-patience", "0", *odd.flags)
    result = call("plan", tmp_path / "data", "--out", tmp_path / "run", *FAST, *flags)
    assert result.exit_code == 0, result.output
    for words in odd.words:
        assert words in result.stderr
    folder = RunFolder(tmp_path / "run")
    plan = folder.read_plan()
    assert (plan.data.n_genes, plan.data.n_rows, len(plan.data.features)) == (odd.n_genes, odd.n_rows, odd.features)
    partition_here(run=str(folder.root), threads=1, report=quiet)
    reader = SegmentReader(plan, plan.cut.segments, folder.segments)
    written = [
        row
        for file in open_dataset(str(tmp_path / "data")).files
        for row in pq.ParquetFile(file).read(columns=["gene_id", "position", "splice_type"]).to_pylist()
    ]
    genes = pq.read_table(folder.genes).sort_by("gene_rank")["gene_id"].to_pylist()
    keys = reader.keys()
    found = sorted((genes[key["gene_rank"]], int(key["position"]), LABELS[key["label"]]) for key in keys)
    assert found == sorted((str(row["gene_id"]), row["position"], row["splice_type"]) for row in written)
    assert sum(len(matrix) for matrix in reader.matrices(100)) == odd.n_rows
    if case == "columns":
        train_instance(run=str(folder.root), instance_id=0, threads=1, report=quiet)
        model = folder.root / "multi_instance_training" / "instance_00"
        assert call("predict", model, tmp_path / "data", "--out", tmp_path / "run" / "p.parquet").exit_code == 0
        assert len(pq.read_table(tmp_path / "run" / "p.parquet")) == N
    assert {name: facts for name, facts in snapshot(tmp_path).items() if not name.startswith("run")} == before


def test_plan__of_20_000_columns_takes_all(tmp_path: Path) -> None:
    """Case 22, as far as footers: how many columns are worth it is for the user to judge."""
    many = {f"f{number}": pa.array(every([number % 256, 1]), pa.uint8()) for number in range(20_000)}
    write(tmp_path / "a.parquet", pa.table(good(**many)))
    result = call("inspect", tmp_path / "a.parquet", "--json", "--threads", "1")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["features"]["all"] == 20_002


def test_plan__names_a_file_that_it_may_not_read() -> None:
    """Case 7; root may read everything, so the test is somebody else for a moment."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        write(place / "data" / "a.parquet", good())
        (place / "data" / "a.parquet").chmod(0)
        is_root = os.geteuid() == 0
        if is_root:
            os.seteuid(65534)
        try:
            result = call("plan", place / "data", "--out", place / "run")
        finally:
            if is_root:
                os.seteuid(0)
        assert_refused(result, 74, f"cannot read {place}/data/a.parquet: Permission denied")
        assert not (place / "run").exists()


@pytest.mark.parametrize("place", ["data", "data/run", "data/master/run"])
def test_plan__never_writes_into_the_dataset(place: str, tmp_path: Path) -> None:
    """Case 66."""
    write(tmp_path / "data" / "master" / "a.parquet", good())
    before = snapshot(tmp_path)
    for command in ("plan", "run"):
        assert_refused(call(command, tmp_path / "data", "--out", tmp_path / place), 65, "--out")
    assert snapshot(tmp_path) == before


# ---- runs, models, files of ours that are none ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run with one trained instance; its data lie beside it."""
    folder = tmp_path_factory.mktemp("trained")
    write(folder / "data" / "a.parquet", good())
    flags = ("--n-estimators", "3", "--max-depth", "2", "--early-stopping-patience", "0")
    assert call("plan", folder / "data", "--out", folder / "run", *FAST, *flags).exit_code == 0
    partition_here(run=str(folder / "run"), threads=1, report=quiet)
    train_instance(run=str(folder / "run"), instance_id=0, threads=1, report=quiet)
    return folder / "run"


PREDICTED: dict[str, tuple[dict[str, Any], str]] = {
    "missing": (good(x=None), "lacks 1 of 2 features of the model: x"),
    "renamed": (good(x=None, X=[1.0] * N), "lacks 1 of 2 features of the model: x"),
    "text": (good(x=["1.0"] * N), "feature 'x' is string in"),
    "infinite": (good(x=first(np.inf, [1.0])), "a.parquet"),
}


@pytest.mark.parametrize("case", PREDICTED)
def test_predict__refuses_other_features(case: str, trained: Path, tmp_path: Path) -> None:
    """Case 60."""
    columns, words = PREDICTED[case]
    write(tmp_path / "data" / "a.parquet", columns)
    model = trained / "multi_instance_training" / "instance_00"
    assert_refused(call("predict", model, tmp_path / "data", "--out", tmp_path / "p.parquet"), 65, words)
    assert contents(tmp_path) == ["data/a.parquet"]


def test_predict__takes_features_in_any_order_among_others(trained: Path, tmp_path: Path) -> None:
    """Case 60 again: by name, so neither order nor what is added matters."""
    write(tmp_path / "a" / "a.parquet", good())
    write(tmp_path / "b" / "a.parquet", dict(reversed(good(z=["?"] * N).items())))
    model = trained / "multi_instance_training" / "instance_00"
    for name in "ab":
        assert call("predict", model, tmp_path / name, "--out", tmp_path / f"{name}.parquet").exit_code == 0
    one, other = (pq.read_table(tmp_path / f"{name}.parquet") for name in "ab")
    assert one["p_donor"].equals(other["p_donor"])


@pytest.mark.parametrize("fault", ["magic bytes", "encrypted", "a flipped bit"])
def test_predict__refuses_files_that_are_no_whole_parquet(fault: str, trained: Path, tmp_path: Path) -> None:
    write(tmp_path / "data" / "a.parquet", good(), write_page_checksum=True)
    content = bytearray((tmp_path / "data" / "a.parquet").read_bytes())
    if fault == "magic bytes":
        content = content[:4]
    elif fault == "encrypted":
        content[-4:] = b"PARE"
    else:
        column = pq.read_metadata(tmp_path / "data" / "a.parquet").row_group(0).column(3)
        content[column.data_page_offset + column.total_compressed_size // 2] ^= 4
    (tmp_path / "data" / "a.parquet").write_bytes(content)
    model = trained / "multi_instance_training" / "instance_00"
    words = {"magic bytes": "(4 bytes) is not a complete", "encrypted": "is encrypted", "a flipped bit": "is damaged"}
    assert_refused(call("predict", model, tmp_path / "data", "--out", tmp_path / "p.parquet"), 65, words[fault])
    assert contents(tmp_path) == ["data/a.parquet"]


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """Copy of the trained run, to be spoilt."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def rewrite(file: Path, old: str, new: str) -> None:
    """Replace a text in a JSON file of ours, with its own hash right again."""
    file.write_text(file.read_text().replace(old, new))
    resealed(file, lambda values: None)


BAD_PLANS: dict[str, tuple[Callable[[str], str], str]] = {
    "67 newer": (lambda text: text.replace('"version": 7', '"version": 99'), "the plan has format 99"),
    "70 nested": (lambda text: "[" * 1_000_000 + "]" * 1_000_000, "plan.json is damaged"),
    "70 nan": (lambda text: text.replace('"seed": 42', '"seed": NaN'), "plan.json is damaged: it holds NaN"),
    "70 doubled key": (
        lambda text: text.replace("{", '{"seed": 1, "seed": 2, ', 1),
        "plan.json is damaged: the key 'seed' stands twice",
    ),
    "no JSON": (lambda text: text[: len(text) // 2], "plan.json is damaged"),
    "a list": (lambda text: "[]", "plan.json is damaged"),
}


@pytest.mark.parametrize("case", BAD_PLANS)
def test_commands__refuse_a_plan_that_is_none(case: str, copied: Path) -> None:
    """Cases 67 and 70."""
    change, words = BAD_PLANS[case]
    plan = copied / "plan.json"
    plan.write_text(change(plan.read_text()))
    for command in ("status", "train", "consolidate"):
        assert_refused(call(command, copied), 65, words)


@pytest.mark.parametrize("name", ["../../plan.json", "/etc/passwd", "link"])
def test_status__names_of_a_manifest_open_no_file(name: str, copied: Path) -> None:
    """Case 68: names come from the program, so an instance whose manifest names other files counts as not trained."""
    where = copied / "multi_instance_training" / "instance_00"
    (where / "link").symlink_to("/etc/passwd")
    manifest = json.loads((where / "manifest.json").read_bytes())
    manifest["sha256"][name] = manifest["sha256"].pop("genes.txt")
    (where / "manifest.json").write_text(json.dumps(manifest))
    assert json.loads(call("status", copied, "--json").stdout)["n_done"] == 0


@pytest.mark.parametrize("kind", ["zip", "tar", "nested"])
def test_predict__refuses_a_model_that_is_an_archive(kind: str, trained: Path, tmp_path: Path) -> None:
    """Cases 69 and 70: an archive is not a model, so nothing is ever unpacked."""
    model = tmp_path / "model.miduck"
    if kind == "zip":
        with zipfile.ZipFile(model, "w") as zipped:
            zipped.writestr("../../outside", "x")
    elif kind == "tar":
        with tarfile.open(model, "w") as archive:
            archive.add(trained.parent / "data", arcname="../../outside")
    else:
        model.write_text("[" * 1_000_000)
    result = call("predict", model, trained.parent / "data", "--out", tmp_path / "p.parquet")
    assert_refused(result, 65, "model.miduck is not a mi_duck model")
    assert contents(tmp_path) == ["model.miduck"]


# ---- files that change under a run ------------------------------------------------------------------------------------

CHANGES = ("a row more", "other values", "a file gone", "a partition gone", "a file more")


def change(data: Path, kind: str) -> str:
    """Change a dataset of two partitions; return the file that a message must name."""
    file = data / "gene_id=B" / "b.parquet"
    table = pq.ParquetFile(file).read()
    if kind == "a row more":
        pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), file)
    elif kind == "other values":
        at = table.column_names.index("x")
        pq.write_table(table.set_column(at, "x", pa.array(np.zeros(len(table)))), file)
    elif kind == "a file gone":
        file.unlink()
    elif kind == "a partition gone":
        shutil.rmtree(file.parent)
    else:
        file = data / "gene_id=B" / "c.parquet"
        pq.write_table(table.slice(0, 3), file)
    return str(file)


@pytest.fixture(scope="module")
def partitioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a dataset of two partitions and its planned run, with segments."""
    folder = tmp_path_factory.mktemp("partitioned")
    under_keys(folder / "data")
    assert call("plan", folder / "data", "--out", folder / "run", *FAST).exit_code == 0
    partition_here(run=str(folder / "run"), threads=1, report=quiet)
    return folder


def moved(folder: Path, target: Path) -> Path:
    """Copy a dataset and its run; return the copied run, whose plan names the copied dataset."""
    for name in ("data", "run"):
        shutil.copytree(folder / name, target / name)
    plan = target / "run" / "plan.json"
    rewrite(plan, str(folder / "data"), str(target / "data"))
    return target / "run"


@pytest.mark.parametrize("when", ["before training", "after training"])
@pytest.mark.parametrize("kind", CHANGES)
def test_stages__name_the_file_that_changed_under_a_run(
    kind: str, when: str, partitioned: Path, tmp_path: Path
) -> None:
    """Between plan and train, and between train and consolidate, where the segments are there already."""
    run = moved(partitioned, tmp_path)
    if when == "before training":
        shutil.rmtree(RunFolder(run).scratch)
    named = change(tmp_path / "data", kind)
    with pytest.raises(DataError, match=r"changed since plan.json was made: .* restore it or plan anew") as refusal:
        partition_here(run=str(run), threads=1, report=quiet)
    assert named in str(refusal.value)
    assert refusal.value.exit_code == 65


def test_consolidate__names_the_file_that_changed(trained: Path, tmp_path: Path) -> None:
    run = moved(trained.parent, tmp_path)
    write(tmp_path / "data" / "a.parquet", good(x=[0.0] * N))
    words = f"{tmp_path / 'data' / 'a.parquet'} is another file now"
    assert_refused(call("consolidate", run, "--threads", "1"), 65, words)


def rewrite_in_place(file: Path, place: int = 3) -> None:
    """Change one bit of a column's last value: size and footer stay."""
    column = pq.read_metadata(file).row_group(0).column(place)
    content = bytearray(file.read_bytes())
    begin = column.dictionary_page_offset or column.data_page_offset
    content[begin + column.total_compressed_size - 2] ^= 4
    file.write_bytes(content)


def test_full_hash__sees_what_footers_do_not(tmp_path: Path) -> None:
    write(tmp_path / "data" / "a.parquet", good(), compression="none", use_dictionary=False)
    flags = (*FAST, "--n-estimators", "1", "--max-depth", "1", "--full-hash")
    arguments = (tmp_path / "data", "--out", tmp_path / "run", *flags)
    assert call("plan", *arguments).exit_code == 0
    plan = RunFolder(tmp_path / "run").read_plan()
    assert plan.data.full_hash
    assert plan.data.fingerprint == open_dataset(str(tmp_path / "data"), full_hash=True).fingerprint
    plain = open_dataset(str(tmp_path / "data")).fingerprint
    assert plan.data.fingerprint != plain
    rewrite_in_place(tmp_path / "data" / "a.parquet")
    assert open_dataset(str(tmp_path / "data")).fingerprint == plain
    with pytest.raises(DataError, match=r"a\.parquet is another file now"):
        partition_here(run=str(tmp_path / "run"), threads=1, report=quiet)
    assert_refused(call("train", tmp_path / "run"), 65, "a.parquet is another file now")
    plan, again = RunFolder(tmp_path / "run").read_plan(), open_dataset(str(tmp_path / "data"), full_hash=True)
    assert differences_asked(plan, again, plan.asked)[-1].endswith("a.parquet is another file now")
    plain_now = open_dataset(str(tmp_path / "data"))
    assert "full_hash: True then, False now" in differences_asked(plan, plain_now, plan.asked)


@pytest.mark.parametrize("reader", ["inspect", "plan", "partition", "predict"])
def test_readers__refuse_a_file_that_changes_while_it_is_read(
    reader: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something touches the file in the middle: results that may be half of it are not written."""
    run = moved(trained.parent, tmp_path)
    file = tmp_path / "data" / "a.parquet"

    def touched(files: Sequence[Path], columns: Sequence[str], *, threads: int) -> None:
        verify_pages(files, columns, threads=threads)
        os.utime(file)

    monkeypatch.setattr("mi_duck.data.database.verify_pages", touched)
    if reader == "partition":
        shutil.rmtree(RunFolder(run).scratch)
        with pytest.raises(DataError, match=r"a\.parquet changed while it was read; run the same command again"):
            partition_here(run=str(run), threads=1, report=quiet)
        assert not list(RunFolder(run).segments.rglob("segment.json"))
        return
    if reader == "predict":
        monkeypatch.setattr("mi_duck.ensemble.predict.model_sha256", lambda model: (os.utime(file), "")[1])
        model = trained / "multi_instance_training" / "instance_00"
        result = call("predict", model, tmp_path / "data", "--out", tmp_path / "out" / "p.parquet")
    elif reader == "plan":
        result = call("plan", tmp_path / "data", "--out", tmp_path / "out", *FAST)
    else:
        result = call("inspect", tmp_path / "data")
    assert_refused(result, 65, "a.parquet changed while it was read")
    assert not (tmp_path / "out").exists() or contents(tmp_path / "out") == []


# ---- page checksums ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["gene_id", "splice_type", "position", "x", "y"])
def test_checksums__a_flipped_bit_in_any_column_of_sql_is_refused(column: str, db: Database, tmp_path: Path) -> None:
    """Twenty bits of the pages of each column, before DuckDB sees them: never another value."""
    file = tmp_path / "a.parquet"
    write(file, good(), write_page_checksum=True)
    whole = file.read_bytes()
    facts = pq.read_metadata(file).row_group(0).column(list(good()).index(column))
    begin = facts.dictionary_page_offset or facts.data_page_offset
    expected = pq.read_table(file)[column]
    draw = random.Random(0)
    refusals = []
    for _ in range(20):
        content = bytearray(whole)
        content[draw.randrange(begin, begin + facts.total_compressed_size)] ^= 1 << draw.randrange(8)
        file.write_bytes(content)
        try:
            db.open_source(
                [file],
                gene_column="gene_id",
                label_column="splice_type",
                fold_column="gene_id",
                position_column="position",
                site_scores=["x", "y"],
            )
        except DataError as error:
            refusals.append(str(error))
        else:
            assert pq.read_table(file)[column].equals(expected)
    assert all(message.startswith(f"{file} is damaged") for message in refusals)
    assert len(refusals) >= 15  # the others hit what changes no value, such as statistics


def test_partition__verifies_the_gene_column_again(partitioned: Path, tmp_path: Path) -> None:
    """A bit that flips after the plan: only SQL reads that column."""
    run = moved(partitioned, tmp_path)
    shutil.rmtree(RunFolder(run).scratch)
    file = tmp_path / "data" / "gene_id=B" / "b.parquet"
    table = pq.ParquetFile(file).read()
    pq.write_table(table, file, write_page_checksum=True)
    plan = run / "plan.json"
    fingerprints = [open_dataset(str(tmp_path / "data")).fingerprint, RunFolder(run).read_plan().data.fingerprint]
    rewrite(plan, fingerprints[1], fingerprints[0])
    rewrite_in_place(file, 0)
    with pytest.raises(DataError, match=r"b\.parquet is damaged .*CRC"):
        partition_here(run=str(run), threads=1, report=quiet)


def test_inspect__refuses_a_footer_that_contradicts_itself(tmp_path: Path) -> None:
    """One flipped bit renames a column in the row groups alone; the schema stays as it was."""
    file = tmp_path / "a.parquet"
    write(file, good(unusual=every([1, 2])))
    content = bytearray(file.read_bytes())
    places = [at for at in range(len(content)) if content[at : at + 7] == b"unusual"]
    renamed = 0
    for at in places:
        spoilt = content.copy()
        spoilt[at] ^= 2
        file.write_bytes(spoilt)
        result = call("inspect", file, "--threads", "1")
        assert result.exit_code in (0, 65), result.output
        renamed += "say nothing of unusual; a file is damaged" in result.stderr
    assert renamed == 1
