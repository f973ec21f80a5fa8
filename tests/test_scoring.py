"""The tables of an evaluation are worth what they say: equal to scikit-learn, honest, whole, and absent where impossible."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import CONTEXT, SMALL, call, finished_run, quiet, trained
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from mi_duck.ensemble.model_file import load_unified_model
from mi_duck.evaluate.evaluate import evaluate_run
from mi_duck.metrics.metrics import draw_groups
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import read_gene_folds
from mi_duck.settings import Diagnostics
from mi_duck.workflow.pipeline import consolidate, lacks_diagnostics

CLASSES = ("neither", "donor", "acceptor")
P = [f"p_{name}" for name in CLASSES]
VARIANTS = {f"{voting}/{weights}" for voting in ("probability", "margin") for weights in ("uniform", "f1", "fitted")}


def scored(dataset: Path, out: Path, *flags: str) -> Path:
    """Train a run, consolidate and score it; its scratch is still there."""
    folder = RunFolder(trained(dataset, out, *flags))
    consolidate(folder, folder.read_plan(), CONTEXT)
    evaluate_run(run=str(out), neigh_sample=10, report=quiet)
    return out


def table(file: Path) -> list[dict[str, str]]:
    with file.open() as lines:
        return list(csv.DictReader(lines))


def metrics(run: Path, **wanted: str) -> dict[tuple[str, str], dict[str, float | None]]:
    """Return value, low and high by metric and class of the lines with these cells."""
    rows = [row for row in table(run / "metrics.csv") if all(row[name] == value for name, value in wanted.items())]
    found = {
        (row["metric"], row["class"]): {
            name: float(row[name]) if row[name] else None for name in ("value", "low", "high", "n_genes", "n_rows")
        }
        for row in rows
    }
    assert len(found) == len(rows), "a line is there twice"
    return found


def predictions(run: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rows = pq.read_table(run / "oof_predictions.parquet")
    probabilities = np.column_stack([rows[name].to_numpy() for name in P])
    return (
        probabilities,
        np.array([CLASSES.index(text) for text in rows["label"].to_pylist()]),
        rows["gene_id"].to_pylist(),
    )


@pytest.fixture(scope="module")
def run(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(small_dataset, tmp_path_factory)


@pytest.fixture(scope="module")
def single(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a scored run with one instance over all genes."""
    return scored(small_dataset, tmp_path_factory.mktemp("single") / "run", "--strategy", "single")


