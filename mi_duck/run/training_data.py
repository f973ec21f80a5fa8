"""What a model keeps of the data that it was trained on: the genes it has seen, and which features it lacks.

Of each gene the first 8 bytes of the SHA-256 of its id are kept, so a model of 20,000 genes grows by 160 kB and names none of
them. An id that is not among n of them is taken for one with a probability of n / 2^64, 10^-15 for 20,000 genes.

**Why** not the fingerprint of the dataset: a part of the dataset, or the same genes with other columns, would pass for new.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KEY_BYTES = 8


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The genes of a model, and which of its features had missing values.

    Parameters
    ----------
    gene_column
        Column with the gene, None for a model made by hand, of which nothing is known.
    gene_keys
        The key of every gene, `KEY_BYTES` each (little endian), in rising order.
    incomplete_features
        Features with a missing value in a row of these genes.
    unused_features
        Features of the dataset that it was not trained on: suspected leaks, and those that a pilot left out, but for columns
        that the user wants to keep.
    """

    gene_column: str | None = None
    gene_keys: bytes = b""
    incomplete_features: tuple[str, ...] = ()
    unused_features: tuple[str, ...] = ()

    def unused(self) -> dict[str, tuple[str, ...]]:
        """Return ``unused_features`` as the facts of a model hold them: without an entry where there are none."""
        return {"unused_features": self.unused_features} if self.unused_features else {}

    def has_gene(self, gene_ids: Sequence[str]) -> NDArray[np.bool_]:
        """Return for each gene whether the model was trained on it, shape (n_genes,)."""
        return np.isin(_keys(gene_ids), np.frombuffer(self.gene_keys, dtype="<u8"))


def training_data(
    gene_column: str,
    gene_ids: Iterable[str],
    incomplete_features: Sequence[str],
    unused_features: Sequence[str] = (),
) -> TrainingData:
    """Return what a model keeps of its genes and features."""
    keys = np.sort(_keys(gene_ids)).tobytes()
    return TrainingData(gene_column, keys, tuple(incomplete_features), tuple(unused_features))


def joined(parts: Sequence[TrainingData]) -> TrainingData:
    """Return what an ensemble was trained on: the genes of any member; nothing is known where nothing is known of one."""
    unused = tuple(dict.fromkeys(name for one in parts for name in one.unused_features))
    if any(one.gene_column is None for one in parts):
        return TrainingData(unused_features=unused)
    keys = np.unique(np.frombuffer(b"".join(one.gene_keys for one in parts), dtype="<u8"))
    names = dict.fromkeys(name for one in parts for name in one.incomplete_features)
    return TrainingData(parts[0].gene_column, keys.tobytes(), tuple(names), unused)


def _keys(gene_ids: Iterable[str]) -> NDArray[np.uint64]:
    digests = b"".join(hashlib.sha256(gene.encode("utf-8", "surrogatepass")).digest()[:KEY_BYTES] for gene in gene_ids)
    return np.frombuffer(digests, dtype="<u8")
