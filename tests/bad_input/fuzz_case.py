"""Random mistakes: commands, configs, run files, images, files of a workdir.

Each function takes a generator of random numbers and the folder of the test,
which it may fill, and returns the arguments of a command. The same seed gives
the same mistake.
"""

import io
import json
import pathlib
import random

import numpy as np
from PIL import Image

from ldc_vae import config as config_lib
from tests.bad_input import bad_input_case

_DEEP = 100_000
_WORDS = (
  *('', ' ', '0', '-1', '1', '3', '1e3', '1e999', 'nan', '-inf', '0x10'),
  *('true', 'None', 'null', '()', '(,)', '((1))', '[1', '1,2,3', '{}', '{"a":'),
  *('9' * 30, '9' * 5000, '1_0', '٣', 'é', '\udcff', 'a\nb', '\x1b[31mred'),
  *('../..', '/', '/dev/null', '~nobody/x', 'x' * 300, '%s%n', '{0}', '=', ':'),
  *('vae', 'ldc', 'digits', 'mlp', 'gmm_0', 'gmm_9999999', 'implicit', 'debug'),
)
_VALUES = (
  *(None, True, -1, 0, 1e308, 2**64, '', 'x', [], {}, [[[]]], {'a': None}),
  *(float('nan'), float('inf'), '\x1b[31m', 'x' * 5000, [None], ['a', 1]),
)
_FILES = (
  *(b'', b'null', b'[]', b'{}', b'"x"', b'1', b'NaN', b'9' * 5000, b'\xff\xfe'),
  *(b'[' * _DEEP, b'{"a":' * _DEEP, b'\0' * 100, b'{"config": null}'),
)


# Flags and fields.


def flags(rng: random.Random, folder: pathlib.Path) -> list[str]:
  """A command with odd flags, one of which may be missing."""
  del folder
  names = (
    *('config', 'workdir', 'mode', 'output', 'num_samples', 'methods', 'seeds'),
    *('jobs', 'coordinator_address', 'num_processes', 'process_id', 'flagfile'),
  )
  argv = list(bad_input_case.train_argv(config=bad_input_case.VAE))
  for _ in range(rng.randint(1, 3)):
    name, word = rng.choice(names), rng.choice(_WORDS)
    if name == 'mode':
      word = rng.choice(('evaluate', 'sample', 'check', 'compare', word))
    form = rng.choice(('--{}={}', '-{}={}', '--{} {}', '--{}', '{1}', '--no{}'))
    argv.insert(rng.randint(0, len(argv)), form.format(name, word))
  if rng.random() < 0.3:
    argv.pop(rng.randrange(len(argv)))
  return argv


def fields(rng: random.Random, folder: pathlib.Path) -> list[str]:
  """A run with one or two fields that have odd values or names."""
  del folder
  method = rng.choice(('vae', 'ldc', 'stein_vae', 'vamp', 'lebm', 'rae_gp'))
  spec = f'configs/digits.py:{method},debug'
  known = sorted(config_lib.flatten(config_lib.load(spec)))
  argv = [f'--config={spec}', '--workdir=w']
  for _ in range(rng.randint(1, 2)):
    name = rng.choice(known)
    if rng.random() < 0.15:
      name = _change_text(rng, name)
    form = rng.choice(
      ('--config.{}={}',) * 6 + ('--config.{}', '-config.{}={}')
    )
    argv.append(form.format(name, rng.choice(_WORDS)))
  return argv


def _change_text(rng: random.Random, text: str) -> str:
  """A text with one character deleted, doubled or exchanged."""
  at = rng.randrange(len(text))
  return text[:at] + rng.choice(('', text[at] * 2, '.', 'é')) + text[at + 1 :]


# Run files.

