"""A user's mistakes: each is told in one sentence, and nothing is lost."""

import contextlib
import hashlib
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Callable, NamedTuple
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax
import numpy as np
from PIL import Image

from ldc_vae import config as config_lib
from ldc_vae import experiment as experiment_lib
from ldc_vae import main
from ldc_vae.runtime import checkpoint
from ldc_vae.runtime import files
from tests.runtime import rights_case

_LASTING, _RUNTIME = 2, 1
_STEP = 24  # of the checkpoint in the trained workdir

_CONFIG = 'configs/digits.py:ldc,debug'
_VAE = 'configs/digits.py:vae,debug'
_IMAGES = 'configs/images.py:vae,debug'


class _Case(NamedTuple):
  """A mistake: what is there, what is typed, and what the answer says.

  `part` is the regular expression that the sentence must match: the field, flag
  or file with its value, and the remedy.
  """

  argv: tuple[str, ...]
  part: str
  code: int = _LASTING
  setup: Callable[[pathlib.Path], None] | None = None


def _train(*overrides, config=_CONFIG):
  return (f'--config={config}', '--workdir=w', *overrides)


def _set(field, value):
  return _train(f'--config.{field}={value}')


def _set_vae(field, value):
  return _train(f'--config.{field}={value}', config=_VAE)


def _file(name, content):
  def write(folder):
    (folder / name).write_text(content)
  return write


_FLAGS = {
    'nothing': _Case((), r'--config is missing; give a run file'),
    'empty_config': _Case(('--config=',), r'--config is missing; give'),
    'config_without_value': _Case(('--config',), r'config'),
    'unknown_flag': _Case(
        (f'--config={_CONFIG}', '--workdr=w'),
        r"Unknown command line flag 'workdr'\. Did you mean: workdir",
    ),
    'no_flag': _Case(
        (f'--config={_CONFIG}', 'train'), r"'train' is not a flag; see --help"
    ),
    'unknown_mode': _Case(
        (f'--config={_CONFIG}', '--mode=tarin'),
        r'--mode=tarin: unknown mode; known: train, evaluate, sample, compare',
    ),
    'no_samples': _Case(
        ('--mode=sample', '--workdir=trained', '--num_samples=0'),
        r'num_samples=0.* 1|num_samples=0.*positive',
    ),
    'many_samples': _Case(
        ('--mode=sample', '--workdir=trained', '--num_samples=many'),
        r'num_samples=many',
    ),
    'samples_of_training': _Case(
        (f'--config={_CONFIG}', '--num_samples=4'),
        r'--num_samples: read by --mode=sample only; leave it out of',
    ),
    'output_of_training': _Case(
        (f'--config={_CONFIG}', '--output=x.npz'),
        r'--output: read by --mode=sample only; leave it out of',
    ),
    'empty_workdir': _Case(
        (f'--config={_CONFIG}', '--workdir='), r'--workdir=: it is empty; give'
    ),
    'untrained_workdir': _Case(
        ('--mode=evaluate', '--workdir=nowhere'),
        r'--workdir=nowhere: no such folder; train it first',
    ),
    'workdir_of_another_host': _Case(
        ('--mode=evaluate', '--workdir=nowhere', '--process_id=1',
         '--num_processes=2', '--coordinator_address=localhost:1'),
        r'--workdir=nowhere: no such folder; process 1 must see the folder of'
        r' process 0',
    ),
    'workdir_too_long': _Case(
        (f'--config={_CONFIG}', f'--workdir={"x" * 300}'),
        r'--workdir=x+: it cannot be a folder \(File name too long\); give',
    ),
    'workdir_with_brackets': _Case(
        (f'--config={_CONFIG}', '--workdir=lr[0.1]/seed0'),
        r"--workdir=lr\[0.1\]/seed0: checkpoints cannot lie below '\[0.1\]'; g",
    ),
    'workdir_with_backslash': _Case(
        (f'--config={_CONFIG}', '--workdir=a\\b'),
        r'--workdir=a\\b: checkpoints cannot lie below .*; give another folder',
    ),
    'workdir_of_other_bytes': _Case(
        (f'--config={_CONFIG}', '--workdir=caf\udce9'),
        r'--workdir=caf.: its name is not UTF-8; give another folder',
    ),
    'workdir_of_a_bucket': _Case(
        (f'--config={_CONFIG}', '--workdir=gs://bucket/x'),
        r'--workdir=gs://bucket/x: not a local path; use one, or .* mounted',
    ),
    'workdir_of_a_bucket_to_compare': _Case(
        ('--config=configs/digits.py,debug', '--mode=compare',
         '--workdir=s3://bucket/x'),
        r'--workdir=s3://bucket/x: not a local path; use one',
    ),
    'output_of_a_bucket': _Case(
        ('--mode=sample', '--workdir=trained', '--output=gs://bucket/x.npz'),
        r'--output=gs://bucket/x.npz: not a local path; use one',
    ),
    'evaluate_without_workdir': _Case(
        ('--mode=evaluate',), r'--workdir is missing; --mode=evaluate needs'
    ),
}

