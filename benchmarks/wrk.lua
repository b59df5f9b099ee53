-- The key comes from the environment, not from the arguments, which every user of the machine can read.
-- Without a request() and a response() function wrk sends one prepared request and only counts; many keys need the first.
local key = os.getenv("BENCH_API_KEY")
if key and key ~= "" then
  wrk.headers["Authorization"] = "Bearer " .. key
end
local body = os.getenv("BENCH_BODY")
if body and body ~= "" then
  wrk.method, wrk.body = "POST", body
  wrk.headers["Content-Type"] = "application/json"
end
local keys = os.getenv("BENCH_KEYS")
if keys and keys ~= "" then
  local requests = {}
  function init(_)
    for each in io.lines(keys) do
      wrk.headers["Authorization"] = "Bearer " .. each
      requests[#requests + 1] = wrk.format()
    end
  end
  function request()
    return requests[math.random(#requests)]
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\nRESULT {"requests":%d,"duration_us":%d,"bytes":%d,"p50_us":%d,"p99_us":%d,"max_us":%d,'
      .. '"errors":{"connect":%d,"read":%d,"write":%d,"timeout":%d,"status":%d}}\n',
    summary.requests, summary.duration, summary.bytes,
    latency:percentile(50), latency:percentile(99), latency.max,
    errors.connect, errors.read, errors.write, errors.timeout, errors.status))
end
