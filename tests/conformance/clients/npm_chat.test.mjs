// The AI SDK transport from npm, unchanged: a chat survives a reload of the page and a SIGKILL of the
// server. run.py sets STREAMS_TWISTD (the program) and starts this with `node --test`.
import assert from "node:assert/strict"
import { spawn } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { createServer } from "node:http"
import { connect, createServer as createTcpServer } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { test } from "node:test"
import { createDurableChatTransport, toDurableStreamResponse } from "@durable-streams/aisdk-transport"

const twistd = process.env.STREAMS_TWISTD
assert.ok(twistd, "STREAMS_TWISTD is not set: start this through run.py")

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

const freePort = () =>
  new Promise((resolve) => {
    const probe = createTcpServer().listen(0, "127.0.0.1", () => {
      const { port } = probe.address()
      probe.close(() => resolve(port))
    })
  })

const answers = (port) =>
  new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1", () => resolve(true))
    socket.on("error", () => resolve(false))
    socket.on("connect", () => socket.destroy())
  })

async function startStreams(folder, port) {
  const listen = `tcp:${port}:interface=127.0.0.1`
  const options = ["--pidfile=", "-n", "durable-streams", "--listen", listen]
  const child = spawn(twistd, [...options, "--data-dir", join(folder, "data")], {
    cwd: folder,
    stdio: "ignore",
  })
  while (!(await answers(port))) {
    assert.equal(child.exitCode, null, "the server has ended")
    await pause(50)
  }
  return child
}

// A model whose next chunks come when `say` is called.
function model() {
  const queue = []
  let wake = () => {}
  return {
    say(...chunks) {
      queue.push(...chunks)
      wake()
    },
    async *chunks() {
      while (true) {
        while (queue.length === 0) await new Promise((resolve) => (wake = resolve))
        const chunk = queue.shift()
        if (chunk === null) return
        yield chunk
      }
    },
  }
}

// A page in a process of its own: `take` returns its next chunks, `close` ends it,
// `status` is its exit status.
function openPage(api) {
  const page = spawn(process.execPath, [join(import.meta.dirname, "chat_page.mjs"), api], {
    stdio: ["ignore", "pipe", "ignore"],
  })
  const lines = createInterface({ input: page.stdout })[Symbol.asyncIterator]()
  return {
    status: new Promise((resolve) => page.once("exit", resolve)),
    close: () => page.kill(),
    async take(count) {
      const found = []
      while (found.length < count) found.push(JSON.parse((await lines.next()).value))
      return found
    },
  }
}

const delta = (text) => ({ type: "text-delta", id: "t", delta: text })

test("chat: survives a reload and a SIGKILL of the server", { timeout: 90_000 }, async () => {
  const folder = mkdtempSync(join(tmpdir(), "durable-streams-chat-"))
  const port = await freePort()
  const stream = `http://127.0.0.1:${port}/v1/stream/chats/1`
  let server = await startStreams(folder, port)
  const { say, chunks } = model()
  const app = createServer(async (request, response) => {
    if (request.method === "GET") {
      response.writeHead(200, { Location: stream }).end()
      return
    }
    const made = await toDurableStreamResponse({
      source: chunks(),
      stream: { writeUrl: stream },
    })
    response.writeHead(made.status, Object.fromEntries(made.headers)).end(await made.text())
  })
  await new Promise((resolve) => app.listen(0, "127.0.0.1", resolve))
  const api = `http://127.0.0.1:${app.address().port}/api/chat`
  try {
    const page = new AbortController()
    const first = await createDurableChatTransport({ api }).sendMessages({
      trigger: "submit-message",
      chatId: "1",
      messages: [{ id: "m", role: "user", parts: [{ type: "text", text: "hi" }] }],
      abortSignal: page.signal,
    })
    const start = [{ type: "start" }, { type: "text-start", id: "t" }, delta("One ")]
    say(...start)
    const reader = first.getReader()
    for (const chunk of start) assert.deepEqual((await reader.read()).value, chunk)

    // The page is reloaded: it reads the answer from the start.
    page.abort()
    say(delta("two "))
    const second = openPage(api)
    assert.deepEqual(await second.take(4), [...start, delta("two ")])

    // The server is killed between two chunks and started again. The npm client ends a live read
    // whose connection is lost with an error, or retries it, so the page is loaded once more.
    const ended = new Promise((resolve) => server.once("exit", resolve))
    server.kill("SIGKILL")
    await ended
    server = await startStreams(folder, port)
    second.close()
    await second.status
    const third = openPage(api)
    assert.deepEqual(await third.take(4), [...start, delta("two ")])
    const rest = [delta("three"), { type: "text-end", id: "t" }, { type: "finish" }]
    say(...rest, null)
    assert.deepEqual(await third.take(3), rest)
    // The end of the answer is the end of its stream.
    assert.equal(await third.status, 0)
  } finally {
    server.kill("SIGKILL")
    app.closeAllConnections()
    app.close()
    rmSync(folder, { recursive: true, force: true })
  }
})
