"""Tests of --mode=check, on a run of seconds."""

import contextlib
import io
import os
import pathlib
import shutil
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from ldc_vae import check
from ldc_vae import config as config_lib
from ldc_vae import errors
from ldc_vae import evaluate
from ldc_vae import main
from ldc_vae import train
from ldc_vae.data import array_cache
from ldc_vae.runtime import files
from ldc_vae.runtime import lock
from tests import evaluate_case


def _flip(path):
  """Changes one bit in the middle of a file."""
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(data)


class CheckTest(evaluate_case.RunTest):
  def setUp(self):
    super().setUp()
    self.cache = pathlib.Path(self.create_tempdir().full_path)
    self.enter_context(
      mock.patch.dict(
        os.environ, LDC_VAE_CACHE=str(self.cache), JAX_PLATFORMS='cpu'
      )
    )

  def _check(self, workdir, *flags):
    """Returns the exit code, the lines that are not ok, and all lines."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
      code = main.main(['--mode=check', f'--workdir={workdir}', *flags])
    lines = printed.getvalue().splitlines()
    return code, [line for line in lines if not line.endswith(': ok')], lines

  def _copy(self, name):
    """A copy of the evaluated run."""
    workdir = self.workdir.with_name(name)
    shutil.copytree(self.evaluated, workdir)
    return workdir

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
        ' --repair mends it'
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

  @parameterized.parameters(
    ('results.json', evaluate.evaluate),
    ('config.json', lambda unused_config, path: config_lib.read(path)),
  )
  def test_a_file_of_a_newer_version_is_refused_and_left(self, name, use_fn):
    workdir = self._copy(f'newer_{name}')
    record = files.read_json(workdir / name)
    self.assertEqual(record['format'], 1)
    files.write_json(workdir / name, {**record, 'format': 2})
    before = _contents(workdir)
    for refuse_fn in (
      lambda: check.check(workdir, repair=True),
      lambda: train.train_and_evaluate(self.config, workdir),
      lambda: use_fn(self.config, workdir),
    ):
      with self.assertRaisesRegex(
        errors.UserError,
        f'{name}: it has format 2 but this version reads format 1; use the',
      ):
        refuse_fn()
    del before[workdir / 'config.json']  # with the commit that continued it
    left = _contents(workdir)
    self.assertEqual(left | before, left)

  def test_what_is_not_evaluated_is_told_and_no_mistake(self):
    workdir = self._copy('not_evaluated')
    (workdir / 'results.json').unlink()
    code, bad, _ = self._check(workdir)
    self.assertEqual(code, 0)
    self.assertEqual(bad, [f'{workdir}/results.json: not evaluated yet'])

  def test_a_run_without_a_whole_checkpoint_ends_with_2(self):
    workdir = self._copy('lost')
    for path in workdir.glob('checkpoints/*/manifest/metadata'):
      path.write_bytes(b'')
    before = _contents(workdir)
    for flags in ((), ('--repair',)):
      printed = io.StringIO()
      with contextlib.redirect_stderr(printed):
        code, bad, _ = self._check(workdir, *flags)
      self.assertEqual(code, 2)
      self.assertLen(bad, 2)
      self.assertRegex(
        printed.getvalue(),
        r'^error: \S+/lost/checkpoints: no checkpoint verifies[^\n]*\n$',
      )
      self.assertEqual(_contents(workdir), before)

  def test_a_repair_leaves_a_workdir_that_is_whole(self):
    workdir = self._copy('repaired')
    kept = (workdir / 'metrics.jsonl').read_bytes()
    (workdir / 'metrics.jsonl').write_bytes(kept + b'{"step": 9, "tr')
    _flip(workdir / 'checkpoints/8/manifest/metadata')
    (workdir / 'config.json').write_text('{"conf')
    _flip(workdir / 'figures/sample_grid.png')
    name = f'.curves.png.{"0" * 12}.tmp'
    left = [
      workdir / 'figures' / name,
      workdir / '.evaluation-unfinished',
      workdir / 'checkpoints/9.unfinished-tmp',
      workdir / 'checkpoints/3.deleted',
    ]
    left[0].write_bytes(b'PNG')
    for path in left[1:]:
      path.mkdir()
    _, bad, _ = self._check(workdir)
    self.assertLen(bad, 4)
    for line in bad:
      self.assertEndsWith(line, '; --repair mends it')
    code, bad, _ = self._check(workdir, '--repair')
    self.assertEqual(code, 0)
    for line, end in zip(
      bad,
      (
        'set aside as 8.corrupt',
        'torn lines at its end (1): dropped them',
        'config.json: missing or damaged: written again from the checkpoint',
        'set aside as results.json.damaged; evaluate again (--mode=evaluate)',
      ),
      strict=True,
    ):
      self.assertEndsWith(line, end)
    self.assertEqual((workdir / 'metrics.jsonl').read_bytes(), kept)
    for path in left:
      self.assertFalse(path.exists(), path)
    code, bad, _ = self._check(workdir)
    self.assertEqual(code, 0)
    self.assertEqual(bad, [f'{workdir}/results.json: not evaluated yet'])
    self.assertEqual(config_lib.read(workdir), self.config)

  def test_lost_rows_are_told_and_stay_lost(self):
    workdir = self._copy('rows')
    path = workdir / 'metrics.jsonl'
    path.write_bytes(b'\n'.join(path.read_bytes().split(b'\n')[1:]))
    before = _contents(workdir)
    code, bad, _ = self._check(workdir, '--repair')
    self.assertEqual(code, 1)
    self.assertLen(bad, 1)
    self.assertEqual(_contents(workdir), before)

  def test_a_run_in_use_is_not_repaired(self):
    workdir = self._copy('in_use')
    for name in (lock.LOCK_NAME, lock.EVALUATION_LOCK_NAME):
      printed = io.StringIO()
      with lock.lock_workdir(workdir, name):
        with contextlib.redirect_stderr(printed):
          self.assertEqual(self._check(workdir, '--repair')[0], 1)
      self.assertRegex(printed.getvalue(), '^error: workdir .* by process')

  def test_damaged_caches_are_found_and_deleted(self):
    load = lambda: array_cache.load_or_write(
      'own', ['x'], 'abc', lambda folder, _: np.save(folder / 'x', np.ones(99))
    )
    load()
    (entry,) = array_cache.entries()
    classifiers = self.cache / 'classifiers'
    classifiers.mkdir()
    path = classifiers / 'digits.npz'
    path.write_bytes(b'PK no classifier')
    _flip(entry / 'x.npy')
    code, bad, _ = self._check(self.evaluated)
    self.assertEqual(code, 1)
    self.assertRegex(bad[0], f'^{entry}: damaged .*not have the content in')
    self.assertRegex(bad[1], f'^{path}: damaged')
    code, bad, _ = self._check(self.evaluated, '--repair')
    self.assertEqual(code, 0)
    self.assertFalse(path.exists() or entry.exists())
    load()
    self.assertEqual(self._check(self.evaluated)[2][-1], f'{entry}: ok')

  def test_a_folder_without_a_run_is_refused(self):
    with self.assertRaisesRegex(errors.UserError, 'no checkpoint'):
      check.check(self.create_tempdir().full_path)


def _contents(folder):
  """The bytes of every file in a folder."""
  return {
    path: path.read_bytes() for path in folder.rglob('*') if path.is_file()
  }


if __name__ == '__main__':
  absltest.main()
