/** Signals that come in the middle of a command, which runs in a process of its own: how it ends, what it says, and what is left. */
import { spawn, spawnSync } from "node:child_process"
import { closeSync, existsSync, openSync, readdirSync, readFileSync, statSync, watch, writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it, onTestFinished } from "vitest"
import { checkImage, repairImage } from "../../../src/backing/check.ts"
import { createImage } from "../../../src/backing/create.ts"
import { openImage } from "../../../src/backing/open.ts"
import { Rng } from "../../support/rng.ts"
import { temporaryDirectory } from "../../support/temporary.ts"

const MIB = 1 << 20
const SIGNALS = [["SIGINT", 130], ["SIGTERM", 143], ["SIGHUP", 129]] as const

interface Ended {
  readonly code: number | null
  readonly signal: string | null
  readonly err: string
}

interface Start {
  readonly words: readonly string[]
  readonly name: NodeJS.Signals
  /** The signal is sent when this file, or a file in this folder, changes. Undefined: with the first line of progress. */
  readonly whenChanged?: string
}

/** Runs a command, and sends it the signal once it is at work. */
async function interrupted({ words, name, whenChanged }: Start): Promise<Ended> {
  const child = spawn(process.execPath, ["--import", "tsx", "src/vmm/cli/main.ts", ...words], { stdio: ["ignore", "pipe", "pipe"] })
  onTestFinished(() => void child.kill("SIGKILL"))
  let err = ""
  child.stderr.on("data", (text) => void (err += String(text)))
  const send = (): void => void child.kill(name)
  if (whenChanged === undefined) child.stdout.once("data", send)
  else {
    const watcher = watch(whenChanged)
    watcher.once("change", send)
    child.once("exit", () => watcher.close())
  }
  return new Promise((resolve) => child.once("close", (code, signal) => resolve({ code, signal, err })))
}

/** Bytes that cannot be compressed, without holes. */
function content(size: number): Buffer {
  const piece = new Rng(5).bytes(MIB)
  return Buffer.concat(Array.from({ length: size / MIB }, () => piece))
}

/** An overlay that holds 8 MiB, over a raw base of 32 MiB. */
function overlay(): { readonly folder: string; readonly top: string; readonly base: string } {
  const folder = temporaryDirectory()
  const [top, base] = [join(folder, "top.qcow2"), join(folder, "base.raw")]
  writeFileSync(base, content(32 * MIB))
  createImage(top, { size: 64 * MIB, backing: "base.raw", backingFormat: "raw" })
  const disk = openImage(top)
  disk.pwrite(content(8 * MIB), 4 * MIB)
  disk.close()
  return { folder, top, base }
}

function diskOf(path: string): Buffer {
  const disk = openImage(path, { readOnly: true })
  const bytes = Buffer.alloc(disk.size)
  disk.pread(bytes, 0)
  disk.close()
  return bytes
}

