/**
 * The embedder fuzzer: an embedder that does to the device whatever it likes from inside of whatever the device calls (its backing, an
 * observer, `onError`, `onStop`, an interrupt, the memory's `written`): it resets it, unplugs it, kicks it, puts other disks in, replaces
 * its memory. Nothing may hang or be lost, no old life may reach RAM, and at the end an ordinary driver must find an ordinary disk.
 */
import { Throttle } from "../../../src/index.ts"
import { BlockDriver, findBlockDevices } from "../../../src/vmm/driver/block/driver.ts"
import { RamAllocator } from "../../../src/vmm/driver/ram-allocator.ts"
import type { AttachDiskOptions } from "../../../src/vmm/machine.ts"
import type { VirtioBlk } from "../../../src/virtio/blk/device.ts"
import { settled } from "../../harness/fake-disk.ts"
import { RingGuest } from "../../harness/guest.ts"
import type { Rng } from "../../support/rng.ts"
import { ManualClock } from "../../virtio/blk/throttling/manual-clock.ts"
import { SECTOR, SectorModel } from "../sector-model.ts"
import { actsOf, type Act, type Acting, tolerate } from "./acts.ts"
import { type CallingDisk, callingDisk, type Embedder, injected, type Waiting } from "./calling-disk.ts"
import { type Choices, drawChoices, featuresOf, MAX_PAGES, ramOf } from "./choices.ts"
import { EmbeddedGuest, SECTORS } from "./guest.ts"

const EVENTS = 120
const SLOT = 4
/** What is left is through after so many turns, or never. */
const MOST_TURNS = 400
/** The embedder is called from inside of what it does, and so on, so deep. */
const DEEPEST = 2
/** Calls where memory may be replaced: none of them holds views of it. */
const MAY_GROW = /interrupt|observer|onStop|top/

export class EmbedderFuzzer implements Embedder, Acting {
  /** What was done, by where and what. */
  readonly counts = new Map<string, number>()
  readonly rng: Rng
  readonly waiting: Waiting[] = []
  readonly clock = new ManualClock()
  readonly choices: Choices
  size = SECTOR * SECTORS
  /** Nobody does anything in between, and nothing fails. */
  isCalm = true
  needsStart = false
  isAttached = true
  guest: RingGuest
  readonly #hasBugs: boolean
  readonly #model = new SectorModel(SECTORS)
  readonly #sender: EmbeddedGuest
  readonly #acts: readonly Act[]
  readonly #history: string[] = []
  #depth = 0
  #mayFail = false
  /** RAM, where nothing may be stored until the guest starts again. */
  #deadRam: Uint8Array | undefined

  /** `hasBugs`: backings throw what is not a `BackingError`, too, which ends up where nobody catches it. */
  constructor(rng: Rng, { hasBugs }: { readonly hasBugs: boolean }) {
    this.rng = rng
    this.#hasBugs = hasBugs
    this.choices = drawChoices(rng)
    this.#sender = new EmbeddedGuest(rng, this.#model, this.choices.queues)
    this.#acts = actsOf(this)
    this.guest = this.#attach(new Uint8Array(this.size))
    this.isCalm = false
  }

  /** Runs some events, lets all come to its end, and drives the disk as a driver does. @throws Error that says what was done last */
  async run(): Promise<void> {
    try {
      for (let left = EVENTS; left > 0; left--) await this.#event()
      await this.#drain()
      await this.#driver()
    } catch (error) {
      const told = error instanceof Error ? error.message : String(error)
      throw new Error(`${told}; ${JSON.stringify(this.choices)}; the last: ${this.#history.slice(-20).join(", ")}`, { cause: error })
    }
  }

  get device(): VirtioBlk {
    return this.guest.disk.device
  }

  get content(): Uint8Array {
    return (this.device.backing as CallingDisk).content
  }

  diskOver(content: Uint8Array): CallingDisk {
    return callingDisk(this, this.choices.disk, content)
  }

  // --- What the device calls ---

