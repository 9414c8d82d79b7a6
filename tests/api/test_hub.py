"""Tests of ldc_vae.api.hub, against a server on this machine."""

import base64
import http.server
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import threading
from unittest import mock

from absl.testing import absltest

import ldc_vae
from ldc_vae.api import hub

_PUSH = 'import ldc_vae; print(ldc_vae.push("shared", "me/run", private=True))'


class _Hub(http.server.BaseHTTPRequestHandler):
  """Answers as the hub does when a model is uploaded; keeps what comes."""

  created: list = []
  files: dict = {}

  def do_POST(self):
    body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
    if self.headers.get('Authorization') != 'Bearer hf_mine':
      return self.answer({'error': 'no such token'}, 401)
    _, _, place = self.path.partition('/api/')
    if place == 'repos/create':
      self.created.append(json.loads(body))
      return self.answer({'url': f'{self.server.address}/me/run'})
    if place == 'validate-yaml':
      return self.answer({'errors': [], 'warnings': []})
    if place == 'models/me/run/preupload/main':
      paths = [each['path'] for each in json.loads(body)['files']]
      how = {'uploadMode': 'regular', 'shouldIgnore': False}
      return self.answer({'files': [{'path': x, **how} for x in paths]})
    if place == 'models/me/run/commit/main':
      for line in map(json.loads, body.splitlines()):
        if line['key'] == 'file':
          value = line['value']
          self.files[value['path']] = base64.b64decode(value['content'])
      address = f'{self.server.address}/me/run/commit/1'
      return self.answer({'commitUrl': address, 'commitOid': '1' * 40})
    return self.answer({'error': self.path}, 404)

  def do_GET(self):
    if self.path.startswith('/api/models/me/run'):
      return self.answer({'id': 'me/run', 'siblings': [], 'sha': '1' * 40})
    return self.answer({'error': self.path}, 404)

  def answer(self, value, code=200):
    data = json.dumps(value).encode()
    self.send_response(code)
    self.send_header('Content-Type', 'application/json')
    self.send_header('Content-Length', str(len(data)))
    self.end_headers()
    self.wfile.write(data)

  def log_message(self, *unused_args):
    pass


class PushTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.folder = pathlib.Path(self.create_tempdir().full_path)
    self.shared = self.folder / 'shared'
    self.shared.mkdir()
    self.contents = {
      'config.json': b'{}',
      'model.npz': bytes(range(256)),
      'README.md': b'---\nlibrary_name: ldc_vae\n---\n# A run\n',
    }
    for name, data in self.contents.items():
      (self.shared / name).write_bytes(data)

  def test_what_is_no_export_is_refused(self):
    with self.assertRaisesRegex(ldc_vae.UserError, 'is no export; write one'):
      ldc_vae.push(self.folder, 'me/run')

  def test_a_missing_package_is_named(self):
    with mock.patch.dict(sys.modules, huggingface_hub=None):
      with self.assertRaisesRegex(ldc_vae.UserError, r"install 'ldc_vae\[hub"):
        hub.push(self.shared, 'me/run')


@absltest.skipIf(
  importlib.util.find_spec('huggingface_hub') is None,
  "huggingface_hub is missing: pip install '.[hub]'",
)
class ServerTest(PushTest):
  def setUp(self):
    super().setUp()
    _Hub.created, _Hub.files = [], {}
    self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Hub)
    self.server.address = f'http://127.0.0.1:{self.server.server_port}'
    threading.Thread(target=self.server.serve_forever, daemon=True).start()
    self.addCleanup(self.server.server_close)
    self.addCleanup(self.server.shutdown)

  def push(self, token):
    """Pushes in a process of its own, as the package reads variables once."""
    env = dict(
      os.environ,
      HF_ENDPOINT=self.server.address,
      HF_TOKEN=token,
      HF_HOME=str(self.folder / 'home'),
      HF_HUB_DISABLE_TELEMETRY='1',
      PYTHONPATH=str(pathlib.Path(ldc_vae.__file__).parent.parent),
    )
    return subprocess.run(
      [sys.executable, '-c', _PUSH],
      cwd=self.folder,
      env=env,
      capture_output=True,
      text=True,
    )

  def test_the_hub_gets_the_files_of_the_export_and_no_others(self):
    (self.shared / 'secret.txt').write_text('mine')
    done = self.push('hf_mine')
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertEqual(done.stdout.strip(), f'{self.server.address}/me/run')
    self.assertEqual(_Hub.files, self.contents)
    (created,) = _Hub.created
    self.assertEqual(created['name'], 'run')
    self.assertTrue(
      created.get('private') or created.get('visibility') == 'private'
    )

  def test_a_refusal_is_told_in_a_sentence(self):
    done = self.push('hf_other')
    self.assertEqual(done.returncode, 1)
    self.assertRegex(
      done.stderr, r'UserError: me/run cannot be uploaded .*hf auth login`'
    )
    self.assertEmpty(_Hub.files)


if __name__ == '__main__':
  absltest.main()
