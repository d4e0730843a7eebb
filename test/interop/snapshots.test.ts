/** Snapshots and sizes in turn with QEMU: each works on what the other has left, and both find it sound. */
import { rmSync } from "node:fs"
import { join } from "node:path"
import { describe, expect } from "vitest"
import { createImage, type CreateImageOptions } from "../../src/backing/create.ts"
import { openImage } from "../../src/backing/open.ts"
import { Qcow2Image } from "../../src/backing/qcow2/image.ts"
import { itWithQemu, qemuCheck, qemuImg, qemuIo } from "../support/qemu.ts"
import { temporaryDirectory } from "../support/temporary.ts"

const SIZE = 4 << 20
const MIB = 1 << 20

const shapes: readonly (readonly [string, Partial<CreateImageOptions>])[] = [
  ["defaults", {}], ["512-byte clusters", { clusterSize: 512, size: MIB / 2 }],
  ["64-bit refcounts", { clusterSize: 4096, refcountBits: 64 }],
  ["version 2", { compat: "0.10" }], ["extended L2", { extendedL2: true }],
]

/** Opens it, works, closes it; then QEMU must find it sound. */
function ours<T>(path: string, work: (disk: Qcow2Image) => T): T {
  const disk = openImage(path)
  if (!(disk instanceof Qcow2Image)) throw new Error("not a qcow2 image")
  const result = work(disk)
  disk.close()
  sound(path)
  return result
}

function sound(path: string): void {
  expect(qemuCheck(path)).toMatchObject({ exitCode: 0, corruptions: 0, leaks: 0 })
}

const first = (disk: Qcow2Image): number => {
  const byte = new Uint8Array(1)
  disk.pread(byte, 70_000)
  return byte[0] ?? -1
}

const fill = (disk: Qcow2Image, value: number): void => disk.pwrite(new Uint8Array(200_000).fill(value), 12_345)

describe("snapshots and sizes in turn with QEMU", () => {
  for (const [name, options] of shapes) {
    itWithQemu(`QC-SNAP-05 QC-SNAP-07 QC-SNAP-08 QC-SNAP-09 QC-SNAP-10 QC-RSZ-02 QC-RSZ-04 ${name}`, () => {
      const path = join(temporaryDirectory(), "disk.qcow2")
      const size = options.size ?? SIZE
      createImage(path, { ...options, size })
      const state = Uint8Array.from({ length: 100_001 }, (_, at) => at * 3)
      ours(path, (disk) => {
        fill(disk, 1)
        disk.snapshots.create({ name: "ours", vmState: state })
        fill(disk, 2)
      })
      expect(qemuImg("snapshot", "-l", path)).toMatch(/ours +97.7 KiB/)
      qemuImg("snapshot", "-c", "theirs", path)
      sound(path)
      expect(ours(path, (disk) => {
        fill(disk, 3)
        disk.snapshots.create({ name: "three" })
        disk.snapshots.apply("theirs")
        return first(disk)
      })).toBe(2)
      qemuImg("snapshot", "-a", "ours", path)
      sound(path)
      expect(ours(path, (disk) => {
        const { view, offset, size: length } = disk.snapshots.openVmState("ours")
        const found = new Uint8Array(length)
        view.pread(found, offset)
        expect(Buffer.compare(found, state)).toBe(0)
        disk.snapshots.delete("theirs")
        return first(disk)
      })).toBe(1)
      qemuIo(path, ["write -P 7 0 64k"], "-f", "qcow2")
      qemuImg("snapshot", "-d", "ours", path)
      expect(ours(path, (disk) => [first(disk), first(disk.snapshots.open("three"))])).toEqual([1, 3])
      qemuImg("snapshot", "-d", "three", path)
      ours(path, (disk) => disk.resize(size * 2))
      qemuImg("resize", "--shrink", path, String(size / 2))
      qemuImg("resize", path, String(size * 3))
      ours(path, (disk) => disk.resize(65_536, { shrink: true }))
      qemuIo(path, ["read -P 7 0 12288"], "-f", "qcow2")
      rmSync(path)
    })
  }
})
