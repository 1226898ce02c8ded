"""Two users and one ``cache_dir``: a tier each, or one tier where its folder is a group's."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import juicecache
from juicecache.cache.access import GROUP, PRIVATE, prepare_root
from juicecache.cache.block_file import LAYOUT
from juicecache.cache.books import BooksFile
from juicecache.cache.directory import DirectoryTier
from juicecache.errors import ConfigError
from juicecache.testing.tier_contract import block
from juicecache.testing.tier_faults import charged_bytes

ALICE, BOB, TEAM = 54321, 54322, 54400
CAPACITY_BYTES = 4 << 20

PRELUDE = f"""
import os, random, sys
os.umask(0o077)
from juicecache.cache.access import prepare_root
from juicecache.cache.books import BooksFile
from juicecache.cache.directory import DirectoryTier
from juicecache.testing.tier_contract import block
from pathlib import Path
path, user, groups = sys.argv[1], int(sys.argv[2]), [int(group) for group in sys.argv[3:]]
# Only now: the user may have no right to read this Python.
os.setgroups(groups)
os.setgid(user)
os.setuid(user)
tier = DirectoryTier(path, capacity_bytes={CAPACITY_BYTES}, free_space_ratio=0)

def stay():
    print("ready", flush=True)
    sys.stdin.read()
"""
FILL = """
rng = random.Random(os.geteuid())
kept = 0
for _ in range(150):
    key, content = block(rng.randrange(200), 50_000)
    found = tier.get(key)
    assert found is None or found == content
    kept += tier.put(key, content)
stats = tier.stats()
assert kept > 100 and stats.errors == stats.corrupt == 0, (kept, stats)
"""
PUT = """
for number in (1, 2, 3):
    assert tier.put(*block(number, 50_000))
"""
GET = """
for number in (1, 2, 3):
    key, content = block(number, 50_000)
    assert tier.get(key) == content
assert tier.delete(block(3, 50_000)[0])
"""
HOLD_BOOKS = """
root, access = prepare_root(Path(path))
with BooksFile(root + b"/.space", access).held() as books:
    books.items += 7
    stay()
"""
DIE_WRITING = """
import juicecache.cache.directory as module
module.write_block = lambda *_: stay()
tier.put(*block(1, 3 << 20))
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user can reach, for what only root can try."""
    if os.geteuid():
        pytest.skip("only root can act as two users")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def team(place: Path) -> Path:
    """A folder of a group, as ``chgrp`` and ``chmod 2770`` make it."""
    folder = place / "team"
    folder.mkdir()
    os.chown(folder, 0, TEAM)
    folder.chmod(0o2770)
    return folder


def start(code: str, folder: Path, user: int, groups: list[int]) -> subprocess.Popen:
    root = str(Path(juicecache.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code, str(folder), str(user), *map(str, groups)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )


def run(code: str, folder: Path, user: int, groups: list[int] | None = None) -> str:
    """Run to the end; return what it complained about."""
    with start(code, folder, user, groups or []) as process:
        _, complaint = process.communicate(timeout=60)
    assert process.returncode == 0 or complaint
    return complaint


def modes(folder: Path) -> set[tuple[bool, str]]:
    return {(p.is_dir(), oct(stat.S_IMODE(p.stat().st_mode))) for p in folder.rglob("*")}


# ---------------------------------------------------------------------- a tier each


@pytest.mark.parametrize("mode", [0o1777, 0o777, 0o2777])
def test_each_user_has_a_private_tier_below_a_folder_of_all(place, mode):
    folder = place / "all"
    folder.mkdir()
    folder.chmod(mode)
    for user in (ALICE, BOB):
        assert run(PUT + GET, folder, user) == ""
    assert sorted(p.name for p in folder.iterdir()) == [f"{LAYOUT}-u{ALICE}", f"{LAYOUT}-u{BOB}"]
    for user in (ALICE, BOB):
        own = folder / f"{LAYOUT}-u{user}"
        assert {p.stat().st_uid for p in [own, *own.rglob("*")]} == {user}
        assert stat.S_IMODE(own.stat().st_mode) & 0o777 == 0o700
        assert modes(own) <= {(True, "0o700"), (True, "0o2700"), (False, "0o600")}


def test_a_folder_made_where_all_may_make_some_is_for_all(place):
    place.chmod(0o1777)
    for user in (ALICE, BOB):
        assert run(PUT + GET, place / "jc", user) == ""
    assert stat.S_IMODE((place / "jc").stat().st_mode) == 0o1777


def test_a_folder_that_is_not_ours_is_refused(place):
    folder = place / "all"
    folder.mkdir()
    folder.chmod(0o1777)
    theirs = folder / f"{LAYOUT}-u{ALICE}"
    theirs.mkdir()
    os.chown(theirs, BOB, BOB)
    theirs.chmod(0o777)
    assert f"belongs to user {BOB}" in run(PUT, folder, ALICE)
    theirs.rename(folder / "elsewhere")
    theirs.symlink_to(folder / "elsewhere")
    assert "is no folder" in run(PUT, folder, ALICE)
    assert list((folder / "elsewhere").iterdir()) == []


EXCHANGED = """
own = Path(path) / f"{LAYOUT}-u{user}"
for number in (1, 2, 3):
    assert tier.put(*block(number, 50_000))
