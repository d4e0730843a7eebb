/**
 * RegisterBlock: a table of registers. A transport lists each register once, with its offset, width, and functions to read and write it;
 * accesses with other widths and offsets are derived from that.
 */

/** One register of 1, 2 or 4 bytes, little-endian. Without `write` it is read-only. Values are unsigned. */
export interface Register {
  readonly offset: number
  readonly width: 1 | 2 | 4
  readonly read: () => number
  readonly write?: (value: number) => void
}

export class RegisterBlock {
  /** The register of each byte. */
  readonly #byByte: (Register | undefined)[]

  constructor(registers: readonly Register[]) {
    const end = Math.max(...registers.map(({ offset, width }) => offset + width))
    this.#byByte = Array.from({ length: end }, (_, at) => registers.find(({ offset, width }) => offset <= at && at < offset + width))
  }

  /** Reads `width` bytes at `offset`, which may cover several registers or parts. Bytes without a register read 0. */
  read(offset: number, width: number): number {
    let value = 0
    this.#touch(offset, width, (register, skip, count, done) => (value += bytesOf(register.read(), skip, count) * 2 ** (8 * done)))
    return value
  }

  /** Writes `width` bytes at `offset`. A partly written register keeps its other bytes. Bytes without a register are ignored. */
  write(offset: number, width: number, value: number): void {
    this.#touch(offset, width, (register, skip, count, done) => {
      const written = bytesOf(value, done, count)
      register.write?.(count === register.width ? written : replaceBytes(register.read(), skip, count, written))
    })
  }

  /**
   * Calls `use` for each register that the access covers: `skip` is the first covered byte of the register, `count` the number of covered
   * bytes, `done` the number of bytes of the access before that.
   */
  #touch(offset: number, width: number, use: (register: Register, skip: number, count: number, done: number) => void): void {
    for (let done = 0; done < width; ) {
      const register = this.#byByte[offset + done]
      const skip = register === undefined ? 0 : offset + done - register.offset
      const count = register === undefined ? 1 : Math.min(register.width - skip, width - done)
      if (register !== undefined) use(register, skip, count, done)
      done += count
    }
  }
}

/** `count` bytes of `value` from byte `first` on. */
function bytesOf(value: number, first: number, count: number): number {
  return Math.floor(value / 2 ** (8 * first)) % 2 ** (8 * count)
}

function replaceBytes(value: number, first: number, count: number, bytes: number): number {
  return value + (bytes - bytesOf(value, first, count)) * 2 ** (8 * first)
}
