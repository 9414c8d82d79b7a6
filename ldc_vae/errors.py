"""The one error for what a user can mend."""


class UserError(ValueError):
  """A mistake of the user, explained in one sentence that names the remedy.

  The command line prints the sentence without a traceback. Every other
  `ValueError` is a bug of this package and keeps its traceback.

  Attributes:
    exit_code: 2 where the same command would fail again, 1 where another start
      may succeed (files, devices, other processes).
  """

  def __init__(self, message: str, *, exit_code: int = 2):
    super().__init__(message)
    self.exit_code = exit_code
