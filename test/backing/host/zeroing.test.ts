/**
 * Long zeroes on a raw disk in a file of the host: fallocate(1) does them, through one small shell, and what becomes of them when it
 * cannot.
 */
import { type ChildProcess, spawnSync } from "node:child_process"
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { beforeEach, describe, expect, it, onTestFinished, vi } from "vitest"
import { Rng } from "../../support/rng.ts"
import { temporaryDirectory } from "../../support/temporary.ts"

const MIB = 1 << 20

/** What the mocked modules count, and are told to do otherwise. */
const host = vi.hoisted(() => ({
  bytesRead: 0,
  bytesWritten: 0,
  shells: [] as ChildProcess[],
  /** Programs that this host has not, by name. */
  missing: new Set<string>(),
  /** Stands for fallocate(1). */
  program: undefined as string | undefined,
}))

vi.mock("node:fs", async (original) => {
  const real = await original<typeof import("node:fs")>()
  return {
    ...real,
    existsSync: (path: string) => !host.missing.has(path.slice(path.lastIndexOf("/") + 1)) && real.existsSync(path),
    readSync: (...args: Parameters<typeof real.readSync>) => {
      const count = real.readSync(...args)
      host.bytesRead += count
      return count
    },
    writeSync: (fd: number, bytes: Uint8Array | string, ...rest: [number, number, number]) => {
      const count = typeof bytes === "string" ? real.writeSync(fd, bytes) : real.writeSync(fd, bytes, ...rest)
      host.bytesWritten += count
      return count
    },
  }
})

vi.mock("node:child_process", async (original) => {
  const real = await original<typeof import("node:child_process")>()
  return {
    ...real,
    spawn: (command: string, args: readonly string[], options: object) => {
      const shell = real.spawn(command, args.map((arg) => (arg.endsWith("/fallocate") ? (host.program ?? arg) : arg)), options)
      host.shells.push(shell)
      return shell
    },
  }
})

beforeEach(() => {
  // The shell belongs to the module: a test begins without one.
  vi.resetModules()
  host.bytesRead = 0
  host.bytesWritten = 0
  host.shells.length = 0
  host.missing.clear()
  host.program = undefined
})

/** A file of these bytes, or a sparse one of this size. */
function makeFile(content: Uint8Array | number): string {
  const path = join(temporaryDirectory(), "disk.img")
  writeFileSync(path, typeof content === "number" ? "" : content)
  if (typeof content === "number") truncateSync(path, content)
  return path
}

async function openRaw(path: string) {
  const { HostFile } = await import("../../../src/backing/host/host-file.ts")
  const { RawBacking } = await import("../../../src/backing/raw.ts")
  const file = new HostFile(path)
  const disk = new RawBacking(file)
  onTestFinished(() => disk.close())
  return { file, disk }
}

/** Whether the file system of temporary files takes these options of fallocate(1). */
function supports(...options: string[]): boolean {
  const directory = mkdtempSync(join(tmpdir(), "vioblk-test-"))
  const path = join(directory, "file")
  writeFileSync(path, "content")
  const { status } = spawnSync("fallocate", [...options, "--offset", "0", "--length", "4096", path])
  rmSync(directory, { recursive: true })
  return status === 0
}

const canPunch = supports("--punch-hole")
const canZero = supports("--zero-range", "--keep-size")

/** A program that stands for fallocate(1): a line of sh, in which $3 is the offset, $5 the length, and $6 the file. */
function fakeProgram(line: string): string {
  const path = join(temporaryDirectory(), "fake-program")
  writeFileSync(path, `#!/bin/sh\n${line}\n`)
  chmodSync(path, 0o755)
  return path
}

function allZero(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0)
}

