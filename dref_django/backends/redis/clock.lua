-- What every script begins with: the time, in microseconds, and the constants of protocol.py.
-- ARGV[1] is `now`, or "" for this server's clock.
local GRAVE = 3600000000
local GRAVE_MS = 3600000
local APPLIED, CONFLICT, OVERFLOW, WRONG_KIND, NOT_FOUND = 0, 1, 2, 3, 4
local HELD, LOST, ABORTED, UNCHANGED = 5, 6, 7, 8

local now = tonumber(ARGV[1])
if not now then
  local clock = redis.call('TIME')
  now = clock[1] * 1000000 + clock[2]
end

-- Versions and times are whole numbers below 2^53, exact as doubles; '..' alone would write them as 1.7e+15.
local function text(number)
  return string.format('%.0f', number)
end

-- Server-side expiry is garbage collection only, and always relative: `now` may be a time of the caller's own making.
local function collect_after(key, left)
  redis.call('PEXPIRE', key, text(math.max(0, math.ceil(left / 1000)) + GRAVE_MS))
end

-- Adds a new name to the sorted index and lets two random names go whose keys are gone, so that names which come and
-- expire unseen do not pile up. `key_of` is only asked on one server, where a script may touch any key.
local function remember(index, name, key_of)
  redis.call('ZADD', index, 0, name)
  for _, other in ipairs(redis.call('ZRANDMEMBER', index, 2)) do
    if redis.call('EXISTS', key_of(other)) == 0 then
      redis.call('ZREM', index, other)
    end
  end
end

-- As keys.py builds them.
local function escaped(name)
  return (string.gsub(name, '[%%{}]', { ['%'] = '%25', ['{'] = '%7B', ['}'] = '%7D' }))
end

local function key_maker(prefix, mark)
  return function(name)
    local group, rest = string.match(name, '^([^\31]*)\31(.*)$')
    if group then
      return prefix .. escaped(group) .. '}' .. mark .. ':' .. escaped(rest)
    end
    return prefix .. escaped(name) .. '}' .. mark
  end
end
