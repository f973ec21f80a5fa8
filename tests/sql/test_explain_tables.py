"""Given rows, expect tables: the sample of rows that is explained."""

from collections.abc import Callable
from hashlib import md5

from mi_duck.data.database import Database

Given = Callable[[str, str], None]
ROWS = """
    gene_id fold_group label_text position file row_number
    A       c1         neither    40       f1   0
    A       c1         neither    10       f1   1
    A       c1         neither    30       f2   0
    A       c1         neither    20       f2   1
    A       c1         donor      50       f1   2
    B       c2         neither    10       f1   3
    B       c2         neither    20       f1   4
    B       c2         donor      30       f2   2
    """
COUNTS = """
    gene_id fold_group label_text label n_rows first_file
    A       c1         neither    0     4      f1
    A       c1         donor      1     1      f1
    B       c2         neither    0     2      f1
    B       c2         donor      1     1      f2
    """


def chosen(db: Database, n_rows: int, seed: int = 42) -> list[tuple[str, str, int]]:
    rows = db.rows("shap_sample", seed=seed, n_rows=n_rows)
    return [(row["gene_id"], "neither" if row["label"] == 0 else "donor", row["position"]) for row in rows]


def test_shap_sample__takes_every_nth_of_classes_genes_and_positions(db: Database, given: Given) -> None:
    """Four of eight rows: numbers 1, 3, 5 and 7 of the list (class, gene in seeded order, position)."""
    given("source_rows", ROWS)
    given("label_counts", COUNTS)
    first, second = sorted((("A", "c1"), ("B", "c2")), key=lambda pair: md5(f"42:shap:{pair[1]}".encode()).hexdigest())
    rows = {"A": [("A", "neither", position) for position in (10, 20, 30, 40)]}
    rows["B"] = [("B", "neither", position) for position in (10, 20)]
    sites = {"A": ("A", "donor", 50), "B": ("B", "donor", 30)}
    listed = [*rows[first[0]], *rows[second[0]], sites[first[0]], sites[second[0]]]
    assert chosen(db, 4) == sorted((listed[index] for index in (1, 3, 5, 7)), key=lambda row: (row[0], row[2]))


def test_shap_sample__of_as_many_rows_as_there_are_is_all(db: Database, given: Given) -> None:
    given("source_rows", ROWS)
    given("label_counts", COUNTS)
    assert [row[2] for row in chosen(db, 8)] == [10, 20, 30, 40, 50, 10, 20, 30]


def test_shap_sample__does_not_depend_on_files(db: Database, given: Given) -> None:
    given("label_counts", COUNTS)
    found = []
    for names in (("f1", "f2"), ("g", "a")):
        given("source_rows", ROWS.replace("f1", "_").replace("f2", names[1]).replace("_ ", f"{names[0]} "))
        found.append(chosen(db, 3))
    assert found[0] == found[1]
