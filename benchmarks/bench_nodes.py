"""How long would many machines take? Stage times of a finished run of several instances, laid out on nodes of one core. Hours.

Usage: python benchmarks/bench_nodes.py RUN [GENES ...]   (default the run's own genes, 100,000 and 1,000,000; toy: a small run)

Tasks are those of the jobs of Slurm: the rows, the instances, the parts of the joint refit by folds, those of the final boosters,
the rest. Those of one job go side by side, one to a node, and a job waits for the one before it. A task takes its CPU seconds as
measured. More genes take more rows, in as many instances as the run had, so every task grows with them; nothing is added for
slower disks, a network, or waiting in a queue. A simulation, not a measurement.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from harness import print_machine

from mi_duck.run.folder import RunFolder
from mi_duck.run.plan import Plan
from mi_duck.run.stage_times import CATALOGUE, PLANNING, READING, REFITTING, REPORT, TRAINING, stage_times
from mi_duck.workflow.refit import n_parts

NODES = (1, 2, 4, 16)


@dataclass(frozen=True, slots=True)
class Job:
    """Tasks of one job, each with its CPU seconds; ``grows`` with the genes or not."""

    name: str
    seconds: tuple[float, ...]
    grows: bool = True

    def wall(self, nodes: int, times: float) -> float:
        """Return the seconds on so many nodes, the longest task first, for so many times the genes."""
        ends = [0.0] * nodes
        for one in sorted(self.seconds, reverse=True):
            soonest = ends.index(min(ends))
            ends[soonest] += one * (times if self.grows else 1)
        return max(ends)


def jobs_of(folder: RunFolder, plan: Plan) -> list[Job]:
    """Return the jobs of a run by what it measured."""
    lines = stage_times(folder, plan)
    of_folds, final = n_parts(plan)

    def cpu(*steps: str) -> float:
        return float(sum(line["cpu_seconds"] for line in lines if line["step"] in steps))

    training = [
        sum(
            line["cpu_seconds"] for line in lines if line["step"] == TRAINING and line["instance_id"] == one.instance_id
        )
        for one in plan.cut.instances
    ]
    # a final part looks at all rows, one of a fold at those outside it
    share = (plan.settings.n_folds - 1) / plan.settings.n_folds
    of_part = cpu(REFITTING) / (of_folds * share + final)
    rest = (
        sum(line["cpu_seconds"] for line in lines)
        - sum(training)
        - cpu(PLANNING, READING, REFITTING, REPORT, CATALOGUE)
    )
    return [
        Job("planning", (cpu(PLANNING),), grows=False),
        Job("rows", (cpu(READING),)),
        Job("instances", tuple(training)),
        Job("refit", (share * of_part,) * of_folds),
        Job("refit, final", (of_part,) * final),
        Job("joining, scores", (rest,)),
        Job("report", (cpu(REPORT, CATALOGUE),), grows=False),
    ]


def toy_run(where: Path) -> Path:
    """Make a small run of three instances whose refit is done in parts."""
    from mi_duck.data.dataset import open_dataset
    from mi_duck.genome.synthetic import synthesise
    from mi_duck.processes import Context
    from mi_duck.settings import Asked, Diagnostics
    from mi_duck.workflow import pipeline, refit

    synthesise(where / "data", n_genes=60, rows_per_gene=40, n_features=20)
    refit.WORTH_SECONDS = 0.0
    asked = Asked(strategy="multi", genes_per_instance=25, n_estimators=8, n_folds=2)
    quick = Diagnostics(skip_shap=True, minimal_diagnostics=True)
    context = Context(2, lambda stage, done, total: None, lambda words: None)
    pipeline.run(open_dataset(str(where / "data")), where / "run", asked, context, diagnostics=quick)
    return where / "run"


def main() -> None:
    print_machine()
    with tempfile.TemporaryDirectory(prefix="mi_duck_bench_") as place:
        folder = RunFolder(toy_run(Path(place)) if sys.argv[1:] == ["toy"] else Path(sys.argv[1]))
        plan = folder.read_plan()
        jobs = jobs_of(folder, plan)
    n_genes, largest = plan.data.n_genes, max(plan.cut.instances, key=lambda one: one.n_training_rows)
    for size in [int(one) for one in sys.argv[2:]] or [n_genes, 100_000, 1_000_000]:
        times = size / n_genes
        peak = (
            plan.costs.model.predict_bytes(int(times * largest.n_training_rows), int(times * largest.n_genes)) / 2**30
        )
        most = f"{times * largest.n_genes:,.0f}"
        print(f"\n{size:,} genes; {len(plan.cut.instances)} instances, the largest with {most}, {peak:.1f} GiB")
        print("nodes" + "".join(f"{job.name:>16}" for job in jobs) + f"{'together':>16}")
        for nodes in NODES:
            hours = [job.wall(nodes, times) / 3600 for job in jobs]
            print(f"{nodes:5}" + "".join(f"{one:16.2f}" for one in hours) + f"{sum(hours):16.2f}")


if __name__ == "__main__":
    main()
