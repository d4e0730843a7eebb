/**
 * One round of the thread fuzzer: a device serves rings in shared RAM that another thread scribbles over all the while. Nothing throws, no
 * call on the disk is out of bounds, no byte is stored outside of what some version of a descriptor named, no sector written that no
 * version of a header named, and afterwards nothing is in flight. Which interleavings happen, no seed decides: it decides the layout.
 */
import { Worker } from "node:worker_threads"
import type { VirtioBacking } from "../../../src/backing/backing.ts"
import { settled } from "../../harness/fake-disk.ts"
import { RingGuest } from "../../harness/guest.ts"
import { AVAIL, COMMON, F, INDIRECT, mask, NEEDS_RESET, NEXT, T, UP, USED, WRITE } from "../../harness/words.ts"
import type { Rng } from "../../support/rng.ts"

const RAM = 1 << 20
const MARGIN = 1 << 16
const CANARY = 0x5c
/** The disk is full of it, and nothing that the scribbler writes has it. */
const CONTENT = 0xd7
const SECTORS = 512
/** Headers and ranges name sectors below this one, and no chain has data for as many. */
const NAMED = 64
const REACHED = NAMED + 8 * 16
/** Where headers, ranges and tables begin, status bytes, and data. */
const STRUCTURES = 0x8000
const STATUS = 0x2_0000
const DATA = 0x3_0000
const DATA_LENGTH = 0x1_0000
const LONGEST = 8192

/** A word of RAM, and what is written there. */
interface Target {
  readonly at: number
  readonly width: 2 | 4
  readonly values: readonly number[]
}

type Kind = "header" | "readable" | "writable" | "status"

export class ScribbledRam {
  /** Kicks, calls on the disk, devices that broke, and words written meanwhile. */
  readonly counts = { kicks: 0, calls: 0, broken: 0, words: 0 }
  readonly #shared = new SharedArrayBuffer(RAM + 2 * MARGIN)
  readonly #all = new Uint8Array(this.#shared)
  readonly #state = new Int32Array(new SharedArrayBuffer(12))
  readonly #thread: Worker
  readonly #rng: Rng

