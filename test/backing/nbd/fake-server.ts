/**
 * An NBD server inside the test: connections without sockets, answers cut and mixed by a seeded generator, and a disk that loses what was
 * not flushed when it crashes. Tests change one thing of it and leave the rest to it.
 */
import * as options from "../../../src/backing/nbd/option-messages.ts"
import { NBD_CMD, NBD_INFO, NBD_OPT, NBD_REP, NBD_SIZE } from "../../../src/backing/nbd/protocol.ts"
import * as transmission from "../../../src/backing/nbd/transmission-messages.ts"
import { viewOf } from "../../../src/backing/bytes/fields.ts"
import type { Timer } from "../../../src/backing/nbd/client/timer.ts"
import type { Dial, Wire, WireReader } from "../../../src/backing/nbd/client/wire.ts"
import type { Rng } from "../../support/rng.ts"

export type FakeRequest = transmission.Request & { readonly payload: Uint8Array }

/** HAS_FLAGS, FLUSH, FUA, TRIM, WRITE_ZEROES, DF, CAN_MULTI_CONN, FAST_ZERO. */
export const ALL_FLAGS = 0b1001_1110_1101

export interface FakeOptions {
  readonly size: number
  /** Of `NBD_FLAG_T`. Default `ALL_FLAGS`. */
  readonly flags?: number
  readonly blockSizes?: options.BlockSizes
  /** Default true. */
  readonly structured?: boolean
  readonly context?: boolean
  readonly knowsGo?: boolean
  readonly noZeroes?: boolean
  /** Cuts what is sent, and mixes the order of answers. Default: one piece, in order. */
  readonly rng?: Rng
}

export const tick = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

export class FakeServer {
  readonly options: FakeOptions
  /** What survives a crash, and what readers see. */
  readonly stable: Uint8Array
  content: Uint8Array
  /** Every request that has come. */
  readonly requests: FakeRequest[] = []
  readonly connections: FakeConnection[] = []
  /** Answers a request; tests put themselves before it. */
  answer: (request: FakeRequest, connection: FakeConnection) => void = (request, connection) => this.serve(request, connection)
  /** The error with which a request is refused when its header has come, and its payload has not. */
  refuseEarly: (request: transmission.Request) => number | undefined = () => undefined
  /** Answers an option: true when it has done so. */
  answerOption: (option: number, data: Uint8Array, connection: FakeConnection) => boolean = () => false
  /** New connections end with this. */
  refusal: Error | undefined
  greeting: Uint8Array
  /** Changes what is sent. */
  corrupt: (bytes: Uint8Array) => Uint8Array = (bytes) => bytes
  #unflushed: { readonly offset: number; readonly bytes: Uint8Array }[] = []

  constructor(given: FakeOptions) {
    this.options = given
    this.stable = new Uint8Array(given.size)
    this.content = new Uint8Array(given.size)
    this.greeting = options.encodeGreeting(given.noZeroes === false ? 1 : 3)
  }

  readonly dial: Dial = (_, reader) => {
    const connection = new FakeConnection(this, reader)
    this.connections.push(connection)
    return connection
  }

  get flags(): number {
    return this.options.flags ?? ALL_FLAGS
  }

  /** Does what `request` asks for, and answers it. */
  serve(request: FakeRequest, connection: FakeConnection): void {
    const { type, offset, length, payload } = request
    if (type === NBD_CMD.READ) return connection.sendRead(request, this.content.subarray(offset, offset + length))
    if (type === NBD_CMD.BLOCK_STATUS) return connection.sendStatus(request, [{ length, flags: 0 }])
    if (type === NBD_CMD.WRITE) this.#store(offset, payload)
    if (type === NBD_CMD.WRITE_ZEROES) this.#store(offset, new Uint8Array(length))
    if (type === NBD_CMD.TRIM) this.#store(offset, new Uint8Array(length).fill(0xdd))
    if (type === NBD_CMD.FLUSH || (request.flags & 1) !== 0) this.#flush()
    connection.sendDone(request)
  }

  /** Every connection breaks, and of what was not flushed some is lost: all of it without a generator. */
  crash(rng?: Rng): void {
    for (const connection of this.connections) connection.break(new Error("reset"))
    for (const { offset, bytes } of this.#unflushed) if (rng?.chance(0.5) === true) this.stable.set(bytes, offset)
    this.content = this.stable.slice()
    this.#unflushed = []
  }

  /** The types of the requests that have come, and their offsets. */
  get log(): readonly string[] {
    const nameOf = (type: number): string => Object.entries(NBD_CMD).find(([, number]) => number === type)?.[0] ?? `${type}`
    return this.requests.map(({ type, offset, length }) => (length === 0 ? nameOf(type) : `${nameOf(type)} ${offset}+${length}`))
  }

  #store(offset: number, bytes: Uint8Array): void {
    this.content.set(bytes, offset)
    this.#unflushed.push({ offset, bytes: bytes.slice() })
  }

