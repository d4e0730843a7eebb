/**
 * Msix: the message-signalled interrupts of a function ([PCI] 6.8.2): table, pending bits, masks, and their capability. The function owns
 * the other registers and passes them to `configure`.
 */
import type { AccessWidth } from "./access.ts"
import type { BarDefinition } from "./base-address.ts"
import { savedNumbers, savedObject } from "../saved-state.ts"

/** Capability id of MSI-X, [PCI] appendix H. */
export const MSIX_CAPABILITY_ID = 0x11

/** Bits of Message Control, [PCI] 6.8.2.3. */
export const MSIX_CONTROL = {
  FUNCTION_MASK: 0x4000,
  ENABLE: 0x8000,
} as const

/** A table entry, [PCI] 6.8.2.6 to 6.8.2.9. */
const ENTRY = {
  ADDRESS_LOW: 0,
  ADDRESS_HIGH: 4,
  DATA: 8,
  VECTOR_CONTROL: 12,
  SIZE: 16,
} as const

/** Vector Control bit 0. */
const VECTOR_MASKED = 0x01

/** Maximum of the 11-bit Table Size field. */
export const MSIX_MAX_VECTORS = 2048

/** The places of the table and the pending bits: both in memory BAR `bar`, offsets in bytes, multiples of 8. */
export interface MsixOptions {
  readonly bar: number
  readonly vectors: number
  readonly tableOffset: number
  readonly pbaOffset: number
}

/** The registers outside the table that control the sending of messages. */
export interface MsixConfiguration {
  readonly enabled: boolean
  /** Function Mask: all vectors are masked, whatever their own bits say. */
  readonly masked: boolean
  /** A message is a memory write, which a function may only make while Command bit 2 is set. */
  readonly busMaster: boolean
}

export class Msix {
  /** Number of table entries. */
  readonly vectors: number = 0
  /** Bytes of the table and of the pending bit array. */
  readonly tableSize: number = 0
  readonly pbaSize: number = 0
  readonly #table: Uint8Array
  readonly #entries: DataView
  readonly #pending: Uint8Array
  readonly #send: (address: number, data: number) => void
  #state: MsixConfiguration = { enabled: false, masked: false, busMaster: false }

  /** @param send stores 32 bits of `data` at the guest-physical `address` */
  constructor(vectors: number, send: (address: number, data: number) => void) {
    if (!Number.isInteger(vectors) || vectors < 1 || vectors > MSIX_MAX_VECTORS) {
      throw new RangeError(`${vectors} MSI-X vectors: 1 to ${MSIX_MAX_VECTORS} can be`)
    }
    this.vectors = vectors
    this.tableSize = vectors * ENTRY.SIZE
    this.pbaSize = Math.ceil(vectors / 64) * 8
    this.#table = new Uint8Array(this.tableSize)
    this.#entries = new DataView(this.#table.buffer)
    this.#pending = new Uint8Array(this.pbaSize)
    this.#send = send
    this.reset()
  }

  /** Message Control bit 15: the function interrupts by messages, INTx is silent. */
  get enabled(): boolean {
    return this.#state.enabled
  }

  /** Message Control bit 14. */
  get masked(): boolean {
    return this.#state.masked
  }

  /** Whether the Command register allows messages. */
  get busMaster(): boolean {
    return this.#state.busMaster
  }

