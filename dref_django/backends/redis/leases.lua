-- Commands on leases, each for itself, in order: what `Lease` in leases.py means.
--
-- KEYS: the lease of each command, in order; then the sorted index of leases (not on a cluster). ARGV after `now`: the
-- prefix of wake channels, the prefix of lease keys, the number of commands; then of each command its letter, the
-- name, and its fields in the order in which the rules below take them.
-- Answers with a header a command, `status token left existed info`; after an info of "l" comes a LeaseInfo as a list.
--
-- A lease is a hash: o owner; t token; s since; d deadline; m meta; q the queue, msgpack of [[owner, expires], ...].
local channel, prefix, count = ARGV[2], ARGV[3], tonumber(ARGV[4])
local index = KEYS[count + 1]
local at = 4

local function take()
  at = at + 1
  return ARGV[at]
end

local function fresh(key, name)
  return { key = key, name = name, owner = '', token = 0, since = 0, deadline = 0, meta = '', queue = {} }
end

local function load(key, name)
  local lease = fresh(key, name)
  local fields = redis.call('HMGET', key, 'o', 't', 's', 'd', 'm', 'q')
  if fields[2] then
    lease.stored = true
    lease.owner, lease.meta = fields[1], fields[5]
    lease.token, lease.since, lease.deadline = tonumber(fields[2]), tonumber(fields[3]), tonumber(fields[4])
    if fields[6] ~= '' then
      lease.queue = cmsgpack.unpack(fields[6])
    end
  end
  return lease
end

local function last_use(lease)
  local last = math.max(lease.deadline, lease.token)
  for _, waiter in ipairs(lease.queue) do
    last = math.max(last, waiter[2])
  end
  return last
end

local function save(lease)
  local queue = #lease.queue > 0 and cmsgpack.pack(lease.queue) or ''
  redis.call('HSET', lease.key, 'o', lease.owner, 't', text(lease.token), 's', text(lease.since),
    'd', text(lease.deadline), 'm', lease.meta, 'q', queue)
  redis.call('PEXPIRE', lease.key, text(math.max(1, math.ceil((last_use(lease) - now) / 1000) + GRAVE_MS)))
  if index and not lease.stored then
    remember(index, lease.name, key_maker(prefix, '!'))
  end
end

local function without(queue, gone)
  local kept = {}
  for _, waiter in ipairs(queue) do
    if not gone(waiter) then
      kept[#kept + 1] = waiter
    end
  end
  return kept
end

local function passed_over(waiter)
  return waiter[2] <= now
end

local function wake(name, owner)
  local node = string.match(owner, '^[^/]*')
  redis.call('PUBLISH', channel .. node, cmsgpack.pack({ name, owner }))
end

local function wake_next(lease)
  local head = lease.queue[1]
  if head then
    head[2] = math.min(head[2], now + 1000000)
    wake(lease.name, head[1])
  end
end

local function enqueue(lease, owner, wait)
  if wait <= 0 then
    return
  end
  for _, waiter in ipairs(lease.queue) do
    if waiter[1] == owner then
      waiter[2] = now + wait
      return
    end
  end
  lease.queue[#lease.queue + 1] = { owner, now + wait }
end

local function header(status, token, left, existed, info)
  return status .. ' ' .. text(token) .. ' ' .. (left and text(left) or '-') .. (existed and ' 1 ' or ' 0 ')
    .. (info or '-')
end

local function granted(lease)
  return header(APPLIED, lease.token, lease.deadline - now, false)
end

local rules = {}

function rules.A(lease)
  local owner, ttl, wait, meta = take(), tonumber(take()), tonumber(take()), take()
  if lease.deadline > now then
    if lease.owner == owner then
      lease.deadline = now + ttl
      return granted(lease)
    end
    enqueue(lease, owner, wait)
    return header(HELD, lease.token, lease.deadline - now, false)
  end
  if #lease.queue == 0 or lease.queue[1][1] == owner then
    table.remove(lease.queue, 1)
    lease.owner, lease.meta = owner, meta
    lease.token = math.max(lease.token + 1, now)
    lease.since, lease.deadline = now, now + ttl
    return granted(lease)
  end
  enqueue(lease, owner, wait)
  wake_next(lease)
  return header(HELD, lease.token, lease.queue[1][2] - now, false)
end

function rules.N(lease)
  local owner, token, ttl = take(), tonumber(take()), tonumber(take())
  if not lease or lease.owner ~= owner or lease.token ~= token or lease.deadline <= now then
    return header(LOST, lease and lease.token or 0, nil, false)
  end
  lease.deadline = now + ttl
  return granted(lease)
end

function rules.L(lease)
  local owner, token, keep = take(), tonumber(take()), tonumber(take())
  if not lease then
    return header(APPLIED, 0, nil, false)
  end
  local before = #lease.queue
  lease.queue = without(lease.queue, function(waiter) return waiter[1] == owner end)
  local queued = #lease.queue < before
  local held = lease.deadline > now and owner ~= '' and lease.owner == owner and (token == 0 or token == lease.token)
  if held then
    lease.owner, lease.meta = '', ''
    lease.deadline = keep > 0 and now + keep or 0
  end
  if (held or queued) and lease.deadline <= now then
    wake_next(lease)
  end
  return header(APPLIED, lease.token, nil, held)
end

function rules.B(lease)
  local token = tonumber(take())
  if not lease then
    return header(APPLIED, 0, nil, false)
  elseif lease.deadline <= now or (token ~= 0 and token ~= lease.token) then
    return header(APPLIED, lease.token, nil, false)
  end
  if lease.owner ~= '' then
    wake(lease.name, lease.owner)
  end
  lease.owner, lease.meta = '', ''
  lease.deadline = 0
  wake_next(lease)
  return header(APPLIED, lease.token, nil, true)
end

local function inspect(lease)
  local held, waiters = lease.deadline > now, {}
  for _, waiter in ipairs(without(lease.queue, passed_over)) do
    waiters[#waiters + 1] = waiter[1]
  end
  if index and not lease.stored then
    redis.call('ZREM', index, lease.name)
  end
  if not held and #waiters == 0 then
    return header(NOT_FOUND, 0, nil, false)
  end
  local info = {
    lease.name, held and lease.owner or '', text(lease.token), text(lease.since),
    held and text(lease.deadline - now) or '0', held and lease.meta or '', waiters,
  }
  return header(APPLIED, lease.token, nil, false, 'l'), info
end

local function run(letter, key, name)
  local lease = load(key, name)
  if letter == 'I' then
    return inspect(lease)
  end
  if not lease.stored or last_use(lease) + GRAVE <= now then
    if letter ~= 'A' then
      return rules[letter](nil)
    end
    local stored = lease.stored
    lease = fresh(key, name)
    lease.stored = stored
  end
  lease.queue = without(lease.queue, passed_over)
  local head = rules[letter](lease)
  save(lease)
  return head
end

local answers = {}
for place = 1, count do
  local letter, name = take(), take()
  local head, info = run(letter, KEYS[place], name)
  answers[#answers + 1] = head
  if info then
    answers[#answers + 1] = info
  end
end
return answers
