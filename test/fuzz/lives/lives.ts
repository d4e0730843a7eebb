/**
 * The lives fuzzer: a guest that resets its device, its queues and its machine while requests are in flight over a disk that answers late,
 * out of order and with errors, and a host that changes, moves and unplugs the disk meanwhile; over every transport and both rings. Nothing
 * of an old life may reach the guest's RAM, no old write may land on a newer one, no request of the present life may be lost, and at the
 * end of it all an ordinary driver must find an ordinary disk.
 */
import { BlockDriver, findBlockDevices } from "../../../src/vmm/driver/block/driver.ts"
import { MmioDevice } from "../../../src/vmm/driver/virtio/mmio/mmio-device.ts"
import { RamAllocator } from "../../../src/vmm/driver/ram-allocator.ts"
import type { VirtioBlk } from "../../../src/virtio/blk/device.ts"
import { settled } from "../../harness/fake-disk.ts"
import { OK, STATUS, T } from "../../harness/words.ts"
import type { Rng } from "../../support/rng.ts"
import { LivesDisk } from "./disk.ts"
import { AREA, type Flight, Life, QUEUES } from "./guest.ts"
import { LivesMachine } from "./machine.ts"
import { Policies } from "./policies.ts"
import type { Place } from "./registers.ts"
import { DISCARDED, SECTOR, SectorModel } from "../sector-model.ts"

/** The type is in the DOM's library only. */
declare const WebAssembly: {
  readonly Memory: new (limits: { initial: number; maximum: number }) => { readonly buffer: ArrayBuffer; grow(pages: number): number },
}

const PAGES = 4
const MAX_PAGES = 12
const EVENTS = 120

/** The disk in its machine, over any transport. */
interface Attached {
  readonly place: Place
  readonly device: VirtioBlk
  readonly transport: {
    saveState(options?: { readonly inFlight?: "again" }): unknown
    restoreState(saved: unknown): void
  }
  readonly detach: () => void
}

export class LivesFuzzer {
  /** Events by kind. */
  readonly counts = new Map<string, number>()
  /** The longest time that one access of the guest, or one answer of the disk, held the thread. CPU time, milliseconds. */
  longestHold = 0
  readonly #rng: Rng
  readonly #memory = new WebAssembly.Memory({ initial: PAGES, maximum: MAX_PAGES })
  readonly #vm: LivesMachine
  #disk: LivesDisk
  readonly #policies: Policies
  readonly #kind: "PCI" | 1 | 2
  /** The guest is a big-endian one, whose drivers are legacy drivers. */
  readonly #isBigEndian: boolean
  #attached: Attached
  /** Changes of the disk that have not taken place. */
  #changing: Promise<unknown> = Promise.resolve()
  #isReadOnly = false
  #isSuspended = false
  /** How often `setReadOnly` has been called. */
  #switches = 0
  /**
   * RAM as it was, and where the device may store, as it is. One buffer for all events: the garbage collector's time would be measured too.
   */
  readonly #expected = new Uint8Array(MAX_PAGES << 16)
  readonly #model = new SectorModel(AREA * QUEUES)
  #life: Life
  #value = 0
  #isMaster = true
  #mayBeBroken = false

