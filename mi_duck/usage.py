"""What a process uses, and what each stage of its work used: wall and CPU seconds, peak memory, bytes read.

A stage begins when it is first reported and ends when another one is; what it used in several parts is added up. CPU seconds
and bytes are those of the process and of its children that have ended.
"""

import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

STARTING = "starting"  # the stage before any is reported


@dataclass(frozen=True, slots=True)
class StageUsage:
    """What one stage used.

    Parameters
    ----------
    peak_bytes
        Highest resident memory of the process up to the end of the stage.
    bytes_read
        By read calls, from disk or from the system's cache; 0 where the system does not say.
    """

    stage: str
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    bytes_read: int


class Meter:
    """Takes note of stages as a progress callback names them.

    Parameters
    ----------
    is_fresh
        Whether all that the process has used so far belongs to the first stage, as in a child that was begun for this.
    """

    def __init__(self, *, is_fresh: bool = False) -> None:
        self._stage = STARTING
        self._found: dict[str, list[float]] = {}
        self._peaks: dict[str, int] = {}
        self._before = time.monotonic(), *((0.0, 0) if is_fresh else (_cpu_seconds(), _bytes_read()))

    def see(self, stage: str) -> None:
        """Note that a stage is under way."""
        if stage != self._stage:
            self._end_stage()
            self._stage = stage

    def watching(self, report: Callable[[str, int, int], None]) -> Callable[[str, int, int], None]:
        """Return a progress callback that notes each stage before it hands it on."""

        def seen(stage: str, done: int, total: int) -> None:
            self.see(stage)
            report(stage, done, total)

        return seen

    def stages(self) -> tuple[StageUsage, ...]:
        """Return what every stage used so far, in the order in which they began."""
        self._end_stage()
        return tuple(
            StageUsage(stage, round(wall, 3), round(cpu, 3), self._peaks[stage], int(n_read))
            for stage, (wall, cpu, n_read) in self._found.items()
        )

    def _end_stage(self) -> None:
        now = time.monotonic(), _cpu_seconds(), _bytes_read()
        used = [after - before for after, before in zip(now, self._before, strict=True)]
        so_far = self._found.get(self._stage, [0.0, 0.0, 0.0])
        self._found[self._stage] = [one + other for one, other in zip(so_far, used, strict=True)]
        self._peaks[self._stage] = peak_bytes()
        self._before = now


def joined(stages: Sequence[StageUsage]) -> tuple[StageUsage, ...]:
    """Return stages of several processes by name: what they used added up, the highest peak."""
    found: dict[str, StageUsage] = {}
    for one in stages:
        before = found.get(one.stage, StageUsage(one.stage, 0.0, 0.0, 0, 0))
        found[one.stage] = StageUsage(
            one.stage,
            round(before.wall_seconds + one.wall_seconds, 3),
            round(before.cpu_seconds + one.cpu_seconds, 3),
            max(before.peak_bytes, one.peak_bytes),
            before.bytes_read + one.bytes_read,
        )
    return tuple(found.values())


def records(stages: Sequence[StageUsage]) -> list[dict[str, Any]]:
    """Return stages for JSON."""
    return [asdict(one) for one in stages]


def peak_bytes(pid: int | None = None) -> int:
    """Return the peak resident memory of a process in bytes; 0 where it is gone or the system does not say."""
    try:
        status = Path(f"/proc/{pid or 'self'}/status").read_text(encoding="utf-8")
    except OSError:
        if pid is not None:
            return 0
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), "VmHWM: 0")
    return int(line.split()[1]) * 1024


def _cpu_seconds() -> float:
    return sum(os.times()[:4])


def _bytes_read() -> int:
    try:
        lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    except OSError:  # another system, or one that hides it
        return 0
    return int(next((line.split()[1] for line in lines if line.startswith("rchar:")), 0))
