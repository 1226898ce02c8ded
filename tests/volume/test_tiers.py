"""The options of the cache become tiers."""

from __future__ import annotations

import pytest

from juicecache.config import VolumeOptions
from juicecache.errors import ConfigError
from juicecache.testing.tier_contract import block
from juicecache.volume.tiers import build_tiers

MIB = 1 << 20


def build(**options):
    return build_tiers(VolumeOptions.from_options(options, {"HOME": "/nowhere"}))


def shapes(stack) -> list[tuple[str, str, int]]:
    found = [(stats.medium, stats.where, stats.capacity_bytes) for stats in stack.stats()]
    stack.close()
    return found


def test_the_short_form(tmp_path):
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert shapes(build(cache_dir=f"memory:{a}:{b}", cache_size="40Mi", memory_size="8Mi")) == [
        ("memory", "memory", 8 * MIB),
        ("directory", f"{a}:{b}", 40 * MIB),
    ]
    assert shapes(build(cache_dir=a, cache_size="40Mi")) == [("directory", a, 40 * MIB)]
    assert shapes(build(cache_dir=a, cache_size=0)) == []


def test_the_long_form_keeps_its_order_and_its_weights(tmp_path):
    fast, a, b = (str(tmp_path / name) for name in ("fast", "a", "b"))
    tiers = [
        {"medium": "MEM", "path": fast, "quota": "4Mi", "free_space_ratio": 0},
        {"medium": "MEM", "quota": "2Mi"},
        {"medium": "SSD", "path": f"{a},{b}", "quota": "10Mi,30Mi", "free_space_ratio": 0},
    ]
    stack = build(tiers=tiers)
    blocks = [block(number, 20_000) for number in range(400)]
    for key, content in blocks:
        assert stack.put(key, content)
    in_a, in_b = (len(list((tmp_path / name).glob("*/[!.]*/*/*"))) for name in ("a", "b"))
    assert in_a + in_b == 400
    assert 0.15 < in_a / 400 < 0.35
    assert shapes(stack) == [
        ("directory", fast, 4 * MIB),
        ("memory", "memory", 2 * MIB),
        ("directory", f"{a}:{b}", 40 * MIB),
    ]


def test_what_a_tier_does_not_say_is_as_in_the_other_options(tmp_path):
    tiers = [{"path": str(tmp_path), "quota": "10Mi"}]
    stack = build(tiers=tiers, cache_items=3, free_space_ratio=0, cache_eviction="none")
    assert [stack.put(*block(number, 10)) for number in range(5)] == [True] * 3 + [False] * 2
    stack.close()


def test_a_folder_is_in_one_tier_only(tmp_path):
    (tmp_path / "same").symlink_to(tmp_path)
    tiers = [{"path": str(tmp_path / name), "quota": "10Mi"} for name in ("", "same")]
    with pytest.raises(ConfigError, match="in more than one tier"):
        build(tiers=tiers)
    assert list(tmp_path.glob("juicecache*")) == []


def test_a_folder_is_in_no_other(tmp_path):
    for inner in (f"{tmp_path}/a", f"{tmp_path}/b/../a/deep"):
        outer = str(tmp_path) if inner.endswith("a") else f"{tmp_path}/a"
        with pytest.raises(ConfigError, match="is inside of"):
            build(tiers=[{"path": path, "quota": "10Mi"} for path in (inner, outer)])
    assert shapes(build(cache_dir=f"{tmp_path}/a:{tmp_path}/ab", cache_size="2Mi"))


def test_a_folder_that_cannot_be_made(tmp_path, monkeypatch, caplog):
    """An error where somebody chose it; else one warning, and no cache."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", f"{tmp_path}/file")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert shapes(build_tiers(VolumeOptions.from_options({}))) == []
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "cache_dir" in record.getMessage()
    folder = f"{tmp_path}/file/mine"
    with pytest.raises(ConfigError, match=r"^option cache_dir: .*name another folder"):
        build(cache_dir=folder)
    with pytest.raises(ConfigError, match=r"^option tiers: .*cache_size=0 instead of tiers"):
        build(tiers=[{"medium": "MEM", "quota": "1Mi"}, {"path": folder, "quota": "10Mi"}])
