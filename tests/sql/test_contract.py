"""The contract of every file in ``sql/``: one SELECT, and a header that says the truth about it."""

import re
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from headers import code_of, header_of, sql_files, text_of

from mi_duck.data.database import Database, quoted
from mi_duck.data.parquet import row_groups
from mi_duck.data.sql_files import named_queries

STEPS = sql_files("*.sql", "checks/*.sql")
NAMED = sql_files("named/*.sql")
PARAMETERS = {
    "seed": 42,
    "n_folds": 2,
    "n_classes": 3,
    "n_genes": 3,
    "fraction": 0.34,
    "n_first": 2,
    "rows_read": None,
    "genes": None,
    "n_rows": 2,
    "n_genes_dataset": 3,
    "n_pilot_genes": 1,
    "labels": ["neither", "donor", "acceptor"],
    "bytes_per_row": 1500.5,
    "background": "neither",
    "share": 0.5,
    "quantile": 0.5,
    "one_in": 1,
    "most_pairs": 1_000,
    "easy_below": 0.15,
    "overlap_genes": 1,
    "n_planned": 2,
    "budget_bytes": 1000,
    "first_rank": 0,
    "stop_rank": 3,
    "shortest_intron": 20,
    "longest_intron": 1_000,
    "longest_gap": 10_000,
    "site": "donor",
    "strand": "+",
    "chrom": "c",
    "least": 0.1,
    "least_donor": 0.5,
    "least_acceptor": 0.5,
}
"""A value for every parameter of every file; ``files`` and ``file`` are added by `tables`."""
ORDER = [
    "label_counts",
    "clustered_genes",
    "sampled_genes",
    "compared_genes",
    "identical_genes",
    "gene_groups",
    "holdout_groups",
    "ranked_genes",
    "gene_index",
    "holdout_genes",
    "gene_folds",
    "sampling",
    "repeated_rows",
    "row_uses",
    "genes",
    "instance_genes",
    "coverage",
    "annotation_features",
    "annotation_ancestors",
    "annotation_exons",
    "annotation_spans",
    "annotation_blocks",
    "annotation_loci",
    "annotation_introns",
    "annotation_genes",
]
"""Files whose tables others read, in the order of the data."""
EMPTY = {"repeated_rows"}
"""Files that find nothing in these tables: no two rows agree in gene, position and score."""
RUN = {
    "row_digests": """
        gene_number digest n_rows
        1           11     1
        1           12     1
        1           13     1
        2           11     2
        2           12     1
        2           13     1
        """,
    "joined_groups": """
        fold_group joined
        B          A
        """,
    "run_genes": """
        gene_id fold_group n_rows label_counts gene_rank first_row fold is_holdout n_training_rows
        A       a          3      2/1/0        0         0         0    false      3
        B       b          2      1/0/1        1         3         1    false      2
        C       c          1      0/1/0        2         5         0    false      1
        D       d          4      4/0/0        3         6         -    true       4
        """,
    "windows": """
        instance_id first_rank stop_rank n_genes n_rows n_training_rows predicted_bytes is_member
        0           0          2         2       5      5               1000            true
        1           1          3         2       3      3               900             true
        """,
    "segments": """
        segment_id first_rank stop_rank first_row stop_row
        0          0          1         0         3
        1          1          2         3         5
        2          2          3         5         6
        3          3          4         6         10
        """,
    "scored_rows": """
        gene_id fold label n_rows first_row last_row
        A       0    0     2      0         2
        A       0    1     1      1         1
        B       1    0     1      4         4
        B       1    2     1      3         3
        C       0    1     1      5         5
        """,
    "annotation_lines": """
        line chrom kind  start stop  strand attributes
        1    c     exon  1     100   +      gene_id="A";transcript_id="T"
        2    c     exon  90001 90100 +      gene_id="A";transcript_id="T"
        3    c     exon  1001  1100  +      Parent=B1,B2
        4    c     mRNA  1001  1300  +      ID=B1;Parent=B
        5    c     gene  1001  1300  +      ID=B;Is_circular=true
        6    c     gene  5001  5300  +      ID=B
        7    c     exon  1201  1300  +      Parent=B1
        8    c     exon  5001  5100  +      Parent=B1
        """,
    "left_out_introns": """
        chrom strand left_end right_start
        c     +      1        2
        """,
    "score_lines": """
        chrom position strand donor_score acceptor_score neither_score start stop name  score
        c     12       +      0.5         0.1            0.4           11    12   donor 0.7
        """,
    "scored_positions": """
        chrom absolute_position strand p_donor p_acceptor
        c     12                +      0.7     0.1
        c     12                +      0.6     0.6
        c     13                +      0.1     0.9
        """,
    "coverage_report": """
        gene_id n_rows fold instances trained held_out is_pilot
        A       3      0    0         1       0        1
        B       2      1    0;1       1       0        0
        C       1      0    1         1       0        0
        D       4      ''   ''        0       1        0
        """,
}
"""Three genes in two windows and a held-out one, as a run without a fault leaves them."""


