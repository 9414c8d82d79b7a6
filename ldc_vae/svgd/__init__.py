r"""Stein variational gradient descent (SVGD): kernels, directions, particles.

For particles z_1..z_n with scores s_j = grad log p(z_j) and a repulsion
temperature T, the SVGD direction (an ascent direction) is

    phi_i = c sum_j [ k(z_j, z_i) s_j + T grad_{z_j} k(z_j, z_i) ],

where c = 1/n over all pairs and c = 1/(n-1) over the pairs j != i. Liu and Wang
(2016), Algorithm 1, https://arxiv.org/abs/1608.04471.

Which pairs:

* Amortised particles (drawn with fresh noise at every step) need the pairs
  j != i. These estimate the population's direction without bias. With the
  diagonal, each particle also climbs its own score, and the set collapses.
* A persistent set (the same particles at every step) needs all pairs. Without
  the diagonal it diverges.

A persistent set underestimates variances in many dimensions, so take no error
bars from it. For N(0, I_D), all pairs and the mean rule, n <= D + 1 particles
end at the variance log(n + 1) / D (tests/svgd/test_rest.py). With a factor far
below 1 the variance ends near 0, because each particle climbs to the mode
alone.

The posterior of a logistic regression with 31 weights is an example. With 100
particles `rbf('mean')` keeps half of the standard deviations of NUTS, `imq` and
`multi_scale` more, and `linear(1.0)` with n > D or `Noise(0.1, r)` nearly all
(benchmarks/results/variance_collapse.md). Whitening does not help.
The linear kernel is exact in the mean and covariance of a Gaussian, and sees
nothing else. Other remedies: noisy SVGD (`Noise`), a net that draws new
particles at every step, over the pairs j != i, or NUTS.

`run` samples a log density in one call, `init` and `step` do it step by step.

Here k(x, y) = exp(-|x - y|^2 / h) has no factor 2 in front of h. All functions
are pure, batch by `vmap`, and know no network, config or device.
"""

from ldc_vae.svgd.arithmetic import gather
from ldc_vae.svgd.arithmetic import squared_distances
from ldc_vae.svgd.bandwidths import BANDWIDTH_FLOOR
from ldc_vae.svgd.bandwidths import expected_bandwidth
from ldc_vae.svgd.bandwidths import make_bandwidth_fn
from ldc_vae.svgd.bandwidths import mass_bandwidth
from ldc_vae.svgd.bandwidths import mean_bandwidth
from ldc_vae.svgd.bandwidths import mean_square_distance
from ldc_vae.svgd.bandwidths import median_bandwidth
from ldc_vae.svgd.blocks import choose_block
from ldc_vae.svgd.directions import normalised_update
from ldc_vae.svgd.directions import svgd_direction
from ldc_vae.svgd.directions import Update
from ldc_vae.svgd.flows import smoothed_flow
from ldc_vae.svgd.kernels import from_function
from ldc_vae.svgd.kernels import imq
from ldc_vae.svgd.kernels import imq_kernel
from ldc_vae.svgd.kernels import Kernel
from ldc_vae.svgd.kernels import KernelFn
from ldc_vae.svgd.kernels import KERNELS
from ldc_vae.svgd.kernels import linear
from ldc_vae.svgd.kernels import linear_kernel
from ldc_vae.svgd.kernels import multi_scale
from ldc_vae.svgd.kernels import multi_scale_kernel
from ldc_vae.svgd.kernels import radial
from ldc_vae.svgd.kernels import rbf
from ldc_vae.svgd.kernels import rbf_kernel
from ldc_vae.svgd.particles import follow
from ldc_vae.svgd.particles import stein_particles
from ldc_vae.svgd.sampling import init
from ldc_vae.svgd.sampling import LogDensity
from ldc_vae.svgd.sampling import Noise
from ldc_vae.svgd.sampling import Optimizer
from ldc_vae.svgd.sampling import ravel
from ldc_vae.svgd.sampling import Result
from ldc_vae.svgd.sampling import run
from ldc_vae.svgd.sampling import scores
from ldc_vae.svgd.sampling import State
from ldc_vae.svgd.sampling import step
