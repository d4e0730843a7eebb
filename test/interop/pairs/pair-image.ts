/**
 * An image with several features that QEMU and we have in turn, what its disk, snapshots and bitmap must be, and what each feature does.
 */
import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { expect } from "vitest"
import { createImage, type CreateImageOptions } from "../../../src/backing/create.ts"
import { openImage, type OpenImageOptions } from "../../../src/backing/open.ts"
import { Qcow2Image } from "../../../src/backing/qcow2/image.ts"
import { FlatModel } from "../../support/flat-model.ts"
import { runQemu } from "../../support/qemu.ts"
import { applyOperation, randomOperation } from "../../support/random-operations.ts"
import type { Rng } from "../../support/rng.ts"
import { temporaryDirectory } from "../../support/temporary.ts"

const SIZE = 1 << 20
const CLUSTER = 16_384
const PASSPHRASE = "a passphrase of the tests"

export interface Feature {
  readonly name: string
  /** For `qemu-img create -o`. */
  readonly create?: string
  /** The same for us; undefined where we do not make such images. */
  readonly ours?: Partial<CreateImageOptions> | undefined
  /** Features that QEMU does not let into the same image. */
  readonly without?: readonly string[]
  /** Once the image holds something: the feature is used. */
  readonly use?: (image: PairImage) => void
  /** At the end. */
  readonly check?: (image: PairImage) => void
}

/** An image that QEMU and we have in turn, and what its disk must read as. */
export class PairImage {
  readonly directory = temporaryDirectory()
  readonly path = join(this.directory, "pair.qcow2")
  readonly rng: Rng
  readonly features: readonly Feature[]
  model: FlatModel
  /** By snapshot. */
  readonly kept = new Map<string, FlatModel>()
  /** What the disk was when its bitmap was made. */
  before: FlatModel | undefined
  leastSize = Number.POSITIVE_INFINITY

  constructor(features: readonly Feature[], rng: Rng) {
    this.features = features
    this.rng = rng
    this.model = new FlatModel(SIZE)
    if (this.has("a backing image")) {
      const content = rng.bytes(700_000 - (700_000 % 512))
      writeFileSync(join(this.directory, "base.raw"), content)
      this.model = FlatModel.of(content, SIZE)
    }
  }

  has(name: string): boolean {
    return this.features.some((feature) => feature.name === name)
  }

