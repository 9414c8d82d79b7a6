"""Commands in processes of their own: several at once, each on its own cores.

A process that crashes, runs out of memory or is stopped takes no other with it.
"""

from collections.abc import Callable, Sequence
import contextlib
import os
import pathlib
import subprocess
import time
from typing import NamedTuple

import numpy as np

from ldc_vae import errors
from ldc_vae.runtime import durable

# Names the process that runs the jobs: a run of ours stops when it is gone,
# even if it could not say so.
PARENT_VARIABLE = 'LDC_VAE_PARENT'

_POLL_SECONDS = 0.1


class Job(NamedTuple):
  """One command.

  Attributes:
    name: Of the job, for messages.
    words: The command.
    log: What it prints is appended to this file; None: it prints as we do.
  """

  name: str
  words: tuple[str, ...]
  log: pathlib.Path | None = None


class End(NamedTuple):
  """How a job ended.

  Attributes:
    job: Which.
    code: The exit code, or minus a signal; None where we stopped it.
    seconds: That it ran.
    output: What it added to its log; '' without one.
  """

  job: Job
  code: int | None
  seconds: float
  output: str


def run_all(
  jobs: Sequence[Job],
  num_jobs: int,
  *,
  on_start: Callable[[Job], None] = lambda job: None,
  on_end: Callable[[End], None] = lambda end: None,
  env: dict[str, str] | None = None,
) -> None:
  """Runs commands, `num_jobs` at once, until all have ended.

  With more than one at once each has its own cores, where the system can pin
  them. Whatever ends this function early, as a signal does, sends SIGTERM to
  the commands under way and waits for them.

  Args:
    jobs: In the order in which they start.
    num_jobs: At least 1, at most the number of cores.
    on_start: Called before each job.
    on_end: Called after each job, also after one that we stopped.
    env: The environment; None: that of this process.
  """
  shares = core_shares(num_jobs)
  waiting, free, running = list(jobs), list(range(num_jobs)), {}
  try:
    while waiting or running:
      while waiting and free:
        job = waiting.pop(0)
        on_start(job)
        slot = free.pop(0)
        running[slot] = _Running(job, shares[slot], env)
      time.sleep(_POLL_SECONDS)
      for slot, each in list(running.items()):
        if each.process.poll() is not None:
          del running[slot]
          free.append(slot)
          on_end(each.end(each.process.returncode))
  finally:
    for each in running.values():
      each.process.terminate()  # it saves what it has first
    for each in running.values():
      each.process.wait()
    for each in running.values():  # all have ended, even if this raises
      on_end(each.end(None))


def num_cores() -> int:
  """The cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def core_shares(num_jobs: int) -> list[tuple[int, ...] | None]:
  """The cores of each job, disjoint; None where they cannot be pinned.

  Args:
    num_jobs: At most the number of cores.

  Returns:
    One entry per job; of one job None, for it may use them all.
  """
  if num_jobs > num_cores():
    raise errors.UserError(
      f'--jobs={num_jobs} is more than the {num_cores()} cores of this'
      ' process; use that many at most'
    )
  if num_jobs == 1 or not hasattr(os, 'sched_setaffinity'):
    return [None] * num_jobs
  cores = sorted(os.sched_getaffinity(0))
  return [tuple(map(int, x)) for x in np.array_split(cores, num_jobs)]


class _Running:
  """A job under way."""

  def __init__(self, job, cores, env):
    self._job, self._start, self._size = job, time.monotonic(), 0
    # A group of its own: Ctrl-C reaches us alone, and we stop it once.
    env = dict(os.environ if env is None else env)
    env[PARENT_VARIABLE] = str(os.getpid())
    options = dict(env=env, stdin=subprocess.DEVNULL, process_group=0)
    if job.log is None:
      self.process = subprocess.Popen(job.words, **options)
    else:
      with open(job.log, 'ab', opener=durable.opener) as file:
        self._size = file.tell()
        self.process = subprocess.Popen(
          job.words, stdout=file, stderr=file, **options
        )
    if cores is not None:
      with contextlib.suppress(ProcessLookupError):  # it has ended already
        # before its first thread starts: those inherit it
        os.sched_setaffinity(self.process.pid, cores)

  def end(self, code) -> End:
    """How it ended, now that it has."""
    output = ''
    if self._job.log is not None:
      with open(self._job.log, 'rb') as file:
        file.seek(self._size)
        output = file.read().decode('utf-8', 'replace')
    return End(self._job, code, time.monotonic() - self._start, output)
