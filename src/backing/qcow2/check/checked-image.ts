/** CheckedImage: the header of an image to check, read leniently, so that damaged images can be checked too. */
import { BackingError } from "../../backing.ts"
import type { ImageFile } from "../../image-file.ts"
import { type BitmapDirectoryPlace, bitmapDirectoryPlace } from "../format/bitmaps.ts"
import { featureName } from "../format/extensions.ts"
import type { Geometry } from "../format/geometry.ts"
import { encryptionArea, hasFeature, headerGeometry, type Qcow2Header } from "../format/header.ts"
import { readHeader } from "../format/parse-header.ts"
import { HEADER_FIELD, INCOMPATIBLE_BIT } from "../format/spec.ts"

/** A run of bytes in the image file. */
export interface FileRange {
  readonly offset: number
  readonly length: number
}

export interface CheckedImage {
  readonly file: ImageFile
  /** Bytes in the file when the check began. */
  readonly fileSize: number
  readonly header: Qcow2Header
  readonly geometry: Geometry
  /** The bitmap directory, if the autoclear bit says that it is valid (QC-BMP-02). */
  readonly bitmaps: BitmapDirectoryPlace | undefined
  readonly encryptionHeader: FileRange | undefined
}

/** Incompatible features that do not change how references are counted, or that the check knows. */
const CHECKABLE: ReadonlySet<number> = new Set([
  INCOMPATIBLE_BIT.DIRTY, INCOMPATIBLE_BIT.CORRUPT, INCOMPATIBLE_BIT.EXTERNAL_DATA_FILE, INCOMPATIBLE_BIT.COMPRESSION_TYPE,
  INCOMPATIBLE_BIT.EXTENDED_L2,
])

/** Reads the header. @throws BackingError if the file is not a qcow2 image, or has a feature that the check does not know */
export function readCheckedImage(file: ImageFile): CheckedImage {
  const header = readHeader(file, { anySnapshotCount: true })
  for (let bit = 0; bit < 64; bit++) {
    if (!hasFeature(header.incompatibleFeatures, bit) || CHECKABLE.has(bit)) continue
    const name = featureName(header.extensions, "incompatible", bit)
    throw new BackingError(
      "unsupported",
      `cannot check an image with incompatible feature bit ${bit}${name === undefined ? "" : ` ("${name}")`} ` +
        `at byte ${HEADER_FIELD.INCOMPATIBLE_FEATURES}`,
      { path: file.path, offset: HEADER_FIELD.INCOMPATIBLE_FEATURES },
    )
  }
  return {
    file,
    fileSize: file.size(),
    header,
    geometry: headerGeometry(header),
    bitmaps: bitmapDirectoryPlace(header),
    encryptionHeader: encryptionArea(header),
  }
}
