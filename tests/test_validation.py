"""Tests of the validation of the loop."""

from absl.testing import absltest
import jax
import numpy as np

from ldc_vae import experiment as experiment_lib
from ldc_vae import streams
from ldc_vae import validation
from ldc_vae.methods import base
from tests import train_case

_config = train_case.load_config


class ValidationTest(train_case.TrainTest):
  def test_validation_is_the_mean_over_every_image(self):
    experiment = experiment_lib.create(_config())
    state = experiment.init_state()
    images = experiment.dataset.images['validation']
    self.assertNotEqual(len(images) % 24, 0)  # the last batch is partial
    one = validation.make_validation_fn(experiment, False, len(images))(state)
    parts = validation.make_validation_fn(experiment, False, 24)(state)
    # the KL term has no noise, so it must not depend on the batches
    np.testing.assert_allclose(
      parts['validation/kl'], one['validation/kl'], rtol=1e-5
    )  # rtol: float32 sums of 64 terms

  def test_validation_of_sets_is_of_sets_without_padding(self):
    experiment = experiment_lib.create(_config('wae_mmd'))
    state = experiment.init_state()
    images = experiment.dataset.images['validation']
    self.assertLen(images, 64)
    whole = validation.make_validation_fn(experiment, False, 64)(state)
    parts = validation.make_validation_fn(experiment, False, 60)(state)
    # a code has no noise: its loss is that of any division
    np.testing.assert_allclose(
      parts['validation/reconstruction'],
      whole['validation/reconstruction'],
      rtol=1e-5,  # float32 sums of 64 terms
    )
    objective_fn = experiment.algorithm.phases[0].objective_fn
    key = jax.random.fold_in(experiment.key, 2**31 + 1)
    metrics = objective_fn(
      state.ema_params,
      images.astype(np.float32) / 255,
      streams.image_keys(key, 64, None),
      base.Context(progress=1.0),
    ).metrics
    # float32: a difference of means of 64 x 64 pairs
    np.testing.assert_allclose(
      whole['validation/mmd'], metrics['mmd'], rtol=1e-4, atol=1e-6
    )
    # two sets of 32 have an unbiased MMD too; one with padding is further off
    np.testing.assert_allclose(
      parts['validation/mmd'], metrics['mmd'], atol=0.5 * metrics['mmd']
    )


if __name__ == '__main__':
  absltest.main()
