/**
 * VirtioPciFunction: a virtio device as a PCI function ([VIRTIO] 4.1): transitional (both interfaces), modern or legacy only.
 * It does not depend on the device type.
 */
import { truncate } from "../../pci/access.ts"
import { type AccessWidth, type BarDefinition, PciFunction } from "../../pci/function.ts"
import type { PciFunctionState } from "../../pci/state.ts"
import { savedNumber, savedNumbers, STATE_VERSION } from "../../saved-state.ts"
import { type GuestEndian, memoryOf } from "../legacy/big-endian-memory.ts"
import { DEVICE_STATUS } from "../spec.ts"
import type { RestoreOptions, SaveOptions, VirtioDeviceState } from "../state.ts"
import { checkSameGuest, savedTransport } from "../transport-state.ts"
import type { DeviceSignals, Transportable, TransportedDevice } from "../transport.ts"
import { COMMON_CONFIG_SIZE, CommonConfig } from "./common-config.ts"
import { ConfigWindow } from "./config-window.ts"
import { legacyBarSize, LegacyRegisters } from "./legacy-registers.ts"
import { checkedOptions, type VirtioPciOptions, type VirtioPciWiring } from "./pci-options.ts"
import {
  CLASS_CODE, identity, LEGACY_BAR, type ModernLayout, modernLayout, MSIX_BAR, msixLayout, NOTIFY_BYTES,
  NOTIFY_SHIFT, PCI_CAP_ID_VENDOR, structureCapabilities, VIRTIO_VENDOR_ID, windowCapability, within,
} from "./structures.ts"
import { NO_VECTOR, Vectors } from "./vectors.ts"

// Copied to locals: V8 re-reads imported bindings on each use (10 ns a kick, measured).
const [NOTIFY_MASK, SHIFT] = [NOTIFY_BYTES - 1, NOTIFY_SHIFT] as const

/** [VIRTIO] 4.1.4.5: bits of the ISR status. */
const ISR = { QUEUE: 1, CONFIG: 2 } as const

/** What `saveState` returns: JSON values. */
export interface VirtioPciState {
  readonly version: number
  readonly function: PciFunctionState
  readonly isr: number
  /** Of configuration changes, then of each queue. */
  readonly vectors: readonly number[]
  /** Device feature, driver feature and queue selectors of the modern registers, queue selector of the legacy ones. */
  readonly selects: readonly number[]
  /** Left out: "little". */
  readonly guestEndian?: GuestEndian
  readonly device: VirtioDeviceState
}

/** A virtio device as a PCI function, for any bus: [VIRTIO] 4.1. */
export class VirtioPciFunction extends PciFunction implements DeviceSignals {
  /** The device of the function. */
  readonly device: Transportable
  readonly #virtio: TransportedDevice
  readonly #modern: ModernLayout | undefined
  readonly #common: CommonConfig
  readonly #legacy: LegacyRegisters | undefined
  /** For the registers. */
  readonly vectors: Vectors
  readonly #guestEndian: GuestEndian
  #isr = 0
  /** While a state is being restored there are no interrupts: a handler would see incomplete registers. */
  #isRestoring = false
  /** Only the modern interface has one. */
  readonly #window: ConfigWindow | undefined

  /**
   * Puts `device` behind a new PCI function.
   * @throws TypeError for wrong options, RangeError for a wrong number of vectors
   */
  constructor(device: Transportable, options: VirtioPciOptions & VirtioPciWiring) {
    const { kind, endian, vectors } = checkedOptions(device, options)
    const { virtio } = device
    const modern = kind === "legacy" ? undefined : modernLayout(virtio, options.modernBar ?? "memory")
    const msix = vectors === 0 ? undefined : msixLayout(vectors)
    const bars: BarDefinition[] = []
    if (kind !== "modern") bars.push({ index: LEGACY_BAR, kind: "io", size: legacyBarSize(virtio.config.size) })
    if (msix !== undefined) bars.push(msix.bar)
    if (modern !== undefined) bars.push(modern.bar)
    super({
      vendorId: VIRTIO_VENDOR_ID,
      ...identity(virtio, kind),
      classCode: CLASS_CODE,
      subsystemVendorId: VIRTIO_VENDOR_ID,
      bars,
      ...(msix === undefined ? {} : { msix: { bar: MSIX_BAR, vectors, tableOffset: 0, pbaOffset: msix.pbaOffset } }),
      interrupts: options.interrupts,
    })
    this.device = device
    this.#guestEndian = endian
    this.#virtio = virtio
    this.vectors = new Vectors({ queues: virtio.queueCount, vectors })
    this.#modern = modern
    this.#common = new CommonConfig(virtio, this)
    this.#legacy = kind === "modern" ? undefined : new LegacyRegisters(virtio, this, endian)
    if (modern !== undefined) this.#window = this.#addCapabilities(modern)
    virtio.attach({ memory: memoryOf(options.memory, endian), signals: this, transitional: kind === "transitional" })
    virtio.setBusMaster(this.busMaster)
  }

