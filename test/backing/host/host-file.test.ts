/**
 * HostFile: a file of the host, and everything that a host can do to it. Node's calls are made to misbehave where a real disk would have to
 * be broken.
 */
import { spawnSync } from "node:child_process"
import {
  chmodSync, closeSync, existsSync, mkdtempSync, openSync, readFileSync, rmSync, statSync, symlinkSync, truncateSync, unlinkSync,
  writeFileSync,
} from "node:fs"
import { join } from "node:path"
import { afterEach, describe, expect, it, onTestFinished, vi } from "vitest"
import { BackingError } from "../../../src/backing/backing.ts"
import { HostFile, type HostFileOptions } from "../../../src/backing/host/host-file.ts"
import { Rng } from "../../support/rng.ts"
import { temporaryDirectory } from "../../support/temporary.ts"

type Call = (...args: unknown[]) => unknown
type Faulty = "readSync" | "readvSync" | "writeSync" | "writevSync" | "fdatasyncSync" | "ftruncateSync" | "fstatSync" | "openSync"

/** A replacement gets the real function and its arguments. */
const faults = vi.hoisted(() => ({}) as Partial<Record<Faulty, (real: Call, ...args: never[]) => unknown>>)

vi.mock("node:fs", async (original) => {
  const real = await original<Record<string, unknown>>()
  const names: Faulty[] = ["readSync", "readvSync", "writeSync", "writevSync", "fdatasyncSync", "ftruncateSync", "fstatSync", "openSync"]
  const wrapped = Object.fromEntries(
    names.map((name) => [
      name,
      (...args: never[]) => (faults[name] === undefined ? (real[name] as Call)(...args) : faults[name](real[name] as Call, ...args)),
    ]),
  )
  return { ...real, ...wrapped, default: { ...real, ...wrapped } }
})

afterEach(() => {
  for (const name of Object.keys(faults)) delete faults[name as Faulty]
})

/** A file with this content, in a directory of its own. */
function temporaryFile(content: Uint8Array | string = ""): string {
  const path = join(temporaryDirectory(), "disk.img")
  writeFileSync(path, content)
  return path
}

function open(path: string, options: HostFileOptions = {}): HostFile {
  const file = new HostFile(path, options)
  onTestFinished(() => file.close())
  return file
}

/** The BackingError that `work` throws: one line that begins with `path`. */
function errorOf(work: () => unknown, path: string): BackingError {
  try {
    work()
  } catch (error) {
    if (!(error instanceof BackingError)) throw error
    expect(error.path).toBe(path)
    expect(error.message.startsWith(`${path}: `)).toBe(true)
    expect(error.message).not.toMatch(/\n/)
    return error
  }
  throw new Error("expected a BackingError, got none")
}

/** What node:fs throws. */
function hostError(code: string): Error {
  return Object.assign(new Error(`${code}: injected`), { code })
}