_BODIES = (
  'quit()',
  'import sys; sys.exit(0)',
  'exit("done")',
  'raise SystemExit',
  'raise GeneratorExit',
  'raise BaseException("odd")',
  'return None',
  'return 3',
  'return {}',
  'return config.to_dict()',
  'return get_config(arg)',
  'return default',
  'config.train = config; return config',
  'with config.unlocked(): config.me = config\n  return config',
  'with config.unlocked(): config.train.me = config\n  return config',
  'with config.unlocked(): del config.train\n  return config',
  'with config.unlocked(): del config.method.name\n  return config',
  'with config.unlocked(): config.train = 3\n  return config',
  'with config.unlocked(): config.method = None\n  return config',
  'with config.unlocked(): config.model = ()\n  return config',
  'with config.unlocked(): config.extra = object()\n  return config',
  'with config.unlocked(): config.method.name = ["vae"]\n  return config',
  'with config.unlocked(): config.train.batch_sise = 3\n  return config',
  'with config.unlocked(): config.train.batch_size = "3"\n  return config',
  'with config.unlocked(): config.model.hidden_sizes = [None]\n  return config',
  'with config.unlocked(): config.extensions = 3\n  return config',
  'with config.unlocked(): config.extensions = (3,)\n  return config',
  'with config.unlocked(): config.seed = True\n  return config',
  'config.seed = 2**70; return config',
  'config.train.batch_size = 0; return config',
  'config.model.latent_size = 10**9; return config',
  'open("/nowhere/x"); return config',
  'import nothing_of_this_name',
  'raise MemoryError',
  'raise UnicodeDecodeError("utf-8", b"x", 0, 1, "odd")',
  'raise type("Odd", (Exception,), {"__str__": lambda self: 1 / 0})()',
  'print("x"); return default.finish(config)',
)


def run_file(rng: random.Random, folder: pathlib.Path) -> list[str]:
  """A run file of the user's own that does something odd."""
  body = rng.choice(_BODIES)
  text = (
    'from ldc_vae.configs import default\n\n'
    "def get_config(arg=''):\n"
    '  config = default.create(arg)\n'
    f'  {body}\n'
  )
  if rng.random() < 0.2:
    text = f'{rng.choice(_BODIES[:7])}\n{text}'
  data = text.encode()
  if rng.random() < 0.3:
    data = _damage(rng, data)
  (folder / 'own.py').write_bytes(data)
  word = rng.choice(('vae,debug', 'vae,debug', 'debug', '', 'vae,', '٣', ','))
  return [f'--config=own.py:{word}', '--workdir=w']


# Images.


def _damage(rng: random.Random, data: bytes) -> bytes:
  """A file with some bits flipped, cut off, cut out, doubled or all new."""
  kind = rng.randrange(6)
  if kind == 0 or not data:
    return rng.choice(_FILES)
  first, second = sorted(rng.randrange(len(data)) for _ in range(2))
  if kind == 1:
    return data[:first]
  if kind == 2:
    return data[:first] + data[second:]
  if kind == 3:
    return data[:second] + data[first:]
  changed = bytearray(data)
  # headers are short, and what follows is seldom looked at
  last = min(len(data), 200) if kind == 4 else len(data)
  for _ in range(rng.choice((1, 1, 1, 2, 5))):
    changed[rng.randrange(last)] ^= 1 << rng.randrange(8)
  return bytes(changed)


def arrays(rng: random.Random, folder: pathlib.Path) -> list[str]:
  """An array file with a damaged header or content."""
  images = np.zeros((80, 8, 8), rng.choice(('u1', 'f4', 'f8', 'i4', '?')))
  file = io.BytesIO()
  suffix = rng.choice(('npy', 'npz'))
  if suffix == 'npy':
    np.save(file, images)
  else:
    save_fn = rng.choice((np.savez, np.savez_compressed))
    save_fn(file, images=images, labels=np.arange(80) % 2)
  (folder / f'x.{suffix}').write_bytes(_damage(rng, file.getvalue()))
  return _images(rng, f'x.{suffix}')


