"""Checks return the offending rows; none is a pass."""

from collections.abc import Callable

import pytest

from mi_duck.database import Database

Given = Callable[[str, str], None]


@pytest.mark.parametrize("name", ["null_gene", "null_group", "split_gene", "unknown_label"])
def test_check__finds_nothing_in_good_rows(name: str, db: Database, given: Given) -> None:
    given(
        "label_counts",
        """
        gene_id fold_group label_text label n_rows first_file
        A       c1         neither    0     4      f1
        A       c1         donor      1     1      f1
        B       c1         neither    0     2      f1
        """,
    )
    assert db.rows(f"checks/{name}") == []


def test_null_gene__adds_up_null_and_empty_by_file(db: Database, given: Given) -> None:
    given(
        "label_counts",
        """
        gene_id fold_group label_text label n_rows first_file
        -       -          neither    0     4      f1
        ''      ''         donor      1     1      f1
        ''      ''         neither    0     2      f2
        A       A          neither    0     9      f1
        """,
    )
    assert db.rows("checks/null_gene") == [{"first_file": "f1", "n_rows": 5}, {"first_file": "f2", "n_rows": 2}]


def test_null_group__names_genes_without_a_group(db: Database, given: Given) -> None:
    given(
        "label_counts",
        """
        gene_id fold_group first_file
        B       -          f2
        B       -          f1
        A       ''         f3
        C       c1         f1
        """,
    )
    assert db.rows("checks/null_group") == [
        {"gene_id": "A", "first_file": "f3"},
        {"gene_id": "B", "first_file": "f1"},
    ]


def test_split_gene__names_genes_in_two_groups(db: Database, given: Given) -> None:
    given(
        "label_counts",
        """
        gene_id fold_group label_text
        A       c1         donor
        A       c2         donor
        A       c2         neither
        B       c1         donor
        """,
    )
    assert db.rows("checks/split_gene") == [{"gene_id": "A", "n_groups": 2}]


def test_unknown_label__puts_null_first(db: Database, given: Given) -> None:
    given(
        "label_counts",
        """
        gene_id label_text label n_rows first_file
        A       5ss        -     2      f2
        B       5ss        -     1      f1
        B       -          -     4      f2
        B       donor      1     8      f1
        """,
    )
    assert db.rows("checks/unknown_label") == [
        {"label_text": None, "n_rows": 4, "first_file": "f2"},
        {"label_text": "5ss", "n_rows": 3, "first_file": "f1"},
    ]