describe("opening", () => {
  it("invalid byte positions are refused: Node would write where the last call ended, or empty the file", () => {
    const path = temporaryFile("0123456789")
    const file = open(path)
    const calls: readonly ((position: number) => unknown)[] = [
      (position) => file.read(new Uint8Array(1), position),
      (position) => file.readInto(new Uint8Array(1), 0, 1, position),
      (position) => file.readv([new Uint8Array(1), new Uint8Array(1)], position),
      (position) => file.write(Uint8Array.of(1), position),
      (position) => file.writeFrom(Uint8Array.of(1), 0, 1, position),
      (position) => file.writev([Uint8Array.of(1), Uint8Array.of(2)], position),
      (position) => file.truncate(position),
      (position) => file.punchHole(position, 1),
      (position) => file.punchHole(0, position),
      (position) => file.zeroRange(position, 1),
      (position) => file.zeroRange(0, position),
    ]
    for (const position of [-1, 0.5, NaN, 2 ** 53, -(2 ** 53)]) {
      for (const call of calls) {
        expect(errorOf(() => call(position), path)).toMatchObject({
          code: "out-of-bounds", message: expect.stringMatching(/is not a byte position/),
        })
      }
    }
    expect(readFileSync(path, "latin1")).toBe("0123456789")
  })

  it("a missing file, a directory, a device and a FIFO give a clear error at once, for reading and for writing", () => {
    const directory = temporaryDirectory()
    spawnSync("mkfifo", [join(directory, "fifo")])
    writeFileSync(join(directory, "file"), "")
    for (const readOnly of [false, true]) {
      const code = (path: string) => errorOf(() => new HostFile(path, { readOnly }), path).code
      expect(code(join(directory, "missing.img"))).toBe("not-found")
      expect(code(join(directory, "file", "below.img"))).toBe("not-found")
      expect(code(directory)).toBe("invalid-format")
      expect(code("/dev/null")).toBe("unsupported")
      expect(code("/dev/full")).toBe("unsupported")
      expect(existsSync(join(directory, "fifo")) && code(join(directory, "fifo"))).toBe("unsupported")
    }
  })

  it("a file without permission to read or to write is refused", () => {
    const path = temporaryFile("content")
    chmodSync(path, 0o400)
    // The superuser may everything: then the error is what the host would say to others.
    const isRoot = process.getuid?.() === 0
    if (isRoot) {
      chmodSync(join(path, ".."), 0o755)
      process.seteuid?.(65534)
      onTestFinished(() => process.seteuid?.(0))
    }
    expect(errorOf(() => new HostFile(path), path)).toMatchObject({ code: "permission" })
    if (isRoot) {
      expect(errorOf(() => new HostFile(path, { readOnly: true }), path)).toMatchObject({ code: "permission" })
      process.seteuid?.(0)
    }
    expect(open(path, { readOnly: true }).size()).toBe(7)
  })

  it.each([
    ["EROFS", "permission", /read-only file system/],
    ["ETXTBSY", "busy", /ETXTBSY/],
    ["EMFILE", "io", /too many open files/],
    ["EIO", "io", /input\/output error/],
  ])("the host's %s becomes our code, with its reason", (errno, code, reason) => {
    const path = temporaryFile()
    faults.openSync = () => {
      throw hostError(errno)
    }
    const error = errorOf(() => new HostFile(path), path)
    expect([error.code, error.message]).toEqual([code, expect.stringMatching(reason)])
    expect(error.cause).toMatchObject({ code: errno })
  })

  it("create makes an empty file, and refuses a file that exists", () => {
    const path = join(temporaryDirectory(), "new.img")
    const file = open(path, { create: true })
    file.write(Uint8Array.of(1, 2, 3), 0)
    expect(errorOf(() => new HostFile(path, { create: true }), path).message).toMatch(/exists already/)
    expect(readFileSync(path)).toEqual(Buffer.from([1, 2, 3]))
    expect(errorOf(() => new HostFile(join(path, "x"), { create: true }), join(path, "x")).code).toBe("not-found")
    const homeless = join(path, "..", "none", "x")
    expect(errorOf(() => new HostFile(homeless, { create: true }), homeless).message).toMatch(/its folder does not exist$/)
  })

  it("a symbolic link leads to its file; one that leads to itself does not hang", () => {
    const path = temporaryFile("abc")
    const link = join(path, "..", "link.img")
    symlinkSync(path, link)
    expect([open(link).size(), open(link).identity === open(path).identity]).toEqual([3, true])
    const loop = join(path, "..", "loop.img")
    symlinkSync(loop, loop)
    expect(errorOf(() => new HostFile(loop), loop).code).toBe("io")
  })

  it("a size beyond 2^53 is refused; the descriptor is closed again", () => {
    const path = temporaryFile()
    let closedLater: number | undefined
    faults.openSync = (real, ...args) => (closedLater = real(...args) as number)
    faults.fstatSync = (real, ...args) => {
      const stat = real(...args) as { size: bigint; isFile: () => boolean; isDirectory: () => boolean; dev: bigint; ino: bigint }
      return { dev: stat.dev, ino: stat.ino, isFile: () => true, isDirectory: () => false, size: 2n ** 53n }
    }
    expect(errorOf(() => new HostFile(path), path)).toMatchObject({
      code: "unsupported", message: expect.stringContaining("9007199254740992") as string,
    })
    expect(closedLater).toBeGreaterThan(2)
    expect(() => closeSync(closedLater as number)).toThrow(/EBADF/)
  })

  it("a real file of 2^60 bytes is refused, where a file system of this host allows one", () => {
    const path = ["/dev/shm", temporaryDirectory()].map((directory) => {
      if (!existsSync(directory)) return undefined
      const inside = mkdtempSync(join(directory, "vioblk-test-"))
      onTestFinished(() => rmSync(inside, { recursive: true, force: true }))
      const candidate = join(inside, "huge.img")
      const { status } = spawnSync("truncate", ["--size", String(2n ** 60n), candidate])
      return status === 0 ? candidate : undefined
    }).find((candidate) => candidate !== undefined)
    // Where there is none the test before has shown the same.
    if (path === undefined) return
    expect(errorOf(() => new HostFile(path, { readOnly: true }), path)).toMatchObject({ code: "unsupported" })
    expect(Number(statSync(path, { bigint: true }).blocks)).toBe(0)
  })
})

