/** Mirror: a guest that never stops writing ends on the other disk, with all that it wrote; a mirror that fails leaves it where it was. */
import { describe, expect, it } from "vitest"
import { BackingError, type VirtioBacking } from "../../src/backing/backing.ts"
import { MemoryBacking } from "../../src/backing/memory.ts"
import { mirrorDisk } from "../../src/backing/operations/mirror/mirror.ts"
import { createQcow2 } from "../../src/backing/qcow2/create.ts"
import { RawBacking } from "../../src/backing/raw.ts"
import { detectZeroes } from "../../src/backing/zeroes/detect-zeroes.ts"
import { BlockDriver, findBlockDevices } from "../../src/vmm/driver/block/driver.ts"
import { Machine } from "../../src/vmm/machine.ts"
import { FlatModel } from "../support/flat-model.ts"
import { openInMemory } from "../support/images.ts"
import { MemoryFile } from "../support/memory-file.ts"
import { Rng, seedFromEnvironment } from "../support/rng.ts"

const SIZE = 12 << 20
const SECTOR = 512
const seed = seedFromEnvironment(801)

const raw = (): VirtioBacking => {
  const file = new MemoryFile()
  file.truncate(SIZE)
  return new RawBacking(file)
}
const newImage = (): MemoryFile => {
  const file = new MemoryFile()
  createQcow2(file, { size: SIZE })
  return file
}
const qcow2 = (): VirtioBacking => openInMemory(newImage())

/** `disk`, with each answer after a turn or two of the event loop; writes reach it at the end of their time, or at the beginning. */
function late(disk: VirtioBacking, rng: Rng): VirtioBacking {
  const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
  const later = async (work: () => unknown): Promise<void> => {
    if (rng.chance(0.5)) await turn()
    work()
    if (rng.chance(0.5)) await turn()
  }
  return {
    size: disk.size, readOnly: false, asynchronous: true,
    pread: (buffer, offset) => later(() => disk.pread(buffer, offset)),
    pwrite: (buffer, offset) => later(() => disk.pwrite(buffer, offset)),
    flush: () => later(() => disk.flush?.()),
    discard: (offset, length) => later(() => disk.discard?.(offset, length)),
    writeZeroes: (offset, length, mayUnmap) => later(() => disk.writeZeroes?.(offset, length, mayUnmap)),
    close: () => disk.close(),
  }
}

/** A machine whose guest writes, zeroes and reads back until it is told to end. */
async function busyGuest(backing: VirtioBacking, rng: Rng) {
  const model = new FlatModel(SIZE)
  for (let piece = 0; piece < 20; piece++) {
    const [offset, data] = [rng.below(SIZE / SECTOR - 200) * SECTOR, rng.bytes(100 * SECTOR)]
    await backing.pwrite(data, offset)
    model.write(data, offset)
  }
  const vm = new Machine({ ramSize: 16 << 20 })
  const { device } = vm.attachDisk(backing)
  const [pci] = findBlockDevices(vm)
  if (pci === undefined) throw new Error("no disk")
  const driver = await BlockDriver.open(pci)
  let isRunning = true
  let requests = 0
  const running = (async () => {
    for (; isRunning; requests++) {
      const sectors = 1 + rng.below(60)
      const sector = rng.below(SIZE / SECTOR - sectors)
      if (rng.chance(0.2)) {
        await driver.writeZeroes([{ sector, sectors }], { unmap: true })
        model.zero(sector * SECTOR, sectors * SECTOR)
      } else if (rng.chance(0.2)) {
        expect(model.firstDifference(await driver.read(sector, sectors), sector * SECTOR)).toBe(-1)
      } else {
        const data = rng.bytes(sectors * SECTOR)
        await driver.write(sector, data)
        model.write(data, sector * SECTOR)
      }
      await new Promise((resolve) => setImmediate(resolve))
    }
  })()
  const end = async (): Promise<number> => {
    isRunning = false
    await running
    return requests
  }
  return { device, model, end, requests: () => requests }
}

