"""F21, F22, F26, F27, F28: clocks, languages, terminals, threads, orders of files, and many runs in one process."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from faults import warm
from faults.scene import FLAGS, Scene, Verdict, complaint
from faults.storage import split_data

PLACES = {
    "far_ahead": {"FAKE_CLOCK": "+1000000000"},
    "long_ago": {"FAKE_CLOCK": "-1000000000"},
    "tz_kiritimati": {"TZ": "Pacific/Kiritimati"},
    "tz_los_angeles": {"TZ": "America/Los_Angeles", "LC_ALL": "C"},
    "german": {"LC_ALL": "de_DE.UTF-8", "LANG": "de_DE.UTF-8"},
    "turkish": {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"},
    "c": {"LC_ALL": "C"},
    "posix_no_utf8": {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}
ORDERS = {
    **{f"hash_seed_{seed}": ({"PYTHONHASHSEED": str(seed)}, 1, {}) for seed in (0, 1, 2, 4294967295)},
    **{f"threads_{n}": ({"OMP_NUM_THREADS": str(n)}, n, {}) for n in (2, 3, 4)},
    "files_5": ({}, 1, {"n_files": 5}),
    "files_5_reversed": ({}, 1, {"n_files": 5, "is_reversed": True}),
    "files_7_row_groups_50": ({}, 2, {"n_files": 7, "row_group_rows": 50}),
    "row_groups_13": ({}, 1, {"row_group_rows": 13}),
    "row_groups_one": ({"PYTHONHASHSEED": "7"}, 2, {"row_group_rows": 10**6}),
}
TERMINALS = {
    "c_ascii": {"LANG": "C", "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "narrow": {"COLUMNS": "20"},
    "narrow_ascii": {"COLUMNS": "20", "LANG": "C", "PYTHONIOENCODING": "ascii"},
    "dumb": {"TERM": "dumb", "NO_COLOR": "1"},
    "latin_1": {"PYTHONIOENCODING": "latin-1"},
    "forced_colour": {"FORCE_COLOR": "1", "COLUMNS": "40"},
}
N_SOAK, N_SOAK_FAST = 300, 2


def cold(scene: Scene) -> Scene:
    """Return the same stage with real processes: an environment counts when a process starts."""
    return Scene(scene.folder, is_cold=True, reference=scene.reference, names=scene.names, seconds=scene.seconds)


def clock_and_language(scene: Scene, case: str, rng: random.Random) -> Verdict:
    """Run elsewhere; languages that are not installed count as the C language, as everywhere."""
    env = dict(PLACES[case])
    shift = env.pop("FAKE_CLOCK", None)
    if shift is not None:
        return _with_clock(scene, int(shift))
    out = scene.fresh()
    ended = cold(scene).run(out, env=env)
    return scene.compare(out) if ended.code == 0 else Verdict("broken", ended.words)


def _with_clock(scene: Scene, shift: int) -> Verdict:
    """Stop a run, then go on with it at another time: half of its files come from the future or the past."""
    out = scene.fresh()
    process = scene.start(scene.arguments(out))
    end = time.monotonic() + 60
    while not (out / "multi_instance_training" / "instance_00" / "manifest.json").is_file() and time.monotonic() < end:
        time.sleep(0.005)
    os.killpg(process.pid, 9)
    scene.end(process)
    for file in out.rglob("*"):
        os.utime(file, (time.time() + shift,) * 2)
    return scene.settle(out)


def order_and_threads(scene: Scene, case: str, rng: random.Random) -> Verdict:
    """Run with other threads, hashes, files: models, out-of-fold predictions and metrics have the same bytes."""
    env, threads, layout = ORDERS[case]
    out = scene.fresh()
    data = split_data(scene, **layout) if layout else scene.data
    flags = [str(threads) if one == "1" and before == "--threads" else one for before, one in _pairs(FLAGS)]
    arguments = ["run", data, "--out", out, *flags]
    ended = cold(scene).call(*arguments, env=env)
    if ended.code:
        return Verdict("broken", ended.words)
    verdict = scene.compare(out)
    if layout:  # plan and what names its fingerprint differ; what the models are must not
        verdict = _same_models(scene, out)
    return verdict


def _pairs(flags: tuple[str, ...]) -> list[tuple[str, str]]:
    return list(zip(("", *flags), flags, strict=False))


def _same_models(scene: Scene, out: Path) -> Verdict:
    names = ["genes.parquet", "metrics.csv", "consolidated_model.miduck", "oof_predictions.parquet", "thresholds.json"]
    for one in range(3):
        folder = f"multi_instance_training/instance_{one:02}"
        names += [
            f"{folder}/{name}" for name in ("model_multiclass.miduck", "fold_models.miduck", "oof_predictions.parquet")
        ]
    other = [name for name in names if (out / name).read_bytes() != (scene.finished / name).read_bytes()]
    return Verdict("silent", f"differ: {other}") if other else Verdict("survived")


def closed_output(scene: Scene, case: str, rng: random.Random) -> Verdict:
    """Close the reader of the output early."""
    out = scene.fresh()
    command = {
        "run": [str(one) for one in scene.arguments(out)],
        "sql": ["sql", str(scene.finished), "select * from predictions"],
        "status": ["status", str(scene.finished)],
    }[case]
    words = " ".join(f"'{one}'" for one in [sys.executable, str(warm.ROOT / "cli.py"), *command])
    env = os.environ | {"PYTHONPATH": str(warm.ROOT)}
    reader = "true" if case == "run" else "head -1 > /dev/null"
    done = subprocess.run(
        ["bash", "-c", f"{words} | {reader}; exit ${{PIPESTATUS[0]}}"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if "Traceback" in done.stderr or done.returncode:
        return Verdict("unclear", f"exit {done.returncode}: {done.stderr[-300:]}")
    return scene.compare(out) if case == "run" else Verdict("survived")


def terminal(scene: Scene, case: str, rng: random.Random) -> Verdict:
    """Print on poor terminals: results, an error, help; all letters of numbers and names are there."""
    env = TERMINALS[case]
    stage = cold(scene)
    for arguments, words in (
        (["status", scene.finished], "instance_00"),
        (["sql", scene.finished, "select 'Bäckerei λ' as place"], "B"),
        (["run", "--help"], "out"),
    ):
        ended = stage.call(*arguments, env=env)
        shown = "".join(ended.output.split())
        if ended.code or "Traceback" in ended.errors or words not in shown:
            return Verdict("unclear", f"{arguments[0]}: exit {ended.code}: {ended.words or ended.output[-200:]}")
    ended = stage.call("run", scene.folder / "nöwhere", "--out", scene.fresh(), env=env)
    wrong = complaint(ended, (65,))
    return Verdict("unclear", wrong) if wrong else Verdict("survived")


def soak(scene: Scene, case: str, rng: random.Random) -> Verdict:
    """Run many times in one process: its memory, files and temporary files do not grow."""
    number = N_SOAK if case == "full" else N_SOAK_FAST
    out = scene.folder / "soak.json"
    out.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        warm._end_with(lambda: _soak(scene, number, out))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        return Verdict("broken", f"exit {code}")
    seen = json.loads(out.read_bytes())
    begin = seen[len(seen) // 3]
    slope = (seen[-1]["mib"] - begin["mib"]) * 100 / max(seen[-1]["run"] - begin["run"], 1)
    facts = f"{number} runs: {begin} to {seen[-1]}: {slope:.2f} MiB in 100 runs"
    grows = slope > 1.0 and case == "full"
    # two runs cannot tell a leak of threads from a pool that was begun in the second
    counted = ("descriptors", "temporary", *(("threads",) if case == "full" else ()))
    grows |= any(seen[-1][name] > begin[name] for name in counted)
    return Verdict("broken" if grows else "survived", facts)


def _soak(scene: Scene, number: int, file: Path) -> int:
    """Run in this process, its children as forks, through the function that the command calls."""
    import mi_duck.processes
    from mi_duck.data.dataset import open_dataset
    from mi_duck.settings import Asked, Diagnostics
    from mi_duck.workflow.pipeline import run

    os.environ["TMPDIR"] = str(scene.folder / "tmp")
    (scene.folder / "tmp").mkdir(exist_ok=True)
    mi_duck.processes.subprocess = warm.SUBPROCESS  # type: ignore[assignment]
    seen: list[dict[str, Any]] = []
    for one in range(number):
        out = scene.fresh("soak")
        run(
            open_dataset(str(scene.data)),
            out,
            Asked(
                strategy="multi",
                genes_per_instance=12,
                memory_per_gene_mb=1.0,
                max_memory_per_instance_gb=0.5,
                n_folds=2,
                n_estimators=6,
            ),
            mi_duck.processes.Context(1, lambda stage, done, total: None, lambda words: None),
            diagnostics=Diagnostics(
                minimal_diagnostics=True, monitor_overfitting=False, calibration_analysis=False, skip_shap=True
            ),
        )
        if scene.compare(out).kind != "survived":
            return 3
        status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        facts = dict(line.split(":", 1) for line in status)
        seen.append(
            {
                "run": one + 1,
                "mib": round(int(facts["VmRSS"].split()[0]) / 1024, 2),
                "threads": int(facts["Threads"]),
                "descriptors": len(os.listdir("/proc/self/fd")),
                "temporary": sum(1 for _ in (scene.folder / "tmp").rglob("*")),
            }
        )
        file.write_text(json.dumps(seen), encoding="utf-8")
    shutil.rmtree(scene.folder / "soak")
    return 0


def every(names: Any, n_fast: int) -> Any:
    """Return a function that lists tries by name."""
    return lambda scene, is_fast: list(names)[:n_fast] if is_fast else list(names)


FAULTS = {
    "F21": (every(PLACES, 1), clock_and_language),
    "F22": (every(ORDERS, 0), order_and_threads),
    "F26": (every(("status", "sql", "run"), 1), closed_output),
    "F27": (every(TERMINALS, 1), terminal),
    "F28": (lambda scene, is_fast: ["fast" if is_fast else "full"], soak),
}
