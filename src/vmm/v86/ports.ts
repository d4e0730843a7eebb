/** Our registers at v86's ports: a handler for each port, which moves with its I/O BAR. */
import type { AccessWidth } from "../../pci/access.ts"
import type { PciFunction } from "../../pci/function.ts"
import type { V86Port } from "./v86.ts"

interface Registers {
  read(offset: number, width: AccessWidth): number
  write(offset: number, width: AccessWidth, value: number): void
}

/** The handlers of the port at `offset` of `registers`. v86 expects and passes 32-bit values signed. */
export function registerPort(registers: Registers, offset: number): V86Port {
  return {
    read8: () => registers.read(offset, 1),
    read16: () => registers.read(offset, 2),
    read32: () => registers.read(offset, 4) | 0,
    write8: (value) => registers.write(offset, 1, value & 0xff),
    write16: (value) => registers.write(offset, 2, value & 0xffff),
    write32: (value) => registers.write(offset, 4, value >>> 0),
    device: registers,
  }
}

interface IoBar {
  readonly index: number
  readonly entries: readonly V86Port[]
  /** The first port, and the earlier handlers of the ports; undefined while the BAR is not decoded. */
  mapped: { readonly port: number; readonly displaced: readonly (V86Port | undefined)[] } | undefined
}

/** The I/O BARs of one function. */
export class IoBars {
  readonly #ports: (V86Port | undefined)[]
  readonly #fn: PciFunction
  readonly #bars: readonly IoBar[]

  constructor(ports: (V86Port | undefined)[], fn: PciFunction) {
    this.#ports = ports
    this.#fn = fn
    this.#bars = fn.bars.filter((bar) => bar.kind === "io").map(({ index, size }) => {
      const registers: Registers = {
        read: (offset, width) => fn.barRead(index, offset, width),
        write: (offset, width, value) => fn.barWrite(index, offset, width, value),
      }
      return { index, entries: Array.from({ length: size }, (_, offset) => registerPort(registers, offset)), mapped: undefined }
    })
  }

  /** Moves the handlers to the present addresses of the BARs. */
  update(): void {
    for (const bar of this.#bars) {
      const port = this.#fn.barAddress(bar.index)
      if (port === bar.mapped?.port) continue
      this.#unmap(bar)
      if (port !== undefined) this.#map(bar, port)
    }
  }

  /** Does not take a port from another device. */
  #map(bar: IoBar, port: number): void {
    const displaced = bar.entries.map((_, offset) => this.#ports[port + offset])
    bar.mapped = { port, displaced }
    for (const [offset, entry] of bar.entries.entries()) if (displaced[offset]?.device === undefined) this.#ports[port + offset] = entry
  }

  /** Leaves ports that v86 has since given to a device of its own. */
  #unmap(bar: IoBar): void {
    if (bar.mapped === undefined) return
    const { port, displaced } = bar.mapped
    for (const [offset, entry] of displaced.entries()) {
      if (entry !== undefined && this.#ports[port + offset] === bar.entries[offset]) this.#ports[port + offset] = entry
    }
    bar.mapped = undefined
  }
}
