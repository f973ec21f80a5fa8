"""Decides from evidence whether a feature tells the label by its making, not by what it measures.

**Why** strength alone accuses nobody: a base score separates donors from other rows with an area of .99, and should. What
a measurement cannot do is (1) be absent according to the label, (2) be a copy of another column according to the label,
(3) be one constant for every row of a class, (4) leave nothing over. A noisy code of the label that correlates with it
by .9 leaves next to nothing over: at one site in ten rows its area is above .9999 if the noise is normal, and Matthews'
coefficient of its best cut is .9 if labels were flipped, where an honest feature of area .97 reaches .75 (.82 at equal
classes). So:

1. **missing**: whether the value is there has an area of at least .6, that is shares that differ by .2.
2. **copy**: whether it equals another column has an area of at least .9, or of .6 if it does so in every row of one side.
   Of the two columns the one is meant that tells more of the label itself, or if their areas differ by less than .05
   the later one.
3. **constant**: it has one value in every row of one side, and often another on the other side (an area of .6). Only
   for a class against the rest: a detector of one kind of site may well be zero at every site of another kind.
4. **near perfect**: an area of at least .995 over all pairs of rows, or over the pairs within genes (a length of the
   transcript for sites and of the gene for other rows shows only there), or a cut with a coefficient of .85.

All of these are lower ends of 95 % intervals over fold groups, and a comparison with fewer than 30 rows or 10 fold
groups on a side is not judged: a small sample accuses nobody.

Features derived from base scores, or from the same sequence by another model, may be nearly perfect too. They are
known by their **correlation_with_base**: inside a class they still move with the base scores (rank correlation of .2 or more), while a
code of the label knows nothing inside a class. Kin is accused by 4 only if it separates rows that the base scores find
alike, by an area of .995 within twentieths of the base score, where the base score itself has less than .98; and by 3
never. It is not accused by 2 if it is correlation_with_base in the rows where it does not equal the other: derived scores that are rounded
to 1 are equal; of a pair of which one is correlation_with_base there, the other one is meant. Between two site classes, which one motif can
part, a cut is judged only for columns of at most 4 values, and only with base scores: without them nothing is correlation_with_base.
Base scores are accused by 1 and 2 only, and never excluded by the program.
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
    "missing: whether the value is there has an area of at least 0.6",
    "copy: whether it equals another column has an area of at least 0.9, or 0.6 and it does so in every row of one side",
    "constant: one value in every row of one side and an area of at least 0.6; for a class against the rest only",
    "near perfect: an area of at least 0.995 over all rows or within genes, or a best cut with a coefficient of 0.85; "
    "for features that move with the base scores inside a class (0.2 or more) only among rows of like base score",
    "features that move with the base scores are not judged as constants, nor as copies if they move where they differ",
    "areas are lower ends of 95 % intervals over fold groups; at least 30 rows and 10 fold groups on each side",
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides, and how much of each the sample holds.

    Parameters
    ----------
    name
        Such as ``donor vs rest`` or ``donor vs acceptor``.
    one_name, other_name
        Names of the sides, for sentences.
    is_between_sites
        Whether both sides are single classes other than the background.
    n_one, n_other
        Rows of each side.
    groups_one, groups_other
        Fold groups with such rows.
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
        """Whether it may accuse."""
        return min(self.n_one, self.n_other) >= LEAST_ROWS and min(self.groups_one, self.groups_other) >= LEAST_GROUPS


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one comparison says of one feature.

    Parameters
    ----------
    is_base_score
        Whether it is the base model's.
    whole, within
        Area over all pairs of rows, and over those within genes (None where it cannot be near perfect).
    cut
        Best cut, None where it cannot be good enough.
    missing
        Whether it is missing.
    constant, constant_value
        Whether it has its most telling value, and that value.
    equality, equal_to
        Whether it equals another column, for the most telling one; None and empty without any.
    correlation_with_base
        Largest rank correlation with base scores inside a class; None without base scores or where it was not needed.
    correlation_apart
        The same over the rows in which it does not equal the other column.
    beyond, base_beyond
        Area among rows of like base score, of the feature and of the base score; None where there are too few such pairs.
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
    correlation_apart: float | None = None
    beyond: Area | None = None
    base_beyond: Area | None = None


def judge(evidence: Evidence, comparison: Comparison) -> str:
    """Return why a feature is suspect, in words; empty where it is not."""
    if not comparison.is_large_enough:
        return ""
    sides = (comparison.one_name, comparison.other_name)
    is_correlated = evidence.correlation_with_base is not None and evidence.correlation_with_base >= CORRELATED
    if evidence.missing.area.low >= MISSING_AREA:
        return f"missing in {_shares(evidence.missing, sides)}"
    is_correlated_apart = evidence.correlation_apart is not None and evidence.correlation_apart >= CORRELATED
    if evidence.equality is not None and not is_correlated_apart and _is_copy(evidence.equality, comparison):
        return f"equals {evidence.equal_to} in {_shares(evidence.equality, sides)}"
    if evidence.is_base_score:
        return ""
    if not (comparison.is_between_sites or is_correlated) and _holds_on_a_side(evidence.constant, comparison):
        return f"is {evidence.constant_value:g} in {_shares(evidence.constant, sides)}"
    words = near_perfect(evidence, comparison)
    if words and is_correlated and not _separates_beyond_base(evidence):
        return ""
    return words


def near_perfect(evidence: Evidence, comparison: Comparison) -> str:
    """Return in words how a feature leaves nothing over, whatever its correlation_with_base; empty where it does not."""
    if evidence.whole.low >= NEAR_PERFECT:
        return f"area {evidence.whole.value:.4f} between {comparison.one_name} and {comparison.other_name}"
    if evidence.within is not None and evidence.within.low >= NEAR_PERFECT:
        return (
            f"area {evidence.within.value:.4f} between {comparison.one_name} and {comparison.other_name} within genes"
        )
    if (
        evidence.cut is not None
        and evidence.cut.low >= CODE_COEFFICIENT
        and not (comparison.is_between_sites and evidence.correlation_with_base is None)
    ):
        return (
            f"one cut parts {comparison.one_name} from {comparison.other_name} with Matthews' coefficient "
            f"{evidence.cut.coefficient:.2f}"
        )
    return ""


def _is_copy(equality: Share, comparison: Comparison) -> bool:
    """Return whether a feature equals another according to the label."""
    return equality.area.low >= COPY_AREA or _holds_on_a_side(equality, comparison)


def _holds_on_a_side(found: Share, comparison: Comparison) -> bool:
    """Return whether a statement holds for every row of one side and tells the sides apart."""
    if not found.area.low >= ALWAYS_AREA:
        return False
    return (found.of_one >= ALWAYS and comparison.n_one >= ALWAYS_ROWS) or (
        found.of_other >= ALWAYS and comparison.n_other >= ALWAYS_ROWS
    )


def _separates_beyond_base(evidence: Evidence) -> bool:
    return (
        evidence.beyond is not None
        and evidence.base_beyond is not None
        and evidence.beyond.low >= NEAR_PERFECT
        and evidence.base_beyond.value < BASE_EXPLAINS
    )


def _shares(found: Share, sides: tuple[str, str]) -> str:
    return f"{100 * found.of_one:.3g} % of {sides[0]} rows and {100 * found.of_other:.3g} % of {sides[1]} rows"
