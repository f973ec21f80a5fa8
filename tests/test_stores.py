"""A dataset on an object store gives the same run as its local copy; what a store refuses ends in one line, without secrets."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from runs import CONTEXT, call, partitioned, run_here, trained
from test_segments import segment_hashes, table, write

from mi_duck.data.dataset import open_dataset
from mi_duck.data.find_files import find_files
from mi_duck.data.parquet import ObjectFile, object_store, row_group_batches, verify_pages
from mi_duck.data.prepare import prepare
from mi_duck.errors import DataError, StorageError
from mi_duck.rows.partition import partition_here
from mi_duck.run.folder import RunFolder

server = pytest.importorskip("moto.server", reason="the development tools (moto) are not installed")
pytest.importorskip("fsspec", reason="mi-duck[s3] is not installed")

SECRET = "a secret that must be written nowhere"


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ask for the server anew in every test, and do the work of children here."""
    monkeypatch.setattr("mi_duck.processes.run_child", run_here)
    object_store.cache_clear()
    yield
    object_store.cache_clear()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Run a server that speaks S3, in a thread of this process; return its address."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def account(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what a user sets."""
    for name in ("http_proxy", "HTTP_PROXY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)


def upload(folder: Path, to: str) -> str:
    """Copy the files of a folder to ``s3://bucket/<to>``; return that."""
    from pyarrow import fs

    store = fs.S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"], allow_bucket_creation=True)
    store.create_dir("bucket")
    for file in sorted(folder.rglob("*.parquet")):
        with store.open_output_stream(f"bucket/{to}/{file.relative_to(folder).as_posix()}") as stream:
            stream.write(file.read_bytes())
    return f"s3://bucket/{to}"


@pytest.mark.usefixtures("account")
def test_run__on_a_store_reads_the_same_rows_as_on_a_disk(lean_dataset: Path, tmp_path: Path) -> None:
    """Segments are equal to the byte; the plan names the store's files, and no secret."""
    url = upload(lean_dataset, "small")
    local, remote = tmp_path / "local", tmp_path / "remote"
    partitioned(lean_dataset, local, "--seed", "7")
    partitioned(url, remote, "--seed", "7")  # type: ignore[arg-type]
    assert segment_hashes(local) == segment_hashes(remote)
    plan = RunFolder(remote).read_plan()
    assert plan.data.location == url
    assert plan.data.files == (f"{url}/master/part-00000.parquet",)
    assert plan.data.genes_sha256 == RunFolder(local).read_plan().data.genes_sha256
    for file in remote.rglob("*"):
        assert file.is_dir() or SECRET.encode() not in file.read_bytes(), file


@pytest.mark.usefixtures("account")
def test_predict__reads_a_store(lean_dataset: Path, tmp_path: Path) -> None:
    """Every byte of the predictions is that of a local dataset."""
    url = upload(lean_dataset, "predicted")
    run = trained(lean_dataset, tmp_path / "run", "--strategy", "single", "--n-estimators", "3")
    model = run / "multi_instance_training" / "instance_00"
    for source, name in ((lean_dataset, "a"), (url, "b")):
        result = call("predict", model, source, "--out", tmp_path / f"{name}.parquet")
        assert result.exit_code == 0, result.output
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


@pytest.mark.usefixtures("account")
def test_find_files__a_url_names_what_a_path_would(tmp_path: Path) -> None:
    """A file, a folder with its master, a glob; hidden files are passed over; folders are keys."""
    for folder in ("master/chrom=1", "master/chrom=2", "master/_temporary", ".hidden", "other"):
        write(tmp_path / "in" / folder, table().slice(0, 3))
    url = upload(tmp_path / "in", "many")
    names = [f"{url}/master/chrom={key}/b-0.parquet" for key in (1, 2)]
    assert [str(file) for file in find_files(url).files] == names
    assert [str(file) for file in find_files(f"{url}/").files] == names
    assert [str(file) for file in find_files(f"{url}/mast*/chrom=[1-9]/*").files] == names
    assert [str(file) for file in find_files(names[1]).files] == names[1:]
    local = [str(file.relative_to(tmp_path / "in")) for file in find_files(str(tmp_path / "in")).files]
    assert [name.removeprefix(f"{url}/") for name in names] == local
    dataset = open_dataset(url, fold_by="chrom")
    assert dataset.fold_column == "chrom"
    assert dataset.n_rows == 6


@pytest.mark.usefixtures("account")
def test_prepare__reads_a_store(tmp_path: Path) -> None:
    """Row groups of several columns are fetched together, and the rows are the same."""
    source = write(tmp_path / "in", table(), files=2, row_group_rows=100)
    prepare(open_dataset(upload(source, "prepared")), tmp_path / "a", CONTEXT)
    prepare(open_dataset(str(source)), tmp_path / "b", CONTEXT)
    files = [sorted((tmp_path / name / "master").iterdir()) for name in "ab"]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]