describe(`a mirror under a guest that writes (seed ${seed})`, () => {
  const disks: readonly (readonly [string, (rng: Rng) => VirtioBacking, (rng: Rng) => VirtioBacking])[] = [
    ["raw to qcow2", raw, qcow2],
    ["qcow2 to memory", qcow2, () => new MemoryBacking({ size: SIZE })],
    ["late to late", (rng) => late(raw(), rng), (rng) => late(raw(), rng)],
    ["late to qcow2", (rng) => late(raw(), rng), qcow2],
  ]
  for (const [name, source, target] of disks) {
    it(`${name}: the target gets all data, and the guest goes on there`, async () => {
      const rng = new Rng(seed)
      const [from, to] = [source(rng), target(rng)]
      // Whatever is there before must not show.
      await to.pwrite(rng.bytes(SIZE), 0)
      const guest = await busyGuest(from, rng)
      let total = 0
      await mirrorDisk(guest.device, to, { progress: (_, all) => void (total = all) })
      expect(guest.device.backing).toBe(to)
      const during = guest.requests()
      const old = new Uint8Array(SIZE)
      await from.pread(old, 0)
      await new Promise((resolve) => setTimeout(resolve, 30))
      expect(await guest.end()).toBeGreaterThan(during)
      expect(total).toBeGreaterThanOrEqual(SIZE)
      const [now, left] = [new Uint8Array(SIZE), new Uint8Array(SIZE)]
      await to.pread(now, 0)
      await from.pread(left, 0)
      expect(guest.model.firstDifference(now, 0)).toBe(-1)
      // The old disk is not written any more.
      expect(Buffer.compare(left, old)).toBe(0)
    })
  }

  it("leaves the guest on the old disk after a stop, with a failing target or with an unsuitable one", async () => {
    const rng = new Rng(seed + 1)
    const from = late(raw(), rng)
    const guest = await busyGuest(from, rng)
    const reason = new Error("enough")
    const stop = new AbortController()
    await expect(mirrorDisk(guest.device, raw(), { signal: stop.signal, progress: () => stop.abort(reason) })).rejects.toBe(reason)
    expect(guest.device.backing).toBe(from)
    let writes = 0
    const full = raw()
    const failing: VirtioBacking = Object.assign(late(full, rng), {
      pwrite: (buffer: Uint8Array, offset: number) => {
        if (++writes > 3) throw new BackingError("no-space", "the host is full")
        return full.pwrite(buffer, offset)
      },
    })
    await expect(mirrorDisk(guest.device, failing)).rejects.toThrow("the host is full")
    expect(guest.device.backing).toBe(from)
    await expect(mirrorDisk(guest.device, new MemoryBacking({ size: SIZE + SECTOR }))).rejects.toThrow(/same number of sectors/)
    const { discard: _, ...less } = late(raw(), rng)
    await expect(mirrorDisk(guest.device, less)).rejects.toThrow(/has no discard/)
    await expect(mirrorDisk(guest.device, new RawBacking(new MemoryFile({ readOnly: true })))).rejects.toThrow(/read-only/)
    await expect(mirrorDisk(guest.device, { size: 3 } as never)).rejects.toThrow(TypeError)
    await guest.end()
    const content = new Uint8Array(SIZE)
    await from.pread(content, 0)
    expect(guest.model.firstDifference(content, 0)).toBe(-1)
  })

  it("puts the whole content of a snapshot that is applied meanwhile on the target", async () => {
    const rng = new Rng(seed + 3)
    const image = openInMemory(newImage())
    const before = rng.bytes(SIZE)
    image.pwrite(before, 0)
    image.snapshots.create({ name: "before" })
    image.pwrite(rng.bytes(SIZE), 0)
    const { device } = new Machine({ ramSize: 16 << 20 }).attachDisk(image)
    const target = new MemoryBacking({ size: SIZE })
    let change: Promise<void> | undefined
    const progress = (done: number): void => {
      if (done > SIZE / 2) change ??= device.changeContent(() => image.snapshots.apply("before"))
    }
    await mirrorDisk(device, target, { progress })
    await change
    const found = new Uint8Array(SIZE)
    target.pread(found, 0)
    expect(Buffer.compare(found, before)).toBe(0)
  })

  it("puts the whole content of a snapshot that is applied during the switch on the target", async () => {
    const image = openInMemory(newImage())
    const before = new Rng(seed + 4).bytes(SIZE)
    image.pwrite(before, 0)
    image.snapshots.create({ name: "before" })
    image.pwrite(new Rng(seed + 5).bytes(SIZE), 0)
    // The image is found behind it.
    const { device } = new Machine({ ramSize: 16 << 20 }).attachDisk(detectZeroes(image, "on"))
    const target = new MemoryBacking({ size: SIZE })
    let change: Promise<void> | undefined
    const flushing: VirtioBacking = {
      size: SIZE, readOnly: false, close: () => undefined, pread: target.pread.bind(target), pwrite: target.pwrite.bind(target),
      discard: target.discard.bind(target), writeZeroes: target.writeZeroes.bind(target),
      flush: () => void (change ??= device.changeContent(() => image.snapshots.apply("before"))),
    }
    await mirrorDisk(device, flushing)
    await change
    expect(device.backing).toBe(flushing)
    const found = new Uint8Array(SIZE)
    target.pread(found, 0)
    expect(Buffer.compare(found, before)).toBe(0)
  })

  it("leaves the guest on a disk whose size changes meanwhile, and gives the reason", async () => {
    const image = openInMemory(newImage())
    image.pwrite(new Rng(seed + 6).bytes(SIZE), 0)
    const { device } = new Machine({ ramSize: 16 << 20 }).attachDisk(image)
    const progress = (): void => image.resize(SIZE / 4, { shrink: true })
    await expect(
      mirrorDisk(device, new MemoryBacking({ size: SIZE }), { progress }),
    ).rejects.toThrow(/both need the same number of sectors/)
    expect(device.backing).toBe(image)
  })

  it("leaves the guest on another disk that takes over meanwhile", async () => {
    const rng = new Rng(seed + 2)
    const [from, other] = [raw(), raw()]
    const vm = new Machine({ ramSize: 16 << 20 })
    const { device } = vm.attachDisk(from)
    let change: Promise<void> | undefined
    const progress = (): void => void (change ??= device.changeBacking(other))
    await from.pwrite(rng.bytes(SECTOR), 0)
    await expect(mirrorDisk(device, raw(), { progress })).rejects.toThrow(/got another disk meanwhile/)
    await change
    expect(device.backing).toBe(other)
  })

  it("writes no zeroes to a target that is stated as zero", async () => {
    const sparse = qcow2()
    const vm = new Machine({ ramSize: 16 << 20 })
    const { device } = vm.attachDisk(qcow2WithData(new Rng(seed)))
    let zeroed = 0
    const target = Object.assign(Object.create(null), late(sparse, new Rng(1)), { writeZeroes: () => void zeroed++ }) as VirtioBacking
    await mirrorDisk(device, target, { targetIsZero: true })
    expect(zeroed).toBe(0)
    const content = new Uint8Array(SIZE)
    await sparse.pread(content, 0)
    const expected = new Uint8Array(SIZE)
    await qcow2WithData(new Rng(seed)).pread(expected, 0)
    expect(Buffer.compare(content, expected)).toBe(0)
  })
})

function qcow2WithData(rng: Rng): VirtioBacking {
  const disk = qcow2()
  disk.pwrite(rng.bytes(100_000), 300_000)
  return disk
}
