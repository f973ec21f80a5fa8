"""The wheel holds what a run needs; the source distribution what a developer needs."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the source distribution and the wheel of this checkout; return their folder."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True, capture_output=True
    )
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack the wheel into a folder of its own."""
    (wheel,) = built.glob("*.whl")
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def call(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, "-m", "mi_duck", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_wheel__runs_from_another_folder(installed: Path, tmp_path: Path) -> None:
    """SQL files, command line and bundled data are inside; a path with a space is no obstacle."""
    folder = tmp_path / "another folder"
    folder.mkdir()
    where = call(installed, folder, "--version")
    assert (where.returncode, where.stdout.split()[0]) == (0, "mi-duck")
    assert (
        call(
            installed, folder, "synth", "--genes", "40", "--rows-per-gene", "60", "--features", "30", "--out", "data"
        ).returncode
        == 0
    )
    short = (
        "--strategy",
        "multi",
        "--genes-per-instance",
        "25",
        "--n-estimators",
        "3",
        "--skip-shap",
        "--minimal-diagnostics",
    )
    done = call(installed, folder, "run", "data", "--out", "run", *short)
    assert done.returncode == 0, done.stderr
    covered = call(installed, folder, "sql", "run", "--name", "coverage")
    assert covered.stdout.splitlines()[1].split("\t")[-1] == "1.0"
    assert (installed / "mi_duck" / "bundled" / "athaliana_chr1_start" / "SOURCE.md").is_file()


def test_wheel__holds_every_sql_file(installed: Path) -> None:
    inside = {
        file.relative_to(installed / "mi_duck" / "sql") for file in (installed / "mi_duck" / "sql").rglob("*.sql")
    }
    assert inside == {file.relative_to(ROOT / "sql") for file in (ROOT / "sql").rglob("*.sql")}
    assert inside


def test_source__holds_what_the_tests_need_and_no_environment(built: Path) -> None:
    (source,) = built.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"cli.py", "pyproject.toml", "README.md", "tests/conftest.py", "benchmarks/harness.py"} <= names
    assert {name.partition("/")[0] for name in names} & {".venv", ".ci", ".git"} == set()


def test_distributions__are_what_an_index_takes(built: Path) -> None:
    pytest.importorskip("twine")
    command = [sys.executable, "-W", "ignore", "-m", "twine", "check", "--strict", *map(str, built.iterdir())]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