  inside(where: string): void {
    if (this.isCalm || this.#depth > DEEPEST || !this.rng.chance(this.choices.share)) return
    this.act(where)
  }

  failure(): unknown {
    if (this.isCalm || !this.choices.hasErrors || !this.rng.chance(0.08)) return undefined
    this.noteFailure()
    return injected(this.rng, { hasBugs: this.#hasBugs })
  }

  /** Does anything at all. What an embedder is refused it is told by an error, which is no bug of its own. */
  act(where: string): void {
    const { name, act } = this.rng.pick(this.#acts.filter(({ needsDisk }) => this.isAttached || !needsDisk))
    this.#note(`${where}: ${name}`)
    this.#depth++
    try {
      if (MAY_GROW.test(where) && this.rng.chance(0.1)) this.#grow()
      act()
    } catch (error) {
      tolerate(error)
    } finally {
      this.#depth--
    }
  }

  #note(what: string): void {
    this.#history.push(what)
    this.counts.set(what, (this.counts.get(what) ?? 0) + 1)
  }

  /** All views of the memory are empty from here on. */
  #grow(): void {
    const { memory } = this.choices
    if (memory !== undefined && memory.buffer.byteLength < MAX_PAGES << 16) memory.grow(1)
  }

  // --- What the acts need ---

  noteFailure(): void {
    this.#mayFail = true
  }

  /** The present life is over: what is in flight comes to nothing. */
  endLife(end: () => void): void {
    this.#sender.forget()
    this.needsStart = true
    end()
    this.#deadRam = this.guest.machine.ram.slice()
  }

  forgetRing(ring: RingGuest["ring"]): void {
    this.#sender.forget(ring)
  }

  // --- Events ---

  #attach(content: Uint8Array): RingGuest {
    const { choices } = this
    const before = this.isCalm
    this.isCalm = true
    const guest = new RingGuest({
      backing: this.diskOver(content), packed: choices.isPacked, ringSize: choices.ringSize, queues: choices.queues,
      machine: { ...ramOf(choices), ...(choices.hasWritten && { written: () => this.#depth === 0 && this.inside("written") }) },
      disk: this.#options(), features: featuresOf(choices),
    })
    guest.machine.interrupts.subscribe(() => this.inside("interrupt"))
    this.isCalm = before
    this.isAttached = true
    this.needsStart = false
    this.#deadRam = undefined
    return guest
  }

  #options(): AttachDiskOptions {
    const { isPacked, isInOrder, queues, readErrors, writeErrors, latency, isThrottled, hasObserver } = this.choices
    return {
      slot: SLOT, queues, readErrors, writeErrors, latency,
      withFeatures: [...(isPacked ? (["RING_PACKED"] as const) : []), ...(isInOrder ? (["IN_ORDER"] as const) : []), "SUSPEND"],
      ...(isThrottled && { throttle: new Throttle({ requests: 300, writeBytes: 100_000 }, { clock: this.clock }) }),
      ...(hasObserver && { observer: () => this.inside("observer") }),
      onError: () => this.inside("onError"),
      onStop: () => {
        this.inside("onStop")
        if (this.rng.chance(0.7)) this.device.resume()
      },
    }
  }

  async #event(): Promise<void> {
    if (!this.isAttached) await this.#replug()
    if (this.needsStart) return await this.#startAgain()
    const roll = this.rng.below(11)
    if (roll < 4) this.#send()
    else if (roll < 8) this.#answer()
    else if (roll < 10) this.#guarded(() => this.act("top"))
    else this.#passTime()
    if (this.rng.chance(0.6)) await settled()
    if (this.needsStart) this.#checkRam()
    else this.#collect()
    const { brokenBy } = this.device
    if (this.isAttached && brokenBy !== undefined) throw new Error(`the device is broken: ${brokenBy.message}`)
  }

  #send(): void {
    const ring = this.#sender.send(this.guest)
    if (ring !== undefined) this.#guarded(() => this.guest.kick(ring))
  }

  #answer(): void {
    const waiting = this.#takeWaiting()
    if (waiting === undefined) return
    if (!this.choices.hasErrors || !this.rng.chance(0.1)) return waiting.answer()
    this.noteFailure()
    waiting.answer(injected(this.rng, { hasBugs: this.#hasBugs }))
  }

  #takeWaiting(): Waiting | undefined {
    return this.waiting.splice(this.rng.below(Math.max(this.waiting.length, 1)), 1)[0]
  }

  #passTime(): void {
    this.#guarded(() => this.clock.runTo(this.clock.time + this.rng.below(20)))
    if (this.device.stoppedBy !== undefined) this.#guarded(() => this.device.resume())
  }

  /** A bug that was injected comes out where the device was called. */
  #guarded(act: () => void): void {
    try {
      act()
    } catch (error) {
      if (!this.#hasBugs || !isInjectedBug(error)) throw error
    }
  }

  #collect(): void {
    const { readErrors, writeErrors, hasEventIdx } = this.choices
    const tolerance = { mayFail: this.#mayFail, ignoresRead: readErrors === "ignore", ignoresWrite: writeErrors === "ignore" }
    this.#sender.collect(this.guest, tolerance, hasEventIdx)
  }

  #checkRam(): void {
    const dead = this.#deadRam
    if (dead === undefined) return
    const now = this.guest.machine.ram.subarray(0, dead.length)
    if (Buffer.compare(dead, now) === 0) return
    throw new Error(`byte ${now.findIndex((byte, at) => byte !== dead[at])} of RAM was stored into after the end of a life`)
  }

