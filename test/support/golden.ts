/** The golden images and what QEMU says about them. */
import { createHash } from "node:crypto"
import { cpSync, readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { dirname, join } from "node:path"

export interface GoldenImage {
  /** Relative to the directory of the golden images. */
  readonly file: string
  readonly about: string
  /** Bytes the guest sees. */
  readonly size: number
  /** The digest of all bytes that the guest sees, in hexadecimal. */
  readonly sha256: string
  readonly snapshots: readonly { readonly name: string; readonly sha256: string }[]
  /** The output of `qemu-img check --output=json`; absent counts are 0. */
  readonly check: Readonly<Record<string, number | string>>
}

export const goldenDirectory: string = join(dirname(fileURLToPath(import.meta.url)), "..", "golden")

export const goldenImages: readonly GoldenImage[] = JSON.parse(readFileSync(join(goldenDirectory, "manifest.json"), "utf8"))

/** Names of all files that a golden image may name, itself included. */
export const goldenFiles: ReadonlySet<string> = new Set([
  ...goldenImages.map(({ file }) => file), "base-short.raw", "base-long.raw", "data-file.raw",
])

export function goldenPath(file: string): string {
  return join(goldenDirectory, file)
}

export function goldenBytes(file: string): Uint8Array {
  return new Uint8Array(readFileSync(goldenPath(file)))
}

/** Copies all golden images together, so that relative names stay valid. Returns their new directory. */
export function copyGolden(directory: string): string {
  const copy = join(directory, "golden")
  cpSync(goldenDirectory, copy, { recursive: true })
  return copy
}

export function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex")
}
