/**
 * VirtioDriver: brings a virtio device up and down, and keeps its queues: reset, negotiation, rings, DRIVER_OK, kicks. It knows nothing
 * about blocks. [VIRTIO] 3.1, 4.1.5 and 4.2.3.
 */
import { DriverError } from "../errors.ts"
import { chooseFeatures, featureNames, includesFeature } from "./features.ts"
import { GuestRam } from "../guest-ram.ts"
import type { PciDevice } from "../pci/device.ts"
import type { VirtioBus } from "./bus.ts"
import { PciBusDevice } from "./pci-bus.ts"
import { giveUp, isOwner, type Owner, takeOver } from "./owners.ts"
import { RamAllocator } from "../ram-allocator.ts"
import { PackedRing } from "./rings/packed-ring.ts"
import { SplitRing } from "./rings/split-ring.ts"
import type { RingAllocation, DriverTransport } from "./transport.ts"
import { busOf, checkVirtioDriverArguments, type VirtioDriverEvents, type VirtioDriverOptions, type VirtioQueue } from "./options.ts"
import { DriverSuspension, waitUntil } from "./suspension.ts"
import { type InterruptMode, VirtioInterrupts } from "./virtio-interrupts.ts"
import { DEVICE_STATUS, NO_VECTOR, NOBODY } from "./spec.ts"

interface OpenQueue extends VirtioQueue {
  readonly memory: RingAllocation
}

const DEFAULT_RESET_TIMEOUT = 5000

