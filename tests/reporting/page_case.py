"""A parser of the HTML pages, for their tests."""

import html.parser

_VOID = ('br', 'img', 'link', 'meta')


class Page(html.parser.HTMLParser):
  """Checks that elements nest, and gathers links, pictures and text."""

  def __init__(self, text: str):
    super().__init__(convert_charrefs=True)
    self.links, self.pictures, self.words = [], [], []
    self.tags, self._open = set(), []
    self.feed(text)
    self.close()
    if self._open:
      raise AssertionError(f'not closed: {self._open}')

  def handle_starttag(self, tag, attrs):
    self.tags.add(tag)
    attributes = dict(attrs)
    self.links += [
      attributes[name]
      for name in ('src', 'href', 'srcset', 'action')
      if name in attributes
    ]
    if tag == 'img':
      self.pictures.append(attributes)
    if tag not in _VOID:
      self._open.append(tag)

  def handle_endtag(self, tag):
    if not self._open or self._open.pop() != tag:
      raise AssertionError(f'</{tag}> closes nothing')

  def handle_data(self, data):
    if not self._open or self._open[-1] != 'style':
      self.words.append(data)

  @property
  def text(self) -> str:
    return ' '.join(' '.join(self.words).split())
