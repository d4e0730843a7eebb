/** Calls what is synchronous again and again until nothing that it needs is missing. */
import { NotLoaded } from "../async-image-file.ts"

/** What is waited for around the attempts. */
export interface Waits {
  /** Before each attempt. Undefined where nothing is to be waited for. */
  readonly before?: () => Promise<void> | undefined
  /** In place of `missing.load()`. */
  readonly load?: (missing: NotLoaded) => Promise<void>
}

/**
 * Resolves to what `attempt` returns. Where it throws `NotLoaded`, loads what is missing and calls again; what was loaded stays in memory
 * meanwhile, so each call comes further than the one before. Rejects with whatever else it throws, and with what a load rejects with.
 * `thrown`: what an attempt of the caller's threw just now.
 */
export async function untilLoaded<T>(attempt: () => T, { before, load = loaded }: Waits = {}, thrown?: NotLoaded): Promise<T> {
  const held: NotLoaded[] = []
  let missing = thrown
  try {
    for (;;) {
      if (missing !== undefined) {
        held.push(missing)
        await load(missing)
      }
      const wait = before?.()
      if (wait !== undefined) await wait
      try {
        return attempt()
      } catch (error) {
        if (!(error instanceof NotLoaded)) throw error
        missing = error
      }
    }
  } finally {
    for (const one of held) one.release()
  }
}

function loaded(missing: NotLoaded): Promise<void> {
  return missing.load()
}
