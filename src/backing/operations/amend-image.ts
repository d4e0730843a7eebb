/** amendImage: changes options of an existing qcow2 image, like `qemu-img amend`. */
import { checkOptions, checkValue, type Rules } from "../../options.ts"
import { BackingError } from "../backing.ts"
import type { PassphraseOption } from "../luks/passphrase.ts"
import { openImage } from "../open.ts"
import { amendedHeader, type Amendments, asVersion2, refuseSnapshotsOfVersion3 } from "../qcow2/amend/amended-header.ts"
import { expandZeroes } from "../qcow2/amend/expand-zeroes.ts"
import { examine } from "../qcow2/check/examination.ts"
import { changeRefcountWidth } from "../qcow2/check/rebuild-refcounts.ts"
import { repairQcow2 } from "../qcow2/check/repair.ts"
import { hasFeature, type Qcow2Header } from "../qcow2/format/header.ts"
import { readSnapshotTable } from "../qcow2/format/snapshot-table.ts"
import { readHeader } from "../qcow2/format/parse-header.ts"
import { INCOMPATIBLE_BIT } from "../qcow2/format/spec.ts"
import { Qcow2Image } from "../qcow2/image.ts"
import { HeaderStore } from "../qcow2/metadata/header-store.ts"
import type { ImageFile } from "../image-file.ts"
import { withLockedHeader } from "./locked-header.ts"

/** Options of `amendImage`. */
export interface AmendImageOptions extends Amendments {
  /** Bytes of the disk, not less than before. */
  readonly size?: number
  /** Opens encrypted images. Only `size`, and `compat` "0.10", need it. */
  readonly passphrase?: PassphraseOption
}

const AMEND_RULES: Rules<AmendImageOptions> = {
  compat: ["0.10", "1.1"], lazyRefcounts: "boolean?", refcountBits: "number?", backing: "string?", backingFormat: ["raw", "qcow2", "luks"],
  dataFile: "string?", dataFileRaw: "boolean?", size: "number?",
  passphrase: "any?",
}

/**
 * Changes options of the image at `path`; the others stay, and so do unknown header extensions. One write of the header makes each change
 * take effect: a crash leaves the image as before or after it, with leaked clusters at worst.
 * @throws BackingError errors of opening the image; `invalid-argument` for options that contradict each other or the image; `unsupported`
 * for features that version 2 lacks; `no-space`. If possible, errors are found before anything is changed.
 * @throws TypeError for a wrong argument
 */
export function amendImage(path: string, options: AmendImageOptions): void {
  checkValue("amendImage", "path", path, "string")
  checkOptions("amendImage", options, AMEND_RULES)
  const { compat, refcountBits, size, passphrase } = options
  const before = withLockedHeader(path, (file, header) => amendHeader(file, header, options))
  const falls = compat === "0.10" && before.version === 3
  if (falls || size !== undefined) changeDisk(path, { size, falls, passphrase })
  if (refcountBits !== undefined && refcountBits !== 2 ** before.refcountOrder) {
    withLockedHeader(path, (file) => amendRefcounts(file, refcountBits))
  }
  if (falls) withLockedHeader(path, (file, header) => new HeaderStore(file, header).rewrite(asVersion2(header)))
}

/** Returns the old header. */
function amendHeader(file: ImageFile, header: Qcow2Header, options: AmendImageOptions): Qcow2Header {
  const { size = header.size } = options
  if (size < header.size) {
    const message = `${size} bytes are less than the ${header.size} that the disk has; use resize to shrink it`
    throw new BackingError("invalid-argument", message, { path: file.path })
  }
  amendedHeader(header, options, file.path)
  if (options.compat === "0.10") refuseSnapshotsOfVersion3(readSnapshotTable(file, header).snapshots, size, file.path)
  // Outdated refcounts are repaired before anybody relies on them.
  if (hasFeature(header.incompatibleFeatures, INCOMPATIBLE_BIT.DIRTY)) repairQcow2(file, "all")
  const store = new HeaderStore(file, readHeader(file))
  store.clearAutoclear()
  store.rewrite(amendedHeader(store.header, options, file.path))
  return header
}

interface DiskChange {
  readonly size: number | undefined
  /** To version 2. */
  readonly falls: boolean
  readonly passphrase: PassphraseOption | undefined
}

function changeDisk(path: string, { size, falls, passphrase }: DiskChange): void {
  const image = openImage(path, { format: "qcow2", ...(passphrase !== undefined && { passphrase }) })
  try {
    if (!(image instanceof Qcow2Image)) throw new BackingError("invalid-format", "it is not a qcow2 image", { path })
    if (size !== undefined && size !== image.size) image.resize(size)
    if (falls) {
      expandZeroes(image)
      const hasBacking = image.backing !== undefined
      for (let isDone = false; !isDone;) isDone = image.snapshots.expandZeroes({ hasBacking })
    }
  } finally {
    image.close()
  }
}

function amendRefcounts(file: ImageFile, bits: number): void {
  const found = examine(file)
  if (found.findings.corruptions > 0) {
    throw new BackingError("corrupt", "the image is not consistent; check and repair it first", { path: file.path })
  }
  changeRefcountWidth(found, Math.log2(bits))
}
