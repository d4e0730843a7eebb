/** Where interrupts end up: lines, messages, listeners. */
import { describe, expect, it } from "vitest"
import { Interrupts } from "../../src/vmm/interrupts.ts"

describe("interrupt lines", () => {
  it("a line is high while any function that shares it raises it", () => {
    const interrupts = new Interrupts()
    const first = interrupts.connect(10)
    const second = interrupts.connect(10)
    const other = interrupts.connect(5)
    expect(interrupts.level(10)).toBe(false)
    first.intx(true)
    second.intx(true)
    second.intx(true)
    first.intx(false)
    expect([interrupts.level(10), interrupts.level(5), interrupts.level(11)]).toEqual([true, false, false])
    other.intx(true)
    expect(interrupts.raised).toEqual([5, 10])
    second.intx(false)
    expect(interrupts.raised).toEqual([5])
  })

  it("listeners hear of every change of a line's level, and not of a second function that raises it", () => {
    const interrupts = new Interrupts()
    const heard: string[] = []
    interrupts.subscribe((change) => heard.push(change.type === "line" ? `${change.line} ${interrupts.level(change.line)}` : "message"))
    const first = interrupts.connect(9)
    const second = interrupts.connect(9)
    first.intx(true)
    second.intx(true)
    first.intx(false)
    second.intx(false)
    expect(heard).toEqual(["9 true", "9 false"])
  })

  it("a disconnected function lowers its pin and can neither raise it nor send messages again", () => {
    const interrupts = new Interrupts()
    const gone = interrupts.connect(11)
    const stays = interrupts.connect(11)
    gone.intx(true)
    stays.intx(true)
    gone.disconnect()
    gone.intx(true)
    gone.message(0xfee0_0000, 1)
    expect(interrupts.level(11)).toBe(true)
    stays.intx(false)
    expect(interrupts.level(11)).toBe(false)
    expect(interrupts.messages).toEqual([])
  })

  it("a listener that quiets the device within the call leaves the line low", () => {
    const interrupts = new Interrupts()
    const pin = interrupts.connect(10)
    const seen: boolean[] = []
    interrupts.subscribe(() => {
      if (interrupts.level(10)) pin.intx(false)
    })
    interrupts.subscribe(() => seen.push(interrupts.level(10)))
    pin.intx(true)
    expect(interrupts.level(10)).toBe(false)
    expect(seen).toEqual([false, false])
  })
})

describe("messages", () => {
  it("of all functions are kept in order until they are taken", () => {
    const interrupts = new Interrupts()
    const first = interrupts.connect(10)
    const second = interrupts.connect(11)
    first.message(0xfee0_0000, 0x41)
    second.message(2 ** 32, 0xffff_ffff)
    first.message(0xfee0_0000, 0x42)
    const expected = [
      { address: 0xfee0_0000, data: 0x41 },
      { address: 2 ** 32, data: 0xffff_ffff },
      { address: 0xfee0_0000, data: 0x42 },
    ]
    expect(interrupts.messages).toEqual(expected)
    expect(interrupts.takeMessages()).toEqual(expected)
    expect(interrupts.takeMessages()).toEqual([])
    first.message(0, 7)
    expect(interrupts.takeMessages()).toEqual([{ address: 0, data: 7 }])
    expect(interrupts.dropped).toBe(0)
  })

  it("that are not taken are bounded: the newest 65536 stay in order, and lost ones are counted", () => {
    const interrupts = new Interrupts()
    const source = interrupts.connect(10)
    for (let n = 0; n < 65536; n++) source.message(0, n)
    expect(interrupts.dropped).toBe(0)
    for (let n = 65536; n < 65536 + 1000; n++) source.message(0, n)
    expect(interrupts.dropped).toBe(1000)
    expect(interrupts.messages.length).toBe(65536)
    const data = interrupts.takeMessages().map((message) => message.data)
    expect(data).toEqual(Array.from({ length: 65536 }, (_, n) => n + 1000))
    for (let n = 0; n < 65536 + 10; n++) source.message(0, n)
    expect(interrupts.messages.map((message) => message.data)).toEqual(Array.from({ length: 65536 }, (_, n) => n + 10))
    expect(interrupts.dropped).toBe(1010)
  })

  it("reach each listener, which may unsubscribe and subscribe while it is called", () => {
    const interrupts = new Interrupts()
    const source = interrupts.connect(10)
    const heard: number[] = []
    const again = (): (() => void) => {
      const stop = interrupts.subscribe((change) => {
        if (change.type === "message") heard.push(change.message.data)
        stop()
        end = again()
      })
      return stop
    }
    let end = again()
    source.message(0, 1)
    source.message(0, 2)
    end()
    source.message(0, 3)
    expect(heard).toEqual([1, 2])
  })

  it("reach a listener twice that has subscribed twice, and each subscription ends by itself", () => {
    const interrupts = new Interrupts()
    let calls = 0
    const listener = (): void => void calls++
    const stop = interrupts.subscribe(listener)
    interrupts.subscribe(listener)
    interrupts.connect(10).message(0, 0)
    stop()
    stop()
    interrupts.connect(10).message(0, 0)
    expect(calls).toBe(3)
  })
})
