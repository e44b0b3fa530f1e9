-- What wrk sends. Arguments: a mode, then what the mode needs.
--   get                                   GET of the URL
--   append SIZE                           POST of SIZE bytes to the URL's path
--   append-to SIZE PREFIX FIRST COUNT     the same, to each of COUNT paths PREFIX .. number in turn
--   create PREFIX                         PUT of PREFIX .. number, counting up from 0

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
  if mode == "append-to" then
    local prefix, first, count = args[3], tonumber(args[4]), tonumber(args[5])
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
