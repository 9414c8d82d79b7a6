"""Tests of ldc_vae.cli: from arguments to a config and a workdir."""

import os
import pathlib
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized

from ldc_vae import cli
from tests import main_case
from tests.runtime import rights_case


class WorkdirModesTest(main_case.MainTestCase):
  def test_the_config_of_the_workdir_is_read(self):
    workdir = self.trained('vae')
    code, ((name, config, where, _),), _, _ = self.run_main(
      '--mode=evaluate',
      f'--workdir={workdir}',
      '--config.evaluate.num_samples=50',
    )
    self.assertEqual((code, name, where), (0, 'evaluate', workdir))
    self.assertEqual(config.method.name, 'vae')
    self.assertEqual(config.evaluate.num_samples, 50)

  def test_sample_gets_number_and_output(self):
    workdir = self.trained()
    _, ((name, _, _, kwargs),), _, _ = self.run_main(
      '--mode=sample',
      f'--workdir={workdir}',
      '--num_samples=5',
      '--output=x.npz',
    )
    self.assertEqual(name, 'sample')
    self.assertEqual(kwargs, {'num_samples': 5, 'output': 'x.npz'})

  def test_sample_may_write_samples_elsewhere(self):
    workdir = self.trained()
    code, *_ = self.run_main(
      '--mode=sample', f'--workdir={workdir}', '--output=samples.npz'
    )
    self.assertEqual(code, 0)

  def test_sample_has_defaults(self):
    workdir = self.trained()
    _, ((_, _, _, kwargs),), _, _ = self.run_main(
      '--mode=sample', f'--workdir={workdir}'
    )
    self.assertEqual(
      kwargs, {'num_samples': 64, 'output': f'{workdir}/generated.npz'}
    )

  def test_encode_gets_images_and_output(self):
    workdir = self.trained()
    argv = ('--mode=encode', f'--workdir={workdir}', '--images=test')
    _, ((name, _, _, kwargs),), _, _ = self.run_main(*argv)
    self.assertEqual(name, 'encode')
    self.assertEqual(
      kwargs, {'images': 'test', 'output': f'{workdir}/latents.npz'}
    )
    _, ((_, _, _, kwargs),), _, _ = self.run_main(*argv, '--output=x.npz')
    self.assertEqual(kwargs['output'], 'x.npz')

  def test_export_gets_a_folder(self):
    workdir = self.trained()
    argv = ('--mode=export', f'--workdir={workdir}')
    _, ((name, _, _, kwargs),), _, _ = self.run_main(*argv)
    self.assertEqual(
      (name, kwargs), ('export', {'output': f'{workdir}/export'})
    )
    _, ((_, _, _, kwargs),), _, _ = self.run_main(*argv, '--output=shared')
    self.assertEqual(kwargs, {'output': 'shared'})

  def test_the_images_to_encode_are_not_replaced(self):
    workdir = self.trained()
    self.assert_refused(
      '--mode=encode',
      f'--workdir={workdir}',
      '--images=x.npz',
      '--output=./x.npz',
      part='--output=./x.npz: the images to encode are there',
    )

  def test_a_config_that_was_trained_is_accepted(self):
    workdir = self.trained()
    code, *_ = self.run_main(
      '--mode=evaluate', '--config=toy.py', f'--workdir={workdir}'
    )
    self.assertEqual(code, 0)

  @parameterized.parameters('--config=toy.py', '--config.seed=4')
  def test_another_config_is_refused(self, argument):
    workdir = self.trained()
    extra = ['--config.seed=4'] if argument == '--config=toy.py' else []
    self.assert_refused(
      '--mode=evaluate',
      argument,
      *extra,
      f'--workdir={workdir}',
      part='config.seed differs from',
    )

  @parameterized.parameters(
    ('--mode=evaluate',),
    ('--mode=sample',),
    ('--mode=encode', '--images=test'),
  )
  def test_a_workdir_is_needed(self, *argv):
    self.assert_refused(*argv, part='--workdir is missing')
    self.assert_refused(*argv, '--workdir=nowhere', part='no such folder')

  def test_a_trained_workdir_is_needed(self):
    os.mkdir('empty')
    self.assert_refused(
      '--mode=sample', '--workdir=empty', part='config.json: no such file'
    )
    workdir = self.trained(checkpoint=False)
    self.assert_refused(
      '--mode=sample', f'--workdir={workdir}', part='holds no checkpoint'
    )

  @parameterized.parameters('config.json', 'checkpoints')
  def test_what_may_not_be_read_is_reported(self, name):
    path = pathlib.Path(self.trained(), name)
    path.chmod(0)
    with rights_case.as_nobody(path):
      code, calls, out, err = self.run_main(
        '--mode=evaluate', f'--workdir={path.parent}'
      )
    self.assertEqual((code, calls, out), (1, [], ''))
    self.assertRegex(
      err,
      rf'^error: {path} cannot be read \(Permission denied\); [^\n]*'
      r'--workdir[^\n]*\n$',
    )
    self.assertNotIn('LDC_VAE_TRACEBACK', err)


class MistakesTest(main_case.MainTestCase):
  @parameterized.parameters(
    ([], '--config is missing'),
    (['--config='], '--config is missing'),
    (['--config'], 'config'),
    (['--config=digits.py'], '--config=digits.py: there is no such'),
    (['--config=toy.py:vea'], "unknown method 'vea'"),
    (['--config=toy.py', 'x'], "'x' is not a flag"),
    (['--config=toy.py', '--workdr=x'], 'Did you mean: workdir'),
    (['--config=toy.py', '--config.seed=-1'], 'config.seed=-1'),
    (['--config=toy.py', '--config.seed', '-1'], 'config.seed=-1'),
    (['--config=toy.py', '--config.sede=1'], 'did you mean seed?'),
    (['--config=toy.py', '--mode=tarin'], 'train, evaluate, sample'),
    (['--config=toy.py', '--num_samples=3'], '--mode=sample only'),
    (['--config=toy.py', '--output=3'], '--mode=sample and --mode=encode'),
    (['--mode=sample', '--num_samples=0'], 'num_samples=0'),
    (['--mode=sample', '--num_samples=many'], 'num_samples=many'),
    (['--config=toy.py', '--process_id=0'], '--coordinator_address is mis'),
    (['--config=toy.py', '--num_processes=0'], 'num_processes=0'),
  )
  def test_are_reported_in_one_sentence(self, argv, part):
    self.assert_refused(*argv, part=part)

  @parameterized.parameters(
    ('localhost', 2, 0, 'not HOST:PORT'),
    ('localhost:http', 2, 0, 'not HOST:PORT'),
    (':8476', 2, 0, 'not HOST:PORT'),
    ('localhost:99999', 2, 0, 'not HOST:PORT'),
    ('localhost:8476', 2, 2, 'use 0 to 1'),
  )
  def test_of_several_processes_are_reported(self, address, count, index, part):
    self.assert_refused(
      '--config=toy.py',
      f'--coordinator_address={address}',
      f'--num_processes={count}',
      f'--process_id={index}',
      part=part,
    )


class PathsTest(absltest.TestCase):
  def test_a_tilde_is_the_users_home(self):  # bash leaves it after a =
    with mock.patch.dict(os.environ, HOME='/home/me'):
      values, _ = cli.parse(['--mode=sample', '--workdir=~/w', '--output=x'])
    self.assertEqual((values.workdir, values.output), ('/home/me/w', 'x'))


if __name__ == '__main__':
  absltest.main()
