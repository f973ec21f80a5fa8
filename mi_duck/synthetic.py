"""From a seed to a dataset of any size in the schema of the genome builder, with a known answer.

Every gene is drawn from its own generator and written before the next few are drawn, so memory does not
depend on the number of genes. Which columns say something about the label, and how much, is written
beside the data in ``truth.json``; tests and benchmarks compare what a model finds with it.

Why random windows: k-mer counts come from a drawn 500-nt sequence per row, not from independent draws, so
3-mers and 5-mers of a row agree with each other as in real data, and a motif planted in the sequence moves
exactly the counts that it would move in a genome.
"""

import hashlib
import itertools
import json
import math
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mi_duck.errors import DataError, StorageError
from mi_duck.features import BASE_SCORES, SCORE_FEATURES, feature_kind, score_features

CLASSES: tuple[str, ...] = ("neither", "donor", "acceptor")
"""Labels by index."""
MOST_GENES = 1_000_000
MOST_ROWS = 1_000_000_000
SMALLEST_GENE_ROWS = 10
LARGEST_MEAN_ROWS = 100_000
FEWEST_FEATURES = 20
MOST_FEATURES = 50_000
WINDOW_LENGTH = 500
ROW_GROUP_ROWS = 8192
GENES_PER_FILE = 500

# Files that are open at once when rows are shuffled: bounds the rows and the Parquet footers held in memory.
_OPEN_FILES = 8
# Rows drawn at once, so that one very large gene does not decide the peak memory.
_BLOCK_ROWS = 4096
_SIZE_SIGMA = 1.0
_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
_LINKED_FRACTION = 0.1
_SITE_FRACTION = 0.1
# Positions between neighbouring rows of a gene; small, so that the places of all rows fit in 32 bits.
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
_MOTIFS: dict[str, tuple[str, str]] = {"donor": ("GTAAG", "GTGAG"), "acceptor": ("CTAAC", "TTCAG")}
_MOTIF_PROBABILITY = 0.3
_MOTIF_SLOTS = 4
# Standard deviation of the gene's own shift of every drawn column, against 1 within the gene.
_GENE_EFFECT = 0.5

_SIGNALS = tuple(f"signal_{kind}_{i}" for kind, weights in _SIGNAL_WEIGHTS.items() for i in range(len(weights)))
_PLACE_FEATURES = ("gene_length", "distance_to_start", "distance_to_end", "num_overlaps")
_WINDOW_FEATURES = ("gc_content", "sequence_length", "sequence_complexity")
_KMERS = tuple(f"{k}mer_{''.join(bases)}" for k in (3, 5) for bases in itertools.product("ACGT", repeat=k))
_PLANTED_KMERS = tuple(f"5mer_{motif}" for motifs in _MOTIFS.values() for motif in motifs)
_DEFAULT_NOISE = 17
_MISSING_COLUMNS = ("signal_donor_4", "signal_acceptor_4", "5mer_GTGAG")
_TEXT = ("gene_id", "gene_name", "gene_type", "chrom", "strand", "overlap_cluster", "splice_type")
_IDENTIFIERS = (
    *((name, pa.string()) for name in _TEXT[:5]),
    ("position", pa.int32()),
    *((name, pa.int32()) for name in ("absolute_position", "window_start", "window_end")),
    *((name, pa.string()) for name in _TEXT[5:]),
)

