"""From Parquet to genes: the index, the sample, the folds, the places of rows, and the rows no plan can use."""

from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mi_duck.data.database import Database
from mi_duck.data.dataset import open_dataset
from mi_duck.data.genes import Fold, GeneCounts, assign_folds, index_genes
from mi_duck.data.identical import Identical
from mi_duck.data.parquet import row_groups
from mi_duck.errors import DataError, PlanError

WriteRows = Callable[..., Path]


def many_rows(seed: int = 0, n_genes: int = 40) -> list[dict[str, Any]]:
    """Return rows of genes G000 ... of 10 to 60 rows, gene by gene, with all three classes in each."""
    rng = np.random.default_rng(seed)
    return [
        {"gene_id": f"G{gene:03d}", "splice_type": ("neither", "donor", "acceptor")[place % 3], "x": float(place)}
        for gene in range(n_genes)
        for place in range(int(rng.integers(10, 60)))
    ]


def indexed(db: Database, location: Path, **options: Any) -> tuple[GeneCounts, list[dict[str, Any]]]:
    """Return the summary and the rows of the gene index."""
    index = index_genes(db, open_dataset(str(location)), seed=42, **options)
    return index, db.read("gene_index").to_pylist()


def test_index_genes__counts_genes_rows_and_classes(db: Database, tiny: Path) -> None:
    index, rows = indexed(db, tiny)
    # genes A (neither, donor, neither), B (acceptor, neither), C (donor)
    assert index == GeneCounts(
        n_genes=3,
        n_rows=6,
        n_genes_dataset=3,
        n_groups=3,
        label_counts=(3, 2, 1),
        identical=Identical(n_rows=0, n_genes=0, n_group_pairs=0, pair=(), one_in=1, n_features=2),
        content=index.content,
    )
    assert set(index.content) == set(open_dataset(str(tiny)).features)
    assert {row["gene_id"]: row["label_counts"] for row in rows} == {"A": [2, 1, 0], "B": [1, 0, 1], "C": [0, 1, 0]}
    assert [row["gene_rank"] for row in rows] == [0, 1, 2]


def test_index_genes__does_not_depend_on_files_names_order_or_threads(db: Database, write_rows: WriteRows) -> None:
    rows = many_rows()
    order = np.random.default_rng(1).permutation(len(rows))
    shuffled = [rows[place] for place in order]
    one = write_rows(rows, name="one")
    many = write_rows(shuffled[:100], shuffled[100:101], shuffled[101:], name="many", row_group_rows=37)
    (many / "part-0.parquet").rename(many / "zz.parquet")
    expected = indexed(db, one)
    with Database(threads=4) as other:
        assert indexed(other, many) == expected


def test_index_genes__samples_whole_genes_from_all_files(db: Database, write_rows: WriteRows) -> None:
    rows = many_rows()
    split = write_rows(rows[0::2], rows[1::2], name="split")
    _, all_genes = indexed(db, split)
    index, sampled = indexed(db, split, sample_genes=10)
    assert (index.n_genes, index.n_genes_dataset) == (10, 40)
    n_rows = {row["gene_id"]: row["n_rows"] for row in all_genes}
    assert all(row["n_rows"] == n_rows[row["gene_id"]] for row in sampled)
    # the first ten genes by name would be a sample of the first file alone
    assert {row["gene_id"] for row in sampled} != {f"G{gene:03d}" for gene in range(10)}


def test_index_genes__sample_is_a_function_of_genes_and_seed(db: Database, write_rows: WriteRows) -> None:
    rows = many_rows()
    dataset = open_dataset(str(write_rows(rows, name="one")))
    backwards = open_dataset(str(write_rows(rows[::-1][:500], rows[::-1][500:], name="two")))
    found = {}
    for name, opened, seed in (("one", dataset, 1), ("two", backwards, 1), ("other", dataset, 2)):
        index_genes(db, opened, seed=seed, sample_genes=10)
        found[name] = set(db.read("gene_index")["gene_id"].to_pylist())
    assert found["one"] == found["two"] != found["other"]


def test_index_genes__a_larger_sample_holds_the_smaller(db: Database, write_rows: WriteRows) -> None:
    folder = write_rows(many_rows())
    samples = [{row["gene_id"] for row in indexed(db, folder, sample_genes=n)[1]} for n in (5, 20, 40)]
    assert samples[0] < samples[1] < samples[2]


