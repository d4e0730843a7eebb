/** The limits themselves, at a clock that the test moves. */
import { describe, expect, it } from "vitest"
import { Throttle, type ThrottleLimits } from "../../../../src/index.ts"
import { Rng, seedFromEnvironment } from "../../../support/rng.ts"
import { ManualClock } from "./manual-clock.ts"

const SEED = seedFromEnvironment(20261127)

type Direction = "read" | "write"

/** What got through: when, which way, and how much. */
interface Passed {
  readonly at: number
  readonly direction: Direction
  readonly bytes: number
  readonly queue: object
}

class Sender {
  readonly passed: Passed[] = []
  mayGo = true
  readonly #throttle: Throttle
  readonly #clock: ManualClock

  constructor(throttle: Throttle, clock: ManualClock) {
    this.#throttle = throttle
    this.#clock = clock
  }

  /** Sends a request. `again`: another one as soon as this one has got through. */
  send(queue: object, direction: Direction, bytes: number, again: (direction: Direction) => number | undefined = () => undefined): void {
    const through = (): void => {
      this.passed.push({ at: this.#clock.time, direction, bytes, queue })
      const more = again(direction)
      if (more !== undefined) this.send(queue, direction, more, again)
    }
    if (this.#throttle.admit(direction, bytes)) return through()
    const sender = this
    this.#throttle.wait({
      direction, bytes, queue,
      get mayGo() {
        return sender.mayGo
      },
      go: through,
    })
  }

  /** Units that got through from `from` to `to`. */
  sum(unit: "requests" | "bytes", directions: readonly Direction[], from = 0, to = Number.POSITIVE_INFINITY): number {
    return this.passed.filter(({ at, direction }) => at >= from && at <= to && directions.includes(direction))
      .reduce((sum, { bytes }) => sum + (unit === "bytes" ? bytes : 1), 0)
  }
}

function throttled(limits: ThrottleLimits): { readonly clock: ManualClock; readonly throttle: Throttle; readonly sender: Sender } {
  const clock = new ManualClock()
  const throttle = new Throttle(limits, { clock })
  return { clock, throttle, sender: new Sender(throttle, clock) }
}

/** Keeps `depth` requests waiting in each direction until time `until`. */
function saturate(sender: Sender, clock: ManualClock, bytes: () => number, until: number, directions: readonly Direction[]): void {
  for (const direction of directions) {
    for (let depth = 0; depth < 4; depth++) sender.send({}, direction, bytes(), () => (clock.time < until ? bytes() : undefined))
  }
  clock.runTo(until)
}

describe("two limits, one of which is far overdrawn", () => {
  it("a write with a short wait does not wait for the read before it", () => {
    const { clock, sender } = throttled({ readBytes: 1000, writeBytes: 1_000_000 })
    sender.send({}, "read", 100_000)
    sender.send({}, "read", 1)
    sender.send({}, "write", 200_000)
    sender.send({}, "write", 1)
    clock.runTo(200)
    expect(sender.passed.map(({ bytes }) => bytes)).toEqual([100_000, 200_000, 1])
  })
})

describe("a rate", () => {
  it.each<readonly [string, ThrottleLimits, "requests" | "bytes", readonly Direction[], number]>([
    ["of requests", { requests: 500 }, "requests", ["read", "write"], 500],
    ["of bytes", { bytes: 1 << 20 }, "bytes", ["read", "write"], 1 << 20],
    ["of reads", { readRequests: 100 }, "requests", ["read"], 100],
    ["of bytes written", { writeBytes: 300_000 }, "bytes", ["write"], 300_000],
    ["of less than one request a second", { requests: 0.5 }, "requests", ["read", "write"], 0.5],
    ["of more than one request a millisecond", { requests: 20_000 }, "requests", ["read", "write"], 20_000],
    ["of more than one limit, of which one is reached", { requests: 200, bytes: 1e9, writeBytes: 1e9 }, "requests", ["read", "write"], 200],
  ])(`%s is kept in every interval, and used fully (seed ${SEED})`, (_name, limits, unit, directions, rate) => {
    const rng = new Rng(SEED)
    const { clock, throttle, sender } = throttled(limits)
    const end = rate > 1000 && unit === "requests" ? 1000 : 20_000
    let largest = 1
    const bytes = (): number => {
      const size = 512 * (1 + rng.below(128))
      if (unit === "bytes") largest = Math.max(largest, size)
      return size
    }
    saturate(sender, clock, bytes, end, directions)
    expect(sender.passed.length).toBeGreaterThan(8)
    // No stretch has more than its share, what a tenth of a second brings, and the request that overdraws it.
    for (let round = 0; round < 200; round++) {
      const from = rng.below(end)
      const to = from + rng.below(end - from)
      const most = (rate * (to - from)) / 1000 + rate / 10 + largest
      expect(sender.sum(unit, directions, from, to), `${from} to ${to} ms`).toBeLessThanOrEqual(most + 1e-6)
    }
    expect(sender.sum(unit, directions)).toBeGreaterThanOrEqual((rate * end) / 1000)
    // The alarm is set while something waits.
    expect(clock.alarms).toBe(throttle.waiting > 0 ? 1 : 0)
  })

  it("that is not reached lets everything pass, and reads the clock rarely", () => {
    const { clock, sender } = throttled({ requests: 100_000, bytes: 1e12 })
    clock.looks = 0
    for (let sent = 0; sent < 5000; sent++) sender.send({}, "read", 4096)
    expect([sender.passed.length, clock.alarms]).toEqual([5000, 0])
    expect(clock.looks).toBeLessThan(5)
  })

  it("lets a whole burst pass after a rest, although the clock was hardly read before", () => {
    const { clock, sender } = throttled({ requests: 100 })
    for (let sent = 0; sent < 9; sent++) sender.send({}, "read", 512)
    clock.runTo(10_000)
    for (let sent = 0; sent < 20; sent++) sender.send({}, "read", 512)
    expect(sender.passed.length - 9).toBeGreaterThanOrEqual(9)
    expect(sender.passed.length - 9).toBeLessThanOrEqual(11)
  })

  it("of reads does not delay writes, nor the other way round", () => {
    const { clock, sender } = throttled({ readRequests: 10, writeBytes: 1000 })
    saturate(sender, clock, () => 512, 10_000, ["read", "write"])
    const [reads, writes] = [sender.sum("requests", ["read"]), sender.sum("requests", ["write"])]
    expect([Math.abs(reads - 100) <= 2, Math.abs(writes - 20) <= 2, reads, writes]).toEqual([true, true, reads, writes])
  })

  it("of both is shared by reads and writes, and neither starve", () => {
    const { clock, sender } = throttled({ requests: 100 })
    saturate(sender, clock, () => 4096, 10_000, ["read", "write"])
    const [reads, writes] = [sender.sum("requests", ["read"]), sender.sum("requests", ["write"])]
    expect(Math.abs(reads - writes)).toBeLessThanOrEqual(12)
    expect(reads + writes).toBeGreaterThanOrEqual(1000)
  })

  it("goes to requests that wait before new ones: writes that arrive whenever there is room do not starve reads", () => {
    const { clock, sender } = throttled({ requests: 100 })
    for (let sent = 0; sent < 60; sent++) sender.send({}, "read", 512)
    // Every time that the bucket has just drained, and before the alarm goes off.
    for (let round = 0; round < 400; round++) {
      clock.time += 11
      sender.send({}, "write", 512)
    }
    clock.runTo(clock.time + 1)
    expect(sender.sum("requests", ["read"])).toBe(60)
  })
})

describe("a burst", () => {
  it("runs at its own rate for its length after a rest, and then at the long rate", () => {
    const { clock, sender } = throttled({ requests: { perSecond: 100, burst: 1000, burstSeconds: 3 } })
    clock.runTo(60_000)
    saturate(sender, clock, () => 512, 70_000, ["read"])
    const sum = (from: number, to: number): number => sender.sum("requests", ["read"], 60_000 + from, 60_000 + to - 0.001)
    for (const second of [0, 1000, 2000]) {
      expect(sum(second, second + 1000), `second ${second}`).toBeGreaterThanOrEqual(999)
      expect(sum(second, second + 1000), `second ${second}`).toBeLessThanOrEqual(1101)
    }
    for (const second of [4000, 6000, 9000]) {
      expect(sum(second, second + 1000), `second ${second}`).toBeGreaterThanOrEqual(99)
      expect(sum(second, second + 1000), `second ${second}`).toBeLessThanOrEqual(101)
    }
  })
})

describe("queues", () => {
  it("that wait take turns, also those of several disks, however much each has to send", () => {
    const { clock, sender } = throttled({ requests: 100 })
    const [greedy, modest, late] = [{}, {}, {}]
    for (let depth = 0; depth < 64; depth++) sender.send(greedy, "write", 512, () => (clock.time < 10_000 ? 512 : undefined))
    sender.send(modest, "write", 512, () => (clock.time < 10_000 ? 512 : undefined))
    clock.runTo(5000)
    sender.send(late, "write", 512, () => (clock.time < 10_000 ? 512 : undefined))
    clock.runTo(10_000)
    const of = (queue: object, from: number, to: number): number =>
      sender.passed.filter((one) => one.queue === queue && one.at > from && one.at <= to).length
    expect(Math.abs(of(greedy, 1000, 5000) - of(modest, 1000, 5000))).toBeLessThanOrEqual(1)
    const thirds = [greedy, modest, late].map((queue) => of(queue, 6000, 9000))
    expect(Math.max(...thirds) - Math.min(...thirds)).toBeLessThanOrEqual(1)
  })

  it("of a disk that is not at work wait without a timer, and do not delay others", () => {
    const { clock, sender, throttle } = throttled({ requests: 10 })
    const other = new Sender(throttle, clock)
    for (let sent = 0; sent < 4; sent++) sender.send({}, "write", 512)
    for (let sent = 0; sent < 4; sent++) other.send({}, "write", 512)
    sender.mayGo = false
    const before = sender.passed.length
    clock.runTo(10_000)
    expect([other.passed.length, sender.passed.length, clock.alarms, throttle.waiting]).toEqual([4, before, 0, 4 - before])
    sender.mayGo = true
    throttle.poke()
    clock.runTo(20_000)
    expect([sender.passed.length, throttle.waiting, clock.alarms]).toEqual([4, 0, 0])
  })
})

describe("limits that change", () => {
  it("apply at once to waiting requests, and allow no burst", () => {
    const { clock, sender, throttle } = throttled({ requests: 10 })
    saturate(sender, clock, () => 512, 1000, ["read"])
    for (let sent = 0; sent < 2000; sent++) sender.send({}, "read", 512)
    const before = sender.passed.length
    for (let change = 0; change < 100; change++) throttle.setLimits({ requests: 1000 + change })
    expect(throttle.limits).toEqual({ requests: 1099 })
    clock.runTo(1100)
    expect(sender.passed.length - before).toBeLessThanOrEqual(112)
    clock.runTo(1500)
    expect(sender.passed.length - before).toBeGreaterThan(500)
    throttle.setLimits({})
    clock.runTo(1501)
    throttle.setLimits({})
    clock.runTo(1600)
    expect([throttle.waiting, clock.alarms]).toEqual([0, 0])
  })

  it("let a long debt drain at the new rate", () => {
    const { clock, sender, throttle } = throttled({ writeBytes: 1000 })
    sender.send({}, "write", 1_000_000)
    sender.send({}, "write", 512)
    clock.runTo(10_000)
    expect(sender.passed.length).toBe(1)
    throttle.setLimits({ writeBytes: 1_000_000 })
    clock.runTo(10_950)
    expect(sender.passed.length).toBe(1)
    clock.runTo(11_000)
    expect(sender.passed.length).toBe(2)
  })

  it("keep levels that can be saved and restored", () => {
    const first = throttled({ requests: 10, bytes: { perSecond: 1000, burst: 5000 } })
    saturate(first.sender, first.clock, () => 512, 500, ["read"])
    const saved: unknown = JSON.parse(JSON.stringify(first.throttle.saveState()))
    const second = throttled({ requests: 10, bytes: { perSecond: 1000, burst: 5000 } })
    expect(second.throttle.admit("read", 1)).toBe(true)
    second.throttle.restoreState(saved)
    expect(second.throttle.saveState()).toEqual(saved)
    expect(second.throttle.admit("read", 1)).toBe(false)
    for (const wrong of [undefined, [], { requests: 1 }, { requests: [-1] }, { requests: ["1"] }, { bytes: [null] }, { bytes: [1e308] }]) {
      expect(() => second.throttle.restoreState(wrong), JSON.stringify(wrong)).toThrow(/^saved state: /)
    }
    second.throttle.restoreState({})
    expect(second.throttle.admit("read", 1)).toBe(true)
  })
})

describe("invalid limits", () => {
  it.each([
    [{ requests: 0 }, RangeError, "Throttle: requests: perSecond must be more than 0, not 0"],
    [{ bytes: Number.NaN }, RangeError, "Throttle: bytes: perSecond must be more than 0, not NaN"],
    [{ bytes: Number.POSITIVE_INFINITY }, RangeError, "Throttle: bytes: perSecond must be more than 0, not Infinity"],
    [{ bytes: { perSecond: 10, burst: 5 } }, RangeError, "Throttle: bytes: burst must be at least perSecond (10), not 5"],
    [{ bytes: { perSecond: 10, burst: 50, burstSeconds: 0 } }, RangeError, "Throttle: bytes: burstSeconds must be more than 0, not 0"],
    [{ byts: 3 }, TypeError, 'Throttle: unknown option "byts"; did you mean "bytes"?'],
    [{ bytes: { perSeconds: 10 } }, TypeError, 'Throttle: bytes: unknown option "perSeconds"; did you mean "perSecond"?'],
    [
      { bytes: "10" },
      TypeError,
      'Throttle: bytes: the options must be an object with perSecond, burst or burstSeconds, not the string "10"',
    ],
  ])("%j are refused", (limits, kind, message) => {
    const make = (): unknown => new Throttle(limits as ThrottleLimits)
    expect(make).toThrow(kind)
    expect(make).toThrow(message)
  })

  it("leave the present limits as they are", () => {
    const { throttle } = throttled({ requests: 5 })
    expect(() => throttle.setLimits({ requests: -1 })).toThrow("Throttle.setLimits: requests: perSecond must be more than 0, not -1")
    expect(throttle.limits).toEqual({ requests: 5 })
  })
})

describe("batches that pass far from the limits", () => {
  it("are admitted one by one while a request waits, however much was allowed before", () => {
    const throttle = new Throttle({ requests: 1e6 }, { clock: new ManualClock() })
    const one = { reads: 1, readBytes: 512, writes: 0, writeBytes: 0 }
    expect([throttle.admitAll(one), throttle.isFar(256)]).toEqual([true, true])
    // Its disk is not at work, so nobody has asked whether it may go.
    const waits = { direction: "read", bytes: 512, queue: {}, mayGo: false, go() {} } as const
    throttle.wait(waits)
    expect([throttle.admitAll(one), throttle.isFar(1)]).toEqual([false, false])
    throttle.forget(waits)
    expect([throttle.admitAll(one), throttle.isFar(256)]).toEqual([true, true])
  })

  it("count like the same requests one by one while the clock stands still: the same pass, and levels are equal", () => {
    const rng = new Rng(SEED)
    let [passed, refused] = [0, 0]
    for (let round = 0; round < 200; round++) {
      const clock = new ManualClock()
      const rate = () => (rng.chance(0.5) ? undefined : rng.between(50, 5000))
      const bytes = () => (rng.chance(0.5) ? undefined : 512 * rng.between(50, 5000))
      const limits = [rate(), bytes(), rate(), bytes(), rate(), bytes()]
      const names = ["requests", "bytes", "readRequests", "readBytes", "writeRequests", "writeBytes"]
      const given: ThrottleLimits = Object.fromEntries(names.flatMap((name, at) => (limits[at] === undefined ? [] : [[name, limits[at]]])))
      const [batched, single] = [new Throttle(given, { clock }), new Throttle(given, { clock })]
      for (let step = 0; step < 60; step++) {
        const length = 512 * rng.between(1, 16)
        const isRead = rng.chance(0.5)
        const tally = { reads: isRead ? 1 : 0, readBytes: isRead ? length : 0, writes: isRead ? 0 : 1, writeBytes: isRead ? 0 : length }
        const direction = isRead ? "read" : "write"
        // What does not fit as a whole is asked for alone, as the device does.
        const passes = batched.admitAll(tally) || batched.admit(direction, length)
        expect([round, step, passes]).toEqual([round, step, single.admit(direction, length)])
        if (passes) passed++
        else refused++
        if (rng.chance(0.05)) expect(batched.saveState()).toEqual(single.saveState())
      }
      expect(batched.saveState()).toEqual(single.saveState())
    }
    expect([passed > 1000, refused > 1000]).toEqual([true, true])
  })
})
