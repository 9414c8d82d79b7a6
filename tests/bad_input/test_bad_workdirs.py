"""Mistakes in a workdir: none, another run, damage, no room."""

import contextlib
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np

from ldc_vae import config as config_lib
from ldc_vae import experiment as experiment_lib
from ldc_vae import main
from ldc_vae.runtime import checkpoint
from ldc_vae.runtime import checkpoint_folder
from ldc_vae.runtime import provenance
from tests.bad_input import bad_input_case
from tests.runtime import rights_case

_CONFIG = bad_input_case.CONFIG
_Case = bad_input_case.Case
_LASTING = bad_input_case.LASTING
_RUNTIME = bad_input_case.RUNTIME
_VAE = bad_input_case.VAE
_file = bad_input_case.write_file
_train = bad_input_case.train_argv
_STEP = bad_input_case.STEP


def _trained(change_fn=None):
  """Puts a trained workdir in place, changed by `change_fn(workdir)`."""

  def copy(folder):
    shutil.copytree(_shared['trained'], folder / 'trained')
    if change_fn is not None:
      change_fn(folder / 'trained')

  return copy


def _rewrite_config(path, **fields):
  record = json.loads((path / 'config.json').read_text())
  for name, value in fields.items():
    group, _, leaf = name.partition('__')
    if leaf:
      record['config'][group][leaf] = value
    else:
      record['config'][group] = value
  (path / 'config.json').write_text(json.dumps(record))


