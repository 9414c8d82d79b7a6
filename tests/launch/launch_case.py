"""Shared by the tests of the launchers: a PATH of programs that only record.

A fake program writes its arguments to a log and answers by the rules that a
test has set, as the real one would: an output, an error, an exit code.
"""

import pathlib
import shutil
import subprocess
import tempfile
import time

from absl.testing import parameterized

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent

TIMEOUT = 300  # s: a busy machine is not a failure

RUN = ('--', '--config=configs/mnist.py:vae', '--workdir=runs/mnist')
RUN_INSIDE = (*RUN[:2], '--workdir=/runs/mnist')  # of a container

# All that the launchers may count on besides what they are made for.
_TOOLS = (
  'awk',
  'bash',
  'cat',
  'cksum',
  'cp',
  'date',
  'dirname',
  'env',
  'flock',
  'grep',
  'gzip',
  'id',
  'ls',
  'mkdir',
  'mktemp',
  'mv',
  'rm',
  'rmdir',
  'seq',
  'setsid',
  'sleep',
  'stat',
  'tail',
  'tar',
  'tee',
  'touch',
)

# The newest rule that matches answers; without one, all is well and silent.
FAKE = r"""#!/bin/bash
name=${0##*/}
{ printf '%s\x1f' "$name" "$@"; printf '\x1e'; } >> "$FAKES/log"
count=$(($(cat "$FAKES/count" 2> /dev/null || echo 0) + 1))
echo "$count" > "$FAKES/count"
if [[ $count == "${FAKE_FAIL_AT:-}" ]]; then
  echo "ERROR: ($name) HTTPError 503: The service is unavailable." >&2
  exit 1
fi
for rule in "$FAKES"/rules/*; do
  pattern=$(cat "$rule/pattern")
  [[ "$name $*" == $pattern ]] || continue
  times=$(cat "$rule/times")
  ((times)) || continue
  echo $((times - 1)) > "$rule/times"
  cat "$rule/err" >&2
  cat "$rule/out"
  source "$rule/run"
  exit "$(cat "$rule/code")"
done
"""

# Stands in for Python, that of the machine and that of the environment. It
# records the current folder, some variables and its arguments. As ldc_vae.main
# it writes a line of metrics, and ends after some time or once it has saved.
PYTHON = r"""#!/bin/bash
case "$*" in
  *version_info*'< (3, 11)'*) exit "${FAKE_OLD:-0}" ;;
  *version_info*) echo 3.11; exit ;;
  *ensurepip*) exit "${FAKE_NO_ENSUREPIP:-0}" ;;
  --version) echo Python 3.11.9; exit ;;
  '-m venv '*) mkdir "$3/bin" && cp "$0" "$3/bin/python"; exit ;;
esac
{ printf '%s\x1f' python "$PWD" "$JAX_PLATFORMS" "$JAX_LOCAL_DEVICE_IDS" \
    "$LDC_VAE_DISTRIBUTED" "$@"; printf '\x1e'; } >> "$FAKES/log"
case "$*" in
  *'-m pip'*) sleep "${FAKE_PIP_SECONDS:-0}"; exit "${FAKE_PIP_CODE:-0}" ;;
  *"-m ${FAKE_FAILING:-nothing}"*) exit 3 ;;
  *'-m ldc_vae.main'*) ;;
  *) exit ;;
esac
trap 'echo saved >> "$FAKES/saved"; exit 143' TERM
echo $$ > "$FAKES/pid"
for word in "$@"; do
  [[ $word != --workdir=* || ! -d ${word#*=} ]] ||
    echo '{"step": 1, "train/loss": 2.5}' >> "${word#*=}/metrics.jsonl"
done
echo 'the log of the program'
for ((i = 0; i < ${FAKE_TENTHS:-0}; ++i)); do sleep 0.1; done
exit "${FAKE_CODE:-0}"
"""


