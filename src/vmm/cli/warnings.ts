/** What a person should know of an image before they use it. */
import { HostFile } from "../../backing/host/host-file.ts"
import { nodeDecompressor } from "../../backing/host/inflate.ts"
import { compressionWarnings } from "../../backing/qcow2/format/compression.ts"
import { readHeader } from "../../backing/qcow2/format/parse-header.ts"
import { complain } from "./output.ts"

/** Prints the warnings of an open image. */
export function printWarnings(warnings: readonly string[]): void {
  for (const warning of warnings) complain(`warning: ${warning}`)
}

/** Prints the warnings of the qcow2 image at `path`, which need not be one that can be opened. */
export function printFileWarnings(path: string): void {
  const file = new HostFile(path, { readOnly: true })
  try {
    printWarnings(compressionWarnings(readHeader(file).compressionType, nodeDecompressor, path))
  } finally {
    file.close()
  }
}
