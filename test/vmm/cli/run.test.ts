/** The command line as its user meets it: exit codes, one line for an error, and sums that other programs agree with. */
import { spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import { closeSync, existsSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest"
import { commandLine } from "../../support/command-line.ts"

let folder: string
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "vioblk-cli-"))
  // Temporary files of the program go where a test can see them.
  vi.stubEnv("TMPDIR", folder)
})
afterAll(() => {
  vi.unstubAllEnvs()
  rmSync(folder, { recursive: true })
})

/** A file of `bytes` bytes that are nowhere alike, with what `change` does to it. */
function image(name: string, bytes: number, change: (content: Buffer) => void = () => {}): { path: string; content: Buffer } {
  const content = Buffer.alloc(bytes)
  for (let at = 0; at < bytes; at++) content[at] = (at * 2654435761) >>> 13
  change(content)
  const path = join(folder, name)
  writeFileSync(path, content)
  return { path, content }
}

function sha256(content: Uint8Array): string {
  return createHash("sha256").update(content).digest("hex")
}

describe("vioblk without an image", () => {
  it("tries the device, verifies its writes, and leaves no file behind", async () => {
    const { code, out, err } = await commandLine()
    expect(err).toBe("")
    expect(code).toBe(0)
    expect(out).toMatch(/^00:01\.0 SCSI storage controller \[0100\]: Red Hat, Inc\. Virtio block device \[1af4:1001\]/)
    expect(out).toContain("VERSION_1")
    expect(out).toMatch(/^serial {4}vioblk-demo$/m)
    expect(out).toMatch(/^verified {2}the data read equals the data written/m)
    expect(readdirSync(folder).filter((name) => name.startsWith("vioblk-"))).toEqual([])
  })

  it("drives several queues as a legacy driver, and prints JSON", async () => {
    const { code, out } = await commandLine("--legacy", "--queues", "3", "--queue-size", "64", "--json")
    expect(code).toBe(0)
    const report = JSON.parse(out)
    expect(report).toMatchObject({ driver: { interface: "legacy", queues: 3, queueSize: 64 }, capacity: 131072, equal: true })
    expect(report.written.sha256).toBe(report.read.sha256)
    expect(report.statistics.write.bytes).toBe(64 << 20)
  })
})

describe("vioblk IMAGE", () => {
  it("prints the SHA-256 of the raw content, and does not touch the image", async () => {
    const { path, content } = image("plain.raw", 3 << 20)
    const { code, out } = await commandLine(path, "--format", "raw")
    expect(code).toBe(0)
    expect(out).toContain(sha256(content))
    expect(out).toMatch(/^capacity {2}6144 sectors, 3 MiB, read-only/m)
    expect(readFileSync(path).equals(content)).toBe(true)
  })

  it("hashes whole sectors only, and reports that the guest cannot reach the rest", async () => {
    const { path, content } = image("odd.raw", 5 * 512 + 100)
    const { out } = await commandLine(path, "--format", "raw")
    expect(out).toContain(sha256(content.subarray(0, 5 * 512)))
    expect(out).toContain("the last 100 bytes of the image do not fill a sector")
  })

  it("shows the partitions", async () => {
    const { path } = image("mbr.raw", 1 << 20, (content) => {
      content.fill(0, 446, 510)
      content.set([0x80, 0, 0, 0, 0x83, 0, 0, 0, 64, 0, 0, 0, 0xe8, 3, 0, 0], 446)
      content.set([0x55, 0xaa], 510)
    })
    expect((await commandLine(path, "--format", "raw")).out).toMatch(
      /^table {5}MBR, 1 partition\n {3}1 {6}sectors 64 to 1063, 500 KiB, type 83, bootable$/m,
    )
  })

  it("rewrites the start unchanged with --write", async () => {
    const { path, content } = image("write.raw", 2 << 20)
    const { code, out } = await commandLine(path, "--format", "raw", "--write", "--json")
    expect(code).toBe(0)
    expect(JSON.parse(out)).toMatchObject({
      readOnly: false, rewritten: { bytes: 1 << 20, equal: true }, statistics: { write: { bytes: 1 << 20 } },
    })
    expect(readFileSync(path).equals(content)).toBe(true)
  })
})

