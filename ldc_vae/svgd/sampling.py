"""SVGD of a user's log density: a state in, a state out.

`init` and `step` are as in blackjax and optax. All arguments but the state may
be closed over, and both functions work under `jit`, `scan`, `vmap` and `pmap`.
"""

from collections.abc import Callable
import operator
from typing import Any, NamedTuple, Protocol

import jax
from jax import flatten_util
import jax.numpy as jnp

from ldc_vae.svgd import arithmetic
from ldc_vae.svgd import directions
from ldc_vae.svgd import kernels

Array = jax.Array
Tree = Any  # arrays in nested dictionaries, lists and tuples, or one array
LogDensity = Callable[..., Array]


class Optimizer(Protocol):
  """The two functions of an `optax.GradientTransformation`."""

  @property
  def init(self) -> Callable[[Tree], Any]:
    """Maps particles to the state of the optimiser."""

  @property
  def update(self) -> Callable[..., tuple[Tree, Any]]:
    """Maps gradients, state and particles to updates and the new state."""


class State(NamedTuple):
  """A set of n particles and the state of its optimiser.

  Attributes:
    particles: One array [n, ...], or a tree of them.
    opt_state: The state of the optimiser.
    speed: The root mean square length of the last direction; NaN at first. It
      tends to 0 where the particles come to rest, except with noise or batches.
  """

  particles: Tree
  opt_state: Any
  speed: Array


class Noise(NamedTuple):
  r"""The noise of noisy SVGD, which keeps variances from collapsing.

  Each step adds w s_i to the direction of particle i, and noise of the variance
  2 w r to its new place: a share w of Langevin dynamics of step size r. As n
  grows, the limit set for many steps approaches the target. Priser, Bianchi and
  Salim (2025), https://arxiv.org/abs/2406.11929.

  The noise of different particles is independent. That of Gallego and Rios
  Insua (2018), https://arxiv.org/abs/1812.00071, has a covariance in
  proportion to the kernel's matrix, and no added score.

  The step size r must be that of the optimiser, and the optimiser plain SGD:
  Adam, for example, would rescale the drift and not the noise.

  Attributes:
    weight: w >= 0, well above 1/n. With 10/n the standard deviations of a
      posterior of 31 weights were right within 5 percent (docs/lab-notes.md).
    step_size: r > 0, the learning rate of `optax.sgd`.
  """

  weight: Array | float
  step_size: Array | float


class Result(NamedTuple):
  """What `run` returns.

  Attributes:
    particles: The particles after the last step, as they were given.
    speeds: `State.speed` of each step, shape [num_steps].
  """

  particles: Tree
  speeds: Array


def init(particles: Tree, optimizer: Optimizer) -> State:
  """Returns the state of particles that have taken no step.

  Args:
    particles: One array [n, ...], or a tree of them with the same n.
    optimizer: Any optimiser of optax.
  """
  particles = jax.tree.map(jnp.asarray, particles)
  flat, _ = _ravel(particles)
  speed = jnp.full((), jnp.nan, arithmetic.at_least_float32(flat))
  return State(particles, optimizer.init(particles), speed)


def step(
  state: State,
  log_density: LogDensity,
  optimizer: Optimizer,
  kernel: kernels.Kernel | kernels.KernelFn,
  *,
  batch: Any = None,
  noise: Noise | None = None,
  key: Array | None = None,
  axis_name: str | None = None,
  **options: Any,
) -> State:
  """One step of SVGD over all pairs, uphill by the optimiser.

  Liu and Wang (2016), Algorithm 1, https://arxiv.org/abs/1608.04471.

  Args:
    state: What `init` or `step` returned.
    log_density: Maps one particle, and `batch` if that is given, to log p up to
      a constant, a scalar. For a batch, scale its likelihood to all the data.
    optimizer: The optimiser of `init`. It is given minus the direction.
    kernel: A kernel of this package, or a smooth function k(x [D], y [D]).
    batch: Data of this step, the second argument of `log_density`.
    noise: For noisy SVGD; None for none.
    key: The key of the noise.
    axis_name: If given, the particles are this device's part of one set that is
      divided over the axis. The noise differs between devices.
    **options: `temperature`, `normalise`, `block_size` and `bandwidth` of
      `svgd_direction`.

  Returns:
    The state after the step.

  Raises:
    ValueError: There is noise without a key, or of a negative weight or step
      size; or the particles are no floats [n, ...]; or see `svgd_direction`.
  """
  z, unravel_fn = _ravel(state.particles)
  own_scores = scores(log_density, state.particles, batch)
  everyone = arithmetic.gather(z, axis_name)
  first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * len(z)
  direction = directions.svgd_direction(
    everyone,
    arithmetic.gather(own_scores, axis_name),
    kernel,
    off_diagonal=False,  # a persistent set
    queries=z,
    first_query=first,
    **options,
  )
  jump = jnp.zeros_like(z)
  if noise is not None:
    key = _check_noise(noise, key)
    if axis_name is not None:
      key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
    direction = direction + noise.weight * own_scores
    scale = jnp.sqrt(2.0 * noise.weight * noise.step_size)
    jump = scale * jax.random.normal(key, z.shape, z.dtype)
  updates, opt_state = optimizer.update(
    unravel_fn(-direction), state.opt_state, state.particles
  )
  particles = jax.tree.map(
    lambda x, update, noise: (x + update + noise).astype(x.dtype),
    state.particles,
    updates,
    unravel_fn(jump),
  )
  square = jnp.square(
    arithmetic.root_mean_square(arithmetic.widened(direction))
  )
  if axis_name is not None:
    square = jax.lax.pmean(square, axis_name)
  return State(particles, opt_state, jnp.sqrt(square))


