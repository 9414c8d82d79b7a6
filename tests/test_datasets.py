"""Tests of ldc_vae.datasets."""

import functools
import gzip
import hashlib
import http.server
import io
import itertools
import os
import pathlib
import shutil
import socket
import struct
import tarfile
import tempfile
import threading
import time
from unittest import mock
import zipfile

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

from ldc_vae import array_cache
from ldc_vae import datasets
from ldc_vae import own_images
from ldc_vae import tfds_recipes
from ldc_vae import tfds_sets

_SPLITS = ('train', 'validation', 'test')


class _TestCase(parameterized.TestCase):
  """Every test has its own folder and cache, and no TFDS_DATA_DIR."""

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(tempfile.mkdtemp())
    # TFDS's other downloads may still write after one of them has failed
    self.addCleanup(shutil.rmtree, self.root, ignore_errors=True)
    self.cache = self.root / 'cache'
    environment = {'LDC_VAE_CACHE': os.fspath(self.cache)}
    self.enterContext(mock.patch.dict(os.environ, environment))
    os.environ.pop('TFDS_DATA_DIR', None)

  def count_calls(self, module, name):
    """Wraps a function of a module; the mock counts its calls."""
    return self.enterContext(
        mock.patch.object(module, name, wraps=getattr(module, name))
    )


class LoadTest(_TestCase):

  def test_unknown_name_lists_the_known_and_suggests_the_nearest(self):
    with self.assertRaisesRegex(
        ValueError, "dataset.name='fashon_mnist'.*mean 'fashion_mnist'.*digits"
    ):
      datasets.load('fashon_mnist')

  @parameterized.parameters(
      dict(path='x'),
      dict(image_size=32),
      dict(num_channels=1),
      dict(num_test=5),
  )
  def test_fields_of_images_are_refused_elsewhere(self, **field):
    with self.assertRaisesRegex(ValueError, f'dataset.{next(iter(field))}='):
      datasets.load('digits', **field)

  @parameterized.parameters(
      ('num_validation', 0), ('num_test', -1), ('image_size', -2)
  )
  def test_impossible_number_is_refused(self, field, value):
    with self.assertRaisesRegex(ValueError, f'dataset.{field}={value}'):
      datasets.load('images', path='x', **{field: value})


class CacheDirTest(_TestCase):

  def test_is_the_environment_variable_or_below_home(self):
    self.assertEqual(datasets.cache_dir(), self.cache)
    del os.environ['LDC_VAE_CACHE']
    expected = pathlib.Path.home() / '.cache/ldc_vae'
    self.assertEqual(datasets.cache_dir(), expected)


class DigitsTest(_TestCase):

  def test_splits_hold_every_image_once(self):
    from sklearn import datasets as sklearn_datasets

    dataset = datasets.load('digits')
    sizes = [len(dataset.images[split]) for split in _SPLITS]
    self.assertEqual(sizes, [1257, 180, 360])
    self.assertEqual(dataset.image_shape, (8, 8, 1))
    self.assertEqual(dataset.num_classes, 10)
    rows = sorted(
        (int(label), image.tobytes())
        for split in _SPLITS
        for image, label in zip(dataset.images[split], dataset.labels[split])
    )
    digits = sklearn_datasets.load_digits()
    expected = sorted(
        (int(label), np.round(image * 255 / 16).astype(np.uint8).tobytes())
        for image, label in zip(digits.images, digits.target)
    )
    self.assertTrue(rows == expected)  # a diff of bytes takes minutes

  def test_full_ink_is_255(self):
    images = datasets.load('digits').images['train']
    self.assertEqual((images.dtype, images.max()), (np.uint8, 255))

  def test_fewer_validation_images_on_request(self):
    dataset = datasets.load('digits', num_validation=20)
    sizes = [len(dataset.images[split]) for split in _SPLITS]
    self.assertEqual(sizes, [1417, 20, 360])


