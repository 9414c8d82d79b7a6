"""The worker of svgd_directions.py: one library's SVGD directions.

It answers each line of stdin, a request in JSON, with a line of JSON. A library
is called as its users would call it, compiled where it can be, and computes

    phi_i = 1/n sum_j [k(z_j, z_i) s_j + grad_{z_j} k(z_j, z_i)],

k(x, y) = exp(-|x - y|^2 / h), s = -z, h a given number. The peers' libraries
need an environment of their own, without this project.
"""

import argparse
import gc
import importlib
import importlib.metadata
import json
import os
import pathlib
import platform
import resource
import statistics
import sys
import time

import numpy as np

# Calls of a library are timed until this much time is spent.
_SECONDS_PER_ANSWER = 0.1

# Calls that follow each other without waiting take about so long together
# where a call returns before its work is done; on a CPU each is waited for.
_SECONDS_IN_FLIGHT = {'cpu': 0.0}
_OTHER_SECONDS_IN_FLIGHT = 0.005

# Sizes of the operations that the floor is made of.
_EXP_SIZES = {'cpu': (2**20, 2**22), 'gpu': (2**27,), 'tpu': (2**27,)}
_MATMUL_SIZES = {'cpu': 1536, 'gpu': 8192, 'tpu': 8192}


def make_particles(batch: int, n: int, dim: int) -> np.ndarray:
  """Particles that are not yet at rest under N(0, I): 0.5 + 1.3 N(0, I).

  Args:
    batch: Independent sets; 0 for one set without the axis.
    n: Particles of a set.
    dim: D.

  Returns:
    float32, shape [batch, n, D] or [n, D].
  """
  shape = (batch, n, dim) if batch else (n, dim)
  draws = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
  return np.float32(0.5) + np.float32(1.3) * draws


def bandwidth(n: int, dim: int) -> float:
  """h of all libraries: the mean squared distance above / log(n + 1)."""
  return float(2.0 * 1.3**2 * dim / np.log(n + 1.0))


class _Jax:
  """The base of the libraries on JAX: arrays, compilation, memory."""

  packages = ('jax', 'jaxlib', 'numpy')

  def __init__(self):
    self.jax = importlib.import_module('jax')
    device = self.jax.devices()[0]
    self.platform, self.device = device.platform, device.device_kind
    self.num_threads = None

  def make_fn(self, batch: int, n: int, dim: int):
    """Returns a function of the particles, compiled."""
    jax = self.jax
    direction_fn = self.make_direction_fn(n, dim)
    return jax.jit(jax.vmap(direction_fn) if batch else direction_fn)

  def put(self, particles: np.ndarray):
    return self.jax.device_put(particles)

  def wait(self, value) -> None:
    self.jax.block_until_ready(value)

  def forget(self) -> None:
    self.jax.clear_caches()

  def peak_device_bytes(self) -> int | None:
    stats = self.jax.devices()[0].memory_stats()
    return None if stats is None else stats.get('peak_bytes_in_use')


class _LdcVae(_Jax):
  """This project, with the given bandwidth."""

  rule = None

  def __init__(self):
    importlib.import_module('ldc_vae')  # may set flags, before jax reads them
    super().__init__()

  def make_direction_fn(self, n: int, dim: int):
    svgd = importlib.import_module('ldc_vae.svgd')
    kernel = svgd.rbf(self.rule or bandwidth(n, dim))

    def direction(particles):
      return svgd.svgd_direction(
        particles, -particles, kernel, off_diagonal=False
      )

    return direction

  def rates(self) -> dict[str, float]:
    """Operations per second: 'matmul' (2 n^3 for n x n), 'exp'."""
    jax, jnp = self.jax, importlib.import_module('jax.numpy')

    def time_calls(fn, argument):
      self.wait(fn(argument))  # compiles
      return _time(self, fn, argument)[0]

    size = _MATMUL_SIZES[self.platform]
    matmul = jax.jit(lambda x: jnp.matmul(x, x, precision='highest'))
    numbers = jax.random.normal(jax.random.key(0), (size, size))
    seconds = time_calls(matmul, numbers)
    exp = jax.jit(jnp.exp)
    exp_rates = [
      count / time_calls(exp, jnp.linspace(-10.0, 0.0, count))
      for count in _EXP_SIZES[self.platform]
    ]
    return {'matmul': 2.0 * size**3 / seconds, 'exp': max(exp_rates)}


