/**
 * Requests that have been taken from their ring and wait: for a throttle, since an error has stopped the disk, or for bus mastering. What
 * changes meanwhile is true for them as well: nothing is written to a disk once it is read-only, nor beyond its end.
 */
import { describe, expect } from "vitest"
import { Throttle } from "../../../src/virtio/blk/throttling/throttle.ts"
import { it } from "../../harness/both-rings.ts"
import { eio, FakeDisk, settled } from "../../harness/fake-disk.ts"
import { RingGuest } from "../../harness/guest.ts"
import { pattern } from "../../harness/requests.ts"
import { IOERR, OK, T } from "../../harness/words.ts"
import { ManualClock } from "./throttling/manual-clock.ts"

/** A guest whose five writes, to sectors 0, 500, ..., have been taken and are not done, and what lets them go. */
interface Waiting {
  readonly disk: FakeDisk
  readonly guest: RingGuest
  readonly letGo: () => Promise<void>
  /** The statuses of the writes. */
  readonly statuses: () => number[]
}

const SECTORS = [0, 500, 1000, 1500, 2000]

function sendTo(guest: RingGuest, length = 1): () => number[] {
  const placed = SECTORS.map((sector) => guest.place({ type: T.OUT, sector, out: pattern(sector, length) }))
  guest.publish(placed.map(({ pieces }) => guest.chain(pieces)))
  guest.kick()
  return () => placed.map((one) => guest.reply(one, 0).status)
}

/** The limit lets a tenth of a second's requests go at once: one, and one that pays afterwards. */
function throttled(isLate: boolean): Waiting {
  const clock = new ManualClock()
  const disk = new FakeDisk()
  if (isLate) disk.waits = () => false
  const guest = new RingGuest({ backing: disk, disk: { throttle: new Throttle({ requests: 10 }, { clock }), writeErrors: "stop" } })
  const statuses = sendTo(guest)
  const letGo = async (): Promise<void> => {
    clock.runTo(10_000)
    await settled()
  }
  return { disk, guest, letGo, statuses }
}

function stopped(isLate: boolean): Waiting {
  const disk = new FakeDisk()
  if (isLate) disk.waits = () => false
  disk.failing = ({ offset }) => (offset === 1000 * 512 ? eio() : undefined)
  const guest = new RingGuest({ backing: disk, disk: { writeErrors: "stop" } })
  const statuses = sendTo(guest)
  const letGo = async (): Promise<void> => {
    disk.failing = () => undefined
    guest.disk.device.resume()
    await settled()
  }
  return { disk, guest, letGo, statuses }
}

/** The first writes switch bus mastering off: the batch waits. */
function withoutBusMastering(): Waiting {
  const disk = new FakeDisk()
  const guest = new RingGuest({ backing: disk, disk: { writeErrors: "stop" } })
  disk.answered = () => disk.log.length === 2 && void (guest.registers.command = 3)
  const statuses = sendTo(guest)
  const letGo = async (): Promise<void> => {
    guest.registers.command = 7
    await settled()
  }
  return { disk, guest, letGo, statuses }
}

const WAYS: readonly (readonly [string, () => Waiting])[] = [
  ["for a throttle", () => throttled(false)], ["for a throttle, of a disk that answers later", () => throttled(true)],
  ["since the disk has stopped", () => stopped(false)], ["since a disk has stopped that answers later", () => stopped(true)],
  ["for bus mastering", withoutBusMastering],
]

describe.each(WAYS)("writes wait %s", (_, makeWaiting) => {
  it("FT-29 setReadOnly makes waiting writes fail, and nothing is written once it has resolved", async () => {
    const { disk, guest, letGo, statuses } = makeWaiting()
    await settled()
    await guest.disk.device.setReadOnly(true)
    const content = disk.cache.slice()
    const written = SECTORS.filter((sector) => Buffer.compare(content.subarray(512 * sector, 512 * (sector + 1)), pattern(sector, 1)) === 0)
    expect(written.length).toBeLessThan(4)
    await letGo()
    expect(Buffer.compare(disk.cache, content)).toBe(0)
    expect([guest.disk.device.stoppedBy, guest.takeUsed().length]).toEqual([undefined, 5])
    // A write that was done, and not told of, is judged again as well.
    for (const [index, status] of statuses().entries()) {
      if (!written.includes(SECTORS[index] ?? 0)) expect([index, status]).toEqual([index, IOERR])
    }
    expect([guest.read(1, 1).status, guest.write(1, pattern(1, 1)).status]).toEqual([OK, IOERR])
    await guest.disk.device.setReadOnly(false)
    expect(guest.write(1, pattern(1, 1)).status).toBe(OK)
  })

  it("BLK-35 when the disk shrinks, waiting writes beyond its end fail without stopping it, and the others are done", async () => {
    for (const how of ["resize", "capacityChanged"] as const) {
      const { disk, guest, letGo, statuses } = makeWaiting()
      await settled()
      const { device } = guest.disk
      const shrink = (): void => void (disk.size = 1200 * 512)
      if (how === "resize") await device.changeContent(shrink)
      else {
        shrink()
        device.capacityChanged()
      }
      await letGo()
      expect([device.stoppedBy, guest.takeUsed().length, guest.capacity]).toEqual([undefined, 5, 1200])
      expect(statuses()).toEqual([OK, OK, OK, IOERR, IOERR])
      for (const sector of [0, 500, 1000]) expect(disk.cache.subarray(512 * sector, 512 * (sector + 1))).toEqual(pattern(sector, 1))
    }
  })
})