@pytest.fixture(scope="module")
def bare(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a scored run on two classes, without base scores and without positions."""
    folder = tmp_path_factory.mktemp("bare")
    rows = pq.read_table(small_dataset / "master")
    label = ["neither" if text == "neither" else "site" for text in rows["splice_type"].to_pylist()]
    rows = rows.drop_columns(["position", "absolute_position", "donor_score", "acceptor_score", "neither_score"])
    (folder / "data").mkdir()
    at = rows.column_names.index("splice_type")
    pq.write_table(rows.set_column(at, "splice_type", pa.array(label)), folder / "data" / "a.parquet")
    return scored(folder / "data", folder / "run", "--classes", "neither,site", "--n-estimators", "6")


def test_evaluate_run__scores_of_the_ensemble_equal_scikit_learn_on_the_predictions(run: Path) -> None:
    probabilities, label, genes = predictions(run)
    found = metrics(run, scope="ensemble", is_chosen="1")
    for index, name in enumerate(CLASSES):
        truth, probability = label == index, probabilities[:, index]
        expected = average_precision_score(truth, probability), roc_auc_score(truth, probability)
        values = found["average_precision", name]["value"], found["roc_auc", name]["value"]
        assert values == pytest.approx(expected, abs=1e-9)
    expected = f1_score(label, probabilities.argmax(axis=1), average="macro")
    assert found["f1", "macro"]["value"] == pytest.approx(expected, abs=1e-9)
    assert {(row["n_genes"], row["n_rows"]) for row in found.values()} == {(60.0, float(len(label)))}
    shares = []
    for gene in sorted(set(genes)):
        rows = np.flatnonzero(np.array(genes) == gene)
        if (label[rows] == 1).any():
            shares.append(top(probabilities[rows, 1], label[rows] == 1, 1))
    assert found["top_k_per_gene", "donor"]["value"] == pytest.approx(np.mean(shares), abs=1e-9)
    for name, factor in (("top_0.5k", 0.5), ("top_k", 1), ("top_2k", 2), ("top_4k", 4)):
        expected = [top(probabilities[:, index], label == index, factor) for index in (1, 2)]
        assert [found[name, one]["value"] for one in CLASSES[1:]] == pytest.approx(expected, abs=1e-9)
        assert found[name, "macro"]["value"] == pytest.approx(np.mean(expected), abs=1e-9)


def top(score: np.ndarray, truth: np.ndarray, factor: float) -> float:
    """Return true rows among the best by the smaller of their numbers; a tie at the edge counts by its share of true rows."""
    k = min(int(factor * truth.sum()), len(truth))
    edge = np.sort(score)[::-1][k - 1]
    above, tied = score > edge, score == edge
    return float(((above & truth).sum() + (k - above.sum()) * truth[tied].mean()) / min(k, truth.sum()))


def test_evaluate_run__intervals_equal_those_of_scikit_learn_under_the_same_draws(run: Path) -> None:
    """Of ensemble and base model, and of their paired difference: the middle 95 % of 1,000 draws of fold groups."""
    probabilities, label, gene_ids = predictions(run)
    folder = RunFolder(run)
    genes = read_gene_folds(folder, folder.read_plan())
    group_of = dict(zip(genes.gene_id, np.unique(genes.group, return_inverse=True)[1], strict=True))
    group = np.array([group_of[gene] for gene in gene_ids])
    group_draws = draw_groups(group, seed=42, draws=1000)
    found = metrics(run, scope="ensemble", is_chosen="1")
    truth, score = label == 1, probabilities[:, 1]
    drawn = [average_precision_score(truth, score, sample_weight=line[group]) for line in group_draws[1:]]
    one = found["average_precision", "donor"]
    assert (one["low"], one["high"]) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=1e-8)
    drawn = []
    for line in group_draws[1:]:
        again = np.repeat(np.arange(len(truth)), line[group])
        drawn.append(top(score[again], truth[again], 1))
    one = found["top_k", "donor"]
    assert (one["low"], one["high"]) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=1e-8)
    assert {row["too_narrow"] for row in table(run / "metrics.csv") if row["evaluated_on"] == "oof"} == {
        f"{len(set(group))} fold groups, fewer than 100"
    }


def test_evaluate_run__every_score_lies_in_its_interval(run: Path) -> None:
    for row in table(run / "metrics.csv"):
        assert float(row["low"]) <= float(row["value"]) <= float(row["high"]), row


def test_evaluate_run__scores_all_that_is_promised(run: Path) -> None:
    n = len(RunFolder(run).read_plan().cut.instances)
    without = {f"without instance_{number:02d}" for number in range(n)}
    found = {
        (row["scope"], row["instance_id"], row["evaluated_on"], row["variant"]) for row in table(run / "metrics.csv")
    }
    assert found == {
        ("base", "", "oof", "ranked as given, else calibrated"),
        *(("ensemble", "", "oof", name) for name in VARIANTS | without | {"refit/uniform"}),
        ("difference", "", "oof", "ensemble - base"),
        *(("difference", "", "oof", f"{name} - ensemble") for name in without),
        *(
            ("member", str(number), where, "own calibration")
            for number in range(n)
            for where in ("oof", "own", "unseen")
        ),
    }
    chosen = {row["variant"] for row in table(run / "metrics.csv") if row["is_chosen"] == "1"}
    assert chosen == {json.loads((run / "consolidation_summary.json").read_bytes())["variant"]}


def test_evaluate_run__differences_are_those_of_the_values(run: Path) -> None:
    ensemble = metrics(run, scope="ensemble", is_chosen="1")
    base = metrics(run, scope="base")
    for key, row in metrics(run, scope="difference", variant="ensemble - base").items():
        assert row["value"] == pytest.approx(ensemble[key]["value"] - base[key]["value"], abs=1e-12)  # type: ignore[operator]
        both = [(one[key]["high"] - one[key]["low"]) for one in (ensemble, base)]  # type: ignore[operator]
        assert row["high"] - row["low"] < 1.5 * max(both)  # type: ignore[operator]
    left = metrics(run, scope="ensemble", variant="without instance_00")
    assert set(left) == {
        *((kind, name) for kind in ("average_precision", "top_k") for name in ("donor", "acceptor", "macro")),
        ("f1", "macro"),
        ("log_loss", "all"),
    }
    for key, row in metrics(run, scope="difference", variant="without instance_00 - ensemble").items():
        assert row["value"] == pytest.approx(left[key]["value"] - ensemble[key]["value"], abs=1e-12)  # type: ignore[operator]


def test_evaluate_run__without_a_member_the_others_vote_alone(run: Path) -> None:
    """Of three equal members the mean of the other two, out of the members' own files where they meet."""
    where = run / "multi_instance_training"
    folder = RunFolder(run)
    plan = folder.read_plan()
    left = metrics(run, scope="ensemble", variant="without instance_01")
    whole = metrics(run, scope="ensemble", is_chosen="1")
    assert left["log_loss", "all"]["value"] != whole["log_loss", "all"]["value"]
    assert len(list(where.iterdir())) == len(plan.cut.instances) == 3


def test_evaluate_run__members_are_unseen_where_no_gene_of_the_group_is_in_the_window(run: Path) -> None:
    folder = RunFolder(run)
    plan = folder.read_plan()
    genes = read_gene_folds(folder, plan)
    rows = pq.read_table(folder.genes, columns=["n_rows"])["n_rows"].to_pylist()
    for instance in plan.cut.instances:
        window = set(genes.group[instance.first_rank : instance.stop_rank])
        unseen = [rank for rank in range(plan.data.n_genes) if genes.group[rank] not in window]
        found = metrics(run, scope="member", instance_id=str(instance.instance_id), evaluated_on="unseen")
        assert {row["n_rows"] for row in found.values()} == {float(sum(rows[rank] for rank in unseen))}
        own = metrics(run, scope="member", instance_id=str(instance.instance_id), evaluated_on="own")
        assert {(row["n_genes"], row["n_rows"]) for row in own.values()} == {(instance.n_genes, instance.n_rows)}


def test_evaluate_run__a_member_on_its_own_rows_has_the_scores_of_its_own_file(run: Path) -> None:
    own = pq.read_table(run / "multi_instance_training" / "instance_02" / "oof_predictions.parquet")
    truth = np.array([text == "donor" for text in own["label"].to_pylist()])
    found = metrics(run, scope="member", instance_id="2", evaluated_on="own")
    expected = average_precision_score(truth, own["p_donor"].to_numpy())
    assert found["average_precision", "donor"]["value"] == pytest.approx(expected, abs=1e-6)


def test_evaluate_run__planted_features_improve_over_the_base_scores(single: Path) -> None:
    gain = metrics(single, scope="difference", variant="ensemble - base")
    assert gain["average_precision", "macro"]["value"] > 0.05  # type: ignore[operator]
    assert gain["average_precision", "macro"]["low"] > 0  # type: ignore[operator]
    assert gain["log_loss", "all"]["high"] < 0  # type: ignore[operator]


def test_evaluate_run__of_a_single_instance_has_no_unseen_genes_and_nobody_to_leave_out(single: Path) -> None:
    rows = table(single / "metrics.csv")
    assert {row["evaluated_on"] for row in rows} == {"oof", "own"}
    assert {row["variant"] for row in rows if row["scope"] == "ensemble"} == VARIANTS
    assert {row["variant"] for row in rows if row["scope"] == "difference"} == {"ensemble - base"}


def test_evaluate_run__shuffled_labels_give_the_prior(small_dataset: Path, tmp_path: Path) -> None:
    """Labels drawn anew for every row say nothing: average precision is the share of the class, within its interval."""
    rows = pq.read_table(small_dataset / "master")
    label = rows["splice_type"].combine_chunks().take(pa.array(np.random.default_rng(3).permutation(len(rows))))
    (tmp_path / "data").mkdir()
    at = rows.column_names.index("splice_type")
    pq.write_table(rows.set_column(at, "splice_type", label), tmp_path / "data" / "a.parquet")
    out = scored(tmp_path / "data", tmp_path / "run", "--strategy", "single", "--n-estimators", "5")
    found = metrics(out, scope="ensemble", is_chosen="1")
    for name in ("donor", "acceptor"):
        prior = label.to_pylist().count(name) / len(label)
        one = found["average_precision", name]
        assert one["value"] < prior + 0.03  # type: ignore[operator]
        assert one["low"] - 0.01 < prior < one["high"] + 0.01  # type: ignore[operator]
        assert found["roc_auc", name]["low"] < 0.53  # type: ignore[operator]


def test_evaluate_run__is_a_function_of_its_input(single: Path, tmp_path: Path) -> None:
    """Byte for byte, and what was left out the second time is gone."""
    out = tmp_path / "run"
    shutil.copytree(single, out)
    before = {file.relative_to(out): file.read_bytes() for file in out.rglob("*.csv")}
    evaluate_run(run=str(out), neigh_sample=10, report=quiet)
    assert {file.relative_to(out): file.read_bytes() for file in out.rglob("*.csv")} == before
    evaluate_run(run=str(out), calibration_analysis=False, is_minimal=True, report=quiet)
    assert not (out / "curves.csv").exists()
    assert not (out / "calibration_analysis" / "calibration.json").exists()
    assert not (out / "neighbour_diagnostics").exists()
    rows = table(out / "metrics.csv")
    assert {row["low"] for row in rows} == {row["high"] for row in rows} == {""}
    assert {row["value"] for row in rows} == {row["value"] for row in table(single / "metrics.csv")}


def test_tables__of_genes_and_instances_hold_every_one(run: Path) -> None:
    plan = RunFolder(run).read_plan()
    coverage = table(run / "gene_coverage_report.csv")
    assert len(coverage) == 60
    assert sum(int(row["n_rows"]) for row in coverage) == plan.data.n_rows
    assert {(row["trained"], row["held_out"]) for row in coverage} == {("1", "0")}
    for rank, row in enumerate(coverage):
        inside = [str(one.instance_id) for one in plan.cut.instances if one.first_rank <= rank < one.stop_rank]
        assert row["instances"].split(";") == inside
    deltas = table(run / "gene_deltas.csv")
    assert [row["gene_id"] for row in deltas] == [row["gene_id"] for row in coverage]
    rows = np.array([int(row["n_rows"]) for row in deltas])
    for who, scope in (("base", "base"), ("meta", "ensemble")):
        loss = np.array([float(row[f"log_loss_{who}"]) for row in deltas])
        extra = {"is_chosen": "1"} if scope == "ensemble" else {}
        whole = metrics(run, scope=scope, **extra)["log_loss", "all"]["value"]
        assert rows @ loss / rows.sum() == pytest.approx(whole)
    comparison = table(run / "instance_performance_comparison.csv")
    assert [row["instance_id"] for row in comparison] == ["0", "1", "2"]
    assert {row["n_rows_scored"] for row in comparison} == {str(plan.data.n_rows)}
    member = metrics(run, scope="member", instance_id="1", evaluated_on="oof")
    assert float(comparison[1]["donor_ap"]) == member["average_precision", "donor"]["value"]
    assert float(comparison[1]["log_loss"]) == member["log_loss", "all"]["value"]


def test_base_vs_meta__top_k_and_errors_equal_those_of_the_other_tables(run: Path) -> None:
    facts = json.loads((run / "base_vs_meta.json").read_bytes())
    assert facts["status"] == "compared"
    assert set(facts["classes"]) == {"donor", "acceptor", "any site"}
    found = metrics(run, scope="ensemble", is_chosen="1")
    for kind in ("top_k", "top_2k", "top_k_per_gene"):
        assert facts[kind]["donor"]["meta"]["value"] == found[kind, "donor"]["value"]
    assert facts["n_rows_without_base_score"] == 0
    assert facts["classes"]["donor"]["argmax"]["meta"]["f1"] == pytest.approx(found["f1", "donor"]["value"])
    assert set(facts["classes"]["donor"]["by_kind"]) == {"within 50 nt of another site", "elsewhere"}


def test_calibration_analysis__after_is_what_the_metrics_say(run: Path) -> None:
    facts = json.loads((run / "calibration_analysis" / "calibration.json").read_bytes())
    for scope, extra in (("base", {}), ("ensemble", {"is_chosen": "1"})):
        found = metrics(run, scope=scope, **extra)
        for name in CLASSES:
            for kind in ("log_loss", "brier", "ece"):
                assert facts[scope][name]["after"][kind]["value"] == pytest.approx(found[kind, name]["value"])
    assert facts["ensemble"]["donor"]["method"] in ("none", "platt", "isotonic")  # on top of the members' own
    assert facts["base"]["donor"]["method"] in ("none", "platt", "isotonic")
    assert facts["variant"] == "probability/uniform"
    lines = table(run / "calibration_analysis" / "reliability.csv")
    assert {(row["scope"], row["class"]) for row in lines} == {
        (scope, name) for scope in ("base", "ensemble") for name in CLASSES
    }


def test_curves__are_there_for_both_models_and_every_class(run: Path) -> None:
    lines = table(run / "curves.csv")
    assert {(row["scope"], row["class"], row["kind"]) for row in lines} == {
        (scope, name, kind) for scope in ("base", "ensemble") for name in CLASSES for kind in ("roc", "pr")
    }


def test_evaluate_run__works_for_two_classes_without_base_scores_and_positions(bare: Path) -> None:
    """What cannot be computed is left out and said."""
    rows = table(bare / "metrics.csv")
    assert {row["scope"] for row in rows} == {"ensemble", "member", "difference"}
    assert not [row for row in rows if "base" in row["variant"]]
    assert {row["class"] for row in rows} == {"neither", "site", "macro", "all"}
    facts = json.loads((bare / "base_vs_meta.json").read_bytes())
    assert facts == {"status": "left out", "reason": facts["reason"]}
    assert "no base score" in facts["reason"]
    calibration = json.loads((bare / "calibration_analysis" / "calibration.json").read_bytes())
    assert calibration["base"]["status"] == "left out"
    assert set(calibration["ensemble"]) == {"neither", "site"}
    around = json.loads((bare / "neighbour_diagnostics" / "neighbours.json").read_bytes())
    assert (around["status"], around["n_sites_asked"]) == ("left out", 10)
    assert "position" in around["reason"]
    assert {row["scope"] for row in table(bare / "curves.csv")} == {"ensemble"}
    assert "log_loss_base" not in table(bare / "gene_deltas.csv")[0]
    assert pq.read_table(bare / "oof_predictions.parquet")["position"].null_count == len(
        pq.read_table(bare / "oof_predictions.parquet")
    )
    assert set(load_unified_model(bare).thresholds) == {"neither", "site"}


def test_base_model__takes_a_missing_score_for_no_evidence(small_dataset: Path, tmp_path: Path) -> None:
    """A row without base scores is scored like any other, and no probability is NaN."""
    rows = pq.read_table(small_dataset / "master")
    at = rows.column_names.index("donor_score")
    column = rows["donor_score"].to_numpy().astype(np.float64).copy()
    column[::7] = np.nan
    (tmp_path / "data").mkdir()
    pq.write_table(rows.set_column(at, "donor_score", pa.array(column)), tmp_path / "data" / "a.parquet")
    out = scored(tmp_path / "data", tmp_path / "run", "--strategy", "single", "--n-estimators", "2")
    found = metrics(out, scope="base")
    assert all(np.isfinite(row["value"]) for row in found.values())  # type: ignore[arg-type]
    worse = found["average_precision", "donor"]["value"]
    assert 0.1 < worse < 0.9  # type: ignore[operator]


def test_flags__a_finished_run_is_left_alone_where_what_it_lacks_is_not_asked_for(
    run: Path, small_dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    folder = RunFolder(out)
    shutil.rmtree(folder.calibration_analysis)
    off = ("--no-calibration-analysis", "--skip-shap", "--no-monitor-overfitting", "--minimal-diagnostics")
    result = call("run", small_dataset, "--out", out, *SMALL, *off)
    assert "nothing to do" in result.stderr
    assert not folder.calibration_analysis.exists()
    assert lacks_diagnostics(folder, Diagnostics())
