-- The short cut for one Write alone of a whole value over one that has no deadline: rule W of entries.lua in a straight
-- line, a third of its cost. In every other case it changes nothing and answers nil; entries.lua is asked then. Numbers
-- that are handed to redis.call are written with 17 digits, so they stay exact.
--
-- KEYS[1]: the entry. ARGV: `now` or "", the notice channel, the expected version or "", the op id in hexadecimal or "",
-- "i" or "b", the data.
-- Answers with the version.
local fields = redis.call('HMGET', KEYS[1], 'v', 'd', 'g', 'i', 'n')
local base, form, data = fields[1], ARGV[5], ARGV[6]
if not base or fields[2] or fields[3] or (ARGV[3] ~= '' and ARGV[3] ~= base) then
  return false
end
local now = tonumber(ARGV[1])
if not now then
  local clock = redis.call('TIME')
  now = clock[1] * 1000000 + clock[2]
end
local version = string.format('%.0f', math.max(base + 1, now))
if ARGV[4] == '' then
  redis.call('HSET', KEYS[1], 'v', version, form, data)
else
  local slot = ((fields[5] or 7) + 1) % 8
  redis.call('HSET', KEYS[1], 'v', version, form, data, 'n', slot, 'r' .. slot, ARGV[4] .. ' ' .. version .. ' 1')
end
if (form == 'i') ~= (fields[4] ~= false) then
  redis.call('HDEL', KEYS[1], form == 'i' and 'b' or 'i')
end
if #data > 32768 then -- MAX_INLINE
  redis.call('PUBLISH', ARGV[2], 'h ' .. version .. ' ' .. base .. ' -\n')
else
  redis.call('PUBLISH', ARGV[2], form .. ' ' .. version .. ' ' .. base .. ' -\n' .. data)
end
return version
