"""Hostile models, queries, names and folders: refused in one line or harmless, and never a crash."""

import csv
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xgboost as xgb
import zstandard
from runs import here

from mi_duck import atomic_files as checkpoint
from mi_duck.archive import MAGIC, pack, read_parts
from mi_duck.atomic_files import unguarded, write_csv
from mi_duck.boosting.write_instance import _remove
from mi_duck.data.database import Database
from mi_duck.ensemble.model import ConsolidatedMetaModel, InstanceModel
from mi_duck.ensemble.model_file import load_unified_model, save_model
from mi_duck.errors import CheckpointError, DataError, MemoryBudgetError
from mi_duck.metrics.calibrate import Calibrator
from mi_duck.run.training_data import training_data

N_FEATURES = 6
BOOSTER = "booster_0_0.ubj"


def model() -> ConsolidatedMetaModel:
    """Return two members of two classes, with every kind of calibrator, trained on values of which some are missing."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, N_FEATURES)).astype(np.float32)
    rows[rng.random(rows.shape) < 0.2] = np.nan
    steps = Calibrator("isotonic", margins=(-1.0, 0.0, 2.0), probabilities=(0.1, 0.25, 0.9))
    members = []
    for number in range(2):
        data = xgb.QuantileDMatrix(rows, label=np.nan_to_num(rows[:, number]) > 0)
        booster = xgb.train({"max_depth": 4, "objective": "binary:logistic"}, data, 8)
        facts = {"instance_id": number, "n_genes": 5, "n_rows": 300, "n_training_rows": 300, "rounds": [8, 8]}
        names = tuple(f"feature {index}" for index in range(N_FEATURES))
        members.append(
            InstanceModel(
                *(names, ("x", "y"), (booster, booster), (steps, Calibrator("platt", 1.2, -0.3)), facts),
                training=training_data("gene", [f"{number} {gene}" for gene in range(5)], names),
            )
        )
    return ConsolidatedMetaModel(tuple(members), (0.4, 0.6), "probability", {"x": {"best_f1": 0.5}}, 9)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.miduck"
    save_model(path, model())
    return path


@pytest.fixture(scope="module")
def parts(file: Path) -> dict[str, bytes]:
    return read_parts(file)


def refused(folder: Path, parts: dict[str, bytes], words: str) -> None:
    """Write the parts with a right hash and see that they are refused in one line."""
    (folder / "h.miduck").write_bytes(pack(parts))
    with pytest.raises(CheckpointError, match=words) as refusal:
        load_unified_model(folder / "h.miduck")
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 600


# ---- boosters --------------------------------------------------------------------------------------------------------


def with_tree(data: bytes, name: str, node: int, value: float) -> bytes:
    """Return a booster with one value of its first tree replaced."""
    key = len(name).to_bytes(8, "big") + name.encode()
    begin = data.index(b"L" + key) + 1 + len(key)
    kind = data[begin : begin + 5]
    dtype = {b"[$d#L": ">f4", b"[$l#L": ">i4", b"[$U#L": "u1"}[kind]
    at = begin + 13 + node * np.dtype(dtype).itemsize
    raw = np.array(value).astype(dtype).tobytes()
    return data[:at] + raw + data[at + len(raw) :]


LINKS = "outside its tree|one child|by no path|another parent"


@pytest.mark.parametrize(
    ("name", "node", "value", "words"),
    [
        ("left_children", 0, 10**6, LINKS),
        ("left_children", 0, -7, LINKS),
        ("right_children", 0, 2**31 - 1, LINKS),
        ("left_children", 1, 0, LINKS),
        ("left_children", 0, 0, LINKS),
        ("left_children", 0, 2, LINKS),
        ("left_children", 0, -1, LINKS),
        ("parents", 0, 0, "a root with a parent"),
        ("parents", 1, 5, "names another parent"),
        ("split_indices", 0, N_FEATURES, "a feature that is not there"),
        ("split_indices", 0, -1, "a feature that is not there"),
        ("split_indices", 0, 2**30, "a feature that is not there"),
        ("split_conditions", 0, float("nan"), "not a number"),
        ("split_conditions", -1, float("inf"), "infinite or huge"),
        ("split_conditions", -1, 1e30, "infinite or huge"),
        ("split_type", 0, 1, "by categories"),
        ("default_left", 0, 2, "neither left nor right"),
        ("sum_hessian", 0, -1, "negative"),
        ("base_weights", 0, float("nan"), "not finite"),
        ("loss_changes", 0, float("inf"), "not finite"),
    ],
)
def test_booster__with_a_hostile_number_in_a_tree_is_refused(
    name: str, node: int, value: float, words: str, parts: dict[str, bytes], tmp_path: Path
) -> None:
    data = parts[BOOSTER]
    if node < 0:
        key = len("left_children").to_bytes(8, "big") + b"left_children"
        begin = data.index(key) + len(key)
        n = int.from_bytes(data[begin + 5 : begin + 13], "big")
        node += n  # the last node is a leaf
    refused(tmp_path, parts | {BOOSTER: with_tree(data, name, node, value)}, words)


def same_length(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data.replace(old, new, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: b"", "'version' is not there"),
        (lambda data: b"{" * 1_000_000, "a text without its length"),
        (lambda data: data + b" ", "first byte to its last"),
        (lambda data: data[:-1], "too early|at the end|longer than the file"),
        (lambda data: b'{"learner": {}}', "a text without its length"),
        (same_length(b"\x06gbtree", b"\x06dartxx"), "kind dartxx"),
        (same_length(b"binary:logistic", b"binary:hinge!!!"), "kind gbtree, binary:hinge"),
        (same_length(b"num_classSL" + b"\0" * 7 + b"\x010", b"num_classSL" + b"\0" * 7 + b"\x019"), "kind gbtree"),
        (same_length(b"num_treesSL" + b"\0" * 7 + b"\x018", b"num_treesSL" + b"\0" * 7 + b"\x019"), "8 trees are said"),
        (
            same_length(b"num_featureSL" + b"\0" * 7 + b"\x016", b"num_featureSL" + b"\0" * 7 + b"\x019"),
            "counts of a tree",
        ),
        (lambda data: re.sub(rb"(base_scoreSL.{8})\[", rb"\1x", data, flags=re.DOTALL), "for a number"),
        (same_length(b"sum_hessian", b"sum_hessiaN"), "sum_hessian' is not there"),
        (same_length(b"categories_nodes", b"categories_sizes"), "there twice"),
        (same_length(b"[#L", b"[#N"), "."),
        (same_length(b"base_weights[$d", b"base_weights[$Z"), "unknown type"),
        (same_length(b"base_weights[$d#L\0", b"base_weights[$d#L\xff"), "longer than the file"),
        (same_length(b"tree_info[#L\0\0", b"tree_info[#L\x7f\0"), "a list of"),
        (same_length(b"version[#L" + b"\0" * 7 + b"\x03i\x03", b"version[#L" + b"\0" * 7 + b"\x03i\x01"), "XGBoost 1"),
    ],
)
def test_booster__of_another_form_is_refused(
    change: Callable[[bytes], bytes], words: str, parts: dict[str, bytes], tmp_path: Path
) -> None:
    changed = change(parts[BOOSTER])
    assert changed != parts[BOOSTER]
    refused(tmp_path, parts | {BOOSTER: changed}, words)


def test_booster__of_another_objective_or_width_is_refused(parts: dict[str, bytes], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for n, parameters, words in (
        (N_FEATURES, {"objective": "reg:squarederror"}, "kind gbtree, reg:squarederror"),
        (N_FEATURES, {"objective": "multi:softprob", "num_class": 3}, "kind gbtree, multi:softprob, 3"),
        (N_FEATURES, {"objective": "binary:logistic", "booster": "dart"}, "value of type 'd'"),
        (N_FEATURES, {"objective": "binary:logistic", "num_parallel_tree": 2}, "trees for 8 rounds"),
        (N_FEATURES + 1, {"objective": "binary:logistic"}, "'7' features, not 6"),
    ):
        label = np.arange(60) % 3 if "num_class" in parameters else np.arange(60) % 2
        booster = xgb.train(parameters, xgb.DMatrix(rng.normal(size=(60, n)), label=label), 8)
        refused(tmp_path, parts | {BOOSTER: bytes(booster.save_raw("ubj"))}, words)


@pytest.mark.parametrize(("depth", "is_refused"), [(64, False), (65, True), (5000, True)])
def test_booster__deeper_than_any_of_ours_is_refused(
    depth: int, is_refused: bool, parts: dict[str, bytes], tmp_path: Path
) -> None:
    """A chain of splits: harmless to predict, but SHAP values take memory by the square of the depth."""
    whole = json.loads(bytes(xgb.Booster(model_file=bytearray(parts[BOOSTER])).save_raw("json")))
    n = 2 * depth + 1  # node 2k splits into the leaf 2k + 1 and node 2k + 2
    inner = [node % 2 == 0 and node < n - 1 for node in range(n)]
    chain = {
        "left_children": [node + 1 if splits else -1 for node, splits in enumerate(inner)],
        "right_children": [node + 2 if splits else -1 for node, splits in enumerate(inner)],
        "parents": [2**31 - 1, *((node - 1) // 2 * 2 for node in range(1, n))],
        "split_conditions": [0.5] * n,
        "sum_hessian": [1.0] * n,
    }
    chain |= {name: [0.0] * n for name in ("base_weights", "loss_changes")}
    chain |= {name: [0] * n for name in ("split_indices", "split_type", "default_left")}
    trees = whole["learner"]["gradient_booster"]["model"]["trees"]
    trees[0] |= chain | {"tree_param": trees[0]["tree_param"] | {"num_nodes": str(n)}}
    deep = bytes(xgb.Booster(model_file=bytearray(json.dumps(whole).encode())).save_raw("ubj"))
    if is_refused:
        refused(tmp_path, parts | {BOOSTER: deep}, "more than 64 levels")
    else:
        (tmp_path / "m.miduck").write_bytes(pack(parts | {BOOSTER: deep}))
        assert load_unified_model(tmp_path / "m.miduck").predict_proba(np.zeros((2, N_FEATURES))).shape == (2, 2)


FLIPS = """
import os, random, sys, warnings
from pathlib import Path
import numpy as np
from mi_duck.archive import pack, read_parts
from mi_duck.ensemble.model_file import load_unified_model
from mi_duck.errors import MiDuckError
np.seterr(over="ignore")
source = read_parts(Path(sys.argv[1]))
rows = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)
counts = {"refused": 0, "finite": 0}
for number in range(int(sys.argv[2])):
    draw = random.Random(number)
    name = draw.choice(sorted(source))
    data = bytearray(source[name])
    for _ in range(draw.choice([1, 1, 2, 8])):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    Path(sys.argv[3]).write_bytes(pack(source | {name: bytes(data)}))
    try:
        probabilities = load_unified_model(sys.argv[3]).predict_proba(rows)
    except MiDuckError as error:
        assert "\\n" not in str(error)
        counts["refused"] += 1
        continue
    assert np.isfinite(probabilities).all() and abs(probabilities.sum(axis=1) - 1).max() < 1e-5, number
    counts["finite"] += 1
