/** A saved state belongs to an image, and to what was in it: another one, or one that has been changed since, is refused by name. */
import { copyFileSync, mkdtempSync, renameSync, rmSync, utimesSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, describe, expect, it } from "vitest"
import type { DiskVersion, VirtioBacking } from "../../src/backing/backing.ts"
import { createImage } from "../../src/backing/create.ts"
import { MemoryBacking } from "../../src/backing/memory.ts"
import { openDisk } from "../../src/backing/open-disk-on-node.ts"
import { openImage } from "../../src/backing/open.ts"
import { HostFile } from "../../src/backing/host/host-file.ts"
import { blobFile } from "../../src/backing/sources/blob-file.ts"
import { Throttle } from "../../src/virtio/blk/throttling/throttle.ts"
import { BlockDriver, findBlockDevices } from "../../src/vmm/driver/block/driver.ts"
import { type AttachedDisk, Machine } from "../../src/vmm/machine.ts"
import { eio, FakeDisk, settled } from "../harness/fake-disk.ts"
import { RingGuest } from "../harness/guest.ts"
import { pattern } from "../harness/requests.ts"
import { ManualClock } from "./blk/throttling/manual-clock.ts"
import { F, IOERR, OK, T, UNTOUCHED } from "../harness/words.ts"

const SIZE = 1 << 20
let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "vioblk-state-"))
})
afterEach(() => rmSync(folder, { recursive: true }))

const path = (name: string): string => join(folder, name)

function attach(backing: VirtioBacking): { readonly vm: Machine; readonly disk: AttachedDisk } {
  const vm = new Machine({ ramSize: 1 << 20 })
  return { vm, disk: vm.attachDisk(backing) }
}

/** A state of a disk at work over the image, which is closed afterwards. */
async function stateOver(open: () => VirtioBacking): Promise<unknown> {
  const backing = open()
  const { vm, disk } = attach(backing)
  const [found] = findBlockDevices(vm)
  if (found === undefined) throw new Error("the driver finds no disk")
  const driver = await BlockDriver.open(found)
  await driver.write(3, pattern(1, 8))
  await disk.device.pause()
  await backing.flush?.()
  const text = JSON.stringify(disk.function.saveState())
  await backing.close()
  return JSON.parse(text)
}

/** What restoring says. */
function restored(state: unknown, backing: VirtioBacking, options?: { readonly image: "same" | "any" }): string {
  const { disk } = attach(backing)
  try {
    disk.function.restoreState(state, options)
    return "restored"
  } catch (error) {
    expect([disk.device.virtio.status, disk.function.command]).toEqual([0, 0])
    return error instanceof Error ? error.message : String(error)
  } finally {
    void backing.close()
  }
}

const shapes: readonly (readonly [string, (name: string) => void])[] = [
  ["raw", (name) => createImage(path(name), { size: SIZE, format: "raw" })],
  ["qcow2", (name) => createImage(path(name), { size: SIZE })],
  ["an overlay", (name) => {
    createImage(path(`base-${name}`), { size: SIZE })
    createImage(path(name), { size: SIZE, backing: `base-${name}`, backingFormat: "qcow2" })
  }],
]

describe.each(shapes)("over a file of the host: %s", (shape, create) => {
  const format = shape === "raw" ? "raw" : "qcow2"
  const open = (name = "disk", readOnly = false) => openImage(path(name), { format, readOnly })

  it("the unchanged image is accepted, also after it was moved", async () => {
    create("disk")
    const state = await stateOver(open)
    expect(restored(state, open())).toBe("restored")
    renameSync(path("disk"), path("moved"))
    expect(restored(state, open("moved"))).toBe("restored")
  })

  it("a changed image is refused, however small the change, unless the caller sets image to any", async () => {
    create("disk")
    const state = await stateOver(open)
    const image = open()
    image.pwrite(new Uint8Array(512), 3 * 512)
    image.close()
    expect(restored(state, open())).toMatch(/^saved state: the image ".*" has been changed since \(it was ".*", it is ".*"\); a state goes/)
    expect(restored(state, open(), { image: "any" })).toBe("restored")
  })

  it("another image is refused, even a copy, and so is a disk without a version", async () => {
    create("disk")
    const state = await stateOver(open)
    copyFileSync(path("disk"), path("copy"))
    expect(restored(state, open("copy"))).toMatch(/^saved state: it is of another image: of ".*", not of ".*"; a state goes with the disk/)
    expect(restored(state, open("copy"), { image: "any" })).toBe("restored")
    expect(restored(state, new MemoryBacking({ size: SIZE }))).toMatch(/^saved state: it is of another image: of ".*", not of this disk;/)
  })
})

