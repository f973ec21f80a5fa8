"""Learning curves: the law, its sentences, and the command from a dataset to its page."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import SMALL, call, end, here, started, wait_for_line

from mi_duck.errors import OverAskedBudgetError
from mi_duck.evaluate.learning_curve import (
    AHEAD,
    CHECK,
    MEASURED,
    curve_points,
    fit_law,
    points_of,
    sentences,
    size_lines,
)
from mi_duck.run.folder import RunFolder
from mi_duck.run.plan import Instance, Plan

# of the small run what a learning curve takes
FLAGS = SMALL[SMALL.index("--threads") :]


# ---- the law ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [0.1, 0.3, 0.5, 0.9])
def test_fit_law__finds_a_law_that_holds(exponent: float) -> None:
    sizes = np.array([100.0, 200.0, 400.0, 800.0, 1600.0])
    ahead = np.array([3200.0, 12_800.0])
    values = np.stack([0.9 - 2 * sizes**-exponent, 0.1 + 1 * sizes**-exponent])
    expected = np.stack([0.9 - 2 * ahead**-exponent, 0.1 + 1 * ahead**-exponent])
    assert fit_law(values, sizes, ahead.tolist()) == pytest.approx(expected, abs=2e-3)


def test_fit_law__follows_the_larger_sizes_where_the_smallest_is_out_of_line() -> None:
    """A first size of so few genes that nothing was learned yet; from the second on the law holds."""
    sizes = np.array([25.0, 50.0, 100.0, 200.0, 400.0])
    values = 0.9 - 0.5 * sizes**-0.5
    plain = fit_law(values[None], sizes, [800.0])[0, 0]
    values[0] -= 0.15
    assert plain == pytest.approx(0.9 - 0.5 * 800**-0.5, abs=1e-3)
    assert fit_law(values[None], sizes, [800.0])[0, 0] == pytest.approx(plain, abs=5e-3)


def test_curve_points__compare_each_size_with_half_of_it_draw_by_draw() -> None:
    """Two draws beside the rows as they are; a falling log loss is a gain."""
    loss = np.array([[0.4, 0.3, 0.25], [0.5, 0.4, 0.35], [0.3, 0.2, 0.15]])
    points = curve_points({("log_loss", "all"): loss}, [10, 20, 40], [100, 200, 400])
    assert [(one.kind, one.n_genes, one.n_rows) for one in points] == [
        (MEASURED, 10, 100),
        (MEASURED, 20, 200),
        (MEASURED, 40, 400),
        (AHEAD, 80, 800),
    ]
    assert [one.value for one in points[:3]] == [0.4, 0.3, 0.25]
    assert points[0].gain is None
    # every draw falls by .1 and then by .05, so these gains are known without any doubt
    assert (points[1].gain, points[1].gain_low, points[1].gain_high) == pytest.approx((0.1, 0.1, 0.1))
    assert (points[2].gain, points[2].gain_low, points[2].gain_high) == pytest.approx((0.05, 0.05, 0.05))
    # a halved gain at every step is the law with c = 1, so the next one is .025
    assert points[3].gain == pytest.approx(0.025, abs=1e-3)


def test_curve_points__predict_the_largest_from_the_others() -> None:
    sizes = [100, 200, 400, 800]
    values = (0.9 - 2.0 / np.sqrt(sizes))[None] + np.array([[0.0], [0.01], [-0.01]])
    values[:, 3] += 0.02  # more than the law says
    points = {one.kind: one for one in curve_points({("average_precision", "macro"): values}, sizes, sizes)}
    assert points[CHECK].value == pytest.approx(0.9 - 2 / np.sqrt(800), abs=2e-3)
    assert points[CHECK].gain == pytest.approx(-0.02, abs=2e-3)


def test_curve_points__of_a_nearly_perfect_score_stay_in_its_range() -> None:
    """A law fitted to noise near an end goes past it, where neither a score nor a gain can be."""
    sizes = [100, 200, 400, 800]
    points = curve_points(curves([0.95, 0.98, 0.9999, 1.0], [0.2, 0.1, 0.001, 0.0001], 0.0), sizes, sizes)
    ahead = {one.metric: one for one in points if one.kind == AHEAD}
    assert ahead["average_precision"].value == ahead["average_precision"].high == 1
    assert ahead["log_loss"].value == ahead["log_loss"].low == 0


def curves(precision: list[float], loss: list[float], spread: float) -> dict:
    around = np.array([[0.0], [spread], [-spread]]) * np.array([[0, 1, 2, 3]])
    return {
        ("average_precision", "macro"): np.array([precision]) + around,
        ("log_loss", "all"): np.array([loss]) + around,
    }


def test_sentences__say_what_rises_and_what_falls_and_whether_it_is_known() -> None:
    sizes = [100, 200, 400, 800]
    rising = curve_points(curves([0.5, 0.6, 0.65, 0.675], [0.4, 0.3, 0.25, 0.225], 0.0), sizes, sizes)
    first, *others = sentences(rising, "")
    assert first.startswith(
        "By the fitted curve, twice the genes (1,600 instead of 800) would raise mean average precision by 0.01"
    )
    assert "and lower log loss by 0.01" in first
    assert not [one for one in others if "no change" in one]
    assert any("predicts 0.675" in one for one in others)
    unknown = curve_points(curves([0.5, 0.5, 0.5, 0.5], [0.3, 0.3, 0.3, 0.3], 0.05), sizes, sizes)
    assert "Neither can be distinguished from no change." in sentences(unknown, "")
    assert sentences(rising, "12 fold groups, fewer than 100")[-1].startswith("They are too narrow: 12 fold groups")


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def curve(lean_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a learning curve of 60 genes; only to be read."""
    out = tmp_path_factory.mktemp("curve") / "out"
    here("learning-curve", lean_dataset, "--out", out, *FLAGS)
    return out


