/**
 * An embedder that acts while the device looks for RAM: inside of `GuestMemory.region` he resets the device, starts it again, restores a
 * state, resets a queue or switches bus mastering off, and the look may find nothing. He does so in each look of a run in turn. The memory
 * is replaced at every occasion, so that there are many looks. After that nothing of the old life reaches the guest, the disk or the new
 * life.
 */
import { describe, expect, it } from "vitest"
import type { VirtioBlkOptions } from "../../src/virtio/blk/config.ts"
import { RamRegion } from "../../src/virtio/guest-memory.ts"
import { eio, FakeDisk, settled } from "../harness/fake-disk.ts"
import { RegionsGuest } from "../harness/regions-guest.ts"
import { header, pattern, ranges, type Request } from "../harness/requests.ts"
import { F, OK, STATUS, T, UNTOUCHED, UP } from "../harness/words.ts"

const SECTORS = 64
const CONTENT = pattern(0, SECTORS)
const RAM = 0x8000

interface Shape {
  /** The calls that answer later. */
  readonly later?: (call: number) => boolean
  /** The disk fails one read; what it does about that. */
  readonly disk?: VirtioBlkOptions
  readonly without?: readonly ("preadv" | "pwritev")[]
  readonly features?: readonly number[]
  readonly isObserved?: true
}

const IN_ORDER: Shape = { later: (call) => call % 2 === 0, features: [F.IN_ORDER], disk: { withFeatures: ["IN_ORDER"] } }

const SHAPES: Readonly<Record<string, Shape>> = {
  "at once": { without: ["preadv", "pwritev"] },
  "later": { later: () => true },
  "later every other time, in order": IN_ORDER,
  "at once, with writes through": { features: [] },
  "later, with writes through": { later: () => true, features: [] },
  "at once, with an observer and ignored errors": { isObserved: true, disk: { readErrors: "ignore" } },
  "later, with an observer and ignored errors": { isObserved: true, later: () => true, disk: { readErrors: "ignore" } },
  "later, with a throttle": { later: () => true, disk: { throttle: { requests: 2 } } },
}

const REQUESTS: readonly Request[] = [
  { type: T.IN, sector: 9, in: 512 }, { type: T.OUT, sector: 50, out: pattern(1, 3) },
  ...[4, 5].map((sector): Request => ({ type: T.IN, sector, in: 512 })), { type: T.GET_ID, in: 20 },
  { type: T.WRITE_ZEROES, out: ranges({ sector: 60, sectors: 2 }) },
]

/** The embedder's acts. All but the last end the requests. */
const ACTS = {
  "resets the device": ({ virtio }: Run) => virtio.writeStatus(0),
  "starts the device again": ({ guest }: Run) => guest.start(),
  "restores a state": ({ virtio, saved }: Run) => virtio.restoreState(saved),
  "resets the queue": ({ virtio }: Run) => virtio.resetQueue(0),
  "switches bus mastering off": ({ virtio }: Run) => virtio.setBusMaster(false),
} as const
type Act = keyof typeof ACTS

/** What happens in between, while calls have not been answered. */
const BETWEEN = {
  nothing: () => undefined,
  "a state is saved": ({ virtio }: Run) => void virtio.saveState({ inFlight: "again" }),
  "its own state is restored": (run: Run) => {
    const state = run.virtio.saveState({ inFlight: "again" })
    if (run.hasActed) return
    run.virtio.restoreState(state)
    run.guest.disk.resume()
  },
  "another disk comes": ({ guest, newDisk }: Run) => void guest.disk.changeBacking(newDisk(), { atOnce: true }),
} as const
type Between = keyof typeof BETWEEN

interface Variant {
  readonly packed: boolean
  readonly shape: Shape
  readonly between: Between
  readonly act: Act
  /** The look finds nothing. */
  readonly isGone: boolean
}

