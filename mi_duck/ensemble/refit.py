"""Joint leaf refit: the trees of all members keep their splits and get leaves that fit together, from all rows.

A member sees only the genes of its window, and its leaves say what it alone would. Here the members become one additive model,

    F(x) = intercept + 1 / M  sum over members and trees of leaf(x),

whose leaves are found anew. Round by round, with gradient g and hessian h of the weighted log loss at the current F of all
training rows, each leaf of the round's trees of all members moves by -step G / (H + penalty), G and H the sums over the rows
that fall into it; then F moves by their sum over M. A second and third pass over the trees moves the same leaves further.

It is the Newton step of gradient boosting (Friedman, Greedy function approximation: a gradient boosting machine, Annals of
Statistics 29, 2001; regularised as in Chen and Guestrin, XGBoost, KDD 2016) on given trees; of a single model LightGBM calls
this ``refit``. Boosters of fold k are refitted on all training rows outside fold k. How many passes is decided by the log loss
on groups that no member of that fold was trained on.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from mi_duck.archive import pack, read_parts
from mi_duck.atomic_files import storage_errors, write_file
from mi_duck.ensemble.model_file import load_unified_model
from mi_duck.metrics.ranking import Booleans, Floats32, Floats64
from mi_duck.processes import Report
from mi_duck.rows.segments import LEFT_OUT, USED_FOR_MANY, SegmentReader, segments_of
from mi_duck.run.encoding import encoding_of
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import Genes
from mi_duck.run.plan import Instance, Plan
from mi_duck.train.forest import forest_of, tree_sizes, with_leaves
from mi_duck.train.train import stopping_groups

BATCH_BYTES = 64 << 20

STEP = 0.2
PENALTY = 30.0  # on the hessian of a leaf: of rows of probability p each counts p (1 - p)
PASSES = 3  # at most, and where no group can decide


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
        Mean log loss on the deciding rows after each pass; NaN where there are none.
    """

    intercept: float
    leaves: list[Floats64]
    losses: tuple[float, ...]


def refit_leaves(
    nodes: NDArray[Any],
    n_nodes: Sequence[int],
    members: Sequence[Sequence[int]],
    truth: Booleans,
    weight: Floats32,
    *,
    deciding: Booleans | None = None,
    passes: int = PASSES,
    step: float = STEP,
    penalty: float = PENALTY,
) -> Leaves:
    """Refit the leaves of one class.

    Parameters
    ----------
    nodes
        The leaf that each row falls into, by its number in the tree, shape (n_trees, n_rows).
    n_nodes
        Nodes of each tree.
    members
        The trees of each member in the order of its rounds.
    truth, weight
        Label and weight of each row, shape (n_rows,).
    deciding
        Rows that are not fitted but scored after each pass, shape (n_rows,).
    step, penalty
        Share of a Newton step that a leaf moves in a round; what is added to its hessian.
    """
    fitted = weight.astype(np.float64)
    if deciding is not None:
        fitted = np.where(deciding, 0.0, fitted)
    label = truth.astype(np.float64)
    prior = float(np.clip(np.average(label, weights=fitted), 1e-6, 1 - 1e-6))
    intercept = float(np.log(prior / (1 - prior)))
    joint = np.full(len(label), intercept)
    leaves = [np.zeros(size) for size in n_nodes]
    rounds = [[trees[number] for trees in members if number < len(trees)] for number in range(max(map(len, members)))]
    losses = []
    for _ in range(passes):
        for trees in rounds:
            probability = 1 / (1 + np.exp(-joint))
            gradient = fitted * (probability - label)
            hessian = fitted * (probability * (1 - probability))
            move = np.zeros(len(label))
            for tree in trees:
                own = nodes[tree]
                slope = np.bincount(own, gradient, n_nodes[tree])
                delta = -step * slope / (np.bincount(own, hessian, n_nodes[tree]) + penalty)
                leaves[tree] += delta
                move += delta[own]
            joint += move / len(members)
        losses.append(_loss(joint, label, weight, deciding))
    return Leaves(intercept, leaves, tuple(losses))


