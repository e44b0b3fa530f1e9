// The reference server: node server.mjs PORT [DIRECTORY]. Without a directory it is in memory.
import { DurableStreamTestServer } from "@durable-streams/server"

const [port, dataDir] = process.argv.slice(2)
const server = new DurableStreamTestServer({ port: Number(port), host: "127.0.0.1", dataDir })
await server.start()

process.on("SIGTERM", async () => {
  await server.stop()
  process.exit(0)
})
