/**
 * A qcow2 image in a file that is full again and again, at any write of data or metadata: the disk stops each time, goes on when there is
 * room, and ends as if there had always been some.
 */
import { expect, it } from "vitest"
import {
  BlockDriver, checkImage, createQcow2, type DiskStop, findBlockDevices, Machine, MemoryFile, openDisk, type VirtioBacking,
} from "../../../../src/index.ts"
import { FailingFile } from "../../../support/failing-file.ts"
import { Rng, seedFromEnvironment } from "../../../support/rng.ts"

const SIZE = 4 << 20
const SECTOR = 512

/** Its content can be looked at when the image is closed. */
class LastingFile extends FailingFile {
  override close(): void {}
}

interface FullDisk {
  readonly file: MemoryFile
  readonly failing: FailingFile
  readonly disk: BlockDriver
  readonly backing: VirtioBacking
  readonly stops: DiskStop[]
}

async function fullDisk(rng: Rng): Promise<FullDisk> {
  const file = new MemoryFile({ path: "full.qcow2" })
  createQcow2(file, { size: SIZE, clusterSize: 4096 })
  const failing = new LastingFile(file)
  /** There is room for a few more writes. */
  const makeRoom = (): void => {
    failing.calls = 0
    failing.plan = {
      at: rng.between(1, 12),
      code: "no-space",
      calls: ["write", "truncate"],
      duration: "for-good",
      partial: rng.pick([0, 0.5]),
    }
  }
  const backing = await openDisk(failing)
  const vm = new Machine({ ramSize: 16 << 20 })
  const stops: DiskStop[] = []
  const { device } = vm.attachDisk(backing, {
    writeErrors: "enospc",
    onStop: (stop) => {
      stops.push(stop)
      makeRoom()
      device.resume()
    },
  })
  const [pci] = findBlockDevices(vm)
  if (pci === undefined) throw new Error("the machine has no disk")
  const disk = await BlockDriver.open(pci)
  makeRoom()
  return { file, failing, disk, backing, stops }
}

it("with enospc a guest that writes, zeroes and flushes does not notice that the file is full every few writes", async () => {
  const seed = seedFromEnvironment(20261129)
  const rng = new Rng(seed)
  const { file, failing, disk, backing, stops } = await fullDisk(rng)
  const expected = new Uint8Array(SIZE)
  for (let round = 0; round < 120; round++) {
    const sector = rng.below(SIZE / SECTOR - 64)
    const count = rng.between(1, 64)
    const bytes = expected.subarray(sector * SECTOR, (sector + count) * SECTOR)
    switch (rng.below(8)) {
      case 0:
        await disk.flush()
        break
      case 1:
        bytes.fill(0)
        await disk.writeZeroes([{ sector, sectors: count }])
        break
      default:
        bytes.set(rng.bytes(bytes.length))
        await disk.write(sector, bytes)
    }
  }
  await disk.flush()
  expect(Buffer.compare(await disk.read(0, SIZE / SECTOR), expected), `seed ${seed}`).toBe(0)
  expect(stops.length).toBeGreaterThan(20)
  expect(stops.map(({ kind }) => kind)).toEqual(expect.arrayContaining(["write", "flush"]))
  await disk.close()
  failing.plan = undefined
  await backing.close()
  const { corruptions, leaks } = checkImage(file)
  expect({ corruptions, leaks }, `seed ${seed}`).toEqual({ corruptions: 0, leaks: 0 })
})
