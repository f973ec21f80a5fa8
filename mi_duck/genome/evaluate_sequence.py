"""Scores of a run on every position of annotated genes, of its own genome or of another one.

Nothing is scored by a model that saw it. Genes of a cluster that the run was trained on are scored by the fold boosters that
never saw it, joined by the mean of their calibrated probabilities, and base scores of that genome come from the weight matrices
of the cluster's fold. All other genes are scored by the model itself.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mi_duck.boosting.forest import forest_of
from mi_duck.ensemble.model import by_member
from mi_duck.ensemble.model_file import load_unified_model, read_fold_models
from mi_duck.errors import DataError
from mi_duck.genome.base_scores import cluster_fold, site_matrices
from mi_duck.genome.build import surveyed
from mi_duck.genome.columns import feature_columns
from mi_duck.genome.like import check_kind, recipe_of
from mi_duck.genome.predict_sequence import model_scorer
from mi_duck.genome.scan import Scorer
from mi_duck.genome.score_files import checked_scores, read_base_scores
from mi_duck.genome.span_features import plan_features
from mi_duck.genome.survey import Survey
from mi_duck.genome.true_rate import Positions, chosen_genes, score_positions
from mi_duck.metrics.calibrate import calibrated
from mi_duck.metrics.metrics import DRAWS, GAIN, differences, draw_weights, summary, too_narrow
from mi_duck.metrics.true_rate import drawn_true_rate, error_counts
from mi_duck.processes import Report
from mi_duck.run.encoding import encoding_of
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import Genes, read_genes
from mi_duck.run.plan import Plan
from mi_duck.run.recipe import FoldMatrices, Recipe, read_record, record_beside
from mi_duck.settings import Scanning


@dataclass(frozen=True, slots=True)
class KnownGenes:
    """The genes of a run among those of an annotation.

    Attributes
    ----------
    fold_of_gene
        Gene id to fold.
    folds_of_cluster
        Overlap cluster to the folds of its genes that the run was trained on.
    pilot
        Genes that chose the features, and clusters that hold one.
    """

    clusters: dict[str, str]
    fold_of_gene: dict[str, int]
    folds_of_cluster: dict[str, frozenset[int]]
    pilot: frozenset[str]

    def fold(self, gene_id: str) -> int | None:
        """Return the fold whose boosters never saw a gene, nor one that overlaps it; None where nothing of the run did."""
        if gene_id in self.fold_of_gene:
            return self.fold_of_gene[gene_id]
        return next(iter(self.folds_of_cluster.get(self.clusters[gene_id], ())), None)

    def is_scored(self, gene_id: str) -> bool:
        """Return whether a gene may be scored: it did not choose features, and some boosters never saw its cluster."""
        cluster = self.clusters[gene_id]
        n_folds = len(self.folds_of_cluster.get(cluster, ()))
        return not {gene_id, cluster} & self.pilot and (gene_id in self.fold_of_gene or n_folds < 2)


def known_genes(found: Survey, own: Genes, n_pilot: int) -> KnownGenes:
    """Return which genes of an annotation a run was trained on."""
    fold_of_gene = dict(zip(own.gene_id.tolist(), own.fold.tolist(), strict=True))
    folds: dict[str, set[int]] = defaultdict(set)
    for gene_id, cluster in found.clusters.items():
        if gene_id in fold_of_gene:
            folds[cluster].add(fold_of_gene[gene_id])
    pilot = set(own.gene_id[:n_pilot].tolist())
    pilot |= {found.clusters[gene_id] for gene_id in pilot & found.clusters.keys()}
    of_cluster = {cluster: frozenset(several) for cluster, several in folds.items()}
    return KnownGenes(found.clusters, fold_of_gene, of_cluster, frozenset(pilot))


class Scorers:
    """The model, and the fold boosters of a run, each made when it is first needed."""

    def __init__(self, folder: RunFolder, plan: Plan, source: str, base_scores: tuple[str, ...]) -> None:
        self._folder, self._plan = folder, plan
        model = load_unified_model(folder.root)
        self.recipe: Recipe = recipe_of(model.recipe, source)
        check_kind(self.recipe, base_scores, source)
        self._final = model_scorer(model, self.recipe)
        self._of_fold: dict[int, Scorer] = {}

    def scorer(self, fold: int | None, cross_fit: FoldMatrices | None, matrices_fold: int) -> Scorer:
        """Return the model, or the boosters of a fold, with base scores by the model's matrices or by those of a fold."""
        one = self._final if fold is None else self._of_fold.get(fold)
        if one is None:
            one = self._of_fold[fold] = self._fold_scorer(fold)  # type: ignore[index, arg-type]
        return one if cross_fit is None else replace(one, matrices=site_matrices(cross_fit.folds), fold=matrices_fold)

    def _fold_scorer(self, fold: int) -> Scorer:
        plan, recipe = self._plan, self.recipe
        models = [read_fold_models(self._folder.instance(one) / "fold_models.miduck") for one in plan.cut.instances]
        encoding = encoding_of(plan.settings.layout_used, plan.settings.zero_is_missing, plan.data.made)
        boosters = [booster for one in models for booster in one.boosters[fold]]
        calibrators = [one.calibrators[fold] for one in models]
        forest = forest_of(boosters, plan.data.features, encoding)
        known = feature_columns(annotation_features=recipe.annotation_features, gene_features=recipe.gene_features)

        def join(joined: Any) -> Any:
            members = by_member(joined, len(calibrators))
            return np.mean([calibrated(one, by) for one, by in zip(members, calibrators, strict=True)], axis=0)

        features = plan_features(forest.features, recipe.window, known)
        return Scorer(features, forest, join, self._final.matrices, self._final.fold)


