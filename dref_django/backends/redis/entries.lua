-- A batch of commands on entries in one atomic step: what `Store` in store.py means, command by command.
--
-- KEYS: the entry of each command, in order; then the sorted index of names (not on a cluster, where it would live in
-- another slot). ARGV after `now`: the prefix of notice channels, the prefix of entry keys, the number of commands;
-- then of each command its letter, the name, and its fields in the order in which the rules below take them.
-- Answers with a header a command, `status version left existed data`, where data is "-", "i" and a number, "s" and a
-- size, or "b"; after a "b" come the bytes. One command's header alone is answered bare.
--
-- An entry is a hash: v version; i integer or b bytes; d deadline; g time of deletion (then neither i nor b);
-- r0 to r7 the ring of op ids, "op version result" each; n the number of the youngest.
--
-- First every command is judged against the views, in order, and what it would change is kept as a step. Only when
-- all succeeded are the steps carried out. Additions are the exception: Lua's numbers are doubles, so HINCRBY itself
-- has to tell whether the sum fits; what it did is taken back when a later command fails.
local MAX_INLINE = 32768
local RING_SIZE = 8

local channel, prefix, count = ARGV[2], ARGV[3], tonumber(ARGV[4])
local index = KEYS[count + 1]
local at = 4
local views, steps, added = {}, {}, {}
local failed, refusal = false, nil

local function take()
  at = at + 1
  return ARGV[at]
end

local function look(key)
  local view = views[key]
  if view then
    return view
  end
  local fields = redis.call('HMGET', key, 'v', 'd', 'g', 'i', 'n')
  view = { key = key, version = 0, youngest = 7 }
  views[key] = view
  if not fields[1] then
    return view
  end
  view.stored = true
  local version, deadline, gone = tonumber(fields[1]), tonumber(fields[2]), tonumber(fields[3])
  local ended = gone or deadline
  if ended and ended + GRAVE <= now then
    view.stale = true -- as if never seen
    return view
  end
  view.deadline, view.gone, view.has_int = deadline, gone, fields[4]
  view.youngest = tonumber(fields[5]) or 7
  if gone then
    view.version = version
  elseif deadline and deadline <= now then
    view.version = version + 1
  else
    view.version = version
    view.left = deadline and deadline - now
    view.int = fields[4]
    view.kind = fields[4] and 'i' or 'b'
  end
  return view
end

local function bytes_of(view)
  if not view.bytes then
    view.bytes = redis.call('HGET', view.key, 'b') or ''
  end
  return view.bytes
end

local function header(status, version, left, existed, data)
  return status .. ' ' .. text(version) .. ' ' .. (left and text(left) or '-') .. (existed and ' 1 ' or ' 0 ') .. data
end

local function current(status, view)
  if view.kind == 'b' then
    return header(status, view.version, view.left, true, 'b'), bytes_of(view)
  end
  return header(status, view.version, view.left, view.kind, view.kind and 'i' .. view.int or '-')
end

local function fail(status, view)
  failed = true
  return current(status, view)
end

local function unexpected(view, expect)
  if expect == '' then
    return false
  end
  expect = tonumber(expect)
  if expect == 0 then
    return view.kind ~= nil
  end
  return not view.kind or view.version ~= expect
end

local function deadline_for(ttl, view)
  if ttl == '' then
    return nil
  elseif ttl == 'k' then
    return view.left and now + view.left
  end
  return now + tonumber(ttl)
end

