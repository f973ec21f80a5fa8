"""Measured memory: probes run real trainings, and what they measure predicts sizes that were not probed."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import CONTEXT
from typer.testing import CliRunner

from cli import app
from mi_duck.boosting.steps import train_instance
from mi_duck.data.dataset import open_dataset
from mi_duck.errors import PlanError
from mi_duck.genome.synthetic import synthesise
from mi_duck.plan.formula import by_formula
from mi_duck.plan.indexing import Indexed, plan_data
from mi_duck.plan.layouts import layout_of
from mi_duck.plan.make_plan import make_plan
from mi_duck.plan.probes import is_worth_probing, measure, probe, probe_sizes
from mi_duck.plan.small_run import SmallRun, density_of, open_small_run
from mi_duck.processes import Context, in_child
from mi_duck.rows.partition import partition
from mi_duck.rows.segments import ColumnDensity
from mi_duck.run.costs import PHASES, MemoryModel
from mi_duck.run.folder import RunFolder
from mi_duck.run.plan import Plan
from mi_duck.settings import Asked

ASKED = Asked(n_folds=2, early_stopping_patience=30)


@dataclass
class Small:
    """What planning knows of the data, and its small run on disk."""

    folder: RunFolder
    asked: Asked
    indexed: Indexed
    run: SmallRun

    @classmethod
    def open(cls, dataset: Path, root: Path, sizes: list[int], **options: Any) -> "Small":
        """Index the data and write the rows of the genes of lowest rank."""
        folder, asked = RunFolder(root), replace(ASKED, cv="weights", **options)
        indexed = plan_data(open_dataset(str(dataset)), folder, asked, CONTEXT, with_leakage=False)
        start = by_formula(indexed, asked, threads=CONTEXT.threads)
        small_run = open_small_run(
            folder, asked, indexed.data, start.settings, indexed.genes, sizes, CONTEXT, model=start.model
        )
        return cls(folder, asked, indexed, small_run)

    @property
    def plan(self) -> Plan:
        """The plan of the small run."""
        return self.run.plan

    def model(self, **changes: Any) -> MemoryModel:
        """Return the model by formula in the layout that the rows have."""
        formula = by_formula(self.indexed, self.asked, threads=1).model
        layout = layout_of(formula.layout, self.density(), "missing", ())
        return formula.with_layout(replace(layout, **changes))

    def density(self) -> ColumnDensity:
        """Return how the columns of all genes of the small run are filled."""
        return density_of(self.run, self.plan.data.n_genes)

    def probes(self, n: int, **changes: Any) -> SmallRun:
        """Return the run with its first instances alone, with other settings of the training."""
        return self.run.with_settings(replace(self.plan.settings, **changes), n_instances=n)

    def peak(self, model: MemoryModel, number: int) -> int:
        """Train an instance and return its peak."""
        points, _ = probe(self.run, self.plan.cut.instances[number], model, CONTEXT)
        return max(point.peak_bytes for point in points)


@pytest.fixture(scope="module")
def wide_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 genes of 80 rows with 400 features."""
    folder = tmp_path_factory.mktemp("wide") / "data"
    synthesise(folder, n_genes=300, rows_per_gene=80, n_features=400)
    return folder


def test_measure__predicts_a_size_that_was_not_probed_with_the_usual_trees(wide_dataset: Path, tmp_path: Path) -> None:
    """Half of this is histograms of deep trees, and two rounds have fewer nodes than the fullest of a training of sixty."""
    small = Small.open(wide_dataset, tmp_path / "run", [25, 75, 300], n_estimators=60)
    model, *_ = measure(small.model(), small.folder, small.probes(2), CONTEXT)
    predicted = model.predict_bytes(small.plan.cut.instances[2].n_rows, 300)
    small.run.write_plan(rounds=60)
    trained = in_child(train_instance, CONTEXT, frees_at_once=True)(
        run=str(small.run.folder.root), instance_id=2, threads=1
    )
    assert trained.value["rounds"] == [60, 60, 60]
    measured = max(trained.value["phases"].values())
    assert 0.97 <= predicted / measured <= 1.15