class LaunchTestCase(parameterized.TestCase):
  """A copy of the launchers in a folder of the test, and a bare PATH."""

  SCRIPT = ''  # the launcher under test
  PROGRAMS = ()  # the programs that it calls

  def setUp(self):
    super().setUp()
    folder = self.enter_context(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(folder).resolve()
    self.root = self.folder / 'a clone'  # a path with a space
    shutil.copytree(ROOT / 'launch', self.root / 'launch')
    for name in ('configs', 'ldc_vae', 'locks'):
      (self.root / name).mkdir()
    (self.root / 'configs/mnist.py').touch()
    (self.root / 'requirements.txt').write_text('jax==1\n')
    self.bin = self.folder / 'bin'
    self.bin.mkdir()
    for tool in _TOOLS:
      if shutil.which(tool):
        (self.bin / tool).symlink_to(shutil.which(tool))
    self.fakes = self.folder / 'fakes'
    (self.fakes / 'rules').mkdir(parents=True)
    (self.fakes / 'log').touch()
    self.env = {
      'PATH': str(self.bin),
      'FAKES': str(self.fakes),
      'HOME': str(self.folder),
    }
    self._num_rules = 0
    for name in self.PROGRAMS:
      self.program(name, PYTHON if name.startswith('python') else FAKE)

  def program(self, name, text=FAKE):
    """Puts a program on PATH, by default one that records and answers."""
    path = self.bin / name
    path.unlink(missing_ok=True)  # a link to the real one
    path.write_text(text)
    path.chmod(0o755)

  def answer(self, pattern, out='', err='', code=0, times=10**6, run=':'):
    """Sets what the fakes answer where 'name arguments' matches a pattern.

    Args:
      pattern: As bash matches it, so that `*` is any text.
      out: What it prints.
      err: What it complains of.
      code: Its exit code.
      times: How often it answers so; older rules hold afterwards.
      run: Bash that it runs.
    """
    self._num_rules += 1
    rule = self.fakes / 'rules' / f'{10_000 - self._num_rules}'
    rule.mkdir()
    for name, text in (
      ('pattern', pattern),
      ('out', out),
      ('err', err),
      ('code', code),
      ('times', times),
      ('run', run),
    ):
      (rule / name).write_text(str(text))

  def calls(self, *words):
    """The recorded calls, those that have all words: tuples of arguments."""
    records = (self.fakes / 'log').read_text().split('\x1e')[:-1]
    calls = [tuple(record.split('\x1f')[:-1]) for record in records]
    return [call for call in calls if set(words) <= set(call)]

  def forget(self):
    """Empties the record."""
    (self.fakes / 'log').write_text('')
    (self.fakes / 'count').unlink(missing_ok=True)

  def start(self, *args, script=None, cwd=None, **env):
    """Returns the process of a launcher, which leads a group of its own."""
    return subprocess.Popen(
      ('bash', self.root / 'launch' / (script or self.SCRIPT), *args),
      env={**self.env, **env},
      cwd=cwd or self.root,
      text=True,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      start_new_session=True,
    )

  def launch(self, *args, **kwargs):
    """Returns the finished process of a launcher."""
    process = self.start(*args, **kwargs)
    out, err = process.communicate(timeout=TIMEOUT)
    return subprocess.CompletedProcess(args, process.returncode, out, err)

  def assert_done(self, result, *parts):
    """Asserts that it ended well and printed the parts."""
    self.assertEqual(result.returncode, 0, result.stderr)
    for part in parts:
      self.assertIn(part, result.stderr + result.stdout)

  def assert_failed(self, result, *parts):
    """It ended with 1 and a last line that is a sentence with the parts."""
    self.assertEqual(result.returncode, 1, result.stderr)
    self._assert_sentence(result.stderr.splitlines()[-1], parts)

  def assert_mistake(self, result, *parts):
    """It ended with 2 and one sentence with the parts; nothing was run."""
    self.assertEqual(result.returncode, 2, result.stderr)
    self.assertLen(result.stderr.splitlines(), 1, result.stderr)
    self._assert_sentence(result.stderr.strip(), parts)
    self.assertEmpty(result.stdout)
    self.assertEmpty(self.calls())

  def _assert_sentence(self, line, parts):
    self.assertStartsWith(line, 'error: ')
    for part in parts:
      self.assertIn(part, line)

  def assert_each_call_may_fail(self, count, *args, **env):
    """Asserts that the failure of each call is reported, and mended later.

    Args:
      count: The number of calls.
      *args: The arguments of the launcher.
      **env: Its variables.
    """
    for failing in range(1, count + 1):
      self.forget()
      result = self.launch(*args, FAKE_FAIL_AT=str(failing), **env)
      self.assert_failed(result)
      self.assertIn('HTTPError 503', result.stderr)
      if 'create' not in self.calls()[-2:][0]:  # which is asked about
        self.assertLen(self.calls(), failing)
    self.forget()
    self.assert_done(self.launch(*args, **env))
    self.assertLen(self.calls(), count)

  def dry_run(self, *args, **kwargs):
    """The commands that a dry run prints; it runs nothing."""
    before = sorted(self.root.rglob('*'))
    where = args.index('--') if '--' in args else len(args)
    result = self.launch(*args[:where], '--dry-run', *args[where:], **kwargs)
    self.assert_done(result)
    self.assertEmpty(self.calls())
    self.assertEqual(sorted(self.root.rglob('*')), before)
    return result.stdout.splitlines()

  def wait_for(self, condition):
    """Returns once a condition holds."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
      self.assertLess(time.monotonic(), deadline)
      time.sleep(0.02)
