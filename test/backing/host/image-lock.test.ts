/** Locks on images, between real processes: ours and QEMU's. */
import { spawnSync } from "node:child_process"
import { chmodSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterEach, describe, expect, it, vi } from "vitest"
import { createImage } from "../../../src/backing/create.ts"
import { LockedFile } from "../../../src/backing/host/image-lock.ts"
import { type LockPrograms, lockPrograms } from "../../../src/backing/host/lock-child.ts"
import { findForeignLock } from "../../../src/backing/host/proc-locks.ts"
import { openImage, type OpenImageOptions } from "../../../src/backing/open.ts"
import { commandLine } from "../../support/command-line.ts"
import { Opener, qemuIoHolding } from "../../support/processes.ts"
import { itWithQemu } from "../../support/qemu.ts"
import { temporaryDirectory } from "../../support/temporary.ts"
import { failureOf } from "../qcow2/small-images.ts"

const open: { close(): void }[] = []

afterEach(() => {
  for (const each of open.splice(0)) each.close()
})

function opened(path: string, options: OpenImageOptions = {}) {
  const image = openImage(path, options)
  open.push(image)
  return image
}

function claimed(path: string, programs: Partial<LockPrograms>, readOnly = false): LockedFile {
  const file = new LockedFile(path, { readOnly, programs: { ...lockPrograms(), ...programs } })
  open.push(file)
  file.claim()
  return file
}

function newImage(): string {
  const path = join(temporaryDirectory(), "disk.qcow2")
  createImage(path, { size: 1 << 20 })
  return path
}

/** base.raw <- top.qcow2 */
function newOverlay(): { base: string; top: string } {
  const directory = temporaryDirectory()
  const [base, top] = [join(directory, "base.raw"), join(directory, "top.qcow2")]
  createImage(base, { format: "raw", size: 1 << 20 })
  createImage(top, { backing: "base.raw", backingFormat: "raw" })
  return { base, top }
}

/** What a command of QEMU's says when it cannot have the image. */
function refusedByQemu(...words: [string, ...string[]]): boolean {
  const [command, ...args] = words
  const { status, stderr } = spawnSync(command, args, { encoding: "utf8" })
  expect(stderr === "" || /Failed to get .*lock/.test(stderr), stderr).toBe(true)
  return status !== 0
}

const READ_ONLY = { readOnly: true, lockReadOnly: true } as const

const WRITE = ["-c", "write 0 512"]
const READ = ["-r", "-c", "read 0 512"]

