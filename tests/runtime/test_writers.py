"""Tests of ldc_vae.runtime.writers with the packages that they write for.

Those whose package is not installed are skipped.
"""

import pathlib
from unittest import mock

from absl.testing import absltest
import numpy as np
from PIL import Image
import pytest

from ldc_vae.runtime import copies
from ldc_vae.runtime import writers

_RESULTS = {'kid': 0.25, 'protocol/data': 'digits'}
_LATENTS = {'generator': np.linspace(-1.0, 1.0, 40).reshape(20, 2)}


class _WriterTest(absltest.TestCase):
  """Two starts of a run, the second from step 2, and two evaluations."""

  def setUp(self):
    super().setUp()
    self.dir = pathlib.Path(self.create_tempdir().full_path)
    self.folder = self.dir / 'logging'
    self.figures = self.dir / 'figures'
    self.figures.mkdir()
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    Image.fromarray(pixels).save(self.figures / 'sample_grid.png')
    self.pixels = pixels

  def write(self, name, *, step=0, steps=(), evaluate=False, seed=0):
    target = writers.Target(
      folder=self.folder,
      name='a run',
      project='a project',
      config={'seed': seed, 'method.name': 'ldc'},
      step=step,
    )
    with (
      self.assertNoLogs('absl', 'WARNING'),
      mock.patch.object(copies, '_PATIENCE', 100.0),  # of a busy machine
      copies.Copies([name], target) as each,
    ):
      for step in steps:
        each.scalars(step, {'train/loss': 10.0 - step})
      if evaluate:
        each.evaluation(4, _RESULTS, self.figures, _LATENTS)

  def write_all(self, name):
    self.write(name, steps=(1, 2, 3))
    self.write(name, step=2, steps=(3, 4))
    for _ in range(2):
      self.write(name, step=4, evaluate=True)


class TensorBoardTest(_WriterTest):
  def setUp(self):
    super().setUp()
    pytest.importorskip('tensorboardX')

  def test_event_files_have_each_step_once(self):
    self.write_all('tensorboard')
    proto = pytest.importorskip('tensorboardX.proto.event_pb2')
    found, images = [], []
    for path in sorted(self.folder.glob('tensorboard/**/events*')):
      for record in _events(path.read_bytes()):
        event = proto.Event.FromString(record)
        for value in event.summary.value:
          if value.HasField('image'):
            images.append((event.step, value.tag, value.image.width))
          else:
            found.append((value.tag, event.step, value.simple_value))
    losses = [each for each in found if each[0] == 'train/loss']
    self.assertEqual(
      losses, [('train/loss', step, 10.0 - step) for step in (1, 2, 3, 4)]
    )
    self.assertIn(('kid', 4, 0.25), found)
    self.assertEqual(images, [(4, 'sample_grid', 4)])

  def _read(self, name=''):
    reader = pytest.importorskip(
      'tensorboard.backend.event_processing.event_accumulator'
    )
    found = reader.EventAccumulator(str(self.folder / 'tensorboard' / name))
    return found.Reload()

  def test_the_reader_of_tensorboard_finds_each_step_once(self):
    self.write_all('tensorboard')
    self.assertEqual(
      [(x.step, x.value) for x in self._read().Scalars('train/loss')],
      [(1, 9.0), (2, 8.0), (3, 7.0), (4, 6.0)],
    )

  def test_an_evaluation_replaces_the_one_before(self):
    self.write_all('tensorboard')
    found = self._read('evaluation')
    self.assertEqual([x.value for x in found.Scalars('kid')], [0.25])
    (image,) = found.Images('sample_grid')
    self.assertEqual((image.width, image.height), (4, 2))
    (histogram,) = found.Histograms('latents/generator')
    self.assertEqual(histogram.histogram_value.num, 40)
    self.assertEqual(histogram.histogram_value.min, -1.0)
    plugins = pytest.importorskip('tensorboard.plugins.hparams.plugin_data_pb2')
    content = found.SummaryMetadata('_hparams_/session_start_info')
    start = plugins.HParamsPluginData.FromString(content.plugin_data.content)
    hparams = start.session_start_info.hparams
    self.assertEqual(hparams['method.name'].string_value, 'ldc')
    self.assertEqual(hparams['seed'].number_value, 0.0)

  def test_another_run_in_its_place_has_its_own_curves(self):
    self.write('tensorboard', steps=(1, 2))
    self.write('tensorboard', steps=(1,), seed=1)
    self.assertLen(self._read().Scalars('train/loss'), 1)


