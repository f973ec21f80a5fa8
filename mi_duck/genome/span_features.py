"""The features of every position of a span, as `columns.row_columns` makes them of single rows, for a tenth of the time.

Neighbouring positions have windows that differ by two letters. So each k-mer is marked once along the span, and its count in a
window is the difference of two running sums; weight matrices are summed once at each position, not once for each of the five
positions whose features look at it. Only features that are wanted are made. The numbers are those of the dataset to the last
bit, which ``tests/test_scan.py`` holds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mi_duck.errors import DataError
from mi_duck.genome.base_scores import NEIGHBOURS, BaseScores, SiteMatrices, letter_scores
from mi_duck.genome.columns import complexity
from mi_duck.genome.features import score_features
from mi_duck.genome.sequence import KMER_LENGTHS, Letters, encode, kmer_numbers, reverse_complement, stretch
from mi_duck.run.feature_names import SCORE_FEATURES, SEQUENCE_FEATURES, kmer_of

Floats32 = NDArray[np.float32]
Whole = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """Consecutive positions of one strand whose features are wanted.

    Attributes
    ----------
    strand
        ``+`` or ``-``.
    start, end
        1-based, inclusive, on the forward strand.
    letters
        The span along the strand, with ``window // 2`` letters before and ``window // 2 - 1`` after it; N beyond the contig.
    contig_length
        In nt.
    gene
        Facts of the gene that is scored: ``start``, ``end``, ``num_overlaps``, ``n_transcripts``, ``n_exons``, ``n_introns``.
        Empty where there is no gene.
    """

    strand: str
    start: int
    end: int
    letters: Letters
    contig_length: int
    gene: Mapping[str, int]

    @property
    def positions(self) -> Whole:
        """Positions on the forward strand, in the order of the strand."""
        forward = np.arange(self.start, self.end + 1)
        return forward if self.strand == "+" else forward[::-1]


def cut_span(
    letters: Letters, strand: str, start: int, end: int, *, window: int, gene: Mapping[str, int] | None = None
) -> Span:
    """Cut a span out of the forward strand of a contig."""
    before, after = window // 2, window // 2 - 1
    if strand == "+":
        piece = stretch(letters, start - before, end + after)
    else:
        piece = reverse_complement(stretch(letters, start - after, end + before))
    return Span(strand, start, end, piece, letters.size, gene or {})


@dataclass(frozen=True, slots=True, eq=False)
class FeaturePlan:
    """Which features are wanted, by how they are made.

    Attributes
    ----------
    features
        Their names, in the order of the matrix.
    kmers
        k to (numbers of the k-mers to base 4, columns of the matrix).
    others
        Features that are not k-mers.
    window
        Letters of the window.
    """

    features: tuple[str, ...]
    kmers: Mapping[int, tuple[NDArray[np.uint16], Whole]]
    others: tuple[str, ...]
    window: int

    @property
    def needs_gene(self) -> tuple[str, ...]:
        """Features that do not exist without a gene."""
        return tuple(name for name in self.others if name not in (*SCORE_FEATURES, *SEQUENCE_FEATURES))


def plan_features(features: Sequence[str], window: int, known: Sequence[str]) -> FeaturePlan:
    """Return how to make features.

    Parameters
    ----------
    features
        Names in the order of the matrix.
    window
        Letters of the window.
    known
        All features that the recipe makes.

    Raises
    ------
    DataError
        A feature is none that is made of sequence.
    """
    strange = sorted(set(features) - set(known))
    if strange:
        more = f" and {len(strange) - 5:,} more" if len(strange) > 5 else ""
        raise DataError(
            f"the model needs features that are not made of sequence: {', '.join(strange[:5])}{more}; "
            "predict a dataset that has them"
        )
    kmers: dict[int, tuple[NDArray[np.uint16], Whole]] = {}
    for k in KMER_LENGTHS:
        own = [(column, kmer) for column, name in enumerate(features) if (kmer := kmer_of(name)) and len(kmer) == k]
        if own:
            numbers = kmer_numbers(np.stack([encode(kmer) for _, kmer in own]), k)[:, 0]
            kmers[k] = numbers, np.array([column for column, _ in own])
    return FeaturePlan(tuple(features), kmers, tuple(name for name in features if kmer_of(name) is None), window)


def base_scores_of(matrices: SiteMatrices, span: Span, *, fold: int, window: int) -> BaseScores:
    """Score every position of a span and its neighbours by weight matrices; the order is that of the strand."""
    n, centre = span.end - span.start + 1, window // 2
    first = centre + NEIGHBOURS[0]
    donor, acceptor, neither = letter_scores(matrices, span.letters, first, n + NEIGHBOURS[-1] - NEIGHBOURS[0], fold)
    best = np.maximum(donor, acceptor)
    own = slice(-NEIGHBOURS[0], n - NEIGHBOURS[0])
    context = np.stack([best[shift - NEIGHBOURS[0] :][:n] for shift in NEIGHBOURS], axis=1)
    return BaseScores(donor[own], acceptor[own], neither[own], context)


def span_matrix(plan: FeaturePlan, span: Span, scores: BaseScores) -> Floats32:
    """Return the features of every position, shape (n_positions, n_features), in the order of the strand.

    Parameters
    ----------
    scores
        Base scores of the positions in that order, NaN where there are none.
    """
    n = span.end - span.start + 1
    by_feature = np.empty((len(plan.features), n), np.float32)
    for k, (wanted, columns) in plan.kmers.items():
        numbers = kmer_numbers(span.letters[None, :], k)[0]
        by_feature[columns] = _counts(numbers[None, :] == wanted[:, None], plan.window - k + 1, n)
    column_of = {name: column for column, name in enumerate(plan.features)}
    for name, values in _others(plan, span, scores, n).items():
        by_feature[column_of[name]] = values
    return np.ascontiguousarray(by_feature.T)


def _counts(marks: NDArray[np.bool_], width: int, n: int) -> NDArray[np.uint16]:
    """Count, in each line, the marks among ``width`` from each of the first n positions on; at most 255, as in the dataset."""
    sums = np.zeros((len(marks), marks.shape[1] + 1), np.uint16)
    np.cumsum(marks, axis=1, dtype=np.uint16, out=sums[:, 1:])
    # beyond 65,535 sums begin at 0 again, which changes no difference
    counts: NDArray[np.uint16] = np.minimum(sums[:, width : width + n] - sums[:, :n], 255)
    return counts


def _others(plan: FeaturePlan, span: Span, scores: BaseScores, n: int) -> dict[str, NDArray[np.generic]]:
    """Return the wanted features that are not k-mers by name."""
    wanted = set(plan.others)
    found: dict[str, NDArray[np.generic]] = {}
    if wanted & set(SCORE_FEATURES):
        found |= {name: values for name, values in _score_columns(scores).items() if name in wanted}
    half, positions = plan.window // 2, span.positions
    is_minus = int(span.strand == "-")
    first = np.maximum(positions - half + is_minus, 1)
    length = np.minimum(positions + half - 1 + is_minus, span.contig_length) - first + 1

    def gc_content() -> NDArray[np.generic]:
        is_gc = ((span.letters == 1) | (span.letters == 2)).astype(np.int64)
        sums = np.concatenate([[0], np.cumsum(is_gc)])
        return np.asarray((sums[plan.window : plan.window + n] - sums[:n]) / length, np.float32)

    def sequence_complexity() -> NDArray[np.generic]:
        numbers = kmer_numbers(span.letters[None, :], 3)[0]
        counts = _counts(numbers[None, :] == np.arange(64, dtype=np.uint16)[:, None], plan.window - 2, n)
        return complexity(np.ascontiguousarray(counts.T.astype(np.uint8)))

    made: dict[str, Callable[[], NDArray[np.generic]]] = {
        "gc_content": gc_content,
        "sequence_complexity": sequence_complexity,
        "sequence_length": lambda: length,
        "gene_length": lambda: np.full(n, span.gene["end"] - span.gene["start"] + 1),
        "distance_to_start": lambda: positions - span.gene["start"],
        "distance_to_end": lambda: span.gene["end"] - positions,
        "gene_start": lambda: np.full(n, span.gene["start"]),
        "gene_end": lambda: np.full(n, span.gene["end"]),
    }
    for name in wanted - set(found):
        found[name] = made[name]() if name in made else np.full(n, span.gene[name])
    return found


def _score_columns(scores: BaseScores) -> dict[str, NDArray[np.generic]]:
    """Return the score features; a peak is missing where a score that it compares is."""
    found: dict[str, NDArray[np.generic]] = {}
    without_neighbours = np.isnan(scores.context[:, 1:3]).any(axis=1)
    for name, values in score_features(scores.donor, scores.acceptor, scores.neither, scores.context).items():
        if name.endswith("is_local_peak"):
            own = scores.donor if name.startswith("donor") else scores.acceptor
            found[name] = np.where(without_neighbours | np.isnan(own), np.float32(np.nan), values.astype(np.float32))
        else:
            found[name] = values
    return found
