/** What becomes of requests that the backing fails: reported, ignored, or kept by a disk that stops, over backings of each kind. */
import { describe, expect, it } from "vitest"
import { BackingError, type DiskStop, type VirtioBacking, type VirtioBlkOptions } from "../../../../src/index.ts"
import { eio, FakeDisk, settled } from "../../../harness/fake-disk.ts"
import { type Placed, RingGuest, type RingGuestOptions } from "../../../harness/guest.ts"
import { pattern, ranges, type Request } from "../../../harness/requests.ts"
import { F, IOERR, OK, T, UNSUPP, UNTOUCHED } from "../../../harness/words.ts"
import { Rng, seedFromEnvironment } from "../../../support/rng.ts"

const SECTORS = 2048
const FEATURES = [F.INDIRECT_DESC, F.FLUSH, F.DISCARD, F.WRITE_ZEROES, F.RING_RESET]

const enospc = (): BackingError => new BackingError("no-space", "injected: the file system is full")

/** How the disk answers. "in place": it reads and writes RAM without views, as files of the host do. */
const KINDS = ["at once", "in place", "later", "later, in place what it can"] as const
type Kind = (typeof KINDS)[number]

interface Failing {
  readonly disk: FakeDisk
  readonly guest: RingGuest
  readonly stops: DiskStop[]
  readonly errors: unknown[]
}

/** `disk` with the optional methods of its kind. */
function backingOf(disk: FakeDisk, kind: Kind): VirtioBacking {
  if (kind === "later") disk.waits = () => true
  if (kind === "later, in place what it can") {
    disk.waits = ({ name }) => name !== "read" && name !== "write"
    return Object.assign(disk, {
      preadNow: (buffers: readonly Uint8Array[], offset: number) => (void disk.preadv?.(buffers, offset), true),
      pwriteNow: (buffers: readonly Uint8Array[], offset: number) => (void disk.pwritev?.(buffers, offset), true),
    })
  }
  if (kind !== "in place") return disk
  return Object.assign(disk, {
    preadInto: (ram: Uint8Array, start: number, length: number, offset: number) => disk.pread(ram.subarray(start, start + length), offset),
    pwriteFrom: (
      ram: Uint8Array, start: number, length: number, offset: number,
    ) => disk.pwrite(ram.subarray(start, start + length), offset),
  })
}

function failing(kind: Kind, options: VirtioBlkOptions, guestOptions: Partial<RingGuestOptions> = {}): Failing {
  const disk = new FakeDisk({ size: 512 * SECTORS })
  disk.cache.set(pattern(0, SECTORS))
  const [stops, errors]: [DiskStop[], unknown[]] = [[], []]
  const guest = new RingGuest({
    backing: backingOf(disk, kind), features: FEATURES, ...guestOptions,
    disk: { onStop: (stop) => stops.push(stop), onError: (error) => errors.push(error), ...options },
  })
  return { disk, guest, stops, errors }
}

function send(guest: RingGuest, requests: readonly Request[], ring = guest.ring): Placed[] {
  const placed = requests.map((request) => guest.place(request))
  guest.publish(placed.map(({ pieces }) => guest.chain(pieces, { indirect: true }, ring)), ring)
  guest.kick(ring)
  return placed
}

/** Answers every call that waits, in order, and those that follow. Its failure is that of `disk.failing` at this moment. */
async function answer(disk: FakeDisk): Promise<void> {
  await settled()
  while (disk.waiting.length > 0) {
    disk.next().finish()
    await settled()
  }
  await settled()
}

const statuses = (guest: RingGuest, placed: readonly Placed[]): number[] => placed.map((one) => guest.reply(one, 0).status)
const read = (sector: number, sectors = 1): Request => ({ type: T.IN, sector, in: 512 * sectors })
const write = (sector: number, sectors = 1, salt = 9): Request => ({ type: T.OUT, sector, out: pattern(sector, sectors, salt) })
/** Calls on `disk` that touch `sector` fail. */
const bad = (sector: number, error = eio) => ({ offset, length }: { readonly offset: number; readonly length: number }) =>
  offset <= 512 * sector && 512 * sector < offset + length ? error() : undefined