_RUN_FILES = {
    'missing': _Case(
        ('--config=configs/digts.py',),
        r'--config=configs/digts.py: no such file \(did you mean'
        r' configs/digits.py\?\)',
    ),
    'a_folder': _Case(
        ('--config=mine',), r'--config=mine: a folder.*; available: configs/',
        setup=lambda folder: (folder / 'mine').mkdir(),
    ),
    'unknown_method': _Case(
        ('--config=configs/digits.py:lcd',),
        r"unknown method 'lcd' after the colon of --config; known:",
    ),
    'unknown_word': _Case(
        ('--config=configs/digits.py:ldc,debgu',), r"'ldc,debgu'.*,debug"
    ),
    'raises': _Case(
        ('--config=my.py',),
        r'--config=my.py: my.py, line 2, raised ZeroDivisionError',
        setup=_file('my.py', 'def get_config(arg):\n  return 1 / 0\n'),
    ),
    'of_a_long_name': _Case(
        (f'--config={"x" * 300}.py',),
        r'--config=x+.py cannot be read \(File name too long\); give a run f',
        _RUNTIME,
    ),
    'does_not_parse': _Case(
        ('--config=my.py',),
        r'--config=my.py: my.py, line 1, raised SyntaxError',
        setup=_file('my.py', 'def get_config(arg:\n'),
    ),
    'imports_nothing_known': _Case(
        ('--config=my.py',),
        r'my.py, line 1, raised ModuleNotFoundError.*notthere',
        setup=_file('my.py', 'import notthere\n'),
    ),
    'has_no_function': _Case(
        ('--config=my.py',), r'my.py.*does not define get_config\(arg\)',
        setup=_file('my.py', 'x = 1\n'),
    ),
    'returns_no_config': _Case(
        ('--config=my.py',), r'get_config returned dict, not a ConfigDict',
        setup=_file('my.py', 'def get_config(arg):\n  return {}\n'),
    ),
    'adds_a_field': _Case(
        ('--config=my.py',), r'my.py, line 4, raised \w+.*widht',
        setup=_file(
            'my.py',
            'from configs import default\ndef get_config(arg):\n'
            '  config = default.create(arg)\n  config.model.widht = 3\n'
            '  return config\n',
        ),
    ),
    'changes_a_type': _Case(
        ('--config=my.py',), r'my.py, line 4, raised TypeError.*batch_size',
        setup=_file(
            'my.py',
            'from configs import default\ndef get_config(arg):\n'
            '  config = default.create(arg)\n'
            "  config.train.batch_size = 'big'\n  return config\n",
        ),
    ),
}

_FIELDS = {
    'unknown': _Case(
        _set('optimizer.learning_rat', 1),
        r'--config.optimizer.learning_rat: no such field; did you mean'
        r' optimizer.learning_rate\?',
    ),
    'unknown_group': _Case(_set('zzz.qqq', 1), r'--config.zzz.qqq: no such'),
    'of_another_method': _Case(
        _set_vae('objective.num_particles', 4), r'no such field'
    ),
    'a_group': _Case(_set('train', 3), r'--config.train: a group of fields'),
    'method': _Case(_set('objective.name', 'vae'), r'after the colon'),
    'no_value': _Case(
        _train('--config.seed'), r'--config.seed: needs a value'
    ),
    'word_for_int': _Case(
        _set('train.batch_size', 'many'),
        r'--config.train.batch_size=many: not a whole number, as 32 is',
    ),
    'fraction_for_int': _Case(
        _set('train.batch_size', 1.5), r'batch_size=1.5: not a whole number'
    ),
    'word_for_float': _Case(
        _set('optimizer.learning_rate', 'fast'),
        r'learning_rate=fast: not a number, as 0.002 is',
    ),
    'word_for_bool': _Case(
        _set('dataset.binarize', 'maybe'), r'binarize=maybe: not a boolean'
    ),
    'word_in_tuple': _Case(
        _set('model.hidden_sizes', '(64,wide)'),
        r'hidden_sizes=\(64,wide\): not a tuple, each element a whole number',
    ),
    'word_in_tuple_of_seeds': _Case(
        _set('evaluate.classifier_seeds', '1,x'),
        r'classifier_seeds=1,x: not a tuple',
    ),
    'negative_in_tuple': _Case(
        _set('model.hidden_sizes', '(64,-1)'),
        r'hidden_sizes=\(64, -1\) does not hold; use a tuple of positive whole',
    ),
    'fraction_in_tuple': _Case(
        _set('model.hidden_sizes', '(64.5,32)'),
        r'hidden_sizes=\(64.5,32\): not a tuple, each element a whole number',
    ),
    'too_many_latents': _Case(
        _set('model.latent_size', 10**20),
        r'latent_size=100000000000000000000 is too large; use 2147483647 or l',
    ),
    'empty_tuple': _Case(_set('model.channels', '()'), r'channels=.*one or mo'),
    'seeds_twice': _Case(
        _set('evaluate.classifier_seeds', '1,1'),
        r'classifier_seeds=\(1, 1\).*use different whole numbers',
    ),
    'no_layer_for_the_noise': _Case(
        _train(
            '--config.model.hidden_sizes=()',
            config='configs/digits.py:stein_vae,debug',
        ),
        r'hidden_sizes=\(\) with config.model.encoder=.*implicit.* has no la',
    ),
    'negative_seed': _Case(_set('seed', -1), r'config.seed=-1 is outside \[0'),
    'huge_seed': _Case(_set('seed', 2**32), r'config.seed=4294967296 is outsi'),
    'nan': _Case(
        _set('optimizer.learning_rate', 'nan'), r'rate=nan is not finite'
    ),
    'inf': _Case(
        _set('optimizer.learning_rate', 'inf'), r'rate=inf is not finite'
    ),
    'no_step': _Case(
        _train('--config.train.num_epochs=0', '--config.train.num_steps=0'),
        r'num_epochs=0 with config.train.num_steps=0 trains for no step; make',
    ),
    'too_many_steps': _Case(
        _set_vae('train.num_steps', 2**31),
        r'train.num_steps=2147483648 is too large; use 2147483647 or less',
    ),
    'logged_too_seldom': _Case(
        _set_vae('train.log_every', 3 * 10**9),
        r'train.log_every=3000000000 is too large; use 2147483647 or less',
    ),
    'odd_micro_batches': _Case(
        _set('train.accumulate', 3),
        r'batch_size=32 with config.train.accumulate=3 does not divide; use a',
    ),
    'more_latents_than_particles': _Case(
        _set('objective.latents_per_image', 5),
        r'latents_per_image=5 with config.objective.num_particles=2 .*use num',
    ),
    'lone_particle_of_the_sampler': _Case(
        _train(
            '--config.train.batch_size=1',
            '--config.objective.latents_per_image=1',
        ),
        r'batch_size=1 with .*sampler_mass=2.0 gives a particle too few others'
        r' to feel; use a batch_size above sampler_mass \+ 1',
    ),
    'mass_of_more_than_a_batch': _Case(
        _set('objective.sampler_mass', 1000),
        r'batch_size=32 with .*sampler_mass=1000.0 .*use a batch_size above',
    ),
    'lone_particle': _Case(
        _train(
            '--config.objective.num_particles=1',
            '--config.objective.latents_per_image=1',
        ),
        r'num_particles=1 with .*off_diagonal=True .*use 2 particles or more',
    ),
    'field_of_an_earlier_version': _Case(
        _set('objective.latent_target', 'learned'),
        r'objective.latent_target: no such field',
    ),
    'implicit_vae': _Case(
        _set_vae('model.encoder', 'implicit'),
        r'encoder=implicit with config.objective.name=vae does not go',
    ),
    'whitened_implicit': _Case(
        _train(
            '--config.objective.whiten=true', '--config.model.encoder=implicit'
        ),
        r'whiten=True .*encoder=?.?implicit|encoder=implicit.*whiten',
    ),
    'scale_of_bernoulli': _Case(
        _train(
            '--config.model.learn_scale=true',
            '--config.model.likelihood=bernoulli',
        ),
        r'learn_scale=True .*use learn_scale=false',
    ),
    'binary_gaussian': _Case(
        _set('dataset.binarize', 'true'), r'binarize=True .*bernoulli'
    ),
    'path_of_digits': _Case(
        _set('dataset.path', 'x'), r'name=digits with config.dataset.path=x'
    ),
    'images_without_path': _Case(
        _train(config=_IMAGES), r"config.dataset.path='' .*path is the folder"
    ),
}

