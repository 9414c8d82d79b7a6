"""Tests of ldc_vae.tfds_sets and of the files in ldc_vae.data.tfds_recipes."""

import functools
import gzip
import hashlib
import http.server
import io
import os
import shutil
import socket
import struct
import tarfile
import threading
import time
from unittest import mock
import zipfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

from ldc_vae.data import datasets
from ldc_vae.data import tfds_recipes
from ldc_vae.data import tfds_sets
from tests.data import dataset_case

_SPLITS = dataset_case.SPLITS


class PreparedTest(dataset_case.PreparedTestCase):
  def test_reads_images_labels_and_splits(self):
    self.prepare(self.root / 'tfds')
    dataset = datasets.load(
      'mnist', data_dir=os.fspath(self.root / 'tfds'), num_validation=8
    )
    sizes = [len(dataset.images[split]) for split in _SPLITS]
    self.assertEqual(sizes, [32, 8, 5])
    values = {s: dataset.images[s][:, 0, 0, 0].astype(int) for s in _SPLITS}
    for split in ('train', 'validation'):
      np.testing.assert_array_equal(dataset.labels[split], values[split] % 10)
    held_in = np.concatenate([values['train'], values['validation']])
    np.testing.assert_array_equal(np.sort(held_in), np.arange(40))
    np.testing.assert_array_equal(np.sort(values['test']), 200 + np.arange(5))
    self.assertEqual(dataset.labels['train'].dtype, np.int32)
    self.assertFalse(dataset.images['train'].flags.writeable)

  def test_validation_of_a_sorted_file_has_all_classes(self):
    # A random half of 80 images lacks one of 4 classes of 20 with a chance
    # below 1e-6; the last half of a sorted file would lack two.
    self.prepare(self.root, 80, labels=np.repeat(np.arange(4), 20))
    dataset = datasets.load(
      'mnist', data_dir=os.fspath(self.root), num_validation=40
    )
    self.assertLen(np.unique(dataset.labels['validation']), 4)

  def test_relative_data_dir_environment_and_cache_are_found(self):
    self.prepare(self.root / 'tfds')
    previous = os.getcwd()
    self.addCleanup(os.chdir, previous)
    os.chdir(self.root)
    load = functools.partial(datasets.load, 'mnist', num_validation=8)
    relative = load(data_dir='tfds')
    os.environ['TFDS_DATA_DIR'] = os.fspath(self.root / 'tfds')
    from_environment = load()
    del os.environ['TFDS_DATA_DIR']
    shutil.move(self.root / 'tfds', self.cache / 'tfds')
    from_cache = load()
    for dataset in (from_environment, from_cache):
      np.testing.assert_array_equal(
        dataset.images['train'], relative.images['train']
      )

  @parameterized.parameters('dataset_info.json', '*array_record*')
  def test_half_written_folder_is_not_taken_for_a_whole_one(self, pattern):
    directory = self.prepare(self.root)
    for path in directory.glob(pattern):
      path.unlink()
    unreachable = mock.patch.object(
      tfds_sets, '_unreachable_reason', return_value='offline'
    )
    with unreachable, self.assertRaisesRegex(OSError, 'is not prepared'):
      datasets.load('mnist', data_dir=os.fspath(self.root))

  def test_truncated_record_file_is_named(self):
    directory = self.prepare(self.root)
    for path in directory.glob('*train*array_record*'):
      path.write_bytes(path.read_bytes()[:-200])
    with self.assertRaisesRegex(OSError, f'{directory} cannot be read'):
      datasets.load('mnist', data_dir=os.fspath(self.root), num_validation=8)

  def test_too_many_validation_images_are_refused(self):
    self.prepare(self.root)
    with self.assertRaisesRegex(ValueError, 'num_validation=40.*40 training'):
      datasets.load('mnist', data_dir=os.fspath(self.root), num_validation=40)

  def test_another_image_shape_is_refused(self):
    self.prepare(self.root, name='cifar10')
    with self.assertRaisesRegex(OSError, r'\(28, 28, 1\), not \(32, 32, 3\)'):
      datasets.load('cifar10', data_dir=os.fspath(self.root), num_validation=8)

  @absltest.skipUnless(
    os.environ.get('LDC_VAE_TEST_TFDS'),
    'set LDC_VAE_TEST_TFDS to a folder with a prepared mnist',
  )
  def test_real_mnist_has_its_size_and_mean(self):
    dataset = datasets.load('mnist', data_dir=os.environ['LDC_VAE_TEST_TFDS'])
    sizes = [len(dataset.images[split]) for split in _SPLITS]
    self.assertEqual(sizes, [50_000, 10_000, 10_000])
    # The mean test pixel of the original, to the digits quoted for it.
    self.assertAlmostEqual(dataset.images['test'].mean(), 33.791, places=3)


