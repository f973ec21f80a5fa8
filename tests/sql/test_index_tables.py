"""Given rows, expect tables: the gene index and all that leads to it."""

from collections.abc import Callable
from hashlib import md5
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mi_duck.data.database import Database

Given = Callable[[str, str], None]
WriteRows = Callable[..., Path]


def test_label_counts__counts_rows_by_gene_group_and_label(db: Database, given: Given) -> None:
    given(
        "source_rows",
        """
        gene_id fold_group label_text file row_number
        A       c1         neither    f2   0
        A       c1         neither    f1   0
        A       c1         donor      f1   1
        B       c1         5ss        f2   1
        -       c2         donor      f2   2
        B       -          -          f1   3
        """,
    )
    rows = db.rows("label_counts", labels=["neither", "donor"])
    assert sorted(rows, key=str) == sorted(
        [
            # two rows of A are neither, in f1 and f2, of which f1 is the first by name
            row("A", "c1", "neither", 0, 2, "f1"),
            row("A", "c1", "donor", 1, 1, "f1"),
            row("B", "c1", "5ss", None, 1, "f2"),
            row(None, "c2", "donor", 1, 1, "f2"),
            row("B", None, None, None, 1, "f1"),
        ],
        key=str,
    )


def row(gene_id: str | None, group: str | None, text: str | None, label: int | None, n: int, file: str) -> dict:
    """Return one row of ``label_counts``."""
    names = ("gene_id", "fold_group", "label_text", "label", "n_rows", "first_file")
    return dict(zip(names, (gene_id, group, text, label, n, file), strict=True))


LABEL_COUNTS = """
    gene_id fold_group label_text label n_rows first_file
    A       c1         neither    0     4      f1
    A       c1         donor      1     1      f1
    B       c2         neither    0     2      f1
    C       c1         acceptor   2     3      f2
    """
GENE_GROUPS = "gene_id fold_group\n A c1\n B c2\n C c1"


def test_sampled_genes__takes_the_genes_of_lowest_digest(db: Database, given: Given) -> None:
    given("label_counts", LABEL_COUNTS)
    given("gene_groups", GENE_GROUPS)
    by_digest = sorted("ABC", key=lambda gene: md5(f"42:sample:{gene}".encode()).hexdigest())
    for n_genes in (1, 2, 3):
        rows = db.rows("sampled_genes", seed=42, n_genes=n_genes)
        assert {row["gene_id"] for row in rows} == set(by_digest[:n_genes])
        assert len(rows) == n_genes


def test_sampled_genes__takes_all_without_a_number(db: Database, given: Given) -> None:
    given("label_counts", LABEL_COUNTS)
    given("gene_groups", GENE_GROUPS)
    assert {row["gene_id"] for row in db.rows("sampled_genes", seed=1, n_genes=None)} == {"A", "B", "C"}


def test_gene_index__ranks_groups_by_digest_and_keeps_their_genes_together(db: Database, given: Given) -> None:
    given("label_counts", LABEL_COUNTS)
    given("gene_groups", GENE_GROUPS)
    given("sampled_genes", "gene_id\n A\n B\n C")
    given("holdout_groups", "fold_group")
    # md5("42:c1") = f5f3..., md5("42:c2") = 0ff0...: group c2 comes first, then A and C of c1 in the order of their names
    assert [md5(f"42:{group}".encode()).hexdigest()[:4] for group in ("c1", "c2")] == ["f5f3", "0ff0"]
    db.table("ranked_genes", seed=42, n_classes=3)
    assert db.rows("gene_index") == [
        index("B", "c2", 2, [2, 0, 0], 0, 0),
        index("A", "c1", 5, [4, 1, 0], 1, 2),
        index("C", "c1", 3, [0, 0, 3], 2, 7),
    ]


def index(gene_id: str, group: str, n_rows: int, counts: list[int], rank: int, first_row: int) -> dict:
    """Return one row of ``gene_index``."""
    names = ("gene_id", "fold_group", "n_rows", "label_counts", "gene_rank", "first_row")
    return dict(zip(names, (gene_id, group, n_rows, counts, rank, first_row), strict=True))


def test_gene_index__holds_sampled_genes_alone(db: Database, given: Given) -> None:
    given("label_counts", LABEL_COUNTS)
    given("gene_groups", GENE_GROUPS)
    given("sampled_genes", "gene_id\n C")
    given("holdout_groups", "fold_group")
    db.table("ranked_genes", seed=42, n_classes=3)
    assert db.rows("gene_index") == [index("C", "c1", 3, [0, 0, 3], 0, 0)]


def test_holdout_groups__take_a_share_of_the_sampled_groups_by_digest(db: Database, given: Given) -> None:
    given("label_counts", LABEL_COUNTS)
    given("gene_groups", GENE_GROUPS)
    given("sampled_genes", "gene_id\n A\n B\n C")
    # md5("42:holdout:c1") = c10b..., md5("42:holdout:c2") = 26d4...: c2 is held out first; half of two groups is one
    assert [md5(f"42:holdout:{group}".encode()).hexdigest()[:4] for group in ("c1", "c2")] == ["c10b", "26d4"]
    for fraction, groups in ((0.2, set()), (0.25, {"c2"}), (0.5, {"c2"}), (0.75, {"c1", "c2"}), (None, set())):
        rows = db.rows("holdout_groups", seed=42, fraction=fraction, genes=None)
        assert {row["fold_group"] for row in rows} == groups, fraction
    given("sampled_genes", "gene_id\n A\n C")
    # c1 is the only group left, and half of one group rounds to one
    assert db.rows("holdout_groups", seed=42, fraction=0.5, genes=None) == [{"fold_group": "c1"}]


