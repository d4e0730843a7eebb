/**
 * VirtioMmio: a virtio device behind memory-mapped registers ([VIRTIO] 4.2), for machines without PCI: version 2, or version 1, which is
 * the legacy interface. It depends neither on the device type nor on the address of the registers.
 */
import { checkMembers, checkOptions, type Rules } from "../../options.ts"
import { savedNumber, savedNumbers, shown, STATE_VERSION } from "../../saved-state.ts"
import { GUEST_MEMORY_RULES, type GuestMemory } from "../guest-memory.ts"
import { type GuestEndian, memoryOf } from "../legacy/big-endian-memory.ts"
import { LegacyConfig } from "../legacy/legacy-config.ts"
import { checkLegacyCan } from "../legacy/modern-only.ts"
import type { RestoreOptions, SaveOptions, VirtioDeviceState } from "../state.ts"
import { checkSameGuest, savedTransport } from "../transport-state.ts"
import type { DeviceSignals, Transportable, TransportedDevice } from "../transport.ts"
import { commonRegisters, type ControlHost, modernRegisters, type Selects } from "./control-registers.ts"
import { LegacyControl } from "./legacy-control.ts"
import { INTERRUPT, PCI_FEATURES, VIRTIO_MMIO } from "./spec.ts"
import { WordRegisters } from "./word-registers.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a kick, measured).
const { QueueNotify, Config } = VIRTIO_MMIO

/** Options of `VirtioMmio`. */
export interface VirtioMmioOptions {
  /** What the guest's driver expects: 2 (default), or 1, the legacy interface of drivers from before virtio 1.0. */
  readonly version?: 1 | 2
  /** Byte order of the guest, "big" with version 1 only: a driver of version 2 is little-endian on any machine. Default "little". */
  readonly guestEndian?: GuestEndian
}

/** The constructor checks that `version` is one of two numbers. */
export const VIRTIO_MMIO_RULES: Rules<VirtioMmioOptions> = { version: "number?", guestEndian: ["little", "big"] }

/** What the registers need of the machine that they are in. */
export interface VirtioMmioWiring {
  readonly memory: GuestMemory
  /** Called with each change of the interrupt line's level, within the access or the completion that causes it. It is low at first. */
  readonly interrupt: (level: boolean) => void
}

/** What `saveState` returns: JSON values. */
export interface VirtioMmioState {
  readonly version: number
  /** The transport's version, 1 or 2. */
  readonly mmioVersion: number
  readonly guestEndian: GuestEndian
  readonly interruptStatus: number
  /** Device feature, driver feature and queue selector. */
  readonly selects: readonly number[]
  /** Version 1: GuestPageSize, and QueueAlign of each queue. */
  readonly legacyLayout: readonly number[]
  readonly device: VirtioDeviceState
}

/** A virtio device behind memory-mapped registers: [VIRTIO] 4.2. */
export class VirtioMmio implements DeviceSignals, ControlHost {
  /** The device that the registers control. */
  readonly device: Transportable
  readonly version: 1 | 2
  readonly selects: Selects = { deviceFeatures: 0, driverFeatures: 0, queue: 0 }
  readonly #virtio: TransportedDevice
  readonly #registers: WordRegisters
  readonly #legacy: LegacyControl | undefined
  readonly #config: LegacyConfig
  readonly #guestEndian: GuestEndian
  readonly #interrupt: (level: boolean) => void
  #interruptStatus = 0
  /** Of the interrupt line. */
  #isHigh = false
  /** While a state is being restored, the line stays as it is: a handler would see incomplete registers. */
  #isRestoring = false

  /**
   * Puts `device` behind new registers.
   * @throws TypeError for wrong options, RangeError for an unknown version, or for a big-endian guest with version 2
   */
  constructor(device: Transportable, options: VirtioMmioOptions & VirtioMmioWiring) {
    checkMembers("VirtioMmio", "the device", device, { virtio: "object" }, "Transportable (a VirtioBlk)")
    checkOptions("VirtioMmio", options, { ...VIRTIO_MMIO_RULES, memory: "object", interrupt: "function" })
    checkMembers("VirtioMmio", "memory", options.memory, GUEST_MEMORY_RULES, "GuestMemory")
    const { version = 2, guestEndian = "little", memory } = options
    if (version !== 1 && version !== 2) throw new RangeError(`VirtioMmio: version must be 1 or 2, not ${String(version)}`)
    if (guestEndian === "big" && version !== 1) {
      throw new RangeError('VirtioMmio: guestEndian "big" needs version 1: a driver of version 2 is little-endian on any machine')
    }
    const { virtio } = device
    if (version === 1) checkLegacyCan(virtio, "give VirtioMmio version 2")
    this.device = device
    this.version = version
    this.#guestEndian = guestEndian
    this.#virtio = virtio
    this.#interrupt = options.interrupt
    this.#legacy = version === 1 ? new LegacyControl(virtio, this) : undefined
    this.#config = new LegacyConfig(virtio, guestEndian)
    this.#registers = new WordRegisters([...commonRegisters(virtio, this), ...(this.#legacy?.registers ?? modernRegisters(virtio, this))])
    virtio.attach({ memory: memoryOf(memory, guestEndian), signals: this, transitional: version === 1, withoutFeatures: PCI_FEATURES })
  }