def test_measure__predicts_a_size_that_was_not_probed_and_keeps_what_it_measured(
    wide_dataset: Path, tmp_path: Path
) -> None:
    """Within the goal of 3 per cent below and 5 above, at four times the rows of the largest probe; of trees that are full."""
    small = Small.open(wide_dataset, tmp_path / "run", [25, 75, 300], max_depth=6, xgb=("min_child_weight=1",))
    model, rates, found = measure(small.model(), small.folder, small.probes(2), CONTEXT)
    assert model.is_measured
    assert {point.phase for point in found.points} == set(PHASES)
    assert len(found.points) == 2 * len(PHASES)
    assert [point.n_rows for point in found.times] == [one.n_rows for one in small.plan.cut.instances[:2]]
    assert rates.per_cell_and_round > 0
    measured = small.peak(model, 2)
    predicted = model.predict_bytes(small.plan.cut.instances[2].n_rows, 300)
    assert 0.97 <= predicted / measured <= 1.05
    kept = json.loads(small.folder.memory.read_bytes())
    assert kept["constant_bytes"] == {phase: model.constant_bytes(phase) for phase in PHASES}
    assert kept["rates"]["per_cell_and_round"] == rates.per_cell_and_round
    # the same data and settings are not measured again; other ones are
    refusing = Context(1, refuse, lambda words: None)
    again = measure(small.model(), small.folder, small.probes(2), refusing)
    assert again == (model, rates, found)
    with pytest.raises(AssertionError, match="measuring"):
        measure(small.model(), small.folder, small.probes(2, max_depth=4), refusing)


def refuse(stage: str, done: int, total: int) -> None:
    """Fail where something is measured."""
    raise AssertionError(stage)


def test_filling_of__sees_nan_that_footers_do_not_count(wide_dataset: Path, tmp_path: Path) -> None:
    """Every seventh value of one column is NaN, in the genes of lowest rank and in the others."""
    (source,) = wide_dataset.rglob("*.parquet")
    table = pq.read_table(source)
    values = table["donor_score"].to_numpy().copy()
    values[::7] = np.nan
    place = table.schema.get_field_index("donor_score")
    (tmp_path / "data").mkdir()
    pq.write_table(table.set_column(place, "donor_score", pa.array(values)), tmp_path / "data" / "a.parquet")
    small = Small.open(tmp_path / "data", tmp_path / "run", [10, 30])
    assert small.indexed.missing_share == 0
    density = small.density()
    assert density.n_rows == small.plan.cut.instances[1].n_rows
    assert {name: count for name, count in density.missing.items() if count} == {
        "donor_score": pytest.approx(density.n_rows / 7, rel=0.1)
    }
    fewer = density_of(small.run, 10)
    assert fewer.n_rows == small.plan.cut.instances[0].n_rows
    assert fewer.missing["donor_score"] < density.missing["donor_score"]
    assert small.model().layout.missing_share == pytest.approx(1 / 7 / 400, rel=0.1)
    # counts of zeros are those of the rows
    first = next(name for name in small.plan.data.small_features if 0 < density.zeros[name] < density.n_rows)
    genes = set(pq.read_table(small.run.folder.genes)["gene_id"].to_pylist()[:30])
    chosen = [gene in genes for gene in table["gene_id"].to_pylist()]
    assert density.zeros[first] == int((table[first].to_numpy()[chosen] == 0).sum())
    # the standard error is that of the mean over genes, each with its rows, as the spread of bootstrapped shares says
    zero = (table[first].to_numpy() == 0)[chosen]
    of_gene = np.unique(np.array(table["gene_id"].to_pylist())[chosen], return_inverse=True)[1]
    z, n = np.bincount(of_gene, weights=zero), np.bincount(of_gene)
    drawn = np.random.default_rng(0).integers(0, len(n), (4000, len(n)))
    shares = z[drawn].sum(axis=1) / n[drawn].sum(axis=1)
    assert density.errors[first] == pytest.approx(shares.std(), rel=0.1)


def test_open_small_run__holds_the_genes_of_lowest_rank_alone(lean_dataset: Path, tmp_path: Path) -> None:
    small = Small.open(lean_dataset, tmp_path / "run", [5, 12])
    assert [(one.first_rank, one.stop_rank) for one in small.plan.cut.instances] == [(0, 5), (0, 12)]
    assert [(one.first_rank, one.stop_rank) for one in small.plan.cut.segments] == [(0, 5), (5, 12)]
    assert small.run.folder.root.is_relative_to(small.folder.scratch)
    assert small.run.folder.read_plan() == small.plan
    gene_rows = small.indexed.genes.n_rows
    for segment in small.plan.cut.segments:
        keys = (small.run.folder.segments / segment.name / "keys.bin").stat().st_size
        assert keys == 14 * int(gene_rows[segment.first_rank : segment.stop_rank].sum())


def test_probe__of_sampled_negatives_counts_the_rows_that_are_trained_on(lean_dataset: Path, tmp_path: Path) -> None:
    small = Small.open(lean_dataset, tmp_path / "run", [30], sample_negatives=0.2)
    (instance,) = small.plan.cut.instances
    assert instance.n_training_rows < instance.n_rows
    points, seconds = probe(small.run, instance, small.model(), CONTEXT)
    assert {point.n_rows for point in points} == {instance.n_training_rows} == {seconds.n_rows}
    assert {point.n_nodes for point in points} == {seconds.n_nodes}
    assert seconds.build_seconds > 0
    assert 0 < seconds.later_seconds < seconds.boost_seconds
    assert seconds.rounds == 2


