/** Clients that ask for much, that do not read, that go, and a server that closes: order, bounds, and nothing left behind. */
import { describe, expect, it, vi } from "vitest"
import { eio, FakeDisk, heldDisk, settled } from "../../../harness/fake-disk.ts"
import { Rng } from "../../../support/rng.ts"
import { CMD, CMD_FLAG, ERROR, errorOf, expectSame, type NbdClient } from "../../../support/nbd/client.ts"
import { serve, type TestServer } from "../../../support/nbd/server.ts"

const MiB = 1 << 20

async function connected(server: TestServer, options: { readonly structured?: boolean } = {}): Promise<NbdClient> {
  const client = await server.connect()
  await client.go("", options)
  return client
}

/** Lets the event loop turn until `isTrue`. */
async function until(isTrue: () => boolean): Promise<void> {
  while (!isTrue()) await settled()
}

/** Answers what waits now, and whatever is asked from now on: the server waits for its calls when it is closed. */
function finishAll(disk: FakeDisk): void {
  disk.waits = () => false
  while (disk.waiting.length > 0) disk.next().finish()
}

describe("a disk that answers later", () => {
  it("works on many requests of a client at once, and each is answered when it is done", async () => {
    const disk = heldDisk(Uint8Array.from(new Rng(1).bytes(MiB)))
    const client = await connected(await serve({ exports: [{ backing: disk }] }))
    for (let index = 0; index < 20; index++) {
      client.sendCommand({ type: CMD.read, offset: index * 1000, length: 512, cookie: BigInt(index) })
    }
    await until(() => disk.waiting.length === 20)
    for (const index of [7, 19, 0]) {
      disk.waiting.find(({ call }) => call.offset === index * 1000)?.finish()
      expect(await client.reply()).toMatchObject({ error: 0, cookie: BigInt(index) })
      expectSame(await client.read(512), disk.cache.subarray(index * 1000, index * 1000 + 512))
    }
    finishAll(disk)
  })

  it("fails one request of many, and serves the others; FUA flushes after its own write", async () => {
    const disk = heldDisk(new Uint8Array(MiB))
    disk.waits = ({ name }) => name === "write"
    const client = await connected(await serve({ exports: [{ backing: disk }] }))
    const payload = Buffer.alloc(512, 5)
    client.sendCommand({ type: CMD.write, offset: 0, length: 512, cookie: 1n, payload })
    client.sendCommand({ type: CMD.write, offset: 512, length: 512, cookie: 2n, payload, flags: CMD_FLAG.fua })
    await until(() => disk.waiting.length === 2)
    expect(disk.takeNames()).toEqual(["write", "write"])
    disk.waiting[1]?.finish()
    expect(await client.reply()).toMatchObject({ error: 0, cookie: 2n })
    expect(disk.takeNames()).toEqual(["flush"])
    expect(disk.stable[512]).toBe(5)
    disk.waiting[0]?.finish()
    expect(await client.reply()).toMatchObject({ error: 0, cookie: 1n })
  })

  it("works on at most 128 requests of a client, and on at most 2 MiB of answers", async () => {
    const disk = heldDisk(new Uint8Array(8 * MiB))
    const client = await connected(await serve({ exports: [{ backing: disk }] }))
    for (let index = 0; index < 300; index++) client.sendCommand({ type: CMD.read, length: 1, cookie: BigInt(index) })
    await until(() => disk.waiting.length >= 128)
    for (let turn = 0; turn < 20; turn++) await settled()
    expect(disk.waiting.length).toBe(128)
    for (let index = 0; index < 300; index++) {
      await until(() => disk.waiting.length > 0)
      disk.next().finish()
      await client.reply()
      await client.read(1)
    }
    for (let index = 0; index < 20; index++) client.sendCommand({ type: CMD.read, length: MiB })
    await until(() => disk.waiting.length >= 3)
    for (let turn = 0; turn < 20; turn++) await settled()
    // A simple reply is held whole.
    expect(disk.waiting.length).toBe(3)
    finishAll(disk)
  })

  it("that returns a promise unannounced is reported to the operator, and its client gets an error", async () => {
    const disk = new FakeDisk({ size: MiB })
    Object.assign(disk, { pread: () => Promise.reject(new Error("later")) })
    const thrown: unknown[] = []
    const before = process.listeners("uncaughtException")
    process.removeAllListeners("uncaughtException").on("uncaughtException", (error) => void thrown.push(error))
    try {
      const client = await connected(await serve({ exports: [{ backing: disk }] }))
      expect(await client.perform({ type: CMD.read, length: 512 })).toBe(ERROR.io)
      await settled()
      expect(String(thrown)).toContain("pread of the backing returned a promise")
    } finally {
      process.removeAllListeners("uncaughtException")
      for (const listener of before) process.on("uncaughtException", listener)
    }
  })
})

