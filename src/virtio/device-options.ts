/** The options of a VirtioDevice, which its device type passes. */
import type { ConfigField } from "./device-config.ts"
import { VIRTQ_MAX_SIZE } from "./spec.ts"

/** A device type: its number, its queues, its configuration space and its features. */
export interface VirtioDeviceOptions {
  /** [VIRTIO] 5: the device type's number. */
  readonly deviceType: number
  readonly queues: number
  /** Largest, and initial, number of descriptors of each queue: a power of two up to 32768. */
  readonly queueSize: number
  /** Bytes of the device configuration space. */
  readonly configSize: number
  /** Its fields of more than one byte, for legacy guests that are big-endian. Default: none. */
  readonly configFields?: readonly ConfigField[]
  /** Feature bits of the device type. */
  readonly features: bigint
  /** Those of `features` that a driver must accept: FEATURES_OK is refused without them. Default: none. */
  readonly requiredFeatures?: bigint
  /** Those of `features` that legacy drivers do not see. Default: none. */
  readonly modernFeatures?: bigint
  /** Feature bits not to offer, of the device type or of the ring. VERSION_1 cannot be left out. */
  readonly withoutFeatures: bigint
}

/** @throws RangeError for a wrong number of queues, or a wrong size */
export function checkQueues({ queues, queueSize }: VirtioDeviceOptions): void {
  if (!Number.isInteger(queues) || queues < 1 || queues > 65535) throw new RangeError(`queues: ${queues} is not a number from 1 to 65535`)
  if (!Number.isInteger(queueSize) || queueSize < 1 || queueSize > VIRTQ_MAX_SIZE || (queueSize & (queueSize - 1)) !== 0) {
    throw new RangeError(`queueSize: ${queueSize} is not a power of two from 1 to ${VIRTQ_MAX_SIZE}`)
  }
}