describe("between processes of ours", () => {
  it("of two processes that open an image for writing at once, exactly one gets it", async () => {
    const path = newImage()
    const openers = await Promise.all([Opener.start(), Opener.start()])
    for (let round = 0; round < 25; round++) {
      const answers = await Promise.all(openers.map((opener) => opener.open(path)))
      const refused = expect.stringMatching(/^failed busy .*(process \d+ \(.*\)|another process) has locked it; stop/)
      expect(answers.sort(), `round ${round}`).toEqual([refused, "open qemu"])
      await Promise.all(openers.map((opener) => opener.close()))
    }
  })

  it("of a writer and a reader that open an image at once, exactly one gets it", async () => {
    const path = newImage()
    const openers = await Promise.all([Opener.start(), Opener.start()])
    for (let round = 0; round < 15; round++) {
      const answers = await Promise.all(
        openers.map((opener, index) => opener.open(path, { readOnly: (index + round) % 2 === 0, lockReadOnly: true })),
      )
      expect(answers.filter((answer) => answer === "open qemu"), `round ${round}: ${answers.join()}`).toHaveLength(1)
      await Promise.all(openers.map((opener) => opener.close()))
    }
  })

  it("many readers share an image and keep a writer out until all close; a reader that takes no lock still sees a writer", async () => {
    const path = newImage()
    const [first, second] = await Promise.all([Opener.start(), Opener.start()])
    expect([await first.open(path, READ_ONLY), await second.open(path, READ_ONLY)]).toEqual(["open qemu", "open qemu"])
    expect(opened(path, READ_ONLY).lock).toBe("qemu")
    open.pop()?.close()
    await first.close()
    expect(failureOf(() => openImage(path)).code).toBe("busy")
    await second.close()
    expect(await first.open(path, { readOnly: true })).toBe("open none")
    expect(opened(path).lock).toBe("qemu")
    await first.close()
    expect(await first.open(path, { readOnly: true })).toMatch(/^failed busy/)
  })

  it("the error names the process; a killed process holds no lock", async () => {
    const path = newImage()
    const other = await Opener.start()
    expect(await other.open(path)).toBe("open qemu")
    const { message } = failureOf(() => openImage(path))
    expect(message).toBe(`${path}: process ${other.pid} (node) has locked it; stop that virtual machine or tool first`)
    expect(failureOf(() => openImage(path, { readOnly: true })).code).toBe("busy")
    await other.kill()
    expect(opened(path).lock).toBe("qemu")
  })

  it("ignoreLocks opens beside a writer, and locks nothing itself", async () => {
    const path = newImage()
    const other = await Opener.start()
    await other.open(path)
    expect(opened(path, { ignoreLocks: true, readOnly: true }).lock).toBe("none")
    await other.close()
    opened(path, { ignoreLocks: true })
    expect(await other.open(path)).toBe("open qemu")
  })

  it("QC-BF-06 overlays share a backing file, and nobody opens it for writing, whatever the option for readers says", async () => {
    const { base, top } = newOverlay()
    const sibling = `${top}2`
    createImage(sibling, { backing: "base.raw", backingFormat: "raw" })
    opened(top, { lockReadOnly: false })
    const other = await Opener.start()
    expect(await other.open(sibling)).toBe("open qemu")
    await other.close()
    expect(await other.open(base, { format: "raw" })).toMatch(/^failed busy/)
    open.pop()?.close()
    expect(await other.open(base, { format: "raw" })).toBe("open qemu")
    const { message } = failureOf(() => openImage(top))
    expect(message).toMatch(/top\.qcow2: cannot open its backing file: .*base\.raw: process \d+ \(node\) has locked it/)
  })

  it("check --repair leaves an image alone that another process has open", async () => {
    const path = newImage()
    const other = await Opener.start()
    for (const options of [{}, READ_ONLY]) {
      await other.open(path, options)
      const { code, err } = await commandLine("check", "--repair", "all", path)
      expect([code, err]).toEqual([1, expect.stringMatching(/process \d+ \(node\) has locked it/)])
      await other.close()
    }
  })

  it("a new image is locked while it is made", () => {
    const claim = vi.spyOn(LockedFile.prototype, "claim")
    newImage()
    expect(claim).toHaveBeenCalledOnce()
    claim.mockRestore()
  })

  it("a child process of the one that has an image open does not inherit it", () => {
    const path = newImage()
    opened(path)
    expect(spawnSync("ls", ["-l", "/proc/self/fd"], { encoding: "utf8" }).stdout).not.toContain("disk.qcow2")
  })
})

describe("beside QEMU", () => {
  itWithQemu("QEMU does not open an image that we write, nor for writing one that we read, until we close", () => {
    const path = newImage()
    opened(path)
    for (const words of [WRITE, READ]) expect(refusedByQemu("qemu-io", ...words, path)).toBe(true)
    for (const command of ["info", "check"]) expect(refusedByQemu("qemu-img", command, path)).toBe(true)
    open.pop()?.close()
    opened(path, READ_ONLY)
    expect(refusedByQemu("qemu-io", ...WRITE, path)).toBe(true)
    expect(refusedByQemu("qemu-io", ...READ, path)).toBe(false)
    expect(refusedByQemu("qemu-img", "check", path)).toBe(false)
    open.pop()?.close()
    expect(refusedByQemu("qemu-io", ...WRITE, path)).toBe(false)
  })

  itWithQemu("QEMU reads a backing file that we have open, and does not write to it", () => {
    const { base, top } = newOverlay()
    opened(top)
    expect(refusedByQemu("qemu-io", "-f", "raw", ...WRITE, base)).toBe(true)
    expect(refusedByQemu("qemu-io", "-f", "raw", ...READ, base)).toBe(false)
  })

  itWithQemu("we do not open an image that QEMU writes, nor for writing one that QEMU reads, and the error names QEMU", async () => {
    const { base, top } = newOverlay()
    const writer = await qemuIoHolding(top)
    for (const readOnly of [true, false]) {
      expect(failureOf(() => openImage(top, { readOnly })).message).toMatch(/process \d+ \(qemu-io\) has locked it/)
    }
    expect(opened(base, { format: "raw", ...READ_ONLY }).lock).toBe("qemu")
    await writer.close()
    const reader = await qemuIoHolding("-r", top)
    expect(failureOf(() => openImage(top)).code).toBe("busy")
    expect(opened(top, READ_ONLY).lock).toBe("qemu")
    await reader.close()
  })

  itWithQemu("of QEMU and us, opening an image for writing at once, at most one gets it", async () => {
    const path = newImage()
    const opener = await Opener.start()
    for (let round = 0; round < 10; round++) {
      const [ours, theirs] = await Promise.all([opener.open(path), qemuIoHolding(path)])
      expect([ours.startsWith("open"), theirs.opened].filter(Boolean).length, `round ${round}`).toBeLessThan(2)
      await Promise.all([opener.close(), theirs.close()])
    }
  })
})

