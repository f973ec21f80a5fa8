"""Should final boosters, which see all rows, have more rounds than those of the folds? Scores on genes held out of all.

Usage: python benchmarks/bench_final_rounds.py DATASET [--genes 2000] [--features 200] [--genes-per-instance 666] [--threads 1]
       python benchmarks/bench_final_rounds.py toy

A quarter of the fold groups is held out. Instances are trained as in a run (a tenth of the easy negatives, the best features of
a pilot), but their final boosters get 1.5 times the median of the rounds of their folds, so that the first part of them is what
fewer rounds would have given. For each factor, the held-out rows are scored by the mean of the cut boosters, and by those whose
leaves are fitted together as a run does it; so are the trees of the folds in their place, leaves fitted on all genes. Log-odds
are calibrated by the other half of the held-out groups.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import pyarrow.parquet as pq
import xgboost as xgb
from harness import calibrated_halves, print_machine, quiet, words_of, workplace
from numpy.typing import NDArray

import mi_duck.boosting.train as training
from mi_duck.boosting.boosters import predict_margins
from mi_duck.data.dataset import open_dataset
from mi_duck.ensemble.model_file import load_unified_model, read_fold_models
from mi_duck.ensemble.refit import Part, Refitting, read_refitted
from mi_duck.genome.synthetic import synthesise
from mi_duck.metrics.metrics import differences, draw_groups, headline_scores
from mi_duck.plan.make_plan import make_plan
from mi_duck.processes import Context
from mi_duck.rows.partition import partition_here
from mi_duck.rows.segments import SegmentReader
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import genes_file
from mi_duck.run.plan import Plan, fitted_classes
from mi_duck.settings import Asked

FACTORS = (1.0, 1.2, 1.35, 1.5)
"""Of the median of the rounds of the folds, which have three fifths of the rows: three folds, and a tenth for early stopping."""
DRAWS = 1000
Drawn = dict[tuple[str, str], Any]
Boosters = Sequence[Sequence[xgb.Booster]]


def trained(dataset: Path, out: Path, asked: Asked, threads: int) -> RunFolder:
    """Plan and train a run whose final boosters have the most rounds."""
    folder = RunFolder(out)
    plan = make_plan(open_dataset(str(dataset)), out, asked, Context(threads, quiet, quiet))
    partition_here(run=str(out), threads=threads, report=quiet)
    as_it_is = training.final_rounds
    training.final_rounds = lambda of_folds, more_rows, most: _times(int(np.median(of_folds)), FACTORS[-1])
    try:
        for one in plan.cut.instances:
            training.train_instance(run=str(out), instance_id=one.instance_id, threads=threads, report=quiet)
    finally:
        training.final_rounds = as_it_is
    return folder


def _times(rounds: int, factor: float) -> int:
    return max(1, math.ceil(rounds * factor))


class HeldOut:
    """The rows of the genes that nothing was trained on."""

    def __init__(self, folder: RunFolder, plan: Plan) -> None:
        self.reader = SegmentReader(plan, plan.cut.holdout_segments, folder.segments)
        keys = self.reader.keys()
        groups = pq.read_table(genes_file(folder, plan), columns=["fold_group"])["fold_group"][plan.data.n_genes :]
        numbers = np.unique(groups.to_numpy(), return_inverse=True)[1].astype(np.int32)
        self.label = keys["label"].copy()
        self.group = numbers[keys["gene_rank"] - plan.data.n_genes]

    def margins(self, members: Boosters, threads: int) -> NDArray[np.float32]:
        """Return the mean log-odds of members, shape (n_rows, n_classes)."""
        raws = [bytes(booster.save_raw("ubj")) for member in members for booster in member]
        found = predict_margins(self.reader, np.ones(self.reader.n_rows, dtype=np.bool_), raws, threads)
        mean: NDArray[np.float32] = found.reshape(len(found), len(members), -1).mean(axis=1)
        return mean


def compare(folder: RunFolder, threads: int) -> None:
    """Print the scores of each factor, with and without a joint refit, and their differences from factor 1."""
    plan = folder.read_plan()
    held_out, instances = HeldOut(folder, plan), plan.cut.instances
    folds = [read_fold_models(folder.instance(one) / "fold_models.miduck").boosters for one in instances]
    finals = [load_unified_model(folder.instance(one)).instance_models[0].boosters for one in instances]
    n_folds = plan.settings.n_folds
    rounds = [
        [int(np.median([of_fold[index].num_boosted_rounds() for of_fold in one])) for index in range(len(one[0]))]
        for one in folds
    ]
    refitting, classes = Refitting(folder, plan, threads), fitted_classes(len(plan.data.classes))
    usual = {
        index: int(
            np.median(
                [refitting.fit(Part(fold, index), [one[fold][index] for one in folds]) for fold in range(n_folds)]
            )
        )
        for index in classes
    }

    def refit(members: Boosters) -> Boosters:
        for index in classes:
            refitting.fit(Part(None, index), [one[index] for one in members], usual[index])
        return read_refitted(folder, None, n_classes=len(plan.data.classes))

    group_draws = draw_groups(held_out.group, seed=plan.settings.seed, draws=DRAWS)
    drawn = {}

    def score(members: Boosters) -> Drawn:
        probabilities = calibrated_halves(held_out.margins(members, threads), held_out.label, held_out.group)
        return headline_scores(
            probabilities, held_out.label, held_out.group, plan.data.classes, group_draws=group_draws
        )

    for factor in FACTORS:
        cut = [
            [booster[: _times(n, factor)] for booster, n in zip(one, of_one, strict=True)]
            for one, of_one in zip(finals, rounds, strict=True)
        ]
        drawn["mean", f"{factor} times the rounds"] = score(cut)
        drawn["refit", f"{factor} times the rounds"] = score(refit(cut))
    of_one_fold = [of_folds[number % n_folds] for number, of_folds in enumerate(folds)]
    of_all_folds = [of_fold for of_folds in folds for of_fold in of_folds]
    for how, trees in (("of one fold", of_one_fold), ("of all folds", of_all_folds)):
        drawn["refit", f"the trees {how}"] = score(refit(trees))
    print(
        f"{len(instances)} instances, {plan.data.n_genes:,} genes; {len(held_out.label):,} rows of {plan.data.n_holdout_genes:,} "
        f"held-out genes; rounds of the folds {rounds}, passes {list(usual.values())}"
    )
    for (how, what), scores in drawn.items():
        difference = differences(scores, drawn[how, f"{FACTORS[0]} times the rounds"])
        print(f"{how}, {what}: {words_of(scores)}")
        print(f"  minus {FACTORS[0]} times: {words_of(difference, is_difference=True)}")


def main(arguments: list[str]) -> None:
    """Print what each number of rounds gives, and the machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--features", type=int, default=200)
    parser.add_argument("--genes-per-instance", type=int)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    print_machine()
    with workplace() as place:
        if given.dataset == "toy":
            synthesise(place / "data", n_genes=60, rows_per_gene=40, n_features=20)
            options = {"genes_per_instance": 24, "n_folds": 2, "n_estimators": 6, "max_depth": 3}
            given.dataset = place / "data"
        else:
            options = {"sample_genes": given.genes, "sample_negatives": 0.1, "screen_features": given.features}
            options["genes_per_instance"] = given.genes_per_instance or given.genes // 3
        asked = Asked(holdout_genes="0.25", strategy="multi", memory_per_gene_mb=1.0, **options)  # type: ignore[arg-type]
        compare(trained(Path(given.dataset), place / "run", asked, given.threads), given.threads)


if __name__ == "__main__":
    main(sys.argv[1:])
