"""The synthetic dataset: its schema, its planted answer, and that it is written in a stream."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import xgboost
from sklearn.metrics import average_precision_score, roc_auc_score

from mi_duck.data.dataset import CLASSES
from mi_duck.errors import DataError, StorageError
from mi_duck.genome.features import score_features
from mi_duck.genome.synthetic import SyntheticSummary, feature_names, synthesise
from mi_duck.run.feature_names import BASE_SCORES, SCORE_FEATURES

IDENTIFIERS = {
    "gene_id": pa.string(),
    "gene_name": pa.string(),
    "gene_type": pa.string(),
    "chrom": pa.string(),
    "strand": pa.string(),
    "position": pa.int32(),
    "absolute_position": pa.int32(),
    "window_start": pa.int32(),
    "window_end": pa.int32(),
    "overlap_cluster": pa.string(),
    "splice_type": pa.string(),
}


def rows_of(folder: Path) -> pa.Table:
    """Read all rows in the order of files and rows."""
    return ds.dataset(sorted((folder / "master").glob("*.parquet"))).to_table()


def column(table: pa.Table, name: str) -> np.ndarray:
    """Return one column as an array."""
    return table[name].to_numpy()


def hashes(folder: Path) -> dict[str, str]:
    """Return the hash of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[pa.Table, SyntheticSummary, Path]:
    """Return few genes with all 1,167 features."""
    out = tmp_path_factory.mktemp("full") / "dataset"
    summary = synthesise(out, n_genes=50, rows_per_gene=60)
    return rows_of(out), summary, out


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> tuple[pa.Table, SyntheticSummary, dict[str, Any]]:
    """Return more genes with 80 features, and what is true about them."""
    out = tmp_path_factory.mktemp("narrow") / "dataset"
    summary = synthesise(out, n_genes=300, rows_per_gene=70, n_features=80)
    return rows_of(out), summary, json.loads((out / "truth.json").read_text(encoding="utf-8"))


def test_schema__is_that_of_the_reference(full: tuple[pa.Table, SyntheticSummary, Path]) -> None:
    table, summary, _ = full
    names = table.column_names
    assert {name: table.schema.field(name).type for name in names[:11]} == IDENTIFIERS
    features = names[11:]
    assert len(features) == summary.n_features == 1167
    assert tuple(features[:43]) == SCORE_FEATURES
    # 1,167 - 1,088 k-mers - 43 scores - 7 of gene and window - 12 signals = 17
    assert [name for name in features if name.startswith("noise_")] == [f"noise_{i}" for i in range(17)]
    assert [name for name in features[50:] if name.startswith("signal_")] == features[50:62]
    kmers = features[-1088:]
    assert kmers[:2] == ["3mer_AAA", "3mer_AAC"]
    assert kmers[63:65] == ["3mer_TTT", "5mer_AAAAA"]
    assert kmers[-1] == "5mer_TTTTT"
    assert {table.schema.field(name).type for name in kmers} == {pa.uint8()}
    assert table.schema.field("noise_0").type == pa.float32()
    assert table.schema.field("donor_is_local_peak").type == pa.int8()
    assert table.schema.field("gene_length").type == pa.int32()


def test_rows__have_no_null_and_no_infinity(full: tuple[pa.Table, SyntheticSummary, Path]) -> None:
    table, _, _ = full
    assert sum(table[name].null_count for name in table.column_names) == 0
    assert all(np.isfinite(column(table, name)).all() for name in table.column_names[11:])


def test_summary__counts_what_was_written(full: tuple[pa.Table, SyntheticSummary, Path]) -> None:
    table, summary, out = full
    assert summary.n_genes == len(set(table["gene_id"].to_pylist())) == 50
    assert summary.n_rows == table.num_rows == sum(summary.class_rows.values())
    labels = table["splice_type"].to_pylist()
    assert summary.class_rows == {name: labels.count(name) for name in CLASSES}
    assert summary.n_files == len(list((out / "master").iterdir())) == 1
    assert summary.seconds > 0


