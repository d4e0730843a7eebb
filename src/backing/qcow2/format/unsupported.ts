/** Which valid images this program does not handle, and which it only reads: refused by name, with the file untouched. */
import { BackingError } from "../../backing.ts"
import { featureName } from "./extensions.ts"
import { hasFeature, type Qcow2Header } from "./header.ts"
import { HEADER_FIELD, INCOMPATIBLE_BIT } from "./spec.ts"

const HANDLED_INCOMPATIBLE: ReadonlySet<number> = new Set([
  INCOMPATIBLE_BIT.DIRTY, INCOMPATIBLE_BIT.CORRUPT, INCOMPATIBLE_BIT.EXTERNAL_DATA_FILE, INCOMPATIBLE_BIT.COMPRESSION_TYPE,
  INCOMPATIBLE_BIT.EXTENDED_L2,
])

/** @throws BackingError `unsupported` when the image uses what this program does not implement, reading included */
export function refuseUnsupported(header: Qcow2Header, path: string): void {
  for (let bit = 0; bit < 64; bit++) {
    if (!hasFeature(header.incompatibleFeatures, bit) || HANDLED_INCOMPATIBLE.has(bit)) continue
    const name = featureName(header.extensions, "incompatible", bit)
    const quoted = name === undefined ? "" : ` ("${name}")`
    throw new BackingError(
      "unsupported",
      `unsupported incompatible feature bit ${bit}${quoted} at byte ${HEADER_FIELD.INCOMPATIBLE_FEATURES}; ` +
        "open it with the program that wrote it",
      { path, offset: HEADER_FIELD.INCOMPATIBLE_FEATURES },
    )
  }
  if (header.refcountTableClusters === 0) {
    throw new BackingError(
      "invalid-format",
      `refcount_table_clusters at byte ${HEADER_FIELD.REFCOUNT_TABLE_CLUSTERS} is 0: the image has no refcount table; check and repair it`,
      {
        path,
        offset: HEADER_FIELD.REFCOUNT_TABLE_CLUSTERS,
      },
    )
  }
}

/**
 * @throws BackingError `corrupt` when the image is marked corrupt, which only a repair may write to (QC-FEAT-05), or has what does not go
 * with an external data file (QC-DF-04)
 */
export function refuseCorruptForWriting(header: Qcow2Header, path: string): void {
  if (hasFeature(header.incompatibleFeatures, INCOMPATIBLE_BIT.EXTERNAL_DATA_FILE) && header.snapshotCount > 0) {
    const message = `the image has an external data file and ${header.snapshotCount} internal snapshots, which do not go together; ` +
      "open it read-only"
    throw new BackingError("corrupt", message, { path, offset: HEADER_FIELD.NB_SNAPSHOTS })
  }
  if (!hasFeature(header.incompatibleFeatures, INCOMPATIBLE_BIT.CORRUPT)) return
  throw new BackingError(
    "corrupt",
    `the image is marked corrupt (byte ${HEADER_FIELD.INCOMPATIBLE_FEATURES}) and can only be opened read-only; repair it first`,
    {
      path,
      offset: HEADER_FIELD.INCOMPATIBLE_FEATURES,
    },
  )
}
