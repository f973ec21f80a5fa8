"""Two runs of the same data are compared on the same rows by the same draws; others are refused."""

import shutil
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from plans import changed
from runs import call, finished_run

from mi_duck.errors import CheckpointError
from mi_duck.evaluate.compare import compare_runs
from mi_duck.run.plan import Plan


@pytest.fixture
def finished(small_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run; only to be read."""
    return finished_run(small_dataset, tmp_path_factory)


def test_versus__a_run_and_itself_do_not_differ(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "copy")
    found = compare_runs(finished, tmp_path / "copy")
    assert found.one == found.other
    assert all(gap.value == gap.low == gap.high == 0 for gap in found.difference)
    assert {(one.metric, one.class_name) for one in found.one} >= {("log_loss", "all"), ("average_precision", "donor")}


def test_versus__the_command_prints_a_line_for_every_metric(finished: Path) -> None:
    result = call("compare", finished, finished)
    assert result.exit_code == 0, result.output
    assert "+0.0000 (+0.0000 to +0.0000)" in result.output


def test_versus__runs_of_other_data_are_refused(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "copy")
    plan = tmp_path / "copy" / "plan.json"
    plan.write_text(changed(Plan.from_json(plan.read_text()), fingerprint="0" * 64).to_json())
    with pytest.raises(CheckpointError, match="differ in"):
        compare_runs(finished, tmp_path / "copy")


@pytest.mark.parametrize("command", ["compare", "report", "explain"])
def test_finished_run__with_a_changed_file_is_refused_and_stays_known_as_damaged(
    finished: Path, tmp_path: Path, command: str
) -> None:
    """A step that lists the files again must not vouch for what it did not make."""
    run = tmp_path / "copy"
    shutil.copytree(finished, run)
    table = pq.read_table(run / "oof_predictions.parquet")
    perfect = pc.cast(pc.equal(table["label"].cast("string"), "donor"), "float32")
    at = table.schema.get_field_index("p_donor")
    pq.write_table(table.set_column(at, table.schema.field(at), perfect), run / "oof_predictions.parquet")
    result = call(command, run, *([finished] if command == "compare" else []))
    assert result.exit_code == 65, result.output
    assert "oof_predictions.parquet is not what it was when the run was finished" in result.stderr
    assert call("verify", run).exit_code == 65


def test_finished_run__with_deleted_diagnostics_is_reported_and_has_them_again(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "copy"
    shutil.copytree(finished, run)
    (run / "report.html").unlink()
    (run / "leakage_analysis" / "leakage.svg").unlink(missing_ok=True)
    result = call("report", run)
    assert result.exit_code == 0, result.output
    assert call("verify", run).exit_code == 0


def test_consolidate__does_not_vouch_for_files_that_were_changed_before(
    small_dataset: Path, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "copy"
    shutil.copytree(finished, run)
    with (run / "gene_deltas.csv").open("a") as file:
        file.write("\n")
    assert call("consolidate", run).exit_code == 0
    assert call("verify", run).exit_code != 0
