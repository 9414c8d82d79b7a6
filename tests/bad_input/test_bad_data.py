"""Mistakes in the data, or in how devices share it."""

import json
import os
import time

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image

from tests.bad_input import bad_input_case

_Case = bad_input_case.Case
_IMAGES = bad_input_case.IMAGES
_LASTING = bad_input_case.LASTING
_RUNTIME = bad_input_case.RUNTIME
_VAE = bad_input_case.VAE
_file = bad_input_case.write_file
_set = bad_input_case.set_field
_train = bad_input_case.train_argv


def _images_from(name, *overrides):
  return _train(f'--config.dataset.path={name}', *overrides, config=_IMAGES)


def _pictures(*sizes, mode='L', spoil=None):
  """Writes PNGs of some sizes into `pictures`; `spoil` changes one's bytes."""

  def write(folder):
    (folder / 'pictures').mkdir()
    for index, size in enumerate(sizes):
      each = mode[index] if isinstance(mode, tuple) else mode
      Image.new(each, size).save(folder / 'pictures' / f'{index}.png')
    if spoil is not None:
      path = folder / 'pictures' / '1.png'
      path.write_bytes(spoil(path.read_bytes()))

  return write


def _npy(make_fn, name='x.npy', **others):
  """Writes an array, or an .npz of several."""

  def write(folder):
    if name.endswith('.npy'):
      np.save(folder / name, make_fn())
    else:
      np.savez(folder / name, **(make_fn() | others))

  return write


def _float_image(value):
  images = np.zeros((40, 8, 8), np.float32)
  images[7, 3, 3] = value
  return images


def _truncated_npz(folder):
  np.savez(folder / 'x.npz', images=np.zeros((40, 8, 8), np.uint8))
  os.truncate(folder / 'x.npz', 300)


def _truncated_tfds(folder):
  """A prepared set whose description is whole and whose records are not."""
  path = folder / 'tfds' / 'mnist' / '3.0.1'
  path.mkdir(parents=True)
  splits = [
    {
      'name': name,
      'shardLengths': ['10'],
      'numBytes': '100',
      'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
    }
    for name in ('train', 'test')
  ]
  info = {
    'name': 'mnist',
    'version': '3.0.1',
    'splits': splits,
    'fileFormat': 'array_record',
  }
  (path / 'dataset_info.json').write_text(json.dumps(info))
  (path / 'features.json').write_text('{}')
  for name in ('train', 'test'):
    record = path / f'mnist-{name}.array_record-00000-of-00001'
    record.write_bytes(b'\0' * 50)