# Comparisons.

_DIGITS = 'configs/digits.py,debug'


def _compare(*flags, config=_DIGITS):
  return (f'--config={config}', '--mode=compare', '--workdir=w', *flags)


_COMPARISONS = {
    'no_config': _Case(('--mode=compare',), r'--config is missing; give a run'),
    'unknown_method': _Case(
        _compare('--methods=vae,lcd'),
        r"--methods=vae,lcd: unknown method 'lcd' \(did you mean ldc\?\);"
        r' known: ae, vae, ',
    ),
    'method_twice': _Case(
        _compare('--methods=vae,ldc,vae'), r'vae is there twice; name each'
    ),
    'no_method': _Case(_compare('--methods='), r"unknown method ''.*; known:"),
    'method_after_the_colon': _Case(
        _compare(config=_VAE),
        r'--config=configs/digits.py:vae,debug: .* from --methods; use'
        r' --config=configs/digits.py',
    ),
    'word_as_seed': _Case(
        _compare('--seeds=0,one'), r"--seeds=0,one: 'one' is no seed; use whole"
    ),
    'negative_seed': _Case(_compare('--seeds=-1'), r"'-1' is no seed; use who"),
    'huge_seed': _Case(_compare('--seeds=4294967296'), r'is no seed; use who'),
    'seed_twice': _Case(
        _compare('--seeds=1,2,1'), r'--seeds=1,2,1: 1 is there twice; name each'
    ),
    'no_seed': _Case(_compare('--seeds='), r"'' is no seed; use whole numbers"),
    'seed_of_the_config': _Case(
        _compare('--config.seed=3'),
        r'--config.seed: a comparison takes its seeds from --seeds; use that',
    ),
    'seed_of_a_method': _Case(
        _compare('--config.vae.seed=3'), r'--config.vae.seed: .* from --seeds'
    ),
    'field_of_some_methods': _Case(
        _compare('--config.objective.beta=2', '--methods=ldc,vae'),
        r'--config.objective.beta: of the compared methods only vae has this'
        r' field; set it .* as --config.vae.objective.beta=VALUE',
    ),
    'field_of_none': _Case(
        _compare('--config.objective.bta=2'),
        r'--config.objective.bta: no such field; did you mean objective.beta',
    ),
    'field_of_a_method_left_out': _Case(
        _compare('--config.vae.objective.beta=2', '--methods=ldc'),
        r'--config.vae.objective.beta: vae is not among --methods=ldc; add it',
    ),
    'value_out_of_range': _Case(
        _compare('--config.train.batch_size=0'), r'batch_size=0 .*use 1 or more'
    ),
    'a_judge_of_its_own': _Case(
        _compare('--config.vae.evaluate.split=validation'),
        r"config.evaluate.split is '\w+' for \w+ and '\w+' for \w+; compare",
        _LASTING,
    ),
    'no_job': _Case(_compare('--jobs=0'), r'jobs=0.* 1|jobs=0.*positive'),
    'many_jobs': _Case(
        _compare('--jobs=100000'),
        r'--jobs=100000 is more than the \d+ cores .*; use that many', _LASTING,
    ),
    'several_processes': _Case(
        _compare('--num_processes=2'),
        r'--num_processes: --mode=compare starts its runs by itself',
    ),
    'a_workdir_that_is_a_file': _Case(
        _compare('--methods=vae'), r'--workdir=w: it is a file; give a folder',
        setup=_file('w', ''),
    ),
    'a_batch_that_is_too_large': _Case(
        _compare('--methods=vae', '--config.train.batch_size=4000'),
        r'config.train.batch_size=4000 is more than the \d+ training images',
        _LASTING,
    ),
}
for _flag, _mode in (
    ('methods=vae', 'train'), ('seeds=0', 'sample'), ('jobs=2', 'evaluate')
):
  _COMPARISONS[f'{_flag}_of_{_mode}'] = _Case(
      (f'--config={_CONFIG}', f'--mode={_mode}', f'--{_flag}'),
      rf'--{_flag.partition("=")[0]}: read by --mode=compare only; leave it',
  )