def pictures(rng: random.Random, folder: pathlib.Path) -> list[str]:
  """A folder of pictures, one of them damaged."""
  (folder / 'pictures').mkdir()
  suffix = rng.choice(('png', 'jpg', 'gif', 'bmp', 'tiff', 'webp'))
  for index in range(60):
    path = folder / 'pictures' / f'{index}.{suffix}'
    Image.new('L', (8, 8), index).save(path)
  path.write_bytes(_damage(rng, path.read_bytes()))
  return _images(rng, 'pictures')


def _images(rng: random.Random, path: str) -> list[str]:
  """The command that trains on images of one's own."""
  argv = [
    f'--config={bad_input_case.IMAGES}',
    '--workdir=w',
    f'--config.dataset.path={path}',
    '--config.model.architecture=mlp',
  ]
  if rng.random() < 0.2:
    field = rng.choice(('image_size', 'num_channels', 'num_test'))
    argv.append(f'--config.dataset.{field}={rng.choice((1, 3, 40, 10**9))}')
  return argv


# Files of a workdir and of the cache.


def workdir(rng: random.Random, folder: pathlib.Path) -> list[str]:
  """A trained workdir, one file of which is damaged."""
  path = folder / 'trained'
  names = ('config.json', 'results.json', 'metrics.jsonl')
  is_likely = rng.random() < 0.7  # that one of these is damaged
  _damage_file(
    rng, path / rng.choice(names) if is_likely else rng.choice(_files(path))
  )
  mode = rng.choice(('evaluate', 'sample', 'check', 'train'))
  config = [f'--config={bad_input_case.VAE}'] if mode == 'train' else []
  return [*config, f'--mode={mode}', '--workdir=trained']


def comparison(rng: random.Random, folder: pathlib.Path) -> list[str]:
  """A comparison of one run, a file of which is damaged."""
  path = folder / 'c' / 'vae_seed0'
  path.parent.mkdir()
  (folder / 'trained').rename(path)
  (path / 'command.json').write_text('{"seconds": 3.0}')
  is_likely = rng.random() < 0.7
  _damage_file(
    rng, path / 'results.json' if is_likely else rng.choice(_files(path))
  )
  argv = ['--mode=compare', '--methods=vae', '--seeds=0', '--workdir=c']
  return [f'--config={bad_input_case.COMPARED}', *argv]


def _files(path: pathlib.Path) -> list[pathlib.Path]:
  """Returns the files of a workdir, sorted."""
  return sorted(each for each in path.rglob('*') if each.is_file())


def _damage_file(rng: random.Random, path: pathlib.Path) -> None:
  """Damages a file; one of JSON often remains valid JSON."""
  data = path.read_bytes()
  try:
    record = json.loads(data) if rng.random() < 0.7 else None
  except ValueError:
    record = None
  if isinstance(record, dict) and record:
    path.write_text(json.dumps(_change(rng, record)))
  else:
    path.write_bytes(_damage(rng, data))


def _change(rng: random.Random, record):
  """A JSON value, one part of which is replaced, renamed or left out."""
  places = []

  def walk(node):
    for key in list(node) if isinstance(node, dict) else range(len(node)):
      places.append((node, key))
      if isinstance(node[key], (dict, list)):
        walk(node[key])

  walk(record)
  node, key = rng.choice(places)
  kind = rng.randrange(3) if isinstance(node, dict) else 0
  if kind == 0:
    node[key] = rng.choice(_VALUES)
  elif kind == 1:
    del node[key]
  else:
    node[_change_text(rng, key)] = node.pop(key)
  return record


def cache(rng: random.Random, folder: pathlib.Path) -> list[str]:
  """A cache of images, one file of which is damaged."""
  entries = (folder.parent / 'cache' / 'arrays').glob('images-*/*')
  file = rng.choice(sorted(path for path in entries if path.is_file()))
  _damage_file(rng, file)
  return _images(random.Random(0), '../whole.npy')


KINDS = (flags, fields, run_file, arrays, pictures, workdir, cache, comparison)
