"""The same network, weights and update rule in PyTorch, written for speed.

The network can be written in several forms (`Form`): memory layout, towers as groups of one convolution
or as separate convolutions, and three ways to compute response normalisation. All forms compute the same
numbers, and the benchmarks use the fastest.
"""

from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import functools
import itertools
import multiprocessing
import os
import sys

import numpy as np
import torch
from torch import Tensor, nn
import torch.nn.functional as F

from alexnet_jax.models.spec import is_dense
from benchmarks import sides


@dataclasses.dataclass(frozen=True)
class Form:
  """A way to write the network, as the docstring of the module explains."""

  channels_last: bool
  grouped: bool
  norm: str  # a key of NORMS

  def __str__(self) -> str:
    layout = 'channels_last' if self.channels_last else 'contiguous'
    return f'{layout}, {"grouped" if self.grouped else "split"}, LRN by {self.norm}'


def power(scale: Tensor, beta: float) -> Tensor:
  """Computes `scale ** -beta` in the dtype of `scale`; the usual beta of 0.75 needs two square roots alone.

  On a GPU autocast computes these functions in float32. Without the cast back, the maps after a normalisation
  would be float32, and the layers that follow would move twice the bytes.
  """
  if beta == 0.75:
    root = torch.rsqrt(scale)
    return (root * torch.sqrt(root)).to(scale.dtype)
  return (scale**-beta).to(scale.dtype)


def _norm_by_library(x: Tensor, size: int, k: float, alpha: float, beta: float) -> Tensor:
  return F.local_response_norm(x, size, alpha * size, beta, k).to(x.dtype)