_COMPARISONS['num_samples_of_compare'] = _Case(
    _compare('--num_samples=3'), r'--num_samples: read by --mode=sample only'
)


# Field, a value out of range, and how the remedy begins.
for _field, _value, _remedy in (
    ('train.batch_size', 0, 'use 1 or more'),
    ('train.batch_size', -4, 'use 1 or more'),
    ('train.accumulate', 0, 'use 1 or more'),
    ('train.num_steps', -5, 'use 0 or more'),
    ('train.num_epochs', -1, 'use 0 or more'),
    ('train.log_every', 0, 'use 1 or more'),
    ('train.checkpoint_every', -1, 'use 0 or more'),
    ('train.validate_every', -1, 'use 0 or more'),
    ('train.ema_decay', 1, 'use 0 <= value < 1'),
    ('optimizer.learning_rate', 0, 'use more than 0'),
    ('optimizer.learning_rate', -1, 'use more than 0'),
    ('optimizer.latent_learning_rate', 0, 'use more than 0'),
    ('optimizer.latent_final_fraction', 2, 'use a fraction'),
    ('optimizer.b1', 1, 'use 0 <= value < 1'),
    ('optimizer.b2', 1.5, 'use 0 <= value < 1'),
    ('optimizer.warmup_steps', -1, 'use 0 or more'),
    ('optimizer.weight_decay', -0.1, 'use 0 or more'),
    ('optimizer.clip_norm', -1, 'use 0 or more'),
    ('objective.inverse_temperature', 0, 'use more than 0'),
    ('objective.num_latent_updates', 0, 'use 1 or more'),
    ('objective.gradient_penalty', -1, 'use 0 or more'),
    ('objective.temperature_start', 0, 'use more than 0'),
    ('objective.temperature_end', 0, 'use more than 0'),
    ('objective.temperature_fraction', 1.5, 'use a fraction'),
    ('objective.moments_decay', -0.1, 'use 0 <= value < 1'),
    ('objective.bandwidth_factor', 0, 'use more than 0'),
    ('objective.sampler_mass', 0, 'use more than 0'),
    ('objective.sampler_mass', -2, 'use more than 0'),
    ('objective.bandwidth', 'wide', 'use expected, or a positive'),
    ('objective.bandwidth', 'mean', 'too wide; use expected, or a positive'),
    ('objective.bandwidth', 1e-40, 'use expected, or a positive'),
    ('model.latent_size', 0, 'use 1 or more'),
    ('model.sampler_blocks', 0, 'use 1 or more'),
    ('model.scale', 0, 'use more than 0'),
    ('dataset.num_validation', 0, 'use 1 or more'),
    ('dataset.image_size', -1, 'use 0 or more'),
    ('evaluate.batch_size', 0, 'use 1 or more'),
    ('evaluate.num_samples', 1, 'use 2 or more'),
    ('evaluate.importance_samples', -1, 'use 0 or more'),
    # unknown names, and the known one that is meant
    ('objective.kernel', 'rfb', r'did you mean rbf\?\); known: rbf, imq'),
    ('objective.sampler_kernel', 'gauss', 'known: rbf, imq'),
    # it has negative values
    ('objective.sampler_kernel', 'linear', 'known: rbf, imq, multi_scale'),
    ('model.likelihood', 'gausian', r'did you mean gaussian\?'),
    ('model.architecture', 'resnet', 'known: mlp, gated_mlp, conv, conv64'),
    ('model.convolution', 'patch', r'did you mean patches\?'),
    ('model.encoder', 'normal', 'known: gaussian, implicit'),
    ('model.dtype', 'float16', r'did you mean bfloat16\?|known: float32, bfl'),
    ('dataset.name', 'minst', r'did you mean mnist\?'),
    ('optimizer.schedule', 'cosin', r'did you mean cosine\?'),
    ('evaluate.samplers', 'prior,gmm', r"unknown sampler 'gmm'"),
    ('evaluate.checkpoint', 'newest', 'known: latest, best'),
    ('evaluate.split', 'train', 'known: test, validation'),
    ('train.non_finite', 'ignore', 'known: stop, skip'),
):
  _FIELDS[f'{_field}_{_value}'] = _Case(
      _set(_field, _value), rf'config.{_field}=.*{_remedy}'
  )
_FIELDS['objective.beta_-1'] = _Case(
    _set_vae('objective.beta', -1), r'config.objective.beta=-1.0 .*use 0 or'
)
_FIELDS['objective.kl_warmup_2'] = _Case(
    _set_vae('objective.kl_warmup', 2), r'kl_warmup=2.0 .*use a fraction of'
)
_FIELDS['objective.num_samples_0'] = _Case(
    _set_vae('objective.num_samples', 0), r'num_samples=0 .*use 1 or more'
)


