/**
 * VirtioDriver: brings a virtio PCI function up and down and keeps its queues: reset, negotiation, MSI-X vectors, rings,
 * DRIVER_OK, kicks, interrupts. It knows nothing of blocks. [VIRTIO] 3.1 and 4.1.5.
 */
import { DriverError } from "./errors.ts"
import { chooseFeatures, type FeatureChoice, featureNames, hasFeature } from "./features.ts"
import { GuestRam } from "./guest-ram.ts"
import { InterruptRouter } from "./interrupts.ts"
import { LegacyTransport } from "./legacy-transport.ts"
import { ModernTransport } from "./modern-transport.ts"
import type { MsixTable } from "./msix.ts"
import type { PciDevice } from "./pci-device.ts"
import { PCI_COMMAND } from "./pci-spec.ts"
import type { Platform } from "./platform.ts"
import { RamAllocator } from "./ram-allocator.ts"
import { SplitRing } from "./split-ring.ts"
import type { RingAllocation, VirtioTransport } from "./transport.ts"
import { virtioCapabilities } from "./virtio-capabilities.ts"
import { DEVICE_STATUS, ISR, NO_VECTOR, VIRTIO_PCI_CAP } from "./virtio-spec.ts"

/** How the driver learns of completions: "none" means that its owner polls. */
export type InterruptMode = "msix" | "intx" | "none"

export interface VirtioDriverOptions {
  /** Which interface to use. Default: modern where the device has it. */
  readonly transport?: "modern" | "legacy"
  /** How to reach a modern device's registers: through its BARs (default), or through the window in configuration space. */
  readonly access?: "bar" | "window"
  readonly features?: FeatureChoice
  /** Default: MSI-X where the device has it, else its interrupt line, else none. */
  readonly interrupts?: InterruptMode
  /** The largest ring wanted: a power of two. Ignored by legacy devices, whose queue size is fixed. Default: the device's. */
  readonly queueSize?: number
  /** Where rings and buffers come from. Default: `RamAllocator.of(platform)`. */
  readonly memory?: RamAllocator
  /** How long a reset may take, in milliseconds. Default 5000. */
  readonly resetTimeout?: number
}

/** What the owner of a `VirtioDriver` is told. Called from interrupts; must not throw. */
export interface VirtioDriverEvents {
  /** Buffers of this queue may have been used. */
  used(queue: VirtioQueue): void
  /** The configuration may have changed, or the device needs a reset: read both. */
  configurationChanged(): void
  /** Another driver has taken the device over and reset it: this one has no part in it any more. */
  superseded(): void
}

/** One virtqueue that is in use. */
export interface VirtioQueue {
  readonly index: number
  readonly ring: SplitRing
  /** Its MSI-X vector, or `NO_VECTOR`. */
  readonly vector: number
}

interface OpenQueue extends VirtioQueue {
  readonly ring: SplitRing
  readonly memory: RingAllocation
}

/** By platform and PCI address: the driver that negotiated last. Two on one device would take each other's interrupts. */
const owners = new WeakMap<Platform, Map<string, VirtioDriver>>()

/** A virtio device under the control of a driver. */
export class VirtioDriver {
  readonly pci: PciDevice
  readonly ram: GuestRam
  readonly memory: RamAllocator
  readonly transport: VirtioTransport
  readonly interrupts: InterruptMode
  /** Counted since the driver was made: notifications sent, notifications that the device did not want, interrupts received. */
  readonly counters = { kicks: 0, kicksSuppressed: 0, interrupts: 0, configurationChanges: 0 }
  readonly #options: VirtioDriverOptions
  readonly #events: VirtioDriverEvents
  readonly #router: InterruptRouter
  #msix: MsixTable | undefined
  #queues: OpenQueue[] = []
  #features = 0n
  #undoInterrupts: (() => void)[] = []

