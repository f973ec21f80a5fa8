"""Distillation: one fast model of a run, honest about what it loses, the same bytes however it was interrupted."""

import csv
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from runs import assert_refused, call, contents, end, here, plain_run, planned, quiet, started

import mi_duck
from mi_duck.atomic_files import file_sha256
from mi_duck.ensemble.distil import _Students, distil
from mi_duck.ensemble.fold_ensembles import read_fold_ensembles
from mi_duck.ensemble.model import ConsolidatedMetaModel
from mi_duck.ensemble.model_file import load_unified_model
from mi_duck.metrics.calibrate import calibrate, cross_fitted
from mi_duck.rows.partition import partition_here
from mi_duck.rows.segments import SegmentReader
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import read_gene_folds
from mi_duck.run.plan import Plan

TREES = 12


@pytest.fixture(scope="module")
def run(lean_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of three instances that vote by probability."""
    return plain_run(lean_dataset, tmp_path_factory)


@pytest.fixture(scope="module")
def made(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a model distilled from it."""
    out = tmp_path_factory.mktemp("distilled") / "fast.miduck"
    before = contents(run)
    result = here("distil", run, "--trees", TREES, "--out", out, "--threads", 1)
    assert "12 trees per class predict" in result.stdout
    assert contents(run) == before
    assert not (run / ".scratch").exists()
    return out


def test_distil__writes_a_model_of_the_same_kind(run: Path, made: Path, lean_dataset: Path, tmp_path: Path) -> None:
    model, ensemble = load_unified_model(made), load_unified_model(run)
    assert isinstance(model, ConsolidatedMetaModel)
    assert isinstance(ensemble, ConsolidatedMetaModel)
    assert model.consolidation_method == "distilled"
    assert [one.num_boosted_rounds() for one in model.get_base_models()] == [TREES] * 3
    assert (model.features, model.classes, model.training) == (ensemble.features, ensemble.classes, ensemble.training)
    assert set(model.thresholds) == set(ensemble.thresholds)
    rows = pq.read_table(next(lean_dataset.rglob("*.parquet"))).slice(0, 200)
    assert np.abs(model.predict_proba(rows) - ensemble.predict_proba(rows)).mean() < 0.05
    values = model.compute_ensemble_shap_importance(rows)  # which checks that values add up to the margins
    assert set(values) == {"neither", "donor", "acceptor", "ensemble"}
    for kind in ("xgboost", "onnx", "pickle"):
        here("export", made, "--format", kind)  # which compares the predictions
    assert load_unified_model(made.with_suffix(".pkl")).consolidation_method == "distilled"
    here("predict", made, lean_dataset, "--out", tmp_path / "p.parquet")
    names = pq.read_schema(tmp_path / "p.parquet").names
    assert "p_donor" in names
    assert not [name for name in names if name.startswith("spread")]  # there is nothing that could disagree


def test_distil__says_what_it_is_worth(run: Path, made: Path) -> None:
    facts = json.loads(made.with_suffix(".json").read_bytes())
    assert (facts["trees"], facts["model_sha256"]) == (TREES, file_sha256(made))
    scores = {(one["metric"], one["class"]): one for one in facts["scores"]}
    one = scores["average_precision", "macro"]
    assert one["difference"]["value"] == pytest.approx(one["distilled"]["value"] - one["ensemble"]["value"])
    assert one["difference"]["low"] <= one["difference"]["value"] <= one["difference"]["high"]
    with (run / "metrics.csv").open(newline="") as file:
        of_run = [
            float(row["value"])
            for row in csv.DictReader(file)
            if (row["scope"], row["is_chosen"], row["fold"]) == ("ensemble", "1", "")
            and (row["class"], row["metric"]) == ("macro", "average_precision")
        ]
    assert [one["ensemble"]["value"]] == pytest.approx(of_run)
    assert all(line["correlation"] > 0.8 for line in facts["fidelity"])
    assert facts["log_loss_against_ensemble"] >= facts["log_loss_of_ensemble_against_itself"]
    speed = facts["speed"]
    assert f"{speed['distilled_rows_per_second']:,} rows a second" in facts["answer"]


def test_distil__students_never_see_their_fold(lean_dataset: Path, run: Path, tmp_path: Path) -> None:
    """What the teacher says of the rows of a fold does not change the student of the fold, and it changes that of another."""
    folder, plan, reader = opened(run, tmp_path)
    fold = read_gene_folds(folder, plan).fold[reader.keys()["gene_rank"]].astype(np.int8)
    taught = np.random.default_rng(1).normal(size=(reader.n_rows, 3)).astype(np.float32)
    changed = taught.copy()
    changed[fold == 1] += 1

    def boosters(margins: np.ndarray, number: int) -> list[bytes]:
        return _Students(folder, plan, reader, str(margins.sum()), 3, 1, quiet).fit(number, fold, margins)

    assert boosters(taught, 1) == boosters(changed, 1)
    assert boosters(taught, 0) != boosters(changed, 0)


def test_distil__learns_from_the_ensemble_that_never_saw_the_fold(run: Path, tmp_path: Path) -> None:
    folder, plan, _ = opened(run, tmp_path)
    check_taught(folder, plan)


def check_taught(folder: RunFolder, plan: Plan) -> None:
    """Check that what students of folds learn, once it is calibrated, is what the run wrote out of fold."""
    found = distil(folder, plan, trees=2, threads=1, report=quiet)
    calibration = calibrate(found.taught, found.keys["label"], found.fold, n_folds=plan.settings.n_folds)
    table = pq.read_table(folder.out_of_fold)
    wanted = np.column_stack([table[f"p_{name}"].to_numpy() for name in plan.data.classes])
    assert np.abs(cross_fitted(found.taught, calibration, found.fold) - wanted).max() < 1e-5
    assert np.array_equal(found.fold, table["fold"].to_numpy())
    reader = SegmentReader(plan, plan.cut.segments, folder.segments)
    matrix = np.concatenate([part.copy() for part in reader.matrices(1 << 14)])
    for fold, ensemble in enumerate(read_fold_ensembles(folder, plan)):
        own = found.fold == fold
        margins = ensemble.margins_of_members(matrix[own])
        probabilities = ensemble.join(margins, ensemble.probabilities_of_members(margins)).astype(np.float32)
        assert np.abs(probabilities - wanted[own]).max() < 1e-6


def opened(run: Path, tmp_path: Path) -> tuple[RunFolder, Plan, SegmentReader]:
    """Return a copy of a run with its rows in segments."""
    shutil.copytree(run, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    partition_here(run=str(folder.root), threads=1, report=quiet)
    plan = folder.read_plan()
    return folder, plan, SegmentReader(plan, plan.cut.segments, folder.segments)


def test_distil__killed_and_repeated_gives_the_same_bytes(run: Path, made: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    process = started("distil", tmp_path / "run", "--trees", TREES, "--out", tmp_path / "fast.miduck")
    first = tmp_path / "run" / ".scratch" / "distil" / "students" / "fold_0_class_0.miduck"
    while process.poll() is None and not first.exists():
        time.sleep(0.005)
    end(process)
    assert not (tmp_path / "fast.miduck").exists()
    assert (tmp_path / "run" / ".scratch" / "distil").is_dir()
    here("distil", tmp_path / "run", "--trees", TREES, "--out", tmp_path / "fast.miduck", "--threads", 2)
    assert (tmp_path / "fast.miduck").read_bytes() == made.read_bytes()
    assert not (tmp_path / "run" / ".scratch").exists()


def test_distil__again_does_nothing_and_with_other_trees_does_it_anew(run: Path, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "fast.miduck"
    for suffix in (".miduck", ".json"):
        shutil.copy(made.with_suffix(suffix), out.with_suffix(suffix))
    result = here("distil", run, "--trees", TREES, "--out", out)
    assert "nothing to do" in result.stderr
    assert "12 trees per class predict" in result.stdout
    model = mi_duck.Run(run).distil(out, trees=2, threads=1, progress=False)
    assert model.instance_metadata[0]["rounds"] == [2, 2, 2]
    assert json.loads(out.with_suffix(".json").read_bytes())["trees"] == 2


def test_distil__refuses_what_is_no_distilled_model(run: Path, lean_dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text("{}")
    (tmp_path / "model.miduck").write_bytes((run / "consolidated_model.miduck").read_bytes())
    for name, words in (("notes.miduck", "notes.json"), ("model.miduck", "choose another --out"), ("x.bin", ".miduck")):
        assert_refused(call("distil", run, "--out", tmp_path / name), 65, words)
    assert_refused(
        call("distil", planned(lean_dataset, tmp_path / "new"), "--out", tmp_path / "a.miduck"), 65, "consolidate"
    )
    assert call("distil", run, "--out", tmp_path / "a.miduck", "--trees", 0).exit_code == 2
