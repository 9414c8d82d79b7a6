"""Tests of ldc_vae.config: loading, overriding, comparing, recording."""

import contextlib
import json

from absl.testing import absltest
from absl.testing import parameterized
from ml_collections import config_dict

from ldc_vae import config as config_lib
from ldc_vae import errors
from ldc_vae import methods
from ldc_vae import run_files
from ldc_vae.configs import default
from tests import config_case


class LoadTest(config_case.FileTestCase):
  def test_reads_the_run_file(self):
    config = config_lib.load(self.run_file())
    self.assertEqual(config.model.latent_size, 4)
    self.assertEqual(config.method.name, 'ldc')
    self.assertFalse(config.debug)

  @parameterized.parameters(
    (':vae', 'vae', False),
    (':vae,debug', 'vae', True),
    (':debug', 'ldc', True),
    (',debug', 'ldc', True),
  )
  def test_the_word_after_the_colon_chooses(self, suffix, method, debug):
    config = config_lib.load(self.run_file() + suffix)
    self.assertEqual(config.method.name, method)
    self.assertEqual(config.debug, debug)

  def test_result_is_locked(self):
    config = config_lib.load(self.run_file())
    with self.assertRaises((AttributeError, KeyError)):
      config.model.unheard_of = 1

  def test_a_file_is_found_from_any_folder(self):
    message = self.message_of(config_lib.load, 'configs/default.py')
    self.assertIn('does not define get_config', message)  # so it was read

  def test_a_missing_file_is_reported(self):
    message = self.message_of(config_lib.load, 'configs/nothing_like_it.py')
    self.assertStartsWith(
      message, '--config=configs/nothing_like_it.py: there is no such file'
    )
    self.assertIn('digits', message)

  def test_a_folder_is_reported(self):
    message = self.message_of(config_lib.load, str(self.folder))
    self.assertIn('a folder', message)

  def test_an_unknown_method_is_reported(self):
    message = self.message_of(config_lib.load, self.run_file() + ':vea')
    self.assertIn("'vea'", message)
    self.assertIn(', '.join(sorted(methods.METHODS)), message)

  @parameterized.named_parameters(
    ('syntax', 'x = (', 'SyntaxError'),
    ('name', '\n\nfoo.bar = 1', 'line 3, raised NameError'),
    ('no_function', 'x = 1', 'does not define get_config'),
    ('wrong_type', 'def get_config(arg):\n  return {}', 'returned dict'),
    (
      'unknown_field',
      config_case.RUN_FILE.replace('latent_size = 4', 'latent_size.x = 4'),
      'line 6, raised AttributeError',
    ),
    ('sentence', 'raise ValueError("too odd")', 'too odd'),
  )
  def test_a_broken_file_is_reported(self, text, expected):
    path = self.run_file(text)
    message = self.message_of(config_lib.load, path)
    self.assertStartsWith(message, f'--config={path}: ')
    self.assertIn(expected, message)

  def test_sizes_of_a_file_are_whole(self):
    sizes = 'model.hidden_sizes = (64.5, 32)'
    text = config_case.RUN_FILE.replace('model.latent_size = 4', sizes)
    path = self.run_file(text)
    self.assertIn(
      'hidden_sizes=(64.5, 32): not a tuple, each element a whole number',
      self.message_of(config_lib.load, path),
    )


