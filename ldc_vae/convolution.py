"""Convolutions with stride, and transposed ones, natively or as matmuls.

XLA's convolutions are made for accelerators. On a CPU their gradients, and
all of them inside a `lax.scan`, take several times as long as the matmuls that
they amount to. 'patches' makes every convolution one matmul:

* With stride s, images become blocks of s x s pixels. A convolution with
  stride s and a kernel of side k is one of blocks, with stride 1 and a kernel
  of side q = ceil(k / s); a transposed one (sub-pixel convolution, Shi et al.
  (2016), https://arxiv.org/abs/1609.05158) gives blocks.
* A convolution with stride 1 is `patches(x) @ kernel`, q^2 C numbers for each
  output, or `overlap_add(x @ kernel)`, q^2 F numbers for each input. Each is
  the other's gradient; the cheaper one is taken.

Both implementations have the parameters of `flax.linen.Conv` and
`ConvTranspose`, in names, shapes and initial values, and agree up to rounding.
"""

import math

import chex
from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp

Array = jax.Array
Dtype = jnp.dtype

IMPLEMENTATIONS = ('auto', 'native', 'patches')

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


def choose(implementation: str) -> str:
  """'native' or 'patches'; 'auto' is 'patches' where jax runs on the CPU."""
  if implementation not in IMPLEMENTATIONS:
    raise ValueError(
        f'convolution={implementation!r} is unknown; known:'
        f' {", ".join(IMPLEMENTATIONS)}'
    )
  if implementation == 'auto':
    return 'patches' if jax.default_backend() == 'cpu' else 'native'
  return implementation


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
  if choose(implementation) == 'native':
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), 'SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
  size = kernel.shape[0]
  if stride == 1:
    before, after = (size - 1) // 2, size // 2
    return _convolve_by_matmul(x, kernel, before, after)
  pads = []
  for side in x.shape[1:3]:
    num = -(-side // stride)
    before = max((num - 1) * stride + size - side, 0) // 2
    whole = (num - 1 + _num_blocks(size, stride)) * stride
    pads.append((before, whole - side - before, 0))
  x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *pads, (0, 0, 0)))
  # [q, q, s, s, C, F], as the pixels of a block lie
  kernel = _kernel_of_blocks(kernel, stride)
  kernel = kernel.reshape(*kernel.shape[:2], -1, kernel.shape[-1])
  return _convolve_by_matmul(_to_blocks(x, stride), kernel, 0, 0)


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
  if choose(implementation) == 'native':
    return lax.conv_transpose(
        x, kernel, (stride, stride), 'SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
  size = kernel.shape[0]
  num = _num_blocks(size, stride)
  # the whole of y starts at o = p - k + 1, with p as lax.conv_transpose has it
  pad = size - 1 if stride > size - 1 else (size + stride - 1) // 2
  skip = size - 1 - pad
  # from the last tap to the first, as a convolution meets them
  blocks = _kernel_of_blocks(kernel[::-1, ::-1], stride)[::-1, ::-1]
  blocks = blocks.transpose(0, 1, 4, 2, 3, 5)  # [q, q, C, s, s, F]
  blocks = blocks.reshape(num, num, kernel.shape[2], -1)
  y = _from_blocks(_convolve_by_matmul(x, blocks, num - 1, num - 1), stride)
  height, width = x.shape[1] * stride, x.shape[2] * stride
  # a kernel smaller than the stride leaves the last pixels to nobody
  short = [max(skip + n - m, 0) for n, m in zip((height, width), y.shape[1:3])]
  y = jnp.pad(y, ((0, 0), (0, short[0]), (0, short[1]), (0, 0)))
  return y[:, skip : skip + height, skip : skip + width]


def _layer(module, x, function):
  """The parameters of a layer and what it gives."""
  size, channels = module.kernel_size, x.shape[-1]
  shape = (size, size, channels, module.features)
  kernel = module.param('kernel', nn.initializers.lecun_normal(), shape)
  zeros = nn.initializers.zeros_init()
  bias = module.param('bias', zeros, (module.features,))
  x, kernel, bias = (each.astype(module.dtype) for each in (x, kernel, bias))
  y = function(
      x,
      kernel,
      stride=module.stride,
      implementation=module.implementation,
  )
  return y + bias


def _convolve_by_matmul(x, kernel, before, after):
  """y[o] = sum_a x[o + a - before] kernel[a], zeros around x; one matmul.

  Args:
    x: Shape [B, H, W, C].
    kernel: Shape [q, q, C, F].
    before: Zeros before each of H and W, at most q - 1.
    after: And after.

  Returns:
    Shape [B, H + before + after - q + 1, W + ..., F].
  """
  size, _, channels, features = kernel.shape
  height, width = x.shape[1:3]
  grown = before + after - size + 1
  num_outputs = (height + grown) * (width + grown)
  taps = size**2
  by_patches = num_outputs * taps * channels * (features + _COST_OF_A_NUMBER)
  by_overlap = height * width * taps * features * (channels + _COST_OF_A_NUMBER)
  if by_patches <= by_overlap:
    around = (before, after, 0)
    none = (0, 0, 0)
    x = lax.pad(x, jnp.zeros((), x.dtype), (none, around, around, none))
    kernel = kernel.reshape(taps * channels, features)
    return _matmul(_patches(x, size), kernel)
  # x[i] meets kernel[a] in y[i - a + before]
  kernel = kernel[::-1, ::-1].transpose(2, 0, 1, 3)
  products = _matmul(x, kernel.reshape(channels, taps * features))
  y = _overlap_add(products, size)
  first = size - 1 - before
  return y[
      :, first : first + height + grown, first : first + width + grown
  ]


def _matmul(x, kernel):
  """x @ kernel for x [..., K] and kernel [K, N]."""
  rows, columns = kernel.shape
  if rows <= columns:
    return lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))
  # The kernel's gradient sums over all pixels. XLA's is three times faster
  # with the fewer rows, and the barrier keeps XLA from swapping the two.
  kernel = lax.optimization_barrier(kernel.T)
  return lax.dot_general(x, kernel, (((x.ndim - 1,), (1,)), ((), ())))


