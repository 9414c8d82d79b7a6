"""The worker of conv_step.py that trains with this project.

It takes the path of a run, as `vae_epoch_ldc_vae.py` does.
"""

import argparse
import math
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the script's own folder is there instead

from benchmarks import vae_epoch_ldc_vae  # pylint: disable=g-import-not-at-top
from ldc_vae.models import model as model_lib
from ldc_vae.runtime import memory


def count(
  image_shape: tuple[int, int, int], channels: tuple[int, ...]
) -> dict[str, int]:
  """The weights, and the multiply-adds of one image's pass through both nets.

  Args:
    image_shape: (H, W, C).
    channels: The channels of the encoder.

  Returns:
    'num_parameters' and 'multiply_adds', each weight of a convolution times
    the outputs that it serves, of a transposed one times the inputs.
  """
  model = model_lib.create_model(
    image_shape, latent_size=16, channels=channels, architecture='conv'
  )

  def trace(key):
    params = model.init(key, ('encoder', 'decoder'))
    inputs = {'encoder': image_shape, 'decoder': (model.latent_size,)}
    outputs = {
      name: model.modules[name].apply(
        params[name],
        jnp.zeros((1, *shape)),
        capture_intermediates=True,
        mutable='intermediates',
      )[1]['intermediates']
      for name, shape in inputs.items()
    }
    return params, outputs

  params, outputs = jax.eval_shape(trace, jax.random.key(0))
  total = 0
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    keys = [each.key for each in path]
    if keys[-1] != 'kernel':
      continue
    node = outputs[keys[0]]
    for key in (*keys[2:-1], '__call__'):
      node = node[key]
    positions = math.prod(node[0].shape[1:-1])
    if keys[-2].startswith('ConvTranspose'):
      positions //= 4
    total += positions * leaf.size
  return {
    'num_parameters': model_lib.num_parameters(params),
    'multiply_adds': total,
  }


def main() -> None:
  """Answers each line of stdin with the seconds of some steps."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--images', required=True)
  parser.add_argument('--batch_size', type=int, required=True)
  parser.add_argument('--channels', required=True)
  parser.add_argument('--convolution', required=True)
  args = parser.parse_args()
  file = vae_epoch_ldc_vae.answers_file()
  memory.keep_freed_memory()  # as ldc_vae.main does
  images = np.load(args.images)
  channels = tuple(int(each) for each in args.channels.split(','))
  run_epoch = vae_epoch_ldc_vae.make_epoch_fn(
    images,
    args.batch_size,
    'gaussian',
    {
      'model.architecture': 'conv',
      'model.channels': channels,
      'model.convolution': args.convolution,
    },
  )
  description = vae_epoch_ldc_vae.describe()
  description.update(count(images.shape[1:], channels))
  vae_epoch_ldc_vae.answer(run_epoch, description, file)


if __name__ == '__main__':
  main()
