"""Convolutions with stride, and transposed ones, by XLA or by matmuls.

'native' are the convolutions of XLA. On a GPU, XLA has no fast form of some
operations in a transposed convolution and its gradients. 'subpixel' replaces a
transposed convolution by one with stride 1 and a kernel of side ceil(k / s),
whose outputs are blocks of s x s pixels (Shi et al. (2016),
https://arxiv.org/abs/1609.05158).

On a CPU the gradients of XLA's convolutions take several times as long as the
equivalent matmuls, and so does every convolution inside a `lax.scan`. 'patches'
makes a convolution one matmul and one pass over memory, in one of three ways:

* A convolution with stride s is `patches(x) @ kernel`: k^2 C numbers for each
  output.
* A transposed one is `overlap_add(x @ kernel)`, the adjoint: k^2 F numbers for
  each input. With stride 1, each of these two ways computes both kinds.
* A transposed one is also the convolution of 'subpixel'.

The cheapest way is used. All implementations agree up to rounding. Their
parameters have the names, shapes and initial values of `flax.linen.Conv` and
`ConvTranspose`.
"""

import chex
from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

Array = jax.Array
Dtype = jnp.dtype

IMPLEMENTATIONS = ('auto', 'native', 'subpixel', 'patches')

_LAYOUT = ('NHWC', 'HWIO', 'NHWC')

# On a CPU, moving one number costs as much as 40 multiply-adds of a matmul.
_COST_OF_A_NUMBER = 40


class Conv(nn.Module):
  """Images [B, H, W, C] -> [B, ceil(H / s), ceil(W / s), F], padding SAME."""

  features: int
  kernel_size: int
  stride: int = 1
  implementation: str = 'auto'
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    shape = (self.kernel_size,) * 2 + (x.shape[-1], self.features)
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
    bias = self.param('bias', nn.initializers.zeros_init(), (self.features,))
    x, kernel, bias = (each.astype(self.dtype) for each in (x, kernel, bias))
    y = self.apply_kernel(x, kernel)
    return y + bias

  def apply_kernel(self, x: Array, kernel: Array) -> Array:
    """Returns the layer's outputs without the bias."""
    return convolve(
      x, kernel, stride=self.stride, implementation=self.implementation
    )


class ConvTranspose(Conv):
  """Images [B, H, W, C] -> [B, s H, s W, F], padding SAME."""

  def apply_kernel(self, x: Array, kernel: Array) -> Array:
    return convolve_transposed(
      x, kernel, stride=self.stride, implementation=self.implementation
    )


def choose(implementation: str, *, wide: bool = False) -> str:
  """Returns the implementation that 'auto' stands for, or the given one.

  Args:
    implementation: One of IMPLEMENTATIONS.
    wide: Whether the net has hundreds of channels. A GPU is then faster with
      'subpixel' than with 'patches' (see docs/lab-notes.md). For smaller
      nets, calling its convolutions takes longer than computing them.

  Returns:
    'native', 'subpixel' or 'patches'.

  Raises:
    ValueError: Unknown implementation.
  """
  if implementation not in IMPLEMENTATIONS:
    raise ValueError(
      f'convolution={implementation!r} is unknown; known:'
      f' {", ".join(IMPLEMENTATIONS)}'
    )
  if implementation != 'auto':
    return implementation
  backend = jax.default_backend()
  if backend == 'cpu':
    return 'patches'
  if backend == 'gpu':
    return 'subpixel' if wide else 'patches'
  return 'native'


