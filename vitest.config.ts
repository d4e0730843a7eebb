/**
 * The test suite: seconds for each file, within two minutes on two cores in all. Longer work has scripts of its own (see CONTRIBUTING.md).
 */
import { availableParallelism } from "node:os"
import { defineConfig } from "vitest/config"

/** Tests that replace a module of Node, or count what the process holds: each gets a process of its own. */
const ALONE = ["test/backing/host/host-file.test.ts", "test/turns.test.ts"]
/**
 * What takes longer, `npm run test:long`: cut-off and damaged images, hostile peers, locks between processes, other people's programs,
 * every call of a backing turned against the device, state saved at every point of a run, many requests, what
 * becomes of failed ones, whole processes.
 */
const LONG = [
  "test/crash/**/*.test.ts", "test/fuzz/**/*.test.ts", "test/interop/**/*.test.ts", "test/golden/**/*.test.ts",
  "test/backing/host/image-lock.test.ts",
  "test/backing/paging/random.test.ts", "test/virtio/blk/calls-back.test.ts", "test/virtio/every-point.test.ts", "test/virtio/many.test.ts",
  "test/virtio/looks.test.ts", "test/virtio/blk/slices.test.ts", "test/vmm/random-disk.test.ts", "test/backing/nbd/reconnect.test.ts",
  "test/backing/nbd/server/load.test.ts", "test/vmm/cli/serve.test.ts", "test/backing/decompression/zstd.test.ts",
  "test/backing/qcow2/not-loaded.test.ts", "test/backing/paging/failures.test.ts", "test/backing/paging/memory.test.ts",
  "test/backing/host/zeroing.test.ts", "test/virtio/**/*fuzz*.test.ts", "test/backing/qcow2/bounded.test.ts",
  "test/backing/create.test.ts", "test/contract/awaited.test.ts", "test/virtio/blk/errors/error-policy.test.ts", "test/vmm/cli/run.test.ts",
  "test/vmm/cli/signals.test.ts",
  "test/backing/operations/amend-image.test.ts", "test/vmm/cli/encryption.test.ts",
  "test/virtio/saved-image.test.ts", "test/vmm/mirror.test.ts", "test/backing/luks/key-slots.test.ts",
  "test/virtio/queue/queue-thread.test.ts", "test/virtio/blk/replaced-memory.test.ts", "test/backing/qcow2/snapshots/failures.test.ts",
  "test/backing/qcow2/snapshots/table.test.ts", "test/backing/qcow2/faults.test.ts", "test/backing/qcow2/model.test.ts",
  "test/backing/qcow2/check/repair.test.ts", "test/backing/qcow2/check/long-snapshot-tables.test.ts",
  "test/backing/operations/by-path.test.ts", "test/backing/operations/snapshots-kept.test.ts",
  "test/backing/operations/convert-image.test.ts", "test/backing/operations/read-ahead.test.ts",
  "test/backing/operations/convert.test.ts", "test/vmm/transports.test.ts", "test/vmm/cli/commands.test.ts",
  "test/virtio/blk/throttling/throttled-disk.test.ts", "test/virtio/suspend.test.ts", "test/backing/create-disk.test.ts",
  "test/virtio/mmio/legacy.test.ts", "test/virtio/queue/in-order.test.ts", "test/virtio/blk/ranges.test.ts", "test/virtio/written.test.ts",
  "test/virtio/blk/merging.test.ts", "test/vmm/v86/saved-state.test.ts", "test/readme.test.ts",
  "test/contract/backings.test.ts", "test/virtio/blk/segments.test.ts", "test/backing/qcow2/check/check.test.ts", "test/virtio/blk/async.test.ts",
  "test/backing/luks/page-cryptography.test.ts", "test/vmm/driver/block/machine-disk.test.ts", "test/virtio/blk/zones.test.ts",
  "test/backing/zoned/zoned-disk.test.ts", "test/vmm/v86/attach.test.ts", "test/virtio/blk/observation/observation.test.ts",
  "test/backing/operations/rebase.test.ts", "test/backing/sources/http/random-hostility.test.ts", "test/backing/paging/flow.test.ts",
  "test/virtio/blk/throttling/throttle.test.ts", "test/backing/qcow2/data-file.test.ts",
]

export default defineConfig({
  test: {
    // A virtqueue test that hangs is a defect of its own kind: let it fail, not stall the run.
    testTimeout: 30_000,
    pool: "forks",
    // vitest leaves a core free; on two cores that is half of them.
    maxWorkers: availableParallelism(),
    projects: [
      // Files share their processes, and with them the modules that are loaded and compiled already: a quarter less time in all.
      { extends: true, test: { name: "unit", include: ["test/**/*.test.ts"], exclude: [...ALONE, ...LONG], isolate: false } },
      { extends: true, test: { name: "alone", include: ALONE } },
      { extends: true, test: { name: "long", include: LONG, isolate: false } },
    ],
  },
})
