/** A call that throws what is no `BackingError` passes through the format untouched; the call, repeated, ends as if nothing had been. */
import { describe, expect, it } from "vitest"
import { BackingError } from "../../../src/backing/backing.ts"
import { checkQcow2 } from "../../../src/backing/qcow2/check/check.ts"
import type { Qcow2Image } from "../../../src/backing/qcow2/image.ts"
import type { Qcow2Options } from "../../../src/backing/qcow2/open.ts"
import { ForgetfulFile } from "../../support/forgetful-file.ts"
import { goldenBytes } from "../../support/golden.ts"
import { goldenBacking, openInMemory } from "../../support/images.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { perform } from "../../support/perform.ts"
import { randomOperation } from "../../support/random-operations.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { failureOf, fileOf, filled, newImage, withImage } from "./small-images.ts"
import { Qcow2Bytes } from "../../support/qcow2-bytes.ts"

const seed = seedFromEnvironment(17)
const golden = [
  "v3-512.qcow2", "v3-4k.qcow2", "snapshots.qcow2", "zlib-512.qcow2", "zstd-4k.qcow2", "overlay-short.qcow2", "refcount-64.qcow2",
  "zero.qcow2", "dirty.qcow2", "overlay-extended-l2.qcow2", "extended-l2-zlib.qcow2",
]

interface Shape {
  readonly name: string
  readonly file: MemoryFile
  readonly openBacking?: NonNullable<Qcow2Options["openBacking"]>
}

/** More refcount blocks than the cache holds: freeing clusters has to read them again. */
function manyRefcountBlocks(): Shape {
  const file = newImage({ size: 1 << 20, clusterSize: 512, refcountBits: 64 })
  withImage(file, (disk) => disk.pwrite(filled(1 << 20, 3), 0))
  return { name: "many refcount blocks", file }
}

const shapes: readonly Shape[] = [
  manyRefcountBlocks(),
  ...golden
    .map((name) => ({ name, file: MemoryFile.of(goldenBytes(name), { path: name }), openBacking: goldenBacking(name) })),
]

/** Does random operations on the image in `file`; each call goes through `insist`. Returns what reads have returned. */
function run({ openBacking }: Shape, file: MemoryFile, wrap: ForgetfulFile | undefined): Buffer[] {
  const insist = <T>(work: () => T): T => (wrap === undefined ? work() : wrap.insist(work))
  const disk: Qcow2Image = insist(
    () => openInMemory(wrap ?? file, { cacheSize: 8192, ...(openBacking === undefined ? {} : { openBacking }) }),
  )
  const rng = new Rng(seed)
  const seen: Buffer[] = []
  for (let index = 0; index < 40; index++) {
    const operation = randomOperation(rng, { size: disk.size, focus: 60_000, longest: 9000 })
    insist(() => perform(disk, operation))
    const content = new Uint8Array(3000)
    const offset = rng.below(disk.size - content.length)
    insist(() => disk.pread(content, offset))
    seen.push(Buffer.from(content))
  }
  insist(() => disk.close())
  return seen
}

class Interruption extends Error {}

/** A file whose write or sync number `callsLeft`, counted from now, throws what is no `BackingError`. */
class InterruptedFile extends MemoryFile {
  callsLeft = Number.POSITIVE_INFINITY

  override writeFrom(buffer: Uint8Array, start: number, length: number, offset: number): void {
    this.#count()
    super.writeFrom(buffer, start, length, offset)
  }

  override sync(): void {
    this.#count()
    super.sync()
  }

  #count(): void {
    if (--this.callsLeft === 0) throw new Interruption("not now")
  }
}

/** The interruption that stops `work`, which otherwise fails with a `BackingError`. */
function interrupted(work: () => void): Interruption | undefined {
  try {
    work()
  } catch (error) {
    if (error instanceof Interruption) return error
    if (error instanceof BackingError) return undefined
    throw error
  }
  throw new Error("it succeeded")
}

describe(`bytes that are not loaded yet, seed ${seed}`, () => {
  for (const shape of shapes) {
    it(`QC-L2-11 ${shape.name}: calls that are repeated until their bytes are here leave the same file, byte for byte`, () => {
      const plain = shape.file.clone()
      const expected = run(shape, plain, undefined)
      const file = shape.file.clone()
      const forgetful = new ForgetfulFile(file, new Rng(seed + 1))
      expect(run(shape, file, forgetful)).toEqual(expected)
      expect(forgetful.faults).toBeGreaterThan(20)
      expect(Buffer.compare(file.toBytes(), plain.toBytes())).toBe(0)
      expect(checkQcow2(MemoryFile.of(file.toBytes())).exitCode).toBe(0)
    })
  }

  it("QC-FEAT-10 corruption that is found while bytes are missing is marked once they are loaded", () => {
    const ready = withImage(newImage({ clusterSize: 4096 }), (disk) => disk.pwrite(filled(4096, 7), 0))
    const inner = fileOf(ready.setL2(0, (1n << 63n) | BigInt(ready.l1Offset)))
    const file = new ForgetfulFile(inner, new Rng(seed))
    const disk = file.insist(() => openInMemory(file))
    file.insist(() => disk.pwrite(filled(4096, 6), 8192))
    expect(failureOf(() => file.insist(() => disk.pwrite(filled(512, 9), 0))).code).toBe("corrupt")
    expect(new Qcow2Bytes(inner.toBytes()).incompatible).toBe(2n)
    expect(failureOf(() => disk.flush()).code).toBe("corrupt")
  })

  it("QC-FEAT-10 if any write or sync fails with a foreign error while corruption is marked, the repeated call marks it", () => {
    const ready = withImage(newImage({ clusterSize: 4096 }), (disk) => disk.pwrite(filled(4096, 7), 0))
    ready.setL2(0, (1n << 63n) | BigInt(ready.l1Offset))
    let at = 1
    for (; ; at++) {
      const file = new InterruptedFile()
      file.adopt(fileOf(ready))
      const disk = openInMemory(file)
      disk.pwrite(filled(4096, 6), 8192)
      file.callsLeft = at
      if (interrupted(() => disk.pwrite(filled(512, 9), 0)) === undefined) break
      file.callsLeft = Number.POSITIVE_INFINITY
      expect(failureOf(() => disk.pwrite(filled(512, 9), 0)).message, `call ${at}`).not.toContain("nothing more is written to it")
      expect(new Qcow2Bytes(file.toBytes()).incompatible, `call ${at}`).toBe(2n)
      disk.close()
    }
    expect(at).toBeGreaterThan(4)
  })
})
