"""Sets up eight CPU devices before JAX is imported, and assigns tests to the long tier."""

import fnmatch
import os
import pathlib
import tempfile

import hypothesis
import pytest

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')  # some tests use TensorFlow as a reference
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
# Several tests compile the same small steps, so they share a cache, which subprocesses inherit.
_CACHE = os.path.join(tempfile.gettempdir(), f'alexnet_jax_test_cache_{os.getuid()}')
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', _CACHE)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')

# Optimisation level 0 takes half the compilation time. Subprocesses inherit this setting too.
os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_backend_optimization_level=0'

import jax  # noqa: E402

jax.config.update('jax_num_cpu_devices', 8)

# Every run tries the same examples, and a busy machine may take any time for them.
hypothesis.settings.register_profile(
  'tests',
  deadline=None,
  derandomize=True,
  database=None,
  suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile('tests')

# Parametrised tests of which some parameters belong to the long tier, while others of the same test stay in
# the quick tier. A test that is long for all its parameters carries @pytest.mark.long instead. In these
# patterns `*` matches anything, and `?` stands for the bracket before the parameters.
LONG = (
  'test_cpu.py::test_*_with_the_reference?*bfloat16]',
  'test_winograd.py::test_conv_agrees_with_the_reference?*bfloat16]',
  'layers/test_gpu.py::test_*_with_the_reference?*bfloat16]',
  'test_initializers.py::test_weights_of_the_normal_initializer?paper]',
  'test_initializers.py::test_weights_of_the_normal_initializer?owt]',
  'test_initializers.py::test_weights_of_the_normal_initializer?caffe]',
  'test_initializers.py::test_weights_of_the_torch_initializer?1]',
  'test_predict.py::test_predictions_are_those_of_the_network?1]',
  'test_importer.py::test_a_caffe_import_selects_its_recipe_and_reads_a_mean_image?True]',
  'test_caffe.py::test_a_caffemodel_agrees_with_tensorflow?*False]',
  'layers/test_gpu.py::test_local_response_norm_agrees_with_the_reference?shape1*',
  'test_evaluate.py::test_eval_equals_one_image_at_a_time?weights0-10]',
  'test_evaluate.py::test_eval_equals_one_image_at_a_time?weights1-1]',
  'test_step.py::test_loss_and_sums_of_a_step_agree_with_numpy?0.2-*',
  'test_exporter.py::test_an_archive_contains_a_whole_run?*batch_norm]',
  'test_dry_run.py::test_a_dry_run_predicts_the_numbers_of_the_run?mesh1]',
  'test_sharding.py::test_gradients_of_bfloat16_layers_are_summed_once_in_float32?2]',
  'test_state.py::test_initial_numbers_do_not_depend_on_the_mesh?mesh_shape1]',
  'test_operations.py::test_dropout_follows_the_right_operations?caffe*',
  'test_towers.py::test_towers_are_independent_before_conv3?*original]',
  'test_programs.py::test_stablehlo_programs_agree_with_the_network?original]',
  'test_winograd.py::test_adjoint_transforms?5-3]',
  'test_winograd.py::test_adjoint_transforms?4-5]',
  'test_fine_tuning.py::test_layers_that_differ_are_listed?original+*',
  'test_sharding.py::test_two_towers_on_two_devices_equal_one_device?original]',
  'test_sharding.py::test_collectives_of_a_step?original*',
  'test_average.py::test_a_resumed_run_continues_the_average?mesh1]',
  'test_main.py::test_prepare_and_train_on_a_store_without_tensorflow?jpeg]',
  'test_multihost.py::test_a_failure_in_all_processes_is_reported_by_all?*config differs*',
  'test_programs.py::test_stablehlo_programs_agree_with_the_network?caffe]',
  'test_recipes.py::test_every_override_is_valid_and_changes_the_recipe?original-[!N]*',
  'test_recipes.py::test_every_override_is_valid_and_changes_the_recipe?owt-[!N]*',
  'test_recipes.py::test_every_override_is_valid_and_changes_the_recipe?caffe-[!N]*',
  'test_augment.py::test_crops_have_all_positions?256-227]',
  'test_networks_agree_with_tensorflow?caffe]',
  'test_loop.py::test_a_resumed_run_equals_an_uninterrupted_one?10]',
  'test_augment.py::test_rows_keep_their_draws?torchvision]',
)
# The configs whose two training steps belong to the quick tier; those of all others are long.
QUICK_CONFIGS = ('*quickstart.py:paper]', '*alexnet.py:paper]', '*lenet.py*')
TRAINED_CONFIGS = 'test_configs.py::test_trains_two_steps?'
UNUSED = pytest.StashKey[list[str]]()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
  """Marks the tests of the tables above as long, and records the patterns that match no test."""
  unused = {*LONG, *QUICK_CONFIGS}
  for item in items:
    name = item.nodeid.replace('[', '?')
    long = [pattern for pattern in LONG if fnmatch.fnmatchcase(name, f'*{pattern}')]
    unused.difference_update(long)
    is_long = bool(long)
    if fnmatch.fnmatchcase(name, f'*{TRAINED_CONFIGS}*'):
      quick = [pattern for pattern in QUICK_CONFIGS if fnmatch.fnmatchcase(name, pattern)]
      unused.difference_update(quick)
      is_long = not quick
    if is_long:
      item.add_marker(pytest.mark.long)
  config.stash[UNUSED] = sorted(unused)


@pytest.fixture
def unused_patterns(pytestconfig: pytest.Config) -> list[str]:
  """The patterns of the tables above that match no test; skips if only a part of the tests was collected."""
  tests = pathlib.Path(__file__).parent
  collected = {pathlib.Path(argument).resolve() for argument in pytestconfig.args}
  if not collected & {tests, tests.parent}:
    pytest.skip('only a part of the tests was collected')
  return pytestconfig.stash[UNUSED]
