/** SectorCipher: encrypts and decrypts runs of sectors, each of which depends on its number and the key alone. */

/** What is encrypted by itself, with an IV of its own. */
export const SECTOR_BYTES = 512

export interface SectorCipher {
  /**
   * Encrypts `data` in place. It begins with sector number `sector`, at a `byteOffset` that is a multiple of 4, and has whole
   * blocks: the last sector may be shorter.
   */
  encrypt(data: Uint8Array, sector: number): void
  /** The reverse of `encrypt`. */
  decrypt(data: Uint8Array, sector: number): void
}

/** Of an image that is only described: nothing of its disk can be read. */
export const LOCKED_CIPHER: SectorCipher = { encrypt: refuseLocked, decrypt: refuseLocked }

function refuseLocked(): never {
  throw new Error("an image that was opened without its key was read or written")
}
