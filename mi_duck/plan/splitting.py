"""Splits an instance that ran out of memory in halves; the plan stays as it is, ``splits.json`` stands beside it.

Half the rows need little more than half the memory, so one split helps wherever a prediction was wrong or a neighbour took
the memory. Halves get numbers that follow from their parent's alone, so several jobs may split at once and a run that is
done again splits the same way. A half is not split again: then something else is wrong.
"""

import numpy as np
from numpy.typing import NDArray

from mi_duck.run.costs import MemoryModel
from mi_duck.run.genes import GeneTable
from mi_duck.run.plan import Instance, Plan


def halves_of(plan: Plan, instance: Instance, genes: GeneTable) -> tuple[Instance, Instance] | None:
    """Return the halves of an instance, or None where it cannot be split.

    They are cut between two fold groups where the rows trained on come closest to one half, and share no gene; if possible
    among the genes that no neighbour shares, so that nothing changes under a neighbour that is trained at the same time.

    Parameters
    ----------
    plan
        The plan, with the splits so far.
    instance
        One of its instances.
    genes
        All genes of the run.
    """
    n_planned = len(plan.cut.instances) - len(plan.cut.split_instances)
    if instance.instance_id >= n_planned:
        return None
    first, stop = instance.first_rank, instance.stop_rank
    ranks = np.arange(first + 1, stop)
    borders = ranks[genes.group[first + 1 : stop] != genes.group[first : stop - 1]]
    shared = [one for one in plan.cut.instances if one != instance]
    own = borders[[not any(one.first_rank < rank < one.stop_rank for one in shared) for rank in borders]]
    borders = own if len(own) else borders
    if not len(borders):
        return None
    before = np.concatenate([[0], np.cumsum(genes.n_training_rows)])
    cut = int(borders[np.argmin(np.abs(2 * before[borders] - before[first] - before[stop]))])
    for half in (slice(first, cut), slice(cut, stop)):
        if missing_class(genes.label_counts[half], genes.fold[half], plan.settings.n_folds):
            return None
    model = plan.costs.model
    number = n_planned + 2 * instance.instance_id
    return (
        _instance(number, first, cut, genes, instance, model),
        _instance(number + 1, cut, stop, genes, instance, model),
    )


def _instance(number: int, first: int, stop: int, genes: GeneTable, parent: Instance, model: MemoryModel) -> Instance:
    n_training = int(genes.n_training_rows[first:stop].sum())
    return Instance(
        instance_id=number,
        first_rank=first,
        stop_rank=stop,
        n_genes=stop - first,
        n_rows=int(genes.n_rows[first:stop].sum()),
        n_training_rows=n_training,
        predicted_bytes=model.predict_bytes(n_training, stop - first),
        predicted_seconds=parent.predicted_seconds * n_training / parent.n_training_rows,
    )


def missing_class(label_counts: NDArray[np.int64], folds: NDArray[np.int64], n_folds: int) -> tuple[int, int] | None:
    """Return the first (fold, class) of a window of which no row is outside the fold, so that it could not be trained.

    Parameters
    ----------
    label_counts, folds
        Rows of each class, and fold, of the genes of the window, shape (n_genes, n_classes) and (n_genes,).
    n_folds
        Folds of the run.
    """
    for fold in range(n_folds):
        absent = np.flatnonzero(label_counts[folds != fold].sum(axis=0) == 0)
        if len(absent):
            return fold, int(absent[0])
    return None
