"""EfficientNet-Lite1 up to its last pooling, as functions of its weights.

Tan and Le (2019), https://arxiv.org/abs/1905.11946; Lite has no squeeze and
excitation, and ReLU6 in the place of swish. Normalisations are part of the
convolutions, as weights do not change here. It is a function of any image
size: the package trained it at 240x240.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Layer = tuple[Array, Array]  # kernel [k, k, C, F], bias [F]

_EPSILON = 1e-3  # of the normalisations
# The mean and the scale of grey levels with which the weights were trained.
_GREY_MEAN, _GREY_SCALE = 127.0, 128.0


class Stage(NamedTuple):
  """Some blocks of one width; the stride is that of the first."""

  num_blocks: int
  kernel_size: int
  stride: int
  expansion: int


STAGES = (
  Stage(1, 3, 1, 1),
  Stage(3, 3, 2, 6),
  Stage(3, 5, 2, 6),
  Stage(4, 3, 2, 6),
  Stage(4, 5, 1, 6),
  Stage(5, 5, 2, 6),
  Stage(1, 3, 1, 6),
)


def fold(tensors: Mapping[str, np.ndarray]) -> list[Layer]:
  """Returns the layers in their order, with normalisations inside.

  Args:
    tensors: The weights under the names of efficientnet-lite-pytorch.
  """
  return [
    _fold(tensors, convolution, normalisation)
    for convolution, normalisation in _names()
  ]


def features(layers: Sequence[Layer], images: Array, side: int) -> Array:
  """Returns the features of images, the means of the last maps over pixels.

  Args:
    layers: What `fold` returns.
    images: Grey levels 0 to 255, shape [B, H, W, 3].
    side: Images are resized to side x side, bicubic, with antialiasing.

  Returns:
    float32 [B, 1280].
  """
  shape = (len(images), side, side, 3)
  x = jax.image.resize(images.astype(jnp.float32), shape, 'cubic')
  remaining = iter(layers)
  convolve = lambda x, stride=1: _convolve(x, *next(remaining), stride)
  relu6 = lambda x: jnp.clip(x, 0.0, 6.0)
  x = relu6(convolve((x - _GREY_MEAN) / _GREY_SCALE, 2))
  for stage in STAGES:
    for index in range(stage.num_blocks):
      y = relu6(convolve(x)) if stage.expansion > 1 else x
      y = relu6(convolve(y, 1 if index else stage.stride))
      y = convolve(y)
      x = x + y if index else y
  return jnp.mean(relu6(convolve(x)), axis=(1, 2))


def _names() -> Iterator[tuple[str, str]]:
  """Yields the names of each convolution and of its normalisation."""
  yield '_conv_stem', '_bn0'
  index = 0
  for stage in STAGES:
    for _ in range(stage.num_blocks):
      block = f'_blocks.{index}.'
      index += 1
      if stage.expansion > 1:
        yield f'{block}_expand_conv', f'{block}_bn0'
      yield f'{block}_depthwise_conv', f'{block}_bn1'
      yield f'{block}_project_conv', f'{block}_bn2'
  yield '_conv_head', '_bn1'


def _fold(tensors, convolution, normalisation) -> Layer:
  """Returns the convolution whose outputs are the normalised ones."""
  scale, shift, mean, variance = (
    tensors[f'{normalisation}.{name}']
    for name in ('weight', 'bias', 'running_mean', 'running_var')
  )
  gain = scale / np.sqrt(variance + _EPSILON)
  kernel = tensors[f'{convolution}.weight'].transpose(2, 3, 1, 0) * gain
  return jnp.asarray(kernel), jnp.asarray(shift - mean * gain)


def _convolve(x: Array, kernel: Array, bias: Array, stride: int) -> Array:
  """Returns a convolution with padding SAME, of all channels or of each."""
  size = len(kernel)
  if size == 1:
    return x @ kernel[0, 0] + bias
  if kernel.shape[2] > 1:
    layout = ('NHWC', 'HWIO', 'NHWC')
    strides = (stride, stride)
    return bias + lax.conv_general_dilated(
      x, kernel, strides, 'SAME', dimension_numbers=layout
    )
  # Of each channel: a sum of products, since XLA takes ten times as long on a
  # CPU for a convolution in groups.
  count = -(-x.shape[1] // stride)
  more = max((count - 1) * stride + size - x.shape[1], 0)
  pads = (more // 2, more - more // 2)
  x = jnp.pad(x, ((0, 0), pads, pads, (0, 0)))
  reach = (count - 1) * stride + 1
  return bias + sum(
    x[:, i : i + reach : stride, j : j + reach : stride] * kernel[i, j, 0]
    for i in range(size)
    for j in range(size)
  )
