/**
 * Suspension: the effects of SUSPEND ([VIRTIO] 3.4). Requests in flight end first. A suspended device touches no queue, sends no
 * notifications, and does not change its configuration space.
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
  /** Delayed changes of the configuration space. */
  #changes: (() => void)[] = []

  readonly #hasUnfinished: () => boolean

  /** `hasUnfinished`: whether requests have been taken and wait for the next turn. */
  constructor(device: SuspendedDevice, hasUnfinished: () => boolean) {
    this.#device = device
    this.#hasUnfinished = hasUnfinished
  }

  /** The driver has written the status. */
  statusWritten(): void {
    this.ended()
    this.tell()
  }

  /**
   * Suspends the device if the driver asked for it and no request is in flight. Call it when this may have changed, and after each turn.
   */
  tell(): void {
    const { negotiation, queues, work } = this.#device
    if (!negotiation.isSuspending) return
    if (this.#isDrained) {
      // A turn may be in progress, with requests that are completed and not published. An interrupt may do anything.
      for (const queue of queues) this.#device.show(queue)
    }
    if (!negotiation.isSuspending) return
    if (this.#isDrained) negotiation.suspend()
    else work.awaitEnd()
  }

  /** Changes the configuration space: now, or after the suspension. */
  change(act: () => void): void {
    if (this.#device.negotiation.isSuspended) this.#changes.push(act)
    else act()
  }

  /** Whether delayed changes of the configuration space exist. */
  get hasChanges(): boolean {
    return this.#changes.length > 0
  }

  /** The suspension may have ended: makes the delayed changes. */
  ended(): void {
    if (this.#changes.length === 0 || this.#device.negotiation.isSuspended) return
    for (const act of this.#changes.splice(0)) act()
  }

  get #isDrained(): boolean {
    const { inFlight, queues } = this.#device
    return inFlight.countWithParked === 0 && !this.#hasUnfinished() && !queues.some(({ hasSaved }) => hasSaved)
  }
}
