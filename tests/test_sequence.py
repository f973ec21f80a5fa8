"""Tests of reading FASTA, cutting windows and counting k-mers."""

import gzip
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mi_duck.errors import DataError
from mi_duck.genome import sequence
from mi_duck.genome.sequence import count_kmers, encode, kmer_names, read_fasta, reverse_complement, stretch, windows


def contigs(path: Path) -> list[tuple[str, list[int]]]:
    return [(contig.name, contig.letters.tolist()) for contig in read_fasta(path)]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_fasta__names_are_first_words_and_case_and_lines_do_not_matter(tmp_path: Path, line_end: str) -> None:
    path = tmp_path / "genome.fa"
    path.write_bytes(line_end.join([">c1 first > one", "ACgt", "", "nR", ">c2", ">c3\tx", "u-A"]).encode())
    assert contigs(path) == [("c1", [0, 1, 2, 3, 4, 4]), ("c2", []), ("c3", [3, 4, 0])]


@pytest.mark.parametrize("block", [1, 2, 7, 64])
def test_fasta__does_not_depend_on_the_block_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    path = tmp_path / "genome.fa.gz"
    path.write_bytes(gzip.compress(b">a x\nACGTACGT\nAC\n>b\nGG\n\n>c\nT"))
    expected = [("a", [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]), ("b", [2, 2]), ("c", [3])]
    monkeypatch.setattr(sequence, "_BLOCK_BYTES", block)
    assert contigs(path) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\), not FASTA"),
        (b"\n\n", "the file is empty"),
        (b"ACGT\n", "not FASTA: it begins with b'ACGT'"),
        (b"@read\nACGT\n+\nIIII\n", "not FASTA"),
        (b">a\nACGT\n>a\nAC\n", "contig a twice"),
        (b">a\nAC\n> \nAC\n", "without a name .* after contig a"),
        (b">p\nMKLV\nEEE\n", "letter 3 of contig p"),  # M and K are IUPAC letters, L is not
        (b">a\nAC>GT\n", "'>' within a sequence line of contig a"),
    ],
)
def test_bad_fasta__is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "genome.fa"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        contigs(path)


def test_windows__lie_round_the_position_on_the_strand() -> None:
    letters = encode("AACCGGTTAC")
    # position 5 (G): upstream CC, then G and G; reversed: G at 5, before it C and G of the other strand
    assert windows(letters, np.array([5]), "+", 4).tolist() == [encode("CCGG").tolist()]
    # minus strand of positions 7 6 5 4: A C C G
    assert windows(letters, np.array([5]), "-", 4).tolist() == [encode("ACCG").tolist()]


def test_windows__beyond_the_contig_are_unknown() -> None:
    letters = encode("ACGT")
    assert windows(letters, np.array([1, 4]), "+", 6).tolist() == [
        encode("NNNACG").tolist(),
        encode("ACGTNN").tolist(),
    ]
    # the minus strand reads ACGT too: position 1 is its last letter, position 4 its first
    assert windows(letters, np.array([1, 4]), "-", 6).tolist() == [
        encode("ACGTNN").tolist(),
        encode("NNNACG").tolist(),
    ]
    assert windows(letters, np.array([], np.int64), "+", 6).shape == (0, 6)
    assert stretch(letters, -1, 2).tolist() == encode("NNAC").tolist()


def test_windows__of_the_minus_strand_are_those_of_the_reversed_contig() -> None:
    rng = np.random.default_rng(1)
    letters = rng.integers(0, 5, 300).astype(np.uint8)
    positions = np.arange(1, 301)
    mirrored = windows(reverse_complement(letters), 301 - positions, "+", 50)
    assert (windows(letters, positions, "-", 50) == mirrored).all()


def test_kmer_counts__equal_counting_by_hand() -> None:
    # AAAAA: three AAA, one AAAAA; ACGTN: ACG and CGT
    counts = count_kmers(np.stack([encode("AAAAA"), encode("ACGTN")]))
    names = kmer_names()
    found = [{name: int(n) for name, n in zip(names, row, strict=True) if n} for row in counts]
    assert found == [{"3mer_AAA": 3, "5mer_AAAAA": 1}, {"3mer_ACG": 1, "3mer_CGT": 1}]


def test_kmer_counts__equal_a_plain_loop() -> None:
    rng = np.random.default_rng(2)
    letters = rng.choice(5, (600, 60), p=[0.3, 0.2, 0.2, 0.29, 0.01]).astype(np.uint8)
    counts = count_kmers(letters)
    names = kmer_names()
    assert counts.shape == (600, 1_088)
    for row in (0, 255, 256, 599):  # around the borders of the batches
        text = "".join("ACGTN"[code] for code in letters[row])
        expected = Counter(
            f"{k}mer_{text[i : i + k]}" for k in (3, 5) for i in range(60 - k + 1) if "N" not in text[i : i + k]
        )
        assert {name: int(n) for name, n in zip(names, counts[row], strict=True) if n} == expected


def test_kmer_counts__stop_at_255() -> None:
    counts = count_kmers(np.zeros((1, 500), np.uint8))
    assert (counts[0, 0], counts[0, 64], counts.sum(dtype=int)) == (255, 255, 510)


def test_kmer_counts__of_short_windows_are_zero() -> None:
    assert count_kmers(encode("AC")[None]).sum() == 0
    assert count_kmers(np.empty((0, 500), np.uint8)).shape == (0, 1_088)
