"""Tests for config: loading, overriding, checking and comparing."""

import functools
import json
import os
import pathlib
import subprocess
import tempfile

from absl.testing import absltest
from absl.testing import parameterized
from ml_collections import config_dict

from configs import default
from ldc_vae import config as config_lib
from ldc_vae import methods
from ldc_vae import svgd
from ldc_vae.data import datasets
from ldc_vae.models import convolution
from ldc_vae.models import encoders
from ldc_vae.models import likelihoods
from ldc_vae.models import model as model_lib
from ldc_vae.runtime import health
from ldc_vae.samplers import latent_svgd
from ldc_vae.samplers import latents

_RUN_FILE = """
from configs import default

def get_config(arg=''):
  config = default.create(arg)
  config.model.latent_size = 4
  return config
"""


class _FileTestCase(parameterized.TestCase):
  """Gives each test a folder of its own."""

  def setUp(self):
    super().setUp()
    folder = self.enter_context(tempfile.TemporaryDirectory())
    self.folder = pathlib.Path(folder).resolve()

  def write(self, name, text):
    path = self.folder / name
    path.write_text(text)
    return str(path)

  def run_file(self, text=_RUN_FILE):
    return self.write('run.py', text)

  def message_of(self, function, *args):
    """Returns the sentence of the `ConfigError` that a call raises."""
    with self.assertRaises(config_lib.ConfigError) as context:
      function(*args)
    message = str(context.exception)
    self.assertNotIn('\n', message)
    return message


class LoadTest(_FileTestCase):

  def test_reads_the_run_file(self):
    config = config_lib.load(self.run_file())
    self.assertEqual(config.model.latent_size, 4)
    self.assertEqual(config.objective.name, 'ldc')
    self.assertFalse(config.debug)

  @parameterized.parameters(
      (':vae', 'vae', False),
      (':vae,debug', 'vae', True),
      (':debug', 'ldc', True),
      (',debug', 'ldc', True),
  )
  def test_the_word_after_the_colon_chooses(self, suffix, method, debug):
    config = config_lib.load(self.run_file() + suffix)
    self.assertEqual(config.objective.name, method)
    self.assertEqual(config.debug, debug)

  def test_result_is_locked(self):
    config = config_lib.load(self.run_file())
    with self.assertRaises((AttributeError, KeyError)):
      config.model.unheard_of = 1

  def test_a_file_is_found_from_any_folder(self):
    message = self.message_of(config_lib.load, 'configs/default.py')
    self.assertIn('does not define get_config', message)  # so it was read

  def test_a_missing_file_is_told(self):
    message = self.message_of(config_lib.load, 'configs/nothing_like_it.py')
    self.assertStartsWith(
        message, '--config=configs/nothing_like_it.py: no such file'
    )
    self.assertIn('available: ', message)

  def test_a_folder_is_told(self):
    message = self.message_of(config_lib.load, str(self.folder))
    self.assertIn('a folder', message)

  def test_an_unknown_method_is_told(self):
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
          _RUN_FILE.replace('latent_size = 4', 'latent_size.x = 4'),
          'line 6, raised AttributeError',
      ),
      ('sentence', 'raise ValueError("too odd")', 'too odd'),
  )
  def test_a_broken_file_is_told(self, text, expected):
    path = self.run_file(text)
    message = self.message_of(config_lib.load, path)
    self.assertStartsWith(message, f'--config={path}: ')
    self.assertIn(expected, message)

  def test_sizes_of_a_file_are_whole(self):
    sizes = 'model.hidden_sizes = (64.5, 32)'
    path = self.run_file(_RUN_FILE.replace('model.latent_size = 4', sizes))
    self.assertIn(
        'hidden_sizes=(64.5, 32) does not hold; use a tuple of positive whole',
        self.message_of(config_lib.load, path),
    )


