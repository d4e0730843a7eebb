/** The transmission phase of the NBD server: each kind of request, simple and structured replies, and refusals. */
import { beforeEach, describe, expect, it, onTestFinished, vi } from "vitest"
import { BackingError } from "../../../../src/backing/backing.ts"
import { MemoryBacking } from "../../../../src/backing/memory.ts"
import { FakeDisk } from "../../../harness/fake-disk.ts"
import { Rng } from "../../../support/rng.ts"
import {
  CMD, CMD_FLAG, ERROR, errorOf, expectSame, info, metaContext, type NbdClient, OPT, REP_ERR, u32,
} from "../../../support/nbd/client.ts"
import { serve } from "../../../support/nbd/server.ts"

const SIZE = 4 << 20
const CONTENT = new Rng(1).bytes(SIZE)
let disk: FakeDisk
let model: Buffer

/** A disk with random content, and a client that has chosen it. */
async function connected(options: { readonly structured?: boolean; readonly status?: boolean } = {}): Promise<NbdClient> {
  const client = await (await serve({ exports: [{ backing: disk }] })).connect()
  await client.go("", options)
  return client
}

beforeEach(() => {
  model = Buffer.from(CONTENT)
  disk = new FakeDisk({ content: Uint8Array.from(model) })
})

/** Reads over structured replies: the content and the chunks that it came in. */
async function structuredRead(
  client: NbdClient, offset: number, length: number, flags = 0,
): Promise<{ data: Buffer; chunks: number; error: number }> {
  client.sendCommand({ type: CMD.read, offset, length, flags, cookie: 0xfeed_beef_0123_4567n })
  const data = Buffer.alloc(length)
  for (let chunks = 1, error = 0; ; chunks++) {
    const reply = await client.reply()
    expect(reply.cookie).toBe(0xfeed_beef_0123_4567n)
    if (reply.kind !== "chunk") throw new Error("a simple reply to a read")
    if (reply.type === 1) data.set(reply.data.subarray(8), Number(reply.data.readBigUInt64BE(0)) - offset)
    error ||= errorOf(reply)
    if (reply.isLast) return { data, chunks, error }
  }
}

