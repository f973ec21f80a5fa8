"""How each kind of classifier learns: from blocks of prepared rows, again and again, or from one array of all of them.

A learner is asked for one batch at a time; what it knows at the best epoch is kept beside, and is what it gives in the end.
"""

import copy
import warnings
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mi_duck.classifiers.estimators import NETWORKS, Estimator, made_by
from mi_duck.classifiers.fitted import ONE_AGAINST_REST, SOFTMAX, Fitted, Linear, Own, Perceptron
from mi_duck.classifiers.tabnet import tabnet_of
from mi_duck.metrics.ranking import Floats32, Floats64
from mi_duck.processes import Say

BATCH_ROWS = 1024


class Learner(Protocol):
    """A classifier that learns from batches of rows."""

    batch_rows: int

    def learn(self, x: Floats32, y: NDArray[np.int64], weight: Floats32) -> None:
        """Learn from one batch."""

    def fitted(self) -> Fitted:
        """Return what it knows now; learning more does not change it."""


class SgdLearner:
    """Logistic regressions, one against the rest, by stochastic gradient descent (scikit-learn).

    Its weights are not averaged: over several calls of ``partial_fit`` scikit-learn's average got worse with every epoch.
    """

    batch_rows = BATCH_ROWS

    def __init__(self, options: dict[str, Any], n_classes: int, seed: int) -> None:
        from sklearn.linear_model import SGDClassifier

        # blocks come in random order already
        self._model = SGDClassifier(
            loss="log_loss",
            alpha=options["alpha"],
            learning_rate="invscaling",
            eta0=options["eta0"],
            power_t=0.25,
            shuffle=False,
            random_state=seed,
        )
        self._classes = np.arange(n_classes)

    def learn(self, x: Floats32, y: NDArray[np.int64], weight: Floats32) -> None:
        """Learn from one batch."""
        self._model.partial_fit(x, y, classes=self._classes, sample_weight=weight.astype(np.float64))

    def fitted(self) -> Fitted:
        """Return its weights."""
        return linear_of(self._model, ONE_AGAINST_REST)


class NetworkLearner:
    """A network of PyTorch that learns from the weighted log loss of each batch; a base for the two below."""

    longest_gradient = float("inf")  # longer ones are cut

    def __init__(self, network: Any, optimiser: Any, batch_rows: int, device: str) -> None:
        self.batch_rows = batch_rows
        self._network, self._optimiser, self._device = network, optimiser, device

    def learn(self, x: Floats32, y: NDArray[np.int64], weight: Floats32) -> None:
        """Take one step."""
        import torch

        rows, label, weights = (torch.from_numpy(one).to(self._device) for one in (x, y, weight))
        self._network.train()
        scores, penalty = self._scores(rows)
        losses = torch.nn.functional.cross_entropy(scores, label, reduction="none")
        loss = (losses * weights).sum() / weights.sum() + penalty
        self._optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), self.longest_gradient)
        self._optimiser.step()

    def _scores(self, rows: Any) -> tuple[Any, Any]:
        """Return the scores of the classes, and what is added to the loss."""
        return self._network(rows), 0.0


class PerceptronLearner(NetworkLearner):
    """A perceptron with hidden layers, by PyTorch: AdamW, dropout after each hidden layer."""

    def __init__(self, options: dict[str, Any], n_columns: int, n_classes: int, seed: int, device: str) -> None:
        torch = seeded_torch(seed)
        sizes = (n_columns, *options["hidden"], n_classes)
        layers: list[Any] = []
        for width, next_width in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [torch.nn.Linear(width, next_width), torch.nn.ReLU(), torch.nn.Dropout(options["dropout"])]
        network = torch.nn.Sequential(*layers[:-2]).to(device)
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=options["learning_rate"], weight_decay=options["weight_decay"]
        )
        super().__init__(network, optimiser, options["batch_rows"], device)

    def fitted(self) -> Fitted:
        """Return its layers."""
        found = [one.detach().cpu().numpy().copy() for one in self._network.parameters()]
        return Perceptron(tuple(zip(found[::2], found[1::2], strict=True)))


