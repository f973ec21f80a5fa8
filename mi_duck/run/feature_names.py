"""The names of features: what a feature describes, and which features belong together.

The genome builder and the synthetic dataset take their columns from these names. Groups are by kind, and k-mers that are
the same motif on the other strand or with one letter changed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_PROBABILITY = (
    *("relative_donor_probability", "splice_probability", "donor_acceptor_diff", "splice_neither_diff"),
    *("donor_acceptor_logodds", "splice_neither_logodds", "probability_entropy"),
)
_CONTEXT = (
    *("context_score_m2", "context_score_m1", "context_score_p1", "context_score_p2"),
    *("context_neighbor_mean", "context_asymmetry", "context_max"),
)
_SITE_SUFFIXES = (
    *("diff_m1", "diff_m2", "diff_p1", "diff_p2", "surge_ratio", "is_local_peak", "weighted_context"),
    *("peak_height_ratio", "second_derivative", "signal_strength", "context_diff_ratio"),
)
_CROSS = (*("donor_acceptor_peak_ratio", "type_signal_difference", "score_difference_ratio", "signal_strength_ratio"),)

BASE_SCORES: tuple[str, ...] = ("donor_score", "acceptor_score", "neither_score")
SCORE_FEATURES: tuple[str, ...] = (
    *(*BASE_SCORES, *_PROBABILITY, *_CONTEXT),
    *(f"{site}_{suffix}" for site in ("donor", "acceptor") for suffix in _SITE_SUFFIXES),
    *_CROSS,
)
SEQUENCE_FEATURES: tuple[str, ...] = ("gc_content", "sequence_length", "sequence_complexity")
GENE_FEATURES: tuple[str, ...] = (
    *("gene_length", "distance_to_start", "distance_to_end", "num_overlaps", "gene_start", "gene_end", "tx_start"),
    *("tx_end", "transcript_length", "num_exons", "avg_exon_length", "median_exon_length", "total_exon_length"),
    *("total_intron_length", "n_splice_sites", "has_gene_info", "has_tx_info", "missing_transcript_feats"),
)

KMER = re.compile(r"(\d+)mer_([ACGTN]+)")
CONTEXT_SCORE = re.compile(r"context_score_[mp]\d+")
COMPLEMENT = str.maketrans("ACGTN", "TGCAN")
MOST_CENTRES = 4096  # one-mismatch families per k: all 6-mers; those of 7-mers would take longer than the SHAP values


def feature_kind(name: str) -> str:
    """Return what a feature describes, from its name alone.

    It is "k-mer", "base score", "score" (derived from the base scores), "sequence", "gene" or "other".

    Examples
    --------
    >>> feature_kind("3mer_ACG"), feature_kind("donor_score"), feature_kind("donor_surge_ratio")
    ('k-mer', 'base score', 'score')
    >>> feature_kind("gc_content"), feature_kind("gene_length"), feature_kind("phylop")
    ('sequence', 'gene', 'other')
    """
    if KMER.fullmatch(name):
        return "k-mer"
    if name in BASE_SCORES:
        return "base score"
    if name in SCORE_FEATURES or CONTEXT_SCORE.fullmatch(name):
        return "score"
    if name in SEQUENCE_FEATURES:
        return "sequence"
    return "gene" if name in GENE_FEATURES else "other"


@dataclass(frozen=True, slots=True)
class Group:
    """Features whose SHAP values are summed.

    Parameters
    ----------
    kind
        ``kind of feature``, ``reverse complement`` or ``one mismatch``.
    members
        Indices of the features.
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
    """Return one group per kind, one of all k-mers, and one of all other features where there are both.

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

    A k-mer alone in its group is not a family. Families of one mismatch are named by their centre and overlap: a k-mer is in
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