class WeightsAndBiasesTest(_WriterTest):
  def setUp(self):
    super().setUp()
    pytest.importorskip('wandb')
    environment = {'WANDB_MODE': 'offline', 'WANDB_API_KEY': ''}
    self.enter_context(mock.patch.dict('os.environ', environment))

  def _records(self):
    """The records of all starts, in their order."""
    proto = pytest.importorskip('wandb.proto.wandb_internal_pb2')
    found = []
    for path in sorted(self.folder.glob('wandb/offline-run-*/*.wandb')):
      found += [proto.Record.FromString(x) for x in _records(path.read_bytes())]
    return found

  def test_offline_runs_have_each_step_once(self):
    self.write_all('wandb')
    records = self._records()
    losses = []
    for record in records:
      items = {
        item.key or '.'.join(item.nested_key): item.value_json
        for item in record.history.item
      }
      if 'train/loss' in items:
        losses.append((int(items['_step']), float(items['train/loss'])))
    self.assertEqual(losses, [(1, 9.0), (2, 8.0), (3, 7.0), (4, 6.0)])
    identities = {x.run.run_id for x in records if x.HasField('run')}
    self.assertLen(identities, 1)
    config = {
      item.key: item.value_json
      for record in records
      for item in record.run.config.update
    }
    self.assertEqual(config['method.name'], '"ldc"')
    summary = {
      item.key or '.'.join(item.nested_key): item.value_json
      for record in records
      for item in record.summary.update
    }
    self.assertEqual(summary['kid'], '0.25')
    pictures = list(self.folder.glob('wandb/*/files/media/images/*.png'))
    self.assertNotEmpty(pictures)


class MlflowTest(_WriterTest):
  def setUp(self):
    super().setUp()
    pytest.importorskip('mlflow')
    pytest.importorskip('sqlalchemy')
    self.enter_context(
      mock.patch.dict('os.environ', {'MLFLOW_TRACKING_URI': ''})
    )

  def test_a_local_store_has_each_step_once(self):
    self.folder.mkdir()  # a killed process has left a half of it
    (self.folder / 'mlflow.db.new').write_bytes(b'half')
    self.write_all('mlflow')
    mlflow = pytest.importorskip('mlflow')
    client = mlflow.MlflowClient(
      tracking_uri=f'sqlite:///{self.folder / "mlflow.db"}'
    )
    experiment = client.get_experiment_by_name('a project')
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, 'train/loss')
    self.assertEqual(
      [(x.step, x.value) for x in history],
      [(1, 9.0), (2, 8.0), (3, 7.0), (4, 6.0)],
    )
    self.assertEqual(run.data.metrics['kid'], 0.25)
    self.assertEqual(run.data.params, {'seed': '0', 'method.name': 'ldc'})
    self.assertEqual(run.info.status, 'FINISHED')
    self.assertFalse((self.folder / 'mlflow.db.new').exists())
    (artifact,) = client.list_artifacts(run.info.run_id, 'figures')
    self.assertEqual(artifact.path, 'figures/sample_grid.png')


def _events(content):
  """Yields the events of a file: length, its sum, event, its sum."""
  place = 0
  while place < len(content):
    length = int.from_bytes(content[place : place + 8], 'little')
    yield content[place + 12 : place + 12 + length]
    place += 16 + length


def _records(content):
  """Yields the records of a .wandb file, which is a log of LevelDB."""
  place, parts = 7, []  # after its own header
  while place + 7 <= len(content):
    if 32768 - place % 32768 < 7:  # the rest of a block is empty
      place += 32768 - place % 32768
      continue
    length = int.from_bytes(content[place + 4 : place + 6], 'little')
    kind = content[place + 6]  # 1: whole, 2: first, 3: middle, 4: last
    parts.append(content[place + 7 : place + 7 + length])
    place += 7 + length
    if kind in (1, 4):
      yield b''.join(parts)
      parts = []


if __name__ == '__main__':
  absltest.main()
