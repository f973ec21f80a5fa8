"""F1, F2, F4, F5, F8, F14: processes that die at any moment, calls that fail, commands that are started twice."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from faults import sitecustomize as shim
from faults.scene import (
    Scene,
    Verdict,
    children_of,
    complaint,
    fault_env,
    kill_group,
    names_in,
    trained,
)


def numbered(n: int, n_fast: int) -> Any:
    """Return a function that names tries by number."""
    return lambda scene, is_fast: [str(number) for number in range(n_fast if is_fast else n)]


# ---- F1, F4, F5: SIGKILL at a random time ------------------------------------------------------------------------------


def kill_anyone(scene: Scene, case: str, rng: random.Random) -> Verdict:
    """Kill all processes or the command alone, once to three times, at uniform times of what is left of the run."""
    out = scene.fresh()
    kept: dict[str, tuple[int, int]] = {}
    for _ in range(rng.choice([1, 1, 2, 3])):
        kept |= trained(out)
        process = scene.start(scene.arguments(out))
        time.sleep(rng.uniform(0, scene.seconds))
        children = children_of(process.pid)
        if rng.random() < 0.5:
            kill_group(process.pid)
        else:
            _kill(process.pid)
        scene.end(process)
        _wait_for_end(children)
    again = trained(out)
    lost = [name for name, stamp in kept.items() if again.get(name) != stamp]
    return Verdict("lost", f"gone: {lost}") if lost else scene.settle(out)


def kill_child(scene: Scene, case: str, rng: random.Random) -> Verdict:
    """Kill a child only, as the system does when memory runs out: one line, a code that tells, and the run goes on.

    Where a run answers by halves of the instance, its models are others, but no gene is left out.
    """
    out = scene.fresh()
    process = scene.start(scene.arguments(out))
    children: list[int] = []
    time.sleep(rng.uniform(0, scene.seconds * 0.9))
    while process.poll() is None and not children:
        children = children_of(process.pid)
    for child in children:
        _kill(child)
    ended = scene.end(process)
    wrong = complaint(ended, (69, 137), "killed by signal 9") if children and ended.code != 0 else ""
    if wrong:
        return Verdict("unclear", wrong)
    if ended.code == 0:  # tried once more
        return scene.compare(out)
    if not (out / "splits.json").is_file():
        return scene.settle(out)
    for _ in range(3):
        ended = scene.run(out)
        if ended.code == 0:
            break
    summary = json.loads((out / "consolidation_summary.json").read_bytes())
    if ended.code or summary["coverage_fraction"] != 1.0:
        return Verdict("broken", f"after a split: exit {ended.code}: {ended.words}")
    left = sorted(name for name in names_in(out) if name.endswith(".tmp"))
    return Verdict("litter", f"{left}") if left else Verdict("survived", "split in halves")


def kill_parent(scene: Scene, case: str, rng: random.Random) -> Verdict:
    """Kill the command only: its child ends within 5 s, and nothing is written later."""
    out = scene.fresh()
    process = scene.start(scene.arguments(out))
    time.sleep(rng.uniform(0, scene.seconds))
    children = children_of(process.pid)
    _kill(process.pid)
    scene.end(process)
    if not _wait_for_end(children):
        return Verdict("broken", "the child lives 5 s after its parent")
    before = _stamps(out)
    time.sleep(0.3)
    if _stamps(out) != before:
        return Verdict("broken", "an orphan wrote")
    return scene.settle(out)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _is_alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False


def _wait_for_end(pids: list[int]) -> bool:
    end = time.monotonic() + 5
    while any(_is_alive(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def _stamps(out: Path) -> dict[str, int]:
    return {name: (out / name).stat().st_mtime_ns for name in names_in(out)} if out.is_dir() else {}


# ---- F2, F8: at every call ---------------------------------------------------------------------------------------------


def trace(scene: Scene) -> list[str]:
    """Return the changes of a run in their order: call and path, without process numbers."""
    file = scene.folder / "trace"
    if not file.is_file():
        _count(scene, "count").rename(file)
    lines = file.read_text(encoding="utf-8").splitlines()
    return [re.sub(r"\.\d+\.tmp", ".N.tmp", line.partition(" ")[2]) for line in lines]


def copies(scene: Scene) -> Path:
    """Return a folder with the state of the run before each of its changes, one folder a change."""
    folder = scene.folder / "copies"
    if not (folder / "trace").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        _count(scene, f"copy:{folder}").rename(folder / "trace")
    return folder


def _count(scene: Scene, fault: str) -> Path:
    out, count = scene.fresh(), scene.folder / "count"
    ended = _with_fault(scene, out, fault)
    if ended.code or scene.compare(out).kind != "survived":
        raise SystemExit(f"counting changes disturbs the run: {ended.errors}")
    return count


def call_sites(scene: Scene) -> list[int]:
    """Return the first change of each kind: call and path with numbers left out."""
    found: dict[str, int] = {}
    for number, line in enumerate(trace(scene), 1):
        found.setdefault(re.sub(r"\d+", "N", line), number)
    return sorted(found.values())


def kill_cases(scene: Scene, is_fast: bool) -> list[str]:
    """Return one try for every state that a kill can leave, and real kills at some."""
    n = len(trace(scene))
    if is_fast:
        return [f"kill:{1 + n // 2}"]
    seen, cases = set(), []
    for number in range(1, n + 1):
        state = _tree_hash(copies(scene) / str(number))
        if state not in seen:
            seen.add(state)
            cases.append(f"copy:{number}")
    real = [f"kill{'-after' * (step % 2)}:{1 + step * n // 60}" for step in range(60)]
    return cases + real


def kill_at(scene: Scene, case: str, rng: random.Random) -> Verdict:
    """Go on from what a kill before a change leaves: from the copy of that state, or really killed."""
    kind, _, number = case.partition(":")
    out = scene.fresh()
    if kind == "copy":
        state = copies(scene) / number
        if state.is_dir():
            shutil.copytree(state, out, symlinks=True)
        return scene.settle(out)
    ended = _with_fault(scene, out, case)
    if ended.code == 0:  # a training process was killed, and tried once more
        return scene.compare(out)
    if ended.code not in (-9, 137):
        return Verdict("broken", f"killed, yet exit {ended.code}: {ended.words}")
    return scene.settle(out)


def error_cases(scene: Scene, is_fast: bool) -> list[str]:
    """Return one try for each kind of error at each kind of call."""
    lines, sites = trace(scene), call_sites(scene)
    if is_fast:
        sites = sites[len(sites) // 2 :][:1]
    cases = []
    for place, number in enumerate(sites):
        name = lines[number - 1].partition(" ")[0]
        kinds = (
            ["EIO"] if name in ("unlink", "rmdir") else ["EIO", "ENOSPC"] + ["short"] * (name in ("write", "pwrite"))
        )
        if is_fast:
            kinds = kinds[place % len(kinds) :][:1]
        cases += [f"{kind}:{number}" for kind in kinds]
        if not is_fast and place % 5 == 0:
            cases.append(f"full:{number}")
    return cases


def error_at(scene: Scene, case: str, rng: random.Random) -> Verdict:
    """Let a call fail: exit 74 with one line that names a path, or no harm; then the run goes on."""
    out = scene.fresh()
    kind, _, number = case.partition(":")
    where = trace(scene)[int(number) - 1]
    ended = _with_fault(scene, out, case)
    if ended.code == 0:
        verdict = scene.compare(out)
        return verdict if verdict.kind != "survived" else Verdict("harmless", where)
    wrong = complaint(ended, (74,), r"/run|" + re.escape(out.name))
    verdict = scene.settle(out)
    if verdict.kind != "survived":
        return Verdict(verdict.kind, f"{where}: {verdict.note}")
    return Verdict("unclear", f"{where}: {wrong}") if wrong else verdict


def _with_fault(scene: Scene, out: Path, fault: str) -> Any:
    before = None if scene.is_cold else shim.install
    return scene.run(out, env=fault_env(out, fault, scene.folder / "count"), before=before)


def _tree_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = re.sub(r"\.\d+\.tmp", ".N.tmp", path.relative_to(folder).as_posix())
        digest.update(f"{name}\0{path.is_dir()}\0".encode())
        if path.is_file():
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


# ---- F14: the same command several times at once -----------------------------------------------------------------------


def at_once(scene: Scene, case: str, rng: random.Random) -> Verdict:
    """Start equal commands at once: one works, the others leave with 75, or with 0 where they came after its end."""
    number = int(case)
    n = (2, 4, 8)[number % 3]
    out = scene.fresh()
    if number % 2:
        return _instance_at_once(scene, out, n, rng)
    processes = []
    for tag in range(n):
        processes.append(scene.start(scene.arguments(out), tag=f"at_once_{tag}"))
        time.sleep(rng.choice([0, 0, 0, 0.05, scene.seconds * rng.random() / n]))
    ends = [scene.end(process, tag=f"at_once_{tag}") for tag, process in enumerate(processes)]
    return _winners(scene, out, ends, "another mi-duck works on")


def _instance_at_once(scene: Scene, out: Path, n: int, rng: random.Random) -> Verdict:
    arguments = scene.arguments(out)
    minimal = {"--minimal-diagnostics", "--skip-shap", "--no-calibration-analysis", "--no-monitor-overfitting"}
    planned = scene.call("plan", *(one for one in arguments[1:] if one not in minimal))
    if planned.code:
        return Verdict("broken", planned.words)
    commands = [["train", out, "--instance", rng.randrange(3), "--threads", "1"] for _ in range(n)]
    processes = [scene.start(command, tag=f"at_once_{tag}") for tag, command in enumerate(commands)]
    ends = [scene.end(process, tag=f"at_once_{tag}") for tag, process in enumerate(processes)]
    wanted = {command[3] for command in commands}
    done = trained(out)
    if any(f"instance_{one:02}" not in done for one in wanted):
        return Verdict("broken", f"of {wanted} only {sorted(done)} are trained: {[end.words for end in ends]}")
    for one in wanted:
        mine = [end for end, command in zip(ends, commands, strict=True) if command[3] == one]
        n_training = sum("training on" in end.errors for end in mine)
        if n_training != 1 or any(end.code not in (0, 75) for end in mine):
            return Verdict("broken", f"trained {n_training} times: {[(end.code, end.words) for end in mine]}")
    return scene.settle(out)


def _winners(scene: Scene, out: Path, ends: list[Any], words: str) -> Verdict:
    n_working = sum("training on" in end.errors for end in ends)
    for end in ends:
        wrong = complaint(end, (75,), words) if end.code else ""
        if wrong:
            return Verdict("unclear", wrong)
    if n_working != 1 or not any(end.code == 0 for end in ends):
        return Verdict("broken", f"{n_working} trained; {json.dumps([(end.code, end.words) for end in ends])}")
    verdict = scene.compare(out)
    return verdict if verdict.kind != "survived" else scene.settle(out)


FAULTS = {
    "F1": (numbered(200, 1), kill_anyone),
    "F2": (kill_cases, kill_at),
    "F4": (numbered(50, 1), kill_child),
    "F5": (numbered(20, 1), kill_parent),
    "F8": (error_cases, error_at),
    "F14": (numbered(50, 1), at_once),
}