  /** The words by which QEMU's tools open the image. */
  get #words(): string[] {
    if (!this.has("LUKS")) return ["-f", "qcow2", this.path]
    return [
      "--object",
      `secret,id=key,data=${PASSPHRASE}`,
      "--image-opts",
      `driver=qcow2,encrypt.key-secret=key,file.filename=${this.path}`,
    ]
  }

  /** Makes the image, by us where we can and it is our turn. */
  make(isOurs: boolean): void {
    if (isOurs && this.features.every((feature) => !("ours" in feature) || feature.ours !== undefined)) {
      const options = Object.assign({}, ...this.features.map(({ ours }) => ours)) as Partial<CreateImageOptions>
      const backing = this.has("a backing image") ? { backing: "base.raw", backingFormat: "raw" } as const : {}
      createImage(this.path, { size: SIZE, clusterSize: CLUSTER, ...options, ...backing })
    } else {
      this.#makeByQemu()
    }
    // All clusters have their places from the start, and what is there decrypts to anything, by QEMU as well.
    if (this.has("LUKS") && this.has("a raw external data file")) this.byQemu([`write -P 0 0 ${SIZE}`])
  }

  #makeByQemu(): void {
    const options = [`cluster_size=${CLUSTER}`, ...this.features.flatMap(({ create }) => create ?? [])]
    const backing = this.has("a backing image") ? ["-b", "base.raw", "-F", "raw"] : []
    const secret = this.has("LUKS") ? ["--object", `secret,id=key,data=${PASSPHRASE}`] : []
    run("qemu-img", ["create", "-q", ...secret, "-f", "qcow2", "-o", options.join(), ...backing, this.path, String(SIZE)], this.directory)
  }

  addBitmap(name: string, granularity: number): void {
    if (this.rng.chance(0.5)) {
      const words = ["bitmap", "--add", "-g", String(granularity), ...this.#words, name]
      return void run("qemu-img", words, this.directory)
    }
    const disk = this.open()
    disk.bitmaps.add(name, { granularity })
    disk.close()
  }

  qemuResize(size: number): void {
    run("qemu-img", ["resize", "--shrink", ...this.#words, String(size)], this.directory)
  }

  open(options: OpenImageOptions = {}): Qcow2Image {
    const disk = openImage(this.path, { ...options, ...(this.has("LUKS") ? { passphrase: PASSPHRASE } : {}) })
    if (!(disk instanceof Qcow2Image)) throw new Error("it is not a qcow2 image")
    return disk
  }

  changeByUs(): void {
    const disk = this.open({ cacheSize: this.rng.pick([1 << 18, 1 << 25]) })
    for (let count = 0; count < 25; count++) {
      const operation = randomOperation(this.rng, { size: this.model.size, longest: 100_000 })
      applyOperation(disk, this.model, operation, { zeroesClustersOf: disk.discardGranularity })
    }
    disk.close()
  }

  changeByQemu(): void {
    const { rng, model } = this
    const commands: string[] = []
    for (let count = 0; count < 12; count++) {
      const offset = rng.below(model.size / 512) * 512
      const length = Math.min(model.size - offset, 512 * rng.between(1, 150))
      const pattern = rng.between(1, 255)
      if (rng.chance(0.75)) {
        commands.push(`write -P ${pattern} ${offset} ${length}`)
        model.write(new Uint8Array(length).fill(pattern), offset)
      } else {
        commands.push(`write -z ${rng.chance(0.5) ? "-u " : ""}${offset} ${length}`)
        model.zero(offset, length)
      }
    }
    this.byQemu(commands)
  }

  /** Runs qemu-io's commands. */
  byQemu(commands: readonly string[]): void {
    const words = inFrontOfFile(this.#words, commands.flatMap((command) => ["-c", command]))
    const shown = run("qemu-io", ["-t", "unsafe", "-d", "unmap", ...words], this.directory)
    if (/failed|error/i.test(shown)) throw new Error(shown)
  }

  /** Both read what they must, and find nothing wrong. */
  verify(when: string): void {
    const shown = run("qemu-img", ["check", ...this.#words], this.directory)
    expect(shown, when).toContain("No errors were found")
    const raw = join(this.directory, "seen.raw")
    run("qemu-img", ["convert", "-t", "unsafe", ...inFrontOfFile(this.#words, ["-O", "raw"]), raw], this.directory)
    expect(this.model.firstDifference(new Uint8Array(readFileSync(raw)), 0), `${when}, as QEMU reads it`).toBe(-1)
    const disk = this.open({ readOnly: true })
    expect([disk.size, this.model.firstDifferenceOf(disk, 1 << 18)], `${when}, as we read it`).toEqual([this.model.size, -1])
    disk.close()
    for (const [name, model] of this.kept) {
      run(
        "qemu-img",
        ["convert", "-t", "unsafe", "-l", `snapshot.name=${name}`, ...inFrontOfFile(this.#words, ["-O", "raw"]), raw],
        this.directory,
      )
      expect(model.firstDifference(new Uint8Array(readFileSync(raw)), 0), `${when}: snapshot ${name}, as QEMU reads it`).toBe(-1)
      const image = this.open({ readOnly: true })
      const snapshot = image.snapshots.open(name)
      expect([snapshot.size, model.firstDifferenceOf(snapshot, 1 << 18)], `${when}: snapshot ${name}`).toEqual([model.size, -1])
      snapshot.close()
      image.close()
    }
  }

  /** Does one thing by QEMU or by us. */
  either(ours: (disk: Qcow2Image) => void, ...words: string[]): void {
    // QEMU does not mark what going back to a snapshot changes.
    const isByQemu = this.rng.chance(0.5) && !(words[1] === "-a" && this.has("a dirty bitmap"))
    const [command = "", ...rest] = words
    // `qemu-img snapshot` takes no format.
    const file = this.has("LUKS") ? this.#words : [this.path]
    if (isByQemu) return void run("qemu-img", [command, ...rest, ...file], this.directory)
    const disk = this.open()
    ours(disk)
    disk.close()
  }
}

/** QEMU's tools take options in front of the file's name. */
function inFrontOfFile(words: readonly string[], more: readonly string[]): string[] {
  return [...words.slice(0, -1), ...more, ...words.slice(-1)]
}

function run(tool: string, words: readonly string[], cwd: string): string {
  const { status, stdout, stderr, error } = runQemu(tool, words, { cwd })
  if (error !== undefined) throw error
  if (status !== 0) throw new Error(`${tool} ${words.join(" ")}: exit ${status}: ${stderr}${stdout}`)
  return stdout + stderr
}

export const FEATURES: readonly Feature[] = [
  { name: "extended L2 entries", create: "extended_l2=on", ours: { extendedL2: true } },
  {
    name: "LUKS", create: "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10",
    ours: { encryption: { passphrase: PASSPHRASE, iterTime: 10 } },
  },
  {
    name: "an external data file", create: "data_file=data.raw", ours: { dataFile: "data.raw" },
    without: ["compressed clusters", "snapshots"],
  },
  {
    name: "a raw external data file", create: "data_file=data.raw,data_file_raw=on", ours: { dataFile: "data.raw", dataFileRaw: true },
    without: ["compressed clusters", "snapshots", "a backing image", "an external data file"],
    check: (image) => {
      if (image.has("LUKS")) return
      expect(image.model.firstDifference(new Uint8Array(readFileSync(join(image.directory, "data.raw"))), 0), "the raw file").toBe(-1)
    },
  },
  { name: "a backing image" },
  { name: "lazy refcounts", create: "lazy_refcounts=on", ours: { lazyRefcounts: true } },
  { name: "zstd", create: "compression_type=zstd", ours: undefined, use: writeCompressed },
  { name: "compressed clusters", without: ["zstd"], use: writeCompressed },
  { name: "snapshots", use: takeSnapshot, check: goBack },
  {
    name: "another size",
    use: (image) => resize(image, SIZE + 300_032),
    check: (image) => {
      // What is cut off does not come back.
      for (const size of [SIZE - 100_352, SIZE - 1024, SIZE + 70_144]) resize(image, size)
    },
  },
  { name: "a dirty bitmap", use: addBitmap, check: checkBitmap },
]

const GRANULARITY = 8192

export function addBitmap(image: PairImage): void {
  image.addBitmap("changes", GRANULARITY)
  image.before = image.model.clone()
  image.leastSize = image.model.size
}

/** Whoever wrote, all that has changed since is marked. */
export function checkBitmap(image: PairImage): void {
  const { before, model } = image
  const disk = image.open({ readOnly: true })
  expect(disk.bitmaps.list()).toMatchObject([{ name: "changes", granularity: GRANULARITY, isEnabled: true, isConsistent: true }])
  const marked = new Set<number>()
  for (const { offset, length } of disk.bitmaps.changed("changes")) {
    for (let at = offset; at < offset + length; at += GRANULARITY) marked.add(at / GRANULARITY)
  }
  disk.close()
  if (before === undefined) throw new Error("the bitmap was not made")
  const unmarked: number[] = []
  // What was cut off and has come back has bits that are clear, by QEMU as well.
  const end = Math.min(before.size, image.leastSize)
  for (let at = 0; at < end; at += GRANULARITY) {
    const length = Math.min(GRANULARITY, end - at)
    const hasChanged = Buffer.compare(before.read(at, length), model.read(at, length)) !== 0
    if (hasChanged && !marked.has(at / GRANULARITY)) unmarked.push(at)
  }
  expect(unmarked, "changed and not marked").toEqual([])
}

function takeSnapshot(image: PairImage): void {
  image.either((disk) => void disk.snapshots.create({ name: "taken" }), "snapshot", "-c", "taken")
  image.kept.set("taken", image.model.clone())
}

function goBack(image: PairImage): void {
  image.either((disk) => disk.snapshots.apply("taken"), "snapshot", "-a", "taken")
  image.model = image.kept.get("taken") ?? image.model
  image.verify("gone back")
  image.either((disk) => disk.snapshots.delete("taken"), "snapshot", "-d", "taken")
  image.kept.clear()
  image.verify("snapshot deleted")
}

export function resize(image: PairImage, size: number): void {
  // What QEMU cuts off within a cluster comes back when it makes the disk longer again.
  const isLeft = size < image.model.size && size % CLUSTER !== 0
  if (!isLeft && image.rng.chance(0.5)) image.qemuResize(size)
  else {
    const disk = image.open()
    disk.resize(size, { shrink: true })
    disk.close()
  }
  image.model = FlatModel.of(image.model.read(0, Math.min(size, image.model.size)), size)
  image.leastSize = Math.min(image.leastSize, size)
  image.verify(`resized to ${size}`)
}

/** Whole clusters, compressed by QEMU, which takes none of them where data is encrypted. */
export function writeCompressed(image: PairImage): void {
  const { rng, model } = image
  if (image.has("LUKS") || image.has("an external data file") || image.has("a raw external data file")) return
  const commands: string[] = []
  for (let count = 0; count < 6; count++) {
    const [offset, pattern] = [CLUSTER * rng.below(Math.floor(model.size / CLUSTER)), rng.between(1, 255)]
    commands.push(`discard ${offset} ${CLUSTER}`, `write -c -P ${pattern} ${offset} ${CLUSTER}`)
    model.write(new Uint8Array(CLUSTER).fill(pattern), offset)
  }
  image.byQemu(commands)
}
