"""Scores over every position: worked out by hand, and nothing scored by a model that saw it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from runs import assert_refused, call, here, quiet
from test_genome import rows
from test_scan import TRAINING, genome, place  # noqa: F401

from mi_duck.genome import evaluate_sequence as scoring
from mi_duck.genome.build import surveyed
from mi_duck.genome.true_rate import chosen_genes
from mi_duck.metrics.metrics import GAIN, draw_groups
from mi_duck.metrics.true_rate import KINDS, drawn_true_rate, error_counts, kinds_of_errors
from mi_duck.report.records import Score, read_run
from mi_duck.report.summary import cautions
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import read_gene_folds

CLASSES = ("neither", "donor", "acceptor")


def test_true_rate__is_what_counting_gives() -> None:
    """Ten positions in two groups; donors score .9 and .4, what lies between is called by mistake."""
    donor = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    acceptor = np.array([0.0, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    labels = np.array([1, 2, 0, 0, 0, 1, 0, 0, 0, 0])
    groups = np.array([0] * 5 + [1] * 5)
    group_draws = draw_groups(groups, seed=0, draws=0)
    found = drawn_true_rate(
        np.stack([1 - donor, donor, acceptor], axis=1), labels, groups, CLASSES, group_draws=group_draws
    )
    value = {key: float(values[0]) for key, values in found.items()}
    # ranks of the donors are 1 and 6: half of (1/1 + 2/6)
    assert value["average_precision", "donor"] == pytest.approx((1 + 2 / 6) / 2)
    assert value["top_k", "donor"] == pytest.approx(0.5)  # one of two donors among the first two
    assert value["precision_at_recall_0.5", "donor"] == pytest.approx(1.0)  # the first of two is found before any other
    assert value["average_precision", "acceptor"] == 1.0
    assert value["false_positives_per_1000_nt_at_recall_0.9", "acceptor"] == 0.0
    # four fifths of two donors are reached in the block of the second, before which four others are called
    assert value["false_positives_per_1000_nt_at_recall_0.8", "donor"] == pytest.approx(1000 * 4 / 10)
    assert value["precision_at_recall_0.8", "donor"] == pytest.approx(1.6 / (1.6 + 4))
    assert value["average_precision", "macro"] == pytest.approx((value["average_precision", "donor"] + 1) / 2)


def test_true_rate__of_several_folds_is_the_mean_of_each() -> None:
    """Two folds on scales of their own: in each the site comes first, and together neither would."""
    scores = np.array([0.9, 0.8, 0.7, 0.3, 0.2, 0.1])
    labels = np.array([1, 0, 0, 1, 0, 0])
    parts = np.array([0, 0, 0, 1, 1, 1])
    group_draws = draw_groups(parts, seed=0, draws=0)
    both = np.stack([1 - scores, scores], axis=1)
    found = drawn_true_rate(both, labels, parts, CLASSES[:2], group_draws=group_draws, parts=parts)
    assert found["average_precision", "donor"][0] == 1.0
    together = drawn_true_rate(both, labels, parts, CLASSES[:2], group_draws=group_draws)
    assert together["average_precision", "donor"][0] == pytest.approx((1 + 2 / 4) / 2)
    counts = error_counts(scores, labels == 1, np.full(6, 3, np.int8), scores, parts)
    assert (counts["threshold"], sum(counts["n"].values())) == (pytest.approx(0.6), 0)


def test_errors__are_told_apart_by_the_first_kind_that_holds() -> None:
    labels = np.array([1, 2, 0, 0, 0, 0])
    is_next = np.array([False, True, True, False, False, False])
    has_letters = np.array([True, True, True, True, False, True])
    kinds = kinds_of_errors(labels, 1, is_next, has_letters)
    assert [KINDS[kind] for kind in kinds] == [
        "decoy",
        "other site",
        "next to a site",
        "decoy",
        "none of these",
        "decoy",
    ]
    scores = np.array([0.5, 0.9, 0.8, 0.7, 0.6, 0.1])
    base = np.array([0.0, 0.9, 0.1, 0.6, 0.2, 0.9])
    found = error_counts(scores, labels == 1, kinds, base)
    # the donor scores .5; four others score more, one of which no annotation has but the base score supports
    assert found == {"threshold": 0.5, "n": dict(zip(KINDS, (1, 1, 1, 1), strict=True)), "n_supported": 1}
    nothing = error_counts(scores, np.zeros(6, bool), kinds, base)
    assert nothing["threshold"] is None


def test_evaluate__scores_every_position_of_the_annotation(place: Path) -> None:  # noqa: F811
    result = here("evaluate", place / "run_genes", *genome(place), "--true-rate-genes", "5", "--json")
    found = json.loads(result.stdout)
    assert found["facts"]["n_genes"] == found["facts"]["n_genes_out_of_fold"] == 5
    assert {one["model"] for one in found["scores"]} == {"base", "ensemble", "ensemble - base"}
    text = here("evaluate", place / "run_genes", *genome(place), "--true-rate-genes", "5").stdout
    assert "Every position of 5 genes" in text
    assert "decoy" in text
    assert_refused(call("evaluate", place / "run_genes", *genome(place)[:2]), 2, "give --fasta and --annotation")
    none = ("--true-rate-genes", "0")
    assert_refused(call("evaluate", place / "run_genes", *genome(place), *none), 78, "scores no gene")


def test_run__scores_whole_genes_as_evaluate_does(place: Path) -> None:  # noqa: F811
    """The fixture's run did it by itself, from what build.json says: in JSON, metrics, SQL and report."""
    run = place / "run_genes"
    found = json.loads((run / "true_rate.json").read_bytes())
    asked = json.loads(here("evaluate", run, *genome(place), "--json").stdout)
    assert {name: found[name] for name in asked} == asked
    assert asked["facts"]["n_genes"] == 12
    assert json.loads(here("run", place / "genes", "--out", run, *TRAINING, "--json").stdout)["true_rate"] == found
    query = "select value from metrics where evaluated_on = 'positions' and scope = 'ensemble' and class = 'donor'"
    (value, *_) = json.loads(here("sql", run, f"{query} and metric = 'precision_at_recall_0.8'", "--json").stdout)
    wanted = ("ensemble", "donor", "precision_at_recall_0.8")
    scores = {(one["model"], one["class"], one["metric"]): one["value"] for one in found["scores"]}
    assert value["value"] == scores[wanted]
    totals = "select scope, sum(n_positions) as n from scan_errors where class = 'donor' and kind <> 'supported' group by scope"
    called = {one["scope"]: one["n"] for one in json.loads(here("sql", run, totals, "--json").stdout)}
    for one in found["errors"]:
        if one["class"] == "donor":
            assert called[one["model"]] == sum(one["n"].values())
    page = (run / "report.html").read_text()
    assert "Every position of 12 genes, out of fold" in page
    assert "precision at recall 0.8" in page


