"""Corruptions of any file of a workdir: noticed, healed or harmless.

The long form damages a file 60 times:

  python -m pytest -m slow -s tests/runtime/test_corruptions.py
"""

import collections
import contextlib
import io
import random
import shutil

from absl.testing import absltest
import pytest

from ldc_vae import check
from ldc_vae import errors
from ldc_vae import train
from ldc_vae.runtime import files
from tests.runtime import outcome_case


def _flip(data, generator):
  """Changes one bit."""
  data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)


def _truncate(data, generator):
  del data[generator.randrange(len(data)) :]


def _zero(data, generator):
  """Clears up to a block, as a disk does that has lost it."""
  start = generator.randrange(len(data))
  part = data[start : start + 512]
  data[start : start + len(part)] = bytes(len(part))


def _scramble(data, generator):
  start = generator.randrange(len(data))
  part = data[start : start + 64]
  data[start : start + len(part)] = generator.randbytes(len(part))


def _repeat(data, generator):
  """Writes a part twice."""
  start = generator.randrange(len(data))
  data[start:start] = data[start : start + 100]


_KINDS = (_flip, _truncate, _zero, _scramble, _repeat)


def _files(workdir):
  """The paths of all files, below the workdir, that have a content."""
  return [
    path.relative_to(workdir)
    for path in sorted(workdir.rglob('*'))
    if path.is_file() and path.stat().st_size
  ]


class CorruptionsTest(outcome_case.OutcomeTest):
  def _corrupt(self, times):
    """Damages a file that often, and starts the run again.

    Returns:
      How often it was refused, told, healed and harmless. What is told only are
      rows of metrics, and checkpoints older than the one that is used.
    """
    generator = random.Random(0)
    paths = _files(self.whole)
    outcomes = collections.Counter()
    for turn in range(times):
      workdir = self.copy(f'turn_{turn}', self.whole)
      path = workdir / paths[turn % len(paths)]
      data = bytearray(path.read_bytes())
      kind = generator.choice(_KINDS)
      kind(data, generator)
      path.write_bytes(data)
      noticed = self._notices(workdir)
      outcome = f'{kind.__name__} of {path}'
      try:
        train.train_and_evaluate(self.config, workdir)
      except (OSError, errors.UserError) as error:
        self.assertNotIn('\n', str(error))
        outcomes['refused'] += 1
        self.assertTrue(noticed, outcome)
      else:
        if path.name != 'metrics.jsonl':  # rows cannot be made again
          self.assert_as_expected(workdir)
        if noticed:
          is_healed = not self._notices(workdir)
          outcomes['healed' if is_healed else 'told'] += 1
        else:
          outcomes['harmless'] += 1
          self._assert_harmless(workdir, path)
      shutil.rmtree(workdir)
    return outcomes

  def _notices(self, workdir):
    """Whether --mode=check says that something is wrong."""
    with contextlib.redirect_stdout(io.StringIO()):
      try:
        return not check.check(workdir)
      except (OSError, errors.UserError):
        return True

  def _assert_harmless(self, workdir, path):
    """The file is as it was, or no content of the run."""
    name = path.relative_to(workdir)
    if name.suffix == '.json':
      before, now = (files.read_json(x / name) for x in (self.whole, workdir))
      self.assertEqual(now, before)
    else:
      self.assertEqual(name.parts[0], 'checkpoints', name)

  def test_a_corruption_of_each_file_is_noticed_healed_or_harmless(self):
    outcomes = self._corrupt(len(_files(self.whole)))
    self.assertGreater(outcomes['healed'], 5)

  @pytest.mark.slow
  def test_60_corruptions_are_noticed_healed_or_harmless(self):
    outcomes = self._corrupt(60)
    print(f'60 corruptions: {dict(outcomes)}')


if __name__ == '__main__':
  absltest.main()
