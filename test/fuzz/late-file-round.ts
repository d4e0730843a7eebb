/**
 * One round on a `PagedFile`: several callers read, write, cut, punch and sync at random while its source answers late and in pieces. A
 * read that returns must agree with a flat file at that moment, and what the source holds at each sync must be the file as it was when the
 * sync was called.
 */
import { PagedFile } from "../../src/backing/paging/paged-file.ts"
import { untilLoaded } from "../../src/backing/paging/until-loaded.ts"
import { LateFile } from "../backing/paging/late-file.ts"
import { MemoryFile } from "../support/memory-file.ts"
import { split } from "../support/random-operations.ts"
import { applyChange, RecordingFile } from "../support/recording-file.ts"
import type { Rng } from "../support/rng.ts"

const MOST_BYTES = 60_000

interface Round {
  readonly rng: Rng
  readonly file: PagedFile
  /** What the file holds, for whoever reads it now. */
  readonly model: MemoryFile
  /** The model at each sync that has something to order. */
  readonly syncs: MemoryFile[]
  isChanged: boolean
}

/** Runs one round. Returns what it did. @throws Error at the first byte that is not what it must be */
export async function lateFileRound(rng: Rng): Promise<{ readonly reads: number; readonly syncs: number }> {
  const start = MemoryFile.of(rng.bytes(rng.pick([0, 100, 4096, 40_000])))
  const stored = start.clone()
  const recorder = new RecordingFile(stored)
  const source = new LateFile(recorder, rng, { canPunch: rng.chance(0.7), ...(rng.chance(0.3) ? { preferredRead: 16_384 } : {}) })
  const pageSize = rng.pick([512, 512, 4096, 65_536])
  const file = await PagedFile.open(source, {
    pageSize, cacheSize: pageSize * rng.pick([1, 2, 8, 100]), logSize: rng.pick([1, 5000, 1 << 20]),
  })
  const round: Round = { rng, file, model: start.clone(), syncs: [], isChanged: false }
  const operations = rng.between(5, 40)
  await Promise.all(Array.from({ length: rng.between(1, 5) }, () => caller(round, operations)))
  sync(round)
  await file.stable()
  file.close()
  await file.released()
  expectEqual(stored, round.model, "the source after everything")
  checkSyncs(start, recorder, round.syncs)
  return { reads: source.counts.read, syncs: round.syncs.length }
}

async function caller(round: Round, operations: number): Promise<void> {
  for (let index = 0; index < operations; index++) {
    const roll = round.rng.below(100)
    if (roll < 10) await readInOrder(round)
    else if (roll < 50) await untilLoaded(() => readAndCompare(round))
    else if (roll < 97) await change(round)
    else {
      sync(round)
      if (round.rng.chance(0.5)) await round.file.stable()
    }
  }
}

/** As far as somebody likes, while others change the file: then pages that were passed make room for those that come. */
async function readInOrder(round: Round): Promise<void> {
  const { rng } = round
  const step = rng.pick([512, 1000, 4096, 20_000])
  const end = rng.below(MOST_BYTES)
  for (let at = rng.below(end / 4 + 1); at < end; at += step) await untilLoaded(() => compareAt(round, at, step))
}

/** One attempt: each draws another range, so that what is read is not always what was waited for. */
function readAndCompare(round: Round): void {
  const { rng } = round
  compareAt(round, rng.below(MOST_BYTES), rng.between(0, rng.pick([100, 9000, MOST_BYTES])))
}

function compareAt({ rng, file, model }: Round, offset: number, length: number): void {
  const [found, expected] = [new Uint8Array(length), new Uint8Array(length)]
  const count = rng.chance(0.5) || length === 0 ? file.read(found, offset) : file.readv(split(found, 3), offset)
  const wanted = model.read(expected, offset)
  if (count !== wanted) throw new Error(`a read of ${length} bytes at ${offset} has ${count} bytes, not ${wanted}`)
  const different = found.subarray(0, count).findIndex((byte, at) => byte !== expected[at])
  if (different >= 0) throw new Error(`byte ${offset + different} is ${found[different]}, not ${expected[different]}`)
}

async function change(round: Round): Promise<void> {
  const { rng, file, model } = round
  while (!file.hasRoom && rng.chance(0.9)) await file.room()
  const offset = rng.below(MOST_BYTES)
  const length = rng.between(1, rng.pick([100, 9000, 30_000]))
  const roll = rng.below(100)
  if (roll >= 90 && offset >= file.size()) return
  const before = round.isChanged
  round.isChanged = true
  if (roll < 80) {
    const data = rng.bytes(length)
    if (rng.chance(0.5)) file.write(data, offset)
    else file.writev(split(data, 3), offset)
    model.write(data, offset)
    data.fill(0xee)
  } else if (roll < 90) {
    file.truncate(offset)
    model.truncate(offset)
  } else {
    const inside = Math.min(length, file.size() - offset)
    if (file.punchHole?.(offset, inside) === true) model.punchHole(offset, inside)
    else round.isChanged = before
  }
}

function sync(round: Round): void {
  round.file.sync()
  if (round.isChanged) round.syncs.push(round.model.clone())
  round.isChanged = false
}

function checkSyncs(start: MemoryFile, recorder: RecordingFile, expected: readonly MemoryFile[]): void {
  const replayed = start.clone()
  let at = 0
  for (const entry of recorder.log) {
    if (entry.kind !== "sync") applyChange(replayed, entry)
    else expectEqual(replayed, expected[at++], `the source at sync ${at}`)
  }
  if (at !== expected.length) throw new Error(`the source has seen ${at} syncs, not ${expected.length}`)
}

function expectEqual(found: MemoryFile, expected: MemoryFile | undefined, what: string): void {
  const [bytes, wanted] = [found.toBytes(), expected?.toBytes() ?? new Uint8Array(0)]
  if (bytes.length !== wanted.length) throw new Error(`${what} has ${bytes.length} bytes, not ${wanted.length}`)
  const different = bytes.findIndex((byte, at) => byte !== wanted[at])
  if (different >= 0) throw new Error(`${what}: byte ${different} is ${bytes[different]}, not ${wanted[different]}`)
}
