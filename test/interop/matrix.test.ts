/**
 * Interchange with QEMU over a matrix of shapes: what it made and filled, read and changed by us; what we made and filled, read, checked
 * and changed by it.
 */
import { join } from "node:path"
import { describe, expect } from "vitest"
import type { VirtioBacking } from "../../src/backing/backing.ts"
import { createImage } from "../../src/backing/create.ts"
import { openImage } from "../../src/backing/open.ts"
import { readFileSync, writeFileSync } from "node:fs"
import { FlatModel } from "../support/flat-model.ts"
import { modelOf } from "../support/images.ts"
import { itWithQemu, qemuCheck, qemuImg, qemuIo } from "../support/qemu.ts"
import { applyOperation, randomOperation } from "../support/random-operations.ts"
import { Rng, seedFromEnvironment } from "../support/rng.ts"
import { temporaryDirectory } from "../support/temporary.ts"

const seed = seedFromEnvironment(64)

interface Shape {
  readonly compat: "0.10" | "1.1"
  readonly clusterSize: number
  readonly refcountBits: number
  readonly size: number
  readonly backing?: "raw" | "qcow2"
  readonly extendedL2?: boolean
}

const shapes: readonly Shape[] = [
  { compat: "1.1", clusterSize: 65536, refcountBits: 16, size: 3 << 20 },
  { compat: "0.10", clusterSize: 65536, refcountBits: 16, size: 1 << 20 },
  { compat: "0.10", clusterSize: 512, refcountBits: 16, size: 700 * 512 },
  { compat: "1.1", clusterSize: 512, refcountBits: 1, size: 1 << 20 },
  { compat: "1.1", clusterSize: 512, refcountBits: 64, size: 3 << 20 },
  { compat: "1.1", clusterSize: 1024, refcountBits: 2, size: 1 << 20 },
  { compat: "1.1", clusterSize: 4096, refcountBits: 4, size: 1 << 20 },
  { compat: "1.1", clusterSize: 16384, refcountBits: 8, size: 1 << 20 },
  { compat: "1.1", clusterSize: 2 << 20, refcountBits: 32, size: 5 << 20 },
  { compat: "1.1", clusterSize: 4096, refcountBits: 16, size: 1 << 20, backing: "raw" },
  { compat: "1.1", clusterSize: 512, refcountBits: 16, size: 1 << 20, backing: "qcow2" },
  { compat: "0.10", clusterSize: 65536, refcountBits: 16, size: 1 << 20, backing: "raw" },
  { compat: "1.1", clusterSize: 16384, refcountBits: 16, size: 1 << 20, extendedL2: true },
  { compat: "1.1", clusterSize: 131_072, refcountBits: 16, size: 3 << 20, extendedL2: true, backing: "raw" },
]

function nameOf(shape: Shape): string {
  const over = shape.backing === undefined ? "" : `, over ${shape.backing}`
  const extended = shape.extendedL2 === true ? ", extended L2 entries" : ""
  return `compat ${shape.compat}, clusters of ${shape.clusterSize}, refcounts of ${shape.refcountBits} bits${extended}${over}`
}

