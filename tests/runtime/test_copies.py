"""Tests of ldc_vae.runtime.copies: rows come once, no writer stops a run."""

import dataclasses
import pathlib
import threading
import time
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from ldc_vae import loop
from ldc_vae import run as run_lib
from ldc_vae import train
from ldc_vae.runtime import cluster
from ldc_vae.runtime import copies
from ldc_vae.runtime import writers
from tests import train_case

_FIGURES = pathlib.Path('no such folder')


class _Memory(writers.Writer):
  """Keeps what it is given, by identity."""

  package, distribution = 'json', 'json'
  given: dict[str, list] = {}

  def __init__(self, target, identity, last_step):
    self._given = self.given.setdefault(identity, [])

  def scalars(self, step, values):
    self._given.append((step, values))

  def evaluation(self, found):
    self._given.append(found)


class _Broken(_Memory):
  """Fails at step 2."""

  def scalars(self, step, values):
    if step == 2:
      raise RuntimeError('the server\nis away')
    super().scalars(step, values)


class _Unmade(_Memory):
  def __init__(self, target, identity, last_step):
    raise SystemError('no account')


class _Missing(_Memory):
  package = distribution = 'no_such_package'


class _Slow(_Memory):
  """Does not come back until it is released."""

  released = threading.Event()

  def scalars(self, step, values):
    self.released.wait()


def _writers(**named):
  return mock.patch.dict(writers.WRITERS, named, clear=True)


class CopiesTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.enter_context(mock.patch.object(_Memory, 'given', {}))
    self.enter_context(
      _writers(
        memory=_Memory,
        broken=_Broken,
        unmade=_Unmade,
        missing=_Missing,
        slow=_Slow,
      )
    )
    self.target = writers.Target(
      folder=pathlib.Path(self.create_tempdir().full_path) / 'logging',
      name='a',
      project='p',
      config={'seed': 0},
      step=0,
    )

  def _start(self, *steps, names=('memory',), rows=(), **changes):
    """A start of the run that takes some steps."""
    target = dataclasses.replace(self.target, **changes)
    rows = [{'step': step, 'x': 0.0} for step in rows]
    with copies.Copies(names, target, rows) as each:
      for step in steps:
        each.scalars(step, {'x': 1.0 * step})

  def _steps(self):
    return [[step for step, _ in given] for given in _Memory.given.values()]

  def test_every_row_comes_once_in_its_order(self):
    self._start(1, 2, 3)
    ((given),) = _Memory.given.values()
    self.assertEqual(given, [(1, {'x': 1.0}), (2, {'x': 2.0}), (3, {'x': 3.0})])

  def test_a_resumed_run_has_no_doubles(self):
    self._start(1, 2, 3, 4)  # and dies after a checkpoint of step 2
    self._start(3, 4, 5, rows=(1, 2), step=2)
    self.assertEqual(self._steps(), [[1, 2, 3, 4, 5]])

  def test_a_run_that_died_before_a_checkpoint_goes_on(self):
    self._start(1, 2)
    self._start(1, 2, 3)
    self.assertEqual(self._steps(), [[1, 2, 3]])

  def test_a_run_with_other_fields_begins_again(self):
    self._start(1, 2)
    self._start(1, 2, 3, config={'seed': 1})
    self.assertEqual(self._steps(), [[1, 2], [1, 2, 3]])

  def test_fields_that_change_on_the_way_keep_the_run(self):
    self._start(1, 2)
    self._start(3, config={'seed': 1}, step=2)
    self.assertEqual(self._steps(), [[1, 2, 3]])

  def test_a_writer_that_comes_later_gets_the_rows_before(self):
    self._start(3, 4, rows=(1, 2), step=2)
    self.assertEqual(self._steps(), [[1, 2, 3, 4]])

  @parameterized.parameters(b'', b'{', b'[]', b'{"id": 3}')
  def test_a_record_that_is_damaged_begins_again(self, content):
    self._start(1, 2)
    (self.target.folder / 'memory.json').write_bytes(content)
    self._start(3, rows=(1, 2), step=2)
    self.assertEqual(self._steps(), [[1, 2], [1, 2, 3]])

  def test_only_finite_numbers_are_written(self):
    row = {'a': np.float32(1.5), 'b': None, 'c': float('nan'), 'd': 'x'}
    with copies.Copies(['memory'], self.target) as each:
      each.scalars(1, {**row, 'e': True, 'f': 2, 'step': 1})
    ((given),) = _Memory.given.values()
    self.assertEqual(given, [(1, {'a': 1.5, 'f': 2.0})])

  @parameterized.parameters(
    ('broken', r'broken is left out.*RuntimeError: the server is away', 1),
    ('unmade', r'unmade is left out.*SystemError: no account', 0),
  )
  def test_one_that_fails_is_left_out(self, name, message, num_rows):
    with self.assertLogs('absl', 'WARNING') as logs:
      self._start(1, 2, 3, 4, names=(name, 'memory'))
    (line,) = logs.output
    self.assertRegex(line, message)
    self.assertCountEqual(
      self._steps(), [[1, 2, 3, 4]] + [list(range(1, 1 + num_rows))] * num_rows
    )

  def test_a_package_that_is_missing_is_one_sentence(self):
    with self.assertLogs('absl', 'WARNING') as logs:
      for _ in range(2):  # of the training and of the evaluation
        self._start(1, names=('missing', 'memory'))
    (line,) = logs.output
    self.assertIn("pip install 'ldc_vae[missing]'", line)
    self.assertEqual(self._steps(), [[1]])

  def test_a_folder_that_cannot_be_made_is_left_out(self):
    self.target.folder.write_text('a file')
    with self.assertLogs('absl', 'WARNING') as logs:
      self._start(1)
    self.assertIn('memory is left out', logs.output[0])

  def test_one_that_does_not_come_back_is_not_waited_for(self):
    self.addCleanup(_Slow.released.set)
    start = time.monotonic()
    with mock.patch.object(copies, '_PATIENCE', 0.2):
      with self.assertLogs('absl', 'WARNING') as logs:
        self._start(1, 2, names=('slow', 'memory'))
    self.assertIn('slow is left out', logs.output[0])
    self.assertLess(time.monotonic() - start, 5.0)
    self.assertIn([1, 2], self._steps())

  def test_rows_that_wait_have_a_bound(self):
    self.addCleanup(_Slow.released.set)
    with (
      mock.patch.object(copies, '_MAX_WAITING', 3),
      mock.patch.object(copies, '_PATIENCE', 0.1),
      self.assertLogs('absl', 'WARNING') as logs,
    ):
      self._start(*range(1, 9), names=('slow',))
    (line,) = logs.output
    self.assertIn('3 rows behind', line)

  def test_an_evaluation_has_numbers_pictures_and_latents(self):
    figures = pathlib.Path(self.create_tempdir().full_path)
    (figures / 'a.png').write_bytes(b'')
    latents = {'generator': np.zeros((2, 3))}
    with copies.Copies(['memory'], self.target) as each:
      each.evaluation(7, {'kid': 1.0, 'name': 'x'}, figures, latents)
    (((found),),) = _Memory.given.values()
    expected = {'a': figures / 'a.png'}
    self.assertEqual((found.step, found.pictures), (7, expected))
    self.assertEqual((found.results, found.latents), ({'kid': 1.0}, latents))

  def test_evaluations_without_a_training_are_of_one_run(self):
    for _ in range(2):
      with copies.Copies(['memory'], self.target) as each:
        each.evaluation(7, {'kid': 1.0}, _FIGURES, {})
    self.assertLen(_Memory.given, 1)
    # the rows come when the training goes on
    self._start(8, rows=(6, 7), step=7)
    ((*evaluations, six, seven, eight),) = _Memory.given.values()
    self.assertLen(evaluations, 2)
    self.assertEqual([six[0], seven[0], eight[0]], [6, 7, 8])


