// The npm client across a restart of the server: run.py starts this twice, once on each side of
// it. RESTART_STATE is the file in which the first run leaves what a client would have saved.
import assert from "node:assert/strict"
import { readFile, writeFile } from "node:fs/promises"
import { test } from "node:test"
import { DurableStream, IdempotentProducer, stream } from "@durable-streams/client"

const { STREAMS_URL: root, RESTART_PHASE: phase, RESTART_STATE: state } = process.env
assert.ok(root && state, "STREAMS_URL and RESTART_STATE are not set: start this through run.py")
const limit = { timeout: 20_000 }
const url = `${root}npm-restart`
const events = (from, to) => Array.from({ length: to - from }, (_, i) => ({ event: from + i }))

async function produce(handle, items) {
  const producer = new IdempotentProducer(handle, "survivor")
  for (const item of items) {
    producer.append(JSON.stringify(item))
    await producer.flush()
  }
}

if (phase === "before") {
  test("before the restart: write, and save the offset of the tail", limit, async () => {
    const handle = await DurableStream.create({ url, contentType: "application/json" })
    await produce(handle, events(0, 20))
    const res = await stream({ url, live: false })
    assert.deepEqual(await res.json(), events(0, 20))
    await writeFile(state, JSON.stringify({ offset: res.offset }))
  })
} else {
  test("after the restart: repeats are recognised, the tail goes on", limit, async () => {
    const { offset } = JSON.parse(await readFile(state, "utf8"))
    const handle = await DurableStream.connect({ url })
    const res = await stream({ url, offset, live: "sse" })
    const items = []
    const tail = new Promise((resolve) => {
      res.subscribeJson(async (batch) => {
        items.push(...batch.items)
        if (items.length >= 10) {
          res.cancel()
          resolve()
        }
      })
    })
    // The first 20 are the batches of before, with the same sequence numbers.
    await produce(handle, events(0, 30))
    await tail
    assert.deepEqual(items, events(20, 30))
    assert.deepEqual(await (await stream({ url, live: false })).json(), events(0, 30))
  })
}
