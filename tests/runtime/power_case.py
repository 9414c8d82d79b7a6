"""A disk that loses what was not synced, as a power cut does."""

import contextlib
import os
import pathlib
from unittest import mock


class Disk:
  """Notes what of a folder would be left by a power cut.

  A file's content is on the disk once the file is synced, and its name once its
  folder is synced. Deletions are on the disk at once: nothing says that they
  wait for anything.
  """

  def __init__(self, root):
    self._root = pathlib.Path(root)
    self._contents = {}  # of files, by inode
    self._names = {}  # of folders, by inode: {name: inode}

  @contextlib.contextmanager
  def watched(self, before_fn):
    """Notes syncs, and calls `before_fn` before each deletion and rename."""
    real = {
      name: getattr(os, name)
      for name in ('fsync', 'unlink', 'rmdir', 'rename', 'replace')
    }

    def fsync(descriptor):
      real['fsync'](descriptor)
      path = pathlib.Path(os.readlink(f'/proc/self/fd/{descriptor}'))
      if path.is_dir():
        self._names[path.stat().st_ino] = _names(path)
      elif path.exists():
        self._contents[path.stat().st_ino] = path.read_bytes()

    def deleting(name):
      def delete(path, *args, dir_fd=None, **kwargs):
        place = pathlib.Path(path)
        if dir_fd is not None:
          place = pathlib.Path(os.readlink(f'/proc/self/fd/{dir_fd}'), path)
        if self._root in place.parents:
          before_fn()
          inode = place.lstat().st_ino  # another file may get the number
          self._contents.pop(inode, None)
          self._names.pop(inode, None)
        return real[name](path, *args, dir_fd=dir_fd, **kwargs)

      return delete

    def moving(name):
      def move(source, target, **kwargs):
        if self._root in pathlib.Path(source).parents:
          before_fn()
        return real[name](source, target, **kwargs)

      return move

    patches = {
      'fsync': fsync,
      'unlink': deleting('unlink'),
      'rmdir': deleting('rmdir'),
      'rename': moving('rename'),
      'replace': moving('replace'),
    }
    with mock.patch.multiple(os, **patches):
      yield

  def cut(self, target, *, names_synced):
    """Writes to `target` what a power cut would leave now.

    Args:
      target: A new folder.
      names_synced: Whether the names are those of the last syncs; else they are
        those of now, as if the system had written them just in time.
    """
    inode = self._root.stat().st_ino
    now = {inode: _names(self._root)}
    for path in self._root.rglob('*'):
      if path.is_dir():
        now[path.stat().st_ino] = _names(path)
    self._write(inode, target, self._names if names_synced else now)

  def _write(self, inode, target, names):
    """Writes a folder."""
    target.mkdir()
    for name, (child, is_folder) in names.get(inode, {}).items():
      if is_folder:
        self._write(child, target / name, names)
      else:  # a file has a name before it has content
        (target / name).write_bytes(self._contents.get(child, b''))


def _names(folder):
  """What a folder holds: the inode of each name, and whether it is a folder."""
  return {
    entry.name: (entry.inode(), entry.is_dir(follow_symlinks=False))
    for entry in os.scandir(folder)
  }
