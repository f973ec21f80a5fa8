"""Is a refit of very many instances better, faster or smaller in blocks? Scores out of fold, CPU seconds, peak memory, disk.

Usage: python benchmarks/bench_hierarchy.py RUN [--blocks 4] [--folds 1] [--threads 1]
       python benchmarks/bench_hierarchy.py toy

RUN holds many trained instances, and its dataset is still there; it is copied, and its rows are written once. ``vote`` is the
mean of the members' log-odds as they were trained, ``joint`` the refit of all of them together, as a run does it, ``blocks`` a
refit of each block of neighbouring members on the rows of all genes, of which the mean is taken. Each fold is scored by boosters
that never saw it; the passes are decided by the same groups in both refits. Log-odds are calibrated by the other half of the
groups. ``toy`` makes a small run first.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import xgboost as xgb
from harness import calibrated_halves, costs, print_machine, quiet, words_of, workplace
from numpy.typing import NDArray

import mi_duck
from mi_duck.boosting.boosters import predict_margins
from mi_duck.boosting.train import PeakMeter
from mi_duck.ensemble.model_file import read_fold_models
from mi_duck.ensemble.refit import Part, Refitting, read_refitted
from mi_duck.genome.synthetic import synthesise
from mi_duck.metrics.metrics import differences, draw_groups, headline_scores
from mi_duck.rows.partition import partition_here
from mi_duck.rows.segments import SegmentReader
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import read_gene_folds
from mi_duck.run.instance_folder import is_trained
from mi_duck.run.plan import fitted_classes

DRAWS = 500
Boosters = Sequence[Sequence[xgb.Booster]]


class Folds:
    """The rows of a run, and the boosters of its folds."""

    def __init__(self, run: Path, threads: int) -> None:
        self.folder, self.threads = RunFolder(run), threads
        self.plan = self.folder.read_plan()
        genes = read_gene_folds(self.folder, self.plan)
        trained = [one for one in self.plan.cut.instances if is_trained(self.folder, self.plan, one)]
        self.models = [read_fold_models(self.folder.instance(one) / "fold_models.miduck") for one in trained]
        self.reader = SegmentReader(self.plan, self.plan.cut.segments, self.folder.segments)
        keys = self.reader.keys()
        self.label = keys["label"].copy()
        self.group = np.unique(genes.group, return_inverse=True)[1][keys["gene_rank"]].astype(np.int32)
        self.fold = genes.fold[keys["gene_rank"]].astype(np.int8)
        self.refitting = Refitting(self.folder, self.plan, threads)

    def members(self, fold: int) -> Boosters:
        """Return the boosters of a fold, ``[member][class]``."""
        return [one.boosters[fold] for one in self.models]

    def refitted(self, fold: int, members: Boosters) -> Boosters:
        """Return members whose leaves are fitted together."""
        for index in fitted_classes(len(self.plan.data.classes)):
            self.refitting.fit(Part(fold, index), [one[index] for one in members])
        return read_refitted(self.folder, fold, n_classes=len(self.plan.data.classes))

    def margins(self, fold: int, members: Boosters) -> NDArray[np.float64]:
        """Return the mean log-odds of members for the rows of a fold, shape (n_rows, n_classes)."""
        raws = [bytes(booster.save_raw("ubj")) for member in members for booster in member]
        found = predict_margins(self.reader, self.fold == fold, raws, self.threads)
        return found.reshape(len(found), len(members), -1).mean(axis=1).astype(np.float64)


def compare(folds: Folds, n_folds: int, n_blocks: int) -> None:
    """Print a line for each way to join the members."""
    n = len(folds.models)
    edges = np.linspace(0, n, n_blocks + 1).astype(int).tolist()
    blocks = [slice(first, stop) for first, stop in zip(edges, edges[1:], strict=False)]
    margins: dict[str, list[NDArray[np.float64]]] = {"vote": [], "joint": [], "blocks": []}
    spent: dict[str, tuple[float, float]] = {"vote": (0.0, 0.0)}
    n_trees = {"joint": 0, "blocks": 0}
    for fold in range(n_folds):
        members = folds.members(fold)
        margins["vote"].append(folds.margins(fold, members))
        for name, several in (("blocks", blocks), ("joint", [slice(0, n)])):
            meter = PeakMeter()
            found, cost = costs(lambda fold=fold, several=several: [_refit(folds, fold, block) for block in several])
            meter.mark("refit")
            cpu, peak = spent.get(name, (0.0, 0.0))
            spent[name] = cpu + cost.cpu, max(peak, meter.peaks.get("refit", 0) / 2**20)
            margins[name].append(np.mean(found, axis=0))
            sizes = [sum(one.num_boosted_rounds() for m in members[block] for one in m) for block in several]
            n_trees[name] = max(n_trees[name], *sizes)
    rows = np.concatenate([np.flatnonzero(folds.fold == fold) for fold in range(n_folds)])
    label, group, classes = folds.label[rows], folds.group[rows], folds.plan.data.classes
    group = np.unique(group, return_inverse=True)[1].astype(np.int32)
    group_draws = draw_groups(group, seed=folds.plan.settings.seed, draws=DRAWS)
    drawn = {}
    for name, several in margins.items():
        found = calibrated_halves(np.concatenate(several).astype(np.float32), label, group)
        drawn[name] = headline_scores(found, label, group, classes, group_draws=group_draws)
    n_fitted = int((folds.fold != 0).sum())
    print(
        f"{n} members, {n_blocks} blocks, {n_folds} folds, {len(rows):,} rows and {group_draws.shape[1]:,} groups scored"
    )
    for name, scores in drawn.items():
        print(
            f"{name}: {words_of(scores)}\n  minus joint: {words_of(differences(scores, drawn['joint']), is_difference=True)}"
        )
        if name in n_trees:
            cpu, peak = spent[name]
            disk = n_trees[name] * n_fitted / 1e6
            print(f"  {cpu:.0f} CPU s, peak {peak:.0f} MiB, at most {disk:,.0f} MB of leaf numbers at once")


def _refit(folds: Folds, fold: int, block: slice) -> NDArray[np.float64]:
    return folds.margins(fold, folds.refitted(fold, folds.members(fold)[block]))


def toy(folder: Path) -> Path:
    """Make a small run and return its folder."""
    synthesise(folder / "data", n_genes=60, rows_per_gene=40, n_features=30)
    options = {"n_folds": 2, "n_estimators": 8, "max_depth": 3, "threads": 1, "consolidation": "voting"}
    options |= {"strategy": "multi", "genes_per_instance": 20}
    mi_duck.train(
        str(folder / "data"), folder / "run", skip_shap=True, minimal_diagnostics=True, progress=False, **options
    )
    return folder / "run"


def main(arguments: list[str]) -> None:
    """Print what each way gives, and the machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--folds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args(arguments)
    print_machine()
    with workplace() as folder:
        is_toy = asked.run == "toy"
        run = toy(folder) if is_toy else Path(asked.run)
        shutil.copytree(run, folder / "copy")
        partition_here(run=str(folder / "copy"), threads=asked.threads, report=quiet)
        compare(Folds(folder / "copy", asked.threads), asked.folds, 2 if is_toy else asked.blocks)


if __name__ == "__main__":
    main(sys.argv[1:])
