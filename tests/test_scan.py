"""Sequence to scores: the same features and probabilities as by a dataset, the right positions on both strands, resumed."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import FAST, assert_refused, call, here, quiet
from shared import made_once
from test_genome import COMPLEMENT, make_genome, rows

from mi_duck.data.dataset import open_dataset
from mi_duck.ensemble.model import ConsolidatedMetaModel, feature_matrix
from mi_duck.ensemble.model_file import load_unified_model, model_bytes, model_from_bytes
from mi_duck.errors import CheckpointError, DataError
from mi_duck.genome import predict_sequence, scan
from mi_duck.genome.base_scores import cluster_fold, site_matrices
from mi_duck.genome.build import build, surveyed
from mi_duck.genome.columns import feature_columns
from mi_duck.genome.sequence import read_fasta
from mi_duck.genome.span_features import base_scores_of, cut_span, plan_features, span_matrix
from mi_duck.genome.targets import gene_targets, region_targets
from mi_duck.run.recipe import read_record
from mi_duck.settings import Scanning

TRAINING = (
    *(*FAST, "--strategy", "single", "--n-folds", "2", "--sample-negatives", "1", "--exclude", "^5mer_[CT]"),
    *("--xgb", "min_child_weight=1", "--xgb", "colsample_bynode=1"),  # 10 rounds on 12 genes learn little else
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a genome of 12 genes, a run with features of genes, and a run without; only to be read."""

    def make(folder: Path) -> None:
        folder.mkdir()
        make_genome(folder)
        for name, flags in (("genes", ()), ("plain", ("--no-gene-features",))):
            here("build", *genome(folder), "--out", folder / name, *flags)
            here("run", folder / name, "--out", folder / f"run_{name}", *TRAINING)

    return made_once(tmp_path_factory, "scanned", make)


def genome(place: Path) -> tuple[str, ...]:
    return "--fasta", str(place / "genome.fa"), "--annotation", str(place / "genes.gtf")


def contigs_of(place: Path) -> dict[str, str]:
    parts = (place / "genome.fa").read_text().split(">")[1:]
    return {name.split()[0]: text.strip() for name, text in (part.split("\n", 1) for part in parts)}


def predicted(place: Path, out: Path, *flags: object, run: str = "run_genes") -> pa.Table:
    here("predict", place / run, "--fasta", place / "genome.fa", "--out", out, *flags)
    return pq.read_table(out)


# ---- features ---------------------------------------------------------------------------------------------------------


def test_span_features__are_those_of_the_dataset_to_the_last_bit(tmp_path: Path) -> None:
    """All features at every position: both strands, windows beyond both ends of a contig, letters that are unknown."""
    make_genome(tmp_path)
    build(tmp_path / "genome.fa", tmp_path / "genes.gtf", tmp_path / "data", all_positions=12, annotation_features=True)
    table = rows(tmp_path / "data")
    names = feature_columns(annotation_features=True)
    plan = plan_features(names, 500, names)
    record = read_record(tmp_path / "data" / "build.json")
    assert record is not None
    assert record.cross_fit is not None
    matrices = site_matrices(record.cross_fit.folds)
    letters = {contig.name: contig.letters for contig in read_fasta(tmp_path / "genome.fa")}
    clusters = surveyed(
        tmp_path / "genome.fa", tmp_path / "genes.gtf", padding=250, seed=record.cross_fit.seed, report=quiet
    )[1].clusters
    n_rows = 0
    for target in gene_targets(tmp_path / "genome.fa", tmp_path / "genes.gtf"):
        own = table.filter(pa.compute.equal(table["gene_id"], target.gene_id))
        span = cut_span(letters[target.chrom], target.strand, target.start, target.end, window=500, gene=target.facts)
        fold = cluster_fold(clusters[str(target.gene_id)], record.cross_fit.seed)
        matrix = span_matrix(plan, span, base_scores_of(matrices, span, fold=fold, window=500))
        offsets = own["position"].to_numpy()
        np.testing.assert_array_equal(matrix[offsets], feature_matrix(own, names))
        np.testing.assert_array_equal(span.positions[offsets], own["absolute_position"].to_numpy())
        n_rows += len(own)
    assert n_rows == table.num_rows > 10_000


# ---- a model that carries its recipe ----------------------------------------------------------------------------------


