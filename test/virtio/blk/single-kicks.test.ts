/** Kicks that bring one request each, among others: what one queue has done is nothing to the next one. */
import { afterEach, describe, expect, it, vi } from "vitest"
import { MemoryBacking } from "../../../src/backing/memory.ts"
import { Intake } from "../../../src/virtio/blk/usual/intake.ts"
import { settled } from "../../harness/fake-disk.ts"
import { RegionsGuest, RING_BYTES } from "../../harness/regions-guest.ts"
import { header, pattern } from "../../harness/requests.ts"
import type { Piece } from "../../harness/ring.ts"
import { AVAIL, OK, T, UNTOUCHED } from "../../harness/words.ts"

const SECTORS = 2048
const CONTENT = pattern(0, SECTORS)
const LARGEST = 1 << 20
const HIGH = 2 ** 32
const [LOW_SPACE, HIGH_SPACE] = [0, 1] as const

/** A disk in front of RAM below 4 GiB, with the ring of queue 0, and above, with that of queue 1. */
function pair(packed: boolean, options: { readonly shared?: boolean } = {}): { disk: MemoryBacking; guest: RegionsGuest } {
  const disk = new MemoryBacking({ size: 512 * SECTORS })
  disk.pwrite(CONTENT, 0)
  const ram = (bytes: number): Uint8Array => new Uint8Array(options.shared === true ? new SharedArrayBuffer(bytes) : new ArrayBuffer(bytes))
  const spaces = [{ start: 0, ram: ram(2 * LARGEST) }, { start: HIGH, ram: ram(2 * LARGEST) }]
  return { disk, guest: new RegionsGuest({ backing: disk, spaces, queues: [LOW_SPACE, HIGH_SPACE], packed }) }
}

/** A transfer of so many bytes behind the ring in a space: header, data, status. */
function transfer(guest: RegionsGuest, space: number, type: number, sector: number, length: number): Piece[] {
  const { start, ram } = guest.spaces[space] ?? { start: 0, ram: new Uint8Array(0) }
  ram.set(header({ type, sector }), RING_BYTES)
  ram[RING_BYTES + 16] = UNTOUCHED
  return [
    { address: start + RING_BYTES, length: 16, writable: false },
    { address: start + RING_BYTES + 32, length, writable: type === T.IN },
    { address: start + RING_BYTES + 16, length: 1, writable: true },
  ]
}

function statusIn(guest: RegionsGuest, space: number): number | undefined {
  return guest.spaces[space]?.ram[RING_BYTES + 16]
}

function dataIn(guest: RegionsGuest, space: number, length: number): Uint8Array {
  return (guest.spaces[space]?.ram ?? new Uint8Array(0)).slice(RING_BYTES + 32, RING_BYTES + 32 + length)
}

afterEach(() => {
  vi.restoreAllMocks()
})

describe.each([["split", false], ["packed", true]] as const)("a %s ring", (_, packed) => {
  it.each([1, 2])("VQ-08 above 4 GiB is served after a full turn of a ring below: %i requests a kick", async (count) => {
    const { disk, guest } = pair(packed)
    const [low, high] = guest.rings
    guest.run(1, transfer(guest, HIGH_SPACE, T.IN, 7, 512))
    expect([high?.takeUsed(), statusIn(guest, HIGH_SPACE)]).toEqual([[{ id: 0, length: 513 }], OK])
    // Writes: none of them is to be done again.
    const pieces = transfer(guest, LOW_SPACE, T.OUT, 0, LARGEST)
    guest.spaces[LOW_SPACE]?.ram.fill(0x11, RING_BYTES + 32)
    for (let n = 0; n < 16; n++) low?.publish(low.chain(pieces))
    guest.disk.virtio.notify(0)
    await settled()
    expect(low?.takeUsed().length).toBe(16)
    disk.pwrite(CONTENT, 0)
    for (let n = 1; n < count; n++) high?.publish(high.chain(transfer(guest, HIGH_SPACE, T.IN, 9, 512)))
    guest.run(1, transfer(guest, HIGH_SPACE, T.IN, 9, 512))
    await settled()
    expect(high?.takeUsed().map(({ length }) => length)).toEqual(new Array<number>(count).fill(513))
    expect([statusIn(guest, HIGH_SPACE), dataIn(guest, HIGH_SPACE, 512)]).toEqual([OK, pattern(9, 1)])
    const content = new Uint8Array(512 * SECTORS)
    disk.pread(content, 0)
    expect(Buffer.compare(content, CONTENT)).toBe(0)
    expect(guest.disk.statistics).toMatchObject({ read: { requests: 1 + count }, write: { requests: 16 } })
  })
})

it("PK-05 a request that another thread takes back during its kick is not mistaken for an earlier one", () => {
  const { disk, guest } = pair(true, { shared: true })
  const [ring] = guest.rings
  const [header, data, status] = transfer(guest, LOW_SPACE, T.OUT, 3, 512)
  if (header === undefined || data === undefined || status === undefined || ring === undefined) throw new Error("there is no request")
  guest.spaces[LOW_SPACE]?.ram.fill(0x11, RING_BYTES + 32, RING_BYTES + 32 + 1024)
  const half = { ...data, length: 256 }
  const pieces = [header, half, { ...half, address: Number(half.address) + 512 }, status]
  guest.run(0, pieces)
  expect(ring.takeUsed()).toEqual([{ id: 0, length: 1 }])
  disk.pwrite(pattern(3, 1), 3 * 512)
  const flagsAt = ring.desc + 16 * pieces.length + 14
  const flip = (): void => ring.ram.setUint16(flagsAt, ring.ram.getUint16(flagsAt, true) ^ AVAIL, true)
  const { take } = Intake.prototype
  vi.spyOn(Intake.prototype, "take").mockImplementationOnce(function (this: Intake, ...args) {
    flip()
    take.apply(this, args)
  })
  guest.run(0, pieces)
  const content = new Uint8Array(512)
  const isOnDisk = (bytes: Uint8Array): boolean => (disk.pread(content, 3 * 512), Buffer.compare(content, bytes) === 0)
  expect([ring.takeUsed(), isOnDisk(pattern(3, 1)), guest.disk.statistics.write.requests]).toEqual([[], true, 1])
  flip()
  guest.disk.virtio.notify(0)
  expect([ring.takeUsed(), isOnDisk(new Uint8Array(512).fill(0x11))]).toEqual([[{ id: 1, length: 1 }], true])
})
