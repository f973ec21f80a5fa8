"""Scores of a run on every position of annotated genes, of its own genome or of another one.

Nothing is scored by a model that saw it. Genes of a cluster that the run was trained on are scored by the ensemble of the fold
that never saw the cluster (`mi_duck.ensemble.fold_ensembles`), and base scores of that genome come from the weight matrices of
the cluster's fold. All other genes are scored by the model itself.
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mi_duck.atomic_files import file_sha256, write_csv, write_json
from mi_duck.ensemble.fold_ensembles import consolidated_model, read_fold_ensembles
from mi_duck.ensemble.model import ConsolidatedMetaModel
from mi_duck.errors import CheckpointError, DataError
from mi_duck.genome.annotation import Gene
from mi_duck.genome.base_scores import cluster_fold, site_matrices
from mi_duck.genome.build import surveyed
from mi_duck.genome.like import check_kind, recipe_of
from mi_duck.genome.predict_sequence import model_scorer
from mi_duck.genome.scan import Scorer
from mi_duck.genome.score_files import checked_scores, read_base_scores
from mi_duck.genome.survey import Survey
from mi_duck.genome.true_rate import Positions, chosen_genes, score_positions
from mi_duck.metrics.metrics import DRAWS, GAIN, differences, draw_groups, summary, too_narrow
from mi_duck.metrics.true_rate import drawn_true_rate, error_counts
from mi_duck.processes import Report
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import GeneFolds, read_gene_folds
from mi_duck.run.plan import Plan
from mi_duck.run.recipe import FoldMatrices, Recipe, file_at_hand, record_of_files
from mi_duck.settings import Scanning


@dataclass(frozen=True, slots=True)
class KnownGenes:
    """The genes of a run among those of an annotation.

    Attributes
    ----------
    clusters
        Gene id to overlap cluster, of the annotation.
    fold_of_gene, group_of_gene
        Gene id to fold and fold group of the run.
    folds_of_cluster
        Overlap cluster to the folds of its genes that the run was trained on.
    pilot
        Genes that chose the features, and clusters that hold one.
    """

    clusters: dict[str, str]
    fold_of_gene: dict[str, int]
    group_of_gene: dict[str, str]
    folds_of_cluster: dict[str, frozenset[int]]
    pilot: frozenset[str]

    def fold(self, gene_id: str) -> int | None:
        """Return the fold whose boosters never saw a gene, nor one that overlaps it; None where nothing of the run did."""
        if gene_id in self.fold_of_gene:
            return self.fold_of_gene[gene_id]
        return next(iter(self.folds_of_cluster.get(self.clusters[gene_id], ())), None)

    def group(self, gene_id: str) -> str:
        """Return the unit of independence of a gene: its fold group, or its cluster where the run does not know it."""
        return self.group_of_gene.get(gene_id, self.clusters[gene_id])

    def is_scored(self, gene_id: str) -> bool:
        """Return whether a gene may be scored: it did not choose features, and some boosters never saw its cluster."""
        cluster = self.clusters[gene_id]
        n_folds = len(self.folds_of_cluster.get(cluster, ()))
        return not {gene_id, cluster} & self.pilot and (gene_id in self.fold_of_gene or n_folds < 2)


def known_genes(found: Survey, own: GeneFolds, n_pilot: int) -> KnownGenes:
    """Return which genes of an annotation a run was trained on."""
    names = own.gene_id.tolist()
    fold_of_gene = dict(zip(names, own.fold.tolist(), strict=True))
    folds: dict[str, set[int]] = defaultdict(set)
    for gene_id, cluster in found.clusters.items():
        if gene_id in fold_of_gene:
            folds[cluster].add(fold_of_gene[gene_id])
    pilot = set(names[:n_pilot])
    pilot |= {found.clusters[gene_id] for gene_id in pilot & found.clusters.keys()}
    of_cluster = {cluster: frozenset(several) for cluster, several in folds.items()}
    group_of_gene = dict(zip(names, map(str, own.group.tolist()), strict=True))
    return KnownGenes(found.clusters, fold_of_gene, group_of_gene, of_cluster, frozenset(pilot))


class Scorers:
    """The model, and the ensembles of the folds of a run, each made when it is first needed."""

    def __init__(self, folder: RunFolder, plan: Plan, source: str, base_scores: tuple[str, ...]) -> None:
        self._folder, self._plan = folder, plan
        model = consolidated_model(folder)
        self.recipe: Recipe = recipe_of(model.recipe, source)
        check_kind(self.recipe, base_scores, source)
        self._final = model_scorer(model, self.recipe)
        self._models: list[ConsolidatedMetaModel] = []
        self._of_fold: dict[int, Scorer] = {}

    def scorer(self, fold: int | None, cross_fit: FoldMatrices | None, matrices_fold: int) -> Scorer:
        """Return the model, or the ensemble of a fold, with base scores by the model's matrices or by those of a fold."""
        one = self._final if fold is None else self._of_fold.get(fold)
        if one is None:
            one = self._of_fold[fold] = self._fold_scorer(fold)  # type: ignore[index, arg-type]
        return one if cross_fit is None else replace(one, matrices=site_matrices(cross_fit.folds), fold=matrices_fold)

    def _fold_scorer(self, fold: int) -> Scorer:
        self._models = self._models or read_fold_ensembles(self._folder, self._plan)
        return model_scorer(self._models[fold], self.recipe)


