"""Which commands of the documentation are run by the tests, and which are only parsed."""

from doc_examples import Example
import pytest

# Maps the first words of a command to the reason why it is not run. tests/test_docs.py still parses it.
ONLY_PARSED = {
  'bash launch/quickstart.sh': 'it trains for minutes; quickstart.md runs the same commands',
  'bash launch/test.sh': 'it would start these tests again',
  'bash launch/docs.sh': 'it is run by continuous integration',
  'bash launch/lint.sh': 'it is run by continuous integration',
  'bash launch/local.sh': 'tests/launch runs the script; its arguments are parsed here',
  'bash launch/tpu_vm.sh': 'it needs a Cloud TPU',
  'sbatch': 'it needs a SLURM cluster',
  'kubectl': 'it needs a Kubernetes cluster',
  'pip': 'it needs a network',
  'jupyter': 'it opens a browser',
  'python -m venv': 'it creates an environment',
  'python3 -m venv': 'it creates an environment',
  'source': 'it changes the shell',
  'pre-commit': 'it needs a network',
  '.ci/run': 'it is continuous integration',
  '.': 'it changes the shell',
  'ruff': 'it is run by continuous integration',
  'mypy': 'it is run by continuous integration',
  'python -m pytest': 'it would start other tests',
  'python -m benchmarks': 'it takes minutes; tests/benchmarks runs every benchmark small',
  'python -m tests.faults': 'it takes minutes to hours',
  'python -m alexnet_jax.cli.help': 'tests/cli compares its output with docs/CONFIG.md',
  'curl': 'it needs a running server; tests/serve sends the same requests',
  'python experiments/': 'it takes hours; tests/experiments runs them on small settings',
}
# Maps an argument of main.py to the reason why a command with this argument is not run.
ARGUMENTS_ONLY_PARSED = {
  '--distributed': 'it waits for another process; tests/distributed starts two processes',
  '--mode=serve': 'it serves until it is stopped; tests/serve runs it',
  '--help': 'it ends the program; it is run by tests/cli',
  '--helpfull': 'it ends the program; it is run by tests/cli',
}
# A code span that begins with one of these programs is a command.
PROGRAMS = ('python', 'bash', 'alexnet-jax', 'pip', 'sbatch', 'kubectl', 'ruff', 'mypy')


def is_main(words: tuple[str, ...]) -> bool:
  """Returns whether a command calls main.py."""
  return words[:2] == ('python', 'main.py') or words[0] == 'alexnet-jax'


def arguments(words: tuple[str, ...]) -> list[str]:
  """Returns the arguments of a command that calls main.py."""
  return list(words[2:] if words[0] == 'python' else words[1:])


def reason_not_run(example: Example) -> str:
  """Returns the reason why a command is only parsed, or '' if it runs."""
  words = example.words
  if is_main(words):
    reasons = [reason for flag, reason in ARGUMENTS_ONLY_PARSED.items() if flag in words]
    if example.kind == 'span':
      reasons.append('a code span may have placeholders; commands in blocks run')
    return reasons[0] if reasons else ''
  text = ' '.join(words)
  for start, reason in ONLY_PARSED.items():
    if (
      text == start or text.startswith(f'{start} ') or (start[-1] == '/' and text.startswith(start))
    ):
      return reason
    if text.startswith(f'{start}.'):  # a module of a package
      return reason
  pytest.fail(
    f'{example.page}, line {example.line}: {text!r} is neither run nor listed in ONLY_PARSED'
  )