def test_truth__says_what_was_planted(full: tuple[pa.Table, SyntheticSummary, Path]) -> None:
    table, summary, out = full
    truth = json.loads((out / "truth.json").read_text(encoding="utf-8"))
    assert truth["settings"] == {
        "n_genes": 50,
        "rows_per_gene": 60,
        "n_features": 1167,
        "missing_fraction": 0.0,
        "seed": 42,
        "n_files": 1,
        "shuffle_rows": False,
    }
    assert truth["features"] == table.column_names[11:]
    assert {kind: tuple(weights) for kind, weights in truth["informative"].items()} == summary.informative
    assert tuple(truth["useless"]) == summary.useless
    assert truth["class_rows"] == summary.class_rows
    assert truth["missing"] == []
    # four quarters x probability .3 x one of two motifs = .6 additional motifs per row of the class
    assert truth["informative"]["donor"]["5mer_GTAAG"] == pytest.approx(0.6)
    planted = {name for names in summary.informative.values() for name in names}
    assert planted | set(summary.useless) <= set(truth["features"])
    assert not planted & set(summary.useless)


def test_positions__are_unique_and_increase_inside_a_gene(
    narrow: tuple[pa.Table, SyntheticSummary, Any],
) -> None:
    table, _, _ = narrow
    genes, positions = column(table, "gene_id"), column(table, "position")
    same = genes[1:] == genes[:-1]
    assert (np.diff(positions)[same] > 0).all()
    assert (genes[1:] >= genes[:-1]).all()


def test_positions__agree_with_each_other(narrow: tuple[pa.Table, SyntheticSummary, Any]) -> None:
    table, _, _ = narrow
    length, start, end = (column(table, name) for name in ("gene_length", "distance_to_start", "distance_to_end"))
    assert (start + end == length - 1).all()
    assert min(start.min(), end.min()) >= 0
    plus = column(table, "strand") == "+"
    assert set(column(table, "strand")) == {"+", "-"}
    assert (np.where(plus, start, end) == column(table, "position")).all()
    # 500 positions, both ends included: 250 upstream, the position itself, 249 downstream
    absolute = column(table, "absolute_position")
    assert (absolute - column(table, "window_start") == np.where(plus, 250, 249)).all()
    assert (column(table, "window_end") - absolute == np.where(plus, 249, 250)).all()


def test_overlap_clusters__join_neighbouring_genes_that_overlap(
    narrow: tuple[pa.Table, SyntheticSummary, Any],
) -> None:
    table, _, _ = narrow
    start = column(table, "absolute_position") - column(table, "distance_to_start")
    stop = column(table, "absolute_position") + column(table, "distance_to_end")
    genes = dict(
        zip(
            column(table, "gene_id"),
            zip(column(table, "overlap_cluster"), column(table, "chrom"), start, stop, strict=True),
            strict=True,
        )
    )
    placed = [genes[name] for name in sorted(genes)]
    joined = [a[0] == b[0] for a, b in zip(placed, placed[1:], strict=False)]
    overlapping = [a[1] == b[1] and b[2] <= a[3] for a, b in zip(placed, placed[1:], strict=False)]
    assert joined == overlapping
    assert 0.05 < np.mean(joined) < 0.16


def test_class_mix__is_ninety_five_five(narrow: tuple[pa.Table, SyntheticSummary, Any]) -> None:
    _, summary, _ = narrow
    shares = {name: n / summary.n_rows for name, n in summary.class_rows.items()}
    assert shares == {
        "neither": pytest.approx(0.9, abs=0.015),
        "donor": pytest.approx(0.05, abs=0.01),
        "acceptor": pytest.approx(0.05, abs=0.01),
    }


def test_gene_sizes__are_heavy_tailed_with_the_mean_asked_for(
    narrow: tuple[pa.Table, SyntheticSummary, Any],
) -> None:
    table, summary, _ = narrow
    sizes = np.unique(column(table, "gene_id"), return_counts=True)[1]
    assert sizes.min() >= 10
    assert summary.n_rows / summary.n_genes == pytest.approx(70, rel=0.05)
    assert sizes.max() > 8 * np.median(sizes)


