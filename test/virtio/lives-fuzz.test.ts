/** A slice of the lives fuzzer; test/fuzz/ring.ts runs more of it. */
import { describe, expect, it } from "vitest"
import { LivesFuzzer } from "../fuzz/lives/lives.ts"
import { Rng, seedFromEnvironment } from "../support/rng.ts"

describe("resets of every kind and changes of the disk while requests are in flight", () => {
  it("ST-02 ST-03 ST-04 VQ-32 PCI-23 PCI-24 PCI-36 leave no old byte in RAM, no old write over a newer one, no lost request", async () => {
    const seed = seedFromEnvironment(20261126)
    const counts = new Map<string, number>()
    for (let life = 0; life < 8; life++) {
      const fuzzer = new LivesFuzzer(new Rng(seed + life))
      await fuzzer.run().catch((error: unknown) => {
        throw new Error(`life ${life} of seed ${seed}: ${String(error)}`, { cause: error })
      })
      for (const [name, count] of fuzzer.counts) counts.set(name, (counts.get(name) ?? 0) + count)
    }
    const kinds = [
      "send", "answer", "device reset", "machine reset", "queue reset", "bus mastering", "broken ring", "memory grows", "pause and resume",
      "save and restore", "time passes", "resume", "limits change", "move", "another disk", "another disk at once", "read-only switch",
      "another size", "unplug and plug", "suspend and resume",
    ]
    for (const kind of kinds) expect([kind, (counts.get(kind) ?? 0) > 1]).toEqual([kind, true])
  })
})
