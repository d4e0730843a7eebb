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

/** How `commitImage` and `rebaseImage` open images. */
export interface OpeningOptions extends Pick<OpenImageOptions, "probeBackingFormat" | "resolveBacking" | "passphrase"> {}

export const OPENING_RULES: Rules<OpeningOptions> = { probeBackingFormat: "boolean?", resolveBacking: "function?", passphrase: "any?" }

/** Options of `commitImage`. */
export interface CommitImageOptions extends OperationOptions, OpeningOptions {
  /**
   * The image of the chain that is written: its path, or its name in the image above it. Default: the next one. Images between it and the
   * first one do not show what they did before.
   */
  readonly base?: string
  /**
   * Leave the image as it is, in place of emptying it. It must be true for a base that lies deeper. Default: true where `base` is given,
   * otherwise false.
   */
  readonly keep?: boolean
  /** Bytes in a second that are copied at most. Default: as many as the host can. */
  readonly rate?: number
}

const COMMIT_RULES: Rules<CommitImageOptions> = { ...OPERATION_RULES, ...OPENING_RULES, base: "string?", keep: "boolean?", rate: "number?" }

/**
 * Writes what a qcow2 image holds into the image behind it, or into one further behind, and empties it. A base that is smaller grows.
 * Internal snapshots of either go on showing what they did: those of the image take over first what they read from behind it.
 * Nothing is changed before all of the chain has been found in order and nobody else has a file of it. Stopped or failed, the image holds
 * what it held: commit again.
 * @throws BackingError (as a rejection) what `openImage` throws; `invalid-argument` without a backing file, or for a `base` that is not in
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
    // Somebody has given the image another chain in between.
    if (!(top instanceof Qcow2Image) || !(layer instanceof Qcow2Image || layer instanceof RawBacking)) throw noBase(path)
    await commitLayers(top, layer, { ...options, keep })
  } catch (error) {
    closeAfter(top)
    throw error
  }
  top.close()
}

/** Which layer the base is: looked for read-only. */
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

/** After an error: what closing fails with besides is not what has to be told. */
export function closeAfter(image: { close(): void }): void {
  try {
    image.close()
  } catch (error) {
    if (!(error instanceof BackingError)) throw error
  }
}
