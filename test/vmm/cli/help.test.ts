/** Completions and the manual page, made from the table; pictures of disks on terminals of all kinds. */
import { spawnSync } from "node:child_process"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { afterEach, describe, expect, it, vi } from "vitest"
import { cellsOf } from "../../../src/vmm/cli/disk-map/cells.ts"
import type { Part } from "../../../src/vmm/cli/disk-map/parts.ts"
import { cellCount, pictureLines, pictureSvg } from "../../../src/vmm/cli/disk-map/picture.ts"
import { COMMANDS } from "../../../src/vmm/cli/table/table.ts"
import { terminal } from "../../../src/vmm/cli/terminal.ts"
import { commandLine } from "../../support/command-line.ts"
import { copyGolden } from "../../support/golden.ts"
import { temporaryDirectory } from "../../support/temporary.ts"

const hasBash = spawnSync("bash", ["--version"]).status === 0

describe("completions", () => {
  it.runIf(hasBash)("bash completes commands, options and values of options", async () => {
    const { out } = await commandLine("completion", "bash")
    const complete = (...words: string[]): string[] => {
      const script = `${out}\nCOMP_WORDS=(vioblk "$@"); COMP_CWORD=$#; _vioblk; printf '%s\\n' "\${COMPREPLY[@]}"`
      const { stdout, stderr, status } = spawnSync("bash", ["-c", script, "bash", ...words], { encoding: "utf8" })
      expect({ stderr, status }).toEqual({ stderr: "", status: 0 })
      return stdout.split("\n").filter((word) => word !== "")
    }
    expect(complete("ch")).toEqual(["check"])
    expect(complete("help", "in")).toEqual(["info"])
    expect(complete("check", "--rep")).toEqual(["--repair"])
    expect(complete("check", "-r", "")).toEqual(["leaks", "all"])
    expect(complete("check", "disk")).toEqual([])
    for (const { name, options } of COMMANDS) {
      expect(complete(name, "--")).toEqual(options.map((option) => `--${option.name}`))
    }
  })

  it("zsh gets the same options with their descriptions", async () => {
    const { out, code } = await commandLine("completion", "zsh")
    expect(code).toBe(0)
    for (const { name, options } of COMMANDS) {
      const line = out.split("\n").find((text) => text.trim().startsWith(`${name}) _arguments`)) ?? ""
      for (const option of options) expect(line).toContain(`*--${option.name}`)
      expect((line.replaceAll("'\\''", "").match(/'/g) ?? []).length % 2).toBe(0)
    }
  })

  it("another shell is refused", async () => expect(await commandLine("completion", "fish")).toMatchObject({ code: 1 }))
})

it("the manual page has every command and option, and no text line that roff reads as a request", async () => {
  const { out, code } = await commandLine("help", "--man")
  expect(code).toBe(0)
  for (const { name, options } of COMMANDS) {
    const section = out.split("\n.SS ").find((text) => text.startsWith(`${name}\n`)) ?? ""
    for (const option of options) expect(section).toContain(`\\-\\-${option.name.replaceAll("-", "\\-")}`)
  }
  expect(out.split("\n").filter((line) => /^['.](?!TH |SH |SS |B |TP$|PP$|br$)/.test(line))).toEqual([])
})

describe("a picture of a disk", () => {
  afterEach(() => void vi.unstubAllEnvs())
  const part = (start: number, length: number, rest: Partial<Part>): Part => ({
    start, length, depth: 0, present: true, zero: false, data: true, compressed: false, offset: undefined, filename: undefined, ...rest,
  })
  const PARTS = [
    part(0, 1024, {}), part(1024, 1024, { zero: true, data: false }), part(2048, 1024, { compressed: true }),
    part(3072, 1024, { depth: 1 }),
    part(4096, 1024, { depth: 2 }), part(5120, 1024, { depth: 5 }), part(6144, 2048, { present: false, zero: true, data: false }),
  ]
  const plain = { columns: 80, hasColours: false, isUnicode: true }

  it("shows each kind, even a small extent of it", () => {
    expect(cellsOf(PARTS, 8192, 8).kinds).toEqual([
      "data", "zero", "compressed", "backing 1", "backing 2", "backing 3", "unallocated", "unallocated",
    ])
    const small = [part(0, 2 ** 40, { present: false, zero: true, data: false }), part(2 ** 40, 512, {})]
    expect(cellsOf(small, 2 ** 40 + 512, 10).kinds.at(-1)).toBe("data")
    expect(pictureLines(cellsOf(PARTS, 8192, 8), plain)[0]).toBe("█░▓▒▚▞··")
    expect(pictureLines(cellsOf(PARTS, 8192, 8), { ...plain, isUnicode: false })[0]).toBe("#0c123..")
  })

  it.each([1, 20, 80, 200])("keeps within %i columns, with colours and without", (columns) => {
    for (const hasColours of [false, true]) {
      const screen = { columns, hasColours, isUnicode: true }
      const lines = pictureLines(cellsOf(PARTS, 8192, cellCount(screen)), screen)
      const shown = lines.map((line) => line.replace(/\x1b\[\d+m/g, ""))
      for (const line of shown) expect(line.length).toBeLessThanOrEqual(Math.max(columns - 1, 1))
      expect(lines.join("") !== shown.join("")).toBe(hasColours)
    }
  })

  it("has no colours in a pipe, nor if NO_COLOR is set", () => {
    expect(terminal()).toMatchObject({ columns: 80, hasColours: false })
    const { isTTY, columns } = process.stdout
    try {
      Object.assign(process.stdout, { isTTY: true, columns: 200 })
      vi.stubEnv("TERM", "xterm")
      vi.stubEnv("NO_COLOR", "")
      expect(terminal()).toMatchObject({ columns: 200, hasColours: true })
      vi.stubEnv("NO_COLOR", "1")
      expect(terminal().hasColours).toBe(false)
    } finally {
      Object.assign(process.stdout, { isTTY, columns })
    }
  })

  it("is drawn by map --picture, and by --svg into a new file", async () => {
    const golden = copyGolden(temporaryDirectory())
    const [image, svg] = [join(golden, "v3-4k.qcow2"), join(golden, "a.svg")]
    expect(await commandLine("map", "--picture", image)).toMatchObject({
      code: 0, err: "", out: expect.stringContaining("data in the image"),
    })
    expect(await commandLine("map", "--svg", svg, image)).toEqual({ code: 0, err: "", out: "" })
    const drawn = readFileSync(svg, "utf8")
    expect(drawn).toMatch(/^<svg [^]*<\/svg>\n$/)
    expect(await commandLine("map", "--svg", svg, image)).toEqual({
      code: 1, out: "", err: `vioblk: ${svg}: cannot create: it exists already; choose another name or remove it first\n`,
    })
    const lost = join(golden, "missing", "a.svg")
    const err = `vioblk: ${lost}: cannot create: its folder does not exist\n`
    expect(await commandLine("map", "--svg", lost, image)).toEqual({ code: 1, out: "", err })
    expect(pictureSvg(cellsOf(PARTS, 8192, 8), '<a&"\u001b')).toContain("<title>&#60;a&#38;&#34;\ufffd</title>")
  })
})
