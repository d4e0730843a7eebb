/**
 * `it` for tests over both kinds of rings: each test runs twice, with guests that have split rings and with guests that have packed ones,
 * except for guests that choose their rings or drive the legacy interface.
 */
import { it as once } from "vitest"
import { guestRings } from "./guest.ts"

/** The arguments that a case passes to a test: the members of a tuple, or the case itself. */
type Values<C> = C extends readonly unknown[] ? [...C] : [C]

/** Registers a test for each kind of ring. */
export function it(title: string, run: () => unknown): void {
  for (const packed of [false, true]) once(titleOf(title, packed), () => withRings(packed, run))
}

it.each = <C>(cases: readonly C[]) => (title: string, run: (...values: Values<C>) => unknown): void => {
  for (const packed of [false, true]) {
    for (const one of cases) {
      once.each([one])(titleOf(title, packed), () => withRings(packed, () => run(...((Array.isArray(one) ? one : [one]) as never))))
    }
  }
}

function titleOf(title: string, packed: boolean): string {
  return packed ? `${title} (packed rings)` : title
}

async function withRings(packed: boolean, run: () => unknown): Promise<void> {
  guestRings.packed = packed
  try {
    await run()
  } finally {
    guestRings.packed = false
  }
}