key, content = block(1, 50_000)
assert tier.get(key) == content and tier.get(key, 0, 99) == content[:99]
print("ready", flush=True)
sys.stdin.readline()
assert own.stat().st_uid != user
buffer = memoryview(bytearray(99))
for number in (1, 2, 3):
    key, _ = block(number, 50_000)
    assert tier.get(key) is None and tier.get(key, 0, 99) is None
    assert not tier.get_into(key, 0, 99, buffer) and not tier.contains(key)
    assert not tier.put(*block(number, 50_000))
stats = tier.stats()
assert (stats.corrupt, stats.misses, stats.state) == (0, 9, "sick"), stats
assert "belongs to user" in stats.reason
assert len(list(own.glob("[!.]*/*/*"))) == 3
"""


def test_a_folder_put_in_the_place_of_ours_gives_nothing(place):
    """The owner of the folder above may do that, in spite of its sticky bit."""
    above = place / "jc"
    above.mkdir()
    above.chmod(0o1777)
    os.chown(above, ALICE, ALICE)
    own = above / f"{LAYOUT}-u{BOB}"
    code = f"from juicecache.cache.block_file import LAYOUT\n{EXCHANGED}"
    with start(code, above, BOB, []) as process:
        assert process.stdout.readline() == "ready\n"
        own.rename(above / "aside")
        subprocess.run(["cp", "-a", above / "aside", own], check=True)
        for found in [own, *own.rglob("*")]:
            os.chown(found, ALICE, ALICE)
            found.chmod(0o777)
        _, said = process.communicate("go\n", timeout=60)
    assert process.returncode == 0
    assert f"its folder belongs to user {ALICE}" in said


def test_a_shared_folder_that_is_removed_is_made_again_for_all(place):
    place.chmod(0o1777)
    tier = open_tier(place / "jc")
    assert tier.put(*block(1, 5000))
    shutil.rmtree(place / "jc")
    assert tier.put(*block(1, 5000))
    tier.close()
    assert stat.S_IMODE((place / "jc").stat().st_mode) == 0o1777
    assert run(PUT + GET, place / "jc", ALICE) == ""


# ---------------------------------------------------------------------- a tier of a group


def test_a_group_folder_of_another_user_is_not_shared(team):
    """Whoever made it could feed the others; root is a member of no group by being root."""
    os.chown(team, ALICE, TEAM)
    team.chmod(0o2770)
    assert prepare_root(team)[1] is PRIVATE
    shared = f"assert tier._access.shared is (user == {ALICE})"
    assert run(shared, team, ALICE, [TEAM]) == ""
    assert run(shared, team, BOB, [TEAM]) == ""


def test_a_group_folder_that_is_removed_is_not_made_again(team):
    tier = open_tier(team)
    assert tier.put(*block(1, 5000))
    shutil.rmtree(team)
    assert not tier.put(*block(2, 5000))
    assert tier.stats().state == "sick"
    assert "not there for our group" in tier.stats().reason
    assert not team.exists()
    tier.close()


def test_members_of_a_group_share_one_tier(team):
    assert run(PUT, team, ALICE, [TEAM]) == ""
    assert run(GET, team, BOB, [TEAM]) == ""
    (root,) = team.iterdir()
    assert root.name == LAYOUT
    assert modes(team) == {(True, "0o2770"), (False, "0o660")}
    assert {p.stat().st_gid for p in team.rglob("*")} == {TEAM}
    tier = open_tier(team)
    assert tier.stats().items == 2
    tier.close()


def test_who_is_no_member_stays_out(team):
    assert "Permission denied" in run(PUT, team, BOB, [])
    for mode in (0o2777, 0o2750, 0o770):  # nor do these folders ask for sharing
        team.chmod(mode)
        assert prepare_root(team)[1] is PRIVATE
    team.chmod(0o2770)
    assert prepare_root(team)[1] is GROUP


def test_a_root_with_other_rights_is_refused(team):
    root = team / LAYOUT
    root.mkdir()
    (root / "something").touch()
    os.chown(root, ALICE, ALICE)
    with pytest.raises(ConfigError, match="should belong to group 54400 and have mode 2770"):
        open_tier(team)


def test_two_members_at_once_keep_one_quota(team):
    processes = [start(FILL, team, user, [TEAM]) for user in (ALICE, BOB, ALICE, BOB)]
    most = 0
    while any(process.poll() is None for process in processes):
        most = max(most, taken(team))
        time.sleep(0.01)  # a look holds the others up
    for process in processes:
        assert process.communicate() == ("", "")
    assert CAPACITY_BYTES // 2 < most <= CAPACITY_BYTES
    tier = open_tier(team)
    assert tier.stats().used_bytes == taken(team)
    tier.close()


@pytest.mark.parametrize("code", [HOLD_BOOKS, DIE_WRITING])
def test_a_member_that_is_killed_leaves_nothing(team, code):
    assert run(PUT, team, BOB, [TEAM]) == ""
    with start(code, team, ALICE, [TEAM]) as process:
        assert process.stdout.readline() == "ready\n"
        process.kill()
    assert run("assert tier.put(*block(9, 2 << 20))" + GET, team, BOB, [TEAM]) == ""
    assert list((team / LAYOUT / ".writing").iterdir()) == []
    tier = open_tier(team)
    assert (tier.stats().items, tier.stats().used_bytes) == (3, taken(team))
    tier.close()


@pytest.mark.parametrize("half_made", ["root", "a folder", "books", "a file"])
def test_what_a_dead_member_left_half_made_is_made_anew(team, half_made):
    """Between the call that makes a thing and the one that gives it its mode."""
    root = team / LAYOUT
    key, content = block(1, 50_000)
    victim = {
        "root": root,
        "a folder": root / ".making",
        "books": root / ".space",
        "a file": root / ".writing" / "half",
    }[half_made]
    if half_made != "root":
        assert run(PUT, team, ALICE, [TEAM]) == ""
    if half_made in ("root", "a folder"):
        victim.mkdir()
    if half_made == "a file":
        victim.touch()
    victim.chmod(0o700 if victim.is_dir() else 0o600)
    os.chown(victim, ALICE, TEAM)
    fill = "for number in range(1, 7): assert tier.put(*block(number, 50_000))"
    assert run(fill, team, BOB, [TEAM]) == ""
    assert modes(team) == {(True, "0o2770"), (False, "0o660")}
    tier = open_tier(team)
    assert tier.get(key) == content
    assert tier.stats().items == 6
    tier.close()


def open_tier(folder: Path) -> DirectoryTier:
    return DirectoryTier(folder, capacity_bytes=CAPACITY_BYTES, free_space_ratio=0)


def taken(team: Path) -> int:
    """Return what is on disk while nobody may create or evict."""
    root = team / LAYOUT
    if not (root / ".space").exists():
        return 0
    file = BooksFile(os.fsencode(root / ".space"), GROUP)
    with file.held():
        found = charged_bytes(root)
    file.close()
    return found
