/** Random backing chains in memory: two to four layers of different sizes and cluster sizes, and what the top of them reads as. */
import { expect } from "vitest"
import { BackingError } from "../../../src/backing/backing.ts"
import type { ImageFile } from "../../../src/backing/image-file.ts"
import { RawBacking } from "../../../src/backing/raw.ts"
import { checkQcow2 } from "../../../src/backing/qcow2/check/check.ts"
import { createQcow2, type CreateQcow2Options } from "../../../src/backing/qcow2/create.ts"
import { unlockImage } from "../../../src/backing/qcow2/encryption.ts"
import { readHeader } from "../../../src/backing/qcow2/format/parse-header.ts"
import { Qcow2Image } from "../../../src/backing/qcow2/image.ts"
import type { OpeningOptions } from "../../../src/backing/qcow2/open.ts"
import { FlatModel } from "../../support/flat-model.ts"
import { modelOf, openInMemory } from "../../support/images.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { PASSPHRASE, quickCryptography } from "../../support/shapes.ts"
import { applyOperation, randomOperation } from "../../support/random-operations.ts"
import type { Rng } from "../../support/rng.ts"

export interface ChainLayer {
  readonly format: "raw" | "qcow2"
  readonly file: MemoryFile
  /** The external data file, if there is one. */
  readonly data?: MemoryFile
  /** Of an encrypted image. */
  readonly cipher?: OpeningOptions["cipher"]
}

export interface ChainOptions {
  /** Images, the top one included. */
  readonly layers: number
  /** Bytes of the smallest and of the largest disk, in sectors. */
  readonly sizes: readonly [number, number]
  readonly top?: Partial<CreateQcow2Options>
}

/** How the layers of a chain are opened. */
export interface ChainOpening {
  /** Layers that may be written, counted from the bottom. Default: the top one. */
  readonly writable?: readonly number[]
  /** In place of the layer's own file. */
  readonly fileOf?: (index: number) => ImageFile
  /** In place of the layer's own data file. */
  readonly dataOf?: (index: number) => ImageFile | undefined
  /** In place of the layers behind. */
  readonly openBacking?: OpeningOptions["openBacking"]
}

export class Chain {
  /** From the bottom up. */
  readonly layers: ChainLayer[]

  constructor(layers: readonly ChainLayer[]) {
    this.layers = [...layers]
  }

  static random(rng: Rng, options: ChainOptions): Chain {
    const layers: ChainLayer[] = []
    for (let index = 0; index < options.layers; index++) layers.push(randomLayer(rng, layers, index, options))
    return new Chain(layers)
  }

  get top(): number {
    return this.layers.length - 1
  }

  /** Another chain with copies of the files. */
  clone(): Chain {
    return new Chain(this.layers.map((layer) => ({
      ...layer, file: layer.file.clone(), ...(layer.data === undefined ? {} : { data: layer.data.clone() }),
    })))
  }

  /** Opens layer `index` with all that is behind it. */
  open(index = this.top, opening: ChainOpening = {}): Qcow2Image | RawBacking {
    const { writable = [index], fileOf = (at) => this.fileOf(at), dataOf = (at) => this.dataOf(at), openBacking } = opening
    const layer = this.layers[index]
    if (layer === undefined) throw new Error(`no layer ${index}`)
    const isWritten = writable.includes(index)
    const given = fileOf(index)
    const file = isWritten ? given : readOnlyCopy(given)
    if (layer.format === "raw") return new RawBacking(file)
    const data = layer.data === undefined ? undefined : dataOf(index)
    return openInMemory(file, {
      openBacking: openBacking ?? (({ name }) => this.open(indexOf(name), { writable, fileOf, dataOf })), cacheSize: 64 << 10,
      ...(data === undefined ? {} : { openDataFile: () => (isWritten ? data : readOnlyCopy(data)) }), cipher: layer.cipher,
    })
  }

  openTop(opening: ChainOpening = {}): Qcow2Image {
    const image = this.open(this.top, opening)
    if (!(image instanceof Qcow2Image)) throw new Error("the top is a raw image")
    return image
  }

