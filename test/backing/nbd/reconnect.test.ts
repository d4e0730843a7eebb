/**
 * Lost connections: what was not answered is sent again, what was answered and not flushed as well, and what cannot be kept fails. The
 * server of these tests loses what was not flushed, as a machine does that loses power.
 */
import { describe, expect, it } from "vitest"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { ALL_FLAGS, FakeServer, tick } from "./fake-server.ts"
import { openFake, openNew } from "./open-fake.ts"

const seed = seedFromEnvironment(77)
const one = (value: number, length = 512): Uint8Array => new Uint8Array(length).fill(value)

describe("after a connection is lost", () => {
  it("reads and writes that were not answered are sent again", async () => {
    const { disk, server } = await openNew({ size: 100_000 })
    let count = 0
    server.answer = () => {
      if (++count === 3) {
        server.answer = (request, connection) => server.serve(request, connection)
        server.crash()
      }
    }
    const buffer = one(9)
    await Promise.all([disk.pread(buffer, 0), disk.pwrite(one(1), 512), disk.pwrite(one(2), 1024)])
    expect(buffer[0]).toBe(0)
    expect([server.content[512], server.content[1024]]).toEqual([1, 2])
    // Writes first: a read that is sent again sees them.
    expect(server.log.slice(3)).toEqual(["WRITE 512+512", "WRITE 1024+512", "READ 0+512"])
  })

  it("an answered write that was not flushed is sent again before any read", async () => {
    const { disk, server } = await openNew({ size: 100_000 })
    await disk.pwrite(one(1), 512)
    await disk.writeZeroes?.(512, 10, true)
    await disk.discard?.(4096, 512)
    server.crash()
    const buffer = one(9)
    await disk.pread(buffer, 512)
    expect([buffer[0], buffer[9], buffer[10]]).toEqual([0, 0, 1])
    await disk.flush?.()
    server.crash()
    await disk.pread(buffer, 512)
    expect([buffer[0], buffer[9], buffer[10]]).toEqual([0, 0, 1])
    expect(server.log).toEqual([
      "WRITE 512+512", "WRITE_ZEROES 512+10", "TRIM 4096+512", "WRITE 512+512", "WRITE_ZEROES 512+10", "READ 512+512", "FLUSH",
      "READ 512+512",
    ])
  })

  it("a flush covers the writes that were answered when it was sent, and no others", async () => {
    const { disk, server } = await openNew({ size: 100_000 })
    await disk.pwrite(one(1), 0)
    let answerFlush = (): void => undefined
    server.answer = (request, connection) => {
      if (request.type !== 3) return server.serve(request, connection)
      // The server takes the flush now, and answers it after the next write.
      server.stable.set(server.content)
      answerFlush = () => connection.sendDone(request)
    }
    const flush = disk.flush?.()
    while (server.log.at(-1) !== "FLUSH") await tick()
    await tick()
    await disk.pwrite(one(2), 512)
    answerFlush()
    await flush
    server.answer = (request, connection) => server.serve(request, connection)
    server.crash()
    const buffer = one(9)
    await disk.pread(buffer, 512)
    expect(buffer[0]).toBe(2)
    expect(server.log).toEqual(["WRITE 0+512", "FLUSH", "WRITE 512+512", "WRITE 512+512", "READ 512+512"])
  })

  it("a flush that was not answered is sent again, after the writes", async () => {
    const { disk, server } = await openNew({ size: 100_000 })
    await disk.pwrite(one(1), 0)
    server.answer = () => {
      server.answer = (request, connection) => server.serve(request, connection)
      server.crash()
    }
    await disk.flush?.()
    expect(server.log).toEqual(["WRITE 0+512", "FLUSH", "WRITE 0+512", "FLUSH"])
    expect(server.stable[0]).toBe(1)
  })

  it("writes to one place keep their order, in whatever order the server takes requests", async () => {
    for (let round = 0; round < 20; round++) {
      const { disk, server } = await openNew({ size: 100_000, rng: new Rng(seed + round) })
      for (let value = 1; value <= 8; value++) await disk.pwrite(one(value, 1024), 512 * (value % 2))
      server.crash()
      const buffer = one(9, 1536)
      await disk.pread(buffer, 0)
      expect([buffer[0], buffer[512], buffer[1024]]).toEqual([8, 8, 7])
    }
  })

  it("a write that fails when it is sent again breaks the disk: it had been acknowledged", async () => {
    const { disk, server } = await openNew({ size: 100_000 })
    await disk.pwrite(one(1), 0)
    server.answer = (request, connection) => connection.sendError(request, 28)
    server.crash()
    await expect(disk.pread(one(0), 0)).rejects.toMatchObject({ code: "no-space" })
    server.answer = (request, connection) => server.serve(request, connection)
    await expect(disk.pread(one(0), 0)).rejects.toMatchObject({ code: "no-space" })
    await expect(disk.close()).rejects.toMatchObject({ code: "no-space" })
  })

  it("an export of another size or with other flags is refused as another disk", async () => {
    for (const other of [{ size: 50_000 }, { size: 100_000, flags: ALL_FLAGS & ~4 }]) {
      const { disk, server } = await openNew({ size: 100_000 })
      const replaced = new FakeServer(other)
      Object.assign(server, { options: { ...server.options, ...other } })
      expect(replaced.flags).toBe(server.flags)
      server.crash()
      await expect(disk.pread(one(0), 0)).rejects.toThrow(/the export is a different one/)
      await expect(disk.pread(one(0), 0)).rejects.toMatchObject({ code: "io" })
    }
  })

  it("a request fails after reconnectTimeout, and the next one tries again", async () => {
    const { disk, server, timer } = await openNew({ size: 100_000 }, { reconnectTimeout: 3000 })
    await disk.pwrite(one(1), 0)
    server.refusal = new Error("gone")
    server.crash()
    await expect(disk.pread(one(0), 0)).rejects.toThrow(/no connection: gone/)
    // The connection itself, and then pauses that double; the time for connecting apart.
    expect(timer.delays.filter((delay) => delay !== 10_000)).toEqual([100, 200, 400, 800, 1600])
    server.refusal = undefined
    const buffer = one(9)
    await disk.pread(buffer, 0)
    expect(buffer[0]).toBe(1)
  })

  it("a request to a server that accepts connections and drops them fails in the end", async () => {
    const { disk, server } = await openNew({ size: 100_000 }, { reconnectTimeout: 3000 })
    server.answer = (_, connection) => connection.break(new Error("dropped"))
    await expect(disk.pread(one(0), 0)).rejects.toThrow(/dropped/)
  })

  it("with reconnectTimeout 0 every request fails, and no new connection is made", async () => {
    const { disk, server } = await openNew({ size: 100_000 }, { reconnectTimeout: 0 })
    server.crash()
    await expect(disk.pread(one(0), 0)).rejects.toMatchObject({ code: "io" })
    expect(server.connections).toHaveLength(1)
  })

  it("the others of several connections are replaced with it", async () => {
    const { disk, server } = await openNew({ size: 100_000 }, { connections: 3 })
    server.connections[1]?.break()
    await disk.pwrite(one(1), 0)
    expect(server.connections.map(({ isOver }) => isOver)).toEqual([true, true, true, false, false, false])
  })
})

