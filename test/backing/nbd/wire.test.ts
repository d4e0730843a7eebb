/** The client's sockets: one that has been ended goes away, whatever the server does. */
import { createServer } from "node:net"
import { join } from "node:path"
import { expect, it, onTestFinished } from "vitest"
import { parseNbdUri } from "../../../src/backing/nbd/client/uri.ts"
import { dial } from "../../../src/backing/nbd/client/wire.ts"
import { temporaryDirectory } from "../../support/temporary.ts"

it("a connection is cut if its server goes on sending instead of closing its side", async () => {
  const path = join(temporaryDirectory(), "socket")
  const MOST = 64 << 20
  const chunk = new Uint8Array(1 << 16)
  let heard = ""
  let sent = 0
  const server = createServer({ allowHalfOpen: true })
  const over = new Promise<void>((resolve) => {
    server.on("connection", (socket) => {
      const flood = (): void => {
        sent += chunk.length
        if (sent > MOST) return resolve()
        socket.write(chunk, (error) => {
          if (error === null || error === undefined) flood()
        })
      }
      socket.on("data", (bytes: Buffer) => (heard += bytes.toString()))
      socket.on("end", flood)
      socket.on("error", () => resolve())
      onTestFinished(() => void socket.destroy())
    })
  })
  await new Promise<void>((resolve) => server.listen(path, resolve))
  onTestFinished(() => void server.close())
  const wire = dial(parseNbdUri(`nbd+unix:///?socket=${path}`), {
    target: () => new Uint8Array(1 << 16),
    received: () => undefined,
    ended: () => undefined,
  })
  wire.write([Buffer.from("goodbye")])
  wire.end()
  await over
  expect(heard).toBe("goodbye")
  expect(sent).toBeLessThan(MOST)
})
