/** The client against a server that keeps the protocol: every command, every form of answer, every block size. */
import { describe, expect, it } from "vitest"
import type { BackingError } from "../../../src/backing/backing.ts"
import { NBD_CMD } from "../../../src/backing/nbd/protocol.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { ALL_FLAGS, type FakeRequest, FakeServer, tick } from "./fake-server.ts"
import { openFake, openNew } from "./open-fake.ts"

const seed = seedFromEnvironment(5)
const MiB = 1024 * 1024

describe("a disk offers what the server offers", () => {
  it("with all flags of the server", async () => {
    const { disk } = await openNew({ size: 1000, blockSizes: { minimum: 1, preferred: 8192, maximum: MiB } })
    expect(disk).toMatchObject({ size: 1000, readOnly: false, asynchronous: true, discardGranularity: 8192 })
    expect([disk.flush, disk.discard, disk.writeZeroes].map((method) => typeof method)).toEqual(["function", "function", "function"])
  })

  it("with no flag of the server", async () => {
    const { disk, server } = await openNew({ size: 1000, flags: 1, structured: false, context: false, knowsGo: false, noZeroes: false })
    expect([disk.flush, disk.discard, disk.writeZeroes]).toEqual([undefined, undefined, undefined])
    const data = new Rng(1).bytes(1000)
    await disk.pwrite(data, 0)
    const back = new Uint8Array(1000)
    await disk.pread(back, 0)
    expect(Buffer.compare(back, data)).toBe(0)
    expect(await disk.blockStatus(10, 100)).toEqual([{ offset: 10, length: 100, isHole: false, isZero: false }])
    expect(server.connections[0]?.noZeroes).toBe(false)
  })

  it("read-only, because the server or the caller says so", async () => {
    for (const [flags, readOnly] of [[ALL_FLAGS | 2, false], [ALL_FLAGS, true]] as const) {
      const { disk } = await openNew({ size: 1000, flags }, { readOnly })
      expect([disk.readOnly, disk.discard, disk.writeZeroes]).toEqual([true, undefined, undefined])
      await expect(disk.pwrite(new Uint8Array(10), 0)).rejects.toMatchObject({ code: "read-only" })
    }
  })

  it("a server with FUA but without FLUSH is asked to make each write stable", async () => {
    const { disk, server } = await openNew({ size: 100_000, flags: ALL_FLAGS & ~4 })
    await disk.pwrite(new Uint8Array(512), 0)
    await disk.writeZeroes?.(0, 512, true)
    await disk.flush?.()
    expect(server.requests.map(({ type, flags }) => [type, flags])).toEqual([[NBD_CMD.WRITE, 1], [NBD_CMD.WRITE_ZEROES, 1]])
  })
})