# Data.


def _images_from(name, *overrides):
  return _train(f'--config.dataset.path={name}', *overrides, config=_IMAGES)


def _pictures(*sizes, mode='L', spoil=None):
  """Writes PNGs of some sizes into `pictures`; `spoil` changes one's bytes."""
  def write(folder):
    (folder / 'pictures').mkdir()
    for index, size in enumerate(sizes):
      each = mode[index] if isinstance(mode, tuple) else mode
      Image.new(each, size).save(folder / 'pictures' / f'{index}.png')
    if spoil is not None:
      path = folder / 'pictures' / '1.png'
      path.write_bytes(spoil(path.read_bytes()))
  return write


def _npy(make_fn, name='x.npy', **others):
  """Writes an array, or an .npz of several."""
  def write(folder):
    if name.endswith('.npy'):
      np.save(folder / name, make_fn())
    else:
      np.savez(folder / name, **(make_fn() | others))
  return write


def _float_image(value):
  images = np.zeros((40, 8, 8), np.float32)
  images[7, 3, 3] = value
  return images


def _truncated_npz(folder):
  np.savez(folder / 'x.npz', images=np.zeros((40, 8, 8), np.uint8))
  os.truncate(folder / 'x.npz', 300)


def _truncated_tfds(folder):
  """A prepared set whose description is whole and whose records are not."""
  path = folder / 'tfds' / 'mnist' / '3.0.1'
  path.mkdir(parents=True)
  splits = [
      {'name': name, 'shardLengths': ['10'], 'numBytes': '100',
       'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}'}
      for name in ('train', 'test')
  ]
  info = {'name': 'mnist', 'version': '3.0.1', 'splits': splits,
          'fileFormat': 'array_record'}
  (path / 'dataset_info.json').write_text(json.dumps(info))
  (path / 'features.json').write_text('{}')
  for name in ('train', 'test'):
    record = path / f'mnist-{name}.array_record-00000-of-00001'
    record.write_bytes(b'\0' * 50)


_uint8 = lambda *shape: np.zeros(shape, np.uint8)

