/** ECB and CTR, modes that QEMU offers and nobody should use. NIST SP 800-38A, 6.1 and 6.5 */
import type { BlockCipher } from "../cryptography.ts"
import type { IvSource, IvsOfBlocks } from "./iv-generator.ts"
import { SECTOR_BYTES, type SectorCipher } from "../sector-cipher.ts"
import { asBytes } from "../words.ts"

/** Encrypts block by block, without sector number and IV. */
export class EcbCipher implements SectorCipher {
  readonly #cipher: BlockCipher

  constructor(cipher: BlockCipher) {
    this.#cipher = cipher
  }

  encrypt(data: Uint8Array): void {
    data.set(this.#cipher.encrypt(data))
  }

  decrypt(data: Uint8Array): void {
    data.set(this.#cipher.decrypt(data))
  }
}

/** XORs data with encrypted counters: big-endian numbers of a block's size that start with the sector's IV. */
export class CtrCipher implements SectorCipher {
  readonly #cipher: BlockCipher
  readonly #ivs: IvSource

  readonly #blockBytes: number

  constructor(cipher: BlockCipher, { ivs, blockBytes }: IvsOfBlocks) {
    this.#cipher = cipher
    this.#ivs = ivs
    this.#blockBytes = blockBytes
  }

  encrypt(data: Uint8Array, sector: number): void {
    const size = this.#blockBytes
    const ivs = asBytes(this.#ivs.take(sector, Math.ceil(data.length / SECTOR_BYTES)))
    const counters = new Uint8Array(data.length)
    for (let at = 0; at < data.length; at += size) {
      if (at % SECTOR_BYTES !== 0) addOne(counters, at, size)
      else counters.set(ivs.subarray((at / SECTOR_BYTES) * size, (at / SECTOR_BYTES + 1) * size), at)
    }
    const stream = this.#cipher.encrypt(counters)
    for (let at = 0; at < data.length; at++) data[at] = (data[at] ?? 0) ^ (stream[at] ?? 0)
  }

  decrypt(data: Uint8Array, sector: number): void {
    this.encrypt(data, sector)
  }
}

/** Sets the counter of `size` bytes at byte `at` to the one before it plus 1. */
function addOne(counters: Uint8Array, at: number, size: number): void {
  counters.copyWithin(at, at - size, at)
  for (let place = at + size - 1; place >= at; place--) {
    const sum = ((counters[place] ?? 0) + 1) % 256
    counters[place] = sum
    if (sum !== 0) return
  }
}