@pytest.mark.usefixtures("account")
def test_run__notices_that_a_file_of_a_store_changed(lean_dataset: Path, tmp_path: Path) -> None:
    """One byte of a page, the same size and footer: the store's tag tells."""
    source = write(tmp_path / "in", pq.read_table(lean_dataset / "master"))
    url = upload(source, "changing")
    planned = call("plan", url, "--out", tmp_path / "run", "--strategy", "single", "--n-estimators", "3")
    assert planned.exit_code == 0, planned.output
    data = bytearray((source / "b-0.parquet").read_bytes())
    data[len(data) // 4] ^= 1
    (source / "b-0.parquet").write_bytes(data)
    upload(source, "changing")
    with pytest.raises(DataError, match="b-0.parquet is another file now"):
        partition_here(run=str(tmp_path / "run"), threads=1, report=lambda *progress: None)


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize(
    ("location", "code", "words"),
    [
        ("s3://bucket/nothing", 65, "nothing is at s3://bucket/nothing"),
        ("s3://bucket/not*ing", 65, "no *.parquet file in s3://bucket/not*ing"),
        ("s3://no-such-bucket/x", 65, "there is no such bucket"),
        ("s3://someone:password@bucket/x", 65, "holds a user name or a password"),
        ("s3://b/x", 65, "names no bucket"),
        ("gs://bucket/x", 65, "on a store that mi-duck cannot read"),
    ],
)
def test_inspect__says_what_is_wrong_with_a_url(location: str, code: int, words: str, tmp_path: Path) -> None:
    upload(write(tmp_path / "in", table()), "there")
    result = call("inspect", location)
    assert result.exit_code == code
    assert words in result.output
    assert result.output.count("\n") == 1
    assert "someone" not in result.output


def test_inspect__a_server_that_does_not_answer_is_not_a_fault_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    result = call("inspect", "s3://bucket/data")
    assert result.exit_code == 74
    assert "cannot read s3://bucket/data: NETWORK_CONNECTION" in result.output
    assert SECRET not in result.output


@pytest.mark.usefixtures("account")
def test_read__a_server_that_goes_away_is_not_a_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a file, in every way of reading it."""
    own = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    own.start()
    host, port = own.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    upload(write(tmp_path / "in", table(), row_group_rows=100), "cut")
    (file,) = find_files("s3://bucket/cut").files
    assert isinstance(file, ObjectFile)
    batches = row_group_batches(file, ["real"])
    assert len(next(batches)[1]) == 100
    own.stop()
    with pytest.raises(StorageError, match="cannot read s3://bucket/cut/b-0.parquet"):
        list(batches)
    with pytest.raises(StorageError, match="cannot read s3://bucket/cut/b-0.parquet"):
        verify_pages([file], ["real"])
    with pytest.raises(StorageError, match="cannot read s3://bucket/cut"):
        find_files("s3://bucket/cut")


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", "data", "--out", "s3://bucket/run"),
        ("run", "data", "--out", "gs://bucket/run"),
        ("prepare", "data", "--out", "s3://bucket/data"),
        ("predict", "model", "data", "--out", "s3://bucket/p.parquet"),
        ("status", "s3://bucket/run"),
    ],
)
def test_out__on_a_store_is_refused(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 78
    assert "has no locks and no rename" in result.output
    assert not any(tmp_path.iterdir())