print(counts["refused"], counts["finite"])
"""


def test_model__with_flipped_bits_and_a_right_hash_never_crashes(file: Path, tmp_path: Path) -> None:
    """Refused, or finite probabilities that sum to 1; without the check one in six ends the process."""
    done = subprocess.run(
        [sys.executable, "-c", FLIPS, str(file), "400", str(tmp_path / "f.miduck")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    n_refused, n_finite = map(int, done.stdout.split())
    assert n_refused + n_finite == 400
    assert n_refused > 150
    assert n_finite > 5


# ---- facts -----------------------------------------------------------------------------------------------------------

NESTED = b"[" * 1_000_000


def changed(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda facts: facts | values


def of_member(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda facts: facts | {"members": [facts["members"][0] | values, facts["members"][1]]}


def of_calibrator(**values: Any) -> Callable[[dict[str, Any]], Any]:
    def change(facts: dict[str, Any]) -> dict[str, Any]:
        first, second = facts["members"][0]["calibrators"]
        return of_member(calibrators=[first | values, second])(facts)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda facts: [], "not a JSON object"),
        (changed(version=4), "version 4"),
        (changed(kind={}), "holds"),
        (changed(kind="folds"), "not a model to predict with"),
        (changed(features=[]), r"length >= 1 - at \$.features"),
        (changed(features=["a"] * 6), "twice"),
        (changed(features=list(range(6))), r"Expected str, got int - at \$.features"),
        (changed(features="abcdef"), r"Expected array, got str - at \$.features"),
        (changed(features=["a", "b", "c", "d", "e", "\ud800"]), "surrogates"),
        (changed(features=["a", "b"]), "'6' features, not 2"),
        (changed(classes=["x"]), r"length >= 2 - at \$.classes"),
        (changed(classes=[str(n) for n in range(100_000)]), r"length <= 1000 - at \$.classes"),
        (changed(classes=["x", "y", "z"]), "calibrators for 3 classes"),
        (changed(weights=[0.4, 0.7]), "sum to 1.1, not 1"),
        (changed(weights=[-0.5, 1.5]), r"float >= 0.0 - at \$.weights\[0\]"),
        (changed(weights=[1.0]), "2 members and 1 weights"),
        (changed(weights=["0.4", "0.6"]), "Expected float, got str"),
        (changed(weights=[True, False]), "Expected float, got bool"),
        (changed(weights=None), "Expected array, got null"),
        (changed(members=[]), r"length >= 1 - at \$.members"),
        (changed(members=[1, 2]), r"Expected object, got int - at \$.members\[0\]"),
        (changed(voting="loudest"), "voting 'loudest'"),
        (changed(voting=["margin"]), "Expected str, got array"),
        (changed(voting="margin"), "margin voting has 0 calibrators"),
        (changed(thresholds={"x": {"best_f1": "0.5"}}), r"Expected float \| null, got str"),
        (changed(thresholds={"x": {"best_f1": 7}}), r"float <= 1.0 - at \$.thresholds"),
        (changed(thresholds={"other": {}}), "other classes"),
        (changed(thresholds=[1]), "."),
        (changed(n_genes=-1), "int >= 0"),
        (changed(n_genes=10**400), "int <= 4611686018427387904"),
        (changed(n_genes=1.5), "Expected int, got float"),
        (changed(encoding={"sentinel": 1e300, "zero_is_missing": []}), r"at \$.encoding.sentinel"),
        (changed(encoding={"sentinel": "x", "zero_is_missing": []}), r"Expected float \| null, got str"),
        (changed(encoding={"sentinel": None, "zero_is_missing": ["other"]}), "not a feature"),
        (changed(encoding=None), "Expected object, got null"),
        (of_member(rounds=[8]), "rounds of 1 boosters"),
        (of_member(rounds=[8, 10**9]), "8 trees for 1,000,000,000 rounds"),
        (of_member(n_rows=None), "Expected int, got null"),
        (of_member(calibrators=[]), "0 calibrators for 2 classes"),
        (of_calibrator(method="pickle"), "calibration 'pickle'"),
        (of_calibrator(slope=10**101), "slope"),
        (of_calibrator(margins=[0.0, -1.0, 2.0]), "the margins of a calibrator fall"),
        (of_calibrator(probabilities=[0.9, 0.5, 0.1]), "the probabilities of a calibrator fall"),
        (of_calibrator(probabilities=[0.1, 0.5, 1.1]), r"float <= 1.0 - at .*probabilities\[2\]"),
        (of_calibrator(probabilities=[0.1]), "without a value"),
        (of_calibrator(margins=[], probabilities=[]), "steps of calibration"),
        (of_calibrator(method="none"), "steps of calibration"),
    ],
)
def test_facts__that_no_model_has_are_refused(
    change: Callable[[dict[str, Any]], Any], words: str, parts: dict[str, bytes], tmp_path: Path
) -> None:
    facts = change(json.loads(parts["model.json"]))
    refused(tmp_path, parts | {"model.json": json.dumps(facts).encode()}, words)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"", NESTED, "not a model that mi_duck wrote"),
        (b'"n_genes": 9', b'"n_genes": 9, "n_genes": 8', "stands twice"),
        (b'"best_f1": 0.5', b'"best_f1": NaN', "holds NaN"),
        (b'"best_f1": 0.5', b'"best_f1": -Infinity', "holds -Infinity"),
        (b'"best_f1": 0.5', b'"best_f1": 1e999', "holds 1e999, which is not a number"),
        (b'"n_genes": 9', b'"n_genes": ' + b"9" * 5000, "digits"),
        (b'"kind"', b"'kind'", "property name"),
        (b'"kind"', b'"\xff"', "decode"),
    ],
)
def test_facts__that_are_hostile_json_are_refused(
    old: bytes, new: bytes, words: str, parts: dict[str, bytes], tmp_path: Path
) -> None:
    text = parts["model.json"].replace(old, new, 1)
    assert text != parts["model.json"]
    refused(tmp_path, parts | {"model.json": text}, words)


def test_model__with_parts_too_many_or_too_few_is_refused(parts: dict[str, bytes], tmp_path: Path) -> None:
    refused(tmp_path, parts | {"../../evil": b"x"}, "8 parts are not those of 4 boosters")
    refused(tmp_path, {name: data for name, data in parts.items() if name != BOOSTER}, "6 parts are not those of 4")
    refused(
        tmp_path, {name: data for name, data in parts.items() if name != "genes_1.bin"}, "6 parts are not those of 4"
    )
    refused(tmp_path, {}, "not a model that mi_duck wrote")


@pytest.mark.parametrize(
    ("keys", "facts", "words"),
    [
        (b"12345678" * 4, {}, "32 bytes for the keys of 5 genes"),
        (b"12345678", {"gene_column": None}, "8 bytes for the keys of 0 genes"),
        (bytes(range(40, 0, -1)), {}, "keys of its genes fall"),
        (bytes(40), {"incomplete_features": ["other"]}, "incomplete_features names what is not a feature"),
        (bytes(40), {"gene_column": 7}, r"Expected str \| null, got int"),
    ],
)
def test_model__that_says_odd_things_of_its_training_is_refused(
    keys: bytes, facts: dict[str, Any], words: str, parts: dict[str, bytes], tmp_path: Path
) -> None:
    text = json.dumps(of_member(**facts)(json.loads(parts["model.json"]))).encode()
    refused(tmp_path, parts | {"model.json": text, "genes_0.bin": keys}, words)


def test_model__names_with_odd_letters_are_names(tmp_path: Path) -> None:
    one = model()
    names = ("<script>", "a\nb", "[x]<", "\u202eabc", '"; drop table', "")
    members = tuple(
        InstanceModel(names, one.classes, m.boosters, m.calibrators, m.metadata, m.encoding) for m in one.members
    )
    save_model(tmp_path / "m.miduck", ConsolidatedMetaModel(members, one.weights, one.voting, one.thresholds, 9))
    assert load_unified_model(tmp_path / "m.miduck").features == names


def test_unpack__a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """Half a gigabyte of zeros in some 16 kB, with a header that says so."""
    n = 512 << 20
    chunk = zstandard.ZstdCompressor(level=3).compressobj(size=n)
    body = b"".join(chunk.compress(bytes(1 << 20)) for _ in range(512)) + chunk.flush()
    header = json.dumps({"format": 1, "parts": [["model.json", n]]}).encode()
    rest = len(header).to_bytes(8, "little") + header + body
    (tmp_path / "b.miduck").write_bytes(MAGIC + hashlib.sha256(rest).digest() + rest)
    assert (tmp_path / "b.miduck").stat().st_size < 100_000
    with pytest.raises(CheckpointError, match="contradict each other"):
        load_unified_model(tmp_path / "b.miduck")


def test_load_unified_model__reads_no_pipe_and_no_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.miduck")
    os.mkfifo(tmp_path / "pipe.pkl")
    for path in (tmp_path / "pipe.miduck", tmp_path / "pipe.pkl", Path("/dev/zero")):
        with pytest.raises(CheckpointError, match="not an ordinary file"):
            load_unified_model(path)


def test_model__loads_and_predicts_where_pickle_cannot_load(file: Path) -> None:
    """In a fresh process whose pickle raises, whoever imports it."""
    code = """