def run(
  log_density: LogDensity,
  particles: Tree,
  *,
  optimizer: Optimizer,
  kernel: kernels.Kernel | kernels.KernelFn,
  num_steps: int,
  batch_fn: Callable[[Array], Any] | None = None,
  noise: Noise | None = None,
  key: Array | None = None,
  **options: Any,
) -> Result:
  """Takes `num_steps` steps of SVGD, compiled as one loop.

  Args:
    log_density: See `step`.
    particles: The start: one array [n, ...], or a tree of them.
    optimizer: Any optimiser of optax.
    kernel: See `step`.
    num_steps: The number of steps.
    batch_fn: Maps a key to the `batch` of a step; None for no batches.
    noise: See `step`.
    key: The key of batches and noise, which `step` takes one by one.
    **options: See `step`.

  Returns:
    The particles, and how fast they moved.

  Raises:
    ValueError: There is no key for batches or noise, or the number of steps is
      negative; or see `step`.
  """
  if operator.index(num_steps) < 0:
    raise ValueError(f'num_steps={num_steps} is negative; use 0 or more')
  if key is None and (batch_fn is not None or noise is not None):
    raise ValueError('batches and noise are random: give run(..., key=KEY)')

  def body(state, key):
    batch_key = noise_key = None
    if key is not None:
      batch_key, noise_key = jax.random.split(key)
    batch = None if batch_fn is None else batch_fn(batch_key)
    state = step(
      state,
      log_density,
      optimizer,
      kernel,
      batch=batch,
      noise=noise,
      key=noise_key,
      **options,
    )
    return state, state.speed

  keys = None if key is None else jax.random.split(key, num_steps)
  state, speeds = jax.lax.scan(
    body, init(particles, optimizer), keys, length=num_steps
  )
  return Result(state.particles, speeds)


def scores(
  log_density: LogDensity, particles: Tree, batch: Any = None
) -> Array:
  """Returns grad log p at each particle, shape [n, D].

  Args:
    log_density: See `step`.
    particles: One array [n, ...], or a tree of them.
    batch: See `step`.
  """
  args = () if batch is None else (batch,)
  score_fn = jax.vmap(lambda z: jax.grad(log_density)(z, *args))
  return ravel(score_fn(particles))


def ravel(particles: Tree) -> Array:
  """Returns the particles as one array [n, D], as kernels see them.

  Args:
    particles: One array [n, ...], or a tree of them with the same n.
  """
  return _ravel(particles)[0]


def _ravel(particles: Tree) -> tuple[Array, Callable[[Array], Tree]]:
  """The particles as one array [n, D], and the way back."""
  particles = jax.tree.map(jnp.asarray, particles)
  leaves = jax.tree.leaves(particles)
  if (
    len({x.shape[:1] for x in leaves}) != 1
    or not all(x.size and x.ndim for x in leaves)
    or not all(jnp.issubdtype(x.dtype, jnp.floating) for x in leaves)
  ):
    shown = ', '.join(f'{x.dtype}{list(x.shape)}' for x in leaves[:5])
    raise ValueError(
      f'particles are {shown or "no arrays"}; give an array of floats [n, ...],'
      ' or a tree of such arrays with the same n'
    )
  one = jax.tree.map(lambda x: x[0], particles)
  unravel_fn = flatten_util.ravel_pytree(one)[1]
  flat = jax.vmap(lambda tree: flatten_util.ravel_pytree(tree)[0])(particles)
  return flat, jax.vmap(unravel_fn)


def _check_noise(noise: Noise, key: Array | None) -> Array:
  """Returns the key; raises a ValueError where noise cannot be drawn."""
  if key is None:
    raise ValueError('noise is random: give step(..., key=KEY)')
  for name, value in noise._asdict().items():
    if isinstance(value, (int, float)) and not value >= 0:
      raise ValueError(f'Noise({name}={value}) is negative; use 0 or more')
  return key
