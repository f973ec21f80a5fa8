"""The pages say what is true: their commands parse and the recipes run, their links lead somewhere, their lists are complete."""

import ast
import contextlib
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer.main
from runs import finished_run, here
from test_genome import make_genome
from test_house import ROOMS
from typer.testing import Result

import mi_duck
from cli import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", *(f"{folder}/README.md" for folder in ("mi_duck", "sql", "benchmarks", "tests")))
CODE = ("mi_duck", "tests", "benchmarks", "sql")
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
MOST_WORDS = 1300
QUICK = ("--threads", "1", "--n-estimators", "4", "--n-folds", "2", "--minimal-diagnostics", "--skip-shap")
"""Flags that make the runs of the recipes small; they stand last, so they win over those of the page."""
SMALLER = {
    "run": QUICK,
    "cv": ("--threads", "1", "--n-folds", "2", "--minimal-diagnostics"),
    "blend": ("--minimal-diagnostics",),
    "distil": ("--threads", "1", "--trees", "3"),
}
PYTHON_QUICK = {"threads": 1, "n_estimators": 4, "n_folds": 2, "minimal_diagnostics": True}
"""The same for the recipe in Python, whose importances need SHAP values."""
SBATCH = "#!/bin/sh\necho 4711\n"


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def prose_of(page: str) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.M | re.S)


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(page), flags=re.M | re.S)


def lines_of(page: str) -> list[list[str]]:
    """Return the words of every line of the blocks of shell, joined where a line goes on, without comments."""
    text = "".join(blocks(page, "sh")).replace("\\\n", " ")
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def spans() -> Iterator[tuple[str, list[str]]]:
    """Yield the page and the words of every piece of code in a sentence or a table."""
    for page in PAGES:
        for text in re.findall(r"`([^`\n]+)`", prose_of(page)):
            with contextlib.suppress(ValueError):  # a quote of a sentence, not of a shell
                yield page, shlex.split(text)


def flags_of(command: str) -> set[str]:
    return {flag for one in COMMANDS[command].params for flag in (*one.opts, *one.secondary_opts)}


def flags_in(script: Path) -> set[str]:
    """Return what looks like a flag in the text of a script."""
    return set(re.findall(r"--[a-z][a-z-]+", script.read_text(encoding="utf-8")))


def parse(words: list[str]) -> None:
    """Do with the words of a command all but what it does; raises what is wrong."""
    parent = typer.main.get_command(app).make_context("mi-duck", ["--help"], resilient_parsing=True)
    COMMANDS[words[0]].make_context(words[0], words[1:], parent=parent)


def check_pip(words: list[str]) -> None:
    extras = tomllib.loads(text_of("pyproject.toml"))["project"]["optional-dependencies"]
    assert words[0] == "install"
    found = re.fullmatch(r"(?:\.|mi-duck)(?:\[(\w+)\])?", words[-1])
    assert found, words
    assert found[1] is None or found[1] in extras


def check_program(words: list[str]) -> None:
    """Check the script of Python or of the shell, or the files of pytest: that they exist and know their flags."""
    name, *rest = words
    if name in ("python", "sh"):
        assert (ROOT / rest[0]).is_file(), rest[0]
        given = {word for word in rest[1:] if word.startswith("--")}
        assert given <= flags_in(ROOT / rest[0]), rest[0]
        return
    assert name == "pytest"
    for word in rest:
        if "/" in word:
            assert (ROOT / word).exists(), word


@pytest.mark.parametrize(
    ("page", "words"), [pytest.param(page, words, id=shlex.join(words)) for page in PAGES for words in lines_of(page)]
)
def test_commands__of_the_pages_parse(page: str, words: list[str], tmp_path: Path) -> None:
    """Commands, flags, the kinds and ranges of their values, and the keys of a file of flags: all but what they would do."""
    name, *rest = words
    if name == "mi-duck":
        (tmp_path / "run.toml").write_text("".join(blocks(page, "toml")))  # what a page calls run.toml
        with contextlib.chdir(tmp_path):
            parse(rest)
    elif name == "make":
        assert f"\n{rest[0]}:" in text_of("Makefile")
    elif name == "pip":
        check_pip(rest)
    elif name == "export":
        assert "=" in rest[0]
    else:
        check_program(words)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("run dataset --no-such-flag", 2),
        ("run dataset --n-folds many", 2),
        ("run --n-folds 1", 2),
        ("status", 2),
        ("run dataset --out run --config wrong.toml", 78),
    ],
)
def test_commands__that_are_wrong_do_not_parse(line: str, code: int, tmp_path: Path) -> None:
    """The test above would see them."""
    (tmp_path / "wrong.toml").write_text("n-estimatorz = 3\n")
    with (
        contextlib.chdir(tmp_path),
        pytest.raises(Exception, match=r"option|valid|than|[Mm]issing|unknown key") as found,
    ):
        parse(line.split())
    assert getattr(found.value, "exit_code", None) == code


