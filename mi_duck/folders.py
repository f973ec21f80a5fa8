"""Where the files of a run lie."""

from dataclasses import dataclass
from pathlib import Path

from mi_duck.errors import CheckpointError
from mi_duck.plan.plan import Instance, Plan


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of a run; the run folder is its state."""

    root: Path

    @property
    def plan(self) -> Path:
        """The plan, written once."""
        return self.root / "plan.json"

    @property
    def genes(self) -> Path:
        """Ranks, folds and rows of every gene."""
        return self.root / "genes.parquet"

    @property
    def memory(self) -> Path:
        """Measurements of memory that the plan rests on."""
        return self.root / "memory.json"

    @property
    def scratch(self) -> Path:
        """What is deleted at the end."""
        return self.root / ".scratch"

    @property
    def segments(self) -> Path:
        """Rows in small types, one folder a segment."""
        return self.scratch / "segments"

    @property
    def members(self) -> Path:
        """Out-of-fold margins of every instance and base scores, for all rows."""
        return self.scratch / "members.parquet"

    @property
    def out_of_fold(self) -> Path:
        """Out-of-fold predictions of the ensemble."""
        return self.root / "oof_predictions.parquet"

    @property
    def model(self) -> Path:
        """The consolidated model."""
        return self.root / "consolidated_model.miduck"

    @property
    def summary(self) -> Path:
        """Members, weights, voting, hashes, coverage."""
        return self.root / "consolidation_summary.json"

    @property
    def metrics(self) -> Path:
        """Every score with its interval."""
        return self.root / "metrics.csv"

    @property
    def catalogue(self) -> Path:
        """Tables over the run's files."""
        return self.root / "run.duckdb"

    @property
    def provenance(self) -> Path:
        """Settings, versions, fingerprints; written last."""
        return self.root / "provenance.json"

    def instance(self, instance: Instance) -> Path:
        """Return the folder of one instance."""
        return self.root / "multi_instance_training" / instance.name

    def read_plan(self) -> Plan:
        """Read the plan.

        Raises
        ------
        CheckpointError
            There is none, or it is damaged.
        """
        try:
            text = self.plan.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(
                f"no plan in {self.root}; make one with 'mi-duck plan DATASET --out {self.root}'"
            ) from error
        return Plan.from_json(text)
