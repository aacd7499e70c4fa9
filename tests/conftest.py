"""Sets up eight CPU devices before JAX is imported, and assigns tests to the long tier."""

import fnmatch
import os
import tempfile

import pytest

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')  # tests use TensorFlow as a reference
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
# Many tests compile the same small steps, so they share a cache; subprocesses inherit it.
_CACHE = os.path.join(tempfile.gettempdir(), f'alexnet_jax_test_cache_{os.getuid()}')
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', _CACHE)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')

# Level 1 halves the time to compile; subprocesses inherit it.
os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_backend_optimization_level=1'

import jax  # noqa: E402

jax.config.update('jax_num_cpu_devices', 8)

# Tests that belong to the long tier and whose quick counterpart is another parameter or another test of the
# same file. A whole test carries @pytest.mark.long instead. In these patterns `*` matches anything.
LONG = (
  'test_mesh.py::test_micro_batches*owt*',
  'test_mesh.py::test_micro_batches*mesh0*',
  'test_mesh.py::test_one_weird_trick_is_the_same_step*owt*',
  'test_mesh.py::test_one_weird_trick_is_the_same_step*paper*',
  'test_mesh.py::test_two_towers_on_two_devices_bit_for_bit*original*',
  'test_mesh.py::test_other_nets_send_more_or_less*exchange_conv4*',
  'test_mesh.py::test_other_nets_send_more_or_less*no_communication*',
  'test_mesh.py::test_other_nets_send_more_or_less*no_exchange*',
  'test_evaluate.py::test_searched_weights_are_those_of_the_errors*',
  'test_evaluate.py::test_baselines*',
  'test_evaluate.py::test_the_padding_of_the_last_batch_changes_nothing?1]',
  'test_evaluate.py::test_the_padding_of_the_last_batch_changes_nothing?18]',
  'test_evaluate.py::test_the_padding_of_the_last_batch_changes_nothing?50]',
  'test_layer_stats.py::test_the_same_on_every_mesh*',
  'test_layer_stats.py::test_a_run_is_the_same_with_and_without*',
  'test_average.py::test_who_asks_for_it_gets_it*',
  'test_packaging.py::test_the_command_works_from_any_folder*',
  'test_checkpoint.py::test_steps_go_on_while_a_checkpoint_is_written*',
  'test_checkpoint.py::test_older_ones_go_only_when_the_newer_one_is_sealed*',
  'test_predict.py::test_batches_change_nothing*',
  'test_predict.py::test_features_of_files*',
  'test_predict.py::test_predict_in_a_fresh_process_from_another_folder*',
  'test_loop.py::test_resume_continues_the_very_same_run?10]',
  'test_loop.py::test_resumed_from_a_checkpoint_between_log_lines?2]',
  'test_loop.py::test_tensorboard_events_are_written*',
  'test_augment.py::test_rows_keep_their_draws?torchvision]',
  'test_augment.py::test_resized_crop_of_everything*',
  'test_fuzz.py::test_configs*',
  'test_seeds.py::test_seeds_are_trained_evaluated_and_kept*',
  'test_torch.py::test_torchvision_through_the_commands*',
)
TRAINED_CONFIGS = '*test_configs.py::test_trains_two_steps*'
QUICK_CONFIGS = ('*quickstart.py:paper]', '*alexnet.py:paper]', '*alexnet.py:owt]', '*lenet.py*')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """Marks the tests of the tables above as long."""
  for item in items:
    name = item.nodeid.replace('[', '?')
    config = fnmatch.fnmatchcase(name, TRAINED_CONFIGS)
    quick = any(fnmatch.fnmatchcase(name, pattern) for pattern in QUICK_CONFIGS)
    listed = any(fnmatch.fnmatchcase(name, f'*{pattern}') for pattern in LONG)
    if (config and not quick) or listed:
      item.add_marker(pytest.mark.long)
