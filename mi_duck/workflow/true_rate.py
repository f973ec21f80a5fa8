"""Scores a run on every position of the genes of a genome, in a child process."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from mi_duck.processes import Context, in_child
from mi_duck.settings import Scanning
from mi_duck.workflow import steps


def evaluate_sequence(run: Path, scanning: Scanning, n_genes: int, context: Context) -> dict[str, Any]:
    """Score every position of some genes; see `mi_duck.genome.evaluate_sequence.score_run`."""
    given = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(scanning).items()}
    done = in_child(steps.evaluate_sequence, context)(
        run=str(run), scanning=given, n_genes=n_genes, threads=context.threads
    )
    return done.value
