"""Draws the rows of synthetic genes: positions, labels, scores, planted signals and sequence windows."""

import hashlib
import itertools
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mi_duck.data.dataset import CLASSES
from mi_duck.genome.columns import GENE_COLUMNS
from mi_duck.genome.features import score_features
from mi_duck.genome.sequence import kmer_names
from mi_duck.run.feature_names import BASE_SCORES

SMALLEST_GENE_ROWS = 10
WINDOW_LENGTH = 500
_SIZE_SIGMA = 1.0
_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
_LINKED_FRACTION = 0.1
_SITE_FRACTION = 0.1
# Positions between neighbouring rows of a gene; small, so that the positions of all rows fit in 32 bits.
_LARGEST_GAP = 60
# Log odds of the scores before normalisation: at no site, what a site adds to its own score and to the other
# one, and the standard deviations of the noise. They give a base model of average precision around 0.6.
_NO_SITE, _OWN_SITE, _OTHER_SITE = -4.2, 3.8, 0.8
_SCORE_NOISE = np.array([[1.5], [1.5], [0.3]])
# Shifts of the planted columns for rows of their class, in standard deviations of the noise within a gene.
_SIGNAL_WEIGHTS: dict[str, tuple[float, ...]] = {
    "donor": (1.2, 1.0, 0.8, 0.6, 0.4),
    "acceptor": (1.2, 1.0, 0.8, 0.6, 0.4),
    "site": (0.6, 0.4),
}
# Each quarter of a site's window gets one of the two motifs of its class with this probability.
MOTIFS: dict[str, tuple[str, str]] = {"donor": ("GTAAG", "GTGAG"), "acceptor": ("CTAAC", "TTCAG")}
_MOTIF_PROBABILITY = 0.3
_MOTIF_SLOTS = 4
# Standard deviation of the gene's own shift of every drawn column, against 1 within the gene.
_GENE_EFFECT = 0.5
SIGNALS = tuple(f"signal_{kind}_{i}" for kind, weights in _SIGNAL_WEIGHTS.items() for i in range(len(weights)))
KMERS = kmer_names()
MISSING_COLUMNS = ("signal_donor_4", "signal_acceptor_4", "5mer_GTGAG")
Columns = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Gene:
    """One gene: where it lies, what all of its rows share, and the generator that draws the rows."""

    index: int
    rng: np.random.Generator
    text: dict[str, str]
    start: int
    length: int
    n_overlaps: int
    site_fraction: float
    bases: np.ndarray
    effects: np.ndarray
    positions: np.ndarray


def planted_weights(kind: str) -> dict[str, float]:
    """Return the planted effect of every informative column of a class, in the units of ``truth.json``."""
    signals = {f"signal_{of}_{i}": w for of in (kind, "site") for i, w in enumerate(_SIGNAL_WEIGHTS[of])}
    motif_count = _MOTIF_SLOTS * _MOTIF_PROBABILITY / len(MOTIFS[kind])
    return {**signals, **{f"5mer_{motif}": motif_count for motif in MOTIFS[kind]}}


def is_useless(name: str) -> bool:
    """Return whether a column is drawn independently of the label."""
    return name.startswith("noise_") or name in GENE_COLUMNS or name == "sequence_length"


def generator(seed: int, purpose: str) -> np.random.Generator:
    """Return the generator of one gene or one file, independent of all others."""
    return np.random.Generator(np.random.PCG64(_digest(seed, purpose)))


def _digest(seed: int, purpose: str) -> int:
    """Return 128 bits from seed and purpose that do not depend on platform or version."""
    return int.from_bytes(hashlib.md5(f"{seed}:{purpose}".encode(), usedforsecurity=False).digest(), "big")


def _mean_log_rows(rows_per_gene: float) -> float:
    """Return mu such that E[max(10, X)] is the wanted mean for ln X ~ Normal(mu, sigma).

    Notes
    -----
    With smallest size m and the normal distribution function Phi, E[max(m, X)] = m Phi((ln m - mu) / sigma) +
    exp(mu + sigma^2 / 2) Phi((mu + sigma^2 - ln m) / sigma), which rises with mu; solved by bisection.
    """
    normal_cdf = statistics.NormalDist().cdf
    log_smallest = math.log(SMALLEST_GENE_ROWS)
    low, high = -20.0, math.log(rows_per_gene)
    for _ in range(60):
        mu = (low + high) / 2
        raised = SMALLEST_GENE_ROWS * normal_cdf((log_smallest - mu) / _SIZE_SIGMA)
        others = normal_cdf((mu + _SIZE_SIGMA**2 - log_smallest) / _SIZE_SIGMA)
        mean = raised + math.exp(mu + _SIZE_SIGMA**2 / 2) * others
        low, high = (mu, high) if mean < rows_per_gene else (low, mu)
    return (low + high) / 2