class OverrideTest(config_case.FileTestCase):
  def setUp(self):
    super().setUp()
    self.config = default.create()

  @parameterized.parameters(
    ('seed', '7', 7),
    ('seed', '0x10', 16),
    ('train.batch_size', '1_024', 1024),
    ('model.scale', '1', 1.0),
    ('optimizer.learning_rate', '1e-4', 1e-4),
    ('dataset.binarize', '0', False),
    ('method.off_diagonal', 'False', False),
    ('method.sampler_svgd', 'true', True),
    ('method.sampler_mass', '3', 3.0),
    ('method.bandwidth', '2.5', '2.5'),
    ('dataset.data_dir', 'a=b', 'a=b'),
    ('dataset.data_dir', '', ''),
    ('model.hidden_sizes', '(64, 32)', (64, 32)),
    ('model.hidden_sizes', '64', (64,)),
    ('model.hidden_sizes', '[64,]', (64,)),
    ('model.hidden_sizes', '()', ()),
    ('evaluate.classifier_seeds', '1,2', (1, 2)),
    ('evaluate.samplers', 'prior,gmm_3', ('prior', 'gmm_3')),
    ('evaluate.samplers', 'gmm_3,langevin', ('gmm_3', 'langevin')),
    ('evaluate.samplers', "('prior', 'gmm_3')", ('prior', 'gmm_3')),
  )
  def test_text_becomes_the_type_of_the_field(self, name, text, expected):
    for overrides in ([f'--config.{name}={text}'], {name: text}):
      config = config_lib.override(self.config, overrides)
      actual = config_lib.flatten(config)[name]
      self.assertEqual(actual, expected)
      self.assertIs(type(actual), type(expected))
      for one, other in zip(
        actual if isinstance(actual, tuple) else (),
        expected if isinstance(expected, tuple) else (),
      ):
        self.assertIs(type(one), type(other))

  def test_values_keep_their_type(self):
    config = config_lib.override(
      self.config, {'model.scale': 2, 'model.hidden_sizes': [8, 4]}
    )
    self.assertIs(type(config.model.scale), float)
    self.assertEqual(config.model.hidden_sizes, (8, 4))

  def test_a_boolean_alone_is_true(self):
    overrides = ['--config.model.likelihood=bernoulli']
    overrides.append('--config.dataset.binarize')
    config = config_lib.override(default.create('vae'), overrides)
    self.assertTrue(config.dataset.binarize)

  def test_the_last_of_two_holds(self):
    config = config_lib.override(
      self.config, ['--config.seed=1', '--config.seed=2']
    )
    self.assertEqual(config.seed, 2)

  def test_leaves_the_given_config_alone(self):
    config_lib.override(self.config, ['--config.seed=1'])
    self.assertEqual(self.config.seed, 0)

  @parameterized.parameters(
    ('seed', '1.5', 'whole number'),
    ('seed', 'true', 'whole number'),
    ('model.scale', 'wide', 'a number'),
    ('dataset.binarize', '2', 'boolean'),
    ('dataset.binarize', 'yes', 'boolean'),
    ('model.hidden_sizes', '64,wide', 'each element a whole number'),
    ('model.hidden_sizes', '64.5', 'each element a whole number'),
    ('method.sampler_mass', 'a', 'a number'),
  )
  def test_text_of_another_type_is_refused(self, name, text, kind):
    overrides = [f'--config.{name}={text}']
    message = self.message_of(config_lib.override, self.config, overrides)
    self.assertStartsWith(message, f'--config.{name}={text}: not ')
    self.assertIn(kind, message)

  @parameterized.parameters(
    ({'seed': 1.0},),
    ({'seed': True},),
    ({'dataset.name': 3},),
    ({'dataset.binarize': 1},),
    ({'model.hidden_sizes': (1.5,)},),
  )
  def test_a_value_of_another_type_is_refused(self, overrides):
    message = self.message_of(config_lib.override, self.config, overrides)
    self.assertIn(': not ', message)

  @parameterized.parameters(
    ('btea', 'beta'),
    ('method.btea', 'method.beta'),
    ('beta', 'method.beta'),
    ('methd.beta', 'method.beta'),
    ('train.learning_rate', 'optimizer.learning_rate'),
    ('evaluation.batch_size', 'evaluate.batch_size'),
    ('trian.batch_size', 'train.batch_size'),
    ('model.batch_size', 'batch_size'),
    ('sede', 'seed'),
  )
  def test_an_unknown_field_suggests_the_nearest(self, name, nearest):
    config = default.create('vae')
    message = self.message_of(
      config_lib.override, config, [f'--config.{name}=1']
    )
    self.assertStartsWith(message, f'--config.{name}: no such field; did you')
    self.assertEndsWith(message, f'{nearest}?')

  def test_a_field_like_no_other_lists_its_group(self):
    message = self.message_of(
      config_lib.override, self.config, ['--config.dataset.qqq=1']
    )
    self.assertIn('known: dataset.background, dataset.binarize', message)

  def test_a_group_is_refused(self):
    message = self.message_of(
      config_lib.override, self.config, ['--config.model=1']
    )
    self.assertIn('model.latent_size', message)

  def test_a_missing_value_is_reported(self):
    message = self.message_of(
      config_lib.override, self.config, ['--config.seed']
    )
    self.assertEqual(
      message, '--config.seed: needs a value, --config.seed=VALUE'
    )

  @parameterized.parameters('method.name', 'debug')
  def test_what_the_colon_chooses_is_refused(self, name):
    message = self.message_of(config_lib.override, self.config, {name: 'vae'})
    self.assertIn('after the colon', message)


