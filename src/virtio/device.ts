/**
 * VirtioDevice: the part that all virtio devices share: status, features, queues and configuration space. A device type (virtio-blk) makes
 * one, and serves its requests as its `DeviceHandler`.
 */
import { DeviceConfig } from "./device-config.ts"
import { restoreDevice, type SavableDevice, saveDevice } from "./device-state.ts"
import type { DeviceHandler } from "./device-handler.ts"
import { checkQueues, type VirtioDeviceOptions } from "./device-options.ts"
import { type GuestMemory, NO_MEMORY } from "./guest-memory.ts"
import { InFlight, type Outstanding } from "./in-flight.ts"
import { Negotiation } from "./negotiation.ts"
import { Pauses, type PausingDevice } from "./pauses.ts"
import type { Ring, TakenChain } from "./queue/ring.ts"
import { VirtqueueError } from "./queue/virtqueue-error.ts"
import type { RestoreOptions, SaveOptions, VirtioDeviceState } from "./state.ts"
import type { DeviceSignals, TransportedDevice, TransportWiring } from "./transport.ts"
import { Suspension } from "./suspension.ts"
import type { Turn } from "./turn.ts"
import { type QueueServer, Virtqueue } from "./virtqueue.ts"
import { Work } from "./work.ts"

/** A virtio device, as its transport uses it. */
export class VirtioDevice implements TransportedDevice, QueueServer, PausingDevice, SavableDevice {
  readonly deviceType: number = 0
  readonly queueCount: number = 0
  readonly maxQueueSize: number = 0
  readonly config: DeviceConfig
  readonly work = new Work(() => {
    this.pauses.tell()
    this.suspension.tell()
    this.#handler.turnEnded()
  })
  inFlight = new InFlight(this.work)
  /** Why the device has set DEVICE_NEEDS_RESET; undefined if it has not. */
  brokenBy: VirtqueueError | undefined
  /**
   * Incremented by every event that may end the service of a queue or concern its handler: both skip their checks while it is unchanged.
   */
  changes = 0
  readonly #handler: DeviceHandler
  readonly negotiation: Negotiation
  readonly queues: readonly Virtqueue[]
  memory: GuestMemory = NO_MEMORY
  signals: DeviceSignals | undefined
  readonly pauses = new Pauses(this)
  readonly suspension: Suspension = new Suspension(this, () => this.#handler.unfinished)

  /** `handler` is called once, to make the device type's part. @throws RangeError for a wrong number of queues, or a wrong size */
  constructor(options: VirtioDeviceOptions, handler: (device: VirtioDevice) => DeviceHandler) {
    const { queues, queueSize } = options
    checkQueues(options)
    this.deviceType = options.deviceType
    this.queueCount = queues
    this.maxQueueSize = queueSize
    this.config = new DeviceConfig(options.configSize, options.configFields ?? [])
    this.negotiation = new Negotiation(options)
    this.queues = Array.from({ length: queues }, (_, index) => new Virtqueue(index, queueSize, this))
    this.#handler = handler(this)
  }

  // --- For device types ---

  /**
   * Makes the used entries of `ring` visible, and interrupts if the driver wants it. Returns whether it did. An interrupt may do anything,
   * even reset the device, so a turn does this last for a batch.
   */
  publish(queue: Virtqueue, ring: Ring): boolean {
    if (queue.ring !== ring || !this.work.open) return false
    // `GuestMemory.written` may throw: the driver is interrupted all the same.
    let wanted = true
    try {
      wanted = ring.publish()
    } finally {
      if (wanted && queue.ring === ring) this.signals?.queueInterrupt(queue.index)
    }
    return wanted
  }

  /** The device has changed its configuration space: increments the generation, and notifies a running driver. */
  configChanged(): void {
    this.suspension.change(() => {
      this.config.changed()
      if (this.negotiation.running) this.signals?.configInterrupt()
    })
  }

  /**
   * Stops the device after a VirtqueueError of `ring`, which means that the driver broke the protocol: sets DEVICE_NEEDS_RESET, with a
   * configuration change notification; no queue is served until the driver resets the device ([VIRTIO] 2.1.2). Drops an error of
   * a ring that a reset of the queue has ended. Rethrows any other error.
   */
  breakDown(queue: Virtqueue, ring: Ring | undefined, error: unknown): void {
    if (!(error instanceof VirtqueueError)) throw error
    if (this.brokenBy !== undefined || queue.ring !== ring) return
    this.stop(new VirtqueueError(`queue ${queue.index}: ${error.message}`))
    if (this.negotiation.running) this.signals?.configInterrupt()
  }

  /** The backing has answered a call that no reset has ended: continues `one`. */
  answered(one: Outstanding): void {
    this.work.add(one)
    this.work.wake()
    this.pauses.tell()
  }

  /** The backing has answered a call from before a reset. After the last of those that change the disk, new requests are served. */
  oldLifeAnswered(changesDisk: boolean): void {
    if (changesDisk && this.inFlight.oldChanges === 0) this.#kickAll()
    this.pauses.tell()
  }

  // --- For queues ---

  serve(queue: Virtqueue, turn: Turn): boolean {
    const handler = this.#handler
    if (handler.unfinished) {
      const more = handler.finish(turn)
      if (handler.unfinished) {
        if (!more) this.inFlight.waitForMemory(queue)
        return more
      }
    }
    if (!this.isLive(queue)) return false
    let { ring } = queue
    try {
      ring ??= this.#open(queue)
      return ring !== undefined && handler.serve(queue, ring, turn)
    } catch (error) {
      this.breakDown(queue, ring, error)
      return false
    }
  }

  // --- For transports ---

  attach({ memory, signals, transitional, withoutFeatures = 0n }: TransportWiring): void {
    if (this.memory !== NO_MEMORY) throw new Error("the device is attached to a transport already")
    this.memory = memory
    this.signals = signals
    this.negotiation.transitional = transitional
    this.negotiation.leaveOut(withoutFeatures)
  }

  get status(): number {
    return this.negotiation.status
  }

  writeStatus(value: number): void {
    this.changes++
    if (value === 0) return this.reset()
    const { settled, started } = this.negotiation.writeStatus(value)
    if (settled) this.#handler.negotiated()
    this.suspension.statusWritten()
    // Kicks from before DRIVER_OK, if there were any, had no effect.
    if (started) this.#kickAll()
  }

  setDriverFeatures(select: number, value: number): void {
    if (!this.negotiation.setDriverFeatures(select, value)) return
    // A legacy driver has no FEATURES_OK: features take effect as they are written, even for existing rings.
    for (const { ring } of this.queues) if (ring !== undefined) ring.features = this.negotiation.ringFeatures
  }

  queue(index: number): Virtqueue | undefined {
    return this.queues[index]
  }

  resetQueue(index: number): void {
    this.changes++
    this.queues[index]?.reset()
    this.#forgetDead()
  }

  notify(index: number): void {
    const queue = this.queues[index]
    if (queue !== undefined) this.work.do(queue, queue.shortcut)
  }

  setBusMaster(enabled: boolean): void {
    if (!this.pauses.setBusMaster(enabled)) return
    this.changes++
    if (enabled) this.#kickAll()
    else this.pauses.tell()
  }

  writeConfig(offset: number, width: number, value: number): void {
    if (this.negotiation.isSuspended) return
    for (let i = 0; i < width; i++) {
      if (offset + i < this.config.size) this.#handler.writeConfigByte(offset + i, Math.floor(value / 2 ** (8 * i)) & 0xff)
    }
  }

  // --- Pausing and saving ---

  pausesChanged(): void {
    this.changes++
    if (this.pauses.isOpen) this.#kickAll()
  }

  /**
   * Abandons the calls of the backing, calls `act`, and takes the requests in flight again, from the same chains (`Virtqueue.takeAgain`).
   * Resolves when the abandoned calls have been answered. They do not delay the device, even if they change the disk.
   */
  takeAgain(act: () => void, how: { readonly anew: boolean }): Promise<void> {
    this.changes++
    for (const queue of this.queues) {
      const { ring } = queue
      this.show(queue)
      const chains = this.chains(queue)
      if (ring !== undefined && queue.ring === ring) queue.takeAgain(chains, how)
    }
    this.#forgetDead()
    const old = this.inFlight
    this.inFlight = new InFlight(this.work)
    act()
    this.#kickAll()
    this.pauses.tell()
    return old.whenAnswered()
  }

  saveState(options: SaveOptions = {}): VirtioDeviceState {
    return saveDevice(this, this.#handler, options)
  }

  /** Guest memory is not touched before `resume`. */
  restoreState(saved: unknown, options: RestoreOptions = {}): void {
    restoreDevice(this, this.#handler, saved, options)
  }

  // --- Inside ---

  /** Makes the ring. Undefined if it may not be served any more: making it stores into guest memory, and `written` may do anything. */
  #open(queue: Virtqueue): Ring | undefined {
    const ring = queue.open(this.memory, this.negotiation.ringFeatures)
    return ring !== undefined && queue.mayTake(ring) ? ring : undefined
  }

  /** Whether nothing keeps the device from serving `queue`. */
  isLive(queue: Virtqueue): boolean {
    if (this.inFlight.oldChanges !== 0) return false
    return queue.liveAt === this.changes || this.#looksLive(queue)
  }

  #looksLive(queue: Virtqueue): boolean {
    const { negotiation } = this
    if (!queue.enabled || !this.pauses.isOpen || !this.work.open) return false
    if (!negotiation.allowsService(queue.legacy)) return negotiation.isSuspending && queue.hasSaved
    queue.liveAt = this.changes
    return true
  }

  stop(error: VirtqueueError): void {
    this.changes++
    this.brokenBy = error
    this.negotiation.breakDown()
  }

  /** `publish` during a turn, in which the memory may have been replaced. */
  show(queue: Virtqueue): void {
    const ring = queue.findRing()
    if (ring !== undefined) this.publish(queue, ring)
  }

  /** The chains of `queue` that were taken and not yet used. A packed ring reads them from RAM. */
  chains(queue: Virtqueue): readonly TakenChain[] {
    return queue.findRing() === undefined ? [] : [...this.inFlight.chains(queue), ...this.#handler.chains(queue)]
  }

  #kickAll(): void {
    this.#handler.mayGoOn?.()
    for (const queue of this.queues) if (queue.enabled) this.work.add(queue)
    this.work.go()
  }

  /** Immediate: calls in flight continue in the backing, but their answers are ignored. */
  reset(): void {
    for (const queue of this.queues) queue.reset()
    this.negotiation.reset()
    this.brokenBy = undefined
    this.#forgetDead()
    this.#handler.wasReset()
    this.suspension.ended()
    this.signals?.deviceReset()
  }

  #forgetDead(): void {
    for (const one of this.inFlight.forgetDead()) this.work.drop(one)
    this.pauses.tell()
    this.suspension.tell()
  }

  /** No request waits for the backing. While guest memory may not be touched, answered requests and those not begun count as idle. */
  get isIdle(): boolean {
    return this.inFlight.calls === 0 && (!this.work.open || (this.inFlight.count === 0 && !this.#handler.unfinished))
  }
}
