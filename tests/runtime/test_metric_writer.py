"""Tests of ldc_vae.runtime.metric_writer."""

import json
import math

from absl.testing import absltest
from absl.testing import parameterized
import jax.numpy as jnp
import numpy as np

from ldc_vae.runtime import metric_writer as metric_writer_lib
from tests.runtime import folder_case


class MetricWriterTest(folder_case.FolderTestCase):
  def setUp(self):
    super().setUp()
    self.path = self.directory / 'metrics.jsonl'

  def write(self, *steps):
    with metric_writer_lib.MetricWriter(self.path) as metric_writer:
      for step in steps:
        metric_writer.write(step, {'train/loss': step / 2})

  def steps(self):
    return [row['step'] for row in metric_writer_lib.read_metrics(self.path)]

  def test_a_line_is_there_as_soon_as_written(self):
    with metric_writer_lib.MetricWriter(self.path) as metric_writer:
      metric_writer.write(1, {'train/loss': 0.5})
      self.assertEqual(
        self.path.read_text(), '{"step": 1, "train/loss": 0.5}\n'
      )

  @parameterized.named_parameters(
    ('int', 2, 2.0),
    ('float32', np.float32(0.1), float(np.float32(0.1))),
    ('jax', jnp.float32(0.5), 0.5),
    ('bfloat16', jnp.bfloat16(0.5), 0.5),
    ('one_element', np.ones((1, 1)), 1.0),
    ('float64', 0.1 + 0.2, 0.1 + 0.2),
  )
  def test_value_is_exact(self, value, expected):
    with metric_writer_lib.MetricWriter(self.path) as metric_writer:
      metric_writer.write(np.int64(3), {'x': value})
    self.assertEqual(
      metric_writer_lib.read_metrics(self.path), [{'step': 3, 'x': expected}]
    )

  @parameterized.parameters(math.nan, math.inf, -math.inf, None)
  def test_what_is_not_finite_is_null(self, value):
    with metric_writer_lib.MetricWriter(self.path) as metric_writer:
      metric_writer.write(1, {'x': value})
    self.assertEqual(json.loads(self.path.read_text())['x'], None)
    (row,) = metric_writer_lib.read_metrics(self.path)
    self.assertTrue(math.isnan(row['x']))

  @parameterized.named_parameters(
    ('step', {'step': 1.0}, "metric name 'step'"),
    ('array', {'x': np.ones(3)}, r'metric x has shape \(3,\)'),
  )
  def test_refuses(self, metrics, regex):
    with metric_writer_lib.MetricWriter(self.path) as metric_writer:
      with self.assertRaisesRegex(ValueError, regex):
        metric_writer.write(1, metrics)
    self.assertEqual(self.path.read_bytes(), b'')

  def test_reopening_appends(self):
    self.write(1, 2)
    self.write(3)
    self.assertEqual(self.steps(), [1, 2, 3])

  @parameterized.parameters((-1, []), (0, []), (2, [1, 2]), (9, [1, 2, 3]))
  def test_truncate_after_keeps_up_to_and_with_the_step(self, step, expected):
    self.write(1, 2, 3)
    with metric_writer_lib.MetricWriter(self.path) as metric_writer:
      metric_writer.truncate_after(step)
      self.assertEqual(self.steps(), expected)
      metric_writer.write(10, {})
    self.assertEqual(self.steps(), [*expected, 10])
    self.assertEqual(self.names(), {'metrics.jsonl'})

  def test_every_torn_end_is_dropped_and_nothing_else(self):
    self.write(1, 2)
    whole = self.path.read_bytes()
    end_of_first = whole.index(b'\n') + 1
    for length in range(end_of_first, len(whole) - 1):
      self.path.write_bytes(whole[:length])
      self.assertEqual(self.steps(), [1])
      self.write(2)
      self.assertEqual(self.path.read_bytes(), whole)

  def test_last_line_that_lacks_only_its_newline_is_kept(self):
    self.write(1, 2)
    whole = self.path.read_bytes()
    self.path.write_bytes(whole[:-1])
    self.write(3)
    self.assertEqual(self.steps(), [1, 2, 3])

  def test_zeros_after_a_power_cut_are_dropped(self):
    self.write(1)
    with self.path.open('ab') as file:
      file.write(bytes(100))
    self.write(2)
    self.assertEqual(self.steps(), [1, 2])

  def test_full_disk_leaves_whole_lines(self):
    self.write(1)
    with metric_writer_lib.MetricWriter(self.path) as metric_writer:
      self.limit_file_size(self.path.stat().st_size + 10)
      before = self.path.read_bytes()
      with self.assertRaisesRegex(OSError, r'metrics\.jsonl cannot be written'):
        metric_writer.write(2, {'train/loss': 1.0})
    self.assertEqual(self.path.read_bytes(), before)

  def test_missing_directory(self):
    path = self.directory / 'missing' / 'metrics.jsonl'
    with self.assertRaisesRegex(OSError, 'cannot be written.*create .*missing'):
      metric_writer_lib.MetricWriter(path)
    with self.assertRaisesRegex(OSError, 'cannot be read.*workdir of a run'):
      metric_writer_lib.read_metrics(path)

  def test_only_process_0_writes(self):
    with absltest.mock.patch('jax.process_index', return_value=1):
      self.write(1)
    self.assertEmpty(self.names())


