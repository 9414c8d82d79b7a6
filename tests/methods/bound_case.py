"""Small methods, and their bounds in NumPy."""

import functools

import jax
import numpy as np
import scipy.stats

from ldc_vae.methods import base
from ldc_vae.models import model as model_lib
from tests.methods import method_case

SHAPE = (4, 4, 1)
SCALE = 0.5
BATCH, DIM = 4, 3
STEIN_FIELDS = dict(
  num_particles=3,
  kernel='rbf',
  bandwidth='expected',
  bandwidth_factor=1.0,
  off_diagonal=True,
)
LONE = {'num_particles': 1, 'off_diagonal': False}
LEBM_FIELDS = dict(
  posterior_steps=3,
  posterior_step_size=0.1,
  prior_steps=2,
  prior_step_size=0.4,
  r1_weight=0.0,
)
images = functools.partial(method_case.images, (BATCH, *SHAPE))
keys = functools.partial(method_case.keys, BATCH)


def create_model(
  encoder: str = 'gaussian', num_pseudo_inputs: int = 2
) -> model_lib.Model:
  """Small networks for 4x4 images."""
  return model_lib.create_model(
    SHAPE,
    latent_size=DIM,
    hidden_sizes=(12,),
    energy_width=8,
    energy_blocks=1,
    noise_size=4,
    num_pseudo_inputs=num_pseudo_inputs,
    scale=SCALE,
    encoder=encoder,
  )


def create_context(**kwargs) -> base.Context:
  """A context on one device."""
  return base.Context(**{'progress': 0.5, **kwargs})


def run_phase(method, params, phase=0, **context):
  """A phase's (loss, (metrics, updates)) and the gradient by all `params`."""
  return method_case.run(
    method.phases[phase].objective_fn,
    params,
    images(),
    keys(),
    create_context(**context),
  )


def posterior(model, params, num_samples):
  """mean, std [B, 1, D] and draws z [B, K, D] in NumPy."""
  encode_fn = jax.jit(model.modules['encoder'].apply)
  mean, logvar = jax.device_get(encode_fn(params['encoder'], images()))
  mean, std = mean[:, None], np.exp(0.5 * logvar)[:, None]
  noise = np.asarray(base.draw_normal(keys(), (num_samples, DIM)))
  return mean, std, mean + std * noise


def log_likelihoods(model, params, z):
  """log N(x; D(z), scale^2) [B, K] in NumPy."""
  decoded = np.asarray(jax.jit(model.decode)(params, z))
  terms = scipy.stats.norm.logpdf(images()[:, None], decoded, SCALE)
  return np.sum(terms, axis=(2, 3, 4))


def log_normal(z, mean, std):
  """log N(z; mean, std^2), summed over the last axis, in NumPy."""
  return np.sum(scipy.stats.norm.logpdf(z, mean, std), axis=-1)