_uint8 = lambda *shape: np.zeros(shape, np.uint8)
_DATA = {
  'no_such_path': _Case(
    _images_from('nowhere'),
    r'dataset.path=nowhere cannot be read \(No such file or directory;'
    r' tried /.*\): name a folder',
  ),
  'empty_folder': _Case(
    _images_from('pictures'),
    r'pictures holds no image that Pillow reads: name',
    _LASTING,
    _pictures(),
  ),
  'one_image': _Case(
    _images_from('pictures'),
    r'holds 1 image: .* need at least 3',
    _LASTING,
    _pictures((8, 8)),
  ),
  'corrupt_image': _Case(
    _images_from('pictures'),
    r'has 40 images, of which 1 cannot .* 1.png .*: remove or replace it',
    _LASTING,
    _pictures(*[(8, 8)] * 40, spoil=lambda data: data[: len(data) // 2]),
  ),
  'text_as_image': _Case(
    _images_from('pictures'),
    r'of which 1 cannot be decoded: 1.png .its content has no',
    _LASTING,
    _pictures(*[(8, 8)] * 40, spoil=lambda data: b'not a picture'),
  ),
  'mixed_sizes': _Case(
    _images_from('pictures'),
    r'0.png is 8x8 .*but .* 9x8 .*: set config.dataset.image_size',
    _LASTING,
    _pictures(*[(8, 8)] * 39, (9, 8)),
  ),
  'mixed_colours': _Case(
    _images_from('pictures'),
    r'grey but .* colour: set config.dataset.num_ch',
    _LASTING,
    _pictures(*[(8, 8)] * 4, mode=('L', 'L', 'L', 'RGB')),
  ),
  'no_array_file': _Case(
    _images_from('x.txt'),
    r'x.txt must be a folder, an .npz or an .npy',
    _LASTING,
    _file('x.txt', 'x'),
  ),
  'no_images_inside': _Case(
    _images_from('x.npz'),
    r'x.npz cannot be read .*none named im',
    _LASTING,
    _npy(lambda: {'a': _uint8(9, 8, 8), 'b': _uint8(2)}, 'x.npz'),
  ),
  'truncated_npz': _Case(
    _images_from('x.npz'),
    r'x.npz cannot be read .*: write it again with',
    _LASTING,
    _truncated_npz,
  ),
  'pickled': _Case(
    _images_from('x.npy'),
    r'x.npy cannot be read as an array file',
    _LASTING,
    _npy(lambda: np.array([{}, {}], object)),
  ),
  'whole_numbers': _Case(
    _images_from('x.npy'),
    r'holds int32 images: convert them to uint8',
    _LASTING,
    _npy(lambda: np.zeros((40, 8, 8), np.int32)),
  ),
  'nan_pixel': _Case(
    _images_from('x.npy'),
    r'x.npy holds in image 7 NaN, .* in \[0, 1\]',
    _LASTING,
    _npy(lambda: _float_image(np.nan)),
  ),
  'inf_pixel': _Case(
    _images_from('x.npy'),
    r'x.npy holds in image 7 values from 0 to inf',
    _LASTING,
    _npy(lambda: _float_image(np.inf)),
  ),
  'pixels_to_255': _Case(
    _images_from('x.npy'),
    r'image 7 values from 0 to 255, .* in \[0, 1\]',
    _LASTING,
    _npy(lambda: _float_image(255.0)),
  ),
  'negative_pixel': _Case(
    _images_from('x.npy'),
    r'image 7 values from -1 to 0',
    _LASTING,
    _npy(lambda: _float_image(-1.0)),
  ),
  'rank_2': _Case(
    _images_from('x.npy'),
    r'shape \(40, 64\): expected \[N, H, W\]',
    _LASTING,
    _npy(lambda: _uint8(40, 64)),
  ),
  'channels_first': _Case(
    _images_from('x.npy'),
    r'shape \(40, 3, 8, 8\): expected \[N, H, W\]',
    _LASTING,
    _npy(lambda: _uint8(40, 3, 8, 8)),
  ),
  'labels_of_others': _Case(
    _images_from('x.npz'),
    r'has labels of .*shape \(3,\): expected .*\(40,\)',
    _LASTING,
    _npy(
      lambda: {'images': _uint8(40, 8, 8)}, 'x.npz', labels=np.zeros(3, int)
    ),
  ),
  'too_small_for_the_classifier': _Case(
    _images_from('x.npz', '--config.model.architecture=mlp'),
    r'images of 3x8 pixels are too small for the .*; use .* no labels',
    _LASTING,
    _npy(
      lambda: {'images': _uint8(40, 3, 8)}, 'x.npz', labels=np.arange(40) % 2
    ),
  ),
  'all_held_out': _Case(
    _images_from('x.npy', '--config.dataset.num_test=39'),
    r'num_test=39 .*leaves none of the 40 images',
    _LASTING,
    _npy(lambda: _uint8(40, 8, 8)),
  ),
  'fewer_than_a_batch': _Case(
    _images_from('x.npy', '--config.model.architecture=mlp'),
    r'batch_size=32 is more than the 24 training images of images; lower',
    _LASTING,
    _npy(lambda: _uint8(30, 8, 8)),
  ),
  'no_image_at_all': _Case(
    _images_from('x.npy'),
    r'shape \(0, 8, 8\): expected \[N, H, W\]',
    _LASTING,
    _npy(lambda: _uint8(0, 8, 8)),
  ),
  'fractional_labels': _Case(
    _images_from('x.npz'),
    r'has labels of type float64 .*: expected a whole number or a text',
    _LASTING,
    _npy(
      lambda: {'images': _uint8(40, 8, 8)}, 'x.npz', labels=np.full(40, 0.5)
    ),
  ),
  'batch_of_odd_size': _Case(
    _set('train.batch_size', 30),
    r'batch_size=30 is not divisible by 4 devices; use a multiple',
    _LASTING,
  ),
  'micro_batches_of_odd_size': _Case(
    _set('train.accumulate', 16),
    r'accumulate=16 does not divide the 8 images of each of 4 .*; use',
    _LASTING,
  ),
  'more_than_all': _Case(
    _set('train.batch_size', 4096),
    r'batch_size=4096 is more than the \d+ training images',
    _LASTING,
  ),
  'not_prepared': _Case(
    _train(
      '--config.dataset.data_dir=tfds', config='configs/mnist.py:vae,debug'
    ),
    r'mnist is not prepared .*tfds and the network cannot be reached'
    r' .*; prepare it on a machine with a network',
    _RUNTIME,
  ),
  'truncated_records': _Case(
    _train(
      '--config.dataset.data_dir=tfds', config='configs/mnist.py:vae,debug'
    ),
    r'mnist in .*tfds/mnist/3.0.1 cannot be read .*: delete that folder',
    _RUNTIME,
    _truncated_tfds,
  ),
}
_RESUME = (f'--config={_VAE}', '--workdir=trained')


class DataTest(bad_input_case.BadInputTest):
  @parameterized.named_parameters(*_DATA.items())
  def test_reported(self, case):
    self.check(case)

  def test_a_missing_network_is_reported_within_5_seconds(self):
    start = time.monotonic()
    self.check(_DATA['not_prepared'])
    self.assertLess(time.monotonic() - start, 5.0)

  def test_an_unprepared_environment_is_reported(self):
    os.environ['TFDS_DATA_DIR'] = str(self.folder / 'nowhere')
    self.check(
      _Case(
        _train(config='configs/mnist.py:vae,debug'),
        r'not prepared .*here/nowhere or .*cache/tfds and the network',
        _RUNTIME,
      )
    )

  def test_a_cache_that_is_a_file_is_reported(self):
    _file('cache', '')(self.folder)
    os.environ['LDC_VAE_CACHE'] = str(self.folder / 'cache')
    for argv in (_train(), _RESUME):
      self.check(
        _Case(
          argv, r'LDC_VAE_CACHE=.*here/cache: .*; set it to a folder that can'
        )
      )

  def test_a_batch_for_other_devices(self):
    self.command(_DATA['batch_of_odd_size'])


if __name__ == '__main__':
  absltest.main()