Columns = dict[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class SyntheticSummary:
    """What was written.

    Attributes
    ----------
    n_genes, n_rows, n_files, n_features : int
        Size of the dataset.
    class_rows : dict of str to int
        Rows per label.
    informative : dict of str to tuple of str
        For "donor" and "acceptor" the planted columns whose values depend on that label.
    useless : tuple of str
        Columns drawn without a look at the label.
    seconds : float
        Wall time of the whole call.
    """

    n_genes: int
    n_rows: int
    n_files: int
    n_features: int
    class_rows: dict[str, int]
    informative: dict[str, tuple[str, ...]]
    useless: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class _Gene:
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


def synthesise(
    out: Path,
    *,
    n_genes: int,
    rows_per_gene: float = 391.0,
    n_features: int = 1167,
    missing_fraction: float = 0.0,
    seed: int = 42,
    n_files: int | None = None,
    shuffle_rows: bool = False,
    report: Callable[[str, int, int], None] | None = None,
) -> SyntheticSummary:
    """Write a dataset with planted signals to a folder.

    Parameters
    ----------
    out : Path
        Folder to make, absent or empty. Gets ``master/part-00000.parquet`` and so on, and ``truth.json``.
    n_genes : int
        Genes, 1 to 1,000,000.
    rows_per_gene : float
        Mean rows per gene, 10 to 100,000; at most a billion rows in all. Sizes are log-normal (sigma 1) with
        at least 10 rows.
    n_features : int
        Feature columns, 20 to 50,000; Notes say which.
    missing_fraction : float
        Share of nulls, 0 to below 1, in ``signal_donor_4``, ``signal_acceptor_4`` (float) and ``5mer_GTGAG``
        (uint8); no other column ever holds a null.
    seed : int
        The same seed and arguments give the same bytes with the same versions of the libraries.
    n_files : int, optional
        Parquet files, 1 to `n_genes`; by default one per 500 genes, with `shuffle_rows` at least four.
    shuffle_rows : bool
        Deal the rows of each gene over up to eight files and permute every row group. The rows stay the same.
    report : callable, optional
        Called as ``report("synthesise", genes done, genes)`` after every gene.

    Returns
    -------
    SyntheticSummary
        Sizes, class counts and the names of informative and useless columns.

    Raises
    ------
    DataError
        A number is outside its range, or `out` is neither absent nor an empty folder.
    StorageError
        The files cannot be written.

    Notes
    -----
    1,167 features are 43 score features, 7 of the gene and its window, 12 planted signals, 17 useless ones
    (``noise_0`` ...) and 1,088 k-mer counts (k = 3 and 5) of a 500-nt window. More features are more noise
    columns. For fewer, columns leave in this order, each group from its end: 5-mers without a planted motif;
    noise columns down to four; 3-mers down to four; features of gene and window; derived score features; the
    remaining 3-mers; the remaining noise columns. Base scores, signals and planted 5-mers always stay (19).

    Rows of a gene share a random shift of every drawn column, the base composition of their windows and the
    share of splice sites. They resemble each other, so a split by rows looks better than it is.

    The sizes of genes follow an additive golden-ratio sequence through the quantiles of their distribution:
    with independent draws, heavy tails would move the rows of 1,500 genes by 3.4 % from seed to seed.
    """
    started = time.perf_counter()
    out = out.absolute()
    _check_numbers(n_genes, rows_per_gene, n_features, missing_fraction, n_files)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} already exists and is not an empty folder; give another folder or remove it")
    if n_files is None:
        n_files = max(math.ceil(n_genes / GENES_PER_FILE), min(4, n_genes) if shuffle_rows else 1)
    features = feature_names(n_features)
    truth = {
        "settings": {
            "n_genes": n_genes,
            "rows_per_gene": rows_per_gene,
            "n_features": n_features,
            "missing_fraction": missing_fraction,
            "seed": seed,
            "n_files": n_files,
            "shuffle_rows": shuffle_rows,
        },
        "informative": {kind: _planted_weights(kind) for kind in _MOTIFS},
        "weight_units": {
            "signal": "shift of the mean for rows of the class, in standard deviations within a gene",
            "5mer": "expected additional count for rows of the class",
        },
        "scores": [name for name in features if name in SCORE_FEATURES],
        "useless": [name for name in features if _is_useless(name)],
        "missing": list(_MISSING_COLUMNS) if missing_fraction else [],
        "features": list(features),
    }
    temporary = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        (temporary / "master").mkdir(parents=True)
        n_noise = sum(name.startswith("noise_") for name in features)
        class_rows = np.zeros(len(CLASSES), dtype=np.int64)
        for gene_rows, n_done in _write_genes(
            temporary / "master",
            _genes(seed, n_genes, rows_per_gene, n_noise),
            n_genes=n_genes,
            n_files=n_files,
            features=features,
            missing_fraction=missing_fraction,
            shuffle_seed=seed if shuffle_rows else None,
        ):
            class_rows += gene_rows
            if report is not None:
                report("synthesise", n_done, n_genes)
        truth["class_rows"] = dict(zip(CLASSES, class_rows.tolist(), strict=True))
        (temporary / "truth.json").write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")
        if out.exists():
            out.rmdir()
        temporary.rename(out)
    except OSError as error:
        raise StorageError(f"cannot write the dataset to {out}: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return SyntheticSummary(
        n_genes=n_genes,
        n_rows=int(class_rows.sum()),
        n_files=n_files,
        n_features=n_features,
        class_rows=dict(zip(CLASSES, class_rows.tolist(), strict=True)),
        informative={kind: tuple(_planted_weights(kind)) for kind in _MOTIFS},
        useless=tuple(name for name in features if _is_useless(name)),
        seconds=time.perf_counter() - started,
    )


