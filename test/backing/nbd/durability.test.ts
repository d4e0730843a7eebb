/**
 * What a success of the client is worth: no flush succeeds beside one that failed, a request that brings the server down fails in the end,
 * and a connection is not left while the server works on a write that would be sent again.
 */
import { describe, expect, it } from "vitest"
import { NBD_CMD, NBD_OPT } from "../../../src/backing/nbd/protocol.ts"
import { type FakeConnection, type FakeRequest, FakeServer, tick } from "./fake-server.ts"
import { openFake, openNew } from "./open-fake.ts"

const one = (value: number, length = 512): Uint8Array => new Uint8Array(length).fill(value)

/** Keeps requests of `type` unanswered, in the order in which they come. */
function holding(server: FakeServer, type: number): { readonly request: FakeRequest; readonly connection: FakeConnection }[] {
  const held: { request: FakeRequest; connection: FakeConnection }[] = []
  server.answer = (request, connection) => {
    if (request.type === type) held.push({ request, connection })
    else server.serve(request, connection)
  }
  return held
}

async function until(condition: () => boolean): Promise<void> {
  for (let turns = 0; !condition(); turns++) {
    if (turns > 1000) throw new Error("it does not happen")
    await tick()
  }
}

describe("of flushes that are under way together", () => {
  it("none succeeds that was sent before another one failed: the server may have dropped what both cover", async () => {
    const { disk, server } = await openNew({ size: 100_000 })
    await disk.pwrite(one(1), 0)
    const held = holding(server, NBD_CMD.FLUSH)
    const results = Promise.allSettled([disk.flush?.(), disk.flush?.()])
    await until(() => held.length === 2)
    const [first, second] = held
    first?.connection.sendError(first.request, 5)
    second?.connection.sendDone(second.request)
    expect((await results).map(({ status }) => status)).toEqual(["rejected", "rejected"])
  })

  it("none succeeds that was sent before a flush of the client's own failed", async () => {
    const { disk, server } = await openNew({ size: 100_000 }, { unflushedLimit: 0 })
    await disk.pwrite(one(1), 0)
    const held = holding(server, NBD_CMD.FLUSH)
    const results = Promise.allSettled([disk.flush?.(), disk.pwrite(one(2), 512)])
    await until(() => held.length === 2)
    const [theirs, own] = held
    own?.connection.sendError(own.request, 5)
    theirs?.connection.sendDone(theirs.request)
    expect((await results).map(({ status }) => status)).toEqual(["rejected", "rejected"])
  })
})

it("the client flushes by itself at half of its limit of unflushed writes, and writes go on up to the whole limit", async () => {
  const { disk, server } = await openNew({ size: 100_000 }, { unflushedLimit: 20_000 })
  const held = holding(server, NBD_CMD.FLUSH)
  const write = (index: number): Promise<void> => Promise.resolve(disk.pwrite(one(index, 4096), index * 4096))
  for (let index = 0; index < 5; index++) await write(index)
  expect(held).toHaveLength(1)
  let isWritten = false
  const waiting = write(5).then(() => (isWritten = true))
  for (let turns = 0; turns < 50; turns++) await tick()
  expect(isWritten).toBe(false)
  const [flush] = held
  if (flush === undefined) throw new Error("there was no flush")
  server.serve(flush.request, flush.connection)
  await waiting
  expect(held).toHaveLength(1)
  server.answer = (request, connection) => server.serve(request, connection)
  await disk.close()
})

describe("a request that brings the server down", () => {
  it("fails after the time for a reconnection, although earlier writes succeed again on each new connection", async () => {
    const { disk, server } = await openNew({ size: 100_000 }, { reconnectTimeout: 3000 })
    await disk.pwrite(one(1), 0)
    server.answer = (request, connection) => {
      if (request.type !== NBD_CMD.READ) server.serve(request, connection)
      else if (server.connections.length > 100) server.serve(request, connection)
      else server.crash()
    }
    await expect(disk.pread(one(0), 0)).rejects.toMatchObject({ code: "io" })
    expect(server.connections.length).toBeLessThan(10)
  })
})