def _loss(joint: Floats64, label: Floats64, weight: Floats32, deciding: Booleans | None) -> float:
    """Return the mean log loss of the deciding rows."""
    if deciding is None or not deciding.any():
        return float("nan")
    right = np.where(label > 0, joint, -joint)[deciding]
    return float(np.average(np.logaddexp(0, -right), weights=weight[deciding]))


# ---- all rows of a run ------------------------------------------------------------------------------------------------


def deciding_groups(genes: Genes, instances: Sequence[Instance], fold: int, seed: int) -> NDArray[np.object_]:
    """Return the fold groups outside a fold that no instance trained its boosters of this fold on."""
    fitted: set[object] = set()
    for one in instances:
        window = slice(one.first_rank - genes.first_rank, one.stop_rank - genes.first_rank)
        group, folds = genes.group[window], genes.fold[window]
        fitted |= set(group[folds != fold]) - set(stopping_groups(group, folds, fold, seed))
    return np.array(sorted(set(genes.group[genes.fold != fold]) - fitted), dtype=object)


def refit_boosters(
    folder: RunFolder,
    plan: Plan,
    genes: Genes,
    reader: SegmentReader,
    instances: Sequence[Instance],
    boosters: Sequence[Sequence[xgb.Booster]],
    *,
    fold: int | None,
    passes: Sequence[int] | None,
    threads: int,
    report: Report,
) -> tuple[list[list[bytes]], list[tuple[float, ...]]]:
    """Refit the boosters of all members together.

    Parameters
    ----------
    reader
        Of the rows of all genes.
    boosters
        For each member one booster per class, all of one fold, or the final ones.
    fold
        The fold whose rows are left out; None for the final boosters.
    passes
        How many for each class; by default what is best on the groups that no member was trained on.

    Returns
    -------
    boosters
        As they were given, as bytes, with other leaves.
    losses
        For each class the mean log loss on these groups after each pass.
    """
    keys = reader.keys()
    rank = keys["gene_rank"]
    wanted = keys["use"] != LEFT_OUT
    if fold is not None:
        wanted &= genes.fold[rank] != fold
    label, rank = keys["label"][wanted], rank[wanted]
    weight = np.where(keys["use"][wanted] == USED_FOR_MANY, 1 / plan.settings.easy_share, 1).astype(np.float32)
    deciding = None
    if fold is not None:
        groups = deciding_groups(genes, instances, fold, plan.settings.seed)
        deciding = np.isin(genes.group, groups)[rank]
    encoding = encoding_of(plan.settings.layout_used, plan.settings.zero_is_missing)
    joined = [one for member in boosters for one in member]
    forest, sizes = forest_of(joined, plan.data.features, encoding), tree_sizes(joined)
    path = folder.scratch / "refit" / "nodes.bin"
    kind = np.min_scalar_type(max(map(max, sizes)))
    shape = (sum(map(len, sizes)), len(label))
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:  # all of it now: a disk that fills up later would kill the process
            os.posix_fallocate(file.fileno(), 0, max(int(np.prod(shape)) * kind.itemsize, 1))
    nodes = np.memmap(path, dtype=kind, mode="r+", shape=shape)
    done = 0
    for matrix in reader.matrices(max(256, BATCH_BYTES // (4 * len(plan.data.features))), wanted):
        nodes[:, done : done + len(matrix)] = forest.nodes(matrix, threads=threads).T
        done += len(matrix)
        report("leaves of all rows", done, len(label))
    starts = np.concatenate([[0], np.cumsum([len(one) for one in sizes])])
    n_classes = len(plan.data.classes)
    found: list[list[bytes]] = [[b""] * n_classes for _ in boosters]
    losses = []
    for index in range(n_classes):
        own = [member * n_classes + index for member in range(len(boosters))]
        members = [range(starts[one], starts[one + 1]) for one in own]
        n_nodes = [size for one in sizes for size in one]
        fit = partial(refit_leaves, nodes, n_nodes, members, label == index, weight)
        best = PASSES if passes is None else passes[index]
        if passes is None and deciding is not None and deciding.any():
            losses.append(fit(deciding=deciding).losses)
            best = int(np.argmin(losses[-1])) + 1
        refitted = fit(passes=best)
        for member, of_member in enumerate(members):
            values = [refitted.leaves[tree] for tree in of_member]
            found[member][index] = with_leaves(boosters[member][index], values, refitted.intercept)
        report("refitting leaves", index + 1, n_classes)
    path.unlink()
    return found, losses


@dataclass(frozen=True, slots=True)
class Refitted:
    """Boosters of all members with leaves that were fitted together: ``[member][class]``, by fold and of all rows."""

    by_fold: tuple[tuple[tuple[xgb.Booster, ...], ...], ...]
    final: tuple[tuple[xgb.Booster, ...], ...]


def refit_run(
    folder: RunFolder,
    plan: Plan,
    genes: Genes,
    instances: Sequence[Instance],
    fold_boosters: Sequence[Sequence[Sequence[xgb.Booster]]],
    *,
    threads: int,
    report: Report,
) -> Refitted:
    """Refit the boosters of every fold, and the final ones with the passes that were best over all folds.

    Parameters
    ----------
    fold_boosters
        ``[member][fold][class]``.
    """
    # one reader for all: it hashes every segment when it is made
    reader = SegmentReader(plan, segments_of(plan, 0, plan.data.n_genes), folder.segments)
    finals = [load_unified_model(folder.instance(one)).instance_models[0].boosters for one in instances]
    losses = np.zeros((len(plan.data.classes), PASSES))
    for fold in range(plan.settings.n_folds):
        path = _file_of(folder, fold)
        found, of_fold = refit_boosters(
            folder,
            plan,
            genes,
            reader,
            instances,
            [one[fold] for one in fold_boosters],
            fold=fold,
            passes=None,
            threads=threads,
            report=report,
        )
        if of_fold:
            losses += np.array(of_fold)
        _write(path, found)
    passes = (losses.argmin(axis=1) + 1).tolist() if losses.any() else [PASSES] * len(losses)
    found, _ = refit_boosters(
        folder, plan, genes, reader, instances, finals, fold=None, passes=passes, threads=threads, report=report
    )
    _write(_file_of(folder, None), found)
    return read_refitted(folder, folds=plan.settings.n_folds)


def read_refitted(folder: RunFolder, *, folds: int) -> Refitted:
    """Read what `refit_run` wrote into the scratch of a run."""
    return Refitted(tuple(_read(_file_of(folder, fold)) for fold in range(folds)), read_final(folder))


def read_final(folder: RunFolder) -> tuple[tuple[xgb.Booster, ...], ...]:
    """Read the boosters of all rows alone, ``[member][class]``."""
    return _read(_file_of(folder, None))


def _file_of(folder: RunFolder, fold: int | None) -> Path:
    return folder.scratch / "refit" / ("final.miduck" if fold is None else f"fold_{fold}.miduck")


def _write(path: Path, boosters: Sequence[Sequence[bytes]]) -> None:
    parts = {f"{member}_{index}": raw for member, own in enumerate(boosters) for index, raw in enumerate(own)}
    write_file(path, pack(parts))


def _read(path: Path) -> tuple[tuple[xgb.Booster, ...], ...]:
    parts = read_parts(path)
    n_members, n_classes = (1 + max(int(name.split("_")[at]) for name in parts) for at in (0, 1))
    return tuple(
        tuple(xgb.Booster(model_file=bytearray(parts[f"{member}_{index}"])) for index in range(n_classes))
        for member in range(n_members)
    )
