"""The text format of Prometheus, version 0.0.4: families of samples into lines, as pure code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LABEL = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_HELP = str.maketrans({"\\": r"\\", "\n": r"\n"})


class Sample(NamedTuple):
    """One value, and the labels that it has besides those of all samples."""

    value: float
    labels: Mapping[str, str] = {}


class Family(NamedTuple):
    """Samples of one name; a ``counter`` never goes down while the process lives."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    samples: Sequence[Sample]


def render(families: Iterable[Family], labels: Mapping[str, str]) -> str:
    """Return the text of families, each sample with ``labels`` too."""
    lines = []
    for family in families:
        lines.append(f"# HELP {family.name} {family.help.translate(_HELP)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        for sample in family.samples:
            pairs = {**labels, **sample.labels}.items()
            shown = ",".join(f'{name}="{value.translate(_LABEL)}"' for name, value in pairs)
            lines.append(f"{family.name}{{{shown}}} {sample.value}")
    return "".join(f"{line}\n" for line in lines)
