"""The scratch file of a run with every member's out-of-fold scores of every row: how it is written and read.

``.scratch/members.parquet`` has the rows in the total order of the run: ``gene_rank``, ``label``, ``fold``, ``position``, and
``weight`` where the data have one;
``margin:<instance>:<class>`` and ``p:<instance>:<class>``, log-odds and calibrated probabilities by the boosters that never saw
the row's fold group; ``refit:<instance>:<class>``, log-odds by the same boosters with leaves that were fitted anew, where they
were; ``base:<column>``, the base scores as they are.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mi_duck.ensemble.model import InstanceModel
from mi_duck.ensemble.model_file import load_unified_model
from mi_duck.errors import CheckpointError
from mi_duck.metrics.ranking import Floats32, Floats64
from mi_duck.rows.segments import KEYS, USED, WEIGHTED_KEYS, has_weights, weights_or_none
from mi_duck.run.folder import RunFolder
from mi_duck.run.plan import Plan


@dataclass(frozen=True, slots=True)
class MemberScores:
    """Rows of the file, shape (n_rows,), and its scores on request: one member's at a time, so that memory stays bounded.

    ``weight`` is what the data say, None where all rows count the same, also where a column says so (``has_weight_column``);
    see `mi_duck.rows.segments.row_weights`.
    """

    path: Path
    classes: tuple[str, ...]
    base_columns: tuple[str, ...]
    instance_ids: tuple[int, ...]
    n_folds: int
    gene_rank: NDArray[np.int32]
    label: NDArray[np.uint8]
    fold: NDArray[np.int8]
    has_refit: bool = False
    has_weight_column: bool = False
    weight: Floats64 | None = None

    @property
    def n_rows(self) -> int:
        """Rows of the run."""
        return len(self.label)

    def margins(self, instance_id: int) -> Floats32:
        """Return a member's log-odds, shape (n_rows, n_classes)."""
        return self._columns([f"margin:{instance_id}:{name}" for name in self.classes])

    def refitted(self, instance_id: int) -> Floats32:
        """Return the log-odds of a member whose leaves were fitted anew, shape (n_rows, n_classes)."""
        return self._columns([f"refit:{instance_id}:{name}" for name in self.classes])

    def probabilities(self, instance_id: int) -> Floats32:
        """Return a member's calibrated probabilities, shape (n_rows, n_classes)."""
        return self._columns([f"p:{instance_id}:{name}" for name in self.classes])

    def base(self) -> Floats32:
        """Return the base scores, NaN where missing, shape (n_rows, n_classes)."""
        return self._columns([f"base:{name}" for name in self.base_columns])

    def positions(self) -> NDArray[np.int64] | None:
        """Return the position of each row, shape (n_rows,), or None where the dataset has none."""
        column = pq.read_table(self.path, columns=["position"])["position"]
        return None if column.null_count else column.to_numpy()

    def keys(self) -> NDArray[np.void]:
        """Return the keys of all rows, as segments hold them but for ``use``, which is not kept: each row stands for itself."""
        keys = np.zeros(self.n_rows, dtype=WEIGHTED_KEYS if self.has_weight_column else KEYS)
        keys["gene_rank"], keys["label"], keys["use"] = self.gene_rank, self.label, USED
        if self.has_weight_column:
            keys["weight"] = 1 if self.weight is None else self.weight
        positions = self.positions()
        if positions is not None:
            keys["position"] = positions
        return keys

    def _columns(self, names: list[str]) -> Floats32:
        table = pq.read_table(self.path, columns=names)
        values = np.empty((self.n_rows, len(names)), dtype=np.float32)
        for index, name in enumerate(names):
            values[:, index] = table[name].to_numpy()
        return values


def open_member_scores(folder: RunFolder, plan: Plan) -> MemberScores:
    """Open the file of a run, which is made with the consolidated model and deleted at the end of a run."""
    if not (folder.out_of_fold.is_file() and folder.members.is_file()):
        raise CheckpointError(f"{folder.root} has no out-of-fold scores yet; run 'mi-duck consolidate {folder.root}'")
    return read_member_scores(folder, plan)


def load_member(where: Path) -> InstanceModel:
    """Return the model in the folder of an instance; a `CheckpointError` where it is another kind of model, or damaged."""
    model = load_unified_model(where)
    if not isinstance(model, InstanceModel):
        raise CheckpointError(f"{where} holds an ensemble, not the model of one instance")
    return model


def read_member_scores(folder: RunFolder, plan: Plan) -> MemberScores:
    """Open the file, which is known to be there."""
    names = [name.split(":") for name in pq.read_schema(folder.members).names]
    has_weight = ["weight"] in names
    facts = pq.read_table(folder.members, columns=["gene_rank", "label", "fold", *["weight"] * has_weight])
    weight = facts["weight"].to_numpy() if has_weight else None
    return MemberScores(
        path=folder.members,
        classes=plan.data.classes,
        base_columns=plan.data.base_scores,
        instance_ids=tuple(sorted({int(parts[1]) for parts in names if parts[0] == "margin"})),
        n_folds=plan.settings.n_folds,
        gene_rank=facts["gene_rank"].to_numpy(),
        label=facts["label"].to_numpy(),
        fold=facts["fold"].to_numpy(),
        has_refit=any(parts[0] == "refit" for parts in names),
        has_weight_column=has_weight,
        weight=None if weight is None else weights_or_none(weight),
    )


def member_table(
    plan: Plan,
    keys: NDArray[np.void],
    fold: NDArray[np.int8],
    instance_ids: list[int],
    margins: Floats32,
    probabilities: Floats64,
    refitted: Floats32 | None,
    base: Floats32,
) -> pa.Table:
    """Return some rows of the file, from margins and probabilities of shape (n_members, n_rows, n_classes)."""
    columns = {
        "gene_rank": pa.array(np.ascontiguousarray(keys["gene_rank"])),
        "label": pa.array(np.ascontiguousarray(keys["label"])),
        "fold": pa.array(fold),
        "position": pa.array(np.ascontiguousarray(keys["position"]))
        if plan.data.position_column
        else pa.nulls(len(keys), pa.int64()),
    }
    if has_weights(keys):
        columns["weight"] = pa.array(np.ascontiguousarray(keys["weight"]))
    for kind, values in (("margin", margins), ("p", probabilities), ("refit", refitted)):
        if values is None:
            continue
        columns |= {
            f"{kind}:{instance_id}:{name}": pa.array(values[member, :, index].astype(np.float32))
            for member, instance_id in enumerate(instance_ids)
            for index, name in enumerate(plan.data.classes)
        }
    return pa.table(
        columns | {f"base:{name}": pa.array(base[:, index]) for index, name in enumerate(plan.data.base_scores)}
    )
