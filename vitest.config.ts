/** The test suite: seconds for each file, within two minutes on two cores in all. Longer work has scripts of its own (see CONTRIBUTING.md). */
import { availableParallelism } from "node:os"
import { defineConfig } from "vitest/config"

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    // A virtqueue test that hangs is a defect of its own kind: let it fail, not stall the run.
    testTimeout: 30_000,
    pool: "forks",
    // vitest leaves a core free; on two cores that is half of them.
    maxWorkers: availableParallelism(),
  },
})
