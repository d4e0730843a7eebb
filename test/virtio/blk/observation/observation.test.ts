/** The observer of a disk's requests, and its latencies: once for each request, whatever the observer does. */
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest"
import type { ObservedRequest } from "../../../../src/index.ts"
import { eio, FakeDisk, settled } from "../../../harness/fake-disk.ts"
import { type Placed, RingGuest, type RingGuestOptions } from "../../../harness/guest.ts"
import { pattern, ranges, type Request } from "../../../harness/requests.ts"
import { F, IOERR, OK, T, UNSUPP, UNTOUCHED } from "../../../harness/words.ts"

let now = 0
beforeEach(() => {
  now = 1000
  vi.spyOn(performance, "now").mockImplementation(() => now)
})
afterEach(() => void vi.restoreAllMocks())

interface Observed {
  readonly disk: FakeDisk
  readonly guest: RingGuest
  readonly seen: ObservedRequest[]
}

/** A guest with an observer that keeps what it is told, and then does `act`. */
function observed(act: (request: ObservedRequest, guest: RingGuest) => void = () => {}, options: Partial<RingGuestOptions> = {}): Observed {
  const disk = new FakeDisk()
  disk.cache.set(pattern(0, disk.size / 512))
  const seen: ObservedRequest[] = []
  const guest = new RingGuest({
    backing: disk, features: [F.INDIRECT_DESC, F.DISCARD, F.WRITE_ZEROES, F.FLUSH, F.RING_RESET], ...options,
    disk: {
      latency: "all",
      observer: (request) => {
        seen.push(request)
        act(request, guest)
      },
      ...options.disk,
    },
  })
  return { disk, guest, seen }
}

function send(guest: RingGuest, requests: readonly Request[]): Placed[] {
  const placed = requests.map((request) => guest.place(request))
  guest.publish(placed.map(({ pieces }) => guest.chain(pieces, { indirect: true })))
  guest.kick()
  return placed
}

const statuses = (guest: RingGuest, placed: readonly Placed[]): number[] => placed.map((one) => guest.reply(one, 0).status)

