"""The one exception that means *the caller can fix this*.

Whatever a user may get wrong (an unknown name, a wrong shape, a corrupt file)
raises `UserError` with one line that says what was expected, what was got and
the likely cause. The command line prints that line and exits with code 2;
everything else is a bug and keeps its traceback.
"""

__all__ = ["DataFileError", "DivergedError", "UserError"]


class UserError(ValueError):
    """A mistake that the caller can mend; the message is one readable line."""


class DataFileError(UserError, OSError):
    """A file that is missing, truncated, corrupt or of another kind."""


class DivergedError(RuntimeError):
    """Training met a number that is not finite; the last checkpoint is good."""