describe("where programs are missing", () => {
  /** A program that is not what it is called. */
  function fake(script: string): string {
    const path = join(temporaryDirectory(), "program")
    writeFileSync(path, `#!/bin/sh\n${script}\n`)
    chmodSync(path, 0o755)
    return path
  }

  it.each<[string, () => Partial<LockPrograms>]>([
    ["there is no perl", () => ({ perl: undefined })],
    ["perl fails", () => ({ perl: fake("exit 1") })],
    ["perl says that it has locked, and has not", () => ({ perl: fake("exit 0") })],
    ["perl hangs", () => ({ perl: fake("exec sleep 1000"), timeout: 300 })],
    ["perl cannot be run", () => ({ perl: "/nowhere/perl" })],
  ])("%s: our lock by flock keeps out other users of flock, and openings of ours with and without perl", async (_, programs) => {
    const path = newImage()
    const without = programs()
    const other = await Opener.start()
    expect(claimed(path, without).lock).toBe("flock")
    expect(spawnSync("flock", ["-n", "-s", path, "true"]).status).toBe(1)
    expect(await other.open(path)).toMatch(/^failed busy .*\(\w+\) has locked it/)
    expect(await other.open(path, { readOnly: true })).toMatch(/^failed busy/)
    open.pop()?.close()

    expect(claimed(path, without, true).lock).toBe("flock")
    expect(await other.open(path)).toMatch(/^failed busy/)
    expect(await other.open(path, READ_ONLY)).toBe("open qemu")
    expect(claimed(path, without, true).lock).toBe("flock")
    for (const each of open.splice(0)) each.close()
    expect(failureOf(() => claimed(path, without)).code).toBe("busy")
    await other.close()
    expect(claimed(path, without).lock).toBe("flock")
  })

  itWithQemu("without perl and flock an image is not locked, but the locks of others are seen", async () => {
    const path = newImage()
    const programs = { perl: undefined, flock: undefined }
    expect(claimed(path, programs).lock).toBe("none")
    open.pop()?.close()
    const qemu = await qemuIoHolding(path)
    expect(failureOf(() => claimed(path, programs)).message).toMatch(/qemu-io/)
    await qemu.close()
  })
})

it("with hardly a descriptor left an image is opened with its lock or not at all", () => {
  const path = join(temporaryDirectory(), "disk.raw")
  writeFileSync(path, "")
  const words = ["-c", 'ulimit -n 128; exec "$0" "$@"', process.execPath, "--import", "tsx", "test/backing/host/few-descriptors.ts", path]
  const { stdout, stderr } = spawnSync("sh", words, { encoding: "utf8" })
  const lines = stdout.trim().split("\n")
  expect(lines, stderr).toHaveLength(13)
  expect(new Set(lines)).toEqual(new Set(["failed io", "open qemu"]))
})

describe("the host's list of locks", () => {
  // What qemu-io leaves in /proc/locks while it holds an image, writable and read-only (seen with QEMU 7.2).
  const lines = (...ranges: string[]) => ranges.map((range, index) => `${index + 1}: OFDLCK ADVISORY  READ -1 fe:00:42 ${range}\n`).join("")
  const WRITER = lines("203 203", "201 201", "103 103", "100 101")
  const READER = lines("203 203", "201 201", "100 100")

  it.each<[string, string, boolean, number | undefined]>([
    ["QEMU writes, we would write", WRITER, false, -1],
    ["QEMU writes, we would read", WRITER, true, -1],
    ["QEMU reads, we would write", READER, false, -1],
    ["QEMU reads, we would read", READER, true, undefined],
    ["another file", WRITER.replaceAll(":42 ", ":43 "), false, undefined],
    ["another program does not share reading, we would write", "1: OFDLCK ADVISORY  READ -1 fe:00:42 200 200\n", false, -1],
    ["another program waits for a lock", "1: -> OFDLCK ADVISORY WRITE -1 fe:00:42 0 EOF\n", false, undefined],
    ["a whole-file lock for writing", "7: POSIX  ADVISORY  WRITE 1234 fe:00:42 0 EOF\n", true, 1234],
    ["a whole-file lock for reading, we would write", "7: FLOCK  ADVISORY  READ 1234 fe:00:42 0 EOF\n", false, 1234],
    ["a whole-file lock for reading, we would read", "7: FLOCK  ADVISORY  READ 1234 fe:00:42 0 EOF\n", true, undefined],
    ["an empty list", "", false, undefined],
  ])("%s", (_, list, readOnly, expected) => {
    expect(findForeignLock(list, "fe:00:42", { readOnly })).toBe(expected)
  })
})
