"""Convolutions with stride, and transposed ones, natively or otherwise.

'native' are XLA's. On a GPU it has no fast form of some of what a transposed
convolution and its gradients amount to. 'subpixel' makes a transposed one of a
convolution with stride 1 and a kernel of side ceil(k / s) that gives blocks of
s x s pixels (Shi et al. (2016), https://arxiv.org/abs/1609.05158).

On a CPU the gradients of XLA's convolutions, and all of them inside a
`lax.scan`, take several times as long as the matmuls that they amount to.
'patches' makes a convolution one matmul and one pass over memory, in one of
three ways:

* A convolution with stride s is `patches(x) @ kernel`: k^2 C numbers for each
  output.
* A transposed one is `overlap_add(x @ kernel)`, the adjoint: k^2 F numbers for
  each input. With stride 1 both serve for both.
* A transposed one is also the convolution of 'subpixel'.

The cheaper way is taken. All implementations have the parameters of
`flax.linen.Conv` and `ConvTranspose`, in names, shapes and initial values, and
agree up to rounding.
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

# To move a number costs a CPU as much as so many multiply-adds of a matmul.
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
    return _layer(self, x, convolve)


class ConvTranspose(nn.Module):
  """Images [B, H, W, C] -> [B, s H, s W, F], padding SAME."""

  features: int
  kernel_size: int
  stride: int = 1
  implementation: str = 'auto'
  dtype: Dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    return _layer(self, x, convolve_transposed)


def choose(implementation: str, *, wide: bool = False) -> str:
  """The implementation that 'auto' stands for; any other is itself.

  Args:
    implementation: One of IMPLEMENTATIONS.
    wide: Of nets with hundreds of channels. A GPU, which takes longer to call
      one of its library's convolutions than to compute a small one, is then
      faster with 'subpixel' than with 'patches' (see benchmarks/README.md).

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
  # x[i] reaches y[s i], ..., y[s i + k - 1] by the taps from the last
  kernel = kernel[::-1, ::-1]
  overlap_cost = height * width * _cost(size**2 * features, channels)
  num_blocks = (height + more) * (width + more)
  blocks_cost = num_blocks * _cost(
      (more + 1) ** 2 * channels, stride**2 * features
  )
  if implementation == 'patches' and overlap_cost <= blocks_cost:
    y = _by_overlap_add(x, kernel, stride)
  else:
    # block g meets x[g], x[g - 1], ...: the taps in the first order again
    kernel = _to_kernel_of_blocks(kernel, stride)[::-1, ::-1]
    convolve_fn = _native if implementation == 'subpixel' else _by_patches
    y = convolve_fn(x, kernel, 1, ((more, more), (more, more)))
    y = _from_blocks(y, stride)
  # how much of it SAME leaves out, as lax.conv_transpose has it
  before = size - 1 if stride > size - 1 else (size + stride - 1) // 2
  skip = size - 1 - before
  return y[:, skip : skip + stride * height, skip : skip + stride * width]


def _layer(module, x, function):
  """The parameters of a layer, and its outputs."""
  size, features = module.kernel_size, module.features
  shape = (size, size, x.shape[-1], features)
  kernel = module.param('kernel', nn.initializers.lecun_normal(), shape)
  bias = module.param('bias', nn.initializers.zeros_init(), (features,))
  x, kernel, bias = (each.astype(module.dtype) for each in (x, kernel, bias))
  y = function(
      x,
      kernel,
      stride=module.stride,
      implementation=module.implementation,
  )
  return y + bias


def _native(x, kernel, stride, pads):
  """XLA's convolution, with pads as `_by_patches` has them, or 'SAME'."""
  return lax.conv_general_dilated(
      x, kernel, (stride, stride), pads, dimension_numbers=_LAYOUT
  )


def _by_patches(x, kernel, stride, pads):
  """y[o] = sum_t x[s o + t] kernel[t], for x with zeros around it.

  Args:
    x: Shape [B, H, W, C].
    kernel: Shape [k, k, C, F].
    stride: s.
    pads: Zeros before and after H, and W, which leave whole blocks.

  Returns:
    Shape [B, H', W', F], one output for each block but the last q - 1.
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
    Shape [B, s (H + q - 1), s (W + q - 1), F], zeros where nothing reaches.
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
  x = x.reshape(-1, rows)  # or the gradient would be a dot over three axes
  if rows <= columns:
    return (x @ kernel).reshape(shape)
  # The kernel's gradient sums over all pixels. XLA's is three times faster
  # with the fewer rows, and the barrier keeps XLA from swapping the two.
  kernel = lax.optimization_barrier(kernel.T)
  return lax.dot_general(x, kernel, (((1,), (1,)), ((), ()))).reshape(shape)


def _patches(x, size, stride):
  """What a kernel sees of an image, side by side.

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
  """Adds patches up where they lie; the adjoint of `_patches`.

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
        (0, 0), (a, num - 1 - a), (row, stride - 1 - row), (b, num - 1 - b),
        (0, 0),
    )
    parts.append(jnp.pad(part, around))
  height, width = stride * (height + num - 1), stride * (width + num - 1)
  return sum(parts).reshape(batch, height, width, channels // stride)


def _pieces(size, stride):
  """Of a patch: (block, row in it) of each row, and block of each column."""
  for i in range(size):
    for b in range(_num_blocks(size, stride)):
      yield i // stride, i % stride, b


def _num_blocks(size, stride):
  """q, the blocks that a kernel's side spans."""
  return -(-size // stride)


def _cost(moved, others):
  """Of a matmul for which so many numbers are moved, to or from others."""
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