import pickle, _pickle, sys
def no(*arguments, **options): raise AssertionError("pickle was used")
for module in (pickle, _pickle):
    module.loads = module.load = module.Unpickler = no
import numpy as np
from mi_duck.ensemble.model_file import load_unified_model
print(load_unified_model(sys.argv[1]).predict_proba(np.zeros((3, 6), dtype=np.float32)).shape)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout == "(3, 2)\n"


# ---- queries ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("catalogue") / "run.duckdb"
    with Database(path) as db:
        db.load("one", pa.table({"a": [1]}))
    return path


@pytest.mark.parametrize(
    "query",
    [
        "copy (select 1) to '/dev/stdout'",
        "from read_blob('/etc/passwd')",
        "from '/etc/passwd'",
        "from 'http://localhost/a.parquet'",
        "from read_parquet('https://localhost/a.parquet')",
        "from read_parquet('s3://a/b.parquet')",
        "from sniff_csv('/etc/passwd')",
        "from parquet_metadata('/etc/passwd')",
        "import database '/tmp'",
        "pragma memory_limit='10GB'",
        "set temp_directory='/tmp'",
        "set lock_configuration = false",
        "set file_search_path='/etc'",
        "call enable_logging(storage='file', storage_config={'path':'/tmp/log'})",
        "pragma enable_profiling",
        "create secret s (type s3)",
        "create macro f() as 1",
        "update extensions",
        "attach ':memory:' as other",
        "select 1; attach 'other.duckdb'",
        "from catalogue",
        "from sys",
    ],
)
def test_query__that_reaches_out_of_the_catalogue_is_refused_in_one_line(query: str, catalogue: Path) -> None:
    with Database(catalogue, read_only=True) as db:
        with pytest.raises(DataError) as refusal:
            db.query(query)
        assert "\n" not in str(refusal.value)