class SplitSpecTest(parameterized.TestCase):

  @parameterized.parameters(
      ('a.py', 'a.py', ''),
      ('a.py:vae', 'a.py', 'vae'),
      ('dir/a.py:vae,debug', 'dir/a.py', 'vae,debug'),
      ('a.py,debug', 'a.py', 'debug'),
      ('a.pyx:vae', 'a.pyx', 'vae'),
      ('digits', 'digits', ''),
  )
  def test_splits_at_the_colon(self, spec, path, arg):
    self.assertEqual(config_lib.split_spec(spec), (path, arg))


class OverrideTest(_FileTestCase):

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
      ('objective.off_diagonal', 'False', False),
      ('objective.sampler_svgd', 'true', True),
      ('objective.sampler_mass', '3', 3.0),
      ('objective.bandwidth', '2.5', '2.5'),
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
      ('objective.sampler_mass', 'a', 'a number'),
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
      ('objective.btea', 'objective.beta'),
      ('beta', 'objective.beta'),
      ('objectiv.beta', 'objective.beta'),
      ('train.learning_rate', 'optimizer.learning_rate'),
      ('evaluation.batch_size', 'evaluate.batch_size'),
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
    self.assertIn('known: dataset.binarize, dataset.data_dir', message)

  def test_a_group_is_refused(self):
    message = self.message_of(
        config_lib.override, self.config, ['--config.model=1']
    )
    self.assertIn('model.latent_size', message)

  def test_a_missing_value_is_told(self):
    message = self.message_of(
        config_lib.override, self.config, ['--config.seed']
    )
    self.assertEqual(
        message, '--config.seed: needs a value, --config.seed=VALUE'
    )

  @parameterized.parameters('objective.name', 'debug')
  def test_what_the_colon_chooses_is_refused(self, name):
    message = self.message_of(config_lib.override, self.config, {name: 'vae'})
    self.assertIn('after the colon', message)


class LoadEachTest(_FileTestCase):

  def load(self, *overrides, spec='configs/mnist.py', methods=('ldc', 'vae')):
    return config_lib.load_each(spec, methods, overrides)

  def test_gives_what_load_gives_for_each_method(self):
    overrides = ('--config.train.num_epochs=3',)
    plans = self.load(*overrides, spec='configs/mnist.py,debug')
    self.assertEqual(list(plans), ['ldc', 'vae'])
    for method, plan in plans.items():
      self.assertEqual(plan.spec, f'configs/mnist.py:{method},debug')
      self.assertEqual(plan.overrides, overrides)
      self.assertEqual(
          plan.config.to_dict(),
          config_lib.load(plan.spec, overrides).to_dict(),
      )

  def test_a_field_may_be_set_for_one_method(self):
    plans = self.load(
        '--config.vae.objective.beta=2', '--config.train.batch_size=64',
        '-config.ldc.train.batch_size=32',
    )
    self.assertEqual(plans['vae'].config.objective.beta, 2.0)
    self.assertEqual(plans['vae'].config.train.batch_size, 64)
    self.assertEqual(plans['ldc'].config.train.batch_size, 32)
    self.assertEqual(
        plans['ldc'].overrides,
        ('--config.train.batch_size=64', '--config.train.batch_size=32'),
    )

  def test_a_field_without_value_is_a_boolean(self):
    plans = self.load('--config.vae.dataset.binarize',
                      '--config.vae.model.likelihood=bernoulli')
    self.assertTrue(plans['vae'].config.dataset.binarize)
    self.assertFalse(plans['ldc'].config.dataset.binarize)

  def test_a_run_file_that_needs_an_override_is_loaded(self):
    plans = self.load(
        '--config.dataset.path=photos', spec='configs/images.py'
    )
    self.assertEqual(plans['vae'].config.dataset.path, 'photos')


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