-- Keeps a change as a step, and shows it to the commands that follow. `notice` is the patch letter, `data` its bytes.
local function plan(name, view, change, notice, data, extent)
  local left = change.deadline and change.deadline - now
  change.name, change.view = name, view
  change.version = math.max(view.version + 1, now)
  if #data > MAX_INLINE then
    notice, data, extent = 'h', '', nil
  end
  change.notice = notice .. ' ' .. text(change.version) .. ' ' .. text(view.version) .. ' '
    .. (left and text(left) or '-') .. (extent or '') .. '\n' .. data
  steps[#steps + 1] = change
  if left and left <= 0 then -- it ends as it begins
    views[view.key] = { key = view.key, version = change.version + 1 }
  else
    views[view.key] = {
      key = view.key, version = change.version, left = left, kind = change.kind, int = change.int,
      bytes = change.bytes,
    }
  end
  return change.version, left
end

local rules = {}

function rules.R(key)
  local known = tonumber(take())
  local view = look(key)
  if known == view.version then
    return header(UNCHANGED, view.version, view.left, view.kind, '-')
  end
  return current(APPLIED, view)
end

-- A row of a scan: without the data only its size.
function rules.S(key, name)
  local wants_data = take() == '1'
  local view = look(key)
  if index and not view.stored then
    redis.call('ZREM', index, name)
  end
  if view.kind == 'b' and not wants_data then
    return header(APPLIED, view.version, view.left, true, 's' .. redis.call('HSTRLEN', key, 'b'))
  end
  return current(APPLIED, view)
end

function rules.C(key)
  local expect = take()
  local view = look(key)
  if unexpected(view, expect) then
    return fail(CONFLICT, view)
  end
  return header(APPLIED, view.version, view.left, view.kind, '-')
end

function rules.W(key, name)
  local expect, ttl, op, form, data = take(), take(), take(), take(), take()
  local first, last
  if form == 's' then
    first, last = tonumber(take()), tonumber(take())
  end
  local view = look(key)
  if unexpected(view, expect) then
    return fail(CONFLICT, view)
  end
  local change = { op = op, result = view.kind and '1' or '0', deadline = deadline_for(ttl, view), kind = 'b' }
  local extent
  if form == 's' then
    if view.kind ~= 'b' or first < 0 or first > last or last > #bytes_of(view) then
      return fail(WRONG_KIND, view)
    end
    change.bytes = string.sub(view.bytes, 1, first) .. data .. string.sub(view.bytes, last + 1)
    extent = ' ' .. text(first) .. ' ' .. text(last)
  elseif form == 'i' then
    change.kind, change.int = 'i', data
  else
    change.bytes = data
  end
  change.sets = true
  local version, left = plan(name, view, change, form, data, extent)
  return header(APPLIED, version, left, view.kind, '-')
end

-- Amounts beyond 64 bits come in two parts ("" for the second: there is none); no amount at all: the sum cannot fit.
function rules.A(key, name)
  local amount, rest, initial, op = take(), take(), take(), take()
  local view = look(key)
  if view.kind == 'b' then
    return fail(WRONG_KIND, view)
  end
  local change = { op = op, deadline = view.left and now + view.left, kind = 'i', sets = not view.kind }
  if not view.kind then
    if initial == '' then
      return fail(OVERFLOW, view)
    end
    change.int = initial
  else
    local sum = amount ~= '' and redis.pcall('HINCRBY', key, 'i', amount) or { err = 'overflow' }
    if type(sum) == 'number' then
      added[#added + 1] = view
      if rest ~= '' then
        sum = redis.pcall('HINCRBY', key, 'i', rest)
      end
    end
    if type(sum) ~= 'number' then
      if string.find(sum.err, 'overflow', 1, true) then
        return fail(OVERFLOW, view)
      end
      refusal = sum -- the server refuses to write, or this is not a number of ours
      return fail(ABORTED, view)
    end
    local exact = sum > -9007199254740992 and sum < 9007199254740992
    change.int = exact and text(sum) or redis.call('HGET', key, 'i')
  end
  change.result = change.int
  local version, left = plan(name, view, change, 'i', change.int)
  return header(APPLIED, version, left, view.kind, 'i' .. change.int)
end

function rules.D(key, name)
  local expect, op = take(), take()
  local view = look(key)
  if unexpected(view, expect) then
    return fail(CONFLICT, view)
  elseif not view.kind then
    return header(APPLIED, view.version, nil, false, '-')
  end
  local version = plan(name, view, { op = op, result = '1' }, 'd', '')
  return header(APPLIED, version, nil, true, '-')
end

function rules.E(key, name)
  local ttl, op = take(), take()
  local view = look(key)
  if not view.kind then
    return fail(CONFLICT, view)
  end
  local change = {
    op = op, result = '1', deadline = deadline_for(ttl, view), kind = view.kind, int = view.int, bytes = view.bytes,
  }
  local version, left
  if view.kind == 'i' then
    version, left = plan(name, view, change, 'i', view.int)
  else
    version, left = plan(name, view, change, 's', '', ' 0 0')
  end
  return header(APPLIED, version, left, true, '-')
end

function rules.F(key)
  local wanted = take()
  local view = look(key)
  if view.stored and not view.stale then
    local marks = redis.call('HMGET', key, 'r0', 'r1', 'r2', 'r3', 'r4', 'r5', 'r6', 'r7')
    for age = RING_SIZE, 1, -1 do -- oldest first
      local op, version, result = string.match(marks[(view.youngest - age + 1) % RING_SIZE + 1] or '', '(.*) (.*) (.*)')
      if op == wanted then
        return header(APPLIED, version, nil, true, 'i' .. result)
      end
    end
  end
  return header(NOT_FOUND, 0, nil, false, '-')
end

local function undo_additions()
  for _, view in ipairs(added) do
    redis.call('HSET', view.key, 'i', view.int)
  end
end

local function set_life(key, view, step)
  if not step.kind then
    collect_after(key, 0)
  elseif step.deadline then
    if step.deadline ~= view.deadline or view.gone then
      collect_after(key, step.deadline - now)
    end
  elseif view.deadline or view.gone then
    redis.call('PERSIST', key)
  end
end

local function carry_out(step)
  local view = step.view
  local key = view.key
  if view.stale then
    redis.call('DEL', key)
  end
  local sets, removes = { 'v', text(step.version) }, {}
  local function set(field, value)
    sets[#sets + 1], sets[#sets + 2] = field, value
  end
  if step.op ~= '' then
    local slot = (view.youngest + 1) % RING_SIZE
    set('n', slot)
    set('r' .. slot, step.op .. ' ' .. text(step.version) .. ' ' .. step.result)
  end
  if not step.kind then
    set('g', text(now))
    removes = { 'i', 'b', 'd' }
  else
    if step.sets and step.kind == 'i' then
      set('i', step.int)
      removes[1] = view.stored and not view.has_int and 'b' or nil
    elseif step.sets then
      set('b', step.bytes)
      removes[1] = view.has_int and 'i' or nil
    end
    if step.deadline then
      set('d', text(step.deadline))
    elseif view.deadline then
      removes[#removes + 1] = 'd'
    end
    if view.gone then
      removes[#removes + 1] = 'g'
    end
  end
  redis.call('HSET', key, unpack(sets))
  if #removes > 0 then
    redis.call('HDEL', key, unpack(removes))
  end
  set_life(key, view, step)
  if index and not view.stored then
    remember(index, step.name, key_maker(prefix, ''))
  end
end

local answers = {}
for place = 1, count do
  local letter, name = take(), take()
  local head, data = rules[letter](KEYS[place], name)
  if failed then
    undo_additions()
    if refusal then
      return refusal
    end
    answers = {}
    for other = 1, count do
      answers[#answers + 1] = other == place and head or header(ABORTED, 0, nil, false, '-')
      if other == place and data then
        answers[#answers + 1] = data
      end
    end
    steps = {}
    break
  end
  answers[#answers + 1] = head
  if data then
    answers[#answers + 1] = data
  end
end
for _, step in ipairs(steps) do
  carry_out(step)
end
for _, step in ipairs(steps) do
  redis.call('PUBLISH', channel .. step.name, step.notice)
end
return #answers == 1 and answers[1] or answers
