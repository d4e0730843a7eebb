/** Finds the command, runs it, and turns an error into one line and an exit code. */
import { nearest } from "../../options.ts"
import { type Arguments, parseArguments, UsageError } from "./arguments.ts"
import { isForPeople } from "./explained.ts"
import { complain, complainAtLength, despiteOutput, printHelp } from "./output.ts"
import { InterruptedError } from "./interrupted-error.ts"
import { LOADERS } from "./loaders.ts"
import type { CommandRow } from "./table/rows.ts"
import { COMMANDS } from "./table/table.ts"

/** Commands that only read, so that `-U` is safe, and that may end in the middle. */
const READERS: readonly string[] = ["compare", "info", "map", "measure"]

/** Runs the command line. Returns the exit code. */
export async function vioblk(args: readonly string[]): Promise<number> {
  const [first = "", ...rest] = args
  try {
    if (first === "help" || first === "--help" || first === "-h") return await help(rest)
    if (first === "--version" || first === "-V") return await version()
    const row = COMMANDS.find(({ name }) => name === first)
    return row === undefined ? await withoutCommand(args) : await runCommand(row, rest)
  } catch (error) {
    return await explain(error, args)
  }
}

async function runCommand(row: CommandRow, args: readonly string[]): Promise<number> {
  const given: Arguments = parseArguments(row, args)
  if (given.flag("help")) return help([row.name])
  const load = LOADERS[row.name]
  if (load === undefined) throw new Error(`loaders.ts does not know where the command ${row.name} is`)
  const command = await load()
  return READERS.includes(row.name) ? command(given) : despiteOutput(() => command(given))
}

/** Options alone, or an image, belong to `run`. Any other word is a mistyped command. */
async function withoutCommand(args: readonly string[]): Promise<number> {
  const [first = "", second] = args
  const row = commandNamed("run")
  if (first !== "" && !first.startsWith("-")) {
    const { existsSync } = await import("node:fs")
    if (!/[./\\:]/.test(first) && !existsSync(first)) throw unknownCommand(first)
  } else if (second !== undefined) {
    const misplaced = args.find((word) => COMMANDS.some(({ name }) => name === word))
    if (misplaced !== undefined) throw new UsageError(`the command comes first: vioblk ${misplaced} ...`)
  }
  return runCommand(row, args)
}

function commandNamed(name: string): CommandRow {
  const row = COMMANDS.find((command) => command.name === name)
  if (row === undefined) throw unknownCommand(name)
  return row
}

function unknownCommand(name: string): UsageError {
  const near = nearest(name, ["help", ...COMMANDS.map((command) => command.name)])
  return new UsageError(`"${name}" is neither a command nor an image${near === undefined ? "" : ` (did you mean "${near}"?)`}`)
}

async function help([name, extra]: readonly string[]): Promise<number> {
  if (extra !== undefined) throw new UsageError(`help takes one command, and "${extra}" is a second one`)
  if (name === "--man") {
    const { manPage } = await import("./help/man-page.ts")
    printHelp(manPage(COMMANDS, await versionNumber()))
    return 0
  }
  const { commandHelp, programHelp } = await import("./help/help.ts")
  printHelp(name === undefined ? programHelp() : commandHelp(commandNamed(name)))
  return 0
}

async function version(): Promise<number> {
  printHelp(`vioblk ${await versionNumber()}`)
  return 0
}

/** The version in the package.json above this file, wherever the build has put it. */
async function versionNumber(): Promise<string> {
  const { existsSync, readFileSync } = await import("node:fs")
  let place = new URL("package.json", import.meta.url)
  while (!existsSync(place) && place.pathname !== "/package.json") place = new URL("../package.json", place)
  const about: unknown = JSON.parse(readFileSync(place, "utf8"))
  return String(typeof about === "object" && about !== null ? Reflect.get(about, "version") : undefined)
}

/** One line for a bug of ours, which `vioblk` throws. Returns the exit code. */
export function explainBug(error: unknown): number {
  complain(`this is a bug: ${error instanceof Error ? error.message : String(error)}; please report it, with the output of --debug`)
  return 1
}

/** A block with `using` that fails throws its error inside that of the end, if that fails too. The first error tells what went wrong. */
function firstOf(error: unknown): unknown {
  return error instanceof Error && "suppressed" in error ? firstOf(error.suppressed) : error
}

/** One line for an error that a person can correct. Anything else is a bug of ours, and is thrown. */
async function explain(thrown: unknown, args: readonly string[]): Promise<number> {
  if (args.includes("--debug")) complainAtLength(thrown)
  const error = firstOf(thrown)
  if (error instanceof UsageError) {
    const [first = ""] = args
    complain(`${error.message}; see vioblk ${COMMANDS.some(({ name }) => name === first) ? `${first} ` : ""}--help`)
    return 1
  }
  if (error instanceof InterruptedError) {
    complain(error.message)
    return error.exitCode
  }
  if (!isForPeople(error)) throw error
  const isReader = READERS.includes(args[0] ?? "")
  const canShare = isReader && "code" in error && error.code === "busy"
  complain(canShare ? `${error.message}, or read it in its present state with -U` : error.message)
  return 1
}