describe("reads", () => {
  it.each([
    [0, 1], [1, 4095], [513, 70_000], [SIZE - 5, 5], [0, SIZE], [262_143, 262_146],
  ])("of %i+%i bytes come as simple replies", async (offset, length) => {
    expectSame(await (await connected()).readDisk(offset, length), model.subarray(offset, offset + length))
  })

  it.each([[0, 1, 1], [513, 70_000, 1], [0, 262_144, 1], [262_143, 262_146, 3], [0, SIZE, 16], [100, SIZE - 200, 16]])(
    "of %i+%i bytes come in %i chunks, or in one if the client wants that",
    async (offset, length, chunks) => {
      const client = await connected({ structured: true })
      for (const [flags, pieces] of [[0, chunks], [CMD_FLAG.df, 1]] as const) {
        const read = await structuredRead(client, offset, length, flags)
        expectSame(read.data, model.subarray(offset, offset + length))
        expect([read.chunks, read.error]).toEqual([pieces, 0])
      }
    },
  )

  it("from a slow disk are done in small pieces, so that the thread is soon free", async () => {
    for (const [discardGranularity, pieces] of [[512, 25], [32_768, 7], [1 << 21, 4]]) {
      Object.assign(disk, { slow: true, discardGranularity })
      const { data, chunks } = await structuredRead(await connected({ structured: true }), 1000, 200_000)
      expectSame(data, model.subarray(1000, 201_000))
      expect(chunks).toBe(pieces)
    }
  })

  it("of no bytes succeed, also at the end", async () => {
    const client = await connected()
    expect(await client.readDisk(SIZE, 0)).toEqual(Buffer.alloc(0))
    expect(await structuredRead(await connected({ structured: true }), SIZE, 0)).toEqual({ data: Buffer.alloc(0), chunks: 1, error: 0 })
  })

  it("beyond the end, or of more than 32 MiB, are refused, and the next one is served", async () => {
    const client = await connected()
    for (const [offset, length] of [
      [SIZE, 1],
      [SIZE - 1, 2],
      [2n ** 64n - 1n, 1],
      [2n ** 63n, 2 ** 32 - 1],
      [2n ** 53n, 0],
      [0, 2 ** 32 - 1],
    ] as const) {
      expect(await client.perform({ type: CMD.read, offset, length })).toBe(ERROR.inval)
    }
    expect(disk.takeNames()).toEqual([])
    expect(await client.readDisk(5, 5)).toEqual(model.subarray(5, 10))
    disk.size = 64 << 20
    const structured = await connected({ structured: true })
    expect((await structuredRead(structured, 0, (32 << 20) + 1)).error).toBe(ERROR.inval)
    expect((await structuredRead(structured, 0, (32 << 20) + 1, CMD_FLAG.df)).error).toBe(ERROR.overflow)
  })

  it("that fail return an error, before any data or with the byte at which the disk failed", async () => {
    disk.failing = ({ name, offset }) => (name === "read" && offset >= 1 << 20 ? new BackingError("io", "injected") : undefined)
    const simple = await connected()
    expect(await simple.perform({ type: CMD.read, offset: 0, length: SIZE })).toBe(ERROR.io)
    expect(await simple.readDisk(0, 512)).toEqual(model.subarray(0, 512))
    const client = await connected({ structured: true })
    const { data, chunks, error } = await structuredRead(client, 0, SIZE)
    expect({ chunks, error }).toEqual({ chunks: 5, error: ERROR.io })
    expectSame(data.subarray(0, 1 << 20), model.subarray(0, 1 << 20))
    client.sendCommand({ type: CMD.read, offset: 1 << 20, length: 512, flags: CMD_FLAG.df })
    const reply = await client.reply()
    if (reply.kind !== "chunk") throw new Error("a simple reply to a read")
    expect(reply.type).toBe(0x8002)
    expect(reply.data.readBigUInt64BE(reply.data.length - 8)).toBe(BigInt(1 << 20))
    expect(reply.data.toString()).toContain("the disk failed: io")
    expect(await structuredRead(client, 0, 512)).toMatchObject({ chunks: 1, error: 0 })
  })
})

describe("changes of no bytes", () => {
  it.each([["write", CMD.write], ["trim", CMD.trim], ["writeZeroes", CMD.writeZeroes]] as const)(
    "by %s, at the end too, change nothing, and the next request is served; forced ones flush, and fail as that does",
    async (_, type) => {
      const client = await connected({ structured: true })
      for (const offset of [0, 5, SIZE]) expect(await client.perform({ type, offset, length: 0 })).toBe(0)
      expect(disk.takeNames()).toEqual([])
      expect(await client.perform({ type, offset: 0, length: 0, flags: CMD_FLAG.fua })).toBe(0)
      expect(disk.takeNames()).toEqual(["flush"])
      disk.failing = () => new BackingError("io", "injected")
      expect(await client.perform({ type, offset: 0, length: 0, flags: CMD_FLAG.fua })).toBe(ERROR.io)
      disk.failing = () => undefined
      expect((await structuredRead(client, 0, 512)).error).toBe(0)
      expectSame(disk.cache, model)
    },
  )
})

