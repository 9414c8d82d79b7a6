"""Whether a run is still sound: updates that are not finite, and collapse.

It works on metrics that the train step has already computed. `Watch` reads one
number per step, of steps that lie a few behind the one under way, so that the
devices never wait for it.
"""

import collections
from collections.abc import Callable, Iterator, Mapping
import math
import time
from typing import Any, NamedTuple

from absl import logging
import jax
import numpy as np

POLICIES = ('stop', 'skip')

# Metrics of the train step: the count of updates that were not finite, and the
# beginning of the names of the gradients' norms.
SKIPPED = 'skipped'
GRAD_NORM = 'grad_norm_'

# Updates left out in a row after which skipping cannot help: the weights have
# not moved, and every batch of the last hundred was refused.
_MAX_IN_A_ROW = 100

# A posterior of a Gibbs energy with prior N(0, I) is no wider than the prior:
# at twice its width the repulsion has run away. At a fiftieth it is a point:
# SVGD with the diagonal ends there, and then latents between those of two
# images were never decoded in training.
_POSTERIOR_STD = (0.02, 2.0)

# The sampler's latents are standardised by those that they must match, whose
# standard deviation is thus 1: below half of it modes are missing, above twice
# of it the sampler draws what the decoder has never seen.
_SAMPLER_STD = (0.5, 2.0)

# Kernel values of the other particles, in units of a particle's own, and the
# repulsion in units of the averaged score: below a hundredth SVGD is the plain
# gradient of the energy. The repulsion falls with its temperature, and is
# checked while that is high: for the first tenth of the training.
_KERNEL_ACTS = 1e-2
_HOT = 0.3
_HOT_FROM = 0.01  # of the training

# Burda et al. (2016), table 1, https://arxiv.org/abs/1509.00519: VAEs of 50
# latents use 19 to 25 of them. Below a tenth the decoder all but ignores them.
_ACTIVE_FRACTION = 0.1

# Before this fraction of the training, and before so many steps, everything is
# still on its way.
_WARM_UP = 0.1
_FEWEST_STEPS = 100


class NonFiniteError(FloatingPointError):
  """An update was not finite, and the run is to stop for it."""


