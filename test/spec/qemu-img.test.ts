/**
 * Holds the table of qemu-img's options (qemu-img.md) against qemu-img's help, our own table, and the command lines that both are given.
 */
import { spawnSync } from "node:child_process"
import { readFileSync } from "node:fs"
import { describe, expect, it } from "vitest"
import { parseArguments, UsageError } from "../../src/vmm/cli/arguments.ts"
import type { OptionRow } from "../../src/vmm/cli/table/rows.ts"
import { COMMANDS } from "../../src/vmm/cli/table/table.ts"
import { CHANGE_LINES } from "../interop/qemu-img/change-lines.ts"
import { ENCRYPTED_LINES } from "../interop/qemu-img/encrypted-lines.ts"
import { IMAGE_LINES } from "../interop/qemu-img/image-lines.ts"
import { wordsOf } from "../interop/qemu-img/line.ts"
import { itWithQemu } from "../support/qemu.ts"

interface Row {
  readonly command: string
  /** "-f", "--output"; "" for the command as a whole. */
  readonly option: string
  readonly verdict: string
}

const ROWS: readonly Row[] = [...readFileSync("test/spec/qemu-img.md", "utf8").matchAll(/^\| ([a-z]+) \| (?:`(\S+)`)? ?\| (.*) \|$/gm)].map(
  ([, command = "", option = "", verdict = ""]) => ({ command, option, verdict }),
)

function optionOf({ command, option }: Row): OptionRow | undefined {
  const row = COMMANDS.find(({ name }) => name === command)
  return row?.options.find(({ name, letter }) => option === `--${name}` || option === `-${letter ?? ""}`)
}

/** Commands and options, "check -r", that a line has on which both programs must agree. */
function agreed(): ReadonlySet<string> {
  const found = new Set<string>()
  for (const { line, differs } of [...IMAGE_LINES, ...CHANGE_LINES, ...ENCRYPTED_LINES]) {
    const [command = "", ...words] = wordsOf(line)
    const row = COMMANDS.find(({ name }) => name === command)
    if (differs !== undefined || row === undefined) continue
    found.add(command)
    try {
      const given = parseArguments(row, words)
      for (const { name } of row.options) if (given.flag(name)) found.add(`${command} ${name}`)
    } catch (error) {
      if (!(error instanceof UsageError)) throw error
    }
  }
  return found
}

describe("the table of qemu-img's options", () => {
  itWithQemu("has a row for every command and option in qemu-img's help", () => {
    const help = spawnSync("qemu-img", ["--help"], { encoding: "utf8" }).stdout
    const syntax = help.slice(help.indexOf("Command syntax:"), help.indexOf("Command parameters:"))
    const listed = syntax.split("\n").slice(1).flatMap((line) => {
      const [command = ""] = line.trim().split(" ")
      const options = [...line.matchAll(/(?<![\w-])--?[A-Za-z][\w-]*/g)].map(([option]) => `${command} ${option}`)
      return command === "" ? [] : [`${command} `, ...new Set(options)]
    })
    expect(listed.length).toBeGreaterThan(100)
    expect(ROWS.map(({ command, option }) => `${command} ${option}`)).toEqual(listed)
  })

  it("says same, different with the difference, or no with the reason", () => {
    expect(ROWS.filter(({ verdict }) => !/^(same|(different|no): .{10,})$/.test(verdict))).toEqual([])
  })

  it("has our options where it says so, and only there", () => {
    const wrong = ROWS.filter((row) => row.option !== "" && (optionOf(row) === undefined) !== row.verdict.startsWith("no: "))
    expect(wrong).toEqual([])
  })

  it("says same only where a compared command line shows it", () => {
    const shown = agreed()
    const unproved = ROWS.filter((row) => row.verdict === "same")
      .filter((row) => !shown.has(row.option === "" ? row.command : `${row.command} ${optionOf(row)?.name ?? "?"}`))
    expect(unproved.map(({ command, option }) => `${command} ${option}`)).toEqual([])
  })
})
