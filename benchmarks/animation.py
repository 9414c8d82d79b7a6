"""Draws a film of the sampler net that learns the distribution of latents.

python -m benchmarks.animation --output=docs/images/sampler_net.gif
python -m benchmarks.animation --workdir=runs/mnist --output=runs/mnist.gif

The latents are those of a set with a known distribution (--sets), or a run's
own (--workdir). In more than two dimensions their two main axes are shown. The
updates are those of `samplers.sampler_net`, and the weights are shown as they
are, not averaged. Grey points are latents, orange ones draws of the sampler
net. In two dimensions, lines are levels of the latent energy f. The time
between frames grows: the first quarter of them has a sixteenth of the updates.
"""

import argparse
from collections.abc import Sequence
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from matplotlib import animation
from matplotlib import figure as mpl_figure
import numpy as np
import optax

from benchmarks import common
from benchmarks import latent_bench_sets
from ldc_vae.reporting import style
from ldc_vae.runtime import files
from ldc_vae.runtime import outputs
from ldc_vae.samplers import sampler_net
from ldc_vae.samplers import sampler_options
from ldc_vae.samplers import training

Array = jax.Array

_NUM_LATENTS, _NUM_SHOWN = 20_000, 800
_INCHES, _DPI, _FRAMES_A_SECOND, _LAST_SECONDS = 4.2, 80, 12, 2
_GRID = 60  # points of a side, at which f is computed


class Frame(NamedTuple):
  """What is shown after some updates, in standardised units.

  Attributes:
    step: The updates done.
    temperature: T of the last of them.
    draws: Draws of the sampler net from the same noise, shape [n, D].
    energy: f at `places`, shape [m].
  """

  step: int
  temperature: float
  draws: np.ndarray
  energy: np.ndarray


def frame_steps(num_frames: int, num_steps: int) -> list[int]:
  """The numbers of updates after which a frame is taken, from 0 on."""
  parts = np.linspace(0.0, 1.0, num_frames) ** 2
  return sorted({num_steps, *(round(num_steps * part) for part in parts)})


def train(
  u: np.ndarray, places: np.ndarray, steps: Sequence[int], seed: int
) -> list[Frame]:
  """Trains both nets, and takes a frame after each number of updates.

  Args:
    u: Standardised latents, shape [N, D].
    places: Where f is wanted, shape [m, D].
    steps: The numbers of updates, ascending; the last is that of all.
    seed: The seed of weights, batches and noise.
  """
  u, options = jnp.asarray(u, jnp.float32), sampler_options.SamplerOptions()
  sampler, energy = sampler_net.sampler(), sampler_net.latent_energy()
  keys = jax.random.split(jax.random.key(seed), 4)
  params = {
    'sampler': sampler.init(keys[0], u[0]),
    'energy': energy.init(keys[1], u[0]),
  }
  rate = optax.cosine_decay_schedule(sampler_net.LEARNING_RATE, steps[-1])
  tx = training.muon(rate, sampler_net.B1)
  noise = jax.random.normal(keys[2], (_NUM_SHOWN, u.shape[1]))

  def update(index, carry):
    params, opt_state = carry
    grads, _ = jax.grad(sampler_net.batch_objective, has_aux=True)(
      params,
      u,
      jax.random.fold_in(keys[3], index),
      index / steps[-1],
      batch_size=sampler_net.BATCH_SIZE,
      options=options,
    )
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  @jax.jit
  def advance(carry, first, last):
    carry = jax.lax.fori_loop(first, last, update, carry)
    f = jax.vmap(lambda z: energy.apply(carry[0]['energy'], z))
    return carry, sampler.apply(carry[0]['sampler'], noise), f(places)

  carry, done, frames = (params, tx.init(params)), 0, []
  for step in steps:
    carry, draws, values = advance(carry, done, step)
    temperature = sampler_net.repulsion_temperature(
      step / steps[-1],
      start=options.temperature_start,
      end=options.temperature_end,
      fraction=options.temperature_fraction,
    )
    frames.append(
      Frame(step, float(temperature), np.asarray(draws), np.asarray(values))
    )
    done = step
  training.check_trained(carry[0], steps[-1], 'sampler net')
  return frames


