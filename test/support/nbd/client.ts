/** An NBD client that builds messages byte by byte, valid or invalid. Numbers are typed from the protocol's document. */
import { once } from "node:events"
import { connect, type Socket } from "node:net"
import { connect as connectTls } from "node:tls"
import { onTestFinished } from "vitest"

export const OPT = {
  exportName: 1, abort: 2, list: 3, starttls: 5, info: 6, go: 7, structuredReply: 8, listMetaContext: 9, setMetaContext: 10,
} as const
export const REP = { ack: 1, server: 2, info: 3, metaContext: 4 } as const
export const REP_ERR = {
  unsup: 1, policy: 2, invalid: 3, platform: 4, tlsReqd: 5, unknown: 6, shutdown: 7, blockSizeReqd: 8, tooBig: 9,
} as const
export const CMD = { read: 0, write: 1, disc: 2, flush: 3, trim: 4, cache: 5, writeZeroes: 6, blockStatus: 7 } as const
export const CMD_FLAG = { fua: 1, noHole: 2, df: 4, reqOne: 8, fastZero: 16 } as const
export const EXPORT_FLAG = {
  hasFlags: 1, readOnly: 2, flush: 4, fua: 8, rotational: 16, trim: 32, writeZeroes: 64, df: 128, multiConn: 256, cache: 1024,
  fastZero: 2048,
} as const
export const ERROR = { perm: 1, io: 5, nomem: 12, inval: 22, nospc: 28, overflow: 75, notsup: 95, shutdown: 108 } as const

/** A reply to an option. `error` is the error of a `REP_ERR`. */
export interface OptionReply {
  readonly option: number
  readonly type: number
  readonly error: number | undefined
  readonly data: Buffer
}

/** A simple reply (its data has to be read separately), or a chunk of a structured one. */
export type Reply =
  | { readonly kind: "simple"; readonly error: number; readonly cookie: bigint }
  | { readonly kind: "chunk"; readonly isLast: boolean; readonly type: number; readonly cookie: bigint; readonly data: Buffer }

export interface Command {
  readonly type: number
  readonly flags?: number
  readonly cookie?: bigint
  readonly offset?: number | bigint
  readonly length?: number
  readonly magic?: number
  /** The bytes after the header. */
  readonly payload?: Uint8Array
}

export class NbdClient {
  #socket: Socket
  #received: Buffer[] = []
  #length = 0
  #isEnded = false
  #wake: () => void = () => {}

  private constructor(socket: Socket) {
    this.#socket = socket
    this.#listen(socket)
  }

  /** A connected client, which ends when the test has finished. */
  static async connect(where: { readonly path: string } | { readonly port: number }): Promise<NbdClient> {
    const socket = connect({ ...where, allowHalfOpen: true })
    socket.on("error", () => {})
    onTestFinished(() => void socket.destroy())
    await once(socket, "connect")
    return new NbdClient(socket)
  }

