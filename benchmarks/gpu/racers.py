"""The two sides of a comparison on the device: this project's network and PyTorch's.

The inputs are on the device. Neither side waits for the loss of a step or copies images from the host during
a round; another stage measures the host. PyTorch runs the network of `benchmarks.torch_peer` in three ways:
eager, with `torch.compile`, and with `torch.compile` and CUDA graphs (mode `reduce-overhead`).
"""

import argparse
from collections.abc import Mapping
import functools
from typing import Any

import jax
from ml_collections import ConfigDict, FrozenConfigDict
import numpy as np

from alexnet_jax.distributed import sharding
from alexnet_jax.steps import optimizer
from benchmarks import sides
from benchmarks.gpu import device, plan

SMALL = {'model.width': 1 / 16, 'model.input_size': 67, 'data.canvas.size': 67}
EAGER, COMPILED, GRAPHS = 'eager', 'compiled', 'compiled, CUDA graphs'
MODES = {EAGER: None, COMPILED: 'default', GRAPHS: 'reduce-overhead'}
DEFAULT_FORM = (True, True, 'slices')  # channels_last, grouped towers, how LRN is computed


def network(
  small: bool, dtype: str, batch: int, dropout: bool = True, rate: float = 1e-4
) -> FrozenConfigDict:
  """Returns the config of the paper's network without augmentation; narrow and small if `small`."""
  args = argparse.Namespace(recipe='paper', mesh='1,1', micro_batches=1, dtype=dtype, width=1.0)
  config = ConfigDict(sides.config_of(args, batch, dropout))
  config.optim.rate = config.optim.bias_rate = rate
  if small:
    config.update_from_flattened_dict(SMALL)
  return FrozenConfigDict(config)


def batch_of(context: plan.Context) -> int:
  """Returns the batch size of a stage; a small run uses a sixteenth of it."""
  batch = context.arguments['batch']
  return max(8, batch // 16) if context.small else batch


class Ours:
  """This project's network, with its inputs on the device."""

  def __init__(self, config: FrozenConfigDict, inputs: list[sides.Batch]):
    self.side = sides.Ours(config)
    optim, params = config.optim, self.side.state.params
    rates = optimizer.rate_tree(optim, params, optim.rate, optim.bias_rate, 0.0)
    self.side.rates = sharding.replicate(self.side.mesh, jax.tree.map(np.float32, rates))
    self.inputs = inputs
    self.batches = [sharding.shard_batch(self.side.mesh, batch) for batch in inputs]

  def training(self) -> device.Work:
    """Returns compiled training steps."""
    self.side.compile_step(self.inputs[0])
    return device.Work(self._step, jax.block_until_ready)

  def _step(self, i: int) -> jax.Array:
    side, batch = self.side, self.batches[i % len(self.batches)]
    side.state, loss = side.train_step(side.state, batch, side.rates, side.colour, side.statistics)
    return loss

  def inference(self) -> device.Work:
    """Returns the compiled prediction of probabilities."""
    self.side.compile_predict(self.inputs[0])
    return device.Work(self._predict, jax.block_until_ready)

  def _predict(self, i: int) -> jax.Array:
    side, images = self.side, self.batches[i % len(self.batches)]['image']
    state = side.state
    return side.predict(state.params, state.batch_stats, images, side.statistics.mean_image)


class Plain:
  """A tree of mappings with attributes and items, because PyTorch's compiler cannot trace a ConfigDict."""

  def __init__(self, tree: Mapping[str, Any]):
    for name, value in tree.items():
      setattr(self, name, Plain(value) if isinstance(value, Mapping) else value)

  def __getitem__(self, name: str) -> Any:
    return getattr(self, name)

  def get(self, name: str, default: Any) -> Any:
    return getattr(self, name, default)


class Peer:
  """PyTorch's network with the same weights, with its inputs on the device.

  Args:
    config: a whole config.
    params: the result of `sides.Ours.params`.
    form: the arguments of `torch_peer.Form`.
    inputs: batches on the host.
    target: PyTorch's device.
    mode: the mode of `torch.compile`; None for eager.
  """

  def __init__(
    self,
    config: FrozenConfigDict,
    params: Mapping,
    form: tuple,
    inputs: list[sides.Batch],
    target: str,
    mode: str | None = None,
  ):
    import torch

    from benchmarks import torch_peer

    self.form, self.chosen_in = torch_peer.Form(*form), ''
    self.trainer = torch_peer.Trainer(config, params, self.form, target)
    self.images = [torch.from_numpy(batch['image']).to(target) for batch in inputs]
    self.labels = [torch.from_numpy(batch['label']).long().to(target) for batch in inputs]
    self.target = target
    self.trainer.net.model = Plain(config.model.to_dict())
    # With `fullgraph`, a network that the compiler would split into several graphs fails and is not timed.
    compiled = functools.partial(torch.compile, mode=mode, dynamic=False, fullgraph=True)
    self.loss = compiled(self._loss) if mode else self._loss
    self.probabilities = compiled(self._probabilities) if mode else self._probabilities
    self.mark = torch.compiler.cudagraph_mark_step_begin if mode else lambda: None

  def _logits(self, images: Any) -> Any:
    import torch

    trainer = self.trainer
    images = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=trainer.layout)
    with torch.autocast(self.target, torch.bfloat16, enabled=trainer.bfloat16):
      return trainer.net(images).float()

  def _loss(self, images: Any, labels: Any) -> Any:
    import torch

    return torch.nn.functional.cross_entropy(self._logits(images), labels)

  def _probabilities(self, images: Any) -> Any:
    return self._logits(images).softmax(-1)

  def training(self) -> device.Work:
    """Returns training steps."""
    self.trainer.net.train()
    return device.Work(self._step, device.torch_wait)

  def _step(self, i: int) -> Any:
    self.mark()
    i %= len(self.images)
    loss = self.loss(self.images[i], self.labels[i])
    loss.backward()
    self.trainer.optimizer.step()
    self.trainer.optimizer.zero_grad(set_to_none=True)
    return loss.detach()

  def inference(self) -> device.Work:
    """Returns the prediction of probabilities."""
    self.trainer.net.eval()
    return device.Work(self._predict, device.torch_wait)

  def _predict(self, i: int) -> Any:
    import torch

    self.mark()
    with torch.inference_mode():
      return self.probabilities(self.images[i % len(self.images)])


def form_of(context: plan.Context, kind: str) -> tuple[tuple, str]:
  """Returns the form of PyTorch's network, for the kind 'eager' or 'compiled', and where it was chosen."""
  found = context.result_of('peer_form') or {}
  if found.get(kind):
    return tuple(found[kind]), found.get('chosen_in', 'an earlier run')
  return DEFAULT_FORM, 'the default, not measured'


def peers(
  context: plan.Context, config: FrozenConfigDict, params: Mapping, inputs: list[sides.Batch]
) -> tuple[dict[str, Peer], dict[str, str]]:
  """Returns PyTorch's sides by name, and the reason for each that is missing.

  The form is that of `form_of`. Compiled sides run on a GPU only.
  """
  reason = device.torch_reason()
  if reason:
    return {}, dict.fromkeys(MODES, reason)
  found, missing = {}, {}
  target = device.set_up_torch(tf32=True)
  for name, mode in MODES.items():
    if mode and target == 'cpu':
      missing[name] = 'torch.compile is raced on a GPU alone'
      continue
    form, chosen_in = form_of(context, 'compiled' if mode else 'eager')
    try:
      found[name] = Peer(config, params, form, inputs, target, mode)
      found[name].chosen_in = chosen_in
    except Exception as error:
      missing[name] = plan.short(error)
  return found, missing
