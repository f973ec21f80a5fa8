"""F17, F18: bits that flip and files that are cut off, in everything that a run writes and reads again.

Most tries call what the next stage calls first, in a fork, so that a crash of a native parser is seen: it must refuse the
file or return what the whole file holds. Then the commands themselves are run on each kind.
"""

import os
import random
import shutil
import signal
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from faults.scene import Scene, Verdict, complaint
from mi_duck.ensemble.model_file import load_unified_model
from mi_duck.errors import MiDuckError
from mi_duck.rows.segments import SegmentReader, read_density, segments_of
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import read_gene_folds
from mi_duck.run.instance_folder import TRAINED, is_trained

N_FLIPS, N_CUTS, N_COMMANDS = 1500, 64, 90
SEGMENT, INSTANCE = ".scratch/segments/SEGMENT", "multi_instance_training/instance_01"
TARGETS = (
    *(f"{SEGMENT}/{name}" for name in ("features.bin", "keys.bin", "segment.json")),
    *(f"{INSTANCE}/{name}" for name in (*TRAINED, "manifest.json")),
    f"{INSTANCE}/gene_cv_metrics.csv",
    *("plan.json", "genes.parquet", "consolidated_model.miduck", "consolidation_summary.json", "thresholds.json"),
    *("provenance.json", "metrics.csv", "oof_predictions.parquet", ".scratch/members.parquet"),
)
"""One file of each kind that a later command reads."""


def base(scene: Scene) -> Path:
    """Return a finished run that still has its scratch."""
    folder = scene.folder / "whole"
    if not (folder / ".scratch").is_dir():
        shutil.rmtree(folder, ignore_errors=True)
        copies = scene.folder / "whole_before"
        shutil.rmtree(copies, ignore_errors=True)
        # the scratch goes last, so that of a run without its last step is whole
        for command in (
            ["plan", *(one for one in scene.arguments(copies)[1:] if one not in RUN_ONLY)],
            ["train", copies, "--threads", "1"],
            ["consolidate", copies, "--threads", "1"],
        ):
            ended = scene.call(*command)
            if ended.code:
                raise SystemExit(f"{command[0]}: {ended.words}")
        shutil.copytree(scene.finished, folder)
        shutil.copytree(copies / ".scratch", folder / ".scratch")
        for name in CHECKS:
            if _by_function(scene, folder, folder, name).kind != "harmless":
                raise SystemExit(f"{name} is refused though it is whole")
    return folder


RUN_ONLY = {"--minimal-diagnostics", "--skip-shap", "--no-calibration-analysis", "--no-monitor-overfitting"}


def flip_cases(scene: Scene, is_fast: bool) -> list[str]:
    """Return flips, each of a file of another kind in turn: ``function``s that read it, then whole ``command``s."""
    names = list(CHECKS)
    found = [f"function:{number}:{names[number % len(names)]}" for number in range(len(names) if is_fast else N_FLIPS)]
    return found + [
        f"command:{number}:{TARGETS[number % len(TARGETS)]}" for number in range(1 if is_fast else N_COMMANDS)
    ]


def cut_cases(scene: Scene, is_fast: bool) -> list[str]:
    """Return cuts at every 64th of every kind of file."""
    places = (0, 31) if is_fast else range(N_CUTS)
    found = [f"function:{place}:{name}" for place in places for name in CHECKS]
    return found + [f"command:{place}:{name}" for place in (0, 31, 63) for name in TARGETS if not is_fast]


def flip(scene: Scene, case: str, rng: random.Random) -> Verdict:
    """Flip one bit."""

    def damage(data: bytearray) -> bytearray:
        place = rng.randrange(len(data))
        data[place] ^= 1 << rng.randrange(8)
        return data

    kind, _, name = case.split(":", 2)
    return _try(scene, name, damage, by_command=kind == "command")