def test_kmer_counts__belong_to_one_window(full: tuple[pa.Table, SyntheticSummary, Path]) -> None:
    table, _, _ = full
    counts = {k: np.stack([column(table, n) for n in feature_names(1167) if n.startswith(f"{k}mer")]) for k in (3, 5)}
    trimers, pentamers = counts[3].astype(int), counts[5].astype(int)
    assert (trimers.sum(axis=0) == 498).all()
    assert (pentamers.sum(axis=0) == 496).all()
    # A 5-mer starts with a 3-mer; only the last two 3-mers of the window start no 5-mer.
    surplus = trimers - pentamers.reshape(64, 16, -1).sum(axis=1)
    assert (surplus >= 0).all()
    assert (surplus.sum(axis=0) == 2).all()
    assert (pentamers > 0).mean() == pytest.approx(0.38, abs=0.015)
    # C and G of the window from the first base of its 3-mers, within the two bases that start none
    strong = trimers.reshape(4, 16, -1).sum(axis=1)[1:3].sum(axis=0)
    assert (np.abs(column(table, "gc_content") * 500 - strong) < 2.01).all()
    # Entropy of the first window's 3-mers, written out: -sum p ln p / ln 64
    shares = trimers[:, 0][trimers[:, 0] > 0] / 498
    entropy = -(shares * np.log(shares)).sum() / np.log(64)
    assert column(table, "sequence_complexity")[0] == pytest.approx(entropy, rel=1e-5)


def test_scores__are_probabilities_and_their_features_follow(
    full: tuple[pa.Table, SyntheticSummary, Path],
) -> None:
    table, _, _ = full
    donor, acceptor, neither = (column(table, name) for name in BASE_SCORES)
    np.testing.assert_allclose(donor + acceptor + neither, 1, atol=1e-6)
    context = np.stack([column(table, f"context_score_{name}") for name in ("m2", "m1", "p1", "p2")], axis=1)
    again = score_features(donor, acceptor, neither, context)
    for name in ("donor_surge_ratio", "acceptor_diff_p2", "probability_entropy", "context_max"):
        np.testing.assert_allclose(column(table, name), again[name], rtol=1e-4, atol=1e-6)


def test_planted_columns__separate_their_class(narrow: tuple[pa.Table, SyntheticSummary, Any]) -> None:
    table, summary, truth = narrow
    labels = column(table, "splice_type")
    for kind, names in summary.informative.items():
        scores = {name: roc_auc_score(labels == kind, column(table, name)) for name in names}
        # The weakest shift, .4 against a deviation of sqrt(1 + .25) = 1.118: Phi(.4 / 1.118 / sqrt 2) = .60.
        assert min(scores.values()) > 0.55
        assert max(scores.values()) > 0.7
        assert scores[f"signal_{kind}_0"] > scores[f"signal_{kind}_4"]
        assert truth["informative"][kind][f"signal_{kind}_0"] > truth["informative"][kind][f"signal_{kind}_4"]


def test_useless_columns__do_not_separate(narrow: tuple[pa.Table, SyntheticSummary, Any]) -> None:
    table, summary, _ = narrow
    labels = column(table, "splice_type")
    assert "noise_0" in summary.useless
    for name in summary.useless:
        for kind in ("donor", "acceptor"):
            assert 0.44 < roc_auc_score(labels == kind, column(table, name)) < 0.56


def test_rows_of_a_gene__resemble_each_other(narrow: tuple[pa.Table, SyntheticSummary, Any]) -> None:
    table, _, _ = narrow
    values = column(table, "noise_0").astype(float)
    _, gene, sizes = np.unique(column(table, "gene_id"), return_inverse=True, return_counts=True)
    means = np.bincount(gene, values) / sizes
    # Variance between genes .5^2 = .25 against 1 within: the gene explains .25 / 1.25 = .2 of it.
    assert np.var(means[gene]) / np.var(values) == pytest.approx(0.2, abs=0.06)


def test_boosted_model__beats_the_base_scores(narrow: tuple[pa.Table, SyntheticSummary, Any]) -> None:
    table, _, truth = narrow
    labels = np.array([CLASSES.index(name) for name in column(table, "splice_type")])
    rows = np.column_stack([column(table, name).astype(np.float32) for name in truth["features"]])
    tested = np.array([int(name[-1]) < 3 for name in column(table, "gene_id")])
    booster = xgboost.train(
        {"objective": "multi:softprob", "num_class": 3, "max_depth": 4, "learning_rate": 0.2, "nthread": 2},
        xgboost.DMatrix(rows[~tested], labels[~tested]),
        num_boost_round=60,
    )
    predicted = booster.predict(xgboost.DMatrix(rows[tested]))
    for index, name in ((1, "donor_score"), (2, "acceptor_score")):
        base = average_precision_score(labels[tested] == index, column(table, name)[tested])
        model = average_precision_score(labels[tested] == index, predicted[:, index])
        assert 0.5 < base < 0.7
        assert 0.72 < model < 0.95
        assert model > base + 0.1


