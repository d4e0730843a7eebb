/** Calls what is synchronous again and again until nothing that it needs is missing. */
import { NotLoaded } from "../async-image-file.ts"

/**
 * Resolves to what `attempt` returns. Where it throws `NotLoaded`, loads what is missing and calls again; what was loaded stays in memory
 * meanwhile, so each call comes further than the one before. Rejects with whatever else it throws, and with what a load rejects with.
 */
export async function untilLoaded<T>(attempt: () => T): Promise<T> {
  const held: NotLoaded[] = []
  try {
    for (;;) {
      try {
        return attempt()
      } catch (error) {
        if (!(error instanceof NotLoaded)) throw error
        held.push(error)
        await error.load()
      }
    }
  } finally {
    for (const missing of held) missing.release()
  }
}
