"""Reads the comment at the top of a file in ``sql/``: what its table is, from what, and of which columns."""

import re
from dataclasses import dataclass

from mi_duck.data.database import sql_folder


@dataclass(frozen=True)
class Header:
    """Name and sentence; grain and columns that may be null; what is read; parameters; columns with their types."""

    name: str
    sentence: str
    grain: tuple[str, ...]
    nulls: tuple[str, ...]
    reads: str
    params: tuple[str, ...]
    columns: dict[str, str]


def sql_files(*folders: str) -> list[str]:
    """Return the names by which `Database` knows the files of these folders of ``sql/``."""
    root = sql_folder()
    return [str(file.relative_to(root).with_suffix("")) for folder in folders for file in sorted(root.glob(folder))]


def text_of(name: str) -> str:
    """Return the text of ``sql/<name>.sql``."""
    return (sql_folder() / f"{name}.sql").read_text(encoding="utf-8")


def code_of(name: str) -> str:
    """Return the same without comments and with every string literal empty."""
    return re.sub(r"'[^']*'", "''", re.sub(r"--.*", "", text_of(name)))


def header_of(name: str) -> Header:
    """Return the header of ``sql/<name>.sql``; only ``-- key: value`` lines and their continuations count."""
    lines = text_of(name).splitlines()
    first = re.fullmatch(r"-- (\w+): (.+)", lines[0])
    assert first, f"{name}: the first line must read '-- name: sentence'"
    parts: dict[str, list[str]] = {}
    key = ""
    for line in lines[1:]:
        if not line.startswith("--"):
            break
        found = re.fullmatch(r"-- (grain|nulls|reads|params|columns):\s*(.*)", line)
        if found:
            key = found[1]
            parts[key] = [found[2]] if found[2] else []
        elif key:
            parts[key].append(line.removeprefix("--").strip())
    assert list(parts) in (["grain", "reads", "params", "columns"], ["grain", "nulls", "reads", "params", "columns"])
    return Header(
        name=first[1],
        sentence=first[2],
        grain=_words(parts["grain"]),
        nulls=_words(parts.get("nulls", [])),
        reads=" ".join(parts["reads"]),
        params=tuple(line.split()[0].removeprefix("$") for line in parts["params"]),
        columns={line.split()[0]: line.split()[1] for line in parts["columns"]},
    )


def _words(lines: list[str]) -> tuple[str, ...]:
    return tuple(word.strip() for line in lines for word in line.split(",") if word.strip())