describe("requests", () => {
  it("carry their flags", async () => {
    const { disk, server } = await openNew({ size: 2 ** 20 })
    await disk.writeZeroes?.(0, 4096, true)
    await disk.writeZeroes?.(0, 4096, false)
    await disk.discard?.(4096, 8192)
    await disk.flush?.()
    const seen = server.requests.map(({ type, flags, offset, length }) => [type, flags, offset, length])
    expect(seen).toEqual([[6, 0, 0, 4096], [6, 2, 0, 4096], [4, 0, 4096, 8192], [3, 0, 0, 0]])
  })

  it("are split to the largest payload that the server takes", async () => {
    const { disk, server } = await openNew({ size: 10_000, blockSizes: { minimum: 1, preferred: 512, maximum: 1000 } })
    const data = new Rng(2).bytes(2500)
    await disk.pwrite(data, 100)
    const back = new Uint8Array(2500)
    await disk.pread(back, 100)
    expect(Buffer.compare(back, data)).toBe(0)
    expect(server.log).toEqual(["WRITE 100+1000", "WRITE 1100+1000", "WRITE 2100+500", "READ 100+1000", "READ 1100+1000", "READ 2100+500"])
  })

  it("cover whole blocks, and a write keeps the bytes beside it", async () => {
    const { disk, server } = await openNew({ size: 100_000, blockSizes: { minimum: 4096, preferred: 4096, maximum: MiB } })
    expect(disk.size).toBe(98_304)
    const before = new Rng(3).bytes(disk.size)
    server.content.set(before)
    const data = new Rng(4).bytes(5000)
    await disk.pwrite(data, 1000)
    before.set(data, 1000)
    const back = new Uint8Array(disk.size - 100)
    await disk.pread(back, 50)
    expect(Buffer.compare(back, before.subarray(50, disk.size - 50))).toBe(0)
    await disk.writeZeroes?.(4000, 10_000, true)
    before.fill(0, 4000, 14_000)
    expect(Buffer.compare(server.content.subarray(0, disk.size), before)).toBe(0)
    await disk.discard?.(4000, 5000)
    expect(server.log.filter((line) => line.startsWith("TRIM"))).toEqual(["TRIM 4096+4096"])
    for (const { type, offset, length } of server.requests) expect([type, offset % 4096, length % 4096]).toEqual([type, 0, 0])
  })

  it(`that share a block do not lose each other's bytes (SEED=${seed})`, async () => {
    const rng = new Rng(seed)
    const size = 64 * 1024
    const { disk, server } = await openNew({ size, rng, blockSizes: { minimum: 4096, preferred: 4096, maximum: MiB } })
    const expected = new Uint8Array(size)
    for (let round = 0; round < 40; round++) {
      // Pieces beside each other, in any order, all at once: of sectors, and of whole blocks.
      const unit = rng.pick([512, 512, 4096, 1024])
      const offsets = rng.shuffle(Array.from({ length: 12 }, (_, index) => index * unit))
      await Promise.all(offsets.map((offset) => {
        const data = rng.bytes(unit)
        expected.set(data, offset)
        return disk.pwrite(data, offset)
      }))
      expect(Buffer.compare(server.content, expected)).toBe(0)
    }
  })

  it("are in flight together up to the limit, and the others wait", async () => {
    const { disk, server } = await openNew({ size: MiB }, { maxInFlight: 3 })
    const held: (() => void)[] = []
    server.answer = (request, connection) => held.push(() => server.serve(request, connection))
    const reads = Array.from({ length: 8 }, (_, index) => disk.pread(new Uint8Array(512), index * 512))
    while (held.length < 3) await tick()
    await tick()
    await tick()
    expect(server.requests).toHaveLength(3)
    server.answer = (request, connection) => server.serve(request, connection)
    for (const go of held) go()
    await Promise.all(reads)
    expect(server.requests).toHaveLength(8)
  })

  it("are spread over connections where the server allows several", async () => {
    for (const [flags, expected] of [[ALL_FLAGS, 3], [ALL_FLAGS & ~256, 1]] as const) {
      const { disk, server } = await openNew({ size: MiB, flags }, { connections: 3 })
      expect(server.connections).toHaveLength(expected)
      const used = new Set<unknown>()
      server.answer = (request, connection) => {
        used.add(connection)
        server.serve(request, connection)
      }
      await Promise.all(Array.from({ length: 9 }, (_, index) => disk.pread(new Uint8Array(512), index * 512)))
      expect(used.size).toBe(expected)
      await disk.close()
      expect(server.connections.map(({ isPolite }) => isPolite)).toEqual(Array.from({ length: expected }, () => true))
    }
  })

  it("of 32 MiB arrive, and at most 32 MiB are on their way", async () => {
    const { disk, server } = await openNew({ size: 40 * MiB })
    let most = 0
    const waiting = new Set<FakeRequest>()
    server.answer = (request, connection) => {
      waiting.add(request)
      most = Math.max(most, [...waiting].reduce((sum, { length }) => sum + length, 0))
      setImmediate(() => {
        waiting.delete(request)
        server.serve(request, connection)
      })
    }
    const data = new Rng(9).bytes(34 * MiB)
    await disk.pwrite(data, MiB)
    const back = new Uint8Array(data.length)
    await disk.pread(back, MiB)
    expect(Buffer.compare(back, data)).toBe(0)
    expect(most).toBeLessThanOrEqual(32 * MiB)
  })
})

