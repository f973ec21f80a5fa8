"""Scores over every position: worked out by hand, and nothing scored by a model that saw it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from runs import assert_refused, call, here, quiet
from test_genome import rows
from test_scan import genome, place  # noqa: F401

from mi_duck.genome import evaluate_sequence as scoring
from mi_duck.genome.build import surveyed
from mi_duck.genome.true_rate import chosen_genes
from mi_duck.metrics.metrics import draw_weights
from mi_duck.metrics.true_rate import KINDS, drawn_true_rate, error_counts, kinds_of_errors
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import read_genes

CLASSES = ("neither", "donor", "acceptor")


def test_true_rate__is_what_counting_gives() -> None:
    """Ten positions in two groups; donors score .9 and .4, what lies between is called by mistake."""
    donor = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    acceptor = np.array([0.0, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    labels = np.array([1, 2, 0, 0, 0, 1, 0, 0, 0, 0])
    groups = np.array([0] * 5 + [1] * 5)
    weights = draw_weights(groups, seed=0, draws=0)
    found = drawn_true_rate(np.stack([1 - donor, donor, acceptor], axis=1), labels, groups, CLASSES, weights=weights)
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
    for flags in (genome(place)[:2], ("--true-rate-genes", "5")):
        assert_refused(call("evaluate", place / "run_genes", *flags), 2, "give --fasta and --annotation")


def test_evaluate__scores_each_gene_as_its_out_of_fold_rows_were(place: Path) -> None:  # noqa: F811
    """On the positions that the dataset has: the same probabilities as in the run's own out-of-fold predictions."""
    import pyarrow.parquet as pq

    folder = RunFolder(place / "run_genes")
    plan = folder.read_plan()
    scorers = scoring.Scorers(folder, plan, "x", ())
    found = surveyed(place / "genome.fa", place / "genes.gtf", padding=250, seed=42, report=quiet)[1]
    known = scoring.known_genes(found, read_genes(folder, plan), 0)
    cross_fit = scoring._cross_fit(plan, "x")
    assert cross_fit is not None
    genes = chosen_genes(found, 0, lambda gene: True, 42)
    positions = scoring.score_positions(
        place / "genome.fa",
        found,
        genes,
        lambda name: scorers.scorer(
            known.fold(name), cross_fit, scoring.cluster_fold(found.clusters[name], cross_fit.seed)
        ),
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
