/**
 * Every command and its options: what parses them, their help, the manual page and the completions of shells all come from here. Nothing
 * else is imported: each call loads the table, and only its own command's modules (see loaders.ts).
 */
import { AMEND, BITMAP, COMMIT, COMPARE, CONVERT, DD, MEASURE, REBASE, RESIZE, SNAPSHOT_COMMAND } from "./changes.ts"
import { BENCH, COMPLETION, DEMO, IO, RUN, SERVE } from "./disks.ts"
import { CHECK, CREATE, INFO, MAP } from "./images.ts"
import type { CommandRow } from "./rows.ts"

/** All commands, in the order of the help. */
export const COMMANDS: readonly CommandRow[] = [
  AMEND, BITMAP, CHECK, COMMIT, COMPARE, CONVERT, CREATE, DD, INFO, MAP, MEASURE, REBASE, RESIZE, SNAPSHOT_COMMAND,
  BENCH, IO, DEMO, RUN, SERVE, COMPLETION,
]
