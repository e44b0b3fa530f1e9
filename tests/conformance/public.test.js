// The public conformance suite, pointed at a server that tests/conformance/run.py has started.
import { runConformanceTests } from "@durable-streams/server-conformance-tests"

const baseUrl = process.env.CONFORMANCE_URL
if (!baseUrl) throw new Error("CONFORMANCE_URL is not set: start this through run.py")

runConformanceTests({
  baseUrl,
  longPollTimeoutMs: Number(process.env.CONFORMANCE_LONG_POLL_MS),
  // Always on: what is left out is named in excluded.json, and there only.
  subscriptions: true,
})
