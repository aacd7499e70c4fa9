"""Exceptions that the command line turns into one line and an exit code."""


class UserError(ValueError):
  """A mistake of the user: an invalid flag, config, path or file (exit code 2).

  The message is one line that names the input and the remedy.
  """


class RunError(RuntimeError):
  """The run failed: non-finite loss, full disk, too many bad images (exit code 3)."""


class Preempted(Exception):
  """The run was asked to stop (SIGTERM), wrote a checkpoint and can be resumed (exit code 75)."""


def is_memory(error: Exception) -> bool:
  """Returns whether memory ran out, on the host or on a device."""
  return isinstance(error, MemoryError) or (
    isinstance(error, RuntimeError) and 'RESOURCE_EXHAUSTED' in str(error)
  )
