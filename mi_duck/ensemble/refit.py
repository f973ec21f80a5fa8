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

What is refitted at once is a part: one class, of a fold or of the final boosters. The parts of folds depend on nothing else, so
several processes or machines may do them (`mi_duck.workflow.refit`); the final ones follow. Where ``--xgb`` has a monotone
constraint, each tree is kept monotone after every move (`mi_duck.ensemble.monotone`). Leaf numbers, margins and leaves after each
pass lie in the scratch of the run, so a killed refit goes on with the pass that it was at.
"""

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray
from scipy.special import expit

from mi_duck.archive import pack, read_parts
from mi_duck.atomic_files import digest_of, published_file, storage_errors, write_file
from mi_duck.boosting.forest import leaf_counts, leaf_forest_of, of_all_classes, with_leaves
from mi_duck.ensemble.leaf_numbers import LeafNumbers, delete_leaf_numbers
from mi_duck.ensemble.member_scores import load_member
from mi_duck.ensemble.model_file import read_fold_booster
from mi_duck.ensemble.monotone import MonotoneTree, monotone_trees
from mi_duck.errors import CheckpointError
from mi_duck.metrics.ranking import Booleans, Floats32, Floats64
from mi_duck.processes import Report
from mi_duck.rows.segments import SegmentReader, is_trained_on, training_weights
from mi_duck.run.constraints import monotone_signs
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import GeneFolds, read_gene_folds, stopping_groups
from mi_duck.run.instance_folder import trained_instances
from mi_duck.run.plan import Instance, Plan, fitted_classes

BATCH_BYTES = 64 << 20  # of features and leaf numbers together
BLOCK_ROWS = 1 << 15  # whose numbers fit into a core's cache; part of the result, for sums are added block by block

STEP = 0.1  # half of it gains nothing that can be seen, and takes twice the passes; twice of it is worse
PENALTY = 30.0  # on the hessian of a leaf: of rows of probability p each counts p (1 - p)
MOST_PASSES = 8
USUAL_PASSES = 5  # where no group can decide
STAGE = "refitting leaves, pass by pass"


ReadLeaves = Callable[[int, int, NDArray[np.intp]], None]
"""Given a tree and a first row, writes the leaves that rows from there on fall into, by their numbers among those of the tree."""


@dataclass(frozen=True, slots=True)
class Passes:
    """Where the refit of one class stands after some passes.

    Parameters
    ----------
    joint
        Margin of each row, shape (n_rows,).
    leaves
        For each tree the values of its leaves.
    losses
        As of `Leaves`; none is larger than an earlier one.
    """

    n_done: int
    joint: Floats64
    leaves: list[Floats64]
    losses: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Leaves:
    """Leaves of all trees of one class, and what the passes gave.

    Parameters
    ----------
    intercept
        Log-odds where every leaf is 0.
    leaves
        For each tree the values of its leaves, in the order of their nodes.
    losses
        Mean log loss on the deciding rows after each pass; empty where there are none. The leaves are those of the lowest.
    """

    intercept: float
    leaves: list[Floats64]
    losses: tuple[float, ...]


def refit_leaves(
    read_leaves: ReadLeaves,
    n_leaves: Sequence[int],
    members: Sequence[Sequence[int]],
    truth: Booleans,
    weight: Floats32,
    *,
    deciding: Booleans | None = None,
    passes: int = USUAL_PASSES,
    step: float = STEP,
    penalty: float = PENALTY,
    monotone: Mapping[int, MonotoneTree] | None = None,
    begun: Passes | None = None,
    save: Callable[[Passes], None] = lambda passes: None,
) -> Leaves:
    """Refit the leaves of one class.

    Parameters
    ----------
    n_leaves
        Leaves of each tree.
    members
        The trees of each member in the order of its rounds.
    truth, weight
        Label and weight of each row, shape (n_rows,).
    deciding
        Rows that are not fitted but scored after each pass, shape (n_rows,); the passes end where their log loss rises.
    step, penalty
        Share of a Newton step that a leaf moves in a round; what is added to its hessian.
    monotone
        By their number the trees that stay monotone: their leaves are kept so after every move.
    begun, save
        The passes to go on with, of an earlier call with the same arguments; and what is called after each pass.
    """
    blocks = [slice(begin, min(begin + BLOCK_ROWS, len(truth))) for begin in range(0, len(truth), BLOCK_ROWS)]

    def fitted(block: slice) -> Floats64:
        """Return the weights of some rows, zero of those that decide."""
        found = weight[block].astype(np.float64)
        if deciding is not None:
            found[deciding[block]] = 0
        return found

    total = sum(float(fitted(block).sum()) for block in blocks)
    prior = sum(float(fitted(block)[truth[block]].sum()) for block in blocks) / total
    prior = float(np.clip(prior, 1e-6, 1 - 1e-6))
    intercept = float(np.log(prior / (1 - prior)))
    start = begun or Passes(0, np.full(len(truth), intercept), [np.zeros(size) for size in n_leaves], ())
    joint, leaves = start.joint, list(start.leaves)
    own = np.empty(BLOCK_ROWS, dtype=np.intp)

    def look(moves: Mapping[int, Floats64], trees: Sequence[int]) -> dict[int, Floats64]:
        """Look at all rows once: apply the moves of the last round's leaves, then move the leaves of this round's trees.

        Block by block, so that what is computed of the rows stays in the processor's cache.
        """
        slope, curvature = ({tree: np.zeros(n_leaves[tree]) for tree in trees} for _ in range(2))
        for block in blocks:
            here = own[: block.stop - block.start]
            if moves:
                move = np.zeros(len(here))
                for tree, delta in moves.items():
                    read_leaves(tree, block.start, here)
                    move += delta.take(here)
                move /= len(members)
                joint[block] += move
            if not trees:
                continue
            weights, probability = fitted(block), expit(joint[block])
            gradient = (probability - truth[block]) * weights
            hessian = probability * (1 - probability) * weights
            for tree in trees:
                read_leaves(tree, block.start, here)
                slope[tree] += np.bincount(here, gradient, n_leaves[tree])
                curvature[tree] += np.bincount(here, hessian, n_leaves[tree])
        return {tree: moved(tree, -step * slope[tree] / (curvature[tree] + penalty), curvature[tree]) for tree in trees}

    def moved(tree: int, delta: Floats64, weights: Floats64) -> Floats64:
        """Move the leaves of a tree, and return by how much."""
        before = leaves[tree]
        leaves[tree] = before + delta
        if monotone is None or tree not in monotone:
            return delta
        leaves[tree] = monotone[tree].kept(leaves[tree], weights)
        return leaves[tree] - before

    rounds = [[trees[number] for trees in members if number < len(trees)] for number in range(max(map(len, members)))]
    losses = list(start.losses)
    best = leaves.copy()  # a move makes new arrays
    for n_done in range(start.n_done + 1, passes + 1):
        moves: dict[int, Floats64] = {}
        for trees in rounds:
            moves = look(moves, trees)
        look(moves, ())
        if deciding is not None:
            losses.append(_loss(joint, truth, weight, deciding, blocks))
            if losses[-1] > min(losses):
                break
            best = leaves.copy()
        save(Passes(n_done, joint, leaves, tuple(losses)))
    return Leaves(intercept, leaves if deciding is None else best, tuple(losses))


def _loss(margin: Floats64, truth: Booleans, weight: Floats32, wanted: Booleans, blocks: Sequence[slice]) -> float:
    """Return the mean log loss of the rows that are wanted."""
    total = of_all = 0.0
    for block in blocks:
        rows = wanted[block]
        signed = np.where(truth[block], -margin[block], margin[block])[rows]
        weights = weight[block][rows].astype(np.float64)
        total += float(np.logaddexp(0, signed) @ weights)
        of_all += float(weights.sum())
    return total / of_all


# ---- all rows of a run ------------------------------------------------------------------------------------------------


def deciding_groups(genes: GeneFolds, instances: Sequence[Instance], fold: int, seed: int) -> NDArray[np.object_]:
    """Return the fold groups outside a fold that no instance trained its boosters of this fold on."""
    fitted: set[object] = set()
    for one in instances:
        window = slice(one.first_rank - genes.first_rank, one.stop_rank - genes.first_rank)
        group, folds = genes.group[window], genes.fold[window]
        fitted |= set(group[folds != fold]) - set(stopping_groups(group, folds, fold, seed))
    return np.array(sorted(set(genes.group[genes.fold != fold]) - fitted), dtype=object)


@dataclass(frozen=True, slots=True)
class Part:
    """What is refitted at once: the boosters of one class, those of a fold or the final ones, of all members."""

    fold: int | None
    index: int

    def file(self, folder: RunFolder) -> Path:
        """Return where its refitted boosters are written."""
        name = "final" if self.fold is None else f"fold_{self.fold}"
        return folder.scratch / "refit" / f"{name}_class_{self.index}.miduck"


def parts_of(plan: Plan) -> list[Part]:
    """Return all parts of the refit of a run: those of each fold, then the final ones, which need the passes of the others."""
    fitted = fitted_classes(len(plan.data.classes))
    return [Part(fold, index) for fold in (*range(plan.settings.n_folds), None) for index in fitted]


def refit_run(folder: RunFolder, plan: Plan, *, threads: int, report: Report) -> None:
    """Refit all parts that are not done; `read_refitted` reads what this writes."""
    refitting, parts = Refitting(folder, plan, threads), parts_of(plan)
    total = (1 + MOST_PASSES) * len(parts)

    def report_from(before: int) -> Callable[[int], None]:
        return lambda done: report(STAGE, before + done, total)

    for number, part in enumerate(parts):
        refitting.refit(part, report_from((1 + MOST_PASSES) * number))


def refit_part(report: Report, run: str, number: int, threads: int) -> bool:
    """Refit one part of a run, by its number in `parts_of`, unless that is done; return whether it was not.

    Raises
    ------
    CheckpointError
        No instance is trained, or the part is a final one and a fold of its class is not refitted.
    """
    folder = RunFolder(Path(run))
    plan = folder.read_plan()
    refitting, part = Refitting(folder, plan, threads), parts_of(plan)[number]
    refitting.refit(part, lambda done: report(STAGE, done, 1 + MOST_PASSES))
    return part in refitting.fitted


class Refitting:
    """The rows of a run and its trained instances, and what refits boosters on them."""

    def __init__(self, folder: RunFolder, plan: Plan, threads: int) -> None:
        self.folder, self.plan, self.threads = folder, plan, threads
        self.instances = trained_instances(folder, plan)
        self.genes = read_gene_folds(folder, plan)
        self.passes: dict[Part, int] = {}  # of the parts that are done
        self.fitted: set[Part] = set()  # those of them that were not done before

    @cached_property
    def reader(self) -> SegmentReader:
        """Of all rows; their hashes are compared when it is made, so it is not where all parts are done."""
        return SegmentReader(self.plan, self.plan.cut.segments, self.folder.segments)

    def refit(self, part: Part, report: Callable[[int], None]) -> None:
        """Refit the boosters of a part and write them, unless that is done.

        ``report`` is called with what is done: one for leaf numbers, and one for each pass.
        """
        report(0)
        self.fit(part, self._boosters(part), None if part.fold is not None else self._usual_passes(part.index), report)
        report(1 + MOST_PASSES)

    def fit(
        self,
        part: Part,
        boosters: Sequence[xgb.Booster],
        passes: int | None = None,
        report: Callable[[int], None] = lambda done: None,
    ) -> int:
        """Refit boosters, one for each member, as those of a part, unless that is done; return how many passes they have.

        ``passes`` None: what is best on the groups that no member was trained on.
        """
        key, path = self._key(part, passes, boosters), part.file(self.folder)
        done = _done(path, key)
        leaves, state = path.with_suffix(".leaves"), _state_of(path)
        if done is None:
            rows = self._rows(part.fold)
            numbers = LeafNumbers(leaves, key, leaf_counts(boosters), len(rows.label))
            if not numbers.is_whole:
                self._write_leaves(numbers, rows, boosters)
            report(1)
            done = self._fit(part, key, numbers, rows, boosters, passes, report)
            self.fitted.add(part)
        delete_leaf_numbers(leaves)  # also what a kill left of a part that is done
        state.unlink(missing_ok=True)
        self.passes[part] = done
        return done

    def _boosters(self, part: Part) -> list[xgb.Booster]:
        """Return the boosters of a part as they were trained, one for each member."""
        where = [self.folder.instance(one) for one in self.instances]
        if part.fold is None:
            return [load_member(one).boosters[part.index] for one in where]
        return [read_fold_booster(one / "fold_models.miduck", part.fold, part.index) for one in where]

    def _usual_passes(self, index: int) -> int:
        """Return the median of the passes of a class in all folds, whose refits must be done."""
        found = []
        for part in (Part(fold, index) for fold in range(self.plan.settings.n_folds)):
            passes = self.passes.get(part)
            if passes is None:
                passes = _done(part.file(self.folder), self._key(part, None, self._boosters(part)))
            if passes is None:
                raise CheckpointError(
                    f"class {self.plan.data.classes[index]} of fold {(part.fold or 0) + 1} is not refitted yet; the parts of "
                    "folds come first"
                )
            found.append(passes)
        return int(np.median(found))

    def _key(self, part: Part, passes: int | None, boosters: Sequence[xgb.Booster]) -> str:
        """Return the hash of all that a refit is made of."""
        plan = self.plan
        made_of = [plan.data.fingerprint, plan.data.genes_sha256, plan.settings.seed, plan.settings.easy_share]
        made_of += [part.fold, part.index, passes, STEP, PENALTY, MOST_PASSES, USUAL_PASSES, BLOCK_ROWS]
        if signs := self._signs(part.index):
            made_of += [sorted(signs.items())]
        made_of += [hashlib.sha256(one.save_raw("ubj")).hexdigest() for one in boosters]
        return digest_of(made_of)

    def _signs(self, index: int) -> dict[int, int]:
        return monotone_signs(self.plan.settings.xgb_parameters, self.plan.data, index)

    def _rows(self, fold: int | None) -> "_Rows":
        """Return the training rows outside a fold, or all of them."""
        keys = self.reader.keys()
        wanted = is_trained_on(keys)
        if fold is not None:
            wanted &= self.genes.fold[keys["gene_rank"]] != fold
        keys = keys[wanted]
        deciding = None
        if fold is not None:
            groups = deciding_groups(self.genes, self.instances, fold, self.plan.settings.seed)
            deciding = np.isin(self.genes.group, groups)[keys["gene_rank"]]
        weight = training_weights(keys, self.plan.settings.easy_share)
        return _Rows(
            wanted, keys["label"].copy(), weight, deciding if deciding is not None and deciding.any() else None
        )

    def _write_leaves(self, numbers: LeafNumbers, rows: "_Rows", boosters: Sequence[xgb.Booster]) -> None:
        """Write the leaf numbers that are missing, in one pass over the rows."""
        first_row, wanted = numbers.n_written, rows.wanted
        numbers.begin(first_row)
        if first_row:
            wanted = wanted.copy()
            wanted[np.flatnonzero(wanted)[:first_row]] = False
        features = self.plan.data.features
        forest = leaf_forest_of(boosters, features, self.reader.encoding)
        batch_rows = max(
            256, BATCH_BYTES // (4 * (len(features) + 2 * numbers.n_trees))
        )  # leaf numbers are turned once
        for matrix in self.reader.matrices(batch_rows, wanted):
            numbers.append(forest.margins(matrix, threads=self.threads))

    def _fit(
        self,
        part: Part,
        key: str,
        numbers: LeafNumbers,
        rows: "_Rows",
        boosters: Sequence[xgb.Booster],
        passes: int | None,
        report: Callable[[int], None],
    ) -> int:
        """Refit the boosters of a part, pass by pass, and write them; return how many passes they have."""
        state = _state_of(numbers.path)

        def save(done: Passes) -> None:
            write_passes(state, key, done)
            report(1 + done.n_done)

        passes = MOST_PASSES if rows.deciding is not None else passes or USUAL_PASSES
        with numbers.opened():
            found = refit_leaves(
                numbers.read,
                numbers.n_leaves,
                numbers.members,
                rows.label == part.index,
                rows.weight,
                deciding=rows.deciding,
                passes=passes,
                monotone=monotone_trees(boosters, self._signs(part.index)),
                begun=read_passes(state, key, numbers.n_leaves),
                save=save,
            )
        if found.losses:
            passes = int(np.argmin(found.losses)) + 1
        written = {
            str(number): with_leaves(booster, [found.leaves[tree] for tree in trees], found.intercept)
            for number, (booster, trees) in enumerate(zip(boosters, numbers.members, strict=True))
        }
        facts = json.dumps({"key": key, "passes": passes}).encode()
        write_file(part.file(self.folder), pack({"facts.json": facts} | written))
        return passes


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows that a fold's boosters are refitted on.

    Parameters
    ----------
    wanted
        Which rows of the run they are, shape (n_rows of the run,).
    label, weight
        Of each of them.
    deciding
        Which of them decide how many passes there are; None where none can.
    """

    wanted: Booleans
    label: NDArray[np.uint8]
    weight: Floats32
    deciding: Booleans | None


