/** DriverSuspension: suspends a device, and resumes it (VIRTIO_F_SUSPEND, [VIRTIO] 3.4). */
import { DriverError } from "../errors.ts"
import { includesFeature } from "./features.ts"
import { DEVICE_STATUS } from "./spec.ts"
import type { DriverTransport } from "./transport.ts"

const { DRIVER_OK, SUSPEND } = DEVICE_STATUS

/** The driver of the device. */
export interface SuspendingDriver {
  readonly features: bigint
  readonly transport: DriverTransport
  setStatus(bits: number): void
  fault(): DriverError | undefined
}

/** Waits until something is so. @throws DriverError ("timeout") with `message` */
export async function waitUntil(isSo: () => boolean, timeout: number, message: string): Promise<void> {
  const end = Date.now() + timeout
  while (!isSo()) {
    if (Date.now() >= end) throw new DriverError("timeout", `${message} after ${timeout} ms`)
    // The device may need the thread.
    await new Promise((resolve) => setTimeout(resolve, 1))
  }
}

export class DriverSuspension {
  /** SUSPEND has been set, and the device has not been resumed or reset since. */
  isActive = false
  readonly #driver: SuspendingDriver
  readonly #name: string
  readonly #timeout: number

  /** `timeout`: milliseconds that either may take. */
  constructor(driver: SuspendingDriver, { name, timeout }: { readonly name: string; readonly timeout: number }) {
    this.#driver = driver
    this.#name = name
    this.#timeout = timeout
  }

  /**
   * Suspends the device: it ends what is in flight, and then leaves rings, memory and configuration alone. Until `resume` nothing may be
   * shown to it and no kick sent.
   * @throws DriverError: "unsupported" when SUSPEND is not negotiated, "timeout", "needs-reset", "gone"
   */
  async suspend(): Promise<void> {
    if (!includesFeature(this.#driver.features, "SUSPEND")) throw new DriverError("unsupported", "SUSPEND is not negotiated")
    this.isActive = true
    this.#driver.setStatus(SUSPEND)
    await this.#until(SUSPEND, "suspended")
  }

  /** Ends `suspend`. @throws DriverError: "timeout", "needs-reset", "gone" */
  async resume(): Promise<void> {
    this.#driver.setStatus(DRIVER_OK)
    await this.#until(DRIVER_OK, "resumed")
    this.isActive = false
  }

  /** Waits until the status has `wanted`, of SUSPEND and DRIVER_OK. */
  async #until(wanted: number, what: string): Promise<void> {
    let fault: DriverError | undefined
    const isSo = (): boolean => (this.#driver.transport.status & (SUSPEND | DRIVER_OK)) === wanted
    await waitUntil(
      () => (fault = this.#driver.fault()) !== undefined || isSo(),
      this.#timeout,
      `${this.#name}: the device has not been ${what}`,
    )
    if (fault !== undefined) throw fault
  }
}
