/** rebaseImage: `rebase` for images of this host, by path. */
import { checkOptions, checkValue, type Rules } from "../../options.ts"
import { BackingError } from "../backing.ts"
import { backingPath } from "../host/backing-path.ts"
import { LockedFile } from "../host/image-lock.ts"
import { openLayers } from "../open.ts"
import { backingFormat } from "../qcow2/format/header.ts"
import { Qcow2Image } from "../qcow2/image.ts"
import { type BackingName, headerWithBacking } from "../qcow2/layers/change-backing.ts"
import { layersOf } from "../qcow2/layers/layer-run.ts"
import { HeaderStore } from "../qcow2/metadata/header-store.ts"
import type { BackingDisk } from "../qcow2/reader.ts"
import { RawBacking } from "../raw.ts"
import type { ImageFormat } from "../signatures.ts"
import { closeAfter, type OpeningOptions, OPENING_RULES, openingOf } from "./commit-image.ts"
import { withLockedHeader } from "./locked-header.ts"
import { Operation, OPERATION_RULES, type OperationOptions } from "./operation.ts"
import { rebaseLayers } from "./rebase.ts"

/** Options of `rebaseImage`. */
export interface RebaseImageOptions extends OperationOptions, OpeningOptions {
  /** The name of the new backing file in the image: absolute, or relative to the image's directory. Left out: none. */
  readonly backing?: string
  /** Its format; required with one. */
  readonly backingFormat?: ImageFormat
  /**
   * Only changes the name, for a file that was moved, and opens neither chain. If the content of the backing file differs, the image reads
   * differently. Default false.
   */
  readonly unsafe?: boolean
}

const REBASE_RULES: Rules<RebaseImageOptions> = {
  ...OPERATION_RULES, ...OPENING_RULES, backing: "string?", backingFormat: ["raw", "qcow2", "luks"], unsafe: "boolean?",
}

/**
 * Gives a qcow2 image another backing file, or none, so that it reads the same as before: data on which the two chains differ is first
 * copied into it, and into its internal snapshots. If it is stopped or fails, the image reads the same, with either backing file: rebase
 * again.
 * @throws BackingError (as a rejection) errors of `openImage`, for the image and for the new backing file; `invalid-argument` for a backing
 * file without a format, or a name that is too long; `no-space`, `io`. The signal's reason.
 * @throws TypeError for wrong arguments
 */
export async function rebaseImage(path: string, options: RebaseImageOptions): Promise<void> {
  checkValue("rebaseImage", "path", path, "string")
  checkOptions("rebaseImage", options, REBASE_RULES)
  new Operation(0, options).throwIfStopped()
  const reference = referenceOf(path, options)
  if (options.unsafe === true) renameBacking(path, reference)
  else await rebaseSafely(path, reference, options)
}

function referenceOf(path: string, { backing, backingFormat }: RebaseImageOptions): BackingName | undefined {
  const refuse = (message: string): BackingError => new BackingError("invalid-argument", message, { path })
  if (backing === undefined) return undefined
  if (backing === "") throw refuse("the name of the backing file is empty; leave it out for none")
  if (backingFormat === undefined) throw refuse(`the format of the backing file "${backing}" must be given`)
  return { name: backing, format: backingFormat }
}

/** Writes the header only. */
function renameBacking(path: string, reference: BackingName | undefined): void {
  withLockedHeader(path, (file, header) => {
    const store = new HeaderStore(file, header)
    const next = headerWithBacking(header, reference, path)
    store.clearAutoclear()
    store.rewrite({ ...next, autoclearFeatures: store.header.autoclearFeatures })
  })
}

async function rebaseSafely(path: string, reference: BackingName | undefined, options: RebaseImageOptions): Promise<void> {
  const image = openLayers(path, { format: "qcow2", ...openingOf(options) })
  let next: BackingDisk | undefined
  try {
    if (!(image instanceof Qcow2Image)) throw new BackingError("invalid-format", "it is not a qcow2 image", { path })
    next = reference === undefined ? undefined : openNext(image, reference, options)
    const same = next === undefined || reference === undefined ? undefined : sameLayer(image, next, reference.format)
    const old = await rebaseLayers(image, { reference, disk: next, same }, options)
    // From here on the image owns the new chain, and nobody owns the old one.
    next = old
  } catch (error) {
    closeAfter(image)
    throw error
  } finally {
    next?.close()
  }
  image.close()
}

/** The new chain, read-only. The image itself must not be in it. */
function openNext(image: Qcow2Image, { name, format }: BackingName, options: RebaseImageOptions): BackingDisk {
  const resolve = options.resolveBacking ?? backingPath
  const backing = resolve({ name, format, imagePath: image.path })
  const opening = { ...openingOf(options), format: format as ImageFormat, readOnly: true, lockReadOnly: true }
  try {
    return openLayers(backing, opening, { above: [identityOf(image.path)] })
  } catch (error) {
    if (!(error instanceof BackingError)) throw error
    throw new BackingError(error.code, `cannot open its new backing file: ${error.message}`, { path: image.path, cause: error })
  }
}

function identityOf(path: string): string {
  const file = new LockedFile(path, { readOnly: true })
  file.close()
  return file.identity
}

/** The layer of the present chain that is the same file in the same format. */
function sameLayer(image: Qcow2Image, next: BackingDisk, format: string): BackingDisk | undefined {
  if (!(next instanceof Qcow2Image || next instanceof RawBacking)) return undefined
  for (const above of layersOf(image)) {
    if (!(above instanceof Qcow2Image) || backingFormat(above.header) !== format) continue
    const { backing } = above
    if ((backing instanceof Qcow2Image || backing instanceof RawBacking) && backing.path === next.path) return backing
  }
  return undefined
}
