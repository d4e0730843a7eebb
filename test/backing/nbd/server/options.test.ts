/** `NbdServer` called wrongly, and places where it cannot listen: one line that says what, where, and what to do. */
import { createServer } from "node:net"
import { join } from "node:path"
import { describe, expect, it, onTestFinished } from "vitest"
import * as vioblk from "../../../../src/index.ts"
import { temporaryDirectory } from "../../../support/temporary.ts"

const { MemoryBacking } = vioblk
/** As a program without types sees it. */
const NbdServer = vioblk.NbdServer as unknown as new (...args: readonly unknown[]) => {
  listen(options?: unknown): Promise<unknown>
  close(): Promise<void>
}
const backing = new MemoryBacking({ size: 512 })

describe("new NbdServer", () => {
  it.each<[unknown, string]>([
    [undefined, "the options must be an object with exports, tls"],
    [{}, "exports is missing"],
    [{ exports: backing }, "exports must be an array, not an object of class MemoryBacking"],
    [{ exports: [] }, "there is nothing to serve"],
    [{ exports: [backing] }, "NbdServer: exports: unknown option"],
    [{ exports: [null] }, "an export must be an object, not null"],
    [{ exports: [{ name: "a" }] }, "backing is missing"],
    [{ exports: [{ backing: {} }] }, "the backing has no size"],
    [{ exports: [{ backing, readonly: true }] }, 'unknown option "readonly"; did you mean "readOnly"?'],
    [{ exports: [{ backing, name: 7 }] }, "name must be a string, not 7"],
    [{ exports: [{ backing, name: "a\0b" }] }, "has a NUL character in it"],
    [{ exports: [{ backing, name: "ä".repeat(2049) }] }, "the name of an export has 4098 bytes; the limit is 4096"],
    [{ exports: [{ backing }, { backing, name: "" }] }, 'two exports are called ""'],
    [{ exports: [{ backing }], maxClients: 0 }, "maxClients must be a whole number from 1 up, not 0"],
    [{ exports: [{ backing }], maxMemory: 1 << 20 }, "maxMemory must be a whole number from 67108864 up"],
    [{ exports: [{ backing }], handshakeTimeout: Infinity }, "handshakeTimeout must be a whole number from 1 to 2147483647, not Infinity"],
    [{ exports: [{ backing }], tls: { cert: "x" } }, "key is missing"],
    [{ exports: [{ backing }], tls: { cert: "x", key: "y" } }, "the certificate or the key for TLS cannot be used"],
  ])("%o is refused", (options, message) => expect(() => new NbdServer(options)).toThrow(message))

  it("an invalid certificate is a BackingError", () => {
    expect(() => new NbdServer({ exports: [{ backing }], tls: { cert: "x", key: "y" } })).toThrow(vioblk.BackingError)
  })
})

describe("listen", () => {
  it.each<[unknown, string]>([
    [{ port: 65_536 }, "listen: port must be a whole number from 0 to 65535, not 65536"],
    [{ port: "10809" }, "port must be a number"],
    [{ path: "x" }, 'unknown option "path"'],
    [{ socket: "x", port: 1 }, "socket excludes port and host"],
  ])("%o is refused", async (options, message) => {
    await expect(new NbdServer({ exports: [{ backing }] }).listen(options)).rejects.toThrow(message)
  })

  it("a port in use, an existing socket and a missing folder are refused with what to do", async () => {
    const other = createServer()
    await new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve))
    onTestFinished(() => void other.close())
    const address = other.address()
    const port = typeof address === "object" && address !== null ? address.port : 0
    const server = new NbdServer({ exports: [{ backing }] })
    await expect(server.listen({ port })).rejects.toMatchObject({
      code: "busy", message: `cannot listen at port ${port} of 127.0.0.1: it is in use; choose another one`,
    })
    const folder = temporaryDirectory()
    const socket = join(folder, "socket")
    const first = new NbdServer({ exports: [{ backing }] })
    expect(await first.listen({ socket })).toEqual({ socket })
    await expect(server.listen({ socket })).rejects.toMatchObject({
      code: "busy", message: `cannot listen at ${socket}: it exists already; remove it if no server listens there`,
    })
    await expect(
      server.listen({ socket: join(folder, "none", "socket") }),
    ).rejects.toThrow("its folder does not exist, or may not be written")
    await expect(first.listen({ socket: join(folder, "other") })).rejects.toMatchObject({ code: "busy" })
    await first.close()
    // The socket is gone with its server, and the one that was refused still can.
    expect(await server.listen({ socket })).toEqual({ socket })
    await server.close()
    await server.close()
    await expect(server.listen()).rejects.toMatchObject({ code: "closed" })
  })

  it("port 0 returns the port that the host has chosen", async () => {
    const server = new NbdServer({ exports: [{ backing }] })
    expect(await server.listen({ port: 0 })).toEqual({ host: "127.0.0.1", port: expect.any(Number) })
    await server.close()
  })
})
