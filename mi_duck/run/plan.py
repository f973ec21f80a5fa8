"""The plan of a run: which genes each instance trains on, in which layout, under which budget; written once.

Splits an instance that ran out of memory in halves; the plan stays as it is, ``splits.json`` stands beside it.

Half the rows need little more than half the memory, so one split helps wherever a prediction was wrong or a neighbour took
the memory. Halves get numbers that follow from their parent's alone, so several jobs may split at once and a run that is
done again splits the same way. A half is not split again: then something else is wrong.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_duck.atomic_files import read_sealed, sealed, unsealed, write_json
from mi_duck.errors import CheckpointError, PlanError

PLAN_VERSION = 4


@dataclass(frozen=True, slots=True)
class Instance:
    """One model trained on one window of genes.

    Parameters
    ----------
    instance_id
        From 0.
    first_rank, stop_rank
        Half-open range of gene ranks.
    n_genes, n_rows
        Its genes and their rows.
    n_training_rows
        Of these, rows that it is trained on; fewer where easy negatives are sampled.
    predicted_bytes, predicted_seconds
        Predicted peak memory of the process that trains it, and its time if no fit stops early.
    """

    instance_id: int
    first_rank: int
    stop_rank: int
    n_genes: int
    n_rows: int
    n_training_rows: int
    predicted_bytes: int
    predicted_seconds: float

    @property
    def name(self) -> str:
        """Folder of the instance."""
        return f"instance_{self.instance_id:02d}"


@dataclass(frozen=True, slots=True)
class Segment:
    """A range of genes that the same instances need; written once, read by each of them.

    Parameters
    ----------
    first_rank, stop_rank
        Half-open range of gene ranks.
    first_row, stop_row
        The same in rows of the total order.
    """

    first_rank: int
    stop_rank: int
    first_row: int
    stop_row: int

    @property
    def name(self) -> str:
        """Folder of the segment."""
        return f"segment_{self.first_rank:06d}_{self.stop_rank:06d}"

    @property
    def n_rows(self) -> int:
        """Rows of the segment."""
        return self.stop_row - self.first_row


@dataclass(frozen=True, slots=True)
class Settings:
    """What training depends on beside data and genes; part of every checkpoint's key.

    Parameters
    ----------
    seed
        Seed of everything.
    n_folds
        Folds of the cross-validation.
    n_estimators
        Most boosting rounds.
    early_stopping_patience
        Rounds without a better score on the stopping genes before a fit stops; 0 never stops.
    max_depth, learning_rate, max_bin
        As in XGBoost.
    calibrate
        Whether calibration may be chosen; else scores are left as they are.
    layout
        ``missing``: missing values stay missing; ``zeros``: zeros of `Plan.zero_is_missing` are missing too; ``sentinel``:
        missing values are a number below all others.
    cv
        ``matrices``: each fold is trained on a matrix of its own rows; ``weights``: on the matrix of all rows, those that
        are held out with weight zero.
    sample_negatives
        Share of the easy negatives that is trained on, with the inverse as their weight; 1 is all.
    device
        ``cpu`` or ``cuda``: where XGBoost trains; scores are always computed on the processor.
    """

    seed: int
    n_folds: int
    n_estimators: int
    early_stopping_patience: int
    max_depth: int
    learning_rate: float
    max_bin: int
    calibrate: bool
    layout: str = "missing"
    cv: str = "matrices"
    sample_negatives: float = 1.0
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Plan:
    """The truth of a run: written once, never re-made; what every later step reads.

    Parameters
    ----------
    version
        Format of the file.
    location, files
        The dataset, and its files with absolute paths.
    dataset_fingerprint
        SHA-256 of names, sizes and footers, and with ``--full-hash`` of every byte.
    gene_column, label_column, fold_column, position_column, classes, labels, base_scores
        As in `mi_duck.data.dataset.Dataset`.
    small_features, wide_features
        Features stored as one byte (whole numbers 0 to 255 without a null), and as float32.
    zero_is_missing
        Features whose zeros count as missing; part of the model.
    easy_below
        Negatives whose best site score lies below are easy; None where all rows are used.
    pilot_genes
        Genes of the lowest ranks that chose the features; they are trained on, never scored.
    features
        All features in the order that models use.
    sample_genes
        Genes sampled from the dataset, or None.
    n_genes_dataset, n_genes, n_rows
        Genes of the dataset; genes and rows selected.
    genes_sha256
        Hash of ``genes.parquet``, which holds ranks, folds and rows of every gene.
    options
        What the user asked of the plan, by the names of the flags; a run of other options is another run.
    settings
        Of the training.
    strategy
        ``single``, ``multi``, or ``external``: one instance whose matrix lies on disk.
    alternatives
        What every strategy and layout would take; see `mi_duck.plan.alternatives`.
    genes_per_instance, overlap_genes
        Cap of genes a window, and genes shared by every neighbouring pair.
    budget_bytes, budget_source, budget_is_users_number
        Memory that one instance may take, the bound that decided it, and whether that is a number of the user.
    memory
        What the predictions rest on; see `mi_duck.run.costs.MemoryModel`.
    bytes_per_row
        What one more row adds to the predicted peak.
    record_bytes
        Bytes of one row in the segments.
    instances, segments
        The windows, and the ranges between their borders.
    n_holdout_genes, n_holdout_rows, holdout_segments
        Genes that nothing is trained on, their rows, and where these lie; their ranks follow on those of all others. They
        are not among ``n_genes`` and ``n_rows``.
    leaky_features
        Features of the dataset that ``--auto-exclude-leaky`` left out.
    split_instances
        Instances that ran out of memory and were split in halves, which stand among ``instances``; never in ``plan.json``,
        see `mi_duck.run.plan`.
    pins, hashes, full_hash
        Of each of ``files`` the SHA-256 of size and footer, and with ``--full-hash`` that of every byte.
    """

    version: int
    location: str
    files: tuple[str, ...]
    dataset_fingerprint: str
    gene_column: str
    label_column: str
    fold_column: str
    position_column: str | None
    classes: tuple[str, ...]
    labels: tuple[str, ...]
    base_scores: tuple[str, ...]
    features: tuple[str, ...]
    small_features: tuple[str, ...]
    wide_features: tuple[str, ...]
    zero_is_missing: tuple[str, ...]
    easy_below: float | None
    pilot_genes: int
    sample_genes: int | None
    n_genes_dataset: int
    n_genes: int
    n_rows: int
    genes_sha256: str
    options: dict[str, Any]
    settings: Settings
    strategy: str
    alternatives: tuple[dict[str, Any], ...]
    genes_per_instance: int
    overlap_genes: int
    budget_bytes: int
    budget_source: str
    budget_is_users_number: bool
    memory: dict[str, Any]
    bytes_per_row: float
    record_bytes: int
    instances: tuple[Instance, ...]
    segments: tuple[Segment, ...]
    n_holdout_genes: int = 0
    n_holdout_rows: int = 0
    holdout_segments: tuple[Segment, ...] = ()
    leaky_features: tuple[str, ...] = ()
    split_instances: tuple[Instance, ...] = ()
    pins: tuple[str, ...] = ()
    hashes: tuple[str, ...] = ()
    full_hash: bool = False

    @property
    def all_segments(self) -> tuple[Segment, ...]:
        """Segments of the instances, then those of the held-out genes."""
        return self.segments + self.holdout_segments

    def instance(self, instance_id: int) -> Instance:
        """Return an instance by its number.

        Raises
        ------
        CheckpointError
            There is none, or it was split.
        """
        found = [one for one in self.instances if one.instance_id == instance_id]
        if not found:
            raise CheckpointError(f"the plan has no instance {instance_id}")
        return found[0]

    @property
    def digest(self) -> str:
        """SHA-256 of all that the windows follow from; the same before and after a split."""
        values = self._written()
        del values["instances"], values["segments"]
        return str(sealed(values)["seal"])

    def to_json(self) -> str:
        """Return the plan as JSON text, with its own hash."""
        return json.dumps(sealed(self._written()), indent=1)

    def _written(self) -> dict[str, Any]:
        values = asdict(self)
        del values["split_instances"]
        return values

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Read a plan.

        Raises
        ------
        CheckpointError
            The text is not a plan, or one of another version.
        """
        try:
            values: dict[str, Any] = json.loads(text, object_pairs_hook=_once, parse_constant=_refused)
            if values.get("version") != PLAN_VERSION:
                raise CheckpointError(f"the plan has format {values.get('version')}, this program reads {PLAN_VERSION}")
            values = unsealed(values)
            for name, value in values.items():
                values[name] = tuple(value) if isinstance(value, list) else value
            values["settings"] = Settings(**values["settings"])
            values["instances"] = tuple(Instance(**value) for value in values["instances"])
            values["segments"] = tuple(Segment(**value) for value in values["segments"])
            values["holdout_segments"] = tuple(Segment(**value) for value in values["holdout_segments"])
            return cls(**values)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"plan.json is damaged: {error}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; a key that stands twice could mean either value."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError(f"a key stands twice among {', '.join(sorted(key for key, _ in pairs)[:8])}")
    return dict(pairs)