def test_files__have_checksums_small_row_groups_and_whole_genes(tmp_path: Path) -> None:
    summary = synthesise(tmp_path / "d", n_genes=6, rows_per_gene=5000, n_features=20, n_files=2)
    files = sorted((tmp_path / "d" / "master").iterdir())
    assert [path.name for path in files] == ["part-00000.parquet", "part-00001.parquet"]
    genes = [set(pq.read_table(path, columns=["gene_id"])["gene_id"].to_pylist()) for path in files]
    assert [sorted(names) for names in genes] == [
        [f"gene_{i:06d}" for i in range(3)],
        [f"gene_{i:06d}" for i in range(3, 6)],
    ]
    n_rows = 0
    for path in files:
        metadata = pq.ParquetFile(path, page_checksum_verification=True).metadata
        groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
        assert max(group.num_rows for group in groups) <= 8192
        assert {group.num_rows for group in groups[:-1]} <= {8192}
        chunks = [group.column(index) for group in groups for index in range(metadata.num_columns)]
        assert all(chunk.compression == "ZSTD" and chunk.is_stats_set for chunk in chunks)
        dictionary = {chunk.path_in_schema for chunk in chunks if chunk.has_dictionary_page}
        assert dictionary == {name for name, kind in IDENTIFIERS.items() if kind == pa.string()}
        pq.read_table(path, page_checksum_verification=True)
        n_rows += metadata.num_rows
    assert n_rows == summary.n_rows
    # Genes larger than one drawn block keep their order and never repeat a position.
    table = rows_of(tmp_path / "d")
    same = column(table, "gene_id")[1:] == column(table, "gene_id")[:-1]
    assert np.unique(column(table, "gene_id"), return_counts=True)[1].max() > 8192
    assert (np.diff(column(table, "position"))[same] > 0).all()


@pytest.mark.parametrize("shuffle_rows", [False, True])
def test_same_seed__gives_the_same_bytes(tmp_path: Path, shuffle_rows: bool) -> None:
    settings: dict[str, Any] = {
        "n_genes": 12,
        "rows_per_gene": 30,
        "n_features": 30,
        "shuffle_rows": shuffle_rows,
    }
    synthesise(tmp_path / "a", **settings)
    synthesise(tmp_path / "b", **settings)
    synthesise(tmp_path / "c", **settings, seed=43)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    assert not set(hashes(tmp_path / "a").values()) & set(hashes(tmp_path / "c").values())


def test_gene__does_not_depend_on_the_genes_after_it(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"rows_per_gene": 30, "n_features": 40}
    synthesise(tmp_path / "few", n_genes=10, **settings)
    synthesise(tmp_path / "many", n_genes=30, n_files=3, **settings)
    few, many = rows_of(tmp_path / "few"), rows_of(tmp_path / "many")
    n_rows = int((column(few, "gene_id") < "gene_000009").sum())
    assert few.slice(0, n_rows).equals(many.slice(0, n_rows))


def test_shuffled_rows__are_the_same_rows_spread_over_files(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"n_genes": 40, "rows_per_gene": 60, "n_features": 40, "missing_fraction": 0.1}
    synthesise(tmp_path / "sorted", **settings)
    summary = synthesise(tmp_path / "shuffled", **settings, shuffle_rows=True)
    assert summary.n_files == 4
    whole, shuffled = rows_of(tmp_path / "sorted"), rows_of(tmp_path / "shuffled")
    assert not whole.equals(shuffled)
    order = [("gene_id", "ascending"), ("position", "ascending")]
    assert shuffled.sort_by(order).combine_chunks().equals(whole.sort_by(order).combine_chunks())
    for path in (tmp_path / "shuffled" / "master").iterdir():
        genes = pq.read_table(path)["gene_id"].to_pylist()
        # Every gene has at least 10 rows, so one of four files misses few of them.
        assert len(set(genes)) > 35
        assert genes != sorted(genes)
        assert sum(a == b for a, b in zip(genes, genes[1:], strict=False)) < len(genes) / 3


