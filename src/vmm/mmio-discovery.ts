/** The text by which a guest finds a virtio-mmio device: a node of a device tree, or an argument on Linux's command line. */
import { checkCount, checkOptions, type Rules } from "../options.ts"

/** The place of a virtio-mmio device in the guest's machine. */
export interface MmioPlace {
  /** Guest-physical address of the registers. */
  readonly address: number
  /** Bytes of the registers. */
  readonly size: number
  /** Number of its interrupt, as the guest counts them. */
  readonly line: number
}

/** Options of `mmioDeviceTreeNode`. */
export interface DeviceTreeOptions {
  /** `#address-cells` and `#size-cells` of the parent node: 1 or 2. Default 2. */
  readonly addressCells?: number
  readonly sizeCells?: number
  /** The cells of `interrupts`, as the interrupt controller wants them. Default: the line alone. */
  readonly interrupts?: readonly number[]
}

const PLACE_RULES: Rules<MmioPlace> = { address: "number", size: "number", line: "number" }
const DEVICE_TREE_RULES: Rules<DeviceTreeOptions> = { addressCells: "number?", sizeCells: "number?", interrupts: "array?" }

/**
 * The argument for Linux's command line, `virtio_mmio.device=SIZE@ADDRESS:IRQ`; one for each device. The kernel needs
 * CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES. @throws TypeError or RangeError for a wrong place
 */
export function mmioKernelArgument(place: MmioPlace): string {
  checkPlace("mmioKernelArgument", place)
  const { address, size, line } = place
  return `virtio_mmio.device=${size % 1024 === 0 ? `${size / 1024}K` : size}@0x${address.toString(16)}:${line}`
}

/**
 * The node of a device tree's source ([VIRTIO] 4.2.1). @throws TypeError or RangeError for a wrong place, or one that does not fit the
 * cells
 */
export function mmioDeviceTreeNode(place: MmioPlace, options: DeviceTreeOptions = {}): string {
  checkPlace("mmioDeviceTreeNode", place)
  checkOptions("mmioDeviceTreeNode", options, DEVICE_TREE_RULES)
  const { addressCells = 2, sizeCells = 2, interrupts = [place.line] } = options
  const reg = [...cells("address", place.address, addressCells), ...cells("size", place.size, sizeCells)]
  return [
    `virtio_mmio@${place.address.toString(16)} {`,
    '\tcompatible = "virtio,mmio";',
    `\treg = <${reg.join(" ")}>;`,
    `\tinterrupts = <${interrupts.join(" ")}>;`,
    "};",
    "",
  ].join("\n")
}

function cells(name: string, value: number, count: number): string[] {
  checkCount("mmioDeviceTreeNode", `${name}Cells`, count, 1, 2)
  const high = Math.floor(value / 2 ** 32)
  if (count === 1 && high !== 0) throw new RangeError(`mmioDeviceTreeNode: ${name} ${value} needs two cells; give ${name}Cells 2`)
  const words = count === 1 ? [value] : [high, value % 2 ** 32]
  return words.map((word) => `0x${word.toString(16)}`)
}

function checkPlace(who: string, place: MmioPlace): void {
  // Results of `Machine.attachMmioDisk` have more members.
  const { address, size, line } = place
  checkOptions(who, { address, size, line }, PLACE_RULES)
  checkCount(who, "address", address, 0)
  checkCount(who, "size", size, 1)
  checkCount(who, "line", line, 0)
}
