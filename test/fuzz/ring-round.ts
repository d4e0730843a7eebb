/**
 * One round of the ring fuzzer: a batch of sound requests with one that is damaged among them, or a ring that is, or nothing but
 * garbage. Every byte of RAM, of what is around it and of the disk must be afterwards as the kind of damage foretells.
 */
import type { Rng } from "../support/rng.ts"
import { CONFIG_IRQ, RingGuest } from "../harness/guest.ts"
import { F, NEEDS_RESET } from "../harness/words.ts"
import type { Piece } from "../harness/ring.ts"
import { type Chain, damages, layOut, STALE, type Verdict } from "./ring-chains.ts"
import { FlatFuzzDisk, type FuzzDisk, type FuzzRequest, type Negotiated, SERIAL } from "./ring-requests.ts"

const RAM = 1 << 16
const MARGIN = 4096
const CANARY = 0x5c
const RING = 128

interface Sent {
  readonly request: FuzzRequest
  readonly chain: Chain
}

/** A machine that lives over many rounds: a reset must bring it back from whatever was done to it. */
export class RingFuzzer {
  /** Rounds by kind of damage. */
  readonly counts = new Map<string, number>()
  /** The longest time that one kick held the thread, the compiler's first work apart. CPU time, milliseconds. */
  longestHold = 0
  #rounds = 0
  readonly #rng: Rng
  readonly #around = new Uint8Array(RAM + 2 * MARGIN).fill(CANARY)
  readonly #disk: FuzzDisk
  readonly #guest: RingGuest
  readonly #maxSegments: Negotiated["maxSegments"]