def test_missing_values__are_only_in_the_declared_columns(tmp_path: Path) -> None:
    synthesise(tmp_path / "d", n_genes=40, rows_per_gene=60, n_features=40, missing_fraction=0.2)
    synthesise(tmp_path / "full", n_genes=40, rows_per_gene=60, n_features=40)
    table, full = rows_of(tmp_path / "d"), rows_of(tmp_path / "full")
    declared = json.loads((tmp_path / "d" / "truth.json").read_text(encoding="utf-8"))["missing"]
    assert declared == ["signal_donor_4", "signal_acceptor_4", "5mer_GTGAG"]
    for name in table.column_names:
        if name in declared:
            assert table[name].null_count / table.num_rows == pytest.approx(0.2, abs=0.03)
            assert table[name].type == full[name].type
        else:
            assert table[name].equals(full[name])


def test_feature_names__are_as_many_as_asked_for_and_nested() -> None:
    kept = {*BASE_SCORES, "signal_donor_4", "signal_acceptor_4", "signal_site_1", "5mer_GTAAG", "5mer_TTCAG"}
    before: set[str] = set()
    for n_features in range(20, 1300):
        names = feature_names(n_features)
        assert len(names) == len(set(names)) == n_features
        assert kept <= set(names)
        assert before <= set(names)
        first_kmer = next(index for index, name in enumerate(names) if "mer_" in name)
        assert all("mer_" in name for name in names[first_kmer:])
        before = set(names)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_genes": 0}, "number of genes must lie between 1 and 1,000,000; got 0"),
        ({"rows_per_gene": 9.9}, "number of rows per gene must lie between 10 and 100,000"),
        ({"rows_per_gene": float("nan")}, "number of rows per gene"),
        (
            {"n_genes": 100_000, "rows_per_gene": 1e5},
            "genes times rows per gene must lie .* got 10,000,000,000",
        ),
        ({"n_features": 19}, "number of features must lie between 20 and 50,000; got 19"),
        ({"missing_fraction": 1.0}, "missing fraction must be at least 0 and below 1; got 1.0"),
        ({"missing_fraction": -0.1}, "missing fraction"),
        ({"n_files": 0}, "number of files must lie between 1 and 5; got 0"),
        ({"n_files": 6}, "number of files must lie between 1 and 5; got 6"),
    ],
)
def test_numbers_outside_their_range__are_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        synthesise(tmp_path / "d", **{"n_genes": 5, **settings})
    assert list(tmp_path.iterdir()) == []


def test_output_folder__must_be_absent_or_empty(tmp_path: Path) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="used exists and is not empty"):
        synthesise(used, n_genes=1)
    with pytest.raises(DataError, match="notes.txt is a file"):
        synthesise(used / "notes.txt", n_genes=1)
    assert (used / "notes.txt").read_text() == "mine"
    empty = tmp_path / "empty"
    empty.mkdir()
    synthesise(empty, n_genes=1, rows_per_gene=10, n_features=20)
    assert rows_of(empty).num_rows == 10


def test_storage_that_fails__is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write .*out"):
        synthesise(tmp_path / "file" / "out", n_genes=1)


def test_interrupted_call__leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt(stage: str, n_done: int, n_genes: int) -> None:
        if n_done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesise(tmp_path / "d", n_genes=5, rows_per_gene=10, n_features=20, report=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_report__counts_genes(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    synthesise(tmp_path / "d", n_genes=3, rows_per_gene=10, n_features=20, report=lambda *call: calls.append(call))
    assert calls == [("synthesise", 1, 3), ("synthesise", 2, 3), ("synthesise", 3, 3)]


PEAK_OF_ONE_CALL = """
import sys
from pathlib import Path
from mi_duck.genome.synthetic import synthesise
synthesise(Path(sys.argv[1]), n_genes=int(sys.argv[2]), rows_per_gene=40, n_features=40)
status = Path("/proc/self/status").read_text()
print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from the Linux kernel")
def test_peak_memory__does_not_grow_with_the_genes(tmp_path: Path) -> None:
    peaks = []
    for n_genes in (800, 2800):
        command = [sys.executable, "-c", PEAK_OF_ONE_CALL, str(tmp_path / str(n_genes)), str(n_genes)]
        result = subprocess.run(
            command, cwd=Path(__file__).parents[1], check=True, capture_output=True, text=True, timeout=120
        )
        peaks.append(int(result.stdout) * 1024)
    # 2,000 genes more are 80,000 rows more: 50 MB if their windows and draws were kept.
    assert peaks[1] - peaks[0] < 15e6
