/** Latency histograms, against a sorted list of the same latencies. */
import { describe, expect, it } from "vitest"
import { LatencyHistogram } from "../../../../src/index.ts"
import { Rng, seedFromEnvironment } from "../../../support/rng.ts"

const SEED = seedFromEnvironment(20261126)

/** Latencies in milliseconds over nine orders of magnitude. */
function latencies(count: number, rng: Rng): number[] {
  return Array.from({ length: count }, () => 2 ** (rng.below(2600) / 100 - 10) + rng.below(1000) / 1e6)
}

function histogramOf(values: readonly number[]): LatencyHistogram {
  const histogram = new LatencyHistogram()
  for (const value of values) histogram.record(value)
  return histogram
}

describe("a latency histogram", () => {
  it(`has count, sum and maximum, and every quantile within a sixteenth (seed ${SEED})`, () => {
    const values = latencies(5000, new Rng(SEED))
    const histogram = histogramOf(values)
    const sorted = values.toSorted((a, b) => a - b)
    expect([histogram.count, histogram.max]).toEqual([5000, sorted.at(-1)])
    expect(histogram.sum).toBeCloseTo(values.reduce((sum, value) => sum + value, 0), 3)
    for (const share of [0.001, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 1]) {
      const exact = sorted[Math.ceil(share * sorted.length) - 1] ?? 0
      const found = histogram.quantile(share)
      // An eighth of a microsecond is what it counts in.
      expect(found, `${share}`).toBeGreaterThanOrEqual(exact - 0.000_125)
      expect(found, `${share}`).toBeLessThanOrEqual(exact * (1 + 1 / 16) + 0.000_125)
    }
  })

  it(`merged from parts equals one of all values (seed ${SEED})`, () => {
    const values = latencies(900, new Rng(SEED))
    const whole = histogramOf(values)
    const merged = new LatencyHistogram()
    for (const from of [0, 300, 600]) merged.merge(histogramOf(values.slice(from, from + 300)))
    const { sum, ...exact } = merged.toJSON()
    expect(exact).toEqual({ max: whole.max, buckets: whole.toJSON().buckets })
    expect(sum).toBeCloseTo(whole.sum, 6)
    expect(merged.count).toBe(900)
  })

  it("counts a power of two of microseconds in the bucket above it, and less in the one below", () => {
    const histogram = histogramOf([0.001, 0.000_999, 0.002, 0.001_999, 1.024, 1.023])
    const counts = new Map(histogram.cumulative().map(({ ms, count }) => [ms, count]))
    expect([counts.get(0.001), counts.get(0.002), counts.get(0.004), counts.get(1.024), counts.get(2.048)]).toEqual([1, 3, 4, 5, 6])
    expect(histogram.cumulative().at(-1)).toEqual({ ms: 2 ** 27 / 1000, count: 6 })
  })

  it("survives a trip through JSON", () => {
    const histogram = histogramOf([0.01, 0.01, 3, 70_000, 1e9])
    const back = LatencyHistogram.from(JSON.parse(JSON.stringify(histogram)))
    expect(back.toJSON()).toEqual(histogram.toJSON())
    expect([back.count, back.quantile(0.5), back.quantile(1)]).toEqual([5, histogram.quantile(0.5), histogram.quantile(1)])
  })

  it.each([
    [{ sum: 1, max: 1, buckets: [[-1, 1]] }], [{ sum: 1, max: 1, buckets: [[1e6, 1]] }], [{ sum: 1, max: 1, buckets: [[0.5, 1]] }],
    [{ sum: 1, max: 1, buckets: [[3, -1]] }], [{ sum: -1, max: 1, buckets: [] }], [{ sum: 1, max: Number.NaN, buckets: [] }],
  ] as const)("refuses %j", (saved) => expect(() => LatencyHistogram.from(saved)).toThrow(RangeError))

  it("has no quantiles while it is empty, and counts a negative time as 0", () => {
    const histogram = new LatencyHistogram()
    expect([histogram.quantile(0.5), histogram.max, histogram.count]).toEqual([0, 0, 0])
    histogram.record(-5)
    histogram.record(Number.NaN)
    expect([histogram.count, histogram.sum, histogram.max, histogram.toJSON().buckets]).toEqual([2, 0, 0, [[0, 2]]])
  })
})
