"""Scores a run on every position of the genes of a genome, in a child process: on request, and as a step of a run."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mi_duck.data.dataset import CLASSES
from mi_duck.errors import PlanError
from mi_duck.processes import Context, in_child
from mi_duck.run.folder import RunFolder
from mi_duck.run.plan import Plan
from mi_duck.run.recipe import is_at_hand
from mi_duck.run.stage_times import WHOLE_GENES, keep_stages
from mi_duck.settings import Diagnostics, Scanning
from mi_duck.workflow import steps

MOST_POSITIONS = 500_000
"""Of the genes that a run scores by itself: no further gene is added then, so that this stays a small part of the run."""


def evaluate_sequence(run: Path, scanning: Scanning, n_genes: int, context: Context) -> dict[str, Any]:
    """Score every position of some genes; see `mi_duck.genome.evaluate_sequence.score_run`."""
    if n_genes < 1:
        raise PlanError("--true-rate-genes 0 scores no gene; give how many of them, such as 100")
    given = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(scanning).items()}
    done = in_child(steps.evaluate_sequence, context)(
        run=str(run), scanning=given, n_genes=n_genes, threads=context.threads
    )
    return done.value


def n_genes_wanted(plan: Plan, diagnostics: Diagnostics) -> int:
    """Return of how many genes a run scores every position; 0 where its dataset was not made of sequence, or by trees."""
    is_of_sequence = plan.data.recipe is not None and plan.data.classes == CLASSES
    return diagnostics.true_rate_genes if is_of_sequence and plan.settings.is_boosted else 0


def say_what_is_left_out(plan: Plan, diagnostics: Diagnostics, context: Context) -> None:
    """Say, before anything is trained, where the genome that is to be scored is not there."""
    if n_genes_wanted(plan, diagnostics) and not is_at_hand(plan.data.files):
        context.say(
            "the genome of the dataset is not where build.json says, so the run will not score every position of genes "
            "(--true-rate-genes)"
        )


def score_every_position(folder: RunFolder, diagnostics: Diagnostics, context: Context) -> None:
    """Score every position of some genes of a consolidated and evaluated run, where its dataset was made of sequence."""
    if n_genes := n_genes_wanted(folder.read_plan(), diagnostics):
        done = in_child(steps.score_own_genome, context)(
            run=str(folder.root), n_genes=n_genes, most_positions=MOST_POSITIONS, threads=context.threads
        )
        keep_stages(folder, WHOLE_GENES, done.stages)
        if done.value is not None:
            context.say(f"every position of genes (--true-rate-genes) is not scored: {done.value}")


def lacks_true_rate(folder: RunFolder, diagnostics: Diagnostics) -> bool:
    """Return whether every position of other genes is asked for than a finished run scored, and the genome is there."""
    plan = folder.read_plan()
    n_genes = n_genes_wanted(plan, diagnostics)
    if not n_genes:
        return False
    try:
        found = json.loads(folder.true_rate.read_bytes())
        if "left_out" not in found:
            return bool(found["n_genes_asked"] != n_genes)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return is_at_hand(plan.data.files)
