"""The training step and the prediction step: the same code for one device, two towers or a cluster."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from ml_collections import FrozenConfigDict
import optax

from alexnet_jax.distributed import mesh as mesh_lib
from alexnet_jax.distributed import sharding
from alexnet_jax.errors import UserError
from alexnet_jax.steps import augment, optimizer, rng
from alexnet_jax.steps.state import TrainState, state_specs_of

Array = jax.Array
Batch = Mapping[str, Array]


def _counts(logits: Array, labels: Array) -> Array:
  """Returns the number of other classes that score at least as high as the label, int32 `[B]`.

  A tie counts against the label, and so does a score that is NaN.
  """
  own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
  return (~(logits < own)).sum(-1) - 1


def _losses(logits: Array, batch: Batch, smoothing: float) -> Array:
  """Returns the cross-entropy of each row, `[B]`, times the weight of the row, if the batch has weights.

  Labels are smoothed if `smoothing` is not 0.
  """
  if smoothing:
    targets = jax.nn.one_hot(batch['label'], logits.shape[-1], dtype=logits.dtype)
    losses = optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, smoothing))
  else:
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch['label'])
  return losses * batch['weight'].astype(losses.dtype) if 'weight' in batch else losses


def loss_and_gradients(
  config: FrozenConfigDict, mesh: Mesh, collections: Sequence[str] = ('batch_stats',)
) -> Callable:
  """Builds the loss and its gradients on one device of `mesh`, for use under `shard_map`.

  Args:
    config: the whole config.
    mesh: the devices.
    collections: the Flax collections that the network writes and the function returns.

  Returns:
    `f(params, batch_stats, batch, step, colour, statistics, first=None, examples=None) -> ((loss, (logits,
    examples, variables)), gradients)`. `loss` is this device's share of the mean loss, `logits` belong to
    its rows, and `examples` is the number of rows of the global batch whose mask is set. If `batch` is only
    a part of this device's rows, `first` must give the index of its first row in the global batch, and
    `examples` that number of rows.
  """
  module = sharding.local_module(config, mesh)
  seed_key = rng.seed_key(config.seed)

  def function(params, batch_stats, batch, step, colour, statistics, first=None, examples=None):
    labels, mask = batch['label'], batch['mask']
    if first is None:
      first = lax.axis_index(mesh_lib.DATA) * len(labels)
      examples = lax.psum(mask.sum(), mesh_lib.DATA)
    rows = first + jnp.arange(len(labels))
    images = augment.train_images(batch['image'], rows, seed_key, step, colour, statistics, config)
    mixup = config.augment.mixup > 0
    if mixup:
      shares = augment.own_shares(mask, rows, seed_key, step, config)
      images = augment.mixed(images, shares)

    def loss_of(params):
      # Before the layers cast the parameters to bfloat16, so that the devices add up float32 gradients.
      params = sharding.own_copies(params)
      logits, variables = module.apply(
        {'params': params, 'batch_stats': batch_stats},
        images,
        train=True,
        rows=rows,
        rngs={'dropout': rng.step_key(seed_key, step, rng.DROPOUT)},
        mutable=list(collections),
      )
      losses = _losses(logits, batch, config.train.label_smoothing)
      if mixup:
        partners = {n: augment.of_partners(batch[n]) for n in ('label', 'weight') if n in batch}
        others = _losses(logits, partners, config.train.label_smoothing)
        share = shares.astype(losses.dtype)
        losses = share * losses + (1 - share) * others
      loss = jnp.where(mask, losses, 0.0).sum() / jnp.maximum(examples, 1).astype(losses.dtype)
      return loss, (logits, examples, variables)

    return jax.value_and_grad(loss_of, has_aux=True)(params)

  return function


def in_micro_batches(
  compute: Callable, count: int, merge: Callable[[list], Any] = lambda parts: {}
) -> Callable:
  """Splits the rows of a device into `count` parts and adds up the loss and the gradients of the parts.

  The results equal those of all rows at once except for the order of sums, and the random numbers are the
  same. The activations that are stored for the gradients are those of one part at a time. The devices along
  'data' communicate once, after the last part.

  Args:
    compute: the function that `loss_and_gradients` returns.
    count: number of parts; it must divide the number of rows of a device.
    merge: combines the `variables` that `compute` returns for each part; by default they are dropped.

  Returns:
    `f(params, batch_stats, batch, step, colour, statistics)`, with the results of `compute`.
  """

  def function(params, batch_stats, batch, step, colour, statistics):
    rows = len(batch['label'])
    size = rows // count
    examples = lax.psum(batch['mask'].sum(), mesh_lib.DATA)
    first = lax.axis_index(mesh_lib.DATA) * rows
    total: Any = None
    parts, variables = [], []
    replicated = jax.tree.map(lambda leaf: not sharding.differs(leaf), params)
    params = sharding.own_copies(params)  # the devices add up the gradients of all parts at once
    for start in range(0, rows, size):
      part = {name: leaf[start : start + size] for name, leaf in batch.items()}
      (loss, (logits, _, own)), grads = compute(
        params, batch_stats, part, step, colour, statistics, first + start, examples
      )
      parts.append(logits)
      variables.append(own)
      total = (loss, grads) if total is None else jax.tree.map(jnp.add, total, (loss, grads))
      # Make the next part depend on the gradients of this one. Otherwise XLA's CPU backend, which ignores
      # optimization barriers, holds the activations of all parts at once: 149 instead of 81 MB of temporaries
      # at a quarter of the width with 4 parts of 8 images. `lax.scan` needs 68 MB, but a step took 3.8 times
      # as long.
      params = jax.tree.map(lambda leaf, grad: leaf + 0 * grad.ravel()[0], params, total[1])
    loss, grads = total
    grads = jax.tree.map(
      lambda grad, summed: lax.psum(grad, mesh_lib.DATA) if summed else grad, grads, replicated
    )
    return (loss, (jnp.concatenate(parts), examples, merge(variables))), grads

  return function


def make_train_step(config: FrozenConfigDict, mesh: Mesh) -> jax.stages.Wrapped:
  """Compiles the training step for `mesh`.

  Returns:
    `step(state, batch, rates, colour, statistics) -> (state, loss)`, with `state` donated. `rates` is a tree
    of scalars like the parameters and `colour` the strength of the colour noise, both float32. The loss is
    the mean cross-entropy over the rows of the global batch whose mask is set.

  Raises:
    UserError: the batch cannot be divided into `config.micro_batches` parts on each device, or for mixup
      into pairs of each part.
  """
  compute = loss_and_gradients(config, mesh)
  mixup = config.augment.mixup > 0
  parts = mesh.shape[mesh_lib.DATA] * config.micro_batches * (2 if mixup else 1)
  if (config.micro_batches > 1 or mixup) and config.train.batch_size % parts:
    raise UserError(
      f'config.micro_batches={config.micro_batches} on a mesh with data={mesh.shape[mesh_lib.DATA]}'
      f'{", and the pairs of config.augment.mixup" if mixup else ""}: '
      f'config.train.batch_size={config.train.batch_size} must be a multiple of {parts}'
    )
  if config.micro_batches > 1:
    compute = in_micro_batches(compute, config.micro_batches)
  transform = optimizer.paper_sgd(config.optim)

  def step(state, batch, rates, colour, statistics):
    (loss, (logits, examples, variables)), grads = compute(
      state.params, state.batch_stats, batch, state.step, colour, statistics
    )
    updates, opt_state = transform.update(grads, state.opt_state, state.params, rates=rates)
    correct = (batch['mask'] & (_counts(logits, batch['label']) == 0)).sum()
    loss, correct = lax.psum((loss, correct), mesh_lib.DATA)
    new = {'loss': loss, 'steps': jnp.ones(()), 'correct': correct, 'examples': examples}
    params = optax.apply_updates(state.params, updates)
    done = state.step + 1
    new_state = TrainState(
      step=done,
      params=params,
      batch_stats=variables.get('batch_stats', {}),
      opt_state=opt_state,
      sums={name: total + new[name].astype(total.dtype) for name, total in state.sums.items()},
      ema=optimizer.averaged(state.ema, params, config.optim.ema, done) if state.ema else {},
    )
    return new_state, loss

  state_specs = state_specs_of(config)
  in_specs = (state_specs, P(mesh_lib.DATA), P(), P(), P())
  sharded = sharding.shard_map(step, mesh, in_specs, (state_specs, P()))
  return jax.jit(sharded, donate_argnums=0)


def make_predict_step(
  config: FrozenConfigDict, mesh: Mesh, views: int
) -> Callable[[dict, dict, Array, Array], Array]:
  """Compiles the prediction of one model for `mesh`.

  Returns:
    `predict(params, batch_stats, canvases, mean_image) -> probabilities`. It maps uint8 canvases
    `[B, C, C, 3]` to float32 `[B, classes]`, the softmax averaged over the views `augment.VIEWS[views]`.
  """
  module = sharding.local_module(config, mesh)
  table = jnp.asarray(augment.VIEWS[views], jnp.float32)

  def predict(params, batch_stats, canvases, mean_image):
    def one(view):
      images = augment.eval_images(canvases, view, mean_image, config)
      logits = module.apply({'params': params, 'batch_stats': batch_stats}, images, train=False)
      return jax.nn.softmax(jnp.asarray(logits))

    return lax.map(one, table).mean(0)

  own = state_specs_of(config)
  in_specs = (own.params, own.batch_stats, P(mesh_lib.DATA), P())
  return jax.jit(sharding.shard_map(predict, mesh, in_specs, P(mesh_lib.DATA)))


@jax.jit
def score(probabilities: Array, labels: Array, mask: Array) -> dict[str, Array]:
  """Sums errors and losses over the rows whose mask is set.

  Args:
    probabilities: float32 `[B, classes]`.
    labels: int32 `[B]`.
    mask: bool `[B]`.

  Returns:
    float32 scalars: `top1` and `top5`, the numbers of errors, where a tie with the label counts as wrong;
    `loss`, the sum of the negative log probabilities of the labels; `examples`, the number of rows.
  """
  above = _counts(probabilities, labels)
  own = jnp.take_along_axis(probabilities, labels[:, None], axis=-1)[:, 0]
  loss = -jnp.log(jnp.maximum(own, jnp.finfo(jnp.float32).tiny))
  rows = {'top1': above >= 1, 'top5': above >= 5, 'loss': loss, 'examples': jnp.ones_like(loss)}
  return {
    name: jnp.where(mask, value.astype(jnp.float32), 0.0).sum() for name, value in rows.items()
  }
