"""Training on a graphics device: refused where there is none, and what it would take, by formula."""

from dataclasses import replace
from pathlib import Path

import pytest
from runs import assert_refused, call
from shared import DENSE

from mi_duck.errors import MemoryBudgetError, PlanError
from mi_duck.plan.cut import CONTEXT_BYTES, check_graphics_memory, gpu_bytes
from mi_duck.resources import check_device, cuda_devices
from mi_duck.run.plan import Instance

LAYOUT = replace(DENSE, n_wide=79, bins=60_000)
absent = pytest.mark.skipif(bool(cuda_devices()), reason="a CUDA device is here")
present = pytest.mark.skipif(not cuda_devices(), reason="no CUDA device is here")


@absent
@pytest.mark.parametrize("command", ["plan", "run"])
def test_device__that_is_not_there_is_refused(command: str, small_dataset: Path, tmp_path: Path) -> None:
    """XGBoost would train on the processor and only warn."""
    out = ("--out", tmp_path / "run")
    result = call(command, small_dataset, *out, "--device", "cuda")
    assert_refused(result, 78, "sees no CUDA device")
    assert not list(tmp_path.rglob("plan.json"))


@present
def test_device__trains_and_says_what_it_takes(small_dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = call(
        "run", small_dataset, "--out", out, "--device", "cuda", "--n-estimators", "5", "--minimal-diagnostics"
    )
    assert result.exit_code == 0, result.output
    assert "graphics memory" in result.output


def test_device__and_a_matrix_on_disk_exclude_each_other() -> None:
    with pytest.raises(PlanError, match="exclude each other"):
        check_device("cuda", "external")
    check_device("cpu", "external")


def test_gpu_bytes__of_a_dense_matrix_by_hand() -> None:
    """257 symbols take nine bits a cell."""
    n = 587_000
    expected = CONTEXT_BYTES + n * 1_167 * 9 / 8 + 48 * n + 16 * 60_000 * 64
    assert gpu_bytes(n, LAYOUT) == int(expected)


def test_gpu_bytes__missing_values_take_the_bits_of_all_bins() -> None:
    n = 1_000_000
    more = gpu_bytes(n, replace(LAYOUT, missing_share=0.1)) - gpu_bytes(n, LAYOUT)
    assert more == pytest.approx(n * 1_167 * (16 - 9) / 8, rel=1e-6)


@present
def test_graphics_memory__too_small_is_refused() -> None:
    whole = Instance(0, 0, 9_280, 9_280, 10**9, 10**9, 1, 1.0)
    with pytest.raises(MemoryBudgetError, match="--genes-per-instance"):
        check_graphics_memory([whole], LAYOUT)
