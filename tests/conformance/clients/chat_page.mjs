// A page of a chat: resumes the answer with the AI SDK transport and prints each chunk as a line.
import { createDurableChatTransport } from "@durable-streams/aisdk-transport"

const transport = createDurableChatTransport({ api: process.argv[2] })
for await (const chunk of await transport.reconnectToStream({ chatId: "1" })) {
  console.log(JSON.stringify(chunk))
}
// Idle connections would keep the process alive.
process.exit(0)
