"""Given rows, expect tables: the rows of a dataset sorted by gene, and where its genes are."""

from collections.abc import Callable

from mi_duck.data.database import Database

Given = Callable[[str, str], None]

ROWS = """
    gene_id position file row_number
    B       5        f1   0
    A       7        f1   1
    B       5        f2   0
    A       3        f2   1
    B       -        f2   2
    C       1        f1   2
    """
COLUMNS = """
    gene_id position file row_number column_0 column_1
    B       5        f1   0          b5       0.0
    A       7        f1   1          a7       -
    B       5        f2   0          b5'      0.5
    A       3        f2   1          a3       1.5
    B       -        f2   2          b        2.0
    C       1        f1   2          -        2.5
    """


def test_clustered_genes__begin_where_the_genes_before_them_end(db: Database, given: Given) -> None:
    given(
        "label_counts",
        """
        gene_id fold_group label_text label n_rows first_file
        B       c1         neither    0     2      f1
        A       c1         donor      1     2      f1
        B       c1         donor      1     1      f1
        C       c2         acceptor   2     1      f2
        """,
    )
    rows = db.rows("clustered_genes")
    assert [tuple(row.values()) for row in rows] == [("A", 2, 0), ("B", 3, 2), ("C", 1, 5)]


def test_sorted_rows__are_by_gene_position_and_then_as_they_come(db: Database, given: Given) -> None:
    given("source_columns", COLUMNS)
    rows = db.rows("sorted_rows", files=["f1", "f2"])
    assert list(rows[0]) == ["file_number", "row_number", "column_0", "column_1"]
    assert [tuple(row.values()) for row in rows] == [
        (1, 1, "a3", 1.5),
        (0, 1, "a7", None),  # A at 7 comes after A at 3
        (1, 2, "b", 2.0),  # B without a position comes first
        (0, 0, "b5", 0.0),  # B at 5, of the first file
        (1, 0, "b5'", 0.5),  # B at 5, of the second file
        (0, 2, None, 2.5),
    ]
    # the order of the files is that of the parameter, not of their names
    assert [row["column_0"] for row in db.rows("sorted_rows", files=["f2", "f1"])][3:5] == ["b5'", "b5"]


def test_kept_rows__are_in_the_order_asked_for(db: Database, given: Given) -> None:
    given("source_columns", COLUMNS)
    given(
        "row_sources",
        """
        number file row_number
        0      f2   1
        1      f1   0
        """,
    )
    rows = db.rows("kept_rows")
    assert [tuple(row.values()) for row in rows] == [(0, "a3", 1.5), (1, "b5", 0.0)]
    assert list(rows[0]) == ["number", "column_0", "column_1"]


def test_group_genes__counts_the_genes_of_each_row_group(db: Database, given: Given) -> None:
    given("source_rows", ROWS)
    given(
        "row_groups",
        """
        file row_group first_row n_rows
        f1   0         0         3
        f2   0         0         1
        f2   1         1         2
        """,
    )
    assert [tuple(row.values()) for row in db.rows("group_genes")] == [
        ("f1", 0, 3, 3),
        ("f2", 0, 1, 1),
        ("f2", 1, 2, 2),
    ]
