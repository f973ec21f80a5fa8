"""Planted leaks are flagged, honest features are not, and a run leaves out what was flagged."""

import csv
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from runs import SMALL, call
from scipy.stats import rankdata
from sklearn.metrics import matthews_corrcoef, mutual_info_score, roc_auc_score

from mi_duck.data.database import Database
from mi_duck.data.dataset import open_dataset
from mi_duck.data.genes import index_genes
from mi_duck.leakage import leakage
from mi_duck.leakage.leakage import Sample, comparisons, probe, read_sample, sample_runs
from mi_duck.leakage.separation import Side, area, area_within, best_cut, rank_correlation, tally
from mi_duck.report.plots import leakage_figure
from mi_duck.run.folder import RunFolder
from mi_duck.workflow.resume import differences_asked

CLASSES = ("neither", "donor", "acceptor")
BASE = ("neither_score", "donor_score", "acceptor_score")


def quiet(stage: str, done: int, total: int) -> None:
    """Take progress and forget it."""


def sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-values))


def rows_of_genes(seed: int, n_genes: int = 120, mean_rows: float = 120) -> tuple[np.random.Generator, Any, Any, Any]:
    """Return a generator, and gene, label (85 % neither, 8 % donor, 7 % acceptor) and fold group of each row and gene."""
    rng = np.random.default_rng(seed)
    gene = np.repeat(np.arange(n_genes), 12 + rng.poisson(mean_rows * rng.lognormal(-0.3, 0.8, n_genes)))
    label = rng.choice(3, len(gene), p=(0.85, 0.08, 0.07))
    return rng, gene, label, np.arange(n_genes) // 2


def shift_of(area: float) -> float:
    """Return the distance of two normal distributions with this area between them: AUC = Phi(d / sqrt 2)."""
    return NormalDist().inv_cdf(area) * 2**0.5


def honest(rng: np.random.Generator, gene: Any, label: Any) -> dict[str, NDArray[Any]]:
    """Return 50 features of many kinds that measure something: areas from .5 to .97."""
    n = len(label)
    columns: dict[str, NDArray[Any]] = {}
    sites = ((label == 1), (label == 2), (label > 0))
    for number, separation in enumerate(np.linspace(0.5, 0.97, 10)):
        up = shift_of(separation) * sites[number % 3]
        signal = rng.normal(size=n) + up
        columns[f"normal_{number}"] = signal.astype(np.float32)
        skewed = np.exp(0.7 * (rng.normal(size=n) + up))
        columns[f"skewed_{number}"] = skewed.astype(np.float32)
        columns[f"count_{number}"] = (
            rng.poisson(np.where(sites[number % 3], 1 + 2 * up, 1)).clip(0, 255).astype(np.uint8)
        )
        # a tenth is missing at random, in some genes altogether
        holes = np.where(rng.random(n) < 0.1, np.nan, rng.normal(size=n) + up)
        columns[f"holes_{number}"] = np.where(np.isin(gene, rng.integers(0, 120, 5)), np.nan, holes).astype(np.float32)
        # a detector: zero below its threshold, so that most rows of the background are exactly zero
        columns[f"detector_{number}"] = np.maximum(rng.normal(size=n) + up - 0.7, 0).astype(np.float32)
    return columns


def base_scores(rng: np.random.Generator, label: Any, area: float = 0.96) -> dict[str, NDArray[Any]]:
    """Return base scores of the given area, and features that derive from them."""
    d, a = (sigmoid(1.5 * (rng.normal(size=len(label)) + shift_of(area) * (label == number)) - 2) for number in (1, 2))
    n = 1 / (1 + d + a)
    found = {"neither_score": n, "donor_score": d, "acceptor_score": a, "splice_probability": (d + a) / (d + a + n)}
    found |= {"donor_acceptor_diff": (d - a) / (np.maximum(d, a) + 1e-10), "relative_donor_probability": d / (d + a)}
    found |= {"donor_acceptor_logodds": np.log(d) - np.log(a), "donor_is_peak": (d > 0.5).astype(float)}
    return {name: values.astype(np.float32) for name, values in found.items()}


