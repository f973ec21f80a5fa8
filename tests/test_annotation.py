"""Tests of reading GTF and GFF3, and of splice sites, overlap clusters and overlap counts."""

import gzip
from pathlib import Path

import pytest

from mi_duck.errors import DataError
from mi_duck.genome.annotation import (
    Annotation,
    Gene,
    count_overlaps,
    overlap_clusters,
    read_annotation,
    strand_sites,
)

CRESS = (
    Path(__file__).parent.parent
    / "mi_duck"
    / "bundled"
    / "athaliana_chr1_start"
    / "AthaTAIR10_chr1_1-1500000.exons.gtf.gz"
)


def lines(*rows: str) -> str:
    """Join rows whose columns are separated by blanks; the ninth column is the rest."""
    return "".join("\t".join(row.split(maxsplit=8)) + "\n" for row in rows)


def read(tmp_path: Path, text: str) -> Annotation:
    path = tmp_path / "annotation.txt"
    path.write_text(text)
    return read_annotation(path)


def shape(annotation: Annotation) -> list[tuple[str, str, str, int, int, tuple[tuple[int, int], ...]]]:
    return [(gene.gene_id, gene.chrom, gene.strand, gene.start, gene.end, gene.introns) for gene in annotation.genes]


def test_thale_cress__has_386_genes_with_introns() -> None:
    annotation = read_annotation(CRESS)
    spliced = [gene for gene in annotation.genes if gene.introns]
    assert (len(annotation.genes), len(spliced)) == (554, 386)
    assert sum(len(gene.introns) for gene in spliced) == 2_435


def test_gtf__exons_in_any_order_give_the_same_introns(tmp_path: Path) -> None:
    rows = [
        'c RefSeq exon 401 500 . - . gene_id "G"; transcript_id "T";',
        'c RefSeq exon 201 300 . - . gene_id "G"; transcript_id "T";',
        'c RefSeq exon 1 100 . - . gene_id "G"; transcript_id "T";',
    ]
    expected = [("G", "c", "-", 1, 500, ((100, 201), (300, 401)))]
    assert shape(read(tmp_path, lines(*rows))) == expected
    assert shape(read(tmp_path, lines(*rows[::-1]))) == expected


def test_gtf__reused_transcript_ids_do_not_join_genes(tmp_path: Path) -> None:
    text = lines(
        'c EMBL exon 1 100 . + . gene_id "A"; transcript_id "unassigned_transcript_1";',
        'c EMBL exon 201 300 . + . gene_id "A"; transcript_id "unassigned_transcript_1";',
        'c EMBL exon 901 950 . + . gene_id "B"; transcript_id "unassigned_transcript_1";',
    )
    assert shape(read(tmp_path, text)) == [
        ("A", "c", "+", 1, 300, ((100, 201),)),
        ("B", "c", "+", 901, 950, ()),
    ]


def test_gtf__names_types_and_counts_are_read(tmp_path: Path) -> None:
    text = lines(
        'c x gene 1 300 . + . gene_id "E1"; gene_version "2"; gene_name "abc-1"; gene_biotype "lncRNA";',
        'c x exon 1 100 . + . ref_gene_id "no"; gene_id "E1"; transcript_id "T1"; note "a; b";',
        'c x exon 201 300 . + . gene_id "E1"; transcript_id "T1";',
        'c x exon 1 100 . + . gene_id "E1"; transcript_id "T2"; exon_number 1;',
        'c x exon 231 300 . + . gene_id "E1"; transcript_id "T2";',
        'c x exon 1 100 . + . gene_id "E2"; transcript_id "T3"; gene_type "protein_coding"; gene "xyz";',
    )
    first, second = read(tmp_path, text).genes
    # different exons: 1-100, 201-300, 231-300
    assert (first.gene_name, first.gene_type, first.n_transcripts, first.n_exons) == ("abc-1", "lncRNA", 2, 3)
    assert first.introns == ((100, 201), (100, 231))
    assert (second.gene_id, second.gene_name, second.gene_type) == ("E2", "xyz", "protein_coding")


def test_gtf__augustus_bare_ids_and_coding_lines(tmp_path: Path) -> None:
    text = "# AUGUSTUS\n" + lines(
        "c AUGUSTUS gene 1 300 0.9 + . g1",
        "c AUGUSTUS transcript 1 300 0.9 + . g1.t1",
        'c AUGUSTUS CDS 1 100 0.9 + 0 transcript_id "g1.t1"; gene_id "g1";',
        'c AUGUSTUS intron 101 200 0.9 + . transcript_id "g1.t1"; gene_id "g1";',
        'c AUGUSTUS CDS 201 300 0.9 + 0 transcript_id "g1.t1"; gene_id "g1";',
    )
    assert shape(read(tmp_path, text)) == [("g1", "c", "+", 1, 300, ((100, 201),))]


