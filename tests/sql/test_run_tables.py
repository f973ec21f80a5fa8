"""Given rows, expect tables: what the catalogue of a run tells of genes, instances and scores."""

from collections.abc import Callable

import pytest

from mi_duck.data.database import Database
from mi_duck.data.sql_files import named_text

Given = Callable[[str, str], None]

GENES = """
    gene_id fold_group n_rows label_counts gene_rank first_row fold is_holdout n_training_rows
    A       c1         5      4/1          0         0         0    false      5
    B       c2         2      1/1          1         5         1    false      2
    C       c1         3      3/0          2         7         0    false      3
    D       c3         9      9/0          3         10        1    true       4
    """
INSTANCES = """
    instance_id first_rank stop_rank n_genes n_rows predicted_bytes measured_peak_bytes wall_seconds status weight
    0           0          2         2       7      1073741824      1181116006          12.34        done   0.66666
    1           1          3         2       5      536870912       -                   -            to_do  -
    """
STAGES = """
    step     instance_id stage    wall_seconds cpu_seconds peak_bytes bytes_read
    planning -           starting 1.0          0.5         268435456  1000
    training 0           starting 2.0          3.0         1073741824 536870912
    training 1           starting 2.0          3.0         1610612736 268435456
    training 1           rounds   0.5          0.5         1610612736 268435456
"""


@pytest.fixture
def run(db: Database, given: Given) -> Database:
    """Two instances over genes A, B and B, C; D is held out; the second instance is not trained yet."""
    given("run_genes", GENES)
    given("instances", INSTANCES)
    db.table("instance_genes")
    return db


def test_instance_genes__are_the_ranks_of_each_window(run: Database) -> None:
    pairs = [(row["instance_id"], row["gene_id"]) for row in run.rows("instance_genes")]
    assert pairs == [(0, "A"), (0, "B"), (1, "B"), (1, "C")]


def test_coverage__counts_finished_instances_without_held_out_genes(run: Database) -> None:
    # of A, B, C (5 + 2 + 3 rows) the finished instance has A and B (5 + 2)
    (found,) = run.rows("coverage", n_genes_dataset=6)
    assert found.pop("coverage_fraction") == pytest.approx(2 / 3)
    assert found == {
        "n_genes_dataset": 6,
        "n_genes": 3,
        "n_genes_trained": 2,
        "n_rows": 10,
        "n_rows_trained": 7,
    }


def test_coverage__is_zero_before_training(run: Database, given: Given) -> None:
    given("instances", INSTANCES.replace("done ", "to_do"))
    (found,) = run.rows("coverage", n_genes_dataset=6)
    assert (found["n_genes_trained"], found["n_rows_trained"], found["coverage_fraction"]) == (0, 0, 0.0)


def test_catalogue_genes__count_the_instances_of_each_gene(run: Database) -> None:
    rows = run.rows("catalogue_genes", n_pilot_genes=1)
    assert [(row["gene_id"], row["n_instances"]) for row in rows] == [("A", 1), ("B", 2), ("C", 1), ("D", 0)]
    assert [row["is_pilot"] for row in rows] == [True, False, False, False]
    assert rows[0] == {
        "gene_id": "A",
        "fold_group": "c1",
        "n_rows": 5,
        "label_counts": [4, 1],
        "fold": 0,
        "is_holdout": False,
        "is_pilot": True,
        "n_instances": 1,
    }


def test_catalogue_folds__are_those_of_the_index(run: Database) -> None:
    assert [tuple(row.values()) for row in run.rows("catalogue_folds", n_pilot_genes=1)] == [
        ("A", "c1", 0, True),
        ("B", "c2", 1, False),
        ("C", "c1", 0, False),
    ]


def test_memory_per_gene__is_training_rows_times_bytes_a_row(run: Database) -> None:
    # 5 x 100.5 = 502.5, which rounds to 503 (away from zero); 4 x 100.5 = 402; 3 x 100.5 = 301.5; 2 x 100.5 = 201
    assert [tuple(row.values()) for row in run.rows("memory_per_gene", bytes_per_row=100.5)] == [
        ("A", 5, 5, 503),
        ("D", 9, 4, 402),
        ("C", 3, 3, 302),
        ("B", 2, 2, 201),
    ]


def test_named_coverage__shows_the_table(run: Database) -> None:
    run.table("coverage", n_genes_dataset=6)
    columns, rows = run.query(named_text("coverage"))
    assert dict(zip(columns, rows[0], strict=True))["n_genes_trained"] == 2


def test_named_folds__count_groups_genes_and_rows(run: Database, given: Given) -> None:
    given("genes", "\n".join(line.rsplit(maxsplit=1)[0] for line in GENES.strip().splitlines()))
    # fold 0 has A and C of one group, 5 + 3 rows; fold 1 has B and D of two, 2 + 9
    assert run.query(named_text("folds"))[1] == [(0, 1, 2, 8), (1, 2, 2, 11)]


def test_named_instances__show_gib_and_seconds(run: Database) -> None:
    # 2^30 bytes are 1 GiB; 1,181,116,006 are 1.1
    assert run.query(named_text("instances"))[1] == [
        (0, 2, 7, 1.0, 1.1, 12.3, "done", 0.6667),
        (1, 2, 5, 0.5, None, None, "to_do", None),
    ]


def test_named_steps__add_up_stages_and_instances(run: Database, given: Given) -> None:
    given("stages", STAGES)
    # of two instances seconds and bytes are added, the higher peak counts; 2^30 bytes are 1 GiB
    assert run.query(named_text("steps"))[1] == [
        ("training", 4.5, 6.5, 1.5, 1.0),
        ("planning", 1.0, 0.5, 0.25, 0.0),
    ]


def test_named_overlaps__count_shared_genes_of_each_pair(run: Database) -> None:
    assert run.query(named_text("overlaps"))[1] == [(0, 1, 1)]


METRICS = """
    scope      instance_id variant             is_chosen metric   class value    low     high    evaluated_on too_narrow n_rows
    base       -           calibrated          false     f1       macro 0.4      0.3     0.5     oof          few        10
    member     0           own                 false     f1       macro 0.5      0.4     0.6     oof          few        10
    member     0           own                 false     f1       macro 0.9      0.8     0.9     unseen       few        10
    ensemble   -           margin/f1           false     log_loss all   0.3      0.2     0.4     oof          few        10
    ensemble   -           probability/uniform true      log_loss all   0.123456 0.11111 0.22222 oof          few        10
    ensemble   -           without             false     log_loss all   0.2      0.1     0.3     oof          few        10
    difference -           lone                false     f1       macro 0.1      0.0     0.2     oof          few        10
"""


def test_named_scores__are_out_of_fold_and_of_the_chosen_variant(run: Database, given: Given) -> None:
    given("metrics", METRICS)
    assert run.query(named_text("scores"))[1] == [
        ("base", None, "f1", "macro", 0.4, 0.3, 0.5, "few", 10),
        ("member", 0, "f1", "macro", 0.5, 0.4, 0.6, "few", 10),
        ("ensemble", None, "log_loss", "all", 0.1235, 0.1111, 0.2222, "few", 10),
    ]


def test_named_variants__show_every_way_to_join(run: Database, given: Given) -> None:
    given("metrics", METRICS)
    assert run.query(named_text("variants"))[1] == [
        ("margin/f1", False, "log_loss", "all", 0.3, 0.2, 0.4),
        ("probability/uniform", True, "log_loss", "all", 0.123456, 0.11111, 0.22222),
        ("without", False, "log_loss", "all", 0.2, 0.1, 0.3),
    ]
