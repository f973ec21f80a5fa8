"""Verify: a good run passes, and each of many faults is found, on its line, with its exit code."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import CONTEXT, call, finished_run, plain_run, quiet, resealed

from mi_duck.archive import pack, read_parts
from mi_duck.atomic_files import file_sha256, sealed, write_json
from mi_duck.run.folder import RunFolder, file_hashes, listing_files_again, own_files, read_provenance, run_lock
from mi_duck.run.instance_folder import checkpoint_key, made_of
from mi_duck.settings import Diagnostics
from mi_duck.verify.subject import OK, Finding
from mi_duck.verify.verify import exit_code, verify_run
from mi_duck.workflow.pipeline import is_finished, report_run

FIRST, SECOND, LAST = (f"multi_instance_training/instance_{number:02d}" for number in range(3))


@pytest.fixture(scope="module")
def good(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished run of three instances; only to be read."""
    return plain_run(small_dataset, tmp_path_factory)


@pytest.fixture
def run(good: Path, tmp_path: Path) -> Path:
    """Copy of that run under another name, to be spoilt."""
    return Path(shutil.copytree(good, tmp_path / "moved [run]"))


def verified(run: Path) -> tuple[int, dict[str, Finding]]:
    """Return the exit code and what is not right by name."""
    findings = verify_run(run, report=quiet)
    return exit_code(findings), {one.name: one for one in findings if one.status != OK}


# ---- the means of a vandal --------------------------------------------------------------------------------------------


def flip(name: str, position: float = 0.5) -> Callable[[Path], None]:
    """Flip one bit of a file, at a position between its begin (0) and its end (1)."""

    def change(run: Path) -> None:
        data = bytearray((run / name).read_bytes())
        data[int(position * (len(data) - 1))] ^= 4
        (run / name).write_bytes(data)

    return change