class _LdcVaeRule(_LdcVae):
  """This project, which also computes the bandwidth by its default rule."""

  rule = 'mean'


class _Blackjax(_Jax):
  """A step of blackjax with plain gradient descent; the step is phi."""

  packages = ('blackjax', 'optax', *_Jax.packages)

  def make_direction_fn(self, n: int, dim: int):
    svgd = importlib.import_module('blackjax.vi.svgd')
    optimizer = importlib.import_module('optax').sgd(1.0)
    h = bandwidth(n, dim)
    kernel_fn = svgd.build_kernel(optimizer)
    score_fn = lambda z: -z

    def direction(particles):
      # as_top_level_api would also sort all distances for the bandwidth
      state = svgd.init(particles, {'length_scale': h}, optimizer)
      state = kernel_fn(state, score_fn, svgd.rbf_kernel)
      return state.particles - particles

    return direction


class _Numpyro(_Jax):
  """An update of numpyro's SVGD with plain gradient descent."""

  packages = ('numpyro', *_Jax.packages)

  def make_direction_fn(self, n: int, dim: int):
    jax = self.jax
    numpyro = importlib.import_module('numpyro')
    einstein = importlib.import_module('numpyro.contrib.einstein')
    stein_kernels = importlib.import_module(
      'numpyro.contrib.einstein.stein_kernels'
    )
    dist = importlib.import_module('numpyro.distributions')
    jnp = importlib.import_module('jax.numpy')
    h = bandwidth(n, dim)

    class Rbf(stein_kernels.SteinKernel):
      """numpyro's RBFKernel without its median, which sorts n^2 distances."""

      mode = 'norm'

      def compute(self, rng_key, particles, particle_info, loss_fn):
        del rng_key, particles, particle_info, loss_fn
        return lambda x, y: jnp.exp(-jnp.sum((x - y) ** 2) / h)

    def model():
      numpyro.sample('z', dist.Normal(0.0, 1.0).expand([dim]).to_event(1))

    optimizer = numpyro.optim.SGD(1.0)
    svgd = einstein.SVGD(model, optimizer, Rbf(), num_stein_particles=n)
    state = svgd.init(jax.random.key(0))
    (name,) = svgd.get_params(state)

    def direction(particles):
      start = state._replace(optim_state=optimizer.init({name: particles}))
      end, _ = svgd.update(start)
      return svgd.get_params(end)[name] - particles

    return direction


class _Torch:
  """The matmul form in PyTorch, in place where it can be."""

  packages = ('torch', 'numpy')

  def __init__(self):
    self.torch = importlib.import_module('torch')
    torch = self.torch
    self.platform = 'gpu' if torch.cuda.is_available() else 'cpu'
    self.device = (
      torch.cuda.get_device_name() if self.platform == 'gpu' else 'cpu'
    )
    torch.set_float32_matmul_precision('highest')
    if hasattr(os, 'sched_getaffinity'):
      # by itself it may count physical cores only
      torch.set_num_threads(len(os.sched_getaffinity(0)))
    self.num_threads = torch.get_num_threads()

  def make_fn(self, batch: int, n: int, dim: int):
    del batch  # a leading axis is no difference
    torch, h = self.torch, bandwidth(n, dim)

    @torch.inference_mode()
    def direction(particles):
      scores = -particles
      z = particles - particles.mean(-2, keepdim=True)
      norms = z.square().sum(-1, keepdim=True)
      kernel = torch.matmul(z * (2.0 / h), z.mT)
      kernel.sub_(norms / h).sub_(norms.mT / h).clamp_(max=0.0).exp_()
      phi = torch.matmul(kernel, scores.sub_(z, alpha=2.0 / h))
      rows = kernel.sum(-1, keepdim=True).mul_(2.0 / h)
      return phi.addcmul_(rows, z).div_(n)

    return direction

  def put(self, particles: np.ndarray):
    device = 'cuda' if self.platform == 'gpu' else 'cpu'
    return self.torch.from_numpy(particles).to(device)

  def wait(self, value) -> None:
    del value
    if self.platform == 'gpu':
      self.torch.cuda.synchronize()

  def forget(self) -> None:
    gc.collect()
    if self.platform == 'gpu':
      self.torch.cuda.empty_cache()

  def peak_device_bytes(self) -> int | None:
    if self.platform == 'gpu':
      return self.torch.cuda.max_memory_allocated()
    return None


