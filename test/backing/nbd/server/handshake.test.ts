/** The server's side of the NBD handshake, against a client that says right and wrong things byte by byte. */
import { describe, expect, it, vi } from "vitest"
import { MemoryBacking } from "../../../../src/backing/memory.ts"
import { ByteQueue } from "../../../../src/backing/nbd/server/byte-queue.ts"
import { ExportTable } from "../../../../src/backing/nbd/server/export.ts"
import { Handshake } from "../../../../src/backing/nbd/server/handshake.ts"
import { EXPORT_FLAG, info, metaContext, type NbdClient, OPT, REP, REP_ERR, text, u16, u32 } from "../../../support/nbd/client.ts"
import { serve, type TestServer } from "../../../support/nbd/server.ts"

const SIZE = 1 << 20

function disks(): Promise<TestServer> {
  return serve({
    exports: [
      { name: "one", backing: new MemoryBacking({ size: SIZE }), description: "the first" },
      { name: "two", backing: new MemoryBacking({ size: 3 * SIZE + 77, readOnly: true }) },
    ],
  })
}

async function greeted(server: TestServer, flags?: number): Promise<NbdClient> {
  const client = await server.connect()
  await client.greet(flags)
  return client
}

/** The last reply's error, undefined for an acknowledgement. */
async function errorOf(client: NbdClient, option: number, data?: Uint8Array): Promise<number | undefined> {
  return (await client.option(option, data)).at(-1)?.error
}

