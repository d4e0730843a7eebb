/** Some thousand hostile accesses to a PCI function; `test/fuzz/ring.ts` does as many as one likes. */
import { expect, it } from "vitest"
import { Rng, seedFromEnvironment } from "../../support/rng.ts"
import { PciRegisterFuzzer } from "./registers.ts"

it("PCI-24 PCI-36 PCI-37 a random access to configuration space, BARs, the window or MSI-X changes nothing else", async () => {
  const seed = seedFromEnvironment(20261126)
  const seen = new Set<string>()
  for (let round = 0; round < 12; round++) {
    const fuzzer = new PciRegisterFuzzer(new Rng(seed + round))
    await fuzzer.run(300).catch((error: unknown) => {
      throw new Error(`function ${round} of seed ${seed}: ${String(error)}`, { cause: error })
    })
    for (const name of fuzzer.counts.keys()) seen.add(name)
  }
  expect(seen.size).toBe(11)
})
