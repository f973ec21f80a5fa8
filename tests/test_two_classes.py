"""A table of two classes whose groups are not genes: one booster and its complement, and words that follow the table."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xgboost as xgb
from runs import here, partitioned

import mi_duck
from mi_duck.archive import read_parts
from mi_duck.boosting.forest import complement
from mi_duck.boosting.train import train_instance
from mi_duck.ensemble.model_file import load_unified_model
from mi_duck.ensemble.shap import contributions, explain
from mi_duck.report.page import LINKS

COLUMNS = ("--group-column", "patient", "--label-column", "ill", "--classes", "no,yes")
SMALL = ("--n-estimators", "8", "--n-folds", "2", "--threads", "1", "--max-depth", "3")
MULTI = ("--strategy", "multi", "--genes-per-instance", "40", "--shap-sample", "200")
# of genes and splice sites there is nothing, but for names of flags, files, columns and settings
GENOMIC = re.compile(r"(?<![\w-])(?:genes?|genomes?|donors?|acceptors?|splice|chromosomes?)(?![\w.])", re.IGNORECASE)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(3)
    dose, age = rng.normal(size=(2, 1400))
    ill = rng.random(1400) < 1 / (1 + np.exp(2.5 - 2 * dose - age))
    file = tmp_path_factory.mktemp("visits") / "visits.parquet"
    columns = {"patient": [f"P{one % 120}" for one in range(1400)], "ill": np.where(ill, "yes", "no")}
    pq.write_table(pa.table(columns | {"dose": dose, "age": age, "ward": [f"w{one % 7}" for one in range(1400)]}), file)
    return file


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("two") / "run"
    here("run", table, "--out", out, *COLUMNS, *SMALL, *MULTI)
    return out


def test_complement__has_the_margins_and_shap_values_with_the_other_sign() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(900, 4)).astype(np.float32)
    data = xgb.DMatrix(rows, label=rows[:, 0] + rng.normal(size=900) > 2)
    booster = xgb.train({"objective": "binary:logistic", "max_depth": 3}, data, 12)
    other = xgb.Booster(model_file=bytearray(complement(bytes(booster.save_raw("ubj")))))
    for kind in ({"output_margin": True}, {"pred_contribs": True}):
        assert np.allclose(booster.predict(data, **kind), -other.predict(data, **kind), atol=3e-6)
    assert np.allclose(booster.predict(data) + other.predict(data), 1, atol=3e-7)
    of_features = [contributions(one, rows)[0] for one in (booster, other)]
    np.testing.assert_array_equal(of_features[0], -of_features[1])


def test_run__fits_the_second_class_and_takes_its_complement_for_the_first(run: Path) -> None:
    folds = read_parts(run / "multi_instance_training" / "instance_00" / "fold_models.miduck")
    for fold in range(2):
        assert folds[f"booster_{fold}_0.ubj"] == complement(folds[f"booster_{fold}_1.ubj"])
    found = pq.read_table(run / "oof_predictions.parquet")
    assert np.allclose(found["p_no"].to_numpy() + found["p_yes"].to_numpy(), 1, atol=1e-6)
    of_member = pq.read_table(run / "multi_instance_training" / "instance_00" / "oof_predictions.parquet")
    assert np.allclose(of_member["margin_no"].to_numpy(), -of_member["margin_yes"].to_numpy(), atol=3e-6)


def test_importance__of_two_classes_is_one_column(run: Path) -> None:
    assert mi_duck.Run(run).importance().columns == ["feature", "shap_importance"]


def test_refit__of_two_classes_is_one_and_its_complement(run: Path, table: Path) -> None:
    model = load_unified_model(run)
    assert model.consolidation_method == "joint_refit", "which is what was chosen here"
    for member in model.members:
        no, yes = (booster.predict(xgb.DMatrix(np.zeros((1, 9))), output_margin=True)[0] for booster in member.boosters)
        assert no == pytest.approx(-yes, abs=1e-5)
    kept: dict[int, list[np.ndarray]] = {0: [], 1: []}
    rows = np.random.default_rng(1).normal(size=(50, 9)).astype(np.float32)
    stages: list[int] = []
    found = explain(
        [member.boosters for member in model.members],
        [1.0] * len(model.members),
        encoding=model.members[0].encoding,
        features=model.features,
        matrix=rows,
        keep=lambda index, values: kept[index].append(values),
        report=lambda _, done, total: stages.append(done),
    )
    np.testing.assert_array_equal(kept[0], np.negative(kept[1]))
    np.testing.assert_array_equal(found.by_class[0].value, found.by_class[1].value)
    assert stages[-1] == 50 * 2 * len(model.members)


def test_train__interrupted_ends_with_the_same_bytes(table: Path, tmp_path: Path) -> None:
    whole = partitioned(table, tmp_path / "whole", "--strategy", "single", *COLUMNS, *SMALL)
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    rounds, n_ends = count(1), 0

    def end_now_and_then(stage: str, done: int, total: int) -> None:
        if stage.startswith("rounds of") and next(rounds) % 7 == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    for _ in range(20):
        with contextlib.suppress(SystemExit):
            train_instance(run=str(cut), instance_id=0, threads=1, report=end_now_and_then)
            break
        n_ends += 1
        names = {file.name for file in (cut / ".scratch" / "progress" / "instance_00").iterdir()}
        assert not any(name.endswith("class_0.miduck") for name in names)
    assert n_ends >= 2
    train_instance(run=str(whole), instance_id=0, threads=2, report=lambda *_: None)
    for name in ("model_multiclass.miduck", "fold_models.miduck", "oof_predictions.parquet"):
        paths = (one / "multi_instance_training" / "instance_00" / name for one in (whole, cut))
        assert len({hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}) == 1


# ---- words and figures --------------------------------------------------------------------------------------------------


def test_words__of_a_table_without_genes_have_none(run: Path, table: Path, tmp_path: Path) -> None:
    page = re.sub(r"<(style|svg|title).*?</\1>|<pre>.*?</pre>", " ", (run / "report.html").read_text(), flags=re.DOTALL)
    texts = [re.sub(r"<[^>]*>", " ", page), (run / "unified_training_summary.txt").read_text()]
    texts += [here("inspect", table, *COLUMNS).output, here("status", run).output, here("compare", run, run).output]
    texts.append(here("plan", table, "--out", tmp_path / "plan", *COLUMNS, *SMALL, *MULTI[:4]).output)
    texts.append(here("verify", run).output)
    texts.append(json.dumps(json.loads((run / "leakage_analysis" / "leakage.json").read_text())["rule"]))
    assert "groups are listed once" in texts[-2]
    assert "within groups" in texts[-1]
    texts.append(here("predict", run, table, "--out", tmp_path / "p.parquet").output)
    for text in texts:
        assert GENOMIC.findall(text) == [], [
            text[max(one.start() - 60, 0) : one.end() + 30] for one in GENOMIC.finditer(text)
        ]
    assert "120 groups of patient" in texts[0]
    drawn = re.findall(r"<text[^>]*>([^<]*)</text>", (run / "report.html").read_text())
    assert "memory per group" in drawn
    assert GENOMIC.findall(" ".join(drawn)) == []


def test_page__of_two_classes_shows_nothing_twice(run: Path) -> None:
    page = (run / "report.html").read_text()
    titles = re.findall(r'<figure[^>]*aria-label="([^"]*)"', page)
    assert len(titles) == len(set(titles))
    assert not [title for title in titles if title.endswith((" no", "for no"))]
    assert "Reliability: yes" in titles
    assert "base score" not in re.sub(r"<[^>]*>", " ", page).lower()


def test_figure_format__holds_for_every_figure(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "run"
    shutil.copytree(run, other)
    assert {path.suffix for path in figures(other)} == {".pdf", ".svg", ".png"}
    here("explain", other, "--shap-sample", "200", "--figure-format", "svg")
    here("report", other, "--figure-format", "svg")
    of_instances = {path for path in figures(other) if "multi_instance_training" in path.parts}
    assert {path.suffix for path in set(figures(other)) - of_instances} == {".svg"}
    assert {path.suffix for path in of_instances} == {".pdf"}, "they are drawn by a run alone"
    page = (other / "report.html").read_text()
    assert 'href="pr_base_vs_meta.svg"' in page
    assert ".pdf" not in page
    here("verify", other)


def figures(run: Path) -> list[Path]:
    return [path for path in run.rglob("*") if path.suffix in (".pdf", ".svg", ".png")]


def test_links__of_every_section_are_of_files_that_a_run_has(run: Path) -> None:
    optional = {"holdout_predictions.parquet", "base_vs_meta.json", "true_rate.json", "scan_errors.csv"}
    missing = {one for patterns in LINKS.values() for one in patterns if not list(run.glob(one))}
    assert missing <= optional
