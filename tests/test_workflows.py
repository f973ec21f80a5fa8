"""The example for workflow managers, run for real where Snakemake is installed."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from runs import COMMAND, FAST, here

from mi_duck.atomic_files import file_sha256
from mi_duck.run.folder import RunFolder

SNAKEFILE = Path(__file__).parent / "workflows" / "Snakefile"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("snakemake") is None, reason="pip install snakemake")
def test_snakemake__gives_the_model_of_a_run_here_and_then_has_nothing_to_do(
    small_dataset: Path, tmp_path: Path
) -> None:
    """An instance a job, two at once; the names have blanks."""
    run, mine = tmp_path / "a run", tmp_path / "mine"
    flags, shown = FAST[:-2], FAST[-2:]
    command = ["snakemake", "--snakefile", str(SNAKEFILE), "--cores", "2", "--directory", str(tmp_path / "work")]
    command += ["--config", f"dataset={small_dataset}", f"run={run}", f"command={shlex.join(COMMAND)}"]
    command += [f"flags={shlex.join(flags)}", f"finish_flags={shlex.join(shown)}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    here("run", small_dataset, "--out", mine, *FAST)
    assert file_sha256(RunFolder(run).model) == file_sha256(RunFolder(mine).model)
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "Nothing to be done" in again.stdout + again.stderr
