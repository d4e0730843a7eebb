/** How the device gives the host's thread back: on Node, in a page, and where there is neither. */
import { describe, expect, it, vi } from "vitest"
import { later, type LaterHost } from "../src/turns.ts"

describe("later", () => {
  it("runs a task once, after the running code and its promises", async () => {
    const order: string[] = []
    await new Promise<void>((resolve) => {
      later(() => {
        order.push("later")
        resolve()
      })
      void Promise.resolve().then(() => order.push("promises first"))
      order.push("now")
    })
    expect(order).toEqual(["now", "promises first", "later"])
  })

  it("uses a message in a page, which no clamp of 4 ms delays, and leaves no port open", async () => {
    const setTimeout = vi.fn()
    const host = { MessageChannel, setTimeout } as unknown as LaterHost
    let runs = 0
    for (let round = 1; round <= 50; round++) {
      await new Promise<void>((resolve) => later(() => {
        runs++
        resolve()
      }, host))
      expect(runs).toBe(round)
    }
    expect(setTimeout).not.toHaveBeenCalled()
    // Ports that are open would be counted, and keep the process alive.
    await new Promise((resolve) => setImmediate(resolve))
    expect(process.getActiveResourcesInfo().filter((name) => name === "MessagePort").length).toBeLessThanOrEqual(1)
  })

  it("uses a timer without setImmediate and MessageChannel", async () => {
    await new Promise<void>((resolve) => later(resolve, { setTimeout: (task, ms) => globalThis.setTimeout(task, ms) }))
  })
})
