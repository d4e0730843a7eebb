/** One of the guests of the regions fuzzer, with its device and its disk: it does what it is told, and sees what no device may do. */
import type { RamRegion } from "../../../src/virtio/guest-memory.ts"
import { settled } from "../../harness/fake-disk.ts"
import { RegionsGuest, RING_BYTES } from "../../harness/regions-guest.ts"
import { UP } from "../../harness/words.ts"
import { type DiskOwner, regionsDisk } from "./disk.ts"
import { type Life, SECTORS } from "./life.ts"
import { SeveralRegions } from "./ram.ts"
import type { DrawnRequest } from "./requests.ts"
import { promisedBy, type Queue, queueOf } from "./queue.ts"
import { alone, Injected, type Way } from "./ways.ts"

/** What somebody does to a guest, its device or its disk. */
export type Step = (side: Side) => void

/** When the device calls somebody, who may do anything: its disk, at both ends of a call, an interrupt handler, an observer, the memory. */
export type Moment =
  | "in a call" | "at the end of a call" | "in an interrupt" | "told of a request" | "told of a store"
  | "in a look for RAM" | "in a look for a ring"

const CONTENT = Uint8Array.from({ length: 512 * SECTORS }, (_, at) => (at >>> 9) ^ at)
/** Turns of the thread in which a request is served, or never. */
const MOST_TURNS = 60
/** Of the cache mode in the configuration space. */
const WRITEBACK = 0x20

export class Side implements DiskOwner {
  readonly content = CONTENT.slice()
  readonly style
  /** Calls of the disk, interrupts and errors, in their order. */
  readonly log: string[] = []
  readonly guest: RegionsGuest
  queues: readonly Queue[] = []
  sectors = SECTORS
  /** What happens the next time. */
  readonly moments = new Map<Moment, Step>()
  /** Queues that have returned requests in this step. */
  served = 0
  /** Looks for a ring in which somebody has done something. */
  looks = 0
  /** Milliseconds of the clock, which stands still in each step. */
  now = 0
  /** What the next call of the disk fails with. */
  failure: unknown
  readonly #ram: SeveralRegions
  readonly way: Way
  readonly #life: Life
  #isPaused = false
  /** The device, which looks for RAM, is not idle, though it may say so. */
  #isLooking = false
  #isStoring = false
  /** The look for RAM finds nothing. */
  #isBlind = false
  /** Resets and starts. */
  #lives = 0
  /** A look of an old life has found nothing in this step. */
  #isNew = false
  #wrong: string | undefined

  constructor(way: Way, life: Life) {
    this.way = way
    this.#life = life
    this.style = life.style
    this.#ram = new SeveralRegions(life)
    this.guest = this.#newGuest()
    this.guest.onInterrupt = () => {
      this.log.push("interrupt")
      this.#happen("in an interrupt")
    }
    this.#followQueues()
  }

  #newGuest(): RegionsGuest {
    const { packed, inOrder, errors, queues, usedSpaces, features, hasWritten, hasObserver, isTimed, ringSize } = this.#life
    const finds = (address: number): boolean => this.#finds(address)
    class Guest extends RegionsGuest {
      override region(address: number): RamRegion | undefined {
        return finds(address) ? super.region(address) : undefined
      }
    }
    const guest = new Guest({
      backing: regionsDisk(this), spaces: this.#ram.spaces, queues, usedSpaces, packed, features, size: ringSize,
      disk: {
        ...errors, withFeatures: [...(packed ? (["RING_PACKED"] as const) : []), ...(inOrder ? (["IN_ORDER"] as const) : [])],
        ...(hasObserver && { observer: (request) => this.#happen("told of a request", JSON.stringify(request)) }),
        latency: isTimed ? "all" : "off",
        onError: (error) => void this.log.push(`error ${String(error)}`),
        ...(Object.values(errors).includes("stop") && { onStop: ({ kind }) => void this.log.push(`stop ${kind}`) }),
      },
    })
    if (hasWritten) guest.written = () => this.#happen("told of a store")
    return guest
  }

  #followQueues(): void {
    this.queues = this.guest.rings.map((ring) => queueOf(ring))
  }

  #happen(moment: Moment, told = ""): void {
    if (told !== "") this.log.push(told)
    const step = this.moments.get(moment)
    if (step === undefined) return
    this.moments.delete(moment)
    if (moment === "in a look for a ring") this.looks++
    const [wasLooking, wasStoring] = [this.#isLooking, this.#isStoring]
    this.#isLooking ||= moment.startsWith("in a look")
    this.#isStoring ||= moment === "told of a store"
    try {
      step(this)
    } finally {
      this.#isLooking = wasLooking
      this.#isStoring = wasStoring
    }
  }

