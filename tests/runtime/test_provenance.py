"""Tests of ldc_vae.runtime.provenance."""

import os
import pathlib
import platform
import subprocess

from absl.testing import absltest

from ldc_vae.runtime import provenance
from tests import config_case


class DescribeTest(config_case.FileTestCase):
  def test_names_the_commit_and_its_modification(self):
    tracked = pathlib.Path(self.write('tracked', 'a'))

    def git(*args):
      who = ('-c', 'user.name=a', '-c', 'user.email=a@b')
      return subprocess.run(
        ('git', '-C', str(self.folder), *who, *args),
        check=True,
        capture_output=True,
        text=True,
      ).stdout.strip()

    git('init', '-q')
    git('add', '.')
    git('commit', '-qm', 'a')
    with absltest.mock.patch.object(provenance, 'ROOT', self.folder):
      self.assertEqual(
        provenance.describe()['git_commit'], git('rev-parse', 'HEAD')
      )
      tracked.write_text('b')
      self.assertEqual(
        provenance.describe()['git_commit'],
        git('rev-parse', 'HEAD') + '+dirty',
      )

  def test_there_is_no_commit_inside_another_repository(self):
    inside = provenance.ROOT / 'ldc_vae'
    with absltest.mock.patch.object(provenance, 'ROOT', inside):
      self.assertIsNone(provenance.describe()['git_commit'])

  def test_where_there_is_no_repository_the_environment_tells(self):
    with absltest.mock.patch.object(provenance, 'ROOT', self.folder):
      self.assertIsNone(provenance.describe()['git_commit'])
      variable = {provenance.COMMIT_VARIABLE: 'abc+dirty'}
      with absltest.mock.patch.dict(os.environ, variable):
        self.assertEqual(provenance.describe()['git_commit'], 'abc+dirty')


class PublicTest(absltest.TestCase):
  def test_names_no_place_and_no_host(self):
    home, host = os.path.expanduser('~'), platform.node()
    text = (
      f'{home}/x is used on {host}; {os.getcwd()}/y, /data/me/z and {home}x'
    )
    self.assertEqual(
      provenance.public(text, {'/data/me': 'PATH', '': 'NOTHING'}),
      f'~/x is used on HOST; ./y, PATH/z and {home}x',
    )


if __name__ == '__main__':
  absltest.main()
