/** commitImage: `commit` for images of this host, by path. */
import { checkCount, checkOptions, checkValue, type Rules } from "../../options.ts"
import { BackingError } from "../backing.ts"
import { backingPath } from "../host/backing-path.ts"
import { openLayers, type OpenImageOptions } from "../open.ts"
import { Qcow2Image } from "../qcow2/image.ts"
import { layersOf } from "../qcow2/layers/layer-run.ts"
import { RawBacking } from "../raw.ts"
import { commitLayers } from "./commit.ts"
import { findLayer } from "./layer-steps.ts"
import { Operation, OPERATION_RULES, type OperationOptions } from "./operation.ts"

/** Options of opening images for `commitImage` and `rebaseImage`. */
export interface OpeningOptions extends Pick<OpenImageOptions, "probeBackingFormat" | "resolveBacking" | "passphrase"> {}

export const OPENING_RULES: Rules<OpeningOptions> = { probeBackingFormat: "boolean?", resolveBacking: "function?", passphrase: "any?" }

/** Options of `commitImage`. */
export interface CommitImageOptions extends OperationOptions, OpeningOptions {
  /**
   * The image of the chain to write to: its path, or its name in the image above it. Default: the next one. The content of images between
   * it and the first one changes.
   */
  readonly base?: string
  /**
   * Do not empty the image. Must be true for a base that is not the next image. Default: true if `base` is given, otherwise false.
   */
  readonly keep?: boolean
  /** Maximum of bytes copied a second. Default: no limit. */
  readonly rate?: number
}

const COMMIT_RULES: Rules<CommitImageOptions> = { ...OPERATION_RULES, ...OPENING_RULES, base: "string?", keep: "boolean?", rate: "number?" }

/**
 * Writes the data of a qcow2 image into its backing file, or into one further down the chain, and empties the image. A smaller base grows.
 * Internal snapshots of both keep their content: data that a snapshot of the image reads from a backing file is first copied into the
 * image. Nothing is changed before the whole chain has been checked and locked. If it is stopped or fails, the image keeps its data: commit
 * again.
 * @throws BackingError (as a rejection) errors of `openImage`; `invalid-argument` without a backing file, or for a `base` that is not in
 * the chain; `no-space`, `io`. The signal's reason.
 * @throws TypeError for wrong arguments
 */
export async function commitImage(path: string, options: CommitImageOptions = {}): Promise<void> {
  checkValue("commitImage", "path", path, "string")
  checkOptions("commitImage", options, COMMIT_RULES)
  checkCount("commitImage", "rate", options.rate, 1)
  new Operation(0, options).throwIfStopped()
  const { base, keep = base !== undefined } = options
  const opening = { format: "qcow2" as const, ...openingOf(options) }
  const writableLayer = findBase(path, base, opening)
  const top = openLayers(path, opening, { writableLayer })
  try {
    const layer = top instanceof Qcow2Image ? [...layersOf(top)][writableLayer] : undefined
    // The image's chain has changed since `findBase`.
    if (!(top instanceof Qcow2Image) || !(layer instanceof Qcow2Image || layer instanceof RawBacking)) throw noBase(path)
    await commitLayers(top, layer, { ...options, keep })
  } catch (error) {
    closeAfter(top)
    throw error
  }
  top.close()
}

/** The layer of the base, found by a read-only opening. */
function findBase(path: string, base: string | undefined, opening: OpenImageOptions): number {
  const image = openLayers(path, { ...opening, readOnly: true })
  try {
    if (!(image instanceof Qcow2Image) || image.backing === undefined) throw noBase(path)
    if (base === undefined) return 1
    return [...layersOf(image)].indexOf(findLayer(image, base, pathOf))
  } finally {
    image.close()
  }
}

function noBase(path: string): BackingError {
  return new BackingError("invalid-argument", "it has no backing file to commit to", { path })
}

/** A name on the command line is relative to the current directory. */
function pathOf(_: Qcow2Image, name: string): string {
  return backingPath({ name, format: undefined, imagePath: "./" })
}

export function openingOf({ probeBackingFormat, resolveBacking, passphrase }: OpeningOptions): OpeningOptions {
  return {
    ...(probeBackingFormat === undefined ? {} : { probeBackingFormat }),
    ...(resolveBacking === undefined ? {} : { resolveBacking }),
    ...(passphrase === undefined ? {} : { passphrase }),
  }
}

/** Closes after an error, and ignores errors of closing, so that the first one is reported. */
export function closeAfter(image: { close(): void }): void {
  try {
    image.close()
  } catch (error) {
    if (!(error instanceof BackingError)) throw error
  }
}
