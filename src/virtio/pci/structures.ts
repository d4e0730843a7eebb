/** The layout of a virtio device on PCI ([VIRTIO] 4.1.2 to 4.1.4): ids, BARs, the structures in them, capabilities. */
import type { BarDefinition } from "../../pci/function.ts"
import type { TransportedDevice } from "../transport.ts"
import { COMMON_CONFIG_SIZE } from "./common-config.ts"
import type { VirtioPciInterface } from "./pci-options.ts"

/** [VIRTIO] 4.1.2.1 "PCI Device Discovery". */
export const VIRTIO_VENDOR_ID = 0x1af4
const MODERN_DEVICE_ID_BASE = 0x1040
/** [VIRTIO] 4.1.2.1: the transitional id of each device type that we know. */
const TRANSITIONAL_DEVICE_ID: Readonly<Record<number, number>> = { 2: 0x1001 }
/** A modern-only device's subsystem id must be 0x40 or higher, to keep old drivers away; this one is QEMU's. */
const MODERN_SUBSYSTEM_ID = 0x1100
/** Mass storage, SCSI controller, as QEMU has it; virtio itself leaves the class open. */
export const CLASS_CODE = 0x01_0000

export const PCI_CAP_ID_VENDOR = 0x09
/** [VIRTIO] 4.1.4 "Virtio Structure PCI Capabilities". */
const VIRTIO_PCI_CAP = { COMMON_CFG: 1, NOTIFY_CFG: 2, ISR_CFG: 3, DEVICE_CFG: 4, PCI_CFG: 5 } as const
/** Offsets in a capability of type PCI_CFG, the access window, from its first byte. */
export const WINDOW = { bar: 4, offset: 8, length: 12, data: 16, size: 20 } as const

export const LEGACY_BAR = 0
export const MSIX_BAR = 1
const MODERN_BAR = 4

/** Distance of two queues' notification addresses in bytes, and its logarithm: a shift saves a division (10 ns). */
export const NOTIFY_SHIFT = 2
export const NOTIFY_BYTES = 1 << NOTIFY_SHIFT

/** Byte offsets of the structures in the modern BAR. */
export interface ModernLayout {
  readonly bar: BarDefinition
  readonly common: number
  readonly isr: number
  readonly device: number
  readonly notify: number
  readonly notifyLength: number
  /** Bytes from one queue's notification address to the next; 0 when they share one. */
  readonly notifyMultiplier: number
}

/** @throws RangeError for a device type without a legacy interface, unless `kind` is "modern" */
export function identity(device: TransportedDevice, kind: VirtioPciInterface): { deviceId: number; revision: number; subsystemId: number } {
  if (kind === "modern") return { deviceId: MODERN_DEVICE_ID_BASE + device.deviceType, revision: 1, subsystemId: MODERN_SUBSYSTEM_ID }
  const deviceId = TRANSITIONAL_DEVICE_ID[device.deviceType]
  if (deviceId === undefined) throw new RangeError(`device type ${device.deviceType} has no legacy interface`)
  return { deviceId, revision: 0, subsystemId: device.deviceType }
}

export function modernLayout(device: TransportedDevice, bar: "memory" | "io"): ModernLayout {
  if (bar === "io") {
    // An I/O BAR may have only 256 bytes, so the queues share one notification address.
    const layout = { common: 0x00, isr: 0x40, notify: 0x44, notifyLength: 4, notifyMultiplier: 0, device: 0x80 }
    return { bar: { index: MODERN_BAR, kind: "io", size: 256 }, ...layout }
  }
  const notify = 0x3000
  const notifyLength = NOTIFY_BYTES * device.queueCount
  const size = 2 ** Math.ceil(Math.log2(notify + notifyLength))
  return {
    bar: { index: MODERN_BAR, kind: "memory64", size },
    common: 0,
    isr: 0x1000,
    device: 0x2000,
    notify,
    notifyLength,
    notifyMultiplier: NOTIFY_BYTES,
  }
}

/** The table in the lower half of the BAR, the pending bits in the upper one. */
export function msixLayout(vectors: number): { readonly bar: BarDefinition; readonly pbaOffset: number } {
  const size = Math.max(2 ** Math.ceil(Math.log2(2 * 16 * vectors)), 4096)
  return { bar: { index: MSIX_BAR, kind: "memory32", size }, pbaOffset: size / 2 }
}

/** The capabilities that point to the structures, each from its third byte on. */
export function structureCapabilities(modern: ModernLayout, configSize: number): Uint8Array[] {
  const bar = modern.bar.index
  return [
    virtioCapability(VIRTIO_PCI_CAP.COMMON_CFG, { bar, offset: modern.common, length: COMMON_CONFIG_SIZE }),
    virtioCapability(VIRTIO_PCI_CAP.NOTIFY_CFG, { bar, offset: modern.notify, length: modern.notifyLength }, modern.notifyMultiplier),
    virtioCapability(VIRTIO_PCI_CAP.ISR_CFG, { bar, offset: modern.isr, length: 1 }),
    virtioCapability(VIRTIO_PCI_CAP.DEVICE_CFG, { bar, offset: modern.device, length: configSize }),
  ]
}

/** The access window ([VIRTIO] 4.1.4.9): the driver writes a BAR, an offset, a length, and data. */
export function windowCapability(): { readonly body: Uint8Array; readonly writable: Uint8Array } {
  const writable = new Uint8Array(WINDOW.size - 2)
  for (const [start, end] of [[WINDOW.bar, WINDOW.bar + 1], [WINDOW.offset, WINDOW.size]] as const) writable.fill(0xff, start - 2, end - 2)
  return { body: virtioCapability(VIRTIO_PCI_CAP.PCI_CFG, { bar: 0, offset: 0, length: 0 }, 0), writable }
}

/**
 * A virtio capability from its third byte on ([VIRTIO] 4.1.4): cap_len, cfg_type, bar, id, padding, offset, length, and the dword that some
 * types add.
 */
function virtioCapability(
  type: number,
  place: { readonly bar: number; readonly offset: number; readonly length: number },
  extra?: number,
): Uint8Array {
  const body = new Uint8Array(extra === undefined ? 14 : 18)
  const data = new DataView(body.buffer)
  body.set([2 + body.length, type, place.bar])
  data.setUint32(6, place.offset, true)
  data.setUint32(10, place.length, true)
  if (extra !== undefined) data.setUint32(14, extra, true)
  return body
}

/** Whether byte `offset` of a BAR is in the structure of `length` bytes at `start`. */
export function within(offset: number, start: number, length: number): boolean {
  return offset >= start && offset < start + length
}
