"""Commands: help, flags, exit codes, one line for what the user can mend, and nothing half-written."""

import contextlib
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer.main
from runs import (
    COMMAND,
    FAST,
    SMALL,
    assert_refused,
    call,
    call_children,
    contents,
    finished_run,
    here,
    mi_duck,
    partitioned,
    planned,
)
from test_bad_inputs import every, good

from cli import app
from mi_duck import __version__
from mi_duck.errors import RunBusyError
from mi_duck.run.folder import RunFolder, instance_lock, run_lock
from mi_duck.run.instance_folder import write_lost
from mi_duck.run.plan import Plan

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def run(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(small_dataset, tmp_path_factory)


# ---- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help__of_every_command_has_an_example(name: str) -> None:
    for flag in ("--help", "-h"):
        result = call(name, flag)
        assert result.exit_code == 0
        assert f"mi-duck {name}" in " ".join(result.stdout.split())
        assert "Example" in result.stdout


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help__of_every_option_says_something(name: str) -> None:
    for parameter in COMMANDS[name].params:
        assert parameter.name == "help" or (parameter.help and parameter.help[0].isupper()), parameter.name


def test_help__of_all_lists_the_commands() -> None:
    result = call("--help")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in COMMANDS)
    assert call("--version").stdout.strip() == f"mi-duck {__version__}"


def test_module_and_script__are_the_same_command(tmp_path: Path) -> None:
    for command in (COMMAND, [COMMAND[0], "-m", "mi_duck"]):
        options: dict[str, Any] = {"cwd": Path(COMMAND[1]).parent} if "-m" in command else {"cwd": tmp_path}
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False, **options)
        assert (done.returncode, done.stdout) == (0, f"mi-duck {__version__}\n")


# ---- every flag acts --------------------------------------------------------------------------------------------------

BASE = ("--strategy", "multi", "--genes-per-instance", "24", "--threads", "1", "--max-memory-per-instance-gb", "2")


def setting(name: str) -> Callable[[Plan], Any]:
    return lambda plan: getattr(plan.settings, name)


field = attrgetter


def shape(plan: Plan) -> Any:
    return [(one.first_rank, one.stop_rank) for one in plan.cut.instances]


