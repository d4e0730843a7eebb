/**
 * RawBacking over files in memory and of the host: sizes, ends, zeroes and holes, signatures, and hosts that fail. The contract suite has
 * the rest.
 */
import { spawnSync } from "node:child_process"
import { readFileSync, statSync, truncateSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it, onTestFinished } from "vitest"
import { BackingError } from "../../src/backing/backing.ts"
import { HostFile } from "../../src/backing/host/host-file.ts"
import type { ImageFile } from "../../src/backing/image-file.ts"
import { RawBacking } from "../../src/backing/raw.ts"
import { FailingFile } from "../support/failing-file.ts"
import { MemoryFile } from "../support/memory-file.ts"
import { RecordingFile } from "../support/recording-file.ts"
import { Rng } from "../support/rng.ts"
import { temporaryDirectory } from "../support/temporary.ts"

const MIB = 1 << 20

/** A raw disk over a file in memory, and the log of what it does to the file. */
function recorded(content: Uint8Array): { disk: RawBacking; file: MemoryFile; log: RecordingFile["log"] } {
  const file = MemoryFile.of(content)
  const recording = new RecordingFile(file)
  return { disk: new RawBacking(recording), file, log: recording.log }
}

/** A raw disk over a file of the host. */
function hosted(content: Uint8Array | number): { disk: RawBacking; path: string } {
  const path = join(temporaryDirectory(), "disk.img")
  writeFileSync(path, typeof content === "number" ? "" : content)
  if (typeof content === "number") truncateSync(path, content)
  const disk = new RawBacking(new HostFile(path))
  onTestFinished(() => disk.close())
  return { disk, path }
}

function errorOf(work: () => unknown): BackingError {
  try {
    work()
  } catch (error) {
    if (!(error instanceof BackingError)) throw error
    expect(error.message).not.toMatch(/\n/)
    return error
  }
  throw new Error("expected a BackingError, got none")
}

