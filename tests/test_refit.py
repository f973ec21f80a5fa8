"""Leaves that are fitted together: equal to boosting where they must be, never from rows that decide or are held out."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xgboost as xgb
from numpy.typing import NDArray
from runs import call, here
from test_distil import check_taught, opened

from mi_duck.archive import read_parts
from mi_duck.atomic_files import file_sha256, sealed, write_json
from mi_duck.boosting.forest import leaf_counts, leaf_forest_of, with_leaves, without_leaves
from mi_duck.ensemble.leaf_numbers import LeafNumbers
from mi_duck.ensemble.model import ConsolidatedMetaModel
from mi_duck.ensemble.model_file import load_unified_model, read_fold_models
from mi_duck.ensemble.refit import Passes, ReadLeaves, deciding_groups, read_passes, refit_leaves, write_passes
from mi_duck.genome.synthetic import synthesise
from mi_duck.run.encoding import Encoding
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import read_gene_folds, stopping_groups

N, N_FEATURES, ROUNDS = 3_000, 5, 12
NAMES = tuple(f"x{number}" for number in range(N_FEATURES))


def drawn() -> tuple[NDArray, NDArray, NDArray]:
    """Return (rows, truth, weight)."""
    rng = np.random.default_rng(4)
    rows = rng.normal(size=(N, N_FEATURES)).astype(np.float32)
    rows[rng.random(rows.shape) < 0.1] = np.nan
    truth = np.nan_to_num(rows[:, 0] * rows[:, 1]) + rng.normal(size=N) > 1
    return rows, truth, rng.choice([1, 4], N).astype(np.float32)


def boosted(rows: NDArray, truth: NDArray, weight: NDArray, prior: float) -> xgb.Booster:
    facts = {"objective": "binary:logistic", "max_depth": 4, "learning_rate": 0.3, "base_score": prior, "nthread": 1}
    return xgb.train(facts, xgb.DMatrix(rows, truth, weight=weight), ROUNDS)


def leaves_of(boosters: list[xgb.Booster], rows: NDArray) -> tuple[ReadLeaves, list[int], list[range]]:
    """Return what reads leaf numbers, sizes and the trees of each booster, as `refit_leaves` takes them."""
    sizes = leaf_counts(boosters)
    ends = np.cumsum([0, *map(len, sizes)])
    members = [range(ends[number], ends[number + 1]) for number in range(len(boosters))]
    nodes = leaf_forest_of(boosters, NAMES, Encoding()).margins(rows, threads=2).astype(int).T

    def read(tree: int, first_row: int, own: NDArray) -> None:
        np.copyto(own, nodes[tree, first_row : first_row + len(own)])

    return read, [size for one in sizes for size in one], members


def test_refit__of_one_member_on_its_own_rows_gives_its_own_leaves() -> None:
    """With the step and the penalty of its training it is that training."""
    rows, truth, weight = drawn()
    prior = float(np.average(truth, weights=weight))
    booster = boosted(rows, truth, weight, prior)
    found = refit_leaves(*leaves_of([booster], rows), truth, weight, passes=1, step=0.3, penalty=1.0)
    again = xgb.Booster(model_file=bytearray(with_leaves(booster, found.leaves, found.intercept)))
    wanted = booster.predict(xgb.DMatrix(rows), output_margin=True)
    assert again.predict(xgb.DMatrix(rows), output_margin=True) == pytest.approx(wanted, abs=2e-5)
    assert without_leaves(bytes(again.save_raw("ubj"))) == without_leaves(bytes(booster.save_raw("ubj")))
    assert bytes(again.save_raw("ubj")) != bytes(booster.save_raw("ubj"))


def test_refit__of_equal_members_is_that_of_one() -> None:
    rows, truth, weight = drawn()
    booster = boosted(rows, truth, weight, 0.3)
    one = refit_leaves(*leaves_of([booster], rows), truth, weight)
    three = refit_leaves(*leaves_of([booster] * 3, rows), truth, weight)
    for first, other in zip(one.leaves * 3, three.leaves, strict=True):
        assert other == pytest.approx(first, abs=1e-9)


def test_refit__block_by_block_is_the_same_as_all_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the last bits, in which sums depend on their order."""
    rows, truth, weight = drawn()
    cut = leaves_of([boosted(rows, truth, weight, 0.3), boosted(rows[: N // 2], truth[: N // 2], None, 0.3)], rows)
    deciding = np.arange(N) % 7 == 0
    whole = refit_leaves(*cut, truth, weight, deciding=deciding, passes=4)
    monkeypatch.setattr("mi_duck.ensemble.refit.BLOCK_ROWS", 700)  # the last block is shorter
    parts = refit_leaves(*cut, truth, weight, deciding=deciding, passes=4)
    assert parts.losses == pytest.approx(whole.losses, rel=1e-12)
    assert parts.intercept == pytest.approx(whole.intercept, rel=1e-12)
    for one, other in zip(parts.leaves, whole.leaves, strict=True):
        assert one == pytest.approx(other, abs=1e-12)


def test_refit__never_looks_at_the_labels_of_rows_that_decide() -> None:
    rows, truth, weight = drawn()
    cut = leaves_of([boosted(rows, truth, weight, 0.3), boosted(rows[: N // 2], truth[: N // 2], None, 0.3)], rows)
    deciding = np.arange(N) % 7 == 0
    found = refit_leaves(*cut, truth, weight, deciding=deciding, passes=1)
    other = refit_leaves(*cut, truth ^ deciding, weight, deciding=deciding, passes=1)
    assert all((one == two).all() for one, two in zip(found.leaves, other.leaves, strict=True))
    assert found.intercept == other.intercept
    assert found.losses[0] < other.losses[0]
    # the leaves are those of the pass that these rows ask for
    most = refit_leaves(*cut, truth, weight, deciding=deciding, passes=30, step=0.5)
    best = int(np.argmin(most.losses)) + 1
    assert best < len(most.losses) < 30
    again = refit_leaves(*cut, truth, weight, deciding=deciding, passes=best, step=0.5)
    assert all((one == two).all() for one, two in zip(most.leaves, again.leaves, strict=True))
    # what is fitted fits better with every pass
    fitted = [refit_leaves(*cut, truth, weight, passes=n) for n in (1, 2, 3)]
    read, _, members = cut
    nodes = np.empty((len(found.leaves), N), dtype=np.intp)
    for tree, own in enumerate(nodes):
        read(tree, 0, own)
    losses = []
    for one in fitted:
        margin = one.intercept + sum(one.leaves[tree][nodes[tree]] for own in members for tree in own) / 2
        losses.append(np.average(np.logaddexp(0, np.where(truth, -margin, margin)), weights=weight))
    assert losses[0] > losses[1] > losses[2]


@pytest.mark.parametrize("decides", [True, False])
def test_refit__goes_on_after_any_pass_with_the_same_leaves(decides: bool, tmp_path: Path) -> None:
    rows, truth, weight = drawn()
    boosters = [boosted(rows, truth, weight, 0.3), boosted(rows[: N // 2], truth[: N // 2], None, 0.3)]
    read, sizes, members = leaves_of(boosters, rows)
    arguments = (read, sizes, members, truth, weight)
    options = {"deciding": np.arange(N) % 7 == 0 if decides else None, "passes": 30 if decides else 4, "step": 0.5}
    made: list[Path] = []

    def save(passes: Passes) -> None:
        made.append(tmp_path / f"{passes.n_done}.passes")
        write_passes(made[-1], "key", passes)

    whole = refit_leaves(*arguments, **options, save=save)
    assert len(made) == (len(whole.losses) - 1 if decides else 4)
    for number, path in enumerate(made, start=1):
        begun = read_passes(path, "key", sizes)
        assert begun is not None
        assert begun.n_done == number
        again: list[Passes] = []
        found = refit_leaves(*arguments, **options, begun=begun, save=again.append)
        assert len(again) == len(made) - number
        assert found.losses == whole.losses
        assert all((one == other).all() for one, other in zip(found.leaves, whole.leaves, strict=True))
    # what is torn, changed or of something else is not gone on with
    assert read_passes(made[0], "other", sizes) is None
    whole_bytes = made[0].read_bytes()
    for position in (len(whole_bytes) // 2, len(whole_bytes) - 1):
        made[0].write_bytes(whole_bytes[:position])
        assert read_passes(made[0], "key", sizes) is None
    made[0].write_bytes(whole_bytes[: N * 4] + bytes([whole_bytes[N * 4] ^ 1]) + whole_bytes[N * 4 + 1 :])
    assert read_passes(made[0], "key", sizes) is None
    made[0].unlink()
    assert read_passes(made[0], "key", sizes) is None


def test_leaf_numbers__are_written_on_after_the_rows_that_were_noted(tmp_path: Path) -> None:
    nodes = np.random.default_rng(0).integers(0, 5, (1_000, 7)).astype(np.float32)
    sizes = [[5, 5, 5], [5, 5, 5, 5]]

    def opened(key: str = "key", n_rows: int = 1_000) -> LeafNumbers:
        return LeafNumbers(tmp_path / "one.leaves", key, sizes, n_rows)

    first = opened()
    first.begin(0)
    first.append(nodes[:300])
    assert opened().n_written == 0  # nothing is noted yet: it may not be on the disk
    first.n_written = 0
    first.append(nodes)
    assert (first.is_whole, opened().is_whole) == (True, True)
    assert (opened("other").n_written, opened(n_rows=999).n_written) == (0, 0)
    write_json(tmp_path / "one.written", sealed({"key": "key", "n_rows": 600}))
    second = opened()
    assert (second.n_written, second.is_whole) == (600, False)
    second.begin(400)
    second.append(nodes[400:])
    assert second.is_whole
    own = np.empty(50, dtype=np.intp)
    with second.opened():
        for tree in range(7):
            for row in (0, 390, 580, 950):
                second.read(tree, row, own)
                assert (own == nodes[row : row + 50, tree]).all()
    assert second.members == [range(3), range(3, 7)]
    (tmp_path / "one.leaves").write_bytes(b"short")
    assert opened().n_written == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run of 150 genes in three instances, with all ways to join them."""
    folder = tmp_path_factory.mktemp("refit")
    synthesise(folder / "data", n_genes=150, rows_per_gene=40, n_features=40)
    settings = ("--strategy", "multi", "--genes-per-instance", 70, "--n-estimators", 25, "--max-depth", 3)
    short = ("--threads", 1, "--minimal-diagnostics", "--skip-shap", "--voting", "auto", "--weights", "auto")
    here("run", folder / "data", "--out", folder / "run", *settings, *short)
    return folder / "run"


def test_run__takes_the_refit_where_its_log_loss_is_lowest(run: Path) -> None:
    summary = json.loads((run / "consolidation_summary.json").read_bytes())
    losses = summary["cross_fitted_log_loss"]
    assert summary["variant"] == min(losses, key=losses.get) == "refit/uniform"
    model = load_unified_model(run / "consolidated_model.miduck")
    assert isinstance(model, ConsolidatedMetaModel)
    assert model.consolidation_method == "joint_refit"
    assert {one.method for member in model.members for one in member.calibrators} == {"none"}
    assert "refit" in (run / "report.html").read_text()


def test_run__of_a_refit_is_verified_exported_and_predicts(run: Path, tmp_path: Path) -> None:
    here("verify", run)
    here("export", run, "--format", "xgboost", "--out", tmp_path / "native")  # which compares the margins
    assert {file.name for file in (tmp_path / "native").iterdir()} == {"merged.ubj", "recipe.json"}
    here("export", run, "--format", "onnx", "--out", tmp_path / "model.onnx")
    here("predict", run, run.parent / "data", "--out", tmp_path / "p.parquet")


def test_verify__finds_a_split_that_is_not_the_instances(run: Path) -> None:
    """Leaves may differ, splits may not."""
    boosters = read_parts(run / "multi_instance_training" / "instance_00" / "model_multiclass.miduck")
    one, other = (without_leaves(boosters[f"booster_{index}.ubj"]) for index in (0, 1))
    assert one != other
    of_model = read_parts(run / "consolidated_model.miduck")
    assert without_leaves(of_model["booster_0_0.ubj"]) == one
    assert of_model["booster_0_0.ubj"] != boosters["booster_0.ubj"]


def test_consolidate__again_gives_the_same_bytes_with_any_threads(run: Path) -> None:
    before = {name: file_sha256(run / name) for name in ("consolidated_model.miduck", "oof_predictions.parquet")}
    assert call("consolidate", run, "--consolidation", "refit", "--threads", 2).exit_code == 0
    assert {name: file_sha256(run / name) for name in before} == before
    assert not list(run.rglob("*.leaves"))


def test_run__refits_parts_side_by_side_with_the_same_bytes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / ".scratch", ignore_errors=True)
    monkeypatch.setattr("mi_duck.workflow.refit.WORTH_SECONDS", 0.0)
    assert call("consolidate", copy, "--consolidation", "refit", "--threads", 2).exit_code == 0
    assert "refitting leaves" in json.loads((copy / "stage_times.json").read_bytes())
    for name in ("consolidated_model.miduck", "oof_predictions.parquet", "fold_ensembles.miduck"):
        assert file_sha256(copy / name) == file_sha256(run / name)


def test_refit__goes_on_with_what_is_done(run: Path) -> None:
    """What is whole and of the same boosters stays; what is gone, cut off or of others is made again, with the same bytes."""
    assert call("consolidate", run, "--consolidation", "refit", "--threads", 1).exit_code == 0
    before = file_sha256(run / "consolidated_model.miduck")
    files = sorted((run / ".scratch" / "refit").iterdir())
    assert len(files) == 12
    hashes = [file_sha256(file) for file in files]
    stamps = [file.stat().st_mtime_ns for file in files]
    files[2].unlink()
    files[5].write_bytes(files[5].read_bytes()[:-40])
    files[7].write_bytes(files[8].read_bytes())
    assert call("consolidate", run, "--consolidation", "refit", "--threads", 1).exit_code == 0
    assert [file_sha256(file) for file in files] == hashes
    changed = [number for number, file in enumerate(files) if file.stat().st_mtime_ns != stamps[number]]
    assert changed == [2, 5, 7]
    assert file_sha256(run / "consolidated_model.miduck") == before


@pytest.mark.parametrize("kind", ["leaves", "written", "passes"])
def test_refit__killed_with_leaf_numbers_or_passes_on_disk_gives_the_same_bytes(run: Path, kind: str) -> None:
    """The process is killed as soon as such a file is seen; where it was quicker, it is done."""
    before = file_sha256(run / "consolidated_model.miduck")
    shutil.rmtree(run / ".scratch" / "refit", ignore_errors=True)
    command = [sys.executable, "-m", "mi_duck", "consolidate", str(run), "--consolidation", "refit", "--threads", "1"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while child.poll() is None and not list((run / ".scratch" / "refit").glob(f"*.{kind}")):
        time.sleep(0.001)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert call("consolidate", run, "--consolidation", "refit", "--threads", 1).exit_code == 0
    assert file_sha256(run / "consolidated_model.miduck") == before
    assert {file.suffix for file in (run / ".scratch" / "refit").iterdir()} == {".miduck"}


def test_distil__of_a_refit_learns_from_the_ensemble_that_never_saw_the_fold(run: Path, tmp_path: Path) -> None:
    folder, plan, _ = opened(run, tmp_path)
    check_taught(folder, plan)


def test_deciding_groups__are_those_that_no_instance_trained_on(run: Path) -> None:
    folder = RunFolder(run)
    plan = folder.read_plan()
    genes = read_gene_folds(folder, plan)
    for fold in range(plan.settings.n_folds):
        found = set(deciding_groups(genes, plan.cut.instances, fold, plan.settings.seed))
        assert found
        assert not found & set(genes.group[genes.fold == fold])
        for one in plan.cut.instances:
            own = genes.group[one.first_rank : one.stop_rank], genes.fold[one.first_rank : one.stop_rank]
            stopping = set(stopping_groups(*own, fold, plan.settings.seed))
            assert found & set(own[0]) <= stopping
    assert len(read_fold_models(run / "multi_instance_training" / "instance_00" / "fold_models.miduck").boosters) == 3