  constructor(rng: Rng, disk: FuzzDisk = new FlatFuzzDisk(rng)) {
    this.#rng = rng
    this.#disk = disk
    this.#guest = new RingGuest({
      backing: disk.backing,
      ringSize: RING,
      machine: { memory: this.#around.subarray(MARGIN, MARGIN + RAM) },
      disk: { serial: SERIAL },
    })
    this.#maxSegments = { discard: this.#guest.config(0x28, 4), writeZeroes: this.#guest.config(0x34, 4) }
  }

  /**
   * Runs one round.
   * @throws Error that says what was done and what should have come of it
   */
  round(): void {
    const rng = this.#rng
    const has = (probability: number) => rng.chance(probability)
    const negotiated = { indirect: has(0.8), eventIdx: has(0.5), discard: has(0.8), writeZeroes: has(0.8), maxSegments: this.#maxSegments }
    const { indirect, eventIdx, discard, writeZeroes } = negotiated
    this.#guest.start([
      F.FLUSH,
      ...this.#disk.features,
      ...(indirect ? [F.INDIRECT_DESC] : []),
      ...(eventIdx ? [F.EVENT_IDX] : []),
      ...(discard ? [F.DISCARD] : []),
      ...(writeZeroes ? [F.WRITE_ZEROES] : [])
    ])
    const name = has(0.05) ? this.#garbage() : this.#foretold(negotiated)
    this.counts.set(name, (this.counts.get(name) ?? 0) + 1)
    for (const start of [0, MARGIN + RAM]) {
      const stray = this.#around.subarray(start, start + MARGIN).findIndex((byte) => byte !== CANARY)
      if (stray >= 0) throw new Error(`${name}: byte ${start + stray - MARGIN} was written, outside of RAM`)
    }
  }

  #foretold(negotiated: Negotiated & { readonly indirect: boolean; readonly eventIdx: boolean }): string {
    const guest = this.#guest
    const rng = this.#rng
    const sent: Sent[] = []
    const send = (request: FuzzRequest) => sent.push({ request, chain: layOut(guest, rng, request, negotiated.indirect) })
    for (let count = rng.below(4); count > 0; count--) send(this.#disk.sound(rng))
    const request = this.#disk.sound(rng)
    const kind = rng.pick(["request", "chain", "chain", "ring"])
    const name = kind === "request" ? this.#disk.mutate(request, rng) : ""
    send(request)
    const victim = sent.length - 1
    for (let count = rng.below(3); count > 0; count--) send(this.#disk.sound(rng))
    const heads = sent.map(({ chain }) => chain.head)
    if (kind === "ring") return this.#ring(sent, heads, victim, negotiated)
    const [what, verdict] = kind === "chain" ? this.#damage((sent[victim] as Sent).chain) : [name, "same" as const]
    guest.publish(heads)
    this.#expect(what, verdict === "broken" ? sent.slice(0, victim) : sent, verdict === "broken", negotiated)
    return what
  }

  #damage(chain: Chain): [string, Verdict] {
    for (;;) {
      const name = this.#rng.pick(Object.keys(damages))
      const verdict = damages[name]?.(this.#guest, this.#rng, chain)
      if (verdict !== undefined) return [name, verdict]
    }
  }

  /** Damage to the available ring instead of to a chain. */
  #ring(sent: readonly Sent[], heads: readonly number[], victim: number, negotiated: Negotiated & { readonly eventIdx: boolean }): string {
    const guest = this.#guest
    const rng = this.#rng
    const what = rng.pick(["a head beyond the table", "an available index too far ahead", "the same head twice", "junk that means nothing"])
    if (what === "a head beyond the table") {
      guest.publish(heads.map((head, at) => (at === victim ? rng.pick([RING, RING + 1, 0x8000, 0xffff]) : head)))
      this.#expect(what, sent.slice(0, victim), true, negotiated)
    } else if (what === "an available index too far ahead") {
      guest.publish(heads)
      guest.data.setUint16(guest.ring.avail + 2, rng.between(RING + 1, 65535), true)
      this.#expect(what, [], true, negotiated)
    } else if (what === "the same head twice") {
      guest.publish(heads.flatMap((head, at) => (at === victim ? [head, head] : [head])))
      this.#expect(what, sent.flatMap((one, at) => (at === victim ? [one, one] : [one])), false, negotiated)
    } else {
      guest.ring.availFlags = rng.below(0x8000) * 2
      if (!negotiated.eventIdx) guest.ring.usedEvent = rng.below(65536)
      guest.publish(heads)
      this.#expect(what, sent, false, negotiated)
    }
    return what
  }

  /** Kicks, and compares everything with what must be when exactly `answered` are answered, in order. */
  #expect(what: string, answered: readonly Sent[], broken: boolean, negotiated: Negotiated & { readonly eventIdx: boolean }): void {
    const guest = this.#guest
    const { used } = guest.ring
    const expected = guest.machine.ram.slice()
    const view = new DataView(expected.buffer)
    for (const [at, { request, chain }] of answered.entries()) {
      const { status, data } = this.#disk.judge(request, negotiated)
      storeAll(expected, chain.entries, data, 0)
      storeAll(expected, chain.entries, Uint8Array.of(status), request.in)
      view.setUint32(used + 4 + 8 * at, chain.head, true)
      view.setUint32(used + 8 + 8 * at, data.length === request.in ? request.in + 1 : data.length, true)
    }
    view.setUint16(used + 2, answered.length, true)
    if (negotiated.eventIdx && !broken) view.setUint16(used + 4 + 8 * RING, answered.length, true)
    guest.irqs()
    this.#kick()
    const fail = (problem: string) => {
      const expectation = `${answered.length} answers and ${broken ? "a broken" : "a sound"} device`
      const state = guest.disk.device.brokenBy?.message ?? "sound"
      throw new Error(`${what}: ${problem}; expected ${expectation}, which says: ${state}`)
    }
    if (((guest.status & NEEDS_RESET) !== 0) !== broken) fail(`status ${guest.status}`)
    if (guest.usedIdx() !== answered.length) fail(`used.idx ${guest.usedIdx()}`)
    const irqs = guest.irqs()
    if (irqs.includes(CONFIG_IRQ) !== broken || irqs.includes(1) !== answered.length > 0) fail(`interrupts ${irqs.join()}`)
    const different = Buffer.compare(guest.machine.ram, expected) === 0
      ? -1
      : expected.findIndex((byte, at) => byte !== guest.machine.ram[at])
    if (different >= 0) {
      fail(`RAM differs at ${different} (used ring at ${used}): ${guest.machine.ram[different]} for ${expected[different]}`)
    }
    const wrong = this.#disk.problem()
    if (wrong !== undefined) fail(wrong)
  }

  #kick(): void {
    const start = process.cpuUsage()
    this.#guest.kick()
    const { user, system } = process.cpuUsage(start)
    if (this.#rounds++ > 1000) this.longestHold = Math.max(this.longestHold, (user + system) / 1000)
  }

  get #answered(): number {
    const { merged: _, ...counts } = this.#guest.disk.device.statistics
    return Object.values(counts).reduce((sum, { requests }) => sum + requests, 0)
  }

  /** Random bytes for descriptors, tables and heads: whatever it is, it ends, and nothing is left behind silently. */
  #garbage(): string {
    const guest = this.#guest
    const rng = this.#rng
    const small = () => rng.pick([0, 1, 16, 32, 512, rng.below(RAM), rng.u32()])
    for (let index = 0; index < RING; index++) {
      guest.desc(index, rng.chance(0.9) ? rng.below(RAM) : rng.u32() * 2 ** 20, small(), rng.below(8), rng.below(RING + 1))
    }
    const heads = Array.from({ length: rng.between(1, RING) }, () => rng.below(RING))
    // Chains may write over the ring itself: then nothing is foretold but that it ends.
    guest.publish(heads)
    const before = this.#answered
    this.#kick()
    // All heads are taken in before the first is acted upon.
    if ((guest.status & NEEDS_RESET) === 0 && this.#answered - before < heads.length) {
      throw new Error(`garbage: ${this.#answered - before} of ${heads.length} heads were answered by a sound device`)
    }
    this.#disk.takeAsItIs()
    return "garbage"
  }
}

/** Stores `bytes` from position `offset` of the writable part on. */
export function storeAll(ram: Uint8Array, entries: readonly Piece[], bytes: Uint8Array, offset: number): void {
  let at = -offset
  for (const { address, length, writable } of entries) {
    if (!writable) continue
    for (let index = Math.max(0, -at); index < length && at + index < bytes.length; index++) {
      ram[Number(address) + index] = bytes[at + index] ?? STALE
    }
    at += length
  }
}
