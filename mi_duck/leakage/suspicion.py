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
5. **last digits**: what is left of a value after some decimals, or its last bit, is near perfect although the value is not.
6. **gene's share**: one value per gene that ranks the genes by their share of a class, as a code made of the labels does.
   An honest property of genes, such as their length, is far from a rank correlation of .9.
7. **above the base scores**: half as many pairs in wrong order as the best base score leaves in any comparison (if that
   reaches .9), by a feature that is not correlated with it. Another good measurement of the same sequence would be.

Features derived from base scores, or from the same sequence by another model, may be nearly perfect too. They are
**correlated with the base score** within a class (rank correlation of .2 or more), which a code of the label is not.
Such a feature is

- flagged by 4 only if it separates rows of similar base score: by an area of .995 within twentieths of the base score,
  where the base score itself has less than .98;
- never flagged by 3;
- not flagged by 2 if it is correlated in the rows where it differs from the other column, for derived scores that are
  rounded to 1 are equal. If only one column of a pair is correlated there, the other one is flagged.

Between two site classes, which one motif can separate, rule 4 holds only for columns that tell neither of the two from the
background (area below .85): a score of one kind of site, or of both with different signs, should separate them. A cut counts
there only for columns of at most 4 values, and only if there are base scores to correlate with. Base scores are flagged by 1
and 2 only, and never excluded by the program.
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
KNOWS_SITES = 0.85
KNOWS_SHARE = 0.9
BASE_KNOWS = 0.9
ORDINARY = 0.98
LEAST_ROWS, LEAST_GROUPS = 30, 10

RULE = (
    "missing: whether the value is missing has an area of at least 0.6",
    "copy: whether it equals another column (in a value that most rows do not have) has an area of at least 0.9, or 0.6 and "
    "it does so in every row of one side",
    "constant: one value in every row of one side and an area of at least 0.6; for a class against the rest only",
    "near perfect: an area of at least 0.995 over all rows or within genes, or a best cut with a coefficient of 0.85",
    "features correlated with the base score within a class (0.2 or more) are near perfect only among rows of similar base score",
    "features correlated with the base score are not flagged as constants, nor as copies if they are correlated where the "
    "two columns differ",
    "near perfect between two classes other than the background counts only if neither is told from it by an area of 0.85",
    "last digits: what is left of the value after some decimals has an area of at least 0.995, the value itself below 0.98",
    "gene's share: one value per gene, with a rank correlation of at least 0.9 with the gene's share of rows of a class",
    "above the base scores: at most half as many pairs in wrong order as the best base score, which reaches 0.9; not for "
    "features correlated with the base score",
    "areas are lower ends of 95 % intervals over fold groups; at least 30 rows and 10 fold groups on each side",
)
RULE_ALONE = tuple(words for words in RULE if "base score" not in words)
"""The same where there are no base scores."""

LIMITS = (
    "A column that is the label with so much noise that its area stays below 0.995 looks like a good measurement. It is found "
    "only where base scores of an area of 0.9 or more leave twice as many pairs in wrong order.",
    "Without base scores a strong column cannot be told from a leak between these bounds: look at the columns of the largest "
    "areas.",
    "Last digits are found where they rise or fall with the label in nearly all rows; trees with their few hundred cuts per "
    "column rarely reach others.",
    "Columns that leak only together, or in a few groups, are not found; nor is a value that is right at training and unknown "
    "at prediction.",
)
"""What the rule cannot find; the report says it."""
LIMITS_ALONE = (
    "A strong column cannot be told from a leak below an area of 0.995: look at the columns of the largest areas.",
    *LIMITS[2:],
)
"""The same where there are no base scores."""


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
    from_background
        Between two site classes, the larger area by which the feature tells one of them from the background; else None.
    digits, digits_name
        Area of the part of the value that separates best of `mi_duck.leakage.separation.last_digits`; None where none can.
    share_correlation, share_low
        Rank correlation, over genes, of the feature's one value per gene with the gene's share of the one side, and the lower
        end of its 95 % interval; None where it has several values in a gene.
    best_base
        Largest area of a base score in any comparison; None without base scores.
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
    from_background: float | None = None
    digits: Area | None = None
    digits_name: str = ""
    share_correlation: float | None = None
    share_low: float | None = None
    best_base: float | None = None
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
    hidden = _hidden(evidence, comparison)
    if hidden or (is_correlated and not _separates_beyond_base(evidence)):
        return hidden
    return _near_perfect(evidence, comparison) or _above_base(evidence, comparison)


def _hidden(evidence: Evidence, comparison: Comparison) -> str:
    """Return in words where the label hides in a feature that looks ordinary: its last digits, or its one value per gene."""
    if evidence.digits is not None and evidence.digits.low >= NEAR_PERFECT and evidence.whole.value < ORDINARY:
        return (
            f"area {evidence.digits.value:.4f} between {comparison.one_name} and {comparison.other_name} in "
            f"{evidence.digits_name}, {evidence.whole.value:.2f} in the value itself"
        )
    if evidence.share_low is not None and evidence.share_low >= KNOWS_SHARE:
        return (
            f"has one value per gene, which ranks genes by their share of {comparison.one_name} rows "
            f"(rank correlation {evidence.share_correlation:.3f})"
        )
    return ""


def _above_base(evidence: Evidence, comparison: Comparison) -> str:
    """Return in words how a feature that knows nothing of the base score is far better; empty where it is not."""
    base = evidence.best_base
    if base is None or base < BASE_KNOWS or comparison.is_between_sites or evidence.correlation_with_base is None:
        return ""
    if evidence.whole.low < 1 - (1 - base) / 2:
        return ""
    return (
        f"area {evidence.whole.value:.4f} between {comparison.one_name} and {comparison.other_name}, where the best base "
        f"score reaches {base:.4f} and is not correlated with it"
    )


def _is_correlated(correlation: float | None) -> bool:
    return correlation is not None and correlation >= CORRELATED


def _near_perfect(evidence: Evidence, comparison: Comparison) -> str:
    """Return in words how a feature separates the sides almost without error; empty where it does not."""
    sides = f"{comparison.one_name} and {comparison.other_name}"
    if evidence.from_background is not None and evidence.from_background >= KNOWS_SITES:
        return ""
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
