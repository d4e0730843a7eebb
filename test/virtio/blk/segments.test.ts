/** Requests whose data are in many buffers, as guests with a page cache send them. */
import { describe, expect } from "vitest"
import { it } from "../../harness/both-rings.ts"
import { eio, FakeDisk } from "../../harness/fake-disk.ts"
import { RingGuest } from "../../harness/guest.ts"
import { header, pattern } from "../../harness/requests.ts"
import type { Piece } from "../../harness/ring.ts"
import { F, IOERR, OK, T } from "../../harness/words.ts"

/** A request in the guest's RAM, and its buffers. */
interface Scattered {
  readonly buffers: readonly Piece[]
  readonly status: number
  readonly head: number
}

function pair(without: readonly ("preadv" | "pwritev")[] = []): { disk: FakeDisk; guest: RingGuest } {
  const disk = new FakeDisk({ size: 1 << 20, without })
  disk.cache.set(pattern(0, 2048))
  return { disk, guest: new RingGuest({ backing: disk, features: [F.INDIRECT_DESC, F.FLUSH] }) }
}

/** A request whose data are in buffers of these lengths, apart from each other or one behind the other. A write's content is `out`. */
function place(
  guest: RingGuest, sector: number, lengths: readonly number[], { touching = false, out }: { touching?: boolean; out?: Uint8Array } = {},
): Scattered {
  const [head, status] = [guest.alloc(16), guest.alloc(1)]
  guest.store(head, header({ type: out === undefined ? T.IN : T.OUT, sector }))
  guest.fill(status, 1, 0xff)
  const whole = touching ? guest.alloc(lengths.reduce((sum, length) => sum + length, 0)) : 0
  let done = 0
  const buffers = lengths.map((length) => {
    const address = touching ? whole + done : guest.alloc(length)
    if (out !== undefined) guest.store(address, out.subarray(done, done + length))
    done += length
    return { address, length, writable: out === undefined }
  })
  const pieces = [{ address: head, length: 16, writable: false }, ...buffers, { address: status, length: 1, writable: true }]
  return { buffers, status, head: guest.chain(pieces, { indirect: true }) }
}

/** Makes them available at once, and checks what the used ring says of them. */
function run(guest: RingGuest, requests: readonly Scattered[]): number[] {
  guest.publish(requests.map(({ head }) => head))
  guest.kick()
  expect(guest.takeUsed().map(({ id }) => id)).toEqual(requests.map(({ head }) => head))
  return requests.map(({ status }) => guest.machine.ram[status] ?? -1)
}

function dataOf(guest: RingGuest, { buffers }: Scattered): Uint8Array {
  return Uint8Array.from(buffers.flatMap(({ address, length }) => [...guest.bytes(Number(address), length)]))
}

/** Not `toEqual`, which takes seconds for so many bytes. */
function expectSame(actual: Uint8Array, expected: Uint8Array): void {
  expect([actual.length, Buffer.compare(actual, expected)]).toEqual([expected.length, 0])
}

const calls = (disk: FakeDisk) => disk.log.splice(0).map(({ name, offset, length, buffers }) => [name, offset / 512, length / 512, buffers])
const equal = (count: number, length: number): number[] => new Array<number>(count).fill(length)

