"""A model as one ONNX graph, from rows to probabilities.

Missing values and calibration are part of the graph, in double precision as in `mi_duck.ensemble.model`. XGBoost adds
a booster's trees to its intercept one after the other in single precision; the graph holds the intercept as a first tree
of one leaf, so that a runtime that adds in the same order gets the same bits. That matters where an isotonic calibrator
has a steep step: a margin that differs in its last bit may fall on the other side of it.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from mi_duck.ensemble.model import ConsolidatedMetaModel
from mi_duck.errors import CheckpointError, DataError
from mi_duck.metrics.calibrate import LEAST, Calibrator

OPSET = 17
ML_OPSET = 3
IR_VERSION = 9
NEEDED = "it needs the packages onnx and onnxruntime: pip install 'mi-duck[onnx]'"


def onnx_bytes(model: ConsolidatedMetaModel) -> bytes:
    """Return an ONNX model of any voting, with input ``rows`` and outputs ``probabilities`` and ``label``.

    Returns
    -------
    bytes
        ``rows`` is float32 of shape (n_rows, n_features), NaN where a value is missing; ``probabilities`` float32 of shape
        (n_rows, n_classes); ``label`` the index of the most probable class. Names of features and classes are in its
        metadata as JSON.

    Raises
    ------
    DataError
        The package onnx is absent.
    """
    try:
        from onnx import TensorProto, helper
    except ImportError as error:
        raise DataError(f"--format onnx: {NEEDED}") from error
    graph = _Graph(helper, TensorProto)
    n_classes = len(model.classes)
    rows = _encoded(graph, model)
    attributes = _trees(model.get_base_models())
    graph.node("TreeEnsembleRegressor", [rows], "margins32", domain="ai.onnx.ml", **attributes)
    graph.node("Cast", ["margins32"], "margins", to=TensorProto.DOUBLE)
    margins = [
        [_column(graph, member * n_classes + index) for index in range(n_classes)]
        for member in range(len(model.members))
    ]
    if model.is_additive:
        joined = [_mean(graph, of_class, model.weights) for of_class in zip(*margins, strict=True)]
        # as in the model, whose mean is in single precision
        joined = [graph.node("Cast", [one], to=TensorProto.FLOAT) for one in joined]
        joined = [graph.node("Cast", [one], to=TensorProto.DOUBLE) for one in joined]
        mean = _probabilities(graph, joined, model.calibrators)
    else:
        pairs = zip(margins, model.members, strict=True)
        votes = [_probabilities(graph, one, member.calibrators) for one, member in pairs]
        mean = _mean(graph, votes, model.weights)
        if model.calibrators:
            mean = _probabilities(graph, _log_odds(graph, mean, n_classes), model.calibrators)
    graph.node("Cast", [mean], "probabilities", to=TensorProto.FLOAT)
    graph.node("ArgMax", ["probabilities"], "label", axis=1, keepdims=0)
    made = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "mi_duck",
            [helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None, len(model.features)])],
            [
                helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, n_classes]),
                helper.make_tensor_value_info("label", TensorProto.INT64, [None]),
            ],
            graph.constants,
        ),
        producer_name="mi_duck",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)],
    )
    helper.set_model_props(made, {"features": json.dumps(model.features), "classes": json.dumps(model.classes)})
    return bytes(made.SerializeToString(deterministic=True))


def onnx_probabilities(data: bytes, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probabilities that onnxruntime computes with one thread.

    Raises
    ------
    DataError
        The package onnxruntime is absent.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise DataError(f"--format onnx: {NEEDED}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run(["probabilities"], {"rows": rows})[0]
    return found


class _Graph:
    """Collects nodes and constants and names them."""

    def __init__(self, helper: Any, kinds: Any) -> None:
        self._helper = helper
        self._kinds = {"float32": kinds.FLOAT, "float64": kinds.DOUBLE, "int64": kinds.INT64, "bool": kinds.BOOL}
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, kind: str, inputs: Sequence[str], name: str = "", *, domain: str = "", **attributes: Any) -> str:
        """Add an operation of one output and return the output's name."""
        name = name or f"n{len(self.nodes)}"
        self.nodes.append(self._helper.make_node(kind, list(inputs), [name], domain=domain, **attributes))
        return name

    def constant(self, values: NDArray[Any]) -> str:
        """Add a constant and return its name."""
        name = f"c{len(self.constants)}"
        kind = self._kinds[values.dtype.name]
        self.constants.append(self._helper.make_tensor(name, kind, values.shape, values.ravel().tolist()))
        return name


def _encoded(graph: _Graph, model: ConsolidatedMetaModel) -> str:
    """Apply what counts as missing: see `mi_duck.run.encoding`."""
    encoding = model.members[0].encoding
    if encoding.sentinel is not None:
        is_missing = graph.node("IsNaN", ["rows"])
        return graph.node("Where", [is_missing, graph.constant(np.array(encoding.sentinel, dtype=np.float32)), "rows"])
    if encoding.zero_is_missing:
        mask = graph.constant(encoding.loses_zeros(model.features)[np.newaxis])
        is_zero = graph.node("Equal", ["rows", graph.constant(np.array(0, dtype=np.float32))])
        missing = graph.constant(np.array(np.nan, dtype=np.float32))
        return graph.node("Where", [graph.node("And", [is_zero, mask]), missing, "rows"])
    return "rows"