def test_open_small_run__takes_rows_of_fewer_features_from_those_of_a_pilot(
    wide_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes as from the Parquet files, which are not read again."""
    pilot = Small.open(wide_dataset, tmp_path / "pilot", [8, 5, 12])
    data = pilot.indexed.data
    kept = frozenset(data.features[::3])
    features, small, wide = (
        tuple(name for name in names if name in kept)
        for names in (data.features, data.small_features, data.wide_features)
    )
    data = replace(data, features=features, small_features=small, wide_features=wide)
    others = pilot.plan.settings, pilot.indexed.genes, [5, 12], CONTEXT
    read = open_small_run(pilot.folder, pilot.asked, data, *others, model=pilot.model(), name="read")
    monkeypatch.setattr("mi_duck.plan.small_run.partition", None)
    taken = open_small_run(pilot.folder, pilot.asked, data, *others, model=pilot.model(), name="taken", wider=pilot.run)
    assert small
    assert wide
    assert [one.n_genes for one in taken.plan.cut.instances] == [5, 12]
    for file in ("features.bin", "keys.bin"):
        of_read, of_taken = (
            b"".join((run.folder.segments / segment.name / file).read_bytes() for segment in run.plan.cut.segments)
            for run in (read, taken)
        )
        assert of_read == of_taken
    assert density_of(taken, 12) == density_of(read, 12)
    with pytest.raises(TypeError):  # 7 genes are not an instance of the pilot: their rows would have to be read
        open_small_run(
            *(pilot.folder, pilot.asked, data, *others[:2], [7], CONTEXT),
            **{"model": pilot.model(), "name": "other", "wider": pilot.run},
        )


def test_make_plan__reads_the_files_once_for_pilot_and_probes(
    wide_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[tuple[Any, ...]] = []

    def counted(*arguments: Any) -> None:
        read.append(arguments)
        partition(*arguments)

    monkeypatch.setattr("mi_duck.plan.small_run.partition", counted)
    monkeypatch.setattr("mi_duck.plan.probes.is_worth_probing", lambda *arguments: True)
    plan = make_plan(open_dataset(str(wide_dataset)), tmp_path / "run", replace(ASKED, screen_features=40), CONTEXT)
    assert 40 <= len(plan.data.features) < len(plan.data.features) + len(plan.data.screened_features)
    assert plan.costs.model.is_measured
    assert len(read) == 1


def test_probe_sizes__are_parts_of_an_instance_within_bounds() -> None:
    # 1,500 genes of 400 rows: an eighth is 75,000 rows, a third of that 25,000; the first genes that reach them
    assert probe_sizes(np.full(9280, 400), 1500) == [63, 188]
    # an eighth of 4,000,000 rows is above the most rows of a probe: 80,000 / 400, and 26,666 / 400
    assert probe_sizes(np.full(10_000, 400), 10_000) == [67, 200]
    # below 12,000 rows there is nothing to learn from
    assert probe_sizes(np.full(29, 400), 1500) == []


def test_is_worth_probing__where_it_takes_a_tenth_of_the_run_at_most(lean_dataset: Path, tmp_path: Path) -> None:
    indexed = plan_data(open_dataset(str(lean_dataset)), RunFolder(tmp_path), ASKED, CONTEXT, with_leakage=False)
    start = by_formula(indexed, ASKED, threads=1)
    settings, layout = start.settings, start.model.layout
    rows = indexed.genes.n_training_rows
    # two starts of a child alone take longer than a tenth of a run of seconds
    assert not is_worth_probing(settings, rows, [10, 20], layout)
    many = np.tile(rows, 10_000)
    assert is_worth_probing(settings, many, [10, 20], layout)
    assert not is_worth_probing(settings, many, [], layout)


def test_memory__of_a_tiny_dataset_says_that_the_formula_is_used(lean_dataset: Path) -> None:
    result = CliRunner().invoke(app, ["memory", str(lean_dataset)])
    assert result.exit_code == PlanError.exit_code
    assert "too few to measure memory on" in result.stderr


def test_memory__prints_sizes_with_their_ratio_and_draws_them(wide_dataset: Path, tmp_path: Path) -> None:
    flags = ("--genes-per-instance", "200", "--n-folds", "2", "--cv", "weights", "--threads", "1")
    plot = ("--plot", str(tmp_path / "memory.svg"))
    result = CliRunner().invoke(app, ["memory", str(wide_dataset), *flags, *plot, "--layout", "missing", "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert [line["use"] for line in facts["sizes"]] == ["probe", "probe", "check", "check"]
    assert all(0.95 < line["ratio"] < 1.08 for line in facts["sizes"])
    # 400 features of 2.125 bytes, and 100 bytes a row beside
    assert facts["bytes_per_row"] == pytest.approx(1.015 * (400 * 2.125 + 120), rel=0.01)
    assert (tmp_path / "memory.svg").read_text().lstrip().startswith("<?xml")