def _state_of(path: Path) -> Path:
    """Return where the passes of a part are kept, whose file or leaf numbers are at a path."""
    return path.with_suffix(".passes")


def write_passes(path: Path, key: str, passes: Passes) -> None:
    """Write where a refit stands, whole or not at all, without a copy of the margins in memory."""
    with storage_errors(path), published_file(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            key=np.array(key),
            n_done=np.array(passes.n_done),
            joint=passes.joint,
            leaves=np.concatenate(passes.leaves),
            losses=np.array(passes.losses),
        )


def read_passes(path: Path, key: str, n_leaves: Sequence[int]) -> Passes | None:
    """Return where a refit of the same stands; None where nothing is there, or it is torn or of another refit."""
    try:
        with path.open("rb") as file, np.load(file) as found:
            if str(found["key"]) != key:
                return None
            leaves = np.split(found["leaves"], np.cumsum(n_leaves)[:-1])
            return Passes(int(found["n_done"]), found["joint"], leaves, tuple(found["losses"].tolist()))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def read_refitted(folder: RunFolder, fold: int | None, *, n_classes: int) -> tuple[tuple[xgb.Booster, ...], ...]:
    """Return the refitted boosters of a fold, or the final ones, ``[member][class]``."""
    by_class = [read_parts(Part(fold, index).file(folder)) for index in fitted_classes(n_classes)]
    found = []
    for member in range(len(by_class[0]) - 1):
        raws = of_all_classes([parts[str(member)] for parts in by_class], n_classes)
        found.append(tuple(xgb.Booster(model_file=bytearray(raw)) for raw in raws))
    return tuple(found)


def _done(path: Path, key: str) -> int | None:
    """Return the passes of a refit that was made of the same; None where there is none that is whole."""
    try:
        facts = json.loads(read_parts(path)["facts.json"])
    except (OSError, CheckpointError, ValueError, KeyError):
        return None
    return int(facts["passes"]) if facts["key"] == key else None
