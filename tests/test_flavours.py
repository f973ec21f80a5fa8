"""The same genes written in the many ways of GTF and GFF3, and what must not become an intron."""

import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

import pytest

from mi_duck.errors import DataError
from mi_duck.genome.annotation import Annotation, read_annotation
from mi_duck.genome.build import build

Exons = list[tuple[int, int]]
GENES: dict[str, tuple[str, str, dict[str, Exons]]] = {
    "A": ("c1", "+", {"A.1": [(101, 200), (301, 400), (501, 600)], "A.2": [(101, 200), (341, 400), (501, 600)]}),
    "B": ("c1", "-", {"B.1": [(1_101, 1_200), (1_301, 1_400)]}),
    "C": ("c2", "+", {"C.1": [(101, 180), (281, 380), (481, 580)]}),
    "D": ("c2", "-", {"D.1": [(2_101, 2_150), (2_251, 2_350), (2_451, 2_550)]}),
    "E": ("c2", "+", {"E.1": [(9_101, 9_400)]}),
}
"""Gene to contig, strand, and the exons of its transcripts."""
Line = tuple[str, str, int, int, str]


def of_file(tmp_path: Path, text: str) -> Annotation:
    path = tmp_path / "annotation"
    path.write_text(text)
    return read_annotation(path)


def introns(annotation: Annotation) -> dict[str, set[tuple[int, int]]]:
    return {gene.gene_id: set(gene.introns) for gene in annotation.genes}


EXPECTED = {
    gene: {(left, right) for exons in transcripts.values() for (_, left), (right, _) in pairwise(exons)}
    for gene, (_, _, transcripts) in GENES.items()
}


def row(chrom: str, kind: str, start: int, end: int, strand: str, attributes: str) -> str:
    return f"{chrom}\tsource\t{kind}\t{start}\t{end}\t.\t{strand}\t.\t{attributes}\n"


def gtf(
    kinds: Callable[[str, Exons, str], list[tuple[str, int, int]]] | None = None,
    attributes: Callable[[str, str], str] = lambda gene, transcript: f'gene_id "{gene}"; transcript_id "{transcript}";',
    *,
    with_lines: bool = False,
) -> str:
    """Write GTF; ``kinds(transcript, exons, strand)`` gives the lines of a transcript where they are not its exons."""
    text = ""
    for gene, (chrom, strand, transcripts) in GENES.items():
        ends = [end for exons in transcripts.values() for exon in exons for end in exon]
        if with_lines:
            text += row(chrom, "gene", min(ends), max(ends), strand, attributes(gene, ""))
        for transcript, exons in transcripts.items():
            if with_lines:
                text += row(chrom, "transcript", exons[0][0], exons[-1][1], strand, attributes(gene, transcript))
            for kind, start, end in kinds(transcript, exons, strand) if kinds else [("exon", *exon) for exon in exons]:
                text += row(chrom, kind, start, end, strand, attributes(gene, transcript))
    return text


def gff3(
    kinds: Callable[[str, Exons, str], list[tuple[str, int, int]]] | None = None,
    name: Callable[[str], str] = lambda one: one,
    *,
    shared: str = "",
) -> str:
    """Write GFF3 with encoded ``name(id)``; with ``shared``, exons of several transcripts stand once, parents so joined."""
    text = ""
    for gene, (chrom, strand, transcripts) in GENES.items():
        ends = [end for exons in transcripts.values() for exon in exons for end in exon]
        text += row(chrom, "gene", min(ends), max(ends), strand, f"ID={quote(name(gene))};Name=x%3By")
        parents: dict[tuple[str, int, int], list[str]] = {}
        for transcript, exons in transcripts.items():
            ids = f"ID={quote(name(transcript))};Parent={quote(name(gene))}"
            text += row(chrom, "mRNA", exons[0][0], exons[-1][1], strand, ids)
            for line in kinds(transcript, exons, strand) if kinds else [("exon", *exon) for exon in exons]:
                parents.setdefault(line, []).append(quote(name(transcript)))
        for (kind, start, end), names in parents.items():
            for joined in [shared.join(names)] if shared else names:
                text += row(chrom, kind, start, end, strand, f"Parent={joined}")
    return text


