"""Tests of ldc_vae.fields."""

import dataclasses
from typing import ClassVar

from absl.testing import absltest
from absl.testing import parameterized

from ldc_vae import errors
from ldc_vae import fields

_COLOURS = {'red': 1, 'green': 2}


@dataclasses.dataclass(frozen=True)
class _Paint(fields.Options):
  """Paint."""

  group: ClassVar[str] = 'paint'

  colour: str = fields.one_of(_COLOURS, default='red', help='the colour')
  layers: int = fields.at_least(1, default=2, help='layers')
  share: float = fields.fraction(high=False, default=0.5, help='share of water')
  bound: float = fields.at_most(1, default=0.0, help='an upper bound')
  scale: float = fields.positive(default=1.0, help='the scale')
  sizes: tuple[int, ...] = fields.sizes(default=(3, 4), help='brushes')
  dry: bool = fields.field(False, 'whether it is dry')
  thinner: str = fields.field('none', 'name or share', also=(float,))

  def check(self):
    if self.dry and self.layers > 2:
      raise self.conflict(('dry', 'layers'), 'will crack')


class OptionsTest(parameterized.TestCase):
  def test_defaults_hold(self):
    self.assertEqual(_Paint().sizes, (3, 4))

  @parameterized.parameters(
    ({'colour': 'redd'}, 'paint.colour=redd is unknown .*mean red.*: red, g'),
    ({'layers': 0}, 'paint.layers=0 is too small; use 1 or more'),
    ({'layers': 1.5}, 'paint.layers=1.5: not a whole number'),
    ({'layers': True}, 'paint.layers=True: not a whole number'),
    ({'layers': 2**31}, 'paint.layers=2147483648 is too large'),
    ({'share': 1.0}, r'paint.share=1.0 is outside \[0, 1\)'),
    ({'bound': 1.5}, 'paint.bound=1.5 is too large; use 1 or less'),
    ({'scale': 0.0}, 'paint.scale=0.0 is not positive'),
    ({'scale': float('nan')}, 'paint.scale=nan is not finite'),
    ({'sizes': ()}, r'paint.sizes=\(\) does not hold; use one or more'),
    ({'sizes': (2, 0)}, 'paint.sizes=.* does not hold'),
    ({'sizes': (2.5,)}, 'each element a whole number'),
    ({'dry': 1}, 'paint.dry=1: not a boolean'),
    ({'thinner': 1}, 'paint.thinner=1: not text'),
    ({'dry': True, 'layers': 3}, 'dry=True with config.paint.layers=3 will'),
  )
  def test_a_wrong_value_names_field_and_remedy(self, wrong, message):
    with self.assertRaisesRegex(errors.UserError, f'^config.*{message}'):
      _Paint(**wrong)

  def test_whole_numbers_are_numbers_and_further_types_are_allowed(self):
    self.assertEqual(_Paint(scale=2, thinner=0.5).thinner, 0.5)

  def test_a_name_that_is_registered_later_counts(self):
    with self.assertRaises(errors.UserError):
      _Paint(colour='blue')
    with absltest.mock.patch.dict(_COLOURS, blue=3):
      self.assertEqual(_Paint(colour='blue').colour, 'blue')

  def test_a_config_must_have_every_field_and_no_other(self):
    values = dataclasses.asdict(_Paint())
    self.assertEqual(_Paint.from_config({**values, 'name': 'x'}), _Paint())
    with self.assertRaisesRegex(errors.UserError, 'paint.lay is no field'):
      _Paint.from_config({**values, 'lay': 1})
    del values['layers']
    with self.assertRaisesRegex(errors.UserError, 'paint.layers is missing'):
      _Paint.from_config(values)

  def test_describes_its_fields(self):
    described = {name: rest for name, *rest in _Paint.describe()}
    self.assertEqual(described['paint.layers'], [2, 'layers (1 or more)'])
    self.assertEqual(described['paint.dry'], [False, 'whether it is dry'])


if __name__ == '__main__':
  absltest.main()
