"""Scores base model, members and every variant of the ensemble out of fold; writes the tables of a run.

Rows are scored by boosters that never saw the row's fold group; those of genes that chose the features (``--screen-features``)
are not scored at all, for the choice saw them. And all intervals are by the same draws of fold groups, so
that differences can be separated from noise.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mi_duck.atomic_files import storage_errors, write_csv, write_json
from mi_duck.ensemble.member_scores import open_member_scores
from mi_duck.ensemble.voting import MemberWeights, Voted, variants, vote_out_of_fold
from mi_duck.evaluate.compare import gene_deltas, pilot_lines, write_comparison, write_neighbours
from mi_duck.evaluate.instance_scores import unseen_ranks
from mi_duck.evaluate.scored_rows import Scored, base_model_of_run, metric_lines, scored_rows
from mi_duck.metrics.calibrate import (
    INTERVALS,
    NO_BASE,
    BaseModel,
    allowed_methods,
    calibration_facts,
    logistic,
    reliability,
    summing_to_one,
)
from mi_duck.metrics.metrics import (
    DRAWS,
    GAIN,
    Drawn,
    Metric,
    differences,
    headline_scores,
    known,
    short_names,
    summary,
)
from mi_duck.metrics.ranking import Booleans, Floats, Floats32, Floats64, curve_points
from mi_duck.processes import Report
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import read_gene_folds
from mi_duck.run.plan import instance_name

STAGE = "scoring base, members and ensemble"


def evaluate_run(
    *, run: str, calibration_analysis: bool = True, neigh_sample: int = 0, is_minimal: bool = False, report: Report
) -> None:
    """Score a consolidated run, whose member scores are still in its scratch, and write ``metrics.csv`` and its neighbours.

    Parameters
    ----------
    calibration_analysis
        Whether to write ``calibration_analysis/``.
    neigh_sample
        True sites whose neighbourhood is written to ``neighbour_diagnostics/``; 0 writes none.
    is_minimal
        Leave out intervals, curves and neighbourhoods.
    """
    evaluation = _Evaluation(RunFolder(Path(run)), 0 if is_minimal else DRAWS, report)
    folder, scored = evaluation.folder, evaluation.scored
    base = base_model_of_run(evaluation.plan, evaluation.scores, scored) if evaluation.plan.data.base_scores else None
    base_drawn: Drawn = {}
    if base is not None:
        base_drawn = scored.drawn(base.probabilities, ranked=base.ranked)
        evaluation.add(
            "base", {**base_drawn, **scored.gaps(base.probabilities)}, variant="ranked as given, else calibrated"
        )
        evaluation.count()
    voted, drawn = evaluation.score_variants()
    comparison = evaluation.score_members()
    if base is not None:
        evaluation.add("difference", differences(drawn, base_drawn), variant=GAIN)
    evaluation.score_without_each(drawn)
    write_csv(folder.metrics, evaluation.lines)
    write_csv(folder.instance_comparison, comparison)
    evaluation.write_coverage()
    meta = voted.probabilities[scored.first_scored :]
    pilot = slice(0, scored.first_scored)
    left_out = pilot_lines(
        evaluation.scores.label[pilot], evaluation.scores.gene_rank[pilot], evaluation.genes, scored.classes
    )
    write_csv(folder.gene_deltas, gene_deltas(base, meta, scored) + left_out)
    positions = evaluation.scores.positions()
    positions = None if positions is None else positions[scored.first_scored :]
    write_comparison(folder, base, meta, scored, positions=positions, drawn=drawn, base_drawn=base_drawn)
    remove_diagnostics(folder)
    if not is_minimal:
        write_curves(folder, base, meta, scored)
    if calibration_analysis:
        evaluation.write_calibration(base, voted)
    if neigh_sample and not is_minimal:
        of_base = None if base is None else base.probabilities
        write_neighbours(folder, of_base, meta, scored, positions=positions, n_sites=neigh_sample)
    report(STAGE, evaluation.n_models, evaluation.n_models)


class _Evaluation:
    """A consolidated run, its scored rows, and the lines of ``metrics.csv`` so far."""

    def __init__(self, folder: RunFolder, draws: int, report: Report) -> None:
        self.folder = folder
        self.plan = folder.read_plan()
        self.genes = read_gene_folds(folder, self.plan)
        self.scores = open_member_scores(folder, self.plan)
        self.scored = scored_rows(self.plan, self.genes, self.scores, draws)
        self.consolidated = json.loads(folder.summary.read_bytes())
        self.variants = variants("auto" if self.scores.has_refit else "voting")
        self.chosen = next(one for one in self.variants if one.name == self.consolidated["variant"])
        every = self.consolidated["all_weights"].items()
        self.weights = {name: MemberWeights.from_dict(values) for name, values in every}
        self.lines: list[dict[str, Any]] = []
        self.n_models = bool(self.plan.data.base_scores) + len(self.variants) + 2 * len(self.scores.instance_ids)
        self._report, self._n_done = report, 0
        report(STAGE, 0, self.n_models)

    def count(self) -> None:
        """Report one more scored model."""
        self._n_done += 1
        self._report(STAGE, min(self._n_done, self.n_models), self.n_models)

    def add(
        self,
        scope: str,
        drawn: Drawn,
        *,
        variant: str,
        instance_id: int | None = None,
        evaluated_on: str = "oof",
        is_chosen: bool = False,
        rows: Booleans | None = None,
    ) -> list[Metric]:
        """Add one line per score on some rows, by default all, and return the scores."""
        found = summary(drawn)
        genes, groups = self.scored.gene, self.scored.group
        if rows is not None:
            genes, groups = genes[rows], groups[rows]
        n_genes = int(np.count_nonzero(np.bincount(genes)))
        self.lines += metric_lines(
            found,
            scope=scope,
            variant=variant,
            n_genes=n_genes,
            groups=groups,
            instance_id=instance_id,
            evaluated_on=evaluated_on,
            is_chosen=is_chosen,
        )
        return found

    def vote(self, voting: str, weights: MemberWeights) -> Voted:
        """Join the members for every row."""
        methods = allowed_methods(self.plan.settings.calibrate)
        return vote_out_of_fold(self.scores, voting, weights, first_scored=self.scored.first_scored, methods=methods)

    def score_variants(self) -> tuple[Voted, Drawn]:
        """Score every variant, and return what the chosen one gives and its scores."""
        scored, first_scored = self.scored, self.scored.first_scored
        own = self.chosen.voting, self.weights[self.chosen.name]
        voted = self.vote(*own)
        # variants whose weights are equal are scored once
        found = {own: scored.drawn(voted.probabilities[first_scored:])}
        for variant in self.variants:
            key = variant.voting, self.weights[variant.name]
            if key not in found:
                probabilities = self.vote(*key).probabilities
                found[key] = scored.drawn(probabilities[first_scored:], sites_only=True)
                del probabilities  # so that no two are in memory
            is_chosen = variant == self.chosen
            gaps = scored.gaps(voted.probabilities[first_scored:]) if is_chosen else {}
            self.add("ensemble", {**found[key], **gaps}, variant=variant.name, is_chosen=is_chosen)
            self.count()
        return voted, found[own]

    def score_members(self) -> list[dict[str, Any]]:
        """Score each member on its own rows, on all, and on groups that its window lacks; return one line per member."""
        scored = self.scored
        weight_of = {one["instance_id"]: one["weight"] for one in self.consolidated["members"]}
        comparison = []
        for instance_id in self.scores.instance_ids:
            instance = self.plan.cut.instance(instance_id)
            probabilities = self.scores.probabilities(instance_id)[scored.first_scored :]
            own = (scored.rank >= instance.first_rank) & (scored.rank < instance.stop_rank)
            unseen = unseen_ranks(self.plan, instance, self.genes)[scored.rank]
            facts: dict[str, Any] = {"variant": "own calibration", "instance_id": instance_id}
            found = self.add("member", scored.drawn(probabilities), **facts)
            for name, rows in (("own", own), ("unseen", unseen)):
                if rows.any():
                    self.add("member", scored.drawn_part(probabilities, rows), evaluated_on=name, rows=rows, **facts)
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
            self.count()
        return comparison

    def score_without_each(self, drawn: Drawn) -> None:
        """Score the chosen variant without each of its members, where there are several."""
        scored, ids = self.scored, self.scores.instance_ids
        for index, instance_id in enumerate(ids if len(ids) > 1 else ()):
            weights = self.weights[self.chosen.name].without(index)
            rest = self.vote(self.chosen.voting, weights).probabilities[scored.first_scored :]
            left = headline_scores(rest, scored.label, scored.group, scored.classes, group_draws=scored.group_draws)
            name = f"without {instance_name(instance_id)}"
            self.add("ensemble", left, variant=name)
            self.add("difference", differences(left, drawn), variant=f"{name} - ensemble")
            self.count()

    def write_coverage(self) -> None:
        """Write ``gene_coverage_report.csv``: which trained instances each gene is in."""
        wanted = ["gene_id", "n_rows", "fold", "gene_rank", "is_holdout"]
        members = [self.plan.cut.instance(number) for number in self.scores.instance_ids]
        lines = []
        for row in pq.read_table(self.folder.genes, columns=wanted).to_pylist():
            inside = [one.instance_id for one in members if one.first_rank <= row["gene_rank"] < one.stop_rank]
            lines.append(
                {name: row[name] for name in ("gene_id", "n_rows", "fold")}
                | {
                    "instances": ";".join(map(str, inside)),
                    "trained": int(bool(inside)),
                    "held_out": int(row["is_holdout"]),
                    "is_pilot": int(row["gene_rank"] < self.plan.data.pilot_genes),
                }
            )
        write_csv(self.folder.gene_coverage, lines)

    def write_calibration(self, base: BaseModel | None, voted: Voted) -> None:
        """Write ``calibration.json`` and ``reliability.csv``."""
        scored, folder = self.scored, self.folder.calibration_analysis
        rows = scored.label, scored.group, scored.classes
        meta = voted.probabilities[scored.first_scored :]
        before, methods = self._before_calibration(voted)
        facts: dict[str, Any] = {"n_rows": len(scored.label), "intervals": INTERVALS, "variant": self.chosen.name}
        facts["ensemble"] = calibration_facts(before, meta, *rows, methods=methods, group_draws=scored.group_draws)
        if base is None:
            facts["base"] = {"status": "left out", "reason": NO_BASE}
        else:
            methods = [one.method for one in base.calibration.final]
            facts["base"] = calibration_facts(
                base.before, base.probabilities, *rows, methods=methods, group_draws=scored.group_draws
            )
        write_json(folder / "calibration.json", facts)
        lines = [
            {"scope": scope} | line
            for scope, probabilities in _models(None if base is None else base.probabilities, meta).items()
            for line in reliability(probabilities, *rows, group_draws=scored.group_draws)
        ]
        write_csv(folder / "reliability.csv", lines)

    def _before_calibration(self, voted: Voted) -> tuple[Floats64, list[Any]]:
        """Return the ensemble's probabilities before calibration, and for each class the methods that were chosen.

        Those of a row are divided by their sum, as calibrated ones are, so that calibration is all that differs.
        """
        first_scored, ids = self.scored.first_scored, self.scores.instance_ids
        if voted.margins is not None and voted.calibration is not None:
            methods = [one.method for one in voted.calibration.final]
            return summing_to_one(logistic(voted.margins[first_scored:].astype(np.float64))), methods
        before = np.zeros((len(self.scored.label), len(self.scored.classes)))
        by_fold = np.array(self.weights[self.chosen.name].by_fold)
        for index, instance_id in enumerate(ids):
            margins = self.scores.margins(instance_id)[first_scored:].astype(np.float64)
            before += by_fold[self.scored.fold, index][:, None] * summing_to_one(logistic(margins))
        folders = [self.folder.instance(self.plan.cut.instance(number)) for number in ids]
        chosen = {folder.name: json.loads((folder / "calibration.json").read_bytes()) for folder in folders}
        return before, [{one: of[name]["method"] for one, of in chosen.items()} for name in self.scored.classes]


def remove_diagnostics(folder: RunFolder) -> None:
    """Delete what an earlier evaluation wrote and this one may leave out."""
    with storage_errors(folder.root):
        folder.curves.unlink(missing_ok=True)
        for name in ("calibration.json", "reliability.csv"):
            (folder.calibration_analysis / name).unlink(missing_ok=True)
        if folder.neighbours.is_dir():
            shutil.rmtree(folder.neighbours)


def _models(base: Floats | None, meta: Floats32) -> dict[str, Floats]:
    return {"ensemble": meta} if base is None else {"base": base, "ensemble": meta}


def write_curves(folder: RunFolder, base: BaseModel | None, meta: Floats32, scored: Scored) -> None:
    """Write ``curves.csv``; the curves of the base model are of its scores as they are."""
    write_csv(
        folder.curves,
        [
            {"scope": scope, "class": name} | point
            for scope, probabilities in _models(None if base is None else base.ranked, meta).items()
            for index, name in enumerate(scored.classes)
            for point in curve_points(probabilities[:, index], scored.label == index)
        ],
    )