def test_gtf__coding_lines_count_only_without_exon_lines(tmp_path: Path) -> None:
    text = lines(
        'c x exon 1 100 . + . gene_id "A"; transcript_id "T1";',
        'c x exon 201 300 . + . gene_id "A"; transcript_id "T1";',
        'c x CDS 50 100 . + 0 gene_id "A"; transcript_id "T1";',
        'c x CDS 201 205 . + 0 gene_id "A"; transcript_id "T1";',
        'c x CDS 1001 1100 . + 0 gene_id "B"; transcript_id "T2";',
        'c x CDS 1201 1300 . + 0 gene_id "B"; transcript_id "T2";',
    )
    annotation = read(tmp_path, text)
    assert [gene.n_exons for gene in annotation.genes] == [2, 2]
    assert annotation.genes[1].introns == ((1100, 1201),)


def test_gff3__ensembl_chain_from_exon_to_gene(tmp_path: Path) -> None:
    text = "##gff-version 3\n" + lines(
        "1 e gene 1 300 . + . ID=gene:ENSG1;Name=BRC%3BA;biotype=protein_coding;gene_id=ENSG1",
        "1 e mRNA 1 300 . + . ID=transcript:T1;Parent=gene:ENSG1",
        "1 e mRNA 1 300 . + . ID=transcript:T2;Parent=gene:ENSG1",
        "1 e exon 1 100 . + . Parent=transcript:T1,transcript:T2;Name=x",
        "1 e exon 201 300 . + . Parent=transcript:T1",
        "1 e exon 251 300 . + . Parent=transcript:T2",
    )
    annotation = read(tmp_path, text)
    assert shape(annotation) == [("ENSG1", "1", "+", 1, 300, ((100, 201), (100, 251)))]
    # %3B is a semicolon
    assert (annotation.genes[0].gene_name, annotation.genes[0].gene_type) == ("BRC;A", "protein_coding")


def test_gff3__refseq_ids_equal_those_of_its_gtf(tmp_path: Path) -> None:
    text = "##gff-version 3\n" + lines(
        "NC_1 RefSeq region 1 9000 . + . ID=NC_1:1..9000",
        "NC_1 RefSeq exon 201 300 . - . ID=exon-1;Parent=rna-NM_1.1;gene=NAC",
        "NC_1 RefSeq exon 1 100 . - . ID=exon-2;Parent=rna-NM_1.1;gene=NAC",
        "NC_1 RefSeq mRNA 1 300 . - . ID=rna-NM_1.1;Parent=gene-AT1;gene=NAC",
        "NC_1 RefSeq gene 1 300 . - . ID=gene-AT1;gene=NAC;gene_biotype=protein_coding",
        "NC_1 RefSeq pseudogene 501 600 . - . ID=gene-AT2;gene=NAC",
        "NC_1 RefSeq exon 501 600 . - . ID=exon-3;Parent=gene-AT2;gene=NAC",
    )
    assert shape(read(tmp_path, text)) == [
        ("AT1", "NC_1", "-", 1, 300, ((100, 201),)),
        ("AT2", "NC_1", "-", 501, 600, ()),
    ]


def test_gff3__without_gene_lines_falls_back_to_attributes(tmp_path: Path) -> None:
    text = lines(
        "c x mRNA 1 300 . + . ID=T1;geneID=L1",
        "c x exon 1 100 . + . Parent=T1",
        "c x exon 201 300 . + . Parent=T1",
        "c x exon 501 600 . + . Parent=T9;gene_id=L2",
        "c x exon 701 800 . + . Parent=T8",
    )
    assert [gene.gene_id for gene in read(tmp_path, text).genes] == ["L1", "L2", "T8"]


def test_gff3__a_cycle_of_parents_is_refused(tmp_path: Path) -> None:
    text = lines(
        "c x mRNA 1 300 . + . ID=T1;Parent=T2",
        "c x mRNA 1 300 . + . ID=T2;Parent=T1",
        "c x exon 1 100 . + . Parent=T1",
    )
    with pytest.raises(DataError, match="T1 is its own ancestor"):
        read(tmp_path, text)


def test_gene_on_two_chromosomes__becomes_two_genes(tmp_path: Path) -> None:
    text = lines(
        'X x exon 1 100 . + . gene_id "PAR"; transcript_id "T";',
        'Y x exon 1 100 . + . gene_id "PAR"; transcript_id "T";',
    )
    annotation = read(tmp_path, text)
    assert [gene.gene_id for gene in annotation.genes] == ["PAR@X:+", "PAR@Y:+"]
    assert annotation.split_genes == ("PAR",)


def test_short_gaps_and_overlapping_exons__are_not_introns(tmp_path: Path) -> None:
    text = lines(
        'c x exon 1 100 . + . gene_id "A"; transcript_id "T";',
        'c x exon 120 200 . + . gene_id "A"; transcript_id "T";',  # gap of 19 nt
        'c x exon 150 160 . + . gene_id "A"; transcript_id "T";',  # within the one before
        'c x exon 221 300 . + . gene_id "A"; transcript_id "T";',  # gap of 20 nt
        'c x exon 301 400 . + . gene_id "A"; transcript_id "T";',  # no gap
    )
    annotation = read(tmp_path, text)
    assert annotation.genes[0].introns == ((200, 221),)
    assert annotation.n_short_introns == 1


