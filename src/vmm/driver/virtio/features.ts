/**
 * Feature bits by name, and what a driver accepts of what a device offers. [VIRTIO] 2.2, 5.2.3 and 6.
 */
import { checkNames, checkOptions, type Rules } from "../../../options.ts"

/** Bit numbers, by their names in the specification less VIRTIO_F_ and VIRTIO_BLK_F_. */
export const FEATURE_BIT = {
  /** Legacy only. */
  BARRIER: 0,
  SIZE_MAX: 1,
  SEG_MAX: 2,
  GEOMETRY: 4,
  RO: 5,
  BLK_SIZE: 6,
  /** Legacy only. */
  SCSI: 7,
  FLUSH: 9,
  TOPOLOGY: 10,
  CONFIG_WCE: 11,
  MQ: 12,
  DISCARD: 13,
  WRITE_ZEROES: 14,
  LIFETIME: 15,
  SECURE_ERASE: 16,
  ZONED: 17,
  /** Legacy only. */
  NOTIFY_ON_EMPTY: 24,
  /** Legacy only. */
  ANY_LAYOUT: 27,
  INDIRECT_DESC: 28,
  EVENT_IDX: 29,
  VERSION_1: 32,
  ACCESS_PLATFORM: 33,
  RING_PACKED: 34,
  IN_ORDER: 35,
  ORDER_PLATFORM: 36,
  SR_IOV: 37,
  NOTIFICATION_DATA: 38,
  NOTIF_CONFIG_DATA: 39,
  RING_RESET: 40,
  ADMIN_VQ: 41,
  SUSPEND: 43,
} as const

/** The name of a feature bit, as the specification spells it less VIRTIO_F_ and VIRTIO_BLK_F_. */
export type FeatureName = keyof typeof FEATURE_BIT

/** What the block driver here knows how to use through either interface. */
const COMMON_FEATURES = [
  "SIZE_MAX", "SEG_MAX", "GEOMETRY", "RO", "BLK_SIZE", "FLUSH", "TOPOLOGY", "CONFIG_WCE", "MQ", "DISCARD", "WRITE_ZEROES", "LIFETIME",
  "SECURE_ERASE",
  "INDIRECT_DESC", "EVENT_IDX",
] as const satisfies readonly FeatureName[]

/** What a driver may accept: bits not described, reserved, or of another transport are never accepted ([VIRTIO] 2.2.1). */
const KNOWN: Readonly<Record<"modern" | "legacy", readonly FeatureName[]>> = {
  modern: [
    ...COMMON_FEATURES, "ZONED", "VERSION_1", "ACCESS_PLATFORM", "RING_PACKED", "IN_ORDER", "NOTIFICATION_DATA", "NOTIF_CONFIG_DATA",
    "RING_RESET", "SUSPEND",
  ],
  // [VIRTIO] 6.3. BARRIER and SCSI (5.2.3.1) went with the drivers that used them.
  legacy: [...COMMON_FEATURES, "NOTIFY_ON_EMPTY", "ANY_LAYOUT"],
}

/** Accepted only on request: NOTIFY_ON_EMPTY makes the device interrupt although the driver wants no interrupt. */
const NOT_BY_DEFAULT: readonly FeatureName[] = ["NOTIFY_ON_EMPTY"]

/** [VIRTIO] 2.2.1: what depends on another feature is not accepted without it. Ring features came with VERSION_1. */
const REQUIRES: Partial<Readonly<Record<FeatureName, FeatureName>>> = {
  RING_PACKED: "VERSION_1",
  ACCESS_PLATFORM: "VERSION_1",
  IN_ORDER: "VERSION_1",
  ZONED: "VERSION_1",
  NOTIFICATION_DATA: "VERSION_1",
  NOTIF_CONFIG_DATA: "VERSION_1",
  RING_RESET: "VERSION_1",
  SUSPEND: "VERSION_1",
}

/** Which of the features that a device offers the driver accepts. */
export interface FeatureChoice {
  /** Accept only these, where offered, and VERSION_1 ([VIRTIO] 6.1). Default: all that the driver knows. */
  readonly want?: readonly FeatureName[]
  /** Do not accept these. */
  readonly refuse?: readonly FeatureName[]
}

const FEATURE_CHOICE_RULES: Rules<FeatureChoice> = { want: "array?", refuse: "array?" }
const FEATURE_NAMES = Object.keys(FEATURE_BIT)

/** @throws TypeError when `choice` names what is not a feature */
export function checkFeatureChoice(who: string, choice: FeatureChoice): void {
  checkOptions(`${who}, features`, choice, FEATURE_CHOICE_RULES)
  checkNames(who, "features.want", choice.want ?? [], FEATURE_NAMES)
  checkNames(who, "features.refuse", choice.refuse ?? [], FEATURE_NAMES)
}

/** Feature bits, one bit for each name. */
export function featureMask(names: Iterable<FeatureName>): bigint {
  let mask = 0n
  for (const name of names) mask |= 1n << BigInt(FEATURE_BIT[name])
  return mask
}

/** Whether `features` contains the feature. */
export function includesFeature(features: bigint, name: FeatureName): boolean {
  return ((features >> BigInt(FEATURE_BIT[name])) & 1n) !== 0n
}

/** Names of the bits set, lowest first; "bit 31" where the specification has no name. */
export function featureNames(features: bigint): string[] {
  const names = new Map<number, string>(Object.entries(FEATURE_BIT).map(([name, bit]) => [bit, name]))
  const found: string[] = []
  for (let bit = 0; features >> BigInt(bit) !== 0n; bit++) {
    if (((features >> BigInt(bit)) & 1n) !== 0n) found.push(names.get(bit) ?? `bit ${bit}`)
  }
  return found
}

/** What to accept of `offered`: known for this interface, wanted, not refused, and complete with all it depends on. */
export function chooseFeatures(offered: bigint, kind: "modern" | "legacy", choice: FeatureChoice = {}): bigint {
  const known = KNOWN[kind]
  const wanted = choice.want ?? known.filter((name) => !NOT_BY_DEFAULT.includes(name))
  const isWanted = (name: FeatureName): boolean => (name === "VERSION_1" || wanted.includes(name)) && !(choice.refuse ?? []).includes(name)
  let accepted = featureMask(known.filter(isWanted)) & offered
  for (const name of known) {
    const needed = REQUIRES[name]
    if (needed !== undefined && !includesFeature(accepted, needed)) accepted &= ~featureMask([name])
  }
  return accepted
}
