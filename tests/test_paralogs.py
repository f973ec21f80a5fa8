"""Copies of genes are found by their transcripts, on both strands, and joined into one fold group."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from runs import assert_refused, call
from test_genome import COMPLEMENT, rows

from mi_duck.data.dataset import open_dataset
from mi_duck.genome.build import build

IS_THERE = find_spec("mappy") is not None
EXONS = ((0, 299), (500, 799), (1_000, 1_299))
MUTATED = {"G0": 0.0, "copy": 0.1, "far": 0.4, "other": 1.0}
"""Share of the letters of each gene's exons that differ from those of the first gene; introns all differ."""


@pytest.fixture
def family(tmp_path: Path) -> Path:
    """Folder with a gene, a copy on the other strand, a gene that is too far from both, and one that is no relative."""
    rng = np.random.default_rng(3)
    first = rng.choice(list("ACGT"), 1_300)
    contig = rng.choice(list("ACGT"), 20_000)
    lines = []
    for number, (gene, share) in enumerate(MUTATED.items()):
        start, strand = 1_000 + 4_000 * number, "+-"[number % 2]
        text = np.where(rng.random(1_300) < share, rng.choice(list("ACGT"), 1_300), first)
        for left, right in ((300, 500), (800, 1_000)):
            text[left:right] = rng.choice(list("ACGT"), 200)
            text[left : left + 2], text[right - 2 : right] = list("GT"), list("AG")
        if strand == "-":
            text = np.array(list("".join(text[::-1]).translate(COMPLEMENT)))
        contig[start - 1 : start + 1_299] = text
        for begin, end in EXONS if strand == "+" else [(1_299 - end, 1_299 - begin) for begin, end in EXONS]:
            line = ["c1", "test", "exon", start + begin, start + end, ".", strand, ".", f'gene_id "{gene}";']
            lines.append("\t".join(map(str, line)))
    (tmp_path / "genome.fa").write_text(">c1\n" + "".join(contig) + "\n")
    (tmp_path / "genes.gtf").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.mark.skipif(not IS_THERE, reason="mappy is not installed")
def test_paralogs__are_one_fold_group(family: Path) -> None:
    summary = build(family / "genome.fa", family / "genes.gtf", family / "data", paralogs=True)
    table = rows(family / "data")
    group = dict(zip(table["gene_id"].to_pylist(), table["paralog_group"].to_pylist(), strict=True))
    cluster = dict(zip(table["gene_id"].to_pylist(), table["overlap_cluster"].to_pylist(), strict=True))
    assert len(set(cluster.values())) == 4
    assert group["G0"] == group["copy"] == min(cluster["G0"], cluster["copy"])
    assert (group["far"], group["other"]) == (cluster["far"], cluster["other"])
    assert (summary.n_paralog_groups, summary.n_genes_with_paralogs) == (3, 2)
    assert open_dataset(str(family / "data")).fold_column == "paralog_group"
    assert "paralog_group" not in open_dataset(str(family / "data"), fold_by="overlap_cluster").features


@pytest.mark.skipif(IS_THERE, reason="mappy is installed")
def test_paralogs__need_an_aligner(family: Path) -> None:
    files = ("--fasta", family / "genome.fa", "--annotation", family / "genes.gtf", "--out", family / "data")
    assert_refused(call("build", *files, "--paralogs"), 65, "pip install 'mi-duck[paralogs]'")
    assert not (family / "data").exists()
