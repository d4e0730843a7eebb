/** Random chains in a packed ring, and damage to them: each kind of damage says what must come of it. */
import { RingGuest } from "../../harness/guest.ts"
import type { Part } from "../../harness/packed-ring.ts"
import type { Piece } from "../../harness/ring.ts"
import { AVAIL, INDIRECT, NEXT, USED, WRITE } from "../../harness/words.ts"
import type { Rng } from "../../support/rng.ts"
import { farAway, scatter, STALE } from "../ring-chains.ts"
import { type FuzzRequest, readableBytes } from "../ring-requests.ts"

/** One descriptor, and where it lies. */
interface Entry extends Piece {
  /** Guest-physical address of the descriptor. */
  readonly at: number
  readonly isIndirect: boolean
}

export interface PackedChain {
  readonly id: number
  /** Of its first descriptor: the address, the slot, the wrap counter there, and the flags with which it is available. */
  readonly head: { readonly at: number; readonly slot: number; readonly wrap: boolean; readonly flags: number }
  /** Descriptors of the ring. */
  readonly slots: number
  /** Those with data, in order. */
  readonly entries: readonly Entry[]
  /** Address of the descriptor that refers to the indirect table, and the bytes of the table. */
  readonly referrer: { readonly at: number; readonly bytes: number } | undefined
}

/** Lays `request` out as a chain of at most `room` descriptors, all available but the head. Undefined when there is no room. */
export function layOut(
  guest: RingGuest, rng: Rng, request: FuzzRequest, { indirect, room }: { indirect: boolean; room: number },
): PackedChain | undefined {
  const pieces = [
    ...scatter(guest, rng, readableBytes(request), false), ...scatter(guest, rng, new Uint8Array(request.in + 1).fill(STALE), true),
  ]
  const { packedRing: ring } = guest
  const { slot, wrap } = ring.driver
  const isIndirect = indirect && rng.chance(0.5)
  const slots = isIndirect ? 1 : pieces.length
  if (slots > room) return undefined
  const table = isIndirect ? guest.alloc(16 * pieces.length, 1) : 0
  const parts: Part[] = isIndirect
    ? [{ address: table, length: 16 * pieces.length, flags: INDIRECT | (rng.chance(0.2) ? WRITE : 0) }]
    : pieces.map(({ address, length, writable }, at) => ({
      address, length, flags: (writable ? WRITE : 0) | (at === pieces.length - 1 ? 0 : NEXT),
    }))
  if (isIndirect) ring.table(pieces, table)
  const id = ring.put(parts, rng.below(0x1_0000))
  const at = (index: number) => isIndirect ? table + 16 * index : ring.desc + 16 * ((slot + index) % ring.size)
  const entries = pieces.map((piece, index) => ({ ...piece, at: at(index), isIndirect }))
  const address = ring.desc + 16 * slot
  const head = { at: address, slot, wrap, flags: flagsAt(guest, address) ^ AVAIL }
  return { id, head, slots, entries, referrer: isIndirect ? { at: address, bytes: 16 * pieces.length } : undefined }
}

/**
 * "broken": the device must say so. "idle": it must not be taken, nor what follows. "same": nothing must change. undefined: it does not
 * fit.
 */
export type Verdict = "broken" | "idle" | "same" | undefined
/** The heads are available already. */
export type Damage = (guest: RingGuest, rng: Rng, chain: PackedChain) => Verdict

export const flagsAt = (guest: RingGuest, at: number) => guest.data.getUint16(at + 14, true)
export const setFlagsAt = (guest: RingGuest, at: number, value: number) => guest.data.setUint16(at + 14, value, true)
const setLength = (guest: RingGuest, at: number, value: number) => guest.data.setUint32(at + 8, value, true)
const setAddress = (guest: RingGuest, at: number, value: bigint) => guest.data.setBigUint64(at, value, true)
const change = (guest: RingGuest, { at }: Entry, bits: number) => setFlagsAt(guest, at, flagsAt(guest, at) ^ bits)

const filled = (chain: PackedChain) => chain.entries.filter(({ length }) => length > 0)

function picked<E>(rng: Rng, entries: readonly E[]): E | undefined {
  return entries.length === 0 ? undefined : rng.pick(entries)
}

