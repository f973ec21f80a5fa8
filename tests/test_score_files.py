"""Base scores in many formats, and positions that are shifted: found, named, and mended only when that is asked for."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from mi_duck.errors import DataError
from mi_duck.genome.annotation import Gene
from mi_duck.genome.score_files import ScoreTable, checked_scores, read_base_scores, site_means

INTRONS = tuple((1_000 * n + 100, 1_000 * n + 301) for n in range(1, 9))
GENES = [
    Gene("P", "", "", "c", "+", 1_000, 9_000, 1, 9, INTRONS),
    Gene("M", "", "", "c", "-", 1_000, 9_000, 1, 9, INTRONS),
]
"""A gene on each strand with the same eight introns: the donors of one are the acceptors of the other."""
SITES = {
    (site, strand): [pair[(site == "donor") ^ (strand == "+")] for pair in INTRONS]
    for site in ("donor", "acceptor")
    for strand in "+-"
}


def peaks(site: str, strand: str, *, shift: int = 0) -> dict[int, float]:
    """Return scores around every site of a class and strand, highest at the site, moved along the strand."""
    downstream = 1 if strand == "+" else -1
    return {
        position + step + shift * downstream: 0.9 if step == 0 else 0.05
        for position in SITES[site, strand]
        for step in range(-4, 5)
    }


def table(tmp_path: Path, *, move: dict[tuple[str, str], int] | None = None, name: str = "scores.tsv") -> Path:
    """Write a table whose scores of a class and strand are moved along the strand."""
    lines = ["chrom\tposition\tstrand\tdonor_score\tacceptor_score"]
    for strand in "+-":
        donor, acceptor = (
            peaks(site, strand, shift=(move or {}).get((site, strand), 0)) for site in ("donor", "acceptor")
        )
        for position in sorted(donor.keys() | acceptor.keys()):
            lines.append(f"c\t{position}\t{strand}\t{donor.get(position, 0.01)}\t{acceptor.get(position, 0.01)}")
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n")
    return path


def read(*files: str | Path, offsets: tuple[str, ...] = ()) -> ScoreTable:
    return checked_scores(read_base_scores(files, GENES, offsets), GENES, offsets)[0]


def assert_right(found: ScoreTable) -> None:
    """Check that every site has .9 and its neighbours less."""
    for (site, strand), positions in SITES.items():
        scores = found.at("c", strand, np.array(positions))[:, ("donor", "acceptor").index(site)]
        assert np.allclose(scores, 0.9), (site, strand)
    assert [one.best_shift for one in site_means(found, GENES)] == [0] * 4


def test_table__with_scores_at_the_sites_is_taken_as_it_is(tmp_path: Path) -> None:
    assert_right(read(table(tmp_path)))


SHIFTED = {
    "acceptors one base before the exon": ({("acceptor", "+"): -1, ("acceptor", "-"): -1}, "acceptor=+1"),
    "donors at the first base of the intron": ({("donor", "+"): 1, ("donor", "-"): 1}, "donor=-1"),
    "positions from 0": (
        {("donor", "+"): -1, ("donor", "-"): 1, ("acceptor", "+"): -1, ("acceptor", "-"): 1},
        "donor+=+1 --base-score-offset donor-=-1 --base-score-offset acceptor+=+1 --base-score-offset acceptor-=-1",
    ),
    "two bases off": ({("donor", "+"): 2, ("donor", "-"): 2}, "donor=-2"),
}


@pytest.mark.parametrize("fault", SHIFTED)
def test_shift__is_refused_with_the_option_that_mends_it(tmp_path: Path, fault: str) -> None:
    move, option = SHIFTED[fault]
    path = table(tmp_path, move=move)
    with pytest.raises(DataError, match="are shifted") as refused:
        read(path)
    assert f"give --base-score-offset {option}, or auto" in str(refused.value)
    assert_right(read(path, offsets=("auto",)))
    words = option.replace(" --base-score-offset ", " ").split()
    assert_right(read(path, offsets=tuple(words)))


def test_offset__that_is_given_is_taken_even_where_it_is_wrong(tmp_path: Path) -> None:
    found, means = checked_scores(read_base_scores([table(tmp_path)], GENES, ["donor=+1"]), GENES, ["donor=+1"])
    assert {(one.site, one.strand): one.best_shift for one in means} == {
        ("donor", "+"): 1,
        ("donor", "-"): 1,
        ("acceptor", "+"): 0,
        ("acceptor", "-"): 0,
    }
    assert found.offsets == {("donor", "+"): 1, ("donor", "-"): 1}


def test_scores_without_a_peak__are_neither_shifted_nor_refused(tmp_path: Path) -> None:
    rows = [f"c\t{position}\t{strand}\t0.2\t0.2" for strand in "+-" for position in range(1_000, 9_001)]
    path = tmp_path / "flat.tsv"
    path.write_text("chrom\tposition\tstrand\tdonor_score\tacceptor_score\n" + "\n".join(rows) + "\n")
    assert read(path, offsets=("auto",)).offsets == {}
    assert read(path).offsets == {}


@pytest.mark.parametrize("offset", ["acceptor", "acceptor=1.5", "neither=+1", "donor=+99", "Donor=1", ""])
def test_offset__that_makes_no_sense_is_refused(tmp_path: Path, offset: str) -> None:
    with pytest.raises(DataError, match="is not an offset; give auto"):
        read(table(tmp_path), offsets=(offset,))


# ---- formats ----------------------------------------------------------------------------------------------------------


def bed(tmp_path: Path, sites: tuple[str, ...] = ("donor", "acceptor"), *, name: str = "x.bed", scale: int = 1) -> Path:
    path = tmp_path / name
    path.write_text(
        "browser position c\ntrack name=x\n"
        + "".join(
            f"c\t{position - 1}\t{position}\tc_{site.title()}\t{round(score * scale, 4):g}\t{strand}\n"
            for site in sites
            for strand in "+-"
            for position, score in peaks(site, strand).items()
        )
    )
    return path


def test_bed__of_one_class_each_are_united(tmp_path: Path) -> None:
    donors, acceptors = bed(tmp_path, ("donor",), name="d.bed"), bed(tmp_path, ("acceptor",), name="a.bed")
    assert_right(read(donors, acceptors))
    assert_right(read(acceptors, donors))
    assert_right(read(bed(tmp_path, scale=1000)))
    with pytest.raises(DataError, match="d.bed has no acceptor score in any gene.*repeat --base-scores"):
        read(donors)


def test_bed__of_scores_that_are_no_probabilities_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "odds.bed"
    path.write_text("c\t1099\t1100\tdonor\t5.5\t+\nc\t1300\t1301\tacceptor\t-2\t+\n")
    with pytest.raises(DataError, match="run from -2 to 5.5; give probabilities"):
        read(path)


def graphs(tmp_path: Path, suffix: str = ".bedGraph", packed: bool = False) -> list[Path]:
    """Write a bedGraph for each class and strand; scores of neighbours that are equal share a line."""
    found = []
    for site in ("donor", "acceptor"):
        for strand, word in (("+", "plus"), ("-", "minus")):
            text = "track type=bedGraph\n"
            for position in SITES[site, strand]:
                text += f"c\t{position - 5}\t{position - 1}\t0.05\nc\t{position - 1}\t{position}\t0.9\n"
                text += f"c\t{position}\t{position + 4}\t0.05\n"
            path = tmp_path / f"model_{site}_{word}{suffix}"
            path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
            found.append(path)
    return found


@pytest.mark.parametrize("packed", [False, True])
def test_bedgraph__tells_class_and_strand_by_its_name(tmp_path: Path, packed: bool) -> None:
    assert_right(read(*graphs(tmp_path, packed=packed)))


def test_bedgraph__may_be_told_its_class_and_strand(tmp_path: Path) -> None:
    files = graphs(tmp_path, ".bg")
    renamed = [path.rename(tmp_path / f"{number}.bg") for number, path in enumerate(files)]
    with pytest.raises(DataError, match=r"does not tell which; give it as donor\+="):
        read(*renamed)
    sides = ["donor+", "donor-", "acceptor+", "acceptor-"]
    assert_right(read(*(f"{side}={path}" for side, path in zip(sides, renamed, strict=True))))


def test_bigwig__gives_the_scores_of_its_bedgraph(tmp_path: Path) -> None:
    pybigtools = pytest.importorskip("pybigtools")
    files = []
    for site in ("donor", "acceptor"):
        for strand, word in (("+", "fwd"), ("-", "rev")):
            rows = sorted((position - 1, position, score) for position, score in peaks(site, strand).items())
            path = tmp_path / f"{site}.{word}.bw"
            writer = pybigtools.open(str(path), "w")
            writer.write({"c": 20_000, "d": 100}, iter([("c", *row) for row in rows]))
            files.append(path)
    found = read(*files)
    scores = found.at("c", "+", np.array(SITES["donor", "+"]))
    assert np.allclose(scores[:, 0], 0.9)  # single precision
    assert [one.best_shift for one in site_means(found, GENES)] == [0] * 4


def test_table__may_have_commas_comments_and_dots(tmp_path: Path) -> None:
    lines = table(tmp_path).read_text().splitlines()
    text = (
        "# made by a model\n## of last year\n" + "\n".join(lines[:3] + ["# more"] + lines[3:]) + "\nc\t1500\t+\t.\t.\n"
    )
    path = tmp_path / "scores.csv"
    path.write_text(text.replace("\t", ","))
    found = read(path)
    assert_right(found)
    assert np.isnan(found.at("c", "+", np.array([1_500]))).all()
    hashed = tmp_path / "hashed.tsv.gz"
    hashed.write_bytes(gzip.compress(("#" + "\n".join(lines) + "\n").encode()))
    assert_right(read(hashed))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("##fileformat=VCFv4.2\n#CHROM\tPOS\n", "it is VCF, which has scores of variants, not of positions"),
        ("", "it has no line of scores"),
        ("# only a comment\n", "it has no line of scores"),
        ("c\t10\t11\tx\n", "neither Parquet"),
        (">c\nACGT\n", "neither Parquet"),
        ("c\t1100\t1101\tdonor\thigh\t+\n", "Could not convert string 'high'"),
    ],
)
def test_file_of_something_else__is_refused_with_what_it_is(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "scores"
    path.write_text(text)
    with pytest.raises(DataError, match="cannot read the scores in") as refused:
        read(path)
    assert words in str(refused.value)
