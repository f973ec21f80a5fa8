"""F6, F7, F9, F23, F24: disks that are full or read-only, quotas, too few file descriptors."""

import os
import random
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from faults.scene import Scene, Verdict, complaint, names_in

FULL = r"No space left|are free|not enough"


def levels(n: int, n_fast: int) -> Any:
    """Return a function that names tries by level."""
    return lambda scene, is_fast: (
        [str(1 + step * n // n_fast) for step in range(n_fast)] if is_fast else list(map(str, range(1, n + 1)))
    )


@contextmanager
def mounted(folder: Path, *, options: str) -> Iterator[bool]:
    """Mount a disk in memory; False where that is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False)
    try:
        yield done.returncode == 0
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "-l", folder], check=True)


def full_disk(scene: Scene, case: str, rng: random.Random) -> Verdict:
    """Leave a part of what the run needs on its disk; free the rest after it failed."""
    disk = scene.folder / "disk"
    with mounted(disk, options="size=64m") as is_mounted:
        if not is_mounted:
            return Verdict("skipped", "mounting is not allowed here")
        peak = 8_200_000  # of this run with its scratch, measured; the last levels have enough
        left = int(int(case) * peak / 20) // 4096 * 4096
        out = disk / "run"
        with (disk / "ballast").open("wb") as ballast:
            os.posix_fallocate(ballast.fileno(), 0, shutil.disk_usage(disk).free - left)
        ended = scene.run(out)
        (disk / "ballast").unlink()
        if ended.code == 0:
            verdict = scene.compare(out)
            return verdict if verdict.kind != "survived" else Verdict("harmless", f"{left:,} bytes are enough")
        wrong = complaint(ended, (74,), FULL, str(disk))
        verdict = scene.settle(out)
        if verdict.kind == "survived" and wrong:
            return Verdict("unclear", f"{left:,} bytes: {wrong}")
        return Verdict(verdict.kind, f"{left:,} bytes: {ended.words} {verdict.note}")


def spill(scene: Scene, case: str, rng: random.Random) -> Verdict:
    """Sort more than memory holds with too small a disk for what does not fit: an error of storage that says what to do."""
    from mi_duck.data.database import Database
    from mi_duck.errors import MiDuckError, StorageError

    disk = scene.folder / "spill"
    with mounted(disk, options=f"size={2 ** int(case)}m") as is_mounted:
        if not is_mounted:
            return Verdict("skipped", "mounting is not allowed here")
        rows = pa.table({"gene_id": [f"gene_{one:09}" for one in np.random.default_rng(1).permutation(3_000_000)]})
        rows = rows.append_column("fold_group", rows["gene_id"]).append_column(
            "label", pa.array(np.zeros(len(rows), int))
        )
        try:
            with Database(threads=1, memory_bytes=64 << 20, scratch=disk) as db:
                db.load("gene_rows", rows)
                db.table("gene_index", seed=1)
        except StorageError as error:
            return Verdict("detected" if "free some space" in str(error) else "unclear", str(error))
        except MiDuckError as error:
            return Verdict("unclear", str(error))
        return Verdict("harmless", "it fits")


def small_files(scene: Scene, case: str, rng: random.Random) -> Verdict:
    """Limit the size of files, as a quota does."""
    out = scene.fresh()
    limit = (4_000, 20_000, 100_000, 400_000, 2_000_000)[int(case) - 1]

    def before() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    ended = scene.run(out, before=before)
    if ended.code == 0:
        return Verdict("harmless", f"{limit:,} bytes are enough")
    wrong = complaint(ended, (74,), str(out))
    verdict = scene.settle(out)
    return Verdict("unclear", f"{limit:,}: {wrong}") if wrong and verdict.kind == "survived" else verdict


def read_only(scene: Scene, case: str, rng: random.Random) -> Verdict:
    """Make the place of the run read-only: before, in the middle, at the end; reading commands still work."""
    disk = scene.folder / "disk"
    out = disk / "run"
    with mounted(disk, options="size=64m") as is_mounted:
        if not is_mounted:
            return Verdict("skipped", "mounting is not allowed here")
        if case != "1":
            shutil.copytree(scene.finished, out)
        if case in ("2", "4"):
            (out / "consolidated_model.miduck").unlink()
        if case == "3":
            shutil.rmtree(out / "multi_instance_training" / "instance_01")
        remount = ["mount", "-o", "remount,ro", disk]
        subprocess.run(remount, check=True)
        commands = {
            "1": scene.arguments(out),
            "2": scene.arguments(out),
            "3": ["train", out, "--instance", "1", "--threads", "1"],
            "4": ["consolidate", out, "--threads", "1"],
            "5": ["status", out],
            "6": ["predict", out, scene.data, "--out", scene.folder / "predictions.parquet", "--threads", "1"],
        }
        ended = scene.call(*commands[case])
        (scene.folder / "predictions.parquet").unlink(missing_ok=True)
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        if case in ("5", "6"):
            return Verdict("harmless" if ended.code == 0 else "broken", ended.words)
        wrong = complaint(ended, (74,), str(out), "Read-only|read-only")
        if wrong:
            return Verdict("unclear", wrong)
        return scene.settle(out)


def few_descriptors(scene: Scene, case: str, rng: random.Random) -> Verdict:
    """Allow 64 open files: with one data file, with 90, and with 30 segments."""
    out = scene.fresh()
    data = scene.data if case == "1" else split_data(scene, n_files=90)
    flags: list[object] = ["--instance-overlap", "0.1", "--genes-per-instance", "4"] if case == "3" else []

    def before() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    ended = scene.call(*scene.arguments(out, data), *flags, before=before)
    if ended.code:
        wrong = complaint(ended, (74, 78), "file descriptors|open files|ulimit") if ended.code != 78 else ""
        return Verdict("unclear", wrong) if wrong else Verdict("detected", ended.words)
    if case == "3":
        return Verdict("harmless")
    wrong_names = [
        name
        for name in ("metrics.csv", "consolidated_model.miduck", "oof_predictions.parquet")
        if not same(scene, out, name)
    ]
    return Verdict("silent", f"differ: {wrong_names}") if wrong_names and case == "1" else Verdict("survived")


def same(scene: Scene, out: Path, name: str) -> bool:
    """Return whether a file of a run equals that of the reference."""
    return (out / name).read_bytes() == (scene.finished / name).read_bytes()


def split_data(
    scene: Scene, *, n_files: int = 1, row_group_rows: int = 1000, is_reversed: bool = False, name: str = ""
) -> Path:
    """Return the same rows in other files, in whole genes a file, or in another order of files and row groups."""
    folder = scene.folder / f"data_{n_files}_{row_group_rows}_{is_reversed}{name}"
    if not folder.is_dir():
        table = pa.concat_tables([pq.read_table(file) for file in sorted(scene.data.glob("*.parquet"))])
        folder.mkdir()
        step = -(-len(table) // n_files)
        for number, begin in enumerate(range(0, len(table), step)):
            place = n_files - number if is_reversed else number
            pq.write_table(table.slice(begin, step), folder / f"part_{place:03}.parquet", row_group_size=row_group_rows)
    return folder


def litter(out: Path) -> list[str]:
    """Return names of temporary files."""
    return sorted(name for name in names_in(out) if name.endswith(".tmp"))


FAULTS = {
    "F6": (lambda scene, is_fast: ["6"] if is_fast else [str(one) for one in range(1, 21)], full_disk),
    "F7": (levels(5, 1), spill),
    "F9": (levels(5, 1), small_files),
    "F23": (levels(6, 1), read_only),
    "F24": (levels(3, 1), few_descriptors),
}