def test_index_genes__refuses_to_sample_more_genes_than_there_are(db: Database, tiny: Path) -> None:
    with pytest.raises(PlanError, match="--sample-genes 4 of 3 genes; ask for at most 3"):
        indexed(db, tiny, sample_genes=4)


BAD_ROWS = {
    "null gene": (
        {"gene_id": [None, "A", "B"]},
        r"1 row\(s\) without a gene in column 'gene_id' of .*part-0\.parquet; remove or name them",
    ),
    "no gene at all": ({"gene_id": pa.array([None] * 3)}, r"3 row\(s\) without a gene"),
    "empty gene": ({"gene_id": ["", "A", "B"]}, r"1 row\(s\) without a gene"),
    "one gene": ({"gene_id": ["A"] * 3}, "only one gene in column 'gene_id' of .*data; two or more are needed"),
    "null label": (
        {"splice_type": ["neither", "donor", None]},
        r"unknown label null in 1 row\(s\) of column 'splice_type', first in .*part-0\.parquet; known are neither",
    ),
    "unknown label": (
        {"splice_type": ["neither", "5ss", "5ss"]},
        r"unknown label '5ss' in 2 row\(s\) .*known are neither, donor, acceptor \(set --classes\)",
    ),
    "numbers among names": ({"splice_type": ["neither", "0", "donor"]}, "unknown label '0'"),
    "another case": ({"splice_type": ["neither", "Donor", "acceptor"]}, "unknown label 'Donor'"),
    "absent class": (
        {"splice_type": ["neither", "donor", "donor"]},
        r"no row of class acceptor in column 'splice_type' of .*data \(set --classes\)",
    ),
    "constant label": ({"splice_type": ["neither"] * 3}, "no row of class donor, acceptor"),
    "line break in a label": ({"splice_type": ["neither", "a\nb", "donor"]}, r"unknown label 'a\\nb'"),
    "null group": (
        {"overlap_cluster": ["c1", None, "c2"]},
        r"gene 'A' has rows without 'overlap_cluster' in .*part-0\.parquet; fill it or choose another --fold-by",
    ),
    "empty group": ({"overlap_cluster": ["c1", "", "c2"]}, "gene 'A' has rows without 'overlap_cluster'"),
    "gene in two groups": (
        {"overlap_cluster": ["c1", "c2", "c1"]},
        "gene 'A' is in 2 groups of 'overlap_cluster'; a gene must be in one",
    ),
}


@pytest.mark.parametrize("fault", BAD_ROWS)
def test_index_genes__refuses_rows_that_no_plan_can_use(fault: str, db: Database, tmp_path: Path) -> None:
    columns, message = BAD_ROWS[fault]
    good = {"gene_id": ["A", "A", "B"], "splice_type": ["neither", "donor", "acceptor"], "x": [1.0, 2.0, 3.0]}
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table(good | columns), tmp_path / "data" / "part-0.parquet")
    with pytest.raises(DataError, match=message) as refusal:
        indexed(db, tmp_path / "data")
    assert refusal.value.exit_code == 65
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("labels", "unknown"), [([1, 2, 3], "3"), ([0, 1, -1], "-1")])
def test_index_genes__refuses_numbers_that_the_named_classes_lack(
    labels: list[int], unknown: str, db: Database, write_rows: WriteRows
) -> None:
    folder = write_rows([{"gene_id": f"g{label}", "splice_type": label, "x": 1.0} for label in labels])
    dataset = open_dataset(str(folder), classes=("neither", "donor", "acceptor"))
    with pytest.raises(DataError, match=rf"unknown label '{unknown}' .*known are 0, 1, 2 \(set --classes\)"):
        index_genes(db, dataset, seed=1)


def test_index_genes__names_the_sample_where_it_lacks_a_class(db: Database, write_rows: WriteRows) -> None:
    rows = [{"gene_id": f"G{gene}", "splice_type": "neither", "x": 1.0} for gene in range(30)]
    rows += [{"gene_id": "Z", "splice_type": label, "x": 1.0} for label in ("donor", "acceptor")]
    with pytest.raises(DataError, match="no row of class donor, acceptor .* among the 2 sampled genes; sample more"):
        indexed(db, write_rows(rows), sample_genes=2)