describe("sizes and ends", () => {
  it.each([0, 1, 511, 512, 1000, 65537])("a file of %i bytes is a disk of as many, readable and writable to the last byte", (size) => {
    const content = new Rng(size + 1).bytes(size)
    const { disk, path } = hosted(content)
    expect(disk.size).toBe(size)
    const back = new Uint8Array(size)
    disk.pread(back, 0)
    expect(Buffer.compare(back, content)).toBe(0)
    if (size > 0) {
      disk.pwrite(Uint8Array.of(7), size - 1)
      expect(readFileSync(path)[size - 1]).toBe(7)
    }
    const beyond = [
      () => disk.pwrite(Uint8Array.of(7), size),
      () => disk.pread(new Uint8Array(2), Math.max(size - 1, 0)),
      () => disk.writeZeroes(size, 1, false),
      () => disk.discard?.(0, size + 1),
    ]
    for (const work of beyond) {
      expect(errorOf(work)).toMatchObject({ code: "out-of-bounds", path })
    }
    expect(statSync(path).size).toBe(size)
  })

  it("offsets above 4 GiB and above 2^32 sectors are exact", () => {
    const size = 2 ** 42
    const { disk, path } = hosted(size)
    const rng = new Rng(3)
    const places = [
      2 ** 31 - 256, 2 ** 32 - 256, 3 * 2 ** 32 + 512, 2 ** 41 - 512, 2 ** 41 + 4096, size - 1024,
    ].map((offset) => ({ offset, data: rng.bytes(1024) }))
    for (const { offset, data } of places) disk.pwritev([data.subarray(0, 300), data.subarray(300)], offset)
    const image = new HostFile(path, { readOnly: true })
    onTestFinished(() => image.close())
    for (const { offset, data } of places) {
      const [back, direct] = [new Uint8Array(1024), new Uint8Array(1024)]
      disk.pread(back, offset)
      image.read(direct, offset)
      expect([Buffer.compare(back, data), Buffer.compare(direct, data)]).toEqual([0, 0])
    }
    const back = new Uint8Array(256)
    disk.writeZeroes(2 ** 41 + 4096, 1024, false)
    disk.pread(back, 2 ** 41 + 4096 + 700)
    expect(back.every((byte) => byte === 0)).toBe(true)
    expect(statSync(path).blocks * 512).toBeLessThan(MIB)
  })

  it("a read behind the new end of a truncated file fails and gives no zeroes, and the rest can be read", () => {
    const { disk, path } = hosted(new Uint8Array(10_000).fill(0x77))
    truncateSync(path, 5000)
    const sector = new Uint8Array(512)
    const gone = [
      () => disk.pread(sector, 4900),
      () => disk.preadv([new Uint8Array(50), sector], 4900),
      () => disk.pread(sector, 9000),
      () => disk.writeZeroes(4900, 1000, false),
    ]
    for (const work of gone) {
      expect(errorOf(work)).toMatchObject({ code: "io", message: expect.stringContaining("somebody has cut the file") as string })
    }
    expect(errorOf(() => disk.pread(new Uint8Array(512), 4900)).message).toContain("ends at byte 5000, but the disk has 10000 bytes")
    const buffer = new Uint8Array(100)
    disk.pread(buffer, 4900)
    expect(buffer.every((byte) => byte === 0x77)).toBe(true)
    expect(disk.size).toBe(10_000)
    disk.refreshSize()
    expect([disk.size, errorOf(() => disk.pread(buffer, 4950)).code]).toEqual([5000, "out-of-bounds"])
  })

  it("the new part of a file that has grown belongs to the disk after `refreshSize`", () => {
    const { disk, path } = hosted(1024)
    truncateSync(path, 4096)
    expect([disk.size, errorOf(() => disk.pwrite(new Uint8Array(1), 1024)).code]).toEqual([1024, "out-of-bounds"])
    disk.refreshSize()
    disk.pwrite(Uint8Array.of(5), 4095)
    expect([disk.size, readFileSync(path)[4095]]).toEqual([4096, 5])
  })

  it("vectors of thousands of buffers of one byte move whole", () => {
    const { disk, path } = hosted(MIB)
    const rng = new Rng(4)
    const data = rng.bytes(6000)
    const split = (bytes: Uint8Array) => Array.from({ length: bytes.length }, (_, at) => bytes.subarray(at, at + 1))
    disk.pwritev(split(data), 777)
    expect(Buffer.compare(readFileSync(path).subarray(777, 6777), data)).toBe(0)
    const back = new Uint8Array(6000)
    disk.preadv(split(back), 777)
    expect(Buffer.compare(back, data)).toBe(0)
  })
})

