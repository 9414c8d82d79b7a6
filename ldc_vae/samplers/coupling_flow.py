"""A normalising flow of latents, as a law with a density.

Coupling layers of rational-quadratic splines, Durkan et al. (2019),
https://arxiv.org/abs/1906.04032, with a learned linear map before each in the
LU form of Kingma and Dhariwal (2018), https://arxiv.org/abs/1807.03039; trained
by maximum likelihood. A draw takes one pass.

Letters: N latents, D latent size, A of its directions that vary, B latents of a
batch, M bins of a spline.
"""

from collections.abc import Callable
import functools
import math

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae import elbo
from ldc_vae.models import latent_nets
from ldc_vae.samplers import training

Array = jax.Array

NUM_STEPS = 3000  # updates

_BATCH_SIZE = 512
_LEARNING_RATE = 1e-3  # at the start of a cosine to 0
_EMA_DECAY = 0.99
_NUM_LAYERS = 6
_WIDTH, _NUM_BLOCKS = 128, 1  # of the residual blocks of each layer
_NUM_BINS = 8  # M
_BOUND = 5.0  # deviations; a spline is the identity beyond
_MIN_SIZE = 1e-3  # of a bin, as a share of all
_MIN_SLOPE = 1e-3  # at a knot


def fit(
    latents: np.ndarray, *, seed: int, num_steps: int = NUM_STEPS
) -> Callable[[int, int], np.ndarray]:
  """Trains the flow on latents.

  Args:
    latents: Draws of the aggregate posterior, shape [N, D].
    seed: Of the weights and the batches.
    num_steps: Updates of Adam, at least 1.

  Returns:
    A function `(num, seed) -> float32 [num, D]`.

  Raises:
    ValueError: The training diverged, or has no steps.
  """
  training.check_steps(num_steps, 'flow')
  return training.fit(
      _train,
      draws,
      latents,
      seed=seed,
      num_steps=num_steps,
      what='flow',
  )


def log_prob(params: chex.ArrayTree, u: Array) -> Array:
  """log p(u) of one whitened latent [A]; a scalar in nats."""
  chex.assert_rank(u, 1)
  noise, log_det = transform(params, u)
  return elbo.standard_normal_log_prob(noise) + log_det


@functools.partial(jax.jit, static_argnames='shape')
def draws(
    params: chex.ArrayTree, key: Array, shape: tuple[int, int]
) -> Array:
  """Whitened latents of a shape [n, A], each from noise of its own."""
  noise = jax.random.normal(key, shape)
  return transform(params, noise, inverse=True)[0]


def spline(
    x: Array,
    widths: Array,
    heights: Array,
    slopes: Array,
    *,
    bound: float,
    inverse: bool = False,
) -> tuple[Array, Array]:
  """A monotone rational-quadratic spline of [-bound, bound], else the identity.

  Durkan et al. (2019), equations 4 to 8; Gregory and Delbourgo (1982).

  Args:
    x: A number.
    widths: Free numbers whose softmax gives the bins' widths, shape [M].
    heights: The same of their heights, shape [M].
    slopes: Free numbers of the slopes at the inner knots, shape [M - 1]; 0 is
      slope 1, which the outer knots have.
    bound: Where the spline ends.
    inverse: Map back.

  Returns:
    The number that x is mapped to, and the log derivative of the map; nats.
  """
  chex.assert_rank([x, widths, heights, slopes], [0, 1, 1, 1])
  chex.assert_equal_shape([widths, heights])
  left, width = _bins(widths, bound)
  bottom, height = _bins(heights, bound)
  shift = math.log(math.expm1(1.0 - _MIN_SLOPE))
  inner = _MIN_SLOPE + jax.nn.softplus(slopes + shift)
  one = jnp.ones(1, inner.dtype)
  slopes = jnp.concatenate([one, inner, one])

  clipped = jnp.clip(x, -bound, bound)  # no NaN of what is not used
  start = bottom if inverse else left
  index = jnp.sum(clipped >= start[1:])
  # a product rather than a gather, whose gradient is a slow scatter
  chosen = (jnp.arange(len(widths)) == index).astype(widths.dtype)
  left, width, bottom, height, low, high = (
      jnp.sum(chosen * each)
      for each in (left, width, bottom, height, slopes[:-1], slopes[1:])
  )
  slope = height / width
  bend = low + high - 2.0 * slope
  if inverse:
    rise = clipped - bottom
    a = height * (slope - low) + rise * bend
    b = height * low - rise * bend
    c = -slope * rise
    # the form of the root that does not cancel
    root = jnp.sqrt(jnp.maximum(jnp.square(b) - 4.0 * a * c, 0.0))
    part = 2.0 * c / (-b - root)
  else:
    part = (clipped - left) / width
  product = part * (1.0 - part)
  below = slope + bend * product
  derivative = (
      jnp.square(slope)
      * (
          high * jnp.square(part)
          + 2.0 * slope * product
          + low * jnp.square(1.0 - part)
      )
      / jnp.square(below)
  )
  log_derivative = jnp.log(derivative)
  if inverse:
    y = left + width * part
    log_derivative = -log_derivative
  else:
    y = bottom + height * (slope * jnp.square(part) + low * product) / below
  inside = jnp.abs(x) < bound
  return jnp.where(inside, y, x), jnp.where(inside, log_derivative, 0.0)


