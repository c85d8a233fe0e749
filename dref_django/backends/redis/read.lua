-- The short cut for one Read alone, where a value lies that has no deadline: rule R of entries.lua in a straight line.
-- In every other case it answers nil; entries.lua is asked then.
--
-- KEYS[1]: the entry. ARGV[1]: the version that the reader holds, or "".
-- Answers with "version" when it is that one, "version integer", or a list of version and bytes.
local fields = redis.call('HMGET', KEYS[1], 'v', 'i', 'd', 'g')
local version = fields[1]
if not version or fields[3] or fields[4] then
  return false
elseif version == ARGV[1] then
  return version
elseif fields[2] then
  return version .. ' ' .. fields[2]
end
return { version, redis.call('HGET', KEYS[1], 'b') }
