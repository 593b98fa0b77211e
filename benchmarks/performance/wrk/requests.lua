-- Sends the requests of a file one after the other, from a place that is drawn for each thread, and ends with one line of
-- JSON. Each line of the file: method, path, token, content type, extra headers (name:value|name:value), body; tab between.
--
-- Arguments: the file, then a word that makes "{unique}" in headers different from every other run, then the first line
-- (a number for requests that may be sent once only, "any" for those that may be repeated).

local ready, position, once, unique, sent, limit = {}, 0, false, "", 0, 0

local function headers_of(token, content_type, extra)
  local headers = {}
  if token ~= "" then headers["Authorization"] = "Bearer " .. token end
  if content_type ~= "" then headers["Content-Type"] = content_type end
  for name, value in extra:gmatch("([^:|]+):([^|]*)") do headers[name] = value end
  return headers
end

function init(args)
  unique, once = args[2], args[3] ~= "any"
  for line in io.lines(args[1]) do
    local method, path, token, content_type, extra, body =
      line:match("^([^\t]*)\t([^\t]*)\t([^\t]*)\t([^\t]*)\t([^\t]*)\t(.*)$")
    if body == "" then body = nil end
    ready[#ready + 1] = wrk.format(method, path, headers_of(token, content_type, extra), body)
  end
  limit = #ready
  if once then
    position = tonumber(args[3])
  else
    math.randomseed(os.time() + tonumber(tostring(ready):match("0x(%x+)"), 16) % 1000003)
    position = math.random(limit)
  end
end

function request()
  position = position + 1
  sent = sent + 1
  if position > limit then
    if once then error("the file holds too few requests") end
    position = 1
  end
  local text = ready[position]
  if unique ~= "" then text = text:gsub("{unique}", unique .. sent, 1) end
  return text
end

function done(summary, latency, requests)
  io.write(string.format(
    '\n{"requests": %d, "microseconds": %d, "p50": %d, "p90": %d, "p99": %d, "refused": %d, "broken": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(90), latency:percentile(99),
    summary.errors.status, summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
