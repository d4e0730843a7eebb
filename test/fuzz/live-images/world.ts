/**
 * The files that a fuzzed image and all images behind it are in, by the names that stand in the images, and how the whole is opened: at
 * once, or over files that answer later. Each file can be made to fail.
 */
import type { VirtioBacking } from "../../../src/backing/backing.ts"
import { closing } from "../../../src/disposing.ts"
import type { OpenedDisk } from "../../../src/backing/open-disk.ts"
import type { ImageFile } from "../../../src/backing/image-file.ts"
import { AwaitedDisk } from "../../../src/backing/paging/awaited-disk.ts"
import type { LateFile as OwnedFile } from "../../../src/backing/paging/loading-disk.ts"
import { PagedFile } from "../../../src/backing/paging/paged-file.ts"
import { untilLoaded } from "../../../src/backing/paging/until-loaded.ts"
import { decodeText } from "../../../src/backing/bytes/fields.ts"
import { readHeader } from "../../../src/backing/qcow2/format/parse-header.ts"
import { Qcow2Image } from "../../../src/backing/qcow2/image.ts"
import type { OpeningOptions } from "../../../src/backing/qcow2/open.ts"
import { RawBacking } from "../../../src/backing/raw.ts"
import { LateFile } from "../../backing/paging/late-file.ts"
import { FailingFile } from "../../support/failing-file.ts"
import { openInMemory } from "../../support/images.ts"
import type { MemoryFile } from "../../support/memory-file.ts"
import type { Rng } from "../../support/rng.ts"

export interface Layer {
  readonly name: string
  readonly format: "raw" | "qcow2"
  readonly encryption?: "luks" | "aes" | undefined
  /** Deriving the key anew would cost each opening some milliseconds. */
  readonly cipher?: OpeningOptions["cipher"]
  /** As it is now; another object after each opening. */
  file: MemoryFile
  /** The external data file, called as the image with ".data" behind. */
  data?: MemoryFile | undefined
}

export interface Opening extends Pick<OpeningOptions, "cacheSize" | "discardNoUnref" | "overlapCheck"> {
  /** Layers that may be written. */
  readonly writable: readonly string[]
}

/** The chain, open. */
export interface Opened {
  readonly image: Qcow2Image
  /** What answers a guest: `image`, or an `AwaitedDisk` over it. */
  readonly disk: Qcow2Image | OpenedDisk
  /** Some file answers later. */
  readonly isLate: boolean
  /** Files that are written, and those that are only read. */
  readonly written: readonly FailingFile[]
  readonly read: readonly FailingFile[]
  /** Does synchronous work on the image, as often as it takes. */
  perform<T>(kind: "reads" | "changes", work: () => T): T | Promise<T>
}

const LONG = 300_000

interface OpenFiles {
  readonly image: ImageFile
  readonly data: ImageFile | undefined
}

export class World {
  readonly layers = new Map<string, Layer>()
  /** The image that the guest uses. */
  top = ""
  #count = 0

  newName(): string {
    return `layer${this.#count++}`
  }

  layer(name: string): Layer {
    const layer = this.layers.get(name)
    if (layer === undefined) throw new Error(`no layer "${name}"`)
    return layer
  }

  /** Names from `name` down, as the headers have them now. */
  chainOf(name: string): string[] {
    const names: string[] = []
    for (let next: string | undefined = name; next !== undefined; next = this.backingOf(next)) names.push(next)
    return names
  }

  backingOf(name: string): string | undefined {
    const layer = this.layer(name)
    if (layer.format === "raw") return undefined
    const { backingFile } = readHeader(layer.file.clone({ readOnly: true }))
    return backingFile === undefined ? undefined : decodeText(backingFile)
  }

  /** Opens layer `name` with all that is behind it; every file answers at once. */
  openNow(name: string, opening: Opening): Opened {
    const { files, written, read } = this.#prepare(name, opening)
    const image = this.#open(name, opening, files)
    if (!(image instanceof Qcow2Image)) throw new Error("the top is a raw image")
    return { image, disk: image, isLate: false, written, read, perform: (_, work) => work() }
  }