describe("a command that is interrupted", { timeout: 120_000 }, () => {
  it.each(SIGNALS)("convert by %s exits with %i and one line, and changes no file", async (name, code) => {
    const { folder, top, base } = overlay()
    const [before, target] = [[readFileSync(top), readFileSync(base)], join(folder, "new.qcow2")] as const
    writeFileSync(target, "old")
    const ended = await interrupted({ words: ["convert", "-p", "-r", "4M", "-O", "qcow2", top, target], name })
    expect(ended).toEqual({ code, signal: null, err: `vioblk: interrupted: ${target} is unchanged\n` })
    expect([readFileSync(top).equals(before[0] ?? ""), readFileSync(base).equals(before[1] ?? "")]).toEqual([true, true])
    expect([readFileSync(target, "utf8"), readdirSync(folder).sort()]).toEqual(["old", ["base.raw", "new.qcow2", "top.qcow2"]])
  })

  it("commit exits with 130 and one line, and the image reads as before and can be committed", async () => {
    const { top } = overlay()
    const before = diskOf(top)
    const ended = await interrupted({ words: ["commit", "-p", "-r", "1M", top], name: "SIGINT" })
    expect(ended).toEqual({ code: 130, signal: null, err: `vioblk: interrupted: ${top} still holds all of it; run the command again\n` })
    expect(diskOf(top).equals(before)).toBe(true)
    expect(checkImage(top)).toMatchObject({ exitCode: 0 })
  })

  it("rebase exits with 130 and one line, and leaves the base unchanged and the image reading as before", async () => {
    const { top, base } = overlay()
    const before = [diskOf(top), readFileSync(base)] as const
    const ended = await interrupted({ words: ["rebase", "-p", "-b", "", top], name: "SIGINT" })
    expect(ended).toEqual({ code: 130, signal: null, err: `vioblk: interrupted: ${top} reads as before; run the command again\n` })
    expect([diskOf(top).equals(before[0]), readFileSync(base).equals(before[1])]).toEqual([true, true])
    expect(checkImage(top)).toMatchObject({ exitCode: 0 })
  })

  it("dd exits with 130 and one line, and leaves no new file", async () => {
    const { folder, base } = overlay()
    const target = join(folder, "new.raw")
    const ended = await interrupted({ words: ["dd", "-p", "bs=1M", `if=${base}`, `of=${target}`], name: "SIGINT" })
    expect(ended).toEqual({ code: 130, signal: null, err: `vioblk: interrupted: ${target} is removed; run the command again\n` })
    expect(readdirSync(folder).sort()).toEqual(["base.raw", "top.qcow2"])
  })

  it.each(SIGNALS)("resize of a qcow2 image by %s exits with %i and one line, and leaves the old size and no leak", async (name, code) => {
    const path = join(temporaryDirectory(), "disk.qcow2")
    createImage(path, { size: MIB })
    const before = diskOf(path)
    const ended = await interrupted({ words: ["resize", "--preallocation=metadata", path, "1T"], name, whenChanged: path })
    expect(ended).toEqual({ code, signal: null, err: `vioblk: interrupted: ${path} has its old size of ${MIB} bytes\n` })
    expect(diskOf(path).equals(before)).toBe(true)
    expect(checkImage(path)).toMatchObject({ exitCode: 0 })
    expect(statSync(path).size).toBeLessThan(2 * MIB)
  })

  it("resize of a raw image leaves the old size, and create with preallocation no file", async () => {
    const folder = temporaryDirectory()
    const [path, target] = [join(folder, "disk.raw"), join(folder, "new.raw")]
    writeFileSync(path, content(MIB))
    const words = ["resize", "-f", "raw", "--preallocation=full", path, "1500M"]
    const line = `vioblk: interrupted: ${path} has its old size of ${MIB} bytes\n`
    expect(await interrupted({ words, name: "SIGINT", whenChanged: path })).toEqual({ code: 130, signal: null, err: line })
    expect(readFileSync(path).equals(content(MIB))).toBe(true)
    const created = await interrupted({
      words: ["create", "-q", "-o", "preallocation=full", target, "1500M"], name: "SIGTERM", whenChanged: folder,
    })
    // It may be so early that no one listens yet.
    expect([created.code, created.signal]).toEqual(created.signal === null ? [143, null] : [null, "SIGTERM"])
    if (created.signal === null) {
      expect([created.err, readdirSync(folder)]).toEqual([`vioblk: interrupted: ${target} was not created\n`, ["disk.raw"]])
    }
  })

  it("run without an image exits with 130 and one line, and removes its temporary disk", async () => {
    const folder = temporaryDirectory()
    // Set behind tsx, which has temporary files of its own.
    const late = `data:text/javascript,process.env.TMPDIR=${JSON.stringify(folder)}`
    const child = spawn(process.execPath, ["--import", "tsx", "--import", late, "src/vmm/cli/main.ts"], {
      stdio: ["ignore", "ignore", "pipe"],
    })
    onTestFinished(() => void child.kill("SIGKILL"))
    let err = ""
    child.stderr.on("data", (text) => void (err += String(text)))
    const watcher = watch(folder)
    watcher.once("change", () => void child.kill("SIGINT"))
    const code = await new Promise((resolve) => child.once("close", resolve))
    watcher.close()
    expect({ code, err }).toEqual({ code: 130, err: "vioblk: interrupted: the temporary disk is removed\n" })
    expect(readdirSync(folder)).toEqual([])
  })

  it("snapshot and check -r, which work in one step, end by the signal, and leave the image sound", async () => {
    const folder = temporaryDirectory()
    const path = join(folder, "disk.qcow2")
    createImage(path, { size: 2 ** 33, preallocation: "metadata" })
    const disk = openImage(path)
    disk.pwrite(content(MIB), 3 * MIB)
    disk.close()
    const read = (): Buffer => {
      const bytes = Buffer.alloc(8 * MIB)
      const image = openImage(path, { readOnly: true })
      image.pread(bytes, 0)
      image.close()
      return bytes
    }
    const before = read()
    for (const words of [["snapshot", "-c", "one", path], ["check", "-q", "-r", "all", path], ["snapshot", "-d", "one", path]]) {
      const ended = await interrupted({ words, name: "SIGINT", whenChanged: path })
      // Who is fast is through before.
      if (ended.signal === null) expect(words[0] === "snapshot" || ended.code === 0, `${words.join(" ")}: ${ended.err}`).toBe(true)
      else expect(ended).toEqual({ code: null, signal: "SIGINT", err: "" })
      expect([0, 3]).toContain(checkImage(path).exitCode)
      expect(read().equals(before)).toBe(true)
    }
    expect(repairImage(path, "all")).toMatchObject({ exitCode: 0 })
    expect(read().equals(before)).toBe(true)
  })
})