describe("a disk that has stopped begins no call", () => {
  it("for a batch that waited for memory", async () => {
    const disk = new FakeDisk({ size: 128 << 20 })
    disk.waits = () => true
    const stops: DiskStop[] = []
    const guest = new RingGuest({
      backing: disk, features: FEATURES, machine: { ramSize: 128 << 20 }, disk: { readErrors: "stop", onStop: (stop) => stops.push(stop) },
    })
    const reads = Array.from({ length: 48 }, (_, at) => read(4096 * at, 2048))
    // Batches of 16 MiB behind these meet the limit of what may be in flight in their middle.
    const placed = [...send(guest, reads.slice(0, 10)), ...send(guest, reads.slice(10))]
    await settled()
    const begun = disk.log.length
    expect(begun).toBeGreaterThan(16)
    expect(begun).toBeLessThan(48)
    disk.next().fail(eio())
    await settled()
    // The memory of these is free again.
    for (let round = 0; round < 4; round++) {
      disk.next().finish()
      await settled()
    }
    expect([stops.length, disk.log.length]).toEqual([1, begun])
    guest.disk.device.resume()
    await answer(disk)
    expect(statuses(guest, placed).every((status) => status === OK)).toBe(true)
  })

  it("for neighbours whose merged call failed, and which would be repeated alone", async () => {
    const { disk, guest, stops } = failing("at once", { writeErrors: "stop" })
    // Together they are answered later, alone at once.
    disk.waits = ({ length }) => length > 512
    const placed = send(guest, [write(3), write(4), write(5)])
    disk.failing = bad(3)
    disk.next().fail(eio())
    await answer(disk)
    expect([stops.length, disk.log.map(({ offset, length }) => [offset / 512, length / 512])]).toEqual([1, [[3, 3], [3, 1]]])
    disk.failing = () => undefined
    guest.disk.device.resume()
    await answer(disk)
    expect(statuses(guest, placed)).toEqual([OK, OK, OK])
  })
})

