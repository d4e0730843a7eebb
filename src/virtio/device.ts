/**
 * VirtioDevice: what every virtio device is to every transport: the status machine, feature negotiation, the queues' registers and
 * the device configuration space. A device type (virtio-blk) extends it; a transport (PCI) reads and writes it.
 */
import type { GuestMemory } from "./guest-memory.ts"
import { type RingFeatures, SplitQueue, VirtqueueError } from "./queue/split-queue.ts"
import { parseDeviceState, type SavedQueue, type VirtioDeviceState } from "./state.ts"
import { DEVICE_STATUS, featureMask, hasBit, LEGACY_ONLY_FEATURES, VIRTIO_F, VIRTQ_MAX_SIZE } from "./spec.ts"

/** What a device asks of the transport that it sits behind. */
export interface VirtioTransport {
  /** A used buffer notification for queue `index`. */
  queueInterrupt(index: number): void
  /** A configuration change notification. */
  configInterrupt(): void
  /** A reset has finished: forget vectors and pending interrupts. */
  deviceReset(): void
}

/** The registers of one queue, as the driver programs them. Addresses in bytes, guest-physical. */
export interface QueueRegisters {
  /** Number of descriptors; the maximum until the driver lowers it. */
  size: number
  enabled: boolean
  /** Enabled through the legacy page number register: then the queue may be used before DRIVER_OK ([VIRTIO] 3.1.2). */
  legacy: boolean
  descriptorTable: number
  availRing: number
  usedRing: number
}

/** One queue: its registers, and the ring once it has been used. */
interface Queue {
  readonly registers: QueueRegisters
  ring: SplitQueue | undefined
  /** A queue reset ([VIRTIO] 2.6.1) waits for requests in flight. */
  resetting: boolean
  /** Guards against a driver that kicks from inside an interrupt handler that we are calling. */
  serving: boolean
  kicked: boolean
  /** A timer is set that serves it again: one is enough, however often the driver kicks meanwhile. */
  due: boolean
  /** Where a ring that is not there yet begins: 0, or where it stood when its state was saved. */
  position: number
}

/** What a driver can say. SUSPEND is not offered, and the rest of the bits have no meaning. */
const DRIVER_STATUS = DEVICE_STATUS.ACKNOWLEDGE | DEVICE_STATUS.DRIVER | DEVICE_STATUS.DRIVER_OK | DEVICE_STATUS.FEATURES_OK | DEVICE_STATUS.FAILED

const RING_FEATURES = featureMask([VIRTIO_F.NOTIFY_ON_EMPTY, VIRTIO_F.ANY_LAYOUT, VIRTIO_F.INDIRECT_DESC, VIRTIO_F.EVENT_IDX, VIRTIO_F.VERSION_1, VIRTIO_F.RING_RESET])

export interface VirtioDeviceOptions {
  readonly queues: number
  /** Largest, and initial, number of descriptors of each queue: a power of two up to 32768. */
  readonly queueSize: number
  /** Bytes of the device configuration space. */
  readonly configSize: number
  /** Feature bits of the device type. */
  readonly features: bigint
  /** Feature bits not to offer, of the device type or of the ring. VERSION_1 cannot be left out. */
  readonly withoutFeatures: bigint
}

/** What every virtio device is to the transport in front of it. */
export abstract class VirtioDevice {
  /** [VIRTIO] 5: the device type's number. */
  abstract readonly deviceType: number
  readonly queueCount: number
  readonly maxQueueSize: number
  /** Every feature bit that this device offers through some interface. */
  readonly offeredFeatures: bigint
  /** The device configuration space; fields are little-endian. Device types keep it up to date, see `configChanged`. */
  protected readonly config: DataView
  /** Why the device has set DEVICE_NEEDS_RESET, for people; undefined while it has not. */
  brokenBy: VirtqueueError | undefined
  readonly #queues: readonly Queue[]
  #memory: GuestMemory | undefined
  #transport: VirtioTransport | undefined
  #status = 0
  #driverFeatures = 0n
  /** The driver wrote something other than 0 to feature bits above 63: bits that nobody offers. */
  #driverFeaturesAbove = false
  /** From FEATURES_OK to reset ([VIRTIO] 3.1.1). */
  #featuresFrozen = false
  #generation = 0
  /** The configuration has changed since the driver last read the generation. */
  #generationStale = false
  #dmaEnabled = true
  #paused = false
  /** Requests whose backing has not answered, those of rings that have been reset included. */
  #outstanding = 0
  /** Those of them that the backing has answered, but while bus mastering was off. */
  #held: { readonly ring: SplitQueue; readonly queue: number; readonly act: () => void }[] = []
  #idleWaiters: (() => void)[] = []
  #resetting = false