describe("zeroes and holes", () => {
  it("zeroes are written only where the file has data, in whole blocks of 4096", () => {
    const content = new Uint8Array(64 * 1024)
    content.fill(1, 8192, 8200)
    content.fill(1, 40_000, 40_001)
    const { disk, file, log } = recorded(content)
    disk.writeZeroes(0, content.length, false)
    expect(
      log.map((change) => (change.kind === "write" ? [change.offset, change.data.length] : change.kind)),
    ).toEqual([[8192, 4096], [36_864, 4096]])
    expect(file.toBytes().every((byte) => byte === 0)).toBe(true)
    log.length = 0
    disk.writeZeroes(0, content.length, false)
    expect(log).toEqual([])
  })

  it("zeroes over random data change exactly their range", () => {
    const rng = new Rng(5)
    const size = 700_000
    const { disk, file } = recorded(rng.bytes(size))
    const model = file.toBytes()
    for (let round = 0; round < 60; round++) {
      const offset = rng.below(size)
      const length = rng.below(Math.min(size - offset, rng.pick([100, 5000, 600_000])) + 1)
      disk.writeZeroes(offset, length, false)
      model.fill(0, offset, offset + length)
      const data = rng.bytes(Math.min(3000, size - offset))
      disk.pwrite(data, offset)
      model.set(data, offset)
      expect(Buffer.compare(file.toBytes(), model)).toBe(0)
    }
  })

  it("a range of 1 MiB and more is punched if it may be unmapped; other ranges are written", () => {
    const { disk, file, log } = recorded(new Uint8Array(4 * MIB).fill(1))
    const kinds = () => [...new Set(log.splice(0).map(({ kind }) => kind))]
    disk.writeZeroes(0, MIB, true)
    expect(kinds()).toEqual(["punch"])
    disk.writeZeroes(MIB, MIB, false)
    expect(kinds()).toEqual(["write"])
    disk.writeZeroes(2 * MIB, MIB - 1, true)
    expect(kinds()).toEqual(["write"])
    expect(file.toBytes().subarray(0, 3 * MIB - 1).every((byte) => byte === 0)).toBe(true)
    disk.discard?.(3 * MIB, MIB)
    expect(kinds()).toEqual(["punch"])
    disk.discard?.(3 * MIB, 4096)
    expect(kinds()).toEqual([])
    expect(file.size()).toBe(4 * MIB)
  })

  it("a file that turns out unable to punch gets zeroes written, and a discard succeeds", () => {
    const inner = MemoryFile.of(new Uint8Array(2 * MIB).fill(1))
    inner.punchHole = () => false
    const disk = new RawBacking(inner)
    disk.writeZeroes(0, MIB, true)
    expect([inner.toBytes()[0], inner.toBytes()[MIB - 1], inner.toBytes()[MIB]]).toEqual([0, 0, 1])
    disk.discard?.(MIB, MIB)
    expect(inner.toBytes()[MIB]).toBe(1)
  })

  it("a file without holes and a read-only one offer no discard", () => {
    const { punchHole: _, ...without } = bare(MemoryFile.of(new Uint8Array(512)))
    expect(new RawBacking(without).discard).toBeUndefined()
    expect(new RawBacking(MemoryFile.of(new Uint8Array(512), { readOnly: true })).discard).toBeUndefined()
    expect(new RawBacking(MemoryFile.of(new Uint8Array(512))).discard).toBeDefined()
  })

  it("a read-only disk and a closed one refuse zeroes that would change nothing, or of no bytes, like any others", () => {
    const readOnly = new RawBacking(MemoryFile.of(new Uint8Array(8192), { readOnly: true }))
    const closed = new RawBacking(MemoryFile.of(new Uint8Array(8192)))
    closed.close()
    for (const length of [0, 512, 8192]) {
      expect(errorOf(() => readOnly.writeZeroes(0, length, false)).code).toBe("read-only")
      expect(errorOf(() => closed.writeZeroes(0, length, false)).code).toBe("closed")
    }
  })

  it("on the host a discard frees the blocks, and the neighbours stay", () => {
    const { disk, path } = hosted(new Uint8Array(8 * MIB).fill(0x77))
    const canPunch = spawnSync("fallocate", ["--punch-hole", "--offset", "0", "--length", "4096", path]).status === 0
    const before = statSync(path).blocks
    disk.discard?.(2 * MIB + 5, 4 * MIB)
    const content = readFileSync(path)
    expect(content.length).toBe(8 * MIB)
    expect(
      content.subarray(4096, 2 * MIB + 5).every((byte) => byte === 0x77) && content.subarray(6 * MIB + 5).every((byte) => byte === 0x77),
    ).toBe(true)
    if (canPunch) expect(statSync(path).blocks).toBeLessThanOrEqual(before - (3 * MIB) / 512)
    // Zeroes into what is sparse keep it so.
    const sparse = statSync(path).blocks
    if (canPunch) disk.writeZeroes(2 * MIB + 8192, 3 * MIB, false)
    expect(statSync(path).blocks).toBeLessThanOrEqual(sparse)
  })
})