  constructor(rng: Rng) {
    this.#rng = rng
    const ram = rng.chance(0.5) ? { memory: this.#memory } : { ramSize: PAGES << 16 }
    this.#vm = new LivesMachine(ram, rng.pick([0, 0x3000, 0x8642]))
    this.#kind = rng.pick(["PCI", "PCI", 1, 2])
    this.#isBigEndian = this.#kind !== 2 && rng.chance(0.3)
    this.#policies = new Policies(rng)
    this.#disk = this.#diskOver(new Uint8Array(SECTOR * AREA * QUEUES))
    this.#attached = this.#attach()
    this.#life = new Life(rng, this.#vm, this.#attached.place)
  }

  /** Runs some lives, and then a driver. @throws Error that says what was done and what came of it. */
  async run(): Promise<void> {
    this.#life.start()
    for (let left = EVENTS; left > 0; left--) await this.#event()
    await this.#drain()
    await this.#driver()
  }

  #diskOver(content: Uint8Array): LivesDisk {
    const disk = new LivesDisk(this.#rng, content)
    disk.isWanted = (call) => this.#isWanted(call.offset / SECTOR, call.length / SECTOR)
    return disk
  }

  #attach(): Attached {
    const withFeatures = ["RING_PACKED", "IN_ORDER", "SUSPEND"] as const
    const options = { queues: QUEUES, queueSize: 16, withFeatures, ...this.#policies.options } as const
    const isBigEndian = this.#isBigEndian
    if (this.#kind === "PCI") {
      const big = isBigEndian ? { interface: "legacy", guestEndian: "big" } as const : {}
      const { slot, device, function: transport } = this.#vm.attachDisk(this.#disk, { ...options, ...big, vectors: 0, slot: 4 })
      return { place: { slot, isBigEndian }, device, transport, detach: () => this.#vm.detachDisk(slot) }
    }
    const version = this.#kind
    const guestEndian = isBigEndian ? "big" : "little"
    const { address, line, device, transport } = this.#vm.attachMmioDisk(this.#disk, { ...options, version, guestEndian })
    return { place: { address, line, version, isBigEndian }, device, transport, detach: () => this.#vm.detachMmioDisk(address) }
  }

  async #event(): Promise<void> {
    const events: readonly (readonly [number, string, () => Promise<void>])[] = [
      [40, "send", () => this.#send()],
      [45, "answer", () => this.#answer()],
      [4, "device reset", () => this.#reset("device")],
      [2, "machine reset", () => this.#reset("machine")],
      [4, "queue reset", () => this.#resetQueue()],
      [6, "bus mastering", () => this.#switchBusMastering()],
      [1, "broken ring", () => this.#break()],
      [3, "memory grows", () => this.#grow()],
      [2, "pause and resume", () => this.#pause()],
      [2, "save and restore", () => this.#saveAndRestore()],
      [10, "time passes", () => this.#watch(() => this.#policies.pass())],
      [4, "resume", () => this.#watch(() => this.#attached.device.resume())],
      [2, "limits change", () => this.#watch(() => this.#policies.changeLimits(this.#attached.device))],
      [2, "move", () => this.#move()],
      [2, "another disk", () => this.#change()],
      [2, "another disk at once", () => this.#changeAtOnce()],
      [2, "read-only switch", () => this.#switchReadOnly()],
      [2, "another size", () => this.#resize()],
      [3, "suspend and resume", () => this.#suspend()],
      [1, "unplug and plug", () => this.#replug()],
    ]
    let at = this.#rng.below(events.reduce((sum, [weight]) => sum + weight, 0))
    const [, name, act] = events.find(([weight]) => (at -= weight) < 0) ?? [0, "", () => Promise.resolve()]
    this.counts.set(name, (this.counts.get(name) ?? 0) + 1)
    try {
      await act()
      if (this.#disk.wrong !== undefined) throw new Error(this.#disk.wrong)
    } catch (error) {
      throw new Error(`${name}: ${error instanceof Error ? error.message : String(error)}`, { cause: error })
    }
  }

  async #send(): Promise<void> {
    if (!this.#life.hasRoom) return this.#reset("device")
    const queue = this.#rng.below(QUEUES)
    const heads: number[] = []
    for (let count = this.#rng.between(1, 4); count > 0; count--) {
      const flight = this.#life.prepare(queue, ++this.#value, this.#isReadOnly ? -1 : this.#disk.errors)
      if (flight !== undefined) heads.push(flight.head)
    }
    const ring = this.#life.rings.get(queue)
    if (ring === undefined) return
    ring.publish(...heads)
    await this.#watch(() => this.#life.guest.kick(queue))
  }

  async #answer(): Promise<void> {
    const { waiting } = this.#disk
    if (waiting.length === 0) return
    const one = this.#rng.pick(waiting)
    await this.#watch(() => (this.#rng.chance(0.15) ? this.#disk.fail(one) : one.finish()))
  }

  /** What is in flight belongs to an old life from here on. The new one does not wait. */
  async #reset(what: "device" | "machine"): Promise<void> {
    this.#forget()
    this.#disk.endLife()
    await this.#watch(() => {
      if (what === "machine") this.#vm.reset()
      const problem = this.#life.reset()
      if (problem !== undefined) throw new Error(problem)
    })
    for (let count = this.#rng.below(3); count > 0; count--) await this.#answer()
    await this.#beginLife()
  }

  /** A driver finds the device as it is after a reset. */
  async #beginLife(): Promise<void> {
    this.#life = new Life(this.#rng, this.#vm, this.#attached.place)
    this.#isMaster = true
    this.#isSuspended = false
    this.#mayBeBroken = false
    this.#life.start()
    await this.#watch(() => undefined)
  }

  async #resetQueue(): Promise<void> {
    if (!this.#life.canResetQueues) return
    const queue = this.#rng.below(QUEUES)
    this.#forget(queue)
    this.#disk.endLife(queue * AREA * SECTOR, (queue + 1) * AREA * SECTOR)
    const old = this.#life.rings.get(queue)
    await this.#watch(() => {
      const problem = this.#life.resetQueue(queue)
      if (problem !== undefined) throw new Error(problem)
    })
    // The driver uses the memory for something else.
    if (old !== undefined) this.#vm.ram.fill(0xee, old.desc, old.used + 6 + 8 * old.size)
    if (!this.#life.hasRoom) return this.#reset("device")
    this.#life.openQueue(queue)
    await this.#watch(() => undefined)
  }

  /** A head that cannot be. What is in flight is answered all the same, until the driver resets the device. */
  async #break(): Promise<void> {
    const ring = this.#life.rings.get(0)
    if (ring !== undefined) this.#life.breakRing(ring)
    this.#mayBeBroken = true
    await this.#watch(() => this.#life.guest.kick(0))
    for (let count = this.#rng.below(3); count > 0; count--) await this.#answer()
    await this.#reset("device")
  }

  async #switchBusMastering(): Promise<void> {
    const { setBusMaster } = this.#life.guest
    if (setBusMaster === undefined) return
    this.#isMaster = !this.#isMaster
    await this.#watch(() => setBusMaster(this.#isMaster))
  }

  async #grow(): Promise<void> {
    if (this.#vm.ram.buffer !== this.#memory.buffer || this.#memory.buffer.byteLength >> 16 >= MAX_PAGES) return
    await this.#watch(() => void this.#memory.grow(1))
  }

  async #pause(): Promise<void> {
    const { device } = this.#attached
    await this.#watch(() => {
      void device.pause()
    })
    if (this.#rng.chance(0.5)) await this.#answer()
    await this.#watch(() => device.resume())
  }

  async #saveAndRestore(): Promise<void> {
    if (this.#disk.waiting.length > 0) return
    const { device, transport } = this.#attached
    await this.#watch(() => {
      void device.pause()
      const text = JSON.stringify(transport.saveState())
      transport.restoreState(JSON.parse(text))
      const again = JSON.stringify(transport.saveState())
      if (again !== text) throw new Error(`the state came back as ${again}, it was ${text}`)
      device.resume()
    })
  }

  /** The disk goes on as another one, with requests in flight that are done again; the old one still answers some of its own. */
  async #move(): Promise<void> {
    await this.#changed()
    const old = this.#disk
    await this.#watch(() => {
      const text = JSON.stringify(this.#attached.transport.saveState({ inFlight: "again" }))
      this.#attached.detach()
      this.#policies.gone(this.#attached.device)
      this.#takeOver(old)
      this.#attached = this.#attach()
      this.#attached.transport.restoreState(JSON.parse(text))
      this.#attached.device.resume()
    })
    await this.#finishSome(old)
  }

  /** A new disk with what is on `old` now. */
  #takeOver(old: LivesDisk): void {
    this.#disk = this.#diskOver(old.cache.slice())
    this.#disk.errors = old.errors
    this.#disk.size = old.size
    if (old.wrong !== undefined) throw new Error(old.wrong)
  }

  /** Nobody is waiting for these any more. */
  async #finishSome(old: LivesDisk): Promise<void> {
    await this.#watch(() => {
      for (const waiting of old.waiting.splice(0)) if (this.#rng.chance(0.7)) waiting.finish()
    })
  }

  /** Once what is in flight has been answered. Same content: a drained disk has no secrets from its successor. */
  async #change(): Promise<void> {
    await this.#changed()
    const next = this.#diskOver(this.#disk.cache)
    next.size = this.#disk.size
    await this.#watch(() => {
      this.#changing = this.#attached.device.changeBacking(next).then(() => {
        next.errors += this.#disk.errors
        this.#disk = next
      }, (error: unknown) => {
        // A flush that fails, as any of its calls may, leaves the old disk where it is.
        if (!/injected|called again/.test(String(error))) throw error
      })
    })
    for (let count = this.#rng.below(3); count > 0; count--) await this.#answer()
  }

  async #changeAtOnce(): Promise<void> {
    const old = this.#disk
    await this.#watch(() => {
      this.#takeOver(old)
      void this.#attached.device.changeBacking(this.#disk, { atOnce: true })
    })
    await this.#changed()
    await this.#finishSome(old)
  }

  /** Writes that were sent before may be refused, and so may those after it, until it is over. */
  async #switchReadOnly(): Promise<void> {
    const isReadOnly = !this.#isReadOnly
    this.#isReadOnly = true
    this.#disk.errors++
    this.#disk.isFrozen = false
    const number = ++this.#switches
    await this.#watch(() => {
      const change = this.#attached.device.setReadOnly(isReadOnly).then(() => {
        // A driver that has accepted RO cannot write before its next reset.
        if (number !== this.#switches) return
        this.#isReadOnly = this.#attached.device.readOnly
        this.#disk.isFrozen = isReadOnly
      })
      this.#changing = Promise.all([this.#changing, change])
    })
  }

  /** The sectors that the guest uses are there whatever the size is. */
  async #resize(): Promise<void> {
    await this.#watch(() => {
      this.#disk.size = SECTOR * (AREA * QUEUES + this.#rng.below(100))
      this.#attached.device.capacityChanged()
    })
  }

  /** What is in flight ends first; then nothing happens, whatever the driver and the host do. */
  async #suspend(): Promise<void> {
    const { guest } = this.#life
    if (!this.#life.canSuspend) return
    await this.#watch(() => {
      guest.status = guest.up | STATUS.SUSPEND
    })
    for (let count = this.#rng.below(3); count > 0; count--) await this.#answer()
    for (let turns = 0; (guest.status & (STATUS.SUSPEND | STATUS.DRIVER_OK)) !== STATUS.SUSPEND; turns++) {
      if (turns > 5000) throw new Error(`the status reads ${guest.status}, and the device is not suspended`)
      if (!this.#isMaster) await this.#switchBusMastering()
      // Throttled requests, and those of a stopped disk, have to end as well.
      this.#policies.pass()
      if (this.#attached.device.stoppedBy !== undefined) await this.#watch(() => this.#attached.device.resume())
      await this.#watch(() => this.#disk.waiting[0]?.finish())
    }
    this.#isSuspended = true
    for (let count = this.#rng.below(3); count > 0; count--) {
      await this.#rng.pick([() => this.#send(), () => this.#resize(), () => this.#watch(() => undefined)])()
    }
    if (this.#life.guest !== guest) return
    this.#isSuspended = false
    await this.#watch(() => {
      guest.status = guest.up
    })
  }

  /** Nothing of the old one reaches the guest; a new device must not come before the old one's writes have been answered. */
  async #replug(): Promise<void> {
    this.#forget()
    this.#disk.endLife()
    const { device } = this.#attached
    // All ones are read where nothing is.
    this.#mayBeBroken = true
    await this.#watch(() => this.#attached.detach())
    await this.#changed()
    while (this.#disk.waiting.length > 0) await this.#watch(() => this.#disk.waiting[0]?.finish())
    await device.whenIdle()
    this.#policies.gone(device)
    this.#isReadOnly = this.#disk.isFrozen = false
    this.#attached = this.#attach()
    await this.#beginLife()
  }

  /** Waits for changes of the disk to take place, which they do once it has answered. */
  async #changed(): Promise<void> {
    let isDone = false
    const done = this.#changing.then(() => (isDone = true))
    while (!isDone) {
      if (!this.#isMaster) await this.#switchBusMastering()
      await this.#watch(() => this.#disk.waiting[0]?.finish())
    }
    await done
  }

  /** Runs `act` and all that follows from it. The device may store where the present life lets it, and nowhere else. */
  async #watch(act: () => void): Promise<void> {
    const expected = this.#expected.subarray(0, this.#vm.ram.length)
    expected.set(this.#vm.ram)
    const writable = this.#mayStore ? this.#life.writable() : []
    const start = process.cpuUsage()
    act()
    const { user, system } = process.cpuUsage(start)
    this.longestHold = Math.max(this.longestHold, (user + system) / 1000)
    await settled()
    this.#policies.pass(this.#rng.below(6))
    await settled()
    const after = this.#vm.ram.subarray(0, expected.length)
    for (const { start: from, end } of this.#mayStore ? [...writable, ...this.#life.writable()] : []) {
      expected.set(after.subarray(from, end), from)
    }
    if (Buffer.compare(expected, after) !== 0) {
      throw new Error(
        `byte ${after.findIndex((byte, index) => byte !== expected[index])} of RAM was stored into, which is not the device's`,
      )
    }
    if (this.#life.isBroken && !this.#mayBeBroken) throw new Error(`the device is broken: ${this.#attached.device.brokenBy?.message}`)
    this.#collect()
  }

  get #mayStore(): boolean {
    return this.#isMaster && !this.#isSuspended
  }

  /** Takes what the device has returned. */
  #collect(): void {
    const { rings, flights, guest } = this.#life
    for (const [queue, ring] of rings) {
      const used = ring.takeUsed()
      if (used.length === 0) continue
      if (!guest.interrupted && !this.#mayBeBroken) throw new Error(`queue ${queue} returned ${used.length} buffers without an interrupt`)
      for (const { id, length } of used) {
        const flight = flights.get(`${queue}:${id}`)
        if (flight === undefined) throw new Error(`queue ${queue} returned ${id}, which is not in flight`)
        const isOvertaking = this.#life.isInOrder && [...flights.values()].find((one) => one.queue === queue) !== flight
        if (isOvertaking) throw new Error(`queue ${queue} returned ${id} before one that came earlier`)
        flights.delete(`${queue}:${id}`)
        this.#judge(flight, length)
      }
      this.#life.wantInterrupt(ring)
    }
    guest.acknowledge()
  }

  #judge(flight: Flight, length: number): void {
    const { type, first, count } = flight
    const status = this.#vm.ram[flight.status]
    const value = valueOf(flight)
    const text = `request ${type} of sectors ${first} to ${first + count}`
    if (status !== OK) {
      if (status !== 1 || flight.errors === this.#disk.errors) throw new Error(`${text}: status ${status}, and no error was injected`)
      if (value !== undefined) this.#model.allow(first, count, value)
      return
    }
    if (length !== (type === T.IN ? count * SECTOR + 1 : 1)) throw new Error(`${text}: used length ${length}`)
    if (value !== undefined) this.#model.set(first, count, value)
    const problem = type === T.IN ? this.#model.see(first, this.#life.dataOf(flight)) : undefined
    if (problem !== undefined) throw new Error(`${text}: ${problem}`)
  }

  /** The requests in flight, of one queue or of all, come to nothing for the guest. */
  #forget(queue?: number): void {
    for (const [key, flight] of this.#life.flights) {
      if (queue !== undefined && flight.queue !== queue) continue
      const value = valueOf(flight)
      if (value !== undefined) this.#model.allow(flight.first, flight.count, value)
      this.#life.flights.delete(key)
    }
    if (queue === undefined) this.#life.rings.clear()
    else this.#life.rings.delete(queue)
  }

  #isWanted(first: number, count: number): boolean {
    return [...this.#life.flights.values()].some((flight) => flight.first < first + count && first < flight.first + flight.count)
  }

  /** Lets everything come to its end: nothing may be left behind. */
  async #drain(): Promise<void> {
    this.#disk.isCalm = true
    await this.#changed()
    this.#disk.isCalm = true
    if (this.#isReadOnly) await this.#switchReadOnly()
    await this.#changed()
    if (!this.#isMaster) await this.#switchBusMastering()
    for (let turns = 0; turns < 10_000 && (this.#disk.waiting.length > 0 || this.#life.flights.size > 0); turns++) {
      await this.#watch(() => this.#disk.waiting[0]?.finish())
      if (this.#attached.device.stoppedBy !== undefined) await this.#watch(() => this.#attached.device.resume())
      await this.#watch(() => this.#policies.pass(100))
    }
    if (this.#disk.wrong !== undefined) throw new Error(`drain: ${this.#disk.wrong}`)
    if (this.#life.flights.size > 0) throw new Error(`drain: ${this.#life.flights.size} requests never came back`)
    const problem = this.#model.see(0, this.#disk.cache) ?? this.#policies.problem(this.#attached.device)
    if (problem !== undefined) throw new Error(`drain: ${problem}`)
  }

  async #driver(): Promise<void> {
    this.#disk.isWanted = () => true
    // Its time stands still.
    this.#attached.device.setThrottle(undefined)
    const { place } = this.#attached
    const device = "slot" in place ? findBlockDevices(this.#vm)[0] : new MmioDevice(this.#vm, place)
    if (device === undefined) throw new Error("driver: no disk on the bus")
    this.#life.guest.status = 0
    this.#attached.device.setThrottle(undefined)
    this.#attached.device.resume()
    const { ramStart, ram } = this.#vm
    // Page 0 is none to a legacy device.
    const start = Math.max(ramStart, 0x1000)
    const memory = new RamAllocator({ start, length: ram.length - start })
    const driver = await BlockDriver.open(device, { queues: QUEUES, memory, guestEndian: this.#isBigEndian ? "big" : "little" })
    const data = this.#rng.bytes(SECTOR * AREA)
    for (let queue = 0; queue < QUEUES; queue++) {
      await driver.write(AREA * queue, data, { queue })
      await driver.flush({ queue })
      if (Buffer.compare(await driver.read(AREA * queue, AREA, { queue }), data) !== 0) throw new Error("driver: reads other than it wrote")
    }
    await driver.close()
  }
}

/** What a request leaves on the disk, or undefined when it changes nothing. */
function valueOf({ type, value }: Flight): number | undefined {
  if (type === T.OUT) return value
  if (type === T.DISCARD) return DISCARDED
  return type === T.WRITE_ZEROES ? 0 : undefined
}
