"""Where the SQL files are, and the named queries among them."""

from pathlib import Path

HERE = Path(__file__).resolve().parent


def sql_folder() -> Path:
    """Return the folder of the SQL files: inside an installed package, or beside it in a checkout."""
    return next(folder for folder in (HERE.parent / "sql", HERE.parent.parent / "sql") if folder.is_dir())


def named_queries() -> dict[str, str]:
    """Return the queries that ``mi-duck sql --name`` knows: name to the first sentence of its header."""
    found = {}
    for file in sorted((sql_folder() / "named").glob("*.sql")):
        with file.open(encoding="utf-8") as lines:
            found[file.stem] = lines.readline().removeprefix("--").strip().removeprefix(f"{file.stem}: ")
    return found


def named_text(name: str) -> str:
    """Return the SQL of a named query."""
    return (sql_folder() / "named" / f"{name}.sql").read_text(encoding="utf-8")
