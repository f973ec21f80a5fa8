"""The rules of the house that no linter knows: who imports whom, where SQL stands, how long a module is."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mi_duck"

ROOMS = (
    "",
    *("metrics", "run", "data", "rows", "leakage", "boosting", "plan", "ensemble", "classifiers"),
    *("genome", "evaluate", "explain", "export", "report", "verify"),
    *("workflow", "executors", "api"),
)
"""The folders of the package in the order of the data, the ground first: a module imports from its own and those before it."""

READS_OTHERS = {"report", "verify"}
ANNEXES = {"genome", "evaluate", "explain", "export", "report", "verify"}
"""Folders that look at a run and hold nothing that others need; only `READS_OTHERS` import other annexes."""

PACKAGES = {
    "": {"fontTools", "matplotlib", "psutil", "rich", "threadpoolctl", "typer", "zstandard"},
    "metrics": {"numpy", "scipy", "sklearn"},
    "run": {"msgspec", "numpy", "pyarrow"},
    "data": {"duckdb", "fsspec", "numpy", "pyarrow", "scipy"},
    "rows": {"numpy", "pyarrow"},
    "leakage": {"matplotlib", "numpy", "pyarrow", "scipy"},
    "boosting": {"numpy", "pyarrow", "scipy", "xgboost"},
    "plan": {"numpy", "pyarrow"},
    "ensemble": {"msgspec", "numpy", "pyarrow", "shap", "xgboost", "scipy"},
    "classifiers": {"msgspec", "numpy", "pyarrow", "pytorch_tabnet", "skops", "sklearn", "torch"},
    "genome": {"mappy", "numpy", "pyarrow", "pybigtools"},
    "evaluate": {"numpy", "pyarrow"},
    "explain": {"matplotlib", "numpy", "pyarrow"},
    "export": {"numpy", "onnx", "onnxruntime", "xgboost"},
    "report": {"msgspec", "jinja2", "matplotlib", "numpy", "pyarrow"},
    "verify": {"msgspec", "numpy", "pyarrow", "sklearn"},
    "workflow": set(),
    "executors": {"distributed"},
    "api": {"IPython", "numpy", "pyarrow", "sklearn"},
}
"""Packages that the modules of a folder may use."""

INSIDE_FUNCTIONS = {
    "sklearn": "slow to import",
    "shap": "slow to import, and optional",
    "skops": "optional",
    "torch": "slow to import, and optional",
    "pytorch_tabnet": "optional, and imports PyTorch",
    "mappy": "optional",
    "onnx": "optional",
    "fsspec": "optional",
    "onnxruntime": "optional",
    "fontTools": "slow to import; matplotlib brings it",
    "matplotlib": "slow to import",
    "jinja2": "only the page needs it",
}
AT_THE_TOP = {("mi_duck/api/classifier.py", "sklearn"): "its class is one of scikit-learn's; loaded when it is named"}
LONGEST = 600
LONGER: dict[str, tuple[int, str]] = {
    "cli.py": (700, "one short function a command; options are declarations"),
}
"""Files that may be longer, how long, and why; a line that is no longer needed must go."""

PICKLES = {
    "mi_duck/export/export.py": {"pickle.Pickler"},
    "mi_duck/classifiers/own_objects.py": {"pickle.dumps", "pickle.loads"},
}
"""Modules that may write a pickle, or read one that the user trusts, and what of pickle they use."""

SQL_IN_PYTHON = {
    "mi_duck/data/database.py": "owns the connection",
}
"""Modules that may hold SQL, and why."""

TOP_LEVEL = {
    *("pyproject.toml", "environment.yml", "Makefile", "README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE"),
    *("mi_duck", "sql", "tests", "benchmarks", "cli.py"),
}

SOURCES = sorted([*PACKAGE.rglob("*.py"), ROOT / "cli.py"])


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the full name of every imported module, at the top or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a module comes from"
            if node.module == "mi_duck" or (PACKAGE.parent / str(node.module).replace(".", "/")).is_dir():
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield str(node.module)


def room_of(module: str) -> str:
    """Return the folder of a module of the package, empty for one that stands in none."""
    parts = module.split(".")
    return parts[1] if (PACKAGE / parts[1]).is_dir() else ""


def test_folders__are_rooms_with_a_sentence() -> None:
    """The module of a folder says what the folder does and holds nothing else; no module is a drawer for the rest."""
    folders = {file.parent.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*.py")} - {"."}
    assert folders == set(ROOMS) - {""}
    for folder in folders:
        assert len(tree_of(PACKAGE / folder / "__init__.py").body) == 1
    names = {file.stem for file in PACKAGE.rglob("*.py")}
    assert not names & {"utils", "common", "base", "helpers", "misc", "sql", "cli"}


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=name_of)
def test_module__imports_only_from_its_folder_and_those_before_it(file: Path) -> None:
    room = "" if file.parent == PACKAGE else file.parent.name
    for name in imports(tree_of(file)):
        package = name.partition(".")[0]
        if package == "mi_duck":
            other = room_of(name)
            assert ROOMS.index(other) <= ROOMS.index(room), f"{name} stands after {room or 'the ground'}"
            if room in ANNEXES - READS_OTHERS and other != room:
                assert other not in ANNEXES, f"{room} and {other} look at a run, not at each other"
        elif package not in sys.stdlib_module_names:
            assert package in PACKAGES[room], f"{name_of(file)} may not import {package}"


def test_imports__make_no_circle() -> None:
    """Also within a folder."""
    graph = {}
    for file in PACKAGE.rglob("*.py"):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        graph[module] = {name for name in imports(tree_of(file)) if name.startswith("mi_duck.")} - {module}
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


def test_imports__of_slow_packages_stand_inside_functions() -> None:
    for file in SOURCES:
        body = [node for node in tree_of(file).body if isinstance(node, ast.Import | ast.ImportFrom)]
        for name in imports(ast.Module(body=body, type_ignores=[])):
            package = name.partition(".")[0]
            is_known = (name_of(file), package) in AT_THE_TOP
            assert is_known or package not in INSIDE_FUNCTIONS, f"{name_of(file)} imports {name} at the top"


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_source__runs_no_code_from_data(file: Path) -> None:
    """Pickle and its kind, and text that is run; the export writes a pickle and reads none.

    One module reads a pickle, where the user says so: a classifier of their own that nothing else can hold.
    """
    tree = tree_of(file)
    runs_code = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "pandas"} & set(imports(tree))
    allowed = PICKLES.get(name_of(file), set())
    assert runs_code == ({"pickle"} if allowed else set())
    used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert {name for name in used if name.startswith("pickle.")} <= allowed
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"eval", "exec", "__import__", "os.system", "os.popen"}
            assert not any(keyword.arg in {"allow_pickle", "shell"} for keyword in node.keywords), called


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_source__catches_no_unknown_error(file: Path) -> None:
    """Except to clean up and raise it again; the command line turns a bug into exit code 70."""
    if file.name in ("cli.py", "console.py"):
        return
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.ExceptHandler):
            caught = "all" if node.type is None else ast.unparse(node.type)
            last = node.body[-1]
            raises_again = isinstance(last, ast.Raise) and last.exc is None
            assert raises_again or not re.search(r"\b(all|Exception|BaseException)\b", caught), f"line {node.lineno}"


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_source__keeps_sql_in_its_folder(file: Path) -> None:
    """A string that begins like a statement is one, outside docstrings and the module that owns the connection."""
    if name_of(file) in SQL_IN_PYTHON:
        return
    statement = re.compile(
        r"\s*(select\s|from\s+[\w\"{}.]+\s+(where|limit|select|join)\b|with\s+\w+\s+as\s*\(|insert\s+into\s|delete\s+from\s"
        r"|create\s+(or\s+replace\s+)?(temp\w*\s+)?(table|view)\s|drop\s+(table|view)\s|copy\s+\S+\s+to\s|attach\s+')",
        re.IGNORECASE,
    )
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{x}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        assert not statement.match(text), f"line {node.lineno}: {text}"


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_source__says_what_it_is_and_is_short(file: Path) -> None:
    assert ast.get_docstring(tree_of(file)), "no module docstring"
    n_lines = len(file.read_text(encoding="utf-8").splitlines())
    longest, _ = LONGER.get(name_of(file), (LONGEST, ""))
    assert n_lines <= longest, "split it along a noun"
    assert n_lines > LONGEST or name_of(file) not in LONGER, "take its line out of the table"


def test_text__leaves_nothing_for_later() -> None:
    files = [
        *SOURCES,
        *(ROOT / "sql").rglob("*.sql"),
        *(ROOT / "tests").rglob("*.py"),
        *(ROOT / "benchmarks").rglob("*.py"),
    ]
    for file in files:
        if file != Path(__file__).resolve():
            assert not re.search(r"\b(TODO|FIXME|XXX)\b", file.read_text(encoding="utf-8")), name_of(file)


DIALECT = (
    *(r"chances", r"surprise", r"bend", r"dearer", r"too dear", r"kin", r"[Cc]arriers?", r"Crew"),
    *(r"had_company", r"call_off", r"called off", r"take_files_out", r"relisted", r"last words"),
    *(r"genes a piece", r"rows a gene", r"genes an instance", r"rows a class", r"a second of a"),
    *(r"(?<![Tt]here )is no (?:plan|model|number|feature|folder|file|byte)", r"tells the label", r"by its making"),
)
"""Words that readers from the field would stop at; each has a standard one."""


def test_text__uses_the_words_of_the_field() -> None:
    files = [*SOURCES, *(ROOT / "sql").rglob("*.sql"), *PACKAGE.rglob("*.j2"), *(ROOT / "benchmarks").rglob("*.py")]
    files += [
        *ROOT.glob("*.md"),
        *(file for folder in ("mi_duck", "sql", "tests") for file in (ROOT / folder).glob("*.md")),
    ]
    for file in files:
        found = re.search(rf"\b({'|'.join(DIALECT)})\b", file.read_text(encoding="utf-8"))
        assert not found, f"{name_of(file)}: {found[0]}"


def test_tests__are_named_subject_and_what_holds() -> None:
    for file in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                assert re.fullmatch(r"test_[a-z0-9_]+?__[a-z0-9_]+", node.name), f"{name_of(file)}: {node.name}"


def test_top_level__holds_nothing_else() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    names = {path.split("/")[0] for path in listed.stdout.split("\0") if path}
    assert {name for name in names if not name.startswith(".")} <= TOP_LEVEL


def loaded_by(modules: str, among: set[str]) -> set[str]:
    """Return which packages a fresh interpreter has loaded after importing modules."""
    code = f"import sys, {modules}; print(*{among!r} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


def test_package__imports_nothing_slow_by_itself() -> None:
    """A child process imports only what it needs."""
    assert loaded_by("mi_duck", {"duckdb", "numpy", "pyarrow", "sklearn", "xgboost"}) == set()


def test_commands__leave_xgboost_to_child_processes() -> None:
    """What plans, trains and tells needs 85 MB by itself, with XGBoost and what that loads 227."""
    modules = "mi_duck.workflow.pipeline, mi_duck.workflow.views, mi_duck.plan.make_plan, mi_duck.plan.memory_report"
    assert loaded_by(modules, {"xgboost", "sklearn", "pandas", "matplotlib"}) == set()