def draw(
  latents: np.ndarray,
  frames: Sequence[Frame],
  axes: np.ndarray,
  edge: float,
  path: Any,
) -> None:
  """Writes the film.

  Args:
    latents: Standardised latents that are shown, shape [n, D].
    frames: What `train` returned.
    axes: Maps latents to the plane, shape [D, 2].
    edge: Half the width of the plane that is shown.
    path: The GIF file.
  """
  with style.applied():
    fig = mpl_figure.Figure((_INCHES, _INCHES), dpi=_DPI)
    panel = fig.add_axes((0.02, 0.02, 0.96, 0.9))
    options = {'s': 3.0, 'linewidths': 0.0}
    writer = animation.PillowWriter(fps=_FRAMES_A_SECOND)
    with writer.saving(fig, path, _DPI):
      shown = [*frames, *[frames[-1]] * (_LAST_SECONDS * _FRAMES_A_SECOND)]
      for frame in shown:
        panel.clear()
        panel.set(xlim=(-edge, edge), ylim=(-edge, edge))
        panel.set_axis_off()
        if latents.shape[1] == 2:
          line = np.linspace(-edge, edge, _GRID)
          levels = frame.energy.reshape(_GRID, _GRID)
          panel.contour(line, line, levels, 8, colors=style.SKY, linewidths=0.6)
        panel.scatter(*(latents @ axes).T, color=style.GREY, **options)
        panel.scatter(*(frame.draws @ axes).T, color=style.VERMILION, **options)
        fig.suptitle(
          f'{frame.step:,} updates, temperature {frame.temperature:.2g}'
        )
        writer.grab_frame()


def _latents(name: str, workdir: str, seed: int) -> np.ndarray:
  """The latents of a set or of a run, [N, D]."""
  if not workdir:
    rng = np.random.default_rng(seed)
    return latent_bench_sets.create_distribution(name).draw(_NUM_LATENTS, rng)
  with np.load(pathlib.Path(workdir) / outputs.SAMPLES) as arrays:
    return arrays['aggregate_latents'].astype(np.float64)


def main(argv: Sequence[str]) -> int:
  """Trains, and writes the film."""
  parser = argparse.ArgumentParser(description=__doc__)
  add = parser.add_argument
  add('--sets', default='moons_2', help='one of latent_bench_sets.py')
  add('--workdir', default='', help='a run, instead of --sets')
  add('--num_steps', type=common.positive, default=6000, help='updates')
  add('--frames', type=common.positive, default=50)
  add('--seed', type=int, default=0)
  add('--output', required=True, help='a GIF file')
  args = parser.parse_args(argv)
  if pathlib.Path(args.output).suffix != '.gif':
    raise ValueError(f'--output={args.output} must end in .gif')
  files.check_writable(args.output)
  common.set_up_jax()
  latents = _latents(args.sets, args.workdir, args.seed)
  if latents.shape[1] < 2:
    raise ValueError('latents of one dimension make no plane; use more')
  std = latents.std(axis=0)
  u = (latents - latents.mean(axis=0)) / np.where(std > 0.0, std, 1.0)
  axes = np.eye(2)  # main axes would turn the plane
  if u.shape[1] > 2:
    axes = np.linalg.svd(u, full_matrices=False)[2][:2].T
  edge = 1.15 * float(np.max(np.abs(u[:_NUM_SHOWN] @ axes)))
  places = np.zeros((1, u.shape[1]))
  if u.shape[1] == 2:
    line = np.linspace(-edge, edge, _GRID)
    places = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
  frames = train(u, places, frame_steps(args.frames, args.num_steps), args.seed)
  draw(u[:_NUM_SHOWN], frames, axes, edge, args.output)
  print(f'wrote {args.output}')
  return 0


if __name__ == '__main__':
  common.run(main)