class PreparedTest(_TestCase):
  """A small prepared set of Tensor features stands for MNIST."""

  def prepare(self, root, num_train=40, labels=None, name='mnist'):
    """Writes root/<name>/3.0.1; image i of train is constant i."""
    labels = np.arange(num_train) % 10 if labels is None else labels
    builder_name, shape = name, (28, 28, 1)
    examples = lambda first, labels: {
        i: dict(image=np.full(shape, first + i, np.uint8), label=label)
        for i, label in enumerate(labels)
    }.items()

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
      name = builder_name
      VERSION = tfds.core.Version('3.0.1')

      def _info(self):
        features = tfds.features.FeaturesDict({
            'image': tfds.features.Tensor(shape=shape, dtype=np.uint8),
            'label': tfds.features.ClassLabel(num_classes=10),
        })
        return tfds.core.DatasetInfo(
            builder=self, features=features, disable_shuffling=True
        )

      def _split_generators(self, dl_manager):
        return {'train': self._generate_examples(0, labels),
                'test': self._generate_examples(200, range(5))}

      def _generate_examples(self, first, labels):
        yield from examples(first, labels)

    builder = Builder(data_dir=os.fspath(root), file_format='array_record')
    builder.download_and_prepare()
    return pathlib.Path(builder.data_dir)

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

  def test_second_load_does_not_decode(self):
    decode = self.count_calls(tfds_sets, '_decode_records')
    self.prepare(self.root)
    for num_validation in (8, 4):
      datasets.load(
          'mnist', data_dir=os.fspath(self.root), num_validation=num_validation
      )
    self.assertEqual(decode.call_count, 1)

  def test_changed_records_are_decoded_anew(self):
    directory = self.prepare(self.root)
    load = lambda: datasets.load(
        'mnist', data_dir=os.fspath(self.root), num_validation=8
    )
    self.assertLen(load().images['train'], 32)
    shutil.rmtree(directory)
    self.prepare(self.root, num_train=50)
    self.assertLen(load().images['train'], 42)

  @parameterized.parameters('truncated', 'flipped', 'index', 'absent')
  def test_damaged_cache_is_made_anew(self, damage):
    self.prepare(self.root)
    load = lambda: datasets.load(
        'mnist', data_dir=os.fspath(self.root), num_validation=8
    )
    expected = load().images['train'].copy()
    (path,) = self.cache.glob('arrays/mnist-*/train_images.npy')
    content = bytearray(path.read_bytes())
    if damage == 'truncated':
      path.write_bytes(content[:-100])
    elif damage == 'flipped':
      content[5000] ^= 1
      path.write_bytes(content)
    elif damage == 'index':
      path.with_name('index.json').write_text('{"finger')
    else:
      path.unlink()
    decode = self.count_calls(tfds_sets, '_decode_records')
    np.testing.assert_array_equal(load().images['train'], expected)
    self.assertEqual(decode.call_count, 1)

  def test_array_above_the_limit_stays_on_disk(self):
    self.prepare(self.root)
    self.enterContext(mock.patch.object(array_cache, '_MEMMAP_BYTES', 10_000))
    dataset = datasets.load(
        'mnist', data_dir=os.fspath(self.root), num_validation=8
    )
    self.assertIsInstance(dataset.images['train'], np.memmap)
    self.assertNotIsInstance(dataset.images['test'], np.memmap)
    batch = next(datasets.train_batches(dataset.images['train'], 4, seed=0))
    self.assertIs(type(batch), np.ndarray)

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

  def test_unwritable_cache_is_named(self):
    self.prepare(self.root)
    self.cache.write_text('a file where the folder should be')
    with self.assertRaisesRegex(OSError, 'cannot be written.*LDC_VAE_CACHE'):
      datasets.load('mnist', data_dir=os.fspath(self.root), num_validation=8)

  def test_full_disk_is_named(self):
    self.prepare(self.root)
    full = mock.patch.object(
        shutil, 'disk_usage', return_value=mock.Mock(free=100)
    )
    with full, self.assertRaisesRegex(OSError, '100 bytes free.*LDC_VAE_CACHE'):
      datasets.load('mnist', data_dir=os.fspath(self.root), num_validation=8)
    self.assertEmpty(list(self.cache.glob('arrays/*/*.npy')))

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


class PrepareTest(_TestCase):
  """Local files stand for the download, with checksums registered for them."""

  def setUp(self):
    super().setUp()
    self.enterContext(mock.patch.dict(os.environ, {'NO_PROXY': '127.0.0.1'}))
    self.tfds = self.cache / 'tfds'
    self.manual = self.tfds / 'downloads' / 'manual'

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

  def put_by_hand(self, files):
    self.manual.mkdir(parents=True)
    for name, content in files.items():
      (self.manual / name).write_bytes(content)

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
    self.put_by_hand(files)
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
    self.put_by_hand(files)
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


