/**
 * Which requirements no test names. virtio.md and qcow2.md number what the specifications demand; the title of a test begins with the
 * numbers that it shows. `tsx test/spec/checklist.ts [SECTION]` prints all sections, or the titles of one. It exits with 1 while
 * something is uncovered that is not among the exceptions.
 */
import { readdirSync, readFileSync } from "node:fs"
import { resolve } from "node:path"
import { argv, exit, stdout } from "node:process"
import { pathToFileURL } from "node:url"

const TESTS = resolve(import.meta.dirname, "..")

export interface Section {
  readonly title: string
  /** The numbers of its requirements, in order: "ST-01" and so on. */
  readonly requirements: readonly string[]
  /** Folders whose tests count. */
  readonly tests: readonly string[]
}

const PAGES: Readonly<Record<string, readonly string[]>> = {
  "virtio.md": ["virtio", "pci", "vmm"],
  "qcow2.md": ["backing", "contract", "crash", "fuzz", "interop"],
}

/** Sections of features that we do not have. Whoever builds one takes it off the list. */
export const NOT_BUILT: Readonly<Record<string, string>> = {
}

/** Single requirements that no test names, and why. */
export const EXCEPTIONS: Readonly<Record<string, string>> = {
}

/** The sections of a page, by the letters that its requirements begin with. */
export function sectionsOf(page: string, tests: readonly string[]): Map<string, Section> {
  const sections = new Map<string, { title: string; requirements: string[]; tests: readonly string[] }>()
  let title = ""
  for (const line of page.split("\n")) {
    const [, heading] = /^## [^:]*: (.*)$/.exec(line) ?? []
    title = heading ?? title
    const [, id = "", name = ""] = /^\| (((?:QC-)?[A-Z0-9]+)-\d\d) \|/.exec(line) ?? []
    if (id === "") continue
    const section = sections.get(name) ?? { title, requirements: [], tests }
    section.requirements.push(id)
    sections.set(name, section)
  }
  return sections
}

export const SECTIONS: ReadonlyMap<string, Section> = new Map(
  Object.entries(PAGES).flatMap(([page, tests]) => [...sectionsOf(readFileSync(resolve(import.meta.dirname, page), "utf8"), tests)]),
)

export interface Coverage {
  /** Titles of tests by the requirement that they name. */
  readonly titles: ReadonlyMap<string, readonly string[]>
  /** Neither named nor excepted. Empty for a section that is not built. */
  readonly uncovered: readonly string[]
  /** Exceptions that a test names all the same, and numbers that no page has. */
  readonly stale: readonly string[]
}

/** What may stand before the numbers of the requirements. */
const SEED = /seed defects? \d+(?: and \d+)*: /
const NUMBERS = /(?:(?:QC-)?[A-Z0-9]+-\d\d[, ]+)+/
/** A string that begins with numbers of requirements: the title of a test, or a part of one in a table. */
const TITLE = new RegExp(`(\\.(?:skip|todo)\\s*\\(\\s*)?(["'\`])((?:${SEED.source})?${NUMBERS.source}[^\\n]*?)\\2`, "g")

/** The titles in the source of a test that begin with requirements, those of tests that are skipped excepted. */
export function titlesIn(source: string): string[] {
  return [...withoutComments(source).matchAll(TITLE)].flatMap(([, skipped, , title = ""]) => (skipped === undefined ? [title] : []))
}

/** The requirements that a title begins with. */
export function requirementsOf(title: string): string[] {
  const [numbers = ""] = new RegExp(`^${NUMBERS.source}`).exec(title.replace(new RegExp(`^${SEED.source}`), "")) ?? []
  return numbers.split(/[, ]+/).filter((id) => id !== "")
}

/** The numbers of the seed's defects that the titles in the source of a test name. */
export function seedDefectsIn(source: string): number[] {
  const code = withoutComments(source)
  return [...code.matchAll(/seed defects? (\d+(?: and \d+)*)/g)].flatMap(([, numbers = ""]) => numbers.split(" and ").map(Number))
}

