#!/usr/bin/env node
/** The command line: finds the command, runs it, and turns what goes wrong into one line and an exit code. */
import { BackingError } from "../../backing/backing.ts"
import { BlockRequestError, DriverError } from "../driver/errors.ts"
import { type Command, UsageError } from "./arguments.ts"
import { check } from "./check.ts"
import { create } from "./create.ts"
import { info } from "./info.ts"
import { map } from "./map.ts"
import { run } from "./run.ts"

/** Without the name of a command, the arguments are those of `run`. */
const COMMANDS: Readonly<Record<string, Command>> = { info, check, create, map }

async function main(args: readonly string[]): Promise<number> {
  const [first = ""] = args
  const command = Object.hasOwn(COMMANDS, first) ? COMMANDS[first] : undefined
  return command === undefined ? run(args) : command(args.slice(1))
}

/** One line for what a person can do something about. Anything else is a bug of ours and keeps its stack. */
function explain(error: unknown): number {
  if (error instanceof UsageError) {
    console.error(`vioblk: ${error.message}; see vioblk --help`)
    return 2
  }
  if (error instanceof BackingError || error instanceof BlockRequestError || error instanceof DriverError || error instanceof RangeError) {
    console.error(`vioblk: ${error.message}`)
    return 1
  }
  throw error
}

// Who reads our output may have had enough of it (`| head`).
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error
  process.exit(0)
})
process.exitCode = await main(process.argv.slice(2)).catch(explain)