def genes(seed: int, n_genes: int, rows_per_gene: float, n_noise: int) -> Iterator[Gene]:
    """Yield the genes, laid one after the other on chromosomes, some overlapping the one before."""
    mu = _mean_log_rows(rows_per_gene)
    offset = _digest(seed, "sizes") / 2**128
    normal = statistics.NormalDist()
    free_from: dict[str, int] = {}
    chrom, cluster, n_clusters, start, length, is_linked = "", 0, 0, 0, 0, False
    for index in range(n_genes):
        rng = generator(seed, str(index))
        quantile = min(max((offset + index * _GOLDEN_RATIO) % 1.0, 1e-9), 1 - 1e-9)
        n_rows = max(SMALLEST_GENE_ROWS, round(math.exp(mu + _SIZE_SIGMA * normal.inv_cdf(quantile))))
        positions = np.cumsum(rng.integers(1, _LARGEST_GAP, n_rows)).astype(np.int32)
        if is_linked:
            start += length * 3 // 4
        else:
            cluster, n_clusters = index, n_clusters + 1
            chrom = f"chr{1 + n_clusters // 32 % 22}"
            start = free_from.get(chrom, 10_000)
        length = int(positions[-1]) + int(rng.integers(1, _LARGEST_GAP))
        free_from[chrom] = max(free_from.get(chrom, 0), start + length + 2 * WINDOW_LENGTH)
        links_next = index + 1 < n_genes and bool(rng.random() < _LINKED_FRACTION)
        n_strong = round(128 * min(max(rng.normal(0.45, 0.05), 0.3), 0.6))
        yield Gene(
            index=index,
            rng=rng,
            text={
                "gene_id": f"gene_{index:06d}",
                "gene_name": f"SYN{index:06d}",
                "gene_type": "protein_coding" if rng.random() < 0.62 else "lncRNA",
                "chrom": chrom,
                "strand": "+" if rng.random() < 0.5 else "-",
                "overlap_cluster": f"cluster_{cluster:06d}",
            },
            start=start,
            length=length,
            n_overlaps=int(is_linked) + int(links_next),
            # Log-normal with mean 1 times the share wanted, so that genes differ and their mean stays.
            site_fraction=min(_SITE_FRACTION * math.exp(rng.normal(-0.08, 0.4)), 0.5),
            # What 256 random byte values stand for: A 0, C 1, G 2, T 3 in the gene's own composition.
            bases=np.repeat(np.arange(4, dtype=np.uint8), [128 - n_strong, n_strong, n_strong, 128 - n_strong]),
            effects=rng.normal(0, _GENE_EFFECT, len(BASE_SCORES) + len(SIGNALS) + n_noise).astype(np.float32),
            positions=positions,
        )
        is_linked = links_next


def block(gene: Gene, positions: np.ndarray, missing_fraction: float) -> Columns:
    """Draw some rows of a gene: label, base scores, signals, noise and sequence window."""
    rng, n_rows = gene.rng, len(positions)
    is_site = rng.random(n_rows) < gene.site_fraction
    label = np.where(is_site, rng.integers(1, len(CLASSES), n_rows), 0).astype(np.int8)
    is_kind = {"donor": label == 1, "acceptor": label == 2, "site": is_site}

    drawn = rng.standard_normal((len(gene.effects), n_rows), dtype=np.float32) + gene.effects[:, None]
    donor, acceptor, neither = np.exp(
        _SCORE_NOISE * drawn[:3]
        + _OWN_SITE * np.stack([is_kind["donor"], is_kind["acceptor"], np.zeros(n_rows)])
        + _OTHER_SITE * np.stack([is_kind["acceptor"], is_kind["donor"], np.zeros(n_rows)])
        + np.array([[_NO_SITE], [_NO_SITE], [0.0]])
    )
    total = donor + acceptor + neither
    signals, noise = drawn[3 : 3 + len(SIGNALS)], drawn[3 + len(SIGNALS) :]
    weights = [(kind, weight) for kind, values in _SIGNAL_WEIGHTS.items() for weight in values]
    for values, (kind, weight) in zip(signals, weights, strict=True):
        values += np.float32(weight) * is_kind[kind]

    window = gene.bases[np.frombuffer(rng.bytes(n_rows * WINDOW_LENGTH), dtype=np.uint8)]
    window = window.reshape(n_rows, WINDOW_LENGTH)
    _plant_motifs(window, label, rng)
    is_minus = gene.text["strand"] == "-"
    from_start = gene.length - 1 - positions if is_minus else positions
    absolute = np.int32(gene.start) + from_start
    return {
        **{name: np.full(n_rows, value, dtype=object) for name, value in gene.text.items()},
        "label": label,
        "position": positions,
        "absolute_position": absolute,
        # The window starts 250 nt upstream of the position, so on the minus strand it is one further right.
        "window_start": absolute - WINDOW_LENGTH // 2 + int(is_minus),
        "window_end": absolute + WINDOW_LENGTH // 2 - 1 + int(is_minus),
        "donor_score": donor / total,
        "acceptor_score": acceptor / total,
        "neither_score": neither / total,
        # Neighbours follow the larger score by factors that ignore the label, so they add no information about it.
        "context": (np.maximum(donor, acceptor) / total)[:, None] * rng.random((n_rows, 4)) ** 2,
        "gene_length": np.full(n_rows, gene.length, dtype=np.int32),
        "distance_to_start": from_start,
        "distance_to_end": gene.length - 1 - from_start,
        "num_overlaps": np.full(n_rows, gene.n_overlaps, dtype=np.int32),
        **dict(zip(SIGNALS, signals, strict=True)),
        **{f"noise_{index}": values for index, values in enumerate(noise)},
        "window": window,
        "is_missing": rng.random((n_rows, len(MISSING_COLUMNS))) < missing_fraction,
    }


