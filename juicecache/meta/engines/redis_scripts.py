"""The scripts that run inside Redis: one commits a transaction, one follows paths.

Laws:

* The commit script checks everything that the transaction relied on before it writes anything:
  Redis undoes nothing. It uses ordinary commands on the format's keys, so that the WATCH of an
  official client notices every change.
* Inodes are 64 bits, Lua's numbers are 53: they travel as bytes and as decimal text.
"""

from __future__ import annotations

from typing import Any

import msgpack

_DECIMAL = """
local function decimal(bytes, at)
  local high, low = struct.unpack('>I4I4', bytes, at)
  if high < 2097152 then return string.format('%.0f', high * 4294967296 + low) end
  local rest = 559808512 + low
  local carry = math.floor(rest / 1000000000)
  return string.format('%.0f%09.0f', 9223372032 + carry, rest - carry * 1000000000)
end
"""
"""Of the numbers beyond 53 bits only those of the trash occur: 0x7FFFFFFF in the upper half."""

FIND = (
    _DECIMAL
    + """
local prefix = ARGV[1]
local results = {}
for number, path in ipairs(cmsgpack.unpack(ARGV[2])) do
  local here, directory, count, entry, attr = path[1], path[1], 0, false, false
  for at = 2, #path do
    if entry and string.byte(entry, 1) ~= 2 then break end
    local found = redis.call('HGET', prefix .. 'd' .. here, path[at])
    local node = found and redis.call('GET', prefix .. 'i' .. decimal(found, 2))
    if not node then break end
    directory, here = here, decimal(found, 2)
    entry, attr, count = found, node, count + 1
  end
  local records = ''
  if attr and ARGV[3] == '1' and count == #path - 1 and string.byte(entry, 1) == 1 then
    records = table.concat(redis.call('LRANGE', prefix .. 'c' .. here .. '_0', 0, -1))
  end
  local holder = count == #path - 1 and directory or here
  results[number] = {
    entry, attr, records, directory, count, holder, redis.call('GET', prefix .. 'i' .. holder)
  }
end
return results
"""
)
"""Follow paths through directories: ARGV are the prefix of keys, the paths (MessagePack lists of
the inode to start from and names), and whether slice lists are wanted. Of each path comes what the
longest part of it led to: entry, attributes, slice list, directory, and the number of names; then
the directory that has the last of them, or has not the next, with its attributes."""

COMMIT = (
    _DECIMAL
    + r"""
local prefix = ARGV[1]
local checks, writes = unpack(cmsgpack.unpack(ARGV[2]))

local function is_empty(reply)
  return not reply or reply == 0 or (type(reply) == 'table' and #reply == 0)
end

for _, check in ipairs(checks) do
  local mode, expected = check[1], check[2]
  local reply = redis.call(unpack(check, 4))
  local holds
  if mode == '-' then
    holds = is_empty(reply)
  elseif mode == '+' then
    holds = not is_empty(reply)
  elseif mode == 'directory' then
    holds = reply and string.sub(reply, 1, 11) == string.sub(expected, 1, 11)
      and string.sub(reply, 64) == string.sub(expected, 64)
  elseif mode == 'alive' then
    holds = not reply or string.sub(reply, 1, 1) ~= '-'
  elseif type(reply) == 'table' then
    holds = table.concat(reply) == (expected or '')
  else
    holds = reply == expected
  end
  if not holds then return check[3] end
end

local inodes, before, deltas = {}, {}, {}
local function note(entry)
  if not entry or string.byte(entry, 1) == 2 then return end
  local inode = decimal(entry, 2)
  if deltas[inode] then return end
  inodes[#inodes + 1] = inode
  before[inode] = redis.call('GET', prefix .. 'i' .. inode)
  deltas[inode] = {}
end
local function count(entry, parent, delta)
  if not entry or string.byte(entry, 1) == 2 then return end
  local counts = deltas[decimal(entry, 2)]
  counts[parent] = (counts[parent] or 0) + delta
end
local function parent_of(attr)
  return #attr >= 71 and decimal(attr, 64) or '0'
end

for _, write in ipairs(writes) do
  if write[1] == '+edge' then
    note(redis.call('HGET', write[2], write[3]))
    note(write[4])
  elseif write[1] == '-edge' then
    note(redis.call('HGET', write[2], write[3]))
  end
end

local function change(key, mode, nlink, tail, splices)
  local value = redis.call('GET', key)
  value = value .. string.rep('\0', 71 - #value)
  local base, rest = string.sub(value, 1, 71), string.sub(value, 72)
  if mode >= 0 then
    local both = struct.unpack('>I2', base, 2)
    both = struct.pack('>I2', both - both % 4096 + mode)
    base = string.sub(base, 1, 1) .. both .. string.sub(base, 4)
  end
  if nlink ~= 0 then
    local links = struct.unpack('>I4', base, 48)
    links = struct.pack('>I4', math.max(links + nlink, 0))
    base = string.sub(base, 1, 47) .. links .. string.sub(base, 52)
  end
  for at = 1, #splices, 2 do
    local first, bytes = splices[at], splices[at + 1]
    base = string.sub(base, 1, first) .. bytes .. string.sub(base, first + #bytes + 1)
  end
  if tail then
    local none = string.rep('\0', 8)
    local acl = #rest >= 8 and string.sub(rest, 1, 8) or none
    local tier = #rest % 8 == 1 and string.sub(rest, -1) or '\0'
    if tail[1] then acl = tail[1] .. string.sub(acl, 5) end
    if tail[2] then acl = string.sub(acl, 1, 4) .. tail[2] end
    if tail[3] then tier = tail[3] end
    rest = (acl == none and '' or acl) .. (tier == '\0' and '' or tier)
  end
  redis.call('SET', key, base .. rest)
end

for _, write in ipairs(writes) do
  if write[1] == '+edge' then
    count(redis.call('HGET', write[2], write[3]), write[5], -1)
    count(write[4], write[5], 1)
    redis.call('HSET', write[2], write[3], write[4])
  elseif write[1] == '-edge' then
    count(redis.call('HGET', write[2], write[3]), write[4], -1)
    redis.call('HDEL', write[2], write[3])
  elseif write[1] == 'change' then
    change(unpack(write, 2))
  else
    redis.call(unpack(write))
  end
end

for _, inode in ipairs(inodes) do
  local now = redis.call('GET', prefix .. 'i' .. inode)
  if not now then
    redis.call('DEL', prefix .. 'p' .. inode)
  elseif parent_of(now) == '0' then
    local old = before[inode] and parent_of(before[inode]) or '0'
    if old ~= '0' then redis.call('HINCRBY', prefix .. 'p' .. inode, old, 1) end
    for parent, delta in pairs(deltas[inode]) do
      if delta ~= 0 then redis.call('HINCRBY', prefix .. 'p' .. inode, parent, delta) end
    end
  end
end
return false
"""
)
"""Commit: ARGV are the prefix of keys and (MessagePack) the checks and the writes.

A check is its mode, what was seen, what to say when it differs, and the command that reads it
again: ``=`` the same reply, ``-`` nothing there, ``+`` something there, ``alive`` no count below
zero, ``directory`` the same attributes but for times, links and length, which other clients change
with every entry. A write is a command, or one of three of our own: ``+edge``, ``-edge``, and
``change`` of packed attributes. The last step keeps ``p<inode>``, which counts the links of files
that have no single parent. Returns nothing, or what a check that failed says.
"""


def script_argument(value: Any) -> bytes:
    """Return a value for a script, in the old form of MessagePack that Redis understands."""
    packed: bytes = msgpack.packb(value, use_bin_type=False)
    return packed
