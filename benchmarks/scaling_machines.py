"""The clusters that `benchmarks.scaling` assumes."""

from typing import NamedTuple

from benchmarks import operations as operations_lib


class Machine(NamedTuple):
  """The assumptions about a cluster; per device.

  Attributes:
    devices: n.
    peak: Operations per second at the precision that matmuls take there.
    bandwidth: Bytes per second of an all-reduce over all devices.
    latency: Seconds of one hop of a collective.
    source: Where the figures come from.
  """

  devices: int
  peak: float
  bandwidth: float
  latency: float
  source: str


MACHINES = {
  'TPU v5e-256': Machine(
    256,
    197e12,
    200e9,
    1e-6,
    'bfloat16 peak 197 TFLOP/s and 1,600 Gbit/s of interconnect a chip,'
    ' by its data sheet; float32 matmuls run in bfloat16 there by default',
  ),
  '64 x H100, 8 a host': Machine(
    64,
    operations_lib.PEAKS['NVIDIA H100 80GB']['float32'],
    50e9,
    5e-6,
    'TF32 peak 495 TFLOP/s without sparsity by its data sheet; 400 Gbit/s'
    ' of network a GPU, which is what bounds a ring over hosts',
  ),
}
# Of the peak. On one H100 the nets of `conv` reached 0.03 to 0.06, `vae` with
# those of 64x64 images 0.09 (results/train_step_gpu_conv.md,
# train_step_gpu_conv64.md); a reader picks.
UTILISATIONS = (0.03, 0.1, 0.3)
