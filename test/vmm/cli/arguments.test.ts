/** The table of commands and options, and what parses arguments by it: GNU's rules, sizes as qemu-img counts them. */
import { join } from "node:path"
import { describe, expect, it, vi } from "vitest"
import { createImage } from "../../../src/backing/create.ts"
import { openImage } from "../../../src/backing/open.ts"
import { type Arguments, parseArguments } from "../../../src/vmm/cli/arguments.ts"
import { KeyValues } from "../../../src/vmm/cli/key-values.ts"
import { LOADERS } from "../../../src/vmm/cli/loaders.ts"
import { parseSize } from "../../../src/vmm/cli/size.ts"
import type { CommandRow } from "../../../src/vmm/cli/table/rows.ts"
import { explainBug } from "../../../src/vmm/cli/program.ts"
import { COMMANDS } from "../../../src/vmm/cli/table/table.ts"
import { commandLine } from "../../support/command-line.ts"
import { temporaryDirectory } from "../../support/temporary.ts"
import { SIZES } from "./sizes.ts"

describe("the table", () => {
  it("has a module for each command, and no command twice", () => {
    expect(Object.keys(LOADERS).sort()).toEqual(COMMANDS.map(({ name }) => name).sort())
  })

  it.each(
    COMMANDS.map((row) => [row.name, row] as const),
  )("%s: each name and letter stands for one option, and --help is among them", (_name, row) => {
    const names = row.options.map(({ name }) => name)
    const letters = row.options.flatMap(({ letter }) => (letter === undefined ? [] : [letter]))
    expect(new Set(names).size).toBe(names.length)
    expect(new Set(letters).size).toBe(letters.length)
    expect(names).toEqual(expect.arrayContaining(["help", "debug"]))
    for (const { means } of row.options) expect(means === undefined || names.includes(means.name)).toBe(true)
  })

  it.each(
    COMMANDS.map(({ name }) => name),
  )("vioblk %s --help and vioblk help print every option, in lines of at most 100 columns", async (name) => {
    const { code, out, err } = await commandLine(name, "--help")
    expect({ code, err }).toEqual({ code: 0, err: "" })
    expect(out).toBe((await commandLine("help", name)).out)
    for (const option of COMMANDS.find((row) => row.name === name)?.options ?? []) expect(out).toContain(`--${option.name}`)
    expect(out.split("\n").filter((line) => line.length > 100)).toEqual([])
  })

  it("the help of the program lists every command; --version is the package's", async () => {
    const { code, out } = await commandLine("--help")
    expect(code).toBe(0)
    for (const { name, summary } of COMMANDS) expect(out.replace(/\s+/g, " ")).toContain(`${name} ${summary}`)
    expect((await commandLine("--version")).out).toMatch(/^vioblk \d+\.\d+\.\d+\n$/)
    expect(await commandLine("help", "inof")).toMatchObject({ code: 1, err: expect.stringContaining('did you mean "info"') })
  })
})

const ROW: CommandRow = {
  name: "try", operands: "", summary: "",
  options: [
    { name: "format", letter: "f", argument: "FORMAT", choices: ["raw", "qcow2"], meaning: "" },
    { name: "options", letter: "o", argument: "LIST", isList: true, meaning: "" },
    { name: "output", argument: "KIND", choices: ["human", "json"], meaning: "" },
    { name: "json", means: { name: "output", value: "json" }, meaning: "" },
    { name: "quiet", letter: "q", meaning: "" }, { name: "unsafe", letter: "u", meaning: "" },
  ],
}

function parsed(...args: string[]): unknown {
  const given: Arguments = parseArguments(ROW, args)
  return {
    words: given.words, format: given.text("format"), options: given.texts("options"), quiet: given.flag("quiet"),
    unsafe: given.flag("unsafe"),
    json: given.json,
  }
}

const NOTHING = { words: [], format: undefined, options: [], quiet: false, unsafe: false, json: false }

