"""Properties of bounds and energies, for many shapes and extreme values.

NaN goes in, NaN comes out: a number that is not known must not look like one.
"""

import functools

from absl.testing import absltest
from absl.testing import parameterized
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae import elbo
from ldc_vae import energy
from tests import property_case

_EXTREMES = property_case.EXTREMES
_arrays = property_case.arrays
_given = property_case.given
_sets = property_case.sets
_with_nan = property_case.with_nan
_IMAGE = (2, 3, 1)


@st.composite
def _images(draw):
  """Logits, or means, of any size, and an image in [0, 1]."""
  image = draw(_arrays(_IMAGE, st.floats(0.0, 1.0, width=32)))
  return draw(_arrays(_IMAGE, _EXTREMES)), image


_LIKELIHOODS = {
  'bernoulli': elbo.bernoulli_log_likelihood,
  'gaussian': functools.partial(
    elbo.gaussian_log_likelihood, log_scale=jnp.float32(-1.0)
  ),
  'logistic': functools.partial(
    elbo.discretized_logistic_log_likelihood, log_scale=jnp.float32(-3.0)
  ),
}
_LIKELIHOODS = {name: jax.jit(fn) for name, fn in _LIKELIHOODS.items()}


class LikelihoodTest(parameterized.TestCase):
  @parameterized.named_parameters(*_LIKELIHOODS.items())
  def test_is_a_finite_scalar_whatever_the_network_says(self, fn):
    grad_fn = jax.jit(jax.grad(fn))

    @_given(_images())
    def check(pair):
      value = fn(*pair)
      self.assertEqual((value.shape, value.dtype), ((), jnp.float32))
      self.assertTrue(np.isfinite(value), value)
      self.assertTrue(np.isfinite(grad_fn(*pair)).all())

    check()

  @parameterized.parameters('bernoulli', 'logistic')
  def test_a_probability_is_at_most_one(self, name):
    @_given(_images())
    def check(pair):
      self.assertLessEqual(float(_LIKELIHOODS[name](*pair)), 0.0)

    check()

  @parameterized.named_parameters(*_LIKELIHOODS.items())
  def test_the_order_of_the_pixels_does_not_matter(self, fn):
    @_given(_images(), st.permutations(range(6)))
    def check(pair, order):
      moved = [x.reshape(-1)[order].reshape(_IMAGE) for x in pair]
      # rtol: float32 sums of 6 terms, some of 1e8
      np.testing.assert_allclose(fn(*moved), fn(*pair), rtol=1e-5)

    check()

  @parameterized.named_parameters(*_LIKELIHOODS.items())
  def test_nan_stays_nan(self, fn):
    @_given(_images())
    def check(pair):
      logits, image = pair
      self.assertTrue(np.isnan(fn(_with_nan(logits), image)))
      self.assertTrue(np.isnan(fn(logits, _with_nan(image))))

    check()


class BoundTest(parameterized.TestCase):
  @_given(_arrays(3, _EXTREMES.filter(lambda x: abs(x) < 90)), _arrays(3))
  def test_kl_is_not_negative_and_finite(self, mean, logvar):
    value = elbo.gaussian_kl(mean, logvar)
    self.assertGreaterEqual(float(value), 0.0)
    self.assertTrue(np.isfinite(value))
    for args in ((_with_nan(mean), logvar), (mean, _with_nan(logvar))):
      self.assertTrue(np.isnan(elbo.gaussian_kl(*args)))

  @_given(
    st.sampled_from([1, 2, 7]).flatmap(lambda k: _arrays(k, _EXTREMES)),
    st.floats(-1e3, 1e3, width=32),
  )
  def test_importance_weights_lie_between_mean_and_largest(self, weights, by):
    bound_fn = jax.jit(elbo.importance_weighted_bound)
    bound = float(bound_fn(weights))
    slack = 1e-5 * np.max(np.abs(weights)) + 1e-5  # float32
    self.assertLessEqual(bound, np.max(weights) + slack)
    self.assertGreaterEqual(bound, np.mean(weights) - slack)
    moved = bound_fn(weights + np.float32(by))
    np.testing.assert_allclose(moved, bound + by, rtol=1e-5, atol=1e-2)
    np.testing.assert_allclose(
      bound_fn(weights[::-1]), bound, rtol=1e-6, atol=1e-6
    )

  def test_one_importance_weight_is_the_bound(self):
    for value in (0.0, -745.0, 1e30):
      self.assertEqual(
        float(elbo.importance_weighted_bound(jnp.float32([value]))),
        np.float32(value),
      )

  def test_impossible_weights_give_no_number(self):
    inf = jnp.float32([-jnp.inf, -jnp.inf])
    self.assertEqual(float(elbo.importance_weighted_bound(inf)), -np.inf)
    for bad in (jnp.float32([0.0, jnp.nan]), jnp.float32([jnp.nan])):
      self.assertTrue(np.isnan(elbo.importance_weighted_bound(bad)))

  @_given(_arrays(3), _arrays(3), _arrays(2))
  def test_nan_reaches_the_bound_and_the_weights(self, mean, logvar, terms):
    for bad in range(3):
      args = [terms, mean, logvar]
      args[bad] = _with_nan(args[bad])
      self.assertTrue(np.isnan(elbo.elbo(*args)))
    self.assertTrue(
      np.isnan(elbo.log_weight(jnp.float32(0), mean, _with_nan(mean), logvar))
    )


class EnergyTest(parameterized.TestCase):
  @_given(_arrays(3, _EXTREMES), st.floats(0.125, 8.0, width=32))
  def test_gibbs_energy_is_linear_in_the_likelihood(self, z, weight):
    at = lambda x: float(energy.gibbs_energy(jnp.float32(x), z, weight))
    # atol: the energies are of 1e8 where z is of 1e4
    scale = 1.0 + abs(at(0.0))
    self.assertAlmostEqual(
      (at(-3.0) - at(0.0)) / scale, 3.0 * weight / scale, delta=1e-5
    )
    self.assertTrue(np.isnan(at(np.nan)))
    self.assertTrue(
      np.isnan(energy.gibbs_energy(jnp.float32(0), _with_nan(z), weight))
    )

  @_given(_arrays((4, 3)), _arrays(3), _arrays(3, st.floats(0.125, 8.0)))
  def test_standardising_is_undone(self, z, mean, std):
    u = energy.standardise(z, mean, std)
    back = energy.unstandardise(u, mean, std)
    np.testing.assert_allclose(back, z, atol=1e-5)  # float32 of up to 8
    bad = energy.standardise(_with_nan(z), mean, std)
    self.assertEqual(int(np.isnan(bad).sum()), 1)

  @_given(_sets(), _sets())
  def test_contrastive_loss_knows_sets_not_orders(self, one, two):
    aggregate, samples = one[0][:, :1], two[0][:, :1]
    fn = lambda x: jnp.sum(jnp.sin(x))
    loss = jax.jit(lambda a, s: energy.contrastive_loss(fn, a, s, 0.5))
    value, terms = loss(aggregate, samples)
    turned, _ = loss(aggregate[::-1], samples[::-1])
    np.testing.assert_allclose(turned, value, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
      terms['energy_gap'],
      -loss(samples, aggregate)[1]['energy_gap'],
      atol=1e-6,
    )
    self.assertGreaterEqual(float(terms['gradient_penalty']), 0.0)
    self.assertTrue(np.isnan(loss(_with_nan(aggregate), samples)[0]))
    self.assertTrue(np.isnan(loss(aggregate, _with_nan(samples))[0]))


if __name__ == '__main__':
  absltest.main()