describe("an observer", () => {
  it("gets sector, bytes, status and times of each kind of request", () => {
    const { guest, seen, disk } = observed()
    disk.failing = ({ offset, name }) => {
      now += 2
      return name === "read" && offset === 512 * 9 ? eio() : undefined
    }
    send(guest, [
      { type: T.IN, sector: 5, in: 1024 }, { type: T.IN, sector: 9, in: 512 }, { type: T.OUT, sector: 7, out: pattern(1, 2) },
      { type: T.FLUSH },
      { type: T.GET_ID, in: 20 }, { type: T.DISCARD, out: ranges({ sector: 16, sectors: 8 }, { sector: 64, sectors: 8 }) },
      { type: T.WRITE_ZEROES, out: ranges({ sector: 24, sectors: 8 }) }, { type: 99, sector: 3, in: 1 },
      { type: T.IN, sector: 1e9, in: 512 },
    ])
    const at = { queue: 0, arrived: 1000, completed: 1014 }
    expect(seen).toEqual([
      { ...at, kind: "read", type: 0, sector: 5, bytes: 1024, status: OK },
      { ...at, kind: "read", type: 0, sector: 9, bytes: 512, status: IOERR },
      { ...at, kind: "write", type: 1, sector: 7, bytes: 1024, status: OK },
      { ...at, kind: "flush", type: 4, sector: 0, bytes: 0, status: OK },
      { ...at, kind: "getId", type: 8, sector: 0, bytes: 20, status: OK },
      { ...at, kind: "discard", type: 11, sector: 16, bytes: 8192, status: OK },
      { ...at, kind: "writeZeroes", type: 13, sector: 24, bytes: 4096, status: OK },
      { ...at, kind: "unknown", type: 99, sector: 3, bytes: 0, status: UNSUPP },
      { ...at, kind: "read", type: 0, sector: 1e9, bytes: 512, status: IOERR },
    ])
    const { read, flush } = guest.disk.device.statistics
    expect([read.latency?.count, read.latency?.max, flush.latency?.count, read.errors]).toEqual([3, 14, 1, 2])
  })

  it("gets no ranges of an earlier request with one that is refused", () => {
    const { guest, seen } = observed()
    send(guest, [{ type: T.DISCARD, out: ranges({ sector: 16, sectors: 8 }) }])
    send(guest, [{ type: T.DISCARD, sector: 4, out: ranges({ sector: 1e9, sectors: 8 }) }])
    expect(seen.map(({ sector, bytes, status }) => [sector, bytes, status])).toEqual([[16, 4096, OK], [4, 16, IOERR]])
  })

  it("gets a request when a late backing answers it, with the time of its arrival", async () => {
    const { disk, guest, seen } = observed(undefined, { queues: 2, disk: { queues: 2 } })
    disk.waits = () => true
    const second = guest.rings[1]
    if (second === undefined) throw new Error("no second ring")
    const placed = guest.place({ type: T.OUT, sector: 3, out: pattern(8, 1) })
    guest.publish([guest.chain(placed.pieces, {}, second)], second)
    guest.kick(second)
    now = 1500
    send(guest, [{ type: T.IN, sector: 1, in: 512 }])
    expect(seen).toEqual([])
    now = 1700
    disk.next("read").finish()
    await settled()
    now = 1900
    disk.next("write").fail(eio())
    await settled()
    expect(seen.map(({ queue, kind, status, arrived, completed }) => [queue, kind, status, arrived, completed])).toEqual([
      [0, "read", OK, 1500, 1700], [1, "write", IOERR, 1000, 1900],
    ])
  })

  it("sees every request of a driver that keeps the ring full once, in the order of the used ring", () => {
    const { guest, seen } = observed(undefined, { ringSize: 16 })
    for (let round = 0; round < 50; round++) {
      send(guest, Array.from({ length: 16 }, (_, at) => ({ type: T.IN, sector: 16 * round + at, in: 512 })))
      guest.top = 0x8_0000
    }
    expect(seen.map(({ sector }) => sector)).toEqual(Array.from({ length: 800 }, (_, at) => at))
    expect(guest.disk.device.statistics.read.latency?.count).toBe(800)
  })
})

describe("an observer that throws or acts", () => {
  it("may throw for each request: the guest gets all answers, and then the error is thrown", () => {
    const { guest, seen } = observed(() => {
      throw new Error("observer's bug")
    })
    const placed = Array.from({ length: 3 }, (_, at) => guest.place({ type: T.IN, sector: 3 * at, in: 512 }))
    guest.publish(placed.map(({ pieces }) => guest.chain(pieces, { indirect: true })))
    expect(() => guest.kick()).toThrow("observer's bug")
    expect([statuses(guest, placed), guest.usedIdx(), guest.queueIrqs(), seen.length]).toEqual([[OK, OK, OK], 3, 1, 3])
  })

  it.each<readonly [string, (guest: RingGuest) => void]>([
    ["resets the device", (guest) => void (guest.status = 0)],
    ["resets the queue", (guest) => guest.modern.common.write(0x3a, 2, 1)],
    ["unplugs the disk", (guest) => void guest.machine.detachDisk(guest.disk.slot)],
    ["switches bus mastering off", (guest) => void guest.modern.setConfig(4, 2, 0)],
  ])("and %s from inside gets one complete request, and the next ones do not reach the guest", (_name, act) => {
    for (const asynchronous of [false, true]) {
      const { guest, seen, disk } = observed((_request, one) => act(one))
      if (asynchronous) disk.waits = () => false
      guest.modern.common.write(0x16, 2, 0)
      const placed = send(guest, Array.from({ length: 3 }, (_, at) => ({ type: T.IN, sector: 3 * at, in: 512 })))
      expect([statuses(guest, placed), seen.length], `asynchronous: ${asynchronous}`).toEqual([[OK, UNTOUCHED, UNTOUCHED], 1])
    }
  })

  it("and resets the device inside a late answer gets no later request", async () => {
    const { guest, seen, disk } = observed((_request, one) => void (one.status = 0))
    disk.waits = () => true
    const placed = send(guest, Array.from({ length: 3 }, (_, at) => ({ type: T.IN, sector: 3 * at, in: 512 })))
    while (disk.waiting.length > 0) disk.next().finish()
    await settled()
    expect([statuses(guest, placed), seen.length]).toEqual([[OK, UNTOUCHED, UNTOUCHED], 1])
  })

  it("and sends another request from inside gets that as well, after the first", () => {
    let more = 3
    const { guest, seen } = observed((_request, one) => {
      if (more-- > 0) send(one, [{ type: T.IN, sector: 40 + more, in: 512 }])
    })
    send(guest, [{ type: T.IN, sector: 1, in: 512 }])
    expect([seen.map(({ sector }) => sector), guest.usedIdx()]).toEqual([[1, 42, 41, 40], 4])
  })
})

