"""The summary in plain text: every number is that of the file it comes from, rounded."""

import csv
import json
import re
from pathlib import Path

import pytest
from runs import finished_run

from mi_duck.report.summary import training_summary
from mi_duck.resources import GIB
from mi_duck.run.folder import RunFolder


@pytest.fixture(scope="module")
def run(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(small_dataset, tmp_path_factory)


@pytest.fixture(scope="module")
def text(run: Path) -> str:
    return (run / "unified_training_summary.txt").read_text(encoding="utf-8")


def section(text: str, title: str) -> list[str]:
    """Return the lines below a title that begins so, up to the empty line."""
    lines = text.splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith(title))
    assert set(lines[begin + 1]) == {"-"}
    rest = lines[begin + 2 :]
    return rest[: rest.index("")] if "" in rest else rest


def numbers(line: str) -> list[float]:
    return [float(one.replace(",", "")) for one in re.findall(r"(?<![\w.])[-+]?\d[\d,]*\.?\d*", line)]


def test_summary__scores_equal_metrics_csv(run: Path, text: str) -> None:
    with (run / "metrics.csv").open() as file:
        metrics = list(csv.DictReader(file))
    lines = {line.split("  ")[0]: line for line in section(text, "Scores out of fold")[1:]}
    assert {"base", "ensemble", "instance_00", "instance_01", "instance_02"} <= set(lines)
    wanted = [("average_precision", name) for name in ("neither", "donor", "acceptor", "macro")]
    wanted += [("f1", "macro"), ("log_loss", "all")]
    for who in ("base", "ensemble"):
        rows = {
            (row["metric"], row["class"]): row
            for row in metrics
            if row["scope"] == who and row["evaluated_on"] == "oof" and (who == "base" or row["is_chosen"] == "1")
        }
        shown = numbers(lines[who].replace("-0.", " 0.").removeprefix(who))
        exact = [float(rows[key][name]) for key in wanted for name in ("value", "low", "high")]
        assert shown == pytest.approx(exact, abs=5.1e-5)


def test_summary__instances_equal_plan_measurements_and_weights(run: Path, text: str) -> None:
    plan = RunFolder(run).read_plan()
    weights = json.loads((run / "consolidation_summary.json").read_bytes())["members"]
    lines = section(text, "Instances")
    assert lines[-1] == "Gene coverage: 60/60 (100.0%)"
    for instance, member, line in zip(plan.cut.instances, weights, lines[1:4], strict=True):
        measured = json.loads((RunFolder(run).instance(instance) / "measurement.json").read_bytes())
        assert line.split()[0] == instance.name
        genes, rows, trained_on, predicted, peak, seconds, weight = numbers(line.removeprefix(instance.name))
        assert (genes, rows, trained_on) == (instance.n_genes, instance.n_rows, instance.n_training_rows)
        assert predicted == pytest.approx(instance.predicted_bytes / GIB, abs=5.1e-3)
        assert peak == pytest.approx(measured["peak_bytes"] / GIB, abs=5.1e-3)
        assert seconds == pytest.approx(measured["wall_seconds"], abs=0.051)
        assert weight == pytest.approx(member["weight"], abs=5.1e-5)


def test_summary__unseen_scores_equal_the_instances_files(run: Path, text: str) -> None:
    lines = section(text, "Scores of each instance's final model on genes that it was not trained on")
    assert len(lines) == 4
    for number, line in enumerate(lines[1:]):
        where = run / "multi_instance_training" / f"instance_{number:02d}" / "holdout_evaluation_summary.json"
        found = json.loads(where.read_bytes())
        rows = {(one["metric"], one["class"]): one for one in found["all_rows"]}
        keys = (("average_precision", "macro"), ("f1", "macro"), ("log_loss", "all"))
        exact = [rows[key][name] for key in keys for name in ("value", "low", "high")]
        shown = numbers(line.replace("-0.", " 0.").removeprefix(f"instance_{number:02d}"))
        assert shown == pytest.approx([found["n_genes"], found["n_rows"], *exact], abs=5.1e-5)


def test_summary__data_folds_and_plan_equal_the_plan(run: Path, text: str, small_dataset: Path) -> None:
    plan = RunFolder(run).read_plan()
    truth = json.loads((small_dataset / "truth.json").read_bytes())["class_rows"]
    data = dict(line.split(maxsplit=1) for line in section(text, "Data"))
    assert plan.data.fingerprint in data["dataset"]
    assert numbers(data["rows"]) == [plan.data.n_rows]
    assert numbers(data["genes"]) == [60, 60]
    folds = [numbers(line) for line in section(text, "Folds")[1:]]
    assert [line[0] for line in folds] == [0, 1, 2]
    assert [sum(column) for column in list(zip(*folds, strict=True))[1:]] == [
        60,
        plan.data.n_rows,
        *(truth[name] for name in plan.data.classes),
    ]
    assert "redundancy 1.067" in " ".join(section(text, "Plan"))  # 24 + 20 + 20 genes in 60
    settings = dict(line.split(" = ") for line in section(text, "Settings"))
    assert settings["n_estimators"] == str(plan.settings.n_estimators)


def test_summary__lists_every_file_of_the_run(run: Path, text: str) -> None:
    listed = {line.split()[0] for line in section(text, "Files")}
    assert listed == {path.name for path in run.iterdir() if not path.name.startswith(".")}


def test_summary__tells_what_is_wrong_first(run: Path, text: str) -> None:
    folder = RunFolder(run)
    provenance = json.loads(folder.provenance.read_bytes())
    made = training_summary(folder, folder.read_plan(), provenance, warnings=["something is wrong"])
    assert section(made, "Warnings") == ["something is wrong"]
    assert section(training_summary(folder, folder.read_plan(), provenance, warnings=[]), "Warnings") == ["none"]
    assert made.split("\nData\n")[1] == text.split("\nData\n")[1]  # else the same, whenever it is made


def test_summary__holds_no_path_of_this_machine(run: Path, text: str) -> None:
    assert str(run) not in text
    assert str(run.parent) not in text
