/** What an image needs to read compressed clusters. The host supplies it, because no JavaScript runtime has it in the language. */
import { printable } from "../../backing.ts"

/** Decompresses clusters of the types in `COMPRESSION_TYPE`. [QCOW2] "Cluster mapping" */
export interface Decompressor {
  /** What this host lacks to read clusters of `compressionType`, as a clause for a message; undefined when it can read them. */
  missing(compressionType: number): string | undefined
  /**
   * The first `clusterSize` bytes that `stored` decompresses to; ignores what follows the stream.
   * @throws DecompressionError that says what is wrong with `stored`
   */
  decompress(stored: Uint8Array, clusterSize: number, compressionType: number): Uint8Array
}

/** The stored bytes are not what their compression type allows, or end too early. */
export class DecompressionError extends Error {
  override readonly name = "DecompressionError"
}

/** What a person should know when this host cannot read clusters of `compressionType`, in the image `path`: one line, or none. */
export function compressionWarnings(compressionType: number, decompressor: Decompressor | undefined, path: string): string[] {
  const missing = decompressor?.missing(compressionType)
  if (missing === undefined) return []
  const remedy = 'or convert the image with "qemu-img convert -O qcow2"'
  return [printable(`${path}: its compressed clusters cannot be read here: they are compressed with ${missing}; use that, ${remedy}`)]
}