LIBRARIES = {
  'ldc_vae': _LdcVae,
  'ldc_vae_rule': _LdcVaeRule,
  'blackjax': _Blackjax,
  'numpyro': _Numpyro,
  'torch': _Torch,
}


def _time(library, fn, argument) -> tuple[float, int]:
  """Seconds of a compiled call, the median, and how many were timed.

  The first call, which finds the caches cold, counts only if it is so long that
  it does not matter. On an accelerator each value is the mean over calls that
  follow each other, see `_OTHER_SECONDS_IN_FLIGHT`.
  """

  def time_calls(count):
    start = time.perf_counter()
    for _ in range(count):
      value = fn(argument)
    library.wait(value)
    return (time.perf_counter() - start) / count

  first = time_calls(1)
  seconds, spent, count = [], 0.0, 1
  if first > 1.0:
    seconds, spent = [first], first
  else:
    in_flight = _SECONDS_IN_FLIGHT.get(
      library.platform, _OTHER_SECONDS_IN_FLIGHT
    )
    count = max(int(in_flight / time_calls(1)), 1)
  while not seconds or spent < _SECONDS_PER_ANSWER:
    seconds.append(time_calls(count))
    spent += count * seconds[-1]
  return statistics.median(seconds), count * len(seconds)


def _peak_bytes(library) -> int:
  """The most memory so far: of the device, or on a CPU of the process."""
  peak = library.peak_device_bytes()
  if peak is not None:
    return peak
  status = pathlib.Path('/proc/self/status')
  if status.exists():
    # getrusage would begin with the peak of the process that started this one
    (line,) = [
      line
      for line in status.read_text().splitlines()
      if line.startswith('VmHWM:')
    ]
    return 1024 * int(line.split()[1])
  unit = 1 if sys.platform == 'darwin' else 1024
  return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _measure_memory(library, case: dict[str, int]) -> dict[str, int]:
  """Returns how much a case adds to the peak, beyond its own particles.

  A direction of the least size before it loads what is loaded once.
  """
  small = library.put(make_particles(0, 8, 2))
  library.wait(library.make_fn(0, 8, 2)(small))
  particles = library.put(make_particles(**case))
  library.wait(particles)
  fn = library.make_fn(**case)
  gc.collect()
  before = _peak_bytes(library)
  library.wait(fn(particles))
  return {'bytes': _peak_bytes(library) - before}


class _Answers:
  """Answers requests; keeps the function of the last case."""

  def __init__(self, library):
    self._library = library
    self._case = self._fn = self._particles = None

  def __call__(self, request: dict) -> dict:
    task, case = request['task'], request.get('case')
    if task == 'rates':
      return self._library.rates()
    if task == 'memory':
      return _measure_memory(self._library, case)
    self._prepare(case)
    if task == 'compute':
      np.save(request['path'], _to_numpy(self._fn(self._particles)))
      return {}
    seconds, calls = _time(self._library, self._fn, self._particles)
    return {'seconds': seconds, 'calls': calls}

  def _prepare(self, case: dict[str, int]) -> None:
    """Makes the function of a case, if it is another than the last."""
    if case != self._case:
      self._case, self._fn, self._particles = case, None, None
      self._library.forget()
      self._particles = self._library.put(make_particles(**case))
      self._fn = self._library.make_fn(**case)


def _to_numpy(value) -> np.ndarray:
  """An array of any of the libraries as NumPy's."""
  return np.asarray(value.cpu() if hasattr(value, 'cpu') else value)


def main() -> None:
  """Answers the lines of stdin."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--library', choices=LIBRARIES, required=True)
  args = parser.parse_args()
  answers = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)  # what libraries print must not pass for an answer
  library = LIBRARIES[args.library]()
  versions = {
    name: importlib.metadata.version(name) for name in library.packages
  }
  versions['python'] = platform.python_version()
  description = {
    'platform': library.platform,
    'device': library.device,
    'num_threads': library.num_threads,
    'versions': versions,
  }
  print(json.dumps(description), file=answers, flush=True)
  answer_fn = _Answers(library)
  for line in sys.stdin:
    answer = answer_fn(json.loads(line))
    print(json.dumps(answer), file=answers, flush=True)


if __name__ == '__main__':
  main()
