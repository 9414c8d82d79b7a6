"""Shared by the tests of configs: a folder, a run file, and its errors."""

import pathlib
import tempfile

from absl.testing import parameterized

from ldc_vae import errors

RUN_FILE = """
from ldc_vae.configs import default

def get_config(arg=''):
  config = default.create(arg)
  config.model.latent_size = 4
  return config
"""


class FileTestCase(parameterized.TestCase):
  """Gives each test a folder of its own."""

  def setUp(self):
    super().setUp()
    folder = self.enter_context(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(folder).resolve()

  def write(self, name, text):
    path = self.folder / name
    path.write_text(text)
    return str(path)

  def run_file(self, text=RUN_FILE):
    return self.write('run.py', text)

  def message_of(self, function, *args):
    """Returns the sentence of the `UserError` that a call raises."""
    with self.assertRaises(errors.UserError) as context:
      function(*args)
    message = str(context.exception)
    self.assertNotIn('\n', message)
    return message
