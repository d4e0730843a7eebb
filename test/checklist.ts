/**
 * Which requirements of our checklists no test names. The checklists number what the virtio specification and the qcow2 document
 * demand; the title of a test begins with the numbers that it shows. `tsx test/checklist.ts [SECTION]`: all sections, or the titles
 * of one. Exits with 1 while something is uncovered that is not among the exceptions.
 */
import { readdirSync, readFileSync } from "node:fs"
import { resolve } from "node:path"
import { argv, exit, stdout } from "node:process"
import { pathToFileURL } from "node:url"

interface Section {
  readonly title: string
  /** Requirements are numbered from 01 to this. */
  readonly count: number
  /** Folders whose tests count. */
  readonly tests: readonly string[]
}

const DEVICE = ["virtio", "pci", "vmm"] as const
const IMAGE = ["backing", "contract", "crash", "fuzz", "interop"] as const

export const SECTIONS: Readonly<Record<string, Section>> = {
  ST: { title: "device status and reset", count: 15, tests: DEVICE },
  FT: { title: "feature negotiation", count: 29, tests: DEVICE },
  CF: { title: "device configuration space", count: 8, tests: DEVICE },
  VQ: { title: "split virtqueues", count: 33, tests: DEVICE },
  PCI: { title: "virtio over PCI", count: 37, tests: DEVICE },
  LEG: { title: "legacy interface", count: 18, tests: DEVICE },
  BC: { title: "block device: configuration and features", count: 12, tests: DEVICE },
  BLK: { title: "block device: requests", count: 38, tests: DEVICE },
  "QC-HDR": { title: "qcow2: header", count: 15, tests: IMAGE },
  "QC-FEAT": { title: "qcow2: feature bits", count: 10, tests: IMAGE },
  "QC-EXT": { title: "qcow2: header extensions", count: 10, tests: IMAGE },
  "QC-BF": { title: "qcow2: backing files", count: 9, tests: IMAGE },
  "QC-L1": { title: "qcow2: L1 table", count: 5, tests: IMAGE },
  "QC-L2": { title: "qcow2: L2 tables", count: 11, tests: IMAGE },
  "QC-CMP": { title: "qcow2: compressed clusters", count: 14, tests: IMAGE },
  "QC-REF": { title: "qcow2: reference counts", count: 11, tests: IMAGE },
  "QC-WO": { title: "qcow2: order of writes", count: 10, tests: IMAGE },
  "QC-DZ": { title: "qcow2: discard and zeroes", count: 10, tests: IMAGE },
  "QC-OVL": { title: "qcow2: overlap with metadata", count: 3, tests: IMAGE },
  "QC-CHK": { title: "qcow2: check and repair", count: 9, tests: IMAGE },
  "QC-LIM": { title: "qcow2: limits", count: 6, tests: IMAGE },
}

/** What is left out, and why. */
export const EXCEPTIONS: Readonly<Record<string, string>> = {}

export interface Coverage {
  /** Titles of tests by the requirement that they name. */
  readonly titles: ReadonlyMap<string, readonly string[]>
  /** Neither named nor excepted. */
  readonly uncovered: readonly string[]
  /** Excepted, but named all the same: the exception can go. Also what is no requirement at all. */
  readonly stale: readonly string[]
}

/** All requirements of a section, in order. */
export function requirements(section: string): string[] {
  return Array.from({ length: SECTIONS[section]?.count ?? 0 }, (_, index) => `${section}-${String(index + 1).padStart(2, "0")}`)
}