class ValidateTest(_FileTestCase):

  @parameterized.parameters('', 'debug', *default.OBJECTIVES)
  def test_the_defaults_hold(self, arg):
    config_lib.validate(default.create(arg))

  @parameterized.parameters(
      ('seed', -1),
      ('seed', 2**32),
      ('dataset.name', 'minst'),
      ('dataset.num_channels', 2),
      ('dataset.image_size', -1),
      ('dataset.num_validation', 0),
      ('model.architecture', 'mpl'),
      ('model.encoder', 'gausian'),
      ('model.likelihood', 'bernouli'),
      ('model.dtype', 'float16'),
      ('model.latent_size', 0),
      ('model.scale', 0.0),
      ('model.hidden_sizes', (64, 0)),
      ('model.channels', ()),
      ('objective.inverse_temperature', 0.0),
      ('objective.num_particles', 0),
      ('objective.kernel', 'rbff'),
      ('objective.sampler_kernel', ''),
      ('objective.bandwidth', 'max'),
      ('objective.bandwidth', 'mean'),
      ('objective.bandwidth', '-1'),
      ('objective.bandwidth', 'nan'),
      ('objective.sampler_kernel', 'linear'),
      ('objective.sampler_mass', 0.0),
      ('objective.sampler_mass', -1.0),
      ('objective.temperature_start', 0.0),
      ('objective.temperature_start', -0.1),
      ('objective.temperature_end', -0.1),
      ('objective.temperature_end', 0.0),
      ('objective.temperature_fraction', 0.0),
      ('objective.temperature_fraction', 1.5),
      ('objective.moments_decay', 1.0),
      ('objective.gradient_penalty', -1.0),
      ('optimizer.learning_rate', 0.0),
      ('optimizer.latent_learning_rate', -1e-3),
      ('optimizer.learning_rate', float('nan')),
      ('optimizer.learning_rate', float('inf')),
      ('optimizer.schedule', 'cosin'),
      ('optimizer.b1', 1.0),
      ('optimizer.warmup_steps', -1),
      ('train.batch_size', 0),
      ('train.accumulate', 0),
      ('train.ema_decay', 1.0),
      ('train.ema_decay', -0.1),
      ('train.log_every', 0),
      ('evaluate.num_samples', 1),
      ('evaluate.samplers', ('prior', 'gmn_10')),
      ('evaluate.samplers', ('gmm_0',)),
      ('evaluate.samplers', ('gmm_K',)),
      ('evaluate.samplers', ('prior_3',)),
      ('evaluate.samplers', ('prior', 'prior')),
      ('evaluate.two_stage_steps', 0),
      ('evaluate.langevin_steps', 0),
      ('evaluate.flow_matching_steps', 0),
      ('evaluate.flow_steps', 0),
      ('evaluate.drifting_steps', 0),
      ('evaluate.svgd_steps', 0),
      ('evaluate.nearest_noise', -0.1),
      ('evaluate.ais_chains', -1),
      ('evaluate.ais_temperatures', 0),
      ('evaluate.ais_images', -1),
      ('evaluate.checkpoint', 'newest'),
      ('evaluate.classifier_seeds', (-1,)),
      ('evaluate.classifier_seeds', ()),
      ('evaluate.classifier_seeds', (1, 1)),
  )
  def test_a_value_out_of_range_names_its_field(self, name, value):
    config = default.create()
    group, _, leaf = name.rpartition('.')
    (config[group] if group else config)[leaf] = value
    message = self.message_of(config_lib.validate, config)
    self.assertStartsWith(message, f'config.{name}=')

  @parameterized.named_parameters(
      ('no_steps', {'train.num_epochs': 0}, 'train.num_steps=0'),
      ('accumulate', {'train.accumulate': 3}, 'train.batch_size=256'),
      ('one_particle', {'objective.num_particles': 1}, 'off_diagonal=True'),
      (
          'factor',
          {
              'objective.bandwidth': 2.0,
              'objective.bandwidth_factor': 0.5,
          },
          'objective.bandwidth=2',
      ),
      (
          'latents',
          {'objective.latents_per_image': 9},
          'objective.num_particles=2',
      ),
      (
          'mass',
          {'train.batch_size': 3},
          'objective.sampler_mass=2.0 gives a particle too few others',
      ),
      (
          'mass_of_a_batch',
          {'objective.sampler_mass': 255.0},
          'use a batch_size above sampler_mass + 1',
      ),
      (
          'no_scale',
          {'model.learn_scale': True, 'model.likelihood': 'bernoulli'},
          'likelihood=bernoulli',
      ),
      ('binary', {'dataset.binarize': True}, 'likelihood=gaussian'),
      ('no_path', {'dataset.name': 'images'}, "dataset.path=''"),
      ('idle_path', {'dataset.path': 'x'}, 'dataset.name=digits'),
  )
  def test_fields_that_do_not_go_together_are_told(self, overrides, part):
    message = self.message_of(
        config_lib.override, default.create(), overrides
    )
    self.assertIn(part, message)

  @parameterized.parameters((4, 1, 2.9), (2, 2, 2.9), (256, 1, 254.9))
  def test_the_others_of_a_batch_may_have_the_mass(self, batch, latents, mass):
    config_lib.override(
        default.create(),
        {
            'train.batch_size': batch,
            'objective.latents_per_image': latents,
            'objective.sampler_mass': mass,
        },
    )

  def test_one_particle_may_follow_all_pairs(self):
    config_lib.override(
        default.create(),
        {
            'objective.num_particles': 1,
            'objective.latents_per_image': 1,
            'objective.off_diagonal': False,
        },
    )

  @parameterized.parameters(
      ('vae', 'implicit', 'use encoder gaussian'),
      ('ae', 'gaussian', 'use encoder deterministic'),
      ('ldc', 'deterministic', 'use encoder gaussian or implicit or warped'),
      ('lebm', 'gaussian', 'use encoder none'),
  )
  def test_an_encoder_that_a_method_cannot_train_is_told(
      self, method, encoder, remedy
  ):
    message = self.message_of(
        config_lib.override, default.create(method), {'model.encoder': encoder}
    )
    self.assertIn(
        f'config.model.encoder={encoder} with config.objective.name={method}',
        message,
    )
    self.assertEndsWith(message, remedy)

  @parameterized.parameters(
      ('iwae', 'objective.num_samples', 0),
      ('wae_mmd', 'objective.mmd_weight', -1.0),
      ('info_vae', 'objective.alpha', 1.5),
      ('info_vae', 'objective.mmd_scaling', -1.0),
      ('aae', 'objective.adversarial_weight', -1.0),
      ('aae', 'objective.num_discriminator_updates', 0),
      ('rae_l2', 'objective.embedding_weight', -1.0),
      ('rae_l2', 'objective.decoder_weight', -1.0),
      ('rae_gp', 'objective.gradient_weight', -1.0),
      ('ae', 'objective.moments_decay', 1.0),
      ('vamp', 'model.num_pseudo_inputs', 0),
      ('lebm', 'objective.posterior_steps', 0),
      ('lebm', 'objective.prior_steps', 0),
      ('lebm', 'objective.posterior_step_size', 0.0),
      ('lebm', 'objective.prior_step_size', 0.0),
  )
  def test_a_field_of_another_method_is_checked(self, method, name, value):
    message = self.message_of(
        config_lib.override, default.create(method), {name: value}
    )
    self.assertStartsWith(message, f'config.{name}=')

  @parameterized.parameters(
      ('info_vae', {'objective.mmd_scaling': 0.5}, 'mmd_scaling of 1 or more'),
      ('wae_mmd', {'train.batch_size': 1}, 'use a batch_size of 2 or more'),
  )
  def test_fields_of_another_method_are_checked_together(
      self, method, overrides, remedy
  ):
    message = self.message_of(
        config_lib.override, default.create(method), overrides
    )
    self.assertIn(remedy, message)

  def test_a_near_name_is_suggested(self):
    message = self.message_of(
        config_lib.override, default.create(), {'dataset.name': 'minst'}
    )
    self.assertIn('did you mean mnist?', message)
    self.assertIn('fashion_mnist', message)

  def test_a_missing_field_is_told(self):
    config = default.create().unlock()
    del config.train['ema_decay']
    message = self.message_of(config_lib.validate, config)
    self.assertStartsWith(message, 'config.train.ema_decay is missing')

  def test_a_value_that_json_cannot_hold_is_refused(self):
    config = config_dict.ConfigDict({'model': {'sizes': None}})
    message = self.message_of(config_lib.validate, config)
    self.assertIn('config.model.sizes=None is a NoneType', message)


