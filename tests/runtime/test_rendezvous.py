"""Tests of ldc_vae.runtime.rendezvous: processes that miss each other."""

import concurrent.futures
import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import time
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import pytest

from ldc_vae import errors
from ldc_vae.runtime import rendezvous

_ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
_SECONDS = 3  # of waiting


def _free_port():
  with socket.socket() as free:
    free.bind(('localhost', 0))
    return free.getsockname()[1]


@contextlib.contextmanager
def _other_program(port):
  """A program that accepts connections and answers in another protocol."""
  with socket.create_server(('', port)) as listener:
    listener.settimeout(0.1)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
      is_closed = []

      def serve():
        while not is_closed:
          with contextlib.suppress(OSError), listener.accept()[0] as member:
            member.sendall(b'HTTP/1.1 400 Bad Request\r\n\r\n')

      pool.submit(serve)
      yield
      is_closed.append(True)


# The mistakes in a start of several processes. Each process is given by its
# (--process_id, --num_processes, host or None for the right one), and answered
# by a sentence with these words; '' is for one that may wait for any other.
_NONE = r'within \d+ s; start '
_TWICE = 'process 1 of 3 was started twice; give each process its own --proc'
_MISTAKES = {
  'process_1_is_missing': [((0, 2), f'process 1 of 2 did not come {_NONE}')],
  'two_are_missing': [((0, 3), f'processes 1, 2 of 3 did not come {_NONE}')],
  'process_0_is_missing': [
    ((1, 2), rf'process 0 did not answer process 1 of 2 \(Connection .*{_NONE}')
  ],
  'process_1_is_doubled': [
    ((0, 3), _TWICE),
    ((1, 3), _TWICE),
    ((1, 3), _TWICE),
  ],
  'process_0_is_doubled': [
    ((0, 2), 'this host cannot be had|process 1 of 2 did not come'),
    ((0, 2), 'this host cannot be had|process 1 of 2 did not come'),
  ],
  'counts_differ': [
    ((0, 2), 'process 1 was started with --num_processes=3, process 0 with 2'),
    ((1, 3), 'process 1 was started with --num_processes=3, process 0 with 2'),
  ],
  'the_host_is_unknown': [
    (
      (1, 2, 'no-such-host.invalid'),
      r'did not answer process 1 of 2 \(.*[Nn]ame',
    )
  ],
  'the_port_is_in_use': [
    ((0, 2), r'port \d+ of this host cannot be had \(another program'),
    ((1, 2), r'did not answer process 1 of 2 \(what answers is another progr'),
  ],
}


@contextlib.contextmanager
def _address(name):
  """The coordinator's address, whose port another program has, or not."""
  port = _free_port()
  with (
    _other_program(port)
    if name == 'the_port_is_in_use'
    else contextlib.nullcontext()
  ):
    yield lambda host='localhost': f'{host}:{port}'


class MeetTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.enter_context(
      mock.patch.dict(os.environ, {rendezvous.VARIABLE: str(_SECONDS)})
    )

  def meet(self, starts):
    """Returns what each process raises, or None."""

    def start(arguments):
      try:
        rendezvous.meet(*arguments)
      except rendezvous.JoinError as error:
        return str(error)

    with concurrent.futures.ThreadPoolExecutor(len(starts)) as pool:
      return list(pool.map(start, starts))

  @parameterized.parameters(1, 2, 5)
  def test_all_that_come_go_on(self, count):
    address = f'localhost:{_free_port()}'
    starts = [(address, count, index) for index in range(count)]
    self.assertEqual(self.meet(starts), [None] * count)
    with socket.create_server(('', int(address.rpartition(':')[2]))):
      pass  # the port is free again, for jax

  def test_one_that_begins_again_is_not_doubled(self):
    port = _free_port()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
      first = pool.submit(rendezvous.meet, f'localhost:{port}', 2, 0)
      while True:
        with contextlib.suppress(OSError):
          socket.create_connection(('localhost', port)).close()
          break
      with socket.create_connection(('localhost', port)) as stranger:
        stranger.sendall(b'\0' * 100)
        pool.submit(rendezvous.meet, f'localhost:{port}', 2, 1).result()
    first.result()

  @parameterized.named_parameters(*_MISTAKES.items())
  def test_a_mistake_is_told(self, mistake):
    name = self.id().rpartition('told_')[2]
    with _address(name) as address_fn:
      start = time.monotonic()
      told = self.meet(
        [(address_fn(*host), n, i) for (i, n, *host), _ in mistake]
      )
    self.assertLess(time.monotonic() - start, _SECONDS + 5)
    for text, (_, part) in zip(told, mistake, strict=True):
      self.assertRegex(text, part)

  def test_who_is_waited_for_is_said(self):
    self.enter_context(mock.patch.object(rendezvous, '_EVERY', 1.0))
    address = f'localhost:{_free_port()}'
    with self.assertLogs(level='INFO') as logs:
      self.meet([(address, 3, 0), (address, 3, 1)])
    said = '\n'.join(logs.output)
    self.assertRegex(said, rf'{address}: waiting for process 2, \d of 3 s')
    self.assertIn('waiting for the other processes', said)

  @parameterized.parameters('0', 'x', '-1', 'nan', 'inf')
  def test_other_seconds_are_refused(self, text):
    os.environ[rendezvous.VARIABLE] = text
    with self.assertRaisesRegex(errors.UserError, f'{text}: no number of sec'):
      rendezvous.meet('localhost:1', 1, 0)


@pytest.mark.slow
class CommandTest(parameterized.TestCase):
  @parameterized.named_parameters(*_MISTAKES.items())
  def test_a_mistake_is_told(self, mistake):
    name = self.id().rpartition('told_')[2]
    env = {**os.environ, rendezvous.VARIABLE: '15', 'PYTHONPATH': str(_ROOT)}
    folder = self.create_tempdir().full_path
    with _address(name) as address_fn:
      begin = time.monotonic()
      processes = [
        subprocess.Popen(
          (
            *(sys.executable, '-m', 'ldc_vae.main'),
            '--config=digits:vae,debug',
            f'--workdir={folder}/w',
            f'--coordinator_address={address_fn(*host)}',
            f'--num_processes={count}',
            f'--process_id={index}',
          ),
          env=env,
          text=True,
          stdout=subprocess.PIPE,
          stderr=subprocess.STDOUT,
        )
        for (index, count, *host), _ in mistake
      ]
      printed = [each.communicate(timeout=60)[0] for each in processes]
    self.assertLess(time.monotonic() - begin, 60)
    for each, text, (_, part) in zip(processes, printed, mistake, strict=True):
      self.assertEqual(each.returncode, 1, text)
      lines = [x for x in text.splitlines() if 'waiting for' not in x]
      self.assertLen(lines, 1, text)
      self.assertRegex(lines[0], f'^error: .*({part})')
    self.assertFalse(os.path.exists(f'{folder}/w'))


if __name__ == '__main__':
  absltest.main()
