/** Many queues and many requests: what they cost the host in stack and in memory, and that none of them is left behind. */
import { describe, expect, it } from "vitest"
import { FakeDisk, settled } from "../harness/fake-disk.ts"
import { type Placed, RingGuest } from "../harness/guest.ts"
import { pattern } from "../harness/requests.ts"
import { F, OK, T } from "../harness/words.ts"

const MIB = 1 << 20

describe("thousands of queues", () => {
  it.each([false, true])("are served in order when the interrupt of each of 4096 kicks the next (asynchronous: %s)", async (waits) => {
    const QUEUES = 4096
    const disk = new FakeDisk()
    if (waits) disk.waits = () => true
    const guest = new RingGuest({
      backing: disk,
      queues: QUEUES,
      ringSize: 4,
      features: [F.MQ],
      disk: { queues: QUEUES, queueSize: 4, vectors: 0 },
      machine: { ramSize: 16 * MIB },
    })
    const statuses = guest.rings.map((ring) => {
      const placed = guest.place({ type: T.IN, sector: ring.index % 2048, in: 0 })
      guest.publish([guest.chain(placed.pieces, {}, ring)], ring)
      return placed.status
    })
    let next = 0
    const order: number[] = []
    const kickNext = (): void => {
      const ring = guest.rings[next++]
      if (ring === undefined) return
      order.push(ring.index)
      guest.kick(ring)
    }
    guest.machine.interrupts.subscribe(() => {
      // The line goes up, and is lowered by this.
      if (guest.registers.readIsr() !== 0) kickNext()
    })
    // Requests of no bytes do not reach the backing: flushes do.
    if (waits) for (const ring of guest.rings) guest.data.setUint32(Number(guest.data.getBigUint64(ring.desc, true)), T.FLUSH, true)
    kickNext()
    for (let round = 0; round < 2 * QUEUES && order.length < QUEUES; round++) {
      disk.waiting.splice(0).forEach((waiting) => waiting.finish())
      await settled()
    }
    disk.waiting.splice(0).forEach((waiting) => waiting.finish())
    await settled()
    expect(order).toEqual(guest.rings.map(({ index }) => index))
    for (const ring of guest.rings) if (ring.usedIdx !== 1) throw new Error(`queue ${ring.index} was not served`)
    expect(statuses.every((status) => guest.bytes(status, 1)[0] === OK)).toBe(true)
  })
})

describe("the memory of a device while its backing does not answer", () => {
  /** Chains of `segments` descriptors each, all in one indirect table, on every queue: hardly any RAM of the guest's. */
  function flood(
    options: { queues: number; size: number; segments: number; bytes: number },
  ): { guest: RingGuest; disk: FakeDisk; placed: Placed } {
    const disk = new FakeDisk({ size: 64 * MIB })
    disk.cache.set(pattern(0, 4096))
    disk.waits = () => true
    const { queues, size, segments, bytes } = options
    const guest = new RingGuest({
      backing: disk,
      queues,
      ringSize: size,
      features: [F.MQ, F.INDIRECT_DESC],
      disk: { queues, queueSize: size },
      machine: { ramSize: 8 * MIB },
    })
    const placed = guest.place({ type: T.IN, sector: 0, in: bytes })
    const [header, data, status] = placed.pieces
    if (header === undefined || data === undefined || status === undefined) throw new Error("no pieces")
    const part = bytes / segments
    const table = guest.table([
      header,
      ...Array.from({ length: segments }, (_, at) => ({ address: placed.in + part * at, length: part, writable: true })),
      status,
    ])
    for (const ring of guest.rings) {
      for (let index = 0; index < size; index++) ring.describe(index, table, 16 * (segments + 2), 4, 0)
      guest.publish(Array.from({ length: size }, (_, index) => index), ring)
    }
    return { guest, disk, placed }
  }

  it.each([
    ["long chains", { queues: 2, size: 4096, segments: 512, bytes: 4 * 512 }],
    ["short chains", { queues: 12, size: 4096, segments: 1, bytes: 512 }],
    ["long requests", { queues: 2, size: 32, segments: 1, bytes: 4 * MIB }],
  ])("is bounded over all queues with %s, and every request is served as answers come", async (_, options) => {
    const { guest, disk, placed } = flood(options)
    const before = process.memoryUsage()
    for (const ring of guest.rings) guest.kick(ring)
    for (let round = 0; round < 50; round++) await settled()
    const { inFlight } = guest.disk.device.virtio
    const total = options.queues * options.size
    expect(inFlight.heldBytes).toBeLessThan(34 * MIB)
    expect(inFlight.calls).toBeLessThan(total)
    const after = process.memoryUsage()
    expect(after.heapUsed + after.arrayBuffers - before.heapUsed - before.arrayBuffers).toBeLessThan(160 * MIB)
    // Answers in any order; each brings new requests in.
    const left = () => guest.rings.some(({ usedIdx }) => usedIdx !== options.size)
    for (let round = 0; round < 5000 && left(); round++) {
      disk.waiting.splice(0).reverse().forEach((waiting) => waiting.finish())
      await settled()
      expect(inFlight.heldBytes).toBeLessThan(34 * MIB)
    }
    expect(guest.rings.map(({ usedIdx }) => usedIdx)).toEqual(guest.rings.map(() => options.size))
    expect([inFlight.heldBytes, inFlight.calls, guest.reply(placed, 0).status]).toEqual([0, 0, OK])
    await guest.disk.device.whenIdle()
  }, 60_000)

  it("stays below the bound when a guest resets over and over", async () => {
    const { guest, disk } = flood({ queues: 1, size: 256, segments: 1, bytes: MIB })
    const { inFlight } = guest.disk.device.virtio
    for (let round = 0; round < 20; round++) {
      guest.start()
      const placed = guest.place({ type: T.IN, sector: 0, in: MIB })
      for (let index = 0; index < 64; index++) guest.publish([guest.chain(placed.pieces, { indirect: true })])
      guest.kick()
      await settled()
      expect(inFlight.heldBytes).toBeLessThan(34 * MIB)
    }
    // The answers of the old lives make room for the new one.
    for (let round = 0; round < 1000 && guest.usedIdx() < 64; round++) {
      disk.waiting.splice(0).forEach((waiting) => waiting.finish())
      await settled()
    }
    expect([guest.usedIdx(), inFlight.heldBytes]).toEqual([64, 0])
  })
})