def _column(graph: _Graph, index: int) -> str:
    return graph.node("Gather", ["margins", graph.constant(np.array([index], dtype=np.int64))], axis=1)


def _mean(graph: _Graph, values: Sequence[str], weights: Sequence[float]) -> str:
    pairs = zip(values, weights, strict=True)
    return graph.node("Sum", [graph.node("Mul", [value, graph.constant(np.array(weight))]) for value, weight in pairs])


def _probabilities(graph: _Graph, margins: Sequence[str], calibrators: Sequence[Calibrator]) -> str:
    """Turn one column of margins per class into probabilities whose rows sum to 1."""
    columns = [_calibrated(graph, margin, one) for margin, one in zip(margins, calibrators, strict=True)]
    scores = graph.node("Concat", columns, axis=1)
    total = graph.node("ReduceSum", [scores, graph.constant(np.array([1], dtype=np.int64))], keepdims=1)
    return graph.node("Div", [scores, total])


def _log_odds(graph: _Graph, probabilities: str, n_classes: int) -> list[str]:
    """Turn probabilities into a column of log(p / (1 - p)) per class; see `mi_duck.metrics.calibrate.log_odds`."""
    kept = graph.node("Clip", [probabilities, graph.constant(np.array(LEAST)), graph.constant(np.array(1 - LEAST))])
    rest = graph.node("Sub", [graph.constant(np.array(1.0)), kept])
    odds = graph.node("Log", [graph.node("Div", [kept, rest])])
    columns = range(n_classes)
    return [graph.node("Gather", [odds, graph.constant(np.array([one], dtype=np.int64))], axis=1) for one in columns]


def _calibrated(graph: _Graph, margin: str, calibrator: Calibrator) -> str:
    """Turn a column of margins into probabilities: see `mi_duck.metrics.calibrate.Calibrator.apply`."""
    if calibrator.method == "isotonic":
        x, y = np.array(calibrator.margins), np.array(calibrator.probabilities)
        if len(x) == 1:  # one step is a constant
            x, y = np.array([x[0], x[0] + 1]), np.repeat(y, 2)
        width = np.diff(x)
        # linear between the steps, constant outside: the distance inside each interval times the slope there
        ahead = graph.node("Sub", [margin, graph.constant(x[None, :-1])])
        inside = graph.node("Max", [ahead, graph.constant(np.array(0.0))])
        inside = graph.node("Min", [inside, graph.constant(width[None])])
        rise = graph.node("MatMul", [inside, graph.constant((np.diff(y) / width)[:, None])])
        raw = graph.node("Add", [rise, graph.constant(y[:1])])
    else:
        scaled = graph.node("Mul", [margin, graph.constant(np.array(calibrator.slope))])
        raw = graph.node("Sigmoid", [graph.node("Add", [scaled, graph.constant(np.array(calibrator.intercept))])])
    return graph.node("Clip", [raw, graph.constant(np.array(LEAST)), graph.constant(np.array(1 - LEAST))])


def _trees(boosters: Sequence[xgb.Booster]) -> dict[str, Any]:
    """Return the attributes of one TreeEnsembleRegressor with an output for each booster."""
    nodes: dict[str, list[Any]] = defaultdict(list)
    leaves: dict[str, list[Any]] = defaultdict(list)
    n_trees = 0
    for output, booster in enumerate(boosters):
        model = json.loads(bytes(booster.save_raw("json")))["learner"]
        if model["gradient_booster"]["name"] != "gbtree" or model["objective"]["name"] != "binary:logistic":
            raise CheckpointError("only trees with the objective binary:logistic can become ONNX")
        probability = np.float32(model["learner_model_param"]["base_score"].strip("[]"))
        intercept = {"left_children": [-1], "right_children": [-1], "split_indices": [0], "default_left": [0]}
        # XGBoost computes the margin of its intercept with the same operations in single precision
        intercept |= {"split_conditions": [-np.log(np.float32(1) / probability - np.float32(1))]}
        for tree in (intercept, *model["gradient_booster"]["model"]["trees"]):
            _add_tree(nodes, leaves, tree, n_trees, output)
            n_trees += 1
    attributes = {f"nodes_{name}": values for name, values in nodes.items()}
    attributes |= {f"target_{name}": values for name, values in leaves.items()}
    return attributes | {"n_targets": len(boosters), "aggregate_function": "SUM", "post_transform": "NONE"}


def _add_tree(
    nodes: dict[str, list[Any]], leaves: dict[str, list[Any]], tree: dict[str, Any], number: int, output: int
) -> None:
    for node, left in enumerate(tree["left_children"]):
        is_leaf = left == -1
        facts = {
            "treeids": number,
            "nodeids": node,
            "featureids": 0 if is_leaf else tree["split_indices"][node],
            "values": 0.0 if is_leaf else float(tree["split_conditions"][node]),
            "modes": "LEAF" if is_leaf else "BRANCH_LT",
            "truenodeids": 0 if is_leaf else left,
            "falsenodeids": 0 if is_leaf else tree["right_children"][node],
            "missing_value_tracks_true": 0 if is_leaf else int(tree["default_left"][node]),
        }
        for name, value in facts.items():
            nodes[name].append(value)
        if is_leaf:
            value = float(tree["split_conditions"][node])
            for name, fact in (("treeids", number), ("nodeids", node), ("ids", output), ("weights", value)):
                leaves[name].append(fact)