def _damage_all(path):
  for each in path.glob('checkpoints/*/state/d/*'):
    data = bytearray(each.read_bytes())
    data[len(data) // 2] ^= 1
    each.write_bytes(data)


def _drop_field(path):
  record = json.loads((path / 'config.json').read_text())
  del record['config']['model']['latent_size']
  (path / 'config.json').write_text(json.dumps(record))


def _replace_by_folder(name):
  def replace(path):
    (path / name).unlink(missing_ok=True)
    (path / name).mkdir()
    (path / name / 'x').write_text('')

  return replace


def _poison(path):
  """Saves weights with a NaN, as an older program may have done."""
  config = config_lib.read(path)
  state = experiment_lib.create(config).init_state()
  params = state.ema_params
  params['decoder'] = jax.tree.map(
    lambda x: x.at[0].set(np.nan), params['decoder']
  )
  with checkpoint.Checkpointer(path / 'checkpoints') as checkpointer:
    checkpointer.save(
      _STEP + 1, state, metrics={}, meta={'config': config.to_dict()}
    )


_EVALUATE = ('--mode=evaluate', '--workdir=trained')
_SAMPLE = ('--mode=sample', '--workdir=trained')
_RESUME = (f'--config={_VAE}', '--workdir=trained')
_WORKDIRS = {
  'a_file': _Case(
    (f'--config={_CONFIG}', '--workdir=w'),
    r'--workdir=w: it is a file; give a folder',
    setup=_file('w', ''),
  ),
  'below_a_file': _Case(
    (f'--config={_CONFIG}', '--workdir=f/w'),
    r'--workdir=f/w: it cannot be a folder \(Not a directory\); give anoth',
    setup=_file('f', ''),
  ),
  'no_checkpoint': _Case(
    _EVALUATE,
    r'trained: it holds no checkpoint; train it first',
    setup=_trained(lambda path: shutil.rmtree(path / 'checkpoints')),
  ),
  'no_config': _Case(
    _EVALUATE,
    r'trained/config.json: no such file; give a --workdir that',
    setup=_trained(lambda path: (path / 'config.json').unlink()),
  ),
  'torn_config': _Case(
    _EVALUATE,
    r'trained/config.json: not valid JSON .*; restore it, or',
    setup=_trained(lambda path: os.truncate(path / 'config.json', 100)),
  ),
  'torn_config_of_training': _Case(
    _RESUME,
    r'trained/config.json: not valid JSON .*; restore it, or del',
    _LASTING,
    _trained(lambda path: os.truncate(path / 'config.json', 100)),
  ),
  'of_a_long_name': _Case(
    ('--mode=evaluate', f'--workdir={"w" * 300}'),
    r'--workdir=w+: it cannot be a folder \(File name too long\); give an',
  ),
  'config_is_a_folder': _Case(
    _EVALUATE,
    r'trained/config.json cannot be read \(Is a directory\); make it a fil',
    _RUNTIME,
    _trained(_replace_by_folder('config.json')),
  ),
  'config_of_training_is_a_folder': _Case(
    _RESUME,
    r'trained/config.json cannot be read \(Is a directory\); make it a fil',
    _RUNTIME,
    _trained(_replace_by_folder('config.json')),
  ),
  'config_of_nothing': _Case(
    _EVALUATE,
    r'trained/config.json: .* no group "config".*; restore it',
    setup=_trained(lambda path: (path / 'config.json').write_text('[]')),
  ),
  'config_without_field': _Case(
    _EVALUATE,
    r'config.json: config.model.latent_size is missing; restore it, or delet',
    setup=_trained(_drop_field),
  ),
  'other_seed': _Case(
    (*_RESUME, '--config.seed=3'),
    r'trained holds a run with config.seed=0, not 3; use its config, or',
    _LASTING,
    _trained(),
  ),
  'other_method': _Case(
    (f'--config={_CONFIG}', '--workdir=trained'),
    r'trained holds a run with config.method.name=vae, not ldc; use its',
    _LASTING,
    _trained(),
  ),
  'other_seed_to_evaluate': _Case(
    (*_EVALUATE, '--config.seed=3'),
    r'config.seed differs from trained/config.json; leave --config out',
    setup=_trained(),
  ),
  'other_architecture': _Case(
    (*_RESUME, '--config.model.latent_size=4'),
    r'holds a run with config.model.latent_size=8, not 4',
    _LASTING,
    _trained(),
  ),
  'config_of_another_run': _Case(
    _EVALUATE,
    r'trained/checkpoints holds a run with config.seed=0, not 5; use its',
    _LASTING,
    _trained(lambda path: _rewrite_config(path, seed=5)),
  ),
  'config_of_another_architecture': _Case(
    _EVALUATE,
    r'checkpoints.* has .*: float32\[.*\] where this run has float32\[.*;'
    r' use the config',
    _RUNTIME,
    _trained(lambda path: _rewrite_config(path, model__latent_size=4)),
  ),
  'lost_config_other_seed': _Case(
    (*_RESUME, '--config.seed=3'),
    r'holds a run with config.seed=0, not 3',
    _LASTING,
    _trained(lambda path: (path / 'config.json').unlink()),
  ),
  'corrupt_checkpoint': _Case(
    _EVALUATE,
    rf'^error: every checkpoint in [^ ]*/trained/checkpoints is damaged'
    rf' \({_STEP}: [\w.]+ (cannot be read from state/d/\w+|does not match its'
    r' digest)(; [^()]*)?\); put a backup in'
    ' its place, or remove the directory to train from the start$',
    _LASTING,
    _trained(_damage_all),
  ),
  'weights_that_are_nan': _Case(
    _EVALUATE,
    rf'checkpoints/{_STEP + 1} has numbers in decoder.* not finite; train',
    _RUNTIME,
    _trained(_poison),
  ),
  'corrupt_checkpoint_to_resume': _Case(
    _RESUME,
    r'every checkpoint in .*checkpoints is damaged \(',
    _LASTING,
    _trained(_damage_all),
  ),
  'results_are_a_folder': _Case(
    _RESUME,
    r'results.json cannot be read \(Is a directory\)',
    _RUNTIME,
    _trained(_replace_by_folder('results.json')),
  ),
  'metrics_are_a_folder': _Case(
    (*_RESUME, '--config.train.log_every=4'),
    r'metrics.jsonl cannot be written \(Is a directory\)',
    _RUNTIME,
    _trained(
      lambda path: (
        _replace_by_folder('metrics.jsonl')(path),
        shutil.rmtree(path / 'checkpoints' / str(_STEP)),
      )
    ),
  ),
  'checkpoints_are_a_file': _Case(
    _RESUME,
    r'checkpoint directory .* cannot be used .*a file has this na',
    _RUNTIME,
    _trained(
      lambda path: (
        shutil.rmtree(path / 'checkpoints'),
        (path / 'checkpoints').write_text(''),
      )
    ),
  ),
  'output_in_no_folder': _Case(
    (*_SAMPLE, '--output=no/x.npz'),
    r'no/x.npz cannot be written \(No such file or directory\); create no',
    _RUNTIME,
    _trained(),
  ),
  'output_is_the_grid': _Case(
    (*_SAMPLE, '--output=x.png'),
    r'--output=x.png: not the name of an .npz file; give one that ends in',
    setup=_trained(),
  ),
  'output_is_the_config': _Case(
    (*_SAMPLE, '--output=trained/config.json'),
    r'--output=trained/config.json: not the name of an .npz file; give one',
    setup=_trained(),
  ),
  'output_is_nothing': _Case(
    (*_SAMPLE, '--output='),
    r'--output=: it is empty; give a path',
    setup=_trained(),
  ),
  'output_is_of_the_evaluation': _Case(
    (*_SAMPLE, '--output=trained/../trained/samples.npz'),
    r'--output=trained/../trained/samples.npz: the samples that a run was'
    r' evaluated with are there; give another name',
    setup=_trained(),
  ),
  'output_is_of_another_evaluation': _Case(
    (*_SAMPLE, '--output=other/samples.npz'),
    r'--output=other/samples.npz: the samples that a run was evaluated wit',
    setup=_trained(
      lambda path: (
        path.with_name('other').mkdir(),
        (path.with_name('other') / 'results.json').write_text('{}'),
      )
    ),
  ),
  'grid_of_the_output_is_a_file': _Case(
    (*_SAMPLE, '--output=cat.npz'),
    r'--output=cat.npz: the grid beside it would replace cat.png; give an',
    setup=_trained(lambda path: path.with_name('cat.png').touch()),
  ),
  'output_has_no_room': _Case(
    (*_SAMPLE, '--output=x.npz', '--num_samples=100000000000'),
    r'--num_samples=100000000000 makes [\d,.]+ GB, .*; draw fewer',
    setup=_trained(),
  ),
  'output_is_a_folder': _Case(
    (*_SAMPLE, '--output=x.npz'),
    r'x.npz cannot be written \(Is a directory\)',
    _RUNTIME,
    _trained(lambda path: path.with_name('x.npz').mkdir()),
  ),
}
_shared = {}


def setUpModule():
  folder = tempfile.TemporaryDirectory()
  _shared['folder'] = folder
  _shared['trained'] = pathlib.Path(folder.name) / 'trained'
  bad_input_case.make_trained(_shared['trained'])


def tearDownModule():
  _shared['folder'].cleanup()


class WorkdirsTest(bad_input_case.BadInputTest):
  @parameterized.named_parameters(*_WORKDIRS.items())
  def test_reported(self, case):
    self.check(case)

  @parameterized.parameters(
    ('.lock', 'in use', _RESUME),
    ('.evaluation.lock', 'being evaluated', _EVALUATE),
  )
  def test_a_workdir_in_use_is_reported(self, name, use, argv):
    _trained()(self.folder)
    program = (
      'import sys; from ldc_vae.runtime import lock\n'
      f'with lock.lock_workdir("trained", "{name}"):\n'
      '  print("locked", flush=True); sys.stdin.read()'
    )
    with subprocess.Popen(
      (sys.executable, '-c', program),
      text=True,
      env=dict(os.environ, PYTHONPATH=str(provenance.ROOT)),
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
    ) as holder:
      self.assertEqual(holder.stdout.readline(), 'locked\n')
      self.check(
        _Case(argv, rf'trained is {use} by process {holder.pid} on', _RUNTIME)
      )
      holder.stdin.close()

  @parameterized.parameters(_RESUME, _EVALUATE, _SAMPLE)
  def test_a_workdir_that_is_read_only_is_reported(self, *argv):
    _trained()(self.folder)
    (self.folder / 'trained').chmod(0o555)
    (self.folder.parent / 'cache').mkdir()
    (self.folder.parent / 'cache').chmod(0o777)
    self.enter_context(rights_case.as_nobody(self.folder))
    self.check(_Case(argv, r'trained.* cannot be \w+ \(Permission', _RUNTIME))

  def test_a_disk_that_fills_up_is_reported_and_the_last_checkpoint_is_whole(
    self,
  ):
    size = sum(x.stat().st_size for x in _shared['trained'].rglob('*'))
    workdir = self.folder / 'w'
    workdir.mkdir()
    # room for one and a half: moments that are not zero double a checkpoint
    options = ('-t', 'tmpfs', '-o', f'size={3 * size}', 'tmpfs')
    mounted = subprocess.run(
      ('mount', *options, workdir), capture_output=True, check=False
    )
    if mounted.returncode:
      self.skipTest('only root mounts a disk of its own')
    self.addCleanup(subprocess.run, ('umount', '-l', workdir), check=True)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
      code = main.main((*_train(config=_VAE), '--config.train.log_every=1'))
    self.assert_answer(
      _Case((), r'cannot be written|could not be saved', _RUNTIME),
      code,
      out.getvalue(),
      err.getvalue(),
    )
    self.assertRegex(err.getvalue(), r'\(No space left on device\); free some')
    self.assertNotEmpty(checkpoint_folder.verify(workdir / 'checkpoints'))
    for each in checkpoint_folder.verify(workdir / 'checkpoints'):
      self.assertTrue(each.ok, each.reason)


if __name__ == '__main__':
  absltest.main()
