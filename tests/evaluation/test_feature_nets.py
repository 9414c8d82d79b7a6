"""Tests of ldc_vae.evaluation.feature_nets."""

import hashlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from ldc_vae.evaluation import feature_nets


class ReadTest(absltest.TestCase):
  def test_only_the_file_with_the_digest_is_read(self):
    path = self.create_tempfile(content=b'weights', mode='wb').full_path
    digest = hashlib.sha256(b'weights').hexdigest()
    self.assertEqual(feature_nets.read(path, digest), b'weights')
    with self.assertRaisesRegex(ValueError, rf'{digest}, not {"0" * 64}'):
      feature_nets.read(path, '0' * 64)


class FeaturesTest(parameterized.TestCase):
  @parameterized.parameters(1, 3)
  def test_every_image_arrives_once_as_rgb(self, channels):
    images = np.random.default_rng(0).integers(
      0, 256, (120, 5, 4, channels), np.uint8
    )
    batches = []

    def extract(batch):
      batches.append(batch)
      return batch[:, 1, 2]

    actual = feature_nets.features(images, extract)
    arrived = np.concatenate(batches)
    self.assertEqual(arrived.shape, (120, 5, 4, 3))
    for channel in range(3):
      np.testing.assert_array_equal(
        arrived[..., channel], images[..., channel % channels]
      )
    np.testing.assert_array_equal(actual, arrived[:, 1, 2])
    self.assertEqual(actual.dtype, np.float32)
    self.assertLessEqual(max(map(len, batches)), feature_nets.BATCH_SIZE)

  @parameterized.parameters(
    ((4, 5, 5, 2), np.uint8),
    ((4, 5, 5), np.uint8),
    ((4, 5, 5, 3), np.float32),
  )
  def test_other_images_are_refused(self, shape, dtype):
    with self.assertRaisesRegex(ValueError, 'needs uint8'):
      feature_nets.features(np.zeros(shape, dtype), lambda batch: batch)


if __name__ == '__main__':
  absltest.main()