def _patches(x, size):
  """The q x q neighbours of [B, H, W, C]: [B, H - q + 1, W - q + 1, q^2 C]."""
  channels = x.shape[-1]
  height, width = x.shape[1] - size + 1, x.shape[2] - size + 1
  parts = []
  for n in range(size**2):
    i, j = divmod(n, size)
    others = (n * channels, (size**2 - 1 - n) * channels)
    part = x[:, i : i + height, j : j + width]
    parts.append(jnp.pad(part, ((0, 0), (0, 0), (0, 0), others)))
  return sum(parts)  # one pass over memory, unlike a concatenation


def _overlap_add(x, size):
  """Adds up patches [B, H, W, q^2 F] where they lie; the adjoint of _patches.

  Args:
    x: Patches.
    size: q.

  Returns:
    Shape [B, H + q - 1, W + q - 1, F].
  """
  features = x.shape[-1] // size**2
  parts = []
  for n in range(size**2):
    i, j = divmod(n, size)
    part = x[..., n * features : (n + 1) * features]
    around = ((0, 0), (i, size - 1 - i), (j, size - 1 - j), (0, 0))
    parts.append(jnp.pad(part, around))
  return sum(parts)


def _num_blocks(size, stride):
  """q, the blocks that a kernel's side spans."""
  return -(-size // stride)


def _kernel_of_blocks(kernel, stride):
  """[k, k, C, F] -> [q, q, s, s, C, F], zeros at the end if s does not divide k.
  """
  size = kernel.shape[0]
  num = _num_blocks(size, stride)
  more = (0, num * stride - size)
  kernel = jnp.pad(kernel, (more, more, (0, 0), (0, 0)))
  kernel = kernel.reshape(num, stride, num, stride, *kernel.shape[2:])
  return kernel.transpose(0, 2, 1, 3, 4, 5)


def _to_blocks(x, stride):
  """Pixels [B, s H, s W, C] -> blocks [B, H, W, s^2 C]."""
  batch, height, width, channels = x.shape
  shape = (batch, height // stride, stride, width // stride, stride, channels)
  x = x.reshape(shape).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(*x.shape[:3], math.prod(x.shape[3:]))


def _from_blocks(x, stride):
  """Blocks [B, H, W, s^2 C] -> pixels [B, s H, s W, C]."""
  batch, height, width, channels = x.shape
  channels //= stride**2
  x = x.reshape(batch, height, width, stride, stride, channels)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(batch, height * stride, width * stride, channels)