class ImagesFolderTest(_TestCase):

  def setUp(self):
    super().setUp()
    self.folder = self.root / 'pictures'
    self.folder.mkdir()

  def write(self, name, size=(10, 10), value=0, mode='L'):
    path = self.folder / name
    path.parent.mkdir(exist_ok=True)
    Image.new(mode, size, value).save(path)

  def write_greys(self, count, **kwargs):
    for i in range(count):
      self.write(f'{i:03d}.png', value=i, **kwargs)

  def load(self, **kwargs):
    return datasets.load('images', path=os.fspath(self.folder), **kwargs)

  def test_splits_hold_every_image_once_and_no_labels(self):
    self.write_greys(25)
    dataset = self.load()
    sizes = [len(dataset.images[split]) for split in _SPLITS]
    self.assertEqual(sizes, [21, 2, 2])
    values = [dataset.images[split][:, 0, 0, 0] for split in _SPLITS]
    self.assertEqual(sorted(np.concatenate(values)), list(range(25)))
    self.assertIsNone(dataset.labels)
    self.assertEqual(dataset.image_shape, (10, 10, 1))

  def test_sizes_of_the_splits_on_request(self):
    self.write_greys(25)
    dataset = self.load(num_test=7, num_validation=1)
    sizes = [len(dataset.images[split]) for split in _SPLITS]
    self.assertEqual(sizes, [17, 1, 7])

  def test_split_is_the_same_in_every_cache_and_another_for_another_seed(self):
    self.write_greys(25)
    first = self.load().images['test'][:, 0, 0, 0]
    shutil.rmtree(self.cache)
    np.testing.assert_array_equal(first, self.load().images['test'][:, 0, 0, 0])
    other = self.load(seed=1).images['test'][:, 0, 0, 0]
    self.assertFalse(np.array_equal(first, other))

  def test_is_searched_recursively_by_suffix(self):
    for name in ('a/1.png', 'b/2.JPG', '3.jpeg', '.4.png', 'notes.txt.png'):
      self.write(name)
    (self.folder / 'readme.txt').write_text('not an image')
    (self.folder / '.thumbnails').mkdir()
    self.write('.thumbnails/5.png')
    dataset = self.load()
    self.assertEqual(sum(len(dataset.images[s]) for s in _SPLITS), 4)

  def test_shorter_side_is_resized_and_the_centre_cropped(self):
    # Thirds of red, green and blue across; the centre square is green.
    for i in range(3):
      image = np.zeros((20, 60, 3), np.uint8)
      for third in range(3):
        image[:, 20 * third : 20 * (third + 1), third] = 255
      Image.fromarray(image).save(self.folder / f'{i}.png')
    dataset = self.load(image_size=10)
    self.assertEqual(dataset.image_shape, (10, 10, 3))
    # Away from the edges, where bicubic mixes a neighbour in.
    inner = dataset.images['train'][0][:, 2:-2]
    np.testing.assert_array_equal(
        inner, np.broadcast_to([0, 255, 0], inner.shape)
    )

  def test_downscaling_does_not_alias(self):
    # A checkerboard of single pixels averages to grey; without antialiasing
    # it would stay black and white.
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    for i in range(3):
      Image.fromarray(board.astype(np.uint8)).save(self.folder / f'{i}.png')
    image = self.load(image_size=8).images['train'][0].astype(int)
    # Bicubic rings by a few grey levels at the border.
    self.assertLess(np.abs(image - 127.5).max(), 16)

  @parameterized.parameters((1, (255, 255, 255), 'RGB', [255]),
                            (3, 77, 'L', [77, 77, 77]),
                            (3, (1, 2, 3, 0), 'RGBA', [1, 2, 3]))
  def test_colour_as_asked(self, num_channels, value, mode, pixel):
    for i in range(3):
      self.write(f'{i}.png', value=value, mode=mode)
    dataset = self.load(num_channels=num_channels)
    np.testing.assert_array_equal(dataset.images['train'][0, 4, 4], pixel)

  def test_sixteen_bit_grey_keeps_its_levels(self):
    values = np.full((4, 4), 0x8080, np.uint16)
    for i in range(3):
      Image.fromarray(values).save(self.folder / f'{i}.png')
    dataset = self.load()
    self.assertEqual(dataset.image_shape, (4, 4, 1))
    np.testing.assert_array_equal(dataset.images['train'], 0x80)

  def test_photograph_is_turned_upright(self):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: to be turned by a quarter
    for i in range(3):
      Image.new('L', (20, 10)).save(self.folder / f'{i}.jpg', exif=exif)
    self.assertEqual(self.load().image_shape, (20, 10, 1))

  def test_two_sizes_name_both_files_and_the_remedy(self):
    self.write_greys(4)
    self.write('9.png', size=(12, 10))
    with self.assertRaisesRegex(
        ValueError, '000.png is 10x10.*9.png is 12x10.*set dataset.image_size'
    ):
      self.load()
    self.assertEqual(self.load(image_size=8).image_shape, (8, 8, 1))

  def test_grey_and_colour_name_both_files_and_the_remedy(self):
    self.write_greys(4)
    self.write('9.png', mode='RGB')
    with self.assertRaisesRegex(
        ValueError, '000.png.*grey.*9.png.*colour.*set dataset.num_channels'
    ):
      self.load()

  @parameterized.parameters(b'', b'not an image', None)
  def test_broken_file_is_named(self, content):
    self.write_greys(5)
    path = self.folder / '002.png'
    path.write_bytes(path.read_bytes()[:50] if content is None else content)
    with self.assertRaisesRegex(ValueError, '002.png cannot be decoded'):
      self.load()
    self.assertEmpty(list(self.cache.glob('arrays/*/*')))

  def test_empty_folder_is_named(self):
    with self.assertRaisesRegex(ValueError, 'pictures.*no PNG or JPEG'):
      self.load()

  @parameterized.parameters((1, '1 image:'), (2, '2 images:'))
  def test_too_few_images_are_counted(self, count, message):
    self.write_greys(count)
    with self.assertRaisesRegex(ValueError, message):
      self.load()

  def test_three_images_are_one_for_each_split(self):
    self.write_greys(3)
    dataset = self.load()
    self.assertEqual([len(dataset.images[s]) for s in _SPLITS], [1, 1, 1])

  @parameterized.parameters(24, 25, 100)
  def test_too_large_test_split_is_refused(self, num_test):
    self.write_greys(25)
    with self.assertRaisesRegex(ValueError, f'num_test={num_test}.*25 images'):
      self.load(num_test=num_test)

  def test_missing_and_foreign_paths_are_named(self):
    with self.assertRaisesRegex(FileNotFoundError, "path='/no/such'"):
      datasets.load('images', path='/no/such')
    with self.assertRaisesRegex(ValueError, "dataset.path=''"):
      datasets.load('images')
    (self.root / 'x.csv').touch()
    with self.assertRaisesRegex(ValueError, 'x.csv.*must be a folder'):
      datasets.load('images', path=os.fspath(self.root / 'x.csv'))

  def test_unknown_number_of_channels_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'num_channels=4'):
      self.load(num_channels=4)

  def test_cache_follows_the_files(self):
    self.write_greys(5)
    decode = self.count_calls(own_images, '_decode_files')
    self.load()
    self.load(num_test=2)
    self.assertEqual(decode.call_count, 1)
    self.write('005.png', value=5)
    dataset = self.load()
    self.assertEqual(sum(len(dataset.images[s]) for s in _SPLITS), 6)
    self.load(image_size=6)
    self.assertEqual(decode.call_count, 3)
    # One entry for each image_size: the stale one is gone.
    self.assertLen(list(self.cache.glob('arrays/images-*/index.json')), 2)