class RecordTest(folder_case.FolderTestCase):
  """What a checkpoint keeps of the lines, and finds again or not."""

  def setUp(self):
    super().setUp()
    self.path = self.directory / 'metrics.jsonl'
    with metric_writer_lib.MetricWriter(self.path) as writer:
      for step in range(4):
        writer.write(step, {'loss': 1.0 / (step + 1)})
      self.record = writer.record

  def test_it_is_that_of_the_lines_however_they_were_written(self):
    self.assertEqual(self.record['rows'], 4)
    with metric_writer_lib.MetricWriter(self.path) as writer:
      self.assertEqual(writer.record, self.record)
      writer.write(4, {'loss': 0.0})
      writer.write(5, {'loss': 0.0})
      self.assertNotEqual(writer.record, self.record)
    self.assertEmpty(metric_writer_lib.damage(self.path, self.record))
    with metric_writer_lib.MetricWriter(self.path) as writer:
      writer.truncate_after(3)
      self.assertEqual(writer.record, self.record)
    self.assertEmpty(metric_writer_lib.damage(self.path, None))

  @parameterized.named_parameters(
    ('lost', lambda lines: lines[1:]),
    ('lost_at_the_end', lambda lines: lines[:-1]),
    ('doubled', lambda lines: [*lines[:2], *lines[1:]]),
    ('changed', lambda lines: [lines[0].replace(b'1', b'2'), *lines[1:]]),
    ('exchanged', lambda lines: [lines[1], lines[0], *lines[2:]]),
  )
  def test_damage_is_told_and_is_not_forgotten(self, change):
    lines = self.path.read_bytes().splitlines(keepends=True)
    self.path.write_bytes(b''.join(change(lines)))
    self.assertRegex(
      metric_writer_lib.damage(self.path, self.record),
      'metrics.jsonl is not as it was written: among its first 4 lines',
    )
    with metric_writer_lib.MetricWriter(self.path) as writer:
      writer.truncate_after(3, self.record)
      writer.write(4, {'loss': 0.0})
      later = writer.record
    self.assertIn(
      'among its first 5', metric_writer_lib.damage(self.path, later)
    )

  def test_the_record_of_an_earlier_version_has_no_format(self):
    record = dict(self.record)
    del record['format']
    self.assertEmpty(metric_writer_lib.damage(self.path, record))
    with metric_writer_lib.MetricWriter(self.path) as writer:
      writer.truncate_after(3, record)
      writer.write(4, {'loss': 0.0})
      self.assertEqual(writer.record['format'], metric_writer_lib.FORMAT)
      self.assertEmpty(metric_writer_lib.damage(self.path, writer.record))

  def test_another_format_is_told(self):
    record = {**self.record, 'format': metric_writer_lib.FORMAT + 1}
    self.assertEqual(
      metric_writer_lib.damage(self.path, record),
      'metrics.jsonl has format 2 but this version reads format 1',
    )

  def test_lines_have_the_step_and_the_metrics_alone(self):
    self.assertEqual(
      self.path.read_text().splitlines()[0], '{"step": 0, "loss": 1.0}'
    )

  def test_a_file_that_is_gone_is_told(self):
    self.path.unlink()
    self.assertRegex(
      metric_writer_lib.damage(self.path, self.record),
      r'cannot be read \(No such file',
    )


if __name__ == '__main__':
  absltest.main()
