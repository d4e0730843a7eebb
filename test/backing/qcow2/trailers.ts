/** Images with a trailer, and what changes them, for the tests of trailers. */
import { expect } from "vitest"
import { checkQcow2 } from "../../../src/backing/qcow2/check/check.ts"
import type { Qcow2Image } from "../../../src/backing/qcow2/image.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { filled, newImage, withImage } from "./small-images.ts"

/** A trailer of gondolin's kind: text, a mark, and how long it is. */
export function trailer(length: number): Uint8Array {
  const bytes = Uint8Array.from({ length }, (_, at) => 33 + ((at * 7 + (at >>> 8)) % 90))
  bytes.set(new TextEncoder().encode("GONDCPT1"), length - 16)
  return bytes
}

export function append(file: MemoryFile, bytes: Uint8Array): void {
  file.write(bytes, file.size())
}

/** The file ends with exactly these bytes, and the image before them is sound. */
export function expectTrailer(file: MemoryFile, bytes: Uint8Array): void {
  expect(Buffer.compare(file.toBytes().subarray(-bytes.length), bytes)).toBe(0)
  expect(checkQcow2(file.clone({ readOnly: true }))).toMatchObject({ corruptions: 0, leaks: 0, findings: [] })
}

export const SIZE = 1 << 20

/** What changes an image. All of it may be done to an image that has 0x11 in its first 100,000 bytes. */
export const works: readonly (readonly [string, (disk: Qcow2Image) => void])[] = [
  ["a write in place", (disk) => disk.pwrite(filled(5000, 2), 5000)],
  ["new clusters", (disk) => disk.pwrite(filled(400_000, 3), 300_000)],
  ["a snapshot", (disk) => void disk.snapshots.create({ name: "one" })],
  ["a snapshot, and writes", (disk) => {
    disk.snapshots.create({ name: "one" })
    disk.pwrite(filled(90_000, 4), 0)
  }],
  ["growing with preallocation", (disk) => disk.resize(disk.size + SIZE, { preallocation: "full" })],
  ["growing", (disk) => disk.resize(SIZE * 64)],
  ["a discard", (disk) => disk.discard(0, 100_000)],
  ["a discard, and writes", (disk) => {
    disk.discard(0, SIZE)
    disk.flush()
    disk.pwrite(filled(SIZE, 5), 0)
  }],
  ["a bitmap", (disk) => disk.bitmaps.add("changed")],
  ["compressed clusters", (disk) => disk.writeCompressed(filled(disk.geometry.clusterSize * 3, 6), disk.geometry.clusterSize * 300)],
]

/** An image with data in its first 100,000 bytes, and the trailer behind it. */
export function imageWith(bytes: Uint8Array, clusterSize: number): MemoryFile {
  const file = newImage({ size: clusterSize === 65536 ? SIZE * 32 : SIZE * 2, clusterSize })
  withImage(file, (disk) => disk.pwrite(filled(100_000, 0x11), 0))
  append(file, bytes)
  return file
}
