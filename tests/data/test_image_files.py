"""Tests of ldc_vae.data.image_files."""

import io
import struct
from unittest import mock
import warnings
import zlib

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from PIL import Image

from ldc_vae.data import image_files
from ldc_vae.data import request
from tests.data import dataset_case


def _scene(mode='RGB'):
  """Returns a picture whose quarters are red, green, blue and white."""
  pixels = np.full((16, 16, 3), 250, np.uint8)
  pixels[:8, :8] = (230, 20, 20)
  pixels[:8, 8:] = (20, 210, 20)
  pixels[8:, :8] = (20, 20, 230)
  return Image.fromarray(pixels).convert(mode)


def _exif(*entries):
  """Returns EXIF data of (tag, type, count, value), little-endian."""
  data = b'Exif\0\0II*\0' + struct.pack('<IH', 8, len(entries))
  for tag, kind, count, value in entries:
    data += struct.pack('<HHI', tag, kind, count) + value.ljust(4, b'\0')
  return data + struct.pack('<I', 0)


def _png_of_16_bits(values, colour_type):
  """Returns a PNG of uint16 values [H, W, C], which Pillow cannot write."""
  rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in values)
  height, width = values.shape[:2]
  chunk = lambda kind, data: (
    struct.pack('>I', len(data))
    + kind
    + data
    + struct.pack('>I', zlib.crc32(kind + data))
  )
  header = struct.pack('>IIBBBBB', width, height, 16, colour_type, 0, 0, 0)
  return (
    b'\x89PNG\r\n\x1a\n'
    + chunk(b'IHDR', header)
    + chunk(b'IDAT', zlib.compress(rows))
    + chunk(b'IEND', b'')
  )


_BEST = dict(quality=97, subsampling=0)


class DecodeTestCase(dataset_case.DatasetTestCase):
  def decode(self, picture, suffix='png', options=None, **saved):
    """Writes a picture, or bytes, and decodes it."""
    path = self.root / f'x.{suffix}'
    if isinstance(picture, bytes):
      path.write_bytes(picture)
    else:
      picture.save(path, **saved)
    source = request.Request(name='images', path='x', **(options or {}))
    return image_files.decode_file(path, source).pixels