  /** Switches the function on (address decoding, bus mastering) and looks for its registers. Throws `DriverError`. */
  constructor(pci: PciDevice, events: VirtioDriverEvents, options: VirtioDriverOptions = {}) {
    this.pci = pci
    this.#events = events
    this.#options = options
    this.ram = new GuestRam(pci.platform)
    this.memory = options.memory ?? RamAllocator.of(pci.platform)
    this.#router = InterruptRouter.of(pci.platform)
    pci.enable()
    this.transport = openTransport(pci, options)
    this.#msix = pci.msix()
    this.interrupts = options.interrupts ?? (this.#msix !== undefined ? "msix" : pci.interruptLine !== undefined ? "intx" : "none")
    if (this.interrupts === "msix" && this.#msix === undefined) throw new DriverError("unsupported", `${pci.name}: the device has no MSI-X`)
  }

  /** The queues in use, by index. */
  get queues(): readonly VirtioQueue[] {
    return this.#queues
  }

  /** The negotiated feature bits. */
  get features(): bigint {
    return this.#features
  }

  /** The number of MSI-X vectors that the device has; 0 without MSI-X. */
  get vectors(): number {
    return this.#msix?.size ?? 0
  }

  /**
   * Resets the device, takes it over from whatever driver had it, and agrees on features. Throws `DriverError`: "timeout" when the reset does not end, "unsupported" for a
   * modern device without VERSION_1, "features-refused".
   */
  async negotiate(): Promise<void> {
    await this.resetDevice()
    this.#takeOver()
    this.setStatus(DEVICE_STATUS.ACKNOWLEDGE)
    this.setStatus(DEVICE_STATUS.DRIVER)
    const offered = this.transport.offeredFeatures()
    if (this.transport.kind === "modern" && !hasFeature(offered, "VERSION_1")) {
      this.setStatus(DEVICE_STATUS.FAILED)
      throw new DriverError("unsupported", `${this.pci.name}: a modern device that does not offer VERSION_1`)
    }
    this.#features = chooseFeatures(offered, this.transport.kind, this.#options.features)
    this.transport.acceptFeatures(this.#features)
    // [VIRTIO] 3.1.2: a legacy device knows no FEATURES_OK.
    if (this.transport.kind === "legacy") return
    this.setStatus(DEVICE_STATUS.FEATURES_OK)
    if ((this.transport.status & DEVICE_STATUS.FEATURES_OK) === 0) {
      this.setStatus(DEVICE_STATUS.FAILED)
      throw new DriverError("features-refused", `${this.pci.name}: the device refuses the features ${featureNames(this.#features).join(", ")}`)
    }
  }

  /** Sets up interrupts and queues 0 to `count` - 1, and sets DRIVER_OK. Throws `DriverError`; the status then has FAILED. */
  start(count: number): void {
    try {
      const vectors = this.#connectInterrupts(count)
      for (let index = 0; index < count; index++) this.#openQueue(index, vectors[index] ?? NO_VECTOR)
    } catch (error) {
      this.setStatus(DEVICE_STATUS.FAILED)
      throw error
    }
    this.setStatus(DEVICE_STATUS.DRIVER_OK)
  }

  /** Sets bits of the device status; none is ever cleared but by a reset. */
  setStatus(bits: number): void {
    this.#router.hold()
    try {
      this.transport.status = this.transport.status | bits
    } finally {
      this.#router.release()
    }
  }

  /** Shows what was added to the ring to the device, and kicks it if it wants that. */
  push(queue: VirtioQueue): void {
    const before = queue.ring.exposedIndex
    if (queue.ring.expose()) this.kick(queue)
    else if (queue.ring.exposedIndex !== before) this.counters.kicksSuppressed++
  }

  /** An available buffer notification, wanted or not. Interrupts that it causes are served when it is over. */
  kick(queue: VirtioQueue): void {
    this.counters.kicks++
    this.#router.hold()
    try {
      this.transport.notify(queue.index, queue.ring.availableIndex)
    } finally {
      this.#router.release()
    }
  }

  /**
   * Resets the device, waits until it says that it is done, and gives the memory of the rings back.
   * Throws `DriverError`: "timeout", or "no-device" when nothing answers (it was unplugged).
   */
  async resetDevice(): Promise<void> {
    this.transport.status = 0
    const timeout = this.#options.resetTimeout ?? 5000
    if (this.transport.status === 0xff) {
      this.#forget()
      throw new DriverError("no-device", `${this.pci.name}: nothing answers; the device is gone`)
    }
    await until(() => this.transport.status === 0, timeout, () => {
      throw new DriverError("timeout", `${this.pci.name}: the device has not finished its reset after ${timeout} ms`)
    })
    // Only now: until here the device may still write to rings and buffers, and interrupts may still arrive.
    this.#forget()
  }

  /**
   * VIRTIO_F_RING_RESET: resets one queue and switches it on again with an empty ring in the same memory. What was in flight never
   * comes back. Throws `DriverError`: "unsupported" when not negotiated, "timeout".
   */
  async resetQueue(index: number): Promise<void> {
    const queue = this.#queues[index]
    const transport = this.transport
    if (queue === undefined) throw new RangeError(`queue ${index} is not in use`)
    if (!hasFeature(this.#features, "RING_RESET") || transport.resetQueue === undefined) throw new DriverError("unsupported", "RING_RESET is not negotiated")
    transport.resetQueue(index)
    const timeout = this.#options.resetTimeout ?? 5000
    await until(() => transport.isQueueReset?.(index) ?? true, timeout, () => {
      throw new DriverError("timeout", `${this.pci.name}: queue ${index} has not finished its reset after ${timeout} ms`)
    })
    queue.ring.clear()
    if (queue.vector !== NO_VECTOR) this.#mapped(this.transport.mapQueueVector(index, queue.vector), queue.vector)
    this.transport.enableQueue(index, queue.ring.layout)
    this.#askForNotifications(queue.ring)
  }

  #takeOver(): void {
    const { platform, name } = this.pci
    const ownerByName = owners.get(platform) ?? new Map<string, VirtioDriver>()
    owners.set(platform, ownerByName)
    const before = ownerByName.get(name)
    ownerByName.set(name, this)
    if (before === undefined || before === this) return
    before.#forget()
    before.#events.superseded()
  }

  #openQueue(index: number, vector: number): void {
    const offered = this.transport.queueSize(index)
    if (offered === 0) throw new DriverError("unsupported", `${this.pci.name}: there is no queue ${index}`)
    const size = this.transport.kind === "legacy" ? offered : Math.min(offered, this.#options.queueSize ?? offered)
    const memory = this.transport.allocateRing(this.memory, size)
    const ring = new SplitRing(this.ram, { layout: memory.layout, eventIdx: hasFeature(this.#features, "EVENT_IDX") })
    const queue = { index, ring, memory, vector }
    this.#queues.push(queue)
    if (vector !== NO_VECTOR) this.#mapped(this.transport.mapQueueVector(index, vector), vector)
    this.#askForNotifications(ring)
    this.transport.enableQueue(index, memory.layout)
  }

  #askForNotifications(ring: SplitRing): void {
    if (this.interrupts === "none") ring.suppressNotifications()
    else ring.requestNotifications()
  }

  /** Returns the vector for each queue. */
  #connectInterrupts(queues: number): number[] {
    const msix = this.#msix
    if (msix !== undefined) msix.enabled = this.interrupts === "msix"
    this.pci.changeCommand(this.interrupts === "none" ? { set: PCI_COMMAND.INTERRUPT_DISABLE } : { clear: PCI_COMMAND.INTERRUPT_DISABLE })
    if (this.interrupts === "none") return []
    if (this.interrupts === "intx" || msix === undefined) {
      const line = this.pci.interruptLine
      if (line === undefined) throw new DriverError("unsupported", `${this.pci.name}: nobody has routed its interrupt pin to a line`)
      this.#undoInterrupts.push(this.#router.onLine(line, () => this.#onLine()))
      return []
    }
    // One vector for the configuration and one for each queue; with fewer, queues share; with one, everything does.
    const last = msix.size - 1
    const perQueue = Array.from({ length: queues }, (_, index) => (queues <= last ? index + 1 : Math.min(last, 1)))
    for (const vector of new Set([0, ...perQueue])) {
      const message = this.#router.assignMessage(() => this.#onVector(vector))
      this.#undoInterrupts.push(() => message.release())
      msix.program(vector, message)
    }
    this.#mapped(this.transport.mapConfigVector(0), 0)
    return perQueue
  }

  /** [VIRTIO] 4.1.5.1.2.2: a driver verifies that a mapping succeeded. */
  #mapped(got: number, wanted: number): void {
    if (got !== wanted) throw new DriverError("unsupported", `${this.pci.name}: MSI-X vector ${wanted} was not accepted, the device shows ${got}`)
  }

  /** Gives back interrupts and the memory of the rings. */
  #forget(): void {
    for (const undo of this.#undoInterrupts) undo()
    this.#undoInterrupts = []
    for (const queue of this.#queues) for (const piece of queue.memory.pieces) this.memory.free(piece)
    this.#queues = []
  }

  #onLine(): boolean {
    const isr = this.transport.readIsr()
    if ((isr & (ISR.QUEUE | ISR.CONFIGURATION)) === 0) return false
    this.counters.interrupts++
    if ((isr & ISR.CONFIGURATION) !== 0) this.#onConfiguration()
    if ((isr & ISR.QUEUE) !== 0) for (const queue of this.#queues) this.#events.used(queue)
    return true
  }

  #onVector(vector: number): void {
    this.counters.interrupts++
    if (vector === 0) this.#onConfiguration()
    for (const queue of this.#queues) if (queue.vector === vector) this.#events.used(queue)
  }

  #onConfiguration(): void {
    this.counters.configurationChanges++
    this.#events.configurationChanged()
  }
}

function openTransport(pci: PciDevice, options: VirtioDriverOptions): VirtioTransport {
  const kind = options.transport ?? (virtioCapabilities(pci).some(({ type }) => type === VIRTIO_PCI_CAP.COMMON) ? "modern" : "legacy")
  return kind === "legacy" ? new LegacyTransport(pci) : new ModernTransport(pci, { access: options.access ?? "bar" })
}

/** Waits for a register without keeping the thread from the work that makes it change. */
async function until(isDone: () => boolean, timeout: number, fail: () => never): Promise<void> {
  const end = Date.now() + timeout
  while (!isDone()) {
    if (Date.now() >= end) fail()
    await new Promise((resolve) => setTimeout(resolve, 1))
  }
}