/** A run whose embedder acts in look `at`, counted from the first kick on. */
class Run {
  looks = 0
  readonly guest: RegionsGuest
  readonly virtio
  readonly saved: unknown
  readonly #variant: Variant
  readonly #at: number
  readonly #space = { start: 0, ram: new Uint8Array(RAM) }
  readonly #content = CONTENT.slice()
  readonly #disks: FakeDisk[] = []
  #isCounting = false
  /** A state that was saved is half of the old life and half of the new one. */
  #hasTorn = false
  #calls = 0
  /** RAM and calls when the embedder has acted. */
  #frozen: { readonly ram: Uint8Array; readonly calls: number } | undefined
  #top = 0x4000

  constructor(variant: Variant, at: number) {
    this.#variant = variant
    this.#at = at
    const { packed, shape: { disk, features = [F.FLUSH], isObserved } } = variant
    const look = (): boolean => this.#look()
    class Guest extends RegionsGuest {
      override region(address: number): RamRegion | undefined {
        return look() ? super.region(address) : undefined
      }
    }
    this.guest = new Guest({
      backing: this.newDisk(), spaces: [this.#space], queues: [0], packed, size: 32,
      features: [F.INDIRECT_DESC, F.WRITE_ZEROES, F.RING_RESET, ...features],
      disk: {
        ...(isObserved === true && { observer: () => this.#observe() }), ...disk,
        withFeatures: [...(packed ? (["RING_PACKED"] as const) : []), ...(disk?.withFeatures ?? [])],
      },
    })
    this.guest.onInterrupt = () => this.#replaceRam()
    this.virtio = this.guest.disk.virtio
    this.saved = this.virtio.saveState()
  }

  readonly newDisk = (): FakeDisk => {
    const { later, without = [], disk } = this.#variant.shape
    const one = new FakeDisk({ content: this.#content, without })
    if (later !== undefined) one.waits = () => later(this.#calls)
    one.failing = ({ name, offset }) => {
      this.#calls++
      return name === "read" && offset === 9 * 512 && disk?.readErrors !== undefined ? eio() : undefined
    }
    one.answered = () => this.#replaceRam()
    this.#disks.push(one)
    return one
  }

  /** Another buffer, which has the same content. */
  #replaceRam(): void {
    const space = this.#space
    const old = space.ram
    space.ram = old.slice()
    if (this.#frozen === undefined) old.fill(0xcc)
    this.guest.regions = [new RamRegion(0, space.ram)]
    this.guest.generation++
  }

  /** Saves a state, in the middle of a turn. A running device has an enabled queue, unless the queue alone was reset. */
  #observe(): void {
    this.#replaceRam()
    const { status, queues: [queue] } = this.virtio.saveState({ inFlight: "again" })
    this.#hasTorn ||= ((status & STATUS.DRIVER_OK) !== 0) !== queue?.enabled && this.#variant.act !== "resets the queue"
  }

  /** Returns whether the look may find something. */
  #look(): boolean {
    if (!this.#isCounting || this.looks++ !== this.#at) return true
    const { act, isGone } = this.#variant
    ACTS[act](this)
    this.#frozen = { ram: this.#space.ram.slice(), calls: this.#calls }
    return !isGone
  }

  get hasActed(): boolean {
    return this.#frozen !== undefined
  }

  async toTheEnd(): Promise<void> {
    this.#send(REQUESTS)
    this.#isCounting = true
    this.virtio.notify(0)
    this.#replaceRam()
    if (!this.hasActed) BETWEEN[this.#variant.between](this)
    await this.#answerAll()
    this.#isCounting = false
    if (this.#frozen !== undefined) await this.#expectNothingOf(this.#frozen)
    this.guest.disk.setThrottle(undefined)
    await this.#answerAll()
    expect(this.#hasTorn).toBe(false)
    expect(this.virtio.inFlight).toMatchObject({ count: 0, calls: 0, heldBytes: 0 })
  }

  /** The embedder acts while the device looks for a new ring, in which the driver has left other flags. */
  async opensRing(): Promise<void> {
    const { guest } = this
    const open = guest.openQueue.bind(guest)
    guest.openQueue = (index) => {
      const ring = open(index)
      this.#space.ram.fill(0xff, ring.used, ring.used + 4)
      return ring
    }
    this.#isCounting = true
    guest.start()
    this.#isCounting = false
    if (this.#frozen === undefined) throw new Error("the device did not look for its ring")
    await this.#expectNothingOf(this.#frozen)
  }

  async #answerAll(): Promise<void> {
    for (let round = 0, quiet = 0; quiet < 3 && round < 100; round++) {
      const waiting = this.#disks.flatMap((disk) => disk.waiting)[0]
      waiting?.finish()
      this.#replaceRam()
      await settled()
      quiet = waiting === undefined ? quiet + 1 : 0
    }
  }

  /** Nothing has come after the embedder's act; and the device goes on. */
  async #expectNothingOf({ ram, calls }: { readonly ram: Uint8Array; readonly calls: number }): Promise<void> {
    const { act } = this.#variant
    if (act !== "switches bus mastering off") expect(this.guest.disk.throttle?.waiting ?? 0).toBe(0)
    expect(Buffer.compare(this.#space.ram, ram)).toBe(0)
    expect(this.#calls).toBe(calls)
    if (act === "switches bus mastering off") this.virtio.setBusMaster(true)
    else expect(this.guest.disk.brokenBy).toBe(undefined)
    await this.#answerAll()
    if (act === "resets the queue") this.guest.rings = [this.guest.openQueue(0)]
    // The rings in RAM are not those of the restored state.
    if (this.virtio.status !== UP || act === "restores a state") this.guest.start()
    this.guest.disk.resume()
    const [status] = this.#send([{ type: T.IN, sector: 40, in: 512 }])
    this.guest.disk.setThrottle(undefined)
    this.virtio.notify(0)
    await this.#answerAll()
    expect(this.#space.ram[status ?? 0]).toBe(OK)
  }

  /** Makes the requests available. Returns the addresses of their status bytes. */
  #send(requests: readonly Request[]): number[] {
    const [ring] = this.guest.rings
    if (ring === undefined) throw new Error("there is no ring")
    const { ram } = this.#space
    return requests.map((request) => {
      const { out = new Uint8Array(0), in: inLength = 0 } = request
      const place = (length: number): number => (this.#top += length + 16) - length
      const [head, data, status] = [place(16), place(out.length + inLength), place(1)]
      ram.set(header(request), head)
      ram.set(out, data)
      ram[status] = UNTOUCHED
      ring.publish(ring.chain([
        { address: head, length: 16, writable: false },
        ...(out.length + inLength > 0 ? [{ address: data, length: out.length + inLength, writable: inLength > 0 }] : []),
        { address: status, length: 1, writable: true },
      ]))
      return status
    })
  }
}

/** At every look, with either ring, whether it finds something or nothing. */
async function atEveryLook(shape: Shape, between: Between, act: Act): Promise<void> {
  for (const packed of [false, true]) {
    for (const isGone of [false, true]) {
      const variant: Variant = { shape, packed, between, act, isGone }
      const whole = new Run(variant, -1)
      await whole.toTheEnd()
      expect(whole.looks).toBeGreaterThan(10)
      for (let at = 0; at < whole.looks; at++) {
        await new Run(variant, at).toTheEnd().catch((error: unknown) => {
          throw new Error(`packed ${packed}, gone ${isGone}, look ${at} of ${whole.looks}: ${String(error)}`, { cause: error })
        })
      }
    }
  }
}

it.each([false, true])("an embedder may switch bus mastering off while the device looks for a new ring, packed: %s", async (packed) => {
  for (const at of [0, 1, 2]) {
    await new Run({ packed, shape: {}, between: "nothing", act: "switches bus mastering off", isGone: false }, at).opensRing()
  }
})

describe.each(Object.keys(ACTS) as Act[])("an embedder that %s in a look for RAM", (act) => {
  it.each(Object.keys(SHAPES))(
    "harms no request, over a disk that answers %s",
    async (name) => atEveryLook(SHAPES[name] ?? {}, "nothing", act),
  )

  it.each<Between>([
    "a state is saved", "another disk comes",
  ])("harms no request when meanwhile %s, over a disk that answers later", async (between) =>
    atEveryLook({ later: () => true }, between, act))

  it("harms no request when meanwhile its own state is restored, over a disk that answers in order, later every other time", async () =>
    atEveryLook(IN_ORDER, "its own state is restored", act))
})
