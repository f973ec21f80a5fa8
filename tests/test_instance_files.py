"""The completed folder of an instance: what is in it, that it is right, and that it is valid at every moment."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from runs import SMALL, call, finished_run, here, quiet, resealed
from sklearn.metrics import average_precision_score, roc_auc_score

from mi_duck.atomic_files import file_sha256
from mi_duck.boosting.write_instance import feature_kind
from mi_duck.ensemble.model_file import load_unified_model
from mi_duck.errors import CheckpointError
from mi_duck.report.instance_files import amended, describe_instances
from mi_duck.run.folder import RunFolder
from mi_duck.run.instance_folder import is_trained

PLOTS = {"pr_base_vs_meta.pdf", "roc_base_vs_meta.pdf", "feature_importance_analysis/importance.pdf"}
UNSEEN = {"holdout_evaluation_results.csv", "holdout_evaluation_summary.json"}
DESIGN_COLUMNS = {
    *("fold", "test_rows", "test_macro_f1", "test_macro_avg_precision", "splice_macro_f1", "top_k_accuracy"),
    *(
        "top_k_donor",
        "top_k_acceptor",
        "top_k_n_genes",
        "donor_f1",
        "acceptor_f1",
        "donor_ap",
        "acceptor_ap",
        "base_f1",
    ),
    *("meta_f1", "base_topk", "meta_topk", "delta_fp", "delta_fn", "auc_base", "auc_meta", "ap_base", "ap_meta"),
}
"""Columns of the reference's gene_cv_metrics.csv."""


