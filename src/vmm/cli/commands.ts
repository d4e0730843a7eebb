/** Finds the command, runs it, and turns what goes wrong into one line and an exit code. */
import { BackingError } from "../../backing/backing.ts"
import { BlockRequestError, DriverError } from "../driver/errors.ts"
import { type Command, UsageError } from "./arguments.ts"
import { check } from "./check.ts"
import { create } from "./create.ts"
import { info } from "./info.ts"
import { map } from "./map.ts"
import { complain } from "./output.ts"
import { run } from "./run.ts"
import { serve } from "./serve.ts"

/** Without the name of a command, the arguments are those of `run`. */
const COMMANDS: Readonly<Record<string, Command>> = { info, check, create, map, serve }

/** Runs the command line. Returns the exit code. */
export async function vioblk(args: readonly string[]): Promise<number> {
  const [first = ""] = args
  const command = Object.hasOwn(COMMANDS, first) ? COMMANDS[first] : undefined
  return (command === undefined ? run(args) : command(args.slice(1))).catch(explain)
}

/** One line for what a person can do something about. Anything else is a bug of ours and keeps its stack. */
function explain(error: unknown): number {
  if (error instanceof UsageError) {
    complain(`${error.message}; see vioblk --help`)
    return 2
  }
  if (!isForPeople(error)) throw error
  complain(error.message)
  return 1
}

function isForPeople(error: unknown): error is Error {
  if ([BackingError, BlockRequestError, DriverError, RangeError].some((kind) => error instanceof kind)) return true
  // What the host answered to a call of Node's: no room for a temporary file, no such folder.
  return error instanceof Error && "syscall" in error
}
