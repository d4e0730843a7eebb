/** What the driver accepts of what is offered. */
import { describe, expect, it } from "vitest"
import {
  chooseFeatures, FEATURE_BIT, type FeatureName, featureMask, featureNames, includesFeature,
} from "../../../../src/vmm/driver/virtio/features.ts"

const ALL = (1n << 128n) - 1n
const bits = (...numbers: number[]): bigint => numbers.reduce((mask, bit) => mask | (1n << BigInt(bit)), 0n)

describe("the driver's choice of features", () => {
  it("FT-24 the block device's bits have the numbers of the specification", () => {
    const names = [
      "SIZE_MAX", "SEG_MAX", "GEOMETRY", "RO", "BLK_SIZE", "FLUSH", "TOPOLOGY", "CONFIG_WCE", "MQ", "DISCARD", "WRITE_ZEROES", "LIFETIME",
      "SECURE_ERASE", "ZONED",
    ] as const
    expect(names.map((name) => FEATURE_BIT[name])).toEqual([1, 2, 4, 5, 6, 9, 10, 11, 12, 13, 14, 15, 16, 17])
  })

  it("FT-01 the bits of rings and negotiation have the numbers of the specification", () => {
    const names: FeatureName[] = [
      "NOTIFY_ON_EMPTY", "ANY_LAYOUT", "INDIRECT_DESC", "EVENT_IDX", "VERSION_1", "ACCESS_PLATFORM", "RING_PACKED", "IN_ORDER",
      "ORDER_PLATFORM",
    ]
    expect(names.map((name) => FEATURE_BIT[name])).toEqual([24, 27, 28, 29, 32, 33, 34, 35, 36])
    const others: FeatureName[] = [
      "SR_IOV", "NOTIFICATION_DATA", "NOTIF_CONFIG_DATA", "RING_RESET", "ADMIN_VQ", "SUSPEND", "BARRIER", "SCSI",
    ]
    expect(others.map((name) => FEATURE_BIT[name])).toEqual([37, 38, 39, 40, 41, 43, 0, 7])
  })

  it("only offered features that the driver knows for the interface are accepted", () => {
    expect(chooseFeatures(ALL, "modern")).toBe(
      bits(1, 2, 4, 5, 6, 9, 10, 11, 12, 13, 14, 15, 16, 17, 28, 29, 32, 33, 34, 35, 38, 39, 40, 43),
    )
    expect(chooseFeatures(ALL, "legacy")).toBe(bits(1, 2, 4, 5, 6, 9, 10, 11, 12, 13, 14, 15, 16, 27, 28, 29))
    expect(chooseFeatures(0n, "modern")).toBe(0n)
  })

  it("FT-08 NOTIFY_ON_EMPTY is accepted on request, and through the legacy interface only", () => {
    expect(includesFeature(chooseFeatures(ALL, "legacy", { want: ["NOTIFY_ON_EMPTY"] }), "NOTIFY_ON_EMPTY")).toBe(true)
    expect(includesFeature(chooseFeatures(ALL, "modern", { want: ["NOTIFY_ON_EMPTY"] }), "NOTIFY_ON_EMPTY")).toBe(false)
  })

  it("wanted features are accepted if offered, refused ones never, and VERSION_1 always", () => {
    expect(chooseFeatures(ALL, "modern", { want: ["FLUSH", "MQ"] })).toBe(bits(9, 12, 32))
    expect(chooseFeatures(bits(9, 32), "modern", { want: ["FLUSH", "MQ"] })).toBe(bits(9, 32))
    expect(chooseFeatures(bits(9, 12, 32), "modern", { refuse: ["FLUSH"] })).toBe(bits(12, 32))
    expect(chooseFeatures(ALL, "modern", { want: [] })).toBe(bits(32))
    expect(chooseFeatures(ALL, "modern", { want: [], refuse: ["VERSION_1"] })).toBe(0n)
  })

  it("FT-07 features that need VERSION_1 are not accepted without it", () => {
    expect(chooseFeatures(bits(9, 34, 38, 39, 40), "modern")).toBe(bits(9))
    expect(chooseFeatures(bits(9, 32, 34, 38, 39, 40), "modern", { refuse: ["VERSION_1"] })).toBe(bits(9))
  })

  it("names become masks and masks names, and unnamed bits are shown by number", () => {
    expect(featureMask(["RO", "VERSION_1"])).toBe(bits(5, 32))
    expect(featureNames(bits(3, 5, 31, 32, 99))).toEqual(["bit 3", "RO", "bit 31", "VERSION_1", "bit 99"])
    expect(featureNames(0n)).toEqual([])
  })
})
