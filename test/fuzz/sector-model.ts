/**
 * SectorModel: what each sector of a disk may hold, while writes to it are in flight, fail, or belong to a life that a reset has ended.
 * Every sector is full of one 32-bit value, so that a torn or misplaced write is seen.
 */

export const SECTOR = 512
/** `FakeDisk.discard` fills with 0xdd. */
export const DISCARDED = 0xdddd_dddd

/** A sector full of `value`, `count` times. */
export function sectorsOf(value: number, count: number): Uint8Array {
  const bytes = new Uint8Array(SECTOR * count)
  new Uint32Array(bytes.buffer).fill(value)
  return bytes
}

export class SectorModel {
  /** By sector: the values that it may hold. */
  readonly #possible: Set<number>[]

  constructor(sectors: number) {
    this.#possible = Array.from({ length: sectors }, () => new Set([0]))
  }

  /** The sectors hold `value` for certain: the write was answered. */
  set(first: number, count: number, value: number): void {
    for (let sector = first; sector < first + count; sector++) this.#possible[sector] = new Set([value])
  }

  /** The sectors may hold `value` as well: the write failed, or nobody will hear of it. */
  allow(first: number, count: number, value: number): void {
    for (let sector = first; sector < first + count; sector++) this.#possible[sector]?.add(value)
  }

  /** What is wrong with `bytes` as the content of the sectors from `first` on, or undefined. They hold it for certain from now on. */
  see(first: number, bytes: Uint8Array): string | undefined {
    const words = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
    for (let at = 0; at < bytes.length; at += SECTOR) {
      const sector = first + at / SECTOR
      const value = words.getUint32(at, true)
      for (let word = 4; word < SECTOR; word += 4) if (words.getUint32(at + word, true) !== value) return `sector ${sector} is torn`
      const possible = this.#possible[sector]
      if (possible?.has(value) !== true) {
        return `sector ${sector} holds ${value.toString(16)}, not ${[...(possible ?? [])].map((each) => each.toString(16)).join(" or ")}`
      }
      this.#possible[sector] = new Set([value])
    }
    return undefined
  }
}