def test_sentences__name_only_commands_and_flags_that_exist() -> None:
    every = {"--help", "--install-completion"}.union(*map(flags_of, COMMANDS))
    every |= {flag for file in (ROOT / "benchmarks").glob("*.py") for flag in flags_in(file)}
    for page, words in spans():
        if words[0] == "mi-duck" and len(words) > 1 and words[1].islower() and words[1][0] != "-":
            assert words[1] in COMMANDS, f"{page}: {words}"
            known = flags_of(words[1])
        elif words[0] == "run":
            known = flags_of("run")
        else:
            known = every
        for word in words:
            if re.match(r"--[a-z]", word) and words[0] not in ("sbatch", "ruff"):
                assert word in known, f"{page}: {words}"


def test_sentences__name_only_files_that_exist() -> None:
    for page in PAGES:
        for name in re.findall(r"(?<![\w.*])([\w/]+\.(?:py|sql|sh|toml))\b", text_of(page)):
            place = [ROOT, (ROOT / page).parent, *(ROOT / folder for folder in CODE)]
            exists = any((one / name).is_file() for one in place) or (
                "/" not in name and any(any((ROOT / folder).rglob(name)) for folder in CODE)
            )
            assert exists or name in ("run.toml", "submit.sh"), f"{page}: {name}"  # what a reader or a run writes


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as repositories make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize("page", [*PAGES, "CHANGELOG.md"])
def test_links__lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        file = (ROOT / page).parent / name if name else ROOT / page
        assert file.exists(), target
        assert not anchor or anchor in anchors_of(file), target


def test_front_page__is_short_and_has_a_picture() -> None:
    words = len(prose_of("README.md").split())
    assert words <= MOST_WORDS, words
    (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text_of("README.md"))
    assert (ROOT / picture).read_bytes().startswith(b"\x89PNG")
    assert (ROOT / picture).stat().st_size < 300_000
    for page in (*PAGES[1:], "CHANGELOG.md", "CITATION.cff", "environment.yml"):
        assert f"]({page})" in text_of("README.md")


# ---- what the pages say, done ------------------------------------------------------------------------------------------


def done(words: list[str]) -> Result:
    """Run a line of a page in this process."""
    assert words[0] == "mi-duck"
    return here(*words[1:], *SMALLER.get(words[1], ()))


def visits(path: Path) -> None:
    """Write a table of patients whose outcome depends on a number, a switch and a column with gaps."""
    rng = np.random.default_rng(3)
    n = 1200
    size, smokes = rng.normal(size=n), rng.random(n) < 0.4
    ill = size + smokes + rng.normal(size=n) > 0.7
    gaps = pa.array(rng.normal(size=n), mask=rng.random(n) < 0.2)
    table = {"patient": [f"P{one % 60}" for one in range(n)], "outcome": np.where(ill, "yes", "no")}
    pq.write_table(pa.table(table | {"size": size, "smokes": smokes, "gaps": gaps}), path)


