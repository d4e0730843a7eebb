/** The image that benchmarks run on: in memory-backed storage where there is one, for a disk's noise drowns everything. */
import { closeSync, existsSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"

export const IMAGE_BYTES = 1 << 30

/** Calls `use` with the path of a raw image of 1 GiB without holes, in a folder of its own that is removed afterwards. */
export function withImage(use: (path: string, folder: string) => void): void {
  const { path, folder } = makeImage()
  try {
    use(path, folder)
  } finally {
    rmSync(folder, { recursive: true })
  }
}

/** `withImage` for work that is done later. */
export async function withImageAwaited(use: (path: string, folder: string) => Promise<void>): Promise<void> {
  const { path, folder } = makeImage()
  try {
    await use(path, folder)
  } finally {
    rmSync(folder, { recursive: true })
  }
}

function makeImage(): { readonly path: string; readonly folder: string } {
  const folder = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "vioblk-bench-"))
  const path = join(folder, "disk.raw")
  const fd = openSync(path, "w")
  const chunk = Buffer.alloc(1 << 20, "vioblk benchmark ")
  for (let offset = 0; offset < IMAGE_BYTES; offset += chunk.length) writeSync(fd, chunk, 0, chunk.length, offset)
  closeSync(fd)
  return { path, folder }
}

/** `count` offsets, multiples of `align`, for accesses of `bytes` bytes: at random (always the same ones), or one behind the other. */
export function offsets(count: number, bytes: number, order: "random" | "sequential", align = bytes): Float64Array {
  let state = 0x2545_f491
  const places = Math.floor((IMAGE_BYTES - bytes) / align) + 1
  return Float64Array.from({ length: count }, (_, index) => {
    if (order === "sequential") {
      return ((index * bytes) % (IMAGE_BYTES - bytes + 1)) - (((index * bytes) % (IMAGE_BYTES - bytes + 1)) % bytes)
    }
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * places) * align
  })
}

/**
 * `length` bytes that begin on a page of the host, as an emulator's RAM does (a WebAssembly memory): copies into them are faster.
 * Node puts a large ArrayBuffer 16 bytes behind the start of a page.
 */
export function pageAligned(length: number): Uint8Array {
  return new Uint8Array(new ArrayBuffer(length + 4096), 4080, length)
}
