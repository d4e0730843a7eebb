/** Some thousand hostile accesses to the registers of a device over MMIO; `test/fuzz/ring.ts` does as many as one likes. */
import { expect, it } from "vitest"
import { Rng } from "../../support/rng.ts"
import { MmioRegisterFuzzer } from "./registers.ts"

const SEED = Number(process.env["SEED"] ?? 1)

it.each([1, 2] as const)(`MMIO-12 MMIO-15 MMIO-19 hostile accesses to version %i do no harm, seed ${SEED}`, async (version) => {
  const seen = new Set<string>()
  for (let round = 0; round < 6; round++) {
    const fuzzer = new MmioRegisterFuzzer(new Rng(SEED + round), version)
    await fuzzer.run(300)
    for (const name of fuzzer.counts.keys()) seen.add(name)
  }
  expect(seen.size).toBe(6)
})
