"""Keeps what a training has done so far, so that a killed one goes on inside its instance and ends with the same bytes.

``.scratch/progress/instance_00/`` holds a file a booster: ``fold_0_class_1.miduck``, ``final_class_1.miduck``. It is written
every 50 rounds (`mi_duck.train.boosters`), when the process is asked to end, and when the fit is done. What is torn, of
another key or of another XGBoost is deleted and trained anew.

Why boosters that go on are those that were never interrupted: nothing is drawn by chance, XGBoost sums the margins of a
loaded booster tree by tree in the order in which training did, and its numbers survive UBJSON exactly; early stopping is a
function of the learning curve, which is kept in float64. So a booster is never loaded again unless it has to be.
"""

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xgboost as xgb

from mi_duck.checkpoint import pack, read_parts, storage_errors, write_file
from mi_duck.children import Report, peak_bytes
from mi_duck.errors import CheckpointError
from mi_duck.folders import RunFolder
from mi_duck.plan.plan import Instance, Plan, Settings
from mi_duck.train.instance_state import checkpoint_key
from mi_duck.train.instances import Fit


@dataclass(frozen=True, slots=True)
class SavedFit:
    """A fit as it was saved.

    Parameters
    ----------
    fit
        Where it is not finished, ``raw`` holds all ``rounds`` rounds that were done.
    is_finished
        Whether nothing is left to do.
    seconds
        Of training the instance up to then, all its processes together.
    peak_bytes
        Peak memory of the phase in which it was saved, or of an earlier process.
    """

    fit: Fit
    is_finished: bool
    seconds: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Progress:
    """The saved fits of one instance, as they were when this process began, and where to save more.

    Parameters
    ----------
    where
        Folder of the instance's saved fits.
    key
        See `mi_duck.train.instances.checkpoint_key`.
    saved
        By name, see `fold_name` and `final_name`.
    begun
        When this process began, by the monotonic clock in seconds.
    """

    where: Path
    key: str
    saved: Mapping[str, SavedFit]
    begun: float

    @property
    def seconds_before(self) -> float:
        """Seconds that earlier processes trained."""
        return max((one.seconds for one in self.saved.values()), default=0.0)

    @property
    def peak_before(self) -> int:
        """Peak memory of earlier processes in bytes."""
        return max((one.peak_bytes for one in self.saved.values()), default=0)

    @property
    def rounds_before(self) -> int:
        """Rounds that earlier processes trained, over all fits."""
        return sum(max(one.fit.rounds, len(one.fit.curve)) for one in self.saved.values())

    def finished(self, name: str) -> Fit | None:
        """Return a fit that needs no more training; None where it does."""
        one = self.saved.get(name)
        return one.fit if one is not None and one.is_finished else None

    def begun_fit(self, name: str) -> Fit | None:
        """Return a fit to go on with; None where there is none."""
        one = self.saved.get(name)
        return None if one is None else one.fit

    def save(self, name: str, fit: Fit, is_finished: bool) -> None:
        """Write a fit whole or not at all."""
        facts = {
            "key": self.key,
            "xgboost": xgb.__version__,
            "rounds": fit.rounds,
            "is_finished": is_finished,
            "seconds": self.seconds_before + time.monotonic() - self.begun,
            "peak_bytes": max(self.peak_before, peak_bytes()),
        }
        parts = {"progress.json": json.dumps(facts).encode(), "curve.f8": fit.curve.tobytes(), "booster.ubj": fit.raw}
        write_file(self.where / f"{name}.miduck", pack(parts, level=1))  # the memory of training is planned to the MiB

    def clear(self) -> None:
        """Delete all of it, once the instance's own folder is written."""
        shutil.rmtree(self.where, ignore_errors=True)


def fold_name(fold: int, index: int) -> str:
    """Return the name of the fit of a fold and a class."""
    return f"fold_{fold}_class_{index}"


def final_name(index: int) -> str:
    """Return the name of the final fit of a class."""
    return f"final_class_{index}"


def open_progress(folder: RunFolder, plan: Plan, instance: Instance) -> Progress:
    """Return what was saved of an instance; delete what is of no use, and what belongs to no instance of the plan."""
    root = folder.scratch / "progress"
    where = root / instance.name
    key = checkpoint_key(plan, instance)
    saved = {}
    with storage_errors(root):
        for stray in sorted(root.iterdir()) if root.is_dir() else ():
            if stray.name not in {one.name for one in plan.instances}:
                shutil.rmtree(stray, ignore_errors=True)  # others that train at the same time delete it too
        for file in sorted(where.iterdir()) if where.is_dir() else ():
            one = _read(file, key)
            if one is None:
                file.unlink()
            else:
                saved[file.stem] = one
    return Progress(where, key, saved, time.monotonic())


def report_resumption(progress: Progress, titles: Mapping[str, str], settings: Settings, report: Report) -> None:
    """Tell where training goes on, if something was saved."""
    if not progress.saved:
        return
    name = next((name for name in titles if progress.finished(name) is None), None)
    begun = None if name is None else progress.begun_fit(name)
    done = 0 if begun is None else begun.rounds
    place = "after the last round" if name is None else f"at {titles[name]}, round {done}"
    report(f"resuming {place}", done, settings.n_estimators)


def _read(file: Path, key: str) -> SavedFit | None:
    """Return a saved fit; None where it is torn or is not of this instance and this XGBoost."""
    try:
        parts = read_parts(file)
        facts = json.loads(parts["progress.json"])
        if (facts["key"], facts["xgboost"]) != (key, xgb.__version__):
            return None
        curve = np.frombuffer(parts["curve.f8"], dtype=np.float64).reshape(-1, 2)
        fit = Fit(parts["booster.ubj"], int(facts["rounds"]), curve)
        return SavedFit(fit, bool(facts["is_finished"]), float(facts["seconds"]), int(facts["peak_bytes"]))
    except (CheckpointError, ValueError, KeyError, TypeError, RecursionError):
        return None