def table(out: Path) -> list[dict[str, str]]:
    with (out / "learning_curve.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_learning_curve__sizes_double_and_rows_are_the_same(curve: Path) -> None:
    sizes = [int(row["n_genes"]) for row in table(curve) if (row["kind"], row["metric"]) == (MEASURED, "log_loss")]
    assert sizes in ([4, 8, 15, 30, 60], [8, 15, 30, 60])  # of four genes some fold may lack a class
    facts = json.loads((curve / "learning_curve.json").read_bytes())
    assert facts["n_rows_scored"] == 2634
    assert len(points_of(facts)) == len(table(curve))
    assert not (curve / ".learning_curve" / ".scratch").exists()
    assert not (curve / ".learning_curve" / "multi_instance_training").exists()


def test_learning_curve__the_largest_size_scores_as_one_model_of_all_genes(
    curve: Path, lean_dataset: Path, tmp_path: Path
) -> None:
    flags = ("--strategy", "single", "--skip-shap", "--minimal-diagnostics")
    here("run", lean_dataset, "--out", tmp_path / "run", *FLAGS, *flags)
    with (tmp_path / "run" / "metrics.csv").open(newline="") as lines:
        single = {
            (row["metric"], row["class"]): float(row["value"])
            for row in csv.DictReader(lines)
            if row["scope"] == "ensemble" and row["value"]
        }
    largest = {
        (row["metric"], row["class_name"]): float(row["value"])
        for row in table(curve)
        if (row["kind"], row["n_genes"]) == (MEASURED, "60")
    }
    assert largest
    assert largest == pytest.approx({key: single[key] for key in largest}, abs=1e-12)


def test_learning_curve__keeps_what_is_trained_where_the_largest_size_needs_too_much(
    curve: Path, lean_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of all genes, counted, need more than the budget; the next time they do not."""

    def recounted(folder: RunFolder, plan: Plan, instance: Instance) -> int:
        if instance.n_genes == plan.data.n_genes:
            raise OverAskedBudgetError("all genes need too much")
        return instance.predicted_bytes

    with monkeypatch.context() as patched:
        patched.setattr("mi_duck.workflow.training.recounted_peak", recounted)
        refused = call("learning-curve", lean_dataset, "--out", tmp_path / "out", *FLAGS)
    assert refused.exit_code == 78, refused.output
    last = refused.stderr.splitlines()[-1]
    assert "all genes need too much; use fewer genes (--sample-genes)" in last
    assert "--genes-per-instance" not in last
    again = here("learning-curve", lean_dataset, "--out", tmp_path / "out", *FLAGS)
    assert "existing instances to reuse" in again.stderr
    assert table(tmp_path / "out") == table(curve)


def test_learning_curve__page_and_terminal_say_the_same(curve: Path, lean_dataset: Path) -> None:
    page = (curve / "report.html").read_text()
    again = here("learning-curve", lean_dataset, "--out", curve, *FLAGS)
    assert "nothing to do" in again.stderr
    facts = json.loads((curve / "learning_curve.json").read_bytes())
    for sentence in facts["sentences"]:
        assert sentence in page.replace("&#39;", "'")
        assert sentence in again.stdout
    assert "<svg" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http-equiv", "")
    as_json = here("learning-curve", lean_dataset, "--out", curve, *FLAGS, "--json")
    assert json.loads(as_json.stdout) == facts
    columns, rows = size_lines(points_of(facts), [("log_loss", "all")])
    assert columns == ("", "genes", "training rows", "log loss", "gain")
    assert [row[0] for row in rows] == [MEASURED] * (len(rows) - 1) + [AHEAD]


def test_learning_curve__another_request_or_a_run_in_the_folder_is_refused(
    curve: Path, lean_dataset: Path, tmp_path: Path
) -> None:
    before = {file: file.read_bytes() for file in curve.iterdir() if file.is_file()}
    refused = call("learning-curve", lean_dataset, "--out", curve, *FLAGS, "--seed", "7")
    assert refused.exit_code == 65
    assert "another request (seed: 42 then, 7 now)" in refused.stderr
    assert {file: file.read_bytes() for file in curve.iterdir() if file.is_file()} == before
    here("plan", lean_dataset, "--out", tmp_path / "run", *SMALL)
    refused = call("learning-curve", lean_dataset, "--out", tmp_path / "run", *FLAGS)
    assert refused.exit_code == 65
    assert "holds a run" in refused.stderr
    refused = call("run", lean_dataset, "--out", curve, *SMALL)
    assert refused.exit_code == 65
    assert "holds a learning curve" in refused.stderr


def test_learning_curve__too_few_genes_or_too_little_memory_is_refused_with_what_works(
    lean_dataset: Path, tmp_path: Path
) -> None:
    # of twelve genes the sizes are 1, 2, 3, 6 and 12; sites are in four genes only, so small sizes lack them in some fold
    gene = np.repeat(np.arange(12), 60)
    kind = np.where(gene < 4, np.arange(720) % 3, 0)
    columns = {
        "gene_id": gene,
        "splice_type": np.array(["neither", "donor", "acceptor"])[kind],
        "x": np.arange(720) % 97,
    }
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "data" / "a.parquet")
    few = call("learning-curve", tmp_path / "data", "--out", tmp_path / "few", *FLAGS, "--n-folds", "2")
    assert few.exit_code == 78, few.output
    assert "12 genes are too few for a learning curve" in few.stderr
    options = [
        *FLAGS[: FLAGS.index("--max-memory-per-instance-gb")],
        *FLAGS[FLAGS.index("--max-memory-per-instance-gb") + 2 :],
    ]
    small = call(
        "learning-curve", lean_dataset, "--out", tmp_path / "small", *options, "--max-memory-per-instance-gb", "0.1"
    )
    assert small.exit_code == 78
    assert "ends with one model of all 60 genes" in small.stderr
    assert not (tmp_path / "few" / "learning_curve.json").exists()


def test_learning_curve__killed_goes_on_to_the_same_bytes(curve: Path, lean_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = started("learning-curve", lean_dataset, "--out", out, *FLAGS)
    try:
        wait_for_line(process, "[Instance 3/")
    finally:
        end(process)
    assert not (out / "learning_curve.csv").exists()
    again = here("learning-curve", lean_dataset, "--out", out, *FLAGS)
    assert "existing instances to reuse" in again.stderr
    for name in ("learning_curve.csv", "learning_curve.json", "report.html", "learning_curve.pdf"):
        assert (out / name).read_bytes() == (curve / name).read_bytes(), name
    assert RunFolder(out / ".learning_curve").read_plan().cut.strategy_used == "single"
