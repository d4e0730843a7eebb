/** SectorCipher encrypts and decrypts runs of sectors. The result for a sector depends only on its content, its number and the key. */

/** Bytes of a sector, which is encrypted on its own, with its own IV. */
export const SECTOR_BYTES = 512

export interface SectorCipher {
  /**
   * Encrypts `data` in place. The first sector is number `sector`. `data` has whole blocks, but the last sector may be shorter, and its
   * `byteOffset` is a multiple of 4.
   */
  encrypt(data: Uint8Array, sector: number): void
  /** The reverse of `encrypt`. */
  decrypt(data: Uint8Array, sector: number): void
}

/** The cipher of an image that is opened without its key, only to describe it: the disk cannot be read. */
export const LOCKED_CIPHER: SectorCipher = { encrypt: refuseLocked, decrypt: refuseLocked }

function refuseLocked(): never {
  throw new Error("an image that was opened without its key was read or written")
}
