/** The guest's interrupt router: lines, messages, holding. */
import { describe, expect, it } from "vitest"
import { InterruptRouter } from "../../../../src/vmm/driver/virtio/interrupts.ts"
import type { InterruptMessage, Platform } from "../../../../src/vmm/driver/platform.ts"
import { ramPlatform } from "../ram-platform.ts"

/** A platform whose interrupts the test works by hand. */
class HandPlatform {
  readonly lines = new Set<number>()
  messages: InterruptMessage[] = []
  readonly listeners = new Set<() => void>()
  readonly platform: Platform = {
    ...ramPlatform(0),
    interrupts: {
      subscribe: (listener) => {
        this.listeners.add(listener)
        return () => this.listeners.delete(listener)
      },
      level: (line) => this.lines.has(line),
      takeMessages: () => this.messages.splice(0),
    },
  }

  change(act: () => void): void {
    act()
    for (const listener of this.listeners) listener()
  }
}

describe("the driver's interrupt router", () => {
  it("each line and each message reaches its own handler", () => {
    const hand = new HandPlatform()
    const router = InterruptRouter.of(hand.platform)
    expect(InterruptRouter.of(hand.platform)).toBe(router)
    const calls: string[] = []
    const ack = (line: number): boolean => (calls.push(`line ${line}`), hand.lines.delete(line))
    router.onLine(5, () => ack(5))
    router.onLine(11, () => ack(11))
    const one = router.assignMessage(() => calls.push("one"))
    const two = router.assignMessage(() => calls.push("two"))
    expect([one.address, one.data]).not.toEqual([two.address, two.data])
    expect(one.address).toBeGreaterThanOrEqual(0xfee0_0000)
    expect(one.address).toBeLessThan(0xfef0_0000)
    hand.change(() => hand.lines.add(11))
    hand.change(() => hand.messages.push({ address: two.address, data: two.data }, { address: one.address, data: one.data }))
    expect(calls).toEqual(["line 11", "two", "one"])
    hand.change(() => hand.messages.push({ address: two.address, data: 0x1234 }))
    expect(router.spurious).toBe(1)
  })

  it("all devices of a shared line are asked until the line is low", () => {
    const hand = new HandPlatform()
    const router = InterruptRouter.of(hand.platform)
    const pending = { first: 2, second: 3 }
    const serve = (name: keyof typeof pending) => (): boolean => {
      if (pending[name] === 0) return false
      pending[name]--
      if (pending.first + pending.second === 0) hand.lines.delete(10)
      return true
    }
    router.onLine(10, serve("first"))
    router.onLine(10, serve("second"))
    hand.change(() => hand.lines.add(10))
    expect(pending).toEqual({ first: 0, second: 0 })
  })

  it("a line that stays high does not hang the driver", () => {
    const hand = new HandPlatform()
    const router = InterruptRouter.of(hand.platform)
    let asked = 0
    const end = router.onLine(3, () => (asked++, false))
    hand.change(() => hand.lines.add(3))
    expect([asked, router.spurious]).toEqual([1, 1])
    end()
    router.onLine(3, () => (asked++, true))
    hand.change(() => undefined)
    expect(asked).toBe(1 + 1000)
  })

  it("while the router is held, interrupts wait for its release; handlers that raise another run in turn, not nested", () => {
    const hand = new HandPlatform()
    const router = InterruptRouter.of(hand.platform)
    const calls: string[] = []
    let rounds = 3
    const message = router.assignMessage(() => {
      calls.push("in")
      if (--rounds > 0) hand.change(() => hand.messages.push(message))
      calls.push("out")
    })
    router.hold()
    router.hold()
    hand.change(() => hand.messages.push(message))
    router.release()
    expect(calls).toEqual([])
    router.release()
    expect(calls).toEqual(["in", "out", "in", "out", "in", "out"])
  })

  it("messages stay for others while no driver wants any, and the router unsubscribes when all handlers are gone", () => {
    const hand = new HandPlatform()
    const router = InterruptRouter.of(hand.platform)
    const end = router.onLine(1, () => true)
    hand.change(() => hand.messages.push({ address: 1, data: 2 }))
    expect(hand.messages).toHaveLength(1)
    const message = router.assignMessage(() => undefined)
    expect(hand.listeners.size).toBe(1)
    end()
    message.release()
    expect(hand.listeners.size).toBe(0)
    const again = router.assignMessage(() => undefined)
    expect([again.address, again.data]).toEqual([message.address, message.data])
  })
})
