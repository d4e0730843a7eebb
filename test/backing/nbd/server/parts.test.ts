/** Parts of the NBD server by themselves: the queue of bytes, the budget of memory, the pool of buffers. */
import { describe, expect, it, vi } from "vitest"
import { Budget, type Holder } from "../../../../src/backing/nbd/server/budget.ts"
import { BufferPool, POOLED_PAYLOAD } from "../../../../src/backing/nbd/server/buffer-pool.ts"
import { ByteQueue } from "../../../../src/backing/nbd/server/byte-queue.ts"
import { Scheduler, type Worker } from "../../../../src/backing/nbd/server/scheduler.ts"
import { expectSame } from "../../../support/nbd/client.ts"
import { Rng, seedFromEnvironment } from "../../../support/rng.ts"

const seed = seedFromEnvironment(2718)

describe(`ByteQueue, seed ${seed}`, () => {
  it("returns the bytes that were put in, in pieces of any size, however they are taken", () => {
    const rng = new Rng(seed)
    const all = rng.bytes(1_000_000)
    const queue = new ByteQueue()
    let [put, taken] = [0, 0]
    while (taken < all.length) {
      if (put < all.length && rng.chance(0.5)) {
        const length = Math.min(rng.chance(0.7) ? rng.between(1, 900) : rng.between(1, 70_000), all.length - put)
        queue.push(all.slice(put, put + length))
        put += length
      } else if (queue.length > 0) {
        const length = rng.between(1, Math.min(queue.length, rng.chance(0.5) ? 40 : 50_000))
        const bytes = rng.chance(0.4)
          ? queue.take(length)
          : rng.chance(0.5) ? Buffer.concat(queue.takeViews(length)) : queue.takeSome(length)
        expectSame(bytes, all.subarray(taken, taken + bytes.length))
        taken += bytes.length
      }
      if (queue.length !== put - taken) throw new Error(`${queue.length} bytes are left, not ${put - taken}`)
    }
  })

  it("does not change bytes that it has returned when more arrive", () => {
    const queue = new ByteQueue()
    queue.push(Uint8Array.of(1, 2))
    queue.push(Uint8Array.of(3, 4))
    const views = queue.takeViews(3)
    for (let count = 0; count < 100; count++) queue.push(Uint8Array.of(9))
    expect(Buffer.concat(views)).toEqual(Buffer.of(1, 2, 3))
  })

  it("joins tiny chunks, so that 100,000 of one byte are a few dozen pieces, and does not copy large ones", () => {
    const queue = new ByteQueue()
    for (let count = 0; count < 100_000; count++) queue.push(Uint8Array.of(count))
    expect(queue.takeViews(100_000).length).toBeLessThan(100)
    const large = new Uint8Array(5000)
    queue.push(large)
    expect(queue.takeViews(5000)[0]?.buffer).toBe(large.buffer)
  })
})