/** Makes the backing image, shorter than the disk, and returns what the disk reads as over it. */
function makeBacking(directory: string, shape: Shape): FlatModel {
  if (shape.backing === undefined) return new FlatModel(shape.size)
  const content = new Rng(seed).bytes(Math.floor(shape.size * 0.6) - (Math.floor(shape.size * 0.6) % 512))
  const raw = join(directory, "base.raw")
  writeFileSync(raw, content)
  if (shape.backing === "qcow2") {
    qemuImg("convert", "-q", "-t", "unsafe", "-c", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=32k", raw, join(directory, "base.qcow2"))
  }
  return FlatModel.of(content, shape.size)
}

/** Seeded writes, zeroes and discards by qemu-io, which the model follows. */
function fillByQemu(path: string, model: FlatModel, rng: Rng, shape: Shape): void {
  const commands: string[] = []
  for (let count = 0; count < 15; count++) {
    const offset = rng.below(model.size / 512) * 512
    const length = Math.min(model.size - offset, 512 * rng.between(1, 200))
    const pattern = rng.between(1, 255)
    const roll = rng.below(10)
    if (roll < 7) {
      commands.push(`write -P ${pattern} ${offset} ${length}`)
      model.write(new Uint8Array(length).fill(pattern), offset)
    } else if (roll < 9) {
      commands.push(`write -z ${rng.chance(0.5) ? "-u " : ""}${offset} ${length}`)
      model.zero(offset, length)
    } else {
      // A discard of whole clusters; version 2 over a backing image leaves them alone.
      const first = Math.ceil(offset / shape.clusterSize) * shape.clusterSize
      const end = Math.floor((offset + length) / shape.clusterSize) * shape.clusterSize
      if (end <= first || (shape.compat === "0.10" && shape.backing !== undefined)) continue
      commands.push(`discard ${first} ${end - first}`)
      model.zero(first, end - first)
    }
  }
  qemuIo(path, commands, "-f", "qcow2", "-d", "unmap", "-t", "unsafe")
}

function changeByUs(path: string, model: FlatModel, rng: Rng, shape: Shape): void {
  const disk = openImage(path, { format: "qcow2", cacheSize: rng.pick([16 * shape.clusterSize, 1 << 25]) })
  const rule = shape.compat === "0.10" && shape.backing !== undefined ? "anything" : { zeroesClustersOf: shape.clusterSize }
  for (let count = 0; count < 40; count++) applyOperation(disk, model, randomOperation(rng, { size: model.size, longest: 150_000 }), rule)
  disk.close()
}

function expectHolds(disk: VirtioBacking, model: FlatModel): void {
  expect(disk.size).toBe(model.size)
  expect(model.firstDifferenceOf(disk, 1 << 20)).toBe(-1)
  void disk.close()
}

/** What QEMU reads of an image, by converting it to raw. */
function expectQemuReads(path: string, directory: string, model: FlatModel): void {
  const raw = join(directory, "seen-by-qemu.raw")
  qemuImg("convert", "-t", "unsafe", "-f", "qcow2", "-O", "raw", path, raw)
  expect(model.firstDifference(new Uint8Array(readFileSync(raw)), 0)).toBe(-1)
}

describe(`interchange with QEMU, seed ${seed}`, () => {
  for (const shape of shapes) {
    itWithQemu(`QC-HDR-02 QC-REF-03 QC-DZ-04 made by QEMU: ${nameOf(shape)}`, () => {
      const directory = temporaryDirectory()
      const rng = new Rng(seed)
      const model = makeBacking(directory, shape)
      const path = join(directory, "theirs.qcow2")
      const extended = shape.extendedL2 === true ? ",extended_l2=on" : ""
      const options = `compat=${shape.compat},cluster_size=${shape.clusterSize},refcount_bits=${shape.refcountBits}${extended}`
      const backing = shape.backing === undefined ? [] : ["-b", `base.${shape.backing}`, "-F", shape.backing]
      qemuImg("create", "-q", "-f", "qcow2", "-o", options, ...backing, path, String(shape.size))
      fillByQemu(path, model, rng, shape)
      expectHolds(openImage(path, { readOnly: true }), model)
      changeByUs(path, model, rng, shape)
      expect(qemuCheck(path), "after our changes").toMatchObject({ exitCode: 0 })
      expectQemuReads(path, directory, model)
      fillByQemu(path, model, rng, shape)
      expectHolds(openImage(path, { readOnly: true }), model)
    })

    itWithQemu(`QC-REF-11 QC-BF-07 made by us: ${nameOf(shape)}`, () => {
      const directory = temporaryDirectory()
      const rng = new Rng(seed + 1)
      const model = makeBacking(directory, shape)
      const path = join(directory, "ours.qcow2")
      const backing = shape.backing === undefined ? {} : { backing: `base.${shape.backing}`, backingFormat: shape.backing }
      createImage(path, {
        size: shape.size, compat: shape.compat, clusterSize: shape.clusterSize, refcountBits: shape.refcountBits,
        extendedL2: shape.extendedL2 === true, ...backing,
      })
      expect(qemuCheck(path), "as made").toMatchObject({ exitCode: 0 })
      changeByUs(path, model, rng, shape)
      expect(qemuCheck(path), "after our changes").toMatchObject({ exitCode: 0 })
      expectQemuReads(path, directory, model)
      fillByQemu(path, model, rng, shape)
      changeByUs(path, model, rng, shape)
      expect(qemuCheck(path), "after changes in turn").toMatchObject({ exitCode: 0 })
      expectQemuReads(path, directory, model)
    })
  }
})

describe("snapshots and compression", () => {
  itWithQemu.each([
    { compat: "1.1", clusterSize: 1024, refcountBits: 16, size: 1 << 20 },
    { compat: "1.1", clusterSize: 16384, refcountBits: 16, size: 1 << 20, extendedL2: true },
  ] satisfies Shape[])("QC-SNAP-06 QC-EL2-08 QEMU's snapshots stay while we write, and can be applied: %o", (shape: Shape) => {
    const directory = temporaryDirectory()
    const rng = new Rng(seed + 2)
    const path = join(directory, "snapshots.qcow2")
    createImage(path, { size: shape.size, clusterSize: shape.clusterSize, extendedL2: shape.extendedL2 === true })
    const model = new FlatModel(shape.size)
    const kept: FlatModel[] = []
    for (const name of ["one", "two", "three"]) {
      changeByUs(path, model, rng, shape)
      qemuImg("snapshot", "-c", name, path)
      kept.push(model.clone())
    }
    changeByUs(path, model, rng, shape)
    expect(qemuCheck(path)).toMatchObject({ exitCode: 0 })
    qemuImg("snapshot", "-d", "two", path)
    changeByUs(path, model, rng, shape)
    expectQemuReads(path, directory, model)
    for (const [index, name] of [[2, "three"], [0, "one"]] as const) {
      qemuImg("snapshot", "-a", name, path)
      const disk = openImage(path, { readOnly: true })
      expect(kept[index]?.firstDifferenceOf(disk)).toBe(-1)
      disk.close()
    }
    expect(qemuCheck(path)).toMatchObject({ exitCode: 0 })
  })

  for (const type of ["zlib", "zstd"] as const) {
    itWithQemu(`QC-CMP-01 QC-CMP-09 QC-CMP-10 QC-CMP-11 ${type} images of every cluster size are read and overwritten`, () => {
      const directory = temporaryDirectory()
      const rng = new Rng(seed + 3)
      // Runs of one value among noise: clusters of all sorts of compressed sizes, some that do not compress.
      const content = rng.bytes(1 << 20)
      for (let at = 0; at < content.length; at += rng.between(500, 9000)) content.fill(rng.below(256), at, at + rng.between(100, 6000))
      const raw = join(directory, "source.raw")
      writeFileSync(raw, content)
      for (const [clusterSize, extended] of [[512, ""], [4096, ""], [65536, ""], [65536, ",extended_l2=on"], [2 << 20, ""]] as const) {
        const path = join(directory, `${clusterSize}${extended}.qcow2`)
        qemuImg(
          "convert",
          "-q",
          "-t",
          "unsafe",
          "-c",
          "-f",
          "raw",
          "-O",
          "qcow2",
          "-o",
          `cluster_size=${clusterSize},compression_type=${type}${extended}`,
          raw,
          path,
        )
        const model = FlatModel.of(content)
        expectHolds(openImage(path, { readOnly: true }), model)
        changeByUs(path, model, rng, { compat: "1.1", clusterSize, refcountBits: 16, size: content.length })
        expect(qemuCheck(path)).toMatchObject({ exitCode: 0 })
        expectQemuReads(path, directory, model)
      }
    })
  }

  itWithQemu("QC-FEAT-09 after QEMU was killed under lazy refcounts the disk is repaired, and has all flushed writes", () => {
    const path = join(temporaryDirectory(), "killed.qcow2")
    qemuImg("create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on,cluster_size=1k", path, "1M")
    try {
      qemuIo(path, ["write -P 0x5a 3k 200k", "flush", "sigraise 9"], "-f", "qcow2")
    } catch {
      // It dies, as it was told to.
    }
    expect(qemuCheck(path).exitCode).toBe(2)
    const disk = openImage(path)
    const model = new FlatModel(1 << 20)
    model.write(new Uint8Array(200 << 10).fill(0x5a), 3 << 10)
    expect(model.firstDifferenceOf(disk)).toBe(-1)
    expect(modelOf(disk).firstDifferenceOf(disk)).toBe(-1)
    disk.close()
    expect(qemuCheck(path).exitCode).toBe(0)
  })
})
