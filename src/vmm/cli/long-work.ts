/** Work that takes long: it shows how far it is, and SIGINT and SIGTERM stop it between two steps. */
import type { Arguments } from "./arguments.ts"
import { InterruptedError } from "./interrupted-error.ts"
import { Progress } from "./progress.ts"

/** What the operations on whole disks take as options. */
export interface Watch {
  readonly progress: (done: number, total: number) => void
  readonly signal: AbortSignal
}

const SIGNALS = { SIGINT: 130, SIGTERM: 143 } as const

/**
 * Does long work. With `-q` it shows nothing, with `-p` lines where there is no terminal.
 * @param given arguments of a command that has PROGRESS and QUIET in its row
 * @param leftBehind what is there after an interruption, and how to go on: "x.qcow2 is as it was; run the command again"
 * @throws InterruptedError when a signal stopped it; the second one ends the program at once
 */
export async function longWork<T>(given: Arguments, leftBehind: string, work: (watch: Watch) => Promise<T>): Promise<T> {
  const bar = new Progress({ lines: given.flag("progress"), quiet: given.flag("quiet") })
  const stopper = new AbortController()
  const stop = (name: NodeJS.Signals): void => {
    unlisten()
    const code = name === "SIGTERM" ? SIGNALS.SIGTERM : SIGNALS.SIGINT
    stopper.abort(new InterruptedError(`interrupted: ${leftBehind}`, code))
  }
  const unlisten = (): void => {
    for (const name of Object.keys(SIGNALS)) process.off(name, stop)
  }
  for (const name of Object.keys(SIGNALS)) process.on(name, stop)
  try {
    return await work({ progress: (done, total) => bar.show(done, total), signal: stopper.signal })
  } finally {
    unlisten()
    bar.clear()
  }
}
