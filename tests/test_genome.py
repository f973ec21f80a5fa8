"""Tests of building a dataset from a genome and its annotation."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mi_duck.errors import DataError, StorageError
from mi_duck.genome.build import BuildSummary, build

DATA = Path(__file__).parent.parent / "mi_duck" / "bundled" / "athaliana_chr1_start"
CRESS_FASTA = DATA / "AthaTAIR10_chr1_1-1500000.fna.gz"
CRESS_GTF = DATA / "AthaTAIR10_chr1_1-1500000.exons.gtf.gz"
COMPLEMENT = str.maketrans("ACGT", "TGCA")


def make_genome(folder: Path, *, exons_of_b: tuple[tuple[int, int], ...] = ((0, 99), (200, 299))) -> None:
    """Write ten genes on contig c1 (GT..AG introns, strands in turn, A and B overlapping) and one on c2.

    Genes begin at 1000, 3000, ...; gene B begins at 1500, within gene A's span.
    """
    rng = np.random.default_rng(7)
    contigs = {name: rng.choice(list("ACGT"), length) for name, length in (("c1", 25_000), ("c2", 2_000))}
    lines = []
    genes = [(f"G{i}", "c1", "+-"[i % 2], 1_000 + 2_000 * i, ((0, 199), (400, 599), (700, 999))) for i in range(10)]
    genes += [("B", "c1", "+", 1_500, exons_of_b), ("Z", "c2", "-", 100, ((0, 99), (200, 299)))]
    for gene, chrom, strand, start, exons in genes:
        for first, last in exons:
            line = [chrom, "test", "exon", start + first, start + last, ".", strand, "."]
            line.append(f'gene_id "{gene}"; transcript_id "t1"; gene_name "name of {gene}";')
            lines.append("\t".join(map(str, line)))
        for (_, left), (right, _) in zip(exons, exons[1:], strict=False):
            begin, end = ("GT", "AG") if strand == "+" else ("CT", "AC")
            contigs[chrom][start + left : start + left + 2] = list(begin)
            contigs[chrom][start + right - 3 : start + right - 1] = list(end)
    contigs["c1"][5_000:5_010] = "N"
    (folder / "genome.fa").write_text("".join(f">{name} x\n{''.join(text)}\n" for name, text in contigs.items()))
    (folder / "genes.gtf").write_text("\n".join(lines) + "\n")


@pytest.fixture
def genome(tmp_path: Path) -> Path:
    make_genome(tmp_path)
    return tmp_path


def built(folder: Path, name: str = "out", **options: object) -> tuple[BuildSummary, pa.Table]:
    summary = build(folder / "genome.fa", folder / "genes.gtf", folder / name, **options)  # type: ignore[arg-type]
    return summary, rows(folder / name)


def rows(out: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted((out / "master").glob("*.parquet")))


def keyed(table: pa.Table, columns: list[str]) -> dict[tuple[str, int], tuple[object, ...]]:
    """Return the values of the columns by (gene, position)."""
    keys = zip(table["gene_id"].to_pylist(), table["position"].to_pylist(), strict=True)
    values = zip(*(table[name].to_pylist() for name in columns), strict=True)
    return dict(zip(keys, values, strict=True))


def test_build__writes_the_rows_that_the_annotation_implies(genome: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    summary, table = built(genome, report=lambda *step: calls.append(step))
    # G0..G9 have 2 introns each, Z has one, and B's is also one of G0: 21, of which B's sites are rows twice
    assert (summary.n_genes, summary.n_introns, summary.gt_ag_fraction) == (12, 21, 1.0)
    assert (summary.n_donors, summary.n_acceptors) == (22, 22)
    # every gene has 9 negatives per site: 44 x 9
    assert (summary.n_neither, summary.n_rows, table.num_rows) == (396, 440, 440)
    assert (summary.n_files, summary.n_features, summary.n_clusters) == (1, 1_138, 11)
    assert sum(column.null_count for column in table.columns) == 0
    assert set(table["gene_name"].to_pylist()) == {f"name of G{i}" for i in range(10)} | {
        "name of B",
        "name of Z",
    }
    assert calls[-1] == ("rows", 12, 12)


def test_sites__have_the_letters_of_their_class_beside_them(genome: Path) -> None:
    contigs = dict(
        part.split(" x\n") for part in (genome / "genome.fa").read_text().replace("\n>", ">").split(">") if part
    )
    table = built(genome)[1]
    for chrom, strand, position, label in zip(
        *(table[name].to_pylist() for name in ("chrom", "strand", "absolute_position", "splice_type")),
        strict=True,
    ):
        piece = contigs[chrom][position - 3 : position + 2]  # two letters on both sides
        piece = piece if strand == "+" else piece[::-1].translate(COMPLEMENT)
        assert label != "donor" or piece[3:] == "GT"
        assert label != "acceptor" or piece[:2] == "AG"


def test_overlapping_genes__share_cluster_and_sites(genome: Path) -> None:
    table = built(genome, all_positions=12)[1]
    labels = keyed(table, ["absolute_position", "splice_type", "overlap_cluster", "num_overlaps"])
    # B begins at 1500 and its donor is 1599: offset 599 of G0, the last base of G0's second exon
    assert labels["B", 99] == (1_599, "donor", "c1:1000-1999", 1)
    assert labels["G0", 599] == (1_599, "donor", "c1:1000-1999", 1)
    # B's acceptor 1700 is also G0's
    assert labels["B", 200][:2] == labels["G0", 700][:2] == (1_700, "acceptor")
    assert labels["G2", 0] == (5_000, "neither", "c1:5000-5999", 0)


def test_order__is_contig_then_start_and_a_gene_is_in_one_file(genome: Path) -> None:
    summary, table = built(genome, genes_per_file=5)
    assert summary.n_files == 3
    genes = table["gene_id"].to_pylist()
    order = list(dict.fromkeys(genes))
    assert order == ["G0", "B", *[f"G{i}" for i in range(1, 10)], "Z"]
    assert genes == sorted(genes, key=order.index)
    positions = table["position"].to_numpy()
    same_gene = np.array(genes[1:]) == np.array(genes[:-1])
    assert (np.diff(positions)[same_gene] > 0).all()
    files = sorted((genome / "out" / "master").iterdir())
    assert [path.name for path in files] == [f"part-0000{i}.parquet" for i in range(3)]
    assert set(pq.read_table(files[0])["gene_id"].to_pylist()) == set(order[:5])


def test_features__are_the_same_whether_drawn_or_complete(genome: Path) -> None:
    """A position that is one of few negatives in one build has the same features in a complete build."""
    drawn, complete = built(genome, "drawn")[1], built(genome, "complete", all_positions=12)[1]
    assert complete.num_rows == 10 * 1_000 + 2 * 300
    names = drawn.column_names
    some, all_of_them = keyed(drawn, names), keyed(complete, names)
    assert all(all_of_them[key] == values for key, values in some.items())


def test_features__are_the_same_whatever_the_label(tmp_path: Path) -> None:
    """The same position, a site in one annotation and none in another, differs in its label only.

    The base scores come from a file, because the matrices are fitted to the annotation as a whole.
    """
    tables = []
    first = ((0, 99), (200, 299))
    for name, exons in (("first", first), ("second", ((0, 49), (150, 299)))):
        folder = tmp_path / name
        folder.mkdir()
        make_genome(folder, exons_of_b=exons)
        if name == "second":  # the letters stay those of the first genome
            (folder / "genome.fa").write_bytes((tmp_path / "first" / "genome.fa").read_bytes())
        write_scores(folder / "scores.tsv")
        tables.append(built(folder, all_positions=12, base_scores=[folder / "scores.tsv"])[1])
    names = [name for name in tables[0].column_names if name != "splice_type"]
    assert keyed(tables[0], names) == keyed(tables[1], names)
    labels = [keyed(table, ["splice_type"]) for table in tables]
    # donors of B at 99 or 49, acceptors at 200 or 150; those of the first are G0's too and stay sites
    assert [label["B", 49] for label in labels] == [("neither",), ("donor",)]
    assert [label["B", 150] for label in labels] == [("neither",), ("acceptor",)]


def write_scores(path: Path, *, chrom: str = "c1", step: int = 1) -> None:
    """Write made-up scores of every position of c1 and c2, both strands."""
    lines = ["chrom\tposition\tstrand\tdonor_score\tacceptor_score"]
    for name, length in ((chrom, 25_000), ("c2", 2_000)):
        for strand in "+-":
            lines += [f"{name}\t{p}\t{strand}\t{p % 97 / 200:.3f}\t{p % 89 / 200:.3f}" for p in range(1, length, step)]
    path.write_text("\n".join(lines) + "\n")


def test_base_scores__come_from_the_file_and_missing_ones_are_null(genome: Path) -> None:
    write_scores(genome / "scores.tsv", step=2)
    summary, table = built(genome, base_scores=[genome / "scores.tsv"])
    positions = table["absolute_position"].to_numpy()
    assert summary.n_rows_without_scores == (positions % 2 == 0).sum() == table["donor_score"].null_count
    donors = table["donor_score"].to_numpy(zero_copy_only=False)
    assert np.allclose(donors[positions % 2 == 1], (positions[positions % 2 == 1] % 97) / 200, atol=6e-4)
    assert table["gc_content"].null_count == 0


def test_annotation_features__are_one_value_per_gene(genome: Path) -> None:
    table = built(genome, annotation_features=True)[1]
    values = keyed(table, ["gene_id", "gene_start", "gene_end", "n_transcripts", "n_exons", "n_introns"]).values()
    assert len(set(values)) == 12
    assert ("B", 1_500, 1_799, 1, 2, 1) in values


def test_build__is_reproducible_byte_for_byte(genome: Path) -> None:
    built(genome, "one", genes_per_file=4)
    (genome / "genome.fa.gz").write_bytes(gzip.compress((genome / "genome.fa").read_bytes()))
    build(genome / "genome.fa.gz", genome / "genes.gtf", genome / "two", genes_per_file=4)
    contents = [
        {path.name: path.read_bytes() for path in (genome / name / "master").iterdir()} for name in ("one", "two")
    ]
    assert contents[0] == contents[1]
    other = built(genome, "other", seed=43)[1]
    assert other.select(["position"]) != rows(genome / "one").select(["position"])


def test_order_of_annotation_lines__changes_nothing(genome: Path) -> None:
    before = built(genome, "before")[1]
    path = genome / "genes.gtf"
    path.write_text("\n".join(path.read_text().splitlines()[::-1]) + "\n")
    assert built(genome, "after")[1].equals(before)


def test_files__have_checksums_and_small_row_groups(tmp_path: Path) -> None:
    """A part of thale cress chromosome 1: 386 genes, 2,434 introns; 10 of them complete make more than one row group."""
    summary = build(CRESS_FASTA, CRESS_GTF, tmp_path / "cress", all_positions=10)
    assert (summary.n_genes, summary.n_introns) == (386, 2_434)
    assert 0.97 < summary.gt_ag_fraction < 0.99
    assert summary.n_complete_genes == 10
    file = pq.ParquetFile(tmp_path / "cress" / "master" / "part-00000.parquet", page_checksum_verification=True)
    sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert len(sizes) > 1
    assert set(sizes[:-1]) == {8_192}
    column = file.metadata.row_group(0).column(file.schema_arrow.names.index("3mer_AAA"))
    assert column.compression == "ZSTD"
    assert column.is_stats_set
    assert not column.has_dictionary_page
    assert file.metadata.row_group(0).column(0).has_dictionary_page
    table = file.read()
    labels = np.array(table["splice_type"].to_pylist())
    assert sum(column.null_count for column in table.columns) == 0
    scores = [table[f"{name}_score"].to_numpy() for name in ("neither", "donor", "acceptor")]
    assert np.abs(sum(scores) - 1).max() < 1e-6
    # the matrices know something: sites score far above other positions
    for index, name in ((1, "donor"), (2, "acceptor")):
        inside, outside = scores[index][labels == name], scores[index][labels == "neither"]
        assert np.median(inside) > np.quantile(outside, 0.99)
    record = json.loads((tmp_path / "cress" / "build.json").read_text())
    assert record["counts"]["n_rows"] == table.num_rows
    assert record["settings"]["all_positions"] == 10


def test_existing_folder__must_be_empty(genome: Path) -> None:
    (genome / "out").mkdir()
    built(genome)
    with pytest.raises(DataError, match="exists and is not empty"):
        built(genome)
    with pytest.raises(DataError, match="is a file"):
        built(genome, "genes.gtf")


def drop_contig_names(folder: Path) -> None:
    path = folder / "genome.fa"
    path.write_text(path.read_text().replace(">c", ">chr"))


def shorten(folder: Path) -> None:
    path = folder / "genome.fa"
    path.write_text(path.read_text()[:15_000])


def drop_introns(folder: Path) -> None:
    path = folder / "genes.gtf"
    path.write_text(path.read_text().splitlines()[0] + "\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (drop_contig_names, "annotation, which has c1, c2; the FASTA file has chr1, chr2"),
        (shorten, "ends at 19,999, but contig c1 in .* has 14,9"),
        (drop_introns, "none of the 1 genes with a sequence in .* has an intron"),
        (lambda folder: (folder / "genes.gtf").unlink(), "no such file"),
        (lambda folder: (folder / "genome.fa").write_text(""), r"is empty \(0 bytes\), not FASTA"),
    ],
)
def test_unusable_input__is_refused_and_leaves_nothing(
    genome: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(genome)
    before = sorted(genome.iterdir())
    with pytest.raises(DataError, match=message):
        built(genome)
    assert sorted(genome.iterdir()) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negatives_per_site": -1.0}, "give 0 or more"),
        ({"negatives_per_site": float("nan")}, "give 0 or more"),
        ({"hard_negatives": 1.5}, "between 0 and 1"),
        ({"window": 501}, "even number"),
        ({"window": 42}, "at least 44"),
        ({"genes_per_file": 0}, "at least 0 and 1"),
        ({"all_positions": 13}, "only 12 genes"),
        ({"negatives_per_site": 0.0}, "no row would be neither"),
    ],
)
def test_settings_out_of_range__are_refused(genome: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        built(genome, **options)
    assert not (genome / "out").exists()


def test_contigs_without_sequence__are_counted(genome: Path) -> None:
    path = genome / "genome.fa"
    path.write_text(path.read_text().split(">c2")[0])
    summary, _ = built(genome)
    assert (summary.n_contigs_without_sequence, summary.n_genes_without_sequence) == (1, 1)
    assert summary.n_genes == 11


def test_interrupted_build__leaves_nothing(genome: Path) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "rows":
            raise KeyboardInterrupt

    before = sorted(genome.iterdir())
    with pytest.raises(KeyboardInterrupt):
        built(genome, report=stop)
    assert sorted(genome.iterdir()) == before


def test_unwritable_folder__is_a_storage_error(genome: Path) -> None:
    with pytest.raises(StorageError, match="cannot write"):
        built(genome, "genes.gtf/out")
