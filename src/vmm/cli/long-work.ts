/** Long work: shows progress, and stops between two steps after a signal. */
import type { Arguments } from "./arguments.ts"
import { InterruptedError } from "./interrupted-error.ts"
import { Progress } from "./progress.ts"

/** Options of operations on whole disks. */
export interface Watch {
  readonly progress: (done: number, total: number) => void
  readonly signal: AbortSignal
}

/** SIGHUP: the terminal is gone. */
const SIGNALS: Readonly<Record<string, number>> = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 }

/**
 * Does long work. With `-q` it shows nothing, with `-p` lines if there is no terminal.
 * @param given arguments of a command that has PROGRESS and QUIET in its row
 * @param leftBehind as for `stoppable`
 * @throws as `stoppable`
 */
export async function longWork<T>(given: Arguments, leftBehind: string, work: (watch: Watch) => Promise<T>): Promise<T> {
  const bar = new Progress({ lines: given.flag("progress"), quiet: given.flag("quiet") })
  try {
    return await stoppable(leftBehind, (signal) => work({ progress: (done, total) => bar.show(done, total), signal }))
  } finally {
    bar.clear()
  }
}

/**
 * Does work that a signal stops.
 * @param leftBehind the state after an interruption, and how to continue: "x.qcow2 is as it was; run the command again"
 * @throws InterruptedError when a signal stopped it; the second one ends the program at once
 */
export async function stoppable<T>(leftBehind: string, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const stopper = new AbortController()
  const stop = (name: NodeJS.Signals): void => {
    unlisten()
    stopper.abort(new InterruptedError(`interrupted: ${leftBehind}`, SIGNALS[name] ?? 1))
  }
  const unlisten = (): void => {
    for (const name of Object.keys(SIGNALS)) process.off(name, stop)
  }
  for (const name of Object.keys(SIGNALS)) process.on(name, stop)
  try {
    return await work(stopper.signal)
  } finally {
    unlisten()
  }
}

/** Lets signals arrive between two steps. @throws the reason of `signal` */
export async function turn(signal: AbortSignal): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve))
  signal.throwIfAborted()
}