describe("a large write", () => {
  it("goes out in pieces, answers are read between them, and the requests behind it keep their order", async () => {
    const { disk, server } = await openNew({ size: 4 * MiB })
    const data = new Rng(21).bytes(2 * MiB)
    const back = new Uint8Array(2 * MiB)
    await Promise.all([disk.pwrite(data, 1000), disk.pread(back, 1000), disk.pwrite(data.subarray(0, 100), 3 * MiB)])
    expect(Buffer.compare(back, data)).toBe(0)
    const reads = [0, 1, 2, 3].map((piece) => `READ ${1000 + piece * (MiB / 2)}+${MiB / 2}`)
    expect(server.log).toEqual([`WRITE 1000+${2 * MiB}`, ...reads, `WRITE ${3 * MiB}+100`])
  })

  it("that is refused before the server has all of it fails, and the rest of its payload is sent before the next request", async () => {
    const { disk, server } = await openNew({ size: 4 * MiB })
    server.refuseEarly = ({ offset }) => (offset === 0 ? 28 : undefined)
    const data = new Rng(22).bytes(2 * MiB)
    const refused = disk.pwrite(new Uint8Array(2 * MiB).fill(0x25), 0)
    const writings = [disk.pwrite(data, 2 * MiB), refused.catch(() => disk.pwrite(data.subarray(0, MiB), MiB))]
    await expect(refused).rejects.toMatchObject({ code: "no-space" })
    await Promise.all(writings)
    expect(Buffer.compare(server.content.subarray(2 * MiB), data)).toBe(0)
    expect(Buffer.compare(server.content.subarray(MiB, 2 * MiB), data.subarray(0, MiB))).toBe(0)
    expect(server.content.subarray(0, MiB).every((byte) => byte === 0)).toBe(true)
  })

  it("that succeeds before the server has all of it breaks the protocol: its payload is still being sent", async () => {
    const { disk, server } = await openNew({ size: 4 * MiB, structured: false })
    server.refuseEarly = () => 0
    await expect(disk.pwrite(new Uint8Array(2 * MiB).fill(0x25), 0)).rejects.toMatchObject({
      code: "io", message: expect.stringContaining("succeeded before"),
    })
  })
})

