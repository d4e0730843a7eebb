/** An image and its external data file, if it has one, as a power cut at any point of their common log may have left them. */
import type { ImageFile } from "../../src/backing/image-file.ts"
import type { OpeningOptions } from "../../src/backing/qcow2/open.ts"
import type { MemoryFile } from "../support/memory-file.ts"
import { applyChange, crashedFile, type FileChange, RecordingFile } from "../support/recording-file.ts"
import type { Rng } from "../support/rng.ts"

export interface CrashedFiles {
  readonly file: MemoryFile
  /** The external data file. */
  readonly data: MemoryFile | undefined
}

/** A crash, and after how many changes of the log it came. */
export interface Crash extends CrashedFiles {
  readonly length: number
  /** For messages. */
  readonly where: string
}

export interface CrashStart {
  readonly base: MemoryFile
  /** The external data file of the image in `base`. */
  readonly data?: MemoryFile
  readonly rng: Rng
  /** Of all crash points, try this share. Default 1. */
  readonly share?: number
}

/** The data file's name in the log. */
const DATA = "data"

/** The files, recorded into one log. */
export function recordFiles({ base, data }: CrashStart): { readonly file: RecordingFile; readonly data: RecordingFile | undefined } {
  const file = new RecordingFile(base.clone())
  return { file, data: data && new RecordingFile(data.clone(), { log: file.log, to: DATA }) }
}

/** A recorder for an image that is opened again: closing it closes nothing. */
export class Reopened extends RecordingFile {
  override close(): void {}
}

/** `options` for an image whose data is in `data`. */
export function withData(options: OpeningOptions, data: ImageFile | undefined): OpeningOptions {
  return data === undefined ? options : { ...options, openDataFile: () => data }
}

/** Each file keeps its own order of syncs. */
function inPart(log: readonly FileChange[], length: number, { base, data, rng }: CrashStart): CrashedFiles {
  const of = (to: string | undefined): FileChange[] => log.slice(0, length).filter((change) => change.to === to)
  const image = of(undefined)
  const changes = of(DATA)
  return { file: crashedFile(base, image, image.length, rng), data: data && crashedFile(data, changes, changes.length, rng) }
}

/** Where the switch of the header begins: between its write and its sync the old tables and the new ones must both be whole. */
const SIZE_FIELD = 24
const TRIES_AT_SWITCH = 6

/** Crashes after each change of `log`, some of them: with all changes up to there, and with those that were not synced in part. */
export function* crashesOf(log: readonly FileChange[], start: CrashStart): Generator<Crash> {
  const { base, data, rng, share = 1 } = start
  const prefix: CrashedFiles = { file: base.clone(), data: data?.clone() }
  for (let length = 0; length <= log.length; length++) {
    const where = `cut after ${length} of ${log.length} changes`
    if (rng.chance(share)) {
      yield { file: prefix.file.clone(), data: prefix.data?.clone(), length, where: `${where}, in order` }
    }
    const last = log[length - 1]
    const isSwitch = last?.to === undefined && last?.kind === "write" && last.offset === SIZE_FIELD
    for (let tries = isSwitch ? TRIES_AT_SWITCH : rng.chance(share) ? 1 : 0; tries > 0; tries--) {
      yield { ...inPart(log, length, start), length, where: `${where}, the unsynced ones in part` }
    }
    const change = log[length]
    const file = change?.to === DATA ? prefix.data : prefix.file
    if (change !== undefined && file !== undefined) applyChange(file, change)
  }
}

/** What counts from so many changes of the log on. */
export interface Since {
  readonly from: number
  /** What was under way, for messages. */
  readonly doing: string
}

/**
 * Tries crashes after each change of `log`, each with the one of `stages` that counts for it. Returns how many.
 * @throws what `tryPoint` throws, with the crash point in its message
 */
export function tryCrashes<Stage extends Since>(
  log: readonly FileChange[], stages: readonly Stage[], start: CrashStart, tryPoint: (crash: Crash, stage: Stage) => void,
): number {
  let points = 0
  let at = 0
  for (const crash of crashesOf(log, start)) {
    points++
    while ((stages[at + 1]?.from ?? Infinity) <= crash.length) at++
    const stage = stages[at]
    if (stage === undefined) throw new Error("there is no stage")
    try {
      tryPoint(crash, stage)
    } catch (error) {
      if (error instanceof Error) error.message = `${crash.where}, during ${stage.doing}: ${error.message}`
      throw error
    }
  }
  return points
}
