"""JuiceFS volumes in Python: one file system over object storage, cached on this node.

General layout: ``faces`` (fsspec, command line) over ``volume`` (files) over ``objects``
(object storage), ``cache`` (tiers of this machine) and ``meta`` (the tree), which share the
pure values of ``model``. Imports go downwards only; see ``docs/architecture.md``.

Importing this package loads none of it: names are resolved when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from juicecache.version import VERSION

if TYPE_CHECKING:
    from juicecache import errors
    from juicecache.faces.filesystem import JuiceCacheFileSystem
    from juicecache.volume.formatting import format_volume
    from juicecache.volume.volume import Volume, open_volume

__version__ = VERSION
__all__ = [
    "JuiceCacheFileSystem",
    "Volume",
    "__version__",
    "errors",
    "format_volume",
    "open_volume",
]

_HOMES = {
    "JuiceCacheFileSystem": "juicecache.faces.filesystem",
    "Volume": "juicecache.volume.volume",
    "format_volume": "juicecache.volume.formatting",
    "open_volume": "juicecache.volume.volume",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "errors":
        return import_module("juicecache.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'juicecache' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
