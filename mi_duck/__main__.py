"""Runs the command line, wherever ``cli.py`` stands: inside an installed package or beside it in a checkout."""

import runpy
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Run ``cli.py``."""
    path = next(file for file in (HERE / "cli.py", HERE.parent / "cli.py") if file.is_file())
    runpy.run_path(str(path), run_name="__main__")


if __name__ == "__main__":
    main()
