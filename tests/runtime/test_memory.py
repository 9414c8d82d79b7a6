"""Tests of ldc_vae.runtime.memory."""

import fnmatch
import os
import pathlib
import platform
import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np

from ldc_vae.runtime import memory

_ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


class AvailableTest(parameterized.TestCase):
  def test_is_below_that_of_the_machine(self):
    whole = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
    self.assertBetween(memory.available(), 1e8, whole)

  @parameterized.parameters(
    ('memory.max', 'memory.current', '1000000', 500_000),
    ('memory.limit_in_bytes', 'memory.usage_in_bytes', '1000000', 500_000),
    ('memory.max', 'memory.current', 'max', None),
  )
  def test_that_of_a_container_counts(self, limit, usage, most, expected):
    folder = pathlib.Path(self.create_tempdir().full_path)
    (folder / limit).write_text(most)
    (folder / usage).write_text('700000')
    (folder / 'memory.stat').write_text('anon 3\ninactive_file 200000\n')
    with absltest.mock.patch.object(
      memory, '_CGROUPS', [(folder, limit, usage)]
    ):
      self.assertEqual(memory.available() == expected, expected is not None)


class CheckArchiveTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    path = os.path.join(self.create_tempdir().full_path, 'x.npz')
    np.savez_compressed(path, images=np.zeros(10**6, np.uint8), labels=[1])
    self.archive = self.enter_context(np.load(path))
    self.enter_context(
      absltest.mock.patch.object(memory, 'available', lambda: 10**5)
    )

  def test_what_does_not_fit_is_refused_unpacked(self):
    with self.assertRaisesRegex(ValueError, 'need 0.0 GB of memory, of which'):
      memory.check_archive(self.archive)

  def test_only_the_named_count(self):
    memory.check_archive(self.archive, ['labels'])
    with self.assertRaises(ValueError):
      memory.check_archive(self.archive, ['images'])


class KeepFreedMemoryTest(parameterized.TestCase):
  @parameterized.parameters(
    ('cpu', ['/dev/nvidiactl'], True),  # an accelerator that is not used
    ('', [], True),
    ('', ['/dev/nvidiactl'], False),
    ('cuda', [], False),
  )
  def test_only_where_the_cpu_computes(self, platforms, nodes, expected):
    options = []
    library = absltest.mock.Mock()
    library.mallopt = lambda *option: options.append(option) or 1
    self.enter_context(
      absltest.mock.patch.dict(os.environ, JAX_PLATFORMS=platforms)
    )
    for module, name, value in (
      (
        memory.glob,
        'glob',
        lambda pattern: [
          node for node in nodes if fnmatch.fnmatch(node, pattern)
        ],
      ),
      (memory.platform, 'libc_ver', lambda: ('glibc', '2.36')),
      (memory.ctypes, 'CDLL', lambda unused_name: library),
    ):
      self.enter_context(absltest.mock.patch.object(module, name, value))
    self.assertEqual(memory.keep_freed_memory(), expected)
    self.assertEqual(bool(options), expected)

  def test_freed_memory_costs_no_page_faults(self):
    if platform.libc_ver()[0] != 'glibc':
      self.skipTest('no glibc')
    code = (
      'import resource, numpy as np\n'
      'from ldc_vae.runtime import memory\n'
      'assert memory.keep_freed_memory()\n'
      'def faults():\n'
      '  np.ones(10**7)\n'  # 80 MB, which glibc would give back
      '  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n'
      'faults()\n'
      'before = faults()\n'
      'print(faults() - before)\n'
    )
    environment = {**os.environ, 'JAX_PLATFORMS': 'cpu'}
    output = subprocess.run(
      (sys.executable, '-c', code),
      cwd=_ROOT,
      env=environment,
      check=True,
      capture_output=True,
      text=True,
    ).stdout
    self.assertLess(int(output), 1000)  # of 19,532 pages


if __name__ == '__main__':
  absltest.main()
