/**
 * PciBus: bus 0 with 32 slots of up to 8 functions, which can be plugged and unplugged while the machine runs. It routes configuration, I/O
 * and memory accesses to functions.
 */
import { described } from "../options.ts"
import { type AccessWidth, allOnes } from "./access.ts"
import { PciFunction } from "./function.ts"

/** Device numbers on one bus. */
export const PCI_SLOTS = 32

/** Function numbers of one device. */
export const PCI_FUNCTIONS = 8

/** Bytes of configuration space of a function in the enhanced configuration access mechanism (ECAM), [PCIe] 7.2.2. */
const ECAM_FUNCTION_SIZE = 4096

/** Bytes of the whole ECAM: 256 buses, 32 devices, 8 functions. */
export const ECAM_SIZE = 256 * PCI_SLOTS * PCI_FUNCTIONS * ECAM_FUNCTION_SIZE

/** A BAR that is decoded: [start, end) in its address space. */
interface DecodedBar {
  readonly start: number
  readonly end: number
  readonly function: PciFunction
  readonly index: number
}

/** Bus 0 of a machine. Reads that no function answers return all ones; such writes are dropped. */
export class PciBus {
  /** Function n of slot s is at 8 s + n. */
  readonly #functions: (PciFunction | undefined)[] = new Array<PciFunction | undefined>(PCI_SLOTS * PCI_FUNCTIONS).fill(undefined)
  /** In order of slot, then function, then BAR. Replaced, never changed: an access in progress may replace them. */
  #io: readonly DecodedBar[] = []
  #memory: readonly DecodedBar[] = []

  /** Function `number` of `slot`, undefined where there is none. */
  function(slot: number, number = 0): PciFunction | undefined {
    return isPlace(slot, number) ? this.#functions[PCI_FUNCTIONS * slot + number] : undefined
  }

  /** The functions of `slot` with their numbers, in that order. */
  functions(slot: number): readonly (readonly [number: number, fn: PciFunction])[] {
    const found: [number, PciFunction][] = []
    for (let number = 0; number < PCI_FUNCTIONS; number++) {
      const fn = this.function(slot, number)
      if (fn !== undefined) found.push([number, fn])
    }
    return found
  }

  /**
   * Makes `fn` function `number`, 0 to 7, of `slot`, 0 to 31. Its BARs answer as its registers say. Software looks for other functions
   * only if there is a function 0, and the header of each function says whether there are others.
   */
  plug(slot: number, fn: PciFunction, number = 0): void {
    if (!(fn instanceof PciFunction)) throw new TypeError(`PciBus.plug: the function must be a PciFunction, not ${described(fn)}`)
    if (!Number.isInteger(slot) || slot < 0 || slot >= PCI_SLOTS) {
      throw new RangeError(`slot ${slot}: a PCI bus has slots 0 to ${PCI_SLOTS - 1}`)
    }
    if (!isPlace(slot, number)) throw new RangeError(`function ${number}: a PCI device has functions 0 to ${PCI_FUNCTIONS - 1}`)
    if (this.function(slot, number) !== undefined) throw new Error(`${placeName(slot, number)} is occupied`)
    if (fn.onMappingChange !== undefined) throw new Error("the function is plugged in already")
    this.#functions[PCI_FUNCTIONS * slot + number] = fn
    fn.onMappingChange = () => this.#rebuild()
    this.#tellOfOthers(slot)
    this.#rebuild()
  }

  /**
   * Takes function `number` out of `slot`, resets it (so that its interrupt pin drops and bus mastering ends) and returns it; undefined
   * when there is none.
   */
  unplug(slot: number, number = 0): PciFunction | undefined {
    const fn = this.function(slot, number)
    if (fn === undefined) return undefined
    this.#functions[PCI_FUNCTIONS * slot + number] = undefined
    fn.onMappingChange = undefined
    fn.isMultiFunction = false
    this.#tellOfOthers(slot)
    this.#rebuild()
    fn.reset()
    return fn
  }

  /** Returns all ones if there is no such function. */
  configRead(bus: number, device: number, fn: number, offset: number, width: AccessWidth): number {
    return this.#target(bus, device, fn)?.configRead(offset, width) ?? allOnes(width)
  }

  /** Dropped if there is no such function. */
  configWrite(bus: number, device: number, fn: number, offset: number, width: AccessWidth, value: number): void {
    this.#target(bus, device, fn)?.configWrite(offset, width, value)
  }

  /**
   * A read in the ECAM at `offset` from its start: bus in bits 27-20, device 19-15, function 14-12, register 11-0. An access that reaches
   * into the next function returns all ones.
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
   * A read in I/O space. The BAR that contains the whole access answers; if several do, the one of the lowest slot (then
   * function, then index). If none does, the result is all ones.
   */
  ioRead(port: number, width: AccessWidth): number {
    const bar = find(this.#io, port, width)
    return bar === undefined ? allOnes(width) : bar.function.barRead(bar.index, port - bar.start, width)
  }

  /** A write in I/O space, decoded as in `ioRead`; dropped if nothing answers. */
  ioWrite(port: number, width: AccessWidth, value: number): void {
    const bar = find(this.#io, port, width)
    if (bar !== undefined) bar.function.barWrite(bar.index, port - bar.start, width, value)
  }

  /** A read in memory space, decoded as in `ioRead`. */
  memoryRead(address: number, width: AccessWidth): number {
    const bar = find(this.#memory, address, width)
    return bar === undefined ? allOnes(width) : bar.function.barRead(bar.index, address - bar.start, width)
  }

  /** A write in memory space, decoded as in `ioRead`; dropped if nothing answers. */
  memoryWrite(address: number, width: AccessWidth, value: number): void {
    const bar = find(this.#memory, address, width)
    if (bar !== undefined) bar.function.barWrite(bar.index, address - bar.start, width, value)
  }

  #target(bus: number, device: number, fn: number): PciFunction | undefined {
    return bus === 0 ? this.function(device, fn) : undefined
  }

  #tellOfOthers(slot: number): void {
    const functions = this.functions(slot)
    for (const [, fn] of functions) fn.isMultiFunction = functions.length > 1
  }

  #rebuild(): void {
    const io: DecodedBar[] = []
    const memory: DecodedBar[] = []
    for (const fn of this.#functions) {
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

function isPlace(slot: number, number: number): boolean {
  return Number.isInteger(slot) && slot >= 0 && slot < PCI_SLOTS && Number.isInteger(number) && number >= 0 && number < PCI_FUNCTIONS
}

/** The name of function `number` of `slot` in messages. Function 0 is omitted, because most devices have no other. */
export function placeName(slot: number, number: number): string {
  return number === 0 ? `slot ${slot}` : `function ${number} of slot ${slot}`
}

/** A plain scan is fast enough: 31 disks have 62 memory BARs, with two comparisons each. */
function find(bars: readonly DecodedBar[], address: number, width: AccessWidth): DecodedBar | undefined {
  for (const bar of bars) if (address >= bar.start && address + width <= bar.end) return bar
  return undefined
}
