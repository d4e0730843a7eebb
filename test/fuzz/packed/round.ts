/**
 * One round of the ring fuzzer over a packed ring: a batch of sound requests, at any place of the ring, with one that is damaged among
 * them, or nothing but garbage. Every byte of RAM, of what is around it and of the disk must be afterwards as the kind of damage foretells.
 */
import { CONFIG_IRQ, RingGuest } from "../../harness/guest.ts"
import { Cursor } from "../../harness/packed-ring.ts"
import { AVAIL, EVENT, F, NEEDS_RESET, T, USED, WRITE } from "../../harness/words.ts"
import type { Rng } from "../../support/rng.ts"
import { FlatFuzzDisk, type FuzzDisk, type FuzzRequest, type Negotiated, SERIAL } from "../ring-requests.ts"
import { storeAll } from "../ring-round.ts"
import { damages, layOut, type PackedChain, setFlagsAt, type Verdict } from "./chains.ts"

const RAM = 1 << 16
const MARGIN = 4096
const CANARY = 0x5c
/** Not a power of two. */
const RING = 101

interface Sent {
  readonly request: FuzzRequest
  readonly chain: PackedChain
}

type Terms = Negotiated & { readonly indirect: boolean; readonly eventIdx: boolean }

/** A machine that lives over many rounds: a reset must bring it back from whatever was done to it. */
export class PackedRingFuzzer {
  /** Rounds by kind of damage. */
  readonly counts = new Map<string, number>()
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
      packed: true,
      ringSize: RING,
      machine: { memory: this.#around.subarray(MARGIN, MARGIN + RAM) },
      disk: { serial: SERIAL },
    })
    this.#maxSegments = { discard: this.#guest.config(0x28, 4), writeZeroes: this.#guest.config(0x34, 4) }
  }

  /** Runs one round. @throws Error that says what was done and what should have come of it */
  round(): void {
    const rng = this.#rng
    const has = (probability: number) => rng.chance(probability)
    const terms = { indirect: has(0.8), eventIdx: has(0.5), discard: has(0.8), writeZeroes: has(0.8), maxSegments: this.#maxSegments }
    this.#guest.start([
      F.FLUSH,
      ...this.#disk.features,
      ...(terms.indirect ? [F.INDIRECT_DESC] : []),
      ...(terms.eventIdx ? [F.EVENT_IDX] : []),
      ...(terms.discard ? [F.DISCARD] : []),
      ...(terms.writeZeroes ? [F.WRITE_ZEROES] : []),
    ])
    this.#goOn()
    const name = has(0.05) ? this.#garbage() : this.#foretold(terms)
    this.counts.set(name, (this.counts.get(name) ?? 0) + 1)
    for (const start of [0, MARGIN + RAM]) {
      const stray = this.#around.subarray(start, start + MARGIN).findIndex((byte) => byte !== CANARY)
      if (stray >= 0) throw new Error(`${name}: byte ${start + stray - MARGIN} was written, outside of RAM`)
    }
  }

  /** Flushes, as many as it takes to come to a random place in one of the first laps. */
  #goOn(): void {
    const guest = this.#guest
    const { top } = guest
    const { pieces } = guest.place({ type: T.FLUSH })
    for (let batch = this.#rng.below(5); batch > 0; batch--) {
      const ids = Array.from({ length: this.#rng.between(1, 50) }, () => guest.chain(pieces))
      guest.publish(ids)
      // On a busy host they may take several turns of the thread.
      let back = 0
      for (let kicks = 0; kicks < 100 && back < ids.length; kicks++) {
        guest.kick()
        back += guest.takeUsed().length
      }
      if (back !== ids.length) throw new Error(`${back} of ${ids.length} flushes have come back`)
    }
    guest.top = top
  }

  #foretold(terms: Terms): string {
    const guest = this.#guest
    const rng = this.#rng
    const sent: Sent[] = []
    let room = RING
    const send = (request: FuzzRequest) => {
      const chain = layOut(guest, rng, request, { indirect: terms.indirect, room })
      if (chain === undefined) return
      room -= chain.slots
      sent.push({ request, chain })
    }
    for (let count = rng.below(4); count > 0; count--) send(this.#disk.sound(rng))
    const request = this.#disk.sound(rng)
    const name = rng.chance(0.3) ? this.#disk.mutate(request, rng) : ""
    send(request)
    const victim = sent.length - 1
    for (let count = rng.below(3); count > 0; count--) send(this.#disk.sound(rng))
    for (const { chain } of sent) setFlagsAt(guest, chain.head.at, chain.head.flags)
    const [what, verdict] = name === "" ? this.#damage((sent[victim] as Sent).chain) : [`packed: ${name}`, "same" as const]
    // Reserved bits of the flags, and a descriptor that does not count.
    guest.packedRing.setEvents(rng.below(0x4000) * 4, rng.below(0x1_0000))
    this.#expect(what, verdict === "same" ? sent : sent.slice(0, victim), verdict, terms)
    return what
  }

  #damage(chain: PackedChain): [string, Verdict] {
    for (;;) {
      const name = this.#rng.pick(Object.keys(damages))
      const verdict = damages[name]?.(this.#guest, this.#rng, chain)
      if (verdict !== undefined) return [name, verdict]
    }
  }

  /** Kicks, and compares everything with what must be when exactly `answered` are answered, in order. */
  #expect(what: string, answered: readonly Sent[], verdict: Verdict, terms: Terms): void {
    const guest = this.#guest
    const ring = guest.packedRing
    const broken = verdict === "broken"
    const expected = guest.machine.ram.slice()
    const view = new DataView(expected.buffer)
    const next = new Cursor(RING)
    Object.assign(next, { slot: ring.device.slot, wrap: ring.device.wrap })
    for (const { request, chain } of answered) {
      const { status, data } = this.#disk.judge(request, terms)
      storeAll(expected, chain.entries, data, 0)
      storeAll(expected, chain.entries, Uint8Array.of(status), request.in)
      view.setUint32(chain.head.at + 8, data.length === request.in ? request.in + 1 : data.length, true)
      view.setUint16(chain.head.at + 12, chain.id, true)
      view.setUint16(chain.head.at + 14, WRITE | (chain.head.wrap ? AVAIL | USED : 0), true)
      next.advance(chain.slots)
    }
    if (terms.eventIdx && !broken) view.setUint32(ring.used, next.word + EVENT.DESC * 0x1_0000, true)
    guest.irqs()
    guest.kick()
    const fail = (problem: string) => {
      const expectation = `${answered.length} answers and ${broken ? "a broken" : "a sound"} device`
      const state = guest.disk.device.brokenBy?.message ?? "sound"
      throw new Error(`${what}: ${problem}; expected ${expectation}, which says: ${state}`)
    }
    if (((guest.status & NEEDS_RESET) !== 0) !== broken) fail(`status ${guest.status}`)
    const irqs = guest.irqs()
    if (irqs.includes(CONFIG_IRQ) !== broken || irqs.includes(1) !== answered.length > 0) fail(`interrupts ${irqs.join()}`)
    const different = Buffer.compare(guest.machine.ram, expected) === 0
      ? -1
      : expected.findIndex((byte, at) => byte !== guest.machine.ram[at])
    if (different >= 0) {
      fail(`RAM differs at ${different} (ring at ${ring.desc}): ${guest.machine.ram[different]} for ${expected[different]}`)
    }
    const wrong = this.#disk.problem()
    if (wrong !== undefined) fail(wrong)
  }

  /** Random bytes for descriptors and tables: whatever it is, it ends. */
  #garbage(): string {
    const guest = this.#guest
    const rng = this.#rng
    const small = () => rng.pick([0, 1, 16, 32, 512, rng.below(RAM), rng.u32()])
    for (let slot = 0; slot < RING; slot++) {
      const address = rng.chance(0.9) ? rng.below(RAM) : rng.u32() * 2 ** 20
      guest.desc(slot, address, small(), rng.below(8) | rng.pick([guest.packedRing.marks, AVAIL, USED, 0]), rng.below(0x1_0000))
    }
    for (let kicks = 0; kicks < 3; kicks++) guest.kick()
    this.#disk.takeAsItIs()
    return "packed: garbage"
  }
}
