"""An instance's boosters are those of plain XGBoost on the rows they may see, the same on every machine and every time."""

import csv
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xgboost as xgb
from plans import changed
from runs import SMALL, mi_duck, planned, trained

from mi_duck.archive import read_parts
from mi_duck.rows.segments import SegmentReader, segments_of
from mi_duck.run.encoding import encoding_of
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import read_gene_folds, stopping_groups
from mi_duck.run.instance_folder import TRAINED, is_trained
from mi_duck.run.plan import Instance, Plan
from mi_duck.run.xgboost_parameters import as_dict


@dataclasses.dataclass
class Trained:
    """A trained instance with its rows as plain arrays, and the matrix as XGBoost sees it."""

    folder: RunFolder
    plan: Plan
    instance: Instance
    matrix: np.ndarray
    label: np.ndarray
    group: np.ndarray
    fold: np.ndarray

    @classmethod
    def open(cls, run: Path, instance_id: int = 0) -> "Trained":
        """Read an instance of a run and its rows."""
        folder = RunFolder(run)
        plan = folder.read_plan()
        instance = plan.cut.instances[instance_id]
        reader = SegmentReader(plan, segments_of(plan, instance), folder.segments)
        genes, keys = read_gene_folds(folder, plan), reader.keys()
        return cls(
            folder,
            plan,
            instance,
            encoding_of(plan.settings.layout_used, plan.settings.zero_is_missing).apply(
                np.concatenate([matrix.copy() for matrix in reader.matrices(1000)]), plan.data.features
            ),
            keys["label"],
            genes.group[keys["gene_rank"]],
            genes.fold[keys["gene_rank"]],
        )

    def path(self, name: str) -> Path:
        """Return a file of the instance."""
        return self.folder.instance(self.instance) / name

    def parts(self, name: str) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return facts and parts of a model file."""
        parts = read_parts(self.path(name))
        return json.loads(parts["model.json"]), parts

    def parameters(self) -> dict[str, Any]:
        """Return what plain XGBoost is told."""
        settings = self.plan.settings
        return {
            "objective": "binary:logistic",
            "tree_method": "hist",
            "max_depth": settings.max_depth,
            "learning_rate": settings.learning_rate,
            "max_bin": settings.max_bin,
            "seed": settings.seed,
            "nthread": 1,
        } | as_dict(settings.xgb_parameters)

    def stopping(self, fold: int) -> np.ndarray:
        """Return which rows early stopping looks at in a fold."""
        _, first = np.unique(self.group, return_index=True)
        chosen = stopping_groups(self.group[first], self.fold[first], fold, self.plan.settings.seed)
        return np.isin(self.group, chosen)


def plain_bytes(booster: xgb.Booster) -> bytes:
    """Return a booster without the notes of early stopping."""
    booster.set_attr(best_iteration=None, best_score=None)
    return bytes(booster.save_raw("ubj"))


def model_hashes(run: Path) -> dict[str, str]:
    """Return the hash of every model and prediction of every instance."""
    return {
        f"{manifest.parent.name}/{name}": digest
        for manifest in sorted(run.glob("multi_instance_training/*/manifest.json"))
        for name, digest in json.loads(manifest.read_bytes())["sha256"].items()
    }


@pytest.fixture(scope="module")
def run(lean_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(lean_dataset, tmp_path_factory.mktemp("train") / "run")


@pytest.fixture(scope="module")
def first(run: Path) -> Trained:
    return Trained.open(run)


@pytest.fixture(scope="module")
def holes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 1,000 rows with columns of every kind: bytes, few reals, reals with nulls, one value, no value."""
    rng = np.random.default_rng(0)
    genes = np.repeat([f"g{number}" for number in range(20)], 50)
    label = rng.choice(3, 1000, p=[0.6, 0.2, 0.2])
    missing = rng.random(1000) < 0.3
    folder = tmp_path_factory.mktemp("holes") / "data"
    folder.mkdir()
    columns = {
        "gene_id": genes,
        "splice_type": np.array(["neither", "donor", "acceptor"])[label],
        "position": np.tile(np.arange(50), 20),
        **{f"count_{number}": pa.array(rng.poisson(3 + label), pa.uint8()) for number in range(6)},
        "one_byte": pa.array(np.full(1000, 7), pa.uint8()),
        "all_bytes": pa.array(np.arange(1000) % 256, pa.uint8()),
        "real": rng.normal(label),
        "holes": pa.array(rng.normal(label), mask=missing),
        "two_values": pa.array(np.where(label == 1, 1.0, 2.0), mask=rng.random(1000) < 0.3),
        "one_real": np.full(1000, 0.25),
        "no_value": pa.array(np.zeros(1000), mask=np.ones(1000, dtype=bool)),
        "negative": -np.abs(rng.normal(label)),
    }
    pq.write_table(pa.table(columns), folder / "a.parquet")
    return folder