_DATA = {
    'no_such_path': _Case(
        _images_from('nowhere'),
        r"dataset.path='nowhere' cannot be read \(No such file or directory;"
        r' looked for /.*\): name a folder',
    ),
    'empty_folder': _Case(
        _images_from('pictures'), r'pictures.* holds no PNG or JPEG file: name',
        _LASTING, _pictures(),
    ),
    'one_image': _Case(
        _images_from('pictures'), r'holds 1 image: .* need at least 3',
        _LASTING, _pictures((8, 8)),
    ),
    'corrupt_image': _Case(
        _images_from('pictures'),
        r'pictures/1.png cannot be decoded .*: remove or replace it', _LASTING,
        _pictures(*[(8, 8)] * 40, spoil=lambda data: data[: len(data) // 2]),
    ),
    'text_as_image': _Case(
        _images_from('pictures'), r'pictures/1.png cannot be decoded', _LASTING,
        _pictures(*[(8, 8)] * 40, spoil=lambda data: b'not a picture'),
    ),
    'mixed_sizes': _Case(
        _images_from('pictures'), r'0.png is 8x8 .*but .* 9x8 .*: set dataset'
        r'.image_size', _LASTING, _pictures(*[(8, 8)] * 39, (9, 8)),
    ),
    'mixed_colours': _Case(
        _images_from('pictures'), r'grey but .* colour: set dataset.num_ch',
        _LASTING, _pictures(*[(8, 8)] * 4, mode=('L', 'L', 'L', 'RGB')),
    ),
    'no_array_file': _Case(
        _images_from('x.txt'), r'x.txt. must be a folder, an .npz or an .npy',
        _LASTING, _file('x.txt', 'x'),
    ),
    'no_images_inside': _Case(
        _images_from('x.npz'), r'x.npz cannot be read .*none of them named im',
        _LASTING, _npy(lambda: {'a': _uint8(9, 8, 8), 'b': _uint8(2)}, 'x.npz'),
    ),
    'truncated_npz': _Case(
        _images_from('x.npz'), r'x.npz cannot be read .*: write it anew with',
        _LASTING, _truncated_npz,
    ),
    'pickled': _Case(
        _images_from('x.npy'), r'x.npy cannot be read as an array file',
        _LASTING, _npy(lambda: np.array([{}, {}], object)),
    ),
    'whole_numbers': _Case(
        _images_from('x.npy'), r'holds int32 images: convert them to uint8',
        _LASTING, _npy(lambda: np.zeros((40, 8, 8), np.int32)),
    ),
    'nan_pixel': _Case(
        _images_from('x.npy'), r'image 7 of .*x.npy holds NaN: .*in \[0, 1\]',
        _LASTING, _npy(lambda: _float_image(np.nan)),
    ),
    'inf_pixel': _Case(
        _images_from('x.npy'), r'image 7 of .*x.npy holds \[0, inf\]',
        _LASTING, _npy(lambda: _float_image(np.inf)),
    ),
    'pixels_to_255': _Case(
        _images_from('x.npy'), r'image 7 of .*holds \[0, 255\]: .*in \[0, 1\]',
        _LASTING, _npy(lambda: _float_image(255.0)),
    ),
    'negative_pixel': _Case(
        _images_from('x.npy'), r'image 7 of .*holds \[-1, 0\]',
        _LASTING, _npy(lambda: _float_image(-1.0)),
    ),
    'rank_2': _Case(
        _images_from('x.npy'), r'shape \(40, 64\): expected \[N, H, W\]',
        _LASTING, _npy(lambda: _uint8(40, 64)),
    ),
    'channels_first': _Case(
        _images_from('x.npy'), r'shape \(40, 3, 8, 8\): expected \[N, H, W\]',
        _LASTING, _npy(lambda: _uint8(40, 3, 8, 8)),
    ),
    'labels_of_others': _Case(
        _images_from('x.npz'), r'labels of .*shape \(3,\): expected .*\(40,\)',
        _LASTING,
        _npy(lambda: {'images': _uint8(40, 8, 8)}, 'x.npz',
             labels=np.zeros(3, int)),
    ),
    'too_small_to_judge': _Case(
        _images_from('x.npz', '--config.model.architecture=mlp'),
        r'images of 3x8 pixels are too small to classify; give .* no labels',
        _LASTING,
        _npy(lambda: {'images': _uint8(40, 3, 8)}, 'x.npz',
             labels=np.arange(40) % 2),
    ),
    'all_held_out': _Case(
        _images_from('x.npy', '--config.dataset.num_test=39'),
        r'num_test=39 .*leave none of the 40 images',
        _LASTING, _npy(lambda: _uint8(40, 8, 8)),
    ),
    'fewer_than_a_batch': _Case(
        _images_from('x.npy', '--config.model.architecture=mlp'),
        r'batch_size=32 is more than the 24 training images of images; lower',
        _LASTING, _npy(lambda: _uint8(30, 8, 8)),
    ),
    'no_image_at_all': _Case(
        _images_from('x.npy'), r'shape \(0, 8, 8, 1\): expected \[N, H, W\]',
        _LASTING, _npy(lambda: _uint8(0, 8, 8)),
    ),
    'negative_labels': _Case(
        _images_from('x.npz'), r'the labels of .* are int64 .*: expected integ',
        _LASTING,
        _npy(lambda: {'images': _uint8(40, 8, 8)}, 'x.npz',
             labels=np.full(40, -1)),
    ),
    'batch_of_odd_size': _Case(
        _set('train.batch_size', 30),
        r'batch_size=30 is not divisible by 4 devices; use a multiple',
        _LASTING,
    ),
    'micro_batches_of_odd_size': _Case(
        _set('train.accumulate', 16),
        r'accumulate=16 does not divide the 8 images of each of 4 .*; use',
        _LASTING,
    ),
    'more_than_all': _Case(
        _set('train.batch_size', 4096),
        r'batch_size=4096 is more than the \d+ training images', _LASTING,
    ),
    'not_prepared': _Case(
        _train('--config.dataset.data_dir=tfds',
               config='configs/mnist.py:vae,debug'),
        r'mnist is not prepared .*tfds and the network cannot be reached'
        r' .*; prepare it on a machine with a network', _RUNTIME,
    ),
    'truncated_records': _Case(
        _train('--config.dataset.data_dir=tfds',
               config='configs/mnist.py:vae,debug'),
        r'mnist in .*tfds/mnist/3.0.1 cannot be read .*: delete that folder',
        _RUNTIME, _truncated_tfds,
    ),
}


# What a run left.


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
  params['decoder'] = jax.tree.map(lambda x: x.at[0].set(np.nan),
                                   params['decoder'])
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
        r'--workdir=w: it is a file; give a folder', setup=_file('w', ''),
    ),
    'below_a_file': _Case(
        (f'--config={_CONFIG}', '--workdir=f/w'),
        r'--workdir=f/w: it cannot be a folder \(Not a directory\); give anoth',
        setup=_file('f', ''),
    ),
    'no_checkpoint': _Case(
        _EVALUATE, r'trained: it holds no checkpoint; train it first',
        setup=_trained(lambda path: shutil.rmtree(path / 'checkpoints')),
    ),
    'no_config': _Case(
        _EVALUATE, r'trained/config.json: no such file; give a --workdir that',
        setup=_trained(lambda path: (path / 'config.json').unlink()),
    ),
    'torn_config': _Case(
        _EVALUATE, r'trained/config.json: not valid JSON .*; restore it, or',
        setup=_trained(lambda path: os.truncate(path / 'config.json', 100)),
    ),
    'torn_config_of_training': _Case(
        _RESUME, r'trained/config.json: not valid JSON .*; restore it, or del',
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
        _RUNTIME, _trained(_replace_by_folder('config.json')),
    ),
    'config_of_training_is_a_folder': _Case(
        _RESUME,
        r'trained/config.json cannot be read \(Is a directory\); make it a fil',
        _RUNTIME, _trained(_replace_by_folder('config.json')),
    ),
    'config_of_nothing': _Case(
        _EVALUATE, r'trained/config.json: .* no group "config".*; restore it',
        setup=_trained(
            lambda path: (path / 'config.json').write_text('[]')
        ),
    ),
    'config_without_field': _Case(
        _EVALUATE, r'config.json: config.model.latent_size is missing',
        setup=_trained(_drop_field),
    ),
    'other_seed': _Case(
        (*_RESUME, '--config.seed=3'),
        r'trained holds a run with config.seed=0, not 3; use its config, or',
        _LASTING, _trained(),
    ),
    'other_method': _Case(
        (f'--config={_CONFIG}', '--workdir=trained'),
        r'trained holds a run with config.objective.name=vae, not ldc; use its',
        _LASTING, _trained(),
    ),
    'other_seed_to_evaluate': _Case(
        (*_EVALUATE, '--config.seed=3'),
        r'config.seed differs from trained/config.json; leave --config out',
        setup=_trained(),
    ),
    'other_architecture': _Case(
        (*_RESUME, '--config.model.latent_size=4'),
        r'holds a run with config.model.latent_size=8, not 4', _LASTING,
        _trained(),
    ),
    'config_of_another_run': _Case(
        _EVALUATE,
        r'trained/checkpoints holds a run with config.seed=0, not 5; use its',
        _LASTING, _trained(lambda path: _rewrite_config(path, seed=5)),
    ),
    'config_of_another_architecture': _Case(
        _EVALUATE,
        r'checkpoints.* has .*: float32\[.*\] where this run has float32\[.*;'
        r' use the config',
        _RUNTIME,
        _trained(lambda path: _rewrite_config(path, model__latent_size=4)),
    ),
    'lost_config_other_seed': _Case(
        (*_RESUME, '--config.seed=3'), r'holds a run with config.seed=0, not 3',
        _LASTING, _trained(lambda path: (path / 'config.json').unlink()),
    ),
    'corrupt_checkpoint': _Case(
        _EVALUATE,
        rf'no checkpoint in .*checkpoints verifies \({_STEP}: .*\); put a bac',
        _RUNTIME, _trained(_damage_all),
    ),
    'weights_that_are_nan': _Case(
        _EVALUATE,
        rf'checkpoints/{_STEP + 1} has numbers in decoder.* not finite; train',
        _RUNTIME, _trained(_poison),
    ),
    'corrupt_checkpoint_to_resume': _Case(
        _RESUME, r'no checkpoint in .*checkpoints verifies', _RUNTIME,
        _trained(_damage_all),
    ),
    'results_are_a_folder': _Case(
        _RESUME, r'results.json cannot be read \(Is a directory\)', _RUNTIME,
        _trained(_replace_by_folder('results.json')),
    ),
    'metrics_are_a_folder': _Case(
        (*_RESUME, '--config.train.log_every=4'),
        r'metrics.jsonl cannot be written \(Is a directory\)', _RUNTIME,
        _trained(lambda path: (
            _replace_by_folder('metrics.jsonl')(path),
            shutil.rmtree(path / 'checkpoints' / str(_STEP)),
        )),
    ),
    'checkpoints_are_a_file': _Case(
        _RESUME, r'checkpoint directory .* cannot be used .*a file has this na',
        _RUNTIME,
        _trained(lambda path: (
            shutil.rmtree(path / 'checkpoints'),
            (path / 'checkpoints').write_text(''),
        )),
    ),
    'output_in_no_folder': _Case(
        (*_SAMPLE, '--output=no/x.npz'),
        r'no/x.npz cannot be written \(No such file or directory\); create no',
        _RUNTIME, _trained(),
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
        (*_SAMPLE, '--output='), r'--output=: it is empty; give a path',
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
        setup=_trained(lambda path: (
            path.with_name('other').mkdir(),
            (path.with_name('other') / 'results.json').write_text('{}'),
        )),
    ),
    'grid_of_the_output_is_a_file': _Case(
        (*_SAMPLE, '--output=cat.npz'),
        r'--output=cat.npz: the grid beside it would replace cat.png; give an',
        setup=_trained(lambda path: path.with_name('cat.png').touch()),
    ),
    'output_has_no_room': _Case(
        (*_SAMPLE, '--output=x.npz', '--num_samples=100000000000'),
        r'--num_samples=100000000000 makes [\d,]+ bytes, .*: draw fewer',
        setup=_trained(),
    ),
    'output_is_a_folder': _Case(
        (*_SAMPLE, '--output=x.npz'),
        r'x.npz cannot be written \(Is a directory\)', _RUNTIME,
        _trained(lambda path: path.with_name('x.npz').mkdir()),
    ),
}

