/**
 * BlockEngine: moves chains through the queues of a virtio block device: submission, kicks, completions by interrupt or by polling, failure
 * of the device, reset. It does not know what is in a chain.
 */
import { pickOptions, type Rules } from "../../../options.ts"
import { type BlockIdentity, readBlockConfig } from "./config.ts"
import { BlockQueue, type Chain, resumeQueues, type Submission, suspendQueues } from "./queue.ts"
import { DriverError } from "../errors.ts"
import { includesFeature } from "../virtio/features.ts"
import type { PciDevice } from "../pci/device.ts"
import type { VirtioBus } from "../virtio/bus.ts"
import { RequestBuffers } from "./request-buffer.ts"
import { VirtioDriver } from "../virtio/driver.ts"
import { VIRTIO_DRIVER_RULES, type VirtioDriverOptions } from "../virtio/options.ts"
import { Watch } from "./watch.ts"

const DEFAULT_WATCH_INTERVAL = 50

export interface BlockEngineOptions extends VirtioDriverOptions {
  /** Queues to use, as far as the device has them and MQ is negotiated. Default 1. */
  readonly queues?: number
  /**
   * While requests are in flight, the driver checks at this interval that the device still works and that no interrupt was lost.
   * Milliseconds. Default 50.
   */
  readonly watchInterval?: number
}

export const BLOCK_ENGINE_RULES: Rules<BlockEngineOptions> = { ...VIRTIO_DRIVER_RULES, queues: "number?", watchInterval: "number?" }

/** The queues of one device. */
export class BlockEngine {
  readonly virtio: VirtioDriver
  readonly buffers: RequestBuffers
  readonly #queueCount: number
  readonly #listeners = new Set<() => void>()
  #queues: BlockQueue[] = []
  #identity: BlockIdentity | undefined
  #failure: DriverError | undefined = new DriverError("reset", "the driver has not started the device")
  /** Chains that were in flight when the device failed. */
  #lost: Chain[] = []
  readonly #watch: Watch
  #batches = 0
  #isPolling = false

  constructor(device: PciDevice | VirtioBus, options: BlockEngineOptions) {
    const events = {
      used: (queue: { readonly index: number }) => this.#onUsed(queue.index),
      configurationChanged: () => this.#onConfiguration(),
      superseded: () => this.#end(new DriverError("reset", "another driver has taken the device over")),
    }
    this.virtio = new VirtioDriver(device, events, pickOptions(options, VIRTIO_DRIVER_RULES))
    this.buffers = new RequestBuffers(this.virtio.memory)
    this.#queueCount = options.queues ?? 1
    this.#watch = new Watch({ interval: options.watchInterval ?? DEFAULT_WATCH_INTERVAL, look: () => this.#look() })
  }

  /** Number of queues in use. */
  get queueCount(): number {
    return this.#queues.length
  }

  /** Why nothing can be sent, or undefined. */
  get failure(): DriverError | undefined {
    return this.#failure
  }

  /** The configuration as last read; read again after a notification of change. */
  get identity(): BlockIdentity {
    return this.#identity ?? this.identify()
  }