describe("a command whose output is closed", { timeout: 120_000 }, () => {
  it("goes on to its end: the new image is complete, and no other file is left", async () => {
    const { folder, top } = overlay()
    const target = join(folder, "new.raw")
    const words = ["convert", "-p", "-r", "40M", "-O", "raw", top, target]
    const child = spawn(process.execPath, ["--import", "tsx", "src/vmm/cli/main.ts", ...words], { stdio: ["ignore", "pipe", "pipe"] })
    onTestFinished(() => void child.kill("SIGKILL"))
    child.stdout.once("data", () => {
      child.stdout.destroy()
      child.stderr.destroy()
    })
    const ended = await new Promise((resolve) => child.once("exit", (code, signal) => resolve({ code, signal })))
    expect(ended).toEqual({ code: 0, signal: null })
    expect(readdirSync(folder).sort()).toEqual(["base.raw", "new.raw", "top.qcow2"])
    expect(diskOf(target).equals(diskOf(top))).toBe(true)
  })

  it("stores later writes too, in io", async () => {
    const path = join(temporaryDirectory(), "disk.qcow2")
    createImage(path, { size: MIB })
    // `sleep` lets the program hear that nobody reads.
    const lines = Array.from({ length: 16 }, (_, at) => ["-c", `write -P ${at + 1} ${at * 64}k 64k`, "-c", "sleep 30"]).flat()
    const words = ["--import", "tsx", "src/vmm/cli/main.ts", "io", ...lines, path]
    const child = spawn(process.execPath, words, { stdio: ["ignore", "pipe", "pipe"] })
    onTestFinished(() => void child.kill("SIGKILL"))
    const ended = new Promise((resolve) => child.once("exit", (code, signal) => resolve({ code, signal })))
    child.stdout.once("data", () => {
      child.stdout.destroy()
      child.stderr.destroy()
    })
    expect(await ended).toEqual({ code: 0, signal: null })
    expect(Array.from({ length: 16 }, (_, at) => diskOf(path)[at * 65_536])).toEqual(Array.from({ length: 16 }, (_, at) => at + 1))
  })

  it.runIf(existsSync("/dev/full"))("reports once, with exit code 1, that its output had no space", () => {
    const { folder, top } = overlay()
    const full = openSync("/dev/full", "w")
    const words = ["convert", "-p", "-r", "40M", "-O", "raw", top, join(folder, "new.raw")]
    const { status, stderr } = spawnSync(process.execPath, ["--import", "tsx", "src/vmm/cli/main.ts", ...words], {
      encoding: "utf8", stdio: ["ignore", full, "pipe"],
    })
    closeSync(full)
    expect({ status, stderr }).toEqual({ status: 1, stderr: "vioblk: cannot write the output: ENOSPC: no space left on device, write\n" })
    expect(diskOf(join(folder, "new.raw")).equals(diskOf(top))).toBe(true)
  })
})
