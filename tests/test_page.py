"""The report: numbers equal those of the tables, everything from data is escaped, and a browser needs nothing else."""

import csv
import html
import json
import re
import shutil
import subprocess
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import typer.main
from plans import made_plan
from runs import call, finished_run, quiet

from cli import app
from mi_duck.atomic_files import write_csv, write_file, write_json
from mi_duck.data.database import Database
from mi_duck.errors import CheckpointError
from mi_duck.report.overfitting import fit_records
from mi_duck.report.page import WRITTEN_LATER, file_names, render, write_report
from mi_duck.report.records import Score, read_run, with_interval
from mi_duck.report.summary import answer, cautions
from mi_duck.report.tables import gene_tables, run_command

HOSTILE = "<script>alert(1)</script>&\"'"
CLASSES = ("neither", "donor", "acceptor")
MIB = 2**20
SCORES = {
    # scope: (average precision of the second class, of the third, macro F1, log loss), with half the width of their intervals
    "base": (0.80, 0.70, 0.75, 0.30, 0.01),
    "ensemble": (0.90, 0.80, 0.85, 0.20, 0.01),
    "member": (0.88, 0.78, 0.83, 0.22, 0.01),
}


def score_lines(classes: Sequence[str], scores: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Return ``metrics.csv`` of one member, by hand."""
    lines = []
    for scope, (second, third, f1, loss, half) in scores.items():
        values = [
            ("average_precision", classes[1], second),
            ("average_precision", classes[2], third),
            ("average_precision", "macro", (second + third) / 2),
            ("f1", "macro", f1),
            ("log_loss", "all", loss),
        ]
        lines += [
            {
                "scope": scope,
                "instance_id": 0 if scope == "member" else None,
                "evaluated_on": "oof",
                "variant": "by hand",
                "is_chosen": scope == "ensemble",
                "fold": None,
                "class": class_name,
                "metric": metric,
                "value": value,
                "low": value - half,
                "high": value + half,
                "n_genes": 200,
                "n_rows": 20_000,
            }
            for metric, class_name, value in values
        ]
    return lines


def made_run(
    root: Path,
    *,
    classes: Sequence[str] = CLASSES,
    scores: Mapping[str, Sequence[float]] = SCORES,
    n_groups: int = 200,
    measured: int | None = 100 * MIB,
    name: str = "dataset",
    feature: str = "gc",
) -> Path:
    """Write a run of one instance, 200 genes of 100 rows each, in the least files that a report needs."""
    instance = {"instance_id": 0, "first_rank": 0, "stop_rank": 200, "n_genes": 200, "n_rows": 20_000}
    instance |= {"n_training_rows": 20_000, "predicted_bytes": 100 * MIB}
    settings = {"seed": 42, "n_folds": 2, "n_estimators": 10, "early_stopping_patience": 2, "max_depth": 6}
    settings |= {"learning_rate": 0.1, "max_bin": 256, "calibrate": True}
    plan = made_plan(
        location=f"/somewhere/else/{name}",
        classes=tuple(classes),
        labels=tuple(classes),
        features=(feature, "length"),
        auto_adjust_instance_size=False,
    )
    write_file(root / "plan.json", plan.to_json().encode())
    write_csv(root / "metrics.csv", score_lines(classes, scores))
    trained = instance | {"measured_peak_bytes": measured, "wall_seconds": 12.0, "weight": 1.0}
    trained |= {"status": "done" if measured else "to do"}
    genes = [
        {"gene_id": f"{feature} {rank}", "fold_group": str(rank % n_groups), "n_rows": 100, "fold": rank % 2}
        | {
            "is_holdout": False,
            "is_pilot": False,
            "n_instances": 1,
            f"n_{classes[0]}": 90,
            f"n_{classes[1]}": 5,
            f"n_{classes[2]}": 5,
        }
        for rank in range(200)
    ]
    coverage = {"n_genes_dataset": 200, "n_genes": 200, "n_genes_trained": 200 if measured else 0, "n_rows": 20_000}
    coverage |= {"n_rows_trained": 20_000, "coverage_fraction": 1.0 if measured else 0.0}
    facts = {"run_id": "a" * 64, "dataset_fingerprint": "f" * 64, "settings": json.dumps(settings)}
    facts |= {"versions": json.dumps({"mi-duck": "0.1.0"}), "started_at": "2026-01-01T00:00:00+00:00"}
    facts |= {"finished_at": "2026-01-01T00:10:00+00:00", "status": "finished"}
    with Database(root / "run.duckdb") as db:
        db.load("runs", pa.Table.from_pylist([facts]))
        db.load("genes", pa.Table.from_pylist(genes))
        db.load("coverage", pa.Table.from_pylist([coverage]))
        db.load("instances", pa.Table.from_pylist([trained]))
        db.load("memory_per_gene", pa.table({"predicted_bytes": [1000.0] * 200}))
    if measured:
        curves = [
            {"fold": fold, "class": one, "round": step, "training_log_loss": 0.5 / step, "stopping_log_loss": loss}
            | {"is_kept": int(step < 3)}
            for fold in range(2)
            for one in classes
            for step, loss in ((1, 0.6), (2, 0.4), (3, 0.5), (4, 0.5))
        ]
        write_csv(root / "multi_instance_training" / "instance_00" / "learning_curves.csv", curves)
    return root


def add_tables(root: Path, *, classes: Sequence[str] = CLASSES, feature: str = "gc") -> None:
    """Add what evaluation and explanation write."""
    write_csv(
        root / "curves.csv",
        [
            {"scope": scope, "class": one, "kind": kind, "x": x, "y": 1 - x / 2, "threshold": 1 - x}
            for scope in ("base", "ensemble")
            for one in classes
            for kind in ("roc", "pr")
            for x in (0.0, 0.5, 1.0)
        ],
    )
    write_csv(
        root / "calibration_analysis" / "reliability.csv",
        [
            {"scope": "ensemble", "class": one, "bin": bin_, "n_rows": 10, "mean_probability": 0.3 * bin_}
            | {"observed_fraction": 0.25 * bin_, "low": 0.2 * bin_, "high": 0.3 * bin_}
            for one in classes
            for bin_ in range(3)
        ],
    )
    write_csv(
        root / "comprehensive_shap_analysis" / "ensemble_shap_importance.csv",
        [{"feature": feature, "importance": 0.5, "se": 0.01, "rank": 1}],
    )
    write_json(
        root / "leakage_analysis" / "leakage.json",
        {"suspects": [{"feature": feature, "reason": HOSTILE}], "excluded": []},
    )
    write_csv(
        root / "leakage_analysis" / "leakage.csv",
        [
            {"feature": feature, "comparison": classes[1], "auc": 0.99, "low": 0.9, "high": 1.0}
            | {"verdict": "suspect", "reason": HOSTILE}
        ],
    )
    facts = {"precision": 0.7, "recall": 0.8, "f1": 0.75}
    write_json(root / "thresholds.json", {classes[1]: {"best_f1": facts | {"threshold": 0.4321}, "recall_0.9": None}})


class Page(HTMLParser):
    """The elements of a page, its text, what it would load, and the files that it links to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name == "href" and tag == "a" and not (value or "").startswith("#"):
                self.links.append(value or "")
            elif name in ("src", "href", "data", "srcset", "action") and not (value or "").startswith(
                ("#", "data:image/png;")
            ):
                self.loads.append(value or "")
            assert not name.startswith("on"), "no code in attributes"

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.text.append(data)


def page_of(root: Path, *, with_plots: bool = False) -> str:
    run = read_run(root)
    return render(run, fit_records(run), with_plots=with_plots)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run whose every name is hostile, with its figures and its page."""
    folder = tmp_path_factory.mktemp("hostile")
    classes = ("neither", HOSTILE, "acceptor")
    made_run(folder, classes=classes, name=HOSTILE.replace("/", ""), feature=HOSTILE)
    add_tables(folder, classes=classes, feature=HOSTILE)
    write_report(run=str(folder), with_plots=True, with_overfitting=True, report=lambda *_: None)
    return folder


@pytest.fixture(scope="module")
def long_names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run with long names, with its page."""
    folder = tmp_path_factory.mktemp("long")
    classes = ("neither", "a_class_with_a_name_of_some_length_" + "x" * 60, "acceptor")
    made_run(folder, classes=classes, name="d" * 80, feature="feature_" * 12)
    add_tables(folder, classes=classes, feature="feature_" * 12)
    (folder / "report.html").write_text(page_of(folder, with_plots=True), encoding="utf-8")
    return folder


def text_of(page: str) -> str:
    return " ".join(" ".join(Page(page).text).split())


# ---- what it says ----------------------------------------------------------------------------------------------------


def test_page__has_the_numbers_of_the_tables(tmp_path: Path) -> None:
    add_tables(made_run(tmp_path))
    words = text_of(page_of(tmp_path))
    with (tmp_path / "metrics.csv").open() as file:
        for line in csv.DictReader(file):
            if line["scope"] == "member":  # there is one, which is the ensemble
                continue
            value, low, high = (f"{float(line[name]):.4f}".lstrip("0") for name in ("value", "low", "high"))
            assert f"{value} ({low}–{high})" in words
    for number in ("20,000 rows", "200/200 (100.0 %)", "1.00 GiB", ".432", ".5000", ".9900", "f" * 64):
        assert number in words
    assert "100 100 1.000" in words, "predicted and measured MiB, and their ratio"
    assert "18,000 rows (90.0 %)" in words


def test_page__answers_first_and_warns_before_all_tables(tmp_path: Path) -> None:
    page = page_of(made_run(tmp_path, n_groups=40))
    assert page.index("The model is better than the base scores") < page.index("<h2>Warnings</h2>")
    assert page.index("<h2>Warnings</h2>") < page.index("only 40 independent groups") < page.index("<table")


def test_page__is_the_same_for_the_same_run(long_names: Path, tmp_path: Path) -> None:
    """Also after the folder has moved: neither its path nor that of the dataset is in it."""
    first = (long_names / "report.html").read_text(encoding="utf-8")
    shutil.copytree(long_names, tmp_path / "moved")
    assert page_of(tmp_path / "moved", with_plots=True) == first
    assert str(tmp_path.parent) not in first
    assert "/somewhere" not in first


def test_page__names_what_was_not_made_and_the_command(tmp_path: Path) -> None:
    run = read_run(made_run(tmp_path))
    words = text_of(render(run, None))
    for missing, command in (
        ("Precision-recall and ROC curves.", "evaluate"),
        ("Reliability diagrams.", "evaluate"),
        ("The overfitting monitor.", "report"),
        ("Importance of features by SHAP values.", "explain"),
    ):
        assert f"{missing} Not made in this run; mi-duck {command} RUN makes it." in words
    assert "The leakage report. Not made in this run." in words


def gene_line(number: int, delta: float, *, n_rows: int, n_donor: int) -> dict[str, str]:
    values = {"n_rows": n_rows, "n_donor": n_donor, "n_acceptor": 0, "log_loss_base": 0.2, "log_loss_meta": 0.2 - delta}
    return {"gene_id": f"g{number:03d}"} | {
        name: str(one) for name, one in (values | {"log_loss_delta": delta}).items()
    }


def test_gene_tables__list_an_increase_only_where_there_is_one(tmp_path: Path) -> None:
    run = read_run(made_run(tmp_path))
    lines = [gene_line(number, 0.1, n_rows=100, n_donor=20) for number in range(50)]
    captions = [one.caption for one in gene_tables(run, lines)]
    assert "Genes with the largest decrease in log loss" in captions
    assert not any("increase" in one for one in captions)
    lines[7]["log_loss_delta"] = "-0.1"
    increase = gene_tables(run, lines)[-1]
    assert increase.caption == "Genes with the largest increase in log loss"
    assert [row[0] for row in increase.rows] == ["g007"]


def test_gene_tables__kinds_are_by_size_and_equal_sizes_stay_together(tmp_path: Path) -> None:
    """All 60 genes have a fifth of sites, so there are no thirds by that; 10 have 50 rows, 20 have 100, the others more."""
    run = read_run(made_run(tmp_path))
    rows = [10 * (number < 10) or 20 * (number < 30) or 20 + number for number in range(60)]
    lines = [gene_line(number, 0.1, n_rows=5 * n, n_donor=n) for number, n in enumerate(rows)]
    kinds = gene_tables(run, lines)[0]
    names = [row[0] for row in kinds.rows]
    assert [name.split(":")[0] for name in names] == [
        "all",
        *(f"{third} third of rows" for third in ("lowest", "middle", "highest")),
    ]
    assert [int(row[1]) for row in kinds.rows] == [60, 10, 30, 20]


def test_page__without_plots_has_the_tables(tmp_path: Path) -> None:
    add_tables(made_run(tmp_path))
    page = page_of(tmp_path)
    assert "<svg" not in page
    assert "Plots were left out" in page
    assert page.count("<table") >= 10


def test_page__is_one_file_that_loads_nothing(hostile: Path) -> None:
    text = (hostile / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.loads == []
    assert page.links
    assert all((hostile / urllib.parse.unquote(one)).exists() for one in page.links if one not in WRITTEN_LATER)
    assert not {"script", "link", "iframe", "img", "object", "embed", "form"} & set(page.tags)
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.count("svg") >= 10
    assert "url(http" not in text
    assert "@import" not in text
    assert len(text) < 1_500_000


def test_page__escapes_everything_from_data(hostile: Path) -> None:
    text = (hostile / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert text_of(text).count(HOSTILE) > 20, "and it is there to be read"
    assert all(re.fullmatch(r"[\w.-]+", file.name) for file in hostile.rglob("*.pdf"))


# ---- the answer and the warnings -------------------------------------------------------------------------------------


def test_answer__follows_the_intervals(tmp_path: Path) -> None:
    """Half widths of .01: .84 against .85 overlap, .75 against .85 do not."""
    cases = {
        "better": ((0.8, 0.7, 0.7, 0.30, 0.01), (0.9, 0.8, 0.8, 0.20, 0.01)),
        "worse": ((0.9, 0.8, 0.8, 0.20, 0.01), (0.8, 0.7, 0.7, 0.30, 0.01)),
        "unclear": ((0.85, 0.75, 0.7, 0.20, 0.01), (0.86, 0.76, 0.7, 0.21, 0.01)),
    }
    for verdict, (base, ensemble) in cases.items():
        run = read_run(made_run(tmp_path / verdict, scores={"base": base, "ensemble": ensemble}))
        assert answer(run).verdict == verdict
    mixed = {"base": (0.8, 0.7, 0.7, 0.2, 0.01), "ensemble": (0.9, 0.8, 0.8, 0.3, 0.01)}
    run = read_run(made_run(tmp_path / "mixed", scores=mixed))
    assert answer(run).verdict == "unclear"
    assert "better than the base scores in average precision and worse than them in log loss" in answer(run).sentence
    assert any("log loss of the model is higher" in text for text in cautions(run, None))


def test_answer__without_base_scores_compares_nothing(tmp_path: Path) -> None:
    run = read_run(made_run(tmp_path, scores={"ensemble": SCORES["ensemble"]}))
    assert answer(run).verdict == "alone"
    assert ".8500 (.8400–.8600)" in answer(run).sentence
    assert "a random order has .0500" in answer(run).sentence
    assert "log loss is .2000 (.1900–.2100); that of the shares of the classes is .3944" in answer(run).sentence
    assert cautions(run, None) == []
    assert "base score" not in text_of(render(run, None)).lower().replace("base-score", ""), (
        "nothing of what is not there"
    )


def test_answer__prefers_the_paired_difference(tmp_path: Path) -> None:
    """Intervals overlap, but the difference is .01 to .03 in precision and -.03 to -.01 in log loss: better."""
    scores = {"base": (0.85, 0.75, 0.7, 0.22, 0.05), "ensemble": (0.87, 0.77, 0.7, 0.20, 0.05)}
    made_run(tmp_path, scores=scores)
    lines = score_lines(CLASSES, scores)
    for metric, class_name, sign in (("average_precision", "macro", 1), ("log_loss", "all", -1)):
        like = next(line for line in lines if (line["metric"], line["class"]) == (metric, class_name))
        low, high = sorted((sign * 0.01, sign * 0.03))
        lines.append(
            like | {"scope": "difference", "variant": "ensemble - base", "value": sign * 0.02, "low": low, "high": high}
        )
    assert answer(read_run(tmp_path)).verdict == "unclear"
    write_csv(tmp_path / "metrics.csv", lines)
    assert answer(read_run(tmp_path)).verdict == "better"
    assert "−.0200 (−.0300 to −.0100)" in text_of(page_of(tmp_path))


def test_answer__without_intervals_claims_nothing(tmp_path: Path) -> None:
    """As after --minimal-diagnostics, which draws no bootstrap."""
    made_run(tmp_path)
    write_csv(tmp_path / "metrics.csv", [line | {"low": None, "high": None} for line in score_lines(CLASSES, SCORES)])
    found = answer(read_run(tmp_path))
    assert found.verdict == "unclear"
    assert ".8500 against .7500 of the base scores, log loss .2000 against .3000; without intervals" in found.sentence


def test_page__shows_what_a_member_adds_and_never_as_a_score(tmp_path: Path) -> None:
    """Lines of the ensemble without one member are not variants of the ensemble; their differences have a table."""
    made_run(tmp_path)
    lines = score_lines(CLASSES, SCORES)
    like = next(line for line in lines if (line["scope"], line["class"]) == ("ensemble", "all"))
    name = "without instance_00"
    lines.insert(0, like | {"variant": name, "value": 0.7777, "is_chosen": False})
    facts = {"scope": "difference", "variant": f"{name} - ensemble", "value": 0.0123, "low": -0.01, "high": 0.03}
    write_csv(tmp_path / "metrics.csv", [*lines, like | facts])
    words = text_of(page_of(tmp_path))
    assert ".7777" not in words
    assert "What changes when one member is left out" in words
    assert "+.0123 (−.0100 to +.0300)" in words


def test_page__shows_calibration_before_and_after(tmp_path: Path) -> None:
    made_run(tmp_path)
    before, after = ({"value": value, "low": value - 0.001, "high": value + 0.001} for value in (0.0321, 0.0123))
    gaps = [{"threshold": 0.05, "n_rows": 1234} | after, {"threshold": 0.5, "n_rows": 0} | dict.fromkeys(after)]
    facts = {"method": "platt", "before": {"brier": before}, "after": {"brier": after}, "difference": {}, "above": gaps}
    left_out = {"status": "left out", "reason": "no base scores"}
    folder = tmp_path / "calibration_analysis"
    write_json(folder / "calibration.json", {"ensemble": dict.fromkeys(CLASSES, facts), "base": left_out})
    words = text_of(page_of(tmp_path))
    assert "donor ensemble before – .0321 (.0311–.0331) –" in words
    assert "donor ensemble after – .0123 (.0113–.0133) –" in words
    assert "donor ensemble 0.05 1,234 .0123 (.0113–.0133) donor ensemble 0.5 0 –" in words


def test_cautions__say_nothing_of_suspects_that_were_left_out(tmp_path: Path) -> None:
    made_run(tmp_path)
    suspects = [{"feature": name, "reason": "r"} for name in ("kept", "gone")]
    write_json(tmp_path / "leakage_analysis" / "leakage.json", {"suspects": suspects, "excluded": ["gone"]})
    (found,) = cautions(read_run(tmp_path), None)
    assert "1 feature may leak the label (kept)" in found


def test_cautions__of_a_sound_run_are_none(tmp_path: Path) -> None:
    run = read_run(made_run(tmp_path))
    assert cautions(run, fit_records(run)) == []
    assert "No warnings." in text_of(page_of(tmp_path))


def test_cautions__name_one_group_with_most_rows_and_copies(tmp_path: Path) -> None:
    """One group has as many rows as all others together: Kish's number is near 4, whatever the number of groups."""
    run = read_run(made_run(tmp_path))
    total = sum(gene["n_rows"] for gene in run.genes)
    genes = [run.genes[0] | {"n_rows": total}, *run.genes[1:]]
    data = replace(run.plan.data, identical_rows=1234, identical_genes=5)
    uneven = replace(run, genes=genes, plan=replace(run.plan, data=data))
    found = " ".join(cautions(uneven, None))
    assert "200 fold groups count as 4 (Kish's effective number;" in found
    assert "1,234 rows of 5 genes are identical to rows of another fold group" in found


def test_cautions__name_lost_instances_leaks_memory_and_few_groups(tmp_path: Path) -> None:
    lost = read_run(made_run(tmp_path / "lost", measured=None))
    assert "Only 0 of 200 genes were trained on; lost: instance_00" in cautions(lost, None)[0]
    made_run(tmp_path / "bad", n_groups=12, measured=1100 * MIB)
    add_tables(tmp_path / "bad")
    found = " ".join(cautions(read_run(tmp_path / "bad"), None))
    assert "1 feature may leak the label (gc)" in found
    assert "only 12 independent groups" in found
    assert "1 instance took over 3% more memory than predicted, at most 1000% more" in found
    assert "was above the budget of 1.00 GiB" in found


# ---- files and commands ----------------------------------------------------------------------------------------------


def test_figures__lie_beside_the_tables(hostile: Path) -> None:
    names = ("neither", "script_alert_1_script", "acceptor")
    assert {str(file.relative_to(hostile)) for file in hostile.rglob("*.pdf")} == {
        *(f"{kind}_base_vs_meta{end}.pdf" for kind in ("pr", "roc") for end in ("", *(f"_{name}" for name in names))),
        *(f"calibration_analysis/reliability_{name}.pdf" for name in names),
        "leakage_analysis/leakage.pdf",
        "memory_per_gene.pdf",
        "overfitting/learning_curves_instance_00.pdf",
    }


def test_file_names__of_any_classes_are_safe_and_unlike() -> None:
    names = file_names(["a/b", "a b", "A_B", "..", "x" * 300, "普"])
    assert len({name.lower() for name in names.values()}) == 6
    assert all(re.fullmatch(r"[\w.-]{1,64}", name, re.ASCII) and name.strip(".") for name in names.values())


def test_interval__is_written_without_a_zero_before_the_point() -> None:
    def text(value: float, low: float | None, high: float | None) -> str:
        score = Score(scope="base", evaluated_on="oof", class_name="all", metric="f1", value=value, low=low, high=high)
        return with_interval(score)

    assert text(0.5, 0.45, 0.55) == ".5000 (.4500–.5500)"
    assert text(1.0, 0.99, 1.0) == "1.0000 (.9900–1.0000)"
    assert text(-0.1, -0.2, 0.0) == "−.1000 (−.2000 to .0000)"
    assert text(0.5, None, None) == ".5000"


def test_command__of_the_page_is_one_that_the_program_takes(tmp_path: Path) -> None:
    words = run_command(read_run(made_run(tmp_path))).split()
    assert words[:4] == ["mi-duck", "run", "dataset", "--out"]
    options = typer.main.get_command(app).commands["run"].params  # type: ignore[attr-defined]
    flags = {flag for one in options for flag in (*one.opts, *one.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= flags
    assert "--no-auto-adjust-instance-size" in words
    assert "--sample-genes" not in words


def test_report__of_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no plan in"):
        read_run(tmp_path)
    made_run(tmp_path)
    (tmp_path / "metrics.csv").unlink()
    with pytest.raises(CheckpointError, match="not evaluated yet; run 'mi-duck evaluate"):
        read_run(tmp_path)


def test_run__makes_the_report_and_the_command_makes_it_again(
    small_dataset: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A real run; the monitor leaves its folder out when it is off."""
    run = tmp_path / "run"
    shutil.copytree(finished_run(small_dataset, tmp_path_factory), run)
    first = (run / "report.html").read_bytes()
    assert (run / "overfitting" / "overfitting.json").is_file()
    result = call("report", run, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["report"] == str(run / "report.html")
    assert (run / "report.html").read_bytes() == first
    shutil.rmtree(run / "overfitting")
    write_report(run=str(run), with_plots=False, with_overfitting=False, report=quiet)
    assert not (run / "overfitting").exists()
    assert b"The overfitting monitor. Not made" in (run / "report.html").read_bytes()
    words = run_command(read_run(run)).split()
    options = typer.main.get_command(app).commands["run"].params  # type: ignore[attr-defined]
    flags = {flag for one in options for flag in (*one.opts, *one.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= flags
    assert call("report", tmp_path / "nothing").exit_code == 65


# ---- a browser -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "scheme"), [(390, 0), (1200, 1)])
def test_browser__shows_the_page_without_errors_requests_or_sideways_scrolling(
    width: int, scheme: int, long_names: Path, tmp_path: Path
) -> None:
    """A frame of the given width inside a page that measures it, because a window of a browser has a least width."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium is installed")
    shutil.copy(long_names / "report.html", tmp_path)
    (tmp_path / "frame.html").write_text(
        f"<iframe id=f src=report.html style='width:{width}px;height:800px;border:0'></iframe><script>"
        "onload = () => { const page = document.getElementById('f').contentDocument;"
        "document.title = [page.documentElement.scrollWidth, page.documentElement.clientWidth,"
        "getComputedStyle(page.body).backgroundColor, page.querySelectorAll('svg').length,"
        "performance.getEntriesByType('resource').length,"
        "document.getElementById('f').contentWindow.performance.getEntriesByType('resource').length].join('|'); };"
        "</script>",
        encoding="utf-8",
    )
    done = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--allow-file-access-from-files",
            f"--blink-settings=preferredColorScheme={scheme}",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr",
            "--dump-dom",
            (tmp_path / "frame.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None, done.stdout[:500]
    scroll_width, client_width, background, n_figures, _, n_requests = html.unescape(title[1]).split("|")
    assert int(scroll_width) <= int(client_width) <= width
    assert background == ("rgb(21, 24, 27)" if scheme == 0 else "rgb(255, 255, 255)")
    assert int(n_figures) >= 10
    assert int(n_requests) == 0