def score_run(*, run: str, scanning: Scanning, n_genes: int, threads: int, report: Report) -> dict[str, Any]:
    """Score a run on every position of genes, chosen by seed.

    Parameters
    ----------
    n_genes
        How many genes; 0 is all.

    Returns
    -------
    dict
        ``facts``; ``scores``: model, class, metric, value and the ends of its 95 % interval; ``errors`` by kind; ``too_narrow``.

    Raises
    ------
    DataError
        The files cannot be used; or the run was trained on these genes, and the base scores that did not see them are gone.
    """
    folder = RunFolder(Path(run))
    plan = folder.read_plan()
    scorers, seed = Scorers(folder, plan, run, scanning.base_scores), plan.settings.seed
    if scanning.fasta is None or scanning.annotation is None:
        raise DataError("--fasta and --annotation belong together: the genome, and the genes to score; give both")
    padding = scorers.recipe.window // 2
    found = surveyed(scanning.fasta, scanning.annotation, padding=padding, seed=seed, report=report)[1]
    known = known_genes(found, read_genes(folder, plan), plan.data.pilot_genes)
    cross_fit = _cross_fit(plan, run) if known.folds_of_cluster else None

    def scorer_of(gene_id: str) -> Scorer:
        of_matrices = 0 if cross_fit is None else cluster_fold(found.clusters[gene_id], cross_fit.seed)
        return scorers.scorer(known.fold(gene_id), cross_fit, of_matrices)

    genes = chosen_genes(found, n_genes, lambda gene: known.is_scored(gene.gene_id), seed)
    if not genes:
        raise DataError("no gene is left to score: all of them chose the features of the run")
    files, offsets = scanning.base_scores, scanning.base_score_offset
    table = checked_scores(read_base_scores(files, genes, offsets), genes, offsets)[0] if files else None
    positions = score_positions(scanning.fasta, found, genes, scorer_of, table=table, threads=threads, report=report)
    sites = {name: int((positions.labels == index).sum()) for index, name in enumerate(plan.data.classes) if index}
    facts = {
        "n_genes": len(genes),
        "n_genes_out_of_fold": sum(known.fold(gene.gene_id) is not None for gene in genes),
        "n_positions": len(positions.labels),
        "n_groups": int(positions.groups.max()) + 1,
        "sites": sites,
    }
    return {"facts": facts} | _scores(positions, plan.data.classes, seed)


def _cross_fit(plan: Plan, run: str) -> FoldMatrices | None:
    """Return the matrices that scored the rows of the run, each without the sites of a fold; None where none were fitted."""
    path = record_beside([Path(file) for file in plan.data.files])
    record = None if path is None else read_record(path)
    if record is None:
        raise DataError(
            f"{run} was trained on genes of this annotation, and build.json of its dataset, with the weight matrices that did "
            "not see them, is gone; restore it, or give another genome"
        )
    return record.cross_fit


def _scores(positions: Positions, classes: tuple[str, ...], seed: int) -> dict[str, Any]:
    """Return scores with intervals of base scores, ensemble and difference, and errors by kind."""
    weights = draw_weights(positions.groups, seed=seed, draws=DRAWS)
    drawn = {
        name: drawn_true_rate(values, positions.labels, positions.groups, classes, weights=weights)
        for name, values in (("base", positions.base), ("ensemble", positions.probabilities))
    }
    drawn[GAIN] = differences(drawn["ensemble"], drawn["base"])
    scores = [
        {"model": name, "class": one.class_name, "metric": one.metric} | one.values()
        for name, values in drawn.items()
        for one in summary(values)
    ]
    errors = [
        {"model": name, "class": site}
        | error_counts(
            values[:, index], positions.labels == index, positions.kinds[site], positions.base[:, 1:].max(axis=1)
        )
        for name, values in (("base", positions.base), ("ensemble", positions.probabilities))
        for index, site in enumerate(classes)
        if index
    ]
    return {"scores": scores, "errors": errors, "too_narrow": too_narrow(positions.groups)}