# flag, value, what of the plan it changes, what that becomes (None: something else than before)
ACTS: dict[str, tuple[tuple[str, ...], Callable[[Plan], Any], Any]] = {
    "--n-estimators": (("7",), setting("n_estimators"), 7),
    "--n-folds": (("4",), setting("n_folds"), 4),
    "--early-stopping-patience": (("3",), setting("early_stopping_patience"), 3),
    "--max-depth": (("3",), setting("max_depth"), 3),
    "--learning-rate": (("0.25",), setting("learning_rate"), 0.25),
    "--max-bin": (("32",), setting("max_bin"), 32),
    "--xgb": (
        ("lambda=2",),
        setting("xgb_parameters"),
        ("min_child_weight=2.634", "reg_lambda=2.0"),
    ),
    "--no-calibrate-per-class": ((), setting("calibrate"), False),
    "--calibrate-per-class": (("--no-calibrate-per-class", "--calibrate-per-class"), setting("calibrate"), True),
    "--seed": (("1",), field("data.genes_sha256"), None),
    "--sample-genes": (("40",), field("data.n_genes"), 40),
    "--genes-per-instance": (("15",), lambda plan: len(plan.cut.instances), 5),
    "--max-instances": (("4", "--genes-per-instance", "10"), lambda plan: len(plan.cut.instances), 4),
    "--instance-overlap": (("0.5",), field("cut.overlap_genes"), None),
    "--strategy": (("single",), field("cut.strategy_used"), "single"),
    "--layout": (("zeros",), setting("layout_used"), "zeros"),
    "--cv": (
        ("matrices", "--exclude", r"^(?!\d+mer_|(donor|acceptor|neither)_score$)"),
        setting("cv_used"),
        "matrices",
    ),
    "--sample-negatives": (("0.3",), lambda plan: plan.cut.instances[0].n_training_rows, None),
    "--screen-features": (("10",), lambda plan: 10 <= len(plan.data.features) <= 13, True),
    "--memory-per-gene-mb": (("50",), lambda plan: plan.cut.instances[0].predicted_bytes, None),
    "--max-memory-per-instance-gb": (("1.5",), field("cut.budget.budget_bytes"), 3 << 29),
    # on other machines the number of the user is the budget, whatever this one has
    "--executor": (("slurm", "--max-memory-per-instance-gb", "1000"), field("cut.budget.budget_bytes"), 1000 << 30),
    "--dask-scheduler": (
        ("tcp://127.0.0.1:1", "--executor", "dask", "--max-memory-per-instance-gb", "1000"),
        field("cut.budget.budget_bytes"),
        1000 << 30,
    ),
    "--memory-safety-factor": (("0.05",), field("cut.budget.won"), None),
    "--exclude": (("^5mer",), lambda plan: [name for name in plan.data.features if name.startswith("5mer")], []),
    "--base-score-columns": (("neither_score,acceptor_score,donor_score",), field("data.base_scores"), None),
    "--fold-by": (("gene_id",), field("data.fold_column"), "gene_id"),
    "--consolidation": (("voting",), lambda plan: plan.asked.consolidation, "voting"),
    "--voting": (("margin",), lambda plan: plan.asked.voting, "margin"),
    "--weights": (("auto",), lambda plan: plan.asked.weights, "auto"),
    "--full-hash": ((), field("data.full_hash"), True),
    "--holdout-genes": (
        ("0.2",),
        lambda plan: plan.data.n_genes + plan.data.n_holdout_genes == 60 > plan.data.n_genes,
        True,
    ),
}
ELSEWHERE = {
    "--auto-exclude-leaky": "test_leakage",
    "--slurm-options": "test_executors",
    "--preset": "test_preset in test_config",
    "--threads": "test_flags__threads_count_in_memory",
    "--workers": "test_workers",
    "--skip-shap": "test_explain_analysis",
    "--shap-sample": "test_explain_analysis",
    "--shap-background": "test_explain_analysis",
    "--figure-format": "test_figure_format",
    "--help": "test_help",
    "-h": "test_help",
    "--json": "test_json",
    "--config": "test_config",
    "--verbose": "test_verbose",
    "--quiet": "test_quiet",
    "--max-levels": "test_levels",
    "--date-columns": "test_dates",
    "--keep": "test_kept",
    "--weight-column": "test_weight_column",
    "--dry-run": "test_dry_run",
    "--dataset": "test_names_of_the_seeds",
    "--out": "every test",
    "--out-dir": "test_names_of_the_seeds",
    "--gene-column": "test_columns",
    "--group-column": "test_columns",
    "--label-column": "test_columns",
    "--classes": "test_columns",
    "--exclude-features": "test_exclude_features",
    "--train-all-genes": "test_train_all_genes",
    "--auto-adjust-instance-size": "test_auto_adjust",
    "--no-auto-adjust-instance-size": "test_auto_adjust",
    "--resume-from-checkpoint": "test_pipeline",
    "--no-resume-from-checkpoint": "test_pipeline",
    "--force-retrain-all": "test_pipeline",
    "--replace": "test_replace",
    "--group-identical": "test_identical",
    "--minimal-diagnostics": "test_instance_files",
    "--calibration-analysis": "test_scoring",
    "--no-calibration-analysis": "test_scoring",
    "--neigh-sample": "test_scoring",
    "--true-rate-genes": "test_true_rate",
    "--holdout": "test_held_out, the same as --holdout-genes",
    "--monitor-overfitting": "test_page",
    "--no-monitor-overfitting": "test_page",
    "--device": "test_gpu",
}


