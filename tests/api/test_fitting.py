"""Tests of ldc_vae.api.fitting: training from arrays."""

import inspect
import os
import pathlib
import shutil
import signal
import tempfile
from unittest import mock

from absl.testing import absltest
from absl.testing import parameterized
import numpy as np
from sklearn import datasets as sklearn_datasets

import ldc_vae
from ldc_vae import config as config_lib
from ldc_vae import evaluate
from ldc_vae import train
from ldc_vae.api import fitting
from ldc_vae.runtime import progress
from tests import train_case

_TRAIN = {'num_steps': 12, 'checkpoint_every': 5, 'log_every': 3}
_IMAGES = sklearn_datasets.load_digits().images[:300] / 16


class FitTest(train_case.TrainTest):
  def setUp(self):
    super().setUp()
    self.cache = self.enter_context(tempfile.TemporaryDirectory())
    self.enter_context(mock.patch.dict(os.environ, LDC_VAE_CACHE=self.cache))

  def fit(self, images=_IMAGES, name='run', **options):
    options = {
      'method': 'vae',
      'config': 'digits,debug',
      'train': _TRAIN,
      'workdir': self.dir / name,
      **options,
    }
    return ldc_vae.fit(images, **options)

  def kept(self):
    return sorted(pathlib.Path(self.cache, 'fitted').glob('*.npz'))


class SameCodeTest(FitTest):
  def test_the_weights_are_those_of_the_command_line(self):
    run = self.fit(_IMAGES, seed=3, model={'latent_size': 4})
    np.save(self.dir / 'images.npy', _IMAGES)
    config = config_lib.load(
      'digits:vae,debug',
      {
        'seed': 3,
        'model.latent_size': 4,
        'dataset.name': 'images',
        'dataset.path': str(self.dir / 'images.npy'),
        **{f'train.{name}': value for name, value in _TRAIN.items()},
      },
    )
    train.train_and_evaluate(config, self.dir / 'typed')
    train_case.assert_same(run.params, ldc_vae.load(self.dir / 'typed').params)
    self.assertEqual((run.step, run.workdir), (12, self.dir / 'run'))
    self.assertEqual(run.sample(3).shape, (3, 8, 8, 1))
    evaluate.evaluate.assert_called_once()  # by the command line alone

  def test_the_same_images_are_kept_once(self):
    self.fit(_IMAGES)
    (path,) = self.kept()
    before = path.stat().st_ino
    images = np.round(255 * _IMAGES).astype(np.uint8)[..., np.newaxis]
    run = self.fit(images)  # trained already
    self.assertEqual([x.stat().st_ino for x in self.kept()], [before])
    self.assertEqual(run.step, 12)

  def test_what_is_kept_has_a_bound(self):
    folder = pathlib.Path(self.cache, 'fitted')
    folder.mkdir()
    old = folder / 'old.npz'
    old.write_bytes(b'x')
    os.utime(old, (0, 0))
    with mock.patch.object(fitting, '_MAX_BYTES', 1):
      self.fit()
    self.assertLen(self.kept(), 1)
    self.assertNotIn(old, self.kept())

  def test_an_evaluation_can_be_asked_for(self):
    run = self.fit(labels=np.arange(300) % 10, with_evaluation=True)
    evaluate.evaluate.assert_called_once()
    with np.load(run.config.dataset.path) as kept:
      self.assertEqual(kept['labels'].shape, (300,))

  def test_a_folder_is_made_where_none_is_given(self):
    run = self.fit(workdir=None)
    self.addCleanup(shutil.rmtree, run.workdir)
    self.assertStartsWith(str(run.workdir), tempfile.gettempdir())

  @parameterized.parameters(((8, 8), 'mlp'), ((28, 28), 'conv'))
  def test_the_size_chooses_the_nets(self, shape, architecture):
    name = fitting._default_config(np.zeros((3, *shape, 1), np.uint8))
    config = config_lib.execute(name)
    self.assertEqual(config.model.architecture, architecture)


class InterruptTest(FitTest):
  def test_what_was_interrupted_is_usable_and_continues(self):
    update = progress.ProgressBar.update
    watched = []

    def interrupt(bar, step, loss_fn):
      update(bar, step, loss_fn)
      if step == 7:
        watched.append(fitting.signals._active)
        signal.raise_signal(signal.SIGINT)

    with mock.patch.object(progress.ProgressBar, 'update', interrupt):
      with self.assertRaisesRegex(
        KeyboardInterrupt, r"^step 7 is saved: ldc_vae.load\('.*run'\) gives"
      ):
        self.fit()
    # no notebook is ended where the saving takes longer
    self.assertEqual(watched[0].deadline, float('inf'))
    part = ldc_vae.load(self.dir / 'run')
    self.assertEqual((part.step, part.sample(2).shape), (7, (2, 8, 8, 1)))
    train_case.assert_same(self.fit().params, self.fit(name='whole').params)

  def test_nothing_may_have_been_saved(self):
    with mock.patch.object(
      train, 'train_and_evaluate', side_effect=KeyboardInterrupt
    ):
      with self.assertRaisesRegex(KeyboardInterrupt, 'nothing was saved yet'):
        self.fit()


