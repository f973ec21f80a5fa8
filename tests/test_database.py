"""The DuckDB connection: files by name, results in three shapes, errors in one line, queries of the user."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mi_duck.data.database import Database, quoted
from mi_duck.data.sql_files import named_queries, named_text, sql_folder
from mi_duck.errors import DataError, MemoryBudgetError, StorageError

COUNTS = {"gene_id": ["A", "B"], "fold_group": ["A", "B"], "label": [0, 1], "n_rows": [2, 3], "first_file": ["f", "f"]}


def test_sql_folder__holds_the_files() -> None:
    assert (sql_folder() / "gene_index.sql").is_file()


@settings(deadline=None)  # of a busy machine
@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1))
def test_quoted__names_any_column(name: str) -> None:
    (row,) = duckdb.sql(f"select 1 as {quoted(name)}").to_arrow_table().to_pylist()
    assert row == {name: 1}


def test_quoted__refuses_zero_characters() -> None:
    with pytest.raises(DataError, match="zero character"):
        quoted("a\x00b")


def test_table__arrow_and_rows_give_the_same(db: Database) -> None:
    db.load("label_counts", pa.table(COUNTS))
    db.table("sampled_genes", seed=1, n_genes=None)
    expected = sorted(row["gene_id"] for row in db.read("sampled_genes").to_pylist())
    assert expected == sorted(row["gene_id"] for row in db.rows("sampled_genes", seed=1, n_genes=None)) == ["A", "B"]
    assert db.arrow("sampled_genes", seed=1, n_genes=None).column_names == ["gene_id"]


def test_table__replaces_itself(db: Database) -> None:
    db.load("label_counts", pa.table(COUNTS))
    for n_genes in (2, 1):
        db.table("sampled_genes", seed=1, n_genes=n_genes)
        assert db.read("sampled_genes").num_rows == n_genes
    assert list(db.columns()) == ["label_counts", "sampled_genes"]


def test_table__refuses_missing_and_surplus_parameters(db: Database) -> None:
    db.load("label_counts", pa.table(COUNTS))
    with pytest.raises(DataError, match=r"sampled_genes \(seed=1\): .*n_genes"):
        db.table("sampled_genes", seed=1)
    with pytest.raises(DataError, match=r"sampled_genes \(seed=1, n_genes=1, more=2\): .*more"):
        db.table("sampled_genes", seed=1, n_genes=1, more=2)


def test_table__cuts_long_parameters_in_messages(db: Database) -> None:
    db.load("label_counts", pa.table(COUNTS))
    with pytest.raises(DataError) as refusal:
        db.table("sampled_genes", seed="x" * 1000, more=1)
    assert "x" * 60 + ", more=1" in str(refusal.value)
    assert "x" * 61 not in str(refusal.value)


def test_load_and_drop__leave_nothing_behind(db: Database) -> None:
    db.load("one", pa.table({"a": [1]}))
    assert list(db.columns()) == ["one"]
    db.drop("one")
    assert list(db.columns()) == []


def test_load_parquet__reads_one_file_of_any_name(db: Database, tmp_path: Path) -> None:
    """A folder called ``fold=3`` above a run must not change the column ``fold``."""
    folder = tmp_path / "fold=3" / "[run] 'a' *"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"fold": [0, 1]}), folder / "genes.parquet")
    db.load_parquet("genes", folder / "genes.parquet")
    assert db.read("genes").to_pydict() == {"fold": [0, 1]}


def test_patterns__stand_for_themselves(tmp_path: Path) -> None:
    assert Database.patterns([Path("a*b[1]?.parquet")]) == ["a[*]b[[]1][?].parquet"]


def test_database__stops_at_its_memory_limit() -> None:
    """Twenty million integers in one list are 160 MB."""
    query = "select list(number) from range(20_000_000) as numbers(number)"
    with (
        Database(memory_bytes=64 << 20, threads=1) as db,
        pytest.raises(
            MemoryBudgetError, match="^query needs more memory than DuckDB may use: Out of Memory"
        ) as refusal,
    ):
        db.query(query)
    assert refusal.value.exit_code == 137
    assert "\n" not in str(refusal.value)


def test_database__names_what_it_cannot_open(tmp_path: Path) -> None:
    (tmp_path / "text.duckdb").write_text("no database")
    for path in (tmp_path / "text.duckdb", tmp_path / "absent" / "run.duckdb"):
        with pytest.raises(StorageError, match=r"^opening: .*duckdb"), Database(path):
            pass


def test_database__closes_its_file(tmp_path: Path) -> None:
    path = tmp_path / "run.duckdb"
    with Database(path) as db:
        db.load("one", pa.table({"a": [1]}))
    with Database(path, read_only=True) as one, Database(path, read_only=True) as other:
        assert one.read("one") == other.read("one")


@pytest.mark.parametrize(
    "query",
    [
        "create table two as select 1",
        "insert into one values (2)",
        "drop table one",
        "copy one to '{folder}/copy.csv'",
        "export database '{folder}/copy'",
        "attach '{folder}/other.duckdb'",
        "select * from read_csv('{folder}/secret.csv')",
        "select * from read_text('{folder}/secret.csv')",
        "select * from glob('{folder}/*')",
        "from '{folder}/secret.csv'",
        "set enable_external_access = true",
        "set memory_limit = '1TB'",
        "install httpfs",
        "load '{folder}/x.duckdb_extension'",
    ],
)
def test_database__opened_to_read_does_nothing_else(query: str, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with Database(tmp_path / "run.duckdb") as db:
        db.load("one", pa.table({"a": [1]}))
    before = sorted(tmp_path.iterdir())
    with Database(tmp_path / "run.duckdb", read_only=True) as db:
        with pytest.raises((DataError, StorageError)) as refusal:
            db.query(query.format(folder=tmp_path))
        assert "\n" not in str(refusal.value)
        assert db.query("from one") == (["a"], [(1,)])
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "the query holds 0 SQL statements; give exactly one"),
        ("-- a remark", "holds 0 SQL statements"),
        ("select 1; select 2", "holds 2 SQL statements"),
        ("selec 1", "Parser Error: syntax error"),
        ("from absent", "Catalog Error: .*absent"),
        ("select 'a'::integer", "Conversion Error"),
        ("select $name", "name"),
    ],
)
def test_query__answers_bad_text_in_one_line(query: str, message: str, db: Database) -> None:
    with pytest.raises(DataError, match=message) as refusal:
        db.query(query)
    assert "\n" not in str(refusal.value)


def test_query__returns_names_and_rows(db: Database) -> None:
    assert db.query("select 1 as a, 'x' as b union all select 2, null order by a;") == (
        ["a", "b"],
        [(1, "x"), (2, None)],
    )


def test_named_text__is_one_of_the_listed_queries() -> None:
    assert all(named_text(name).startswith(f"-- {name}: {sentence}\n") for name, sentence in named_queries().items())
