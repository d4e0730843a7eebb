/** A header that is replaced while power may fail: whatever reaches the disk is the old header or the new one. */
import { describe, expect, it } from "vitest"
import { backingFormat, type Qcow2Header, serialiseHeader } from "../../../../src/backing/qcow2/format/header.ts"
import { COVER_TYPE, type HeaderWrite, headerWrites } from "../../../../src/backing/qcow2/format/header-rewrite.ts"
import { parseHeader } from "../../../../src/backing/qcow2/format/parse-header.ts"
import { createQcow2 } from "../../../../src/backing/qcow2/create.ts"
import { MemoryFile } from "../../../support/memory-file.ts"
import { Rng, seedFromEnvironment } from "../../../support/rng.ts"

const SECTOR = 512
const seed = seedFromEnvironment(77)
const text = (bytes: number, letter: string): Uint8Array => new Uint8Array(bytes).fill(letter.charCodeAt(0))

/** The first cluster of a fresh image, and its header. */
function fresh(clusterSize: number, compat: "0.10" | "1.1", name: string | undefined): { cluster: Uint8Array; header: Qcow2Header } {
  const file = new MemoryFile()
  createQcow2(file, { size: 1 << 20, clusterSize, compat, ...(name === undefined ? {} : { backing: name, backingFormat: "raw" }) })
  const cluster = file.toBytes().slice(0, clusterSize)
  return { cluster, header: parseHeader(cluster, "fresh") }
}

/** What matters of a header: a cover is nothing. */
function meaning(cluster: Uint8Array): string {
  const header = parseHeader(cluster, "torn")
  const extensions = header.extensions.filter(({ type }) => type !== COVER_TYPE)
  return JSON.stringify({ ...header, extensions, format: backingFormat(header) }, (_, value: unknown) => {
    if (value instanceof Uint8Array) return Buffer.from(value).toString("latin1")
    return typeof value === "bigint" ? String(value) : value
  })
}

/** All that a power cut during the last of `writes` may leave: any set of its sectors. */
function* torn(before: Uint8Array, write: HeaderWrite, rng: Rng): Generator<Uint8Array> {
  const sectors: HeaderWrite[] = []
  for (let at = 0; at < write.bytes.length;) {
    const offset = write.offset + at
    const length = Math.min(SECTOR - (offset % SECTOR), write.bytes.length - at)
    sectors.push({ offset, bytes: write.bytes.subarray(at, at + length) })
    at += length
  }
  const every = sectors.length <= 4
  for (let round = 0; round < (every ? 2 ** sectors.length : 12); round++) {
    const cluster = before.slice()
    sectors.forEach(({ offset, bytes }, index) => {
      if (every ? (round >> index) % 2 === 1 : rng.chance(0.5)) cluster.set(bytes, offset)
    })
    yield cluster
  }
}

function apply(cluster: Uint8Array, { offset, bytes }: HeaderWrite): Uint8Array {
  const after = cluster.slice()
  after.set(bytes, offset)
  return after
}

/** Replaces the header, looks at each state in between, and goes on from some of them. Returns the writes. */
function replaceEverywhere(cluster: Uint8Array, next: Qcow2Header, depth: number): readonly HeaderWrite[] {
  const rng = new Rng(seed)
  const bytes = serialiseHeader(next, "next")
  const target = new Uint8Array(cluster.length)
  target.set(bytes)
  const allowed = [meaning(cluster), meaning(target)]
  const writes = headerWrites(cluster, bytes)
  let now = cluster
  for (const write of writes) {
    for (const left of torn(now, write, rng)) {
      expect(allowed).toContain(meaning(left))
      if (depth > 0 && rng.chance(0.2)) replaceEverywhere(left, next, depth - 1)
    }
    now = apply(now, write)
  }
  expect(Buffer.compare(now, target)).toBe(0)
  return writes
}

describe("QC-HDR-15, QC-EXT-04: a header that is replaced", () => {
  for (const clusterSize of [512, 4096]) {
    for (const compat of ["0.10", "1.1"] as const) {
      it(`is the old or the new one after a cut at any sector (${clusterSize}-byte clusters, ${compat}, seed ${seed})`, () => {
        const longest = clusterSize === 512 ? 40 : 900
        const { cluster, header } = fresh(clusterSize, compat, "a".repeat(longest))
        const unknown = { type: 0x1234_5678, data: text(clusterSize === 512 ? 16 : 300, "u") }
        const changes: Partial<Qcow2Header>[] = [
          { backingFile: undefined, extensions: [] },
          { backingFile: text(10, "b"), extensions: [unknown] },
          { backingFile: text(longest, "c"), extensions: [...header.extensions, unknown] },
          { backingFile: text(longest, "d") },
        ]
        for (const change of changes) replaceEverywhere(cluster, { ...header, ...change }, 1)
        const bare = fresh(clusterSize, compat, undefined)
        const zeroes = { type: 0x1234_5678, data: new Uint8Array(clusterSize === 512 ? 16 : 600) }
        const named = { ...header, extensions: [zeroes] }
        replaceEverywhere(bare.cluster, named, 1)
        const before = new Uint8Array(clusterSize)
        before.set(serialiseHeader({ ...named, backingFile: undefined }, "before"))
        replaceEverywhere(before, { ...named, extensions: [unknown] }, 1)
      })
    }
  }

  it("is written at once if only its first sector changes, and not at all if nothing does", () => {
    const { cluster, header } = fresh(65536, "0.10", undefined)
    expect(headerWrites(cluster, serialiseHeader(header, "same"))).toEqual([])
    const writes = headerWrites(cluster, serialiseHeader({ ...header, backingFile: text(100, "n") }, "named"))
    expect(writes.map(({ offset, bytes }) => [offset, bytes.length])).toEqual([[0, SECTOR]])
  })

  it("is written at once if the cluster has no room for two", () => {
    const { cluster, header } = fresh(1024, "1.1", "a".repeat(800))
    const writes = headerWrites(cluster, serialiseHeader({ ...header, backingFile: text(790, "n") }, "named"))
    expect(writes.map(({ offset, bytes }) => [offset, bytes.length])).toEqual([[0, 1024]])
  })
})
