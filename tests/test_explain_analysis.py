"""The analysis of a model on a dataset: which rows, which files, the same numbers everywhere, whole or not at all."""

import csv
import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import xgboost as xgb
from runs import SMALL, call, finished_run

import mi_duck
from mi_duck.data.dataset import open_dataset
from mi_duck.ensemble.feature_matrix import feature_matrix
from mi_duck.ensemble.model import ConsolidatedMetaModel, join_members
from mi_duck.ensemble.model_file import load_unified_model
from mi_duck.ensemble.shap import explain
from mi_duck.errors import CheckpointError, DataError
from mi_duck.explain.analysis import run_comprehensive_ensemble_shap_analysis, sample_rows
from mi_duck.explain.figures import Bar, Motif, Swarm, agreement_figure, importance_figure, motif_figure, swarm_figure
from mi_duck.explain.tables import agreement, class_stems
from mi_duck.genome.synthetic import synthesise
from mi_duck.run.encoding import Encoding
from mi_duck.run.folder import RunFolder, invalidate_file_list, is_explained

SHAP = "comprehensive_shap_analysis"
CLASSES = ("neither", "donor", "acceptor")
FIGURES = [
    *("ensemble_shap_analysis", "per_class_shap_importance", "instance_agreement", "kmer_motifs"),
    *(f"beeswarm_{name}" for name in CLASSES),
]
FILES = {
    *("ensemble_shap_importance.csv", "shap_importance_incremental.csv", "shap_analysis_summary.json"),
    *("shap_sample.csv", "feature_groups.csv", "kmer_families.csv", "instance_agreement.csv"),
    *(f"{name}_shap_importance.csv" for name in CLASSES),
    *(f"per_instance_results/instance_{number:02d}_shap_importance.csv" for number in range(3)),
    *(f"{name}.png" for name in FIGURES),
    "beeswarm.parquet",
}