class TransparencyTest(DecodeTestCase):
  def glyph(self, colour=(0, 0, 0)):
    """Returns a square of ink on full transparency, with hidden red."""
    pixels = np.zeros((16, 16, 4), np.uint8)
    pixels[..., 0] = 200
    pixels[4:12, 4:12] = (*colour, 255)
    return Image.fromarray(pixels)

  @parameterized.parameters('png', 'webp', 'tif', 'tga')
  def test_ink_on_transparency_is_seen_on_white(self, suffix):
    saved = dict(lossless=True, exact=True) if suffix == 'webp' else {}
    pixels = self.decode(self.glyph(), suffix, **saved)
    expected = np.full((16, 16, 3), 255)
    expected[4:12, 4:12] = 0
    np.testing.assert_array_equal(pixels, expected)

  @parameterized.parameters(0, 90)
  def test_background_as_asked(self, background):
    pixels = self.decode(
      self.glyph((255, 255, 255)), options=dict(background=background)
    )
    self.assertEqual(pixels[0, 0].tolist(), [background] * 3)
    self.assertEqual(pixels[5, 5].tolist(), [255] * 3)

  def test_half_transparent_is_in_the_middle(self):
    picture = _scene()
    picture.putalpha(51)  # a fifth
    expected = 0.2 * np.asarray(_scene(), float) + 0.8 * 255
    # rounded to whole grey levels
    np.testing.assert_allclose(self.decode(picture), expected, atol=0.5)

  @parameterized.parameters(
    ('RGB', 'RGBA', 'png'),
    ('L', 'LA', 'png'),
    ('RGB', 'RGBA', 'bmp'),
    ('RGB', 'PA', 'tif'),
  )
  def test_opaque_alpha_changes_nothing(self, mode, with_alpha, suffix):
    picture = _scene(mode)
    if with_alpha == 'PA':  # a palette, which has its own colours
      picture = _scene().quantize(4)
    opaque = picture.convert(with_alpha)
    expected = np.asarray(picture.convert(mode)).reshape(16, 16, -1)
    np.testing.assert_array_equal(self.decode(opaque, suffix), expected)

  @parameterized.parameters('png', 'gif')
  def test_a_transparent_entry_of_a_palette(self, suffix):
    picture = _scene().quantize(4)
    expected = np.array(picture.convert('RGB'))
    expected[np.asarray(picture) == 1] = 255
    pixels = self.decode(picture, suffix, transparency=1)
    np.testing.assert_array_equal(pixels, expected)

  def test_a_palette_of_many_alphas(self):
    picture = _scene().quantize(4)
    seen = np.asarray(picture)
    expected = np.array(picture.convert('RGB'))
    expected[seen == 0] = 255
    expected[seen == 2] = 255
    pixels = self.decode(picture, transparency=bytes([0, 255, 0, 255]))
    np.testing.assert_array_equal(pixels, expected)

  def test_a_transparent_colour(self):
    pixels = self.decode(
      _scene(), transparency=(20, 20, 230), options=dict(background=7)
    )
    expected = np.array(_scene())
    expected[8:, :8] = 7
    np.testing.assert_array_equal(pixels, expected)

  def test_a_transparent_grey_stays_grey(self):
    grey = _scene('L')
    hidden = grey.getpixel((0, 0))
    expected = np.array(grey)
    expected[expected == hidden] = 255
    pixels = self.decode(grey, transparency=hidden)
    np.testing.assert_array_equal(pixels, expected[..., np.newaxis])
    # of 16 bits
    deep = Image.fromarray(np.asarray(grey, np.uint16) * 257)
    pixels = self.decode(deep, transparency=hidden * 257)
    np.testing.assert_array_equal(pixels, expected[..., np.newaxis])

  def test_grey_of_16_bits_with_alpha_stays_grey(self):
    grey = np.asarray(_scene('L'), np.uint16)
    alpha = np.full_like(grey, 65535)
    alpha[:4] = 0
    content = _png_of_16_bits(np.stack([grey * 257, alpha], -1), 4)
    expected = np.where(alpha == 0, 255, grey)
    np.testing.assert_array_equal(
      self.decode(content), expected[..., np.newaxis]
    )


class DepthTest(DecodeTestCase):
  @parameterized.parameters('png', 'tif', 'jp2')
  def test_sixteen_bit_grey_keeps_its_levels(self, suffix):
    values = np.full((16, 16), 0x8080, np.uint16)
    pixels = self.decode(Image.fromarray(values), suffix)
    np.testing.assert_array_equal(pixels, np.full((16, 16, 1), 0x80))

  def test_floats_are_in_the_unit_interval(self):
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    values[0, 0] = -1e-4  # rounded
    pixels = self.decode(Image.fromarray(values), 'tif')
    np.testing.assert_array_equal(pixels.ravel(), np.arange(256))

  @parameterized.parameters(
    (np.float32(255), 'values from 0 to 255, where floats must be in'),
    (np.float32('nan'), 'NaN, where floats must be in'),
    (np.int32(-1024), 'values from -1024 to 0 exceed 16 bits'),
    (np.int32(70000), 'values from 0 to 70000 exceed 16 bits'),
  )
  def test_other_values_are_told_rather_than_clipped(self, value, message):
    values = np.zeros((4, 4), type(value))
    values[1, 1] = value
    with self.assertRaisesRegex(ValueError, message):
      self.decode(Image.fromarray(values), 'tif')

  @parameterized.parameters((2, 3), (6, 4))
  def test_colour_of_16_bits_is_known_by_the_dark_limit(self, kind, channels):
    path = self.root / 'x.png'
    values = np.full((8, 8, channels), 16383)
    values[..., 3:] = 65535  # alpha
    path.write_bytes(_png_of_16_bits(values, kind))
    source = request.Request(name='images', path='x')
    pixels, dark = image_files.decode_file(path, source)
    # Pillow keeps the upper byte
    np.testing.assert_array_equal(pixels, np.full((8, 8, 3), 63))
    self.assertEqual(dark, image_files.DARK_OF_16_BITS)

  @parameterized.parameters(
    ('1', 'tif', dict(compression='group4')),
    ('1', 'png', {}),
    ('L', 'pgm', {}),
    ('L', 'webp', dict(lossless=True)),
    ('CMYK', 'tif', {}),
    ('YCbCr', 'tif', {}),
  )
  def test_other_modes(self, mode, suffix, saved):
    picture = _scene(mode)
    kind = 'L' if mode in ('1', 'L') and suffix != 'webp' else 'RGB'
    expected = np.asarray(picture.convert(kind)).reshape(16, 16, -1)
    np.testing.assert_array_equal(
      self.decode(picture, suffix, **saved), expected
    )