class ImagesArrayTest(_TestCase):

  def save(self, array, name='x.npy', **others):
    path = self.root / name
    if name.endswith('.npy'):
      np.save(path, array)
    else:
      np.savez(path, images=array, **others)
    return os.fspath(path)

  def test_float_images_become_uint8(self):
    values = np.linspace(0, 1, 30, dtype=np.float32)
    array = np.broadcast_to(values[:, None, None], (30, 4, 5))
    dataset = datasets.load('images', path=self.save(array))
    self.assertEqual(dataset.image_shape, (4, 5, 1))
    pixels = [dataset.images[split][:, 0, 0, 0] for split in _SPLITS]
    self.assertEqual(
        sorted(np.concatenate(pixels)), np.round(values * 255).tolist()
    )

  def test_labels_stay_with_their_images(self):
    values = np.arange(30, dtype=np.uint8)
    array = np.broadcast_to(values[:, None, None], (30, 4, 4))
    path = self.save(array, 'x.npz', labels=np.arange(30) % 7)
    dataset = datasets.load('images', path=path)
    self.assertEqual(dataset.num_classes, 7)
    for split in _SPLITS:
      np.testing.assert_array_equal(
          dataset.images[split][:, 0, 0, 0] % 7, dataset.labels[split]
      )

  def test_only_array_of_an_npz_needs_no_name(self):
    np.savez(self.root / 'x.npz', np.zeros((5, 4, 4, 3), np.uint8))
    dataset = datasets.load('images', path=os.fspath(self.root / 'x.npz'))
    self.assertEqual(dataset.image_shape, (4, 4, 3))

  def test_two_nameless_arrays_are_refused(self):
    np.savez(self.root / 'x.npz', a=np.zeros(3), b=np.zeros(3))
    with self.assertRaisesRegex(ValueError, "'a', 'b'.*none of them named"):
      datasets.load('images', path=os.fspath(self.root / 'x.npz'))

  def test_resize_and_colour_apply_to_arrays(self):
    array = np.full((5, 12, 18), 90, np.uint8)
    dataset = datasets.load(
        'images', path=self.save(array), image_size=6, num_channels=3
    )
    self.assertEqual(dataset.image_shape, (6, 6, 3))
    np.testing.assert_array_equal(dataset.images['train'], 90)

  @parameterized.named_parameters(
      ('nan', np.nan, 'image 3 of .* holds NaN'),
      ('infinity', np.inf, r'image 3 of .* holds \[0, inf\]'),
      ('bytes', 255, r'image 3 of .* holds \[0, 255\]'),
      ('negative', -1, r'image 3 of .* holds \[-1, 0\]'),
  )
  def test_float_outside_the_unit_interval_is_named(self, value, message):
    array = np.zeros((8, 4, 4), np.float32)
    array[3, 2, 2] = array[6, 0, 0] = value
    with self.assertRaisesRegex(ValueError, message):
      datasets.load('images', path=self.save(array))

  def test_first_bad_image_is_counted_over_chunks(self):
    array = np.zeros((20, 4, 4), np.float32)
    array[13] = np.nan
    chunks = mock.patch.object(array_cache, 'CHUNK', 4)
    with chunks, self.assertRaisesRegex(ValueError, 'image 13 of'):
      datasets.load('images', path=self.save(array))

  @parameterized.parameters(
      (np.zeros((5, 4, 4), np.int64), 'holds int64 images'),
      (np.zeros((5, 4, 4), bool), 'holds bool images'),
      (np.zeros((5, 16), np.uint8), r'shape \(5, 16\)'),
      (np.zeros((5, 4, 4, 4), np.uint8), r'shape \(5, 4, 4, 4\)'),
      (np.zeros((0, 4, 4), np.uint8), r'shape \(0, 4, 4, 1\)'),
  )
  def test_other_arrays_are_refused(self, array, message):
    with self.assertRaisesRegex(ValueError, message):
      datasets.load('images', path=self.save(array))

  @parameterized.parameters(
      (np.zeros(4, int),),
      (np.full(5, -1),),
      (np.zeros(5),),
      (np.full(5, 2**40),),
  )
  def test_labels_that_are_no_classes_are_refused(self, labels):
    array = np.zeros((5, 4, 4), np.uint8)
    with self.assertRaisesRegex(ValueError, r'labels of .*x.npz are'):
      datasets.load('images', path=self.save(array, 'x.npz', labels=labels))

  def test_pickles_are_never_run(self):
    marker = self.root / 'ran'

    class Malicious:

      def __reduce__(self):
        return pathlib.Path.touch, (marker,)

    array = np.empty(3, object)
    array[:] = [Malicious()] * 3
    for name in ('x.npy', 'x.npz'):
      with self.assertRaisesRegex(ValueError, 'cannot be read as an array'):
        datasets.load('images', path=self.save(array, name))
    self.assertFalse(marker.exists())

  @parameterized.parameters('x.npy', 'x.npz')
  def test_broken_array_file_is_named(self, name):
    path = self.root / name
    path.write_bytes(b'broken')
    with self.assertRaisesRegex(ValueError, f'{name} cannot be read'):
      datasets.load('images', path=os.fspath(path))


