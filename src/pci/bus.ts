/**
 * PciBus: bus 0 with 32 slots for single-function devices, which come and go while the machine runs. It finds the function that a
 * configuration, I/O or memory access is for.
 */
import { described } from "../options.ts"
import { type AccessWidth, allOnes } from "./access.ts"
import { PciFunction } from "./function.ts"

/** Device numbers on one bus. */
export const PCI_SLOTS = 32

/** Bytes of configuration space of a function in the enhanced configuration access mechanism (ECAM), [PCIe] 7.2.2. */
const ECAM_FUNCTION_SIZE = 4096

/** Bytes of the whole ECAM: 256 buses, 32 devices, 8 functions. */
export const ECAM_SIZE = 256 * PCI_SLOTS * 8 * ECAM_FUNCTION_SIZE

/** A BAR that is decoded: [start, end) in its address space. */
interface DecodedBar {
  readonly start: number
  readonly end: number
  readonly function: PciFunction
  readonly index: number
}

/** Bus 0 of a machine: finds the function that an access is for. Accesses that no function answers read as all ones and write nothing. */
export class PciBus {
  readonly #slots: (PciFunction | undefined)[] = new Array<PciFunction | undefined>(PCI_SLOTS).fill(undefined)
  /** In order of slot, then BAR. Replaced, never changed: an access may replace them while it is on its way. */
  #io: readonly DecodedBar[] = []
  #memory: readonly DecodedBar[] = []

  /** The function in `slot`, undefined when it is empty. */
  function(slot: number): PciFunction | undefined {
    return this.#slots[slot]
  }

  /** Puts `fn` into an empty slot, 0 to 31. Its BARs answer as its registers say. */
  plug(slot: number, fn: PciFunction): void {
    if (!(fn instanceof PciFunction)) throw new TypeError(`PciBus.plug: the function must be a PciFunction, not ${described(fn)}`)
    if (!Number.isInteger(slot) || slot < 0 || slot >= PCI_SLOTS) {
      throw new RangeError(`slot ${slot}: a PCI bus has slots 0 to ${PCI_SLOTS - 1}`)
    }
    if (this.#slots[slot] !== undefined) throw new Error(`slot ${slot} is occupied`)
    if (fn.onMappingChange !== undefined) throw new Error("the function is plugged in already")
    this.#slots[slot] = fn
    fn.onMappingChange = () => this.#rebuild()
    this.#rebuild()
  }

  /**
   * Takes the function out of `slot`, resets it (so that its interrupt pin drops and bus mastering ends) and returns it; undefined when the
   * slot is empty.
   */
  unplug(slot: number): PciFunction | undefined {
    const fn = this.#slots[slot]
    if (fn === undefined) return undefined
    this.#slots[slot] = undefined
    fn.onMappingChange = undefined
    this.#rebuild()
    fn.reset()
    return fn
  }

  /** All ones where there is no function: another bus, an empty slot, function 1 to 7. */
  configRead(bus: number, device: number, fn: number, offset: number, width: AccessWidth): number {
    return this.#target(bus, device, fn)?.configRead(offset, width) ?? allOnes(width)
  }

  /** Dropped where there is no function. */
  configWrite(bus: number, device: number, fn: number, offset: number, width: AccessWidth, value: number): void {
    this.#target(bus, device, fn)?.configWrite(offset, width, value)
  }

  /**
   * A read in the ECAM at `offset` from its start: bus in bits 27-20, device 19-15, function 14-12, register 11-0. An access that reaches
   * into the next function: all ones.
   */
  ecamRead(offset: number, width: AccessWidth): number {
    const register = offset % ECAM_FUNCTION_SIZE
    if (register + width > ECAM_FUNCTION_SIZE) return allOnes(width)
    return this.configRead((offset >>> 20) & 0xff, (offset >>> 15) & 0x1f, (offset >>> 12) & 7, register, width)
  }

  /** A write in the ECAM, as `ecamRead`; one that reaches into the next function is dropped. */
  ecamWrite(offset: number, width: AccessWidth, value: number): void {
    const register = offset % ECAM_FUNCTION_SIZE
    if (register + width > ECAM_FUNCTION_SIZE) return
    this.configWrite((offset >>> 20) & 0xff, (offset >>> 15) & 0x1f, (offset >>> 12) & 7, register, width, value)
  }

  /**
   * A read in I/O space. The BAR that holds all of the access answers; where BARs overlap, the one in the lowest slot (then of the
   * lowest index). No such BAR, or an access across the end of one: all ones.
   */
  ioRead(port: number, width: AccessWidth): number {
    const bar = find(this.#io, port, width)
    return bar === undefined ? allOnes(width) : bar.function.barRead(bar.index, port - bar.start, width)
  }

  /** A write in I/O space, decoded as in `ioRead`; dropped where nothing answers. */
  ioWrite(port: number, width: AccessWidth, value: number): void {
    const bar = find(this.#io, port, width)
    if (bar !== undefined) bar.function.barWrite(bar.index, port - bar.start, width, value)
  }

  /** A read in memory space, decoded as in `ioRead`. */
  memoryRead(address: number, width: AccessWidth): number {
    const bar = find(this.#memory, address, width)
    return bar === undefined ? allOnes(width) : bar.function.barRead(bar.index, address - bar.start, width)
  }

  /** A write in memory space, decoded as in `ioRead`; dropped where nothing answers. */
  memoryWrite(address: number, width: AccessWidth, value: number): void {
    const bar = find(this.#memory, address, width)
    if (bar !== undefined) bar.function.barWrite(bar.index, address - bar.start, width, value)
  }

  #target(bus: number, device: number, fn: number): PciFunction | undefined {
    return bus === 0 && fn === 0 ? this.#slots[device] : undefined
  }

  #rebuild(): void {
    const io: DecodedBar[] = []
    const memory: DecodedBar[] = []
    for (const fn of this.#slots) {
      if (fn === undefined) continue
      for (const { index, kind, size } of fn.bars) {
        const start = fn.barAddress(index)
        if (start === undefined) continue
        const list = kind === "io" ? io : memory
        list.push({ start, end: start + size, function: fn, index })
      }
    }
    this.#io = io
    this.#memory = memory
  }
}

/** A plain scan: even 31 disks are 62 memory BARs, and every one of them is two compares. */
function find(bars: readonly DecodedBar[], address: number, width: AccessWidth): DecodedBar | undefined {
  for (const bar of bars) if (address >= bar.start && address + width <= bar.end) return bar
  return undefined
}
