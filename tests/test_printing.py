"""What a command says in the end: the scores, the answer, and where the report is."""

import csv
import json
import logging
from pathlib import Path

import pytest
from runs import plain_run

from mi_duck.evaluate.catalogue import ScoreTable
from mi_duck.report.records import read_run
from mi_duck.report.summary import answer, genes_improved
from mi_duck.workflow.printing import print_scores
from mi_duck.workflow.views import headline_table


@pytest.fixture(scope="module")
def run(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_run(small_dataset, tmp_path_factory)


def test_print_scores__ends_with_the_answer_and_the_report(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_scores(run)
    first, columns, *lines = capsys.readouterr().out.splitlines()
    assert "no intervals" in first
    assert columns.split("\t") == ["score", "ensemble", "base", "ensemble - base"]
    assert answer(read_run(run)).sentence.split(";")[0][:40] in lines[-2].replace("–", "-")
    assert genes_improved(read_run(run)) in lines[-2]
    assert lines[-1] == f"The report: {run / 'report.html'}"
    assert "instance_00" not in "".join(lines)
    assert all(len(line) <= 80 for line in [columns, *lines[:6]])


def test_print_scores__has_every_instance_with_verbose_and_as_json(
    run: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "mi_duck"):
        print_scores(run)
    assert "\ninstance_00\t" in capsys.readouterr().out
    print_scores(run, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert {(one["scope"], one["instance_id"]) for one in found["scores"]} >= {("base", None), ("member", 0)}
    assert found["report"].endswith("report.html")
    assert all(isinstance(one["value"], float) for one in found["scores"])


def test_genes_improved__counts_genes_whose_log_loss_falls(run: Path) -> None:
    with (run / "gene_deltas.csv").open(newline="") as lines:
        deltas = [float(row["log_loss_delta"]) for row in csv.DictReader(lines)]
    n = sum(delta > 0 for delta in deltas)
    assert 0 < n < len(deltas) == 60
    assert f" in {n} of 60 genes." in genes_improved(read_run(run))
    assert genes_improved(read_run(run)) in (run / "report.html").read_text()


def test_headline_table__without_base_scores_has_the_ensemble_alone() -> None:
    table = ScoreTable(["model", "AP"], [["instance_00", "0.5"], ["ensemble", "0.6 (0.5-0.7)"]], 10, True, "")
    assert headline_table(table).rows == [("AP", "0.6 (0.5-0.7)")]