describe("a client that does not read", () => {
  it.each([[true, 256 << 10], [false, 256 << 10], [true, 4 * MiB], [false, 4 * MiB], [true, 16]])(
    "is served a few MiB ahead, and the rest once it reads (structured: %s, reads of %i)",
    async (structured, length) => {
      const disk = new FakeDisk({ content: Uint8Array.from(new Rng(2).bytes(4 * MiB)) })
      const server = await serve({ exports: [{ backing: disk }] })
      const [client, other] = [await connected(server, { structured }), await connected(server)]
      client.pause()
      const count = length === 16 ? 20_000 : 100
      for (let index = 0; index < count; index++) client.sendCommand({ type: CMD.read, length, cookie: BigInt(index) })
      // The other one is served, again and again, and while it is the first gets no further.
      let before = -1
      const bytesRead = (): number => disk.log.reduce((sum, { length: bytes }) => sum + bytes, 0)
      for (let turn = 0; before !== bytesRead() || turn < 50; turn++) {
        before = bytesRead() + 512
        expectSame(await other.readDisk(0, 512), disk.cache.subarray(0, 512))
      }
      expect(bytesRead()).toBeLessThan(12 * MiB)
      client.resume()
      for (let index = 0; index < count; index++) {
        for (let isLast = false; !isLast;) {
          const reply = await client.reply()
          expect(errorOf(reply)).toBe(0)
          expect(reply.cookie).toBe(BigInt(index))
          if (reply.kind === "simple") await client.read(length)
          isLast = reply.kind === "simple" || reply.isLast
        }
      }
    },
  )
})

describe("memory", () => {
  it("of one client is limited to 64 MiB: then no more of its writes are taken", async () => {
    const disk = heldDisk(new Uint8Array(MiB))
    const server = await serve({ exports: [{ backing: disk }] })
    const client = await connected(server)
    const payload = Buffer.alloc(MiB)
    for (let index = 0; index < 80; index++) client.sendCommand({ type: CMD.write, length: MiB, payload })
    await until(() => disk.waiting.length >= 64)
    for (let turn = 0; turn < 50; turn++) await settled()
    expect(disk.waiting.length).toBe(64)
    disk.next().finish()
    await until(() => disk.waiting.length === 64)
    finishAll(disk)
  })

  it("is shared by all clients: one that waits gets memory that others free, and one that holds it idle is disconnected", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] })
    try {
      const disk = new FakeDisk({ size: 32 * MiB })
      const server = await serve({ exports: [{ backing: disk }], maxMemory: 64 * MiB })
      const [hoarder, first, second] = [await connected(server), await connected(server), await connected(server)]
      // Two headers; what they announce does not come, but for a byte now and then.
      hoarder.sendCommand({ type: CMD.write, length: 32 * MiB, payload: Buffer.alloc(32 * MiB) })
      expect(errorOf(await hoarder.reply())).toBe(0)
      hoarder.sendCommand({ type: CMD.write, length: 32 * MiB - 1 })
      const slow = await connected(server)
      slow.sendCommand({ type: CMD.write, length: 32 * MiB })
      // Both have been taken in when this is answered: what needs no memory still is.
      for (let turn = 0; turn < 20; turn++) expect(await first.perform({ type: CMD.flush })).toBe(0)
      first.sendCommand({ type: CMD.write, length: 512, payload: Buffer.alloc(512, 1) })
      second.sendCommand({ type: CMD.read, length: 512 })
      for (let turn = 0; turn < 20; turn++) await settled()
      disk.takeNames()
      vi.advanceTimersByTime(29_999)
      slow.send(Buffer.alloc(1))
      hoarder.send(Buffer.alloc(1))
      for (let turn = 0; turn < 20; turn++) await settled()
      expect(disk.takeNames()).toEqual([])
      vi.advanceTimersByTime(1)
      expect(errorOf(await first.reply())).toBe(0)
      expect(errorOf(await second.reply())).toBe(0)
      await hoarder.rest()
      await slow.rest()
      expect(server.errors).toEqual([
        expect.stringContaining("keeps other clients waiting"),
        expect.stringContaining("keeps other clients waiting"),
      ])
      await until(() => server.server.clients === 2)
    } finally {
      vi.useRealTimers()
    }
  })
})

