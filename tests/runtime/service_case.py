"""Storage services of this machine, as Amazon and Google answer, with faults.

The packages that they need are those of `tests/runtime/services.txt`.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import http.client
import http.server
import importlib.util
import os
import socket
import subprocess
import sys
import threading
import time
from unittest import mock

import fsspec

_HOST = '127.0.0.1'
_S3 = 'from moto import server; server.main()'
_GS = 'from gcp_storage_emulator.__main__ import main; main()'


@dataclasses.dataclass
class Service:
  """A service of one protocol, with one bucket, on a free port."""

  protocol: str
  port: int = 0

  def __post_init__(self):
    self.own_port = _free_port()
    self.port = self.port or self.own_port  # that of a proxy before it

  @property
  def address(self) -> str:
    return f'{self.protocol}://bucket/runs/a'

  @property
  def env(self) -> dict[str, str]:
    """What the client needs to know."""
    url = f'http://{_HOST}:{self.port}'
    if self.protocol == 'gs':
      # Without this, gcsfs asks Google whether the bucket has folders.
      return {
        'STORAGE_EMULATOR_HOST': url,
        'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',
      }
    return {
      'AWS_ENDPOINT_URL': url,
      'AWS_ACCESS_KEY_ID': 'x',
      'AWS_SECRET_ACCESS_KEY': 'x',
      'AWS_DEFAULT_REGION': 'us-east-1',
    }

  def start(self):
    """Starts it without any file, and waits until it answers."""
    flags = ['-H', _HOST, '-p', str(self.own_port)]
    code = _S3
    if self.protocol == 'gs':
      code = _GS
      flags = ['start', f'--host={_HOST}', f'--port={self.own_port}']
      flags += ['--in-memory', '--default-bucket=bucket']
    self.server = subprocess.Popen(
      [sys.executable, '-c', code, *flags],
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not _answers(self.own_port):
      if time.monotonic() > deadline:
        raise AssertionError('the service does not start')
      time.sleep(0.1)
    if self.protocol == 's3':
      client = http.client.HTTPConnection(_HOST, self.own_port)
      client.request('PUT', '/bucket')
      assert client.getresponse().status == 200

  def stop(self):
    self.server.kill()
    self.server.wait()


def start(test, protocol: str, port: int = 0) -> Service:
  """Starts a service for one test, which is skipped without the packages.

  Args:
    test: The test case.
    protocol: 's3' or 'gs'.
    port: Where clients ask; 0 for the service itself.
  """
  packages = {'s3': ('moto', 's3fs'), 'gs': ('gcp_storage_emulator', 'gcsfs')}
  for package in packages[protocol]:
    if importlib.util.find_spec(package) is None:
      test.skipTest(
        f'{package} is missing: pip install -r tests/runtime/services.txt'
      )
  service = Service(protocol, port)
  test.enter_context(mock.patch.dict(os.environ, service.env))
  # it has remembered the port of the test before
  fsspec.get_filesystem_class(protocol).clear_instance_cache()
  service.start()
  test.addCleanup(service.stop)
  return service


class Proxy:
  """Stands before a service and spoils some of the requests.

  Attributes:
    port: Where clients ask.
    target: The port of the service.
    fault_fn: Whether a request uploads something to what happens to it:
      'unavailable' (503), 'cut upload', 'cut answer', 'slow', or ''.
    counts: How often each of these happened.
  """

  def __init__(self, fault_fn: Callable[[bool], str]):
    self.fault_fn, self.target, self.counts = fault_fn, 0, {}
    proxy = self

    class Handler(http.server.BaseHTTPRequestHandler):
      protocol_version = 'HTTP/1.1'

      def handle_one_request(self):
        with contextlib.suppress(ConnectionError):  # a client has left
          super().handle_one_request()

      def answer(self):
        size = int(self.headers.get('Content-Length') or 0)
        fault = proxy.fault_fn(size > 1)
        proxy.counts[fault] = proxy.counts.get(fault, 0) + 1
        if fault == 'cut upload':
          self.rfile.read(size // 2)
          self.close_connection = True
          return
        body = _chunks(self.rfile) if self.is_chunked() else None
        body = self.rfile.read(size) if body is None else body
        if fault == 'unavailable':
          self.send_response(503)
          self.send_header('Content-Length', '0')
          self.end_headers()
          return
        if fault == 'slow':
          time.sleep(0.5)
        self.forward(body, fault)

      def is_chunked(self):
        return self.headers.get('Transfer-Encoding') == 'chunked'

      def forward(self, body, fault):
        client = http.client.HTTPConnection(_HOST, proxy.target)
        headers = dict(self.headers)
        headers.pop('Transfer-Encoding', None)
        headers['Content-Length'] = str(len(body))
        client.request(self.command, self.path, body, headers)
        answer = client.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
          left_out = 'content-length', 'transfer-encoding', 'connection'
          if name.lower() not in left_out:
            self.send_header(name, value)
        size = len(content)
        if self.command == 'HEAD':
          size = int(answer.getheader('Content-Length') or 0)
        self.send_header('Content-Length', str(size))
        self.end_headers()
        if fault == 'cut answer':
          content = content[: len(content) // 2]
          self.close_connection = True
        self.wfile.write(content)

      do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = answer

      def log_message(self, *unused_args):
        pass

    self._server = http.server.ThreadingHTTPServer((_HOST, 0), Handler)
    self.port = self._server.server_address[1]
    threading.Thread(target=self._server.serve_forever, daemon=True).start()

  def close(self):
    self._server.shutdown()
    self._server.server_close()


def _chunks(file) -> bytes:
  """Reads a body that is sent in chunks."""
  body = b''
  while size := int(file.readline().split(b';')[0], 16):
    body += file.read(size)
    file.readline()
  file.readline()
  return body


def _free_port() -> int:
  with socket.socket() as free:
    free.bind((_HOST, 0))
    return free.getsockname()[1]


def _answers(port: int) -> bool:
  with socket.socket() as probe:
    return probe.connect_ex((_HOST, port)) == 0