class _Server:
  """Serves files by name over HTTP on this machine; counts the requests."""

  def __init__(self, files):
    requests = self.requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
      def do_GET(self):
        requests.append(self.path)
        content = files.get(self.path[1:])
        self.send_response(404 if content is None else 200)
        self.send_header('Content-Length', str(len(content or b'')))
        self.end_headers()
        try:
          self.wfile.write(content or b'')
        except ConnectionError:
          pass  # the probe leaves without the body

      def log_message(self, *args):
        pass

    self._server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    self.url = f'http://127.0.0.1:{self._server.server_port}/'
    threading.Thread(target=self._server.serve_forever, daemon=True).start()

  def close(self):
    self._server.shutdown()
    self._server.server_close()


class PrepareTest(dataset_case.DatasetTestCase):
  """Local files stand for the download, with checksums registered for them."""

  def setUp(self):
    super().setUp()
    self.enterContext(mock.patch.dict(os.environ, {'NO_PROXY': '127.0.0.1'}))
    self.tfds = self.cache / 'tfds'

  def register(self, files, url='http://127.0.0.1:9/'):
    """Registers files {name: content} as those of every recipe."""
    url_infos = {
      url + name: tfds.core.download.checksums.UrlInfo(
        size=len(content),
        checksum=hashlib.sha256(content).hexdigest(),
        filename=name,
      )
      for name, content in files.items()
    }
    self.enterContext(
      mock.patch.object(tfds_sets, '_url_infos', lambda recipe: url_infos)
    )

  def put_by_hand(self, files, name='mnist'):
    folder = self.tfds / 'downloads' / 'manual' / name
    folder.mkdir(parents=True)
    for file, content in files.items():
      (folder / file).write_bytes(content)

  def check_mnist(self, dataset, images, labels):
    """Compares as multisets, since ArrayRecord has an order of its own."""
    self.assertEqual(dataset.image_shape, (28, 28, 1))
    parts = {'train': ('train', 'validation'), 'test': ('test',)}
    for part, splits in parts.items():
      actual = sorted(
        (int(label), image.tobytes())
        for split in splits
        for image, label in zip(dataset.images[split], dataset.labels[split])
      )
      expected = sorted(
        (int(label), image.tobytes())
        for image, label in zip(images[part], labels[part])
      )
      self.assertTrue(actual == expected)  # a diff of bytes takes minutes

  @parameterized.parameters('mnist', 'fashion_mnist')
  def test_idx_files_are_downloaded_and_prepared_once(self, name):
    files, images, labels = _mnist_files()
    server = _Server(files)
    self.addCleanup(server.close)
    self.register(files, server.url)
    dataset = datasets.load(name, num_validation=8)
    self.check_mnist(dataset, images, labels)
    num_requests = len(server.requests)
    self.assertEqual(num_requests, 5)  # four files and the probe
    shutil.rmtree(self.cache / 'arrays')
    self.check_mnist(datasets.load(name, num_validation=8), images, labels)
    self.assertLen(server.requests, num_requests)
    # A plain TFDS reader can read the result.
    source = tfds.builder_from_directory(
      self.tfds / f'{name}_arrays/1.0.0'
    ).as_data_source('test')
    self.assertLen(source, 10)

  def test_wrong_download_is_refused(self):
    files, _, _ = _mnist_files()
    changed = dict(files)
    name = 't10k-labels-idx1-ubyte.gz'
    changed[name] = files[name][:-1] + b'x'
    server = _Server(changed)
    self.addCleanup(server.close)
    self.register(files, server.url)
    with self.assertRaisesRegex(OSError, f'{name}.*wrong checksum.*manual'):
      datasets.load('mnist', num_validation=8)
    self.assertFalse((self.tfds / 'mnist_arrays/1.0.0').exists())

  def test_wrong_file_put_by_hand_is_refused(self):
    files, _, _ = _mnist_files()
    self.register(files)
    files['t10k-images-idx3-ubyte.gz'] += b'x'
    self.put_by_hand(files)
    with self.assertRaisesRegex(OSError, 't10k-images.*wrong checksum'):
      datasets.load('mnist', num_validation=8)

  def test_explicit_data_dir_receives_the_set(self):
    files, images, labels = _mnist_files()
    server = _Server(files)
    self.addCleanup(server.close)
    self.register(files, server.url)
    root = self.root / 'data'
    dataset = datasets.load('mnist', data_dir=os.fspath(root), num_validation=8)
    self.check_mnist(dataset, images, labels)
    self.assertTrue((root / 'mnist_arrays/1.0.0').is_dir())

  def test_unfinished_preparation_is_done_again(self):
    files, images, labels = _mnist_files()
    self.register(files)
    self.put_by_hand(files)
    killed = self.tfds / 'mnist_arrays/incomplete.ABC123_1.0.0'
    without_description = self.tfds / 'mnist_arrays/1.0.0'
    for folder in (killed, without_description):
      folder.mkdir(parents=True)
      (folder / 'mnist_arrays-train.array_record-00000-of-00001').touch()
    self.check_mnist(datasets.load('mnist', num_validation=8), images, labels)
    self.assertFalse(killed.exists())

  def test_failed_parse_leaves_nothing_behind(self):
    files, _, _ = _mnist_files()
    files['train-images-idx3-ubyte.gz'] = gzip.compress(b'not an IDX file')
    self.register(files)
    self.put_by_hand(files)
    with self.assertRaisesRegex(OSError, 'is not an IDX file'):
      datasets.load('mnist', num_validation=8)
    self.assertEmpty(list((self.tfds / 'mnist_arrays').glob('*')))

  def test_cifar_tar_keeps_channels_last(self):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 32, 32, 3), np.uint8)
    labels = rng.integers(0, 10, (60, 1), np.uint8)
    rows = images.transpose(0, 3, 1, 2).reshape(60, -1)  # as the files are
    rows = np.concatenate([labels, rows], axis=1)
    archive = io.BytesIO()
    names = [f'data_batch_{i}.bin' for i in range(1, 6)] + ['test_batch.bin']
    with tarfile.open(fileobj=archive, mode='w:gz') as tar:
      for i, name in enumerate(names):
        content = rows[10 * i : 10 * (i + 1)].tobytes()
        member = tarfile.TarInfo(f'cifar-10-batches-bin/{name}')
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    files = {'cifar-10-binary.tar.gz': archive.getvalue()}
    self.register(files)
    self.put_by_hand(files, 'cifar10')
    dataset = datasets.load('cifar10', num_validation=10)
    actual = sorted(image.tobytes() for image in dataset.images['test'])
    expected = sorted(image.tobytes() for image in images[50:])
    self.assertTrue(actual == expected)  # a diff of bytes takes minutes
    self.assertEqual(
      sorted(dataset.labels['test']), sorted(labels[50:, 0].tolist())
    )
    self.assertLen(dataset.images['train'], 40)

  def test_celeba_is_cropped_and_partitioned(self):
    archive = io.BytesIO()
    lines = []
    with zipfile.ZipFile(archive, 'w') as file:
      for i in range(12):
        # A white centre of 140x140 on black: the crop must be all white.
        image = np.zeros((218, 178, 3), np.uint8)
        image[39:179, 19:159] = 255 - 5 * i
        content = io.BytesIO()
        Image.fromarray(image).save(content, 'JPEG', quality=100)
        name = f'{i + 1:06d}.jpg'
        file.writestr(f'img_align_celeba/{name}', content.getvalue())
        lines.append(f'{name} {0 if i < 6 else 1 if i < 9 else 2}\n')
    files = {
      'img_align_celeba.zip': archive.getvalue(),
      'list_eval_partition.txt': ''.join(lines).encode(),
    }
    self.register(files)
    self.put_by_hand(files, 'celeba64')
    dataset = datasets.load('celeba64', num_validation=2)
    sizes = [len(dataset.images[split]) for split in _SPLITS]
    self.assertEqual(sizes, [6, 2, 3])
    self.assertEqual(dataset.image_shape, (64, 64, 3))
    self.assertIsNone(dataset.labels)
    self.assertEqual(dataset.num_classes, 0)
    expected = {255 - 5 * i for i in range(9, 12)}
    # Inside the border, which JPEG blurs, 1 grey level of rounding.
    inner = dataset.images['test'][:, 8:-8, 8:-8].astype(int)
    for image in inner:
      self.assertLess(min(np.abs(image - e).max() for e in expected), 2)

  def test_no_network_fails_at_once_with_the_remedy(self):
    with socket.socket() as unused:
      unused.bind(('127.0.0.1', 0))  # bound, not listening: connections fail
      files, _, _ = _mnist_files()
      self.register(files, f'http://127.0.0.1:{unused.getsockname()[1]}/')
      start = time.monotonic()
      with self.assertRaisesRegex(
        FileNotFoundError,
        'dataset.data_dir: mnist is not prepared.*network cannot be reached'
        '.*TFDS_DATA_DIR.*--config.dataset.data_dir.*train-images-idx3-ubyte',
      ):
        datasets.load('mnist')
      self.assertLess(time.monotonic() - start, 5)

  def test_silent_network_fails_within_five_seconds(self):
    with socket.create_server(('127.0.0.1', 0)) as silent:
      files, _, _ = _mnist_files()
      self.register(files, f'http://127.0.0.1:{silent.getsockname()[1]}/')
      start = time.monotonic()
      with self.assertRaisesRegex(FileNotFoundError, 'cannot be reached'):
        datasets.load('mnist')
      self.assertLess(time.monotonic() - start, 5)

  def test_a_refusing_server_is_no_network(self):
    server = _Server({})
    self.addCleanup(server.close)
    self.register(_mnist_files()[0], server.url)
    with self.assertRaisesRegex(FileNotFoundError, 'HTTP 404'):
      datasets.load('mnist')

  @parameterized.parameters('mnist', 'fashion_mnist', 'cifar10', 'celeba64')
  def test_tfds_registers_every_file_we_ask_for(self, name):
    recipe = tfds_recipes.RECIPES[name]
    registered = [i.filename for i in tfds_sets._url_infos(recipe).values()]
    self.assertCountEqual(registered, recipe.files)


@functools.cache
def _mnist_content():
  """Images and labels of 30 + 10 images in MNIST's shape."""
  rng = np.random.default_rng(0)
  images, labels = {}, {}
  for split, count in (('train', 30), ('test', 10)):
    images[split] = rng.integers(0, 256, (count, 28, 28), np.uint8)
    labels[split] = rng.integers(0, 10, count, np.uint8)
  return images, labels


def _mnist_files():
  """({file name: IDX content}, images, labels) of a small MNIST."""
  images, labels = _mnist_content()
  files = {}
  for split, prefix in (('train', 'train'), ('test', 't10k')):
    for kind, array in (
      ('images-idx3', images[split]),
      ('labels-idx1', labels[split]),
    ):
      header = struct.pack(f'>HBB{array.ndim}I', 0, 8, array.ndim, *array.shape)
      content = gzip.compress(header + array.tobytes(), mtime=0)
      files[f'{prefix}-{kind}-ubyte.gz'] = content
  return files, images, labels


if __name__ == '__main__':
  absltest.main()