describe.runIf(canPunch && canZero)("long zeroes", () => {
  it("a long range is neither read nor written: the host zeroes it in place, or frees it", async () => {
    const path = makeFile(2 ** 33)
    const { disk } = await openRaw(path)
    disk.writeZeroes(0, 512 * MIB, false)
    expect(statSync(path).blocks * 512).toBeGreaterThanOrEqual(512 * MIB)
    disk.writeZeroes(0, 1024 * MIB, true)
    expect(statSync(path).blocks * 512).toBeLessThan(MIB)
    disk.discard?.(2 ** 32, 2 ** 32)
    expect([host.bytesRead < 1000, host.bytesWritten < 1000, statSync(path).size]).toEqual([true, true, 2 ** 33])
  })

  it("exactly the range is zeroed, from any byte to any byte", async () => {
    const rng = new Rng(11)
    const path = makeFile(rng.bytes(20 * MIB))
    const { disk } = await openRaw(path)
    const model = readFileSync(path)
    for (const mayUnmap of [false, true, false, true]) {
      const offset = rng.below(8 * MIB)
      const length = 4 * MIB + rng.below(4 * MIB)
      disk.writeZeroes(offset, length, mayUnmap)
      model.fill(0, offset, offset + length)
      expect(Buffer.compare(readFileSync(path), model)).toBe(0)
    }
    expect(host.bytesRead).toBeLessThan(1000)
  })

  it("one shell serves all files, and is asked once for each file system; files that are only opened or read-only need none", async () => {
    const { HostFile } = await import("../../../src/backing/host/host-file.ts")
    const { RawBacking } = await import("../../../src/backing/raw.ts")
    const files = Array.from({ length: 20 }, () => new HostFile(makeFile(MIB)))
    const readOnly = new HostFile(makeFile(MIB), { readOnly: true })
    onTestFinished(() => [...files, readOnly].forEach((file) => file.close()))
    const disks = files.map((file) => new RawBacking(file))
    expect([new RawBacking(readOnly).canUnmap, new RawBacking(readOnly).discard, host.shells.length]).toEqual([false, undefined, 0])
    expect(disks.every(({ canUnmap }) => canUnmap)).toBe(true)
    const asked = host.bytesWritten
    expect([host.shells.length, asked > 0, asked < 100]).toEqual([1, true, true])
    expect(new RawBacking(new HostFile(readOnly.path)).canUnmap).toBe(true)
    expect([host.shells.length, host.bytesWritten]).toEqual([1, asked])
  })

  it("one call frees 1 GiB of a file that holds little and 32 MiB of others, and zeroes 4 MiB at first, then 64 MiB", async () => {
    const { disk } = await openRaw(makeFile(2 ** 32))
    expect([disk.unmapsAtOnce, disk.zeroesAtOnce]).toEqual([2 ** 30, 4 * MIB])
    disk.writeZeroes(0, 4 * MIB, false)
    expect([disk.unmapsAtOnce, disk.zeroesAtOnce]).toEqual([2 ** 30, 64 * MIB])
    disk.writeZeroes(0, 64 * MIB, false)
    expect([disk.unmapsAtOnce, disk.zeroesAtOnce]).toEqual([32 * MIB, 64 * MIB])
  })

  it("a file that somebody has truncated does not grow again, and its lost range is not reported as zeroed", async () => {
    const path = makeFile(16 * MIB)
    const { disk } = await openRaw(path)
    truncateSync(path, 6 * MIB)
    for (const mayUnmap of [false, true]) {
      expect(() => disk.writeZeroes(4 * MIB, 8 * MIB, mayUnmap)).toThrow(/ends at byte 6291456, .* somebody has cut the file/)
    }
    expect(statSync(path).size).toBe(6 * MIB)
    expect(statSync(path).blocks).toBe(0)
  })
})

