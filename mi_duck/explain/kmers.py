"""From the names of features to groups of them: by kind, and k-mers that are one motif in two spellings."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KMER = re.compile(r"(\d+)mer_([ACGTN]+)")
COMPLEMENT = str.maketrans("ACGTN", "TGCAN")
MOST_CENTRES = 4096  # of one k: all 6-mers; with 7-mers the families alone would take longer than the values
GROUPS_AT_ONCE = 128


@dataclass(frozen=True, slots=True)
class Group:
    """Features that are looked at together.

    Parameters
    ----------
    kind
        ``kind of feature``, ``reverse complement`` or ``one mismatch``.
    name
        Of the group; for k-mers the motif.
    members
        Their columns.
    """

    kind: str
    name: str
    members: tuple[int, ...]


def kmer_of(feature: str) -> str | None:
    """Return the letters of a k-mer feature, None for any other.

    Examples
    --------
    >>> kmer_of("5mer_GTAAG"), kmer_of("3mer_GTAAG"), kmer_of("gc_content")
    ('GTAAG', None, None)
    """
    found = KMER.fullmatch(feature)
    return found[2] if found and int(found[1]) == len(found[2]) else None


def reverse_complement(kmer: str) -> str:
    """Return the same motif read on the other strand.

    Examples
    --------
    >>> reverse_complement("GTAAG")
    'CTTAC'
    """
    return kmer.translate(COMPLEMENT)[::-1]


def feature_groups(kinds: Sequence[str]) -> list[Group]:
    """Return one group for each kind, and k-mers against all others where both are there.

    Parameters
    ----------
    kinds
        Kind of each feature: ``5-mer`` for k-mers, else any name.
    """
    names = sorted(set(kinds))
    groups = [
        Group("kind of feature", name, tuple(n for n, kind in enumerate(kinds) if kind == name)) for name in names
    ]
    is_kmer = [kind.endswith("-mer") for kind in kinds]
    if any(is_kmer):
        groups.append(Group("kind of feature", "all k-mers", tuple(n for n, one in enumerate(is_kmer) if one)))
        if not all(is_kmer):
            groups.append(Group("kind of feature", "all others", tuple(n for n, one in enumerate(is_kmer) if not one)))
    return groups


def kmer_families(features: Sequence[str]) -> tuple[list[Group], list[str]]:
    """Return k-mers grouped with their reverse complement and with all that differ in one letter, and what is left out.

    A k-mer alone in its group is no family. Families of one mismatch are named by their centre and overlap: a k-mer is in
    its own and in those of its neighbours.
    """
    column = {kmer: number for number, name in enumerate(features) if (kmer := kmer_of(name))}
    both, notes = [], []
    for kmer in sorted(column, key=lambda one: (len(one), one)):
        other = reverse_complement(kmer)
        if kmer < other and other in column:
            both.append(Group("reverse complement", f"{kmer}/{other}", (column[kmer], column[other])))
    near = []
    for k in sorted({len(kmer) for kmer in column}):
        centres = sorted(kmer for kmer in column if len(kmer) == k)
        if len(centres) > MOST_CENTRES:
            notes.append(
                f"no one-mismatch families of {len(centres):,} {k}-mers: more than {MOST_CENTRES:,} take too long"
            )
            continue
        for centre in centres:
            others = (centre[:at] + letter + centre[at + 1 :] for at in range(k) for letter in "ACGT")
            members = sorted({column[one] for one in others if one in column} | {column[centre]})
            if len(members) > 1:
                near.append(Group("one mismatch", centre, tuple(members)))
    return both + near, notes


def group_sums(values: NDArray[np.float64], groups: Sequence[Group]) -> NDArray[np.float64]:
    """Return the sums of values over the members of each group: (n_features, n_rows) to (n_groups, n_rows)."""
    sums = np.empty((len(groups), values.shape[1]))
    for first in range(0, len(groups), GROUPS_AT_ONCE):
        some = groups[first : first + GROUPS_AT_ONCE]
        members = np.concatenate([group.members for group in some])
        starts = np.cumsum([0] + [len(group.members) for group in some[:-1]])
        sums[first : first + len(some)] = np.add.reduceat(values.take(members, axis=0), starts, axis=0)
    return sums