class KnownNamesTest(parameterized.TestCase):
  """The names that `validate` accepts are those that the code knows."""

  def test_agree_with_the_registries(self):
    self.assertSameElements(config_lib.KERNELS, svgd.KERNELS)
    self.assertSameElements(config_lib.ARCHITECTURES, model_lib.ARCHITECTURES)
    self.assertSameElements(
        config_lib.CONVOLUTIONS, convolution.IMPLEMENTATIONS
    )
    self.assertSameElements(config_lib.ENCODERS, encoders.ENCODERS)
    self.assertSameElements(config_lib.LIKELIHOODS, likelihoods.LIKELIHOODS)
    positive = [name for name, fn in svgd.KERNELS.items() if fn().positive]
    self.assertSameElements(config_lib.POSITIVE_KERNELS, positive)
    self.assertSameElements(config_lib.NON_FINITE, health.POLICIES)
    self.assertSameElements(
        config_lib.LATENT_SAMPLERS, latents.SAMPLERS
    )

  def test_a_sampler_net_is_trained_for_its_own_number_of_steps(self):
    self.assertEqual(
        default.create().evaluate.svgd_steps, latent_svgd.NUM_STEPS
    )

  def test_agree_with_the_methods(self):
    self.assertSameElements(default.OBJECTIVES, methods.METHODS)
    self.assertSameElements(config_lib.METHOD_ENCODERS, methods.METHODS)
    sizes = model_lib.Sizes(latent_size=2)
    for method, suited in config_lib.METHOD_ENCODERS.items():
      create = functools.partial(
          methods.METHODS[method], **default.OBJECTIVES[method]
      )
      model_fn = functools.partial(model_lib.create_model, (4, 4, 1), sizes)
      for encoder in suited:
        # only a gaussian encoder has the standard deviations to whiten by
        given = {'whiten': False} if method == 'ldc' else {}
        create(model_fn(encoder=encoder), **given)
      for encoder in set(encoders.ENCODERS) - set(suited):
        with self.assertRaisesRegex(ValueError, f'objective .*{encoder!r}'):
          create(model_fn(encoder=encoder))

  def test_agree_with_the_sets_that_methods_see(self):
    sizes = model_lib.Sizes(latent_size=2)
    for name, create in methods.METHODS.items():
      encoder = default.create(name).model.encoder
      model = model_lib.create_model((4, 4, 1), sizes, encoder=encoder)
      first_phase = create(model, **default.OBJECTIVES[name]).phases[0]
      self.assertEqual(
          name in config_lib.SET_METHODS, not first_phase.per_image, name
      )

  def test_agree_with_the_data_sets(self):
    with self.assertRaises(ValueError) as context:
      datasets.load('nothing_like_it')
    for name in config_lib.DATASETS:
      self.assertIn(name, str(context.exception))