/** A driver for one virtio device. */
export class VirtioDriver {
  /** The device in its machine. */
  readonly bus: VirtioBus
  readonly ram: GuestRam
  readonly memory: RamAllocator
  /**
   * Counted since the driver was made. `kicksSuppressed`: times that the device wanted no kick. `interrupts`: used buffer notifications.
   * `configurationChanges`: configuration change notifications. One interrupt may be both.
   */
  readonly counters = { kicks: 0, kicksSuppressed: 0, interrupts: 0, configurationChanges: 0 }
  readonly #options: VirtioDriverOptions
  readonly #events: VirtioDriverEvents
  readonly #interrupts: VirtioInterrupts
  readonly #owner: Owner = {
    superseded: () => {
      this.#forget()
      this.#events.superseded()
    },
  }
  #transport: DriverTransport
  #queues: OpenQueue[] = []
  #features = 0n
  readonly #resetTimeout: number
  readonly suspension: DriverSuspension

  /**
   * Switches the device on (on PCI: address decoding, bus mastering) and looks for its registers.
   * @throws DriverError when there is no virtio device, TypeError for wrong arguments
   */
  constructor(device: PciDevice | VirtioBus, events: VirtioDriverEvents, options: VirtioDriverOptions = {}) {
    checkVirtioDriverArguments(device, events, options)
    this.bus = busOf(device, options)
    this.#events = events
    this.#options = options
    const { platform } = this.bus
    this.ram = new GuestRam(platform, { endian: options.guestEndian ?? "little" })
    this.memory = options.memory ?? RamAllocator.of(platform)
    this.#transport = this.bus.open()
    this.#resetTimeout = options.resetTimeout ?? DEFAULT_RESET_TIMEOUT
    this.suspension = new DriverSuspension(this, { name: this.bus.name, timeout: this.#resetTimeout })
    this.#interrupts = new VirtioInterrupts(
      this.bus,
      { queues: (vector) => this.#onQueues(vector), configuration: () => this.#onConfiguration() },
      options.interrupts,
    )
  }

  /** The function, of a device on PCI. @throws Error for any other device */
  get pci(): PciDevice {
    if (this.bus instanceof PciBusDevice) return this.bus.pci
    throw new Error(`${this.bus.name} is not on PCI`)
  }

  /** The device's registers. `negotiate` makes a new one. */
  get transport(): DriverTransport {
    return this.#transport
  }

  /** The queues in use, by index. */
  get queues(): readonly VirtioQueue[] {
    return this.#queues
  }

  /** The negotiated feature bits. */
  get features(): bigint {
    return this.#features
  }

  get interrupts(): InterruptMode {
    return this.#interrupts.mode
  }

  /** The number of MSI-X vectors that the device has; 0 without MSI-X. */
  get vectors(): number {
    return this.#interrupts.vectors
  }

  /**
   * Resets the device, takes it over from whatever driver had it, and agrees on features.
   * @throws DriverError: "timeout" when the reset does not end, "unsupported" for a modern device without VERSION_1, "features-refused"
   */
  async negotiate(): Promise<void> {
    const { platform, name } = this.bus
    this.#transport = this.bus.open()
    if (this.ram.isBigEndian && this.transport.kind === "modern") {
      throw new DriverError("unsupported", `${name}: a modern device is little-endian, but this guest is big-endian; use a legacy one`)
    }
    await this.resetDevice()
    takeOver(platform, name, this.#owner)
    this.setStatus(DEVICE_STATUS.ACKNOWLEDGE)
    this.setStatus(DEVICE_STATUS.DRIVER)
    const offered = this.transport.offeredFeatures()
    if (this.transport.kind === "modern" && !includesFeature(offered, "VERSION_1")) {
      this.setStatus(DEVICE_STATUS.FAILED)
      throw new DriverError("unsupported", `${name}: the device has the modern interface, but does not offer VERSION_1`)
    }
    this.#features = chooseFeatures(offered, this.transport.kind, this.#options.features)
    this.transport.acceptFeatures(this.#features)
    // [VIRTIO] 3.1.2: a legacy device does not know FEATURES_OK.
    if (this.transport.kind === "legacy") return
    this.setStatus(DEVICE_STATUS.FEATURES_OK)
    if ((this.transport.status & DEVICE_STATUS.FEATURES_OK) === 0) {
      this.setStatus(DEVICE_STATUS.FAILED)
      throw new DriverError(
        "features-refused",
        `${this.bus.name}: the device refuses the features ${featureNames(this.#features).join(", ")}`,
      )
    }
  }

  /**
   * Sets up interrupts and queues 0 to `count` - 1, and sets DRIVER_OK.
   * @throws DriverError; the status then has FAILED
   */
  start(count: number): void {
    try {
      const vectors = this.#interrupts.connect(this.transport, count)
      for (let index = 0; index < count; index++) this.#openQueue(index, vectors[index] ?? NO_VECTOR)
    } catch (error) {
      this.setStatus(DEVICE_STATUS.FAILED)
      this.#forget()
      throw error
    }
    this.setStatus(DEVICE_STATUS.DRIVER_OK)
  }

  /** Sets bits of the device status. Only a reset clears them. */
  setStatus(bits: number): void {
    this.#interrupts.after(() => {
      this.transport.status = this.transport.status | bits
    })
  }

  /** Why the device that this driver started no longer works: it is gone, or it needs a reset. Undefined when it works. */
  fault(): DriverError | undefined {
    const { name } = this.bus
    // Another device may have its registers there by now, so look first whether ours are still in place.
    if (!this.bus.isInPlace()) return new DriverError("gone", `${name}: the device was unplugged, or its registers have moved`)
    const { status } = this.transport
    if (status === NOBODY) return new DriverError("gone", `${name}: nothing answers; the device is gone`)
    const up = DEVICE_STATUS.DRIVER_OK | (this.suspension.isActive ? DEVICE_STATUS.SUSPEND : 0)
    if ((status & up) === 0) return new DriverError("gone", `${name}: somebody else has reset the device`)
    if ((status & DEVICE_STATUS.DEVICE_NEEDS_RESET) === 0) return undefined
    return new DriverError("needs-reset", `${name}: the device met an error that only a reset can cure (DEVICE_NEEDS_RESET)`)
  }

  /** Shows what was added to the ring to the device, and kicks it if it wants that. */
  push(queue: VirtioQueue): void {
    const before = queue.ring.exposedIndex
    if (queue.ring.expose()) this.kick(queue)
    else if (queue.ring.exposedIndex !== before) this.counters.kicksSuppressed++
  }

  /** Sends an available buffer notification, wanted or not. Interrupts that it causes are handled when it has returned. */
  kick(queue: VirtioQueue): void {
    this.counters.kicks++
    this.#interrupts.after(() => this.transport.notify(queue.index, queue.ring.availableIndex))
  }

  /**
   * Resets the device, waits until it says that it is done, and gives the memory of the rings back.
   * @throws DriverError: "timeout", or "no-device" when nothing answers (it was unplugged)
   */
  async resetDevice(): Promise<void> {
    this.transport.status = 0
    await this.#until(() => this.transport.status === 0 || this.transport.status === NOBODY, "the device")
    // Not earlier: until here the device may write to rings and buffers, and interrupts may arrive.
    this.#forget()
    if (this.transport.status === NOBODY) throw new DriverError("no-device", `${this.bus.name}: nothing answers; the device is gone`)
  }

  /**
   * Leaves the device reset, without MSI-X and without access to memory. A device that is gone is no error; one that another driver has
   * taken over is left alone.
   * @throws DriverError ("timeout")
   */
  async close(): Promise<void> {
    const { platform, name } = this.bus
    if (!isOwner(platform, name, this.#owner)) return
    try {
      await this.resetDevice()
      this.#interrupts.disable()
      this.bus.close?.()
    } catch (error) {
      if (!(error instanceof DriverError) || error.code !== "no-device") throw error
    }
    giveUp(platform, name)
  }

  /**
   * VIRTIO_F_RING_RESET: resets one queue and switches it on again with an empty ring in the same memory. What was in flight never comes
   * back.
   * @throws DriverError: "unsupported" when not negotiated, "timeout", "gone"
   */
  async resetQueue(index: number): Promise<void> {
    const queue = this.#queues[index]
    const transport = this.transport
    if (queue === undefined) throw new RangeError(`queue ${index} is not in use`)
    if (!includesFeature(this.#features, "RING_RESET") || transport.resetQueue === undefined) {
      throw new DriverError("unsupported", "RING_RESET is not negotiated")
    }
    transport.resetQueue(index)
    let fault: DriverError | undefined
    await this.#until(() => (transport.isQueueReset?.(index) ?? true) || (fault = this.fault()) !== undefined, `queue ${index}`)
    if (fault !== undefined) throw fault
    queue.ring.clear()
    this.#switchOn(queue)
  }

  #openQueue(index: number, vector: number): void {
    const offered = this.transport.queueSize(index)
    if (offered === 0) throw new DriverError("unsupported", `${this.bus.name}: there is no queue ${index}`)
    const size = this.transport.isQueueSizeFixed === true ? offered : Math.min(offered, this.#options.queueSize ?? offered)
    const memory = this.transport.allocateRing(this.memory, size)
    const RingOf = includesFeature(this.#features, "RING_PACKED") ? PackedRing : SplitRing
    const [eventIdx, inOrder] = [includesFeature(this.#features, "EVENT_IDX"), includesFeature(this.#features, "IN_ORDER")]
    const ring = new RingOf(this.ram, { layout: memory.layout, eventIdx, inOrder })
    const queue = { index, ring, memory, vector }
    this.#queues.push(queue)
    this.#switchOn(queue)
  }

  #switchOn({ index, ring, vector }: OpenQueue): void {
    if (vector !== NO_VECTOR) this.#interrupts.checkMapping(this.transport.mapQueueVector(index, vector), vector)
    if (this.interrupts === "none") ring.suppressNotifications()
    else ring.requestNotifications()
    this.transport.enableQueue(index, ring.layout)
  }

  /** Releases interrupts and the memory of the rings. */
  #forget(): void {
    this.#interrupts.disconnect()
    this.suspension.isActive = false
    for (const queue of this.#queues) for (const piece of queue.memory.pieces) this.memory.free(piece)
    this.#queues = []
  }

  #onQueues(vector: number | undefined): void {
    const notified = this.#queues.filter((queue) => vector === undefined || queue.vector === vector)
    if (notified.length > 0) this.counters.interrupts++
    for (const queue of notified) this.#events.used(queue)
  }

  #onConfiguration(): void {
    this.counters.configurationChanges++
    this.#events.configurationChanged()
  }

  /** Waits until a register shows something. */
  #until(isDone: () => boolean, what: string): Promise<void> {
    return waitUntil(isDone, this.#resetTimeout, `${this.bus.name}: ${what} has not finished its reset`)
  }
}
