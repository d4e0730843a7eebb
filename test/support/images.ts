/** Opens qcow2 images in memory, with their backing files, for tests. */
import { dirname, join, normalize } from "node:path"
import { BackingError } from "../../src/backing/backing.ts"
import { RawBacking } from "../../src/backing/raw.ts"
import type { ImageFile } from "../../src/backing/image-file.ts"
import { nodeDecompressor } from "../../src/backing/host/node-decompressor.ts"
import { openQcow2 } from "../../src/backing/host/open-qcow2.ts"
import type { Qcow2Image } from "../../src/backing/qcow2/image.ts"
import { type BackingReference, type OpeningOptions, openQcow2Image } from "../../src/backing/qcow2/open.ts"
import type { BackingDisk } from "../../src/backing/qcow2/reader.ts"
import { FlatModel } from "./flat-model.ts"
import { goldenBytes, goldenFiles } from "./golden.ts"
import { MemoryFile } from "./memory-file.ts"
import { Qcow2Bytes } from "./qcow2-bytes.ts"

/** Opens the image in `file`. */
export function openInMemory(file: ImageFile, options: OpeningOptions = {}): Qcow2Image {
  const { cipher, ...others } = options
  return cipher === undefined ? openQcow2(file, others) : openQcow2Image(file, { decompressor: nodeDecompressor, ...options })
}

/** Opens a golden image over `file`, or over a copy of it in memory; its backing files are golden images too. */
export function openGolden(name: string, options: { readonly readOnly?: boolean; readonly file?: ImageFile } = {}): Qcow2Image {
  const file = options.file ?? MemoryFile.of(goldenBytes(name), { path: name, readOnly: options.readOnly ?? false })
  return openInMemory(file, { openBacking: goldenBacking(name), openDataFile: goldenData(name) })
}

/** Opens backing files of the golden image `name`, read-only. */
export function goldenBacking(name: string): (reference: BackingReference) => BackingDisk {
  return (reference) => {
    const backing = normalize(join(dirname(name), reference.name))
    // A damaged name finds nothing, as in a directory.
    if (!goldenFiles.has(backing)) throw new BackingError("not-found", "no such golden image", { path: "backing file" })
    const file = MemoryFile.of(goldenBytes(backing), { path: backing, readOnly: true })
    return reference.format === "raw" ? new RawBacking(file) : openInMemory(file, { openBacking: goldenBacking(backing) })
  }
}

/** Opens a temporary copy of the external data file of the golden image `name`. */
export function goldenData(name: string): (reference: BackingReference) => MemoryFile {
  return (reference) => {
    const data = normalize(join(dirname(name), reference.name))
    if (!goldenFiles.has(data)) throw new BackingError("not-found", "no such golden image", { path: "data file" })
    return MemoryFile.of(goldenBytes(data), { path: data })
  }
}

/** A model of the current content of a disk. */
export function modelOf(disk: { readonly size: number; pread(buffer: Uint8Array, offset: number): void }): FlatModel {
  const content = new Uint8Array(disk.size)
  disk.pread(content, 0)
  return FlatModel.of(content)
}

/** The disk of a snapshot: the image with the snapshot's L1 table in place of the active one. */
export function snapshotAsActive(bytes: Uint8Array, index: number): Uint8Array {
  const image = new Qcow2Bytes(bytes)
  let at = image.snapshotsOffset
  const u16 = (position: number): number => (image.u8(position) << 8) | image.u8(position + 1)
  for (let skip = 0; skip < index; skip++) at += Math.ceil((40 + image.u32(at + 36) + u16(at + 12) + u16(at + 14)) / 8) * 8
  return image.setU64(40, image.u64(at)).setU32(36, image.u32(at + 8)).bytes
}