@pytest.fixture(scope="module")
def plain(lean_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Plan:
    out = tmp_path_factory.mktemp("plain") / "run"
    assert call("plan", lean_dataset, "--out", out, *BASE).exit_code == 0
    return RunFolder(out).read_plan()


def test_flags__every_one_of_plan_and_run_is_tested() -> None:
    for name in ("plan", "run"):
        flags = {flag for one in COMMANDS[name].params for flag in (*one.opts, *one.secondary_opts) if flag[0] == "-"}
        assert flags - set(ACTS) - set(ELSEWHERE) == set()


@pytest.mark.parametrize("flag", sorted(ACTS))
def test_flags__each_changes_the_plan(flag: str, lean_dataset: Path, plain: Plan, tmp_path: Path) -> None:
    values, read, expected = ACTS[flag]
    extra = ("--max-memory-per-instance-gb", "1000000") if flag == "--memory-safety-factor" else ()
    arguments = values if values and values[0].startswith("--") else (flag, *values)
    result = call("plan", lean_dataset, "--out", tmp_path / "run", *BASE, *extra, *arguments)
    assert result.exit_code == 0, result.output
    found = read(RunFolder(tmp_path / "run").read_plan())
    if flag != "--calibrate-per-class":
        assert found != read(plain)
    if expected is not None:
        assert found == expected


def test_flags__threads_count_in_memory(small_dataset: Path, tmp_path: Path) -> None:
    """Every thread has histograms of its own, which deep trees make the largest part."""
    predicted = []
    for threads in ("1", "64"):
        out = tmp_path / threads
        flags = ("--strategy", "single", "--max-depth", "14", "--max-memory-per-instance-gb", "12")
        result = call("plan", small_dataset, "--out", out, *flags, "--threads", threads)
        assert result.exit_code == 0, result.output
        predicted.append(RunFolder(out).read_plan().cut.instances[0].predicted_bytes)
    assert predicted[0] < predicted[1]


def test_flags__settings_change_the_trained_models(small_dataset: Path, run: Path, tmp_path: Path) -> None:
    """One instance trained with other settings: they reach the boosters, not the plan alone."""
    flags = ("--n-estimators", "3", "--max-depth", "1", "--max-bin", "4", "--no-calibrate-per-class", "--n-folds", "2")
    out = planned(small_dataset, tmp_path / "run", *flags, "--early-stopping-patience", "0")
    assert call("train", out, "--instance", "1", "--threads", "1").exit_code == 0
    where = out / "multi_instance_training" / "instance_01"
    assert not (where.parent / "instance_00").exists()
    assert {line.split(",")[0] for line in (where / "gene_cv_metrics.csv").read_text().splitlines()[1:]} == {"0", "1"}
    calibration = json.loads((where / "calibration.json").read_bytes())
    assert {one["method"] for one in calibration.values()} == {"none"}
    assert (where / "model_multiclass.miduck").stat().st_size < 10_000


def test_names_of_the_seeds__are_accepted(lean_dataset: Path, plain: Plan, tmp_path: Path) -> None:
    result = call("plan", "--dataset", lean_dataset, "--out-dir", tmp_path / "run", *BASE)
    assert result.exit_code == 0
    assert shape(RunFolder(tmp_path / "run").read_plan()) == shape(plain)
    twice = call("plan", lean_dataset, "--dataset", lean_dataset, "--out", tmp_path / "b")
    assert_refused(twice, 2, "name the dataset once")
    assert_refused(call("plan", "--out", tmp_path / "b"), 2, "missing DATASET")
    assert_refused(call("run", lean_dataset), 2, "missing --out RUN")


def test_columns__gene_label_and_classes_may_have_other_names(lean_dataset: Path, plain: Plan, tmp_path: Path) -> None:
    rows = pq.read_table(lean_dataset / "master")
    label = pa.array([plain.data.classes.index(text) for text in rows["splice_type"].to_pylist()])
    rows = rows.drop_columns(["splice_type"]).append_column("y", label).rename_columns({"gene_id": "locus"})
    (tmp_path / "data").mkdir()
    pq.write_table(rows, tmp_path / "data" / "a.parquet")
    flags = ("--gene-column", "locus", "--label-column", "y", "--classes", "none, five, three")
    result = call("plan", tmp_path / "data", "--out", tmp_path / "run", *BASE, *flags)
    assert result.exit_code == 0, result.output
    made = RunFolder(tmp_path / "run").read_plan()
    assert (made.data.gene_column, made.data.label_column, made.data.classes) == (
        "locus",
        "y",
        ("none", "five", "three"),
    )
    assert shape(made) == shape(plain)
    again = call("plan", tmp_path / "data", "--out", tmp_path / "again", *BASE, "--group-column", *flags[1:])
    assert again.exit_code == 0, again.output
    assert RunFolder(tmp_path / "again").read_plan() == made


def test_exclude__that_matches_no_column_is_refused(lean_dataset: Path, plain: Plan, tmp_path: Path) -> None:
    """A mistyped pattern would train on the column that it is to leave out."""
    name = plain.data.features[0]
    result = call("plan", lean_dataset, "--out", tmp_path / "run", *BASE, "--exclude", f"^{name}x$")
    assert result.exit_code == 65, result.output
    assert f"--exclude '^{name}x$' matches no column; did you mean '{name}'?" in result.stderr
    assert not (tmp_path / "run").exists()


def test_exclude_features__names_columns_in_a_file(lean_dataset: Path, plain: Plan, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text(f"# two\n{plain.data.features[0]}\n\n{plain.data.features[5]}\n")
    result = call("plan", lean_dataset, "--out", tmp_path / "run", *BASE, "--exclude-features", tmp_path / "names.txt")
    assert result.exit_code == 0
    left = set(plain.data.features) - set(RunFolder(tmp_path / "run").read_plan().data.features)
    assert left == {plain.data.features[0], plain.data.features[5]}
    assert "--exclude-features" in result.stderr  # the list is printed


@pytest.fixture(scope="module")
def many_genes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of 1,600 genes of six rows and one feature."""
    folder = tmp_path_factory.mktemp("many")
    n = 9_600
    columns = {
        "gene_id": [f"g{number // 6}" for number in range(n)],
        "splice_type": [("neither", "donor", "acceptor")[number % 3] for number in range(n)],
        "x": np.random.default_rng(0).normal(size=n),
    }
    pq.write_table(pa.table(columns), folder / "a.parquet")
    return folder


def test_train_all_genes__excludes_a_sample_of_the_command_line_and_of_a_file(many_genes: Path, tmp_path: Path) -> None:
    assert call("plan", many_genes, "--out", tmp_path / "a", "--train-all-genes").exit_code == 0
    assert RunFolder(tmp_path / "a").read_plan().data.n_genes == 1600
    (tmp_path / "some.toml").write_text("sample_genes = 50\n")
    assert_refused(
        call("plan", many_genes, "--out", tmp_path / "b", "--train-all-genes", "--config", tmp_path / "some.toml"),
        2,
        "exclude each other",
    )
    both = call("plan", many_genes, "--out", tmp_path / "c", "--train-all-genes", "--sample-genes", "50")
    assert_refused(both, 2, "exclude each other")


def test_instance_options__that_change_nothing_are_named(many_genes: Path, tmp_path: Path) -> None:
    flags = ("--genes-per-instance", "200", "--no-auto-adjust-instance-size")
    result = call("plan", many_genes, "--out", tmp_path / "a", *flags)
    words = "one model of all fits and is trained, so --genes-per-instance 200 --no-auto-adjust-instance-size changes nothing"
    assert words in result.stderr
    assert result.exit_code == 0
    for strategy in ("single", "multi"):
        result = call("plan", many_genes, "--out", tmp_path / strategy, "--strategy", strategy, *flags[:2])
        assert "changes nothing" not in result.stderr


def test_auto_adjust__lets_the_size_follow_or_refuses(many_genes: Path, tmp_path: Path) -> None:
    flags = ("--strategy", "multi", "--genes-per-instance", "200", "--max-instances", "4")
    assert call("plan", many_genes, "--out", tmp_path / "a", *flags, "--auto-adjust-instance-size").exit_code == 0
    assert len(RunFolder(tmp_path / "a").read_plan().cut.instances) == 4
    hard = call("plan", many_genes, "--out", tmp_path / "b", *flags, "--no-auto-adjust-instance-size")
    assert_refused(hard, 78, "cover 740 of 1,600 genes")  # 4 x 200 - 3 x 20
    assert contents(tmp_path / "b") == []


# ---- results ----------------------------------------------------------------------------------------------------------


def test_json__is_valid_and_alone_on_standard_output(run: Path, small_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.parquet"
    run = shutil.copytree(run, tmp_path / "own")  # steps are done again
    for arguments in (
        ("inspect", small_dataset, "--json"),
        ("plan", small_dataset, "--out", tmp_path / "run", "--json"),
        ("synth", "--genes", "3", "--features", "20", "--out", tmp_path / "synth", "--json"),
        ("run", small_dataset, "--out", run, *SMALL, "--json"),
        ("evaluate", run, "--json"),
        ("train", run, "--json"),
        ("consolidate", run, "--json"),
        ("finish", run, "--json"),
        ("export", run, "--format", "pickle", "--out", tmp_path / "m.pkl", "--json"),
        ("status", run, "--json"),
        ("predict", run, small_dataset, "--out", out, "--json"),
        ("sql", run, "--json"),
        ("sql", run, "--name", "coverage", "--json"),
        ("sql", run, "from genes limit 2", "--json"),
    ):
        result = call(*arguments)
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)


def test_json__of_scores_has_numbers_the_verdict_and_the_report(run: Path) -> None:
    facts = json.loads(call("finish", run, "--json").stdout)
    assert facts["report"] == str(run / "report.html")
    assert facts["verdict"]
    of_ensemble = {(one["metric"], one["class"]): one["value"] for one in facts["scores"] if one["scope"] == "ensemble"}
    assert 0 < of_ensemble["log_loss", "all"] < 1


def test_json__has_no_nan_and_loses_no_column(run: Path) -> None:
    query = "select 'nan'::double as x, ['inf'::double] as y, 1 as a, 2 as a, date '2020-01-01' as d, 1.5::decimal(4,2) as e"
    result = call("sql", run, query, "--json")
    assert json.loads(result.stdout, parse_constant=lambda word: pytest.fail(word)) == [
        {"x": None, "y": [None], "a": 1, "a_2": 2, "d": "2020-01-01", "e": 1.5}
    ]


def test_inspect__shows_genes_classes_features_and_warnings(small_dataset: Path, tmp_path: Path) -> None:
    facts = json.loads(call("inspect", small_dataset, "--json").stdout)
    truth = json.loads((small_dataset / "truth.json").read_bytes())
    assert facts["genes"] == 60
    assert facts["class mix"] == truth["class_rows"]
    assert facts["features"]["all"] == 40
    assert facts["rows"] == sum(truth["class_rows"].values())
    rows = pq.read_table(small_dataset / "master")
    odd = {"big": pa.array(np.full(len(rows), 1 << 60)), "one": pa.array(np.ones(len(rows)))}
    odd |= {"empty": pa.nulls(len(rows), pa.float32())}
    for name, column in odd.items():
        rows = rows.append_column(name, column)
    big = rows["big"].to_numpy().copy()
    big[0] = 3
    rows = rows.set_column(rows.column_names.index("big"), "big", pa.array(big))
    pq.write_table(rows, tmp_path / "a.parquet")
    words = " ".join(call("inspect", tmp_path / "a.parquet").stdout.split())
    assert "beyond 2^24 lose their last digits as float32: big" in words
    assert "without any value: empty" in words
    assert "with one value only: one" in words


def test_sql__lists_queries_and_answers(run: Path) -> None:
    listed = call("sql", run)
    assert "predictions\t" in listed.stdout
    assert "overlaps\tgenes shared by each pair of instances." in listed.stdout
    assert call("sql", run, "select 1 as a, null as b").stdout == "a\tb\n1\t\n"
    named = call("sql", run, "--name", "coverage")
    assert named.stdout.splitlines()[1].split("\t")[:3] == ["60", "60", "60"]
    assert_refused(call("sql", run, "select 1", "--name", "coverage"), 2, "not both")
    assert_refused(call("sql", run, "--name", "nothing"), 65, "no query named 'nothing'")
    assert_refused(call("sql", run, "selec 1"), 65, "syntax error")
    assert_refused(call("sql", run, "create table a (b int)"), 65, "read-only")


def test_status__shows_what_is_done(run: Path) -> None:
    result = call("status", run)
    assert result.stdout.splitlines()[1].startswith("instance_00\tdone\t24\t")
    assert "3 of 3 instances done, 0 running, 0 lost; about 0 s of training left; " in result.stdout
    assert "; consolidated: True; finished: True" in result.stdout


def test_status__knows_running_and_lost_instances(lean_dataset: Path, tmp_path: Path) -> None:
    """A lock of the instance is held; then it is noted as lost, and tried again."""
    folder = RunFolder(planned(lean_dataset, tmp_path / "run"))
    instance = folder.read_plan().cut.instances[1]

    def status() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(call("status", folder.root, "--json").stdout)
        assert [one["status"] for one in found["instances"][::2]] == ["to do", "to do"]
        return found

    with instance_lock(folder, instance):
        assert status()["instances"][1]["status"] == "running"
        with pytest.raises(RunBusyError), instance_lock(folder, instance):
            pass
        assert status()["n_running"] == 1
    write_lost(folder, instance, "too large")
    lost = status()
    assert (lost["instances"][1]["status"], lost["n_lost"], lost["n_running"]) == ("lost", 1, 0)
    assert lost["causes_of_loss"] == {"instance_01": "too large"}
    assert "instance_01 was lost: too large" in call("status", folder.root).stdout
    with instance_lock(folder, instance):
        assert status()["instances"][1]["status"] == "running"


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", "absent", "--out", "run"),
        ("run", "absent", "--out", "run"),
        ("train", "absent"),
        ("consolidate", "absent"),
        ("evaluate", "absent"),
        ("predict", "absent", "absent", "--out", "p.parquet"),
    ],
)
def test_verbose__shows_where_an_error_came_from(arguments: tuple[str, ...], tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        short = call(*arguments)
        assert_refused(short, 65, "absent")
        long = call(*arguments, "--verbose")
        assert (long.exit_code, long.stdout) == (65, "")
        assert "Traceback" in long.stderr
        assert long.stderr.splitlines()[-1:] == short.stderr.splitlines()
        assert call(*arguments).stderr == short.stderr  # it ends with its command


def test_verbose__tells_of_sql_and_changes_no_plan(lean_dataset: Path, plain: Plan, tmp_path: Path) -> None:
    result = call("plan", lean_dataset, "--out", tmp_path / "run", *BASE, "--verbose")
    assert re.search(r"^sql/gene_index\.sql: 60 rows, \d+\.\d{3} s$", result.stderr, re.MULTILINE)
    assert re.search(r"^sql/checks/null_gene\.sql: 0 rows, ", result.stderr, re.MULTILINE)
    assert RunFolder(tmp_path / "run").read_plan().data.genes_sha256 == plain.data.genes_sha256
    assert "sql/" not in call("plan", lean_dataset, "--out", tmp_path / "other", *BASE).stderr


def test_verbose__tells_of_child_processes_and_what_they_do(lean_dataset: Path, tmp_path: Path) -> None:
    """Train, consolidate and predict, with their children; the SQL that runs inside of them; where they fail."""
    data = shutil.copytree(lean_dataset, tmp_path / "data")
    out = planned(data, tmp_path / "run", "--strategy", "single", "--n-estimators", "2")
    away = data.rename(tmp_path / "away")
    failed = call_children("train", out, "--threads", "1", "--verbose")
    assert failed.exit_code == 65
    assert re.search(r"^in mi_duck\.rows\.partition:partition_here:\nTraceback", failed.stderr, re.MULTILINE)
    assert re.search(r"^child mi_duck\.rows\.partition:partition_here: .* exit code 65$", failed.stderr, re.MULTILINE)
    away.rename(data)
    for arguments, words in (
        (("train", out), r"^sql/row_index\.sql: 60 rows, \d+\.\d{3} s$"),
        (
            ("consolidate", out),
            r"^child mi_duck\.workflow\.steps:consolidate: \d+\.\d\d s, peak \d+ MiB$",
        ),
        (("predict", out, data, "--out", tmp_path / "p.parquet"), r"^batch of .*: [\d,]+ rows, \d+\.\d{3} s$"),
    ):
        result = call_children(*arguments, "--threads", "1", "--verbose")
        assert result.exit_code == 0, result.output
        assert re.search(words, result.stderr, re.MULTILINE), result.stderr
        assert "exit code" not in result.stderr


def test_plan__prints_what_it_made(lean_dataset: Path, tmp_path: Path) -> None:
    result = call("plan", lean_dataset, "--out", tmp_path / "run", *BASE, "--sample-genes", "40")
    assert "Sampling 40 genes out of 60" in result.stderr
    assert "rows from 40 genes" in result.stderr
    assert "not a feature (the gene): gene_id" in result.stderr
    assert "multi: 3 instances" in result.stdout
    assert "coverage 40/40" in result.stdout
    assert "the average precision of one model of all rows" in " ".join(result.stdout.split())


# ---- exit codes and bad input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags",
    [
        ("--instance-overlap", "-0.1"),
        ("--instance-overlap", "0.51"),
        ("--instance-overlap", "1"),
        ("--instance-overlap", "nan"),
        ("--genes-per-instance", "0"),
        ("--genes-per-instance", "1000000000"),
        ("--max-instances", "0"),
        ("--max-memory-per-instance-gb", "0"),
        ("--max-memory-per-instance-gb", "-1"),
        ("--max-memory-per-instance-gb", "nan"),
        ("--max-memory-per-instance-gb", "inf"),
        ("--max-memory-per-instance-gb", "12GB"),
        ("--max-memory-per-instance-gb", "1000000000"),
        ("--memory-per-gene-mb", "nan"),
        ("--memory-safety-factor", "nan"),
        ("--learning-rate", "nan"),
        ("--learning-rate", "0"),
        ("--n-folds", "1"),
        ("--n-estimators", "0"),
        ("--max-depth", "99"),
        ("--max-bin", "1"),
        ("--seed", "-1"),
        ("--threads", "0"),
        ("--strategy", "both"),
        ("--sample-genes", "1"),
        ("--no-such-flag",),
    ],
)
def test_plan__a_value_outside_its_range_is_2(flags: tuple[str, ...], lean_dataset: Path, tmp_path: Path) -> None:
    for command in ("plan", "run"):
        assert_refused(call(command, lean_dataset, "--out", tmp_path / "run", *flags), 2, flags[0])
    assert not (tmp_path / "run").exists()


def test_synth__nan_is_2(tmp_path: Path) -> None:
    for flag in ("--rows-per-gene", "--missing-fraction"):
        assert_refused(call("synth", "--out", tmp_path / "s", "--genes", "3", flag, "nan"), 2, flag)
    assert not (tmp_path / "s").exists()


def test_overlap__none_and_half_are_fine(lean_dataset: Path, tmp_path: Path) -> None:
    for name, overlap, shared in (("a", "0", 0), ("b", "0.5", 12)):
        assert call("plan", lean_dataset, "--out", tmp_path / name, *BASE, "--instance-overlap", overlap).exit_code == 0
        plan = RunFolder(tmp_path / name).read_plan()
        pairs = zip(plan.cut.instances, plan.cut.instances[1:], strict=False)
        assert {one.stop_rank - other.first_rank for one, other in pairs} == {plan.cut.overlap_genes}
        assert plan.cut.overlap_genes <= shared


def test_exit_codes__storage_busy_and_memory(
    lean_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    assert_refused(call("plan", lean_dataset, "--out", tmp_path / "file"), 65, "is a file, and a run is a folder")
    assert_refused(call("run", lean_dataset, "--out", tmp_path / "file" / "run"), 74, "cannot write")
    with run_lock(tmp_path / "run"):
        assert_refused(call("plan", lean_dataset, "--out", tmp_path / "run"), 75, "another mi-duck works on")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "200")
    refused = call("plan", lean_dataset, "--out", tmp_path / "run", "--strategy", "multi")
    assert_refused(refused, 137, "SLURM_MEM_PER_NODE")
    assert contents(tmp_path) == ["file"]


def test_exit_codes__a_full_disk_while_training_is_74(small_dataset: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the segments do not fit, and nothing counts as done."""
    out = planned(small_dataset, tmp_path / "run")
    limited = ["bash", "-c", 'ulimit -f 64; "$@"', "bash", *COMMAND, "train", str(out), "--threads", "1"]
    done = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert done.returncode == 74, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: cannot write")
    assert "Traceback" not in done.stderr
    assert json.loads(call("status", out, "--json").stdout)["n_done"] == 0


def test_exit_codes__a_bug_is_70_with_a_request(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble(root: Path) -> None:
        raise RuntimeError("log_loss_of_rows")

    monkeypatch.setattr("mi_duck.workflow.views.run_status", stumble)
    result = call("status", run)
    assert result.exit_code == 70
    assert "RuntimeError: log_loss_of_rows" in result.stderr
    assert "please report" in result.stderr


def test_commands__on_a_folder_that_is_no_run_are_65(tmp_path: Path, run: Path, small_dataset: Path) -> None:
    for arguments, words in (
        (("status", tmp_path), "no plan in"),
        (("train", tmp_path), "no plan in"),
        (("train", tmp_path / "absent"), "no plan in"),
        (("consolidate", tmp_path), "no plan in"),
        (("evaluate", tmp_path), "no plan in"),
        (("sql", tmp_path, "select 1"), "no plan in"),
        (("sql", tmp_path), "no plan in"),
        (("predict", tmp_path, small_dataset, "--out", tmp_path / "p.parquet"), "is not a run and holds no model"),
        (("predict", tmp_path / "absent", small_dataset, "--out", tmp_path / "p.parquet"), "cannot read"),
        (("inspect", tmp_path), "no *.parquet file in"),
        (("inspect", tmp_path / "absent"), "nothing is at"),
    ):
        assert_refused(call(*arguments), 65, words)
    assert contents(tmp_path) == []
    assert not (tmp_path / "absent").exists()
    assert_refused(call("train", run, "--instance", "3"), 78, "the plan has instances 0 to 2")
    assert_refused(call("train", run, "--instance", "-1"), 2, "--instance")


def test_plan__a_second_plan_into_a_folder_is_65(run: Path, small_dataset: Path) -> None:
    before = asdict(RunFolder(run).read_plan())
    assert_refused(call("plan", small_dataset, "--out", run), 65, "holds a plan already")
    assert asdict(RunFolder(run).read_plan()) == before


# ---- terminals and pipes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [("sql", "{run}", "from range(300000)"), ("status", "{run}", "--json"), ("sql", "{run}")]
)
def test_output__to_a_pipe_that_closes_gives_no_traceback(arguments: tuple[str, ...], run: Path) -> None:
    code, words = left_alone([one.format(run=run) for one in arguments], lines=1)
    assert (code, words) == (0, "")


def left_alone(arguments: Sequence[object], *, lines: int) -> tuple[int, str]:
    """Run a command, read some lines of its output and leave; return its exit code and its standard error."""
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(lines):
            process.stdout.readline()
        process.stdout.close()
        words = process.stderr.read()
    return process.returncode, words


def test_output__a_reader_that_leaves_at_once_does_not_matter(run: Path, small_dataset: Path) -> None:
    for arguments in (("inspect", small_dataset), ("status", run, "--json")):
        assert left_alone(arguments, lines=0) == (0, "")


def test_train__goes_on_when_nobody_reads_its_messages(lean_dataset: Path, tmp_path: Path) -> None:
    out = planned(lean_dataset, tmp_path / "run", "--strategy", "single", "--n-estimators", "2")
    with subprocess.Popen([*COMMAND, "train", str(out), "--threads", "1"], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        process.stderr.close()
    assert process.returncode == 0
    assert json.loads(call("status", out, "--json").stdout)["n_done"] == 1


def test_output__works_on_a_narrow_terminal_without_unicode(tmp_path: Path) -> None:
    rows = good(**{"weiß": every([0.5, 0.6])})
    pq.write_table(pa.table(rows), tmp_path / "größe.parquet")
    done = mi_duck(
        "inspect",
        tmp_path / "größe.parquet",
        "--exclude",
        "weiß",
        env={"PYTHONIOENCODING": "ascii", "COLUMNS": "20", "PATH": "/usr/bin", "TERM": "dumb"},
    )
    assert "wei\\xdf" in done.stdout


def test_paths__with_spaces_quotes_and_pattern_characters(lean_dataset: Path, tmp_path: Path) -> None:
    place = tmp_path / "it's a [place]; --x *?"
    shutil.copytree(lean_dataset, place / "d's [1]")
    file = next((place / "d's [1]").rglob("*.parquet"))
    file.rename(file.with_name("part 0 %20 ;drop.parquet"))
    out = partitioned(place / "d's [1]", place / "run *", "--strategy", "single", "--n-estimators", "1")
    assert RunFolder(out).read_plan().data.n_genes == 60
    assert json.loads(call("status", out, "--json").stdout)["n_done"] == 0


# ---- what a terminal and the log say --------------------------------------------------------------------------------------


def test_log__has_what_a_run_said_and_did_with_its_time(lean_dataset: Path, tmp_path: Path) -> None:
    """Of every command on the run, also of one that fails; not a file of the run that hashes vouch for."""
    out = tmp_path / "run"
    done = here("run", lean_dataset, "--out", out, *FAST)
    log = (out / "run.log").read_text(encoding="utf-8").splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00 run: ", line) for line in log)
    assert log[0].endswith("run: begun")
    assert log[-1].endswith("run: ended")
    said = [line.split(" run: ", 1)[1] for line in log]
    for words in ("training on", "Gene coverage: 60/60", "partitioning rows", "joining votes"):
        assert any(words in line for line in said), words
    assert [line for line in done.stderr.splitlines() if "[Instance" in line and line.strip() not in said] == []
    assert "run.log" not in json.loads((out / "provenance.json").read_bytes())["files"]
    assert_refused(call("run", lean_dataset, "--out", out, *FAST, "--n-estimators", "3"), 65, "another request")
    last = (out / "run.log").read_text(encoding="utf-8").splitlines()[-1]
    assert "ended by CheckpointError: " in last
    assert here("verify", out)


def test_quiet__leaves_results_and_warnings(lean_dataset: Path, tmp_path: Path) -> None:
    done = here("plan", lean_dataset, "--out", tmp_path / "run", *BASE, "--quiet")
    assert done.stdout.startswith("instance\t")
    assert [line for line in done.stderr.splitlines() if not line.startswith("warning: ")] == []
    assert "budget" in (tmp_path / "run" / "run.log").read_text(encoding="utf-8")
    assert "budget" in here("plan", lean_dataset, "--out", tmp_path / "other", *BASE).stderr


def test_dry_run__prints_the_plan_and_writes_nothing(lean_dataset: Path, tmp_path: Path) -> None:
    asked = ("run", lean_dataset, "--out", tmp_path / "run", *FAST)
    tried = here(*asked, "--dry-run").stdout
    assert list(tmp_path.iterdir()) == []
    assert tried.splitlines()[0].startswith("instance\t")
    assert json.loads(here(*asked[:-1], "auto", "--dry-run", "--json").stdout)["data"]["n_genes"] == 60


@pytest.mark.parametrize(
    ("flag", "value", "near"),
    [("--strategy", "mutli", "multi"), ("--layout", "zeroes", "zeros"), ("--consolidation", "refitt", "refit")],
)
def test_values__that_are_mistyped_are_answered_with_the_nearest(flag: str, value: str, near: str) -> None:
    refused = call("run", "dataset", "--out", "run", flag, value)
    assert refused.exit_code == 2
    assert f"Did you mean '{near}'?" in " ".join(refused.stderr.split())


def test_values__that_cannot_be_used_are_named() -> None:
    for flag, words in ((("--n-estimators", "abc"), "'abc' cannot"), (("--learning-rate=5",), "'5' cannot be used")):
        refused = call("run", "dataset", "--out", "run", *flag)
        assert refused.exit_code == 2
        assert words in refused.stderr