describe("requests of several buffers", () => {
  it.each([2, 255, 256, 257, 700])("%i buffers are one call, in their order", (count) => {
    const { disk, guest } = pair()
    const read = place(guest, 5, equal(count, 512))
    const out = pattern(1, count, 9)
    const write = place(guest, 900, equal(count, 512), { out })
    expect(run(guest, [read, write])).toEqual([OK, OK])
    expect(calls(disk)).toEqual([["read", 5, count, count], ["write", 900, count, count]])
    expectSame(dataOf(guest, read), pattern(5, count))
    expectSame(disk.cache.slice(900 * 512, (900 + count) * 512), out)
  })

  it("buffers that touch are joined, whatever their lengths, and others stay apart", () => {
    const { disk, guest } = pair()
    const whole = place(guest, 8, [1, 511, 512, 3, 509, 512], { touching: true })
    const apart = place(guest, 40, [1, 511, 512, 3, 509, 512])
    expect(run(guest, [whole, apart])).toEqual([OK, OK])
    expect(calls(disk)).toEqual([["read", 8, 4, 1], ["read", 40, 4, 6]])
    expect([dataOf(guest, whole), dataOf(guest, apart)]).toEqual([pattern(8, 4), pattern(40, 4)])
  })

  it("every request gets its own data when a kick brings more buffers than fit into one batch", () => {
    const { disk, guest } = pair()
    const requests = Array.from({ length: 13 }, (_, index) => place(guest, 20 * index, equal(256, 4 * (1 + (index % 3)))))
    const sectors = (index: number) => 2 * (1 + (index % 3))
    expect(run(guest, requests)).toEqual(equal(13, OK))
    expect(calls(disk)).toEqual(requests.map((_, index) => ["read", 20 * index, sectors(index), 256]))
    for (const [index, one] of requests.entries()) expectSame(dataOf(guest, one), pattern(20 * index, sectors(index)))
  })

  it("a request that turns out unusual at its last buffer, behind a full batch, gets its own data", () => {
    const { disk, guest } = pair()
    const usual = Array.from({ length: 7 }, (_, index) => place(guest, 20 * index, equal(256, 512)))
    const requests = [...usual, place(guest, 300, equal(255, 512)), place(guest, 1000, [...equal(256, 512), 0])]
    expect(run(guest, requests)).toEqual(equal(9, OK))
    expect(calls(disk).at(-1)).toEqual(["read", 1000, 256, 256])
    requests.forEach((one, index) => {
      expectSame(dataOf(guest, one), index < 7 ? pattern(20 * index, 256) : index === 7 ? pattern(300, 255) : pattern(1000, 256))
    })
  })

  it("a disk without vectored calls gets one call for each buffer", () => {
    const { disk, guest } = pair(["preadv", "pwritev"])
    const out = pattern(1, 2, 9)
    const [read, write, next] = [place(guest, 5, [512, 1024]), place(guest, 900, [512, 512], { out }), place(guest, 8, [512])]
    expect(run(guest, [read, write, next])).toEqual([OK, OK, OK])
    expect(calls(disk)).toEqual([["read", 5, 1, 1], ["read", 6, 2, 1], ["write", 900, 1, 1], ["write", 901, 1, 1], ["read", 8, 1, 1]])
    expect([dataOf(guest, read), dataOf(guest, next)]).toEqual([pattern(5, 3), pattern(8, 1)])
    expect(disk.cache.slice(900 * 512, 902 * 512)).toEqual(out)
  })

  it("a request whose call fails is the only one that fails", () => {
    const { disk, guest } = pair()
    disk.failing = ({ offset }) => (offset === 30 * 512 ? eio() : undefined)
    const requests = [place(guest, 5, [512, 512]), place(guest, 30, [512, 512]), place(guest, 60, [512, 1536])]
    expect(run(guest, requests)).toEqual([OK, IOERR, OK])
    expect([requests[0], requests[2]].map((one) => one && dataOf(guest, one))).toEqual([pattern(5, 2), pattern(60, 4)])
    expect(guest.disk.device.statistics.read).toMatchObject({ requests: 3, bytes: 6 * 512, errors: 1 })
  })

  it("neighbours of several buffers each are merged", () => {
    const { disk, guest } = pair()
    const requests = [place(guest, 5, [512, 512]), place(guest, 7, [256, 256]), place(guest, 8, [512])]
    expect(run(guest, requests)).toEqual([OK, OK, OK])
    expect(calls(disk)).toEqual([["read", 5, 4, 5]])
    expect(requests.map((one) => dataOf(guest, one))).toEqual([pattern(5, 2), pattern(7, 1), pattern(8, 1)])
  })

  it("a promise from a vectored call of a synchronous disk is reported with the method's name", () => {
    const { disk, guest } = pair()
    Object.assign(disk, { preadv: async () => undefined })
    const request = place(guest, 5, [512, 512])
    guest.publish([request.head])
    expect(() => guest.kick()).toThrow("the backing's preadv returned a promise")
    expect(guest.machine.ram[request.status]).toBe(IOERR)
  })
})
