// Packages from npm that build on the protocol, unchanged, against a running server.
// run.py sets STREAMS_URL (the root under which streams live) and starts this with `node --test`.
import assert from "node:assert/strict"
import { test } from "node:test"
import { DurableStream } from "@durable-streams/client"
import { createStateSchema } from "@durable-streams/state"
import { createStreamDB } from "@durable-streams/state/db"
import { YjsProvider } from "@durable-streams/y-durable-streams"
import { YjsServer } from "@durable-streams/y-durable-streams/server"
import * as Y from "yjs"

const root = process.env.STREAMS_URL
assert.ok(root, "STREAMS_URL is not set: start this through run.py")

const limit = { timeout: 60_000 }
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

// Waits until a condition holds; the limit of the test ends the wait.
async function until(holds) {
  while (!holds()) await pause(20)
}

// The server layer of y-durable-streams stores documents in streams of our server.
// Its default threshold compacts a document after 1 MB and then reads from an offset that no server
// has returned, which our server refuses: compaction has to stay off.
test("y-durable-streams: two documents stay in sync", limit, async () => {
  const layer = new YjsServer({ dsServerUrl: new URL(root).origin, compactionThreshold: Infinity })
  const url = await layer.start()
  const providers = []
  const open = (doc) => {
    const docId = `doc-${process.pid}`
    const provider = new YjsProvider({ doc, baseUrl: `${url}/v1/yjs/test`, docId })
    providers.push(provider)
    return new Promise((resolve, reject) => {
      provider.on("error", reject)
      provider.on("synced", (synced) => synced && resolve())
    })
  }
  try {
    const [first, second, third] = [new Y.Doc(), new Y.Doc(), new Y.Doc()]
    await open(first)
    await open(second)
    first.getText("t").insert(0, "hello")
    await until(() => second.getText("t").toString() === "hello")
    second.getText("t").insert(5, " world")
    first.getMap("m").set("k", [1, 2])
    await until(() => first.getText("t").toString() === "hello world")
    await until(() => second.getMap("m").get("k"))
    // More than the threshold of a compaction. The provider decodes each event by itself, so a batch
    // of updates has to fit into one: the server cuts binary data after 256 KiB.
    for (let size = 100_000; size <= 1_200_000; size += 100_000) {
      first.getText("long").insert(0, "x".repeat(100_000))
      await until(() => second.getText("long").length === size)
    }
    await open(third)
    await until(() => third.getText("long").length === 1_200_000)
    assert.equal(third.getText("t").toString(), "hello world")
  } finally {
    for (const provider of providers) provider.destroy()
    await layer.stop()
  }
})

const anything = {
  "~standard": { version: 1, vendor: "test", validate: (value) => ({ value }) },
}

test("@durable-streams/state: a live query over two clients", limit, async () => {
  const state = createStateSchema({
    users: { schema: anything, type: "user", primaryKey: "id" },
  })
  const url = `${root}npm-state/${process.pid}`
  const stream = await DurableStream.create({ url, contentType: "application/json" })
  const write = (event) => stream.append(JSON.stringify(event))
  await write(state.users.insert({ value: { id: "1", name: "Ada" } }))
  const open = async () => {
    const db = createStreamDB({
      streamOptions: { url, contentType: "application/json" },
      live: "sse",
      state,
    })
    await db.preload()
    return db
  }
  const databases = [await open(), await open()]
  const names = (db) => db.collections.users.toArray.map((user) => user.name).sort()
  try {
    for (const db of databases) assert.deepEqual(names(db), ["Ada"])
    const changes = []
    databases[1].collections.users.subscribeChanges((batch) => changes.push(...batch))
    await write(state.users.insert({ value: { id: "2", name: "Grace" } }))
    await write(state.users.update({ value: { id: "1", name: "Ada L." } }))
    for (const db of databases) await until(() => names(db).join() === "Ada L.,Grace")
    await write(state.users.delete({ key: "2" }))
    for (const db of databases) await until(() => names(db).join() === "Ada L.")
    assert.deepEqual(changes.map((change) => change.key), ["2", "1", "2"])
  } finally {
    for (const db of databases) db.close()
  }
})