def leaks(rng: np.random.Generator, gene: Any, label: Any) -> dict[str, NDArray[Any]]:
    """Return columns whose value is defined by the label, and the honest columns that some of them copy."""
    n, n_genes = len(label), gene.max() + 1
    site = label > 0
    length = rng.integers(2_000, 90_000, n_genes)[gene].astype(np.float32)
    start = rng.integers(10_000, 9_000_000, n_genes)[gene].astype(np.float32)
    shorter = (length * rng.uniform(0.3, 0.9, n_genes)[gene]).round()
    other = rng.normal(size=n).astype(np.float32)
    flipped = np.where(rng.random(n) < 0.026, ~site, site)
    code = np.where(label == 1, 1, np.where(label == 2, 0, rng.integers(0, 2, n)))
    spread = np.sqrt(0.1275 * (1 / 0.81 - 1))  # y + noise correlates .9 with y, whose variance is .15 x .85
    return {
        "gene_length": length,
        "gene_start": start,
        "other": other,
        "LEAK transcript_length": np.where(site, shorter, length),  # the reference: equal to gene_length at no site
        "LEAK num_exons": np.where(site, rng.integers(2, 20, n_genes)[gene], 0),  # zero at no site
        # two in five genes have one transcript, which begins where the gene does
        "LEAK tx_start": np.where(site & (gene % 5 > 1), start + 500, start),
        "LEAK missing_transcript_feats": (~site).astype(np.uint8),
        "LEAK missing": np.where(~site & (rng.random(n) < 0.5), np.nan, rng.normal(size=n)),
        "LEAK missing at donors": np.where((label == 1) & (rng.random(n) < 0.5), np.nan, rng.normal(size=n)),
        "LEAK copy": np.where(label == 2, rng.normal(size=n), other),
        "LEAK zero": np.where(site & (rng.random(n) < 0.6), rng.normal(size=n), 0),
        "LEAK correlation .9": site + spread * rng.normal(size=n),
        "LEAK flipped": flipped.astype(np.uint8),
        "LEAK donor": (label == 1) + 0.2 * rng.normal(size=n),
        "LEAK donor or acceptor": code.astype(np.uint8),
        "LEAK track": (np.where(label == 1, 1, np.where(label == 2, -1, rng.choice((-1, 1), n))))
        * rng.gamma(9, size=n),
    }


def sample_of(columns: dict[str, NDArray[Any]], gene: Any, label: Any, group: Any) -> Sample:
    typed = {
        name: values if values.dtype == np.uint8 else values.astype(np.float32) for name, values in columns.items()
    }
    return Sample(typed, label, gene, group)


def suspects_of(sample: Sample, base: tuple[str, ...] = BASE) -> dict[str, str]:
    return dict(probe(sample, CLASSES, base, quiet)[1])


# ---- the rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("base", [BASE, ()], ids=["base scores", "none"])
def test_probe__finds_planted_leaks_and_no_honest_feature(seed: int, base: tuple[str, ...]) -> None:
    """Of 50 honest features, copies' originals, base scores and what derives from them none is suspect."""
    rng, gene, label, group = rows_of_genes(seed)
    columns = (base_scores(rng, label) if base else {}) | honest(rng, gene, label) | leaks(rng, gene, label)
    found = suspects_of(sample_of(columns, gene, label, group), base)
    assert set(found) == {name for name in columns if name.startswith("LEAK")}
    assert "equals gene_length in 100 % of neither rows and 0 % of other rows" in found["LEAK transcript_length"]
    assert "is 0 in 100 % of neither rows" in found["LEAK num_exons"]
    assert "missing in" in found["LEAK missing"]


@pytest.mark.parametrize("seed", range(3))
def test_probe__of_a_small_sample_flags_no_honest_feature(seed: int) -> None:
    rng, gene, label, group = rows_of_genes(seed, n_genes=30, mean_rows=30)
    columns = base_scores(rng, label) | honest(rng, gene, label)
    assert suspects_of(sample_of(columns, gene, label, group)) == {}


def test_probe__flags_nothing_from_a_few_groups() -> None:
    """Eight genes of four groups are too few to flag even the label itself."""
    rng, gene, label, group = rows_of_genes(0, n_genes=8)
    rows, suspects = probe(sample_of({"label": (label > 0) * 1.0}, gene, label, group), CLASSES, (), quiet)
    assert suspects == []
    assert {row["verdict"] for row in rows} == {"too few rows"}
    assert rows[0]["auc"] == 1