class TrainBatchesTest(parameterized.TestCase):

  def take(self, count, batch_size=4, num_images=22, **kwargs):
    images = np.arange(num_images, dtype=np.uint8)[:, None, None, None]
    kwargs = dict(dict(seed=3), **kwargs)
    batches = datasets.train_batches(images, batch_size, **kwargs)
    return [b[:, 0, 0, 0] for b in itertools.islice(batches, count)]

  def test_follows_the_permutation_of_seed_and_epoch(self):
    batches = self.take(12)
    for step, batch in enumerate(batches):
      epoch, i = divmod(step, 5)  # 22 // 4 steps an epoch
      permutation = np.random.default_rng((3, epoch)).permutation(22)
      np.testing.assert_array_equal(batch, permutation[4 * i : 4 * i + 4])

  def test_epoch_repeats_no_image(self):
    self.assertLen(set(np.concatenate(self.take(5)).tolist()), 20)

  @parameterized.parameters(1, 4, 5, 11)
  def test_resumes_at_any_step(self, start_step):
    expected = self.take(start_step + 3)[start_step:]
    actual = self.take(3, start_step=start_step)
    np.testing.assert_array_equal(actual, expected)

  def test_processes_share_out_the_batch(self):
    whole = self.take(7)
    parts = [
        self.take(7, process_index=i, process_count=2) for i in range(2)
    ]
    joined = [np.concatenate(pair) for pair in zip(*parts)]
    np.testing.assert_array_equal(joined, whole)

  def test_batch_of_all_images_is_allowed(self):
    self.assertCountEqual(self.take(1, batch_size=22)[0], range(22))

  @parameterized.parameters(0, 23)
  def test_impossible_batch_size_is_refused_at_once(self, batch_size):
    images = np.zeros((22, 2, 2, 1), np.uint8)
    with self.assertRaisesRegex(ValueError, f'batch_size={batch_size}.*22'):
      datasets.train_batches(images, batch_size, seed=0)

  def test_indivisible_batch_size_is_refused(self):
    with self.assertRaisesRegex(ValueError, 'batch_size=5.*2 processes'):
      self.take(1, batch_size=5, process_count=2)

  @parameterized.parameters(
      dict(process_index=2, process_count=2), dict(start_step=-1), dict(seed=-1)
  )
  def test_impossible_argument_is_refused(self, **kwargs):
    with self.assertRaisesRegex(ValueError, next(iter(kwargs))):
      self.take(1, **kwargs)


