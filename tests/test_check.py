"""Tests of --mode=check, on a run of seconds."""

import contextlib
import io
import shutil

from absl.testing import absltest
from absl.testing import parameterized

from ldc_vae import check
from ldc_vae import errors
from ldc_vae import main
from ldc_vae.runtime import files
from tests import evaluate_case


def _flip(path):
  """Changes one bit in the middle of a file."""
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


class CheckTest(evaluate_case.RunTest):
  def _check(self, workdir):
    """Returns the exit code, and the lines that are not ok."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
      code = main.main(['--mode=check', f'--workdir={workdir}'])
    lines = printed.getvalue().splitlines()
    return code, [line for line in lines if not line.endswith(': ok')], lines

  def test_a_run_is_whole(self):
    code, bad, lines = self._check(self.evaluated)
    self.assertEqual((code, bad), (0, []))
    self.assertEqual(
      lines,
      [
        f'{self.evaluated}/{name}: ok'
        for name in (
          'checkpoints/4',
          'checkpoints/8',
          'metrics.jsonl',
          'config.json',
          'results.json',
        )
      ],
    )

  def test_an_edited_config_is_found(self):
    workdir = self.workdir.with_name('edited')
    shutil.copytree(self.evaluated, workdir)
    record = files.read_json(workdir / 'config.json')
    record['config']['seed'] += 1
    files.write_json(workdir / 'config.json', record)
    code, bad, _ = self._check(workdir)
    self.assertEqual(code, 1)
    self.assertEqual(
      bad,
      [
        f'{workdir}/config.json: differs from its checkpoint in config.seed;'
        ' delete it and start the run again'
      ],
    )

  @parameterized.parameters(
    'checkpoints/8/manifest/metadata',
    'checkpoints/8/state/d/*',
    'metrics.jsonl',
    'results.json',
    'samples.npz',
    'report.html',
    'figures/sample_grid.png',
  )
  def test_one_bit_is_found(self, name):
    workdir = self.workdir.with_name(name.replace('/', '_'))
    shutil.copytree(self.evaluated, workdir)
    (path,) = workdir.glob(name)
    _flip(path)
    code, bad, _ = self._check(workdir)
    self.assertEqual(code, 1)
    self.assertLen(bad, 1)

  @parameterized.parameters('metrics.jsonl', 'config.json', 'report.html')
  def test_a_lost_file_is_found(self, name):
    folder = self.workdir.with_name(f'without_{name}')
    shutil.copytree(self.evaluated, folder / 'vae_seed0')  # of a comparison
    (folder / 'vae_seed0' / name).unlink()
    code, bad, _ = self._check(folder)
    self.assertEqual(code, 1)
    self.assertIn(name, bad[0])

  def test_a_folder_without_a_run_is_refused(self):
    with self.assertRaisesRegex(errors.UserError, 'no checkpoint'):
      check.check(self.create_tempdir().full_path)


if __name__ == '__main__':
  absltest.main()
