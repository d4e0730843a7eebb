/** Random chains for requests, laid out in guest RAM, and damage to them: each kind of damage says what must come of it. */
import type { Rng } from "../support/rng.ts"
import { RingGuest } from "../harness/guest.ts"
import type { Piece } from "../harness/ring.ts"
import { INDIRECT, NEXT, WRITE } from "../harness/words.ts"
import { type FuzzRequest, readableBytes } from "./ring-requests.ts"

/** What a writable byte holds before the device has written it. */
export const STALE = 0xa5

/** One descriptor, and where it lies. */
export interface Entry extends Piece {
  /** Guest-physical address of the descriptor. */
  readonly at: number
  /** Its index in its table, and the number of entries there. */
  readonly index: number
  readonly entries: number
  readonly isIndirect: boolean
}

export interface Chain {
  readonly head: number
  /** Those with data, in order. */
  readonly entries: readonly Entry[]
  /** Address of the descriptor that refers to the indirect table, and the bytes of the table. */
  readonly referrer: { readonly at: number; readonly bytes: number } | undefined
}

/** Cuts `bytes` into stretches of RAM of their own, empty ones among them. */
export function scatter(guest: RingGuest, rng: Rng, bytes: Uint8Array, writable: boolean): Piece[] {
  const pieces: Piece[] = []
  const empty = () => rng.chance(0.1) && pieces.push({ address: rng.pick([0n, 0x1000n, 0xffff_ffff_ffff_ffffn]), length: 0, writable })
  for (let done = 0; done < bytes.length; ) {
    empty()
    const length = pieces.length > 5
      ? bytes.length - done
      : Math.min(rng.pick([1, 15, 16, rng.between(1, 600), bytes.length]), bytes.length - done)
    const address = guest.alloc(length)
    guest.store(address, bytes.subarray(done, done + length))
    pieces.push({ address, length, writable })
    done += length
  }
  empty()
  return pieces
}

/** Lays `request` out as a chain. */
export function layOut(guest: RingGuest, rng: Rng, request: FuzzRequest, indirect: boolean): Chain {
  const pieces = [
    ...scatter(guest, rng, readableBytes(request), false),
    ...scatter(guest, rng, new Uint8Array(request.in + 1).fill(STALE), true)
  ]
  const direct = !indirect || rng.chance(0.4) ? pieces.length : rng.below(Math.min(pieces.length, 4))
  const { ring } = guest
  const take = () => ring.nextDesc++ % ring.size
  const head = ring.nextDesc % ring.size
  const entries: Entry[] = []
  for (const [at, piece] of pieces.slice(0, direct).entries()) {
    const index = take()
    const isLast = at === pieces.length - 1
    guest.desc(
      index,
      piece.address,
      piece.length,
      (piece.writable ? WRITE : 0) | (isLast ? 0 : NEXT),
      isLast ? rng.below(65536) : ring.nextDesc % ring.size,
    )
    entries.push({ ...piece, at: ring.desc + 16 * index, index, entries: ring.size, isIndirect: false })
  }
  if (direct === pieces.length) return { head, entries, referrer: undefined }
  const rest = pieces.slice(direct)
  const table = guest.alloc(16 * rest.length + 16)
  const order = [0, ...rng.shuffle(Array.from({ length: rest.length - 1 }, (_, at) => at + 1))]
  for (const [at, piece] of rest.entries()) {
    const index = order[at] ?? 0
    const next = order[at + 1]
    guest.writeEntry(
      table,
      index,
      piece.address,
      piece.length,
      (piece.writable ? WRITE : 0) | (next === undefined ? 0 : NEXT),
      next ?? rng.below(65536),
    )
    entries.push({ ...piece, at: table + 16 * index, index, entries: rest.length, isIndirect: true })
  }
  const index = take()
  guest.desc(index, table, 16 * rest.length, INDIRECT | (rng.chance(0.2) ? WRITE : 0), rng.below(65536))
  return { head, entries, referrer: { at: ring.desc + 16 * index, bytes: 16 * rest.length } }
}

/** "broken": the device must say so. "same": nothing must change. undefined: this kind of damage does not fit this chain. */
export type Verdict = "broken" | "same" | undefined
export type Damage = (guest: RingGuest, rng: Rng, chain: Chain) => Verdict

const flags = (guest: RingGuest, at: number) => guest.data.getUint16(at + 12, true)
const setFlags = (guest: RingGuest, at: number, value: number) => guest.data.setUint16(at + 12, value, true)
const setNext = (guest: RingGuest, at: number, value: number) => guest.data.setUint16(at + 14, value, true)
const setLength = (guest: RingGuest, at: number, value: number) => guest.data.setUint32(at + 8, value, true)
const setAddress = (guest: RingGuest, at: number, value: bigint) => guest.data.setBigUint64(at, value, true)

/** Those of the ring's own table that lead on, and those of the indirect one. */
const leading = (guest: RingGuest, chain: Chain) => chain.entries.filter(({ at }) => (flags(guest, at) & NEXT) !== 0)
const filled = (chain: Chain) => chain.entries.filter(({ length }) => length > 0)

function picked<E>(rng: Rng, entries: readonly E[]): E | undefined {
  return entries.length === 0 ? undefined : rng.pick(entries)
}