describe("writes", () => {
  it.each([
    [0, 1], [1, 4095], [1000, 3 << 20], [SIZE - 5, 5], [0, SIZE],
  ])("of %i+%i bytes arrive in packets of any size", async (offset, length) => {
    const client = await connected()
    const payload = new Rng(length).bytes(length)
    client.sendCommand({ type: CMD.write, offset, length })
    for (let at = 0; at < length; at += 10_007) client.send(payload.subarray(at, at + 10_007))
    expect(errorOf(await client.reply())).toBe(0)
    model.set(payload, offset)
    expectSame(disk.cache, model)
    expect(disk.takeNames()).not.toContain("flush")
  })

  it("arrive byte by byte, header and payload", async () => {
    const client = await connected()
    const header = Buffer.alloc(28)
    header.writeUInt32BE(0x2560_9513)
    header.writeUInt16BE(CMD.write, 6)
    header.writeUInt32BE(3000, 20)
    header.writeUInt32BE(2000, 24)
    const payload = new Rng(3).bytes(2000)
    for (const byte of [...header, ...payload]) client.send(Uint8Array.of(byte))
    expect(errorOf(await client.reply())).toBe(0)
    model.set(payload, 3000)
    expectSame(disk.cache, model)
  })

  it("that come in one packet are all done, in their order", async () => {
    const client = await connected()
    for (let count = 0; count < 100; count++) {
      client.sendCommand({ type: CMD.write, offset: 0, length: 512, cookie: BigInt(count), payload: Buffer.alloc(512, count) })
    }
    for (let count = 0; count < 100; count++) expect(await client.reply()).toMatchObject({ error: 0, cookie: BigInt(count) })
    expect(disk.cache[0]).toBe(99)
  })

  it("with FUA, and no others, are on stable storage when they are answered", async () => {
    const client = await connected()
    expect(await client.perform({ type: CMD.write, length: 512, payload: Buffer.alloc(512, 1) })).toBe(0)
    expect(disk.stable[0]).toBe(0)
    expect(await client.perform({ type: CMD.write, length: 512, payload: Buffer.alloc(512, 2), flags: CMD_FLAG.fua })).toBe(0)
    expect(disk.stable[0]).toBe(2)
    expect(disk.takeNames()).toEqual(["write", "write", "flush"])
  })

  it("beyond the end, to a read-only export or with wrong flags are refused, and their payload is not read as requests", async () => {
    const client = await connected()
    // The payload looks like a request to write zeroes everywhere.
    const poison = Buffer.concat([u32(0x2560_9513), u32(CMD.writeZeroes), Buffer.alloc(16), u32(SIZE)])
    const payload = Buffer.concat(Array.from({ length: 50 }, () => poison))
    expect(await client.perform({ type: CMD.write, offset: SIZE - 10, length: payload.length, payload })).toBe(ERROR.nospc)
    expect(await client.perform({ type: CMD.write, offset: 0, length: payload.length, payload, flags: CMD_FLAG.noHole })).toBe(ERROR.inval)
    const readOnly = await serve({ exports: [{ backing: disk, readOnly: true }] })
    const other = await readOnly.connect()
    await other.go()
    expect(await other.perform({ type: CMD.write, length: payload.length, payload })).toBe(ERROR.perm)
    for (const type of [CMD.trim, CMD.writeZeroes]) expect(await other.perform({ type, length: 512 })).toBe(ERROR.perm)
    expect(disk.takeNames()).toEqual([])
    expect(await client.readDisk(0, 512)).toEqual(model.subarray(0, 512))
  })

  it("that fail return the error number of NBD", async () => {
    const client = await connected()
    for (const [code, error] of [
      ["no-space", ERROR.nospc],
      ["io", ERROR.io],
      ["read-only", ERROR.perm],
      ["corrupt", ERROR.io],
      ["closed", ERROR.shutdown],
    ] as const) {
      disk.failing = () => new BackingError(code, "injected")
      expect(await client.perform({ type: CMD.write, length: 1, payload: Buffer.alloc(1) })).toBe(error)
    }
  })

  it("are done in pieces, but whole clusters are written in one call", async () => {
    const lengths = async (members: object): Promise<number[]> => {
      Object.assign(disk, members)
      await (await connected()).perform({ type: CMD.write, offset: 0, length: 1 << 20, payload: Buffer.alloc(1 << 20) })
      return disk.log.splice(0).map(({ length }) => length)
    }
    expect(await lengths({})).toEqual([262_144, 262_144, 262_144, 262_144])
    expect(await lengths({ discardGranularity: 524_288 })).toEqual([524_288, 524_288])
    expect(await lengths({ discardGranularity: 1 << 30 })).toEqual([1 << 20])
    expect((await lengths({ discardGranularity: 4096, slow: true })).length).toBe(128)
  })

  it("go to a disk that has no pwritev", async () => {
    disk = new FakeDisk({ size: SIZE, without: ["pwritev", "preadv"] })
    const payload = new Rng(3).bytes(300_000)
    expect(await (await connected()).perform({ type: CMD.write, offset: 7, length: 300_000, payload })).toBe(0)
    expectSame(disk.cache.subarray(7, 300_007), payload)
  })
})