_shared = {}


def setUpModule():
  """A workdir as training leaves it, but that the weights are the first."""
  folder = tempfile.TemporaryDirectory()
  _shared['folder'] = folder
  _shared['trained'] = workdir = pathlib.Path(folder.name) / 'trained'
  workdir.mkdir()
  config = config_lib.load(_VAE)
  files.write_json(workdir / 'config.json', config_lib.to_json(config))
  files.write_json(workdir / 'results.json', {'step': _STEP})
  (workdir / 'metrics.jsonl').write_text('{"step": 24, "train/loss": 1.0}\n')
  with checkpoint.Checkpointer(workdir / 'checkpoints') as checkpointer:
    checkpointer.save(
        _STEP, experiment_lib.create(config).init_state(), metrics={},
        meta={'config': config.to_dict()},
    )


def tearDownModule():
  _shared['folder'].cleanup()


def _tree(folder):
  """Every name below a folder, with a digest of what it holds."""
  return {
      path.relative_to(folder).as_posix(): (
          hashlib.sha256(path.read_bytes()).hexdigest()
          if path.is_file() else 'a folder'
      )
      for path in folder.rglob('*')
  }


class _BadInputTest(parameterized.TestCase):

  def setUp(self):
    super().setUp()
    outer = pathlib.Path(
        self.enter_context(tempfile.TemporaryDirectory())
    ).resolve()
    self.folder = outer / 'here'
    self.folder.mkdir()
    self.enter_context(contextlib.chdir(self.folder))
    self.enter_context(mock.patch.dict(
        os.environ,
        LDC_VAE_CACHE=str(outer / 'cache'),
        HTTPS_PROXY='http://127.0.0.1:9', HTTP_PROXY='http://127.0.0.1:9',
        https_proxy='http://127.0.0.1:9', http_proxy='http://127.0.0.1:9',
    ))
    for name in ('LDC_VAE_TRACEBACK', 'TFDS_DATA_DIR'):
      os.environ.pop(name, None)
    self.enter_context(mock.patch.object(jax.config, 'update'))

  def check(self, case):
    """The case is answered as it says, and changes no file."""
    if case.setup is not None:
      case.setup(self.folder)
    before = _tree(self.folder)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
      code = main.main(case.argv)
    self.assert_answer(case, code, out.getvalue(), err.getvalue())
    self.assertEqual(_tree(self.folder), before)

  def assert_answer(self, case, code, out, err):
    """One sentence, which begins with 'error: ' and ends the output."""
    self.assertEqual(code, case.code, err)
    self.assertEmpty(out)
    lines = err.splitlines()
    self.assertStartsWith(lines[-1], 'error: ')
    self.assertLen([x for x in lines if x.startswith('error: ')], 1)
    self.assertRegex(lines[-1], case.part)
    self.assertNotIn('Traceback', err)
    self.assertNotIn('LDC_VAE_TRACEBACK', err)  # said of errors not our own