def feature_names(n_features: int) -> tuple[str, ...]:
    """Name the feature columns of a dataset with so many features, in schema order.

    Parameters
    ----------
    n_features : int
        At least 20; the rule by which columns leave is stated at `synthesise`.

    Returns
    -------
    tuple of str
        Exactly `n_features` names, k-mers last.
    """
    fixed = (*SCORE_FEATURES, *_PLACE_FEATURES, *_WINDOW_FEATURES, *_SIGNALS)
    noise = [f"noise_{index}" for index in range(max(_DEFAULT_NOISE, n_features - len(fixed) - len(_KMERS)))]
    names = [*fixed, *noise, *_KMERS]
    trimers, pentamers = _KMERS[:64], _KMERS[64:]
    leaving = itertools.chain(
        (name for name in reversed(pentamers) if name not in _PLANTED_KMERS),
        reversed(noise[4:]),
        reversed(trimers[4:]),
        reversed(_PLACE_FEATURES + _WINDOW_FEATURES),
        (name for name in reversed(SCORE_FEATURES) if name not in BASE_SCORES),
        reversed(trimers[:4]),
        reversed(noise[:4]),
    )
    left = set(itertools.islice(leaving, len(names) - n_features))
    return tuple(name for name in names if name not in left)


def _check_numbers(
    n_genes: int, rows_per_gene: float, n_features: int, missing_fraction: float, n_files: int | None
) -> None:
    """Refuse numbers outside the documented ranges."""
    for name, value, low, high in (
        ("genes", n_genes, 1, MOST_GENES),
        ("rows per gene", rows_per_gene, SMALLEST_GENE_ROWS, LARGEST_MEAN_ROWS),
        ("genes times rows per gene", n_genes * rows_per_gene, 1, MOST_ROWS),
        ("features", n_features, FEWEST_FEATURES, MOST_FEATURES),
        ("files", 1 if n_files is None else n_files, 1, n_genes),
    ):
        if not low <= value <= high:
            raise DataError(f"the number of {name} must lie between {low:,} and {high:,}; got {value:,}")
    if not 0 <= missing_fraction < 1:
        raise DataError(f"the missing fraction must be at least 0 and below 1; got {missing_fraction}")


def _planted_weights(kind: str) -> dict[str, float]:
    """Return the planted effect of every informative column of a class, in the units of ``truth.json``."""
    signals = {f"signal_{of}_{i}": w for of in (kind, "site") for i, w in enumerate(_SIGNAL_WEIGHTS[of])}
    motif_count = _MOTIF_SLOTS * _MOTIF_PROBABILITY / len(_MOTIFS[kind])
    return {**signals, **{f"5mer_{motif}": motif_count for motif in _MOTIFS[kind]}}


