/** MemoryFile and MemoryBacking.from: what they hold, what they take up, and what comes out of them. */
import { describe, expect, it } from "vitest"
import { BackingError, createQcow2, MemoryBacking, MemoryFile } from "../../src/index.ts"
import { Rng } from "../support/rng.ts"

const CHUNK = 65_536

describe("MemoryFile", () => {
  it("allocates chunks for what is written, and frees those that are cut off, zeroed or punched", () => {
    const file = new MemoryFile()
    file.truncate(2 ** 40)
    expect([file.size(), file.allocated]).toEqual([2 ** 40, 0])
    file.write(new Rng(1).bytes(3 * CHUNK), 2 ** 39)
    expect(file.allocated).toBe(3 * CHUNK)
    file.punchHole(2 ** 39, CHUNK)
    file.zeroRange(2 ** 39 + CHUNK, CHUNK)
    expect(file.allocated).toBe(CHUNK)
    file.truncate(2 ** 39)
    expect(file.allocated).toBe(0)
    file.truncate(2 ** 40)
    const back = new Uint8Array(10).fill(1)
    expect([file.read(back, 2 ** 39 + 2 * CHUNK), back]).toEqual([10, new Uint8Array(10)])
  })

  it("grows as it is written; gaps read as zeroes, and a read ends with the file", () => {
    const file = new MemoryFile({ path: "grown" })
    file.writev([Uint8Array.of(1, 2), Uint8Array.of(3)], CHUNK - 1)
    expect(file.size()).toBe(CHUNK + 2)
    const [first, rest] = [new Uint8Array(3), new Uint8Array(5).fill(9)]
    expect(file.readv([first, rest], CHUNK - 3)).toBe(5)
    expect([first, rest]).toEqual([Uint8Array.of(0, 0, 1), Uint8Array.of(2, 3, 9, 9, 9)])
    expect(file.read(rest, CHUNK + 2)).toBe(0)
    expect(file.read(rest, 2 ** 50)).toBe(0)
  })

  it("gives its content as bytes and as a Blob, with its holes, also when it is closed", async () => {
    const file = new MemoryFile()
    const data = new Rng(2).bytes(CHUNK + 5)
    file.write(data, 3 * CHUNK + 100)
    file.truncate(40 * CHUNK + 17)
    file.close()
    const expected = new Uint8Array(40 * CHUNK + 17)
    expected.set(data, 3 * CHUNK + 100)
    expect(Buffer.compare(file.bytes(), expected)).toBe(0)
    expect(Buffer.compare(new Uint8Array(await file.toBlob().arrayBuffer()), expected)).toBe(0)
    expect(new MemoryFile().bytes().length).toBe(0)
    expect(new MemoryFile().toBlob().size).toBe(0)
    const huge = new MemoryFile()
    huge.truncate(2 ** 31)
    expect(huge.toBlob().size).toBe(2 ** 31)
  })

  it.each([
    ["what it was given", () => MemoryFile.from(new Uint8Array(300_000).fill(1))],
    ["what was written", () => {
      const file = new MemoryFile()
      file.write(new Uint8Array(300_000).fill(1), 0)
      return file
    }],
  ])("gives as many bytes as it has when %s has been cut off", async (_what, make) => {
    for (const size of [200_000, 1000, 0]) {
      const file = make()
      file.truncate(size)
      const expected = new Uint8Array(size).fill(1)
      expect(Buffer.compare(file.bytes(), expected)).toBe(0)
      const blob = file.toBlob() as Blob
      expect(Buffer.compare(new Uint8Array(await blob.arrayBuffer()), expected)).toBe(0)
    }
  })

  it("grows to its largest size, and no further", () => {
    const file = new MemoryFile({ largestSize: 1000 })
    file.write(new Uint8Array(10).fill(1), 990)
    const full = expect.objectContaining({ code: "no-space" })
    expect(() => file.write(new Uint8Array(10), 991)).toThrow(full)
    expect(() => file.writev([new Uint8Array(500), new Uint8Array(501)], 0)).toThrow(full)
    expect(() => file.truncate(1001)).toThrow(full)
    expect([file.size(), file.bytes()[999]]).toEqual([1000, 1])
    file.truncate(500)
    file.truncate(1000)
  })

  it("refuses changes when it is read-only, every call when it is closed, and unknown options", () => {
    const file = MemoryFile.from(new Uint8Array(10), { readOnly: true })
    const changes = [() => file.write(new Uint8Array(1), 0), () => file.truncate(0), () => file.punchHole(0, 1), () => file.writev([], 0)]
    for (const change of changes) expect(change).toThrow(expect.objectContaining({ code: "read-only" }))
    file.close()
    for (const work of [...changes, () => file.size(), () => file.read(new Uint8Array(1), 0), () => file.sync()]) {
      expect(work).toThrow(BackingError)
      expect(work).toThrow(expect.objectContaining({ code: "closed" }))
    }
    const wrong = MemoryFile as unknown as new (options: unknown) => MemoryFile
    expect(() => new wrong({ readonly: true })).toThrow('did you mean "readOnly"?')
    expect(() => MemoryFile.from([1, 2, 3] as unknown as Uint8Array)).toThrow(TypeError)
  })

  it("QC-LIM-04 an image can be made in one", () => {
    const file = new MemoryFile({ path: "new.qcow2" })
    createQcow2(file, { size: 1 << 30 })
    expect(file.allocated).toBeLessThan(6 * CHUNK)
    expect(String.fromCharCode(...file.bytes().subarray(0, 3))).toBe("QFI")
  })
})

describe("from bytes", () => {
  it.each([
    0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 100,
  ])("%i bytes are held without a copy, except for the last piece", (length) => {
    const bytes = new Rng(3).bytes(length)
    const given = bytes.slice()
    for (const holder of [MemoryFile.from(given, { path: "given" }), MemoryBacking.from(given)]) {
      const back = new Uint8Array(length)
      if (holder instanceof MemoryFile) holder.read(back, 0)
      else holder.pread(back, 0)
      expect(Buffer.compare(back, bytes)).toBe(0)
    }
    const disk = MemoryBacking.from(given)
    expect([disk.size, disk.readOnly]).toEqual([length, false])
    disk.pwrite(new Uint8Array(length).fill(7), 0)
    const whole = length - (length % CHUNK)
    expect(given.subarray(0, whole).every((byte) => byte === 7)).toBe(true)
    expect(Buffer.compare(given.subarray(whole), bytes.subarray(whole))).toBe(0)
  })

  it("zeroing keeps what it was given; growing beyond it reads as zeroes", () => {
    const given = new Uint8Array(2 * CHUNK).fill(5)
    const disk = MemoryBacking.from(given)
    disk.writeZeroes(0, 2 * CHUNK)
    expect([given.every((byte) => byte === 0), disk.allocated]).toEqual([true, 2 * CHUNK])
    const odd = MemoryBacking.from(new Uint8Array(CHUNK + 7).fill(5))
    odd.resize(3 * CHUNK)
    const back = new Uint8Array(2 * CHUNK).fill(1)
    odd.pread(back, CHUNK)
    expect([back.indexOf(0), back.subarray(7).every((byte) => byte === 0)]).toEqual([7, true])
    expect(() => MemoryBacking.from(given, { readOnly: true }).pwrite(new Uint8Array(1), 0)).toThrow(BackingError)
  })
})