describe("a server that is shutting down", () => {
  it("is disconnected, and the requests that it refused are sent to the next one", async () => {
    const { disk, server } = await openNew({ size: 100_000 })
    server.answer = (request, connection) => {
      if (server.connections.length === 1) connection.sendError(request, 108)
      else server.serve(request, connection)
    }
    const buffer = one(9)
    await Promise.all([disk.pwrite(one(1), 0), disk.pread(buffer, 512), disk.flush?.()])
    expect(server.connections[0]?.isPolite).toBe(true)
    expect([server.content[0], buffer[0]]).toEqual([1, 0])
  })

  it("for good fails the request", async () => {
    const { disk, server } = await openNew({ size: 100_000 }, { reconnectTimeout: 3000 })
    server.answer = (request, connection) => connection.sendError(request, 108)
    await expect(disk.pread(one(0), 0)).rejects.toThrow(/shutting down/)
  })
})

describe("time-outs", () => {
  it("a request without an answer ends the connection, and is sent again", async () => {
    const { disk, server, timer } = await openNew({ size: 100_000 }, { requestTimeout: 20_000 })
    await disk.pwrite(one(1), 0)
    server.answer = () => undefined
    const buffer = one(9)
    const read = disk.pread(buffer, 0)
    while (server.log.at(-1) !== "READ 0+512") await tick()
    timer.advance(15_000)
    await tick()
    expect(server.connections).toHaveLength(1)
    server.answer = (request, connection) => server.serve(request, connection)
    timer.advance(20_000)
    await read
    expect(server.connections).toHaveLength(2)
    expect(buffer[0]).toBe(1)
  })
})