  #flush(): void {
    this.stable.set(this.content)
    this.#unflushed = []
  }
}

export class FakeConnection implements Wire {
  reader: WireReader
  readonly #server: FakeServer
  #input = Buffer.alloc(0)
  #output: Uint8Array = new Uint8Array(0)
  #phase: "flags" | "options" | "requests" = "flags"
  #pending: FakeRequest[] = []
  /** A request that was refused early. */
  #refused: transmission.Request | undefined
  isOver = false
  /** NBD_CMD_DISC has come. */
  isPolite = false
  noZeroes = false
  #isStructured = false

  constructor(server: FakeServer, reader: WireReader) {
    this.#server = server
    this.reader = reader
    setImmediate(() => {
      if (server.refusal === undefined) this.send(server.greeting)
      else this.break(server.refusal)
    })
  }

  /** Bytes of a message that has not come as a whole. */
  get unread(): number {
    return this.#input.length
  }

  write(buffers: readonly Uint8Array[]): void {
    this.#input = Buffer.concat([this.#input, ...buffers])
    setImmediate(() => this.#process())
  }

  startTls(): Promise<void> {
    return Promise.resolve()
  }

  end(): void {
    this.isOver = true
    this.#process()
  }

  destroy(): void {
    this.isOver = true
  }

  break(error?: Error): void {
    if (this.isOver) return
    this.isOver = true
    this.reader.ended(error)
  }

  /** Queues bytes for the client. */
  send(...parts: readonly Uint8Array[]): void {
    this.#output = Buffer.concat([this.#output, this.#server.corrupt(Buffer.concat(parts))])
    setImmediate(() => this.#deliver())
  }

  sendDone(request: transmission.Request, error = 0): void {
    const isStructured = this.#isStructured && (this.#server.options.rng?.chance(0.5) ?? true)
    if (isStructured && error === 0) return this.sendChunk(request, { type: 0, isDone: true })
    if (isStructured) {
      return this.sendChunk(request, { type: 0x8001, isDone: true, payload: transmission.encodeErrorChunk({ error, message: "no" }) })
    }
    const bytes = new Uint8Array(NBD_SIZE.simpleReply)
    transmission.writeSimpleReply(viewOf(bytes), 0, { ...request, error })
    this.send(bytes)
  }

  /** An error, in the form that the request may have. */
  sendError(request: transmission.Request, error: number): void {
    if (!this.#isStructured) return this.sendDone(request, error)
    this.sendChunk(request, { type: 0x8001, isDone: true, payload: transmission.encodeErrorChunk({ error, message: "no" }) })
  }

  sendRead(request: FakeRequest, data: Uint8Array): void {
    if (!this.#isStructured) {
      this.sendDone(request)
      return this.send(data.slice())
    }
    const { rng } = this.#server.options
    const pieces: { at: number; end: number }[] = []
    for (let at = 0; at < data.length;) {
      const end = rng === undefined ? data.length : Math.min(data.length, at + 1 + rng.below(rng.pick([100, 5000, data.length])))
      pieces.push({ at, end })
      at = end
    }
    rng?.shuffle(pieces)
    for (const { at, end } of pieces) this.#sendPiece(request, data.subarray(at, end), at)
    this.sendChunk(request, { type: 0, isDone: true })
  }

  sendStatus(request: FakeRequest, extents: readonly transmission.StatusExtent[], contextId = 7): void {
    this.sendChunk(request, { type: 5, isDone: true, payload: transmission.encodeBlockStatus({ contextId, extents }) })
  }

  sendChunk(
    { cookieHigh, cookieLow }: transmission.Cookie,
    chunk: { readonly type: number; readonly isDone: boolean; readonly payload?: Uint8Array },
  ): void {
    const { type, isDone, payload = new Uint8Array(0) } = chunk
    const header = new Uint8Array(NBD_SIZE.chunkHeader)
    const flags = isDone ? 1 : 0
    transmission.writeChunkHeader(viewOf(header), 0, { flags, type, cookieHigh, cookieLow, length: payload.length })
    this.send(header, payload)
  }

  #sendPiece(request: FakeRequest, bytes: Uint8Array, at: number): void {
    const offset = Buffer.alloc(8)
    offset.writeBigUInt64BE(BigInt(request.offset + at))
    const length = Buffer.alloc(4)
    length.writeUInt32BE(bytes.length)
    const isHole = bytes.every((byte) => byte === 0)
    this.sendChunk(request, { type: isHole ? 2 : 1, isDone: false, payload: Buffer.concat([offset, isHole ? length : bytes]) })
  }

  #deliver(): void {
    const { rng } = this.#server.options
    while (this.#output.length > 0 && !this.isOver) {
      const target = this.reader.target()
      const most = Math.min(target.length, this.#output.length)
      const count = rng === undefined ? most : Math.min(most, 1 + rng.below(rng.pick([1, 30, 3000, 1 << 20])))
      target.set(this.#output.subarray(0, count))
      this.#output = this.#output.subarray(count)
      this.reader.received(target, count)
    }
  }

  #process(): void {
    for (;;) {
      const before = this.#input.length
      if (this.#phase === "flags") this.#takeFlags()
      else if (this.#phase === "options") this.#takeOption()
      else this.#takeRequest()
      if (this.#input.length === before) break
    }
  }

  #take(length: number): Uint8Array {
    const bytes = this.#input.subarray(0, length)
    this.#input = this.#input.subarray(length)
    return bytes
  }

  #takeFlags(): void {
    if (this.#input.length < 4) return
    this.noZeroes = (this.#take(4)[3] ?? 0) >= 2
    this.#phase = "options"
  }

  #takeOption(): void {
    if (this.#input.length < 16) return
    const { option, length } = options.decodeOptionHeader(this.#input.subarray(0, 16))
    if (this.#input.length < 16 + length) return
    this.#take(16)
    const data = this.#take(length)
    if (!this.#server.answerOption(option, data, this)) this.#answerOption(option)
  }

  #answerOption(option: number): void {
    const { size, blockSizes, structured = true, context = true, knowsGo = true } = this.#server.options
    const reply = (type: number, data?: Uint8Array): void => this.send(options.encodeOptionReply(option, type, data))
    const info = { size, flags: this.#server.flags }
    switch (option) {
      case NBD_OPT.STRUCTURED_REPLY:
        this.#isStructured = structured
        return reply(structured ? NBD_REP.ACK : NBD_REP.ERR_UNSUP)
      case NBD_OPT.SET_META_CONTEXT:
        if (context) reply(NBD_REP.META_CONTEXT, options.encodeMetaContext({ id: 7, name: "base:allocation" }))
        return reply(NBD_REP.ACK)
      case NBD_OPT.GO:
        if (!knowsGo) return reply(NBD_REP.ERR_UNSUP)
        if (blockSizes !== undefined) reply(NBD_REP.INFO, options.encodeInfoBlockSize(blockSizes))
        reply(NBD_REP.INFO, options.encodeInfoText(NBD_INFO.DESCRIPTION, "a disk"))
        reply(NBD_REP.INFO, options.encodeInfoExport(info))
        this.#phase = "requests"
        return reply(NBD_REP.ACK)
      case NBD_OPT.EXPORT_NAME:
        this.#phase = "requests"
        return this.send(options.encodeExportName(info, { zeroes: !this.noZeroes }))
      case NBD_OPT.STARTTLS:
        return reply(NBD_REP.ACK)
      default:
        return reply(NBD_REP.ERR_UNSUP)
    }
  }

  #takeRequest(): void {
    if (this.#input.length < NBD_SIZE.request) return
    const request = transmission.readRequest(viewOf(this.#input), 0)
    const length = request.type === NBD_CMD.WRITE ? request.length : 0
    const error = this.#refused === undefined ? this.#server.refuseEarly(request) : undefined
    if (error !== undefined) {
      this.#refused = request
      this.sendError(request, error)
    }
    if (this.#input.length < NBD_SIZE.request + length) return
    this.#take(NBD_SIZE.request)
    const whole = { ...request, payload: this.#take(length) }
    if (this.#refused !== undefined) return void (this.#refused = undefined)
    this.#server.requests.push(whole)
    if (request.type === NBD_CMD.DISC) {
      this.isPolite = true
      return
    }
    this.#pending.push(whole)
    setImmediate(() => this.#serveOne())
  }

  /** Any one of those that wait: a server may serve them in any order. */
  #serveOne(): void {
    if (this.isOver) return
    const { rng } = this.#server.options
    const [request] = this.#pending.splice(rng === undefined ? 0 : rng.below(this.#pending.length), 1)
    if (request !== undefined) this.#server.answer(request, this)
  }
}

/**
 * A clock that stands still but for short waits, which are over at once: the pauses between two tries. Longer ones are over when the test
 * says so.
 */
export class FakeTimer implements Timer {
  #now = 0
  #waiting: { readonly at: number; readonly task: () => void }[] = []
  /** Delays asked for. */
  readonly delays: number[] = []

  now(): number {
    return this.#now
  }

  after(delay: number, task: () => void): () => void {
    this.delays.push(delay)
    const entry = { at: this.#now + delay, task }
    this.#waiting.push(entry)
    if (delay <= 5000) setImmediate(() => this.advance(Math.max(0, entry.at - this.#now), entry))
    return () => {
      this.#waiting = this.#waiting.filter((other) => other !== entry)
    }
  }

  /** Lets time pass, and runs what is due; with `only`, nothing else. */
  advance(milliseconds: number, only?: { readonly at: number; readonly task: () => void }): void {
    this.#now += milliseconds
    const due = this.#waiting.filter((entry) => entry.at <= this.#now && (only === undefined || entry === only))
    this.#waiting = this.#waiting.filter((entry) => !due.includes(entry))
    for (const { task } of due) task()
  }
}