def _is_useless(name: str) -> bool:
    """Tell whether a column is drawn without a look at the label."""
    return name.startswith("noise_") or name in _PLACE_FEATURES or name == "sequence_length"


def _generator(seed: int, purpose: str) -> np.random.Generator:
    """Return the generator of one gene or one file, independent of all others."""
    return np.random.Generator(np.random.PCG64(_digest(seed, purpose)))


def _digest(seed: int, purpose: str) -> int:
    """Turn seed and purpose into 128 bits that do not depend on platform or version."""
    return int.from_bytes(hashlib.md5(f"{seed}:{purpose}".encode(), usedforsecurity=False).digest(), "big")


def _mean_log_rows(rows_per_gene: float) -> float:
    """Solve for mu such that E[max(10, X)] is the wanted mean for ln X ~ Normal(mu, sigma).

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


def _genes(seed: int, n_genes: int, rows_per_gene: float, n_noise: int) -> Iterator[_Gene]:
    """Place the genes one after the other on chromosomes, some overlapping the one before."""
    mu = _mean_log_rows(rows_per_gene)
    offset = _digest(seed, "sizes") / 2**128
    normal = statistics.NormalDist()
    free_from: dict[str, int] = {}
    chrom, cluster, n_clusters, start, length, is_linked = "", 0, 0, 0, 0, False
    for index in range(n_genes):
        rng = _generator(seed, str(index))
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
        yield _Gene(
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
            effects=rng.normal(0, _GENE_EFFECT, len(BASE_SCORES) + len(_SIGNALS) + n_noise).astype(np.float32),
            positions=positions,
        )
        is_linked = links_next


def _block(gene: _Gene, positions: np.ndarray, missing_fraction: float) -> Columns:
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
    signals, noise = drawn[3 : 3 + len(_SIGNALS)], drawn[3 + len(_SIGNALS) :]
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
        # Neighbours follow the larger score by factors that ignore the label, so they tell nothing new of it.
        "context": (np.maximum(donor, acceptor) / total)[:, None] * rng.random((n_rows, 4)) ** 2,
        "gene_length": np.full(n_rows, gene.length, dtype=np.int32),
        "distance_to_start": from_start,
        "distance_to_end": gene.length - 1 - from_start,
        "num_overlaps": np.full(n_rows, gene.n_overlaps, dtype=np.int32),
        **dict(zip(_SIGNALS, signals, strict=True)),
        **{f"noise_{index}": values for index, values in enumerate(noise)},
        "window": window,
        "is_missing": rng.random((n_rows, len(_MISSING_COLUMNS))) < missing_fraction,
    }


def _plant_motifs(window: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> None:
    """Write motifs of the label's class over random places of the windows, at most one per quarter."""
    slot_length = WINDOW_LENGTH // _MOTIF_SLOTS
    for kind, motifs in _MOTIFS.items():
        rows = np.flatnonzero(label == CLASSES.index(kind))
        codes = np.array([["ACGT".index(base) for base in motif] for motif in motifs], dtype=np.uint8)
        for slot in range(_MOTIF_SLOTS):
            chosen = rows[rng.random(len(rows)) < _MOTIF_PROBABILITY]
            first = slot * slot_length + rng.integers(0, slot_length - codes.shape[1] + 1, len(chosen))
            motif = rng.integers(0, len(motifs), len(chosen))
            window[chosen[:, None], first[:, None] + np.arange(codes.shape[1])] = codes[motif]


def _feature_columns(rows: Columns) -> Columns:
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
        **dict(zip(_KMERS, itertools.chain(trimer_counts, _counts(pentamers, 1024)), strict=True)),
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


