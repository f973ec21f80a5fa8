"""Every benchmark runs at toy size, so that none rots."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
TOYS = {
    "bench_classifiers.py": ["--classifiers", "sgd", "--blends", "fitted", "--n-folds=2", "--threads=1"],
    "bench_bit_flips.py": ["1", "pyarrow, checksums"],
    "bench_coverage.py": ["2", "12"],
    "bench_distil.py": ["toy"],
    "bench_hierarchy.py": ["toy"],
    "bench_growth.py": ["--features", "40", "--rows-per-gene", "20", "--instance-genes", "60", "--all", "90"],
    "bench_matrix.py": ["20", "60"],
    "bench_memory_formula.py": ["toy"],
    "bench_memory_per_gene.py": ["toy"],
    "bench_planning.py": ["3000", "60"],
    "bench_predict.py": ["--rounds", "5", "--rows", "500", "--features", "80", "--repeats", "1"],
    "bench_prepare.py": ["30"],
    "bench_any_table.py": ["2400"],
    "bench_level_codings.py": ["--rows", "1200"],
    "bench_routing.py": ["toy"],
    "bench_scan.py": ["2"],
    "bench_select_genes.py": ["toy"],
    "bench_settings.py": ["24", "1", "--only", "rate .1, depth 6, leaves of 1", "defaults"],
    "bench_shap.py": ["toy"],
    "bench_spread.py": ["toy"],
    "bench_tree_nodes.py": ["toy"],
    "bench_whole_job.py": ["--toy", "--rounds", "3", "--folds", "2", "--contenders", "plain", "lightgbm", "mi_duck"],
    "bench_final_rounds.py": ["toy"],
    "bench_nodes.py": ["toy"],
    "bench_waiting.py": ["200", "5", "2", "1"],
    "bench_workers.py": ["24", "20", "2", "1"],
}


LONG = (
    *("bench_classifiers.py", "bench_distil.py", "bench_final_rounds.py", "bench_hierarchy.py"),
    *("bench_memory_per_gene.py", "bench_routing.py", "bench_scan.py", "bench_select_genes.py"),
    *("bench_settings.py", "bench_spread.py", "bench_waiting.py", "bench_whole_job.py", "bench_workers.py"),
)
"""Those that take longest, of what has tests of its own."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(file.name, marks=pytest.mark.slow) if file.name in LONG else file.name
        for file in sorted(BENCHMARKS.glob("bench_*.py"))
    ],
)
def test_benchmark__runs_at_toy_size(name: str) -> None:
    done = subprocess.run([sys.executable, BENCHMARKS / name, *TOYS[name]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "cores" in done.stdout
    if name in ("bench_matrix.py", "bench_workers.py"):
        assert "byte-identical: True" in done.stdout