function withoutComments(source: string): string {
  return source.replace(/\/\*[\s\S]*?\*\//g, "").replace(/^\s*\/\/.*$/gm, "")
}

/** The tests below `folder`, relative to test/. */
export function testFiles(folder: string): string[] {
  return readdirSync(resolve(TESTS, folder), { recursive: true, encoding: "utf8" })
    .map((name) => `${folder}/${name.replaceAll("\\", "/")}`)
    .filter(isEvidence)
}

/**
 * The tests of the driver run against a model of the device, with one exception, and show nothing of the real one. A test runs the
 * suite in contract/.
 */
function isEvidence(file: string): boolean {
  if (file.startsWith("vmm/driver/")) return file === "vmm/driver/block/machine-disk.test.ts"
  return file.endsWith(".test.ts") || file === "contract/suite.ts"
}

/** What the tests of `section` show. */
export function coverage(section: string): Coverage {
  const { requirements = [], tests = [] } = SECTIONS.get(section) ?? {}
  const titles = new Map<string, string[]>()
  for (const file of tests.flatMap(testFiles)) {
    for (const title of titlesIn(readFileSync(resolve(TESTS, file), "utf8"))) {
      for (const id of requirementsOf(title).filter((id) => id.slice(0, -3) === section)) {
        titles.set(id, [...(titles.get(id) ?? []), `${file}: ${title}`])
      }
    }
  }
  const isBuilt = NOT_BUILT[section] === undefined
  const uncovered = requirements.filter((id) => isBuilt && !titles.has(id) && EXCEPTIONS[id] === undefined)
  const stale = [...titles.keys()].filter((id) => !requirements.includes(id) || EXCEPTIONS[id] !== undefined)
  return { titles, uncovered, stale }
}

/** One section with all titles. */
function printSection(section: string): void {
  const { titles } = coverage(section)
  for (const id of SECTIONS.get(section)?.requirements ?? []) {
    stdout.write(`${id}${EXCEPTIONS[id] === undefined ? "" : `  left out: ${EXCEPTIONS[id]}`}\n`)
    for (const title of titles.get(id) ?? []) stdout.write(`    ${title}\n`)
  }
}

/** A line for each of `sections`; returns whether all is well. */
function printSummary(sections: readonly string[]): boolean {
  let good = true
  for (const section of sections) {
    const { uncovered, stale, titles } = coverage(section)
    const { title = "", requirements = [] } = SECTIONS.get(section) ?? {}
    const named = requirements.filter((id) => titles.has(id)).length
    const reason = NOT_BUILT[section] === undefined ? "" : ` (${NOT_BUILT[section]})`
    stdout.write(`${section.padEnd(8)} ${String(named).padStart(2)} of ${requirements.length}  ${title}${reason}\n`)
    for (const id of requirements.filter((id) => EXCEPTIONS[id] !== undefined)) stdout.write(`    ${id} is left out: ${EXCEPTIONS[id]}\n`)
    if (uncovered.length > 0) stdout.write(`    no test names ${uncovered.join(", ")}\n`)
    if (stale.length > 0) stdout.write(`    excepted and named all the same, or not a requirement: ${stale.join(", ")}\n`)
    good &&= uncovered.length === 0 && stale.length === 0
  }
  return good
}

function main(wanted: readonly string[]): number {
  const all = [...SECTIONS.keys()]
  const unknown = wanted.filter((section) => !all.includes(section))
  if (unknown.length > 0) {
    stdout.write(`checklist: no section ${unknown.join(", ")}; there are ${all.join(", ")}\n`)
    return 2
  }
  for (const section of wanted) printSection(section)
  return printSummary(wanted.length > 0 ? wanted : all) ? 0 : 1
}

if (import.meta.url === pathToFileURL(argv[1] ?? "").href) exit(main(argv.slice(2)))
