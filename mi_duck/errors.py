"""The errors a user can meet, each with the exit code that workflow managers read.

A message says what was found, where, and what to do, in one line.
"""


class MiDuckError(Exception):
    """Base of every error that is shown to the user as one line; never raised itself."""

    exit_code: int = 70


class DataError(MiDuckError):
    """The input data cannot be used as it is: a missing column, a null gene, an unknown label, changed files."""

    exit_code = 65


class CheckpointError(MiDuckError):
    """A file of a run or a model is torn, foreign, newer, or belongs to other data or settings."""

    exit_code = 65


class IncompleteRunError(MiDuckError):
    """An instance was lost, so less than all genes were trained."""

    exit_code = 69


class StorageError(MiDuckError):
    """The disk is full, read-only, or failed."""

    exit_code = 74


class RunBusyError(MiDuckError):
    """Another process holds this run or instance."""

    exit_code = 75


class PlanError(MiDuckError):
    """The user's numbers cannot work together; the message carries the smallest change that works."""

    exit_code = 78


class MemoryBudgetError(MiDuckError):
    """The machine or its allocation has too little memory for the plan, or a child outgrew it."""

    exit_code = 137


class OverBudgetError(MemoryBudgetError):
    """Training needs more than its own budget, however much memory others leave."""


class OverAskedBudgetError(OverBudgetError):
    """Training needs more than the budget that the user's number decided."""

    exit_code = 78


class KilledError(MemoryBudgetError):
    """A child was killed by signal 9 from outside, as the system does when memory runs out."""