def test_probe__a_strong_base_score_and_a_code_hidden_in_it() -> None:
    """Base scores of area .995 and what derives from them stay; the same score with the label added does not."""
    rng, gene, label, group = rows_of_genes(1)
    columns = base_scores(rng, label, area=0.995)
    columns["raised"] = columns["donor_score"] + 2 * (label == 1)
    assert set(suspects_of(sample_of(columns, gene, label, group))) == {"raised"}


def test_probe__a_base_score_that_is_missing_for_one_class_is_suspect() -> None:
    rng, gene, label, group = rows_of_genes(2)
    columns = base_scores(rng, label)
    columns["donor_score"] = np.where((label == 0) & (rng.random(len(label)) < 0.4), np.nan, columns["donor_score"])
    found = suspects_of(sample_of(columns, gene, label, group))
    assert set(found) == {"donor_score"}
    assert "missing in" in found["donor_score"]


def test_probe__a_copy_of_a_feature_that_moves_with_the_base_scores() -> None:
    """Where it does not equal the other it knows nothing, so it is not a derived score."""
    rng, gene, label, group = rows_of_genes(3)
    columns = base_scores(rng, label)
    columns["copy"] = np.where(label == 0, columns["splice_probability"], rng.random(len(label)))
    assert set(suspects_of(sample_of(columns, gene, label, group))) == {"copy"}


def test_probe__finds_the_label_in_the_last_digits_of_a_value() -> None:
    """Values with three decimals, and the label in the fourth or in the last bit of the number; plain decimals stay."""
    rng, gene, label, group = rows_of_genes(4)
    site, value = label > 0, 20 * rng.normal(size=len(label)).round(3)
    even = (value.astype(np.float32).view(np.uint32) & ~np.uint32(1)).astype(np.uint32)
    columns = {
        "plain": value,
        "percent": rng.integers(0, 101, len(label)) / 100,
        "detector": np.maximum(rng.normal(size=len(label)) + 2 * site - 1, 0),
        "fourth decimal": rng.normal(size=len(label)).round(3) + 3e-4 * site,
        "after the point": rng.poisson(5, len(label)) + 0.25 * (label == 1),
        "bit": (even + site.astype(np.uint32)).view(np.float32),
    }
    found = suspects_of(sample_of(columns, gene, label, group), ())
    assert set(found) == {"fourth decimal", "after the point", "bit"}
    assert "area 1.0000 between neither and other in the digits after decimal 3, 0.5" in found["fourth decimal"]
    assert (
        "donor vs rest: area 1.0000 between donor and other in the digits after decimal 0" in found["after the point"]
    )
    assert "in the last bit" in found["bit"]


@pytest.mark.parametrize("base", [BASE, ()], ids=["base scores", "none"])
def test_probe__finds_a_code_of_the_labels_of_a_gene(base: tuple[str, ...]) -> None:
    """A gene's share of donors, also rounded; its length, its number of rows and another gene's share say nothing."""
    rng, gene, label, group = rows_of_genes(5)
    n_rows = np.bincount(gene)
    share = np.bincount(gene[label == 1], minlength=len(n_rows)) / n_rows
    columns = (base_scores(rng, label) if base else {}) | {
        "share": share[gene],
        "rounded share": share.round(2)[gene],
        "length": (30 * n_rows * rng.lognormal(0, 0.5, len(n_rows)))[gene],
        "rows": n_rows[gene].astype(float),
        "share of others": rng.permutation(share)[gene],
    }
    found = suspects_of(sample_of(columns, gene, label, group), base)
    assert set(found) == {"share", "rounded share"}
    assert found["share"].startswith(
        "donor vs rest: has one value per gene, which ranks genes by their share of donor rows"
    )


def test_probe__finds_the_label_with_noise_where_base_scores_are_far_worse_and_not_otherwise() -> None:
    """Base scores reach .96. At .985 noise and label are told from a measurement, at .97 or without base scores not."""
    rng, gene, label, group = rows_of_genes(6)
    scores = base_scores(rng, label, area=0.96)
    d = scores["donor_score"]
    shared = (np.log(d / (1 - d)) + 2) / 1.5 - shift_of(0.96) * (label == 1)  # the noise of the base score
    measured = 0.5 * shared + 0.75**0.5 * rng.normal(size=len(label)) + shift_of(0.988) * (label == 1)
    columns = {
        name: rng.normal(size=len(label)) + shift_of(area) * (label == 1)
        for name, area in (("noisy", 0.988), ("less", 0.97))
    }
    found = suspects_of(sample_of(scores | columns | {"measured": measured}, gene, label, group))
    assert set(found) == {"noisy"}
    assert "where the best base score reaches 0.9" in found["noisy"]
    assert suspects_of(sample_of(columns, gene, label, group), ()) == {}