  #listen(socket: Socket): void {
    socket.on("data", (bytes) => {
      this.#received.push(bytes)
      this.#length += bytes.length
      this.#wake()
    })
    const end = (): void => {
      this.#isEnded = true
      this.#wake()
    }
    socket.on("end", end).on("close", end)
  }

  send(...parts: readonly Uint8Array[]): void {
    this.#socket.write(Buffer.concat(parts))
  }

  /** Ends sending, but still reads. */
  endWriting(): void {
    this.#socket.end()
  }

  destroy(): void {
    this.#socket.destroy()
  }

  /** Stops reading. */
  pause(): void {
    this.#socket.pause()
  }

  resume(): void {
    this.#socket.resume()
  }

  /** The next `length` bytes. Rejects when the server ends before. */
  async read(length: number): Promise<Buffer> {
    while (this.#length < length) {
      if (this.#isEnded) throw new Error(`the server ended the connection; ${length} bytes were wanted and ${this.#length} came`)
      await new Promise<void>((resolve) => void (this.#wake = resolve))
    }
    const [first = Buffer.alloc(0)] = this.#received
    const all = first.length >= length ? first : Buffer.concat(this.#received)
    if (all === first) {
      this.#received[0] = first.subarray(length)
      this.#length -= length
      return first.subarray(0, length)
    }
    this.#received = [all.subarray(length)]
    this.#length -= length
    return all.subarray(0, length)
  }

  /** Waits until the server ends the connection. Returns the bytes before that. */
  async rest(): Promise<Buffer> {
    while (!this.#isEnded) await new Promise<void>((resolve) => void (this.#wake = resolve))
    return this.read(this.#length)
  }

  /** The greeting, and our flags: fixed newstyle without zeroes. Returns the server's flags. */
  async greet(flags = 3): Promise<number> {
    const greeting = await this.read(18)
    if (greeting.toString("latin1", 0, 16) !== "NBDMAGICIHAVEOPT") throw new Error("no greeting")
    this.send(u32(flags))
    return greeting.readUInt16BE(16)
  }

  sendOption(option: number, data: Uint8Array = new Uint8Array(0)): void {
    this.send(Buffer.from("IHAVEOPT"), u32(option, data.length), data)
  }

  async optionReply(): Promise<OptionReply> {
    const header = await this.read(20)
    if (header.readBigUInt64BE(0) !== 0x3_e889_0455_65a9n) throw new Error("no reply to an option")
    const [option, type] = [header.readUInt32BE(8), header.readUInt32BE(12)]
    const error = type >= 2 ** 31 ? type - 2 ** 31 : undefined
    return { option, type, error, data: await this.read(header.readUInt32BE(16)) }
  }

  /** Sends an option, and returns all replies to it; the last one is an acknowledgement or an error. */
  async option(option: number, data?: Uint8Array): Promise<OptionReply[]> {
    this.sendOption(option, data)
    const replies: OptionReply[] = []
    for (;;) {
      const reply = await this.optionReply()
      replies.push(reply)
      if (reply.type === REP.ack || reply.error !== undefined) return replies
    }
  }

  /** Switches to TLS. */
  async startTls(options: { readonly ca: string; readonly cert?: string; readonly key?: string }): Promise<void> {
    const [reply] = await this.option(OPT.starttls)
    if (reply?.type !== REP.ack) throw new Error("no TLS")
    this.#socket.removeAllListeners("data")
    const secure = connectTls({ socket: this.#socket, servername: "localhost", ...options })
    secure.on("error", () => void (this.#isEnded = true))
    await once(secure, "secureConnect")
    this.#socket = secure
    this.#listen(secure)
  }

  /** From the greeting to the transmission phase. Returns size and flags of the export. */
  async go(
    name = "", options: { readonly structured?: boolean; readonly status?: boolean } = {},
  ): Promise<{ size: bigint; flags: number }> {
    await this.greet()
    if (options.structured === true || options.status === true) await this.option(OPT.structuredReply)
    if (options.status === true) await this.option(OPT.setMetaContext, metaContext(name, "base:allocation"))
    const replies = await this.option(OPT.go, info(name))
    const data = replies.find(({ type }) => type === REP.info)?.data
    if (data === undefined) throw new Error(`no export: ${replies.at(-1)?.data.toString() ?? ""}`)
    return { size: data.readBigUInt64BE(2), flags: data.readUInt16BE(10) }
  }

  sendCommand({ type, flags = 0, cookie = 1n, offset = 0, length = 0, magic = 0x2560_9513, payload = new Uint8Array(0) }: Command): void {
    const header = Buffer.alloc(28)
    header.writeUInt32BE(magic, 0)
    header.writeUInt16BE(flags, 4)
    header.writeUInt16BE(type, 6)
    header.writeBigUInt64BE(cookie, 8)
    header.writeBigUInt64BE(BigInt(offset), 16)
    header.writeUInt32BE(length, 24)
    this.send(header, payload)
  }

  async reply(): Promise<Reply> {
    const magic = (await this.read(4)).readUInt32BE()
    if (magic === 0x6744_6698) {
      const rest = await this.read(12)
      return { kind: "simple", error: rest.readUInt32BE(0), cookie: rest.readBigUInt64BE(4) }
    }
    if (magic !== 0x668e_33ef) throw new Error(`no reply begins with ${magic.toString(16)}`)
    const rest = await this.read(16)
    const [flags, type] = [rest.readUInt16BE(0), rest.readUInt16BE(2)]
    return { kind: "chunk", isLast: flags === 1, type, cookie: rest.readBigUInt64BE(4), data: await this.read(rest.readUInt32BE(12)) }
  }

  /** Sends a command whose reply has no data. Returns the error, or 0. */
  async perform(command: Command): Promise<number> {
    this.sendCommand(command)
    return errorOf(await this.reply())
  }

  /** Reads by simple replies. */
  async readDisk(offset: number, length: number, flags = 0): Promise<Buffer> {
    const error = await this.perform({ type: CMD.read, offset, length, flags })
    if (error !== 0) throw new Error(`error ${error}`)
    return this.read(length)
  }
}

/** The error in a reply without data; 0 if there is none. */
export function errorOf(reply: Reply): number {
  if (reply.kind === "simple") return reply.error
  return reply.type >= 0x8000 ? reply.data.readUInt32BE(0) : 0
}

export function u16(...values: readonly number[]): Buffer {
  const bytes = Buffer.alloc(values.length * 2)
  values.forEach((value, index) => bytes.writeUInt16BE(value, index * 2))
  return bytes
}

export function u32(...values: readonly number[]): Buffer {
  const bytes = Buffer.alloc(values.length * 4)
  values.forEach((value, index) => bytes.writeUInt32BE(value, index * 4))
  return bytes
}

export function text(value: string): Buffer {
  return Buffer.concat([u32(Buffer.byteLength(value)), Buffer.from(value)])
}

/** The data of INFO and GO. */
export function info(name: string, ...requests: readonly number[]): Buffer {
  return Buffer.concat([text(name), u16(requests.length), u16(...requests)])
}

/** The data of LIST_META_CONTEXT and SET_META_CONTEXT. */
export function metaContext(name: string, ...queries: readonly string[]): Buffer {
  return Buffer.concat([text(name), u32(queries.length), ...queries.map(text)])
}

/** Fails the test if the two differ, and says where first. `toEqual` takes seconds for a MiB. */
export function expectSame(actual: Uint8Array, expected: Uint8Array): void {
  if (Buffer.compare(actual, expected) === 0) return
  const at = actual.findIndex((byte, index) => byte !== expected[index])
  throw new Error(
    `${actual.length} bytes came and ${expected.length} were expected; byte ${at} is ${actual[at]} instead of ${expected[at]}`,
  )
}
