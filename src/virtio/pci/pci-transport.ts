/**
 * VirtioPciFunction: a virtio device as a PCI function ([VIRTIO] 4.1): transitional (both interfaces), modern or legacy only.
 * It knows nothing of the device type behind it.
 */
import { checkMembers, checkOptions, type Rules } from "../../options.ts"
import { type AccessWidth, type BarDefinition, PciFunction, type PciInterrupts } from "../../pci/function.ts"
import { CommonConfig, COMMON_CONFIG_SIZE, NO_VECTOR } from "./common-config.ts"
import type { VirtioDevice, VirtioTransport } from "../device.ts"
import { GUEST_MEMORY_RULES, type GuestMemory } from "../guest-memory.ts"
import { LegacyRegisters, legacyBarSize } from "./legacy-registers.ts"
import { type PciFunctionState, savedNumber, savedNumbers, savedObject } from "../../pci/state.ts"
import { DEVICE_STATUS } from "../spec.ts"
import type { VirtioDeviceState } from "../state.ts"

/** [VIRTIO] 4.1.2.1 "PCI Device Discovery". */
const VIRTIO_VENDOR_ID = 0x1af4
const MODERN_DEVICE_ID_BASE = 0x1040
/** [VIRTIO] 4.1.2.1: the transitional id of each device type that we know. */
const TRANSITIONAL_DEVICE_ID: Readonly<Record<number, number>> = { 2: 0x1001 }
/** A modern-only device's subsystem id must be 0x40 or higher, to keep old drivers away; this one is QEMU's. */
const MODERN_SUBSYSTEM_ID = 0x1100
/** Mass storage, SCSI controller, as QEMU has it; virtio itself leaves the class open. */
const CLASS_CODE = 0x010000

const PCI_CAP_ID_VENDOR = 0x09
/** [VIRTIO] 4.1.4 "Virtio Structure PCI Capabilities". */
const VIRTIO_PCI_CAP = { COMMON_CFG: 1, NOTIFY_CFG: 2, ISR_CFG: 3, DEVICE_CFG: 4, PCI_CFG: 5 } as const
/** Offsets in a capability of type PCI_CFG, from its first byte. */
const WINDOW = { bar: 4, offset: 8, length: 12, data: 16, size: 20 } as const

/** [VIRTIO] 4.1.4.5: bits of the ISR status. */
const ISR = { QUEUE: 1, CONFIG: 2 } as const
const MAX_VECTORS = 2048

const LEGACY_BAR = 0
const MSIX_BAR = 1
const MODERN_BAR = 4

/** Which interfaces a driver finds. */
export type VirtioPciInterface = "transitional" | "modern" | "legacy"

/** Options of `VirtioPciFunction`. */
export interface VirtioPciOptions {
  /** Default "transitional": id 0x1001 for block devices, with the legacy registers next to the modern ones. */
  readonly interface?: VirtioPciInterface
  /** Where the modern structures live: a 64-bit memory BAR, or an I/O BAR for machines whose PCI bus has no others. Default "memory". */
  readonly modernBar?: "memory" | "io"
  /** Number of MSI-X vectors, 0 (no MSI-X) to 2048. Default: one for each queue and one for configuration changes. */
  readonly vectors?: number
}

export const VIRTIO_PCI_RULES: Rules<VirtioPciOptions> = {
  interface: ["transitional", "modern", "legacy"], modernBar: ["memory", "io"], vectors: "number?",
}

/** Changes with the meaning of what is saved. */
const STATE_VERSION = 1

/** What `saveState` returns: JSON values. */
export interface VirtioPciState {
  readonly version: number
  readonly function: PciFunctionState
  readonly isr: number
  /** Of configuration changes, then of each queue. */
  readonly vectors: readonly number[]
  /** Device feature, driver feature and queue selectors of the modern registers, queue selector of the legacy ones. */
  readonly selects: readonly number[]
  readonly device: VirtioDeviceState
}

/** What a function needs of the machine that it is plugged into. */
export interface VirtioPciWiring {
  readonly memory: GuestMemory
  readonly interrupts: PciInterrupts
}

/** Byte offsets of the structures in the modern BAR. */
interface ModernLayout {
  readonly bar: BarDefinition
  readonly common: number
  readonly isr: number
  readonly device: number
  readonly notify: number
  readonly notifyLength: number
  /** Bytes from one queue's notification address to the next; 0 when they share one. */
  readonly notifyMultiplier: number
}

