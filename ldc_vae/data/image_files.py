"""The decoding of image files to uint8 arrays; Pillow does the work.

A file is turned as its camera says, scaled to 8 bits, put on the background
where it is transparent, converted, resized and cropped.
"""

import concurrent.futures
import contextlib
import os
import pathlib
import threading
from typing import Any, NamedTuple
import warnings

from absl import logging
import numpy as np
import PIL
from PIL import ExifTags
from PIL import Image

from ldc_vae import errors
from ldc_vae.data import array_cache
from ldc_vae.data import image_folder
from ldc_vae.data import pixels
from ldc_vae.data import request as request_lib
from ldc_vae.runtime import memory

# Images whose brightest value is at most this were probably not scaled: 4 of 8
# or 12 of 16 bits, and 14 of 16 bits, as cameras write them.
DARK, DARK_OF_16_BITS = 16, 64

# Pictures of fewer pixels fit any memory, also some at once. Of a picture there
# are up to three copies with four channels.
_FEW_PIXELS, _COPIES = 2**22, 12
_THREADS = 8

_CHUNK = 32  # files per task of a thread; one may take a second
_ANIMATED = ('AVIF', 'GIF', 'PNG', 'TIFF', 'WEBP')  # others hold previews
_TURNS = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}

_thread = threading.local()  # `file` is what the thread decodes


class Decoded(NamedTuple):
  """An image, uint8 [H, W, C], and `DARK` or `DARK_OF_16_BITS`."""

  pixels: np.ndarray
  dark: int


def write(
  path: pathlib.Path,
  folder: image_folder.Folder,
  rows: np.ndarray,
  request: request_lib.Request,
  target: pathlib.Path,
  previous: array_cache.Arrays,
) -> errors.UserError | None:
  """Decodes files in parallel; file i becomes row rows[i] of images.npy.

  Args:
    path: The folder that the user named.
    folder: What it holds.
    rows: A permutation, int [N].
    request: The size and the colours.
    target: The folder of the cache for images.npy, stamps.npy and dark.npy.
    previous: The arrays of an earlier call, or none. Files with an equal stamp
      are not decoded again.

  Returns:
    The error that names all files that cannot be decoded, or None.

  Raises:
    UserError: Two images differ in shape.
  """
  files, count = folder.files, len(folder.files)
  known = {bytes(x): i for i, x in enumerate(previous.get('stamps', ()))}
  known.pop(bytes(16), None)  # the rows of files that could not be decoded
  broken: dict[pathlib.Path, str] = {}

  def decode(i: int) -> Decoded | None:
    row = known.get(folder.stamps[i])
    if row is not None:
      return Decoded(previous['images'][row], previous['dark'][row])
    try:
      return decode_file(files[i], request)
    except MemoryError:
      raise
    except Exception as error:  # Pillow's decoders raise many types
      broken[files[i]] = _reason(error)
      return None

  def refuse() -> errors.UserError:
    return request.refuse(
      f'has {count} images, of which {len(broken)} cannot be decoded:'
      f' {image_folder.name_some(path, broken)}'
    )

  with _named_warnings(path):
    decoded = ((i, decode(i)) for i in range(count))
    first, example = next((pair for pair in decoded if pair[1]), (0, None))
    if example is None:
      return refuse()
    shape = example.pixels.shape
    images = array_cache.create_array(
      target, 'images', np.uint8, (count, *shape)
    )
    stamps = array_cache.create_array(target, 'stamps', np.uint8, (count, 16))
    dark = array_cache.create_array(target, 'dark', np.uint8, (count,))

    def decode_chunk(start: int) -> int:
      stop = min(start + _CHUNK, count)
      for i in range(start, stop):
        image = decode(i)
        if image is None:
          continue
        if image.pixels.shape != shape:
          raise request.refuse(
            _differ(path, files[first], shape, files[i], image.pixels.shape)
          )
        images[rows[i]], dark[rows[i]] = image
        stamps[rows[i]] = np.frombuffer(folder.stamps[i], np.uint8)
      return stop

    pool = concurrent.futures.ThreadPoolExecutor(
      min(_THREADS, os.cpu_count() or 1)
    )
    try:
      with array_cache.show_progress(count) as report:
        for done in pool.map(decode_chunk, range(0, count, _CHUNK)):
          report(done, count)
    finally:
      pool.shutdown(cancel_futures=True)
  return refuse() if broken else None


def decode_file(file: pathlib.Path, request: request_lib.Request) -> Decoded:
  """Decodes one file; raises whatever its decoder raises."""
  _thread.file = file
  with Image.open(file) as image:
    _check_pixels(*image.size)
    is_animated = getattr(image, 'is_animated', False)
    if image.format in _ANIMATED and is_animated:
      warnings.warn('only its first picture is read', stacklevel=2)
    # Pillow has few modes of 16 bits; its tiles name the mode of the file
    raw = str(image.tile) if image.format in ('PNG', 'TIFF') else ''
    is_deep = image.mode.startswith('I') or ';16' in raw
    image.load()
    is_grey = 'LA;16B' in raw  # opened as colour
    flat = _flatten(_upright(image), request.background, is_grey)
  dark = DARK_OF_16_BITS if is_deep else DARK
  return Decoded(conform(flat, request), dark)