@pytest.mark.parametrize(
    "genes",
    [
        ["a", "A", "A ", " A"],
        ["ENSG01.5", "ENSG01.6", "ENSG01", "ENSG01.50"],
        [1, 2, 10, -1],
        ["007", "7", "7.0", "07"],
        ["line\nbreak", "'quote", '"double', "; drop table x"],
    ],
    ids=["case and space", "versions", "integers", "zeros", "odd letters"],
)
def test_index_genes__keeps_names_apart_as_they_stand(genes: list[Any], db: Database, write_rows: WriteRows) -> None:
    rows = [
        {"gene_id": gene, "splice_type": label, "x": 1.0}
        for gene in genes
        for label in ("neither", "donor", "acceptor")
    ]
    _, found = indexed(db, write_rows(rows))
    assert {row["gene_id"] for row in found} == {str(gene) for gene in genes}


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_index_genes__reads_text_of_any_kind(kind: pa.DataType, db: Database, tmp_path: Path) -> None:
    table = pa.table(
        {
            "gene_id": pa.array(["A", "A", "B"]).cast(kind),
            "splice_type": pa.array(["neither", "donor", "acceptor"]).cast(kind),
            "x": [1.0, 2.0, 3.0],
        }
    )
    pq.write_table(table, tmp_path / "text.parquet")
    assert indexed(db, tmp_path / "text.parquet")[0].n_genes == 2


@pytest.mark.parametrize(("labels", "classes"), [(3, ("a", "b", "c")), (2, ("no", "yes")), (5, tuple("abcde"))])
def test_index_genes__takes_integer_labels(
    labels: int, classes: tuple[str, ...], db: Database, write_rows: WriteRows
) -> None:
    rows = [{"gene_id": f"G{place % 4}", "splice_type": place % labels, "x": 1.0} for place in range(4 * labels)]
    dataset = open_dataset(str(write_rows(rows)), classes=classes)
    assert dataset.labels == tuple(str(number) for number in range(labels))
    assert index_genes(db, dataset, seed=1).label_counts == (4,) * labels


def test_index_genes__reports_damage_that_the_footer_does_not_show(db: Database, tiny: Path) -> None:
    """The first pages are overwritten; the footer is whole, so opening succeeds and reading fails in one line."""
    file = tiny / "part-0.parquet"
    content = bytearray(file.read_bytes())
    content[4:200] = b"\xff" * 196
    file.write_bytes(content)
    with pytest.raises(DataError, match="is damaged .*; write it again"):
        indexed(db, tiny)


def test_index_genes__reads_folder_names_as_text(db: Database, write_rows: WriteRows) -> None:
    """Genes 007 and 7 are two genes, though both are the number 7."""
    for gene in ("007", "7", "a%20b"):
        rows = [{"splice_type": label, "x": 1.0} for label in ("neither", "donor", "acceptor")]
        write_rows(rows, name=f"data/gene_id={gene}")
    _, found = indexed(db, write_rows(name="data"))
    # other programs write letters that paths cannot hold as %20, and readers turn them back
    assert {row["gene_id"] for row in found} == {"007", "7", "a b"}


def test_index_genes__prefers_columns_to_folder_names(db: Database, write_rows: WriteRows) -> None:
    """A folder above the data may be called anything."""
    rows = many_rows(n_genes=4)
    folder = write_rows(rows, name="gene_id=Z/splice_type=donor/data")
    assert {row["gene_id"] for row in indexed(db, folder)[1]} == {"G000", "G001", "G002", "G003"}


def test_assign_folds__returns_what_each_fold_holds(db: Database, write_rows: WriteRows) -> None:
    dataset = open_dataset(str(write_rows(many_rows())))
    index = index_genes(db, dataset, seed=42)
    folds = assign_folds(db, dataset, n_folds=3, seed=42)
    assert [fold.fold for fold in folds] == [0, 1, 2]
    assert sum(fold.n_genes for fold in folds) == sum(fold.n_groups for fold in folds) == 40
    assert all(fold.n_rows == sum(fold.label_counts) for fold in folds)
    assert tuple(map(sum, zip(*(fold.label_counts for fold in folds), strict=True))) == index.label_counts
    genes = db.read("gene_folds").to_pylist()
    assert len({row["gene_id"] for row in genes}) == len(genes) == 40