def score_run(*, run: str, scanning: Scanning, n_genes: int, threads: int, report: Report) -> dict[str, Any]:
    """Score a run on every position of genes, chosen by seed.

    Parameters
    ----------
    n_genes
        How many genes, at most.

    Returns
    -------
    dict
        ``facts``; ``scores``: model, class, metric, value and the ends of its 95 % interval; ``errors`` by kind; ``too_narrow``.

    Raises
    ------
    DataError
        The files cannot be used; or the run was trained on these genes, and the base scores that did not see them are gone.
    """
    return _score(run, scanning, n_genes, None, threads=threads, report=report)


def score_own_genome(*, run: str, n_genes: int, most_positions: int, threads: int, report: Report) -> dict[str, Any]:
    """Score a run out of fold on every position of some of its genes; write ``true_rate.json`` and ``scan_errors.csv``.

    Genes are added in the order of a hash of the seed, in turn from each fold, until there are so many, or so many positions.

    Returns
    -------
    dict
        What is written: as `score_run` returns it, or ``left_out``, the reason why it cannot be done, such as a genome that is
        not at hand; ``n_genes_asked``.
    """
    folder = RunFolder(Path(run))
    found: dict[str, Any] = {"n_genes_asked": n_genes, "model_sha256": file_sha256(folder.model)}
    try:
        scanning = own_files(folder.read_plan())
        found |= _score(run, scanning, n_genes, most_positions, threads=threads, report=report)
    except (DataError, CheckpointError) as error:  # the run is complete without it, and says why it is not there
        found |= {"left_out": str(error)}
        folder.scan_errors.unlink(missing_ok=True)
    else:
        write_csv(folder.scan_errors, [line for one in found["errors"] for line in _error_lines(one)])
    write_json(folder.true_rate, found)
    return found


def own_files(plan: Plan) -> Scanning:
    """Return the files that the dataset of a run was built from; a DataError where they are not at hand as they were."""
    path, record = record_of_files(plan.data.files)
    if path is None or record is None:
        raise DataError("build.json of the dataset is gone, which names its genome")
    scores = (
        f"{one.of}={file_at_hand(one, path)}" if one.of else str(file_at_hand(one, path))
        for one in record.inputs.base_scores
    )
    return Scanning(
        fasta=file_at_hand(record.inputs.fasta, path),
        annotation=file_at_hand(record.inputs.annotation, path),
        base_scores=tuple(scores),
        base_score_offset=tuple(f"{side}={shift:+d}" for side, shift in record.counts.base_score_offsets.items()),
    )


def _score(
    run: str, scanning: Scanning, n_genes: int, most_positions: int | None, *, threads: int, report: Report
) -> dict[str, Any]:
    """Score a run; where there is a largest number of positions, its own genes alone."""
    folder = RunFolder(Path(run))
    plan = folder.read_plan()
    scorers, seed = Scorers(folder, plan, run, scanning.base_scores), plan.settings.seed
    if scanning.fasta is None or scanning.annotation is None:
        raise DataError("--fasta and --annotation belong together: the genome, and the genes to score; give both")
    padding = scorers.recipe.window // 2
    found = surveyed(scanning.fasta, scanning.annotation, padding=padding, seed=seed, report=report)[1]
    known = known_genes(found, read_gene_folds(folder, plan), plan.data.pilot_genes)
    cross_fit = _cross_fit(plan, run) if known.folds_of_cluster else None

    def scorer_of(gene_id: str) -> Scorer:
        of_matrices = 0 if cross_fit is None else cluster_fold(found.clusters[gene_id], cross_fit.seed)
        return scorers.scorer(known.fold(gene_id), cross_fit, of_matrices)

    def is_allowed(gene: Gene) -> bool:
        return known.is_scored(gene.gene_id) and (most_positions is None or gene.gene_id in known.fold_of_gene)

    genes = chosen_genes(found, n_genes, is_allowed, seed, fold_of=known.fold, most_positions=most_positions)
    if not genes:
        raise DataError("no gene is left to score: all of them chose the features of the run")
    files, offsets = scanning.base_scores, scanning.base_score_offset
    table = checked_scores(read_base_scores(files, genes, offsets), genes, offsets)[0] if files else None
    positions = score_positions(
        scanning.fasta, found, genes, scorer_of, known.group, known.fold, table=table, threads=threads, report=report
    )
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
    record = record_of_files(plan.data.files)[1]
    if record is None:
        raise DataError(
            f"{run} was trained on genes of this annotation, and build.json of its dataset, with the weight matrices that did "
            "not see them, is gone; restore it, or give another genome"
        )
    return record.cross_fit


def _scores(positions: Positions, classes: tuple[str, ...], seed: int) -> dict[str, Any]:
    """Return scores with intervals of base scores, ensemble and difference, and errors by kind."""
    group_draws = draw_groups(positions.groups, seed=seed, draws=DRAWS)
    drawn = {
        name: drawn_true_rate(
            values, positions.labels, positions.groups, classes, group_draws=group_draws, parts=positions.parts
        )
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
            values[:, index],
            positions.labels == index,
            positions.kinds[site],
            positions.base[:, 1:].max(axis=1),
            positions.parts,
        )
        for name, values in (("base", positions.base), ("ensemble", positions.probabilities))
        for index, site in enumerate(classes)
        if index
    ]
    return {"scores": scores, "errors": errors, "too_narrow": too_narrow(positions.groups)}


def _error_lines(one: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the errors of a model and a kind of site as lines of ``scan_errors.csv``."""
    same = {"scope": one["model"], "class": one["class"], "threshold": one["threshold"]}
    return [
        same | {"kind": kind, "n_positions": n} for kind, n in [*one["n"].items(), ("supported", one["n_supported"])]
    ]