describe("arguments", () => {
  it.each([
    [["a", "-f", "raw", "b"], { words: ["a", "b"], format: "raw" }],
    [["-fraw", "a"], { words: ["a"], format: "raw" }],
    [["--format=raw"], { format: "raw" }],
    [["--format", "raw"], { format: "raw" }],
    [["--form", "raw"], { format: "raw" }],
    [["-f", "raw", "--format=raw", "-qq"], { format: "raw", quiet: true }],
    [["-quf", "raw"], { quiet: true, unsafe: true, format: "raw" }],
    [["-qufraw"], { quiet: true, unsafe: true, format: "raw" }],
    [["-o", "a=1", "-o", "b=2"], { options: ["a=1", "b=2"] }],
    [["-o", "-q"], { options: ["-q"] }],
    [["--options="], { options: [""] }],
    [["-q", "--", "-u", "--format"], { quiet: true, words: ["-u", "--format"] }],
    [["-", "-q"], { words: ["-"], quiet: true }],
    [["--json"], { json: true }],
    [["--output=json"], { json: true }],
    [["--json", "--output", "json"], { json: true }],
  ])("%j", (args, meaning) => expect(parsed(...args)).toEqual({ ...NOTHING, ...meaning }))

  it.each([
    [["--fromat", "raw"], "--fromat is not an option of try (did you mean --format?)"],
    [["--o", "x"], "--o may be --options or --output"],
    [["-x"], "-x is not an option of try, which has -f, -o, -q and -u"],
    [["-f"], "-f needs an argument: FORMAT"],
    [["--format"], "--format needs an argument: FORMAT"],
    [["-f", "qcow"], "-f qcow: it must be raw or qcow2 (did you mean qcow2?)"],
    [["--quiet=yes"], "--quiet takes no argument"],
    [["-f", "raw", "a", "--format", "qcow2"], "-f raw and --format qcow2 contradict each other; give one of them"],
    [["--json", "--output", "human"], "--json and --output human contradict each other; give one of them"],
  ])("%j is refused", (args, message) => expect(() => parsed(...args)).toThrow(message))

  it("a last argument may be negative in the commands that allow it", () => {
    expect(parseArguments({ ...ROW, lastIsWord: true }, ["-q", "a", "-1G"]).words).toEqual(["a", "-1G"])
  })

  it("an option that the table does not give a command is a bug", () => {
    expect(() => parseArguments(ROW, []).flag("force")).toThrow("try has no option --force in its row")
  })
})

describe("lists of keys", () => {
  const keys = (...lists: string[]): KeyValues => new KeyValues("-o", lists, ["size", "name", "lazy"])

  it("may come in one list or several, with doubled commas and switches", () => {
    const list = keys("size=1k,name=a,,b", "lazy,size=0x10")
    expect([list.size("size"), list.text("name"), list.switch("lazy")]).toEqual([16, "a,b", true])
    expect([keys("lazy=no").switch("lazy"), keys("name=").text("name"), keys("name=,,").text("name")]).toEqual([false, "", ","])
  })

  it.each([
    ["", "it must be a list such as key=value,key=value"],
    ["size=1,", "it must be a list such as key=value,key=value"],
    [",size=1", "it must be a list such as key=value,key=value"],
    ["sise=1", 'there is no key "sise" (did you mean size?)'],
    ["frobnicate", 'there is no key "frobnicate"; the keys are size, name and lazy'],
  ])("%j is refused", (list, message) => expect(() => keys(list)).toThrow(message))

  it("values are checked", () => {
    expect(() => keys("lazy=maybe").switch("lazy")).toThrow("-o lazy=maybe: it must be on or off")
    expect(() => keys("size=big").size("size")).toThrow("-o size big")
    expect(() => keys("size=1k").count("size")).toThrow("-o size=1k: it must be a whole number")
  })
})

describe("sizes", () => {
  it.each(SIZES)("%j", (text, size) => expect(parseSize(text)).toBe(size))
})

describe("an error", () => {
  it("is one line without a stack, also for a bug, and --debug shows the stack", async () => {
    const printed: string[] = []
    const spy = vi.spyOn(console, "error").mockImplementation((line) => void printed.push(String(line)))
    expect(explainBug(new TypeError("x is undefined"))).toBe(1)
    spy.mockRestore()
    expect(printed).toEqual(["vioblk: this is a bug: x is undefined; please report it, with the output of --debug"])
    expect((await commandLine("info", "gone.qcow2")).err).toBe("vioblk: gone.qcow2: cannot open: no such file\n")
    const { err, code } = await commandLine("info", "--debug", "gone.qcow2")
    expect([code, err]).toEqual([
      1,
      expect.stringMatching(/^BackingError: gone\.qcow2: cannot open: no such file\n +at [^]*\nvioblk: gone\.qcow2: .*\n$/),
    ])
  })

  it("says what to do: an option for a locked image, the format of a backing file, a name that misleads, a mistyped command", async () => {
    const path = join(temporaryDirectory(), "disk.qcow2")
    createImage(path, { size: 1 << 20 })
    const disk = openImage(path)
    expect((await commandLine("info", path)).err).toMatch(/, or read it in its present state with -U\n$/)
    expect((await commandLine("resize", path, "2M")).err).not.toMatch(/-U/)
    disk.close()
    expect((await commandLine("create", "-f", "qcow2", "-b", path, `${path}.top`)).err).toMatch(/must be given: -F raw or -F qcow2; see/)
    const made = await commandLine("create", `${path}.qcow2`, "1M")
    expect(made).toMatchObject({ code: 0, err: expect.stringMatching(/is a raw image, whatever its name says; -f qcow2 makes/) })
    expect((await commandLine("create", "-f", "raw", `${path}.2.qcow2`, "1M")).err).toBe("")
    expect((await commandLine("hlep")).err).toMatch(/did you mean "help"\?/)
  })
})