def conform(image: Image.Image, request: request_lib.Request) -> np.ndarray:
  """Converts an 'L' or 'RGB' image to uint8 [H, W, C] as requested."""
  image_size = request.image_size
  if request.num_channels:
    image = image.convert('L' if request.num_channels == 1 else 'RGB')
  if image_size:
    scale = image_size / min(image.size)
    # The shorter side becomes image_size; the other is never smaller.
    size = [max(image_size, round(side * scale)) for side in image.size]
    if size != list(image.size):
      _check_pixels(*size)
      image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = [(side - image_size) // 2 for side in size]
    image = image.crop((left, top, left + image_size, top + image_size))
  array = np.asarray(image)
  return array if array.ndim == 3 else array[..., np.newaxis]


def _check_pixels(width: int, height: int) -> None:
  """Raises a `ValueError` if pictures of a size do not fit the memory."""
  if width * height <= _FEW_PIXELS:
    return
  wanted, free = _THREADS * _COPIES * width * height, memory.available()
  if wanted > free:
    raise ValueError(
      f'{width}x{height} pixels need {memory.gigabytes(wanted)} of memory, of'
      f' which {memory.gigabytes(free)} are free: crop it'
    )


def _upright(image: Image.Image) -> Image.Image:
  """Returns an image turned as its EXIF data say, if they can be read.

  `ImageOps.exif_transpose` writes all the data again, and fails if one is odd.
  """
  orientation: Any = None
  with contextlib.suppress(Exception):  # Pillow's readers raise many types
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    if isinstance(orientation, bytes):
      orientation = int.from_bytes(orientation, 'little')
  turn = _TURNS.get(orientation)
  return image if turn is None else image.transpose(turn)


def _flatten(
  image: Image.Image, background: int, is_grey: bool = False
) -> Image.Image:
  """Returns an 'L' or 'RGB' image, on the background where it is transparent.

  Args:
    image: An image of any mode.
    background: A grey level.
    is_grey: Whether an 'RGBA' image has grey pixels only.
  """
  if image.mode.startswith('I') or image.mode == 'F':
    image = _to_8_bits(image)
  is_grey = is_grey or image.mode in ('1', 'L', 'LA', 'La')
  mode = 'L' if is_grey else 'RGB'
  if not image.has_transparency_data:
    return image.convert(mode)
  image = image.convert(f'{mode}A')
  alpha, paper = image.getchannel('A'), Image.new('L', image.size, background)
  return Image.composite(image.convert(mode), paper.convert(mode), alpha)


def _to_8_bits(image: Image.Image) -> Image.Image:
  """Returns an 'L' or 'LA' image; Pillow would clip 16 bits at 255."""
  values = np.asarray(image)
  if image.mode == 'F':
    return Image.fromarray(pixels.from_unit(values))
  lowest, highest = values.min(), values.max()
  if lowest < 0 or highest > 65535:
    raise ValueError(f'its values from {lowest} to {highest} exceed 16 bits')
  grey = Image.fromarray(np.round(values / 257).astype(np.uint8))
  if 'transparency' in image.info:  # one value stands for it
    seen = values != image.info['transparency']
    grey.putalpha(Image.fromarray(seen.astype(np.uint8) * 255))
  return grey


def _reason(error: Exception) -> str:
  """Returns why a file cannot be decoded; the file is named elsewhere."""
  if isinstance(error, PIL.UnidentifiedImageError):
    return 'its content has no format that Pillow reads'
  if isinstance(error, Image.DecompressionBombError):
    return f'it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels'
  return array_cache.first_line(error)


def _differ(path, first, first_shape, second, second_shape) -> str:
  """Returns the message for two files whose shapes differ."""
  describe = lambda file, shape: (
    f'{os.path.relpath(file, path)} is {shape[1]}x{shape[0]}'
    f' {"grey" if shape[2] == 1 else "colour"}'
  )
  fields = []
  if first_shape[:2] != second_shape[:2]:
    fields.append('config.dataset.image_size')
  if first_shape[2] != second_shape[2]:
    fields.append('config.dataset.num_channels')
  return (
    f'holds different images: {describe(first, first_shape)} but'
    f' {describe(second, second_shape)}: set {" and ".join(fields)} to make'
    ' them alike'
  )


@contextlib.contextmanager
def _named_warnings(path: pathlib.Path):
  """Makes one warning that names a file of Pillow's, in all threads."""
  seen: dict[pathlib.Path, str] = {}

  def note(message, *unused_args, **unused_kwargs):
    seen.setdefault(getattr(_thread, 'file', path), str(message))

  with warnings.catch_warnings():
    warnings.simplefilter('always')
    # many pixels, which are no attack in a file of the user's own
    warnings.simplefilter('ignore', Image.DecompressionBombWarning)
    warnings.showwarning = note
    yield
  if seen:
    first, message = min(seen.items())
    logging.warning(
      '%s: files read with a warning: %d, as %s (%s)',
      path,
      len(seen),
      os.path.relpath(first, path),
      message.strip(),
    )