class TabNetLearner(NetworkLearner):
    """The TabNet of pytorch-tabnet with its own way to learn (Adam, a penalty on masks that are not sparse), on our batches."""

    longest_gradient = 1.0

    def __init__(self, options: dict[str, Any], n_columns: int, n_classes: int, seed: int, device: str) -> None:
        torch = seeded_torch(seed)
        from pytorch_tabnet.tab_network import TabNetNoEmbeddings

        self._gamma, self._sparsity = options["gamma"], options["sparsity"]
        network = TabNetNoEmbeddings(
            n_columns,
            n_classes,
            n_d=options["width"],
            n_a=options["width"],
            n_steps=options["steps"],
            gamma=self._gamma,
            group_attention_matrix=torch.eye(n_columns).to(device),
        ).to(device)
        optimiser = torch.optim.Adam(network.parameters(), lr=options["learning_rate"])
        super().__init__(network, optimiser, options["batch_rows"], device)

    def learn(self, x: Floats32, y: NDArray[np.int64], weight: Floats32) -> None:
        """Take one step; a single row has no variance to be normalised by."""
        if len(x) > 1:
            super().learn(x, y, weight)

    def _scores(self, rows: Any) -> tuple[Any, Any]:
        scores, negative_entropy = self._network(rows)
        return scores, -self._sparsity * negative_entropy

    def fitted(self) -> Fitted:
        """Return its layers, with running means and variances."""
        return tabnet_of(self._network, self._gamma)


def seeded_torch(seed: int) -> Any:
    """Return PyTorch, its random numbers drawn from a seed, computing with one thread."""
    import torch

    torch.manual_seed(seed)
    torch.set_num_threads(1)  # sums of several threads differ in their last digits
    return torch


class OwnLearner:
    """A classifier of the user's own with ``partial_fit``."""

    batch_rows = BATCH_ROWS

    def __init__(self, estimator: Estimator, n_classes: int, seed: int) -> None:
        self._model, self._n_classes = made_by(estimator, seed), n_classes
        self._takes_weights = estimator.takes_weights

    def learn(self, x: Floats32, y: NDArray[np.int64], weight: Floats32) -> None:
        """Learn from one batch."""
        weights = {"sample_weight": weight} if self._takes_weights else {}
        self._model.partial_fit(x, y, classes=np.arange(self._n_classes), **weights)

    def fitted(self) -> Fitted:
        """Return a copy of it."""
        return Own(copy.deepcopy(self._model), self._n_classes)


def learner_of(estimator: Estimator, *, n_columns: int, n_classes: int, seed: int, device: str) -> Learner:
    """Return a new learner of a classifier that learns from batches."""
    if estimator.name == "sgd":
        return SgdLearner(estimator.values, n_classes, seed)
    if estimator.name in NETWORKS:
        kind = PerceptronLearner if estimator.name == "mlp" else TabNetLearner
        return kind(estimator.values, n_columns, n_classes, seed, device)
    return OwnLearner(estimator, n_classes, seed)


def fit_whole(
    estimator: Estimator,
    x: Floats32,
    y: NDArray[np.int64],
    weight: Floats32,
    *,
    n_classes: int,
    seed: int,
    title: str,
    say: Say,
) -> Fitted:
    """Fit a classifier that needs all rows at once; say what limits the result."""
    if estimator.name == "logistic":
        from sklearn.linear_model import LogisticRegression

        options = estimator.values
        model = LogisticRegression(C=options["C"], max_iter=options["max_iter"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the iterations were used up is said below
            model.fit(x, y, sample_weight=weight.astype(np.float64))
        if max(np.ravel(model.n_iter_)) >= options["max_iter"]:
            say(f"logistic of {title} used up its {options['max_iter']} iterations; --set max_iter=1000 allows more")
        return linear_of(model, SOFTMAX, n_classes)
    own = made_by(estimator, seed)
    if estimator.takes_weights and (weight != 1).any():
        own.fit(x, y, sample_weight=weight)
    else:
        own.fit(x, y)
    return Own(own, n_classes)


def linear_of(model: Any, link: str, n_classes: int | None = None) -> Linear:
    """Return a linear model of scikit-learn as arrays, with a line for each class also where there are two or one is absent."""
    coefficients, intercepts = np.asarray(model.coef_, np.float64), np.asarray(model.intercept_, np.float64)
    if len(coefficients) == 1:  # of two classes the second against the first
        coefficients, intercepts = np.vstack([-coefficients, coefficients]), np.concatenate([-intercepts, intercepts])
        if link == SOFTMAX:
            coefficients, intercepts = coefficients / 2, intercepts / 2
    known = np.asarray(model.classes_).astype(np.int64)
    n = len(known) if n_classes is None else n_classes
    every, constants = np.zeros((n, coefficients.shape[1])), np.full(n, -700.0)
    every[known], constants[known] = coefficients, intercepts
    return Linear(every, constants, link)


def log_losses(probabilities: Floats64, y: NDArray[np.int64]) -> Floats64:
    """Return the negative log-likelihood of each row, nats; probabilities below 1e-6 count as that."""
    found: Floats64 = -np.log(np.maximum(probabilities[np.arange(len(y)), y], 1e-6))
    return found
