-- The short cut for one Release alone, by the holder: rule L of leases.lua in a straight line, a third of its cost. In
-- every other case it changes nothing and answers nil; leases.lua is asked then. The key's expiry stays as it is: it is
-- later than it had to be, and garbage collection only.
--
-- KEYS[1]: the lease. ARGV: `now` or "", the owner, the token or "0", the prefix of wake channels, the name.
-- Answers with the token.
local fields = redis.call('HMGET', KEYS[1], 'o', 't', 'd', 'q')
if fields[1] ~= ARGV[2] or ARGV[2] == '' or (ARGV[3] ~= '0' and ARGV[3] ~= fields[2]) then
  return false
end
local now = tonumber(ARGV[1])
if not now then
  local clock = redis.call('TIME')
  now = clock[1] * 1000000 + clock[2]
end
if tonumber(fields[3]) <= now then
  return false
elseif fields[4] == '' then
  redis.call('HSET', KEYS[1], 'o', '', 'm', '', 'd', 0)
  return fields[2]
end
local queue = {}
for _, waiter in ipairs(cmsgpack.unpack(fields[4])) do
  if waiter[2] > now then
    queue[#queue + 1] = waiter
  end
end
local head = queue[1]
if head then
  head[2] = math.min(head[2], now + 1000000) -- RESERVATION
end
redis.call('HSET', KEYS[1], 'o', '', 'm', '', 'd', 0, 'q', head and cmsgpack.pack(queue) or '')
if head then
  redis.call('PUBLISH', ARGV[4] .. string.match(head[1], '^[^/]*'), cmsgpack.pack({ ARGV[5], head[1] }))
end
return fields[2]
