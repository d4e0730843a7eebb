/** Calls what is synchronous again and again until nothing that it needs is missing. */
import { NotLoaded } from "../async-image-file.ts"

/** What is waited for around the attempts. */
export interface Waits {
  /** Before each attempt. */
  readonly before?: () => Promise<void>
  /** In place of `missing.load()`. */
  readonly load?: (missing: NotLoaded) => Promise<void>
}

/**
 * Resolves to what `attempt` returns. Where it throws `NotLoaded`, loads what is missing and calls again; what was loaded stays in memory
 * meanwhile, so each call comes further than the one before. Rejects with whatever else it throws, and with what a load rejects with.
 */
export async function untilLoaded<T>(attempt: () => T, { before, load = (missing) => missing.load() }: Waits = {}): Promise<T> {
  const held: NotLoaded[] = []
  try {
    for (;;) {
      await before?.()
      try {
        return attempt()
      } catch (error) {
        if (!(error instanceof NotLoaded)) throw error
        held.push(error)
        await load(error)
      }
    }
  } finally {
    for (const missing of held) missing.release()
  }
}
