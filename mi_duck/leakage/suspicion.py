"""The rule that flags features which leak the label: by how they were made, not by what they measure.

**Why** a strong feature alone is not flagged: a base score separates donors from other rows with an area of .99, and
should. What a measurement cannot do is (1) be missing according to the label, (2) be a copy of another column according
to the label, (3) be constant in all rows of a class, (4) separate the classes almost without error. A noisy code of the
label that correlates with it by .9 is caught by 4: at one site in ten rows its area is above .9999 if the noise is normal,
and the Matthews coefficient of its best cut is .9 if labels were flipped, where an honest feature of area .97 reaches .75
(.82 at equal classes). So a feature is flagged by `RULE` for one of:

1. **missing**: an area of .6 means shares that differ by .2.
2. **copy**: of the two columns the one that separates the classes better by itself is flagged, or if their areas differ by
   less than .05 the later one.
3. **constant**: only for a class against the rest, since a detector of one kind of site may well be zero at every site of
   another kind.
4. **near perfect**: also over the pairs within genes, since a length of the transcript for sites and of the gene for other
   rows shows only there.

Features derived from base scores, or from the same sequence by another model, may be nearly perfect too. They are
**correlated with the base score** within a class (rank correlation of .2 or more), which a code of the label is not.
Such a feature is

- flagged by 4 only if it separates rows of similar base score: by an area of .995 within twentieths of the base score,
  where the base score itself has less than .98;
- never flagged by 3;
- not flagged by 2 if it is correlated in the rows where it differs from the other column, for derived scores that are
  rounded to 1 are equal. If only one column of a pair is correlated there, the other one is flagged.

Between two site classes, which one motif can separate, a cut counts only for columns of at most 4 values, and only if
there are base scores to correlate with. Base scores are flagged by 1 and 2 only, and never excluded by the program.
"""

from dataclasses import dataclass

from mi_duck.leakage.separation import Area, Cut, Share

MISSING_AREA = 0.6
COPY_AREA, ALWAYS_AREA = 0.9, 0.6
ALWAYS, ALWAYS_ROWS = 0.999, 300
NEAR_PERFECT = 0.995
CODE_COEFFICIENT = 0.85
VALUES_OF_CODE = 4
LEAST_AREA_OF_CODE = 0.86  # its shares differ by the square of the coefficient at least
CORRELATED = 0.2
BASE_EXPLAINS = 0.98
LEAST_ROWS, LEAST_GROUPS = 30, 10