class Watch:
  """Looks at every step for an update that was not finite.

  The train step counts such an update in its metric `skipped`, and leaves it
  out where it may be skipped; here the run stops for it, or says so and goes
  on.
  """

  def __init__(
    self,
    policy: str,
    *,
    skipped: int,
    depth: int,
    seconds: float,
    last_good_fn: Callable[[], str],
  ):
    """Starts with nothing under way.

    Args:
      policy: 'stop' or 'skip'.
      skipped: Updates left out before, in an earlier part of the run.
      depth: Steps that may be under way before the oldest is waited for.
      seconds: Fewer where they would take longer than this: a signal waits for
        all of them.
      last_good_fn: Says in words where the last good checkpoint is.
    """
    if policy not in POLICIES:
      raise ValueError(f'policy={policy!r}; known: {", ".join(POLICIES)}')
    self._policy, self._skipped = policy, skipped
    self._depth, self._seconds = depth, seconds
    self._step_seconds = 0.0  # of a step, smoothed
    self._last: float | None = None
    self._last_good_fn = last_good_fn
    self._in_a_row = 0
    self._under_way = collections.deque()
    self._newest: Mapping[str, jax.Array] = {}

  def add(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
    """Notes a step that was started; waits for those too far before it.

    Raises:
      NonFiniteError: That earlier one was not finite, and the policy is stop;
        or skipping leads nowhere.
    """
    metrics[SKIPPED].copy_to_host_async()
    self._under_way.append((step, metrics))
    allowed = self._depth
    if self._step_seconds * allowed > self._seconds:
      allowed = int(self._seconds / self._step_seconds)
    while len(self._under_way) > allowed:
      self._look(*self._under_way.popleft())
      now = time.monotonic()
      if self._last is not None:
        self._step_seconds += 0.3 * (now - self._last - self._step_seconds)
      self._last = now

  def drain(self) -> None:
    """Waits for all steps under way; raises like `add`."""
    while self._under_way:
      self._look(*self._under_way.popleft())

  def newest_loss(self) -> float:
    """Returns the loss of the newest step that is known to be done, or NaN."""
    return float(self._newest.get('loss', math.nan))

  def check_state(self, step: int, state: Any) -> None:
    """Refuses a state with NaN or inf, before it is saved.

    Args:
      step: Of the state.
      state: Any tree of arrays.

    Raises:
      NonFiniteError: A number is not finite: a gradient whose loss was.
    """
    name = first_non_finite(state)
    if name is not None:
      raise NonFiniteError(self._sentence(name, step))

  def _sentence(self, what: str, step: int) -> str:
    """Says why the run stops, and what to do."""
    return (
      f'{what} not finite at step {step}; {self._last_good_fn()}: run again'
      ' with --config.train.non_finite=skip to go on without such updates,'
      ' or in another --workdir with a lower config.optimizer.learning_rate'
      ' or a config.optimizer.clip_norm'
    )

  def _look(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
    """Waits for one step and checks it."""
    skipped = int(metrics[SKIPPED])
    self._newest = metrics
    if skipped == self._skipped:
      self._in_a_row = 0
      return
    self._skipped = skipped
    self._in_a_row += 1
    what = non_finite_terms(jax.device_get(checked(metrics, self._policy)))
    if self._policy == 'stop':
      raise NonFiniteError(self._sentence(what, step))
    if self._in_a_row == _MAX_IN_A_ROW:
      raise NonFiniteError(
        f'{what} not finite at step {step}, as at each of the {_MAX_IN_A_ROW}'
        f' steps up to it; {self._last_good_fn()}: start in another --workdir'
        ' with a lower config.optimizer.learning_rate or a'
        ' config.optimizer.clip_norm'
      )
    if skipped & (skipped - 1) == 0:  # 1, 2, 4, 8, ... lines, not thousands
      logging.warning(
        'step %d: %s not finite, the update is left out (%d so far)',
        step,
        what,
        skipped,
      )


def checked(
  metrics: Mapping[str, jax.Array], policy: str
) -> dict[str, jax.Array]:
  """Returns those metrics that decide whether an update is finite.

  Args:
    metrics: The metrics of a train step.
    policy: 'skip' checks all of them, 'stop' leaves out the norms of the
      gradients, which are computed in logged steps only.
  """
  return {
    name: x
    for name, x in metrics.items()
    if policy == 'skip' or not name.startswith(GRAD_NORM)
  }


def non_finite_terms(metrics: Mapping[str, Any]) -> str:
  """The names of the metrics that are not finite, the loss first, in words."""
  names = sorted(
    (name for name, x in metrics.items() if not math.isfinite(x)),
    key=lambda name: (name != 'loss', name),
  )
  return ', '.join(names) or 'the statistics of the latents'


def first_non_finite(tree: Any) -> str | None:
  """The name of the first array in a tree that holds NaN or inf, or None."""
  for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
    if not np.isfinite(np.asarray(leaf)).all():
      return jax.tree_util.keystr(path, simple=True, separator='.')
  return None


class _Alarm(NamedTuple):
  """Something to warn of, once: a metric between two bounds, and why.

  It rings from a fraction `start` of the training on, and, where `during` is
  not '', while that metric is at least `least`.
  """

  name: str
  above: float
  below: float
  sentence: str
  during: str = ''
  least: float = 0.0
  start: float = _WARM_UP

  def rings(self, row: Mapping[str, float]) -> bool:
    """Whether a row of metrics sets it off, at whatever step."""
    if self.during and not row.get(self.during, math.nan) >= self.least:
      return False
    return self.above < row.get(self.name, math.nan) < self.below


class Alarms:
  """Warns, once each, of the ways in which a latent model collapses."""

  def __init__(
    self,
    *,
    latent_size: int,
    num_steps: int,
    more_likelihood: str,
    less_likelihood: str,
    kl_warmup: float = 0.0,
  ):
    """Starts with no alarm given.

    Args:
      latent_size: D.
      num_steps: Steps of the whole run; most alarms pass over its first tenth,
        and all over its first hundred steps.
      more_likelihood: What gives the likelihood more weight, as 'lower
        config.method.beta'.
      less_likelihood: What gives it less.
      kl_warmup: Fraction of the training in which the posteriors are still
        free of the prior; their alarms wait for its end.
    """
    self._num_steps = num_steps
    start = max(_WARM_UP, kl_warmup)
    self._alarms = [
      *_posterior_alarms(latent_size, more_likelihood, less_likelihood, start),
      *_sampler_alarms(),
    ]

  def check(self, step: int, row: Mapping[str, float]) -> list[str]:
    """Logs the alarms that a row of metrics sets off.

    Args:
      step: The step of the row.
      row: Metrics under their logged names; not all need be there.

    Returns:
      The sentences, which do not come again.
    """
    ringing = [
      alarm
      for alarm in self._alarms
      if step >= max(_FEWEST_STEPS, alarm.start * self._num_steps)
      and alarm.rings(row)
    ]
    sentences = []
    for alarm in ringing:
      self._alarms.remove(alarm)
      sentences.append(
        f'step {step}: {alarm.name}={row[alarm.name]:.3g}: {alarm.sentence}'
      )
      logging.warning('%s', sentences[-1])
    return sentences


def _posterior_alarms(
  latent_size: int, more_likelihood: str, less_likelihood: str, start: float
) -> Iterator[_Alarm]:
  """Yields the alarms of the posteriors of D latents."""
  low, high = _POSTERIOR_STD
  yield _Alarm(
    'train/posterior_std',
    0.0,
    low,  # exactly 0: meant to be points
    f'the posteriors have collapsed to points (below {low}): the likelihood'
    f' weighs too much, or their repulsion too little; {less_likelihood}',
    start=start,
  )
  yield _Alarm(
    'train/posterior_std',
    high,
    math.inf,
    f'the posteriors are wider than the prior (above {high}): they run away;'
    ' lower config.optimizer.learning_rate',
    start=start,
  )
  least = max(1, math.ceil(_ACTIVE_FRACTION * latent_size))
  yield _Alarm(
    'validation/active_units',
    -math.inf,
    least,
    f'of {latent_size} latents fewer than {least} depend on the image: the'
    f' decoder ignores them; {more_likelihood}',
    start=start,
  )


def _sampler_alarms() -> Iterator[_Alarm]:
  """Yields the alarms of a sampler net that is trained with the rest."""
  low, high = _SAMPLER_STD
  yield _Alarm(
    'train/sampler_std',
    -math.inf,
    low,
    f'the sampler draws from a part of the latents only (below {low} of'
    ' their spread); lower config.optimizer.latent_learning_rate',
  )
  yield _Alarm(
    'train/sampler_std',
    high,
    math.inf,
    f'the sampler spreads beyond the latents (above {high} times theirs);'
    ' lower config.optimizer.latent_learning_rate',
  )
  silent = (
    f"the sampler's kernel does not act (below {_KERNEL_ACTS}): its particles"
    ' follow the plain gradient of the energy, and may miss modes; raise'
    ' config.method.sampler_mass'
  )
  yield _Alarm('train/kernel_mass', -math.inf, _KERNEL_ACTS, silent)
  yield _Alarm(
    'train/repulsion_share',
    -math.inf,
    _KERNEL_ACTS,
    silent,
    during='train/temperature',
    least=_HOT,
    start=_HOT_FROM,
  )