  constructor(rng: Rng) {
    this.#rng = rng
    this.#thread = new Worker(new URL("./scribbler-thread.js", import.meta.url), {
      workerData: { ram: this.#shared, base: MARGIN, control: this.#state.buffer },
    })
  }

  async close(): Promise<void> {
    await this.#thread.terminate()
  }

  /** So many kicks. @throws Error that says what was done and what came of it */
  async round(kicks: number): Promise<void> {
    const rng = this.#rng
    const [packed, late, written] = [rng.chance(0.5), rng.chance(0.4), rng.chance(0.2)]
    const name = `${packed ? "packed" : "split"} ring, a disk that answers ${late ? "later" : "at once"}`
    this.#all.fill(CANARY)
    const disk = new WatchedDisk(rng, late)
    const features = [F.INDIRECT_DESC, F.DISCARD, F.WRITE_ZEROES, ...[F.FLUSH, F.EVENT_IDX].filter(() => rng.chance(0.5))]
    const guest = new RingGuest({
      backing: disk.backing, packed, ringSize: rng.pick([4, 8, 16, 64]), features,
      machine: { memory: this.#all.subarray(MARGIN, MARGIN + RAM), ...(written && { written: () => undefined }) },
    })
    const targets = this.#layOut(guest, packed)
    const { avail, used, size } = guest.ring
    await this.#scribble({ seed: rng.u32(), targets, split: packed ? undefined : { avail, used, ahead: size } }, async () => {
      for (let kick = 0; kick < kicks; kick++) {
        this.#makeAvailable(guest, packed)
        guest.kick()
        disk.answerOne()
        const isToStart = (guest.status & NEEDS_RESET) !== 0 || rng.chance(0.001)
        if (isToStart) this.#startAgain(guest, [...features, ...(packed ? [F.RING_PACKED] : [])])
        if (kick % 50 === 0) await settled()
      }
    })
    await this.#end(guest, disk)
    this.counts.kicks += kicks
    this.counts.calls += disk.calls
    const problem = disk.problem() ?? this.#stray(guest.top)
    if (problem !== undefined) throw new Error(`${name}, ${size} descriptors: ${problem}`)
  }

  /** Runs `act` while the thread scribbles. */
  async #scribble(message: object, act: () => Promise<void>): Promise<void> {
    Atomics.store(this.#state, 0, 1)
    this.#thread.postMessage(message)
    await this.#until(1)
    try {
      await act()
    } finally {
      Atomics.store(this.#state, 0, 0)
      await this.#until(0)
    }
    this.counts.words += this.#state[2] ?? 0
  }

  async #until(value: number): Promise<void> {
    while (Atomics.load(this.#state, 1) !== value) await Atomics.waitAsync(this.#state, 1, 1 - value).value
  }

  #layOut(guest: RingGuest, packed: boolean): Target[] {
    const rng = this.#rng
    const { size, desc, avail } = guest.ring
    guest.top = STRUCTURES
    const places = (count: number, length: number) => Array.from({ length: count }, () => guest.alloc(length, 64))
    const [headers, ranges, tables] = [places(8, 16), places(4, 64), places(4, 128)]
    const data = Array.from({ length: 16 }, () => DATA + rng.below(DATA_LENGTH))
    // What the disk holds is not to be taken for ranges: they could name any sector.
    const hasRanges = rng.chance(0.5)
    const addresses: Readonly<Record<Kind, readonly number[]>> = {
      header: headers, readable: hasRanges ? ranges : data, writable: data,
      status: Array.from({ length: 8 }, () => STATUS + rng.below(64)),
    }
    const sound = [512, 512, 1024, 1024, LONGEST]
    const lengths: Readonly<Record<Kind, readonly number[]>> = {
      header: [16, 16, 16, 15], readable: hasRanges ? [16, 32, 48] : [512, 1024, 4096, 513, 0],
      writable: [...sound, ...sound, ...sound, 511, 0, 0xffff_ffff],
      status: [1, 1, 1, 0],
    }
    const types = hasRanges ? [T.IN, T.DISCARD, T.WRITE_ZEROES] : [T.IN, T.OUT, T.OUT]
    const flags: Readonly<Record<Kind, number>> = { header: NEXT, readable: NEXT, writable: NEXT | WRITE, status: WRITE }
    const targets: Target[] = []
    const put = (at: number, width: 2 | 4, ...values: readonly number[]) => void targets.push({ at, width, values })
    const marked = (value: number) => (packed ? [value | AVAIL, value | USED] : [value])
    const [flagsAt, nextAt] = packed ? [14, 12] : [12, 14]
    const describe = (at: number, kinds: readonly Kind[], next: number, inTable: boolean) => {
      put(at, 4, ...kinds.flatMap((kind) => addresses[kind]))
      put(at + 4, 4, 0)
      put(at + 8, 4, ...kinds.flatMap((kind) => lengths[kind]))
      put(at + flagsAt, 2, ...kinds.flatMap((kind) => (inTable ? [flags[kind]] : marked(flags[kind]))))
      put(at + nextAt, 2, next)
    }
    const direct: readonly (readonly Kind[])[] = [["header"], ["readable", "writable"], ["status"]]
    for (let index = 0; index < size; index++) {
      const at = desc + 16 * index
      const kinds = direct[index % 4]
      if (kinds !== undefined) {
        describe(at, kinds, (index + 1) % size, false)
        continue
      }
      put(at, 4, ...tables)
      put(at + 4, 4, 0)
      put(at + 8, 4, 48, 64, 96, 128, 16, 17)
      put(at + flagsAt, 2, ...marked(INDIRECT))
      put(at + nextAt, 2, index)
    }
    for (const table of tables) {
      for (let index = 0; index < 8; index++) {
        const kind = index === 0 ? "header" : index < 3 ? "readable" : index < 6 ? "writable" : "status"
        describe(table + 16 * index, [kind], (index + 1) % 8, true)
      }
    }
    for (const at of headers) {
      put(at, 4, ...types, ...types, T.FLUSH, T.GET_ID, 99)
      put(at + 8, 4, 0, 1, 8, 9, NAMED - 1, 0xffff_ffff)
      put(at + 12, 4, 0, 0, 0, 1)
    }
    for (const at of ranges.flatMap((place) => [0, 16, 32].map((offset) => place + offset))) {
      put(at, 4, 0, 8, 40)
      put(at + 4, 4, 0)
      put(at + 8, 4, 0, 1, 8, 16, 0xffff_ffff)
      put(at + 12, 4, 0, 1, 2)
    }
    if (packed) put(avail + 2, 2, 0, 1, 2, 3)
    else for (let slot = 0; slot < size; slot++) put(avail + 4 + 2 * slot, 2, ...[0, 3, 4, 7].map((head) => head % size))
    for (const { at, width, values } of targets) guest.data[width === 4 ? "setUint32" : "setUint16"](at, rng.pick(values), true)
    return targets
  }

  /** This thread makes chains available too: the other one may have no processor of its own. */
  #makeAvailable(guest: RingGuest, packed: boolean): void {
    const { data, ring: { desc, avail, used, size } } = guest
    if (!packed) return data.setUint16(avail + 2, (data.getUint16(used + 2, true) + this.#rng.below(4)) & 0xffff, true)
    const marks = this.#rng.pick([AVAIL, USED])
    const first = this.#rng.below(size)
    for (let slot = first; slot < Math.min(first + 4, size); slot++) {
      const at = desc + 16 * slot + 14
      data.setUint16(at, (data.getUint16(at, true) & 7) | marks, true)
    }
  }

  #startAgain(guest: RingGuest, features: readonly number[]): void {
    this.counts.broken++
    const { modern, ring, data } = guest
    modern.negotiate(mask(...features, F.VERSION_1) & guest.offered)
    modern.setQueueRegister(0, COMMON.queueVector, 2, 1)
    if (!features.includes(F.RING_PACKED)) for (const at of [ring.avail, ring.used]) data.setUint16(at + 2, 0, true)
    modern.enable(0, ring)
    guest.status = UP
  }

  /** What is in flight comes to its end, and leaves nothing behind. */
  async #end(guest: RingGuest, disk: WatchedDisk): Promise<void> {
    guest.status = 0
    while (disk.answerOne()) await settled()
    const { device } = guest.disk
    await device.whenIdle()
    const { count, calls, heldBytes } = device.virtio.inFlight
    if (count !== 0 || calls !== 0 || heldBytes !== 0) throw new Error(`${count} requests, ${calls} calls, ${heldBytes} bytes in flight`)
  }

  /** What was stored where no descriptor pointed; undefined when nothing was. */
  #stray(top: number): string | undefined {
    // A writable descriptor may have the address of what was a readable one.
    const named = [[0, top + LONGEST], [STATUS, 64], [DATA, DATA_LENGTH + LONGEST]] as const
    for (const [start, length] of named) this.#all.fill(CANARY, MARGIN + start, MARGIN + start + length)
    const at = this.#all.findIndex((byte) => byte !== CANARY)
    return at < 0 ? undefined : `byte ${at - MARGIN} of RAM was stored into`
  }
}