describe("hosts that fail", () => {
  const failing = (calls: readonly ("read" | "write" | "sync")[], code: "io" | "no-space") => {
    const inner = MemoryFile.of(new Uint8Array(MIB).fill(1))
    const file = new FailingFile(inner, { at: 1, calls, code, duration: "once" })
    return { disk: new RawBacking(file), inner }
  }

  it("pass on the code of the failure once, and the disk goes on", () => {
    const buffer = new Uint8Array(512)
    const cases: readonly (readonly ["read" | "write" | "sync", (disk: RawBacking) => void])[] = [
      ["read", (disk) => disk.pread(buffer, 0)],
      ["read", (disk) => disk.preadv([buffer, buffer], 0)],
      ["write", (disk) => disk.pwrite(buffer, 0)],
      ["write", (disk) => disk.pwritev([buffer, buffer], 0)],
      ["sync", (disk) => disk.flush()],
      ["read", (disk) => disk.writeZeroes(0, 512, false)],
      ["write", (disk) => disk.writeZeroes(0, 512, false)],
    ]
    for (const [call, work] of cases) {
      for (const code of ["io", "no-space"] as const) {
        const { disk } = failing([call], code)
        expect(errorOf(() => work(disk)).code).toBe(code)
        work(disk)
      }
    }
  })
})