describe("moving bytes", () => {
  it("a read ends with the file, a write may begin beyond its end, and the hole between reads as zeroes", () => {
    const file = open(temporaryFile("0123456789"))
    const buffer = new Uint8Array(8).fill(0xee)
    expect([file.read(buffer, 6), String.fromCharCode(...buffer.subarray(0, 4)), buffer[4]]).toEqual([4, "6789", 0xee])
    expect([file.read(buffer, 10), file.read(buffer, 2 ** 40)]).toEqual([0, 0])
    file.write(Uint8Array.of(1), 20)
    expect([file.size(), file.read(buffer, 13), [...buffer]]).toEqual([21, 8, [0, 0, 0, 0, 0, 0, 0, 1]])
  })

  it("offsets beyond 2^32 bytes, and beyond 2^32 sectors, are exact", () => {
    const path = temporaryFile()
    const file = open(path)
    const offsets = [2 ** 31, 2 ** 32 - 1, 2 ** 32 + 7, 5 * 2 ** 32 + 512, 2 ** 41 + 513]
    for (const [index, offset] of offsets.entries()) file.write(Uint8Array.of(index + 1, 77), offset)
    for (const [index, offset] of offsets.entries()) {
      const buffer = new Uint8Array(4)
      expect([
        file.readv([buffer.subarray(0, 1), buffer.subarray(1)], offset - 1), ...buffer
      ]).toEqual(index === 4 ? [3, 0, 5, 77, 0] : [4, 0, index + 1, 77, 0])
    }
    expect(statSync(path).blocks * 512).toBeLessThan(1 << 20)
  })

  it("vectors of 1024, 1025 and 5000 buffers move whole, though the host takes 1024", () => {
    const path = temporaryFile()
    const file = open(path)
    const rng = new Rng(1)
    for (const count of [1, 1023, 1024, 1025, 2048, 2049, 5000]) {
      const parts = Array.from({ length: count }, () => rng.bytes(rng.between(1, 30)))
      const whole = Buffer.concat(parts)
      file.writev(parts, 5)
      expect(Buffer.compare(readFileSync(path).subarray(5, 5 + whole.length), whole)).toBe(0)
      const back = parts.map(({ length }) => new Uint8Array(length))
      expect(file.readv(back, 5)).toBe(whole.length)
      expect(Buffer.compare(Buffer.concat(back), whole)).toBe(0)
      file.truncate(5 + Math.floor(whole.length / 2))
      expect(file.readv(back, 5)).toBe(Math.floor(whole.length / 2))
      file.truncate(0)
    }
  })

  it("short reads and writes are continued at any place, inside buffers and between them", () => {
    const path = temporaryFile()
    const file = open(path)
    const rng = new Rng(2)
    const some = (length: number) => Math.min(length, rng.pick([1, 2, 7, 100]))
    const clip = (buffers: readonly Uint8Array[]) => {
      const clipped: Uint8Array[] = []
      let left = some(buffers.reduce((sum, { length }) => sum + length, 0))
      for (const buffer of buffers) {
        clipped.push(buffer.subarray(0, left))
        left -= Math.min(left, buffer.length)
      }
      return clipped.filter(({ length }) => length > 0)
    }
    let calls = 0
    const single = (real: Call, fd: number, buffer: Uint8Array, offset: number, length: number, position: number) => {
      calls++
      return real(fd, buffer, offset, some(length), position)
    }
    const vectored = (real: Call, fd: number, buffers: Uint8Array[], position: number) => {
      calls++
      return real(fd, clip(buffers), position)
    }
    Object.assign(faults, { readSync: single, writeSync: single, readvSync: vectored, writevSync: vectored })
    for (let round = 0; round < 30; round++) {
      const parts = Array.from({ length: rng.between(1, 40) }, () => rng.bytes(rng.between(1, 50)))
      const whole = Buffer.concat(parts)
      const offset = rng.below(1000)
      if (round % 2 === 0) file.writev(parts, offset)
      else file.write(whole, offset)
      const back = parts.map(({ length }) => new Uint8Array(length))
      const one = new Uint8Array(whole.length)
      expect([file.readv(back, offset), file.read(one, offset)]).toEqual([whole.length, whole.length])
      expect([Buffer.compare(Buffer.concat(back), whole), Buffer.compare(one, whole)]).toEqual([0, 0])
    }
    expect(calls).toBeGreaterThan(1000)
    // The end of the file is an end, however short the reads are.
    file.truncate(100)
    expect([file.read(new Uint8Array(300), 50), file.readv([new Uint8Array(20), new Uint8Array(300)], 50)]).toEqual([50, 50])
  })

  it("a write does not loop for ever if the host stores nothing and reports no error", () => {
    const path = temporaryFile()
    const file = open(path)
    let calls = 0
    faults.writeSync = (_, __, ___, ____, length: number) => (calls++ === 0 ? Math.min(length, 3) : 0)
    faults.writevSync = () => 0
    expect(errorOf(() => file.write(new Uint8Array(10), 0), path)).toMatchObject({
      code: "io", message: expect.stringContaining("stored nothing") as string,
    })
    expect(errorOf(() => file.writev([new Uint8Array(10)], 0), path).code).toBe("io")
    expect(calls).toBe(2)
  })

  it("buffers of 2 GiB and more, which node:fs does not take in one call, move whole", () => {
    const file = open(temporaryFile())
    // Reserved, but never touched: the host's calls only count.
    const length = 2 ** 31 + 4096
    const buffer = new Uint8Array(length)
    const moved: [position: number, length: number][] = []
    const count = (_: Call, __: number, ___: Uint8Array, ____: number, part: number, position: number) => {
      if (part > 2 ** 31 - 1) throw hostError("ERR_OUT_OF_RANGE")
      moved.push([position, part])
      return part
    }
    faults.readSync = count
    faults.writeSync = count
    const vector = (_: Call, __: number, buffers: Uint8Array[], position: number) => {
      const sum = buffers.reduce((total, part) => {
        if (part.length > 2 ** 31 - 1) throw hostError("ERR_OUT_OF_RANGE")
        return total + part.length
      }, 0)
      moved.push([position, sum])
      // libuv writes everything, in as many calls as Linux wants; node:fs then takes the sum for a number of 32 bits, and a negative one
      // for an error.
      if (sum > 2 ** 31 - 1) throw hostError("UNKNOWN")
      return sum
    }
    faults.readvSync = vector
    faults.writevSync = vector
    const small = new Uint8Array(512)
    const quarter = buffer.subarray(0, 2 ** 29)
    const quarters = [quarter, quarter, quarter, quarter]
    const runs: readonly (readonly [() => unknown, number])[] = [
      [() => file.read(buffer, 512), length],
      [() => file.write(buffer, 512), length],
      [() => file.readv([small, buffer, small], 512), length + 1024],
      [() => file.writev([buffer, small], 512), length + 512],
      [() => file.readv(quarters, 512), 4 * quarter.length],
      [() => file.writev(quarters, 512), 4 * quarter.length],
      [() => file.writev([small, ...quarters, small], 512), 4 * quarter.length + 1024],
    ]
    for (const [run, total] of runs) {
      moved.length = 0
      run()
      let at = 512
      for (const [position, part] of moved) {
        expect(position).toBe(at)
        at += part
      }
      expect(at - 512).toBe(total)
    }
  })
})