describe("flushes", () => {
  it("that fail make every later flush and write fail, and reads go on", async () => {
    const { disk, server } = await openNew({ size: 100_000 })
    await disk.pwrite(one(1), 0)
    server.answer = (request, connection) => {
      if (request.type === 3) connection.sendError(request, 5)
      else server.serve(request, connection)
    }
    await expect(disk.flush?.()).rejects.toMatchObject({ code: "io" })
    server.answer = (request, connection) => server.serve(request, connection)
    await expect(disk.flush?.()).rejects.toMatchObject({ code: "io" })
    await expect(disk.pwrite(one(1), 0)).rejects.toMatchObject({ code: "io" })
    await expect(disk.discard?.(0, 512)).rejects.toMatchObject({ code: "io" })
    await disk.pread(one(0), 0)
  })

  it("of the client's own bound what is kept for a reconnection, and writes wait for them", async () => {
    const { disk, server } = await openNew({ size: 10_000_000 }, { unflushedLimit: 10_000, maxInFlight: 4 })
    await Promise.all(Array.from({ length: 40 }, (_, index) => disk.pwrite(one(1, 4096), index * 4096)))
    let kept = 0
    for (const { type, length } of server.requests) {
      if (type === 3) kept = 0
      else kept += length
      // Those in flight when the limit was passed come on top.
      expect(kept).toBeLessThan(10_000 + 5 * 4096)
    }
    expect(server.log.filter((line) => line === "FLUSH").length).toBeGreaterThan(5)
  })

  it("of the client's own that fail make the writes fail that wait for them", async () => {
    const { disk, server } = await openNew({ size: 1_000_000 }, { unflushedLimit: 0 })
    server.answer = (request, connection) => {
      if (request.type === 3) connection.sendError(request, 28)
      else server.serve(request, connection)
    }
    await disk.pwrite(one(1), 0)
    await expect(disk.pwrite(one(1), 0)).rejects.toMatchObject({ code: "no-space" })
    await expect(disk.flush?.()).rejects.toMatchObject({ code: "no-space" })
    await disk.pread(one(1), 0)
  })
})

describe("random work with a server that crashes", () => {
  it.each(Array.from({ length: 12 }, (_, index) => seed + index))("loses no write (SEED=%i)", async (own) => {
    const rng = new Rng(own)
    const workers = 4
    // Small writes lie in memory together, and large ones go out in pieces.
    const scale = rng.pick([1, 1, 40])
    const share = 64 * 1024 * scale
    const server = new FakeServer({
      size: workers * share, rng, structured: rng.chance(0.7),
      blockSizes: { minimum: rng.pick([1, 512]), preferred: 4096, maximum: 1 << 20 },
    })
    const options = {
      maxInFlight: rng.pick([1, 3, 64]),
      connections: rng.pick([1, 3]),
      unflushedLimit: rng.pick([0, 30_000 * scale, 1 << 26]),
    }
    const { disk } = await openFake(server, { ...options, reconnectTimeout: 1_000_000 })
    let crashes = 0
    server.answer = (request, connection) => {
      if (rng.chance(0.03)) {
        crashes++
        // Served or not, its answer is lost.
        if (rng.chance(0.5)) server.serve(request, connection)
        server.refusal = rng.chance(0.3) ? new Error("not yet") : undefined
        if (server.refusal !== undefined) setImmediate(() => setImmediate(() => { server.refusal = undefined }))
        server.crash(rng)
      } else {
        server.serve(request, connection)
      }
    }
    const expected = new Uint8Array(workers * share)
    const work = async (worker: number): Promise<void> => {
      for (let step = 0; step < 60; step++) {
        const length = 512 * rng.between(1, 16 * scale)
        const offset = worker * share + 512 * rng.below((share - length) / 512 + 1)
        const roll = rng.below(10)
        if (roll < 5) {
          const data = rng.bytes(length)
          await disk.pwrite(data, offset)
          expected.set(data, offset)
        } else if (roll < 6) {
          await disk.writeZeroes?.(offset, length, true)
          expected.fill(0, offset, offset + length)
        } else if (roll < 7) {
          await disk.flush?.()
        } else {
          const data = new Uint8Array(length).fill(0xee)
          await disk.pread(data, offset)
          const difference = data.findIndex((byte, index) => byte !== expected[offset + index])
          expect({ step, offset, difference }).toEqual({ step, offset, difference: -1 })
        }
      }
    }
    await Promise.all(Array.from({ length: workers }, (_, worker) => work(worker)))
    server.answer = (request, connection) => server.serve(request, connection)
    await disk.flush?.()
    expect(Buffer.compare(server.stable, expected)).toBe(0)
    expect(crashes).toBeGreaterThan(0)
  })
})
