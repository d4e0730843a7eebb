/** A configuration space that tests fill in by hand: bytes, with registers that take only some of the bits written. */
import type { ConfigAccess, PciAddress } from "../../../../src/vmm/driver/pci/config.ts"
import type { Width } from "../../../../src/vmm/driver/platform.ts"

export class FakeFunction {
  readonly data = new DataView(new ArrayBuffer(256))
  /** By offset of a 32-bit register: the bits that a write changes. All others, and all other registers, are read-only. */
  readonly writable = new Map<number, number>()
  /** Offsets written, in order. */
  readonly writes: number[] = []

  constructor(bars: readonly { index: number; mask: number; flags: number }[] = []) {
    this.data.setUint16(0, 0x1af4, true)
    this.data.setUint16(2, 0x1001, true)
    this.writable.set(4, 0xffff)
    for (const { index, mask, flags } of bars) {
      this.writable.set(0x10 + 4 * index, mask)
      this.data.setUint32(0x10 + 4 * index, flags, true)
    }
  }

  /** Makes a capability list of these, each with its id, at 0x40, 0x60, ... */
  capabilities(...ids: number[]): void {
    this.data.setUint16(6, 0x10, true)
    this.data.setUint8(0x34, 0x40)
    ids.forEach((id, index) => {
      const at = 0x40 + 0x20 * index
      this.data.setUint8(at, id)
      this.data.setUint8(at + 1, index + 1 < ids.length ? at + 0x20 : 0)
    })
  }

  read(offset: number, width: Width): number {
    return width === 1 ? this.data.getUint8(offset) : width === 2 ? this.data.getUint16(offset, true) : this.data.getUint32(offset, true)
  }

  write(offset: number, width: Width, value: number): void {
    this.writes.push(offset)
    const register = offset - (offset % 4)
    const mask = this.writable.get(register) ?? 0
    const shift = 8 * (offset % 4)
    const touched = ((width === 4 ? 0xffff_ffff : (1 << (8 * width)) - 1) << shift) & mask
    const before = this.data.getUint32(register, true)
    this.data.setUint32(register, (before & ~touched) | ((value << shift) & touched), true)
  }
}

/** Configuration accesses that reach functions by "bus:device.function". */
export function fakeConfig(functions: Readonly<Record<string, FakeFunction>>): ConfigAccess {
  const find = (at: PciAddress): FakeFunction | undefined => functions[`${at.bus}:${at.device}.${at.function}`]
  return {
    read: (at, offset, width) => find(at)?.read(offset, width) ?? (width === 4 ? 0xffff_ffff : 2 ** (8 * width) - 1),
    write: (at, offset, width, value) => find(at)?.write(offset, width, value),
  }
}