def _refused(word: str) -> None:
    raise ValueError(f"it holds {word}, which is not a number")


def make_segments(instances: tuple[Instance, ...], gene_rows: NDArray[np.int64]) -> tuple[Segment, ...]:
    """Return the ranges between all borders of windows: what one instance has alone, what two neighbours share."""
    before = np.concatenate([[0], np.cumsum(gene_rows)])
    borders = sorted({rank for instance in instances for rank in (instance.first_rank, instance.stop_rank)})
    return tuple(Segment(first, stop, int(before[first]), int(before[stop])) for first, stop in pairwise(borders))


def holdout_segments(plan: Plan) -> tuple[Segment, ...]:
    """Return the one segment of all held-out genes, or none."""
    if not plan.n_holdout_genes:
        return ()
    stop_rank, stop_row = plan.n_genes + plan.n_holdout_genes, plan.n_rows + plan.n_holdout_rows
    return (Segment(plan.n_genes, stop_rank, plan.n_rows, stop_row),)


def instances_for(plan: Plan, instance_id: int) -> tuple[Instance, ...]:
    """Return the instance of a number, or the halves that took its place.

    Raises
    ------
    PlanError
        There is no such instance.
    """
    numbers = {instance_id}
    if instance_id in {split.instance_id for split in plan.split_instances}:
        first = len(plan.instances) - len(plan.split_instances) + 2 * instance_id
        numbers = {first, first + 1}
    found = tuple(one for one in plan.instances if one.instance_id in numbers)
    if not found:
        n_planned = len(plan.instances) - len(plan.split_instances)
        raise PlanError(f"--instance {instance_id}: the plan has instances 0 to {n_planned - 1}")
    return found