def _write_genes(
    folder: Path,
    genes: Iterator[_Gene],
    *,
    n_genes: int,
    n_files: int,
    features: tuple[str, ...],
    missing_fraction: float,
    shuffle_seed: int | None,
) -> Iterator[tuple[np.ndarray, int]]:
    """Write all genes; yields each gene's rows per label and the number of genes written.

    Without shuffling one file is open at a time. With it the rows of a gene go to any of up to eight files.
    """
    n_open = 1 if shuffle_seed is None else min(_OPEN_FILES, n_files)
    for first_file in range(0, n_files, n_open):
        stop_file = min(first_file + n_open, n_files)
        writers = [
            _FileWriter(folder / f"part-{file:05d}.parquet", features, shuffle_seed)
            for file in range(first_file, stop_file)
        ]
        n_here = stop_file * n_genes // n_files - first_file * n_genes // n_files
        for gene in itertools.islice(genes, n_here):
            class_rows = np.zeros(len(CLASSES), dtype=np.int64)
            for first in range(0, len(gene.positions), _BLOCK_ROWS):
                rows = _block(gene, gene.positions[first : first + _BLOCK_ROWS], missing_fraction)
                class_rows += np.bincount(rows["label"], minlength=len(CLASSES))
                if shuffle_seed is None:
                    writers[0].add(rows)
                    continue
                dealer = _generator(shuffle_seed, f"deal:{gene.index}:{first}")
                dealt = dealer.integers(0, len(writers), len(rows["label"]))
                for file, writer in enumerate(writers):
                    writer.add({name: values[dealt == file] for name, values in rows.items()})
            yield class_rows, gene.index + 1
        for writer in writers:
            writer.close()


class _FileWriter:
    """Collects drawn rows and writes them to one file in full row groups."""

    def __init__(self, path: Path, features: tuple[str, ...], shuffle_seed: int | None) -> None:
        self._name = path.name
        self._shuffle_seed = shuffle_seed
        self._schema = pa.schema([*_IDENTIFIERS, *((name, _feature_type(name)) for name in features)])
        self._waiting: list[Columns] = []
        self._n_waiting = 0
        self._n_groups = 0
        self._writer = pq.ParquetWriter(
            path,
            self._schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=list(_TEXT),
            # Small counts: against plain, a third less time to write, half to read (Arrow, DuckDB), smaller.
            column_encoding={name: "DELTA_BINARY_PACKED" for name in features if feature_kind(name) == "k-mer"},
            write_page_checksum=True,
            write_statistics=True,
        )

    def add(self, rows: Columns) -> None:
        """Take rows, and write as many full row groups as there are."""
        self._waiting.append(rows)
        self._n_waiting += len(rows["label"])
        while self._n_waiting >= ROW_GROUP_ROWS:
            self._write(ROW_GROUP_ROWS)

    def close(self) -> None:
        """Write what is left and the footer."""
        if self._n_waiting:
            self._write(self._n_waiting)
        self._writer.close()

    def _write(self, n_rows: int) -> None:
        """Write the first rows that wait as one row group."""
        waiting = {name: np.concatenate([rows[name] for rows in self._waiting]) for name in self._waiting[0]}
        self._waiting = [{name: values[n_rows:].copy() for name, values in waiting.items()}]
        self._n_waiting -= n_rows
        order = np.arange(n_rows)
        if self._shuffle_seed is not None:
            order = _generator(self._shuffle_seed, f"order:{self._name}:{self._n_groups}").permutation(n_rows)
        columns = _feature_columns({name: values[order] for name, values in waiting.items()})
        columns["splice_type"] = np.array(CLASSES, dtype=object)[columns["label"]]
        missing = dict(zip(_MISSING_COLUMNS, columns["is_missing"].T, strict=True))
        batch = pa.record_batch(
            [pa.array(columns[field.name], field.type, mask=missing.get(field.name)) for field in self._schema],
            schema=self._schema,
        )
        self._writer.write_batch(batch, row_group_size=ROW_GROUP_ROWS)
        self._n_groups += 1


def _feature_type(name: str) -> pa.DataType:
    """Return the type in which a feature is stored."""
    if feature_kind(name) == "k-mer":
        return pa.uint8()
    if name in _PLACE_FEATURES or name == "sequence_length":
        return pa.int32()
    return pa.int8() if name.endswith("_is_local_peak") else pa.float32()
