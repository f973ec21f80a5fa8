"""From a seed to a dataset of any size in the schema of the genome builder, with a known answer.

Every gene is drawn from its own generator and written before the next few are drawn, so memory does not
depend on the number of genes. Which columns depend on the label, and how much, is written beside the data in
``truth.json``; tests and benchmarks compare what a model finds with it.

**Why** random windows: k-mer counts come from a drawn 500-nt sequence per row, not from independent draws, so
3-mers and 5-mers of a row agree with each other as in real data, and a motif planted in the sequence moves
exactly the counts that it would move in a genome.
"""

import itertools
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mi_duck.atomic_files import published_folder
from mi_duck.data.dataset import CLASSES
from mi_duck.errors import DataError
from mi_duck.genome.columns import GENE_COLUMNS, POSITION_COLUMNS, TEXT_COLUMNS, dataset_schema
from mi_duck.genome.synthetic_rows import (
    KMERS,
    MISSING_COLUMNS,
    MOTIFS,
    SIGNALS,
    SMALLEST_GENE_ROWS,
    Columns,
    Gene,
    block,
    feature_columns,
    generator,
    genes,
    is_useless,
    planted_weights,
)
from mi_duck.processes import Report
from mi_duck.run.feature_names import BASE_SCORES, SCORE_FEATURES, feature_kind

MOST_GENES = 1_000_000
MOST_ROWS = 1_000_000_000
LARGEST_MEAN_ROWS = 100_000
FEWEST_FEATURES = 20
MOST_FEATURES = 50_000
ROW_GROUP_ROWS = 8192
GENES_PER_FILE = 500
# Files that are open at once when rows are shuffled: bounds the rows and the Parquet footers held in memory.
_OPEN_FILES = 8
# Rows drawn at once, so that one very large gene does not decide the peak memory.
_BLOCK_ROWS = 4096
_WINDOW_FEATURES = ("gc_content", "sequence_length", "sequence_complexity")
_PLANTED_KMERS = tuple(f"5mer_{motif}" for motifs in MOTIFS.values() for motif in motifs)
_DEFAULT_NOISE = 17


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
        Columns drawn independently of the label.
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
    report: Report | None = None,
) -> SyntheticSummary:
    """Write a dataset with planted signals to a folder.

    Parameters
    ----------
    out : Path
        Folder to make, absent or empty. Gets ``master/part-00000.parquet`` and so on, and ``truth.json``.
    n_genes : int
        Genes, 1 to 1,000,000.
    rows_per_gene : float
        Mean rows per gene, 10 to 100,000; at most a billion rows in all. Sizes are log-normal (sigma 1), at least 10.
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

    Raises
    ------
    DataError
        A number is outside its range, or `out` is a file or a folder that is not empty.
    StorageError
        The files cannot be written.

    Notes
    -----
    1,167 features are 43 score features, 7 of the gene and its window, 12 planted signals, 17 useless ones
    (``noise_0`` ...) and 1,088 k-mer counts (k = 3 and 5) of a 500-nt window. More features are more noise columns.
    For fewer, columns leave in this order, each group from its end: 5-mers without a planted motif; noise columns
    down to four; 3-mers down to four; features of gene and window; derived score features; the remaining 3-mers; the
    remaining noise columns. Base scores, signals and planted 5-mers always stay (19).

    Rows of a gene share a random shift of every drawn column, the base composition of their windows and the share of
    splice sites. They resemble each other, so a split by rows looks better than it is.

    The sizes of genes follow an additive golden-ratio sequence through the quantiles of their distribution: with
    independent draws, heavy tails would move the rows of 1,500 genes by 3.4 % from seed to seed.
    """
    started = time.perf_counter()
    _check_numbers(n_genes, rows_per_gene, n_features, missing_fraction, n_files)
    if n_files is None:
        n_files = max(math.ceil(n_genes / GENES_PER_FILE), min(4, n_genes) if shuffle_rows else 1)
    features = feature_names(n_features)
    settings = {
        "n_genes": n_genes,
        "rows_per_gene": rows_per_gene,
        "n_features": n_features,
        "missing_fraction": missing_fraction,
        "seed": seed,
        "n_files": n_files,
        "shuffle_rows": shuffle_rows,
    }
    n_noise = sum(name.startswith("noise_") for name in features)
    counts = np.zeros(len(CLASSES), dtype=np.int64)
    with published_folder(out) as folder:
        (folder / "master").mkdir()
        for gene_rows, n_done in _write_genes(
            folder / "master",
            genes(seed, n_genes, rows_per_gene, n_noise),
            n_genes=n_genes,
            n_files=n_files,
            features=features,
            missing_fraction=missing_fraction,
            shuffle_seed=seed if shuffle_rows else None,
        ):
            counts += gene_rows
            if report is not None:
                report("synthesise", n_done, n_genes)
        class_rows = dict(zip(CLASSES, counts.tolist(), strict=True))
        truth = _truth(settings, features) | {"class_rows": class_rows}
        (folder / "truth.json").write_text(json.dumps(truth, indent=1) + "\n", encoding="utf-8")
    return SyntheticSummary(
        n_genes=n_genes,
        n_rows=sum(class_rows.values()),
        n_files=n_files,
        n_features=n_features,
        class_rows=class_rows,
        informative={kind: tuple(planted_weights(kind)) for kind in MOTIFS},
        useless=tuple(name for name in features if is_useless(name)),
        seconds=time.perf_counter() - started,
    )