/** A virtio device as a PCI function, for any bus: [VIRTIO] 4.1. */
export class VirtioPciFunction extends PciFunction implements VirtioTransport {
  readonly device: VirtioDevice
  readonly #modern: ModernLayout | undefined
  readonly #common: CommonConfig
  readonly #legacy: LegacyRegisters | undefined
  readonly #queueVectors: Uint16Array
  #configVector: number = NO_VECTOR
  #isr = 0
  /** Offset in configuration space of the access window capability; 0: there is none. */
  #window = 0

  /**
   * Puts `device` behind a new PCI function.
   * @throws TypeError for wrong options, RangeError for a number of vectors that cannot be
   */
  constructor(device: VirtioDevice, options: VirtioPciOptions & VirtioPciWiring) {
    checkOptions("VirtioPciFunction", options, { ...VIRTIO_PCI_RULES, memory: "object", interrupts: "object" })
    checkMembers("VirtioPciFunction", "memory", options.memory, GUEST_MEMORY_RULES, "GuestMemory")
    const kind = options.interface ?? "transitional"
    const vectors = options.vectors ?? Math.min(Math.max(device.queueCount + 1, 2), MAX_VECTORS)
    if (!Number.isInteger(vectors) || vectors < 0 || vectors > MAX_VECTORS) throw new RangeError(`vectors: ${vectors} is no number from 0 to ${MAX_VECTORS}`)
    const modern = kind === "legacy" ? undefined : modernLayout(device, options.modernBar ?? "memory")
    const msix = vectors === 0 ? undefined : msixLayout(vectors)
    const bars: BarDefinition[] = []
    if (kind !== "modern") bars.push({ index: LEGACY_BAR, kind: "io", size: legacyBarSize(device.configSize) })
    if (msix !== undefined) bars.push(msix.bar)
    if (modern !== undefined) bars.push(modern.bar)
    super({
      vendorId: VIRTIO_VENDOR_ID,
      ...identity(device, kind),
      classCode: CLASS_CODE,
      subsystemVendorId: VIRTIO_VENDOR_ID,
      bars,
      ...(msix === undefined ? {} : { msix: { bar: MSIX_BAR, vectors, tableOffset: 0, pbaOffset: msix.pbaOffset } }),
      interrupts: options.interrupts,
    })
    this.device = device
    this.#queueVectors = new Uint16Array(device.queueCount).fill(NO_VECTOR)
    this.#modern = modern
    this.#common = new CommonConfig(device, this)
    this.#legacy = kind === "modern" ? undefined : new LegacyRegisters(device, this)
    if (modern !== undefined) this.#addCapabilities(modern)
    device.attach(options.memory, this)
    device.setDmaEnabled(this.busMaster)
  }

  // --- Interrupts ------------------------------------------------------------------------------------------------------------

  /** [VIRTIO] 4.1.5.3. The ISR bit is set with MSI-X too, as QEMU does it: some drivers look at it all the same. */
  queueInterrupt(index: number): void {
    this.#interrupt(ISR.QUEUE, this.queueVector(index))
  }

  /** [VIRTIO] 4.1.5.4. */
  configInterrupt(): void {
    this.#interrupt(ISR.CONFIG, this.#configVector)
  }

