"""The plan of a run: what was asked, and four records of what was decided; written once, the truth of the run.

Each record is complete when it is made. `PlannedData` says what is trained on, `Settings` how, `Costs` (in
`mi_duck.run.costs`) what that takes, `Cut` which genes each instance gets. An instance that ran out of memory is split in
halves: the plan stays as it is, and ``splits.json`` stands beside it.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mi_duck.atomic_files import read_sealed, sealed, strict_json, unsealed, write_json
from mi_duck.errors import CheckpointError, PlanError
from mi_duck.resources import Budget
from mi_duck.run.costs import Costs
from mi_duck.run.encoding import Encoding, encoding_of
from mi_duck.run.made import Dates, Levels, Made
from mi_duck.run.recipe import Recipe
from mi_duck.settings import Asked
from mi_duck.wording import Noun, noun_of

PLAN_VERSION = 7


def instance_name(instance_id: int) -> str:
    """Return the name of an instance, which its folder has."""
    return f"instance_{instance_id:02d}"


@dataclass(frozen=True, slots=True)
class Instance:
    """One model trained on one window of genes.

    Parameters
    ----------
    instance_id
        From 0.
    first_rank, stop_rank
        Half-open range of gene ranks.
    n_training_rows
        Of its rows those that it is trained on; fewer where easy negatives are sampled.
    predicted_bytes, predicted_seconds
        Predicted peak memory of the process that trains it, and its time where early stopping ends as it usually does.
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
        return instance_name(self.instance_id)


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