describe("other requests", () => {
  it("a flush makes answered writes stable", async () => {
    const client = await connected()
    await client.perform({ type: CMD.write, length: 512, payload: Buffer.alloc(512, 1) })
    expect(await client.perform({ type: CMD.flush })).toBe(0)
    expect(disk.stable[0]).toBe(1)
    expect(await client.perform({ type: CMD.flush, length: 1 })).toBe(ERROR.inval)
    expect(await client.perform({ type: CMD.flush, offset: 1 })).toBe(ERROR.inval)
    disk.failing = () => new BackingError("io", "injected")
    expect(await client.perform({ type: CMD.flush })).toBe(ERROR.io)
  })

  it("a flush on one connection covers writes of another", async () => {
    const server = await serve({ exports: [{ backing: disk }] })
    const [one, two] = [await server.connect(), await server.connect()]
    await Promise.all([one.go(), two.go()])
    await one.perform({ type: CMD.write, length: 512, payload: Buffer.alloc(512, 1) })
    await two.perform({ type: CMD.flush })
    expect(disk.stable[0]).toBe(1)
  })

  it("TRIM and WRITE_ZEROES reach the disk, with FUA as a flush and with NO_HOLE as zeroes in place", async () => {
    const client = await connected()
    expect(await client.perform({ type: CMD.trim, offset: 512, length: 1024 })).toBe(0)
    expect(await client.perform({ type: CMD.writeZeroes, offset: 4096, length: 512, flags: CMD_FLAG.fua })).toBe(0)
    expect(await client.perform({ type: CMD.writeZeroes, offset: 8192, length: 512, flags: CMD_FLAG.noHole })).toBe(0)
    expect(disk.log).toMatchObject([
      { name: "discard", offset: 512, length: 1024 }, { name: "writeZeroes", offset: 4096, length: 512, mayUnmap: true }, { name: "flush" },
      { name: "writeZeroes", offset: 8192, length: 512, mayUnmap: false },
    ])
    for (const type of [CMD.trim, CMD.writeZeroes]) {
      expect(await client.perform({ type, offset: SIZE, length: 1 })).toBe(type === CMD.trim ? ERROR.inval : ERROR.nospc)
      expect(await client.perform({ type, offset: SIZE, length: 0 })).toBe(0)
    }
  })

  it("long ranges are split to the disk's limits, at its clusters", async () => {
    Object.assign(disk, { zeroesAtOnce: 100_000, unmapsAtOnce: 300_000, discardGranularity: 65_536 })
    const client = await connected()
    expect(await client.perform({ type: CMD.trim, offset: 1000, length: SIZE - 1000 })).toBe(0)
    const calls = disk.log.splice(0)
    expect(calls[0]).toMatchObject({ offset: 1000, length: 262_144 - 1000 })
    expect(calls.slice(1, -1).every(({ offset, length }) => offset % 65_536 === 0 && length === 262_144)).toBe(true)
    expect(calls.reduce((sum, { length }) => sum + length, 0)).toBe(SIZE - 1000)
    await client.perform({ type: CMD.writeZeroes, offset: 0, length: SIZE, flags: CMD_FLAG.noHole })
    expect(Math.max(...disk.log.splice(0).map(({ length }) => length))).toBe(65_536)
  })

  it("fast zeroes are done if they are fast, and refused without a change if not", async () => {
    const client = await connected()
    const command = { type: CMD.writeZeroes, length: SIZE, flags: CMD_FLAG.fastZero }
    expect(await client.perform(command)).toBe(ERROR.notsup)
    expect(disk.takeNames()).toEqual([])
    Object.assign(disk, { zeroesAtOnce: 1 << 30 })
    expect(await client.perform(command)).toBe(0)
    expect(await client.perform({ ...command, length: 65_536 })).toBe(ERROR.notsup)
  })

  it("unknown commands and flags, and those that were not offered, are refused", async () => {
    disk = new FakeDisk({ size: SIZE, without: ["flush", "discard", "writeZeroes"] })
    const client = await connected()
    for (const type of [CMD.flush, CMD.trim, CMD.writeZeroes, CMD.cache, CMD.blockStatus, 8, 77, 65_535]) {
      expect(await client.perform({ type })).toBe(ERROR.inval)
    }
    expect(await client.perform({ type: CMD.read, flags: CMD_FLAG.fua })).toBe(ERROR.inval)
    expect(await client.perform({ type: CMD.read, flags: CMD_FLAG.df })).toBe(ERROR.inval)
    expect(await client.perform({ type: CMD.read, flags: 0x8000 })).toBe(ERROR.inval)
    expect(disk.takeNames()).toEqual([])
  })

  it("errors are structured if that was negotiated, and give the reason", async () => {
    const client = await connected({ structured: true })
    client.sendCommand({ type: CMD.write, offset: SIZE, length: 1, cookie: 7n, payload: Buffer.alloc(1) })
    const reply = await client.reply()
    expect(reply).toMatchObject({ kind: "chunk", isLast: true, type: 0x8001, cookie: 7n })
    expect(errorOf(reply)).toBe(ERROR.nospc)
    expect(reply.kind === "chunk" && reply.data.toString("latin1", 6)).toBe(`the export ends at byte ${SIZE}`)
  })

  it("the operator gets the whole error, and the client nothing about the host", async () => {
    const server = await serve({ exports: [{ backing: disk }] })
    const client = await server.connect()
    await client.go("", { structured: true })
    disk.failing = () => new BackingError("io", "cannot read", { path: "/home/somebody/secret.img" })
    client.sendCommand({ type: CMD.read, length: 512 })
    const reply = await client.reply()
    expect(reply.kind === "chunk" && reply.data.toString()).not.toContain("secret")
    expect(server.errors).toEqual(["BackingError: /home/somebody/secret.img: cannot read"])
  })
})