@pytest.fixture
def tables(db: Database, tiny: Path, given: Callable[[str, str], None]) -> dict[str, object]:
    """Make every table that some file reads, over three genes; return the parameters."""
    files = sorted(tiny.glob("*.parquet"))
    parameters = PARAMETERS | {"files": Database.patterns(files), "file": str(files[0])}
    db.open_source(
        files,
        gene_column="gene_id",
        label_column="splice_type",
        fold_column="gene_id",
        position_column="position",
        site_scores=["donor_score"],
        content=["donor_score", "5mer_GTAAG"],
    )
    db.open_all_columns(files, ["gene_id"], gene_column="gene_id", position_column="position")
    given(
        "instances",
        """
        instance_id first_rank stop_rank n_genes n_rows predicted_bytes measured_peak_bytes wall_seconds status weight
        0           0          2         2       5      1000            -                   -            to_do  -
        1           1          3         2       3      1000            900                 1.5          done   1.0
        """,
    )
    given(
        "stages",
        "step instance_id stage wall_seconds cpu_seconds peak_bytes bytes_read\n planning - starting 1 0.5 1000 2000",
    )
    given(
        "metrics",
        "scope instance_id variant is_chosen metric class value low high evaluated_on too_narrow n_rows\n"
        " ensemble - probability/uniform true f1 macro 0.5 0.4 0.6 oof - 5",
    )
    for name, text in RUN.items():
        given(name, text)
    db.load("row_groups", row_groups(files))
    sources = {"number": [0, 1], "file": [str(files[0])] * 2, "row_number": [1, 0]}
    db.load("row_sources", pa.table(sources))
    for name in ORDER:
        db.table(name, **{key: parameters[key] for key in header_of(name).params})
    return parameters


@pytest.mark.parametrize("name", STEPS + NAMED)
def test_sql_file__is_one_select(name: str) -> None:
    statements = duckdb.extract_statements(text_of(name))
    assert [statement.type for statement in statements] == [duckdb.StatementType.SELECT]
    assert ";" not in code_of(name)


@pytest.mark.parametrize("name", STEPS + NAMED)
def test_sql_file__is_lower_case_and_repeatable(name: str) -> None:
    """`hash` changes between releases, `random` and `using sample` between runs."""
    code = code_of(name)
    # names in double quotes may be anything; there are none
    assert code == code.lower()
    assert not re.search(r"\bhash\s*\(|\brandom\s*\(|\busing\s+sample\b|\btablesample\b", code)
    assert "\t" not in code
    assert max(map(len, text_of(name).splitlines())) <= 120


@pytest.mark.parametrize("name", STEPS)
def test_sql_header__names_the_file_and_its_parameters(name: str) -> None:
    header = header_of(name)
    (statement,) = duckdb.extract_statements(text_of(name))
    assert header.name == Path(name).name
    assert header.sentence.endswith(".")
    assert set(header.params) == statement.named_parameters
    assert set(header.grain) <= set(header.columns)
    assert set(header.nulls) <= set(header.grain)
    assert header.sentence.endswith("none is a pass.") == name.startswith("checks/")


@pytest.mark.parametrize("name", STEPS)
def test_sql_header__names_what_is_read(name: str) -> None:
    code = code_of(name)
    steps = set(re.findall(r"(\w+) as (?:materialized )?\(", code))
    read = set(re.findall(r"\b(?:from|join)\s+(\w+)\b(?!\()", code)) - steps
    reads = re.sub(r"\([^)]*\)", "", header_of(name).reads)
    named = {part.split()[0] for part in reads.split(",") if part.strip() and "one line per row" not in part}
    assert (named if reads != "the Parquet footers" else set()) == read


@pytest.mark.parametrize("name", STEPS)
def test_sql_header__columns_types_and_grain_hold(name: str, db: Database, tables: dict[str, object]) -> None:
    """A check may find nothing; its columns and types are those of its header all the same."""
    header = header_of(name)
    db.table(name, **{key: tables[key] for key in header.params})
    table = quoted(header.name)
    _, described = db.query(f"describe {table}")
    assert {row[0]: row[1].lower() for row in described} == header.columns
    assert [row[0] for row in described] == list(header.columns)
    grain = ", ".join(header.grain)
    nulls = " or ".join(f"{column} is null" for column in header.grain if column not in header.nulls) or "false"
    _, ((n_rows, n_different, n_null),) = db.query(
        f"select (select count(*) from {table}), (select count(*) from (select distinct {grain} from {table})), "
        f"(select count(*) from {table} where {nulls})"
    )
    assert (n_different, n_null) == (n_rows, 0)
    assert (n_rows == 0) == (name.startswith("checks/") or name in EMPTY)


@pytest.mark.parametrize("name", NAMED)
def test_named_query__says_what_it_shows_and_runs(name: str, db: Database, tables: dict[str, object]) -> None:
    """Named queries see the tables of the catalogue and take no parameters."""
    first, *rest = text_of(name).splitlines()
    assert re.fullmatch(rf"-- {Path(name).name}: .+\.", first)
    assert not any(line.startswith("--") for line in rest)
    (statement,) = duckdb.extract_statements(text_of(name))
    assert statement.named_parameters == set()
    columns, rows = db.query(text_of(name))
    assert len(set(columns)) == len(columns)
    assert rows or name == "named/held_out"  # of genes that this run has not


def test_named_queries__are_listed_with_their_sentence() -> None:
    assert list(named_queries()) == [Path(name).name for name in NAMED]
    assert named_queries()["overlaps"] == "genes shared by each pair of instances."
