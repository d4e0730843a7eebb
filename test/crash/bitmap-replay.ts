/**
 * Power cuts while an image with persistent bitmaps is open, of every kind that can have them: what says that it is consistent knows of
 * every change on the disk.
 */
import { checkQcow2 } from "../../src/backing/qcow2/check/check.ts"
import type { OpeningOptions } from "../../src/backing/qcow2/open.ts"
import { openInMemory } from "../support/images.ts"
import { MemoryFile } from "../support/memory-file.ts"
import type { Rng } from "../support/rng.ts"
import { makeShape, type Qcow2Shape } from "../support/shapes.ts"
import { type Crash, crashesOf, type CrashStart, recordFiles, Reopened, withData } from "./crashed-files.ts"

const SIZE = 256 << 10
const UNIT = 4096

interface BitmapStart extends CrashStart {
  readonly options: OpeningOptions
}

/** An image whose disk is all ones where bitmap "first" says so. */
function start(shape: Qcow2Shape, rng: Rng, share: number): BitmapStart {
  const { file, opening } = makeShape(shape, SIZE)
  const data = opening.openDataFile?.({ name: "data", format: undefined, imagePath: "" })
  const image = openInMemory(file, withData(opening, data))
  // What a backing image has, a change cannot be told from.
  image.writeZeroes(0, SIZE, true)
  image.bitmaps.add("first", { granularity: UNIT })
  image.bitmaps.add("second", { granularity: 512, isEnabled: false })
  image.pwrite(new Uint8Array(2 * UNIT).fill(1), 5 * UNIT)
  image.close()
  return { base: file.clone(), ...(data instanceof MemoryFile ? { data: data.clone() } : {}), rng, share, options: opening }
}

/** Runs one round. Returns the points tried. @throws Error that names the crash point */
export function bitmapCrashRound(shape: Qcow2Shape, rng: Rng, share: number): number {
  const round = start(shape, rng, share)
  const files = recordFiles(round)
  // Refcounts of 1 bit count no snapshot's references, nor does anybody count those to a data file.
  const canKeep = shape.options.refcountBits !== 1 && files.data === undefined
  for (let turn = 0; turn < 3; turn++) {
    const data = files.data && new Reopened(files.data)
    const image = openInMemory(new Reopened(files.file), withData(round.options, data))
    for (let count = 0; count < 6; count++) {
      const offset = rng.below(SIZE - 20_000)
      image.pwrite(new Uint8Array(1 + rng.below(20_000)).fill(2), offset)
      if (rng.chance(0.3)) image.flush()
    }
    if (turn === 0) image.bitmaps.add("third", { granularity: 512 })
    if (turn === 1) image.bitmaps.merge("second", "first")
    if (turn === 1) image.resize(SIZE + 512 * rng.below(300))
    if (turn === 1 && canKeep) image.snapshots.create({ name: "a snapshot" })
    if (turn === 2 && canKeep) image.snapshots.apply("a snapshot")
    if (turn === 2) image.bitmaps.remove("third")
    image.close()
  }
  let points = 0
  for (const crash of crashesOf(files.file.log, round)) {
    points++
    verify(crash, round.options)
  }
  return points
}

function verify({ file, data, where }: Crash, options: OpeningOptions): void {
  const found = checkQcow2(file)
  if (found.corruptions > 0) throw new Error(`${where}: ${found.findings[0]?.message}`)
  const image = openInMemory(file, withData(options, data))
  const content = new Uint8Array(image.size)
  image.pread(content, 0)
  const first = image.bitmaps.list().find(({ name }) => name === "first")
  if (first?.isConsistent === true) {
    const marked = new Uint8Array(image.size)
    for (const { offset, length } of image.bitmaps.changed("first")) marked.fill(1, offset, offset + length)
    const missed = content.findIndex((byte, at) => byte !== 0 && marked[at] === 0)
    if (missed >= 0) throw new Error(`${where}: byte ${missed} has changed, and the bitmap does not say so`)
  }
  image.pwrite(new Uint8Array(512).fill(3), 9 * UNIT)
  image.close()
  const after = checkQcow2(file.clone())
  if (after.corruptions > 0) throw new Error(`${where}, used again: ${after.findings[0]?.message}`)
}