  async #startAgain(): Promise<void> {
    this.#checkRam()
    for (let count = this.rng.below(3); count > 0; count--) {
      this.#takeWaiting()?.answer()
      await settled()
    }
    this.#checkRam()
    if (this.isAttached) this.#start()
  }

  #start(): void {
    const { guest } = this
    this.isCalm = true
    this.#deadRam = undefined
    this.needsStart = false
    this.size = this.content.length
    this.device.capacityChanged()
    guest.modern.command = 7
    guest.modern.programVector(1, { address: 0xfee0_0000, data: 1 })
    guest.status = 0
    const status = guest.start()
    if (status !== 0x0f) throw new Error(`the device answers a start by status ${status}`)
    this.isCalm = false
  }

  /** Nothing of the old disk reaches RAM while its calls are answered; then another one is plugged. */
  async #replug(): Promise<void> {
    const old = this.device
    const { content } = this
    for (const waiting of this.waiting.splice(0)) waiting.answer()
    await settled()
    await settled()
    this.#checkRam()
    await soon(old.whenIdle(), "a device that was unplugged is never idle")
    this.#checkNothingHeld(old)
    this.#sender.forget()
    this.guest = this.#attach(content)
  }

  #checkNothingHeld({ virtio: { inFlight: { count, calls, heldBytes, oldChanges } } }: VirtioBlk): void {
    if (count + calls + heldBytes + oldChanges === 0) return
    throw new Error(`an idle device holds ${count} requests, ${calls} calls, ${heldBytes} bytes, ${oldChanges} old changes`)
  }

  // --- The end ---

  async #drain(): Promise<void> {
    if (!this.isAttached) await this.#replug()
    this.isCalm = true
    this.size = this.content.length
    this.device.capacityChanged()
    this.device.setReadOnly(false).catch(tolerate)
    if (this.needsStart) {
      this.#checkRam()
      this.#start()
      this.isCalm = true
    }
    this.guest.modern.command = 7
    for (let turn = 0; turn < MOST_TURNS && this.#sender.flights.size + this.waiting.length > 0; turn++) {
      for (const waiting of this.waiting.splice(0)) waiting.answer()
      this.#guarded(() => this.device.resume())
      this.#guarded(() => this.clock.runTo(this.clock.time + 100))
      await settled()
      this.#collect()
    }
    if (this.#sender.flights.size > 0) throw new Error(`${this.#sender.flights.size} requests never came back`)
    await soon(this.device.whenIdle(), "the device is never idle")
    this.#checkNothingHeld(this.device)
    const problem = this.#model.see(0, this.content)
    if (problem !== undefined) throw new Error(`the disk: ${problem}`)
  }

  async #driver(): Promise<void> {
    this.device.setThrottle(undefined)
    this.#guarded(() => this.device.resume())
    await settled()
    this.guest.status = 0
    const [found] = findBlockDevices(this.guest.machine)
    if (found === undefined) throw new Error("no disk on the bus")
    const memory = new RamAllocator({ start: 0x1000, length: 0x7_0000 })
    const driver = await soon(BlockDriver.open(found, { queues: this.choices.queues, memory }), "a driver never starts")
    const data = this.rng.bytes(4 * SECTOR)
    await soon(driver.write(0, data), "a driver's write hangs")
    const read = await soon(driver.read(0, 4), "a driver's read hangs")
    if (Buffer.compare(read, data) !== 0) throw new Error("a driver reads other than it wrote")
  }
}

/** Was thrown by a backing, as a bug of its own. */
export function isInjectedBug(error: unknown): boolean {
  return error instanceof Error && error.message === "injected bug"
}

/** `promise`, which nothing but the thread's turns can keep waiting. */
async function soon<T>(promise: Promise<T>, message: string): Promise<T> {
  let isDone = false
  const watched = promise.finally(() => (isDone = true))
  watched.catch(() => undefined)
  for (let turn = 0; !isDone; turn++) {
    if (turn > 20_000) throw new Error(message)
    await settled()
  }
  return await watched
}
