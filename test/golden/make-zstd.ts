/** Makes the frames in zstd/ with Debian's `zstd`: `npx tsx test/golden/make-zstd.ts`. The list says what each frame is for. */
import { execFileSync } from "node:child_process"
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { type ContentKind, makeContent } from "../backing/decompression/contents.ts"

interface Wanted {
  readonly name: string
  readonly kind: ContentKind
  readonly size: number
  readonly options: string
}

const WANTED: readonly Wanted[] = [
  { name: "empty", kind: "text", size: 0, options: "-3" },
  { name: "one-byte", kind: "text", size: 1, options: "-3 --check" },
  { name: "tiny-text", kind: "text", size: 200, options: "-19 --check" },
  { name: "literals-one-stream", kind: "skewed", size: 700, options: "-3 --check" },
  { name: "literals-four-streams", kind: "skewed", size: 5000, options: "-3 --check" },
  { name: "literals-raw", kind: "records", size: 3000, options: "--fast=3 --no-compress-literals --check" },
  { name: "cluster-text-1", kind: "text", size: 4096, options: "-1 --no-check" },
  { name: "cluster-text-19", kind: "text", size: 65536, options: "-19 --no-check" },
  { name: "cluster-records-3", kind: "records", size: 65536, options: "-3 --no-check" },
  { name: "cluster-zeroes", kind: "zeroes", size: 2 << 20, options: "-3 --check" },
  { name: "cluster-random", kind: "random", size: 4096, options: "-3 --check" },
  { name: "runs-ultra", kind: "runs", size: 20_000, options: "--ultra -22 --check" },
  { name: "blocks-text", kind: "text", size: 140_000, options: "-5 --check" },
  { name: "blocks-small-window", kind: "text", size: 20_000, options: "-12 --check --zstd=wlog=10" },
  { name: "blocks-records-fast", kind: "records", size: 20_000, options: "--fast=10 --check --zstd=wlog=10" },
  { name: "no-content-size", kind: "text", size: 3000, options: "-3 --check --no-content-size" },
]

const frames = WANTED.map(({ name, kind, size, options }, index) => {
  const content = makeContent(kind, size, index + 1)
  const frame = execFileSync("zstd", ["-q", "-c", ...options.split(" ")], { input: content })
  writeFileSync(join(import.meta.dirname, "zstd", `${name}.zst`), frame)
  return { name, kind, size, seed: index + 1, options }
})
const lines = frames.map((frame) => `  ${JSON.stringify(frame)}`).join(",\n")
writeFileSync(join(import.meta.dirname, "zstd", "frames.json"), `[\n${lines}\n]\n`)