def test_model__carries_the_matrices_of_all_sites(place: Path) -> None:
    model = load_unified_model(place / "run_plain")
    record = json.loads((place / "plain" / "build.json").read_bytes())
    assert model.recipe is not None
    assert json.loads(json.dumps(model.recipe.to_dict())) == record["recipe"]
    assert len(record["cross_fit"]["folds"]) == 5
    assert (model.recipe.window, model.recipe.gene_features) == (500, False)
    again = model_from_bytes(model_bytes(model), "bytes")
    assert again.recipe == model.recipe


def test_model__with_a_broken_recipe_is_refused(place: Path) -> None:
    model = load_unified_model(place / "run_plain")
    assert isinstance(model, ConsolidatedMetaModel)
    assert model.recipe is not None
    assert model.recipe.matrices is not None
    for broken, words in (
        ({"window": 501}, "a window of 501 letters"),
        ({"matrices": {"donor": ((0.0,) * 5,) * 8}}, "9 lines of 5 numbers"),
    ):
        facts = model.recipe.to_dict() | broken
        if "matrices" in broken:
            facts["matrices"] = model.recipe.to_dict()["matrices"] | broken["matrices"]

        class Broken:
            def to_dict(self, facts: dict[str, object] = facts) -> dict[str, object]:
                return facts

        data = model_bytes(replace(model, recipe=Broken()))  # type: ignore[arg-type]
        with pytest.raises(CheckpointError, match=words):
            model_from_bytes(data, "bytes")


def test_build_like__scores_by_the_model_whatever_the_labels(place: Path, tmp_path: Path) -> None:
    """Another annotation of the same genome gives other labels and the same features at the same positions."""
    lines = [line for line in (place / "genes.gtf").read_text().splitlines() if '"G' in line]
    other = [line.replace('"t1"', '"t2"') for line in lines if line.split("\t")[3] not in ("1400", "7400")]
    (tmp_path / "other.gtf").write_text("\n".join(other) + "\n")
    for name, annotation, n_genes in (("a", place / "genes.gtf", 12), ("b", tmp_path / "other.gtf", 10)):
        like = ("--like", place / "run_plain", "--all-positions", n_genes)
        here("build", "--fasta", place / "genome.fa", "--annotation", annotation, "--out", tmp_path / name, *like)
    a, b = (rows(tmp_path / name).filter(pa.compute.field("gene_id") == "G0") for name in "ab")
    assert a["absolute_position"].equals(b["absolute_position"])
    assert not a["splice_type"].equals(b["splice_type"])
    features = load_unified_model(place / "run_plain").features
    assert a.select(features).equals(b.select(features))
    records = [json.loads((tmp_path / name / "build.json").read_bytes()) for name in "ab"]
    assert records[0]["recipe"] == records[1]["recipe"]
    assert records[0]["cross_fit"] is None  # nothing was fitted here


def test_build_like__refuses_what_the_model_was_not_trained_with(place: Path, tmp_path: Path) -> None:
    make = ("build", *genome(place), "--out", tmp_path / "x", "--like")
    assert_refused(call(*make, place / "run_genes", "--window", "300"), 65, "--window is asked for")
    assert_refused(call(*make, place / "run_genes", "--no-gene-features"), 65, "--no-gene-features is asked for")
    scores = ("--base-scores", place / "genes.gtf")
    assert_refused(call(*make, place / "run_genes", *scores), 65, "scores of weight matrices, which it has")
    instance = place / "run_genes" / "multi_instance_training" / "instance_00"
    assert_refused(call(*make, instance), 65, "does not say how its features are made")
    assert not (tmp_path / "x").exists()


def test_scores_of_files__are_needed_where_the_model_was_trained_on_them(place: Path, tmp_path: Path) -> None:
    """And what is predicted of the sequence with them is what is predicted of a dataset with them."""
    lines = ["chrom\tposition\tstrand\tdonor_score\tacceptor_score"]
    rng = np.random.default_rng(1)
    table = rows(place / "plain")
    columns = (table[name].to_pylist() for name in ("chrom", "absolute_position", "strand", "splice_type"))
    for *key, kind in dict.fromkeys(zip(*columns, strict=True)):
        scores = [0.25 * rng.random() + 0.2 * (kind == site) for site in ("donor", "acceptor")]
        lines.append("\t".join(map(str, (*key, *scores))))
    (tmp_path / "scores.tsv").write_text("\n".join(lines) + "\n")
    files = ("--base-scores", tmp_path / "scores.tsv")
    here("build", *genome(place), "--out", tmp_path / "data", "--no-gene-features", *files)
    here("run", tmp_path / "data", "--out", tmp_path / "run", *TRAINING)
    out = tmp_path / "p.parquet"
    assert_refused(
        call("predict", tmp_path / "run", *genome(place), "--out", out), 65, "give such files with --base-scores"
    )
    here("predict", tmp_path / "run", *genome(place), "--out", out, *files)
    here("predict", tmp_path / "run", tmp_path / "data", "--out", tmp_path / "q.parquet")
    assert_same_scores(pq.read_table(out), pq.read_table(tmp_path / "q.parquet"))


