"""What ``provenance.json`` vouches for: the hash of every file that a finished run wrote.

The list of files is written last and taken out before anything in the run changes, so it never vouches for a file that is
just being written anew: a run whose provenance has no list is one that some stage has begun to change.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mi_duck.checkpoint import file_sha256, write_json
from mi_duck.folders import RunFolder

ASIDE = "stale"


def own_files(folder: RunFolder) -> list[Path]:
    """Return every file that a run writes and keeps, sorted; not the provenance, what is aside, and what others put there."""
    singles = (folder.plan, folder.splits, folder.genes, folder.memory, folder.memory_plot, *folder.results)
    found = {file for file in singles if file.is_file()}
    for root in (*folder.result_folders, folder.leakage, folder.instances):
        found |= {file for file in root.rglob("*") if file.is_file()}
    return sorted(file for file in found if not _is_passing(file.relative_to(folder.root)))


def _is_passing(name: Path) -> bool:
    return ASIDE in name.parts or any(part.startswith(".") for part in name.parts)


def file_hashes(folder: RunFolder, sha256: Callable[[Path], str] = file_sha256) -> dict[str, str]:
    """Return the hash of every file of a run by its name relative to the run folder."""
    return {file.relative_to(folder.root).as_posix(): sha256(file) for file in own_files(folder)}


def read_provenance(folder: RunFolder) -> dict[str, Any] | None:
    """Return what ``provenance.json`` says, None where the run has none.

    Raises
    ------
    ValueError
        It is no JSON, or no table.
    """
    try:
        found = json.loads(folder.provenance.read_bytes())
    except FileNotFoundError:
        return None
    if not isinstance(found, dict):
        raise ValueError(f"{folder.provenance} holds no table")
    return found


def write_provenance(folder: RunFolder, provenance: dict[str, Any]) -> None:
    """Write ``provenance.json`` with the hashes of all files."""
    write_json(folder.provenance, provenance | {"files": file_hashes(folder)})


def take_files_out(folder: RunFolder) -> None:
    """Take the list of files out of the provenance, because some of them are about to change."""
    try:
        found = read_provenance(folder)
    except ValueError:  # damaged: then it vouches for nothing either
        return
    if found is not None and "files" in found:
        write_json(folder.provenance, {name: value for name, value in found.items() if name != "files"})


@contextmanager
def relisted(folder: RunFolder) -> Iterator[None]:
    """Let a stage change files of a finished run, and vouch for them again when it ended.

    Nothing is vouched for anew where nothing was before: an unfinished run, or one that another stage left half changed.
    """
    try:
        found = read_provenance(folder)
    except ValueError:
        found = None
    take_files_out(folder)
    yield
    if found is not None and "files" in found:
        write_provenance(folder, found)