export const damages: Readonly<Record<string, Damage>> = {
  "next beyond the table": (guest, rng, chain) => {
    const entry = picked(rng, leading(guest, chain))
    if (entry === undefined) return undefined
    setNext(guest, entry.at, rng.pick([entry.entries, entry.entries + 1, 0x8000, 0xffff]))
    return "broken"
  },
  "the end leads back": (guest, rng, chain) => {
    const last = chain.entries.at(-1)
    const back = picked(rng, chain.entries.filter(({ isIndirect }) => isIndirect === last?.isIndirect))
    if (last === undefined || back === undefined) return undefined
    setFlags(guest, last.at, flags(guest, last.at) | NEXT)
    setNext(guest, last.at, back.index)
    return "broken"
  },
  "a descriptor points to itself": (guest, rng, chain) => {
    const entry = rng.pick(chain.entries)
    setFlags(guest, entry.at, flags(guest, entry.at) | NEXT)
    setNext(guest, entry.at, entry.index)
    return "broken"
  },
  "INDIRECT on a descriptor of data": (guest, rng, chain) => {
    const entry = rng.pick(chain.entries)
    setFlags(guest, entry.at, flags(guest, entry.at) | INDIRECT)
    return "broken"
  },
  "a table of a wrong length": (guest, rng, { referrer }) => {
    if (referrer === undefined) return undefined
    setLength(
      guest,
      referrer.at,
      rng.pick([0, 1, 15, referrer.bytes + 1, referrer.bytes + 8, referrer.bytes - 16, 0xffff_fff0, 0xffff_ffff]),
    )
    return "broken"
  },
  "a table with an entry too many": (guest, _, { referrer }) => {
    if (referrer === undefined) return undefined
    setLength(guest, referrer.at, referrer.bytes + 16)
    return "same"
  },
  "NEXT on the descriptor of a table": (guest, rng, { referrer }) => {
    if (referrer === undefined) return undefined
    setFlags(guest, referrer.at, flags(guest, referrer.at) | NEXT)
    setNext(guest, referrer.at, rng.below(guest.ring.size))
    return "broken"
  },
  "WRITE on the descriptor of a table": (guest, _, { referrer }) => {
    if (referrer === undefined) return undefined
    setFlags(guest, referrer.at, flags(guest, referrer.at) ^ WRITE)
    return "same"
  },
  "a table elsewhere": (guest, rng, { referrer }) => {
    if (referrer === undefined) return undefined
    setAddress(guest, referrer.at, farAway(guest, rng, referrer.bytes))
    return "broken"
  },
  "an address outside of RAM": (guest, rng, chain) => {
    const entry = rng.pick(chain.entries)
    setAddress(guest, entry.at, farAway(guest, rng, entry.length))
    return entry.length === 0 ? "same" : "broken"
  },
  "a length beyond RAM": (guest, rng, chain) => {
    const entry = rng.pick(filled(chain))
    setLength(guest, entry.at, rng.pick([guest.machine.ram.length, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]))
    return "broken"
  },
  "WRITE on what is read, before the end of it": (guest, rng, chain) => {
    const readable = filled(chain).filter(({ writable }) => !writable)
    const entry = picked(rng, readable.slice(0, -1))
    if (entry === undefined) return undefined
    setFlags(guest, entry.at, flags(guest, entry.at) | WRITE)
    return "broken"
  },
  "no WRITE on what is written, behind other such": (guest, rng, chain) => {
    const writable = filled(chain).filter((entry) => entry.writable)
    const entry = writable.length === 1 ? writable[0] : picked(rng, writable.slice(1))
    if (entry === undefined) return undefined
    setFlags(guest, entry.at, flags(guest, entry.at) & ~WRITE)
    return "broken"
  },
  "the chain ends before anything can be written": (guest, rng, chain) => {
    const entry = picked(rng, chain.entries.filter(({ writable, isIndirect }) => !writable && (isIndirect || chain.referrer === undefined)))
    if (entry === undefined) return undefined
    setFlags(guest, entry.at, flags(guest, entry.at) & ~NEXT)
    return "broken"
  },
  "a header of 15 bytes": (guest, _, chain) => {
    const readable = filled(chain).filter(({ writable }) => !writable)
    const last = readable.at(-1)
    if (last === undefined || readable.reduce((sum, { length }) => sum + length, 0) !== 16) return undefined
    setLength(guest, last.at, last.length - 1)
    return "broken"
  },
  "junk in flags that mean nothing": (guest, rng, chain) => {
    const entry = rng.pick(chain.entries)
    setFlags(guest, entry.at, flags(guest, entry.at) | (rng.below(0x1000) << 3))
    return "same"
  },
}

/** An address at which `length` bytes are not all RAM. */
export function farAway(guest: RingGuest, rng: Rng, length: number): bigint {
  const size = BigInt(guest.machine.ram.length)
  return rng.pick([
    size,
    size - BigInt(length) + 1n,
    size + BigInt(rng.u32()),
    1n << 32n,
    (1n << 32n) + 0x1000n,
    (1n << 53n) + 8n,
    1n << 63n,
    (1n << 64n) - BigInt(length),
    (1n << 64n) - 1n,
  ])
}