class EvalBatchesTest(parameterized.TestCase):

  @parameterized.parameters(
      (10, 4, 3), (8, 4, 2), (3, 4, 1), (1, 1, 1), (0, 4, 0)
  )
  def test_every_image_comes_once_in_order(self, num_images, size, count):
    images = 1 + np.arange(num_images, dtype=np.uint8)[:, None, None, None]
    batches = list(datasets.eval_batches(images, size))
    self.assertLen(batches, count)
    for batch, mask in batches:
      self.assertEqual(batch.shape, (size, 1, 1, 1))
      self.assertEqual((batch.dtype, mask.dtype), (np.uint8, bool))
      np.testing.assert_array_equal(batch[~mask], 0)
    seen = [batch[mask][:, 0, 0, 0] for batch, mask in batches]
    np.testing.assert_array_equal(
        np.concatenate([[], *seen]), 1 + np.arange(num_images)
    )

  def test_impossible_batch_size_is_refused_at_once(self):
    with self.assertRaisesRegex(ValueError, 'evaluate.batch_size=0'):
      datasets.eval_batches(np.zeros((2, 1, 1, 1), np.uint8), 0)


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
        ('images-idx3', images[split]), ('labels-idx1', labels[split])
    ):
      header = struct.pack(
          f'>HBB{array.ndim}I', 0, 8, array.ndim, *array.shape
      )
      content = gzip.compress(header + array.tobytes(), mtime=0)
      files[f'{prefix}-{kind}-ubyte.gz'] = content
  return files, images, labels


if __name__ == '__main__':
  absltest.main()