describe("disks of the embedder's own", () => {
  it("may return any value when they are done, as fs.readSync does", async () => {
    const content = Uint8Array.from(CONTENT)
    const pread = (buffer: Uint8Array, offset: number): unknown => buffer.set(
      content.subarray(offset, offset + buffer.length),
    ) ?? buffer.length
    const pwrite = (buffer: Uint8Array, offset: number): unknown => content.set(buffer, offset) ?? { written: buffer.length }
    const own = { size: SIZE, readOnly: false, pread, pwrite, flush: () => null, close() {} } as unknown as FakeDisk
    for (const asynchronous of [false, true]) {
      disk = { ...own, asynchronous } as FakeDisk
      const client = await connected()
      expectSame(await client.readDisk(5, 600_000), content.subarray(5, 600_005))
      const command = { type: CMD.write, offset: 7, length: 600_000, payload: Buffer.alloc(600_000, 3), flags: CMD_FLAG.fua }
      expect(await client.perform(command)).toBe(0)
      expect(content[600_006]).toBe(3)
    }
  })

  it("may return thenables that are no Promise", async () => {
    const thenable = (work: () => void): object => ({
      then(resolve: () => void) {
        work()
        setImmediate(resolve)
      },
    })
    const own = {
      size: SIZE, readOnly: false, asynchronous: true, pwrite() {}, close() {},
      pread: (buffer: Uint8Array, offset: number) => thenable(() => buffer.set(CONTENT.subarray(offset, offset + buffer.length))),
    }
    disk = own as unknown as FakeDisk
    expectSame(await (await connected()).readDisk(5, 600_000), CONTENT.subarray(5, 600_005))
  })
})