describe("the host's thread", () => {
  it("is held for some milliseconds at a time: during long work of one client the event loop turns and others are served", async () => {
    const disk = new FakeDisk({ size: 32 * MiB })
    let calls = 0
    const turns: number[] = []
    // A clock that a call of the disk moves on by a millisecond.
    const clock = vi.spyOn(performance, "now").mockImplementation(() => calls)
    disk.failing = () => {
      calls++
      return undefined
    }
    const tick = (): void => {
      turns.push(calls)
      if (turns.length < 200) setImmediate(tick)
    }
    try {
      const server = await serve({ exports: [{ backing: disk }] })
      const [greedy, modest] = [await connected(server, { structured: true }), await connected(server)]
      for (let index = 0; index < 4; index++) greedy.sendCommand({ type: CMD.read, length: 32 * MiB })
      modest.sendCommand({ type: CMD.read, offset: 4096, length: 512 })
      setImmediate(tick)
      expect(errorOf(await modest.reply())).toBe(0)
      // 512 pieces: the greedy one is not through.
      expect(calls).toBeLessThan(300)
      await until(() => turns.length === 200)
      const most = Math.max(...turns.slice(1).map((count, index) => count - (turns[index] ?? 0)))
      expect(most).toBeLessThanOrEqual(10)
    } finally {
      clock.mockRestore()
    }
  })
})

