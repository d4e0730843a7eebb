/** Draws an image of any kind, and what is behind it: nothing, or one to three images of other kinds, shorter and longer. */
import { readHeader } from "../../../src/backing/qcow2/format/parse-header.ts"
import { createQcow2, type CreateQcow2Options } from "../../../src/backing/qcow2/create.ts"
import { unlockImage } from "../../../src/backing/qcow2/encryption.ts"
import { FlatModel } from "../../support/flat-model.ts"
import { modelOf } from "../../support/images.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { applyOperation, randomOperation } from "../../support/random-operations.ts"
import type { Rng } from "../../support/rng.ts"
import { ENCRYPTION, PASSPHRASE, quickCryptography } from "../../support/shapes.ts"
import type { Layer, World } from "./world.ts"

type Shape = Partial<CreateQcow2Options> & { readonly clusterSize: number; readonly hasOldAes?: boolean }

export interface LayerWish {
  /** The layer behind; none: it stands on its own. */
  readonly under: string | undefined
  /** Bytes. */
  readonly size: number
}

/** Of all disks, so many are long. */
const LONG_SHARE = 0.2

/** An image over a chain of up to three, each with some content. */
export function drawWorld(rng: Rng, world: World): void {
  let under: string | undefined
  for (let depth = rng.pick([0, 0, 1, 1, 2, 3]); depth > 0; depth--) {
    const isRaw = under === undefined && rng.chance(0.5)
    under = isRaw ? addRaw(rng, world, drawSize(rng, 4096)) : addLayer(rng, world, { under, size: drawSize(rng, 4096) })
  }
  const shape = drawShape(rng, under !== undefined)
  if (!rng.chance(LONG_SHARE)) world.top = addImage(rng, world, shape, { under })
  else world.top = addImage(rng, world, longShape(shape), { under, size: drawLongSize(rng) })
}

/** Sectors of a long disk: more than a mirror copies while the guest waits, so that it needs several passes. */
const LONG = { least: 9000, most: 14_000 } as const

/** A long disk, of some MiB. */
export function drawLongSize(rng: Rng): number {
  return 512 * rng.between(LONG.least, LONG.most)
}

export function isLong(size: number): boolean {
  return size >= 512 * LONG.least
}

/** Few clusters, however large they are; at least eight sectors. */
export function drawSize(rng: Rng, clusterSize: number): number {
  const most = Math.max(60, Math.min(2400, (40 * clusterSize) / 512))
  return 512 * rng.between(8, rng.chance(0.15) ? 2 * most : most)
}

export function addRaw(rng: Rng, world: World, size: number): string {
  const content = new FlatModel(size)
  for (let piece = rng.below(8); piece > 0; piece--) {
    const offset = rng.below(size)
    content.write(rng.bytes(Math.min(size - offset, 1 + rng.below(Math.floor(size / 3)))), offset)
  }
  // Not a multiple of a sector: the last one is the disk's in part.
  const length = rng.chance(0.3) ? size - rng.below(512) : size
  const name = world.newName()
  world.layers.set(name, { name, format: "raw", file: MemoryFile.of(content.read(0, length), { path: name }) })
  return name
}

/** An image with random content, for whoever wants one to stand on. */
export function addLayer(rng: Rng, world: World, wish: LayerWish): string {
  return addImage(rng, world, drawShape(rng, wish.under !== undefined), wish)
}

/** A fresh image of that size, with nothing behind it. */
export function addTarget(rng: Rng, world: World, size: number): string {
  const shape = drawShape(rng, false)
  return addImage(rng, world, isLong(size) ? longShape(shape) : shape, { under: undefined, size })
}

/** Small clusters make tens of thousands of a long disk. */
function longShape(shape: Shape): Shape {
  return { ...shape, clusterSize: Math.max(shape.clusterSize, 4096) }
}

function drawShape(rng: Rng, hasBacking: boolean): Shape {
  const isOld = rng.chance(0.15)
  const extendedL2 = !isOld && rng.chance(0.25)
  const clusterSize = extendedL2 ? rng.pick([16_384, 16_384, 65_536]) : rng.pick([512, 512, 1024, 2048, 4096, 4096, 16_384, 65_536])
  const hasData = !isOld && rng.chance(0.2)
  const isRaw = hasData && !hasBacking && rng.chance(0.5)
  const isEncrypted = rng.chance(0.2)
  return {
    clusterSize,
    ...(isOld ? { compat: "0.10" as const } : {}),
    ...(extendedL2 ? { extendedL2 } : {}),
    ...(hasData ? { dataFile: "data", dataFileRaw: isRaw } : {}),
    ...(
      isEncrypted ? { encryption: { ...ENCRYPTION, mode: rng.pick(["xts", "cbc"] as const) } } : rng.chance(0.06) ? { hasOldAes: true } : {}
    ),
    ...(!isOld && rng.chance(0.3) ? { refcountBits: rng.pick([1, 2, 4, 8, 32, 64]) } : {}),
    ...(!isOld && rng.chance(0.1) ? { lazyRefcounts: true } : {}),
    ...((!hasBacking || extendedL2) && !(isOld && isEncrypted) && rng.chance(0.15) ? { preallocation: "metadata" as const } : {}),
  }
}

function addImage(rng: Rng, world: World, shape: Shape, wish: { readonly under?: string | undefined; readonly size?: number }): string {
  const { hasOldAes = false, ...options } = shape
  const { under, size = drawSize(rng, shape.clusterSize) } = wish
  const name = world.newName()
  const file = new MemoryFile({ path: name })
  const over = under === undefined ? {} : { backing: under, backingFormat: world.layer(under).format }
  const dataFile = shape.dataFile === undefined ? {} : { dataFile: `${name}.data` }
  createQcow2(file, { ...options, ...dataFile, size, ...over }, quickCryptography)
  if (hasOldAes) file.write(Uint8Array.of(0, 0, 0, 1), 32)
  const encryption = hasOldAes ? "aes" : options.encryption === undefined ? undefined : "luks"
  const cipher = encryption && unlockImage(file, readHeader(file), { passphrase: PASSPHRASE, cryptography: quickCryptography })
  const layer: Layer = {
    name,
    format: "qcow2",
    encryption,
    cipher,
    file,
    data: shape.dataFile === undefined ? undefined : dataOf(rng, shape, size),
  }
  world.layers.set(name, layer)
  fill(rng, world, layer)
  return name
}

/** Full of what no guest may see, unless the image says that all of it is the guest's. */
function dataOf(rng: Rng, { dataFileRaw }: Shape, size: number): MemoryFile {
  if (dataFileRaw !== true) return MemoryFile.of(rng.bytes(size), { path: "data" })
  const data = new MemoryFile({ path: "data" })
  data.truncate(size)
  return data
}

/** Little, often: then most of what the image shows is behind it. */
function fill(rng: Rng, world: World, { name }: Layer): void {
  const { image } = world.openNow(name, { writable: [name], cacheSize: 64 << 10 })
  const model = modelOf(image)
  for (let count = rng.between(0, rng.pick([2, 8])); count > 0; count--) {
    const operation = randomOperation(rng, { size: image.size, longest: Math.max(512, Math.floor(image.size / 3)) })
    if (operation.kind !== "read") applyOperation(image, model, operation, "anything")
  }
  image.close()
}
