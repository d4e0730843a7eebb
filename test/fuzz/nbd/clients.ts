/**
 * Hostile clients for the NBD server: a handshake with one byte changed, requests of which each may be right or wrong in one way, packets
 * cut anywhere, and garbage. What is answered is predicted from the protocol's document, and the disk is compared with a model.
 */
import { setImmediate as turn } from "node:timers/promises"
import type { NbdServer } from "../../../src/backing/nbd/server/server.ts"
import { FakeDisk } from "../../harness/fake-disk.ts"
import {
  CMD, CMD_FLAG, type Command, ERROR, errorOf, expectSame, info, metaContext, NbdClient, OPT, u32,
} from "../../support/nbd/client.ts"
import type { Rng } from "../../support/rng.ts"

const SIZE = 300_000

/** A server over one disk, and what the disk should hold. */
export interface FuzzedServer {
  readonly server: NbdServer
  readonly disk: FakeDisk
  readonly model: Uint8Array
  connect(): Promise<NbdClient>
}

export function fuzzedDisk(): { readonly disk: FakeDisk; readonly model: Uint8Array } {
  return { disk: new FakeDisk({ size: SIZE }), model: new Uint8Array(SIZE) }
}

/** One client. Returns what it did. @throws Error when an answer or the disk is not what it should be */
export async function fuzzRound(target: FuzzedServer, rng: Rng): Promise<"handshake" | "garbage" | "requests"> {
  const kind = rng.pick(["handshake", "garbage", "requests", "requests"] as const)
  const client = await target.connect()
  if (kind === "handshake") await hostileHandshake(client, rng)
  else if (kind === "garbage") await garbage(client, rng)
  else await requests(target, client, rng)
  client.destroy()
  while (target.server.clients > 0) await turn()
  expectSame(target.disk.cache, target.model)
  return kind
}

/** Sends `bytes` in packets of any size. */
function sendCut(client: NbdClient, bytes: Uint8Array, rng: Rng): void {
  for (let at = 0; at < bytes.length;) {
    const length = rng.chance(0.3) ? rng.between(1, 20) : rng.between(1, bytes.length)
    client.send(bytes.subarray(at, at + length))
    at += length
  }
}

/** A right handshake with a byte or some changed, cut off or made longer. Whatever it is, the server goes on with others. */
async function hostileHandshake(client: NbdClient, rng: Rng): Promise<void> {
  const option = (number: number, data: Uint8Array): Uint8Array => Buffer.concat([Buffer.from("IHAVEOPT"), u32(number, data.length), data])
  const options = [
    option(OPT.list, Buffer.alloc(0)), option(OPT.structuredReply, Buffer.alloc(0)), option(OPT.info, info("", 0, 1, 2, 3)),
    option(OPT.listMetaContext, metaContext("", "base:", "x:")), option(OPT.setMetaContext, metaContext("", "base:allocation")),
    option(OPT.starttls, Buffer.alloc(0)), option(rng.u32(), rng.bytes(rng.below(300))), option(OPT.abort, Buffer.alloc(0)),
    option(OPT.go, info("")), option(OPT.exportName, Buffer.alloc(0)),
  ]
  const count = rng.between(1, 12)
  const bytes = Buffer.concat([u32(3), ...Array.from({ length: count }, () => rng.pick(options))])
  for (let changes = rng.below(4); changes > 0; changes--) bytes[rng.below(bytes.length)] = rng.below(256)
  sendCut(client, rng.chance(0.2) ? bytes.subarray(0, rng.below(bytes.length)) : bytes, rng)
  client.endWriting()
  await client.rest()
}

/** Nothing of NBD, or a right beginning and then nothing of NBD. */
async function garbage(client: NbdClient, rng: Rng): Promise<void> {
  if (rng.chance(0.5)) await client.go("", { structured: rng.chance(0.5) })
  sendCut(client, rng.bytes(rng.between(1, 5000)), rng)
  client.endWriting()
  await client.rest()
}

/** The answer that the protocol's document wants. */
function expectedError({ type, flags = 0, offset = 0, length = 0 }: Command, structured: boolean): number {
  const known = new Map<number, number>([
    [CMD.read, CMD_FLAG.fua | (structured ? CMD_FLAG.df : 0)], [CMD.write, CMD_FLAG.fua], [CMD.flush, CMD_FLAG.fua],
    [CMD.trim, CMD_FLAG.fua],
    [CMD.writeZeroes, CMD_FLAG.fua | CMD_FLAG.noHole | CMD_FLAG.fastZero],
  ]).get(type)
  if (known === undefined || (flags & ~known) !== 0) return ERROR.inval
  if (type === CMD.flush) return offset === 0 && length === 0 ? 0 : ERROR.inval
  if (BigInt(offset) + BigInt(length) > BigInt(SIZE)) return type === CMD.write || type === CMD.writeZeroes ? ERROR.nospc : ERROR.inval
  // The disk does not say that it is fast.
  return type === CMD.writeZeroes && (flags & CMD_FLAG.fastZero) !== 0 ? ERROR.notsup : 0
}

