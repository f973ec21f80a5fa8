"""Rows that are equal in their features although their genes are in different fold groups: found, counted, joined if asked.

Copied genes, close paralogs and pseudo-autosomal genes are such: a copy of a training row is scored, and what the model has
learned by heart looks like skill. Rows are compared by a digest of a few features in one pass; genes that share rows there
are looked at again with many features, so that rows which are only similar are not taken for copies. What counts as a pair
is in ``sql/identical_genes.sql``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import md5

import numpy as np
import pyarrow as pa

from mi_duck.data.database import Database
from mi_duck.data.dataset import Dataset
from mi_duck.data.values import has_fractions

FEW_FEATURES, MANY_FEATURES = 32, 256  # of the first look and of the second
ROWS_COMPARED = 5_000_000  # by the share of all digests that is looked at
PAIRS_COMPARED = 5_000_000  # of equal rows


@dataclass(frozen=True, slots=True)
class Identical:
    """Rows that genes of different fold groups share.

    Parameters
    ----------
    n_rows, n_genes, n_group_pairs
        Rows of all genes that share some, these genes, and the pairs of their fold groups; 0 where none does.
    pair
        Two such genes, or empty.
    one_in
        One in this many rows was looked at; ``n_rows`` stands for all.
    n_features
        Features in which the rows are equal.
    n_joined, n_joined_into
        Fold groups that were joined, and the groups that they became; 0 where that was not asked for.
    """

    n_rows: int
    n_genes: int
    n_group_pairs: int
    pair: tuple[str, ...]
    one_in: int
    n_features: int
    n_joined: int = 0
    n_joined_into: int = 0


def telling_features(dataset: Dataset, *, seed: int, most: int = FEW_FEATURES) -> tuple[str, ...]:
    """Return features that tell rows apart, drawn by seed: half of them with fractions where there are so many."""
    in_files = set(dataset.schema.names)  # SQL looks at numbers, not at features made of texts and dates
    there = [name for name in dataset.features if name in in_files]
    drawn = sorted(there, key=lambda name: md5(f"{seed}:content:{name}".encode()).digest())
    real = [name for name in drawn if has_fractions(dataset.schema.field(name).type)]
    first = real[: most // 2]
    rest = [name for name in drawn if name not in set(first)]
    return tuple([*first, *rest][:most])


def open_rows(db: Database, dataset: Dataset, content: Sequence[str]) -> None:
    """Make the view ``source_rows`` over a dataset, with the features that tell its rows apart."""
    db.open_source(
        dataset.files,
        gene_column=dataset.gene_column,
        label_column=dataset.label_column,
        fold_column=dataset.fold_column,
        position_column=dataset.position_column,
        site_scores=dataset.base_scores[1:],
        content=content,
        weight_column=dataset.weight_column,
    )


def find_identical(db: Database, dataset: Dataset, content: Sequence[str], *, seed: int, is_joining: bool) -> Identical:
    """Compare the rows of the sampled genes; make the table ``joined_groups``, which is empty unless groups are joined.

    Parameters
    ----------
    db
        Database with ``source_rows``, ``label_counts`` and ``sampled_genes``.
    content
        The `telling_features` that ``source_rows`` has.
    is_joining
        Whether fold groups that share rows become one, also by way of a third (``--group-identical``).
    """
    one_in = -(-dataset.n_rows // ROWS_COMPARED)
    db.table("compared_genes")
    genes = db.read("compared_genes")
    pairs = _compare(db, n_genes=len(genes), one_in=one_in)
    n_features = len(content)
    if len(pairs) and len(dataset.features) > len(content):
        many = telling_features(dataset, seed=seed, most=MANY_FEATURES)
        n_features = len(many)
        suspected = np.union1d(pairs["gene_number"].to_numpy(), pairs["other_number"].to_numpy())
        db.load("compared_genes", genes.filter(pa.array(np.isin(genes["gene_number"].to_numpy(), suspected))))
        open_rows(db, dataset, many)
        pairs = _compare(db, n_genes=len(genes), one_in=one_in)
        open_rows(db, dataset, content)
    (found,) = db.rows("identical_summary")
    for table in ("compared_genes", "row_digests", "identical_genes"):
        db.drop(table)
    joined = joined_groups(pairs if is_joining else pairs.slice(0, 0))
    db.load("joined_groups", joined)
    return Identical(
        n_rows=found["n_rows"] * one_in,
        n_genes=found["n_genes"],
        n_group_pairs=found["n_group_pairs"],
        pair=(found["gene_id"], found["other_id"]) if found["n_rows"] else (),
        one_in=one_in,
        n_features=n_features,
        n_joined=len(joined),
        n_joined_into=len(joined["joined"].unique()),
    )


def _compare(db: Database, *, n_genes: int, one_in: int) -> pa.Table:
    db.table("row_digests", one_in=one_in)
    db.table("identical_genes", n_genes=n_genes, most_pairs=PAIRS_COMPARED)
    return db.read("identical_genes")


def joined_groups(pairs: pa.Table) -> pa.Table:
    """Return for each group of some pairs (``fold_group``, ``other_group``) the first name of those that it is connected with."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = [pairs[name].to_pylist() for name in ("fold_group", "other_group")]
    names = sorted({*ends[0], *ends[1]})
    number = {name: index for index, name in enumerate(names)}
    rows, columns = ([number[name] for name in end] for end in ends)
    links = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(names), len(names)))
    component = connected_components(links, directed=False)[1].tolist() if names else []
    first: dict[int, str] = {}
    joined = [first.setdefault(one, name) for one, name in zip(component, names, strict=True)]
    return pa.table({"fold_group": pa.array(names, pa.string()), "joined": pa.array(joined, pa.string())})


def identical_words(found: Identical, dataset: Dataset) -> str:
    """Return in words what genes of different fold groups share, and what was done or can be; empty where they share nothing."""
    if not found.n_rows:
        return ""
    n_all = len(dataset.features)
    where = f"all {n_all:,} features" if found.n_features == n_all else f"{found.n_features:,} of {n_all:,} features"
    about = "" if found.one_in == 1 else "about "
    shared = (
        f"{about}{found.n_rows:,} rows of {dataset.noun.count(found.n_genes)} are identical in {where} to rows of another fold "
        f"group ({found.n_group_pairs:,} pairs of groups of '{dataset.fold_column}', such as those of "
        f"{' and '.join(map(repr, found.pair))})"
    )
    if found.n_joined:
        return f"{shared}; --group-identical joins {found.n_joined:,} fold groups into {found.n_joined_into:,}"
    return (
        f"{shared}; rows are scored by models that saw their copies, so scores are too high: join these groups with "
        f"--group-identical, or name a column that holds such {dataset.noun.many} together (--fold-by COLUMN)"
    )