describe("the handshake", () => {
  it("greets with fixed newstyle and without zeroes", async () => {
    const client = await (await disks()).connect()
    expect(await client.greet()).toBe(3)
  })

  it("lists the exports with their descriptions", async () => {
    const client = await greeted(await disks())
    const replies = await client.option(OPT.list)
    expect(replies.map(({ type }) => type)).toEqual([REP.server, REP.server, REP.ack])
    expect(replies[0]?.data).toEqual(Buffer.concat([text("one"), Buffer.from("the first")]))
    expect(replies[1]?.data).toEqual(text("two"))
  })

  it("gives size, flags, block sizes, name and description, as asked for", async () => {
    const client = await greeted(await disks())
    const bare = await client.option(OPT.info, info("two"))
    const flags = EXPORT_FLAG.hasFlags | EXPORT_FLAG.readOnly | EXPORT_FLAG.flush | EXPORT_FLAG.fua | EXPORT_FLAG.multiConn
    expect(bare.map(({ data }) => data)).toEqual([Buffer.concat([u16(0), u32(0, 3 * SIZE + 77), u16(flags)]), Buffer.alloc(0)])
    const all = await client.option(OPT.info, info("one", 3, 1, 2, 0x4242))
    expect(all.map(({ data }) => data.subarray(0, 2).toString("hex"))).toEqual(["0000", "0003", "0001", "0002", ""])
    expect(all[1]?.data).toEqual(Buffer.concat([u16(3), u32(1, 4096, 2 ** 25)]))
    expect(all[2]?.data.toString("latin1", 2)).toBe("one")
    expect(all[3]?.data.toString("latin1", 2)).toBe("the first")
  })

  it("offers what the disk can do, and DF with structured replies", async () => {
    const client = await greeted(await disks())
    const flagsOf = async (): Promise<number> => (await client.option(OPT.info, info("one")))[0]?.data.readUInt16BE(10) ?? 0
    const { hasFlags, flush, fua, trim, writeZeroes, multiConn, fastZero, df } = EXPORT_FLAG
    const flags = hasFlags | flush | fua | trim | writeZeroes | multiConn | fastZero
    expect(await flagsOf()).toBe(flags)
    expect(await errorOf(client, OPT.structuredReply)).toBeUndefined()
    expect(await flagsOf()).toBe(flags | df)
  })

  it("offers nothing that the disk has no method for", async () => {
    const backing = { size: SIZE, readOnly: false, pread() {}, pwrite() {}, close() {} }
    const client = await (await serve({ exports: [{ backing }] })).connect()
    expect((await client.go()).flags).toBe(EXPORT_FLAG.hasFlags | EXPORT_FLAG.multiConn)
  })

  it("goes on to transmission after GO and EXPORT_NAME, with zeroes unless the client wants none", async () => {
    const server = await disks()
    const modern = await server.connect()
    expect((await modern.go("one")).size).toBe(BigInt(SIZE))
    expect(await modern.readDisk(0, 512)).toEqual(Buffer.alloc(512))
    for (const [flags, zeroes] of [[3, 0], [1, 124], [0, 124], [2, 0]] as const) {
      const client = await greeted(server, flags)
      client.sendOption(OPT.exportName, Buffer.from("two"))
      expect((await client.read(10)).readBigUInt64BE(0)).toBe(BigInt(3 * SIZE + 77))
      expect(await client.read(zeroes)).toEqual(Buffer.alloc(zeroes))
      expect(await client.readDisk(0, 512)).toEqual(Buffer.alloc(512))
    }
  })

  it("takes an empty name for the only export, but not for one of two", async () => {
    const one = await serve({ exports: [{ name: "disk", backing: new MemoryBacking({ size: SIZE }) }] })
    expect((await (await one.connect()).go("")).size).toBe(BigInt(SIZE))
    expect(await errorOf(await greeted(await disks()), OPT.go, info(""))).toBe(REP_ERR.unknown)
  })

  it("answers ABORT and ends", async () => {
    const client = await greeted(await disks())
    expect(await errorOf(client, OPT.abort, Buffer.from("what a client should not send"))).toBeUndefined()
    expect(await client.rest()).toEqual(Buffer.alloc(0))
  })

  it("answers unknown and malformed options with an error, and goes on", async () => {
    const client = await greeted(await disks())
    for (const option of [0, 4, 11, 77, 2 ** 32 - 1]) expect(await errorOf(client, option, Buffer.alloc(100))).toBe(REP_ERR.unsup)
    expect(await errorOf(client, OPT.list, Buffer.alloc(1))).toBe(REP_ERR.invalid)
    expect(await errorOf(client, OPT.structuredReply, Buffer.alloc(1))).toBe(REP_ERR.invalid)
    expect(await errorOf(client, OPT.info, Buffer.alloc(3))).toBe(REP_ERR.invalid)
    expect(await errorOf(client, OPT.info, Buffer.concat([u32(2 ** 32 - 1), Buffer.alloc(20)]))).toBe(REP_ERR.invalid)
    expect(await errorOf(client, OPT.info, Buffer.concat([text("one"), u16(3), u16(0)]))).toBe(REP_ERR.invalid)
    expect(await errorOf(client, OPT.info, Buffer.concat([info("one"), Buffer.alloc(1)]))).toBe(REP_ERR.invalid)
    expect(await errorOf(client, OPT.info, info("x".repeat(5000)))).toBe(REP_ERR.invalid)
    expect(await errorOf(client, OPT.info, info("three"))).toBe(REP_ERR.unknown)
    expect(await errorOf(client, OPT.starttls)).toBe(REP_ERR.policy)
    expect(await errorOf(client, OPT.go, info("one"))).toBeUndefined()
    expect(await client.readDisk(0, 1)).toEqual(Buffer.alloc(1))
  })

  it("lists and sets the context base:allocation, after structured replies only", async () => {
    const client = await greeted(await disks())
    expect(await errorOf(client, OPT.setMetaContext, metaContext("one", "base:allocation"))).toBe(REP_ERR.invalid)
    expect(await errorOf(client, OPT.listMetaContext, metaContext("one"))).toBe(REP_ERR.invalid)
    await client.option(OPT.structuredReply)
    const contexts = async (option: number, ...queries: string[]): Promise<string[]> =>
      (await client.option(option, metaContext("one", ...queries))).slice(0, -1).map(({ data }) => data.toString("latin1", 4))
    for (const queries of [[], ["base:"], ["base:allocation"], ["x:y", "base:allocation", "base:"]]) {
      expect(await contexts(OPT.listMetaContext, ...queries)).toEqual(["base:allocation"])
    }
    expect(await contexts(OPT.listMetaContext, "qemu:", "base:nothing")).toEqual([])
    expect(await contexts(OPT.setMetaContext, "base:")).toEqual([])
    expect(await contexts(OPT.setMetaContext)).toEqual([])
    expect(await contexts(OPT.setMetaContext, "qemu:dirty-bitmap:x", "base:allocation")).toEqual(["base:allocation"])
    expect(await errorOf(client, OPT.setMetaContext, metaContext("three", "base:allocation"))).toBe(REP_ERR.unknown)
    expect(await errorOf(client, OPT.setMetaContext, Buffer.concat([text("one"), u32(2 ** 30)]))).toBe(REP_ERR.invalid)
    expect(await errorOf(client, OPT.setMetaContext, Buffer.concat([text("one"), u32(1, 50), Buffer.alloc(4)]))).toBe(REP_ERR.invalid)
  })

  it("accepts its bytes in one packet as well as one by one", async () => {
    const server = await disks()
    const option = (number: number, data: Buffer): Buffer => Buffer.concat([Buffer.from("IHAVEOPT"), u32(number, data.length), data])
    const all = Buffer.concat([
      u32(3),
      option(OPT.structuredReply, Buffer.alloc(0)),
      option(OPT.list, Buffer.alloc(0)),
      option(OPT.go, info("one")),
    ])
    for (const size of [all.length, 1]) {
      const client = await server.connect()
      await client.read(18)
      for (let at = 0; at < all.length; at += size) client.send(all.subarray(at, at + size))
      const types: number[] = []
      for (let count = 0; count < 6; count++) types.push((await client.optionReply()).type)
      expect(types).toEqual([REP.ack, REP.server, REP.server, REP.ack, REP.info, REP.ack])
    }
  })
})

