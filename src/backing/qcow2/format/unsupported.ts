/** Refuses valid images that we do not support, or that we only read: by the names of their features, with the file untouched. */
import { BackingError } from "../../backing.ts"
import { featureName } from "./extensions.ts"
import { hasFeature, type Qcow2Header } from "./header.ts"
import { HEADER_FIELD, INCOMPATIBLE_BIT } from "./spec.ts"

const HANDLED_INCOMPATIBLE: ReadonlySet<number> = new Set([
  INCOMPATIBLE_BIT.DIRTY, INCOMPATIBLE_BIT.CORRUPT, INCOMPATIBLE_BIT.EXTERNAL_DATA_FILE, INCOMPATIBLE_BIT.COMPRESSION_TYPE,
  INCOMPATIBLE_BIT.EXTENDED_L2,
])

/** @throws BackingError `unsupported` if the image has features that we cannot even read */
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
 * @throws BackingError `corrupt` if the image is marked corrupt, so that only a repair may write to it (QC-FEAT-05), or if it has both an
 * external data file and internal snapshots (QC-DF-04)
 */
export function refuseCorruptForWriting(header: Qcow2Header, path: string): void {
  if (hasFeature(header.incompatibleFeatures, INCOMPATIBLE_BIT.EXTERNAL_DATA_FILE) && header.snapshotCount > 0) {
    const message = `the image has an external data file and ${header.snapshotCount} internal snapshots, which exclude each other; ` +
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
