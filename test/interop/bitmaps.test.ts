/** Persistent bitmaps that QEMU made, used by us, and the other way; what has changed, by QEMU's own NBD server. */
import { execFileSync, spawnSync } from "node:child_process"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect } from "vitest"
import { createImage } from "../../src/backing/create.ts"
import { openImage } from "../../src/backing/open.ts"
import { Qcow2Image } from "../../src/backing/qcow2/image.ts"
import { itWithQemu, qemuCheck, qemuImg, qemuIo } from "../support/qemu.ts"
import { Rng, seedFromEnvironment } from "../support/rng.ts"
import { temporaryDirectory } from "../support/temporary.ts"

const seed = seedFromEnvironment(66)
const SIZE = 4 << 20

function withImage<T>(path: string, readOnly: boolean, work: (image: Qcow2Image) => T): T {
  const image = openImage(path, { readOnly })
  if (!(image instanceof Qcow2Image)) throw new Error("no qcow2 image")
  try {
    return work(image)
  } finally {
    image.close()
  }
}

/** What QEMU says has changed: by its NBD server, which exports a bitmap that nobody records in. */
function changedByQemu(path: string, name: string): Uint8Array {
  const directory = temporaryDirectory()
  const [socket, pidFile] = [join(directory, "socket"), join(directory, "pid")]
  // With --fork it returns when it listens.
  execFileSync("qemu-nbd", ["-r", "-t", "--fork", "--pid-file", pidFile, "-f", "qcow2", "-B", name, "-k", socket, path])
  const run = spawnSync("nbdinfo", ["--json", `--map=qemu:dirty-bitmap:${name}`, `nbd+unix:///?socket=${socket}`], { encoding: "utf8" })
  const pid = readFileSync(pidFile, "utf8").trim()
  process.kill(Number(pid), "SIGTERM")
  spawnSync("tail", ["--pid", pid, "-f", "/dev/null"])
  if (run.status !== 0) throw new Error(run.stderr)
  const sectors = new Uint8Array(SIZE / 512)
  const extents: unknown = JSON.parse(run.stdout)
  if (!Array.isArray(extents)) throw new Error("no list")
  for (const { offset, length, type } of extents) if (type === 1) sectors.fill(1, offset / 512, (offset + length) / 512)
  return sectors
}

function changedByUs(path: string, name: string): Uint8Array {
  const sectors = new Uint8Array(SIZE / 512)
  withImage(path, true, (image) => {
    for (const { offset, length } of image.bitmaps.changed(name)) sectors.fill(1, offset / 512, (offset + length) / 512)
  })
  return sectors
}

function expected(sectors: Uint8Array, granularity: number): Uint8Array {
  const units = granularity / 512
  return sectors.map((_, at) => {
    const first = at - (at % units)
    return sectors.subarray(first, first + units).includes(1) ? 1 : 0
  })
}

describe(`bitmaps, seed ${seed}`, () => {
  for (const clusterSize of [512, 65536]) {
    itWithQemu(`QC-BMP-04 QC-BMP-07 QC-BMP-08 QC-BMP-09 QC-BMP-10 clusters of ${clusterSize}: QEMU and we record in turn and agree`, () => {
      const directory = temporaryDirectory()
      const path = join(directory, "disk.qcow2")
      const rng = new Rng(seed)
      createImage(path, { size: SIZE, clusterSize })
      withImage(path, false, (image) => image.bitmaps.add("ours", { granularity: 512 }))
      qemuImg("bitmap", "--add", "-g", "4096", path, "theirs")
      const sectors = new Uint8Array(SIZE / 512)
      const note = (offset: number, length: number): void => {
        sectors.fill(1, Math.floor(offset / 512), Math.ceil((offset + length) / 512))
      }
      for (let round = 0; round < 2; round++) {
        withImage(path, false, (image) => {
          for (let count = 0; count < 10; count++) {
            const [offset, length] = [rng.below(SIZE - 100_000), 1 + rng.below(rng.pick([100, 5000, 90_000]))]
            if (rng.chance(0.7)) image.pwrite(new Uint8Array(length).fill(7), offset)
            else image.writeZeroes(offset, length, true)
            note(offset, length)
          }
        })
        const commands = Array.from({ length: 8 }, () => {
          const [offset, length] = [rng.below(SIZE / 512 - 200) * 512, 512 * (1 + rng.below(150))]
          note(offset, length)
          return `write ${rng.chance(0.3) ? "-z" : "-P 3"} ${offset} ${length}`
        })
        qemuIo(path, commands, "-f", "qcow2", "-t", "unsafe")
        expect(qemuCheck(path)).toMatchObject({ exitCode: 0 })
      }
      qemuImg("bitmap", "--disable", path, "ours")
      withImage(path, false, (image) => image.bitmaps.disable("theirs"))
      for (const [name, granularity] of [["ours", 512], ["theirs", 4096]] as const) {
        expect(Buffer.compare(changedByUs(path, name), expected(sectors, granularity)), `${name}, by us`).toBe(0)
        expect(Buffer.compare(changedByQemu(path, name), expected(sectors, granularity)), `${name}, by QEMU`).toBe(0)
      }
      withImage(path, false, (image) => {
        image.bitmaps.add("merged", { granularity: 65536 })
        image.bitmaps.merge("merged", "ours")
        image.bitmaps.remove("ours")
      })
      qemuImg("bitmap", "--clear", path, "theirs")
      qemuImg("bitmap", "--disable", "--merge", "merged", path, "theirs")
      expect(Buffer.compare(changedByUs(path, "theirs"), expected(sectors, 65536))).toBe(0)
      expect(qemuCheck(path)).toMatchObject({ exitCode: 0 })
    })
  }

  itWithQemu("QC-BMP-09 QC-BMP-12 QEMU and we treat a bitmap with in_use alike, and both resize images with bitmaps", () => {
    const path = join(temporaryDirectory(), "disk.qcow2")
    createImage(path, { size: SIZE })
    qemuImg("bitmap", "--add", path, "b")
    withImage(path, false, (image) => {
      image.pwrite(new Uint8Array(512).fill(1), 0)
      image.flush()
      expect(qemuImg("info", "-U", "--output=json", path)).toContain('"in-use"')
    })
    expect(qemuImg("info", "--output=json", path)).not.toContain('"in-use"')
    withImage(path, false, (image) => image.resize(SIZE * 2))
    qemuImg("resize", "-q", path, String(SIZE * 3))
    withImage(path, true, (image) => expect([...image.bitmaps.changed("b")]).toEqual([{ offset: 0, length: 65536 }]))
    expect(qemuCheck(path)).toMatchObject({ exitCode: 0 })
  })
})
