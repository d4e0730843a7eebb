/** The golden frames of test/golden/zstd, frames written by hand, and Debian's `zstd` as an oracle. */
import { spawnSync } from "node:child_process"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { it } from "vitest"
import { type ContentKind, makeContent } from "./contents.ts"
import { goldenDirectory } from "../../support/golden.ts"

interface Listed {
  readonly name: string
  readonly kind: ContentKind
  readonly size: number
  readonly seed: number
  readonly options: string
}

export interface GoldenFrame {
  readonly name: string
  readonly options: string
  readonly frame: Uint8Array
  readonly content: Uint8Array
}

const listed: readonly Listed[] = JSON.parse(readFileSync(join(goldenDirectory, "zstd", "frames.json"), "utf8"))

/** Frames that `zstd` made (test/golden/make-zstd.ts), and what is in them. */
export const goldenFrames: readonly GoldenFrame[] = listed.map(({ name, kind, size, seed, options }) => ({
  name, options, frame: new Uint8Array(readFileSync(join(goldenDirectory, "zstd", `${name}.zst`))), content: makeContent(kind, size, seed),
}))

/** `it` for tests that need the `zstd` command. */
export const itWithZstd = it.runIf(spawnSync("zstd", ["--version"]).status === 0 || process.env["CI"] !== undefined)

/** What the `zstd` command makes of `input` with these options. */
export function runZstd(input: Uint8Array, ...options: string[]): Uint8Array {
  const { status, stdout, stderr, error } = spawnSync("zstd", ["-q", "-c", ...options], { input, maxBuffer: 64 << 20 })
  if (error !== undefined) throw error
  if (status !== 0) throw new Error(`zstd ${options.join(" ")}: exit ${status}: ${stderr.toString()}`)
  return new Uint8Array(stdout)
}

const MAGIC = [0x28, 0xb5, 0x2f, 0xfd] as const

/** A block: `type` is 0 raw, 1 repeated, 2 compressed; `size` where it is not that of what is stored. */
export function block(type: number, stored: readonly number[], size: number = stored.length, isLast = true): number[] {
  const header = (isLast ? 1 : 0) | (type << 1) | (size << 3)
  return [header & 0xff, (header >>> 8) & 0xff, header >>> 16, ...stored]
}

/** A frame with a window of 1 KiB and without a content size. `descriptor` and what follows it may be given in its place. */
export function frame(blocks: readonly (readonly number[])[], header: readonly number[] = [0, 0]): Uint8Array {
  return Uint8Array.from([...MAGIC, ...header, ...blocks.flat()])
}

/** A frame to be skipped. */
export function skippable(content: readonly number[], last = 0): Uint8Array {
  return Uint8Array.from([0x50 | last, 0x2a, 0x4d, 0x18, content.length, 0, 0, 0, ...content])
}

/** A backward bit stream of numbers, `[value, bits]` each, in the order in which they are read. */
export function backward(numbers: readonly (readonly [value: number, bits: number])[]): number[] {
  const bits = ["1", ...numbers.map(([value, width]) => (width === 0 ? "" : value.toString(2).padStart(width, "0")))].join("")
  const padded = bits.padStart(Math.ceil(bits.length / 8) * 8, "0")
  const bytes = padded.match(/.{8}/g) ?? []
  return bytes.map((byte) => Number.parseInt(byte, 2)).reverse()
}
