"""The queue's Lua: every change is one script, so `known` is always ready, delayed and leased ids together."""

from __future__ import annotations

READY = "action_jobs"
DELAYED = "agentauri:queue:delayed"
LEASED = "agentauri:queue:leased"
KNOWN = "agentauri:queue:known"
WAKE = "agentauri:wake"
PROBE = "agentauri:queue:probe"

KEYS = (READY, DELAYED, LEASED, KNOWN)

_NAMES = "local ready, delayed, leased, known = KEYS[1], KEYS[2], KEYS[3], KEYS[4]\n"

# now, mark (0: none), then id and due time by turns. With a mark it stops where ready is full.
PUSH = (
    _NAMES
    + """
local now, mark = tonumber(ARGV[1]), tonumber(ARGV[2])
local room = math.huge
if mark > 0 then room = mark - redis.call('LLEN', ready) end
local pushed, read = 0, 0
for i = 3, #ARGV, 2 do
    local id, due = ARGV[i], tonumber(ARGV[i + 1])
    if due > now then
        if redis.call('SADD', known, id) == 1 then
            redis.call('ZADD', delayed, due, id)
            pushed = pushed + 1
        end
    else
        if room <= 0 then break end
        if redis.call('SADD', known, id) == 1 then
            redis.call('RPUSH', ready, id)
            pushed = pushed + 1
            room = room - 1
        end
    end
    read = read + 1
end
if pushed > 0 then redis.call('PUBLISH', 'agentauri:wake', '1') end
return {pushed, read, redis.call('LLEN', ready)}
"""
)

# now, at most this many of each. Answers how many are ready by now, and the next due time (-1: none).
PROMOTE = (
    _NAMES
    + """
for _, from in ipairs({delayed, leased}) do
    local due = redis.call('ZRANGEBYSCORE', from, '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
    for _, id in ipairs(due) do
        redis.call('ZREM', from, id)
        redis.call('RPUSH', ready, id)
    end
end
local first = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
return {redis.call('LLEN', ready), first[2] and tonumber(first[2]) or -1}
"""
)

# how many, when the lease lapses, window. Answers how many are left, how many lanes were seen (0: all is taken), and
# the ids. Looks at both ends of ready: the old work at the head, and whoever came last, so that one tenant's backlog
# does not hide another's first delivery. Mostly what is to go stands at one end already, and popping it is all there
# is to write. Otherwise both ends are taken out, and what is not picked goes back to the tail, a turn of all lanes at a
# time and the oldest last: there the next calls find it first. So both ends are in order more often than not, and
# merging them saves sorting.
LEASE = (
    _NAMES
    + """
local wanted, lapse, window = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local total = redis.call('LLEN', ready)
if total == 0 or wanted <= 0 then return {total, 0} end

local picked, lanes_seen = {}, 0
if total <= wanted then
    picked = redis.call('LPOP', ready, wanted)
else
    local head = redis.call('LRANGE', ready, 0, window - 1)
    local tail = {}
    if total > window then tail = redis.call('LRANGE', ready, math.max(window, total - window), -1) end
    local lanes, order, unsorted, deepest = {}, {}, {}, 0
    local function file(id)
        local name = string.sub(id, 16, 18)
        local lane = lanes[name]
        if not lane then
            lane = {}
            lanes[name] = lane
            order[#order + 1] = lane
        end
        local depth = #lane
        if depth > 0 and id < lane[depth] then unsorted[lane] = true end
        lane[depth + 1] = id
        if depth >= deepest then deepest = depth + 1 end
    end
    local i, j, heads = 1, #tail, #head
    while i <= heads and j >= 1 do
        if head[i] < tail[j] then
            file(head[i])
            i = i + 1
        else
            file(tail[j])
            j = j - 1
        end
    end
    for k = i, heads do file(head[k]) end
    for k = j, 1, -1 do file(tail[k]) end
    for lane in pairs(unsorted) do table.sort(lane) end
    lanes_seen = #order

    local chosen, depth = {}, 0
    while #picked < wanted and depth < deepest do
        depth = depth + 1
        for _, lane in ipairs(order) do
            local id = lane[depth]
            if id and #picked < wanted then
                picked[#picked + 1] = id
                chosen[id] = true
            end
        end
    end
    local function all_chosen(ids, from, to)
        for k = from, to do
            if not chosen[ids[k]] then return false end
        end
        return true
    end
    if all_chosen(head, 1, #picked) then
        redis.call('LPOP', ready, #picked)
    elseif #tail >= #picked and all_chosen(tail, #tail - #picked + 1, #tail) then
        redis.call('RPOP', ready, #picked)
    else
        redis.call('LPOP', ready, heads)
        if #tail > 0 then redis.call('RPOP', ready, #tail) end
        local back = {}
        for turn = depth, deepest do
            for _, lane in ipairs(order) do
                local id = lane[turn]
                if id and not chosen[id] then back[#back + 1] = id end
            end
        end
        local turned = {}
        for k = #back, 1, -1 do
            turned[#turned + 1] = back[k]
            if #turned == 1000 or k == 1 then
                redis.call('RPUSH', ready, unpack(turned))
                turned = {}
            end
        end
    end
end

local leases, scored, mine = {0, lanes_seen}, {}, {}
local known_leases = redis.call('ZMSCORE', leased, unpack(picked))
for k, id in ipairs(picked) do
    if not known_leases[k] and not mine[id] then -- one that is leased already was in the list twice
        mine[id] = true
        leases[#leases + 1] = id
        scored[#scored + 1] = lapse
        scored[#scored + 1] = id
    end
end
if #scored > 0 then redis.call('ZADD', leased, unpack(scored)) end
leases[1] = redis.call('LLEN', ready)
return leases
"""
)

