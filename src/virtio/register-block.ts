/**
 * RegisterBlock: registers as data. A transport states each register once, with its offset, its width and what reading and writing
 * it does; accesses of other widths and offsets follow from that.
 */

/** One register of 1, 2 or 4 bytes, little-endian. Without `write` it is read-only. Values are unsigned. */
export interface Register {
  readonly offset: number
  readonly width: 1 | 2 | 4
  readonly read: () => number
  readonly write?: (value: number) => void
}

export class RegisterBlock {
  /** The register that each byte belongs to. */
  readonly #byByte: (Register | undefined)[]

  constructor(registers: readonly Register[]) {
    const end = Math.max(...registers.map(({ offset, width }) => offset + width))
    this.#byByte = Array.from({ length: end }, (_, at) => registers.find(({ offset, width }) => offset <= at && at < offset + width))
  }

  /** Reads `width` bytes at `offset`: of each register that they touch, the bytes that they touch. 0 where there is no register. */
  read(offset: number, width: number): number {
    let value = 0
    for (let done = 0; done < width; ) {
      const register = this.#byByte[offset + done]
      if (register === undefined) {
        done++
        continue
      }
      const skip = offset + done - register.offset
      const part = Math.min(register.width - skip, width - done)
      value += bytesOf(register.read(), skip, part) * 2 ** (8 * done)
      done += part
    }
    return value
  }

  /** Writes `width` bytes at `offset`. A register that is touched in part keeps its other bytes. Nothing happens where there is none. */
  write(offset: number, width: number, value: number): void {
    for (let done = 0; done < width; ) {
      const register = this.#byByte[offset + done]
      if (register === undefined) {
        done++
        continue
      }
      const skip = offset + done - register.offset
      const part = Math.min(register.width - skip, width - done)
      const written = bytesOf(value, done, part)
      if (register.write !== undefined) register.write(part === register.width ? written : replaceBytes(register.read(), skip, part, written))
      done += part
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
