"""Base scores: how much each position looks like a donor or an acceptor, before any model is trained.

Position weight matrices are fitted to the annotated sites themselves and cross-fitted: the scores of a gene come from the
sites of other clusters of genes only, so no score has seen the label of its own row. The scores of any other model may be
given instead; see `mi_duck.genome.score_files`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mi_duck.genome.sequence import Letters
from mi_duck.run.recipe import WeightMatrices

N_FOLDS = 5
OF_ALL = N_FOLDS
"""Where `SiteMatrices` keep those fitted to all sites, after those of the folds."""
# offsets from the site, first and last: 3 exonic and 6 intronic nt, 20 intronic and 3 exonic nt
DONOR_OFFSETS = (-2, 6)
ACCEPTOR_OFFSETS = (-20, 2)
NEIGHBOURS = (-2, -1, 1, 2)

_PSEUDO_COUNT = 1.0

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class SiteMatrices:
    """Position weight matrices of each fold, fitted without the sites of that fold, and those of all sites last.

    Attributes
    ----------
    donor, acceptor
        (n, 9, 5) and (n, 23, 5) log-odds (natural logarithm) of offset and letter; 0 for N. n is 6 where they were fitted,
        1 where they are those of a model.
    log_priors
        (n, 3) logarithm of the share of donors, acceptors and other positions in gene spans.
    """

    donor: Floats
    acceptor: Floats
    log_priors: Floats

    def of(self, fold: int) -> WeightMatrices:
        """Return the matrices of one fold, or of all sites (`OF_ALL`)."""
        donor, acceptor = (tuple(map(tuple, one[fold].tolist())) for one in (self.donor, self.acceptor))
        prior_d, prior_a, prior_n = self.log_priors[fold].tolist()
        return WeightMatrices(donor, acceptor, (prior_d, prior_a, prior_n))


@dataclass(frozen=True, slots=True, eq=False)
class BaseScores:
    """Scores of n positions: donor, acceptor, neither (n,), and of their neighbours: context (n, 4).

    The context is max(donor, acceptor) at 2 and 1 nt upstream, 1 and 2 nt downstream: one track for every
    row. NaN where the base model has no score.
    """

    donor: Floats
    acceptor: Floats
    neither: Floats
    context: Floats


def site_matrices(several: Sequence[WeightMatrices]) -> SiteMatrices:
    """Return matrices as arrays; the numbers of folds are those in the sequence."""
    return SiteMatrices(
        np.array([one.donor for one in several]),
        np.array([one.acceptor for one in several]),
        np.array([one.log_priors for one in several]),
    )


def cluster_fold(cluster: str, seed: int) -> int:
    """Return the fold, 0 to 4, of a cluster of genes: a function of its name and the seed alone."""
    return int(hashlib.md5(f"{seed}:{cluster}".encode()).hexdigest(), 16) % N_FOLDS


def letter_counts(letters: Letters, folds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count letters per fold and offset.

    Parameters
    ----------
    letters
        (n, width) uint8, one row per site.
    folds
        (n,) fold of each site.

    Returns
    -------
    (5, width, 5) int64
        Fold, offset, letter (the last is N).
    """
    width = letters.shape[1]
    cells = (folds[:, None] * width + np.arange(width)) * 5 + letters
    return np.bincount(cells.ravel(), minlength=N_FOLDS * width * 5).reshape(N_FOLDS, width, 5)