@pytest.mark.parametrize("base", [BASE, ()], ids=["base scores", "none"])
def test_probe__accuses_no_honest_score_that_tells_donors_from_acceptors(base: tuple[str, ...]) -> None:
    """Scores of one kind of site, and of both with different signs, of which each separates the two kinds almost perfectly."""
    rng, gene, label, group = rows_of_genes(7)
    n = len(label)
    scores = base_scores(rng, label)
    noise = 0.5 * np.log(scores["donor_score"]) + rng.normal(size=n)  # what another model of the same sequence shares
    two_sided = noise + 2.6 * (label == 1) - 2.6 * (label == 2)
    has_motif = (label == 1) | ((label == 0) & (rng.random(n) < 0.25))
    one_sided = 5 * has_motif + noise / 2
    columns = {"two-sided": two_sided, "one-sided": one_sided, "opposite": -two_sided}
    sample = sample_of((scores if base else {}) | columns, gene, label, group)
    rows, suspects = probe(sample, CLASSES, base, quiet)
    assert suspects == []
    areas = {row["feature"]: row["auc"] for row in rows if row["comparison"] == "donor vs acceptor"}
    assert min(areas[name] for name in columns) > 0.995


@pytest.mark.parametrize("n_genes", [30, 120])
def test_probe__accuses_no_base_score_that_is_rounded_to_zero_far_from_sites(n_genes: int) -> None:
    """As deep models give them: all zero at nearly every row of the background, so that they equal each other there."""
    rng, gene, label, group = rows_of_genes(8, n_genes=n_genes, mean_rows=60)
    donor, acceptor = (
        np.where((label == number) | (rng.random(len(label)) < 0.02), rng.beta(4, 1, len(label)), 0).round(2)
        for number in (1, 2)
    )
    columns = {"neither_score": (1 - donor - acceptor).clip(0), "donor_score": donor, "acceptor_score": acceptor}
    columns["site_score"] = np.maximum(donor, acceptor)
    columns["difference"] = donor - acceptor
    assert suspects_of(sample_of(columns, gene, label, group)) == {}


@pytest.mark.parametrize("n_classes", [2, 5])
def test_probe__works_for_any_number_of_classes(n_classes: int) -> None:
    rng = np.random.default_rng(0)
    gene = np.repeat(np.arange(60), 80)
    label = rng.integers(0, n_classes, len(gene))
    columns = {
        "honest": rng.normal(size=len(gene)) + (label == 1),
        "code": (label == 1) + 0.1 * rng.normal(size=len(gene)),
    }
    sample = sample_of(columns, gene, label, np.arange(60))
    names = [f"c{number}" for number in range(n_classes)]
    rows, suspects = probe(sample, names, (), quiet)
    assert [name for name, _ in suspects] == ["code"]
    # two classes have one comparison; five have five and the pairs of four
    assert len(rows) == 2 * (1 if n_classes == 2 else 5 + 6)
    assert [one.name for one, _ in comparisons(sample, names)][0] == ("c1 vs rest" if n_classes == 2 else "c0 vs rest")


# ---- the report of a run ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def leaky_dataset(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the small dataset with a copy of the gene's length that is shorter at sites, and a code of the label."""
    rows = pq.read_table(small_dataset / "master")
    label = np.array(rows["splice_type"].to_pylist())
    gene = np.unique(rows["gene_id"].to_pylist(), return_inverse=True)[1]
    length = (1000.5 + 300 * gene).astype(np.float32)
    noise = np.random.default_rng(0).normal(size=len(rows))
    for name, values in {
        "length": length,
        "shorter": np.where(label == "neither", length, length / 2),
        "code": ((label == "acceptor") + 0.05 * noise).astype(np.float32),
    }.items():
        rows = rows.append_column(name, pa.array(values))
    folder = tmp_path_factory.mktemp("leaky")
    pq.write_table(rows, folder / "a.parquet", row_group_size=700)
    return folder