class FlattenTest(parameterized.TestCase):

  def test_names_are_dotted(self):
    config = config_dict.ConfigDict({'a': 1, 'b': {'c': (2, 3), 'd': {'e': 4}}})
    self.assertEqual(
        config_lib.flatten(config), {'a': 1, 'b.c': (2, 3), 'b.d.e': 4}
    )


class DifferencesTest(parameterized.TestCase):

  def test_a_config_continues_itself(self):
    self.assertEmpty(
        config_lib.differences(default.create(), default.create())
    )

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
      'seed', 'train.num_epochs', 'train.num_steps', 'model.latent_size',
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
        config_lib.ConfigError, rf'^runs/x holds a run with config.model.{part}'
    ):
      config_lib.check_same_run(stored, default.create(), 'runs/x')

  def test_another_method_differs(self):
    names = config_lib.differences(default.create(), default.create('vae'))
    self.assertContainsSubset(
        ['objective.name', 'objective.beta', 'objective.kernel'], names
    )

  def test_the_causes_are_told_first(self):
    other = default.create('vae,debug')
    other.dataset.name = 'mnist'
    other.dataset.binarize = not other.dataset.binarize
    names = config_lib.differences(default.create(), other)
    self.assertEqual(names[:3], ['objective.name', 'dataset.name', 'debug'])
    self.assertLen(set(names), len(names))