def assert_same_scores(scanned: pa.Table, table: pa.Table) -> None:
    """Check that rows of genes have the same probabilities, to the last bit, as the same positions of a dataset."""
    names = ("p_neither", "p_donor", "p_acceptor", "strand", "prediction")
    found, wanted = (
        {(row["gene_id"], row["absolute_position"]): [row[name] for name in names] for row in one.to_pylist()}
        for one in (scanned, table)
    )
    assert len(wanted) == table.num_rows
    assert {key: found[key] for key in wanted} == wanted


# ---- positions --------------------------------------------------------------------------------------------------------


def test_predict__of_genes_is_that_of_a_dataset_built_like_the_model(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.parquet"
    said = here("predict", place / "run_genes", *genome(place), "--out", out).stderr
    assert "warning: the model was trained on 12 of 12 genes" in said
    table = pq.read_table(out)
    here("build", *genome(place), "--out", tmp_path / "data", "--like", place / "run_genes")
    here("predict", place / "run_genes", tmp_path / "data", "--out", tmp_path / "q.parquet")
    assert_same_scores(table, pq.read_table(tmp_path / "q.parquet"))
    # ten genes of 1,000 nt, and B and Z of 300
    assert table.num_rows == 10_600
    assert set(table["trained_on"].to_pylist()) == {True}


def test_bed__has_the_donor_before_gt_and_the_acceptor_after_ag(place: Path, tmp_path: Path) -> None:
    """Lines count from 0; the sites of both strands have the letters of their kind beside them, along the strand."""
    table = predicted(place, tmp_path / "p.parquet", "--annotation", place / "genes.gtf")
    out = tmp_path / "sites.bed.gz"
    here("predict", place / "run_genes", *genome(place), "--out", out, "--min-score", "0.05")
    lines = [line.split("\t") for line in gzip.decompress(out.read_bytes()).decode().splitlines()]
    sequence = contigs_of(place)
    seen: dict[tuple[str, str], list[tuple[int, bool]]] = {}
    for chrom, start, stop, name, score, strand in lines:
        first, last = int(start), int(stop)
        assert last == first + 1
        around = sequence[chrom][first - 2 : last + 2]
        around = around if strand == "+" else around[::-1].translate(COMPLEMENT)
        seen.setdefault((name, strand), []).append(
            (int(score), around[3:] == "GT" if name == "donor" else around[:2] == "AG")
        )
    assert set(seen) == {("donor", "+"), ("donor", "-"), ("acceptor", "+"), ("acceptor", "-")}
    for found in seen.values():
        # a model of 12 genes may call a site by its neighbours alone; of positions one off, one in 16 has the letters
        assert sum(is_so for _, is_so in sorted(found)[-8:]) >= 7
    best: dict[tuple[str, int, str, str], float] = {}
    for site in ("donor", "acceptor"):
        columns = (table[name].to_pylist() for name in ("chrom", "absolute_position", "strand", f"p_{site}"))
        for chrom, position, strand, value in zip(*columns, strict=True):
            key = chrom, position - 1, site, strand
            best[key] = max(best.get(key, 0.0), value)
    expected = {key for key, value in best.items() if value >= 0.05}
    assert {(line[0], int(line[1]), line[3], line[5]) for line in lines} == expected
    assert [(line[0], int(line[1])) for line in lines] == sorted((line[0], int(line[1])) for line in lines)


def test_bed__is_cut_at_the_thresholds_of_the_model(place: Path, tmp_path: Path) -> None:
    result = here("predict", place / "run_plain", *genome(place), "--out", tmp_path / "a.bed", "--json")
    least = json.loads(result.stdout)["least"]
    model = load_unified_model(place / "run_plain")
    assert least == {site: model.thresholds[site]["best_f1"] for site in ("donor", "acceptor")}
    for line in (tmp_path / "a.bed").read_text().splitlines():
        assert int(line.split("\t")[4]) >= int(1000 * least[line.split("\t")[3]])


def test_bigwig__opens_elsewhere_and_has_every_score(place: Path, tmp_path: Path) -> None:
    pybigtools = pytest.importorskip("pybigtools")
    table = predicted(place, tmp_path / "p.parquet", "--whole-contigs", run="run_plain")
    here("predict", place / "run_plain", "--fasta", place / "genome.fa", "--whole-contigs", "--out", tmp_path / "s.bw")
    for site in ("donor", "acceptor"):
        for strand, word in (("+", "plus"), ("-", "minus")):
            with pybigtools.open(str(tmp_path / f"s.{site}.{word}.bw")) as file:
                assert file.chroms() == {"c1": 25_000, "c2": 2_000}
                for chrom, length in file.chroms().items():
                    is_own = pa.compute.and_(
                        pa.compute.equal(table["chrom"], chrom), pa.compute.equal(table["strand"], strand)
                    )
                    values = np.array(file.values(chrom, 0, length, fillna=None), np.float32)
                    np.testing.assert_array_equal(values, table.filter(is_own)[f"p_{site}"].to_numpy())


def test_regions__are_united_and_have_the_strands_that_they_name(place: Path, tmp_path: Path) -> None:
    """Position 1,600 of the file is base 1,601; where no strand is named both are scored."""
    (tmp_path / "r.bed").write_text(
        "track name=x\nc1\t1000\t1500\ta\t0\t+\nc1\t1400\t1600\tb\t0\t+\nc2\t0\t100\nc9\t5\t6\n"
    )
    targets = region_targets(place / "genome.fa", tmp_path / "r.bed")
    assert [(one.chrom, one.strand, one.start, one.end) for one in targets] == [
        ("c1", "+", 1_001, 1_600),
        ("c2", "+", 1, 100),
        ("c2", "-", 1, 100),
    ]
    assert len(targets.warnings) == 1
    assert "c9" in targets.warnings[0]
    whole = predicted(place, tmp_path / "w.parquet", "--whole-contigs", run="run_plain")
    table = predicted(place, tmp_path / "r.parquet", "--regions", tmp_path / "r.bed", run="run_plain")
    assert table.num_rows == 800
    keys = ["chrom", "absolute_position", "strand"]
    assert table.join(whole, keys, join_type="inner", right_suffix="_w").num_rows == 800
    joined = table.join(whole, keys, join_type="inner", right_suffix="_w")
    assert joined["p_donor"].equals(joined["p_donor_w"])


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("c1\t1\n", "is not BED"),
        ("c1\t5\t5\n", "0 <= start < stop is needed"),
        ("c1\t1\t99999\n", "contig c1 in"),
        ("c7\t1\t9\n", "is in the regions, which have c7"),
        ("c1\t1\t9\tx\t0\t?\n", "strand '?'"),
        ("# nothing\n", "no region"),
        ("c1\tx\texon\t1\t9\t.\t+\t.\tgene_id=1\n", "is GTF or GFF3, not regions in BED"),
    ],
)
def test_regions__that_are_none_are_refused(place: Path, tmp_path: Path, lines: str, words: str) -> None:
    (tmp_path / "r.bed").write_text(lines)
    with pytest.raises(DataError, match=words.replace("?", r"\?")):
        region_targets(place / "genome.fa", tmp_path / "r.bed")


