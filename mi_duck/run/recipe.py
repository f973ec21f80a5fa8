"""How the features of a dataset are made of sequence: what a model needs to make them of a new one.

``mi-duck build`` writes the recipe into ``build.json`` beside the dataset, the plan of a run takes it from there, and the
model carries it, so that new sequence gets the features of the training and nothing is fitted to it.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from mi_duck.atomic_files import file_sha256
from mi_duck.errors import DataError

RECORD = "build.json"
MOST_BYTES = 64 << 20
N_LETTERS = 5
"""A, C, G, T and N."""
WIDTHS = {"donor": 9, "acceptor": 23}
"""Nucleotides that each weight matrix looks at."""

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class WeightMatrices:
    """The base model: position weight matrices of both kinds of sites.

    Parameters
    ----------
    donor, acceptor
        (9, 5) and (23, 5) log-odds (natural logarithm) of offset and letter; 0 for N.
    log_priors
        Logarithm of the share of donors, acceptors and other positions in gene spans.
    """

    donor: Rows
    acceptor: Rows
    log_priors: tuple[float, float, float]

    def __post_init__(self) -> None:
        """Refuse what cannot score a position: a ValueError."""
        for name, width in WIDTHS.items():
            matrix: Rows = getattr(self, name)
            if len(matrix) != width or any(len(row) != N_LETTERS for row in matrix):
                raise ValueError(f"the weight matrix of {name}s does not have {width} lines of {N_LETTERS} numbers")
        values = [
            *self.log_priors,
            *(value for matrix in (self.donor, self.acceptor) for row in matrix for value in row),
        ]
        if not all(abs(value) < 1e6 for value in values):
            raise ValueError("a weight matrix holds a number that is not finite, or huge")


@dataclass(frozen=True, slots=True)
class Recipe:
    """What features are made of.

    Parameters
    ----------
    window
        Letters of the window round a position, even.
    kmer_lengths
        Lengths of the k-mers that are counted in it.
    gene_features
        Whether there are features of the gene that a position lies in: its length, where in it the position is.
    annotation_features
        Whether there are features that only annotated genes have.
    matrices
        The base model, fitted to all clusters of genes; None where base scores came from files.
    """

    window: int
    kmer_lengths: tuple[int, ...]
    gene_features: bool
    annotation_features: bool
    matrices: WeightMatrices | None

    def __post_init__(self) -> None:
        """Refuse windows that cannot be cut: a ValueError."""
        if not 44 <= self.window <= 100_000 or self.window % 2:
            raise ValueError(f"a window of {self.window} letters")
        if not all(1 <= length <= 8 for length in self.kmer_lengths):
            raise ValueError(f"k-mers of {self.kmer_lengths} letters")

    def to_dict(self) -> dict[str, Any]:
        """Return the record for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class FoldMatrices:
    """The matrices of each fold of clusters, fitted without the sites of that fold; the fold follows from ``seed``."""

    seed: int
    folds: tuple[WeightMatrices, ...]


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file that a dataset was built from.

    Parameters
    ----------
    path
        From the folder of ``build.json``, so that both can be moved together.
    bytes, sha256
        Of its content; empty where an earlier version wrote the record.
    of
        Class and strand of its scores, such as ``donor+``, where it was given so.
    """

    path: str
    bytes: int
    sha256: str = ""
    of: str = ""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The files that a dataset was built from."""

    fasta: InputFile
    annotation: InputFile
    base_scores: tuple[InputFile, ...]


@dataclass(frozen=True, slots=True)
class Counts:
    """Of the counts: what was added to the positions of base scores, by class and strand (``donor+``)."""

    base_score_offsets: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BuildRecord:
    """Of ``build.json`` what later steps read.

    Parameters
    ----------
    inputs
        Genome, annotation, and files of base scores.
    recipe
        How features were made.
    cross_fit
        The matrices that scored the rows; None where the base scores came from files, or from a model (``--like``).
    counts
        What was found.
    """

    inputs: Inputs
    recipe: Recipe
    cross_fit: FoldMatrices | None
    counts: Counts = Counts()


def read_record(path: Path) -> BuildRecord | None:
    """Return what ``build.json`` says, or None where there is none, or one without a recipe, of an earlier version.

    Raises
    ------
    DataError
        It is damaged.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES >> 20} MiB")
        values = json.loads(path.read_bytes())
        return msgspec.convert(values, BuildRecord) if "recipe" in values else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, RecursionError, msgspec.ValidationError) as error:
        raise DataError(f"{path} is damaged ({error}); build the dataset again, or remove that file") from error


def record_of_files(files: Iterable[str]) -> tuple[Path | None, BuildRecord | None]:
    """Return ``build.json`` of the dataset that files are, and what it says; None where there is none."""
    path = record_beside([Path(file) for file in files])
    return path, None if path is None else read_record(path)


def input_facts(file: Path, folder: Path, of: str = "") -> dict[str, Any]:
    """Return an `InputFile` of a record in a folder, and the file's name, for JSON."""
    return {
        "name": file.name,
        "path": os.path.relpath(file.resolve(), folder.resolve()),
        "bytes": file.stat().st_size,
        "sha256": file_sha256(file),
        "of": of,
    }


def file_at_hand(one: InputFile, record: Path) -> Path:
    """Return a file that a dataset was built from.

    Raises
    ------
    DataError
        It is gone, or not what it was.
    """
    file = _place(one, record)
    if not file.is_file():
        raise DataError(f"{file} is gone, of which the dataset was built")
    if file.stat().st_size != one.bytes or file_sha256(file) != one.sha256:
        raise DataError(f"{file} is no longer the file of which the dataset was built")
    return file


def is_at_hand(files: Iterable[str]) -> bool:
    """Return whether genome and annotation of the dataset that files are lie where they did; their content is not compared."""
    path, record = record_of_files(files)
    if path is None or record is None:
        return False
    there = (record.inputs.fasta, record.inputs.annotation, *record.inputs.base_scores)
    return all(one.sha256 and _place(one, path).is_file() for one in there)


def _place(one: InputFile, record: Path) -> Path:
    return Path(os.path.normpath(record.resolve().parent / one.path))


def copy_record(record: Path, folder: Path) -> None:
    """Write a record for a copy of its dataset in another folder: the same, but for the way to the files."""
    values = json.loads(record.read_bytes())
    inputs = values.get("inputs", {})
    for one in (inputs.get("fasta"), inputs.get("annotation"), *inputs.get("base_scores", ())):
        if one and "path" in one:
            one["path"] = os.path.relpath((record.resolve().parent / one["path"]).resolve(), folder.resolve())
    write_record(folder, values)


def write_record(folder: Path, values: dict[str, Any]) -> None:
    """Write ``build.json`` into the folder of a dataset."""
    (folder / RECORD).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def record_beside(files: Iterable[object]) -> Path | None:
    """Return ``build.json`` of the dataset that files are: beside them, or beside their folder ``master``."""
    folders = {file.parent if isinstance(file, Path) else None for file in files}
    folder = folders.pop() if len(folders) == 1 else None
    if folder is None:
        return None
    path = (folder.parent if folder.name == "master" else folder) / RECORD
    return path if path.is_file() else None
