/** An image over a file that answers late, behind the device: requests out of order, resets, a pulled cable, and a close under load. */
import { describe, expect, it } from "vitest"
import type { AwaitedDisk } from "../../../src/backing/paging/awaited-disk.ts"
import { settled } from "../../harness/fake-disk.ts"
import { type Placed, RingGuest } from "../../harness/guest.ts"
import { IOERR, OK, T, UNTOUCHED } from "../../harness/words.ts"
import { openInMemory } from "../../support/images.ts"
import type { MemoryFile } from "../../support/memory-file.ts"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { makeShape } from "../../support/shapes.ts"
import { LateFile } from "./late-file.ts"
import { openLate } from "./open-late.ts"

const seed = seedFromEnvironment(61)
const SECTORS = 400

interface World {
  readonly guest: RingGuest
  readonly disk: AwaitedDisk
  readonly source: LateFile
  readonly file: MemoryFile
  /** What the disk holds. */
  readonly content: Uint8Array
}

async function world(): Promise<World> {
  const { file: made } = makeShape({ name: "", options: { clusterSize: 1024 } }, SECTORS * 512)
  const content = new Rng(seed).bytes(SECTORS * 512)
  const ready = openInMemory(made)
  ready.pwrite(content, 0)
  ready.close()
  const file = made.clone()
  const source = new LateFile(file, new Rng(seed))
  const disk = await openLate(source, (over) => openInMemory(over, { cacheSize: 4096 }))
  return { guest: new RingGuest({ backing: disk }), disk, source, file, content }
}

/** Puts a read and a write in turn on the ring, each of 2 sectors of its own, and kicks. */
function submit({ guest }: World, count: number): readonly Placed[] {
  const placed = Array.from({ length: count }, (_, index) =>
    guest.place(
      index % 2 === 0
        ? { type: T.IN, sector: index * 6, in: 1024 }
        : { type: T.OUT, sector: index * 6, out: new Uint8Array(1024).fill(index) },
    ),
  )
  guest.publish(placed.map(({ pieces }) => guest.chain(pieces)))
  guest.kick()
  return placed
}

/** Lets the source answer all that it was asked. */
async function answered(source: LateFile): Promise<void> {
  source.resume()
  for (let calls = -1; calls !== source.calls;) {
    calls = source.calls
    for (let turn = 0; turn < 30; turn++) await settled()
  }
}

async function expectSilence({ guest, source }: World): Promise<void> {
  const before = guest.machine.ram.slice()
  guest.machine.interrupts.takeMessages()
  await answered(source)
  expect(Buffer.compare(before, guest.machine.ram)).toBe(0)
  expect(guest.machine.interrupts.takeMessages()).toEqual([])
}

describe(`an image over a late file behind the device, seed ${seed}`, () => {
  it("VQ-22 BLK-15 requests end in any order with their data, and a flush behind them makes them stable", async () => {
    const all = await world()
    const { guest, file, content, disk } = all
    const placed = submit(all, 60)
    await guest.served()
    expect(guest.takeUsed().length).toBe(60)
    for (const [index, one] of placed.entries()) {
      const { status, data } = guest.reply(one, 0)
      expect(status).toBe(OK)
      if (index % 2 === 0) expect(Buffer.compare(data, content.subarray(index * 3072, index * 3072 + 1024)), `read ${index}`).toBe(0)
      else content.fill(index, index * 3072, index * 3072 + 1024)
    }
    expect((await guest.runLong({ type: T.FLUSH })).status).toBe(OK)
    const stable = new Uint8Array(content.length)
    openInMemory(file.clone({ readOnly: true })).pread(stable, 0)
    expect(Buffer.compare(stable, content)).toBe(0)
    await disk.close()
  })

  it("ST-02 ST-03 after a reset while pages load nothing of the old life reaches RAM, and the new life is served", async () => {
    const all = await world()
    const { guest, source, content, disk } = all
    source.isStalled = true
    const placed = submit(all, 30)
    expect(guest.usedIdx()).toBeLessThan(30)
    guest.status = 0
    expect(guest.status).toBe(0)
    const untouched = placed.filter(({ status }) => guest.machine.ram[status] === UNTOUCHED).length
    expect(untouched).toBeGreaterThan(0)
    await expectSilence(all)
    guest.start()
    const { status, data } = await guest.runLong({ type: T.IN, sector: 4, in: 512 })
    expect([status, Buffer.compare(data, content.subarray(2048, 2560))]).toEqual([OK, 0])
    await disk.close()
  })

  it("ST-02 two reads of the new life find the same data, whether or not a write of the old life was done", async () => {
    const all = await world()
    const { guest, source, disk } = all
    source.isStalled = true
    guest.publish([guest.chain(guest.place({ type: T.OUT, sector: 101, out: new Uint8Array(512).fill(9) }).pieces)])
    guest.kick()
    guest.status = 0
    guest.start()
    source.resume()
    const first = await guest.runLong({ type: T.IN, sector: 101, in: 512 })
    await answered(source)
    const second = await guest.runLong({ type: T.IN, sector: 101, in: 512 })
    expect([first.status, second.status]).toEqual([OK, OK])
    expect(Buffer.compare(first.data, second.data)).toBe(0)
    await disk.close()
  })

  it("ST-03 after an unplug while pages load RAM stays as it is, and the image closes", async () => {
    const all = await world()
    const { guest, source, disk } = all
    source.isStalled = true
    submit(all, 30)
    guest.machine.detachDisk(guest.disk.slot)
    await expectSilence(all)
    await disk.close()
    expect(source.isClosed).toBe(true)
  })

  it("requests that wait fail when the image is closed, later ones fail too, and the queue goes on", async () => {
    const all = await world()
    const { guest, source, disk } = all
    source.isStalled = true
    const placed = submit(all, 30)
    const closed = disk.close()
    await guest.served()
    const statuses = placed.map(({ status }) => guest.machine.ram[status])
    expect(statuses.every((status) => status === OK || status === IOERR)).toBe(true)
    expect(statuses.filter((status) => status === IOERR).length).toBeGreaterThan(0)
    expect((await guest.runLong({ type: T.IN, sector: 0, in: 512 })).status).toBe(IOERR)
    source.resume()
    await closed
    expect(source.isClosed).toBe(true)
  })

  it("BLK-15 when the source fails for good, requests that need it and flushes fail, and cached pages are served", async () => {
    const all = await world()
    const { guest, source, disk } = all
    expect((await guest.runLong({ type: T.IN, sector: 0, in: 512 })).status).toBe(OK)
    source.failing = () => new Error("gone")
    expect((await guest.runLong({ type: T.IN, sector: 0, in: 512 })).status).toBe(OK)
    expect((await guest.runLong({ type: T.IN, sector: 300, in: 512 })).status).toBe(IOERR)
    expect((await guest.runLong({ type: T.OUT, sector: 0, out: new Uint8Array(512) })).status).toBe(OK)
    expect((await guest.runLong({ type: T.FLUSH })).status).toBe(IOERR)
    expect((await guest.runLong({ type: T.FLUSH })).status).toBe(IOERR)
    await expect(disk.close()).rejects.toMatchObject({ code: "io" })
  })
})
