/**
 * Drivers on threads of their own, one for each queue, and a host that meanwhile pauses the device, switches its bus mastering, suspends
 * it, saves and restores it, and puts its disk in again: no request may be lost, no wake-up either, and every byte must be right.
 */
import { Worker } from "node:worker_threads"
import type { VirtioBacking } from "../../../src/backing/backing.ts"
import { Throttle } from "../../../src/index.ts"
import { settled } from "../../harness/fake-disk.ts"
import { RingGuest } from "../../harness/guest.ts"
import { F, STATUS, T, UP } from "../../harness/words.ts"
import type { Rng } from "../../support/rng.ts"

const SECTOR = 512
const SECTORS = 512
/** Sectors of the longest request. */
const LONGEST = 16
const DISKS = ["plain", "into", "vectored", "late", "now", "mixed"] as const
/** Turns in which a device has to be suspended. */
const MOST_TURNS = 3000

/** Words of the bell: those of queue q, and one that counts the kicks of all. */
const kickOf = (queue: number): number => 2 * queue
const interruptOf = (queue: number): number => 2 * queue + 1
const ANY = 14

interface Outcome {
  readonly finished: number
  readonly kicks: number
  readonly sleeps: number
  /** Sectors, and what they were written with. */
  readonly content: readonly (readonly [sector: number, value: number])[]
  readonly error?: string
}

type Choices = ReturnType<typeof drawChoices>

function drawChoices(rng: Rng) {
  const isPacked = rng.chance(0.5)
  return {
    isPacked, hasEventIdx: rng.chance(0.6), isInOrder: rng.chance(0.3), indirect: rng.pick(["never", "always", "sometimes"] as const),
    disk: rng.pick(DISKS), hasFlush: rng.chance(0.7), queues: rng.pick([1, 1, 2]), slots: rng.pick([1, 2, 8, 16]),
    mostAtOnce: rng.pick([1, 2, 8, 32]), ringSize: isPacked ? rng.pick([8, 13, 37, 64]) : rng.pick([8, 16, 64]),
    hasWritten: rng.chance(0.2), isThrottled: rng.chance(0.15), hasObserver: rng.chance(0.15),
    kinds: rng.chance(0.5) ? [T.IN, T.OUT] : [T.IN, T.IN, T.IN, T.OUT, T.OUT, T.OUT, T.FLUSH, T.GET_ID, T.WRITE_ZEROES],
    host: rng.pick(["nothing", "pause", "bus mastering", "resize", "save", "suspend", "disk again"] as const),
  }
}

/** What one round has done. */
export interface DrivenCounts {
  readonly requests: number
  readonly kicks: number
  readonly sleeps: number
}

export class DrivenRound {
  readonly #rng: Rng
  readonly #choices: Choices
  readonly #requests: number
  readonly #content = new Uint8Array(SECTOR * SECTORS)
  readonly #waiting: (() => void)[] = []
  readonly #bell = new Int32Array(new SharedArrayBuffer(64))
  readonly #ram = new SharedArrayBuffer(1 << 20)
  readonly #backing: VirtioBacking & { size: number }
  readonly #guest: RingGuest
  #outcomes: Outcome[] = []
  #wake = (): void => undefined

  /** `requests`: of each driver. */
  constructor(rng: Rng, requests: number) {
    this.#rng = rng
    this.#requests = requests
    this.#choices = drawChoices(rng)
    this.#backing = this.#disk()
    this.#guest = this.#attach()
    const { interrupts } = this.#guest.machine
    interrupts.subscribe(() => {
      for (const { data } of interrupts.takeMessages()) if (data > 0) this.#ring(interruptOf(data - 1))
    })
  }