describe("a host that fails", () => {
  it.each([
    ["ENOSPC", "no-space", /no space left/],
    ["EDQUOT", "no-space", /quota/],
    ["EFBIG", "no-space", /larger than the file system allows/],
    ["EIO", "io", /input\/output error/],
    ["EROFS", "permission", /read-only/],
    ["ESTALE", "io", /ESTALE/],
  ])("%s from a read or a write gives the code, the operation and the byte", (errno, code, reason) => {
    const path = temporaryFile("0123456789")
    const file = open(path)
    const fail = () => {
      throw hostError(errno)
    }
    for (const name of ["readSync", "readvSync", "writeSync", "writevSync", "ftruncateSync"] as const) faults[name] = fail
    const buffer = new Uint8Array(4)
    const attempts = [
      [() => file.read(buffer, 3), "read 4 bytes at byte 3"],
      [() => file.readv([buffer, buffer], 3), "read 8 bytes at byte 3"],
      [() => file.write(buffer, 3), "write 4 bytes at byte 3"],
      [() => file.writev([buffer, buffer], 3), "write 8 bytes at byte 3"],
      [() => file.truncate(99), "set the size to 99 bytes"],
    ] as const
    for (const [work, what] of attempts) {
      const error = errorOf(work, path)
      expect([error.code, error.message]).toEqual([code, expect.stringMatching(reason)])
      expect(error.message).toContain(`cannot ${what}: `)
    }
    expect(errorOf(() => file.read(buffer, 3), path).offset).toBe(3)
  })

  it("a sync that failed keeps failing: the host may have dropped writes, and would report the next sync as a success", () => {
    const path = temporaryFile()
    const file = open(path)
    let calls = 0
    file.write(Uint8Array.of(1), 0)
    faults.fdatasyncSync = (real, ...args) => {
      if (calls++ === 0) throw hostError("EIO")
      return real(...args)
    }
    expect(errorOf(() => file.sync(), path).code).toBe("io")
    expect(errorOf(() => file.sync(), path).code).toBe("io")
    file.write(Uint8Array.of(2), 0)
    expect(errorOf(() => file.sync(), path).code).toBe("io")
    // Reading is still possible, and so is closing; a new opening begins anew.
    expect(file.read(new Uint8Array(1), 0)).toBe(1)
    file.close()
    const again = open(path)
    again.write(Uint8Array.of(3), 0)
    again.sync()
  })

  it("a sync reaches the host once after writes, and not at all without one", () => {
    const file = open(temporaryFile("abc"))
    let calls = 0
    faults.fdatasyncSync = (real, ...args) => (calls++, real(...args))
    file.sync()
    expect(calls).toBe(0)
    for (const change of [
      () => file.write(Uint8Array.of(1), 0),
      () => file.writev([Uint8Array.of(1), Uint8Array.of(2)], 0),
      () => file.truncate(2),
      () => file.punchHole(0, 1),
    ]) {
      calls = 0
      change()
      file.sync()
      file.sync()
      expect(calls).toBe(1)
    }
  })

  it("a file that is removed while it is open still works; one that is truncated reads short", () => {
    const path = temporaryFile("0123456789")
    const file = open(path)
    truncateSync(path, 4)
    expect([file.size(), file.read(new Uint8Array(10), 0), file.readv([new Uint8Array(3), new Uint8Array(3)], 0)]).toEqual([4, 4, 4])
    unlinkSync(path)
    file.write(Uint8Array.of(9), 9)
    expect(file.size()).toBe(10)
  })
})

