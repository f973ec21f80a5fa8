"""The files of a run: what is documented is written, and nothing else."""

import re
from pathlib import Path

import pytest
from runs import finished_run

RUN = {
    *("plan.json", "memory.json", "stage_times.json", "genes.parquet", "run.duckdb", "report.html", "provenance.json"),
    *("consolidated_model.miduck", "consolidation_summary.json", "gene_coverage_report.csv"),
    *("instance_performance_comparison.csv", "unified_training_summary.txt", "metrics.csv", "thresholds.json"),
    *("gene_deltas.csv", "oof_predictions.parquet", "fold_ensembles.miduck", "run.log"),
}
"""Files of a run that its documentation names."""

INSTANCE = {
    *("manifest.json", "genes.txt", "model_multiclass.miduck", "fold_models.miduck", "gene_cv_metrics.csv"),
    *("metrics_aggregate.json", "feature_manifest.csv", "holdout_evaluation_results.csv"),
    *("holdout_evaluation_summary.json", "oof_predictions.parquet", "learning_curves.csv", "calibration.json"),
    *("pr_base_vs_meta.pdf", "roc_base_vs_meta.pdf", "measurement.json"),
    *("feature_importance_analysis/importance.csv", "feature_importance_analysis/importance.pdf"),
}
"""Files of each folder of an instance."""

FOLDERS = {
    "leakage_analysis": {"leakage.csv", "leakage.json", "leakage.pdf", "leakage.svg"},
    "overfitting": {"overfitting.csv", "overfitting.json"},
    "calibration_analysis": {"calibration.json", "reliability.csv"},
    "comprehensive_shap_analysis": {
        *("ensemble_shap_importance.csv", "neither_shap_importance.csv", "donor_shap_importance.csv"),
        *("acceptor_shap_importance.csv", "shap_analysis_summary.json", "ensemble_shap_analysis.png"),
        *("per_class_shap_importance.png", "shap_importance_incremental.csv"),
    },
    "feature_importance_analysis": {"shap_analysis/importance/shap_importance_incremental.csv"},
}
"""Folders of a run, and files that each must hold."""

BESIDE = {
    "base_vs_meta.json": "base model against ensemble",
    "curves.csv": "points of the curves",
    "*_base_vs_meta*.pdf": "the curves drawn",
    "memory_per_gene.pdf": "memory predicted and measured",
}
"""Files beside these; a pattern may match several."""


@pytest.fixture(scope="module")
def run(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(small_dataset, tmp_path_factory)


def files(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_tree__of_a_run_is_the_documented_one(run: Path) -> None:
    there = {path.name for path in run.iterdir() if not path.name.startswith(".")}
    expected = RUN | set(FOLDERS) | {"multi_instance_training"}
    assert expected <= there
    undocumented = {name for name in there - expected if not any(Path(name).match(pattern) for pattern in BESIDE)}
    assert undocumented == set()


def test_tree__of_its_folders_is_the_documented_one(run: Path) -> None:
    for folder, names in FOLDERS.items():
        assert names <= files(run / folder), folder


def test_tree__of_every_instance_is_the_documented_one(run: Path) -> None:
    folders = sorted((run / "multi_instance_training").iterdir())
    assert [folder.name for folder in folders] == ["instance_00", "instance_01", "instance_02"]
    for folder in folders:
        found = {name for name in files(folder) if not name.startswith("shap_analysis/")}
        assert found == INSTANCE
        assert (folder / "shap_analysis").is_dir()


def test_tree__has_no_empty_file_no_leftover_and_no_pickle(run: Path) -> None:
    for path in run.rglob("*"):
        if path.is_file() and not path.name.startswith(".lock"):
            assert path.stat().st_size, path
            assert not re.search(r"\.(tmp|wal|pkl)$", path.name), path
            assert not path.name.startswith("."), path
    assert not (run / ".scratch").exists()