  /** The device looks for RAM. Returns whether it finds any. */
  #finds(address: number): boolean {
    this.#isBlind = false
    const isRing = this.#ram.spaces.some(({ start }) => address >= start && address < start + RING_BYTES)
    if (isRing) this.#happen("in a look for a ring")
    this.#happen("in a look for RAM")
    return !this.#isBlind
  }

  // --- As the owner of a disk ---

  entered(call: string): unknown {
    this.log.push(call)
    if (this.#isPaused && !call.startsWith("flush")) this.#wrong ??= `${call}, though the device is paused and was idle`
    const { failure } = this
    this.failure = undefined
    this.#happen("in a call")
    return failure
  }

  worked(): void {
    this.#ram.freezeAgain()
  }

  left(): void {
    this.#happen("at the end of a call")
  }

  // --- What is done ---

  /** Puts a request into a queue that has room for it, and makes it available. */
  publish(request: DrawnRequest): void {
    const { queue: index, stores, pieces, table } = request
    const queue = this.#queue(index)
    const promised = promisedBy(request, (address) => this.#ram.byteAt(address))
    if (queue === undefined || !queue.hasRoom(promised.descriptors)) return
    for (const [address, bytes] of stores) this.#ram.store(address, bytes)
    const { ring } = queue
    if (table !== undefined) ring.table(pieces, table)
    const start = this.#ram.spaces[this.#life.queues[ring.index] ?? 0]?.start ?? 0
    queue.publish(table === undefined ? ring.chain(pieces) : ring.chainWithTable([], start + table, 16 * pieces.length), promised)
    this.#ram.freezeAgain()
  }

  /** Undefined after a reset. */
  #queue(index: number): Queue | undefined {
    return this.queues[index % this.#life.queues.length]
  }

  kick(index: number): void {
    const { virtio } = this.guest.disk
    if (this.way !== "short") for (const queue of virtio.queues) queue.shortcut = undefined
    this.#queue(index)?.kicked()
    this.attempt(() => virtio.notify(index % this.#life.queues.length))
  }

  /** Does what may throw what was injected. */
  attempt(act: () => void): void {
    try {
      act()
    } catch (error) {
      this.#thrown(error)
    }
  }

  #thrown(error: unknown): void {
    this.log.push(`thrown ${String(error)}`)
    if (!(error instanceof Injected)) this.#wrong ??= `it throws ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`
  }

  /** Not while the device looks for RAM, or tells of a store. */
  replaceRam(): void {
    if (this.#isLooking || this.#isStoring) return
    this.guest.regions = this.#ram.replace()
    this.guest.generation++
  }

  /** Nothing may be stored until the guest starts again. */
  reset(): void {
    this.#lives++
    this.guest.disk.virtio.writeStatus(0)
    this.queues = []
    this.#ram.freeze()
  }

  /** In a look for RAM: does `act`, and the look finds nothing. If `act` has begun a new life, that does not break it. */
  findNothing(act: Step): void {
    const lives = this.#lives
    this.#isBlind = true
    act(this)
    this.#isNew ||= this.#lives !== lives
  }

  /** Saves the state, and restores it at once. */
  restore(): void {
    const { disk } = this.guest
    const { isPaused } = disk.virtio.pauses
    disk.virtio.restoreState(disk.virtio.saveState({ inFlight: "again" }))
    if (!isPaused) disk.resume()
  }

  setBusMaster(enabled: boolean): void {
    if (enabled) this.#checkRam()
    // A broken device still ends what is in flight.
    if (enabled && this.guest.disk.brokenBy !== undefined) this.#ram.melt()
    this.guest.disk.virtio.setBusMaster(enabled)
    if (!enabled) this.#ram.freeze()
  }

  /** Nothing is called for new requests, if all are through. */
  pause(): void {
    void this.guest.disk.pause()
    this.#isPaused = !this.#isLooking && this.guest.disk.virtio.isIdle
  }

  resume(): void {
    this.#isPaused = false
    this.guest.disk.resume()
  }

  restart(): void {
    this.#lives++
    this.#ram.melt()
    // Nobody makes requests available before the device has looked for its new rings.
    this.queues = []
    this.guest.start()
    this.#followQueues()
  }

  /** The driver uses its rings' memory for others. */
  resetQueue(index: number): void {
    const number = index % this.#life.queues.length
    const { guest } = this
    guest.disk.virtio.resetQueue(number)
    if (guest.disk.virtio.status !== 0) {
      const ring = guest.openQueue(number)
      guest.rings = guest.rings.with(number, ring)
      // While the guest starts, there is none.
      if (this.queues.length > 0) this.queues = this.queues.with(number, queueOf(ring))
    }
    this.#ram.freezeAgain()
  }

  save(): void {
    this.log.push(JSON.stringify(this.guest.disk.virtio.saveState({ inFlight: "again" })))
  }

  anotherDisk(options: { readonly atOnce: boolean }): void {
    void this.guest.disk.changeBacking(regionsDisk(this), options).catch(() => undefined)
  }

  // --- Each step ---

  async act(step: Step): Promise<void> {
    await alone(this, (error) => this.#thrown(error), async () => {
      this.attempt(() => step(this))
      for (let turn = this.style === "late" || this.style === "now" ? 6 : 2; turn > 0; turn--) await settled()
      this.moments.clear()
      this.failure = undefined
    })
  }

  /** Whatever the step has left: the device takes requests, and serves what it was kicked for. */
  async goOn(): Promise<void> {
    const { disk } = this.guest
    await this.act(() => {
      // In vain, where it is paused, or may not touch RAM.
      this.kickAll()
      this.sectors = SECTORS
      disk.capacityChanged()
      disk.setThrottle(undefined)
      this.resume()
      this.setBusMaster(true)
      disk.virtio.writeConfig(WRITEBACK, 1, 1)
      void disk.setReadOnly(false).catch(() => undefined)
    })
    await this.#waitForOwed()
    await this.act(() => this.kickAll())
  }

  kickAll(): void {
    for (const index of this.queues.keys()) this.kick(index)
  }

  async #waitForOwed(): Promise<void> {
    await alone(this, (error) => this.#thrown(error), async () => {
      for (let turn = MOST_TURNS; turn > 0 && this.#isOwed; turn--) await settled()
    })
  }

  /** Takes what has come back. @throws Error when something is wrong, or was */
  async collect(): Promise<void> {
    await this.#waitForOwed()
    if (this.#isOwed) this.#wrong ??= "a request that it was kicked for is not served"
    this.#checkRam()
    for (const queue of this.queues) {
      const taken = queue.take()
      if (taken.length > 0) this.served++
      this.log.push(JSON.stringify(taken))
      this.#wrong ??= queue.problem(this.guest.irqs)
    }
    const broken = this.guest.disk.brokenBy?.message ?? ""
    if (this.#isNew && /not RAM any more|not in one piece/.test(broken)) this.#wrong ??= `an old life breaks the new one: ${broken}`
    if (this.#wrong !== undefined) throw new Error(`${this.way}: ${this.#wrong}`)
  }

  get #isOwed(): boolean {
    const { brokenBy, virtio } = this.guest.disk
    return brokenBy === undefined && virtio.status === UP && this.queues.some((queue) => queue.isOwed)
  }

  #checkRam(): void {
    const at = this.#ram.problem
    if (at !== undefined) this.#wrong ??= `RAM was stored into after a reset, or without bus mastering, in region ${at}`
    if (this.guest.disk.virtio.status === UP) this.#ram.melt()
  }

  /** A device that is broken, or was reset, begins anew. */
  endStep(): void {
    this.#isNew = false
    this.served = 0
    this.log.length = 0
    this.guest.irqs.length = 0
    if (this.guest.disk.virtio.status !== UP) this.restart()
  }

  // --- What can be seen ---

  /** RAM, but for what the device asks kicks for: it may say so sooner or later. */
  ram(): readonly Uint8Array[] {
    const parts = this.#ram.spaces.map(({ ram }) => ram.slice())
    for (const { used, size, index } of this.guest.rings) {
      const [from, to] = this.#life.packed ? [used, used + 4] : [used + 4 + 8 * size, used + 6 + 8 * size]
      parts[this.#life.usedSpaces[index] ?? 0]?.fill(0, from, to)
    }
    return parts
  }

  /** All the rest, as text. */
  rest(): string {
    const { disk: { statistics, brokenBy, virtio }, irqs } = this.guest
    const latencies = [statistics.read, statistics.write].map(({ latency }) => [latency?.count, latency?.sum, latency?.max])
    return JSON.stringify({
      log: this.log, statistics, latencies, broken: brokenBy?.message, status: virtio.status, irqs, idle: virtio.isIdle,
    })
  }
}