  #interrupt(bit: number, vector: number): void {
    this.#isr |= bit
    this.setIntx(true)
    if (this.msixEnabled && vector !== NO_VECTOR) this.msix?.trigger(vector)
  }

  /** Reading shows what is pending, and takes it back. */
  readIsr(): number {
    const isr = this.#isr
    this.#isr = 0
    this.setIntx(false)
    return isr
  }

  get msixEnabled(): boolean {
    return this.msix?.enabled ?? false
  }

  get configVector(): number {
    return this.#configVector
  }

  set configVector(vector: number) {
    this.#configVector = this.#existing(vector)
  }

  queueVector(queue: number): number {
    return this.#queueVectors[queue] ?? NO_VECTOR
  }

  setQueueVector(queue: number, vector: number): void {
    if (queue < this.#queueVectors.length) this.#queueVectors[queue] = this.#existing(vector)
  }

  /** A vector outside of the table cannot be mapped, which reads back as NO_VECTOR. */
  #existing(vector: number): number {
    return vector < (this.msix?.vectors ?? 0) ? vector : NO_VECTOR
  }

  // --- Registers -------------------------------------------------------------------------------------------------------------

  notifyOffset(queue: number): number {
    return this.#modern?.notifyMultiplier === 0 ? 0 : queue
  }

  /** A status from the legacy interface. */
  writeStatus(status: number): void {
    // Drivers from before Linux 2.6.34 never enable bus mastering; like QEMU, we take this status as the sign that they are at work.
    if (status === (DEVICE_STATUS.ACKNOWLEDGE | DEVICE_STATUS.DRIVER)) this.setBusMaster(true)
    this.device.writeStatus(status)
  }

  /** The device's reset is through. */
  deviceReset(): void {
    this.#queueVectors.fill(NO_VECTOR)
    this.#configVector = NO_VECTOR
    this.#common.reset()
    this.#legacy?.reset()
    // Messages that wait behind a mask would come out after the reset.
    this.msix?.clearPending()
    this.readIsr()
  }

  override reset(): void {
    super.reset()
    this.device.writeStatus(0)
  }

  /** Everything but guest memory and the disk, as JSON values. Throws an Error while a request is in flight (`device.pause`). */
  saveState(): VirtioPciState {
    return {
      version: STATE_VERSION,
      function: this.saveRegisters(),
      isr: this.#isr,
      vectors: [this.#configVector, ...this.#queueVectors],
      selects: [...this.#common.selects, this.#legacy?.queueSelect ?? 0],
      device: this.device.saveState(),
    }
  }

  /**
   * Puts the function and its device where `saveState` found them. The interrupt pin follows; the device is paused: restore guest
   * memory, then call `device.resume()`. Throws an Error, with everything reset, for what is no state of such a function.
   */
  restoreState(saved: unknown): void {
    this.reset()
    const state = savedObject(saved, "virtio function")
    if (state["version"] !== STATE_VERSION) throw new Error(`saved state: version ${JSON.stringify(state["version"])}, this program knows ${STATE_VERSION}`)
    const isr = savedNumber(state["isr"], "ISR", ISR.QUEUE | ISR.CONFIG)
    const [configVector = NO_VECTOR, ...queueVectors] = savedNumbers(state["vectors"], "vectors", { length: 1 + this.#queueVectors.length, max: NO_VECTOR })
    const selects = savedNumbers(state["selects"], "selects", { length: 4 })
    try {
      this.device.restoreState(state["device"])
      this.restoreRegisters(state["function"])
    } catch (error) {
      this.reset()
      throw error
    }
    this.configVector = configVector
    for (const [queue, vector] of queueVectors.entries()) this.setQueueVector(queue, vector)
    this.#common.selects = selects
    if (this.#legacy !== undefined) this.#legacy.queueSelect = selects[3] ?? 0
    // What the device had to tell (another capacity) it told before its vector was back.
    if ((this.#isr & ISR.CONFIG) !== 0) this.configInterrupt()
    this.#isr |= isr
    this.setIntx(this.#isr !== 0)
  }

  protected override commandChanged(): void {
    this.device.setDmaEnabled(this.busMaster)
  }

  protected override readBar(index: number, offset: number, width: AccessWidth): number {
    if (index === LEGACY_BAR && this.#legacy !== undefined) return this.#legacy.read(offset, width)
    const modern = this.#modern
    if (modern === undefined || index !== modern.bar.index) return 0
    if (within(offset, modern.common, COMMON_CONFIG_SIZE)) return this.#common.read(offset - modern.common, width)
    if (offset === modern.isr) return this.readIsr()
    if (within(offset, modern.device, this.device.configSize)) return this.device.readConfig(offset - modern.device, width)
    return 0
  }

  protected override writeBar(index: number, offset: number, width: AccessWidth, value: number): void {
    if (index === LEGACY_BAR && this.#legacy !== undefined) {
      this.#legacy.write(offset, width, value)
      return
    }
    const modern = this.#modern
    if (modern === undefined || index !== modern.bar.index) return
    if (within(offset, modern.notify, modern.notifyLength)) this.#kick(offset - modern.notify, value, modern.notifyMultiplier)
    else if (within(offset, modern.common, COMMON_CONFIG_SIZE)) this.#common.write(offset - modern.common, width, value)
    else if (within(offset, modern.device, this.device.configSize)) this.device.writeConfig(offset - modern.device, width, value)
  }

  /** The address tells the queue where each has its own ([VIRTIO] 4.1.4.4), the value where they share one. */
  #kick(offset: number, value: number, multiplier: number): void {
    if (multiplier === 0) this.device.notify(value % 0x1_0000)
    else if (offset % multiplier === 0) this.device.notify(offset / multiplier)
  }

  // --- Capabilities ------------------------------------------------------------------------------------------------------------

  #addCapabilities(modern: ModernLayout): void {
    const bar = modern.bar.index
    const add = (type: number, offset: number, length: number, extra: readonly number[] = []) => this.addCapability(PCI_CAP_ID_VENDOR, capability(type, bar, offset, length, extra))
    add(VIRTIO_PCI_CAP.COMMON_CFG, modern.common, COMMON_CONFIG_SIZE)
    add(VIRTIO_PCI_CAP.NOTIFY_CFG, modern.notify, modern.notifyLength, [modern.notifyMultiplier])
    add(VIRTIO_PCI_CAP.ISR_CFG, modern.isr, 1)
    add(VIRTIO_PCI_CAP.DEVICE_CFG, modern.device, this.device.configSize)
    const writable = new Uint8Array(WINDOW.size - 2)
    for (const [start, end] of [[WINDOW.bar, WINDOW.bar + 1], [WINDOW.offset, WINDOW.size]] as const) writable.fill(0xff, start - 2, end - 2)
    this.#window = this.addCapability(PCI_CAP_ID_VENDOR, capability(VIRTIO_PCI_CAP.PCI_CFG, 0, 0, 0, [0]), writable)
  }

  /** Reading the window's data reads the BAR that it points to, into the data ([VIRTIO] 4.1.4.9). */
  override configRead(offset: number, width: AccessWidth): number {
    const access = this.#windowAccess(offset, width)
    if (access !== undefined) super.configWrite(this.#window + WINDOW.data, access.width, this.barRead(access.bar, access.offset, access.width))
    return super.configRead(offset, width)
  }

  /** Writing the window's data writes them to the BAR that it points to. */
  override configWrite(offset: number, width: AccessWidth, value: number): void {
    super.configWrite(offset, width, value)
    const access = this.#windowAccess(offset, width)
    if (access !== undefined) this.barWrite(access.bar, access.offset, access.width, super.configRead(this.#window + WINDOW.data, access.width))
  }

  /** The access to a BAR that an access to configuration space asks for by touching the window's data, if it is one that can be made. */
  #windowAccess(offset: number, width: AccessWidth): { readonly bar: number; readonly offset: number; readonly width: AccessWidth } | undefined {
    const data = this.#window + WINDOW.data
    if (this.#window === 0 || offset >= data + 4 || offset + width <= data) return undefined
    const index = super.configRead(this.#window + WINDOW.bar, 1)
    const target = super.configRead(this.#window + WINDOW.offset, 4)
    const length = super.configRead(this.#window + WINDOW.length, 4)
    const bar = this.bars.find((candidate) => candidate.index === index)
    if (bar === undefined || (length !== 1 && length !== 2 && length !== 4)) return undefined
    return target % length === 0 && target + length <= bar.size ? { bar: index, offset: target, width: length } : undefined
  }
}

function identity(device: VirtioDevice, kind: VirtioPciInterface): { deviceId: number; revision: number; subsystemId: number } {
  if (kind === "modern") return { deviceId: MODERN_DEVICE_ID_BASE + device.deviceType, revision: 1, subsystemId: MODERN_SUBSYSTEM_ID }
  const deviceId = TRANSITIONAL_DEVICE_ID[device.deviceType]
  if (deviceId === undefined) throw new RangeError(`device type ${device.deviceType} has no legacy interface`)
  return { deviceId, revision: 0, subsystemId: device.deviceType }
}

function modernLayout(device: VirtioDevice, bar: "memory" | "io"): ModernLayout {
  if (bar === "io") {
    // 256 bytes are all that an I/O BAR may have, so the queues share one notification address.
    const layout = { common: 0x00, isr: 0x40, notify: 0x44, notifyLength: 4, notifyMultiplier: 0, device: 0x80 }
    return { bar: { index: MODERN_BAR, kind: "io", size: 256 }, ...layout }
  }
  const notify = 0x3000
  const notifyLength = 4 * device.queueCount
  const size = 2 ** Math.ceil(Math.log2(notify + notifyLength))
  return { bar: { index: MODERN_BAR, kind: "memory64", size }, common: 0, isr: 0x1000, device: 0x2000, notify, notifyLength, notifyMultiplier: 4 }
}

/** The table in the lower half of the BAR, the pending bits in the upper one. */
function msixLayout(vectors: number): { readonly bar: BarDefinition; readonly pbaOffset: number } {
  const size = Math.max(2 ** Math.ceil(Math.log2(2 * 16 * vectors)), 4096)
  return { bar: { index: MSIX_BAR, kind: "memory32", size }, pbaOffset: size / 2 }
}

/** A virtio capability from its third byte on ([VIRTIO] 4.1.4): cap_len, cfg_type, bar, id, padding, offset, length, and what the type adds. */
function capability(type: number, bar: number, offset: number, length: number, extra: readonly number[]): Uint8Array {
  const body = new Uint8Array(14 + 4 * extra.length)
  const data = new DataView(body.buffer)
  body.set([2 + body.length, type, bar])
  data.setUint32(6, offset, true)
  data.setUint32(10, length, true)
  extra.forEach((value, index) => data.setUint32(14 + 4 * index, value, true))
  return body
}

function within(offset: number, start: number, length: number): boolean {
  return offset >= start && offset < start + length
}
