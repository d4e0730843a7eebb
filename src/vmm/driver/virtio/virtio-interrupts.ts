/**
 * VirtioInterrupts: brings the interrupts of one virtio device to its driver: through its line and the ISR status, through MSI-X
 * vectors, or not at all. [VIRTIO] 4.1.5.1.2 and 4.1.5.5.
 */
import { DriverError } from "../errors.ts"
import { InterruptRouter } from "./interrupts.ts"
import type { MsixTable } from "../pci/msix.ts"
import type { VirtioBus } from "./bus.ts"
import type { DriverTransport } from "./transport.ts"
import { ISR, NOBODY } from "./spec.ts"

/** How the driver learns of completions: "none" means that its owner polls. */
export type InterruptMode = "msix" | "intx" | "none"

export interface VirtioInterruptEvents {
  /** Queues with this vector may have been served; without a vector: any queue. */
  queues(vector: number | undefined): void
  configuration(): void
}

/** The vector of configuration changes; the queues have the ones after it. */
const CONFIG_VECTOR = 0

/** The interrupts of one device. */
export class VirtioInterrupts {
  readonly mode: InterruptMode
  /** Vectors that the device has; 0 without MSI-X. */
  readonly vectors: number
  readonly #bus: VirtioBus
  readonly #events: VirtioInterruptEvents
  readonly #router: InterruptRouter
  readonly #msix: MsixTable | undefined
  #undo: (() => void)[] = []

  /**
   * `mode` undefined: MSI-X where the device has it, else its line, else none.
   * @throws DriverError ("unsupported")
   */
  constructor(bus: VirtioBus, events: VirtioInterruptEvents, mode: InterruptMode | undefined) {
    this.#bus = bus
    this.#events = events
    this.#router = InterruptRouter.of(bus.platform)
    this.#msix = bus.msix?.()
    this.vectors = this.#msix?.size ?? 0
    this.mode = mode ?? (this.#msix !== undefined ? "msix" : bus.interruptLine !== undefined ? "intx" : "none")
    if (this.mode === "msix" && this.#msix === undefined) throw new DriverError("unsupported", `${bus.name}: the device has no MSI-X`)
    if (this.mode === "intx" && bus.interruptLine === undefined) {
      throw new DriverError("unsupported", `${bus.name}: it has no interrupt line`)
    }
  }

  /** Sets interrupts up for so many queues. Returns the vector of each queue; none without MSI-X. */
  connect(transport: DriverTransport, queues: number): number[] {
    if (this.#msix !== undefined) this.#prepare(this.#msix)
    this.#bus.switchLine?.(this.mode !== "none")
    const line = this.#bus.interruptLine
    if (this.mode === "intx" && line !== undefined) this.#undo.push(this.#router.onLine(line, () => this.#onLine(transport)))
    return this.mode === "msix" && this.#msix !== undefined ? this.#connectVectors(this.#msix, transport, queues) : []
  }

  /** Removes the handlers. The device must have been reset: nobody listens to it any more. */
  disconnect(): void {
    for (const undo of this.#undo) undo()
    this.#undo = []
  }

  /** Switches MSI-X off. */
  disable(): void {
    if (this.#msix !== undefined) this.#msix.enabled = false
  }

  /** Runs an access that may raise interrupts. They are handled when it has returned, as on a CPU. */
  after(access: () => void): void {
    this.#router.hold()
    try {
      access()
    } finally {
      this.#router.release()
    }
  }

  /** [VIRTIO] 4.1.5.1.2.2: a driver verifies that a mapping succeeded. */
  checkMapping(got: number, wanted: number): void {
    if (got !== wanted) {
      throw new DriverError("unsupported", `${this.#bus.name}: MSI-X vector ${wanted} was not accepted; the device shows ${got}`)
    }
  }

  #connectVectors(msix: MsixTable, transport: DriverTransport, queues: number): number[] {
    // One vector for the configuration and one for each queue. With fewer vectors the queues share one; with one vector all share it.
    const last = msix.size - 1
    const perQueue = Array.from({ length: queues }, (_, index) => (queues <= last ? index + 1 : Math.min(last, 1)))
    for (const vector of new Set([CONFIG_VECTOR, ...perQueue])) {
      const message = this.#router.assignMessage(() => this.#onVector(vector))
      this.#undo.push(() => message.release())
      msix.program(vector, message)
    }
    this.checkMapping(transport.mapConfigVector(CONFIG_VECTOR), CONFIG_VECTOR)
    msix.functionMasked = false
    return perQueue
  }

  /** A former owner may have left anything in the table. Function Mask stays set until the table has been written. */
  #prepare(msix: MsixTable): void {
    msix.functionMasked = this.mode === "msix"
    msix.enabled = this.mode === "msix"
  }

  /** Returns whether the line was ours. Reading the ISR status lowers it. */
  #onLine(transport: DriverTransport): boolean {
    const isr = transport.readIsr()
    if (isr === NOBODY) {
      // The device is gone: somebody else asserts the line. The owner finds out when it reads the status.
      this.#events.configuration()
      return false
    }
    if ((isr & ISR.CONFIGURATION) !== 0) this.#events.configuration()
    if ((isr & ISR.QUEUE) !== 0) this.#events.queues(undefined)
    return (isr & (ISR.QUEUE | ISR.CONFIGURATION)) !== 0
  }

  #onVector(vector: number): void {
    // The two may share a vector.
    if (vector === CONFIG_VECTOR) this.#events.configuration()
    this.#events.queues(vector)
  }
}