describe("a host that cannot zero ranges", () => {
  it.each(["fallocate", "sh", "mkfifo"])("without %s nothing is offered, zeroes are written, a discard changes nothing", async (name) => {
    host.missing.add(name)
    const path = makeFile(new Uint8Array(8 * MIB).fill(0x77))
    const { disk, file } = await openRaw(path)
    expect([disk.canUnmap, disk.unmapsAtOnce, disk.zeroesAtOnce, file.punchHole(0, 4096)]).toEqual([false, 4 * MIB, 4 * MIB, false])
    disk.discard?.(0, 8 * MIB)
    expect(readFileSync(path).every((byte) => byte === 0x77)).toBe(true)
    disk.writeZeroes(0, 5 * MIB, false)
    disk.writeZeroes(5 * MIB, 2 * MIB, true)
    expect([disk.unmapsAtOnce, disk.zeroesAtOnce]).toEqual([MIB, MIB])
    const content = readFileSync(path)
    expect([allZero(content.subarray(0, 7 * MIB)), content.subarray(7 * MIB).every((byte) => byte === 0x77)]).toEqual([true, true])
    expect(host.shells.length).toBe(0)
  })

  it("a file system that refuses is asked once; then zeroes are written", async () => {
    const log = join(temporaryDirectory(), "log")
    host.program = fakeProgram(`echo "$@" >> ${log}; exit 1`)
    const path = makeFile(new Uint8Array(8 * MIB).fill(0x77))
    const { disk } = await openRaw(path)
    expect([disk.canUnmap, disk.canUnmap]).toEqual([false, false])
    expect(readFileSync(log, "latin1")).toMatch(/^-p -o 8388608 -l 4096 \/proc\/\d+\/fd\/\d+\n$/)
    disk.writeZeroes(0, 4 * MIB, true)
    disk.writeZeroes(4 * MIB, 4 * MIB, false)
    expect(readFileSync(log, "latin1").split("\n").map((line) => line.slice(0, 10))).toEqual(["-p -o 8388", "-zn -o 0 -", ""])
    expect(allZero(readFileSync(path))).toBe(true)
  })

  it("after a call that fails halfway we zero the rest, and touch nothing else", async () => {
    host.program = fakeProgram(
      `case $1$3 in -p16777216) exit 0; esac; dd if=/dev/zero of=$6 bs=4096 seek=$(($3 / 4096)) count=100 conv=notrunc 2>/dev/null; exit 1`,
    )
    for (const mayUnmap of [false, true]) {
      const path = makeFile(new Uint8Array(16 * MIB).fill(0x77))
      const { disk } = await openRaw(path)
      disk.writeZeroes(MIB, 5 * MIB, mayUnmap)
      const content = readFileSync(path)
      expect([
        allZero(content.subarray(MIB, 6 * MIB)), content[MIB - 1], content[6 * MIB], content.length,
      ]).toEqual([true, 0x77, 0x77, 16 * MIB])
      // It is not tried again on this file.
      if (mayUnmap) expect([disk.canUnmap, disk.unmapsAtOnce]).toEqual([false, MIB])
    }
  })

  it("a shell that is killed is replaced, but not for ever, and we zero what it had been asked for", async () => {
    host.program = fakeProgram("kill -9 $PPID")
    const path = makeFile(new Uint8Array(4 * MIB).fill(0x77))
    const { disk } = await openRaw(path)
    for (let round = 1; round <= 5; round++) {
      const { disk: another } = await openRaw(makeFile(4 * MIB))
      expect(another.canUnmap).toBe(false)
      expect(host.shells.length).toBe(Math.min(round, 3))
    }
    disk.writeZeroes(0, 4 * MIB, false)
    expect(allZero(readFileSync(path))).toBe(true)
  })

  it("no call outlives the report of its failure, even when the shell dies: it could zero what is written later", async () => {
    host.program = fakeProgram("kill -9 $PPID; printf late | dd of=$6 bs=1 seek=$3 conv=notrunc 2>/dev/null")
    const path = makeFile(4 * MIB)
    const { file } = await openRaw(path)
    expect(file.zeroRange(8, MIB)).toBe(false)
    expect(readFileSync(path).subarray(8, 12).toString()).toBe("late")
  })
})

/** Opens a file whose name it gets, says which children it has then, and dies. */
const KILLED_PROGRAM = `
import { readdirSync, readFileSync } from "node:fs"
const { HostFile } = await import(process.argv[2])
new HostFile(process.argv[3]).canPunchHole
const parentOf = (pid) => {
  try {
    return readFileSync("/proc/" + pid + "/stat", "latin1").split(") ").at(-1).split(" ")[1]
  } catch {
    return "" // It has ended meanwhile.
  }
}
process.stdout.write(readdirSync("/proc").filter((pid) => /^[0-9]+$/.test(pid) && parentOf(pid) === String(process.pid)).join())
process.kill(process.pid, "SIGKILL")
`

describe.runIf(canPunch)("the shell", () => {
  it("leaves no file behind, and ends when its parent does, even a killed one", async () => {
    const [directory, programs] = [temporaryDirectory(), temporaryDirectory()]
    const program = join(programs, "killed.mjs")
    writeFileSync(program, KILLED_PROGRAM)
    const hostFile = new URL("../../../src/backing/host/host-file.ts", import.meta.url).href
    const { stdout, stderr, signal } = spawnSync(process.execPath, ["--import", "tsx", program, hostFile, makeFile(MIB)], {
      env: { ...process.env, TMPDIR: directory }, encoding: "utf8",
    })
    expect([stderr, signal, stdout]).toEqual(["", "SIGKILL", expect.stringMatching(/^[0-9,]+$/)])
    expect(readdirSync(directory).filter((name) => name.startsWith("vioblk-"))).toEqual([])
    // A pid may be somebody else's by now, but not with our program in its arguments.
    const runs = (pid: string): boolean => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, "latin1").includes("/fallocate")
      } catch {
        return false
      }
    }
    await vi.waitFor(() => expect(stdout.split(",").filter(runs)).toEqual([]), { timeout: 10_000 })
  })
})
