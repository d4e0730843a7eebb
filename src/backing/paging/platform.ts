/** Platform: what Node has and a page has not, or not that fast. */
import type { Cryptography } from "../luks/cryptography.ts"
import type { Decompressor } from "../qcow2/format/compression.ts"

/** What differs between platforms. */
export interface Platform {
  /** Undefined: ours. */
  readonly decompressor?: Decompressor
  /** Undefined: encrypted images are refused. */
  readonly cryptography?: Cryptography
}
