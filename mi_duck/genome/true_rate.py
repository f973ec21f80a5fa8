"""Every position of annotated genes with its label and its scores: what scores at the true rate are made of."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_duck.data.dataset import CLASSES
from mi_duck.genome.annotation import Gene, StrandSites, strand_sites
from mi_duck.genome.candidates import gene_key
from mi_duck.genome.scan import Scored, Scorer, scan
from mi_duck.genome.score_files import ScoreTable
from mi_duck.genome.survey import Survey
from mi_duck.genome.targets import Targets, contig_lengths, targets_of_genes
from mi_duck.metrics.true_rate import NEXT, kinds_of_errors
from mi_duck.processes import Report


@dataclass(frozen=True, slots=True, eq=False)
class Positions:
    """All positions of the scored genes; those that are donor and acceptor at once are left out.

    Attributes
    ----------
    labels, groups
        (n,) class and fold group as numbers from 0.
    parts
        (n,) the fold whose ensemble scored the position; -1 of those that the model itself scored.
    probabilities, base
        (n, 3) float32, in the order of `CLASSES`; base scores that are missing are 0.
    kinds
        Of each site (n,): which kind of error calling it would be; see `mi_duck.metrics.true_rate.KINDS`.
    n_genes
        Genes scored.
    """

    labels: NDArray[np.int8]
    groups: NDArray[np.int32]
    parts: NDArray[np.int8]
    probabilities: NDArray[np.float32]
    base: NDArray[np.float32]
    kinds: dict[str, NDArray[np.int8]]
    n_genes: int


def chosen_genes(
    found: Survey,
    n_genes: int,
    is_allowed: Callable[[Gene], bool],
    seed: int,
    *,
    fold_of: Callable[[str], int | None] = lambda gene_id: None,
    most_positions: int | None = None,
) -> list[Gene]:
    """Return genes with introns, in the order of the genome.

    They are drawn by a hash of the seed and the name, in turn from each fold, until there are as many genes as wanted, or
    positions in them.
    """
    allowed = [gene for gene in found.genes if gene.introns and is_allowed(gene)]
    drawn = sorted(allowed, key=lambda gene: (gene_key(gene.gene_id, seed), gene.gene_id))
    turn: Counter[int | None] = Counter()
    keys = []
    for gene in drawn:
        turn[fold := fold_of(gene.gene_id)] += 1
        keys.append((turn[fold], -1 if fold is None else fold))
    in_turn = [gene for _, gene in sorted(zip(keys, drawn, strict=True), key=lambda one: one[0])]
    names: set[str] = set()
    n_positions = 0
    for gene in in_turn[:n_genes]:
        if most_positions is not None and n_positions >= most_positions:
            break
        names.add(gene.gene_id)
        n_positions += gene.end - gene.start + 1
    return [gene for gene in allowed if gene.gene_id in names]


def score_positions(
    fasta: Path,
    found: Survey,
    genes: list[Gene],
    scorer_of: Callable[[str], Scorer],
    group_of: Callable[[str], str],
    fold_of: Callable[[str], int | None],
    *,
    table: ScoreTable | None,
    threads: int,
    report: Report,
) -> Positions:
    """Score every position of genes, each by what ``scorer_of`` gives for its id.

    ``group_of`` and ``fold_of`` give its fold group and fold, as in `Positions`.
    """
    names = {gene.gene_id for gene in genes}
    every = targets_of_genes(fasta, found.genes, contig_lengths(fasta))
    own = {chrom: tuple(one for one in those if one.gene_id in names) for chrom, those in every.by_contig.items()}
    targets = Targets({chrom: those for chrom, those in own.items() if those}, every.lengths)
    sites = strand_sites(found.genes)
    codes = {name: code for code, name in enumerate(sorted({group_of(name) for name in names}))}
    pieces = []
    done = 0
    for part in scan(fasta, targets, lambda target: scorer_of(str(target.gene_id)), table=table, threads=threads):
        for one in part:
            name = str(one.target.gene_id)
            fold = fold_of(name)
            where = codes[group_of(name)], -1 if fold is None else fold
            pieces.append(_labelled(one, sites[one.target.chrom, one.target.strand], *where))
            done += one.n_positions
        report("scoring every position", done, targets.n_positions)
    labels, groups, parts, probabilities, base, *kinds = (np.concatenate(some) for some in zip(*pieces, strict=True))
    return Positions(labels, groups, parts, probabilities, base, dict(zip(CLASSES[1:], kinds, strict=True)), len(genes))


def _labelled(scored: Scored, sites: StrandSites, code: int, part: int) -> tuple[NDArray[Any], ...]:
    positions = scored.positions
    labels = np.zeros(len(positions), np.int8)
    for label, own in ((1, sites.donors), (2, sites.acceptors)):
        labels[np.isin(positions, own)] = label
    kinds = [
        kinds_of_errors(labels, label, _is_next(positions, own), scored.has_letters[:, label - 1])
        for label, own in ((1, sites.donors), (2, sites.acceptors))
    ]
    kept = ~np.isin(positions, sites.ambiguous)
    groups = np.full(len(positions), code, np.int32)
    parts = np.full(len(positions), part, np.int8)
    columns: tuple[NDArray[Any], ...] = (
        labels,
        groups,
        parts,
        scored.probabilities,
        np.nan_to_num(scored.base),
        *kinds,
    )
    return tuple(column[kept] for column in columns)


def _is_next(positions: NDArray[np.int64], sites: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark positions within `NEXT` nt of a site that are none themselves."""
    near = np.concatenate([sites + shift for shift in range(-NEXT, NEXT + 1) if shift])
    return np.isin(positions, near) & ~np.isin(positions, sites)