@pytest.fixture(scope="module")
def run(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(small_dataset, tmp_path_factory)


@pytest.fixture(scope="module")
def model(run: Path) -> ConsolidatedMetaModel:
    loaded = load_unified_model(run)
    assert isinstance(loaded, ConsolidatedMetaModel)
    return loaded


@pytest.fixture(scope="module")
def out(run: Path, small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an analysis of 300 rows; only to be read."""
    folder = tmp_path_factory.mktemp("explained") / "shap"
    run_comprehensive_ensemble_shap_analysis(small_dataset, run, folder, 300)
    return folder


def quiet(stage: str, done: int, total: int) -> None:
    """Take progress and forget it."""


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def names_in(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


# ---- rows -------------------------------------------------------------------------------------------------------------


def sampled(location: Path, n_rows: int, seed: int = 42) -> Any:
    dataset = open_dataset(str(location))
    (rows,) = sample_rows(dataset, dataset.features, n_rows=[n_rows], seed=seed, threads=1, report=quiet)
    return rows


def test_sample_rows__has_every_class_and_gene_in_its_share(small_dataset: Path) -> None:
    rows = sampled(small_dataset, 500)
    whole = pq.read_table(small_dataset / "master", columns=["gene_id", "splice_type"])
    for values, found in (
        (np.array([CLASSES.index(text) for text in whole["splice_type"].to_pylist()]), rows.label),
        (np.array(whole["gene_id"].to_pylist()), np.array(rows.gene_id)),
    ):
        for value in np.unique(values):
            expected = 500 * (values == value).mean()
            # the rows of a gene and a class follow each other in the list, and there are three classes
            assert abs((found == value).sum() - expected) <= (1 if values.dtype.kind == "i" else 3)
    assert (np.diff(rows.cluster) >= 0).all()


def test_sample_rows__are_rows_of_the_dataset_in_any_files(small_dataset: Path, tmp_path: Path) -> None:
    synthesise(tmp_path / "other", n_genes=60, rows_per_gene=60, n_features=40, n_files=3, shuffle_rows=True)
    rows, shuffled = sampled(small_dataset, 200), sampled(tmp_path / "other", 200)
    assert (rows.gene_id, rows.position) == (shuffled.gene_id, shuffled.position)
    np.testing.assert_array_equal(rows.matrix, shuffled.matrix)
    np.testing.assert_array_equal(rows.label, shuffled.label)
    table = pq.read_table(small_dataset / "master")
    keys = list(zip(table["gene_id"].to_pylist(), table["position"].to_pylist(), strict=True))
    indices = [keys.index(key) for key in zip(rows.gene_id, rows.position, strict=True)]
    features = open_dataset(str(small_dataset)).features
    np.testing.assert_array_equal(rows.matrix, feature_matrix(table.take(indices), features))


def test_sample_rows__follow_the_seed_and_end_with_the_dataset(small_dataset: Path) -> None:
    first, second, other = (sampled(small_dataset, 100, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.matrix, second.matrix)
    assert first.position != other.position
    dataset = open_dataset(str(small_dataset))
    assert len(sampled(small_dataset, 10**6).label) == dataset.n_rows


# ---- the whole analysis -----------------------------------------------------------------------------------------------


def test_analysis__writes_every_file_with_its_hash(out: Path, run: Path) -> None:
    assert names_in(out) == FILES
    summary = json.loads((out / "shap_analysis_summary.json").read_bytes())
    assert set(summary["files"]) == FILES - {"shap_analysis_summary.json"}
    for name, digest in summary["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    assert summary["n_binary_models"] == 9
    assert summary["additivity"]["n_checked"] == 9 * 300
    assert summary["additivity"]["largest_gap"] < 1e-5
    assert summary["sampling"]["n_rows"] == 300 == len(read(out / "shap_sample.csv"))
    assert "explains the members" in summary["explains"]
    has_report = (run / "leakage_analysis" / "leakage.json").is_file()
    assert (summary["suspects"] is not None) == has_report
    assert not list(out.parent.glob(".*"))


def test_analysis__has_the_numbers_of_the_model_on_the_same_rows(
    out: Path, model: ConsolidatedMetaModel, small_dataset: Path
) -> None:
    table = pq.read_table(small_dataset / "master")
    keys = list(zip(table["gene_id"].to_pylist(), table["position"].to_pylist(), strict=True))
    sample = read(out / "shap_sample.csv")
    rows = table.take([keys.index((row["gene_id"], int(row["position"]))) for row in sample])
    assert rows["splice_type"].to_pylist() == [row["label"] for row in sample]
    found = model.compute_ensemble_shap_importance(rows)
    for name in ("ensemble", *CLASSES):
        records = read(out / f"{name}_shap_importance.csv")
        assert [int(one["rank"]) for one in records] == list(range(1, 41))
        values = [float(one["importance"]) for one in records]
        assert values == sorted(values, reverse=True)
        assert values == pytest.approx([found[name][one["feature"]] for one in records], rel=1e-9)
        assert all(float(one["se"]) >= 0 and one["is_suspect"] in ("", "0") for one in records)
    boosters = model.get_comprehensive_shap_models()
    for number, member in enumerate(model.members):
        one = explain(
            [[boosters[f"instance_{number}"][f"{name}_model"] for name in CLASSES]],
            (1.0,),
            encoding=member.encoding,
            features=model.features,
            matrix=feature_matrix(rows, model.features),
        )
        records = read(out / f"per_instance_results/instance_{number:02d}_shap_importance.csv")
        indices = [model.features.index(record["feature"]) for record in records]
        values = [float(record["importance_donor"]) for record in records]
        assert values == pytest.approx(one.by_class[1].value[indices].tolist(), rel=1e-9)


def test_analysis__legacy_file_and_summary_repeat_the_table(out: Path) -> None:
    records = read(out / "ensemble_shap_importance.csv")
    legacy = read(out / "shap_importance_incremental.csv")
    assert [one["feature"] for one in legacy] == [one["feature"] for one in records]
    assert [one["shap_importance"] for one in legacy] == [one["importance"] for one in records]
    by_class = {name: {one["feature"]: one for one in read(out / f"{name}_shap_importance.csv")} for name in CLASSES}
    for one in legacy:
        own = [float(one[f"importance_{name}"]) for name in CLASSES]
        assert own == [float(by_class[name][one["feature"]]["importance"]) for name in CLASSES]
        assert float(one["importance_mean"]) == pytest.approx(sum(own) / 3)
    summary = json.loads((out / "shap_analysis_summary.json").read_bytes())
    top = {one["feature"]: float(one["importance"]) for one in records[:10]}
    assert summary["top_10_features"] == top
    assert summary["top_features_names"] == list(top)
    kinds = summary["feature_type_analysis"]
    n_kmers = sum("mer_" in one["feature"] for one in records)
    assert (kinds["n_kmer_features"], kinds["n_non_kmer_features"]) == (n_kmers, 40 - n_kmers)


def test_analysis__gives_the_same_bytes_with_more_threads(
    out: Path, run: Path, small_dataset: Path, tmp_path: Path
) -> None:
    run_comprehensive_ensemble_shap_analysis(small_dataset, run, tmp_path / "again", 300, threads=3)
    for name in FILES:
        assert (out / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_analysis__replaces_an_earlier_one_and_refuses_other_folders(
    run: Path, small_dataset: Path, tmp_path: Path
) -> None:
    instance = run / "multi_instance_training" / "instance_01"
    first = run_comprehensive_ensemble_shap_analysis(small_dataset, instance, tmp_path / "a", 40, with_figures=False)
    assert not [name for name in names_in(tmp_path / "a") if name.endswith((".png", ".pdf"))]
    assert (first["model_type"], first["n_instances"], first["instance_weights"]) == ("InstanceModel", 1, [1.0])
    assert first["instance_agreement"]["mean_rank_correlation"] is None
    assert "instance_agreement.csv" not in names_in(tmp_path / "a")
    second = run_comprehensive_ensemble_shap_analysis(small_dataset, instance, tmp_path / "a", 50, with_figures=False)
    assert second["sampling"]["n_rows"] == 50
    (tmp_path / "a" / "note.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds other files .* note\.txt"):
        run_comprehensive_ensemble_shap_analysis(small_dataset, instance, tmp_path / "a", 40)
    assert len(read(tmp_path / "a" / "shap_sample.csv")) == 50


def test_analysis__that_fails_leaves_nothing(run: Path, small_dataset: Path, tmp_path: Path) -> None:
    whole = pq.read_table(small_dataset / "master")
    (tmp_path / "data").mkdir()
    pq.write_table(whole.drop_columns(["donor_score"]), tmp_path / "data" / "a.parquet")
    with pytest.raises(DataError, match=r"lacks 1 of 40 features of the model: donor_score"):
        run_comprehensive_ensemble_shap_analysis(tmp_path / "data", run, tmp_path / "out")
    text = ["elsewhere"] * 5 + whole["splice_type"].to_pylist()[5:]
    pq.write_table(
        whole.set_column(whole.column_names.index("splice_type"), "splice_type", [text]),
        tmp_path / "data" / "a.parquet",
    )
    with pytest.raises(DataError, match="unknown label"):
        run_comprehensive_ensemble_shap_analysis(tmp_path / "data", run, tmp_path / "out")
    with pytest.raises(CheckpointError):
        run_comprehensive_ensemble_shap_analysis(small_dataset, tmp_path, tmp_path / "out")
    (tmp_path / "file").write_text("")
    for name, n_rows in (("file", 9), ("out", 0)):
        with pytest.raises(DataError):
            run_comprehensive_ensemble_shap_analysis(small_dataset, run, tmp_path / name, n_rows)
    assert names_in(tmp_path) == {"data/a.parquet", "file"}


def test_analysis__against_a_background_records_it(run: Path, small_dataset: Path, tmp_path: Path) -> None:
    pytest.importorskip("shap")
    instance = run / "multi_instance_training" / "instance_00"
    summary = mi_duck.run_comprehensive_ensemble_shap_analysis(
        small_dataset, instance, tmp_path / "a", 20, 15, True, with_figures=False
    )
    assert summary["method"] == "interventional TreeSHAP"
    assert summary["background"]["n_rows"] == 15 == len(read(tmp_path / "a" / "shap_background.csv"))
    assert summary["additivity"]["largest_gap"] < 1e-4


def test_agreement__equals_spearmans_correlation_with_ties_of_the_features_that_are_used() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = [[1.0, 2, 2, 5, 0, 0, 7], [3.0, 1, 4, 4, 0, 1, 2], [3.0] * 4 + [0.0] + [3.0] * 2]

    def of(*rows: list[float]) -> np.ndarray:
        return agreement(SimpleNamespace(by_instance=[SimpleNamespace(value=np.array(row)) for row in rows]))  # type: ignore[arg-type]

    used = [0, 1, 2, 3, 5, 6]  # the fifth is used by no instance
    first, second = (np.array(row)[used] for row in values[:2])
    assert of(*values)[0, 1] == pytest.approx(stats.spearmanr(first, second).statistic)
    assert np.isnan(of(*values)[2]).all()  # one value for all features
    assert of(values[0]).tolist() == [[1]]
    assert np.isnan(of([0.0, 0.0], [0.0, 0.0])).all()


def test_class_stems__are_names_of_files_and_never_the_ensembles() -> None:
    assert class_stems(["a", "../b", "ensemble", "größe", "", "x" * 200]) == [
        *("a", "class_1", "class_2", "class_3", "class_4", "class_5")
    ]


# ---- what is planted is found -----------------------------------------------------------------------------------------


def test_importance__planted_features_come_first_in_their_class_and_useless_ones_last(tmp_path: Path) -> None:
    synthesise(tmp_path / "data", n_genes=200, rows_per_gene=60, n_features=60)
    truth = json.loads((tmp_path / "data" / "truth.json").read_bytes())
    table = pq.read_table(tmp_path / "data" / "master")
    features = (*truth["features"], "constant")
    matrix = np.column_stack([feature_matrix(table, features[:-1]), np.ones(len(table), dtype=np.float32)])
    label = np.array(table["splice_type"].to_pylist())
    settings = {"objective": "binary:logistic", "max_depth": 4, "eta": 0.2, "nthread": 1}
    boosters = [
        xgb.train(settings, xgb.QuantileDMatrix(matrix, label=(label == name).astype(float)), 60) for name in CLASSES
    ]
    found = explain([boosters], (1.0,), encoding=Encoding(), features=features, matrix=matrix[::4])
    for index, name in ((1, "donor"), (2, "acceptor")):
        value = dict(zip(features, found.by_class[index].value, strict=True))
        ranked = sorted(features, key=lambda one: -value[one])
        planted, other = (list(truth["informative"][one]) for one in (name, CLASSES[3 - index]))
        assert ranked[0] == f"{name}_score"
        assert ranked[1] == f"signal_{name}_0"  # the strongest that is planted
        assert min(value[one] for one in planted) > max(value[one] for one in truth["useless"])
        # what is planted for the other class matters less here than what is planted for this one
        assert np.mean([value[one] for one in planted]) > 2 * np.mean([value[one] for one in set(other) - set(planted)])
        assert all(
            found.direction[index, features.index(one)] > 0.3 for one in planted if one.startswith(f"signal_{name}")
        )
    assert found.overall.value[-1] == 0
    assert np.isnan(found.direction[:, -1]).all()


# ---- a run ------------------------------------------------------------------------------------------------------------


def test_run__is_explained_by_default_and_again_only_when_asked_for_otherwise(
    small_dataset: Path, run: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    folder = RunFolder(copy)
    assert names_in(folder.shap) == FILES
    assert folder.shap_importance.read_bytes() == (folder.shap / "shap_importance_incremental.csv").read_bytes()
    for number in range(3):
        own = copy / "multi_instance_training" / f"instance_{number:02d}" / "shap_analysis" / "shap_importance.csv"
        name = f"per_instance_results/instance_{number:02d}_shap_importance.csv"
        assert own.read_bytes() == (folder.shap / name).read_bytes()
    before = (folder.shap / "shap_analysis_summary.json").stat().st_mtime_ns
    assert call("explain", copy).exit_code == 0
    assert (folder.shap / "shap_analysis_summary.json").stat().st_mtime_ns == before
    (copy / "leakage_analysis").mkdir(exist_ok=True)
    invalidate_file_list(folder)  # as in a run that is not finished, of which no file is known
    (copy / "leakage_analysis" / "leakage.json").write_text('{"suspects": ["signal_donor_0", {"feature": "noise_1"}]}')
    result = call("explain", copy, "--shap-sample", "60", "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["sampling"]["n_rows"] == 60
    assert facts["suspects"] == ["noise_1", "signal_donor_0"]
    marked = {one["feature"] for one in read(folder.shap / "donor_shap_importance.csv") if one["is_suspect"] == "1"}
    assert marked == {"signal_donor_0", "noise_1"}
    assert "donor_score" in call("explain", copy, "--shap-sample", "60").stdout
    options = {"sample_size": 60, "background_size": 0, "with_figures": True}
    assert is_explained(folder, **options)
    assert not is_explained(folder, **options | {"background_size": 5})
    (folder.shap / "donor_shap_importance.csv").unlink()
    assert not is_explained(folder, **options)


def test_run__skip_shap_and_a_later_run_that_asks_for_it(small_dataset: Path, run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    folder = RunFolder(copy)
    shutil.rmtree(folder.shap)
    command = ("run", small_dataset, "--out", copy, *SMALL)
    skipped = call(*command, "--skip-shap")
    assert skipped.exit_code == 0, skipped.output
    assert "nothing to do" in skipped.stderr
    assert not folder.shap.exists()
    asked = call(*command, "--shap-sample", "30", "--shap-background", "0", "--minimal-diagnostics")
    assert asked.exit_code == 0, asked.output
    assert len(read(folder.shap / "shap_sample.csv")) == 30


def test_explain__of_a_run_without_a_model_is_refused(run: Path, tmp_path: Path) -> None:
    assert call("explain", tmp_path).exit_code == 65
    (tmp_path / "run").mkdir()
    shutil.copy(run / "plan.json", tmp_path / "run")
    refused = call("explain", tmp_path / "run")
    assert refused.exit_code == 65
    assert "no consolidated model yet" in refused.stderr
    assert names_in(tmp_path) - {"run/.lock"} == {"run/plan.json"}
    assert call("explain", run, "--shap-sample", "0").exit_code == 2


# ---- figures ----------------------------------------------------------------------------------------------------------


def test_figures__take_what_is_odd() -> None:
    """Nothing to show, nothing known, names of any length and letters: no warning, which would be an error here."""
    bars = [Bar("a" * 99, 0.0, float("nan")), Bar("<b> $x$ _", 0.0, 0.0, "suspect"), Bar("3mer_ACG", 0.0, 0.1, "k-mer")]
    importance_figure(bars, [("k-mer", 0.0)], title="t").canvas.draw()
    missing = np.full(3, np.nan, dtype=np.float32)
    swarms = [Swarm("x", np.zeros(3, dtype=np.float32), missing), Swarm("y", np.ones(3, dtype=np.float32), missing + 1)]
    swarm_figure(swarms, title="t").canvas.draw()
    agreement_figure(["instance_00", "instance_01"], np.full((2, 2), np.nan), ["x"], np.zeros((1, 2))).canvas.draw()
    motif_figure([Motif("ACGTN", (0.0, 0.0), (0, 1))], ["a", "b"], []).canvas.draw()


def test_consolidated__weights_reach_the_analysis(run: Path, model: ConsolidatedMetaModel, small_dataset: Path) -> None:
    """A member of weight one leaves the others out."""
    rows = pq.read_table(small_dataset / "master").slice(0, 60)
    lone = join_members(model.members, n_genes=60, thresholds={}, weights=(0.0, 1.0, 0.0))
    expected = model.members[1].compute_ensemble_shap_importance(rows)
    assert lone.compute_ensemble_shap_importance(rows) == expected
