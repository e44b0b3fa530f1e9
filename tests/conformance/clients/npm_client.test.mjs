// The npm client @durable-streams/client, unchanged, against a running server.
// run.py sets STREAMS_URL (the root under which streams live) and starts this with `node --test`.
import assert from "node:assert/strict"
import { test } from "node:test"
import {
  DurableStream,
  IdempotentProducer,
  StaleEpochError,
  stream,
} from "@durable-streams/client"

const root = process.env.STREAMS_URL
assert.ok(root, "STREAMS_URL is not set: start this through run.py")

const limit = { timeout: 20_000 }
const urlOf = (name) => `${root}npm-client/${process.pid}/${name}`
const create = (name, contentType, more = {}) =>
  DurableStream.create({ url: urlOf(name), contentType, ...more })
const textOf = async (url, offset) => (await stream({ url, offset, live: false })).text()
const itemsOf = async (url, offset) => (await stream({ url, offset, live: false })).json()

// Collects what a live reader brings until `enough(pieces)`, then hangs up. How the server cuts
// its answers is its own affair, so nothing here counts them.
// Gives the pieces and the offset that one would save to go on later.
async function take(enough, options, subscribe) {
  const res = await stream(options)
  const pieces = []
  return await new Promise((resolve, reject) => {
    res.closed.catch(reject)
    subscribe(res, (more, offset) => {
      pieces.push(...more)
      if (enough(pieces)) {
        res.cancel()
        resolve({ pieces, offset })
      }
    })
  })
}
const items = (count) => (pieces) => pieces.length >= count
const byJson = (res, got) => res.subscribeJson(async (batch) => got(batch.items, batch.offset))
const byText = (res, got) =>
  res.subscribeText(async (chunk) => got(chunk.text ? [chunk.text] : [], chunk.offset))

test("text: create, append, read, and read from an offset", limit, async () => {
  const handle = await create("text", "text/plain", { ttlSeconds: 3600 })
  await handle.append("first line\n")
  const { offset } = await handle.head()
  await handle.append("second line: é, 日本, 🙂\n")
  assert.equal(await textOf(handle.url), "first line\nsecond line: é, 日本, 🙂\n")
  assert.equal(await textOf(handle.url, offset), "second line: é, 日本, 🙂\n")
  const head = await DurableStream.head({ url: handle.url })
  assert.equal(head.contentType, "text/plain")
  assert.ok(head.offset > offset, `${head.offset} sorts after ${offset}`)
})

test("bytes: 3 MB in one append come back unchanged", limit, async () => {
  const handle = await create("bytes", "application/octet-stream")
  const sent = new Uint8Array(3_000_000).map((_, i) => (i * 7919) >> 5)
  await handle.append(sent)
  // With `live: false` this client takes one answer: everything has to be in it.
  for (const live of [false, true]) {
    const got = await (await stream({ url: handle.url, live })).body()
    assert.equal(got.length, sent.length)
    assert.ok(Buffer.from(sent).equals(got))
  }
})

test("bytes: 50 MB are all in the first answer", { timeout: 60_000 }, async () => {
  const handle = await create("all-bytes", "application/octet-stream")
  const piece = new Uint8Array(10_000_000).map((_, i) => (i * 7919) >> 5)
  for (let i = 0; i < 5; i++) await handle.append(piece)
  const got = await (await stream({ url: handle.url, live: false })).body()
  assert.equal(got.length, 5 * piece.length)
  for (let i = 0; i < 5; i++) {
    const part = got.subarray(i * piece.length, (i + 1) * piece.length)
    assert.ok(Buffer.from(piece.buffer).equals(part))
  }
})

test("json: 8 MB are all in the first answer", limit, async () => {
  const handle = await create("all-json", "application/json")
  const rows = Array.from({ length: 8000 }, (_, n) => ({ n, text: "x".repeat(1000) }))
  for (let start = 0; start < rows.length; start += 1000)
    await handle.append(JSON.stringify(rows.slice(start, start + 1000)))
  assert.deepEqual((await itemsOf(handle.url)).flat(), rows)
})

test("bytes: appendStream pipes a source through one request", limit, async () => {
  const handle = await create("piped", "text/plain")
  async function* source() {
    for (let i = 0; i < 50; i++) yield `piece ${i};`
  }
  await handle.appendStream(source())
  assert.equal(await textOf(handle.url), Array.from({ length: 50 }, (_, i) => `piece ${i};`).join(""))
})

test("json: values come back one by one, concurrent appends in order", limit, async () => {
  const handle = await create("json", "application/json")
  const sent = Array.from({ length: 200 }, (_, i) => ({ i, list: [i, [i]], text: "data: x\n\n" }))
  await Promise.all(sent.map((value) => handle.append(JSON.stringify(value))))
  await handle.append(JSON.stringify([["kept", "together"]]))
  assert.deepEqual(await itemsOf(handle.url), [...sent, [["kept", "together"]]])
})

test("a second create with another content type is a conflict", limit, async () => {
  const handle = await create("twice", "text/plain")
  await create("twice", "text/plain")
  await assert.rejects(create("twice", "application/json"), { status: 409 })
  assert.equal((await handle.head()).contentType, "text/plain")
})

test("Stream-Seq: a sequence that goes back is a conflict", limit, async () => {
  const handle = await create("seq", "text/plain", { batching: false })
  await handle.append("a", { seq: "002" })
  await assert.rejects(handle.append("b", { seq: "001" }), { status: 409 })
  await handle.append("c", { seq: "003" })
  assert.equal(await textOf(handle.url), "ac")
})

