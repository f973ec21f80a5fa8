"""A model knows its genes by their ids alone, and says where it does not know."""

import hashlib

from mi_duck.run.training_data import KEY_BYTES, TrainingData, joined, training_data


def test_training_data__knows_its_genes_and_no_others() -> None:
    ids = [f"gene {number}" for number in range(5000)]
    one = training_data("gene", ids[:2500], ["x"])
    assert one.has_gene(ids).tolist() == [True] * 2500 + [False] * 2500
    assert one.has_gene([]).tolist() == []
    assert len(one.gene_keys) == KEY_BYTES * 2500


def test_training_data__does_not_depend_on_the_order_of_genes() -> None:
    """A key is the first 8 bytes of the SHA-256 of the id, as a little-endian number."""
    ids = ["b", "\u03b2-globin", "a", "", "\ud800"]
    one = training_data("gene", ids, [])
    assert one == training_data("gene", ids[::-1], [])
    keys = [int.from_bytes(one.gene_keys[begin : begin + 8], "little") for begin in range(0, 40, 8)]
    assert keys == sorted(keys)
    assert int.from_bytes(hashlib.sha256(b"a").digest()[:8], "little") in keys


def test_joined__has_the_genes_of_any_member_once() -> None:
    """Members share b; a feature that has a missing value in one member has been missing."""
    one, other = training_data("gene", ["a", "b"], ["x"]), training_data("gene", ["b", "c"], ["y", "x"])
    both = joined([one, other])
    assert both == training_data("gene", ["a", "b", "c"], ["x", "y"])
    assert joined([one]) == one


def test_joined__knows_nothing_where_one_member_says_nothing() -> None:
    assert joined([training_data("gene", ["a"], []), TrainingData()]) == TrainingData()
    some, others = training_data("gene", ["a"], [], ["x", "y"]), TrainingData(unused_features=("y", "z"))
    assert joined([some, some]).unused_features == ("x", "y")
    assert joined([some, others]) == TrainingData(unused_features=("x", "y", "z"))