def test_report__warns_where_the_ensemble_ranks_whole_genes_worse(place: Path) -> None:  # noqa: F811
    records = read_run(place / "run_genes")
    other = [one for one in records.scores if one.evaluated_on != "positions"]
    for high, is_warned in ((-0.01, True), (0.01, False)):
        facts = {"scope": "difference", "evaluated_on": "positions", "variant": GAIN, "class": "donor"}
        score = msgspec.convert(
            facts | {"metric": "average_precision", "value": -0.05, "low": -0.1, "high": high}, Score
        )
        words = " ".join(cautions(replace(records, scores=(*other, score)), None))
        assert ("whole genes the model ranks donors worse than the base scores do (AP -0.0500" in words) == is_warned


def test_run__says_where_the_genome_is_gone_and_scores_it_when_it_is_back(
    place: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    for name in ("genome.fa", "genes.gtf"):
        shutil.copy(place / name, tmp_path)
    shutil.copytree(place / "plain", tmp_path / "plain")
    run, aside = tmp_path / "run", tmp_path / "aside.fa"
    command = ("run", tmp_path / "plain", "--out", run, *TRAINING)
    (tmp_path / "genome.fa").rename(aside)
    assert "will not score every position" in here(*command).stderr
    assert json.loads((run / "true_rate.json").read_bytes())["left_out"].endswith("of which the dataset was built")
    assert "Not scored: " in (run / "report.html").read_text()
    assert "nothing to do" in here(*command).stderr
    aside.rename(tmp_path / "genome.fa")
    before = (run / "consolidated_model.miduck").stat().st_mtime_ns
    here(*command, "--true-rate-genes", "3")
    assert json.loads((run / "true_rate.json").read_bytes())["facts"]["n_genes"] == 3
    assert (run / "consolidated_model.miduck").stat().st_mtime_ns == before
    here("verify", run)
    here(*command, "--true-rate-genes", "0")
    assert "nothing to do" in here(*command, "--true-rate-genes", "3").stderr


def test_chosen_genes__come_in_turn_from_the_folds_until_there_are_enough(place: Path) -> None:  # noqa: F811
    found = surveyed(place / "genome.fa", place / "genes.gtf", padding=250, seed=42, report=quiet)[1]
    fold_of = {gene.gene_id: number % 4 == 0 for number, gene in enumerate(found.genes)}  # three genes, and nine
    chosen = chosen_genes(found, 6, lambda gene: True, 42, fold_of=fold_of.__getitem__)
    assert sorted(fold_of[gene.gene_id] for gene in chosen) == [False] * 3 + [True] * 3
    few = chosen_genes(found, 6, lambda gene: True, 42, fold_of=fold_of.__getitem__, most_positions=1)
    assert len(few) == 1
    assert few[0] in chosen


def test_evaluate__scores_each_gene_as_its_out_of_fold_rows_were(place: Path) -> None:  # noqa: F811
    """On the positions that the dataset has: the same probabilities as in the run's own out-of-fold predictions."""
    import pyarrow.parquet as pq

    folder = RunFolder(place / "run_genes")
    plan = folder.read_plan()
    scorers = scoring.Scorers(folder, plan, "x", ())
    found = surveyed(place / "genome.fa", place / "genes.gtf", padding=250, seed=42, report=quiet)[1]
    known = scoring.known_genes(found, read_gene_folds(folder, plan), 0)
    cross_fit = scoring._cross_fit(plan, "x")
    assert cross_fit is not None
    genes = chosen_genes(found, 100, lambda gene: True, 42)
    positions = scoring.score_positions(
        place / "genome.fa",
        found,
        genes,
        lambda name: scorers.scorer(
            known.fold(name), cross_fit, scoring.cluster_fold(found.clusters[name], cross_fit.seed)
        ),
        known.group,
        known.fold,
        table=None,
        threads=1,
        report=quiet,
    )
    table = rows(place / "genes")
    assert positions.n_genes == 12
    assert int((positions.labels == 1).sum()) == table["splice_type"].to_pylist().count("donor")
    own = pq.read_table(folder.out_of_fold)
    for name in ("p_donor", "p_acceptor"):
        scores = set(positions.probabilities[:, CLASSES.index(name[2:])].tolist())
        assert set(own[name].to_pylist()) <= scores


def test_evaluate__refuses_where_base_scores_that_did_not_see_the_genes_are_gone(
    place: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    shutil.copytree(place, tmp_path / "copy")
    run = tmp_path / "copy" / "run_genes"
    plan = json.loads((run / "plan.json").read_bytes())
    hidden = Path(plan["data"]["files"][0]).parents[1] / "build.json"
    aside = hidden.with_name("aside.json")
    hidden.rename(aside)
    try:
        assert_refused(call("evaluate", run, *genome(place)), 65, "build.json of its dataset")
    finally:
        aside.rename(hidden)
