/** The checklists: that the script finds what it should, and that a test names each requirement and each defect of the seed. */
import { readdirSync, readFileSync } from "node:fs"
import { resolve } from "node:path"
import { describe, expect, it } from "vitest"
import { coverage, NOT_BUILT, requirementsOf, SECTIONS, sectionsOf, seedDefectsIn, titlesIn } from "./checklist.ts"

const TESTS = resolve(import.meta.dirname, "..")

describe("the script", () => {
  it("finds titles that begin with requirements, in calls and in tables, but not in comments or skipped tests", () => {
    const source = [
      'it("ST-01 ST-02 starts at 0", () => {})',
      "it.each([1])(`QC-L2-11 ${name}: fails`, () => {})",
      '["FT-13 ACCESS_PLATFORM", 33],',
      'it("seed defects 10 and 12: QC-CMP-06 a stream that does not inflate", () => {})',
      '// it("CF-01 not here", () => {})',
      '/* it("CF-02 nor here") */',
      'it.skip("CF-03 nor this one", () => {})',
      'it("a title that mentions CF-04", () => {})',
      'const id = "CF-05"',
    ].join("\n")
    expect(titlesIn(source).flatMap(requirementsOf)).toEqual(["ST-01", "ST-02", "QC-L2-11", "FT-13", "QC-CMP-06"])
    expect(seedDefectsIn(source)).toEqual([10, 12])
  })

  it("reads sections and their requirements from a page", () => {
    const page = [
      "# A page that mentions AA-01", "## AA, BB: two sections", "| | requirement | test |", "|---|---|---|", "| AA-01 | a | b |",
      "| AA-02 | a | b |", "| BB-01 | see AA-02 | b |",
    ].join("\n")
    expect([...sectionsOf(page, ["x"])]).toEqual([
      ["AA", { title: "two sections", requirements: ["AA-01", "AA-02"], tests: ["x"] }],
      ["BB", { title: "two sections", requirements: ["BB-01"], tests: ["x"] }],
    ])
  })
})

describe("the pages", () => {
  it("number their requirements without a gap", () => {
    expect([...SECTIONS.values()].flatMap(({ requirements }) => requirements).length).toBeGreaterThan(400)
    for (const [name, { requirements }] of SECTIONS) {
      expect(requirements).toEqual(requirements.map((_, index) => `${name}-${String(index + 1).padStart(2, "0")}`))
    }
  })

  it("each section in NOT_BUILT exists", () => {
    expect(Object.keys(NOT_BUILT).filter((name) => !SECTIONS.has(name))).toEqual([])
  })
})

it.each([...SECTIONS.keys()])("a test names every requirement of section %s, or an exception gives the reason", (section) => {
  const { uncovered, stale, titles } = coverage(section)
  expect({ uncovered, stale }).toEqual({ uncovered: [], stale: [] })
  if (NOT_BUILT[section] === undefined) expect(titles.size).toBeGreaterThan(0)
})

it("no title names a requirement of a section that does not exist", () => {
  const named = allTests().flatMap(({ file, source }) => titlesIn(source).flatMap(requirementsOf).map((id) => ({ file, id })))
  expect(named.filter(({ id }) => !SECTIONS.has(id.slice(0, -3)))).toEqual([])
})

it("every defect of the seed has a test", () => {
  const page = readFileSync(resolve(import.meta.dirname, "seed-defects.md"), "utf8")
  const defects = [...page.matchAll(/^\| (\d+) \| [CHML] \|/gm)].map(([, number]) => Number(number))
  expect(defects).toEqual(defects.map((_, index) => index + 1))
  const named = new Set(allTests().flatMap(({ source }) => seedDefectsIn(source)))
  expect([...named].sort((a, b) => a - b)).toEqual(defects)
})

/** Every file of tests but this one, which makes titles up. */
function allTests(): { readonly file: string; readonly source: string }[] {
  return readdirSync(TESTS, { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".ts") && !file.endsWith("checklist.test.ts"))
    .map((file) => ({ file, source: readFileSync(resolve(TESTS, file), "utf8") }))
}

it("the revisions of the specifications are named in one place", () => {
  const root = resolve(TESTS, "..")
  const named = ["src", "test"].flatMap((folder) =>
    readdirSync(resolve(root, folder), { recursive: true, encoding: "utf8" })
      .filter((file) => file.endsWith(".ts") && !file.endsWith("checklist.test.ts"))
      .filter(
        (file) => /\[(?:VIRTIO|QCOW2|PCI|PCIe)\] (?:= \S|v?\d+\.\d+,? (?:chapter|csd?\d))|\bcsd?0\d\b/.test(
          readFileSync(resolve(root, folder, file), "utf8"),
        ),
      ),
  )
  expect(named).toEqual([])
})
