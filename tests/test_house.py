"""The rules of the house that no linter knows: who imports whom, where SQL stands, how long a module is."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "mi_duck"

MODULES: dict[str, set[str]] = {
    # the errors a user can meet
    "errors": set(),
    # files, whole or absent
    "checkpoint": {"zstandard"},
    # from a file to the values of flags
    "config": set(),
    "options": {"typer"},
    # from genome to dataset
    "genome.sequence": {"numpy"},
    "genome.loci": {"numpy"},
    "genome.annotation": set(),
    "genome.candidates": {"numpy"},
    "genome.base_scores": {"numpy"},
    "genome.score_file": {"numpy", "pyarrow"},
    "genome.survey": {"numpy"},
    "genome.features": {"numpy"},
    "genome.columns": {"numpy", "pyarrow"},
    "genome.parts": {"numpy", "pyarrow"},
    "genome.build": {"numpy", "pyarrow"},
    "genome.synthetic_rows": {"numpy"},
    "genome.synthetic": {"numpy", "pyarrow"},
    # from dataset to plan
    "data.stores": {"fsspec", "pyarrow"},
    "data.files": {"pyarrow"},
    "database": {"duckdb", "pyarrow"},
    "data.dataset": {"pyarrow"},
    "data.held_out": set(),
    "resources": {"psutil"},
    "plan.memory": set(),
    "plan.filling": set(),
    "plan.windows": {"numpy"},
    "plan.plan": {"numpy"},
    "plan.gpu": set(),
    "plan.splitting": {"numpy"},
    "plan.timing": set(),
    "plan.strategies": {"numpy"},
    "folders": set(),
    "provenance": set(),
    "locks": set(),
    "absent": set(),
    "children": {"psutil"},
    "workers": set(),
    "room": set(),
    "data.genes": {"pyarrow"},
    "data.ordering": {"numpy", "pyarrow"},
    "data.clustering": {"numpy", "pyarrow"},
    "data.prepare": {"numpy", "pyarrow"},
    "data.separation": {"numpy"},
    "data.suspicion": set(),
    "data.equality": {"numpy"},
    "data.gene_sample": {"numpy", "pyarrow"},
    # from plan to model
    "train.encoding": {"numpy"},
    "train.ubjson": {"numpy"},
    "train.forest": {"numpy", "xgboost"},
    "train.segments": {"numpy"},
    "train.partition": {"numpy", "pyarrow"},
    "train.batches": {"numpy", "scipy", "xgboost"},
    "train.calibrate": {"numpy", "sklearn"},
    "train.ranking": {"numpy"},
    "train.evaluate": {"numpy"},
    "train.instance_state": set(),
    "train.instances": {"numpy", "pyarrow"},
    "train.boosters": {"numpy", "xgboost"},
    "train.progress": {"numpy", "xgboost"},
    "train.train": {"numpy", "xgboost"},
    "explain.explained": set(),
    "explain.estimates": {"numpy"},
    "explain.kmers": {"numpy"},
    "explain.tree_shap": {"numpy", "shap", "xgboost"},
    "explain.contributions": {"numpy", "xgboost"},
    "ensemble.matrix": {"numpy", "pyarrow"},
    "ensemble.ensemble": {"numpy", "xgboost"},
    "ensemble.booster_check": {"numpy"},
    "ensemble.model_check": set(),
    "ensemble.model_files": {"xgboost"},
    "ensemble.merge": {"numpy", "xgboost"},
    "ensemble.onnx_graph": {"numpy", "onnx", "onnxruntime", "xgboost"},
    "ensemble.member_scores": {"numpy", "pyarrow"},
    "ensemble.thresholds": {"numpy"},
    "ensemble.weights": {"numpy"},
    "ensemble.variants": {"numpy"},
    "ensemble.out_of_fold": {"numpy", "pyarrow"},
    "ensemble.joining": set(),
    "ensemble.scored_rows": {"numpy"},
    "ensemble.comparison": {"numpy"},
    "ensemble.calibration_report": {"numpy"},
    "ensemble.curve_points": {"numpy"},
    "ensemble.neighbours": {"numpy"},
    "ensemble.score_files": {"numpy", "pyarrow"},
    "ensemble.scoring": {"numpy"},
    "ensemble.versus": {"numpy", "pyarrow"},
    "ensemble.holdout": {"numpy", "pyarrow"},
    "ensemble.parts": {"pyarrow"},
    "ensemble.predict": {"numpy", "pyarrow"},
    "catalogue": {"pyarrow"},
    # from a finished run to what people read
    "report.canvas": {"matplotlib"},
    "report.leakage_plot": set(),
    "report.plots": {"matplotlib"},
    "report.fold_scores": {"numpy"},
    "report.unseen": {"numpy", "pyarrow"},
    "report.importance": {"matplotlib"},
    "report.instance_files": {"numpy", "pyarrow"},
    "report.records": set(),
    "report.summary": {"pyarrow"},
    "report.overfitting": set(),
    "report.curves": set(),
    "report.cautions": set(),
    "report.tables": set(),
    "report.page": {"jinja2", "matplotlib"},
    "export": {"numpy", "xgboost"},
    "explain.rows": {"numpy", "pyarrow"},
    "explain.figures": {"matplotlib", "numpy"},
    "explain.tables": {"numpy"},
    "explain.files": {"matplotlib", "numpy"},
    # the order of all steps
    "stages": set(),
    "jobs": set(),
    "explain.analysis": {"numpy"},
    "plan.probes": {"numpy"},
    "plan.choices": {"numpy", "pyarrow"},
    "data.inspection": {"numpy", "pyarrow"},
    "data.leakage": {"numpy"},
    "plan.planning": {"numpy", "pyarrow"},
    "plan.measuring": {"numpy"},
    "request": set(),
    "pipeline": set(),
    "runs": set(),
    # where instances are trained
    "executors.array_index": set(),
    "executors.slurm_scripts": set(),
    "executors.slurm": set(),
    "executors.dask_workers": {"distributed"},
    # what of a run's claims holds
    "verify.findings": {"pyarrow"},
    "verify.subject": set(),
    "verify.genes": {"pyarrow"},
    "verify.scored": {"numpy", "pyarrow"},
    "verify.members": {"pyarrow"},
    "verify.consolidated": {"numpy"},
    "verify.scores": {"numpy", "pyarrow", "sklearn"},
    "verify.inventory": set(),
    "verify.source": {"pyarrow"},
    "verify.verify": set(),
    "demo": set(),
    # what commands show
    "views": set(),
}
"""Every module in the order of the data, with the packages it may use: it imports only modules above it."""

ANYWHERE = {
    "__init__": "names the public objects and loads each from its home when it is first used",
    "__main__": "runs cli.py",
}
INSIDE_FUNCTIONS = {
    "sklearn": "slow to import",
    "shap": "slow to import, and optional",
    "onnx": "optional",
    "fsspec": "optional",
    "onnxruntime": "optional",
    "matplotlib": "slow to import",
    "jinja2": "only the page needs it",
}
LONGEST = 400
LONGER: dict[str, tuple[int, str]] = {
    "cli.py": (1300, "one short function a command; options are declarations"),
}
"""Files that may be longer, how long, and why; a line that is no longer needed must go."""

SQL_IN_PYTHON = {
    "mi_duck/database.py": "owns the connection",
    "mi_duck/catalogue.py": "counts the rows of every table of a run; to be moved to database.py",
}
"""Modules that may hold SQL, and why."""

TOP_LEVEL = {"pyproject.toml", "README.md", "mi_duck", "sql", "tests", "benchmarks", "cli.py", "Makefile", "LICENSE"}

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


def test_modules__stand_in_the_table() -> None:
    """Those of a stage lie in its folder, whose own module says what the stage does and nothing else."""
    files = {file.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".") for file in PACKAGE.rglob("*.py")}
    stages = {module.partition(".")[0] for module in MODULES if "." in module}
    assert files == set(MODULES) | set(ANYWHERE) | {f"{stage}.__init__" for stage in stages}
    assert not {name.rpartition(".")[2] for name in files} & {"utils", "common", "base", "helpers", "sql", "cli"}
    for stage in stages:
        assert len(tree_of(PACKAGE / stage / "__init__.py").body) == 1


@pytest.mark.parametrize("module", MODULES)
def test_module__imports_only_what_stands_above_it(module: str) -> None:
    order = list(MODULES)
    above = set(order[: order.index(module)])
    for name in imports(tree_of(PACKAGE / f"{module.replace('.', '/')}.py")):
        package, _, inner = name.partition(".")
        if package == "mi_duck":
            assert inner in above | {"__version__"}, f"{module} imports {inner}, which does not stand above it"
        elif package not in sys.stdlib_module_names:
            assert package in MODULES[module], f"{module} may not import {package}"


def test_imports__of_slow_packages_stand_inside_functions() -> None:
    for file in SOURCES:
        body = [node for node in tree_of(file).body if isinstance(node, ast.Import | ast.ImportFrom)]
        for name in imports(ast.Module(body=body, type_ignores=[])):
            assert name.partition(".")[0] not in INSIDE_FUNCTIONS, f"{name_of(file)} imports {name} at the top"


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_source__runs_no_code_from_data(file: Path) -> None:
    """Pickle and its kin, and text that is run; the export writes a pickle and reads none."""
    tree = tree_of(file)
    runs_code = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "pandas"} & set(imports(tree))
    assert runs_code == ({"pickle"} if name_of(file) == "mi_duck/export.py" else set())
    used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert {name for name in used if name.startswith("pickle.")} <= {"pickle.Pickler"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"eval", "exec", "__import__", "os.system", "os.popen"}
            assert not any(keyword.arg in {"allow_pickle", "shell"} for keyword in node.keywords), called


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_source__catches_no_unknown_error(file: Path) -> None:
    """Except to clean up and raise it again; the command line turns a bug into exit code 70."""
    if file.name == "cli.py":
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
    modules = "mi_duck.pipeline, mi_duck.runs, mi_duck.views, mi_duck.plan.planning, mi_duck.plan.measuring"
    assert loaded_by(modules, {"xgboost", "sklearn", "pandas", "matplotlib"}) == set()
