/** Random traffic of the guest's driver against a flat copy of the disk. */
import type { BlockDriver } from "../../src/vmm/driver/block/driver.ts"
import type { Rng } from "../support/rng.ts"

/** Sectors of a disk for `exercise`. */
export const SECTORS = 4096

/** Random reads, writes, zeroings and flushes, several at a time on disjoint sectors, against a flat copy of the disk. */
export async function exercise(
  blk: BlockDriver, rng: Rng, rounds: number, model: Uint8Array = new Uint8Array(SECTORS * 512),
): Promise<Uint8Array> {
  for (let round = 0; round < rounds; round++) {
    const checks: Promise<void>[] = []
    blk.batch(() => {
      const base = rng.below(SECTORS - 512)
      for (let part = 0; part < 8; part++) {
        const sector = base + 64 * part + rng.below(32)
        const count = rng.between(1, 32)
        const queue = rng.below(blk.queueCount)
        const range = model.subarray(sector * 512, (sector + count) * 512)
        const kind = rng.below(10)
        if (kind < 4) {
          const data = rng.bytes(count * 512)
          range.set(data)
          checks.push(blk.write(sector, data, { queue }))
        } else if (kind === 4) {
          range.fill(0)
          checks.push(blk.writeZeroes([{ sector, sectors: count }], { queue, unmap: rng.chance(0.5) }))
        } else if (kind === 5) checks.push(blk.flush({ queue }))
        else checks.push(blk.read(sector, count, { queue }).then((data) => expectSame(data, range)))
      }
    })
    await Promise.all(checks)
  }
  expectSame(await blk.read(0, SECTORS), model)
  return model
}

/** @throws Error that says where the two differ */
export function expectSame(actual: Uint8Array, expected: Uint8Array): void {
  if (Buffer.compare(actual, expected) !== 0) {
    throw new Error(`data differ from byte ${actual.findIndex((byte, index) => byte !== expected[index])} of ${expected.length} on`)
  }
}
