"""Predictions keep every id and the order, read only what the trees use, and are whole or absent."""

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from runs import FAST, call, finished_run, here, mi_duck, quiet, restore_signals

from mi_duck.ensemble.model import ConsolidatedMetaModel
from mi_duck.ensemble.model_file import load_unified_model
from mi_duck.ensemble.predict import Parts, predict_file
from mi_duck.errors import CheckpointError, DataError, RunBusyError, StorageError
from mi_duck.run.folder import run_lock
from mi_duck.run.training_data import TrainingData

CLASSES = ("neither", "donor", "acceptor")


@pytest.fixture(scope="module")
def run(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(small_dataset, tmp_path_factory)


@pytest.fixture(scope="module")
def model(run: Path) -> ConsolidatedMetaModel:
    loaded = load_unified_model(run)
    assert isinstance(loaded, ConsolidatedMetaModel)
    return loaded


@pytest.fixture(scope="module")
def sparing(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> ConsolidatedMetaModel:
    """Return a model whose trees leave some features out."""
    out = tmp_path_factory.mktemp("sparing") / "run"
    here("run", small_dataset, "--out", out, *FAST, "--xgb", "colsample_bynode=1", "--n-estimators", "3")
    loaded = load_unified_model(out)
    assert isinstance(loaded, ConsolidatedMetaModel)
    return loaded


@pytest.fixture(scope="module")
def rows(small_dataset: Path) -> pa.Table:
    return pq.read_table(small_dataset / "master")


def predicted(model: ConsolidatedMetaModel, data: Path, out: Path) -> pa.Table:
    summary = predict_file(model, str(data), out, report=quiet)
    table = pq.read_table(out)
    assert summary.n_rows == len(table)
    return table


def write(folder: Path, *tables: pa.Table, row_group_rows: int = 5_000) -> Path:
    folder.mkdir(parents=True)
    for number, table in enumerate(tables):
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=row_group_rows)
    return folder


def small_parts(monkeypatch: pytest.MonkeyPatch, n_rows: int) -> None:
    """Let a part, and a row group of the result, have so many rows."""
    monkeypatch.setattr("mi_duck.ensemble.predict.ROWS", n_rows)


class Killed(BaseException):
    """What a kill would be, if it could be raised."""


def killed_after(n_rows: int) -> Callable[[str, int, int], None]:
    """Return a report that ends the call once so many rows are done."""

    def report(stage: str, done: int, total: int) -> None:
        if done >= n_rows:
            raise Killed

    return report


def test_predict_file__keeps_ids_and_order_over_files_and_row_groups(
    model: ConsolidatedMetaModel, rows: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three files, small row groups, batches of 256 rows, parts of 700: equal to one call in memory."""
    monkeypatch.setattr("mi_duck.ensemble.predict.BATCH_BYTES", 1)
    small_parts(monkeypatch, 700)
    turned = rows.take(pa.array(np.random.default_rng(0).permutation(len(rows))))
    files = turned.slice(0, 1000), turned.slice(1000, 1), turned.slice(1001)
    found = predicted(model, write(tmp_path / "data", *files, row_group_rows=300), tmp_path / "out.parquet")
    ids = [name for name in rows.column_names if name not in set(model.features)]
    assert found.select(ids).equals(turned.select(ids))
    members = model.predict_members(turned)
    for index, name in enumerate(CLASSES):
        assert found[f"p_{name}"].to_numpy() == pytest.approx(model.predict_proba(turned)[:, index], abs=1e-7)
        assert found[f"spread_{name}"].to_numpy() == pytest.approx(members.std(axis=0)[:, index], abs=1e-6)
    assert found["prediction"].to_pylist() == model.predict(turned).tolist()
    assert found["source_file"].to_pylist() == [
        f"{number}.parquet" for number, one in enumerate(files) for _ in range(len(one))
    ]
    assert found["source_row"].to_pylist() == [row for one in files for row in range(len(one))]
    assert found.column_names == [
        *ids,
        "source_file",
        "source_row",
        *(f"p_{name}" for name in CLASSES),
        "prediction",
        *(f"spread_{name}" for name in CLASSES),
        "trained_on",
    ]


def test_predict_file__of_an_instance_has_no_spread(
    run: Path, rows: pa.Table, small_dataset: Path, tmp_path: Path
) -> None:
    one = load_unified_model(run / "multi_instance_training" / "instance_00")
    summary = predict_file(one, str(small_dataset), tmp_path / "out.parquet", report=quiet)
    found = pq.read_table(tmp_path / "out.parquet")
    assert found["p_donor"].to_numpy() == pytest.approx(one.predict_proba(rows)[:, 1], abs=1e-7)
    assert not [name for name in found.column_names if name.startswith("spread")]
    assert summary.n_rows == len(rows)


def test_predict_file__reads_only_the_columns_that_the_trees_use(
    sparing: ConsolidatedMetaModel, rows: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[list[str]] = []
    iterate = pq.ParquetFile.iter_batches

    def watched(self: pq.ParquetFile, *arguments: object, **options: object) -> object:
        read.append(list(options["columns"]))  # type: ignore[call-overload]
        return iterate(self, *arguments, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    data = write(tmp_path / "data", rows)
    used = sparing.forest.features
    found = predicted(sparing, data, tmp_path / "out.parquet")
    assert set(read[0]) & set(sparing.features) == set(used)
    assert 0 < len(used) < len(sparing.features)
    trees = {name for one in sparing.get_base_models() for name in one.get_score(importance_type="gain")}
    assert set(used) == {sparing.features[int(name[1:])] for name in trees}
    # what is not read cannot matter: nonsense in an unused column changes nothing
    unused = next(name for name in sparing.features if name not in used)
    nonsense = rows.set_column(rows.column_names.index(unused), unused, pa.array(np.full(len(rows), np.inf)))
    again = predicted(sparing, write(tmp_path / "nonsense", nonsense), tmp_path / "again.parquet")
    assert again.equals(found)


def test_predict_file__reordered_and_surplus_columns_change_nothing(
    model: ConsolidatedMetaModel, rows: pa.Table, small_dataset: Path, tmp_path: Path
) -> None:
    found = predicted(model, small_dataset, tmp_path / "a.parquet")
    turned = rows.select(rows.column_names[::-1]).append_column("note", pa.array(["x"] * len(rows)))
    again = predicted(model, write(tmp_path / "data", turned), tmp_path / "b.parquet")
    same = [name for name in found.column_names if not name.startswith("source_")]
    assert again.select(same).equals(found.select(same))
    assert again["note"].to_pylist()[:2] == ["x", "x"]


def test_predict_file__needs_no_label_and_no_gene(model: ConsolidatedMetaModel, rows: pa.Table, tmp_path: Path) -> None:
    bare = rows.select(list(model.features))
    summary = predict_file(model, str(write(tmp_path / "data", bare)), tmp_path / "out.parquet", report=quiet)
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.column_names[:3] == ["source_file", "source_row", "p_neither"]
    assert found["trained_on"].null_count == len(rows)
    assert (summary.n_rows_trained_on, summary.n_genes_trained_on) == (None, None)
    (words,) = summary.warnings
    assert words.startswith("it cannot be told which rows the model was trained on, so trained_on is null")
    assert words.endswith("0.parquet has no column 'gene_id' with the gene; add it")


def with_genes(rows: pa.Table, genes: pa.Array) -> pa.Table:
    return rows.set_column(rows.column_names.index("gene_id"), "gene_id", genes)


def test_predict_file__marks_rows_of_genes_that_the_model_was_trained_on(
    model: ConsolidatedMetaModel, rows: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every third gene has another name, one has none; the rows lie in two files and several parts, texts as they come."""
    small_parts(monkeypatch, 700)
    ids = rows["gene_id"].to_pylist()
    number = {gene: at for at, gene in enumerate(dict.fromkeys(ids))}
    new = [None if number[gene] == 1 else f"new {gene}" if number[gene] % 3 == 0 else gene for gene in ids]
    known = [None if gene is None else not gene.startswith("new") for gene in new]
    for kind in (pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        table = with_genes(rows, pa.array(new).cast(kind))
        data = write(tmp_path / str(kind)[:6], table.slice(0, 1000), table.slice(1000))
        summary = predict_file(model, str(data), tmp_path / "p.parquet", report=quiet)
        assert pq.read_table(tmp_path / "p.parquet")["trained_on"].to_pylist() == known
        assert summary.n_rows_trained_on == known.count(True)
        assert summary.n_genes_trained_on == len({gene for gene, is_known in zip(new, known, strict=True) if is_known})
    assert f"{known.count(True):,} of {len(rows):,} rows are of" in summary.warnings[0]
    assert model.predict_proba(rows).shape == (len(rows), 3)  # takes the same rows as before, and adds nothing


def test_predict_file__of_an_instance_marks_its_own_genes_alone(
    run: Path, rows: pa.Table, small_dataset: Path, tmp_path: Path
) -> None:
    where = run / "multi_instance_training" / "instance_01"
    predict_file(load_unified_model(where), str(small_dataset), tmp_path / "p.parquet", report=quiet)
    own = set((where / "genes.txt").read_text().splitlines())
    found = pq.read_table(tmp_path / "p.parquet")
    assert found["trained_on"].to_pylist() == [gene in own for gene in rows["gene_id"].to_pylist()]
    assert 0 < len(own) < 60


def test_predict_file__of_genes_by_number_or_of_another_kind(
    model: ConsolidatedMetaModel, rows: pa.Table, tmp_path: Path
) -> None:
    """Numbers are ids as their texts are, and none of these is a gene of the model; a date is no id."""
    numbered = write(tmp_path / "numbers", with_genes(rows, pa.array(range(len(rows)))))
    assert predict_file(model, str(numbered), tmp_path / "p.parquet", report=quiet).warnings == ()
    dates = write(tmp_path / "dates", with_genes(rows, pa.array([0] * len(rows), pa.date32())))
    (words,) = predict_file(model, str(dates), tmp_path / "p.parquet", report=quiet).warnings
    assert "column 'gene_id' is date32[day] in" in words


def test_predict_file__of_a_model_that_does_not_name_its_genes_says_so(
    model: ConsolidatedMetaModel, rows: pa.Table, tmp_path: Path
) -> None:
    bare = replace(model, members=tuple(replace(one, training=TrainingData()) for one in model.members))
    gone = nulls_in(rows, {model.forest.features[0]: 3})
    summary = predict_file(bare, str(write(tmp_path / "data", gone)), tmp_path / "p.parquet", report=quiet)
    assert summary.why_unknown == "the model was not made by mi-duck run and does not say on which genes"
    assert summary.new_missing == {}  # nothing is known of missing values either


def nulls_in(rows: pa.Table, counts: dict[str, int]) -> pa.Table:
    """Return the rows with so many nulls in columns, spread over all rows."""
    for name, n in counts.items():
        values = rows[name].to_pylist()
        for at in np.linspace(0, len(rows) - 1, n).astype(int).tolist():
            values[at] = None
        rows = rows.set_column(rows.column_names.index(name), name, pa.array(values, rows[name].type))
    return rows


def test_predict_file__counts_missing_values_that_are_new(
    sparing: ConsolidatedMetaModel, rows: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over parts, before and after a kill; columns that no tree uses or that had missing values in training do not count."""
    small_parts(monkeypatch, 700)
    used = [name for name in sparing.forest.features if not name.endswith("_score")][:8]
    unused = next(name for name in sparing.features if name not in sparing.forest.features)
    counts = {name: 10 * (at + 1) for at, name in enumerate(used)}
    table = with_genes(nulls_in(rows, counts | {unused: 50}), pa.array(["new"] * len(rows)))
    data, out = write(tmp_path / "data", table.slice(0, 1001), table.slice(1001)), tmp_path / "p.parquet"
    with pytest.raises(Killed):
        predict_file(sparing, str(data), out, report=killed_after(1400))
    summary = predict_file(sparing, str(data), out, threads=2, report=quiet)
    assert (summary.n_rows_before, summary.new_missing) == (1400, counts)
    (words,) = summary.warnings
    assert words.startswith("8 feature(s) had a value in every row of training and lack some now: ")
    assert f": {used[7]} in 80 of {len(rows):,} rows, {used[6]} in 70" in words
    assert " and 3 more; " in words
    had_some = TrainingData("gene_id", b"", tuple(used[:7]))
    other = replace(sparing, members=tuple(replace(one, training=had_some) for one in sparing.members))
    assert predict_file(other, str(data), out, report=quiet).new_missing == {used[7]: 80}
    assert pq.read_schema(out).metadata is None


def test_predict__the_command_warns_once(run: Path, small_dataset: Path, rows: pa.Table, tmp_path: Path) -> None:
    done = call("predict", run, small_dataset, "--out", tmp_path / "p.parquet")
    assert done.exit_code == 0, done.output
    assert done.stderr.count("warning: ") == 1
    assert f"warning: {len(rows):,} of {len(rows):,} rows are of 60 genes that the model was trained on" in done.stderr
    assert "n genes trained on           60" in done.stdout


def test_predict_file__keeps_what_folders_say(model: ConsolidatedMetaModel, rows: pa.Table, tmp_path: Path) -> None:
    part = rows.slice(0, 10).drop_columns(["chrom"])
    for name in ("4", "a%2Fb"):
        write(tmp_path / "data" / f"chrom={name}", part)
    found = predicted(model, tmp_path / "data", tmp_path / "out.parquet")
    assert found["chrom"].to_pylist() == ["4"] * 10 + ["a/b"] * 10
    write(tmp_path / "data" / "region=5", part)
    with pytest.raises(DataError, match="other partition folders"):
        predicted(model, tmp_path / "data", tmp_path / "out.parquet")


def test_predict_file__refuses_what_is_no_table_of_the_model(
    model: ConsolidatedMetaModel, rows: pa.Table, tmp_path: Path
) -> None:
    name = model.features[0]
    at = rows.column_names.index(name)
    text = rows.set_column(at, name, pa.array(["1.0"] * len(rows)))
    ids = rows.set_column(0, "gene_id", pa.array(range(len(rows))))
    cases = {
        "missing": ((rows.drop_columns([name]),), f"lacks 1 of 40 features of the model: {name}"),
        "renamed": ((rows.rename_columns({name: "Donor"}),), f"lacks 1 of 40 .*{name}"),
        "text": ((text,), f"feature '{name}' is string in .*, not a number"),
        "second": ((rows, rows.drop_columns([name])), "1.parquet lacks 1 of 40"),
        "surplus": ((rows, rows.append_column("x", pa.nulls(len(rows)))), "has other columns than"),
        "types": ((rows, ids), "column 'gene_id' is int64 in .*1.parquet but string in .*0.parquet"),
        "written": ((rows.append_column("p_donor", rows[name]),), "p_donor .* would be written twice"),
        "empty": ((rows.slice(0, 0),), "no rows"),
        "infinite": ((rows.set_column(at, name, pa.array(np.full(len(rows), np.inf))),), f"infinite .* '{name}'"),
    }
    assert name in model.forest.features
    for case, (tables, words) in cases.items():
        data = write(tmp_path / case, *tables)
        with pytest.raises(DataError, match=words):
            predict_file(model, str(data), tmp_path / "out" / "p.parquet", report=quiet)
        assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_predict_file__two_columns_of_one_name_are_refused(
    model: ConsolidatedMetaModel, rows: pa.Table, tmp_path: Path
) -> None:
    doubled = pa.Table.from_arrays([*rows.columns, rows["gene_id"]], names=[*rows.column_names, "gene_id"])
    with pytest.raises(DataError, match="two columns named gene_id"):
        predict_file(model, str(write(tmp_path / "data", doubled)), tmp_path / "out.parquet", report=quiet)


def test_predict_file__never_writes_over_its_input(
    model: ConsolidatedMetaModel, rows: pa.Table, tmp_path: Path
) -> None:
    data = write(tmp_path / "data", rows.slice(0, 10))
    before = (data / "0.parquet").read_bytes()
    (tmp_path / "link.parquet").symlink_to(data / "0.parquet")
    for out, words in (
        (data / "0.parquet", "one of the input files"),
        (tmp_path / "link.parquet", "one of the input files"),
        (data / "new.parquet", "become part of the dataset"),
        (data / "deep" / "new.parquet", "become part of the dataset"),
        (tmp_path / "out.csv", "does not end in .parquet"),
    ):
        with pytest.raises(DataError, match=words):
            predict_file(model, str(data), out, report=quiet)
    assert [file.name for file in data.iterdir()] == ["0.parquet"]
    assert (data / "0.parquet").read_bytes() == before


def test_predict_file__replaces_predictions_and_nothing_else(
    run: Path, model: ConsolidatedMetaModel, rows: pa.Table, tmp_path: Path
) -> None:
    """A table of the user stays, and so do the scores out of fold of a run, which those of its own model would replace."""
    data, own = write(tmp_path / "data", rows.slice(0, 10)), tmp_path / "own.parquet"
    honest = tmp_path / "oof_predictions.parquet"
    shutil.copy(run / honest.name, honest)
    pq.write_table(pa.table({"mine": [1]}), own)
    for out in (own, honest):
        before = out.read_bytes()
        with pytest.raises(DataError, match="exists and does not hold predictions of this command"):
            predict_file(model, str(data), out, report=quiet)
        assert out.read_bytes() == before
    first = predicted(model, data, tmp_path / "p.parquet")
    assert predicted(model, data, tmp_path / "p.parquet").equals(first)


def test_predict_file__is_whole_or_absent(model: ConsolidatedMetaModel, rows: pa.Table, tmp_path: Path) -> None:
    """Damage in the second file: what the file held before stays, and nothing is left beside it."""
    data = tmp_path / "data"
    data.mkdir()
    for number in range(2):
        pq.write_table(rows, data / f"{number}.parquet", write_page_checksum=True)
    whole = bytearray((data / "1.parquet").read_bytes())
    whole[len(whole) // 2] ^= 8
    (data / "1.parquet").write_bytes(whole)
    (tmp_path / "out").mkdir()
    earlier = pa.table({"source_row": [0], "prediction": ["donor"], "trained_on": [False]})
    pq.write_table(earlier, tmp_path / "out" / "p.parquet")
    before = (tmp_path / "out" / "p.parquet").read_bytes()
    with pytest.raises(DataError, match="1.parquet is damaged"):
        predict_file(model, str(data), tmp_path / "out" / "p.parquet", report=quiet)
    assert [(file.name, file.read_bytes()) for file in (tmp_path / "out").iterdir()] == [("p.parquet", before)]


def test_predict_file__a_path_that_cannot_be_written_is_a_storage_error(
    model: ConsolidatedMetaModel, small_dataset: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder.parquet" / "x").mkdir(parents=True)
    for out in (tmp_path / "file" / "p.parquet", tmp_path / "folder.parquet"):
        with pytest.raises(StorageError, match="cannot write"):
            predict_file(model, str(small_dataset), out, report=quiet)
    assert {file.name for file in tmp_path.iterdir()} == {"file", "folder.parquet"}


def test_predict__command_equals_memory_and_works_after_a_move(
    run: Path, model: ConsolidatedMetaModel, rows: pa.Table, tmp_path: Path
) -> None:
    """In a process of its own, from the model file alone, with names that hold spaces."""
    (tmp_path / "a folder").mkdir()
    shutil.copy(run / "consolidated_model.miduck", tmp_path / "a folder" / "my model.miduck")
    data = write(tmp_path / "a folder" / "data [1]", rows)
    done = mi_duck(
        "predict", "my model.miduck", "data [1]", "--out", "p q.parquet", "--json", cwd=tmp_path / "a folder"
    )
    assert f'"n_rows": {len(rows)}' in done.stdout
    found = pq.read_table(tmp_path / "a folder" / "p q.parquet")
    assert found["p_donor"].to_numpy() == pytest.approx(model.predict_proba(rows)[:, 1], abs=1e-7)
    again = call("predict", run, data / "*.parquet", "--out", tmp_path / "b.parquet", "--threads", 1)
    assert again.exit_code == 65  # the brackets of the folder's name are a pattern here


def test_predict_file__goes_on_after_a_kill_and_ends_with_the_same_bytes(
    model: ConsolidatedMetaModel, rows: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over files and row groups, with other threads and batches than before; a column of texts from a dictionary too."""
    coded = rows.append_column("kind", rows["splice_type"].dictionary_encode())
    data = write(tmp_path / "data", coded.slice(0, 1501), coded.slice(1501), row_group_rows=400)
    small_parts(monkeypatch, 500)
    predict_file(model, str(data), tmp_path / "whole.parquet", report=quiet)
    assert pq.read_table(tmp_path / "whole.parquet")["kind"].to_pylist() == rows["splice_type"].to_pylist()
    out = tmp_path / "out" / "p.parquet"
    for n_rows in (1000, 2500, len(rows)):
        with pytest.raises(Killed):
            predict_file(model, str(data), out, report=killed_after(n_rows))
        assert len(list((tmp_path / "out" / ".p.parquet.parts").glob("*.arrow"))) == -(-n_rows // 500)
        assert not out.exists()
    asked: list[int] = []
    monkeypatch.setattr("mi_duck.ensemble.predict.BATCH_BYTES", 1)
    summary = predict_file(
        model, str(data), out, threads=3, report=lambda stage, done, total: asked.append(done * (stage[0] == "p"))
    )
    assert (summary.n_rows, summary.n_rows_before) == (len(rows), len(rows))
    assert not any(asked)  # nothing was left to predict
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["p.parquet"]
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    again = predict_file(model, str(data), tmp_path / "again.parquet", threads=2, report=quiet)
    assert again.n_rows_before == 0
    assert (tmp_path / "again.parquet").read_bytes() == out.read_bytes()
    assert pq.read_metadata(out).row_group(0).num_rows == 500


def test_predict_file__adopts_only_its_own_parts(
    model: ConsolidatedMetaModel,
    run: Path,
    rows: pa.Table,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of another model, of rows that changed, damaged, behind a gap: predicted again, and the result is the right one."""
    small_parts(monkeypatch, 500)
    data = write(tmp_path / "data", rows)
    out, folder = tmp_path / "p.parquet", Parts(tmp_path / ".p.parquet.parts")
    predict_file(model, str(data), tmp_path / "whole.parquet", report=quiet)
    whole = (tmp_path / "whole.parquet").read_bytes()

    def killed() -> list[Path]:
        with pytest.raises(Killed):
            predict_file(model, str(data), out, report=killed_after(2000))
        return sorted(folder.folder.glob("*.arrow"))

    assert len(killed()) == 4
    one = load_unified_model(run / "multi_instance_training" / "instance_00")
    assert predict_file(one, str(data), out, report=quiet).n_rows_before == 0

    parts = killed()
    parts[1].unlink()
    assert predict_file(model, str(data), out, report=quiet).n_rows_before == 500
    assert out.read_bytes() == whole

    parts = killed()
    damaged = bytearray(parts[2].read_bytes())
    damaged[len(damaged) // 2] ^= 1
    parts[2].write_bytes(damaged)
    with pytest.raises(CheckpointError, match="is damaged; the same command writes it again"):
        predict_file(model, str(data), out, report=quiet)
    assert predict_file(model, str(data), out, report=quiet).n_rows_before == 1000
    assert out.read_bytes() == whole

    killed()
    (folder.folder / "parts.json").write_text("{}")
    (folder.folder / "mine.txt").write_text("")
    assert predict_file(model, str(data), out, report=quiet).n_rows_before == 0
    assert [file.name for file in folder.folder.iterdir()] == ["mine.txt"]

    killed()
    os.utime(data / "0.parquet")
    assert predict_file(model, str(data), out, report=quiet).n_rows_before == 0
    assert out.read_bytes() == whole


def test_predict__asked_to_end_is_143_and_goes_on(
    run: Path, small_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_parts(monkeypatch, 1000)
    save = Parts.save

    def save_and_end(self: Parts, number: int, part: pa.Table) -> None:
        save(self, number, part)
        if number == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Parts, "save", save_and_end)
    ended = call("predict", run, small_dataset, "--out", tmp_path / "p.parquet", "--threads", 2)
    restore_signals()
    assert ended.exit_code == 143
    assert "goes on where it stopped" in ended.output
    done = call("predict", run, small_dataset, "--out", tmp_path / "p.parquet", "--json")
    assert done.exit_code == 0, done.output
    assert '"n_rows_before": 2000' in done.output


def test_predict_file__two_at_once_are_refused(
    model: ConsolidatedMetaModel, small_dataset: Path, tmp_path: Path
) -> None:
    with run_lock(tmp_path / ".p.parquet.parts"), pytest.raises(RunBusyError, match="another mi-duck works on"):
        predict_file(model, str(small_dataset), tmp_path / "p.parquet", report=quiet)


def test_predict_file__an_error_of_a_thread_is_reported_and_leaves_nothing(
    model: ConsolidatedMetaModel, rows: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mi_duck.ensemble.predict.BATCH_BYTES", 1)
    name = model.forest.features[0]
    values = rows[name].to_numpy().astype(np.float64)
    values[-1] = np.inf
    bad = rows.set_column(rows.column_names.index(name), name, pa.array(values))
    data = write(tmp_path / "data", rows, bad)
    with pytest.raises(DataError, match=f"infinite value.* '{name}'.*, in .*1.parquet"):
        predict_file(model, str(data), tmp_path / "p.parquet", threads=2, report=quiet)
    assert [file.name for file in tmp_path.iterdir()] == ["data"]