describe("a server that is shutting down", () => {
  it("is not left while it works on a write: it might carry it out after a newer one that another server got", async () => {
    const { disk, server } = await openNew({ size: 100_000 })
    const held = holding(server, NBD_CMD.WRITE)
    const write = disk.pwrite(one(1), 0)
    await until(() => held.length === 1)
    server.answer = (request, connection) => {
      if (server.connections.length === 1) connection.sendError(request, 108)
      else server.serve(request, connection)
    }
    const read = disk.pread(one(0), 4096)
    await until(() => server.log.length === 2)
    for (let turn = 0; turn < 20; turn++) await tick()
    expect(server.connections).toHaveLength(1)
    const [first] = held
    if (first !== undefined) server.serve(first.request, first.connection)
    await Promise.all([write, read])
    expect(server.connections).toHaveLength(2)
    expect(server.connections[0]?.isPolite).toBe(true)
    // It is sent again because it has not been flushed, not because it was not answered.
    expect(server.log.filter((line) => line !== "DISC")).toEqual(["WRITE 0+512", "READ 4096+512", "WRITE 0+512", "READ 4096+512"])
  })

  it("and breaks the connection meanwhile is left at once", async () => {
    const { disk, server } = await openNew({ size: 100_000 })
    const held = holding(server, NBD_CMD.WRITE)
    const write = disk.pwrite(one(1), 0)
    await until(() => held.length === 1)
    server.answer = (request, connection) => {
      if (server.connections.length === 1) connection.sendError(request, 108)
      else server.serve(request, connection)
    }
    const read = disk.pread(one(0), 4096)
    await until(() => server.log.length === 2)
    server.connections[0]?.break()
    await Promise.all([write, read])
    expect(server.content[0]).toBe(1)
    // Nothing of the shutdown is left over.
    await disk.pwrite(one(2), 0)
    expect(server.connections).toHaveLength(2)
  })
})

describe("a server that breaks the protocol while a lost connection is replaced", () => {
  it("is not tried again", async () => {
    const { disk, server } = await openNew({ size: 100_000 }, { connections: 2 })
    server.answerOption = (option, _, connection) => {
      // The second of the new connections does not get through, and the first one gets what it did not ask for.
      const [first, second] = server.connections.filter(({ isOver }) => !isOver)
      if (option !== NBD_OPT.GO || second !== connection) return false
      setImmediate(() => first?.send(one(0xff, 64)))
      return true
    }
    server.crash()
    await expect(disk.pread(one(0), 0)).rejects.toThrow(/breaks the NBD protocol/)
    const count = server.connections.length
    server.answerOption = () => false
    for (let turn = 0; turn < 200; turn++) await tick()
    expect(server.connections).toHaveLength(count)
    expect(server.connections.filter(({ isOver }) => !isOver)).toEqual([])
  })

  it("while the first connections are made is named as the reason of the error", async () => {
    const server = new FakeServer({ size: 100_000 })
    server.answerOption = (option, _, connection) => {
      if (option !== NBD_OPT.GO || connection === server.connections[0]) return false
      setImmediate(() => server.connections[0]?.send(one(0xff, 64)))
      return true
    }
    await expect(openFake(server, { connections: 2 })).rejects.toThrow(/breaks the NBD protocol/)
  })
})

describe("connections that are lost while nobody waits", () => {
  it("do not shorten the time that a later request may wait for a reconnection", async () => {
    const { disk, server, timer } = await openNew({ size: 100_000 }, { reconnectTimeout: 3000 })
    server.crash()
    for (let turn = 0; turn < 50; turn++) await tick()
    expect(server.connections.filter(({ isOver }) => !isOver)).toHaveLength(1)
    timer.advance(3_600_000)
    server.answer = () => {
      server.answer = (request, connection) => server.serve(request, connection)
      server.crash()
    }
    await disk.pread(one(0), 0)
  })
})

describe("a disk that is closed while large writes are sent again", () => {
  it("sends the rest of the write that is under way before it disconnects", async () => {
    const { disk, server, client } = await openNew({ size: 8 << 20 })
    for (let index = 0; index < 4; index++) await disk.pwrite(one(index + 1, 2 << 20), index * (2 << 20))
    server.crash()
    await until(() => (server.connections.at(-1)?.unread ?? 0) > 100_000)
    await client.close({ flush: false })
    await until(() => server.connections.at(-1)?.isPolite === true)
    expect(server.connections.at(-1)?.unread).toBe(0)
  })
})