describe("an end", () => {
  it("by the client, by DISC or by closing its half, takes effect after all its requests have been answered", async () => {
    for (const end of ["disc", "half"]) {
      const disk = heldDisk(new Uint8Array(MiB))
      disk.waits = ({ offset }) => offset === 512
      const server = await serve({ exports: [{ backing: disk }] })
      const client = await connected(server)
      client.sendCommand({ type: CMD.read, offset: 512, length: 512, cookie: 5n })
      for (let index = 0; index < 200; index++) client.sendCommand({ type: CMD.read, length: 512, cookie: 6n })
      if (end === "half") client.endWriting()
      // What comes behind DISC does not count.
      else client.send(...[{ type: CMD.disc }, { type: CMD.write, length: 4 }].map(({ type }) => header(type)), Buffer.alloc(4, 9))
      for (let index = 0; index < 200; index++) {
        expect((await client.reply()).cookie).toBe(6n)
        await client.read(512)
      }
      disk.next().finish()
      expect((await client.reply()).cookie).toBe(5n)
      await client.read(512)
      expect((await client.rest()).length).toBe(0)
      expect(disk.takeNames()).not.toContain("write")
      client.destroy()
      await until(() => server.server.clients === 0)
      expect(server.errors).toEqual([])
    }
  })

  it("of the connection without DISC leaves only the calls that the disk has not answered", async () => {
    const disk = heldDisk(new Uint8Array(MiB))
    const server = await serve({ exports: [{ backing: disk }] })
    const client = await connected(server)
    client.sendCommand({ type: CMD.write, length: 512, payload: Buffer.alloc(512, 1) })
    client.sendCommand({ type: CMD.read, length: 512 })
    client.sendCommand({ type: CMD.write, length: 100_000, payload: Buffer.alloc(10) })
    await until(() => disk.waiting.length === 2)
    client.destroy()
    let closed = false
    const closing = server.server.close().then(() => void (closed = true))
    for (let turn = 0; turn < 50; turn++) await settled()
    expect([server.server.clients, closed]).toEqual([1, false])
    disk.next().finish()
    disk.next().fail(eio())
    await closing
    expect(server.server.clients).toBe(0)
    expect(disk.cache[0]).toBe(1)
    expect(server.errors).toEqual([expect.stringContaining("the disk is dying")])
  })

  it("of the server answers pending requests, takes no more, and disconnects at once a client that has not chosen an export", async () => {
    const disk = heldDisk(new Uint8Array(MiB))
    const server = await serve({ exports: [{ backing: disk }] })
    const [client, undecided, idle] = [await connected(server), await server.connect(), await connected(server)]
    await undecided.greet()
    client.sendCommand({ type: CMD.write, length: 512, payload: Buffer.alloc(512, 1) })
    await until(() => disk.waiting.length === 1)
    const closing = server.server.close()
    await undecided.rest()
    await idle.rest()
    client.sendCommand({ type: CMD.write, length: 512, payload: Buffer.alloc(512, 2) })
    await settled()
    disk.next().finish()
    expect(await client.reply()).toMatchObject({ error: 0 })
    expect((await client.rest()).length).toBe(0)
    client.destroy()
    idle.destroy()
    await closing
    expect(disk.cache[0]).toBe(1)
    await expect(server.connect()).rejects.toThrow()
  })

  it("of the server waits a second for a client that leaves its side open", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] })
    try {
      const server = await serve({ exports: [{ backing: new FakeDisk({ size: MiB }) }], closeTimeout: 100_000 })
      const client = await connected(server)
      const closing = server.server.close()
      await client.rest()
      for (let turn = 0; turn < 20; turn++) await settled()
      vi.advanceTimersByTime(999)
      for (let turn = 0; turn < 20; turn++) await settled()
      expect(server.server.clients).toBe(1)
      vi.advanceTimersByTime(1)
      await closing
    } finally {
      vi.useRealTimers()
    }
  })

  it("of the server does not wait for ever for a client that does not read", async () => {
    const disk = new FakeDisk({ size: 4 * MiB })
    const server = await serve({ exports: [{ backing: disk }], closeTimeout: 1 })
    const client = await connected(server)
    client.pause()
    client.sendCommand({ type: CMD.read, length: 4 * MiB })
    await until(() => disk.log.length === 16)
    await server.server.close()
    expect(server.server.clients).toBe(0)
  })
})

describe("a client that breaks the protocol is disconnected", () => {
  it.each([
    ["a request without its magic number", { type: CMD.read, magic: 0x1256_0953 }, "magic number"],
    ["a write of more than 32 MiB", { type: CMD.write, length: (32 << 20) + 1 }, "a write of 33554433 bytes"],
  ])("%s", async (_, command, reason) => {
    const disk = new FakeDisk({ size: MiB })
    const server = await serve({ exports: [{ backing: disk }] })
    const [client, other] = [await connected(server), await connected(server)]
    client.sendCommand({ type: CMD.flush })
    client.sendCommand(command)
    client.sendCommand({ type: CMD.write, length: 1, payload: Buffer.alloc(1) })
    await client.rest()
    expect(server.errors).toEqual([expect.stringContaining(reason)])
    expect(disk.takeNames()).not.toContain("write")
    expect(await other.perform({ type: CMD.flush })).toBe(0)
    await until(() => server.server.clients === 1)
  })
})

/** A request's header. */
function header(type: number): Buffer {
  const bytes = Buffer.alloc(28)
  bytes.writeUInt32BE(0x2560_9513)
  bytes.writeUInt16BE(type, 6)
  return bytes
}
