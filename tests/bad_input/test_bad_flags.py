"""Mistakes in flags and in run files."""

import os
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import jax

from tests.bad_input import bad_input_case

_CONFIG = bad_input_case.CONFIG
_Case = bad_input_case.Case
_RUNTIME = bad_input_case.RUNTIME
_file = bad_input_case.write_file
_train = bad_input_case.train_argv
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
  'endless_flag': _Case(
    (f'--{"x" * 5000}',), r'^error: .--x+\.\.\.x+. is not a flag; see --help'
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
    r'--output: read by --mode=sample and --mode=encode and --mode=export only',
  ),
  'encode_without_images': _Case(
    ('--mode=encode', '--workdir=trained'),
    r'--images is missing; give a folder of images, an .npz or an .npy file',
  ),
  'images_of_sample': _Case(
    ('--mode=sample', '--workdir=trained', '--images=x'),
    r'--images: read by --mode=encode only; leave it out of --mode=sample',
  ),
  'no_flagfile': _Case(
    ('--flagfile=no.txt',),
    r'--flagfile=no.txt cannot be read \(No such file .*one argument in each',
  ),
  'flagfile_without_value': _Case(
    ('--flagfile',), r'--flagfile cannot be read .*no argument.*; give a text'
  ),
  'flagfile_of_other_bytes': _Case(
    ('--flagfile=f',),
    r'--flagfile cannot be read .*decode.*; give a text file',
    setup=lambda folder: (folder / 'f').write_bytes(b'\xff\xfe-'),
  ),
  'field_of_a_flagfile': _Case(
    ('--flagfile=f', f'--config={_CONFIG}'),
    r'--config.sead: no such field; did you mean seed',
    setup=_file('f', '--config.sead=3\n'),
  ),
  'empty_workdir': _Case(
    (f'--config={_CONFIG}', '--workdir='), r'--workdir=: it is empty; give'
  ),
  'untrained_workdir': _Case(
    ('--mode=evaluate', '--workdir=nowhere'),
    r'--workdir=nowhere: no such folder; train it first',
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
  'workdir_of_a_whole_bucket': _Case(
    (f'--config={_CONFIG}', '--workdir=gs://bucket'),
    r'--workdir=gs://bucket: give a folder of a bucket, as gs://bucket/run',
  ),
  'workdir_of_an_unknown_storage': _Case(
    (f'--config={_CONFIG}', '--workdir=ftp://host/x'),
    r'--workdir=ftp://host/x: neither a local path .* gs://, s3://, file://',
  ),
  'workdir_of_a_bucket_to_compare': _Case(
    (
      '--config=configs/digits.py,debug',
      '--mode=compare',
      '--workdir=s3://bucket/x',
    ),
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
    r'--config=configs/digts.py: there is no such file; did you mean dig',
  ),
  'a_folder': _Case(
    ('--config=mine',),
    r'--config=mine: this is a folder; give a path',
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
    r'--config=my.py: .*my.py, line 2, raised ZeroDivisionError',
    setup=_file('my.py', 'def get_config(arg):\n  return 1 / 0\n'),
  ),
  'of_a_long_name': _Case(
    (f'--config={"x" * 300}.py',),
    r'--config=x+.py cannot be read \(File name too long\); give a run f',
    _RUNTIME,
  ),
  'does_not_parse': _Case(
    ('--config=my.py',),
    r'--config=my.py: .*my.py, line 1, raised SyntaxError',
    setup=_file('my.py', 'def get_config(arg:\n'),
  ),
  'imports_nothing_known': _Case(
    ('--config=my.py',),
    r'my.py, line 1, raised ModuleNotFoundError.*notthere',
    setup=_file('my.py', 'import notthere\n'),
  ),
  'has_no_function': _Case(
    ('--config=my.py',),
    r'my.py.*does not define get_config\(arg\)',
    setup=_file('my.py', 'x = 1\n'),
  ),
  'returns_no_config': _Case(
    ('--config=my.py',),
    r'get_config returned dict, not a ConfigDict',
    setup=_file('my.py', 'def get_config(arg):\n  return {}\n'),
  ),
  'adds_a_field': _Case(
    ('--config=my.py',),
    r'my.py, line 4, raised \w+.*widht',
    setup=_file(
      'my.py',
      'from ldc_vae.configs import default\ndef get_config(arg):\n'
      '  config = default.create(arg)\n  config.model.widht = 3\n'
      '  return config\n',
    ),
  ),
  'changes_a_type': _Case(
    ('--config=my.py',),
    r'my.py, line 4, raised TypeError.*batch_size',
    setup=_file(
      'my.py',
      'from ldc_vae.configs import default\ndef get_config(arg):\n'
      '  config = default.create(arg)\n'
      "  config.train.batch_size = 'big'\n  return config\n",
    ),
  ),
}


class FlagsTest(bad_input_case.BadInputTest):
  @parameterized.named_parameters(*_FLAGS.items())
  def test_reported(self, case):
    self.check(case)

  def test_reported_by_a_process(self):
    self.command(_FLAGS['unknown_flag'])

  @parameterized.parameters(
    (
      {'JAX_PLATFORMS': 'abacus'},
      r'JAX_PLATFORMS=abacus: no .*known backends.*; unset JAX_PLATFORMS, or',
    ),
    (
      {'JAX_PLATFORM_NAME': 'cuda', 'JAX_PLATFORMS': ''},
      r'JAX_PLATFORM_NAME=cuda: .*Unknown .*; unset JAX_PLATFORM_NAME, or',
    ),
    (
      {'JAX_ENABLE_X64': '1'},
      r'JAX_ENABLE_X64=1: runs and .* float32; unset JAX_ENABLE_X64',
    ),
    (
      {'LC_ALL': 'C', 'PYTHONUTF8': '0'},
      r'--workdir=\xe9: its name is not ASCII, which .*; set PYTHONUTF8=1, or',
    ),
  )
  def test_told_of_the_environment(self, env, part):
    argv = ('--config=configs/digits.py:vae,debug', '--workdir=\xe9')
    self.command(_Case(argv, part), **env)

  @absltest.skipIf(os.path.exists('/dev/nvidia0'), 'this machine has a GPU')
  def test_a_gpu_that_is_not_there(self):
    self.command(
      _Case(
        _train(),
        r'JAX_PLATFORMS=cuda: no device can be used \(this machine has none of'
        r' this platform\); unset JAX_PLATFORMS, or install',
      ),
      JAX_PLATFORMS='cuda',
    )

  def test_a_device_in_use_may_be_free_later(self):
    error = RuntimeError("Unable to initialize backend 'tpu': UNAVAILABLE: x")
    with (
      mock.patch.object(jax, 'devices', side_effect=error),
      mock.patch.dict(os.environ, JAX_PLATFORMS=''),
    ):
      self.check(_Case(_train(), 'jax: no device .*set JAX_PL', _RUNTIME))


class RunFilesTest(bad_input_case.BadInputTest):
  @parameterized.named_parameters(*_RUN_FILES.items())
  def test_reported(self, case):
    self.check(case)


if __name__ == '__main__':
  absltest.main()
