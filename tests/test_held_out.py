"""What --holdout-genes may name, what it brings along, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mi_duck.data.database import Database
from mi_duck.data.dataset import Dataset, open_dataset
from mi_duck.data.genes import GeneCounts, assign_folds, index_genes, say_selection
from mi_duck.errors import DataError, PlanError

WriteRows = Callable[..., Path]
N_GENES = 12


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Twelve genes of 30 rows in six groups of two; only genes g00 and g01 have no acceptor. g10 and g11 are marked."""
    rows = [
        {
            "gene_id": f"g{gene:02d}",
            "overlap_cluster": f"c{gene // 2}",
            "splice_type": ("neither", "donor", "neither" if gene < 2 else "acceptor")[place % 3],
            "x": float(place),
            "is_test": gene >= 10,
            "test01": int(gene >= 10),
            "partly": place if gene == 3 and place < 2 else int(gene >= 10),
            "odd": 2 if gene == 4 else 0,
            "empty": None if gene == 5 else 1,
            "nothing": 0,
        }
        for gene in range(N_GENES)
        for place in range(30)
    ]
    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / "part.parquet")
    return open_dataset(str(tmp_path / "data"))


def indexed(
    db: Database, dataset: Dataset, text: str, **options: Any
) -> tuple[GeneCounts, list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the summary, the genes that are trained on, and the held-out ones."""
    opened = open_dataset(dataset.location, holdout_genes=text)
    index = index_genes(db, opened, seed=42, holdout=text, **options)
    return index, db.read("gene_index").to_pylist(), db.read("holdout_genes").to_pylist()


def groups(genes: list[dict[str, Any]]) -> set[str]:
    return {gene["fold_group"] for gene in genes}


def test_holdout_genes__fraction_takes_whole_groups_and_the_last_ranks(db: Database, dataset: Dataset) -> None:
    index, trained, held_out = indexed(db, dataset, "0.34")
    # .34 of six groups rounds to two, of two genes of 30 rows each
    assert (index.n_holdout_groups, index.n_holdout_genes, index.n_holdout_rows) == (2, 4, 120)
    assert (index.n_groups, index.n_genes, index.n_rows, index.n_genes_dataset) == (4, 8, 240, 12)
    assert not groups(trained) & groups(held_out)
    assert [gene["gene_rank"] for gene in trained + held_out] == list(range(12))
    assert [gene["first_row"] for gene in trained + held_out] == list(range(0, 360, 30))
    assert sum(index.label_counts) == 240
    assert sum(index.holdout_label_counts) == 120


def test_holdout_genes__are_in_no_fold_and_the_others_are_balanced_without_them(db: Database, dataset: Dataset) -> None:
    _, trained, held_out = indexed(db, dataset, "0.34")
    folds = assign_folds(db, dataset, n_folds=2, seed=42)
    assert sorted(fold.n_rows for fold in folds) == [120, 120]
    table = db.rows("genes")
    assert {row["gene_id"]: row["fold"] is None for row in table} == {
        gene["gene_id"]: gene in held_out for gene in trained + held_out
    }
    assert [row["is_holdout"] for row in table] == [False] * 8 + [True] * 4


def test_holdout_genes__keep_the_order_of_the_others(db: Database, dataset: Dataset) -> None:
    """What is held out only leaves the order; a larger fraction holds out more of the same."""
    index_genes(db, dataset, seed=42)
    everything = [gene["gene_id"] for gene in db.read("gene_index").to_pylist()]
    before: set[str] = set()
    for text in ("0.17", "0.34", "0.5"):
        _, trained, held_out = indexed(db, dataset, text)
        names = {gene["gene_id"] for gene in held_out}
        assert [gene["gene_id"] for gene in trained] == [name for name in everything if name not in names]
        assert before < names
        before = names


def test_holdout_genes__file_brings_the_groups_of_its_genes(db: Database, dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "genes.txt").write_text("\ufeff# tested elsewhere\ng00\n\ng03 \ng00\n", encoding="utf-8")
    index, _, held_out = indexed(db, dataset, str(tmp_path / "genes.txt"))
    assert {gene["gene_id"] for gene in held_out} == {"g00", "g01", "g02", "g03"}
    assert index.n_holdout_named == 2
    said: list[str] = []
    say_selection(index, dataset, said.append)
    assert said == [
        "Holding out 4 genes of 2 fold groups, 120 rows: no instance sees them; 2 of them only share 'overlap_cluster' "
        "with a named one"
    ]


@pytest.mark.parametrize("column", ["is_test", "test01"])
def test_holdout_genes__column_marks_genes_and_is_no_feature(db: Database, dataset: Dataset, column: str) -> None:
    index, _, held_out = indexed(db, dataset, column)
    assert {gene["gene_id"] for gene in held_out} == {"g10", "g11"}
    assert index.n_holdout_named == 2
    opened = open_dataset(dataset.location, holdout_genes=column)
    assert column in dataset.features
    assert column not in opened.features
    assert (column, "--holdout-genes") in opened.excluded
    with pytest.raises(DataError, match="is a feature too; exclude it"):
        index_genes(db, dataset, seed=42, holdout=column)


@pytest.mark.parametrize("text", ["overlap_cluster=c0,c5", "lane=0, 5"])
def test_holdout_genes__are_those_with_some_values_of_a_column(text: str, db: Database, dataset: Dataset) -> None:
    """As papers hold chromosomes out; a column of numbers is no feature then."""
    file = Path(dataset.location) / "part.parquet"
    rows = pq.read_table(file)
    lane = pa.array([int(name[1:]) // 2 for name in rows["gene_id"].to_pylist()])
    pq.write_table(rows.append_column("lane", lane), file)
    index, _, held_out = indexed(db, dataset, text)
    assert {gene["gene_id"] for gene in held_out} == {"g00", "g01", "g10", "g11"}
    assert (index.n_holdout_named, index.n_holdout_groups) == (4, 2)
    assert ("lane" in open_dataset(dataset.location, holdout_genes=text).features) == (text[0] == "o")


def test_holdout_genes__are_drawn_from_the_sampled_ones(db: Database, dataset: Dataset, tmp_path: Path) -> None:
    index_genes(db, dataset, seed=42, sample_genes=8)
    sampled = {gene["gene_id"] for gene in db.read("gene_index").to_pylist()}
    index, trained, held_out = indexed(db, dataset, "0.3", sample_genes=8)
    assert {gene["gene_id"] for gene in trained + held_out} == sampled
    assert index.n_genes + index.n_holdout_genes == 8
    said: list[str] = []
    say_selection(index, dataset, said.append)
    assert said[:2] == ["Sampling 8 genes out of 12", "Selected 240 rows from 8 genes"]
    # a gene that was not sampled still keeps its group from training: both are one piece of sequence
    outside = sorted({f"g{number:02d}" for number in range(N_GENES)} - sampled)
    partner = next(f"g{int(gene[1:]) ^ 1:02d}" for gene in outside if f"g{int(gene[1:]) ^ 1:02d}" in sampled)
    (tmp_path / "genes.txt").write_text(f"g{int(partner[1:]) ^ 1:02d}\n")
    index, _, held_out = indexed(db, dataset, str(tmp_path / "genes.txt"), sample_genes=8)
    assert [gene["gene_id"] for gene in held_out] == [partner]
    assert index.n_holdout_named == 0


def test_holdout_genes__without_a_class_are_warned_of(db: Database, dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "genes.txt").write_text("g00\n")
    index, _, _ = indexed(db, dataset, str(tmp_path / "genes.txt"))
    said: list[str] = []
    say_selection(index, dataset, said.append)
    assert said[-1] == "warning: no held-out row of class acceptor; scores of it on these are left out"


FILES: dict[str, tuple[bytes, str]] = {
    "unknown genes": (b"g00\nX1\nX2\n", r"2 gene\(s\) that the dataset lacks: X1, X2"),
    "no gene": (b"# none\n\n", "names no gene"),
    "binary": (b"PAR1\xff\xfe", "as text"),
    "zeros": (b"g00\n\x00\n", "is not a text file"),
    "all genes": (b"".join(b"g%02d\n" % gene for gene in range(N_GENES)), "holds out all genes"),
    "all of a class": (
        b"".join(b"g%02d\n" % gene for gene in range(2, N_GENES)),
        "no row of class acceptor .* outside",
    ),
}


@pytest.mark.parametrize("fault", FILES)
def test_holdout_genes__refuses_a_file(fault: str, db: Database, dataset: Dataset, tmp_path: Path) -> None:
    content, words = FILES[fault]
    (tmp_path / "genes.txt").write_bytes(content)
    with pytest.raises((DataError, PlanError), match=words) as refusal:
        indexed(db, dataset, str(tmp_path / "genes.txt"))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0", "not above 0 and at most 0.5"),
        ("0.6", "not above 0 and at most 0.5"),
        ("nan", "not above 0 and at most 0.5"),
        ("-0.1", "not above 0 and at most 0.5"),
        ("0.05", "0.05 of 6 fold groups is none"),
        ("nothing", "is 1 for no gene"),
        ("odd", "is '2' for gene 'g04'; it must be 0 or 1"),
        ("empty", "is null for gene 'g05'"),
        ("partly", r"is both 0 and 1 for gene\(s\) g03"),
        ("gene_id", "which is the gene, the label or the fold group"),
        ("overlap_cluster=c9", r"no row has overlap_cluster 'c9' of --holdout-genes; there are c0, c1"),
        ("gene_id=g00", "values of 'gene_id', which is the gene or the label"),
        ("partly=1", r"gene\(s\) g03 have other values of 'partly' too"),
        ("absent=1", "is neither"),
        ("absent.txt", "is neither a number nor a column of the dataset, nor one with values"),
    ],
)
def test_holdout_genes__refuses_what_names_no_genes(text: str, words: str, db: Database, dataset: Dataset) -> None:
    with pytest.raises((DataError, PlanError), match=words) as refusal:
        indexed(db, dataset, text)
    assert "\n" not in str(refusal.value)


def test_holdout_genes__of_a_name_that_is_a_column_and_a_file_is_refused(
    db: Database, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "is_test").write_text("g04\n")
    with pytest.raises(DataError, match=r"is a column and a file; write \./is_test for the file"):
        indexed(db, dataset, "is_test")
    index, _, held_out = indexed(db, dataset, "./is_test")
    assert {gene["gene_id"] for gene in held_out} == {"g04", "g05"}
    assert index.n_holdout_named == 1


def test_holdout_genes__no_number_of_folds_can_use_one_group(db: Database, dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "genes.txt").write_text("".join(f"g{gene:02d}\n" for gene in range(10)))
    indexed(db, dataset, str(tmp_path / "genes.txt"))
    with pytest.raises(PlanError, match="there are only 1 fold groups"):
        assign_folds(db, dataset, n_folds=2, seed=42)