  /** @throws Error that says what was drawn, and what came of it */
  async run(): Promise<DrivenCounts> {
    const workers = Array.from({ length: this.#choices.queues }, (_, queue) => this.#driver(queue))
    try {
      await this.#serve()
      for (const { error } of this.#outcomes) if (error !== undefined) throw new Error(error)
      this.#checkContent()
      await this.#guest.disk.device.whenIdle()
      const { count, calls, heldBytes } = this.#guest.disk.device.virtio.inFlight
      if (count + calls + heldBytes > 0) throw new Error(`${count} requests, ${calls} calls and ${heldBytes} bytes are left`)
    } catch (error) {
      const broken = this.#guest.disk.device.brokenBy?.message
      throw new Error(`${JSON.stringify(this.#choices)}: ${String(error)}${broken === undefined ? "" : `; broken: ${broken}`}`, {
        cause: error,
      })
    } finally {
      for (const worker of workers) await worker.terminate()
    }
    const sum = (of: (one: Outcome) => number): number => this.#outcomes.reduce((all, one) => all + of(one), 0)
    return { requests: sum(({ finished }) => finished), kicks: sum(({ kicks }) => kicks), sleeps: sum(({ sleeps }) => sleeps) }
  }

  #ring(word: number): void {
    Atomics.add(this.#bell, word, 1)
    Atomics.notify(this.#bell, word)
  }

  #disk(): VirtioBacking & { size: number } {
    const { disk } = this.#choices
    const content = this.#content
    const isLate = disk === "late" || disk === "now" || disk === "mixed"
    const answer = (work: () => void): void | Promise<void> => {
      if (!isLate || (disk === "mixed" && this.#rng.chance(0.5))) return work()
      return new Promise((resolve) => void this.#waiting.push(() => (work(), resolve())))
    }
    const read = (buffers: readonly Uint8Array[], offset: number): void => {
      for (const buffer of buffers) {
        buffer.set(content.subarray(offset, offset + buffer.length))
        offset += buffer.length
      }
    }
    const write = (buffers: readonly Uint8Array[], offset: number): void => {
      for (const buffer of buffers) {
        content.set(buffer, offset)
        offset += buffer.length
      }
    }
    const now = (work: typeof read) => (buffers: readonly Uint8Array[], offset: number): boolean => {
      if (this.#rng.chance(0.5)) return false
      work(buffers, offset)
      return true
    }
    return {
      size: content.length,
      readOnly: false,
      ...(isLate && { asynchronous: true }),
      pread: (buffer, offset) => answer(() => read([buffer], offset)),
      pwrite: (buffer, offset) => answer(() => write([buffer], offset)),
      flush: () => answer(() => undefined),
      writeZeroes: (offset, length) => answer(() => void content.fill(0, offset, offset + length)),
      close: () => undefined,
      ...(disk === "vectored" && { preadv: read, pwritev: write }),
      ...(disk === "now" && { preadNow: now(read), pwriteNow: now(write) }),
      ...(disk === "into" && {
        preadInto: (ram: Uint8Array, start: number, length: number, offset: number) => read([ram.subarray(start, start + length)], offset),
        pwriteFrom: (
          ram: Uint8Array, start: number, length: number, offset: number,
        ) => write([ram.subarray(start, start + length)], offset),
      }),
    }
  }

  #attach(): RingGuest {
    const { isPacked, isInOrder, hasEventIdx, hasFlush, queues, ringSize, hasWritten, isThrottled, hasObserver } = this.#choices
    const guest = new RingGuest({
      backing: this.#backing, packed: isPacked, ringSize, queues,
      machine: { memory: this.#ram, ...(hasWritten && { written: () => undefined }) },
      disk: {
        queues, serial: "serial",
        withFeatures: [...(isPacked ? (["RING_PACKED"] as const) : []), ...(isInOrder ? (["IN_ORDER"] as const) : []), "SUSPEND"],
        ...(isThrottled && { throttle: new Throttle({ requests: 20_000, bytes: 50_000_000 }) }),
        ...(hasObserver && { observer: () => undefined }),
      },
      features: [
        F.INDIRECT_DESC, F.WRITE_ZEROES, F.SUSPEND, ...(hasFlush ? [F.FLUSH] : []), ...(hasEventIdx ? [F.EVENT_IDX] : []),
        ...(isInOrder ? [F.IN_ORDER] : []), ...(queues > 1 ? [F.MQ] : []),
      ],
    })
    if (guest.status !== UP) throw new Error(`the device answers a start by status ${guest.status}`)
    return guest
  }

  #driver(queue: number): Worker {
    const { queues, slots: count, isPacked, indirect, hasEventIdx, isInOrder, kinds, mostAtOnce } = this.#choices
    const guest = this.#guest
    const share = Math.floor(SECTORS / (queues * count))
    const sectors = Math.min(share, LONGEST)
    const slots = Array.from({ length: count }, (_, slot) => ({
      header: guest.alloc(16, 16), status: guest.alloc(1), table: guest.alloc(16 * 12, 16), buffer: guest.alloc(sectors * SECTOR, 4),
      first: (queue * count + slot) * share, sectors,
    }))
    const ring = guest.rings[queue]
    if (ring === undefined) throw new Error(`there is no queue ${queue}`)
    const { size, desc, avail, used } = ring
    const worker = new Worker(new URL("./driving-thread.js", import.meta.url), {
      workerData: {
        ram: this.#ram, bell: this.#bell, bells: { kick: kickOf(queue), interrupt: interruptOf(queue), any: ANY },
        ring: { size, desc, avail, used }, isPacked, indirect, hasEventIdx, isInOrder, slots, seed: this.#rng.u32(),
        requests: this.#requests, kinds, mostAtOnce,
      },
    })
    const ended = (outcome: Outcome): void => {
      this.#outcomes.push(outcome)
      this.#wake()
    }
    worker.on("message", ended)
    worker.on("error", (error) => ended({ finished: 0, kicks: 0, sleeps: 0, content: [], error: String(error) }))
    return worker
  }

  /** This thread is the device, woken by the bell. */
  async #serve(): Promise<void> {
    const { queues, isThrottled } = this.#choices
    const seen = new Int32Array(queues)
    while (this.#outcomes.length < queues) {
      const kicks = Atomics.load(this.#bell, ANY)
      let isBusy = this.#waiting.length > 0
      for (const ring of this.#guest.rings) {
        const now = Atomics.load(this.#bell, kickOf(ring.index))
        if (now === seen[ring.index]) continue
        seen[ring.index] = now
        this.#guest.kick(ring)
        isBusy = true
      }
      for (let count = this.#rng.between(1, 3); count > 0; count--) this.#answerOne()
      if (this.#rng.chance(0.02)) await this.#beHost()
      if (isBusy || isThrottled) await settled()
      else await this.#sleep(kicks)
    }
  }

  async #sleep(kicks: number): Promise<void> {
    const ended = new Promise<void>((resolve) => (this.#wake = resolve))
    const { value } = Atomics.waitAsync(this.#bell, ANY, kicks)
    if (this.#outcomes.length < this.#choices.queues && this.#waiting.length === 0) await Promise.race([value, ended])
  }

  #answerOne(): void {
    this.#waiting.splice(this.#rng.below(Math.max(this.#waiting.length, 1)), 1)[0]?.()
  }

  async #beHost(): Promise<void> {
    const guest = this.#guest
    const { device, function: fn } = guest.disk
    switch (this.#choices.host) {
      case "pause":
        void device.pause()
        await settled()
        return device.resume()
      case "bus mastering":
        guest.modern.command = 3
        await settled()
        guest.modern.command = 7
        return
      case "resize":
        this.#backing.size = this.#content.length + SECTOR * this.#rng.below(10)
        return device.capacityChanged()
      case "save": {
        void device.pause()
        fn.restoreState(JSON.parse(JSON.stringify(fn.saveState({ inFlight: "again" }))))
        while (this.#waiting.length > 0) {
          this.#answerOne()
          await settled()
        }
        return device.resume()
      }
      case "suspend":
        return await this.#suspend()
      case "disk again": {
        void device.changeBacking(this.#backing, { atOnce: true })
        for (const answer of this.#waiting.splice(0)) answer()
        return
      }
      default:
    }
  }

  async #suspend(): Promise<void> {
    const guest = this.#guest
    guest.status = UP | STATUS.SUSPEND
    for (let turn = 0; (guest.status & (STATUS.SUSPEND | STATUS.DRIVER_OK)) !== STATUS.SUSPEND; turn++) {
      if (turn > MOST_TURNS) throw new Error(`status ${guest.status}: the device is not suspended`)
      for (const answer of this.#waiting.splice(0)) answer()
      await settled()
    }
    guest.status = UP
  }

  #checkContent(): void {
    const words = new DataView(this.#content.buffer)
    for (const { content } of this.#outcomes) {
      for (const [sector, value] of content) {
        const expected = ((Math.imul(sector + 1, 0x9e37_79b1) ^ Math.imul(value, 0x85eb_ca6b)) + 0) >>> 0
        if (words.getUint32(SECTOR * sector, true) !== expected) {
          throw new Error(`sector ${sector} of the disk is not what was written last`)
        }
      }
    }
  }
}
