"""The matrices of the original code, cuda-convnet, are converted exactly in both directions."""

import pickle

from conversion_helpers import assert_same
import helpers
import numpy as np
import pytest
from safetensors.numpy import save_file

from alexnet_jax import interop
from alexnet_jax.errors import UserError
from alexnet_jax.interop import cuda_convnet


def test_the_layout_of_cuda_convnet_matrices():
  """Rows are (channel, y, x) of one input layer, and columns are filters (docs/FACTS.md section 1.2)."""
  model = helpers.narrow('original', width=1 / 16)
  params = helpers.visible_params(model)
  matrices = interop.to_cuda_convnet(params)
  assert {name: x.shape for name, x in matrices.items() if 'conv2' in name or 'fc1000' in name} == {
    'conv2a/weights/0': (3 * 25, 8),
    'conv2a/biases': (8,),
    'conv2b/weights/0': (3 * 25, 8),
    'conv2b/biases': (8,),
    'fc1000/weights/0': (128, 10),
    'fc1000/weights/1': (128, 10),
    'fc1000/biases': (10,),
  }
  kernel, matrix = params['conv2']['kernel'], matrices['conv2b/weights/0']
  assert matrix[2 * 25 + 3 * 5 + 4, 6] == kernel[1, 3, 4, 2, 6]
  kernel, matrix = params['conv3']['kernel'], matrices['conv3a/weights/1']
  assert matrix[5 * 9 + 1 * 3 + 2, 7] == kernel[0, 1, 2, 8 + 5, 7]
  kernel, matrix = params['fc6']['kernel'], matrices['fc2048b/weights/1']
  assert matrix[3 * 36 + 4 * 6 + 5, 9] == kernel[1, (4 * 6 + 5) * 16 + 8 + 3, 9]
  kernel, matrix = params['fc8']['kernel'], matrices['fc1000/weights/1']
  assert matrix[11, 4] == kernel[1, 11, 4]
  assert_same(interop.from_cuda_convnet(matrices, model), params)
  # These are the names that cuda-convnet uses.
  column = matrices | {'conv1a/biases': matrices['conv1a/biases'][:, None]}
  assert_same(
    interop.from_cuda_convnet(column, helpers.narrow('original', 1 / 16, num_classes=0)), params
  )


def test_cuda_convnet_files(tmp_path):
  model = helpers.narrow('original', width=1 / 16)
  matrices = interop.to_cuda_convnet(helpers.visible_params(model))
  np.savez(tmp_path / 'a.npz', **matrices)
  save_file(matrices, tmp_path / 'a.safetensors')
  for name in ('a.npz', 'a.safetensors'):
    read = cuda_convnet.read(str(tmp_path / name))
    assert all(np.array_equal(read[key], matrices[key]) for key in matrices)
  (tmp_path / 'pickled').write_bytes(pickle.dumps(matrices))
  np.savez(tmp_path / 'objects.npz', x=np.array([{}], object))
  np.save(tmp_path / 'array.npy', matrices['conv1a/biases'])
  for name in ('pickled', 'objects.npz', 'array.npy'):
    with pytest.raises(UserError, match='of plain arrays'):
      cuda_convnet.read(str(tmp_path / name))
  with pytest.raises(UserError, match='there is no such file'):
    cuda_convnet.read(str(tmp_path / 'none.npz'))
  matrices['conv3b/weights/1'] = matrices['conv3b/weights/1'][:-1]
  del matrices['fc2048a/biases']
  with pytest.raises(UserError, match=r'fc2048a/biases: expected \[128\], found nothing') as error:
    interop.from_cuda_convnet(matrices, model)
  assert 'conv3b/weights/1: expected [72, 12], found [71, 12]' in str(error.value)