describe.each(KINDS)("a disk that answers %s", (kind) => {
  it("reports errors by default", async () => {
    const { disk, guest, stops, errors } = failing(kind, {})
    disk.failing = bad(4)
    const placed = send(guest, [read(4), write(4), read(9)])
    await answer(disk)
    expect([statuses(guest, placed), stops, errors.length, guest.disk.device.stoppedBy]).toEqual([[IOERR, IOERR, OK], [], 2, undefined])
  })

  it("with ignore completes failed requests as OK, reads zeroes for lost data, and calls onError", async () => {
    const { disk, guest, stops, errors } = failing(kind, { readErrors: "ignore", writeErrors: "ignore" })
    disk.failing = (call) => (call.name === "flush" ? eio() : bad(4)(call))
    // Neighbours: the group fails, then the one in its middle alone.
    const placed = send(guest, [read(3), read(4, 2), read(6), write(4), { type: T.FLUSH }, write(7)])
    await answer(disk)
    expect([statuses(guest, placed), stops]).toEqual([[OK, OK, OK, OK, OK, OK], []])
    expect(placed.slice(0, 3).map((one) => guest.reply(one, 0).data)).toEqual([pattern(3, 1), new Uint8Array(1024), pattern(6, 1)])
    expect([disk.cache.subarray(2048, 2560), disk.cache.subarray(3584, 4096)]).toEqual([pattern(4, 1), pattern(7, 1, 9)])
    expect(errors.length).toBeGreaterThanOrEqual(3)
    expect(guest.takeUsed().map(({ length }) => length).toSorted((a, b) => a - b)).toEqual([1, 1, 1, 513, 513, 1025])
  })

  it("with ignore keeps the beginning of a long read whose end fails", async () => {
    const { disk, guest } = failing(kind, { readErrors: "ignore" }, { machine: { ramSize: 32 << 20 }, backing: new FakeDisk() })
    const big = new FakeDisk({ size: 4 << 20 })
    big.cache.set(pattern(0, 8192))
    await guest.disk.device.changeBacking(backingOf(big, kind))
    big.failing = bad(3000)
    const [placed] = send(guest, [read(0, 6000)])
    if (placed === undefined) throw new Error("nothing was sent")
    await answer(big)
    await answer(disk)
    const { status, data } = guest.reply(placed, 0)
    expect(status).toBe(OK)
    expect(Buffer.compare(data.subarray(0, 1 << 20), pattern(0, 2048))).toBe(0)
    expect(data.subarray(1 << 20).every((byte) => byte === 0)).toBe(true)
  })

  it("with stop keeps its requests in order, and goes on at resume", async () => {
    const { disk, guest, stops } = failing(kind, { writeErrors: "stop" })
    disk.failing = bad(4)
    const placed = send(guest, [write(1), write(4), write(20), { type: T.FLUSH }, write(4, 1, 33), read(9)])
    const [later] = [() => send(guest, [read(12)])]
    await answer(disk)
    const { device } = guest.disk
    expect(stops).toEqual([device.stoppedBy])
    expect(stops).toMatchObject([{ error: { code: "io" }, kind: "write", type: 1, sector: 4, bytes: 512 }])
    expect(statuses(guest, placed)[1]).toBe(UNTOUCHED)
    const waiting = later()
    await settled()
    expect(statuses(guest, waiting)).toEqual([UNTOUCHED])
    // What is not in flight holds up nobody.
    await device.pause()
    // Still bad: it stops again.
    device.resume()
    await answer(disk)
    expect([stops.length, statuses(guest, placed)[1], device.stoppedBy?.sector]).toEqual([2, UNTOUCHED, 4])
    disk.failing = () => undefined
    disk.log.length = 0
    device.resume()
    await answer(disk)
    expect([statuses(guest, placed), statuses(guest, waiting), stops.length]).toEqual([[OK, OK, OK, OK, OK, OK], [OK], 2])
    expect(device.stoppedBy).toBeUndefined()
    expect(disk.cache.subarray(2048, 2560)).toEqual(pattern(4, 1, 33))
    expect(guest.takeUsed().map(({ id }) => id).toSorted((a, b) => a - b)).toEqual([...placed.keys(), 6])
    expect(device.virtio.inFlight.heldBytes).toBe(0)
  })

  it("with enospc stops for lack of space, and reports other errors", async () => {
    const { disk, guest, stops } = failing(kind, { writeErrors: "enospc" })
    disk.failing = (call) => bad(4)(call) ?? bad(8, enospc)(call)
    const placed = send(guest, [write(4), write(8)])
    await answer(disk)
    expect([statuses(guest, placed), stops.map(({ error }) => error.code)]).toEqual([[IOERR, UNTOUCHED], ["no-space"]])
    disk.failing = () => undefined
    guest.disk.device.resume()
    await answer(disk)
    expect(statuses(guest, placed)).toEqual([IOERR, OK])
  })

  it("stops for one request of a merged call, and does the others", async () => {
    const { disk, guest, stops } = failing(kind, { readErrors: "stop", writeErrors: "stop" })
    disk.failing = bad(4)
    const placed = send(guest, [read(3), read(4), read(5)])
    await answer(disk)
    expect([stops.length, statuses(guest, placed).filter((status) => status === UNTOUCHED).length > 0]).toEqual([1, true])
    disk.failing = () => undefined
    guest.disk.device.resume()
    await answer(disk)
    expect(placed.map((one) => guest.reply(one, 0))).toMatchObject([3, 4, 5].map((sector) => ({ status: OK, data: pattern(sector, 1) })))
  })

  it("stops for each kind of request that changes the disk, and for a flush", async () => {
    const requests: readonly Request[] = [
      { type: T.FLUSH }, { type: T.DISCARD, out: ranges({ sector: 8, sectors: 8 }, { sector: 32, sectors: 8 }) },
      { type: T.WRITE_ZEROES, out: ranges({ sector: 8, sectors: 8 }) }, write(8, 4),
    ]
    for (const [at, request] of requests.entries()) {
      const { disk, guest, stops } = failing(kind, { writeErrors: "stop" })
      disk.failing = () => eio()
      const placed = send(guest, [request])
      await answer(disk)
      expect([statuses(guest, placed), stops.map(({ kind: what }) => what)]).toEqual([
        [UNTOUCHED], [["flush", "discard", "writeZeroes", "write"][at]],
      ])
      disk.failing = () => undefined
      disk.log.length = 0
      guest.disk.device.resume()
      await answer(disk)
      expect([statuses(guest, placed), disk.log.length]).toEqual([[OK], at === 1 ? 2 : 1])
    }
  })

  it("in write-through mode stops when the flush behind a write fails, and repeats the write before the flush", async () => {
    const { disk, guest, stops } = failing(kind, { writeErrors: "stop" }, { features: [F.INDIRECT_DESC] })
    disk.failing = ({ name }) => (name === "flush" ? eio() : undefined)
    const placed = send(guest, [write(1), write(2), read(30), write(9)])
    await answer(disk)
    expect([stops.length, statuses(guest, placed)[0], statuses(guest, placed)[3]]).toEqual([1, UNTOUCHED, UNTOUCHED])
    // A failed fdatasync may have thrown away what it was about.
    disk.cache.set(new Uint8Array(8192))
    disk.failing = () => undefined
    guest.disk.device.resume()
    await answer(disk)
    expect(statuses(guest, placed)).toEqual([OK, OK, OK, OK])
    for (const sector of [1, 2, 9]) expect(disk.stable.subarray(512 * sector, 512 * sector + 512)).toEqual(pattern(sector, 1, 9))
  })

  it("does not stop for wrong requests, nor for unsupported ones", async () => {
    const { disk, guest, stops } = failing(kind, { readErrors: "stop", writeErrors: "stop" })
    const faults: Partial<Record<string, BackingError>> = {
      discard: new BackingError("unsupported", "injected: no holes"),
      write: new BackingError("zone-unaligned", "injected: not at the write pointer"),
    }
    disk.failing = ({ name }) => faults[name]
    const placed = send(guest, [read(SECTORS), { type: 99, in: 1 }, { type: T.DISCARD, out: ranges({ sector: 8, sectors: 8 }) }, write(9)])
    await answer(disk)
    expect([statuses(guest, placed), stops]).toEqual([[IOERR, UNSUPP, UNSUPP, IOERR], []])
  })

  it("ST-03 a reset forgets what a stopped disk keeps; the next life waits for resume", async () => {
    const { disk, guest } = failing(kind, { writeErrors: "stop" })
    disk.failing = () => eio()
    const old = send(guest, [write(1), write(5), write(9)])
    await answer(disk)
    guest.status = 0
    expect(guest.disk.device.virtio.inFlight.heldBytes).toBe(0)
    guest.start()
    guest.top = 0x8_0000
    disk.failing = () => undefined
    disk.log.length = 0
    const placed = send(guest, [read(2)])
    await answer(disk)
    expect([statuses(guest, placed), disk.log]).toEqual([[UNTOUCHED], []])
    guest.disk.device.resume()
    await answer(disk)
    expect([statuses(guest, placed), statuses(guest, old), disk.takeNames()]).toEqual([[OK], [UNTOUCHED, UNTOUCHED, UNTOUCHED], ["read"]])
  })

  it("saves its kept requests with its state, and they are done where that is restored", async () => {
    const { disk, guest } = failing(kind, { writeErrors: "enospc" })
    disk.failing = bad(4, enospc)
    const placed = send(guest, [write(1), write(4), write(20), { type: T.FLUSH }])
    await answer(disk)
    await guest.disk.device.pause()
    const state: unknown = JSON.parse(JSON.stringify(guest.disk.function.saveState()))
    guest.machine.detachDisk(guest.disk.slot)
    const other = new FakeDisk({ content: disk.cache.slice() })
    const again = guest.machine.attachDisk(other, { slot: guest.disk.slot })
    again.function.restoreState(state)
    expect(other.log).toEqual([])
    again.device.resume()
    await answer(other)
    expect([statuses(guest, placed), other.stable.subarray(2048, 2560)]).toEqual([[OK, OK, OK, OK], pattern(4, 1, 9)])
    expect(guest.takeUsed().map(({ id }) => id).toSorted((a, b) => a - b)).toEqual([0, 1, 2, 3])
  })

  it("hands its kept requests to another disk that takes its place, and resume does them there", async () => {
    const { disk, guest } = failing(kind, { writeErrors: "enospc" })
    disk.failing = bad(4, enospc)
    const placed = send(guest, [write(1), write(4), write(20)])
    await answer(disk)
    const other = new FakeDisk({ content: disk.cache.slice() })
    disk.failing = () => undefined
    const changed = guest.disk.device.changeBacking(other)
    await answer(disk)
    await changed
    expect(statuses(guest, placed)[1]).toBe(UNTOUCHED)
    guest.disk.device.resume()
    await settled()
    expect([statuses(guest, placed), other.cache.subarray(2048, 2560)]).toEqual([[OK, OK, OK], pattern(4, 1, 9)])
  })

  /** Three writes, of which the second has stopped the disk. It works again, and waits at its next flush. */
  async function stoppedAndFlushing() {
    const { disk, guest } = failing(kind, { writeErrors: "stop" })
    disk.failing = bad(4)
    const placed = send(guest, [write(1), write(4), write(20)])
    await answer(disk)
    disk.failing = () => undefined
    disk.waits = ({ name }) => name === "flush"
    return { disk, guest, placed }
  }

  it("begins no call on resume while another disk takes its place, which gets the kept requests", async () => {
    const { disk, guest, placed } = await stoppedAndFlushing()
    const other = new FakeDisk({ content: disk.cache.slice() })
    disk.log.length = 0
    const changed = guest.disk.device.changeBacking(other)
    await settled()
    guest.disk.device.resume()
    await settled()
    expect([disk.takeNames(), statuses(guest, placed)[1]]).toEqual([["flush"], UNTOUCHED])
    disk.next().finish()
    await changed
    await settled()
    expect(disk.takeNames()).toEqual([])
    expect([statuses(guest, placed), other.cache.subarray(2048, 2560)]).toEqual([[OK, OK, OK], pattern(4, 1, 9)])
  })

  it("does its kept requests itself when the change to another disk fails", async () => {
    const { disk, guest, placed } = await stoppedAndFlushing()
    const changed = guest.disk.device.changeBacking(new FakeDisk({ content: disk.cache.slice() }))
    await settled()
    guest.disk.device.resume()
    disk.next().fail(eio())
    await expect(changed).rejects.toMatchObject({ code: "io" })
    await settled()
    expect([statuses(guest, placed), disk.cache.subarray(2048, 2560)]).toEqual([[OK, OK, OK], pattern(4, 1, 9)])
  })

  it("loses no request when it is full again and again, throttled or not", async () => {
    const seed = seedFromEnvironment(20261128)
    const rng = new Rng(seed)
    for (const throttle of [undefined, { requests: 1e6 }]) {
      const { disk, guest, stops } = failing(kind, { writeErrors: "enospc", ...(throttle && { throttle }) }, { ringSize: 32 })
      const expected = disk.cache.slice()
      let [room, sent, returned] = [0, 0, 0]
      const free = new Set(Array.from({ length: 32 }, (_, head) => head))
      disk.failing = ({ name }) => (name === "write" && room-- <= 0 ? enospc() : undefined)
      while (returned < 150) {
        const batch: number[] = []
        for (let count = rng.below(8); count > 0 && sent < 150 && free.size > 0; count--) {
          const [head = 0] = free
          free.delete(head)
          const sector = (sent * 7) % SECTORS
          const data = pattern(sector, 1, sent)
          expected.set(data, 512 * sector)
          const { pieces } = guest.place({ type: T.OUT, sector, out: data })
          guest.desc(head, guest.table(pieces), 16 * pieces.length, 4)
          batch.push(head)
          sent++
        }
        guest.publish(batch)
        guest.kick()
        await answer(disk)
        for (const { id } of guest.takeUsed()) {
          expect(free.has(id), `head ${id} twice (seed ${seed})`).toBe(false)
          free.add(id)
          returned++
        }
        if (free.size === 32) guest.top = 0x8_0000
        if (guest.disk.device.stoppedBy === undefined) continue
        room = rng.below(6)
        guest.disk.device.resume()
      }
      expect([Buffer.compare(disk.cache, expected), stops.length > 10], `seed ${seed}`).toEqual([0, true])
    }
  })
})

