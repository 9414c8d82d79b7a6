"""Networks of the latent distribution: samplers, energies, priors."""

from flax import linen as nn
import jax

Array = jax.Array


class ResidualMlp(nn.Module):
  """Vectors [..., D] -> features [..., W]: x + dense(silu(dense(silu(x)))).

  Blocks start near the identity, as steps of a flow that can be steep between
  clusters. The gain over plain layers depends on the data set, see
  `docs/lab-notes.md`.
  """

  width: int
  num_blocks: int

  @nn.compact
  def __call__(self, x: Array) -> Array:
    small = nn.initializers.variance_scaling(0.1, 'fan_in', 'normal')
    x = nn.Dense(self.width)(x)
    for _ in range(self.num_blocks):
      h = nn.silu(nn.Dense(self.width)(nn.silu(x)))
      x += nn.Dense(self.width, kernel_init=small)(h)
    return nn.silu(x)


class SamplerNet(nn.Module):
  """Noise xi [..., D] -> latents u = xi + net(xi) [..., D].

  It starts as the identity: u ~ N(0, I). `ldc` standardises the latents that it
  learns from; `drifting` whitens them.
  """

  width: int
  num_blocks: int

  @nn.compact
  def __call__(self, noise: Array) -> Array:
    features = ResidualMlp(self.width, self.num_blocks)(noise)
    zeros = nn.initializers.zeros_init()
    return noise + nn.Dense(noise.shape[-1], kernel_init=zeros)(features)


class LatentEnergy(nn.Module):
  """Latents u [..., D] -> energies f(u) [...], in nats.

  It is smooth (SiLU) because its gradient is the sampler's score, and the
  gradient of that is in the gradient penalty.
  """

  width: int
  num_blocks: int

  @nn.compact
  def __call__(self, u: Array) -> Array:
    features = ResidualMlp(self.width, self.num_blocks)(u)
    return nn.Dense(1)(features)[..., 0]


class Discriminator(nn.Module):
  """Latents z [..., D] -> log odds [...] that they are draws of the prior.

  It starts undecided, at log odds 0.
  """

  width: int
  num_layers: int

  @nn.compact
  def __call__(self, z: Array) -> Array:
    for _ in range(self.num_layers):
      z = nn.relu(nn.Dense(self.width)(z))
    return nn.Dense(1, kernel_init=nn.initializers.zeros_init())(z)[..., 0]


class PseudoInputs(nn.Module):
  """Learned images [N, H, W, C] in (0, 1); takes no input.

  They are the sigmoid of free logits, as for grey images in the code of Tomczak
  and Welling, https://github.com/jmtomczak/vae_vampprior.
  """

  number: int
  image_shape: tuple[int, int, int]

  @nn.compact
  def __call__(self) -> Array:
    # different logits, because pseudo-inputs that start equal stay equal
    start = nn.initializers.normal(1.0)
    logits = self.param('logits', start, (self.number, *self.image_shape))
    return jax.nn.sigmoid(logits)
