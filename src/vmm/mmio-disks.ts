/**
 * MmioDisks: the virtio-mmio devices of a machine, each on its own page in VIRTIO_MMIO_WINDOW, and the text by which a guest finds them,
 * because MMIO has no discovery ([VIRTIO] 4.2.1).
 */
import { type VirtioBacking, checkBacking } from "../backing/backing.ts"
import { checkCount, checkOptions, pickOptions, type Rules } from "../options.ts"
import type { AccessWidth } from "../pci/access.ts"
import { VIRTIO_BLK_RULES, type VirtioBlkOptions } from "../virtio/blk/config.ts"
import { VirtioBlk } from "../virtio/blk/device.ts"
import type { GuestMemory } from "../virtio/guest-memory.ts"
import { VIRTIO_MMIO_RULES, VirtioMmio, type VirtioMmioOptions } from "../virtio/mmio/mmio-transport.ts"
import { readMmioPlaceholder } from "../virtio/mmio/placeholder.ts"
import type { InterruptConnection, Interrupts } from "./interrupts.ts"
import { interruptLine, VIRTIO_MMIO_WINDOW } from "./memory-map.ts"
import { mmioDeviceTreeNode, mmioKernelArgument } from "./mmio-discovery.ts"

/** Options of `Machine.attachMmioDisk`: those of the device, of its registers, and its interrupt line. */
export interface AttachMmioDiskOptions extends VirtioBlkOptions, VirtioMmioOptions {
  /** The interrupt line, 0 to 255, which others may share. Default: 10, 11, 5 and 9 in turn. */
  readonly line?: number
}

const ATTACH_MMIO_DISK_RULES: Rules<AttachMmioDiskOptions> = { ...VIRTIO_BLK_RULES, ...VIRTIO_MMIO_RULES, line: "number?" }

/** A disk with memory-mapped registers. */
export interface AttachedMmioDisk {
  readonly device: VirtioBlk
  readonly transport: VirtioMmio
  /** Guest-physical address of the registers. */
  readonly address: number
  /** Bytes that belong to the registers. */
  readonly size: number
  readonly line: number
  /** An argument for Linux's command line: `virtio_mmio.device=4K@0xfeb00000:10`. */
  readonly kernelArgument: string
  /** A node for a device tree whose addresses, sizes and interrupts are two cells, two cells and one cell: see `mmioDeviceTreeNode`. */
  readonly deviceTreeNode: string
}

/** Registers begin on a page, so that a guest can give devices to different owners. */
const PAGE_SIZE = 4096
const PAGES = (VIRTIO_MMIO_WINDOW.end - VIRTIO_MMIO_WINDOW.start) / PAGE_SIZE

interface Place {
  readonly transport: VirtioMmio
  readonly device: VirtioBlk
  readonly connection: InterruptConnection
}

export class MmioDisks {
  readonly #memory: GuestMemory
  readonly #interrupts: Interrupts
  /** By page of the window. */
  readonly #places: (Place | undefined)[] = []

  constructor(memory: GuestMemory, interrupts: Interrupts) {
    this.#memory = memory
    this.#interrupts = interrupts
  }

  /** See `Machine.attachMmioDisk`. */
  attach(backing: VirtioBacking, options: AttachMmioDiskOptions): AttachedMmioDisk {
    checkBacking("Machine.attachMmioDisk", backing)
    checkOptions("Machine.attachMmioDisk", options, ATTACH_MMIO_DISK_RULES)
    checkCount("Machine.attachMmioDisk", "line", options.line, 0, 255)
    const page = Array.from({ length: PAGES }, (_, at) => at).find((at) => this.#places[at] === undefined)
    if (page === undefined) throw new Error(`all ${PAGES} places for virtio-mmio devices are occupied; detach something`)
    const line = options.line ?? interruptLine(page + 1)
    const device = new VirtioBlk(backing, pickOptions(options, VIRTIO_BLK_RULES))
    const connection = this.#interrupts.connect(line)
    const wiring = { memory: this.#memory, interrupt: (level: boolean) => connection.intx(level) }
    const transport = new VirtioMmio(device, { ...pickOptions(options, VIRTIO_MMIO_RULES), ...wiring })
    this.#places[page] = { transport, device, connection }
    const place = { address: VIRTIO_MMIO_WINDOW.start + page * PAGE_SIZE, size: PAGE_SIZE, line }
    return { device, transport, ...place, kernelArgument: mmioKernelArgument(place), deviceTreeNode: mmioDeviceTreeNode(place) }
  }

  /** See `Machine.detachMmioDisk`. */
  detach(address: number): VirtioBlk {
    const page = (address - VIRTIO_MMIO_WINDOW.start) / PAGE_SIZE
    const place = this.#places[page]
    if (place === undefined) throw new Error(`there is no virtio-mmio disk at 0x${address.toString(16)}`)
    this.#places[page] = undefined
    place.transport.reset()
    place.connection.disconnect()
    return place.device
  }

  /** Reads at guest-physical `address`, which is in the window. Pages without a device are placeholders. */
  read(address: number, width: AccessWidth): number {
    const offset = address - VIRTIO_MMIO_WINDOW.start
    const place = this.#places[Math.floor(offset / PAGE_SIZE)]
    return place === undefined ? readMmioPlaceholder(offset % PAGE_SIZE, width) : place.transport.read(offset % PAGE_SIZE, width)
  }

  write(address: number, width: AccessWidth, value: number): void {
    const offset = address - VIRTIO_MMIO_WINDOW.start
    this.#places[Math.floor(offset / PAGE_SIZE)]?.transport.write(offset % PAGE_SIZE, width, value)
  }

  reset(): void {
    for (const place of this.#places) place?.transport.reset()
  }
}