export const damages: Readonly<Record<string, Damage>> = {
  "packed: a head of another lap, or of nobody's": (guest, rng, { head }) => {
    setFlagsAt(guest, head.at, head.flags ^ rng.pick([AVAIL, USED, AVAIL | USED]))
    return "idle"
  },
  "packed: a tail of another lap": (guest, rng, chain) => {
    const entry = picked(rng, chain.entries.slice(1))
    if (entry === undefined || entry.isIndirect) return undefined
    change(guest, entry, rng.pick([AVAIL, USED, AVAIL | USED]))
    return "broken"
  },
  "packed: NEXT on the last": (guest, _, chain) => {
    const last = chain.entries.at(-1)
    if (last === undefined) return undefined
    change(guest, last, NEXT)
    return last.isIndirect ? "same" : "broken"
  },
  "packed: INDIRECT on a descriptor of data": (guest, rng, chain) => {
    const entry = rng.pick(chain.entries)
    change(guest, entry, INDIRECT)
    return entry.isIndirect ? "same" : "broken"
  },
  "packed: a table of a wrong length": (guest, rng, { referrer }) => {
    if (referrer === undefined) return undefined
    setLength(guest, referrer.at, rng.pick([0, 1, 15, referrer.bytes + 1, referrer.bytes + 8, 0xffff_fff0, 0xffff_ffff]))
    return "broken"
  },
  "packed: NEXT on the descriptor of a table": (guest, _, { referrer }) => {
    if (referrer === undefined) return undefined
    setFlagsAt(guest, referrer.at, flagsAt(guest, referrer.at) | NEXT)
    return "broken"
  },
  "packed: WRITE on the descriptor of a table": (guest, _, { referrer }) => {
    if (referrer === undefined) return undefined
    setFlagsAt(guest, referrer.at, flagsAt(guest, referrer.at) ^ WRITE)
    return "same"
  },
  "packed: a table elsewhere": (guest, rng, { referrer }) => {
    if (referrer === undefined) return undefined
    setAddress(guest, referrer.at, farAway(guest, rng, referrer.bytes))
    return "broken"
  },
  "packed: an address outside of RAM": (guest, rng, chain) => {
    const entry = rng.pick(chain.entries)
    setAddress(guest, entry.at, farAway(guest, rng, entry.length))
    return entry.length === 0 ? "same" : "broken"
  },
  "packed: a length beyond RAM": (guest, rng, chain) => {
    setLength(guest, rng.pick(filled(chain)).at, rng.pick([guest.machine.ram.length, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]))
    return "broken"
  },
  "packed: WRITE on what is read, before the end of it": (guest, rng, chain) => {
    const entry = picked(rng, filled(chain).filter(({ writable }) => !writable).slice(0, -1))
    if (entry === undefined) return undefined
    change(guest, entry, WRITE)
    return "broken"
  },
  "packed: no WRITE on what is written, behind other such": (guest, rng, chain) => {
    const writable = filled(chain).filter((entry) => entry.writable)
    const entry = writable.length === 1 ? writable[0] : picked(rng, writable.slice(1))
    if (entry === undefined) return undefined
    change(guest, entry, WRITE)
    return "broken"
  },
  "packed: the chain ends before anything can be written": (guest, rng, chain) => {
    const entry = picked(rng, chain.entries.filter(({ writable, isIndirect }) => !writable && !isIndirect))
    if (entry === undefined) return undefined
    change(guest, entry, NEXT)
    return "broken"
  },
  "packed: a header of 15 bytes": (guest, _, chain) => {
    const readable = filled(chain).filter(({ writable }) => !writable)
    const last = readable.at(-1)
    if (last === undefined || readable.reduce((sum, { length }) => sum + length, 0) !== 16) return undefined
    setLength(guest, last.at, last.length - 1)
    return "broken"
  },
  "packed: junk in flags and ids that mean nothing": (guest, rng, chain) => {
    const entry = rng.pick(chain.entries)
    change(guest, entry, entry.isIndirect ? rng.below(0x1_0000) & ~WRITE : rng.below(0x1_0000) & ~(NEXT | WRITE | INDIRECT | AVAIL | USED))
    if (entry.isIndirect || entry !== chain.entries.at(-1)) guest.data.setUint16(entry.at + 12, rng.below(0x1_0000), true)
    return "same"
  },
}