class MistakesTest(FitTest):
  def test_another_run_is_refused(self):
    self.fit()
    with self.assertRaisesRegex(ldc_vae.UserError, 'a run on other .* images'):
      self.fit(_IMAGES[::-1])
    with self.assertRaisesRegex(ldc_vae.UserError, '[^.]seed=0, not 1'):
      self.fit(seed=1)

  @parameterized.named_parameters(
    ('shape', np.zeros((9, 5)), r'images have shape \(9, 5\): expected \[N, H'),
    ('channels', np.zeros((9, 5, 5, 2)), r'\(9, 5, 5, 2\)'),
    ('one', np.zeros((9, 5, 3)), r'\(9, 5, 3\): .*, not one image'),
    ('first', np.zeros((9, 3, 5, 5)), r'images.transpose\(0, 2, 3, 1\)'),
    ('none', np.zeros((0, 5, 5)), r'\(0, 5, 5\)'),
    ('range', np.full((9, 5, 5), 16.0), r'in \[16, 16\]; give uint8, or float'),
    (
      'integers',
      np.zeros((9, 5, 5), int),
      'dtype int64; give uint8, or floats',
    ),
    ('few', np.zeros((2, 8, 8)), 'give at least 3 images, one'),
    ('ragged', [[1], [2, 3]], 'images make no NumPy array'),
    ('nothing', None, r'shape \(\)'),
  )
  def test_images(self, images, part):
    with self.assertRaisesRegex(ldc_vae.UserError, part):
      self.fit(images)

  @parameterized.named_parameters(
    ('method', {'method': 'vea'}, r"'vea' is unknown \(did you mean vae\?\)"),
    ('no_method', {'method': {'beta': 2.0}}, 'give a name, such as'),
    ('none', {'method': None}, 'method=None: give a name, such as'),
    ('twice', {'config': 'mnist:vae'}, "mnist:vae': say method='vae' instead"),
    ('bare', {'epochs': 3}, '^epochs: no such field; did you mean'),
    ('field', {'train': {'num_epoch': 3}}, 'did you mean train.num_epochs'),
    ('type', {'train': {'num_epochs': 'x'}}, 'num_epochs=x: not a whole numb'),
    ('range', {'train': {'num_epochs': -1}}, '^train.num_epochs=-1 is too'),
    ('group', {'train': 3}, '^train: a group of fields; set one of'),
    ('own', {'method': {'name': 'vae', 'bet': 1}}, 'did you mean method.beta'),
    ('path', {'dataset': {'path': 'x'}}, 'dataset.path: fit takes its images'),
    ('config', {'config': 'mnits'}, '^config=mnits: .* did you mean mnist'),
    ('seed', {'seed': -1}, r'^seed=-1 is outside'),
    ('labels', {'labels': [1, 2]}, r'int64\[2\]; give .* of the 300 images'),
    ('halves', {'labels': [0.5] * 300}, r'float64\[300\]; give a whole'),
    ('two_hot', {'labels': np.ones((300, 2))}, r'float64\[300, 2\]; give'),
    ('ragged', {'labels': [[1], [2, 3]]}, 'labels make no NumPy array'),
    ('batch', {'train': {'batch_size': 4000}}, 'more than the 240 training'),
  )
  def test_options(self, options, part):
    with self.assertRaisesRegex(ldc_vae.UserError, part) as raised:
      self.fit(**options)
    self.assertNotRegex(str(raised.exception), r'--|config\.')
    self.assertFalse((self.dir / 'run').exists())

  def test_a_workdir_may_be_in_a_bucket(self):
    store = self.dir / 'store' / 'run'
    run = self.fit(workdir=f'file://{store}')
    self.assertStartsWith(str(run.workdir), self.cache)
    shutil.rmtree(run.workdir)
    again = ldc_vae.load(f'file://{store}')
    self.assertStartsWith(str(again.workdir), self.cache)
    np.testing.assert_array_equal(again.sample(5), run.sample(5))
    with self.assertRaisesRegex(ldc_vae.UserError, '^workdir=gs://b: give a'):
      self.fit(workdir='gs://b')
    with self.assertRaisesRegex(ldc_vae.UserError, '^workdir=gs://b: give a'):
      ldc_vae.load('gs://b')

  def test_whole_floats_and_one_hot_rows_are_labels(self):
    labels = np.arange(30) % 3
    for given in (
      labels.astype(float),
      np.eye(3)[labels],
      np.eye(3, dtype=bool)[labels],
    ):
      checked = fitting._checked_labels(given, 30)
      np.testing.assert_array_equal(checked, labels)
      self.assertEqual(checked.dtype.kind, 'i')

  def test_the_signature_is_the_documented_one(self):
    names = list(inspect.signature(ldc_vae.fit).parameters)
    self.assertEqual(names[:4], ['images', 'labels', 'method', 'workdir'])


if __name__ == '__main__':
  absltest.main()
