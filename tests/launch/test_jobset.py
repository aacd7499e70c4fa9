"""The Kubernetes JobSet is valid by its schema and consistent with the container image."""

import json
from pathlib import Path
import re

import jsonschema
import kubernetes_validate
import yaml

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / 'launch'
JOBSET = yaml.safe_load((LAUNCH / 'k8s' / 'jobset.yaml').read_text())
SCHEMA = json.loads(Path(__file__).with_name('jobset.schema.json').read_text())


def validate(jobset: dict) -> None:
  """Raises jsonschema.ValidationError if Kubernetes or JobSet would reject the file."""
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


def test_repeated_names_and_numbers_are_equal():
  """The schema cannot check that names and numbers in different parts of the JobSet agree."""
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
  assert pod['restartPolicy'] == 'Never'  # the API server requires it for podFailurePolicy
  assert '--distributed' in container['args']
  mounts, volumes = container['volumeMounts'], pod['volumes']
  assert [mount['name'] for mount in mounts] == [volume['name'] for volume in volumes]


def test_containers_have_shared_memory_for_nccl():
  (name,) = (
    mount['name']
    for mount in container_of(JOBSET)['volumeMounts']
    if mount['mountPath'] == '/dev/shm'
  )
  (volume,) = (volume for volume in pod_of(JOBSET)['volumes'] if volume['name'] == name)
  assert volume['emptyDir'] == {'medium': 'Memory', 'sizeLimit': '2Gi'}
  (run,) = re.findall('docker run .*', (LAUNCH / 'Dockerfile').read_text())
  assert '--shm-size=' in run


def test_the_image_has_the_user_of_the_jobset():
  assert (
    f'USER {pod_of(JOBSET)["securityContext"]["runAsUser"]}\n'
    in (LAUNCH / 'Dockerfile').read_text()
  )


def test_the_image_contains_neither_runs_nor_git_history():
  ignored = (ROOT / '.dockerignore').read_text().splitlines()
  assert {'.git', '.venv', 'runs'} <= set(ignored)