def gone(*names: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        for name in names:
            shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()

    return change


def cut(name: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        data = (run / name).read_bytes()
        (run / name).write_bytes(data[: len(data) // 2])

    return change


def text(name: str, data: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(data, encoding="utf-8")

    return change


def edit_json(name: str, edit: Callable[[Any], object]) -> Callable[[Path], None]:
    return lambda run: resealed(run / name, edit)


def edit_csv(name: str, edit: Callable[[list[dict[str, str]]], object]) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        with (run / name).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        edit(rows)
        with (run / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    return change


def edit_table(name: str, edit: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        table = pq.read_table(run / name)
        pq.write_table(edit(table), run / name, write_page_checksum=True)

    return change


def swapped(one: str, other: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        (run / one).rename(run / "between")
        (run / other).rename(run / one)
        (run / "between").rename(run / other)

    return change


def mended(*changes: Callable[[Path], None]) -> Callable[[Path], None]:
    """Make every hash right again after a change, so that only the content shows it."""

    def change(run: Path) -> None:
        for one in changes:
            one(run)
        folder = RunFolder(run)
        if file_sha256(folder.genes) != json.loads(folder.plan.read_bytes())["data"]["genes_sha256"]:
            resealed(folder.plan, lambda plan: plan["data"].update(genes_sha256=file_sha256(folder.genes)))
        plan = folder.read_plan()
        summary = json.loads(folder.summary.read_bytes())
        for instance, member in zip(plan.cut.instances, summary["members"], strict=True):
            where = folder.instance(instance)
            manifest = json.loads((where / "manifest.json").read_bytes())
            del manifest["seal"]
            manifest["sha256"] = {name: file_sha256(where / name) for name in manifest["sha256"]}
            manifest |= {"key": checkpoint_key(plan, instance), "made_of": made_of(plan, instance)}
            write_json(where / "manifest.json", sealed(manifest | {"instance_id": instance.instance_id}))
            names = {"model_sha256": "model_multiclass.miduck", "genes_sha256": "genes.txt"}
            names["fold_models_sha256"] = "fold_models.miduck"
            member |= {key: file_sha256(where / name) for key, name in names.items()}
        summary["model_sha256"] = file_sha256(folder.model)
        summary["out_of_fold_sha256"] = file_sha256(folder.out_of_fold)
        write_json(folder.summary, summary)
        provenance = json.loads(folder.provenance.read_bytes())
        provenance |= {"plan_sha256": file_sha256(folder.plan), "model_sha256": file_sha256(folder.model)}
        write_json(folder.provenance, provenance | {"files": file_hashes(folder)})

    return change


def repacked(name: str, edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Change the facts inside a model's file, with its own hash right."""

    def change(run: Path) -> None:
        parts = read_parts(run / name)
        facts = json.loads(parts["model.json"])
        edit(facts)
        (run / name).write_bytes(pack(parts | {"model.json": json.dumps(facts).encode()}))

    return change


def first_column(name: str, values: Callable[[list[Any]], list[Any]]) -> Callable[[pa.Table], pa.Table]:
    """Return a change of one column, by its values."""

    def edit(table: pa.Table) -> pa.Table:
        index = table.schema.get_field_index(name)
        changed = pa.array(values(table[name].to_pylist()), table.schema.field(name).type)
        return table.set_column(index, name, changed)

    return edit


def set_value(row: dict[str, str], name: str, value: str) -> None:
    row[name] = value


def chosen(rows: list[dict[str, str]], metric: str) -> dict[str, str]:
    """Return the line of the chosen ensemble's metric."""
    return next(
        row for row in rows if row["scope"] == "ensemble" and row["is_chosen"] == "1" and row["metric"] == metric
    )


def of_member(rows: list[dict[str, str]], instance_id: str, metric: str) -> dict[str, str]:
    """Return the line of a member's metric on its own rows."""
    kind = (instance_id, "own", metric)
    return next(row for row in rows if (row["instance_id"], row["evaluated_on"], row["metric"]) == kind)


def exchanged(one: str, other: str) -> Callable[[pa.Table], pa.Table]:
    """Return a change of two columns for each other; their names stay where they are."""
    return lambda table: table.select(
        [{one: other, other: one}.get(name, name) for name in table.column_names]
    ).rename_columns(table.column_names)


def doubled(table: pa.Table) -> pa.Table:
    """Return a table whose second row stands twice."""
    return pa.concat_tables([table.slice(0, 2), table.slice(1)])


def negative(values: list[float]) -> list[float]:
    return [-0.5, *values[1:]]


# ---- good runs --------------------------------------------------------------------------------------------------------


def test_verify__passes_a_good_run_that_was_moved(run: Path, small_dataset: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*")}
    result = call("verify", run, "--data")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split("\t") == ["status", "what", "found"]
    assert {line.split("\t")[0] for line in lines[1:-1]} == {"ok"}
    assert any("dataset: page checksums" in line for line in lines)
    assert before == {file: file.stat().st_mtime_ns for file in run.rglob("*")}, "it writes nothing"


def test_verify__passes_a_run_with_everything(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    code, findings = verified(finished_run(small_dataset, tmp_path_factory))
    assert (code, findings) == (0, {})


def test_verify__tells_machines_the_worst_first(run: Path) -> None:
    flip(f"{LAST}/genes.txt")(run)
    (run / SECOND / "oof_predictions.parquet").unlink()
    result = call("verify", run, "--json")
    assert result.exit_code == 65
    found = [one["status"] for one in json.loads(result.stdout)]
    order = ["damaged", "missing", "not applicable", "ok"]
    assert found == sorted(found, key=order.index)
    assert set(found) == set(order)


# ---- faults -----------------------------------------------------------------------------------------------------------

OOF, GENES = "oof_predictions.parquet", "genes.parquet"
SUMMARY = "consolidation_summary.json"
# what is done, exit code, the line that finds it, words in that line
FAULTS: dict[str, tuple[Callable[[Path], None], int, str, str]] = {
    "bit in plan.json": (flip("plan.json", 0.0), 65, "plan.json", "damaged"),
    "number in plan.json": (
        *(edit_json("plan.json", lambda plan: plan["settings"].update(max_depth=5)), 65),
        *("provenance.json", "plan.json is not the one"),
    ),
    "other number in plan.json": (
        *(text("plan.json", '{"version": 7, "seal": "0"}'), 65, "plan.json", "it is not what was written"),
    ),
    "text for a number in plan.json": (
        *(
            edit_json("plan.json", lambda plan: plan["cut"]["instances"][0].update(n_rows="many")),
            65,
            "plan.json",
            "n_rows",
        ),
    ),
    "window of plan.json": (
        *(mended(edit_json("plan.json", lambda plan: plan["cut"]["instances"][1].update(first_rank=25))), 65),
        *("neighbouring windows overlap", "n_shared"),
    ),
    "window beyond the genes": (
        *(edit_json("plan.json", lambda plan: plan["cut"]["instances"][2].update(stop_rank=10**9)), 65),
        *("plan.json", "outside the genes"),
    ),
    "rows of a window": (
        *(mended(edit_json("plan.json", lambda plan: plan["cut"]["instances"][1].update(n_rows=7))), 65),
        *("windows hold their genes", "n_rows 7"),
    ),
    "peak above the budget in plan.json": (
        *(mended(edit_json("plan.json", lambda plan: plan["cut"]["instances"][1].update(predicted_bytes=1 << 40))), 65),
        *("predicted peaks keep the budget", "instance_id 1"),
    ),
    "segment of plan.json": (
        *(mended(edit_json("plan.json", lambda plan: plan["cut"]["segments"][1].update(stop_row=99))), 65),
        *("segments tile the rows", "first_rank"),
    ),
    "nested plan.json": (text("plan.json", "[" * 100_000), 65, "plan.json", "damaged"),
    "bit in genes.parquet": (flip(GENES), 65, GENES, "hash"),
    "no genes.parquet": (gone(GENES), 69, GENES, "not there"),
    "gene in two folds": (
        *(mended(edit_table(GENES, first_column("gene_id", lambda ids: [*ids[:-1], ids[0]]))), 65),
        *("genes are listed once", "n_times 2"),
    ),
    "fold group in two folds": (
        *(mended(edit_table(GENES, first_column("fold_group", lambda _: ["one"] * 60))), 65),
        *("no fold group is split", "n_folds 3"),
    ),
    "gene without a fold": (
        *(mended(edit_table(GENES, first_column("fold", lambda folds: [None, *folds[1:]]))), 65),
        *("every gene has one fold", "gene_rank 0"),
    ),
    "other fold of a gene": (
        *(mended(edit_table(GENES, first_column("fold", lambda folds: [(folds[0] + 1) % 3, *folds[1:]]))), 65),
        *(OOF, "are not those of genes.parquet"),
    ),
    "held-out gene that is trained on": (
        *(mended(edit_table(GENES, first_column("is_holdout", lambda marks: [True, *marks[1:]]))), 65),
        *("no held-out gene is trained on", "instance_id 0"),
    ),
    "bit in a manifest": (flip(f"{FIRST}/manifest.json", 0.0), 65, "instance_00: manifest", "cannot be read"),
    "list for a manifest": (text(f"{FIRST}/manifest.json", "[]"), 65, "instance_00: manifest", "cannot be read"),
    "manifest that leads elsewhere": (
        edit_json(f"{FIRST}/manifest.json", lambda one: one["sha256"].update({"../../plan.json": "0"})),
        *(65, "instance_00: manifest", "lies elsewhere"),
    ),
    "manifest of other settings": (
        *(edit_json(f"{FIRST}/manifest.json", lambda one: one["made_of"].update(max_depth=9)), 65),
        *("instance_00: manifest", "another plan: max_depth: 9 then"),
    ),
    "bit in genes.txt": (flip(f"{FIRST}/genes.txt"), 65, "instance_00: files", "genes.txt"),
    "bit in a model": (flip(f"{FIRST}/model_multiclass.miduck"), 65, "instance_00: files", "model_multiclass"),
    "bit in fold models": (flip(f"{SECOND}/fold_models.miduck"), 65, "instance_01: files", "fold_models"),
    "bit in predictions of an instance": (flip(f"{LAST}/{OOF}"), 65, "instance_02: files", OOF),
    "bit in a small table": (flip(f"{LAST}/learning_curves.csv"), 65, "instance_02: files", "learning_curves.csv"),
    "no model": (gone(f"{FIRST}/model_multiclass.miduck"), 69, "instance_00: files", "model_multiclass.miduck"),
    "no manifest": (gone(f"{SECOND}/manifest.json"), 69, "instance_01", "not trained"),
    "no instance": (gone(SECOND), 69, "instance_01", "not trained"),
    "instances swapped": (swapped(FIRST, SECOND), 65, "instance_01: manifest", "another plan: ranks"),
    "predictions swapped": (
        *(mended(swapped(f"{FIRST}/{OOF}", f"{SECOND}/{OOF}")), 65, f"instance_00: {OOF}", "row_id"),
    ),
    "models swapped": (
        mended(swapped(f"{FIRST}/model_multiclass.miduck", f"{SECOND}/model_multiclass.miduck")),
        *(65, "consolidated model: members", "booster 0 of instance_00 is not the instance's"),
    ),
    "fold models of two folds": (
        mended(repacked(f"{FIRST}/fold_models.miduck", lambda facts: facts["rounds"].pop())),
        *(65, "instance_00: fold_models.miduck", "folds"),
    ),
    "genes of an instance": (
        *(mended(text(f"{FIRST}/genes.txt", "A\nB\n")), 65, "instance_00: genes.txt", "not those of the window"),
    ),
    "row twice in an instance": (
        *(mended(edit_table(f"{FIRST}/{OOF}", doubled)), 65, f"instance_00: {OOF}", "row_id"),
    ),
    "margin that is not finite": (
        mended(edit_table(f"{FIRST}/{OOF}", first_column("margin_donor", lambda m: [float("nan"), *m[1:]]))),
        *(65, f"instance_00: {OOF}", "1 margins"),
    ),
    "peak above the budget": (
        edit_json(f"{FIRST}/measurement.json", lambda one: one.update(peak_bytes=1 << 40)),
        *(65, "instance_00: measured peak", "more than the budget"),
    ),
    "stray file in an instance": (
        *(text(f"{LAST}/notes.txt", "mine"), 65, "instance_02: nothing else there", "notes.txt"),
    ),
    "folder of another run": (
        text("multi_instance_training/instance_07/manifest.json", "{}"),
        *(65, "no folder of another run", "instance_07"),
    ),
    "temporary file": (text(".metrics.csv.4711.tmp", "half"), 65, "no temporary files", "metrics.csv"),
    "bit in the model": (flip("consolidated_model.miduck"), 65, "consolidated model: file", "hash"),
    "no consolidated model": (gone("consolidated_model.miduck"), 69, "consolidated model: file", "not there"),
    "weights in the summary": (
        *(mended(edit_json(SUMMARY, lambda one: one["members"][0].update(weight=0.9))), 65),
        *("unified_training_summary.txt", "section 'Instances'"),
    ),
    "coverage in the summary": (
        *(mended(edit_json(SUMMARY, lambda one: one.update(coverage_fraction=0.9))), 65),
        *(SUMMARY, "coverage_fraction"),
    ),
    "members in the summary": (
        *(edit_json(SUMMARY, lambda one: one["members"][0].update(instance_id=9)), 65, SUMMARY, "not instances"),
    ),
    "list for a summary": (text(SUMMARY, "[1]"), 65, SUMMARY, ""),
    "thresholds": (
        *(mended(edit_json("thresholds.json", lambda one: one["donor"]["best_f1"].update(f1=0.99))), 65),
        *("thresholds by predictions", "donor"),
    ),
    "bit in the predictions": (flip(OOF), 65, OOF, "not opened"),
    "row twice": (mended(edit_table(OOF, doubled)), 65, OOF, "row_id"),
    "row of a pilot": (
        *(mended(edit_table(OOF, first_column("is_pilot", lambda marks: [True, *marks[1:]]))), 65),
        *(OOF, "1 rows whose is_pilot"),
    ),
    "negative probability": (
        *(mended(edit_table(OOF, first_column("p_donor", negative))), 65, OOF, "1 rows whose probabilities"),
    ),
    "other label": (
        mended(edit_table(OOF, first_column("label", lambda _: ["neither"] * len(_)))),
        *(65, OOF, "are not those of genes.parquet"),
    ),
    "bit in metrics.csv": (flip("metrics.csv"), 65, "hashes of all files", "metrics.csv"),
    "number in metrics.csv": (
        mended(edit_csv("metrics.csv", lambda rows: set_value(chosen(rows, "f1"), "value", "0.99"))),
        *(65, "metrics.csv", "f1"),
    ),
    "rows in metrics.csv": (
        mended(edit_csv("metrics.csv", lambda rows: set_value(chosen(rows, "log_loss"), "n_rows", "3"))),
        *(65, "metrics.csv", "rows of the chosen ensemble"),
    ),
    "number of a member in metrics.csv": (
        mended(edit_csv("metrics.csv", lambda rows: set_value(of_member(rows, "1", "f1"), "value", "0.99"))),
        *(65, "instance_01: scores of its own rows", "f1 of neither is 0.99"),
    ),
    "probabilities of a member": (
        mended(edit_table(f"{FIRST}/oof_predictions.parquet", exchanged("p_donor", "p_acceptor"))),
        *(65, "instance_00: scores of its own rows", "average_precision of donor"),
    ),
    "number of a base score in metrics.csv": (
        mended(edit_csv("metrics.csv", lambda rows: set_value(rows[0], "value", "0.99"))),
        *(65, "run.duckdb", "metrics: base"),
    ),
    "gene in the coverage report": (
        mended(edit_csv("gene_coverage_report.csv", lambda rows: set_value(rows[3], "instances", "0;1;2"))),
        *(65, "gene_coverage_report.csv", "instead of"),
    ),
    "line of the coverage report": (
        *(mended(edit_csv("gene_coverage_report.csv", lambda rows: rows.pop())), 65),
        *("gene_coverage_report.csv", "None instead of"),
    ),
    "bit in run.duckdb": (flip("run.duckdb"), 65, "run.duckdb", "not opened"),
    "half of run.duckdb": (mended(cut("run.duckdb")), 65, "run.duckdb", "cannot be read"),
    "number in the text": (
        mended(lambda run: text("unified_training_summary.txt", _spoilt(run))(run)),
        *(65, "unified_training_summary.txt", "section 'Data'"),
    ),
    "bit in the report": (flip("report.html"), 65, "hashes of all files", "report.html"),
    "bit in a table": (flip("leakage_analysis/leakage.csv"), 65, "hashes of all files", "leakage.csv"),
    "bit in provenance.json": (flip("provenance.json", 0.0), 65, "provenance.json", "cannot be read"),
    "no provenance.json": (gone("provenance.json"), 69, "provenance.json", "not there"),
    "file that is not listed": (text("overfitting/more.csv", "a"), 65, "hashes of all files", "more.csv is not listed"),
    "no report": (gone("report.html"), 69, "hashes of all files", "report.html not there"),
}


def _spoilt(run: Path) -> str:
    lines = (run / "unified_training_summary.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if line.startswith("rows "))
    return "".join([*lines[:at], "rows         1\n", *lines[at + 1 :]])


@pytest.mark.parametrize("fault", FAULTS)
def test_verify__finds(fault: str, run: Path) -> None:
    change, code, name, words = FAULTS[fault]
    change(run)
    found_code, findings = verified(run)
    assert name in findings, findings
    assert words in findings[name].detail
    assert (found_code, findings[name].status) == (code, "damaged" if code == 65 else "missing"), findings
    assert "\n" not in findings[name].detail


def test_verify__never_crashes_on_flipped_bits(run: Path) -> None:
    """A bit in every file of a run at once, and then in a few that are read first: findings, never an error."""
    files = own_files(RunFolder(run))
    kept = {file: file.read_bytes() for file in files}
    for step, first in enumerate(["", "plan.json", "genes.parquet", "oof_predictions.parquet", "genes.txt"]):
        for file, data in kept.items():
            at = (len(data) * (step + 1)) // 7
            is_hit = file.name == first or (not first and file.name not in ("plan.json", "genes.parquet"))
            file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] if is_hit else data)
        code, findings = verified(run)
        assert code == 65, (first, findings)
        assert not any("Traceback" in one.detail for one in findings.values())


# ---- broken runs ------------------------------------------------------------------------------------------------------


def test_verify__calls_a_run_with_two_of_three_instances_incomplete(run: Path) -> None:
    """What a run leaves that was killed in its third instance: two folders, scratch, and a temporary folder."""
    keep = {"plan.json", "genes.parquet", "multi_instance_training", "leakage_analysis"}
    for path in run.iterdir():
        if path.name not in keep:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.rmtree(run / LAST)
    (run / "multi_instance_training" / ".instance_02.tmp").mkdir()
    (run / ".scratch").mkdir()
    (run / ".scratch" / ".members.parquet.tmp").write_bytes(b"half")
    result = call("verify", run)
    assert result.exit_code == 69, result.output
    lines = [line.split("\t") for line in result.stdout.splitlines()[1:-1]]
    missing = [line[1] for line in lines if line[0] == "missing"]
    assert {"instance_02", "consolidated model", "oof_predictions.parquet", "provenance.json"} <= set(missing)
    assert not [line for line in lines if line[0] == "damaged"]
    statuses = [line[0] for line in lines]
    assert statuses == sorted(statuses, key=["ok", "missing", "not applicable"].index)
    assert sum(line[0] == "ok" and line[1].startswith("instance_01") for line in lines) == 8


def test_verify__names_a_lost_instance_of_an_ensemble(run: Path, small_dataset: Path) -> None:
    """The ensemble of the rest states its coverage; what was known before is not vouched for any more."""
    shutil.rmtree(run / LAST)
    result = call("consolidate", run, "--threads", "1")
    assert result.exit_code == 69
    code, findings = verified(run)
    assert code == 69, findings
    assert findings["consolidation_summary.json"].detail.startswith("instance_02 not in it")
    assert "consolidated again" in findings["provenance.json"].detail
    assert findings["metrics.csv"].status == "not applicable"


def test_verify__without_a_plan_says_so(tmp_path: Path) -> None:
    result = call("verify", tmp_path)
    assert result.exit_code == 69
    assert "no plan" in result.stdout


def test_verify__waits_for_nobody(run: Path) -> None:
    with run_lock(run):
        result = call("verify", run)
    assert result.exit_code == 75
    assert result.stderr.count("error:") == 1


def test_verify__of_another_dataset(run: Path, small_dataset: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(small_dataset, tmp_path / "elsewhere" / small_dataset.name))
    file = next(moved.rglob("*.parquet"))
    folder = RunFolder(run)
    resealed(folder.plan, lambda plan: plan["data"].update(location=str(moved), files=[str(file)]))
    mended()(run)
    assert call("verify", run, "--data").exit_code == 0
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1  # in a page: names, sizes and footers stay
    file.write_bytes(data)
    result = call("verify", run, "--data")
    assert result.exit_code == 65
    assert "damaged\tdataset: page checksums" in result.stdout
    file.unlink()
    result = call("verify", run, "--data")
    assert result.exit_code == 69
    assert "missing\tdataset: fingerprint" in result.stdout


# ---- the list of files ------------------------------------------------------------------------------------------------


def test_provenance__lists_every_file_of_a_run(good: Path) -> None:
    provenance = read_provenance(RunFolder(good))
    assert provenance is not None
    there = {file.relative_to(good).as_posix() for file in good.rglob("*") if file.is_file()}
    assert set(provenance["files"]) == {name for name in there if not name.startswith(".lock")} - {
        "provenance.json",
        "stage_times.json",
        "run.log",
    }


def test_provenance__leaves_files_of_others_alone(run: Path) -> None:
    for name in ("slurm-17.out", "consolidated_model.pkl", "multi_instance_training/stale/instance_09/genes.txt"):
        text(name, "not ours")(run)
    assert verified(run) == (0, {})


def test_provenance__vouches_again_after_a_stage_alone(run: Path) -> None:
    report_run(run, Diagnostics(), CONTEXT)
    assert list(run.glob("*.pdf")), "the report alone draws figures"
    assert verified(run) == (0, {})


def test_provenance__vouches_for_nothing_while_a_stage_works(run: Path) -> None:
    """A stage that dies after it began leaves a run that says so, and that the next run does not take for finished."""
    folder = RunFolder(run)
    plan = folder.read_plan()
    assert is_finished(folder, plan)
    with pytest.raises(ZeroDivisionError), listing_files_again(folder):
        assert 1 / ("files" in json.loads(folder.provenance.read_bytes()))
    assert not is_finished(folder, plan)
    code, findings = verified(run)
    assert code == 69
    assert "did not end" in findings["provenance.json"].detail
    with listing_files_again(folder):
        text("report.html", "half changed")(run)
    assert not is_finished(folder, plan), "what was half changed before is not vouched for"