ACK = (
    _NAMES
    + """
for i = 1, #ARGV, 1000 do
    local last = math.min(i + 999, #ARGV)
    redis.call('ZREM', leased, unpack(ARGV, i, last))
    redis.call('SREM', known, unpack(ARGV, i, last))
end
return #ARGV
"""
)

# now, then id and due time by turns. One that we did not lease is somebody else's by now.
RETRY = (
    _NAMES
    + """
local now = tonumber(ARGV[1])
for i = 2, #ARGV, 2 do
    local id, due = ARGV[i], tonumber(ARGV[i + 1])
    if redis.call('ZREM', leased, id) == 1 then
        if due > now then
            redis.call('ZADD', delayed, due, id)
        else
            redis.call('LPUSH', ready, id)
        end
    end
end
return 0
"""
)

CHECK = (
    _NAMES
    + """
local waiting, taken = redis.call('ZCARD', delayed), redis.call('ZCARD', leased)
return {redis.call('SCARD', known), redis.call('LLEN', ready), waiting, taken}
"""
)

# Makes known from the other three, and drops from ready what is there twice or waits elsewhere.
REBUILD = (
    _NAMES
    + """
redis.call('DEL', known)
for _, from in ipairs({delayed, leased}) do
    local ids = redis.call('ZRANGE', from, 0, -1)
    for i = 1, #ids, 1000 do redis.call('SADD', known, unpack(ids, i, math.min(i + 999, #ids))) end
end
for _, id in ipairs(redis.call('ZRANGE', leased, 0, -1)) do redis.call('ZREM', delayed, id) end
local ids = redis.call('LRANGE', ready, 0, -1)
redis.call('DEL', ready)
for _, id in ipairs(ids) do
    if redis.call('SADD', known, id) == 1 then redis.call('RPUSH', ready, id) end
end
return redis.call('SCARD', known)
"""
)

# now, slack, how long to keep, then by turns: slot of those who wait, slot of those who go ('': none may), interval,
# how many. Answers for each how many may go now and when the first of the others may come; all in milliseconds.
RESERVE = """
local now, slack, keep = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local function free_at(name) return tonumber(redis.call('GET', 'agentauri:slot:' .. name) or 0) end
local function set(name, at) redis.call('SET', 'agentauri:slot:' .. name, string.format('%.3f', at), 'PX', keep) end
local answers = {}
for i = 4, #ARGV, 4 do
    local wait, pace, interval, count = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
    local go, free = 0, 0
    if pace ~= '' then
        free = free_at(pace)
        while go < count and free <= now + slack do
            free = math.max(free, now) + interval
            go = go + 1
        end
        if go > 0 then set(pace, free) end
    end
    local first = math.max(now, free, free_at(wait))
    if go < count then set(wait, math.min(first + (count - go) * interval, now + keep)) end
    answers[#answers + 1] = go
    answers[#answers + 1] = math.floor(first)
end
return answers
"""