def distinct_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the classes that have something of their own to show: of two the second, whose mirror image the first is.

    Examples
    --------
    >>> distinct_classes(["no", "yes"]), distinct_classes(["neither", "donor", "acceptor"])
    (('yes',), ('neither', 'donor', 'acceptor'))
    """
    return tuple(classes[1:] if len(classes) == 2 else classes)


def fitted_classes(n_classes: int) -> range:
    """Return the indices of the classes that boosters are fitted for: of two the second, the first being its complement.

    Examples
    --------
    >>> list(fitted_classes(2)), list(fitted_classes(3))
    ([1], [0, 1, 2])
    """
    return range(1, 2) if n_classes == 2 else range(n_classes)


@dataclass(frozen=True, slots=True)
class PlannedData:
    """What a run is trained on: files, columns by kind, classes, genes, rows, and the rule that samples rows.

    Parameters
    ----------
    files
        With absolute paths.
    pins, hashes, full_hash
        Of each of ``files`` the SHA-256 of size and footer, and with ``--full-hash`` that of every byte.
    fingerprint
        SHA-256 of names, sizes and footers, and with ``--full-hash`` of every byte.
    gene_column, label_column, fold_column, position_column, classes, labels, base_scores
        As in `mi_duck.data.dataset.Dataset`.
    features
        All features in the order that models use.
    small_features, wide_features
        Features stored as one byte (whole numbers 0 to 255 without a null), and as float32.
    levels, dates
        Columns of texts and of dates of which features are made.
    kept
        Columns of the dataset that out-of-fold predictions keep.
    weight_column
        Column with the weight of each row; None where all count the same.
    leaky_features
        Features of the dataset that ``--auto-exclude-leaky`` left out.
    screened_features
        Features of the dataset that the pilot left out.
    pilot_genes
        Genes of the lowest ranks that chose the features; they are trained on, never scored.
    easy_below
        Negatives whose site score lies below are easy; None where all rows are used.
    content_columns
        Columns that tell rows apart which agree in gene, position and score, where rows are sampled.
    warnings
        In words, what of the dataset is not used although it looks like data, and features that look like ids.
    identical_rows, identical_genes
        Rows that genes of different fold groups share, and these genes; 0 where there are none or their groups were joined.
    n_genes_dataset, n_genes, n_rows
        Genes of the dataset; genes and rows selected.
    n_holdout_genes, n_holdout_rows
        Genes that nothing is trained on, and their rows; their ranks follow on those of all others. They are not among
        ``n_genes`` and ``n_rows``.
    genes_sha256
        Hash of ``genes.parquet``, which holds ranks, folds and rows of every gene.
    recipe
        How features are made of sequence, where the dataset was built from one.
    """

    location: str
    files: tuple[str, ...]
    pins: tuple[str, ...]
    hashes: tuple[str, ...]
    full_hash: bool
    fingerprint: str
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
    leaky_features: tuple[str, ...]
    pilot_genes: int
    easy_below: float | None
    content_columns: tuple[str, ...]
    warnings: tuple[str, ...]
    identical_rows: int
    identical_genes: int
    n_genes_dataset: int
    n_genes: int
    n_rows: int
    n_holdout_genes: int
    n_holdout_rows: int
    genes_sha256: str
    levels: tuple[Levels, ...] = ()
    kept: tuple[str, ...] = ()
    recipe: Recipe | None = None
    weight_column: str | None = None
    dates: tuple[Dates, ...] = ()
    screened_features: tuple[str, ...] = ()

    @property
    def made(self) -> tuple[Made, ...]:
        """All columns of which features are made."""
        return self.levels + self.dates

    @property
    def noun(self) -> Noun:
        """What the groups are called."""
        return noun_of(self.gene_column)

    @property
    def distinct_classes(self) -> tuple[str, ...]:
        """See `distinct_classes`."""
        return distinct_classes(self.classes)

    @property
    def record_bytes(self) -> int:
        """Bytes of the features and of the weight of one row in the segments."""
        return len(self.small_features) + 4 * len(self.wide_features) + 4 * (self.weight_column is not None)


@dataclass(frozen=True, slots=True)
class Settings:
    """What training depends on beside data and genes; part of every checkpoint's key.

    Parameters
    ----------
    seed, n_folds, n_estimators, early_stopping_patience, max_depth, learning_rate, max_bin, device
        As asked; see `mi_duck.settings.Asked`.
    calibrate
        Whether calibration may be chosen; else scores are left as they are.
    layout_used
        ``missing``: missing values stay missing; ``zeros``: zeros of ``zero_is_missing`` are missing too; ``sentinel``:
        missing values are a number below all others.
    zero_is_missing
        Features whose zeros count as missing; part of the model.
    cv_used
        ``matrices``: each fold is trained on a matrix of its own rows; ``weights``: on the matrix of all rows, those of
        the test fold with weight zero.
    easy_share
        Share of the easy negatives that is trained on, with the inverse as their weight; 1 is all.
    xgb_parameters
        Further parameters of XGBoost, NAME=VALUE; see `mi_duck.run.xgboost_parameters`.
    estimator, estimator_options, estimator_made
        The classifier that ``mi-duck cv`` trains instead of boosted trees, or ``blend``; its options; and what a factory of
        the user's own makes. Empty for boosted trees. Of such a classifier ``n_estimators`` and
        ``early_stopping_patience`` are epochs.
    """

    seed: int
    n_folds: int
    n_estimators: int
    early_stopping_patience: int
    max_depth: int
    learning_rate: float
    max_bin: int
    calibrate: bool
    layout_used: str = "missing"
    zero_is_missing: tuple[str, ...] = ()
    cv_used: str = "matrices"
    easy_share: float = 1.0
    xgb_parameters: tuple[str, ...] = ()
    device: str = "cpu"
    estimator: str = ""
    estimator_options: tuple[str, ...] = ()
    estimator_made: str = ""

    @property
    def is_boosted(self) -> bool:
        """Whether the models are boosted trees, as of ``mi-duck run``."""
        return not self.estimator

    @property
    def what_is_scored(self) -> str:
        """What scores called those of the ensemble are of, in words; empty of boosted trees, where they are of an ensemble."""
        if self.is_boosted:
            return ""
        if self.estimator == "blend":
            method, *runs = (one.split("=") for one in self.estimator_options)
            return f"a blend of {', '.join(run[0] for run in runs)} ({method[0]} {method[1]})"
        options = self.estimator_made or ", ".join(self.estimator_options)
        return f"the classifier {self.estimator}" + (f" ({options})" if options else "")


@dataclass(frozen=True, slots=True)
class Cut:
    """Which genes each instance gets, within which budget, and what other ways would take.

    Parameters
    ----------
    strategy_used
        ``single``, ``multi``, or ``external``: one instance whose matrix lies on disk.
    budget
        Memory that one instance may take, and the bound that decided it.
    most_genes, overlap_genes
        Cap of genes per window, and genes shared by every neighbouring pair.
    instances, segments
        The windows, and the ranges between their borders.
    holdout_segments
        Where the rows of the held-out genes lie.
    alternatives
        What every strategy and layout would take; see `mi_duck.plan.cut.alternatives`.
    split_instances
        Instances that ran out of memory and were split in halves, which stand among ``instances``; never in ``plan.json``,
        see `read_splits`.
    """

    strategy_used: str
    budget: Budget
    most_genes: int
    overlap_genes: int
    instances: tuple[Instance, ...]
    segments: tuple[Segment, ...]
    holdout_segments: tuple[Segment, ...]
    alternatives: tuple[dict[str, Any], ...]
    split_instances: tuple[Instance, ...] = ()

    @property
    def all_segments(self) -> tuple[Segment, ...]:
        """Segments of the instances, then those of the held-out genes."""
        return self.segments + self.holdout_segments

    @property
    def n_planned(self) -> int:
        """How many instances were planned: two halves stand for one that was split."""
        return len(self.instances) - len(self.split_instances)

    @property
    def is_external(self) -> bool:
        """Whether the matrix lies on disk."""
        return self.strategy_used == "external"

    def instance(self, instance_id: int) -> Instance:
        """Return an instance by its number; a `CheckpointError` where there is none, or where it was split."""
        for one in self.instances:
            if one.instance_id == instance_id:
                return one
        raise CheckpointError(f"the plan has no instance {instance_id}")


@dataclass(frozen=True, slots=True)
class Plan:
    """The truth of a run: what was asked and what was decided; what every later step reads.

    Asked and decided values have different names: ``asked.layout`` may be ``auto``, ``settings.layout_used`` is not.
    """

    asked: Asked
    data: PlannedData
    settings: Settings
    costs: Costs
    cut: Cut
    version: int = PLAN_VERSION

    @property
    def encoding(self) -> Encoding:
        """What counts as missing in the matrices that models see."""
        return encoding_of(self.settings.layout_used, self.settings.zero_is_missing, self.data.made)

    @property
    def what_is_scored(self) -> str:
        """What scores called those of the ensemble are of, in words; empty where they are of several instances."""
        n_instances = len(self.cut.instances)
        return self.settings.what_is_scored or (f"one model of all {self.data.noun.many}" if n_instances == 1 else "")

    @property
    def digest(self) -> str:
        """SHA-256 of all that the windows follow from; the same before and after a split."""
        values = self._written()
        del values["cut"]["instances"], values["cut"]["segments"]
        return str(sealed(values)["seal"])

    def to_json(self) -> str:
        """Return the plan as JSON text, with its own hash."""
        return json.dumps(sealed(self._written()), indent=1)

    def _written(self) -> dict[str, Any]:
        values = asdict(self)
        del values["cut"]["split_instances"]
        return values

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Read a plan; a `CheckpointError` where the text is not a plan, or one of another version."""
        try:
            values: dict[str, Any] = strict_json(text)
            if values.get("version") != PLAN_VERSION:
                raise CheckpointError(f"the plan has format {values.get('version')}, this program reads {PLAN_VERSION}")
            return msgspec.convert(unsealed(values), cls)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"plan.json is damaged: {error}") from error


