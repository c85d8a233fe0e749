-- The short cut for several Reads, of readers that hold no version: what entries.lua answers, without judging a batch.
--
-- KEYS: the entries. ARGV[1]: `now`, as in clock.lua, which stands before this.
-- Answers with a line a key, `version left integer`, where left is "-" for ever and there is no integer when there are
-- bytes, or the version alone when there is no value. Where bytes are among them, they follow in a list.
local lines, answer = {}, {}
for place, key in ipairs(KEYS) do
  local fields = redis.call('HMGET', key, 'v', 'i', 'd', 'g')
  local version, left = fields[1] or '0', '-'
  local exists = fields[1]
  local ended = tonumber(fields[4] or fields[3])
  if ended and ended + GRAVE <= now then
    version, exists = '0', false -- as if never seen
  elseif fields[4] then
    exists = false
  elseif ended and ended <= now then
    version, exists = text(tonumber(version) + 1), false
  elseif ended then
    left = text(ended - now)
  end
  if not exists then
    lines[place] = version
  elseif fields[2] then
    lines[place] = version .. ' ' .. left .. ' ' .. fields[2]
  else
    lines[place] = version .. ' ' .. left .. ' '
    answer[#answer + 1] = redis.call('HGET', key, 'b') or ''
  end
end
local text_of_all = table.concat(lines, '\n')
if #answer == 0 then
  return text_of_all
end
table.insert(answer, 1, text_of_all)
return answer
