"""Makes modules look absent that others would load here for nothing, where they are installed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder


class _Absent(MetaPathFinder):
    """Refuses to find a module, and so keeps other finders from it; what is loaded already stays."""

    def __init__(self, module: str) -> None:
        self.module = module

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        """Refuse the module, leave the rest to others."""
        if name == self.module:
            raise ModuleNotFoundError(f"{name} is not used here", name=name)


NO_PANDAS, NO_SKLEARN = _Absent("pandas"), _Absent("sklearn")


def without_pandas() -> None:
    """Make pandas look absent to the rest of this process.

    Where it is installed, Arrow loads it to turn a column into NumPy numbers, and XGBoost too: 48 MiB and 0.2 s for nothing.
    """
    if NO_PANDAS not in sys.meta_path:
        sys.meta_path.insert(0, NO_PANDAS)


@contextmanager
def without_sklearn() -> Iterator[None]:
    """Make scikit-learn look absent for a while, so that XGBoost does not load it."""
    sys.meta_path.insert(0, NO_SKLEARN)
    try:
        yield
    finally:
        sys.meta_path.remove(NO_SKLEARN)
