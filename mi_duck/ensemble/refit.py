"""Joint leaf refit: the trees of all members keep their splits and get leaves that fit together, from all rows.

A member sees only the genes of its window, and its leaves say what it alone would. Here the members become one additive model,

    F(x) = intercept + 1 / M  sum over members and trees of leaf(x),

whose leaves are found anew. Round by round, with gradient g and hessian h of the weighted log loss at the current F of all
training rows, each leaf of the round's trees of all members moves by -step G / (H + penalty), G and H the sums over the rows
that fall into it; then F moves by their sum over M. More passes over the trees move the same leaves further.

It is the Newton step of gradient boosting (Friedman, Greedy function approximation: a gradient boosting machine, Annals of
Statistics 29, 2001; regularised as in Chen and Guestrin, XGBoost, KDD 2016) on given trees; of a single model LightGBM calls
this ``refit``. Boosters of fold k are refitted on the training rows outside fold k, but for those of groups that no member of
that fold was trained on: their log loss decides how many passes there are. The final boosters are refitted on all training rows.

Classes and folds do not depend on each other: each pair is a job, and as many are done at once as there are threads and memory
for. What is done lies in the scratch of the run, so a killed refit goes on where it stopped.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray
from scipy.special import expit

from mi_duck.archive import pack, read_parts
from mi_duck.atomic_files import storage_errors, write_file
from mi_duck.ensemble.model_file import load_unified_model
from mi_duck.errors import CheckpointError
from mi_duck.metrics.ranking import Booleans, Floats32, Floats64
from mi_duck.processes import Report
from mi_duck.resources import machine_budget
from mi_duck.rows.segments import LEFT_OUT, SegmentReader, segments_of, training_weights
from mi_duck.run.costs import refit_bytes
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import Genes
from mi_duck.run.plan import Instance, Plan
from mi_duck.train.forest import forest_of, tree_sizes, with_leaves
from mi_duck.train.train import stopping_groups

BATCH_BYTES = 64 << 20

STEP = 0.1  # half of it gains nothing that can be seen, and takes twice the passes; twice of it is worse
PENALTY = 30.0  # on the hessian of a leaf: of rows of probability p each counts p (1 - p)
MOST_PASSES = 8
USUAL_PASSES = 5  # where no group can decide


ReadLeaves = Callable[[int, NDArray[np.intp]], None]
"""Given a tree, writes the leaf that each row falls into, by its number in the tree, into an array of shape (n_rows,)."""


@dataclass(frozen=True, slots=True)
class Leaves:
    """Leaves of all trees of one class, and what the passes gave.

    Parameters
    ----------
    intercept
        Log-odds where every leaf is 0.
    leaves
        For each tree the value of each of its nodes, 0 for those that are no leaf.
    losses
        Mean log loss on the deciding rows after each pass; empty where there are none. The leaves are those of the lowest.
    """

    intercept: float
    leaves: list[Floats64]
    losses: tuple[float, ...]


def refit_leaves(
    read_leaves: ReadLeaves,
    n_nodes: Sequence[int],
    members: Sequence[Sequence[int]],
    truth: Booleans,
    weight: Floats32,
    *,
    deciding: Booleans | None = None,
    passes: int = USUAL_PASSES,
    step: float = STEP,
    penalty: float = PENALTY,
) -> Leaves:
    """Refit the leaves of one class.

    Parameters
    ----------
    n_nodes
        Nodes of each tree.
    members
        The trees of each member in the order of its rounds.
    truth, weight
        Label and weight of each row, shape (n_rows,).
    deciding
        Rows that are not fitted but scored after each pass, shape (n_rows,); the passes end where their log loss rises.
    step, penalty
        Share of a Newton step that a leaf moves in a round; what is added to its hessian.
    """
    fitted = weight.astype(np.float64)
    if deciding is not None:
        fitted[deciding] = 0
    label = truth.astype(np.float64)
    prior = float(np.clip(np.average(label, weights=fitted), 1e-6, 1 - 1e-6))
    intercept = float(np.log(prior / (1 - prior)))
    joint = np.full(len(label), intercept)
    leaves = [np.zeros(size) for size in n_nodes]
    rounds = [[trees[number] for trees in members if number < len(trees)] for number in range(max(map(len, members)))]
    losses: list[float] = []
    best = leaves
    # arrays are filled again and again: new ones of this size come from the system page by page, which takes five times as long
    probability, gradient, hessian, move, moved = (np.empty(len(label)) for _ in range(5))
    own = np.empty(len(label), dtype=np.intp)
    for _ in range(passes):
        for trees in rounds:
            expit(joint, out=probability)
            np.subtract(probability, label, out=gradient)
            gradient *= fitted
            np.subtract(1, probability, out=hessian)
            hessian *= probability
            hessian *= fitted
            move[:] = 0
            for tree in trees:
                read_leaves(tree, own)
                slope = np.bincount(own, gradient, n_nodes[tree])
                delta = -step * slope / (np.bincount(own, hessian, n_nodes[tree]) + penalty)
                leaves[tree] += delta
                move += np.take(delta, own, out=moved, mode="clip")
            move /= len(members)
            joint += move
        if deciding is not None:
            losses.append(_loss(joint[deciding], truth[deciding], weight[deciding]))
            if losses[-1] > min(losses):
                break
            best = [one.copy() for one in leaves]
    return Leaves(intercept, leaves if deciding is None else best, tuple(losses))


def _loss(margin: Floats64, truth: Booleans, weight: Floats32) -> float:
    """Return the mean log loss of some rows."""
    return float(np.average(np.logaddexp(0, np.where(truth, -margin, margin)), weights=weight))


# ---- all rows of a run ------------------------------------------------------------------------------------------------


def deciding_groups(genes: Genes, instances: Sequence[Instance], fold: int, seed: int) -> NDArray[np.object_]:
    """Return the fold groups outside a fold that no instance trained its boosters of this fold on."""
    fitted: set[object] = set()
    for one in instances:
        window = slice(one.first_rank - genes.first_rank, one.stop_rank - genes.first_rank)
        group, folds = genes.group[window], genes.fold[window]
        fitted |= set(group[folds != fold]) - set(stopping_groups(group, folds, fold, seed))
    return np.array(sorted(set(genes.group[genes.fold != fold]) - fitted), dtype=object)


def refit_run(
    folder: RunFolder,
    plan: Plan,
    genes: Genes,
    instances: Sequence[Instance],
    fold_boosters: Sequence[Sequence[Sequence[xgb.Booster]]],
    *,
    threads: int,
    report: Report,
) -> None:
    """Refit the boosters of every fold and then, with the median of their passes, the final ones.

    `read_refitted` reads what this writes.

    Parameters
    ----------
    instances
        Those that are trained.
    fold_boosters
        ``[member][fold][class]``.
    """
    finals = [load_unified_model(folder.instance(one)).instance_models[0].boosters for one in instances]
    folds, classes = range(plan.settings.n_folds), range(len(plan.data.classes))
    needed = refit_bytes(plan.data.n_rows, min(plan.data.n_rows, sum(one.n_training_rows for one in instances)))
    room = machine_budget(plan.asked.memory_safety_factor).budget_bytes
    at_once = max(1, min(threads, len(folds) * len(classes), room // needed))
    refitting = _Refitting(folder, plan, genes, instances, max(1, threads // at_once), report)
    with ThreadPoolExecutor(at_once) as pool:
        jobs = {
            (fold, index): pool.submit(refitting.refit, [one[fold][index] for one in fold_boosters], fold, index, None)
            for fold in folds
            for index in classes
        }
        found = {job: future.result() for job, future in jobs.items()}
        passes = [int(np.median([found[fold, index] for fold in folds])) for index in classes]
        last = [
            pool.submit(refitting.refit, [one[index] for one in finals], None, index, passes[index])
            for index in classes
        ]
        for future in last:
            future.result()


class _Refitting:
    """The rows of a run, and what refits boosters on them; several threads may do so at once."""

    def __init__(
        self,
        folder: RunFolder,
        plan: Plan,
        genes: Genes,
        instances: Sequence[Instance],
        threads: int,
        report: Report,
    ) -> None:
        self.folder, self.plan, self.genes, self.instances, self.threads = folder, plan, genes, instances, threads
        self.reader = SegmentReader(plan, segments_of(plan, 0, plan.data.n_genes), folder.segments)
        self.keys = self.reader.keys()
        self.n_jobs = (plan.settings.n_folds + 1) * len(plan.data.classes)
        self._n_done, self._report, self._lock = 0, report, threading.Lock()

    def refit(self, boosters: Sequence[xgb.Booster], fold: int | None, index: int, passes: int | None) -> int:
        """Refit the boosters of all members for one class and write them, unless these are done.

        Parameters
        ----------
        fold
            The fold whose rows are left out; None for the final boosters.
        passes
            How many for the final boosters; None: what is best on the groups that no member was trained on.

        Returns
        -------
        int
            The passes that were made.
        """
        path, plan = _file_of(self.folder, fold, index), self.plan
        made_of = [plan.data.fingerprint, plan.data.genes_sha256, plan.settings.seed, plan.settings.easy_share]
        made_of += [fold, index, passes, STEP, PENALTY, MOST_PASSES, USUAL_PASSES]
        made_of += [hashlib.sha256(one.save_raw("ubj")).hexdigest() for one in boosters]
        key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
        done = _done(path, key)
        if done is None:
            refitted, done = self._refit(boosters, fold, index, passes)
            facts = json.dumps({"key": key, "passes": done}).encode()
            write_file(path, pack({"facts.json": facts} | {str(number): raw for number, raw in enumerate(refitted)}))
        with self._lock:
            self._n_done += 1
            self._report("refitting leaves, by fold and class", self._n_done, self.n_jobs)
        return done

    def _refit(
        self, boosters: Sequence[xgb.Booster], fold: int | None, index: int, passes: int | None
    ) -> tuple[list[bytes], int]:
        """Return the boosters with other leaves, and the passes that were made."""
        plan, genes, reader = self.plan, self.genes, self.reader
        wanted = self.keys["use"] != LEFT_OUT
        if fold is not None:
            wanted &= genes.fold[self.keys["gene_rank"]] != fold
        keys = self.keys[wanted]
        weight = training_weights(keys["use"], plan.settings.easy_share)
        truth = keys["label"] == index
        deciding = None
        if fold is not None:
            groups = deciding_groups(genes, self.instances, fold, plan.settings.seed)
            deciding = np.isin(genes.group, groups)[keys["gene_rank"]]
        del keys
        sizes = tree_sizes(boosters)
        n_nodes = [size for one in sizes for size in one]
        ends = np.cumsum([0, *map(len, sizes)]).tolist()
        members = [range(first, stop) for first, stop in pairwise(ends)]
        path = _file_of(self.folder, fold, index).with_suffix(".leaves")
        leaves = _LeafFile(path, np.min_scalar_type(max(n_nodes)), len(n_nodes), len(truth))
        forest = forest_of(boosters, plan.data.features, reader.encoding)
        for matrix in reader.matrices(max(256, BATCH_BYTES // (4 * len(plan.data.features))), wanted):
            leaves.append(forest.nodes(matrix, threads=self.threads))
        fit = partial(refit_leaves, leaves.read, n_nodes, members, truth, weight)
        if deciding is not None and deciding.any():
            found = fit(deciding=deciding, passes=MOST_PASSES)
            passes = int(np.argmin(found.losses)) + 1
        else:
            passes = passes or USUAL_PASSES
            found = fit(passes=passes)
        path.unlink()
        return [
            with_leaves(booster, [found.leaves[tree] for tree in trees], found.intercept)
            for booster, trees in zip(boosters, members, strict=True)
        ], passes


class _LeafFile:
    """Leaf numbers on disk, tree by tree, because those of all trees are larger than memory."""

    def __init__(self, path: Path, kind: np.dtype[Any], n_trees: int, n_rows: int) -> None:
        self.path, self.kind, self.n_rows, self.n_written = path, kind, n_rows, 0
        self._bytes = np.empty(n_rows, dtype=kind)
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:  # all of it now, so that a full disk is met before any work is done
                os.posix_fallocate(file.fileno(), 0, max(n_trees * n_rows * kind.itemsize, 1))

    def append(self, nodes: NDArray[np.int32]) -> None:
        """Write the next rows, shape (n_rows, n_trees)."""
        by_tree = np.ascontiguousarray(nodes.T.astype(self.kind))
        with storage_errors(self.path), self.path.open("r+b") as file:
            for tree, own in enumerate(by_tree):
                file.seek((tree * self.n_rows + self.n_written) * self.kind.itemsize)
                file.write(own.data)
        self.n_written += len(nodes)

    def read(self, tree: int, own: NDArray[np.intp]) -> None:
        """Write the leaf numbers of all rows in a tree into an array, shape (n_rows,)."""
        with self.path.open("rb", buffering=0) as file:
            file.seek(tree * self._bytes.nbytes)
            if file.readinto(self._bytes.data) != self._bytes.nbytes:
                raise CheckpointError(f"{self.path} is cut off; the same command writes it again")
        np.copyto(own, self._bytes)


def read_refitted(folder: RunFolder, fold: int | None, *, n_classes: int) -> tuple[tuple[xgb.Booster, ...], ...]:
    """Return the refitted boosters of a fold, or the final ones, ``[member][class]``."""
    by_class = [read_parts(_file_of(folder, fold, index)) for index in range(n_classes)]
    return tuple(
        tuple(xgb.Booster(model_file=bytearray(parts[str(member)])) for parts in by_class)
        for member in range(len(by_class[0]) - 1)
    )


def _file_of(folder: RunFolder, fold: int | None, index: int) -> Path:
    name = "final" if fold is None else f"fold_{fold}"
    return folder.scratch / "refit" / f"{name}_class_{index}.miduck"


def _done(path: Path, key: str) -> int | None:
    """Return the passes of a refit that was made of the same; None where there is none that is whole."""
    try:
        facts = json.loads(read_parts(path)["facts.json"])
    except (OSError, CheckpointError, ValueError, KeyError):
        return None
    return int(facts["passes"]) if facts["key"] == key else None