  /**
   * Signals an event for `vector`: sends its message, or sets its pending bit while it must not be sent. Does nothing while MSI-X is
   * disabled (the function then uses INTx), or if there is no such vector (0xffff is NO_VECTOR).
   */
  trigger(vector: number): void {
    if (!this.#state.enabled || vector >= this.vectors) return
    if (this.#mustWait(vector)) this.#markPending(vector)
    else this.#fire(vector)
  }

  /** Drops the pending message of `vector`, whose event is gone ([PCI] 6.8.3.5). Without `vector`: all pending messages. */
  clearPending(vector?: number): void {
    if (vector === undefined) this.#pending.fill(0)
    else if (vector < this.vectors) this.#dropPending(vector)
  }

  /** Whether a message of `vector` waits to be sent. */
  isPending(vector: number): boolean {
    return ((this.#pending[vector >> 3] ?? 0) & (1 << (vector & 7))) !== 0
  }

  /** Applies the function's registers, and sends the messages that may now be sent. */
  configure(state: MsixConfiguration): void {
    this.#state = state
    for (let vector = 0; vector < this.vectors; vector++) this.#release(vector)
  }

  /** Power-on state of table and pending bits: every vector masked, the rest zero. Enable and Function Mask are the function's. */
  reset(): void {
    this.#table.fill(0)
    this.#pending.fill(0)
    for (let at = ENTRY.VECTOR_CONTROL; at < this.tableSize; at += ENTRY.SIZE) this.#table[at] = VECTOR_MASKED
  }

  /** Table and pending messages, to be saved. */
  saveState(): { readonly table: readonly number[]; readonly pending: readonly number[] } {
    const table = Array.from({ length: this.tableSize / 4 }, (_, index) => this.readTable(4 * index, 4))
    return { table, pending: Array.from({ length: this.vectors }, (_, vector) => vector).filter((vector) => this.isPending(vector)) }
  }

  /**
   * Checks a result of `saveState`. Returns a function that restores it; the caller configures the rest first.
   * @throws Error for anything else
   */
  readyToRestore(state: unknown): () => void {
    const { table, pending } = savedObject(state, "MSI-X")
    const entries = savedNumbers(table, "MSI-X table", { length: this.tableSize / 4 })
    const waiting = savedNumbers(pending, "MSI-X pending", { max: this.vectors - 1 })
    return () => {
      this.#pending.fill(0)
      for (const [index, value] of entries.entries()) this.writeTable(4 * index, 4, value)
      for (const vector of waiting) this.#markPending(vector)
    }
  }

  /** Table register read; the whole access lies inside the table. */
  readTable(offset: number, width: AccessWidth): number {
    return readBytes(this.#table, offset, width)
  }

  /** Table register write; the whole access lies inside the table. An entry that gets unmasked sends its pending message. */
  writeTable(offset: number, width: AccessWidth, value: number): void {
    for (let i = 0; i < width; i++) {
      const at = offset + i
      this.#table[at] = (value >>> (8 * i)) & writableBits(at % ENTRY.SIZE)
    }
    // An unaligned access may touch two entries, but never the mask of the second.
    this.#release(Math.floor(offset / ENTRY.SIZE))
  }

  /** Pending bit array read; the whole access lies inside it. It is read-only ([PCI] 6.8.2.10), so there is no write. */
  readPba(offset: number, width: AccessWidth): number {
    return readBytes(this.#pending, offset, width)
  }

  #mustWait(vector: number): boolean {
    const { enabled, masked, busMaster } = this.#state
    if (!enabled || masked || !busMaster) return true
    return ((this.#table[vector * ENTRY.SIZE + ENTRY.VECTOR_CONTROL] ?? 0) & VECTOR_MASKED) !== 0
  }

  #release(vector: number): void {
    if (!this.isPending(vector) || this.#mustWait(vector)) return
    this.#dropPending(vector)
    this.#fire(vector)
  }

  #fire(vector: number): void {
    const entry = vector * ENTRY.SIZE
    const low = this.#entries.getUint32(entry + ENTRY.ADDRESS_LOW, true)
    const high = this.#entries.getUint32(entry + ENTRY.ADDRESS_HIGH, true)
    this.#send(high * 2 ** 32 + low, this.#entries.getUint32(entry + ENTRY.DATA, true))
  }

  #markPending(vector: number): void {
    const at = vector >> 3
    this.#pending[at] = (this.#pending[at] ?? 0) | (1 << (vector & 7))
  }

  #dropPending(vector: number): void {
    const at = vector >> 3
    this.#pending[at] = (this.#pending[at] ?? 0) & ~(1 << (vector & 7))
  }
}

/**
 * The bits that software may change in the byte at `offset` of an entry: not the low address bits (a message is an aligned 32-bit store),
 * and only bit 0 of Vector Control.
 */
function writableBits(offset: number): number {
  if (offset === ENTRY.ADDRESS_LOW) return 0xfc
  if (offset < ENTRY.VECTOR_CONTROL) return 0xff
  return offset === ENTRY.VECTOR_CONTROL ? VECTOR_MASKED : 0
}

function readBytes(bytes: Uint8Array, offset: number, width: AccessWidth): number {
  let value = 0
  for (let i = 0; i < width; i++) value |= (bytes[offset + i] ?? 0) << (8 * i)
  return value >>> 0
}

/** The capability's bytes after id and next, and which of them software may write. */
export function msixCapability(options: MsixOptions): { readonly body: Uint8Array; readonly writable: Uint8Array } {
  const body = new Uint8Array(10)
  const view = new DataView(body.buffer)
  view.setUint16(0, options.vectors - 1, true)
  view.setUint32(2, options.tableOffset + options.bar, true)
  view.setUint32(6, options.pbaOffset + options.bar, true)
  const writable = new Uint8Array(10)
  new DataView(writable.buffer).setUint16(0, MSIX_CONTROL.FUNCTION_MASK | MSIX_CONTROL.ENABLE, true)
  return { body, writable }
}

/** Checks the rules of [PCI] 6.8.2 for the places of the structures. */
export function checkMsixPlace(msix: Msix, options: MsixOptions, bar: BarDefinition | undefined): void {
  if (bar === undefined || bar.kind === "io") throw new RangeError(`MSI-X: BAR ${options.bar} is not a memory BAR`)
  const structures = [
    { name: "table", offset: options.tableOffset, size: msix.tableSize },
    { name: "pending bits", offset: options.pbaOffset, size: msix.pbaSize },
  ]
  for (const { name, offset, size } of structures) {
    if (!Number.isSafeInteger(offset) || offset < 0 || offset % 8 !== 0) {
      throw new RangeError(`MSI-X: ${name} at ${offset}: a multiple of 8 is needed`)
    }
    if (offset >= 2 ** 32 || offset + size > bar.size) {
      throw new RangeError(`MSI-X: ${name}, ${size} bytes at ${offset}, do not fit in BAR ${bar.index} of ${bar.size}`)
    }
  }
  const apart = options.tableOffset + msix.tableSize <= options.pbaOffset || options.pbaOffset + msix.pbaSize <= options.tableOffset
  if (!apart) throw new RangeError(`MSI-X: table at ${options.tableOffset} and pending bits at ${options.pbaOffset} overlap`)
}
