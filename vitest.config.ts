import { defineConfig } from "vitest/config"

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    // A virtqueue test that hangs is a defect of its own kind: let it fail, not stall the run.
    testTimeout: 30_000,
    // Long-running work has scripts of its own (see README); the suite stays within two minutes on two cores.
    pool: "forks",
  },
})
