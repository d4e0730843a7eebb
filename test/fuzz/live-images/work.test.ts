/** A slice of the fuzzing of work on images; and that it finds disks that lose what they are told. */
import { describe, expect, it } from "vitest"
import type { VirtioBacking } from "../../../src/backing/backing.ts"
import { seedFromEnvironment } from "../../support/rng.ts"
import { workRound } from "./round.ts"

const seed = seedFromEnvironment(20_261_126)
const ROUNDS = Number(process.env["ROUNDS"] ?? 6)
/** A lie is found within so many rounds. */
const MOST_ROUNDS = 20

/** `disk`, but for what `lie` says of its method `name`. */
function lying(disk: VirtioBacking, name: "pwrite" | "writeZeroes" | "flush", lie: () => undefined): VirtioBacking {
  return new Proxy(disk, {
    get: (target, key) => {
      const value: unknown = Reflect.get(target, key, target)
      return key === name ? lie : typeof value === "function" ? value.bind(target) : value
    },
  })
}

describe(`work on images, seed ${seed}`, () => {
  for (let round = 0; round < ROUNDS; round++) {
    it(
      `seed ${seed + round}: guest and host read back what they wrote`,
      () => workRound({ seed: seed + round, qemu: 0 }).then(() => undefined),
      120_000,
    )
  }

  it.each(["pwrite", "writeZeroes"] as const)("a %s without effect is noticed", async (name) => {
    const rounds = async (): Promise<void> => {
      for (let round = 0; round < MOST_ROUNDS; round++) {
        await workRound({ seed: seed + round, qemu: 0, guest: (disk) => lying(disk, name, () => undefined) })
      }
    }
    await expect(rounds()).rejects.toThrow(/^seed \d+: .*byte \d+/)
  }, 120_000)
})