  // --- Interrupts ---

  /** [VIRTIO] 4.1.5.3. Like QEMU, sets the ISR bit with MSI-X too, because some drivers read it in any case. */
  queueInterrupt(index: number): void {
    this.#interrupt(ISR.QUEUE, this.vectors.queue(index))
  }

  /** [VIRTIO] 4.1.5.4. Like QEMU, it sets the queue bit too: drivers that wait for it look at their queues, which is harmless. */
  configInterrupt(): void {
    this.#interrupt(ISR.CONFIG | ISR.QUEUE, this.vectors.config)
  }

  #interrupt(bits: number, vector: number): void {
    // Computed first, because the sink of the pin may reset the device.
    const isMessage = this.msixEnabled && vector !== NO_VECTOR
    this.#isr |= bits
    if (this.#isRestoring) return
    this.setIntx(true)
    if (isMessage) this.msix?.trigger(vector)
  }

  /** Reading returns the pending bits and clears them. */
  readIsr(): number {
    const isr = this.#isr
    this.#isr = 0
    this.setIntx(false)
    return isr
  }

  get msixEnabled(): boolean {
    return this.msix?.enabled ?? false
  }

  // --- Registers ---

  notifyOffset(queue: number): number {
    return this.#modern?.notifyMultiplier === 0 ? 0 : queue
  }

  /** A status from the legacy interface. */
  writeStatus(status: number): void {
    // Drivers from before Linux 2.6.34 never enable bus mastering; like QEMU, we enable it at this status.
    if (status === (DEVICE_STATUS.ACKNOWLEDGE | DEVICE_STATUS.DRIVER)) this.setBusMaster(true)
    this.#virtio.writeStatus(status)
  }

  /** The device has been reset. */
  deviceReset(): void {
    this.vectors.reset()
    this.#common.reset()
    this.#legacy?.reset()
    // Otherwise unmasking would send a pending message after the reset.
    this.msix?.clearPending()
    this.readIsr()
  }

  override reset(): void {
    super.reset()
    this.#virtio.writeStatus(0)
  }