it("a changed base counts as a change of its overlay", async () => {
  createImage(path("base"), { size: SIZE, format: "raw" })
  createImage(path("disk"), { size: SIZE, backing: "base", backingFormat: "raw" })
  const open = () => openImage(path("disk"), { format: "qcow2" })
  const state = await stateOver(open)
  writeFileSync(path("base"), new Uint8Array(SIZE).fill(1))
  utimesSync(path("base"), 1, 1)
  expect(restored(state, open())).toMatch(/has been changed since/)
})

it("the same file in another format counts as another image", async () => {
  createImage(path("disk"), { size: SIZE })
  const state = await stateOver(() => openImage(path("disk"), { format: "qcow2" }))
  expect(restored(state, openImage(path("disk"), { format: "raw" }))).toMatch(
    /^saved state: it is of another image: of "qcow2 .*", not of "raw/,
  )
})

it("files that answer later have the version of their source", async () => {
  writeFileSync(path("disk"), new Uint8Array(SIZE))
  const late = await openDisk(blobFile(new File([new Uint8Array(SIZE)], "disk.raw", { lastModified: 7 })), { format: "raw" })
  expect(late.version?.()).toEqual({ image: "raw file disk.raw", generation: `${SIZE}:7` })
  const file = new HostFile(path("disk"))
  const host: VirtioBacking = await openDisk(file, { format: "raw" })
  expect(host.version?.()?.image).toBe(`raw ${file.identity}`)
  await Promise.all([late.close(), host.close()])
})

describe("a disk of the embedder's own", () => {
  const disk = (version: DiskVersion | undefined): VirtioBacking => Object.assign(new FakeDisk(), { version: () => version })

  it("without a generation is compared by its image only, and without a version not at all", async () => {
    const state = await stateOver(() => disk({ image: "lun 7" }))
    expect(restored(state, disk({ image: "lun 7" }))).toBe("restored")
    expect(restored(state, disk({ image: "lun 8" }))).toMatch(/^saved state: it is of another image: of "lun 7", not of "lun 8"; /)
    expect(restored(await stateOver(() => disk(undefined)), disk({ image: "lun 8", generation: "1" }))).toBe("restored")
  })

  it.each([
    [{ version: 7, readOnly: false }, /^saved state: version of the image: not an object$/],
    [{ version: { image: 7 } }, /^saved state: version of the image: not texts$/],
    ["x", /^saved state: disk: not an object$/],
  ])("is refused with a state that has %j", async (own, message) => {
    const state = (await stateOver(() => disk({ image: "lun 7" }))) as { device: { own: unknown } }
    state.device.own = own
    expect(restored(state, disk({ image: "lun 7" }))).toMatch(message)
  })

  it("is refused with unknown options", async () => {
    const state = await stateOver(() => disk(undefined))
    expect(restored(state, disk(undefined), { image: "copy" } as never)).toMatch(
      /restoreState: image must be "same" or "any", not the string "copy"/,
    )
  })
})

it("the levels of a throttle are restored with a disk that has one", () => {
  const clock = new ManualClock()
  const throttle = new Throttle({ requests: 10, writeBytes: { perSecond: 4096, burst: 8192 } }, { clock })
  const guest = new RingGuest({ backing: new FakeDisk(), disk: { throttle } })
  guest.write(1, pattern(1, 3))
  clock.runTo(10)
  const text = JSON.stringify(guest.disk.function.saveState())
  const levels = throttle.saveState()
  expect(Object.values(levels).flat().every((level) => level > 0.2)).toBe(true)
  const other = new Throttle(throttle.limits, { clock: new ManualClock() })
  const { slot } = guest.disk
  guest.machine.detachDisk(slot)
  guest.machine.attachDisk(new FakeDisk(), { slot, throttle: other }).function.restoreState(JSON.parse(text))
  expect(other.saveState()).toEqual(levels)
  guest.machine.detachDisk(slot)
  guest.machine.attachDisk(new FakeDisk(), { slot }).function.restoreState(JSON.parse(text))
})

