"""Splits of the images, and images that are held out for validation."""

import chex
import numpy as np

from alexnet_jax.data.splits import Split, cores, generator, hold_out, split_off


def test_hold_out_takes_a_share_of_every_class():
  rng = np.random.default_rng(0)
  for seed in range(30):
    strata = rng.integers(0, rng.integers(1, 20), rng.integers(1, 200))
    share = rng.uniform(0.05, 0.95)
    held = hold_out(strata, share, seed)
    counts, kept = np.bincount(strata), np.bincount(strata[~held], minlength=strata.max() + 1)
    assert ((kept >= 1) == (counts >= 1)).all()
    assert (np.abs(counts - kept - share * counts) <= 1 + 1e-9).all()
    available = (np.maximum(counts, 1) - 1).sum()
    assert held.sum() <= max(1, int(share * len(strata) + 0.5))
    assert held.any() == (available > 0)


def test_the_held_out_images_are_drawn_class_by_class():
  """The images that a seed holds out must never change, because runs were trained without them."""
  strata = np.random.default_rng(1).choice([-3, 0, 2, 7], 200, p=[0.1, 0.2, 0.3, 0.4])
  held, rng, expected = hold_out(strata, 0.3, seed=5), generator(5, 0, purpose=1), set()
  rng.random(4)  # the seed breaks ties
  for value in np.unique(strata):
    images = np.flatnonzero(strata == value)
    expected |= {*rng.permutation(images)[: held[images].sum()].tolist()}
  assert set(np.flatnonzero(held).tolist()) == expected and len(expected) == 60
  assert hold_out(strata[:0], 0.3, seed=5).shape == (0,)


def make_split(n: int) -> Split:
  labels = np.arange(n, dtype=np.int32)

  def fill(i, out):
    out[...] = i

  return Split(labels, lambda i: bytes([i]), lambda i: f'image {i}', fill, sequential=True)


def test_a_selection_renumbers_the_images():
  rows = np.array([4, 1])
  part = make_split(6).select(rows)
  assert len(part) == 2 and part.sequential
  assert [part.read(i) for i in range(2)] == [b'\4', b'\1']
  assert [part.name(i) for i in range(2)] == ['image 4', 'image 1']
  chex.assert_trees_all_equal(part.labels, np.int32([4, 1]))
  out = np.zeros((2, 2, 3), np.uint8)
  part.fill(0, out)
  assert (out == 4).all()
  assert Split(part.labels, part.read, part.name).select(rows[:0]).fill is None


def test_split_off_divides_the_images():
  images = make_split(20)
  train, validation = split_off(images, images.labels % 2, 0.1, seed=0)
  assert len(train) == 18 and len(validation) == 2
  found = [*train.labels, *validation.labels]
  assert sorted(found) == list(range(20)) and sorted(validation.labels % 2) == [0, 1]
  assert split_off(images, images.labels, 0.1, seed=0)[1] is None  # each class has only one image


def test_random_generators_differ_by_every_argument():
  draws = [generator(*key).integers(2**62) for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))]
  assert len(set(draws)) == 4 and draws[0] == generator(0, 0, 0).integers(2**62)
  assert generator(-1, 0, 0).integers(2**62) == generator(2**64 - 1, 0, 0).integers(2**62)


def test_cores_are_those_the_process_may_use(monkeypatch):
  monkeypatch.setattr('os.sched_getaffinity', lambda pid: {0, 2, 5}, raising=False)
  assert cores() == 3