describe("read-only and closed files", () => {
  it("a read-only file refuses every change, and does not change", () => {
    const path = temporaryFile("abc")
    const file = open(path, { readOnly: true })
    const one = Uint8Array.of(1)
    for (const work of [() => file.write(one, 0), () => file.writev([one], 0), () => file.truncate(0), () => file.punchHole(0, 1)]) {
      expect(errorOf(work, path).code).toBe("read-only")
    }
    file.sync()
    expect(readFileSync(path, "latin1")).toBe("abc")
  })

  it("a closed file fails every call but close", () => {
    const path = temporaryFile("abc")
    const file = open(path)
    file.close()
    file.close()
    const buffer = new Uint8Array(1)
    const changes = [
      () => file.write(buffer, 0),
      () => file.writev([buffer], 0),
      () => file.truncate(0),
      () => file.punchHole(0, 1),
      () => file.sync(),
    ]
    for (const work of [() => file.size(), () => file.read(buffer, 0), () => file.readv([buffer], 0), ...changes]) {
      expect(errorOf(work, path).code).toBe("closed")
    }
    // Its number is somebody else's by now.
    const other = openSync(path, "r")
    file.close()
    closeSync(other)
  })
})

describe("holes", () => {
  it("punching frees the space, keeps the size, and zeroes exactly the range", () => {
    const path = temporaryFile(new Uint8Array(4 << 20).fill(0x77))
    const file = open(path)
    const before = statSync(path).blocks
    // The program that punches is part of util-linux; the file system has the last word.
    const direct = spawnSync("fallocate", ["--punch-hole", "--offset", "0", "--length", "4096", path])
    const canPunch = direct.status === 0
    expect(file.punchHole((1 << 20) + 100, 2 << 20)).toBe(canPunch)
    const content = readFileSync(path)
    expect(content.length).toBe(4 << 20)
    if (!canPunch) return
    expect(content.subarray((1 << 20) + 100, (3 << 20) + 100).every((byte) => byte === 0)).toBe(true)
    expect(
      content.subarray(4096, (1 << 20) + 100).every((byte) => byte === 0x77) &&
        content.subarray((3 << 20) + 100).every((byte) => byte === 0x77),
    ).toBe(true)
    expect(statSync(path).blocks).toBeLessThan(before - (1 << 20) / 512)
  })
})
