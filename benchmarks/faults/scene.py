"""The stage of every fault: tiny data, one command, what an undisturbed run of it leaves, and how a disturbed one is judged."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults import warm
from mi_duck.genome.synthetic import synthesise
from mi_duck.run.folder import RunFolder
from mi_duck.run.instance_folder import is_trained

HERE = Path(__file__).resolve().parent
# three instances and two folds in 3 s of CPU; two numbers that would be measured are given, so that plans are equal
FLAGS = (
    *(
        "--strategy",
        "multi",
        "--genes-per-instance",
        "12",
        "--memory-per-gene-mb",
        "1",
        "--max-memory-per-instance-gb",
        "0.5",
    ),
    *("--n-estimators", "6", "--n-folds", "2", "--threads", "1", "--minimal-diagnostics", "--skip-shap"),
    *("--no-calibration-analysis", "--no-monitor-overfitting"),
)
TIMES = {
    "measurement.json",
    "provenance.json",
    "report.html",
    "run.duckdb",
    "unified_training_summary.txt",
    "memory.json",
    "stage_times.json",
    "run.log",
}
"""Files of a run that hold times or peaks, and so are compared by name alone."""
SECONDS = 600.0  # no command of this size takes as long, whatever else runs


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended: exit code (negative: signal), standard output, standard error, seconds."""

    code: int
    output: str
    errors: str
    seconds: float

    @property
    def words(self) -> str:
        """The last line that it said."""
        return (self.errors.strip().splitlines() or [""])[-1][:400]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a fault.

    Parameters
    ----------
    kind
        ``survived`` (the end equals the undisturbed run), ``harmless`` (nothing was to be done), ``lost`` (finished work was
        done again), ``silent`` (exit 0 and other bytes), ``litter`` (equal, but something was left behind), ``unclear`` (not
        one line, wrong exit code), ``broken`` (never ends), ``crash``.
    note
        What to look at.
    """

    kind: str
    note: str = ""


@dataclass
class Scene:
    """A folder with data and a reference run; commands are forks (see `warm`) or real processes.

    Parameters
    ----------
    folder
        Where all lies.
    is_cold
        Whether commands are real processes.
    """

    folder: Path
    is_cold: bool = False
    flags: tuple[str, ...] = FLAGS
    reference: dict[str, str] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    seconds: float = 10.0

    @property
    def data(self) -> Path:
        """The dataset."""
        return self.folder / "data" / "master"

    @property
    def finished(self) -> Path:
        """The undisturbed run."""
        return self.folder / "finished"

    def prepare(self) -> "Scene":
        """Make data and reference; return this."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.data.is_dir():
            synthesise(self.folder / "data", n_genes=24, rows_per_gene=120, n_features=20, seed=42)
        if not (self.finished / "provenance.json").is_file():
            ended = self.run(self.finished)
            if ended.code:
                raise SystemExit(f"the undisturbed run fails: {ended.errors}")
            self.seconds = ended.seconds
        self.reference, self.names = hashes(self.finished), names_in(self.finished)
        return self

    def arguments(self, out: Path, data: Path | None = None) -> list[object]:
        """Return the command of every run."""
        return ["run", data or self.data, "--out", out, *self.flags]

    def start(
        self,
        arguments: Sequence[object],
        *,
        env: Mapping[str, str] | None = None,
        before: Callable[[], None] | None = None,
        tag: str = "command",
    ) -> Any:
        """Start a command in a process group of its own."""
        files = {name: self.folder / f"{tag}.{name}" for name in ("output", "errors")}
        if not self.is_cold:
            return warm.start(arguments, **files, env=env or {}, before=before)
        variables = {"PYTHONPATH": str(warm.ROOT), "OMP_NUM_THREADS": "1"} | dict(env or {})
        if "MI_DUCK_FAULT" in variables:
            variables["PYTHONPATH"] = f"{HERE}{os.pathsep}{variables['PYTHONPATH']}"
        with files["output"].open("wb") as output, files["errors"].open("wb") as errors:
            return subprocess.Popen(
                [sys.executable, str(warm.ROOT / "cli.py"), *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=os.environ | variables,
                start_new_session=True,
                preexec_fn=before,
            )

    def end(self, process: Any, *, tag: str = "command", begun: float | None = None) -> Ended:
        """Wait for a command."""
        try:
            code = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            kill_group(process.pid)
            process.wait(10)
            code = -999
        output, errors = ((self.folder / f"{tag}.{name}").read_bytes() for name in ("output", "errors"))
        return Ended(
            code, output.decode(errors="replace"), errors.decode(errors="replace"), time.monotonic() - (begun or 0.0)
        )

    def call(self, *arguments: object, tag: str = "command", **options: Any) -> Ended:
        """Run a command to its end."""
        begun = time.monotonic()
        return self.end(self.start(arguments, tag=tag, **options), tag=tag, begun=begun)

    def run(self, out: Path, **options: Any) -> Ended:
        """Run the command of every run to its end."""
        data = options.pop("data", None)
        return self.call(*self.arguments(out, data), **options)

    def fresh(self, name: str = "run") -> Path:
        """Return a folder that is not there yet."""
        out = self.folder / name
        shutil.rmtree(out, ignore_errors=True)
        return out

    def settle(self, out: Path, *, tries: int = 3) -> Verdict:
        """Repeat the command until it ends well, and compare the end with the reference."""
        kept = trained(out)
        for _ in range(tries):
            ended = self.run(out)
            if ended.code == 0:
                break
            if "Traceback" in ended.errors:
                return Verdict("broken", f"traceback: {ended.words}")
        else:
            return Verdict("broken", f"exit {ended.code}: {ended.words}")
        verdict = self.compare(out)
        if verdict.kind != "survived":
            return verdict
        again = trained(out)
        lost = sorted(name for name, stamp in kept.items() if again.get(name) != stamp)
        return Verdict("lost", f"trained again: {lost}") if lost else verdict

    def compare(self, out: Path) -> Verdict:
        """Compare a finished run with the reference."""
        found = hashes(out)
        differing = sorted(
            name for name in found.keys() | self.reference.keys() if found.get(name) != self.reference.get(name)
        )
        missing = [name for name in differing if name in self.reference]
        if missing:
            return Verdict("silent", f"differ: {missing[:6]}")
        extra = sorted(names_in(out) ^ self.names)
        other = [name for name in extra if Path(name).name != "measurement.json"]
        if other:
            return Verdict("litter", f"left or missing: {other[:6]}")
        # a process that dies after its child's last write takes the peak that it measured along
        return Verdict("survived", f"not measured: {extra}" if extra else "")


def names_in(out: Path) -> set[str]:
    """Return the relative names of all files, locks left out."""
    return {
        path.relative_to(out).as_posix()
        for path in out.rglob("*")
        if path.is_file() and not path.name.startswith(".lock")
    }


def hashes(out: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that holds no times."""
    return {
        name: hashlib.sha256((out / name).read_bytes()).hexdigest()
        for name in sorted(names_in(out))
        if Path(name).name not in TIMES
    }


def snapshot(folder: Path) -> list[tuple[str, int, int, str]]:
    """Return name, size, time of change and hash of every file of a dataset."""
    return [
        (str(path), path.stat().st_size, path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]


def trained(out: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of the models of every instance that is finished."""
    folder = RunFolder(out)
    if not folder.plan.is_file():
        return {}
    plan = folder.read_plan()
    return {
        one.name: (stat.st_ino, stat.st_mtime_ns)
        for one in plan.cut.instances
        if is_trained(folder, plan, one)
        for stat in [(folder.instance(one) / "model_multiclass.miduck").stat()]
    }


def children_of(pid: int) -> list[int]:
    """Return the children of a process; each is listed under the thread that began it."""
    found = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # the thread ended meanwhile
            found += [int(one) for one in file.read_text(encoding="utf-8").split()]
    return found


def kill_group(pid: int) -> None:
    """Kill a command and all its children."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def complaint(ended: Ended, codes: Sequence[int], *patterns: str) -> str:
    """Return what is wrong with how a command failed: exit code, traceback, number of lines, words; empty if all is well."""
    lines = [line for line in ended.errors.splitlines() if line.startswith("error: ")]
    if ended.code not in codes:
        return f"exit {ended.code}: {ended.words}"
    if "Traceback" in ended.errors:
        trace = [line.strip() for line in ended.errors.splitlines() if line.startswith(f'  File "{warm.ROOT}')]
        return f"traceback at {trace[-1:]}: {ended.words}"
    if len(lines) != 1:
        return f"{len(lines)} lines of error: {ended.words}"
    for pattern in patterns:
        if not re.search(pattern, lines[0]):
            return f"'{pattern}' is not in: {lines[0]}"
    return ""


def fault_env(out: Path, fault: str, count: Path) -> dict[str, str]:
    """Return the variables that make ``sitecustomize`` of this folder act."""
    count.unlink(missing_ok=True)
    return {"MI_DUCK_FAULT": fault, "MI_DUCK_FAULT_AT": str(out.resolve()), "MI_DUCK_FAULT_COUNT": str(count)}


def read_state(path: Path) -> dict[str, Any]:
    """Read the state of an earlier `chaos`, or begin."""
    return json.loads(path.read_bytes()) if path.is_file() else {}