/** A string that begins with numbers of requirements: the title of a test, or a part of one in a table. */
const TITLE = /(\.(?:skip|todo)\s*\(\s*)?(["'`])((?:(?:QC-)?[A-Z0-9]+-\d\d[, ]+)+[^\n]*?)\2/g

/** The titles in the source of a test that begin with requirements, those of tests that are skipped excepted. */
export function titlesIn(source: string): string[] {
  const code = source.replace(/\/\*[\s\S]*?\*\//g, "").replace(/^\s*\/\/.*$/gm, "")
  return [...code.matchAll(TITLE)].flatMap(([, skipped, , title = ""]) => (skipped === undefined ? [title] : []))
}

/** The requirements that a title begins with. */
export function requirementsOf(title: string): string[] {
  const [numbers = ""] = /^(?:(?:QC-)?[A-Z0-9]+-\d\d[, ]+)+/.exec(title) ?? []
  return numbers.split(/[, ]+/).filter((id) => id !== "")
}

function testFiles(folder: string): string[] {
  const root = import.meta.dirname
  return readdirSync(resolve(root, folder), { recursive: true, encoding: "utf8" })
    .map((name) => `${folder}/${name.replaceAll("\\", "/")}`)
    .filter(isEvidence)
}

/** The tests of the driver run against a model of the device, with one exception, and show nothing of the real one. The suite in contract/ is run by a test. */
function isEvidence(file: string): boolean {
  if (file.startsWith("vmm/driver/")) return file === "vmm/driver/machine-disk.test.ts"
  return file.endsWith(".test.ts") || file === "contract/suite.ts"
}

/** What the tests of `section` show. */
export function coverage(section: string): Coverage {
  const titles = new Map<string, string[]>()
  for (const file of (SECTIONS[section]?.tests ?? []).flatMap(testFiles)) {
    for (const title of titlesIn(readFileSync(resolve(import.meta.dirname, file), "utf8"))) {
      for (const id of requirementsOf(title)) titles.set(id, [...(titles.get(id) ?? []), `${file}: ${title}`])
    }
  }
  const all = requirements(section)
  const uncovered = all.filter((id) => !titles.has(id) && EXCEPTIONS[id] === undefined)
  const isOurs = (id: string): boolean => id.slice(0, -3) === section
  const stale = [...Object.keys(EXCEPTIONS).filter((id) => titles.has(id)), ...titles.keys()].filter((id) => isOurs(id) && (!all.includes(id) || EXCEPTIONS[id] !== undefined))
  return { titles, uncovered, stale: [...new Set(stale)] }
}

/** One section with all titles. */
function printSection(section: string): void {
  const { titles } = coverage(section)
  for (const id of requirements(section)) {
    stdout.write(`${id}${EXCEPTIONS[id] === undefined ? "" : `  left out: ${EXCEPTIONS[id]}`}\n`)
    for (const title of titles.get(id) ?? []) stdout.write(`    ${title}\n`)
  }
}

/** A line for each of `sections`; returns whether all is well. */
function printSummary(sections: readonly string[]): boolean {
  let good = true
  for (const section of sections) {
    const { uncovered, stale } = coverage(section)
    const { title = "", count = 0 } = SECTIONS[section] ?? {}
    const excepted = requirements(section).filter((id) => EXCEPTIONS[id] !== undefined)
    stdout.write(`${section.padEnd(8)} ${String(count - uncovered.length - excepted.length).padStart(2)} of ${count}  ${title}\n`)
    for (const id of excepted) stdout.write(`    ${id} is left out: ${EXCEPTIONS[id]}\n`)
    if (uncovered.length > 0) stdout.write(`    no test names ${uncovered.join(", ")}\n`)
    if (stale.length > 0) stdout.write(`    no exception or no requirement any more: ${stale.join(", ")}\n`)
    good &&= uncovered.length === 0 && stale.length === 0
  }
  return good
}

function main(wanted: readonly string[]): number {
  const unknown = wanted.filter((section) => SECTIONS[section] === undefined)
  if (unknown.length > 0) {
    stdout.write(`checklist: no section ${unknown.join(", ")}; there are ${Object.keys(SECTIONS).join(", ")}\n`)
    return 2
  }
  for (const section of wanted) printSection(section)
  return printSummary(wanted.length > 0 ? wanted : Object.keys(SECTIONS)) ? 0 : 1
}

if (import.meta.url === pathToFileURL(argv[1] ?? "").href) exit(main(argv.slice(2)))
