/**
 * LivesMachine: a machine whose RAM begins where the fuzzer likes. What lies below is in the same buffer, so that addresses are indices
 * as ever, but it is not RAM: a device that stores there is found out.
 */
import type { VirtioBacking } from "../../../src/backing/backing.ts"
import { pickOptions } from "../../../src/options.ts"
import type { AccessWidth } from "../../../src/pci/access.ts"
import { VIRTIO_BLK_RULES } from "../../../src/virtio/blk/config.ts"
import { VirtioBlk } from "../../../src/virtio/blk/device.ts"
import { type GuestMemory, RamRegion } from "../../../src/virtio/guest-memory.ts"
import { VIRTIO_PCI_RULES } from "../../../src/virtio/pci/pci-options.ts"
import { VirtioPciFunction } from "../../../src/virtio/pci/pci-transport.ts"
import { type AttachDiskOptions, type AttachedDisk, Machine, type MachineOptions, type PciWiring } from "../../../src/vmm/machine.ts"
import { VIRTIO_MMIO_WINDOW } from "../../../src/vmm/memory-map.ts"
import { type AttachedMmioDisk, type AttachMmioDiskOptions, MmioDisks } from "../../../src/vmm/mmio-disks.ts"

/** The part of a memory from `start` on. */
class MemoryFrom implements GuestMemory {
  readonly #whole: GuestMemory
  readonly #start: number
  #region = new RamRegion(0, new Uint8Array(0))
  #buffer: ArrayBufferLike | undefined

  constructor(whole: GuestMemory, start: number) {
    this.#whole = whole
    this.#start = start
  }

  get generation(): number {
    return this.#whole.generation
  }

  region(address: number): RamRegion | undefined {
    const bytes = this.#whole.region(0)?.bytes
    if (bytes === undefined || address < this.#start || address >= bytes.length) return undefined
    if (this.#buffer !== bytes.buffer) this.#region = new RamRegion(this.#start, bytes.subarray(this.#start))
    this.#buffer = bytes.buffer
    return this.#region
  }
}

export class LivesMachine extends Machine {
  /** The first address of RAM. */
  readonly ramStart: number
  readonly #memory: GuestMemory
  readonly #mmioDisks: MmioDisks

  constructor(options: MachineOptions, ramStart: number) {
    super(options)
    this.ramStart = ramStart
    this.#memory = ramStart === 0 ? super.memory : new MemoryFrom(super.memory, ramStart)
    this.#mmioDisks = new MmioDisks(this.#memory, this.interrupts)
  }

  override attachDisk(backing: VirtioBacking, options: AttachDiskOptions = {}): AttachedDisk {
    const device = new VirtioBlk(backing, pickOptions(options, VIRTIO_BLK_RULES))
    const make = ({ interrupts }: PciWiring): VirtioPciFunction =>
      new VirtioPciFunction(device, { ...pickOptions(options, VIRTIO_PCI_RULES), memory: this.#memory, interrupts })
    return { ...this.plug(options.slot, make), device }
  }

  override attachMmioDisk(backing: VirtioBacking, options: AttachMmioDiskOptions = {}): AttachedMmioDisk {
    return this.#mmioDisks.attach(backing, options)
  }

  override detachMmioDisk(address: number): VirtioBlk {
    return this.#mmioDisks.detach(address)
  }

  override mmioRead(address: number, width: AccessWidth): number {
    return isMmio(address) ? this.#mmioDisks.read(address, width) : super.mmioRead(address, width)
  }

  override mmioWrite(address: number, width: AccessWidth, value: number): void {
    if (isMmio(address)) this.#mmioDisks.write(address, width, value)
    else super.mmioWrite(address, width, value)
  }

  override reset(): void {
    super.reset()
    this.#mmioDisks.reset()
  }
}

function isMmio(address: number): boolean {
  return address >= VIRTIO_MMIO_WINDOW.start && address < VIRTIO_MMIO_WINDOW.end
}
