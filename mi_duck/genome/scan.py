"""Sequence to scored positions: the features of every position of genes, regions or contigs, and what a model makes of them.

One contig is in memory at a time, and a few blocks of some thousand positions. Whatever threads work on them, blocks come back
in their order, that of the targets.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import dropwhile, takewhile
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mi_duck.boosting.forest import Forest
from mi_duck.data.dataset import CLASSES
from mi_duck.ensemble.predict import TRAINED_ON, in_order
from mi_duck.genome.base_scores import BaseScores, SiteMatrices
from mi_duck.genome.score_files import ScoreTable
from mi_duck.genome.sequence import Contig, Letters, read_fasta
from mi_duck.genome.span_features import FeaturePlan, Span, base_scores_of, cut_span, span_matrix
from mi_duck.genome.targets import Target, Targets

BLOCK_BYTES = 8 << 20
"""Of the matrix of a block; a thread needs some five times as much."""
MOST_POSITIONS = 8192
"""Of a block."""
PART_POSITIONS = 1 << 16
"""Positions after which a part of the result is saved."""
_A, _G, _T = 0, 2, 3


@dataclass(frozen=True, slots=True, eq=False)
class Scorer:
    """What turns the letters of a span into probabilities.

    Attributes
    ----------
    plan, forest
        The features that the trees look at, in the order of the forest, and the trees.
    join
        From margins, shape (n, n_outputs of the forest), to probabilities, shape (n, 3), classes in the order of `CLASSES`.
    matrices, fold
        The base model and which of its folds scores; None where base scores come from files.
    """

    plan: FeaturePlan
    forest: Forest
    join: Callable[[NDArray[np.float32]], NDArray[np.floating]]
    matrices: SiteMatrices | None
    fold: int


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """Some positions of one target, ascending on the forward strand.

    Attributes
    ----------
    positions
        (n,) int64, 1-based.
    probabilities
        (n, 3) float32, in the order of `CLASSES`.
    base
        (n, 3) float32, base scores in that order; NaN where there is none.
    has_letters
        (n, 2) bool, along the strand: whether GT follows, as after donors, and whether AG precedes, as before acceptors.
    n_positions
        Positions looked at; more than n where only candidates are scored.
    """

    target: Target
    positions: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    base: NDArray[np.float32]
    has_letters: NDArray[np.bool_]
    n_positions: int


def scan(
    fasta: Path,
    targets: Targets,
    scorer_of: Callable[[Target], Scorer],
    *,
    table: ScoreTable | None = None,
    only_gt_ag: bool = False,
    n_parts_done: int = 0,
    threads: int = 1,
) -> Iterator[list[Scored]]:
    """Score all targets, and yield them part by part: `PART_POSITIONS` positions or a few more, the last part fewer.

    Parameters
    ----------
    table
        Base scores of files, where they do not come from weight matrices.
    only_gt_ag
        Score only positions that GT follows or AG precedes, along the strand.
    n_parts_done
        Parts to pass over, which an earlier call has scored.

    Notes
    -----
    The parts are the same whatever the threads, and wherever an earlier call ended.
    """
    blocks = _blocks(fasta, targets, scorer_of, n_parts_done)
    part: list[Scored] = []
    for is_last, scored in in_order(lambda block: _score(block, table, only_gt_ag), blocks, threads):
        part.append(scored)
        if is_last:
            yield part
            part = []
    if part:
        yield part


@dataclass(frozen=True, slots=True, eq=False)
class _Block:
    target: Target
    span: Span
    scorer: Scorer
    is_last: bool


@dataclass(frozen=True, slots=True)
class _Piece:
    """The positions of a block, and which part it belongs to."""

    target: Target
    scorer: Scorer
    start: int
    end: int
    part: int
    is_last: bool


def _pieces(targets: Targets, scorer_of: Callable[[Target], Scorer]) -> Iterator[_Piece]:
    """Yield the blocks of all targets without their letters; the last one of a part says so."""
    part = n_in_part = 0
    for target in targets:
        scorer = scorer_of(target)
        size = max(256, min(MOST_POSITIONS, BLOCK_BYTES // (4 * len(scorer.plan.features))))
        for start in range(target.start, target.end + 1, size):
            end = min(start + size - 1, target.end)
            n_in_part += end - start + 1
            is_last = n_in_part >= PART_POSITIONS
            yield _Piece(target, scorer, start, end, part, is_last)
            if is_last:
                part, n_in_part = part + 1, 0


def positions_of_parts(targets: Targets, scorer_of: Callable[[Target], Scorer], n_parts: int) -> int:
    """Return how many positions the first parts of `scan` have."""
    return sum(
        one.end - one.start + 1 for one in takewhile(lambda one: one.part < n_parts, _pieces(targets, scorer_of))
    )


def _blocks(
    fasta: Path, targets: Targets, scorer_of: Callable[[Target], Scorer], n_parts_done: int
) -> Iterator[_Block]:
    """Yield all blocks after the parts that are done."""
    contigs = read_fasta(fasta)
    contig: Contig | None = None
    for one in dropwhile(lambda one: one.part < n_parts_done, _pieces(targets, scorer_of)):
        while contig is None or contig.name != one.target.chrom:  # targets are in the order of the contigs
            contig = next(contigs)
        window, facts = one.scorer.plan.window, one.target.facts
        span = cut_span(contig.letters, one.target.strand, one.start, one.end, window=window, gene=facts)
        yield _Block(one.target, span, one.scorer, one.is_last)


def _score(block: _Block, table: ScoreTable | None, only_gt_ag: bool) -> tuple[bool, Scored]:
    span, scorer = block.span, block.scorer
    n, window = span.end - span.start + 1, scorer.plan.window
    if scorer.matrices is None:
        positions = span.positions
        scores = _missing(n) if table is None else table.around(block.target.chrom, span.strand, positions)
    else:
        scores = base_scores_of(scorer.matrices, span, fold=scorer.fold, window=window)
    has_letters = _has_letters(span.letters, n, window)
    rows = np.flatnonzero(has_letters.any(axis=1)) if only_gt_ag else np.arange(n)
    matrix = span_matrix(scorer.plan, span, scores)
    probabilities = scorer.join(scorer.forest.margins_of_used(matrix[rows] if only_gt_ag else matrix))
    base = np.stack([getattr(scores, name) for name in CLASSES], axis=1)[rows]
    forward = slice(None) if span.strand == "+" else slice(None, None, -1)
    return block.is_last, Scored(
        block.target,
        span.positions[rows][forward],
        probabilities.astype(np.float32)[forward],
        base.astype(np.float32)[forward],
        has_letters[rows][forward],
        n,
    )


def _missing(n: int) -> BaseScores:
    nothing = np.full(n, np.nan)
    return BaseScores(nothing, nothing, nothing, np.full((n, 4), np.nan))


def _has_letters(letters: Letters, n: int, window: int) -> NDArray[np.bool_]:
    """Return, along the strand, whether GT follows each position (as donors), and AG precedes it (as acceptors): (n, 2)."""
    half = window // 2  # where the first position is

    def at(offset: int, letter: int) -> NDArray[np.bool_]:
        return np.asarray(letters[half + offset : half + offset + n] == letter)

    return np.stack([at(1, _G) & at(2, _T), at(-2, _A) & at(-1, _G)], axis=1)


def score_table(scored: Scored, is_trained: Mapping[str, bool] | None, least: float) -> pa.Table:
    """Return scored positions as rows, those left out where neither kind of site reaches ``least``.

    Parameters
    ----------
    is_trained
        Whether the model was trained on each gene; None where that is not known, or there are no genes.

    Returns
    -------
    pyarrow.Table
        ``chrom``, ``absolute_position`` (1-based), ``strand``, of genes ``gene_id``, then ``p_CLASS``, ``prediction``, the base
        model's ``CLASS_score`` of both sites, and of genes ``trained_on``.
    """
    target, probabilities, base = scored.target, scored.probabilities, scored.base
    rows = np.flatnonzero(probabilities[:, 1:].max(axis=1, initial=0) >= least)
    n = len(rows)

    def same(value: str | None) -> pa.Array:
        return pa.repeat(pa.scalar(value, pa.string()), n)

    columns = {"chrom": same(target.chrom), "absolute_position": pa.array(scored.positions[rows].astype(np.int32))}
    columns["strand"] = same(target.strand)
    if target.gene_id is not None:
        columns["gene_id"] = same(target.gene_id)
    columns |= {f"p_{name}": pa.array(probabilities[rows, index]) for index, name in enumerate(CLASSES)}
    columns["prediction"] = pa.array(CLASSES).take(pa.array(probabilities[rows].argmax(axis=1)))
    for index in (1, 2):
        columns[f"{CLASSES[index]}_score"] = pa.array(base[rows, index], mask=np.isnan(base[rows, index]))
    if target.gene_id is not None:
        known = None if is_trained is None else is_trained[target.gene_id]
        columns[TRAINED_ON] = pa.repeat(pa.scalar(known, pa.bool_()), n)
    return pa.table(columns)