describe("vioblk --trace and --metrics", () => {
  it("--trace prints a line for each request on standard error, as it is completed", async () => {
    const { path } = image("trace.raw", 1 << 20)
    const { code, out, err } = await commandLine(path, "--format", "raw", "--write", "--trace", "--json")
    expect(code).toBe(0)
    const lines = err.trimEnd().split("\n")
    expect(lines[0]).toMatch(/^ {2}0\.000000 queue 0 getId: OK after \d+\.\d{3} ms$/)
    expect(
      lines.filter((line) => !/^ +\d+\.\d{6} queue 0 (getId|flush|(read|write) sector \d+, \d+ bytes): OK after /.test(line)),
    ).toEqual([])
    const { statistics } = JSON.parse(out)
    const count = (kind: string): number => lines.filter((line) => line.includes(` ${kind}`)).length
    expect([count("read"), count("write"), count("flush"), count("getId")]).toEqual(
      [statistics.read.requests, statistics.write.requests, statistics.flush.requests, statistics.getId.requests],
    )
    expect(count("write")).toBeGreaterThan(0)
  })

  it("--metrics prints the text for Prometheus, and nothing else", async () => {
    const { path } = image("metrics.raw", 1 << 20)
    const { code, out } = await commandLine(path, "--format", "raw", "--metrics")
    expect(code).toBe(0)
    expect(out).toMatch(/^# HELP vioblk_capacity_bytes /)
    expect(out).toMatch(/^vioblk_bytes_total\{disk="vioblk",kind="read"\} \d{7,}$/m)
    expect(out).toMatch(/^vioblk_request_seconds_bucket\{disk="vioblk",kind="read",le="\+Inf"\} [1-9]\d*$/m)
    expect(out.trimEnd().split("\n").filter((line) => !/^(# |vioblk_)/.test(line))).toEqual([])
  })
})

describe("vioblk reports in one line", () => {
  it.each([
    ["a missing image", ["nowhere.raw"], 1, "vioblk: nowhere.raw: cannot open: no such file\n"],
    ["a directory", ["src"], 1, "vioblk: src: it is a directory, not a disk image\n"],
    [
      "an option that does not exist",
      ["--quoues", "2"],
      1,
      "vioblk: --quoues is not an option of run (did you mean --queues?); see vioblk --help\n",
    ],
    ["a letter that does not exist", ["-x"], 1, "vioblk: -x is not an option of run, which has -f and -h; see vioblk --help\n"],
    ["an option without its value", ["--queues"], 1, "vioblk: --queues needs an argument: N; see vioblk --help\n"],
    [
      "an invalid number",
      ["--queues", "many"],
      1,
      "vioblk: --queues many: it must be a whole number from 1 to 64; see vioblk --help\n",
    ],
    ["an invalid queue size", ["--queue-size", "100"], 1, "vioblk: --queue-size 100: it must be a power of two; see vioblk --help\n"],
    ["an unknown format", ["--format", "vhd", "x"], 1, "vioblk: --format vhd: it must be raw, qcow2 or luks; see vioblk --help\n"],
    ["two images", ["./a", "b"], 1, 'vioblk: run takes one image: "b" is one word too many; see vioblk --help\n'],
    [
      "an option in place of a value",
      ["--queues", "-1"],
      1,
      "vioblk: --queues -1: it must be a whole number from 1 to 64; see vioblk --help\n",
    ],
    ["an empty name", [""], 1, "vioblk: the name of the image is empty; see vioblk --help\n"],
    [
      "a command that does not exist",
      ["chekc", "x"],
      1,
      'vioblk: "chekc" is neither a command nor an image (did you mean "check"?); see vioblk --help\n',
    ],
    ["a command behind an option", ["--json", "info", "x"], 1, "vioblk: the command comes first: vioblk info ...; see vioblk --help\n"],
    [
      "control characters", ["--format", "\u001b[m\n"], 1,
      "vioblk: --format \ufffd[m\ufffd: it must be raw, qcow2 or luks; see vioblk --help\n",
    ],
    ["two kinds of output", ["--json", "--metrics"], 1, "vioblk: --json and --metrics exclude each other; see vioblk --help\n"],
    ["--write without an image", ["--write"], 1, "vioblk: --write needs an image; see vioblk --help\n"],
  ])("%s", async (_what, args, code, line) => {
    expect(await commandLine(...args)).toEqual({ code, out: "", err: line })
    expect(existsSync("nowhere.raw")).toBe(false)
  })

  it("no folder for a temporary file", () => {
    // Set behind tsx, which would make the folder.
    const none = join(folder, "none")
    const late = `data:text/javascript,process.env.TMPDIR=${JSON.stringify(none)}`
    const command = ["--import", "tsx", "--import", late, "src/vmm/cli/main.ts"]
    const { status, stderr } = spawnSync(process.execPath, command, { encoding: "utf8" })
    expect({ status, stderr }).toEqual({ status: 1, stderr: `vioblk: ${none}: cannot create a temporary folder there: no such file\n` })
  })

  it.runIf(existsSync("/dev/full"))("no space for its output", () => {
    const full = openSync("/dev/full", "w")
    const { path } = image("full.raw", 512)
    const command = ["--import", "tsx", "src/vmm/cli/main.ts", "info", path]
    const { status, stderr } = spawnSync(process.execPath, command, { encoding: "utf8", stdio: ["ignore", full, "pipe"] })
    closeSync(full)
    expect({ status, stderr }).toEqual({ status: 1, stderr: "vioblk: cannot write the output: ENOSPC: no space left on device, write\n" })
  })
})

describe("vioblk as a program", () => {
  it("ends with the exit code, and uses standard output and standard error", () => {
    const main = (...words: string[]) => spawnSync(process.execPath, ["--import", "tsx", "src/vmm/cli/main.ts", ...words], {
      encoding: "utf8",
    })
    expect(main("--help")).toMatchObject({ status: 0, stdout: expect.stringContaining("vioblk help COMMAND"), stderr: "" })
    expect(main("/gone")).toMatchObject({ status: 1, stdout: "", stderr: "vioblk: /gone: cannot open: no such file\n" })
  })
})