def utr_and_cds(
    _: str, exons: Exons, strand: str, *, names: tuple[str, str] = ("five_prime_UTR", "three_prime_UTR")
) -> list[tuple[str, int, int]]:
    """Cut the first exon into UTR and CDS, the last one into CDS, stop codon and UTR: pieces that touch."""
    (start, end), *inner, (last_start, last_end) = exons if len(exons) > 1 else [*exons, (0, 0)]
    five, three = names if strand == "+" else names[::-1]
    if not last_end:
        return [(five, start, start + 49), ("CDS", start + 50, end)]
    half = (start + end) // 2
    return [
        (five, start, half),
        ("CDS", half + 1, end),
        *(("CDS", *exon) for exon in inner),
        ("CDS", last_start, last_start + 9),
        ("stop_codon", last_start + 10, last_start + 12),
        (three, last_start + 13, last_end),
    ]


def doubled(gene: str, transcript: str) -> str:
    return f'"gene_id ""{gene}""; transcript_id ""{transcript}"";"'


SAME = {
    "plain GTF": gtf(),
    "GTF with genes and transcripts": gtf(with_lines=True),
    "no semicolons": gtf(attributes=lambda gene, transcript: f'gene_id "{gene}" transcript_id "{transcript}"'),
    "bare values": gtf(attributes=lambda gene, transcript: f"gene_id {gene}; transcript_id {transcript}"),
    "a key inside a key": gtf(
        attributes=lambda gene, transcript: (
            f'ref_gene_id "no"; gene_id "{gene}"; x_transcript_id "no"; transcript_id "{transcript}"'
        )
    ),
    "a key inside a value": gtf(
        attributes=lambda gene, transcript: (
            f'note "by gene_id no; transcript_id no"; gene_id "{gene}"; transcript_id "{transcript}"'
        )
    ),
    "doubled quotes": gtf(attributes=doubled),
    "doubled quotes without those around": gtf(
        attributes=lambda *ids: doubled(*ids).strip('"') + '"";'.replace('"";', "")
    ),
    "an empty value": gtf(
        attributes=lambda gene, transcript: f'gene_id "{gene}"; note ""; transcript_id "{transcript}"; tag "";'
    ),
    "byte order mark and Windows": "\ufeff" + gtf().replace("\n", "\r\n"),
    "GFF3 header above GTF": "##gff-version 3\n" + gtf(with_lines=True),
    "hints of AUGUSTUS first": row("c1", "ep", 9, 40, ".", "mult=5;src=W") + gtf(),
    "hints that are exons": row("c1", "exonpart", 9, 40, "+", "grp=x;src=E") + gtf(with_lines=True),
    "bare names of AUGUSTUS": row("c1", "gene", 101, 600, "+", "A")
    + row("c1", "transcript", 101, 600, "+", "A.1")
    + gtf(),
    "GFF2 of JGI": gtf(attributes=lambda gene, transcript: f'name "{gene}"; transcriptId {transcript}'),
    "GTF of UTR, CDS and codons": gtf(utr_and_cds, with_lines=True),
    "CDS without its stop codon": gtf(
        lambda _, exons, strand: [
            *(("CDS", *exon) for exon in exons[:-1]),
            ("CDS", exons[-1][0], exons[-1][1] - 3),
            ("stop_codon", exons[-1][1] - 2, exons[-1][1]),
        ]
    ),
    "plain GFF3": gff3(),
    "GFF3, several parents": gff3(shared=","),
    "GFF3, blanks between parents": gff3(shared=" , "),
    "GFF3, commas in names": gff3(name=lambda one: f"{one},x"),
    "GFF3, commas in names of several parents": gff3(name=lambda one: f"{one},x", shared=","),
    "GFF3, semicolons, equals signs and blanks in names": gff3(name=lambda one: f"{one};=% x"),
    "GFF3 of UTR and CDS": gff3(utr_and_cds),
    "GFF3 of UTR and CDS, other names": gff3(lambda *of: utr_and_cds(*of, names=("5UTR", "3UTR"))),
    "GFF3 and GTF in one file": "".join(gtf().splitlines(keepends=True)[:6])
    + "".join(gff3().splitlines(keepends=True)[9:]),
}