RULE = (
    "missing: whether the value is missing has an area of at least 0.6",
    "copy: whether it equals another column has an area of at least 0.9, or 0.6 and it does so in every row of one side",
    "constant: one value in every row of one side and an area of at least 0.6; for a class against the rest only",
    "near perfect: an area of at least 0.995 over all rows or within genes, or a best cut with a coefficient of 0.85; "
    "for features correlated with the base score within a class (0.2 or more) only among rows of similar base score",
    "features correlated with the base score are not flagged as constants, nor as copies if they are correlated where the "
    "two columns differ",
    "areas are lower ends of 95 % intervals over fold groups; at least 30 rows and 10 fold groups on each side",
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides, and how much of each the sample holds.

    Parameters
    ----------
    name
        Such as ``donor vs rest`` or ``donor vs acceptor``.
    is_between_sites
        Whether both sides are single classes other than the background.
    groups_one, groups_other
        Fold groups with rows of each side.
    """

    name: str
    one_name: str
    other_name: str
    is_between_sites: bool
    n_one: int
    n_other: int
    groups_one: int
    groups_other: int

    @property
    def is_large_enough(self) -> bool:
        """Whether a feature may be flagged by it."""
        return min(self.n_one, self.n_other) >= LEAST_ROWS and min(self.groups_one, self.groups_other) >= LEAST_GROUPS


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one comparison shows of one feature.

    Parameters
    ----------
    whole, within
        Area over all pairs of rows, and over those within genes (None where it cannot be near perfect).
    cut
        Best cut, None where it cannot be good enough.
    constant, constant_value
        Whether it has the value whose share differs most between the sides, and that value.
    equality, equal_to
        Whether it equals the column whose equality separates best, and that column; None and empty without any.
    correlation_with_base
        Largest rank correlation with base scores within a class; None without base scores or where it was not needed.
    correlation_where_unequal
        The same over the rows in which it does not equal the other column.
    beyond_base, base_alone
        Area among rows of similar base score, of the feature and of the base score; None where there are too few pairs.
    """

    is_base_score: bool
    whole: Area
    within: Area | None
    cut: Cut | None
    missing: Share
    constant: Share
    constant_value: float
    equality: Share | None
    equal_to: str
    correlation_with_base: float | None = None
    correlation_where_unequal: float | None = None
    beyond_base: Area | None = None
    base_alone: Area | None = None


def reason_to_flag(evidence: Evidence, comparison: Comparison) -> str:
    """Return in words why a feature is flagged; empty where it is not."""
    if not comparison.is_large_enough:
        return ""
    sides = (comparison.one_name, comparison.other_name)
    if evidence.missing.area.low >= MISSING_AREA:
        return f"missing in {_shares(evidence.missing, sides)}"
    if (
        evidence.equality is not None
        and not _is_correlated(evidence.correlation_where_unequal)
        and (evidence.equality.area.low >= COPY_AREA or _holds_on_a_side(evidence.equality, comparison))
    ):
        return f"equals {evidence.equal_to} in {_shares(evidence.equality, sides)}"
    if evidence.is_base_score:
        return ""
    is_correlated = _is_correlated(evidence.correlation_with_base)
    if not (comparison.is_between_sites or is_correlated) and _holds_on_a_side(evidence.constant, comparison):
        return f"is {evidence.constant_value:g} in {_shares(evidence.constant, sides)}"
    if is_correlated and not _separates_beyond_base(evidence):
        return ""
    return _near_perfect(evidence, comparison)


def _is_correlated(correlation: float | None) -> bool:
    return correlation is not None and correlation >= CORRELATED


def _near_perfect(evidence: Evidence, comparison: Comparison) -> str:
    """Return in words how a feature separates the sides almost without error; empty where it does not."""
    sides = f"{comparison.one_name} and {comparison.other_name}"
    if evidence.whole.low >= NEAR_PERFECT:
        return f"area {evidence.whole.value:.4f} between {sides}"
    if evidence.within is not None and evidence.within.low >= NEAR_PERFECT:
        return f"area {evidence.within.value:.4f} between {sides} within genes"
    may_count = not comparison.is_between_sites or evidence.correlation_with_base is not None
    if may_count and evidence.cut is not None and evidence.cut.low >= CODE_COEFFICIENT:
        return f"one cut separates {sides} with a Matthews coefficient of {evidence.cut.coefficient:.2f}"
    return ""


def _holds_on_a_side(found: Share, comparison: Comparison) -> bool:
    """Return whether a statement holds for every row of one side and separates the sides."""
    if not found.area.low >= ALWAYS_AREA:
        return False
    return (found.of_one >= ALWAYS and comparison.n_one >= ALWAYS_ROWS) or (
        found.of_other >= ALWAYS and comparison.n_other >= ALWAYS_ROWS
    )


def _separates_beyond_base(evidence: Evidence) -> bool:
    return (
        evidence.beyond_base is not None
        and evidence.base_alone is not None
        and evidence.beyond_base.low >= NEAR_PERFECT
        and evidence.base_alone.value < BASE_EXPLAINS
    )


def _shares(found: Share, sides: tuple[str, str]) -> str:
    return f"{100 * found.of_one:.3g} % of {sides[0]} rows and {100 * found.of_other:.3g} % of {sides[1]} rows"
