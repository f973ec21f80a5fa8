"""A training that is interrupted anywhere goes on inside its instance and ends with the bytes of one that was not."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import xgboost as xgb
from runs import child_of, end, partitioned, quiet, restore_signals, started, wait_for_line
from test_train import NARROW, model_hashes

from mi_duck.archive import pack, read_parts
from mi_duck.boosting.boosters import best_round, fit_booster, has_stopped
from mi_duck.boosting.train import train_instance
from mi_duck.boosting.write_instance import Fit
from mi_duck.console import Ended, _ended_by_signals
from mi_duck.genome.synthetic import synthesise
from mi_duck.run.folder import RunFolder
from mi_duck.run.plan import Settings


def nothing(n_rounds: int) -> None:
    """Take the number of rounds and forget it."""


# ---- one booster ------------------------------------------------------------------------------------------------------


class Case:
    """Rows with missing values and weights, of which some are for early stopping, and how to fit a booster to them."""

    def __init__(self, *, threads: int, patience: int, n_rounds: int = 30, only_noise: bool = False) -> None:
        rng = np.random.default_rng(5)
        n = 500
        self.rows = rng.poisson(2, (n, 6)).astype(np.float32)
        self.rows[rng.random(self.rows.shape) < 0.2] = np.nan
        self.truth = rng.random(n) < 0.4 if only_noise else np.nan_to_num(self.rows[:, 0]) + rng.normal(size=n) > 2
        is_stopping = rng.random(n) < 0.3
        weight = rng.choice([1, 4], n).astype(np.float32)
        self.weight, self.stopping_weight = weight * ~is_stopping, weight * is_stopping
        self.threads = threads
        self.settings = Settings(
            seed=42,
            calibrate=False,
            n_estimators=n_rounds,
            early_stopping_patience=patience,
            learning_rate=0.3,
            max_depth=4,
            n_folds=3,
            max_bin=16,
        )

    def fit(self, **options: object) -> Fit:
        """Fit a booster on a matrix of its own, as a new process does."""
        matrix = xgb.QuantileDMatrix(self.rows, max_bin=16, nthread=self.threads)
        arguments = {"on_round": nothing, "stopping_weight": self.stopping_weight} | options
        return fit_booster(matrix, self.truth, self.weight, self.settings, self.threads, **arguments)  # type: ignore[arg-type]

    def interrupted(self, after: int, begun: Fit | None = None, **options: object) -> tuple[Fit, bool]:
        """Return what a fit saved last that was asked to end after so many rounds, and whether it was finished."""
        saved: list[tuple[Fit, bool]] = []

        def ask(n_rounds: int) -> None:
            if n_rounds == after:
                os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(SystemExit) as stop:
            self.fit(on_round=ask, begun=begun, save=lambda *state: saved.append(state), **options)
        assert stop.value.code == 143
        return saved[-1]


def assert_same(one: Fit, other: Fit) -> None:
    assert one.raw == other.raw
    assert one.rounds == other.rounds
    assert one.curve.tobytes() == other.curve.tobytes()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("patience", "only_noise"), [(0, False), (5, False), (5, True)])
def test_fit__cut_after_any_round_ends_with_the_same_bytes(threads: int, patience: int, only_noise: bool) -> None:
    """With weights, missing values and early stopping, whether the best round lies before or after the cut."""
    case = Case(threads=threads, patience=patience, only_noise=only_noise)
    whole = case.fit()
    n_trained = len(whole.curve)
    assert only_noise == (whole.rounds <= 3)  # noise is best at once, so the best round is before nearly every cut
    assert (n_trained == 30) == (patience == 0)
    for after in range(1, n_trained + 1):
        cut, is_finished = case.interrupted(after)
        assert is_finished == (after == n_trained)
        if is_finished:
            assert_same(cut, whole)
        else:
            assert (cut.rounds, len(cut.curve)) == (after, after)
            assert_same(case.fit(begun=cut), whole)


def test_fit__cut_twice_and_with_a_fixed_number_of_rounds_ends_with_the_same_bytes() -> None:
    case = Case(threads=1, patience=5)
    whole = case.fit(rounds=12, stopping_weight=None)
    assert (whole.rounds, whole.curve.shape) == (12, (0, 2))
    first, _ = case.interrupted(3, rounds=12, stopping_weight=None)
    second, _ = case.interrupted(8, first, rounds=12, stopping_weight=None)
    assert (first.rounds, second.rounds) == (3, 8)
    assert_same(case.fit(begun=second, rounds=12, stopping_weight=None), whole)


def test_fit__is_saved_every_fifty_rounds_and_at_its_end() -> None:
    case = Case(threads=1, patience=0, n_rounds=100)
    saved: list[tuple[Fit, bool]] = []
    whole = case.fit(save=lambda *state: saved.append(state))
    assert [(fit.rounds, is_finished) for fit, is_finished in saved] == [(50, False), (100, True)]
    assert_same(saved[1][0], whole)
    assert_same(case.fit(begun=saved[0][0]), whole)


@pytest.mark.parametrize("patience", [1, 3, 7])
def test_early_stopping__equals_that_of_xgboost(patience: int) -> None:
    """The same round, the same bytes, notes of the best round included."""
    case = Case(threads=1, patience=patience, n_rounds=60)
    ours = case.fit()
    stopping = case.stopping_weight > 0

    def loss(probability: np.ndarray, _: xgb.DMatrix) -> list[tuple[str, float]]:
        log_loss_of_rows = -np.log(np.clip(np.where(case.truth, probability, 1 - probability), 1e-7, 1))[
            stopping
        ].astype(np.float64)
        return [("stopping", float(np.average(log_loss_of_rows, weights=case.stopping_weight[stopping])))]

    matrix = xgb.QuantileDMatrix(case.rows, case.truth.astype(np.float32), weight=case.weight, max_bin=16, nthread=1)
    theirs = xgb.train(
        {"objective": "binary:logistic", "tree_method": "hist", "max_depth": 4, "learning_rate": 0.3, "max_bin": 16}
        | {"nthread": 1, "seed": case.settings.seed, "disable_default_eval_metric": True},
        matrix,
        60,
        evals=[(matrix, "rows")],
        custom_metric=loss,
        callbacks=[xgb.callback.EarlyStopping(rounds=patience, metric_name="stopping", data_name="rows")],
        verbose_eval=False,
    )
    assert len(ours.curve) == theirs.num_boosted_rounds() < 60
    assert ours.rounds == theirs.best_iteration + 1
    assert ours.raw == bytes(theirs[: ours.rounds].save_raw("ubj"))


def test_early_stopping__is_decided_as_by_a_counter_of_rounds_without_gain() -> None:
    """On 300 random curves with many ties."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        curve = rng.integers(0, 6, 20).astype(float).tolist()
        patience = int(rng.integers(1, 6))
        best, best_at, without_gain = float("inf"), 0, 0
        for n in range(1, 21):
            if curve[n - 1] < best:
                best, best_at, without_gain = curve[n - 1], n, 0
            else:
                without_gain += 1
            assert best_round(curve[:n]) == best_at
            assert has_stopped(curve[:n], patience) == (without_gain >= patience)
            assert not has_stopped(curve[:n], 0)


