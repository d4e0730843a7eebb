/**
 * ConfigMechanism1: configuration mechanism #1 ([PCI] 3.2.2.3.2): an address register at port 0xCF8, data at 0xCFC to 0xCFF.
 */
import { described } from "../options.ts"
import { type AccessWidth, allOnes } from "./access.ts"
import { PciBus } from "./bus.ts"

/** The eight ports, and the bits of CONFIG_ADDRESS. */
const PORTS = { ADDRESS: 0xcf8, DATA: 0xcfc, END: 0xd00 } as const
const ENABLE = 0x8000_0000
/** Enable, bus, device, function, register. The reserved bits 30-24 and 1-0 read 0, as in Intel's host bridges. */
const STORED_BITS = 0x80ff_fffc

/** The ports 0xCF8 to 0xCFF, through which programs reach the configuration space of the functions on a bus. */
export class ConfigMechanism1 {
  readonly #bus: PciBus
  #address = 0

  /** @throws TypeError when `bus` is not a `PciBus` */
  constructor(bus: PciBus) {
    if (!(bus instanceof PciBus)) throw new TypeError(`ConfigMechanism1: the bus must be a PciBus, not ${described(bus)}`)
    this.#bus = bus
  }

  /** Whether the access starts at one of the mechanism's ports. */
  claims(port: number): boolean {
    return port >= PORTS.ADDRESS && port < PORTS.END
  }

  /**
   * A read at a port for which `claims` is true. Only an access of 4 bytes at 0xCF8 reaches the address register. Smaller ones are for
   * other registers at these ports (such as the reset control register at 0xCF9 of PIIX and ICH); there are none, so they read all ones.
   * Bytes past 0xCFF read as all ones, as when the processor splits the access.
   */
  read(port: number, width: AccessWidth): number {
    if (port === PORTS.ADDRESS && width === 4) return this.#address
    const { bus, device, fn, register } = this.#target(port)
    if (port < PORTS.DATA || (this.#address & ENABLE) === 0) return allOnes(width)
    if (port + width <= PORTS.END) return this.#bus.configRead(bus, device, fn, register, width)
    let value = allOnes(width)
    for (let i = 0; port + i < PORTS.END; i++) value -= (0xff - this.#bus.configRead(bus, device, fn, register + i, 1)) * 2 ** (8 * i)
    return value
  }

  /** A write at a port for which `claims` is true, decoded as in `read`. Dropped if it reaches no register. */
  write(port: number, width: AccessWidth, value: number): void {
    if (port === PORTS.ADDRESS && width === 4) {
      this.#address = (value & STORED_BITS) >>> 0
      return
    }
    const { bus, device, fn, register } = this.#target(port)
    if (port < PORTS.DATA || (this.#address & ENABLE) === 0) return
    if (port + width <= PORTS.END) return this.#bus.configWrite(bus, device, fn, register, width, value)
    for (let i = 0; port + i < PORTS.END; i++) this.#bus.configWrite(bus, device, fn, register + i, 1, (value >>> (8 * i)) & 0xff)
  }

  /** After the reset line. */
  reset(): void {
    this.#address = 0
  }

  #target(port: number): { readonly bus: number; readonly device: number; readonly fn: number; readonly register: number } {
    const address = this.#address
    return {
      bus: (address >>> 16) & 0xff,
      device: (address >>> 11) & 0x1f,
      fn: (address >>> 8) & 7,
      register: (address & 0xfc) + (port - PORTS.DATA),
    }
  }
}
