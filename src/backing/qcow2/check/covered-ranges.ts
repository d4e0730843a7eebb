/**
 * Cuts overlapping ranges, for instance thousands of snapshot L1 tables of a hostile image, into segments that do not overlap, each with
 * the number of ranges that cover it. So a check reads every byte once.
 */

/** Bytes or clusters from `start` up to but not including `end`. */
export interface Range {
  readonly start: number
  readonly end: number
}

export interface CoveredRange extends Range {
  /** How many of the given ranges cover this one. At least 1. */
  readonly times: number
}

/** The parts that `ranges` cover, ascending, cut wherever the number of covering ranges changes. */
export function coveredRanges(ranges: readonly Range[]): CoveredRange[] {
  const edges = ranges
    .filter((range) => range.start < range.end)
    .flatMap((range) => [{ at: range.start, step: 1 }, { at: range.end, step: -1 }])
    .sort((a, b) => a.at - b.at)
  const covered: CoveredRange[] = []
  let times = 0
  let start = 0
  for (const edge of edges) {
    if (times > 0 && edge.at > start) covered.push({ start, end: edge.at, times })
    times += edge.step
    start = edge.at
  }
  return covered
}