class OrientationTest(DecodeTestCase):
  turn = (0x0112, 3, 1, struct.pack('<H', 6))

  def check(self, pixels):
    """Fails unless the scene is upright."""
    self.assertLess(
      np.abs(pixels.astype(int) - np.asarray(_scene(), int)).mean(), 4
    )

  def turned(self):
    return _scene().transpose(Image.Transpose.ROTATE_90)

  @parameterized.named_parameters(
    ('alone', []),
    ('negative_width', [(0x0100, 9, 1, struct.pack('<i', -5))]),
    ('resolution_as_text', [(0x011A, 2, 3, b'72\0')]),
    ('unknown_type', [(0x9999, 99, 1, b'x')]),
  )
  def test_odd_data_do_not_hinder_a_turn(self, others):
    exif = _exif(*sorted([self.turn, *others]))
    self.check(self.decode(self.turned(), 'jpg', exif=exif, **_BEST))

  @parameterized.named_parameters(
    ('as_byte', (0x0112, 1, 1, b'\6')),
    ('as_long', (0x0112, 4, 1, b'\6')),
    ('twice', (0x0112, 3, 2, b'\6\0\6\0')),
  )
  def test_a_turn_of_another_type_counts(self, turn):
    self.check(self.decode(self.turned(), 'jpg', exif=_exif(turn), **_BEST))

  @parameterized.parameters(
    b'Exif\0\0garbage',
    b'Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01',
    _exif((0x0112, 2, 2, b'6\0')),
    _exif((0x0112, 3, 1, b'\x63\0')),
    _exif((0x0112, 5, 1, b'\6')),
  )
  @mock.patch.object(warnings, 'warn')
  def test_what_cannot_be_read_leaves_a_picture_as_it_is(self, exif, _):
    self.check(self.decode(_scene(), 'jpg', exif=exif, **_BEST))

  @parameterized.parameters(*range(1, 9))
  def test_all_turns_are_those_of_pillow(self, orientation):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    _scene().crop((0, 0, 16, 10)).save(file, 'png', exif=exif)
    expected = ImageOps.exif_transpose(Image.open(file))
    np.testing.assert_array_equal(self.decode(file.getvalue()), expected)

  def test_a_tiff_is_turned_once(self):
    self.check(self.decode(self.turned(), 'tif', tiffinfo={274: 6}))