/** A disk that says which calls were out of bounds, and which bytes were changed that nobody named. */
class WatchedDisk {
  readonly backing: VirtioBacking
  calls = 0
  readonly #rng: Rng
  readonly #content = new Uint8Array(512 * SECTORS).fill(CONTENT)
  readonly #waiting: (() => void)[] = []
  #wrong: string | undefined

  constructor(rng: Rng, late: boolean) {
    this.#rng = rng
    const content = this.#content
    const call = (offset: number, length: number, work: () => void): void | Promise<void> => {
      this.calls++
      if (!Number.isInteger(offset) || offset < 0 || length < 0 || offset + length > content.length) {
        this.#wrong ??= `a call for ${length} bytes at ${offset}`
      }
      if (!late || rng.chance(0.3)) return work()
      return new Promise((resolve) => this.#waiting.push(() => (work(), resolve())))
    }
    const read = (buffer: Uint8Array, offset: number) => buffer.set(content.subarray(offset, offset + buffer.length))
    const eachOf = (buffers: readonly Uint8Array[], offset: number, work: (buffer: Uint8Array, at: number) => void) => {
      let end = offset
      const length = buffers.reduce((sum, buffer) => sum + buffer.length, 0)
      return call(offset, length, () => buffers.forEach((buffer) => work(buffer, (end += buffer.length) - buffer.length)))
    }
    const part = (ram: Uint8Array, start: number, length: number): Uint8Array => {
      if (start + length > ram.length) this.#wrong ??= `${length} bytes at ${start} of RAM`
      return ram.subarray(start, start + length)
    }
    const write = (buffer: Uint8Array, offset: number) => content.set(buffer, offset)
    const fill = (offset: number, length: number) => call(offset, length, () => void content.fill(0, offset, offset + length))
    this.backing = {
      size: content.length, readOnly: false, ...(late && { asynchronous: true }), close() {},
      pread: (buffer, offset) => call(offset, buffer.length, () => read(buffer, offset)),
      pwrite: (buffer, offset) => call(offset, buffer.length, () => write(buffer, offset)),
      ...(rng.chance(0.6) && {
        preadv: (buffers, offset) => eachOf(buffers, offset, read), pwritev: (buffers, offset) => eachOf(buffers, offset, write),
      } satisfies Partial<VirtioBacking>),
      ...(!late && rng.chance(0.5) && {
        preadInto: (ram, start, length, offset) => void call(offset, length, () => read(part(ram, start, length), offset)),
        pwriteFrom: (ram, start, length, offset) => void call(offset, length, () => write(part(ram, start, length), offset)),
      } satisfies Partial<VirtioBacking>),
      flush: () => call(0, 0, () => undefined), discard: fill, writeZeroes: fill,
    }
  }

  /** Answers any call that waits. Returns false when there is none. */
  answerOne(): boolean {
    const [answer] = this.#waiting.splice(this.#rng.below(Math.max(this.#waiting.length, 1)), 1)
    answer?.()
    return answer !== undefined
  }

  problem(): string | undefined {
    if (this.#wrong !== undefined) return this.#wrong
    const at = this.#content.subarray(512 * REACHED).findIndex((byte) => byte !== CONTENT)
    return at < 0 ? undefined : `sector ${REACHED + Math.floor(at / 512)} of the disk has changed, which no header named`
  }
}
