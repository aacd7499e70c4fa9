"""What can be known of the launch files without a cluster: linters and schemas find nothing in them.

Beside each linter stands a control, a file that it must object to: one that checks nothing fails here.
"""

from collections.abc import Callable
import copy
import json
import os
from pathlib import Path
import shutil
import subprocess
import sysconfig

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / 'launch'
SCRIPTS = sorted([*LAUNCH.glob('*.sh'), *LAUNCH.glob('*.sbatch'), ROOT / '.ci' / 'run'])
JOBSET = yaml.safe_load((LAUNCH / 'k8s' / 'jobset.yaml').read_text())
SCHEMA = json.loads(Path(__file__).with_name('jobset.schema.json').read_text())


def lint(name: str, *args: str | Path) -> str:
  """Runs a linter in the checkout and returns what it says; skips where the platform has none."""
  folders = os.pathsep.join([sysconfig.get_path('scripts'), os.environ['PATH']])
  program = shutil.which(name, path=folders)
  if not program:
    pytest.skip(f'no {name}: its package has no build for this platform')
  result = subprocess.run([program, *args], cwd=ROOT, capture_output=True, text=True, timeout=60)
  assert not result.stderr
  assert bool(result.returncode) == bool(result.stdout)
  return result.stdout


def shellcheck(script: Path) -> str:
  # -x and -P: the sourced setup.sh is read too, from beside a script or from the checkout.
  return lint('shellcheck', '-x', '-P', 'SCRIPTDIR', '-P', '.', script)


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
  assert shellcheck(script) == ''


def test_shellcheck_finds_an_unquoted_variable(tmp_path):
  script = tmp_path / 'bad.sh'
  script.write_text('#!/usr/bin/env bash\nrm $1\n')
  assert 'SC2086' in shellcheck(script)


def test_hadolint_finds_nothing():
  assert lint('hadolint', LAUNCH / 'Dockerfile') == ''


def test_hadolint_finds_an_unpinned_base_and_a_cd(tmp_path):
  file = tmp_path / 'Dockerfile'
  file.write_text('FROM debian\nRUN cd /tmp\n')
  findings = lint('hadolint', file)
  assert 'DL3006' in findings
  assert 'DL3003' in findings


def validate(jobset: dict) -> None:
  """Raises jsonschema.ValidationError where Kubernetes or JobSet would refuse the file."""
  jsonschema.validate(jobset, SCHEMA, jsonschema.Draft202012Validator)
  for replicated in jobset['spec']['replicatedJobs']:
    job = {'apiVersion': 'batch/v1', 'kind': 'Job', 'metadata': {}, **replicated['template']}
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)


def job_of(jobset: dict) -> dict:
  return jobset['spec']['replicatedJobs'][0]['template']['spec']


def pod_of(jobset: dict) -> dict:
  return job_of(jobset)['template']['spec']


def container_of(jobset: dict) -> dict:
  return pod_of(jobset)['containers'][0]


def test_jobset_is_valid():
  validate(JOBSET)


@pytest.mark.parametrize(
  ('part', 'key', 'misspelt'),
  [
    (lambda jobset: jobset['spec'], 'coordinator', 'coordinater'),
    (lambda jobset: jobset['spec']['failurePolicy'], 'maxRestarts', 'maxRestart'),
    (lambda jobset: jobset['spec']['failurePolicy']['rules'][0], 'action', 'actions'),
    (job_of, 'backoffLimit', 'backofLimit'),
    (job_of, 'podFailurePolicy', 'podFailurePolicies'),
    (pod_of, 'restartPolicy', 'restartPolcy'),
    (container_of, 'volumeMounts', 'volumeMount'),
  ],
)
def test_a_misspelt_key_is_found(part: Callable[[dict], dict], key: str, misspelt: str):
  jobset = copy.deepcopy(JOBSET)
  part(jobset)[misspelt] = part(jobset).pop(key)
  with pytest.raises(jsonschema.ValidationError, match=misspelt):
    validate(jobset)


def test_the_parts_of_the_jobset_fit_together():
  """What no schema says: numbers and names that stand in several places are the same."""
  spec, job, pod, container = JOBSET['spec'], job_of(JOBSET), pod_of(JOBSET), container_of(JOBSET)
  environment = {variable['name']: variable for variable in container['env']}
  processes = job['parallelism']
  assert [job['completions'], job['completionMode']] == [processes, 'Indexed']
  assert environment['JOBSET_PROCESSES']['value'] == str(processes)
  coordinator = environment['JOBSET_COORDINATOR']['valueFrom']['fieldRef']['fieldPath']
  assert coordinator == "metadata.annotations['jobset.sigs.k8s.io/coordinator']"
  assert spec['coordinator']['replicatedJob'] == spec['replicatedJobs'][0]['name']
  (rule,) = job['podFailurePolicy']['rules']
  assert rule['onExitCodes']['containerName'] == container['name']
  assert pod['restartPolicy'] == 'Never'  # or the API server refuses podFailurePolicy
  assert '--distributed' in container['args']
  assert [mount['name'] for mount in container['volumeMounts']] == [pod['volumes'][0]['name']]


def test_the_image_runs_as_the_user_of_the_jobset():
  assert (
    f'USER {pod_of(JOBSET)["securityContext"]["runAsUser"]}\n'
    in (LAUNCH / 'Dockerfile').read_text()
  )


def test_runs_and_history_stay_out_of_the_image():
  ignored = (ROOT / '.dockerignore').read_text().splitlines()
  assert {'.git', '.venv', 'runs'} <= set(ignored)