def test_predict__never_writes_over_a_genome_or_its_regions(place: Path, tmp_path: Path) -> None:
    regions = tmp_path / "r.bed"
    regions.write_text("chr1\t10\t50\n")
    asked = ("predict", place / "run_plain", "--fasta", place / "genome.fa", "--regions", regions, "--out", regions)
    assert_refused(call(*asked), 65, "is one of the input files")
    assert regions.read_text() == "chr1\t10\t50\n"


def test_features_of_genes__are_not_made_up_where_there_are_no_genes(place: Path, tmp_path: Path) -> None:
    asked = ("predict", place / "run_genes", "--fasta", place / "genome.fa", "--out", tmp_path / "p.parquet")
    assert_refused(call(*asked, "--whole-contigs"), 65, "trees of the model look at features of genes")
    assert_refused(call(*asked), 65, "one of --annotation, --regions and --whole-contigs")
    assert_refused(call(*asked, "--whole-contigs", *genome(place)[2:]), 65, "one of --annotation, --regions and")
    assert list(tmp_path.iterdir()) == []


def test_predict__takes_a_dataset_or_a_genome(place: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "p.parquet")
    assert_refused(call("predict", place / "run_genes", *out), 2, "give a DATASET, or a genome with --fasta")
    both = call("predict", place / "run_genes", place / "genes", *genome(place), *out)
    assert_refused(both, 2, "give a DATASET, or a genome with --fasta")
    mixed = call("predict", place / "run_genes", place / "genes", "--min-score", "0.5", *out)
    assert_refused(mixed, 2, "need --fasta")
    wrong = call("predict", place / "run_genes", *genome(place), "--out", tmp_path / "p.csv")
    assert_refused(wrong, 65, "the ending says what is written")


