"""Scores base model, members and every variant of the ensemble on all rows out of fold; writes the tables of a run.

All rows are scored by boosters that never saw the row's fold group, and every interval is by the same draws of fold groups, so
that differences can be told from noise.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_duck.checkpoint import write_csv
from mi_duck.children import Report
from mi_duck.ensemble.calibration_report import values_of
from mi_duck.ensemble.comparison import gene_deltas
from mi_duck.ensemble.member_scores import MemberScores, open_member_scores
from mi_duck.ensemble.out_of_fold import calibration_methods
from mi_duck.ensemble.score_files import (
    forget_diagnostics,
    write_calibration,
    write_comparison,
    write_coverage,
    write_curves,
    write_neighbours,
)
from mi_duck.ensemble.scored_rows import Scored, base_model, scored_rows
from mi_duck.ensemble.variants import Variant, Voted, variants, vote_out_of_fold
from mi_duck.ensemble.weights import MemberWeights
from mi_duck.folders import RunFolder
from mi_duck.plan.plan import Plan
from mi_duck.train.evaluate import DRAWS, Drawn, Metric, differences, headline_scores, known, short_names, summary
from mi_duck.train.instances import Genes, read_genes

STAGE = "scoring base, members and ensemble"


def evaluate_run(
    *,
    run: str,
    calibration_analysis: bool = True,
    neigh_sample: int = 0,
    is_minimal: bool = False,
    report: Report,
) -> None:
    """Score a consolidated run and write ``metrics.csv`` and the tables beside it.

    Parameters
    ----------
    run
        Run folder whose member scores are still in its scratch.
    calibration_analysis
        Whether to write ``calibration_analysis/``.
    neigh_sample
        True sites whose neighbourhood is written to ``neighbour_diagnostics/``; 0 writes none.
    is_minimal
        Leave out intervals, curves and neighbourhoods.
    report
        Told (stage, scored, models of all).

    Raises
    ------
    CheckpointError
        The run is not consolidated, or its scratch was deleted.
    """
    folder = RunFolder(Path(run))
    plan = folder.read_plan()
    genes = read_genes(folder, plan)
    scores = open_member_scores(folder, plan)
    scored = scored_rows(plan, genes, scores, 0 if is_minimal else DRAWS)
    consolidated = json.loads(folder.summary.read_bytes())
    chosen = next(one for one in variants() if one.name == consolidated["variant"])
    weights = {name: MemberWeights.from_dict(values) for name, values in consolidated["all_weights"].items()}
    table = _Table(scored)
    n_members = len(scores.instance_ids)
    steps = _Steps(report, bool(plan.base_scores) + len(variants()) + 2 * n_members)
    base = base_model(plan, scores, scored) if plan.base_scores else None
    base_drawn: Drawn = {}
    if base is not None:
        base_drawn = scored.drawn(base.chances)
        table.add("base", base_drawn, variant="cross-fitted calibration")
        steps.next()
    voted, drawn = _score_variants(plan, scores, scored, weights, chosen, table, steps)
    comparison = _score_members(plan, genes, scores, scored, consolidated, table, steps)
    if base is not None:
        table.add("difference", differences(drawn, base_drawn), variant="ensemble - base")
    if n_members > 1:
        for place, instance_id in enumerate(scores.instance_ids):
            rest = vote_out_of_fold(
                scores,
                chosen.voting,
                weights[chosen.name].without(place),
                first_row=scored.first_row,
                methods=calibration_methods(plan),
            ).chances[scored.first_row :]
            left = headline_scores(rest, scored.label, scored.group, scored.classes, weights=scored.weights)
            name = f"without instance_{instance_id:02d}"
            table.add("ensemble", left, variant=name)
            table.add("difference", differences(left, drawn), variant=f"{name} - ensemble")
            steps.next()
    write_csv(folder.metrics, table.lines)
    write_csv(folder.instance_comparison, comparison)
    meta = voted.chances[scored.first_row :]
    gene_ids = [str(name) for name in genes.gene_id[plan.pilot_genes : plan.n_genes]]
    write_coverage(folder, plan, scores.instance_ids)
    base_chances = None if base is None else base.chances
    write_csv(
        folder.gene_deltas,
        gene_deltas(base_chances, meta, scored.label, scored.gene, scored.classes, gene_ids=gene_ids),
    )
    positions = scores.positions()
    positions = None if positions is None else positions[scored.first_row :]
    write_comparison(folder, base_chances, meta, scored, positions, drawn, base_drawn)
    forget_diagnostics(folder)
    if not is_minimal:
        write_curves(folder, base_chances, meta, scored)
    if calibration_analysis:
        write_calibration(folder, plan, scores, scored, base, voted, chosen, weights[chosen.name])
    if neigh_sample and not is_minimal:
        write_neighbours(folder, base_chances, meta, scored, positions, gene_ids, neigh_sample)
    steps.end()


class _Table:
    """The lines of ``metrics.csv``."""

    def __init__(self, scored: Scored) -> None:
        self._scored = scored
        self.lines: list[dict[str, Any]] = []

    def add(
        self,
        scope: str,
        drawn: Drawn,
        *,
        variant: str,
        instance_id: int | None = None,
        evaluated_on: str = "oof",
        is_chosen: bool = False,
        rows: NDArray[np.bool_] | None = None,
    ) -> list[Metric]:
        """Add a line a score, and return the scores."""
        found = summary(drawn)
        genes = self._scored.gene if rows is None else self._scored.gene[rows]
        n_genes, n_rows = int(np.count_nonzero(np.bincount(genes))), len(genes)
        for one in found:
            self.lines.append(
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
                | values_of(one)
                | {"n_genes": n_genes, "n_rows": n_rows}
            )
        return found


class _Steps:
    """Counts what is scored."""

    def __init__(self, report: Report, total: int) -> None:
        self._report, self._total, self._done = report, total, 0
        report(STAGE, 0, total)

    def next(self) -> None:
        """Count one more."""
        self._done += 1
        self._report(STAGE, min(self._done, self._total), self._total)

    def end(self) -> None:
        """Say that all is done."""
        self._report(STAGE, self._total, self._total)


def _score_variants(
    plan: Plan,
    scores: MemberScores,
    scored: Scored,
    weights: dict[str, MemberWeights],
    chosen: Variant,
    table: _Table,
    steps: _Steps,
) -> tuple[Voted, Drawn]:
    """Score every variant, and return what the chosen one gives and its scores."""
    # equal weights need not be scored twice, and every variant is scored under the same draws
    known: dict[tuple[str, MemberWeights], Drawn] = {}
    methods = calibration_methods(plan)
    voted = vote_out_of_fold(scores, chosen.voting, weights[chosen.name], first_row=scored.first_row, methods=methods)
    drawn = scored.drawn(voted.chances[scored.first_row :])
    known[chosen.voting, weights[chosen.name]] = drawn
    for variant in variants():
        key = variant.voting, weights[variant.name]
        if key not in known:
            chances = vote_out_of_fold(scores, *key, first_row=scored.first_row, methods=methods).chances
            known[key] = scored.drawn(chances[scored.first_row :], sites_only=True)
            del chances  # before the next one is made
        table.add("ensemble", known[key], variant=variant.name, is_chosen=variant == chosen)
        steps.next()
    return voted, drawn


def _score_members(
    plan: Plan,
    genes: Genes,
    scores: MemberScores,
    scored: Scored,
    consolidated: dict[str, Any],
    table: _Table,
    steps: _Steps,
) -> list[dict[str, Any]]:
    """Score each member on its own rows, on all, and on groups that its window lacks; return a line a member."""
    group_of_gene = genes.group[plan.pilot_genes : plan.n_genes]
    weight_of = {one["instance_id"]: one["weight"] for one in consolidated["members"]}
    comparison = []
    for instance_id in scores.instance_ids:
        instance = plan.instance(instance_id)
        chances = scores.chances(instance_id)[scored.first_row :]
        own = (scored.rank >= instance.first_rank) & (scored.rank < instance.stop_rank)
        window = genes.group[instance.first_rank : instance.stop_rank]
        unseen = ~np.isin(group_of_gene, np.unique(window))[scored.gene]
        facts: dict[str, Any] = {"variant": "own calibration", "instance_id": instance_id}
        found = table.add("member", scored.drawn(chances), **facts)
        for name, rows in (("own", own), ("unseen", unseen)):
            if rows.any():
                table.add("member", scored.drawn_part(chances, rows), evaluated_on=name, rows=rows, **facts)
        comparison.append(
            {
                "instance_id": instance_id,
                "n_genes": instance.n_genes,
                "n_rows": instance.n_rows,
                "weight": weight_of[instance_id],
                "n_rows_scored": len(scored.label),
            }
            | {name: known(value) for name, value in short_names(found).items()}
        )
        steps.next()
    return comparison