it("a driver from before setReadOnly keeps its negotiated features after a restore, also on the same device", async () => {
  const guest = new RingGuest({ backing: new FakeDisk() })
  await guest.disk.device.setReadOnly(true)
  const state = JSON.stringify(guest.disk.function.saveState())
  guest.disk.function.restoreState(JSON.parse(state))
  expect(JSON.stringify(guest.disk.function.saveState())).toBe(state)
  guest.disk.device.resume()
  expect([guest.disk.device.readOnly, guest.write(1, pattern(1, 1)).status, guest.read(1, 1).status]).toEqual([true, IOERR, OK])
  expect(() => guest.disk.function.restoreState({ ...JSON.parse(state), isr: 9 })).toThrow(/ISR/)
  expect([guest.disk.device.readOnly, guest.disk.device.virtio.negotiation.offered & 0x20n]).toEqual([true, 0x20n])
})

it("the setting of setReadOnly is restored with the disk", async () => {
  const guest = new RingGuest({ backing: new FakeDisk() })
  await guest.disk.device.setReadOnly(true)
  const state = guest.disk.function.saveState()
  const { slot } = guest.disk
  guest.machine.detachDisk(slot)
  const again = guest.machine.attachDisk(new FakeDisk(), { slot })
  again.function.restoreState(state)
  again.device.resume()
  expect([again.device.readOnly, guest.write(1, pattern(1, 1)).status]).toEqual([true, IOERR])
  guest.status = 0
  expect(guest.offers(F.RO)).toBe(true)
})

describe('saveState({ inFlight: "again" })', () => {
  it("saves unanswered requests as not done; they go on here, and are repeated where the state is restored", async () => {
    const disk = new FakeDisk()
    disk.cache.set(pattern(0, 64))
    disk.waits = () => true
    const guest = new RingGuest({ backing: disk })
    const placed = [
      guest.place({ type: T.IN, sector: 3, in: 512 }), guest.place({ type: T.OUT, sector: 9, out: pattern(5, 1) }),
      guest.place({ type: T.IN, sector: 30, in: 1024 }),
    ]
    guest.publish(placed.map(({ pieces }) => guest.chain(pieces)))
    guest.kick()
    await disk.finishNext()
    expect(placed.map((one) => guest.reply(one, 0).status)).toEqual([OK, UNTOUCHED, UNTOUCHED])
    const state = JSON.parse(JSON.stringify(guest.disk.function.saveState({ inFlight: "again" }))) as unknown
    const ram = guest.machine.ram.slice()

    const vm = new Machine({ memory: ram.slice() })
    const there = new FakeDisk()
    there.cache.set(pattern(1000, 64))
    const again = vm.attachDisk(there, { slot: guest.disk.slot })
    again.function.restoreState(state)
    again.device.resume()
    expect(placed.map(({ status }) => vm.ram[status])).toEqual([OK, OK, OK])
    const [first, , third] = placed
    if (first === undefined || third === undefined) throw new Error("unreachable")
    expect(vm.ram.slice(first.in, first.in + 512)).toEqual(pattern(3, 1))
    expect(vm.ram.slice(third.in, third.in + 1024)).toEqual(pattern(1030, 2))
    expect(there.cache.subarray(9 * 512, 10 * 512)).toEqual(pattern(5, 1))

    for (const waiting of disk.waiting.splice(0)) waiting.call.name === "read" ? waiting.fail(eio()) : waiting.finish()
    await settled()
    expect(placed.map((one) => guest.reply(one, 0).status)).toEqual([OK, OK, IOERR])
  })
})
