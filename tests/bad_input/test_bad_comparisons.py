"""Mistakes in what a comparison is asked for."""

from absl.testing import absltest
from absl.testing import parameterized

from tests.bad_input import bad_input_case

_CONFIG = bad_input_case.CONFIG
_Case = bad_input_case.Case
_LASTING = bad_input_case.LASTING
_VAE = bad_input_case.VAE
_file = bad_input_case.write_file
_DIGITS = 'configs/digits.py,debug'


def _compare(*flags, config=_DIGITS):
  return (f'--config={config}', '--mode=compare', '--workdir=w', *flags)


_COMPARISONS = {
  'no_config': _Case(('--mode=compare',), r'--config is missing; give a run'),
  'unknown_method': _Case(
    _compare('--methods=vae,lcd'),
    r"--methods=vae,lcd: unknown method 'lcd' \(did you mean ldc\?\);"
    r' known: ldc, ae, vae, ',
  ),
  'method_twice': _Case(
    _compare('--methods=vae,ldc,vae'), r'vae is there twice; name each'
  ),
  'no_method': _Case(_compare('--methods='), r"unknown method ''.*; known:"),
  'method_after_the_colon': _Case(
    _compare(config=_VAE),
    r'--config=configs/digits.py:vae,debug: .* from --methods; use'
    r' --config=configs/digits.py',
  ),
  'word_as_seed': _Case(
    _compare('--seeds=0,one'), r"--seeds=0,one: 'one' is no seed; use whole"
  ),
  'negative_seed': _Case(_compare('--seeds=-1'), r"'-1' is no seed; use who"),
  'huge_seed': _Case(_compare('--seeds=4294967296'), r'is no seed; use who'),
  'seed_twice': _Case(
    _compare('--seeds=1,2,1'), r'--seeds=1,2,1: 1 is there twice; name each'
  ),
  'no_seed': _Case(_compare('--seeds='), r"'' is no seed; use whole numbers"),
  'seed_of_the_config': _Case(
    _compare('--config.seed=3'),
    r'--config.seed: a comparison takes its seeds from --seeds; use that',
  ),
  'seed_of_a_method': _Case(
    _compare('--config.vae.seed=3'), r'--config.vae.seed: .* from --seeds'
  ),
  'field_of_some_methods': _Case(
    _compare('--config.method.beta=2', '--methods=ldc,vae'),
    r'--config.method.beta: of the compared methods only vae has this'
    r' field; set it .* as --config.vae.method.beta=VALUE',
  ),
  'field_of_none': _Case(
    _compare('--config.method.bta=2'),
    r'--config.method.bta: no such field; did you mean method.beta',
  ),
  'field_of_a_method_left_out': _Case(
    _compare('--config.vae.method.beta=2', '--methods=ldc'),
    r'--config.vae.method.beta: vae is not among --methods=ldc; add it',
  ),
  'value_out_of_range': _Case(
    _compare('--config.train.batch_size=0'), r'batch_size=0 .*use 1 or more'
  ),
  'a_classifier_of_its_own': _Case(
    _compare('--config.vae.evaluate.split=validation'),
    r"config.evaluate.split is '\w+' for \w+ and '\w+' for \w+; compare",
    _LASTING,
  ),
  'no_job': _Case(_compare('--jobs=0'), r'jobs=0.* 1|jobs=0.*positive'),
  'many_jobs': _Case(
    _compare('--jobs=100000'),
    r'--jobs=100000 is more than the \d+ cores .*; use that many',
    _LASTING,
  ),
  'several_processes': _Case(
    _compare('--num_processes=2'),
    r'--num_processes: --mode=compare starts its runs by itself',
  ),
  'a_workdir_that_is_a_file': _Case(
    _compare('--methods=vae'),
    r'--workdir=w: it is a file; give a folder',
    setup=_file('w', ''),
  ),
  'a_batch_that_is_too_large': _Case(
    _compare('--methods=vae', '--config.train.batch_size=4000'),
    r'config.train.batch_size=4000 is more than the \d+ training images',
    _LASTING,
  ),
}
for _flag, _mode in (
  ('methods=vae', 'train'),
  ('seeds=0', 'sample'),
  ('jobs=2', 'evaluate'),
):
  _COMPARISONS[f'{_flag}_of_{_mode}'] = _Case(
    (f'--config={_CONFIG}', f'--mode={_mode}', f'--{_flag}'),
    rf'--{_flag.partition("=")[0]}: read by --mode=compare only; leave it',
  )
_COMPARISONS['num_samples_of_compare'] = _Case(
  _compare('--num_samples=3'), r'--num_samples: read by --mode=sample only'
)


class ComparisonsTest(bad_input_case.BadInputTest):
  @parameterized.named_parameters(*_COMPARISONS.items())
  def test_reported(self, case):
    self.check(case)


if __name__ == '__main__':
  absltest.main()
