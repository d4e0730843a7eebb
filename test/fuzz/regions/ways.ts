/** By which way a guest's kicks are served, with errors that end where nobody catches them, and a clock of its own. */
import { Intake } from "../../../src/virtio/blk/usual/intake.ts"

/** Kicks take the short way where they can; all take the long way; requests are never rows. */
export const WAYS = ["short", "long", "general"] as const
export type Way = (typeof WAYS)[number]

/** What an embedder, or a disk with a bug, throws. */
export class Injected extends Error {}

/** Who does it, and when. */
export interface Timed {
  readonly way: Way
  /** Milliseconds. */
  readonly now: number
}

/**
 * Does `work` while kicks are served by `way`, and `thrown` hears of what nobody catches. No time passes in it: each way looks at the clock
 * at other times, and a turn that is over in between shows. The others of its kind wait meanwhile: this changes what all of them share.
 */
export async function alone({ way, now: time }: Timed, thrown: (error: unknown) => void, work: () => Promise<void>): Promise<void> {
  const { take } = Intake.prototype
  const { now } = performance
  const events = ["uncaughtException", "unhandledRejection"] as const
  const before = events.map((event) => process.listeners(event as "uncaughtException"))
  for (const event of events) process.removeAllListeners(event).on(event, thrown)
  performance.now = () => time
  if (way === "general") Intake.prototype.take = () => undefined
  try {
    await work()
  } finally {
    Intake.prototype.take = take
    performance.now = now
    for (const [at, event] of events.entries()) {
      process.removeAllListeners(event)
      for (const listener of before[at] ?? []) process.on(event, listener)
    }
  }
}
