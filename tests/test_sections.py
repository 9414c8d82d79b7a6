"""Tests of ldc_vae.sections and of the checks of a whole config."""

from absl.testing import absltest
from absl.testing import parameterized
from ml_collections import config_dict

from ldc_vae import config as config_lib
from ldc_vae import errors
from ldc_vae import methods
from ldc_vae import sections
from ldc_vae.configs import default
from ldc_vae.data import datasets
from ldc_vae.models import encoders
from ldc_vae.models import model as model_lib
from ldc_vae.runtime import health
from ldc_vae.samplers import sampler_net
from tests import config_case


class ValidateTest(config_case.FileTestCase):
  @parameterized.parameters('', 'debug', *methods.METHODS)
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
    ('method.inverse_temperature', 0.0),
    ('method.num_particles', 0),
    ('method.kernel', 'rbff'),
    ('method.sampler_kernel', ''),
    ('method.bandwidth', 'max'),
    ('method.bandwidth', 'mean'),
    ('method.bandwidth', '-1'),
    ('method.bandwidth', 'nan'),
    ('method.sampler_kernel', 'linear'),
    ('method.sampler_mass', 0.0),
    ('method.sampler_mass', -1.0),
    ('method.temperature_start', 0.0),
    ('method.temperature_start', -0.1),
    ('method.temperature_end', -0.1),
    ('method.temperature_end', 0.0),
    ('method.temperature_fraction', 0.0),
    ('method.temperature_fraction', 1.5),
    ('method.moments_decay', 1.0),
    ('method.gradient_penalty', -1.0),
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
    ('one_particle', {'method.num_particles': 1}, 'off_diagonal=True'),
    (
      'factor',
      {
        'method.bandwidth': '2.0',
        'method.bandwidth_factor': 0.5,
      },
      'method.bandwidth=2',
    ),
    (
      'latents',
      {'method.latents_per_image': 9},
      'method.num_particles=2',
    ),
    (
      'mass',
      {'train.batch_size': 3},
      'method.sampler_mass=2.0 gives a particle too few others',
    ),
    (
      'mass_of_a_batch',
      {'method.sampler_mass': 255.0},
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
  def test_fields_that_do_not_go_together_are_reported(self, overrides, part):
    message = self.message_of(config_lib.override, default.create(), overrides)
    self.assertIn(part, message)

  @parameterized.parameters((4, 1, 2.9), (2, 2, 2.9), (256, 1, 254.9))
  def test_the_others_of_a_batch_may_have_the_mass(self, batch, latents, mass):
    config_lib.override(
      default.create(),
      {
        'train.batch_size': batch,
        'method.latents_per_image': latents,
        'method.sampler_mass': mass,
      },
    )

  def test_one_particle_may_follow_all_pairs(self):
    config_lib.override(
      default.create(),
      {
        'method.num_particles': 1,
        'method.latents_per_image': 1,
        'method.off_diagonal': False,
      },
    )

  @parameterized.parameters(
    ('vae', 'implicit', 'use encoder gaussian'),
    ('ae', 'gaussian', 'use encoder deterministic'),
    ('ldc', 'deterministic', 'use encoder gaussian or implicit or warped'),
    ('lebm', 'gaussian', 'use encoder none'),
  )
  def test_an_encoder_that_a_method_cannot_train_is_reported(
    self, method, encoder, remedy
  ):
    message = self.message_of(
      config_lib.override, default.create(method), {'model.encoder': encoder}
    )
    self.assertIn(
      f'config.model.encoder={encoder} with config.method.name={method}',
      message,
    )
    self.assertEndsWith(message, remedy)

  @parameterized.parameters(
    ('iwae', 'method.num_samples', 0),
    ('wae_mmd', 'method.mmd_weight', -1.0),
    ('info_vae', 'method.alpha', 1.5),
    ('info_vae', 'method.mmd_scaling', -1.0),
    ('aae', 'method.adversarial_weight', -1.0),
    ('aae', 'method.num_discriminator_updates', 0),
    ('rae_l2', 'method.embedding_weight', -1.0),
    ('rae_l2', 'method.decoder_weight', -1.0),
    ('rae_gp', 'method.gradient_weight', -1.0),
    ('ae', 'method.moments_decay', 1.0),
    ('vamp', 'model.num_pseudo_inputs', 0),
    ('lebm', 'method.posterior_steps', 0),
    ('lebm', 'method.prior_steps', 0),
    ('lebm', 'method.posterior_step_size', 0.0),
    ('lebm', 'method.prior_step_size', 0.0),
  )
  def test_a_field_of_another_method_is_checked(self, method, name, value):
    message = self.message_of(
      config_lib.override, default.create(method), {name: value}
    )
    self.assertStartsWith(message, f'config.{name}=')

  @parameterized.parameters(
    ('info_vae', {'method.mmd_scaling': 0.5}, 'mmd_scaling of 1 or more'),
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

  def test_a_missing_field_is_reported(self):
    config = default.create().unlock()
    del config.train['ema_decay']
    message = self.message_of(config_lib.validate, config)
    self.assertStartsWith(message, 'config.train.ema_decay is missing')

  def test_a_missing_group_is_reported(self):
    config = config_dict.ConfigDict({'model': {'sizes': None}})
    message = self.message_of(config_lib.validate, config)
    self.assertStartsWith(message, 'config.seed is missing')


class LoggingTest(config_case.FileTestCase):
  @parameterized.parameters(
    ('jsonl,tensorbord', "unknown writer 'tensorbord' (did you mean tensorbo"),
    ('tensorboard', 'lacks jsonl, which every run has'),
    ('jsonl,wandb,wandb', 'holds a writer twice'),
  )
  def test_names_of_writers_are_checked(self, text, message):
    fields = {'logging.writers': text}
    found = self.message_of(config_lib.override, default.create(), fields)
    self.assertStartsWith(found, 'config.logging.writers=(')
    self.assertIn(message, found)

  def test_a_run_of_a_version_without_it_goes_on(self):
    config = config_lib.override(
      default.create(), {'logging.writers': 'jsonl,wandb'}
    )
    record = config_lib.to_json(default.create())
    del record['config']['logging']
    self.assertEqual(config_lib.from_json(record), default.create())
    config_lib.check_same_run(record['config'], config, 'a workdir')


class RegisterTest(parameterized.TestCase):
  def test_a_name_that_is_taken_is_refused(self):
    with self.assertRaisesRegex(errors.UserError, "'vae' is a method already"):
      methods.register(methods.METHODS['vae'])

  def test_a_class_without_label_is_refused(self):

    class Mine(methods.Method):
      name = 'mine'

    with self.assertRaisesRegex(errors.UserError, 'Mine has no label'):
      methods.register(Mine)


class KnownNamesTest(parameterized.TestCase):
  def test_what_a_run_does_with_wrong_updates(self):
    policies = [
      each.metadata['allowed']
      for each in sections.Train.__dataclass_fields__.values()
      if each.name == 'non_finite'
    ][0]
    for policy in health.POLICIES:
      self.assertTrue(policies.holds(policy))

  def test_a_sampler_net_is_trained_for_its_own_number_of_steps(self):
    self.assertEqual(
      default.create().evaluate.svgd_steps, sampler_net.NUM_STEPS
    )

  @parameterized.parameters(*methods.METHODS)
  def test_a_method_trains_its_encoders_and_no_other(self, name):
    method_class = methods.METHODS[name]
    # only a gaussian encoder has the standard deviations to whiten by
    own = {'whiten': False} if name == 'ldc' else {}
    method = method_class(**own)
    for encoder in encoders.ENCODERS:
      model = model_lib.create_model((4, 4, 1), latent_size=2, encoder=encoder)
      if encoder in method.encoders:
        algorithm = method.build(model)
        self.assertEqual(
          method.compares_sets, not algorithm.phases[0].per_image
        )
      else:
        with self.assertRaisesRegex(errors.UserError, f'encoder={encoder} '):
          method.build(model)

  def test_unknown_data_sets_list_the_known(self):
    with self.assertRaises(errors.UserError) as context:
      datasets.load('nothing_like_it')
    for name in datasets.DATASETS:
      self.assertIn(name, str(context.exception))


if __name__ == '__main__':
  absltest.main()
