/**
 * Every command and its options: what parses them, their help, the manual page and the completions of shells all come from here. Nothing
 * else is imported: each call loads the table, and only its own command's modules (see loaders.ts).
 */
import { COMMIT, COMPARE, CONVERT, MEASURE, REBASE } from "./changes.ts"
import { COMPLETION, RUN, SERVE } from "./disks.ts"
import { CHECK, CREATE, INFO, MAP } from "./images.ts"
import type { CommandRow } from "./rows.ts"

/** All commands, in the order of the help. */
export const COMMANDS: readonly CommandRow[] = [
  CHECK, COMMIT, COMPARE, CONVERT, CREATE, INFO, MAP, MEASURE, REBASE, RUN, SERVE, COMPLETION,
]
