/**
 * One round of damage to what an NBD server sends, in the handshake or later: a byte changed, bytes left out, doubled or put in, a length
 * that lies, a connection that ends. The client's work ends with data or with a `BackingError`, and no byte beside the buffers changes.
 */
import { NbdClient } from "../../../src/backing/nbd/client/client.ts"
import { BlockAccess } from "../../../src/backing/nbd/client/block-access.ts"
import { nbdSettings } from "../../../src/backing/nbd/client/options.ts"
import { parseNbdUri } from "../../../src/backing/nbd/client/uri.ts"
import { NbdDisk } from "../../../src/backing/nbd/nbd-disk.ts"
import { BackingError } from "../../../src/backing/backing.ts"
import { FakeServer, FakeTimer, tick } from "../../backing/nbd/fake-server.ts"
import type { Rng } from "../../support/rng.ts"

export type Outcome = "refused" | "failed" | "unharmed"

const SIZE = 256 * 1024
const GUARD = 64
/** Turns of the event loop that any work is through in, time-outs included. */
const MOST_TURNS = 200_000

export async function nbdClientRound(rng: Rng): Promise<Outcome> {
  const server = new FakeServer({ size: SIZE, rng, structured: rng.chance(0.7), context: rng.chance(0.7), knowsGo: rng.chance(0.8) })
  server.content.set(rng.bytes(SIZE))
  damage(server, rng)
  const timer = new FakeTimer()
  const settings = nbdSettings("fuzz", { requestTimeout: 20_000, reconnectTimeout: rng.pick([0, 3000]), connections: rng.pick([1, 2]) })
  const opening = NbdClient.open(parseNbdUri("nbd://fuzz"), settings, { dial: server.dial, timer })
  const client = await settled(opening, timer)
  if (client instanceof BackingError) return "refused"
  const disk = new NbdDisk(new BlockAccess(client, settings), "nbd://fuzz", settings)
  const results = await settled(Promise.all(Array.from({ length: 12 }, () => operation(disk, rng))), timer)
  await settled(disk.close(), timer)
  if (results instanceof BackingError) throw results
  return results.includes("failed") ? "failed" : "unharmed"
}

/** Changes one message, the n-th one that is sent, and now and then later ones too. */
function damage(server: FakeServer, rng: Rng): void {
  let left = rng.below(rng.chance(0.4) ? 12 : 60)
  server.corrupt = (bytes) => {
    if (left-- > 0) return bytes
    left = rng.chance(0.2) ? rng.below(20) : Number.POSITIVE_INFINITY
    return damaged(bytes, rng, () => {
      for (const connection of server.connections) connection.break(new Error("cut"))
    })
  }
}

function damaged(given: Uint8Array, rng: Rng, cut: () => void): Uint8Array {
  const bytes = Buffer.from(given)
  // Headers rather than payload.
  const at = rng.below(Math.min(bytes.length, rng.pick([8, 32, 64])) + 1)
  switch (rng.below(7)) {
    case 0:
      if (at < bytes.length) bytes[at] = (bytes[at] ?? 0) ^ (1 << rng.below(8))
      return bytes
    case 1:
      return Buffer.concat([bytes.subarray(0, at), bytes.subarray(Math.min(bytes.length, at + 1 + rng.below(40)))])
    case 2:
      return Buffer.concat([bytes, bytes.subarray(at)])
    case 3:
      return Buffer.concat([bytes.subarray(0, at), rng.bytes(1 + rng.below(100)), bytes.subarray(at)])
    case 4:
      if (at + 4 <= bytes.length) bytes.writeUInt32BE(rng.pick([0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, SIZE, rng.u32()]), at)
      return bytes
    case 5:
      if (at + 2 <= bytes.length) bytes.writeUInt16BE(rng.pick([0, 1, 2, 5, 0x8001, 0x8002, 0xffff]), at)
      return bytes
    default:
      setImmediate(cut)
      return bytes.subarray(0, at)
  }
}

async function operation(disk: NbdDisk, rng: Rng): Promise<"failed" | "done"> {
  const length = rng.between(1, rng.pick([512, 5000, 150_000]))
  const offset = rng.below(SIZE - length)
  const around = new Uint8Array(length + 2 * GUARD).fill(0xaa)
  const buffer = around.subarray(GUARD, GUARD + length)
  try {
    const roll = rng.below(10)
    if (roll < 5) await disk.pread(buffer, offset)
    else if (roll < 7) await disk.pwrite(buffer, offset)
    else if (roll < 8) await disk.writeZeroes?.(offset, length, true)
    else if (roll < 9) await disk.flush?.()
    else checkStatus(await disk.blockStatus(offset, length), offset, length)
    return "done"
  } catch (error) {
    if (error instanceof BackingError) return "failed"
    throw error
  } finally {
    const isTouched = (bytes: Uint8Array): boolean => bytes.some((byte) => byte !== 0xaa)
    if (isTouched(around.subarray(0, GUARD)) || isTouched(around.subarray(GUARD + length))) {
      throw new Error("a byte beside the buffer changed")
    }
  }
}

/** Whatever the server says, the extents lie in the range, one behind the other. */
function checkStatus(extents: Awaited<ReturnType<NbdDisk["blockStatus"]>>, start: number, length: number): void {
  let at = start
  for (const extent of extents) {
    if (extent.offset !== at || extent.length < 1) throw new Error(`an extent at ${extent.offset} of ${extent.length} bytes behind ${at}`)
    at += extent.length
  }
  if (at > start + length || at === start) throw new Error(`extents from ${start} to ${at} for ${length} bytes`)
}

/** What `work` resolves to, or the BackingError that it rejects with. Lets time pass where nothing else happens. */
async function settled<T>(work: Promise<T>, timer: FakeTimer): Promise<T | BackingError> {
  let result: { readonly value: T } | { readonly error: unknown } | undefined
  work.then(
    (value) => { result = { value } },
    (error: unknown) => { result = { error } },
  )
  for (let turn = 0; result === undefined; turn++) {
    if (turn > MOST_TURNS) throw new Error("the work does not end")
    await tick()
    if (turn % 200 === 199) timer.advance(25_000)
  }
  if ("value" in result) return result.value
  if (result.error instanceof BackingError) return result.error
  throw result.error
}
