/** A driver on another thread, over shared RAM: what nobody can show on one thread, the order of stores and the wake-ups between two. */
import { Worker } from "node:worker_threads"
import { describe, expect, it } from "vitest"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { RingGuest } from "../../harness/guest.ts"
import { F, T } from "../../harness/words.ts"

const REQUESTS = 20_000
/** Words of the bell: each side counts what it tells the other. */
const BELLS = { kick: 0, interrupt: 1, any: 2 } as const

interface Outcome {
  readonly finished?: number
  readonly kicks?: number
  readonly sleeps?: number
  readonly error?: string
}

/** Runs the driver thread to its end; this thread is the device, woken by the bell. */
async function run(eventIdx: boolean, seed: number, packed = false): Promise<Outcome & { readonly interrupts: number }> {
  const ram = new SharedArrayBuffer(1 << 18)
  const guest = new RingGuest({
    backing: new MemoryBacking({ size: 1 << 20 }),
    features: eventIdx ? [F.EVENT_IDX] : [],
    // A packed ring is too small for all requests at once, and not a multiple of three descriptors.
    ringSize: packed ? 37 : 64,
    packed,
    machine: { memory: ram },
  })
  const bell = new Int32Array(new SharedArrayBuffer(16))
  guest.machine.interrupts.subscribe(() => {
    Atomics.add(bell, BELLS.interrupt, 1)
    Atomics.notify(bell, BELLS.interrupt)
  })
  const slots = Array.from({ length: 16 }, (_, slot) => ({
    header: guest.alloc(16, 16), status: guest.alloc(1), table: guest.alloc(16 * 12, 16), buffer: guest.alloc(512, 4), first: 16 * slot,
    sectors: 1,
  }))
  const { size, desc, avail, used } = guest.ring
  const worker = new Worker(new URL("../../fuzz/threads/driving-thread.js", import.meta.url), {
    workerData: {
      ram, bell, bells: BELLS, ring: { size, desc, avail, used }, isPacked: packed, indirect: "never", hasEventIdx: eventIdx,
      isInOrder: false,
      slots, seed, requests: REQUESTS, kinds: [T.IN, T.OUT], mostAtOnce: slots.length,
    },
  })
  let outcome: Outcome | undefined
  const ended = new Promise<void>((resolve, reject) => {
    worker.on("message", (message: Outcome) => {
      outcome = message
      resolve()
    })
    worker.on("error", reject)
  })
  for (let kicks = 0; outcome === undefined; ) {
    const now = Atomics.load(bell, BELLS.any)
    if (now === kicks) {
      const change = Atomics.waitAsync(bell, BELLS.any, now)
      await Promise.race([change.value, ended])
    } else {
      kicks = now
      guest.kick()
      // A queue that is kept busy asks to be called again by a timer: let it.
      await new Promise((resolve) => setImmediate(resolve))
    }
  }
  await worker.terminate()
  expect(guest.disk.device.brokenBy).toBeUndefined()
  return { ...outcome, interrupts: Atomics.load(bell, BELLS.interrupt) }
}

describe("a driver on another thread", () => {
  it("VQ-20 VQ-29 VQ-31 with EVENT_IDX 20,000 requests come back with right bytes, and no buffer and no interrupt is lost", async () => {
    const outcome = await run(true, 20260808)
    expect(outcome).toMatchObject({ finished: REQUESTS })
    // It did sleep, and neither side told the other of every single buffer.
    expect(outcome.sleeps).toBeGreaterThan(0)
    expect(outcome.kicks).toBeLessThanOrEqual(REQUESTS)
    expect(outcome.interrupts).toBeLessThan(REQUESTS)
  })

  it("VQ-20 VQ-24 VQ-31 without EVENT_IDX the same holds with flags", async () => {
    const outcome = await run(false, 20260809)
    expect(outcome).toMatchObject({ finished: REQUESTS })
    expect(outcome.sleeps).toBeGreaterThan(0)
  })

  it("PK-13 PK-20 VQ-31 with a packed ring the same holds with events by descriptor", async () => {
    const outcome = await run(true, 20260810, true)
    expect(outcome).toMatchObject({ finished: REQUESTS })
    expect(outcome.sleeps).toBeGreaterThan(0)
    expect(outcome.kicks).toBeLessThanOrEqual(REQUESTS)
    expect(outcome.interrupts).toBeLessThan(REQUESTS)
  })

  it("PK-13 PK-18 VQ-31 with a packed ring the same holds with events by flags", async () => {
    const outcome = await run(false, 20260811, true)
    expect(outcome).toMatchObject({ finished: REQUESTS })
    expect(outcome.sleeps).toBeGreaterThan(0)
  })
})