def test_assign_folds__keeps_groups_whole(db: Database, write_rows: WriteRows) -> None:
    rows = [dict(row, cluster=f"c{int(row['gene_id'][1:]) // 3}") for row in many_rows()]
    dataset = open_dataset(str(write_rows(rows)), fold_by="cluster")
    assert index_genes(db, dataset, seed=42).n_groups == 14
    assign_folds(db, dataset, n_folds=3, seed=42)
    folds_of_group: dict[str, set[int]] = {}
    for row in db.read("gene_folds").to_pylist():
        folds_of_group.setdefault(row["fold_group"], set()).add(row["fold"])
    assert len(folds_of_group) == 14
    assert all(len(folds) == 1 for folds in folds_of_group.values())


def test_assign_folds__does_not_depend_on_files_or_threads(db: Database, write_rows: WriteRows) -> None:
    rows = many_rows()
    found = []
    with Database(threads=4) as other:
        for database, files in ((db, [rows]), (other, [rows[700:], rows[:700][::-1]])):
            dataset = open_dataset(str(write_rows(*files, name=f"data-{len(files)}")))
            index_genes(database, dataset, seed=42)
            folds = assign_folds(database, dataset, n_folds=4, seed=42)
            found.append((folds, database.read("gene_folds").to_pylist()))
    assert found[0] == found[1]


def test_assign_folds__names_the_largest_number_that_works(db: Database, write_rows: WriteRows) -> None:
    """Four genes with 12 rows of each class hold four folds; five would leave one empty."""
    rows = [
        {"gene_id": f"G{gene}", "splice_type": label, "x": 1.0}
        for gene in range(4)
        for label in ("neither", "donor", "acceptor")
        for _ in range(12)
    ]
    dataset = open_dataset(str(write_rows(rows)))
    index_genes(db, dataset, seed=42)
    with pytest.raises(PlanError, match="there are only 4 fold groups in 'gene_id'; .*works is --n-folds 4") as refusal:
        assign_folds(db, dataset, n_folds=5, seed=42)
    assert refusal.value.exit_code == 78
    assert assign_folds(db, dataset, n_folds=4, seed=42)[0] == Fold(0, 1, 1, 36, (12, 12, 12))


def test_assign_folds__refuses_a_fold_with_too_few_rows_of_a_class(db: Database, tiny: Path) -> None:
    dataset = open_dataset(str(tiny))
    index_genes(db, dataset, seed=42)
    with pytest.raises(PlanError, match=r"fold \d would have \d rows of .* no number of folds works on these data"):
        assign_folds(db, dataset, n_folds=2, seed=42)


def runs_in_python(files: list[Path], rank: dict[str, int]) -> list[tuple[str, int, int, int, int]]:
    """Return runs of neighbouring rows of one gene in one row group, by reading every row."""
    runs = []
    for file in files:
        with pq.ParquetFile(file) as parquet:
            for number in range(parquet.num_row_groups):
                genes = parquet.read_row_group(number, columns=["gene_id"])["gene_id"].to_pylist()
                place = 0
                for gene, rows in groupby(genes):
                    n_rows = len(list(rows))
                    if gene in rank:
                        runs.append((str(file), number, place, n_rows, rank[gene]))
                    place += n_rows
    return runs


@pytest.mark.parametrize("order", ["sorted", "shuffled", "nearly sorted"])
@pytest.mark.parametrize("sample", [None, 15])
def test_row_index__equals_run_lengths_counted_in_python(
    order: str, sample: int | None, db: Database, write_rows: WriteRows
) -> None:
    rows = many_rows()
    rng = np.random.default_rng(3)
    if order == "shuffled":
        rows = [rows[place] for place in rng.permutation(len(rows))]
    elif order == "nearly sorted":
        for place in rng.integers(0, len(rows) - 1, 50):
            rows[place], rows[-place] = rows[-place], rows[place]
    folder = write_rows(rows[:600], rows[600:610], rows[610:], row_group_rows=128)
    files = sorted(folder.glob("*.parquet"))
    _, genes = indexed(db, folder, sample_genes=sample)
    db.load("run_genes", db.read("gene_index"))
    db.load("row_groups", row_groups(files))
    found = [tuple(row.values()) for row in db.rows("row_index")]
    assert found == runs_in_python(files, {row["gene_id"]: row["gene_rank"] for row in genes})
