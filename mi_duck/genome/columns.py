"""The columns of a dataset's rows, computed from their windows, their positions and facts of their genes.

**No label leak by construction:** the label is not among the arguments of `row_columns`. It is the one column
that `parts.py` adds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mi_duck.genome.annotation import Gene
from mi_duck.genome.base_scores import BaseScores
from mi_duck.genome.features import score_features
from mi_duck.genome.sequence import Letters, count_kmers, kmer_names
from mi_duck.run.feature_names import SCORE_FEATURES

TEXT_COLUMNS = ("gene_id", "gene_name", "gene_type", "chrom", "strand", "overlap_cluster", "splice_type")
POSITION_COLUMNS = ("position", "absolute_position", "window_start", "window_end")
GENE_COLUMNS = ("gene_length", "distance_to_start", "distance_to_end", "num_overlaps")
GROUP_COLUMNS = ("paralog_group",)
"""Those of a dataset of ``--paralogs``."""
ANNOTATION_COLUMNS = ("gene_start", "gene_end", "n_transcripts", "n_exons", "n_introns")

_N_3MERS = 64


@dataclass(frozen=True, slots=True, eq=False)
class GeneFacts:
    """Facts of the genes of a dataset, one element per gene.

    Attributes
    ----------
    texts
        Column name to pyarrow strings: gene_id, gene_name, gene_type, chrom, strand, overlap_cluster, and paralog_group where
        it is known.
    numbers
        Name to (n_genes,) int64: start, end, n_transcripts, n_exons, n_introns, num_overlaps, contig_length,
        is_minus (0 or 1).
    """

    texts: Mapping[str, pa.Array]
    numbers: Mapping[str, NDArray[np.int64]]


def gene_facts(
    genes: Sequence[Gene],
    *,
    clusters: Mapping[str, str],
    n_overlaps: Sequence[int],
    contig_lengths: Mapping[str, int],
    paralogs: Mapping[str, str] | None = None,
) -> GeneFacts:
    """Return genes as columns.

    Parameters
    ----------
    genes
        The genes of the dataset, in its order.
    clusters
        Gene id to overlap cluster.
    n_overlaps
        Number of annotated genes that overlap each gene.
    contig_lengths
        Contig to length in nt.
    paralogs
        Gene id to group of paralogs, where they are looked for.
    """
    texts = {
        name: pa.array([getattr(gene, name) for gene in genes], pa.string())
        for name in ("gene_id", "gene_name", "gene_type", "chrom", "strand")
    }
    texts["overlap_cluster"] = pa.array([clusters[gene.gene_id] for gene in genes], pa.string())
    if paralogs is not None:
        texts["paralog_group"] = pa.array([paralogs[gene.gene_id] for gene in genes], pa.string())
    numbers = {
        name: np.array([getattr(gene, name) for gene in genes], np.int64)
        for name in ("start", "end", "n_transcripts", "n_exons")
    }
    numbers["n_introns"] = np.array([len(gene.introns) for gene in genes], np.int64)
    numbers["num_overlaps"] = np.array(n_overlaps, np.int64)
    numbers["contig_length"] = np.array([contig_lengths[gene.chrom] for gene in genes], np.int64)
    numbers["is_minus"] = np.array([gene.strand == "-" for gene in genes], np.int64)
    return GeneFacts(texts, numbers)


def feature_columns(*, annotation_features: bool, gene_features: bool = True) -> tuple[str, ...]:
    """Name the features in the order of the schema."""
    return (
        *SCORE_FEATURES,
        *(GENE_COLUMNS if gene_features else ()),
        *(ANNOTATION_COLUMNS if annotation_features else ()),
        "gc_content",
        "sequence_length",
        "sequence_complexity",
        *kmer_names(),
    )


def dataset_schema(*, annotation_features: bool, gene_features: bool = True, paralogs: bool = False) -> pa.Schema:
    """Return the Arrow schema of a built dataset: ids and positions, label, features, k-mers last."""
    types = {name: pa.string() for name in (*TEXT_COLUMNS, *GROUP_COLUMNS)}
    types |= {name: pa.int32() for name in (*POSITION_COLUMNS, *GENE_COLUMNS, *ANNOTATION_COLUMNS)}
    types |= {name: pa.int8() if name.endswith("is_local_peak") else pa.float32() for name in SCORE_FEATURES}
    types |= {"gc_content": pa.float32(), "sequence_length": pa.int32(), "sequence_complexity": pa.float32()}
    types |= {name: pa.uint8() for name in kmer_names()}
    names = (
        *TEXT_COLUMNS[:5],
        *POSITION_COLUMNS,
        *TEXT_COLUMNS[5:],
        *(GROUP_COLUMNS if paralogs else ()),
        *feature_columns(annotation_features=annotation_features, gene_features=gene_features),
    )
    return pa.schema([(name, types[name]) for name in names])


def row_columns(
    facts: GeneFacts,
    genes: NDArray[np.int64],
    offsets: NDArray[np.int64],
    windows: Letters,
    scores: BaseScores,
) -> dict[str, pa.Array]:
    """Compute every column of a set of rows except the label.

    Parameters
    ----------
    facts
        Of the dataset's genes.
    genes
        (n,) index of each row's gene.
    offsets
        (n,) 0-based distance from the first base of the gene, along its strand.
    windows
        (n, window) uint8, along the strand.
    scores
        Base scores of the rows, NaN where there is none.

    Returns
    -------
    dict of str to pyarrow array
        All columns of the widest schema except ``splice_type``. What depends on a missing base score is null.

    Notes
    -----
    ``position`` is the offset. ``distance_to_start`` and ``distance_to_end`` are measured along the forward
    strand, whatever the strand. Windows are cut at the ends of the contig, and ``sequence_length`` is what is
    left; ``gc_content`` is the share of G and C of it (an N counts as neither). ``sequence_complexity`` is
    the Shannon entropy of the window's 3-mer counts over its maximum, log 64: 0 for one repeated letter, near
    1 for random sequence, 0 without any 3-mer.
    """
    numbers = {name: values[genes] for name, values in facts.numbers.items()}
    half = windows.shape[1] // 2
    is_minus = numbers["is_minus"]
    position = np.where(is_minus, numbers["end"] - offsets, numbers["start"] + offsets)
    window_start = np.maximum(position - half + is_minus, 1)
    window_end = np.minimum(position + half - 1 + is_minus, numbers["contig_length"])
    length = window_end - window_start + 1
    counts = count_kmers(windows)
    integers = {
        "position": offsets,
        "absolute_position": position,
        "window_start": window_start,
        "window_end": window_end,
        "gene_length": numbers["end"] - numbers["start"] + 1,
        "distance_to_start": position - numbers["start"],
        "distance_to_end": numbers["end"] - position,
        "num_overlaps": numbers["num_overlaps"],
        "gene_start": numbers["start"],
        "gene_end": numbers["end"],
        "n_transcripts": numbers["n_transcripts"],
        "n_exons": numbers["n_exons"],
        "n_introns": numbers["n_introns"],
        "sequence_length": length,
    }
    columns = {name: values.take(pa.array(genes)) for name, values in facts.texts.items()}
    columns |= {name: pa.array(values.astype(np.int32)) for name, values in integers.items()}
    columns |= _score_columns(scores)
    columns["gc_content"] = pa.array((_n_gc(windows) / length).astype(np.float32))
    columns["sequence_complexity"] = pa.array(complexity(counts[:, :_N_3MERS]))
    # one copy makes every column contiguous, so that Arrow does not copy them again
    by_column = np.ascontiguousarray(counts.T)
    columns |= {name: pa.array(values) for name, values in zip(kmer_names(), by_column, strict=True)}
    return columns


def _score_columns(scores: BaseScores) -> dict[str, pa.Array]:
    """Compute the score features; a peak is unknown where a score that it compares is missing."""
    features = score_features(scores.donor, scores.acceptor, scores.neither, scores.context)
    without_neighbours = np.isnan(scores.context[:, 1:3]).any(axis=1)
    columns = {}
    for name, values in features.items():
        if name.endswith("is_local_peak"):
            own = scores.donor if name.startswith("donor") else scores.acceptor
            columns[name] = pa.array(values, mask=without_neighbours | np.isnan(own))
        else:
            columns[name] = pa.array(values, mask=np.isnan(values))
    return columns


def _n_gc(windows: Letters) -> NDArray[np.int64]:
    """Count C (1) and G (2) in each row."""
    return np.asarray(((windows == 1) | (windows == 2)).sum(axis=1), np.int64)


def complexity(counts: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Shannon entropy of each row of (n, 64) counts over log 64: H = log T - sum(c log c) / T, T = sum(c)."""
    table = np.arange(256, dtype=np.float64)
    table[1:] *= np.log(table[1:])
    totals = np.maximum(counts.sum(axis=1, dtype=np.int64), 1)
    entropy = np.log(totals) - table[counts].sum(axis=1) / totals
    return np.asarray(np.clip(entropy / np.log(_N_3MERS), 0, 1), np.float32)
