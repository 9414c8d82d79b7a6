"""A test case with a temporary folder, and a disk that fills up."""

import pathlib
import resource
import signal
import tempfile

from absl.testing import parameterized


class FolderTestCase(parameterized.TestCase):
  """Makes a folder for each test.

  Attributes:
    directory: The folder.
  """

  def setUp(self):
    super().setUp()
    temporary = self.enter_context(tempfile.TemporaryDirectory())
    self.directory = pathlib.Path(temporary)

  def names(self):
    """Returns the names of everything in the folder."""
    return {path.name for path in self.directory.iterdir()}

  def limit_file_size(self, num_bytes):
    """Makes writing beyond `num_bytes` fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    self.addCleanup(signal.signal, signal.SIGXFSZ, handler)
    self.addCleanup(resource.setrlimit, resource.RLIMIT_FSIZE, (soft, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