def test_query__too_large_for_memory_ends_and_writes_nothing(catalogue: Path) -> None:
    """DuckDB alone would write up to 90 % of the disk beside a file that it opened to read."""
    with Database(catalogue, read_only=True, memory_bytes=64 << 20) as db:
        with pytest.raises(MemoryBudgetError, match="more memory than DuckDB may use"):
            db.query(
                "select count(*) from (select * from range(9000000) t(a) order by hash(a)) having count(distinct a) > 1"
            )
        assert [entry.name for entry in catalogue.parent.iterdir()] == ["run.duckdb"]
        assert db.query("from one")[1] == [(1,)]


def test_query__of_endless_rows_is_refused(catalogue: Path) -> None:
    with Database(catalogue, read_only=True) as db, pytest.raises(DataError, match="more than 2,000,000 rows"):
        db.query("from range(100000000000)")


# ---- names in everything that is written -------------------------------------------------------------------------------

EVIL = (
    "=cmd|' /C calc'!A0",
    "@SUM(A1)",
    "+1+1",
    "-2",
    "<script>alert(1)</script>",
    "</style><img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    "\u202egene\u202c",
    '"><svg onload=alert(2)>',
    "'; drop table genes; --",
    "$seed",
    "a\nb",
    "{{ 7 * 7 }}",
    "\x1b[31mred",
)


