"""Tests of ldc_vae.data.pixels."""

from absl.testing import absltest
from absl.testing import parameterized
import jax.numpy as jnp
import numpy as np

from ldc_vae import errors
from ldc_vae.data import pixels

_SHAPE = (3, 2, 1)


class CheckTest(parameterized.TestCase):
  @parameterized.parameters(np.uint8, np.float16, np.float32, np.float64)
  def test_zeros_and_ones_pass(self, dtype):
    for value in (0, 1):
      pixels.check(np.full((4, *_SHAPE), value, dtype), _SHAPE)

  def test_what_bfloat16_rounds_up_passes(self):
    images = np.asarray(jnp.full((4, *_SHAPE), 1.0005, jnp.bfloat16))
    pixels.check(images, _SHAPE)

  def test_no_images_pass(self):
    pixels.check(np.zeros((0, *_SHAPE), np.float32), _SHAPE)

  @parameterized.parameters(
    (np.full((4, *_SHAPE), 255.0), r'float64 are in \[255, 255\]'),
    (np.full((4, *_SHAPE), -0.1), r'are in \[-0.1, -0.1\]'),
    (np.full((4, *_SHAPE), np.nan), r'are in \[nan, nan\]'),
    (np.zeros((4, *_SHAPE), np.int32), 'dtype int32'),
    (np.zeros((4, *_SHAPE), bool), 'dtype bool'),
    (np.zeros(_SHAPE, np.uint8), r'shape \(3, 2, 1\); .* \[N, 3, 2, 1\]'),
  )
  def test_others_are_refused(self, images, message):
    with self.assertRaisesRegex(errors.UserError, message):
      pixels.check(images, _SHAPE)


class CheckUint8Test(parameterized.TestCase):
  @parameterized.parameters(
    (np.zeros((4, *_SHAPE), np.float32), r'mine are float32\[4, 3, 2, 1\]'),
    (np.zeros(_SHAPE, np.uint8), r'mine are uint8\[3, 2, 1\]; give uint8'),
  )
  def test_others_are_refused(self, images, message):
    with self.assertRaisesRegex(errors.UserError, message):
      pixels.check_uint8(images, 'mine')

  def test_what_the_remedy_gives_passes(self):
    images = np.full((4, *_SHAPE), 0.5)
    pixels.check_uint8(np.round(255 * images).astype(np.uint8), 'mine')


class UnitTest(absltest.TestCase):
  def test_all_bytes_are_their_share_of_255(self):
    images = np.arange(256, dtype=np.uint8)
    unit = pixels.to_unit(images)
    self.assertEqual(unit.dtype, np.float32)
    np.testing.assert_allclose(unit, np.arange(256) / 255, rtol=1e-7)
    np.testing.assert_array_equal(pixels.to_unit(unit), unit)

  def test_floats_are_rounded_to_the_nearest_byte(self):
    images = np.arange(256, dtype=np.uint8)
    for dtype in (np.float32, np.float64):
      unit = pixels.to_unit(images).astype(dtype)
      for noise in (-0.4 / 255, 0.0, 0.4 / 255):
        values = np.clip(unit + noise, -1e-3, 1.001)
        np.testing.assert_array_equal(pixels.from_unit(values), images)

  def test_floats_beyond_rounding_are_refused(self):
    for value in (-0.01, 1.01, np.nan, np.inf):
      with self.assertRaisesRegex(ValueError, r'floats must be in \[0, 1\]'):
        pixels.from_unit(np.array([0.5, value]))


if __name__ == '__main__':
  absltest.main()
