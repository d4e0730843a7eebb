/** PciGuest: a guest's accesses to one PCI function by ports and memory: configuration space, BARs, capabilities. */
import type { Machine } from "../../src/vmm/machine.ts"

export type Width = 1 | 2 | 4

/** Registers, by offset. */
export interface Space {
  read(offset: number, width: Width): number
  write(offset: number, width: Width, value: number): void
}

/** One virtio capability, [VIRTIO] 4.1.4, as in configuration space. */
export interface Structure extends Space {
  /** Offset of the capability in configuration space. */
  readonly at: number
  readonly capLength: number
  readonly type: number
  readonly bar: number
  readonly offset: number
  readonly length: number
}

/** A PCI function, by configuration mechanism #1. */
export class PciGuest {
  readonly vm: Machine
  readonly slot: number

  constructor(vm: Machine, slot: number) {
    this.vm = vm
    this.slot = slot
  }

  config(offset: number, width: Width): number {
    this.vm.portWrite(0xcf8, 4, 0x8000_0000 + this.slot * 0x800 + (offset & 0xfc))
    return this.vm.portRead(0xcfc + (offset & 3), width)
  }

  setConfig(offset: number, width: Width, value: number): void {
    this.vm.portWrite(0xcf8, 4, 0x8000_0000 + this.slot * 0x800 + (offset & 0xfc))
    this.vm.portWrite(0xcfc + (offset & 3), width, value)
  }

  /** Command: I/O 1, memory 2, bus master 4, INTx disable 0x400. */
  get command(): number {
    return this.config(0x04, 2)
  }

  set command(value: number) {
    this.setConfig(0x04, 2, value)
  }

  /** Status bit 3. */
  get interruptStatus(): boolean {
    return (this.config(0x06, 2) & 8) !== 0
  }

  get line(): number {
    return this.config(0x3c, 1)
  }

  get interrupted(): boolean {
    return this.vm.interrupts.level(this.line)
  }

  /** The address in a BAR, of either space. */
  barAddress(index: number): { readonly io: boolean; readonly address: number } {
    const low = this.config(0x10 + 4 * index, 4)
    if ((low & 1) !== 0) return { io: true, address: (low & ~3) >>> 0 }
    const high = (low & 6) === 4 ? this.config(0x14 + 4 * index, 4) : 0
    return { io: false, address: ((low & ~15) >>> 0) + high * 2 ** 32 }
  }

  /** The registers of a BAR, at its present address. */
  space(bar: number, offset = 0): Space {
    const { vm } = this
    return {
      read: (at, width) => {
        const { io, address } = this.barAddress(bar)
        return io ? vm.portRead(address + offset + at, width) : vm.mmioRead(address + offset + at, width)
      },
      write: (at, width, value) => {
        const { io, address } = this.barAddress(bar)
        if (io) vm.portWrite(address + offset + at, width, value)
        else vm.mmioWrite(address + offset + at, width, value)
      },
    }
  }

  /** The list of capabilities, [PCI] 6.7. */
  capabilities(): { readonly id: number; readonly at: number }[] {
    const found: { id: number; at: number }[] = []
    for (let at = this.config(0x34, 1); at !== 0 && found.length < 64; at = this.config(at + 1, 1)) {
      found.push({ id: this.config(at, 1), at })
    }
    return found
  }

  structures(): Structure[] {
    return this.capabilities().filter(({ id }) => id === 0x09).map(({ at }) => {
      const [capLength, type, bar] = [this.config(at + 2, 1), this.config(at + 3, 1), this.config(at + 4, 1)]
      const [offset, length] = [this.config(at + 8, 4), this.config(at + 12, 4)]
      return { at, capLength, type, bar, offset, length, ...this.space(bar, offset) }
    })
  }

  structure(type: number): Structure {
    const found = this.structures().find((each) => each.type === type)
    if (found === undefined) throw new Error(`slot ${this.slot} has no structure of type ${type}`)
    return found
  }

  /** The MSI-X capability's offset; NaN without one. */
  get msixAt(): number {
    return this.capabilities().find(({ id }) => id === 0x11)?.at ?? NaN
  }

  /** Writes MSI-X table entry `vector`, and sets bit 15 of Message Control. */
  programVector(vector: number, message: { readonly address: number; readonly data: number; readonly masked?: boolean }): void {
    const place = this.config(this.msixAt + 4, 4)
    const table = this.space(place & 7, (place & ~7) >>> 0)
    const words = [message.address % 2 ** 32, Math.floor(message.address / 2 ** 32), message.data, message.masked === true ? 1 : 0]
    for (const [index, word] of words.entries()) table.write(16 * vector + 4 * index, 4, word)
    this.setConfig(this.msixAt + 2, 2, 0x8000)
  }
}