def _truth(settings: dict[str, Any], features: Sequence[str]) -> dict[str, Any]:
    """Return what ``truth.json`` records, except the rows per class."""
    return {
        "settings": settings,
        "informative": {kind: planted_weights(kind) for kind in MOTIFS},
        "weight_units": {
            "signal": "shift of the mean for rows of the class, in standard deviations within a gene",
            "5mer": "expected additional count for rows of the class",
        },
        "scores": [name for name in features if name in SCORE_FEATURES],
        "useless": [name for name in features if is_useless(name)],
        "missing": list(MISSING_COLUMNS) if settings["missing_fraction"] else [],
        "features": list(features),
    }


def feature_names(n_features: int) -> tuple[str, ...]:
    """Name the feature columns of a dataset of a given width, in schema order.

    Parameters
    ----------
    n_features : int
        At least 20; `synthesise` states which columns leave first.
    """
    fixed = (*SCORE_FEATURES, *GENE_COLUMNS, *_WINDOW_FEATURES, *SIGNALS)
    noise = [f"noise_{index}" for index in range(max(_DEFAULT_NOISE, n_features - len(fixed) - len(KMERS)))]
    names = [*fixed, *noise, *KMERS]
    trimers, pentamers = KMERS[:64], KMERS[64:]
    leaving = itertools.chain(
        (name for name in reversed(pentamers) if name not in _PLANTED_KMERS),
        reversed(noise[4:]),
        reversed(trimers[4:]),
        reversed(GENE_COLUMNS + _WINDOW_FEATURES),
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


def _write_genes(
    folder: Path,
    genes: Iterator[Gene],
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
                rows = block(gene, gene.positions[first : first + _BLOCK_ROWS], missing_fraction)
                class_rows += np.bincount(rows["label"], minlength=len(CLASSES))
                if shuffle_seed is None:
                    writers[0].add(rows)
                    continue
                dealer = generator(shuffle_seed, f"deal:{gene.index}:{first}")
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
        self._schema = _schema(features)
        self._waiting: list[Columns] = []
        self._n_waiting = 0
        self._n_groups = 0
        self._writer = pq.ParquetWriter(
            path,
            self._schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=list(TEXT_COLUMNS),
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
            order = generator(self._shuffle_seed, f"order:{self._name}:{self._n_groups}").permutation(n_rows)
        columns = feature_columns({name: values[order] for name, values in waiting.items()})
        columns["splice_type"] = np.array(CLASSES, dtype=object)[columns["label"]]
        missing = dict(zip(MISSING_COLUMNS, columns["is_missing"].T, strict=True))
        batch = pa.record_batch(
            [pa.array(columns[field.name], field.type, mask=missing.get(field.name)) for field in self._schema],
            schema=self._schema,
        )
        self._writer.write_batch(batch, row_group_size=ROW_GROUP_ROWS)
        self._n_groups += 1


def _schema(features: Sequence[str]) -> pa.Schema:
    """Return the schema of the genome builder, with these features; signals and noise are float32."""
    built = {field.name: field for field in dataset_schema(annotation_features=False)}
    identifiers = [field for field in built.values() if field.name in (*TEXT_COLUMNS, *POSITION_COLUMNS)]
    return pa.schema(identifiers + [built.get(name, pa.field(name, pa.float32())) for name in features])
