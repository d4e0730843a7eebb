/** Fresh qcow2 images of many shapes, made in memory by our own `createQcow2`, empty or over a backing image. */
import type { Cryptography } from "../../src/backing/luks/cryptography.ts"
import type { LuksOptions } from "../../src/backing/luks/new-volume.ts"
import { RawBacking } from "../../src/backing/raw.ts"
import { nodeCryptography } from "../../src/backing/host/node-cryptography.ts"
import { createQcow2, type CreateQcow2Options } from "../../src/backing/qcow2/create.ts"
import { unlockImage } from "../../src/backing/qcow2/encryption.ts"
import { readHeader } from "../../src/backing/qcow2/format/parse-header.ts"
import type { OpeningOptions } from "../../src/backing/qcow2/open.ts"
import type { BackingDisk } from "../../src/backing/qcow2/reader.ts"
import { FlatModel } from "./flat-model.ts"
import { openInMemory } from "./images.ts"
import { MemoryFile } from "./memory-file.ts"
import { Rng } from "./rng.ts"

export interface Qcow2Shape {
  readonly name: string
  readonly options: Omit<CreateQcow2Options, "size" | "backing" | "backingFormat">
  /** The backing image's size, as a share of the disk's, and its format. Its content is random. */
  readonly backing?: { readonly share: number; readonly format: "raw" | "qcow2" }
  /** Encrypted by QEMU's old AES, which we use only in images that have it already. */
  readonly hasOldAes?: boolean
}

/** Opens every encrypted shape. */
export const PASSPHRASE = "a passphrase of the tests"

/** A short key, so that its material is short, and the fewest iterations. */
export const ENCRYPTION: LuksOptions = { passphrase: PASSPHRASE, cipher: "aes-128", iterTime: 1 }
/** Does not measure how fast this host is. */
export const quickCryptography: Cryptography = { ...nodeCryptography, countIterations: () => 1 }

export const qcow2Shapes: readonly Qcow2Shape[] = [
  { name: "qcow2 as by default", options: {} },
  { name: "qcow2 version 2", options: { compat: "0.10" } },
  { name: "qcow2 with 512-byte clusters", options: { clusterSize: 512 } },
  { name: "qcow2 with 512-byte clusters and 64-bit refcounts", options: { clusterSize: 512, refcountBits: 64 } },
  { name: "qcow2 with 512-byte clusters and 1-bit refcounts", options: { clusterSize: 512, refcountBits: 1 } },
  { name: "qcow2 with 4 KiB clusters and 4-bit refcounts", options: { clusterSize: 4096, refcountBits: 4 } },
  { name: "qcow2 with 2 MiB clusters", options: { clusterSize: 2 << 20 } },
  { name: "qcow2 with metadata preallocated", options: { clusterSize: 1024, preallocation: "metadata" } },
  { name: "qcow2 with lazy refcounts", options: { clusterSize: 512, lazyRefcounts: true } },
  { name: "qcow2 with an external data file", options: { clusterSize: 1024, dataFile: "data" } },
  { name: "qcow2 with a raw external data file", options: { clusterSize: 4096, dataFile: "data", dataFileRaw: true } },
  {
    name: "qcow2 with an external data file over a shorter raw image",
    options: { clusterSize: 512, dataFile: "data" },
    backing: { share: 0.57, format: "raw" },
  },
  { name: "qcow2 over a raw image", options: { clusterSize: 4096 }, backing: { share: 1, format: "raw" } },
  { name: "qcow2 over a shorter raw image", options: { clusterSize: 4096 }, backing: { share: 0.37, format: "raw" } },
  { name: "qcow2 over a longer qcow2 image", options: { clusterSize: 512 }, backing: { share: 2, format: "qcow2" } },
  {
    name: "qcow2 version 2 over a shorter qcow2 image",
    options: { clusterSize: 2048, compat: "0.10" },
    backing: { share: 0.61, format: "qcow2" },
  },
  { name: "qcow2 with extended L2 entries", options: { clusterSize: 16384, extendedL2: true } },
  {
    name: "qcow2 with extended L2 entries over a shorter raw image",
    options: { clusterSize: 16384, extendedL2: true },
    backing: { share: 0.61, format: "raw" },
  },
  {
    name: "qcow2 with extended L2 entries and an external data file, over a shorter raw image",
    options: { clusterSize: 16384, extendedL2: true, dataFile: "data" },
    backing: { share: 0.43, format: "raw" },
  },
  {
    name: "qcow2 with extended L2 entries and metadata preallocated, over a qcow2 image",
    options: { clusterSize: 16384, extendedL2: true, preallocation: "metadata" },
    backing: { share: 1, format: "qcow2" },
  },
  { name: "qcow2 with LUKS", options: { clusterSize: 4096, encryption: ENCRYPTION } },
  { name: "qcow2 with LUKS, extended L2 entries and a data file, over a shorter raw image",
    options: { clusterSize: 16384, extendedL2: true, dataFile: "data", encryption: { ...ENCRYPTION, mode: "cbc" } },
    backing: { share: 0.61, format: "raw" } },
  { name: "qcow2 with LUKS and metadata preallocated", options: { clusterSize: 2048, preallocation: "metadata", encryption: ENCRYPTION } },
  { name: "qcow2 with the old AES", options: { clusterSize: 512 }, hasOldAes: true },
]