def test_exons_without_strand_or_gene__are_counted(tmp_path: Path) -> None:
    text = lines(
        'c x exon 1 100 . + . gene_id "A"; transcript_id "T";',
        'c x exon 201 300 . ? . gene_id "A"; transcript_id "T";',
        'c x exon 201 300 . + . gene_id ""; transcript_id "T";',
    )
    annotation = read(tmp_path, text)
    assert (annotation.n_exons_without_strand, annotation.n_exons_without_gene) == (1, 1)


def test_compression__is_recognised_by_the_content(tmp_path: Path) -> None:
    text = lines('c x exon 1 100 . + . gene_id "A"; transcript_id "T";').encode()
    (tmp_path / "plain.gtf.gz").write_bytes(text)
    (tmp_path / "packed.gtf").write_bytes(gzip.compress(text))
    assert read_annotation(tmp_path / "plain.gtf.gz") == read_annotation(tmp_path / "packed.gtf")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"is empty \(0 bytes\), not an annotation"),
        ("#only a comment\n", "no exon or CDS lines in"),
        (">c\nACGT\n", "is FASTA, not an annotation"),
        ("c\tx\texon\t1\t100\n", "line 1 of .* has 5 columns"),
        ('#\nc\tx\texon\tone\t9\t.\t+\t.\tgene_id "A";\n', "line 2 of .* start 'one' and end '9'"),
        ('c\tx\texon\t9\t5\t.\t+\t.\tgene_id "A";\n', "line 1 of .* start 9, end 5"),
        ('c\tx\texon\t0\t5\t.\t+\t.\tgene_id "A";\n', "start 0, end 5"),
        ('c\tx\texon\t1\t5\t.\tplus\t.\tgene_id "A";\n', "strand 'plus'"),
        ('c\tx\tgene\t1\t5\t.\t+\t.\tgene_id "A";\n', "no exon or CDS lines in"),
        ('c\tx\texon\t1\t5\t.\t.\t.\tgene_id "A";\n', r"\(1 without\)"),
    ],
)
def test_bad_annotation__is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(tmp_path, text)


def test_missing_file_folder_and_torn_gzip__are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_annotation(tmp_path / "absent.gtf")
    with pytest.raises(DataError, match="is a folder"):
        read_annotation(tmp_path)
    torn = tmp_path / "torn.gtf.gz"
    torn.write_bytes(CRESS.read_bytes()[:9000])
    with pytest.raises(DataError, match="damaged gzip data"):
        read_annotation(torn)


def gene(
    gene_id: str,
    start: int,
    end: int,
    *,
    chrom: str = "c",
    strand: str = "+",
    introns: tuple[tuple[int, int], ...] = (),
) -> Gene:
    return Gene(gene_id, "", "", chrom, strand, start, end, 1, len(introns) + 1, introns)


def test_sites__lie_at_the_exon_ends_along_the_strand() -> None:
    plus = gene("A", 1, 300, introns=((100, 201),))
    minus = gene("B", 1, 300, strand="-", introns=((100, 201),))
    sites = strand_sites([plus, minus])
    assert (sites["c", "+"].donors.tolist(), sites["c", "+"].acceptors.tolist()) == ([100], [201])
    # on the minus strand the transcript runs from 300 to 1
    assert (sites["c", "-"].donors.tolist(), sites["c", "-"].acceptors.tolist()) == ([201], [100])


def test_sites__of_all_genes_are_united_and_ambiguous_ones_set_apart() -> None:
    sites = strand_sites([gene("A", 1, 300, introns=((100, 201),)), gene("B", 1, 400, introns=((201, 301),))])
    # 201 is acceptor of A and donor of B
    assert sites["c", "+"].donors.tolist() == [100]
    assert sites["c", "+"].acceptors.tolist() == [301]
    assert sites["c", "+"].ambiguous.tolist() == [201]


def test_clusters__are_linked_by_padded_overlaps_on_both_strands() -> None:
    genes = [
        gene("far", 2_000, 2_100),
        gene("A", 100, 200),
        gene("B", 300, 900, strand="-"),
        gene("inside", 400, 500),
        gene("C", 1_000, 1_001),
        gene("other", 100, 200, chrom="d"),
    ]
    # padded by 50: A ends at 250, B begins at 250; B ends at 950, C begins at 950
    assert overlap_clusters(genes, 50) == ("c:2000-2100", *["c:100-1001"] * 4, "d:100-200")
    # padded by 49: 249 < 251, and 949 < 951
    names = overlap_clusters(genes, 49)
    assert names == ("c:2000-2100", "c:100-200", "c:300-900", "c:300-900", "c:1000-1001", "d:100-200")
    assert overlap_clusters(genes[::-1], 49) == names[::-1]


def test_overlaps__count_the_other_genes_that_share_a_base() -> None:
    genes = [gene("A", 1, 100), gene("B", 100, 200, strand="-"), gene("C", 150, 160), gene("D", 201, 300)]
    genes.append(gene("E", 1, 300, chrom="d"))
    # A-B share base 100, B-C share 150-160, D begins after B ends
    assert count_overlaps(genes).tolist() == [1, 2, 1, 0, 0]