def trained_on(holes: Path, factory: pytest.TempPathFactory, layout: str) -> Trained:
    return Trained.open(trained(holes, factory.mktemp(layout) / "run", "--strategy", "single", "--layout", layout))


@pytest.fixture(scope="module")
def with_holes(holes: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return trained_on(holes, tmp_path_factory, "missing")


@pytest.fixture(scope="module")
def with_zeros(holes: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    one = trained_on(holes, tmp_path_factory, "zeros")
    assert set(one.plan.settings.zero_is_missing) == set(one.plan.data.small_features)
    return one


@pytest.fixture(scope="module")
def with_sentinel(holes: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    one = trained_on(holes, tmp_path_factory, "sentinel")
    assert not np.isnan(one.matrix).any()
    return one


@pytest.mark.parametrize("which", ["with_holes", "with_zeros", "with_sentinel"])
def test_train__the_model_names_features_with_missing_values(which: str, request: pytest.FixtureRequest) -> None:
    """Whatever becomes of missing values and zeros, a null of the data is a missing value."""
    facts, _ = request.getfixturevalue(which).parts("model_multiclass.miduck")
    assert set(facts["incomplete_features"]) == {"holes", "two_values", "no_value"}
    assert facts["gene_column"] == "gene_id"


@pytest.mark.parametrize("which", ["first", "with_holes", "with_zeros", "with_sentinel"])
def test_train__final_boosters_equal_plain_xgboost(which: str, request: pytest.FixtureRequest) -> None:
    """Streamed segments, cuts found apart and all, the trees are those of one matrix in memory."""
    one: Trained = request.getfixturevalue(which)
    facts, parts = one.parts("model_multiclass.miduck")
    for index in range(len(one.plan.data.classes)):
        matrix = xgb.QuantileDMatrix(
            one.matrix, (one.label == index).astype(np.float32), max_bin=one.plan.settings.max_bin, nthread=1
        )
        plain = xgb.train(one.parameters(), matrix, facts["rounds"][index])
        trees = xgb.Booster(model_file=bytearray(parts[f"booster_{index}.ubj"])).get_dump(dump_format="json")
        assert trees == plain.get_dump(dump_format="json")
        assert np.array_equal(
            xgb.Booster(model_file=bytearray(parts[f"booster_{index}.ubj"])).inplace_predict(one.matrix),
            plain.inplace_predict(one.matrix),
        )


@pytest.mark.parametrize("which", ["first", "with_holes", "with_sentinel"])
def test_train__zero_weights_equal_a_matrix_of_the_training_rows(which: str, request: pytest.FixtureRequest) -> None:
    """Boosters of each fold are byte for byte those of the training rows alone, cut as the whole matrix is.

    With missing values thresholds may differ between which no training row lies: their gains tie but for rounding.
    """
    one: Trained = request.getfixturevalue(which)
    facts, parts = one.parts("fold_models.miduck")
    whole = xgb.QuantileDMatrix(one.matrix, max_bin=one.plan.settings.max_bin, nthread=1)
    for fold in range(one.plan.settings.n_folds):
        rows = (one.fold != fold) & ~one.stopping(fold)
        for index in range(len(one.plan.data.classes)):
            matrix = xgb.QuantileDMatrix(
                one.matrix[rows],
                (one.label[rows] == index).astype(np.float32),
                max_bin=one.plan.settings.max_bin,
                nthread=1,
                ref=whole,
            )
            alone = xgb.train(one.parameters(), matrix, facts["rounds"][fold][index])
            ours = xgb.Booster(model_file=bytearray(parts[f"booster_{fold}_{index}.ubj"]))
            assert np.array_equal(ours.inplace_predict(one.matrix[rows]), alone.inplace_predict(one.matrix[rows]))
            assert which == "with_holes" or plain_bytes(ours) == plain_bytes(alone)


def results(run: Path) -> dict[str, str]:
    """Return the hash of models and predictions, which folds, threads and the place of the matrix must not change."""
    names = ("model_multiclass.miduck", "fold_models.miduck", "oof_predictions.parquet")
    return {name: digest for name, digest in model_hashes(run).items() if name.endswith(names)}


# of the wide columns only the base scores stay, so that cuts are made beforehand and a fold may have a matrix of its own
NARROW = ("--exclude", r"^(?!\d+mer_|(donor|acceptor|neither)_score$)")


@pytest.fixture(scope="module")
def by_weights(lean_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    flags = ("--strategy", "single", "--cv", "weights", *NARROW)
    found = results(trained(lean_dataset, tmp_path_factory.mktemp("weights") / "run", *flags))
    assert len(found) == 3
    return found


@pytest.mark.parametrize(
    ("threads", "flags"),
    [
        (2, ("--strategy", "single", "--cv", "matrices")),
        (1, ("--strategy", "external", "--cv", "matrices")),
        (2, ("--strategy", "external", "--cv", "weights")),
    ],
)
def test_train__a_matrix_a_fold_zero_weights_and_a_matrix_on_disk_give_the_same_bytes(
    threads: int,
    flags: tuple[str, ...],
    by_weights: dict[str, str],
    lean_dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where no value is missing: how folds are held out and where the matrix lies is a choice of time and memory alone."""
    monkeypatch.setattr("mi_duck.boosting.matrix.PAGE_ROWS", 1500)  # three pages on disk
    run = trained(lean_dataset, tmp_path / "run", *flags, *NARROW, threads=threads)
    assert results(run) == by_weights
    pages = run / ".scratch" / "pages"
    assert pages.exists() == ("external" in flags)
    assert [
        file for file in pages.rglob("*") if file.is_file()
    ] == []  # a matrix on disk goes with the process's last use


def test_train__out_of_fold_margins_come_from_the_boosters_of_the_rows_fold(first: Trained) -> None:
    _, parts = first.parts("fold_models.miduck")
    found = pq.read_table(first.path("oof_predictions.parquet"))
    assert found["fold"].to_numpy().tolist() == first.fold.tolist()
    for index, name in enumerate(first.plan.data.classes):
        expected = np.empty(len(first.fold), dtype=np.float32)
        for fold in range(first.plan.settings.n_folds):
            booster = xgb.Booster(model_file=bytearray(parts[f"booster_{fold}_{index}.ubj"]))
            rows = first.fold == fold
            expected[rows] = booster.inplace_predict(first.matrix[rows], predict_type="margin")
        assert np.abs(found[f"margin_{name}"].to_numpy() - expected).max() < 1e-5


def test_train__no_group_is_on_two_sides(first: Trained) -> None:
    """Held-out rows, stopping rows and training rows share no fold group, in any fold; each group is held out once."""
    n_folds = first.plan.settings.n_folds
    for fold in range(n_folds):
        held_out = set(first.group[first.fold == fold])
        stopping = set(first.group[first.stopping(fold)])
        training = set(first.group) - held_out - stopping
        assert held_out
        assert stopping
        assert training
        assert not stopping & held_out
    assert sum(len(set(first.group[first.fold == fold])) for fold in range(n_folds)) == len(set(first.group))


def test_stopping_groups__are_a_tenth_by_hash_and_none_where_none_can_be_spared() -> None:
    groups = np.array([f"g{number}" for number in range(90)], dtype=object)
    folds = np.arange(90) % 3
    chosen = stopping_groups(groups, folds, 1, 42)
    assert len(chosen) == 6  # a tenth of the 60 outside fold 1
    assert set(chosen) <= set(groups[folds != 1])
    order = np.random.default_rng(0).permutation(90)
    assert set(stopping_groups(groups[order], folds[order], 1, 42)) == set(chosen)
    assert set(stopping_groups(groups, folds, 1, 43)) != set(chosen)
    assert len(stopping_groups(groups[:3], np.array([0, 1, 1]), 0, 42)) == 0


def test_train__final_rounds_are_the_median_over_folds_times_the_root_of_more_rows(run: Path) -> None:
    """All rows are 1 / .6 times those of a fold: three folds, of which a tenth decides when to stop."""
    for number in range(len(RunFolder(run).read_plan().cut.instances)):
        folder = RunFolder(run)
        where = folder.instance(folder.read_plan().cut.instances[number])
        folds = json.loads(read_parts(where / "fold_models.miduck")["model.json"])["rounds"]
        parts = read_parts(where / "model_multiclass.miduck")
        rounds = json.loads(parts["model.json"])["rounds"]
        most = RunFolder(run).read_plan().settings.n_estimators
        usual = np.minimum(np.median(folds, axis=0) * (1 / 0.6) ** 0.5, most)
        assert np.abs(np.array(rounds) - usual).max() <= 1.5  # groups are whole, so the share is not exact
        for index, n in enumerate(rounds):
            assert xgb.Booster(model_file=bytearray(parts[f"booster_{index}.ubj"])).num_boosted_rounds() == n


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of rows whose labels have nothing to do with their features."""
    rng = np.random.default_rng(1)
    n = 1500
    folder = tmp_path_factory.mktemp("noisy") / "data"
    folder.mkdir()
    columns = {"gene_id": [f"g{number // 50}" for number in range(n)]} | {
        "splice_type": rng.choice(["neither", "donor", "acceptor"], n)
    }
    columns |= {f"x{number}": rng.normal(size=n) for number in range(5)}
    pq.write_table(pa.table(columns), folder / "a.parquet")
    return folder


def test_early_stopping__stops_on_noise_and_keeps_the_best_round(noisy: Path, tmp_path: Path) -> None:
    flags = ("--strategy", "single", "--n-estimators", "60", "--early-stopping-patience", "4")
    one = Trained.open(trained(noisy, tmp_path / "run", *flags))
    facts, _ = one.parts("fold_models.miduck")
    with one.path("learning_curves.csv").open() as file:
        curves = list(csv.DictReader(file))
    for fold in range(3):
        for index, name in enumerate(one.plan.data.classes):
            curve = [row for row in curves if (row["fold"], row["class"]) == (str(fold), name)]
            stopping = [float(row["stopping_log_loss"]) for row in curve]
            kept = facts["rounds"][fold][index]
            assert kept < 60
            assert len(curve) == kept + 4  # patience
            assert int(np.argmin(stopping)) + 1 == kept
            assert sum(int(row["is_kept"]) for row in curve) == kept


def test_early_stopping__patience_zero_never_stops(noisy: Path, tmp_path: Path) -> None:
    flags = ("--strategy", "single", "--n-estimators", "25", "--early-stopping-patience", "0")
    one = Trained.open(trained(noisy, tmp_path / "run", *flags))
    assert one.parts("fold_models.miduck")[0]["rounds"] == [[25] * 3] * 3
    assert one.parts("model_multiclass.miduck")[0]["rounds"] == [25] * 3


def test_learning_curves__equal_the_log_loss_of_the_boosters(first: Trained) -> None:
    """The last kept round of each fold and class, worked out from the booster and the rows."""
    facts, parts = first.parts("fold_models.miduck")
    with first.path("learning_curves.csv").open() as file:
        curves = {(row["fold"], row["class"], row["round"]): row for row in csv.DictReader(file)}
    stopping = first.stopping(1)
    for index, name in enumerate(first.plan.data.classes):
        booster = xgb.Booster(model_file=bytearray(parts[f"booster_1_{index}.ubj"]))
        probability = booster.inplace_predict(first.matrix).astype(np.float64)
        loss = -np.log(np.where(first.label == index, probability, 1 - probability))
        row = curves["1", name, str(facts["rounds"][1][index])]
        assert float(row["stopping_log_loss"]) == pytest.approx(loss[stopping].mean(), rel=1e-5)
        assert float(row["training_log_loss"]) == pytest.approx(loss[~stopping & (first.fold != 1)].mean(), rel=1e-5)


def test_train__child_processes_with_two_threads_give_the_same_bytes(
    run: Path, lean_dataset: Path, tmp_path: Path
) -> None:
    mi_duck("train", planned(lean_dataset, tmp_path / "two"), "--threads", 2)
    assert model_hashes(tmp_path / "two") == model_hashes(run)


def test_train__other_file_names_and_row_order_give_the_same_models(
    run: Path, lean_dataset: Path, tmp_path: Path
) -> None:
    rows = pa.concat_tables([pq.read_table(file) for file in sorted(lean_dataset.rglob("*.parquet"))])
    rows = rows.take(pa.array(np.random.default_rng(0).permutation(len(rows))))
    (tmp_path / "data").mkdir()
    for number in range(2):
        pq.write_table(
            rows.slice(number * 2000, 2000), tmp_path / "data" / f"z{1 - number}.parquet", row_group_size=700
        )
    other = model_hashes(trained(tmp_path / "data", tmp_path / "run"))
    assert other == model_hashes(run)


def test_train__another_seed_gives_other_models(run: Path, lean_dataset: Path, tmp_path: Path) -> None:
    other = model_hashes(trained(lean_dataset, tmp_path / "run", "--seed", "7", "--strategy", "single"))
    assert set(other.values()).isdisjoint(
        {digest for name, digest in model_hashes(run).items() if name.endswith((".miduck", ".parquet"))}
    )


def test_train__folder_holds_what_its_manifest_lists(first: Trained) -> None:
    manifest = json.loads(first.path("manifest.json").read_bytes())
    files = {file.name for file in first.path("").iterdir()}
    assert files == {*manifest["sha256"], "manifest.json"}
    genes = first.path("genes.txt").read_text().splitlines()
    assert len(genes) == len(set(genes)) == first.instance.n_genes == manifest["n_genes"]
    with first.path("gene_cv_metrics.csv").open() as file:
        folds = list(csv.DictReader(file))
    assert sum(int(row["test_rows"]) for row in folds) == first.instance.n_rows
    assert sum(int(row["test_genes"]) for row in folds) == first.instance.n_genes
    with first.path("feature_manifest.csv").open() as file:
        assert [row["feature"] for row in csv.DictReader(file)] == list(first.plan.data.features)


def test_is_trained__false_after_any_byte_of_what_training_wrote_changes(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    plan = folder.read_plan()
    instance = plan.cut.instances[0]
    where = folder.instance(instance)
    rng = np.random.default_rng(0)
    assert is_trained(folder, plan, instance)
    for name in TRAINED:
        whole = (where / name).read_bytes()
        place = int(rng.integers(len(whole)))
        for damaged in (whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :], whole[:place], whole + b"\n"):
            (where / name).write_bytes(damaged)
            assert not is_trained(folder, plan, instance), name
        (where / name).unlink()
        assert not is_trained(folder, plan, instance), name
        (where / name).write_bytes(whole)
    assert is_trained(folder, plan, instance)
    manifest = (where / "manifest.json").read_bytes()
    for damaged in (manifest[: len(manifest) // 2], b"", b"[]", b"null", b'{"key": 1}', b"\xff\xfe"):
        (where / "manifest.json").write_bytes(damaged)
        assert not is_trained(folder, plan, instance), damaged


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: changed(plan, max_depth=9),
        lambda plan: changed(plan, calibrate=False),
        lambda plan: changed(plan, genes_sha256="0" * 64),
        lambda plan: changed(plan, fingerprint="0" * 64),
        lambda plan: changed(plan, features=plan.data.features[::-1]),
        lambda plan: changed(plan, classes=plan.data.classes[::-1]),
    ],
)
def test_is_trained__false_after_settings_genes_data_features_or_classes_change(
    run: Path, change: Callable[[Plan], Plan]
) -> None:
    folder = RunFolder(run)
    plan = folder.read_plan()
    assert is_trained(folder, plan, plan.cut.instances[0])
    assert not is_trained(folder, change(plan), plan.cut.instances[0])
    moved = dataclasses.replace(plan.cut.instances[0], stop_rank=plan.cut.instances[0].stop_rank - 1)
    assert not is_trained(folder, plan, moved)


def test_train__settings_of_the_command_reach_the_boosters(run: Path) -> None:
    settings = RunFolder(run).read_plan().settings
    flags = dict(zip(SMALL[::2], SMALL[1::2], strict=True))
    assert (settings.max_depth, settings.learning_rate) == (4, 0.3)
    assert settings.n_estimators == int(flags["--n-estimators"])
