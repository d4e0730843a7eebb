/**
 * GuestRegisters: a guest's way to a virtio block device, register by register: PCI configuration space, BARs and RAM of a Machine.
 * Nothing of src but Machine is used, and nothing is checked.
 */
import type { VirtioBacking } from "../../src/backing/backing.ts"
import { type AttachDiskOptions, Machine, type MachineOptions } from "../../src/vmm/machine.ts"

export interface GuestOptions {
  readonly backing: VirtioBacking
  readonly legacy?: boolean
  readonly machine?: MachineOptions
  readonly disk?: AttachDiskOptions
}

export class GuestRegisters {
  readonly machine: Machine
  readonly disk: ReturnType<Machine["attachDisk"]>
  readonly legacy: boolean
  /** Addresses of the structures; of the legacy registers in `common`. */
  #common = 0
  #notify = 0
  #notifyMultiplier = 0
  #config = 0
  #msixTable = 0
  #top = 0x1000

  constructor(options: GuestOptions) {
    this.legacy = options.legacy ?? false
    this.machine = new Machine(options.machine ?? { ramSize: 16 << 20 })
    this.disk = this.machine.attachDisk(options.backing, options.disk ?? {})
    this.#findStructures()
  }

  get status(): number {
    return this.legacy ? this.legacyRead(0x12, 1) : this.machine.mmioRead(this.#common + 0x14, 1)
  }

  set status(value: number) {
    if (this.legacy) this.legacyWrite(0x12, 1, value)
    else this.machine.mmioWrite(this.#common + 0x14, 1, value)
  }

  offeredFeatures(): bigint {
    if (this.legacy) return BigInt(this.legacyRead(0, 4))
    let features = 0n
    for (const word of [0, 1]) {
      this.setCommon(0x00, 4, word)
      features |= BigInt(this.common(0x04, 4)) << BigInt(32 * word)
    }
    return features
  }

  offers(bit: number): boolean {
    return ((this.offeredFeatures() >> BigInt(bit)) & 1n) === 1n
  }

  acceptFeatures(features: bigint): void {
    if (this.legacy) {
      this.legacyWrite(0x04, 4, Number(features & 0xffff_ffffn))
      return
    }
    for (const word of [0, 1]) {
      this.setCommon(0x08, 4, word)
      this.setCommon(0x0c, 4, Number((features >> BigInt(32 * word)) & 0xffff_ffffn))
    }
  }

  /** A register of the common configuration structure, [VIRTIO] 4.1.4.3. */
  common(offset: number, width: 1 | 2 | 4): number {
    return this.machine.mmioRead(this.#common + offset, width)
  }

  setCommon(offset: number, width: 1 | 2 | 4, value: number): void {
    this.machine.mmioWrite(this.#common + offset, width, value)
  }

  /** A field of the device configuration space. */
  config(offset: number, width: 1 | 2 | 4): number {
    return this.legacy ? this.legacyRead(0x14 + offset, width) : this.machine.mmioRead(this.#config + offset, width)
  }

  setConfig(offset: number, width: 1 | 2 | 4, value: number): void {
    if (this.legacy) this.legacyWrite(0x14 + offset, width, value)
    else this.machine.mmioWrite(this.#config + offset, width, value)
  }

  /** Sectors. */
  get capacity(): number {
    return this.config(0, 4) + this.config(4, 4) * 2 ** 32
  }

  /** Legacy: a register by its offset, [VIRTIO] 4.1.4.10. */
  legacyRead(offset: number, width: 1 | 2 | 4): number {
    return this.machine.portRead(this.#common + offset, width)
  }

  legacyWrite(offset: number, width: 1 | 2 | 4, value: number): void {
    this.machine.portWrite(this.#common + offset, width, value)
  }

  /** An available buffer notification. */
  kickQueue(index: number): void {
    if (this.legacy) this.legacyWrite(0x10, 2, index)
    else this.machine.mmioWrite(this.#notify + this.#notifyMultiplier * index, 2, index)
  }

  /** Legacy: reads and clears the ISR status. */
  readIsr(): number {
    return this.legacyRead(0x13, 1)
  }

  // --- RAM --------------------------------------------------------------------------------------------------------------------

  get data(): DataView {
    const { ram } = this.machine
    return new DataView(ram.buffer, ram.byteOffset, ram.byteLength)
  }

  /** Room for `length` bytes, never directly behind what was allocated before. */
  alloc(length: number, alignment = 1): number {
    const address = Math.ceil(this.#top / alignment) * alignment
    this.#top = address + length + 3
    if (this.#top > this.machine.ram.length) throw new Error("the guest has no RAM left")
    return address
  }

  /** Where `alloc` goes on; setting it back frees what came after. */
  get top(): number {
    return this.#top
  }

  set top(address: number) {
    this.#top = address
  }

  bytes(address: number, length: number): Uint8Array {
    return this.machine.ram.slice(address, address + length)
  }

  store(address: number, bytes: Uint8Array): void {
    this.machine.ram.set(bytes, address)
  }

  fill(address: number, length: number, value: number): void {
    this.machine.ram.fill(value, address, address + length)
  }

  u16(address: number): number {
    return this.data.getUint16(address, true)
  }

  setU16(address: number, value: number): void {
    this.data.setUint16(address, value, true)
  }

  // --- PCI ----------------------------------------------------------------------------------------------------------------------

  /** Reads configuration space through ports 0xCF8 and 0xCFC. */
  pciRead(offset: number, width: 1 | 2 | 4): number {
    this.machine.portWrite(0xcf8, 4, 2 ** 31 + this.disk.slot * 2048 + offset - (offset % 4))
    return this.machine.portRead(0xcfc + (offset % 4), width)
  }

  pciWrite(offset: number, width: 1 | 2 | 4, value: number): void {
    this.machine.portWrite(0xcf8, 4, 2 ** 31 + this.disk.slot * 2048 + offset - (offset % 4))
    this.machine.portWrite(0xcfc + (offset % 4), width, value)
  }

  #barAddress(index: number): number {
    const low = this.pciRead(0x10 + 4 * index, 4)
    if (low % 2 === 1) return low - (low % 4)
    const high = Math.floor(low / 2) % 4 === 2 ? this.pciRead(0x14 + 4 * index, 4) : 0
    return high * 2 ** 32 + low - (low % 16)
  }

  /** Walks the capability list: virtio's are of type 0x09 ([VIRTIO] 4.1.4), MSI-X is 0x11. */
  #findStructures(): void {
    this.pciWrite(0x04, 2, 0x0007)
    if (this.legacy) {
      this.#common = this.#barAddress(0)
      return
    }
    for (let at = this.pciRead(0x34, 1); at !== 0; at = this.pciRead(at + 1, 1)) {
      const id = this.pciRead(at, 1)
      if (id === 0x11) this.#enableMsix(at)
      if (id !== 0x09) continue
      const address = () => this.#barAddress(this.pciRead(at + 4, 1)) + this.pciRead(at + 8, 4)
      const type = this.pciRead(at + 3, 1)
      if (type === 1) this.#common = address()
      if (type === 4) this.#config = address()
      if (type === 2) [this.#notify, this.#notifyMultiplier] = [address(), this.pciRead(at + 16, 4)]
    }
  }

  #enableMsix(capability: number): void {
    const table = this.pciRead(capability + 4, 4)
    this.#msixTable = this.#barAddress(table % 8) + table - (table % 8)
    const vectors = (this.pciRead(capability + 2, 2) % 2048) + 1
    for (let vector = 0; vector < vectors; vector++) {
      for (const [word, value] of [0xfee0_0000, 0, vector, 0].entries()) this.machine.mmioWrite(this.#msixTable + 16 * vector + 4 * word, 4, value)
    }
    this.pciWrite(capability + 2, 2, 0x8000)
  }
}