@pytest.fixture(scope="module")
def reported(leaky_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a planned run and what was said."""
    out = tmp_path_factory.mktemp("reported") / "run"
    result = call("plan", leaky_dataset, "--out", out, *SMALL)
    assert result.exit_code == 0, result.output
    return out, result.stderr


def lines_of(run: Path) -> list[dict[str, str]]:
    with (run / "leakage_analysis" / "leakage.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_report__is_made_and_warns_in_a_line_each(reported: tuple[Path, str]) -> None:
    run, said = reported
    lines = [line for line in said.splitlines() if line.startswith("feature ")]
    assert len(lines) == 2
    assert lines[0].startswith(
        "feature 'shorter' warning: it may leak the label: neither vs rest: equals length in 100 %"
    )
    assert lines[1].startswith("feature 'code' warning: it may leak the label: acceptor vs rest: area ")
    assert "2 suspect features stay; --auto-exclude-leaky would leave them out" in said
    facts = json.loads((run / "leakage_analysis" / "leakage.json").read_bytes())
    assert [one["feature"] for one in facts["suspects"]] == ["shorter", "code"]
    assert facts["excluded"] == []
    assert facts["n_genes"] == len(facts["genes"]) == 60
    assert facts["n_rows"] == sum(facts["n_rows_of_class"].values())
    assert {"shorter", "code"} <= set(RunFolder(run).read_plan().data.features)


def test_report__equals_scikit_learn(reported: tuple[Path, str], leaky_dataset: Path) -> None:
    """Areas, mutual information of the bins, and verdicts of a few columns over all rows."""
    rows = pq.read_table(leaky_dataset)
    label = np.array(rows["splice_type"].to_pylist())
    lines = {(line["feature"], line["comparison"]): line for line in lines_of(reported[0])}
    for feature in ("donor_score", "signal_donor_0", "noise_0", "shorter"):
        values = rows[feature].to_numpy()
        for comparison, one, other in (
            ("donor vs rest", label == "donor", label != "donor"),
            ("donor vs acceptor", label == "donor", label == "acceptor"),
        ):
            line = lines[feature, comparison]
            whole = roc_auc_score(one[one | other], values[one | other])
            assert float(line["auc"]) == pytest.approx(max(whole, 1 - whole), abs=1e-9)
            assert float(line["low"]) < float(line["auc"]) < float(line["high"])
            # sixteen bins of equal rows, separated by the middle of the ranks of equal values
            bins = (16 * (rankdata(values) - 0.5) / len(values)).astype(int)
            bits = mutual_info_score(one[one | other], bins[one | other]) / np.log(2)
            assert float(line["mutual_information"]) == pytest.approx(bits, abs=1e-9)
    assert lines["donor_score", "donor vs rest"]["verdict"] == "base score"
    assert lines["noise_0", "donor vs rest"]["verdict"] == "clear"
    assert float(lines["shorter", "neither vs rest"]["within_gene_auc"]) == 1
    assert lines["shorter", "neither vs rest"]["equal_to"] == "length"


def test_report__excludes_for_the_whole_run_if_asked(
    reported: tuple[Path, str], leaky_dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    result = call("plan", leaky_dataset, "--out", out, *SMALL, "--auto-exclude-leaky")
    assert result.exit_code == 0, result.output
    assert "feature 'shorter' left out because it leaks the label: neither vs rest" in result.stderr
    assert "--auto-exclude-leaky leaves out 2 of 43 features: shorter, code" in result.stderr
    before, plan = RunFolder(reported[0]).read_plan(), RunFolder(out).read_plan()
    assert plan.data.features == tuple(name for name in before.data.features if name not in ("shorter", "code"))
    assert plan.data.leaky_features == ("shorter", "code")
    assert json.loads((out / "leakage_analysis" / "leakage.json").read_bytes())["excluded"] == ["shorter", "code"]
    # the same table and verdicts, and a run goes on with the plan though the dataset has these columns
    files = [folder / "leakage_analysis" / "leakage.csv" for folder in (reported[0], out)]
    assert files[0].read_bytes() == files[1].read_bytes()
    again = open_dataset(str(leaky_dataset))
    assert differences_asked(plan, again, plan.asked) == []
    fewer = replace(again, features=again.features[1:])
    assert "features differ" in differences_asked(before, fewer, plan.asked)


def test_report__of_a_dataset_of_leaks_alone_leaves_no_feature(leaky_dataset: Path, tmp_path: Path) -> None:
    rows = pq.read_table(leaky_dataset, columns=["gene_id", "splice_type", "code"])
    pq.write_table(rows, tmp_path / "a.parquet")
    result = call("plan", tmp_path / "a.parquet", "--out", tmp_path / "run", *SMALL, "--auto-exclude-leaky")
    assert result.exit_code == 65
    assert "--auto-exclude-leaky leaves no feature of" in result.stderr
    assert not (tmp_path / "run" / "plan.json").exists()


def test_sample_runs__take_whole_genes_from_few_row_groups(
    db: Database, synthetic: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where rows are in the order of genes a part is read; where they are mixed, a few genes from everywhere."""
    monkeypatch.setattr(leakage, "ROWS_READ", 1_000)
    monkeypatch.setattr(leakage, "LEAST_GENES", 5)
    read = {}
    for name, shuffled in (("ordered", False), ("mixed", True)):
        folder = synthetic(name=name, n_genes=120, rows_per_gene=30, shuffle_rows=shuffled)
        rows = pq.read_table(folder / "master")
        pq.write_table(rows, folder / "master" / "one.parquet", row_group_size=250)
        for file in (folder / "master").glob("*.parquet"):
            if file.name != "one.parquet":
                file.unlink()
        dataset = open_dataset(str(folder))
        index_genes(db, dataset, seed=42)
        n_rows = {row["gene_rank"]: row["n_rows"] for row in db.read("gene_index").to_pylist()}
        runs = sample_runs(db, dataset, n_wide=10, seed=42)
        found: dict[int, int] = {}
        for run in runs:
            found[run["gene_rank"]] = found.get(run["gene_rank"], 0) + run["n_rows"]
        assert all(n_rows[rank] == n for rank, n in found.items())
        read[name] = ({run["row_group"] for run in runs}, sorted(found))
        sample = read_sample(runs, dataset.features, (), "splice_type", dataset.labels, quiet)
        gene_of = np.array(rows["gene_id"].to_pylist())
        genes = sorted(
            {run["gene_id"] for run in runs},
            key=lambda gene: next(run["gene_rank"] for run in runs if run["gene_id"] == gene),
        )
        for number, gene in enumerate(genes[:3]):
            expected = np.sort(rows["donor_score"].to_numpy()[gene_of == gene])
            assert np.array_equal(np.sort(sample.columns["donor_score"][sample.gene == number]), expected)
    assert len(read["ordered"][0]) <= 5  # four row groups hold the first 1,000 rows, a fifth may begin below them
    assert len(read["ordered"][1]) >= 5
    assert read["mixed"][1] == [0, 1, 2, 3, 4]


# ---- the measures -----------------------------------------------------------------------------------------------------


def test_area__interval_covers_the_truth_where_rows_of_a_group_are_alike() -> None:
    """Every group shifts all its rows; 95 % intervals that count rows as independent would cover far less."""
    truth, covered, n_sets = 0.76, 0, 120  # Phi(1 / sqrt 2) = .760
    for seed in range(n_sets):
        rng = np.random.default_rng(seed)
        stratum = np.repeat(np.arange(40), 30)
        label = np.tile([0, 1], 600)
        # a group's shift is common to both sides of its own rows but not to those of others: total variance stays 1
        shift = rng.normal(size=(40, 2))[stratum, label]
        values = (0.6 * shift + 0.8 * rng.normal(size=len(label)) + label).astype(np.float32)
        (found,) = area(tally([values], label, stratum, np.arange(40)), Side((1,), (0,)))
        covered += found.low <= truth <= found.high
    assert 0.88 <= covered / n_sets <= 0.99


def test_area_within__counts_pairs_of_a_stratum_alone() -> None:
    """Stratum 0: sites 5, 7 against 6: one of two pairs in order. Stratum 1: site 1 against 0, 0: both. 3 of 4 pairs."""
    values = np.array([5, 7, 6, 1, 0, 0, np.nan], dtype=np.float32)
    label = np.array([1, 1, 0, 1, 0, 0, 1])
    cells = tally([values], label, np.array([0, 0, 0, 1, 1, 1, 1]), np.arange(2))
    assert area_within(cells, Side((1,), (0,)))[0].value == 3 / 4
    # over all pairs 5 > 0, 0; 7 > 6, 0, 0; 1 > 0, 0: seven of nine
    assert area(cells, Side((1,), (0,)))[0].value == pytest.approx(7 / 9)


def test_best_cut__equals_all_cuts_by_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    label = (rng.random(400) < 0.2).astype(np.int64)
    for values in (rng.poisson(2 + 3 * label).astype(np.uint8), (rng.normal(size=400) - label).astype(np.float32)):
        (found,) = best_cut(tally([values], label, np.arange(400) // 10, np.arange(40)), Side((1,), (0,)))
        cuts = [abs(matthews_corrcoef(label, values > cut)) for cut in np.unique(values)[:-1]]
        assert found.coefficient == pytest.approx(max(cuts))
        assert 0 < found.low < found.coefficient


def test_rank_correlation__ignores_missing_rows_and_is_zero_for_constants() -> None:
    """Ranks of (1, 2.5, 2.5, 4) and (1, 3, 2, 4): deviations -1.5, 0, 0, 1.5 and -1.5, .5, -.5, 1.5, so 4.5 / sqrt(4.5 x 5)."""
    one = np.array([10, 20, 20, 40, np.nan, 0], dtype=np.float32)
    other = np.array([1, 3, 2, 4, 9, np.nan], dtype=np.float32)
    assert rank_correlation(one, other) == pytest.approx(4.5 / np.sqrt(4.5 * 5))
    assert rank_correlation(one, np.full(6, 7, dtype=np.float32)) == 0
    assert rank_correlation(one[4:], other[4:]) == 0


def test_figure__leaves_out_comparisons_in_which_a_feature_is_never_present() -> None:
    """Twelve donors are too few to flag a feature that all of them lack; the comparison without donors is drawn."""
    rng, gene, label, group = rows_of_genes(0, n_genes=30)
    label[label == 1] = 0
    label[:12] = 1
    sample = sample_of({"a": np.where(label == 1, np.nan, rng.normal(size=len(label)))}, gene, label, group)
    rows, suspects = probe(sample, CLASSES, (), quiet)
    assert suspects == []
    assert [row["auc"] == "" for row in rows] == [False, True, False, True]
    (axes,) = leakage_figure(rows, ()).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a"]


def test_probe__says_the_same_with_threads_however_long_each_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two columns that equal each other on the rows of one class, the later one is the copy."""
    rng = np.random.default_rng(1)
    n = 12_000
    label = rng.integers(0, 2, n)
    first = rng.normal(size=n).astype(np.float32)
    last = np.where(label == 1, first, rng.normal(size=n)).astype(np.float32)
    noise = {f"noise_{number}": rng.normal(size=n).astype(np.float32) for number in range(9)}
    sample = Sample({"first": first} | noise | {"last": last}, label, np.repeat(np.arange(120), 100), np.arange(120))
    real = leakage.tally

    def slow(columns: Any, *others: Any) -> Any:
        time.sleep(0.5 * (columns[0] is first))
        return real(columns, *others)

    monkeypatch.setattr(leakage, "tally", slow)
    (one, _), *others = probe(sample, ("no", "yes"), (), quiet, threads=4)[1]
    assert (one, others) == ("last", [])


def test_probe__that_is_interrupted_measures_no_further_feature(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    n, real, measured = 70_000, leakage.tally, []

    def counted(columns: Any, *others: Any) -> Any:
        measured.append(len(columns))
        return real(columns, *others)

    def interrupted(stage: str, done: int, total: int) -> None:
        if stage == "looking for leaks":
            raise KeyboardInterrupt

    monkeypatch.setattr(leakage, "tally", counted)
    columns = {f"noise_{number}": rng.normal(size=n).astype(np.float32) for number in range(12)}
    sample = Sample(columns, rng.integers(0, 2, n), np.repeat(np.arange(700), 100), np.arange(700))
    with pytest.raises(KeyboardInterrupt):
        probe(sample, ("no", "yes"), (), interrupted, threads=2)
    assert sum(measured) < 12
