/** Disk images for the guests: made and checked by QEMU's tools, opened through our backings. */
import { createHash } from "node:crypto"
import { closeSync, openSync, readSync, writeSync } from "node:fs"
import { openImage } from "../../src/backing/open.ts"
import { run } from "./cache.ts"
import { same } from "./suite.ts"

export type DiskKind = "raw" | "qcow2" | "overlay"

const MIB = 1 << 20

/** Pseudo-random bytes; `seed` picks the sequence. */
export function pattern(length: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(length)
  let state = seed >>> 0 || 1
  for (let i = 0; i < length; i++) {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    bytes[i] = state
  }
  return bytes
}

export function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex")
}

/**
 * Makes an image of `content` at `path`. Clusters of zeroes are not allocated in qcow2; an overlay is empty, over a qcow2 image with the
 * content. Returns the format to open it with.
 */
export function makeImage(path: string, kind: DiskKind, content: Uint8Array): "raw" | "qcow2" {
  const raw = kind === "raw" ? path : `${path}.content`
  writeSparse(raw, content)
  if (kind === "raw") return "raw"
  const qcow2 = kind === "overlay" ? `${path}.base` : path
  run("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", raw, qcow2])
  if (kind === "overlay") run("qemu-img", ["create", "-q", "-f", "qcow2", "-b", qcow2, "-F", "qcow2", path])
  return "qcow2"
}

/** Makes an empty image of `size` bytes. */
export function emptyImage(path: string, format: "raw" | "qcow2", size: number): void {
  run("qemu-img", ["create", "-q", "-f", format, path, String(size)])
}

export function open(path: string, format: "raw" | "qcow2"): ReturnType<typeof openImage> {
  return openImage(path, { format })
}

/** @throws Error unless `qemu-img check` finds nothing, not even leaks */
export function checkClean(path: string): void {
  run("qemu-img", ["check", "-q", "-f", "qcow2", path])
}

/** What the image holds, as QEMU reads it. */
export function contentOf(path: string, format: "raw" | "qcow2"): Uint8Array {
  const raw = `${path}.read-back`
  run("qemu-img", ["convert", "-f", format, "-O", "raw", path, raw])
  const size = Number(
    (JSON.parse(run("qemu-img", ["info", "--output=json", "-f", "raw", raw])) as { "virtual-size": number })["virtual-size"],
  )
  const bytes = new Uint8Array(size)
  const file = openSync(raw, "r")
  for (let at = 0; at < size; ) {
    const count = readSync(file, bytes, at, Math.min(64 * MIB, size - at), at)
    same(count > 0, true, `${raw}: bytes at ${at}`)
    at += count
  }
  closeSync(file)
  return bytes
}

/** @throws Error with the first difference, unless both disks hold the same */
export function compare(actual: Uint8Array, expected: Uint8Array, what: string): void {
  same(actual.length, expected.length, `${what}: size in bytes`)
  if (Buffer.compare(actual, expected) === 0) return
  const at = actual.findIndex((byte, index) => byte !== expected[index])
  throw new Error(`${what}: byte ${at} (sector ${Math.floor(at / 512)}) is ${actual[at]}, should be ${expected[at]}`)
}

function writeSparse(path: string, content: Uint8Array): void {
  run("qemu-img", ["create", "-q", "-f", "raw", path, String(content.length)])
  const file = openSync(path, "r+")
  for (let at = 0; at < content.length; at += MIB) {
    const piece = content.subarray(at, at + MIB)
    if (piece.some((byte) => byte !== 0)) writeSync(file, piece, 0, piece.length, at)
  }
  closeSync(file)
}
