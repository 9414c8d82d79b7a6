"""Tests of ldc_vae.runtime.console."""

import io
import os
import subprocess
import sys
import textwrap

from absl.testing import absltest
from absl.testing import parameterized

from ldc_vae.runtime import console

_PROGRAM = textwrap.dedent("""
    import os, sys, time
    from absl import logging
    from ldc_vae import main
    from ldc_vae.runtime import console
    from ldc_vae.runtime import progress
    console.protect()
    main._show_messages()
    time.sleep({seconds})
    file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
    assert file > 2
    with progress.ProgressBar(3) as bar:
      for step in (1, 2, 3):
        logging.warning('step %d', step)
        print('step', file=sys.stderr, flush=True)
        bar.update(step, lambda: 1.0)
    os.write(file, b'done')
""")


class ProtectTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ('full_disk', '2>/dev/full'),
    ('closed', '2>&-'),
    ('all_closed', '<&- >&- 2>&-'),
    ('closed_pipe', '2>&1 | true'),
  )
  def test_what_cannot_be_printed_ends_nothing(self, redirection):
    done = os.path.join(self.create_tempdir().full_path, 'done')
    script = f'set -o pipefail; "$0" -c "$1" {done} {redirection}'
    program = _PROGRAM.replace(
      '{seconds}', '0.2' if 'pipe' in self.id() else '0'
    )
    ended = subprocess.run(
      ['bash', '-c', script, sys.executable, program], check=False
    )
    self.assertEqual(ended.returncode, 0)
    with open(done, 'rb') as file:
      self.assertEqual(file.read(), b'done')

  def test_what_can_be_printed_is(self):
    done = os.path.join(self.create_tempdir().full_path, 'done')
    ended = subprocess.run(
      [sys.executable, '-c', _PROGRAM.replace('{seconds}', '0'), done],
      check=True,
      stderr=subprocess.PIPE,
      text=True,
    )
    self.assertIn('step 3', ended.stderr)
    self.assertIn('3/3', ended.stderr)

  def test_a_stream_that_was_closed_is_quiet(self):
    path = os.path.join(self.create_tempdir().full_path, 'log')
    with open(path, 'w') as file:
      stream = console.QuietStream(file)
      self.assertEqual(stream.write('a'), 1)
      self.assertFalse(stream.isatty())
    self.assertEqual(stream.write('bc'), 2)
    stream.flush()
    with open(path) as file:
      self.assertEqual(file.read(), 'a')


class OutputTest(parameterized.TestCase):
  @parameterized.parameters('--help', '--help --config=digits')
  def test_a_full_disk_is_told(self, flags):
    ended = subprocess.run(
      f'"{sys.executable}" -m ldc_vae.main {flags} >/dev/full',
      shell=True,
      check=False,
      stderr=subprocess.PIPE,
      text=True,
    )
    self.assertEqual(ended.returncode, 1)
    self.assertEqual(
      ended.stderr,
      'error: standard output cannot be written (No space left on device);'
      ' send it to another file, or free some disk space\n',
    )

  def test_control_characters_are_escaped(self):
    stream = io.StringIO()
    print('a\x1b[2J\tb', file=console.Output(stream))
    self.assertEqual(stream.getvalue(), 'a\\x1b[2J\tb\n')


class PrintableTest(parameterized.TestCase):
  @parameterized.parameters(
    ('a b\n\u00e9', 'a b\n\u00e9'),
    ('\x1b[31mred\x07', r'\x1b[31mred\x07'),
    ('\x9b2J\r', r'\x9b2J\r'),
    ('a\u202eb', r'a\u202eb'),
    ('\udcff', '\udcff'),
  )
  def test_control_characters_are_escaped(self, text, expected):
    self.assertEqual(console.printable(text), expected)

  def test_a_sentence_has_one_line_of_a_sensible_length(self):
    self.assertEqual(console.sentence(' a\n b '), 'a b')
    text = console.sentence(f'x={"9" * 5000}: give {"a " * 5000}z')
    self.assertLess(len(text), 1500)
    self.assertStartsWith(text, 'x=999')
    self.assertIn('999...999', text)
    self.assertEndsWith(text, 'a z')


if __name__ == '__main__':
  absltest.main()
