"""A small ldc, and what its objectives are given."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae.methods import base
from ldc_vae.methods import moments
from ldc_vae.models import model as model_lib
from tests.methods import method_case

SHAPE = (4, 4, 1)
SIZES = dict(
  latent_size=3,
  hidden_sizes=(12,),
  sampler_width=8,
  sampler_blocks=1,
  energy_width=8,
  energy_blocks=1,
  noise_size=4,
)
BATCH, PARTICLES = 4, 5
LDC_FIELDS = dict(
  inverse_temperature=3.0,
  num_particles=PARTICLES,
  kernel='rbf',
  bandwidth='expected',
  bandwidth_factor=1.0,
  off_diagonal=True,
  latent_energy_weight=0.0,
  num_latent_updates=2,
  latents_per_image=1,
  sampler_kernel='rbf',
  sampler_mass=1.5,
  sampler_svgd=True,
  temperature_start=1.0,
  temperature_end=0.01,
  temperature_fraction=0.5,
  gradient_penalty=0.3,
  moments_decay=0.9,
  whiten=False,
)
images = functools.partial(method_case.images, (BATCH, *SHAPE))
keys = functools.partial(method_case.keys, BATCH)


def create_model(**kwargs) -> model_lib.Model:
  """Small networks for 4x4 images."""
  return model_lib.create_model(SHAPE, **SIZES, scale=0.5, **kwargs)


def create_context(**kwargs) -> base.Context:
  """A context on one device, before the first step."""
  own = {'progress': 0.0, 'stats': stats(moments.init(3)), **kwargs}
  return base.Context(**own)


def stats(latents: dict[str, jax.Array]) -> dict[str, dict[str, jax.Array]]:
  """Stats with moments of latents, and squared distances of 7 on average."""
  distance = {'distance': jnp.float32(3.5), 'weight': jnp.float32(0.5)}
  return {'latents': latents, 'distance': distance}


def running_moments(seed: int = 3) -> dict[str, jax.Array]:
  """Running moments with means other than 0 and stds other than 1."""
  z = np.random.default_rng(seed).normal(size=(32, 2, 3)) * [0.5, 1.0, 2.0]
  z += [1.0, 0.0, -1.0]
  z = z.reshape(-1, 3).astype(np.float32)
  return jax.jit(moments.update)(moments.init(3), z, 0.9)