class Layer(nn.Module):
  """A linear map, then splines of half of the numbers, given the other half.

  x [..., A] -> y [..., A] and the log determinant [...] of dy/dx, in nats. It
  starts as a random rotation.
  """

  width: int
  num_blocks: int
  num_bins: int

  @nn.compact
  def __call__(self, x: Array, inverse: bool = False) -> tuple[Array, Array]:
    size = x.shape[-1]
    rotation, lower, upper, log_diagonal = self._linear(size)
    log_det = jnp.sum(log_diagonal)
    if inverse:
      y, spline_log_det = self._couple(x, inverse)
      flat = y.reshape(-1, size).T
      flat = jax.scipy.linalg.solve_triangular(upper.T, flat, lower=True)
      flat = jax.scipy.linalg.solve_triangular(
          lower.T, flat, lower=False, unit_diagonal=True
      )
      return flat.T.reshape(x.shape) @ rotation.T, spline_log_det - log_det
    y, spline_log_det = self._couple(x @ rotation @ lower @ upper, inverse)
    return y, spline_log_det + log_det

  def _linear(self, size):
    """Q, L, U [A, A] each, and the log diagonal [A] of U."""
    orthogonal, zeros = nn.initializers.orthogonal(), nn.initializers.zeros
    rotation = self.param('rotation', orthogonal, (size, size))
    below = self.param('lower', zeros, (size, size))
    above = self.param('upper', zeros, (size, size))
    log_diagonal = self.param('log_diagonal', zeros, (size,))
    return (
        # fixed, so that its determinant stays 1
        jax.lax.stop_gradient(rotation),
        jnp.tril(below, -1) + jnp.eye(size),
        jnp.triu(above, 1) + jnp.diag(jnp.exp(log_diagonal)),
        log_diagonal,
    )

  def _couple(self, x, inverse):
    """Splines of the second half of x [..., A], by a net of the first."""
    kept, moved = jnp.split(x, [x.shape[-1] // 2], axis=-1)
    # one number has nothing beside it: its net has a constant input
    inputs = kept if kept.shape[-1] else jnp.zeros((*x.shape[:-1], 1))
    features = latent_nets.ResidualMlp(self.width, self.num_blocks)(inputs)
    each = 3 * self.num_bins - 1
    zeros = nn.initializers.zeros_init()
    free = nn.Dense(moved.shape[-1] * each, kernel_init=zeros)(features)
    free = free.reshape(*moved.shape, each)
    function = functools.partial(spline, bound=_BOUND, inverse=inverse)
    for _ in range(moved.ndim):
      function = jax.vmap(function)
    cuts = [self.num_bins, 2 * self.num_bins]
    moved, log_derivatives = function(moved, *jnp.split(free, cuts, axis=-1))
    y = jnp.concatenate([kept, moved], axis=-1)
    return y, jnp.sum(log_derivatives, axis=-1)


def init(key: Array, size: int) -> chex.ArrayTree:
  """Weights of all layers, stacked, for whitened latents [..., A]."""
  layer = create_layer()
  keys = jax.random.split(key, _NUM_LAYERS)
  return jax.vmap(lambda key: layer.init(key, jnp.zeros(size)))(keys)


def transform(
    params: chex.ArrayTree, u: Array, inverse: bool = False
) -> tuple[Array, Array]:
  """Maps latents to noise, or back.

  Args:
    params: As `init` gives them.
    u: Whitened latents, or noise, shape [..., A].
    inverse: From noise to latents.

  Returns:
    Shape [..., A], and the log determinant of the map's Jacobian, shape [...].
  """
  layer = create_layer()

  def step(carry, params):
    u, total = carry
    u, log_det = layer.apply(params, u, inverse)
    return (u, total + log_det), None

  carry = (u, jnp.zeros(u.shape[:-1]))
  return jax.lax.scan(step, carry, params, reverse=inverse)[0]


def create_layer() -> Layer:
  """One layer of the flow, for whitened latents [..., A]."""
  return Layer(_WIDTH, _NUM_BLOCKS, _NUM_BINS)


def _bins(free: Array, bound: float) -> tuple[Array, Array]:
  """Where bins start, and their sizes, [M] each; in all 2 bound."""
  share = _MIN_SIZE + (1.0 - _MIN_SIZE * len(free)) * jax.nn.softmax(free)
  sizes = 2.0 * bound * share
  starts = jnp.cumsum(sizes) - sizes - bound
  return starts, sizes


@functools.partial(jax.jit, static_argnames='num_steps')
def _train(u: Array, key: Array, num_steps: int) -> chex.ArrayTree:
  """The averaged weights after `num_steps` updates on u [N, A]."""
  init_key, steps_key = jax.random.split(key)

  def loss_fn(params, rows, key):
    del key
    return -jnp.mean(jax.vmap(log_prob, in_axes=(None, 0))(params, rows))

  return training.train(
      loss_fn,
      init(init_key, u.shape[1]),
      u,
      steps_key,
      num_steps,
      batch_size=_BATCH_SIZE,
      learning_rate=_LEARNING_RATE,
      ema_decay=_EMA_DECAY,
  )