def _norm_by_slices(x: Tensor, size: int, k: float, alpha: float, beta: float) -> Tensor:
  squares = F.pad(x * x, (0, 0, 0, 0, size // 2, size - 1 - size // 2))
  channels = x.shape[1]
  total = sum(squares[:, i : i + channels] for i in range(size))
  return x * power(k + alpha * total, beta)


def _norm_by_band(x: Tensor, size: int, k: float, alpha: float, beta: float) -> Tensor:
  index = torch.arange(x.shape[1], device=x.device)
  offset = index[None] - index[:, None] + size // 2
  band = ((offset >= 0) & (offset < size)).to(x.dtype)[:, :, None, None]
  return x * power(k + alpha * F.conv2d(x * x, band), beta)


NORMS = {'library': _norm_by_library, 'slices': _norm_by_slices, 'band': _norm_by_band}


def forms(model) -> list[Form]:
  """Returns all forms of the network of `config.model`."""
  apart = model.towers > 1 and not (model.norm == 'lrn' and model.lrn.scope == 'all')
  norms = tuple(NORMS) if model.norm == 'lrn' else ('slices',)
  grouped = (True, False) if apart else (True,)
  return [Form(*choice) for choice in itertools.product((True, False), grouped, norms)]


class Net(nn.Module):
  """The network of `config.model` with the weights `params` of this project: `[B, 3, S, S]` to logits."""

  def __init__(self, model, params: Mapping, form: Form):
    super().__init__()
    self.model, self.form = model, form
    self.parts = nn.ModuleDict()
    for name in model.layers:
      add = self._add_dense if is_dense(name) else self._add_conv
      add(name, np.asarray(params[name]['kernel']), np.asarray(params[name]['bias']))

  def _groups(self, name: str) -> int:
    """Returns the number of groups of a layer: 1 where the towers exchange their maps."""
    shared = self.model[name].exchange or name == self.model.layers[0]
    return 1 if shared else self.model.towers

  def _add_conv(self, name: str, kernel: np.ndarray, bias: np.ndarray) -> None:
    layer, groups = self.model[name], self._groups(name)
    weights = kernel.transpose(0, 4, 3, 1, 2)  # [T, out, in, h, w]
    apart = groups > 1 and not self.form.grouped
    convs = []
    for weight, b in zip(weights, bias, strict=True) if apart else [(weights, bias)]:
      weight, b = weight.reshape(-1, *weight.shape[-3:]), b.reshape(-1)
      inside = 1 if apart else groups
      conv = nn.Conv2d(
        weight.shape[1] * inside, len(weight), layer.size, layer.stride, groups=inside
      )
      convs.append(_with(conv, weight, b))
    self.parts[name] = nn.ModuleList(convs)

  def _add_dense(self, name: str, kernel: np.ndarray, bias: np.ndarray) -> None:
    if name == self.model.layers[-1]:  # the partial sums of the towers are added
      weight = kernel.reshape(-1, kernel.shape[-1]).T
    else:
      weight = kernel.transpose(0, 2, 1).reshape(-1, kernel.shape[1])
    self.parts[name] = _with(nn.Linear(*weight.shape[::-1]), weight, bias.reshape(-1))

  def forward(self, x: Tensor) -> Tensor:
    xs = [x]
    for name in self.model.layers:
      if is_dense(name):
        x = torch.cat(xs, 1) if len(xs) > 1 else xs[0]
        if x.ndim == 4:  # the order of our kernel: pixels, then maps
          x = x.permute(0, 2, 3, 1).flatten(1)
        xs = [self.parts[name](x)]
      else:
        xs = self._convolve(name, xs)
      for operation in self.model[name].get('then', ()):
        xs = [self._operation(operation, x) for x in xs]
    return xs[0]

  def _convolve(self, name: str, xs: list[Tensor]) -> list[Tensor]:
    layer, convs = self.model[name], self.parts[name]
    (top, bottom), (left, right) = layer.padding
    if len(convs) == 1 and len(xs) > 1:
      xs = [torch.cat(xs, 1)]
    if (top, left) == (bottom, right):
      for conv in convs:
        conv.padding = (top, left)
    else:
      xs = [F.pad(x, (left, right, top, bottom)) for x in xs]
    ys = [conv(x) for conv, x in zip(convs, xs, strict=True)]
    if len(ys) == 1 and not self.form.grouped:
      return list(ys[0].chunk(self.model.towers, 1))
    return ys

  def _operation(self, operation: str, x: Tensor) -> Tensor:
    model = self.model
    if operation == 'act':
      return torch.tanh(x) if model.activation == 'tanh' else F.relu(x)
    if operation == 'pool':
      ceil = model.pool.rounding == 'ceil'
      return F.max_pool2d(x, model.pool.window, model.pool.stride, ceil_mode=ceil)
    if operation == 'avg_pool':
      window, stride, ceil = model.pool.window, model.pool.stride, model.pool.rounding == 'ceil'
      return F.avg_pool2d(x, window, stride, ceil_mode=ceil, count_include_pad=False)
    if operation == 'dropout':
      x = F.dropout(x, model.dropout.rate, self.training)
      return x if model.dropout.inverted else x * (1 - model.dropout.rate)
    if model.norm == 'none':
      return x
    if operation == 'norm' and model.norm == 'lrn':
      return self._response_norm(x)
    if operation == 'map_norm' and model.norm == 'lrn':
      norm = model.map_norm
      total = F.avg_pool2d(x * x, norm.size, 1, norm.size // 2) * norm.size**2
      return x * power(norm.k + norm.alpha * total, norm.beta)
    raise SystemExit(f'the PyTorch peer has no {operation} with norm={model.norm}')

  def _response_norm(self, x: Tensor) -> Tensor:
    lrn, towers = self.model.lrn, self.model.towers
    alpha = lrn.alpha / lrn.size if lrn.divide else lrn.alpha

    def norm(x):
      return NORMS[self.form.norm](x, lrn.size, lrn.k, alpha, lrn.beta)

    if self.form.grouped and lrn.scope == 'tower' and towers > 1:
      return torch.cat([norm(part) for part in x.chunk(towers, 1)], 1)
    return norm(x)


def _with(part: nn.Module, weight: np.ndarray, bias: np.ndarray) -> nn.Module:
  with torch.no_grad():
    part.weight.copy_(torch.from_numpy(np.array(weight)))
    part.bias.copy_(torch.from_numpy(np.array(bias)))
  return part


class Trainer:
  """Trains the network in one form with the update rule of the recipe (its decay and momentum)."""

  def __init__(self, config, params: Mapping, form: Form, device: str, compiled: bool = False):
    self.device, self.bfloat16 = device, config.model.dtype == 'bfloat16'
    self.layout = torch.channels_last if form.channels_last else torch.contiguous_format
    self.net = Net(config.model, params, form).to(device, memory_format=self.layout)
    weights = [p for name, p in self.net.named_parameters() if name.endswith('weight')]
    biases = [p for name, p in self.net.named_parameters() if name.endswith('bias')]
    optim = config.optim
    self.optimizer = torch.optim.SGD(
      [
        {'params': weights, 'weight_decay': optim.decay},
        {'params': biases, 'weight_decay': optim.bias_decay, 'lr': optim.bias_rate},
      ],
      optim.rate,
      optim.momentum,
      fused=True,
    )
    self.call = torch.compile(self.net) if compiled else self.net

  def put(self, images: np.ndarray) -> Tensor:
    """Copies uint8 `[B, S, S, 3]` to the device; returns float `[B, 3, S, S]`."""
    images = torch.from_numpy(images).to(self.device, non_blocking=True)
    return images.permute(0, 3, 1, 2).to(torch.float32, memory_format=self.layout)

  def logits(self, images: np.ndarray) -> Tensor:
    with torch.autocast(self.device, torch.bfloat16, enabled=self.bfloat16):
      return self.call(self.put(images)).float()

  def step(self, batch: Mapping[str, np.ndarray]) -> float:
    """Trains one step and returns the loss."""
    self.net.train()
    labels = torch.from_numpy(batch['label']).long().to(self.device)
    loss = F.cross_entropy(self.logits(batch['image']), labels)
    loss.backward()
    self.optimizer.step()
    self.optimizer.zero_grad()
    return float(loss.detach())

  @torch.inference_mode()
  def probabilities(self, images: np.ndarray) -> np.ndarray:
    self.net.eval()
    return self.logits(images).softmax(-1).cpu().numpy()


Work = Callable[[Trainer, Mapping[str, np.ndarray]], object]


def predict(trainer: Trainer, batch: Mapping[str, np.ndarray]) -> np.ndarray:
  """Returns the probabilities of the images of a batch."""
  return trainer.probabilities(batch['image'])


def fastest_form(config, params: Mapping, device: str, work: Work) -> tuple[Form, dict[str, float]]:
  """Returns the form in which `work` is fastest, and the images per second of each form."""
  inputs, trials = sides.batches(config), {}
  for form in forms(config.model):
    call = functools.partial(work, Trainer(config, params, form, device))
    sides.rate(call, inputs, 1)
    trials[form] = max(sides.rate(call, inputs, 2) for _ in range(2))
    print(f'peer, {form}: {trials[form]:.1f} images/s', file=sys.stderr, flush=True)
  best = max(trials, key=lambda form: trials[form])
  return best, {str(form): round(speed, 1) for form, speed in trials.items()}


def racers(
  config, params: Mapping, form: Form, device: str, work: Work
) -> dict[str, Callable[[Mapping[str, np.ndarray]], object]]:
  """Returns the PyTorch sides that are timed, by name, as functions of a batch.

  On a CPU 'fair' is PyTorch in this process, with the allocator setting of `alexnet_jax.utils.memory`, and
  'as it comes' is PyTorch as installed, in a separate process. On a GPU 'eager' and 'compiled' (grouped,
  channels_last) both run in this process.
  """
  here = functools.partial(work, Trainer(config, params, form, device))
  if device == 'cpu':
    return {'fair': here, 'as it comes': apart(config, params, form, work)}
  compiled = Trainer(config, params, Form(True, True, form.norm), device, compiled=True)
  return {'eager': here, 'compiled': functools.partial(work, compiled)}


def apart(
  config, params: Mapping, form: Form, work: Work
) -> Callable[[Mapping[str, np.ndarray]], object]:
  """Returns `work` as run in a new process with the default settings of the allocator."""
  context = multiprocessing.get_context('spawn')
  pipe, end = context.Pipe()
  context.Process(target=_serve, args=(end, config, params, form, work), daemon=True).start()
  end.close()

  sent = {}

  def call(batch):
    new = id(batch) not in sent
    sent[id(batch)] = batch
    pipe.send((id(batch), batch if new else None))
    return pipe.recv()

  return call


def _serve(pipe, config, params: Mapping, form: Form, work: Work) -> None:
  trainer, batches = Trainer(config, params, form, ready(os.cpu_count())), {}
  with contextlib.suppress(EOFError):  # the benchmark has ended
    while True:
      key, batch = pipe.recv()
      if batch is not None:
        batches[key] = batch
      pipe.send(work(trainer, batches[key]))


def ready(threads: int) -> str:
  """Configures PyTorch for speed and returns the device: 'cuda' or 'cpu'.

  On a GPU float32 products use TF32, as JAX's do by default.
  """
  torch.set_num_threads(threads)
  torch.backends.cudnn.benchmark = True
  torch.backends.cuda.matmul.allow_tf32 = True
  torch.backends.cudnn.allow_tf32 = True
  return 'cuda' if torch.cuda.is_available() else 'cpu'