  /** Reads the configuration. @throws DriverError when the device is gone */
  identify(): BlockIdentity {
    const { transport, features, ram } = this.virtio
    const identity = readBlockConfig(transport, { features, offered: transport.offeredFeatures(), isBigEndian: ram.isBigEndian })
    // Checked afterwards: a device that has gone away meanwhile has answered with ones.
    if (this.#failure === undefined) this.#checkStatus()
    if (this.#failure?.code === "gone") throw this.#failure
    this.#identity = identity
    return identity
  }

  /** Negotiates and makes the device live. @throws DriverError */
  async start(): Promise<void> {
    await this.virtio.negotiate()
    this.virtio.start(Math.max(1, Math.min(this.#queueCount, this.identify().queues ?? 1)))
    this.#queues = this.virtio.queues.map((queue) => new BlockQueue(queue, { isPolled: this.virtio.interrupts === "none" }))
    this.#failure = undefined
  }

  /**
   * Resets the device. All chains fail ("reset"); their memory is free once the device has let go of it.
   * @throws DriverError
   */
  async stop(reason: string): Promise<void> {
    this.#fail(new DriverError("reset", reason))
    try {
      await this.virtio.resetDevice()
    } catch (error) {
      // A device that was unplugged does not write any more.
      if (error instanceof DriverError && error.code === "no-device") this.#end(error)
      throw error
    }
    this.#end(new DriverError("reset", reason))
  }

  /** Like `stop`, for good. Does nothing when another driver has the device now. */
  async close(): Promise<void> {
    const error = new DriverError("reset", "the driver was closed")
    this.#fail(error)
    try {
      await this.virtio.close()
    } finally {
      // A device that did not finish its reset keeps the memory: it may still write there.
      if (this.virtio.queues.length === 0) this.#end(error)
    }
  }

  /**
   * Resets one queue. Its chains fail ("reset"); those submitted meanwhile wait.
   * @throws DriverError; after "timeout" the whole device must be reset
   */
  async resetQueue(index: number): Promise<void> {
    const queue = this.#queue(index)
    if (!includesFeature(this.virtio.features, "RING_RESET")) throw new DriverError("unsupported", "RING_RESET is not negotiated")
    queue.pause()
    const lost = queue.fail(new DriverError("reset", `the driver reset queue ${index}`))
    try {
      await this.virtio.resetQueue(index)
    } catch (error) {
      this.#lost.push(...lost)
      if (error instanceof DriverError) this.#fail(error)
      throw error
    }
    this.#giveBack(lost)
    queue.resume()
    this.#push()
  }

  /** Suspends the device: what is in flight comes back first, and what is submitted meanwhile waits for `resume`. @throws DriverError */
  async suspend(): Promise<void> {
    await suspendQueues(this.#queues, this.virtio.suspension)
    this.poll()
  }

  /** Ends `suspend`. @throws DriverError */
  async resume(): Promise<void> {
    await resumeQueues(this.#queues, this.virtio.suspension)
    this.#push()
  }

  /**
   * Descriptors in the ring of a queue.
   * @throws RangeError for a queue that is not in use, DriverError when the device failed
   */
  ringSize(queue: number): number {
    return this.#queue(queue).queue.ring.size
  }

  /** Sends a chain, or queues it until descriptors are free. Resolves with the used length. */
  submit(submission: Submission): Promise<number> {
    const queue = this.#queue(submission.queue)
    const { segments, table, buffer } = submission
    const returned = new Promise<number>(
      (used, failed) => queue.submit({ segments, table, used, failed, ...(buffer !== undefined && { buffer }) }),
    )
    this.#watch.start()
    this.#push()
    return returned
  }

  /** Resolves with the used length of a chain that somebody else puts into the ring. */
  whenUsed(head: number, queue: number): Promise<number> {
    const owner = this.#queue(queue)
    this.#watch.start()
    return new Promise((used, failed) => owner.expect(head, { segments: [], used, failed }))
  }

  /** Runs `submit`, then shows the device all that it has submitted at once. */
  batch<T>(submit: () => T): T {
    this.#batches++
    try {
      return submit()
    } finally {
      this.#batches--
      this.#push()
    }
  }

  /** Looks for completions, and for a device that has failed. Returns whether there was any completion. */
  poll(): boolean {
    if (this.#isPolling) return false
    this.#isPolling = true
    try {
      let found = false
      while (this.#drainAll()) {
        found = true
        this.#push()
      }
      if (!found && this.#failure === undefined) this.#checkStatus()
      return found
    } finally {
      this.#isPolling = false
    }
  }

  /** Returns a function that ends it. */
  onConfigurationChange(listener: () => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  #queue(index: number): BlockQueue {
    if (this.#failure !== undefined) throw this.#failure
    const queue = this.#queues[index]
    if (queue === undefined) throw new RangeError(`there is no queue ${index}; ${this.#queues.length} are in use`)
    return queue
  }

  /** Hands waiting chains to the rings and tells the device about everything new. */
  #push(): void {
    if (this.#batches > 0) return
    for (const queue of this.#queues) {
      if (this.#failure !== undefined) return
      queue.refill()
      this.virtio.push(queue.queue)
    }
    if (this.virtio.interrupts === "none") this.poll()
  }

  #onUsed(index: number): void {
    const queue = this.#queues[index]
    if (queue === undefined) return
    this.#drain(queue)
    this.#push()
  }

  #drainAll(): boolean {
    let found = false
    for (const queue of this.#queues) if (this.#drain(queue)) found = true
    return found
  }

  #drain(queue: BlockQueue): boolean {
    if (this.#failure !== undefined) return false
    try {
      return queue.drain()
    } catch (error) {
      if (!(error instanceof DriverError)) throw error
      this.#fail(error)
      return false
    }
  }

  #onConfiguration(): void {
    if (!this.#checkStatus()) return
    // Read again only when somebody asks: with a single vector this runs for every completion.
    this.#identity = undefined
    for (const listener of this.#listeners) listener()
  }

  /** Returns whether the device is well. */
  #checkStatus(): boolean {
    const fault = this.virtio.fault()
    if (fault !== undefined) this.#fail(fault)
    return this.#failure === undefined
  }

  /** Finds what no interrupt has announced. Returns whether requests are still in flight. */
  #look(): boolean {
    if (this.#failure !== undefined || !this.#checkStatus()) return false
    let isLate = false
    for (const queue of this.#queues) if (queue.isLate()) isLate = true
    if (isLate) this.poll()
    return this.#queues.some((queue) => queue.isBusy)
  }

  #fail(error: DriverError): void {
    this.#failure ??= error
    this.#watch.stop()
    this.buffers.rejectWaiting(this.#failure)
    for (const queue of this.#queues) this.#lost.push(...queue.fail(error))
  }

  /** Drops the queues: the device has been reset, or is gone. */
  #end(error: DriverError): void {
    this.#fail(error)
    this.#failure = error
    this.#giveBack(this.#lost.splice(0))
    this.#queues = []
  }

  /** The device no longer touches the memory of these chains. */
  #giveBack(chains: readonly Chain[]): void {
    for (const { buffer } of chains) if (buffer !== undefined) buffer.isInDevice = false
    this.buffers.reclaim()
  }
}
