"""Files are whole or absent, and a damaged or forged model file is refused before any parser sees it."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zstandard

from mi_duck.archive import MAGIC, pack, read_parts, unpack
from mi_duck.atomic_files import file_sha256, publish, write_file, write_json
from mi_duck.errors import CheckpointError, StorageError

PARTS = {"model.json": b'{"a": 1}', "booster_0.ubj": bytes(range(256)) * 8, "empty": b""}


def forged(header: bytes, body: bytes, *, length: int | None = None) -> bytes:
    """Return a file whose hash is right but whose inside is the caller's."""
    rest = (len(header) if length is None else length).to_bytes(8, "little") + header + body
    return MAGIC + hashlib.sha256(rest).digest() + rest


def frame(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def test_pack__unpack_returns_the_parts_in_their_order() -> None:
    parts = unpack(pack(PARTS), "x")
    assert parts == PARTS
    assert list(parts) == list(PARTS)


def test_pack__same_parts_give_the_same_bytes() -> None:
    assert pack(PARTS) == pack(dict(PARTS))


def test_unpack__any_flipped_bit_is_refused() -> None:
    data = pack(PARTS)
    rng = np.random.default_rng(0)
    indices = {*range(48), *rng.integers(0, len(data), 100).tolist()}
    for index in indices:
        damaged = bytearray(data)
        damaged[index] ^= 1 << int(rng.integers(8))
        with pytest.raises(CheckpointError):
            unpack(bytes(damaged), "x")


def test_unpack__any_truncation_is_refused() -> None:
    data = pack(PARTS)
    for length in {0, 1, 7, 8, 39, 40, 47, 48, *np.linspace(0, len(data) - 1, 30).astype(int).tolist()}:
        with pytest.raises(CheckpointError):
            unpack(data[:length], "x")


def test_unpack__says_what_is_wrong() -> None:
    data = pack(PARTS)
    for damaged, words in (
        (b"PK\x03\x04" + data, "not a mi_duck model"),
        (b"MIDUCK02" + data[8:], "newer format"),
        (data[:-1], "is damaged: its hash differs"),
    ):
        with pytest.raises(CheckpointError, match=words):
            unpack(damaged, "some.miduck")


@pytest.mark.parametrize(
    "data",
    [
        forged(b"", b"", length=1 << 40),
        forged(b"not json", frame(b"")),
        forged(b"[" * 100_000, frame(b"")),
        forged(b"{}", frame(b"")),
        forged(b'{"parts": 3}', frame(b"")),
        forged(b'{"parts": [["a", "x"]]}', frame(b"")),
        forged(b'{"parts": [["a", -5], ["b", 8]]}', frame(b"abc")),
        forged(b'{"parts": [["a", 3]]}', b"no zstd frame"),
        forged(b'{"parts": [["a", 3]]}', frame(b"abc")[:-1]),
        forged(b'{"parts": [["a", 99000000000]]}', frame(b"abc")),
    ],
)
def test_unpack__a_forged_file_with_a_right_hash_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(CheckpointError) as caught:
        unpack(data, "x")
    assert "\n" not in str(caught.value)


def test_unpack__a_frame_that_unpacks_to_more_than_the_header_says_is_not_unpacked() -> None:
    bomb = frame(b"\0" * (64 << 20))
    assert len(bomb) < 10_000
    with pytest.raises(CheckpointError, match="sizes contradict"):
        unpack(forged(b'{"parts": [["a", 3]]}', bomb), "x")


def test_read_parts__an_absent_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read .*nothing\.miduck: No such file"):
        read_parts(tmp_path / "nothing.miduck")


def test_write_file__replaces_whole_and_leaves_no_other_file(tmp_path: Path) -> None:
    for data in (b"one", b"two"):
        write_file(tmp_path / "deep" / "file", data)
        assert (tmp_path / "deep" / "file").read_bytes() == data
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["file"]


def test_write_json__is_sorted_and_refuses_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5]})
    assert (tmp_path / "a.json").read_text().index('"a"') < (tmp_path / "a.json").read_text().index('"b"')
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"a": [1.5], "b": 1}
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "b.json", {"a": float("nan")})
    assert not (tmp_path / "b.json").exists()


def test_publish__gives_a_file_its_name(tmp_path: Path) -> None:
    (tmp_path / ".new").write_bytes(b"new")
    (tmp_path / "file").write_bytes(b"old")
    publish(tmp_path / ".new", tmp_path / "file")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("file", b"new")]


def test_write_file__a_path_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot write .*file"):
        write_file(tmp_path / "file" / "inside", b"x")
    assert StorageError.exit_code == 74


def test_write_file__a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk."""
    (tmp_path / "file").write_bytes(b"old")
    script = (
        "import resource, sys; from pathlib import Path; from mi_duck.atomic_files import write_file\n"
        "from mi_duck.errors import StorageError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    write_file(Path(sys.argv[1]), b'x' * 5000)\n"
        "except StorageError as error:\n    print(error); sys.exit(error.exit_code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "file")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == 74, done.stderr
    assert "cannot write" in done.stdout
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("file", b"old")]


def test_file_sha256__equals_hashlib(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc" * 100_000)
    assert file_sha256(tmp_path / "file") == hashlib.sha256(b"abc" * 100_000).hexdigest()
