"""The rows of a run that are scored, the base model on them, and the lines of ``metrics.csv``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_duck.ensemble.consolidate import first_scored_row
from mi_duck.ensemble.member_scores import MemberScores
from mi_duck.metrics.calibrate import BaseModel, base_model, gaps_above
from mi_duck.metrics.metrics import Drawn, Metric, draw_groups, drawn_scores, too_narrow
from mi_duck.metrics.ranking import Booleans, Floats, Floats32, Integers
from mi_duck.run.genes import GeneFolds
from mi_duck.run.plan import Plan


@dataclass(frozen=True, slots=True)
class Scored:
    """The rows that count, and what all scores share.

    Parameters
    ----------
    first_scored
        Rows of the run before it are not scored.
    label, fold, gene, group, rank
        Of each row, shape (n_rows,): class, fold, gene from 0 in the order of ranks, fold group from 0, gene rank.
    group_draws
        Draws of the fold groups, shape (1 + draws, n_groups); see `mi_duck.metrics.metrics.draw_groups`.
    """

    classes: tuple[str, ...]
    first_scored: int
    label: NDArray[np.uint8]
    fold: NDArray[np.int8]
    gene: NDArray[np.int32]
    group: NDArray[np.int32]
    rank: NDArray[np.int32]
    gene_ids: tuple[str, ...]
    group_draws: Integers
    seed: int
    draws: int

    def drawn(self, probabilities: Floats32, *, ranked: Floats | None = None, sites_only: bool = False) -> Drawn:
        """Score all rows, ranked by their probabilities or by other scores."""
        return drawn_scores(
            probabilities,
            self.label,
            self.group,
            self.classes,
            group_draws=self.group_draws,
            genes=self.gene,
            ranked=ranked,
            sites_only=sites_only,
        )

    def gaps(self, probabilities: Floats) -> Drawn:
        """Return how far the probabilities of all rows are off above those of `ABOVE`."""
        return gaps_above(probabilities, self.label, self.group, self.classes, group_draws=self.group_draws)

    def drawn_part(self, probabilities: Floats32, rows: Booleans) -> Drawn:
        """Score some rows, by draws of their own groups."""
        group = _renumbered(self.group[rows])
        return drawn_scores(
            probabilities[rows],
            self.label[rows],
            group,
            self.classes,
            group_draws=draw_groups(group, seed=self.seed, draws=self.draws),
            genes=_renumbered(self.gene[rows]),
            sites_only=True,
        )


def _renumbered(codes: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return numbers from 0 without gaps, in the same order; without the sort that `numpy.unique` takes."""
    is_there = np.bincount(codes) > 0
    numbers: NDArray[np.int32] = (np.cumsum(is_there) - 1).astype(np.int32)[codes]
    return numbers


def scored_rows(plan: Plan, genes: GeneFolds, scores: MemberScores, draws: int) -> Scored:
    """Return the rows of a run that are scored: all but those of the genes that chose the features."""
    first_scored = first_scored_row(plan, scores.gene_rank)
    rank = scores.gene_rank[first_scored:]
    groups = np.unique(genes.group[plan.data.pilot_genes : plan.data.n_genes], return_inverse=True)[1].astype(np.int32)
    gene = rank - np.int32(plan.data.pilot_genes)
    return Scored(
        classes=plan.data.classes,
        first_scored=first_scored,
        label=scores.label[first_scored:],
        fold=scores.fold[first_scored:],
        gene=gene,
        group=groups[gene],
        rank=rank,
        gene_ids=tuple(str(name) for name in genes.gene_id[plan.data.pilot_genes : plan.data.n_genes]),
        group_draws=draw_groups(groups[gene], seed=plan.settings.seed, draws=draws),
        seed=plan.settings.seed,
        draws=draws,
    )


def base_model_of_run(plan: Plan, scores: MemberScores, scored: Scored) -> BaseModel:
    """Return the base model on the scored rows of a run."""
    return base_model(
        scores.base()[scored.first_scored :],
        scored.label,
        scored.fold,
        n_folds=scores.n_folds,
        is_calibrated=plan.settings.calibrate,
        weights=None if scores.weight is None else scores.weight[scored.first_scored :],
    )


def metric_lines(
    found: Sequence[Metric],
    *,
    scope: str,
    variant: str,
    n_genes: int,
    groups: Integers,
    instance_id: int | None = None,
    evaluated_on: str = "oof",
    is_chosen: bool = False,
) -> list[dict[str, Any]]:
    """Return the lines of ``metrics.csv`` with the scores of one model on some rows, whose fold groups are given."""
    caution = too_narrow(groups)
    return [
        {
            "scope": scope,
            "instance_id": "" if instance_id is None else instance_id,
            "evaluated_on": evaluated_on,
            "variant": variant,
            "is_chosen": int(is_chosen),
            "fold": "",
            "class": one.class_name,
            "metric": one.metric,
        }
        | one.values()
        | {"too_narrow": "" if np.isnan(one.low) else caution, "n_genes": n_genes, "n_rows": len(groups)}
        for one in found
    ]
