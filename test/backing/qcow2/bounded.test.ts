/** What one call costs at the most, counted in calls and bytes of the file: hostile images, hostile guests, unlucky geometry. */
import { afterEach, describe, expect, it, vi } from "vitest"
import { checkQcow2 } from "../../../src/backing/qcow2/check/check.ts"
import { openQcow2 } from "../../../src/backing/host/open-qcow2.ts"
import { CountingFile } from "./counting-file.ts"
import { ownRun } from "../../../src/backing/qcow2/layers/layer-run.ts"
import { Mapping } from "../../../src/backing/qcow2/metadata/mapping.ts"
import { TopTable } from "../../../src/backing/qcow2/metadata/top-table.ts"
import type { MemoryFile } from "../../support/memory-file.ts"
import { Qcow2Bytes } from "../../support/qcow2-bytes.ts"
import { contentOf, COPIED, fileOf, filled, isZero, newImage, newOverlay, withImage } from "./small-images.ts"

const MIB = 1 << 20

function store(file: MemoryFile, words: readonly (readonly [at: number, value: bigint])[]): void {
  for (const [at, value] of words) {
    const bytes = new Uint8Array(8)
    new DataView(bytes.buffer).setBigUint64(0, value)
    file.write(bytes, at)
  }
}

describe("a flush", () => {
  it("stores a bounded number of tables, however much was written", () => {
    const file = CountingFile.over(newImage({ size: 64 * MIB, clusterSize: 512 }))
    const disk = openQcow2(file)
    for (let offset = 0; offset < 40 * MIB; offset += MIB) file.during(() => disk.pwrite(filled(MIB, 7), offset))
    file.during(() => disk.flush())
    expect(file.writes).toBeLessThan(600)
    disk.close()
    expect(checkQcow2(file.clone()).exitCode).toBe(0)
  })

  it("frees a few clusters at a time when each needs a refcount block of 2 MiB, in little memory, and closing frees the rest", () => {
    const CLUSTER = 2 * MIB
    const PER_BLOCK = CLUSTER / 8
    const COUNT = 40
    const file = newImage({ size: 2 ** 40, clusterSize: CLUSTER, refcountBits: 64 })
    const image = new Qcow2Bytes(file.toBytes())
    const table = 100 * CLUSTER
    const used = (cluster: number) => [image.refcountBlock(0) + cluster * 8, 1n] as const
    // Data clusters 512 GiB apart, in blocks of their own: a sparse file of a few KiB.
    const scattered = Array.from({ length: COUNT }, (_, index) => index + 1)
    store(file, [
      used(100),
      [image.l1At(0), COPIED | BigInt(table)],
      ...scattered.flatMap((index) => [
        used(200 + index),
        [image.refcountTableOffset + 8 * index, BigInt((200 + index) * CLUSTER)] as const,
        [(200 + index) * CLUSTER + 5 * 8, 1n] as const,
        [table + 8 * index, COPIED | (BigInt(index * PER_BLOCK + 5) * BigInt(CLUSTER))] as const,
      ]),
    ])
    file.truncate((300 + COUNT) * CLUSTER)
    const counting = CountingFile.over(file)
    const disk = openQcow2(counting)
    disk.discard(0, 1000 * CLUSTER)
    for (let flush = 0; flush < 5; flush++) expect(counting.during(() => disk.flush()).readBytes).toBeLessThanOrEqual(2 * CLUSTER)
    disk.close()
    for (const index of scattered) {
      const count = new Uint8Array(8)
      counting.clone().read(count, (200 + index) * CLUSTER + 5 * 8)
      expect(count).toEqual(new Uint8Array(8))
    }
  })

  it("QC-DZ-08 punches few holes in the host's file, and later flushes punch the rest", () => {
    const file = newImage({ size: 64 * MIB })
    withImage(file, (disk) => disk.pwrite(filled(64 * MIB, 7), 0))
    const counting = CountingFile.over(file)
    const disk = openQcow2(counting)
    let punches = 0
    const counted = (work: () => void): void => {
      counting.during(work)
      // A discard makes room, as a flush does, when much waits to be freed.
      expect(counting.punches).toBeLessThanOrEqual(2)
      punches += counting.punches
    }
    for (let index = 0; index < 16; index++) counted(() => disk.discard(index * 4 * MIB, 2 * MIB))
    for (let flush = 0; flush < 8; flush++) counted(() => disk.flush())
    expect(punches).toBe(16)
    disk.close()
    expect(Buffer.compare(contentOf(openQcow2(counting.clone()), 2 * MIB, 2 * MIB), filled(2 * MIB, 7))).toBe(0)
  })

  it("QC-DZ-08 punches no hole at a cluster that is in use again", () => {
    const file = newImage({ size: 32 * MIB })
    withImage(file, (disk) => disk.pwrite(filled(32 * MIB, 7), 0))
    const counting = CountingFile.over(file)
    const disk = openQcow2(counting)
    for (let index = 0; index < 8; index++) disk.discard(index * 4 * MIB, 2 * MIB)
    disk.flush()
    for (let index = 0; index < 8; index++) disk.pwrite(filled(2 * MIB, 9), index * 4 * MIB)
    for (let flush = 0; flush < 8; flush++) disk.flush()
    const expected = Buffer.concat([filled(2 * MIB, 9), filled(2 * MIB, 7)])
    for (let index = 0; index < 8; index++) expect(Buffer.compare(contentOf(disk, index * 4 * MIB, 4 * MIB), expected)).toBe(0)
    disk.close()
    expect(checkQcow2(counting.clone()).exitCode).toBe(0)
  })
})

