"""TabNet as it is after training: arrays, which predict by NumPy alone, taken from the network of pytorch-tabnet.

Normalisation by batches is a fixed scale and shift once training is over, and is multiplied into the layer before it. Each step
chooses columns by a mask (sparsemax of what the step before said, times how little a column was used so far), and passes the
masked row through gated linear units; the sum of what the steps found gives the scores of the classes.

References
----------
Arik and Pfister, TabNet: attentive interpretable tabular learning (AAAI 2021). Sparsemax: Martins and Astudillo, From softmax to
sparsemax (ICML 2016). The network that is trained is `pytorch_tabnet.tab_network.TabNetNoEmbeddings`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

from mi_duck.classifiers.arrays import array_bytes, read_array
from mi_duck.metrics.calibrate import logistic, softmax
from mi_duck.metrics.ranking import Floats32, Floats64

TABNET = "tabnet"
ROWS_AT_ONCE = 2048
EPSILON = 1e-5  # of PyTorch's batch normalisation
HALF = np.sqrt(0.5)

Layer = tuple[Floats32, Floats32]
"""Weights of shape (n_outputs, n_inputs) and intercepts of shape (n_outputs,)."""


@dataclass(frozen=True, slots=True)
class TabNet:
    """A TabNet without embeddings.

    Parameters
    ----------
    scale, shift
        Of each column, shape (n_columns,).
    blocks
        Gated layers of the part before the first step, and of each step; the first half of the outputs of each block's last one
        goes to the classes, the other to the next mask.
    masks
        One layer per step, from the second half to the columns.
    output
        Weights from the first half to the classes, shape (n_classes, width).
    gamma
        How often a column may be used: 1 for once.
    """

    scale: Floats32
    shift: Floats32
    blocks: tuple[tuple[Layer, ...], ...]
    masks: tuple[Layer, ...]
    output: Floats32
    gamma: float
    form: str = field(default=TABNET, init=False)

    def probabilities(self, prepared: Floats32) -> Floats64:
        """Return probabilities of prepared rows, shape (n_rows, n_classes)."""
        found = np.empty((len(prepared), len(self.output)))
        for begin in range(0, len(prepared), ROWS_AT_ONCE):
            rows = slice(begin, begin + ROWS_AT_ONCE)
            found[rows] = softmax(self._scores(prepared[rows]))
        return found

    def _scores(self, prepared: Floats32) -> Floats64:
        width = self.output.shape[1]
        x = prepared.astype(np.float64) * self.scale + self.shift
        prior = np.ones_like(x)
        found = np.zeros((len(x), width))
        attention = _gated(x, self.blocks[0])[:, width:]
        for mask_layer, block in zip(self.masks, self.blocks[1:], strict=True):
            mask = sparsemax(_linear(attention, mask_layer) * prior)
            prior *= self.gamma - mask
            values = _gated(mask * x, block)
            found += np.maximum(values[:, :width], 0)
            attention = values[:, width:]
        scores: Floats64 = found @ self.output.T.astype(np.float64)
        return scores

    def parts(self) -> dict[str, bytes]:
        """Return the arrays as bytes."""
        layers = {f"block_{n}_{m}": layer for n, block in enumerate(self.blocks) for m, layer in enumerate(block)}
        layers |= {f"mask_{n}": layer for n, layer in enumerate(self.masks)}
        arrays = {"column_scale": self.scale, "column_shift": self.shift, "output": self.output}
        arrays["gamma"] = np.array([self.gamma])
        for name, (weights, intercepts) in layers.items():
            arrays |= {f"{name}_weights": weights, f"{name}_intercepts": intercepts}
        return {f"{name}.npy": array_bytes(array) for name, array in arrays.items()}

    @classmethod
    def of_parts(cls, parts: Mapping[str, bytes], n_columns: int, n_classes: int) -> "TabNet":
        """Read what `parts` gave; a `ValueError` or `KeyError` where it is not of so many columns and classes."""
        scale, shift = (
            read_array(parts[f"column_{name}.npy"], np.float32, (n_columns,)) for name in ("scale", "shift")
        )
        output = read_array(parts["output.npy"], np.float32, (n_classes, None))
        (gamma,) = read_array(parts["gamma.npy"], np.float64, (1,))
        masks = tuple(_numbered(parts, "mask", [output.shape[1]], n_columns))
        blocks = tuple(
            tuple(_numbered(parts, f"block_{n}", [n_columns, 2 * output.shape[1]], 4 * output.shape[1]))
            for n in range(len(masks) + 1)
        )
        if not masks or not all(blocks):
            raise ValueError("a TabNet without steps")
        return cls(scale, shift, blocks, masks, output, float(gamma))


def _numbered(parts: Mapping[str, bytes], name: str, n_inputs: list[int], n_outputs: int) -> Iterator[Layer]:
    """Yield the layers of a name, the first with the first number of inputs, all others with the last."""
    for number in count():
        if f"{name}_{number}_weights.npy" not in parts:
            return
        inputs = n_inputs[min(number, len(n_inputs) - 1)]
        weights = read_array(parts[f"{name}_{number}_weights.npy"], np.float32, (n_outputs, inputs))
        yield weights, read_array(parts[f"{name}_{number}_intercepts.npy"], np.float32, (n_outputs,))


def _linear(values: Floats64, layer: Layer) -> Floats64:
    weights, intercepts = layer
    found: Floats64 = values @ weights.T.astype(np.float64) + intercepts
    return found


def _gated(values: Floats64, block: tuple[Layer, ...]) -> Floats64:
    """Return what gated linear units make of values; from the second on half of the variance is what came in."""
    for number, layer in enumerate(block):
        both = _linear(values, layer)
        width = both.shape[1] // 2
        found = both[:, :width] * logistic(both[:, width:])
        values = found if number == 0 else (values + found) * HALF
    return values


def sparsemax(scores: Floats64) -> Floats64:
    """Return the point of the simplex that is nearest to each row of scores.

    Examples
    --------
    >>> sparsemax(np.array([[2.0, 1.5, 0.0]]))
    array([[0.75, 0.25, 0.  ]])
    """
    ordered = -np.sort(-scores, axis=1)
    over = np.cumsum(ordered, axis=1) - 1
    size = (ordered * np.arange(1, scores.shape[1] + 1) > over).sum(axis=1, keepdims=True)
    found: Floats64 = np.maximum(scores - np.take_along_axis(over, size - 1, axis=1) / size, 0)
    return found


def tabnet_of(network: Any, gamma: float) -> TabNet:
    """Return a `pytorch_tabnet.tab_network.TabNetNoEmbeddings` as arrays, as it predicts when training is over."""
    encoder = network.encoder
    scale, shift = _normalisation(encoder.initial_bn)
    transformers = [encoder.initial_splitter, *encoder.feat_transformers]
    blocks = tuple(
        tuple(_folded(layer) for block in (one.shared, one.specifics) for layer in block.glu_layers)
        for one in transformers
    )
    masks = tuple(_folded(one) for one in encoder.att_transformers)
    return TabNet(
        scale.astype(np.float32),
        shift.astype(np.float32),
        blocks,
        masks,
        _array(network.final_mapping.weight).astype(np.float32),
        gamma,
    )


def _folded(part: Any) -> Layer:
    """Return a layer ``fc`` with the normalisation after it."""
    scale, shift = _normalisation(part.bn.bn)
    return (scale[:, None] * _array(part.fc.weight)).astype(np.float32), shift.astype(np.float32)


def _normalisation(layer: Any) -> tuple[Floats64, Floats64]:
    """Return scale and shift of a batch normalisation."""
    weight, bias, mean, variance = (
        _array(one) for one in (layer.weight, layer.bias, layer.running_mean, layer.running_var)
    )
    scale = weight / np.sqrt(variance + EPSILON)
    return scale, bias - mean * scale


def _array(tensor: Any) -> Floats64:
    found: Floats64 = tensor.detach().cpu().numpy().astype(np.float64)
    return found