  /** The file of layer `index`, to be opened: a new one with the same content, for whoever had the one before may have closed it. */
  fileOf(index: number): MemoryFile {
    const layer = this.layers[index]
    if (layer === undefined) throw new Error(`no layer ${index}`)
    const file = layer.file.clone()
    this.layers[index] = { ...layer, file }
    return file
  }

  /** Likewise the external data file of layer `index`. */
  dataOf(index: number): MemoryFile | undefined {
    const layer = this.layers[index]
    if (layer?.data === undefined) return undefined
    const data = layer.data.clone()
    this.layers[index] = { ...layer, data }
    return data
  }

  /** The content of layer `index` as it is now, in a file of its own. */
  copyOf(index = this.top): MemoryFile {
    const layer = this.layers[index]
    if (layer === undefined) throw new Error(`no layer ${index}`)
    return layer.file.clone({ readOnly: true })
  }

  /** What layer `index` reads as. */
  model(index = this.top): FlatModel {
    const image = this.open(index, { writable: [] })
    const model = modelOf(image)
    image.close()
    return model
  }

  /** What `qemu-img check` would complain of in any layer. */
  findings(): string[] {
    return this.layers.flatMap(({ format, file }, index) =>
      format === "raw" ? [] : checkQcow2(file.clone({ readOnly: true })).findings.map(({ message }) => `layer ${index}: ${message}`))
  }
}

export function layerName(index: number): string {
  return `layer${index}`
}

function indexOf(name: string): number {
  return Number(name.slice("layer".length))
}

function readOnlyCopy(file: ImageFile): ImageFile {
  if (!(file instanceof MemoryFile)) throw new Error("a file of the test's own is for a layer that is written")
  return file.clone({ readOnly: true })
}

function randomLayer(rng: Rng, below: ChainLayer[], index: number, options: ChainOptions): ChainLayer {
  const [least, most] = options.sizes
  const size = rng.between(least, most) * 512
  if (index === 0 && rng.chance(0.5)) {
    const content = new FlatModel(size)
    for (let piece = 0; piece < 4; piece++) {
      const offset = rng.below(size)
      content.write(rng.bytes(Math.min(size - offset, 1 + rng.below(Math.floor(size / 4)))), offset)
    }
    return { format: "raw", file: MemoryFile.of(content.read(0, size), { path: layerName(index) }) }
  }
  const file = new MemoryFile({ path: layerName(index) })
  const clusterSize = rng.pick([512, 1024, 4096, 16384])
  const isExtended = clusterSize === 16384 && rng.chance(0.5) && (index < options.layers - 1 || options.top === undefined)
  const under = below.at(-1)
  createQcow2(file, {
    size, clusterSize, ...(isExtended ? { extendedL2: true } : rng.chance(0.25) ? { compat: "0.10" as const } : {}),
    ...(under === undefined ? {} : { backing: layerName(index - 1), backingFormat: under.format }),
    ...(index === options.layers - 1 ? options.top : {}),
  }, quickCryptography)
  const chain = new Chain([...below, { format: "qcow2", file, ...beside(file, size, index === options.layers - 1 ? options.top : {}) }])
  const disk = chain.open(index)
  const model = modelOf(disk)
  for (let count = rng.between(0, 8); count > 0; count--) {
    const operation = randomOperation(rng, { size, longest: Math.max(512, Math.floor(size / 3)) })
    if (operation.kind !== "read") applyOperation(disk, model, operation, "anything")
  }
  disk.close()
  return chain.layers.at(-1) as ChainLayer
}

/** The data file of a new image, full of what no guest may see, and its cipher, where it has these. */
function beside(file: MemoryFile, size: number, options: Partial<CreateQcow2Options> = {}): Pick<ChainLayer, "data" | "cipher"> {
  const data = options.dataFile === undefined ? {} : { data: MemoryFile.of(new Uint8Array(size).fill(0xdd), { path: "data" }) }
  if (options.encryption === undefined) return data
  return { ...data, cipher: unlockImage(file, readHeader(file), { passphrase: PASSPHRASE, cryptography: quickCryptography }) }
}

/** Does `work`, which may fail with that code only. Returns whether it has. */
export async function fails(work: () => Promise<unknown>, code: string): Promise<boolean> {
  try {
    await work()
    return false
  } catch (error) {
    if (!(error instanceof BackingError)) throw error
    expect(error.code).toBe(code)
    return true
  }
}