describe("an allocation", () => {
  /** An image whose refcount blocks say that the first 128 MiB of the file are in use, but for one cluster near their end. */
  function fullImage(): { file: MemoryFile; hole: number; blocks: number } {
    const CLUSTER = 512
    const blocks = 1024
    const perBlock = CLUSTER / 2
    const file = newImage({ size: 64 * MIB, clusterSize: CLUSTER })
    const first = 4096
    const tableClusters = (blocks * 8) / CLUSTER
    const table = new Uint8Array(tableClusters * CLUSTER)
    const all = new Uint8Array(blocks * CLUSTER)
    const view = new DataView(all.buffer)
    for (let at = 0; at < all.length; at += 2) view.setUint16(at, 1)
    const hole = blocks * perBlock - 100
    view.setUint16(hole * 2, 0)
    for (let index = 0; index < blocks; index++) {
      new DataView(table.buffer).setUint32(index * 8 + 4, (first + tableClusters + index) * CLUSTER)
    }
    file.write(table, first * CLUSTER)
    file.write(all, (first + tableClusters) * CLUSTER)
    const pointer = new Uint8Array(12)
    new DataView(pointer.buffer).setBigUint64(0, BigInt(first * CLUSTER))
    new DataView(pointer.buffer).setUint32(8, tableClusters)
    file.write(pointer, 48)
    return { file, hole: hole * CLUSTER, blocks }
  }

  it("reads few refcount blocks in a call, extends the file meanwhile, and finds the free cluster in the end", () => {
    const { file, hole, blocks } = fullImage()
    const counting = CountingFile.over(file)
    const disk = openQcow2(counting)
    let mostReads = 0
    let places: number[] = []
    for (let offset = 0; offset < 64 * MIB && !places.includes(hole); offset += 65536) {
      // A table and 64 clusters for each half.
      counting.during(() => disk.pwrite(filled(65536, 7), offset))
      mostReads = Math.max(mostReads, counting.reads)
      places = [...disk.map(offset, 65536)].flatMap(
        ({ hostOffset = 0, length }) => Array.from({ length: length / 512 }, (_, index) => hostOffset + index * 512),
      )
    }
    expect(mostReads).toBeLessThan(blocks / 4)
    expect(places).toContain(hole)
    disk.close()
    expect(Buffer.compare(contentOf(openQcow2(counting.clone()), 0, 65536), filled(65536, 7))).toBe(0)
  })
})

describe("zeroes", () => {
  it("zeroesAtOnce covers a few thousand L2 entries, and less where zeroes are written as data", () => {
    expect(openQcow2(newImage({ clusterSize: 512 })).zeroesAtOnce).toBe(2 * MIB)
    expect(openQcow2(newImage()).zeroesAtOnce).toBe(256 * MIB)
    const old = newOverlay(filled(MIB, 5), { compat: "0.10" })
    expect(old.open().zeroesAtOnce).toBe(MIB)
    expect(newOverlay(filled(MIB, 5)).open().zeroesAtOnce).toBe(256 * MIB)
    expect(openQcow2(fileOf(new Qcow2Bytes(newImage({ compat: "0.10" }).toBytes()))).zeroesAtOnce).toBe(256 * MIB)
  })
})