describe("the status of blocks", () => {
  /** Extents as [length, flags]. */
  async function status(client: NbdClient, offset: number, length: number, flags = 0): Promise<number[][]> {
    client.sendCommand({ type: CMD.blockStatus, offset, length, flags })
    const reply = await client.reply()
    if (reply.kind !== "chunk" || reply.type !== 5) throw new Error(`error ${errorOf(reply)}`)
    expect(reply.data.readUInt32BE(0)).toBe(1)
    return Array.from({ length: (reply.data.length - 4) / 8 }, (_, index) => [
      reply.data.readUInt32BE(4 + index * 8), reply.data.readUInt32BE(8 + index * 8),
    ])
  }

  async function memoryDisk(): Promise<NbdClient> {
    const backing = new MemoryBacking({ size: 1 << 30 })
    backing.pwrite(Buffer.alloc(100_000, 1), 200_000)
    const client = await (await serve({ exports: [{ backing }] })).connect()
    await client.go("", { status: true })
    return client
  }

  it("is what the disk says, clipped to the request", async () => {
    // On a busy machine the time for an answer may be over after a part of it.
    vi.spyOn(performance, "now").mockReturnValue(0)
    onTestFinished(() => void vi.restoreAllMocks())
    const client = await memoryDisk()
    expect(await status(client, 0, 2 ** 30)).toEqual([[196_608, 3], [131_072, 0], [2 ** 30 - 327_680, 3]])
    expect(await status(client, 1000, 200_000)).toEqual([[195_608, 3], [4392, 0]])
    expect(await status(client, 200_000, 1)).toEqual([[1, 0]])
    expect(await status(client, 0, 2 ** 30, CMD_FLAG.reqOne)).toEqual([[196_608, 3]])
    expect(await status(client, 250_000, 100, CMD_FLAG.reqOne)).toEqual([[100, 0]])
  })

  it("ends when the time for one answer is over, and the client asks for the rest", async () => {
    let now = 0
    vi.spyOn(performance, "now").mockImplementation(() => now++)
    onTestFinished(() => void vi.restoreAllMocks())
    const client = await memoryDisk()
    expect(await status(client, 0, 2 ** 30)).toEqual([[196_608, 3], [131_072, 0]])
    expect(await status(client, 327_680, 2 ** 30 - 327_680)).toEqual([[2 ** 30 - 327_680, 3]])
  })

  it("is data for a disk without `allocation`", async () => {
    expect(await status(await connected({ status: true }), 5, SIZE - 5)).toEqual([[SIZE - 5, 0]])
  })

  it("comes from a disk that answers later, a part at a time", async () => {
    const answers = [{ length: 512, isAllocated: true, isZero: false }, { length: 1024, isAllocated: false, isZero: true }]
    Object.assign(disk, { asynchronous: true, allocation: async (offset: number) => answers[(offset / 512) % 3 === 0 ? 0 : 1] })
    const client = await connected({ status: true })
    expect(await status(client, 0, 4096)).toEqual([[512, 0], [1024, 3], [512, 0], [1024, 3], [512, 0], [512, 3]])
    expect((await status(client, 0, SIZE)).length).toBe(64)
  })

  it("is refused beyond the end, for no bytes, and without a context for this export", async () => {
    const client = await memoryDisk()
    await expect(status(client, 2 ** 30, 1)).rejects.toThrow(`error ${ERROR.inval}`)
    await expect(status(client, 0, 0)).rejects.toThrow(`error ${ERROR.inval}`)
    await expect(status(await connected({ structured: true }), 0, 512)).rejects.toThrow(`error ${ERROR.inval}`)
    const backing = new MemoryBacking({ size: SIZE })
    const other = await (await serve({ exports: [{ name: "a", backing }, { name: "b", backing }] })).connect()
    await other.greet()
    await other.option(OPT.structuredReply)
    await other.option(OPT.setMetaContext, metaContext("a", "base:allocation"))
    // A choice that fails takes back the one before.
    expect((await other.option(OPT.setMetaContext, metaContext("c", "base:allocation"))).at(-1)?.error).toBe(REP_ERR.unknown)
    await other.option(OPT.go, info("a"))
    await expect(status(other, 0, 512)).rejects.toThrow(`error ${ERROR.inval}`)
  })

  it("that a disk answers with nonsense is an error for the client, and thrown as a bug", async () => {
    let thrown: unknown
    const catchIt = (error: unknown): void => void (thrown = error)
    const before = process.listeners("uncaughtException")
    process.removeAllListeners("uncaughtException").on("uncaughtException", catchIt)
    try {
      Object.assign(disk, { allocation: () => ({ length: 0, isAllocated: true, isZero: false }) })
      await expect(status(await connected({ status: true }), 0, 512)).rejects.toThrow(`error ${ERROR.io}`)
      await new Promise((resolve) => setImmediate(resolve))
      expect(String(thrown)).toContain("a length of 0")
    } finally {
      process.off("uncaughtException", catchIt)
      for (const listener of before) process.on("uncaughtException", listener)
    }
  })
})
