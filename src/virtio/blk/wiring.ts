/** BlkWiring: the parts of a block device, for each other. */
import type { VirtioDevice } from "../device.ts"
import type { CacheMode } from "./cache-mode.ts"
import type { Completion } from "./completion.ts"
import type { ErrorPolicy } from "./errors/error-policy.ts"
import type { Executor } from "./executor.ts"
import type { Failures } from "./errors/failures.ts"
import type { Observation } from "./observation/observation.ts"
import type { BlkStatistics } from "./statistics.ts"
import type { ZonedConfig } from "./zoned/config.ts"

/** The parts of a block device that serve its requests. */
export interface BlkWiring {
  readonly device: VirtioDevice
  readonly executor: Executor
  readonly completion: Completion
  readonly cacheMode: CacheMode
  readonly zoned: ZonedConfig
  readonly failures: Failures
  readonly errors: ErrorPolicy
  readonly statistics: BlkStatistics
  /** Undefined if nobody observes requests. */
  readonly observation: Observation | undefined
}