class Page(HTMLParser):
    """Collects what could run or load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, ...]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Look at a tag and its attributes."""
        if tag in {"script", "img", "iframe", "link", "object", "embed", "form", "base", "foreignobject"}:
            self.found.append((tag,))
        for name, value in attributes:
            is_inside = tag == "a" and re.fullmatch(r"[A-Za-z0-9_]+(/?[\w.-]+)*/?", value or "")  # a file of the run
            if name.startswith("on") or (
                name in {"href", "src"} and not (value or "").startswith("#") and not is_inside
            ):
                self.found.append((tag, name, str(value)))


def test_run__of_hostile_names_is_harmless_in_report_tables_and_catalogue(
    synthetic: Callable[..., Path], tmp_path: Path
) -> None:
    """Genes, features, classes and the folder of the data have names that a browser, a spreadsheet or SQL would run."""
    table = pq.read_table(next(synthetic(n_genes=30, rows_per_gene=60).rglob("*.parquet")))
    genes = sorted(set(table["gene_id"].to_pylist()))
    names = dict(zip(genes, EVIL, strict=False))
    table = table.set_column(
        table.column_names.index("gene_id"),
        "gene_id",
        pa.array([names.get(g, g) for g in table["gene_id"].to_pylist()]),
    )
    classes = {"donor": "=<b onclick=x()>don", "acceptor": "'acc\""}
    labels = [classes.get(label, label) for label in table["splice_type"].to_pylist()]
    table = table.set_column(table.column_names.index("splice_type"), "splice_type", pa.array(labels))
    features = [name for name in table.column_names if name.startswith(("signal", "noise", "3mer", "5mer"))]
    renamed = dict(zip(features, EVIL, strict=False))
    table = table.rename_columns([renamed.get(name, name) for name in table.column_names])
    data = tmp_path / "<script>alert('data')"
    data.mkdir()
    pq.write_table(table, data / "part $1.parquet")
    run = tmp_path / "run"
    options = (
        "--n-estimators",
        "4",
        "--max-depth",
        "3",
        "--n-folds",
        "2",
        "--skip-shap",
        "--classes",
        "neither,=<b onclick=x()>don,'acc\"",
    )
    here("run", data, "--out", run, *options)
    text = (run / "report.html").read_text(encoding="utf-8")
    assert Page(text).found == []
    assert "default-src 'none'" in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    for file in run.rglob("*.svg"):
        assert Page(file.read_text(encoding="utf-8")).found == [], file
    for file in run.rglob("*.csv"):
        with file.open(encoding="utf-8", newline="") as lines:
            for cell in (cell for line in csv.reader(lines) for cell in line):
                assert cell[:1] not in ("=", "+", "@", "\t", "\r"), (file, cell)
                assert cell[:1] != "-" or cell[1:2].isdigit() or cell[1:] in ("inf", "nan"), (file, cell)
    with Database(run / "run.duckdb", read_only=True) as db:
        assert {*EVIL} <= {row[0] for row in db.query("select gene_id from genes")[1]}
        assert {row[0] for row in db.query("select distinct class from metrics")[1]} >= {*classes.values(), "neither"}


def test_write_csv__guards_names_of_columns_and_reads_them_back(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", [{"=x": "=y", "b": -1.5}])
    assert (tmp_path / "a.csv").read_text() == "'=x,b\n'=y,-1.5\n"
    assert [unguarded(text) for text in ("'=x", "'x", "=x", "")] == ["=x", "'x", "=x", ""]


# ---- folders ---------------------------------------------------------------------------------------------------------


def test_remove__of_a_linked_folder_leaves_what_it_points_to(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "manifest.json").write_text("precious")
    (tmp_path / "instance_00").symlink_to(outside)
    _remove(tmp_path / "instance_00")
    assert not (tmp_path / "instance_00").exists()
    assert (outside / "manifest.json").read_text() == "precious"


def test_write_file__through_a_link_replaces_the_link_and_obeys_the_umask(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("precious")
    (tmp_path / "plan.json").symlink_to(tmp_path / "outside")
    before = os.umask(0o077)
    try:
        checkpoint.write_file(tmp_path / "plan.json", b"{}")
    finally:
        os.umask(before)
    assert not (tmp_path / "plan.json").is_symlink()
    assert (tmp_path / "outside").read_text() == "precious"
    assert (tmp_path / "plan.json").stat().st_mode & 0o777 == 0o600
