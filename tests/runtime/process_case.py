"""Several processes of one run on this machine, and what they print."""

import contextlib
import os
import pathlib
import re
import socket
import subprocess
import sys
import threading
import time

from ldc_vae.runtime import manifest
from tests import device_case

_ROOT = pathlib.Path(__file__).resolve().parent.parent.parent

# What process 1 prints when process 0 is killed, which jax notices first, and
# process 0 when process 1 is killed.
DEATHS = (
  'most likely indicates that another task died',
  'process 1 of 2 has died, or does not answer',
)


class Processes:
  """The processes of one run on this machine, and what they print."""

  def __init__(
    self,
    count,
    workdir,
    program='',
    *,
    devices=1,
    argv=(),
    before='',
    config=True,
  ):
    """Starts `count` processes.

    Args:
      count: How many.
      workdir: The workdir of the run.
      program: Code before the command line is run; '' for the real thing.
      devices: Emulated devices of each.
      argv: Further flags.
      before: Code before that.
      config: Whether to give one, by default that of digits.
    """
    flags = [f'--workdir={workdir}', *argv]
    if config and not any(flag.startswith('--config=') for flag in argv):
      flags.append('--config=configs/digits.py:ldc,debug')
    if count > 1:
      with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
      flags += [
        f'--coordinator_address=localhost:{port}',
        f'--num_processes={count}',
      ]
    env = dict(
      os.environ,
      NPROC='32',
      JAX_PLATFORMS='cpu',
      XLA_FLAGS=device_case.xla_flags(devices),
      PYTHONPATH=os.pathsep.join(
        filter(None, [str(_ROOT), os.environ.get('PYTHONPATH')])
      ),
    )
    code = f'{before}\n{program}\nfrom ldc_vae import main\nmain.run()\n'
    self.printed = ['' for _ in range(count)]
    self.running = []
    for index in range(count):
      own = [*flags, f'--process_id={index}'] if count > 1 else flags
      self.running.append(
        subprocess.Popen(
          [sys.executable, '-c', code, *own],
          cwd=_ROOT,
          env=env,
          stdout=subprocess.PIPE,
          stderr=subprocess.STDOUT,
          text=True,
        )
      )
    self._readers = [
      threading.Thread(target=self._read, args=(index,), daemon=True)
      for index in range(count)
    ]
    for reader in self._readers:
      reader.start()

  def __enter__(self):
    return self

  def __exit__(self, *unused_exc_info):
    for process in self.running:
      process.kill()
      process.wait()
      process.stdout.close()

  def await_line(self, pattern, seconds=120):
    """Waits until every process has printed a line with `pattern`."""
    deadline = time.monotonic() + seconds
    while not all(re.search(pattern, text) for text in self.printed):
      if time.monotonic() > deadline or all(
        process.poll() is not None for process in self.running
      ):
        raise AssertionError(f'no {pattern!r} in {self.printed}')
      time.sleep(0.02)

  def wait(self, seconds=600):
    """Waits for all to end; returns their exit codes."""
    deadline = time.monotonic() + seconds
    codes = [
      process.wait(max(deadline - time.monotonic(), 0.01))
      for process in self.running
    ]
    for reader in self._readers:
      reader.join(10)
    return codes

  def await_end(self, index):
    """Waits until all that an ended process has printed is read."""
    self._readers[index].join(10)

  def _read(self, index):
    with contextlib.suppress(ValueError):  # closed in the middle
      for line in self.running[index].stdout:
        self.printed[index] += line


def final_values(workdir):
  """The step and the leaves, by name, of the newest checkpoint."""
  directory = pathlib.Path(workdir) / 'checkpoints'
  step = max(
    int(path.name) for path in directory.iterdir() if path.name.isdecimal()
  )
  path = directory / str(step)
  return step, manifest.read_values(path, manifest.read(path))
