"""Tests of ldc_vae.api.arguments: arrays and numbers of a notebook."""

from absl.testing import absltest
from absl.testing import parameterized
import jax.numpy as jnp
import numpy as np

from ldc_vae import errors
from ldc_vae.api import arguments


class ArrayTest(absltest.TestCase):
  def test_a_memory_map_stays_one(self):
    path = self.create_tempfile().full_path
    mapped = np.memmap(path, np.uint8, 'w+', shape=(3,))
    self.assertIsInstance(arguments.array('x', mapped), np.memmap)

  def test_the_first_line_of_the_reason_is_told(self):
    class Tensor:
      def __array__(self, *unused_args, **unused_kwargs):
        raise RuntimeError('call detach() first\nmore')

    with self.assertRaisesRegex(
      errors.UserError,
      r'^x make no NumPy array \(call detach\(\) first\); give',
    ):
      arguments.array('x', Tensor())


class PointsTest(parameterized.TestCase):
  @parameterized.parameters(
    ([[1, 2]],), (np.ones((1, 2), bool),), (jnp.ones((1, 2), jnp.bfloat16),)
  )
  def test_real_numbers_are_taken(self, values):
    self.assertEqual(arguments.points('x', values).shape, (1, 2))

  @parameterized.parameters(
    (np.zeros(3), r'give shape \[N, D\], N at least 1'),
    (np.zeros((0, 3)), r'shape \(0, 3\)'),
    (np.zeros((3, 0)), r'shape \(3, 0\)'),
    (np.full((1, 2), 1j), 'dtype complex128; give numbers'),
    (np.array([[1.0], [np.inf]]), '1 of 2 x are not finite'),
  )
  def test_other_values_are_named(self, values, part):
    with self.assertRaisesRegex(errors.UserError, part):
      arguments.points('x', values)


class NumberTest(parameterized.TestCase):
  def test_numbers_of_numpy_are_whole(self):
    self.assertEqual(arguments.number('n', np.int8(3), 3), 3)

  @parameterized.parameters(2, 2**32, 3.0, True, None, '3')
  def test_others_are_refused(self, value):
    with self.assertRaisesRegex(errors.UserError, r'from 3 to 2\*\*32 - 1'):
      arguments.number('n', value, 3)


if __name__ == '__main__':
  absltest.main()
