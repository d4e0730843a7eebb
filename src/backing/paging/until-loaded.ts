/** Repeats a synchronous call until nothing that it needs is missing. */
import { NotLoaded } from "../async-image-file.ts"

/** What to wait for between attempts. */
export interface Waits {
  /** Called before each attempt. Returns undefined if there is nothing to wait for. */
  readonly before?: () => Promise<void> | undefined
  /** Called in place of `missing.load()`. */
  readonly load?: (missing: NotLoaded) => Promise<void>
}

/**
 * Resolves to the result of `attempt`. If it throws `NotLoaded`, loads the missing pages and calls it again. Loaded pages stay in memory
 * meanwhile, so each call gets further than the one before. Rejects with any other error of `attempt`, and with errors of loading.
 * `thrown`: the error of an attempt that the caller made just now.
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
