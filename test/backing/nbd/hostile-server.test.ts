/** Servers that break the protocol: one clear error, nothing written where it should not be, and no waiting for ever. */
import { describe, expect, it } from "vitest"
import { BackingError } from "../../../src/backing/backing.ts"
import * as options from "../../../src/backing/nbd/option-messages.ts"
import { NBD_OPT, NBD_REP } from "../../../src/backing/nbd/protocol.ts"
import { encodeBlockStatus, encodeErrorChunk } from "../../../src/backing/nbd/transmission-messages.ts"
import { type FakeConnection, type FakeOptions, type FakeRequest, FakeServer, tick } from "./fake-server.ts"
import { openFake, openNew, type Opened } from "./open-fake.ts"

const errorOf = async (work: Promise<unknown>): Promise<BackingError> => {
  const error: unknown = await work.then(() => undefined, (reason: unknown) => reason)
  if (!(error instanceof BackingError)) throw new Error(`expected a BackingError, got ${String(error)}`)
  expect(error.message).not.toMatch(/\n/)
  return error
}

describe("the handshake", () => {
  const given = (change: (server: FakeServer) => void, more: Partial<FakeOptions> = {}): Promise<BackingError> => {
    const server = new FakeServer({ size: 4096, ...more })
    change(server)
    return errorOf(openFake(server)).then((error) => {
      expect(server.connections.every(({ isOver }) => isOver)).toBe(true)
      return error
    })
  }
  const replies = (option: number, send: (connection: FakeConnection) => void) => (server: FakeServer): void => {
    server.answerOption = (asked, _, connection) => {
      if (asked === option) send(connection)
      return asked === option
    }
  }
  const reply = (option: number, type: number, data?: Uint8Array) =>
    replies(option, (connection) => connection.send(options.encodeOptionReply(option, type, data)))

  it.each([
    ["another protocol", (server: FakeServer) => { server.greeting = Buffer.from("SSH-2.0-OpenSSH_9.2 and so on") }, /no NBD server/],
    ["a flood", (server: FakeServer) => { server.greeting = new Uint8Array(200_000) }, /NBDMAGIC|more than was asked for/],
    ["newstyle that is not fixed", (server: FakeServer) => { server.greeting = options.encodeGreeting(0) }, /fixed newstyle/],
    ["a reply to another option", replies(NBD_OPT.GO, (connection) => connection.send(options.encodeOptionReply(3, 1))), /option 3/],
    ["a reply without its magic", replies(NBD_OPT.GO, (connection) => connection.send(new Uint8Array(20))), /magic/],
    ["a reply of 4 GiB", replies(NBD_OPT.GO, (connection) => {
      const header = options.encodeOptionReply(NBD_OPT.GO, NBD_REP.INFO)
      header.fill(0xff, 16)
      connection.send(header)
    }), /4294967295 bytes/],
    ["replies without an end", replies(NBD_OPT.GO, (connection) => {
      for (let count = 0; count < 100; count++) connection.send(options.encodeOptionReply(NBD_OPT.GO, NBD_REP.INFO, new Uint8Array([9, 9])))
    }), /more than 64 replies/],
    ["an export without a size", reply(NBD_OPT.GO, NBD_REP.ACK), /did not send the size of the export/],
    ["two meta contexts", replies(NBD_OPT.SET_META_CONTEXT, (connection) => {
      for (const id of [1, 2]) {
        const data = options.encodeMetaContext({ id, name: "base:allocation" })
        connection.send(options.encodeOptionReply(NBD_OPT.SET_META_CONTEXT, NBD_REP.META_CONTEXT, data))
      }
      connection.send(options.encodeOptionReply(NBD_OPT.SET_META_CONTEXT, NBD_REP.ACK))
    }), /that were not requested/],
    ["a context of another name", replies(NBD_OPT.SET_META_CONTEXT, (connection) => {
      const data = options.encodeMetaContext({ id: 1, name: "x-other:thing" })
      connection.send(options.encodeOptionReply(NBD_OPT.SET_META_CONTEXT, NBD_REP.META_CONTEXT, data))
      connection.send(options.encodeOptionReply(NBD_OPT.SET_META_CONTEXT, NBD_REP.ACK))
    }), /that were not requested/],
    ["an answer before the question", replies(NBD_OPT.GO, (connection) => {
      const info = options.encodeInfoExport({ size: 4096, flags: 1 })
      const reply = options.encodeOptionReply(NBD_OPT.GO, NBD_REP.INFO, info)
      connection.send(reply, options.encodeOptionReply(NBD_OPT.GO, NBD_REP.ACK), new Uint8Array(16))
    }), /a reply before a request/],
    ["a connection that ends", replies(NBD_OPT.GO, (connection) => connection.break()), /closed the connection/],
  ] as const)("%s", async (_, change, message) => expect((await given(change)).message).toMatch(message))

  it.each([
    [NBD_REP.ERR_UNKNOWN, "not-found"], [NBD_REP.ERR_POLICY, "permission"], [NBD_REP.ERR_TLS_REQD, "permission"],
    [NBD_REP.ERR_SHUTDOWN, "io"], [NBD_REP.ERR_INVALID, "io"],
  ])("the refusal 0x%x gives the error %s, which quotes the server", async (type, code) => {
    const error = await given(reply(NBD_OPT.GO, type, Buffer.from("because\nof me")))
    expect(error.code).toBe(code)
    expect(error.message).toMatch(/the export "disk".*because/)
  })

  it("a server that stays silent is given up after the time for connecting", async () => {
    const server = new FakeServer({ size: 4096 })
    server.greeting = new Uint8Array(0)
    const timers: (() => void)[] = []
    const { NbdClient } = await import("../../../src/backing/nbd/client/client.ts")
    const { nbdSettings } = await import("../../../src/backing/nbd/client/options.ts")
    const { parseNbdUri } = await import("../../../src/backing/nbd/client/uri.ts")
    const timer = { now: () => 0, after: (delay: number, task: () => void) => {
      expect(delay).toBe(1234)
      timers.push(task)
      return () => undefined
    } }
    const opening = NbdClient.open(parseNbdUri("nbd://h"), nbdSettings("test", { connectTimeout: 1234 }), { dial: server.dial, timer })
    await tick()
    for (const task of timers) task()
    expect((await errorOf(opening)).message).toMatch(/no answer within 1234 ms/)
    expect(server.connections[0]?.isOver).toBe(true)
  })

  it("nbds refuses a server without TLS, and one that sends unencrypted bytes behind its consent to TLS", async () => {
    // QEMU's tool answers ERR_POLICY, nbdkit ERR_UNSUP.
    for (const answer of [NBD_REP.ERR_UNSUP, NBD_REP.ERR_POLICY, NBD_REP.ERR_INVALID]) {
      const server = new FakeServer({ size: 4096 })
      reply(NBD_OPT.STARTTLS, answer)(server)
      const { message } = await errorOf(openFake(server, {}, "nbds://h/disk"))
      expect(message).toBe("nbds://h/disk: the server does not offer TLS; an nbd URI connects without it, unencrypted")
    }
    const injecting = new FakeServer({ size: 4096 })
    replies(NBD_OPT.STARTTLS, (connection) => {
      const ack = options.encodeOptionReply(NBD_OPT.STARTTLS, NBD_REP.ACK)
      connection.send(ack, options.encodeOptionReply(NBD_OPT.STRUCTURED_REPLY, NBD_REP.ACK))
    })(injecting)
    expect((await errorOf(openFake(injecting, {}, "nbds://h/disk"))).message).toMatch(/sent unencrypted bytes/)
  })

  it("a port where nobody listens gives an error that says so", async () => {
    const server = new FakeServer({ size: 4096 })
    server.refusal = Object.assign(new Error("connect ECONNREFUSED"), { code: "ECONNREFUSED" })
    expect((await errorOf(openFake(server))).message).toBe("nbd://localhost/disk: no connection: nobody listens there")
  })
})

