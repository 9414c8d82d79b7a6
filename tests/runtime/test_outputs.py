"""Tests of ldc_vae.runtime.outputs."""

import errno
import os
from unittest import mock

from absl.testing import absltest

from ldc_vae.runtime import durable
from ldc_vae.runtime import files
from ldc_vae.runtime import outputs
from tests.runtime import folder_case


class ReplacedTest(folder_case.FolderTestCase):
  def _evaluate(self, number):
    """Writes a file, a folder with a picture, and results with digests."""
    results = {'number': number}
    with outputs.replaced(self.directory) as folder:
      (folder / 'report.html').write_text(f'{number}')
      (folder / 'figures').mkdir()
      (folder / 'figures' / f'{number}.png').write_text(f'{number}')
      results['digests'] = outputs.seal(folder, results)
      files.write_json(folder / 'results.json', results)

  def _assert_is(self, number):
    """The files of one evaluation are there, and none of another."""
    self.assertEqual(self.names(), {'report.html', 'figures', 'results.json'})
    results = files.read_json(self.directory / 'results.json')
    self.assertEqual(results['number'], number)
    self.assertEmpty(outputs.damage(self.directory, results))
    pictures = [path.name for path in (self.directory / 'figures').iterdir()]
    self.assertEqual(pictures, [f'{number}.png'])

  def test_an_evaluation_takes_the_place_of_another(self):
    self._evaluate(1)
    self._assert_is(1)
    self._evaluate(2)
    self._assert_is(2)

  def test_one_that_fails_leaves_the_one_before(self):
    self._evaluate(1)
    with self.assertRaises(KeyError):
      with outputs.replaced(self.directory) as folder:
        (folder / 'report.html').write_text('2')
        raise KeyError('x')
    self._assert_is(1)

  def test_it_is_the_old_or_the_new_one_wherever_it_stops(self):
    real, ends = os.rename, set()
    for number in range(1, 30):
      self._evaluate(0)
      calls = []

      def stop(*args, number=number, calls=calls, function=real):
        calls.append(args)
        if len(calls) >= number:
          raise OSError(errno.EIO, os.strerror(errno.EIO))
        return function(*args)

      with mock.patch.multiple(os, rename=stop, replace=stop):
        try:
          self._evaluate(1)
          stopped = False
        except OSError:
          stopped = True
      is_new = outputs.is_interrupted(self.directory) or not stopped
      outputs.finish(self.directory)
      self._assert_is(int(is_new))
      ends.add((stopped, is_new))
      if not stopped:
        break
    self.assertEqual(ends, {(True, False), (True, True), (False, True)})

  def test_a_kill_before_the_old_pictures_are_deleted_leaves_none(self):
    self._evaluate(1)
    real = durable.delete

    def kill(path):
      if path.name == 'figures.replaced' and path.exists():
        raise KeyboardInterrupt
      real(path)

    with mock.patch.object(durable, 'delete', kill):
      with self.assertRaises(KeyboardInterrupt):
        self._evaluate(2)
    outputs.finish(self.directory)
    self._assert_is(2)

  def test_damage_names_the_file(self):
    self._evaluate(1)
    results = files.read_json(self.directory / 'results.json')
    self.assertRegex(
      outputs.damage(self.directory, {**results, 'number': 2}),
      'results.json is not as it was written',
    )
    path = self.directory / 'figures' / '1.png'
    path.unlink()
    self.assertIn('is missing', outputs.damage(self.directory, results))
    path.symlink_to(self.directory / 'report.html')
    self.assertRegex(outputs.damage(self.directory, results), '1.png cannot be')

  def test_links_are_not_followed(self):
    kept = self.directory / 'kept'
    kept.mkdir()
    (kept / '1.png').write_text('mine')
    for name in ('figures', '.evaluation-unfinished', '.evaluation-whole'):
      (self.directory / name).symlink_to(kept)
    self._evaluate(1)
    self.assertEqual((kept / '1.png').read_text(), 'mine')
    (kept / '1.png').unlink()
    kept.rmdir()
    self._assert_is(1)

  def test_files_are_synced_before_they_replace_others(self):
    self._evaluate(1)
    with mock.patch.object(durable, 'sync') as sync:
      self._evaluate(2)
    synced = [os.path.basename(call.args[0]) for call in sync.call_args_list]
    self.assertContainsSubset(['report.html', 'figures', '2.png'], synced)


if __name__ == '__main__':
  absltest.main()
