/**
 * BaseAddressRegisters: the BARs of a function ([PCI] 6.2.5): their registers in configuration space, and the addresses that they decode.
 * The read-only bits of the registers make sizing by writing all ones work without further code.
 */
import { type ConfigSpace, PCI_COMMAND, PCI_CONFIG } from "./config-space.ts"

/** One BAR. `size` is in bytes, a power of two. A memory64 BAR takes the registers `index` and `index + 1`. */
export type BarDefinition = {
  readonly index: number
  readonly kind: "io" | "memory32" | "memory64"
  readonly size: number
  readonly prefetchable?: boolean
}

/** The read-only low bits of a BAR, [PCI] 6.2.5.1. */
const BAR_BITS = {
  IO: 0x1,
  MEMORY32: 0x0,
  MEMORY64: 0x4,
  PREFETCHABLE: 0x8,
} as const

/** How many BARs a type 0 header has. */
const BAR_COUNT = 6

/**
 * For each kind: the smallest BAR that leaves room for the low bits, the largest that can be decoded, and the end of the decoded addresses.
 * I/O space is that of x86, and no processor reaches memory above 2^52. A 32-bit BAR that ends at 4 GiB is being sized, as in QEMU: all
 * ones were written to it.
 */
const LIMITS = {
  io: { smallest: 4, largest: 2 ** 15, end: 2 ** 16 },
  memory32: { smallest: 16, largest: 2 ** 30, end: 2 ** 32 - 1 },
  memory64: { smallest: 16, largest: 2 ** 51, end: 2 ** 52 },
} as const

export class BaseAddressRegisters {
  /** In order of index. */
  readonly definitions: readonly BarDefinition[]
  readonly #config: ConfigSpace
  readonly #definitionAt: (BarDefinition | undefined)[] = []
  /** The address of each BAR at the last `update`. */
  readonly #addresses: (number | undefined)[] = []

  /** @throws RangeError for an impossible BAR, or two in one register */
  constructor(config: ConfigSpace, definitions: readonly BarDefinition[]) {
    this.#config = config
    this.definitions = [...definitions].sort((a, b) => a.index - b.index)
    let free = 0
    for (const bar of this.definitions) {
      check(bar, free)
      defineRegisters(config, bar)
      this.#definitionAt[bar.index] = bar
      free = bar.index + (bar.kind === "memory64" ? 2 : 1)
    }
  }

  definition(index: number): BarDefinition | undefined {
    return this.#definitionAt[index]
  }

  /** The address of BAR `index` at the last `update`; undefined if it is not decoded. */
  address(index: number): number | undefined {
    return this.#addresses[index]
  }

  /** Decodes the registers again. Returns whether any BAR has moved, appeared or vanished. */
  update(command: number): boolean {
    let changed = false
    for (const bar of this.definitions) {
      const address = this.#decode(bar, command)
      if (address !== this.#addresses[bar.index]) changed = true
      this.#addresses[bar.index] = address
    }
    return changed
  }

  /** Address 0 means that nobody has placed the BAR. */
  #decode(bar: BarDefinition, command: number): number | undefined {
    if ((command & (bar.kind === "io" ? PCI_COMMAND.IO_SPACE : PCI_COMMAND.MEMORY_SPACE)) === 0) return undefined
    const address = registerAddress(this.#config, bar)
    return address === 0 || address + bar.size > LIMITS[bar.kind].end ? undefined : address
  }
}

/** The address in the register(s) of `bar`, whether it is decoded or not. */
function registerAddress(config: ConfigSpace, bar: BarDefinition): number {
  const offset = PCI_CONFIG.BASE_ADDRESS_0 + 4 * bar.index
  const low = config.read(offset, 4)
  const address = low - (low % (bar.kind === "io" ? 4 : 16))
  return bar.kind === "memory64" ? config.read(offset + 4, 4) * 2 ** 32 + address : address
}

function check(bar: BarDefinition, firstFree: number): void {
  const last = bar.kind === "memory64" ? BAR_COUNT - 2 : BAR_COUNT - 1
  if (!Number.isInteger(bar.index) || bar.index < 0 || bar.index > last) {
    throw new RangeError(`BAR ${bar.index}: a ${bar.kind} BAR has an index from 0 to ${last}`)
  }
  if (bar.index < firstFree) throw new RangeError(`BAR ${bar.index}: its register belongs to another BAR already`)
  const { smallest, largest } = LIMITS[bar.kind]
  if (!isPowerOfTwo(bar.size) || bar.size < smallest || bar.size > largest) {
    throw new RangeError(
      `BAR ${bar.index}: ${bar.size} bytes; the size of a ${bar.kind} BAR is a power of two from ${smallest} to ${largest}`,
    )
  }
  if (bar.kind === "io" && bar.prefetchable === true) throw new RangeError(`BAR ${bar.index}: I/O space cannot be prefetchable`)
}

/** Address bits below the size are read-only zeroes, so all ones written read back as the size's complement. */
function defineRegisters(config: ConfigSpace, bar: BarDefinition): void {
  const offset = PCI_CONFIG.BASE_ADDRESS_0 + 4 * bar.index
  const space = 2 ** (bar.kind === "memory64" ? 64 : 32)
  // The upper half is exact: it is cut from the difference of two powers of two. The lower half is computed separately.
  const low = bar.size >= 2 ** 32 ? 0 : 2 ** 32 - bar.size
  const high = bar.size >= 2 ** 32 ? (space - bar.size) / 2 ** 32 : 0xffff_ffff
  if (bar.kind === "io") return config.define(offset, 4, BAR_BITS.IO, { writable: low })
  const kind = bar.kind === "memory64" ? BAR_BITS.MEMORY64 : BAR_BITS.MEMORY32
  config.define(offset, 4, kind + (bar.prefetchable === true ? BAR_BITS.PREFETCHABLE : 0), { writable: low })
  if (bar.kind === "memory64") config.define(offset + 4, 4, 0, { writable: high })
}

function isPowerOfTwo(value: number): boolean {
  return Number.isSafeInteger(value) && value > 0 && Number.isInteger(Math.log2(value))
}