describe("onStop", () => {
  it("may resume from inside for a lasting error, and the host's thread is free in between", async () => {
    let stops = 0
    const disk = new FakeDisk()
    const guest = new RingGuest({
      backing: disk,
      disk: {
        readErrors: "stop",
        onStop: () => {
          if (++stops < 50) guest.disk.device.resume()
        },
      },
    })
    disk.failing = () => eio()
    const placed = send(guest, [read(0)])
    for (let turns = 0; turns < 200; turns++) await settled()
    expect([stops, statuses(guest, placed)]).toEqual([50, [UNTOUCHED]])
    disk.failing = () => undefined
    guest.disk.device.resume()
    await settled()
    expect(statuses(guest, placed)).toEqual([OK])
  })

  it("is not called for a stop that is over", async () => {
    const { disk, guest, stops } = failing("at once", { readErrors: "stop" })
    disk.failing = () => eio()
    send(guest, [read(0)])
    disk.failing = () => undefined
    guest.disk.device.resume()
    await settled()
    expect(stops).toEqual([])
  })

  it("may reset or unplug the disk", async () => {
    for (const act of [
      (guest: RingGuest) => void (guest.status = 0),
      (guest: RingGuest) => void guest.machine.detachDisk(guest.disk.slot),
    ]) {
      const disk = new FakeDisk()
      const guest = new RingGuest({ backing: disk, disk: { readErrors: "stop", onStop: () => act(guest) } })
      disk.failing = () => eio()
      const placed = send(guest, [read(0), read(5)])
      await settled()
      await settled()
      guest.disk.device.resume()
      await settled()
      expect([statuses(guest, placed), disk.log.length]).toEqual([[UNTOUCHED, UNTOUCHED], 1])
    }
  })
})