def make_segments(instances: tuple[Instance, ...], gene_rows: NDArray[np.int64]) -> tuple[Segment, ...]:
    """Return the ranges between all borders of windows: what one instance has alone, what two neighbours share."""
    before = np.concatenate([[0], np.cumsum(gene_rows)])
    borders = sorted({rank for instance in instances for rank in (instance.first_rank, instance.stop_rank)})
    return tuple(Segment(first, stop, int(before[first]), int(before[stop])) for first, stop in pairwise(borders))


def holdout_segments(data: PlannedData) -> tuple[Segment, ...]:
    """Return the one segment of all held-out genes, or none."""
    if not data.n_holdout_genes:
        return ()
    stop_rank, stop_row = data.n_genes + data.n_holdout_genes, data.n_rows + data.n_holdout_rows
    return (Segment(data.n_genes, stop_rank, data.n_rows, stop_row),)


def n_genes_covered(instances: Iterable[Instance]) -> int:
    """Return how many genes at least one of some instances sees."""
    return len({rank for one in instances for rank in range(one.first_rank, one.stop_rank)})


def instances_for(plan: Plan, instance_id: int) -> tuple[Instance, ...]:
    """Return the instance of a number, or the halves that it was split in."""
    cut = plan.cut
    n_planned = cut.n_planned
    numbers = {instance_id}
    if instance_id in {split.instance_id for split in cut.split_instances}:
        first = n_planned + 2 * instance_id
        numbers = {first, first + 1}
    found = tuple(one for one in cut.instances if one.instance_id in numbers)
    if not found:
        raise PlanError(f"--instance {instance_id}: the plan has instances 0 to {n_planned - 1}")
    return found


def with_split(plan: Plan, parent: Instance, halves: Sequence[Instance], n_rows: NDArray[np.int64]) -> Plan:
    """Return the plan with an instance's halves instead of it, after all others, and the segments that they need.

    ``n_rows`` are the rows of each gene by rank.
    """
    kept = [one for one in plan.cut.instances if one != parent]
    instances = tuple(sorted((*kept, *halves), key=lambda one: one.instance_id))
    cut = replace(
        plan.cut,
        instances=instances,
        segments=make_segments(instances, n_rows),
        split_instances=tuple(sorted((*plan.cut.split_instances, parent), key=lambda one: one.instance_id)),
    )
    return replace(plan, cut=cut)


@dataclass(frozen=True, slots=True)
class _Splits:
    """What ``splits.json`` holds."""

    plan_sha256: str
    instances: tuple[Instance, ...]
    segments: tuple[Segment, ...]
    split_instances: tuple[Instance, ...]


def write_splits(path: Path, plan: Plan) -> None:
    """Write the splits of a plan."""
    splits = _Splits(plan.digest, plan.cut.instances, plan.cut.segments, plan.cut.split_instances)
    write_json(path, sealed(asdict(splits)))


def read_splits(path: Path, plan: Plan) -> Plan:
    """Return a plan with the splits that were made while it was trained, if any."""
    try:
        found = msgspec.convert(read_sealed(path), _Splits)
    except FileNotFoundError:
        return plan
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); remove it, and its halves are trained again") from error
    if found.plan_sha256 != plan.digest:
        raise CheckpointError(f"{path} belongs to another plan; remove it, and its halves are trained again")
    cut = replace(plan.cut, instances=found.instances, segments=found.segments, split_instances=found.split_instances)
    return replace(plan, cut=cut)