class FolderTest(dataset_case.FolderTestCase):
  def test_all_broken_files_are_named_and_the_others_kept(self):
    self.write_greys(20, 200)
    spoilt = {'003': b'', '007': b'<html>404</html>', '011': None}
    for name, content in spoilt.items():
      path = self.folder / f'{name}.png'
      content = path.read_bytes()[:50] if content is None else content
      path.write_bytes(content)
    with self.assertRaisesRegex(
      ValueError,
      r'^config.dataset.path=.*pictures has 20 images, of which 3 cannot be'
      r' decoded: 003.png \(its content has no format that Pillow reads\),'
      r' 007.png \(its .*\), 011.png \(.*\): remove or replace them$',
    ):
      self.load()
    for name in spoilt:
      self.write(f'{name}.png', value=0)
    decode = self.count_calls(image_files, 'decode_file')
    images = np.concatenate(list(self.load().images.values()))
    self.assertEqual(decode.call_count, 3)
    self.assertEqual(
      sorted(images[:, 0, 0, 0].tolist()),
      [0] * 3 + [200 + i for i in range(20) if f'{i:03d}' not in spoilt],
    )

  @parameterized.named_parameters(
    ('empty', b''),
    ('page', b'<html>'),
    ('pointer', b'version https://git-lfs.github.com/spec/v1'),
    ('drawing', b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
    ('heic', b'\0\0\0\x18ftypheic\0\0\0\0mif1heic' + bytes(200)),
    ('no_pixels', _png_of_16_bits(np.zeros((8, 8, 1)), 0)[:45]),
  )
  def test_many_broken_files_are_counted(self, content):
    for i in range(30):
      (self.folder / f'{i:03d}.png').write_bytes(content)
    with self.assertRaisesRegex(ValueError, r'30 cannot .*004.*\), \.\.\.: '):
      self.load()

  def test_a_folder_that_grows_is_decoded_once(self):
    self.write_greys(20, 200)
    self.load()
    self.write('a.png', value=7)
    decode = self.count_calls(image_files, 'decode_file')
    images = np.concatenate(list(self.load().images.values()))
    self.assertEqual(decode.call_count, 1)
    self.assertEqual(sorted(images[:, 0, 0, 0].tolist()), [7, *range(200, 220)])

  def test_warnings_of_pillow_name_a_file(self):
    self.write_greys(5, 200)
    odd = b'Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01'
    self.write('2.jpg', value=9, exif=odd)
    self.write('3.jpg', value=9, exif=odd)
    with warnings.catch_warnings():
      warnings.simplefilter('error')
      _, warned = self.messages()
    self.assertLen(warned, 1)
    self.assertRegex(
      warned[0],
      '^.*pictures: files read with a warning: 2, as 2.jpg .Corrupt EXIF data',
    )

  @parameterized.parameters('gif', 'tif', 'webp')
  def test_further_pictures_of_a_file_are_not_left_out_in_silence(self, suffix):
    self.write_greys(5, 200)
    second = Image.new('L', (10, 10), 3)
    self.write(f'x.{suffix}', value=9, save_all=True, append_images=[second])
    _, warned = self.messages(num_channels=1)
    self.assertRegex(warned[0], f'1, as x.{suffix} .only its first picture is')

  def test_a_telephone_may_put_its_depth_beside_a_picture(self):
    self.write_greys(5, 200)
    second = Image.new('L', (10, 10), 3)
    self.write(
      'x.jpg', value=9, format='MPO', save_all=True, append_images=[second]
    )
    _, warned = self.messages()
    self.assertEmpty(warned)

  def test_too_many_pixels_are_no_attack(self):
    self.write_greys(5, 200)
    self.write('x.png', size=(120, 120))
    with (
      mock.patch.object(Image, 'MAX_IMAGE_PIXELS', 5000),
      self.assertRaisesRegex(
        ValueError, 'x.png .it has more than 10,000 pixels'
      ),
    ):
      self.load()

  def test_slow_decoding_shows_its_progress(self):
    from ldc_vae.data import array_cache

    self.write_greys(40, 200)
    with (
      mock.patch.object(array_cache, 'SLOW_SECONDS', 0.001),
      self.assertLogs('absl', 'INFO') as logs,
    ):
      self.load()
    self.assertIn('decoding 40 images: 0 s so far', '\n'.join(logs.output))
    with self.assertLogs('absl', 'INFO') as logs:
      self.load(image_size=4)
    self.assertNotIn('so far', '\n'.join(logs.output))


if __name__ == '__main__':
  absltest.main()
