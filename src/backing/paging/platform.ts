/** Platform: functions that Node has and a page lacks, or has only in a slower form. */
import type { Cryptography } from "../luks/cryptography.ts"
import type { Decompressor } from "../qcow2/format/compression.ts"

/** The functions that differ between platforms. */
export interface Platform {
  /** Default: the decoders of this package. */
  readonly decompressor?: Decompressor
  /** Undefined: encrypted images are refused. */
  readonly cryptography?: Cryptography
}
