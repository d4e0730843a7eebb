/**
 * CBC: each block is XORed with the encrypted block before it, the first block of a sector with the IV. NIST SP 800-38A, 6.2
 * Sectors are independent, so encryption takes the n-th blocks of all sectors together: any number of sectors takes 32 calls, or 64 with
 * blocks of 8 bytes.
 */
import type { BlockCipher } from "../cryptography.ts"
import type { IvSource, IvsOfBlocks } from "./iv-generator.ts"
import type { SectorCipher } from "../sector-cipher.ts"
import { asBytes, asWords } from "../words.ts"

const SECTOR_WORDS = 128

export class CbcCipher implements SectorCipher {
  readonly #cipher: BlockCipher
  readonly #ivs: IvSource
  readonly #blockWords: number

  constructor(cipher: BlockCipher, { ivs, blockBytes }: IvsOfBlocks) {
    this.#cipher = cipher
    this.#ivs = ivs
    this.#blockWords = blockBytes / 4
  }

  encrypt(data: Uint8Array, sector: number): void {
    const blockWords = this.#blockWords
    const words = asWords(data)
    const count = Math.ceil(words.length / SECTOR_WORDS)
    let before: Int32Array = this.#ivs.take(sector, count).slice()
    for (let block = 0; block < SECTOR_WORDS; block += blockWords) {
      // A shorter last sector may lack this block.
      const sectors = Math.ceil((words.length - block) / SECTOR_WORDS)
      if (sectors <= 0) return
      const gathered = before.subarray(0, sectors * blockWords)
      for (let at = 0; at < gathered.length; at++) gathered[at] = (gathered[at] ?? 0) ^ (words[wordAt(at, block, blockWords)] ?? 0)
      before = asWords(this.#cipher.encrypt(asBytes(gathered)))
      for (let at = 0; at < before.length; at++) words[wordAt(at, block, blockWords)] = before[at] ?? 0
    }
  }

  decrypt(data: Uint8Array, sector: number): void {
    const blockWords = this.#blockWords
    const words = asWords(data)
    const ivs = this.#ivs.take(sector, Math.ceil(words.length / SECTOR_WORDS))
    const plain = asWords(this.#cipher.decrypt(data))
    for (let at = words.length - 1; at >= 0; at--) {
      const within = at % SECTOR_WORDS
      const before = within < blockWords ? ivs[((at - within) / SECTOR_WORDS) * blockWords + within] : words[at - blockWords]
      words[at] = (plain[at] ?? 0) ^ (before ?? 0)
    }
  }
}

/** The index in the run of word `at` of the blocks that were gathered from word `block` of each sector. */
function wordAt(at: number, block: number, blockWords: number): number {
  const within = at & (blockWords - 1)
  return ((at - within) / blockWords) * SECTOR_WORDS + block + within
}