def test_candidates__are_the_positions_with_gt_after_or_ag_before(place: Path, tmp_path: Path) -> None:
    whole = predicted(place, tmp_path / "w.parquet", "--whole-contigs", run="run_plain")
    few = predicted(place, tmp_path / "f.parquet", "--whole-contigs", "--candidates", "gt-ag", run="run_plain")
    sequence = contigs_of(place)
    expected = []
    columns = (whole[name].to_pylist() for name in ("chrom", "absolute_position", "strand"))
    for chrom, position, strand in zip(*columns, strict=True):
        text = f"NN{sequence[chrom]}NN"
        around = text[position - 1 : position + 4]
        around = around if strand == "+" else around[::-1].translate(COMPLEMENT)
        expected.append(around[3:] == "GT" or around[:2] == "AG")
    assert few.equals(whole.filter(pa.array(expected)))


def test_min_score__leaves_out_positions_below(place: Path, tmp_path: Path) -> None:
    whole = predicted(place, tmp_path / "w.parquet", "--annotation", place / "genes.gtf")
    few = predicted(place, tmp_path / "f.parquet", "--annotation", place / "genes.gtf", "--min-score", "0.3")
    best = pa.compute.max_element_wise(whole["p_donor"], whole["p_acceptor"])
    assert 0 < few.num_rows < whole.num_rows / 10
    assert few.equals(whole.filter(pa.compute.greater_equal(best, pa.scalar(0.3, pa.float32()))))


# ---- interrupted ------------------------------------------------------------------------------------------------------


def test_predict__goes_on_where_it_was_killed_whatever_the_threads(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "PART_POSITIONS", 3_000)
    monkeypatch.setattr(scan, "MOST_POSITIONS", 700)
    model = load_unified_model(place / "run_plain")
    asked = Scanning(fasta=place / "genome.fa", whole_contigs=True)

    def predict(out: Path, threads: int, stop_at: int = 10**9) -> predict_sequence.ScanSummary:
        def report(stage: str, done: int, total: int) -> None:
            if stage == "predicting" and done > stop_at:
                raise KeyboardInterrupt

        return predict_sequence.predict_sequence(model, asked, out, threads=threads, report=report)

    whole = predict(tmp_path / "whole.parquet", threads=1)
    with pytest.raises(KeyboardInterrupt):
        predict(tmp_path / "killed.parquet", threads=2, stop_at=20_000)
    assert not (tmp_path / "killed.parquet").exists()
    resumed = predict(tmp_path / "killed.parquet", threads=2)
    assert whole.n_positions_before == 0
    assert 20_000 < resumed.n_positions_before < resumed.n_positions == 54_000
    assert (tmp_path / "killed.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["killed.parquet", "whole.parquet"]


# ---- from Python ------------------------------------------------------------------------------------------------------


def test_run__predicts_and_scores_sequence_from_python(place: Path, tmp_path: Path) -> None:
    import mi_duck

    run = mi_duck.Run(place / "run_plain")
    asked = {"fasta": place / "genome.fa", "annotation": place / "genes.gtf"}
    summary = run.predict_sequence(tmp_path / "python.parquet", **asked)
    here("predict", place / "run_plain", *genome(place), "--out", tmp_path / "command.parquet")
    assert summary.n_rows == 10_600
    assert (tmp_path / "python.parquet").read_bytes() == (tmp_path / "command.parquet").read_bytes()
    with pytest.raises(TypeError, match="region"):
        run.predict_sequence(tmp_path / "x.parquet", **asked, region="x")


def test_prepare__keeps_how_features_are_made(place: Path, tmp_path: Path) -> None:
    here("prepare", place / "plain", "--out", tmp_path / "sorted")
    before, after = (json.loads((one / "build.json").read_bytes()) for one in (place / "plain", tmp_path / "sorted"))
    genome_file = tmp_path / "sorted" / after["inputs"].pop("fasta")["path"]
    assert genome_file.resolve() == (place / "genome.fa").resolve()
    assert before["inputs"].pop("fasta")["path"] == "../genome.fa"
    assert after.pop("inputs")["annotation"]["sha256"] == before.pop("inputs")["annotation"]["sha256"]
    assert after == before
    assert open_dataset(str(tmp_path / "sorted")).recipe == load_unified_model(place / "run_plain").recipe
