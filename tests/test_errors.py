"""Tests of ldc_vae.errors."""

from absl.testing import absltest

from ldc_vae import errors


class UserErrorTest(absltest.TestCase):
  def test_the_same_command_would_fail_again_unless_it_says_otherwise(self):
    self.assertEqual(errors.UserError('a').exit_code, 2)
    self.assertEqual(errors.UserError('a', exit_code=1).exit_code, 1)

  def test_its_text_is_the_sentence(self):
    self.assertEqual(str(errors.UserError('lower it')), 'lower it')


if __name__ == '__main__':
  absltest.main()
