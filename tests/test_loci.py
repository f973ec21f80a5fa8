"""Tests of splice sites, overlap clusters and overlap counts."""

from mi_duck.genome.loci import Gene, count_overlaps, overlap_clusters, strand_sites


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