class JsonTest(_FileTestCase):

  def test_a_run_of_an_earlier_version_gets_what_it_lacks(self):
    added = 'bandwidth_factor', 'kl_warmup'
    for method, its_own in (
        ('ldc', added),
        ('stein_vae', added),
        ('vae', ('kl_warmup',)),
        ('ae', ()),
    ):
      config = default.create(method)
      record = config_lib.to_json(config)
      del record['config']['evaluate']['num_draws']
      for name in added:
        record['config']['objective'].pop(name, None)
      config_lib.check_same_run(record['config'], config, 'runs/x')
      restored = config_lib.from_json(record)
      self.assertEqual(restored.to_dict(), config.to_dict())
      self.assertSameElements(
          [name for name in added if name in restored.objective], its_own
      )

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
  def test_a_broken_file_is_told(self, text):
    path = self.write('config.json', text)
    message = self.message_of(config_lib.read, self.folder)
    self.assertStartsWith(message, f'{path}: ')

  @parameterized.parameters(
      ('objective.name', 'zzz', 'config.objective.name=zzz is unknown; known:'),
      ('objective.foo', 1, 'config.objective.foo is no field of this version'),
      ('dataset.foo', 1, 'config.dataset.foo is no field of this version; use'),
      ('model.latent_size', 2.5, 'config.model.latent_size=2.5 is no whole n'),
      ('objective.num_particles', None, 'config.objective.num_particles is m'),
  )
  def test_fields_of_another_version_are_told(self, name, value, sentence):
    record = config_lib.to_json(default.create())
    group, _, leaf = name.partition('.')
    record['config'][group][leaf] = value
    if value is None:
      del record['config'][group][leaf]
    path = self.write('config.json', json.dumps(record))
    message = self.message_of(config_lib.read, self.folder)
    self.assertStartsWith(message, f'{path}: {sentence}')

  def test_a_missing_file_is_told(self):
    message = self.message_of(config_lib.read, self.folder)
    self.assertIn('no such file', message)


class DescribeTest(_FileTestCase):

  def test_names_the_commit_and_its_modification(self):
    tracked = pathlib.Path(self.write('tracked', 'a'))

    def git(*args):
      who = ('-c', 'user.name=a', '-c', 'user.email=a@b')
      return subprocess.run(
          ('git', '-C', str(self.folder), *who, *args),
          check=True, capture_output=True, text=True,
      ).stdout.strip()

    git('init', '-q')
    git('add', '.')
    git('commit', '-qm', 'a')
    with absltest.mock.patch.object(config_lib, 'ROOT', self.folder):
      self.assertEqual(
          config_lib.describe()['git_commit'], git('rev-parse', 'HEAD')
      )
      tracked.write_text('b')
      self.assertEqual(
          config_lib.describe()['git_commit'],
          git('rev-parse', 'HEAD') + '+dirty',
      )

  def test_there_is_no_commit_inside_another_repository(self):
    inside = config_lib.ROOT / 'ldc_vae'
    with absltest.mock.patch.object(config_lib, 'ROOT', inside):
      self.assertIsNone(config_lib.describe()['git_commit'])

  def test_where_there_is_no_repository_the_environment_tells(self):
    with absltest.mock.patch.object(config_lib, 'ROOT', self.folder):
      self.assertIsNone(config_lib.describe()['git_commit'])
      variable = {config_lib.COMMIT_VARIABLE: 'abc+dirty'}
      with absltest.mock.patch.dict(os.environ, variable):
        self.assertEqual(config_lib.describe()['git_commit'], 'abc+dirty')


if __name__ == '__main__':
  absltest.main()
