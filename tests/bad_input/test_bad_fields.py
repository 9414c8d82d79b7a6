"""Mistakes in the fields of a config."""

from absl.testing import absltest
from absl.testing import parameterized

from tests.bad_input import bad_input_case

_Case = bad_input_case.Case
_IMAGES = bad_input_case.IMAGES
_set = bad_input_case.set_field
_set_vae = bad_input_case.set_vae_field
_train = bad_input_case.train_argv
_FIELDS = {
  'unknown': _Case(
    _set('optimizer.learning_rat', 1),
    r'--config.optimizer.learning_rat: no such field; did you mean'
    r' optimizer.learning_rate\?',
  ),
  'unknown_group': _Case(_set('zzz.qqq', 1), r'--config.zzz.qqq: no such'),
  'of_another_method': _Case(
    _set_vae('method.num_particles', 4), r'no such field'
  ),
  'a_group': _Case(_set('train', 3), r'--config.train: a group of fields'),
  'method': _Case(_set('method.name', 'vae'), r'after the colon'),
  'no_value': _Case(_train('--config.seed'), r'--config.seed: needs a value'),
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
    r'hidden_sizes=\(64, -1\) does not hold; use any number of positive',
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
    _set('method.latents_per_image', 5),
    r'latents_per_image=5 with config.method.num_particles=2 .*use num',
  ),
  'lone_particle_of_the_sampler': _Case(
    _train(
      '--config.train.batch_size=1',
      '--config.method.latents_per_image=1',
    ),
    r'batch_size=1 with .*sampler_mass=2.0 gives a particle too few others'
    r' to interact with; use a batch_size above sampler_mass \+ 1',
  ),
  'mass_of_more_than_a_batch': _Case(
    _set('method.sampler_mass', 1000),
    r'batch_size=32 with .*sampler_mass=1000.0 .*use a batch_size above',
  ),
  'lone_particle': _Case(
    _train(
      '--config.method.num_particles=1',
      '--config.method.latents_per_image=1',
    ),
    r'num_particles=1 with .*off_diagonal=True .*use 2 particles or more',
  ),
  'field_of_an_earlier_version': _Case(
    _set('method.latent_target', 'learned'),
    r'method.latent_target: no such field',
  ),
  'implicit_vae': _Case(
    _set_vae('model.encoder', 'implicit'),
    r'encoder=implicit with config.method.name=vae does not go',
  ),
  'whitened_implicit': _Case(
    _train('--config.method.whiten=true', '--config.model.encoder=implicit'),
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
    _train(config=_IMAGES), r"config.dataset.path='' is empty: give a folder"
  ),
}

# Field, a value out of range, and how the remedy begins.
for _field, _value, _remedy in (
  ('train.batch_size', 0, 'use 1 or more'),
  ('train.accumulate', 0, 'use 1 or more'),
  ('train.num_steps', -5, 'use 0 or more'),
  ('train.num_epochs', -1, 'use 0 or more'),
  ('train.log_every', 0, 'use 1 or more'),
  ('train.checkpoint_every', -1, 'use 0 or more'),
  ('train.validate_every', -1, 'use 0 or more'),
  ('train.ema_decay', 1, 'is outside'),
  ('optimizer.learning_rate', 0, 'use more than 0'),
  ('optimizer.latent_learning_rate', 0, 'use more than 0'),
  ('optimizer.latent_final_fraction', 2, 'is outside'),
  ('optimizer.b1', 1, 'is outside'),
  ('optimizer.b2', 1.5, 'is outside'),
  ('optimizer.warmup_steps', -1, 'use 0 or more'),
  ('optimizer.weight_decay', -0.1, 'use 0 or more'),
  ('optimizer.clip_norm', -1, 'use 0 or more'),
  ('method.inverse_temperature', 0, 'use more than 0'),
  ('method.num_latent_updates', 0, 'use 1 or more'),
  ('method.gradient_penalty', -1, 'use 0 or more'),
  ('method.temperature_start', 0, 'use more than 0'),
  ('method.temperature_end', 0, 'use more than 0'),
  ('method.temperature_fraction', 1.5, 'is outside'),
  ('method.moments_decay', -0.1, 'is outside'),
  ('method.bandwidth_factor', 0, 'use more than 0'),
  ('method.sampler_mass', 0, 'use more than 0'),
  ('method.bandwidth', 'wide', 'use expected, or a positive'),
  ('method.bandwidth', 'mean', 'too wide; use expected, or a positive'),
  ('method.bandwidth', 1e-40, 'use expected, or a positive'),
  ('model.latent_size', 0, 'use 1 or more'),
  ('model.sampler_blocks', 0, 'use 1 to 1000'),
  ('model.scale', 0, 'use more than 0'),
  ('dataset.num_validation', 0, 'use 1 or more'),
  ('dataset.image_size', -1, 'use 0 or more'),
  ('evaluate.batch_size', 0, 'use 1 or more'),
  ('evaluate.num_samples', 1, 'use 2 or more'),
  ('evaluate.importance_samples', -1, 'use 0 or more'),
  # unknown names, and the known one that is meant
  ('method.kernel', 'rfb', r'did you mean rbf\?\); known: rbf, imq'),
  ('method.sampler_kernel', 'gauss', 'known: rbf, imq'),
  # it has negative values
  ('method.sampler_kernel', 'linear', 'known: rbf, imq, multi_scale'),
  ('model.likelihood', 'gausian', r'did you mean gaussian\?'),
  ('model.architecture', 'unet', 'known: mlp, gated_mlp, conv, conv64'),
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
_FIELDS['method.beta_-1'] = _Case(
  _set_vae('method.beta', -1), r'config.method.beta=-1.0 .*use 0 or'
)
_FIELDS['method.kl_warmup_2'] = _Case(
  _set_vae('method.kl_warmup', 2), r'kl_warmup=2.0 is outside'
)
_FIELDS['method.num_samples_0'] = _Case(
  _set_vae('method.num_samples', 0), r'num_samples=0 .*use 1 or more'
)


class FieldsTest(bad_input_case.BadInputTest):
  @parameterized.named_parameters(*_FIELDS.items())
  def test_reported(self, case):
    self.check(case)


if __name__ == '__main__':
  absltest.main()
