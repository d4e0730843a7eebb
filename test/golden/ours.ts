/** The golden images in ours/: what the manifest says of them, and copies to be opened. */
import { copyFileSync, existsSync, readFileSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { gunzipSync } from "node:zlib"

export interface OurGolden {
  readonly file: string
  readonly about: string
  readonly isEncrypted: boolean
  readonly size: number
  readonly sha256: string
  readonly snapshots: readonly { readonly name: string; readonly size: number; readonly sha256: string }[]
  readonly bitmaps: readonly {
    readonly name: string
    readonly granularity: number
    readonly changed: readonly { readonly offset: number; readonly length: number }[]
  }[]
}

const folder = join(dirname(fileURLToPath(import.meta.url)), "ours")

/** Opens those that are encrypted. */
export const GOLDEN_PASSPHRASE = "golden"

export const ourGoldens: readonly OurGolden[] = JSON.parse(readFileSync(join(folder, "manifest.json"), "utf8"))

/** Copies an image into `directory`, with its data file. Returns the path of the copy. */
export function copyOurs({ file, isEncrypted }: OurGolden, directory: string): string {
  const path = join(directory, file)
  if (isEncrypted) writeFileSync(path, gunzipSync(readFileSync(join(folder, `${file}.gz`))))
  else copyFileSync(join(folder, file), path)
  const data = file.replace(/qcow2$/, "raw")
  if (existsSync(join(folder, data))) copyFileSync(join(folder, data), join(directory, data))
  return path
}