  /** Opens a layer for reading. */
  read(name: string): Qcow2Image | RawBacking {
    const opening = { writable: [] }
    return this.#open(name, opening, this.#prepare(name, opening).files)
  }

  /** As `openNow`; the top's files answer later, and some of the others. */
  async openLate(name: string, opening: Opening, rng: Rng): Promise<Opened> {
    const { files, written, read } = this.#prepare(name, opening)
    // A long file in small pages takes a minute.
    const isLong = this.layer(name).file.size() > LONG
    const pageSize = rng.pick(isLong ? [16_384, 65_536] : [512, 4096, 65_536])
    const sizes = { pageSize, cacheSize: pageSize * rng.pick(isLong ? [6, 100] : [1, 6, 100]), logSize: rng.pick([1, 20_000, 1 << 20]) }
    const owned: OwnedFile[] = []
    const later = async (file: ImageFile): Promise<PagedFile> => {
      const paged = await PagedFile.open(new LateFile(file, rng), sizes)
      owned.push(paged)
      return paged
    }
    const late = new Map<string, OpenFiles>()
    for (const [layer, { image, data }] of files) {
      if (layer !== name && rng.chance(0.4)) {
        late.set(layer, { image, data })
        continue
      }
      const [paged, other] = [await later(image), data === undefined ? undefined : await later(data)]
      if (other !== undefined) paged.refersTo(other)
      late.set(layer, { image: paged, data: other })
    }
    const image = await untilLoaded(() => this.#open(name, opening, late))
    if (!(image instanceof Qcow2Image)) throw new Error("the top is a raw image")
    const disk = new AwaitedDisk(image, owned)
    return { image, disk: closing(disk), isLate: true, written, read, perform: (kind, work) => disk.perform(kind, work) }
  }

  #prepare(name: string, { writable }: Opening): Pick<Opened, "written" | "read"> & { files: Map<string, OpenFiles> } {
    const files = new Map<string, OpenFiles>()
    const [written, read]: [FailingFile[], FailingFile[]] = [[], []]
    for (const each of this.chainOf(name)) {
      const layer = this.layer(each)
      const isWritten = writable.includes(each)
      const prepare = (file: MemoryFile): FailingFile => {
        const failing = new FailingFile(isWritten ? file : file.clone({ readOnly: true }))
        ;(isWritten ? written : read).push(failing)
        return failing
      }
      // Whoever had the files before may have closed them.
      layer.file = layer.file.clone()
      layer.data = layer.data?.clone()
      files.set(each, { image: prepare(layer.file), data: layer.data && prepare(layer.data) })
    }
    return { files, written, read }
  }

  #open(name: string, opening: Opening, files: ReadonlyMap<string, OpenFiles>): Qcow2Image | RawBacking {
    const layer = this.layer(name)
    const found = files.get(name)
    if (found === undefined) throw new Error(`layer "${name}" is not in the chain`)
    if (layer.format === "raw") return new RawBacking(found.image)
    const { data } = found
    const { writable: [top], cacheSize, overlapCheck, discardNoUnref = false } = opening
    return openInMemory(found.image, {
      ...(cacheSize === undefined ? {} : { cacheSize }), ...(overlapCheck === undefined ? {} : { overlapCheck }),
      discardNoUnref: discardNoUnref && name === top, cipher: layer.cipher,
      openBacking: (reference) => this.#open(reference.name, opening, files),
      ...(data === undefined ? {} : { openDataFile: () => data }),
    })
  }
}

/** All that a disk holds, whenever it answers. */
export async function contentOf(disk: Pick<VirtioBacking, "size" | "pread">): Promise<Uint8Array> {
  const content = new Uint8Array(disk.size)
  await disk.pread(content, 0)
  return content
}
