"""Scores base model, members and every variant of the ensemble on all rows out of fold; writes the tables of a run.

All rows are scored by boosters that never saw the row's fold group, and all intervals are by the same draws of fold groups, so
that differences can be separated from noise.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mi_duck.atomic_files import storage_errors, write_csv, write_json
from mi_duck.ensemble.member_scores import MemberScores, open_member_scores
from mi_duck.ensemble.voting import MemberWeights, Variant, Voted, variants, vote_out_of_fold
from mi_duck.evaluate.base_vs_meta import gene_deltas, write_comparison, write_neighbours
from mi_duck.evaluate.scored_rows import Scored, base_model_of_run, metric_lines, scored_rows
from mi_duck.metrics.base_model import NO_BASE, BaseModel
from mi_duck.metrics.calibrate import allowed_methods, logistic
from mi_duck.metrics.metrics import DRAWS, Drawn, Metric, differences, headline_scores, known, short_names, summary
from mi_duck.metrics.ranking import curve_points
from mi_duck.metrics.reliability import INTERVALS, calibration_facts, reliability
from mi_duck.processes import Report
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import Genes, read_genes
from mi_duck.run.plan import Plan

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
        Progress callback, called with (stage, models scored, models of all).

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
    steps = _Steps(report, bool(plan.data.base_scores) + len(variants()) + 2 * len(scores.instance_ids))
    base = base_model_of_run(plan, scores, scored) if plan.data.base_scores else None
    base_drawn: Drawn = {}
    if base is not None:
        base_drawn = scored.drawn(base.probabilities)
        table.add("base", base_drawn, variant="cross-fitted calibration")
        steps.next()
    voted, drawn = _score_variants(plan, scores, scored, weights, chosen, table, steps)
    comparison = _score_members(plan, genes, scores, scored, consolidated, table, steps)
    if base is not None:
        table.add("difference", differences(drawn, base_drawn), variant="ensemble - base")
    _score_without_each(plan, scores, scored, weights[chosen.name], chosen, drawn, table, steps)
    write_csv(folder.metrics, table.lines)
    write_csv(folder.instance_comparison, comparison)
    write_coverage(folder, plan, scores.instance_ids)
    meta = voted.probabilities[scored.first_row :]
    of_base = None if base is None else base.probabilities
    by_gene = gene_deltas(of_base, meta, scored.label, scored.gene, scored.classes, gene_ids=scored.gene_ids)
    write_csv(folder.gene_deltas, by_gene)
    positions = scores.positions()
    positions = None if positions is None else positions[scored.first_row :]
    write_comparison(folder, of_base, meta, scored, positions=positions, drawn=drawn, base_drawn=base_drawn)
    remove_diagnostics(folder)
    if not is_minimal:
        write_curves(folder, of_base, meta, scored)
    if calibration_analysis:
        write_calibration(folder, plan, scores, scored, base, voted, chosen, weights[chosen.name])
    if neigh_sample and not is_minimal:
        write_neighbours(folder, of_base, meta, scored, positions=positions, n_sites=neigh_sample)
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
        """Add one line per score, and return the scores."""
        found = summary(drawn)
        genes = self._scored.gene if rows is None else self._scored.gene[rows]
        self.lines += metric_lines(
            found,
            scope=scope,
            variant=variant,
            n_genes=int(np.count_nonzero(np.bincount(genes))),
            n_rows=len(genes),
            instance_id=instance_id,
            evaluated_on=evaluated_on,
            is_chosen=is_chosen,
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
    methods = allowed_methods(plan.settings.calibrate)
    voted = vote_out_of_fold(scores, chosen.voting, weights[chosen.name], first_row=scored.first_row, methods=methods)
    drawn = scored.drawn(voted.probabilities[scored.first_row :])
    # variants whose weights are equal are scored once
    found = {(chosen.voting, weights[chosen.name]): drawn}
    for variant in variants():
        key = variant.voting, weights[variant.name]
        if key not in found:
            probabilities = vote_out_of_fold(scores, *key, first_row=scored.first_row, methods=methods).probabilities
            found[key] = scored.drawn(probabilities[scored.first_row :], sites_only=True)
            del probabilities  # so that no two are in memory
        table.add("ensemble", found[key], variant=variant.name, is_chosen=variant == chosen)
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
    """Score each member on its own rows, on all, and on groups that its window lacks; return one line per member."""
    group_of_gene = genes.group[plan.data.pilot_genes : plan.data.n_genes]
    weight_of = {one["instance_id"]: one["weight"] for one in consolidated["members"]}
    comparison = []
    for instance_id in scores.instance_ids:
        instance = plan.cut.instance(instance_id)
        probabilities = scores.probabilities(instance_id)[scored.first_row :]
        own = (scored.rank >= instance.first_rank) & (scored.rank < instance.stop_rank)
        window = genes.group[instance.first_rank : instance.stop_rank]
        unseen = ~np.isin(group_of_gene, np.unique(window))[scored.gene]
        facts: dict[str, Any] = {"variant": "own calibration", "instance_id": instance_id}
        found = table.add("member", scored.drawn(probabilities), **facts)
        for name, rows in (("own", own), ("unseen", unseen)):
            if rows.any():
                table.add("member", scored.drawn_part(probabilities, rows), evaluated_on=name, rows=rows, **facts)
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


def _score_without_each(
    plan: Plan,
    scores: MemberScores,
    scored: Scored,
    weights: MemberWeights,
    chosen: Variant,
    drawn: Drawn,
    table: _Table,
    steps: _Steps,
) -> None:
    """Score the chosen variant without each of its members, where there are several."""
    if len(scores.instance_ids) == 1:
        return
    methods = allowed_methods(plan.settings.calibrate)
    for index, instance_id in enumerate(scores.instance_ids):
        rest = vote_out_of_fold(
            scores, chosen.voting, weights.without(index), first_row=scored.first_row, methods=methods
        ).probabilities[scored.first_row :]
        left = headline_scores(rest, scored.label, scored.group, scored.classes, weights=scored.weights)
        name = f"without instance_{instance_id:02d}"
        table.add("ensemble", left, variant=name)
        table.add("difference", differences(left, drawn), variant=f"{name} - ensemble")
        steps.next()


def write_coverage(folder: RunFolder, plan: Plan, instance_ids: Sequence[int]) -> None:
    """Write ``gene_coverage_report.csv``: which trained instances each gene is in."""
    names = pq.read_schema(folder.genes).names
    wanted = ["gene_id", "n_rows", "fold", "gene_rank", *(["is_holdout"] if "is_holdout" in names else [])]
    members = [plan.cut.instance(number) for number in instance_ids]
    lines = []
    for row in pq.read_table(folder.genes, columns=wanted).to_pylist():
        inside = [one.instance_id for one in members if one.first_rank <= row["gene_rank"] < one.stop_rank]
        lines.append(
            {
                "gene_id": row["gene_id"],
                "n_rows": row["n_rows"],
                "fold": row["fold"],
                "instances": ";".join(str(number) for number in inside),
                "trained": int(bool(inside)),
                "held_out": int(row.get("is_holdout", False)),
            }
        )
    write_csv(folder.gene_coverage, lines)


def remove_diagnostics(folder: RunFolder) -> None:
    """Delete what an earlier evaluation wrote and this one may leave out."""
    with storage_errors(folder.root):
        folder.curves.unlink(missing_ok=True)
        for name in ("calibration.json", "reliability.csv"):
            (folder.calibration_analysis / name).unlink(missing_ok=True)
        if folder.neighbours.is_dir():
            shutil.rmtree(folder.neighbours)


def _models(base: NDArray[np.float32] | None, meta: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    return {"ensemble": meta} if base is None else {"base": base, "ensemble": meta}


def write_curves(
    folder: RunFolder, base: NDArray[np.float32] | None, meta: NDArray[np.float32], scored: Scored
) -> None:
    """Write ``curves.csv``."""
    write_csv(
        folder.curves,
        [
            {"scope": scope, "class": name} | point
            for scope, probabilities in _models(base, meta).items()
            for index, name in enumerate(scored.classes)
            for point in curve_points(probabilities[:, index], scored.label == index)
        ],
    )


def write_calibration(
    folder: RunFolder,
    plan: Plan,
    scores: MemberScores,
    scored: Scored,
    base: BaseModel | None,
    voted: Voted,
    chosen: Variant,
    weights: MemberWeights,
) -> None:
    """Write ``calibration.json`` and ``reliability.csv``."""
    meta = voted.probabilities[scored.first_row :]
    facts: dict[str, Any] = {"n_rows": len(scored.label), "intervals": INTERVALS}
    if voted.margins is not None and voted.calibration is not None:
        before = logistic(voted.margins[scored.first_row :].astype(np.float64))
        methods: list[Any] = [one.method for one in voted.calibration.final]
    else:
        before = np.zeros(meta.shape)
        by_fold = np.array(weights.by_fold)
        for index, instance_id in enumerate(scores.instance_ids):
            margins = scores.margins(instance_id)[scored.first_row :].astype(np.float64)
            before += by_fold[scored.fold, index][:, None] * logistic(margins)
        methods = _member_methods(folder, plan, scores.instance_ids)
    facts["variant"] = chosen.name
    facts["ensemble"] = calibration_facts(
        before, meta, scored.label, scored.group, scored.classes, methods=methods, weights=scored.weights
    )
    if base is None:
        facts["base"] = {"status": "left out", "reason": NO_BASE}
    else:
        facts["base"] = calibration_facts(
            base.before,
            base.probabilities,
            scored.label,
            scored.group,
            scored.classes,
            methods=[one.method for one in base.calibration.final],
            weights=scored.weights,
        )
    write_json(folder.calibration_analysis / "calibration.json", facts)
    lines = [
        {"scope": scope} | line
        for scope, probabilities in _models(None if base is None else base.probabilities, meta).items()
        for line in reliability(probabilities, scored.label, scored.group, scored.classes, weights=scored.weights)
    ]
    write_csv(folder.calibration_analysis / "reliability.csv", lines)


def _member_methods(folder: RunFolder, plan: Plan, instance_ids: Sequence[int]) -> list[dict[str, str]]:
    """Return for each class the calibration that each member chose."""
    chosen = {
        number: json.loads((folder.instance(plan.cut.instance(number)) / "calibration.json").read_bytes())
        for number in instance_ids
    }
    return [
        {plan.cut.instance(number).name: facts[name]["method"] for number, facts in chosen.items()}
        for name in plan.data.classes
    ]