class FlagsTest(_BadInputTest):

  @parameterized.named_parameters(*_FLAGS.items())
  def test_told(self, case):
    self.check(case)


class RunFilesTest(_BadInputTest):

  @parameterized.named_parameters(*_RUN_FILES.items())
  def test_told(self, case):
    self.check(case)


class FieldsTest(_BadInputTest):

  @parameterized.named_parameters(*_FIELDS.items())
  def test_told(self, case):
    self.check(case)


class ComparisonsTest(_BadInputTest):

  @parameterized.named_parameters(*_COMPARISONS.items())
  def test_told(self, case):
    self.check(case)


class DataTest(_BadInputTest):

  @parameterized.named_parameters(*_DATA.items())
  def test_told(self, case):
    self.check(case)

  def test_a_missing_network_is_told_within_5_seconds(self):
    start = time.monotonic()
    self.check(_DATA['not_prepared'])
    self.assertLess(time.monotonic() - start, 5.0)

  def test_an_unprepared_environment_is_told(self):
    os.environ['TFDS_DATA_DIR'] = str(self.folder / 'nowhere')
    self.check(_Case(
        _train(config='configs/mnist.py:vae,debug'),
        r'not prepared .*here/nowhere or .*cache/tfds and the network',
        _RUNTIME,
    ))

  def test_a_cache_that_is_a_file_is_told(self):
    _file('cache', '')(self.folder)
    os.environ['LDC_VAE_CACHE'] = str(self.folder / 'cache')
    for argv in (_train(), _RESUME):
      self.check(_Case(
          argv, r'LDC_VAE_CACHE=.*here/cache: .*; set it to a folder that can'
      ))


class WorkdirsTest(_BadInputTest):

  @parameterized.named_parameters(*_WORKDIRS.items())
  def test_told(self, case):
    self.check(case)

  @parameterized.parameters(
      ('.lock', 'in use', _RESUME),
      ('.evaluation.lock', 'being evaluated', _EVALUATE),
  )
  def test_a_workdir_in_use_is_told(self, name, use, argv):
    _trained()(self.folder)
    program = (
        'import sys; from ldc_vae.runtime import lock\n'
        f'with lock.lock_workdir("trained", "{name}"):\n'
        '  print("locked", flush=True); sys.stdin.read()'
    )
    with subprocess.Popen(
        (sys.executable, '-c', program), text=True,
        env=dict(os.environ, PYTHONPATH=str(config_lib.ROOT)),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as holder:
      self.assertEqual(holder.stdout.readline(), 'locked\n')
      self.check(_Case(
          argv, rf'trained is {use} by process {holder.pid} on', _RUNTIME
      ))
      holder.stdin.close()

  @parameterized.parameters(_RESUME, _EVALUATE, _SAMPLE)
  def test_a_workdir_that_is_read_only_is_told(self, *argv):
    _trained()(self.folder)
    (self.folder / 'trained').chmod(0o555)
    (self.folder.parent / 'cache').mkdir()
    (self.folder.parent / 'cache').chmod(0o777)
    self.enter_context(rights_case.as_nobody(self.folder))
    self.check(_Case(argv, r'trained.* cannot be \w+ \(Permission', _RUNTIME))

  def test_a_disk_that_fills_up_is_told_and_the_last_checkpoint_is_whole(self):
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
        _Case((), r'cannot be written|could not be saved', _RUNTIME), code,
        out.getvalue(), err.getvalue(),
    )
    self.assertRegex(err.getvalue(), r'\(No space left on device\); free some')
    self.assertNotEmpty(checkpoint.verify(workdir / 'checkpoints'))
    for each in checkpoint.verify(workdir / 'checkpoints'):
      self.assertTrue(each.ok, each.reason)


class CommandTest(_BadInputTest):
  """The same through a process of its own."""

  def command(self, case, **env):
    before = _tree(self.folder)
    result = subprocess.run(
        (sys.executable, '-m', 'ldc_vae.main', *case.argv),
        env=dict(os.environ, PYTHONPATH=str(config_lib.ROOT), **env),
        capture_output=True, text=True, check=False,
    )
    self.assert_answer(case, result.returncode, result.stdout, result.stderr)
    self.assertEqual(_tree(self.folder), before)

  def test_a_flag(self):
    self.command(_FLAGS['unknown_flag'])

  def test_a_batch_for_other_devices(self):
    self.command(_DATA['batch_of_odd_size'])

  def test_a_platform_that_is_not_there(self):
    self.command(
        _Case(_train(), r'JAX_PLATFORMS=abacus: .*unset it', _RUNTIME),
        JAX_PLATFORMS='abacus',
    )


if __name__ == '__main__':
  absltest.main()
