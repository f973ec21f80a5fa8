"""Rows that genes of different fold groups share are found, counted, warned about, and their groups joined if asked."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import FAST, here

from mi_duck.data.database import Database
from mi_duck.data.dataset import open_dataset
from mi_duck.data.genes import index_genes
from mi_duck.data.identical import Identical, telling_features
from mi_duck.run.folder import RunFolder

WriteTable = Callable[..., Path]
FLAGS = (*FAST, "--strategy", "single", "--n-estimators", "30", "--early-stopping-patience", "0")
LEARNING = ("--max-depth", "10", "--learning-rate", "0.5")


def table_of(n_genes: int, n_rows: int, features: dict[str, np.ndarray], seed: int = 0) -> pa.Table:
    """Return rows of genes of one size, with labels drawn at random: 80 % neither, 10 % each site."""
    label = np.random.default_rng(seed).choice(["neither", "donor", "acceptor"], n_genes * n_rows, p=(0.8, 0.1, 0.1))
    gene = np.repeat([f"G{number:03d}" for number in range(n_genes)], n_rows)
    return pa.table({"gene_id": gene, "splice_type": label, **features})


def measured(n: int, n_features: int = 6, seed: int = 1) -> dict[str, np.ndarray]:
    """Return features whose values never occur twice."""
    rng = np.random.default_rng(seed)
    return {f"x{number}": rng.normal(size=n) for number in range(n_features)}


def copied(rows: pa.Table, genes: list[str], suffix: str = "_copy", share: float = 1.0) -> pa.Table:
    """Return the first rows of some genes under new names."""
    names = np.array(rows["gene_id"].to_pylist())
    numbers = np.concatenate([np.flatnonzero(names == gene)[: int(share * (names == gene).sum())] for gene in genes])
    again = rows.take(pa.array(numbers))
    return again.set_column(0, "gene_id", pa.array([f"{name}{suffix}" for name in names[numbers]]))


def found_in(db: Database, rows: pa.Table, folder: Path, **options: bool) -> Identical:
    """Write rows in an order of their own into two files; return what the index says of them."""
    folder.mkdir(parents=True)
    mixed = rows.take(pa.array(np.random.default_rng(9).permutation(len(rows))))
    for number in range(2):
        pq.write_table(
            mixed.slice(number * (len(mixed) // 2), len(mixed)).slice(0, -(-len(mixed) // 2)),
            folder / f"{number}.parquet",
        )
    return index_genes(db, open_dataset(str(folder)), seed=42, **options).identical


@pytest.fixture
def rows() -> pa.Table:
    """Rows of 30 genes, 40 each, that are all different."""
    return table_of(30, 40, measured(1200))


def test_identical__counts_rows_genes_and_pairs(db: Database, rows: pa.Table, tmp_path: Path) -> None:
    """Two whole genes twice, and a quarter of a third: 2 x (40 + 40) + 10 + 10 rows of six genes."""
    assert found_in(db, rows, tmp_path / "none").n_rows == 0
    more = [copied(rows, ["G003", "G007"]), copied(rows, ["G011"], share=0.25)]
    found = found_in(db, pa.concat_tables([rows, *more]), tmp_path / "some")
    assert (found.n_rows, found.n_genes, found.n_group_pairs) == (180, 6, 3)
    assert found.pair == ("G003", "G003_copy")
    assert (found.n_features, found.one_in, found.n_joined) == (6, 1, 0)


def test_identical__rows_of_one_fold_group_are_no_leak(db: Database, rows: pa.Table, tmp_path: Path) -> None:
    both = pa.concat_tables([rows, copied(rows, ["G003", "G007"])])
    both = both.append_column("overlap_cluster", pa.array([name[:4] for name in both["gene_id"].to_pylist()]))
    assert found_in(db, both, tmp_path / "data").n_rows == 0


@pytest.mark.parametrize(("share", "is_found"), [(0.05, False), (0.075, False), (0.1, True)])
def test_identical__needs_three_rows_and_a_tenth_of_the_smaller_gene(
    share: float, is_found: bool, db: Database, rows: pa.Table, tmp_path: Path
) -> None:
    """Two, three and four rows of 40, which a gene of 40 other rows has too; the tenth of 40 is 4."""
    partial = copied(rows, ["G003"], share=share)
    rest = table_of(1, 40, measured(40, seed=5))
    rest = rest.set_column(0, "gene_id", pa.array(["G003_copy"] * 40))
    found = found_in(db, pa.concat_tables([rows, partial, rest.slice(0, 40 - len(partial))]), tmp_path / "data")
    assert (found.n_genes == 2) == is_found


@pytest.mark.parametrize("values", ["zeros", "five bits", "ten bits", "thirteen bits"])
def test_identical__rows_without_information_join_nothing(values: str, db: Database, tmp_path: Path) -> None:
    """Most rows are zero, or features take so few values that rows of all genes are equal by chance."""
    rng = np.random.default_rng(2)
    n = 60 * 50
    if values == "zeros":
        is_empty = rng.random(n) < 0.7
        features = {name: np.where(is_empty, 0, column) for name, column in measured(n).items()}
    else:
        n_bits = {"five bits": 5, "ten bits": 10, "thirteen bits": 13}[values]
        features = {f"b{number}": rng.integers(0, 2, n).astype(np.uint8) for number in range(n_bits)}
    rows = table_of(60, 50, features)
    assert found_in(db, rows, tmp_path / "chance").n_rows == 0
    if values == "zeros":  # a copy of a gene is still found among them
        assert found_in(db, pa.concat_tables([rows, copied(rows, ["G003"])]), tmp_path / "copy").n_genes == 2


def test_identical__rows_that_agree_in_the_first_features_alone_are_different(
    db: Database, rows: pa.Table, tmp_path: Path
) -> None:
    """A gene is copied except for one feature that is not among the 32 looked at first."""
    many = table_of(30, 40, measured(1200, n_features=40))
    (tmp_path / "one").mkdir()
    pq.write_table(many, tmp_path / "one" / "a.parquet")
    looked_at = telling_features(open_dataset(str(tmp_path / "one")), seed=42)
    assert len(looked_at) == 32
    other = next(name for name in many.schema.names[2:] if name not in looked_at)
    copy = copied(many, ["G003", "G004"])
    assert found_in(db, pa.concat_tables([many, copy]), tmp_path / "same").n_genes == 4
    changed = copy.set_column(copy.schema.get_field_index(other), other, pa.array(np.arange(80.0)))
    assert found_in(db, pa.concat_tables([many, changed]), tmp_path / "changed").n_genes == 0


def test_group_identical__joins_chains_of_groups(db: Database, rows: pa.Table, tmp_path: Path) -> None:
    """G003 shares its first half with one gene and its second half with another: one group of three."""
    last = rows.filter(pa.array(np.arange(1200) % 40 >= 20))
    both = pa.concat_tables(
        [rows, copied(rows, ["G003"], share=0.5), copied(last, ["G003"], "_last"), copied(rows, ["G009"])]
    )
    found = found_in(db, both, tmp_path / "data", group_identical=True)
    assert (found.n_joined, found.n_joined_into, found.n_group_pairs) == (5, 2, 3)
    group_of = {row["gene_id"]: row["fold_group"] for row in db.read("gene_index").to_pylist()}
    assert {group_of[name] for name in ("G003", "G003_copy", "G003_last")} == {"G003"}
    assert {group_of[name] for name in ("G009", "G009_copy")} == {"G009"}
    assert len(set(group_of.values())) == 30


def test_group_identical__holds_a_named_gene_out_with_its_copy(db: Database, rows: pa.Table, tmp_path: Path) -> None:
    (tmp_path / "genes.txt").write_text("G003\n")
    (tmp_path / "data").mkdir()
    pq.write_table(pa.concat_tables([rows, copied(rows, ["G003"])]), tmp_path / "data" / "a.parquet")
    dataset = open_dataset(str(tmp_path / "data"))
    for is_joining, genes in ((False, ["G003"]), (True, ["G003", "G003_copy"])):
        index_genes(db, dataset, seed=42, holdout=str(tmp_path / "genes.txt"), group_identical=is_joining)
        assert sorted(db.read("holdout_genes")["gene_id"].to_pylist()) == genes


def test_copied_genes__with_random_labels_are_warned_about_and_score_by_chance_once_joined(tmp_path: Path) -> None:
    """Every gene twice, labels at random: there is nothing to learn, but copies can be learned by heart."""
    rows = table_of(60, 40, measured(2400, n_features=3))
    (tmp_path / "data").mkdir()
    pq.write_table(
        pa.concat_tables([rows, copied(rows, sorted(set(rows["gene_id"].to_pylist())))]),
        tmp_path / "data" / "a.parquet",
    )
    precision = {}
    for name, flags in (("apart", ()), ("joined", ("--group-identical",))):
        out = tmp_path / name
        said = here("run", tmp_path / "data", "--out", out, *FLAGS, *LEARNING, *flags).stderr
        assert "4,800 rows of 120 genes are identical in all 3 features to rows of another fold group (60 pairs" in said
        assert ("warning: 4,800" in said) == (name == "apart")
        plan = RunFolder(out).read_plan()
        assert plan.data.identical_genes == (120 if name == "apart" else 0)
        assert (
            "so rows are scored by models that saw their copies" in (out / "unified_training_summary.txt").read_text()
        ) == (name == "apart")
        with (out / "metrics.csv").open() as lines:
            (precision[name],) = {
                float(one["value"])
                for one in csv.DictReader(lines)
                if (one["scope"], one["metric"], one["class"], one["is_chosen"])
                == ("ensemble", "average_precision", "macro", "1")
                and one["evaluated_on"] == "oof"
                and not one["fold"]
            }
        joined = "--group-identical joins 120 fold groups into 60" in said
        assert joined == (name == "joined")
    assert precision["apart"] > 0.2
    assert precision["joined"] == pytest.approx(0.1, abs=0.03)


def test_inspect__warns_of_copies_and_of_one_group_with_most_rows(rows: pa.Table, tmp_path: Path) -> None:
    """One gene of 3,000 rows beside 29 of 40: Kish's number is 4,160^2 / (3,000^2 + 29 x 40^2) = 1.9 of 30."""
    large = table_of(1, 3000, measured(3000, seed=3))
    names = np.array(rows["gene_id"].to_pylist())
    uneven = pa.concat_tables([rows.filter(pa.array(names != "G000")), large])
    pq.write_table(uneven, tmp_path / "a.parquet")
    said = here("inspect", tmp_path / "a.parquet").output
    assert "30 fold groups of 'gene_id' count as 1.9 (Kish's effective number); 'G000' has 72% of the rows" in said
    pq.write_table(rows, tmp_path / "b.parquet")
    assert "Kish" not in here("inspect", tmp_path / "b.parquet").output