function randomCommand(rng: Rng, cookie: bigint): Command {
  const type = rng.chance(0.9) ? rng.pick([CMD.read, CMD.write, CMD.write, CMD.flush, CMD.trim, CMD.writeZeroes]) : rng.below(65_536)
  const flags = rng.chance(0.6) ? 0 : rng.chance(0.8) ? rng.pick([1, 2, 4, 16, 3]) : rng.below(65_536)
  // A type that is not known has no payload, and DISC is for another test.
  const safeType = type === CMD.disc ? CMD.flush : type
  const hasRange = safeType !== CMD.flush || rng.chance(0.1)
  const offset = !hasRange ? 0 : rng.chance(0.9) ? rng.below(SIZE) : rng.pick([SIZE, SIZE + 1, 2n ** 63n, 2n ** 64n - 1n, 2n ** 53n])
  const length = !hasRange || rng.chance(0.05) ? 0 : rng.chance(0.7) ? rng.below(3000) : rng.below(SIZE)
  const payload = safeType === CMD.write ? rng.bytes(length) : new Uint8Array(0)
  return { type: safeType, flags, cookie, offset, length, payload }
}

function apply({ type, offset = 0, length = 0, payload }: Command, model: Uint8Array): void {
  const at = Number(offset)
  if (type === CMD.write && payload !== undefined) model.set(payload, at)
  else if (type === CMD.writeZeroes) model.fill(0, at, at + length)
  // FakeDisk fills what is discarded.
  else if (type === CMD.trim) model.fill(0xdd, at, at + length)
}

/** Requests, sent several at a time, answered in their order since the disk answers at once. */
async function requests({ model }: FuzzedServer, client: NbdClient, rng: Rng): Promise<void> {
  const structured = rng.chance(0.5)
  await client.go("", { structured })
  for (let batch = rng.between(1, 5); batch > 0; batch--) {
    const commands = Array.from(
      { length: rng.between(1, 20) },
      (_, index) => randomCommand(rng, BigInt(index) + (BigInt(rng.u32()) << 32n)),
    )
    sendCut(client, Buffer.concat(commands.map(encode)), rng)
    for (const command of commands) {
      const error = expectedError(command, structured)
      if (error === 0) apply(command, model)
      const answer = await answerTo(client, command, error === 0)
      if (answer.error !== error) {
        throw new Error(
          `type ${command.type} flags ${command.flags} at ${command.offset}+${command.length}: error ${answer.error}, not ${error}`,
        )
      }
      if (command.type === CMD.read && error === 0) {
        const offset = Number(command.offset ?? 0)
        expectSame(answer.data, model.subarray(offset, offset + (command.length ?? 0)))
      }
    }
  }
}

function encode({ type, flags = 0, cookie = 0n, offset = 0, length = 0, payload = new Uint8Array(0) }: Command): Uint8Array {
  const header = Buffer.alloc(28)
  header.writeUInt32BE(0x2560_9513)
  header.writeUInt16BE(flags, 4)
  header.writeUInt16BE(type, 6)
  header.writeBigUInt64BE(cookie, 8)
  header.writeBigUInt64BE(BigInt(offset), 16)
  header.writeUInt32BE(length, 24)
  return Buffer.concat([header, payload])
}

async function answerTo(
  client: NbdClient, command: Command, isGood: boolean,
): Promise<{ readonly error: number; readonly data: Uint8Array }> {
  const { type, cookie, offset = 0, length = 0 } = command
  const data = new Uint8Array(type === CMD.read && isGood ? length : 0)
  for (let error = 0;;) {
    const reply = await client.reply()
    if (reply.cookie !== cookie) throw new Error(`an answer to ${reply.cookie} came instead of one to ${cookie}`)
    error ||= errorOf(reply)
    if (reply.kind === "simple") {
      if (type === CMD.read && error === 0) data.set(await client.read(length))
      return { error, data }
    }
    if (reply.type === 1) data.set(reply.data.subarray(8), Number(reply.data.readBigUInt64BE(0)) - Number(offset))
    if (reply.isLast) return { error, data }
  }
}
