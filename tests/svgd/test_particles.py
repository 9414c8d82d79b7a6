"""Tests of ldc_vae.svgd.particles."""

import functools

from absl.testing import absltest
from absl.testing import parameterized
import jax
import jax.numpy as jnp
import numpy as np

from ldc_vae import svgd
from tests.svgd import svgd_case

_direction_reference = svgd_case.direction_reference
_mean_bandwidth_reference = svgd_case.mean_bandwidth_reference
_normal = svgd_case.normal


def _quadratic_energy(precision, z):
  """sum_d precision_d (z_d - 1)^2 / 2 of z [..., D]."""
  return 0.5 * jnp.sum(
    jnp.broadcast_to(precision, z.shape) * jnp.square(z - 1.0), axis=-1
  )


def _quadratic_score(precision, z):
  """-grad of it by z."""
  return -np.broadcast_to(precision, z.shape) * (z - 1.0)


class SteinParticlesTest(svgd_case.StrictTest):
  def setUp(self):
    super().setUp()
    self.z = _normal(0, 3, 5, 4)  # [B, K, D]
    self.precision = np.array([0.5, 1.0, 2.0, 4.0], np.float32)

  def _loss(self, z, precision, temperature=1.0, off_diagonal=True, **kwargs):
    particles = svgd.stein_particles(
      z,
      svgd.rbf(),
      off_diagonal=off_diagonal,
      temperature=temperature,
      **kwargs,
    )
    return jnp.mean(_quadratic_energy(precision, particles))

  def _grad(self, z, precision, **kwargs):
    """The gradient of the loss by z, compiled."""
    loss_fn = functools.partial(self._loss, **kwargs)
    return jax.jit(jax.grad(loss_fn))(z, precision)

  def _expected(self, temperature=1.0, off_diagonal=True, bandwidth=None):
    """-phi / (B K), set by set, from scores by hand."""
    directions = [
      _direction_reference(
        z,
        _quadratic_score(self.precision, z),
        'rbf',
        bandwidth or _mean_bandwidth_reference(z),
        off_diagonal=off_diagonal,
        temperature=temperature,
      )
      for z in self.z
    ]
    return -np.stack(directions) / 15

  @parameterized.product(off_diagonal=(False, True), block_size=(None, 2))
  def test_gradient_is_minus_phi_over_count(self, off_diagonal, block_size):
    actual = self._grad(
      self.z,
      self.precision,
      off_diagonal=off_diagonal,
      block_size=block_size,
    )
    # float32, 5 terms
    np.testing.assert_allclose(
      actual, self._expected(off_diagonal=off_diagonal), rtol=1e-5, atol=1e-6
    )

  def test_scale_of_the_sets_count_is_free(self):
    # each of two copies of the batch gets half the gradient of one
    one = self._grad(self.z, self.precision)
    two = np.asarray(
      self._grad(np.concatenate([self.z, self.z]), self.precision)
    )
    # float32, halving is exact
    np.testing.assert_allclose(2.0 * two[:3], one, rtol=1e-6, atol=1e-8)

  def test_gradient_of_the_energy_is_its_own(self):
    plain = lambda precision: jnp.mean(_quadratic_energy(precision, self.z))
    actual = jax.jit(jax.grad(self._loss, argnums=1))(self.z, self.precision)
    expected = jax.jit(jax.grad(plain))(self.precision)
    # the same float32 sums, fused otherwise
    np.testing.assert_allclose(actual, expected, rtol=1e-6)

  def test_temperature_may_be_traced_and_has_no_gradient(self):
    grad_fn = jax.jit(jax.grad(self._loss, argnums=(0, 2)))
    for temperature in (0.3, 0.01):
      actual, by_temperature = grad_fn(self.z, self.precision, temperature)
      # float32, 5 terms
      np.testing.assert_allclose(
        actual, self._expected(temperature), rtol=1e-5, atol=1e-6
      )
      self.assertEqual(float(by_temperature), 0.0)

  def test_bandwidth_may_be_traced_and_has_no_gradient(self):
    loss_fn = lambda z, h: self._loss(z, self.precision, bandwidth=h)
    grad_fn = jax.jit(jax.grad(loss_fn, argnums=(0, 1)))
    for h in (0.5, 3.0):
      actual, by_bandwidth = grad_fn(self.z, h)
      # float32, 5 terms
      np.testing.assert_allclose(
        actual, self._expected(bandwidth=h), rtol=1e-5, atol=1e-6
      )
      self.assertEqual(float(by_bandwidth), 0.0)

  def test_gradient_goes_on_to_the_weights_of_the_source(self):
    noise = _normal(1, 3, 5, 4)

    def loss_fn(scale):
      return self._loss(scale * noise, self.precision)

    gradient = jax.jit(jax.grad(loss_fn))(jnp.float32(1.5))
    self.z = np.float32(1.5) * noise
    # float32, 60 terms: J' = noise, contracted with -phi / count
    np.testing.assert_allclose(
      gradient, np.sum(noise * self._expected()), rtol=1e-5
    )

  def test_bfloat16_particles_get_a_bfloat16_gradient_near_it(self):
    gradient = self._grad(
      jnp.asarray(self.z, jnp.bfloat16), jnp.asarray(self.precision)
    )
    self.assertEqual(gradient.dtype, jnp.bfloat16)
    # the particles are rounded, all sums are float32's; bfloat16 has 8 bits
    rounded = np.asarray(jnp.asarray(self.z, jnp.bfloat16).astype(np.float32))
    self.assertGreater(np.max(np.abs(rounded - self.z)), 1e-3)
    np.testing.assert_allclose(
      gradient.astype(np.float32), self._expected(), atol=2e-3
    )

  def test_float64_particles_keep_their_digits(self):
    self.z = self.z.astype(np.float64)
    self.precision = self.precision.astype(np.float64)
    with jax.enable_x64(True):
      gradient = self._grad(self.z, self.precision)
      self.assertEqual(gradient.dtype, np.float64)
    np.testing.assert_allclose(gradient, self._expected(), rtol=1e-11)

  @parameterized.parameters(
    (True, 'rbf', None), (False, 'rbf', 3), (True, 'linear', None)
  )
  def test_sharded_set_has_the_whole_sets_gradient(
    self, off_diagonal, kernel, block
  ):
    noise = _normal(4, 16, 3)
    precision = self.precision[:3]
    kernel = svgd.KERNELS[kernel]('mean')

    def loss_fn(weights, noise, axis_name):
      particles = svgd.stein_particles(
        noise @ weights,
        kernel,
        off_diagonal=off_diagonal,
        block_size=block,
        axis_name=axis_name,
      )
      return jnp.mean(_quadratic_energy(precision, particles))

    def sharded(weights, noise):
      gradient = jax.grad(loss_fn)(weights, noise, 'devices')
      return jax.lax.pmean(gradient, 'devices')

    weights = jnp.asarray(_normal(5, 3, 3))
    grad_fn = jax.grad(loss_fn)
    whole_fn = jax.jit(lambda w, z: grad_fn(w, z, None))
    expected = whole_fn(weights, noise)
    parts = noise.reshape(4, 4, 3)
    options = dict(axis_name='devices', in_axes=(None, 0), out_axes=None)
    for mapped in (jax.pmap, jax.vmap):
      actual = jax.jit(mapped(sharded, **options))(weights, parts)
      # float32 sums of 16 terms in another order
      np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    # each device's own set is another problem: the test can fail
    own = [whole_fn(weights, part) for part in parts]
    difference = np.mean(own, axis=0) - expected
    self.assertGreater(np.max(np.abs(difference)), 1e-2)


class FollowTest(svgd_case.StrictTest):
  def test_gradient_is_minus_the_direction_over_n(self):
    particles, direction = _normal(0, 6, 3), _normal(1, 6, 3)
    grad_fn = jax.jit(jax.grad(svgd.follow, argnums=(0, 1)))
    by_particles, by_direction = grad_fn(particles, direction)
    # one float32 division
    np.testing.assert_allclose(by_particles, -direction / 6, rtol=1e-6)
    np.testing.assert_array_equal(by_direction, np.zeros((6, 3)))


if __name__ == '__main__':
  absltest.main()