describe("a client that breaks the handshake is disconnected, and the operator gets the reason", () => {
  it.each([
    ["client flags that do not exist", [u32(7)], "client flags"],
    ["an option that does not begin with IHAVEOPT", [u32(3), Buffer.from("IHAVEOPS"), u32(3, 0)], "IHAVEOPT"],
    ["an option longer than any", [u32(3), Buffer.from("IHAVEOPT"), u32(3, 65_537)], "65537 bytes"],
    ["an option of 4 GiB", [u32(3), Buffer.from("IHAVEOPT"), u32(77, 2 ** 32 - 1)], "4294967295 bytes"],
    ["a list without fixed newstyle", [u32(0), Buffer.from("IHAVEOPT"), u32(3, 0)], "fixed newstyle"],
    ["an unknown export name", [u32(3), Buffer.from("IHAVEOPT"), u32(1, 5), Buffer.from("three")], 'no export "three"'],
    ["a name that is too long", [u32(3), Buffer.from("IHAVEOPT"), u32(1, 5000), Buffer.alloc(5000, "one")], "no export"],
    ["HTTP", [Buffer.from("GET / HTTP/1.1\r\nHost: localhost:10809\r\n\r\n")], "client flags"],
  ])("%s", async (_, parts, reason) => {
    const server = await disks()
    const client = await server.connect()
    await client.read(18)
    client.send(...parts)
    expect(await client.rest()).toEqual(Buffer.alloc(0))
    expect(server.errors).toEqual([expect.stringContaining(reason)])
    expect((await (await server.connect()).go("one")).size).toBe(BigInt(SIZE))
  })

  it("by options without end", async () => {
    const server = await disks()
    const client = await greeted(server)
    for (let count = 0; count < 81; count++) client.sendOption(OPT.list)
    await client.rest()
    expect(server.errors).toEqual([expect.stringContaining("more than 80 options")])
  })

  it("but not for answers that it does not read: the server then takes no more options", () => {
    // Names of 4096 bytes: a list of 1.2 MiB from 16 bytes.
    const backing = new MemoryBacking({ size: SIZE })
    const exports = new ExportTable(Array.from({ length: 300 }, (_, index) => ({ name: `${index}`.padEnd(4096, "x"), backing })))
    const inbox = new ByteQueue()
    let unsent = 0
    const wire = {
      get unsent() {
        return unsent
      },
      send: (bytes: Uint8Array) => void (unsent += bytes.length), flush() {}, proceed() {}, end() {},
    }
    const handshake = new Handshake({ wire, exports, tls: "off", onTls() {}, onAgreed() {} })
    inbox.push(u32(3))
    for (let count = 0; count < 10; count++) inbox.push(Buffer.concat([Buffer.from("IHAVEOPT"), u32(OPT.list, 0)]))
    for (let left = 9; left >= 0; left--) {
      unsent = 0
      expect(handshake.take(inbox)).toBe("blocked")
      expect(inbox.length).toBe(left * 16)
    }
    unsent = 0
    expect(handshake.take(inbox)).toBe("more")
  })

  it("if it does not choose an export in time", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] })
    try {
      const server = await disks()
      const [slow, quick] = [await greeted(server), await server.connect()]
      await quick.go("one")
      vi.advanceTimersByTime(9_999)
      expect(await errorOf(slow, OPT.list)).toBeUndefined()
      vi.advanceTimersByTime(1)
      await slow.rest()
      expect(server.errors).toEqual([expect.stringContaining("has not chosen an export in time")])
      vi.advanceTimersByTime(1e9)
      expect(await quick.readDisk(0, 1)).toEqual(Buffer.alloc(1))
    } finally {
      vi.useRealTimers()
    }
  })

  it("if it is one client too many", async () => {
    const server = await serve({ exports: [{ backing: new MemoryBacking({ size: SIZE }) }], maxClients: 2 })
    const [first, second] = [await greeted(server), await greeted(server)]
    await (await server.connect()).rest()
    expect(server.errors).toEqual([expect.stringContaining("turned away: there are 2 already")])
    first.destroy()
    second.sendOption(OPT.list)
    await second.optionReply()
    await vi.waitFor(() => expect(server.server.clients).toBe(1))
    expect((await (await server.connect()).go()).size).toBe(BigInt(SIZE))
  })
})