describe("answers", () => {
  const at = (offset: number, bytes: Uint8Array): Uint8Array => {
    const head = Buffer.alloc(8)
    head.writeBigUInt64BE(BigInt(offset))
    return Buffer.concat([head, bytes])
  }
  const hole = (offset: number, length: number): Uint8Array => at(offset, Buffer.from([length >>> 24, length >>> 16, length >>> 8, length]))
  type Answer = (request: FakeRequest, connection: FakeConnection) => void
  const reads: readonly (readonly [string, Answer])[] = [
    ["an unknown magic", (_, connection) => connection.send(new Uint8Array(20))],
    [
      "an unknown cookie",
      (request, connection) => connection.sendChunk({ cookieHigh: 99, cookieLow: request.cookieLow }, { type: 0, isDone: true }),
    ],
    [
      "a slot that does not exist",
      (_, connection) => connection.sendChunk({ cookieHigh: 0, cookieLow: 0xffff_ffff }, { type: 0, isDone: true }),
    ],
    ["success without data", (request, connection) => connection.sendChunk(request, { type: 0, isDone: true })],
    [
      "half of the data",
      (request, connection) => connection.sendChunk(request, { type: 1, isDone: true, payload: at(4096, new Uint8Array(256)) }),
    ],
    [
      "data before the range",
      (request, connection) => connection.sendChunk(request, { type: 1, isDone: true, payload: at(4095, new Uint8Array(512)) }),
    ],
    [
      "data behind the range",
      (request, connection) => connection.sendChunk(request, { type: 1, isDone: true, payload: at(4097, new Uint8Array(512)) }),
    ],
    [
      "too much data",
      (request, connection) => connection.sendChunk(request, { type: 1, isDone: true, payload: at(4096, new Uint8Array(513)) }),
    ],
    [
      "data at 2^63",
      (request, connection) => connection.sendChunk(request, {
        type: 1,
        isDone: true,
        payload: Buffer.concat([Buffer.from([0x80, 0, 0, 0, 0, 0, 0x10, 0]), Buffer.alloc(512)]),
      }),
    ],
    ["data twice", (request, connection) => {
      connection.sendChunk(request, { type: 1, isDone: false, payload: at(4096, new Uint8Array(512)) })
      connection.sendChunk(request, { type: 1, isDone: true, payload: at(4200, new Uint8Array(1)) })
    }],
    [
      "data without data",
      (request, connection) => connection.sendChunk(request, { type: 1, isDone: true, payload: at(4096, new Uint8Array(0)) }),
    ],
    [
      "data without an offset",
      (request, connection) => connection.sendChunk(request, { type: 1, isDone: true, payload: new Uint8Array(8) }),
    ],
    ["a hole outside", (request, connection) => connection.sendChunk(request, { type: 2, isDone: true, payload: hole(4096, 513) })],
    ["a hole of nothing", (request, connection) => connection.sendChunk(request, { type: 2, isDone: true, payload: hole(4096, 0) })],
    [
      "a hole that is too short",
      (request, connection) => connection.sendChunk(request, { type: 2, isDone: true, payload: new Uint8Array(11) }),
    ],
    ["a hole over data", (request, connection) => {
      connection.sendChunk(request, { type: 1, isDone: false, payload: at(4096, new Uint8Array(512)) })
      connection.sendChunk(request, { type: 2, isDone: true, payload: hole(4096, 1) })
    }],
    ["an unknown chunk", (request, connection) => connection.sendChunk(request, { type: 99, isDone: true })],
    ["a block status", (request, connection) => connection.sendStatus(request, [{ length: 512, flags: 0 }])],
    ["NONE in the middle", (request, connection) => connection.sendChunk(request, { type: 0, isDone: false })],
    ["NONE with a payload", (request, connection) => connection.sendChunk(request, { type: 0, isDone: true, payload: new Uint8Array(4) })],
    ["an error of 0", (request, connection) => connection.sendChunk(request, { type: 0x8001, isDone: true, payload: new Uint8Array(6) })],
    [
      "an error without its message",
      (request, connection) => connection.sendChunk(request, { type: 0x8001, isDone: true, payload: Buffer.from([0, 0, 0, 5, 0, 9]) }),
    ],
    [
      "an error of 1 MiB",
      (request, connection) => connection.sendChunk(request, { type: 0x8001, isDone: true, payload: new Uint8Array(1 << 20) }),
    ],
    ["an empty error", (request, connection) => connection.sendChunk(request, { type: 0x8001, isDone: true })],
    [
      "a simple reply",
      (request, connection) => connection.send(Buffer.from([0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0, ...cookie(request)]), new Uint8Array(512)),
    ],
  ]
  const cookie = ({ cookieHigh, cookieLow }: FakeRequest): Uint8Array => {
    const bytes = Buffer.alloc(8)
    bytes.writeUInt32BE(cookieHigh)
    bytes.writeUInt32BE(cookieLow, 4)
    return bytes
  }

  const expectBroken = async ({ disk, server }: Opened, work: Promise<unknown>, { hasWritten = false } = {}): Promise<void> => {
    const error = await errorOf(work)
    expect(error.message).toMatch(/the server breaks the NBD protocol/)
    expect(error.code).toBe("io")
    // Nobody believes it again.
    expect(await errorOf(disk.pread(new Uint8Array(512), 0))).toBe(error)
    await tick()
    expect(server.connections).toHaveLength(1)
    expect(server.connections[0]?.isOver).toBe(true)
    if (hasWritten) expect(await errorOf(disk.close())).toBe(error)
    else await disk.close()
  }

  it.each(reads)("to a READ: %s", async (_, answer) => {
    const opened = await openNew({ size: 100_000 })
    opened.server.answer = answer
    // What lies around the buffer stays as it is.
    const around = new Uint8Array(1024).fill(0xaa)
    await expectBroken(opened, opened.disk.pread(around.subarray(256, 768), 4096))
    expect([...around.subarray(0, 256), ...around.subarray(768)].every((byte) => byte === 0xaa)).toBe(true)
  })

  it.each([
    ["data", { type: 1, payload: at(0, new Uint8Array(512)) }], ["a hole", { type: 2, payload: hole(0, 512) }],
    ["a block status", { type: 5, payload: encodeBlockStatus({ contextId: 7, extents: [{ length: 1, flags: 0 }] }) }],
  ])("to a WRITE: %s", async (_, chunk) => {
    const opened = await openNew({ size: 4096 })
    opened.server.answer = (request, connection) => connection.sendChunk(request, { ...chunk, isDone: true })
    await expectBroken(opened, opened.disk.pwrite(new Uint8Array(512), 0))
  })

  it.each([
    ["none", (request: FakeRequest, connection: FakeConnection) => connection.sendChunk(request, { type: 0, isDone: true })],
    [
      "of another context",
      (request: FakeRequest, connection: FakeConnection) => connection.sendStatus(request, [{ length: 512, flags: 0 }], 8),
    ],
    [
      "with more extents than bytes",
      (request: FakeRequest, connection: FakeConnection) => connection.sendStatus(
        request, Array.from({ length: 513 }, () => ({ length: 1, flags: 0 })),
      ),
    ],
    [
      "with an extent of nothing",
      (request: FakeRequest, connection: FakeConnection) => connection.sendStatus(request, [{ length: 0, flags: 0 }]),
    ],
    ["twice", (request: FakeRequest, connection: FakeConnection) => {
      const payload = encodeBlockStatus({ contextId: 7, extents: [{ length: 512, flags: 0 }] })
      connection.sendChunk(request, { type: 5, isDone: false, payload })
      connection.sendChunk(request, { type: 5, isDone: true, payload })
    }],
  ])("to a BLOCK_STATUS: %s", async (_, answer) => {
    const opened = await openNew({ size: 4096 })
    opened.server.answer = answer
    await expectBroken(opened, opened.disk.blockStatus(0, 512))
  })

  it("with a million extents are taken in part, and the client may ask for the rest", async () => {
    const { disk, server } = await openNew({ size: 2 ** 21 })
    server.answer = (request, connection) => {
      connection.sendStatus(request, Array.from({ length: 2 ** 20 }, (_, index) => ({ length: 1, flags: index % 2 })))
    }
    const extents = await disk.blockStatus(0, 2 ** 21)
    expect(extents).toHaveLength(65_536)
    expect(extents.at(-1)).toEqual({ offset: 65_535, length: 1, isHole: true, isZero: false })
  })

  it("that are structured though that was not negotiated break the connection", async () => {
    const opened = await openNew({ size: 4096, structured: false })
    opened.server.answer = (request, connection) => connection.sendChunk(request, { type: 0, isDone: true })
    await expectBroken(opened, opened.disk.pread(new Uint8Array(512), 0))
  })

  it("that come twice to one request break the connection", async () => {
    const opened = await openNew({ size: 4096 })
    opened.server.answer = (request, connection) => {
      connection.sendDone(request)
      connection.sendDone(request)
    }
    await opened.disk.pwrite(new Uint8Array(512), 0).catch(() => undefined)
    await expectBroken(opened, opened.disk.pread(new Uint8Array(512), 0), { hasWritten: true })
  })

  it("of garbage fail every request in flight and every one that waits", async () => {
    const { disk, server } = await openNew({ size: 100_000 }, { maxInFlight: 2 })
    server.answer = (_, connection) => connection.send(new Uint8Array(20))
    const work = [0, 1, 2, 3].map((index) => disk.pread(new Uint8Array(512), index * 512))
    for (const result of await Promise.allSettled(work)) expect(result.status).toBe("rejected")
  })

  it("with an error keep the start of a long message", async () => {
    const { disk, server } = await openNew({ size: 4096 })
    const payload = encodeErrorChunk({ error: 5, message: "x".repeat(5000) })
    server.answer = (request, connection) => connection.sendChunk(request, { type: 0x8001, isDone: true, payload })
    expect((await errorOf(disk.pread(new Uint8Array(512), 0))).message.length).toBeLessThan(400)
  })
})
