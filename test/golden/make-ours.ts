/**
 * Makes the golden images that we have made, in ours/, and one of QEMU's beside each where there was none: `npx tsx
 * test/golden/make-ours.ts`. They are committed; run it only to add one. ours/manifest.json says what each holds. Encrypted ones are packed
 * by gzip.
 */
import { execFileSync } from "node:child_process"
import { createHash } from "node:crypto"
import { readFileSync, rmSync, writeFileSync } from "node:fs"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { gzipSync } from "node:zlib"
import { createImage, type CreateImageOptions } from "../../src/backing/create.ts"
import { openImage } from "../../src/backing/open.ts"
import { amendImage } from "../../src/backing/operations/amend-image.ts"
import { Qcow2Image } from "../../src/backing/qcow2/image.ts"

const folder = join(dirname(fileURLToPath(import.meta.url)), "ours")
const PASSPHRASE = "golden"
const KIB = 1024

const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex")

function contentOf(disk: Pick<Qcow2Image, "size" | "pread">): Uint8Array {
  const content = new Uint8Array(disk.size)
  disk.pread(content, 0)
  return content
}

function open(path: string, isEncrypted: boolean, readOnly = false): Qcow2Image {
  const disk = openImage(path, { readOnly, ...(isEncrypted ? { passphrase: PASSPHRASE } : {}) })
  if (!(disk instanceof Qcow2Image)) throw new Error("not a qcow2 image")
  return disk
}

interface Recipe {
  readonly file: string
  readonly about: string
  readonly options: Partial<CreateImageOptions>
  readonly work: (disk: Qcow2Image) => void
  readonly afterwards?: (path: string) => void
}

const fill = (
  disk: Qcow2Image, value: number, offset: number, length: number
): void => disk.pwrite(new Uint8Array(length).fill(value), offset)

const recipes: readonly Recipe[] = [
  {
    file: "snapshots.qcow2", about: "snapshots by us, one with VM state, and another size", options: { clusterSize: 512 },
    work(disk) {
      fill(disk, 0x11, 0, 20 * KIB)
      disk.snapshots.create({ name: "first", vmState: new Uint8Array(3000).fill(0x5a), date: 1_700_000_000_000 })
      fill(disk, 0x12, 4 * KIB, 3 * KIB)
      disk.snapshots.create({ name: "second", date: 1_700_000_001_000 })
      disk.writeZeroes(KIB, 2 * KIB, true)
      disk.resize(96 * KIB)
      fill(disk, 0x13, 90 * KIB, 700)
    },
  },
  {
    file: "bitmaps.qcow2", about: "persistent bitmaps by us", options: { clusterSize: 4096 },
    work(disk) {
      disk.bitmaps.add("all", { granularity: 512 })
      fill(disk, 0x21, 5000, 9000)
      disk.bitmaps.add("later", { granularity: 4096 })
      disk.bitmaps.add("idle", { granularity: 65_536, isEnabled: false })
      fill(disk, 0x22, 40 * KIB, 512)
    },
  },
  {
    file: "amended.qcow2", about: "made as version 2, amended by us to version 3 with refcounts of 64 bits",
    options: { clusterSize: 512, compat: "0.10" },
    work: (disk) => fill(disk, 0x31, 700, 12 * KIB),
    afterwards: (path) => amendImage(path, { compat: "1.1", refcountBits: 64, lazyRefcounts: true }),
  },
  {
    file: "luks.qcow2", about: "LUKS by us, and a snapshot",
    options: { clusterSize: 4096, encryption: { passphrase: PASSPHRASE, cipher: "aes-128", mode: "cbc", iterTime: 1 } },
    work(disk) {
      fill(disk, 0x41, 0, 9 * KIB)
      disk.snapshots.create({ name: "kept", date: 1_700_000_000_000 })
      fill(disk, 0x42, 3000, 3000)
    },
  },
  {
    file: "data-file.qcow2", about: "a raw data file by us", options: { clusterSize: 4096, dataFile: "data-file.raw", dataFileRaw: true },
    work(disk) {
      fill(disk, 0x51, 100, 10 * KIB)
      disk.writeZeroes(2 * KIB, 3000, true)
    },
  },
  {
    file: "extended-l2.qcow2", about: "extended L2 entries by us, compressed clusters, a snapshot",
    options: { clusterSize: 16_384, extendedL2: true },
    work(disk) {
      fill(disk, 0x61, 700, 5 * KIB)
      disk.writeCompressed(new Uint8Array(16_384).fill(0x62), 32 * KIB)
      disk.snapshots.create({ name: "kept", date: 1_700_000_000_000 })
      fill(disk, 0x63, 33 * KIB, 512)
      disk.writeZeroes(KIB, 512, false)
    },
  },
]

function make({ file, about, options, work, afterwards }: Recipe): unknown {
  const path = join(folder, file)
  const isEncrypted = options.encryption !== undefined
  createImage(path, { size: 64 * KIB, ...options })
  const disk = open(path, isEncrypted)
  work(disk)
  disk.close()
  afterwards?.(path)
  return described(path, { file, about, isEncrypted })
}

function described(
  path: string,
  { file, about, isEncrypted }: { readonly file: string; readonly about: string; readonly isEncrypted: boolean },
): unknown {
  const disk = open(path, isEncrypted, true)
  const snapshots = disk.snapshots.list().map(({ id, name }) => {
    const view = disk.snapshots.open(id)
    const entry = { name, size: view.size, sha256: sha256(contentOf(view)) }
    view.close()
    return entry
  })
  const bitmaps = disk.bitmaps.list().map(({ name, granularity }) => ({ name, granularity, changed: [...disk.bitmaps.changed(name)] }))
  const entry = { file, about, isEncrypted, size: disk.size, sha256: sha256(contentOf(disk)), snapshots, bitmaps }
  disk.close()
  if (isEncrypted) {
    writeFileSync(`${path}.gz`, gzipSync(readFileSync(path), { level: 9 }))
    rmSync(path)
  }
  return entry
}

/** By QEMU: what the other golden images of its have not. */
function byQemu(): unknown[] {
  const run = (tool: string, ...words: string[]): void => void execFileSync(tool, words, { cwd: folder })
  run(
    "qemu-img",
    "create",
    "-q",
    "-f",
    "qcow2",
    "-o",
    "cluster_size=4k,data_file=qemu-data-file.raw,data_file_raw=on",
    "qemu-data-file.qcow2",
    "64k",
  )
  run("qemu-io", "-f", "qcow2", "-c", "write -P 0x71 100 10k", "-c", "write -z 2k 3k", "qemu-data-file.qcow2")
  run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=512,compat=0.10", "qemu-amended.qcow2", "64k")
  run("qemu-io", "-f", "qcow2", "-c", "write -P 0x72 700 12k", "qemu-amended.qcow2")
  run("qemu-img", "amend", "-f", "qcow2", "-o", "compat=1.1", "qemu-amended.qcow2")
  run("qemu-img", "amend", "-f", "qcow2", "-o", "refcount_bits=64,lazy_refcounts=on", "qemu-amended.qcow2")
  const files = [["qemu-data-file.qcow2", "a raw data file by QEMU"], ["qemu-amended.qcow2", "amended by QEMU"]] as const
  return files.map(([file, about]) => described(join(folder, file), { file, about, isEncrypted: false }))
}

rmSync(folder, { recursive: true, force: true })
execFileSync("mkdir", [folder])
writeFileSync(join(folder, "manifest.json"), `${JSON.stringify([...recipes.map(make), ...byQemu()], undefined, 1)}\n`)