@pytest.mark.parametrize("flavour", SAME)
def test_flavour__has_the_same_genes_and_introns_in_any_order_of_lines(tmp_path: Path, flavour: str) -> None:
    text = SAME[flavour]
    found = introns(of_file(tmp_path, text))
    # ids that were made longer on purpose
    assert {gene.split(",")[0].split(";")[0]: pairs for gene, pairs in found.items()} == EXPECTED
    lines = text.removeprefix("\ufeff").splitlines(keepends=True)
    random.Random(3).shuffle(lines)
    assert introns(of_file(tmp_path, "".join(lines))) == found


def test_pieces__that_touch_are_one_exon(tmp_path: Path) -> None:
    annotation = of_file(tmp_path, gff3(utr_and_cds))
    assert [gene.n_exons for gene in annotation.genes] == [4, 2, 3, 3, 1]
    assert (annotation.n_transcripts, annotation.n_transcripts_of_pieces) == (6, 6)
    assert of_file(tmp_path, gff3()).n_transcripts_of_pieces == 0


def test_quoted_semicolon__does_not_end_an_id(tmp_path: Path) -> None:
    """Genes of plants are named so."""
    text = "".join(
        row("c1", "exon", start, start + 99, "+", f'gene_id "HKT1;{number}"; transcript_id "HKT1;{number}.1";')
        for number in (1, 2)
        for start in (1_000 * number + 1, 1_000 * number + 201)
    )
    assert introns(of_file(tmp_path, text)) == {"HKT1;1": {(1_100, 1_201)}, "HKT1;2": {(2_100, 2_201)}}


PAIR = [(101, 200), (301, 400)]
FAR = [(50_101, 50_200), (50_301, 50_400)]


def exons(pieces: Exons, attributes: str, strand: str = "+") -> str:
    return "".join(row("c1", "exon", *piece, strand, attributes) for piece in pieces)


def span(kind: str, pieces: Exons, attributes: str) -> str:
    return row("c1", kind, pieces[0][0], pieces[-1][1], "+", attributes)


IDS = 'gene_id "G"; transcript_id "T";'
APART = {
    "gene lines": span("gene", PAIR, 'gene_id "G"') + span("gene", FAR, 'gene_id "G"') + exons(PAIR + FAR, IDS),
    "transcript lines": span("transcript", PAIR, IDS) + span("transcript", FAR, IDS) + exons(PAIR + FAR, IDS),
    "transcripts": exons(PAIR, IDS) + exons(FAR, 'gene_id "G"; transcript_id "T2";'),
    "parts": exons(PAIR, IDS + ' part "1";') + exons(FAR, IDS + ' part "2";'),
    "GFF3 gene lines": span("gene", PAIR, "ID=G;part=1")
    + span("gene", FAR, "ID=G;part=2")
    + exons(PAIR + FAR, "Parent=G"),
    "GFF3 transcript lines": "".join(
        span("gene", piece, "ID=G") + span("mRNA", piece, "ID=T;Parent=G") for piece in (PAIR, FAR)
    )
    + exons(PAIR + FAR, "Parent=T"),
}


@pytest.mark.parametrize("known_by", APART)
def test_id_in_two_locations__is_two_genes_without_an_intron_between(tmp_path: Path, known_by: str) -> None:
    annotation = of_file(tmp_path, APART[known_by])
    assert introns(annotation) == {"G@c1:+:101": {(200, 301)}, "G@c1:+:50101": {(50_200, 50_301)}}
    assert annotation.split_genes + annotation.genes_in_parts == ("G",)


