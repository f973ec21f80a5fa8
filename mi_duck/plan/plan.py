"""The plan of a run: which genes each instance trains on, in which layout, under which budget; written once."""

import json
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_duck.errors import CheckpointError

PLAN_VERSION = 1


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
    predicted_bytes
        Predicted peak memory of the process that trains it.
    """

    instance_id: int
    first_rank: int
    stop_rank: int
    n_genes: int
    n_rows: int
    predicted_bytes: int

    @property
    def name(self) -> str:
        """Folder of the instance."""
        return f"instance_{self.instance_id:02d}"


@dataclass(frozen=True, slots=True)
class Segment:
    """A range of genes that the same instances need; written once, read by each of them.

    Parameters
    ----------
    segment_id
        From 0.
    first_rank, stop_rank
        Half-open range of gene ranks.
    first_row, stop_row
        The same in rows of the total order.
    """

    segment_id: int
    first_rank: int
    stop_rank: int
    first_row: int
    stop_row: int

    @property
    def name(self) -> str:
        """Folder of the segment."""
        return f"segment_{self.segment_id:03d}"

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
    """

    seed: int
    n_folds: int
    n_estimators: int
    early_stopping_patience: int
    max_depth: int
    learning_rate: float
    max_bin: int
    calibrate: bool


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
        SHA-256 of names, sizes and footers.
    gene_column, label_column, fold_column, position_column, classes, labels, base_scores
        As in `mi_duck.data.dataset.Dataset`.
    small_features, wide_features
        Features stored as one byte (whole numbers 0 to 255 without a null), and as float32.
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
        ``single`` or ``multi``.
    genes_per_instance, overlap_genes
        Cap of genes a window, and genes shared by every neighbouring pair.
    budget_bytes, budget_source
        Memory that one instance may take, and the bound that decided it.
    memory_is_measured
        Whether the predictions rest on measurements of this machine.
    bytes_per_row
        What one more row adds to the predicted peak.
    record_bytes
        Bytes of one row in the segments.
    instances, segments
        The windows, and the ranges between their borders.
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
    sample_genes: int | None
    n_genes_dataset: int
    n_genes: int
    n_rows: int
    genes_sha256: str
    options: dict[str, Any]
    settings: Settings
    strategy: str
    genes_per_instance: int
    overlap_genes: int
    budget_bytes: int
    budget_source: str
    memory_is_measured: bool
    bytes_per_row: float
    record_bytes: int
    instances: tuple[Instance, ...]
    segments: tuple[Segment, ...]

    def to_json(self) -> str:
        """Return the plan as JSON text."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Read a plan.

        Raises
        ------
        CheckpointError
            The text is no plan, or one of another version.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            if values.get("version") != PLAN_VERSION:
                raise CheckpointError(f"the plan has format {values.get('version')}, this program reads {PLAN_VERSION}")
            for name, value in values.items():
                values[name] = tuple(value) if isinstance(value, list) else value
            values["settings"] = Settings(**values["settings"])
            values["instances"] = tuple(Instance(**value) for value in values["instances"])
            values["segments"] = tuple(Segment(**value) for value in values["segments"])
            return cls(**values)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"plan.json is damaged: {error}") from error


def make_segments(instances: tuple[Instance, ...], gene_rows: NDArray[np.int64]) -> tuple[Segment, ...]:
    """Return the ranges between all borders of windows: what one instance has alone, what two neighbours share."""
    before = np.concatenate([[0], np.cumsum(gene_rows)])
    borders = sorted({rank for instance in instances for rank in (instance.first_rank, instance.stop_rank)})
    return tuple(
        Segment(number, first, stop, int(before[first]), int(before[stop]))
        for number, (first, stop) in enumerate(pairwise(borders))
    )