class RunsTest(train_case.TrainTest):
  """Whole runs that die and go on."""

  def setUp(self):
    super().setUp()
    self.enter_context(mock.patch.object(_Memory, 'given', {}))
    self.enter_context(_writers(memory=_Memory, broken=_Broken))

  def _config(self, *names):
    return train_case.load_config(
      **{'logging.writers': ('jsonl', *names), 'train.log_every': 1}
    )

  def test_a_resumed_run_has_the_rows_of_its_file(self):
    real_step = loop.Loop._take_step
    # a checkpoint is at 5: the rows of 6 and 7 are taken twice
    for stop in (7, 99):

      def step(self, stop=stop):
        if self.step == stop:
          self._saved = self.step  # as in a power cut: nothing is saved now
          raise RuntimeError('power cut')
        real_step(self)

      with mock.patch.object(loop.Loop, '_take_step', step):
        if stop == 7:
          with self.assertRaisesRegex(RuntimeError, 'power cut'):
            train.train_and_evaluate(self._config('memory'), self.dir)
        else:
          train.train_and_evaluate(self._config('memory'), self.dir)
    ((given),) = _Memory.given.values()
    self.assertEqual([step for step, _ in given], list(range(1, 13)))
    clock = 'train/images_per_sec'
    for (step, values), row in zip(given, train_case.rows(self.dir)):
      self.assertEqual({'step': step, **values}, {**row, clock: values[clock]})

  def test_one_that_fails_costs_the_run_nothing(self):
    train.train_and_evaluate(self._config(), self.dir / 'without')
    with self.assertLogs('absl', 'WARNING') as logs:
      train.train_and_evaluate(self._config('broken'), self.dir / 'with')
    self.assertRegex(logs.output[0], 'config.logging.writers: broken is left')
    for each in ('without', 'with'):
      self.assertLen(train_case.rows(self.dir / each), train_case.NUM_STEPS)
    train_case.assert_same(
      *(
        train_case.final_state(self._config(), self.dir / each).state
        for each in ('without', 'with')
      )
    )

  def test_other_processes_write_none(self):
    for is_first in (False, True):
      with mock.patch.object(cluster, 'is_first', lambda is_=is_first: is_):
        config = self._config('memory')
        with run_lib.Run(self.dir, config, None).open_copies(
          0, training=False
        ) as each:
          each.scalars(1, {'a': 1.0})
      self.assertLen(_Memory.given, int(is_first))


if __name__ == '__main__':
  absltest.main()