def cut(scene: Scene, case: str, rng: random.Random) -> Verdict:
    """Cut a file off."""
    kind, place, name = case.split(":", 2)
    return _try(scene, name, lambda data: data[: len(data) * int(place) // N_CUTS], by_command=kind == "command")


def _try(scene: Scene, name: str, damage: Callable[[bytearray], bytearray], *, by_command: bool) -> Verdict:
    whole = base(scene)
    out = scene.fresh()
    shutil.copytree(whole, out, copy_function=os.link)
    place = name.replace("SEGMENT", RunFolder(whole).read_plan().cut.segments[2].name)
    data = (whole / place).read_bytes()
    (out / place).unlink()
    (out / place).write_bytes(damage(bytearray(data)))
    # a plan that was moved aside for a damaged one would be no plan: these are read by commands that use their content
    verdict = (
        _by_command(scene, out, name) if by_command or name not in CHECKS else _by_function(scene, out, whole, name)
    )
    if (whole / place).read_bytes() != data:
        return Verdict("broken", f"{name}: a file that was hard-linked here was changed in its place")
    return verdict


def _by_function(scene: Scene, out: Path, whole: Path, name: str) -> Verdict:
    """Call what reads the file in a fork, which answers by its exit code."""
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            code = 0 if CHECKS[name](out) == CHECKS[name](whole) else 2
        except MiDuckError:
            code = 1
        except BaseException:
            (scene.folder / "trace").write_text(traceback.format_exc(), encoding="utf-8")
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code < 0:
        return Verdict("crash", f"{name}: {signal.Signals(-code).name}")
    if code == 3:
        trace = (scene.folder / "trace").read_text(encoding="utf-8").strip().splitlines()
        return Verdict("unclear", f"{name}: {trace[-2:]}")
    return Verdict(("harmless", "detected", "silent")[code], name)


def _by_command(scene: Scene, out: Path, name: str) -> Verdict:
    """Run what goes on with the file; what it refuses, it refuses in one line; what it writes equals the reference."""
    if name.startswith(".scratch") or name.startswith(INSTANCE):
        (out / "provenance.json").unlink()  # else there is nothing to do
        (out / "consolidated_model.miduck").unlink()
    if name == "consolidated_model.miduck":
        ended = scene.call("predict", out, scene.data, "--out", scene.folder / "predictions.parquet", "--threads", "1")
        (scene.folder / "predictions.parquet").unlink(missing_ok=True)
        wrong = complaint(ended, (65,), name)
        if wrong and (out / name).read_bytes() != (scene.finished / name).read_bytes():
            return Verdict("unclear", f"{name}: {wrong}")
    ended = scene.run(out)
    if ended.code:
        wrong = complaint(ended, (65,), r"/run|plan\.json")
        if wrong:
            return Verdict("unclear", f"{name}: {wrong}")
        if name.startswith(".scratch"):
            shutil.rmtree(out / ".scratch")  # as the message says
            verdict = scene.settle(out)
            return Verdict("detected", name) if verdict.kind == "survived" else verdict
        return Verdict("detected", name)
    shutil.rmtree(out / ".scratch", ignore_errors=True)
    verdict = scene.compare(out)
    # a finished run is not read again by itself, so what happens to its results is for verify to find
    if verdict.kind == "silent" and scene.call("verify", out).code == 65:
        return Verdict("detected", f"{name}: by verify")
    return Verdict(verdict.kind, f"{name}: {verdict.note}")


# ---- what the next stage does first with each kind of file --------------------------------------------------------------


def _segments(out: Path) -> Any:
    folder = RunFolder(out)
    plan = folder.read_plan()
    found = []
    for instance in plan.cut.instances:
        segments = segments_of(plan, instance)
        reader = SegmentReader(plan, segments, folder.segments)
        small, wide = zip(*reader.records(500), strict=True)
        density = asdict(read_density(plan, segments, folder.segments))
        found.append(
            (reader.keys().tobytes(), np.concatenate(small).tobytes(), np.concatenate(wide).tobytes(), density)
        )
    return found


def _instances(out: Path) -> Any:
    """Return the bytes of what counts as trained; damage is detected where an instance does not."""
    folder = RunFolder(out)
    plan = folder.read_plan()
    if not all(is_trained(folder, plan, instance) for instance in plan.cut.instances):
        raise_detected()
    return [(folder.instance(one) / name).read_bytes() for one in plan.cut.instances for name in TRAINED]


def raise_detected() -> None:
    """Say that damage was seen."""
    from mi_duck.errors import CheckpointError

    raise CheckpointError("not trained")


def _plan(out: Path) -> Any:
    return RunFolder(out).read_plan()


def _genes(out: Path) -> Any:
    folder = RunFolder(out)
    genes = read_gene_folds(folder, folder.read_plan())
    return genes.gene_id.tolist(), genes.group.tolist(), genes.fold.tolist()


def _model(out: Path) -> Any:
    model = load_unified_model(out)
    names = model.get_feature_names()
    return model.predict_proba(np.linspace(0, 9, 5 * len(names), dtype=np.float32).reshape(5, -1)).tobytes()


CHECKS: dict[str, Callable[[Path], Any]] = (
    {f"{SEGMENT}/{name}": _segments for name in ("features.bin", "keys.bin", "segment.json")}
    | {f"{INSTANCE}/{name}": _instances for name in (*TRAINED, "manifest.json")}
    | {"plan.json": _plan, "genes.parquet": _genes, "consolidated_model.miduck": _model}
)

FAULTS = {"F17": (flip_cases, flip), "F18": (cut_cases, cut)}