# ---- an instance in this process ----------------------------------------------------------------------------------------


FLAGS = ("--strategy", "single", "--n-estimators", "14", "--early-stopping-patience", "3", *NARROW)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("progress") / "data"
    synthesise(folder, n_genes=30, rows_per_gene=30, n_features=30)
    return folder


def train(run: Path, report: Callable[[str, int, int], None] = quiet) -> None:
    train_instance(run=str(run), instance_id=0, threads=1, report=report)


@pytest.fixture(scope="module", params=["matrices", "weights"])
def uninterrupted(request: pytest.FixtureRequest, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a trained run whose segments are still there."""
    run = partitioned(rows, tmp_path_factory.mktemp("whole") / "run", *FLAGS, "--cv", request.param)
    train(run)
    return run


def untrained(run: Path, to: Path) -> Path:
    """Return a copy of a run that nothing was trained in."""
    shutil.copytree(run, to)
    shutil.rmtree(to / "multi_instance_training")
    return to


def saved_folder(run: Path) -> Path:
    return run / ".scratch" / "progress" / "instance_00"


def interrupt(run: Path, after: int) -> list[str] | None:
    """Train until so many rounds are done and return the stages that were told; None where training came to its end."""
    told: list[str] = []
    rounds = itertools.count(1)

    def ask(stage: str, done: int, total: int) -> None:
        told.append(stage)
        if stage.startswith("rounds of") and next(rounds) == after:
            os.kill(os.getpid(), signal.SIGTERM)

    with contextlib.suppress(SystemExit):
        train(run, ask)
        return None
    return told


@pytest.mark.parametrize("after", [1, 17])
def test_train__interrupted_again_and_again_ends_with_the_same_bytes(
    after: int, uninterrupted: Path, tmp_path: Path
) -> None:
    """Every 17 rounds until it is done, or once after the first round and then every 17."""
    run = untrained(uninterrupted, tmp_path / "run")
    n_interruptions, earlier = 0, set[str]()
    while (told := interrupt(run, after if n_interruptions == 0 else 17)) is not None:
        n_interruptions += 1
        finished = {
            file.stem
            for file in saved_folder(run).iterdir()
            if json.loads(read_parts(file)["progress.json"])["is_finished"]
        }
        assert earlier <= finished  # nothing is trained twice
        for fold in range(3):
            is_whole = {f"fold_{fold}_class_{index}" for index in range(3)} <= earlier
            assert not (is_whole and f"building the matrix of fold {fold + 1}" in told)
        assert (n_interruptions == 1) != any(stage.startswith("resuming at fo") or "final" in stage for stage in told)
        earlier = finished
    assert n_interruptions >= 4
    assert model_hashes(run) == model_hashes(uninterrupted)
    assert not saved_folder(run).exists()


def test_train__killed_after_its_last_round_builds_no_matrix_again(uninterrupted: Path, tmp_path: Path) -> None:
    run = untrained(uninterrupted, tmp_path / "run")

    class PowerLoss(Exception):
        pass

    def lose_power(stage: str, done: int, total: int) -> None:
        if stage == "calibrating":
            raise PowerLoss

    with contextlib.suppress(PowerLoss):
        train(run, lose_power)
    told: list[tuple[str, int, int]] = []
    train(run, lambda *step: told.append(step))
    assert [stage for stage, _, _ in told] == ["resuming after the last round", "calibrating", "calibrating"]
    assert model_hashes(run) == model_hashes(uninterrupted)


def test_train__what_is_torn_or_foreign_is_trained_anew(uninterrupted: Path, tmp_path: Path) -> None:
    run = untrained(uninterrupted, tmp_path / "run")
    assert interrupt(run, 60)
    where = saved_folder(run)
    assert len(list(where.iterdir())) >= 5
    files = {
        f"{kind}.miduck": where / f"{kind}.miduck" for kind in ("fold_0_class_0", "fold_0_class_1", "fold_0_class_2")
    }
    torn, foreign, newer = files.values()
    torn.write_bytes(torn.read_bytes()[:-1])
    for file, change in ((foreign, {"key": "0" * 64}), (newer, {"xgboost": "99.0"})):
        parts = read_parts(file)
        parts["progress.json"] = json.dumps(json.loads(parts["progress.json"]) | change).encode()
        parts["booster.ubj"] = b"of another booster"  # would not load
        file.write_bytes(pack(parts))
    flipped = where / "fold_1_class_0.miduck"
    data = bytearray(flipped.read_bytes())
    data[len(data) // 2] ^= 1
    flipped.write_bytes(data)
    (where / ".fold_1_class_1.miduck.123.tmp").write_bytes(b"half")
    stray = where.with_name("instance_07")
    stray.mkdir()
    (stray / "fold_0_class_0.miduck").write_bytes(b"of an instance that the plan has not")
    told: list[str] = []
    train(run, lambda stage, done, total: told.append(stage))
    assert told[0].startswith("resuming at fold 1/3 neither, round 0")
    assert model_hashes(run) == model_hashes(uninterrupted)
    assert not stray.exists()
    assert not where.exists()


def test_train__tells_what_earlier_processes_took(uninterrupted: Path, tmp_path: Path) -> None:
    """So that the measured peak and time of an instance are those of all its processes."""
    run = untrained(uninterrupted, tmp_path / "run")
    assert interrupt(run, 30)
    begun = time.monotonic()
    result = train_instance(run=str(run), instance_id=0, threads=1, report=quiet)
    assert result["rounds_before"] == 30
    assert 0 < result["seconds_before"] < 600
    assert time.monotonic() > begun
    assert result["peak_before"] > 50 << 20
    whole = train_instance(run=str(run), instance_id=0, threads=1, report=quiet)
    assert (whole["rounds_before"], whole["seconds_before"], whole["peak_before"]) == (0, 0, 0)


# ---- commands and signals ------------------------------------------------------------------------------------------------


def marks(run: Path) -> dict[str, int]:
    """Return when each saved fit was written."""
    return {file.name: file.stat().st_mtime_ns for file in saved_folder(run).glob("*.miduck")}


def wait_until_saved(run: Path, before: dict[str, int]) -> None:
    deadline = time.monotonic() + 120
    while marks(run) == before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_command__ended_by_any_signal_or_killed_goes_on_to_the_same_bytes(rows: Path, tmp_path: Path) -> None:
    """Ctrl-C, a request to end, a closed terminal, Slurm's warning, and kill -9 of the parent; one after the other."""
    flags = (
        "--strategy",
        "single",
        "--n-estimators",
        "400",
        "--early-stopping-patience",
        "0",
        "--learning-rate",
        "0.01",
    )
    run = partitioned(rows, tmp_path / "run", *flags, "--max-depth", "2", *NARROW)
    other = tmp_path / "other"
    shutil.copytree(run, other)
    for number, code in (
        (signal.SIGINT, 130),
        (signal.SIGTERM, 143),
        (signal.SIGHUP, 143),
        (signal.SIGUSR1, 143),
        (signal.SIGKILL, -9),
    ):
        before = marks(run)
        process = started("train", run, "--threads", 1)
        try:
            lines = wait_for_line(process, "[Instance 1/1] training on")
            child = child_of(process)
            wait_until_saved(run, before)
            begun = time.monotonic()
            process.send_signal(number)
            _, words = process.communicate(timeout=30)
        finally:
            end(process)
        assert time.monotonic() - begun < 30
        assert process.returncode == code, (number, words)
        psutil.wait_procs([child], timeout=5)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
        assert "Traceback" not in "".join(lines) + words
        if number != signal.SIGKILL:
            assert words.splitlines()[-1] == f"ended by {number.name}; the same command goes on where it stopped"
        after = marks(run)
        assert after != before
        assert set(before) <= set(after)
        time.sleep(0.3)
        assert marks(run) == after  # nobody writes any more
    assert not list(run.glob("multi_instance_training/*/manifest.json"))
    for one in (run, other):
        train(one)
    assert model_hashes(run) == model_hashes(other)


def test_signals__an_error_that_one_caused_is_no_bug() -> None:
    """DuckDB answers an error of a signal's handler with ``RuntimeError: Query interrupted``."""

    def query() -> None:
        with _ended_by_signals():
            try:
                os.kill(os.getpid(), signal.SIGUSR1)
            except SystemExit:
                raise RuntimeError("Query interrupted") from None

    with pytest.raises(Ended) as ended:
        query()
    assert (ended.value.code, ended.value.signal) == (143, "SIGUSR1")
    os.kill(os.getpid(), signal.SIGUSR1)  # more of them change nothing any more
    restore_signals()


def test_signals__what_nohup_has_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _ended_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_run_folder__scratch_holds_the_progress(uninterrupted: Path) -> None:
    """The path that the documents name."""
    folder = RunFolder(uninterrupted)
    assert saved_folder(uninterrupted) == folder.scratch / "progress" / folder.read_plan().cut.instances[0].name