test("idempotent producer: pipelined batches, each event once, in order", limit, async () => {
  const handle = await create("producer", "application/json")
  const failures = []
  const options = { maxBatchBytes: 200, lingerMs: 1, onError: (e) => failures.push(e) }
  const producer = new IdempotentProducer(handle, "pump", options)
  const sent = Array.from({ length: 500 }, (_, i) => ({ event: i }))
  for (const event of sent) producer.append(JSON.stringify(event))
  await producer.flush()
  assert.deepEqual(failures, [])
  assert.ok(producer.nextSeq > 10, `only ${producer.nextSeq} batches: nothing was pipelined`)
  assert.deepEqual(await itemsOf(handle.url), sent)
})

test("idempotent producer: a repeated batch is not stored twice", limit, async () => {
  const handle = await create("repeat", "text/plain")
  for (const attempt of ["first", "again"]) {
    const producer = new IdempotentProducer(handle, "retrying")
    producer.append(`only once (${attempt})`)
    await producer.flush()
  }
  assert.equal(await textOf(handle.url), "only once (first)")
})

test("idempotent producer: a new epoch fences the old one off", limit, async () => {
  const handle = await create("fence", "text/plain")
  const failures = []
  const old = new IdempotentProducer(handle, "writer", { onError: (e) => failures.push(e) })
  old.append("old;")
  await old.flush()
  const fresh = new IdempotentProducer(handle, "writer", { epoch: 1 })
  fresh.append("new;")
  await fresh.flush()
  old.append("zombie;")
  await old.flush()
  assert.equal(failures.length, 1)
  assert.ok(failures[0] instanceof StaleEpochError, String(failures[0]))
  assert.equal(failures[0].currentEpoch, 1)
  const claiming = new IdempotentProducer(handle, "writer", { autoClaim: true })
  claiming.append("claimed;")
  await claiming.flush()
  assert.equal(claiming.epoch, 2)
  assert.equal(await textOf(handle.url), "old;new;claimed;")
})

for (const live of ["long-poll", "sse"]) {
  test(`${live}: a JSON tail follows the appends`, limit, async () => {
    const handle = await create(`json-tail-${live}`, "application/json")
    await handle.append(JSON.stringify({ n: 0 }))
    const tail = take(items(5), { url: handle.url, live }, byJson)
    for (let n = 1; n < 5; n++) {
      await new Promise((resolve) => setTimeout(resolve, 50))
      await handle.append(JSON.stringify({ n }))
    }
    assert.deepEqual((await tail).pieces, [0, 1, 2, 3, 4].map((n) => ({ n })))
  })

  test(`${live}: a text tail brings difficult text unchanged`, limit, async () => {
    const handle = await create(`text-tail-${live}`, "text/plain; charset=utf-8")
    const sent = [" leading space", "two\nlines\n", "event: forged\ndata: x", "é\u2028\ufeff🙂", "$"]
    const whole = (pieces) => pieces.join("").endsWith("$")
    const tail = take(whole, { url: handle.url, offset: "-1", live }, byText)
    for (const text of sent) {
      await new Promise((resolve) => setTimeout(resolve, 50))
      await handle.append(text)
    }
    assert.deepEqual((await tail).pieces.join(""), sent.join(""))
  })

  test(`${live}: a reader that lost its connection goes on from its saved offset`, limit, async () => {
    const handle = await create(`resume-${live}`, "application/json")
    for (const n of [0, 1, 2]) await handle.append(JSON.stringify({ n }))
    const before = await take(items(3), { url: handle.url, live }, byJson)
    for (const n of [3, 4]) await handle.append(JSON.stringify({ n }))
    const after = take(items(4), { url: handle.url, offset: before.offset, live }, byJson)
    for (const n of [5, 6]) await handle.append(JSON.stringify({ n }))
    assert.deepEqual((await after).pieces, [3, 4, 5, 6].map((n) => ({ n })))
  })

  test(`${live}: closing reaches a waiting reader with the last message`, limit, async () => {
    const handle = await create(`close-${live}`, "application/json")
    const res = await stream({ url: handle.url, offset: "-1", live })
    const items = []
    const ended = new Promise((resolve) => {
      res.subscribeJson(async (batch) => {
        items.push(...batch.items)
        if (batch.streamClosed) resolve()
      })
    })
    const producer = new IdempotentProducer(handle, "closer")
    producer.append(JSON.stringify("almost done"))
    const { finalOffset } = await producer.close(JSON.stringify("done"))
    await ended
    assert.deepEqual(items, ["almost done", "done"])
    assert.equal((await handle.head()).offset, finalOffset)
    await assert.rejects(handle.append(JSON.stringify("late")), { status: 409 })
    await handle.close()
  })
}

test("sse: bytes arrive by base64", limit, async () => {
  const handle = await create("binary-tail", "application/octet-stream")
  const sent = Buffer.from(Array.from({ length: 1000 }, (_, i) => i % 256))
  const res = await stream({ url: handle.url, offset: "-1", live: "sse" })
  const tail = new Promise((resolve) => {
    const parts = []
    res.subscribeBytes(async (chunk) => {
      parts.push(chunk.data)
      if (Buffer.concat(parts).length >= sent.length) {
        res.cancel()
        resolve(Buffer.concat(parts))
      }
    })
  })
  for (let at = 0; at < sent.length; at += 100) await handle.append(sent.subarray(at, at + 100))
  assert.ok(sent.equals(await tail))
})

test("delete: the stream is gone", limit, async () => {
  const handle = await create("gone", "text/plain")
  await handle.delete()
  await assert.rejects(stream({ url: handle.url, live: false }), { status: 404 })
})
