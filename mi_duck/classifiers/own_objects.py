"""Classifiers of one's own in a model's file: by skops, which builds known types and runs nothing else, or by pickle.

This is the one module that reads a pickle, and only where ``--trust-pickle`` or its argument in Python says so.
"""

import importlib.util
import pickle
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mi_duck.errors import CheckpointError
from mi_duck.processes import with_pandas

SKOPS, PICKLE = "object.skops", "object.pkl"


def object_parts(estimator: Any) -> dict[str, bytes]:
    """Return a classifier under the name `SKOPS` where skops can hold all of it, else under `PICKLE`."""
    if importlib.util.find_spec("skops") is not None:
        from skops import io
        from skops.io.exceptions import UnsupportedTypeException

        try:
            data: bytes = io.dumps(estimator)
            if not io.get_untrusted_types(data=data):
                return {SKOPS: data}
        except (UnsupportedTypeException, TypeError, ValueError, AttributeError):
            pass  # a type that skops cannot write
    return {PICKLE: pickle.dumps(estimator, protocol=5)}


def object_from_parts(parts: Mapping[str, bytes], *, trust_pickle: bool) -> Any:
    """Return the classifier that `object_parts` wrote.

    Raises
    ------
    CheckpointError
        It is a pickle and pickles are not trusted, skops is absent, or a module of the classifier is.
    """
    if SKOPS in parts:
        if importlib.util.find_spec("skops") is None:
            raise CheckpointError("the classifier of this model was written by skops; pip install 'mi-duck[skops]'")
        from skops import io

        return io.loads(parts[SKOPS], trusted=[])
    if PICKLE not in parts:
        raise CheckpointError("the model holds no classifier; train it again")
    if not trust_pickle:
        raise CheckpointError(
            "the classifier of this model is a pickle, and reading one may run any code; where its author is to be trusted, "
            "--trust-pickle reads it (in Python trust_pickle=True)"
        )
    try:
        with_working_folder()
        with_pandas()  # which CatBoost and others import
        return pickle.loads(parts[PICKLE])
    except (ImportError, AttributeError) as error:
        raise CheckpointError(
            f"the classifier of this model needs what is not here ({error}); install it, or work in its folder"
        ) from error


def with_working_folder() -> None:
    """Let modules of the working folder be found, after all others, so that none of them hides a library."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