describe("Budget", () => {
  /** A client that wants `wants` bytes whenever it is woken. */
  class Client implements Holder {
    readonly got: number[] = []
    wants: number[] = []
    isEvicted = false
    readonly #budget: Budget

    constructor(budget: Budget) {
      this.#budget = budget
    }

    ask(...bytes: number[]): void {
      this.wants.push(...bytes)
      this.wake()
    }

    wake(): void {
      for (let [next] = this.wants; next !== undefined && this.#budget.take(this, next); [next] = this.wants) {
        this.got.push(this.wants.shift() ?? 0)
      }
    }

    giveBack(): void {
      for (const bytes of this.got.splice(0)) this.#budget.give(this, bytes)
      this.wake()
    }

    evict(): void {
      this.isEvicted = true
      this.wants = []
      this.#budget.leave(this)
      for (const bytes of this.got.splice(0)) this.#budget.give(this, bytes)
    }
  }

  it("serves waiting clients in their order, however little the later ones want", () => {
    const budget = new Budget({ total: 100, each: 60, patience: 10 })
    const [a, b, c, d] = [new Client(budget), new Client(budget), new Client(budget), new Client(budget)]
    a.ask(60, 1)
    b.ask(40)
    c.ask(50)
    d.ask(1)
    expect([a.got, b.got, c.got, d.got]).toEqual([[60], [40], [], []])
    b.giveBack()
    // 40 are free, and 50 are wanted first.
    expect([c.got, d.got, budget.held, budget.waiting]).toEqual([[], [], 60, 2])
    a.giveBack()
    expect([a.got, c.got, d.got, budget.held, budget.waiting]).toEqual([[1], [50], [1], 52, 0])
    expect(() => budget.give(b, 1)).toThrow("were not taken")
  })

  it("skips a client that no longer wants anything, or has left", () => {
    const budget = new Budget({ total: 100, each: 100, patience: 10 })
    const [a, b, c, d] = [new Client(budget), new Client(budget), new Client(budget), new Client(budget)]
    a.ask(100)
    b.ask(100)
    c.ask(100)
    d.ask(100)
    b.wants = []
    budget.leave(c)
    a.giveBack()
    expect([d.got, budget.waiting]).toEqual([[100], 0])
  })

  it(`never exceeds its bounds, and every client gets in the end what it wants, seed ${seed}`, () => {
    const rng = new Rng(seed)
    for (let run = 0; run < 20; run++) {
      const budget = new Budget({ total: 200, each: 90, patience: 10 })
      const clients = Array.from({ length: 8 }, () => new Client(budget))
      for (let step = 0; step < 200; step++) {
        const client = rng.pick(clients)
        if (rng.chance(0.6)) client.ask(rng.between(1, 90))
        else client.giveBack()
        const held = clients.map(({ got }) => got.reduce((sum, bytes) => sum + bytes, 0))
        const sum = held.reduce((total, bytes) => total + bytes, 0)
        if (Math.max(...held) > 90 || sum !== budget.held || sum > 200) {
          throw new Error(`run ${run}, step ${step}: ${held.join()} of ${budget.held}`)
        }
      }
      for (let round = 0; round < 200; round++) for (const client of clients) client.giveBack()
      expect(clients.every(({ wants }) => wants.length === 0)).toBe(true)
      expect([budget.held, budget.waiting]).toEqual([0, 0])
    }
  })

  it("evicts a client that gives back a byte now and then while others wait", () => {
    vi.useFakeTimers()
    try {
      const budget = new Budget({ total: 100, each: 60, patience: 1000 })
      const [slow, waiting] = [new Client(budget), new Client(budget)]
      slow.ask(59, 1)
      waiting.ask(60)
      vi.advanceTimersByTime(999)
      budget.give(slow, slow.got.pop() ?? 0)
      vi.advanceTimersByTime(1)
      expect([slow.isEvicted, waiting.got, vi.getTimerCount()]).toEqual([true, [60], 0])
    } finally {
      vi.useRealTimers()
    }
  })

  it("evicts a client that has given nothing back since another began to wait, and none while none waits", () => {
    vi.useFakeTimers()
    try {
      const budget = new Budget({ total: 100, each: 60, patience: 1000 })
      const [idle, busy, waiting] = [new Client(budget), new Client(budget), new Client(budget)]
      idle.ask(50)
      busy.ask(20, 20)
      vi.advanceTimersByTime(100_000)
      expect(idle.isEvicted).toBe(false)
      waiting.ask(60)
      vi.advanceTimersByTime(999)
      busy.wants.push(20)
      budget.give(busy, busy.got.pop() ?? 0)
      vi.advanceTimersByTime(1)
      expect([idle.isEvicted, busy.isEvicted]).toEqual([true, false])
      expect(waiting.got).toEqual([60])
      vi.advanceTimersByTime(100_000)
      expect([busy.isEvicted, waiting.isEvicted, vi.getTimerCount()]).toEqual([false, false, 0])
    } finally {
      vi.useRealTimers()
    }
  })
})

describe("Scheduler", () => {
  it("runs what was queued in one round of the event loop in one turn, in order, and leaves the rest to the next turns", async () => {
    let now = 0
    const clock = vi.spyOn(performance, "now").mockImplementation(() => now)
    try {
      const scheduler = new Scheduler()
      const done: number[] = []
      const flushed = new Set<number>()
      const worker = (index: number, pieces: number): Worker => ({
        isQueued: false,
        step() {
          // A piece of a millisecond.
          now++
          done.push(index)
          return --pieces > 0
        },
        flush: () => void flushed.add(index),
      })
      for (let index = 0; index < 20; index++) scheduler.add(worker(index, 2))
      // The first one has both of its pieces at once: nobody else was there.
      expect(done).toEqual([0, 0, 1, 1])
      const sizes = [done.length]
      while (done.length < 40) {
        await new Promise((resolve) => setImmediate(resolve))
        sizes.push(done.length - sizes.reduce((sum, size) => sum + size, 0))
      }
      expect(Math.max(...sizes)).toBe(4)
      expect(done.slice(4, 12)).toEqual([2, 3, 4, 5, 6, 7, 8, 9])
      expect(flushed.size).toBe(20)
    } finally {
      clock.mockRestore()
    }
  })
})

describe("BufferPool", () => {
  it("leaves room before the payload, and hands out a returned buffer again, but none that is in use", () => {
    const pool = new BufferPool()
    for (const length of [0, 1, 4096, 4097, 65_536, POOLED_PAYLOAD, POOLED_PAYLOAD + 1, 1 << 20]) {
      const [first, second] = [pool.take(length), pool.take(length)]
      expect(first.bytes.buffer).not.toBe(second.bytes.buffer)
      expect(first.start).toBeGreaterThanOrEqual(64)
      expect(first.bytes.length - first.start).toBeGreaterThanOrEqual(length)
      pool.give(first)
      expect(pool.take(length) === first).toBe(length <= POOLED_PAYLOAD)
    }
  })
})
