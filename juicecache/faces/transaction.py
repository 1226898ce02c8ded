"""``with fs.transaction:`` as one deferred batch of the volume."""

from __future__ import annotations

from collections import deque
from typing import Any

from fsspec.transaction import Transaction

from juicecache.errors import UnsupportedError
from juicecache.volume.batch import Batch


def refuse_nesting(fs: Any) -> None:
    """Raise UnsupportedError while a transaction of ``fs`` is under way."""
    if fs._intrans:
        raise UnsupportedError(
            "",
            "a transaction of this file system is under way, and they do not nest: "
            "use Volume.batch, or an instance of its own (skip_instance_cache=True); one that was "
            "left open ends with fs.transaction.complete(commit=False)",
        )


class VolumeTransaction(Transaction):  # type: ignore[misc]  # fsspec has no types
    """Files written in a transaction show up at its end, small ones packed.

    An error in the block discards them all. The commit itself goes in bounded steps: see
    `juicecache.volume.batch`.

    Attributes
    ----------
    batch
        Collects the files.
    """

    def __init__(self, fs: Any) -> None:
        super().__init__(fs)
        self.fs: Any = fs
        # fsspec appends each file that is opened, to commit it at the end: the batch does.
        self.files: deque[Any] = deque(maxlen=0)
        # Made here and not when it is first needed, which several threads may do at once.
        self.batch: Batch = fs.volume.batch(deferred=True)

    def start(self) -> None:
        """Begin.

        Raises
        ------
        UnsupportedError
            A transaction of this file system is under way, perhaps in another thread.
        """
        refuse_nesting(self.fs)
        self.fs._intrans = True

    def complete(self, commit: bool = True) -> None:
        """Commit or discard every file, and end the transaction in any case.

        Raises
        ------
        BatchError
            Some files were not written; says which, and which were.
        """
        fs, self.fs = self.fs, None
        if fs is not None:
            fs._intrans = False
            fs._transaction = None
        if commit:
            self.batch.commit()
        else:
            self.batch.discard()
