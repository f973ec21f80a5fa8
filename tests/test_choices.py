"""Choices that make training smaller: layouts, folds, sampled negatives, screened features; what each changes and what not."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import md5
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xgboost as xgb
from runs import call, partitioned, quiet, trained
from shared import DENSE, REQUEST

from mi_duck.archive import read_parts
from mi_duck.boosting.train import train_instance
from mi_duck.data.database import Database
from mi_duck.data.dataset import open_dataset
from mi_duck.data.genes import index_genes
from mi_duck.data.sampling import make_row_uses
from mi_duck.errors import PlanError
from mi_duck.genome.synthetic import synthesise
from mi_duck.plan.formula import ROUNDS_WORTH_A_MATRIX, choose_cv
from mi_duck.plan.indexing import choose_sample
from mi_duck.plan.layouts import ROOM_FOR_ZEROS, choose_layout, layout_of, zeros_to_leave_out
from mi_duck.plan.screening import choose_features
from mi_duck.resources import Budget
from mi_duck.rows.partition import partition_here
from mi_duck.rows.segments import LEFT_OUT, USED, USED_FOR_MANY, ColumnDensity, SegmentReader
from mi_duck.run.costs import MemoryModel
from mi_duck.run.folder import RunFolder
from mi_duck.run.plan import Plan, Settings
from mi_duck.run.xgboost_parameters import as_dict
from mi_duck.settings import Asked
from mi_duck.workflow.resume import differences_asked

SETTINGS = Settings(42, 3, 800, 30, 6, 0.1, 256, True)
# 100 columns, ten of them real; one of these has holes
MODEL = MemoryModel(replace(DENSE, n_features=100, n_wide=10, bins=5000, threads=1))
WHOLE = ColumnDensity(
    100, {f"count_{number}": 50 for number in range(90)}, {f"real_{number}": 0 for number in range(10)}
)
FULL = replace(WHOLE, zeros=dict.fromkeys(WHOLE.zeros, 2))
HOLES = replace(FULL, missing=WHOLE.missing | {"real_3": 20})


# ---- layout and folds -------------------------------------------------------------------------------------------------


def chosen(
    asked: str, density: ColumnDensity, budget_bytes: int, *, strategy: str = "multi", device: str = "cpu"
) -> str:
    request = replace(REQUEST, budget=Budget(budget_bytes, "", True))
    options = Asked(layout=asked, strategy=strategy, device=device, train_all_genes=True)
    zeros = zeros_to_leave_out(MODEL.layout, density)
    layout, reason = choose_layout(options, request, MODEL, density, zeros)
    assert reason
    return layout


def test_choose_layout__replaces_missing_values_only_where_memory_leaves_nothing_else() -> None:
    """What 1,500 genes of 400 rows need with holes, and with a number in their place."""
    kept, replaced = (
        MODEL.with_layout(layout_of(MODEL.layout, HOLES, layout, ())).needed_bytes(600_000, 1500)
        for layout in ("missing", "sentinel")
    )
    assert replaced < kept
    for budget, expected in (
        (kept, "missing"),
        (kept - 1, "sentinel"),
        (replaced, "sentinel"),
        (replaced - 1, "missing"),  # neither fits: smaller instances will do
    ):
        assert chosen("auto", HOLES, budget) == expected
    for budget in (1, kept, 1 << 40):
        assert chosen("auto", FULL, budget) == "missing"
        for asked in ("missing", "zeros", "sentinel"):
            assert chosen(asked, HOLES, budget) == asked


def test_choose_layout__leaves_zeros_out_where_that_saves_time_and_fits_with_room_to_spare() -> None:
    """Half of nine tenths of the cells: .69 of the time of a round. A quarter of them saves less than a fifth."""
    zeros, missing = (
        MODEL.with_layout(layout_of(MODEL.layout, WHOLE, layout, tuple(WHOLE.zeros))).needed_bytes(600_000, 1500)
        for layout in ("zeros", "missing")
    )
    assert zeros > missing
    enough = round(zeros / ROOM_FOR_ZEROS) + 1
    assert chosen("auto", WHOLE, enough) == "zeros"
    assert chosen("auto", WHOLE, enough, strategy="single") == "missing"  # twice the genes in it
    assert chosen("auto", WHOLE, 1 << 40, strategy="single") == "zeros"
    assert chosen("auto", WHOLE, 1 << 40, strategy="external") == "missing"
    assert chosen("auto", WHOLE, 1 << 40, device="cuda") == "missing"
    nothing = replace(WHOLE, zeros={}, missing={f"real_{number}": 100 for number in range(100)})
    assert chosen("auto", nothing, 1 << 40) == "missing"
    assert chosen("auto", WHOLE, enough - 2) == "missing"
    few = replace(WHOLE, zeros=dict.fromkeys(WHOLE.zeros, 25))
    assert chosen("auto", few, 1 << 40) == "missing"
    assert chosen("auto", replace(WHOLE, missing=HOLES.missing), enough) == "zeros"


def test_choose_cv__depends_on_the_settings_alone() -> None:
    few, many = (ROUNDS_WORTH_A_MATRIX + more for more in (-1, 0))
    assert [choose_cv("auto", one, n_features=10, n_sketched=5) for one in (few, many)] == ["weights", "matrices"]
    assert choose_cv("matrices", few, n_features=10, n_sketched=5) == "matrices"
    assert choose_cv("weights", many, n_features=10, n_sketched=5) == "weights"


def test_choose_cv__without_cuts_beforehand_is_by_weight() -> None:
    """With more wide columns than half XGBoost cuts all columns at once, and a fold of its own would be cut otherwise."""
    assert choose_cv("auto", ROUNDS_WORTH_A_MATRIX, n_features=10, n_sketched=6) == "weights"
    with pytest.raises(PlanError, match="6 columns of 10"):
        choose_cv("matrices", ROUNDS_WORTH_A_MATRIX, n_features=10, n_sketched=6)


# ---- sampled negatives ------------------------------------------------------------------------------------------------


def kept(rows: pa.Table, folder: Path, cuts: Sequence[int], seed: int) -> list[float]:
    """Write rows in a drawn order into files of these sizes; return the values of ``x`` of all rows that training uses."""
    folder.mkdir(parents=True)
    mixed = rows.take(pa.array(np.random.default_rng(seed).permutation(len(rows))))
    for number, (first, stop) in enumerate(pairwise([0, *cuts, len(rows)])):
        pq.write_table(mixed.slice(first, stop - first), folder / f"{seed}_{number}.parquet", row_group_size=333)
    dataset = open_dataset(str(folder))
    found = []
    with Database(threads=2) as db:
        index_genes(db, dataset, seed=42)
        share, below = choose_sample(db, dataset, 0.25, n_rows=len(rows), say=print)
        assert below is not None
        make_row_uses(db, easy_below=below, share=share, seed=42, background=dataset.labels[0])
        for file in dataset.files:
            uses = db.arrow("file_row_uses", file=str(file))["use"].to_numpy()
            found += pq.read_table(str(file))["x"].to_numpy()[uses > 0].tolist()
    return sorted(found)


def test_sampled_negatives__do_not_depend_on_the_order_of_rows_or_the_cut_into_files(tmp_path: Path) -> None:
    """Without positions and with four different scores most rows agree with others in gene and score."""
    rng = np.random.default_rng(0)
    n = 2000
    label = rng.choice(["neither", "donor", "acceptor"], n, p=(0.8, 0.1, 0.1))
    donor = rng.integers(0, 4, n) / 10
    scores = {"donor_score": donor, "acceptor_score": donor, "neither_score": 1 - 2 * donor}
    rows = pa.table(
        {
            "gene_id": [f"G{one}" for one in rng.integers(0, 20, n)],
            "splice_type": label,
            "x": rng.normal(size=n),
            **scores,
        }
    )
    first = kept(rows, tmp_path / "one", [], 1)
    assert first == kept(rows, tmp_path / "four", [100, 101, 1500], 2)
    n_easy = int(((label == "neither") & (donor < 0.3)).sum())
    n_others = n - n_easy
    assert len(first) == pytest.approx(n_others + n_easy / 4, abs=4 * (n_easy * 3 / 16) ** 0.5)


def test_sampled_negatives__of_rows_that_are_equal_keep_their_share(tmp_path: Path) -> None:
    """A gene with 400 equal easy rows: about a hundred are kept, not all or none."""
    label = ["neither"] * 400 + ["donor", "acceptor", "neither"] * 60
    score = [0.1] * 400 + [0.9] * 180
    columns = {f"{name}_score": score for name in ("donor", "acceptor", "neither")}
    rows = pa.table(
        {"gene_id": ["A"] * 490 + ["B"] * 90, "splice_type": label, "x": [1.0] * 400 + [2.0] * 180, **columns}
    )
    n_kept = kept(rows, tmp_path / "data", [200], 3).count(1.0)
    assert n_kept == pytest.approx(100, abs=35)


SHARE = 0.25
SAMPLED = ("--strategy", "single", "--sample-negatives", str(SHARE), "--cv", "weights")


@dataclass
class Sampled:
    """A trained run with sampled negatives, its keys and features, and the same rows as they stand in the dataset."""

    run: Path
    plan: Plan
    keys: np.ndarray
    matrix: np.ndarray

    @classmethod
    def open(cls, run: Path) -> "Sampled":
        """Read a partitioned run."""
        folder = RunFolder(run)
        plan = folder.read_plan()
        reader = SegmentReader(plan, plan.cut.segments, folder.segments)
        return cls(run, plan, reader.keys(), np.concatenate([rows.copy() for rows in reader.matrices(1000)]))

    @property
    def site_score(self) -> np.ndarray:
        """The larger of the sites' base scores."""
        places = [self.plan.data.features.index(name) for name in ("donor_score", "acceptor_score")]
        return np.asarray(self.matrix[:, places].max(axis=1))

    @property
    def is_easy(self) -> np.ndarray:
        """Which rows are negatives whose score is below the threshold."""
        return (self.keys["label"] == 0) & (self.site_score < np.float32(self.plan.data.easy_below or 0))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 genes, some 6,000 rows."""
    folder = tmp_path_factory.mktemp("choices") / "data"
    synthesise(folder, n_genes=100, rows_per_gene=60, n_features=40)
    return folder


@pytest.fixture(scope="module")
def sampled(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Sampled:
    return Sampled.open(trained(dataset, tmp_path_factory.mktemp("sampled") / "run", *SAMPLED))


def test_sampling__keeps_sites_hard_negatives_and_a_share_of_the_easy_ones(sampled: Sampled) -> None:
    use, label = sampled.keys["use"], sampled.keys["label"]
    negatives = np.sort(sampled.site_score[label == 0])
    # the threshold is the .9 quantile of the negatives: the value at place ceil(.9 n)
    assert sampled.plan.data.easy_below == pytest.approx(negatives[int(np.ceil(0.9 * len(negatives))) - 1], rel=1e-6)
    assert (use[~sampled.is_easy] == USED).all()
    assert set(np.unique(use[sampled.is_easy])) == {LEFT_OUT, USED_FOR_MANY}
    # each kept one stands for 1 / share: the sum of weights is the number of easy negatives but for probability, here 5 %
    assert (use == USED_FOR_MANY).sum() / SHARE == pytest.approx(sampled.is_easy.sum(), rel=0.05)


def test_sampling__is_a_hash_of_gene_position_and_score(sampled: Sampled) -> None:
    """The lower half of the MD5 of the row's names, as a number, lies below the share."""
    genes = pq.read_table(RunFolder(sampled.run).genes)["gene_id"].to_pylist()
    easy = np.flatnonzero(sampled.is_easy)
    for row in easy[:: len(easy) // 200]:
        # the score as DuckDB writes a float32 that became a double
        name = f"42:{genes[sampled.keys['gene_rank'][row]]}:{sampled.keys['position'][row]}:{float(sampled.site_score[row])!r}"
        number = int.from_bytes(md5(name.encode()).digest()[8:], "little")
        assert (sampled.keys["use"][row] == USED_FOR_MANY) == (number < SHARE * 2**64)


def test_sampling__the_plan_counts_the_rows_that_are_trained_on(sampled: Sampled) -> None:
    (instance,) = sampled.plan.cut.instances
    n_used = int((sampled.keys["use"] != LEFT_OUT).sum())
    assert instance.n_training_rows == n_used < 0.5 * instance.n_rows
    genes = pq.read_table(RunFolder(sampled.run).genes)
    counted = np.bincount(sampled.keys["gene_rank"][sampled.keys["use"] != LEFT_OUT], minlength=100)
    assert genes["n_training_rows"].to_pylist() == counted.tolist()
    model = sampled.plan.costs.model
    assert model.layout.scored_per_row == pytest.approx(instance.n_rows / n_used)
    assert instance.predicted_bytes == model.predict_bytes(n_used, 100)


def test_sampling__boosters_are_those_of_the_kept_rows_with_their_weights(sampled: Sampled) -> None:
    """What is left out is in no matrix: plain XGBoost on the kept rows alone, easy ones four times, has the same trees."""
    parts = read_parts(sampled.run / "multi_instance_training" / "instance_00" / "model_multiclass.miduck")
    facts = json.loads(parts["model.json"])
    is_used = sampled.keys["use"] != LEFT_OUT
    weight = np.where(sampled.keys["use"] == USED_FOR_MANY, 1 / SHARE, 1.0)[is_used]
    for index in range(3):
        settings = sampled.plan.settings
        matrix = xgb.QuantileDMatrix(sampled.matrix[is_used], max_bin=settings.max_bin, nthread=1)
        matrix.set_label(sampled.keys["label"][is_used] == index)
        matrix.set_weight(weight)
        parameters = {
            "objective": "binary:logistic",
            "max_depth": settings.max_depth,
            "learning_rate": settings.learning_rate,
            "seed": settings.seed,
            "nthread": 1,
        } | as_dict(settings.xgb_parameters)
        plain = xgb.train(parameters, matrix, facts["rounds"][index])
        ours = xgb.Booster(model_file=bytearray(parts[f"booster_{index}.ubj"]))
        assert ours.get_dump(dump_format="json") == plain.get_dump(dump_format="json")


def test_sampling__all_rows_are_scored_and_probabilities_stay_unbiased(sampled: Sampled) -> None:
    """Of some 280 sites of a kind: a sixteenth by chance alone. Without weights three times as many would be expected."""
    scored = pq.read_table(sampled.run / "multi_instance_training" / "instance_00" / "oof_predictions.parquet")
    assert scored["row_id"].to_pylist() == list(range(sampled.plan.data.n_rows))
    is_used = sampled.keys["use"] != LEFT_OUT
    for index, name in enumerate(sampled.plan.data.classes):
        is_class = sampled.keys["label"] == index
        probability = 1 / (1 + np.exp(-scored[f"margin_{name}"].to_numpy().astype(np.float64)))
        assert probability.mean() == pytest.approx(is_class.mean(), rel=0.02 if index == 0 else 0.12)
        # on the rows that were trained on the classes are mixed otherwise
        mixed = is_class[is_used].mean() / is_class.mean()
        assert mixed < 0.85 if index == 0 else mixed > 2.5


def test_sampling__chooses_the_same_rows_whatever_the_files_look_like(sampled: Sampled, tmp_path: Path) -> None:
    """Rows of a gene over several files, in any order: keys and features are the same bytes."""
    synthesise(tmp_path / "data", n_genes=100, rows_per_gene=60, n_features=40, n_files=3, shuffle_rows=True)
    other = Sampled.open(partitioned(tmp_path / "data", tmp_path / "run", *SAMPLED))
    assert other.keys.tobytes() == sampled.keys.tobytes()
    assert other.matrix.tobytes() == sampled.matrix.tobytes()


def test_sampling__a_share_of_one_is_no_sampling(dataset: Path, tmp_path: Path) -> None:
    found = Sampled.open(partitioned(dataset, tmp_path / "run", "--sample-negatives", "1"))
    assert found.plan.data.easy_below is None
    assert set(found.keys["use"]) == {USED}


def test_sampling__is_a_quarter_by_default_where_rows_are_many(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pq.read_table(next(dataset.rglob("*.parquet")))
    unknown = tmp_path / "unknown"
    unknown.mkdir()
    pq.write_table(rows.append_column("nothing", pa.nulls(len(rows), pa.float32())), unknown / "a.parquet")
    columns = ("--base-score-columns", "neither_score,nothing,nothing")
    for number, (least, data, flags, expected) in enumerate(
        (
            (len(rows), dataset, (), SHARE),
            (len(rows) + 1, dataset, (), 1),
            (len(rows), dataset, ("--sample-negatives", "1"), 1),
            (len(rows), dataset, ("--exclude", "^donor_score$"), 1),
            (len(rows), unknown, columns, 1),
        )
    ):
        monkeypatch.setattr("mi_duck.plan.indexing.ROWS_WORTH_SAMPLING", least)
        out = tmp_path / str(number)
        result = call("plan", data, "--out", out, "--memory-per-gene-mb", "1", *flags)
        assert result.exit_code == 0, result.output
        plan = RunFolder(out).read_plan()
        assert plan.settings.easy_share == expected
        assert (
            sum(one.n_training_rows for one in plan.cut.instances) < sum(one.n_rows for one in plan.cut.instances)
        ) == (expected < 1)
        assert ("easy negatives: those whose site score is below" in result.stderr) == (expected < 1)


def test_sampling__without_base_scores_trains_on_all_rows_and_says_so(dataset: Path, tmp_path: Path) -> None:
    """A preset may ask for it, of any table."""
    result = call("plan", dataset, "--out", tmp_path, "--exclude", "^donor_score$", "--preset", "fast")
    assert result.exit_code == 0, result.output
    assert "all rows are trained on, not 0.1 of the easy negatives" in result.stderr
    assert RunFolder(tmp_path).read_plan().settings.easy_share == 1


def test_sampling__needs_base_scores_of_the_background(dataset: Path, tmp_path: Path) -> None:
    for flags, words in (
        (("--base-score-columns", "neither_score,nothing,nothing"), "no row of class neither has a base score"),
    ):
        data = tmp_path / "data"
        if not data.exists():
            data.mkdir()
            rows = pq.read_table(next(dataset.rglob("*.parquet")))
            pq.write_table(rows.append_column("nothing", pa.nulls(len(rows), pa.float32())), data / "a.parquet")
        result = call("plan", data, "--out", tmp_path / "run", "--sample-negatives", "0.5", *flags)
        assert result.exit_code == 78, result.output
        assert words in result.stderr
        assert not (tmp_path / "run" / "genes.parquet").exists()


# ---- screened features ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grouped(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the same rows with fold groups of seven genes each."""
    folder = tmp_path_factory.mktemp("grouped") / "data"
    folder.mkdir()
    rows = pq.read_table(next(dataset.rglob("*.parquet")))
    place = {gene: number for number, gene in enumerate(sorted(set(rows["gene_id"].to_pylist())))}
    blocks = [f"block_{place[gene] // 7}" for gene in rows["gene_id"].to_pylist()]
    pq.write_table(rows.append_column("block", pa.array(blocks)), folder / "a.parquet")
    return folder


def planned_with(data: Path, run: Path, *flags: str) -> tuple[Plan, str]:
    result = call("plan", data, "--out", run, "--fold-by", "block", "--threads", "1", "--strategy", "single", *flags)
    assert result.exit_code == 0, result.output
    return RunFolder(run).read_plan(), result.stderr


def planted(dataset: Path) -> dict[str, float]:
    """Return the planted features with their weights, those of both classes added."""
    truth = json.loads((dataset / "truth.json").read_bytes())["informative"]
    found: dict[str, float] = {}
    for weights in truth.values():
        for name, weight in weights.items():
            found[name] = found.get(name, 0.0) + weight
    return found


def test_screening__keeps_base_scores_and_the_planted_features(dataset: Path, grouped: Path, tmp_path: Path) -> None:
    plan, said = planned_with(grouped, tmp_path / "run", "--screen-features", "18", "--n-estimators", "5")
    assert set(plan.data.base_scores) == {"neither_score", "donor_score", "acceptor_score"} <= set(plan.data.features)
    assert 18 <= len(plan.data.features) <= 21
    strongest = {name for name, weight in planted(dataset).items() if weight >= 0.8}
    assert len(strongest) == 8
    assert strongest <= set(plan.data.features)
    assert not [name for name in plan.data.features if name.startswith("noise_")]
    assert plan.data.features == tuple(name for name in all_features(grouped) if name in set(plan.data.features))
    assert plan.data.record_bytes == len(plan.data.small_features) + 4 * len(plan.data.wide_features)
    assert set(plan.data.small_features) | set(plan.data.wide_features) == set(plan.data.features)
    layout = plan.costs.model.layout
    assert (layout.n_features, layout.n_wide) == (len(plan.data.features), len(plan.data.wide_features))
    assert "trained on and not scored" in said
    # the instance trains on what is left
    trained_again(tmp_path / "run")
    booster = read_parts(tmp_path / "run" / "multi_instance_training" / "instance_00" / "model_multiclass.miduck")
    assert json.loads(booster["model.json"])["features"] == list(plan.data.features)


def all_features(data: Path) -> Sequence[str]:
    return pq.read_schema(next(data.rglob("*.parquet"))).names


def trained_again(run: Path) -> None:
    partition_here(run=str(run), threads=1, report=quiet)
    train_instance(run=str(run), instance_id=0, threads=1, report=quiet)


def test_screening__the_pilot_has_whole_groups_and_is_recorded(grouped: Path, tmp_path: Path) -> None:
    """A quarter of 100 genes is 25; of groups of seven it takes 28, or more where a smaller group lies between."""
    plan, _ = planned_with(grouped, tmp_path / "run", "--screen-features", "5", "--n-estimators", "2")
    groups = pq.read_table(RunFolder(tmp_path / "run").genes)["fold_group"].to_pylist()
    assert 25 <= plan.data.pilot_genes < 25 + 7
    assert groups[plan.data.pilot_genes - 1] != groups[plan.data.pilot_genes]
    assert not set(groups[: plan.data.pilot_genes]) & set(groups[plan.data.pilot_genes :])


def test_choose_features__takes_300_of_many_for_many_genes_unless_asked_otherwise() -> None:
    of = choose_features
    assert of(None, n_features=450, n_genes=2000) == 300
    assert of(None, n_features=449, n_genes=2000) is of(None, n_features=450, n_genes=1999) is None
    assert of(0, n_features=1000, n_genes=9000) is of(1000, n_features=1000, n_genes=9000) is None
    assert of(20, n_features=40, n_genes=10) == 20


def test_screening__is_usual_for_many_genes_and_features_and_can_be_forgone(tmp_path: Path) -> None:
    synthesise(tmp_path / "data", n_genes=2000, rows_per_gene=10, n_features=450, seed=1)
    words = ("--fold-by", "gene_id", "--n-estimators", "2")
    plan, said = planned_with(tmp_path / "data", tmp_path / "run", *words)
    assert 300 <= len(plan.data.features) <= 303
    assert plan.data.pilot_genes >= 200
    assert "--screen-features 0 keeps all" in said
    dataset = open_dataset(str(tmp_path / "data"), fold_by="gene_id")
    assert differences_asked(plan, dataset, plan.asked) == []
    everything, _ = planned_with(tmp_path / "data", tmp_path / "all", *words, "--screen-features", "0")
    assert (len(everything.data.features), everything.data.pilot_genes) == (450, 0)


def test_screening__of_all_features_is_none(grouped: Path, tmp_path: Path) -> None:
    plan, said = planned_with(grouped, tmp_path / "run", "--screen-features", "40", "--n-estimators", "2")
    assert (len(plan.data.features), plan.data.pilot_genes) == (40, 0)
    assert "keeps all 40 features" in said


def test_screening__refuses_genes_too_few_for_a_pilot(tmp_path: Path) -> None:
    """A quarter of three genes is none."""
    columns = {
        "gene_id": np.repeat(["A", "B", "C"], 60),
        "splice_type": np.tile(["neither", "donor", "acceptor"], 60),
        "x": np.arange(180.0),
        "y": np.arange(180.0) % 7,
    }
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "data" / "a.parquet")
    result = call("plan", tmp_path / "data", "--out", tmp_path / "run", "--screen-features", "1", "--n-folds", "2")
    assert result.exit_code == 78, result.output
    assert "3 genes are too few to spare a pilot" in result.stderr
