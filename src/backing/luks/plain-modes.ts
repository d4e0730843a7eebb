/** ECB and CTR, the modes that QEMU can make and nobody should use. NIST SP 800-38A, 6.1 and 6.5 */
import type { BlockCipher } from "./cryptography.ts"
import type { IvSource } from "./iv-generator.ts"
import { SECTOR_BYTES, type SectorCipher } from "./sector-cipher.ts"
import { asBytes } from "./words.ts"

const BLOCK_BYTES = 16

/** Block by block: no sector number, no IV. */
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

/** XOR with encrypted counters: big-endian numbers of 128 bits that begin with the sector's IV. */
export class CtrCipher implements SectorCipher {
  readonly #cipher: BlockCipher
  readonly #ivs: IvSource

  constructor(cipher: BlockCipher, ivs: IvSource) {
    this.#cipher = cipher
    this.#ivs = ivs
  }

  encrypt(data: Uint8Array, sector: number): void {
    const ivs = asBytes(this.#ivs.take(sector, Math.ceil(data.length / SECTOR_BYTES)))
    const counters = new Uint8Array(data.length)
    for (let at = 0; at < data.length; at += BLOCK_BYTES) {
      if (at % SECTOR_BYTES !== 0) addOne(counters, at)
      else counters.set(ivs.subarray((at / SECTOR_BYTES) * BLOCK_BYTES, (at / SECTOR_BYTES + 1) * BLOCK_BYTES), at)
    }
    const stream = this.#cipher.encrypt(counters)
    for (let at = 0; at < data.length; at++) data[at] = (data[at] ?? 0) ^ (stream[at] ?? 0)
  }

  decrypt(data: Uint8Array, sector: number): void {
    this.encrypt(data, sector)
  }
}

/** Makes the counter at byte `at` the one before it, plus 1. */
function addOne(counters: Uint8Array, at: number): void {
  counters.copyWithin(at, at - BLOCK_BYTES, at)
  for (let place = at + BLOCK_BYTES - 1; place >= at; place--) {
    const sum = ((counters[place] ?? 0) + 1) % 256
    counters[place] = sum
    if (sum !== 0) return
  }
}