describe("a call for all of a huge disk", () => {
  const TIB = 2 ** 40
  const SIZE = 64 * TIB
  /** In L2 tables of their own, the last one at the end. */
  const PLACES = [5 * TIB, 40 * TIB + 65536, SIZE - 65536]

  afterEach(() => void vi.restoreAllMocks())

  /** 131072 entries in the L1 table, three of which are in use. */
  function hugeDisk(options: Parameters<typeof newImage>[0] = {}): MemoryFile {
    const file = newImage({ size: SIZE, ...options })
    withImage(file, (disk) => { for (const place of PLACES) disk.pwrite(filled(65536, 7), place) })
    return file
  }

  /** How many L1 entries `work` takes one by one. */
  function lookUps(work: () => void): number {
    const hi = vi.spyOn(TopTable.prototype, "hi")
    work()
    const { length } = hi.mock.calls
    hi.mockRestore()
    return length
  }

  it.each([["discards", false, undefined], ["zeroes", true, undefined], ["zeroes in version 2", true, "0.10"]] as const)(
    "QC-DZ-01 %s what is there, and passes the tables that are missing together",
    (_, zeroes, compat) => {
      const file = hugeDisk(compat && { compat })
      const disk = openQcow2(file)
      expect(lookUps(() => (zeroes ? disk.writeZeroes(0, SIZE, true) : disk.discard(0, SIZE)))).toBeLessThan(30)
      for (const place of PLACES) expect(isZero(contentOf(disk, place, 65536))).toBe(true)
      expect([...disk.map(0, SIZE)].filter(({ hostOffset }) => hostOffset !== undefined)).toEqual([])
      disk.close()
      expect(checkQcow2(file.clone())).toMatchObject({ exitCode: 0, allocatedClusters: 0 })
    },
  )

  it("maps it, and tells what is allocated, in as few steps", () => {
    const disk = openQcow2(hugeDisk())
    const extents: [number, number, string][] = []
    const count = lookUps(() => {
      for (const { offset, length, kind } of disk.map(0, SIZE)) extents.push([offset, length, kind])
    })
    const at = [0, ...PLACES.flatMap((place) => [place, place + 65536])]
    expect(extents).toEqual(at.slice(0, -1).map((from, index) => [from, (at[index + 1] ?? 0) - from, index % 2 === 0 ? "backing" : "data"]))
    expect(count).toBeLessThan(30)
    const [first = 0] = PLACES
    expect(disk.allocation(512, SIZE - 512)).toEqual({ length: first - 512, isAllocated: false, isZero: true })
    expect(disk.allocation(512, 1000)).toMatchObject({ length: 1000 })
    expect(ownRun(disk, first + 65536, SIZE - first - 65536)).toMatchObject({ isOwn: false })
  })

  it("QC-LIM-05 looks at half a million entries in a step of a map, though one table stands for all of the disk", () => {
    const TABLES = 20_000
    const COVERAGE = 32_768
    const file = newImage({ size: TABLES * COVERAGE, clusterSize: 512 })
    const image = withImage(file, (disk) => disk.pwrite(filled(512, 7), 0))
    const table = image.u64(image.l1Offset)
    for (let index = 0; index < TABLES; index++) image.setU64(image.l1Offset + index * 8, table)
    const disk = openQcow2(fileOf(image.setU64(Number(table & ~COPIED), 0n)), { readOnly: true })
    const find = vi.spyOn(Mapping.prototype, "find")
    const steps: number[] = []
    let end = 0
    for (const { offset, length, kind } of disk.map(0, disk.size)) {
      expect([offset, kind]).toEqual([end, "backing"])
      end += length
      steps.push(find.mock.calls.length)
      find.mockClear()
    }
    expect(end).toBe(disk.size)
    // One more, because a step ends where the next extent is known.
    expect(Math.max(...steps)).toBeLessThanOrEqual(8193)
    expect(steps.length).toBe(3)
  })

  it("writes zero flags over a backing image up to its end, and passes the rest", () => {
    const { open } = newOverlay(filled(MIB, 5), { size: SIZE })
    const disk = open()
    expect(lookUps(() => disk.discard(0, SIZE))).toBeLessThan(30)
    expect(isZero(contentOf(disk, 0, 2 * MIB))).toBe(true)
    expect([...disk.map(0, SIZE)].map(({ length, kind }) => [length, kind])).toEqual([[MIB, "zero"], [SIZE - MIB, "backing"]])
  })
})