def test_holdout_groups__of_named_genes_are_whole_whether_sampled_or_not(db: Database, given: Given) -> None:
    given("label_counts", LABEL_COUNTS)
    given("gene_groups", GENE_GROUPS)
    given("sampled_genes", "gene_id\n A\n B")
    for genes, groups in ((["C"], {"c1"}), (["A", "C"], {"c1"}), (["B", "X"], {"c2"}), (["X"], set())):
        rows = db.rows("holdout_groups", seed=42, fraction=None, genes=genes)
        assert {row["fold_group"] for row in rows} == groups, genes


def test_holdout_genes__follow_the_gene_index(db: Database, given: Given) -> None:
    given("label_counts", LABEL_COUNTS)
    given("gene_groups", GENE_GROUPS)
    given("sampled_genes", "gene_id\n A\n B\n C")
    given("holdout_groups", "fold_group\n c1")
    db.table("ranked_genes", seed=42, n_classes=3)
    db.table("gene_index")
    db.table("holdout_genes")
    assert db.read("gene_index").to_pylist() == [index("B", "c2", 2, [2, 0, 0], 0, 0)]
    # behind B with its two rows: A with five, then C of the same group
    assert db.read("holdout_genes").to_pylist() == [
        index("A", "c1", 5, [4, 1, 0], 1, 2),
        index("C", "c1", 3, [0, 0, 3], 2, 7),
    ]


def test_gene_marks__are_the_values_of_a_column_by_gene(db: Database, given: Given) -> None:
    given(
        "source_rows",
        """
        gene_id label_text
        A       1
        A       1
        A       0
        B       -
        """,
    )
    rows = db.rows("gene_marks")
    assert sorted(map(str, (tuple(row.values()) for row in rows))) == ["('A', '0')", "('A', '1')", "('B', None)"]


def test_gene_summary__adds_up(db: Database, given: Given) -> None:
    given(
        "gene_index",
        """
        gene_id fold_group n_rows label_counts
        A       c1         5      4/1/0
        B       c2         2      2/0/0
        C       c1         3      0/0/3
        """,
    )
    # 5 + 2 + 3 rows; neither 4 + 2, donor 1, acceptor 3; groups of 8 and 2 rows, so 10^2 / (8^2 + 2^2) by Kish
    (row,) = db.rows("gene_summary")
    assert row.pop("effective_groups") == pytest.approx(100 / 68)
    assert row == {
        "n_genes": 3,
        "n_groups": 2,
        "n_rows": 10,
        "label_counts": [6, 1, 3],
        "largest_group": "c1",
        "largest_share": 0.8,
    }


def test_row_index__joins_neighbouring_rows_of_a_gene(db: Database, given: Given) -> None:
    given("run_genes", "gene_id gene_rank\n A 0\n B 1")
    given(
        "row_groups",
        """
        file row_group first_row n_rows
        f1   0         0         4
        f1   1         4         2
        f2   0         0         1
        """,
    )
    # genes of f1: A A B A | A X, where | parts row groups and X is not selected; of f2: A
    given(
        "source_rows",
        """
        gene_id file row_number
        A       f1   0
        A       f1   1
        B       f1   2
        A       f1   3
        A       f1   4
        X       f1   5
        A       f2   0
        """,
    )
    names = ("file", "row_group", "first_row", "n_rows", "gene_rank")
    assert [tuple(row[name] for name in names) for row in db.rows("row_index")] == [
        ("f1", 0, 0, 2, 0),
        ("f1", 0, 2, 1, 1),
        ("f1", 0, 3, 1, 0),
        ("f1", 1, 0, 1, 0),
        ("f2", 0, 0, 1, 0),
    ]


def test_column_statistics__come_from_the_footers(db: Database, write_rows: WriteRows) -> None:
    rows = [
        {"count": 3, "share": 0.5, "flag": True, "gene_id": "A"},
        {"count": 250, "share": None, "flag": False, "gene_id": "B"},
        {"count": 7, "share": -1.5, "flag": True, "gene_id": None},
    ]
    kinds = {"count": pa.int64(), "share": pa.float64(), "flag": pa.bool_(), "gene_id": pa.string()}
    folder = write_rows(rows, row_group_rows=2, schema=pa.schema(kinds | {"empty": pa.float32()}))
    found = {row.pop("name"): row for row in db.rows("column_statistics", files=[str(folder / "part-0.parquet")])}
    assert found["count"] == {"is_known": True, "n_nulls": 0, "low": 3.0, "high": 250.0}
    assert found["share"] == {"is_known": True, "n_nulls": 1, "low": -1.5, "high": 0.5}
    assert found["empty"] == {"is_known": True, "n_nulls": 3, "low": None, "high": None}
    # words and truth values have no smallest number
    assert found["flag"] == {"is_known": True, "n_nulls": 0, "low": None, "high": None}
    assert found["gene_id"] == {"is_known": True, "n_nulls": 1, "low": None, "high": None}


def test_column_statistics__of_a_file_without_them_are_unknown(db: Database, tmp_path: Path) -> None:
    pq.write_table(pa.table({"count": [1, 2]}), tmp_path / "bare.parquet", write_statistics=False)
    (found,) = db.rows("column_statistics", files=[str(tmp_path / "bare.parquet")])
    assert not found["is_known"]


@pytest.mark.parametrize("name", ['a"b', "a.b", "a, b", "select", "😀", "A B"])
def test_column_statistics__know_columns_of_any_name(name: str, db: Database, write_rows: WriteRows) -> None:
    folder = write_rows([{name: 1}])
    (found,) = db.rows("column_statistics", files=[str(folder / "part-0.parquet")])
    assert (found["name"], found["low"]) == (name, 1.0)