def with_split(plan: Plan, parent: Instance, halves: Sequence[Instance], n_rows: NDArray[np.int64]) -> Plan:
    """Return the plan with an instance's halves in its place, after all others, and the segments that they need.

    Parameters
    ----------
    plan, parent, halves
        The plan, an instance of it, and what takes its place.
    n_rows
        Rows of each gene by rank, shape (n_genes,).
    """
    kept = [one for one in plan.instances if one != parent]
    instances = tuple(sorted((*kept, *halves), key=lambda one: one.instance_id))
    return replace(
        plan,
        instances=instances,
        segments=make_segments(instances, n_rows),
        split_instances=tuple(sorted((*plan.split_instances, parent), key=lambda one: one.instance_id)),
    )


def write_splits(path: Path, plan: Plan) -> None:
    """Write the splits of a plan."""
    values: dict[str, Any] = {
        "plan_sha256": plan.digest,
        "instances": [asdict(one) for one in plan.instances],
        "segments": [asdict(one) for one in plan.segments],
        "split_instances": [asdict(one) for one in plan.split_instances],
    }
    write_json(path, sealed(values))


def read_splits(path: Path, plan: Plan) -> Plan:
    """Return a plan with the splits that were made while it was trained, if any.

    Raises
    ------
    CheckpointError
        The file is damaged or belongs to another plan.
    """
    try:
        values = read_sealed(path)
        if values["plan_sha256"] != plan.digest:
            raise CheckpointError(f"{path} belongs to another plan; remove it, and its halves are trained again")
        return replace(
            plan,
            instances=tuple(Instance(**one) for one in values["instances"]),
            segments=tuple(Segment(**one) for one in values["segments"]),
            split_instances=tuple(Instance(**one) for one in values["split_instances"]),
        )
    except FileNotFoundError:
        return plan
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); remove it, and its halves are trained again") from error
