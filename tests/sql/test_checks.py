"""Checks return the offending rows; none is a pass."""

from collections.abc import Callable

import pytest
from test_contract import RUN

from mi_duck.data.database import Database

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


# ---- of a finished run: each fault in rows that are right otherwise (`RUN`) --------------------------------------------

PARAMETERS = {
    "foldless_gene": {"n_folds": 2},
    "misplaced_gene": {"n_genes": 3},
    "wrong_overlap": {"overlap_genes": 1, "n_planned": 2},
    "over_budget": {"budget_bytes": 1000},
    "wrong_score": {"first_rank": 0, "stop_rank": 3},
    "wrong_coverage": {"n_pilot_genes": 1},
}
FAULTS = {
    "gene twice": ("repeated_gene", "run_genes", "C c 1 0/1/0 2", "A c 1 0/1/0 2", [{"gene_id": "A", "n_times": 2}]),
    "group in two folds": (
        *("split_group", "run_genes", "B b 2", "B a 2"),
        [{"fold_group": "a", "n_folds": 2, "n_marks": 1}],
    ),
    "group partly held out": (
        *("split_group", "run_genes", "D d 4", "D c 4"),
        [{"fold_group": "c", "n_folds": 1, "n_marks": 2}],
    ),
    "fold beyond the last": (
        *("foldless_gene", "run_genes", "1 3 1 false", "1 3 2 false"),
        [{"gene_rank": 1, "gene_id": "B", "fold": 2, "is_holdout": False}],
    ),
    "held-out gene with a fold": (
        *("foldless_gene", "run_genes", "3 6 - true", "3 6 0 true"),
        [{"gene_rank": 3, "gene_id": "D", "fold": 0, "is_holdout": True}],
    ),
    "rows of classes do not add up": (
        *("misplaced_gene", "run_genes", "1/0/1", "1/0/2"),
        [{"number": 1, "gene_id": "B", "gene_rank": 1, "first_row": 3, "rows_before": 3}],
    ),
    "gene in no window": (
        *("uncovered_gene", "windows", "1 1 3", "1 1 2"),
        [{"gene_id": "C", "gene_rank": 2}],
    ),
    "held-out gene in a window": (
        *("trained_holdout", "windows", "1 1 3", "1 1 4"),
        [{"gene_id": "D", "instance_id": 1}],
    ),
    "window with other rows": (
        *("wrong_window", "windows", "0 0 2 2 5", "0 0 2 2 6"),
        [{"instance_id": 0, "n_genes": 2, "genes_there": 2, "n_rows": 6, "rows_there": 5}],
    ),
    "window with other training rows": (
        *("wrong_window", "windows", "2 3 3 900", "2 3 2 900"),
        [{"instance_id": 1, "n_genes": 2, "genes_there": 2, "n_rows": 3, "rows_there": 3}],
    ),
    "neighbours share nothing": (
        *("wrong_overlap", "windows", "1 1 3", "1 2 3"),
        [{"instance_id": 0, "other_id": 1, "n_shared": 0}],
    ),
    "peak above the budget": (
        *("over_budget", "windows", "1000", "1001"),
        [{"instance_id": 0, "predicted_bytes": 1001}],
    ),
    "segments with a gap": (
        *("segment_gap", "segments", "1 1 2 3 5", "1 1 2 3 4"),
        [{"number": 1, "first_rank": 1, "stop_rank": 2}, {"number": 2, "first_rank": 2, "stop_rank": 3}],
    ),
    "last segment is not there": (
        *("segment_gap", "segments", "3 3 4 6 10", ""),
        [{"number": 3, "first_rank": 4, "stop_rank": 4}],
    ),
    "row in another fold": (
        *("wrong_score", "scored_rows", "B 1 2", "B 0 2"),
        [{"gene_id": "B", "n_rows": 2, "rows_scored": 2}],
    ),
    "row of another class": (
        *("wrong_score", "scored_rows", "C 0 1", "C 0 2"),
        [{"gene_id": "C", "n_rows": 1, "rows_scored": 1}],
    ),
    "gene without its rows": (
        *("wrong_score", "scored_rows", "C 0 1 1 5 5", ""),
        [{"gene_id": "C", "n_rows": 1, "rows_scored": 0}],
    ),
    "report without an instance": (
        *("wrong_coverage", "coverage_report", "0;1", "0"),
        [{"gene_id": "B", "reported": "2,1,0,1,0,0", "expected": "2,1,0;1,1,0,0"}],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_run_check__finds_its_fault(fault: str, db: Database, given: Given) -> None:
    name, changed, old, new, expected = FAULTS[fault]
    for table, text in RUN.items():
        given(table, text)
    assert db.rows(f"checks/{name}", **PARAMETERS.get(name, {})) == []
    lines = [" ".join(line.split()) for line in RUN[changed].strip().splitlines()]
    mutated = [line.replace(old, new, 1) if old in line else line for line in lines]
    assert mutated != lines
    given(changed, "\n".join(line for line in mutated if line))
    assert db.rows(f"checks/{name}", **PARAMETERS.get(name, {})) == expected


def test_wrong_overlap__lets_halves_of_a_split_instance_share_less_but_not_more(db: Database, given: Given) -> None:
    """Instance 1 (genes 8 to 18) was split into 3 and 4, which share nothing."""
    given(
        "windows",
        """
        instance_id first_rank stop_rank
        0           0          10
        2           16         30
        3           8          13
        4           13         18
        """,
    )
    assert db.rows("checks/wrong_overlap", overlap_genes=2, n_planned=3) == []
    assert db.rows("checks/wrong_overlap", overlap_genes=1, n_planned=3) == [
        {"instance_id": 0, "other_id": 3, "n_shared": 2},
        {"instance_id": 4, "other_id": 2, "n_shared": 2},
    ]


def test_bad_weight__names_the_first_row_of_each_file(db: Database, given: Given) -> None:
    given(
        "source_rows",
        """
        weight file row_number
        1      f1   0
        -2     f1   1
        -      f1   2
        0      f2   0
        -      f2   1
        """,
    )
    assert db.rows("checks/bad_weight") == [
        {"file": "f1", "row_number": 1, "weight": "-2.0", "n_rows": 2},
        {"file": "f2", "row_number": 1, "weight": "null", "n_rows": 1},
    ]