def _plant_motifs(window: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> None:
    """Write motifs of the label's class at random positions of the windows, at most one per quarter."""
    slot_length = WINDOW_LENGTH // _MOTIF_SLOTS
    for kind, motifs in MOTIFS.items():
        rows = np.flatnonzero(label == CLASSES.index(kind))
        codes = np.array([["ACGT".index(base) for base in motif] for motif in motifs], dtype=np.uint8)
        for slot in range(_MOTIF_SLOTS):
            chosen = rows[rng.random(len(rows)) < _MOTIF_PROBABILITY]
            first = slot * slot_length + rng.integers(0, slot_length - codes.shape[1] + 1, len(chosen))
            motif = rng.integers(0, len(motifs), len(chosen))
            window[chosen[:, None], first[:, None] + np.arange(codes.shape[1])] = codes[motif]


def feature_columns(rows: Columns) -> Columns:
    """Add every feature that follows from the drawn rows."""
    window = rows["window"]
    # Codes of 3-mers and 5-mers in A, C, G, T product order, built from those of the pairs.
    pairs = (window[:, :-1] << 2) | window[:, 1:]
    trimers = (pairs[:, :-1] << 2) | window[:, 2:]
    pentamers = (trimers[:, :-2].astype(np.uint16) << 4) | pairs[:, 3:]
    trimer_counts = _counts(trimers, 64)
    n_trimers = trimers.shape[1]
    share_logs = np.arange(n_trimers + 1) / n_trimers
    share_logs[1:] *= -np.log(share_logs[1:])
    return {
        **rows,
        **score_features(rows["donor_score"], rows["acceptor_score"], rows["neither_score"], rows["context"]),
        "gc_content": (np.count_nonzero((window == 1) | (window == 2), axis=1) / WINDOW_LENGTH).astype(np.float32),
        "sequence_length": np.full(len(window), WINDOW_LENGTH, dtype=np.int32),
        # Shannon entropy of the 3-mer counts over its maximum.
        "sequence_complexity": (share_logs[trimer_counts].sum(axis=0) / math.log(64)).astype(np.float32),
        **dict(zip(KMERS, itertools.chain(trimer_counts, _counts(pentamers, 1024)), strict=True)),
    }


def _counts(codes: np.ndarray, n_codes: int) -> np.ndarray:
    """Count the codes of each row.

    Parameters
    ----------
    codes : array of shape (n_rows, n_positions)
        Numbers from 0 to below `n_codes`.
    n_codes : int
        Different codes.

    Returns
    -------
    array of shape (n_codes, n_rows), uint8
        One contiguous row per code, as columns are written.

    Notes
    -----
    Counts the (code, row) cells of 64 rows at a time, so that the counters stay in the processor's cache;
    1,024 rows at a time took five times as long.
    """
    counts = np.empty((n_codes, len(codes)), dtype=np.uint8)
    for first in range(0, len(codes), 64):
        some = codes[first : first + 64]
        cells = some.astype(np.intp) * len(some) + np.arange(len(some))[:, None]
        binned = np.bincount(cells.ravel(), minlength=n_codes * len(some))
        counts[:, first : first + 64] = binned.reshape(n_codes, -1)
    return counts
