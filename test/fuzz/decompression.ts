/**
 * Damaged zstd frames and deflate streams through the decompressors. Whatever the input, they return or throw a `DecompressionError`, and
 * touch nothing but their output. node:zlib says of each deflate stream what it holds; the `zstd` command, of each frame that is accepted.
 */
import { spawnSync } from "node:child_process"
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { constants, deflateRawSync, inflateRawSync } from "node:zlib"
import { DecompressionError } from "../../src/backing/decompression/decompression-error.ts"
import { inflateRaw } from "../../src/backing/decompression/inflate/inflate.ts"
import { decompressZstd } from "../../src/backing/decompression/zstd/zstd.ts"
import { CONTENT_KINDS, makeContent } from "../backing/decompression/contents.ts"
import { Rng } from "../support/rng.ts"
import { goldenFrames } from "../backing/decompression/zstd-frames.ts"

/** Bytes after the output that must stay as they are. */
const GUARD = 64
/** Room for what a damaged input may grow to. */
const ROOM = 1 << 18
const output = new Uint8Array(ROOM + GUARD)

/** What a decompressor makes of an input: bytes, or why it refuses. */
type Outcome = Uint8Array | DecompressionError

function outcomeOf(decompress: (input: Uint8Array, output: Uint8Array) => number, input: Uint8Array): Outcome {
  output.fill(0xa5, ROOM)
  try {
    return output.slice(0, decompress(input, output.subarray(0, ROOM)))
  } catch (error) {
    if (!(error instanceof DecompressionError)) throw error
    return error
  } finally {
    if (output.subarray(ROOM).some((byte) => byte !== 0xa5)) throw new Error("bytes after the output were changed")
  }
}

/** Changes some bits or bytes, more often near the beginning, where the tables are; cuts off, or puts in a piece of another input. */
function damage(original: Uint8Array, other: Uint8Array, rng: Rng): Uint8Array {
  let bytes = Uint8Array.from(original)
  for (let changes = rng.between(1, 3); changes > 0 && bytes.length > 0; changes--) {
    const at = rng.below(rng.chance(0.6) ? Math.min(bytes.length, 40) : bytes.length)
    const kind = rng.below(5)
    if (kind === 0) bytes[at] = rng.below(256)
    else if (kind === 1) bytes[at] = (bytes[at] ?? 0) ^ (1 << rng.below(8))
    else if (kind === 2) bytes[at] = rng.pick([0, 1, 0x7f, 0x80, 0xff])
    else if (kind === 3) bytes = bytes.slice(0, bytes.length - rng.below(Math.min(bytes.length, 20)))
    else {
      const from = rng.below(other.length + 1)
      bytes.set(other.subarray(from, from + Math.min(rng.between(1, 30), bytes.length - at)), at)
    }
  }
  return bytes
}

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex")

export interface Counts {
  accepted: number
  refused: number
  /** Outputs that did not fit, so that no one says what they should be. */
  long: number
}

/** The deflate streams that are damaged. */
let pool: readonly Uint8Array[] | undefined

function makePool(): readonly Uint8Array[] {
  const rng = new Rng(1)
  return Array.from({ length: 100 }, () =>
    deflateRawSync(makeContent(rng.pick(CONTENT_KINDS), rng.below(rng.pick([20, 600, 5000])), rng.u32()), {
      level: rng.between(0, 9), memLevel: rng.between(1, 9),
      strategy: rng.pick([constants.Z_DEFAULT_STRATEGY, constants.Z_DEFAULT_STRATEGY, constants.Z_FIXED, constants.Z_HUFFMAN_ONLY]),
    }),
  )
}

/** One damaged deflate stream: accepted exactly where node:zlib accepts it, with the same bytes. */
export function inflateRound(rng: Rng, counts: Counts): void {
  pool ??= makePool()
  const input = damage(rng.pick(pool), rng.pick(pool), rng)
  const ours = outcomeOf(inflateRaw, input)
  let theirs: Uint8Array | string
  try {
    theirs = inflateRawSync(input, { maxOutputLength: ROOM })
  } catch (error) {
    theirs = error instanceof Error && "code" in error ? String(error.code) : String(error)
  }
  if (theirs === "ERR_BUFFER_TOO_LARGE") counts.long++
  else if (ours instanceof DecompressionError) {
    counts.refused++
    if (typeof theirs !== "string") throw new Error(`inflateRaw refuses what node:zlib accepts: ${ours.message}: ${hex(input)}`)
  } else {
    counts.accepted++
    if (typeof theirs === "string") throw new Error(`inflateRaw accepts what node:zlib refuses: ${theirs}: ${hex(input)}`)
    if (Buffer.compare(ours, theirs) !== 0) throw new Error(`inflateRaw differs from node:zlib: ${hex(input)}`)
  }
}

/** The frames that are damaged: a long one would only be damaged in its middle. */
const frames = goldenFrames.map(({ frame }) => frame).filter(({ length }) => length < 6000)

/** One damaged zstd frame. Returns it with its content when it is accepted. */
export function zstdRound(rng: Rng, counts: Counts): { input: Uint8Array; content: Uint8Array } | undefined {
  const input = damage(rng.pick(frames), rng.pick(frames), rng)
  const ours = outcomeOf(decompressZstd, input)
  if (ours instanceof DecompressionError) {
    if (/room|left/.test(ours.message)) counts.long++
    else counts.refused++
    return undefined
  }
  counts.accepted++
  return { input, content: ours }
}

/** Asks the `zstd` command about frames that were accepted: it must accept them too, with the same bytes. */
export function askZstd(accepted: readonly { input: Uint8Array; content: Uint8Array }[], directory: string): void {
  const target = join(directory, "out")
  mkdirSync(target, { recursive: true })
  const names = accepted.map(({ input }, index) => {
    writeFileSync(join(directory, `${index}.zst`), input)
    return join(directory, `${index}.zst`)
  })
  spawnSync("zstd", ["-d", "-q", "-f", "--output-dir-flat", target, ...names], { stdio: "ignore" })
  accepted.forEach(({ input, content }, index) => {
    const path = join(target, String(index))
    if (!existsSync(path)) throw new Error(`decompressZstd accepts what zstd refuses: ${hex(input)}`)
    if (Buffer.compare(readFileSync(path), content) !== 0) throw new Error(`decompressZstd differs from zstd: ${hex(input)}`)
    rmSync(path)
  })
}