  /**
   * Everything but guest memory and the disk's content, as JSON values. Pause the device and flush the disk first.
   * @throws Error while a request is in flight, unless `options` says what to do about it
   */
  saveState(options: SaveOptions = {}): VirtioPciState {
    return {
      version: STATE_VERSION,
      function: this.saveRegisters(),
      isr: this.#isr,
      vectors: this.vectors.all,
      selects: [...this.#common.selects, this.#legacy?.queueSelect ?? 0],
      ...(this.#guestEndian === "big" && { guestEndian: this.#guestEndian }),
      device: this.#virtio.saveState(options),
    }
  }

  /**
   * Restores a result of `saveState`, with the interrupt pin. The device is paused: restore guest memory, then call `device.resume()`.
   * @throws Error, with everything reset, for the state of another function or another image, or if the image has changed since
   */
  restoreState(saved: unknown, options: RestoreOptions = {}): void {
    this.reset()
    const state = savedTransport(saved, "PCI")
    checkSameGuest(state, { guestEndian: this.#guestEndian, queues: this.#virtio.queueCount })
    const isr = savedNumber(state["isr"], "ISR", ISR.QUEUE | ISR.CONFIG)
    const vectors = savedNumbers(state["vectors"], "vectors", { length: 1 + this.#virtio.queueCount, max: NO_VECTOR })
    const selects = savedNumbers(state["selects"], "selects", { length: 4 })
    const restoreRegisters = this.readyToRestore(state["function"])
    this.#isRestoring = true
    try {
      this.#virtio.restoreState(state["device"], options)
      restoreRegisters()
    } finally {
      this.#isRestoring = false
    }
    this.vectors.all = vectors
    this.#common.selects = selects
    if (this.#legacy !== undefined) this.#legacy.queueSelect = selects[3] ?? 0
    const hasNews = (this.#isr & ISR.CONFIG) !== 0
    this.#isr |= isr
    // For example: the capacity has changed.
    if (hasNews) this.configInterrupt()
    else this.setIntx(this.#isr !== 0)
  }

  protected override commandChanged(): void {
    this.#virtio.setBusMaster(this.busMaster)
  }

  /** Kicks are checked first: a running driver writes nothing else. */
  override barWrite(index: number, offset: number, width: AccessWidth, value: number): void {
    const modern = this.#modern
    if (modern === undefined || index !== modern.bar.index || !within(offset, modern.notify, modern.notifyLength)) {
      super.barWrite(index, offset, width, value)
      return
    }
    // If each queue has its own address, that tells the queue ([VIRTIO] 4.1.4.4); if they share one, the value does. What NOTIFICATION_DATA
    // puts into the upper half is ignored: the ring itself has it too.
    const at = offset - modern.notify
    if (modern.notifyMultiplier === 0) this.#virtio.notify(truncate(value, width) & 0xffff)
    else if ((at & NOTIFY_MASK) === 0) this.#virtio.notify(at >>> SHIFT)
  }

  protected override readBar(index: number, offset: number, width: AccessWidth): number {
    if (index === LEGACY_BAR && this.#legacy !== undefined) return this.#legacy.read(offset, width)
    const modern = this.#modern
    if (modern === undefined || index !== modern.bar.index) return 0
    if (within(offset, modern.common, COMMON_CONFIG_SIZE)) return this.#common.read(offset - modern.common, width)
    if (offset === modern.isr) return this.readIsr()
    if (within(offset, modern.device, this.#virtio.config.size)) return this.#virtio.config.read(offset - modern.device, width)
    return 0
  }

  protected override writeBar(index: number, offset: number, width: AccessWidth, value: number): void {
    if (index === LEGACY_BAR && this.#legacy !== undefined) {
      this.#legacy.write(offset, width, value)
      return
    }
    const modern = this.#modern
    if (modern === undefined || index !== modern.bar.index) return
    if (within(offset, modern.common, COMMON_CONFIG_SIZE)) {
      this.#common.write(offset - modern.common, width, value)
    } else if (within(offset, modern.device, this.#virtio.config.size)) {
      this.#virtio.writeConfig(offset - modern.device, width, value)
    }
  }

  // --- The window in configuration space ---

  /** A read of the window's data reads the BAR that the window selects. */
  override configRead(offset: number, width: AccessWidth): number {
    const window = this.#window
    const access = window?.access(offset, width)
    if (window !== undefined && access !== undefined) {
      super.configWrite(window.data, access.width, this.barRead(access.bar, access.offset, access.width))
    }
    return super.configRead(offset, width)
  }

  /** A write to the window's data writes to the BAR that the window selects. */
  override configWrite(offset: number, width: AccessWidth, value: number): void {
    super.configWrite(offset, width, value)
    const window = this.#window
    const access = window?.access(offset, width)
    if (window !== undefined && access !== undefined) {
      this.barWrite(access.bar, access.offset, access.width, super.configRead(window.data, access.width))
    }
  }

  #addCapabilities(modern: ModernLayout): ConfigWindow {
    for (const body of structureCapabilities(modern, this.#virtio.config.size)) this.addCapability(PCI_CAP_ID_VENDOR, body)
    const { body, writable } = windowCapability()
    const at = this.addCapability(PCI_CAP_ID_VENDOR, body, writable)
    return new ConfigWindow(at, this.bars, (offset, width) => super.configRead(offset, width))
  }
}
