/** `vioblk completion`: prints scripts for the completion of commands and options in shells. */
import { type Arguments, UsageError } from "../arguments.ts"
import { bashCompletion, zshCompletion } from "../help/completion.ts"
import { printHelp } from "../output.ts"
import { COMMANDS } from "../table/table.ts"

export async function completion(given: Arguments): Promise<number> {
  const [shell, extra] = given.words
  if (extra !== undefined || (shell !== "bash" && shell !== "zsh")) throw new UsageError("completion takes one shell: bash or zsh")
  printHelp(shell === "bash" ? bashCompletion(COMMANDS) : zshCompletion(COMMANDS))
  return 0
}
