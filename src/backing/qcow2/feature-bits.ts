/** The two feature words that a running image changes in its header, each by one write of 8 bytes. [QCOW2] "Header" */
import { getU64, viewOf } from "./format/bytes.ts"
import type { ClusterFile } from "./cluster-file.ts"
import type { Qcow2Header } from "./format/header.ts"
import { HEADER_FIELD, INCOMPATIBLE_BIT } from "./format/spec.ts"

/**
 * Clears all autoclear bits before anything else is written: they vouch for what this program does not keep up, bitmaps among them
 * (QC-FEAT-03, QC-BMP-03).
 */
export function clearAutoclear(file: ClusterFile, header: Qcow2Header): void {
  if (header.autoclearFeatures === 0n) return
  file.write(new Uint8Array(8), HEADER_FIELD.AUTOCLEAR_FEATURES)
  file.sync()
}

/** Sets the corrupt bit. Version 2 has none. A failure changes nothing: the caller writes no more in any case. */
export function markCorrupt(file: ClusterFile, header: Qcow2Header): void {
  if (header.version < 3) return
  try {
    const word = new Uint8Array(8)
    file.read(word, HEADER_FIELD.INCOMPATIBLE_FEATURES)
    const low = getU64(viewOf(word), 0) % 2 ** 32
    viewOf(word).setUint32(4, (low | (1 << INCOMPATIBLE_BIT.CORRUPT)) >>> 0)
    file.write(word, HEADER_FIELD.INCOMPATIBLE_FEATURES)
    file.sync()
  } catch {
    return
  }
}
