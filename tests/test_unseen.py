"""Scores on unseen genes: what counts as unseen, and equality with predicting and scoring the same rows by other means."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from plans import changed
from runs import finished_run
from sklearn.metrics import average_precision_score, f1_score, log_loss, roc_auc_score

from mi_duck.ensemble.model_file import load_unified_model
from mi_duck.evaluate.instance_scores import NO_UNSEEN, first_unseen, unseen_ranks, unseen_scores
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import GeneFolds, read_gene_folds


@pytest.fixture(scope="module")
def run(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(small_dataset, tmp_path_factory)


def test_unseen_ranks__leave_out_windows_their_groups_and_pilots(run: Path) -> None:
    """Genes 0 to 7 in groups a a b b c c d d; 0 is a pilot, the window is genes 3 and 4; gene 8 is held out."""
    groups = np.array(list("aabbccdda"), dtype=object)
    genes = GeneFolds(groups, groups, np.zeros(9, dtype=np.int64))
    plan = RunFolder(run).read_plan()
    window = replace(plan.cut.instances[0], first_rank=3, stop_rank=5)
    plan = changed(plan, n_genes=8, pilot_genes=0)
    # b and c have a gene in the window
    assert unseen_ranks(plan, window, genes).tolist() == [True, True, False, False, False, False, True, True]
    with_pilot = unseen_ranks(changed(plan, pilot_genes=2), window, genes)
    assert with_pilot.tolist() == [False, False, False, False, False, False, True, True]


def test_first_unseen__are_as_many_as_are_scored() -> None:
    unseen = np.array([False, True, False, True, True, True])
    assert first_unseen(unseen, 3).tolist() == [False, True, False, True, True, False]
    assert first_unseen(unseen, 9).tolist() == unseen.tolist()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_unseen_scores__equal_the_model_on_the_rows_of_groups_that_are_not_its_own(
    run: Path, small_dataset: Path, number: int
) -> None:
    """Predicted from the dataset through the public model, scored by scikit-learn."""
    folder = RunFolder(run)
    plan = folder.read_plan()
    where = folder.instance(plan.cut.instances[number])
    genes = pq.read_table(folder.genes)
    group_of = dict(zip(genes["gene_id"].to_pylist(), genes["fold_group"].to_pylist(), strict=True))
    fold_of = dict(zip(genes["gene_id"].to_pylist(), genes["fold"].to_pylist(), strict=True))
    own = {group_of[gene] for gene in (where / "genes.txt").read_text().split()}
    rows = pq.read_table(small_dataset / "master")
    rows = rows.filter(pa.array([group_of[gene] not in own for gene in rows["gene_id"].to_pylist()]))
    gene = rows["gene_id"].to_pylist()
    label = np.array([plan.data.classes.index(name) for name in rows["splice_type"].to_pylist()])
    fold = np.array([fold_of[one] for one in gene])
    probabilities = load_unified_model(where).predict_proba(rows)
    with (where / "holdout_evaluation_results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [int(line["fold"]) for line in lines] == sorted(set(fold))
    for line in lines:
        of_fold = fold == int(line["fold"])
        truth, part = label[of_fold], probabilities[of_fold]
        assert int(line["test_rows"]) == of_fold.sum()
        assert int(line["test_genes"]) == len({one for one, is_in in zip(gene, of_fold, strict=True) if is_in})
        assert int(line["train_genes"]) == plan.cut.instances[number].n_genes
        assert float(line["f1_macro"]) == pytest.approx(f1_score(truth, part.argmax(axis=1), average="macro"))
        for index, name in enumerate(plan.data.classes):
            wanted = average_precision_score(truth == index, part[:, index])
            assert float(line[f"{name}_ap"]) == pytest.approx(wanted, abs=1e-6)
        site = part[:, 1:].sum(axis=1, dtype=np.float64)
        assert float(line["binary_auc"]) == pytest.approx(roc_auc_score(truth > 0, site), abs=1e-6)
        assert float(line["binary_ap"]) == pytest.approx(average_precision_score(truth > 0, site), abs=1e-6)
        # the rows of float32 probabilities sum to 1 within 1e-7
        exact = part.astype(np.float64) / part.sum(axis=1, keepdims=True, dtype=np.float64)
        assert float(line["log_loss"]) == pytest.approx(log_loss(truth, exact, labels=range(3)), abs=1e-6)
    summary = json.loads((where / "holdout_evaluation_summary.json").read_bytes())
    assert summary["status"] == "evaluated"
    assert (summary["n_rows"], summary["n_genes"]) == (len(label), len(set(gene)))
    assert summary["n_groups"] == len({group_of[one] for one in gene})
    mean = np.mean([float(line["f1_macro"]) for line in lines])
    assert summary["over_folds"]["metrics"]["f1_macro"]["mean"] == pytest.approx(mean)
    pooled = {(one["metric"], one["class"]): one for one in summary["all_rows"]}
    found = pooled["average_precision", "donor"]
    assert found["value"] == pytest.approx(average_precision_score(label == 1, probabilities[:, 1]), abs=1e-6)
    assert found["low"] < found["value"] < found["high"]


def test_unseen_scores__without_unseen_genes_are_a_status_and_no_number(run: Path, tmp_path: Path) -> None:
    folder = RunFolder(run)
    plan = folder.read_plan()
    columns = {"gene_rank": pa.array([], pa.int32()), "label": pa.array([], pa.uint8())}
    columns |= {f"p_{index}": pa.array([], pa.float32()) for index in range(3)}
    pq.write_table(pa.table(columns), tmp_path / "none.parquet")
    rows, summary = unseen_scores(tmp_path / "none.parquet", plan, plan.cut.instances[0], read_gene_folds(folder, plan))
    assert rows == []
    assert summary["status"] == NO_UNSEEN == "no unseen genes"
    assert not [value for value in summary.values() if not isinstance(value, str)]


def test_unseen_scores__of_rows_without_a_class_have_no_number_for_it(run: Path, tmp_path: Path) -> None:
    """Two genes of which none has an acceptor site."""
    folder = RunFolder(run)
    plan = folder.read_plan()
    columns = {"gene_rank": pa.array([0, 0, 1, 1], pa.int32()), "label": pa.array([0, 1, 0, 1], pa.uint8())}
    for index, values in enumerate(([0.8, 0.1, 0.7, 0.2], [0.1, 0.8, 0.2, 0.7], [0.1, 0.1, 0.1, 0.1])):
        columns[f"p_{index}"] = pa.array(values, pa.float32())
    pq.write_table(pa.table(columns), tmp_path / "two.parquet")
    rows, summary = unseen_scores(tmp_path / "two.parquet", plan, plan.cut.instances[0], read_gene_folds(folder, plan))
    assert [row["acceptor_ap"] for row in rows] == [None] * len(rows)
    assert {row["donor_ap"] for row in rows} == {1.0}
    pooled = {(one["metric"], one["class"]): one["value"] for one in summary["all_rows"]}
    assert pooled["average_precision", "acceptor"] is None
    assert json.dumps(summary, allow_nan=False)
