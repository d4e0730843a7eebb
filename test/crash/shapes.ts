/** The images that the crash tests start from. */
import type { BackingReference, OpeningOptions } from "../../src/backing/qcow2/open.ts"
import type { BackingDisk } from "../../src/backing/qcow2/reader.ts"
import { type GoldenImage, goldenBytes, goldenImages, sha256 } from "../support/golden.ts"
import { goldenBacking, openInMemory, snapshotAsActive } from "../support/images.ts"
import { MemoryFile } from "../support/memory-file.ts"
import { Qcow2Bytes } from "../support/qcow2-bytes.ts"
import type { Rng } from "../support/rng.ts"
import { ENCRYPTION, makeShape, type Qcow2Shape, qcow2Shapes } from "../support/shapes.ts"
import type { CrashRound } from "./replay.ts"

export interface CrashShape {
  readonly name: string
  readonly base: MemoryFile
  readonly openBacking: (reference: BackingReference) => BackingDisk
  readonly data?: MemoryFile
  readonly cipher?: OpeningOptions["cipher"]
  readonly discardNoUnref?: boolean
  /** Fails when something that no operation may touch has changed. */
  readonly alsoCheck?: (crashed: MemoryFile) => void
  /** Most bytes of one operation. */
  readonly longest: number
  /** Share of the crash points that a quick run tries. */
  readonly share: number
}

/** Images that QEMU made, which also have what we do not make: snapshots, compressed clusters. */
const goldenShapes: readonly CrashShape[] = goldenImages
  .map((golden) => ({
    name: golden.file,
    base: MemoryFile.of(goldenBytes(golden.file), { path: golden.file }),
    openBacking: goldenBacking(golden.file),
    ...(golden.file.startsWith("data-file") ? { data: MemoryFile.of(goldenBytes("data-file.raw")) } : {}),
    alsoCheck: (crashed) => checkSnapshots(crashed, golden),
    longest: 8192,
    share: 0.3,
  }))

function checkSnapshots(crashed: MemoryFile, golden: GoldenImage): void {
  for (const [index, snapshot] of golden.snapshots.entries()) {
    const disk = openInMemory(MemoryFile.of(snapshotAsActive(crashed.toBytes(), index), { readOnly: true }))
    const content = new Uint8Array(disk.size)
    disk.pread(content, 0)
    if (sha256(content) !== snapshot.sha256) throw new Error(`snapshot ${snapshot.name} has changed`)
  }
}

/** 64-bit refcounts in clusters of 512 bytes: past 2 MiB of file the refcount table has to grow, and does so again and again. */
const GROWING_SIZE = 3 << 20

/** Discards long enough for holes in the file, at places that stay in use, over a backing image that must not show. */
function keepingPlaces(extendedL2: boolean): CrashShape {
  const name = `qcow2 whose discarded clusters keep their places${extendedL2 ? ", with extended L2 entries" : ""}`
  const shape = { name, options: { clusterSize: 16384, extendedL2 }, backing: { share: 0.8, format: "raw" } } as const
  const { file, openBacking = noBacking } = makeShape(shape, 4 << 20)
  return { name, base: file, openBacking, discardNoUnref: true, longest: 3 << 20, share: 0.1 }
}

/** Discards long enough for holes in an external data file. */
function holesInDataFile(name: string, options: Qcow2Shape["options"]): CrashShape {
  const { file, openBacking = noBacking, openDataFile, opening } = makeShape(
    { name, options: { clusterSize: 16384, dataFile: "data", ...options }, backing: { share: 0.8, format: "raw" } }, 4 << 20,
  )
  const data = openDataFile === undefined ? {} : { data: openDataFile() }
  return { name, base: file, openBacking, cipher: opening.cipher, ...data, longest: 3 << 20, share: 0.1 }
}

export const crashShapes: readonly CrashShape[] = [
  ...goldenShapes,
  holesInDataFile("qcow2 with holes in its data file", {}),
  holesInDataFile("qcow2 with LUKS and holes in its data file", { encryption: ENCRYPTION }),
  keepingPlaces(false),
  keepingPlaces(true),
  ...qcow2Shapes.map((shape) => {
    const grows = shape.options.refcountBits === 64
    const { file, openBacking, openDataFile, opening } = makeShape(shape, grows ? GROWING_SIZE : 200_192)
    return {
      name: shape.name, base: file, openBacking: openBacking ?? noBacking, cipher: opening.cipher, longest: grows ? 400_000 : 20_000,
      share: grows ? 0.02 : 0.2,
      ...(openDataFile === undefined ? {} : { data: openDataFile() }),
    }
  }),
]

function noBacking(): never {
  throw new Error("this image has no backing file")
}

/** A round on that shape, with few or many tables in memory. */
export function roundFor(shape: CrashShape, rng: Rng): Omit<CrashRound, "operations"> {
  const image = new Qcow2Bytes(shape.base.toBytes())
  const hasBacking = image.u64(8) !== 0n
  return {
    base: shape.base,
    options: {
      openBacking: shape.openBacking, cipher: shape.cipher, discardNoUnref: shape.discardNoUnref ?? false,
      cacheSize: rng.pick([4, 4, 1000]) * image.clusterSize,
    },
    rng,
    ...(shape.data === undefined ? {} : { data: shape.data }),
    ...(shape.alsoCheck === undefined ? {} : { alsoCheck: shape.alsoCheck }),
    limits: { longest: shape.longest },
    discardRule: image.version === 2 && hasBacking ? "anything" : { zeroesClustersOf: image.clusterSize },
  }
}
