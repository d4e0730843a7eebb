/** The checklist script: that it finds what it should, and that every requirement on the device has a test that names it. */
import { describe, expect, it } from "vitest"
import { coverage, requirements, requirementsOf, SECTIONS, titlesIn } from "./checklist.ts"

describe("the script", () => {
  it("finds titles that begin with requirements, in calls and in tables, but not in comments or skipped tests", () => {
    const source = [
      'it("ST-01 ST-02 starts at 0", () => {})', "it.each([1])(`QC-L2-11 \${name}: fails`, () => {})", '["FT-13 ACCESS_PLATFORM", 33],', '// it("CF-01 not here", () => {})', '/* it("CF-02 nor here") */',
      'it.skip("CF-03 nor this one", () => {})', 'it("a title that mentions CF-04", () => {})', 'const id = "CF-05"',
    ].join("\n")
    expect(titlesIn(source).flatMap(requirementsOf)).toEqual(["ST-01", "ST-02", "QC-L2-11", "FT-13"])
  })

  it("numbers the requirements of a section", () => {
    expect(requirements("CF")).toEqual(["CF-01", "CF-02", "CF-03", "CF-04", "CF-05", "CF-06", "CF-07", "CF-08"])
    expect(requirements("QC-LIM").at(-1)).toBe("QC-LIM-06")
    expect(requirements("nothing")).toEqual([])
  })
})

it.each(Object.keys(SECTIONS).filter((section) => !section.startsWith("QC-")))("every requirement of section %s is named by a test, or left out with a reason", (section) => {
  const { uncovered, stale, titles } = coverage(section)
  expect({ uncovered, stale }).toEqual({ uncovered: [], stale: [] })
  expect(titles.size).toBeGreaterThan(0)
})
