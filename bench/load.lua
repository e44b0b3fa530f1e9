-- What wrk sends. Arguments: a mode, then what the mode needs.
--   get                                   GET of the URL
--   get-from PREFIX FIRST COUNT           GET of each of COUNT paths PREFIX .. number in turn
--   append SIZE                           POST of SIZE bytes to the URL's path
--   append-to SIZE PREFIX FIRST COUNT     the same, to each of COUNT paths PREFIX .. number in turn
--   create PREFIX                         PUT of PREFIX .. number, counting up from 0
--   mixed PREFIX ONE SIZE                 in turn: creates of PREFIX .. number that expire together
--                                         every ten seconds, a producer's append and two reads of
--                                         each, and a producer's appends to the path ONE

local TYPE = "application/octet-stream"

function init(args)
  local mode = args[1]
  if mode == "append" or mode == "append-to" then
    wrk.method = "POST"
    wrk.body = string.rep("x", tonumber(args[2]))
    wrk.headers["Content-Type"] = TYPE
  elseif mode == "create" then
    wrk.method = "PUT"
    wrk.body = ""
    wrk.headers["Content-Type"] = TYPE
    wrk.headers["Content-Length"] = "0"
  end

  -- Only a mode that needs it defines `request`: without it wrk sends one buffer again and again.
  if mode == "append-to" or mode == "get-from" then
    local at_prefix = mode == "append-to" and 3 or 2
    local prefix, first = args[at_prefix], tonumber(args[at_prefix + 1])
    local count = tonumber(args[at_prefix + 2])
    local requests, at = {}, 0
    for number = 0, count - 1 do
      requests[number] = wrk.format(nil, prefix .. string.format("%d", first + number))
    end
    function request()
      local one = requests[at]
      at = at + 1
      if at == count then at = 0 end
      return one
    end
  elseif mode == "mixed" then
    local prefix, one = args[2], args[3]
    local body = string.rep("x", tonumber(args[4]))
    -- A read of a stream follows its creation by so many streams: it has been created by then.
    local behind = 200
    local number, step = 0, 0
    local function producer(name, seq)
      return {
        ["Content-Type"] = TYPE, ["Producer-Id"] = name,
        ["Producer-Epoch"] = "0", ["Producer-Seq"] = tostring(seq),
      }
    end
    local function create()
      local ends = (math.floor(os.time() / 10) + 2) * 10
      return wrk.format("PUT", prefix .. number, {
        ["Content-Type"] = TYPE, ["Content-Length"] = "0",
        ["Stream-Expires-At"] = os.date("!%Y-%m-%dT%H:%M:%SZ", ends),
      }, "")
    end
    local function read()
      local target = one .. "?offset=now"
      if number > behind then target = prefix .. (number - behind) .. "?offset=-1" end
      return wrk.format("GET", target, {}, "")
    end
    local steps = {
      create,
      function()
        local path = number > behind and prefix .. (number - behind) or one
        return wrk.format("POST", path, producer("own" .. prefix .. number, 0), body)
      end,
      function() return wrk.format("POST", one, producer("p" .. prefix .. number, 0), body) end,
      read,
      function() return wrk.format("GET", one .. "?offset=now", {}, "") end,
      create,
      read,
    }
    -- wrk asks for one request before it begins, and does not send it: let it be a read.
    step = #steps - 1
    function request()
      step = step % #steps + 1
      -- Each create is of the next stream.
      if step == 1 or step == 6 then number = number + 1 end
      return steps[step]()
    end
  elseif mode == "create" then
    local whole = wrk.format(nil, args[2] .. "#")
    local cut = string.find(whole, "#", 1, true)
    local head, rest = string.sub(whole, 1, cut - 1), string.sub(whole, cut + 1)
    local number = -1
    function request()
      number = number + 1
      return head .. string.format("%d", number) .. rest
    end
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  print(string.format(
    '{"requests": %d, "microseconds": %d, "bytes": %d, "status": %d, "connect": %d, '
    .. '"read": %d, "write": %d, "timeout": %d, "p50": %d, "p99": %d}',
    summary.requests, summary.duration, summary.bytes, errors.status, errors.connect,
    errors.read, errors.write, errors.timeout, latency:percentile(50), latency:percentile(99)))
end
