"""Damage and mistakes in the config.json of a workdir."""

import json

from absl.testing import absltest
from absl.testing import parameterized

from ldc_vae import config as config_lib
from tests.bad_input import bad_input_case

_RESTORE = r'; restore it, or delete it and run --mode=train: the checkp'


def _rename(group, old, new):
  def change(config):
    config[group][new] = config[group].pop(old)

  return change


def _set(name, value):
  return lambda config: config.__setitem__(name, value)


class ConfigFileTest(bad_input_case.BadInputTest):
  def setUp(self):
    super().setUp()
    (self.folder / 'trained' / 'checkpoints' / '24').mkdir(parents=True)
    self.path = self.folder / 'trained' / 'config.json'

  def refuse(self, content, part):
    """The content is answered by a sentence with this part."""
    self.path.write_text(content)
    argv = ('--mode=evaluate', '--workdir=trained')
    case = bad_input_case.Case(argv, f'trained/config.json: {part}')
    self.check(case)

  @parameterized.parameters(
    (
      _rename('train', 'batch_size', 'batch_sise'),
      r'config.train.batch_sise is no field \(did you mean batch_size\?\)',
    ),
    (
      _rename('train', 'batch_size', 'batch.size'),
      r'it holds no config \(.*dots in field names',
    ),
    (
      lambda config: config['model'].pop('latent_size'),
      f'config.model.latent_size is missing{_RESTORE}',
    ),
    (lambda config: config.pop('train'), f'config.train is missing{_RESTORE}'),
    (_set('train', 3), 'config.train=3: not a group of fields'),
    (_set('method', None), 'config.method=None: not a group of fields'),
    (_set('trian', {}), r'config.trian is no field \(did you mean train'),
    (_set('seed', True), 'config.seed=True: not a whole number'),
    (_set('extensions', 3), 'config.extensions=3: not a tuple'),
    (_set('extensions', [3]), r'config.extensions=\(3,\): not a tuple'),
    (_set('method', {'name': []}), r'config.method.name=\(\) is unknown'),
    (
      _set('seed', json.loads('[' * 900 + ']' * 900)),
      f'(config.seed=.*: not a whole n|it is nested too deeply{_RESTORE})',
    ),
  )
  def test_a_wrong_config(self, change_fn, part):
    record = config_lib.to_json(config_lib.load(bad_input_case.VAE))
    change_fn(record['config'])
    self.refuse(json.dumps(record), part)

  @parameterized.parameters(
    ('null', 'it has no group "config"'),
    ('{"config": []}', 'it has no group "config"'),
    ('9' * 5000, 'not valid JSON .Exceeds the limit .*{_RESTORE}'),
    ('{"a":' * 100_000, f'not valid JSON .it is nested too deep.*{_RESTORE}'),
  )
  def test_no_config(self, content, part):
    self.refuse(content, part.replace('{_RESTORE}', _RESTORE))


if __name__ == '__main__':
  absltest.main()