describe("answers", () => {
  it.each([true, false])("split anywhere and in any order give the right bytes (structured: %s)", async (structured) => {
    const rng = new Rng(seed)
    const { disk, server } = await openNew({ size: 300_000, structured, rng })
    const content = rng.bytes(300_000)
    content.fill(0, 50_000, 90_000)
    server.content.set(content)
    for (let round = 0; round < 20; round++) {
      await Promise.all(Array.from({ length: 10 }, async () => {
        const offset = rng.below(300_000)
        const buffer = new Uint8Array(rng.between(1, Math.min(300_000 - offset, rng.pick([600, 200_000]))))
        await disk.pread(buffer, offset)
        expect(Buffer.compare(buffer, content.subarray(offset, offset + buffer.length))).toBe(0)
      }))
    }
  })

  it.each([
    [1, "permission"], [5, "io"], [12, "io"], [22, "invalid-argument"], [28, "no-space"], [75, "invalid-argument"], [95, "unsupported"],
    [999, "invalid-argument"],
  ])("the error %i is %s, and the request after it is served", async (error, code) => {
    for (const structured of [true, false]) {
      const { disk, server } = await openNew({ size: MiB, structured })
      server.answer = (request, connection) => {
        if (request.offset === 512) connection.sendError(request, error)
        else server.serve(request, connection)
      }
      await expect(disk.pread(new Uint8Array(512), 512)).rejects.toMatchObject({ code, offset: 512 })
      await expect(disk.pwrite(new Uint8Array(512), 512)).rejects.toMatchObject({ code })
      await disk.pread(new Uint8Array(512), 1024)
    }
  })

  it("with a message quote it in one line, without control characters", async () => {
    const { disk, server } = await openNew({ size: MiB })
    const payload = Buffer.concat([Buffer.from([0, 0, 0, 5, 0, 8]), Buffer.from("bad\n\x1b[2J")])
    server.answer = (request, connection) => connection.sendChunk(request, { type: 0x8001, isDone: true, payload })
    const error: unknown = await disk.pread(new Uint8Array(512), 0).catch((reason: unknown) => reason)
    expect(String(error)).toMatch(/nbd:\/\/localhost\/disk: READ of 512 bytes at byte 0 failed: input\/output error \(the server says: bad/)
    expect(String(error)).not.toMatch(/[\n\x1b]/)
  })

  it("with an error in the middle of a READ fail it, whatever data comes before and after", async () => {
    const { disk, server } = await openNew({ size: MiB })
    server.answer = (request, connection) => {
      const data = Buffer.alloc(8 + 100, 1)
      data.writeBigUInt64BE(0n)
      connection.sendChunk(request, { type: 1, isDone: false, payload: data })
      const offset = Buffer.alloc(14)
      offset.writeUInt32BE(5)
      offset.writeBigUInt64BE(100n, 6)
      connection.sendChunk(request, { type: 0x8002, isDone: false, payload: offset })
      connection.sendChunk(request, { type: 0x80ff, isDone: false, payload: Buffer.from([0, 0, 0, 28, 0, 0, 9]) })
      data.writeBigUInt64BE(300n)
      connection.sendChunk(request, { type: 1, isDone: true, payload: data })
    }
    await expect(disk.pread(new Uint8Array(512), 0)).rejects.toMatchObject({ code: "io" })
  })

  it("with a longer block status than the range are cut to the range", async () => {
    const { disk, server } = await openNew({ size: MiB })
    server.answer = (request, connection) => connection.sendStatus(request, [{ length: 100, flags: 1 }, { length: 2 ** 31, flags: 0xfffe }])
    expect(await disk.blockStatus(1000, 500)).toEqual([
      { offset: 1000, length: 100, isHole: true, isZero: false }, { offset: 1100, length: 400, isHole: false, isZero: true },
    ])
    expect(await disk.blockStatus(0, 0)).toEqual([])
  })

  it("a server that refuses a long range gets shorter ones from then on", async () => {
    const { disk, server } = await openNew({ size: 10 * MiB })
    server.answer = (request, connection) => {
      if (request.length > 2 * MiB) connection.sendError(request, 22)
      else server.serve(request, connection)
    }
    await disk.writeZeroes?.(0, 5 * MiB, true)
    await disk.discard?.(0, 3 * MiB)
    const M = MiB
    expect(server.log).toEqual([
      `WRITE_ZEROES 0+${5 * M}`, `WRITE_ZEROES 0+${2 * M}`, `WRITE_ZEROES ${2 * M}+${2 * M}`, `WRITE_ZEROES ${4 * M}+${M}`,
      `TRIM 0+${2 * M}`, `TRIM ${2 * M}+${M}`,
    ])
  })
})

describe("closing", () => {
  it("waits for requests under way, flushes, and disconnects", async () => {
    const { disk, server } = await openNew({ size: MiB })
    await disk.pwrite(new Uint8Array(512).fill(1), 0)
    const read = disk.pread(new Uint8Array(512), 0)
    await Promise.all([read, disk.close(), disk.close()])
    expect(server.log).toEqual(["WRITE 0+512", "READ 0+512", "FLUSH", "DISC"])
    expect(server.stable[0]).toBe(1)
    await expect(disk.pread(new Uint8Array(512), 0)).rejects.toMatchObject({ code: "closed" })
    await expect(disk.blockStatus(0, 512)).rejects.toMatchObject({ code: "closed" })
  })

  it("flushes also with reconnectTimeout 0, but not if the server has no FLUSH", async () => {
    const final = await openNew({ size: MiB }, { reconnectTimeout: 0 })
    await final.disk.pwrite(new Uint8Array(512), 0)
    await final.disk.close()
    expect(final.server.log).toEqual(["WRITE 0+512", "FLUSH", "DISC"])
    const plain = await openNew({ size: MiB, flags: 1 })
    await plain.disk.pwrite(new Uint8Array(512), 0)
    await plain.disk.close()
    expect(plain.server.log).toEqual(["WRITE 0+512", "DISC"])
    const unchanged = await openNew({ size: MiB })
    await unchanged.disk.pwrite(new Uint8Array(512), 0)
    await unchanged.disk.flush?.()
    await unchanged.disk.close()
    expect(unchanged.server.log).toEqual(["WRITE 0+512", "FLUSH", "DISC"])
  })

  it("fails when the last flush fails, and the connection is closed all the same", async () => {
    const { disk, server } = await openNew({ size: MiB })
    await disk.pwrite(new Uint8Array(512), 0)
    server.answer = (request, connection) => connection.sendError(request, 28)
    await expect(disk.close()).rejects.toMatchObject({ code: "no-space" })
    expect(server.connections[0]?.isPolite).toBe(true)
  })

  it("fails if the last connection ended before an answered write was flushed, and only then", async () => {
    const lost = await openNew({ size: MiB }, { reconnectTimeout: 0 })
    await lost.disk.pwrite(new Uint8Array(512), 0)
    lost.server.connections[0]?.break()
    await expect(lost.disk.close()).rejects.toMatchObject({ code: "io" })
    const flushed = await openNew({ size: MiB }, { reconnectTimeout: 0 })
    await flushed.disk.pwrite(new Uint8Array(512), 0)
    await flushed.disk.flush?.()
    flushed.server.connections[0]?.break()
    await flushed.disk.close()
  })

  it("waits at most 10 s for reads that a silent server does not answer", async () => {
    const { disk, server, timer } = await openNew({ size: MiB })
    server.answer = () => undefined
    const reads = [disk.pread(new Uint8Array(512), 0), disk.blockStatus(0, 512)].map((read) => (
      read.then(() => "answered", ({ code }: BackingError) => code)
    ))
    let isClosed = false
    const closing = disk.close().then(() => { isClosed = true })
    await tick()
    timer.advance(9999)
    await tick()
    expect([isClosed, server.connections[0]?.isOver]).toEqual([false, false])
    timer.advance(1)
    await closing
    expect(await Promise.all(reads)).toEqual(["closed", "closed"])
    expect(server.connections[0]?.isOver).toBe(true)
  })

  it("waits for a write for as long as it takes", async () => {
    const { disk, server, timer } = await openNew({ size: MiB })
    const held: (() => void)[] = []
    server.answer = (request, connection) => void held.push(() => server.serve(request, connection))
    const writing = disk.pwrite(new Uint8Array(512).fill(7), 0)
    const reading = disk.pread(new Uint8Array(512), 4096).catch(({ code }: BackingError) => code)
    const closing = disk.close()
    for (let turn = 0; turn < 10; turn++) {
      timer.advance(10_000)
      await tick()
    }
    expect(server.connections[0]?.isOver).toBe(false)
    server.answer = (request, connection) => server.serve(request, connection)
    for (const answer of held.splice(0)) answer()
    await Promise.all([writing, closing])
    expect(await reading).toBeUndefined()
    expect(server.stable[0]).toBe(7)
  })

  it("ends a reconnection that is under way", async () => {
    const { disk, server, timer } = await openFake(new FakeServer({ size: MiB }))
    server.refusal = new Error("no")
    server.crash()
    while (timer.delays.length < 4) await tick()
    await disk.close()
    const count = server.connections.length
    for (let turn = 0; turn < 20; turn++) await tick()
    expect(server.connections).toHaveLength(count)
  })
})
