"""Errors of base model and ensemble are counted as anyone would count them."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from mi_duck.evaluate.compare import ANY_SITE, compare, gene_deltas, near_sites
from mi_duck.evaluate.scored_rows import Scored
from mi_duck.metrics.calibrate import BaseModel, Calibration
from mi_duck.metrics.metrics import draw_groups

CLASSES = ("neither", "donor", "acceptor")


def drawn(n: int = 2_000) -> tuple[NDArray, NDArray, NDArray, NDArray, NDArray]:
    """Return (base, meta, labels, genes, positions): the ensemble is the better one."""
    rng = np.random.default_rng(2)
    labels = rng.choice(3, n, p=[0.8, 0.1, 0.1])
    models = []
    for strength in (1.0, 2.0):
        raw = np.exp(rng.normal(size=(n, 3)) + strength * np.eye(3)[labels])
        models.append((raw / raw.sum(axis=1, keepdims=True)).astype(np.float32))
    return *models, labels, np.sort(rng.integers(0, 40, n)), rng.integers(0, 3_000, n)  # type: ignore[return-value]


def as_base(scores: NDArray) -> BaseModel:
    """Return a base model that is its scores."""
    nothing = Calibration((), (), ())
    return BaseModel(scores, scores, nothing, n_missing=0, prior=np.zeros(scores.shape[1]))


def scored(
    labels: NDArray, genes: NDArray, classes: tuple[str, ...] = CLASSES, gene_ids: tuple[str, ...] = (), draws: int = 2
) -> Scored:
    """Return rows that are scored, each gene a fold group."""
    gene_ids = gene_ids or tuple(f"g{number}" for number in range(40))
    group_draws = draw_groups(np.arange(len(gene_ids)), seed=0, draws=draws)
    return Scored(classes, 0, labels, np.zeros(len(labels)), genes, genes, genes, gene_ids, group_draws, 0, draws)


def test_compare__counts_calls_at_argmax_and_at_a_half() -> None:
    base, meta, labels, genes, positions = drawn()
    found = compare(base, meta, scored(labels, genes, draws=20), positions)
    assert list(found) == ["donor", "acceptor", ANY_SITE]
    truth = labels == 1
    for kind, calls in (
        ("argmax", [model.argmax(axis=1) == 1 for model in (base, meta)]),
        ("threshold_0.5", [model[:, 1] >= 0.5 for model in (base, meta)]),
    ):
        for who, called in zip(("base", "meta"), calls, strict=True):
            counts = found["donor"][kind][who]
            assert (counts["tp"], counts["fp"], counts["fn"]) == (
                (called & truth).sum(),
                (called & ~truth).sum(),
                (~called & truth).sum(),
            )
            assert counts["f1"] == pytest.approx(f1_score(truth, called))
        difference = found["donor"][kind]["difference"]["fp"]
        assert difference["value"] == found["donor"][kind]["meta"]["fp"] - found["donor"][kind]["base"]["fp"]
        assert difference["low"] <= difference["value"] <= difference["high"]
    any_site = found[ANY_SITE]["argmax"]["meta"]
    assert any_site["tp"] == ((meta.argmax(axis=1) > 0) & (labels > 0)).sum()


def test_compare__at_matched_recall_the_ensemble_finds_as_many_with_the_highest_threshold() -> None:
    base, meta, labels, genes, _ = drawn()
    found = compare(base, meta, scored(labels, genes), None)
    matched = found["donor"]["matched_recall"]
    assert matched["meta"]["tp"] == matched["base"]["tp"] == found["donor"]["argmax"]["base"]["tp"]
    assert matched["meta"]["fp"] == ((meta[:, 1] >= matched["meta_threshold"]) & (labels != 1)).sum()
    assert ((meta[:, 1] > matched["meta_threshold"]) & (labels == 1)).sum() < matched["base"]["tp"]
    assert matched["meta"]["fp"] < matched["base"]["fp"]
    assert "by_kind" not in found["donor"]
    silent = np.tile(np.array([1, 0, 0], np.float32), (len(labels), 1))
    found = compare(silent, meta, scored(labels, genes), None)
    assert "no recall to match" in found["donor"]["matched_recall"]["status"]
    assert found["donor"]["argmax"]["base"]["precision"] is None


def test_compare__each_draw_matches_its_own_recall() -> None:
    """The ensemble finds as many sites as the base model in every draw, so the difference of misses has no width."""
    base, meta, labels, genes, _ = drawn()
    rows = scored(labels, genes, draws=30)
    found = compare(base, meta, rows, None)["donor"]["matched_recall"]["difference"]
    assert found["fn"] == {"value": 0, "low": 0, "high": 0}
    calls, truth = base.argmax(axis=1) == 1, labels == 1
    expected = []
    for line in rows.group_draws[1:]:
        again = np.repeat(np.arange(len(labels)), line[genes])
        n_found = int((calls & truth)[again].sum())
        edge = np.sort(meta[again, 1][truth[again]])[::-1][n_found - 1]
        expected.append((~truth[again] & (meta[again, 1] > edge)).sum() - (calls & ~truth)[again].sum())
    assert (found["fp"]["low"], found["fp"]["high"]) == pytest.approx(np.percentile(expected, [2.5, 97.5]), abs=0.5)


def test_compare__kinds_of_errors_add_up() -> None:
    base, meta, labels, genes, positions = drawn()
    found = compare(base, meta, scored(labels, genes), positions)
    for of_class in found.values():
        kinds = list(of_class["by_kind"].values())
        assert sum(kind["n_rows"] for kind in kinds) == len(labels)
        assert sum(kind["n_sites"] for kind in kinds) == of_class["n_sites"]
        for who in ("base", "meta"):
            for count in ("tp", "fp", "fn"):
                assert sum(kind[who][count] for kind in kinds) == of_class["argmax"][who][count]


def test_compare__of_two_classes_has_no_other_site() -> None:
    base, meta, labels, genes, _ = drawn()
    base, meta = (np.column_stack([1 - model[:, 1], model[:, 1]]) for model in (base, meta))
    found = compare(base, meta, scored(labels == 1, genes, ("no", "yes")), None)
    assert list(found) == ["yes"]


def test_near_sites__equal_brute_force() -> None:
    """Another true site of the same gene at most 50 nt away, at another position; a row is not near itself."""
    rng = np.random.default_rng(5)
    genes, positions = rng.integers(0, 4, 300), rng.integers(-200, 2_000, 300)
    truth = rng.random(300) < 0.05
    expected = [
        any(
            truth[other] and genes[other] == genes[row] and 0 < abs(positions[other] - positions[row]) <= 50
            for other in range(300)
        )
        for row in range(300)
    ]
    assert near_sites(truth, genes, positions).tolist() == expected
    assert 20 < sum(expected) < 200
    edge = near_sites(np.array([True, False, False]), np.zeros(3, int), np.array([100, 150, 151]))
    assert edge.tolist() == [False, True, False]


def test_gene_deltas__by_hand() -> None:
    """Gene A has a donor (row 0) and row 1; gene C (number 2) one row; gene B no row and so no line."""
    base = np.array([[0.5, 0.5], [0.4, 0.6], [0.9, 0.1]], dtype=np.float32)
    meta = np.array([[0.2, 0.8], [0.8, 0.2], [0.6, 0.4]], dtype=np.float32)
    rows = scored(np.array([1, 0, 0]), np.array([0, 0, 2]), ("neither", "donor"), ("A", "B", "C"))
    lines = gene_deltas(as_base(base), meta, rows)
    assert [line["gene_id"] for line in lines] == ["A", "C"]
    one, other = lines
    assert (one["n_rows"], one["n_donor"]) == (2, 1)
    assert one["log_loss_base"] == pytest.approx(-(np.log(0.5) + np.log(0.4)) / 2)
    assert one["log_loss_meta"] == pytest.approx(-np.log(0.8))
    assert one["log_loss_delta"] == pytest.approx(one["log_loss_base"] - one["log_loss_meta"])
    # equal probabilities call the first class, so base errs on both rows; its best row for donor is the wrong one
    assert (one["errors_base"], one["errors_meta"]) == (2, 0)
    assert (one["top_k_donor_base"], one["top_k_donor_meta"]) == (0, 1)
    assert (other["top_k_donor_base"], other["top_k_donor_meta"]) == (None, None)
    alone = gene_deltas(None, meta, rows)
    assert list(alone[0]) == [
        "gene_id",
        "is_pilot",
        "n_rows",
        "n_donor",
        "log_loss_meta",
        "errors_meta",
        "top_k_donor_meta",
    ]


def test_gene_deltas__add_up_to_the_whole() -> None:
    base, meta, labels, genes, _ = drawn()
    lines = gene_deltas(as_base(base), meta, scored(labels, genes))
    rows = np.array([line["n_rows"] for line in lines])
    loss = np.array([line["log_loss_meta"] for line in lines])
    assert rows.sum() == len(labels)
    of_label = meta[np.arange(len(labels)), labels].astype(float)
    assert (rows @ loss) / len(labels) == pytest.approx(-np.log(of_label).mean())
    assert sum(line["errors_base"] for line in lines) == (base.argmax(axis=1) != labels).sum()