describe("a disk whose format was guessed", () => {
  const SIGNATURES = [
    "QFI\xfb",
    "QED\0",
    "KDMV",
    "COWD",
    "vhdxfile",
    "conectix",
    "<<< Oracle VM VirtualBox Disk Image >>>",
    "# Disk DescriptorFile\n",
    "WithoutFreeSpace",
    "WithouFreSpacExt",
  ]
  const bytes = (text: string, length = text.length) => Uint8Array.from({ length }, (_, at) => text.charCodeAt(at) || 0)
  const guessed = () => {
    const file = MemoryFile.of(new Uint8Array(4096).fill(1))
    return { file, disk: new RawBacking(file, { guardSignatures: true }) }
  }

  it.each(
    SIGNATURES.map((text) => [JSON.stringify(text), text] as const),
  )("refuses first bytes of another format: %s", (_, text) => {
    const { disk, file } = guessed()
    const sector = bytes(text, 512)
    const refused = (work: () => void) => {
      const error = errorOf(work)
      expect(error.code).toBe("permission")
      expect(error.message).toContain('format "raw"')
      expect(file.toBytes().every((byte) => byte === 1)).toBe(true)
    }
    refused(() => disk.pwrite(sector, 0))
    refused(() => disk.pwritev([sector.subarray(0, 2), sector.subarray(2, 3), sector.subarray(3)], 0))
    // Elsewhere it is data like any other, and so is what only begins like a signature.
    disk.pwrite(sector, 512)
    disk.pwrite(bytes(`${text.slice(0, 3)}x`, 512), 0)
  })

  it("refuses the write that would complete a signature, in whatever order its bytes come", () => {
    for (const text of SIGNATURES) {
      const short = text.slice(0, 4)
      for (const last of [0, 1, 3]) {
        const { disk } = guessed()
        const refusals: number[] = []
        const order = [...Array.from({ length: text.length }, (_, at) => at).filter((at) => at !== last), last]
        for (const at of order) {
          try {
            disk.pwrite(bytes(text.slice(at, at + 1)), at)
          } catch (error) {
            expect(error).toMatchObject({ code: "permission" })
            refusals.push(at)
          }
        }
        expect([short, refusals]).toEqual([short, [last]])
      }
    }
  })

  it("writes the bytes that it has checked, when another thread changes the buffer meanwhile", () => {
    for (const vectored of [false, true]) {
      const inner = MemoryFile.of(new Uint8Array(4096).fill(1))
      const shared = new Uint8Array(new SharedArrayBuffer(512)).fill(2)
      const file = bare(inner)
      const disk = new RawBacking(
        {
          ...file,
          writeFrom: (buffer, start, length, offset) => file.writeFrom((shared.set(bytes("QFI\xfb")), buffer), start, length, offset),
          write: (buffer, offset) => file.write((shared.set(bytes("QFI\xfb")), buffer), offset),
          writev: (buffers, offset) => file.writev((shared.set(bytes("QFI\xfb")), buffers), offset),
        },
        { guardSignatures: true },
      )
      if (vectored) disk.pwritev([shared.subarray(0, 2), shared.subarray(2)], 0)
      else disk.pwrite(shared, 0)
      expect([...inner.toBytes().subarray(0, 4), inner.toBytes()[511], inner.toBytes()[512]]).toEqual([2, 2, 2, 2, 2, 1])
    }
  })

  it("copies only the first bytes for the check, and writes the rest from the guest's RAM", () => {
    const inner = MemoryFile.of(new Uint8Array(MIB))
    const ram = new Rng(6).bytes(MIB)
    const writes: Uint8Array[] = []
    const note = (...buffers: readonly Uint8Array[]) => void writes.push(...buffers)
    const file = bare(inner)
    const disk = new RawBacking(
      {
        ...file,
        writeFrom: (buffer, start, length, offset) => (
          note(buffer.subarray(start, start + length)), file.writeFrom(buffer, start, length, offset)
        ),
        writev: (buffers, offset) => (note(...buffers), file.writev(buffers, offset)),
      },
      { guardSignatures: true },
    )
    const cuts = [[MIB], [4, MIB - 4], [100, MIB - 100], [...Array<number>(50).fill(1), MIB - 50]]
    for (const lengths of cuts) {
      inner.truncate(0)
      inner.truncate(MIB)
      writes.length = 0
      let at = 0
      const buffers = lengths.map((length) => ram.subarray(at, (at += length)))
      if (lengths.length === 1) disk.pwriteFrom(ram, 0, MIB, 0)
      else disk.pwritev(buffers, 0)
      expect(Buffer.compare(inner.toBytes(), ram)).toBe(0)
      const copied = writes.filter(({ buffer }) => buffer !== ram.buffer).reduce((sum, { length }) => sum + length, 0)
      expect([copied > 0, copied <= 512]).toEqual([true, true])
    }
  })

  it("accepts boot sectors, partition tables and zeroes, and with a stated format anything", () => {
    const { disk } = guessed()
    for (const start of [
      "\xeb\x3c\x90mkfs.fat", "\xfa\x33\xc0\x8e\xd0\xbc", "\0\0\0\0\0\0\0\0", "EFI PART", "LUKS\xba\xbe", "QFI\xfa", "qed\0", "<<<<",
    ]) {
      disk.pwrite(bytes(start, 512), 0)
    }
    disk.writeZeroes(0, 512, true)
    disk.pwrite(new Uint8Array(0), 0)
    const stated = new RawBacking(MemoryFile.of(new Uint8Array(4096)))
    for (const text of SIGNATURES) stated.pwrite(bytes(text, 512), 0)
  })
})

/** The file's methods as own properties, so that one can be taken away. */
function bare(file: MemoryFile): ImageFile & { punchHole(offset: number, length: number): boolean } {
  return {
    path: file.path,
    readOnly: file.readOnly,
    size: () => file.size(),
    read: (buffer, offset) => file.read(buffer, offset),
    readv: (buffers, offset) => file.readv(buffers, offset),
    readInto: (buffer, start, length, offset) => file.readInto(buffer, start, length, offset),
    write: (buffer, offset) => file.write(buffer, offset),
    writeFrom: (buffer, start, length, offset) => file.writeFrom(buffer, start, length, offset),
    writev: (buffers, offset) => file.writev(buffers, offset),
    truncate: (size) => file.truncate(size),
    punchHole: (offset, length) => file.punchHole(offset, length),
    sync: () => file.sync(),
    close: () => file.close(),
  }
}
