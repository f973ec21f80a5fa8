"""Tests of which positions become rows."""

import numpy as np
import pytest

from mi_duck.errors import DataError
from mi_duck.genome.annotation import Gene, StrandSites, strand_sites
from mi_duck.genome.candidates import Candidates, complete_genes, draw_candidates, gene_key
from mi_duck.genome.sequence import encode, reverse_complement

LETTERS = np.random.default_rng(5).integers(0, 4, 5_000).astype(np.uint8)


def gene(strand: str = "+", end: int = 3_000, gene_id: str = "A") -> Gene:
    return Gene(gene_id, "", "", "c", strand, 1_001, end, 1, 3, ((1_100, 1_201), (1_300, 1_401)))


def draw(
    one: Gene,
    sites: StrandSites | None = None,
    *,
    letters: np.ndarray = LETTERS,
    per_site: float = 9,
    hard: float = 0.5,
    complete: bool = False,
    seed: int = 42,
) -> Candidates:
    found = sites or strand_sites([one])["c", one.strand]
    return draw_candidates(
        one,
        letters,
        found,
        negatives_per_site=per_site,
        hard_negatives=hard,
        is_complete=complete,
        seed=seed,
    )


def test_rows__are_all_sites_and_the_asked_negatives() -> None:
    rows = draw(gene())
    # donors 1100 and 1300, acceptors 1201 and 1401, counted from 1001; 4 sites x 9 negatives
    assert rows.offsets[rows.labels == 1].tolist() == [99, 299]
    assert rows.offsets[rows.labels == 2].tolist() == [200, 400]
    assert np.bincount(rows.labels).tolist() == [36, 2, 2]
    assert (np.diff(rows.offsets) > 0).all()
    assert rows.offsets[-1] < 2_000


def test_rows__of_the_minus_strand_are_counted_from_its_end() -> None:
    rows = draw(gene("-"))
    # donors 1201 and 1401, counted back from 3000
    assert rows.offsets[rows.labels == 1].tolist() == [1_599, 1_799]
    assert rows.offsets[rows.labels == 2].tolist() == [1_700, 1_900]


def test_half_of_the_hard_negatives__are_decoys_and_half_near_sites() -> None:
    rows = draw(gene(), hard=1.0, per_site=20)  # 80 hard ones: 40 decoys, 40 neighbours
    negatives = rows.offsets[rows.labels == 0]
    text = "".join("ACGT"[code] for code in LETTERS[1_000:3_010])
    is_decoy = np.array(
        [text[i + 1 : i + 3] == "GT" or LETTERS[998 + i : 1_000 + i].tolist() == [0, 2] for i in negatives]
    )
    is_near = np.abs(negatives[:, None] - np.array([99, 200, 299, 400])).min(axis=1) <= 50
    assert len(negatives) == 80
    assert (is_decoy | is_near).all()
    assert is_decoy.sum() >= 40
    assert is_near.sum() >= 40
    easy = draw(gene(), hard=0.0, per_site=20)
    assert len(easy.offsets) == len(rows.offsets)
    # 2 of 16 dinucleotides are decoys: about 12 % of uniform negatives
    assert (np.abs(easy.offsets[:, None] - np.array([99, 200, 299, 400])).min(axis=1) <= 50).mean() < 0.5


def test_decoys__are_read_along_the_strand() -> None:
    plus, minus = gene(end=3_000), gene("-", end=3_000)
    mirrored = Gene("A", "", "", "c", "+", 2_001, 4_000, 1, 3, ((3_600, 3_701), (3_800, 3_901)))
    assert plus.end - plus.start == mirrored.end - mirrored.start
    # the contig has 5,000 nt: position p of one strand is 5,001 - p of the other
    there = draw(mirrored, letters=reverse_complement(LETTERS), hard=1.0)
    here = draw(minus, hard=1.0)
    assert here.offsets.tolist() == there.offsets.tolist()
    assert here.labels.tolist() == there.labels.tolist()


def test_sites_of_other_genes__are_rows_and_never_negatives() -> None:
    other = Gene("B", "", "", "c", "+", 900, 4_000, 1, 2, ((1_150, 2_001),))
    sites = strand_sites([gene(), other])["c", "+"]
    rows = draw(gene(), sites, complete=True)
    assert rows.labels[[149, 1_000]].tolist() == [1, 2]
    assert np.bincount(draw(gene(), sites).labels).tolist() == [54, 3, 3]  # 6 sites x 9


def test_positions_that_are_both__are_left_out() -> None:
    other = Gene("B", "", "", "c", "+", 900, 4_000, 1, 2, ((1_201, 1_500),))
    rows = draw(gene(), strand_sites([gene(), other])["c", "+"], complete=True)
    assert len(rows.offsets) == 1_999
    assert 200 not in rows.offsets


def test_short_gene__gives_what_it_has() -> None:
    short = Gene("A", "", "", "c", "+", 101, 150, 1, 2, ((110, 141),))
    rows = draw(short, per_site=1_000)
    assert rows.offsets.tolist() == list(range(50))


def test_draw__depends_on_seed_and_gene_alone() -> None:
    assert draw(gene()).offsets.tolist() == draw(gene()).offsets.tolist()
    assert draw(gene()).offsets.tolist() != draw(gene(), seed=43).offsets.tolist()
    assert draw(gene()).offsets.tolist() != draw(gene(gene_id="B")).offsets.tolist()


def test_unknown_letters__make_no_decoys() -> None:
    rows = draw(gene(), letters=encode("N" * 3_000), hard=1.0)
    # 18 decoys cannot be had: the rest is uniform, the number stays
    assert len(rows.offsets) == 40


def test_complete_genes__are_the_first_by_key_among_the_short_ones() -> None:
    genes = [gene(gene_id=f"g{i}") for i in range(20)]
    long = Gene("long", "", "", "c", "+", 1, 20_001, 1, 2, ())
    chosen = complete_genes([*genes, long], 5, 42)
    assert chosen == complete_genes([long, *genes[::-1]], 5, 42)
    limit = max(gene_key(gene_id, 42) for gene_id in chosen)
    assert sum(gene_key(one.gene_id, 42) <= limit for one in genes) == 5
    with pytest.raises(DataError, match="only 20 genes have at most 20,000 nt"):
        complete_genes([*genes, long], 21, 42)