export interface MadeImage {
  readonly file: MemoryFile
  /** The content of the fresh disk. */
  readonly model: FlatModel
  /** For `openQcow2`; each call opens the backing image again. */
  readonly openBacking?: () => BackingDisk
  /** For `openQcow2`; each call opens the same data file again, with all written data. */
  readonly openDataFile?: () => MemoryFile
  /** The options of `openQcow2` in one. */
  readonly opening: Pick<OpeningOptions, "openBacking" | "openDataFile" | "cipher">
}

/** Makes an image of that shape with a disk of `size` bytes, a multiple of 512. */
export function makeShape(shape: Qcow2Shape, size: number, path = "shape.qcow2"): MadeImage {
  const { backing } = shape
  const { file, cipher } = createShape(shape, size, path)
  const openDataFile = shape.options.dataFile === undefined ? undefined : dataFileOf(size, shape.options.dataFileRaw === true)
  const data = openDataFile === undefined ? {} : { openDataFile }
  const key = cipher === undefined ? {} : { cipher }
  if (backing === undefined) return { file, model: new FlatModel(size), ...data, opening: { ...data, ...key } }
  // Not a multiple of a sector: the backing image covers only a part of its last one.
  const content = new Rng(1234).bytes(Math.floor(size * backing.share) + (backing.format === "raw" ? 100 : 0))
  const base = makeBase(content, backing.format)
  const openBacking = (): BackingDisk => openBase(base, backing.format)
  return { file, model: FlatModel.of(content, size), openBacking, ...data, opening: { openBacking, ...data, ...key } }
}

interface Created {
  readonly file: MemoryFile
  /** Cached, because deriving the key takes 20 ms for each opening. */
  readonly cipher: OpeningOptions["cipher"]
}

const encrypted = new Map<string, Created>()

function createShape(shape: Qcow2Shape, size: number, path: string): Created {
  const { backing, options, hasOldAes = false } = shape
  const isEncrypted = hasOldAes || options.encryption !== undefined
  const known = isEncrypted ? encrypted.get(`${shape.name} ${size} ${path}`) : undefined
  if (known !== undefined) return { ...known, file: known.file.clone() }
  const file = new MemoryFile({ path })
  const over = backing === undefined ? {} : { backing: "base", backingFormat: backing.format }
  createQcow2(file, { ...options, size, ...over }, quickCryptography)
  if (!isEncrypted) return { file, cipher: undefined }
  if (hasOldAes) file.write(Uint8Array.of(0, 0, 0, 1), 32)
  const cipher = unlockImage(file, readHeader(file), { passphrase: PASSPHRASE, cryptography: quickCryptography })
  encrypted.set(`${shape.name} ${size} ${path}`, { file: file.clone(), cipher })
  return { file, cipher }
}

/** A data file full of bytes that no guest may see, or an empty one if all of the file is guest data. */
function dataFileOf(size: number, isRaw: boolean): () => MemoryFile {
  let data = isRaw ? new MemoryFile({ path: "data" }) : MemoryFile.of(new Rng(99).bytes(size), { path: "data" })
  if (isRaw) data.truncate(size)
  return () => (data = data.clone())
}

function makeBase(content: Uint8Array, format: "raw" | "qcow2"): MemoryFile {
  if (format === "raw") return MemoryFile.of(content, { path: "base" })
  const file = new MemoryFile({ path: "base" })
  createQcow2(file, { size: content.length, clusterSize: 1024 })
  const disk = openInMemory(file)
  disk.pwrite(content, 0)
  disk.close()
  return file.clone()
}

function openBase(base: MemoryFile, format: "raw" | "qcow2"): BackingDisk {
  const file = base.clone({ readOnly: true })
  return format === "raw" ? new RawBacking(file) : openInMemory(file)
}