def halved(height: int, width: int, times: int) -> tuple[int, int]:
  """Returns the sides of an image halved so often, rounded up."""
  factor = 2**times
  return -(-height // factor), -(-width // factor)


def middle(x: Array, height: int, width: int) -> Array:
  """Returns the middle [B, height, width, C] of images as large or larger.

  A decoder doubles the sides, which may reach beyond those of the image.
  """
  top = (x.shape[1] - height) // 2
  left = (x.shape[2] - width) // 2
  return x[:, top : top + height, left : left + width]


def convolve(
  x: Array, kernel: Array, *, stride: int, implementation: str
) -> Array:
  """y[o] = sum_t x[s o + t - p] kernel[t], padding SAME.

  Args:
    x: Images, shape [B, H, W, C].
    kernel: Shape [k, k, C, F].
    stride: s.
    implementation: One of IMPLEMENTATIONS.

  Returns:
    Shape [B, ceil(H / s), ceil(W / s), F].
  """
  chex.assert_rank([x, kernel], 4)
  if choose(implementation) != 'patches':
    return _native(x, kernel, stride, 'SAME')
  size, _, channels, features = kernel.shape
  if stride == 1 and _cost(features, channels) < _cost(channels, features):
    skip = size // 2
    y = _by_overlap_add(x, kernel[::-1, ::-1], 1)
    return y[:, skip : skip + x.shape[1], skip : skip + x.shape[2]]
  pads = []
  for side in x.shape[1:3]:
    num = -(-side // stride)
    before = max((num - 1) * stride + size - side, 0) // 2
    whole = (num - 1 + _num_blocks(size, stride)) * stride
    pads.append((before, whole - side - before))
  return _by_patches(x, kernel, stride, pads)


def convolve_transposed(
  x: Array, kernel: Array, *, stride: int, implementation: str
) -> Array:
  """y[o] = sum of x[i] kernel[t] over s i = o + t - p, padding SAME.

  Args:
    x: Images, shape [B, H, W, C].
    kernel: Shape [k, k, C, F].
    stride: s.
    implementation: One of IMPLEMENTATIONS.

  Returns:
    Shape [B, s H, s W, F].
  """
  chex.assert_rank([x, kernel], 4)
  implementation = choose(implementation)
  if implementation == 'native':
    return lax.conv_transpose(
      x, kernel, (stride, stride), 'SAME', dimension_numbers=_LAYOUT
    )
  size, _, channels, features = kernel.shape
  height, width = x.shape[1:3]
  more = _num_blocks(size, stride) - 1
  # x[i] adds to y[s i], ..., y[s i + k - 1] through the taps in reverse order
  kernel = kernel[::-1, ::-1]
  overlap_cost = height * width * _cost(size**2 * features, channels)
  num_blocks = (height + more) * (width + more)
  blocks_cost = num_blocks * _cost(
    (more + 1) ** 2 * channels, stride**2 * features
  )
  if implementation == 'patches' and overlap_cost <= blocks_cost:
    y = _by_overlap_add(x, kernel, stride)
  else:
    # block g reads x[g], x[g - 1], ...: the taps are in their first order again
    kernel = _to_kernel_of_blocks(kernel, stride)[::-1, ::-1]
    convolve_fn = _native if implementation == 'subpixel' else _by_patches
    y = convolve_fn(x, kernel, 1, ((more, more), (more, more)))
    y = _from_blocks(y, stride)
  # the rows and columns that SAME leaves out in lax.conv_transpose
  before = size - 1 if stride > size - 1 else (size + stride - 1) // 2
  skip = size - 1 - before
  return y[:, skip : skip + stride * height, skip : skip + stride * width]


def _native(x, kernel, stride, pads):
  """XLA's convolution, with the pads of `_by_patches`, or 'SAME'."""
  return lax.conv_general_dilated(
    x, kernel, (stride, stride), pads, dimension_numbers=_LAYOUT
  )


def _by_patches(x, kernel, stride, pads):
  """y[o] = sum_t x[s o + t] kernel[t], for x with zeros around it.

  Args:
    x: Shape [B, H, W, C].
    kernel: Shape [k, k, C, F].
    stride: s.
    pads: Zeros before and after H, and W; the padded sides are whole blocks.

  Returns:
    Shape [B, H', W', F], one output for each block except the last q - 1.
  """
  size, _, channels, features = kernel.shape
  x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
  more = _num_blocks(size, stride) * stride - size
  kernel = jnp.pad(kernel, ((0, 0), (0, more), (0, 0), (0, 0)))
  kernel = kernel.reshape(-1, features)
  return _matmul(_patches(x, size, stride), kernel)


def _by_overlap_add(x, kernel, stride):
  """y[o] = sum of x[i] kernel[t] over s i + t = o.

  Args:
    x: Shape [B, H, W, C].
    kernel: Shape [k, k, C, F].
    stride: s.

  Returns:
    Shape [B, s (H + q - 1), s (W + q - 1), F], zeros where no input adds.
  """
  size, _, channels, _ = kernel.shape
  more = _num_blocks(size, stride) * stride - size
  kernel = jnp.pad(kernel, ((0, 0), (0, more), (0, 0), (0, 0)))
  kernel = kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
  return _overlap_add(_matmul(x, kernel), size, stride)


def _matmul(x, kernel):
  """x @ kernel for x [..., K] and kernel [K, N]."""
  rows, columns = kernel.shape
  shape = (*x.shape[:-1], columns)
  x = x.reshape(-1, rows)  # else the gradient is a dot over three axes
  if rows <= columns:
    return (x @ kernel).reshape(shape)
  # The kernel's gradient sums over all pixels. XLA computes it three times
  # faster with fewer rows; the barrier keeps XLA from swapping the operands.
  kernel = lax.optimization_barrier(kernel.T)
  return lax.dot_general(x, kernel, (((1,), (1,)), ((), ()))).reshape(shape)


def _patches(x, size, stride):
  """The patches of an image that a kernel covers, side by side.

  Args:
    x: Shape [B, s H, s W, C].
    size: k.
    stride: s; a kernel spans q = ceil(k / s) blocks of s x s pixels.

  Returns:
    Shape [B, H - q + 1, W - q + 1, k q s C]: k rows of q s pixels.
  """
  batch, height, width, channels = x.shape
  num = _num_blocks(size, stride)
  height, width, channels = height // stride, width // stride, stride * channels
  x = x.reshape(batch, height, stride, width, channels)
  height, width = height - num + 1, width - num + 1
  parts = []
  for n, (a, row, b) in enumerate(_pieces(size, stride)):
    part = x[:, a : a + height, row, b : b + width]
    before = n * channels
    after = (size * num - 1 - n) * channels
    parts.append(jnp.pad(part, ((0, 0), (0, 0), (0, 0), (before, after))))
  return sum(parts)  # one pass, and faster than a concatenation


def _overlap_add(x, size, stride):
  """Adds patches at their places in an image; the adjoint of `_patches`.

  Args:
    x: Shape [B, H, W, k q s C].
    size: k.
    stride: s.

  Returns:
    Shape [B, s (H + q - 1), s (W + q - 1), C].
  """
  batch, height, width, numbers = x.shape
  num = _num_blocks(size, stride)
  channels = numbers // (size * num)
  parts = []
  for n, (a, row, b) in enumerate(_pieces(size, stride)):
    part = x[:, :, None, :, n * channels : (n + 1) * channels]
    around = (
      (0, 0),
      (a, num - 1 - a),
      (row, stride - 1 - row),
      (b, num - 1 - b),
      (0, 0),
    )
    parts.append(jnp.pad(part, around))
  height, width = stride * (height + num - 1), stride * (width + num - 1)
  return sum(parts).reshape(batch, height, width, channels // stride)


def _pieces(size, stride):
  """Yields (block, row in the block, block of the column) for a patch."""
  for i in range(size):
    for b in range(_num_blocks(size, stride)):
      yield i // stride, i % stride, b


def _num_blocks(size, stride):
  """q, the number of blocks along a side of the kernel."""
  return -(-size // stride)


def _cost(moved, others):
  """Cost model: numbers moved times (other dimension + overhead)."""
  return moved * (others + _COST_OF_A_NUMBER)


def _to_kernel_of_blocks(kernel, stride):
  """[k, k, C, F] -> [q, q, C, s^2 F], zeros where s does not divide k."""
  size, _, channels, _ = kernel.shape
  num = _num_blocks(size, stride)
  more = (0, num * stride - size)
  kernel = jnp.pad(kernel, (more, more, (0, 0), (0, 0)))
  kernel = kernel.reshape(num, stride, num, stride, channels, -1)
  kernel = kernel.transpose(0, 2, 4, 1, 3, 5)
  return kernel.reshape(num, num, channels, -1)


def _from_blocks(x, stride):
  """Blocks [B, H, W, s^2 F] -> pixels [B, s H, s W, F]."""
  batch, height, width, numbers = x.shape
  features = numbers // stride**2
  x = x.reshape(batch, height, width, stride, stride, features)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(batch, stride * height, stride * width, features)