def fit_matrices(
    donors: NDArray[np.int64],
    acceptors: NDArray[np.int64],
    composition: NDArray[np.int64],
    n_positions: NDArray[np.int64],
) -> SiteMatrices:
    """Fit the matrices of each fold to the sites of the other folds, and one more to all of them.

    Parameters
    ----------
    donors, acceptors
        (5, 9, 5) and (5, 23, 5) letter counts of `letter_counts`.
    composition
        (4,) letters of the genome, forward strand; it is made equal for both strands.
    n_positions
        (5,) positions in the gene spans of each fold.

    Returns
    -------
    SiteMatrices
        If one fold holds every site, its log-odds are 0.

    Notes
    -----
    log((count + c q) / (n + c) / q) with background q and pseudo-count c = 1, the log-odds of Stormo (2000).
    The composition does not depend on labels, so the folds share it.

    References
    ----------
    Stormo, G. D. (2000). DNA binding sites: representation and discovery. Bioinformatics 16, 16-23, eq. 1.
    """
    background = composition + composition[::-1] + 1.0
    background /= background.sum()
    log_odds = []
    # a sixth fold without a site, which is left out last: what remains are all sites
    donors, acceptors, n_positions = (
        np.concatenate([one, np.zeros_like(one[:1])]) for one in (donors, acceptors, n_positions)
    )
    for counts in (donors, acceptors):
        others = (counts.sum(axis=0) - counts)[:, :, :4]
        totals = others.sum(axis=2, keepdims=True) + _PSEUDO_COUNT
        known = np.log((others + _PSEUDO_COUNT * background) / totals / background)
        log_odds.append(np.concatenate([known, np.zeros((*known.shape[:2], 1))], axis=2))
    # every site has a letter or an N at the first offset
    sites = np.stack([counts[:, 0].sum(axis=1) for counts in (donors, acceptors)], axis=1)
    sites = sites.sum(axis=0) - sites
    rest = np.maximum((n_positions.sum() - n_positions)[:, None] - sites.sum(axis=1, keepdims=True), 0)
    frequencies = np.concatenate([sites, rest], axis=1) + 1.0
    priors = np.log(frequencies / frequencies.sum(axis=1, keepdims=True))
    return SiteMatrices(log_odds[0], log_odds[1], priors)


def matrix_scores(matrices: SiteMatrices, windows: Letters, folds: NDArray[np.int64]) -> BaseScores:
    """Score positions and their neighbours by the matrices of their folds.

    Parameters
    ----------
    matrices
        Of `fit_matrices`.
    windows
        (n, window) uint8, on the transcript strand; the position is column ``window // 2`` of 44 or more.
    folds
        (n,) fold of each row's cluster, or `OF_ALL`.

    Returns
    -------
    BaseScores
        Probabilities; donor, acceptor and neither sum to 1. A missing letter adds 0 to the log-odds.

    Notes
    -----
    Bayes' rule for three classes: softmax of log prior + summed log-odds, neither having log-odds 0.
    """
    centre = windows.shape[1] // 2
    first = centre + NEIGHBOURS[0] + ACCEPTOR_OFFSETS[0]
    last = centre + NEIGHBOURS[-1] + DONOR_OFFSETS[1]
    # one contiguous line per offset, pointing into the flattened (fold, letter) table of that offset
    cells = np.ascontiguousarray(windows[:, first : last + 1].T).astype(np.intp) + folds * 5

    def log_odds(table: Floats, offset: int) -> Floats:
        total = np.zeros(len(windows))
        for index in range(table.shape[1]):
            total += table[:, index].ravel().take(cells[centre + offset + index - first])
        return total

    priors = matrices.log_priors[folds]

    def probabilities(shift: int) -> Floats:
        logits = np.stack(
            [
                priors[:, 0] + log_odds(matrices.donor, shift + DONOR_OFFSETS[0]),
                priors[:, 1] + log_odds(matrices.acceptor, shift + ACCEPTOR_OFFSETS[0]),
                priors[:, 2],
            ]
        )
        scores = np.exp(logits - logits.max(axis=0))
        return np.asarray(scores / scores.sum(axis=0))

    donor, acceptor, neither = probabilities(0)
    context = np.stack([probabilities(shift)[:2].max(axis=0) for shift in NEIGHBOURS], axis=1)
    return BaseScores(donor, acceptor, neither, context)


def letter_scores(
    matrices: SiteMatrices, letters: Letters, first: int, n: int, fold: int
) -> tuple[Floats, Floats, Floats]:
    """Score consecutive positions by the matrices of one fold: donor, acceptor and neither, (n,) each.

    Parameters
    ----------
    letters
        Letters along the strand, with 20 before the first position and 6 after the last one.
    first
        Index of the first position.
    n
        How many positions.

    Notes
    -----
    The same sums in the same order as in `matrix_scores`, so the same numbers.
    """

    def log_odds(table: Floats, offset: int) -> Floats:
        total = np.zeros(n)
        for index in range(len(table)):
            begin = first + offset + index
            total += table[index].take(letters[begin : begin + n])
        return total

    donor, acceptor, neither = matrices.log_priors[fold]
    logits = np.stack(
        [
            donor + log_odds(matrices.donor[fold], DONOR_OFFSETS[0]),
            acceptor + log_odds(matrices.acceptor[fold], ACCEPTOR_OFFSETS[0]),
            np.full(n, neither),
        ]
    )
    scores = np.exp(logits - logits.max(axis=0))
    scores /= scores.sum(axis=0)
    return scores[0], scores[1], scores[2]
