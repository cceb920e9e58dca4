-- Takes what a request costs from each budget, until one has not enough left. KEYS: the budgets. ARGV: for each, the
-- microseconds in which all of it is refilled, and those in which what the request costs is. Answers for each that was
-- asked how many microseconds it was from full; what that means, `Budget::take` says here as in the gateway.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local owed = {}
for i, key in ipairs(KEYS) do
  local capacity, price = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local debt = math.max(tonumber(redis.call('GET', key) or now) - now, 0)
  owed[i] = debt
  local after = debt + price
  if after > capacity then break end
  redis.call('SET', key, string.format('%.0f', now + after), 'PX', math.ceil(after / 1000))
end
return owed
