/**
 * MmioDevice: a virtio device behind memory-mapped registers, for the driver. There is no discovery: who runs the guest says where the
 * registers are ([VIRTIO] 4.2.1).
 */
import { checkCount, checkOptions, checkValue, type Rules } from "../../../../options.ts"
import { DriverError } from "../../errors.ts"
import { registersAt } from "../../pci/registers.ts"
import { checkPlatform, type Platform } from "../../platform.ts"
import type { VirtioBus } from "../bus.ts"
import { VIRTIO_ID } from "../spec.ts"
import type { DriverTransport } from "../transport.ts"
import { LegacyMmioDriverTransport, MmioDriverTransport } from "./mmio-transport.ts"
import { MMIO, MMIO_MAGIC } from "./spec.ts"

/** Where a device is in its machine. */
export interface MmioDevicePlace {
  /** Guest-physical address of the registers. */
  readonly address: number
  /** Its interrupt line. Left out: it has none. */
  readonly line?: number | undefined
}

const PLACE_RULES: Rules<MmioDevicePlace> = { address: "number", line: "number?" }

/** A virtio device behind memory-mapped registers. It makes no access until it is asked to. */
export class MmioDevice implements VirtioBus {
  readonly platform: Platform
  readonly address: number
  readonly interruptLine: number | undefined

  /** @throws TypeError or RangeError for arguments that are none */
  constructor(platform: Platform, place: MmioDevicePlace) {
    checkPlatform("MmioDevice", platform)
    // What a machine returns for a disk has more members.
    const { address, line } = place
    checkOptions("MmioDevice", { address, line }, PLACE_RULES)
    checkCount("MmioDevice", "address", address, 0)
    checkCount("MmioDevice", "line", line, 0)
    this.platform = platform
    this.address = address
    this.interruptLine = line
  }

  /** "mmio@feb00000" */
  get name(): string {
    return `mmio@${this.address.toString(16)}`
  }

  /** The device type, 0 for a placeholder; undefined when there are no virtio registers of a version that is known. */
  get deviceId(): number | undefined {
    const isKnown = this.#read(MMIO.MAGIC_VALUE) === MMIO_MAGIC && [1, 2].includes(this.#read(MMIO.VERSION))
    return isKnown ? this.#read(MMIO.DEVICE_ID) : undefined
  }

  /** @throws DriverError ("no-device") when there is none */
  open(): DriverTransport {
    const { deviceId } = this
    if (deviceId === undefined || deviceId === 0) throw new DriverError("no-device", `${this.name}: there is no virtio device`)
    const registers = registersAt(this.platform, { space: "memory", base: this.address })
    return this.#read(MMIO.VERSION) === 1 ? new LegacyMmioDriverTransport(registers) : new MmioDriverTransport(registers)
  }

  isInPlace(): boolean {
    return (this.deviceId ?? 0) !== 0
  }

  #read(register: number): number {
    return this.platform.mmioRead(this.address + register, 4)
  }
}

/** Those of `places` where there is a virtio block device, in their order. @throws TypeError or RangeError for what is not a place */
export function findMmioBlockDevices(platform: Platform, places: readonly MmioDevicePlace[]): MmioDevice[] {
  checkPlatform("findMmioBlockDevices", platform)
  checkValue("findMmioBlockDevices", "places", places, "array")
  return places.map((place) => new MmioDevice(platform, place)).filter(({ deviceId }) => deviceId === VIRTIO_ID.BLOCK)
}