  constructor(options: VirtioDeviceOptions) {
    const { queues, queueSize } = options
    if (!Number.isInteger(queues) || queues < 1 || queues > 65535) throw new RangeError(`queues: ${queues} is no number from 1 to 65535`)
    if (!Number.isInteger(queueSize) || queueSize < 1 || queueSize > VIRTQ_MAX_SIZE || (queueSize & (queueSize - 1)) !== 0)
      throw new RangeError(`queueSize: ${queueSize} is no power of two from 1 to ${VIRTQ_MAX_SIZE}`)
    this.queueCount = queues
    this.maxQueueSize = queueSize
    this.offeredFeatures = (options.features | RING_FEATURES) & ~(options.withoutFeatures & ~featureMask([VIRTIO_F.VERSION_1]))
    this.config = new DataView(new ArrayBuffer(options.configSize))
    this.#queues = Array.from({ length: queues }, () => ({ registers: initialRegisters(queueSize), ring: undefined, resetting: false, serving: false, kicked: false, due: false, position: 0 }))
  }

  // --- What a device type implements -------------------------------------------------------------------------------------

  /**
   * Takes chains from `ring` until it is empty and the driver has been asked to kick again; returns false then. Returns true to be
   * called again soon, after other work of the host: a driver on another thread could keep it busy for ever. May throw VirtqueueError.
   */
  protected abstract serve(ring: SplitQueue, queue: number): boolean
  /** A kick has been served. May throw what is somebody's bug rather than the guest's affair: nothing is left undone by that. */
  protected served(): void {}
  /** A byte of the configuration space written by the driver, already known to be inside of it. Default: all fields are read-only. */
  protected writeConfigByte(_offset: number, _value: number): void {}
  /** FEATURES_OK has just been set, or DRIVER_OK by a legacy driver, which knows no FEATURES_OK. */
  protected negotiated(): void {}
  /** The device has been reset. */
  protected wasReset(): void {}
  /** The state of a device with this configuration has been restored: take over what the driver can write, tell it what has changed. */
  protected restoreConfig(_config: Uint8Array): void {}

  // --- For device types ----------------------------------------------------------------------------------------------------