describe("without an observer", () => {
  it("sampled latencies are those of one batch in 64, at random, however large it is", () => {
    const disk = new FakeDisk()
    const guest = new RingGuest({ backing: disk, disk: { latency: "sampled" } })
    vi.spyOn(Math, "random").mockReturnValue(0.5)
    disk.failing = () => void (now += 3)
    for (let round = 0; round < 129; round++) {
      send(guest, Array.from({ length: 2 }, (_, at) => ({ type: T.IN, sector: 2 * at, in: 512 })))
      guest.top = 0x8_0000
    }
    const { read } = guest.disk.device.statistics
    expect([read.requests, read.latency?.count, read.latency?.sum]).toEqual([258, 6, 36])
  })

  it("a batch that is not timed records no times of an earlier, longer one", async () => {
    const disk = new FakeDisk()
    const guest = new RingGuest({ backing: disk, disk: { latency: "sampled" } })
    disk.waits = () => false
    const random = vi.spyOn(Math, "random").mockReturnValue(0)
    const batch = (count: number): void => {
      send(guest, Array.from({ length: count }, () => ({ type: T.FLUSH })))
      guest.top = 0x8_0000
    }
    batch(10)
    random.mockReturnValue(0.5)
    batch(3)
    disk.waits = () => true
    batch(10)
    while (disk.waiting.length > 0) await disk.finishNext()
    const { flush } = guest.disk.device.statistics
    expect([flush.requests, flush.latency?.count]).toEqual([23, 13])
  })

  it("the time of a request that a reset has ended is not recorded for a later one", () => {
    const disk = new FakeDisk()
    const guest = new RingGuest({ backing: disk, disk: { latency: "sampled" } })
    vi.spyOn(Math, "random").mockReturnValue(0.5)
    disk.failing = () => void (guest.status = 0)
    send(guest, [{ type: T.IN, sector: 0, in: 512 }])
    disk.failing = () => undefined
    guest.start()
    disk.waits = () => true
    send(guest, [{ type: T.IN, sector: 0, in: 512 }])
    expect(disk.waiting).toHaveLength(1)
    disk.next().finish()
    return settled().then(() => {
      const { read } = guest.disk.device.statistics
      expect([read.requests, read.latency?.count]).toEqual([1, 0])
    })
  })

  it("no request reads the clock, and statistics have no latency", () => {
    const disk = new FakeDisk()
    const guest = new RingGuest({ backing: disk })
    const looks = vi.mocked(performance.now)
    looks.mockClear()
    guest.read(0, 1)
    expect(looks).not.toHaveBeenCalled()
    expect(guest.disk.device.statistics.read).toEqual({ requests: 1, bytes: 512, errors: 0 })
  })
})
