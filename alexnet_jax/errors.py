"""The two kinds of failure a user meets; `main.py` turns each into one line and an exit code."""


class UserError(ValueError):
  """The user's mistake: a bad flag, config, path or file (exit code 2).

  The message is one line that names the offending input and the remedy.
  """


class RunError(RuntimeError):
  """The run itself failed: non-finite loss, full disk, too many bad images (exit code 3)."""


class Preempted(Exception):
  """The run was asked to stop (SIGTERM), wrote a checkpoint and can be resumed (exit code 75)."""