  protected get memory(): GuestMemory {
    if (this.#memory === undefined) throw new Error("the device is not attached to a transport")
    return this.#memory
  }

  /** False once the device or the queue has been reset since `ring` was in use: its requests must not touch the guest any more. */
  protected isCurrent(ring: SplitQueue, queue: number): boolean {
    const own = this.#queues[queue]
    return own !== undefined && own.ring === ring && !own.resetting
  }

  /** Whether requests may be taken from `ring`: not once it has been reset, nor while the device is paused, broken or kept from memory. */
  protected mayServe(ring: SplitQueue, queue: number): boolean {
    const own = this.#queues[queue]
    return own !== undefined && own.ring === ring && this.#isLive(own)
  }

  /** True when the driver has accepted feature `bit` and may rely on it. */
  hasFeature(bit: number): boolean {
    return hasBit(this.#driverFeatures & this.offeredFeatures, bit)
  }

  /** Makes the used entries of `ring` visible, and interrupts if the driver wants it. */
  protected publish(ring: SplitQueue, queue: number): void {
    if (ring.publish()) this.#transport?.queueInterrupt(queue)
  }

  /** The configuration space has changed on the device's own account: bumps the generation, and tells a running driver. */
  protected configChanged(): void {
    this.#generationStale = true
    if ((this.#status & DEVICE_STATUS.DRIVER_OK) !== 0) this.#transport?.configInterrupt()
  }

  /** A request's completion will come later. Resets wait for it. */
  protected requestStarted(): void {
    this.#outstanding++
  }

  /** The completion of a request of `queue` that `requestStarted` announced is through. */
  protected requestFinished(queue: number): void {
    this.#outstanding--
    if (this.#resetting && this.#outstanding === 0) this.#finishReset()
    const own = this.#queues[queue]
    if (own?.resetting === true) this.#finishQueueReset(own)
    this.#tellIdle()
  }

  /** Runs `act`, by which a request of `ring` comes to its end in the guest's memory: once bus mastering is on, at once where `ring` has been reset. */
  protected whenReachable(ring: SplitQueue, queue: number, act: () => void): void {
    if (this.#dmaEnabled || !this.isCurrent(ring, queue)) return act()
    this.#held.push({ ring, queue, act })
    this.#tellIdle()
  }

  /** Runs `act` on the ring in the guest's present memory. A VirtqueueError stops the device. */
  protected guard(ring: SplitQueue, queue: number, act: () => void): void {
    try {
      ring.refresh()
      act()
    } catch (error) {
      this.#handleRingError(error, queue)
    }
  }

  /**
   * The driver broke the protocol: DEVICE_NEEDS_RESET, told by a configuration change notification, and no queue is served until
   * the driver resets the device ([VIRTIO] 2.1.2).
   */
  #breakDown(error: VirtqueueError): void {
    if (this.brokenBy !== undefined) return
    this.brokenBy = error
    const running = (this.#status & DEVICE_STATUS.DRIVER_OK) !== 0
    this.#status |= DEVICE_STATUS.DEVICE_NEEDS_RESET
    if (running) this.#transport?.configInterrupt()
  }

  // --- For transports ------------------------------------------------------------------------------------------------------

  /** Connects the device to its guest, once. */
  attach(memory: GuestMemory, transport: VirtioTransport): void {
    if (this.#memory !== undefined) throw new Error("the device is attached to a transport already")
    this.#memory = memory
    this.#transport = transport
  }

  /** [VIRTIO] 2.1. Goes on showing the old bits until a reset has really finished. */
  get status(): number {
    return this.#status
  }

  /** 0 resets the device. Anything else does not: DEVICE_NEEDS_RESET is ours, FAILED stays until a reset, and FEATURES_OK sticks only for a set that we can serve. */
  writeStatus(value: number): void {
    if (value === 0) {
      this.#reset()
      return
    }
    const bits = value & DRIVER_STATUS
    // With none of them the status would read 0, as after a reset.
    if (this.#resetting || bits === 0) return
    let next = bits | (this.#status & (DEVICE_STATUS.DEVICE_NEEDS_RESET | DEVICE_STATUS.FAILED))
    if (!this.#featuresFrozen && (next & DEVICE_STATUS.FEATURES_OK) !== 0 && !this.#featuresAcceptable()) next &= ~DEVICE_STATUS.FEATURES_OK
    const rising = next & ~this.#status
    this.#status = next
    if ((rising & DEVICE_STATUS.FEATURES_OK) !== 0) this.#featuresFrozen = true
    const settles = (next & DEVICE_STATUS.FEATURES_OK) !== 0 ? DEVICE_STATUS.FEATURES_OK : DEVICE_STATUS.DRIVER_OK
    if ((rising & settles) !== 0) this.negotiated()
    // Buffers that were made available before DRIVER_OK were kicked for in vain, if at all.
    if ((rising & DEVICE_STATUS.DRIVER_OK) !== 0) this.#kickAll()
  }

  /** 32 feature bits offered to a modern driver: bits 32*select and up ([VIRTIO] 4.1.4.3). */
  deviceFeatures(select: number): number {
    return featureWord(this.offeredFeatures & ~LEGACY_ONLY_FEATURES, select)
  }

  /** Bits 0 to 31 as a legacy driver sees them: without VERSION_1 there is nothing above. */
  get legacyDeviceFeatures(): number {
    return featureWord(this.offeredFeatures, 0)
  }

  /** What the driver has written, bits that nobody offers included. */
  driverFeatures(select: number): number {
    return featureWord(this.#driverFeatures, select)
  }

  setDriverFeatures(select: number, value: number): void {
    if (this.#featuresFrozen || this.#resetting) return
    if (select > 1) {
      if (value !== 0) this.#driverFeaturesAbove = true
      return
    }
    const shift = BigInt(32 * select)
    this.#driverFeatures = (this.#driverFeatures & ~(0xffff_ffffn << shift)) | (BigInt(value >>> 0) << shift)
    // A legacy driver has no FEATURES_OK: features count from the first touch, also for rings that exist.
    for (const queue of this.#queues) if (queue.ring !== undefined) queue.ring.features = this.#ringFeatures()
  }

  /** The queue's registers, or undefined when there is no such queue. To be changed through the methods below only. */
  queue(index: number): Readonly<QueueRegisters> | undefined {
    return this.#queues[index]?.registers
  }

  /** Lowers the size of a queue that is not enabled. Anything but a power of two up to the maximum is ignored ([VIRTIO] 4.1.4.3.2). */
  setQueueSize(index: number, size: number): void {
    const queue = this.#idleQueue(index)
    if (queue === undefined || size < 1 || size > this.maxQueueSize || (size & (size - 1)) !== 0) return
    queue.registers.size = size
  }

  /** Programs the address of one part of a queue that is not enabled. */
  setQueueAddress(index: number, part: "descriptorTable" | "availRing" | "usedRing", address: number): void {
    const queue = this.#idleQueue(index)
    if (queue !== undefined) queue.registers[part] = address
  }

  /** Starts a queue. There is no way back but a reset, of the queue or of the device. */
  enableQueue(index: number, options: { readonly legacy: boolean } = { legacy: false }): void {
    const queue = this.#idleQueue(index)
    if (queue === undefined) return
    queue.registers.enabled = true
    queue.registers.legacy = options.legacy
  }

  /** Stops a queue and sets its registers to their initial values; `queueResetting` tells when that is done ([VIRTIO] 2.6.1). */
  resetQueue(index: number): void {
    const queue = this.#queues[index]
    if (queue === undefined || this.#resetting) return
    queue.resetting = true
    this.#releaseHeld()
    this.#finishQueueReset(queue)
  }

  queueResetting(index: number): boolean {
    return this.#queues[index]?.resetting ?? false
  }

  /** A kick: serves what the driver has made available, when the queue and the device are up. Spurious kicks do no harm. */
  notify(index: number): void {
    const queue = this.#queues[index]
    if (queue === undefined) return
    queue.kicked = true
    if (queue.serving) return
    queue.serving = true
    try {
      while (queue.kicked && this.#isLive(queue)) {
        queue.kicked = false
        this.#serveQueue(queue, index)
      }
    } finally {
      queue.serving = false
      queue.kicked = false
    }
    this.served()
  }

  /** Resolves when no request waits for the backing: at once, where the backing is synchronous. Saving state and closing want that. */
  whenIdle(): Promise<void> {
    return this.#idle ? Promise.resolve() : new Promise((resolve) => this.#idleWaiters.push(resolve))
  }

  /** Takes no more requests; resolves when none is in flight. Those that the driver makes available meanwhile wait for `resume`. */
  pause(): Promise<void> {
    this.#paused = true
    return this.whenIdle()
  }

  /** Ends `pause`, and serves what has come in. */
  resume(): void {
    this.#paused = false
    this.#kickAll()
  }

  /** What the driver has set up, as JSON values: of a device that is paused and idle. Throws an Error while a request is in flight, or answered but held back by bus mastering that is off. */
  saveState(): VirtioDeviceState {
    if (this.#held.length > 0) throw new Error(`${this.#held.length} answers wait until the guest turns bus mastering on again: save the state later`)
    if (this.#outstanding !== 0 || this.#resetting) throw new Error(`${this.#outstanding} requests in flight: pause the device, and save its state when that has resolved`)
    return {
      status: this.#status,
      features: [this.driverFeatures(0), this.driverFeatures(1)],
      generation: this.readConfigGeneration(),
      queues: this.#queues.map(({ registers, ring, position }) => ({ ...registers, position: ring?.position ?? position })),
      config: Array.from({ length: this.config.byteLength }, (_, offset) => this.config.getUint8(offset)),
    }
  }

  /**
   * Puts the device where `saveState` found it, by what a driver would write, in its order. The device is paused afterwards: guest
   * memory is not touched before `resume`. Throws an Error, with the device reset, for a state that this device could not have had.
   */
  restoreState(saved: unknown): void {
    if (!this.#idle) throw new Error(`${this.#outstanding} requests in flight: pause the device before its state is restored`)
    this.#paused = true
    this.#reset()
    const state = parseDeviceState(saved, { queues: this.queueCount, queueSize: this.maxQueueSize, configSize: this.configSize })
    for (const [select, bits] of state.features.entries()) this.setDriverFeatures(select, bits)
    for (const [index, queue] of state.queues.entries()) this.#restoreQueue(index, queue)
    const status = state.status & ~DEVICE_STATUS.DEVICE_NEEDS_RESET
    // A status of 0 is there already; writing it would be a reset.
    if (status !== 0) this.writeStatus(status)
    if ((this.#status ^ state.status) & DEVICE_STATUS.FEATURES_OK) {
      this.#reset()
      throw new Error("saved state: the driver uses features that this device does not offer: open the disk as it was (read-only or not, discard, flush)")
    }
    this.#generation = state.generation
    this.restoreConfig(Uint8Array.from(state.config))
    if ((state.status & DEVICE_STATUS.DEVICE_NEEDS_RESET) !== 0) this.#breakDown(new VirtqueueError("it was broken when its state was saved"))
  }

  #restoreQueue(index: number, saved: SavedQueue): void {
    this.setQueueSize(index, saved.size)
    for (const part of ["descriptorTable", "availRing", "usedRing"] as const) this.setQueueAddress(index, part, saved[part])
    if (saved.enabled) this.enableQueue(index, { legacy: saved.legacy })
    const queue = this.#queues[index]
    if (queue !== undefined) queue.position = saved.position
  }

  /** PCI bus mastering: while it is off, nothing of the guest's memory is touched. */
  setDmaEnabled(enabled: boolean): void {
    if (enabled === this.#dmaEnabled) return
    this.#dmaEnabled = enabled
    if (!enabled) return
    // Whatever an answer that was held throws: the kicks that came meanwhile must not be lost.
    try {
      this.#releaseHeld()
    } finally {
      this.#kickAll()
    }
  }

  get configSize(): number {
    return this.config.byteLength
  }

  /** Bytes of the configuration space, little-endian, any width and offset; 0 past its end. */
  readConfig(offset: number, width: number): number {
    let value = 0
    for (let i = 0; i < width; i++) if (offset + i < this.config.byteLength) value += this.config.getUint8(offset + i) * 2 ** (8 * i)
    return value
  }

  writeConfig(offset: number, width: number, value: number): void {
    for (let i = 0; i < width; i++) if (offset + i < this.config.byteLength) this.writeConfigByte(offset + i, Math.floor(value / 2 ** (8 * i)) & 0xff)
  }

  /**
   * [VIRTIO] 4.1.4.3.1, config_generation. It moves when it is read after a change, not with each change: 256 changes
   * between two reads would bring an eight-bit counter back to where it was.
   */
  readConfigGeneration(): number {
    if (this.#generationStale) {
      this.#generationStale = false
      this.#generation = (this.#generation + 1) & 0xff
    }
    return this.#generation
  }

  // --- Inside --------------------------------------------------------------------------------------------------------------

  #featuresAcceptable(): boolean {
    if (this.#driverFeaturesAbove || (this.#driverFeatures & ~(this.offeredFeatures & ~LEGACY_ONLY_FEATURES)) !== 0n) return false
    // FEATURES_OK exists for drivers of virtio 1.0 and later only, and those must accept VERSION_1 ([VIRTIO] 6.1).
    return (this.#driverFeatures & featureMask([VIRTIO_F.VERSION_1])) !== 0n
  }

  #ringFeatures(): RingFeatures {
    return { indirect: this.hasFeature(VIRTIO_F.INDIRECT_DESC), eventIdx: this.hasFeature(VIRTIO_F.EVENT_IDX), notifyOnEmpty: this.hasFeature(VIRTIO_F.NOTIFY_ON_EMPTY) }
  }

  /** The queue, when its registers may be changed. */
  #idleQueue(index: number): Queue | undefined {
    const queue = this.#queues[index]
    return queue === undefined || queue.registers.enabled || queue.resetting || this.#resetting ? undefined : queue
  }

  #isLive(queue: Queue): boolean {
    if (!queue.registers.enabled || queue.resetting || this.#resetting || this.#paused || !this.#dmaEnabled || this.#memory === undefined) return false
    if ((this.#status & (DEVICE_STATUS.DEVICE_NEEDS_RESET | DEVICE_STATUS.FAILED)) !== 0) return false
    const up = DEVICE_STATUS.DRIVER_OK | DEVICE_STATUS.FEATURES_OK
    return queue.registers.legacy || (this.#status & up) === up
  }

  #serveQueue(queue: Queue, index: number): void {
    try {
      queue.ring ??= new SplitQueue(this.memory, { ...queue.registers }, this.#ringFeatures(), queue.position)
      queue.ring.refresh()
      if (this.serve(queue.ring, index)) this.#serveLater(queue, index)
    } catch (error) {
      this.#handleRingError(error, index)
    }
  }

  #serveLater(queue: Queue, index: number): void {
    if (queue.due) return
    queue.due = true
    setTimeout(() => {
      queue.due = false
      this.notify(index)
    }, 0)
  }

  #handleRingError(error: unknown, queue: number): void {
    if (!(error instanceof VirtqueueError)) throw error
    this.#breakDown(new VirtqueueError(`queue ${queue}: ${error.message}`))
  }

  #kickAll(): void {
    for (let index = 0; index < this.#queues.length; index++) this.notify(index)
  }

  /** Nothing waits for the backing. */
  get #idle(): boolean {
    return this.#outstanding === this.#held.length
  }

  #tellIdle(): void {
    if (this.#idle) for (const resolve of this.#idleWaiters.splice(0)) resolve()
  }

  #releaseHeld(): void {
    const held = this.#held
    this.#held = []
    const failures: unknown[] = []
    for (const { ring, queue, act } of held) {
      // What one of them throws (a bug of the backing, an interrupt handler) must not keep the others from their end.
      try {
        this.whenReachable(ring, queue, act)
      } catch (error) {
        failures.push(error)
      }
    }
    if (failures.length > 0) throw failures[0]
  }

  #reset(): void {
    for (const queue of this.#queues) queue.ring = undefined
    // Before the flag: the last of them would finish a reset that has not begun.
    this.#releaseHeld()
    this.#resetting = true
    if (this.#outstanding === 0) this.#finishReset()
  }

  #finishReset(): void {
    this.#resetting = false
    this.#status = 0
    this.#driverFeatures = 0n
    this.#driverFeaturesAbove = false
    this.#featuresFrozen = false
    this.brokenBy = undefined
    for (const queue of this.#queues) this.#clearQueue(queue)
    this.wasReset()
    this.#transport?.deviceReset()
  }

  #finishQueueReset(queue: Queue): void {
    if (queue.ring === undefined || queue.ring.inFlight === 0) this.#clearQueue(queue)
  }

  #clearQueue(queue: Queue): void {
    Object.assign(queue.registers, initialRegisters(this.maxQueueSize))
    queue.ring = undefined
    queue.resetting = false
    queue.position = 0
  }
}

function initialRegisters(size: number): QueueRegisters {
  return { size, enabled: false, legacy: false, descriptorTable: 0, availRing: 0, usedRing: 0 }
}

/** Bits 32*select to 32*select+31 as an unsigned number; nothing is defined above bit 63. */
function featureWord(features: bigint, select: number): number {
  return select > 1 ? 0 : Number((features >> BigInt(32 * select)) & 0xffff_ffffn)
}
