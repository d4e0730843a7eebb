/** Zoned disks below the device: random operations against a model, what is refused, and zones that outlive the process. */
import { existsSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { BackingError, type VirtioBacking } from "../../../src/backing/backing.ts"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { RawBacking } from "../../../src/backing/raw.ts"
import { type ZoneOptions, zoneShape } from "../../../src/backing/zoned/shape.ts"
import { createSideFile, openSideFile } from "../../../src/backing/zoned/side-file.ts"
import { ZonedDisk, zonedDisk } from "../../../src/backing/zoned/zoned-disk.ts"
import { createZonedImage, openZonedImage } from "../../../src/backing/host/zoned-image.ts"
import { FailingFile } from "../../support/failing-file.ts"
import { MemoryFile } from "../../support/memory-file.ts"
import { RecordingFile } from "../../support/recording-file.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { temporaryDirectory } from "../../support/temporary.ts"

const S = 512
const SEED = seedFromEnvironment(20_261_126)
const ZONES: ZoneOptions = { zoneSize: 8 * S, zoneCapacity: 6 * S, conventionalZones: 1, maxOpenZones: 2, maxActiveZones: 3 }
const SIZE = 60 * S
const COUNT = 8

/** What a guest may know of a sequential zone: the bytes that it has written. */
type Content = readonly Uint8Array[]

const read = (disk: VirtioBacking, offset: number, length: number): Uint8Array => {
  const buffer = new Uint8Array(length).fill(0xa5)
  void disk.pread(buffer, offset)
  return buffer
}
const joined = (content: Content, length: number): Uint8Array => {
  const bytes = new Uint8Array(length)
  bytes.set(Buffer.concat(content))
  return bytes
}
const zoneLength = (index: number): number => Math.min(8 * S, SIZE - index * 8 * S)
const codeOf = (work: () => unknown): string | undefined => {
  try {
    work()
    return undefined
  } catch (error) {
    if (!(error instanceof BackingError)) throw error
    return error.code
  }
}

/** Does something at random. Returns what the zone holds afterwards, and whether that was made to last. */
function step(disk: ZonedDisk, rng: Rng, contents: Content[]): void {
  const index = rng.between(1, COUNT - 1)
  const start = index * 8 * S
  const [zone] = disk.zones.report(start, 1)
  if (zone === undefined) throw new Error("no zone")
  const content = contents[index] ?? []
  const data = rng.bytes(rng.between(1, 3) * S)
  switch (rng.below(8)) {
    case 0:
    case 1:
      if (codeOf(() => void disk.pwritev([data.subarray(0, 100), data.subarray(100)], zone.writePointer)) === undefined) {
        contents[index] = [...content, data]
      }
      break
    case 2:
      if (codeOf(() => disk.zones.append([data], start)) === undefined) contents[index] = [...content, data]
      break
    case 3:
      codeOf(() => disk.zones.act(rng.chance(0.5) ? "open" : "close", start))
      break
    case 4:
      if (rng.chance(0.3)) codeOf(() => disk.zones.act("finish", start))
      break
    case 5:
      disk.zones.act("reset", start)
      contents[index] = []
      break
    case 6:
      if (rng.chance(0.1)) {
        void disk.zones.resetAll()
        contents.fill([])
      }
      break
    default:
      expect(codeOf(() => disk.pwrite(data, zone.writePointer + S))).toMatch(/^(zone-unaligned|zone-invalid|out-of-bounds)$/)
  }
}

describe("a zoned disk", () => {
  it(`seed ${SEED}: keeps its limits and what was written under random requests`, () => {
    const rng = new Rng(SEED)
    const memory = new MemoryBacking({ size: SIZE })
    memory.pwrite(new Uint8Array(SIZE).fill(0xee), 0)
    const disk = zonedDisk(memory, ZONES)
    const contents: Content[] = Array.from({ length: COUNT }, () => [])
    for (let round = 0; round < 3000; round++) {
      step(disk, rng, contents)
      const zones = disk.zones.report(0, COUNT)
      const open = zones.filter(({ state }) => state === "implicitly-open" || state === "explicitly-open").length
      const closed = zones.filter(({ state }) => state === "closed").length
      expect(open).toBeLessThanOrEqual(2)
      expect(open + closed).toBeLessThanOrEqual(3)
      const index = rng.between(1, COUNT - 1)
      expect(Buffer.compare(read(disk, index * 8 * S, zoneLength(index)), joined(contents[index] ?? [], zoneLength(index)))).toBe(0)
      for (const [at, { state, writePointer, start, capacity }] of zones.entries()) {
        const written = Buffer.concat(contents[at] ?? []).length
        if (state === "empty") expect([at, written]).toEqual([at, 0])
        if (state === "closed" || state === "implicitly-open") expect([at, written]).not.toEqual([at, 0])
        if (state !== "none" && state !== "full") expect([at, writePointer - start]).toEqual([at, written])
        if (written === capacity) expect([at, state]).toEqual([at, "full"])
      }
    }
  })

  it("a failure of the data changes no zone", () => {
    const file = new FailingFile(new MemoryFile(), undefined)
    file.truncate(SIZE)
    const disk = zonedDisk(new RawBacking(file), ZONES)
    disk.pwrite(new Uint8Array(S), 8 * S)
    const before = disk.zones.report(0, COUNT)
    file.plan = { at: file.calls + 1, code: "io", calls: ["write"], duration: "for-good" }
    expect([
      codeOf(() => disk.pwrite(new Uint8Array(S), 9 * S)),
      codeOf(() => disk.zones.append([new Uint8Array(S)], 16 * S)),
    ]).toEqual(["io", "io"])
    expect(disk.zones.report(0, COUNT)).toEqual(before)
    file.plan = undefined
    disk.pwrite(new Uint8Array(S).fill(7), 9 * S)
    expect(read(disk, 9 * S, S)).toEqual(new Uint8Array(S).fill(7))
  })

  it.each([
    [{ zoneSize: 100 }, "zoneSize"], [{ zoneSize: 0 }, "zoneSize"], [{ zoneSize: 2 ** 41 }, "zoneSize"],
    [{ zoneSize: 8 * S, zoneCapacity: 9 * S }, "zoneCapacity"], [{ zoneSize: 8 * S, conventionalZones: 9 }, "conventionalZones"],
    [{ zoneSize: 8 * S, maxOpenZones: 3, maxActiveZones: 2 }, "maxOpenZones"], [{ zoneSize: 8 * S, maxActiveZones: 0.5 }, "maxActiveZones"],
    [{ zoneSize: 8 * S, writeGranularity: 300 }, "writeGranularity"], [{ zoneSize: 8 * S, maxAppendSize: 100 }, "maxAppendSize"],
    [{ zoneSize: 8 * S, writeGranularity: 8 * S }, "the size"],
  ] as const)("invalid zones are refused: %j", (options, message) => {
    expect(() => zonedDisk(new MemoryBacking({ size: SIZE }), options)).toThrow(message)
  })

  it("too many zones are refused, and so are disks that answer later or are zoned", () => {
    expect(() => zonedDisk(new MemoryBacking({ size: 2 ** 40 }), { zoneSize: S })).toThrow("are more than 1048576")
    const late: VirtioBacking = { asynchronous: true, size: SIZE, readOnly: false, pread: () => {}, pwrite: () => {}, close: () => {} }
    expect(() => zonedDisk(late, ZONES)).toThrow("it must answer at once")
    expect(() => zonedDisk(zonedDisk(new MemoryBacking({ size: SIZE }), ZONES), ZONES)).toThrow("zoned already")
  })
})

describe("zones in a file", () => {
  it("keep write pointers and full, read-only and offline states; open zones come back closed", () => {
    const path = join(temporaryDirectory(), "zoned.img")
    createZonedImage(path, { ...ZONES, size: SIZE, maxOpenZones: 0, maxActiveZones: 0 })
    const disk = openZonedImage(path)
    const data = new Rng(1).bytes(3 * S)
    disk.pwrite(data, 8 * S)
    disk.zones.act("open", 16 * S)
    disk.pwrite(data, 24 * S)
    disk.zones.act("finish", 24 * S)
    disk.pwrite(new Uint8Array(6 * S).fill(3), 32 * S)
    disk.failZone(40 * S, "read-only")
    disk.failZone(48 * S, "offline")
    disk.pwrite(data, 0)
    expect(() => openZonedImage(path)).toThrow("this process has it open for writing already")
    disk.close()
    const again = openZonedImage(path, { readOnly: true })
    expect([again.version() !== undefined, zonedDisk(new MemoryBacking({ size: SIZE }), ZONES).version()]).toEqual([true, undefined])
    expect(again.zones.report(0, 9).map(({ state, writePointer }) => [state, writePointer / S])).toEqual([
      ["none", 8], ["closed", 11], ["empty", 16], ["full", 27], ["full", 38], ["read-only", 40], ["offline", 48], ["empty", 56],
    ])
    expect([read(again, 8 * S, 3 * S), read(again, 24 * S, 3 * S), read(again, 0, 3 * S)]).toEqual([data, data, data])
    expect(read(again, 27 * S, 5 * S).every((byte) => byte === 0)).toBe(true)
    expect([codeOf(() => again.zones.act("reset", 8 * S)), codeOf(() => again.pwrite(data, 11 * S))]).toEqual(["read-only", "read-only"])
    again.close()
  })

  it("leave no file behind when their creation fails, and are refused when their file is missing", () => {
    const path = join(temporaryDirectory(), "zoned.img")
    expect(codeOf(() => createZonedImage(path, { size: SIZE, zoneSize: 100 }))).toBe("invalid-argument")
    writeFileSync(`${path}.zones`, "in the way")
    expect([codeOf(() => createZonedImage(path, { size: SIZE, zoneSize: 8 * S })), existsSync(path)]).toEqual(["exists", false])
    expect(readFileSync(`${path}.zones`, "utf8")).toBe("in the way")
    writeFileSync(path, new Uint8Array(SIZE))
    expect(codeOf(() => openZonedImage(path))).toBe("invalid-format")
    expect(() => openZonedImage(join(temporaryDirectory(), "none.img"))).toThrow("no such file")
    const alone = join(temporaryDirectory(), "alone.img")
    writeFileSync(alone, new Uint8Array(SIZE))
    expect(() => openZonedImage(alone)).toThrow("which keeps its zones, is missing; createZonedImage makes both")
  })

  it("are refused with any invalid field", () => {
    const file = new MemoryFile()
    createSideFile(file, zoneShape("test", SIZE, ZONES))
    const good = new Uint8Array(file.size())
    file.read(good, 0)
    const open = (change: (bytes: DataView) => void): string | undefined => {
      const bytes = good.slice()
      change(new DataView(bytes.buffer))
      const changed = new MemoryFile()
      changed.write(bytes, 0)
      return codeOf(() => openSideFile(changed, SIZE))
    }
    expect(open(() => {})).toBeUndefined()
    expect(open((bytes) => bytes.setUint8(0, 0))).toBe("invalid-format")
    expect(open((bytes) => bytes.setUint32(8, 2, true))).toBe("unsupported")
    expect(open((bytes) => bytes.setUint32(12, 9, true))).toBe("corrupt")
    for (const at of [16, 24, 32, 56]) expect([at, open((bytes) => bytes.setUint32(at, 100, true))]).toEqual([at, "corrupt"])
    for (const at of [20, 28, 36, 52]) expect([at, open((bytes) => bytes.setUint32(at, 0xffff_ffff, true))]).toEqual([at, "corrupt"])
    const zone = (index: number): number => 512 + 16 * index
    expect(open((bytes) => bytes.setUint32(zone(3), 7 * S, true))).toBe("corrupt")
    expect(open((bytes) => bytes.setUint32(zone(3), 100, true))).toBe("corrupt")
    expect(open((bytes) => bytes.setUint32(zone(3) + 4, 1, true))).toBe("corrupt")
    expect(open((bytes) => bytes.setUint32(zone(3) + 8, 4, true))).toBe("corrupt")
    expect(open((bytes) => bytes.setUint32(zone(3) + 12, 1, true))).toBe("corrupt")
    const short = new MemoryFile()
    short.write(good.subarray(0, good.length - 1), 0)
    expect([
      codeOf(() => openSideFile(short, SIZE)), codeOf(() => openSideFile(new MemoryFile(), SIZE)),
    ]).toEqual(["corrupt", "invalid-format"])
    expect(codeOf(() => openSideFile(file, SIZE + S))).toBe("corrupt")
  })

  it("are not reset if that cannot be stored, and the next flush stores the present state", () => {
    const side = new FailingFile(new MemoryFile(), undefined)
    createSideFile(side, zoneShape("test", SIZE, ZONES))
    const { table, store } = openSideFile(side, SIZE)
    const disk = new ZonedDisk(new MemoryBacking({ size: SIZE }), table, store)
    const data = new Rng(2).bytes(2 * S)
    disk.pwrite(data, 8 * S)
    disk.flush()
    for (const calls of [["write"], ["sync"]] as const) {
      side.plan = { at: 1, code: "io", calls, duration: "for-good" }
      side.calls = 0
      expect(codeOf(() => disk.zones.act("reset", 8 * S))).toBe("io")
      side.plan = undefined
      expect(disk.zones.report(8 * S, 1)).toMatchObject([{ state: "implicitly-open", writePointer: 10 * S }])
      disk.flush()
      expect(openSideFile(side, SIZE).table.zone(1)).toMatchObject({ state: "closed", writePointer: 10 * S })
    }
    expect(read(disk, 8 * S, 2 * S)).toEqual(data)
  })

  it("close both files, whatever fails", () => {
    for (const failing of ["flush", "close"] as const) {
      const closed: string[] = []
      const side = new MemoryFile()
      createSideFile(side, zoneShape("test", SIZE, ZONES))
      const { table } = openSideFile(side, SIZE)
      const fail = (name: string): void => {
        closed.push(name)
        if (name === failing) throw new BackingError("io", "injected")
      }
      const data = Object.assign(new MemoryBacking({ size: SIZE }), { flush: () => fail("flush"), close: () => fail("close") })
      const disk = new ZonedDisk(data, table, { save: () => {}, close: () => fail("store") })
      expect([codeOf(() => disk.close()), closed]).toEqual(["io", ["flush", "close", "store"]])
    }
  })

  it("are not changed by a change that could not be stored, even when another zone's is", () => {
    for (const action of ["reset", "finish"] as const) {
      const side = new FailingFile(new MemoryFile(), undefined)
      createSideFile(side, zoneShape("test", SIZE, ZONES))
      const { table, store } = openSideFile(side, SIZE)
      const disk = new ZonedDisk(new MemoryBacking({ size: SIZE }), table, store)
      disk.pwrite(new Uint8Array(2 * S), 8 * S)
      disk.pwrite(new Uint8Array(S), 16 * S)
      disk.flush()
      side.plan = { at: 1, code: "io", calls: ["write"], duration: "for-good" }
      side.calls = 0
      expect(codeOf(() => disk.zones.act(action, 8 * S))).toBe("io")
      side.plan = undefined
      disk.zones.act("finish", 16 * S)
      expect(openSideFile(side, SIZE).table.zone(1)).toMatchObject({ state: "closed", writePointer: 10 * S })
    }
  })
})

/** One change of either file, or a promise of the disk: from `begin` on the zones may be so after a crash, from `end` on they are. */
type LogEntry =
  | { readonly file: "data" | "side"; readonly change: RecordingFile["log"][number] }
  | { readonly mark: "begin" | "end"; readonly zones: ReadonlyMap<number, Content> }

describe("a power cut", () => {
  /** The file as a crash may leave it: what was written since its last sync has reached it in part. */
  function crashed(log: readonly LogEntry[], name: "data" | "side", start: Uint8Array, rng: Rng): MemoryFile {
    const file = new MemoryFile()
    file.write(start, 0)
    const changes = log.flatMap((entry) => ("file" in entry && entry.file === name ? [entry.change] : []))
    const stable = changes.findLastIndex(({ kind }) => kind === "sync")
    for (const [index, change] of changes.entries()) {
      if (change.kind !== "write") continue
      for (let at = 0; at < change.data.length; at += S) {
        // Sectors of the file are what a host's disk writes whole.
        if (index < stable || rng.chance(0.5)) file.write(change.data.subarray(at, at + S), change.offset + at)
      }
    }
    return file
  }

  it(`seed ${SEED}: at any moment leaves each zone as it was last stored, or was being stored`, () => {
    const rng = new Rng(SEED)
    const log: LogEntry[] = []
    const recorded = (name: "data" | "side", bytes: Uint8Array): RecordingFile => {
      const inner = new MemoryFile()
      inner.write(bytes, 0)
      const file = new RecordingFile(inner)
      Object.assign(file.log, { push: (change: RecordingFile["log"][number]) => log.push({ file: name, change }) })
      return file
    }
    const fresh = new MemoryFile()
    createSideFile(fresh, zoneShape("test", SIZE, ZONES))
    const sideBytes = new Uint8Array(fresh.size())
    fresh.read(sideBytes, 0)
    const dataBytes = new Uint8Array(SIZE).fill(0xee)
    const { table, store } = openSideFile(recorded("side", sideBytes), SIZE)
    const disk = new ZonedDisk(new RawBacking(recorded("data", dataBytes)), table, store)
    const contents: Content[] = Array.from({ length: COUNT }, () => [])
    const keeping = (zones: ReadonlyMap<number, Content>, work: () => void): void => {
      log.push({ mark: "begin", zones })
      work()
      log.push({ mark: "end", zones })
    }
    for (let round = 0; round < 400; round++) {
      const index = rng.between(1, COUNT - 1)
      const start = index * 8 * S
      const kind = rng.below(8)
      if (kind === 0) keeping(new Map(contents.entries()), () => disk.flush())
      else if (kind === 1) {
        keeping(new Map([[index, []]]), () => void disk.zones.act("reset", start))
        contents[index] = []
      } else if (kind === 2 && rng.chance(0.3)) {
        keeping(new Map([[index, contents[index] ?? []]]), () => void codeOf(() => disk.zones.act("finish", start)))
      } else {
        const data = rng.bytes(rng.between(1, 2) * S)
        if (codeOf(() => disk.zones.append([data], start)) === undefined) contents[index] = [...(contents[index] ?? []), data]
      }
    }
    for (let end = 0; end <= log.length; end++) {
      const past = log.slice(0, end)
      const possible = Array.from({ length: COUNT }, (): Content[] => [[]])
      for (const entry of past) {
        if (!("mark" in entry)) continue
        for (const [index, content] of entry.zones) {
          possible[index] = entry.mark === "end" ? [content] : [...(possible[index] ?? []), content]
        }
      }
      const data = crashed(past, "data", dataBytes, rng)
      const opened = openSideFile(crashed(past, "side", sideBytes, rng), SIZE)
      const after = new ZonedDisk(new RawBacking(data), opened.table)
      for (const [index, { start }] of after.zones.report(0, COUNT).entries()) {
        if (index === 0) continue
        const bytes = read(after, start, zoneLength(index))
        const matches = possible[index]?.some((content) => Buffer.compare(joined(content, bytes.length), bytes) === 0)
        expect([`crash at ${end}, zone ${index}`, matches]).toEqual([`crash at ${end}, zone ${index}`, true])
      }
    }
  })
})