def test_front_page__does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command of it on small data, in its order, and what it says of the files and of Python."""
    make_genome(tmp_path)
    (tmp_path / "genome.fa").rename(tmp_path / "genome.fa.gz")  # what is not compressed is read as it is
    (tmp_path / "genes.gtf").rename(tmp_path / "genes.gtf.gz")
    visits(tmp_path / "visits.parquet")
    visits(tmp_path / "new_visits.parquet")
    (tmp_path / "new_dataset").symlink_to("dataset")
    (tmp_path / "other.fa.gz").symlink_to("genome.fa.gz")
    (tmp_path / "other.gtf.gz").symlink_to("genes.gtf.gz")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sbatch").write_text(SBATCH)
    (tmp_path / "bin" / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    lines = [words for words in lines_of("README.md") if words[0] == "mi-duck"]
    outputs = {shlex.join(words[1:3]): done(words).stdout for words in lines}
    assert {words[1] for words in lines} >= {"build", "run", "predict", "status", "verify", "sql"}

    assert pq.read_table("predictions.parquet").num_rows == pq.read_table("dataset/master").num_rows
    assert (tmp_path / "sites.bed").is_file()
    assert (tmp_path / "fast.miduck").is_file()
    assert {"p_no", "p_yes"} <= set(pq.read_table("risks.parquet").column_names)
    assert "0 of" in outputs["status cluster_run"]
    assert (tmp_path / "cluster_run" / "slurm" / "submit.sh").is_file()
    assert "--account=lab" in "".join(file.read_text() for file in (tmp_path / "cluster_run" / "slurm").glob("*.sh"))
    names = re.findall(r"^\| `([\w.]+)`(?:, `([\w.]+)`)? \|", prose_of("README.md"), flags=re.M)
    listed = {name for pair in names for name in pair if name}
    assert listed >= {"report.html", "metrics.csv", "run.duckdb"}
    assert all((tmp_path / "run" / name).is_file() for name in listed)

    (snippet,) = blocks("README.md", "python")
    table = pq.read_table("visits.parquet")
    x = np.column_stack([table["size"].to_numpy(), table["gaps"].to_numpy()])
    found: dict[str, Any] = {"visits": table, "X": x, "y": table["outcome"].to_numpy(), "patients": table["patient"]}
    exec(compile(snippet.replace('"outcome")', f'"outcome", **{PYTHON_QUICK})'), "README.md", "exec"), found)
    assert found["probabilities"].shape == (table.num_rows, 2)
    assert found["classifier"].classes_.tolist() == ["no", "yes"]
    assert found["run"].is_finished


@pytest.fixture(scope="module")
def finished(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make the folder of a finished run the one that pages call ``run``."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "run").symlink_to(finished_run(small_dataset, tmp_path_factory), target_is_directory=True)
    with contextlib.chdir(folder):
        yield folder / "run"


@pytest.mark.parametrize("words", lines_of("sql/README.md"), ids=shlex.join)
def test_sql_page__does_what_it_says(words: list[str], finished: Path) -> None:
    assert done(words).stdout.strip()


def test_sql_page__lists_every_table_and_column(finished: Path) -> None:
    said = {
        found[1]: set(re.findall(r"`(\w+)`", found[2]))
        for found in re.finditer(r"^\| `(\w+)` \| [^|]+ \| (.+) \|$", text_of("sql/README.md"), flags=re.M)
    }
    assert said.pop("scan_errors") == {
        "scope",
        "class",
        "threshold",
        "kind",
        "n_positions",
    }  # of datasets of 'build' alone
    real: dict[str, set[str]] = {}
    for line in here("sql", finished).stdout.split("--name")[0].splitlines()[1:]:
        name, _, columns = line.split("\t")
        real[name] = {re.sub(r"_(neither|donor|acceptor)(?=_|$)", "_CLASS", one) for one in columns.split(", ")}
    assert said == real


def test_sql_page__lists_every_file() -> None:
    said = set(re.findall(r"`(\w+)`", text_of("sql/README.md")))
    assert {file.stem for file in (ROOT / "sql").rglob("*.sql")} <= said


def test_map__lists_every_module_in_the_order_of_the_rooms() -> None:
    rooms = re.findall(r"^\| (?:ground|`(\w+)/`) \| [^|]+ \| (.+) \|$", text_of("mi_duck/README.md"), flags=re.M)
    assert [room for room, _ in rooms] == list(ROOMS)
    for room, modules in rooms:
        files = {file.stem for file in (ROOT / "mi_duck" / room).glob("*.py")} - {"__init__", "__main__"}
        said = set(re.findall(r"`([a-z_]+)`", modules))
        assert (files - said, said - files) == (set(), set()), f"mi_duck/README.md, {room or 'ground'}: new, gone"


def test_benchmarks_page__names_every_script() -> None:
    page = text_of("benchmarks/README.md")
    assert [file.name for file in (ROOT / "benchmarks").glob("bench_*.py") if file.name not in page] == []


def test_tests_page__names_only_tests_that_exist() -> None:
    names = re.findall(r"`((?:sql/)?test_\w+\.py)`", text_of("tests/README.md"))
    assert [name for name in names if not (ROOT / "tests" / name).is_file()] == []


# ---- files beside the pages ---------------------------------------------------------------------------------------------


def test_citation__has_the_version_of_the_package() -> None:
    assert f"\nversion: {mi_duck.__version__}\n" in text_of("CITATION.cff")
    assert f"## [{mi_duck.__version__}]" in text_of("CHANGELOG.md")


def test_environment__has_what_the_package_needs() -> None:
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    names = {"duckdb": "python-duckdb", "matplotlib": "matplotlib-base"}  # as conda-forge calls them
    wanted = {re.sub(r"^[\w-]+", lambda name: names.get(name[0], name[0]), one) for one in project["dependencies"]}
    listed = re.findall(r"^  - ([a-z0-9-]+[=<>].*)$", text_of("environment.yml"), flags=re.M)
    assert set(listed) == {*wanted, "python=3.11"}


def test_changelog__is_dated_with_the_latest_first() -> None:
    dates = re.findall(r"^### (\d{4}-\d\d-\d\d)$", text_of("CHANGELOG.md"), flags=re.M)
    assert dates == sorted(dates, reverse=True)
    assert dates


def test_python__of_the_pages_is_python() -> None:
    for page in PAGES:
        for block in blocks(page, "python"):
            ast.parse(block)