class PublicTest(absltest.TestCase):
  def test_names_no_place(self):
    config = default.create('vae')
    config.dataset.data_dir = '/home/me/tfds'
    self.assertEqual(config_lib.public(config)['dataset']['data_dir'], '')
    self.assertEqual(config.dataset.data_dir, '/home/me/tfds')

  def test_overrides_name_no_place(self):
    for text, expected in (
      ('--config.dataset.data_dir=/x', '--config.dataset.data_dir=DATA_DIR'),
      ('--config.vae.dataset.path=/x', '--config.vae.dataset.path=PATH'),
      ('--config.seed=3', '--config.seed=3'),
      ('--config.dataset.binarize', '--config.dataset.binarize'),
    ):
      self.assertEqual(config_lib.public_override(text), expected)


class FlattenTest(parameterized.TestCase):
  def test_names_are_dotted(self):
    config = config_dict.ConfigDict({'a': 1, 'b': {'c': (2, 3), 'd': {'e': 4}}})
    self.assertEqual(
      config_lib.flatten(config), {'a': 1, 'b.c': (2, 3), 'b.d.e': 4}
    )


class ExtensionsTest(config_case.FileTestCase):
  def test_a_relative_path_is_kept_as_an_absolute_one(self):
    path = self.write('mine.py', 'x = 1\n')
    with contextlib.chdir(self.folder):
      config = config_lib.load(self.run_file(), ['--config.extensions=mine.py'])
    self.assertEqual(config.extensions, (path,))
    self.assertEqual(config_lib.public(config)['extensions'], ['mine.py'])
    other = default.create()
    self.assertNotIn('extensions', config_lib.differences(other, config))

  @parameterized.parameters(
    ('raise KeyError(3)', 'line 1, raised KeyError: 3'),
    ('import sys\nsys.exit(3)', 'line 2, raised SystemExit: 3'),
    (None, 'no such file; give its path by --config.extensions'),
  )
  def test_a_broken_file_is_reported(self, text, part):
    name = str(self.folder / 'broken.py')
    if text is not None:
      self.write('broken.py', text)
    message = self.message_of(run_files.load_extensions, [name])
    self.assertStartsWith(message, f'config.extensions={name}: ')
    self.assertIn(part, message)

  def test_a_file_that_has_moved_can_be_named_again(self):
    path = self.write('moved_away.py', 'x = 1\n')
    config = config_lib.load(self.run_file(), {'extensions': (path,)})
    record = config_lib.to_json(config)
    record['config']['extensions'] = [str(self.folder / 'gone.py')]
    self.write('config.json', json.dumps(record))
    self.message_of(config_lib.read, self.folder)
    self.assertEqual(config_lib.read(self.folder, [path]).extensions, (path,))


