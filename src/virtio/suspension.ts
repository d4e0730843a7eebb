/**
 * Suspension: what SUSPEND asks of a device ([VIRTIO] 3.4): requests in flight end first, and while it is suspended it touches no queue,
 * tells nothing, and leaves its configuration space as it is.
 */
import type { InFlight } from "./in-flight.ts"
import type { Negotiation } from "./negotiation.ts"
import type { Virtqueue } from "./virtqueue.ts"
import type { Work } from "./work.ts"

/** The device that is suspended. */
export interface SuspendedDevice {
  readonly negotiation: Pick<Negotiation, "isSuspending" | "isSuspended" | "suspend">
  readonly work: Pick<Work, "awaitEnd">
  readonly inFlight: Pick<InFlight, "countWithParked">
  readonly queues: readonly Virtqueue[]
  show(queue: Virtqueue): void
}

export class Suspension {
  readonly #device: SuspendedDevice
  /** Changes of the configuration space that wait. */
  #changes: (() => void)[] = []

  readonly #hasUnfinished: () => boolean

  /** `hasUnfinished`: requests have been taken, and wait for the next turn. */
  constructor(device: SuspendedDevice, hasUnfinished: () => boolean) {
    this.#device = device
    this.#hasUnfinished = hasUnfinished
  }

  /** The driver has written the status. */
  statusWritten(): void {
    this.ended()
    this.tell()
  }

  /** Suspends the device if it is to be, and nothing is in flight. To be called when that may be so, and when a turn has ended. */
  tell(): void {
    const { negotiation, queues, work } = this.#device
    if (!negotiation.isSuspending) return
    if (this.#isDrained) {
      // A turn may be under way, with requests that have been completed and not been shown. An interrupt may do anything.
      for (const queue of queues) this.#device.show(queue)
    }
    if (!negotiation.isSuspending) return
    if (this.#isDrained) negotiation.suspend()
    else work.awaitEnd()
  }

  /** Makes a change of the configuration space: now, or once the device is not suspended any more. */
  change(act: () => void): void {
    if (this.#device.negotiation.isSuspended) this.#changes.push(act)
    else act()
  }

  /** Changes of the configuration space wait, of which the driver is to be told. */
  get hasChanges(): boolean {
    return this.#changes.length > 0
  }

  /** The device may not be suspended any more: makes the changes that have waited. */
  ended(): void {
    if (this.#changes.length === 0 || this.#device.negotiation.isSuspended) return
    for (const act of this.#changes.splice(0)) act()
  }

  get #isDrained(): boolean {
    const { inFlight, queues } = this.#device
    return inFlight.countWithParked === 0 && !this.#hasUnfinished() && !queues.some(({ hasSaved }) => hasSaved)
  }
}
