"""A normalising flow: a distribution of latents with a density.

The flow has coupling layers of rational-quadratic splines, Durkan et al.
(2019), https://arxiv.org/abs/1906.04032. Before each layer there is a learned
linear map in the LU form of Kingma and Dhariwal (2018),
https://arxiv.org/abs/1807.03039. It is trained by maximum likelihood. A draw
takes one pass.

Letters: N latents, D latent size, A directions in which latents vary, B latents
of a batch, M bins of a spline.
"""

import functools
import math

import chex
from flax import linen as nn
import jax
import jax.numpy as jnp

from ldc_vae import elbo
from ldc_vae.models import latent_nets
from ldc_vae.samplers import training

Array = jax.Array

_NUM_LAYERS = 6
_WIDTH, _NUM_BLOCKS = 128, 1  # residual blocks of each layer
_NUM_BINS = 8  # M
_BOUND = 5.0  # standard deviations; beyond it a spline is the identity
_MIN_SIZE = 1e-3  # smallest bin, as a fraction of the whole interval
_MIN_SLOPE = 1e-3  # smallest slope at a knot


def log_prob(params: chex.ArrayTree, u: Array) -> Array:
  """Returns log p(u) of one whitened latent [A], a scalar in nats."""
  chex.assert_rank(u, 1)
  noise, log_det = transform(params, u)
  return elbo.standard_normal_log_prob(noise) + log_det


def loss(params: chex.ArrayTree, rows: Array, key: Array) -> Array:
  """Returns the mean of -log p(u) over whitened latents [B, A], in nats."""
  del key
  return -jnp.mean(jax.vmap(log_prob, in_axes=(None, 0))(params, rows))


@functools.partial(jax.jit, static_argnames='shape')
def draws(params: chex.ArrayTree, key: Array, shape: tuple[int, int]) -> Array:
  """Draws whitened latents of shape [n, A], each from its own noise."""
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
  """Applies a monotone rational-quadratic spline on [-bound, bound].

  Outside this interval the map is the identity. Durkan et al. (2019), equations
  4 to 8; Gregory and Delbourgo (1982).

  Args:
    x: A scalar.
    widths: Unconstrained widths of the bins, shape [M]; a softmax is applied.
    heights: Unconstrained heights of the bins, shape [M], likewise.
    slopes: Unconstrained slopes at the inner knots, shape [M - 1]. 0 is slope
      1, which is also the slope at the outer knots.
    bound: The end of the interval.
    inverse: Whether to apply the inverse map.

  Returns:
    The value of the map, and its log derivative in nats; both are scalars.
  """
  chex.assert_rank([x, widths, heights, slopes], [0, 1, 1, 1])
  chex.assert_equal_shape([widths, heights])
  left, width = _bins(widths, bound)
  bottom, height = _bins(heights, bound)
  shift = math.log(math.expm1(1.0 - _MIN_SLOPE))
  inner = _MIN_SLOPE + jax.nn.softplus(slopes + shift)
  one = jnp.ones(1, inner.dtype)
  slopes = jnp.concatenate([one, inner, one])

  clipped = jnp.clip(x, -bound, bound)  # avoids NaN outside the interval
  start = bottom if inverse else left
  index = jnp.sum(clipped >= start[1:])
  # A product instead of a gather: the gradient of a gather is a slow scatter.
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
    # this form of the root has no cancellation
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
  """A linear map, then splines that move one half of the coordinates.

  The other half determines the splines. The layer maps x [..., A] to y [..., A]
  and the log determinant [...] of dy/dx, in nats. It starts as a random
  rotation.
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
    """Returns Q, L and U, [A, A] each, and the log diagonal [A] of U."""
    orthogonal, zeros = nn.initializers.orthogonal(), nn.initializers.zeros
    rotation = self.param('rotation', orthogonal, (size, size))
    below = self.param('lower', zeros, (size, size))
    above = self.param('upper', zeros, (size, size))
    log_diagonal = self.param('log_diagonal', zeros, (size,))
    return (
      # no gradient: its determinant must stay 1
      jax.lax.stop_gradient(rotation),
      jnp.tril(below, -1) + jnp.eye(size),
      jnp.triu(above, 1) + jnp.diag(jnp.exp(log_diagonal)),
      log_diagonal,
    )

  def _couple(self, x, inverse):
    """Moves the second half of x [..., A] by splines, given the first half."""
    kept, moved = jnp.split(x, [x.shape[-1] // 2], axis=-1)
    # at A = 1 the first half is empty, so the net gets a constant input
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


def init(key: Array, u: Array) -> chex.ArrayTree:
  """Returns the stacked weights of all layers for one whitened latent [A]."""
  layer = create_layer()
  keys = jax.random.split(key, _NUM_LAYERS)
  return jax.vmap(lambda key: layer.init(key, u))(keys)


def transform(
  params: chex.ArrayTree, u: Array, inverse: bool = False
) -> tuple[Array, Array]:
  """Maps latents to noise, or back.

  Args:
    params: The weights, in the form that `init` returns.
    u: Whitened latents, or noise if `inverse`, shape [..., A].
    inverse: Whether to map noise to latents.

  Returns:
    The mapped points, shape [..., A], and the log determinant of the map's
    Jacobian, shape [...].
  """
  layer = create_layer()

  def step(carry, params):
    u, total = carry
    u, log_det = layer.apply(params, u, inverse)
    return (u, total + log_det), None

  carry = (u, jnp.zeros(u.shape[:-1]))
  return jax.lax.scan(step, carry, params, reverse=inverse)[0]


def create_layer() -> Layer:
  """Returns one layer of the flow, for whitened latents [..., A]."""
  return Layer(_WIDTH, _NUM_BLOCKS, _NUM_BINS)


def _bins(free: Array, bound: float) -> tuple[Array, Array]:
  """Returns the starts and the sizes of bins on [-bound, bound], [M] each."""
  share = _MIN_SIZE + (1.0 - _MIN_SIZE * len(free)) * jax.nn.softmax(free)
  sizes = 2.0 * bound * share
  starts = jnp.cumsum(sizes) - sizes - bound
  return starts, sizes


SAMPLER = training.NetSampler(
  name='flow',
  init_fn=init,
  loss_fn=loss,
  draws_fn=draws,
  num_steps=3000,
  batch_size=512,
  learning_rate=1e-3,
  ema_decay=0.99,
)