  /** Bytes of the registers, the device configuration included. A guest may be given more: the rest reads 0. */
  get size(): number {
    return Config + this.#virtio.config.size
  }

  /**
   * Reads `width` bytes (1, 2 or 4) at byte `offset` of the registers, as an unsigned little-endian number: all registers are
   * little-endian, except the device configuration of a big-endian guest. Returns 0 if there is no register.
   */
  read(offset: number, width: 1 | 2 | 4): number {
    return offset < Config ? this.#registers.read(offset, width) : this.#config.read(offset - Config, width)
  }

  /** Writes the low `width` bytes (1, 2 or 4) of `value` at byte `offset` of the registers. Ignored if there is no register. */
  write(offset: number, width: 1 | 2 | 4, value: number): void {
    // With NOTIFICATION_DATA the upper half has the ring's position. It is ignored: the ring itself has it too (VQ-30).
    if (offset === QueueNotify && width === 4) this.#virtio.notify(value & 0xffff)
    else if (offset < Config) this.#registers.write(offset, width, value)
    else this.#config.write(offset - Config, width, value)
  }

  /** The reset line: the device as after power-on. */
  reset(): void {
    this.#virtio.writeStatus(0)
    this.#legacy?.reset()
  }

  /**
   * Everything but guest memory and the disk's content, as JSON values. Pause the device and flush the disk first.
   * @throws Error while a request is in flight, unless `options` says what to do about it
   */
  saveState(options: SaveOptions = {}): VirtioMmioState {
    const { deviceFeatures, driverFeatures, queue } = this.selects
    return {
      version: STATE_VERSION,
      mmioVersion: this.version,
      guestEndian: this.#guestEndian,
      interruptStatus: this.#interruptStatus,
      selects: [deviceFeatures, driverFeatures, queue],
      legacyLayout: this.#legacy?.layout ?? [],
      device: this.#virtio.saveState(options),
    }
  }

  /**
   * Restores a result of `saveState`, with the interrupt line. The device is paused: restore guest memory, then call `device.resume()`.
   * @throws Error, with everything reset, for the state of other registers or another image, or if the image has changed since
   */
  restoreState(saved: unknown, options: RestoreOptions = {}): void {
    this.reset()
    const state = savedTransport(saved, "MMIO")
    if (savedNumber(state["mmioVersion"], "version of virtio over MMIO", 2) !== this.version) {
      throw new Error(`saved state: its registers are of version ${shown(state["mmioVersion"])}, these are of ${this.version}`)
    }
    checkSameGuest(state, { guestEndian: this.#guestEndian, queues: this.#virtio.queueCount })
    const interruptStatus = savedNumber(state["interruptStatus"], "InterruptStatus", INTERRUPT.USED_BUFFER | INTERRUPT.CONFIG_CHANGE)
    const [deviceFeatures = 0, driverFeatures = 0, queue = 0] = savedNumbers(state["selects"], "selects", { length: 3 })
    const legacyLayout = savedNumbers(state["legacyLayout"], "layout of legacy rings", {
      length: this.#legacy === undefined ? 0 : 1 + this.#virtio.queueCount,
    })
    this.#isRestoring = true
    try {
      this.#virtio.restoreState(state["device"], options)
      Object.assign(this.selects, { deviceFeatures, driverFeatures, queue })
      if (this.#legacy !== undefined) this.#legacy.layout = legacyLayout
      // Keeps an interrupt that the device has raised during the restoration (another capacity).
      this.#interruptStatus |= interruptStatus
    } finally {
      this.#isRestoring = false
      this.#setInterruptStatus(this.#interruptStatus)
    }
  }

  // --- For the device ---

  queueInterrupt(): void {
    this.#setInterruptStatus(this.#interruptStatus | INTERRUPT.USED_BUFFER)
  }

  configInterrupt(): void {
    this.#setInterruptStatus(this.#interruptStatus | INTERRUPT.CONFIG_CHANGE)
  }

  deviceReset(): void {
    Object.assign(this.selects, { deviceFeatures: 0, driverFeatures: 0, queue: 0 })
    this.#legacy?.deviceReset()
    this.#setInterruptStatus(0)
  }

  // --- For the registers ---

  get interruptStatus(): number {
    return this.#interruptStatus
  }

  acknowledge(bits: number): void {
    this.#setInterruptStatus(this.#interruptStatus & ~bits)
  }

  /** The line is high while any bit is set. Its handler may do anything, even reset the device. */
  #setInterruptStatus(bits: number): void {
    this.#interruptStatus = bits
    const level = bits !== 0
    if (level === this.#isHigh || this.#isRestoring) return
    this.#isHigh = level
    this.#interrupt(level)
  }
}