class DifferencesTest(parameterized.TestCase):
  def test_a_config_continues_itself(self):
    self.assertEmpty(config_lib.differences(default.create(), default.create()))

  @parameterized.parameters(
    'evaluate.num_samples', 'train.log_every', 'train.validate_every'
  )
  def test_what_leaves_the_parameters_alone_may_change(self, name):
    other = config_lib.override(default.create(), {name: 77})
    self.assertEmpty(config_lib.differences(default.create(), other))

  def test_the_convolutions_of_another_machine_may_change(self):
    other = config_lib.override(
      default.create(), {'model.convolution': 'native'}
    )
    self.assertEmpty(config_lib.differences(default.create(), other))

  @parameterized.parameters(
    'seed',
    'train.num_epochs',
    'train.num_steps',
    'model.latent_size',
  )
  def test_what_reaches_the_parameters_may_not(self, name):
    other = config_lib.override(default.create(), {name: 77})
    self.assertEqual(config_lib.differences(default.create(), other), [name])
    self.assertEqual(config_lib.differences(other, default.create()), [name])

  def test_what_json_made_of_a_config_is_the_same_run(self):
    config = default.create()
    stored = json.loads(json.dumps(config.to_dict()))  # tuples are lists now
    config_lib.check_same_run(stored, config, 'runs/x')
    stored['train']['non_finite'] = 'skip'  # reaches no finite run
    config_lib.check_same_run(stored, config, 'runs/x')

  @parameterized.parameters(
    ('hidden_sizes', [7], r'hidden_sizes=\(7,\), not \(512, 512\); use its'),
    ('latent_size', 4, r'latent_size=4, not 16; use its config, or another'),
    ('depth', 4, r'depth=4, not nothing; use its config'),
  )
  def test_a_field_of_another_run_is_named_with_both_values(
    self, field, value, part
  ):
    stored = default.create().to_dict()
    stored['model'][field] = value
    with self.assertRaisesRegex(
      errors.UserError, rf'^runs/x holds a run with config.model.{part}'
    ):
      config_lib.check_same_run(stored, default.create(), 'runs/x')

  def test_another_method_differs(self):
    names = config_lib.differences(default.create(), default.create('vae'))
    self.assertContainsSubset(
      ['method.name', 'method.beta', 'method.kernel'], names
    )

  def test_the_causes_are_reported_first(self):
    other = default.create('vae,debug')
    other.dataset.name = 'mnist'
    other.dataset.binarize = not other.dataset.binarize
    names = config_lib.differences(default.create(), other)
    self.assertEqual(names[:3], ['method.name', 'dataset.name', 'debug'])
    self.assertLen(set(names), len(names))


class JsonTest(config_case.FileTestCase):
  @parameterized.parameters('', 'vae', 'debug')
  def test_a_config_survives(self, arg):
    config = config_lib.override(default.create(arg), {'model.scale': 1})
    text = json.dumps(config_lib.to_json(config), allow_nan=False)
    restored = config_lib.from_json(json.loads(text))
    self.assertEqual(restored.to_dict(), config.to_dict())
    self.assertIs(type(restored.model.scale), float)
    self.assertIs(type(restored.model.hidden_sizes), tuple)
    self.assertEmpty(config_lib.differences(config, restored))

  def test_holds_versions_and_commit(self):
    record = config_lib.to_json(default.create())
    self.assertContainsSubset(
      ['python', 'jax', 'jaxlib', 'flax', 'optax', 'numpy'],
      record['versions'],
    )
    self.assertRegex(record['git_commit'] or '0' * 40, r'^[0-9a-f]{40}')

  def test_is_read_from_a_workdir(self):
    record = config_lib.to_json(default.create())
    self.write('config.json', json.dumps(record))
    config = config_lib.read(self.folder)
    self.assertEqual(config.to_dict(), default.create().to_dict())

  @parameterized.parameters('{', '[]', '{}', '{"config": {"seed": 1}}')
  def test_a_broken_file_is_reported(self, text):
    path = self.write('config.json', text)
    message = self.message_of(config_lib.read, self.folder)
    self.assertStartsWith(message, f'{path}: ')

  @parameterized.parameters(
    ('method.name', 'zzz', 'config.method.name=zzz is unknown; known:'),
    ('method.foo', 1, 'config.method.foo is no field'),
    ('dataset.foo', 1, 'config.dataset.foo is no field'),
    ('model.latent_size', 2.5, 'config.model.latent_size=2.5: not a whole n'),
    ('method.num_particles', None, 'config.method.num_particles is m'),
  )
  def test_fields_of_another_version_are_reported(self, name, value, sentence):
    record = config_lib.to_json(default.create())
    group, _, leaf = name.partition('.')
    record['config'][group][leaf] = value
    if value is None:
      del record['config'][group][leaf]
    path = self.write('config.json', json.dumps(record))
    message = self.message_of(config_lib.read, self.folder)
    self.assertStartsWith(message, f'{path}: {sentence}')

  def test_a_missing_file_is_reported(self):
    message = self.message_of(config_lib.read, self.folder)
    self.assertIn('no such file', message)


if __name__ == '__main__':
  absltest.main()
