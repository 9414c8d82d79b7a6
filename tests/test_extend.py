"""The examples of docs/extend.md work, from files outside of the package."""

import json
import os
import pathlib
import re
import subprocess
import sys

from absl.testing import absltest

from ldc_vae.runtime import provenance

_PAGE = provenance.ROOT / 'docs' / 'extend.md'
_STEPS = (
  '--config.train.num_steps=2',
  '--config.evaluate.num_samples=64',
  '--config.evaluate.num_nll_images=32',
  '--config.evaluate.importance_samples=0',
)
_SHORT = """
from ldc_vae.evaluation import classifier
classifier._MIN_STEPS, classifier._NUM_EPOCHS = 20, 1
"""


# A method whose objective has a mistake of its own.
_BROKEN = """
import dataclasses
from typing import ClassVar
from ldc_vae import methods
from ldc_vae.methods import base

def my_objective(params, images, keys, context):
  raise ValueError('it has a bug')

@dataclasses.dataclass(frozen=True)
class Mine(base.Method):
  "Mine."
  name: ClassVar[str] = 'mine'
  label: ClassVar[str] = 'mine'
  encoders: ClassVar[tuple[str, ...]] = ('gaussian',)
  encoder_reason: ClassVar[str] = 'it is so'
  def build(self, model):
    phase = base.Phase(my_objective, model.autoencoder_names())
    return base.with_normal_prior(model, phase)

methods.register(Mine)
"""


class ExtendTest(absltest.TestCase):
  def test_a_bug_of_an_objective_keeps_its_traceback(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    (folder / 'mine.py').write_text(_BROKEN)
    result = subprocess.run(
      (
        sys.executable,
        '-m',
        'ldc_vae.main',
        '--config=digits:mine,debug',
        '--config.extensions=mine.py',
        '--workdir=w',
      ),
      cwd=folder,
      timeout=600,
      capture_output=True,
      text=True,
      env=dict(
        os.environ,
        LDC_VAE_CACHE=str(folder / 'cache'),
        PYTHONPATH=str(provenance.ROOT),
      ),
    )
    self.assertEqual(result.returncode, 1)
    self.assertIn('Traceback (most recent call last)', result.stderr)
    self.assertRegex(result.stderr, r'mine.py", line 8, in my_objective\n')
    self.assertIn('ValueError: it has a bug', result.stderr)

  def test_every_example_is_trained_reported_and_compared(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    names = []
    for index, code in enumerate(
      re.findall(r'```python\n(.*?)```', _PAGE.read_text(), re.DOTALL)
    ):
      names.append(str(folder / f'example_{index}.py'))
      pathlib.Path(names[-1]).write_text(code)
    # the feature classifier need not be good here
    names.append(str(folder / 'short.py'))
    pathlib.Path(names[-1]).write_text(_SHORT)
    workdir = folder / 'run'
    command = (
      sys.executable,
      '-m',
      'ldc_vae.main',
      '--mode=compare',
      '--config=digits,debug',
      f'--workdir={workdir}',
      '--methods=free_bits,stein_vae',
      '--seeds=0',
      *_STEPS,
      f'--config.extensions={",".join(names)}',
      '--config.stein_vae.method.kernel=cauchy',
      '--config.model.architecture=norm_mlp',
      '--config.model.likelihood=laplace',
      '--config.dataset.name=bars',
      '--config.evaluate.samplers=prior,kernel_density',
    )
    env = dict(
      os.environ,
      LDC_VAE_CACHE=str(folder / 'cache'),
      PYTHONPATH=str(provenance.ROOT),
    )
    subprocess.run(
      command,
      cwd=folder,
      check=True,
      timeout=600,
      capture_output=True,
      env=env,
    )
    run = workdir / 'free_bits_seed0'
    results = json.loads((run / 'results.json').read_text())
    self.assertGreater(results['frechet_classifier/kernel_density'], 0.0)
    report = (run / 'report.html').read_text()
    self.assertBetween(results['brightness/generator'], 0.0, 1.0)
    for name in ('free_bits', 'bars', 'kernel_density', 'brightness'):
      self.assertIn(name, report)
    tables = ''.join(path.read_text() for path in workdir.glob('*.md'))
    self.assertIn('free-bits VAE', tables)
    self.assertIn('brightness', tables)
    # the workdir alone is enough to evaluate again
    subprocess.run(
      (
        sys.executable,
        '-m',
        'ldc_vae.main',
        '--mode=sample',
        f'--workdir={run}',
        '--num_samples=4',
      ),
      cwd=folder,
      check=True,
      timeout=600,
      capture_output=True,
      env=env,
    )
    self.assertTrue((run / 'generated.npz').exists())


if __name__ == '__main__':
  absltest.main()