def test_transcripts_of_one_gene__may_share_no_base(tmp_path: Path) -> None:
    near = [(start + 5_000, end + 5_000) for start, end in PAIR]
    annotation = of_file(tmp_path, exons(PAIR, IDS) + exons(near, 'gene_id "G"; transcript_id "T2";'))
    assert introns(annotation) == {"G": {(200, 301), (5_200, 5_301)}}
    line = row("c1", "gene", 101, 50_400, "+", 'gene_id "G"')
    assert list(introns(of_file(tmp_path, line + APART["transcripts"]))) == ["G"]


@pytest.mark.parametrize(
    "attributes",
    ["Parent=G;exception=trans-splicing", "Parent=G;exception=trans_splicing", "Parent=G;trans_splicing=true"],
)
def test_trans_splicing__without_marked_parts_makes_no_intron(tmp_path: Path, attributes: str) -> None:
    annotation = of_file(tmp_path, row("c1", "gene", 101, 50_400, "+", "ID=G") + exons(PAIR + FAR, attributes))
    assert introns(annotation) == {"G": set()}
    assert annotation.genes_in_parts == ("G",)


def test_exons_without_transcripts__that_overlap_are_named(tmp_path: Path) -> None:
    text = exons([(101, 200), (301, 400), (101, 200), (321, 400)], 'gene_id "M"') + exons(PAIR, 'gene_id "N"')
    annotation = of_file(tmp_path, text)
    assert annotation.mixed_genes == ("M",)
    assert introns(annotation)["N"] == {(200, 301)}


# ---- with a sequence --------------------------------------------------------------------------------------------------


def made(tmp_path: Path, text: str, *, ends: str = "GTAG", length: int = 60_000) -> Path:
    """Write an annotation and a genome in which every intron of it has these ends, by strand."""
    rng = random.Random(1)
    letters = [rng.choice("ACGT") for _ in range(length)]
    path = tmp_path / "genes"
    path.write_text(text)
    for gene in read_annotation(path).genes:
        for left, right in gene.introns:
            begin, end = (ends[:2], ends[2:]) if gene.strand == "+" else ("CT", "AC")
            letters[left : left + 2], letters[right - 3 : right - 1] = begin, end
    (tmp_path / "genome.fa").write_text(">c1\n" + "".join(letters) + "\n")
    return path


INNER = exons([(2_101, 2_200), (2_301, 2_400)], 'gene_id "I"; transcript_id "I.1";')
ACROSS = exons([PAIR[0], FAR[0]], IDS)


@pytest.mark.parametrize("ends", ["GTAG", "GCAG", "ATAC"])
def test_intron_over_a_gene__with_known_ends_stays(tmp_path: Path, ends: str) -> None:
    annotation = made(tmp_path, INNER + ACROSS, ends=ends)
    summary = build(tmp_path / "genome.fa", annotation, tmp_path / "out")
    assert (summary.n_introns, summary.left_out_introns) == (2, ())


def test_intron_over_a_gene__with_other_ends_is_left_out_and_named(tmp_path: Path) -> None:
    annotation = made(tmp_path, INNER, ends="GTAG")
    annotation.write_text(INNER + ACROSS)
    summary = build(tmp_path / "genome.fa", annotation, tmp_path / "out")
    assert (summary.n_introns, summary.n_clusters) == (1, 1)
    assert summary.left_out_introns == ("G (c1:201-50,100)",)
    assert "introns that span a whole gene without GT..AG, left out: 1 (G (c1:201-50,100))" in summary.warnings


def test_gene_over_the_origin_of_a_circle__is_left_out_and_named(tmp_path: Path) -> None:
    region = row("c1", "region", 1, 60_000, "+", "ID=c1;Is_circular=true")
    text = INNER + row("c1", "exon", 59_900, 60_200, "+", 'gene_id "ORI"; transcript_id "O";')
    annotation = made(tmp_path, region + text)
    summary = build(tmp_path / "genome.fa", annotation, tmp_path / "out")
    assert (summary.genes_beyond_origin, summary.n_genes, summary.n_donors) == (("ORI",), 1, 1)
    made(tmp_path, text)
    with pytest.raises(DataError, match="gene ORI ends at 60,200, but contig c1"):
        build(tmp_path / "genome.fa", annotation, tmp_path / "other")
