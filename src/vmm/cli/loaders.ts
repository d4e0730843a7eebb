/** Loads the module of one command only, because loading takes most of a short call's time. */
import type { Command } from "./arguments.ts"

export const LOADERS: Readonly<Record<string, () => Promise<Command>>> = {
  amend: async () => (await import("./commands/amend.ts")).amend,
  bench: async () => (await import("./commands/bench.ts")).bench,
  dd: async () => (await import("./commands/dd.ts")).dd,
  demo: async () => (await import("./commands/demo.ts")).demo,
  io: async () => (await import("./commands/io.ts")).io,
  bitmap: async () => (await import("./commands/bitmap.ts")).bitmap,
  check: async () => (await import("./commands/check.ts")).check,
  commit: async () => (await import("./commands/commit.ts")).commit,
  completion: async () => (await import("./commands/completion.ts")).completion,
  compare: async () => (await import("./commands/compare.ts")).compare,
  convert: async () => (await import("./commands/convert.ts")).convert,
  create: async () => (await import("./commands/create.ts")).create,
  info: async () => (await import("./commands/info.ts")).info,
  map: async () => (await import("./commands/map.ts")).map,
  measure: async () => (await import("./commands/measure.ts")).measure,
  rebase: async () => (await import("./commands/rebase.ts")).rebase,
  resize: async () => (await import("./commands/resize.ts")).resize,
  run: async () => (await import("./commands/run.ts")).run,
  serve: async () => (await import("./commands/serve.ts")).serve,
  snapshot: async () => (await import("./commands/snapshot.ts")).snapshot,
}