@pytest.fixture(scope="module")
def run(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(small_dataset, tmp_path_factory)


@pytest.fixture(scope="module")
def bare(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same run consolidated anew, with its scratch, its instances as training left them."""
    out = tmp_path_factory.mktemp("bare") / "run"
    shutil.copytree(run, out)
    for path in out.glob("multi_instance_training/*/manifest.json"):
        for name in forget(
            path, PLOTS | UNSEEN | {"metrics_aggregate.json", "feature_importance_analysis/importance.csv"}
        ):
            (path.parent / name).unlink()
    assert call("consolidate", out, "--threads", 1).exit_code == 0
    return out


def forget(manifest: Path, names: set[str]) -> set[str]:
    """Take files out of a manifest; return those that stood in it."""
    listed = names & set(json.loads(manifest.read_bytes())["sha256"])
    resealed(manifest, lambda values: [values["sha256"].pop(name) for name in listed])
    return listed


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def first(run: Path) -> Path:
    return run / "multi_instance_training" / "instance_00"


def files(folder: Path) -> set[str]:
    """Return the files of an instance but those of the SHAP analysis, which is a stage of its own."""
    names = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    return {name for name in names if not name.startswith("shap_analysis/")}


def test_instance__is_complete_and_its_manifest_vouches_for_all(run: Path) -> None:
    folder = RunFolder(run)
    plan = folder.read_plan()
    for instance in plan.cut.instances:
        where = folder.instance(instance)
        manifest = json.loads((where / "manifest.json").read_bytes())
        listed = {name for name in manifest["sha256"] if not name.startswith("shap_analysis/")}
        assert files(where) == listed | {"manifest.json", "measurement.json"}
        assert PLOTS | UNSEEN | {"metrics_aggregate.json"} < set(manifest["sha256"])
        for name, digest in manifest["sha256"].items():
            assert file_sha256(where / name) == digest
        assert is_trained(folder, plan, instance)
        for name in PLOTS:
            assert (where / name).read_bytes().startswith(b"%PDF")
            assert b"CreationDate" not in (where / name).read_bytes()


def test_is_trained__minds_models_and_not_their_description(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    plan = folder.read_plan()
    path = first(folder.root) / "feature_importance_analysis" / "importance.csv"
    path.write_bytes(path.read_bytes()[:-1])
    assert is_trained(folder, plan, plan.cut.instances[0])
    path = first(folder.root) / "fold_models.miduck"
    path.write_bytes(path.read_bytes()[:-1])
    assert not is_trained(folder, plan, plan.cut.instances[0])
    assert is_trained(folder, plan, plan.cut.instances[1])


def test_gene_cv_metrics__has_the_columns_of_the_design_documents(run: Path) -> None:
    folds = read(first(run) / "gene_cv_metrics.csv")
    assert set(folds[0]) >= DESIGN_COLUMNS
    assert list(folds[0])[:3] == ["fold", "test_rows", "test_genes"]
    assert [row["fold"] for row in folds] == ["0", "1", "2"]
    for row in folds:
        assert row["test_macro_f1"] == row["macro_f1"]
        assert row["test_macro_avg_precision"] == row["macro_ap"]


def test_gene_cv_metrics__are_those_of_the_out_of_fold_rows_and_the_datasets_base_scores(
    run: Path, small_dataset: Path
) -> None:
    """The base model's own ranking: calibration keeps the order of one score, so its AUC is near that of the raw scores."""
    table = pq.read_table(first(run) / "oof_predictions.parquet")
    label = np.array(table["label"].to_pylist())
    rows = pq.read_table(small_dataset / "master")
    base = {
        (gene, position): donor + acceptor
        for gene, position, donor, acceptor in zip(
            *(rows[name].to_pylist() for name in ("gene_id", "position", "donor_score", "acceptor_score")), strict=True
        )
    }
    keys = list(zip(table["gene_id"].to_pylist(), table["position"].to_pylist(), strict=True))
    assert len(set(keys)) == len(keys)
    raw = np.array([base[key] for key in keys])
    for row in read(first(run) / "gene_cv_metrics.csv"):
        of_fold = table["fold"].to_numpy() == int(row["fold"])
        truth = label[of_fold] != "neither"
        site = (table["p_donor"].to_numpy()[of_fold]).astype(float) + table["p_acceptor"].to_numpy()[of_fold]
        assert float(row["auc_meta"]) == pytest.approx(roc_auc_score(truth, site))
        assert float(row["ap_meta"]) == pytest.approx(average_precision_score(truth, site))
        assert float(row["auc_base"]) == pytest.approx(roc_auc_score(truth, raw[of_fold]), abs=0.03)


def test_metrics_aggregate__is_mean_and_deviation_of_the_csv(run: Path) -> None:
    folds = read(first(run) / "gene_cv_metrics.csv")
    found = json.loads((first(run) / "metrics_aggregate.json").read_bytes())
    assert found["n_folds"] == 3
    assert set(found["metrics"]) | set(found["left_out"]) == set(folds[0]) - {"fold"}
    for name, one in found["metrics"].items():
        values = [float(row[name]) for row in folds if row[name]]
        assert one["mean"] == pytest.approx(np.mean(values))
        assert one["sd"] == pytest.approx(np.std(values, ddof=1))


def test_importance__is_what_the_boosters_say(run: Path) -> None:
    model = load_unified_model(first(run))
    rows = read(first(run) / "feature_importance_analysis" / "importance.csv")
    assert len(rows) == len(model.classes) * len(model.features)
    for index, name in enumerate(model.classes):
        of_class = [row for row in rows if row["class"] == name]
        assert [int(row["rank"]) for row in of_class] == list(range(1, len(model.features) + 1))
        gains = [float(row["total_gain"]) for row in of_class]
        assert gains == sorted(gains, reverse=True)
        wanted = model.get_base_models()[index].get_score(importance_type="gain")
        for row in of_class:
            key = f"f{model.features.index(row['feature'])}"
            assert (key in wanted) == (row["gain"] != "")
            if key in wanted:
                assert float(row["gain"]) == pytest.approx(wanted[key], rel=1e-5)
            else:
                assert (row["weight"], row["cover"]) == ("0", "")
        splits = sum(one.count("yes=") for one in model.get_base_models()[index].get_dump())
        assert sum(int(row["weight"]) for row in of_class) == splits


def test_feature_manifest__tells_kind_and_type_of_every_feature(run: Path) -> None:
    plan = RunFolder(run).read_plan()
    rows = read(first(run) / "feature_manifest.csv")
    assert list(rows[0]) == ["feature", "kind", "dtype", "missing_as"]
    assert [row["feature"] for row in rows] == list(plan.data.features)
    kinds = {row["feature"]: row["kind"] for row in rows}
    assert kinds["donor_score"] == "base score"
    assert {feature_kind(name, plan.data.base_scores) for name in ("3mer_ACG", "11mer_ACGTNACGTNA")} == {"k-mer"}
    assert {feature_kind(name, plan.data.base_scores) for name in ("3mer_x", "mer_A", "donor_diff_m1")} == {"other"}
    assert {row["dtype"] for row in rows} == {"uint8", "float32"}


# ---- how it is written ------------------------------------------------------------------------------------------------


def test_describe_instances__minimal_writes_scores_but_no_plot_and_no_unseen_genes(bare: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(bare, out)
    describe_instances(run=str(out), threads=1, is_minimal=True, report=quiet)
    found = files(first(out))
    assert {"metrics_aggregate.json", "feature_importance_analysis/importance.csv"} < found
    assert not (PLOTS | UNSEEN) & found
    folder = RunFolder(out)
    assert all(is_trained(folder, folder.read_plan(), one) for one in folder.read_plan().cut.instances)


def test_describe_instances__again_gives_the_same_bytes_as_the_run(bare: Path, run: Path, tmp_path: Path) -> None:
    """With two threads in this process, after one thread in a child of the run."""
    out = tmp_path / "run"
    shutil.copytree(bare, out)
    describe_instances(run=str(out), threads=2, is_minimal=False, report=quiet)
    for instance in ("instance_00", "instance_02"):
        one, other = (root / "multi_instance_training" / instance for root in (run, out))
        assert files(one) == files(other)
        differ = [name for name in files(one) if file_sha256(one / name) != file_sha256(other / name)]
        assert [name for name in differ if name != "manifest.json"] == []


def test_describe_instances__without_the_scores_of_all_rows_says_what_to_run(run: Path) -> None:
    with pytest.raises(CheckpointError, match="run 'mi-duck consolidate"):
        describe_instances(run=str(run), threads=1, is_minimal=True, report=quiet)


def test_amended__leaves_a_valid_folder_at_every_moment(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    folder = RunFolder(out)
    plan = folder.read_plan()
    instance = plan.cut.instances[0]
    where = folder.instance(instance)
    names = ["metrics_aggregate.json", "sub/new.txt"]

    def interrupted() -> None:
        with amended(where, names):
            assert is_trained(folder, plan, instance)
            (where / names[0]).write_text("torn")
            assert is_trained(folder, plan, instance)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert is_trained(folder, plan, instance)
    assert names[0] not in json.loads((where / "manifest.json").read_bytes())["sha256"]
    with amended(where, names):
        (where / names[0]).write_text("{}")
        (where / "sub").mkdir()
        (where / names[1]).write_text("new")
    assert is_trained(folder, plan, instance)
    assert set(names) < set(json.loads((where / "manifest.json").read_bytes())["sha256"])


def test_minimal_diagnostics__is_a_flag_of_run_and_no_part_of_the_plan(
    run: Path, small_dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(run, out)
    (out / "provenance.json").unlink()  # so that the run is not finished and goes on
    for path in forget(first(out) / "manifest.json", PLOTS):
        (first(out) / path).unlink()
    done = here("run", small_dataset, "--out", out, *SMALL, "--minimal-diagnostics", "--skip-shap")
    assert "found 3 existing instances to reuse" in done.stderr
    assert not PLOTS & files(first(out))
    assert (out / "plan.json").read_bytes() == (run / "plan.json").read_bytes()
    assert (out / "metrics.csv").is_file()
