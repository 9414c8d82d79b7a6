"""Tests of benchmarks.animation."""

from absl.testing import absltest
import numpy as np
from PIL import Image

from benchmarks import animation
from ldc_vae.samplers import sampler_options
from tests.benchmarks import benchmark_case


class AnimationTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    benchmark_case.without_cache(self)
    self.folder = benchmark_case.create_folder(self)

  def test_frames_are_from_the_first_to_the_last_update(self):
    steps = animation.frame_steps(5, 160)
    self.assertEqual(steps, [0, 10, 40, 90, 160])
    self.assertEqual(animation.frame_steps(1, 7), [0, 7])
    # no frame comes twice
    self.assertEqual(animation.frame_steps(9, 3), [0, 1, 2, 3])

  def test_frames_do_not_change_the_training(self):
    u = np.random.default_rng(0).normal(size=(100, 2))
    places = np.zeros((1, 2))
    many = animation.train(u, places, [0, 1, 2, 3], seed=0)
    few = animation.train(u, places, [3], seed=0)
    self.assertEqual([frame.step for frame in many], [0, 1, 2, 3])
    # float32, 3 updates
    np.testing.assert_allclose(many[-1].draws, few[0].draws, atol=1e-5)
    np.testing.assert_allclose(many[-1].energy, few[0].energy, atol=1e-5)
    moved = np.abs(many[-1].draws - many[0].draws).max()
    self.assertGreater(moved, 1e-4)
    self.assertAlmostEqual(many[0].temperature, 1.0)
    end = sampler_options.SamplerOptions().temperature_end
    self.assertAlmostEqual(many[-1].temperature, end)

  def test_a_set_becomes_a_film(self):
    path = self.folder / 'a.gif'
    code = animation.main(
      ['--num_steps=4', '--frames=3', '--sets=ring_2', f'--output={path}']
    )
    self.assertEqual(code, 0)
    with Image.open(path) as film:
      # the last one stays, as one frame or as many
      self.assertGreaterEqual(film.n_frames, 3)

  def test_latents_of_a_run_become_a_film(self):
    latents = np.random.default_rng(0).normal(size=(50, 5))
    np.savez(self.folder / 'samples.npz', aggregate_latents=latents)
    path = self.folder / 'a.gif'
    animation.main(
      [
        '--num_steps=4',
        '--frames=3',
        f'--workdir={self.folder}',
        f'--output={path}',
      ]
    )
    self.assertTrue(path.exists())

  def test_another_format_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'must end in .gif'):
      animation.main(['--output=a.mp4'])

  def test_latents_of_one_dimension_are_refused(self):
    np.savez(self.folder / 'samples.npz', aggregate_latents=np.ones((9, 1)))
    path = self.folder / 'a.gif'
    with self.assertRaisesRegex(ValueError, 'one dimension'):
      animation.main([f'--workdir={self.folder}', f'--output={path}'])


if __name__ == '__main__':
  absltest.main()
