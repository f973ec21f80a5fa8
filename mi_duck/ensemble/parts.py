"""Predictions saved part by part while they are made, so that a killed ``predict`` goes on where it stopped.

The parts lie in a folder beside the file that they will become: ``.OUT.parts/``. Each is `ROWS` rows (the last one fewer) of the
whole result, in Arrow's stream format; its name says its number and the SHA-256 of its bytes, so a name is never given before the
bytes are whole. ``parts.json`` says what they were made from and with; whatever differs makes them anew. The file is always
written from the parts, a row group each: an interrupted run and one that was not give the same bytes.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mi_duck.checkpoint import publish, read_sealed, sealed, write_file, write_json
from mi_duck.errors import CheckpointError

ROWS = 1 << 16
FACTS = "parts.json"
NAME = re.compile(r"(\d{6,})_([0-9a-f]{64})\.arrow")


@dataclass(frozen=True, slots=True)
class Parts:
    """The folder of the parts of one file."""

    folder: Path

    def begin(self, facts: Mapping[str, Any]) -> int:
        """Return how many parts are there to go on with; those of other facts, and those behind a gap, are deleted.

        Parameters
        ----------
        facts
            What the parts are made from and with, as JSON.
        """
        try:
            is_same = read_sealed(self.folder / FACTS) == facts
        except (FileNotFoundError, ValueError):
            is_same = False
        files = self._files()
        n_done = next(number for number in range(len(files) + 1) if number not in files) if is_same else 0
        for number, file in files.items():
            if number >= n_done:
                file.unlink()
        if not is_same:
            write_json(self.folder / FACTS, sealed(facts))
        return n_done

    def save(self, number: int, rows: pa.Table) -> None:
        """Save one part."""
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.ipc.new_stream(sink, rows.schema, options=options) as stream:
            stream.write_table(rows)
        data = sink.getvalue().to_pybytes()
        write_file(self.folder / f"{number:06d}_{hashlib.sha256(data).hexdigest()}.arrow", data)

    def read(self) -> Iterator[pa.Table]:
        """Yield all parts in their order.

        Raises
        ------
        CheckpointError
            One is not what was written; it is deleted.
        """
        for _, file in sorted(self._files().items()):
            data = file.read_bytes()
            if NAME.fullmatch(file.name).group(2) != hashlib.sha256(data).hexdigest():  # type: ignore[union-attr]
                file.unlink()
                raise CheckpointError(f"{file} is damaged; the same command writes it again")
            with pa.ipc.open_stream(data) as stream:
                yield stream.read_all()

    def join(self, out: Path, check: Callable[[], None]) -> Iterator[int]:
        """Write the file from all parts, call a check, and give it its name; yield the rows written after each part."""
        temporary = self.folder / "joined.parquet"
        writer: pq.ParquetWriter | None = None
        n_rows = 0
        try:
            for part in self.read():
                if writer is None:
                    writer = pq.ParquetWriter(temporary, part.schema, compression="zstd", write_page_checksum=True)
                writer.write_table(part)
                n_rows += len(part)
                yield n_rows
        finally:
            if writer is not None:
                writer.close()
        check()
        publish(temporary, out)

    def remove(self) -> None:
        """Delete the parts and what goes with them; a file that is none of ours stays, and its folder with it."""
        ours = [*self._files().values(), *(self.folder / name for name in (FACTS, "joined.parquet", ".lock"))]
        for file in ours:
            file.unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    def _files(self) -> dict[int, Path]:
        """Return the file of each part that is there; of two with one number, which no run leaves, one."""
        found = {}
        for file in self.folder.iterdir():
            match = NAME.fullmatch(file.name)
            if match:
                found[int(match.group(1))] = file
        return found
