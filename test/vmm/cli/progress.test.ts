/** Progress on terminals of any width, in pipes, and of work that a signal stops. */
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest"
import { parseArguments } from "../../../src/vmm/cli/arguments.ts"
import { InterruptedError } from "../../../src/vmm/cli/interrupted-error.ts"
import { longWork } from "../../../src/vmm/cli/long-work.ts"
import { barLine } from "../../../src/vmm/cli/progress.ts"
import { CONVERT } from "../../../src/vmm/cli/table/changes.ts"

const GIB = 2 ** 30

describe("a progress bar", () => {
  const state = { done: 3.7 * GIB, total: 10 * GIB, seconds: 12 }

  it.each([1, 10, 20, 30, 50, 80, 200])("stays on its line at %i columns", (columns) => {
    for (const seconds of [0, 12, 1e6]) {
      for (const done of [0, 1, 3.7 * GIB, 10 * GIB, 11 * GIB]) {
        expect(barLine({ ...state, done, seconds }, columns).length).toBeLessThan(columns)
      }
    }
  })

  it("shows how much is done, how fast, and the remaining time", () => {
    expect(barLine(state, 100)).toBe("[##############..........................]   37%  3.70 GiB of 10 GiB  315.7 MiB/s  0:20 left")
    expect(barLine(state, 50)).toMatch(/^\[#+\.+\] {3}37% {2}315\.7 MiB\/s {2}0:20 left$/)
    expect(barLine({ ...state, done: 10 * GIB }, 80)).toContain("100%")
  })
})

describe("long work", () => {
  const printed: string[] = []
  beforeEach(() => {
    printed.length = 0
    vi.spyOn(console, "log").mockImplementation((line) => void printed.push(String(line)))
  })
  afterEach(() => void vi.restoreAllMocks())
  const given = (...words: string[]) => parseArguments(CONVERT, words)

  it("prints lines with -p, and nothing without a terminal or -p", async () => {
    await longWork(given("-p"), "", async ({ progress }) => progress(10, 10))
    expect(printed).toEqual(["100% 10 bytes of 10 bytes"])
    await longWork(given(), "", async ({ progress }) => progress(10, 10))
    await longWork(given("-p", "-q"), "", async ({ progress }) => progress(10, 10))
    expect(printed).toHaveLength(1)
  })

  it.each([
    ["SIGINT", 130], ["SIGTERM", 143], ["SIGHUP", 129],
  ] as const)("stops at %s with one line and exit code %i, and leaves no listener", async (name, code) => {
    const listeners = process.listenerCount(name)
    const stopped = longWork(given(), "x is as it was", async ({ signal }) => {
      process.emit(name, name)
      signal.throwIfAborted()
    })
    await expect(stopped).rejects.toEqual(new InterruptedError("interrupted: x is as it was", code))
    expect(process.listenerCount(name)).toBe(listeners)
  })
})
