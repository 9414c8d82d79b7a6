"""What the HTML pages share: their templates and their pictures.

A page is self-contained: pictures are data URIs and the style is inline.
`base.html.jinja` has the style; the other templates extend it.
"""

import base64
from collections.abc import Mapping
import pathlib
import re
import struct
from typing import Any, NamedTuple

import jinja2
import markupsafe

from ldc_vae.reporting import style


class Picture(NamedTuple):
  """A PNG file, shown at half its pixels."""

  name: str
  caption: str
  width: int
  height: int
  data: str  # base64


def write(path: pathlib.Path, template: str, **values: Any) -> pathlib.Path:
  """Writes a page.

  Args:
    path: Where the page goes.
    template: The name of a template of this folder.
    **values: What the template shows.

  Returns:
    The path.
  """
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('ldc_vae', 'reporting'),
    autoescape=True,  # a config may hold any text
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
    lstrip_blocks=True,
  )
  environment.filters['bold'] = _bold
  text = environment.get_template(template).render(**values)
  return style.write_bytes(path, text.encode('utf-8', 'replace'))


def read_pictures(
  folder: pathlib.Path, captions: Mapping[str, str], missing: list[str]
) -> list[Picture]:
  """Returns the whole PNG files of a folder.

  Args:
    folder: Where they are; it need not exist.
    captions: Stem to caption, in the order of the page; others follow by name.
    missing: A sentence is added for each picture that cannot be shown.
  """
  order = [f'{name}.png' for name in captions]
  found = {path.name: path for path in sorted(folder.glob('*.png'))}
  pictures = []
  for name in sorted(found, key=(order + list(found)).index):
    try:
      data = found[name].read_bytes()
    except OSError as error:
      missing.append(f'figures/{name} could not be read ({error}).')
      continue
    whole = data[:8] == b'\x89PNG\r\n\x1a\n' and b'IEND' in data[-12:]
    if not whole or len(data) < 33:
      missing.append(f'figures/{name} was not a whole PNG file.')
      continue
    width, height = struct.unpack('>II', data[16:24])  # of the IHDR chunk
    stem = found[name].stem
    pictures.append(
      Picture(
        stem,
        captions.get(stem, stem.replace('_', ' ')),
        max(1, width // 2),
        max(1, height // 2),
        base64.b64encode(data).decode('ascii'),
      )
    )
  absent = [x for x in captions if x not in {p.name for p in pictures}]
  if not pictures:
    missing.append('figures/ held no pictures.')
  elif absent:
    missing.append(f'figures/ had no {", ".join(absent)}.')
  return pictures


def _bold(text: str) -> markupsafe.Markup:
  """Turns '**12**' of a Markdown cell into a bold 12, and escapes the rest."""
  escaped = str(markupsafe.escape(text))
  return markupsafe.Markup(
    re.sub(r'\*\*(.+?)\*\*', r'<strong>\1</strong>', escaped)
  )