it.each(["at once", "later"] as const)("%s: an ignored error stores no zeroes when onError resets the device", async (kind) => {
  let ram = new Uint8Array(0)
  const { disk, guest } = failing(kind, {
    readErrors: "ignore",
    onError: () => {
      guest.status = 0
      ram = guest.machine.ram.slice()
    },
  })
  disk.failing = bad(0)
  send(guest, [read(0), read(8)])
  await answer(disk)
  expect(ram.length).toBeGreaterThan(0)
  expect(Buffer.compare(ram, guest.machine.ram)).toBe(0)
})

it.each(["at once", "later"] as const)("%s: the error of a flush in write-through mode is ignored like that of a write", async (kind) => {
  const { disk, guest } = failing(kind, { writeErrors: "ignore" }, { features: [F.INDIRECT_DESC] })
  disk.failing = ({ name }) => (name === "flush" ? eio() : undefined)
  const placed = send(guest, [write(4)])
  await answer(disk)
  expect(statuses(guest, placed)).toEqual([OK])
})

it("an ignored error stores no zeroes when the failing call reset the device or switched bus mastering off", () => {
  for (const act of [
    (guest: RingGuest) => void (guest.status = 0),
    (guest: RingGuest) => guest.machine.pci.function(guest.disk.slot)?.configWrite(4, 2, 0),
  ]) {
    const { disk, guest } = failing("at once", { readErrors: "ignore" })
    disk.failing = () => {
      act(guest)
      return eio()
    }
    const [placed] = send(guest, [read(0)])
    if (placed === undefined) throw new Error("nothing was sent")
    expect(guest.reply(placed, 0)).toMatchObject({ status: UNTOUCHED, data: new Uint8Array(512).fill(0xa5) })
  }
})
