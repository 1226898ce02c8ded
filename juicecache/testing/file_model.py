"""Files as bytes in dictionaries: what a volume must contain after the same operations."""

from __future__ import annotations

import errno
import os


class FileModel:
    """Paths to contents; hard links share one content. Directories appear as they are needed.

    Operations raise the built-in ``OSError`` that a volume must fail with.

    Attributes
    ----------
    files
        Content by path; two names of one file hold the same object.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytearray] = {}

    def content(self, path: str) -> bytearray:
        """Return the content of a file."""
        if path not in self.files:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        return self.files[path]

    def replace(self, path: str, content: bytes) -> None:
        """Give a file exactly this content, under all its names; make it where it is missing."""
        self.files.setdefault(path, bytearray())[:] = content

    def write(self, path: str, start: int, content: bytes) -> None:
        """Write at an offset; a gap before it becomes zeros."""
        body = self.content(path)
        if content and start > len(body):
            body.extend(bytes(start - len(body)))
        body[start : start + len(content)] = content

    def truncate(self, path: str, length: int) -> None:
        """Cut a file, or extend it with zeros."""
        body = self.content(path)
        del body[length:]
        body.extend(bytes(length - len(body)))

    def copy(self, source: str, target: str) -> None:
        """Copy a content; the target keeps its names."""
        content = self.content(source)
        if self.files.get(target) is content:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self.replace(target, bytes(content))

    def rename(self, source: str, target: str) -> None:
        """Move a name over another one; two names of one file stay as they are."""
        content = self.content(source)
        if self.files.get(target) is not content:
            self.files[target] = content
            del self.files[source]

    def link(self, source: str, target: str) -> None:
        """Give a file one more name."""
        content = self.content(source)
        if target in self.files:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        self.files[target] = content

    def unlink(self, path: str) -> None:
        """Take a name away."""
        self.content(path)
        del self.files[path]

    def remove_tree(self, directory: str) -> None:
        """Take every name below a directory away."""
        for path in [path for path in self.files if path.startswith(directory + "/")]:
            del self.files[path]
